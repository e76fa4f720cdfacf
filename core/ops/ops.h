/* ops.h - the backend seam: what forward.c and the methods ask of the machine they run on.
 *
 * One table of ops per backend. An op is as coarse as the fastest backend needs it. The plain
 * definition of each is in reference.c and select.c, in loops that are meant to be read; every fast
 * variant is tested against it (tests/test_ops.c, tests/test_cuda_*.c) at the tolerance
 * docs/numbers.md derives. Results do not depend on the number of threads: tiles and split points
 * are fixed.
 *
 * Dimension letters: n rows (tokens of one call), E hidden width, H query heads, G kv heads,
 * D head width, P = D rounded up to ROW_ALIGN (the padding is zero), F feed-forward width,
 * V vocabulary, T positions. Activations are float32, row-major.
 *
 * Pointers to activations, weights, scores and selections are memory of the backend: only ops may
 * follow them, and put() and get() cross over. On CUDA ops only enqueue work. A decode step of one
 * token is recorded once as a graph and replayed for the tokens after it, so nothing that an op is
 * given there may depend on the position, which the backend keeps itself; after a fault an op does
 * nothing, and the end of the pass reports it.
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

/* Keys and values of one layer. On the CPU [G, room, P] float32 each; CUDA keeps 16-bit ones behind
 * a description of its own. */
struct kv_layer {
    float *k, *v;
    int room; /* positions there is memory for */
    struct cuda_kv *cuda;
};

/* Where the keys and values of a layer's prefill live. The CPU has one place only. */
enum kv_place {
    KV_HERE,
    KV_ROWS,   /* host memory; the rows a step selects are gathered */
    KV_WHOLE,  /* host memory; all of them are fetched at each step */
    KV_BLOCKS, /* host memory, in blocks; those that a step chooses are fetched (struct far) */
};

struct far_rule;

/* What a session needs room for. */
struct session_plan {
    int room;         /* tokens */
    int steps;        /* of them decoded, at most; 0: unknown, so that room for all is kept */
    int keep_queries; /* queries of the last prefilled tokens that are kept at every layer */
    bool extrapolate; /* past the length the model was trained for */
    const enum kv_place *place; /* [L], or NULL: all here */
    int packed;                 /* rows of a set that a step gathers, at most */
    int sets;
    const struct far_rule *far; /* of a method that attends so, or NULL; room is not looked at */
    size_t token_bytes; /* of the device that the method takes besides, for each token of room */
    enum dtype type;    /* of keys and values on a device: the weights'; set by session_open() */
};

/* Rotation of each position: cos and sin, [room, D / 2], already times the RoPE kind's factor. */
struct rope_table {
    const float *cos, *sin;
};

/* What each of n rows attends to. Row r sits at position pos0 + r * pos_step and never sees past
 * it.
 *
 *   idx NULL        everything up to the row itself
 *   idx [n, sets, stride] (or, SHARED, [sets, stride] for all rows)  ascending positions, one set
 * for all heads (sets = 1), for each kv head (sets = G) or for each query head (sets = H), of which
 * the first count[r] of row r count; and besides them the positions tail[r] .. the row itself
 */
struct attn_view {
    const int *idx;
    bool shared; /* host only */
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
 *   scores [n, G, span]  the maximum of the logits over a kv head's query heads; CUDA only
 */
struct attn_seen {
    float *logits, *lse, *scores;
    size_t span;
};

/* How scores are pooled over the heads that share a set (docs/methods.md). */
enum score_pool {
    SCORE_MAX_LOGIT,  /* max over heads of the logits: selector `last` */
    SCORE_MAX_WEIGHT, /* max over heads of the softmax over the candidates: the other selectors */
};

/* How the query at a filter layer scores the candidates (docs/methods.md). */
enum selector { SELECT_LAST, SELECT_SOFTMAX, SELECT_UNIFORM, SELECT_EXP };

/* Everything a selection depends on but the scores; docs/methods.md defines it. */
struct select_rule {
    enum selector selector;
    int n_prefill;
    int sets;   /* 1, G or H: who shares a selection */
    int budget; /* tokens of a set */
    int sinks, recent;
    int window;  /* queries that uniform and exp look at */
    int refresh; /* select at every N-th step */
    bool candidates_all;
    int room;   /* tokens of the session */
    int stride; /* entries of a set, at least what a selection may hold */
};

/* What one filter layer has selected. idx, count and tail are backend memory, laid out as struct
 * attn_view wants them; row 0 of a pass starts from what the last pass left. */
struct selection {
    const struct ops *ops; /* whose it is */
    struct select_rule rule;
    int rows;          /* there is room for */
    int *idx;          /* [rows, sets, stride] ascending */
    int *count, *tail; /* [rows] */
    float *past; /* uniform, exp: [window, sets, reach] pooled weights of the last queries, slot =
                  * position % window */
    size_t reach;
    int last_count, last_tail, *last; /* CPU: the row before this pass, [sets, stride] */
    float *score;                     /* CPU: [sets, score_room] of one row; CUDA: [sets, span] */
    int score_room;
};

/* ---- H2O (heavy.c is the definition): per kv head, the positions of most weight and the last
 * ones. Source: Zhang et al. 2023, H2O, section 4; docs/methods.md. */
struct heavy {
    struct selection kept; /* sets = G: what the next step sees besides itself; rule: n_prefill,
                              budget (heavy ones), recent, room, stride */
    float *sums;           /* [H, span] attention weight each position has received */
    size_t span;
    bool steps; /* each step adds its weights and evicts; otherwise decoded tokens are kept */
    int until;  /* on the host: heavy_keep() last chose from [0, until); 0: it has not yet */
    /* what the last step leaves to heavy_turn() */
    int noted;  /* CPU: one past its position, 0: nothing */
    void *next; /* CUDA */
};

/* N rows of one segment of a prefill that evicts, from row FROM on of a pass of ROWS at POS0 .. */
struct heavy_rows {
    int rows, pos0;
    int from, n;
    const float *q;         /* of the pass, as attn_in() left it */
    float *out, *lse;       /* of the pass: [rows, H, D], as attn_out() takes it; [rows, H] */
    float *columns;         /* [H, columns_span] += the weights as well, or NULL */
    size_t columns_span;    /* floats */
    struct scratch *beside; /* for the op itself, besides the session's */
};

/* ---- Quest (pages.c is the definition): an upper bound of a page's logits, from the extremes of
 * each channel of its keys. Source: Tang et al. 2024, arXiv 2406.10774, algorithm 1. */
struct pages {
    struct selection chosen; /* sets = G: the tokens of the best pages */
    int size;                /* tokens of a page */
    int count;               /* whole pages of the prompt; what follows them is always seen */
    int best;                /* pages chosen for each kv head */
    void *bounds;            /* backend memory, [G, count, 2, P or D]: minima, then maxima */
    float *score;            /* CUDA: scratch of the step: [G, count], and the best pages */
};

/* ---- attention that keeps its distances (far.c is the definition): a window of the last tokens,
 * and from before it the first ones and retrieved blocks, all at one distance, under one softmax.
 * Source: Xiao et al. 2024, InfLLM, arXiv 2402.04617, section 3; docs/methods.md. */
enum block_policy { BLOCKS_LRU, BLOCKS_LRU_S };
struct far_rule {
    int n_init;  /* the first tokens, always seen */
    int n_local; /* the window: distances 0 .. n_local - 1 */
    bool turned; /* streaming: listed keys keep their own rotation, queries turn to n_local +
                    n_init - 1; otherwise keys are at position 0, queries at n_local - 1 */
    /* infllm only; topk 0: no blocks, what is between the first tokens and the window is unseen */
    int topk, block_size, repr_topk;
    int exc_block_size; /* queries that choose together in a prefill (far_group_end()) */
    int max_cached;     /* max_cached_block: blocks in device memory, where they live on the host */
    enum block_policy policy;
    double decay; /* score_decay of LRU_S */
    bool away;    /* CUDA: blocks live in host memory */
    int room;     /* tokens of the session */
};
struct far; /* the backend's state of all layers of a sequence */
struct far_stats {
    double chosen, missed; /* blocks used, and of them fetched from the host, since far_start() */
};

/* What is to be known of a row of logits without reading it: the largest, its index (ties to the
 * lower), the log of the sum of exponentials; that is not finite when any logit is not. */
struct outcome {
    int argmax;
    float top, lse;
};

/* Scratch memory that grows to what its users ask for; one per use and session. OPS NULL: of the
 * host. */
struct scratch {
    float *p;
    size_t size; /* floats */
    const struct ops *ops;
};

/* A decode step recorded for replay. */
struct step_graph {
    const void *key[3]; /* for which hooks; forward.c's */
    void *exec;
    unsigned generation; /* of the backend's memory that it uses */
    bool warm;           /* the step has run once as it is: everything it needs is in place */
};

/* What the machine moves bytes at, at best: what steps and kernels are held against. */
enum ceiling {
    CEILING_READ,      /* a plain read of memory far larger than the caches */
    CEILING_COPY,      /* a copy within it: bytes read plus bytes written */
    CEILING_DOWN,      /* one large copy from pinned host memory to the device */
    CEILING_UP,        /* and back */
    CEILING_GATHER_2K, /* rows of 2 KiB at random places of pinned memory, read by a kernel */
    CEILING_GATHER_4K,
    CEILINGS
};

/* The time of a kernel of a decode step, alone and one after the other. */
struct kernel_time {
    char name[64];
    int T;        /* positions; 0: they do not matter */
    double us;    /* median */
    double bytes; /* that it must move */
    bool link;    /* over the link to the host; otherwise in device memory */
};

/* What a trace keeps of the steps of one sample on a device (docs/dump-format.md). */
struct trace_plan {
    int n_prefill, room; /* candidates; positions of a row at most */
    bool mass, score;    /* rows over all positions */
    bool halves;         /* as f16 (a NaN is 0x7e00), otherwise float32 */
    int top;             /* positions of the compact form, at most n_prefill; 0: none */
    int reuse;           /* the k of reuse errors, at most n_prefill; 0: none */
    bool importance;
    enum score_pool pool; /* of the score */
    int selections;       /* of filter layers: SETS lists each, */
    int sets, selected;   /* at most SELECTED entries of a list */
};

/* Memory of a trace's for what a layer leaves there and it looks at when the step is over. NULL: it
 * looks in trace_layer(), if at all. */
struct trace_keep {
    float *scores, *lse; /* as in struct attn_seen */
    float *x, *delta;    /* as in struct layer_pass */
};

/* What one layer saw in a step of one row, for trace_layer(). */
struct trace_layer {
    int layer;
    struct attn_view view;
    struct attn_seen seen; /* scores: as well where the view is everything and pool is a logit's */
    const float *q, *x, *delta; /* as in struct layer_pass; q stays until the step is over */
    const struct kv_layer *kv;
    const struct layer_weights *weights;
};

/* A step in host memory: valid until its slot is sent to again. */
struct trace_step {
    int T;                             /* its position and one */
    const void *mass, *score;          /* [L, pitch] */
    size_t pitch;                      /* bytes from one layer's row to the next */
    const int *top;                    /* [L, top] ascending */
    const float *top_score, *top_mass; /* [L, top]; score NaN: the layer did not look there */
    const float *after;      /* [L, TRACE_PARTS]: their sum is the weight behind the candidates */
    const float *importance; /* [L] */
    const float *reuse;      /* [L, L, 2], of [i, j] with i <= j */
    const int *selected;     /* [selections, 1 + sets * selected]: how many in a set; the sets */
};
enum {
    TRACE_SLOTS = 3, /* steps on their way at once */
    TRACE_PARTS = 32,
};
struct step_trace; /* the device's part of a trace */

struct ops {
    const char *name;
    bool device;      /* memory is not the host's */
    int many_rows;    /* from so many rows a causal pass goes through attend_all() */
    int known_rows;   /* known tokens that may go through a step together, at most */
    int prefill_rows; /* rows of a pass of a prefill */

    /* ---- memory */

    /* BYTES, contents undefined; NULL after fail(), where WHAT names it. */
    void *(*alloc)(size_t bytes, const char *what);
    void (*release)(void *p);
    void (*put)(void *to, const void *from, size_t bytes); /* TO is the backend's */
    void (*get)(void *to, const void *from, size_t bytes); /* FROM is; waits */

    /* Bytes of the device, and of pinned host memory, that a session of PLAN takes. */
    void (*session_bytes)(const struct model_config *c, const struct session_plan *plan,
                          double *device, double *host);
    /* Memory for the layers' keys and values. 0, or -1 after fail(). */
    int (*kv_open)(struct kv_layer *kv, const struct model_config *c,
                   const struct session_plan *plan);
    void (*kv_close)(struct kv_layer *kv, const struct model_config *c);
    /* Starts and ends the prefill of a layer, whose keys and values may have to be moved to where
     * they live: N tokens. */
    void (*kv_prefill)(struct kv_layer *kv, int n, const struct model_config *c, bool end);
    /* Makes all layers hold N tokens uniform in [-1, 1). */
    void (*kv_fill)(struct kv_layer *kv, const struct model_config *c, int n, uint64_t seed);

    /* ---- passes: CUDA only, NULL on a CPU */

    /* A pass of n tokens at pos0 .. begins; STEP: one that replay() follows. */
    void (*pass_begin)(const int *ids, int n, int pos0, bool step);
    /* Runs the step of G again where it is recorded: true. Otherwise what follows up to recorded()
     * is run as it is the first time and recorded the second. */
    bool (*replay)(struct step_graph *g);
    void (*recorded)(struct step_graph *g, bool failed);
    void (*graph_free)(struct step_graph *g);
    /* Copies N rows of logits [V] (unless NULL) and their outcomes to the host, in the stream's
     * order; *OUT is the host's, valid until the next call. */
    void (*results)(const float *logits, const struct outcome *outcome, int n, int V,
                    const float **out, const struct outcome **seen);
    /* Waits for the pass. 0, or -1 after fail(): what went wrong in any of its ops. */
    int (*pass_end)(void);

    /* ---- the model */

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

    /* x [n, E] += attention [n, H, D] * o^T + bias. DELTA and BEFORE, unless NULL, are [n, E] out:
     * what was added, and x as it was. */
    void (*attn_out)(float *x, float *delta, float *before, const float *attention, int n,
                     const struct layer_weights *w, const struct model_config *c,
                     struct scratch *s);

    /* x [n, E] += down(silu(gate(norm(x))) * up(norm(x))). */
    void (*mlp)(float *x, int n, const struct layer_weights *w, const struct model_config *c,
                struct scratch *s);

    /* logits [n, V] = head(norm(x)). */
    void (*head)(float *logits, const float *x, int n, const struct weights *w,
                 const struct model_config *c, struct scratch *s);

    /* OUT [n] of logits [n, V]. */
    void (*outcomes)(struct outcome *out, const float *logits, int n, int V, struct scratch *s);

    /* TO [.., H, P] float32 = rows FROM .. FROM + n - 1 of Q as attn_in() left it in a pass of
     * ROWS. */
    void (*copy_queries)(float *to, const float *q, int rows, int from, int n,
                         const struct model_config *c);

    /* ---- selection (select.c is the definition) */

    /* Memory of one filter layer's selection under s->rule. 0, or -1 after fail(). */
    int (*select_open)(struct selection *s, const struct model_config *c);
    void (*select_close)(struct selection *s);
    /* Adds the query at POS, with its LOGITS [H, span] over 0 .. POS, to the window. */
    void (*select_remember)(struct selection *s, const float *logits, size_t span, int pos,
                            int candidates, const struct model_config *c);
    /* The selections of n rows at positions pos0 .., from the logits, or (CUDA, selector last) the
     * scores that their attention left; as in struct attn_seen. */
    void (*select)(struct selection *s, const float *logits, const float *scores, size_t span,
                   int n, int pos0, const struct model_config *c);
    /* CUDA with offload: brings the selected rows of a KV_ROWS layer here, ahead of its use; APART:
     * K and V each for itself, at once. */
    void (*fetch)(struct kv_layer *kv, const struct selection *s, const struct model_config *c,
                  bool apart);

    /* ---- h2o */

    /* Memory of h->kept and h->sums under h->kept.rule, whose stride has room for what is kept and,
     * with steps, one more; sets h->span; all zero. 0, or -1 after fail(). */
    int (*heavy_open)(struct heavy *h, const struct model_config *c);
    void (*heavy_close)(struct heavy *h);
    /* What is kept of the positions [0, n): per kv head the last `recent`, and of those before them
     * the `budget` of most weight, the maximum over the head's query heads; ties to the lower. All
     * where there are not more. tail = n. */
    void (*heavy_keep)(struct heavy *h, int n, const struct model_config *c);
    /* After the attention of a step of one row that saw h->kept and itself: adds what LOGITS [H,
     * span], LSE [H] gave each to the sums. h->kept stays what the step saw, for traces. */
    void (*heavy_step)(struct heavy *h, const float *logits, const float *lse, size_t span, int pos,
                       const struct model_config *c);
    /* Attention of the rows of A over what h->kept lists and, causally, the positions from
     * kept.tail on; the weights they give are added to the sums of the positions that get them.
     * Before any step. */
    void (*heavy_attend)(struct heavy *h, const struct heavy_rows *a, const struct kv_layer *kv,
                         const struct model_config *c, struct scratch *s);
    /* Before the attention of each step: the step before, if there was one, joins h->kept; where
     * more than budget + recent are there now, of those before the last `recent` the one of least
     * weight leaves, of equals the higher. */
    void (*heavy_turn)(struct heavy *h, const struct model_config *c);

    /* ---- quest */

    /* Memory under size, count (1 at least), best, chosen.rule (n_prefill, room, stride), and the
     * bounds of the prompt's pages of KV. 0, or -1 after fail(). */
    int (*pages_open)(struct pages *p, const struct kv_layer *kv, const struct model_config *c);
    void (*pages_close)(struct pages *p);
    /* Before the attention of n rows with queries Q [n, H, P] at pos0 ..: chosen.idx, count and
     * tail (n rows; CUDA 1): per kv head the best pages by the largest bound of its query heads,
     * sum over d of max(q_d min_d, q_d max_d); ties to the lower page. */
    void (*pages_choose)(struct pages *p, const float *q, int n, int pos0,
                         const struct model_config *c, struct scratch *s);

    /* ---- infllm, streaming, infinite_lm */

    /* State of a session under RULE: L layers. NULL after fail(). */
    struct far *(*far_open)(const struct far_rule *rule, const struct model_config *c);
    void (*far_close)(struct far *f); /* NULL is allowed */
    /* Forgets all; a prompt of N tokens follows. FILLED: it is there already (synthetic, or of a
     * dense prefill): no token has a score, and only then does ROPE hold anything yet. */
    void (*far_start)(struct far *f, int n, struct kv_layer *kv, bool filled,
                      struct rope_table rope, const struct model_config *c);
    /* Attention of the n rows at pos0 .. of LAYER, whose keys and values are in KV: out [n, H, D].
     * Chooses blocks, keeps the books. SEEN and *VIEW as for attend_rows(): the list, then the
     * window; *VIEW stays empty, and logits are not given, in a pass of several groups. A step that
     * was rewound and is run again is not counted twice. */
    void (*far_attend)(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                       int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                       struct attn_view *view, const struct model_config *c, struct scratch *s);
    void (*far_stats)(struct far *f, struct far_stats *stats);
    /* CUDA, NULL on a CPU: the view that far_attend() gives for a step, known before it. */
    struct attn_view (*far_view)(const struct far *f, int layer);

    /* ---- scores (host callers: select.c and traces on a CPU) */

    /* score [sets, T] = logits [H, span] of one row pooled over the heads of each set. */
    void (*pool_scores)(float *score, const float *logits, size_t span, int T, int H, int sets,
                        enum score_pool pool);

    /* mass [T] = mean over the H heads of exp(logits - lse). */
    void (*pool_mass)(float *mass, const float *logits, size_t span, const float *lse, int T,
                      int H);

    /* idx [k] = the k best of score [T], ties to the lower index, NaN lowest; ascending. k <= T. */
    void (*top_k)(int *idx, const float *score, int T, int k);

    /* ---- traces: CUDA only, NULL on a CPU */

    /* Memory for the steps of a sample under PLAN; *T, NULL before the first, is kept and grows.
     * Steps recorded before must be forgotten. 0, or -1 after fail(). */
    int (*trace_begin)(struct step_trace **t, const struct trace_plan *plan,
                       const struct model_config *c);
    void (*trace_close)(struct step_trace *t); /* NULL is allowed */
    /* Before the attention of a layer, with a list or not: what is to stay. SPAN of the scores. */
    struct trace_keep (*trace_keep)(struct step_trace *t, int layer, bool listed,
                                    const struct kv_layer *kv, size_t span);
    /* Adds what a layer saw to the step. */
    void (*trace_layer)(struct step_trace *t, const struct trace_layer *a);
    /* Starts bringing the step at POS, whose ops are all given to the backend, to SLOT in host
     * memory, with the plan's selections as they are then. */
    void (*trace_send)(struct step_trace *t, int slot, int pos,
                       const struct selection *const *selected);
    /* Waits until what SLOT was sent has arrived; any thread may call. NULL, or what went wrong. */
    const char *(*trace_await)(struct step_trace *t, int slot, struct trace_step *out);

    /* ---- measurements, for okv bench; they wait */

    /* Bytes a second, best of several runs; 0 for what this backend has none of. 0, or -1 after
     * fail(). */
    int (*ceilings)(double rate[CEILINGS]);
    /* CUDA only: the device's name. */
    const char *(*machine)(void);
    /* CUDA only: bytes of device memory. 0, or -1 after fail(): the device is gone. */
    int (*memory)(double *free_bytes, double *total);
    /* CUDA only: the kernels of a decode step with weights W at each of CONTEXTS [n] positions, K
     * of them selected. ROWS [*count] are the caller's to free. 0, or -1 after fail(). */
    int (*kernels)(const struct model_config *c, const struct weights *w, const int *contexts,
                   int n, int k, struct kernel_time **rows, int *count);
};

/* The CPU backend: SIMD chosen at run time, the best this processor has; ISA "avx512", "avx2" or
 * "plain" forces one (tests), NULL when the processor lacks it. */
const struct ops *ops_cpu(const char *isa);

/* The definition: plain loops, no SIMD, no threads. */
const struct ops *ops_reference(void);

/* At least FLOATS of scratch, contents undefined. Ends the program when there is no memory. */
float *scratch_get(struct scratch *s, size_t floats);
void scratch_free(struct scratch *s);

/* The host's entries of the table, which the CPU and the reference share (host.c), and selections
 * (select.c). */
#define HOST_OPS                                                                                   \
    .many_rows = 8, .known_rows = 256, .prefill_rows = 512, .alloc = host_alloc,                   \
    .release = host_release, .put = host_copy, .get = host_copy, .session_bytes = host_bytes,      \
    .kv_open = host_kv_open, .kv_close = host_kv_close, .kv_fill = host_kv_fill,                   \
    .outcomes = host_outcomes, .copy_queries = host_copy_queries, .select_open = select_open,      \
    .select_close = select_close, .select_remember = select_remember, .select = select_rows,       \
    .heavy_open = heavy_open, .heavy_close = heavy_close, .heavy_keep = heavy_keep,                \
    .heavy_step = heavy_step, .heavy_attend = heavy_attend, .heavy_turn = heavy_turn,              \
    .pages_open = pages_open, .pages_close = pages_close, .pages_choose = pages_choose,            \
    .far_open = far_open, .far_close = far_close, .far_start = far_start, .far_stats = far_stats,  \
    .ceilings = host_ceilings
void *host_alloc(size_t bytes, const char *what);
void host_release(void *p);
void host_copy(void *to, const void *from, size_t bytes);
void host_bytes(const struct model_config *c, const struct session_plan *plan, double *device,
                double *host);
int host_kv_open(struct kv_layer *kv, const struct model_config *c,
                 const struct session_plan *plan);
void host_kv_close(struct kv_layer *kv, const struct model_config *c);
void host_kv_fill(struct kv_layer *kv, const struct model_config *c, int n, uint64_t seed);
void host_outcomes(struct outcome *out, const float *logits, int n, int V, struct scratch *s);
int host_ceilings(double rate[CEILINGS]);
void host_copy_queries(float *to, const float *q, int rows, int from, int n,
                       const struct model_config *c);

int select_open(struct selection *s, const struct model_config *c);
void select_close(struct selection *s);
void select_remember(struct selection *s, const float *logits, size_t span, int pos, int candidates,
                     const struct model_config *c);
void select_rows(struct selection *s, const float *logits, const float *scores, size_t span, int n,
                 int pos0, const struct model_config *c);

int heavy_open(struct heavy *h, const struct model_config *c);
void heavy_close(struct heavy *h);
void heavy_keep(struct heavy *h, int n, const struct model_config *c);
void heavy_step(struct heavy *h, const float *logits, const float *lse, size_t span, int pos,
                const struct model_config *c);
void heavy_attend(struct heavy *h, const struct heavy_rows *a, const struct kv_layer *kv,
                  const struct model_config *c, struct scratch *s);
void heavy_turn(struct heavy *h, const struct model_config *c);

int pages_open(struct pages *p, const struct kv_layer *kv, const struct model_config *c);
void pages_close(struct pages *p);
void pages_choose(struct pages *p, const float *q, int n, int pos0, const struct model_config *c,
                  struct scratch *s);

struct far *far_open(const struct far_rule *rule, const struct model_config *c);
void far_close(struct far *f);
void far_start(struct far *f, int n, struct kv_layer *kv, bool filled, struct rope_table rope,
               const struct model_config *c);
void far_stats(struct far *f, struct far_stats *stats);
void far_attend_cpu(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                    int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                    struct attn_view *view, const struct model_config *c, struct scratch *s);
void far_attend_reference(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                          int n, int pos0, bool prefill, struct rope_table rope,
                          struct attn_seen seen, struct attn_view *view,
                          const struct model_config *c, struct scratch *s);

/* The CUDA backend on device INDEX, there once in a program; NULL after fail(): no such device, an
 * old driver, a build without CUDA. */
const struct ops *ops_cuda(int index);
int cuda_devices(void); /* of this machine that this build can use; never fails */

/* What of C the CUDA kernels do not take, for a message, or NULL. The caller frees it. */
char *cuda_refusal(const struct model_config *c);

/* Where ops_cuda() wants the weights. */
struct weights_home;
const struct weights_home *cuda_weights_home(void);

#endif
