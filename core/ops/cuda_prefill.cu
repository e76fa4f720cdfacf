/* cuda_prefill.cu - causal attention of a chunk of a prefill with mma.sync, sm_80 on.
 *
 * A block holds 32 queries of one head per warp and walks the keys in tiles. Scores never leave the
 * registers: S = Q K^T lies in them as the accumulators of m16n8k16, which, rounded to 16 bit, is
 * the layout of the left operand of P V. Two products of 32 rows per fragment of K or V halve the
 * reads of shared memory, which would otherwise be the limit.
 *
 * Source: Dao 2023 (FlashAttention-2), algorithm 1; Milakov and Gimelshein 2018 for the softmax.
 */
#include "core/ops/cuda_mma.cuh"

#include <math.h>

static const float ln_2 = 0.6931471805599453f;

/* ---- the kernel */

/* The scores S of a warp's 32 queries and a tile of keys become weights relative to the largest
 * score so far, packed as left operands. The caller multiplies what it has summed by SCALE, which
 * is 1 where the largest stayed; false where it stayed for the whole warp. */
template <class T, int KEYS>
static __device__ __forceinline__ bool weigh(uint32_t (*p)[KEYS / 16][4], float (*s)[KEYS / 8][4],
                                             float (*top)[2], float (*sum)[2], float (*scale)[2],
                                             float unit)
{
    bool moved = false;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) { /* rows g and g + 8 */
            float best = top[i][half], added = 0;
#pragma unroll
            for (int t = 0; t < KEYS / 8; t++)
                best = fmaxf(best, fmaxf(s[i][t][2 * half], s[i][t][2 * half + 1]));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
            moved |= best != top[i][half];
            scale[i][half] = exp_2((top[i][half] - best) * unit);
            top[i][half] = best;
            const float shift = best * unit;
#pragma unroll
            for (int t = 0; t < KEYS / 8; t++) {
                const float a = exp_2(fmaf(s[i][t][2 * half], unit, -shift));
                const float b = exp_2(fmaf(s[i][t][2 * half + 1], unit, -shift));
                added += a + b;
                p[i][t / 2][t % 2 * 2 + half] = pack<T>(a, b);
            }
            sum[i][half] = sum[i][half] * scale[i][half] + added;
        }
    return __any_sync(0xffffffffu, moved);
}

/* Block (h, b) answers rows [first, first + 32 WARPS) of head h, the last rows, which see most, at
 * b = 0: the long blocks start first and the short ones fill the gaps. The heads that share keys
 * are neighbours. Two tiles of K and V are in shared memory: one is worked on, the next arrives. */
template <class T, int D, int WARPS, int KEYS>
static __global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)
    attend(const struct cuda_prefill a, float unit)
{
    constexpr int row = 2 * D, tile = KEYS * row, queries = 32 * WARPS;
    constexpr bool hold = D == 64; /* the queries fit into registers beside the sums */
    extern __shared__ __align__(1024) char shared[];
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.x;
    const int first = (gridDim.y - 1 - blockIdx.y) * queries, mine = first + 32 * warp;
    const int end = a.pos0 + min(first + queries, a.n); /* of the keys that any row here sees */
    const size_t head = (size_t)(h / (a.H / a.G)) * a.room * row, stride = (size_t)a.H * row;

    /* what a lane addresses in a fragment: in Q and V rows first, in K chunks first */
    const uint32_t turn = lane & 7, across = lane / 8 % 2 * 8 + turn, down = lane / 16 * 8 + turn;
    const uint32_t q_at = base + (32 * warp + across) * line + ((lane / 16 ^ turn) << 4);
    const uint32_t k_at = base + queries * row + down * line + ((lane / 8 % 2 ^ turn) << 4);
    const uint32_t v_at = base + queries * row + tile + across * line + ((lane / 16 ^ turn) << 4);

    float o[2][D / 8][4] = {}, top[2][2], sum[2][2] = {};
    uint32_t q[2][hold ? D / 16 : 1][4];
    for (int i = 0; i < 4; i++) top[i / 2][i % 2] = -INFINITY;

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
        if (hold && key == 0) {
#pragma unroll
            for (int c = 0; c < D / 16; c++)
                for (int i = 0; i < 2; i++)
                    load_matrices(q[i][hold ? c : 0],
                                  (q_at ^ c % 4 << 5) + (c / 4 * queries + i * 16) * line);
        }
        if (mine >= a.n || key > a.pos0 + mine + 31) continue; /* no row of this warp sees it */

        float s[2][KEYS / 8][4] = {};
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
            if (!hold)
                for (int i = 0; i < 2; i++)
                    load_matrices(q[i][0], (q_at ^ c % 4 << 5) + (c / 4 * queries + i * 16) * line);
#pragma unroll
            for (int t = 0; t < KEYS / 16; t++) {
                uint32_t b[4];
                load_matrices(b, ((k_at + here) ^ c % 4 << 5) + (c / 4 * KEYS + t * 16) * line);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    multiply<T>(s[i][2 * t], q[i][hold ? c : 0], b[0], b[1]);
                    multiply<T>(s[i][2 * t + 1], q[i][hold ? c : 0], b[2], b[3]);
                }
            }
        }
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

        uint32_t p[2][KEYS / 16][4];
        float scale[2][2];
        if (weigh<T, KEYS>(p, s, top, sum, scale, unit)) {
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int t = 0; t < D / 8; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++) o[i][t][e] *= scale[i][e / 2];
        }
#pragma unroll
        for (int c = 0; c < KEYS / 16; c++)
#pragma unroll
            for (int t = 0; t < D / 16; t++) {
                uint32_t b[4];
                load_transposed(b, ((v_at + here) ^ t % 4 << 5) + (t / 4 * KEYS + c * 16) * line);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    multiply<T>(o[i][2 * t], p[i][c], b[0], b[1]);
                    multiply<T>(o[i][2 * t + 1], p[i][c], b[2], b[3]);
                }
            }
    }
    if (mine >= a.n) return;

    /* Through the place of the warp's own queries, so that whole rows are written. */
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = 16 * i + 8 * half + lane / 4;
            float all = sum[i][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            if (a.lse && lane % 4 == 0 && mine + r < a.n)
                a.lse[(size_t)(mine + r) * a.H + h] = top[i][half] * unit * ln_2 + logf(all);
            const float share = 1 / all;
            char *at = shared + (32 * warp + r) * line + lane % 4 * 4;
#pragma unroll
            for (int t = 0; t < D / 8; t++)
                *(uint32_t *)(at + t / 8 * queries * line + ((t % 8 ^ (r & 7)) << 4)) =
                    pack<T>(o[i][t][2 * half] * share, o[i][t][2 * half + 1] * share);
        }
    __syncwarp();
    for (int i = lane; i < 32 * (D / 8); i += 32) {
        const int r = i / (D / 8), chunk = i % (D / 8);
        if (mine + r < a.n)
            *(uint4 *)((char *)a.out + (mine + r) * stride + (size_t)h * row + chunk * 16) =
                *(uint4 *)(shared + (chunk / 8 * queries + 32 * warp + r) * line +
                           ((chunk % 8 ^ (r & 7)) << 4));
    }
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
