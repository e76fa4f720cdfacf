/* cuda_far.h - the launchers of attention that keeps its distances (infllm, streaming, infinite-lm)
 * on a GPU; the conventions of cuda_kernels.h hold.
 *
 * "Listed" is what a row sees from before its window, ascending: the first tokens, chosen blocks,
 * and the remainder, which lies between the last block and the window. Listed keys and values are
 * rows of the LIST planes [G, list room, D]: keys there stand at position 0 (streaming: their own).
 * A row for them is turned to one fixed position (TARGET). Weights that window tokens receive are
 * kept in a ring SUMS [H, ring], position p at slot p % ring.
 * Source: Xiao et al. 2024, InfLLM, arXiv 2402.04617, section 3; docs/methods.md.
 */
#ifndef CORE_OPS_CUDA_FAR_H
#define CORE_OPS_CUDA_FAR_H

#include "core/ops/cuda_kernels.h"

/* TARGET [2, D / 2] out: cos and sin of POSITION without the RoPE kind's factor, composed of the
 * ROOM (from 2 on) positions of the tables. */
int cuda_far_target(float *target, const float *cosine, const float *sine, int room, int position,
                    int D, cudaStream_t stream);

/* OUT = IN turned from the rows' own positions pos0 .. to TARGET, or (NULL) to 0; 16-bit. Element d
 * of head h of row r lies at r * row + h * head + d. */
struct cuda_far_turn {
    void *out;
    const void *in;
    size_t out_row, out_head, in_row, in_head;
    int n, heads, pos0, D;
    const float *cosine, *sine, *target;
    enum dtype type;
};
int cuda_far_turn(const struct cuda_far_turn *a, cudaStream_t stream);

/* means [groups, width] = over the rows of each group of X [n, width] 16-bit; groups end where
 * (pos0 + row + 1) % GROUP is 0, and at the last row. WIDTH is a multiple of 8. */
int cuda_far_means(float *means, const void *x, int n, int pos0, int group, int width,
                   enum dtype type, cudaStream_t stream);

/* score [blocks] = q [H D] . reps [blocks, H D] (16-bit): the sum over the heads. */
int cuda_far_scores(float *score, const float *q, const void *reps, int blocks, int H, int D,
                    enum dtype type, cudaStream_t stream);

/* The same at a step, whose row is at *POS, and what goes with it. */
struct cuda_far_step {
    const float *q; /* [H, D], at its own position */
    float *turned;  /* [H, D] out: at TARGET */
    const float *cosine, *sine, *target;
    const int *pos;

    /* The token that has just left the window, *pos - n_local, goes into the list planes: turned
     * back, or (KEEP_TURN) as it is; those from n_init on only with REST. LIST_K NULL: none. */
    const void *k, *v; /* [G, room, D], row 0 is position BASE */
    int room, base;
    void *list_k, *list_v; /* LIST_V NULL: values are there */
    int list_room, shift;  /* the row of a position p from n_init on is p - shift */
    bool rest;

    float *score;     /* [blocks]; NULL: no blocks */
    const void *reps; /* [blocks, H D] */
    int *blocks;      /* out: how many there are */
    int n_init, n_local, block, most_blocks;
    int H, G, D;
    enum dtype type;
};
int cuda_far_step(const struct cuda_far_step *a, cudaStream_t stream);

/* What a group of rows sees besides their windows. The last row is at LAST, or (POS) at *pos. */
struct cuda_far_list {
    int *idx;              /* [..] out: positions */
    int *rows;             /* [..] out: their rows of the list planes; NULL: the positions */
    int *count;            /* out: of all of them */
    int *list_tail, *tail; /* out: *pos + 1; the first of the last row's window. NULL: none */
    const int *pos;
    int last;
    const int *chosen;   /* blocks, ascending; NULL: no blocks, and only the first tokens listed */
    const int *n_chosen; /* how many; NULL: CHOSEN_NOW */
    int chosen_now;
    const int *slot;   /* [most_blocks] of a block in the cache, or NULL: no cache */
    int cached;        /* rows before the cache's: n_init */
    int away, shift;   /* blocks from AWAY on are at p - shift; without a cache 0, 0 */
    const int *blocks; /* how many there are; NULL: BLOCKS_NOW */
    int blocks_now;
    int n_init, n_local, block;
    int most;                   /* entries of idx */
    unsigned long long *choice; /* += blocks chosen, unless NULL */
};
int cuda_far_list(const struct cuda_far_list *a, cudaStream_t stream);

/* Two attentions over disjoint entries become one: OUT [H, D] and LSE [H] of a pair of each.
 * Then, unless NULL: logits [H, span] from entry *COUNT on = those of the window; SUMS of the
 * window's positions from n_init on += their weights; and where *pos + 1 tokens make a block more
 * than *pos do, its representatives. */
struct cuda_far_join {
    float *out, *lse;
    const float *list_out, *list_lse, *window_out, *window_lse;
    const float *window; /* [H, window_span] logits; NULL: none of what follows is wanted */
    size_t window_span;
    const int *count, *tail, *pos;
    float *logits;
    size_t span;
    float *sums;
    int *counted; /* [H] tokens whose weights are in sums: a step that is run again is not added */
    int ring;
    const void *list_k;
    int list_room, shift;
    void *reps;
    int n_init, n_local, block, repr_topk, most_blocks;
    int H, G, D;
    enum dtype type;
};
int cuda_far_join(const struct cuda_far_join *a, cudaStream_t stream);

/* reps [.., H, D] of the blocks FIRST .. END - 1: the mean of the REPR_TOPK keys of a block whose
 * positions have received the most weight from the head's queries, ties to the lower. Position p's
 * key is row p - shift of list_k [G, list_room, D]. */
struct cuda_far_reps {
    void *reps;
    const float *sums;
    int ring;
    const void *list_k;
    int list_room, shift, n_init, block, repr_topk, H, G, D;
    enum dtype type;
};
int cuda_far_reps(const struct cuda_far_reps *a, int first, int end, cudaStream_t stream);

/* ---- many rows (cuda_far_prefill.cu): n rows at pos0 .., q and out [n, H, D] 16-bit
 *
 * A row at p sees the positions max(0, p - n_local + 1) .. p of k and v with q, and the first
 * min(listed, max(0, p - n_local + 1 - gap)) rows of the list, idx [listed] of the list planes or
 * (NULL) rows 0 .., with q_far, under one softmax. */
struct cuda_far_attention {
    void *out;
    float *lse; /* [n, H] out, natural */
    const void *q, *q_far;
    const void *k, *v; /* [G, room, D] */
    int room;
    const void *list_k, *list_v;
    int list_room, listed, gap;
    const int *idx;
    int n, pos0, n_local, H, G, D;
    enum dtype type;
};
int cuda_far_attention(const struct cuda_far_attention *a, cudaStream_t stream);

/* SUMS of the positions from n_init on += the weights that the n rows at pos0 .. give them within
 * their windows; those from pos0 on start from 0. LSE [n, H] as cuda_far_attention() left it. */
struct cuda_far_columns {
    float *sums;
    int ring;
    const void *q, *k;
    const float *lse;
    int room, n, pos0, n_init, n_local, H, G, D;
    enum dtype type;
};
int cuda_far_columns(const struct cuda_far_columns *a, cudaStream_t stream);

/* ---- blocks in host memory (cuda_far_away.cu)
 *
 * HOST is pinned memory mapped for the device: [blocks, 2, G, block, D] 16-bit, a block's keys as
 * the list shows them, then its values. Of these, CACHED blocks at a time have slots in the list
 * planes: rows FIRST + slot * block on. Blocks from AWAY_BLOCKS on are on the device anyway. */

/* HOST blocks 0 .. blocks - 1 = positions n_init on of k, v [G, room, D]. */
int cuda_far_store(void *host, const void *k, const void *v, int room, int n_init, int block,
                   int blocks, int G, int D, cudaStream_t stream);

/* Which block has which slot. All memory is zeroed before the first use but SLOT, which is -1. */
struct cuda_far_cache {
    int *slot;        /* [blocks] of a block, or -1 */
    int *block;       /* [cached] of a slot */
    int *used_at;     /* [cached] the step that last used it */
    double *priority; /* [cached] the least goes first, ties to the lower block */
    int *state;       /* [2]: slots in use, steps */
    int *fetch;       /* [1 + 2 topk] of the last step: how many, then block and slot of each */
    int cached, topk, away_blocks;
};

/* A step's chosen blocks get slots: those that have none in the place of the slots of least
 * priority whose blocks are not chosen. A used slot's priority becomes the count of steps, or
 * (SCORED) 0. MISSED += how many had none. */
int cuda_far_slots(const struct cuda_far_cache *a, const int *chosen, const int *n_chosen,
                   bool scored, unsigned long long *missed, cudaStream_t stream);

/* The blocks that got slots arrive in rows FIRST on of list_k, list_v [G, list_room, D]. */
int cuda_far_fetch(void *list_k, void *list_v, const void *host, const struct cuda_far_cache *a,
                   int list_room, int first, int block, int G, int D, cudaStream_t stream);

/* After the attention of a step: all priorities times DECAY, and to those of the chosen blocks is
 * added the weight that they were given, exp(logits [H, span] - lse [H]), over all heads; chosen
 * block i is entries n_init + i * block on. */
int cuda_far_reward(const struct cuda_far_cache *a, const int *chosen, const int *n_chosen,
                    const float *logits, size_t span, const float *lse, int n_init, int block,
                    int H, double decay, cudaStream_t stream);

#endif
