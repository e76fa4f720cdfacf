/* method.h - a way to decode: what each layer attends to at each step, and for some at prefill.
 *
 * Each file beside this one that is named after a method provides it. A method drops nothing from
 * the cache; it only says, through forward()'s hooks, which positions a layer looks at.
 * docs/methods.md defines them.
 */
#ifndef CORE_METHOD_METHOD_H
#define CORE_METHOD_METHOD_H

#include "core/method/run_config.h"
#include "core/model/forward.h"

struct method {
    struct hooks hooks; /* for forward(); hooks.ctx is the method itself */
    const struct run_config *config;
    const struct model *model;

    /* Called by method_prefill() before a prefill of N tokens; NULL for a method that does nothing
     * in a prefill, so that others may go on from the same one. 0, or -1 after fail(). */
    int (*start)(struct method *m, struct session *s, int n);
    /* Called by method_begin() after each prefill, before the first step. */
    int (*begin)(struct method *m, struct session *s);
    /* Says on stderr what the runs since method_open() were like, or NULL. */
    void (*report)(const struct method *m);
    void (*close)(struct method *m);

    /* Adds to PLAN, whose room is known, what the method needs of a session. */
    void (*plan)(const struct method *m, struct session_plan *plan);

    bool one_by_one;  /* a step depends on the steps before it: known tokens go one at a time */
    bool relative;    /* tokens are not seen at the distances they have in the text */
    int full_layers;  /* layers that attend to everything at each step */
    int keep_queries; /* prefill queries the session must keep */

    /* What the last pass selected at filter layer FILTER (0 .. M-1), for traces: row R's positions,
     * SETS sets of [*count], each ascending, STRIDE entries apart. NULL for methods that select
     * nothing. */
    const int *(*selection)(const struct method *m, int filter, int r, int *count);
    /* The same where it lies, in the backend's memory; the address stays after begin(). */
    const struct selection *(*state)(const struct method *m, int filter);
    int M;             /* filter layers */
    const int *layers; /* [M] which */
    int sets, stride;  /* sets of a selection: 1, or one for each KV head or query head */
    int (*selection_size)(const struct method *m, int n_prefill); /* most entries of all sets */
};

/* The method that CONFIG describes, for MODEL; both must outlive it. NULL after fail(): layers past
 * the model's last, a budget that leaves nothing. method_close() frees it. */
struct method *method_open(const struct run_config *config, const struct model *model);
void method_close(struct method *m); /* NULL is allowed */

/* The prefill of N tokens under M (NULL: dense), which may act in it: prefill() of forward.h. */
int method_prefill(struct method *m, struct session *s, const int *ids, int n,
                   const struct hooks *tap, const float **logits);

/* Starts M on the session S, which holds the prefill; M may be NULL (dense). 0, or -1 after fail().
 */
int method_begin(struct method *m, struct session *s);

/* The constructors method_open() chooses from. */
struct method *dense_open(const struct run_config *config, const struct model *model);
struct method *omnikv_open(const struct run_config *config, const struct model *model);
struct method *window_open(const struct run_config *config, const struct model *model);
struct method *brutal_offload_open(const struct run_config *config, const struct model *model);
struct method *h2o_open(const struct run_config *config, const struct model *model);
struct method *quest_open(const struct run_config *config, const struct model *model);
/* infllm, streaming and infinite_lm: sinks, a window, and what is retrieved in between. */
struct method *relative_open(const struct run_config *config, const struct model *model);

/* Marks FULL [L]: the layers 0..f1, each filter f and f+1..f+wait, cut at the next filter and at L.
 * SERVED, unless NULL, is [L]: the index of the filter whose selection a sparse layer uses, -1 on a
 * full layer. Returns the number of full layers. */
int full_layers(const int *layers, int n_layers, int wait, int L, bool *full, int *served);

#endif
