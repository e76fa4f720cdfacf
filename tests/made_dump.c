/* made_dump.c - dumps of made-up values. */
#include "tests/made_dump.h"
#include "core/base/base.h"
#include "core/base/half.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The rows of the second are split, and its layers need several chunks too. */
const struct plan made_small = {5, 4, 2, 60, 7, 6, 2, 9, 70, 20, false, false, false};
const struct plan made_wide = {9, 6, 3, 17000, 2, 300, 1, 50, 17005, 3, true, false, true};
const struct plan made_long = {3, 2, 2, 240, 200, 4, 3, 5, 300, 260, false, true, false};

static const int layers[] = {1, 2, 0};

struct dump_run made_run(const struct plan *p)
{
    return (struct dump_run){.model = "m\xc3\xbcsli",
                             .fingerprint = "abc",
                             .command = "okv trace",
                             .config = "{\"a\": 1}",
                             .method = "omnikv",
                             .dtype = "bf16",
                             .backend = "cpu",
                             .score_kind = "last",
                             .attn_rows = p->kv ? "kv_head" : "head",
                             .version = "0",
                             .commit = "c",
                             .L = p->L,
                             .H = p->H,
                             .G = p->G,
                             .D = 8,
                             .E = 32,
                             .V = 1000,
                             .K = p->K,
                             .reuse_k = 7,
                             .M = p->M,
                             .layers = layers,
                             .full_layers = 2,
                             .seed = UINT64_MAX - 1};
}

struct dump_shape made_shape(const struct plan *p, enum dump_field f)
{
    const struct dump_dims d = {p->L, p->G,    p->K, p->M, p->T, p->S, p->kv ? p->G : p->H,
                                p->k, 2 * p->T};
    return dump_shape_of(f, &d);
}

uint32_t made_fields(void)
{
    return ((1u << DUMP_FIELD_COUNT) - 1) & ~((1u << (DUMP_STEP_NLL + 1)) - 1);
}

/* A number in [0, 1) by its place: the finaliser of splitmix64. */
static double unit(int f, int64_t s, int64_t a, int64_t b, int64_t w)
{
    uint64_t z = (((uint64_t)f * 1000 + (uint64_t)s) * 64 + (uint64_t)a) * 1024 + (uint64_t)b;
    z = (z << 20) + (uint64_t)w + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Values a row has; the rest is the fill. */
static int64_t length_of(const struct plan *p, enum dump_field f, int64_t s, int64_t W)
{
    const int n_prefill = p->T - p->S;
    if (f == DUMP_MASS || f == DUMP_ATTN) return n_prefill + s + 1;
    if (f == DUMP_SCORE) return n_prefill;
    if (f == DUMP_REUSE_ERROR) return W - 2 * (s % 2);
    return f == DUMP_TOPK_IDX || f == DUMP_SELECTED_IDX ? W - s % 2 : W;
}

/* What is put at [s, a, b, w]; the fields' own ranges, so that dump_check() holds. */
static double value_of(const struct plan *p, enum dump_field f, int64_t s, int64_t a, int64_t b,
                       int64_t w)
{
    const double u = unit((int)f, s, a, b, w);
    switch (f) {
    case DUMP_SCORE:
        return a == 1 ? NAN : 20 * u - 10;
    case DUMP_TOPK_IDX:
        return floor(u * p->T);
    case DUMP_SELECTED_IDX:
        return (double)(w + s % 3);
    case DUMP_TOPK_MASS:
        return u / p->K;
    case DUMP_REUSE_ERROR:
        if (w / 2 < b) return NAN;
        return w % 2 ? 1 - u : u;
    case DUMP_IMPORTANCE:
        return u;
    case DUMP_TOPK_TOTAL:
        return u;
    case DUMP_PREFILL_SCORE:
        return 100 * u;
    default:
        return u / p->T;
    }
}

double made_value(const struct plan *p, enum dump_field f, int64_t s, int64_t a, int64_t b,
                  int64_t w, int64_t W)
{
    if (w >= length_of(p, f, s, W) && f == DUMP_REUSE_ERROR) return NAN;
    if (w >= length_of(p, f, s, W)) return f == DUMP_TOPK_IDX || f == DUMP_SELECTED_IDX ? -1 : 0;
    const float v = (float)value_of(p, f, s, a, b, w);
    return dump_store_of(f, p->f32) == STORE_F16 ? f16_to_f32(f32_to_f16(v)) : v;
}

static int put_field(struct dump_writer *w, const struct plan *p, enum dump_field f, int s)
{
    const struct dump_shape n = made_shape(p, f);
    float *row = xmalloc((size_t)n.W * sizeof *row);
    int *ints = xmalloc((size_t)n.W * sizeof *ints), rc = 0;
    const int64_t rows = n.A * n.B;
    for (int64_t i = 0; i < rows && rc == 0; i++) {
        const int64_t at = p->backwards ? rows - 1 - i : i, a = at / n.B, b = at % n.B;
        const int64_t length = length_of(p, f, s, n.W);
        for (int64_t k = 0; k < length; k++) {
            row[k] = (float)value_of(p, f, s, a, b, k);
            ints[k] = isnan(row[k]) ? 0 : (int)row[k];
        }
        rc = dump_store_of(f, false) == STORE_I32
                 ? dump_put_int(w, f, s, (int)a, ints, (int)length)
                 : dump_put(w, f, s, (int)a, (int)b, row, (int)length);
    }
    free(row);
    free(ints);
    return rc;
}

struct dump_sample made_sample(const struct plan *p, int index)
{
    return (struct dump_sample){.task = "kv",
                                .prompt_hash = 0xfedcba9876543210u + (uint64_t)index,
                                .n_prefill = p->T - p->S};
}

/* Steps of a sample, the first STEPS of them. */
int made_put_steps(struct dump_writer *w, const struct plan *p, int steps)
{
    int rc = put_field(w, p, DUMP_PREFILL_SCORE, 0);
    for (int s = 0; s < steps && rc == 0; s++)
        for (int f = DUMP_STEP_NLL + 1; f < DUMP_FIELD_COUNT && rc == 0; f++)
            if (f != DUMP_PREFILL_SCORE) rc = put_field(w, p, (enum dump_field)f, s);
    return rc;
}

int made_end(struct dump_writer *w, const struct plan *p)
{
    int *tokens = xmalloc((size_t)p->T * sizeof *tokens),
        *ends = xmalloc((size_t)p->T * sizeof *ends);
    int *pos = xmalloc((size_t)p->S * sizeof *pos);
    float *nll = xmalloc((size_t)p->S * sizeof *nll);
    uint8_t *text = xmalloc(2 * (size_t)p->T);
    for (int t = 0; t < p->T; t++) {
        tokens[t] = 7 * t % 1000;
        ends[t] = 2 * (t + 1);
        text[2 * t] = 'a';
        text[2 * t + 1] = (uint8_t)t;
    }
    for (int s = 0; s < p->S; s++) {
        pos[s] = p->T - p->S + s;
        nll[s] = s == 1 ? NAN : 0.5f * (float)s;
    }
    const struct dump_sample_end end = {p->T, p->S, tokens, text, ends, pos, nll, "out", "[\"x\"]"};
    const int rc = dump_sample_finish(w, &end);
    free(tokens);
    free(ends);
    free(pos);
    free(nll);
    free(text);
    return rc;
}

int made_put_sample(struct dump_writer *w, const struct plan *p, int index)
{
    const struct dump_sample begin = made_sample(p, index);
    if (dump_sample_begin(w, index, &begin, p->max_T, p->max_S, p->k)) return -1;
    return made_put_steps(w, p, p->S) || made_end(w, p) ? -1 : 0;
}

int made_write(const char *path, const struct plan *p, int samples)
{
    const struct dump_run run = made_run(p);
    const struct dump_options options = {.fields = made_fields(), .f32 = p->f32};
    struct dump_writer *w = dump_create(path, &run, &options);
    int rc = w ? 0 : -1;
    for (int i = 0; i < samples && rc == 0; i++) rc = made_put_sample(w, p, i);
    return dump_finish(w, rc);
}

bool made_equal(double found, double want)
{
    return isnan(want) ? isnan(found) : found == want;
}

/* Compares field F of sample I with what was put: exactly. */
static void compare_field(struct dump *d, int i, const struct plan *p, enum dump_field f)
{
    const struct dump_shape n = made_shape(p, f);
    const size_t size = (size_t)(n.A * n.B * n.W);
    const bool ints = dump_store_of(f, false) == STORE_I32;
    float *v = xmalloc(size * sizeof *v);
    int *whole = xmalloc(size * sizeof *whole);
    long wrong = 0;
    for (int64_t s = 0; s < n.S; s++) {
        const int rc = ints ? dump_ints(d, i, f, (int)s, whole) : dump_rows(d, i, f, (int)s, v);
        CHECK(rc == 0, "%s, step %d cannot be read", dump_field_info(f)->name, (int)s);
        if (rc) break;
        for (int64_t at = 0; at < (int64_t)size; at++) {
            const int64_t w = at % n.W, b = at / n.W % n.B, a = at / n.W / n.B;
            wrong += !made_equal(ints ? whole[at] : v[at], made_value(p, f, s, a, b, w, n.W));
        }
    }
    CHECK(wrong == 0, "%s: %ld of %zu values a step differ", dump_field_info(f)->name, wrong, size);
    free(v);
    free(whole);
}

static void compare_basics(struct dump *d, int i, const struct plan *p)
{
    int *v = xmalloc((size_t)p->T * sizeof *v), wrong = 0;
    float *nll = xmalloc((size_t)p->S * sizeof *nll);
    uint8_t *text = xmalloc(2 * (size_t)p->T);
    CHECK(dump_ints(d, i, DUMP_TOKENS, 0, v) == 0, "tokens");
    for (int t = 0; t < p->T; t++) wrong += v[t] != 7 * t % 1000;
    CHECK(dump_ints(d, i, DUMP_TEXT_END, 0, v) == 0, "text_end");
    for (int t = 0; t < p->T; t++) wrong += v[t] != 2 * (t + 1);
    CHECK(dump_text(d, i, text) == 0, "text");
    for (int t = 0; t < p->T; t++) wrong += text[2 * t] != 'a' || text[2 * t + 1] != (uint8_t)t;
    CHECK(dump_ints(d, i, DUMP_STEP_POS, 0, v) == 0, "step_pos");
    for (int s = 0; s < p->S; s++) wrong += v[s] != p->T - p->S + s;
    CHECK(dump_rows(d, i, DUMP_STEP_NLL, 0, nll) == 0, "step_nll");
    for (int s = 0; s < p->S; s++) wrong += !made_equal(nll[s], s == 1 ? NAN : 0.5f * (float)s);
    CHECK(wrong == 0, "%d basic values differ", wrong);
    free(v);
    free(nll);
    free(text);
}

void made_compare(const char *path, const struct plan *p, int samples)
{
    struct dump *d = dump_open(path);
    struct dump_sample_info n;
    CHECK(d != NULL, "%s", path);
    if (d == NULL) return;
    const struct dump_run *r = dump_run(d);
    CHECK(dump_samples(d) == samples, "%d samples", dump_samples(d));
    CHECK(strcmp(r->model, "m\xc3\xbcsli") == 0 && strcmp(r->config, "{\"a\": 1}") == 0 &&
              r->L == p->L && r->M == p->M && r->layers[0] == 1 && r->seed == UINT64_MAX - 1,
          "the run differs");
    for (int i = 0; i < samples; i++) {
        CHECK(dump_sample(d, i, &n) == 0, "sample %d", i);
        CHECK(n.T == p->T && n.S == p->S && n.k == p->k && n.R == (p->kv ? p->G : p->H) &&
                  n.n_prefill == p->T - p->S && n.text_bytes == 2 * p->T &&
                  n.prompt_hash == 0xfedcba9876543210u + (uint64_t)i,
              "sample %d: T %d, S %d, k %d, R %d", i, n.T, n.S, n.k, n.R);
        CHECK(strcmp(n.task, "kv") == 0 && strcmp(n.output, "out") == 0 &&
                  strcmp(n.answers, "[\"x\"]") == 0,
              "sample %d: its texts differ", i);
        compare_basics(d, i, p);
        for (int f = DUMP_STEP_NLL + 1; f < DUMP_FIELD_COUNT; f++)
            compare_field(d, i, p, (enum dump_field)f);
    }
    dump_close(d);
}
