/* cuda_pages.cu - Quest: the extremes of each channel of a page's keys, and the largest product
 * that a key between them could have with a query.
 *
 * A page is taken by D / 8 lanes, 8 channels or 16 bytes each. With q+ = max(q, 0) and q- = min(q,
 * 0) a channel's max(q low, q high) is q+ high + q- low, whose other term is 0 exactly: two fused
 * products a channel, all query heads of the group on one read of the bounds.
 *
 * Source: Tang et al. 2024 (Quest, arXiv 2406.10774), algorithm 1.
 */
#include "core/ops/cuda_util.cuh"

#include <math_constants.h>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    TURNS = 4 /* pages that a lane has a part of */
};

template <class T> static __device__ __forceinline__ void unpack_8(float *x, uint4 from)
{
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack<T>(words[i]);
        x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
}

/* Grid [.., G], a warp a page: its rows are dealt to the lanes' groups in turn. */
template <class T, int D>
static __global__ void __launch_bounds__(THREADS)
    bounds_kernel(T *bounds, const T *k, int room, int count, int size)
{
    constexpr int LANES = D / 8;
    const int lane = threadIdx.x % 32, part = lane / LANES, g = blockIdx.y;
    const int page = (int)blockIdx.x * WARPS + (int)threadIdx.x / 32;
    float low[8], high[8];

    pdl_trigger();
    pdl_wait();
    if (page >= count) return;
    const T *rows = k + ((size_t)g * room + (size_t)page * size) * D + lane % LANES * 8;
#pragma unroll
    for (int i = 0; i < 8; i++) low[i] = CUDART_INF_F, high[i] = -CUDART_INF_F;
    for (int r = part; r < size; r += 32 / LANES) {
        float x[8];
        unpack_8<T>(x, *reinterpret_cast<const uint4 *>(rows + (size_t)r * D));
#pragma unroll
        for (int i = 0; i < 8; i++) low[i] = fminf(low[i], x[i]), high[i] = fmaxf(high[i], x[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        for (int d = LANES; d < 32; d <<= 1) {
            low[i] = fminf(low[i], __shfl_xor_sync(0xffffffffu, low[i], d));
            high[i] = fmaxf(high[i], __shfl_xor_sync(0xffffffffu, high[i], d));
        }
    if (part > 1) return;
    const float *x = part ? high : low;
    uint4 out = make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]),
                           pack<T>(x[6], x[7]));
    T *to = bounds + (((size_t)g * count + page) * 2 + part) * D + lane % LANES * 8;
    *reinterpret_cast<uint4 *>(to) = out;
}

/* Grid [.., G]: score [G, span] of pages, a warp TURNS times 32 / LANES of them. */
template <class T, int D>
static __global__ void __launch_bounds__(THREADS)
    score_kernel(float *score, size_t span, const T *bounds, const float *q, int count, int R)
{
    constexpr int LANES = D / 8, PER = 32 / LANES, HALF = LANES / 2, QUARTER = LANES / 4;
    extern __shared__ __align__(16) float signs[]; /* [R, 2, D]: q-, q+ */
    const int lane = threadIdx.x % 32, part = lane / LANES, own = lane % LANES, g = blockIdx.y;
    const int first = ((int)blockIdx.x * WARPS + (int)threadIdx.x / 32) * (PER * TURNS);

    pdl_trigger();
    /* no kernel of a step writes bounds */
    uint4 raw[TURNS][2];
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        const int page = min(first + u * PER + part, count - 1);
        const T *from = bounds + ((size_t)g * count + page) * (2 * D) + own * 8;
        raw[u][0] = __ldg(reinterpret_cast<const uint4 *>(from));
        raw[u][1] = __ldg(reinterpret_cast<const uint4 *>(from + D));
    }
    pdl_wait();
    for (int i = threadIdx.x; i < R * D; i += THREADS) {
        const float x = __ldcg(&q[(size_t)g * R * D + i]);
        signs[i / D * (2 * D) + i % D] = fminf(x, 0);
        signs[i / D * (2 * D) + D + i % D] = fmaxf(x, 0);
    }
    __syncthreads();

    float x[TURNS][16];
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        unpack_8<T>(x[u], raw[u][0]);
        unpack_8<T>(x[u] + 8, raw[u][1]);
    }
    float best = 0;
#pragma unroll 1
    for (int h = 0; h < R; h++) {
        const float4 *s = reinterpret_cast<const float4 *>(signs + h * 2 * D + own * 8);
        const float4 a = s[0], b = s[1], c = s[D / 4], d = s[D / 4 + 1];
        const float w[16] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w,
                             c.x, c.y, c.z, c.w, d.x, d.y, d.z, d.w};
        float sum[TURNS];
#pragma unroll
        for (int u = 0; u < TURNS; u++) {
            sum[u] = 0;
#pragma unroll
            for (int i = 0; i < 16; i++) sum[u] = fmaf(w[i], x[u][i], sum[u]);
        }
        /* over the lanes of a page; half of them go on with half of the pages, twice */
        const bool upper = own & HALF, odd = own & QUARTER;
        float y =
            (upper ? sum[2] : sum[0]) + __shfl_xor_sync(0xffffffffu, upper ? sum[0] : sum[2], HALF);
        float z =
            (upper ? sum[3] : sum[1]) + __shfl_xor_sync(0xffffffffu, upper ? sum[1] : sum[3], HALF);
        y = (odd ? z : y) + __shfl_xor_sync(0xffffffffu, odd ? y : z, QUARTER);
#pragma unroll
        for (int step = QUARTER / 2; step > 0; step >>= 1)
            y += __shfl_xor_sync(0xffffffffu, y, step);
        if (h == 0 || y > best) best = y;
    }
    const int u = own / QUARTER, page = first + u * PER + part;
    if (own % QUARTER == 0 && page < count) score[g * span + page] = best;
}

/* Grid [.., G]: the positions of the chosen pages. */
static __global__ void __launch_bounds__(THREADS)
    expand_kernel(int *idx, int stride, const int *pages, int best, int size)
{
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    pdl_trigger();
    pdl_wait();
    if (i >= best * size) return;
    idx[(size_t)blockIdx.y * stride + i] =
        __ldcg(&pages[(size_t)blockIdx.y * best + i / size]) * size + i % size;
}

/* ---- launchers */

static int check(const struct cuda_pages *a)
{
    if (a->type != DTYPE_BF16 && a->type != DTYPE_F16)
        return fail("pages: expected bf16 or f16, got %s", dtype_name(a->type));
    if (a->D != 64 && a->D != 128)
        return fail("pages: expected a head width of 64 or 128, got %d", a->D);
    if (a->G < 1 || a->G > 65535 || a->H < 1 || a->H % a->G)
        return fail("pages: %d query heads on %d kv heads", a->H, a->G);
    if (a->size < 1 || a->count < 1 || a->best < 1 || a->best > a->count)
        return fail("pages: the best %d of %d pages of %d tokens", a->best, a->count, a->size);
    return 0;
}

template <class T, int D>
static int bounds(const struct cuda_pages *a, const void *k, int room, cudaStream_t stream)
{
    return launch(bounds_kernel<T, D>, dim3((unsigned)((a->count - 1) / WARPS + 1), a->G),
                  dim3(THREADS), 0, stream, (T *)a->bounds, (const T *)k, room, a->count, a->size);
}

int cuda_pages_bounds(const struct cuda_pages *a, const void *k, int room, cudaStream_t stream)
{
    if (check(a)) return -1;
    if ((size_t)a->count * a->size > (size_t)room)
        return fail("pages: %d of %d tokens in room for %d", a->count, a->size, room);
    if (a->D == 64) WITH_TYPE(a->type, return (bounds<T, 64>(a, k, room, stream)));
    WITH_TYPE(a->type, return (bounds<T, 128>(a, k, room, stream)));
}

template <class T, int D>
static int score(const struct cuda_pages *a, const float *q, cudaStream_t stream)
{
    constexpr int each = WARPS * TURNS * 32 / (D / 8); /* pages of a block */
    const size_t shared = (size_t)(a->H / a->G) * 2 * D * sizeof(float);
    if (shared > cuda_device()->shared)
        return fail("pages: %d query heads on one kv head: too many for shared memory",
                    a->H / a->G);
    if (shared > 48 * 1024)
        CUDA_TRY(cudaFuncSetAttribute(score_kernel<T, D>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    return launch(score_kernel<T, D>, dim3((unsigned)((a->count - 1) / each + 1), a->G),
                  dim3(THREADS), shared, stream, a->score, cuda_pages_span(a->count),
                  (const T *)a->bounds, q, a->count, a->H / a->G);
}

int cuda_pages_score(const struct cuda_pages *a, const float *q, cudaStream_t stream)
{
    if (check(a)) return -1;
    if (a->D == 64) WITH_TYPE(a->type, return (score<T, 64>(a, q, stream)));
    WITH_TYPE(a->type, return (score<T, 128>(a, q, stream)));
}

int cuda_pages_best(const struct cuda_pages *a, const float *q, cudaStream_t stream)
{
    struct cuda_select s = {};
    if (check(a) || cuda_pages_score(a, q, stream)) return -1;
    if ((size_t)a->best * a->size > (size_t)a->stride)
        return fail("pages: %d of %d tokens, stride %d", a->best, a->size, a->stride);
    s.idx = a->list;
    s.score = a->score;
    s.span = cuda_pages_span(a->count);
    s.n_prefill = s.most = a->count;
    s.sets = a->G;
    s.pooled = s.refresh = 1;
    s.stride = s.budget = a->best;
    s.work = a->work;
    if (cuda_select_row(&s, stream)) return -1;
    return launch(
        expand_kernel, dim3((unsigned)((a->best * a->size - 1) / THREADS + 1), (unsigned)a->G),
        dim3(THREADS), 0, stream, a->idx, a->stride, (const int *)a->list, a->best, a->size);
}
