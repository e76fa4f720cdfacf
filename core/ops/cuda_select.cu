/* cuda_select.cu - the scores that positions are selected by: pooled over heads, and over the
 * window of past queries. The choice itself is in cuda_topk.cu. */
#include "core/ops/cuda_util.cuh"

#include <math_constants.h>

enum {
    SPLITS = 32, /* partial sums of a head: one for every lane that adds them up */
    POOL_THREADS = 256,
    POOL_HEADS = 256 /* at most */
};

static bool is_wide(const void *p, size_t span)
{
    return span % 4 == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

/* The 4 values from P of which VALID are there, the others FILL. WIDE: P is 16-byte aligned. */
template <bool WIDE>
static __device__ __forceinline__ float4 load4(const float *p, int valid, float fill)
{
    if (WIDE && valid >= 4) return __ldcg(reinterpret_cast<const float4 *>(p));
    return make_float4(valid > 0 ? __ldcg(p) : fill, valid > 1 ? __ldcg(p + 1) : fill,
                       valid > 2 ? __ldcg(p + 2) : fill, valid > 3 ? __ldcg(p + 3) : fill);
}

template <bool WIDE> static __device__ __forceinline__ void store4(float *p, float4 x, int valid)
{
    if (WIDE && valid >= 4) {
        *reinterpret_cast<float4 *>(p) = x;
        return;
    }
    p[0] = x.x;
    if (valid > 1) p[1] = x.y;
    if (valid > 2) p[2] = x.z;
    if (valid > 3) p[3] = x.w;
}

/* As the plain definition: a NaN in the first row stays, one in a later row is passed over. */
static __device__ __forceinline__ void keep_larger(float4 *best, float4 x)
{
    if (x.x > best->x) best->x = x.x;
    if (x.y > best->y) best->y = x.y;
    if (x.z > best->z) best->z = x.z;
    if (x.w > best->w) best->w = x.w;
}

/* As exp(), but with the largest of all taken off: 0 where that is -inf, so that x - it is no NaN.
 */
static __device__ __forceinline__ float shift_by(float top)
{
    return top == -CUDART_INF_F ? 0 : top;
}

/* Grid [SPLITS, H]: partial [H, SPLITS] = (largest, sum of exp(logit - largest)) of the head's
 * share of its first n logits. */
template <bool WIDE>
static __global__ void __launch_bounds__(POOL_THREADS)
    partial_sums_kernel(float2 *partial, const float *logits, size_t span, const int *pos,
                        int candidates)
{
    __shared__ float2 of_warp[POOL_THREADS / 32];

    pdl_trigger();
    pdl_wait();
    const int n = candidates >= 0 ? candidates : __ldcg(pos);
    const int each = ((n + SPLITS - 1) / SPLITS + 3) & ~3;
    const int start = min((int)blockIdx.x * each, n), end = min(start + each, n);
    const float *l = logits + blockIdx.y * span;
    float top = -CUDART_INF_F, sum = 0;
    for (int t = start + 4 * (int)threadIdx.x; t < end; t += 16 * POOL_THREADS) {
        float4 x[4]; /* all loads before the first use */
        float larger = top;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = t + i * 4 * POOL_THREADS;
            x[i] = load4<WIDE>(l + at, end - at, -CUDART_INF_F);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            larger = fmaxf(larger, fmaxf(fmaxf(x[i].x, x[i].y), fmaxf(x[i].z, x[i].w)));
        const float off = shift_by(larger);
        sum *= expf(top - off);
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum += (expf(x[i].x - off) + expf(x[i].y - off)) +
                   (expf(x[i].z - off) + expf(x[i].w - off));
        top = larger;
    }
    float larger = warp_max(top);
    sum = warp_sum(sum * expf(top - shift_by(larger)));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = make_float2(larger, sum);
    __syncthreads();
    if (threadIdx.x >= 32) return;
    const float2 w =
        threadIdx.x < POOL_THREADS / 32 ? of_warp[threadIdx.x] : make_float2(-CUDART_INF_F, 0);
    larger = warp_max(w.x);
    sum = warp_sum(w.y * expf(w.x - shift_by(larger)));
    if (threadIdx.x == 0) partial[blockIdx.y * SPLITS + blockIdx.x] = make_float2(larger, sum);
}

/* Grid [.., sets]: the largest weight that a head of the set gives each of the first n entries. */
template <bool WIDE>
static __global__ void __launch_bounds__(POOL_THREADS)
    pool_weights_kernel(float *score, const float *logits, size_t span, const int *pos,
                        int candidates, int R, const float2 *partial)
{
    __shared__ float lse[POOL_HEADS];
    const int lane = threadIdx.x & 31;

    pdl_trigger();
    pdl_wait();
    const int n = candidates >= 0 ? candidates : __ldcg(pos);
    const int end = pos ? min(__ldcg(pos) + 1, (int)span) : (int)span;
    const int t = 4 * (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (4 * (int)(blockIdx.x * blockDim.x) >= end) return;
    for (int h = threadIdx.x / 32; h < R; h += POOL_THREADS / 32) {
        const float2 p = __ldcg(&partial[(blockIdx.y * R + h) * SPLITS + lane]);
        const float off = shift_by(warp_max(p.x));
        const float sum = warp_sum(p.y * expf(p.x - off));
        if (lane == 0) lse[h] = off + logf(sum);
    }
    __syncthreads();
    if (t >= end) return;
    const float *l = logits + (size_t)blockIdx.y * R * span + t;
    float *out = score + blockIdx.y * span + t;
    float4 best = make_float4(0, 0, 0, 0);
    for (int h = 0; h < R && t < n; h += 8) {
        float4 x[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (h + j < R) x[j] = load4<WIDE>(l + (h + j) * span, n - t, 0);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (h + j < R) {
                const float off = lse[h + j];
                x[j] = make_float4(x[j].x - off, x[j].y - off, x[j].z - off, x[j].w - off);
                if (h + j == 0) best = x[j];
                keep_larger(&best, x[j]); /* exp() keeps their order */
            }
    }
    best.x = t < n ? expf(best.x) : 0;
    best.y = t + 1 < n ? expf(best.y) : 0;
    best.z = t + 2 < n ? expf(best.z) : 0;
    best.w = t + 3 < n ? expf(best.w) : 0;
    store4<WIDE>(out, best, end - t);
}

size_t cuda_pool_weights_work(int H)
{
    return (size_t)H * SPLITS * sizeof(float2);
}

int cuda_pool_weights(float *score, const float *logits, size_t span, const int *pos,
                      int candidates, int H, int sets, void *work, cudaStream_t stream)
{
    float2 *partial = static_cast<float2 *>(work);
    const bool wide = is_wide(logits, span) && is_wide(score, span);
    const unsigned blocks = (unsigned)((span + 4 * POOL_THREADS - 1) / (4 * POOL_THREADS));
    if (H < 1 || sets < 1 || H % sets || H / sets > POOL_HEADS || H > 65535)
        return fail("pooled weights: %d heads in %d sets", H, sets);
    if (candidates < 0 ? pos == NULL : (size_t)candidates > span || candidates == 0)
        return fail("pooled weights: %d candidates, span %zu", candidates, span);
    if (launch(wide ? partial_sums_kernel<true> : partial_sums_kernel<false>,
               dim3(SPLITS, (unsigned)H), dim3(POOL_THREADS), 0, stream, partial, logits, span, pos,
               candidates))
        return -1;
    return launch(wide ? pool_weights_kernel<true> : pool_weights_kernel<false>,
                  dim3(blocks, (unsigned)sets), dim3(POOL_THREADS), 0, stream, score, logits, span,
                  pos, candidates, H / sets, partial);
}

/* ---- the window of past queries */

/* Grid [.., sets]. */
static __global__ void __launch_bounds__(POOL_THREADS)
    remember_kernel(float *past, const float *score, size_t span, const int *pos, int candidates,
                    int window, size_t reach)
{
    pdl_trigger();
    pdl_wait();
    const int at = __ldcg(pos);
    const size_t t = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= reach) return;
    const size_t n = (size_t)(candidates >= 0 ? candidates : at);
    const size_t slot = (size_t)(at % window) * gridDim.y + blockIdx.y;
    past[slot * reach + t] = t < n ? __ldcg(&score[blockIdx.y * span + t]) : 0;
}

int cuda_remember(float *past, const float *score, size_t span, const int *pos, int candidates,
                  int window, int sets, size_t reach, cudaStream_t stream)
{
    if (window < 1 || sets < 1 || sets > 65535 || reach < 1 ||
        (candidates >= 0 && ((size_t)candidates > span || (size_t)candidates > reach)))
        return fail("window: %d queries, %d sets, %d candidates, reach %zu, span %zu", window, sets,
                    candidates, reach, span);
    return launch(remember_kernel,
                  dim3((unsigned)((reach + POOL_THREADS - 1) / POOL_THREADS), (unsigned)sets),
                  dim3(POOL_THREADS), 0, stream, past, score, span, pos, candidates, window, reach);
}

/* Grid [.., sets]. No fused multiply-add: the same bits as on a CPU. Entries behind the query were
 * never seen, so they are 0 and need no reading. */
static __global__ void __launch_bounds__(POOL_THREADS)
    look_back_kernel(float *score, size_t span, const float *past, const int *pos, int window,
                     size_t reach, bool halve)
{
    pdl_trigger();
    pdl_wait();
    const int at = __ldcg(pos), oldest = max(at - window + 1, 0);
    const size_t t = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= reach) return;
    float sum = 0;
    for (int p = oldest; p <= at && t <= (size_t)at; p += 8) {
        float x[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const size_t slot = (size_t)((p + j) % window) * gridDim.y + blockIdx.y;
            x[j] = p + j <= at ? __ldcg(&past[slot * reach + t]) : 0;
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (p + j <= at)
                sum = __fadd_rn(sum, halve ? __fmul_rn(ldexpf(1, p + j - at), x[j]) : x[j]);
    }
    score[blockIdx.y * span + t] = sum;
}

int cuda_look_back(float *score, size_t span, const float *past, const int *pos, int window,
                   int sets, size_t reach, bool halve, cudaStream_t stream)
{
    if (window < 1 || sets < 1 || sets > 65535 || reach < 1 || reach > span)
        return fail("window: %d queries, %d sets, reach %zu, span %zu", window, sets, reach, span);
    return launch(look_back_kernel,
                  dim3((unsigned)((reach + POOL_THREADS - 1) / POOL_THREADS), (unsigned)sets),
                  dim3(POOL_THREADS), 0, stream, score, span, past, pos, window, reach, halve);
}
