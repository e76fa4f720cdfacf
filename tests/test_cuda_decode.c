/* test_cuda_decode.c - decode attention of the CUDA backend against its definition in double.
 *
 * Tolerances, with u = 2^-24 (float32) and r the unit roundoff of the 16-bit type, 2^-8 for bf16
 * and 2^-11 for f16. Queries and weights enter the matrix instructions as a rounded value and the
 * rounded remainder, so they are off by r^2, relative; remainders below f16's least subnormal are
 * lost, which is 2^-25 absolute. The units add with truncation: 2 u instead of u for each of n
 * additions, times the sum of absolute values.
 *
 *   logit   l = A (r^2 + 2 (D + 8) u) + 2^-25 D, A = the sum of abs(q k) / sqrt(D), abs(k) <= 1
 *   weight  w = exp(2 l + (200 + 12 X) u) - 1, relative, X the largest abs(logit): the argument of
 * an exponential is rounded (a few u X), and the instruction itself is good to 4 u lse     w + 2 c
 * u + 4 u (1 + abs(lse)), with c additions one after another: two for each entry of a warp, of
 * which the shapes here have 24 at least, then those of warps and splits out     (w + r^2 + 2 c u)
 * sum of weight abs(v) + T 2^-32: a lost remainder is that much of the warp's largest weight
 */
#include "core/base/base.h"
#include "tests/gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double U = 1.0 / (1 << 24);

struct shape {
    int n, H, G, D, pos;
    enum dtype type;
    enum cuda_first first;
    int sets, count, tail; /* where there are lists */
    int most;              /* 0: the entries there are */
    float limit;           /* of queries: large ones give few heavy entries */
    bool logits, scores, lse;
    bool rising; /* the later an entry, the larger its logits */
};

/* A case's arrays on the host, [G, rows, D] 16-bit; rows that nothing attends to are NaN. */
struct arrays {
    uint16_t *k, *v, *packed_k, *packed_v;
    float *q;
    int *idx, *count, *tail;
    int room, stride, base;
};

static double value_of(uint16_t x, enum dtype type)
{
    return type == DTYPE_BF16 ? bf16_to_f32(x) : f16_to_f32(x);
}

/* Values in [-1, 1), or in [0, SIZE] where that is not negative. */
static void random_row(struct rng *r, uint16_t *row, int D, enum dtype type, float size)
{
    for (int d = 0; d < D; d++) {
        float x = (float)(int16_t)rng_next(r) / 32768;
        if (size >= 0) x = fabsf(x) * size;
        row[d] = type == DTYPE_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
    }
}

/* The rows of K and V of entry I for query head H of row ROW. */
static void entry_row(const struct shape *s, const struct arrays *a, int row, int h, int i,
                      const uint16_t **k, const uint16_t **v)
{
    const int g = h / (s->H / s->G);
    size_t at = (size_t)g * (size_t)a->room;

    if (s->first == FIRST_PACKED && i < a->count[row]) {
        at = ((size_t)g * (size_t)a->stride + (size_t)i) * (size_t)s->D;
        *k = a->packed_k + at;
        *v = a->packed_v + at;
        return;
    }
    if (s->first == FIRST_ALL) {
        at += (size_t)i;
    } else if (i < a->count[row]) {
        const int set = s->sets == 1 ? 0 : s->sets == s->G ? g : h;
        at += (size_t)a->idx[(row * s->sets + set) * a->stride + i];
    } else {
        at += (size_t)(a->tail[row] + i - a->count[row] - a->base);
    }
    *k = a->k + at * (size_t)s->D;
    *v = a->v + at * (size_t)s->D;
}

static int entries_of(const struct shape *s, const struct arrays *a, int row)
{
    return s->first == FIRST_ALL ? s->pos + 1 : a->count[row] + s->pos + 1 - a->tail[row];
}

static void make_arrays(struct rng *r, const struct shape *s, struct arrays *a)
{
    const bool lists = s->first != FIRST_ALL;
    const size_t D = (size_t)s->D;

    *a = (struct arrays){0};
    a->base = s->first == FIRST_PACKED ? s->tail - (int)rng_below(r, (uint32_t)s->tail + 1) : 0;
    a->room = s->pos + 1 - a->base + (int)rng_below(r, 40);
    a->stride = s->count + (int)rng_below(r, 5) + 1;
    a->k = xmalloc(2 * D * (size_t)a->room * (size_t)s->G);
    a->v = xmalloc(2 * D * (size_t)a->room * (size_t)s->G);
    memset(a->k, 0xff, 2 * D * (size_t)a->room * (size_t)s->G);
    memset(a->v, 0xff, 2 * D * (size_t)a->room * (size_t)s->G);
    a->packed_k = xmalloc(2 * D * (size_t)a->stride * (size_t)s->G);
    a->packed_v = xmalloc(2 * D * (size_t)a->stride * (size_t)s->G);
    memset(a->packed_k, 0xff, 2 * D * (size_t)a->stride * (size_t)s->G);
    memset(a->packed_v, 0xff, 2 * D * (size_t)a->stride * (size_t)s->G);
    a->q = xmalloc(sizeof *a->q * (size_t)s->n * (size_t)s->H * D);
    for (size_t i = 0; i < (size_t)s->n * (size_t)s->H * D; i++)
        a->q[i] = (float)(2 * rng_unit(r) - !s->rising) * s->limit;

    const int sets = lists ? s->sets : 1;
    a->idx = xmalloc(sizeof *a->idx * (size_t)(s->n * sets * a->stride));
    memset(a->idx, 0xff, sizeof *a->idx * (size_t)(s->n * sets * a->stride));
    a->count = xmalloc(sizeof *a->count * (size_t)s->n);
    a->tail = xmalloc(sizeof *a->tail * (size_t)s->n);
    for (int row = 0; row < s->n; row++) {
        /* rows differ in length, the first has what the shape says */
        a->count[row] = row == 0 ? s->count : (int)rng_below(r, (uint32_t)s->count + 1);
        a->tail[row] = row == 0 || s->first == FIRST_PACKED
                           ? s->tail
                           : s->pos - (int)rng_below(r, (uint32_t)(s->pos + 1 - s->tail));
        for (int set = 0; lists && s->first == FIRST_LIST && set < s->sets; set++) {
            int *list = a->idx + (row * s->sets + set) * a->stride;
            for (int p = 0, i = 0; i < a->count[row]; p++) /* ascending, all below the tail */
                if ((int)rng_below(r, (uint32_t)(s->tail - p)) < a->count[row] - i) list[i++] = p;
        }
    }
    for (int row = 0; row < s->n; row++)
        for (int h = 0; h < s->H; h++)
            for (int i = 0, n = entries_of(s, a, row); i < n; i++) {
                const uint16_t *k, *v;
                entry_row(s, a, row, h, i, &k, &v);
                if (*k != 0xffff) continue; /* another head has filled it */
                random_row(r, (uint16_t *)(uintptr_t)k, s->D, s->type,
                           s->rising ? (float)i / (float)n : -1);
                random_row(r, (uint16_t *)(uintptr_t)v, s->D, s->type, -1);
            }
}

static void free_arrays(struct arrays *a)
{
    free(a->k), free(a->v), free(a->packed_k), free(a->packed_v);
    free(a->q), free(a->idx), free(a->count), free(a->tail);
}

/* The definition for one row and head: out [D], logits [entries], lse, and tolerances of each. */
struct expected {
    double *logits, *off; /* [entries] */
    double out[128], out_off[128], lse, lse_off;
};

static void define(const struct shape *s, const struct arrays *a, int row, int h,
                   struct expected *e)
{
    const int entries = entries_of(s, a, row);
    const float *q = a->q + ((size_t)row * (size_t)s->H + (size_t)h) * (size_t)s->D;
    const double scale = 1 / sqrt(s->D), r = s->type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
    double top = -INFINITY, largest = 0, off = 0, sum = 0, absolute[128] = {0};
    const uint16_t *k, *v;

    for (int i = 0; i < entries; i++) {
        double dot = 0, size = 0;
        entry_row(s, a, row, h, i, &k, &v);
        for (int d = 0; d < s->D; d++) {
            const double x = q[d] * value_of(k[d], s->type);
            dot += x;
            size += fabs(x);
        }
        e->logits[i] = scale * dot;
        e->off[i] = scale * size * (r * r + 2 * (s->D + 8) * U) + 0x1p-25 * s->D;
        top = fmax(top, e->logits[i]);
        largest = fmax(largest, fabs(e->logits[i]));
        off = fmax(off, e->off[i]);
    }
    memset(e->out, 0, sizeof e->out);
    for (int i = 0; i < entries; i++) {
        const double w = exp(e->logits[i] - top);
        entry_row(s, a, row, h, i, &k, &v);
        sum += w;
        for (int d = 0; d < s->D; d++) {
            e->out[d] += w * value_of(v[d], s->type);
            absolute[d] += w * fabs(value_of(v[d], s->type));
        }
    }
    const double weight = exp(2 * off + (200 + 12 * largest) * U) - 1;
    const double additions = 2 * U * (entries / 6.0 + 400);
    e->lse = top + log(sum);
    e->lse_off = weight + additions + 4 * U * (1 + fabs(e->lse));
    for (int d = 0; d < s->D; d++) {
        e->out[d] /= sum;
        e->out_off[d] = (weight + r * r + additions) * absolute[d] / sum + entries * 0x1p-32;
    }
}

/* What the kernel left, on the host. */
struct results {
    float *out, *logits, *scores, *lse;
};

static size_t result_size(const struct shape *s, size_t span, int which)
{
    const size_t n = (size_t)s->n, H = (size_t)s->H;
    return 4 * (which == 0   ? n * H * (size_t)s->D
                : which == 1 ? n * H * span
                : which == 2 ? n * (size_t)s->G * span
                             : n * H);
}

static void compare(const struct shape *s, const struct arrays *a, const struct results *got,
                    size_t span, const char *what)
{
    const int R = s->H / s->G;
    struct expected *e = xcalloc((size_t)s->H, sizeof *e);
    const int longest = s->count + s->pos + 1;
    for (int h = 0; h < s->H; h++) {
        e[h].logits = xmalloc(sizeof(double) * (size_t)longest);
        e[h].off = xmalloc(sizeof(double) * (size_t)longest);
    }
    for (int row = 0; row < s->n; row++) {
        const int entries = entries_of(s, a, row);
        int wrong = 0, touched = 0;
#pragma omp parallel for
        for (int h = 0; h < s->H; h++) define(s, a, row, h, &e[h]);
        for (int h = 0; h < s->H; h++) {
            const size_t head = (size_t)row * (size_t)s->H + (size_t)h;
            for (int d = 0; d < s->D; d++) {
                const float x = got->out[head * (size_t)s->D + (size_t)d];
                wrong += !(fabs(x - e[h].out[d]) <= e[h].out_off[d]);
            }
            CHECK(wrong == 0,
                  "%s: out, row %d head %d: %d of %d wrong, first dims %g %g, want %g %g", what,
                  row, h, wrong, s->D, got->out[head * (size_t)s->D],
                  got->out[head * (size_t)s->D + 1], e[h].out[0], e[h].out[1]);
            wrong = 0;
            if (s->lse)
                CHECK(fabs(got->lse[head] - e[h].lse) <= e[h].lse_off,
                      "%s: lse, row %d head %d: %.9g, want %.9g within %g", what, row, h,
                      got->lse[head], e[h].lse, e[h].lse_off);
            if (!s->logits) continue;
            const float *x = got->logits + head * span;
            int first = -1;
            for (int i = 0; i < entries; i++)
                if (!(fabs(x[i] - e[h].logits[i]) <= e[h].off[i]) && wrong++ == 0) first = i;
            CHECK(wrong == 0,
                  "%s: logits, row %d head %d: %d of %d wrong, the first %d: %g, want %g", what,
                  row, h, wrong, entries, first, x[first < 0 ? 0 : first],
                  e[h].logits[first < 0 ? 0 : first]);
            wrong = 0;
            for (size_t i = (size_t)entries; i < span; i++) touched += !isnan(x[i]);
        }
        for (int g = 0; s->scores && g < s->G; g++) {
            const float *x = got->scores + ((size_t)row * (size_t)s->G + (size_t)g) * span;
            for (int i = 0; i < entries; i++) {
                double best = -INFINITY, off = 0;
                for (int h = g * R; h < (g + 1) * R; h++) {
                    best = fmax(best, e[h].logits[i]);
                    off = fmax(off, e[h].off[i]);
                }
                wrong += !(fabs(x[i] - best) <= off);
            }
            for (size_t i = (size_t)entries; i < span; i++) touched += !isnan(x[i]);
        }
        CHECK(wrong == 0, "%s: scores, row %d: %d wrong", what, row, wrong);
        CHECK(touched == 0, "%s: row %d: %d entries past the last were written", what, row,
              touched);
    }
    for (int h = 0; h < s->H; h++) free(e[h].logits), free(e[h].off);
    free(e);
}

/* Runs S twice with poisoned outputs: the same bits, and those of the definition. */
static void check_shape(struct rng *r, struct shape s)
{
    static const char *const firsts[] = {"all", "list", "packed"};
    struct arrays a;
    char what[160];

    make_arrays(r, &s, &a);
    const size_t rows = (size_t)a.room * (size_t)s.G * (size_t)s.D;
    const size_t packed = (size_t)a.stride * (size_t)s.G * (size_t)s.D;
    const size_t lists = (size_t)(s.n * (s.first == FIRST_ALL ? 1 : s.sets) * a.stride);
    const size_t span = (size_t)(s.count + s.pos + 1) + rng_below(r, 6);
    struct cuda_decode c = {
        .q = gpu_put(a.q, 4 * (size_t)s.n * (size_t)s.H * (size_t)s.D),
        .k = gpu_put(a.k, 2 * rows),
        .v = gpu_put(a.v, 2 * rows),
        .room = a.room,
        .base = a.base,
        .pos = gpu_put(&s.pos, sizeof s.pos),
        .n = s.n,
        .H = s.H,
        .G = s.G,
        .D = s.D,
        .type = s.type,
        .first = s.first,
        .span = span,
        .most = s.most ? s.most : s.count + s.pos + 1,
        .work = gpu_zero(cuda_decode_work(s.n, s.H, s.G, s.D)),
    };
    if (s.first != FIRST_ALL) {
        c.idx = gpu_put(a.idx, sizeof *a.idx * lists);
        c.sets = s.sets;
        c.stride = a.stride;
        c.count = gpu_put(a.count, sizeof *a.count * (size_t)s.n);
        c.tail = gpu_put(a.tail, sizeof *a.tail * (size_t)s.n);
    }
    if (s.first == FIRST_PACKED) {
        c.packed_k = gpu_put(a.packed_k, 2 * packed);
        c.packed_v = gpu_put(a.packed_v, 2 * packed);
    }
    snprintf(what, sizeof what, "%s %s n %d H %d G %d D %d pos %d sets %d count %d tail %d base %d",
             firsts[s.first], dtype_name(s.type), s.n, s.H, s.G, s.D, s.pos, s.sets, s.count,
             s.tail, a.base);

    float *got[2][4];
    for (int time = 0; time < 2; time++) {
        c.out = gpu_put(NULL, result_size(&s, span, 0));
        c.logits = s.logits ? gpu_put(NULL, result_size(&s, span, 1)) : NULL;
        c.scores = s.scores ? gpu_put(NULL, result_size(&s, span, 2)) : NULL;
        c.lse = s.lse ? gpu_put(NULL, result_size(&s, span, 3)) : NULL;
        CHECK(cuda_decode_attention(&c, 0) == 0, "%s: %s", what, last_failure());
        const float *from[4] = {c.out, c.logits, c.scores, c.lse};
        for (int i = 0; i < 4; i++) {
            got[time][i] = xmalloc(result_size(&s, span, i));
            if (from[i]) gpu_get(got[time][i], from[i], result_size(&s, span, i));
            if (from[i] && time == 1)
                CHECK(memcmp(got[0][i], got[1][i], result_size(&s, span, i)) == 0,
                      "%s: result %d: other bits the second time", what, i);
        }
    }
    const struct results g = {got[0][0], got[0][1], got[0][2], got[0][3]};
    compare(&s, &a, &g, span, what);
    for (int i = 0; i < 8; i++) free(got[i / 4][i % 4]);
    free_arrays(&a);
    gpu_release();
}

/* Groups of 1 to 16 query heads, and one of more. */
static const struct {
    int H, G;
} heads[] = {{1, 1},  {8, 8},  {4, 2},  {6, 2},  {8, 2},  {32, 8}, {10, 2},
             {12, 2}, {14, 2}, {16, 2}, {9, 1},  {20, 2}, {11, 1}, {24, 2},
             {13, 1}, {14, 1}, {15, 1}, {32, 2}, {40, 2}};
enum { HEADS = sizeof heads / sizeof heads[0] };

static const int lengths[] = {1,  2,  15, 16, 17,  31,  32,  33,  63,   64,
                              65, 95, 96, 97, 127, 128, 129, 500, 1023, 2112};
enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

static struct shape random_shape(struct rng *r, int h, int length)
{
    struct shape s = {
        .n = 1,
        .H = heads[h].H,
        .G = heads[h].G,
        .D = rng_below(r, 2) ? 128 : 64,
        .type = rng_below(r, 2) ? DTYPE_BF16 : DTYPE_F16,
        .limit = rng_below(r, 2) ? 9 : 1,
        .sets = 1,
        .pos = length - 1,
        .logits = rng_below(r, 2),
        .scores = rng_below(r, 2),
        .lse = rng_below(r, 2),
    };
    if (rng_below(r, 2)) s.most = length + (int)rng_below(r, 200000);
    return s;
}

/* LENGTH entries, COUNT of them from a list of positions below TAIL. */
static void add_lists(struct rng *r, struct shape *s, int length, enum cuda_first first)
{
    s->first = first;
    s->count = (int)rng_below(r, (uint32_t)length); /* at least the token itself is in the tail */
    s->tail = s->count + (int)rng_below(r, 400);
    s->pos = s->tail + length - s->count - 1;
    s->sets = rng_below(r, 2) ? 1 : s->G;
    if (first == FIRST_LIST && s->H <= 16 && rng_below(r, 3) == 0) {
        s->sets = s->H;
        if (s->H != s->G) s->scores = false;
    }
}

static void all_positions(struct rng *r)
{
    for (int i = 0; i < 2 * LENGTHS; i++)
        check_shape(r, random_shape(r, (int)rng_below(r, HEADS), lengths[i % LENGTHS]));
    for (int h = 0; h < HEADS; h++) check_shape(r, random_shape(r, h, 1 + (int)rng_below(r, 700)));
}

static void lists_and_packed_rows(struct rng *r)
{
    for (int i = 0; i < 4 * LENGTHS; i++) {
        struct shape s = random_shape(r, (int)rng_below(r, HEADS), 1);
        add_lists(r, &s, lengths[i % LENGTHS], i / LENGTHS % 2 ? FIRST_LIST : FIRST_PACKED);
        check_shape(r, s);
    }
}

static void several_rows(struct rng *r)
{
    for (int i = 0; i < 12; i++) {
        struct shape s = random_shape(r, i % 6, 1);
        const int length = 1 + (int)rng_below(r, 400);
        if (i % 3)
            add_lists(r, &s, length, i % 3 == 1 ? FIRST_LIST : FIRST_PACKED);
        else
            s.pos = length - 1;
        s.n = 2 + (int)rng_below(r, 6);
        check_shape(r, s);
    }
}

/* So long that there are more blocks than run at once. */
static void long_contexts(struct rng *r)
{
    for (int D = 64; D <= 128; D += 64) {
        struct shape s = random_shape(r, 1, 40001);
        s.D = D;
        s.scores = s.lse = true;
        check_shape(r, s);
        add_lists(r, &s, 20003, FIRST_LIST);
        check_shape(r, s);
    }
}

/* Every warp meets larger and larger logits, so that what it has summed is scaled down several
 * times. With many rows a warp has many tiles. */
static void a_maximum_may_keep_rising(struct rng *r)
{
    for (int h = 1; h < HEADS; h += 3) {
        struct shape s = random_shape(r, h, 1500);
        s.n = 128 / s.G;
        s.rising = s.lse = true;
        s.logits = s.scores = false;
        s.limit = 12;
        check_shape(r, s);
    }
}

/* Logits all equal: every entry has the same share, whatever there is of it. */
static void equal_logits_share_evenly(struct rng *r)
{
    struct shape s = random_shape(r, 5, 3001);
    s.limit = 0;
    s.lse = true;
    check_shape(r, s);
}

static void refuses_what_it_does_not_take(void)
{
    struct cuda_decode c = {.n = 1, .H = 8, .G = 2, .D = 96, .type = DTYPE_BF16, .most = 1};
    const bool before = mute_failures(true);
    CHECK(cuda_decode_attention(&c, 0) == -1 && strstr(last_failure(), "head_dim 96"), "%s",
          last_failure());
    c.D = 128;
    c.type = DTYPE_F32;
    CHECK(cuda_decode_attention(&c, 0) == -1 && strstr(last_failure(), "f32"), "%s",
          last_failure());
    c.type = DTYPE_F16;
    c.G = 3;
    CHECK(cuda_decode_attention(&c, 0) == -1 && strstr(last_failure(), "3 kv heads"), "%s",
          last_failure());
    c.G = 2;
    c.first = FIRST_PACKED;
    c.sets = 8;
    CHECK(cuda_decode_attention(&c, 0) == -1 && strstr(last_failure(), "expected 1 or 2"), "%s",
          last_failure());
    mute_failures(before);
}

int main(void)
{
    if (gpu_open("test_cuda_decode")) {
        struct rng r;
        rng_seed(&r, 20);
        refuses_what_it_does_not_take();
        all_positions(&r);
        lists_and_packed_rows(&r);
        several_rows(&r);
        equal_logits_share_evenly(&r);
        a_maximum_may_keep_rising(&r);
        long_contexts(&r);
    }
    return check_report("test_cuda_decode");
}
