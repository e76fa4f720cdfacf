/* search.c - okv search: find the filter layers by running every candidate. */
#include "core/cmd/cmd.h"
#include "core/cmd/walk.h"

#include "core/base/base.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv search --model DIR --data SUITE.jsonl [--k K] [--max-full N] [--filters F]\n"
    "                  [--wait W] [--out FILE] [OPTIONS]\n"
    "Finds the filter layers by running them: the prompts are prefilled once, and each candidate "
    "set\n"
    "is judged by the negative log likelihood (nats per token) and the exact answers it gives "
    "when\n"
    "the answers are fed token by token. A candidate's cost is its number of full layers: 0..f1, "
    "the\n"
    "filters, their wait layers. All sets of one and two filters are tried, larger ones grow from "
    "the\n"
    "best of each cost. Without --max-full the search ends at the smallest cost that keeps 95 % of "
    "the\n"
    "dense answers; with it, the best set within N full layers is named.\n\n" ENGINE_USAGE
    "  --data FILE     token-level suite (okv gen makes one); \"-\" is stdin\n"
    "  --k K           selected tokens; below 1 a fraction of the prompt [the config's, or 32]\n"
    "  --max-full N    full layers at most\n"
    "  --filters F     exactly F filter layers\n"
    "  --wait W        full layers after each filter [0 and 1 are both tried]\n"
    "  --beam B        sets of each cost that grow further [6]\n"
    "  --set A,B,...   judge this set only; may be repeated, with --wait for all [0]\n"
    "  --out FILE      the table there, not on stdout; the last two lines go to both\n"
    "Columns: filters, wait, full (layers), nll, accuracy, correct, total, front (1: no set of "
    "lower or\n"
    "equal cost has a lower nll). The last two lines are the set, as config keys.\n";

#define MAX_FILTERS 16 /* more filters than this leave nothing to save */

struct candidate {
    int layers[MAX_FILTERS], n, wait, cost;
    struct tally score;
    double nll; /* mean over judged tokens */
    bool front;
};

/* One prompt, prefilled. */
struct prompt {
    const struct suite_line *line;
    struct session *session;
    float *first; /* [V] logits after the prefill */
};

struct search {
    struct engine *e;
    const char *data; /* the suite's file */
    struct prompt *prompt;
    int n_prompts;
    struct candidate *tried;
    int n_tried;
    struct candidate dense;
    int max_cost, filters, beam; /* filters 0: any number */
    int waits[2], n_waits;
    struct progress progress;
};

/* Of prompts that ran with their failures muted, reports the first that failed: WHY [n] holds the
 * messages, NULL where all went well. Frees them. 0, or -1 after fail(). */
static int report_first(char **why, int n)
{
    int rc = 0;
    for (int i = 0; i < n; i++) {
        if (why[i] && rc == 0) rc = fail("prompt %d: %s", i, why[i]);
        free(why[i]);
    }
    free(why);
    return rc;
}

/* Runs all prompts under CONFIG and adds up the answers. 0, or -1 after fail(). */
static int run_prompts(struct search *s, const struct run_config *config, struct tally *total)
{
    struct tally *each = xcalloc((size_t)s->n_prompts, sizeof *each);
    char **why = xcalloc((size_t)s->n_prompts, sizeof *why);
    const bool muted = mute_failures(true);
    /* A prompt each to a core: inside, every op then runs on its one thread. */
#pragma omp parallel for schedule(dynamic) if (!s->e->model.ops->device)
    for (int i = 0; i < s->n_prompts; i++) {
        const struct prompt *p = &s->prompt[i];
        const struct suite_line *l = p->line;
        int *argmax = xcalloc((size_t)l->n + 1, sizeof *argmax);
        float *nll = xcalloc((size_t)l->n + 1, sizeof *nll);
        struct method *m = method_open(config, &s->e->model);
        session_rewind(p->session, l->n_prefill);
        if (m == NULL ||
            decode_known(p->session, m, NULL, l->ids, l->n_prefill, l->n, p->first, argmax, nll))
            why[i] = xstrdup(last_failure());
        else
            tally_tokens(&each[i], l, argmax, nll);
        method_close(m);
        free(argmax);
        free(nll);
    }
    mute_failures(muted);
    memset(total, 0, sizeof *total);
    for (int i = 0; i < s->n_prompts; i++) { /* in order, so that sums repeat */
        total->correct += each[i].correct;
        total->total += each[i].total;
        total->nll += each[i].nll;
        total->tokens += each[i].tokens;
    }
    free(each);
    return report_first(why, s->n_prompts);
}

static double mean_nll(const struct tally *t)
{
    return t->tokens ? t->nll / (double)t->tokens : 0;
}

static bool same_set(const struct candidate *a, const struct candidate *b)
{
    return a->n == b->n && a->wait == b->wait &&
           memcmp(a->layers, b->layers, (size_t)a->n * sizeof *a->layers) == 0;
}

/* Runs C unless it has been tried or means the same as a set that has. 0, or -1 after fail(). */
static int try_set(struct search *s, struct candidate *c)
{
    for (int i = 0; i < s->n_tried; i++)
        if (same_set(&s->tried[i], c)) return 0;
    struct run_config config = s->e->config;
    config.layers = c->layers;
    config.n_layers = c->n;
    config.wait = c->wait;
    if (run_prompts(s, &config, &c->score)) return -1;
    c->nll = mean_nll(&c->score);
    s->tried = xrealloc(s->tried, (size_t)(s->n_tried + 1) * sizeof *s->tried);
    s->tried[s->n_tried++] = *c;
    progress_show(&s->progress, s->n_tried);
    return 0;
}

/* Makes C the set of LAYERS with WAIT; false when it is not of cost COST, or when its first filter
 * serves no layer, so that a smaller set means the same. */
static bool make_set(struct candidate *c, const int *layers, int n, int wait, int L, int cost)
{
    memset(c, 0, sizeof *c);
    memcpy(c->layers, layers, (size_t)n * sizeof *layers);
    c->n = n;
    c->wait = wait;
    c->cost = full_layers(layers, n, wait, L, NULL, NULL);
    return c->cost == cost && (n < 2 || layers[1] > layers[0] + wait + 1);
}

static int try_small_sets(struct search *s, int wait, int cost)
{
    const int L = s->e->model.config.L;
    struct candidate c;
    for (int a = 0; a < L; a++) {
        if (make_set(&c, (int[]){a}, 1, wait, L, cost) && try_set(s, &c)) return -1;
        for (int b = a + 1; b < L && s->filters != 1; b++)
            if (make_set(&c, (int[]){a, b}, 2, wait, L, cost) && try_set(s, &c)) return -1;
    }
    return 0;
}

static int by_nll(const void *a, const void *b)
{
    const struct candidate *x = *(const struct candidate *const *)a;
    const struct candidate *y = *(const struct candidate *const *)b;
    if (x->nll != y->nll) return x->nll < y->nll ? -1 : 1;
    return x < y ? -1 : 1; /* the one tried first */
}

/* Adds one filter to the best sets of each lower cost wherever that makes a set of cost COST. */
static int grow_sets(struct search *s, int wait, int cost)
{
    const int L = s->e->model.config.L, known = s->n_tried;
    const struct candidate **pool = xmalloc((size_t)(known + 1) * sizeof *pool);
    struct candidate *parents = xmalloc((size_t)(known + 1) * sizeof *parents);
    int n_parents = 0, rc = -1;

    for (int lower = 1; lower < cost; lower++) {
        int n = 0;
        for (int i = 0; i < known; i++)
            if (s->tried[i].cost == lower && s->tried[i].wait == wait && s->tried[i].n >= 2 &&
                s->tried[i].n < MAX_FILTERS && (s->filters == 0 || s->tried[i].n < s->filters))
                pool[n++] = &s->tried[i];
        qsort(pool, (size_t)n, sizeof *pool, by_nll);
        for (int i = 0; i < n && i < s->beam; i++) parents[n_parents++] = *pool[i];
    }
    for (int i = 0; i < n_parents; i++)
        for (int add = 0; add < L; add++) {
            int layers[MAX_FILTERS + 1], n = 0;
            bool has = false;
            for (int j = 0; j < parents[i].n; j++) {
                if (parents[i].layers[j] > add && !has) layers[n++] = add, has = true;
                if (parents[i].layers[j] == add) break;
                layers[n++] = parents[i].layers[j];
            }
            if (!has && (n < parents[i].n)) continue; /* it holds ADD already */
            if (!has) layers[n++] = add;
            struct candidate c;
            if (make_set(&c, layers, n, wait, L, cost) && try_set(s, &c)) goto done;
        }
    rc = 0;

done:
    free(pool);
    free(parents);
    return rc;
}

static bool eligible(const struct search *s, const struct candidate *c)
{
    return c->cost <= s->max_cost && (s->filters == 0 || c->n == s->filters);
}

static bool keeps_answers(const struct search *s, const struct candidate *c)
{
    return c->score.correct >= 0.95 * s->dense.score.correct;
}

/* The best set of cost COST that keeps 95 % of the dense answers, or NULL. */
static const struct candidate *good_enough(const struct search *s, int cost)
{
    const struct candidate *best = NULL;
    for (int i = 0; i < s->n_tried; i++) {
        const struct candidate *c = &s->tried[i];
        if (c->cost == cost && eligible(s, c) && keeps_answers(s, c) &&
            (!best || c->nll < best->nll))
            best = c;
    }
    return best;
}

static const struct candidate *lowest_nll(const struct search *s)
{
    const struct candidate *best = NULL;
    for (int i = 0; i < s->n_tried; i++)
        if (eligible(s, &s->tried[i]) && (!best || s->tried[i].nll < best->nll))
            best = &s->tried[i];
    return best;
}

/* Tries the sets the user names and no other. */
static int try_named(struct search *s, const struct strings *sets)
{
    const int L = s->e->model.config.L;
    for (int i = 0; i < sets->n; i++) {
        int *layers, n, rc = 0;
        struct candidate c;
        if (parse_int_list("--set", sets->v[i], 0, L - 1, &layers, &n)) return -1;
        for (int j = 1; j < n && rc == 0; j++)
            if (layers[j] <= layers[j - 1])
                rc = fail("--set: %s: expected ascending layers", sets->v[i]);
        if (rc == 0 && n > MAX_FILTERS)
            rc = fail("--set: %s: more than %d filters", sets->v[i], MAX_FILTERS);
        if (rc == 0) {
            make_set(&c, layers, n, s->waits[0], L, 0);
            rc = try_set(s, &c);
        }
        free(layers);
        if (rc) return -1;
    }
    return 0;
}

/* Tries candidates cost by cost; *CHOSEN is the answer, NULL when no set fits. 0, or -1 after
 * fail(). */
static int explore(struct search *s, bool bounded, const struct candidate **chosen)
{
    for (int cost = 1; cost <= s->max_cost; cost++) {
        for (int w = 0; w < s->n_waits; w++)
            if (try_small_sets(s, s->waits[w], cost) || grow_sets(s, s->waits[w], cost)) return -1;
        if (!bounded && (*chosen = good_enough(s, cost)) != NULL) return 0;
    }
    *chosen = lowest_nll(s);
    return 0;
}

static int by_cost(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->cost != y->cost) return x->cost - y->cost;
    if (x->nll != y->nll) return x->nll < y->nll ? -1 : 1;
    if (x->wait != y->wait) return x->wait - y->wait;
    return memcmp(x->layers, y->layers, sizeof x->layers);
}

static char *layer_list(const struct candidate *c)
{
    char *text = xstrdup("");
    for (int i = 0; i < c->n; i++) {
        char *longer = xprintf("%s%s%d", text, i ? "," : "", c->layers[i]);
        free(text);
        text = longer;
    }
    return text;
}

static void print_row(FILE *f, const char *filters, const struct candidate *c)
{
    const struct tally *t = &c->score;
    fprintf(f, "%s\t%d\t%d\t%.6g\t%.4f\t%d\t%d\t%d\n", filters, c->wait, c->cost, c->nll,
            t->total ? (double)t->correct / t->total : 0, t->correct, t->total, c->front);
}

static void print_table(FILE *f, struct search *s)
{
    double best = INFINITY;
    qsort(s->tried, (size_t)s->n_tried, sizeof *s->tried, by_cost);
    fprintf(f, "filters\twait\tfull\tnll\taccuracy\tcorrect\ttotal\tfront\n");
    for (int i = 0; i < s->n_tried; i++) {
        struct candidate *c = &s->tried[i];
        c->front = c->nll < best;
        if (c->front) best = c->nll;
        char *filters = layer_list(c);
        print_row(f, filters, c);
        free(filters);
    }
    print_row(f, "all", &s->dense);
}

static int prefill_prompts(struct search *s, const struct suite *suite)
{
    const int V = s->e->model.config.V;
    struct method *probe = method_open(&s->e->config, &s->e->model);
    int failed = 0;
    double bytes = 0;
    if (probe == NULL) return -1;
    s->n_prompts = suite->n;
    s->prompt = xcalloc((size_t)suite->n, sizeof *s->prompt);
    for (int i = 0; i < suite->n; i++) {
        struct prompt *p = &s->prompt[i];
        p->line = &suite->line[i];
        if (p->line->ids == NULL || p->line->n_spans == 0) {
            failed = fail("%s: line %d: expected ids and spans: a search is judged by token",
                          s->data, i + 1);
            break;
        }
        p->first = xmalloc((size_t)V * sizeof *p->first);
        double device, host;
        engine_session_bytes(s->e, probe, p->line->n, 0, &device, &host);
        bytes += device;
        if ((p->session = engine_session(s->e, probe, p->line->n, 0)) == NULL) {
            failed = -1;
            break;
        }
    }
    method_close(probe);
    if (failed) return -1;
    note("memory of %d prompts: %.2f GB", suite->n, bytes / 1e9);
    char **why = xcalloc((size_t)suite->n, sizeof *why);
    const bool muted = mute_failures(true);
#pragma omp parallel for schedule(dynamic) if (!s->e->model.ops->device)
    for (int i = 0; i < suite->n; i++) {
        struct prompt *p = &s->prompt[i];
        const float *logits;
        if (prefill(p->session, p->line->ids, p->line->n_prefill, NULL, NULL, &logits))
            why[i] = xstrdup(last_failure());
        else
            memcpy(p->first, logits, (size_t)V * sizeof *p->first);
    }
    mute_failures(muted);
    return report_first(why, suite->n);
}

/* The trace that SAVE_SELECTED_IDX asks for is one of the set that was found. */
static int trace_found(struct engine *e, const struct candidate *c, const struct suite *suite,
                       int argc, char **argv)
{
    int rc;
    memcpy(e->config.layers = xrealloc(e->config.layers, (size_t)c->n * sizeof(int)), c->layers,
           (size_t)c->n * sizeof(int));
    e->config.n_layers = c->n;
    e->config.wait = c->wait;
    run_config_refresh_json(&e->config);
    struct method *m = method_open(&e->config, &e->model);
    if (m == NULL) return -1;
    struct tracer *t = tracer_from_environment(e, m, argc, argv, &rc);
    if (t) {
        rc = walk_suite(&(struct walk){.engine = e,
                                       .variant = &(struct variant){.config = &e->config},
                                       .n_variants = 1,
                                       .method = m,
                                       .suite = suite,
                                       .tracer = t});
        rc = tracer_close(t, rc);
    }
    method_close(m);
    return rc;
}

/* Without --config the search is over the selector `last` and K tokens. */
static int default_config(struct run_config *c, double k)
{
    char *model = c->model,
         *text = xprintf("{\"model_cls\": \"multi\", \"cache_cls\": \"multi\", "
                         "\"dense_more\": true, \"real_offload\": false, "
                         "\"do_select_layers\": \"0\", \"num_wait_load_layers\": 0, "
                         "\"selector_cls\": \"last\", \"num_of_selected_tokens\": %.9g}",
                         k);
    c->model = NULL;
    free(model);
    run_config_free(c);
    const int rc = run_config_parse(c, "--k", text);
    free(text);
    return rc;
}

int cmd_search(int argc, char **argv)
{
    struct engine_args args = {0};
    struct strings sets = {0};
    const char *data = NULL, *out_path = NULL;
    double k = 0; /* 0: not given */
    int max_full = 0, filters = 0, wait = -1, beam = 6, first, status = 1;
    const struct option_spec options[] = {
        ENGINE_OPTIONS(args),
        {"--data", OPT_STRING, &data, 0, 0},
        {"--k", OPT_DOUBLE, &k, 1e-9, 1e9},
        {"--max-full", OPT_INT, &max_full, 1, 1 << 20},
        {"--filters", OPT_INT, &filters, 1, MAX_FILTERS},
        {"--wait", OPT_INT, &wait, 0, 1 << 20},
        {"--beam", OPT_INT, &beam, 1, 1000},
        {"--set", OPT_STRINGS, &sets, 0, 0},
        {"--out", OPT_STRING, &out_path, 0, 0},
        {0},
    };
    struct engine e = {0};
    struct suite *suite = NULL;
    struct output out = {0};
    const struct candidate *chosen = NULL;
    struct search s = {.e = &e};
    if ((status = options_parse(argc, argv, options, usage, &first)) >= 0) goto done;
    if (first < argc || data == NULL || (k >= 1 && k != floor(k))) {
        status = first < argc ? usage_error(argv[0], "unexpected argument \"%s\"", argv[first])
                 : data == NULL
                     ? usage_error(argv[0], "--data SUITE.jsonl is needed")
                     : usage_error(argv[0],
                                   "--k: expected a whole number, or a fraction below 1, "
                                   "found %g",
                                   k);
        goto done;
    }
    if ((status = engine_open(&e, argv[0], &args)) != 0) goto done;
    status = 1;
    const int L = e.model.config.L;
    s.data = data;
    s.filters = filters;
    s.beam = beam;
    s.max_cost = max_full && max_full < L ? max_full : L;
    s.n_waits = wait >= 0 ? 1 : 2;
    s.waits[0] = wait >= 0 ? wait : 0;
    s.waits[1] = 1;
    if (args.config == NULL && default_config(&e.config, k > 0 ? k : 32)) goto done;
    if (e.config.method != METHOD_OMNIKV) {
        fail("%s: expected an OmniKV config (model_cls multi): its selector and budget are "
             "searched with",
             args.config);
        goto done;
    }
    e.config.real_offload = false; /* candidates keep different layers; a search judges tokens */
    if (k > 0) e.config.budget = k;
    k = e.config.budget;
    if (k >= 1 && (double)e.config.sinks + e.config.recent > k) {
        fail("%s: \"sinks\" and \"recent\": expected at most --k (%g) together, found %d and %d",
             args.config, k, e.config.sinks, e.config.recent);
        goto done;
    }
    if ((suite = suite_load(data, e.model.config.V)) == NULL) goto done;
    if (output_open(&out, out_path)) goto done;
    if (prefill_prompts(&s, suite)) goto done;
    progress_start(&s.progress, "search", L * L);
    s.dense.cost = L;
    if (run_prompts(&s, &(struct run_config){.method = METHOD_DENSE}, &s.dense.score)) goto done;
    s.dense.nll = mean_nll(&s.dense.score);
    if (sets.n > 0 ? try_named(&s, &sets) : explore(&s, max_full > 0, &chosen)) goto done;
    if (sets.n > 0) chosen = lowest_nll(&s);
    progress_end(&s.progress);
    if (chosen == NULL) {
        char *wanted = filters ? xprintf(" of %d filters", filters) : xstrdup("");
        char *after = wait >= 0 ? xprintf(" with %d wait layers", wait) : xstrdup("");
        fail("no set%s%s has at most %d full layers", wanted, after, s.max_cost);
        free(wanted);
        free(after);
        goto done;
    }
    const struct candidate found = *chosen;
    char *filters_found = layer_list(&found);
    char *notes = xprintf("model %s, %d prompts, %d answers, k %g; dense: nll %.6g, %d correct\n"
                          "%s: %d full layers, nll %.6g, %d correct\n"
                          "nll: nats per judged token; full: layers that attend to everything",
                          e.model.config.name, s.n_prompts, s.dense.score.total, k, s.dense.nll,
                          s.dense.score.correct,
                          max_full || sets.n ? "lowest nll" : "smallest cost keeping 95 %",
                          found.cost, found.nll, found.score.correct);
    table_head(out.f, argc, argv, notes);
    print_table(out.f, &s);
    for (int i = 0; i < (out_path ? 2 : 1); i++)
        fprintf(i ? stdout : out.f, "do_select_layers: %s\nnum_wait_load_layers: %d\n",
                filters_found, found.wait);
    free(notes);
    free(filters_found);
    if (s.dense.score.correct == 0)
        note("dense decoding answers nothing correctly here: accuracy says nothing, nll little");
    if (!max_full && sets.n == 0 && !keeps_answers(&s, &found))
        note("no set tried keeps 95 %% of the dense answers: the best one is named");
    if (trace_found(&e, &found, suite, argc, argv)) goto done;
    status = 0;

done:
    if (output_close(&out, status)) status = status ? status : 1;
    if (output_close(&(struct output){.f = stdout}, status)) status = status ? status : 1;
    for (int i = 0; s.prompt && i < s.n_prompts; i++) {
        session_close(s.prompt[i].session);
        free(s.prompt[i].first);
    }
    free(s.prompt);
    free(s.tried);
    free(sets.v);
    suite_free(suite);
    engine_close(&e);
    return status;
}
