/* bench.c - okv bench: latency against context length, beside the roofline of this machine. */
#include "core/cmd/bench.h"
#include "core/cmd/cmd.h"

#include "core/base/base.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv bench (--model DIR | --shape NAME) [--context 4K,16K,...] [OPTIONS]\n"
    "Measures decode latency of each method at each context length.\n"
    "  --model DIR     Hugging Face checkpoint\n"
    "  --shape NAME    random weights of a named shape: llama-3-8b, llama-3-70b, pocket, a "
    "config.json\n"
    "  --device NAME   cpu, cuda or cuda:N [the first CUDA device where there is one]\n"
    "  --context N,... tokens in the cache, such as 1500,4K,16K [1K,2K,4K,8K; on CUDA "
    "4K,32K,128K]\n"
    "  --config [LABEL=]FILE  a method, and its name in the table; may be repeated [dense, and "
    "OmniKV\n"
    "                  with the original's filters scaled to the model's depth, 1 wait layer, --k\n"
    "                  tokens; on CUDA also with real_offload, without_pack, and brutal_offload]\n"
    "  --filters A,B,C/W  OmniKV with these filter layers, W wait layers and --k tokens; may be\n"
    "                  repeated; beside the methods of --config, or dense\n"
    "  --peers         also h2o, quest, tidal, streaming and infllm, --k tokens each; beside the\n"
    "                  methods of --config, or dense and OmniKV\n"
    "  --k K           selected tokens of that OmniKV and of --peers [2048]\n"
    "  --budgets N,... run each method that has a budget at these numbers of tokens, instead of "
    "its\n"
    "                  own; docs/config.md says how each divides them\n"
    "  --steps N       decode steps measured for each point [32]; on CUDA 5 seconds of them at "
    "most,\n"
    "                  though 5 steps\n"
    "  --prefill       also prefill for real, and measure it; otherwise keys and values are "
    "synthetic\n"
    "  --text FILE     text to prefill with, repeated to the length asked for [random tokens]\n"
    "  --kernels       CUDA: each kernel of a step alone instead, at the contexts [4K to 512K]\n"
    "  --threads N     CPU threads [all cores]\n"
    "  --trace FIELDS  run each step once more, traced (fields as in okv trace), into --dump\n"
    "  --dump STEM     the dumps STEM.METHOD.CONTEXT.h5 of --trace\n"
    "  --out FILE      the table there, not on stdout\n"
    "Columns: method, context (tokens), budget (tokens of it that other layers keep or select),\n"
    "full_layers (that see all),\n"
    "prefill_s, decode_ms (median), decode_ms_low, decode_ms_high (10th and 90th percentile),\n"
    "tokens_s, gb_step (weights, keys and values a step must read), roofline_ms (gb_step over the\n"
    "bandwidth this run measured), link_gb and link_ms (what a step must fetch from the host, and "
    "at\n"
    "the rate this run measured), of_roofline (the larger of the two times over decode_ms), kv_gb\n"
    "(keys and values), gpu_gb and gpu_used_gb (a session's device memory, planned and taken),\n"
    "host_gb (its host memory; on CUDA pinned), traced_ms (median of the traced steps), "
    "trace_cost\n"
    "(all the time tracing added, writing the dump included, as a share), status (ok, oom); a "
    "dash\n"
    "is what there is not. Of --kernels: kernel, context, us, floor_us (its bytes at the "
    "bandwidth\n"
    "measured), of_floor, gb_s, mb (moved).\n";

/* What a run is asked for. */
struct request {
    struct engine_args engine;
    const char *text, *trace, *dumps, *out;
    struct int_list contexts, budgets;
    struct strings configs, filters;
    int k, steps;
    bool prefill, kernels, peers;
};

/* A method and its name in the table. */
struct entry {
    char *label;
    struct run_config config;
};
struct entries {
    struct entry *v;
    int n;
};

/* ---- which methods */

static struct entry *add(struct entries *list)
{
    list->v = xrealloc(list->v, (size_t)(list->n + 1) * sizeof *list->v);
    struct entry *e = &list->v[list->n++];
    memset(e, 0, sizeof *e);
    return e;
}

/* Where nobody gave a name: the method's, and on a device what its memory adds to it. */
static char *usual_label(const struct run_config *c, bool device)
{
    const bool away = device && c->method == METHOD_OMNIKV && c->real_offload;
    return xprintf("%s%s", method_name(c->method),
                   away ? c->apart ? "+without_pack" : "+offload" : "");
}

static int add_file(struct entries *list, const char *argument, bool device)
{
    struct entry *e = add(list);
    if (run_config_load(&e->config, config_file(argument)) || config_label(argument, &e->label))
        return -1;
    if (e->label == NULL) e->label = usual_label(&e->config, device);
    return 0;
}

/* Fails again with the last failure, which nobody has seen, of the method called LABEL. */
static int fail_of(const char *label)
{
    char *why = xstrdup(last_failure());
    fail("method %s: %s", label, why);
    free(why);
    return -1;
}

/* What a method refuses, such as layers past the model's last, before anything is measured. */
static int try_methods(const struct entries *methods, const struct model *m)
{
    for (int i = 0; i < methods->n; i++) {
        const bool muted = mute_failures(true);
        struct method *method = method_open(&methods->v[i].config, m);
        mute_failures(muted);
        if (method == NULL) return fail_of(methods->v[i].label);
        method_close(method);
    }
    return 0;
}

static int add_omnikv(struct entries *list, const char *label, const char *layers, int wait, int k,
                      const char *cache, bool offload)
{
    char *json = xprintf("{\"model_cls\": \"multi\", \"cache_cls\": \"%s\", \"dense_more\": true, "
                         "\"real_offload\": %s, \"do_select_layers\": \"%s\", "
                         "\"num_wait_load_layers\": %d, \"selector_cls\": \"last\", "
                         "\"num_of_selected_tokens\": %d}",
                         cache, offload ? "true" : "false", layers, wait, k);
    struct entry *e = add(list);
    const int rc = run_config_parse(&e->config, label, json);
    free(json);
    e->label = xstrdup(label);
    return rc;
}

/* Splits "2,8,18/1" into its layers, which the caller frees, and its wait layers. */
static int parse_filters(const char *text, char **layers, int *wait)
{
    const char *slash = strchr(text, '/');
    int *list = NULL, n;
    *layers = NULL;
    if (slash == NULL)
        return fail("--filters: expected filter layers and wait layers such as 2,8,18/1, found "
                    "\"%s\"",
                    text);
    *layers = xprintf("%.*s", (int)(slash - text), text);
    const int rc = parse_int("--filters", slash + 1, 0, 9999, wait) ||
                   parse_int_list("--filters", *layers, 0, 9999, &list, &n);
    free(list);
    return rc ? -1 : 0;
}

static int add_filters(struct entries *list, const char *text, int k)
{
    char *layers, *label = xprintf("omnikv %s", text);
    int wait;
    const int rc = parse_filters(text, &layers, &wait) ||
                   add_omnikv(list, label, layers, wait, k, "multi", false);
    free(layers);
    free(label);
    return rc ? -1 : 0;
}

static int add_brutal_offload(struct entries *list, int L)
{
    char *json = xprintf("{\"model_cls\": \"brutal_offload\", \"offload_sid\": %d}", 10 * L / 32);
    struct entry *e = add(list);
    const int rc = run_config_parse(&e->config, "brutal_offload", json);
    free(json);
    e->label = usual_label(&e->config, true);
    return rc;
}

/* The methods OmniKV is compared with, each keeping or selecting K tokens of the prompt; tidal
 * selects again at the depth of its authors' layer 13 of 32. */
static int add_peers(struct entries *list, int L, int k)
{
    static const char *const peers[] = {
        "{\"model_cls\": \"h2o\", \"hh_size\": 1, \"recent_size\": 1}",
        "{\"model_cls\": \"quest\"}",
        "{\"model_cls\": \"tidal\", \"dense_layers\": 2, \"correction_layer\": %d}",
        "{\"model_cls\": \"streaming\", \"n_init\": 4}",
        "{\"model_cls\": \"infllm\", \"n_init\": 4}",
    };
    for (size_t i = 0; i < COUNT_OF(peers); i++) {
        const bool layered = strchr(peers[i], '%') != NULL;
        const int again = 13 * L / 32 > 3 ? 13 * L / 32 : 3;
        if (layered && again >= L) continue; /* no layer is left for it */
        char *json = layered ? xprintf(peers[i], again) : xstrdup(peers[i]);
        struct entry *e = add(list);
        const int rc = run_config_parse(&e->config, "--peers", json) ||
                       run_config_set_budget(&e->config, k) < 0;
        free(json);
        if (rc) return -1;
        e->label = xstrdup(method_name(e->config.method));
    }
    return 0;
}

/* Dense, and the original's filters 2, 8, 18 of 32 layers at the same depths of this model; on a
 * device with each of the places for keys and values. */
static int add_usual(struct entries *list, int L, int k, bool device, bool dense_alone,
                     bool resident)
{
    const int a = 2 * L / 32, b = 8 * L / 32 > a ? 8 * L / 32 : a + 1,
              c = 18 * L / 32 > b ? 18 * L / 32 : b + 1;
    struct entry *dense = add(list);
    int rc = run_config_load(&dense->config, NULL);
    dense->label = xstrdup(device ? "full" : "dense");
    if (rc || dense_alone || L < 4) return rc;
    char *layers = xprintf("%d,%d,%d", a, b, c);
    rc = add_omnikv(list, "omnikv", layers, 1, k, "multi", false);
    if (rc == 0 && device && !resident)
        rc = add_omnikv(list, "omnikv+offload", layers, 1, k, "multi", true) ||
             add_omnikv(list, "omnikv+without_pack", layers, 1, k, "without_pack", true) ||
             add_brutal_offload(list, L);
    free(layers);
    return rc;
}

static int choose_methods(struct entries *list, const struct request *r, const struct model *m)
{
    const bool device = m->ops->device;
    const int L = m->config.L;
    for (int i = 0; i < r->configs.n; i++)
        if (add_file(list, r->configs.v[i], device)) return -1;
    if (r->configs.n == 0 && add_usual(list, L, r->k, device, r->filters.n > 0, r->peers))
        return -1;
    for (int i = 0; i < r->filters.n; i++)
        if (add_filters(list, r->filters.v[i], r->k)) return -1;
    return r->peers ? add_peers(list, L, r->k) : 0;
}

/* ---- the table */

static void print_head(FILE *f, const struct bench *b, int argc, char **argv,
                       const struct request *r)
{
    static const char *const names[CEILINGS] = {
        [CEILING_READ] = "read",
        [CEILING_COPY] = "copy, read and written",
        [CEILING_DOWN] = "host to device",
        [CEILING_UP] = "device to host",
        [CEILING_GATHER_2K] = "gather of rows of 2 KiB from the host",
        [CEILING_GATHER_4K] = "gather of rows of 4 KiB from the host",
    };
    const struct model *m = &b->engine->model;
    char *where =
        m->ops->device ? xstrdup(m->ops->machine()) : xprintf("%d threads", omp_get_max_threads());
    char *how =
        xprintf("%s, %s; %d steps a point, median and 10th to 90th percentile",
                m->ops->device ? "keys and values in 16 bits" : "keys and values in float32",
                !b->prefill ? "synthetic"
                : r->text   ? "of a real prefill of text"
                            : "of a prefill of random tokens",
                r->steps);
    char *notes = xprintf(
        "model %s%s, %s weights %.3f GB, %s; read bandwidth measured: %.1f GB/s\n%s",
        m->config.name, m->weights->random ? " (random weights)" : "",
        dtype_name(m->weights->dtype), m->weights->bytes / 1e9, where, b->rate[CEILING_READ] / 1e9,
        r->kernels ? "each kernel alone, from a graph of many; median of 15 replays" : how);
    table_head(f, argc, argv, notes);
    for (int i = 0; i < CEILINGS; i++)
        if (b->rate[i] > 0) fprintf(f, "# ceiling %s: %.1f GB/s\n", names[i], b->rate[i] / 1e9);
    free(where);
    free(how);
    free(notes);
}

/* One method at all contexts, and at each of the BUDGETS where it takes one. */
static int run_method(struct bench *b, FILE *f, struct entry *e, const struct int_list *contexts,
                      const struct int_list *budgets)
{
    struct run_config *c = &e->config;
    b->budgets = false;
    for (int i = 0; i == 0 || (b->budgets && i < budgets->n); i++) {
        const bool muted = mute_failures(true);
        const int set = budgets->n > 0 ? run_config_set_budget(c, budgets->v[i]) : 0;
        mute_failures(muted);
        if (set < 0) return fail_of(e->label);
        b->budgets = set > 0;
        for (int j = 0; j < contexts->n; j++)
            if (bench_point(b, f, e->label, c, contexts->v[j])) return -1;
    }
    return 0;
}

/* Status 2 after fail(): options that contradict each other. */
static int check_request(const char *name, const struct request *r)
{
    if (!r->engine.model == !r->engine.shape)
        return usage_error(name, "exactly one of --model DIR and --shape NAME is needed");
    if (r->peers && r->k < 16)
        return usage_error(name, "--peers needs --k 16 at least, a page of quest; found %d", r->k);
    if (!r->trace != !r->dumps)
        return usage_error(name, "--trace FIELDS and --dump STEM go together");
    if (r->kernels && (r->configs.n || r->filters.n || r->peers || r->budgets.n || r->prefill ||
                       r->text || r->trace))
        return usage_error(name,
                           "--kernels runs no method: --config, --filters, --peers, --budgets, "
                           "--prefill, --text and --trace do not go with it");
    if (r->kernels &&
        (cuda_devices() == 0 || (r->engine.device && strcmp(r->engine.device, "cpu") == 0)))
        return usage_error(name, "--kernels times CUDA kernels: %s",
                           cuda_devices() ? "it does not go with --device cpu" : "there is no GPU");
    return 0;
}

/* The contexts where --context is not given. */
static void usual_contexts(struct request *r, const struct ops *ops)
{
    static const int kernels[] = {4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288};
    static const int device[] = {4096, 32768, 131072}, host[] = {1024, 2048, 4096, 8192};
    const int *from = r->kernels ? kernels : ops->device ? device : host;
    const size_t n = r->kernels    ? COUNT_OF(kernels)
                     : ops->device ? COUNT_OF(device)
                                   : COUNT_OF(host);
    r->contexts.n = (int)n;
    r->contexts.v = xmalloc(n * sizeof *from);
    memcpy(r->contexts.v, from, n * sizeof *from);
}

static int run(const struct request *r, struct engine *e, int argc, char **argv)
{
    const struct model *m = &e->model;
    struct output out = {0};
    struct entries methods = {0};
    int *ids = NULL, rc = -1;
    struct bench b = {.engine = e,
                      .warm = m->ops->device ? 4 : 2, /* the first is recorded, the next replay */
                      .steps = r->steps,
                      .prefill = r->prefill || r->text,
                      .trace = {.fields = r->trace, .argc = argc, .argv = argv},
                      .dumps = r->dumps};

    if (r->kernels && m->ops->kernels == NULL) {
        fail("--kernels: expected a CUDA device, found --device %s", m->ops->name);
        goto done;
    }
    if (!r->kernels && (choose_methods(&methods, r, m) || try_methods(&methods, m))) goto done;
    if (r->text && engine_prompt(e, NULL, r->text, NULL, &ids, &b.n_text)) goto done;
    b.text = ids;
    if (output_open(&out, r->out) || m->ops->ceilings(b.rate)) goto done;
    print_head(out.f, &b, argc, argv, r);
    if (r->kernels) {
        rc = bench_kernels(&b, out.f, r->contexts.v, r->contexts.n, r->k);
        goto done;
    }
    for (int i = 0; i < methods.n; i++)
        fprintf(out.f, "# method %s: %s\n", methods.v[i].label, methods.v[i].config.json);
    bench_columns(out.f);
    for (int i = 0; i < methods.n; i++)
        if (run_method(&b, out.f, &methods.v[i], &r->contexts, &r->budgets)) goto done;
    rc = 0;

done:
    rc = output_close(&out, rc);
    for (int i = 0; i < methods.n; i++) {
        run_config_free(&methods.v[i].config);
        free(methods.v[i].label);
    }
    free(methods.v);
    free(ids);
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    struct request r = {.k = 2048, .steps = 32, .engine = {.extrapolate = true}};
    struct engine e = {0};
    int first, status;
    const struct option_spec options[] = {
        {"--model", OPT_STRING, &r.engine.model, 0, 0},
        {"--shape", OPT_STRING, &r.engine.shape, 0, 0},
        {"--device", OPT_STRING, &r.engine.device, 0, 0},
        {"--context", OPT_SIZE_LIST, &r.contexts, 1, 1 << 30},
        {"--config", OPT_STRINGS, &r.configs, 0, 0},
        {"--filters", OPT_STRINGS, &r.filters, 0, 0},
        {"--peers", OPT_FLAG, &r.peers, 0, 0},
        {"--k", OPT_INT, &r.k, 1, 1 << 30},
        {"--budgets", OPT_SIZE_LIST, &r.budgets, 1, 1 << 30},
        {"--steps", OPT_INT, &r.steps, 1, 100000},
        {"--prefill", OPT_FLAG, &r.prefill, 0, 0},
        {"--text", OPT_STRING, &r.text, 0, 0},
        {"--kernels", OPT_FLAG, &r.kernels, 0, 0},
        {"--threads", OPT_INT, &r.engine.threads, 1, 1024},
        {"--trace", OPT_STRING, &r.trace, 0, 0},
        {"--dump", OPT_STRING, &r.dumps, 0, 0},
        {"--out", OPT_STRING, &r.out, 0, 0},
        {0},
    };
    if ((status = options_parse(argc, argv, options, usage, &first)) >= 0) goto done;
    if (first < argc) {
        status = usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);
        goto done;
    }
    if ((status = check_request(argv[0], &r)) != 0) goto done;
    status = 2;
    for (int i = 0; i < r.filters.n; i++) {
        char *layers;
        int wait;
        const int bad = parse_filters(r.filters.v[i], &layers, &wait);
        free(layers);
        if (bad) goto done;
    }
    tracer_not_here("okv bench decodes no tokens of a text");
    if ((status = engine_open(&e, argv[0], &r.engine)) != 0) goto done;
    if (r.contexts.n == 0) usual_contexts(&r, e.model.ops);
    status = run(&r, &e, argc, argv) ? 1 : 0;

done:
    free(r.contexts.v);
    free(r.budgets.v);
    free(r.configs.v);
    free(r.filters.v);
    engine_close(&e);
    return status;
}
