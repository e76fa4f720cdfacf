/* forward.h - the main path: one decoder layer after another, written once over the ops.
 *
 * A session is one sequence: its cache of keys and values, from which nothing is ever dropped, and
 * its working memory. forward() appends tokens to it. What a layer attends to is asked of the
 * method's hook just before its attention; what it saw is shown to the hooks just after.
 */
#ifndef CORE_MODEL_FORWARD_H
#define CORE_MODEL_FORWARD_H

#include "core/model/config.h"
#include "core/model/weights.h"
#include "core/ops/ops.h"

struct model {
    struct model_config config;
    struct weights *weights;
    const struct ops *ops;
    char *source; /* directory or shape, for messages */
};

/* Opens the checkpoint in DIR (OVERRIDES: see model_config_load()), or random weights of the named
 * SHAPE, on DEVICE: "cpu", "cuda:N", "cuda" (the first), or NULL: the first CUDA device when there
 * is one that takes the model, else the CPU. 0, or -1 after fail(): M is then empty. */
int model_open(struct model *m, const char *dir, const cJSON *overrides, const char *device);
int model_open_shape(struct model *m, const char *shape, uint64_t seed, const char *device);
void model_close(struct model *m);

struct session;

/* What PLAN asks for. Longer than the model's limit is refused unless it says so, and so is what
 * the device or the host has no memory for, with the largest context that would fit. NULL after
 * fail(). */
struct session *session_open(const struct model *m, const struct session_plan *plan);
void session_close(struct session *s); /* NULL is allowed */

/* Forgets everything; the next prefill is of PROMPT tokens (dynamic RoPE depends on it). */
void session_start(struct session *s, int prompt);

/* Forgets how the last step was recorded: method_begin() does, when what hooks look at changes. */
void session_forget_steps(struct session *s);

/* Forgets the tokens from LENGTH on. Back at the end of a prefill, so is session_outcome(). */
void session_rewind(struct session *s, int length);
int session_length(const struct session *s);
int session_room(const struct session *s);
const struct model *session_model(const struct session *s);
struct scratch *session_scratch(struct session *s);
struct kv_layer *session_kv(struct session *s, int layer);

/* Makes S hold LENGTH tokens of synthetic keys, values and kept queries, uniform in [-1, 1),
 * without running the model: for latency, which does not depend on their values. */
void session_fill(struct session *s, int length, uint64_t seed);

/* Entries that a row of attention logits needs for any position of the session. */
size_t session_span(const struct session *s);

/* What the last pass with logits knew of row R of them. */
const struct outcome *session_outcome(const struct session *s, int r);

/* The kept queries at LAYER: [*n, H, P], of the *n prefilled tokens that end before *END. */
const float *session_queries(const struct session *s, int layer, int *n, int *end);

/* How each position is rotated. */
struct rope_table session_rotations(const struct session *s);

/* One layer's attention over n rows at positions pos0 .., as the hooks see it. */
struct layer_pass {
    struct session *session;
    int layer, n, pos0;
    bool prefill;

    /* Set in before(), or in attend(): */
    struct attn_view view; /* zero: everything. Only one hook of a run sets it: the method's */

    /* Set in before(): */
    bool want_logits; /* logits and lse are wanted in after() */
    bool want_scores; /* scores are (CUDA only) */
    bool want_delta;  /* x and delta are wanted in after() */
    float *columns;   /* [H, columns_span], or NULL: attention weights are added up by column */
    size_t columns_span;
    struct trace_keep keep; /* CUDA: where they are left instead, until the pass is over */

    /* Valid in after(), in the backend's memory; on CUDA of the step being recorded: */
    const float *q;      /* [n, H, P] after RoPE; in before() too */
    const float *logits; /* [n, H, span], as in struct attn_seen */
    const float *lse;    /* [n, H] */
    const float *scores; /* [n, G, span] */
    size_t span;
    const float *x;     /* [n, E] the layer's input */
    const float *delta; /* [n, E] what attention added to it */
};

struct hooks {
    void *ctx;
    void (*before)(void *ctx, struct layer_pass *p);     /* or NULL */
    int (*after)(void *ctx, const struct layer_pass *p); /* or NULL; 0, or -1 after fail() */
    /* The attention itself, in the place of the ops: OUT [n, H, D] of the queries p->q, leaving in
     * SEEN what it asks for, in the order of p->view, which it sets; or NULL. A method's only. */
    void (*attend)(void *ctx, struct layer_pass *p, float *out, struct attn_seen seen);
    /* The passes of a prefill end at multiples of so many tokens, or 0: anywhere. A method's only.
     */
    int group;
    /* Whether the step at POS is like no other, so that CUDA neither records nor replays it; or
     * NULL: none is. A method's only. */
    bool (*alone)(void *ctx, int pos);
    /* Called once for each pass of one decoded token, replayed or not, after its last op was given
     * to the backend and before it is waited for; or NULL. 0, or -1 after fail(). */
    int (*stepped)(void *ctx, struct session *s, int pos);
};

/* LOGITS_OUTCOME: only session_outcome() of the last row; *LOGITS is not set. */
enum want_logits { LOGITS_NONE, LOGITS_OUTCOME, LOGITS_LAST, LOGITS_ALL };

/* Appends N tokens, all in one pass, under the hooks METHOD then TAP (each may be NULL). *LOGITS,
 * unless WANT is LOGITS_NONE, is [1, V] or [n, V] in host memory, the session's, valid until its
 * next use. On CUDA a pass of one token that is no prefill calls before() and after() of its hooks
 * the first two times only, and at steps that are alone: then it is replayed as it was recorded.
 * 0, or -1 after fail(): an id outside the vocabulary, no room, a logit that is not finite. */
int forward(struct session *s, const int *ids, int n, bool prefill, const struct hooks *method,
            const struct hooks *tap, enum want_logits want, const float **logits);

/* session_start() and the prefill of N tokens, a layer at a time, in chunks, under the hooks METHOD
 * then TAP (each may be NULL); *LOGITS [V] follows the last of them. 0, or -1 after fail(). */
int prefill(struct session *s, const int *ids, int n, const struct hooks *method,
            const struct hooks *tap, const float **logits);

#endif
