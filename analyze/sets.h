/* sets.h - the sets of one step: every layer's top k of a few budgets k, by score. */
#ifndef ANALYZE_SETS_H
#define ANALYZE_SETS_H

#include "analyze/dumps.h"
#include "analyze/measure.h"

struct sets {
    int L, nk, cap;
    const int *k; /* [nk], the caller's */
    int *idx;     /* [nk, L, cap], each ascending */
    int *n;       /* [nk, L] entries of each */
    float *row;   /* [L, T] the scores last read */
    size_t room, row_room;
    struct topk_scratch scratch;
};

/* Empty sets for the NK budgets K, which must outlive S. */
void sets_start(struct sets *s, int L, const int *k, int nk);
void sets_free(struct sets *s);

/* *NEED = the fields to ask dumps_sample() for: `score`, or nothing where every sample that lacks
 * it has a topk_idx that all k fit into. 0, or -1 after fail(). */
int sets_need(const struct sets *s, const struct dumps *d, uint32_t *need);

/* Reads the sets of one step from the recorded score, or topk_idx without. 0, or -1 after fail().
 */
int sets_read(struct sets *s, struct dump *d, int index, const struct dump_sample_info *info,
              int step);

/* The set of LAYER for the budget number KI; *N is its size. */
const int *sets_of(const struct sets *s, int ki, int layer, int *n);

/* Exchanges two sets of the same budgets: this step's becomes the last one's. */
void sets_swap(struct sets *a, struct sets *b);

/* The filter layer that serves each layer: nearest[j] = the nearest of F[0..n) below j, or -1 where
 * layer j sees everything by itself (see choose.h). */
void sets_nearest(int *nearest, int L, const int *f, int n, int wait);

/* Checks that F [N] ascends within [0, L). 0, or -1 after fail() naming the option WHAT. */
int sets_check_layers(const char *what, const int *f, int n, int L);

#endif
