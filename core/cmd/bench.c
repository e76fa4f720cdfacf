/* bench.c - okv bench: latency against context length, beside the roofline of this machine. */
#include "core/cmd/cmd.h"
#include "core/cmd/common.h"

#include "core/base/base.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv bench (--model DIR | --shape NAME) [--context 4K,16K,...] [--config FILE]... "
    "[OPTIONS]\n"
    "Measures decode latency of each method at each context length.\n"
    "  --model DIR     Hugging Face checkpoint\n"
    "  --shape NAME    random weights of a named shape: llama-3-8b, llama-3-70b, pocket, a "
    "config.json\n"
    "  --context N,... tokens in the cache, such as 1500,4K,16K [1K,2K,4K,8K]\n"
    "  --config FILE   a method; may be repeated [dense, and OmniKV with the original's filters "
    "scaled\n"
    "                  to the model's depth, 1 wait layer, --k tokens]\n"
    "  --k K           selected tokens of that OmniKV [2048]\n"
    "  --steps N       decode steps measured for each point [32]\n"
    "  --prefill       also prefill for real, and measure it; otherwise keys and values are "
    "synthetic\n"
    "  --text FILE     text to prefill with, repeated to the length asked for [random tokens]\n"
    "  --threads N     CPU threads [all cores]\n"
    "  --trace FIELDS  run each step once more, traced (fields as in okv trace), into --dump\n"
    "  --dump STEM     the dumps STEM.METHOD.CONTEXT.h5 of --trace\n"
    "  --out FILE      the table there, not on stdout\n"
    "Columns: method, context (tokens), prefill_s, decode_ms (median), decode_ms_low, "
    "decode_ms_high\n"
    "(10th and 90th percentile), tokens_s, gb_step (weights, keys and values a step must read),\n"
    "roofline_ms (gb_step over the bandwidth this run measured), of_roofline, kv_gb (memory of "
    "keys\n"
    "and values), traced_ms (median of the traced steps), trace_cost (all the time tracing added,\n"
    "writing the dump included, as a share), status (ok, oom).\n";

/* Bytes per second that all threads together read from an array far larger than the caches. */
static double read_bandwidth(void)
{
    const size_t n = (size_t)64 << 20; /* floats: 256 MiB */
    float *a = big_alloc(n * sizeof *a, "bandwidth test");
    double best = 0;
    if (a == NULL) return -1;
    memset(a, 1, n * sizeof *a);
    for (int run = 0; run < 6; run++) {
        int64_t sum = 0;
        const double start = clock_seconds();
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (size_t i = 0; i < n; i += 16) { /* one number of each cache line moves all of it */
            int32_t v;
            memcpy(&v, a + i, sizeof v);
            sum += v;
        }
        const double rate = (double)(n * sizeof *a) / (clock_seconds() - start);
        if (sum != 0 && rate > best) best = rate; /* the sum is never 0: it keeps the loop alive */
    }
    free(a);
    return best;
}

/* Bytes a decode step must read: every matrix but the embedding table, of which one row, and the
 * keys and values each layer looks at. */
static double step_bytes(const struct model *m, const struct method *method,
                         const struct run_config *c, int context)
{
    const struct model_config *s = &m->config;
    const double row = 2.0 * sizeof(float) * s->G * padded_width(s->D);
    const struct matrix *embed = &m->weights->embed;
    const double table =
        s->tied ? 0 : (double)embed->rows * embed->cols * (double)dtype_size(embed->type);
    double seen = context;
    if (c->method == METHOD_OMNIKV) seen = budget_tokens(c->budget, context);
    if (c->method == METHOD_WINDOW)
        seen = budget_tokens(c->window_sinks, context) + budget_tokens(c->window_recent, context);
    if (seen > context) seen = context;
    return m->weights->bytes - table +
           row * (method->full_layers * (double)context + (s->L - method->full_layers) * seen);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench {
    const struct model *model;
    const int *text; /* tokens to prefill with, or NULL */
    int n_text, steps;
    bool prefill;
    double bandwidth;
    struct engine *engine;
    struct trace_spec trace; /* fields NULL: nothing is traced */
    const char *dumps;       /* stem of the dumps' names */
};

static int fill_context(const struct bench *b, struct session *s, int context, double *seconds)
{
    if (!b->prefill) {
        session_fill(s, context, 1);
        return 0;
    }
    int *ids = xmalloc((size_t)context * sizeof *ids);
    struct rng r;
    const float *logits;
    rng_seed(&r, 1);
    for (int i = 0; i < context; i++)
        ids[i] =
            b->text ? b->text[i % b->n_text] : (int)rng_below(&r, (uint32_t)b->model->config.V);
    const double start = clock_seconds();
    const int rc = prefill(s, ids, context, NULL, &logits);
    *seconds = clock_seconds() - start;
    free(ids);
    return rc;
}

static int bench_point(struct bench *b, FILE *f, const struct run_config *config, int context)
{
    const struct model *m = b->model;
    struct method *method = method_open(config, m);
    struct session *s = NULL;
    struct tracer *tracer = NULL;
    double *ms = xcalloc(2 * (size_t)b->steps, sizeof *ms), *traced = ms + b->steps;
    double prefill_s = NAN, plain_sum = 0, traced_sum = 0;
    int rc = -1, *fed = NULL;
    char *path = NULL;
    const float *logits;

    if (method == NULL) goto done;
    const double bytes = step_bytes(m, method, config, context);
    const double roofline = bytes / b->bandwidth * 1e3,
                 kv = session_bytes(&m->config, context + b->steps);
    if (kv > 0.9 * memory_available()) {
        fprintf(f, "%s\t%d\t-\tnan\tnan\tnan\tnan\t%.4f\t%.4f\tnan\t%.4f\tnan\tnan\toom\n",
                method_name(config->method), context, bytes / 1e9, roofline, kv / 1e9);
        rc = 0;
        goto done;
    }
    const int room = context + b->steps + 2,
              keep = method->keep_queries < room ? method->keep_queries : room;
    s = session_open(m, room, keep, true);
    if (s == NULL || fill_context(b, s, context, &prefill_s) || method->begin(method, s)) goto done;
    if (b->trace.fields) {
        fed = xcalloc((size_t)room, sizeof *fed);
        path = xprintf("%s.%s.%d.h5", b->dumps, method_name(config->method), context);
        b->trace.path = path;
        if ((tracer = tracer_open(&b->trace, b->engine, method)) == NULL) goto done;
        if (tracer_begin(tracer, 0, "bench", fed, context, room, b->steps + 2) < 0) goto done;
    }
    for (int i = -2; i < b->steps; i++) { /* two steps to warm up */
        const int token = 0;
        double start = clock_seconds();
        if (forward(s, &token, 1, false, &method->hooks, NULL, LOGITS_LAST, &logits)) goto done;
        if (i >= 0) plain_sum += ms[i] = (clock_seconds() - start) * 1e3;
        if (tracer == NULL) continue;
        session_rewind(s, session_length(s) - 1); /* the same step again, traced */
        start = clock_seconds();
        if (forward(s, &token, 1, false, &method->hooks, tracer_hooks(tracer), LOGITS_LAST,
                    &logits))
            goto done;
        if (i >= 0) traced_sum += traced[i] = (clock_seconds() - start) * 1e3;
    }
    if (tracer) { /* what waits to be compressed and written belongs to the cost */
        const double start = clock_seconds();
        float *nll = xcalloc((size_t)b->steps + 2, sizeof *nll);
        rc = tracer_end(tracer, b->engine, fed, context + b->steps + 2, nll, "", "");
        free(nll);
        rc = tracer_close(tracer, rc);
        tracer = NULL;
        if (rc) goto done;
        rc = -1;
        traced_sum += (clock_seconds() - start) * 1e3;
    }
    qsort(traced, (size_t)b->steps, sizeof *traced, by_value);
    qsort(ms, (size_t)b->steps, sizeof *ms, by_value);
    const double median = ms[b->steps / 2];
    char *trace_text = path
                           ? xprintf("%.4f\t%.4f", traced[b->steps / 2], traced_sum / plain_sum - 1)
                           : xstrdup("-\t-");
    char *prefill_text = isnan(prefill_s) ? xstrdup("-") : xprintf("%.4f", prefill_s);
    fprintf(f, "%s\t%d\t%s\t%.4f\t%.4f\t%.4f\t%.2f\t%.4f\t%.4f\t%.3f\t%.4f\t%s\tok\n",
            method_name(config->method), context, prefill_text, median, ms[b->steps / 10],
            ms[b->steps - 1 - b->steps / 10], 1e3 / median, bytes / 1e9, roofline,
            roofline / median, kv / 1e9, trace_text);
    fflush(f);
    free(prefill_text);
    free(trace_text);
    rc = 0;

done:
    tracer_close(tracer, -1);
    session_close(s);
    method_close(method);
    free(fed);
    free(path);
    free(ms);
    return rc;
}

/* The original's filters 2, 8, 18 of 32 layers, at the same depths of this model. */
static char *scaled_config(int L, int k)
{
    const int a = 2 * L / 32, b = 8 * L / 32 > a ? 8 * L / 32 : a + 1,
              c = 18 * L / 32 > b ? 18 * L / 32 : b + 1;
    return xprintf("{\"model_cls\": \"multi\", \"cache_cls\": \"multi\", \"dense_more\": true, "
                   "\"real_offload\": false, \"do_select_layers\": \"%d,%d,%d\", "
                   "\"num_wait_load_layers\": 1, \"selector_cls\": \"last\", "
                   "\"num_of_selected_tokens\": %d}",
                   a, b, c, k);
}

static int parse_contexts(const char *text, int **list, int *n)
{
    char *copy = xstrdup(text), *rest = copy;
    int rc = 0;
    *n = 0;
    *list = NULL;
    for (char *item; rc == 0 && (item = strsep(&rest, ",")) != NULL;) {
        *list = xrealloc(*list, (size_t)(*n + 1) * sizeof **list);
        rc = parse_size("--context", item, 1, 1 << 30, &(*list)[(*n)++]);
    }
    free(copy);
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    const char *dir = NULL, *shape = NULL, *contexts = "1K,2K,4K,8K", *text = NULL,
               *out_path = NULL, *trace = NULL, *dumps = NULL;
    struct strings paths = {0};
    int threads = 0, steps = 32, k = 2048, first, status, n_contexts = 0, *context = NULL,
        n_configs = 0;
    bool with_prefill = false;
    const struct option_spec options[] = {
        {"--model", OPT_STRING, &dir, 0, 0},
        {"--shape", OPT_STRING, &shape, 0, 0},
        {"--context", OPT_STRING, &contexts, 0, 0},
        {"--config", OPT_STRINGS, &paths, 0, 0},
        {"--k", OPT_INT, &k, 1, 1 << 30},
        {"--steps", OPT_INT, &steps, 1, 100000},
        {"--prefill", OPT_FLAG, &with_prefill, 0, 0},
        {"--text", OPT_STRING, &text, 0, 0},
        {"--threads", OPT_INT, &threads, 1, 1024},
        {"--trace", OPT_STRING, &trace, 0, 0},
        {"--dump", OPT_STRING, &dumps, 0, 0},
        {"--out", OPT_STRING, &out_path, 0, 0},
        {0},
    };
    struct engine e = {0};
    struct run_config *configs = NULL;
    struct output out = {0};
    int *ids = NULL, n_ids = 0;
    char *notes = NULL;
    if ((status = options_parse(argc, argv, options, usage, &first)) >= 0) goto done;
    if (!dir == !shape || first < argc) {
        status =
            first < argc
                ? usage_error(argv[0], "unexpected argument \"%s\"", argv[first])
                : usage_error(argv[0], "exactly one of --model DIR and --shape NAME is needed");
        goto done;
    }
    if (!trace != !dumps) {
        status = usage_error(argv[0], "--trace FIELDS and --dump STEM go together");
        goto done;
    }
    if ((status = parse_contexts(contexts, &context, &n_contexts) ? 2 : 0) != 0) goto done;
    tracer_not_here(argv[0]);
    struct engine_args args = {.model = dir, .shape = shape, .threads = threads};
    if ((status = engine_open(&e, argv[0], &args)) != 0) goto done;
    status = 1;
    const int L = e.model.config.L;
    configs = xcalloc((size_t)(paths.n + 2), sizeof *configs);
    for (; n_configs < paths.n; n_configs++)
        if (run_config_load(&configs[n_configs], paths.v[n_configs])) goto done;
    if (paths.n == 0) {
        char *omnikv = scaled_config(L, k);
        if (run_config_load(&configs[n_configs++], NULL)) goto done;
        const int rc = L < 4 ? 0 : run_config_parse(&configs[n_configs++], "omnikv", omnikv);
        free(omnikv);
        if (rc) goto done;
    }
    if (text && engine_prompt(&e, NULL, text, NULL, &ids, &n_ids)) goto done;
    if (output_open(&out, out_path)) goto done;

    struct bench b = {.model = &e.model,
                      .text = ids,
                      .n_text = n_ids,
                      .steps = steps,
                      .prefill = with_prefill || text,
                      .bandwidth = read_bandwidth(),
                      .engine = &e,
                      .trace = {.fields = trace, .argc = argc, .argv = argv},
                      .dumps = dumps};
    if (b.bandwidth < 0) goto done;
    notes = xprintf(
        "model %s%s, %s weights %.3f GB, %d threads; read bandwidth measured: %.1f GB/s\n"
        "keys and values in float32, %s; %d steps a point, median and 10th to 90th percentile",
        e.model.config.name, e.model.weights->random ? " (random weights)" : "",
        dtype_name(e.model.weights->dtype), e.model.weights->bytes / 1e9, omp_get_max_threads(),
        b.bandwidth / 1e9,
        b.prefill ? text ? "of a real prefill of text" : "of a prefill of random tokens"
                  : "synthetic",
        steps);
    table_head(out.f, argc, argv, notes);
    for (int i = 0; i < n_configs; i++) fprintf(out.f, "# method %d: %s\n", i, configs[i].json);
    fprintf(
        out.f,
        "method\tcontext\tprefill_s\tdecode_ms\tdecode_ms_low\tdecode_ms_high\ttokens_s\tgb_step\t"
        "roofline_ms\tof_roofline\tkv_gb\ttraced_ms\ttrace_cost\tstatus\n");
    for (int i = 0; i < n_configs; i++)
        for (int j = 0; j < n_contexts; j++)
            if (bench_point(&b, out.f, &configs[i], context[j])) goto done;
    status = 0;

done:
    if (output_close(&out, status)) status = status ? status : 1;
    for (int i = 0; i < n_configs; i++) run_config_free(&configs[i]);
    free(configs);
    free(notes);
    free(ids);
    free(context);
    free(paths.v);
    engine_close(&e);
    return status;
}
