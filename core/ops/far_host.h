/* far_host.h - attention that keeps its distances, in host memory: the books, which the definition
 * and the fast form share (far.c), and what each does for itself: the attention of a group.
 */
#ifndef CORE_OPS_FAR_HOST_H
#define CORE_OPS_FAR_HOST_H

#include "core/ops/far.h"

/* The blocks that device memory would hold of a layer: for far_stats(). */
struct far_cache {
    int *block; /* [max_cached] */
    double *priority;
    int n;
    double clock;
};

struct far {
    struct far_rule rule;
    int L, H, G, D, P;
    int prompt;   /* tokens */
    int stride;   /* entries of a list, at most */
    int most;     /* blocks of a layer, at most */
    size_t span;  /* of mass */
    float *mass;  /* [L, H, span] attention weight each token got while it was in a window */
    float *repr;  /* [L, most, H, P] what stands for each block */
    int *made;    /* [L] blocks that have it */
    int *counted; /* [L] tokens whose queries are in mass */
    int *list;    /* [L, stride] of the last group */
    int *chosen;  /* [topk] of the group at work */
    int *seen;    /* [L, 2, rows] of the last pass: counts, tails */
    int rows;
    double *target;          /* [2, D / 2] cos and sin of where queries for the list turn to */
    bool aimed;              /* target is known */
    struct far_cache *cache; /* [L] */
    struct far_stats stats;
    struct scratch turned, work; /* work: the backend's */
};

/* A group of rows and what they see. */
struct far_group {
    int layer, rows, T;      /* T tokens before its first row */
    int chosen;              /* blocks */
    int listed;              /* entries of the longest list: its last row's */
    const int *list;         /* [listed], of which row r sees the first count[r] */
    const int *count, *tail; /* [rows]; tail: where the window begins */
    const float *q, *turned; /* [rows, H, P]: as attn_in() left them; for the list */
    const struct kv_layer *kv;
    struct rope_table rope;
    float *out;            /* [rows, H, D] */
    struct attn_seen seen; /* of these rows; lse is always there */
    float *mass;           /* [H, span] to add to, or NULL */
    float *block_mass;     /* [chosen], or NULL: weight of each chosen block, summed over heads */
};

/* far_attend() of ops.h with GROUP as the attention of each group under one softmax. */
void far_attend_with(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                     int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                     struct attn_view *view,
                     void (*group)(struct far *f, const struct far_group *g));

/* OUT [P] = the key IN [P] of the token at POS as the list shows it: turned back to position 0, or
 * as it is for streaming. */
void far_listed_key(float *out, const float *in, int pos, const struct far *f,
                    struct rope_table rope);

#endif
