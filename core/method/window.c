/* window.c - attention sinks and a window: the first and the last prefill tokens, and every decoded
 * token, at every layer. Source: Xiao et al. 2023, StreamingLLM; positions stay those of the text,
 * as the original's sink baseline keeps them. */
#include "core/method/method.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct window {
    struct method base;
    int *idx, count, n_prefill; /* what every row sees of the prefill */
    int *view, rows;            /* the same for each row of a pass, in the backend's memory: indices
                                 * [rows, count], counts and tails [rows] */
};

/* A whole number of tokens, or below 1 a fraction of the prefill. */
static int tokens_of(double share, int n_prefill)
{
    return share < 1 ? (int)(share * n_prefill) : share < n_prefill ? (int)share : n_prefill;
}

static int begin(struct method *m, struct session *s)
{
    struct window *w = (struct window *)m;
    const int n = session_length(s);
    const int sinks = tokens_of(m->config->window_sinks, n);
    int recent = tokens_of(m->config->window_recent, n);
    if (recent > n - sinks) recent = n - sinks;
    w->n_prefill = n;
    w->idx = xrealloc(w->idx, (size_t)(sinks + recent + 1) * sizeof *w->idx);
    w->count = 0;
    w->rows = 0; /* the rows' copies are made anew */
    for (int t = 0; t < sinks; t++) w->idx[w->count++] = t;
    for (int t = n - recent; t < n; t++) w->idx[w->count++] = t;
    return 0;
}

static void before(void *ctx, struct layer_pass *p)
{
    struct window *w = ctx;
    const struct ops *ops = w->base.model->ops;
    const size_t n = (size_t)p->n, count = (size_t)w->count;
    if (p->prefill) return;
    if (p->n > w->rows) {
        const size_t bytes = n * (count + 2) * sizeof *w->view;
        int *view = xmalloc(bytes);
        for (size_t r = 0; r < n; r++) {
            memcpy(view + r * count, w->idx, count * sizeof *view);
            view[n * count + r] = w->count;
            view[n * (count + 1) + r] = w->n_prefill;
        }
        ops->release(w->view);
        if ((w->view = ops->alloc(bytes, "window")) == NULL) exit(1); /* a few rows of indices */
        ops->put(w->view, view, bytes);
        free(view);
        w->rows = p->n;
    }
    const size_t rows = (size_t)w->rows;
    p->view = (struct attn_view){.idx = w->view,
                                 .sets = 1,
                                 .stride = w->count,
                                 .count = w->view + rows * count,
                                 .tail = w->view + rows * (count + 1)};
}

static void close_window(struct method *m)
{
    struct window *w = (struct window *)m;
    m->model->ops->release(w->view);
    free(w->idx);
    free(w);
}

struct method *window_open(const struct run_config *config, const struct model *model)
{
    struct window *w = xcalloc(1, sizeof *w);
    w->base.hooks = (struct hooks){.ctx = w, .before = before};
    w->base.config = config;
    w->base.model = model;
    w->base.begin = begin;
    w->base.close = close_window;
    return &w->base;
}
