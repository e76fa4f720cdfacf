/* bench.h - okv bench: what its points share. */
#ifndef CORE_CMD_BENCH_H
#define CORE_CMD_BENCH_H

#include "core/cmd/common.h"

struct bench {
    struct engine *engine;
    const int *text; /* tokens to prefill with, or NULL: random ones */
    int n_text;
    int warm, steps;         /* of a point: to warm up, and measured at most */
    bool prefill, prefilled; /* for real; once has been */
    bool budgets;            /* a method runs at several: they are part of dumps' names */
    double rate[CEILINGS];
    struct trace_spec trace; /* fields NULL: nothing is traced */
    const char *dumps;       /* stem of the dumps' names */
};

/* The header row, and the row of method CONFIG, called LABEL, at CONTEXT tokens; a point without
 * memory has its reason in a comment line above its row. 0, or -1 after fail(). */
void bench_columns(FILE *f);
int bench_point(struct bench *b, FILE *f, const char *label, const struct run_config *config,
                int context);

/* The table of --kernels. 0, or -1 after fail(). */
int bench_kernels(const struct bench *b, FILE *f, const int *contexts, int n, int k);

#endif
