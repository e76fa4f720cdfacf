/* quest.c - Quest: at each step every layer but the first few sees, for each KV head, the pages of
 * the prompt whose keys could give the query the largest product.
 *
 * Source: Tang et al. 2024, Quest, arXiv 2406.10774, and the definition in docs/methods.md. Bounds
 * and choice are ops (core/ops/pages.c); here is which layers choose, and when.
 */
#include "core/method/method.h"
#include "core/base/base.h"

#include <limits.h>
#include <stdlib.h>

struct quest {
    struct method base;
    struct pages *pages; /* [M], of the layers from dense_layers on */
    int *layers;         /* [M] */
    bool open;           /* pages[] hold memory */
    bool all;            /* the prompt is shorter than a page: everything is seen */
    int *picked;         /* host copies for traces on a device: [G, stride] */
};

/* Pages that a KV head sees of a prompt of N tokens. */
static int pages_of(const struct run_config *c, int n)
{
    const int best = budget_tokens(c->budget, n) / c->page_size, whole = n / c->page_size;
    return best < whole ? best : whole;
}

static void close_pages(struct quest *o)
{
    for (int i = 0; o->open && i < o->base.M; i++) o->base.model->ops->pages_close(&o->pages[i]);
    o->open = false;
}

static int begin(struct method *m, struct session *s)
{
    struct quest *o = (struct quest *)m;
    const struct run_config *c = m->config;
    const struct ops *ops = m->model->ops;
    const int n = session_length(s), whole = n / c->page_size, best = pages_of(c, n);
    close_pages(o);
    m->stride = best * c->page_size;
    o->all = whole == 0;
    if (o->all) return 0;
    if (best < 1)
        return fail("num_of_selected_tokens: %g of %d prefill tokens is less than a page of %d",
                    c->budget, n, c->page_size);
    o->picked = xrealloc(o->picked, (size_t)m->sets * (size_t)m->stride * sizeof *o->picked);
    o->open = true;
    for (int i = 0; i < m->M; i++)
        o->pages[i] = (struct pages){.size = c->page_size,
                                     .count = whole,
                                     .best = best,
                                     .chosen = {.ops = ops,
                                                .rule = {.n_prefill = n,
                                                         .sets = m->sets,
                                                         .budget = m->stride,
                                                         .room = session_room(s),
                                                         .stride = m->stride}}};
    for (int i = 0; i < m->M; i++)
        if (ops->pages_open(&o->pages[i], session_kv(s, o->layers[i]), &m->model->config))
            return -1;
    return 0;
}

static void before(void *ctx, struct layer_pass *p)
{
    struct quest *o = ctx;
    const struct model *m = o->base.model;
    const int filter = p->layer - o->base.full_layers;
    if (p->prefill || o->all || filter < 0) return;
    struct pages *pages = &o->pages[filter];
    m->ops->pages_choose(pages, p->q, p->n, p->pos0, &m->config, session_scratch(p->session));
    p->view = (struct attn_view){.idx = pages->chosen.idx,
                                 .sets = pages->chosen.rule.sets,
                                 .stride = pages->chosen.rule.stride,
                                 .count = pages->chosen.count,
                                 .tail = pages->chosen.tail};
}

static const int *selection(const struct method *m, int filter, int r, int *count)
{
    const struct quest *o = (const struct quest *)m;
    const struct selection *s = &o->pages[filter].chosen;
    const size_t sets = (size_t)m->sets * (size_t)m->stride;
    *count = o->all ? 0 : m->stride;
    if (o->all) return o->picked;
    if (!s->ops->device) return s->idx + (size_t)r * sets;
    s->ops->get(o->picked, s->idx, sets * sizeof *o->picked);
    return o->picked;
}

static const struct selection *state(const struct method *m, int filter)
{
    return &((const struct quest *)m)->pages[filter].chosen;
}

static int selection_size(const struct method *m, int n_prefill)
{
    const int list = pages_of(m->config, n_prefill) * m->config->page_size;
    return list > INT_MAX / m->sets ? INT_MAX : list > 0 ? m->sets * list : 1;
}

static void plan(const struct method *m, struct session_plan *p)
{
    const struct model_config *c = &m->model->config;
    /* of each page the bounds, 16-bit, and a score; of each token chosen its position */
    const size_t page = 4 * (size_t)c->D + 2 * sizeof(float);
    p->token_bytes =
        (size_t)m->M * (size_t)c->G * (page / (size_t)m->config->page_size + 1 + sizeof(int));
}

static void close_quest(struct method *m)
{
    struct quest *o = (struct quest *)m;
    close_pages(o);
    free(o->pages);
    free(o->layers);
    free(o->picked);
    free(o);
}

struct method *quest_open(const struct run_config *c, const struct model *model)
{
    const int L = model->config.L, dense = c->dense_layers < L ? c->dense_layers : L;
    struct quest *o = xcalloc(1, sizeof *o);
    o->base.hooks = (struct hooks){.ctx = o, .before = before};
    o->base.config = c;
    o->base.model = model;
    o->base.begin = begin;
    o->base.plan = plan;
    o->base.close = close_quest;
    o->base.full_layers = dense;
    o->base.M = L - dense;
    o->base.sets = model->config.G;
    if (o->base.M > 0) {
        o->base.selection = selection;
        o->base.state = state;
        o->base.selection_size = selection_size;
    }
    o->pages = xcalloc((size_t)o->base.M, sizeof *o->pages);
    o->layers = xcalloc((size_t)o->base.M, sizeof *o->layers);
    for (int i = 0; i < o->base.M; i++) o->layers[i] = dense + i;
    o->base.layers = o->layers;
    o->picked = xcalloc(1, sizeof *o->picked);
    return &o->base;
}
