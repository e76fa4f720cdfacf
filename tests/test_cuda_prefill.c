/* test_cuda_prefill.c - a prefill's attention and row kernels against their plain definitions.
 *
 * Definitions are in double on the values as rounded to the 16-bit type, so what differs is the
 * kernels' own rounding. Bounds as in docs/numbers.md: u = 2^-24 for each float32 operation, of
 * sums of absolute values; half an ulp of the 16-bit type, relative, for each value rounded to it.
 * Sums of a matrix product count twice: tensor cores may cut where the processor rounds.
 */
#include "tests/gpu.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24;

/* The largest relative error of rounding to TYPE, and the absolute one where it has no normal
 * numbers. */
static double unit_of(enum dtype type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
}
static double floor_of(enum dtype type)
{
    return type == DTYPE_BF16 ? 1e-38 : 0x1p-25;
}

static double value(const uint16_t *x, size_t i, enum dtype type)
{
    return type == DTYPE_BF16 ? bf16_to_f32(x[i]) : f16_to_f32(x[i]);
}

/* The bytes that lie at P on the device; freed by the caller. */
static void *fetch(const void *p, size_t bytes)
{
    void *copy = xmalloc(bytes);
    gpu_get(copy, p, bytes);
    return copy;
}

static bool untouched(const uint16_t *x, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (x[i] != 0xffff) return false;
    return true;
}

/* ---- attention */

struct shape {
    int n, pos0, room, H, G, D;
};

/* One row of one head: out [D], its lse, and what each may be off by. */
static void attend(double *out, double *off, double *lse, double *lse_off, const float *q,
                   const float *k, const float *v, int length, int D, enum dtype type)
{
    double *weight = xmalloc((size_t)length * sizeof *weight), top = -INFINITY, sum = 0, size = 0;
    double loudest = 0;
    for (int t = 0; t < length; t++) {
        double dot = 0, absolute = 0;
        for (int d = 0; d < D; d++) {
            const double a = (double)q[d] * k[(size_t)t * D + d];
            dot += a;
            absolute += fabs(a);
        }
        weight[t] = dot / sqrt(D);
        top = fmax(top, weight[t]);
        size = fmax(size, absolute / sqrt(D));
    }
    for (int t = 0; t < length; t++) sum += weight[t] = exp(weight[t] - top);
    *lse = top + log(sum);

    /* a logit off by l moves a weight by exp(2 l); tiles may have 16 keys */
    const double l = gpu_gamma(2 * (D + 8)) * size;
    const double w =
        expm1(2 * l + 176 * u + 4 * u * (2 + length / 16.0)) + gpu_gamma(2 * (length + 8));
    *lse_off = w + 4 * u * fabs(*lse);
    for (int d = 0; d < D; d++) {
        double absolute = 0;
        out[d] = 0;
        for (int t = 0; t < length; t++) {
            const double a = weight[t] / sum * v[(size_t)t * D + d];
            out[d] += a;
            absolute += fabs(a);
            loudest = fmax(loudest, fabs(v[(size_t)t * D + d]));
        }
        /* rounded: the weights, of which the largest is 1, and the result */
        off[d] = 1.01 * (w + unit_of(type)) * absolute + unit_of(type) * fabs(out[d]) +
                 floor_of(type) * (length * loudest + 1);
    }
    free(weight);
}

struct kernel {
    const char *name;
    int (*run)(const struct cuda_prefill *a, cudaStream_t stream);
    int runs;
};

static void compare(const struct kernel *kernel, const struct shape *s, enum dtype type,
                    const uint16_t *got, const float *got_lse, const double *out, const double *off,
                    const double *lse, const double *lse_off)
{
    double worst = 0, worst_lse = 0;
    size_t at = 0, at_lse = 0;
    for (size_t i = 0; i < (size_t)s->n * s->H * s->D; i++) {
        const double e = fabs(value(got, i, type) - out[i]) / off[i];
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e, at = i;
    }
    for (size_t i = 0; i < (size_t)s->n * s->H; i++) {
        const double e = fabs(got_lse[i] - lse[i]) / lse_off[i];
        if (!(e <= worst_lse)) worst_lse = isnan(e) ? INFINITY : e, at_lse = i;
    }
    const size_t wide = (size_t)s->H * s->D;
    CHECK(worst <= 1, "%s %s n %d pos0 %d H %d G %d D %d: out[%zu, %zu, %zu] = %g, want %g +- %g",
          kernel->name, dtype_name(type), s->n, s->pos0, s->H, s->G, s->D, at / wide,
          at % wide / s->D, at % s->D, value(got, at, type), out[at], off[at]);
    CHECK(worst_lse <= 1, "%s %s n %d pos0 %d H %d G %d D %d: lse[%zu, %zu] = %g, want %g +- %g",
          kernel->name, dtype_name(type), s->n, s->pos0, s->H, s->G, s->D, at_lse / s->H,
          at_lse % s->H, got_lse[at_lse], lse[at_lse], lse_off[at_lse]);
}

/* Keys and values of all T positions, in ROOM with NaN behind them. */
static void *roomy(const void *dense, const struct shape *s, int T)
{
    const size_t row = 2 * (size_t)s->D;
    void *p = gpu_put(NULL, s->G * s->room * row);
    const cudaError_t e = cudaMemcpy2D(p, s->room * row, dense, T * row, T * row, (size_t)s->G,
                                       cudaMemcpyDeviceToDevice);
    CHECK(e == cudaSuccess, "%s", cudaGetErrorString(e));
    return p;
}

static void attention_is_right(struct kernel *kernels, int n_kernels, struct rng *r,
                               const struct shape *s, enum dtype type, float loud)
{
    const int T = s->pos0 + s->n;
    const size_t rows = (size_t)s->n * s->H, size = rows * s->D, behind = 2 * (size_t)s->H * s->D;
    float *q, *k, *v;
    const void *dev_q = gpu_random(r, size, loud, type, &q);
    const void *dev_k = gpu_random(r, (size_t)s->G * T * s->D, 1, type, &k);
    const void *dev_v = gpu_random(r, (size_t)s->G * T * s->D, 1, type, &v);
    struct cuda_prefill a = {.q = dev_q,
                             .n = s->n,
                             .pos0 = s->pos0,
                             .room = s->room,
                             .H = s->H,
                             .G = s->G,
                             .D = s->D,
                             .type = type};
    double *out = xmalloc(2 * (size + rows) * sizeof *out), *off = out + size;
    double *lse = off + size, *lse_off = lse + rows;
    a.k = roomy(dev_k, s, T);
    a.v = roomy(dev_v, s, T);

#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < s->n * s->H; i++) {
        const size_t head = (size_t)(i % s->H / (s->H / s->G)) * T * s->D, at = (size_t)i * s->D;
        attend(out + at, off + at, &lse[i], &lse_off[i], q + at, k + head, v + head,
               s->pos0 + i / s->H + 1, s->D, type);
    }
    for (int j = 0; j < n_kernels; j++) {
        uint16_t *first = NULL;
        for (int again = 0; again < 2; again++) {
            a.out = gpu_put(NULL, 2 * (size + behind));
            a.lse = gpu_put(NULL, 4 * (rows + 2));
            const int rc = kernels[j].run(&a, NULL);
            if (rc == 1) break; /* not on this device */
            CHECK(rc == 0, "%s: %s", kernels[j].name, last_failure());
            uint16_t *got = fetch(a.out, 2 * (size + behind));
            float *got_lse = fetch(a.lse, 4 * (rows + 2));
            kernels[j].runs++;
            CHECK(untouched(got, size, size + behind) &&
                      untouched((uint16_t *)(got_lse + rows), 0, 4),
                  "%s n %d: wrote behind the last row", kernels[j].name, s->n);
            if (!first) {
                compare(&kernels[j], s, type, got, got_lse, out, off, lse, lse_off);
                first = got;
                a.lse = NULL; /* the second run does without, and must give the same bits */
            } else {
                CHECK(memcmp(first, got, 2 * size) == 0, "%s n %d pos0 %d D %d: two runs differ",
                      kernels[j].name, s->n, s->pos0, s->D);
                free(got);
            }
            free(got_lse);
        }
        free(first);
    }
    free(out);
    gpu_release();
}

static void attention(struct rng *r)
{
    static const struct shape shapes[] = {
        {1, 0, 1, 1, 1, 64},        {1, 0, 16, 4, 1, 128},     {1, 777, 1000, 8, 2, 128},
        {7, 3, 64, 16, 1, 64},      {128, 0, 128, 4, 4, 128},  {129, 1, 200, 2, 2, 64},
        {200, 131, 333, 8, 2, 128}, {300, 0, 301, 6, 2, 128},  {257, 511, 900, 3, 1, 64},
        {33, 47, 80, 16, 1, 128},   {500, 36, 600, 5, 1, 128}, {97, 95, 192, 12, 1, 64},
    };
    struct kernel kernels[] = {{"mma", cuda_prefill_mma, 0},
                               {"wgmma", cuda_prefill_wgmma, 0},
                               {"attention", cuda_prefill_attention, 0}};
    for (int type = DTYPE_F16; type <= DTYPE_BF16; type++) {
        for (size_t i = 0; i < COUNT_OF(shapes); i++) /* weights nearly even, then few of them */
            attention_is_right(kernels, 3, r, &shapes[i], (enum dtype)type, i % 2 ? 16 : 1);
        for (int pos0 = 0; pos0 < 130; pos0++) { /* the diagonal at every place in a tile */
            const struct shape s = {33, pos0, 163,
                                    1,  1,    pos0 % 2 == (type == DTYPE_BF16) ? 64 : 128};
            attention_is_right(kernels, 3, r, &s, (enum dtype)type, 1);
        }
        for (int i = 0; i < 12; i++) {
            struct shape s = {.G = 1 + (int)rng_below(r, 3), .D = i % 2 ? 64 : 128};
            s.H = s.G * (1 + (int)rng_below(r, 16));
            s.n = 1 + (int)rng_below(r, 200);
            s.pos0 = (int)rng_below(r, 400);
            s.room = s.pos0 + s.n + (int)rng_below(r, 100);
            attention_is_right(kernels, 3, r, &s, (enum dtype)type, i % 3 ? 4 : 30);
        }
    }
    if (kernels[1].runs == 0) check_skip("wgmma attention", "this device or build has none");
}

static void what_is_not_taken(void)
{
    struct cuda_prefill ok = {.n = 1, .room = 4, .H = 4, .G = 2, .D = 64, .type = DTYPE_BF16};
    struct cuda_prefill a[5];
    const bool before = mute_failures(true);
    for (int i = 0; i < 5; i++) a[i] = ok;
    a[0].D = 96;
    a[1].G = 3;
    a[2].pos0 = 4;
    a[3].type = DTYPE_F32;
    a[4].n = -1;
    for (int i = 0; i < 5; i++) {
        CHECK(cuda_prefill_mma(&a[i], NULL) == -1, "case %d", i);
        CHECK(cuda_prefill_attention(&a[i], NULL) == -1, "case %d", i);
    }
    ok.n = 0;
    CHECK(cuda_prefill_mma(&ok, NULL) == 0, "no rows");
    CHECK(cuda_norm_rows(NULL, NULL, NULL, 0, 1, 12, DTYPE_BF16, NULL) == -1, "a width of 12");
    CHECK(cuda_silu_rows(NULL, NULL, NULL, 1, 8, DTYPE_F32, NULL) == -1, "float32");
    CHECK(cuda_rotate_rows(NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, 0, NULL, NULL, 2, 0,
                           1, 1, 64, DTYPE_F16, NULL) == -1,
          "two rows in room for one");
    mute_failures(before);
}

/* ---- rows */

static const struct {
    int n, width;
} row_shapes[] = {{1, 8}, {3, 64}, {5, 2048}, {2, 2056}, {33, 4096}, {4, 14336}, {3, 8192}};

static void embedding(struct rng *r, enum dtype type, int n, int E)
{
    enum { V = 50 };
    int *ids = xmalloc((size_t)n * sizeof *ids);
    float *table;
    const void *dev = gpu_random(r, (size_t)V * E, 1, type, &table);
    for (int i = 0; i < n; i++) ids[i] = (int)rng_below(r, V);
    float *out = gpu_put(NULL, 4 * ((size_t)n * E + 8));
    CHECK(cuda_embed_rows(out, dev, type, gpu_put(ids, 4 * (size_t)n), n, E, NULL) == 0, "%s",
          last_failure());
    float *got = fetch(out, 4 * ((size_t)n * E + 8));
    for (int i = 0; i < n; i++)
        CHECK(memcmp(got + (size_t)i * E, table + (size_t)ids[i] * E, 4 * (size_t)E) == 0,
              "row %d of %d, width %d", i, n, E);
    CHECK(untouched((uint16_t *)(got + (size_t)n * E), 0, 16), "width %d", E);
    free(got);
    free(ids);
    gpu_release();
}

static void norm(struct rng *r, enum dtype type, int n, int E)
{
    const double off = gpu_gamma(E + 1) / 2 + 5 * u + unit_of(type);
    const float eps = 1e-5f;
    float *x, *gain;
    const float *dev_x = gpu_random(r, (size_t)n * E, 3, DTYPE_F32, &x);
    const float *dev_gain = gpu_random(r, (size_t)E, 2, DTYPE_F32, &gain);
    void *out = gpu_put(NULL, 2 * ((size_t)n * E + 8));
    int bad = 0;
    CHECK(cuda_norm_rows(out, dev_x, dev_gain, eps, n, E, type, NULL) == 0, "%s", last_failure());
    uint16_t *got = fetch(out, 2 * ((size_t)n * E + 8));
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int e = 0; e < E; e++) sum += (double)x[(size_t)i * E + e] * x[(size_t)i * E + e];
        for (int e = 0; e < E; e++) {
            const double want = x[(size_t)i * E + e] / sqrt(sum / E + eps) * gain[e];
            const double error = fabs(value(got, (size_t)i * E + e, type) - want);
            bad += !(error <= 1.01 * off * fabs(want) + floor_of(type));
        }
    }
    CHECK(bad == 0, "norm %s [%d, %d]: %d values differ", dtype_name(type), n, E, bad);
    CHECK(untouched(got, (size_t)n * E, (size_t)n * E + 8), "norm [%d, %d]", n, E);
    free(got);
    gpu_release();
}

static void silu(struct rng *r, enum dtype type, int n, int F, float limit, bool with_bias)
{
    const size_t size = (size_t)n * F;
    float *x, *bias;
    const void *dev = gpu_random(r, 2 * size, limit, type, &x);
    const float *dev_bias = gpu_random(r, 2 * (size_t)F, 1, DTYPE_F32, &bias);
    void *out = gpu_put(NULL, 2 * (size + 8));
    int bad = 0;
    CHECK(cuda_silu_rows(out, dev, with_bias ? dev_bias : NULL, n, F, type, NULL) == 0, "%s",
          last_failure());
    uint16_t *got = fetch(out, 2 * (size + 8));
    for (size_t i = 0; i < size; i++) {
        const size_t row = i / F * 2 * F, f = i % F;
        const double gate = x[row + f] + (with_bias ? (double)bias[f] : 0);
        const double up = x[row + F + f] + (with_bias ? (double)bias[F + f] : 0);
        const double s = gate / (1 + exp(-gate)), want = s * up;
        /* the bias, under a slope below 1.1; then the exponential, its argument and the quotient */
        const double off = 1.1 * u * fabs(gate) + (1e-6 + 1.2e-7 * fabs(gate)) * fabs(s);
        const double error = fabs(value(got, i, type) - want);
        bad += !(error <=
                 1.01 * (off * fabs(up) + (3 * u + unit_of(type)) * fabs(want)) + floor_of(type));
    }
    CHECK(bad == 0, "silu %s [%d, %d] limit %g: %d values differ", dtype_name(type), n, F, limit,
          bad);
    CHECK(untouched(got, size, size + 8), "silu [%d, %d]", n, F);
    free(got);
    gpu_release();
}

static void bias_rows(struct rng *r, int n, int E)
{
    float *x, *bias;
    float *dev = gpu_random(r, (size_t)n * E, 3, DTYPE_F32, &x);
    const float *dev_bias = gpu_random(r, (size_t)E, 3, DTYPE_F32, &bias);
    int bad = 0;
    CHECK(cuda_bias_rows(dev, dev_bias, n, E, NULL) == 0, "%s", last_failure());
    float *got = fetch(dev, 4 * (size_t)n * E);
    for (size_t i = 0; i < (size_t)n * E; i++) bad += got[i] != x[i] + bias[i % E];
    CHECK(bad == 0, "bias [%d, %d]: %d values differ", n, E, bad);
    free(got);
    gpu_release();
}

/* One head as it should be, in place, and what each value may be off by before its last rounding.
 */
static void rotate_head(double *x, double *off, int D, const float *bias, bool turns,
                        const float *gain, double eps, const float *cosine, const float *sine)
{
    double sum = 0, e = bias ? u : 0;
    for (int d = 0; d < D; d++) {
        if (bias) x[d] += bias[d];
        sum += x[d] * x[d];
        off[d] = e * fabs(x[d]);
    }
    if (turns && gain) {
        e += e + gpu_gamma(D + 1) / 2 + 5 * u;
        for (int d = 0; d < D; d++) x[d] *= gain[d] / sqrt(sum / D + eps);
    }
    for (int d = 0; turns && d < D / 2; d++) {
        const double a = x[d], b = x[d + D / 2];
        x[d] = a * cosine[d] - b * sine[d];
        x[d + D / 2] = b * cosine[d] + a * sine[d];
        off[d] = (e + 3 * u) * (fabs(a * cosine[d]) + fabs(b * sine[d]));
        off[d + D / 2] = (e + 3 * u) * (fabs(b * cosine[d]) + fabs(a * sine[d]));
    }
}

static void rotation(struct rng *r, const struct shape *s, enum dtype type, bool with_bias,
                     bool with_norm, bool with_q32)
{
    const int D = s->D, heads = s->H + 2 * s->G;
    const size_t q_size = (size_t)s->n * s->H * D, kv_size = (size_t)s->G * s->room * D;
    const float eps = 1e-6f;
    float *x, *bias, *gain[2], *cosine, *sine;
    const void *dev = gpu_random(r, (size_t)s->n * heads * D, 2, type, &x);
    const float *dev_bias = gpu_random(r, (size_t)heads * D, 1, DTYPE_F32, &bias);
    const float *dev_q = gpu_random(r, (size_t)D, 2, DTYPE_F32, &gain[0]);
    const float *dev_k = gpu_random(r, (size_t)D, 2, DTYPE_F32, &gain[1]);
    const float *dev_cos = gpu_random(r, (size_t)s->room * D / 2, 1, DTYPE_F32, &cosine);
    const float *dev_sin = gpu_random(r, (size_t)s->room * D / 2, 1, DTYPE_F32, &sine);
    void *q = gpu_put(NULL, 2 * (q_size + 8)), *k = gpu_put(NULL, 2 * kv_size);
    void *v = gpu_put(NULL, 2 * kv_size);
    float *q32 = gpu_put(NULL, 4 * (q_size + 8));
    int bad = 0, bad32 = 0, kept = 0;
    CHECK(cuda_rotate_rows(q, with_q32 ? q32 : NULL, k, v, s->room, dev,
                           with_bias ? dev_bias : NULL, with_norm ? dev_q : NULL,
                           with_norm ? dev_k : NULL, eps, dev_cos, dev_sin, s->n, s->pos0, s->H,
                           s->G, D, type, NULL) == 0,
          "%s", last_failure());
    uint16_t *got_q = fetch(q, 2 * (q_size + 8));
    uint16_t *got[2] = {fetch(k, 2 * kv_size), fetch(v, 2 * kv_size)};
    float *got32 = fetch(q32, 4 * (q_size + 8));

    for (int i = 0; i < s->n * heads; i++) {
        const int row = i / heads, h = i % heads, what = h < s->H ? 0 : h < s->H + s->G ? 1 : 2;
        const size_t turn = (size_t)(s->pos0 + row) * (D / 2);
        double want[128], off[128];
        for (int d = 0; d < D; d++) want[d] = x[(size_t)i * D + d];
        rotate_head(want, off, D, with_bias ? bias + (size_t)h * D : NULL, what < 2,
                    with_norm && what < 2 ? gain[what] : NULL, eps, cosine + turn, sine + turn);
        for (int d = 0; d < D; d++) {
            const size_t in_q = ((size_t)row * s->H + h) * D + d;
            const size_t set = (size_t)(what ? (h - s->H) % s->G : 0);
            const size_t in_kv = (set * s->room + s->pos0 + row) * D + d;
            const double is = what ? value(got[what - 1], in_kv, type) : value(got_q, in_q, type);
            const double most = 1.01 * off[d] + unit_of(type) * fabs(want[d]) + floor_of(type);
            bad += !(fabs(is - want[d]) <= most);
            if (!what && with_q32) bad32 += !(fabs(got32[in_q] - want[d]) <= 1.01 * off[d]);
        }
    }
    for (int set = 0; set < s->G; set++) { /* other positions stay as they were */
        const size_t row = (size_t)set * s->room;
        for (int b = 0; b < 2; b++)
            kept += untouched(got[b], row * D, (row + s->pos0) * D) +
                    untouched(got[b], (row + s->pos0 + s->n) * D, (row + s->room) * D);
    }
    CHECK(bad == 0 && bad32 == 0,
          "%s n %d pos0 %d H %d G %d D %d bias %d norm %d: %d and %d differ", dtype_name(type),
          s->n, s->pos0, s->H, s->G, D, with_bias, with_norm, bad, bad32);
    CHECK(kept == 4 * s->G && untouched(got_q, q_size, q_size + 8) &&
              untouched((uint16_t *)got32, with_q32 ? 2 * q_size : 0, 2 * q_size + 16),
          "n %d pos0 %d: wrote elsewhere", s->n, s->pos0);
    free(got_q);
    free(got[0]);
    free(got[1]);
    free(got32);
    gpu_release();
}

static void rows(struct rng *r)
{
    static const struct shape shapes[] = {
        {1, 0, 1, 1, 1, 64},
        {1, 6, 9, 3, 3, 128},
        {37, 5, 64, 32, 8, 128},
        {50, 0, 50, 14, 2, 64},
    };
    for (int type = DTYPE_F16; type <= DTYPE_BF16; type++) {
        const enum dtype t = (enum dtype)type;
        for (size_t i = 0; i < COUNT_OF(row_shapes); i++) {
            const int n = row_shapes[i].n, width = row_shapes[i].width;
            embedding(r, t, n, width);
            norm(r, t, n, width);
            silu(r, t, n, width, 4, true);
            silu(r, t, n, width, 120, false);
            if (t == DTYPE_BF16) bias_rows(r, n, width);
        }
        for (size_t i = 0; i < 8 * COUNT_OF(shapes); i++)
            rotation(r, &shapes[i / 8], t, i & 1, i & 2, i & 4);
    }
}

int main(void)
{
    if (gpu_open("test_cuda_prefill")) {
        struct rng r;
        rng_seed(&r, 3);
        what_is_not_taken();
        rows(&r);
        attention(&r);
    }
    return check_report("test_cuda_prefill");
}
