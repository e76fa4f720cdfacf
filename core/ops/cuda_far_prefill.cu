/* cuda_far_prefill.cu - attention of many rows over a list and over their windows, and the weights
 * that window positions receive, with mma.sync, sm_80 on.
 *
 * The attention is that of cuda_prefill.cu, with two runs of keys under one softmax: tiles of
 * listed rows, for which the queries lie in shared memory at the one position they are turned to,
 * then tiles of the window, for which they are put there as they are.
 *
 * The sums are of S^T = K Q^T: keys are the rows of the left operand, so that a warp has the
 * weights of its keys to itself and adds them up in registers, always in the same order.
 *
 * Source: Dao 2023 (FlashAttention-2), algorithm 1; Xiao et al. 2024 (InfLLM), section 3.
 */
#include "core/ops/cuda_flash.cuh"
extern "C" {
#include "core/ops/cuda_far.h"
}

/* ROWS rows of D values to shared memory as load_rows() puts them: rows IDX[0 ..] of FROM, or
 * (NULL) rows SKIP .. of it. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void load_listed(uint32_t to, const char *from, const int *idx,
                                                   int skip, int valid)
{
    constexpr int chunks = D / 8, step = THREADS / chunks;
    static_assert(step % 8 == 0 && ROWS % step == 0, "a thread keeps its place in the swizzle");
    const int chunk = threadIdx.x % chunks, row = threadIdx.x / chunks;
    from += chunk * 16;
    to += (chunk / 8 * ROWS + row) * line + ((chunk % 8 ^ (row & 7)) << 4);
#pragma unroll
    for (int i = 0; i < ROWS / step; i++) {
        const int r = row + i * step;
        const int at = r >= valid ? 0 : idx ? __ldg(idx + r) : skip + r;
        copy_async(to + i * step * line, from + (size_t)at * (2 * D), r < valid);
    }
}

/* Entries of the list that the row at POS sees. */
static __device__ __forceinline__ int listed_at(const struct cuda_far_attention &a, int pos)
{
    return min(a.listed, max(0, pos - a.n_local + 1 - a.gap));
}

/* Block (h, b) answers rows [first, first + 32 WARPS) of head h. Two tiles of K and V are in shared
 * memory: one is worked on, the next arrives. */
template <class T, int D, int WARPS, int KEYS>
static __global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)
    attend(const struct cuda_far_attention a, float unit)
{
    constexpr int row = 2 * D, tile = KEYS * row, queries = 32 * WARPS, threads = 32 * WARPS;
    extern __shared__ __align__(1024) char shared[];
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.x;
    const int first = (gridDim.y - 1 - blockIdx.y) * queries, mine = first + 32 * warp;
    const int last = a.pos0 + min(first + queries, a.n) - 1; /* position of the last row here */
    const int listed = listed_at(a, last), begin = max(0, a.pos0 + first - a.n_local + 1);
    const int tiles_listed = (listed + KEYS - 1) / KEYS;
    const int tiles = tiles_listed + (last + 1 - begin + KEYS - 1) / KEYS;
    const size_t g = h / (a.H / a.G), stride = (size_t)a.H * row;
    const char *k = (const char *)a.k + g * a.room * row, *v = (const char *)a.v + g * a.room * row;
    const char *list_k = (const char *)a.list_k + g * a.list_room * row;
    const char *list_v = (const char *)a.list_v + g * a.list_room * row;
    const size_t q_from = first * stride + (size_t)h * row;

    flash<D, queries, KEYS> f;

    /* tile I of both runs to the place at TO */
    auto load_tile = [&](int i, uint32_t to) {
        if (i < tiles_listed) {
            const int key = i * KEYS, left = listed - key;
            const int *idx = a.idx ? a.idx + key : NULL;
            load_listed<D, KEYS, threads>(to, list_k, idx, key, left);
            load_listed<D, KEYS, threads>(to + tile, list_v, idx, key, left);
        } else {
            const int key = begin + (i - tiles_listed) * KEYS, left = last + 1 - key;
            load_rows<D, KEYS, threads>(to, k + (size_t)key * row, row, left);
            load_rows<D, KEYS, threads>(to + tile, v + (size_t)key * row, row, left);
        }
    };
    flash_start(f, base);
    load_rows<D, queries, threads>(base, (const char *)(tiles_listed ? a.q_far : a.q) + q_from,
                                   stride, a.n - first);
    load_tile(0, base + queries * row);

    for (int i = 0, here = 0; i < tiles; i++, here ^= 2 * tile) {
        copy_async_wait();
        __syncthreads(); /* this tile is there, and nobody reads the one before any more */
        if (i + 1 < tiles) load_tile(i + 1, base + queries * row + (here ^ 2 * tile));
        if (i == tiles_listed && i > 0) { /* from here on with the queries as they are */
            load_rows<D, queries, threads>(base, (const char *)a.q + q_from, stride, a.n - first);
            copy_async_wait();
            __syncthreads();
        }
        if (i == 0 || i == tiles_listed) flash_queries(f);
        const bool in_list = i < tiles_listed;
        const int key = in_list ? i * KEYS : begin + (i - tiles_listed) * KEYS;
        const int pos = a.pos0 + mine; /* of the warp's first row */
        if (mine >= a.n) continue;
        if (in_list ? key >= listed_at(a, pos + 31)
                    : key > pos + 31 || key + KEYS - 1 <= pos - a.n_local)
            continue; /* no row of this warp sees it */

        float s[2][KEYS / 8][4] = {};
        flash_scores<T>(f, s, here);
        /* where not all rows of the warp see all of it: [low, high) of a row's keys are seen */
        if (in_list ? key + KEYS > listed_at(a, pos)
                    : key + KEYS - 1 > pos || key <= pos + 31 - a.n_local) {
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int p = pos + 16 * j + 8 * half + lane / 4;
                    const int low = in_list ? 0 : p - a.n_local + 1;
                    const int high = in_list ? listed_at(a, p) : p + 1;
#pragma unroll
                    for (int t = 0; t < KEYS / 8; t++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            const int at = key + 8 * t + lane % 4 * 2 + e;
                            if (at < low || at >= high) s[j][t][2 * half + e] = -INFINITY;
                        }
                }
        }
        flash_add<T, true>(f, s, here, unit);
    }
    if (mine < a.n) flash_end<T>(f, shared, a.out, a.lse, mine, a.n, h, a.H, unit);
}

template <class T, int D, int WARPS, int KEYS>
static int start(const struct cuda_far_attention *a, cudaStream_t stream)
{
    const int shared = 2 * D * (32 * WARPS + 4 * KEYS);
    const dim3 grid(a->H, (a->n + 32 * WARPS - 1) / (32 * WARPS));
    CUDA_TRY(cudaFuncSetAttribute(attend<T, D, WARPS, KEYS>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    attend<T, D, WARPS, KEYS><<<grid, 32 * WARPS, shared, stream>>>(*a, log2_e / sqrtf((float)D));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

static int check_shape(const char *what, int n, int pos0, int room, int H, int G, int D,
                       enum dtype type)
{
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("%s: expected bf16 or f16, got %s", what, dtype_name(type));
    if (D != 64 && D != 128) return fail("%s: expected a head width of 64 or 128, got %d", what, D);
    if (G < 1 || H < 1 || H % G != 0)
        return fail("%s: %d query heads do not share %d kv heads", what, H, G);
    if (n < 0 || pos0 < 0 || n > room - pos0)
        return fail("%s: rows %d .. %d do not fit into room for %d", what, pos0, pos0 + n - 1,
                    room);
    return 0;
}

int cuda_far_attention(const struct cuda_far_attention *a, cudaStream_t stream)
{
    if (check_shape("far attention", a->n, a->pos0, a->room, a->H, a->G, a->D, a->type)) return -1;
    if (a->n_local < 1 || a->gap < 0 || a->listed < 0 || (!a->idx && a->listed > a->list_room))
        return fail("far attention: a window of %d, %d of %d rows listed, %d left out", a->n_local,
                    a->listed, a->list_room, a->gap);
    if (a->n == 0) return 0;
    if (a->D == 64) WITH_TYPE(a->type, return (start<T, 64, 4, 64>(a, stream)));
    WITH_TYPE(a->type, return (start<T, 128, 4, 48>(a, stream)));
}

/* ---- weights by column */

enum { COL_WARPS = 4, COL_KEYS = 32 * COL_WARPS, COL_ROWS = 64, COL_THREADS = 32 * COL_WARPS };

/* Block (b, h): COL_KEYS keys of head h from FROM on, 32 of each warp, against all rows that see
 * one of them, COL_ROWS at a time. */
template <class T, int D>
static __global__ void __launch_bounds__(COL_THREADS)
    columns(const struct cuda_far_columns a, int from, float unit)
{
    constexpr int row = 2 * D, tile = COL_ROWS * row;
    extern __shared__ __align__(1024) char shared[];
    __shared__ float lse[2][COL_ROWS]; /* base 2; of rows that are not there, infinite */
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y;
    const int t0 = from + (int)blockIdx.x * COL_KEYS, keys = min(COL_KEYS, a.pos0 + a.n - t0);
    const int first = max(0, t0 - a.pos0); /* rows [first, end) see something here */
    const int end = min(a.n, t0 + keys - 1 + a.n_local - a.pos0);
    const size_t stride = (size_t)a.H * row;
    const char *q = (const char *)a.q + (size_t)h * row;
    const char *k = (const char *)a.k + ((size_t)(h / (a.H / a.G)) * a.room + t0) * row;
    const uint32_t turn = lane & 7, across = lane / 8 % 2 * 8 + turn, down = lane / 16 * 8 + turn;
    const uint32_t k_at = base + (32 * warp + across) * line + ((lane / 16 ^ turn) << 4);
    const uint32_t q_at = base + COL_KEYS * row + down * line + ((lane / 8 % 2 ^ turn) << 4);
    uint32_t key[2][D / 16][4];
    float sum[2][2] = {};

    auto load_tile = [&](int r, int here) {
        load_rows<D, COL_ROWS, COL_THREADS>(base + COL_KEYS * row + here * tile, q + r * stride,
                                            stride, end - r);
        if (threadIdx.x < COL_ROWS)
            lse[here][threadIdx.x] =
                r + (int)threadIdx.x < end
                    ? __ldg(a.lse + (size_t)(r + threadIdx.x) * a.H + h) * log2_e
                    : INFINITY;
    };
    load_rows<D, COL_KEYS, COL_THREADS>(base, k, row, keys);
    load_tile(first, 0);
    for (int r0 = first, here = 0; r0 < end; r0 += COL_ROWS, here ^= 1) {
        copy_async_wait();
        __syncthreads(); /* these rows are there, and nobody reads the ones before any more */
        if (r0 + COL_ROWS < end) load_tile(r0 + COL_ROWS, here ^ 1);
        if (r0 == first) {
#pragma unroll
            for (int c = 0; c < D / 16; c++)
                for (int i = 0; i < 2; i++)
                    load_matrices(key[i][c],
                                  (k_at ^ c % 4 << 5) + (c / 4 * COL_KEYS + i * 16) * line);
        }
#pragma unroll 1
        for (int j = 0; j < COL_ROWS / 16; j++) {
            float s[2][2][4] = {};
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                uint32_t b[4];
                load_matrices(b, ((q_at + here * tile) ^ c % 4 << 5) +
                                     (c / 4 * COL_ROWS + j * 16) * line);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    multiply<T>(s[i][0], key[i][c], b[0], b[1]);
                    multiply<T>(s[i][1], key[i][c], b[2], b[3]);
                }
            }
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int r = 16 * j + 8 * n + lane % 4 * 2 + e;
                    const int pos = a.pos0 + r0 + r;
                    const float shift = lse[here][r];
#pragma unroll
                    for (int i = 0; i < 2; i++)
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            const int t = t0 + 32 * warp + 16 * i + 8 * half + lane / 4;
                            const bool seen = t <= pos && pos - t < a.n_local;
                            const float w = exp_2(fmaf(s[i][n][2 * half + e], unit, -shift));
                            sum[i][half] += seen ? w : 0;
                        }
                }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float all = sum[i][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            const int t = t0 + 32 * warp + 16 * i + 8 * half + lane / 4;
            if (lane % 4 != 0 || t >= t0 + keys) continue;
            float *to = a.sums + (size_t)h * a.ring + t % a.ring;
            *to = (t >= a.pos0 ? 0 : *to) + all;
        }
}

template <class T, int D>
static int start_columns(const struct cuda_far_columns *a, int from, cudaStream_t stream)
{
    const int shared = 2 * D * (COL_KEYS + 2 * COL_ROWS), keys = a->pos0 + a->n - from;
    const dim3 grid((unsigned)((keys + COL_KEYS - 1) / COL_KEYS), (unsigned)a->H);
    CUDA_TRY(
        cudaFuncSetAttribute(columns<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    columns<T, D><<<grid, COL_THREADS, shared, stream>>>(*a, from, log2_e / sqrtf((float)D));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

int cuda_far_columns(const struct cuda_far_columns *a, cudaStream_t stream)
{
    if (check_shape("weights of windows", a->n, a->pos0, a->room, a->H, a->G, a->D, a->type))
        return -1;
    int from = a->pos0 - a->n_local + 1 > 0 ? a->pos0 - a->n_local + 1 : 0;
    if (from < a->n_init) from = a->n_init;
    if (a->n == 0 || from >= a->pos0 + a->n) return 0;
    if (a->pos0 + a->n - from > a->ring)
        return fail("weights of windows: %d positions in a ring of %d", a->pos0 + a->n - from,
                    a->ring);
    if (a->D == 64) WITH_TYPE(a->type, return (start_columns<T, 64>(a, from, stream)));
    WITH_TYPE(a->type, return (start_columns<T, 128>(a, from, stream)));
}
