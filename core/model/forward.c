/* forward.c - the main path: one decoder layer after another, written once over the ops. */
#include "core/model/forward.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct session {
    const struct model *m;
    struct session_plan plan;
    bool away;           /* some layers' prefill lives in host memory */
    int room, length;    /* tokens: what was asked for, what it holds */
    int prompt;          /* the length that dynamic RoPE was last told, -1 before */
    struct kv_layer *kv; /* [L] */
    float *rotations;    /* cos, then sin: [room, D / 2] each */

    int keep, kept_end; /* kept queries per layer; one past the position of the last */
    float *queries;     /* [L, keep, H, P]: position p at slot p % keep */
    float *ordered;     /* [keep, H, P] one layer's, in order, for session_queries() */

    /* working memory by use: each grows on demand */
    struct scratch scratch, rows, stream, seen, logits, outcomes;
    const float *host_logits; /* of the last pass that wanted them */
    const struct outcome *outcome;
    struct outcome prefilled;   /* that of the last prefill */
    struct step_graph graph[2]; /* a run and its traced twin take turns */
    int next_graph;
    uint64_t step_memory; /* hash of the addresses that recorded steps use */
};

/* Chooses the backend that DEVICE names for a model whose config is read. */
static int choose_ops(struct model *m, const char *device)
{
    int index = 0;
    char *why;
    if (device && strcmp(device, "cpu") == 0) {
        m->ops = ops_cpu(NULL);
        return 0;
    }
    if (device && strcmp(device, "cuda") != 0) {
        if (strncmp(device, "cuda:", 5) != 0 || device[5] == 0)
            return fail("--device: expected cpu, cuda or cuda:N, found \"%s\"", device);
        if (parse_int("--device cuda:N", device + 5, 0, 1023, &index)) return -1;
    }
    if (device == NULL && cuda_devices() == 0) {
        m->ops = ops_cpu(NULL);
        return 0;
    }
    if ((why = cuda_refusal(&m->config)) != NULL) {
        if (device)
            fail("--device %s: %s", device, why);
        else
            note("running on the CPU: %s", why);
        m->ops = device ? NULL : ops_cpu(NULL);
        free(why);
        return device ? -1 : 0;
    }
    m->ops = ops_cuda(index);
    return m->ops ? 0 : -1;
}

static const struct weights_home *home_of(const struct model *m)
{
    return m->ops->device ? cuda_weights_home() : NULL;
}

int model_open(struct model *m, const char *dir, const cJSON *overrides, const char *device)
{
    memset(m, 0, sizeof *m);
    if (model_config_load(&m->config, dir, overrides) || choose_ops(m, device)) return -1;
    if ((m->weights = weights_load(dir, &m->config, home_of(m))) == NULL) return -1;
    m->source = xstrdup(dir);
    return 0;
}

int model_open_shape(struct model *m, const char *shape, uint64_t seed, const char *device)
{
    memset(m, 0, sizeof *m);
    if (model_config_shape(&m->config, shape) || choose_ops(m, device)) return -1;
    if ((m->weights = weights_random(&m->config, seed, home_of(m))) == NULL) return -1;
    m->source = xstrdup(shape);
    return 0;
}

void model_close(struct model *m)
{
    weights_free(m->weights);
    free(m->source);
    memset(m, 0, sizeof *m);
}

struct session *session_open(const struct model *m, const struct session_plan *plan)
{
    const struct model_config *c = &m->config;
    const struct ops *ops = m->ops;
    const size_t row = (size_t)c->H * (size_t)padded_width(c->D);
    const int limit = model_config_limit(c), room = plan->room;

    if (room > limit && !plan->extrapolate) {
        fail("%s: a context of %d tokens: the model was trained for %d (--allow-extrapolation goes "
             "past)",
             m->source, room, limit);
        return NULL;
    }
    if (c->window > 0 && room > c->window) {
        fail("%s: a context of %d tokens: past %d the model's sliding window would act, which is "
             "not "
             "supported",
             m->source, room, c->window);
        return NULL;
    }
    struct session *s = xcalloc(1, sizeof *s);
    s->m = m;
    s->plan = *plan;
    s->plan.type = m->weights->dtype;
    s->room = room;
    s->prompt = -1;
    s->keep = plan->keep_queries < room ? plan->keep_queries : room;
    s->scratch.ops = s->rows.ops = s->stream.ops = s->seen.ops = s->logits.ops = s->outcomes.ops =
        ops;
    s->kv = xcalloc((size_t)c->L, sizeof *s->kv);
    if (ops->kv_open(s->kv, c, &s->plan)) {
        free(s->kv);
        s->kv = NULL;
        goto failed;
    }
    for (int l = 0; l < c->L && plan->place; l++) s->away = s->away || plan->place[l] != KV_HERE;
    s->plan.place = NULL; /* the caller's */
    s->rotations = ops->alloc((size_t)room * (size_t)c->D * sizeof(float), "rotations");
    if (s->rotations == NULL) goto failed;
    if (s->keep > 0) {
        const size_t each = (size_t)s->keep * row * sizeof(float);
        s->queries = ops->alloc((size_t)c->L * each, "kept queries");
        s->ordered = s->queries ? ops->alloc(each, "kept queries") : NULL;
        if (s->ordered == NULL) goto failed;
    }
    return s;

failed:
    session_close(s);
    return NULL;
}

void session_close(struct session *s)
{
    if (s == NULL) return;
    const struct ops *ops = s->m->ops;
    session_forget_steps(s);
    if (s->kv) ops->kv_close(s->kv, &s->m->config);
    free(s->kv);
    ops->release(s->rotations);
    ops->release(s->queries);
    ops->release(s->ordered);
    scratch_free(&s->scratch);
    scratch_free(&s->rows);
    scratch_free(&s->stream);
    scratch_free(&s->seen);
    scratch_free(&s->logits);
    scratch_free(&s->outcomes);
    free(s);
}

void session_forget_steps(struct session *s)
{
    for (size_t i = 0; s->m->ops->graph_free && i < COUNT_OF(s->graph); i++)
        s->m->ops->graph_free(&s->graph[i]);
}

/* Positions of the prompt turn at the frequencies of its length; under dynamic scaling each later
 * token turns at those of the length it makes, as transformers does while it decodes. */
static void fill_rotations(struct session *s, int prompt)
{
    const struct model_config *c = &s->m->config;
    const size_t half = (size_t)c->D / 2, all = (size_t)s->room * half;
    const bool moving = c->rope.kind == ROPE_DYNAMIC;
    float *cosine = xmalloc(2 * all * sizeof *cosine), *sine = cosine + all;

#pragma omp parallel
    {
        float *freq = xmalloc(half * sizeof *freq), scale;
        rope_frequencies(c, prompt, freq, &scale);
#pragma omp for schedule(static)
        for (int p = 0; p < s->room; p++) {
            if (moving && p >= prompt) rope_frequencies(c, p + 1, freq, &scale);
            for (size_t d = 0; d < half; d++) {
                const float angle = (float)p * freq[d];
                cosine[(size_t)p * half + d] = cosf(angle) * scale;
                sine[(size_t)p * half + d] = sinf(angle) * scale;
            }
        }
        free(freq);
    }
    s->m->ops->put(s->rotations, cosine, 2 * all * sizeof *cosine);
    free(cosine);
}

struct rope_table session_rotations(const struct session *s)
{
    const size_t half = (size_t)s->m->config.D / 2;
    return (struct rope_table){s->rotations, s->rotations + (size_t)s->room * half};
}

void session_start(struct session *s, int prompt)
{
    if (s->prompt < 0 || (s->m->config.rope.kind == ROPE_DYNAMIC && s->prompt != prompt))
        fill_rotations(s, prompt);
    s->prompt = prompt;
    s->length = s->kept_end = 0;
    session_forget_steps(s);
}

void session_fill(struct session *s, int length, uint64_t seed)
{
    const struct model_config *c = &s->m->config;
    const size_t P = (size_t)padded_width(c->D);
    const size_t queries = (size_t)c->L * (size_t)s->keep * (size_t)c->H * P;

    session_start(s, length);
    s->m->ops->kv_fill(s->kv, c, length, seed);
    if (queries > 0) {
        float *q = xmalloc(queries * sizeof *q);
        struct rng r;
        rng_seed(&r, ~seed);
        for (size_t j = 0; j < queries; j++)
            q[j] = j % P >= (size_t)c->D ? 0 : (float)(rng_unit(&r) * 2 - 1);
        s->m->ops->put(s->queries, q, queries * sizeof *q);
        free(q);
    }
    s->length = s->kept_end = length;
}

void session_rewind(struct session *s, int length)
{
    s->length = length;
    if (length == s->prompt) s->outcome = &s->prefilled;
}

int session_length(const struct session *s)
{
    return s->length;
}

int session_room(const struct session *s)
{
    return s->room;
}

const struct model *session_model(const struct session *s)
{
    return s->m;
}

struct scratch *session_scratch(struct session *s)
{
    return &s->scratch;
}

struct kv_layer *session_kv(struct session *s, int layer)
{
    return &s->kv[layer];
}

size_t session_span(const struct session *s)
{
    return ((size_t)s->room + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}

const struct outcome *session_outcome(const struct session *s, int r)
{
    return &s->outcome[r];
}

static void keep_queries(struct session *s, int layer, const float *q, int n, int pos0)
{
    const struct model_config *c = &s->m->config;
    const size_t row = (size_t)c->H * (size_t)padded_width(c->D);
    for (int r = n > s->keep ? n - s->keep : 0; r < n; r++)
        s->m->ops->copy_queries(
            s->queries +
                ((size_t)layer * (size_t)s->keep + (size_t)(pos0 + r) % (size_t)s->keep) * row,
            q, n, r, 1, c);
    s->kept_end = pos0 + n;
}

const float *session_queries(const struct session *s, int layer, int *n, int *end)
{
    const struct model_config *c = &s->m->config;
    const size_t row = (size_t)c->H * (size_t)padded_width(c->D);
    *end = s->kept_end;
    *n = s->kept_end < s->keep ? s->kept_end : s->keep;
    for (int i = 0; i < *n; i++) {
        const size_t slot = (size_t)(*end - *n + i) % (size_t)s->keep;
        /* of one row: as attn_in() leaves a decode step's */
        s->m->ops->copy_queries(s->ordered + (size_t)i * row,
                                s->queries + ((size_t)layer * (size_t)s->keep + slot) * row, 1, 0,
                                1, c);
    }
    return s->ordered;
}

/* Entries of a row of logits: on a device, where the counts of a view are not known here and a step
 * is replayed, what the session has room for. */
static size_t widest(const struct session *s, const struct layer_pass *p)
{
    int most = 0;
    if (s->m->ops->device) return session_span(s);
    for (int r = 0; r < p->n; r++) {
        const int length = view_length(&p->view, r, p->pos0 + r);
        most = length > most ? length : most;
    }
    return ((size_t)most + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}

/* One layer over the n rows X of P; Q and ATTENTION are room for n rows. */
static int one_layer(struct session *s, struct layer_pass *p, float *x, float *q, float *attention,
                     const struct hooks *method, const struct hooks *tap)
{
    const struct model *m = s->m;
    const struct model_config *c = &m->config;
    const struct ops *ops = m->ops;
    const struct layer_weights *w = &m->weights->layer[p->layer];
    struct kv_layer *kv = &s->kv[p->layer];
    const size_t n = (size_t)p->n, E = (size_t)c->E, H = (size_t)c->H, G = (size_t)c->G;

    ops->attn_in(q, kv, x, p->n, p->pos0, w, c, session_rotations(s), &s->scratch);
    if (p->prefill && s->keep > 0) keep_queries(s, p->layer, q, p->n, p->pos0);

    p->q = q;
    if (method && method->before) method->before(method->ctx, p);
    if (tap && tap->before) tap->before(tap->ctx, p);

    struct attn_seen seen = {0};
    float *before = NULL, *delta = NULL;
    const bool wide = p->want_logits || p->want_scores;
    p->span = seen.span = wide ? widest(s, p) : 0;
    float *next = scratch_get(&s->seen, n * H + (p->want_logits ? n * H * p->span : 0) +
                                            (p->want_scores ? n * G * p->span : 0) +
                                            (p->want_delta ? 2 * n * E : 0));
    /* the lists first: they stay aligned to whole vectors */
    if (p->want_logits) seen.logits = next, next += n * H * p->span;
    if (p->want_scores) seen.scores = next, next += n * G * p->span;
    if (p->want_delta) before = next, delta = next + n * E, next += 2 * n * E;
    seen.lse = next;
    if (p->keep.scores) seen.scores = p->keep.scores, seen.lse = p->keep.lse;
    if (p->keep.x) before = p->keep.x, delta = p->keep.delta;
    if (method && method->attend) {
        method->attend(method->ctx, p, attention, seen);
    } else if (p->view.idx == NULL && p->n >= ops->many_rows) {
        ops->attend_all(attention, q, kv, p->n, p->pos0, c, seen.lse, &s->scratch);
        if (p->want_logits) ops->attn_logits(seen.logits, p->span, q, kv, p->n, p->pos0, c);
    } else {
        ops->attend_rows(attention, q, kv, p->n, p->pos0, 1, p->view, seen, c, &s->scratch);
    }
    if (p->columns)
        ops->attn_columns(p->columns, p->columns_span, q, seen.lse, kv, p->n, p->pos0, c,
                          &s->scratch);
    ops->attn_out(x, delta, before, attention, p->n, w, c, &s->scratch);

    p->logits = seen.logits;
    p->lse = seen.lse;
    p->scores = seen.scores;
    p->x = before;
    p->delta = delta;
    if (method && method->after && method->after(method->ctx, p)) return -1;
    if (tap && tap->after && tap->after(tap->ctx, p)) return -1;

    ops->mlp(x, p->n, w, c, &s->scratch);
    return 0;
}

static int check_tokens(const struct session *s, const int *ids, int n)
{
    const struct model_config *c = &s->m->config;
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->V)
            return fail("%s: token %d is %d: expected an id below the vocabulary's %d",
                        s->m->source, s->length + i, ids[i], c->V);
    const int steps = s->length + n - s->prompt;
    if (s->away && s->length > 0 &&
        (s->length < s->prompt || (s->plan.steps > 0 && steps > s->plan.steps)))
        return fail("%s: token %d: this session holds a prompt of %d and up to %d decoded tokens",
                    s->m->source, s->length, s->prompt, s->plan.steps);
    if (n < 1 || n > s->room - s->length)
        return fail("%s: %d tokens after %d: there is room for %d", s->m->source, n, s->length,
                    s->room);
    return 0;
}

/* Logits of the last ROWS rows of X [n, E], and what is to be known of them. */
static void predict(struct session *s, const float *x, int n, int rows, bool outcome_only)
{
    const struct model_config *c = &s->m->config;
    const struct ops *ops = s->m->ops;
    float *out = scratch_get(&s->logits, (size_t)rows * (size_t)c->V);
    struct outcome *seen =
        (struct outcome *)scratch_get(&s->outcomes, (size_t)rows * sizeof *seen / sizeof(float));
    ops->head(out, x + (size_t)(n - rows) * (size_t)c->E, rows, s->m->weights, c, &s->scratch);
    ops->outcomes(seen, out, rows, c->V, &s->scratch);
    s->host_logits = out;
    s->outcome = seen;
    if (ops->results)
        ops->results(outcome_only ? NULL : out, seen, rows, c->V, &s->host_logits, &s->outcome);
}

/* The recorded step for KEY, or the one to give up for it. A recording holds the addresses of
 * working memory, so it ends where any of that has moved. */
static struct step_graph *find_step(struct session *s, const void *const *key)
{
    const void *const now[] = {s->scratch.p, s->rows.p, s->seen.p, s->logits.p, s->outcomes.p};
    const uint64_t memory = hash_bytes(HASH_START, now, sizeof now);
    if (memory != s->step_memory) session_forget_steps(s);
    s->step_memory = memory;
    for (size_t i = 0; i < COUNT_OF(s->graph); i++)
        if (memcmp(s->graph[i].key, key, sizeof s->graph[i].key) == 0) return &s->graph[i];
    s->next_graph = (s->next_graph + 1) % (int)COUNT_OF(s->graph);
    s->m->ops->graph_free(&s->graph[s->next_graph]);
    memcpy(s->graph[s->next_graph].key, key, sizeof s->graph[0].key);
    return &s->graph[s->next_graph];
}

static int check_finite(const struct session *s, int rows, int pos0)
{
    for (int r = 0; r < rows; r++)
        if (!isfinite(s->outcome[r].lse))
            return fail("%s: the logits after token %d are not finite: the weights are damaged or "
                        "overflow",
                        s->m->source, pos0 + r);
    return 0;
}

int forward(struct session *s, const int *ids, int n, bool is_prefill, const struct hooks *method,
            const struct hooks *tap, enum want_logits want, const float **logits)
{
    const struct model_config *c = &s->m->config;
    const struct ops *ops = s->m->ops;
    const size_t N = (size_t)n, E = (size_t)c->E, H = (size_t)c->H;
    const size_t P = (size_t)padded_width(c->D), D = (size_t)c->D;
    const int pos = s->length, rows = want == LOGITS_ALL ? n : want != LOGITS_NONE;
    const bool step = n == 1 && !is_prefill;
    const bool alone = step && method && method->alone && method->alone(method->ctx, pos);
    const void *const key[3] = {method, tap, (const void *)(intptr_t)(want + 1)};
    int rc = 0;

    if (check_tokens(s, ids, n)) return -1;
    if (ops->device && n > 1 && (s->away || (!is_prefill && method && method->before)))
        return fail("%s: %d tokens in one pass of a decode: a device takes one", s->m->source, n);
    if (ops->pass_begin) ops->pass_begin(ids, n, pos, step && !alone);
    struct step_graph *graph = step && !alone && ops->replay ? find_step(s, key) : NULL;
    if (graph == NULL || !ops->replay(graph)) {
        /* each layer of a step has a q: a trace on a device reads them at its end */
        const size_t own = step && ops->device ? H * P : 0, layers = own ? (size_t)c->L : 1;
        float *x = scratch_get(&s->rows, N * (E + layers * H * P + H * D));
        float *q = x + N * E, *attention = q + N * layers * H * P;
        ops->embed(x, &s->m->weights->embed, ids, n);
        for (int l = 0; l < c->L && rc == 0; l++) {
            struct layer_pass p = {
                .session = s, .layer = l, .n = n, .pos0 = pos, .prefill = is_prefill};
            rc = one_layer(s, &p, x, q + (size_t)l * own, attention, method, tap);
        }
        if (rc == 0 && rows > 0) predict(s, x, n, rows, want == LOGITS_OUTCOME);
        if (graph) ops->recorded(graph, rc != 0);
    }
    if (rc == 0 && step && tap && tap->stepped) rc = tap->stepped(tap->ctx, s, pos);
    if (ops->pass_end && ops->pass_end()) rc = -1;
    if (rc) return -1;
    s->length += n;
    if (rows == 0) return 0;
    if (want != LOGITS_OUTCOME) *logits = s->host_logits;
    return check_finite(s, rows, s->length - rows);
}

int prefill(struct session *s, const int *ids, int n, const struct hooks *method,
            const struct hooks *tap, const float **logits)
{
    const struct model_config *c = &s->m->config;
    const struct ops *ops = s->m->ops;
    const size_t E = (size_t)c->E, group = method && method->group ? (size_t)method->group : 1;
    const size_t most_rows = (size_t)ops->prefill_rows;
    const size_t chunk = group < most_rows ? most_rows / group * group : group;
    const size_t most = (size_t)n < chunk ? (size_t)n : chunk;
    const size_t P = (size_t)padded_width(c->D), D = (size_t)c->D;

    session_start(s, n);
    if (check_tokens(s, ids, n)) return -1;
    /* a layer at a time: only the layer at work needs its keys and values here */
    float *x = scratch_get(&s->stream, (size_t)n * E);
    float *q = scratch_get(&s->rows, most * (size_t)c->H * (P + D));
    float *attention = q + most * (size_t)c->H * P;
    for (size_t i = 0; i < (size_t)n; i += most) {
        const int rows = (size_t)n - i < most ? (int)((size_t)n - i) : (int)most;
        if (ops->pass_begin) ops->pass_begin(ids + i, rows, (int)i, false);
        ops->embed(x + i * E, &s->m->weights->embed, ids + i, rows);
    }
    int rc = 0;
    for (int l = 0; l < c->L && rc == 0; l++) {
        if (ops->kv_prefill) ops->kv_prefill(&s->kv[l], n, c, false);
        for (size_t i = 0; i < (size_t)n && rc == 0; i += most) {
            const int rows = (size_t)n - i < most ? (int)((size_t)n - i) : (int)most;
            struct layer_pass p = {
                .session = s, .layer = l, .n = rows, .pos0 = (int)i, .prefill = true};
            if (ops->pass_begin) ops->pass_begin(NULL, rows, (int)i, false);
            rc = one_layer(s, &p, x + i * E, q, attention, method, tap);
        }
        if (ops->kv_prefill) ops->kv_prefill(&s->kv[l], n, c, true);
    }
    if (rc == 0 && logits) predict(s, x, n, 1, false);
    if (ops->pass_end && ops->pass_end()) rc = -1;
    if (ops->device) { /* room for the sessions beside it */
        scratch_free(&s->stream);
        scratch_free(&s->rows);
        scratch_free(&s->scratch);
        scratch_free(&s->seen);
    }
    if (rc) return -1;
    s->length = n;
    if (logits == NULL) return 0;
    *logits = s->host_logits;
    s->prefilled = s->outcome[0];
    return check_finite(s, 1, n - 1);
}
