/* test_op_forms.c - ops whose answer is known in closed form, on every backend: the definition, and
 * each instruction set of this processor.
 */
#include "core/base/base.h"
#include "core/ops/ops.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24 /* unit roundoff of float32 */

struct backend {
    const struct ops *ops;
    const char *isa;
    struct scratch scratch;
};

static void exponential_is_within_two_ulp(struct backend *b)
{
    const int T = 1 << 18;
    const float lse = 0;
    float *x = xmalloc(2 * (size_t)T * sizeof *x), *y = x + T;
    double worst = 0, at = 0;
    for (int t = 0; t < T; t++) x[t] = -87.3f * (float)t / (float)T;
    b->ops->pool_mass(y, x, (size_t)T, &lse, T, 1); /* of one head: e^x */
    for (int t = 0; t < T; t++) {
        const double want = exp(x[t]), ulp = ldexp(1, ilogb(want) - 23);
        const double off = fabs(y[t] - want) / ulp;
        if (off > worst) {
            worst = off;
            at = x[t];
        }
    }
    CHECK(worst <= 2, "%s: e^%.9g is off by %.2f ulp", b->isa, at, worst);
    const float deep[] = {-88, -100, -1e4f, -1e30f, -INFINITY};
    float zero[5];
    b->ops->pool_mass(zero, deep, 5, &lse, 5, 1);
    for (int i = 0; i < 5; i++)
        CHECK(zero[i] >= 0 && zero[i] < 1.2e-38f, "%s: e^%g = %g", b->isa, deep[i], zero[i]);
    /* a NaN stays one, whatever its bits: damaged weights must show in the logits */
    const uint32_t bits[] = {0x7fc00000, 0xffc00000, 0x7fffffff, 0xffffffff,
                             0x7fc00001, 0x7fc000ff, 0x7f800001, 0xff8000c0};
    float nan[8], out[8];
    memcpy(nan, bits, sizeof nan);
    b->ops->pool_mass(out, nan, 8, &lse, 8, 1);
    for (int i = 0; i < 8; i++)
        CHECK(isnan(out[i]), "%s: e^NaN, bits %08x, is %g", b->isa, bits[i], out[i]);
    free(x);
}

/* One head of width 2, q = (1, 0) * sqrt(2), so that each logit is the key's first component. */
static void softmax_is_right(struct backend *b)
{
    static const struct {
        const char *what;
        float key[2], want[2]; /* the weights of the two positions */
    } cases[] = {
        {"equal keys share evenly", {3, 3}, {0.5f, 0.5f}},
        {"a gap of ln 3 is odds of 3 to 1", {1.09861229f, 0}, {0.75f, 0.25f}},
        {"a huge gap saturates and does not overflow", {1e20f, -1e20f}, {1, 0}},
    };
    const struct model_config c = {.H = 1, .G = 1, .D = 2};
    const int seen_by_row_1[] = {0}, count[] = {1}, tail[] = {1};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        float k[16 * 64] = {cases[i].key[0]}, v[16 * 64] = {1, 0}, q[32] = {0};
        k[16] = cases[i].key[1];
        v[17] = 1; /* position t holds the unit vector t, so the output is the weights */
        q[0] = q[16] = 1.41421356f;
        const struct kv_layer kv = {k, v, 64, NULL};
        float out[3][4], lse[2];
        b->ops->attend_all(out[0], q, &kv, 2, 0, &c, lse, &b->scratch);
        b->ops->attend_rows(out[1], q, &kv, 2, 0, 1, (struct attn_view){0},
                            (struct attn_seen){.lse = lse}, &c, &b->scratch);
        b->ops->attend_rows(
            out[2] + 2, q, &kv, 1, 1, 1,
            (struct attn_view){
                .idx = seen_by_row_1, .sets = 1, .stride = 1, .count = count, .tail = tail},
            (struct attn_seen){0}, &c, &b->scratch);
        out[2][0] = 1;
        out[2][1] = 0;
        for (int way = 0; way < 3; way++) {
            CHECK(out[way][0] == 1 && out[way][1] == 0, "%s: row 0 sees itself only: %g %g", b->isa,
                  out[way][0], out[way][1]);
            for (int t = 0; t < 2; t++) /* 1e-6: a few roundings of numbers up to 1 */
                CHECK(fabsf(out[way][2 + t] - cases[i].want[t]) < 1e-6f,
                      "%s: %s: weight %d is %.9g, want %g", b->isa, cases[i].what, t,
                      out[way][2 + t], cases[i].want[t]);
        }
        const double top = cases[i].key[0], gap = cases[i].key[1] - top;
        CHECK(fabs(lse[1] - (top + log1p(exp(gap)))) <= 1e-6 * fmax(1, fabs(top)), "%s: lse %g",
              b->isa, lse[1]);
    }
}

static void query_heads_find_their_kv_head(struct backend *b)
{
    const struct model_config c = {.H = 6, .G = 2, .D = 2};
    float k[2 * 64 * 16] = {0}, v[2 * 64 * 16] = {0}, q[2 * 6 * 16] = {0}, out[2 * 6 * 2];
    const struct kv_layer kv = {k, v, 64, NULL};
    for (int g = 0; g < 2;
         g++) { /* kv head g is loud at position g, and its value there is g + 1 */
        k[(g * 64 + g) * 16] = 100;
        v[(g * 64 + g) * 16] = (float)(g + 1);
    }
    for (int i = 0; i < 12; i++) q[i * 16] = 1;
    b->ops->attend_all(out, q, &kv, 2, 0, &c, NULL, &b->scratch);
    for (int h = 0; h < 6; h++)
        CHECK(fabsf(out[12 + 2 * h] - (float)(h / 3 + 1)) < 1e-6f, "%s: head %d: %g", b->isa, h,
              out[12 + 2 * h]);
}

/* All weights 0 and the down projection the identity: what mlp() adds is silu(bias) * 1. */
static void silu_is_right(struct backend *b)
{
    enum { N = 21 };
    static const float g[N] = {0,   1e-30f, -1e-6f, 0.5f, -0.5f, 1,  -1,  5,     -5,    20,   -20,
                               -60, 60,     -86,    86,   -88,   88, 200, -1e4f, 1e30f, 1e-3f};
    float zero[N * N] = {0}, identity[N * N] = {0}, ones[N], x[5 * N] = {0};
    for (int i = 0; i < N; i++) identity[i * N + i] = ones[i] = 1;
    const struct matrix nothing = {zero, DTYPE_F32, N, N}, same = {identity, DTYPE_F32, N, N};
    const struct layer_weights w = {.mlp_norm = ones,
                                    .gate = nothing,
                                    .up = nothing,
                                    .down = same,
                                    .gate_bias = g,
                                    .up_bias = ones};
    const struct model_config c = {.E = N, .F = N, .norm_eps = 1e-5f};
    for (int n = 1; n <= 5; n += 4) {
        memset(x, 0, sizeof x);
        b->ops->mlp(x, n, &w, &c, &b->scratch);
        for (int r = 0; r < n; r++)
            for (int i = 0; i < N; i++) {
                const double want = g[i] / (1 + exp(-(double)g[i]));
                CHECK(fabs(x[r * N + i] - want) <= 8 * U * fabs(want) + 1e-33,
                      "%s: silu(%g) = %.9g, want %.9g", b->isa, g[i], x[r * N + i], want);
            }
    }
}

/* Position 0 turns nothing; a quarter turn sends (a, b) to (-b, a); an RMS norm of equal numbers is
 * its weights. */
static void rotation_and_norm_are_right(struct backend *b)
{
    const float identity[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    const float weight[4] = {1, 2, 3, 4}, x[8] = {5, 5, 5, 5, -3, -3, -3, -3};
    const float cosine[4] = {1, 1, 0, 0}, sine[4] = {0, 0, 1, 1};
    const float want[2][4] = {{1, 2, 3, 4},
                              {3, 4, -1, -2}}; /* row 1: norm -w, then (2,3) to front */
    const struct matrix same = {identity, DTYPE_F32, 4, 4};
    const struct layer_weights w = {.attn_norm = weight, .q = same, .k = same, .v = same};
    const struct model_config c = {.E = 4, .H = 1, .G = 1, .D = 4, .norm_eps = 0};
    float q[32], k[64 * 16], v[64 * 16];
    struct kv_layer kv = {k, v, 64, NULL};
    b->ops->attn_in(q, &kv, x, 2, 0, &w, &c, (struct rope_table){cosine, sine}, &b->scratch);
    for (int r = 0; r < 2; r++)
        for (int d = 0; d < 16; d++) {
            const float turned = d < 4 ? want[r][d] : 0;
            const float plain = d < 4 ? (r ? -weight[d] : weight[d]) : 0;
            CHECK(fabsf(q[r * 16 + d] - turned) < 2e-6f && fabsf(k[r * 16 + d] - turned) < 2e-6f,
                  "%s: row %d [%d]: q %g k %g, want %g", b->isa, r, d, q[r * 16 + d], k[r * 16 + d],
                  turned);
            CHECK(fabsf(v[r * 16 + d] - plain) < 2e-6f, "%s: v %g, want %g", b->isa, v[r * 16 + d],
                  plain);
        }
}

static void top_k_is_right(struct backend *b)
{
    static const struct {
        const char *what;
        float score[6];
        int k, want[6];
    } cases[] = {
        {"the best, ascending", {1, 9, 3, 7, 5, 2}, 3, {1, 3, 4}},
        {"ties go to the lower index", {2, 1, 2, 1, 2, 1}, 2, {0, 2}},
        {"zeros of both signs are equal", {-0.0f, 0.0f, -1, 0.0f, -0.0f, -2}, 2, {0, 1}},
        {"NaN is lowest", {NAN, -INFINITY, -NAN, 0, NAN, -1}, 3, {1, 3, 5}},
        {"then by index", {NAN, -INFINITY, -NAN, 0, NAN, -1}, 4, {0, 1, 3, 5}},
        {"infinity is highest", {1e38f, INFINITY, 0, INFINITY, -1, 2}, 2, {1, 3}},
        {"none", {1, 2, 3, 4, 5, 6}, 0, {0}},
        {"all", {6, NAN, 4, 3, -INFINITY, 1}, 6, {0, 1, 2, 3, 4, 5}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int idx[6] = {-1, -1, -1, -1, -1, -1};
        b->ops->top_k(idx, cases[i].score, 6, cases[i].k);
        for (int j = 0; j < cases[i].k; j++)
            CHECK(idx[j] == cases[i].want[j], "%s: %s: [%d] is %d, want %d", b->isa, cases[i].what,
                  j, idx[j], cases[i].want[j]);
        for (int j = cases[i].k; j < 6; j++) CHECK(idx[j] == -1, "%s: wrote past k", b->isa);
    }
}

int main(void)
{
    static const char *const names[] = {"reference", "avx512", "avx2", "plain"};
    void (*const forms[])(struct backend *) = {exponential_is_within_two_ulp,  softmax_is_right,
                                               query_heads_find_their_kv_head, silu_is_right,
                                               rotation_and_norm_are_right,    top_k_is_right};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct backend b = {.ops = i ? ops_cpu(names[i]) : ops_reference(), .isa = names[i]};
        if (b.ops == NULL) {
            check_skip(names[i], "this processor lacks it");
            continue;
        }
        for (size_t j = 0; j < COUNT_OF(forms); j++) forms[j](&b);
        free(b.scratch.p);
    }
    CHECK(ops_cpu("sse9") == NULL && ops_cpu(NULL) != NULL, "ops_cpu() knows its names");
    return check_report("test_op_forms");
}
