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
    const int end = __ldcg(s.pos) + 1, step = CUDA_TRACE_PARTS * THREADS;
    float sum = 0;
    for (int p = a.first + part * THREADS + (int)threadIdx.x; p < end; p += step) {
        if (a.given_mass) {
            sum += __ldcg(a.given_mass + p) * (float)s.H;
            continue;
        }
        for (int h = 0; h < s.H; h += AHEAD) {
            float x[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (h + j < s.H) x[j] = __ldcg(s.logits + (h + j) * s.span + p);
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (h + j < s.H) sum += expf(x[j] - __ldcg(s.lse + h + j));
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) a.parts[part] = sum / (float)s.H;
}

/* Blocks for the positions, then for the tail. */
static __global__ void __launch_bounds__(THREADS) compact_kernel(struct cuda_trace_compact a)
{
    const int warps = THREADS / 32, positions = (a.k + warps - 1) / warps;
    const int block = (int)blockIdx.x;
    pdl_trigger();
    pdl_wait();
    if (block < positions)
        compact_positions(a, block);
    else
        weigh_tail(a, block - positions);
}

int cuda_trace_compact(const struct cuda_trace_compact *a, cudaStream_t stream)
{
    const int warps = THREADS / 32;
    if (check_seen(&a->seen, "compact trace")) return -1;
    if (a->k < 1 || a->first < 0)
        return fail("compact trace: %d positions, tail from %d", a->k, a->first);
    if (a->seen.idx && a->given_mass == NULL)
        return fail("compact trace: logits of a list do not stand by position");
    return launch(compact_kernel, dim3((unsigned)((a->k + warps - 1) / warps + CUDA_TRACE_PARTS)),
                  dim3(THREADS), 0, stream, *a);
}

/* ---- the compact form of layers that saw everything, from q and k */

enum {
    WARPS = THREADS / 32,
    BATCH = 4, /* positions that a warp weighs at once */
    LOADS = 2, /* of their keys, that it has on the way for each */
    TAIL_BLOCKS = CUDA_TRACE_PARTS / WARPS
};

/* A row of K is a lane's 16 bytes times these; so many kv heads' rows a warp loads at once. */
template <int D> struct deal {
    enum { CHUNKS = D / 8, UNITS = 32 / CHUNKS };
};

/* As the attention takes a query: scaled, then its rounding and the rounding of the remainder. */
template <class T> static __device__ __forceinline__ float as_attended(float x, float scale)
{
    x *= scale;
    const float high = to_float(from_float<T>(x));
    return high + to_float(from_float<T>(x - high));
}

/* The weight of the BATCH positions P of the row K, added up over the heads: of the position that
 * batch_place() names to a lane. Q [H, 2, CHUNKS]: element (j, c) is the dimensions from 8 c + 4 j.
 */
template <class T, int D>
static __device__ __forceinline__ float weigh_batch(const float4 *q, const float *lse,
                                                    const char *k, size_t kv_head,
                                                    const int (&p)[BATCH], int G, int R)
{
    constexpr int CHUNKS = deal<D>::CHUNKS, UNITS = deal<D>::UNITS;
    const int lane = threadIdx.x % 32, chunk = lane % CHUNKS, unit = lane / CHUNKS;
    const bool upper = lane & (CHUNKS / 2), odd = lane & (CHUNKS / 4);
    float sum = 0;
    for (int g0 = 0; g0 < G; g0 += LOADS * UNITS) {
        uint4 row[LOADS][BATCH];
#pragma unroll
        for (int l = 0; l < LOADS; l++)
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int g = min(g0 + l * UNITS + unit, G - 1);
                row[l][i] = __ldcg(reinterpret_cast<const uint4 *>(
                    k + g * kv_head + (size_t)p[i] * (2 * D) + 16 * chunk));
            }
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            if (g0 + l * UNITS >= G) break;
            const int g = g0 + l * UNITS + unit, first = min(g, G - 1) * R;
            float2 key[BATCH][4];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                key[i][0] = unpack<T>(row[l][i].x), key[i][1] = unpack<T>(row[l][i].y);
                key[i][2] = unpack<T>(row[l][i].z), key[i][3] = unpack<T>(row[l][i].w);
            }
#pragma unroll 1
            for (int h = first; h < first + R; h++) {
                const float4 a = q[2 * h * CHUNKS + chunk], b = q[(2 * h + 1) * CHUNKS + chunk];
                float x[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    x[i] = a.x * key[i][0].x + a.y * key[i][0].y;
                    x[i] += a.z * key[i][1].x + a.w * key[i][1].y;
                    x[i] += b.x * key[i][2].x + b.y * key[i][2].y;
                    x[i] += b.z * key[i][3].x + b.w * key[i][3].y;
                }
                /* added up over the lanes of a row, each of which is left with one position */
                float y = upper ? x[2] : x[0], z = upper ? x[3] : x[1];
                y += __shfl_xor_sync(0xffffffffu, upper ? x[0] : x[2], CHUNKS / 2);
                z += __shfl_xor_sync(0xffffffffu, upper ? x[1] : x[3], CHUNKS / 2);
                float logit = odd ? z : y;
                logit += __shfl_xor_sync(0xffffffffu, odd ? y : z, CHUNKS / 4);
#pragma unroll
                for (int d = CHUNKS / 8; d > 0; d >>= 1)
                    logit += __shfl_xor_sync(0xffffffffu, logit, d);
                if (g < G) sum += expf(logit - lse[h]);
            }
        }
    }
#pragma unroll
    for (int d = CHUNKS; d < 32; d <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}

template <int D> static __device__ __forceinline__ int batch_place(int lane)
{
    constexpr int CHUNKS = deal<D>::CHUNKS;
    return (lane & (CHUNKS / 2) ? 2 : 0) + (lane & (CHUNKS / 4) ? 1 : 0);
}

/* Grid [blocks, layers]: blocks for the positions, then for the tail, a part to a warp. */
template <class T, int D>
static __global__ void __launch_bounds__(THREADS) late_kernel(struct cuda_trace_late a)
{
    extern __shared__ float4 q[]; /* [H, 2, CHUNKS], then lse [H] */
    constexpr int CHUNKS = deal<D>::CHUNKS;
    float *lse = reinterpret_cast<float *>(q + a.H * (D / 4));
    const int positions = (a.k + WARPS * BATCH - 1) / (WARPS * BATCH), R = a.H / a.G;
    const int slot = (int)blockIdx.y, layer = a.of[slot].layer;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, place = batch_place<D>(lane);
    const char *k = static_cast<const char *>(a.of[slot].k);
    const size_t kv_head = (size_t)a.of[slot].room * (2 * D);
    const float scale = 1 / sqrtf((float)D);

    pdl_trigger();
    pdl_wait();
    for (int i = threadIdx.x; i < a.H * (D / 4); i += THREADS) {
        const int h = i / (D / 4), four = i % (D / 4);
        float4 x = __ldcg(reinterpret_cast<const float4 *>(a.of[slot].q) + i);
        x.x = as_attended<T>(x.x, scale), x.y = as_attended<T>(x.y, scale);
        x.z = as_attended<T>(x.z, scale), x.w = as_attended<T>(x.w, scale);
        q[(2 * h + four % 2) * CHUNKS + four / 2] = x;
    }
    for (int h = threadIdx.x; h < a.H; h += THREADS)
        lse[h] = __ldcg(a.lse + (size_t)slot * a.H + h);
    __syncthreads();

    int p[BATCH];
    if ((int)blockIdx.x < positions) {
        const int w = ((int)blockIdx.x * WARPS + warp) * BATCH, n = min(a.k - w, (int)BATCH);
        const size_t out = (size_t)layer * a.k + w;
        if (n <= 0) return;
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            p[i] = __ldcg(a.idx + (size_t)slot * a.k + w + min(i, n - 1));
        const float sum = weigh_batch<T, D>(q, lse, k, kv_head, p, a.G, R);
        if (lane < CHUNKS && lane % (CHUNKS / 4) == 0 && place < n)
            a.mass[out + place] = sum / (float)a.H;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const float *score = a.scores + (size_t)slot * a.G * a.span + p[i];
            float best = -CUDART_INF_F;
            for (int g = lane; g < a.G; g += 32) best = fmaxf(best, __ldcg(score + g * a.span));
            best = warp_max(best);
            if (lane == 0 && i < n) {
                a.top[out + i] = p[i];
                a.score[out + i] = best;
            }
        }
        return;
    }
    const int part = ((int)blockIdx.x - positions) * WARPS + warp;
    const int n = __ldcg(a.pos) + 1 - a.first;
    float sum = 0;
    for (int i0 = part * BATCH; i0 < n; i0 += CUDA_TRACE_PARTS * BATCH) {
#pragma unroll
        for (int i = 0; i < BATCH; i++) p[i] = a.first + min(i0 + i, n - 1);
        const float weight = weigh_batch<T, D>(q, lse, k, kv_head, p, a.G, R);
        if (i0 + place < n) sum += weight;
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, CHUNKS / 2);
    sum += __shfl_xor_sync(0xffffffffu, sum, CHUNKS / 4);
    if (lane == 0) a.parts[(size_t)layer * CUDA_TRACE_PARTS + part] = sum / (float)a.H;
}

template <class T, int D>
static int start_late(const struct cuda_trace_late *a, cudaStream_t stream)
{
    const int positions = (a->k + WARPS * BATCH - 1) / (WARPS * BATCH);
    const size_t shared = (size_t)a->H * (D + 1) * sizeof(float);
    if (shared > 40 * 1024)
        CUDA_TRY(cudaFuncSetAttribute(late_kernel<T, D>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    return launch(late_kernel<T, D>, dim3((unsigned)(positions + TAIL_BLOCKS), (unsigned)a->layers),
                  dim3(THREADS), shared, stream, *a);
}

int cuda_trace_late(const struct cuda_trace_late *a, cudaStream_t stream)
{
    int rc;
    if (a->layers < 1 || a->layers > CUDA_TRACE_LAYERS || a->k < 1 || a->first < 0)
        return fail("late trace: %d layers, %d positions, tail from %d", a->layers, a->k, a->first);
    if (a->G < 1 || a->H < 1 || a->H % a->G || (a->D != 64 && a->D != 128) ||
        (size_t)a->H * (a->D + 1) * sizeof(float) > cuda_device()->shared)
        return fail("late trace: %d query heads on %d kv heads of width %d", a->H, a->G, a->D);
    for (int i = 0; i < a->layers; i++)
        if (!aligned(a->of[i].k) || !aligned(a->of[i].q))
            return fail("late trace: an array is not 16-byte aligned");
    WITH_TYPE(a->type,
              rc = a->D == 64 ? start_late<T, 64>(a, stream) : start_late<T, 128>(a, stream));
    return rc;
}

/* ---- how far attention turns a layer's input */

/* Grid [n]. In double: a cosine near 1 is taken from 1. */
static __global__ void __launch_bounds__(THREADS)
    turns_kernel(float *importance, const float *x, const float *delta, int E)
{
    double xy = 0, xx = 0, yy = 0;
    x += (size_t)blockIdx.x * E;
    delta += (size_t)blockIdx.x * E;
    pdl_trigger();
    pdl_wait();
    for (int i = threadIdx.x; i < E; i += THREADS) {
        const double from = __ldcg(x + i), to = from + __ldcg(delta + i);
        xy += from * to;
        xx += from * from;
        yy += to * to;
    }
    xy = block_sum(xy);
    xx = block_sum(xx);
    yy = block_sum(yy);
    if (threadIdx.x == 0) importance[blockIdx.x] = (float)(1 - xy / sqrt(xx * yy));
}

int cuda_trace_turns(float *importance, const float *x, const float *delta, int n, int E,
                     cudaStream_t stream)
{
    if (n < 1 || E < 1) return fail("importance: %d rows of %d", n, E);
    return launch(turns_kernel, dim3((unsigned)n), dim3(THREADS), 0, stream, importance, x, delta,
                  E);
}

/* ---- selections */

enum { SELECTIONS = 32 }; /* of a launch */
struct selections {
    struct cuda_selected of[SELECTIONS];
};

/* Grid [.., n]. */
static __global__ void __launch_bounds__(THREADS)
    selected_kernel(int *to, struct selections from, int sets, int most)
{
    const struct cuda_selected &s = from.of[blockIdx.y];
    to += (size_t)blockIdx.y * (1 + (size_t)sets * most);
    pdl_trigger();
    pdl_wait();
    const int count = min(__ldcg(s.count), min(most, s.stride));
    if (blockIdx.x == 0 && threadIdx.x == 0) to[0] = count;
    for (int set = 0; set < sets; set++)
        for (int i = (int)(blockIdx.x * THREADS + threadIdx.x); i < count;
             i += (int)(gridDim.x * THREADS))
            to[1 + (size_t)set * most + i] = __ldcg(s.idx + (size_t)set * s.stride + i);
}

int cuda_trace_selected(int *to, const struct cuda_selected *from, int n, int sets, int most,
                        cudaStream_t stream)
{
    if (n < 1 || sets < 1 || most < 1) return fail("selections: %d, %d sets of %d", n, sets, most);
    for (int at = 0; at < n; at += SELECTIONS) {
        struct selections part = {};
        const int here = n - at < SELECTIONS ? n - at : SELECTIONS;
        const unsigned blocks = (unsigned)((most - 1) / (4 * THREADS) + 1);
        for (int i = 0; i < here; i++) part.of[i] = from[at + i];
        if (launch(selected_kernel, dim3(blocks < 64 ? blocks : 64, (unsigned)here), dim3(THREADS),
                   0, stream, to + (size_t)at * (1 + (size_t)sets * most), part, sets, most))
            return -1;
    }
    return 0;
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
