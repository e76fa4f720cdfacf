/* h2o.c - H2O: for each KV head the prompt's positions of most attention, summed up over all
 * queries so far, and the last ones; what was left out once is not seen again.
 *
 * Source: Zhang et al. 2023, H2O, arXiv 2306.14048, and the definition in docs/methods.md. Sums and
 * evictions are ops (core/ops/heavy.c); here is when a layer evicts, and what its rows see.
 */
#include "core/method/method.h"
#include "core/base/base.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct h2o {
    struct method base;
    struct heavy *heavy;   /* [L] */
    int *layers;           /* [L] 0, 1, ...: each layer keeps positions of its own */
    int n, segment;        /* of the prefill: tokens; after how many it evicts */
    bool open;             /* heavy[] hold memory for a prefill of n */
    bool summed, spent;    /* the sums are a prefill's; a step has changed them since */
    int rows;              /* of a pass on the host there is room for */
    int *count, *tail;     /* [rows] the same for all: kept.count and kept.tail of a layer */
    int *picked;           /* host copies for traces on a device: [G, stride] */
    struct scratch beside; /* of a prefill that evicts */
};

/* Positions a KV head keeps of a prompt of N tokens. */
static void budget_of(const struct run_config *c, int n, int *heavy, int *recent)
{
    *heavy = budget_tokens(c->heavy, n);
    *recent = budget_tokens(c->heavy_recent, n);
}

/* Entries of one head's list. */
static int list_room(const struct run_config *c, int n, int room)
{
    int heavy, recent;
    budget_of(c, n, &heavy, &recent);
    return (heavy < room - recent ? heavy + recent : room) + (c->evict_steps ? 1 : 0);
}

/* "auto" is the original's: a segment's weights fit in memory. */
static int segment_of(const struct run_config *c, int n)
{
    if (c->segment > 0) return c->segment;
    if (n > 150000) return 20;
    const double tokens = trunc(128e6 / pow(n, 1.05));
    return tokens < 1 ? 1 : tokens < INT_MAX ? (int)tokens : INT_MAX;
}

static void close_layers(struct h2o *o)
{
    for (int l = 0; o->open && l < o->base.model->config.L; l++)
        o->base.model->ops->heavy_close(&o->heavy[l]);
    o->open = false;
}

static int open_layers(struct h2o *o, const struct session *session, int n)
{
    const struct run_config *c = o->base.config;
    const struct model *m = o->base.model;
    const int room = c->evict_steps ? session_room(session) : n;
    struct select_rule rule = {.n_prefill = n, .sets = m->config.G, .room = room};
    budget_of(c, n, &rule.budget, &rule.recent);
    rule.stride = o->base.stride = list_room(c, n, room);
    if (rule.budget + rule.recent < 1)
        return fail("hh_ratio: %g, recent_ratio: %g: of %d prefill tokens that keeps none",
                    c->heavy, c->heavy_recent, n);
    close_layers(o);
    o->open = true;
    o->n = n;
    o->segment = segment_of(c, n);
    o->summed = o->spent = false;
    o->picked = xrealloc(o->picked, (size_t)rule.sets * (size_t)rule.stride * sizeof *o->picked);
    for (int l = 0; l < m->config.L; l++) {
        o->heavy[l] =
            (struct heavy){.kept = {.ops = m->ops, .rule = rule}, .steps = c->evict_steps};
        if (m->ops->heavy_open(&o->heavy[l], &m->config)) return -1;
    }
    return 0;
}

static int start(struct method *m, struct session *s, int n)
{
    struct h2o *o = (struct h2o *)m;
    if (open_layers(o, s, n)) return -1;
    o->summed = true;
    return 0;
}

static int begin(struct method *m, struct session *s)
{
    struct h2o *o = (struct h2o *)m;
    const int n = session_length(s);
    if (o->spent && o->summed)
        return fail("h2o: the sums of this prefill are used up by the steps after it: prefill "
                    "again");
    /* synthetic keys and values come without sums: all are equal */
    if ((!o->summed || n != o->n) && open_layers(o, s, n)) return -1;
    scratch_free(&o->beside); /* the prefill is over: room for the sessions beside this one */
    for (int l = 0; l < m->model->config.L && !m->config->first_step_dense; l++)
        m->model->ops->heavy_keep(&o->heavy[l], n, &m->model->config);
    return 0;
}

/* What the N rows of a step of a layer see: what is kept, and what follows it. */
static struct attn_view view_of(struct h2o *o, int layer, int n)
{
    const struct selection *kept = &o->heavy[layer].kept;
    struct attn_view v = {.idx = kept->idx,
                          .sets = kept->rule.sets,
                          .stride = kept->rule.stride,
                          .count = kept->count,
                          .tail = kept->tail};
    if (kept->ops->device || n == 1) return v;
    if (n > o->rows) {
        o->rows = n;
        o->count = xrealloc(o->count, (size_t)n * sizeof *o->count);
        o->tail = xrealloc(o->tail, (size_t)n * sizeof *o->tail);
    }
    for (int r = 0; r < n; r++) {
        o->count[r] = kept->count[0];
        o->tail[r] = kept->tail[0];
    }
    v.shared = true;
    v.count = o->count;
    v.tail = o->tail;
    return v;
}

/* Whether the step at POS sees everything: the eviction is then still to come. */
static bool dense_step(void *ctx, int pos)
{
    const struct h2o *o = ctx;
    return o->base.config->first_step_dense && pos == o->n;
}

static void before(void *ctx, struct layer_pass *p)
{
    struct h2o *o = ctx;
    const struct run_config *c = o->base.config;
    const struct model *m = o->base.model;
    struct heavy *h = &o->heavy[p->layer];
    if (p->prefill || dense_step(o, p->pos0)) return;
    if (c->first_step_dense && h->until == 0) /* the dense step is over */
        m->ops->heavy_keep(h, p->pos0, &m->config);
    if (c->evict_steps) m->ops->heavy_turn(h, &m->config);
    p->view = view_of(o, p->layer, p->n);
    if (c->evict_steps) p->want_logits = true;
}

static int after(void *ctx, const struct layer_pass *p)
{
    struct h2o *o = ctx;
    const struct run_config *c = o->base.config;
    const struct model *m = o->base.model;
    struct heavy *h = &o->heavy[p->layer];
    if (p->prefill ? c->skip_prefill : dense_step(o, p->pos0))
        m->ops->attn_columns(h->sums, h->span, p->q, p->lse, session_kv(p->session, p->layer), p->n,
                             p->pos0, &m->config, session_scratch(p->session));
    if (p->prefill || !c->evict_steps) return 0;
    o->spent = true;
    if (!dense_step(o, p->pos0))
        m->ops->heavy_step(h, p->logits, p->lse, p->span, p->pos0, &m->config);
    return 0;
}

static void attend(void *ctx, struct layer_pass *p, float *out, struct attn_seen seen)
{
    struct h2o *o = ctx;
    const struct model *m = o->base.model;
    const struct kv_layer *kv = session_kv(p->session, p->layer);
    struct scratch *s = session_scratch(p->session);
    struct heavy *h = &o->heavy[p->layer];
    if (!p->prefill) {
        m->ops->attend_rows(out, p->q, kv, p->n, p->pos0, 1, p->view, seen, &m->config, s);
        return;
    }
    for (int r = 0, n; r < p->n; r += n) {
        const int in_segment = (p->pos0 + r) % o->segment;
        n = o->segment - in_segment < p->n - r ? o->segment - in_segment : p->n - r;
        const struct heavy_rows rows = {.rows = p->n,
                                        .pos0 = p->pos0,
                                        .from = r,
                                        .n = n,
                                        .q = p->q,
                                        .out = out,
                                        .lse = seen.lse,
                                        .columns = p->columns,
                                        .columns_span = p->columns_span,
                                        .beside = &o->beside};
        if (in_segment == 0 && p->pos0 + r > 0) m->ops->heavy_keep(h, p->pos0 + r, &m->config);
        m->ops->heavy_attend(h, &rows, kv, &m->config, s);
    }
    p->columns = NULL; /* done: of what was seen */
}

/* ---- for traces */

static const struct selection *state(const struct method *m, int filter)
{
    return &((const struct h2o *)m)->heavy[filter].kept;
}

static const int *selection(const struct method *m, int filter, int r, int *count)
{
    const struct h2o *o = (const struct h2o *)m;
    const struct selection *s = state(m, filter);
    (void)r; /* the same for all rows of a pass */
    if (!s->ops->device) {
        *count = s->count[0];
        return s->idx;
    }
    s->ops->get(count, s->count, sizeof *count);
    s->ops->get(o->picked, s->idx,
                (size_t)s->rule.sets * (size_t)s->rule.stride * sizeof *o->picked);
    return o->picked;
}

static int selection_size(const struct method *m, int n_prefill)
{
    const int room = m->config->evict_steps ? INT_MAX - 1 : n_prefill;
    const int list = list_room(m->config, n_prefill, room);
    return list > INT_MAX / m->sets ? INT_MAX : m->sets * list;
}

static void plan(const struct method *m, struct session_plan *p)
{
    const struct model_config *c = &m->model->config;
    /* sums by query head, lists by kv head; a layer at work, where a prefill evicts: what it has
     * kept in one piece, its sums, and a row's logits */
    p->token_bytes = (size_t)c->L * (size_t)(c->H + c->G) * sizeof(float);
    if (!m->config->skip_prefill)
        p->token_bytes += 4 * (size_t)c->G * (size_t)c->D + 2 * (size_t)c->H * sizeof(float);
}

static void close_h2o(struct method *m)
{
    struct h2o *o = (struct h2o *)m;
    close_layers(o);
    scratch_free(&o->beside);
    free(o->heavy);
    free(o->layers);
    free(o->count);
    free(o->tail);
    free(o->picked);
    free(o);
}

struct method *h2o_open(const struct run_config *c, const struct model *model)
{
    const int L = model->config.L;
    struct h2o *o = xcalloc(1, sizeof *o);
    o->base.hooks = (struct hooks){.ctx = o, .before = before, .after = after, .alone = dense_step};
    if (!c->skip_prefill) o->base.hooks.attend = attend;
    o->base.config = c;
    o->base.model = model;
    o->base.start = start;
    o->base.begin = begin;
    o->base.plan = plan;
    o->base.close = close_h2o;
    o->base.selection = selection;
    o->base.state = state;
    o->base.selection_size = selection_size;
    o->base.one_by_one = c->evict_steps;
    o->base.M = L;
    o->base.sets = model->config.G;
    o->heavy = xcalloc((size_t)L, sizeof *o->heavy);
    o->layers = xcalloc((size_t)L, sizeof *o->layers);
    for (int l = 0; l < L; l++) o->layers[l] = l;
    o->base.layers = o->layers;
    o->beside.ops = model->ops;
    return &o->base;
}
