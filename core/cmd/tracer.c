/* tracer.c - connects forward()'s taps to the dump writer: what every layer attended to, per step.
 */
#include "core/cmd/tracer.h"

#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

const int *tracer_unite(struct tracer *t, const int *idx, int sets, size_t stride, int *count)
{
    int n = 0;
    if (sets == 1) return idx;
    for (int i = 0; i < t->max_T; i++) t->picked[i] = 0;
    for (int set = 0; set < sets; set++)
        for (int i = 0; i < *count; i++) t->picked[idx[(size_t)set * stride + (size_t)i]] = 1;
    for (int i = 0; i < t->max_T; i++)
        if (t->picked[i] > 0) t->best[n++] = i;
    *count = n;
    return t->best;
}

static int parse_fields(struct tracer *t, const char *list)
{
    const bool selects = t->method && t->method->M > 0;
    int rc = -1;
    if (list == NULL) {
        t->options.fields = BIT(MASS) | BIT(SCORE) | BIT(IMPORTANCE) | BIT(TOPK_IDX) |
                            BIT(TOPK_MASS) | BIT(TOPK_TOTAL) | (selects ? BIT(SELECTED_IDX) : 0);
        return 0;
    }
    char *copy = xstrdup(list), *rest = copy;
    for (char *name; (name = strsep(&rest, ",")) != NULL;) {
        const int f = strcmp(name, "topk") == 0 ? DUMP_TOPK_IDX : dump_field_find(name);
        if (f < 0 || f < DUMP_MASS) {
            fail("--fields: unknown field \"%s\"; expected mass, score, topk, selected_idx, attn, "
                 "importance, reuse_error or prefill_score",
                 name);
            goto done;
        }
        if (f == DUMP_SELECTED_IDX && !selects) {
            fail("--fields: selected_idx: this run's method selects nothing");
            goto done;
        }
        t->options.fields |= 1u << f;
    }
    if (t->method && t->method->relative &&
        (t->options.fields & (BIT(PREFILL_SCORE) | BIT(REUSE_ERROR)))) {
        fail("--fields: %s: %s attends in a way of its own, for which this field is not defined",
             t->options.fields & BIT(PREFILL_SCORE) ? "prefill_score" : "reuse_error",
             method_name(t->method->config->method));
        goto done;
    }
    const uint32_t topk = BIT(TOPK_IDX) | BIT(TOPK_MASS) | BIT(TOPK_TOTAL);
    if (t->options.fields & topk) t->options.fields |= topk;
    rc = 0;

done:
    free(copy);
    return rc;
}

struct tracer *tracer_open(const struct trace_spec *spec, const struct engine *e,
                           const struct method *m)
{
    const struct model_config *c = &e->model.config;
    const struct run_config *config = m ? m->config : &e->config;
    struct tracer *t = xcalloc(1, sizeof *t);
    const bool weights =
        m && m->config->method == METHOD_OMNIKV && m->config->selector != SELECT_LAST;

    t->e = e;
    t->method = m;
    t->c = c;
    t->pool = weights ? SCORE_MAX_WEIGHT : SCORE_MAX_LOGIT;
    t->command = command_line(spec->argc, spec->argv);
    t->options.f32 = spec->f32;
    t->options.resume = spec->resume;
    if (parse_fields(t, spec->fields)) goto failed;
    if (spec->attn && strcmp(spec->attn, "head") != 0 && strcmp(spec->attn, "kv_head") != 0) {
        fail("--attn-rows: expected head or kv_head, found \"%s\"", spec->attn);
        goto failed;
    }
    t->per_kv_head = spec->attn && strcmp(spec->attn, "kv_head") == 0;
    t->run = (struct dump_run){
        .model = c->name,
        .fingerprint = e->model.weights->fingerprint,
        .command = t->command,
        .config = config->json,
        .method = method_name(config->method),
        .dtype = dtype_name(e->model.weights->dtype),
        .backend = e->model.ops->name,
        .score_kind = weights ? "softmax_before_last" : "last",
        .attn_rows = t->per_kv_head ? "kv_head" : "head",
        .version = build_version(),
        .commit = build_commit(),
        .L = c->L,
        .H = c->H,
        .G = c->G,
        .D = c->D,
        .E = c->E,
        .V = c->V,
        .K = spec->top ? spec->top : 256,
        .reuse_k = spec->reuse_k ? spec->reuse_k : 32,
        .M = m ? m->M : 0,
        .layers = m ? m->layers : NULL,
        .full_layers = m ? m->full_layers : c->L,
        .random_weights = e->model.weights->random,
        .seed = config->seed,
    };
    tracer_host_open(t);
    if (e->model.ops->device && tracer_device_open(t)) goto failed;
    if ((t->writer = dump_create(spec->path, &t->run, &t->options)) == NULL) goto failed;
    return t;

failed:
    tracer_device_close(t);
    free(t->command);
    free(t);
    return NULL;
}

struct tracer *tracer_from_environment(const struct engine *e, const struct method *m, int argc,
                                       char **argv, int *rc)
{
    const char *name = getenv("SAVE_SELECTED_IDX");
    *rc = 0;
    if (name == NULL || *name == 0) return NULL;
    const size_t n = strlen(name);
    const bool is_path = strchr(name, '/') || (n > 3 && strcmp(name + n - 3, ".h5") == 0);
    char *path = is_path ? xstrdup(name) : xprintf("dumps/%s.h5", name);
    struct tracer *t = NULL;
    if (make_parents(path) == 0)
        t = tracer_open(&(struct trace_spec){.path = path, .argc = argc, .argv = argv}, e, m);
    if (t == NULL) *rc = -1;
    free(path);
    return t;
}

void tracer_not_here(const char *why)
{
    const char *asked = getenv("SAVE_SELECTED_IDX");
    if (asked && *asked) note("SAVE_SELECTED_IDX has no effect: %s", why);
}

const struct hooks *tracer_hooks(struct tracer *t)
{
    return t ? &t->hooks : NULL;
}

int tracer_selection_room(const struct tracer *t, int n_prefill, int T)
{
    if (t->method == NULL || t->method->M == 0) return 0;
    const int size = t->method->selection_size(t->method, n_prefill);
    return size < T ? size : T;
}

void tracer_announce(const struct tracer *t, int T, int S, int samples)
{
    const double each =
        dump_sample_bytes(&t->run, &t->options, T, S, tracer_selection_room(t, T, T));
    note("tracing %d sample%s of up to %d tokens and %d step%s: at most %.*f MB before compression",
         samples, samples == 1 ? "" : "s", T, S, S == 1 ? "" : "s", each * samples < 1e6 ? 3 : 1,
         each * samples / 1e6);
}

int tracer_begin(struct tracer *t, int index, const char *task, const int *ids, int n_prefill,
                 int max_T, int max_S)
{
    const struct dump_sample sample = {
        .task = task,
        .prompt_hash = hash_bytes(HASH_START, ids, (size_t)n_prefill * sizeof *ids),
        .n_prefill = n_prefill};
    const int done = dump_sample_done(t->writer, index, sample.prompt_hash);
    if (done) return done;

    t->n_prefill = n_prefill;
    t->max_T = max_T;
    if (t->device ? tracer_device_begin(t) : tracer_host_begin(t)) return -1;
    return dump_sample_begin(t->writer, index, &sample, max_T, max_S,
                             tracer_selection_room(t, n_prefill, max_T));
}

int tracer_end(struct tracer *t, struct engine *e, const int *tokens, int T, const float *nll,
               const char *output, const char *answers)
{
    const int S = T - t->n_prefill;
    int rc = -1, *pos = xmalloc((size_t)(S + 1) * sizeof *pos);
    int *ends = xmalloc((size_t)(T + 1) * sizeof *ends);
    size_t size, output_size = strlen(output);
    char *text = NULL, *valid = valid_text(output, &output_size);

    for (int s = 0; s < S; s++) pos[s] = t->n_prefill + s;
    if (t->device ? tracer_device_end(t) : tracer_host_end(t)) goto done;
    if (engine_tokenizer(e, false)) goto done;
    if (e->tokenizer &&
        (text = tokenizer_decode(e->tokenizer, tokens, T, false, &size, ends)) == NULL)
        goto done;
    rc = dump_sample_finish(t->writer, &(struct dump_sample_end){.T = T,
                                                                 .S = S,
                                                                 .tokens = tokens,
                                                                 .text = (const uint8_t *)text,
                                                                 .text_end = ends,
                                                                 .step_pos = pos,
                                                                 .step_nll = nll,
                                                                 .output = valid,
                                                                 .answers = answers});

done:
    free(pos);
    free(ends);
    free(text);
    free(valid);
    return rc;
}

int tracer_close(struct tracer *t, int rc)
{
    if (t == NULL) return rc;
    tracer_device_close(t);
    rc = dump_finish(t->writer, rc);
    free(t->command);
    free(t->score);
    free(t->mass);
    free(t->picked);
    free(t->best);
    free(t->top_mass);
    free(t->importance);
    free(t->totals);
    free(t->columns);
    free(t->top);
    free(t->reuse_q);
    free(t->reuse_out);
    free(t->reuse_delta);
    free(t->reuse);
    free(t);
    return rc;
}
