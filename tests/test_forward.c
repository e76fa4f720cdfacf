/* test_forward.c - the engine on models whose logits and attention are known; what it refuses; what
 * must not change its results.
 *
 * The logits of two float32 engines differ by rounding that the layers amplify: up to 3e-5 of the
 * logits' standard deviation on these models, and CLOSE leaves a factor of three (docs/numbers.md).
 */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/method/decode.h"
#include "tests/check.h"

#include <hdf5.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE 1e-4 /* of the logits' standard deviation */
#define GOLDEN "tests/data/golden/models/llama-gqa"
#define POCKET "configs/demo/pocket-llama"

static const char *const goldens[] = {
    GOLDEN,
    "tests/data/golden/models/llama-headdim-bias",
    "tests/data/golden/models/llama-mha-bf16",
    "tests/data/golden/models/llama-rope-llama3",
    "tests/data/golden/models/qwen2",
};
static const char *const families[] = {
    "tests/data/families/llama-mlp-bias",     "tests/data/families/llama-odd-sizes",
    "tests/data/families/llama-sharded",      "tests/data/families/mistral",
    "tests/data/families/qwen2-mqa",          "tests/data/families/qwen3",
    "tests/data/families/qwen3-bias",         "tests/data/families/rope-dynamic",
    "tests/data/families/rope-dynamic-short", "tests/data/families/rope-linear",
    "tests/data/families/rope-yarn",          "tests/data/families/rope-yarn-factor",
    "tests/data/families/rope-yarn-mscale",
};

/* A checkpoint with its case.json and logits.npy. */
struct golden {
    struct model m;
    int *ids, n, *rows, n_rows, *greedy, n_greedy;
    char *file;    /* logits.npy */
    float *logits; /* [n_rows, V], inside it */
    double deviation;
};

static double deviation_of(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    for (size_t i = 0; i < n; i++) squares += (x[i] - sum / (double)n) * (x[i] - sum / (double)n);
    return sqrt(squares / (double)n);
}

static double distance(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const double off = fabs((double)a[i] - b[i]);
        if (!(off <= worst)) worst = isnan(off) ? INFINITY : off;
    }
    return worst;
}

static void golden_close(struct golden *g)
{
    model_close(&g->m);
    free(g->ids);
    free(g->rows);
    free(g->greedy);
    free(g->file);
    memset(g, 0, sizeof *g);
}

static bool golden_open(struct golden *g, const char *dir)
{
    char *case_path = path_join(dir, "case.json"), *npy = path_join(dir, "logits.npy");
    bool ok = false;
    size_t size;
    memset(g, 0, sizeof *g);
    cJSON *root = json_load(case_path);
    if (root && model_open(&g->m, dir, NULL, "cpu") == 0 &&
        (g->file = file_read(npy, &size)) != NULL &&
        json_int_list(dir, json_member(root, "ids"), "ids", 0, 1 << 20, &g->ids, &g->n) == 0 &&
        json_int_list(dir, json_member(root, "logit_rows"), "rows", 0, g->n - 1, &g->rows,
                      &g->n_rows) == 0 &&
        json_int_list(dir, json_member(root, "greedy_after_40"), "greedy", 0, 1 << 20, &g->greedy,
                      &g->n_greedy) == 0) {
        const size_t n = (size_t)g->n_rows * (size_t)g->m.config.V;
        ok = size >= 64 + n * sizeof *g->logits; /* the data end the file, after a header */
        if (ok) {
            g->logits = xmalloc(n * sizeof *g->logits);
            memcpy(g->logits, g->file + size - n * sizeof *g->logits, n * sizeof *g->logits);
            free(g->file);
            g->file = (char *)g->logits;
            g->deviation = deviation_of(g->logits, n);
        }
    }
    CHECK(ok, "%s: %s", dir, last_failure());
    if (!ok) golden_close(g);
    cJSON_Delete(root);
    free(case_path);
    free(npy);
    return ok;
}

static void agrees_with_golden(const char *dir, const struct ops *ops, const char *what)
{
    struct golden g;
    const float *logits;
    if (!golden_open(&g, dir)) return;
    const int V = g.m.config.V;
    g.m.ops = ops;
    struct session *s = session_open(
        &g.m, &(struct session_plan){.room = 400, .keep_queries = 0, .extrapolate = true});
    session_start(s, g.n);
    CHECK(forward(s, g.ids, g.n, true, NULL, NULL, LOGITS_ALL, &logits) == 0, "%s: %s", dir,
          last_failure());
    for (int i = 0; i < g.n_rows; i++) {
        const double off =
            distance(logits + (size_t)g.rows[i] * V, g.logits + (size_t)i * V, (size_t)V);
        CHECK(off <= CLOSE * g.deviation, "%s on %s: row %d is off by %.2e of the deviation", dir,
              what, g.rows[i], off / g.deviation);
    }
    int out[64], n_out = 0;
    float nll[64], *first = xmalloc((size_t)V * sizeof *first);
    struct sampler sampler;
    sampler_open(&sampler, (struct sampling){.top_p = 1}, V);
    CHECK(prefill(s, g.ids, 40, NULL, NULL, &logits) == 0, "%s: %s", dir, last_failure());
    memcpy(first, logits, (size_t)V * sizeof *first);
    CHECK(decode_free(s, NULL, NULL, first, g.n_greedy, NULL, 0, &sampler, out, nll, &n_out, NULL,
                      NULL) == 0,
          "%s: %s", dir, last_failure());
    CHECK(n_out == g.n_greedy && memcmp(out, g.greedy, (size_t)n_out * sizeof *out) == 0,
          "%s on %s: other greedy tokens", dir, what);
    sampler_close(&sampler);
    free(first);
    session_close(s);
    golden_close(&g);
}

static void goldens_agree(void)
{
    static const char *const sets[] = {"avx512", "avx2", "plain"};
    for (size_t i = 0; i < COUNT_OF(sets); i++) {
        const struct ops *ops = ops_cpu(sets[i]);
        for (size_t j = 0; ops && j < COUNT_OF(goldens); j++)
            agrees_with_golden(goldens[j], ops, sets[i]);
    }
    const struct ops *best = ops_cpu(NULL);
    for (size_t j = 0; j < COUNT_OF(families); j++) agrees_with_golden(families[j], best, "best");
    agrees_with_golden(GOLDEN, ops_reference(), "the definition");
    agrees_with_golden("tests/data/families/qwen3-bias", ops_reference(), "the definition");
}

/* ---- the pocket model against a recorded trace */

/* Reads all of dataset NAME, whose shape must be DIMS. */
static bool read_dataset(const char *name, hid_t type, int rank, const hsize_t *dims, void *out)
{
    hsize_t found[4] = {0};
    hid_t file = H5Fopen("tests/data/golden/trace.h5", H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(set);
    const bool ok = H5Sget_simple_extent_ndims(space) == rank &&
                    H5Sget_simple_extent_dims(space, found, NULL) == rank &&
                    memcmp(found, dims, (size_t)rank * sizeof *dims) == 0 &&
                    H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0;
    CHECK(ok, "trace.h5: %s", name);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
    return ok;
}

#define TRACE_PREFILL 756 /* its attribute n_prefill */
#define TRACE_T 760
#define TRACE_IDS 771

struct watch {
    const float *want; /* [4, 12, 8, TRACE_T] */
    double worst;
    int rows;
};

static void ask(void *ctx, struct layer_pass *p)
{
    (void)ctx;
    p->want_logits = true;
}

static int compare_rows(void *ctx, const struct layer_pass *p)
{
    struct watch *w = ctx;
    for (int h = 0; h < 8; h++) {
        const size_t row = ((size_t)(p->pos0 - TRACE_PREFILL) * 12 + (size_t)p->layer) * 8;
        const float *want = w->want + (row + (size_t)h) * TRACE_T;
        double sum = 0;
        for (int t = 0; t <= p->pos0; t++) {
            const float weight = expf(p->logits[(size_t)h * p->span + (size_t)t] - p->lse[h]);
            const double off = fabs((double)weight - want[t]);
            if (!(off <= w->worst)) w->worst = off;
            sum += weight;
        }
        CHECK(fabs(sum - 1) < 1e-4, "layer %d head %d: weights sum to %.9g", p->layer, h, sum);
        w->rows++;
    }
    return 0;
}

static void pocket_attends_as_recorded(void)
{
    float *want = xmalloc((size_t)4 * 12 * 8 * TRACE_T * sizeof *want);
    static float logits_want[5][2048];
    int ids[TRACE_IDS];
    struct model m;
    struct watch w = {.want = want};
    const struct hooks tap = {.ctx = &w, .before = ask, .after = compare_rows};
    const bool ok =
        read_dataset("attention", H5T_NATIVE_FLOAT, 4, (hsize_t[]){4, 12, 8, TRACE_T}, want) &&
        read_dataset("logits", H5T_NATIVE_FLOAT, 2, (hsize_t[]){5, 2048}, logits_want) &&
        read_dataset("ids", H5T_NATIVE_INT, 1, (hsize_t[]){TRACE_IDS}, ids) &&
        model_open(&m, POCKET, NULL, "cpu") == 0;
    CHECK(ok, "%s", last_failure());
    if (ok) {
        const double deviation = deviation_of(logits_want[0], sizeof logits_want / sizeof(float));
        struct session *s = session_open(
            &m, &(struct session_plan){.room = TRACE_IDS, .keep_queries = 0, .extrapolate = false});
        const float *logits;
        CHECK(prefill(s, ids, TRACE_PREFILL, NULL, NULL, &logits) == 0, "%s", last_failure());
        for (int i = 0; i < 5; i++) {
            CHECK(distance(logits, logits_want[i], 2048) <= CLOSE * deviation,
                  "logits %d are off by %.2e of the deviation", i,
                  distance(logits, logits_want[i], 2048) / deviation);
            if (i == 4) break;
            CHECK(forward(s, ids + TRACE_PREFILL + i, 1, false, NULL, &tap, LOGITS_LAST, &logits) ==
                      0,
                  "%s", last_failure());
        }
        CHECK(w.rows == 4 * 12 * 8 && w.worst <= 1e-4, "%d rows, the worst weight off by %.2e",
              w.rows, w.worst);
        session_close(s);
        model_close(&m);
    }
    free(want);
}

/* ---- what must not change results */

static void chunks_equal_one_pass(void)
{
    static const int chunks[] = {1, 2, 7, 8, 9, 64, 100, 299};
    struct golden g;
    const float *logits;
    if (!golden_open(&g, GOLDEN)) return;
    const int V = g.m.config.V;
    struct session *s = session_open(
        &g.m, &(struct session_plan){.room = g.n, .keep_queries = 0, .extrapolate = false});
    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        session_start(s, g.n);
        for (int at = 0; at < g.n; at += chunks[i]) {
            const int n = g.n - at < chunks[i] ? g.n - at : chunks[i];
            CHECK(forward(s, g.ids + at, n, true, NULL, NULL, LOGITS_LAST, &logits) == 0, "%s",
                  last_failure());
        }
        const double off = distance(logits, g.logits + (size_t)(g.n_rows - 1) * V, (size_t)V);
        CHECK(off <= CLOSE * g.deviation, "in chunks of %d: off by %.2e of the deviation",
              chunks[i], off / g.deviation);
    }
    session_rewind(s, 40); /* what was forgotten leaves no trace */
    CHECK(session_length(s) == 40, "%d", session_length(s));
    for (int at = 40; at < g.n; at += 130)
        CHECK(forward(s, g.ids + at, 130, true, NULL, NULL, LOGITS_LAST, &logits) == 0, "%s",
              last_failure());
    CHECK(distance(logits, g.logits + (size_t)(g.n_rows - 1) * V, (size_t)V) <= CLOSE * g.deviation,
          "after a rewind");
    session_close(s);
    golden_close(&g);
}

static const char *const configs[] = {
    "{\"model_cls\": \"raw_llama\"}",
    "{\"model_cls\": \"multi\", \"do_select_layers\": \"0\", \"num_wait_load_layers\": 0,"
    " \"num_of_selected_tokens\": 20, \"selector_cls\": \"last\"}",
    "{\"model_cls\": \"multi\", \"do_select_layers\": \"0,1\", \"num_wait_load_layers\": 0,"
    " \"num_of_selected_tokens\": 0.2, \"selector_cls\": \"exp\", \"window_size\": 5,"
    " \"refresh\": 3, \"pool\": \"none\", \"candidates\": \"all\"}",
    "{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 4,"
    " \"sink_window_length\": 28}",
};

/* Known tokens in a block, and one at a time as a trace walks them. */
static void blocks_equal_rows(void)
{
    enum { FROM = 100, N = 300 };
    struct golden g;
    const struct hooks idle = {0};
    if (!golden_open(&g, GOLDEN)) return;
    const int V = g.m.config.V;
    float *first = xmalloc((size_t)V * sizeof *first);
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct run_config config;
        int best[2][N];
        float nll[2][N];
        CHECK(run_config_parse(&config, "config", configs[i]) == 0, "%s", last_failure());
        struct method *method = method_open(&config, &g.m);
        struct session *s = session_open(
            &g.m, &(struct session_plan){
                      .room = N, .keep_queries = method->keep_queries, .extrapolate = false});
        for (int way = 0; way < 2; way++) {
            const float *logits;
            CHECK(prefill(s, g.ids, FROM, NULL, NULL, &logits) == 0, "%s", last_failure());
            memcpy(first, logits, (size_t)V * sizeof *first);
            CHECK(decode_known(s, method, way ? &idle : NULL, g.ids, FROM, N, first, best[way],
                               nll[way]) == 0,
                  "%s", last_failure());
            CHECK(session_length(s) == (way ? N : N - 1), "%d tokens", session_length(s));
        }
        CHECK(memcmp(best[0] + FROM, best[1] + FROM, (N - FROM) * sizeof(int)) == 0,
              "%s: other tokens", method_name(config.method));
        CHECK(distance(nll[0] + FROM, nll[1] + FROM, N - FROM) <= CLOSE * g.deviation,
              "%s: nll off by %.2e", method_name(config.method),
              distance(nll[0] + FROM, nll[1] + FROM, N - FROM));
        session_close(s);
        method_close(method);
        run_config_free(&config);
    }
    free(first);
    golden_close(&g);
}

static void bits_repeat_on_any_number_of_threads(void)
{
    static const int threads[] = {2, 2, 1, 3, 7};
    const int usual = omp_get_max_threads();
    struct golden g;
    uint64_t want = 0;
    if (!golden_open(&g, GOLDEN)) return;
    const int V = g.m.config.V;
    float *first = xmalloc((size_t)V * sizeof *first);
    for (size_t i = 0; i < COUNT_OF(threads); i++) {
        uint64_t hash = HASH_START;
        omp_set_num_threads(threads[i]);
        for (size_t k = 0; k < COUNT_OF(configs); k++) {
            struct run_config config;
            struct sampler sampler;
            const float *logits;
            float nll[40];
            int out[40], n_out;
            CHECK(run_config_parse(&config, "config", configs[k]) == 0, "%s", last_failure());
            struct method *method = method_open(&config, &g.m);
            struct session *s = session_open(
                &g.m, &(struct session_plan){
                          .room = 350, .keep_queries = method->keep_queries, .extrapolate = false});
            sampler_open(&sampler, (struct sampling){0.8, 50, 0.95, 7}, V);
            CHECK(prefill(s, g.ids, g.n, NULL, NULL, &logits) == 0, "%s", last_failure());
            memcpy(first, logits, (size_t)V * sizeof *first);
            hash = hash_bytes(hash, first, (size_t)V * sizeof *first);
            CHECK(decode_free(s, method, NULL, first, 40, NULL, 0, &sampler, out, nll, &n_out, NULL,
                              NULL) == 0,
                  "%s", last_failure());
            hash = hash_bytes(hash, out, sizeof out);
            hash = hash_bytes(hash, nll, sizeof nll);
            sampler_close(&sampler);
            session_close(s);
            method_close(method);
            run_config_free(&config);
        }
        if (i == 0) want = hash;
        CHECK(hash == want, "other bits with %d threads", threads[i]);
    }
    omp_set_num_threads(usual);
    free(first);
    golden_close(&g);
}

/* ---- what is refused */

static void refusals(void)
{
    struct model m;
    const float *logits;
    int ids[200] = {0};
    cJSON *shorter = cJSON_Parse("{\"max_position_embeddings\": 100}");
    const bool muted = mute_failures(true);
    CHECK(model_open(&m, GOLDEN, shorter, "cpu") == 0, "%s", last_failure());

    struct session *s = session_open(
        &m, &(struct session_plan){.room = 100, .keep_queries = 0, .extrapolate = false});
    CHECK(s != NULL, "the trained length itself is allowed: %s", last_failure());
    session_start(s, 100);
    static const int wrong[] = {512, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", wrong[i]);
        ids[3] = wrong[i];
        CHECK(forward(s, ids, 5, true, NULL, NULL, LOGITS_LAST, &logits) == -1 &&
                  strstr(last_failure(), number) && strstr(last_failure(), "512"),
              "id %d: %s", wrong[i], last_failure());
    }
    ids[3] = 511;
    CHECK(session_length(s) == 0, "a refused pass adds nothing: %d", session_length(s));
    CHECK(forward(s, ids, 0, true, NULL, NULL, LOGITS_LAST, &logits) == -1, "no tokens");
    CHECK(forward(s, ids, 101, true, NULL, NULL, LOGITS_LAST, &logits) == -1,
          "more tokens than were asked for, past the trained length");
    CHECK(forward(s, ids, 100, true, NULL, NULL, LOGITS_LAST, &logits) == 0, "%s", last_failure());
    CHECK(forward(s, ids, 64, false, NULL, NULL, LOGITS_LAST, &logits) == -1 &&
              strstr(last_failure(), "room"),
          "no room: %s", last_failure());
    session_close(s);

    CHECK(session_open(
              &m, &(struct session_plan){.room = 101, .keep_queries = 0, .extrapolate = false}) ==
                  NULL &&
              strstr(last_failure(), "100") && strstr(last_failure(), "--allow-extrapolation"),
          "past the trained length: %s", last_failure());
    s = session_open(&m,
                     &(struct session_plan){.room = 101, .keep_queries = 0, .extrapolate = true});
    CHECK(s != NULL, "%s", last_failure());
    session_close(s);
    model_close(&m);
    cJSON_Delete(shorter);
    mute_failures(muted);
}

/* One weight of the last layer is no number: the run must say so, whatever the bits of the NaN. The
 * values are small, so that no overflow comes to the aid of a NaN lost among the weights. */
static void damaged_weights_are_noticed(void)
{
    static const uint32_t bits[] = {0x7fc00000, 0xffc00000, 0x7fffffff, 0xffffffff,
                                    0x7f800001, 0x7fc000ff, 0x7f800000, 0xff800000};
    static const int lengths[] = {1, 4, 5, 9, 100};
    const bool muted = mute_failures(true);
    struct golden g;
    if (!golden_open(&g, GOLDEN)) return;
    struct layer_weights *w = &g.m.weights->layer[g.m.config.L - 1];
    struct {
        const char *name;
        struct matrix *m;
    } parts[] = {
        {"q", &w->q},       {"k", &w->k},   {"v", &w->v},       {"o", &w->o},
        {"gate", &w->gate}, {"up", &w->up}, {"down", &w->down}, {"head", &g.m.weights->head}};
    const size_t n_values = (size_t)w->v.rows * (size_t)w->v.cols;
    float *values = xmalloc(n_values * sizeof *values);
    memcpy(values, w->v.data, n_values * sizeof *values);
    for (size_t i = 0; i < n_values; i++) values[i] *= 1e-4f;
    w->v.data = values;
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        const struct matrix whole = *parts[i].m;
        const size_t bytes = (size_t)whole.rows * (size_t)whole.cols * sizeof(float);
        char *data = xmalloc(bytes);
        parts[i].m->data = data;
        for (size_t j = 0; j < COUNT_OF(bits); j++)
            for (size_t k = 0; k < COUNT_OF(lengths); k++) {
                const float *logits;
                struct session *s = session_open(
                    &g.m,
                    &(struct session_plan){.room = 100, .keep_queries = 0, .extrapolate = false});
                memcpy(data, whole.data, bytes);
                memcpy(data + 4 * 70, &bits[j], 4);
                session_start(s, lengths[k]);
                const int rc =
                    forward(s, g.ids, lengths[k], true, NULL, NULL, LOGITS_LAST, &logits);
                CHECK(rc == -1 && strstr(last_failure(), "not finite"),
                      "%s has a weight of bits %08x, and %d tokens pass", parts[i].name, bits[j],
                      lengths[k]);
                session_close(s);
            }
        *parts[i].m = whole;
        free(data);
    }
    free(values);
    golden_close(&g);
    mute_failures(muted);
}

int main(void)
{
    set_program_name("test_forward");
    goldens_agree();
    pocket_attends_as_recorded();
    chunks_equal_one_pass();
    blocks_equal_rows();
    bits_repeat_on_any_number_of_threads();
    refusals();
    damaged_weights_are_noticed();
    return check_report("test_forward");
}
