/* test_far_method.c - infllm, streaming and infinite-lm as whole methods, against a slow definition
 * that ages tokens as the original does: prefill, steps, what traces are shown; and their edges.
 */
#include "core/base/base.h"
#include "core/method/decode.h"
#include "core/model/rope.h"
#include "tests/check.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE 1e-4 /* of the logits' deviation: float32 rounding through a few layers */

/* ---- a definition that ages tokens as they leave the window */

enum { PROMPT = 131, STEPS = 40, TOKENS = PROMPT + STEPS };

/* One layer of it: what has become of each token so far. */
struct aged {
    struct kv_layer kv;
    int inits;                   /* tokens that became first ones */
    int blocks, start;           /* blocks cut; where what is no block yet begins */
    double score[TOKENS * 8];    /* [T, H] weight received while in a window */
    double repr[TOKENS][8 * 16]; /* [blocks][H, D] */
    bool listed[TOKENS];         /* what the last row saw before its window */
};

struct plain {
    const struct model *m;
    const struct far_rule *rule;
    struct aged *layer;
    float *cosine, *sine, *freq;
    float *logits; /* [STEPS + 1, V] after the prompt and each step */
};

/* to [D] = X turned by FROM positions back and TO forth, in double. */
static void move(double *to, const float *x, const struct plain *p, double from, double by)
{
    const int half = p->m->config.D / 2;
    for (int d = 0; d < half; d++) {
        /* the angles of the engine's table are float32 */
        const double angle = (double)((float)by * p->freq[d]) - (double)((float)from * p->freq[d]);
        to[d] = x[d] * cos(angle) - x[d + half] * sin(angle);
        to[d + half] = x[d + half] * cos(angle) + x[d] * sin(angle);
    }
}

static const float *key_at(const struct plain *p, const struct aged *a, int h, int t)
{
    const struct model_config *c = &p->m->config;
    const int g = h / (c->H / c->G);
    return a->kv.k + ((size_t)g * (size_t)a->kv.room + (size_t)t) * (size_t)padded_width(c->D);
}

/* The blocks that the group of queries Q [n, H, P] from FIRST on sees. */
static void choose_blocks(const struct plain *p, const struct aged *a, const float *q, int n,
                          int first, bool *in)
{
    const struct model_config *c = &p->m->config;
    double score[TOKENS] = {0}, at[64];
    for (int b = 0; b < a->blocks; b++)
        for (int r = 0; r < n; r++)
            for (int h = 0; h < c->H; h++) {
                move(at, q + (size_t)(r * c->H + h) * (size_t)padded_width(c->D), p, first + r,
                     p->rule->n_local - 1);
                for (int d = 0; d < c->D; d++) score[b] += at[d] * a->repr[b][h * c->D + d] / n;
            }
    for (int left = p->rule->topk; left > 0; left--) {
        int best = -1;
        for (int b = 0; b < a->blocks; b++)
            if (!in[b] && (best < 0 || score[b] > score[best])) best = b;
        if (best >= 0) in[best] = true;
    }
}

/* One softmax over what the row at POS sees. */
static void attend_row(const struct plain *p, struct aged *a, float *out, const float *q, int pos,
                       const bool *in)
{
    const struct model_config *c = &p->m->config;
    const struct far_rule *rule = p->rule;
    const int P = padded_width(c->D);
    for (int h = 0; h < c->H; h++) {
        double weight[TOKENS] = {0}, sum = 0, far[64], key[64];
        const float *v = a->kv.v + (key_at(p, a, h, 0) - a->kv.k);
        move(far, q + h * P, p, pos, rule->n_local - 1 + (rule->turned ? rule->n_init : 0));
        for (int t = 0; t <= pos; t++) {
            const float *k = key_at(p, a, h, t);
            double dot = 0;
            a->listed[t] = false;
            if (pos - t < rule->n_local) {
                for (int d = 0; d < c->D; d++) dot += (double)q[h * P + d] * k[d];
            } else {
                const int b =
                    t < a->inits || t >= a->start ? -1 : (t - a->inits) / rule->block_size;
                if (rule->topk == 0 ? t >= rule->n_init : b >= 0 && !in[b]) continue;
                a->listed[t] = true;
                move(key, k, p, rule->turned ? 0 : t, 0);
                for (int d = 0; d < c->D; d++) dot += far[d] * key[d];
            }
            sum += weight[t] = exp(dot / sqrt(c->D));
        }
        for (int d = 0; d < c->D; d++) {
            double o = 0;
            for (int t = 0; t <= pos; t++) o += weight[t] / sum * v[t * P + d];
            out[h * c->D + d] = (float)o;
        }
        for (int t = 0; t <= pos; t++)
            if (pos - t < rule->n_local) a->score[t * c->H + h] += weight[t] / sum;
    }
}

/* What left the window of a query at END becomes first tokens, then blocks. */
static void age(const struct plain *p, struct aged *a, int end)
{
    const struct model_config *c = &p->m->config;
    const struct far_rule *rule = p->rule;
    if (rule->topk == 0) return;
    while (a->inits < rule->n_init && end - a->start > rule->n_local) a->inits = ++a->start;
    for (; end - a->start - rule->block_size >= rule->n_local; a->start += rule->block_size) {
        double *repr = a->repr[a->blocks++];
        for (int h = 0; h < c->H; h++) {
            bool taken[TOKENS] = {false};
            for (int i = 0; i < rule->repr_topk; i++) {
                int best = -1;
                double key[64];
                for (int t = a->start; t < a->start + rule->block_size; t++)
                    if (!taken[t] &&
                        (best < 0 || a->score[t * c->H + h] > a->score[best * c->H + h]))
                        best = t;
                taken[best] = true;
                move(key, key_at(p, a, h, best), p, best, 0);
                for (int d = 0; d < c->D; d++) repr[h * c->D + d] += key[d] / rule->repr_topk;
            }
        }
    }
}

/* The tokens at FIRST .., which choose together, through all layers. LOGITS after the last. */
static void plain_group(struct plain *p, const int *ids, int first, int n, float *logits)
{
    const struct model_config *c = &p->m->config;
    const struct ops *ops = ops_reference();
    const struct rope_table rope = {p->cosine, p->sine};
    const size_t E = (size_t)c->E, H = (size_t)c->H, P = (size_t)padded_width(c->D);
    float *x = xcalloc((size_t)n * (E + H * (P + (size_t)c->D)), sizeof *x);
    float *q = x + (size_t)n * E, *attention = q + (size_t)n * H * P;
    ops->embed(x, &p->m->weights->embed, ids + first, n);
    for (int l = 0; l < c->L; l++) {
        const struct layer_weights *w = &p->m->weights->layer[l];
        struct aged *a = &p->layer[l];
        bool in[TOKENS] = {false};
        ops->attn_in(q, &a->kv, x, n, first, w, c, rope, NULL);
        choose_blocks(p, a, q, n, first, in);
        for (int r = 0; r < n; r++)
            attend_row(p, a, attention + (size_t)r * H * (size_t)c->D, q + (size_t)r * H * P,
                       first + r, in);
        age(p, a, first + n);
        ops->attn_out(x, NULL, NULL, attention, n, w, c, NULL);
        ops->mlp(x, n, w, c, NULL);
    }
    if (logits) ops->head(logits, x + (size_t)(n - 1) * E, 1, p->m->weights, c, NULL);
    free(x);
}

static void plain_open(struct plain *p, const struct model *m, const struct far_rule *rule)
{
    const struct model_config *c = &m->config;
    const size_t P = (size_t)padded_width(c->D), half = (size_t)c->D / 2;
    float scale;
    *p = (struct plain){.m = m, .rule = rule};
    p->layer = xcalloc((size_t)c->L, sizeof *p->layer);
    for (int l = 0; l < c->L; l++)
        p->layer[l].kv =
            (struct kv_layer){xcalloc((size_t)c->G * TOKENS * P, sizeof(float)),
                              xcalloc((size_t)c->G * TOKENS * P, sizeof(float)), TOKENS, NULL};
    p->freq = xmalloc(half * sizeof *p->freq);
    p->cosine = xcalloc(2 * TOKENS * half, sizeof *p->cosine);
    p->sine = p->cosine + TOKENS * half;
    p->logits = xcalloc((STEPS + 1) * (size_t)c->V, sizeof *p->logits);
    rope_frequencies(c, PROMPT, p->freq, &scale);
    for (size_t i = 0; i < TOKENS * half; i++) {
        p->cosine[i] = cosf((float)(i / half) * p->freq[i % half]) * scale;
        p->sine[i] = sinf((float)(i / half) * p->freq[i % half]) * scale;
    }
}

static void plain_close(struct plain *p)
{
    for (int l = 0; l < p->m->config.L; l++) {
        free(p->layer[l].kv.k);
        free(p->layer[l].kv.v);
    }
    free(p->layer);
    free(p->freq);
    free(p->cosine);
    free(p->logits);
}

/* A tap of a step: what the engine shows must be what the definition saw. */
struct watch {
    struct hooks hooks;
    struct method *method;
    int seen;
    bool listed[8][TOKENS]; /* of the last step, by layer */
};

static void want_logits(void *ctx, struct layer_pass *p)
{
    (void)ctx;
    p->want_logits = !p->prefill;
}

static int look(void *ctx, const struct layer_pass *p)
{
    struct watch *w = ctx;
    if (p->prefill) return 0;
    const int length = view_length(&p->view, 0, p->pos0);
    memset(w->listed[p->layer], 0, sizeof w->listed[p->layer]);
    for (int i = 0; i < p->view.count[0]; i++) w->listed[p->layer][p->view.idx[i]] = true;
    for (int h = 0; h < w->method->model->config.H; h++) {
        double sum = 0;
        for (int i = 0; i < length; i++)
            sum += exp((double)p->logits[(size_t)h * p->span + (size_t)i] - p->lse[h]);
        CHECK(fabs(sum - 1) < 1e-5, "layer %d head %d: weights add up to %g", p->layer, h, sum);
    }
    if (w->method->M > 0) {
        int count;
        const int *idx = w->method->selection(w->method, p->layer, 0, &count);
        const struct selection *state = w->method->state(w->method, p->layer);
        CHECK(count == p->view.count[0] &&
                  memcmp(idx, p->view.idx, (size_t)count * sizeof *idx) == 0,
              "layer %d: another selection than what was seen", p->layer);
        CHECK(state->idx == idx && count <= w->method->stride &&
                  count <= w->method->selection_size(w->method, PROMPT),
              "layer %d: %d selected, %d announced", p->layer, count, w->method->stride);
    }
    w->seen++;
    return 0;
}

static bool far_model(struct model *m, const char *more)
{
    char *text = xprintf(
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 90,"
        " \"hidden_size\": 48, \"intermediate_size\": 64, \"num_hidden_layers\": 4,"
        " \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 12,"
        " \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 64,"
        " \"rope_theta\": 10000.0%s}",
        more);
    const char *path = check_scratch("config.json");
    FILE *f = fopen(path, "w");
    const bool ok =
        f && fputs(text, f) >= 0 && fclose(f) == 0 && model_open_shape(m, path, 5, "cpu") == 0;
    CHECK(ok, "%s", last_failure());
    free(text);
    return ok;
}

/* Tokens that are known go through a layer together; each still chooses for itself. LOGITS [STEPS +
 * 1, V] are what the definition says. */
static void known_tokens_agree(const struct model *m, const int *ids,
                               const struct run_config *config, const float *logits)
{
    const int V = m->config.V;
    const float *after;
    int best[TOKENS];
    float nll[TOKENS], first[256];
    struct method *method = method_open(config, m);
    struct session_plan plan = {.room = TOKENS};
    method->plan(method, &plan);
    struct session *s = session_open(m, &plan);
    const bool ok = s && method_prefill(method, s, ids, PROMPT, NULL, &after) == 0;
    if (ok) memcpy(first, after, (size_t)V * sizeof *first);
    CHECK(ok && decode_known(s, method, NULL, ids, PROMPT, TOKENS, first, best, nll) == 0, "%s",
          last_failure());
    for (int i = 0; ok && i < STEPS; i++) {
        const double want = nll_of(logits + (size_t)i * (size_t)V, V, ids[PROMPT + i]);
        CHECK(fabs(nll[PROMPT + i] - want) < CLOSE, "%s: known token %d: %g, want %g", config->json,
              i, nll[PROMPT + i], want);
    }
    session_close(s);
    method_close(method);
}

/* Runs TEXT on M by the engine, with and without a tap, and by definition. Far longer than the
 * model was trained for, without being told to extrapolate. */
static void agrees(const struct model *m, const int *ids, const char *text)
{
    const struct model_config *c = &m->config;
    const size_t V = (size_t)c->V;
    struct run_config config;
    struct plain p;
    const float *logits;
    if (run_config_parse(&config, "config", text)) {
        CHECK(false, "%s: %s", text, last_failure());
        return;
    }
    const struct far_rule *rule = &config.far;
    plain_open(&p, m, rule);
    for (int first = 0, n; first < TOKENS; first += n) {
        n = first >= PROMPT - 1 ? 1
                                : rule->exc_block_size; /* the last token of a prompt is alone */
        if (first < PROMPT - 1 && n > PROMPT - 1 - first) n = PROMPT - 1 - first;
        plain_group(&p, ids, first, n,
                    first < PROMPT - 1 ? NULL : p.logits + (size_t)(first - PROMPT + 1) * V);
    }
    double mean = 0, squares = 0;
    for (size_t i = 0; i < (STEPS + 1) * V; i++) mean += p.logits[i] / ((STEPS + 1) * (double)V);
    for (size_t i = 0; i < (STEPS + 1) * V; i++)
        squares += (p.logits[i] - mean) * (p.logits[i] - mean);
    const double deviation = sqrt(squares / ((STEPS + 1) * (double)V));

    for (int tapped = 0; tapped < 2; tapped++) {
        struct method *method = method_open(&config, m);
        struct watch w = {.method = method};
        struct session_plan plan = {.room = TOKENS};
        CHECK(method != NULL, "%s: %s", text, last_failure());
        method->plan(method, &plan);
        w.hooks = (struct hooks){.ctx = &w, .before = want_logits, .after = look};
        struct session *s = session_open(m, &plan);
        CHECK(s != NULL, "%s: %s", text, last_failure());
        bool ok = s && method_prefill(method, s, ids, PROMPT, NULL, &logits) == 0;
        for (int i = 0; ok && i <= STEPS; i++) {
            double worst = 0;
            for (size_t v = 0; v < V; v++) {
                const double off = fabs((double)logits[v] - p.logits[(size_t)i * V + v]);
                if (!(off <= worst)) worst = off;
            }
            CHECK(worst <= CLOSE * deviation, "%s: step %d: logits off by %.2e of the deviation",
                  text, i, worst / deviation);
            if (i == 0) ok = method_begin(method, s) == 0;
            ok = ok && (i == STEPS || forward(s, ids + PROMPT + i, 1, false, &method->hooks,
                                              tapped ? &w.hooks : NULL, LOGITS_LAST, &logits) == 0);
        }
        CHECK(ok, "%s: %s", text, last_failure());
        CHECK(!tapped || w.seen == STEPS * c->L, "%s: %d passes seen", text, w.seen);
        for (int l = 0; tapped && l < c->L; l++)
            CHECK(memcmp(w.listed[l], p.layer[l].listed, sizeof w.listed[l]) == 0,
                  "%s: layer %d: the last step saw others", text, l);
        session_close(s);
        method_close(method);
    }
    known_tokens_agree(m, ids, &config, p.logits);
    plain_close(&p);
    run_config_free(&config);
}

static void methods_are_as_defined(void)
{
    static const char *const texts[] = {
        "\"infllm\", \"n_init\": 4, \"n_local\": 24, \"block_size\": 8, \"topk\": 3, "
        "\"repr_topk\": 2, \"exc_block_size\": 16",
        "\"infllm\", \"n_init\": 0, \"n_local\": 17, \"block_size\": 5, \"topk\": 4, "
        "\"repr_topk\": 5, \"exc_block_size\": 1, \"cache_strategy\": \"lru-s\"",
        "\"infllm\", \"n_init\": 7, \"n_local\": 40, \"block_size\": 3, \"topk\": 60, "
        "\"max_cached_block\": 60, \"repr_topk\": 1, \"exc_block_size\": 40",
        "\"infllm\", \"n_init\": 9, \"n_local\": 30, \"block_size\": 12, \"topk\": 1, "
        "\"repr_topk\": 3, \"exc_block_size\": 11",
        "\"infllm\", \"n_init\": 4, \"n_local\": 64, \"block_size\": 64, \"topk\": 1, "
        "\"repr_topk\": 3, \"exc_block_size\": 64",
        "\"streaming\", \"n_init\": 4, \"n_local\": 24",
        "\"streaming\", \"n_init\": 0, \"n_local\": 20",
        "\"streaming\", \"n_init\": 32, \"n_local\": 32",
        "\"infinite-lm\", \"n_init\": 4, \"n_local\": 24",
        "\"infinite-lm\", \"n_init\": 150, \"n_local\": 2",
    };
    static const char *const scalings[] = {
        "",
        ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
        "\"original_max_position_embeddings\": 16}",
    };
    struct rng r;
    int ids[TOKENS];
    rng_seed(&r, 21);
    for (int i = 0; i < TOKENS; i++) ids[i] = (int)rng_below(&r, 90);
    for (size_t k = 0; k < COUNT_OF(scalings); k++) {
        struct model m;
        if (!far_model(&m, scalings[k])) return;
        struct ops few = *m.ops; /* several passes a prefill, which must end where groups do */
        few.prefill_rows = 50;
        m.ops = &few;
        for (size_t i = 0; i < COUNT_OF(texts); i += 1 + 4 * k) {
            char *text = xprintf("{\"model_cls\": %s}", texts[i]);
            agrees(&m, ids, text);
            free(text);
        }
        model_close(&m);
    }
}

/* ---- edges */

static void edges(void)
{
    struct model m;
    struct run_config config;
    struct method *method;
    struct session *s;
    const float *logits;
    int ids[100], best[100];
    float nll[100], again[100], first[90];
    if (!far_model(&m, "")) return;
    for (int i = 0; i < 100; i++) ids[i] = i * 7919 % 90;

    /* distances past the trained length are an extrapolation like any other: 64 are known */
    const bool muted = mute_failures(true);
    for (int local = 64; local <= 65; local++) {
        char *text = xprintf("{\"model_cls\": \"infinite-lm\", \"n_local\": %d}", local);
        struct session_plan plan = {.room = 100};
        CHECK(run_config_parse(&config, "config", text) == 0, "%s", last_failure());
        method = method_open(&config, &m);
        method->plan(method, &plan);
        s = session_open(&m, &plan);
        CHECK((s != NULL) == (local == 64), "n_local %d: %s", local, last_failure());
        session_close(s);
        method_close(method);
        run_config_free(&config);
        free(text);
    }
    mute_failures(muted);

    /* a session whose keys the method did not see coming, synthetic or dense, can be decoded */
    CHECK(run_config_parse(&config, "config",
                           "{\"model_cls\": \"infllm\", \"n_init\": 2, \"n_local\": 16, "
                           "\"block_size\": 8, \"topk\": 2, \"exc_block_size\": 8}") == 0,
          "%s", last_failure());
    method = method_open(&config, &m);
    s = session_open(&m, &(struct session_plan){.room = 100, .extrapolate = true});
    session_fill(s, 80, 1);
    CHECK(method_begin(method, s) == 0 &&
              forward(s, ids, 1, false, &method->hooks, NULL, LOGITS_LAST, &logits) == 0,
          "%s", last_failure());
    for (int i = 0; i < 2; i++) {
        CHECK(prefill(s, ids, 70, NULL, NULL, &logits) == 0, "%s", last_failure());
        memcpy(first, logits, sizeof first);
        CHECK(decode_known(s, method, NULL, ids, 70, 100, first, best, i ? again : nll) == 0, "%s",
              last_failure());
    }
    CHECK(memcmp(nll + 70, again + 70, 30 * sizeof *nll) == 0, "another time, other numbers");
    session_close(s);
    method_close(method);
    run_config_free(&config);
    model_close(&m);

    /* positions that depend on the length of the text */
    if (!far_model(&m, ", \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2.0}")) return;
    mute_failures(true);
    CHECK(run_config_parse(&config, "config", "{\"model_cls\": \"streaming\"}") == 0, "%s",
          last_failure());
    CHECK(method_open(&config, &m) == NULL && strstr(last_failure(), "dynamic"), "%s",
          last_failure());
    run_config_free(&config);
    mute_failures(muted);
    model_close(&m);
}

int main(void)
{
    omp_set_num_threads(1); /* the shapes are small */
    set_program_name("test_far_method");
    methods_are_as_defined();
    edges();
    return check_report("test_far_method");
}
