/* test_cuda_chain.c - several products in one kernel on the GPU, each against plain sums in double.
 *
 * What a product was given is read back: x after the first sum is what the second one keeps as its
 * x before. So each product is held to its own definition on its actual input, with the bounds of
 * test_cuda_linear.c: n products summed in float32 are off by at most n u A, A the sum of their
 * absolute values (docs/numbers.md); a norm's scale by (n + 1) / 2 u and a few u; silu has a slope
 * below 1.1 and costs 8 u; what is stored in 16 bits is rounded once, 2^-8 of a bf16 and 2^-11 of
 * an f16.
 */
#include "core/base/base.h"
#include "tests/gpu.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24;
static struct rng rng;

/* What a chain works on. */
struct shape {
    enum dtype type;
    int E, H, G, D, F, V; /* V 0: the chain ends with q, k, v instead of logits */
    bool bias;
    const char *name;
};
enum { ROOM = 5, BASE = 2, POS = 5 };

static int pick(int low, int high)
{
    return low + (int)rng_below(&rng, (uint32_t)(high - low + 1));
}

/* sum [rows] = W x * gain / rms(x) (GAIN NULL: W x) + bias; SIZE the same of absolute values. */
static void product(double *sum, double *size, const float *w, const float *x, const float *gain,
                    double eps, const float *bias, int rows, int cols)
{
    double squares = 0, scale = 1;
    for (int i = 0; i < cols; i++) squares += (double)x[i] * x[i];
    if (gain) scale = 1 / sqrt(squares / cols + eps);
#pragma omp parallel for
    for (int r = 0; r < rows; r++) {
        sum[r] = bias ? bias[r] : 0;
        size[r] = fabs(sum[r]);
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

/* x after = x before + W a + bias, and what was added. */
static void check_add(const char *what, const float *before, const float *after, const float *delta,
                      const float *w, const float *a, const float *bias, int rows, int cols,
                      const char *shape)
{
    double *want = doubles(rows), *bound = doubles(rows);
    product(want, bound, w, a, NULL, 0, bias, rows, cols);
    for (int r = 0; r < rows; r++) bound[r] *= slack(cols, false);
    compare(what, delta, want, bound, rows, shape);
    for (int r = 0; r < rows; r++) {
        want[r] += before[r];
        bound[r] += 2 * u * fabs(before[r]);
    }
    compare(what, after, want, bound, rows, shape);
    free(want);
    free(bound);
}

static void check_gate_up(const float *h, const float *x, const float *gain, float eps,
                          const float *w, const float *bias, int E, int F, const char *shape)
{
    double *sum = doubles(2 * F), *size = doubles(2 * F), *want = doubles(F), *bound = doubles(F);
    const double e = slack(E, true);
    product(sum, size, w, x, gain, eps, bias, 2 * F, E);
    for (int f = 0; f < F; f++) {
        const double g = sum[f] / (1 + exp(-sum[f])), up = sum[F + f];
        want[f] = g * up;
        bound[f] = 1.1 * e * size[f] * (fabs(up) + e * size[F + f]) + fabs(g) * e * size[F + f] +
                   8 * u * fabs(want[f]);
    }
    compare("gate_up", h, want, bound, F, shape);
    free(sum);
    free(size);
    free(want);
    free(bound);
}

/* Row POS - BASE of CACHE [G, ROOM, D] against WANT [G, D]; every other row as it was, 0xffff. */
static void check_cache(const char *what, const void *cache, const double *want, const double *off,
                        const struct shape *s)
{
    const int n = s->G * ROOM * s->D;
    uint16_t *halves = xmalloc((size_t)n * 2);
    float *row = xmalloc((size_t)s->G * s->D * sizeof *row);
    double *bound = doubles(s->G * s->D);
    int touched = 0;

    gpu_get(halves, cache, (size_t)n * 2);
    for (int i = 0; i < n; i++) {
        const int g = i / (ROOM * s->D), t = i / s->D % ROOM, at = g * s->D + i % s->D;
        if (t != POS - BASE) {
            touched += halves[i] != 0xffff;
        } else if (s->type == DTYPE_BF16) {
            row[at] = bf16_to_f32(halves[i]);
            bound[at] = off[at] + 0x1p-8 * (fabs(want[at]) + off[at]);
        } else {
            row[at] = f16_to_f32(halves[i]);
            bound[at] = off[at] + 0x1p-11 * (fabs(want[at]) + off[at]) + 0x1p-25;
        }
    }
    compare(what, row, want, bound, s->G * s->D, s->name);
    CHECK(touched == 0, "%s %s: %d values of other rows were written", what, s->name, touched);
    free(halves);
    free(row);
    free(bound);
}

static void check_qkv(const struct cuda_qkv *a, const float *x, const float *gain, const float *w,
                      const float *bias, const float *cosine, const float *sine,
                      const struct shape *s)
{
    const int heads = s->H + 2 * s->G, D = s->D, rows = heads * D;
    double *sum = doubles(rows), *off = doubles(rows);
    float *q = get(a->q, s->H * D);

    product(sum, off, w, x, gain, a->eps, bias, rows, s->E);
    for (int r = 0; r < rows; r++) off[r] *= slack(s->E, true);
    for (int i = 0; i < s->H + s->G; i++)
        for (int d = 0; d < D / 2; d++) { /* the turn of each pair, with 3 u of its own */
            double *v = sum + (size_t)i * D + d, *e = off + (size_t)i * D + d;
            const double va = v[0], vb = v[D / 2];
            const double c = cosine[POS * D / 2 + d], t = sine[POS * D / 2 + d];
            const double ea = e[0] + 3 * u * fabs(va), eb = e[D / 2] + 3 * u * fabs(vb);
            v[0] = va * c - vb * t;
            v[D / 2] = vb * c + va * t;
            e[0] = ea * fabs(c) + eb * fabs(t);
            e[D / 2] = eb * fabs(c) + ea * fabs(t);
        }
    compare("q", q, sum, off, s->H * D, s->name);
    check_cache("k", a->k, sum + s->H * D, off + s->H * D, s);
    check_cache("v", a->v, sum + (s->H + s->G) * D, off + (s->H + s->G) * D, s);
    free(q);
    free(sum);
    free(off);
}

/* One layer's chain: o, gate and up, down, then q, k, v or the logits. The same bits at every run,
 * whatever is recorded. */
static void layer(struct shape s)
{
    char name[160];
    const int HD = s.H * s.D, heads = (s.H + 2 * s.G) * s.D, pos = POS;
    const size_t cache = (size_t)s.G * ROOM * s.D * 2;
    const float eps = 1e-5f, narrow = 1 / sqrtf((float)s.E);
    float *w_o, *w_gu, *w_down, *w_last, *a, *x, *gain, *cosine, *sine;
    float *b_o = NULL, *b_gu = NULL, *b_down = NULL, *b_qkv = NULL;
    uint64_t first = 0;

    snprintf(name, sizeof name, "%s E %d H %d G %d D %d F %d V %d%s", dtype_name(s.type), s.E, s.H,
             s.G, s.D, s.F, s.V, s.bias ? " bias" : "");
    s.name = name;
    struct cuda_qkv qkv = {.eps = eps,
                           .room = ROOM,
                           .base = BASE,
                           .E = s.E,
                           .H = s.H,
                           .G = s.G,
                           .D = s.D,
                           .type = s.type};
    struct cuda_link o = {.kind = LINK_ADD, .rows = s.E, .cols = HD};
    struct cuda_link gu = {.kind = LINK_GATE_UP, .rows = 2 * s.F, .cols = s.E, .eps = eps};
    struct cuda_link down = {.kind = LINK_ADD, .rows = s.E, .cols = s.F};
    struct cuda_link last = {.kind = s.V ? LINK_HEAD : LINK_QKV,
                             .rows = s.V,
                             .cols = s.E,
                             .eps = eps,
                             .qkv = s.V ? NULL : &qkv};
    o.w = gpu_random(&rng, (size_t)s.E * HD, 1, s.type, &w_o);
    gu.w = gpu_random(&rng, (size_t)2 * s.F * s.E, narrow, s.type, &w_gu);
    down.w = gpu_random(&rng, (size_t)s.E * s.F, 1, s.type, &w_down);
    last.w = qkv.w = gpu_random(&rng, (size_t)(s.V ? s.V : heads) * s.E, 1, s.type, &w_last);
    if (s.bias) {
        o.bias = random_f32(s.E, 1, &b_o);
        gu.bias = random_f32(2 * s.F, 1, &b_gu);
        down.bias = random_f32(s.E, 1, &b_down);
        qkv.bias = random_f32(heads, 1, &b_qkv);
    }
    o.in = random_f32(HD, 2, &a);
    gu.gain = last.gain = qkv.gain = random_f32(s.E, 2, &gain);
    qkv.cosine = random_f32((POS + 1) * s.D / 2, 1, &cosine);
    qkv.sine = random_f32((POS + 1) * s.D / 2, 1, &sine);
    qkv.pos = gpu_put(&pos, sizeof pos);
    random_f32(s.E, 3, &x);
    void *work = gpu_zero(cuda_chain_work());

    for (int round = 0; round < 3; round++) {
        const bool record = round < 2;
        float *dx = gpu_put(x, (size_t)s.E * 4);
        float *h = gpu_put(NULL, (size_t)s.F * 4);
        float *logits = gpu_put(NULL, (size_t)(s.V + 1) * 4);
        qkv.q = gpu_put(NULL, (size_t)HD * 4);
        qkv.k = gpu_put(NULL, cache);
        qkv.v = gpu_put(NULL, cache);
        qkv.x = gu.in = last.in = o.out = down.out = dx;
        gu.out = h;
        down.in = h;
        last.out = logits;
        o.delta = record ? gpu_put(NULL, (size_t)s.E * 4) : NULL;
        o.before = record ? gpu_put(NULL, (size_t)s.E * 4) : NULL;
        down.delta = record ? gpu_put(NULL, (size_t)s.E * 4) : NULL;
        down.before = record ? gpu_put(NULL, (size_t)s.E * 4) : NULL;
        const struct cuda_link links[4] = {o, gu, down, last};
        const int rc =
            cuda_chain_row(links, 4, s.type, o.w, (size_t)s.E * HD * 2, false, work, NULL);
        if (rc == 1) {
            check_skip(name, "this device has no bulk copies");
            break;
        }
        CHECK(rc == 0, "%s: %s", name, last_failure());

        float *after = get(dx, s.E), *gated = get(h, s.F), *l = get(logits, s.V + 1);
        uint64_t hash = hash_bytes(HASH_START, after, (size_t)s.E * 4);
        hash = hash_bytes(hash, gated, (size_t)s.F * 4);
        hash = hash_bytes(hash, l, (size_t)s.V * 4);
        if (!s.V) {
            char *kv = xmalloc(2 * cache + (size_t)HD * 4);
            gpu_get(kv, qkv.k, cache);
            gpu_get(kv + cache, qkv.v, cache);
            gpu_get(kv + 2 * cache, qkv.q, (size_t)HD * 4);
            hash = hash_bytes(hash, kv, 2 * cache + (size_t)HD * 4);
            free(kv);
        }
        if (round == 0) {
            float *d_o = get(o.delta, s.E), *was = get(o.before, s.E);
            float *d_down = get(down.delta, s.E), *middle = get(down.before, s.E);
            CHECK(memcmp(was, x, (size_t)s.E * 4) == 0, "%s: x before", name);
            check_add("o", x, middle, d_o, w_o, a, b_o, s.E, HD, name);
            check_gate_up(gated, middle, gain, eps, w_gu, b_gu, s.E, s.F, name);
            check_add("down", middle, after, d_down, w_down, gated, b_down, s.E, s.F, name);
            if (s.V) {
                double *want = doubles(s.V), *bound = doubles(s.V);
                product(want, bound, w_last, after, gain, eps, NULL, s.V, s.E);
                for (int v = 0; v < s.V; v++) bound[v] *= slack(s.E, true);
                compare("head", l, want, bound, s.V, name);
                free(want);
                free(bound);
            } else {
                check_qkv(&qkv, after, gain, w_last, b_qkv, cosine, sine, &s);
            }
            first = hash;
            free(d_o);
            free(was);
            free(d_down);
            free(middle);
        }
        CHECK(hash == first, "%s: run %d differs", name, round);
        free(after);
        free(gated);
        free(l);
    }
    gpu_release();
}

/* A small model's steps, chain behind chain with nothing between, as they overlap on the device,
 * directly and as a captured graph, against the same with a wait after each. */
enum { LAYERS = 6, E = 896, H = 14, G = 2, D = 64, F = 4864, V = 3001 };
struct step {
    float *x, *q, *h, *logits, *start;
    void *k, *v, *work;
    const void *qkv, *o, *gate_up, *down, *head;
    const float *gain, *cosine;
    const int *pos;
};

static int run_step(const struct step *s, bool wait, cudaStream_t stream)
{
    int rc = cudaMemcpyAsync(s->x, s->start, E * 4, cudaMemcpyDeviceToDevice, stream) ? -1 : 0;
    for (int i = 0; i <= LAYERS; i++) {
        const size_t cache = (size_t)i * G * ROOM * D * 2;
        const struct cuda_qkv qkv = {.x = s->x,
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
                                     .base = BASE,
                                     .E = E,
                                     .H = H,
                                     .G = G,
                                     .D = D,
                                     .type = DTYPE_BF16};
        const struct cuda_link links[5] = {
            {.kind = LINK_QKV, .qkv = &qkv},
            {.kind = LINK_ADD, .rows = E, .cols = H * D, .w = s->o, .in = s->q, .out = s->x},
            {.kind = LINK_GATE_UP,
             .rows = 2 * F,
             .cols = E,
             .w = s->gate_up,
             .in = s->x,
             .gain = s->gain,
             .eps = 1e-5f,
             .out = s->h},
            {.kind = LINK_ADD, .rows = E, .cols = F, .w = s->down, .in = s->h, .out = s->x},
            {.kind = LINK_HEAD,
             .rows = V,
             .cols = E,
             .w = s->head,
             .in = s->x,
             .gain = s->gain,
             .eps = 1e-5f,
             .out = s->logits}};
        const size_t next = (size_t)H * D * E * 2;
        if (i == LAYERS) /* what is before has no logits to read: any number of products will do */
            rc |= cuda_chain_row(links + 4, 1, DTYPE_BF16, NULL, 0, false, s->work, stream);
        else if (i % 2)
            rc |= cuda_chain_row(links, 4, DTYPE_BF16, s->o, next, true, s->work, stream);
        else {
            rc |= cuda_chain_row(links, 1, DTYPE_BF16, s->o, next, false, s->work, stream);
            rc |= cuda_chain_row(links + 1, 3, DTYPE_BF16, s->qkv, next, false, s->work, stream);
        }
        if (wait) cudaStreamSynchronize(stream);
    }
    return rc;
}

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
    free(p);
    return hash;
}

static void steps_overlap_safely(void)
{
    const int pos = POS;
    const size_t cache = (size_t)(LAYERS + 1) * G * ROOM * D * 2;
    cudaStream_t stream = NULL;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    const struct step s = {
        .x = gpu_put(NULL, E * 4),
        .q = gpu_put(NULL, H * D * 4),
        .h = gpu_put(NULL, F * 4),
        .logits = gpu_put(NULL, V * 4),
        .start = random_f32(E, 2, NULL),
        .k = gpu_put(NULL, cache),
        .v = gpu_put(NULL, cache),
        .work = gpu_zero(cuda_chain_work()),
        .qkv = gpu_random(&rng, (size_t)(H + 2 * G) * D * E, 0.05f, DTYPE_BF16, NULL),
        .o = gpu_random(&rng, (size_t)E * H * D, 0.05f, DTYPE_BF16, NULL),
        .gate_up = gpu_random(&rng, (size_t)2 * F * E, 0.05f, DTYPE_BF16, NULL),
        .down = gpu_random(&rng, (size_t)E * F, 0.05f, DTYPE_BF16, NULL),
        .head = gpu_random(&rng, (size_t)V * E, 0.05f, DTYPE_BF16, NULL),
        .gain = random_f32(E, 2, NULL),
        .cosine = random_f32((POS + 1) * D / 2, 1, NULL),
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
    for (int i = 0; exec && i < 100; i++) {
        cudaGraphLaunch(exec, stream);
        if (i % 5 == 4) differ += left_by(&s) != want;
    }
    CHECK(exec && differ == 0, "%d of 20 replayed steps differ from one that waits", differ);
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    gpu_release();
}

static void refusals(void)
{
    float *p = gpu_zero(4096);
    const bool was = mute_failures(true);
    struct cuda_link a = {.kind = LINK_ADD, .rows = 4, .cols = 12, .w = p, .in = p, .out = p};
    const struct cuda_qkv q = {.x = p,
                               .gain = p,
                               .w = p,
                               .E = 16,
                               .H = 1,
                               .G = 1,
                               .D = 64,
                               .q_norm = p,
                               .k_norm = p,
                               .raw = p,
                               .type = DTYPE_F16};
    const struct cuda_link qkv = {.kind = LINK_QKV, .qkv = &q};
    CHECK(cuda_chain_row(&a, 0, DTYPE_BF16, NULL, 0, false, p, NULL) == -1, "no product");
    CHECK(cuda_chain_row(&a, 5, DTYPE_BF16, NULL, 0, false, p, NULL) == -1, "five products");
    CHECK(cuda_chain_row(&a, 1, DTYPE_F32, NULL, 0, false, p, NULL) == -1, "float32");
    if (cuda_device()->capability >= 90) {
        CHECK(cuda_chain_row(&a, 1, DTYPE_BF16, NULL, 0, false, p, NULL) == -1, "12 columns");
        a.cols = 32776;
        CHECK(cuda_chain_row(&a, 1, DTYPE_BF16, NULL, 0, false, p, NULL) == 1, "too many columns");
        a.cols = 16;
        a.w = (char *)p + 2;
        CHECK(cuda_chain_row(&a, 1, DTYPE_BF16, NULL, 0, false, p, NULL) == -1, "alignment");
    }
    CHECK(cuda_chain_row(&qkv, 1, DTYPE_F16, NULL, 0, false, p, NULL) == 1, "q and k norm");
    mute_failures(was);
    gpu_release();
}

int main(void)
{
    if (gpu_open("test_cuda_chain")) {
        static const struct shape shapes[] = {
            {.E = 8, .H = 1, .G = 1, .D = 64, .F = 8},
            {.E = 8, .H = 1, .G = 1, .D = 64, .F = 8, .V = 1},
            {.E = 896, .H = 14, .G = 2, .D = 64, .F = 4864},
            {.E = 4096, .H = 32, .G = 8, .D = 128, .F = 1432},
            {.E = 264, .H = 4, .G = 4, .D = 64, .F = 14336},
            {.E = 72, .H = 16, .G = 1, .D = 128, .F = 28672}, /* 7 pieces of a row */
            {.E = 40, .H = 3, .G = 1, .D = 64, .F = 32768, .V = 100},
            {.E = 8200, .H = 5, .G = 1, .D = 128, .F = 136}, /* 3 pieces, the last less */
            {.E = 3584, .H = 28, .G = 4, .D = 128, .F = 304, .V = 3001},
            {.E = 128, .H = 2, .G = 2, .D = 64, .F = 17000, .V = 151936}, /* many tiles a block */
        };
        rng_seed(&rng, 1);
        for (int i = 0; i < 2; i++) {
            const enum dtype type = i ? DTYPE_F16 : DTYPE_BF16;
            for (size_t j = 0; j < COUNT_OF(shapes); j++) {
                struct shape s = shapes[j];
                s.type = type;
                s.bias = (i + j) % 2;
                layer(s);
            }
            for (int R = 1; R <= 16; R++)
                layer((struct shape){.type = type,
                                     .E = 8 * pick(1, 130),
                                     .H = R,
                                     .G = 1,
                                     .D = R % 2 ? 64 : 128,
                                     .F = 8 * pick(1, 300),
                                     .V = R % 3 ? 0 : pick(1, 2000),
                                     .bias = R % 4 < 2});
        }
        if (cuda_device()->capability >= 90) steps_overlap_safely();
        refusals();
    }
    return check_report("test_cuda_chain");
}
