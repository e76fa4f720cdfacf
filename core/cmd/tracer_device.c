/* tracer_device.c - a trace on a device: the hooks give it work, once for all steps that are
 * replayed; after each step its result sets out for host memory, and a thread puts it into the dump
 * while the next steps run.
 *
 * Results lie in a ring of slots. The compute waits for the writer only when all are full.
 */
#include "core/cmd/tracer.h"

#include "core/base/base.h"

#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct tracer_device {
    struct step_trace *trace;
    int top;                                 /* entries of a layer's compact form */
    int selections, selected, selected_room; /* of filters; of a set; of one in the dump */
    const struct selection **selection;      /* [M] */
    int step[TRACE_SLOTS];                   /* that was sent */
    int head;                                /* the slot of the next step */
    float *columns; /* device: [L, H, max_T] sums of the prefill's attention, or NULL */

    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock: */
    int waiting; /* slots sent and not written, the last of them before HEAD */
    bool stop, failed;
    const char *why; /* what is still to be said of the failure */

    /* the writer's */
    int threads;
    int *order, *idx;     /* [top] */
    uint32_t *sort;       /* [3 top] */
    float *scores, *mass; /* [top] */
    float *row, *totals;  /* [2 L], [L] */
};

/* ---- the writer */

static int put_rows(struct tracer *t, enum dump_field field, int step, const char *rows,
                    const struct trace_step *s)
{
    for (int l = 0; l < t->c->L; l++) {
        const void *row = rows + (size_t)l * s->pitch;
        if (t->options.f32 ? dump_put(t->writer, field, step, l, 0, row, s->T)
                           : dump_put_halves(t->writer, field, step, l, 0, row, s->T))
            return -1;
    }
    return 0;
}

static int put_top(struct tracer *t, int step, const struct trace_step *s)
{
    struct tracer_device *d = t->device;
    for (int l = 0; l < t->c->L; l++) {
        const size_t at = (size_t)l * (size_t)d->top;
        const float *after = s->after + (size_t)l * TRACE_PARTS;
        float sum = 0;
        int k = 0;
        for (int i = 0; i < d->top; i++) {
            if (isnan(s->top_score[at + (size_t)i])) continue; /* fewer than K were seen */
            d->order[k] = k;
            d->idx[k] = i;
            d->scores[k++] = s->top_score[at + (size_t)i];
        }
        tracer_best_first(d->order, d->scores, k, d->sort);
        for (int i = 0; i < k; i++) {
            const size_t from = at + (size_t)d->idx[d->order[i]];
            d->mass[i] = s->top_mass[from];
            d->order[i] = s->top[from];
        }
        for (int i = 0; i < TRACE_PARTS; i++) sum += after[i];
        d->totals[l] = sum > 1 ? 0 : 1 - sum;
        if (dump_put_int(t->writer, DUMP_TOPK_IDX, step, l, d->order, k) ||
            dump_put(t->writer, DUMP_TOPK_MASS, step, l, 0, d->mass, k))
            return -1;
    }
    return dump_put(t->writer, DUMP_TOPK_TOTAL, step, 0, 0, d->totals, t->c->L);
}

static int put_reuse(struct tracer *t, int step, const struct trace_step *s)
{
    float *row = t->device->row;
    const int L = t->c->L;
    for (int i = 0; i < L; i++) {
        memcpy(row, s->reuse + 2 * (size_t)i * (size_t)L, 2 * (size_t)L * sizeof *row);
        for (int j = 0; j < 2 * i; j++) row[j] = NAN; /* a later layer's top k comes too late */
        if (dump_put(t->writer, DUMP_REUSE_ERROR, step, 0, i, row, 2 * L)) return -1;
    }
    return 0;
}

static int put_selection(struct tracer *t, int step, int filter, const int *selected)
{
    const struct tracer_device *d = t->device;
    const size_t set = (size_t)d->selected;
    const int *of = selected + (size_t)filter * (1 + (size_t)t->method->sets * set);
    int count = of[0];
    const int *idx = tracer_unite(t, of + 1, t->method->sets, set, &count);
    if (count > d->selected_room) count = d->selected_room;
    return dump_put_int(t->writer, DUMP_SELECTED_IDX, step, filter, idx, count);
}

static int write_step(struct tracer *t, int slot)
{
    struct tracer_device *d = t->device;
    const uint32_t f = t->options.fields;
    const int step = d->step[slot];
    struct trace_step s;
    const char *why = t->e->model.ops->trace_await(d->trace, slot, &s);
    if (why) {
        pthread_mutex_lock(&d->lock);
        d->why = why;
        pthread_mutex_unlock(&d->lock);
        return -1;
    }
    if ((f & BIT(MASS)) && put_rows(t, DUMP_MASS, step, s.mass, &s)) return -1;
    if ((f & BIT(SCORE)) && put_rows(t, DUMP_SCORE, step, s.score, &s)) return -1;
    if ((f & BIT(TOPK_IDX)) && put_top(t, step, &s)) return -1;
    if ((f & BIT(IMPORTANCE)) &&
        dump_put(t->writer, DUMP_IMPORTANCE, step, 0, 0, s.importance, t->c->L))
        return -1;
    if ((f & BIT(REUSE_ERROR)) && put_reuse(t, step, &s)) return -1;
    for (int i = 0; i < d->selections; i++)
        if (put_selection(t, step, i, s.selected)) return -1;
    return 0;
}

static void *write_steps(void *tracer)
{
    struct tracer *t = tracer;
    struct tracer_device *d = t->device;
    dump_thread();
    omp_set_num_threads(d->threads);
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (d->waiting == 0 && !d->stop) pthread_cond_wait(&d->changed, &d->lock);
        if (d->waiting == 0) break;
        const int slot = (d->head + TRACE_SLOTS - d->waiting) % TRACE_SLOTS;
        const bool lost = d->failed;
        pthread_mutex_unlock(&d->lock);
        const int rc = lost ? -1 : write_step(t, slot);
        pthread_mutex_lock(&d->lock);
        if (rc) d->failed = true;
        d->waiting--;
        pthread_cond_broadcast(&d->changed);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Waits until at most MOST steps are with the writer. 0, or -1 where it has failed, aloud. */
static int await_writer(struct tracer_device *d, int most)
{
    const char *why;
    pthread_mutex_lock(&d->lock);
    while (d->waiting > most) pthread_cond_wait(&d->changed, &d->lock);
    const bool failed = d->failed;
    why = d->why;
    d->why = NULL;
    pthread_mutex_unlock(&d->lock);
    if (why) fail("trace: a step could not be brought from the GPU: %s", why);
    return failed ? -1 : 0;
}

/* ---- hooks */

static void before(void *ctx, struct layer_pass *p)
{
    struct tracer *t = ctx;
    const uint32_t f = t->options.fields;
    if (p->prefill) {
        const size_t layer = (size_t)t->c->H * (size_t)t->max_T;
        if (f & BIT(PREFILL_SCORE)) {
            p->columns = t->device->columns + (size_t)p->layer * layer;
            p->columns_span = (size_t)t->max_T;
        }
        return;
    }
    p->keep =
        t->e->model.ops->trace_keep(t->device->trace, p->layer, p->view.idx != NULL,
                                    session_kv(p->session, p->layer), session_span(p->session));
    /* groups' scores do where each of them scores all positions by its logits */
    const bool groups = p->view.idx == NULL && t->pool == SCORE_MAX_LOGIT;
    if (f & (BIT(MASS) | BIT(SCORE))) p->want_logits = true;
    if ((f & BIT(TOPK_IDX)) && p->keep.scores == NULL) p->want_logits = true;
    if ((f & BIT(REUSE_ERROR)) && !groups) p->want_logits = true;
    if ((f & (BIT(TOPK_IDX) | BIT(REUSE_ERROR))) && groups) p->want_scores = true;
    if (f & BIT(IMPORTANCE)) p->want_delta = true;
}

static int after(void *ctx, const struct layer_pass *p)
{
    struct tracer *t = ctx;
    const struct trace_layer layer = {
        .layer = p->layer,
        .view = p->view,
        .seen = {.logits = (float *)p->logits,
                 .lse = (float *)p->lse,
                 .scores = (float *)p->scores,
                 .span = p->span},
        .q = p->q,
        .x = p->x,
        .delta = p->delta,
        .kv = session_kv(p->session, p->layer),
        .weights = &t->e->model.weights->layer[p->layer],
    };
    if (!p->prefill) t->e->model.ops->trace_layer(t->device->trace, &layer);
    return 0;
}

static int stepped(void *ctx, struct session *s, int pos)
{
    struct tracer *t = ctx;
    struct tracer_device *d = t->device;
    (void)s;
    if (await_writer(d, TRACE_SLOTS - 1)) return -1;
    d->step[d->head] = pos - t->n_prefill;
    for (int i = 0; i < d->selections; i++) d->selection[i] = t->method->state(t->method, i);
    t->e->model.ops->trace_send(d->trace, d->head, pos, d->selection);
    pthread_mutex_lock(&d->lock);
    d->head = (d->head + 1) % TRACE_SLOTS;
    d->waiting++;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

/* ---- a run and its samples */

int tracer_device_open(struct tracer *t)
{
    const uint32_t f = t->options.fields;
    struct session_plan plan = {.room = 1};
    bool away = false;
    if (f & BIT(ATTN)) return fail("--fields: attn is recorded on the CPU only (--device cpu)");
    if (t->method && t->method->plan) t->method->plan(t->method, &plan);
    for (int l = 0; l < t->c->L && plan.place; l++) away = away || plan.place[l] != KV_HERE;
    if ((f & BIT(REUSE_ERROR)) && away)
        return fail("--fields: reuse_error needs the keys and values of all layers on the device: "
                    "without offloading, or on the CPU (--device cpu)");

    struct tracer_device *d = xcalloc(1, sizeof *d);
    const size_t L = (size_t)t->c->L;
    t->device = d;
    t->hooks = (struct hooks){.ctx = t, .before = before, .after = after, .stepped = stepped};
    d->threads = omp_get_max_threads();
    d->row = xmalloc(2 * L * sizeof *d->row);
    d->totals = xmalloc(L * sizeof *d->totals);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    const int e = pthread_create(&d->thread, NULL, write_steps, t);
    if (e) return fail("trace: a thread cannot be started: %s", strerror(e));
    d->running = true;
    return 0;
}

/* Sums of the sample's prefill, all 0. */
static int open_columns(struct tracer *t)
{
    const struct ops *ops = t->e->model.ops;
    const size_t L = (size_t)t->c->L, layer = (size_t)t->c->H * (size_t)t->max_T;
    ops->release(t->device->columns);
    t->device->columns = ops->alloc(L * layer * sizeof(float), "prefill_score");
    if (t->device->columns == NULL) return -1;
    float *zeros = xcalloc(layer, sizeof *zeros);
    for (size_t l = 0; l < L; l++)
        ops->put(t->device->columns + l * layer, zeros, layer * sizeof *zeros);
    free(zeros);
    return 0;
}

static int put_columns(struct tracer *t)
{
    const size_t layer = (size_t)t->c->H * (size_t)t->max_T;
    float *sums = xmalloc(layer * sizeof *sums);
    int rc = 0;
    for (int l = 0; l < t->c->L && rc == 0; l++) {
        t->e->model.ops->get(sums, t->device->columns + (size_t)l * layer, layer * sizeof *sums);
        rc = tracer_put_columns(t, l, sums);
    }
    free(sums);
    return rc;
}

int tracer_device_begin(struct tracer *t)
{
    struct tracer_device *d = t->device;
    const uint32_t f = t->options.fields;
    const int n = t->n_prefill;
    const size_t T = (size_t)t->max_T;
    if (await_writer(d, 0)) return -1; /* of a sample that failed */
    if ((f & BIT(PREFILL_SCORE)) && open_columns(t)) return -1;
    d->top = !(f & BIT(TOPK_IDX)) ? 0 : t->run.K < n ? t->run.K : n;
    const size_t top = (size_t)d->top + 1;
    d->order = xrealloc(d->order, top * sizeof *d->order);
    d->idx = xrealloc(d->idx, top * sizeof *d->idx);
    d->sort = xrealloc(d->sort, 3 * top * sizeof *d->sort);
    d->scores = xrealloc(d->scores, top * sizeof *d->scores);
    d->mass = xrealloc(d->mass, top * sizeof *d->mass);
    if (f & BIT(SELECTED_IDX)) {
        const struct method *m = t->method;
        const int set = m->selection_size(m, n) / m->sets;
        d->selections = m->M;
        d->selected = set < t->max_T ? set : t->max_T; /* no more candidates than tokens */
        d->selected_room = tracer_selection_room(t, n, t->max_T);
        d->selection = xrealloc(d->selection, (size_t)m->M * sizeof *d->selection);
        t->picked = xrealloc(t->picked, T * sizeof *t->picked);
        t->best = xrealloc(t->best, T * sizeof *t->best);
    }
    const struct trace_plan plan = {
        .n_prefill = n,
        .room = t->max_T,
        .mass = f & BIT(MASS),
        .score = f & BIT(SCORE),
        .halves = !t->options.f32,
        .top = d->top,
        .reuse = !(f & BIT(REUSE_ERROR)) ? 0
                 : t->run.reuse_k < n    ? t->run.reuse_k
                                         : n,
        .importance = f & BIT(IMPORTANCE),
        .pool = t->pool,
        .selections = d->selections,
        .sets = d->selections ? t->method->sets : 0,
        .selected = d->selected,
    };
    return t->e->model.ops->trace_begin(&d->trace, &plan, t->c);
}

int tracer_device_end(struct tracer *t)
{
    if (await_writer(t->device, 0)) return -1;
    return t->device->columns ? put_columns(t) : 0;
}

void tracer_device_close(struct tracer *t)
{
    struct tracer_device *d = t->device;
    if (d == NULL) return;
    if (d->running) {
        pthread_mutex_lock(&d->lock);
        d->stop = true;
        d->failed = d->failed || d->waiting > 0;
        pthread_cond_broadcast(&d->changed);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->thread, NULL);
    }
    t->e->model.ops->trace_close(d->trace);
    t->e->model.ops->release(d->columns);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->changed);
    free(d->selection);
    free(d->order);
    free(d->idx);
    free(d->sort);
    free(d->scores);
    free(d->mass);
    free(d->row);
    free(d->totals);
    free(d);
    t->device = NULL;
}
