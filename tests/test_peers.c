/* test_peers.c - H2O, Quest and TidalDecode: whole runs against slow definitions. */
#include "core/base/base.h"
#include "core/method/decode.h"
#include "tests/check.h"
#include "tests/runs.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE 1e-4 /* of the logits' deviation: float32 rounding through a few layers */

/* ---- a decoder in plain loops, one token at a time: who sees what is spelled out */

enum { PREFILL = 61, STEPS = 23, TOKENS = PREFILL + STEPS, ROOM = 128, L = 8, H = 6, G = 2, R = 3 };

struct plain {
    const struct model *m;
    const struct run_config *config;
    struct kv_layer kv[L];
    float *cosine, *sine;
    float *logits; /* [STEPS, V] after each step */

    double prefill_sums[L][H][PREFILL];
    double sums[L][H][TOKENS];      /* of attention weights */
    bool there[L][G][TOKENS];       /* not evicted */
    bool seen[L][STEPS][G][TOKENS]; /* of the context, by a step: what a method lists */
};

static double product(const struct plain *p, const float *q, int layer, int h, int t)
{
    const int P = padded_width(p->m->config.D), D = p->m->config.D;
    const float *k = p->kv[layer].k + (size_t)(h / R * ROOM + t) * (size_t)P;
    double dot = 0;
    for (int d = 0; d < D; d++) dot += (double)q[h * P + d] * k[d];
    return dot / sqrt(D);
}

/* A budget below 1 is a share of the prompt. */
static int tokens_of(double budget)
{
    const double tokens = budget < 1 ? floor(budget * PREFILL) : budget;
    return tokens < PREFILL ? (int)tokens : PREFILL;
}

/* Takes all but the best COUNT of the candidates IN [0, n) out, scored by SCORE. */
static void keep_best(bool *in, const double *score, int n, int count)
{
    bool best[TOKENS] = {false};
    for (; count > 0; count--) {
        int at = -1;
        for (int t = 0; t < n; t++)
            if (in[t] && !best[t] && (at < 0 || score[t] > score[at])) at = t;
        if (at >= 0) best[at] = true;
    }
    for (int t = 0; t < n; t++) in[t] = best[t];
}

/* Evicts from what is there of the first N positions. */
static void evict(struct plain *p, int layer, int n)
{
    const int heavy = tokens_of(p->config->heavy), recent = tokens_of(p->config->heavy_recent);
    for (int g = 0; g < G; g++) {
        bool *in = p->there[layer][g];
        double score[TOKENS] = {0};
        int have = 0, border = n;
        for (int t = 0; t < n; t++) have += in[t];
        if (have <= heavy + recent) continue;
        for (int left = recent; left > 0;) left -= in[--border];
        for (int t = 0; t < border; t++)
            for (int h = g * R; h < (g + 1) * R; h++)
                score[t] = fmax(score[t], p->sums[layer][h][t]);
        keep_best(in, score, border, heavy);
    }
}

/* After the query at POS has given its weights. */
static void h2o_after(struct plain *p, int layer, int pos)
{
    const struct run_config *c = p->config;
    const int n = pos + 1;
    if (n < PREFILL && (c->skip_prefill || n % c->segment)) return;
    if (n == PREFILL && c->first_step_dense) return;
    if (n > PREFILL && !c->evict_steps) return;
    evict(p, layer, n);
}

/* The pages of the step at POS. */
static void quest_before(struct plain *p, const float *q, int layer, int pos)
{
    const int size = p->config->page_size, pages = PREFILL / size, D = p->m->config.D;
    const int P = padded_width(D), best = tokens_of(p->config->budget) / size;
    for (int g = 0; g < G; g++) {
        bool in[TOKENS], *seen = p->seen[layer][pos - PREFILL][g];
        double score[TOKENS];
        for (int i = 0; i < pages; i++) {
            in[i] = true;
            score[i] = -INFINITY;
            for (int h = g * R; h < (g + 1) * R; h++) {
                double bound = 0;
                for (int d = 0; d < D; d++) {
                    double most = -INFINITY;
                    for (int t = i * size; t < (i + 1) * size; t++)
                        most = fmax(
                            most,
                            (double)q[h * P + d] *
                                p->kv[layer].k[(size_t)(g * ROOM + t) * (size_t)P + (size_t)d]);
                    bound += most;
                }
                score[i] = fmax(score[i], bound);
            }
        }
        keep_best(in, score, pages, best);
        for (int t = 0; t < pages * size; t++) seen[t] = in[t / size];
    }
}

/* The tokens the next layers of the step at POS see. */
static void tidal_after(struct plain *p, const float *q, int layer, int pos)
{
    const struct run_config *c = p->config;
    const int n = c->candidates_all ? pos : PREFILL;
    for (int g = 0; g < G; g++) {
        bool *seen = p->seen[layer][pos - PREFILL][g];
        double score[TOKENS];
        for (int t = 0; t < n; t++) {
            seen[t] = true;
            score[t] = -INFINITY;
            for (int h = g * R; h < (g + 1) * R; h++)
                score[t] = fmax(score[t], product(p, q, layer, h, t));
        }
        keep_best(seen, score, n, c->budget < 1 ? tokens_of(c->budget) : (int)c->budget);
    }
}

/* Whether kv head K of the token at POS sees position T at LAYER. */
static bool sees(const struct plain *p, int layer, int pos, int g, int t)
{
    const struct run_config *c = p->config;
    const int step = pos - PREFILL;
    int from = layer, after = PREFILL;
    if (t == pos) return true;
    if (c->method == METHOD_H2O) return p->there[layer][g][t];
    if (step < 0) return true;
    if (layer < c->dense_layers) return true;
    if (c->method == METHOD_TIDAL) {
        if (layer == c->dense_layers || layer == c->correction_layer) return true;
        from = layer > c->correction_layer ? c->correction_layer : c->dense_layers;
        if (c->candidates_all) after = pos;
    } else {
        after = PREFILL / c->page_size * c->page_size;
    }
    return t >= after || p->seen[from][step][g][t];
}

static void plain_attend(struct plain *p, float *out, const float *q, int layer, int pos)
{
    const int D = p->m->config.D, P = padded_width(D);
    for (int h = 0; h < H; h++) {
        const float *v = p->kv[layer].v + (size_t)(h / R) * ROOM * (size_t)P;
        double weight[TOKENS], sum = 0;
        for (int t = 0; t <= pos; t++)
            sum += weight[t] = sees(p, layer, pos, h / R, t) ? exp(product(p, q, layer, h, t)) : 0;
        for (int d = 0; d < D; d++) {
            double o = 0;
            for (int t = 0; t <= pos; t++) o += weight[t] / sum * v[t * P + d];
            out[h * D + d] = (float)o;
        }
        for (int t = 0; t <= pos; t++) p->sums[layer][h][t] += weight[t] / sum;
    }
}

static void plain_token(struct plain *p, int pos, int token)
{
    const struct model_config *c = &p->m->config;
    const struct ops *ops = ops_reference();
    const struct rope_table rope = {p->cosine, p->sine};
    const size_t P = (size_t)padded_width(c->D);
    float *x = xmalloc(((size_t)(c->E + H * c->D) + H * P) * sizeof *x);
    float *attention = x + c->E, *q = attention + H * c->D;
    ops->embed(x, &p->m->weights->embed, &token, 1);
    for (int l = 0; l < L; l++) {
        const struct layer_weights *w = &p->m->weights->layer[l];
        ops->attn_in(q, &p->kv[l], x, 1, pos, w, c, rope, NULL);
        const int step = pos - PREFILL;
        for (int g = 0; g < G; g++) {
            if (p->config->method == METHOD_H2O && step >= 0) /* what it lists: not itself */
                memcpy(p->seen[l][step][g], p->there[l][g], sizeof p->there[l][g]);
            p->there[l][g][pos] = true;
        }
        if (p->config->method == METHOD_QUEST && step >= 0) quest_before(p, q, l, pos);
        plain_attend(p, attention, q, l, pos);
        if (p->config->method == METHOD_TIDAL && step >= 0) tidal_after(p, q, l, pos);
        if (p->config->method == METHOD_H2O) h2o_after(p, l, pos);
        ops->attn_out(x, NULL, NULL, attention, 1, w, c, NULL);
        ops->mlp(x, 1, w, c, NULL);
    }
    if (pos >= PREFILL)
        ops->head(p->logits + (size_t)(pos - PREFILL) * (size_t)c->V, x, 1, p->m->weights, c, NULL);
    free(x);
}

static struct plain *plain_run(const struct model *m, const struct run_config *config,
                               const int *ids)
{
    const struct model_config *c = &m->config;
    const size_t P = (size_t)padded_width(c->D), half = (size_t)c->D / 2;
    struct plain *p = xcalloc(1, sizeof *p);
    float scale, *freq = xmalloc(half * sizeof *freq);
    p->m = m;
    p->config = config;
    for (int l = 0; l < L; l++)
        p->kv[l] = (struct kv_layer){.k = xcalloc(G * ROOM * P, sizeof(float)),
                                     .v = xcalloc(G * ROOM * P, sizeof(float)),
                                     .room = ROOM};
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
    for (int pos = 0; pos < TOKENS; pos++) {
        for (int i = 0; pos == PREFILL && i < L * H; i++)
            memcpy(p->prefill_sums[i / H][i % H], p->sums[i / H][i % H], sizeof **p->prefill_sums);
        plain_token(p, pos, ids[pos]);
    }
    return p;
}

static void plain_free(struct plain *p)
{
    for (int l = 0; l < L; l++) {
        free(p->kv[l].k);
        free(p->kv[l].v);
    }
    free(p->cosine);
    free(p->sine);
    free(p->logits);
    free(p);
}

/* ---- the engine against it */

struct watch {
    const struct plain *p;
    const struct method *method;
    const char *text;
    int compared;
    float columns[L][H][PREFILL]; /* as a trace asks for them */
};

static void want_columns(void *ctx, struct layer_pass *pass)
{
    struct watch *w = ctx;
    if (pass->prefill) pass->columns = w->columns[pass->layer][0];
    pass->columns_span = PREFILL;
}

static void compare_columns(const struct watch *w)
{
    double worst = 0;
    for (int i = 0; i < L * H * PREFILL; i++) {
        const double want = (&w->p->prefill_sums[0][0][0])[i];
        worst = fmax(worst, fabs((&w->columns[0][0][0])[i] - want) / (1 + want));
    }
    CHECK(worst <= 1e-5, "%s: sums of a prefill off by %.2e", w->text, worst);
}

/* What a layer selected, as a trace asks for it. */
static int compare_selection(void *ctx, const struct layer_pass *pass)
{
    struct watch *w = ctx;
    const struct method *m = w->method;
    for (int i = 0; i < m->M && !pass->prefill; i++) {
        if (m->layers[i] != pass->layer) continue;
        for (int r = 0; r < pass->n; r++) {
            const int step = pass->pos0 + r - PREFILL;
            int count;
            const int *idx = m->selection(m, i, r, &count);
            CHECK(m->sets == G && count <= m->stride && count * G <= m->selection_size(m, PREFILL),
                  "%s: %d sets of %d, %d apart, %d announced", w->text, m->sets, count, m->stride,
                  m->selection_size(m, PREFILL));
            if (m->config->first_step_dense && step == 0) {
                CHECK(count == 0, "%s: %d listed", w->text, count);
                continue;
            }
            for (int g = 0; g < G; g++, idx += m->stride) {
                const bool *in = w->p->seen[pass->layer][step][g];
                const int end =
                    m->config->evict_steps || m->config->candidates_all ? PREFILL + step : PREFILL;
                int right = 0, want = 0;
                for (int t = 0; t < end; t++) want += in[t];
                for (int k = 0; k < count; k++)
                    right += idx[k] >= 0 && idx[k] < end && in[idx[k]] &&
                             (k == 0 || idx[k] > idx[k - 1]);
                CHECK(right == count && count == want,
                      "%s: layer %d step %d head %d: %d of %d are right, want %d", w->text,
                      pass->layer, step, g, right, count, want);
                w->compared++;
            }
        }
    }
    return 0;
}

/* Runs TEXT by the engine, in blocks of the given rows, and by definition. */
static void agrees(struct model *m, const int *ids, const char *text, const int *blocks)
{
    const struct ops *const backends[] = {m->ops, ops_reference()};
    const size_t V = (size_t)m->config.V;
    struct run_config config;
    const float *logits;
    if (run_config_parse(&config, "config", text)) {
        CHECK(false, "%s: %s", text, last_failure());
        return;
    }
    struct plain *p = plain_run(m, &config, ids);
    const double deviation = deviation_of(p->logits, STEPS * V);
    for (size_t i = 0; i < COUNT_OF(backends); i++) {
        m->ops = backends[i];
        struct method *method = method_open(&config, m);
        struct watch w = {.p = p, .method = method, .text = text};
        const struct hooks tap = {.ctx = &w, .before = want_columns, .after = compare_selection};
        struct session *s = session_open(m, &(struct session_plan){.room = TOKENS});
        CHECK(method_prefill(method, s, ids, PREFILL, &tap, &logits) == 0 &&
                  method_begin(method, s) == 0,
              "%s: %s", text, last_failure());
        compare_columns(&w);
        for (int step = 0, b = 0; step < STEPS; b++) {
            const int block = method->one_by_one ? 1 : blocks[b % 4];
            const int n = STEPS - step < block ? STEPS - step : block;
            double worst = 0;
            const bool ok = forward(s, ids + PREFILL + step, n, false, &method->hooks, &tap,
                                    LOGITS_ALL, &logits) == 0;
            CHECK(ok, "%s: %s", text, last_failure());
            for (size_t j = 0; ok && j < (size_t)n * V; j++) {
                const double off = fabs((double)logits[j] - p->logits[(size_t)step * V + j]);
                if (!(off <= worst)) worst = off;
            }
            CHECK(worst <= CLOSE * deviation, "%s, %s: steps %d to %d: logits off by %.2e",
                  m->ops->name, text, step, step + n - 1, worst / deviation);
            step += n;
        }
        CHECK(w.compared >= (STEPS - 1) * G * method->M, "%s: %d selections seen", text,
              w.compared);
        session_close(s);
        method_close(method);
    }
    m->ops = backends[0];
    plain_free(p);
    run_config_free(&config);
}

static void methods_are_as_defined(void)
{
    static const char *const texts[] = {
        "\"h2o\", \"hh_size\": 8, \"recent_size\": 8",
        "\"h2o\", \"hh_size\": 0, \"recent_size\": 5",
        "\"h2o\", \"hh_size\": 7, \"recent_size\": 0",
        "\"h2o\", \"hh_size\": 9, \"recent_size\": 1000",
        "\"h2o\", \"hh_ratio\": 0.15, \"recent_ratio\": 0.15",
        "\"h2o\", \"hh_ratio\": 0.3, \"recent_ratio\": 0",
        "\"h2o\", \"hh_ratio\": 0, \"recent_ratio\": 0.2",
        "\"h2o\", \"hh_ratio\": 0.15, \"recent_ratio\": 0.15, \"first_step_dense\": true",
        "\"h2o\", \"hh_ratio\": 0.6, \"recent_ratio\": 0.6, \"first_step_dense\": true",
        "\"h2o\", \"hh_ratio\": 0.6, \"recent_ratio\": 0.6",
        "\"h2o\", \"hh_ratio\": 0.2, \"recent_ratio\": 0.1, \"evict\": \"prefill\"",
        "\"h2o\", \"hh_size\": 6, \"recent_size\": 10, \"evict\": \"step\"",
        "\"h2o\", \"hh_size\": 8, \"recent_size\": 8, \"skip_prefill\": false, \"seg_size\": 7",
        "\"h2o\", \"hh_size\": 8, \"recent_size\": 4, \"skip_prefill\": false, \"seg_size\": 1",
        "\"h2o\", \"hh_size\": 3, \"recent_size\": 8, \"skip_prefill\": false, \"seg_size\": 20,"
        " \"evict\": \"step\"",
        "\"h2o\", \"hh_ratio\": 0.2, \"recent_ratio\": 0.2, \"skip_prefill\": false,"
        " \"seg_size\": 60",
        "\"h2o\", \"hh_ratio\": 0.5, \"recent_ratio\": 0.2, \"skip_prefill\": false,"
        " \"seg_size\": 9, \"evict\": \"prefill\"",
        "\"h2o\", \"hh_size\": 8, \"recent_size\": 8, \"skip_prefill\": false, \"seg_size\": 500",
        "\"quest\", \"num_of_selected_tokens\": 16, \"page_size\": 4",
        "\"quest\", \"num_of_selected_tokens\": 16, \"page_size\": 16",
        "\"quest\", \"num_of_selected_tokens\": 0.4, \"page_size\": 5, \"dense_layers\": 0",
        "\"quest\", \"num_of_selected_tokens\": 11, \"page_size\": 1, \"dense_layers\": 3",
        "\"quest\", \"num_of_selected_tokens\": 4096, \"page_size\": 8",
        "\"quest\", \"num_of_selected_tokens\": 30, \"page_size\": 7, \"dense_layers\": 8",
        "\"tidal\", \"num_of_selected_tokens\": 12, \"correction_layer\": 5",
        "\"tidal\", \"num_of_selected_tokens\": 0.3, \"correction_layer\": 3, \"dense_layers\": 0",
        "\"tidal\", \"num_of_selected_tokens\": 9, \"correction_layer\": 7",
        "\"tidal\", \"num_of_selected_tokens\": 9, \"correction_layer\": 4,"
        " \"candidates\": \"all\"",
    };
    static const int blocks[][4] = {{1, 1, 1, 1}, {STEPS, 1, 1, 1}, {3, 9, 1, 8}, {2, 7, 12, 1}};
    struct model m;
    struct rng r;
    int ids[TOKENS];
    if (!deep_model(&m)) return;
    rng_seed(&r, 12);
    for (int i = 0; i < TOKENS; i++) ids[i] = (int)rng_below(&r, 90);
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        char *text = xprintf("{\"model_cls\": %s}", texts[i]);
        agrees(&m, ids, text, blocks[i % COUNT_OF(blocks)]);
        free(text);
    }
    model_close(&m);
}

/* ---- edges */

/* Prefills and decodes under TEXT; the nll of each decoded token. False after fail(). */
static bool walk_tokens(const struct model *m, const int *ids, int n, int from, const char *text,
                        float *nll)
{
    struct run_config config;
    const float *logits;
    int *best = xcalloc((size_t)n, sizeof *best);
    float *all = xcalloc((size_t)n, sizeof *all);
    float *first = xmalloc((size_t)m->config.V * sizeof *first);
    bool ok = run_config_parse(&config, "config", text) == 0;
    CHECK(ok, "%s", last_failure());
    struct method *method = method_open(&config, m);
    struct session *s = session_open(m, &(struct session_plan){.room = n});
    ok = method && s && method_prefill(method, s, ids, from, NULL, &logits) == 0;
    if (ok) memcpy(first, logits, (size_t)m->config.V * sizeof *first);
    ok = ok && decode_known(s, method, NULL, ids, from, n, first, best, all) == 0;
    if (ok) memcpy(nll, all + from, (size_t)(n - from) * sizeof *nll);
    session_close(s);
    method_close(method);
    run_config_free(&config);
    free(best);
    free(all);
    free(first);
    return ok;
}

static void a_budget_for_everything_is_dense(void)
{
    static const char *const covering[] = {
        "{\"model_cls\": \"h2o\", \"hh_size\": 61, \"recent_size\": 0}",
        "{\"model_cls\": \"h2o\", \"hh_size\": 0, \"recent_size\": 1000}",
        "{\"model_cls\": \"h2o\", \"hh_size\": 70, \"recent_size\": 70, \"evict\": \"step\"}",
        "{\"model_cls\": \"h2o\", \"hh_size\": 31, \"recent_size\": 30, \"skip_prefill\": false,"
        " \"seg_size\": 10}",
        "{\"model_cls\": \"quest\", \"num_of_selected_tokens\": 61, \"page_size\": 61}",
        "{\"model_cls\": \"quest\", \"num_of_selected_tokens\": 0.1, \"page_size\": 62}",
        "{\"model_cls\": \"quest\", \"num_of_selected_tokens\": 4096}",
        "{\"model_cls\": \"tidal\", \"num_of_selected_tokens\": 61, \"correction_layer\": 5}",
    };
    struct model m;
    int ids[TOKENS];
    float dense[STEPS], other[STEPS];
    if (!deep_model(&m)) return;
    for (int i = 0; i < TOKENS; i++) ids[i] = i * 7919 % 90;
    CHECK(walk_tokens(&m, ids, TOKENS, PREFILL, "{\"model_cls\": \"raw_llama\"}", dense), "%s",
          last_failure());
    for (size_t i = 0; i < COUNT_OF(covering); i++) {
        double worst = 0;
        CHECK(walk_tokens(&m, ids, TOKENS, PREFILL, covering[i], other), "%s", last_failure());
        for (int t = 0; t < STEPS; t++) worst = fmax(worst, fabs((double)other[t] - dense[t]));
        CHECK(worst <= CLOSE, "%s: nll off by %.2e", covering[i], worst);
    }
    model_close(&m);
}

/* Segments cross the passes of a prefill: how long those are, and how many cores, does not matter.
 */
static void segments_do_not_depend_on_passes(void)
{
    enum { LONG = 1000, TAIL = 4 };
    static const char *const texts[] = {
        "{\"model_cls\": \"h2o\", \"hh_size\": 20, \"recent_size\": 20, \"skip_prefill\": false,"
        " \"seg_size\": 500}",
        "{\"model_cls\": \"h2o\", \"hh_size\": 500, \"recent_size\": 450, \"skip_prefill\": false,"
        " \"seg_size\": 100}",
    };
    struct model m;
    int ids[LONG + TAIL];
    float nll[2][TAIL];
    if (!deep_model(&m)) return;
    m.config.max_position = 4096;
    for (int i = 0; i < LONG + TAIL; i++) ids[i] = i * 7919 % 90;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct ops small = *m.ops;
        const struct ops *whole = m.ops;
        CHECK(walk_tokens(&m, ids, LONG + TAIL, LONG, texts[i], nll[0]), "%s", last_failure());
        small.prefill_rows = 77;
        m.ops = &small;
        omp_set_num_threads(i == 0 ? 2 : 1);
        CHECK(walk_tokens(&m, ids, LONG + TAIL, LONG, texts[i], nll[1]), "%s", last_failure());
        m.ops = whole;
        omp_set_num_threads(1);
        for (int t = 0; t < TAIL; t++)
            CHECK(fabs((double)nll[0][t] - nll[1][t]) <= CLOSE, "%s: nll %g, %g", texts[i],
                  nll[0][t], nll[1][t]);
    }
    model_close(&m);
}

/* ---- a backend that records steps: this one runs them all */

static struct {
    int asked, kept;
    bool recording;
} steps;

static bool no_replay(struct step_graph *g)
{
    steps.asked++;
    steps.recording = g->warm;
    return false;
}

static void was_recorded(struct step_graph *g, bool failed)
{
    g->warm = !failed;
    steps.recording = false;
}

static void free_graph(struct step_graph *g)
{
    *g = (struct step_graph){0};
}

static void count_keep(struct heavy *h, int n, const struct model_config *c)
{
    CHECK(!steps.recording, "the choice after %d tokens is recorded", n);
    steps.kept++;
    heavy_keep(h, n, c);
}

/* A dense first step is not taken for the steps after it, and the choice that follows it belongs to
 * no step that comes again; also where a session has decoded another prompt before. */
static void a_dense_first_step_is_not_recorded(void)
{
    struct model m;
    struct run_config config;
    const float *logits;
    int ids[TOKENS] = {0};
    if (!deep_model(&m)) return;
    struct ops recording = *m.ops;
    recording.replay = no_replay;
    recording.recorded = was_recorded;
    recording.graph_free = free_graph;
    recording.heavy_keep = count_keep;
    m.ops = &recording;
    CHECK(run_config_parse(&config, "config",
                           "{\"model_cls\": \"h2o\", \"hh_ratio\": 0.2, \"recent_ratio\": 0.2,"
                           " \"first_step_dense\": true}") == 0,
          "%s", last_failure());
    struct method *method = method_open(&config, &m);
    struct session *s = session_open(&m, &(struct session_plan){.room = TOKENS});
    for (int round = 0; round < 2; round++) {
        steps.asked = steps.kept = 0;
        CHECK(method_prefill(method, s, ids, PREFILL, NULL, &logits) == 0 &&
                  method_begin(method, s) == 0,
              "%s", last_failure());
        for (int step = 0; step < 4; step++) {
            CHECK(forward(s, ids, 1, false, &method->hooks, NULL, LOGITS_LAST, &logits) == 0, "%s",
                  last_failure());
            CHECK(steps.asked == step && steps.kept == (step > 0) * L,
                  "step %d: %d asked for, %d choices", step, steps.asked, steps.kept);
        }
    }
    session_close(s);
    method_close(method);
    run_config_free(&config);
    model_close(&m);
}

/* ---- what is refused, and a method used twice */

static void edges(void)
{
    struct model m;
    int ids[TOKENS] = {0};
    float nll[TOKENS];
    struct run_config config;
    const float *logits;
    if (!deep_model(&m)) return;
    const bool muted = mute_failures(true);
    CHECK(!walk_tokens(&m, ids, 20, 10,
                       "{\"model_cls\": \"quest\", \"num_of_selected_tokens\": 0.5,"
                       " \"page_size\": 8}",
                       nll) &&
              strstr(last_failure(), "0.5 of 10"),
          "less than a page: %s", last_failure());
    CHECK(!walk_tokens(&m, ids, 20, 10,
                       "{\"model_cls\": \"h2o\", \"hh_ratio\": 0.05, \"recent_ratio\": 0.05}",
                       nll) &&
              strstr(last_failure(), "keeps none"),
          "shares of nothing: %s", last_failure());
    CHECK(walk_tokens(&m, ids, 2, 1, "{\"model_cls\": \"h2o\", \"hh_size\": 1, \"recent_size\": 1}",
                      nll),
          "one token: %s", last_failure());

    /* sums serve one run of steps; synthetic contexts have none, and any number of runs */
    CHECK(run_config_parse(&config, "config",
                           "{\"model_cls\": \"h2o\", \"hh_size\": 4, \"recent_size\": 4,"
                           " \"evict\": \"step\"}") == 0,
          "%s", last_failure());
    struct method *method = method_open(&config, &m);
    struct session *s = session_open(&m, &(struct session_plan){.room = 40});
    CHECK(method_prefill(method, s, ids, 20, NULL, &logits) == 0 && method_begin(method, s) == 0 &&
              method_begin(method, s) == 0 &&
              forward(s, ids, 1, false, &method->hooks, NULL, LOGITS_LAST, &logits) == 0,
          "%s", last_failure());
    session_rewind(s, 20);
    CHECK(method_begin(method, s) == -1 && strstr(last_failure(), "prefill again"), "%s",
          last_failure());
    CHECK(method_prefill(method, s, ids, 12, NULL, &logits) == 0 && method_begin(method, s) == 0,
          "a prefill later: %s", last_failure());
    method_close(method);
    method = method_open(&config, &m);
    session_fill(s, 30, 1);
    for (int i = 0; i < 2; i++) {
        session_rewind(s, 30);
        CHECK(method_begin(method, s) == 0 &&
                  forward(s, ids, 1, false, &method->hooks, NULL, LOGITS_LAST, &logits) == 0,
              "synthetic: %s", last_failure());
    }
    session_rewind(s, 30); /* the same step again, as a bench traces it: no position comes twice */
    CHECK(forward(s, ids, 1, false, &method->hooks, NULL, LOGITS_LAST, &logits) == 0, "%s",
          last_failure());
    int count;
    const int *idx = method->selection(method, 0, 0, &count);
    for (int k = 1; k < count; k++) CHECK(idx[k] > idx[k - 1], "[%d] is %d", k, idx[k]);
    session_close(s);
    method_close(method);
    run_config_free(&config);
    mute_failures(muted);
    model_close(&m);
}

int main(void)
{
    set_program_name("test_peers");
    omp_set_num_threads(1); /* of models this small a core is done before another wakes up */
    methods_are_as_defined();
    a_budget_for_everything_is_dense();
    segments_do_not_depend_on_passes();
    a_dense_first_step_is_not_recorded();
    edges();
    return check_report("test_peers");
}
