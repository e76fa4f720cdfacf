/* forward.c - the main path: one decoder layer after another, written once over the ops. */
#include "core/model/forward.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL_CHUNK                                                                              \
    512             /* rows of a prefill pass: products run at full speed, memory stays small */
#define MANY_ROWS 8 /* from here a causal pass goes through attend_all() */

struct session {
    const struct model *m;
    int room, length; /* tokens: what was asked for, what it holds */
    int rows_room;    /* positions there is memory for: attention tiles read whole groups of keys */
    int prompt;       /* the length that dynamic RoPE was last told, -1 before */
    float *cache;     /* keys and values of all layers */
    struct kv_layer *kv;  /* [L] views into it */
    float *cosine, *sine; /* [room, D / 2] */

    int keep, kept_end; /* kept queries per layer; one past the position of the last */
    float *queries;     /* [L, keep, H, P]: position p at slot p % keep */
    float *ordered;     /* [keep, H, P] one layer's, in order, for session_queries() */

    struct scratch scratch, rows, seen, logits; /* working memory by use: each grows on demand */
};

int model_open(struct model *m, const char *dir, const cJSON *overrides)
{
    memset(m, 0, sizeof *m);
    if (model_config_load(&m->config, dir, overrides)) return -1;
    if ((m->weights = weights_load(dir, &m->config)) == NULL) return -1;
    m->ops = ops_cpu(NULL);
    m->source = xstrdup(dir);
    return 0;
}

int model_open_shape(struct model *m, const char *shape, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    if (model_config_shape(&m->config, shape)) return -1;
    if ((m->weights = weights_random(&m->config, seed)) == NULL) return -1;
    m->ops = ops_cpu(NULL);
    m->source = xstrdup(shape);
    return 0;
}

void model_close(struct model *m)
{
    weights_free(m->weights);
    free(m->source);
    memset(m, 0, sizeof *m);
}

double session_bytes(const struct model_config *c, int room)
{
    return 2.0 * sizeof(float) * c->L * c->G * padded_width(c->D) * (double)room;
}

struct session *session_open(const struct model *m, int room, int keep_queries, bool extrapolate)
{
    const struct model_config *c = &m->config;
    const size_t P = (size_t)padded_width(c->D), half = (size_t)c->D / 2;
    const int limit = model_config_limit(c);

    if (room > limit && !extrapolate) {
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
    s->room = room;
    s->rows_room = (room + 63) / 64 * 64;
    s->prompt = -1;
    s->keep = keep_queries;
    const size_t layer = (size_t)c->G * (size_t)s->rows_room * P;
    s->cache = big_alloc(2 * (size_t)c->L * layer * sizeof(float), "keys and values");
    s->cosine = big_alloc(2 * (size_t)s->room * half * sizeof(float), "rotations");
    if (s->cache == NULL || s->cosine == NULL) {
        session_close(s);
        return NULL;
    }
    s->sine = s->cosine + (size_t)s->room * half;
    s->kv = xcalloc((size_t)c->L, sizeof *s->kv);
    for (int l = 0; l < c->L; l++) {
        float *k = s->cache + 2 * (size_t)l * layer;
        s->kv[l] = (struct kv_layer){.k = k, .v = k + layer, .room = s->rows_room};
    }
    if (s->keep > 0) {
        const size_t each = (size_t)s->keep * (size_t)c->H * P;
        s->queries = xcalloc((size_t)c->L * each, sizeof(float));
        s->ordered = xcalloc(each, sizeof(float));
    }
    return s;
}

void session_close(struct session *s)
{
    if (s == NULL) return;
    free(s->cache);
    free(s->cosine);
    free(s->kv);
    free(s->queries);
    free(s->ordered);
    free(s->scratch.p);
    free(s->rows.p);
    free(s->seen.p);
    free(s->logits.p);
    free(s);
}

/* Positions of the prompt turn at the frequencies of its length; under dynamic scaling each later
 * token turns at those of the length it makes, as transformers does while it decodes. */
static void fill_rotations(struct session *s, int prompt)
{
    const struct model_config *c = &s->m->config;
    const int half = c->D / 2;
    float *freq = xmalloc((size_t)half * sizeof *freq), scale;
    const bool moving = c->rope.kind == ROPE_DYNAMIC;

    rope_frequencies(c, prompt, freq, &scale);
    for (int p = 0; p < s->room; p++) {
        if (moving && p >= prompt) rope_frequencies(c, p + 1, freq, &scale);
        for (int d = 0; d < half; d++) {
            const float angle = (float)p * freq[d];
            s->cosine[(size_t)p * half + d] = cosf(angle) * scale;
            s->sine[(size_t)p * half + d] = sinf(angle) * scale;
        }
    }
    free(freq);
}

void session_start(struct session *s, int prompt)
{
    if (s->prompt < 0 || (s->m->config.rope.kind == ROPE_DYNAMIC && s->prompt != prompt))
        fill_rotations(s, prompt);
    s->prompt = prompt;
    s->length = s->kept_end = 0;
}

void session_fill(struct session *s, int length, uint64_t seed)
{
    const struct model_config *c = &s->m->config;
    const size_t P = (size_t)padded_width(c->D), queries = (size_t)c->L * (size_t)s->keep;

    session_start(s, length);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < c->L * c->G;
         i++) { /* a random source each: the same for any thread count */
        const size_t start = (size_t)(i % c->G) * (size_t)s->rows_room * P;
        float *k = s->kv[i / c->G].k + start, *v = s->kv[i / c->G].v + start;
        struct rng r;
        rng_seed(&r, seed + (uint64_t)i);
        for (size_t j = 0; j < (size_t)length * P; j++) {
            const uint64_t bits = rng_next(&r);
            const bool padding = j % P >= (size_t)c->D;
            k[j] = padding ? 0 : (float)(int32_t)(bits >> 32) * 0x1p-31f;
            v[j] = padding ? 0 : (float)(int32_t)(uint32_t)bits * 0x1p-31f;
        }
    }
    struct rng r;
    rng_seed(&r, ~seed);
    for (size_t j = 0; j < queries * (size_t)c->H * P; j++)
        s->queries[j] = j % P >= (size_t)c->D ? 0 : (float)(rng_unit(&r) * 2 - 1);
    s->length = s->kept_end = length;
}

void session_rewind(struct session *s, int length)
{
    s->length = length;
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

static void keep_queries(struct session *s, int layer, const float *q, int n, int pos0)
{
    const size_t row = (size_t)s->m->config.H * (size_t)padded_width(s->m->config.D);
    for (int r = n > s->keep ? n - s->keep : 0; r < n; r++)
        memcpy(s->queries + ((size_t)layer * s->keep + (size_t)(pos0 + r) % s->keep) * row,
               q + (size_t)r * row, row * sizeof *q);
    s->kept_end = pos0 + n;
}

const float *session_queries(const struct session *s, int layer, int *n, int *end)
{
    const size_t row = (size_t)s->m->config.H * (size_t)padded_width(s->m->config.D);
    *end = s->kept_end;
    *n = s->kept_end < s->keep ? s->kept_end : s->keep;
    for (int i = 0; i < *n; i++) {
        const size_t slot = (size_t)(*end - *n + i) % (size_t)s->keep;
        memcpy(s->ordered + (size_t)i * row, s->queries + ((size_t)layer * s->keep + slot) * row,
               row * sizeof(float));
    }
    return s->ordered;
}

/* The longest row of logits the pass can leave. */
static size_t widest(const struct layer_pass *p)
{
    int most = 0;
    for (int r = 0; r < p->n; r++) {
        const int length = view_length(&p->view, r, p->pos0 + r);
        most = length > most ? length : most;
    }
    return ((size_t)most + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}

static int one_layer(struct session *s, struct layer_pass *p, float *x, float *q, float *attention,
                     const struct hooks *method, const struct hooks *tap)
{
    const struct model *m = s->m;
    const struct model_config *c = &m->config;
    const struct ops *ops = m->ops;
    const struct layer_weights *w = &m->weights->layer[p->layer];
    struct kv_layer *kv = &s->kv[p->layer];
    const size_t n = (size_t)p->n, E = (size_t)c->E, H = (size_t)c->H;
    float *before = NULL, *delta = NULL, *logits = NULL, *lse = NULL;

    ops->attn_in(q, kv, x, p->n, p->pos0, w, c, (struct rope_table){s->cosine, s->sine},
                 &s->scratch);
    if (p->prefill && s->keep > 0) keep_queries(s, p->layer, q, p->n, p->pos0);

    p->q = q;
    if (method && method->before) method->before(method->ctx, p);
    if (tap && tap->before) tap->before(tap->ctx, p);

    p->span = p->want_logits ? widest(p) : 0;
    const bool many = p->view.idx == NULL && p->n >= MANY_ROWS;
    float *seen = scratch_get(&s->seen, n * H + n * H * p->span + (p->want_delta ? 2 * n * E : 0));
    lse = seen;
    if (p->want_logits) logits = lse + n * H;
    if (p->want_delta) {
        before = lse + n * H + n * H * p->span;
        delta = before + n * E;
        memcpy(before, x, n * E * sizeof *x);
    }
    if (many) {
        ops->attend_all(attention, q, kv, p->n, p->pos0, c, lse, &s->scratch);
        if (p->want_logits) ops->attn_logits(logits, p->span, q, kv, p->n, p->pos0, c);
    } else {
        ops->attend_rows(attention, q, kv, p->n, p->pos0, 1, p->view,
                         (struct attn_seen){.logits = logits, .lse = lse, .span = p->span}, c,
                         &s->scratch);
    }
    if (p->columns)
        ops->attn_columns(p->columns, p->columns_span, q, lse, kv, p->n, p->pos0, c, &s->scratch);
    ops->attn_out(x, delta, attention, p->n, w, c, &s->scratch);

    p->logits = logits;
    p->lse = lse;
    p->x = before;
    p->delta = delta;
    if (method && method->after && method->after(method->ctx, p)) return -1;
    if (tap && tap->after && tap->after(tap->ctx, p)) return -1;

    ops->mlp(x, p->n, w, c, &s->scratch);
    return 0;
}

static int check_finite(const struct session *s, const float *logits, int rows, int pos0)
{
    const int V = s->m->config.V;
    for (int r = 0; r < rows; r++) {
        float sum = 0; /* 0 * x is NaN for infinities and NaN: one test a row */
        for (int v = 0; v < V; v++) sum += 0.0f * logits[(size_t)r * V + v];
        if (sum != 0)
            return fail("%s: the logits after token %d are not finite: the weights are damaged or "
                        "overflow",
                        s->m->source, pos0 + r);
    }
    return 0;
}

int forward(struct session *s, const int *ids, int n, bool is_prefill, const struct hooks *method,
            const struct hooks *tap, enum want_logits want, const float **logits)
{
    const struct model_config *c = &s->m->config;
    const size_t N = (size_t)n, E = (size_t)c->E, H = (size_t)c->H;
    const size_t P = (size_t)padded_width(c->D), D = (size_t)c->D;

    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->V)
            return fail("%s: token %d is %d: expected an id below the vocabulary's %d",
                        s->m->source, s->length + i, ids[i], c->V);
    if (n < 1 || n > s->room - s->length)
        return fail("%s: %d tokens after %d: there is room for %d", s->m->source, n, s->length,
                    s->room);

    float *x = scratch_get(&s->rows, N * (E + H * P + H * D));
    float *q = x + N * E, *attention = q + N * H * P;
    s->m->ops->embed(x, &s->m->weights->embed, ids, n);
    for (int l = 0; l < c->L; l++) {
        struct layer_pass p = {
            .session = s, .layer = l, .n = n, .pos0 = s->length, .prefill = is_prefill};
        if (one_layer(s, &p, x, q, attention, method, tap)) return -1;
    }
    s->length += n;

    if (want == LOGITS_NONE) return 0;
    const int rows = want == LOGITS_ALL ? n : 1;
    float *out = scratch_get(&s->logits, (size_t)rows * (size_t)c->V);
    s->m->ops->head(out, x + (N - (size_t)rows) * E, rows, s->m->weights, c, &s->scratch);
    *logits = out;
    return check_finite(s, out, rows, s->length - rows);
}

int prefill(struct session *s, const int *ids, int n, const struct hooks *tap, const float **logits)
{
    session_start(s, n);
    for (int i = 0; i < n; i += PREFILL_CHUNK) {
        const int rows = n - i < PREFILL_CHUNK ? n - i : PREFILL_CHUNK;
        const enum want_logits want = i + rows == n && logits ? LOGITS_LAST : LOGITS_NONE;
        if (forward(s, ids + i, rows, true, NULL, tap, want, logits)) return -1;
    }
    return 0;
}
