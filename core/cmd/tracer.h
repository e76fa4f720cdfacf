/* tracer.h - the inside of a tracer, which tracer.c opens and ends, tracer_host.c fills on a CPU
 * and tracer_device.c on a device.
 */
#ifndef CORE_CMD_TRACER_H
#define CORE_CMD_TRACER_H

#include "core/cmd/common.h"

#define BIT(field) (1u << DUMP_##field)

struct tracer_device;

struct tracer {
    struct hooks hooks;
    const struct engine *e;
    const struct method *method;
    const struct model_config *c;
    struct dump_writer *writer;
    struct dump_options options;
    struct dump_run run;
    char *command;
    bool per_kv_head;     /* rows of attn */
    enum score_pool pool; /* of `score` */

    int n_prefill, max_T;
    struct tracer_device *device; /* NULL on a CPU */
    /* working memory, for rows of up to max_T positions */
    float *picked;
    int *best;

    /* the rest on a CPU only */
    float *score, *mass;
    float *top_mass;            /* [K] */
    float *importance, *totals; /* [L] of the step: written when its last layer is done */
    float *columns;             /* [L, H, max_T] sums of the prefill's attention */

    /* reuse_error: the top reuse_k of each layer for the current step */
    int *top; /* [L, reuse_k] */
    float *reuse_q, *reuse_out, *reuse_delta;
    float *reuse; /* [L, L, 2] of the step */
};

/* Orders K positions by score, best first, ties to the lower index: IDX comes in ascending order.
 * WORK has room for 3 K. */
void tracer_best_first(int *idx, const float *score, int k, uint32_t *work);

/* What any head sees of a filter's selection, SETS of [*count] STRIDE apart: ascending, [*count].
 */
const int *tracer_unite(struct tracer *t, const int *idx, int sets, size_t stride, int *count);

/* Positions of a selection, at most: those of all sets, each counted once, of a sample of T tokens.
 */
int tracer_selection_room(const struct tracer *t, int n_prefill, int T);

/* prefill_score of LAYER from the SUMS [H, max_T] of its prefill's attention. 0, or -1 after
 * fail(). */
int tracer_put_columns(struct tracer *t, int layer, const float *sums);

/* ---- on a CPU: everything happens in the hooks */
void tracer_host_open(struct tracer *t);
int tracer_host_begin(struct tracer *t); /* a sample, whose n_prefill and max_T are set */
int tracer_host_end(struct tracer *t);

/* ---- on a device: hooks give it work, a thread of its own writes what comes of it while the next
 * steps run. A failure of that thread shows at the next call. */
int tracer_device_open(struct tracer *t); /* -1 after fail(): a field a device does not record */
int tracer_device_begin(struct tracer *t);
int tracer_device_end(struct tracer *t);    /* all steps are with the writer */
void tracer_device_close(struct tracer *t); /* gives up what is not written */

#endif
