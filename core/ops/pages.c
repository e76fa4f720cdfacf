/* pages.c - Quest's pages, in host memory: the definition that docs/methods.md gives in words. The
 * choice comes from the backend's top_k(). */
#include "core/base/base.h"
#include "core/ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALONE 65536 /* products up to which one core is done before another wakes up */

/* bounds [G, count, 2, P]: the least and the largest key of each channel, in this order. */
int pages_open(struct pages *p, const struct kv_layer *kv, const struct model_config *c)
{
    const struct ops *ops = p->chosen.ops;
    const int P = padded_width(c->D), count = p->count, size = p->size;
    const size_t page = 2 * (size_t)P;
    p->chosen.rows = 0;
    p->bounds = ops->alloc((size_t)c->G * (size_t)count * page * sizeof(float), "bounds of pages");
    if (p->bounds == NULL) return -1;
#pragma omp parallel for schedule(static) collapse(2)
    for (int g = 0; g < c->G; g++)
        for (int i = 0; i < count; i++) {
            float *low = (float *)p->bounds + ((size_t)g * (size_t)count + (size_t)i) * page;
            float *high = low + P;
            const float *k =
                kv->k + ((size_t)g * (size_t)kv->room + (size_t)i * (size_t)size) * (size_t)P;
            memcpy(low, k, (size_t)P * sizeof *low);
            memcpy(high, k, (size_t)P * sizeof *high);
            for (int t = 1; t < size; t++)
                for (int d = 0; d < P; d++) {
                    const float x = k[(size_t)t * (size_t)P + (size_t)d];
                    low[d] = x < low[d] ? x : low[d];
                    high[d] = x > high[d] ? x : high[d];
                }
        }
    return 0;
}

void pages_close(struct pages *p)
{
    free(p->chosen.idx);
    free(p->chosen.count);
    free(p->chosen.tail);
    if (p->bounds) p->chosen.ops->release(p->bounds);
    memset(p, 0, sizeof *p);
}

/* The largest q.k that a key between LOW and HIGH can have: sum over d of max(q_d low_d, q_d
 * high_d), in ROW_ALIGN partial sums that a compiler may keep in vectors. */
static float bound_of(const float *q, const float *low, const float *high, int P)
{
    float part[ROW_ALIGN] = {0}, sum = 0;
    for (int d = 0; d < P; d += ROW_ALIGN)
        for (int i = 0; i < ROW_ALIGN; i++) {
            const float a = q[d + i] * low[d + i], b = q[d + i] * high[d + i];
            part[i] += a > b ? a : b;
        }
    for (int i = 0; i < ROW_ALIGN; i++) sum += part[i];
    return sum;
}

/* The best pages of one row and kv head, spelled out as positions in IDX [best * size]. */
static void choose(const struct pages *p, int *idx, const float *q, int g, float *score,
                   const struct model_config *c)
{
    const int P = padded_width(c->D), R = c->H / c->G, size = p->size;
    const float *bounds = (const float *)p->bounds + (size_t)g * (size_t)p->count * 2 * (size_t)P;
    for (int i = 0; i < p->count; i++) {
        const float *low = bounds + (size_t)i * 2 * (size_t)P;
        score[i] = bound_of(q, low, low + P, P);
        for (int h = 1; h < R; h++)
            score[i] = fmaxf(score[i], bound_of(q + (size_t)h * (size_t)P, low, low + P, P));
    }
    p->chosen.ops->top_k(idx, score, p->count, p->best);
    /* from the last page back: none is overwritten before it is read */
    for (int i = p->best - 1; i >= 0; i--) {
        const int first = idx[i] * size;
        for (int t = size - 1; t >= 0; t--) idx[i * size + t] = first + t;
    }
}

void pages_choose(struct pages *p, const float *q, int n, int pos0, const struct model_config *c,
                  struct scratch *s)
{
    struct selection *to = &p->chosen;
    const size_t row = (size_t)c->H * (size_t)padded_width(c->D), heads = row / (size_t)c->G;
    const size_t stride = (size_t)to->rule.stride, pages = (size_t)p->count;
    float *score = scratch_get(s, (size_t)n * (size_t)c->G * pages);
    (void)pos0;
    if (n > to->rows) {
        to->rows = n;
        to->idx = xrealloc(to->idx, (size_t)n * (size_t)c->G * stride * sizeof *to->idx);
        to->count = xrealloc(to->count, (size_t)n * sizeof *to->count);
        to->tail = xrealloc(to->tail, (size_t)n * sizeof *to->tail);
    }
#pragma omp parallel for schedule(static) collapse(2) if ((size_t)n * row * pages > ALONE)
    for (int r = 0; r < n; r++)
        for (int g = 0; g < c->G; g++) {
            const size_t at = (size_t)r * (size_t)c->G + (size_t)g;
            choose(p, to->idx + at * stride, q + (size_t)r * row + (size_t)g * heads, g,
                   score + at * pages, c);
        }
    for (int r = 0; r < n; r++) {
        to->count[r] = p->best * p->size;
        to->tail[r] = p->count * p->size;
    }
}
