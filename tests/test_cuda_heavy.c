/* test_cuda_heavy.c - H2O on a GPU: the sums of attention that keys receive, its lists, and
 * prefills that evict, against their definitions. With arguments, runs the parts of those names
 * alone.
 *
 * Lists must be identical, by the sums that the GPU computed. Sums and outputs are held to bounds
 * in the manner of docs/numbers.md.
 */
#include "core/base/base.h"
#include "core/ops/cuda_state.h"
#include "tests/gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24; /* unit roundoff of float32 */

/* ---- H2O's lists, through the ops */

struct lists {
    int G, R, n, budget, recent, steps;
    bool ties;   /* weights of 0 and 1, sums of few values: many are equal, and nothing rounds */
    bool forget; /* no step is a replay */
};

/* The lists of GOT, on the device, are those of WANT. */
static void same_lists(const struct heavy *got, const struct heavy *want, const struct lists *l,
                       const char *when, int pos)
{
    const struct ops *gpu = got->kept.ops;
    const size_t stride = (size_t)got->kept.rule.stride, entries = (size_t)l->G * stride;
    int *idx = xmalloc(entries * sizeof *idx), count = -1, tail = -1, wrong = 0;
    gpu->get(idx, got->kept.idx, entries * sizeof *idx);
    gpu->get(&count, got->kept.count, sizeof count);
    gpu->get(&tail, got->kept.tail, sizeof tail);
    const int *kept = want->kept.idx;
    for (int i = 0; i < l->G && got->kept.rule.stride == want->kept.rule.stride; i++)
        wrong += memcmp(idx + (size_t)i * stride, kept + (size_t)i * stride,
                        (size_t)want->kept.count[0] * sizeof *idx) != 0;
    CHECK(wrong == 0 && count == want->kept.count[0] && tail == want->kept.tail[0] &&
              got->kept.rule.stride == want->kept.rule.stride,
          "G %d R %d n %d budget %d recent %d, %s at %d: %d lists differ, count %d tail %d, want "
          "%d %d",
          l->G, l->R, l->n, l->budget, l->recent, when, pos, wrong, count, tail,
          want->kept.count[0], want->kept.tail[0]);
    free(idx);
}

static void lists_are_right(const struct ops *gpu, struct rng *r, const struct lists *l)
{
    const struct model_config c = {.H = l->G * l->R, .G = l->G, .D = 64};
    enum { MORE = 3 }; /* steps after a second choice, right behind the last step */
    const int room = l->n + l->steps + MORE;
    const bool steps = l->steps > 0;
    const int most = l->budget < room - l->recent ? l->budget + l->recent : room;
    const struct select_rule rule = {.n_prefill = l->n,
                                     .sets = l->G,
                                     .budget = l->budget,
                                     .recent = l->recent,
                                     .room = room,
                                     .stride = most + steps};
    struct heavy got = {.kept = {.ops = gpu, .rule = rule}, .steps = steps};
    struct heavy want = {.kept = {.ops = ops_reference(), .rule = rule}, .steps = steps};
    struct step_graph graph = {0};
    if (gpu->heavy_open(&got, &c) || want.kept.ops->heavy_open(&want, &c)) {
        CHECK(false, "%s", last_failure());
        return;
    }
    const size_t H = (size_t)c.H, span = want.span, size = H * span;
    CHECK(got.span == span, "%zu, %zu", got.span, span);
    float *sums = xmalloc(size * sizeof *sums), *logits = xmalloc(size * sizeof *logits);
    float *lse = xmalloc(H * sizeof *lse);
    float *dev_logits = gpu->alloc(size * sizeof *logits, "test");
    float *dev_lse = gpu->alloc(H * sizeof *lse, "test");
    for (size_t i = 0; i < size; i++)
        if ((int)(i % span) < l->n)
            want.sums[i] = l->ties ? (float)rng_below(r, 3) : (float)rng_unit(r) * 4;
    gpu->put(got.sums, want.sums, size * sizeof *sums);
    double worst = 0;
    for (int pos = l->n; pos < l->n + l->steps + (steps ? MORE : 1); pos++) {
        if (pos == l->n || pos == l->n + l->steps) {
            gpu->heavy_keep(&got, pos, &c);
            want.kept.ops->heavy_keep(&want, pos, &c);
            same_lists(&got, &want, l, "kept", pos);
        }
        if (!steps) break;
        const int token = 0, entries = want.kept.count[0] + 1;
        memset(logits, 0xff, size * sizeof *logits);
        for (size_t h = 0; h < H; h++) {
            lse[h] = l->ties ? 0 : (float)rng_unit(r);
            for (int i = 0; i < entries; i++)
                logits[h * span + (size_t)i] =
                    l->ties ? (rng_below(r, 3) ? -INFINITY : 0) : (float)rng_unit(r) * 6 - 5;
        }
        gpu->put(dev_logits, logits, size * sizeof *logits);
        gpu->put(dev_lse, lse, H * sizeof *lse);
        if (l->forget) gpu->graph_free(&graph);
        gpu->pass_begin(&token, 1, pos, true);
        if (!gpu->replay(&graph)) {
            gpu->heavy_turn(&got, &c);
            gpu->heavy_step(&got, dev_logits, dev_lse, span, pos, &c);
            gpu->recorded(&graph, false);
        }
        CHECK(gpu->pass_end() == 0, "%s", last_failure());
        same_lists(&got, &want, l, "seen", pos); /* what a trace finds is what the step saw */
        want.kept.ops->heavy_step(&want, logits, lse, span, pos, &c);
        want.kept.ops->heavy_turn(&want, &c);
        gpu->get(sums, got.sums, size * sizeof *sums);
        for (size_t i = 0; i < size; i++) {
            const double e = fabs((double)sums[i] - want.sums[i]) / (want.sums[i] + 1e-30);
            if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
        }
    }
    /* both add so many weights, each off by its argument (below 7) and 2 ulp at most */
    CHECK(worst <= (l->ties ? 0 : 2.02 * u * (l->steps + MORE + 7 + 4)), "sums off by %g", worst);
    gpu->graph_free(&graph);
    gpu->release(dev_logits);
    gpu->release(dev_lse);
    gpu->heavy_close(&got);
    want.kept.ops->heavy_close(&want);
    free(sums);
    free(logits);
    free(lse);
}

static void lists(void)
{
    static const struct lists all[] = {
        {1, 1, 1, 1, 1, 6, false, false},         {1, 1, 40, 1, 0, 30, false, false},
        {2, 1, 40, 0, 1, 30, false, false},       {2, 4, 60, 16, 16, 40, false, false},
        {8, 4, 1500, 16, 16, 25, false, false},   {4, 7, 30, 100, 20, 25, false, false},
        {3, 3, 20, 12, 15, 30, true, false},      {2, 2, 300, 100, 0, 60, true, false},
        {1, 8, 200, 0, 50, 30, true, false},      {4, 2, 1600, 511, 1, 40, true, false},
        {2, 3, 1600, 500, 11, 40, true, false},   {2, 2, 3000, 1000, 24, 30, true, false},
        {2, 5, 3000, 1024, 1023, 30, true, true}, {4, 4, 30000, 4500, 4500, 22, false, false},
        {2, 2, 510, 400, 200, 30, true, false},   {3, 1, 900, 5000, 4, 30, false, true},
        {8, 4, 9000, 300, 300, 0, true, false},   {2, 20, 700, 90, 33, 0, false, false},
        {4, 4, 100, 300, 300, 0, false, false},   {5, 1, 100, 0, 100, 0, false, false},
    };
    const struct ops *gpu = ops_cuda(0);
    struct rng r;
    rng_seed(&r, 42);
    CHECK(gpu != NULL, "%s", last_failure());
    for (size_t i = 0; gpu && i < COUNT_OF(all); i++) lists_are_right(gpu, &r, &all[i]);
}

/* ---- H2O's prefill that evicts, through the ops */

struct segments {
    int G, R, D, n, budget, recent, segment, pass;
    enum dtype type;
    bool columns;
};

/* Both sides of it: on the device, by definition. */
struct side {
    struct heavy h;
    struct kv_layer kv;
    float *q, *out, *lse, *columns;
    struct scratch s, beside;
};

static bool open_side(struct side *p, const struct ops *ops, const struct segments *l,
                      const struct model_config *c, const float *zeros)
{
    const size_t H = (size_t)c->H, row = H * (size_t)c->D;
    const struct select_rule rule = {.n_prefill = l->n,
                                     .sets = l->G,
                                     .budget = l->budget,
                                     .recent = l->recent,
                                     .room = l->n,
                                     .stride = l->budget + l->recent};
    p->h = (struct heavy){.kept = {.ops = ops, .rule = rule}};
    p->s.ops = p->beside.ops = ops;
    p->q = ops->alloc((size_t)l->pass * row * sizeof *p->q, "test");
    p->out = ops->alloc((size_t)l->pass * row * sizeof *p->out, "test");
    p->lse = ops->alloc((size_t)l->pass * H * sizeof *p->lse, "test");
    if (ops->heavy_open(&p->h, c)) return false;
    p->columns = ops->alloc(H * p->h.span * sizeof *p->columns, "test");
    ops->put(p->columns, zeros, H * p->h.span * sizeof *zeros);
    return true;
}

static void close_side(struct side *p)
{
    const struct ops *ops = p->h.kept.ops;
    ops->heavy_close(&p->h);
    ops->release(p->q);
    ops->release(p->out);
    ops->release(p->lse);
    ops->release(p->columns);
    scratch_free(&p->s);
    scratch_free(&p->beside);
}

/* X [G, n, D] 16-bit in ROOM with NaN behind. */
static void *roomy(const void *x, const struct segments *l, int room)
{
    const size_t row = 2 * (size_t)l->D, rows = (size_t)l->n * row, all = (size_t)room * row;
    void *p = gpu_put(NULL, (size_t)l->G * all);
    CHECK(cudaMemcpy2D(p, all, x, rows, rows, (size_t)l->G, cudaMemcpyDeviceToDevice) == 0, "copy");
    return p;
}

/* What GOT [H, span] is off by at most, as a share of WANT, at the first N positions. */
static double sums_off(const float *got, size_t span, const float *want, int H, int n)
{
    double worst = 0;
    for (int i = 0; i < H * n; i++) {
        const size_t at = (size_t)(i / n) * span + (size_t)(i % n);
        const double e = fabs((double)got[at] - want[at]) / (want[at] + 1e-30);
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
    }
    return worst;
}

static void segments_are_right(const struct ops *gpu, struct rng *r, const struct segments *l)
{
    const struct model_config c = {.H = l->G * l->R, .G = l->G, .D = l->D};
    const struct lists label = {l->G, l->R, l->n, l->budget, l->recent, 0, false, false};
    const int room = l->n + 3;
    const size_t H = (size_t)c.H, row = H * (size_t)l->D, N = (size_t)l->n, P = (size_t)l->pass;
    const size_t keys = (size_t)l->G * N * (size_t)l->D;
    const bool bf16 = l->type == DTYPE_BF16;
    struct side side[2] = {{.s = {0}}}, *got = &side[0], *want = &side[1];
    struct cuda_kv d = {.room = room, .type = l->type};
    float *q, *k, *v, *sums = xcalloc(H * (N + ROW_ALIGN), sizeof *sums);
    const char *dev_q = gpu_random(r, N * row, 2, l->type, &q);
    d.k = roomy(gpu_random(r, keys, 1, l->type, &k), l, room);
    d.v = roomy(gpu_random(r, keys, 1, l->type, &v), l, room);
    got->kv.cuda = &d;
    want->kv = (struct kv_layer){.k = k, .v = v, .room = l->n};
    const bool ok =
        open_side(got, gpu, l, &c, sums) && open_side(want, ops_reference(), l, &c, sums);
    CHECK(ok, "%s", last_failure());
    float *out = xmalloc(P * row * sizeof *out), *lse = xmalloc(P * H * sizeof *lse);
    /* docs/numbers.md: a weight, on both sides; rounded are weights, outputs */
    const double logit = gpu_gamma(2 * (l->D + 8)) * 2 * sqrt(l->D);
    const double w =
        2 * (expm1(2 * logit + 176 * u + 4 * u * (2 + l->n / 16.0)) + gpu_gamma(2 * (l->n + 8)));
    const double off = 1.01 * (w + 2 * (bf16 ? 0x1p-8 : 0x1p-11)), off_sum = 3 * w;
    double worst = 0, worst_lse = 0, worst_sum = 0;
    for (int pos0 = 0, rows; ok && pos0 < l->n; pos0 += rows) {
        rows = l->n - pos0 < l->pass ? l->n - pos0 : l->pass;
        const size_t first = (size_t)pos0 * row, size = (size_t)rows * row;
        memcpy(want->q, q + first, size * sizeof *q);
        if (rows == 1)
            gpu->put(got->q, q + first, size * sizeof *q);
        else
            CHECK(cudaMemcpy(got->q, dev_q + 2 * first, 2 * size, cudaMemcpyDeviceToDevice) == 0,
                  "copy");
        CHECK(cudaDeviceSynchronize() == 0, "copies"); /* the ops have a stream of their own */
        gpu->pass_begin(NULL, rows, pos0, false);
        for (int at = 0, n; at < rows; at += n) {
            const int pos = pos0 + at, left = l->segment - pos % l->segment;
            n = left < rows - at ? left : rows - at;
            if (pos > 0 && pos % l->segment == 0) { /* both choose by the same sums */
                gpu->get(sums, got->h.sums, H * got->h.span * sizeof *sums);
                worst_sum = fmax(worst_sum, sums_off(sums, got->h.span, want->h.sums, c.H, pos));
                memcpy(want->h.sums, sums, H * got->h.span * sizeof *sums);
                for (int i = 0; i < 2; i++) side[i].h.kept.ops->heavy_keep(&side[i].h, pos, &c);
                same_lists(&got->h, &want->h, &label, "in a prefill", pos);
            }
            for (int i = 0; i < 2; i++) {
                struct side *p = &side[i];
                const struct heavy_rows a = {
                    rows,      pos0,      at,     n,
                    p->q,      p->out,    p->lse, l->columns ? p->columns : NULL,
                    p->h.span, &p->beside};
                p->h.kept.ops->heavy_attend(&p->h, &a, &p->kv, &c, &p->s);
            }
        }
        CHECK(gpu->pass_end() == 0, "%s", last_failure());

        gpu->get(out, got->out, size * (rows > 1 ? 2 : sizeof *out));
        for (size_t i = 0; i < size; i++) {
            const double x = rows > 1 ? gpu_value(out, i, l->type) : out[i];
            const double e = fabs(x - want->out[i]) / off;
            if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
        }
        gpu->get(lse, got->lse, (size_t)rows * H * sizeof *lse);
        for (size_t i = 0; i < (size_t)rows * H; i++) {
            const double e = fabs((double)lse[i] - want->lse[i]) / (w + 8 * u * fabs(want->lse[i]));
            if (!(e <= worst_lse)) worst_lse = isnan(e) ? INFINITY : e;
        }
    }
    for (int i = 0; ok && i < 1 + l->columns; i++) {
        gpu->get(sums, i ? got->columns : got->h.sums, H * got->h.span * sizeof *sums);
        worst_sum = fmax(worst_sum,
                         sums_off(sums, got->h.span, i ? want->columns : want->h.sums, c.H, l->n));
    }
    CHECK(worst <= 1 && worst_lse <= 1 && worst_sum <= off_sum,
          "G %d R %d D %d n %d budget %d recent %d segment %d pass %d: %g of the bound, lse %g, "
          "sums %g",
          l->G, l->R, l->D, l->n, l->budget, l->recent, l->segment, l->pass, worst, worst_lse,
          worst_sum / off_sum);
    close_side(got);
    close_side(want);
    free(sums);
    free(out);
    free(lse);
    gpu_release();
}

static void segments(void)
{
    static const struct segments all[] = {
        {1, 1, 64, 150, 8, 8, 20, 1000, DTYPE_F16, true},
        {2, 4, 128, 333, 16, 16, 50, 100, DTYPE_BF16, false},
        {8, 1, 64, 260, 20, 0, 64, 129, DTYPE_BF16, true}, /* a pass of 2; whole tiles */
        {3, 2, 128, 201, 0, 30, 7, 50, DTYPE_F16, true},   /* a pass of one row */
        {4, 5, 64, 90, 5, 9, 1, 40, DTYPE_BF16, true},     /* segments of one row */
        {1, 8, 128, 700, 300, 200, 33, 256, DTYPE_F16, false},
        {2, 2, 64, 641, 64, 64, 320, 128, DTYPE_BF16, true}, /* passes within a segment */
        {5, 3, 128, 120, 6, 3, 40, 1, DTYPE_BF16, true},     /* every pass is a row */
        {2, 1, 64, 100, 70, 60, 10, 64, DTYPE_F16, true},    /* nothing is left out */
        {6, 2, 64, 97, 40, 2, 96, 97, DTYPE_F16, false},
    };
    const struct ops *gpu = ops_cuda(0);
    struct rng r;
    rng_seed(&r, 43);
    CHECK(gpu != NULL, "%s", last_failure());
    for (size_t i = 0; gpu && i < COUNT_OF(all); i++) segments_are_right(gpu, &r, &all[i]);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"lists", lists}, {"segments", segments}};
    set_program_name("test_cuda_heavy");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (gpu_open("test_cuda_heavy"))
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            bool wanted = argc == 1;
            for (int k = 1; k < argc; k++) wanted = wanted || strcmp(argv[k], parts[i].name) == 0;
            if (wanted) parts[i].run();
        }
    return check_report("test_cuda_heavy");
}
