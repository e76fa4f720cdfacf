/* cuda_columns.cu - how much attention each key of a prefill receives, summed over the rows of a
 * chunk: Q K^T once more, with the rows' log-sum-exp known, and no softmax to wait for.
 *
 * A warp owns 32 keys of one query head. They are the left operand of m16n8k16 and stay in
 * registers while the rows of the chunk that see them come by in tiles, two in shared memory: one
 * is worked on, the next arrives. A lane's accumulators then belong to four keys, whose sums it
 * keeps. Every key has one owner and rows come in order: the same bits every time, no atomics.
 *
 * Source: Zhang et al. 2023 (H2O), section 4: accumulated attention scores.
 */
#include "core/ops/cuda_mma.cuh"

#include <math.h>

static __device__ __forceinline__ void copy_async_word(uint32_t to, const void *from, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

/* Block (b, h) owns the keys from 32 WARPS b on, those that all rows see first. Tiles have ROWS
 * rows, of which a warp weighs PART at a time. */
template <class T, int D, int WARPS, int ROWS, int PART>
static __global__ void __launch_bounds__(32 * WARPS, 2)
    columns(const struct cuda_columns a, float unit)
{
    constexpr int row = 2 * D, tile = ROWS * row;
    static_assert(ROWS % PART == 0 && PART % 16 == 0 && ROWS <= 32 * WARPS, "parts of a tile");
    extern __shared__ __align__(1024) char shared[];
    __shared__ __align__(16) float lse[2][ROWS];
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    const uint32_t lse_at = (uint32_t)__cvta_generic_to_shared(lse);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y;
    const int first = (int)blockIdx.x * 32 * WARPS, mine = first + 32 * warp;
    const int end = a.pos0 + a.n; /* of the keys */
    const size_t stride = (size_t)a.H * row, head = (size_t)(h / (a.H / a.G)) * a.room * row;
    const char *queries = (const char *)a.q + (size_t)h * row;
    const int start = max(first - a.pos0, 0) / ROWS * ROWS; /* rows before see none of the keys */

    /* a tile of rows from R on, and the log-sum-exp of each, to place HERE */
    const auto load = [&](int r, int here) {
        load_rows<D, ROWS, 32 * WARPS>(base + here * tile, queries + r * stride, stride, a.n - r);
        const int i = threadIdx.x;
        if (i < ROWS)
            copy_async_word(lse_at + 4 * (here * ROWS + i),
                            a.lse + (size_t)(r + i < a.n ? r + i : 0) * a.H + h, r + i < a.n);
    };
    load(start, 0);

    uint32_t k[2][D / 16][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) { /* keys g and g + 8 */
            const int key = min(mine + 16 * i + 8 * half + lane / 4, end - 1);
            const char *from = (const char *)a.k + head + (size_t)key * row + lane % 4 * 4;
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                k[i][c][half] = *(const uint32_t *)(from + 32 * c);
                k[i][c][half + 2] = *(const uint32_t *)(from + 32 * c + 16);
            }
        }

    /* what a lane addresses in a fragment of rows */
    const uint32_t turn = lane & 7, down = lane / 16 * 8 + turn;
    const uint32_t q_at = base + down * line + ((lane / 8 % 2 ^ turn) << 4);
    float sum[2][2] = {};

    for (int r = start, here = 0; r < a.n; r += ROWS, here ^= 1) {
        copy_async_wait();
        __syncthreads(); /* this tile is there, and nobody reads the one before any more */
        if (r + ROWS < a.n) load(r + ROWS, here ^ 1);
        if (mine >= end || mine > a.pos0 + r + ROWS - 1) continue; /* no row sees the warp's keys */
        const bool whole = mine + 31 <= a.pos0 + r && r + ROWS <= a.n;
#pragma unroll 1
        for (int p = 0; p < ROWS; p += PART) {
            float s[2][PART / 8][4] = {};
#pragma unroll
            for (int c = 0; c < D / 16; c++)
#pragma unroll
                for (int t = 0; t < PART / 16; t++) {
                    uint32_t b[4];
                    load_matrices(b, ((q_at + here * tile) ^ c % 4 << 5) +
                                         (c / 4 * ROWS + p + t * 16) * line);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        multiply<T>(s[i][2 * t], k[i][c], b[0], b[1]);
                        multiply<T>(s[i][2 * t + 1], k[i][c], b[2], b[3]);
                    }
                }
            if (!whole) {
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int t = 0; t < PART / 8; t++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            const int at = r + p + 8 * t + lane % 4 * 2 + e % 2;
                            const int key = mine + 16 * i + e / 2 * 8 + lane / 4;
                            if (at >= a.n || key > a.pos0 + at) s[i][t][e] = -INFINITY;
                        }
            }
#pragma unroll
            for (int t = 0; t < PART / 8; t++) {
                const float2 of = *(const float2 *)&lse[here][p + 8 * t + lane % 4 * 2];
                const float shift[2] = {of.x * log2_e, of.y * log2_e};
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        sum[i][e / 2] += exp_2(fmaf(s[i][t][e], unit, -shift[e % 2]));
            }
        }
    }

#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int key = mine + 16 * i + 8 * half + lane / 4;
            float all = sum[i][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            if (lane % 4 == 0 && key < end) a.sums[(size_t)h * a.span + key] += all;
        }
}

template <class T, int D> static int start(const struct cuda_columns *a, cudaStream_t stream)
{
    constexpr int WARPS = 8, ROWS = 64;
    const dim3 grid((unsigned)((a->pos0 + a->n - 1) / (32 * WARPS) + 1), (unsigned)a->H);
    columns<T, D, WARPS, ROWS, 32>
        <<<grid, 32 * WARPS, 2 * ROWS * 2 * D, stream>>>(*a, log2_e / sqrtf((float)D));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

int cuda_attention_columns(const struct cuda_columns *a, cudaStream_t stream)
{
    if (a->type != DTYPE_BF16 && a->type != DTYPE_F16)
        return fail("sums of attention: expected bf16 or f16, got %s", dtype_name(a->type));
    if (a->D != 64 && a->D != 128)
        return fail("sums of attention: expected a head width of 64 or 128, got %d", a->D);
    if (a->G < 1 || a->H < 1 || a->H > 65535 || a->H % a->G != 0)
        return fail("sums of attention: %d query heads do not share %d kv heads", a->H, a->G);
    if (a->n < 0 || a->pos0 < 0 || a->n > a->room - a->pos0 || a->span < (size_t)(a->pos0 + a->n))
        return fail("sums of attention: rows %d .. %d do not fit into room for %d, or sums for %zu",
                    a->pos0, a->pos0 + a->n - 1, a->room, a->span);
    if (a->n == 0) return 0;
    if (a->D == 64) WITH_TYPE(a->type, return (start<T, 64>(a, stream)));
    WITH_TYPE(a->type, return (start<T, 128>(a, stream)));
}

/* Grid [.., H]. */
static __global__ void __launch_bounds__(256) add_row(float *sums, size_t span, const float *logits,
                                                      size_t wide, const float *lse, const int *pos)
{
    pdl_trigger();
    pdl_wait();
    const int end = __ldcg(pos) + 1, h = blockIdx.y;
    const float off = __ldcg(&lse[h]);
    for (int t = (int)(blockIdx.x * blockDim.x + threadIdx.x); t < end; t += gridDim.x * blockDim.x)
        sums[h * span + t] += expf(__ldcg(&logits[h * wide + t]) - off);
}

int cuda_columns_row(float *sums, size_t span, const float *logits, size_t wide, const float *lse,
                     const int *pos, int H, cudaStream_t stream)
{
    const size_t blocks = (span + 255) / 256;
    if (H < 1 || H > 65535 || span < 1) return fail("sums of attention: %d heads", H);
    return launch(add_row, dim3((unsigned)(blocks < 256 ? blocks : 256), (unsigned)H), dim3(256), 0,
                  stream, sums, span, logits, wide, lse, pos);
}
