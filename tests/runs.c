/* runs.c - runs of a model along known tokens, for tests that compare them. */
#include "tests/runs.h"
#include "core/base/base.h"
#include "core/method/decode.h"
#include "core/task/suite.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool deep_model(struct model *m)
{
    static const char text[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 90,"
        " \"hidden_size\": 48, \"intermediate_size\": 64, \"num_hidden_layers\": 8,"
        " \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 12,"
        " \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 256,"
        " \"rope_theta\": 10000.0}";
    const char *path = check_scratch("config.json");
    FILE *f = fopen(path, "w");
    const bool ok =
        f && fputs(text, f) >= 0 && fclose(f) == 0 && model_open_shape(m, path, 5, "cpu") == 0;
    CHECK(ok, "%s", last_failure());
    return ok;
}

double deviation_of(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    for (size_t i = 0; i < n; i++) squares += (x[i] - sum / (double)n) * (x[i] - sum / (double)n);
    return sqrt(squares / (double)n);
}

void compare_rows(struct found *f, const float *got, const float *want, int n, int V)
{
    for (int r = 0; r < n; r++, got += V, want += V) {
        double squares = 0;
        for (int v = 0; v < V; v++) {
            const double off = fabs((double)got[v] - want[v]);
            squares += off * off;
            if (!(off <= f->worst)) f->worst = isnan(off) ? INFINITY : off;
        }
        const double row = sqrt(squares / V);
        if (!(row <= f->row)) f->row = isnan(row) ? INFINITY : row;
        f->squares += squares / V;
        f->rows++;
        f->same += argmax_of(got, V) == argmax_of(want, V);
    }
}

/* The tokens of the suite, one line after the other: text the pocket model was made for. */
int *text_ids(int n)
{
    struct suite *suite = suite_load("tests/data/golden/suite.jsonl", 2048);
    int *ids = xcalloc((size_t)n, sizeof *ids), have = 0;
    CHECK(suite != NULL, "%s", last_failure());
    for (int i = 0; suite && have < n; i = (i + 1) % suite->n)
        for (int k = 0; k < suite->line[i].n && have < n; k++) ids[have++] = suite->line[i].ids[k];
    suite_free(suite);
    return ids;
}

void run_close(struct run *w)
{
    free(w->logits);
    free(w->nll);
    free(w->count);
    free(w->picked);
    method_close(w->method);
    run_config_free(&w->config);
    memset(w, 0, sizeof *w);
}

bool run_open(struct run *w, const struct model *m, const char *text, int from, int n)
{
    memset(w, 0, sizeof *w);
    const bool ok = run_config_parse(&w->config, "config", text) == 0 &&
                    (w->method = method_open(&w->config, m)) != NULL;
    CHECK(ok, "%s: %s", text, last_failure());
    w->from = from;
    w->n = n;
    w->V = m->config.V;
    w->logits = xcalloc((size_t)(n - from) * (size_t)w->V, sizeof *w->logits);
    w->nll = xcalloc((size_t)(n - from), sizeof *w->nll);
    return ok;
}

/* A session for W with room for its tokens, or (APART) one that knows nothing of its method. */
struct session *session_for(const struct run *w, const struct model *m, bool apart)
{
    struct session_plan plan = {.room = w->n, .steps = w->n - w->from, .extrapolate = true};
    if (!apart && w->method->plan) w->method->plan(w->method, &plan);
    plan.keep_queries = KEPT;
    struct session *s = session_open(m, &plan);
    CHECK(s != NULL, "%s", last_failure());
    return s;
}

static int note_selections(void *ctx, struct session *s, int pos)
{
    struct run *w = ctx;
    const size_t sets = (size_t)w->sets * (size_t)w->stride;
    (void)s;
    for (int i = 0; i < w->M; i++) {
        const size_t at = (size_t)(pos - w->from) * (size_t)w->M + (size_t)i;
        const int *idx = w->method->selection(w->method, i, 0, &w->count[at]);
        memcpy(w->picked + at * sets, idx, sets * sizeof *idx);
    }
    return 0;
}

/* Feeds ids[from, n - 1) to S, which holds the prefill FIRST is of; with FORGET no step is a
 * replay. What is known of a row must be true of it. */
bool walk(struct run *w, struct session *s, const int *ids, const float *first, bool forget)
{
    const struct hooks tap = {.ctx = w, .stepped = note_selections};
    const size_t V = (size_t)w->V, steps = (size_t)(w->n - w->from);
    session_rewind(s, w->from);
    bool ok = method_begin(w->method, s) == 0;
    w->M = w->method->selection ? w->method->M : 0;
    w->sets = w->method->sets;
    w->stride = w->method->stride;
    w->count = xcalloc(steps * (size_t)(w->M + 1), sizeof *w->count);
    w->picked =
        xcalloc(steps * (size_t)w->M * (size_t)w->sets * (size_t)w->stride + 1, sizeof *w->picked);
    memcpy(w->logits, first, V * sizeof *first);
    for (int i = 0; ok && i < w->n - w->from - 1; i++) {
        const float *logits;
        if (forget) session_forget_steps(s);
        ok = forward(s, ids + w->from + i, 1, false, &w->method->hooks, &tap, LOGITS_LAST,
                     &logits) == 0;
        if (!ok) break;
        const struct outcome *o = session_outcome(s, 0);
        CHECK(o->argmax == argmax_of(logits, w->V), "step %d: %d", i, o->argmax);
        const double lse = nll_of(logits, w->V, 0) + (double)logits[0];
        CHECK(fabs(o->lse - lse) <= 1e-5 * (1 + fabs(lse)), "step %d: %.9g %.9g", i, o->lse, lse);
        memcpy(w->logits + (size_t)(i + 1) * V, logits, V * sizeof *logits);
    }
    for (size_t i = 0; ok && i < steps; i++)
        w->nll[i] = nll_of(w->logits + i * V, w->V, ids[w->from + (int)i]);
    CHECK(ok, "%s: %s", w->config.json, last_failure());
    return ok;
}

/* The share of the positions of WANT that GOT has too; -1 where the sizes differ. */
double overlap_of(const struct run *got, const struct run *want)
{
    long all = 0, both = 0;
    if (got->M != want->M || got->sets != want->sets || got->stride != want->stride) return -1;
    for (int i = 0; i < (want->n - want->from - 1) * want->M; i++) {
        const size_t at = (size_t)i * (size_t)want->sets * (size_t)want->stride;
        if (got->count[i] != want->count[i]) return -1;
        for (int set = 0; set < want->sets; set++) {
            const int *a = got->picked + at + (size_t)set * (size_t)want->stride;
            const int *b = want->picked + at + (size_t)set * (size_t)want->stride;
            for (int k = 0, j = 0; k < want->count[i]; k++) {
                while (j < want->count[i] && a[j] < b[k]) j++;
                both += j < want->count[i] && a[j] == b[k];
                all++;
            }
        }
    }
    return all ? (double)both / (double)all : 1;
}

bool same_bits(const struct run *a, const struct run *b)
{
    const size_t V = (size_t)a->V, steps = (size_t)(a->n - a->from);
    return a->n - a->from == b->n - b->from &&
           memcmp(a->logits, b->logits, steps * V * sizeof *a->logits) == 0;
}

bool start(struct session *s, const int *ids, int n, float *first)
{
    const float *logits;
    const bool ok = s && prefill(s, ids, n, NULL, NULL, &logits) == 0;
    CHECK(ok, "%d tokens: %s", n, last_failure());
    if (ok) memcpy(first, logits, (size_t)session_model(s)->config.V * sizeof *first);
    return ok;
}

/* Opens M under TEXT, prefills FROM tokens and walks to N: all that one needs for comparing bits.
 */
bool run_whole(struct run *w, const struct model *m, const int *ids, int from, int n,
               const char *text, bool forget, bool apart)
{
    float *first = xcalloc((size_t)m->config.V, sizeof *first);
    bool ok = run_open(w, m, text, from, n);
    struct session *s = ok ? session_for(w, m, apart) : NULL;
    ok = s && start(s, ids, from, first) && walk(w, s, ids, first, forget);
    session_close(s);
    free(first);
    return ok;
}
