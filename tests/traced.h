/* traced.h - whole traces of the pocket model for tests, and how far two of them are apart. */
#ifndef TESTS_TRACED_H
#define TESTS_TRACED_H

#include "core/ops/ops.h"

#include <stdbool.h>

struct traced {
    const char *config; /* JSON */
    const char *fields;
    int top; /* 0: 256 */
    bool f32;
};

/* Traces two known texts on DEVICE into PATH; OPS, unless NULL, stands in for the device's. 0, or
 * -1 after fail(), muted. */
int traced_run(const char *path, const char *device, const struct ops *ops,
               const struct traced *how);

/* How far the values of a field are apart, over all steps: scores over 1 + their size, where both
 * looked; the mass of the top where both have it; sums of a prefill over 1 + their size; the rest
 * as it is. */
enum gap_field {
    GAP_SCORE,
    GAP_MASS,
    GAP_TOP_MASS,
    GAP_TOTAL,
    GAP_IMPORTANCE,
    GAP_REUSE,
    GAP_PREFILL,
    GAP_FIELDS
};
struct traced_off {
    double worst, mean; /* the largest; the root of the mean square */
    size_t n;           /* values compared */
};
struct traced_gap {
    struct traced_off off[GAP_FIELDS];
    double shape;            /* largest share of a layer's positions at which only one looked */
    double common, selected; /* least share of a top, and of a selection, that both have */
    double mean_common, mean_selected; /* over all of them */
    int beyond; /* of a top alone, and further from the border than twice CLOSE in score */
    int differ; /* values of other bits */
    size_t tops, selections; /* compared */
};

/* 0, or -1 after fail(), muted: not the same samples, steps and fields. */
int traced_compare(const char *one, const char *other, double close, struct traced_gap *gap);

#endif
