/* search.h - how a choice of filter layers is found, shared by search and export. */
#ifndef ANALYZE_SEARCH_H
#define ANALYZE_SEARCH_H

#include "analyze/choose.h"
#include "analyze/collect.h"
#include "core/base/command.h"

struct search_options {
    const char *metric; /* NULL: the default */
    const char *algorithm;
    int k, filters, max_full, wait, segment, sinks, recent; /* 0: not given, for the first three */
    double keep;
};

/* The defaults, and the rows of an option table that fill O. The metric is the first of these that
 * the dumps serve; docs/metrics.md has the evidence. */
#define SEARCH_DEFAULT_METRIC "m11w" /* where mass, score and importance were traced */
#define SEARCH_SECOND_METRIC "m8"    /* where reuse_error was traced at the k asked for */
#define SEARCH_FALLBACK_METRIC "m1"
#define SEARCH_DEFAULT_ALGORITHM "dp"
#define SEARCH_DEFAULTS                                                                            \
    {                                                                                              \
        .algorithm = SEARCH_DEFAULT_ALGORITHM, .k = 32, .segment = 8, .sinks = 4, .recent = 32     \
    }
#define SEARCH_SPECS(o)                                                                            \
    {"--metric", OPT_STRING, &(o).metric, 0, 0},                                                   \
        {"--algorithm", OPT_STRING, &(o).algorithm, 0, 0}, {"--k", OPT_INT, &(o).k, 1, INT_MAX},   \
        {"--filters", OPT_INT, &(o).filters, 1, INT_MAX},                                          \
        {"--max-full", OPT_INT, &(o).max_full, 1, INT_MAX},                                        \
        {"--wait", OPT_INT, &(o).wait, 0, INT_MAX}, {"--keep", OPT_DOUBLE, &(o).keep, 0, 1},       \
        {"--segment", OPT_INT, &(o).segment, 1, INT_MAX},                                          \
        {"--sinks", OPT_INT, &(o).sinks, 0, 1 << 30},                                              \
    {                                                                                              \
        "--recent", OPT_INT, &(o).recent, 0, 1 << 29                                               \
    }
#define SEARCH_USAGE                                                                               \
    "  --metric NAME     m1 m1x m2 m2w m4 m7 m8 m11 or m11w [" SEARCH_DEFAULT_METRIC               \
    " where mass, score\n"                                                                         \
    "                    and importance were traced, otherwise " SEARCH_SECOND_METRIC              \
    " where reuse_error was\n"                                                                     \
    "                    at --k, otherwise " SEARCH_FALLBACK_METRIC "]\n"                          \
    "  --algorithm NAME  uniform, peaks, greedy, dp or exhaustive [" SEARCH_DEFAULT_ALGORITHM      \
    "]\n"                                                                                          \
    "  --k K             tokens in a set [32]\n"                                                   \
    "  --filters F       exactly F filter layers [any number]\n"                                   \
    "  --max-full N      at most N full layers [all]\n"                                            \
    "  --wait W          full layers after each filter layer [0]\n"                                \
    "  --keep Q          take the cheapest choice of at least this quality, 0 to 1\n"              \
    "  --segment N       layers in the curve that peaks are read from [8]\n"                       \
    "  --sinks N, --recent N  tokens m1x leaves out [4, 32]\n"

/* The fronts of the algorithms asked for ("all": each of them). */
struct search_result {
    struct choice *front[ALGORITHMS]; /* [n[a]]; empty for those not asked for */
    int n[ALGORITHMS];
    const struct choice *pick;
    enum algorithm pick_by;
    char *rule;  /* one line: how pick was taken */
    char *notes; /* lines for a table's head */
};

/* Measures S and searches. 0, or -1 after fail(). search_free() releases R in either case. */
int search_run(struct search_result *r, const struct dumps *s, const struct search_options *o);
void search_free(struct search_result *r);

/* "0,4,9" in new memory. */
char *layer_list(const int *f, int n);

#endif
