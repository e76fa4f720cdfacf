/* cuda_trace.cu - what a step saw of a layer, as a dump records it: rows over all positions, the
 * compact form, and the few numbers of a layer.
 *
 * A row reads every logit once, from the second-level cache where the attention has just left them.
 * Sums are taken in a fixed order, so that two runs give the same bits.
 */
#include "core/ops/cuda_util.cuh"

#include <math_constants.h>

enum {
    ALL_THREADS = 128, /* of a block over 4 positions each */
    THREADS = 256,
    EACH = 4, /* positions of a thread with lists */
    REACH = THREADS * EACH,
    AHEAD = 8 /* logits that a thread loads before it uses the first */
};

/* ---- values as they are stored */

template <class Out> static __device__ __forceinline__ Out stored(float x);
template <> __device__ __forceinline__ uint16_t stored<uint16_t>(float x)
{
    return x != x ? 0x7e00 : __half_as_ushort(__float2half_rn(x));
}
template <> __device__ __forceinline__ float stored<float>(float x)
{
    return x != x ? __uint_as_float(0x7fc00000u) : x;
}

/* Stores the first VALID of X at TO, which is aligned to four values. */
static __device__ __forceinline__ void store_4(float *to, float4 x, int valid)
{
    if (valid >= 4) {
        *reinterpret_cast<float4 *>(to) = make_float4(stored<float>(x.x), stored<float>(x.y),
                                                      stored<float>(x.z), stored<float>(x.w));
        return;
    }
    to[0] = stored<float>(x.x);
    if (valid > 1) to[1] = stored<float>(x.y);
    if (valid > 2) to[2] = stored<float>(x.z);
}
static __device__ __forceinline__ void store_4(uint16_t *to, float4 x, int valid)
{
    const uint16_t a = stored<uint16_t>(x.x), b = stored<uint16_t>(x.y);
    const uint16_t c = stored<uint16_t>(x.z), d = stored<uint16_t>(x.w);
    if (valid >= 4) {
        *reinterpret_cast<uint2 *>(to) = make_uint2(a | (uint32_t)b << 16, c | (uint32_t)d << 16);
        return;
    }
    to[0] = a;
    if (valid > 1) to[1] = b;
    if (valid > 2) to[2] = c;
}

/* ---- sums over a block of THREADS; only thread 0 gets the result */

template <class N> static __device__ __forceinline__ N block_sum(N x)
{
    __shared__ N of_warp[THREADS / 32];
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    __syncthreads(); /* of the sum before */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    N sum = 0;
    if (threadIdx.x == 0)
        for (int w = 0; w < THREADS / 32; w++) sum += of_warp[w];
    return sum;
}

/* ---- rows */

/* Everything was seen: entry i is position i. */
template <class Out>
static __global__ void __launch_bounds__(ALL_THREADS) all_rows_kernel(struct cuda_trace_rows a)
{
    pdl_trigger();
    pdl_wait();
    const int n = min(__ldcg(a.seen.pos) + 1, a.room), H = a.seen.H;
    const int t = 4 * (int)(blockIdx.x * ALL_THREADS + threadIdx.x);
    const float *l = a.seen.logits + t;
    float4 best = make_float4(-CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F);
    float4 sum = make_float4(0, 0, 0, 0);
    if (t >= n) return;

    for (int h = 0; h < H; h += AHEAD) {
        float4 x[AHEAD];
        float off[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (h + j < H) {
                x[j] = __ldcg(reinterpret_cast<const float4 *>(l + (size_t)(h + j) * a.seen.span));
                off[j] = __ldcg(a.seen.lse + h + j);
            }
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (h + j < H) {
                best.x = fmaxf(best.x, x[j].x), best.y = fmaxf(best.y, x[j].y);
                best.z = fmaxf(best.z, x[j].z), best.w = fmaxf(best.w, x[j].w);
                if (a.mass == NULL) continue;
                sum.x += expf(x[j].x - off[j]), sum.y += expf(x[j].y - off[j]);
                sum.z += expf(x[j].z - off[j]), sum.w += expf(x[j].w - off[j]);
            }
    }
    const float share = (float)H;
    sum = make_float4(sum.x / share, sum.y / share, sum.z / share, sum.w / share);
    if (a.given) best = __ldcg(reinterpret_cast<const float4 *>(a.given + t));
    if (a.mass) store_4(static_cast<Out *>(a.mass) + t, sum, n - t);
    if (a.score) store_4(static_cast<Out *>(a.score) + t, best, n - t);
}

/* Grid [H]: totals [h] = what head h gives to its list in all. */
static __global__ void __launch_bounds__(THREADS) totals_kernel(float *totals, struct cuda_seen a)
{
    pdl_trigger();
    pdl_wait();
    const int count = __ldcg(a.count);
    const float *l = a.logits + blockIdx.x * a.span, off = __ldcg(a.lse + blockIdx.x);
    float sum = 0;
    for (int i = threadIdx.x; i < count; i += AHEAD * THREADS) {
        float x[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            x[j] = i + j * THREADS < count ? __ldcg(l + i + j * THREADS) : -CUDART_INF_F;
#pragma unroll
        for (int j = 0; j < AHEAD; j++) sum += expf(x[j] - off);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

/* How many of the ascending LIST [n] are below VALUE; a warp calls. */
static __device__ __forceinline__ int count_below(const int *list, int n, int value)
{
    const int lane = threadIdx.x % 32;
    int low = 0; /* the answer is in [low, low + n] */
    while (n > 0) {
        const int step = (n + 31) / 32, at = (lane + 1) * step - 1;
        const bool below = at < n && __ldcg(list + low + at) < value;
        const int c = __popc(__ballot_sync(0xffffffffu, below)); /* of the lanes, the first */
        low += c * step;
        n = min(step - 1, n - c * step);
    }
    return low;
}

/* Each block finds which entries of a set's list lie at its REACH positions, and each thread adds
 * up its own. */
template <class Out>
static __global__ void __launch_bounds__(THREADS) list_rows_kernel(struct cuda_trace_rows a)
{
    __shared__ int entry[REACH], bound[2];
    const struct cuda_seen &s = a.seen;
    const int first = (int)blockIdx.x * REACH, R = s.H / s.sets;
    float mass[EACH], score[EACH];

    pdl_trigger();
    pdl_wait();
    const int n = min(__ldcg(s.pos) + 1, a.room);
    const int count = __ldcg(s.count), tail = __ldcg(s.tail);
    if (first >= n) return;
#pragma unroll
    for (int j = 0; j < EACH; j++) mass[j] = 0, score[j] = CUDART_NAN_F;

    for (int set = 0; set < s.sets; set++) {
        const int *list = s.idx + (size_t)set * s.stride;
        const int warp = threadIdx.x / 32;
        __syncthreads(); /* the set before is done with */
#pragma unroll
        for (int j = 0; j < EACH; j++) entry[j * THREADS + threadIdx.x] = -1;
        if (warp < 2) {
            const int at = count_below(list, count, first + warp * REACH);
            if (threadIdx.x % 32 == 0) bound[warp] = at;
        }
        __syncthreads();
        for (int i = bound[0] + (int)threadIdx.x; i < bound[1]; i += THREADS)
            entry[__ldcg(list + i) - first] = i;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int p = first + j * THREADS + (int)threadIdx.x;
            if (p >= n) continue;
            const bool listed = p < tail;
            const int e = listed ? entry[p - first] : count + p - tail;
            if (e < 0) continue;
            for (int h0 = set * R; h0 < (set + 1) * R; h0 += AHEAD) {
                float x[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; i++)
                    if (h0 + i < (set + 1) * R) x[i] = __ldcg(s.logits + (h0 + i) * s.span + e);
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const int h = h0 + i;
                    if (h >= (set + 1) * R) continue;
                    const float weight = expf(x[i] - __ldcg(s.lse + h));
                    if (a.totals) x[i] = listed ? weight / __ldcg(a.totals + h) : 0;
                    mass[j] += weight;
                    if (!(score[j] >= x[i])) score[j] = x[i];
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        const int p = first + j * THREADS + (int)threadIdx.x;
        if (p >= n) continue;
        mass[j] /= (float)s.H;
        a.mass32[p] = mass[j];
        a.score32[p] = stored<float>(score[j]);
        if (a.mass) static_cast<Out *>(a.mass)[p] = stored<Out>(mass[j]);
        if (a.score) static_cast<Out *>(a.score)[p] = stored<Out>(score[j]);
    }
}

static bool aligned(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

static int check_seen(const struct cuda_seen *s, const char *what)
{
    if (s->H < 1 || s->H > 65535 || s->span % 4 || !aligned(s->logits))
        return fail("%s: %d heads, rows of %zu logits", what, s->H, s->span);
    if (s->idx && (s->sets < 1 || s->H % s->sets || s->stride < 0))
        return fail("%s: %d lists of %d for %d heads", what, s->sets, s->stride, s->H);
    return 0;
}

int cuda_trace_rows(const struct cuda_trace_rows *a, cudaStream_t stream)
{
    const int each = a->seen.idx ? REACH : 4 * ALL_THREADS;
    if (check_seen(&a->seen, "rows of a trace")) return -1;
    if (a->room < 1 || !aligned(a->mass) || !aligned(a->score) || !aligned(a->given) ||
        (a->seen.idx && (a->mass32 == NULL || a->score32 == NULL)))
        return fail("rows of a trace: %d positions, or rows missing or not aligned", a->room);
    const dim3 grid((unsigned)((a->room - 1) / each + 1));
    if (a->seen.idx == NULL)
        return launch(a->halves ? all_rows_kernel<uint16_t> : all_rows_kernel<float>, grid,
                      dim3(ALL_THREADS), 0, stream, *a);
    if (a->totals && launch(totals_kernel, dim3((unsigned)a->seen.H), dim3(THREADS), 0, stream,
                            a->totals, a->seen))
        return -1;
    return launch(a->halves ? list_rows_kernel<uint16_t> : list_rows_kernel<float>, grid,
                  dim3(THREADS), 0, stream, *a);
}

/* ---- the compact form */

/* A warp for each position. */
static __device__ void compact_positions(const struct cuda_trace_compact &a, int block)
{
    const int w = block * (THREADS / 32) + (int)(threadIdx.x / 32), lane = threadIdx.x % 32;
    if (w >= a.k) return;
    const int p = __ldcg(a.idx + w);
    float best = -CUDART_INF_F, sum = 0;
    for (int h = lane; h < a.seen.H && a.given_mass == NULL; h += 32) {
        const float x = __ldcg(a.seen.logits + h * a.seen.span + p);
        best = fmaxf(best, x);
        sum += expf(x - __ldcg(a.seen.lse + h));
    }
    best = warp_max(best);
    sum = warp_sum(sum) / (float)a.seen.H;
    if (lane != 0) return;
    a.score[w] = a.given ? __ldcg(a.given + p) : best;
    a.mass[w] = a.given_mass ? __ldcg(a.given_mass + p) : sum;
}

static __device__ void weigh_tail(const struct cuda_trace_compact &a, int part)
{
    const struct cuda_seen &s = a.seen;
    const int pos = __ldcg(s.pos), first = s.idx ? __ldcg(s.count) : a.first;
    const int n = pos + 1 - (s.idx ? __ldcg(s.tail) : a.first);
    float sum = 0;
    for (int i = part * THREADS + (int)threadIdx.x; i < n; i += CUDA_TRACE_PARTS * THREADS)
        for (int h = 0; h < s.H; h += AHEAD) {
            float x[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (h + j < s.H) x[j] = __ldcg(s.logits + (h + j) * s.span + first + i);
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (h + j < s.H) sum += expf(x[j] - __ldcg(s.lse + h + j));
        }
    sum = block_sum(sum);
    if (threadIdx.x == 0) a.parts[part] = sum / (float)s.H;
}

/* In double: a cosine near 1 is taken from 1. */
static __device__ void weigh_layer(const struct cuda_trace_compact &a)
{
    double xy = 0, xx = 0, yy = 0;
    for (int i = threadIdx.x; i < a.E; i += THREADS) {
        const double x = __ldcg(a.x + i), y = x + __ldcg(a.delta + i);
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    xy = block_sum(xy);
    xx = block_sum(xx);
    yy = block_sum(yy);
    if (threadIdx.x == 0) *a.importance = (float)(1 - xy / sqrt(xx * yy));
}

/* Blocks for the positions, for the tail, for the layer. */
static __global__ void __launch_bounds__(THREADS) compact_kernel(struct cuda_trace_compact a)
{
    const int warps = THREADS / 32, positions = a.idx ? (a.k + warps - 1) / warps : 0;
    const int block = (int)blockIdx.x, parts = a.idx ? CUDA_TRACE_PARTS : 0;
    pdl_trigger();
    pdl_wait();
    if (block < positions)
        compact_positions(a, block);
    else if (block < positions + parts)
        weigh_tail(a, block - positions);
    else
        weigh_layer(a);
}

int cuda_trace_compact(const struct cuda_trace_compact *a, cudaStream_t stream)
{
    const int warps = THREADS / 32;
    const int blocks =
        (a->idx ? (a->k + warps - 1) / warps + CUDA_TRACE_PARTS : 0) + (a->importance != NULL);
    if (a->idx && (check_seen(&a->seen, "compact trace") || a->k < 1 || a->first < 0))
        return fail("compact trace: %d positions, tail from %d", a->k, a->first);
    if (blocks == 0 || (a->importance && a->E < 1))
        return fail("compact trace: nothing to do, width %d", a->E);
    return launch(compact_kernel, dim3((unsigned)blocks), dim3(THREADS), 0, stream, *a);
}

/* ---- other layers' choices, tried on this one */

static __global__ void __launch_bounds__(THREADS)
    repeat_kernel(float *to, const float *from, size_t size)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    pdl_trigger();
    pdl_wait();
    if (i < size) to[blockIdx.y * size + i] = __ldcg(from + i);
}

int cuda_repeat_row(float *to, const float *from, int n, size_t size, cudaStream_t stream)
{
    if (n < 1 || n > 65535 || size < 1) return fail("repeat: %d rows of %zu", n, size);
    return launch(repeat_kernel, dim3((unsigned)((size - 1) / THREADS + 1), (unsigned)n),
                  dim3(THREADS), 0, stream, to, from, size);
}

/* Grid [n]. */
static __global__ void __launch_bounds__(THREADS)
    compare_kernel(float *pairs, size_t stride, const float *delta, int E)
{
    const int i = (int)blockIdx.x, last = (int)gridDim.x - 1;
    const float *other = delta + (size_t)i * E, *own = delta + (size_t)last * E;
    double gap = 0, both = 0, size = 0, others = 0;
    pdl_trigger();
    pdl_wait();
    for (int e = threadIdx.x; e < E; e += THREADS) {
        const double x = __ldcg(other + e), y = __ldcg(own + e);
        gap += (x - y) * (x - y);
        both += x * y;
        size += y * y;
        others += x * x;
    }
    gap = block_sum(gap);
    both = block_sum(both);
    size = block_sum(size);
    others = block_sum(others);
    if (threadIdx.x != 0) return;
    float *pair = pairs + (size_t)i * stride;
    pair[0] = i == last ? 0 : (float)(sqrt(gap) / sqrt(size));
    pair[1] = i == last ? 1 : (float)(both / (sqrt(size) * sqrt(others)));
}

int cuda_compare_rows(float *pairs, size_t stride, const float *delta, int n, int E,
                      cudaStream_t stream)
{
    if (n < 1 || E < 1 || stride < 2) return fail("compare: %d rows of %d", n, E);
    return launch(compare_kernel, dim3((unsigned)n), dim3(THREADS), 0, stream, pairs, stride, delta,
                  E);
}
