/* cuda_trace.c - what a traced step leaves on the device, and its way to the host.
 *
 * The ops of a step write into one piece of memory at addresses that stay (the step is replayed).
 * When the step is given to the stream, the part of it that is used is copied to a slot, which
 * costs the compute microseconds; from there it goes to pinned host memory on a stream of its own,
 * while the next steps run. Who calls trace_send() sees to it that the slot is free.
 */
#include "core/base/base.h"
#include "core/ops/cuda_state.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)CUDA_TRACE_PARTS == (int)TRACE_PARTS,
               "parts of what lies behind the candidates");

/* Where things lie in a step's memory, in bytes; rows of all positions come last. */
struct layout {
    size_t top, top_score, top_mass, after, importance, reuse, selected;
    size_t rows, pitch; /* of mass, then of score: [L, pitch] each */
    size_t bytes;
};

struct step_trace {
    struct trace_plan plan;
    const struct model_config *c;
    struct layout at;
    char *step;
    size_t step_bytes;

    /* working memory */
    char *work;
    size_t work_bytes;
    float *score, *mass, *totals;  /* [room], [room], [H] of a layer */
    int *ignored;                  /* [2] count and tail of a choice, which are known */
    int *chosen, *count, *tail;    /* reuse: [L, k], [L], [L] */
    float *q, *out, *delta, *sink; /* reuse: [L, H, D] twice, [L, E], [E] */
    float *x, *turn;               /* importance: [L, E] twice */

    /* layers of this step whose top is found when it is over, in their order, and their scores */
    struct cuda_trace_late late;
    int *late_idx; /* [CUDA_TRACE_LAYERS, top] */
    char *kept;
    size_t kept_bytes;

    cudaStream_t stream;
    struct slot {
        char *device, *host;
        cudaEvent_t ready, arrived;
        int T;
        size_t pitch;
    } slot[TRACE_SLOTS];
    size_t slot_bytes;
};

static size_t take(size_t *end, size_t bytes)
{
    const size_t at = *end;
    *end = (at + bytes + 255) / 256 * 256;
    return at;
}

static size_t value_size(const struct trace_plan *p)
{
    return p->halves ? 2 : 4;
}

/* Numbers of a selection: how many, and which. */
static size_t selection_size(const struct trace_plan *p)
{
    return 1 + (size_t)p->sets * (size_t)p->selected;
}

/* Layers whose top is found together. */
static size_t late_layers(const struct step_trace *t)
{
    return t->c->L < CUDA_TRACE_LAYERS ? (size_t)t->c->L : CUDA_TRACE_LAYERS;
}

static struct layout layout_of(const struct trace_plan *p, const struct model_config *c)
{
    const size_t L = (size_t)c->L, top = L * (size_t)p->top;
    struct layout a = {0};
    size_t end = 0;
    a.top = take(&end, top * sizeof(int));
    a.top_score = take(&end, top * sizeof(float));
    a.top_mass = take(&end, top * sizeof(float));
    a.after = take(&end, (p->top ? L * TRACE_PARTS : 0) * sizeof(float));
    a.importance = take(&end, (p->importance ? L : 0) * sizeof(float));
    a.reuse = take(&end, (p->reuse ? 2 * L * L : 0) * sizeof(float));
    a.selected = take(&end, (size_t)p->selections * selection_size(p) * sizeof(int));
    a.rows = end;
    take(&a.pitch, (size_t)p->room * value_size(p));
    a.bytes = end + (size_t)(p->mass + p->score) * L * a.pitch;
    return a;
}

static int grow(char **p, size_t *room, size_t bytes, const char *what)
{
    if (bytes <= *room) return 0;
    cuda_release(*p);
    *room = 0;
    if ((*p = cuda_alloc(bytes, what)) == NULL) return -1;
    *room = bytes;
    return 0;
}

/* Working memory, and what of it stays the same for a sample. */
static int prepare(struct step_trace *t)
{
    const struct trace_plan *p = &t->plan;
    const size_t L = (size_t)t->c->L, E = (size_t)t->c->E, reuse = p->reuse ? L : 0;
    const size_t heads = (size_t)t->c->H * (size_t)t->c->D, room = ((size_t)p->room + 3) / 4 * 4;
    size_t end = 0;
    const size_t score = take(&end, room * sizeof(float)), mass = take(&end, room * sizeof(float));
    const size_t totals = take(&end, (size_t)t->c->H * sizeof(float));
    const size_t ignored = take(&end, 2 * sizeof(int));
    const size_t chosen = take(&end, reuse * (size_t)p->reuse * sizeof(int));
    const size_t count = take(&end, 2 * reuse * sizeof(int));
    const size_t q = take(&end, reuse * heads * sizeof(float));
    const size_t out = take(&end, reuse * heads * sizeof(float));
    const size_t delta = take(&end, reuse * E * sizeof(float));
    const size_t sink = take(&end, (reuse ? E : 0) * sizeof(float));
    const size_t x = take(&end, (p->importance ? L * E : 0) * sizeof(float));
    const size_t turn = take(&end, (p->importance ? L * E : 0) * sizeof(float));
    const size_t late_idx = take(&end, late_layers(t) * (size_t)p->top * sizeof(int));
    if (grow(&t->work, &t->work_bytes, end, "working memory of a trace")) return -1;
    t->score = (float *)(t->work + score);
    t->mass = (float *)(t->work + mass);
    t->totals = (float *)(t->work + totals);
    t->ignored = (int *)(t->work + ignored);
    t->chosen = (int *)(t->work + chosen);
    t->count = (int *)(t->work + count);
    t->tail = t->count + reuse;
    t->q = (float *)(t->work + q);
    t->out = (float *)(t->work + out);
    t->delta = (float *)(t->work + delta);
    t->sink = (float *)(t->work + sink);
    t->x = (float *)(t->work + x);
    t->turn = (float *)(t->work + turn);
    t->late_idx = (int *)(t->work + late_idx);
    t->late.layers = 0;
    cuda_check(cudaMemsetAsync(t->work, 0, end, cuda.stream), "clear");
    if (reuse) {
        int *both = xmalloc(2 * L * sizeof *both);
        for (size_t l = 0; l < L; l++) {
            both[l] = p->reuse;
            both[L + l] = p->n_prefill;
        }
        cuda_check(cudaMemcpyAsync(t->count, both, 2 * L * sizeof *both, cudaMemcpyHostToDevice,
                                   cuda.stream),
                   "copy");
        cuda_check(cudaStreamSynchronize(cuda.stream), "copy");
        free(both);
    }
    return 0;
}

static int open_slots(struct step_trace *t)
{
    const size_t bytes = t->at.bytes;
    if (bytes <= t->slot_bytes) return 0;
    t->slot_bytes = 0;
    for (int i = 0; i < TRACE_SLOTS; i++) {
        struct slot *s = &t->slot[i];
        size_t none = 0;
        if (grow(&s->device, &none, bytes, "steps of a trace on their way")) return -1;
        if (s->host) cudaFreeHost(s->host);
        s->host = NULL;
        const cudaError_t e = cudaHostAlloc((void **)&s->host, bytes, cudaHostAllocDefault);
        if (e != cudaSuccess) {
            (void)cudaGetLastError();
            s->host = NULL;
            return fail("trace: %.2f GB of host memory for steps on their way cannot be pinned: %s",
                        (double)bytes / 1e9, cudaGetErrorString(e));
        }
    }
    t->slot_bytes = bytes;
    return 0;
}

static struct step_trace *new_trace(void)
{
    struct step_trace *t = xcalloc(1, sizeof *t);
    const unsigned quiet = cudaEventDisableTiming;
    cuda_check(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking), "streams");
    for (int i = 0; i < TRACE_SLOTS; i++) {
        cuda_check(cudaEventCreateWithFlags(&t->slot[i].ready, quiet), "events");
        cuda_check(cudaEventCreateWithFlags(&t->slot[i].arrived, quiet | cudaEventBlockingSync),
                   "events");
    }
    return t;
}

int cuda_trace_begin(struct step_trace **trace, const struct trace_plan *plan,
                     const struct model_config *c)
{
    struct step_trace *t = *trace ? *trace : new_trace();
    *trace = t;
    t->plan = *plan;
    t->c = c;
    t->at = layout_of(plan, c);
    const bool failed = cuda.broken || grow(&t->step, &t->step_bytes, t->at.bytes, "trace") ||
                        prepare(t) || open_slots(t);
    if (!failed && t->at.bytes)
        cuda_check(cudaMemsetAsync(t->step, 0, t->at.bytes, cuda.stream), "clear");
    const bool broken = cuda.broken;
    cuda.broken = false;
    return failed || broken ? -1 : 0;
}

void cuda_trace_close(struct step_trace *t)
{
    if (t == NULL) return;
    cudaStreamSynchronize(cuda.stream);
    if (t->stream) {
        cudaStreamSynchronize(t->stream);
        cudaStreamDestroy(t->stream);
    }
    for (int i = 0; i < TRACE_SLOTS; i++) {
        cuda_release(t->slot[i].device);
        if (t->slot[i].host) cudaFreeHost(t->slot[i].host);
        if (t->slot[i].ready) cudaEventDestroy(t->slot[i].ready);
        if (t->slot[i].arrived) cudaEventDestroy(t->slot[i].arrived);
    }
    cuda_release(t->step);
    cuda_release(t->work);
    cuda_release(t->kept);
    free(t);
}

/* ---- a layer of a step */

/* IDX [sets, k] = the best candidates by the SCORES [sets, G, span] of the groups. */
static void choose_best(struct step_trace *t, const float *scores, size_t span, int sets, int *idx,
                        int k)
{
    const int n = t->plan.n_prefill;
    const struct cuda_select s = {.idx = idx,
                                  .count = t->ignored,
                                  .tail = t->ignored + 1,
                                  .score = scores,
                                  .span = span,
                                  .pos = cuda.pos,
                                  .n_prefill = n,
                                  .sets = sets,
                                  .pooled = t->c->G,
                                  .stride = k,
                                  .budget = k,
                                  .refresh = 1,
                                  .most = n,
                                  .work = cuda_work(WORK_SELECT, cuda_select_work(sets, n))};
    if (s.work) cuda_did(cuda_select_row(&s, cuda.stream));
}

/* IDX [k] = the best candidates: by the scores of each position that the trace has made, or of the
 * groups, as the attention left them. */
static void choose(struct step_trace *t, const struct trace_layer *a, bool made, int *idx, int k)
{
    const int n = t->plan.n_prefill;
    if (!made) {
        choose_best(t, a->seen.scores, a->seen.span, 1, idx, k);
        return;
    }
    void *work = cuda_work(WORK_SELECT, cuda_select_work(1, n));
    if (work) cuda_did(cuda_top_k(idx, t->score, n, k, work, cuda.stream));
}

/* The top of the layers that were put off: all together they take little longer than one. */
static void catch_up(struct step_trace *t)
{
    struct cuda_trace_late *a = &t->late;
    const int k = t->plan.top;
    if (a->layers == 0 || cuda.broken) return;
    choose_best(t, a->scores, a->span, a->layers, t->late_idx, k);
    a->H = t->c->H;
    a->G = t->c->G;
    a->D = t->c->D;
    a->pos = cuda.pos;
    a->idx = t->late_idx;
    a->k = k;
    a->first = t->plan.n_prefill;
    a->top = (int *)(t->step + t->at.top);
    a->score = (float *)(t->step + t->at.top_score);
    a->mass = (float *)(t->step + t->at.top_mass);
    a->parts = (float *)(t->step + t->at.after);
    if (!cuda.broken) cuda_did(cuda_trace_late(a, cuda.stream));
}

struct trace_keep cuda_trace_keep(struct step_trace *t, int layer, bool listed,
                                  const struct kv_layer *kv, size_t span)
{
    const struct trace_plan *p = &t->plan;
    const size_t L = late_layers(t), E = (size_t)t->c->E, H = (size_t)t->c->H;
    const size_t rows = (size_t)t->c->G * span;
    struct cuda_trace_late *late = &t->late;
    struct trace_keep keep = {0};
    if (layer == 0) late->layers = 0;
    if (p->importance) {
        keep.x = t->x + (size_t)layer * E;
        keep.delta = t->turn + (size_t)layer * E;
    }
    if (!p->top || listed || p->pool != SCORE_MAX_LOGIT || kv->cuda->place != KV_HERE) return keep;
    if (late->layers == (int)L) {
        catch_up(t);
        late->layers = 0;
    }
    const size_t slot = (size_t)late->layers;
    /* the first time that a step runs; when it is recorded the memory is there */
    if (grow(&t->kept, &t->kept_bytes, L * (rows + H) * sizeof(float), "scores of a trace")) {
        cuda.broken = true;
        return keep;
    }
    float *scores = (float *)t->kept, *lse = scores + L * rows;
    late->scores = scores;
    late->lse = lse;
    late->span = span;
    late->type = kv->cuda->type;
    late->of[slot].k = kv->cuda->k;
    late->of[slot].room = kv->cuda->room;
    late->of[slot].layer = layer;
    late->layers++;
    keep.scores = scores + slot * rows;
    keep.lse = lse + slot * H;
    return keep;
}

/* The attention output of layer j with the top k of each layer i up to it, against its own. */
static void measure_reuse(struct step_trace *t, const struct trace_layer *a, bool made)
{
    const struct model_config *c = t->c;
    const struct cuda_kv *d = a->kv->cuda;
    const struct layer_weights *w = a->weights;
    const int j = a->layer, n = j + 1, k = t->plan.reuse;
    const size_t row = (size_t)c->H * (size_t)c->D;
    choose(t, a, made, t->chosen + (size_t)j * (size_t)k, k);
    cuda_did(cuda_repeat_row(t->q, a->q, n, row, cuda.stream));
    const struct cuda_decode attend = {
        .out = t->out,
        .q = t->q,
        .k = d->k,
        .v = d->v,
        .room = d->room,
        .pos = cuda.pos,
        .n = n,
        .H = c->H,
        .G = c->G,
        .D = c->D,
        .type = d->type,
        .first = FIRST_LIST,
        .idx = t->chosen,
        .sets = 1,
        .stride = k,
        .count = t->count,
        .tail = t->tail,
        .most = k + d->steps,
        .work = cuda_work(WORK_DECODE, cuda_decode_work(n, c->H, c->G, c->D))};
    if (attend.work == NULL) return;
    cuda_did(cuda_decode_attention(&attend, cuda.stream));
    for (int i = 0; i < n; i++) /* SINK takes the sums, which nobody reads */
        cuda_did(cuda_add_row(t->sink, t->delta + (size_t)i * (size_t)c->E, NULL, w->o.data,
                              w->o_bias, t->out + (size_t)i * row, w->o.rows, w->o.cols, w->o.type,
                              cuda.stream));
    float *pairs = (float *)(t->step + t->at.reuse) + 2 * (size_t)j;
    cuda_did(cuda_compare_rows(pairs, 2 * (size_t)c->L, t->delta, n, c->E, cuda.stream));
}

static void *row_of(struct step_trace *t, bool asked, int which, int layer)
{
    const size_t row = (size_t)which * (size_t)t->c->L + (size_t)layer;
    return asked ? t->step + t->at.rows + row * t->at.pitch : NULL;
}

void cuda_trace_layer(struct step_trace *t, const struct trace_layer *a)
{
    const struct trace_plan *p = &t->plan;
    const int H = t->c->H, last = t->late.layers - 1;
    const bool listed = a->view.idx != NULL, weights = p->pool == SCORE_MAX_WEIGHT;
    const bool late = last >= 0 && t->late.of[last].layer == a->layer;
    const bool chooses = (p->top && !late) || p->reuse, made = listed || weights;
    const size_t layer = (size_t)a->layer;
    if (late) t->late.of[last].q = a->q;
    const struct cuda_seen seen = {.logits = a->seen.logits,
                                   .lse = a->seen.lse,
                                   .span = a->seen.span,
                                   .pos = cuda.pos,
                                   .H = H,
                                   .idx = a->view.idx,
                                   .sets = a->view.sets,
                                   .stride = a->view.stride,
                                   .count = a->view.count,
                                   .tail = a->view.tail};
    if (!listed && weights && (p->score || chooses)) {
        void *work = cuda_work(WORK_POOL, cuda_pool_weights_work(H));
        if (work == NULL) return;
        cuda_did(cuda_pool_weights(t->score, seen.logits, seen.span, cuda.pos, p->n_prefill, H, 1,
                                   work, cuda.stream));
    }
    if (p->mass || p->score || (listed && chooses)) {
        const struct cuda_trace_rows rows = {.seen = seen,
                                             .mass = row_of(t, p->mass, 0, a->layer),
                                             .score = row_of(t, p->score, p->mass, a->layer),
                                             .halves = p->halves,
                                             .mass32 = t->mass,
                                             .score32 = t->score,
                                             .room = p->room,
                                             .given = made ? t->score : NULL,
                                             .totals = listed && weights ? t->totals : NULL};
        cuda_did(cuda_trace_rows(&rows, cuda.stream));
    }
    struct cuda_trace_compact compact = {.seen = seen,
                                         .k = p->top,
                                         .given = made ? t->score : NULL,
                                         .given_mass = listed ? t->mass : NULL,
                                         .first = p->n_prefill};
    if (p->top && !late) {
        const size_t first = layer * (size_t)p->top;
        int *idx = (int *)(t->step + t->at.top) + first;
        choose(t, a, made, idx, p->top);
        compact.idx = idx;
        compact.score = (float *)(t->step + t->at.top_score) + first;
        compact.mass = (float *)(t->step + t->at.top_mass) + first;
        compact.parts = (float *)(t->step + t->at.after) + layer * TRACE_PARTS;
        cuda_did(cuda_trace_compact(&compact, cuda.stream));
    }
    if (p->reuse) measure_reuse(t, a, made);
}

/* ---- a step on its way */

static void copy_selections(struct step_trace *t, const struct selection *const *selected)
{
    const struct trace_plan *p = &t->plan;
    struct cuda_selected *from = xmalloc((size_t)p->selections * sizeof *from);
    for (int i = 0; i < p->selections; i++)
        from[i] = (struct cuda_selected){.idx = selected[i]->idx,
                                         .count = selected[i]->count,
                                         .stride = selected[i]->rule.stride};
    cuda_did(cuda_trace_selected((int *)(t->step + t->at.selected), from, p->selections, p->sets,
                                 p->selected, cuda.stream));
    free(from);
}

void cuda_trace_send(struct step_trace *t, int slot, int pos,
                     const struct selection *const *selected)
{
    struct slot *s = &t->slot[slot];
    catch_up(t);
    if (t->plan.importance && !cuda.broken)
        cuda_did(cuda_trace_turns((float *)(t->step + t->at.importance), t->x, t->turn, t->c->L,
                                  t->c->E, cuda.stream));
    if (t->plan.selections && !cuda.broken) copy_selections(t, selected);
    const size_t rows = (size_t)(t->plan.mass + t->plan.score) * (size_t)t->c->L;
    size_t end = 0;
    s->T = pos + 1 < t->plan.room ? pos + 1 : t->plan.room;
    take(&end, (size_t)s->T * value_size(&t->plan));
    s->pitch = end;
    if (t->at.rows)
        cuda_check(
            cudaMemcpyAsync(s->device, t->step, t->at.rows, cudaMemcpyDeviceToDevice, cuda.stream),
            "trace");
    if (rows)
        cuda_check(cudaMemcpy2DAsync(s->device + t->at.rows, s->pitch, t->step + t->at.rows,
                                     t->at.pitch, (size_t)s->T * value_size(&t->plan), rows,
                                     cudaMemcpyDeviceToDevice, cuda.stream),
                   "trace");
    cuda_check(cudaEventRecord(s->ready, cuda.stream), "trace");
    cuda_check(cudaStreamWaitEvent(t->stream, s->ready, 0), "trace");
    if (t->at.bytes)
        cuda_check(cudaMemcpyAsync(s->host, s->device, t->at.rows + rows * s->pitch,
                                   cudaMemcpyDeviceToHost, t->stream),
                   "trace");
    cuda_check(cudaEventRecord(s->arrived, t->stream), "trace");
}

const char *cuda_trace_await(struct step_trace *t, int slot, struct trace_step *out)
{
    const struct slot *s = &t->slot[slot];
    const struct layout *at = &t->at;
    const size_t plane = (size_t)t->c->L * s->pitch;
    cudaError_t e = cudaSetDevice(cuda_device()->index);
    if (e == cudaSuccess) e = cudaEventSynchronize(s->arrived);
    if (e != cudaSuccess) return cudaGetErrorString(e);
    *out = (struct trace_step){.T = s->T,
                               .mass = s->host + at->rows,
                               .score = s->host + at->rows + (t->plan.mass ? plane : 0),
                               .pitch = s->pitch,
                               .top = (const int *)(s->host + at->top),
                               .top_score = (const float *)(s->host + at->top_score),
                               .top_mass = (const float *)(s->host + at->top_mass),
                               .after = (const float *)(s->host + at->after),
                               .importance = (const float *)(s->host + at->importance),
                               .reuse = (const float *)(s->host + at->reuse),
                               .selected = (const int *)(s->host + at->selected)};
    return NULL;
}
