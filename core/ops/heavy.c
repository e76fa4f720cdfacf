/* heavy.c - H2O's heavy hitters, in host memory: the definition that docs/methods.md gives in
 * words. The choice is the backend's top_k(), attention its attend_all() and attend_rows(). */
#include "core/base/base.h"
#include "core/ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALONE 16384 /* weights up to which one core is done before another wakes up */
#define SEEN_FLOATS ((size_t)1 << 20) /* bound on the logits of a block of prefill rows */

static int capacity(const struct select_rule *r)
{
    return r->budget < r->room - r->recent ? r->budget + r->recent : r->room;
}

int heavy_open(struct heavy *h, const struct model_config *c)
{
    struct selection *s = &h->kept;
    const struct select_rule *r = &s->rule;
    h->span = ((size_t)r->room + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    s->rows = 1;
    s->idx = xcalloc((size_t)r->sets * (size_t)r->stride, sizeof *s->idx);
    s->count = xcalloc(1, sizeof *s->count);
    s->tail = xcalloc(1, sizeof *s->tail);
    const size_t sums = (size_t)c->H * h->span * sizeof *h->sums;
    if ((h->sums = s->ops->alloc(sums, "sums of attention weights")) == NULL) return -1;
    memset(h->sums, 0, sums);
    return 0;
}

void heavy_close(struct heavy *h)
{
    free(h->kept.idx);
    free(h->kept.count);
    free(h->kept.tail);
    if (h->sums) h->kept.ops->release(h->sums);
    memset(h, 0, sizeof *h);
}

/* The weight of position T for kv head G: the maximum over its R query heads. */
static float weight_of(const struct heavy *h, int g, int R, int t)
{
    const float *sums = h->sums + (size_t)g * (size_t)R * h->span + t;
    float most = sums[0];
    for (int i = 1; i < R; i++) most = fmaxf(most, sums[(size_t)i * h->span]);
    return most;
}

void heavy_keep(struct heavy *h, int n, const struct model_config *c)
{
    const struct select_rule *rule = &h->kept.rule;
    const int G = c->G, R = c->H / G, all = capacity(rule) < n ? capacity(rule) : n;
    const int recent = rule->recent < all ? rule->recent : all, heavy = all - recent;
    const int candidates = n - recent;
#pragma omp parallel for schedule(static) if ((size_t)n * (size_t)c->H > ALONE)
    for (int g = 0; g < G; g++) {
        int *idx = h->kept.idx + (size_t)g * (size_t)rule->stride;
        if (heavy > 0) {
            float *score = xmalloc((size_t)candidates * sizeof *score);
            for (int t = 0; t < candidates; t++) score[t] = weight_of(h, g, R, t);
            h->kept.ops->top_k(idx, score, candidates, heavy);
            free(score);
        }
        for (int i = 0; i < recent; i++) idx[heavy + i] = candidates + i;
    }
    h->kept.count[0] = all;
    h->kept.tail[0] = h->until = n;
    h->noted = 0;
}

/* The entry of IDX [n] that goes: of least weight, the last of equals. */
static int least_of(const struct heavy *h, int g, int R, const int *idx, int n)
{
    int least = 0;
    float weight = weight_of(h, g, R, idx[0]);
    for (int i = 1; i < n; i++) {
        const float w = weight_of(h, g, R, idx[i]);
        if (w > weight) continue;
        least = i;
        weight = w;
    }
    return least;
}

void heavy_step(struct heavy *h, const float *logits, const float *lse, size_t span, int pos,
                const struct model_config *c)
{
    const int R = c->H / c->G, count = h->kept.count[0], tail = h->kept.tail[0];
    /* a step that is run again finds itself in the list */
    const int length = count + (pos >= tail ? pos - tail + 1 : 0);
#pragma omp parallel for schedule(static) if (length * c->H > ALONE)
    for (int head = 0; head < c->H; head++) {
        const int *idx = h->kept.idx + (size_t)(head / R) * (size_t)h->kept.rule.stride;
        const float *l = logits + (size_t)head * span;
        float *sums = h->sums + (size_t)head * h->span;
        for (int i = 0; i < length; i++)
            sums[i < count ? idx[i] : tail + i - count] += expf(l[i] - lse[head]);
    }
    h->noted = pos + 1;
}

void heavy_turn(struct heavy *h, const struct model_config *c)
{
    const struct select_rule *rule = &h->kept.rule;
    const int R = c->H / c->G, count = h->kept.count[0], tail = h->kept.tail[0];
    const int length = count + (h->noted > tail ? h->noted - tail : 0), room = capacity(rule);
    for (int g = 0; g < c->G; g++) {
        int *idx = h->kept.idx + (size_t)g * (size_t)rule->stride;
        for (int i = count; i < length; i++) idx[i] = tail + i - count;
        for (int n = length; n > room; n--) {
            const int out = least_of(h, g, R, idx, n - rule->recent);
            memmove(idx + out, idx + out + 1, (size_t)(n - out - 1) * sizeof *idx);
        }
    }
    h->kept.count[0] = length < room ? length : room;
    h->kept.tail[0] = tail + length - count;
    h->noted = 0;
}

/* ---- a prefill that evicts */

/* sums [H, span] += the weights that N rows gave what they saw under V. */
static void add_weights(float *sums, size_t span, const struct attn_view *v, struct attn_seen seen,
                        int n, int pos0, const struct model_config *c)
{
    const int H = c->H, R = H / c->G;
#pragma omp parallel for schedule(static) if ((size_t)n * seen.span > 1024)
    for (int h = 0; h < H; h++) {
        const int *idx = v->idx + (size_t)(h / R) * (size_t)v->stride;
        float *to = sums + (size_t)h * span;
        for (int r = 0; r < n; r++) {
            const size_t row = (size_t)r * (size_t)H + (size_t)h;
            const float *l = seen.logits + row * seen.span;
            const int listed = v->count[r], length = view_length(v, r, pos0 + r);
            for (int i = 0; i < length; i++)
                to[i < listed ? idx[i] : v->tail[r] + i - listed] += expf(l[i] - seen.lse[row]);
        }
    }
}

void heavy_attend(struct heavy *h, const struct heavy_rows *a, const struct kv_layer *kv,
                  const struct model_config *c, struct scratch *s)
{
    const struct ops *ops = h->kept.ops;
    const size_t H = (size_t)c->H, row = H * (size_t)padded_width(c->D);
    const int kept = h->kept.count[0], tail = h->kept.tail[0], left_out = tail - kept;
    const int end = a->from + a->n;
    const size_t most = (size_t)(a->pos0 + end - left_out);
    const size_t span = (most + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    const size_t fit = SEEN_FLOATS / (H * span);
    const int block = left_out == 0 || fit >= (size_t)a->n ? a->n : fit > 0 ? (int)fit : 1;
    for (int r = a->from; r < end; r += block) {
        const int rows = end - r < block ? end - r : block, pos = a->pos0 + r;
        const float *q = a->q + (size_t)r * row;
        float *to = a->out + (size_t)r * H * (size_t)c->D, *lse = a->lse + (size_t)r * H;
        if (left_out == 0) { /* plainly causal, in one block */
            ops->attend_all(to, q, kv, rows, pos, c, lse, s);
            ops->attn_columns(h->sums, h->span, q, lse, kv, rows, pos, c, s);
            if (a->columns)
                ops->attn_columns(a->columns, a->columns_span, q, lse, kv, rows, pos, c, s);
            continue;
        }
        const size_t logits = (size_t)rows * H * span;
        struct attn_seen seen = {.lse = lse, .span = span};
        seen.logits = scratch_get(a->beside, logits + 2 * (size_t)rows);
        int *counts = (int *)(seen.logits + logits), *tails = counts + rows;
        for (int i = 0; i < rows; i++) {
            counts[i] = kept;
            tails[i] = tail;
        }
        const struct attn_view v = {.idx = h->kept.idx,
                                    .shared = true,
                                    .sets = h->kept.rule.sets,
                                    .stride = h->kept.rule.stride,
                                    .count = counts,
                                    .tail = tails};
        ops->attend_rows(to, q, kv, rows, pos, 1, v, seen, c, s);
        add_weights(h->sums, h->span, &v, seen, rows, pos, c);
        if (a->columns) add_weights(a->columns, a->columns_span, &v, seen, rows, pos, c);
    }
}
