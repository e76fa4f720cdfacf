/* choose.h - choosing the filter layers from a matrix: quality, cost, and the algorithms.
 *
 * A choice is a set of filter layers f1 < ... < fm and a number W of wait layers. Its full layers
 * are 0..f1 and, for every filter f, f..f+W cut at the next filter and at L; their number is the
 * cost, so that a late first filter is not free. Every other layer j is served by the nearest
 * filter f below it. Its quality is
 *     sum_j w[j] q[j] / sum_j w[j],   q[j] = 1 for a full layer, S[f, j] for a served one.
 */
#ifndef ANALYZE_CHOOSE_H
#define ANALYZE_CHOOSE_H

#include "core/base/base.h"

struct choice {
    int *filter, n; /* ascending; owned */
    int wait, cost;
    double quality;
};

struct choose_problem {
    int L, wait;
    const double *S; /* [L, L], used for j > i */
    const double *w; /* [L], not negative, with a positive sum */
    int filters;     /* exactly so many; 0: any number */
    int max_full;    /* at most so many full layers */
    int segment;     /* of the curve that peaks are read from */
};

enum algorithm { UNIFORM, PEAKS, GREEDY, DP, EXHAUSTIVE, ALGORITHMS };
const char *algorithm_name(enum algorithm a);

/* The algorithm called NAME, or -1 after fail(). */
int algorithm_find(const char *name);

/* Number of full layers of the N filters F, ascending. */
int choose_cost(const int *f, int n, int wait, int L);

/* Quality of the N filters F, ascending. */
double choose_quality(const struct choose_problem *p, const int *f, int n);

/* How many sets of filter layers satisfy the constraints; exhaustive refuses more than MOST_SETS, a
 * few seconds' work. */
#define MOST_SETS 20000000.0
double choose_sets(const struct choose_problem *p);

/* The best choices that A finds, one for each cost that improves on all lower ones, in ascending
 * order of cost: *FRONT [*n], which the caller frees with choose_free(). Ties go to the lower cost,
 * then to the lower layers. *n = 0 when nothing satisfies the constraints. 0, or -1 after fail():
 * too many sets to enumerate. */
int choose_front(const struct choose_problem *p, enum algorithm a, struct choice **front, int *n);

void choose_free(struct choice *front, int n);

/* The number of the choice on FRONT to take: with KEEP > 0 the cheapest of at least that quality
 * (the last when none reaches it); otherwise the best when BEST; otherwise the knee, the choice
 * farthest above the straight line from the first choice to (L, 1). */
int choose_pick(const struct choice *front, int n, int L, double keep, bool best);

#endif
