/* cuda_peers.c - H2O and Quest on a GPU: entries of the table over cuda_columns.cu, cuda_heavy.cu
 * and cuda_pages.cu. heavy.c and pages.c are the definition. */
#include "core/base/base.h"
#include "core/ops/cuda_state.h"

#include <string.h>

void cuda_attn_columns(float *sums, size_t span, const float *q, const float *lse,
                       const struct kv_layer *kv, int n, int pos0, const struct model_config *c,
                       struct scratch *s)
{
    const struct cuda_kv *d = kv->cuda;
    const size_t wide = (span + 3) / 4 * 4, H = (size_t)c->H;
    const struct cuda_columns a = {.sums = sums,
                                   .span = span,
                                   .q = q,
                                   .k = d->k,
                                   .lse = lse,
                                   .n = n,
                                   .pos0 = pos0,
                                   .room = d->room,
                                   .H = c->H,
                                   .G = c->G,
                                   .D = c->D,
                                   .type = d->type};
    if (cuda.broken) return;
    cuda_run_products(SIZE_MAX);
    if (n > 1) {
        cuda_did(cuda_attention_columns(&a, cuda.stream));
        return;
    }
    /* the query of a pass of one row is float32: through the logits, the output is not asked */
    float *logits = scratch_get(s, H * (wide + (size_t)c->D));
    struct cuda_decode row = cuda_decode_of(logits + H * wide, q, d, 1, c);
    row.logits = logits;
    row.span = wide;
    if (cuda.broken || row.work == NULL) return;
    cuda_did(cuda_decode_attention(&row, cuda.stream));
    cuda_did(cuda_columns_row(sums, span, logits, wide, lse, cuda.pos, c->H, cuda.stream));
}

/* ---- h2o */

/* Positions of a list, at most. */
static int most_of(const struct select_rule *r)
{
    return r->budget < r->room - r->recent ? r->budget + r->recent : r->room;
}

static struct cuda_heavy lists_of(const struct heavy *h, const struct model_config *c)
{
    const struct select_rule *r = &h->kept.rule;
    const int most = most_of(r);
    return (struct cuda_heavy){.idx = h->kept.idx,
                               .count = h->kept.count,
                               .tail = h->kept.tail,
                               .sums = h->sums,
                               .span = h->span,
                               .next = h->next,
                               .pos = cuda.pos,
                               .H = c->H,
                               .G = c->G,
                               .stride = r->stride,
                               .most = most,
                               .recent = r->recent < most ? r->recent : most};
}

int cuda_heavy_open(struct heavy *h, const struct model_config *c)
{
    const struct select_rule *r = &h->kept.rule;
    struct selection *s = &h->kept;
    h->span = ((size_t)r->room + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    s->rows = 1;
    const size_t entries = (size_t)r->sets * (size_t)r->stride * sizeof *s->idx;
    const size_t sums = (size_t)c->H * h->span * sizeof *h->sums;
    if ((s->idx = cuda_alloc(entries, "lists of heavy hitters")) == NULL ||
        (s->count = cuda_alloc(2 * sizeof *s->count, "lists of heavy hitters")) == NULL ||
        (h->sums = cuda_alloc(sums, "sums of attention weights")) == NULL ||
        (h->steps &&
         (h->next = cuda_alloc(cuda_heavy_next(c->G, r->stride), "a step's choice")) == NULL) ||
        cuda_work(WORK_SELECT, cuda_select_work(c->G, r->room)) == NULL)
        return -1;
    s->tail = s->count + 1;
    cuda_check(cudaMemsetAsync(s->idx, 0, entries, cuda.stream), "clear");
    cuda_check(cudaMemsetAsync(h->sums, 0, sums, cuda.stream), "clear");
    cuda_did(cuda_set_step(s->count, s->tail, 0, 0, cuda.stream));
    return 0;
}

void cuda_heavy_close(struct heavy *h)
{
    cuda_release(h->kept.idx);
    cuda_release(h->kept.count);
    cuda_release(h->sums);
    cuda_release(h->next);
    memset(h, 0, sizeof *h);
}

void cuda_heavy_keep(struct heavy *h, int n, const struct model_config *c)
{
    const struct cuda_heavy a = lists_of(h, c);
    const int all = a.most < n ? a.most : n, recent = a.recent < all ? a.recent : all;
    const int heavy = all - recent, candidates = n - recent;
    const struct cuda_select select = {
        .idx = a.idx,
        .score = a.sums,
        .span = a.span,
        .n_prefill = candidates,
        .sets = a.G,
        .pooled = c->H / c->G,
        .stride = a.stride,
        .budget = heavy,
        .refresh = 1,
        .most = candidates,
        .work = cuda_work(WORK_SELECT, cuda_select_work(a.G, candidates))};
    if (cuda.broken || select.work == NULL) return;
    if (heavy > 0) cuda_did(cuda_select_row(&select, cuda.stream));
    cuda_did(cuda_heavy_fill(&a, heavy, recent, n, cuda.stream));
    h->until = n;
}

/* Keys are rotated to their own positions already, so what the rows see is a shorter cache: the
 * list, then what follows it, in one piece, under the plainly causal kernels. */
void cuda_heavy_attend(struct heavy *h, const struct heavy_rows *a, const struct kv_layer *kv,
                       const struct model_config *c, struct scratch *s)
{
    const struct cuda_heavy lists = lists_of(h, c);
    const struct cuda_kv *d = kv->cuda;
    const int tail = h->until, listed = lists.most < tail ? lists.most : tail;
    const int pos = listed + a->pos0 + a->from - tail, end = pos + a->n; /* in that cache */
    const size_t H = (size_t)c->H, G = (size_t)c->G, D = (size_t)c->D, first = (size_t)a->from;
    const size_t wide = ((size_t)end + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    const size_t plane = listed < tail ? G * (size_t)end * D : 0; /* of K or V; 0: all is seen */
    const bool one = a->rows == 1;
    (void)s;
    cuda_run_products(SIZE_MAX);
    if (cuda.broken) return;
    /* sums of so many positions, the logits of a pass of one row, K and V in 16 bits */
    float *weights = scratch_get(a->beside, (size_t)(1 + one) * H * h->span + plane);
    float *logits = weights + H * h->span, *packed = logits + (one ? H * h->span : 0);
    struct cuda_kv seen = *d;
    if (plane) {
        seen.k = packed;
        seen.v = (uint16_t *)seen.k + plane;
        seen.room = end;
        cuda_did(cuda_heavy_pack(&lists, seen.k, d->k, d->v, d->room, c->D, listed, tail, end,
                                 cuda.stream));
    }
    cuda_check(cudaMemsetAsync(weights, 0, H * wide * sizeof *weights, cuda.stream), "clear");
    if (one) { /* its query and output are float32 */
        struct cuda_decode row = cuda_decode_of(a->out, a->q, &seen, 1, c);
        row.pos = cuda.aux;
        row.logits = logits;
        row.lse = a->lse;
        row.span = wide;
        cuda_did(cuda_set_step(cuda.aux, cuda.aux + 1, pos, 0, cuda.stream));
        cuda_check(cudaStreamSynchronize(cuda.stream), "position"); /* it may be read at once */
        if (cuda.broken) return;
        cuda_did(cuda_decode_attention(&row, cuda.stream));
        cuda_did(
            cuda_columns_row(weights, wide, logits, wide, a->lse, cuda.aux, c->H, cuda.stream));
    } else {
        const struct cuda_prefill attend = {.out = (uint16_t *)a->out + first * H * D,
                                            .lse = a->lse + first * H,
                                            .q = (const uint16_t *)a->q + first * H * D,
                                            .k = seen.k,
                                            .v = seen.v,
                                            .n = a->n,
                                            .pos0 = pos,
                                            .room = seen.room,
                                            .H = c->H,
                                            .G = c->G,
                                            .D = c->D,
                                            .type = d->type};
        const struct cuda_columns columns = {.sums = weights,
                                             .span = wide,
                                             .q = attend.q,
                                             .k = attend.k,
                                             .lse = attend.lse,
                                             .n = a->n,
                                             .pos0 = pos,
                                             .room = attend.room,
                                             .H = c->H,
                                             .G = c->G,
                                             .D = c->D,
                                             .type = d->type};
        cuda_did(cuda_prefill_attention(&attend, cuda.stream));
        cuda_did(cuda_attention_columns(&columns, cuda.stream));
    }
    cuda_did(cuda_heavy_add(&lists, a->columns, a->columns_span, weights, wide, listed, tail, end,
                            cuda.stream));
}

void cuda_heavy_step(struct heavy *h, const float *logits, const float *lse, size_t span, int pos,
                     const struct model_config *c)
{
    const struct cuda_heavy a = lists_of(h, c);
    (void)pos; /* the backend's */
    if (!cuda.broken) cuda_did(cuda_heavy_note(&a, logits, span, lse, cuda.stream));
}

void cuda_heavy_turn(struct heavy *h, const struct model_config *c)
{
    const struct cuda_heavy a = lists_of(h, c);
    if (!cuda.broken) cuda_did(cuda_heavy_move(&a, cuda.stream));
}

/* ---- quest */

static struct cuda_pages pages_of(const struct pages *p, enum dtype type,
                                  const struct model_config *c)
{
    const struct select_rule *r = &p->chosen.rule;
    return (struct cuda_pages){.bounds = p->bounds,
                               .score = p->score,
                               .list = (int *)(p->score + (size_t)c->G * cuda_pages_span(p->count)),
                               .idx = p->chosen.idx,
                               .stride = r->stride,
                               .count = p->count,
                               .size = p->size,
                               .best = p->best,
                               .H = c->H,
                               .G = c->G,
                               .D = c->D,
                               .type = type,
                               .work = cuda_work(WORK_SELECT, cuda_select_work(c->G, p->count))};
}

int cuda_pages_open(struct pages *p, const struct kv_layer *kv, const struct model_config *c)
{
    const struct cuda_kv *d = kv->cuda;
    struct selection *s = &p->chosen;
    const size_t G = (size_t)c->G, pages = (size_t)p->count, best = (size_t)p->best;
    s->rule.sets = c->G;
    s->rows = 1;
    if (d->place != KV_HERE)
        return fail("quest: a layer's keys live in host memory: expected a session of its own");
    if ((s->idx = cuda_alloc(G * (size_t)s->rule.stride * sizeof *s->idx, "pages")) == NULL ||
        (s->count = cuda_alloc(2 * sizeof *s->count, "pages")) == NULL ||
        (p->bounds = cuda_alloc(G * pages * 2 * (size_t)c->D * 2, "bounds of pages")) == NULL ||
        (p->score = cuda_alloc(G * (cuda_pages_span(p->count) + best) * sizeof *p->score,
                               "scores of pages")) == NULL)
        return -1;
    s->tail = s->count + 1;
    const struct cuda_pages a = pages_of(p, d->type, c);
    if (a.work == NULL || cuda.broken) return -1;
    /* how many are chosen, and where the last whole page ends, is the same at every step */
    cuda_did(cuda_set_step(s->count, s->tail, p->best * p->size, p->count * p->size, cuda.stream));
    cuda_did(cuda_pages_bounds(&a, d->k, d->room, cuda.stream));
    return cuda.broken ? -1 : 0;
}

void cuda_pages_close(struct pages *p)
{
    cuda_release(p->chosen.idx);
    cuda_release(p->chosen.count);
    cuda_release(p->bounds);
    cuda_release(p->score);
    memset(p, 0, sizeof *p);
}

void cuda_pages_choose(struct pages *p, const float *q, int n, int pos0,
                       const struct model_config *c, struct scratch *s)
{
    const struct cuda_pages a = pages_of(p, cuda.type, c);
    const size_t row = (size_t)c->G * (size_t)c->D * 4; /* of bounds, or of keys and values */
    (void)n, (void)pos0, (void)s;                       /* one row, at the backend's position */
    cuda_run_products(row * ((size_t)p->count + (size_t)p->chosen.rule.stride));
    if (!cuda.broken && a.work) cuda_did(cuda_pages_best(&a, q, cuda.stream));
}
