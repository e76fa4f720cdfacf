/* method.c - chooses the method a config describes; which layers are full. */
#include "core/method/method.h"
#include "core/base/base.h"

#include <stdlib.h>

struct method *method_open(const struct run_config *config, const struct model *model)
{
    switch (config->method) {
    case METHOD_DENSE:
        return dense_open(config, model);
    case METHOD_OMNIKV:
    case METHOD_TIDAL: /* the same with layers and sets of its own */
        return omnikv_open(config, model);
    case METHOD_WINDOW:
        return window_open(config, model);
    case METHOD_BRUTAL_OFFLOAD:
        return brutal_offload_open(config, model);
    case METHOD_H2O:
        return h2o_open(config, model);
    case METHOD_QUEST:
        return quest_open(config, model);
    case METHOD_INFLLM:
    case METHOD_STREAMING:
    case METHOD_INFINITE_LM:
        return relative_open(config, model);
    }
    return NULL;
}

void method_close(struct method *m)
{
    if (m) m->close(m);
}

int method_prefill(struct method *m, struct session *s, const int *ids, int n,
                   const struct hooks *tap, const float **logits)
{
    if (m && m->start && m->start(m, s, n)) return -1;
    return prefill(s, ids, n, m ? &m->hooks : NULL, tap, logits);
}

int method_begin(struct method *m, struct session *s)
{
    session_forget_steps(s);
    return m ? m->begin(m, s) : 0;
}

int full_layers(const int *layers, int n_layers, int wait, int L, bool *full, int *served)
{
    int count = 0, filter = -1;
    for (int l = 0; l < L; l++) {
        if (filter + 1 < n_layers && layers[filter + 1] == l) filter++;
        const bool is_full = filter < 0 || l <= layers[filter] + wait;
        if (full) full[l] = is_full;
        if (served) served[l] = is_full ? -1 : filter;
        count += is_full;
    }
    return count;
}
