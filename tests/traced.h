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

/* Of two dumps, the worst of all steps. */
struct traced_gap {
    double score; /* over 1 + its size, where both looked */
    double shape; /* share of the positions of a layer at which only one looked */
    double mass, top_mass, total, importance, reuse; /* absolute; the top's where both have it */
    double common, selected; /* least share of the top, and of a selection, that both have */
    int beyond; /* of a top alone, and further from the border than twice CLOSE in score */
    int differ; /* values of other bits */
};

/* 0, or -1 after fail(), muted: not the same samples, steps and fields. */
int traced_compare(const char *one, const char *other, double close, struct traced_gap *gap);

#endif
