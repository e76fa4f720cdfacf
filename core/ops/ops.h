/* ops.h - the backend seam: what forward.c asks of the machine it runs on.
 *
 * One table of ops per backend. An op is as coarse as the fastest backend needs it. The plain
 * definition of each is in reference.c, in loops that are meant to be read; every fast variant is
 * tested against it (tests/test_ops.c) at the tolerance docs/numbers.md derives. Results do not
 * depend on the number of threads: tiles and split points are fixed.
 *
 * Dimension letters: n rows (tokens of one call), E hidden width, H query heads, G kv heads,
 * D head width, P = D rounded up to ROW_ALIGN (the padding is zero), F feed-forward width,
 * V vocabulary, T positions. Activations, keys and values are float32, row-major.
 */
#ifndef CORE_OPS_OPS_H
#define CORE_OPS_OPS_H

#include "core/model/weights.h"

#include <stdbool.h>
#include <stddef.h>

#define ROW_ALIGN 16 /* floats: rows of keys and values start and end on whole vectors */

static inline int padded_width(int D)
{
    return (D + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}

/* Keys and values of one layer: [G, room, P] each. */
struct kv_layer {
    float *k, *v;
    int room; /* positions there is memory for */
};

/* Rotation of each position: cos and sin, [room, D / 2], already times the RoPE kind's factor. */
struct rope_table {
    const float *cos, *sin;
};

/* What each of n rows attends to. Row r sits at position pos0 + r * pos_step and never sees past
 * it.
 *
 *   idx NULL        everything up to the row itself
 *   idx [n, sets, stride]  ascending positions, one set for all heads (sets = 1), for each kv head
 *                   (sets = G) or for each query head (sets = H), of which the first count[r] of
 *                   row r count; and besides them the positions tail[r] .. the row itself
 */
struct attn_view {
    const int *idx;
    int sets, stride;
    const int *count, *tail; /* [n] */
};

/* How many positions row R, at position POS, sees under V. */
static inline int view_length(const struct attn_view *v, int r, int pos)
{
    return v->idx ? v->count[r] + pos - v->tail[r] + 1 : pos + 1;
}

/* Where attend_rows() leaves what it saw, for selections and traces; any pointer may be NULL.
 *
 *   logits [n, H, span]  scaled q.k; entry i of a row is position i, or with a list the i-th of it,
 *                        then the tail; entries past the row's last are left as they were
 *   lse    [n, H]        log of the sum of exp(logits): exp(logit - lse) is the attention weight
 */
struct attn_seen {
    float *logits, *lse;
    size_t span;
};

/* How scores are pooled over the heads that share a set (docs/methods.md). */
enum score_pool {
    SCORE_MAX_LOGIT,  /* max over heads of the logits: selector `last` */
    SCORE_MAX_WEIGHT, /* max over heads of the softmax over the candidates: the other selectors */
};

/* Scratch memory that grows to what its users ask for; one per session. */
struct scratch {
    float *p;
    size_t size; /* floats */
};

struct ops {
    const char *name;

    /* x [n, E] = rows IDS of the embedding table. */
    void (*embed)(float *x, const struct matrix *table, const int *ids, int n);

    /* Attention input: RMS norm, q/k/v projections with bias, q/k norm where the family has one,
     * RoPE; q [n, H, P] out, keys and values of rows pos0 .. pos0 + n - 1 go into KV. */
    void (*attn_in)(float *q, struct kv_layer *kv, const float *x, int n, int pos0,
                    const struct layer_weights *w, const struct model_config *c,
                    struct rope_table rope, struct scratch *s);

    /* Causal attention of n consecutive rows over everything: out [n, H, D]. For many rows. LSE,
     * unless NULL, is [n, H] out.
     * Source: Vaswani et al. 2017 eq. 1; GQA of Ainslie et al. 2023. */
    void (*attend_all)(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                       const struct model_config *c, float *lse, struct scratch *s);

    /* Attention of few rows, each under VIEW; row r at position pos0 + r * pos_step: out [n, H, D].
     */
    void (*attend_rows)(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                        int pos_step, struct attn_view view, struct attn_seen seen,
                        const struct model_config *c, struct scratch *s);

    /* The logits of attend_rows() alone: logits [n, H, span], everything up to the row itself. */
    void (*attn_logits)(float *logits, size_t span, const float *q, const struct kv_layer *kv,
                        int n, int pos0, const struct model_config *c);

    /* sums [H, span] += for each position t < pos0 + n the attention weights that the n rows give
     * it, by query head; LSE as attend_all() gave it. */
    void (*attn_columns)(float *sums, size_t span, const float *q, const float *lse,
                         const struct kv_layer *kv, int n, int pos0, const struct model_config *c,
                         struct scratch *s);

    /* x [n, E] += attention [n, H, D] * o^T + bias. DELTA, unless NULL, is [n, E] out: what was
     * added. */
    void (*attn_out)(float *x, float *delta, const float *attention, int n,
                     const struct layer_weights *w, const struct model_config *c,
                     struct scratch *s);

    /* x [n, E] += down(silu(gate(norm(x))) * up(norm(x))). */
    void (*mlp)(float *x, int n, const struct layer_weights *w, const struct model_config *c,
                struct scratch *s);

    /* logits [n, V] = head(norm(x)). */
    void (*head)(float *logits, const float *x, int n, const struct weights *w,
                 const struct model_config *c, struct scratch *s);

    /* score [sets, T] = logits [H, span] of one row pooled over the heads of each set. */
    void (*pool_scores)(float *score, const float *logits, size_t span, int T, int H, int sets,
                        enum score_pool pool);

    /* mass [T] = mean over the H heads of exp(logits - lse). */
    void (*pool_mass)(float *mass, const float *logits, size_t span, const float *lse, int T,
                      int H);

    /* idx [k] = the k best of score [T], ties to the lower index, NaN lowest; ascending. k <= T. */
    void (*top_k)(int *idx, const float *score, int T, int k);
};

/* The CPU backend: SIMD chosen at run time, the best this processor has; ISA "avx512", "avx2" or
 * "plain" forces one (tests), NULL when the processor lacks it. */
const struct ops *ops_cpu(const char *isa);

/* The definition: plain loops, no SIMD, no threads. */
const struct ops *ops_reference(void);

/* At least FLOATS of scratch, contents undefined. */
float *scratch_get(struct scratch *s, size_t floats);

#endif
