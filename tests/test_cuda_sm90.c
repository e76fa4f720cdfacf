/* test_cuda_sm90.c - the prefill attention of compute capability 9.0 against its definition.
 *
 * The definition is in double, on the values as rounded to the 16-bit type. With u = 2^-24 and h
 * half an ulp of that type (2^-9 or 2^-12), and A = sum of weight * |value|:
 *   a logit is off by at most l = 2 (D + 8) u sum |q k| / sqrt(D): a float32 sum, twice because the
 *     tensor cores cut where a processor rounds, and what turns it into a power of two; both the
 *     logit and the maximum it is relative to, so a weight is off by 2 l;
 *   weights are scaled down once a tile, by a product and the exponential's 2 ulp, and summed in
 *     float32 like the values: 2 T u;
 *   a weight is rounded once (h, or 2^-25 where f16 has no normal numbers left), and the result
 * once. So out is within (2 l + 2 (T + 16) u + h) A + h |out| + 2^-25 T max |v|, and lse within 2 l
 * + 2 (T + 16) u (1 + |lse|).
 */
#include "core/base/base.h"
#include "tests/gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    int n, pos0, room, H, G, D;
};

static const double u = 0x1p-24;

static double half_ulp(enum dtype type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
}

/* One row: want [D] and off [D], how far the result may be from it; lse[0] and its bound lse[1]. */
static void attend(double *want, double *off, double *lse, const float *q, const float *k,
                   const float *v, int T, int D, enum dtype type)
{
    double *weight = xmalloc((size_t)T * sizeof *weight);
    double top = -INFINITY, sum = 0, sizes = 0, loudest = 0;

    for (int t = 0; t < T; t++) {
        double dot = 0, size = 0;
        for (int d = 0; d < D; d++) {
            const double product = (double)q[d] * k[(size_t)t * D + d];
            dot += product;
            size += fabs(product);
        }
        weight[t] = dot / sqrt(D);
        top = fmax(top, weight[t]);
        sizes = fmax(sizes, size / sqrt(D));
    }
    for (int t = 0; t < T; t++) sum += weight[t] = exp(weight[t] - top);

    const double logit = 2 * (D + 8) * u * sizes, steps = 2 * (T + 16) * u;
    lse[0] = top + log(sum);
    lse[1] = 2 * logit + steps * (1 + fabs(lse[0]));
    for (int d = 0; d < D; d++) {
        double size = 0;
        want[d] = 0;
        for (int t = 0; t < T; t++) {
            const double part = weight[t] / sum * v[(size_t)t * D + d];
            want[d] += part;
            size += fabs(part);
            loudest = fmax(loudest, fabs(v[(size_t)t * D + d]));
        }
        off[d] = 1.01 * (2 * logit + steps + half_ulp(type)) * size +
                 half_ulp(type) * fabs(want[d]) +
                 (type == DTYPE_F16 ? 0x1p-25 * T * loudest : 1e-38);
    }
    free(weight);
}

/* X [G, rows, D] in device memory as the first rows of [G, room, D], all else NaN. */
static void *with_room(const void *x, int G, int rows, int room, int D)
{
    void *wide = gpu_put(NULL, (size_t)2 * G * room * D);
    const cudaError_t e = cudaMemcpy2D(wide, (size_t)2 * room * D, x, (size_t)2 * rows * D,
                                       (size_t)2 * rows * D, (size_t)G, cudaMemcpyDeviceToDevice);
    CHECK(e == cudaSuccess, "%s", cudaGetErrorString(e));
    return wide;
}

/* Returns whether the device takes the kernel at all. */
static bool check_shape(struct rng *r, const struct shape *s, enum dtype type, float loud)
{
    const int n = s->n, H = s->H, G = s->G, D = s->D, T = s->pos0 + n, R = H / G;
    const size_t size = (size_t)n * H * D, extra = (size_t)H * D; /* one row more than is written */
    float *q, *k, *v;
    const struct cuda_prefill a = {
        .q = gpu_random(r, size, loud, type, &q),
        .k = with_room(gpu_random(r, (size_t)G * T * D, loud, type, &k), G, T, s->room, D),
        .v = with_room(gpu_random(r, (size_t)G * T * D, 1, type, &v), G, T, s->room, D),
        .out = gpu_put(NULL, 2 * (size + extra)),
        .lse = gpu_put(NULL, 4 * (size_t)(n + 1) * H),
        .n = n,
        .pos0 = s->pos0,
        .room = s->room,
        .H = H,
        .G = G,
        .D = D,
        .type = type,
    };
    struct cuda_prefill again = a;
    uint16_t *out = xmalloc(2 * (size + extra)), *twice = xmalloc(2 * (size + extra));
    float *lse = xmalloc(4 * (size_t)(n + 1) * H);
    double worst = 0, worst_lse = 0;
    int bad_tail = 0;

    const int rc = cuda_prefill_wgmma(&a, 0);
    if (rc == 1) goto done;
    CHECK(rc == 0, "%s", last_failure());
    again.out = gpu_put(NULL, 2 * (size + extra));
    again.lse = NULL;
    CHECK(cuda_prefill_wgmma(&again, 0) == 0, "%s", last_failure());
    gpu_get(out, a.out, 2 * (size + extra));
    gpu_get(twice, again.out, 2 * (size + extra));
    gpu_get(lse, a.lse, 4 * (size_t)(n + 1) * H);

#pragma omp parallel for schedule(dynamic) reduction(max : worst, worst_lse)
    for (int i = 0; i < n * H; i++) {
        const int row = i / H, g = i % H / R;
        double want[128], off[128], log_sum[2];
        attend(want, off, log_sum, q + (size_t)i * D, k + (size_t)g * T * D, v + (size_t)g * T * D,
               s->pos0 + row + 1, D, type);
        for (int d = 0; d < D; d++) {
            const uint16_t x = out[(size_t)i * D + d];
            const double got = type == DTYPE_BF16 ? bf16_to_f32(x) : f16_to_f32(x);
            const double e = fabs(got - want[d]) / off[d];
            worst = fmax(worst, isnan(e) ? INFINITY : e);
        }
        const double e = fabs(lse[i] - log_sum[0]) / log_sum[1];
        worst_lse = fmax(worst_lse, isnan(e) ? INFINITY : e);
    }
    for (size_t i = 0; i < extra; i++) bad_tail += out[size + i] != 0xffff;
    for (int h = 0; h < H; h++) bad_tail += !isnan(lse[(size_t)n * H + h]);

    CHECK(worst <= 1, "%s n %d pos0 %d H %d G %d D %d: out is %g times the bound off",
          dtype_name(type), n, s->pos0, H, G, D, worst);
    CHECK(worst_lse <= 1, "%s n %d pos0 %d H %d G %d D %d: lse is %g times the bound off",
          dtype_name(type), n, s->pos0, H, G, D, worst_lse);
    CHECK(bad_tail == 0, "n %d H %d D %d: %d values written past the last row", n, H, D, bad_tail);
    CHECK(memcmp(out, twice, 2 * size) == 0, "n %d pos0 %d: other bits the second time", n,
          s->pos0);
done:
    free(out);
    free(twice);
    free(lse);
    gpu_release();
    return rc != 1;
}

static void check_refusals(void)
{
    const struct cuda_prefill good = {
        .n = 1, .room = 1, .H = 1, .G = 1, .D = 64, .type = DTYPE_F16};
    struct cuda_prefill a = good;
    const bool muted = mute_failures(true);

    a.D = 96;
    CHECK(cuda_prefill_wgmma(&a, 0) == -1, "D 96");
    a = good, a.type = DTYPE_F32;
    CHECK(cuda_prefill_wgmma(&a, 0) == -1, "f32");
    a = good, a.H = 3, a.G = 2;
    CHECK(cuda_prefill_wgmma(&a, 0) == -1, "3 heads over 2");
    a = good, a.pos0 = 1;
    CHECK(cuda_prefill_wgmma(&a, 0) == -1, "more rows than room");
    mute_failures(muted);
}

int main(void)
{
    static const struct shape shapes[] = {
        /* n, pos0, room, H, G, D */
        {1, 0, 1, 1, 1, 64},          {1, 0, 3, 2, 1, 128},         {1, 127, 130, 4, 1, 128},
        {1, 128, 129, 4, 2, 64},      {64, 64, 128, 2, 2, 128},     {128, 0, 128, 2, 2, 128},
        {192, 0, 200, 3, 1, 64},      {129, 0, 1000, 4, 4, 64},     {129, 1, 131, 6, 2, 128},
        {63, 449, 600, 16, 1, 128},   {63, 449, 600, 16, 1, 64},    {200, 313, 513, 8, 2, 128},
        {257, 511, 800, 8, 2, 64},    {300, 1001, 1400, 8, 1, 128}, {391, 777, 1168, 7, 1, 128},
        {100, 2111, 2500, 5, 1, 128}, {100, 2111, 2500, 10, 2, 64}, {513, 0, 513, 4, 2, 128},
    };
    if (gpu_open("test_cuda_sm90")) {
        struct rng r;
        rng_seed(&r, 90);
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            /* loud: weights far from even, so that maxima move from tile to tile */
            const float loud = i % 3 == 0 ? 5 : 1;
            if (!check_shape(&r, &shapes[i], DTYPE_BF16, loud)) {
                check_skip("test_cuda_sm90", "this device or build has no wgmma kernel");
                break;
            }
            check_shape(&r, &shapes[i], DTYPE_F16, loud);
            if (i == 0) check_refusals();
        }
    }
    return check_report("test_cuda_sm90");
}
