/* window.c - attention sinks and a window: the first and the last prefill tokens, and every decoded
 * token, at every layer. Source: Xiao et al. 2023, StreamingLLM; positions stay those of the text,
 * as the original's sink baseline keeps them. */
#include "core/method/method.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>

struct window {
    struct method base;
    int *idx, count, n_prefill;                   /* what every row sees of the prefill */
    int *view_idx, *view_count, *view_tail, rows; /* the same for each row of a pass */
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
    if (p->prefill) return;
    if (p->n > w->rows) {
        const size_t n = (size_t)p->n;
        w->view_idx = xrealloc(w->view_idx, (n * (size_t)w->count + 1) * sizeof *w->view_idx);
        w->view_count = xrealloc(w->view_count, n * sizeof *w->view_count);
        w->view_tail = xrealloc(w->view_tail, n * sizeof *w->view_tail);
        for (int r = 0; r < p->n; r++) {
            for (int i = 0; i < w->count; i++) w->view_idx[r * w->count + i] = w->idx[i];
            w->view_count[r] = w->count;
            w->view_tail[r] = w->n_prefill;
        }
        w->rows = p->n;
    }
    p->view = (struct attn_view){.idx = w->view_idx,
                                 .sets = 1,
                                 .stride = w->count,
                                 .count = w->view_count,
                                 .tail = w->view_tail};
}

static void close_window(struct method *m)
{
    struct window *w = (struct window *)m;
    free(w->idx);
    free(w->view_idx);
    free(w->view_count);
    free(w->view_tail);
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
