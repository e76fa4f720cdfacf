/* omnikv.c - OmniKV: at each step a few filter layers attend to everything, and the tokens they
 * attend to most are all that the sparse layers after them see of the context.
 *
 * Source: OmniKV (ICLR 2025) and the definition in docs/methods.md. What a filter layer selects is
 * an op (core/ops/select.c); here is who selects when, who uses it, and where keys and values live.
 */
#include "core/method/method.h"
#include "core/base/base.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct omnikv {
    struct method base;
    bool *full;                  /* [L] */
    int *served;                 /* [L] index of the filter a sparse layer uses */
    struct selection *selection; /* [M] */
    enum kv_place *place;        /* [L] */
    int *picked;                 /* host copies for traces on a device: [sets, stride] */
};

static bool windowed(const struct run_config *c)
{
    return c->selector == SELECT_UNIFORM || c->selector == SELECT_EXP;
}

static bool needs_logits(const struct omnikv *o)
{
    const struct run_config *c = o->base.config;
    return !o->base.model->ops->device || c->selector != SELECT_LAST || c->pool == POOL_NONE;
}

static int filter_at(const struct omnikv *o, int layer)
{
    for (int i = 0; i < o->base.M; i++)
        if (o->base.config->layers[i] == layer) return i;
    return -1;
}

static void before(void *ctx, struct layer_pass *p)
{
    struct omnikv *o = ctx;
    const struct ops *ops = o->base.model->ops;
    if (p->prefill) return;
    if (filter_at(o, p->layer) >= 0) {
        if (needs_logits(o))
            p->want_logits = true;
        else
            p->want_scores = true;
    }
    if (o->full[p->layer]) return;
    const struct selection *s = &o->selection[o->served[p->layer]];
    p->view = (struct attn_view){.idx = s->idx,
                                 .sets = s->rule.sets,
                                 .stride = s->rule.stride,
                                 .count = s->count,
                                 .tail = s->tail};
    if (o->place[p->layer] == KV_ROWS && o->base.config->apart)
        ops->fetch(session_kv(p->session, p->layer), s, &o->base.model->config, true);
}

static int after(void *ctx, const struct layer_pass *p)
{
    struct omnikv *o = ctx;
    const struct model *m = o->base.model;
    const int filter = p->prefill ? -1 : filter_at(o, p->layer);
    if (filter < 0) return 0;
    struct selection *s = &o->selection[filter];
    m->ops->select(s, p->logits, p->scores, p->span, p->n, p->pos0, &m->config);
    for (int l = p->layer + 1; l < m->config.L && !o->base.config->apart; l++)
        if (o->served[l] == filter && o->place[l] == KV_ROWS)
            m->ops->fetch(session_kv(p->session, l), s, &m->config, false);
    return 0;
}

/* The window of the first step holds the last queries of the prompt, each at its own position. */
static void look_back_at_prefill(struct omnikv *o, int filter, struct session *session)
{
    const struct model *m = o->base.model;
    const struct ops *ops = m->ops;
    const int layer = o->base.config->layers[filter], H = m->config.H,
              P = padded_width(m->config.D);
    int n, end;
    const float *q = session_queries(session, layer, &n, &end);
    const size_t span = session_span(session);
    struct scratch own = {.ops = ops};
    float *logits = scratch_get(&own, (size_t)H * span);
    for (int i = 0; i < n; i++) {
        const int pos = end - n + i;
        ops->attn_logits(logits, span, q + (size_t)i * (size_t)(H * P), session_kv(session, layer),
                         1, pos, &m->config);
        ops->select_remember(&o->selection[filter], logits, span, pos, pos + 1, &m->config);
    }
    scratch_free(&own);
}

/* Tokens of a selection: decoded candidates may add to the prefill's, up to ROOM in all. */
static int budget_of(const struct run_config *c, int n_prefill, int room)
{
    if (!c->candidates_all || c->budget < 1) return budget_tokens(c->budget, n_prefill);
    return c->budget < room ? (int)c->budget : room;
}

/* Tokens of one set, at most; those always kept are more than the budget at times. */
static int set_size(const struct run_config *c, int n_prefill, int room)
{
    const int budget = budget_of(c, n_prefill, room);
    const int recent = windowed(c) && c->window_size > c->recent ? c->window_size : c->recent;
    const int sinks = c->sinks < n_prefill ? c->sinks : n_prefill;
    const int kept = (recent < n_prefill - sinks ? recent : n_prefill - sinks) + sinks + 1;
    const int most = budget > kept ? budget : kept;
    return most < n_prefill || c->candidates_all ? most : n_prefill;
}

static void close_selections(struct omnikv *o)
{
    for (int i = 0; i < o->base.M; i++)
        if (o->selection[i].ops) o->selection[i].ops->select_close(&o->selection[i]);
}

static int begin(struct method *m, struct session *session)
{
    struct omnikv *o = (struct omnikv *)m;
    const struct run_config *c = m->config;
    const int n_prefill = session_length(session), room = session_room(session);
    const struct select_rule rule = {
        .selector = c->selector,
        .n_prefill = n_prefill,
        .sets = m->sets,
        .budget = budget_of(c, n_prefill, room),
        .sinks = c->sinks,
        .recent = c->recent,
        .window = c->window_size < room ? c->window_size : room,
        .refresh = c->refresh,
        .candidates_all = c->candidates_all,
        .room = room,
        .stride = set_size(c, n_prefill, room),
    };
    if (rule.budget < 1)
        return fail("num_of_selected_tokens: %g of %d prefill tokens selects none", c->budget,
                    n_prefill);
    close_selections(o);
    m->stride = rule.stride;
    o->picked = xrealloc(o->picked, (size_t)m->sets * (size_t)rule.stride * sizeof *o->picked);
    for (int i = 0; i < m->M; i++) {
        struct selection *s = &o->selection[i];
        *s = (struct selection){.ops = m->model->ops, .rule = rule};
        if (s->ops->select_open(s, &m->model->config)) return -1;
        if (windowed(c)) look_back_at_prefill(o, i, session);
    }
    return 0;
}

static const int *selection(const struct method *m, int filter, int r, int *count)
{
    const struct omnikv *o = (const struct omnikv *)m;
    const struct selection *s = &o->selection[filter];
    const size_t set_room = (size_t)s->rule.sets * (size_t)s->rule.stride;
    if (!s->ops->device) {
        *count = s->count[r];
        return s->idx + (size_t)r * set_room;
    }
    s->ops->get(count, s->count, sizeof *count);
    s->ops->get(o->picked, s->idx, set_room * sizeof *o->picked);
    return o->picked;
}

static const struct selection *state(const struct method *m, int filter)
{
    return &((const struct omnikv *)m)->selection[filter];
}

static int selection_size(const struct method *m, int n_prefill)
{
    const int set = set_size(m->config, n_prefill, INT_MAX);
    return set > INT_MAX / m->sets ? INT_MAX : m->sets * set;
}

static void plan(const struct method *m, struct session_plan *p)
{
    const struct omnikv *o = (const struct omnikv *)m;
    p->keep_queries = m->keep_queries;
    p->place = o->place;
    p->packed = set_size(m->config, p->room, p->room);
    p->sets = m->sets;
}

static void close_omnikv(struct method *m)
{
    struct omnikv *o = (struct omnikv *)m;
    close_selections(o);
    free(o->selection);
    free(o->full);
    free(o->served);
    free(o->place);
    free(o->picked);
    free(o);
}

struct method *omnikv_open(const struct run_config *c, const struct model *model)
{
    const struct model_config *shape = &model->config;
    const bool away = c->real_offload && model->ops->device;
    for (int i = 0; i < c->n_layers; i++)
        if (c->layers[i] >= shape->L) {
            fail("%s: layer %d: %s has the layers 0 to %d",
                 c->method == METHOD_OMNIKV ? "do_select_layers"
                 : i == 0                   ? "dense_layers"
                                            : "correction_layer",
                 c->layers[i], model->source, shape->L - 1);
            return NULL;
        }
    if (away && c->candidates_all) {
        fail("real_offload: with candidates \"all\" the rows of decoded tokens would have to be "
             "fetched too, which is not supported; set \"real_offload\" to false");
        return NULL;
    }
    if (away && c->pool == POOL_NONE && shape->H != shape->G) {
        fail("real_offload: with pool \"none\" each query head would fetch rows of its own, which "
             "is "
             "not supported; set \"real_offload\" to false, or \"pool\" to \"group\"");
        return NULL;
    }
    struct omnikv *o = xcalloc(1, sizeof *o);
    o->base.hooks = (struct hooks){.ctx = o, .before = before, .after = after};
    o->base.config = c;
    o->base.model = model;
    o->base.begin = begin;
    o->base.plan = plan;
    o->base.close = close_omnikv;
    o->base.selection = selection;
    o->base.state = state;
    o->base.selection_size = selection_size;
    o->base.keep_queries = windowed(c) ? c->window_size - 1 : 0;
    o->base.M = c->n_layers;
    o->base.layers = c->layers;
    o->full = xcalloc((size_t)shape->L, sizeof *o->full);
    o->served = xcalloc((size_t)shape->L, sizeof *o->served);
    o->place = xcalloc((size_t)shape->L, sizeof *o->place);
    o->base.full_layers =
        full_layers(c->layers, c->n_layers, c->wait, shape->L, o->full, o->served);
    for (int l = 0; l < shape->L; l++) o->place[l] = away && !o->full[l] ? KV_ROWS : KV_HERE;
    o->selection = xcalloc((size_t)c->n_layers, sizeof *o->selection);
    o->base.sets = c->pool == POOL_ALL ? 1 : c->pool == POOL_GROUP ? shape->G : shape->H;
    return &o->base;
}
