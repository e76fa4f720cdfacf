/* test_method.c - which layers are full; OmniKV and the window against slow definitions of them;
 * the demo's suite under the methods whose scores are known.
 */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/method/decode.h"
#include "core/task/suite.h"
#include "tests/check.h"
#include "tests/runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE 1e-4 /* of the logits' deviation: float32 rounding through a few layers */

/* ---- which layers are full */

static void full_layers_are_right(void)
{
    static const struct {
        int L, filter[4], n, wait, count;
        const char *map; /* F: full; otherwise the filter that serves the layer */
    } cases[] = {
        {32, {2, 8, 18}, 3, 1, 8, "FFFF0000FF11111111FF222222222222"}, /* the original's example */
        {12, {3, 6, 9}, 3, 1, 9, "FFFFF0FF1FF2"},
        {12, {2, 5, 8}, 3, 1, 8, "FFFF0FF1FF22"},
        {8, {0}, 1, 0, 1, "F0000000"},
        {8, {0}, 1, 3, 4, "FFFF0000"},
        {8, {5}, 1, 0, 6, "FFFFFF00"},
        {8, {2, 4}, 2, 5, 8, "FFFFFFFF"}, /* cut at the next filter, and at L */
        {8, {2, 4}, 2, 1, 6, "FFFFFF11"},
        {8, {1, 2, 3}, 3, 0, 4, "FFFF2222"},
        {4, {3}, 1, 1, 4, "FFFF"},
        {4, {0}, 1, 99, 4, "FFFF"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        bool full[32];
        int served[32];
        char map[33] = "";
        const int count =
            full_layers(cases[i].filter, cases[i].n, cases[i].wait, cases[i].L, full, served);
        for (int l = 0; l < cases[i].L; l++) {
            map[l] = full[l] ? 'F' : (char)('0' + served[l]);
            CHECK(!full[l] || served[l] == -1, "layer %d is full and served by %d", l, served[l]);
        }
        CHECK(count == cases[i].count && strcmp(map, cases[i].map) == 0, "%d %s, want %d %s", count,
              map, cases[i].count, cases[i].map);
        CHECK(full_layers(cases[i].filter, cases[i].n, cases[i].wait, cases[i].L, NULL, NULL) ==
                  count,
              "without outputs");
    }
}

/* ---- a decoder in plain loops: every layer's attention is spelled out, one token at a time */

enum { PREFILL = 61, STEPS = 23, TOKENS = PREFILL + STEPS, ROOM = 128 };

struct plain {
    const struct model *m;
    struct kv_layer *kv; /* [L] */
    float *q;            /* [L, TOKENS, H, P] every query, after RoPE */
    float *cosine, *sine;
    float *logits; /* [STEPS, V] after each step */

    /* the run's method: NULL layers is the window */
    const struct run_config *config;
    int sets;
    bool (*chosen)[TOKENS]; /* [STEPS, M, sets] prefill (or earlier) tokens a step's sparse layers
                               see */
};

static bool *chosen_by(const struct plain *p, int step, int filter, int set)
{
    const int M = p->config->n_layers;
    return p->chosen[((size_t)step * (size_t)M + (size_t)filter) * (size_t)p->sets + (size_t)set];
}

static const float *query_of(const struct plain *p, int layer, int pos, int h)
{
    const struct model_config *c = &p->m->config;
    return p->q + (((size_t)layer * TOKENS + (size_t)pos) * (size_t)c->H + (size_t)h) *
                      (size_t)padded_width(c->D);
}

/* Scaled q.k of the query at position POS and the key at T. */
static double product(const struct plain *p, int layer, int pos, int h, int t)
{
    const struct model_config *c = &p->m->config;
    const int g = h / (c->H / c->G), P = padded_width(c->D);
    const float *q = query_of(p, layer, pos, h);
    const float *k = p->kv[layer].k + ((size_t)g * ROOM + (size_t)t) * (size_t)P;
    double dot = 0;
    for (int d = 0; d < c->D; d++) dot += (double)q[d] * k[d];
    return dot / sqrt(c->D);
}

/* weight [n]: softmax over the first N positions of the query at POS. */
static void softmax_of(double *weight, const struct plain *p, int layer, int pos, int h, int n)
{
    double sum = 0;
    for (int t = 0; t < n; t++) sum += weight[t] = exp(product(p, layer, pos, h, t));
    for (int t = 0; t < n; t++) weight[t] /= sum;
}

/* The selectors of docs/methods.md. A query of the window scores the candidates of its own step: a
 * prefill query those it can see, itself included. */
static double *scores_of(const struct plain *p, int layer, int pos, int set)
{
    const struct run_config *c = p->config;
    const int H = p->m->config.H, R = H / p->sets;
    const bool looks_back = c->selector == SELECT_UNIFORM || c->selector == SELECT_EXP;
    const int back = looks_back ? c->window_size : 1;
    double *score = xcalloc(TOKENS, sizeof *score), weight[TOKENS];
    const int n = c->candidates_all ? pos : PREFILL;
    if (c->selector == SELECT_LAST) {
        for (int t = 0; t < n; t++) {
            score[t] = -INFINITY;
            for (int h = set * R; h < (set + 1) * R; h++)
                score[t] = fmax(score[t], product(p, layer, pos, h, t));
        }
        return score;
    }
    for (int at = pos; at > pos - back && at >= 0; at--) {
        const int candidates = at < PREFILL ? at + 1 : c->candidates_all ? at : PREFILL;
        double best[TOKENS] = {0};
        for (int h = set * R; h < (set + 1) * R; h++) {
            softmax_of(weight, p, layer, at, h, candidates);
            for (int t = 0; t < candidates; t++) best[t] = fmax(best[t], weight[t]);
        }
        for (int t = 0; t < candidates; t++)
            score[t] += best[t] * (c->selector == SELECT_EXP ? pow(2, at - pos) : 1);
    }
    return score;
}

static void choose(const struct plain *p, int filter, int step)
{
    const struct run_config *c = p->config;
    const int pos = PREFILL + step, n = c->candidates_all ? pos : PREFILL;
    const int layer = c->layers[filter];
    const bool looks_back = c->selector == SELECT_UNIFORM || c->selector == SELECT_EXP;
    for (int set = 0; set < p->sets; set++) {
        bool *in = chosen_by(p, step, filter, set);
        if (step % c->refresh) { /* what the step before saw */
            memcpy(in, chosen_by(p, step - 1, filter, set), TOKENS * sizeof *in);
            continue;
        }
        double *score = scores_of(p, layer, pos, set);
        int left = c->budget < 1 ? (int)(c->budget * PREFILL) : (int)c->budget;
        memset(in, 0, TOKENS * sizeof *in);
        for (int t = 0; t < PREFILL; t++) {
            const bool in_window = looks_back && t > pos - c->window_size;
            in[t] = t < c->sinks || t >= PREFILL - c->recent || in_window;
            left -= in[t];
        }
        if (left < 1) left = 1; /* at least one place for the candidates */
        for (; left > 0; left--) {
            int best = -1;
            for (int t = 0; t < n; t++)
                if (!in[t] && (best < 0 || score[t] > score[best])) best = t;
            if (best >= 0) in[best] = true;
        }
        free(score);
    }
}

/* Whether query head H of the token at POS sees position T at LAYER. */
static bool sees(const struct plain *p, int layer, int pos, int h, int t)
{
    const struct run_config *c = p->config;
    const int step = pos - PREFILL;
    int serving = -1;
    if (step < 0) return true;
    if (c->method == METHOD_WINDOW)
        return t >= PREFILL || t < c->window_sinks || t >= PREFILL - c->window_recent;
    for (int i = 0; i < c->n_layers; i++)
        if (c->layers[i] <= layer) serving = i;
    if (serving < 0 || layer <= c->layers[serving] + c->wait) return true;
    const int asked = step - step % c->refresh; /* the step that last selected */
    const int after = c->candidates_all ? PREFILL + asked : PREFILL;
    return t >= after || chosen_by(p, step, serving, h / (p->m->config.H / p->sets))[t];
}

static void attend(const struct plain *p, float *out, int layer, int pos)
{
    const struct model_config *c = &p->m->config;
    const int P = padded_width(c->D);
    for (int h = 0; h < c->H; h++) {
        const float *v = p->kv[layer].v + (size_t)(h / (c->H / c->G)) * ROOM * (size_t)P;
        double weight[TOKENS], sum = 0;
        for (int t = 0; t <= pos; t++)
            sum += weight[t] = sees(p, layer, pos, h, t) ? exp(product(p, layer, pos, h, t)) : 0;
        for (int d = 0; d < c->D; d++) {
            double o = 0;
            for (int t = 0; t <= pos; t++) o += weight[t] / sum * v[t * P + d];
            out[h * c->D + d] = (float)o;
        }
    }
}

static void plain_token(const struct plain *p, int pos, int token)
{
    const struct model_config *c = &p->m->config;
    const struct ops *ops = ops_reference();
    const struct rope_table rope = {p->cosine, p->sine};
    float *x = xmalloc((size_t)(c->E + c->H * c->D) * sizeof *x), *attention = x + c->E;
    ops->embed(x, &p->m->weights->embed, &token, 1);
    for (int l = 0; l < c->L; l++) {
        const struct layer_weights *w = &p->m->weights->layer[l];
        float *q = p->q + (query_of(p, l, pos, 0) - p->q);
        ops->attn_in(q, &p->kv[l], x, 1, pos, w, c, rope, NULL);
        attend(p, attention, l, pos);
        for (int i = 0; pos >= PREFILL && i < p->config->n_layers; i++)
            if (p->config->layers[i] == l) choose(p, i, pos - PREFILL);
        ops->attn_out(x, NULL, NULL, attention, 1, w, c, NULL);
        ops->mlp(x, 1, w, c, NULL);
    }
    if (pos >= PREFILL)
        ops->head(p->logits + (size_t)(pos - PREFILL) * (size_t)c->V, x, 1, p->m->weights, c, NULL);
    free(x);
}

static void plain_open(struct plain *p, const struct model *m)
{
    static const struct run_config none = {.refresh = 1};
    const struct model_config *c = &m->config;
    const size_t P = (size_t)padded_width(c->D), half = (size_t)c->D / 2;
    float scale, *freq = xmalloc(half * sizeof *freq);
    *p = (struct plain){.m = m, .config = &none};
    p->kv = xcalloc((size_t)c->L, sizeof *p->kv);
    for (int l = 0; l < c->L; l++)
        p->kv[l] = (struct kv_layer){xcalloc((size_t)c->G * ROOM * P, sizeof(float)),
                                     xcalloc((size_t)c->G * ROOM * P, sizeof(float)), ROOM, NULL};
    p->q = xcalloc((size_t)c->L * TOKENS * (size_t)c->H * P, sizeof *p->q);
    p->cosine = xcalloc(TOKENS * half, sizeof *p->cosine);
    p->sine = xcalloc(TOKENS * half, sizeof *p->sine);
    p->logits = xcalloc(STEPS * (size_t)c->V, sizeof *p->logits);
    rope_frequencies(c, PREFILL, freq, &scale);
    for (size_t i = 0; i < TOKENS * half; i++) {
        const float angle = (float)(i / half) * freq[i % half];
        p->cosine[i] = cosf(angle) * scale;
        p->sine[i] = sinf(angle) * scale;
    }
    free(freq);
}

static void plain_close(struct plain *p)
{
    for (int l = 0; l < p->m->config.L; l++) {
        free(p->kv[l].k);
        free(p->kv[l].v);
    }
    free(p->kv);
    free(p->q);
    free(p->cosine);
    free(p->sine);
    free(p->logits);
    free(p->chosen);
}

/* ---- the engine's selections against it */

struct watch {
    struct hooks hooks;
    const struct plain *p;
    const struct method *method;
    const char *config;
    int compared;
};

static void compare_set(struct watch *w, const int *idx, int count, int step, int filter, int set)
{
    const bool *in = chosen_by(w->p, step, filter, set);
    int right = 0, want = 0;
    for (int t = 0; t < TOKENS; t++) want += in[t];
    for (int i = 0; i < count; i++)
        right += idx[i] >= 0 && idx[i] < TOKENS && in[idx[i]] && (i == 0 || idx[i] > idx[i - 1]);
    CHECK(right == count && count == want,
          "%s: step %d filter %d set %d: %d of %d selected are right, want %d", w->config, step,
          filter, set, right, count, want);
}

/* What a filter layer selected, as a trace asks for it, and what a sparse layer was shown. */
static int compare_selection(void *ctx, const struct layer_pass *pass)
{
    struct watch *w = ctx;
    const struct run_config *c = w->p->config;
    const struct attn_view *v = &pass->view;
    for (int i = 0; i < c->n_layers; i++)
        for (int r = 0; r < pass->n; r++) {
            const int step = pass->pos0 + r - PREFILL;
            const bool last_below = i + 1 == c->n_layers || c->layers[i + 1] > pass->layer;
            if (c->layers[i] == pass->layer) {
                int count;
                const int *idx = w->method->selection(w->method, i, r, &count);
                CHECK(w->method->sets == w->p->sets && count <= w->method->stride,
                      "%s: %d sets of %d, %d apart", w->config, w->method->sets, count,
                      w->method->stride);
                for (int set = 0; set < w->p->sets; set++)
                    compare_set(w, idx + set * w->method->stride, count, step, i, set);
                CHECK(count * w->p->sets <= w->method->selection_size(w->method, PREFILL),
                      "%s: %d selected, %d announced", w->config, count,
                      w->method->selection_size(w->method, PREFILL));
                w->compared++;
            }
            if (v->idx == NULL || c->layers[i] > pass->layer || !last_below) continue;
            CHECK(v->sets == w->p->sets, "%s: %d sets", w->config, v->sets);
            for (int set = 0; set < v->sets; set++)
                compare_set(w, v->idx + (r * v->sets + set) * v->stride, v->count[r], step, i, set);
        }
    return 0;
}

/* Runs CONFIG by the engine, in blocks of the given rows, and by definition. P holds the prefill.
 */
static void agrees(struct plain *p, const int *ids, const char *text, const int *blocks)
{
    const struct model *m = p->m;
    const size_t V = (size_t)m->config.V;
    struct run_config config;
    const float *logits;
    if (run_config_parse(&config, "config", text)) {
        CHECK(false, "%s: %s", text, last_failure());
        return;
    }
    p->config = &config;
    p->sets = config.pool == POOL_ALL ? 1 : config.pool == POOL_GROUP ? m->config.G : m->config.H;
    free(p->chosen);
    p->chosen = xcalloc((size_t)(STEPS * (config.n_layers + 1) * p->sets), sizeof *p->chosen);
    for (int pos = PREFILL; pos < TOKENS; pos++) plain_token(p, pos, ids[pos]);

    const double deviation = deviation_of(p->logits, STEPS * V);
    struct method *method = method_open(&config, m);
    struct watch w = {.p = p, .method = method, .config = text};
    w.hooks = (struct hooks){.ctx = &w, .after = compare_selection};
    struct session *s = session_open(m, &(struct session_plan){.room = TOKENS,
                                                               .keep_queries = method->keep_queries,
                                                               .extrapolate = false});
    CHECK(prefill(s, ids, PREFILL, NULL, NULL, &logits) == 0 && method_begin(method, s) == 0,
          "%s: %s", text, last_failure());
    for (int step = 0, b = 0; step < STEPS; b++) {
        const int n = STEPS - step < blocks[b % 4] ? STEPS - step : blocks[b % 4];
        double worst = 0;
        CHECK(forward(s, ids + PREFILL + step, n, false, &method->hooks,
                      config.method == METHOD_OMNIKV ? &w.hooks : NULL, LOGITS_ALL, &logits) == 0,
              "%s: %s", text, last_failure());
        for (size_t i = 0; i < (size_t)n * V; i++) {
            const double off = fabs((double)logits[i] - p->logits[(size_t)step * V + i]);
            if (!(off <= worst)) worst = off;
        }
        CHECK(worst <= CLOSE * deviation, "%s: steps %d to %d: logits off by %.2e", text, step,
              step + n - 1, worst / deviation);
        step += n;
    }
    CHECK(w.compared == STEPS * config.n_layers, "%s: %d selections seen", text, w.compared);
    session_close(s);
    method_close(method);
    run_config_free(&config);
}

static void omnikv_and_window_are_as_defined(void)
{
    static const char *const selectors[] = {"last", "softmax_before_last", "uniform", "exp"};
    static const char *const pools[] = {"all", "group", "none"};
    static const char *const layers[] = {"0", "2", "1,4", "0,3,6", "1,2,7", "[0, 1, 2, 3]"};
    static const char *const budgets[] = {"9", "0.21", "24", "0.9", "1000", "13"};
    static const int blocks[][4] = {{1, 1, 1, 1}, {STEPS, 1, 1, 1}, {3, 9, 1, 8}, {2, 7, 12, 1}};
    static const char *const windows[] = {
        "\"num_sink_tokens\": 4, \"sink_window_length\": 20",
        "\"num_sink_tokens\": 0, \"sink_window_length\": 5",
        "\"num_sink_tokens\": 3, \"sink_window_length\": 0",
        "\"num_sink_tokens\": 50, \"sink_window_length\": 50",
    };
    struct model m;
    struct plain p;
    struct rng r;
    int ids[TOKENS];
    if (!deep_model(&m)) return;
    rng_seed(&r, 11);
    for (int i = 0; i < TOKENS; i++) ids[i] = (int)rng_below(&r, 90);
    plain_open(&p, &m);
    for (int pos = 0; pos < PREFILL; pos++) plain_token(&p, pos, ids[pos]);

    for (int i = 0; i < 4 * 3 * 2 * 2; i++) {
        const char *layer = layers[rng_below(&r, 6)], *q = layer[0] == '[' ? "" : "\"";
        char *text = xprintf(
            "{\"model_cls\": \"multi\", \"selector_cls\": \"%s\", \"pool\": \"%s\", "
            "\"candidates\": \"%s\", \"do_select_layers\": %s%s%s, \"num_wait_load_layers\": %u, "
            "\"num_of_selected_tokens\": %s, \"window_size\": %u, \"refresh\": %u, "
            "\"sinks\": %u, \"recent\": %u}",
            selectors[i % 4], pools[i / 4 % 3], i / 12 % 2 ? "all" : "prefill", q, layer, q,
            rng_below(&r, 3), budgets[rng_below(&r, 6)], 1 + rng_below(&r, 20),
            1 + rng_below(&r, 2) * rng_below(&r, 5), i / 24 ? rng_below(&r, 5) : 0,
            i / 24 ? rng_below(&r, 4) : 0);
        agrees(&p, ids, text, blocks[rng_below(&r, 4)]);
        free(text);
    }
    for (size_t i = 0; i < COUNT_OF(windows); i++) {
        char *text =
            xprintf("{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, %s}", windows[i]);
        agrees(&p, ids, text, blocks[i % COUNT_OF(blocks)]);
        free(text);
    }
    plain_close(&p);
    model_close(&m);
}

/* ---- edges */

/* Decodes ids[PREFILL, TOKENS) under TEXT; the nll of each. */
static void walk_tokens(const struct model *m, const int *ids, const char *text, float *nll)
{
    struct run_config config;
    const float *logits;
    int best[TOKENS];
    float all[TOKENS] = {0}, *first = xmalloc((size_t)m->config.V * sizeof *first);
    CHECK(run_config_parse(&config, "config", text) == 0, "%s", last_failure());
    struct method *method = method_open(&config, m);
    struct session *s = session_open(m, &(struct session_plan){.room = TOKENS,
                                                               .keep_queries = method->keep_queries,
                                                               .extrapolate = false});
    CHECK(prefill(s, ids, PREFILL, NULL, NULL, &logits) == 0, "%s", last_failure());
    memcpy(first, logits, (size_t)m->config.V * sizeof *first);
    CHECK(decode_known(s, method, NULL, ids, PREFILL, TOKENS, first, best, all) == 0, "%s: %s",
          text, last_failure());
    memcpy(nll, all + PREFILL, STEPS * sizeof *nll);
    session_close(s);
    method_close(method);
    run_config_free(&config);
    free(first);
}

static void a_budget_for_everything_is_dense(void)
{
    static const char *const covering[] = {
        "{\"model_cls\": \"multi\", \"do_select_layers\": \"0,3\", \"num_of_selected_tokens\": 61}",
        "{\"model_cls\": \"multi\", \"do_select_layers\": \"0\", \"num_of_selected_tokens\": 1e6,"
        " \"selector_cls\": \"uniform\", \"pool\": \"none\", \"num_wait_load_layers\": 0}",
        "{\"model_cls\": \"multi\", \"do_select_layers\": \"0\", \"num_of_selected_tokens\": 2000,"
        " \"candidates\": \"all\", \"pool\": \"group\"}",
        "{\"model_cls\": \"multi\", \"do_select_layers\": \"7\", \"num_of_selected_tokens\": 1}",
        "{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 100}",
    };
    struct model m;
    int ids[TOKENS];
    float dense[STEPS], other[STEPS];
    if (!deep_model(&m)) return;
    for (int i = 0; i < TOKENS; i++) ids[i] = i * 7919 % 90;
    walk_tokens(&m, ids, "{\"model_cls\": \"raw_llama\"}", dense);
    for (size_t i = 0; i < COUNT_OF(covering); i++) {
        double worst = 0;
        walk_tokens(&m, ids, covering[i], other);
        for (int t = 0; t < STEPS; t++) worst = fmax(worst, fabs((double)other[t] - dense[t]));
        CHECK(worst <= CLOSE, "%s: nll off by %.2e", covering[i], worst);
    }
    model_close(&m);
}

static void refusals(void)
{
    struct model m;
    struct run_config config;
    const float *logits;
    const int ids[8] = {0};
    if (!deep_model(&m)) return;
    const bool muted = mute_failures(true);
    CHECK(run_config_parse(&config, "config",
                           "{\"model_cls\": \"multi\", \"do_select_layers\": \"2,8\"}") == 0,
          "%s", last_failure());
    CHECK(method_open(&config, &m) == NULL && strstr(last_failure(), "8") &&
              strstr(last_failure(), "do_select_layers"),
          "a layer past the last: %s", last_failure());
    run_config_free(&config);
    CHECK(run_config_parse(&config, "config",
                           "{\"model_cls\": \"multi\", \"do_select_layers\": \"2\", "
                           "\"num_of_selected_tokens\": 0.1}") == 0,
          "%s", last_failure());
    struct method *method = method_open(&config, &m);
    struct session *s = session_open(
        &m, &(struct session_plan){.room = 64, .keep_queries = 0, .extrapolate = false});
    CHECK(prefill(s, ids, 8, NULL, NULL, &logits) == 0 && method_begin(method, s) == -1 &&
              strstr(last_failure(), "0.1"),
          "a budget of nothing: %s", last_failure());
    session_close(s);
    method_close(method);
    run_config_free(&config);
    mute_failures(muted);
    model_close(&m);
}

/* ---- the suite */

static const struct {
    const char *name, *text; /* as in suite_scores.json */
} runs[] = {
    {"dense", "{\"model_cls\": \"raw_llama\"}"},
    {"omnikv filters=[3, 6, 9] wait=1 k=32 selector=last",
     "{\"model_cls\": \"multi\", \"do_select_layers\": \"3,6,9\", \"num_wait_load_layers\": 1,"
     " \"num_of_selected_tokens\": 32, \"selector_cls\": \"last\"}"},
    {"omnikv filters=[1, 4, 7] wait=1 k=32 selector=last",
     "{\"model_cls\": \"multi\", \"do_select_layers\": \"1,4,7\", \"num_wait_load_layers\": 1,"
     " \"num_of_selected_tokens\": 32, \"selector_cls\": \"last\"}"},
    {"omnikv filters=[2, 5, 8] wait=1 k=32 selector=last",
     "{\"model_cls\": \"multi\", \"do_select_layers\": \"2,5,8\", \"num_wait_load_layers\": 1,"
     " \"num_of_selected_tokens\": 32, \"selector_cls\": \"last\"}"},
    {"window k=32 (4 sinks)",
     "{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 4,"
     " \"sink_window_length\": 28}"},
};

/* Within one answer of the recorded scores: two float32 engines may part where two logits are
 * nearly equal. */
static void suite_scores_are_reached(void)
{
    struct model m;
    struct run_config config[COUNT_OF(runs)];
    struct method *method[COUNT_OF(runs)];
    struct tally tally[COUNT_OF(runs)][8] = {{{0}}};
    cJSON *scores = json_load("tests/data/golden/suite_scores.json");
    struct suite *suite = suite_load("tests/data/golden/suite.jsonl", 2048);
    if (scores == NULL || suite == NULL ||
        model_open(&m, "configs/demo/pocket-llama", NULL, "cpu")) {
        CHECK(false, "%s", last_failure());
        return;
    }
    const size_t V = (size_t)m.config.V;
    float *first = xmalloc(V * sizeof *first);
    for (size_t k = 0; k < COUNT_OF(runs); k++) {
        CHECK(run_config_parse(&config[k], runs[k].name, runs[k].text) == 0, "%s", last_failure());
        method[k] = method_open(&config[k], &m);
    }
    for (int i = 0; i < suite->n; i++) {
        const struct suite_line *l = &suite->line[i];
        const float *logits;
        int *best = xcalloc((size_t)l->n, sizeof *best);
        float *nll = xcalloc((size_t)l->n, sizeof *nll);
        struct session *s = session_open(
            &m, &(struct session_plan){.room = l->n, .keep_queries = 0, .extrapolate = false});
        CHECK(prefill(s, l->ids, l->n_prefill, NULL, NULL, &logits) == 0, "%s", last_failure());
        memcpy(first, logits, V * sizeof *first);
        for (size_t k = 0; k < COUNT_OF(runs); k++) { /* one prefill serves all */
            session_rewind(s, l->n_prefill);
            CHECK(decode_known(s, method[k], NULL, l->ids, l->n_prefill, l->n, first, best, nll) ==
                      0,
                  "%s", last_failure());
            tally_tokens(&tally[k][suite_task(suite, l->task)], l, best, nll);
        }
        session_close(s);
        free(best);
        free(nll);
    }
    for (size_t k = 0; k < COUNT_OF(runs); k++) {
        for (int t = 0; t < suite->n_tasks; t++) {
            const cJSON *want = json_member(json_member(scores, runs[k].name), suite->task[t]);
            const int correct = cJSON_GetArrayItem(want, 0)->valueint;
            const int total = cJSON_GetArrayItem(want, 1)->valueint;
            CHECK(abs(tally[k][t].correct - correct) <= 1 && tally[k][t].total == total,
                  "%s: %s: %d of %d, want %d of %d", runs[k].name, suite->task[t],
                  tally[k][t].correct, tally[k][t].total, correct, total);
        }
        method_close(method[k]);
        run_config_free(&config[k]);
    }
    free(first);
    model_close(&m);
    suite_free(suite);
    cJSON_Delete(scores);
}

int main(void)
{
    set_program_name("test_method");
    full_layers_are_right();
    omnikv_and_window_are_as_defined();
    a_budget_for_everything_is_dense();
    refusals();
#ifdef __SANITIZE_ADDRESS__
    check_skip("suite", "minutes under the address sanitizer; the same code ran above");
    (void)suite_scores_are_reached;
#else
    suite_scores_are_reached();
#endif
    return check_report("test_method");
}
