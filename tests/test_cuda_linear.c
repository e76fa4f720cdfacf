/* test_cuda_linear.c - the products of a decode step on the GPU against plain sums in double.
 *
 * A sum of n products in float32, in any order, is off by at most n u A, A the sum of their
 * absolute values (docs/numbers.md). To it come a few u for the gain, the scale of the norm, the
 * bias; the scale itself is off by (n + 1) / 2 u for its sum of squares and a few u more. What is
 * stored in 16 bits is rounded once: half a unit in the last place, 2^-8 of a bf16 and 2^-11 of an
 * f16.
 */
#include "core/base/base.h"
#include "tests/gpu.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24;
static struct rng rng;

static int pick(int low, int high)
{
    return low + (int)rng_below(&rng, (uint32_t)(high - low + 1));
}

/* sum [rows] = W x * gain / rms(x) (GAIN NULL: W x); SIZE the same of absolute values. */
static void product(double *sum, double *size, const float *w, const float *x, const float *gain,
                    double eps, int rows, int cols)
{
    double squares = 0, scale = 1;
    for (int i = 0; i < cols; i++) squares += (double)x[i] * x[i];
    if (gain) scale = 1 / sqrt(squares / cols + eps);
#pragma omp parallel for
    for (int r = 0; r < rows; r++) {
        sum[r] = size[r] = 0;
        for (int i = 0; i < cols; i++) {
            const double p = (double)w[(size_t)r * cols + i] * x[i] * (gain ? gain[i] * scale : 1);
            sum[r] += p;
            size[r] += fabs(p);
        }
    }
}

/* How far off a product of N columns may be, relative to the sum of absolute values. */
static double slack(int n, bool norm)
{
    return (n + 6 + (norm ? (n + 1) / 2.0 + 6 : 0)) * u;
}

/* Counts one check for the whole of GOT [n]: every value within its bound of WANT. */
static void compare(const char *what, const float *got, const double *want, const double *bound,
                    int n, const char *shape)
{
    int bad = -1;
    for (int i = n - 1; i >= 0; i--)
        if (!(fabs(got[i] - want[i]) <= bound[i] + FLT_MIN)) bad = i;
    const int i = bad < 0 ? 0 : bad;
    CHECK(bad < 0, "%s %s: [%d] is %.9g, want %.9g within %.2g", what, shape, i, got[i], want[i],
          bound[i]);
}

static float *get(const void *from, int n)
{
    float *p = xmalloc((size_t)n * sizeof *p);
    gpu_get(p, from, (size_t)n * sizeof *p);
    return p;
}

static double *doubles(int n)
{
    return xcalloc((size_t)n, sizeof(double));
}

static float *random_f32(int n, float limit, float **exact)
{
    return gpu_random(&rng, (size_t)n, limit, DTYPE_F32, exact);
}

static void embedding(enum dtype type, int E)
{
    float *table, *got;
    const int rows = 37, token = pick(0, rows - 1);
    const void *w = gpu_random(&rng, (size_t)rows * E, 2, type, &table);
    float *x = gpu_put(NULL, (size_t)E * 4);
    CHECK(cuda_embed_row(x, w, type, gpu_put(&token, sizeof token), E, NULL) == 0, "%s",
          last_failure());
    got = get(x, E);
    CHECK(memcmp(got, table + (size_t)token * E, (size_t)E * 4) == 0, "embed %s, width %d",
          dtype_name(type), E);
    free(got);
    gpu_release();
}

static void added(enum dtype type, int rows, int cols, bool bias, bool record)
{
    char shape[80];
    float *w, *a, *x, *b = NULL, *first = NULL;
    const void *dw = gpu_random(&rng, (size_t)rows * cols, 1, type, &w);
    const float *da = random_f32(cols, 2, &a);
    const float *db = bias ? random_f32(rows, 1, &b) : NULL;
    double *sum = doubles(rows), *size = doubles(rows);
    snprintf(shape, sizeof shape, "%s [%d, %d]%s%s", dtype_name(type), rows, cols,
             bias ? " bias" : "", record ? " recorded" : "");

    product(sum, size, w, a, NULL, 0, rows, cols);
    random_f32(rows, 3, &x);
    for (int round = 0; round < 2; round++) {
        float *dx = gpu_put(x, (size_t)rows * 4), *delta = NULL, *before = NULL, *got;
        double *want = doubles(rows), *bound = doubles(rows);
        if (record) delta = gpu_put(NULL, (size_t)rows * 4);
        if (record) before = gpu_put(NULL, (size_t)rows * 4);
        CHECK(cuda_add_row(dx, delta, before, dw, db, da, rows, cols, type, NULL) == 0, "%s: %s",
              shape, last_failure());
        got = get(dx, rows);
        for (int r = 0; r < rows; r++) {
            want[r] = sum[r] + (b ? b[r] : 0);
            bound[r] = slack(cols, false) * (size[r] + (b ? fabsf(b[r]) : 0));
        }
        if (record) {
            float *d = get(delta, rows), *was = get(before, rows);
            compare("delta", d, want, bound, rows, shape);
            CHECK(memcmp(was, x, (size_t)rows * 4) == 0, "%s: x before", shape);
            free(d);
            free(was);
        }
        for (int r = 0; r < rows; r++) {
            want[r] += x[r];
            bound[r] += 2 * u * fabs(x[r]);
        }
        compare("add", got, want, bound, rows, shape);
        if (first) CHECK(memcmp(first, got, (size_t)rows * 4) == 0, "%s: two runs differ", shape);
        free(first);
        free(want);
        free(bound);
        first = got;
    }
    free(first);
    free(sum);
    free(size);
    gpu_release();
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* The slope of silu is below 1.1; the exponential and the quotient cost 8 u. */
static void gated(enum dtype type, int E, int F, bool bias)
{
    char shape[80];
    float *w, *x, *gain, *b = NULL, *first = NULL;
    const float eps = 1e-5f;
    const void *dw = gpu_random(&rng, (size_t)2 * F * E, 1 / sqrtf((float)E), type, &w);
    const float *dx = random_f32(E, 3, &x), *dg = random_f32(E, 2, &gain);
    const float *db = bias ? random_f32(2 * F, 1, &b) : NULL;
    double *sum = doubles(2 * F), *size = doubles(2 * F), *want = doubles(F), *bound = doubles(F);
    const double e = slack(E, true);
    snprintf(shape, sizeof shape, "%s E %d F %d%s", dtype_name(type), E, F, bias ? " bias" : "");

    product(sum, size, w, x, gain, eps, 2 * F, E);
    for (int i = 0; b && i < 2 * F; i++) {
        sum[i] += b[i];
        size[i] += fabsf(b[i]);
    }
    for (int f = 0; f < F; f++) {
        const double g = silu(sum[f]), up = sum[F + f];
        want[f] = g * up;
        bound[f] = 1.1 * e * size[f] * (fabs(up) + e * size[F + f]) + fabs(g) * e * size[F + f] +
                   8 * u * fabs(want[f]);
    }
    for (int round = 0; round < 2; round++) {
        float *h = gpu_put(NULL, (size_t)F * 4), *got;
        CHECK(cuda_gate_up_row(h, dx, dg, eps, dw, db, E, F, type, NULL) == 0, "%s: %s", shape,
              last_failure());
        got = get(h, F);
        compare("gate_up", got, want, bound, F, shape);
        if (first) CHECK(memcmp(first, got, (size_t)F * 4) == 0, "%s: two runs differ", shape);
        free(first);
        first = got;
    }
    free(first);
    free(sum);
    free(size);
    free(want);
    free(bound);
    gpu_release();
}

static void head(enum dtype type, int E, int V)
{
    char shape[80];
    float *w, *x, *gain, *first = NULL;
    const float eps = 1e-6f;
    const void *dw = gpu_random(&rng, (size_t)V * E, 1, type, &w);
    const float *dx = random_f32(E, 1e-2f, &x), *dg = random_f32(E, 2, &gain);
    double *sum = doubles(V), *size = doubles(V);
    snprintf(shape, sizeof shape, "%s E %d V %d", dtype_name(type), E, V);

    product(sum, size, w, x, gain, eps, V, E);
    for (int v = 0; v < V; v++) size[v] *= slack(E, true);
    for (int round = 0; round < 2; round++) {
        float *logits = gpu_put(NULL, (size_t)V * 4), *got;
        CHECK(cuda_head_row(logits, dx, dg, eps, dw, E, V, type, NULL) == 0, "%s: %s", shape,
              last_failure());
        got = get(logits, V);
        compare("head", got, sum, size, V, shape);
        if (first) CHECK(memcmp(first, got, (size_t)V * 4) == 0, "%s: two runs differ", shape);
        free(first);
        first = got;
    }
    free(first);
    free(sum);
    free(size);
    gpu_release();
}

/* One head in place, with the bound of each value: its norm (NORM may be NULL), then its turn. The
 * norm passes on the error of each value, and through its sum of squares that of all. */
static void turn_head(double *v, double *off, int D, const float *norm, double eps,
                      const float *cosine, const float *sine)
{
    double squares = 0, moved = 0;
    for (int d = 0; norm && d < D; d++) {
        squares += v[d] * v[d];
        moved += fabs(v[d]) * off[d];
    }
    const double scale = 1 / sqrt(squares / D + eps);
    for (int d = 0; norm && d < D; d++) {
        v[d] *= scale * norm[d];
        off[d] = 1.01 * (off[d] * scale * fabsf(norm[d]) + fabs(v[d]) * moved / squares) +
                 (D / 2 + 8) * u * fabs(v[d]);
    }
    for (int d = 0; d < D / 2; d++) {
        const double a = v[d], b = v[d + D / 2], c = cosine[d], s = sine[d];
        const double off_a = off[d] + 3 * u * fabs(a), off_b = off[d + D / 2] + 3 * u * fabs(b);
        v[d] = a * c - b * s;
        v[d + D / 2] = b * c + a * s;
        off[d] = off_a * fabs(c) + off_b * fabs(s);
        off[d + D / 2] = off_b * fabs(c) + off_a * fabs(s);
    }
}

/* The row POSITION of CACHE [G, room, D] against WANT [G, D]; every other row as it was, 0xffff. */
static void check_cache(const char *what, const void *cache, const double *want, const double *off,
                        const struct cuda_qkv *a, int position, const char *shape)
{
    const int n = a->G * a->room * a->D;
    uint16_t *halves = xmalloc((size_t)n * 2);
    float *row = xmalloc((size_t)a->G * a->D * sizeof *row);
    double *bound = doubles(a->G * a->D);
    int touched = 0;

    gpu_get(halves, cache, (size_t)n * 2);
    for (int i = 0; i < n; i++) {
        const int g = i / (a->room * a->D), t = i / a->D % a->room, at = g * a->D + i % a->D;
        if (t != position) {
            touched += halves[i] != 0xffff;
        } else if (a->type == DTYPE_BF16) {
            row[at] = bf16_to_f32(halves[i]);
            bound[at] = off[at] + 0x1p-8 * (fabs(want[at]) + off[at]);
        } else {
            row[at] = f16_to_f32(halves[i]);
            bound[at] = off[at] + 0x1p-11 * (fabs(want[at]) + off[at]) + 0x1p-25;
        }
    }
    compare(what, row, want, bound, a->G * a->D, shape);
    CHECK(touched == 0, "%s %s: %d values of other rows were written", what, shape, touched);
    free(halves);
    free(row);
    free(bound);
}

static void attention_input(enum dtype type, int H, int G, int D, int E, bool bias, bool norm)
{
    char shape[120];
    const int heads = H + 2 * G, rows = heads * D, room = pick(1, 9), base = pick(0, 3);
    const int position = pick(0, room - 1), pos = base + position;
    float *w, *x, *gain, *cosine, *sine, *b = NULL, *qn = NULL, *kn = NULL, *first = NULL;
    uint16_t *kept = NULL;
    const size_t cached = (size_t)G * room * D;
    double *sum = doubles(rows), *off = doubles(rows);
    struct cuda_qkv a = {
        .eps = 1e-5f, .room = room, .base = base, .E = E, .H = H, .G = G, .D = D, .type = type};
    snprintf(shape, sizeof shape, "%s H %d G %d D %d E %d room %d pos %d%s%s", dtype_name(type), H,
             G, D, E, room, pos, bias ? " bias" : "", norm ? " q/k norm" : "");

    a.w = gpu_random(&rng, (size_t)rows * E, 1, type, &w);
    a.x = random_f32(E, 3, &x);
    a.gain = random_f32(E, 1, &gain);
    if (bias) a.bias = random_f32(rows, 2, &b);
    if (norm) {
        a.q_norm = random_f32(D, 2, &qn);
        a.k_norm = random_f32(D, 2, &kn);
        a.raw = gpu_put(NULL, (size_t)rows * 4);
    }
    a.cosine = random_f32((pos + 1) * D / 2, 1, &cosine);
    a.sine = random_f32((pos + 1) * D / 2, 1, &sine);
    a.pos = gpu_put(&pos, sizeof pos);

    product(sum, off, w, x, gain, a.eps, rows, E);
    for (int i = 0; i < rows; i++) {
        sum[i] += b ? b[i] : 0;
        off[i] = slack(E, true) * (off[i] + (b ? fabsf(b[i]) : 0));
    }
    for (int h = 0; h < H + G; h++)
        turn_head(sum + (size_t)h * D, off + (size_t)h * D, D, h < H ? qn : kn, a.eps,
                  cosine + (size_t)pos * (D / 2), sine + (size_t)pos * (D / 2));

    for (int round = 0; round < 2; round++) {
        float *got;
        uint16_t *k = xmalloc(cached * 2);
        a.q = gpu_put(NULL, (size_t)H * D * 4);
        a.k = gpu_put(NULL, cached * 2);
        a.v = gpu_put(NULL, cached * 2);
        CHECK(cuda_qkv_row(&a, NULL) == 0, "%s: %s", shape, last_failure());
        got = get(a.q, H * D);
        compare("q", got, sum, off, H * D, shape);
        check_cache("k", a.k, sum + H * D, off + H * D, &a, position, shape);
        check_cache("v", a.v, sum + (H + G) * D, off + (H + G) * D, &a, position, shape);
        gpu_get(k, a.k, cached * 2);
        if (first)
            CHECK(memcmp(first, got, (size_t)H * D * 4) == 0 && memcmp(kept, k, cached * 2) == 0,
                  "%s: two runs differ", shape);
        free(first);
        free(kept);
        first = got;
        kept = k;
    }
    free(first);
    free(kept);
    free(sum);
    free(off);
    gpu_release();
}

/* The largest is exact. A sum of V exponentials, each off by 2 ulp and by u of an argument that
 * matters up to 88, rescaled a few times: 120 u relative, and V u for a sum in the worst order. */
static void outcome_is_right(const float *logits, int n, int V, const char *what)
{
    struct cuda_outcome *got = xmalloc((size_t)n * sizeof *got), *again;
    const float *at = gpu_put(logits, (size_t)n * V * 4);
    void *work = gpu_zero(cuda_outcome_work(n));
    struct cuda_outcome *out = gpu_put(NULL, (size_t)n * sizeof *got);
    again = xmalloc((size_t)n * sizeof *got);

    CHECK(cuda_outcomes(out, at, n, V, work, NULL) == 0, "%s", last_failure());
    gpu_get(got, out, (size_t)n * sizeof *got);
    CHECK(cuda_outcomes(out, at, n, V, work, NULL) == 0, "%s", last_failure());
    gpu_get(again, out, (size_t)n * sizeof *got);
    CHECK(memcmp(got, again, (size_t)n * sizeof *got) == 0, "%s, V %d: two runs differ", what, V);
    for (int r = 0; r < n; r++) {
        const float *l = logits + (size_t)r * V;
        double sum = 0, top = -INFINITY;
        int best = -1;
        bool finite = true;
        for (int v = 0; v < V; v++) {
            finite = finite && isfinite(l[v]);
            if (isnan(l[v]) || (best >= 0 && !(l[v] > top))) continue;
            best = v;
            top = l[v];
        }
        if (best < 0) {
            CHECK(got[r].argmax == 0 && isnan(got[r].top), "%s: nothing but NaN", what);
        } else {
            CHECK(got[r].argmax == best && got[r].top == l[best],
                  "%s, V %d row %d: %d (%g), want %d (%g)", what, V, r, got[r].argmax, got[r].top,
                  best, l[best]);
        }
        for (int v = 0; v < V; v++) sum += exp(l[v] - top);
        const double lse = top + log(sum), bound = (120 + V + 4 * fabs(lse)) * u;
        CHECK(finite ? fabs(got[r].lse - lse) <= bound : !isfinite(got[r].lse),
              "%s, V %d row %d: lse %.9g, want %.9g", what, V, r, got[r].lse, lse);
    }
    free(got);
    free(again);
    gpu_release();
}

static void outcomes(int n, int V)
{
    float *l = xmalloc((size_t)n * V * sizeof *l);
    for (int i = 0; i < n * V; i++) l[i] = (float)(40 * rng_unit(&rng) - 20);
    outcome_is_right(l, n, V, "random");
    for (int r = 0; r < n; r++) /* the same largest value twice: the lower index wins */
        l[(size_t)r * V + V / 3] = l[(size_t)r * V + V - 1] = 20;
    outcome_is_right(l, n, V, "ties");
    for (int r = 0; r < n; r++)
        l[(size_t)r * V + pick(0, V - 1)] = r % 3 == 0 ? NAN : r % 3 == 1 ? INFINITY : -INFINITY;
    outcome_is_right(l, n, V, "not finite");
    for (int i = 0; i < V; i++) l[i] = NAN;
    for (int i = V; i < 2 * V && n > 1; i++) l[i] = -INFINITY;
    outcome_is_right(l, n, V, "no number");
    free(l);
}

/* A small model's step, its kernels one behind the other as they are in a decode step (they overlap
 * on the device), directly and as a captured graph, against the same with a wait after each. */
enum { E = 896, H = 14, G = 2, D = 64, F = 4864, V = 3001, LAYERS = 6, ROOM = 8 };
struct step {
    float *x, *q, *h, *logits;
    void *k, *v, *work;
    struct cuda_outcome *out;
    const void *table, *qkv, *o, *gate_up, *down;
    const float *gain, *cosine;
    const int *token, *pos;
};

static int run_step(const struct step *s, bool wait, cudaStream_t stream)
{
    int rc = cuda_embed_row(s->x, s->table, DTYPE_BF16, s->token, E, stream);
    for (int layer = 0; layer < LAYERS; layer++) {
        const size_t cache = (size_t)layer * G * ROOM * D * 2;
        const struct cuda_qkv a = {.x = s->x,
                                   .gain = s->gain,
                                   .eps = 1e-5f,
                                   .w = s->qkv,
                                   .cosine = s->cosine,
                                   .sine = s->cosine,
                                   .pos = s->pos,
                                   .q = s->q,
                                   .k = (char *)s->k + cache,
                                   .v = (char *)s->v + cache,
                                   .room = ROOM,
                                   .E = E,
                                   .H = H,
                                   .G = G,
                                   .D = D,
                                   .type = DTYPE_BF16};
        rc |= cuda_qkv_row(&a, stream);
        if (wait) cudaStreamSynchronize(stream);
        rc |= cuda_add_row(s->x, NULL, NULL, s->o, NULL, s->q, E, H * D, DTYPE_BF16, stream);
        if (wait) cudaStreamSynchronize(stream);
        rc |= cuda_gate_up_row(s->h, s->x, s->gain, 1e-5f, s->gate_up, NULL, E, F, DTYPE_BF16,
                               stream);
        if (wait) cudaStreamSynchronize(stream);
        rc |= cuda_add_row(s->x, NULL, NULL, s->down, NULL, s->h, E, F, DTYPE_BF16, stream);
        if (wait) cudaStreamSynchronize(stream);
    }
    rc |= cuda_head_row(s->logits, s->x, s->gain, 1e-5f, s->table, E, V, DTYPE_BF16, stream);
    if (wait) cudaStreamSynchronize(stream);
    return rc | cuda_outcomes(s->out, s->logits, 1, V, s->work, stream);
}

/* The hash of all a step leaves. */
static uint64_t left_by(const struct step *s)
{
    const size_t cache = (size_t)LAYERS * G * ROOM * D * 2;
    char *p = xmalloc(cache + V * 4);
    uint64_t hash = HASH_START;
    gpu_get(p, s->k, cache);
    hash = hash_bytes(hash, p, cache);
    gpu_get(p, s->v, cache);
    hash = hash_bytes(hash, p, cache);
    gpu_get(p, s->logits, V * 4);
    hash = hash_bytes(hash, p, V * 4);
    gpu_get(p, s->out, sizeof *s->out);
    hash = hash_bytes(hash, p, sizeof *s->out);
    free(p);
    return hash;
}

static void steps_overlap_safely(void)
{
    const int token = 17, pos = 3;
    cudaStream_t stream = NULL;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    struct step s = {
        .x = gpu_put(NULL, E * 4),
        .q = gpu_put(NULL, H * D * 4),
        .h = gpu_put(NULL, F * 4),
        .logits = gpu_put(NULL, V * 4),
        .k = gpu_put(NULL, (size_t)LAYERS * G * ROOM * D * 2),
        .v = gpu_put(NULL, (size_t)LAYERS * G * ROOM * D * 2),
        .work = gpu_zero(cuda_outcome_work(1)),
        .out = gpu_put(NULL, sizeof *s.out),
        .table = gpu_random(&rng, (size_t)V * E, 1, DTYPE_BF16, NULL),
        .qkv = gpu_random(&rng, (size_t)(H + 2 * G) * D * E, 0.05f, DTYPE_BF16, NULL),
        .o = gpu_random(&rng, (size_t)E * H * D, 0.05f, DTYPE_BF16, NULL),
        .gate_up = gpu_random(&rng, (size_t)2 * F * E, 0.05f, DTYPE_BF16, NULL),
        .down = gpu_random(&rng, (size_t)E * F, 0.05f, DTYPE_BF16, NULL),
        .gain = random_f32(E, 2, NULL),
        .cosine = random_f32(ROOM * D / 2, 1, NULL),
        .token = gpu_put(&token, sizeof token),
        .pos = gpu_put(&pos, sizeof pos),
    };
    CHECK(cudaStreamCreate(&stream) == cudaSuccess, "stream");
    CHECK(run_step(&s, true, stream) == 0, "%s", last_failure());
    const uint64_t want = left_by(&s);
    int differ = 0;
    for (int i = 0; i < 50; i++) {
        CHECK(run_step(&s, false, stream) == 0, "%s", last_failure());
        if (i % 5 == 4) differ += left_by(&s) != want; /* several steps back to back, too */
    }
    CHECK(differ == 0, "%d of 10 overlapping steps differ from one that waits", differ);

    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess,
          "capture");
    CHECK(run_step(&s, false, stream) == 0, "%s", last_failure());
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess &&
              cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess,
          "graph");
    differ = 0;
    for (int i = 0; exec && i < 50; i++) {
        cudaGraphLaunch(exec, stream);
        if (i % 5 == 4) differ += left_by(&s) != want;
    }
    CHECK(exec && differ == 0, "%d of 10 replayed steps differ from one that waits", differ);
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    gpu_release();
}

static void refusals(void)
{
    float *p = gpu_zero(4096);
    const bool was = mute_failures(true);
    CHECK(cuda_add_row(p, NULL, NULL, p, NULL, p, 4, 12, DTYPE_BF16, NULL) == -1, "12 columns");
    CHECK(cuda_add_row(p, NULL, NULL, p, NULL, p, 4, 16, DTYPE_F32, NULL) == -1, "float32");
    CHECK(cuda_head_row(p, p, p, 0, (char *)p + 2, 16, 4, DTYPE_F16, NULL) == -1, "alignment");
    const struct cuda_qkv a = {.x = p, .gain = p, .w = p, .E = 16, .H = 1, .G = 1, .D = 80};
    CHECK(cuda_qkv_row(&a, NULL) == -1, "head width 80");
    mute_failures(was);
    gpu_release();
}

int main(void)
{
    if (gpu_open("test_cuda_linear")) {
        static const struct {
            int rows, cols;
        } adds[] = {{1, 8},       {2, 8},      {3, 16},      {7, 256},     {255, 640},
                    {4096, 4096}, {896, 4864}, {513, 4104},  {301, 14336}, {77, 28672},
                    {131, 8192},  {4097, 896}, {3584, 3584}, {20001, 256}};
        static const struct {
            int H, G, D, E;
        } inputs[] = {{1, 1, 64, 64},     {2, 1, 128, 256},  {8, 8, 64, 640},    {32, 8, 128, 4096},
                      {14, 2, 64, 896},   {16, 1, 128, 640}, {28, 4, 128, 3584}, {12, 4, 64, 8},
                      {64, 8, 128, 4104}, {20, 2, 128, 264}};
        rng_seed(&rng, 1);
        for (int i = 0; i < 2; i++) {
            const enum dtype type = i ? DTYPE_F16 : DTYPE_BF16;
            embedding(type, 8);
            embedding(type, 8 * pick(1, 600));
            embedding(type, 4096);
            for (size_t j = 0; j < COUNT_OF(adds); j++)
                added(type, adds[j].rows, adds[j].cols, j % 2, j % 3 == 0);
            for (int j = 0; j < 8; j++)
                added(type, pick(1, 3000), 8 * pick(1, 700), j % 2, j / 2 % 2);
            gated(type, 8, 1, false);
            gated(type, 256, 640, true);
            gated(type, 896, 4864, false);
            gated(type, 3584, 300, true);
            gated(type, 4096, 1433, false);
            gated(type, 8192, 129, false);
            gated(type, 128, 17001, true); /* more than one tile a block */
            for (int j = 0; j < 4; j++) gated(type, 8 * pick(1, 700), pick(1, 2000), j % 2);
            head(type, 8, 1);
            head(type, 256, 4096);
            head(type, 4096, 1001);
            for (size_t j = 0; j < COUNT_OF(inputs); j++) {
                attention_input(type, inputs[j].H, inputs[j].G, inputs[j].D, inputs[j].E, j % 2,
                                false);
                attention_input(type, inputs[j].H, inputs[j].G, inputs[j].D, inputs[j].E, j / 2 % 2,
                                true);
            }
            for (int R = 1; R <= 16; R++)
                attention_input(type, R, 1, R % 2 ? 64 : 128, 8 * pick(1, 80), R % 3 == 0,
                                R % 4 == 0);
        }
        head(DTYPE_BF16, 128, 151936);
        head(DTYPE_F16, 4104, 17001); /* more than one tile a block, and two segments of each */
        static const int widths[] = {1, 2, 5, 255, 256, 2048, 2049, 3001, 128256, 152064, 300001};
        for (size_t i = 0; i < COUNT_OF(widths); i++) {
            outcomes(1, widths[i]);
            outcomes(7, widths[i]);
        }
        steps_overlap_safely();
        refusals();
    }
    return check_report("test_cuda_linear");
}
