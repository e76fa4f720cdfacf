/* test_cuda_engine.c - whole models on a GPU against the same on the CPU, and what must not change
 * their results. With arguments, runs the parts of those names alone.
 *
 * The GPU rounds activations, keys, values and weights of attention to 16 bits, the CPU computes in
 * float32. Logits are compared by row: the root mean square of a row's differences, as a share of
 * the standard deviation of the logits. docs/numbers.md counts the roundings and says where the
 * bounds come from. What is promised to be the same bits is compared as bits.
 *
 * Each comparison prints what it measured, so that one run tells how far the bounds are.
 */
#include "core/base/base.h"
#include "core/method/decode.h"
#include "tests/gpu.h"
#include "tests/runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef DEVICE
#define DEVICE "cuda"
#endif
#define POCKET "configs/demo/pocket-llama"
#define OMNIKV                                                                                     \
    "{\"model_cls\": \"multi\", \"do_select_layers\": \"1,4,7\", \"num_wait_load_layers\": 1, "
#define HERE ", \"real_offload\": false}"

enum { TEXT = 5000, FROM = 1500, STEPS = 40 };

/* The pocket model on the CPU and on the GPU. */
struct pair {
    struct model cpu, gpu;
};

static bool pair_open(struct pair *p, const char *dir)
{
    memset(p, 0, sizeof *p);
    const bool ok =
        model_open(&p->cpu, dir, NULL, "cpu") == 0 && model_open(&p->gpu, dir, NULL, DEVICE) == 0;
    CHECK(ok, "%s: %s", dir, last_failure());
    return ok;
}

static void pair_close(struct pair *p)
{
    model_close(&p->cpu);
    model_close(&p->gpu);
}

/* ---- the prefill */

/* Of the pocket model (bf16, 12 layers): docs/numbers.md. */
#define ALL_OFF 0.02   /* all rows together */
#define ROW_OFF 0.06   /* a row's root mean square, of the deviation */
#define WORST_OFF 0.25 /* one logit of some ten million */

static void prefills_match_the_cpu(void)
{
    static const int lengths[] = {300, TEXT};
    enum { BLOCK = 1700 };
    struct pair p;
    int *ids = text_ids(TEXT);
    if (!pair_open(&p, POCKET)) goto done;
    const int V = p.cpu.config.V;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        const int n = lengths[i];
        const struct session_plan plan = {.room = n};
        struct session *a = session_open(&p.cpu, &plan), *b = session_open(&p.gpu, &plan);
        float *want = xcalloc((size_t)n * (size_t)V, sizeof *want), *last = xcalloc((size_t)V, 4);
        struct found f = {0}, whole = {0};
        const float *logits;
        bool ok = a && b;
        if (ok) session_start(a, n), session_start(b, n);
        for (int at = 0; ok && at < n; at += BLOCK) {
            const int rows = n - at < BLOCK ? n - at : BLOCK;
            float *to = want + (size_t)at * (size_t)V;
            ok = forward(a, ids + at, rows, true, NULL, NULL, LOGITS_ALL, &logits) == 0;
            if (ok) memcpy(to, logits, (size_t)rows * (size_t)V * sizeof *to);
            ok = ok && forward(b, ids + at, rows, true, NULL, NULL, LOGITS_ALL, &logits) == 0;
            if (ok) compare_rows(&f, logits, to, rows, V);
        }
        ok = ok && start(b, ids, n, last);
        CHECK(ok, "%s", last_failure());
        if (ok) compare_rows(&whole, last, want + (size_t)(n - 1) * (size_t)V, 1, V);
        const double deviation = deviation_of(want, (size_t)n * (size_t)V);
        const double all = sqrt(f.squares / (double)f.rows);
        printf(
            "prefill %d: rows %.2e, worst row %.2e, worst logit %.2e, whole %.2e of the deviation "
            "%.3g; greedy %.4f\n",
            n, all / deviation, f.row / deviation, f.worst / deviation, whole.row / deviation,
            deviation, (double)f.same / (double)f.rows);
        CHECK(all <= ALL_OFF * deviation, "%d: %.2e", n, all / deviation);
        CHECK(f.row <= ROW_OFF * deviation && whole.row <= ROW_OFF * deviation, "%d: %.2e, %.2e", n,
              f.row / deviation, whole.row / deviation);
        CHECK(f.worst <= WORST_OFF * deviation, "%d: %.2e", n, f.worst / deviation);
        CHECK((double)f.same >= 0.98 * (double)f.rows, "%d: %ld of %ld", n, f.same, f.rows);
        session_close(a);
        session_close(b);
        free(want);
        free(last);
    }
    pair_close(&p);
done:
    free(ids);
}

/* ---- steps */

static const char *const configs[] = {
    "{\"model_cls\": \"raw_llama\"}",
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"last\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"softmax_before_last\"" HERE,
    OMNIKV
    "\"num_of_selected_tokens\": 64, \"selector_cls\": \"uniform\", \"window_size\": 16" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"exp\", \"window_size\": 16" HERE,
    OMNIKV "\"num_of_selected_tokens\": 0.1, \"selector_cls\": \"last\", \"pool\": \"group\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"last\", \"pool\": \"none\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"softmax_before_last\","
           " \"pool\": \"group\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"exp\", \"window_size\": 5,"
           " \"pool\": \"none\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"last\", \"refresh\": 3" HERE,
    OMNIKV "\"num_of_selected_tokens\": 64, \"selector_cls\": \"last\", \"sinks\": 4,"
           " \"recent\": 16" HERE,
    OMNIKV "\"num_of_selected_tokens\": 96, \"selector_cls\": \"last\","
           " \"candidates\": \"all\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 96, \"selector_cls\": \"uniform\", \"window_size\": 8,"
           " \"candidates\": \"all\", \"refresh\": 3, \"pool\": \"group\"" HERE,
    OMNIKV "\"num_of_selected_tokens\": 5000, \"selector_cls\": \"last\"" HERE,
    "{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 4,"
    " \"sink_window_length\": 100}",
};

#define NLL_OFF 0.03 /* nats, the mean of a run: 0.3 % of the deviation and what selections add */
#define SAME_TOKENS 0.95    /* of 40 steps: two near ties */
#define SAME_PLACES 0.97    /* of what is selected */
#define SPARSE_ROW_OFF 0.25 /* of a row that attends to a few other tokens */

/* One prefill serves all configs: a session rewound is as good as a new one. */
static void methods_match_the_cpu(void)
{
    enum { N = FROM + STEPS };
    struct pair p;
    int *ids = text_ids(N);
    if (!pair_open(&p, POCKET)) goto done;
    const struct session_plan plan = {.room = N, .steps = STEPS, .keep_queries = KEPT};
    struct session *a = session_open(&p.cpu, &plan), *b = session_open(&p.gpu, &plan);
    const size_t V = (size_t)p.cpu.config.V;
    float *first = xcalloc(2 * V, sizeof *first);
    if (!start(a, ids, FROM, first) || !start(b, ids, FROM, first + V)) goto close;
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct run want = {0}, got = {0};
        if (run_open(&want, &p.cpu, configs[i], FROM, N) &&
            run_open(&got, &p.gpu, configs[i], FROM, N) && walk(&want, a, ids, first, false) &&
            walk(&got, b, ids, first + V, false)) {
            struct found f = {0};
            double nll = 0;
            const double deviation = deviation_of(want.logits, STEPS * V);
            compare_rows(&f, got.logits, want.logits, STEPS, (int)V);
            for (int k = 0; k < STEPS; k++) nll += fabs((double)got.nll[k] - want.nll[k]) / STEPS;
            const double overlap = overlap_of(&got, &want);
            printf("steps %zu: rows %.2e, worst row %.2e of the deviation, nll %.2e, greedy %ld of "
                   "%ld, selected alike %.4f: %s\n",
                   i, sqrt(f.squares / (double)f.rows) / deviation, f.row / deviation, nll, f.same,
                   f.rows, overlap, configs[i]);
            CHECK(f.row <= (want.M ? SPARSE_ROW_OFF : ROW_OFF) * deviation, "%s: %.2e", configs[i],
                  f.row / deviation);
            CHECK(nll <= NLL_OFF, "%s: %.2e", configs[i], nll);
            CHECK((double)f.same >= SAME_TOKENS * (double)f.rows, "%s: %ld", configs[i], f.same);
            CHECK(overlap >= SAME_PLACES, "%s: %.4f", configs[i], overlap);
        }
        run_close(&want);
        run_close(&got);
    }

    /* the same through decode_known(), which eval and search use */
    int best[N];
    float nll[N];
    struct run got = {0};
    if (run_open(&got, &p.gpu, configs[1], FROM, N) && walk(&got, b, ids, first + V, false)) {
        session_rewind(b, FROM);
        CHECK(decode_known(b, got.method, NULL, ids, FROM, N, first + V, best, nll) == 0, "%s",
              last_failure());
        for (int k = 0; k < STEPS; k++)
            CHECK(best[FROM + k] == argmax_of(got.logits + (size_t)k * V, (int)V) &&
                      fabsf(nll[FROM + k] - got.nll[k]) <= 1e-4f,
                  "token %d: nll %g, %g", k, nll[FROM + k], got.nll[k]);
    }
    run_close(&got);
close:
    session_close(a);
    session_close(b);
    free(first);
    pair_close(&p);
done:
    free(ids);
}

/* ---- selections */

struct place {
    float score;
    int at;
};

/* Best first: NaN lowest, ties to the lower position. */
static int by_score(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    const bool nan_x = isnan(x->score), nan_y = isnan(y->score);
    if (nan_x != nan_y) return nan_x ? 1 : -1;
    if (!nan_x && x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->at - y->at;
}

static int by_position(const void *a, const void *b)
{
    return ((const struct place *)a)->at - ((const struct place *)b)->at;
}

/* What docs/methods.md selects by SCORE at POS: positions into IDX, ascending; how many. */
static int definition(int *idx, const float *score, const struct select_rule *r, int pos)
{
    const int n = r->candidates_all ? pos : r->n_prefill;
    const bool windowed = r->selector == SELECT_UNIFORM || r->selector == SELECT_EXP;
    int recent = r->recent, kept = 0;
    if (windowed && r->n_prefill - (pos - r->window + 1) > recent)
        recent = r->n_prefill - (pos - r->window + 1);
    struct place *p = xcalloc((size_t)n, sizeof *p);
    for (int t = 0; t < n; t++) {
        const bool always = t < r->n_prefill && (t < r->sinks || t >= r->n_prefill - recent);
        p[t] = (struct place){always ? INFINITY : score[t], t};
        kept += always;
    }
    int count = r->budget > kept ? r->budget : kept + 1;
    if (count > n) count = n;
    qsort(p, (size_t)n, sizeof *p, by_score);
    qsort(p, (size_t)count, sizeof *p, by_position);
    for (int i = 0; i < count; i++) idx[i] = p[i].at;
    free(p);
    return count;
}

/* SCORE [sets, span] = the maximum of LOGITS [H, span] over the heads of a set. */
static void largest_logits(float *score, const float *logits, size_t span, int n, int H, int sets)
{
    for (int set = 0; set < sets; set++)
        for (int t = 0; t < n; t++) {
            float best = -INFINITY;
            for (int h = set * (H / sets); h < (set + 1) * (H / sets); h++)
                best = fmaxf(best, logits[(size_t)h * span + (size_t)t]);
            score[(size_t)set * span + (size_t)t] = best;
        }
}

/* One rule over steps of made-up logits, many of them equal. */
static void one_rule(const struct ops *ops, struct rng *r, struct select_rule rule, int steps,
                     double *off)
{
    const struct model_config c = {.H = 8, .G = 4, .D = 64};
    const size_t span = ((size_t)rule.room + 15) / 16 * 16, H = 8, G = 4;
    struct selection gpu = {.ops = ops, .rule = rule}, cpu = {.ops = ops_cpu(NULL), .rule = rule};
    float *logits = xcalloc(H * span, sizeof *logits), *group = xcalloc(G * span, sizeof *group);
    float *score = xcalloc(H * span, sizeof *score);
    int *want = xcalloc(span, sizeof *want), *idx = NULL, count, tail;
    float *on_gpu = ops->alloc((H + G) * span * sizeof *on_gpu, "logits");
    const bool windowed = rule.selector == SELECT_UNIFORM || rule.selector == SELECT_EXP;
    const int before = windowed && rule.window - 1 < rule.n_prefill ? rule.window - 1 : 0;
    CHECK(ops->select_open(&gpu, &c) == 0 && cpu.ops->select_open(&cpu, &c) == 0, "%s",
          last_failure());
    idx = xcalloc((size_t)rule.sets * (size_t)rule.stride, sizeof *idx);
    for (int pos = rule.n_prefill - before; pos < rule.n_prefill + steps; pos++) {
        const bool refreshed = (pos - rule.n_prefill) % rule.refresh == 0;
        const int n = rule.candidates_all ? pos : rule.n_prefill;
        for (size_t i = 0; i < H * span; i++) /* eighths, and past the row nothing to be read */
            logits[i] = (int)(i % span) > pos ? NAN : (float)rng_below(r, 150) / 8 - 9;
        if (rng_below(r, 4) == 0) logits[rng_below(r, (uint32_t)n)] = -INFINITY;
        largest_logits(group, logits, span, pos + 1, (int)H, (int)G);
        ops->put(on_gpu, logits, H * span * sizeof *logits);
        ops->put(on_gpu + H * span, group, G * span * sizeof *group);
        if (pos < rule.n_prefill) {
            ops->select_remember(&gpu, on_gpu, span, pos, pos + 1, &c);
            cpu.ops->select_remember(&cpu, logits, span, pos, pos + 1, &c);
            continue;
        }
        if (ops->pass_begin) ops->pass_begin(&(int){0}, 1, pos, true);
        ops->select(&gpu, on_gpu, on_gpu + H * span, span, 1, pos, &c);
        cpu.ops->select(&cpu, logits, NULL, span, 1, pos, &c);
        if (ops->pass_end) CHECK(ops->pass_end() == 0, "%s", last_failure());
        ops->get(idx, gpu.idx, (size_t)rule.sets * (size_t)rule.stride * sizeof *idx);
        ops->get(&count, gpu.count, sizeof count);
        ops->get(&tail, gpu.tail, sizeof tail);
        CHECK(count == cpu.count[0] && tail == cpu.tail[0], "%d of %d, want %d of %d", count, tail,
              cpu.count[0], cpu.tail[0]);
        if (!refreshed) continue;
        if (rule.selector == SELECT_LAST)
            largest_logits(score, logits, span, n, (int)H, rule.sets);
        else if (ops->device)
            ops->get(score, gpu.score, (size_t)rule.sets * span * sizeof *score);
        for (int set = 0; set < rule.sets; set++) {
            const float *own = score + (size_t)set * span,
                        *other = cpu.score + (size_t)set * (size_t)n;
            if (rule.selector != SELECT_LAST && !ops->device) break;
            const int all = definition(want, own, &rule, pos);
            CHECK(count == all && memcmp(idx + (size_t)set * (size_t)rule.stride, want,
                                         (size_t)all * sizeof *want) == 0,
                  "selector %d, %d sets, refresh %d, all %d: set %d at step %d", rule.selector,
                  rule.sets, rule.refresh, rule.candidates_all, set, pos - rule.n_prefill);
            for (int t = 0; t < n && rule.selector != SELECT_LAST; t++)
                if (isfinite(other[t]) && other[t] > 0x1p-100f)
                    *off = fmax(*off, fabs(own[t] / (double)other[t] - 1));
        }
    }
    ops->select_close(&gpu);
    cpu.ops->select_close(&cpu);
    ops->release(on_gpu);
    free(logits);
    free(group);
    free(score);
    free(want);
    free(idx);
}

/* The op alone: by the scores it made, exactly what the definition selects; and its scores are the
 * CPU's but for the rounding of an exponential, of a sum and its logarithm. */
static void selections_are_exact(void)
{
    struct model m;
    struct rng r;
    double off = 0;
    const bool ok = model_open(&m, POCKET, NULL, DEVICE) == 0;
    CHECK(ok, "%s", last_failure());
    if (!ok) return;
    rng_seed(&r, 3);
    for (int i = 0; i < 4 * 3 * 2 * 3; i++) {
        static const int sizes[] = {37, 1000, 9001}, budgets[] = {8, 100, 3000};
        const int n = sizes[i / 24], sets = i / 4 % 3 == 0 ? 1 : i / 4 % 3 == 1 ? 4 : 8;
        struct select_rule rule = {.selector = (enum selector)(i % 4),
                                   .n_prefill = n,
                                   .sets = sets,
                                   .budget = budgets[rng_below(&r, 3)],
                                   .sinks = (int)rng_below(&r, 2) * 4,
                                   .recent = (int)rng_below(&r, 2) * 7,
                                   .window = 1 + (int)rng_below(&r, 12),
                                   .refresh = 1 + (int)rng_below(&r, 2) * 2,
                                   .candidates_all = i / 12 % 2,
                                   .room = n + 20};
        if (!rule.candidates_all && rule.budget > n) rule.budget = n;
        if (rule.budget > rule.room) rule.budget = rule.room;
        rule.stride = rule.budget + 40;
        one_rule(m.ops, &r, rule, 7, &off);
    }
    printf("selection: exact; pooled weights off by %.2e, relative\n", off);
    CHECK(off <= 6e-4, "%.2e", off); /* g(9021), and less for the exponentials of 20 and below */
    model_close(&m);
}

/* In the engine: what a filter layer selected, by the logits of its attention. */
struct watch {
    const struct run *w;
    float *logits, *score;
    int *want, compared;
};

static void ask(void *ctx, struct layer_pass *p)
{
    (void)ctx;
    p->want_logits = true;
}

static int compare_selection(void *ctx, const struct layer_pass *p)
{
    struct watch *watch = ctx;
    const struct run *w = watch->w;
    const struct run_config *c = &w->config;
    const struct model *m = w->method->model;
    const int n = c->candidates_all ? p->pos0 : w->from, sets = w->method->sets;
    for (int i = 0; i < c->n_layers; i++) {
        if (c->layers[i] != p->layer) continue;
        const struct select_rule rule = {
            .selector = SELECT_LAST,
            .n_prefill = w->from,
            .budget = c->candidates_all ? (int)c->budget : budget_tokens(c->budget, w->from),
            .sinks = c->sinks,
            .recent = c->recent,
            .candidates_all = c->candidates_all};
        int count;
        m->ops->get(watch->logits, p->logits, (size_t)m->config.H * p->span * sizeof(float));
        const int *idx = w->method->selection(w->method, i, 0, &count);
        largest_logits(watch->score, watch->logits, p->span, n, m->config.H, sets);
        for (int set = 0; set < sets; set++) {
            const int all =
                definition(watch->want, watch->score + (size_t)set * p->span, &rule, p->pos0);
            CHECK(count == all && memcmp(idx + (size_t)set * (size_t)w->method->stride, watch->want,
                                         (size_t)all * sizeof *idx) == 0,
                  "%s: layer %d, set %d, position %d", c->json, p->layer, set, p->pos0);
            watch->compared++;
        }
    }
    return 0;
}

static void check_selections(const struct model *m, const int *ids, const char *text)
{
    enum { N = FROM + 6 };
    struct run w = {0};
    struct watch watch = {.w = &w};
    const struct hooks tap = {.ctx = &watch, .before = ask, .after = compare_selection};
    struct session *s = run_open(&w, m, text, FROM, N) ? session_for(&w, m, false) : NULL;
    const float *logits;
    if (s && start(s, ids, FROM, w.logits) && method_begin(w.method, s) == 0) {
        const size_t all = (size_t)m->config.H * session_span(s);
        watch.logits = xcalloc(all, sizeof *watch.logits);
        watch.score = xcalloc(all, sizeof *watch.score);
        watch.want = xcalloc(session_span(s), sizeof *watch.want);
        for (int pos = FROM; pos < N; pos++) {
            session_forget_steps(s); /* a step that is recorded cannot be looked into */
            CHECK(forward(s, ids + pos, 1, false, &w.method->hooks, &tap, LOGITS_LAST, &logits) ==
                      0,
                  "%s", last_failure());
        }
    }
    CHECK(watch.compared > 0, "%s: nothing compared", text);
    free(watch.logits);
    free(watch.score);
    free(watch.want);
    session_close(s);
    run_close(&w);
}

static void layers_select_by_their_logits(void)
{
    struct model m;
    int *ids = text_ids(FROM + 6);
    const bool ok = model_open(&m, POCKET, NULL, DEVICE) == 0;
    CHECK(ok, "%s", last_failure());
    static const int exact[] = {1, 5, 6, 10, 11}; /* of the configs: selector last, each step */
    for (size_t i = 0; ok && i < COUNT_OF(exact); i++) check_selections(&m, ids, configs[exact[i]]);
    if (ok) model_close(&m);
    free(ids);
}

/* ---- bits */

/* Runs that must not differ in a bit: how steps are run, where keys and values live. */
static void bits_do_not_change(void)
{
#define LAST "\"num_of_selected_tokens\": 64, \"selector_cls\": \"last\""
#define EXP "\"num_of_selected_tokens\": 0.05, \"selector_cls\": \"exp\", \"pool\": \"group\""
    static const struct {
        const char *what, *a, *b;
        bool forget, exact;
    } cases[] = {
        {"dense replayed", "{\"model_cls\": \"raw_llama\"}", NULL, true, true},
        {"omnikv replayed", OMNIKV LAST HERE, NULL, true, true},
        {"offload replayed", OMNIKV LAST "}", NULL, true, true},
        {"uniform replayed", OMNIKV EXP HERE, NULL, true, true},
        {"dense again", "{\"model_cls\": \"raw_llama\"}", NULL, false, true},
        {"offload again", OMNIKV EXP "}", NULL, false, true},
        {"offload, last", OMNIKV LAST HERE, OMNIKV LAST "}", false, true},
        {"offload, exp by group", OMNIKV EXP HERE, OMNIKV EXP "}", false, true},
        {"offload, refresh", OMNIKV LAST ", \"refresh\": 3" HERE, OMNIKV LAST ", \"refresh\": 3}",
         false, true},
        {"offload, sinks", OMNIKV LAST ", \"sinks\": 4, \"recent\": 9" HERE,
         OMNIKV LAST ", \"sinks\": 4, \"recent\": 9}", false, true},
        {"without_pack", OMNIKV LAST "}", OMNIKV LAST ", \"cache_cls\": \"without_pack\"}", false,
         true},
        {"without_pack replayed", OMNIKV EXP ", \"cache_cls\": \"without_pack\"}", NULL, true,
         true},
        {"budget past the prompt", OMNIKV "\"num_of_selected_tokens\": 1e6" HERE,
         OMNIKV "\"num_of_selected_tokens\": 1e6}", false, true},
        /* entries in the same order, but they may be split differently */
        {"brutal_offload", "{\"model_cls\": \"raw_llama\"}",
         "{\"model_cls\": \"brutal_offload\", \"offload_sid\": 4}", false, false},
        {"brutal_offload, one layer", "{\"model_cls\": \"raw_llama\"}",
         "{\"model_cls\": \"brutal_offload\", \"offload_sid\": 11}", false, false},
        {"brutal_offload replayed", "{\"model_cls\": \"brutal_offload\", \"offload_sid\": 0}", NULL,
         true, true},
    };
    struct model m;
    int *ids = text_ids(FROM + 51);
    const bool ok = model_open(&m, POCKET, NULL, DEVICE) == 0;
    CHECK(ok, "%s", last_failure());
    for (size_t i = 0; ok && i < COUNT_OF(cases); i++) {
        struct run a = {0}, b = {0};
        const char *other = cases[i].b ? cases[i].b : cases[i].a;
        if (run_whole(&a, &m, ids, FROM, FROM + 51, cases[i].a, false, false) &&
            run_whole(&b, &m, ids, FROM, FROM + 51, other, cases[i].forget, false)) {
            struct found f = {0};
            compare_rows(&f, b.logits, a.logits, 51, a.V);
            const double deviation = deviation_of(a.logits, (size_t)51 * (size_t)a.V);
            printf("bits, %s: %s, worst row %.2e\n", cases[i].what,
                   same_bits(&a, &b) ? "the same" : "others", f.row / deviation);
            CHECK(same_bits(&a, &b) || !cases[i].exact, "%s", cases[i].what);
            CHECK(f.row <= 1e-4 * deviation, "%s: %.2e", cases[i].what, f.row / deviation);
        }
        run_close(&a);
        run_close(&b);
    }
    if (ok) model_close(&m);
    free(ids);
}

/* ---- sessions beside each other, and after failures */

struct failing {
    int calls, at; /* fails at that call, once */
};

static int fail_at(void *ctx, const struct layer_pass *p)
{
    struct failing *f = ctx;
    (void)p;
    return f->calls++ == f->at ? fail("as asked") : 0;
}

/* Steps of S under METHOD whose hook fails in the layer AT of the first, second, third run of the
 * step: as it is run, and as it is recorded. */
static void fail_in_steps(struct session *s, struct method *method, const int *ids, int at)
{
    const int length = session_length(s), L = session_model(s)->config.L;
    const float *logits;
    for (int run = 0; run < 4; run++) {
        struct failing fails = {.at = run * L + at};
        const struct hooks failing = {.ctx = &fails, .after = fail_at};
        int failed = 0;
        session_forget_steps(s);
        for (int i = 0; i < 6; i++) {
            const int rc =
                forward(s, ids, 1, false, &method->hooks, &failing, LOGITS_LAST, &logits);
            failed += rc != 0;
            CHECK(rc == 0 || strstr(last_failure(), "as asked"), "%s", last_failure());
            session_rewind(s, length);
        }
        CHECK(failed == (fails.calls > fails.at), "%d failed", failed);
    }
}

static void sessions_do_not_disturb_each_other(void)
{
    enum { MANY = 3, N = 20 };
    static const char *const texts[MANY] = {"{\"model_cls\": \"raw_llama\"}", OMNIKV LAST "}",
                                            OMNIKV EXP HERE};
    static const int lengths[MANY] = {64, 900, 333};
    struct model m;
    struct run alone[MANY] = {{0}}, w[MANY] = {{0}};
    struct session *s[MANY] = {NULL};
    int *ids = text_ids(FROM);
    const float *logits;
    bool ok = model_open(&m, POCKET, NULL, DEVICE) == 0;
    CHECK(ok, "%s", last_failure());
    if (!ok) goto done;
    const size_t V = (size_t)m.config.V;
    for (int i = 0; i < MANY; i++)
        ok = run_whole(&alone[i], &m, ids + 7 * i, lengths[i], lengths[i] + N, texts[i], false,
                       false) &&
             run_open(&w[i], &m, texts[i], lengths[i], lengths[i] + N) &&
             (s[i] = session_for(&w[i], &m, false)) != NULL && ok;
    for (int i = 0; ok && i < MANY; i++)
        ok = start(s[i], ids + 7 * i, lengths[i], w[i].logits) &&
             method_begin(w[i].method, s[i]) == 0;
    for (int k = 0; ok && k < N - 1; k++)
        for (int i = 0; ok && i < MANY; i++) {
            const bool muted = mute_failures(true);
            CHECK(forward(s[i], &m.config.V, 1, false, NULL, NULL, LOGITS_LAST, &logits) == -1,
                  "a token past the vocabulary");
            if (k == 5) fail_in_steps(s[i], w[i].method, ids, 2 + i);
            mute_failures(muted);
            ok = forward(s[i], ids + 7 * i + lengths[i] + k, 1, false, &w[i].method->hooks, NULL,
                         LOGITS_LAST, &logits) == 0;
            if (ok) memcpy(w[i].logits + (size_t)(k + 1) * V, logits, V * sizeof *logits);
        }
    CHECK(ok, "%s", last_failure());
    for (int i = 0; ok && i < MANY; i++)
        CHECK(same_bits(&alone[i], &w[i]), "session %d among others", i);

    /* rewound into the decoded tokens, many rows that end elsewhere, then the same again */
    for (int again = 0; ok && again < 2; again++) {
        session_rewind(s[0], lengths[0] + 4);
        ok = forward(s[0], ids, 3, true, NULL, NULL, LOGITS_ALL, &logits) == 0;
        session_rewind(s[0], lengths[0] + 4);
        for (int k = 4; ok && k < N - 4; k++) {
            ok = forward(s[0], ids + lengths[0] + k, 1, false, &w[0].method->hooks, NULL,
                         LOGITS_LAST, &logits) == 0;
            const float *want = alone[0].logits + (size_t)(k + 1) * V;
            CHECK(ok && memcmp(logits, want, V * sizeof *logits) == 0 &&
                      session_outcome(s[0], 0)->argmax == argmax_of(want, (int)V),
                  "step %d after a rewind: %s", k, ok ? "others" : last_failure());
        }
    }

    /* a prefill that a hook ends, and then a whole one */
    const bool muted = mute_failures(true);
    for (int at = 0; ok && at < 12; at += 5) {
        struct failing fails = {.at = at};
        const struct hooks failing = {.ctx = &fails, .after = fail_at};
        CHECK(prefill(s[1], ids, 50, NULL, &failing, &logits) == -1, "a hook that fails");
    }
    mute_failures(muted);
    if (ok && start(s[1], ids + 7, lengths[1], w[1].logits))
        CHECK(memcmp(w[1].logits, alone[1].logits, V * sizeof *logits) == 0, "after failures");
    for (int i = 0; i < MANY; i++) {
        session_close(s[i]);
        run_close(&alone[i]);
        run_close(&w[i]);
    }
    printf("sessions: %s\n", ok ? "beside each other and after failures" : last_failure());
    model_close(&m);
done:
    free(ids);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {
        {"prefill", prefills_match_the_cpu}, {"steps", methods_match_the_cpu},
        {"selection", selections_are_exact}, {"layers", layers_select_by_their_logits},
        {"bits", bits_do_not_change},        {"sessions", sessions_do_not_disturb_each_other},
    };
    set_program_name("test_cuda_engine");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (gpu_open("test_cuda_engine"))
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            bool wanted = argc == 1;
            for (int k = 1; k < argc; k++) wanted = wanted || strcmp(argv[k], parts[i].name) == 0;
            if (wanted) parts[i].run();
        }
    return check_report("test_cuda_engine");
}
