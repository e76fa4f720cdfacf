/* simd.h - the kernels that cpu_simd.c compiles once per instruction set, behind one table.
 *
 * They are single-threaded pieces over fixed tiles; cpu.c spreads them over the cores.
 */
#ifndef CORE_OPS_SIMD_H
#define CORE_OPS_SIMD_H

#include "core/base/half.h"

#include <stddef.h>
#include <stdint.h>

#define TILE_KEYS 64      /* keys a tile of attend_tile() covers at a time */
#define CHUNK_KEYS 512    /* positions one task of attend_rows() covers: long enough to stream */
#define MAX_TILE_LANES 64 /* (row, head) pairs a tile holds, at most */

struct simd {
    const char *name;
    int lanes; /* (row, head) pairs of an attention tile */

    /* out[r * out_stride + o] = sum over c of w[o, c] * x[r, c], for o < outs, r < rows <= 4. */
    void (*matvec)(float *out, size_t out_stride, const void *w, enum dtype type, int outs,
                   int cols, const float *x, int rows);

    void (*widen)(float *out, const void *in, enum dtype type, size_t n);

    /* out = x / rms(x) * w, [n]. */
    void (*rms_norm)(float *out, const float *x, const float *w, int n, float eps);

    /* gate = silu(gate) * up, [n]. */
    void (*silu_mul)(float *gate, const float *up, size_t n);

    /* dots[r * stride + i] = scale * q[r, :] . k[pos[i], :] for i < count, r < rows; rows of P. */
    void (*dots)(float *dots, size_t stride, const float *q, int rows, const float *k,
                 const int *pos, int count, int P, float scale);

    /* One chunk of positions for ROWS query heads that share a kv head, from the logits that dots()
     * left: acc[r, :] = sum of exp(logit - max[r]) * v[pos[i], :], sum[r] of the weights. P_WORK is
     * [rows, CHUNK_KEYS]. */
    void (*weigh)(float *acc, float *max, float *sum, const float *dots, size_t stride, int rows,
                  const float *v, const int *pos, int count, int P, float *p_work);

    /* One tile of causal attention, lanes across: qt [P, lanes] queries, scaled and transposed;
     * a lane sees the keys [begin, end) (end 0: the lane is unused; BEGIN NULL: from 0), least and
     * most are the extremes of end over used lanes; out_t [P, lanes], lse [lanes]. A lane without a
     * key has lse -inf and no output. */
    void (*attend_tile)(float *out_t, float *lse, const float *qt, const int *begin, const int *end,
                        int least, int most, const float *k, const float *v, int P);

    /* sums[t - t0] += weights that all lanes of a tile give key t in [t0, t0 + count), each lane
     * under its LSE; LANE_HEAD[lane] is the row of sums (stride) the lane adds to, -1 unused; NULL:
     * all lanes add to one row. */
    void (*tile_columns)(float *sums, size_t stride, const float *qt, const float *lse,
                         const int *begin, const int *end, const int *lane_head, const float *k,
                         int t0, int count, int P);

    /* best[t] = max over rows of logits[r * stride + t]. */
    void (*max_rows)(float *best, const float *logits, size_t stride, int rows, int T);

    /* best[t] = max over rows of exp(logits - lse[r]) (MEAN: mean over rows). */
    void (*weigh_rows)(float *best, const float *logits, size_t stride, const float *lse, int rows,
                       int T, int mean);

    /* at [.. T] = the positions whose score [T] is at least LEAST, ascending. Returns how many. */
    int (*reach)(int *at, const float *score, int T, float least);

    /* The K-th largest of KEY [n], 1 <= K <= n. */
    uint32_t (*kth_largest)(const uint32_t *key, int n, int k);

    /* log of the sum of exp(x), [n]. */
    float (*log_sum_exp)(const float *x, int n);
};

extern const struct simd simd_avx512, simd_avx2, simd_plain;

/* The one that ops_cpu() chose (cpu.c). */
const struct simd *simd_in_use(void);

#endif
