/* dense.c - every layer attends to everything. */
#include "core/method/method.h"
#include "core/base/base.h"

#include <stdlib.h>

static int begin(struct method *m, struct session *s)
{
    (void)m, (void)s;
    return 0;
}

static void close_dense(struct method *m)
{
    free(m);
}

struct method *dense_open(const struct run_config *config, const struct model *model)
{
    struct method *m = xcalloc(1, sizeof *m);
    m->config = config;
    m->model = model;
    m->begin = begin;
    m->close = close_dense;
    m->full_layers = model->config.L;
    return m;
}
