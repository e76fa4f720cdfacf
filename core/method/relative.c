/* relative.c - infllm, streaming and infinite-lm: past a window of the last tokens a query sees the
 * first tokens and, under infllm, the blocks it agrees with most, all at one distance: no distance
 * is larger than the model was trained for, however long the text. What is seen and how is an op
 * (core/ops/far.h); here is when it begins, and what traces ask for. Prefills go through it too.
 * Source: Xiao et al. 2024, InfLLM; Xiao et al. 2023, StreamingLLM; Han et al. 2023, LM-Infinite.
 */
#include "core/base/base.h"
#include "core/method/method.h"

#include <limits.h>
#include <stdlib.h>

struct relative {
    struct method base;
    struct far_rule rule;
    struct far *far;        /* for sessions of rule.room tokens */
    int *layers;            /* [L] 0, 1, ...: each chooses for itself */
    struct selection *list; /* [L] where the op leaves what a step's row sees before its window */
    int *picked;            /* a selection brought from a device */
    enum kv_place *place;   /* [L], or NULL: all here */
    const struct session *begun; /* what start() was called for, until begin() */
    int prompt;
    struct far_stats earlier; /* of the runs before this one */
};

/* The first tokens, the chosen blocks, and less than one more block that is not yet cut. */
static int selection_size(const struct method *m, int n_prefill)
{
    const struct far_rule *f = &((const struct relative *)m)->rule;
    const double most = f->n_init + (f->topk + 1.0) * f->block_size;
    (void)n_prefill;
    return most < INT_MAX ? (int)most : INT_MAX;
}

/* Adds what the run that goes on has counted. */
static void add_stats(const struct relative *r, struct far_stats *sum)
{
    struct far_stats run;
    if (r->far == NULL) return;
    r->base.model->ops->far_stats(r->far, &run);
    sum->chosen += run.chosen;
    sum->missed += run.missed;
}

/* The state for sessions as long as S, which forgets all: N tokens of it follow, or are there. */
static int restart(struct relative *r, struct session *s, int n, bool filled)
{
    const struct model *m = r->base.model;
    if (r->rule.topk > 0) add_stats(r, &r->earlier);
    if (r->far == NULL || r->rule.room != session_room(s)) {
        m->ops->far_close(r->far);
        r->rule.room = session_room(s);
        if ((r->far = m->ops->far_open(&r->rule, &m->config)) == NULL) return -1;
    }
    if (r->base.M > 0) { /* a step's list is no longer than the session */
        const int most = selection_size(&r->base, n);
        r->base.stride = most < r->rule.room ? most : r->rule.room;
        r->picked = xrealloc(r->picked, (size_t)r->base.stride * sizeof *r->picked);
    }
    m->ops->far_start(r->far, n, session_kv(s, 0), filled, session_rotations(s), &m->config);
    return 0;
}

static int start(struct method *m, struct session *s, int n)
{
    struct relative *r = (struct relative *)m;
    if (restart(r, s, n, false)) return -1;
    r->begun = s;
    r->prompt = n;
    return 0;
}

/* Keys that another method left in the session, or nobody computed, have no scores. */
static int begin(struct method *m, struct session *s)
{
    struct relative *r = (struct relative *)m;
    const int n = session_length(s);
    const bool own = r->begun == s && r->prompt == n;
    r->begun = NULL;
    return own ? 0 : restart(r, s, n, true);
}

/* CUDA: traces want to know what a step will see before it does. */
static void before(void *ctx, struct layer_pass *p)
{
    struct relative *r = ctx;
    if (!p->prefill) p->view = r->base.model->ops->far_view(r->far, p->layer);
}

static void attend(void *ctx, struct layer_pass *p, float *out, struct attn_seen seen)
{
    struct relative *r = ctx;
    const struct model *m = r->base.model;
    m->ops->far_attend(r->far, p->layer, out, p->q, session_kv(p->session, p->layer), p->n, p->pos0,
                       p->prefill, session_rotations(p->session), seen, &p->view, &m->config,
                       session_scratch(p->session));
    struct selection *list = &r->list[p->layer];
    list->ops = m->ops;
    list->rule.sets = 1;
    list->rule.stride = p->view.stride;
    list->idx = (int *)p->view.idx; /* the op's; nobody writes through it */
    list->count = (int *)p->view.count;
    list->tail = (int *)p->view.tail;
}

static const int *selection(const struct method *m, int filter, int row, int *count)
{
    const struct relative *r = (const struct relative *)m;
    const struct selection *list = &r->list[filter];
    if (!m->model->ops->device) {
        *count = list->count[row];
        return list->idx;
    }
    m->model->ops->get(count, list->count, sizeof *count);
    m->model->ops->get(r->picked, list->idx, (size_t)*count * sizeof *r->picked);
    return r->picked;
}

static const struct selection *state(const struct method *m, int filter)
{
    return &((const struct relative *)m)->list[filter];
}

/* No query ever meets a key that is further away than this. */
static double largest_distance(const struct far_rule *f)
{
    return f->n_local - 1.0 + (f->turned ? f->n_init : 0);
}

static void plan(const struct method *m, struct session_plan *p)
{
    const struct far_rule *f = &((const struct relative *)m)->rule;
    if (largest_distance(f) < model_config_limit(&m->model->config)) p->extrapolate = true;
    p->far = f;
    p->place = ((const struct relative *)m)->place;
}

static void report(const struct method *m)
{
    const struct relative *r = (const struct relative *)m;
    struct far_stats stats = r->earlier;
    add_stats(r, &stats);
    if (stats.chosen > 0)
        note("blocks: %.0f used by the steps, %.0f of them (%.1f %%) not among the %d that %s of "
             "each layer",
             stats.chosen, stats.missed, 100 * stats.missed / stats.chosen, r->rule.max_cached,
             m->model->ops->device ? "the device keeps" : "a device would keep");
}

static void close_relative(struct method *m)
{
    struct relative *r = (struct relative *)m;
    if (r->far) m->model->ops->far_close(r->far);
    free(r->layers);
    free(r->list);
    free(r->place);
    free(r->picked);
    free(r);
}

struct method *relative_open(const struct run_config *config, const struct model *model)
{
    const struct model_config *c = &model->config;
    const char *name = method_name(config->method);
    if (model->ops->far_open == NULL) {
        fail("%s: not on %s", name, model->ops->name);
        return NULL;
    }
    if (c->rope.kind == ROPE_DYNAMIC) {
        fail("%s: under %s positions keep their distances: dynamic RoPE scaling, which follows the "
             "length of the text, does not go with it",
             model->source, name);
        return NULL;
    }
    if (model->ops->device && config->far.topk > 0 &&
        config->far.exc_block_size > model->ops->prefill_rows) {
        fail("exc_block_size: expected at most %d on %s, found %d", model->ops->prefill_rows,
             model->ops->name, config->far.exc_block_size);
        return NULL;
    }
    struct relative *r = xcalloc(1, sizeof *r);
    r->rule = config->far;
    r->list = xcalloc((size_t)c->L, sizeof *r->list);
    r->base = (struct method){.config = config,
                              .model = model,
                              .start = start,
                              .begin = begin,
                              .close = close_relative,
                              .plan = plan,
                              .one_by_one = model->ops->device,
                              .relative = true};
    r->base.hooks = (struct hooks){
        .ctx = r, .attend = attend, .group = r->rule.topk > 0 ? r->rule.exc_block_size : 0};
    if (model->ops->far_view) r->base.hooks.before = before;
    if (r->rule.topk > 0 && r->rule.away && model->ops->device) {
        r->place = xmalloc((size_t)c->L * sizeof *r->place);
        for (int l = 0; l < c->L; l++) r->place[l] = KV_BLOCKS;
    }
    if (r->rule.topk > 0) {
        r->layers = xcalloc((size_t)c->L, sizeof *r->layers);
        for (int l = 0; l < c->L; l++) r->layers[l] = l;
        r->base.M = c->L;
        r->base.layers = r->layers;
        r->base.sets = 1;
        r->base.selection = selection;
        r->base.state = state;
        r->base.selection_size = selection_size;
        r->base.report = report;
    }
    return &r->base;
}
