/* brutal_offload.c - dense decoding whose later layers live in host memory and are fetched whole at
 * each step: what offloading costs without a selection. Source: the original's baseline of the
 * name.
 */
#include "core/method/method.h"
#include "core/base/base.h"

#include <stdlib.h>

struct brutal_offload {
    struct method base;
    enum kv_place *place; /* [L] */
};

static int begin(struct method *m, struct session *s)
{
    (void)m, (void)s;
    return 0;
}

static void plan(const struct method *m, struct session_plan *p)
{
    p->place = ((const struct brutal_offload *)m)->place;
}

static void close_brutal(struct method *m)
{
    free(((struct brutal_offload *)m)->place);
    free(m);
}

struct method *brutal_offload_open(const struct run_config *config, const struct model *model)
{
    const int L = model->config.L;
    struct brutal_offload *b = xcalloc(1, sizeof *b);
    b->place = xcalloc((size_t)L, sizeof *b->place);
    for (int l = config->first_away; l < L && model->ops->device; l++) b->place[l] = KV_WHOLE;
    b->base.config = config;
    b->base.model = model;
    b->base.begin = begin;
    b->base.plan = plan;
    b->base.close = close_brutal;
    b->base.full_layers = L;
    return &b->base;
}
