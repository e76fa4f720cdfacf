/* cuda_kernels.h - the launchers of the CUDA backend: one per kernel family, on device memory.
 *
 * cuda.c builds the ops table from them; tests/test_cuda_*.c hold each to its definition. All
 * pointers are device memory unless said otherwise, all work goes to STREAM and is not waited for.
 * A launcher returns 0, or -1 after fail(): a shape it does not take, a launch that failed. A
 * fault inside a kernel shows at the next synchronisation. Launchers allocate nothing, so that a
 * decode step can be captured in a graph: WORK is scratch of at least the size that the matching
 * ..._work() returns, zeroed once before the first use and left zeroed where counters live in it.
 *
 * Decode kernels read the position of the token from device memory (POS), so that a captured step
 * can be replayed at the next position; buffers are sized by what a session has room for (SPAN,
 * ROOM), never by the position.
 *
 * Letters as in ops.h: E hidden width, H query heads, G kv heads, R = H / G, D head width (64 or
 * 128), F feed-forward width, V vocabulary, n rows, T positions. "16-bit" is the model's type, bf16
 * or f16 (TYPE). Weights are row-major [outputs, inputs]; inputs are multiples of 8. All pointers
 * to vectors and matrices are 16-byte aligned.
 */
#ifndef CORE_OPS_CUDA_KERNELS_H
#define CORE_OPS_CUDA_KERNELS_H

#include "core/base/half.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the kernels need to know of the device in use; filled by cuda_device_open(). */
struct cuda_device {
    int index, capability; /* 90 for 9.0 */
    int sms;               /* multiprocessors */
    size_t shared;         /* bytes of shared memory a block may take */
    size_t l2;             /* bytes */
    char name[64];
};
const struct cuda_device *cuda_device(void);

/* Multiprocessors that a gather has for itself: reads over the link wait for microseconds, and what
 * shares a multiprocessor with them would wait behind them. */
#define CUDA_GATHER_BLOCKS 12

/* Blocks of a kernel that fills the device with one on each multiprocessor; BESIDE: beside a
 * gather. */
static inline int cuda_blocks(bool beside)
{
    const struct cuda_device *d = cuda_device();
    return beside && d->sms > 4 * CUDA_GATHER_BLOCKS ? d->sms - CUDA_GATHER_BLOCKS : d->sms;
}

/* Devices of this machine; 0 also where there is no driver. Never fails aloud. */
int cuda_device_count(void);
/* Makes device INDEX the one in use. 0, or -1 after fail(): no such device, a driver too old, a
 * device this build has no code for. */
int cuda_device_open(int index);

/* ---- small things (cuda_step.cu) */

/* *POS = pos, *TOKEN = token. */
int cuda_set_step(int *pos, int *token, int pos_value, int token_value, cudaStream_t stream);
/* to [n] float32 = from [n] 16-bit. */
int cuda_widen(float *to, const void *from, size_t n, enum dtype type, cudaStream_t stream);

/* ---- decode products (cuda_linear.cu): one row, float32 in and out, at the speed of memory.
 * Twins: ops.h attn_in, attn_out, mlp, head. Sums in float32; tolerance docs/numbers.md. */

/* x [E] = row *TOKEN of the 16-bit TABLE. */
int cuda_embed_row(float *x, const void *table, enum dtype type, const int *token, int E,
                   cudaStream_t stream);

struct cuda_qkv {
    const float *x, *gain; /* [E] */
    float eps;             /* of the RMS norm */
    const void *w;         /* [(H + 2 G) D, E]: q, then k, then v */
    const float *bias;     /* [(H + 2 G) D], or NULL */
    const float *q_norm,
        *k_norm;                /* [D], or both NULL: RMS norm of each head before RoPE, same eps */
    const float *cosine, *sine; /* [room, D / 2] rotations by position */
    const int *pos;             /* the token's position */
    float *q;                   /* [H, D] out, rotated */
    void *k, *v;                /* [G, room, D] 16-bit: row *pos - base is written */
    int room, base;
    int E, H, G, D;
    enum dtype type;
    float *raw; /* [(H + 2 G) D] scratch, used with q_norm */
};
int cuda_qkv_row(const struct cuda_qkv *a, cudaStream_t stream);

/* x [rows] += W [rows, cols] a + bias (or NULL); DELTA, unless NULL, is [rows] out: what was added.
 * BEFORE, unless NULL, is [rows] out: x as it was. */
int cuda_add_row(float *x, float *delta, float *before, const void *w, const float *bias,
                 const float *a, int rows, int cols, enum dtype type, cudaStream_t stream);

/* h [F] = silu(gate . norm(x)) * (up . norm(x)); W is [2 F, E], gate then up; BIAS [2 F] or NULL.
 */
int cuda_gate_up_row(float *h, const float *x, const float *gain, float eps, const void *w,
                     const float *bias, int E, int F, enum dtype type, cudaStream_t stream);

/* logits [V] = W [V, E] norm(x). */
int cuda_head_row(float *logits, const float *x, const float *gain, float eps, const void *w, int E,
                  int V, enum dtype type, cudaStream_t stream);

/* Up to CUDA_CHAIN_LINKS of the products above in one kernel, each after the one before it: outputs
 * of one may be inputs of the next. Fields by kind, the rest unused:
 *   LINK_ADD      cuda_add_row(): out [rows] += w [rows, cols] in + bias; delta, before
 *   LINK_GATE_UP  cuda_gate_up_row(): out [rows / 2], in, gain, eps, w [rows, cols], bias
 *   LINK_HEAD     cuda_head_row(): out [rows] = w [rows, cols] norm(in); gain, eps
 *   LINK_QKV      cuda_qkv_row(qkv) */
enum { CUDA_CHAIN_LINKS = 4 };
enum cuda_link_kind { LINK_ADD, LINK_GATE_UP, LINK_QKV, LINK_HEAD };
struct cuda_link {
    enum cuda_link_kind kind;
    int rows, cols;
    const void *w;
    const float *in, *gain, *bias;
    float eps;
    float *out, *delta, *before;
    const struct cuda_qkv *qkv; /* host memory, read before the launcher returns */
};
size_t cuda_chain_work(void);
/* The kernel after it may rely on all that came before it being complete, without waiting.
 * BESIDE: a gather may run at the same time. NEXT, unless NULL: NEXT_BYTES of constants that are
 * read soon after, begun to be fetched. WORK is zeroed once, and never used by two launches at the
 * same time; they take the whole device, so no two may run at the same time at all. 0, -1 after
 * fail(), or 1 with nothing done: not on this device (before 9.0), or not these products (q/k
 * norms, more than 32768 inputs). */
int cuda_chain_row(const struct cuda_link *links, int n, enum dtype type, const void *next,
                   size_t next_bytes, bool beside, void *work, cudaStream_t stream);

/* What is to be known of each row of logits [n, V]: the largest and its index (ties to the lower),
 * and the log of the sum of exponentials (NaN or infinite where a logit is not finite). */
struct cuda_outcome {
    int argmax;
    float top, lse;
};
size_t cuda_outcome_work(int n);
int cuda_outcomes(struct cuda_outcome *out, const float *logits, int n, int V, void *work,
                  cudaStream_t stream);

/* ---- many rows (cuda_rows.cu): what stands between cuBLAS's products in a prefill */

/* x [n, E] = rows IDS [n] of TABLE, float32. */
int cuda_embed_rows(float *x, const void *table, enum dtype type, const int *ids, int n, int E,
                    cudaStream_t stream);
/* out [n, E] 16-bit = norm(x) * gain. */
int cuda_norm_rows(void *out, const float *x, const float *gain, float eps, int n, int E,
                   enum dtype type, cudaStream_t stream);
/* QKV [n, (H + 2 G) D] 16-bit, as the product left it: + bias, q/k norm, RoPE at positions pos0 ..;
 * q goes to Q [n, H, D] 16-bit and, unless NULL, before that rounding to Q32 [n, H, D] float32; k
 * and v into rows pos0 .. of K and V [G, room, D]. */
int cuda_rotate_rows(void *q, float *q32, void *k, void *v, int room, const void *qkv,
                     const float *bias, const float *q_norm, const float *k_norm, float eps,
                     const float *cosine, const float *sine, int n, int pos0, int H, int G, int D,
                     enum dtype type, cudaStream_t stream);
/* out [n, F] 16-bit = silu(gate) * up of GATE_UP [n, 2 F] 16-bit; BIAS [2 F] or NULL. */
int cuda_silu_rows(void *out, const void *gate_up, const float *bias, int n, int F, enum dtype type,
                   cudaStream_t stream);
/* x [n, E] += bias [E]. */
int cuda_bias_rows(float *x, const float *bias, int n, int E, cudaStream_t stream);

/* ---- attention of a chunk of a prefill (cuda_prefill.cu, and cuda_prefill_sm90.cu)
 *
 * Causal: row r sits at position pos0 + r and sees keys 0 .. pos0 + r. q [n, H, D] 16-bit, k and v
 * [G, room, D] 16-bit, out [n, H, D] 16-bit; LSE, unless NULL, is [n, H] float32 out: natural log
 * of the sum of exp(q.k / sqrt(D)). Source: Vaswani et al. 2017 eq. 1; Dao 2023 (FlashAttention-2).
 */
struct cuda_prefill {
    void *out;
    float *lse;
    const void *q, *k, *v;
    int n, pos0, room, H, G, D;
    enum dtype type;
};
int cuda_prefill_attention(const struct cuda_prefill *a,
                           cudaStream_t stream);                         /* the best there is */
int cuda_prefill_mma(const struct cuda_prefill *a, cudaStream_t stream); /* mma.sync: sm_80 on */
/* wgmma and the bulk tensor copy: 9.0 only, D 64 or 128. 1: this device or build has none. */
int cuda_prefill_wgmma(const struct cuda_prefill *a, cudaStream_t stream);

/* ---- the attention that keys receive (cuda_columns.cu): what H2O ranks by
 *
 * sums [H, span] += of each position t < pos0 + n the weights exp(q.k / sqrt(D) - lse) that the n
 * rows give it, by query head, causal; q, k and LSE [n, H] as cuda_prefill_attention() had and left
 * them. Source: Zhang et al. 2023 (H2O), section 4. */
struct cuda_columns {
    float *sums;
    size_t span;
    const void *q, *k;
    const float *lse;
    int n, pos0, room, H, G, D;
    enum dtype type;
};
int cuda_attention_columns(const struct cuda_columns *a, cudaStream_t stream);
/* The same of the one row at *POS, from its LOGITS [H, wide]. */
int cuda_columns_row(float *sums, size_t span, const float *logits, size_t wide, const float *lse,
                     const int *pos, int H, cudaStream_t stream);

/* ---- decode attention (cuda_decode.cu): split over positions, each byte of K and V read once per
 * kv head
 *
 * One or more rows, all at position *POS, row i with q [i, H, D] under its own list. What a row
 * attends to, in this order:
 *   FIRST_ALL: positions 0 .. *pos of k, v
 *   FIRST_LIST: the positions idx[row, set, 0 .. count[row]) of k, v; then tail[row] .. *pos of k,
 * v FIRST_PACKED: rows 0 .. count[row] - 1 of packed_k, packed_v (gathered copies, [sets, stride,
 * D] when sets is G, [G, stride, D] when it is 1); then positions tail[row] .. *pos of k, v, whose
 * row 0 is position BASE Entry i of logits and scores is the i-th in that order. */
enum cuda_first { FIRST_ALL, FIRST_LIST, FIRST_PACKED };
struct cuda_decode {
    float *out;        /* [n, H, D] */
    const float *q;    /* [n, H, D] */
    const void *k, *v; /* [G, room, D] 16-bit */
    int room, base;    /* row 0 of k and v is position BASE (0 but for FIRST_PACKED) */
    const int *pos;
    int n, H, G, D;
    enum dtype type;

    enum cuda_first first;
    const int *idx;          /* [n, sets, stride] */
    int sets, stride;        /* sets: 1, G or H */
    const int *count, *tail; /* [n] */
    const void *packed_k, *packed_v;

    float *logits; /* [n, H, span] out: scaled q.k of every entry, or NULL */
    float *scores; /* [n, G, span] out: their maximum over the group's R query heads, or NULL */
    float *lse;    /* [n, H] out, or NULL */
    size_t span;
    int most;     /* no row has more entries than this (room): decides how the work is split */
    bool beside;  /* a gather may run at the same time */
    bool settled; /* FIRST_LIST: idx, count and tail come from before a cuda_chain_row() that stands
                   * right before this in the stream */
    void *work;   /* zeroed once */
};
size_t cuda_decode_work(int n, int H, int G, int D);
int cuda_decode_attention(const struct cuda_decode *a, cudaStream_t stream);

/* ---- selection (cuda_select.cu) */

/* Of the logits [H, span] of one row with *POS + 1 entries: score [sets, span] = maximum over the
 * H / sets heads of a set of exp(logits - lse_c), lse_c the log of the sum over that head's first
 * CANDIDATES entries (all but the last, *POS, when CANDIDATES is -1). Entries from CANDIDATES on
 * are 0. */
size_t cuda_pool_weights_work(int H);
int cuda_pool_weights(float *score, const float *logits, size_t span, const int *pos,
                      int candidates, int H, int sets, void *work, cudaStream_t stream);

/* The window of the selectors `uniform` and `exp`. PAST [window, sets, reach] keeps the pooled
 * weights of the last queries, slot = position % window. */
/* past[*pos % window, :, 0 .. c) = score [sets, span], zeros from c on, c = CANDIDATES (or *pos).
 */
int cuda_remember(float *past, const float *score, size_t span, const int *pos, int candidates,
                  int window, int sets, size_t reach, cudaStream_t stream);
/* score [sets, span] = sum over the window's queries (oldest first, those at or after position 0)
 * of their weights, times 2^-age with HALVE. */
int cuda_look_back(float *score, size_t span, const float *past, const int *pos, int window,
                   int sets, size_t reach, bool halve, cudaStream_t stream);

/* The selection of one row, exactly docs/methods.md: candidates [0, n_prefill), or [0, *pos) with
 * CANDIDATES_ALL. Kept are the first SINKS, and the last RECENT of the prefill (with WINDOW > 0
 * those inside [*pos - window + 1, n_prefill) where they are more); with them BUDGET in all, one
 * place at least for the others, never more than there are candidates. Ties to the lower position,
 * NaN lowest; stored ascending. Step *pos - n_prefill is skipped, all outputs left, unless
 * divisible by REFRESH.
 *
 *   score [sets * pooled, span]: the score of an entry of a set is the maximum over the set's
 * POOLED rows (pooled = G for one set of the group scores of cuda_decode) idx   [sets, stride] out;
 * count, tail [1] out: how many in each set; first position that is seen anyway (candidates of this
 * step) */
struct cuda_select {
    int *idx, *count, *tail;
    const float *score;
    size_t span;
    const int *pos;
    int n_prefill, sets, pooled, stride;
    int budget, sinks, recent, window, refresh;
    bool candidates_all;
    int most; /* candidates at most (room) */
    void *work;
};
size_t cuda_select_work(int sets, int most);
int cuda_select_row(const struct cuda_select *a, cudaStream_t stream);

/* idx [k] = the k best of score [T], ties to the lower index, NaN lowest, ascending; k <= T. With
 * POS, T is *POS (+ PLUS), and with fewer than k all of them, the rest of idx is -1. */
int cuda_top_k(int *idx, const float *score, int T, int k, void *work, cudaStream_t stream);

/* ---- H2O's lists (cuda_heavy.cu): what each kv head has kept
 *
 * The list of a kv head is ascending: the first *COUNT entries, besides which a step sees *TAIL ..
 * *POS. sums [H, span] by position are what cuda_attention_columns() added up; the weight of a
 * position is the maximum over the head's query heads. Source: Zhang et al. 2023 (H2O), section 4.
 */
struct cuda_heavy {
    int *idx, *count, *tail; /* [G, stride], [1], [1] */
    float *sums;
    size_t span;
    void *next; /* cuda_heavy_next() bytes, or NULL: no steps */
    const int *pos;
    int H, G, stride;
    int most, recent; /* entries of a list; of them always the last RECENT */
};
size_t cuda_heavy_next(int G, int stride);
/* Entries 0 .. HEAVY - 1 are chosen already, from [0, n - recent): those after them are the last
 * RECENT of [0, n). *COUNT, *TAIL = n. */
int cuda_heavy_fill(const struct cuda_heavy *a, int heavy, int recent, int n, cudaStream_t stream);
/* After a step that saw the lists and itself (*TAIL = *POS): its weights, from LOGITS [H, wide] in
 * that order and LSE [H], go to sums; where that makes more than MOST, it is found which entry
 * goes: of those before the last RECENT the one of least weight, of equals the last. Stride is
 * above MOST. cuda_heavy_move(), before the attention of the step at the next position, changes the
 * lists. */
int cuda_heavy_note(const struct cuda_heavy *a, const float *logits, size_t wide, const float *lse,
                    cudaStream_t stream);
int cuda_heavy_move(const struct cuda_heavy *a, cudaStream_t stream);
/* A prefill that evicts sees the LISTED entries of each list, then the positions TAIL .. TAIL + N -
 * LISTED - 1: N in all, in this order, like a cache of so many.
 * to [2, G, n, D] = these rows of k and v [G, room, D] 16-bit. */
int cuda_heavy_pack(const struct cuda_heavy *a, void *to, const void *k, const void *v, int room,
                    int D, int listed, int tail, int n, cudaStream_t stream);
/* a->sums, and MORE [H, more_span] unless NULL, of these positions += weights [H, wide]. */
int cuda_heavy_add(const struct cuda_heavy *a, float *more, size_t more_span, const float *weights,
                   size_t wide, int listed, int tail, int n, cudaStream_t stream);

/* ---- Quest's pages (cuda_pages.cu): COUNT pages of SIZE tokens, the first of the prompt. Source:
 * Tang et al. 2024 (Quest, arXiv 2406.10774), algorithm 1. */
struct cuda_pages {
    void *bounds;    /* [G, count, 2, D] 16-bit: minima, maxima of each channel */
    float *score;    /* [G, cuda_pages_span(count)] of a step */
    int *list, *idx; /* [G, best] pages, [G, stride] their positions: ascending */
    int stride, count, size, best, H, G, D;
    enum dtype type;
    void *work; /* cuda_select_work(G, count), zeroed once */
};
static inline size_t cuda_pages_span(int count)
{
    return ((size_t)count + 3) / 4 * 4;
}
/* bounds of the keys K [G, room, D]. */
int cuda_pages_bounds(const struct cuda_pages *a, const void *k, int room, cudaStream_t stream);
/* score of the queries Q [H, D] float32: the maximum over a kv head's query heads of the sum over
 * channels of max(q minimum, q maximum). No kernel right before writes the bounds. */
int cuda_pages_score(const struct cuda_pages *a, const float *q, cudaStream_t stream);
/* That, and idx of the best pages of each kv head; ties to the lower page. */
int cuda_pages_best(const struct cuda_pages *a, const float *q, cudaStream_t stream);

/* ---- offload (cuda_gather.cu): rows between host memory and the device
 *
 * HOST is pinned memory mapped for the device: [tokens, 2, G, D] 16-bit, one row of K and V per
 * token.
 */
enum cuda_parts { PART_K = 1, PART_V = 2, PART_BOTH = 3 };
/* packed_k, packed_v [sets, stride, D] (by G when sets is 1: [G, stride, D]) = the rows idx [sets,
 * stride] of HOST, the first *COUNT of each; set s > 1 is of kv head s. */
int cuda_gather_rows(void *packed_k, void *packed_v, const void *host, const int *idx,
                     const int *count, int sets, int stride, int G, int D, enum cuda_parts parts,
                     cudaStream_t stream);
/* HOST rows 0 .. n - 1 = rows 0 .. n - 1 of k, v [G, room, D]. */
int cuda_store_rows(void *host, const void *k, const void *v, int n, int room, int G, int D,
                    cudaStream_t stream);
/* Uniform values in [-1, 1) into N 16-bit elements, from SEED and their index (pinned host memory
 * allowed). */
int cuda_fill_uniform(void *out, size_t n, enum dtype type, uint64_t seed, float limit,
                      cudaStream_t stream);

/* ---- traces (cuda_trace.cu): what one row of a step saw of a layer, for a dump */

/* As cuda_decode_attention() left it, with its lists; IDX NULL: FIRST_ALL. */
struct cuda_seen {
    const float *logits, *lse; /* [H, span], [H] */
    size_t span;
    const int *pos;
    int H;
    const int *idx; /* [sets, stride] */
    int sets, stride;
    const int *count, *tail; /* [1] */
};

/* By position, 0 .. *pos: the attention weight as the mean over the heads, 0 where not seen, and a
 * score: the largest logit of any head, NaN where not seen. Rows are 16-byte aligned. */
struct cuda_trace_rows {
    struct cuda_seen seen;
    void *mass, *score;      /* [room] out, either may be NULL */
    bool halves;             /* as f16 (a NaN is 0x7e00), otherwise float32 */
    float *mass32, *score32; /* [room] out: the same in float32; lists only, there never NULL */
    int room;                /* *pos is below */
    const float *given;      /* FIRST_ALL: [room] the scores, or NULL */
    float *totals; /* lists: NULL; or scratch [H], and the score is the largest share of a head's
                    * weight on its list, 0 for the entries of the tail */
};
int cuda_trace_rows(const struct cuda_trace_rows *a, cudaStream_t stream);

/* What the compact form keeps of a layer. */
enum { CUDA_TRACE_PARTS = 32 };
struct cuda_trace_compact {
    struct cuda_seen seen;
    const int *idx; /* [k] positions */
    int k;
    float *score, *mass;             /* [k] out */
    const float *given, *given_mass; /* by position; NULL: the largest logit, the mean weight */
    float *parts; /* [CUDA_TRACE_PARTS] out: their sum is the weight, as the mean over the heads, of
                   * the positions from FIRST on */
    int first;
};
int cuda_trace_compact(const struct cuda_trace_compact *a, cudaStream_t stream);

/* The same of several layers that saw everything, when the step is over: their attention has left
 * the groups' scores, and the weights of the few positions are computed again from q and k. */
enum { CUDA_TRACE_LAYERS = 32 };
struct cuda_trace_late {
    struct {
        const void *k;  /* [G, room, D] 16-bit */
        const float *q; /* [H, D] */
        int room;
        int layer; /* its row of what comes out */
    } of[CUDA_TRACE_LAYERS];
    int layers, H, G, D;
    enum dtype type;
    const float *scores, *lse; /* [layers, G, span], [layers, H] */
    size_t span;
    const int *pos;
    const int *idx; /* [layers, k] positions */
    int k, first;
    int *top;            /* [.., k] out: idx */
    float *score, *mass; /* [.., k] out: the largest score of a group, the mean weight */
    float *parts;        /* [.., CUDA_TRACE_PARTS] out, as above */
};
int cuda_trace_late(const struct cuda_trace_late *a, cudaStream_t stream);

/* importance [n] = 1 - cos(x, x + delta) for each row of x and delta [n, E]. */
int cuda_trace_turns(float *importance, const float *x, const float *delta, int n, int E,
                     cudaStream_t stream);

/* to [1 + sets * most] of each of N selections, one after the other: *count, and of each set of idx
 * [sets, stride] what lies in the first MOST entries. */
struct cuda_selected {
    const int *idx, *count;
    int stride;
};
int cuda_trace_selected(int *to, const struct cuda_selected *from, int n, int sets, int most,
                        cudaStream_t stream);

/* to [n, size] = n times from [size]. */
int cuda_repeat_row(float *to, const float *from, int n, size_t size, cudaStream_t stream);
/* pairs [n, stride] out, two values each: |delta_i - delta_j| / |delta_j| and the cosine between
 * row i of DELTA [n, E] and its last, j = n - 1: 0 and 1 for that. */
int cuda_compare_rows(float *pairs, size_t stride, const float *delta, int n, int E,
                      cudaStream_t stream);

#endif
