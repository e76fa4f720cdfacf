/* test_ops.c - every op of every instruction set of this processor against its definition, on
 * seeded random shapes, and against itself on other numbers of threads (test_op_forms.c has closed
 * forms).
 *
 * docs/numbers.md derives the bounds; each is a multiple of what the same op gives for the absolute
 * values of its input, so that it follows the size of a sum's terms, not of the sum.
 */
#include "core/base/base.h"
#include "core/ops/ops.h"
#include "tests/check.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24   /* unit roundoff of float32 */
#define EXP (4 * U) /* an exponential: 2 ulp, relative */
#define DEEP 88     /* exp(-88) is below every normal float32: no exponent that counts is deeper */
#define TINY 1e-36  /* absolute floor: what exponentials flushed to 0 can sum to */

/* Relative error of a float32 sum of N products, in any order. Source: Higham 2002 eq. 3.5. */
static double sum_error(double n)
{
    return n * U / (1 - n * U);
}

/* Relative error of a softmax weight over T positions when the logits are off by up to E. */
static double weight_error(double e, int T)
{
    return expm1(2 * e + 2 * DEEP * U + EXP * (2 + T / 64.0)) + sum_error(T + 4);
}

static double norm_error(int width)
{
    return sum_error(width + 1) / 2 + 5 * U;
}

/* ---- memory of one case, released together */

static void **blocks;
static size_t n_blocks;

static void *block(size_t bytes)
{
    blocks = xrealloc(blocks, (n_blocks + 1) * sizeof *blocks);
    return blocks[n_blocks++] = xcalloc(bytes + 1, 1);
}

static float *floats(size_t n)
{
    return block(n * sizeof(float));
}

/* Room for output: NaN, so that what is never written, or added to, shows. */
static float *blank(size_t n)
{
    float *f = floats(n);
    for (size_t i = 0; i < n; i++) f[i] = NAN;
    return f;
}

static void release(void)
{
    while (n_blocks > 0) free(blocks[--n_blocks]);
    free(blocks);
    blocks = NULL;
}

/* ---- random input */

static float draw(struct rng *r, float limit)
{
    return (float)(2 * rng_unit(r) - 1) * limit;
}

static int pick(struct rng *r, const int *from, size_t n)
{
    return from[rng_below(r, (uint32_t)n)];
}
#define PICK(r, ...)                                                                               \
    pick(r, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

static float *random_floats(struct rng *r, size_t n, float limit)
{
    float *f = floats(n);
    for (size_t i = 0; i < n; i++) f[i] = draw(r, limit);
    return f;
}

static float *absolute(const float *f, size_t n)
{
    float *a = floats(n);
    for (size_t i = 0; i < n; i++) a[i] = fabsf(f[i]);
    return a;
}

/* A matrix of any type whose data start one element past an aligned address. */
static struct matrix random_matrix(struct rng *r, int rows, int cols)
{
    const enum dtype type = (enum dtype)rng_below(r, 3);
    const size_t n = (size_t)rows * (size_t)cols, size = dtype_size(type);
    char *data = (char *)block((n + 1) * size) + size;
    for (size_t i = 0; i < n; i++) {
        const float f = draw(r, 1);
        uint32_t bits;
        uint16_t half = f32_to_f16(f);
        memcpy(&bits, &f, sizeof bits);
        if (type == DTYPE_BF16) half = (uint16_t)(bits >> 16);
        memcpy(data + i * size, type == DTYPE_F32 ? (void *)&f : (void *)&half, size);
    }
    return (struct matrix){data, type, rows, cols};
}

static struct matrix absolute_matrix(struct matrix m)
{
    const size_t n = (size_t)m.rows * (size_t)m.cols, size = dtype_size(m.type);
    unsigned char *data = block(n * size);
    memcpy(data, m.data, n * size);
    for (size_t i = 0; i < n; i++) data[(i + 1) * size - 1] &= 0x7f; /* little-endian sign bits */
    m.data = data;
    return m;
}

static struct layer_weights random_layer(struct rng *r, const struct model_config *c)
{
    const int HD = c->H * c->D, GD = c->G * c->D, biased = (int)rng_below(r, 2);
    const bool normed = c->qk_norm;
    struct layer_weights w = {
        .attn_norm = random_floats(r, (size_t)c->E, 2),
        .mlp_norm = random_floats(r, (size_t)c->E, 2),
        .q = random_matrix(r, HD, c->E),
        .k = random_matrix(r, GD, c->E),
        .v = random_matrix(r, GD, c->E),
        .o = random_matrix(r, c->E, HD),
        .gate = random_matrix(r, c->F, c->E),
        .up = random_matrix(r, c->F, c->E),
        .down = random_matrix(r, c->E, c->F),
        .q_norm = normed ? random_floats(r, (size_t)c->D, 2) : NULL,
        .k_norm = normed ? random_floats(r, (size_t)c->D, 2) : NULL,
    };
    if (biased) {
        w.q_bias = random_floats(r, (size_t)HD, 1);
        w.k_bias = random_floats(r, (size_t)GD, 1);
        w.v_bias = random_floats(r, (size_t)GD, 1);
        w.o_bias = random_floats(r, (size_t)c->E, 1);
        w.gate_bias = random_floats(r, (size_t)c->F, 1);
        w.up_bias = random_floats(r, (size_t)c->F, 1);
        w.down_bias = random_floats(r, (size_t)c->E, 1);
    }
    return w;
}

static struct layer_weights absolute_layer(struct layer_weights w, const struct model_config *c)
{
    const size_t HD = (size_t)(c->H * c->D), GD = (size_t)(c->G * c->D);
    struct matrix *const matrices[] = {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down};
    const struct {
        const float **vector;
        size_t n;
    } vectors[] = {{&w.attn_norm, (size_t)c->E},
                   {&w.mlp_norm, (size_t)c->E},
                   {&w.q_bias, HD},
                   {&w.k_bias, GD},
                   {&w.v_bias, GD},
                   {&w.o_bias, (size_t)c->E},
                   {&w.gate_bias, (size_t)c->F},
                   {&w.up_bias, (size_t)c->F},
                   {&w.down_bias, (size_t)c->E}};
    for (size_t i = 0; i < COUNT_OF(matrices); i++) *matrices[i] = absolute_matrix(*matrices[i]);
    for (size_t i = 0; i < COUNT_OF(vectors); i++)
        if (*vectors[i].vector) *vectors[i].vector = absolute(*vectors[i].vector, vectors[i].n);
    w.q_norm = w.k_norm = NULL;
    return w;
}

/* Keys and values of T positions, the padding 0 and everything after them NaN. */
static struct kv_layer random_kv(struct rng *r, int G, int D, int T, float limit)
{
    const int P = padded_width(D), room = (T + 63) / 64 * 64;
    const size_t n = (size_t)G * (size_t)room * (size_t)P;
    struct kv_layer kv = {floats(n), floats(n), room, NULL};
    for (size_t i = 0; i < n; i++) {
        const bool inside = (int)(i / (size_t)P) % room < T, used = (int)(i % (size_t)P) < D;
        kv.k[i] = !inside ? NAN : used ? draw(r, limit) : 0;
        kv.v[i] = !inside ? NAN : used ? draw(r, 1) : 0;
    }
    return kv;
}

static struct kv_layer absolute_kv(const struct kv_layer *kv, int G, int P)
{
    const size_t n = (size_t)G * (size_t)kv->room * (size_t)P;
    return (struct kv_layer){absolute(kv->k, n), absolute(kv->v, n), kv->room, NULL};
}

static float *random_queries(struct rng *r, int rows, int D, float limit)
{
    const int P = padded_width(D);
    float *q = floats((size_t)rows * (size_t)P);
    for (int i = 0; i < rows * P; i++) q[i] = i % P < D ? draw(r, limit) : 0;
    return q;
}

/* ---- a battery: the ops under test, what they gave, and whether to judge it */

struct battery {
    const struct ops *ops, *twin; /* under test, and the definition */
    const char *isa;
    bool judge; /* against the definition; otherwise only the hash is wanted */
    uint64_t hash;
    struct scratch scratch;
};

/* got[i] must lie within RELATIVE * size[i] + absolute[i] of want[i]; ABSOLUTE may be NULL. */
static void judge(struct battery *b, const char *what, const char *shape, const float *got,
                  const float *want, size_t n, const float *size, double relative,
                  const double *absolute_error)
{
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const double bound =
            relative * fabs(size[i]) + TINY + (absolute_error ? absolute_error[i] : 0);
        const double off = fabs((double)got[i] - want[i]) / bound;
        if (!(off <= worst)) {
            worst = isnan(off) ? INFINITY : off;
            at = i;
        }
    }
    CHECK(worst <= 1, "%s %s %s: [%zu] is %.9g, want %.9g: %.3g times the bound", b->isa, what,
          shape, at, n ? got[at] : 0, n ? want[at] : 0, worst);
}

static void add_hash(struct battery *b, const float *f, size_t n)
{
    b->hash = hash_bytes(b->hash, f, n * sizeof *f);
}

/* ---- twins */

/* Linear layers and what surrounds them: embed, attn_in, attn_out, mlp, head. */
static struct model_config random_shape(struct rng *r, int n)
{
    struct model_config c = {.norm_eps = 1e-5f, .qk_norm = rng_below(r, 2)};
    const int R = 1 + (int)rng_below(r, 7);
    c.G = 1 + (int)rng_below(r, 3);
    c.H = c.G * R;
    c.D = PICK(r, 2, 4, 6, 10, 16, 18, 32, 50, 64);
    if (n > 64 && c.D > 16) c.D = 16;
    c.E = PICK(r, 1, 3, 7, 16, 17, 31, 48, 60, 64, 100, 129);
    c.F = PICK(r, 1, 5, 16, 33, 64, 101, 176, 260);
    c.V = PICK(r, 1, 3, 16, 37, 100, 300);
    return c;
}

/* bound [D] of a head whose projection IN is off by up to OFF: through the norm, where there is
 * one, to first order, and the rotation, whose cos and sin are at most TURN. */
static void head_bound(double *bound, const float *in, const double *off, int D, const float *norm,
                       float eps, double turn)
{
    double carried[256], sum = eps, sum_off = 0;
    for (int d = 0; d < D; d++) {
        sum += (double)in[d] * in[d] / D;
        sum_off += 2 * fabs(in[d]) * off[d] / D;
    }
    for (int d = 0; d < D; d++) {
        carried[d] = off[d] + 3 * U * fabs(in[d]);
        if (norm)
            carried[d] = fabs(norm[d]) / sqrt(sum) *
                         (off[d] + fabs(in[d]) * (sum_off / (2 * sum) + norm_error(D) + 3 * U)) *
                         1.01;
    }
    for (int d = 0; d < D; d++) bound[d] = turn * (carried[d] + carried[(d + D / 2) % D]);
}

static void attn_in_twin(struct battery *b, struct rng *r, int n)
{
    const struct model_config c = random_shape(r, n);
    const int H = c.H, G = c.G, D = c.D, P = padded_width(D);
    const int pos0 = PICK(r, 0, 1, 5, 63, 64), T = pos0 + n, half = D / 2;
    const struct layer_weights w = random_layer(r, &c);
    const float *x = random_floats(r, (size_t)(n * c.E), 3);
    float *cosine = floats((size_t)(T * half)), *sine = floats((size_t)(T * half));
    float *q = blank((size_t)(n * H * P));
    struct kv_layer kv = random_kv(r, G, D, pos0 + 1, 1);
    for (int i = 0; i < T * half; i++) {
        const double angle = 6.3 * rng_unit(r); /* 1.1: as yarn scales */
        cosine[i] = (float)(1.1 * cos(angle));
        sine[i] = (float)(1.1 * sin(angle));
    }
    if (kv.room < T) kv = random_kv(r, G, D, T, 1);
    const size_t row = (size_t)kv.room * (size_t)P;
    for (int g = 0; g < G; g++) /* what is there already must stay: a mark */
        for (size_t i = 0; i < row; i++) kv.k[g * row + i] = kv.v[g * row + i] = 77;
    b->ops->attn_in(q, &kv, x, n, pos0, &w, &c, (struct rope_table){cosine, sine}, &b->scratch);
    add_hash(b, q, (size_t)(n * H * P));
    add_hash(b, kv.k, (size_t)G * row);
    add_hash(b, kv.v, (size_t)G * row);

    if (b->judge) {
        float *q_want = floats((size_t)(n * H * P)), *one = floats((size_t)(T * half));
        float *q_raw = floats((size_t)(n * H * P)), *q_size = floats((size_t)(n * H * P));
        struct rng other = *r; /* judging draws nothing that the next case would miss */
        struct kv_layer want = random_kv(&other, G, D, T, 1), raw = random_kv(&other, G, D, T, 1);
        struct kv_layer size = random_kv(&other, G, D, T, 1);
        struct model_config bare = c;
        struct layer_weights plain = w, positive = absolute_layer(w, &c);
        const float *zero = floats((size_t)(T * half));
        bare.qk_norm = false;
        plain.q_norm = plain.k_norm = NULL;
        for (int i = 0; i < T * half; i++) one[i] = 1;
        b->twin->attn_in(q_want, &want, x, n, pos0, &w, &c, (struct rope_table){cosine, sine},
                         NULL);
        /* the projections themselves, and what they would be if no term cancelled another */
        b->twin->attn_in(q_raw, &raw, x, n, pos0, &plain, &bare, (struct rope_table){one, zero},
                         NULL);
        b->twin->attn_in(q_size, &size, absolute(x, (size_t)(n * c.E)), n, pos0, &positive, &bare,
                         (struct rope_table){one, zero}, NULL);
        const double e = sum_error(c.E + 2) + norm_error(c.E);
        double off[256], bound[256];
        char *shape = xprintf("n %d E %d H %d G %d D %d pos %d", n, c.E, H, G, D, pos0);
        for (int i = 0; i < n * (H + G); i++) {
            const bool query = i < n * H;
            const int g = (i - n * H) % G, at = pos0 + (i - n * H) / G;
            const size_t first = query ? (size_t)i * (size_t)P : (size_t)g * row + (size_t)at * P;
            const float *zeros = floats((size_t)P);
            const float *in = (query ? q_raw : raw.k) + first;
            for (int d = 0; d < D; d++) off[d] = e * ((query ? q_size : size.k) + first)[d];
            head_bound(bound, in, off, D, query ? w.q_norm : w.k_norm, c.norm_eps, 1.1);
            judge(b, query ? "attn_in q" : "attn_in k", shape, (query ? q : kv.k) + first,
                  (query ? q_want : want.k) + first, (size_t)D, zeros, 0, bound);
            if (!query)
                judge(b, "attn_in v", shape, kv.v + first, want.v + first, (size_t)D,
                      size.v + first, e, NULL);
            for (int d = D; d < P; d++)
                CHECK((query ? q : kv.k)[first + (size_t)d] == 0 &&
                          (query || kv.v[first + (size_t)d] == 0),
                      "%s attn_in %s: the padding is not 0", b->isa, shape);
        }
        for (int g = 0; g < G; g++)
            for (int t = 0; t < kv.room; t++) {
                const size_t at = (size_t)g * row + (size_t)t * (size_t)P;
                if (t >= pos0 && t < T) continue;
                CHECK(kv.k[at] == 77 && kv.v[at + (size_t)P - 1] == 77,
                      "%s attn_in %s: position %d was written", b->isa, shape, t);
            }
        free(shape);
    }
    release();
}

static void linear_twins(struct battery *b, struct rng *r, int n)
{
    const struct model_config c = random_shape(r, n);
    const size_t N = (size_t)n, E = (size_t)c.E, V = (size_t)c.V, HD = (size_t)(c.H * c.D);
    const struct layer_weights w = random_layer(r, &c);
    const struct weights all = {.embed = random_matrix(r, c.V, c.E),
                                .head = random_matrix(r, c.V, c.E),
                                .norm = random_floats(r, E, 2)};
    const float *x0 = random_floats(r, N * E, 3), *attention = random_floats(r, N * HD, 2);
    int *ids = block(N * sizeof *ids);
    for (int i = 0; i < n; i++) ids[i] = (int)rng_below(r, (uint32_t)c.V);
    const bool with_delta = rng_below(r, 2);
    float *x[3], *delta = blank(N * E), *logits = blank(N * V), *embedded = blank(N * E);
    for (int i = 0; i < 3; i++) {
        x[i] = floats(N * E);
        memcpy(x[i], x0, N * E * sizeof **x);
    }
    b->ops->embed(embedded, &all.embed, ids, n);
    b->ops->attn_out(x[0], with_delta ? delta : NULL, NULL, attention, n, &w, &c, &b->scratch);
    b->ops->mlp(x[1], n, &w, &c, &b->scratch);
    b->ops->head(logits, x0, n, &all, &c, &b->scratch);
    add_hash(b, x[0], N * E);
    add_hash(b, delta, N * E);
    add_hash(b, x[1], N * E);
    add_hash(b, logits, N * V);

    if (b->judge) {
        const struct layer_weights positive = absolute_layer(w, &c);
        const struct weights all_positive = {.head = absolute_matrix(all.head),
                                             .norm = absolute(all.norm, E)};
        float *want = floats(N * (E + V)), *size = absolute(x0, N * (E > V ? E : 1));
        char *shape = xprintf("n %d E %d HD %zu F %d V %d types %d%d%d%s", n, c.E, HD, c.F, c.V,
                              w.o.type, w.gate.type, w.down.type, w.o_bias ? " biased" : "");
        b->twin->embed(want, &all.embed, ids, n);
        CHECK(memcmp(want, embedded, N * E * sizeof *want) == 0, "%s embed %s", b->isa, shape);

        size = absolute(x0, N * E);
        memcpy(want, x0, N * E * sizeof *want);
        float *delta_want = floats(N * E), *delta_size = floats(N * E);
        b->twin->attn_out(want, delta_want, NULL, attention, n, &w, &c, NULL);
        b->twin->attn_out(size, delta_size, NULL, absolute(attention, N * HD), n, &positive, &c,
                          NULL);
        judge(b, "attn_out", shape, x[0], want, N * E, size, sum_error(c.H * c.D + 3), NULL);
        if (with_delta)
            judge(b, "attn_out's delta", shape, delta, delta_want, N * E, delta_size,
                  sum_error(c.H * c.D + 2), NULL);

        const double e = sum_error(c.E + 2) + norm_error(c.E);
        size = absolute(x0, N * E);
        memcpy(want, x0, N * E * sizeof *want);
        b->twin->mlp(want, n, &w, &c, NULL);
        b->twin->mlp(size, n, &positive, &c, NULL);
        judge(b, "mlp", shape, x[1], want, N * E, size,
              4.2 * e + 2 * sum_error(c.F + 3) + 2 * EXP + 8 * U, NULL);

        size = floats(N * V);
        b->twin->head(want, x0, n, &all, &c, NULL);
        b->twin->head(size, absolute(x0, N * E), n, &all_positive, &c, NULL);
        judge(b, "head", shape, logits, want, N * V, size, e, NULL);
        free(shape);
    }
    release();
}

/* The largest error a float32 logit can have: the definition on absolute values, times its error.
 * SIZE [rows, H, span], or NULL, receives the former. */
static double logit_error(const struct battery *b, const float *q, const struct kv_layer *kv, int n,
                          int pos0, int pos_step, const struct model_config *c, float *size,
                          size_t span)
{
    const int P = padded_width(c->D);
    const size_t row = (size_t)c->H * (size_t)P;
    const struct kv_layer positive = absolute_kv(kv, c->G, P);
    const float *q_positive = absolute(q, (size_t)n * row);
    float *own = floats((size_t)c->H * (size_t)kv->room), most = 0;
    for (int r = 0; r < n; r++) {
        const int pos = pos0 + r * pos_step;
        float *to = size ? size + (size_t)r * (size_t)c->H * span : own;
        const size_t stride = size ? span : (size_t)kv->room;
        b->twin->attn_logits(to, stride, q_positive + r * row, &positive, 1, pos, c);
        for (int h = 0; h < c->H; h++)
            for (int t = 0; t <= pos; t++) most = fmaxf(most, to[(size_t)h * stride + (size_t)t]);
    }
    return sum_error(P + 4) * most;
}

static void attend_all_twin(struct battery *b, struct rng *r, struct model_config c, int n, int T)
{
    const int P = padded_width(c.D), pos0 = T - n;
    const size_t rows = (size_t)n * (size_t)c.H, D = (size_t)c.D, span = (size_t)T + 3;
    const float limit = (float)PICK(r, 1, 2, 5);
    const struct kv_layer kv = random_kv(r, c.G, c.D, T, limit);
    const float *q = random_queries(r, n * c.H, c.D, limit);
    float *out = blank(rows * D), *lse = blank(rows), *lse_want = floats(rows);
    float *sums = random_floats(r, (size_t)c.H * span, 1), *want = floats(rows * D);
    for (size_t i = 0; i < (size_t)c.H * span; i++) sums[i] = fabsf(sums[i]);
    float *sums_want = absolute(sums, (size_t)c.H * span);

    b->ops->attend_all(out, q, &kv, n, pos0, &c, lse, &b->scratch);
    b->ops->attn_columns(sums, span, q, lse, &kv, n, pos0, &c, &b->scratch);
    add_hash(b, out, rows * D);
    add_hash(b, lse, rows);
    add_hash(b, sums, (size_t)c.H * span);

    if (b->judge) {
        char *shape = xprintf("H %d G %d D %d n %d T %d", c.H, c.G, c.D, n, T);
        const double e = logit_error(b, q, &kv, n, pos0, 1, &c, NULL, 0);
        struct kv_layer sized = kv;
        sized.v = absolute_kv(&kv, c.G, P).v;
        float *size = floats(rows * D);
        b->twin->attend_all(want, q, &kv, n, pos0, &c, lse_want, NULL);
        b->twin->attend_all(size, q, &sized, n, pos0, &c, NULL, NULL);
        judge(b, "attend_all", shape, out, want, rows * D, size, weight_error(e, T), NULL);
        double *near = block(rows * sizeof *near);
        for (size_t i = 0; i < rows; i++) near[i] = weight_error(e, T) + 4 * U * fabs(lse_want[i]);
        judge(b, "attend_all's lse", shape, lse, lse_want, rows, lse_want, 0, near);
        b->twin->attn_columns(sums_want, span, q, lse, &kv, n, pos0, &c, NULL);
        judge(b, "attn_columns", shape, sums, sums_want, (size_t)c.H * span, sums_want,
              expm1(2 * e + 2 * DEEP * U + EXP) + sum_error(n + 2), NULL);
        free(shape);
    }
    release();
}

/* A view of N rows with SETS lists each; counts and tails differ by row, some counts are 0. */
static struct attn_view random_view(struct rng *r, int n, int pos0, int pos_step, int sets)
{
    const int most = pos0 + (n - 1) * pos_step, stride = 1 + (int)rng_below(r, (uint32_t)most + 2);
    int *idx = block((size_t)n * (size_t)sets * (size_t)stride * sizeof *idx);
    int *count = block((size_t)n * sizeof *count), *tail = block((size_t)n * sizeof *tail);
    for (int row = 0; row < n; row++) {
        const int pos = pos0 + row * pos_step;
        tail[row] = rng_below(r, 4) ? (int)rng_below(r, (uint32_t)pos + 1) : pos;
        const int limit = tail[row] < stride ? tail[row] : stride;
        count[row] = rng_below(r, 5) ? (int)rng_below(r, (uint32_t)limit + 1) : 0;
        for (int set = 0; set < sets; set++) {
            int *list = idx + ((size_t)row * (size_t)sets + (size_t)set) * (size_t)stride;
            int found = 0; /* each position in turn, with the chance that fills the list */
            for (int t = 0; t < tail[row] && found < count[row]; t++)
                if (rng_below(r, (uint32_t)(tail[row] - t)) < (uint32_t)(count[row] - found))
                    list[found++] = t;
            for (; found < stride; found++) list[found] = -1; /* must not be looked at */
        }
    }
    return (struct attn_view){
        .idx = idx, .sets = sets, .stride = stride, .count = count, .tail = tail};
}

static void attend_rows_twin(struct battery *b, struct rng *r, struct model_config c, int n, int T,
                             int sets)
{
    const int P = padded_width(c.D), pos_step = T >= n ? (int)rng_below(r, 2) : 0;
    const int pos0 = T - 1 - (n - 1) * pos_step;
    const size_t rows = (size_t)n * (size_t)c.H, D = (size_t)c.D;
    const size_t span = ((size_t)T + 31) / 16 * 16;
    const float limit = (float)PICK(r, 1, 2, 5);
    const struct kv_layer kv = random_kv(r, c.G, c.D, T, limit);
    const float *q = random_queries(r, n * c.H, c.D, limit);
    const struct attn_view view =
        sets ? random_view(r, n, pos0, pos_step, sets) : (struct attn_view){0};
    const bool look = rng_below(r, 4) > 0;
    float *out = blank(rows * D), *lse = blank(rows), *logits = floats(rows * span);
    float *alone = floats(rows * span);
    for (size_t i = 0; i < rows * span; i++) logits[i] = alone[i] = 77; /* a mark */

    b->ops->attend_rows(out, q, &kv, n, pos0, pos_step, view,
                        look ? (struct attn_seen){logits, lse, NULL, span} : (struct attn_seen){0},
                        &c, &b->scratch);
    if (!sets && pos_step) b->ops->attn_logits(alone, span, q, &kv, n, pos0, &c);
    add_hash(b, out, rows * D);
    add_hash(b, lse, rows);
    add_hash(b, logits, rows * span);
    add_hash(b, alone, rows * span);

    if (b->judge) {
        char *shape = xprintf("H %d G %d D %d n %d T %d step %d sets %d", c.H, c.G, c.D, n, T,
                              pos_step, sets);
        float *want = floats(rows * D), *lse_want = floats(rows), *size = floats(rows * D);
        float *logits_want = floats(rows * span), *logits_size = floats(rows * span);
        for (size_t i = 0; i < rows * span; i++) logits_want[i] = logits_size[i] = 77;
        const double e = logit_error(b, q, &kv, n, pos0, pos_step, &c, logits_size, span);
        struct kv_layer sized = kv;
        sized.v = absolute_kv(&kv, c.G, P).v;
        b->twin->attend_rows(want, q, &kv, n, pos0, pos_step, view,
                             (struct attn_seen){logits_want, lse_want, NULL, span}, &c, NULL);
        b->twin->attend_rows(size, q, &sized, n, pos0, pos_step, view, (struct attn_seen){0}, &c,
                             NULL);
        judge(b, "attend_rows", shape, out, want, rows * D, size, weight_error(e, T), NULL);
        double *near = block(rows * sizeof *near);
        for (size_t i = 0; i < rows; i++) near[i] = weight_error(e, T) + 4 * U * fabs(lse_want[i]);
        if (look) {
            const float *none = floats(rows * span);
            double *off = block(rows * span * sizeof *off);
            for (size_t i = 0; i < rows * span; i++) off[i] = logits_want[i] == 77 ? 0 : e;
            judge(b, "attend_rows' lse", shape, lse, lse_want, rows, lse_want, 0, near);
            judge(b, "attend_rows' logits", shape, logits, logits_want, rows * span, none, 0, off);
        }
        if (!sets && pos_step)
            judge(b, "attn_logits", shape, alone, logits_want, rows * span, logits_size,
                  sum_error(P + 4), NULL);
        free(shape);
    }
    release();
}

static void pooling_twins(struct battery *b, struct rng *r, int T)
{
    const int G = 1 + (int)rng_below(r, 4), H = G * (1 + (int)rng_below(r, 6));
    const int sets = PICK(r, 1, G, H);
    const size_t span = (size_t)T + rng_below(r, 20), n = (size_t)sets * (size_t)T;
    const float *logits = random_floats(r, (size_t)H * span, (float)PICK(r, 1, 10, 40));
    float *best = blank(n), *weight = blank(n), *mass = blank((size_t)T), *want = blank(n);
    float *lse = floats((size_t)H);
    for (int h = 0; h < H; h++) { /* the softmax's own, in double */
        double sum = 0;
        for (int t = 0; t < T; t++) sum += exp(logits[(size_t)h * span + (size_t)t]);
        lse[h] = (float)log(sum);
    }
    b->ops->pool_scores(best, logits, span, T, H, sets, SCORE_MAX_LOGIT);
    b->ops->pool_scores(weight, logits, span, T, H, sets, SCORE_MAX_WEIGHT);
    b->ops->pool_mass(mass, logits, span, lse, T, H);
    add_hash(b, best, n);
    add_hash(b, weight, n);
    add_hash(b, mass, (size_t)T);

    if (b->judge) {
        char *shape = xprintf("H %d sets %d T %d", H, sets, T);
        b->twin->pool_scores(want, logits, span, T, H, sets, SCORE_MAX_LOGIT);
        CHECK(memcmp(want, best, n * sizeof *want) == 0, "%s max of logits %s", b->isa, shape);
        b->twin->pool_scores(want, logits, span, T, H, sets, SCORE_MAX_WEIGHT);
        judge(b, "max of weights", shape, weight, want, n, want, weight_error(0, T), NULL);
        b->twin->pool_mass(want, logits, span, lse, T, H);
        judge(b, "pool_mass", shape, mass, want, (size_t)T, want,
              2 * DEEP * U + EXP + sum_error(H + 1), NULL);
        free(shape);
    }
    release();
}

static void top_k_twin(struct battery *b, struct rng *r, int T)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, 1e-42f, -1e-42f, 1, -1};
    float *score = floats((size_t)T);
    const int kind = (int)rng_below(r, 4),
              ks[] = {0, 1, T / 200 + 1, T / 30 + 1, T / 7, T / 3, T / 2, T - 1, T};
    for (int t = 0; t < T; t++) {
        const uint32_t bits = (rng_below(r, 2) << 31) | 0x7f800001u | rng_below(r, 1u << 22);
        score[t] = draw(r, 1);
        if (kind == 1) score[t] = (float)rng_below(r, 5) - 2; /* ties everywhere */
        if (kind == 2) score[t] = special[rng_below(r, COUNT_OF(special))];
        if (kind >= 2 && rng_below(r, 3) == 0) memcpy(&score[t], &bits, sizeof bits); /* any NaN */
    }
    int *idx = block((size_t)T * sizeof *idx), *want = block((size_t)T * sizeof *want);
    for (size_t i = 0; i < COUNT_OF(ks); i++) {
        const size_t bytes = (size_t)ks[i] * sizeof *idx;
        b->ops->top_k(idx, score, T, ks[i]);
        b->hash = hash_bytes(b->hash, idx, bytes);
        if (!b->judge) continue;
        b->twin->top_k(want, score, T, ks[i]);
        CHECK(memcmp(idx, want, bytes) == 0, "%s top_k: T %d k %d kind %d", b->isa, T, ks[i], kind);
    }
    release();
}

/* All twins on the same seeded shapes. */
static void run_twins(struct battery *b)
{
    static const int few[] = {1, 2, 3, 4, 5, 8, 63, 127, 129, 300};
    static const int lengths[] = {1, 2, 15, 63, 64, 65, 127, 255, 256, 257, 300, 512, 513, 1000};
    static const int widths[] = {2, 4, 6, 10, 16, 18, 20, 32, 48, 50, 64, 66, 96, 128, 130, 256};
    struct rng r;
    rng_seed(&r, 20);
    b->hash = HASH_START;
    for (size_t i = 0; i < 3 * COUNT_OF(few); i++) {
        attn_in_twin(b, &r, few[i % COUNT_OF(few)]);
        linear_twins(b, &r, few[i % COUNT_OF(few)]);
    }
    for (size_t i = 0; i < 4 * COUNT_OF(lengths); i++) {
        const int T = lengths[i % COUNT_OF(lengths)], R = 1 + (int)rng_below(&r, 16);
        const int G = R < 5 ? 1 + (int)rng_below(&r, 3) : 1, few_rows = 1 + (int)rng_below(&r, 7);
        struct model_config c = {.H = G * R, .G = G, .D = widths[i % COUNT_OF(widths)]};
        attend_rows_twin(b, &r, c, few_rows, T, PICK(&r, 0, 1, G, G * R));
        int n = PICK(&r, 1, 2, 8, 16, 17, 40, 64, 130, 300); /* as many rows as stay quick */
        while (n > T || (double)n * T * c.H * c.D > 3e6) n = (n + 1) / 2;
        attend_all_twin(b, &r, c, n, T);
        pooling_twins(b, &r, T);
        top_k_twin(b, &r, T);
    }
    /* more heads to a kv head than a tile has lanes, and long contexts */
    attend_all_twin(b, &r, (struct model_config){.H = 70, .G = 1, .D = 16}, 3, 130);
    attend_rows_twin(b, &r, (struct model_config){.H = 70, .G = 1, .D = 16}, 3, 300, 1);
    attend_all_twin(b, &r, (struct model_config){.H = 2, .G = 1, .D = 32}, 9, 3001);
    attend_rows_twin(b, &r, (struct model_config){.H = 4, .G = 2, .D = 64}, 2, 4000, 0);
    attend_rows_twin(b, &r, (struct model_config){.H = 4, .G = 2, .D = 64}, 5, 3000, 4);
    pooling_twins(b, &r, 4097);
    pooling_twins(b, &r, 5000);
    for (int i = 0; i < 4; i++) top_k_twin(b, &r, 100000 + i);
}

int main(void)
{
    static const char *const sets[] = {"avx512", "avx2", "plain"};
    static const int threads[] = {1, 2, 3, 7};
    const int usual = omp_get_max_threads();
    bool best = true; /* the first that this processor has */

    for (size_t i = 0; i < COUNT_OF(sets); i++) {
        struct battery b = {
            .ops = ops_cpu(sets[i]), .twin = ops_reference(), .isa = sets[i], .judge = true};
        if (b.ops == NULL) {
            check_skip(sets[i], "this processor lacks it");
            continue;
        }
        omp_set_num_threads(usual);
        run_twins(&b);
        const uint64_t judged = b.hash;
        b.judge = false;
        for (size_t t = 0; t < COUNT_OF(threads); t++) {
            if (!best && threads[t] != 3) continue; /* the tiles differ by set, the loops do not */
            omp_set_num_threads(threads[t]);
            run_twins(&b);
            CHECK(b.hash == judged, "%s: other bits with %d threads", sets[i], threads[t]);
        }
        best = false;
        free(b.scratch.p);
    }
    return check_report("test_ops");
}
