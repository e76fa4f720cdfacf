/* cuda_far.c - attention that keeps its distances on CUDA: the state of a sequence, and the order
 * of the kernels of cuda_far.h. far.c is the definition, far.h says who sees what.
 *
 * A prefill goes by groups, or by runs of groups that need no choice because they may have every
 * block. A step is the same launches whatever its position: turn the query and score the blocks,
 * choose, list, attend to the list and to the window, join.
 */
#include "core/base/base.h"
#include "core/ops/cuda_far.h"
#include "core/ops/cuda_state.h"
#include "core/ops/far.h"

#include <stdlib.h>

/* Listed keys and values of one layer, and its books. */
struct far_layer {
    void *list_k, *list_v; /* [G, list room, D]; NULL: the cache's own */
    float *sums;           /* [H, ring] */
    void *reps;            /* [most, H, D] */
    int *idx;              /* [stride] positions, of the last step */
    int *rows;             /* [stride] with blocks in host memory: where they are */
    struct cuda_far_cache cache;
    int *count, *list_tail, *tail, *blocks, *n_chosen, *zero, *chosen; /* chosen: [topk] */
    int *counted;                                                      /* [H] */
    int made; /* blocks that have representatives, while a prompt goes by */
};

struct far {
    struct far_rule rule;
    const struct model_config *c;
    int prompt;
    bool aimed;       /* target is known */
    int most;         /* blocks of a layer */
    int stride;       /* entries of a list */
    int ring;         /* positions of sums */
    int cached;       /* slots of a layer */
    size_t span;      /* of window logits */
    size_t list_span; /* of logits of the list, where they are needed; else 0 */
    void *memory;

    /* of the session that cuda_far_start() was called for */
    bool away;     /* blocks of the prompt live in host memory */
    int list_room; /* rows of list planes; 0: none of its own */
    int recent;    /* with blocks away: positions from here on are in the list planes for good, */
    int shift;     /* at p - shift */
    void *planes;

    /* what the layers share */
    float *target;               /* [2, D / 2] */
    float *turned;               /* [H, D] */
    float *score;                /* [most] */
    float *part_out, *part_lse;  /* of the list, the window: [2, H, D]; and of both: [3, H] */
    float *window;               /* [H, span] logits */
    float *list;                 /* [H, list_span] logits */
    unsigned long long *choices; /* blocks chosen, blocks fetched */
    struct far_layer layer[];
};

/* ---- state */

static size_t take(size_t *end, size_t bytes)
{
    const size_t at = *end;
    *end = (at + bytes + 255) / 256 * 256;
    return at;
}

static int least(double a, int b)
{
    return a < b ? (int)a : b;
}

/* Places everything in memory from BASE on (NULL: only counts). Returns the bytes. */
static size_t lay_out(struct far *f, char *base)
{
    const struct far_rule *r = &f->rule;
    const size_t H = (size_t)f->c->H, D = (size_t)f->c->D, most = (size_t)f->most;
    const size_t topk = (size_t)r->topk, cached = (size_t)f->cached;
    size_t end = 0;
#define TAKE(n, x) (void *)((uintptr_t)base + take(&end, (n) * sizeof *(x)))
    f->target = TAKE(D, f->target);
    f->turned = TAKE(H * D, f->turned);
    f->score = TAKE(most + 4, f->score);
    f->part_out = TAKE(2 * H * D, f->part_out);
    f->part_lse = TAKE(3 * H, f->part_lse);
    f->window = TAKE(H * f->span, f->window);
    f->list = TAKE(H * f->list_span, f->list);
    f->choices = TAKE(2, f->choices);
    for (int l = 0; l < f->c->L; l++) {
        struct far_layer *y = &f->layer[l];
        struct cuda_far_cache *k = &y->cache;
        y->count = TAKE(6 + topk, y->count);
        y->list_tail = y->count + 1;
        y->tail = y->count + 2;
        y->blocks = y->count + 3;
        y->n_chosen = y->count + 4;
        y->zero = y->count + 5;
        y->chosen = y->count + 6;
        y->idx = TAKE((size_t)f->stride, y->idx);
        if (most == 0) continue;
        y->sums = TAKE(H * (size_t)f->ring, y->sums);
        y->counted = TAKE(H, y->counted);
        y->reps = TAKE(most * H * D, (uint16_t *)y->reps);
        if (cached == 0) continue;
        y->rows = TAKE((size_t)f->stride, y->rows);
        k->slot = TAKE(most, k->slot);
        k->block = TAKE(cached, k->block);
        k->used_at = TAKE(cached, k->used_at);
        k->priority = TAKE(cached, k->priority);
        k->state = TAKE(2, k->state);
        k->fetch = TAKE(1 + 2 * topk, k->fetch);
        k->cached = f->cached;
        k->topk = least(r->topk, f->most);
    }
#undef TAKE
    return end;
}

/* Sets the sizes that follow from F's rule and model. */
static void measure(struct far *f)
{
    const struct far_rule *r = &f->rule;
    const int exc = r->exc_block_size, rows = exc > CUDA_PREFILL_ROWS ? exc : CUDA_PREFILL_ROWS;
    const double longest = r->n_init + ((double)r->topk + 1) * r->block_size + exc;
    f->most = far_blocks(r, r->room);
    f->cached = r->away && r->topk > 0 ? least(r->max_cached, f->most) : 0;
    f->stride = (least(r->topk > 0 ? longest : r->n_init, r->room) + 3) / 4 * 4 + 4;
    f->ring = least((double)r->n_local + r->block_size + rows, r->room);
    f->span = ((size_t)least(r->n_local, r->room) + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    f->list_span = f->cached > 0 && r->policy == BLOCKS_LRU_S ? (size_t)f->stride : 0;
}

/* Rows of the list planes of a layer, which are K and V, or K alone where *PLANES is 1: values of
 * listed tokens are then in the cache. 0: none, listed keys are there too. */
static int list_rows(const struct far_rule *r, bool away, int steps, int most, int *planes)
{
    *planes = away || r->topk == 0 ? 2 : 1;
    if (r->turned) return 0;
    if (r->topk == 0) return least(r->n_init, r->room);
    if (!away) return r->room;
    /* first tokens, slots, and what leaves the window after the last block in host memory */
    return least(r->n_init + (double)least(r->max_cached, most) * r->block_size + r->block_size +
                     steps,
                 INT_MAX);
}

double cuda_far_bytes(const struct model_config *c, const struct session_plan *plan, bool away,
                      int steps)
{
    struct far *f = xcalloc(1, sizeof *f + (size_t)c->L * sizeof f->layer[0]);
    int planes;
    f->rule = *plan->far;
    f->rule.room = plan->room;
    f->c = c;
    measure(f);
    const double books = (double)lay_out(f, NULL);
    const double row = 2.0 * c->G * c->D, rows = list_rows(&f->rule, away, steps, f->most, &planes);
    free(f);
    return books + planes * rows * row * c->L;
}

struct far *cuda_far_open(const struct far_rule *rule, const struct model_config *c)
{
    struct far *f = xcalloc(1, sizeof *f + (size_t)c->L * sizeof f->layer[0]);
    f->rule = *rule;
    f->c = c;
    measure(f);
    const size_t bytes = lay_out(f, NULL);
    if ((f->memory = cuda_alloc(bytes, "blocks and lists")) == NULL) {
        free(f);
        return NULL;
    }
    lay_out(f, f->memory);
    cuda_check(cudaMemsetAsync(f->memory, 0, bytes, cuda.stream), "clear");
    return f;
}

void cuda_far_close(struct far *f)
{
    if (f == NULL) return;
    cuda_release(f->memory);
    cuda_release(f->planes);
    free(f);
}

void cuda_far_stats(struct far *f, struct far_stats *stats)
{
    unsigned long long n[2] = {0};
    cuda_check(cudaMemcpyAsync(n, f->choices, sizeof n, cudaMemcpyDeviceToHost, cuda.stream),
               "counts");
    cuda_check(cudaStreamSynchronize(cuda.stream), "counts");
    *stats = (struct far_stats){(double)n[0], (double)n[1]};
}

/* ---- places */

/* Memory of the list planes for a session with KV. 0, or -1 after fail(). */
static int open_planes(struct far *f, const struct kv_layer *kv)
{
    const bool away = kv[0].cuda->place == KV_BLOCKS;
    const size_t row = 2 * (size_t)f->c->G * (size_t)f->c->D;
    int planes;
    const int rows = list_rows(&f->rule, away, kv[0].cuda->steps, f->most, &planes);
    if (f->away == away && f->list_room == rows) return 0;
    cuda_release(f->planes);
    f->planes = NULL;
    f->away = away;
    f->list_room = rows;
    for (int l = 0; l < f->c->L; l++) f->layer[l].list_k = f->layer[l].list_v = NULL;
    if (rows == 0) return 0;
    const size_t plane = row * (size_t)rows, each = plane * (size_t)planes;
    f->planes = cuda_alloc(each * (size_t)f->c->L, "listed keys and values");
    if (f->planes == NULL) {
        f->list_room = 0;
        return -1;
    }
    for (int l = 0; l < f->c->L; l++) {
        struct far_layer *y = &f->layer[l];
        y->list_k = (char *)f->planes + (size_t)l * each;
        if (planes == 2) y->list_v = (char *)y->list_k + plane;
    }
    return 0;
}

/* Where listed rows of a layer are. */
struct planes {
    void *k, *v;
    int room, shift;   /* rows; the row of position p from n_init on is p - shift */
    bool own_k, own_v; /* they are not the cache's */
    bool slots;        /* but of blocks, which have slots */
};

static struct planes planes_of(const struct far *f, const struct far_layer *y,
                               const struct cuda_kv *d, bool prefill)
{
    struct planes p = {.k = d->k, .v = d->v, .room = d->room};
    if (f->away && prefill) { /* the third plane of a layer at work */
        p.k = (char *)d->v + 2 * (size_t)f->c->G * (size_t)d->room * (size_t)f->c->D;
        p.own_k = true;
        return p;
    }
    if (y->list_k) p.k = y->list_k, p.room = f->list_room, p.own_k = true;
    if (y->list_v) p.v = y->list_v, p.own_v = true;
    if (f->away) p.shift = f->shift, p.slots = true;
    return p;
}

/* The rotation that listed keys are seen from, once the tables are there. */
static void aim(struct far *f, struct rope_table rope)
{
    const struct far_rule *r = &f->rule;
    if (f->aimed || r->room <= r->n_local) return; /* otherwise nothing is ever listed */
    cuda_did(cuda_far_target(f->target, rope.cos, rope.sin, r->room,
                             r->n_local - 1 + (r->turned ? r->n_init : 0), f->c->D, cuda.stream));
    f->aimed = true;
}

static void copy_rows(void *to, int to_room, int to_row, const void *from, int from_room,
                      int from_row, int n, const struct model_config *c)
{
    const size_t row = 2 * (size_t)c->D;
    if (n < 1) return;
    cuda_check(cudaMemcpy2DAsync((char *)to + (size_t)to_row * row, (size_t)to_room * row,
                                 (const char *)from + (size_t)from_row * row,
                                 (size_t)from_room * row, (size_t)n * row, (size_t)c->G,
                                 cudaMemcpyDeviceToDevice, cuda.stream),
               "listed keys and values");
}

/* The N tokens from FROM on take their places in the list planes. */
static void list_tokens(struct far *f, const struct planes *p, const struct cuda_kv *d, int from,
                        int n, struct rope_table rope)
{
    const size_t D = (size_t)f->c->D, skip = (size_t)from * D;
    if (!p->own_k) return;
    if (n > p->room - from) n = p->room - from;
    if (n < 1) return;
    const struct cuda_far_turn keys = {.out = (uint16_t *)p->k + skip,
                                       .in = (const uint16_t *)d->k + skip,
                                       .out_row = D,
                                       .out_head = (size_t)p->room * D,
                                       .in_row = D,
                                       .in_head = (size_t)d->room * D,
                                       .n = n,
                                       .heads = f->c->G,
                                       .pos0 = from,
                                       .D = f->c->D,
                                       .cosine = rope.cos,
                                       .sine = rope.sin,
                                       .type = d->type};
    cuda_did(cuda_far_turn(&keys, cuda.stream));
    if (p->own_v) copy_rows(p->v, p->room, from, d->v, d->room, from, n, f->c);
}

/* ---- blocks */

static struct cuda_far_reps reps_of(const struct far *f, const struct far_layer *y,
                                    const struct planes *p, enum dtype type)
{
    return (struct cuda_far_reps){.reps = y->reps,
                                  .sums = y->sums,
                                  .ring = f->ring,
                                  .list_k = p->k,
                                  .list_room = p->room,
                                  .shift = p->shift,
                                  .n_init = f->rule.n_init,
                                  .block = f->rule.block_size,
                                  .repr_topk = f->rule.repr_topk,
                                  .H = f->c->H,
                                  .G = f->c->G,
                                  .D = f->c->D,
                                  .type = type};
}

static void represent_until(struct far *f, struct far_layer *y, const struct planes *p, int blocks,
                            enum dtype type)
{
    if (blocks <= y->made) return;
    const struct cuda_far_reps r = reps_of(f, y, p, type);
    cuda_did(cuda_far_reps(&r, y->made, blocks, cuda.stream));
    y->made = blocks;
}

/* A layer's prefill is over: its blocks go to the host, and of the rest what is before the window
 * of the first step to the list planes. */
static void settle(struct far *f, struct far_layer *y, const struct cuda_kv *d)
{
    const struct far_rule *r = &f->rule;
    const struct model_config *c = f->c;
    const struct planes p = planes_of(f, y, d, true);
    const int n = f->prompt, first = least(r->n_init, n), rest = n - r->n_local - f->recent;
    void *const from[] = {p.k, p.v}, *const to[] = {y->list_k, y->list_v};
    cuda_did(cuda_far_store(d->host, p.k, p.v, p.room, r->n_init, r->block_size,
                            y->cache.away_blocks, c->G, c->D, cuda.stream));
    for (int i = 0; i < 2; i++) {
        copy_rows(to[i], f->list_room, 0, from[i], p.room, 0, first, c);
        copy_rows(to[i], f->list_room, f->recent - f->shift, from[i], p.room, f->recent, rest, c);
    }
}

/* What stands for keys and values that are nowhere: for latency. */
static void make_up(struct far *f, struct far_layer *y, enum dtype type)
{
    const size_t row = (size_t)f->c->G * (size_t)f->c->D, width = (size_t)f->c->H * (size_t)f->c->D;
    const size_t blocks = (size_t)y->cache.away_blocks;
    cuda_did(cuda_fill_uniform(y->list_k, (size_t)f->list_room * row, type, 1, 1, cuda.stream));
    cuda_did(cuda_fill_uniform(y->list_v, (size_t)f->list_room * row, type, 2, 1, cuda.stream));
    cuda_did(cuda_fill_uniform(y->reps, blocks * width, type, 3, 1, cuda.stream));
}

static void forget_slots(struct far *f, struct far_layer *y, int blocks)
{
    const size_t cached = (size_t)f->cached, word = sizeof(int);
    struct cuda_far_cache *k = &y->cache;
    k->away_blocks = blocks;
    cuda_check(cudaMemsetAsync(k->slot, 0xff, (size_t)f->most * word, cuda.stream), "clear");
    cuda_check(cudaMemsetAsync(k->used_at, 0, cached * word, cuda.stream), "clear");
    cuda_check(cudaMemsetAsync(k->state, 0, 2 * word, cuda.stream), "clear");
}

void cuda_far_start(struct far *f, int n, struct kv_layer *kv, bool filled, struct rope_table rope,
                    const struct model_config *c)
{
    const int blocks = far_blocks(&f->rule, n), size = f->rule.block_size;
    f->prompt = n;
    f->aimed = false;
    if (open_planes(f, kv)) {
        cuda.broken = true;
        return;
    }
    if (f->away && filled && !kv[0].cuda->made_up) {
        fail("infllm with real_offload: the prompt's blocks are cut while it is prefilled, but it "
             "was prefilled without");
        cuda.broken = true;
        return;
    }
    f->recent = f->rule.n_init + blocks * size;
    f->shift = f->recent - (f->rule.n_init + f->cached * size);
    cuda_check(cudaMemsetAsync(f->choices, 0, 2 * sizeof *f->choices, cuda.stream), "clear");
    for (int l = 0; l < c->L; l++) {
        struct far_layer *y = &f->layer[l];
        const struct cuda_kv *d = kv[l].cuda;
        y->made = 0;
        if (f->most > 0)
            cuda_check(
                cudaMemsetAsync(y->counted, 0, (size_t)c->H * sizeof *y->counted, cuda.stream),
                "clear");
        if (f->most > 0 && f->away) forget_slots(f, y, blocks);
        if (!filled) continue;
        if (f->most > 0)
            cuda_check(cudaMemsetAsync(y->sums, 0, (size_t)c->H * (size_t)f->ring * sizeof *y->sums,
                                       cuda.stream),
                       "clear");
        if (f->away) {
            make_up(f, y, d->type);
            continue;
        }
        const struct planes p = planes_of(f, y, d, false);
        list_tokens(f, &p, d, 0, n, rope);
        if (f->most > 0) represent_until(f, y, &p, blocks, d->type);
    }
}

/* ---- many rows */

/* How the rows of a run see the list. */
struct seen_list {
    const int *idx; /* NULL: rows 0 .. */
    int listed, gap;
};

/* Chooses for the ROWS rows at T, whose turned queries have the mean MEAN. */
static struct seen_list choose(struct far *f, struct far_layer *y, int T, int rows,
                               const float *mean, float *score, enum dtype type)
{
    const struct far_rule *r = &f->rule;
    const int blocks = far_blocks(r, T), edge = far_edge(r, T + rows - 1);
    struct seen_list seen = {.listed = edge};
    if (r->topk == 0) seen.listed = least(r->n_init, r->room);
    if (r->topk == 0 || blocks <= r->topk) return seen;
    void *work = cuda_work(WORK_SELECT, cuda_select_work(1, blocks));
    seen.gap = (blocks - r->topk) * r->block_size;
    seen.listed = edge - seen.gap;
    seen.idx = y->idx;
    if (work == NULL) return seen;
    const struct cuda_far_list list = {.idx = y->idx,
                                       .count = y->count,
                                       .last = T + rows - 1,
                                       .chosen = y->chosen,
                                       .chosen_now = r->topk,
                                       .blocks_now = blocks,
                                       .n_init = r->n_init,
                                       .n_local = r->n_local,
                                       .block = r->block_size,
                                       .most = f->stride};
    cuda_did(cuda_far_scores(score, mean, y->reps, blocks, f->c->H, f->c->D, type, cuda.stream));
    cuda_did(cuda_top_k(y->chosen, score, blocks, r->topk, work, cuda.stream));
    cuda_did(cuda_far_list(&list, cuda.stream));
    return seen;
}

static void attend_rows(struct far *f, struct far_layer *y, uint16_t *out, const uint16_t *q,
                        const struct cuda_kv *d, int n, int pos0, struct rope_table rope,
                        float *lse, struct scratch *s)
{
    const struct far_rule *r = &f->rule;
    const struct model_config *c = f->c;
    const struct planes p = planes_of(f, y, d, true);
    const size_t width = (size_t)c->H * (size_t)c->D, N = (size_t)n;
    const int exc = r->topk > 0 ? r->exc_block_size : n;
    /* the prompt's last token is a group of its own behind the others */
    const int last = r->topk > 0 && pos0 + n == f->prompt, whole = last ? n - 1 : n;
    const int groups = r->topk > 0 && whole > 0 ? (pos0 + whole - 1) / exc - pos0 / exc + 1 : 0;
    const size_t floats = (size_t)(groups + 1) * width + N * (size_t)c->H;
    float *mean = scratch_get(s, floats + 4 + (N * width + 1) / 2);
    if (lse == NULL) lse = mean + (size_t)(groups + 1) * width;
    uint16_t *turned = (uint16_t *)(mean + (floats + 3) / 4 * 4);
    const struct cuda_far_turn queries = {.out = turned,
                                          .in = q,
                                          .out_row = width,
                                          .out_head = (size_t)c->D,
                                          .in_row = width,
                                          .in_head = (size_t)c->D,
                                          .n = n,
                                          .heads = c->H,
                                          .pos0 = pos0,
                                          .D = c->D,
                                          .cosine = rope.cos,
                                          .sine = rope.sin,
                                          .target = f->target,
                                          .type = d->type};

    if (far_edge(r, pos0 + n - 1) > 0) cuda_did(cuda_far_turn(&queries, cuda.stream));
    list_tokens(f, &p, d, pos0, n, rope);
    if (far_blocks(r, pos0 + n) > r->topk && whole > 0)
        cuda_did(cuda_far_means(mean, turned, whole, pos0, exc, (int)width, d->type, cuda.stream));
    if (far_blocks(r, pos0 + n) > r->topk && last)
        cuda_did(cuda_far_means(mean + (size_t)groups * width, turned + (size_t)whole * width, 1, 0,
                                1, (int)width, d->type, cuda.stream));

    for (int at = 0, end; at < n && !cuda.broken; at = end) {
        const int T = pos0 + at, group = T == f->prompt - 1 ? groups : T / exc - pos0 / exc;
        const int limit = pos0 + n;
        int until = far_group_end(r, f->prompt, T);
        while (until < limit && far_blocks(r, until) <= r->topk)
            until = far_group_end(r, f->prompt, until);
        end = (until < limit ? until : limit) - pos0;
        const int rows = end - at;
        if (f->most > 0) represent_until(f, y, &p, far_blocks(r, T), d->type);
        const struct seen_list seen =
            choose(f, y, T, rows, mean + (size_t)group * width, f->score, d->type);
        const struct cuda_far_attention a = {.out = out + (size_t)at * width,
                                             .lse = lse + (size_t)at * (size_t)c->H,
                                             .q = q + (size_t)at * width,
                                             .q_far = turned + (size_t)at * width,
                                             .k = d->k,
                                             .v = d->v,
                                             .room = d->room,
                                             .list_k = p.k,
                                             .list_v = p.v,
                                             .list_room = p.room,
                                             .listed = seen.listed,
                                             .gap = seen.gap,
                                             .idx = seen.idx,
                                             .n = rows,
                                             .pos0 = T,
                                             .n_local = r->n_local,
                                             .H = c->H,
                                             .G = c->G,
                                             .D = c->D,
                                             .type = d->type};
        cuda_did(cuda_far_attention(&a, cuda.stream));
        if (f->most == 0) continue;
        const struct cuda_far_columns columns = {.sums = y->sums,
                                                 .ring = f->ring,
                                                 .q = a.q,
                                                 .k = d->k,
                                                 .lse = a.lse,
                                                 .room = d->room,
                                                 .n = rows,
                                                 .pos0 = T,
                                                 .n_init = r->n_init,
                                                 .n_local = r->n_local,
                                                 .H = c->H,
                                                 .G = c->G,
                                                 .D = c->D,
                                                 .type = d->type};
        cuda_did(cuda_far_columns(&columns, cuda.stream));
    }
    if (f->most > 0) represent_until(f, y, &p, far_blocks(r, pos0 + n), d->type);
}

/* ---- one row, at *cuda.pos */

static void choose_row(struct far *f, struct far_layer *y, const float *q, const struct cuda_kv *d,
                       const struct planes *p, struct rope_table rope, bool prefill)
{
    const struct far_rule *r = &f->rule;
    const bool blocks = f->most > 0;
    void *work = blocks ? cuda_work(WORK_SELECT, cuda_select_work(1, f->most)) : NULL;
    if (blocks && work == NULL) return;
    const struct cuda_far_step step = {.q = q,
                                       .turned = f->turned,
                                       .cosine = rope.cos,
                                       .sine = rope.sin,
                                       .target = f->target,
                                       .pos = cuda.pos,
                                       .k = d->k,
                                       .v = d->v,
                                       .room = d->room,
                                       .base = d->base,
                                       .list_k = p->own_k ? p->k : NULL,
                                       .list_v = p->own_v ? p->v : NULL,
                                       .list_room = p->room,
                                       .shift = p->shift,
                                       .rest = r->topk > 0,
                                       .score = blocks ? f->score : NULL,
                                       .reps = y->reps,
                                       .blocks = y->blocks,
                                       .n_init = r->n_init,
                                       .n_local = r->n_local,
                                       .block = r->block_size,
                                       .most_blocks = f->most,
                                       .H = f->c->H,
                                       .G = f->c->G,
                                       .D = f->c->D,
                                       .type = d->type};
    const struct cuda_select select = {.idx = y->chosen,
                                       .count = y->n_chosen,
                                       .score = f->score,
                                       .span = (size_t)(f->most + 3) / 4 * 4,
                                       .pos = y->blocks,
                                       .sets = 1,
                                       .pooled = 1,
                                       .stride = r->topk,
                                       .budget = r->topk,
                                       .refresh = 1,
                                       .candidates_all = true,
                                       .most = f->most,
                                       .work = work};
    const struct cuda_far_list list = {.idx = y->idx,
                                       .rows = p->slots ? y->rows : NULL,
                                       .slot = y->cache.slot,
                                       .cached = r->n_init,
                                       .away = p->slots ? f->recent : 0,
                                       .shift = p->shift,
                                       .count = y->count,
                                       .list_tail = y->list_tail,
                                       .tail = y->tail,
                                       .pos = cuda.pos,
                                       .chosen = r->topk > 0 ? y->chosen : NULL,
                                       .n_chosen = y->n_chosen,
                                       .blocks = y->blocks,
                                       .n_init = r->n_init,
                                       .n_local = r->n_local,
                                       .block = r->topk > 0 ? r->block_size : 1,
                                       .most = f->stride,
                                       .choice = prefill ? NULL : f->choices};
    cuda_did(cuda_far_step(&step, cuda.stream));
    if (blocks) cuda_did(cuda_select_row(&select, cuda.stream));
    if (blocks && p->slots)
        cuda_did(cuda_far_slots(&y->cache, y->chosen, y->n_chosen, r->policy == BLOCKS_LRU_S,
                                f->choices + 1, cuda.stream));
    cuda_did(cuda_far_list(&list, cuda.stream));
}

/* Blocks that have got slots arrive on the second stream while the window is attended to. That
 * takes the whole device all the same: fewer splits would add up in another order than without a
 * cache. */
static void fetch_blocks(struct far *f, struct far_layer *y, const struct cuda_kv *d)
{
    cuda_check(cudaEventRecord(cuda.fork, cuda.stream), "fork");
    cuda_check(cudaStreamWaitEvent(cuda.copies, cuda.fork, 0), "fork");
    cuda_did(cuda_far_fetch(y->list_k, y->list_v, d->host, &y->cache, f->list_room, f->rule.n_init,
                            f->rule.block_size, f->c->G, f->c->D, cuda.copies));
    cuda_check(cudaEventRecord(d->ready, cuda.copies), "fetch");
}

static void attend_row(struct far *f, struct far_layer *y, float *out, const float *q,
                       const struct cuda_kv *d, struct rope_table rope, bool prefill,
                       struct attn_seen seen)
{
    const struct far_rule *r = &f->rule;
    const struct model_config *c = f->c;
    const struct planes p = planes_of(f, y, d, prefill);
    const size_t width = (size_t)c->H * (size_t)c->D;
    const int window = least(r->n_local, r->room);
    cuda_run_products(4 * (size_t)c->G * (size_t)c->D * (size_t)(f->stride + window));
    struct cuda_decode list = cuda_decode_of(f->part_out, f->turned, d, 1, c);
    if (cuda.broken || list.work == NULL) return;
    choose_row(f, y, q, d, &p, rope, prefill);
    if (cuda.broken) return;

    const bool wanted = seen.logits || y->sums, fetches = p.slots && f->cached > 0;
    const bool scored = fetches && f->list_span > 0;
    struct cuda_decode near = cuda_decode_of(f->part_out + width, q, d, 1, c);
    list.first = FIRST_LIST;
    list.k = p.k;
    list.v = p.v;
    list.room = p.room;
    list.base = 0;
    list.idx = p.slots && y->rows ? y->rows : y->idx; /* without blocks rows are positions */
    list.stride = f->stride;
    list.count = y->count;
    list.tail = y->list_tail;
    list.most = f->stride;
    list.lse = f->part_lse;
    list.logits = seen.logits ? seen.logits : scored ? f->list : NULL;
    list.span = seen.logits ? seen.span : f->list_span;
    near.first = FIRST_PACKED; /* with nothing packed */
    near.count = y->zero;
    near.tail = y->tail;
    near.most = window;
    near.lse = f->part_lse + c->H;
    near.logits = wanted ? f->window : NULL;
    near.span = f->span;
    const struct cuda_far_join join = {.out = out,
                                       .lse = seen.lse,
                                       .list_out = f->part_out,
                                       .list_lse = f->part_lse,
                                       .window_out = f->part_out + width,
                                       .window_lse = f->part_lse + c->H,
                                       .window = wanted ? f->window : NULL,
                                       .window_span = f->span,
                                       .count = y->count,
                                       .tail = y->tail,
                                       .pos = cuda.pos,
                                       .logits = seen.logits,
                                       .span = seen.span,
                                       .sums = y->sums,
                                       .counted = y->counted,
                                       .ring = f->ring,
                                       .list_k = p.k,
                                       .list_room = p.room,
                                       .shift = p.shift,
                                       .reps = y->reps,
                                       .n_init = r->n_init,
                                       .n_local = r->n_local,
                                       .block = r->block_size,
                                       .repr_topk = r->repr_topk,
                                       .most_blocks = f->most,
                                       .H = c->H,
                                       .G = c->G,
                                       .D = c->D,
                                       .type = d->type};
    if (fetches) fetch_blocks(f, y, d);
    cuda_did(cuda_decode_attention(&near, cuda.stream));
    if (fetches) cuda_check(cudaStreamWaitEvent(cuda.stream, d->ready, 0), "fetch");
    cuda_did(cuda_decode_attention(&list, cuda.stream));
    cuda_did(cuda_far_join(&join, cuda.stream));
    if (scored)
        cuda_did(cuda_far_reward(&y->cache, y->chosen, y->n_chosen, list.logits, list.span,
                                 join.lse, r->n_init, r->block_size, c->H, r->decay, cuda.stream));
}

struct attn_view cuda_far_view(const struct far *f, int layer)
{
    const struct far_layer *y = &f->layer[layer];
    return (struct attn_view){
        .idx = y->idx, .sets = 1, .stride = f->stride, .count = y->count, .tail = y->tail};
}

void cuda_far_attend(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                     int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                     struct attn_view *view, const struct model_config *c, struct scratch *s)
{
    struct far_layer *y = &f->layer[layer];
    *view = (struct attn_view){0};
    if (cuda.broken) return;
    aim(f, rope);
    const struct cuda_kv *d = kv->cuda;
    if (seen.lse == NULL && n == 1) seen.lse = f->part_lse + 2 * (size_t)c->H;
    if (n > 1) {
        cuda_run_products(SIZE_MAX);
        attend_rows(f, y, (uint16_t *)out, (const uint16_t *)q, d, n, pos0, rope, seen.lse, s);
    } else {
        attend_row(f, y, out, q, d, rope, prefill, seen);
        if (prefill && f->most > 0 && y->made < far_blocks(&f->rule, pos0 + 1))
            y->made = far_blocks(&f->rule, pos0 + 1); /* the step has seen to it */
        *view = cuda_far_view(f, layer);
    }
    if (prefill && f->away && pos0 + n == f->prompt) settle(f, y, d);
}
