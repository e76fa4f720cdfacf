/* test_cuda_models.c - models of other shapes on a GPU, the suite, memory, and what is refused.
 * With arguments, runs the parts of those names alone.
 *
 * The bound on rows of logits is test_cuda_engine.c's (docs/numbers.md), for few layers. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/method/decode.h"
#include "core/task/suite.h"
#include "tests/gpu.h"
#include "tests/runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef DEVICE
#define DEVICE "cuda"
#endif
#define POCKET "configs/demo/pocket-llama"
#define DENSE "{\"model_cls\": \"raw_llama\"}"
#define HERE ", \"real_offload\": false}"

/* ---- checkpoints of any shape */

struct shape {
    const char *name, *family, *class;
    int L, E, H, G, D, F, V;
    enum dtype type;
    bool bias, mlp_bias, qk_norm, tied; /* BIAS: of q, k, v, and of o in a Llama */
};

struct checkpoint {
    char *header;
    unsigned char *data;
    size_t size;
    enum dtype type;
    struct rng rng;
};

/* Adds a tensor of values CENTRE plus uniform ones of +-LIMIT, all exact in bf16 and, where the
 * type is f16, in f16: then both engines start from the same numbers. */
static void add(struct checkpoint *c, const char *name, int rows, int cols, float centre,
                float limit)
{
    static const char *const types[] = {"F32", "F16", "BF16"};
    const size_t n = (size_t)rows * (size_t)(cols ? cols : 1), begin = c->size;
    c->data = xrealloc(c->data, begin + n * dtype_size(c->type));
    for (size_t i = 0; i < n; i++) {
        const float x = centre + (float)(2 * rng_unit(&c->rng) - 1) * limit;
        const uint16_t half = c->type == DTYPE_F16 ? f32_to_f16(x) : f32_to_bf16(x);
        const float wide = bf16_to_f32(half);
        if (c->type == DTYPE_F32)
            memcpy(c->data + begin + 4 * i, &wide, 4);
        else
            memcpy(c->data + begin + 2 * i, &half, 2);
    }
    c->size += n * dtype_size(c->type);
    char *columns = cols ? xprintf(", %d", cols) : xstrdup("");
    char *longer = xprintf("%s%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%d%s], "
                           "\"data_offsets\": [%zu, %zu]}",
                           c->header ? c->header : "{", c->header ? ", " : "", name, types[c->type],
                           rows, columns, begin, c->size);
    free(columns);
    free(c->header);
    c->header = longer;
}

static void add_layer(struct checkpoint *c, const struct shape *s, int layer)
{
    const float in = sqrtf(3.0f / (float)s->E), out = sqrtf(3.0f / (float)(s->H * s->D));
    const struct {
        const char *name;
        int rows, cols;
        float centre, limit;
        bool there;
    } tensors[] = {
        {"input_layernorm.weight", s->E, 0, 1, 0.3f, true},
        {"post_attention_layernorm.weight", s->E, 0, 1, 0.3f, true},
        {"self_attn.q_proj.weight", s->H * s->D, s->E, 0, in, true},
        {"self_attn.k_proj.weight", s->G * s->D, s->E, 0, in, true},
        {"self_attn.v_proj.weight", s->G * s->D, s->E, 0, in, true},
        {"self_attn.o_proj.weight", s->E, s->H * s->D, 0, out, true},
        {"mlp.gate_proj.weight", s->F, s->E, 0, in, true},
        {"mlp.up_proj.weight", s->F, s->E, 0, in, true},
        {"mlp.down_proj.weight", s->E, s->F, 0, sqrtf(3.0f / (float)s->F), true},
        {"self_attn.q_proj.bias", s->H * s->D, 0, 0, 0.5f, s->bias},
        {"self_attn.k_proj.bias", s->G * s->D, 0, 0, 0.5f, s->bias},
        {"self_attn.v_proj.bias", s->G * s->D, 0, 0, 0.5f, s->bias},
        {"self_attn.o_proj.bias", s->E, 0, 0, 0.5f, s->bias && strcmp(s->family, "llama") == 0},
        {"mlp.gate_proj.bias", s->F, 0, 0, 0.5f, s->mlp_bias},
        {"mlp.up_proj.bias", s->F, 0, 0, 0.5f, s->mlp_bias},
        {"mlp.down_proj.bias", s->E, 0, 0, 0.5f, s->mlp_bias},
        {"self_attn.q_norm.weight", s->D, 0, 1, 0.3f, s->qk_norm},
        {"self_attn.k_norm.weight", s->D, 0, 1, 0.3f, s->qk_norm},
    };
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        if (!tensors[i].there) continue;
        char *name = xprintf("model.layers.%d.%s", layer, tensors[i].name);
        add(c, name, tensors[i].rows, tensors[i].cols, tensors[i].centre, tensors[i].limit);
        free(name);
    }
}

static void write_config(const char *path, const struct shape *s)
{
    FILE *f = fopen(path, "w");
    CHECK(f != NULL, "%s", path);
    if (f == NULL) return;
    fprintf(f,
            "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"vocab_size\": %d, "
            "\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
            "\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d, "
            "\"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 8192, "
            "\"rope_theta\": 10000.0, \"tie_word_embeddings\": %s%s%s}\n",
            s->class, s->family, s->V, s->E, s->F, s->L, s->H, s->G, s->D,
            s->tied ? "true" : "false", s->bias ? ", \"attention_bias\": true" : "",
            s->mlp_bias ? ", \"mlp_bias\": true" : "");
    CHECK(fclose(f) == 0, "%s", path);
}

/* Writes a checkpoint of shape S; its directory. */
static const char *make_checkpoint(const struct shape *s)
{
    const char *dir = check_scratch(s->name);
    struct checkpoint c = {.type = s->type};
    char *config = path_join(dir, "config.json"), *weights = path_join(dir, "model.safetensors");
    unsigned char length[8];
    rng_seed(&c.rng, (uint64_t)s->E);
    add(&c, "model.embed_tokens.weight", s->V, s->E, 0, sqrtf(3));
    add(&c, "model.norm.weight", s->E, 0, 1, 0.3f);
    if (!s->tied) add(&c, "lm_head.weight", s->V, s->E, 0, sqrtf(3.0f / (float)s->E));
    for (int l = 0; l < s->L; l++) add_layer(&c, s, l);
    mkdir(dir, 0777);
    write_config(config, s);
    const size_t n = strlen(c.header) + 1;
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)n >> (8 * i));
    FILE *f = fopen(weights, "wb");
    CHECK(f && fwrite(length, 1, 8, f) == 8 && fwrite(c.header, 1, n - 1, f) == n - 1 &&
              fputc('}', f) == '}' && fwrite(c.data, 1, c.size, f) == c.size && fclose(f) == 0,
          "%s", weights);
    free(config);
    free(weights);
    free(c.header);
    free(c.data);
    return dir;
}

/* ---- odd shapes */

enum { MORE = 5 }; /* tokens after the prefill */

static const struct shape shapes[] = {
    {"qwen2", "qwen2", "Qwen2ForCausalLM", 3, 192, 7, 1, 128, 328, 1003, DTYPE_BF16, true, false,
     false, false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", 3, 104, 6, 2, 128, 264, 517, DTYPE_BF16, false, false,
     true, true},
    {"mha", "llama", "LlamaForCausalLM", 3, 136, 3, 3, 64, 200, 301, DTYPE_F16, true, true, false,
     false},
    {"wide", "llama", "LlamaForCausalLM", 3, 160, 40, 2, 64, 88, 97, DTYPE_F32, false, false, false,
     true},
};

/* A row's root mean square, of the deviation: three layers of random weights amplify little. */
static double row_off(enum dtype type)
{
    return type == DTYPE_F16 ? 0.002 : 0.015;
}

/* The prefill of N tokens and a few steps, on both. */
static void shape_matches(const struct shape *s, const struct model *cpu, const struct model *gpu,
                          const int *ids, int n, struct found *found)
{
    struct run want = {0}, got = {0};
    if (run_whole(&want, cpu, ids, n, n + MORE, DENSE, false, false) &&
        run_whole(&got, gpu, ids, n, n + MORE, DENSE, false, false)) {
        struct found f = {0};
        const double deviation = deviation_of(want.logits, (size_t)MORE * (size_t)want.V);
        compare_rows(&f, got.logits, want.logits, MORE, want.V);
        CHECK(f.row <= row_off(s->type) * deviation, "%s, %d tokens: %.2e", s->name, n,
              f.row / deviation);
        found->row = fmax(found->row, f.row / deviation);
        found->worst = fmax(found->worst, f.worst / deviation);
        found->rows += f.rows;
        found->same += f.same;
    }
    run_close(&want);
    run_close(&got);
}

#define SPARSE                                                                                     \
    "{\"model_cls\": \"multi\", \"do_select_layers\": \"0\", \"num_wait_load_layers\": 0, "        \
    "\"num_of_selected_tokens\": 16, "

/* The same bits wherever keys and values live. */
static void places_do_not_matter(const struct shape *s, const struct model *gpu, const int *ids,
                                 int n)
{
    static const char *const pairs[][2] = {
        {SPARSE "\"selector_cls\": \"last\"" HERE, SPARSE "\"selector_cls\": \"last\"}"},
        {SPARSE "\"selector_cls\": \"uniform\", \"window_size\": 4, \"pool\": \"group\"" HERE,
         SPARSE "\"selector_cls\": \"uniform\", \"window_size\": 4, \"pool\": \"group\"}"},
        {SPARSE "\"selector_cls\": \"exp\", \"window_size\": 9" HERE,
         SPARSE "\"selector_cls\": \"exp\", \"window_size\": 9, \"cache_cls\": \"without_pack\"}"},
        {DENSE, "{\"model_cls\": \"brutal_offload\", \"offload_sid\": 0}"},
    };
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        struct run a = {0}, b = {0};
        if (run_whole(&a, gpu, ids, n, n + MORE, pairs[i][0], false, false) &&
            run_whole(&b, gpu, ids, n, n + MORE, pairs[i][1], false, false)) {
            struct found f = {0};
            compare_rows(&f, b.logits, a.logits, MORE, a.V);
            const bool exact = i + 1 < COUNT_OF(pairs); /* a dense row may be split differently */
            CHECK(exact ? same_bits(&a, &b) : f.row <= 1e-4, "%s, %d tokens: %s: row %.2e", s->name,
                  n, pairs[i][1], f.row);
        }
        run_close(&a);
        run_close(&b);
    }
}

static void shapes_match(bool places)
{
    struct rng r;
    rng_seed(&r, 8);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct model cpu = {0}, gpu = {0};
        struct found f = {0};
        const char *dir = make_checkpoint(&shapes[i]);
        const bool muted = mute_failures(true); /* f32 is rounded, which is said */
        const bool ok =
            model_open(&cpu, dir, NULL, "cpu") == 0 && model_open(&gpu, dir, NULL, DEVICE) == 0;
        mute_failures(muted);
        CHECK(ok, "%s: %s", dir, last_failure());
        /* the last: whole chunks of a prefill, and one row more */
        const int lengths[] = {1, 2, 63, 300, ok ? gpu.ops->prefill_rows + 1 : 1};
        const int most = lengths[COUNT_OF(lengths) - 1] + MORE;
        int *ids = xcalloc((size_t)most, sizeof *ids);
        for (int k = 0; k < most; k++) ids[k] = (int)rng_below(&r, (uint32_t)shapes[i].V);
        for (size_t k = 0; ok && k < COUNT_OF(lengths); k++) {
            if (places)
                places_do_not_matter(&shapes[i], &gpu, ids, lengths[k]);
            else
                shape_matches(&shapes[i], &cpu, &gpu, ids, lengths[k], &f);
        }
        if (places)
            printf("places: %s: done\n", shapes[i].name);
        else
            printf("shape %s: worst row %.2e, worst logit %.2e of the deviation; greedy %ld of "
                   "%ld\n",
                   shapes[i].name, f.row, f.worst, f.same, f.rows);
        free(ids);
        model_close(&cpu);
        model_close(&gpu);
    }
}

static void odd_shapes_match_the_cpu(void)
{
    shapes_match(false);
}

static void odd_shapes_offload(void)
{
    shapes_match(true);
}

/* ---- the suite */

static const struct {
    const char *name, *text; /* as in suite_scores.json, which are the CPU's */
} suites[] = {
    {"dense", DENSE},
#define FILTERS(list)                                                                              \
    "{\"model_cls\": \"multi\", \"do_select_layers\": \"" list "\", \"num_wait_load_layers\": 1, " \
    "\"num_of_selected_tokens\": 32, \"selector_cls\": \"last\"" HERE
    {"omnikv filters=[3, 6, 9] wait=1 k=32 selector=last", FILTERS("3,6,9")},
    {"omnikv filters=[1, 4, 7] wait=1 k=32 selector=last", FILTERS("1,4,7")},
    {"omnikv filters=[2, 5, 8] wait=1 k=32 selector=last", FILTERS("2,5,8")},
    {"window k=32 (4 sinks)",
     "{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 4,"
     " \"sink_window_length\": 28}"},
};

static void suite_scores_are_reached(void)
{
    struct model m;
    struct run_config config[COUNT_OF(suites)];
    struct method *method[COUNT_OF(suites)];
    struct tally tally[COUNT_OF(suites)][8] = {{{0}}};
    cJSON *scores = json_load("tests/data/golden/suite_scores.json");
    struct suite *suite = suite_load("tests/data/golden/suite.jsonl", 2048);
    if (scores == NULL || suite == NULL || model_open(&m, POCKET, NULL, DEVICE)) {
        CHECK(false, "%s", last_failure());
        return;
    }
    float *first = xmalloc((size_t)m.config.V * sizeof *first);
    for (size_t k = 0; k < COUNT_OF(suites); k++) {
        CHECK(run_config_parse(&config[k], suites[k].name, suites[k].text) == 0, "%s",
              last_failure());
        method[k] = method_open(&config[k], &m);
    }
    for (int i = 0; i < suite->n; i++) {
        const struct suite_line *l = &suite->line[i];
        int *best = xcalloc((size_t)l->n, sizeof *best);
        float *nll = xcalloc((size_t)l->n, sizeof *nll);
        struct session *s = session_open(&m, &(struct session_plan){.room = l->n});
        const bool ok = start(s, l->ids, l->n_prefill, first);
        for (size_t k = 0; ok && k < COUNT_OF(suites); k++) { /* one prefill serves all */
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
    for (size_t k = 0; k < COUNT_OF(suites); k++) {
        printf("suite, %s:", suites[k].name);
        for (int t = 0; t < suite->n_tasks; t++) {
            const cJSON *want = json_member(json_member(scores, suites[k].name), suite->task[t]);
            const int correct = cJSON_GetArrayItem(want, 0)->valueint;
            const int total = cJSON_GetArrayItem(want, 1)->valueint;
            printf(" %s %d (%d)", suite->task[t], tally[k][t].correct, correct);
            CHECK(abs(tally[k][t].correct - correct) <= 1 && tally[k][t].total == total,
                  "%s: %s: %d of %d, want %d of %d", suites[k].name, suite->task[t],
                  tally[k][t].correct, tally[k][t].total, correct, total);
        }
        printf("\n");
        method_close(method[k]);
        run_config_free(&config[k]);
    }
    free(first);
    model_close(&m);
    suite_free(suite);
    cJSON_Delete(scores);
}

/* ---- memory */

static double free_megabytes(void)
{
    size_t left = 0, total = 0;
    CHECK(cudaDeviceSynchronize() == cudaSuccess && cudaMemGetInfo(&left, &total) == cudaSuccess,
          "memory");
    return (double)left / 1e6;
}

static const char *const users[] = {
    DENSE,
    SPARSE "\"selector_cls\": \"exp\", \"window_size\": 8, \"pool\": \"group\"}",
    "{\"model_cls\": \"brutal_offload\", \"offload_sid\": 3}",
};

/* Steps take nothing; sessions give back what they took. The driver keeps its memory in blocks of
 * 2 MiB and some of them for graphs to come. */
static void nothing_leaks(void)
{
    enum { PROMPT = 700, MANY = 1000 };
    struct model m;
    int *ids = text_ids(PROMPT + MANY + 2);
    const bool ok = model_open(&m, POCKET, NULL, DEVICE) == 0;
    const float *logits;
    CHECK(ok, "%s", last_failure());
    for (size_t i = 0; ok && i < COUNT_OF(users); i++) {
        double before = 0, warm = 0, after = 0, closed[2] = {0};
        for (int again = 0; again < 4; again++) { /* the first fills what all share */
            struct run w = {0};
            if (!run_open(&w, &m, users[i], PROMPT, PROMPT + MANY + 2)) break;
            if (again == 0) before = free_megabytes();
            struct session *s = session_for(&w, &m, false);
            bool fine = start(s, ids, PROMPT, w.logits) && method_begin(w.method, s) == 0;
            for (int k = 0; fine && k < (again ? 20 : MANY); k++) {
                if (k == 10) warm = free_megabytes();
                if (again == 2) session_forget_steps(s);
                fine = forward(s, ids + PROMPT + k, 1, false, &w.method->hooks, NULL, LOGITS_LAST,
                               &logits) == 0;
            }
            if (again == 0) after = free_megabytes();
            CHECK(fine, "%s", last_failure());
            session_close(s);
            run_close(&w);
            closed[again > 0] = free_megabytes();
        }
        printf("memory: %d steps took %.1f MB, four sessions %.1f MB, the last three %.1f MB: %s\n",
               MANY, warm - after, before - closed[1], closed[0] - closed[1], users[i]);
        CHECK(warm - after <= 0.1, "%g MB", warm - after);
        CHECK(closed[0] - closed[1] <= 4.2, "%g MB", closed[0] - closed[1]);
    }
    if (ok) model_close(&m);
    free(ids);
}

/* ---- refusals */

/* A context that does not fit is refused up front, and the largest that is named does fit. */
static void contexts_that_do_not_fit(const struct model *m)
{
    struct session_plan plan = {.room = 1 << 30, .extrapolate = true};
    const bool muted = mute_failures(true);
    struct session *s = session_open(m, &plan);
    const char *named = strstr(last_failure(), "largest context that fits is ");
    int largest = named ? atoi(named + strlen("largest context that fits is ")) : 0;
    CHECK(s == NULL && largest > 100000, "%s", last_failure());
    printf("refusals: %s\n", last_failure());
    session_close(s);
    if (largest > 0) {
        plan.room = largest;
        s = session_open(m, &plan);
        CHECK(s != NULL, "%d tokens: %s", largest, last_failure());
        session_close(s);
        plan.room = (int)(1.02 * largest);
        s = session_open(m, &plan);
        CHECK(s == NULL && strstr(last_failure(), "largest context"), "%d tokens", plan.room);
        session_close(s);
    }
    plan = (struct session_plan){.room = 100000};
    s = session_open(m, &plan);
    CHECK(s == NULL && strstr(last_failure(), "16384"), "%s", last_failure());
    session_close(s);
    mute_failures(muted);
}

static void refusals(void)
{
    static const struct {
        const char *device, *why;
    } devices[] = {
        {"cuda:99", "cuda:99"}, {"cuda:x", "\"x\""}, {"cuda:", "cuda:"}, {"cuda:-1", "-1"},
        {"gpu", "\"gpu\""},     {"", "cpu"},         {"cuda0", "cuda0"},
    };
    struct model m;
    struct run w = {0};
    const int ids[3] = {5, 6, 7};
    bool ok = model_open(&m, POCKET, NULL, DEVICE) == 0;
    CHECK(ok, "%s", last_failure());
    if (ok) contexts_that_do_not_fit(&m);
    /* and the engine is as good as before */
    ok = ok && run_whole(&w, &m, ids, 2, 3, DENSE, false, false);
    CHECK(ok, "%s", last_failure());
    run_close(&w);
    const bool muted = mute_failures(true);
    for (size_t i = 0; i < COUNT_OF(devices); i++) {
        struct model other;
        const int rc = model_open(&other, POCKET, NULL, devices[i].device);
        CHECK(rc == -1 && strstr(last_failure(), devices[i].why), "--device \"%s\": %s",
              devices[i].device, rc ? last_failure() : "accepted");
        if (rc == 0) model_close(&other);
    }
    struct model narrow;
    const char *dir = "tests/data/golden/models/llama-gqa";
    CHECK(model_open(&narrow, dir, NULL, "cuda") == -1 && strstr(last_failure(), "head_dim") &&
              strstr(last_failure(), "16"),
          "a narrow head: %s", last_failure());
    CHECK(model_open(&narrow, dir, NULL, NULL) == 0 && !narrow.ops->device, "%s", last_failure());
    model_close(&narrow);
    static const char *const away[][2] = {
        {SPARSE "\"candidates\": \"all\"}", "candidates"},
        {SPARSE "\"pool\": \"none\"}", "pool"},
    };
    for (size_t i = 0; ok && i < COUNT_OF(away); i++) {
        struct run_config c;
        CHECK(run_config_parse(&c, "config", away[i][0]) == 0, "%s", last_failure());
        struct method *method = method_open(&c, &m);
        CHECK(method == NULL && strstr(last_failure(), "real_offload") &&
                  strstr(last_failure(), away[i][1]),
              "%s: %s", away[i][0], last_failure());
        method_close(method);
        run_config_free(&c);
    }
    mute_failures(muted);
    if (ok) model_close(&m);
}

/* ---- uses that are easy to forget */

static void edges(void)
{
    enum { N = 400 };
    static const char own[] = SPARSE "\"selector_cls\": \"last\", \"pool\": \"none\"}";
    static const char there[] = SPARSE "\"selector_cls\": \"last\"}";
    struct model m;
    struct run a = {0}, b = {0};
    int ids[N + MORE];
    for (int i = 0; i < N + MORE; i++) ids[i] = i * 7919 % 301;

    /* pool none where each query head has keys of its own: the same as group, offloaded or not */
    if (model_open(&m, make_checkpoint(&shapes[2]), NULL, DEVICE) == 0) {
        if (run_whole(&a, &m, ids, N, N + MORE, own, false, false) &&
            run_whole(&b, &m, ids, N, N + MORE,
                      SPARSE "\"selector_cls\": \"last\", \"pool\": \"group\"" HERE, false, false))
            CHECK(same_bits(&a, &b) && overlap_of(&a, &b) == 1, "pool none is pool group here");
        run_close(&a);
        run_close(&b);
        model_close(&m);
    } else {
        CHECK(false, "%s", last_failure());
    }

    /* a session that knows nothing of its method keeps everything here */
    if (model_open(&m, POCKET, NULL, DEVICE) == 0) {
        if (run_whole(&a, &m, ids, N, N + MORE, there, false, true) &&
            run_whole(&b, &m, ids, N, N + MORE, there, false, false))
            CHECK(same_bits(&a, &b), "a session made for another method");
        run_close(&a);
        run_close(&b);
        model_close(&m);
    } else {
        CHECK(false, "%s", last_failure());
    }
    printf("edges: done\n");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {
        {"shapes", odd_shapes_match_the_cpu},
        {"suite", suite_scores_are_reached},
        {"memory", nothing_leaks},
        {"refusals", refusals},
        {"offload", odd_shapes_offload},
        {"edges", edges},
    };
    set_program_name("test_cuda_models");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (gpu_open("test_cuda_models"))
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            bool wanted = argc == 1;
            for (int k = 1; k < argc; k++) wanted = wanted || strcmp(argv[k], parts[i].name) == 0;
            if (wanted) parts[i].run();
        }
    return check_report("test_cuda_models");
}
