/* omnikv.c - OmniKV: at each step a few filter layers attend to everything, and the tokens they
 * attend to most are all that the sparse layers after them see of the context.
 *
 * Source: OmniKV (ICLR 2025) and the definition in docs/methods.md.
 */
#include "core/method/method.h"
#include "core/base/base.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct filter {
    int layer;

    /* The selection of each row of the current pass; row 0 starts from what the last pass left. */
    int *idx;                         /* [rows, sets, stride] ascending */
    int *count, *tail;                /* [rows] */
    int last_count, last_tail, *last; /* [sets, stride] of the row before this pass, for refresh */

    /* uniform, exp: the pooled weights of the last window_size queries, slot = position % window.
     */
    float *past; /* [window, sets, reach] */
};

struct omnikv {
    struct method base;
    bool *full;            /* [L] */
    int *served;           /* [L] index of the filter a sparse layer uses */
    struct filter *filter; /* [M] */
    int n_prefill;
    int window;   /* window_size, or the session's room where that is less */
    int budget;   /* tokens selected, of one set */
    int rows;     /* rows there is room for */
    int reach;    /* candidates there is room for in `past` */
    float *score; /* [sets, candidates] of one row */
    int score_room;
};

static bool windowed(const struct run_config *c)
{
    return c->selector == SELECT_UNIFORM || c->selector == SELECT_EXP;
}

/* Prefill tokens that are always selected by the row at POS, whose window reaches back to POS -
 * window + 1: *first_recent is where the kept tail of the prefill starts. */
static int always_kept(const struct omnikv *o, int pos, int *first_recent)
{
    const struct run_config *c = o->base.config;
    int recent = c->recent;
    if (windowed(c)) {
        const int inside = o->n_prefill - (pos - o->window + 1);
        if (inside > recent) recent = inside;
    }
    if (recent > o->n_prefill) recent = o->n_prefill;
    *first_recent = o->n_prefill - recent;
    const int sinks = c->sinks < *first_recent ? c->sinks : *first_recent;
    return recent + sinks;
}

/* Adds the query at POS to the filter's window: its pooled weights over CANDIDATES, from LOGITS. */
static void remember(struct omnikv *o, struct filter *f, const float *logits, size_t span, int pos,
                     int candidates)
{
    const struct model *m = o->base.model;
    float *slot = f->past + (size_t)(pos % o->window) * (size_t)o->base.sets * (size_t)o->reach;
    m->ops->pool_scores(o->score, logits, span, candidates, m->config.H, o->base.sets,
                        SCORE_MAX_WEIGHT);
    for (int set = 0; set < o->base.sets; set++) {
        float *row = slot + (size_t)set * (size_t)o->reach;
        memcpy(row, o->score + (size_t)set * (size_t)candidates, (size_t)candidates * sizeof *row);
        memset(row + candidates, 0, (size_t)(o->reach - candidates) * sizeof *row);
    }
}

/* score [sets, candidates] = sum over the window's queries of their weights, times 2^-age for exp.
 */
static void look_back(struct omnikv *o, const struct filter *f, int pos, int candidates)
{
    const struct run_config *c = o->base.config;
    const int oldest = pos - o->window + 1 > 0 ? pos - o->window + 1 : 0;
    for (int set = 0; set < o->base.sets; set++) {
        float *score = o->score + (size_t)set * (size_t)candidates;
        memset(score, 0, (size_t)candidates * sizeof *score);
        for (int p = oldest; p <= pos; p++) { /* oldest first: a fixed order of sums */
            const size_t slot = (size_t)(p % o->window) * (size_t)o->base.sets + (size_t)set;
            const float *row = f->past + slot * (size_t)o->reach;
            const float weight = c->selector == SELECT_EXP ? ldexpf(1, p - pos) : 1;
            for (int t = 0; t < candidates; t++) score[t] += weight * row[t];
        }
    }
}

static void select_row(struct omnikv *o, struct filter *f, const struct layer_pass *p, int r)
{
    const struct run_config *c = o->base.config;
    const struct model *m = o->base.model;
    const int H = m->config.H, pos = p->pos0 + r, step = pos - o->n_prefill;
    const int candidates = c->candidates_all ? pos : o->n_prefill;
    const float *logits = p->logits + (size_t)r * (size_t)H * p->span;
    const size_t set_room = (size_t)o->base.sets * (size_t)o->base.stride;
    int *idx = f->idx + (size_t)r * set_room;

    if (candidates > o->score_room) {
        o->score_room = candidates + 1024;
        o->score =
            xrealloc(o->score, (size_t)o->base.sets * (size_t)o->score_room * sizeof *o->score);
    }
    if (windowed(c)) remember(o, f, logits, p->span, pos, candidates);
    if (step % c->refresh) { /* between refreshes the row before it stands */
        memcpy(idx, r ? idx - set_room : f->last, set_room * sizeof *idx);
        f->count[r] = r ? f->count[r - 1] : f->last_count;
        f->tail[r] = r ? f->tail[r - 1] : f->last_tail;
        return;
    }

    int first_recent, kept = always_kept(o, pos, &first_recent);
    int count = o->budget > kept ? o->budget : kept + 1; /* at least one place for the candidates */
    if (count > candidates) count = candidates;
    if (windowed(c))
        look_back(o, f, pos, candidates);
    else
        m->ops->pool_scores(o->score, logits, p->span, candidates, H, o->base.sets,
                            c->selector == SELECT_LAST ? SCORE_MAX_LOGIT : SCORE_MAX_WEIGHT);
    for (int set = 0; set < o->base.sets; set++) {
        float *score = o->score + (size_t)set * (size_t)candidates;
        for (int t = 0; t < c->sinks && t < first_recent; t++) score[t] = INFINITY;
        for (int t = first_recent; t < o->n_prefill; t++) score[t] = INFINITY;
        m->ops->top_k(idx + (size_t)set * (size_t)o->base.stride, score, candidates, count);
    }
    f->count[r] = count;
    f->tail[r] = candidates;
}

static void make_room(struct omnikv *o, int rows)
{
    const size_t set_room = (size_t)o->base.sets * (size_t)o->base.stride;
    if (rows <= o->rows) return;
    o->rows = rows;
    for (int i = 0; i < o->base.M; i++) {
        struct filter *f = &o->filter[i];
        f->idx = xrealloc(f->idx, (size_t)rows * set_room * sizeof *f->idx);
        f->count = xrealloc(f->count, (size_t)rows * sizeof *f->count);
        f->tail = xrealloc(f->tail, (size_t)rows * sizeof *f->tail);
    }
}

static void before(void *ctx, struct layer_pass *p)
{
    struct omnikv *o = ctx;
    if (p->prefill) return;
    make_room(o, p->n);
    for (int i = 0; i < o->base.M; i++)
        if (o->filter[i].layer == p->layer) p->want_logits = true;
    if (o->full[p->layer]) return;
    const struct filter *f = &o->filter[o->served[p->layer]];
    p->view = (struct attn_view){.idx = f->idx,
                                 .sets = o->base.sets,
                                 .stride = o->base.stride,
                                 .count = f->count,
                                 .tail = f->tail};
}

static int after(void *ctx, const struct layer_pass *p)
{
    struct omnikv *o = ctx;
    if (p->prefill) return 0;
    for (int i = 0; i < o->base.M; i++) {
        struct filter *f = &o->filter[i];
        if (f->layer != p->layer) continue;
        for (int r = 0; r < p->n; r++) select_row(o, f, p, r);
        const size_t set_room = (size_t)o->base.sets * (size_t)o->base.stride;
        memcpy(f->last, f->idx + (size_t)(p->n - 1) * set_room, set_room * sizeof *f->last);
        f->last_count = f->count[p->n - 1];
        f->last_tail = f->tail[p->n - 1];
    }
    return 0;
}

/* The window of the first step holds the last queries of the prompt, each at its own position. */
static void look_back_at_prefill(struct omnikv *o, struct filter *f, struct session *s)
{
    const struct model *m = o->base.model;
    const int H = m->config.H, P = padded_width(m->config.D);
    int n, end;
    const float *q = session_queries(s, f->layer, &n, &end);
    const size_t span = ((size_t)end + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    float *logits = xmalloc((size_t)H * span * sizeof *logits);
    for (int i = 0; i < n; i++) {
        const int pos = end - n + i;
        m->ops->attn_logits(logits, span, q + (size_t)i * (size_t)(H * P), session_kv(s, f->layer),
                            1, pos, &m->config);
        remember(o, f, logits, span, pos, pos + 1);
    }
    free(logits);
}

/* Tokens of a selection: decoded candidates may add to the prefill's, up to ROOM in all. */
static int budget_of(const struct run_config *c, int n_prefill, int room)
{
    if (!c->candidates_all || c->budget < 1) return budget_tokens(c->budget, n_prefill);
    return c->budget < room ? (int)c->budget : room;
}

static int begin(struct method *m, struct session *s)
{
    struct omnikv *o = (struct omnikv *)m;
    const struct run_config *c = m->config;
    int first_recent;

    o->n_prefill = session_length(s);
    o->window = c->window_size < session_room(s) ? c->window_size : session_room(s);
    o->budget = budget_of(c, o->n_prefill, session_room(s));
    if (o->budget < 1)
        return fail("num_of_selected_tokens: %g of %d prefill tokens selects none", c->budget,
                    o->n_prefill);
    const int kept = always_kept(o, o->n_prefill, &first_recent) + 1;
    o->base.stride = o->budget > kept ? o->budget : kept;
    o->rows = 0;
    o->score_room = o->n_prefill + 1024;
    o->score = xrealloc(o->score, (size_t)o->base.sets * (size_t)o->score_room * sizeof *o->score);
    o->reach = c->candidates_all ? session_room(s) : o->n_prefill;
    for (int i = 0; i < m->M; i++) {
        struct filter *f = &o->filter[i];
        const size_t set_room = (size_t)o->base.sets * (size_t)o->base.stride;
        f->last = xrealloc(f->last, set_room * sizeof *f->last);
        if (!windowed(c)) continue;
        const size_t past = (size_t)o->window * (size_t)o->base.sets * (size_t)o->reach;
        free(f->past);
        if ((f->past = big_alloc(past * sizeof(float), "window of past queries")) == NULL)
            return -1;
        memset(f->past, 0, past * sizeof(float));
        look_back_at_prefill(o, f, s);
    }
    return 0;
}

static const int *selection(const struct method *m, int filter, int r, int *count)
{
    const struct omnikv *o = (const struct omnikv *)m;
    const struct filter *f = &o->filter[filter];
    *count = f->count[r];
    return f->idx + (size_t)r * (size_t)o->base.sets * (size_t)o->base.stride;
}

static int selection_size(const struct method *m, int n_prefill)
{
    const struct run_config *c = m->config;
    const int budget = budget_of(c, n_prefill, INT_MAX);
    const int recent = windowed(c) && c->window_size > c->recent ? c->window_size : c->recent;
    const int sinks = c->sinks < n_prefill ? c->sinks : n_prefill;
    const int kept = (recent < n_prefill - sinks ? recent : n_prefill - sinks) + sinks + 1;
    const int most = budget > kept ? budget : kept;
    const int set = most < n_prefill || c->candidates_all ? most : n_prefill;
    return set > INT_MAX / m->sets ? INT_MAX : m->sets * set;
}

static void close_omnikv(struct method *m)
{
    struct omnikv *o = (struct omnikv *)m;
    for (int i = 0; i < m->M; i++) {
        free(o->filter[i].idx);
        free(o->filter[i].count);
        free(o->filter[i].tail);
        free(o->filter[i].last);
        free(o->filter[i].past);
    }
    free(o->filter);
    free(o->full);
    free(o->served);
    free(o->score);
    free(o);
}

struct method *omnikv_open(const struct run_config *c, const struct model *model)
{
    const struct model_config *shape = &model->config;
    for (int i = 0; i < c->n_layers; i++)
        if (c->layers[i] >= shape->L) {
            fail("do_select_layers: layer %d: %s has the layers 0 to %d", c->layers[i],
                 model->source, shape->L - 1);
            return NULL;
        }
    struct omnikv *o = xcalloc(1, sizeof *o);
    o->base.hooks = (struct hooks){.ctx = o, .before = before, .after = after};
    o->base.config = c;
    o->base.model = model;
    o->base.begin = begin;
    o->base.close = close_omnikv;
    o->base.selection = selection;
    o->base.selection_size = selection_size;
    o->base.keep_queries = windowed(c) ? c->window_size - 1 : 0;
    o->base.M = c->n_layers;
    o->full = xcalloc((size_t)shape->L, sizeof *o->full);
    o->served = xcalloc((size_t)shape->L, sizeof *o->served);
    o->base.full_layers =
        full_layers(c->layers, c->n_layers, c->wait, shape->L, o->full, o->served);
    o->filter = xcalloc((size_t)c->n_layers, sizeof *o->filter);
    for (int i = 0; i < c->n_layers; i++) o->filter[i].layer = c->layers[i];
    o->base.sets = c->pool == POOL_ALL ? 1 : c->pool == POOL_GROUP ? shape->G : shape->H;
    return &o->base;
}
