/* cuda_flash.cuh - what a warp does with a tile of keys in attention of many rows, by mma.sync.
 *
 * A warp answers 32 queries. Scores never leave the registers: S = Q K^T lies in them as the
 * accumulators of m16n8k16, which, rounded to 16 bit, is the layout of the left operand of P V. Two
 * products of 16 rows per fragment of K or V halve the reads of shared memory, which would
 * otherwise be the limit. In shared memory lie the QUERIES of a block, then two tiles of K and V,
 * KEYS rows each: one is worked on, the next arrives.
 *
 * Source: Dao 2023 (FlashAttention-2), algorithm 1; Milakov and Gimelshein 2018 for the softmax.
 */
#ifndef CORE_OPS_CUDA_FLASH_CUH
#define CORE_OPS_CUDA_FLASH_CUH

#include "core/ops/cuda_mma.cuh"

#include <math.h>

static constexpr float ln_2 = 0.6931471805599453f;

/* A lane's part of what its warp knows of 32 queries. */
template <int D, int QUERIES, int KEYS> struct flash {
    static constexpr bool hold = D == 64; /* the queries fit into registers beside the sums */
    static constexpr int row = 2 * D, tile = KEYS * row;
    float o[2][D / 8][4];       /* sums of weighted values, */
    float top[2][2], sum[2][2]; /* the largest score and the sum of weights of rows g and g + 8 */
    uint32_t q[2][hold ? D / 16 : 1][4];
    uint32_t q_at, k_at, v_at; /* what it addresses: in Q and V rows first, in K chunks first */
};

template <int D, int QUERIES, int KEYS>
static __device__ __forceinline__ void flash_start(flash<D, QUERIES, KEYS> &f, uint32_t base)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t turn = lane & 7, across = lane / 8 % 2 * 8 + turn;
    const uint32_t down = lane / 16 * 8 + turn, keys = base + QUERIES * f.row;
    f.q_at = base + (32 * warp + across) * line + ((lane / 16 ^ turn) << 4);
    f.k_at = keys + down * line + ((lane / 8 % 2 ^ turn) << 4);
    f.v_at = keys + f.tile + across * line + ((lane / 16 ^ turn) << 4);
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int t = 0; t < D / 8; t++)
#pragma unroll
            for (int e = 0; e < 4; e++) f.o[i][t][e] = 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            f.top[i][half] = -INFINITY;
            f.sum[i][half] = 0;
        }
    }
}

/* The queries are in shared memory. */
template <int D, int QUERIES, int KEYS>
static __device__ __forceinline__ void flash_queries(flash<D, QUERIES, KEYS> &f)
{
#pragma unroll
    for (int c = 0; f.hold && c < D / 16; c++)
        for (int i = 0; i < 2; i++)
            load_matrices(f.q[i][f.hold ? c : 0],
                          (f.q_at ^ c % 4 << 5) + (c / 4 * QUERIES + i * 16) * line);
}

/* S [32, KEYS] = Q K^T of the tile at HERE. */
template <class T, int D, int QUERIES, int KEYS>
static __device__ __forceinline__ void flash_scores(flash<D, QUERIES, KEYS> &f,
                                                    float (*s)[KEYS / 8][4], uint32_t here)
{
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        if (!f.hold)
            for (int i = 0; i < 2; i++)
                load_matrices(f.q[i][0], (f.q_at ^ c % 4 << 5) + (c / 4 * QUERIES + i * 16) * line);
#pragma unroll
        for (int t = 0; t < KEYS / 16; t++) {
            uint32_t b[4];
            load_matrices(b, ((f.k_at + here) ^ c % 4 << 5) + (c / 4 * KEYS + t * 16) * line);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                multiply<T>(s[i][2 * t], f.q[i][f.hold ? c : 0], b[0], b[1]);
                multiply<T>(s[i][2 * t + 1], f.q[i][f.hold ? c : 0], b[2], b[3]);
            }
        }
    }
}

/* The scores S become weights relative to the largest score so far, packed as left operands, and
 * the values of the tile at HERE are added. SOME: a row may have seen nothing so far. */
template <class T, bool SOME, int D, int QUERIES, int KEYS>
static __device__ __forceinline__ void flash_add(flash<D, QUERIES, KEYS> &f,
                                                 float (*s)[KEYS / 8][4], uint32_t here, float unit)
{
    uint32_t p[2][KEYS / 16][4];
    float scale[2][2];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) { /* rows g and g + 8 */
            float best = f.top[i][half], added = 0;
#pragma unroll
            for (int t = 0; t < KEYS / 8; t++)
                best = fmaxf(best, fmaxf(s[i][t][2 * half], s[i][t][2 * half + 1]));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
            moved |= best != f.top[i][half];
            const float from = SOME && best == -INFINITY ? 0 : best, shift = from * unit;
            scale[i][half] = exp_2((f.top[i][half] - from) * unit);
            f.top[i][half] = best;
#pragma unroll
            for (int t = 0; t < KEYS / 8; t++) {
                const float a = exp_2(fmaf(s[i][t][2 * half], unit, -shift));
                const float b = exp_2(fmaf(s[i][t][2 * half + 1], unit, -shift));
                added += a + b;
                p[i][t / 2][t % 2 * 2 + half] = pack<T>(a, b);
            }
            f.sum[i][half] = f.sum[i][half] * scale[i][half] + added;
        }
    if (__any_sync(0xffffffffu, moved)) {
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int t = 0; t < D / 8; t++)
#pragma unroll
                for (int e = 0; e < 4; e++) f.o[i][t][e] *= scale[i][e / 2];
    }
#pragma unroll
    for (int c = 0; c < KEYS / 16; c++)
#pragma unroll
        for (int t = 0; t < D / 16; t++) {
            uint32_t b[4];
            load_transposed(b, ((f.v_at + here) ^ t % 4 << 5) + (t / 4 * KEYS + c * 16) * line);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                multiply<T>(f.o[i][2 * t], p[i][c], b[0], b[1]);
                multiply<T>(f.o[i][2 * t + 1], p[i][c], b[2], b[3]);
            }
        }
}

/* OUT [n, H, D] and LSE [n, H] (unless NULL) of the warp's rows, from row MINE on, of head h of H.
 * They go through the place of the warp's own queries in SHARED, so that whole rows are written. */
template <class T, int D, int QUERIES, int KEYS>
static __device__ __forceinline__ void flash_end(flash<D, QUERIES, KEYS> &f, char *shared,
                                                 void *out, float *lse, int mine, int n, int h,
                                                 int H, float unit)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t stride = (size_t)H * f.row;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = 16 * i + 8 * half + lane / 4;
            float all = f.sum[i][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            if (lse && lane % 4 == 0 && mine + r < n)
                lse[(size_t)(mine + r) * H + h] = f.top[i][half] * unit * ln_2 + logf(all);
            const float share = 1 / all;
            char *at = shared + (32 * warp + r) * line + lane % 4 * 4;
#pragma unroll
            for (int t = 0; t < D / 8; t++)
                *(uint32_t *)(at + t / 8 * QUERIES * line + ((t % 8 ^ (r & 7)) << 4)) =
                    pack<T>(f.o[i][t][2 * half] * share, f.o[i][t][2 * half + 1] * share);
        }
    __syncwarp();
    for (int i = lane; i < 32 * (D / 8); i += 32) {
        const int r = i / (D / 8), chunk = i % (D / 8);
        if (mine + r < n)
            *(uint4 *)((char *)out + (mine + r) * stride + (size_t)h * f.row + chunk * 16) =
                *(uint4 *)(shared + (chunk / 8 * QUERIES + 32 * warp + r) * line +
                           ((chunk % 8 ^ (r & 7)) << 4));
    }
}

#endif
