/* collect.h - one pass over the dumps: layer by layer matrices of every metric, summed on the fly.
 *
 * A step is read, measured and forgotten; what is kept are sums per metric and k. Per-sample values
 * (for the bootstrap) go through a temporary file, so that memory does not grow with the samples.
 */
#ifndef ANALYZE_COLLECT_H
#define ANALYZE_COLLECT_H

#include "analyze/dumps.h"

enum metric { M1, M1X, M2, M2W, M4, M7, M8, M11, M11W, M12, M15, METRICS };
#define METRIC_BIT(m) (1u << (m))
#define ALL_METRICS ((1u << METRICS) - 1)

struct metric_info {
    const char *name;
    bool pair;      /* a matrix [i, j]; otherwise one value a layer */
    bool self;      /* the layer value includes j = i */
    bool partial;   /* defined for j >= i only */
    enum metric of; /* the metric that this one weights by importance, or itself */
    const char *what;
};
const struct metric_info *metric_info(enum metric m);

/* The metric called NAME, or -1 after fail(). */
int metric_find(const char *name);

/* Whether PICKED is served by a dump depends on its fields; NAMED says which metrics must be. */
struct collect_options {
    uint32_t metrics, named; /* bits of enum metric */
    const int *k;            /* [nk] budgets, in tokens */
    int nk;
    int sinks, recent; /* left out by m1x: the first and the last prefill tokens */
    bool values;       /* keep what collect_values() needs */
};

/* The things that are summed; metrics are made of them at the end. */
enum sum { SIM, SIMX, RATIO, COMMON, SHARED, COSINE, KEPT, COVER, LAG, WEIGHT, SUMS };

struct collect {
    int L, R; /* layers; rows a layer of RATIO: kv heads, or 1 for mass */
    int nk, *k, reuse_k;
    uint32_t served; /* the metrics that the dumps can serve, of those asked for */
    bool from_score; /* sets come from `score`; otherwise from `topk_idx` */
    int sinks, recent;
    int samples;     /* that took part */
    size_t at[SUMS]; /* where each sum begins, in doubles */
    size_t stride[SUMS];
    size_t size;
    double *sample, *total; /* [size] */
    bool valid[SUMS];       /* whether the current sample has it */
    int count[SUMS];        /* samples in total */
    FILE *spill;            /* each sample's valid[] and sample[] */
    char *notes;            /* lines for the table's head: sources, choices, what was left out */
};

/* 0, or -1 after fail(). collect_free() releases C in either case. */
int collect_run(struct collect *c, const struct dumps *s, const struct collect_options *o);
void collect_free(struct collect *c);

/* The matrix S [L, L] of a pair metric: mean over steps, then over samples; NaN where undefined. */
void collect_matrix(const struct collect *c, enum metric m, int ki, double *S);

/* S(i, j)[h', h] at [((i * L + j) * R + h') * R + h]: M2 before heads are pooled. */
const double *collect_heads(const struct collect *c, int ki);

/* The source head of target head h: the lowest h' that maximises S [R, R], one pair of layers. */
int collect_best_head(const double *S, int R, int h);

/* Mean M3 of each layer, [L]; false when no importance was traced. */
bool collect_weights(const struct collect *c, double *w);

/* Layer values of M with a bootstrap interval over samples, [L] each; SEGMENT layers a mean, which
 * m11w weights by importance. In a resample the source heads (M2) and weights (M3) stay those of
 * all samples. 0, or -1 after fail(). */
int collect_values(const struct collect *c, enum metric m, int ki, int segment, int resamples,
                   uint64_t seed, double *mean, double *low, double *high);

/* The k that metric M was measured at: k[ki], or the recorded one for m8, 0 when it has none. */
int collect_k(const struct collect *c, enum metric m, int ki);

#endif
