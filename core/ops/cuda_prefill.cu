/* cuda_prefill.cu - causal attention of a chunk of a prefill with mma.sync, sm_80 on: a block holds
 * 32 queries of one head per warp and walks the keys in tiles (cuda_flash.cuh). */
#include "core/ops/cuda_flash.cuh"

/* Block (h, b) answers rows [first, first + 32 WARPS) of head h, the last rows, which see most, at
 * b = 0: the long blocks start first and the short ones fill the gaps. The heads that share keys
 * are neighbours. Two tiles of K and V are in shared memory: one is worked on, the next arrives. */
template <class T, int D, int WARPS, int KEYS>
static __global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)
    attend(const struct cuda_prefill a, float unit)
{
    constexpr int row = 2 * D, tile = KEYS * row, queries = 32 * WARPS;
    extern __shared__ __align__(1024) char shared[];
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.x;
    const int first = (gridDim.y - 1 - blockIdx.y) * queries, mine = first + 32 * warp;
    const int end = a.pos0 + min(first + queries, a.n); /* of the keys that any row here sees */
    const size_t head = (size_t)(h / (a.H / a.G)) * a.room * row, stride = (size_t)a.H * row;
    flash<D, queries, KEYS> f;

    flash_start(f, base);
    load_rows<D, queries, 32 * WARPS>(base, (const char *)a.q + first * stride + (size_t)h * row,
                                      stride, a.n - first);
    load_rows<D, KEYS, 32 * WARPS>(base + queries * row, (const char *)a.k + head, row, end);
    load_rows<D, KEYS, 32 * WARPS>(base + queries * row + tile, (const char *)a.v + head, row, end);

    for (int key = 0, here = 0; key < end; key += KEYS, here ^= 2 * tile) {
        copy_async_wait();
        __syncthreads(); /* this tile is there, and nobody reads the one before any more */
        if (key + KEYS < end) {
            const uint32_t next = base + queries * row + (here ^ 2 * tile);
            const size_t skip = head + (size_t)(key + KEYS) * row;
            load_rows<D, KEYS, 32 * WARPS>(next, (const char *)a.k + skip, row, end - key - KEYS);
            load_rows<D, KEYS, 32 * WARPS>(next + tile, (const char *)a.v + skip, row,
                                           end - key - KEYS);
        }
        if (key == 0) flash_queries(f);
        if (mine >= a.n || key > a.pos0 + mine + 31) continue; /* no row of this warp sees it */

        float s[2][KEYS / 8][4] = {};
        flash_scores<T>(f, s, here);
        if (key + KEYS - 1 > a.pos0 + mine) {
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int t = 0; t < KEYS / 8; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (key + 8 * t + lane % 4 * 2 + e % 2 >
                            a.pos0 + mine + 16 * i + e / 2 * 8 + lane / 4)
                            s[i][t][e] = -INFINITY;
        }
        flash_add<T, false>(f, s, here, unit);
    }
    if (mine < a.n) flash_end<T>(f, shared, a.out, a.lse, mine, a.n, h, a.H, unit);
}

template <class T, int D, int WARPS, int KEYS>
static int start(const struct cuda_prefill *a, cudaStream_t stream)
{
    const int shared = 2 * D * (32 * WARPS + 4 * KEYS);
    const dim3 grid(a->H, (a->n + 32 * WARPS - 1) / (32 * WARPS));
    CUDA_TRY(cudaFuncSetAttribute(attend<T, D, WARPS, KEYS>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    attend<T, D, WARPS, KEYS><<<grid, 32 * WARPS, shared, stream>>>(*a, log2_e / sqrtf((float)D));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

int cuda_prefill_mma(const struct cuda_prefill *a, cudaStream_t stream)
{
    if (a->type != DTYPE_BF16 && a->type != DTYPE_F16)
        return fail("attention of a prefill: expected bf16 or f16, got %s", dtype_name(a->type));
    if (a->D != 64 && a->D != 128)
        return fail("attention of a prefill: expected a head width of 64 or 128, got %d", a->D);
    if (a->G < 1 || a->H < 1 || a->H % a->G != 0)
        return fail("attention of a prefill: %d query heads do not share %d kv heads", a->H, a->G);
    if (a->n < 0 || a->pos0 < 0 || a->n > a->room - a->pos0)
        return fail("attention of a prefill: rows %d .. %d do not fit into room for %d", a->pos0,
                    a->pos0 + a->n - 1, a->room);
    if (a->n == 0) return 0;
    /* 48 keys: with 64 the scores and sums of D 128 spill, and two blocks no longer fit sm_80 */
    if (a->D == 64) WITH_TYPE(a->type, return (start<T, 64, 4, 64>(a, stream)));
    WITH_TYPE(a->type, return (start<T, 128, 4, 48>(a, stream)));
}

int cuda_prefill_attention(const struct cuda_prefill *a, cudaStream_t stream)
{
    const int rc = cuda_prefill_wgmma(a, stream);
    return rc == 1 ? cuda_prefill_mma(a, stream) : rc;
}
