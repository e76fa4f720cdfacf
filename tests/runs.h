/* runs.h - runs of a model along known tokens, for tests that compare them. */
#ifndef TESTS_RUNS_H
#define TESTS_RUNS_H

#include "core/method/method.h"

/* A random model of eight layers, deeper than the golden ones, on the CPU. */
bool deep_model(struct model *m);

/* ---- rows of logits */

/* The standard deviation of X [n]. */
double deviation_of(const float *x, size_t n);

/* What comparisons of rows of logits found. */
struct found {
    double row, worst; /* the worst row's root mean square, the worst logit */
    double squares;    /* the sum of the rows' mean squares */
    long rows, same;   /* of them with the same largest logit */
};
void compare_rows(struct found *f, const float *got, const float *want, int n, int V);

/* The tokens of the suite, one line after the other: text the pocket model was made for. The caller
 * frees them. */
int *text_ids(int n);

/* ---- runs */

/* What a session did along ids[from, n) under a config. */
struct run {
    int from, n, V;
    float *logits; /* [n - from, V] before each of them */
    float *nll;    /* [n - from] */
    int M, sets, stride;
    int *count, *picked; /* [n - from, M]; [n - from, M, sets, stride]: of the step after each */
    struct method *method;
    struct run_config config;
};
bool run_open(struct run *w, const struct model *m, const char *text, int from, int n);
void run_close(struct run *w);

#define KEPT 15 /* queries of the prefill that sessions keep */

/* A session for W with room for its tokens, or (APART) one that knows nothing of its method. */
struct session *session_for(const struct run *w, const struct model *m, bool apart);

/* Prefills N tokens; FIRST [V] are the logits after them. */
bool start(struct session *s, const int *ids, int n, float *first);

/* Feeds ids[from, n - 1) to S, which holds the prefill that FIRST is of; with FORGET no step is a
 * replay. Checks what is said of each row of logits. */
bool walk(struct run *w, struct session *s, const int *ids, const float *first, bool forget);

/* All of it, in a session of its own. */
bool run_whole(struct run *w, const struct model *m, const int *ids, int from, int n,
               const char *text, bool forget, bool apart);

/* The share of the positions selected under WANT that GOT has too; -1 where the sizes differ. */
double overlap_of(const struct run *got, const struct run *want);
bool same_bits(const struct run *a, const struct run *b);

#endif
