/* measure.h - the numbers behind every table: pure functions of arrays; docs/metrics.md defines
 * them.
 *
 * Rows are candidates t in [0, n), 0-based. A value that is NaN counts as -infinity, so that what a
 * sparse layer did not look at is never preferred to what it saw. Sums run in double, in an order
 * that depends on nothing but the arguments.
 */
#ifndef ANALYZE_MEASURE_H
#define ANALYZE_MEASURE_H

#include "core/base/base.h"

/* Working memory of measure_topk(), one per thread; all zero is empty. */
struct topk_scratch {
    int32_t *key, *head; /* [room], [room / 16 + 1] */
    int32_t *pool, *work;
    int *where;   /* [room] */
    float *value; /* [room] */
    int room;
};
void topk_scratch_free(struct topk_scratch *s);

/* The min(k, n) largest of x [n], as ascending indices in out; equal values go to the lower index,
 * and -0 equals +0. Exact, in time linear in n. Returns min(k, n). */
int measure_topk(const float *x, int n, int k, int *out, struct topk_scratch *s);

/* The same among the entries x[set[0..m)], set ascending: measure_topk() of a set that is known to
 * hold the answer. out may be set itself. */
int measure_topk_of(const float *x, const int *set, int m, int k, int *out, struct topk_scratch *s);

/* out[t] = exp(x[t] - max x) for t < n, and returns their sum: a softmax is out[t] / sum. Relative
 * error below 2e-7; an exponent below -87 gives 0. Where the largest value is +infinity, all such
 * entries share equally. A row of -infinity gives zeros and returns 0. out may be x. */
double measure_exp(float *out, const float *x, int n);

/* Sum of x[idx[0..k)]. */
double measure_gather(const float *x, const int *idx, int k);

/* Sum of x[0..n). */
double measure_sum(const float *x, int n);

/* A set as bits: words [ (n + 63) / 64 ]. */
void measure_mark(uint64_t *words, int n, const int *idx, int k);

/* How many of idx[0..k) are marked. */
int measure_common(const uint64_t *words, const int *idx, int k);

/* The value of layer i from the matrix S [L, L]: the mean of S[i, j] over j in [i, min(i + n, L));
 * without SELF over j in (i, min(i + n, L)), and S[i, i] where that is empty (the last layer). With
 * W [L] each j counts W[j], unless those of a segment do not sum to more than 0. */
double measure_segment(const double *S, const double *w, int L, int i, int n, bool self);

/* Per-sample values v [N, L] to the mean, and to the 2.5 % and 97.5 % points (numpy's linear
 * percentile) of RESAMPLES means over N samples drawn with replacement; rows that begin with a NaN
 * are left out throughout. All are NaN when no row is left; with one row, low = high = its value.
 * Source: percentile bootstrap, Efron 1979. */
void measure_bootstrap(const double *v, int N, int L, int resamples, uint64_t seed, double *mean,
                       double *low, double *high);

#endif
