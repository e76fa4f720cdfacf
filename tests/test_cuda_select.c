/* test_cuda_select.c - selection, pooling, the window of past queries and the moves between host
 * and device, each against its definition in plain loops.
 *
 * Selections, the window and moved rows must be identical: they round nothing, or as the
 * definition does. Pooled weights and masses are held to bounds in the manner of docs/numbers.md.
 */
#include "tests/gpu.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24; /* unit roundoff of float32 */

static void *work; /* of every selection, zeroed once: shapes change from launch to launch */

enum { MOST_SETS = 32 };

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* ---- scores of many kinds */

enum kind { BELL, HEAVY, EQUAL, FEW, SPECIAL, CLOSE, RISING, TINY, KINDS };

static float draw(struct rng *r, enum kind kind, int t)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, 1e-42f, -1e-42f, 1, -1};
    const double bell =
        rng_unit(r) + rng_unit(r) + rng_unit(r) + rng_unit(r) + rng_unit(r) + rng_unit(r) - 3;
    uint32_t bits = 0x3f800000u + rng_below(r, 3000); /* CLOSE: differ in the lowest 12 bits */
    float x;

    if (kind == BELL) return (float)bell;
    if (kind == HEAVY) return expf(6 * (float)bell - 10);
    if (kind == EQUAL) return 0.25f;
    if (kind == FEW) return (float)rng_below(r, 5) - 2;
    if (kind == RISING) return (float)t;
    if (kind == TINY) bits = rng_below(r, 1u << 24); /* subnormal, or nearly */
    if (kind == SPECIAL) {
        if (rng_below(r, 3)) return special[rng_below(r, COUNT_OF(special))];
        bits = (rng_below(r, 2) << 31) | 0x7f800001u | rng_below(r, 1u << 22); /* any NaN */
    }
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ROWS rows of SPAN scores, the first N drawn, NaN behind them; the caller frees them. */
static float *draw_rows(struct rng *r, enum kind kind, int rows, size_t span, int n)
{
    float *score = xmalloc((size_t)rows * span * sizeof *score);
    memset(score, 0xff, (size_t)rows * span * sizeof *score);
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < n; t++) score[(size_t)i * span + (size_t)t] = draw(r, kind, t);
    return score;
}

/* ---- selection */

struct candidate {
    int t, kept;
    float score;
};

static int better(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->kept != y->kept) return y->kept - x->kept;
    if (isnan(x->score) != isnan(y->score)) return isnan(x->score) ? 1 : -1;
    if (x->score != y->score && !isnan(x->score)) return x->score > y->score ? -1 : 1;
    return (x->t > y->t) - (x->t < y->t);
}

static int ascending(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

/* What docs/methods.md says is selected at POS from the rows SCORE [pooled, span] of one set: idx
 * ascending; returns how many, *n the candidates. */
static int select_defined(int *idx, const float *score, const struct cuda_select *a, int pos,
                          int *n)
{
    int recent = a->recent, kept = 0;
    *n = a->candidates_all ? pos : a->n_prefill;
    if (a->window > 0 && a->n_prefill - (pos - a->window + 1) > recent)
        recent = a->n_prefill - (pos - a->window + 1);
    recent = smaller(recent, a->n_prefill);

    struct candidate *c = xmalloc((size_t)*n * sizeof *c);
    for (int t = 0; t < *n; t++) {
        float best = score[t];
        for (int p = 1; p < a->pooled; p++)
            if (score[(size_t)p * a->span + (size_t)t] > best)
                best = score[(size_t)p * a->span + (size_t)t];
        const bool at_end = t >= a->n_prefill - recent && t < a->n_prefill;
        const bool at_start = t < a->sinks && t < a->n_prefill - recent;
        c[t] = (struct candidate){.t = t, .kept = at_start || at_end, .score = best};
        kept += c[t].kept;
    }
    const int count = smaller(a->budget > kept ? a->budget : kept + 1, *n);
    qsort(c, (size_t)*n, sizeof *c, better);
    for (int i = 0; i < count; i++) idx[i] = c[i].t;
    qsort(idx, (size_t)count, sizeof *idx, ascending);
    free(c);
    return count;
}

/* Selects at POS from random scores, twice, and compares. A's pointers are set here. */
static void selects(struct rng *r, struct cuda_select a, enum kind kind, int pos)
{
    const int n = a.candidates_all ? pos : a.n_prefill;
    const size_t entries = (size_t)a.sets * (size_t)a.stride;
    float *score = draw_rows(r, kind, a.sets * a.pooled, a.span, n);
    int *got = xmalloc(entries * sizeof *got), *again = xmalloc(entries * sizeof *again);
    int *want = xmalloc((size_t)n * sizeof *want), count = 0, tail = 0, candidates;

    a.score = gpu_put(score, (size_t)(a.sets * a.pooled) * a.span * sizeof *score);
    a.count = gpu_put(NULL, sizeof *a.count);
    a.tail = gpu_put(NULL, sizeof *a.tail);
    a.pos = gpu_put(&pos, sizeof pos);
    a.work = work;
    for (int i = 0; i < 2; i++) {
        a.idx = gpu_put(NULL, entries * sizeof *a.idx);
        CHECK(cuda_select_row(&a, 0) == 0, "%s", last_failure());
        gpu_get(i ? again : got, a.idx, entries * sizeof *got);
    }
    gpu_get(&count, a.count, sizeof count);
    gpu_get(&tail, a.tail, sizeof tail);
    CHECK(memcmp(got, again, entries * sizeof *got) == 0, "n %d: two runs differ", n);
    for (int set = 0; set < a.sets; set++) {
        const int *mine = got + (size_t)set * (size_t)a.stride;
        const int k =
            select_defined(want, score + (size_t)(set * a.pooled) * a.span, &a, pos, &candidates);
        int same = 0;
        while (same < k && mine[same] == want[same]) same++;
        CHECK(same == k && count == k && tail == candidates,
              "n %d, set %d of %d x %d, budget %d, kind %d, pos %d: count %d tail %d, want %d %d; "
              "entry %d is %d, want %d",
              n, set, a.sets, a.pooled, a.budget, kind, pos, count, tail, k, candidates, same,
              same < k ? mine[same] : 0, same < k ? want[same] : 0);
        for (int i = k; i < a.stride; i++)
            if (mine[i] != -1) {
                CHECK(false, "n %d: entry %d behind the last is written", n, i);
                break;
            }
    }
    free(score);
    free(got);
    free(again);
    free(want);
    gpu_release();
}

static void selections(struct rng *r)
{
    static const int lengths[] = {1,    2,    3,    5,    31,    128,   1000,  4097,
                                  8191, 8192, 8193, 8200, 12289, 20001, 65536, 131072};
    static const int pools[] = {1, 2, 8, 9, 1, 4}, sets[] = {1, 1, 1, 2, 8, 1, 4};
    int shape = 0;

    for (size_t i = 0; i < COUNT_OF(lengths); i++)
        for (int kind = 0; kind < KINDS; kind++, shape++) {
            const int n = lengths[i], ks[] = {1, n / 64, n / 9, n / 2, n - 1, n, n + 5};
            const int k = ks[shape % (int)COUNT_OF(ks)];
            struct cuda_select a = {.n_prefill = n,
                                    .sets = n > 20001 ? 1 : sets[shape % (int)COUNT_OF(sets)],
                                    .pooled = pools[shape % (int)COUNT_OF(pools)],
                                    .budget = k > 0 ? k : 1,
                                    .refresh = 1,
                                    .most = n + 100};
            if (shape % 3 == 1) a.sinks = 1 + (int)rng_below(r, 6);
            if (shape % 3 == 2) a.recent = 1 + (int)rng_below(r, 40);
            if (shape % 5 == 3) a.window = 1 + (int)rng_below(r, 20);
            if (shape % 7 == 4) a.candidates_all = true;
            const int pos = n + (int)rng_below(r, 30);
            a.span = (size_t)pos + 1 + rng_below(r, 9);
            if (shape % 2) a.span = (a.span + 3) / 4 * 4; /* read 16 bytes at a time, or not */
            a.stride = a.budget + a.sinks + a.recent + a.window + 1 + (int)rng_below(r, 4);
            a.most = smaller(a.most, (int)a.span);
            selects(r, a, (enum kind)kind, pos);
        }
    /* the largest, and many sets of many candidates, whose keys do not fit into shared memory */
    const int M = 1 << 20;
    const struct cuda_select large = {.span = (size_t)M,
                                      .n_prefill = M,
                                      .sets = 1,
                                      .pooled = 1,
                                      .stride = 20000,
                                      .budget = 16384,
                                      .refresh = 1,
                                      .most = M};
    static const enum kind kinds[] = {BELL, EQUAL, CLOSE};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) selects(r, large, kinds[i], M);
    struct cuda_select many = {.span = 240000,
                               .n_prefill = 240000,
                               .sets = MOST_SETS,
                               .pooled = 1,
                               .stride = 256,
                               .budget = 256,
                               .refresh = 1,
                               .most = 240000};
    selects(r, many, CLOSE, 240000);
    many.span++;
    selects(r, many, BELL, 240000);
}

/* Kept tokens where they meet the budget and each other. */
static void kept_tokens(struct rng *r)
{
    static const struct {
        const char *what;
        int n, budget, sinks, recent, window;
    } cases[] = {
        {"sinks and recent fill the budget: one more", 100, 8, 4, 4, 0},
        {"sinks and recent exceed the budget", 100, 3, 4, 4, 0},
        {"sinks reach into recent", 10, 4, 8, 6, 0},
        {"recent is everything", 10, 4, 2, 50, 0},
        {"sinks are everything", 10, 4, 50, 0, 0},
        {"the window is wider than recent", 300, 20, 2, 3, 16},
        {"recent is wider than the window", 300, 30, 2, 20, 8},
        {"the window is wider than the text", 12, 4, 1, 0, 64},
        {"fewer candidates than places", 20, 64, 2, 2, 0},
        {"kept tokens over many blocks", 60000, 9000, 7000, 1500, 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        for (int all = 0; all < 2; all++)
            for (int step = 0; step < 20; step += 1 + step) {
                const int stride = cases[i].budget + cases[i].sinks + cases[i].recent + 70;
                struct cuda_select a = {.n_prefill = cases[i].n,
                                        .span = (size_t)cases[i].n + 64,
                                        .sets = 1,
                                        .pooled = 2,
                                        .stride = stride,
                                        .budget = cases[i].budget,
                                        .sinks = cases[i].sinks,
                                        .recent = cases[i].recent,
                                        .window = cases[i].window,
                                        .refresh = 1,
                                        .candidates_all = all,
                                        .most = cases[i].n + 64};
                selects(r, a, i % 2 ? SPECIAL : BELL, cases[i].n + step);
            }
}

/* Steps that are skipped leave everything as it was; a captured selection follows *pos. */
static void steps(struct rng *r)
{
    const int n = 9000, room = n + 64;
    struct cuda_select a = {.n_prefill = n,
                            .span = (size_t)room,
                            .sets = 2,
                            .pooled = 2,
                            .stride = 70,
                            .budget = 64,
                            .sinks = 4,
                            .window = 16,
                            .refresh = 3,
                            .candidates_all = true,
                            .most = room,
                            .work = work};
    int got[140], want[140], *one = xmalloc((size_t)room * sizeof *one), count = -1, tail = -1;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    a.idx = gpu_put(NULL, sizeof got);
    a.count = gpu_put(NULL, sizeof count);
    a.tail = gpu_put(NULL, sizeof tail);
    a.pos = gpu_put(NULL, sizeof *a.pos);
    a.score = gpu_put(NULL, 4 * a.span * sizeof *a.score);
    memset(want, 0xff, sizeof want);

    CHECK(cudaStreamCreate(&stream) == cudaSuccess, "stream");
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "begin");
    CHECK(cuda_select_row(&a, stream) == 0, "%s", last_failure());
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess, "end");
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "instantiate");
    for (int pos = n; pos < n + 12; pos++) {
        float *score = draw_rows(r, BELL, 4, a.span, pos);
        cudaMemcpy((float *)a.score, score, 4 * a.span * sizeof *score, cudaMemcpyHostToDevice);
        cudaMemcpy((int *)a.pos, &pos, sizeof pos, cudaMemcpyHostToDevice);
        cudaDeviceSynchronize();
        CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess, "replay");
        gpu_get(got, a.idx, sizeof got);
        gpu_get(&count, a.count, sizeof count);
        gpu_get(&tail, a.tail, sizeof tail);
        const int chosen = pos - (pos - n) % 3; /* the step whose selection stands */
        if (pos == chosen)
            for (int set = 0; set < 2; set++) {
                int candidates;
                select_defined(one, score + (size_t)(2 * set) * a.span, &a, pos, &candidates);
                memcpy(want + 70 * set, one, 64 * sizeof *one);
            }
        CHECK(memcmp(got, want, sizeof got) == 0 && count == 64 && tail == chosen,
              "pos %d: count %d, tail %d", pos, count, tail);
        free(score);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    free(one);
    gpu_release();
}

static void best_k(struct rng *r)
{
    static const int lengths[] = {1, 2, 77, 4096, 8193, 50000, 131072};
    for (size_t i = 0; i < COUNT_OF(lengths); i++)
        for (int kind = 0; kind < KINDS; kind++) {
            const int T = lengths[i], ks[] = {1, T / 512, T / 3, T - 1, T};
            const int k = ks[(kind + (int)i) % (int)COUNT_OF(ks)] + (ks[kind % 5] == 0);
            struct cuda_select a = {.n_prefill = T, .pooled = 1, .budget = k > 0 ? k : 1};
            float *score = draw_rows(r, (enum kind)kind, 1, (size_t)T, T);
            int *want = xmalloc((size_t)T * sizeof *want), *got = xmalloc((size_t)T * sizeof *got);
            const int count = select_defined(want, score, &a, T, &a.most);
            int *idx = gpu_put(NULL, (size_t)T * sizeof *idx);
            const float *on_device = gpu_put(score, (size_t)T * sizeof *score);
            CHECK(cuda_top_k(idx, on_device, T, a.budget, work, 0) == 0, "%s", last_failure());
            gpu_get(got, idx, (size_t)T * sizeof *idx);
            CHECK(memcmp(got, want, (size_t)count * sizeof *got) == 0, "top %d of %d, kind %d",
                  a.budget, T, kind);
            CHECK(count == T || got[count] == -1, "top %d of %d: written too far", a.budget, T);
            free(score);
            free(want);
            free(got);
            gpu_release();
        }
}

/* ---- pooling */

/* Relative bound of a weight exp(l - lse), lse from n logits within +-SIZE: a term of the sum is
 * off by its argument's rounding (no argument below -88 matters), 4 u of the exponential, and one
 * exponential more for each of the LOOPS + 3 times that a larger maximum is found; the sum is at
 * most 6 additions deep a loop, and 20 where threads meet. The logarithm turns that into an
 * absolute error, to which add the roundings of lse itself (twice) and of l - lse. */
static double weight_bound(int n, double size)
{
    const double loops = n / (32 * 4096) + 1, lse = size + log(n);
    return 1.01 * u * (92 + 92 * (loops + 3) + 6 * loops + 20 + 3 * lse + (size + lse) + 4);
}

static double log_sum_exp(const float *l, int n)
{
    double top = -INFINITY, sum = 0;
    for (int t = 0; t < n; t++) top = fmax(top, l[t]);
    for (int t = 0; t < n; t++) sum += exp(l[t] - top);
    return top + log(sum);
}

static void pooled_weights(struct rng *r, int H, int sets, int pos, int candidates, bool with_pos,
                           size_t span)
{
    const int n = candidates >= 0 ? candidates : pos, end = with_pos ? pos + 1 : (int)span;
    const size_t room = (size_t)sets * span;
    float *logits = draw_rows(r, BELL, H, span, n < end ? pos + 1 : n);
    float *got = xmalloc(room * sizeof *got), *again = xmalloc(room * sizeof *again);
    double *want = xcalloc((size_t)n, sizeof *want);
    for (size_t i = 0; i < (size_t)H * span; i++) logits[i] *= 6;
    const float *on_device = gpu_put(logits, (size_t)H * span * sizeof *logits);
    const int *at = with_pos ? gpu_put(&pos, sizeof pos) : NULL;
    void *scratch = gpu_zero(cuda_pool_weights_work(H));
    for (int i = 0; i < 2; i++) {
        float *score = gpu_put(NULL, room * sizeof *score);
        CHECK(cuda_pool_weights(score, on_device, span, at, candidates, H, sets, scratch, 0) == 0,
              "%s", last_failure());
        gpu_get(i ? again : got, score, room * sizeof *score);
    }
    CHECK(memcmp(got, again, room * sizeof *got) == 0, "pooled weights: two runs differ");

    const double bound = weight_bound(n, 18);
    double worst = 0;
    int wrong = 0;
    for (int set = 0; set < sets; set++) {
        const float *mine = got + (size_t)set * span;
        memset(want, 0, (size_t)n * sizeof *want);
        for (int h = set * (H / sets); h < (set + 1) * (H / sets); h++) {
            const double lse = log_sum_exp(logits + (size_t)h * span, n);
            for (int t = 0; t < n; t++)
                want[t] = fmax(want[t], exp(logits[(size_t)h * span + (size_t)t] - lse));
        }
        for (int t = 0; t < n; t++) {
            const double off = fabs(mine[t] - want[t]) / (want[t] + 1e-36 / bound);
            if (!(off <= worst)) worst = off;
        }
        for (int t = n; t < end; t++) wrong += mine[t] != 0;
        for (int t = end; t < (int)span; t++) wrong += !isnan(mine[t]); /* left alone */
    }
    CHECK(worst <= bound && wrong == 0,
          "pooled weights: H %d, sets %d, pos %d, candidates %d: off by %g of %g, %d wrong behind",
          H, sets, pos, candidates, worst, bound, wrong);
    free(logits);
    free(got);
    free(again);
    free(want);
    gpu_release();
}

static void pooling(struct rng *r)
{
    static const int lengths[] = {1, 2, 3, 4, 5, 127, 1024, 1025, 4096, 9001, 70000};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        const int pos = lengths[i], H = 1 << (i % 6);
        const size_t span = (size_t)pos + 1 + i, wide = (span + 3) / 4 * 4;
        pooled_weights(r, H, 1, pos, -1, true, wide);
        pooled_weights(r, H, H, pos, pos / 2 + 1, true, span);
        pooled_weights(r, 4 * 3, 3, pos, pos, false, i % 2 ? wide + 4 : span);
    }
    pooled_weights(r, 4, 1, 300000, 300000, true, 300004);
}

/* ---- the window of past queries */

static void look_back_defined(float *score, const float *past, int pos, int window, int sets,
                              int set, size_t reach, bool halve)
{
    const int oldest = pos - window + 1 > 0 ? pos - window + 1 : 0;
    for (size_t t = 0; t < reach; t++) score[t] = 0;
    for (int p = oldest; p <= pos; p++) {
        const float *row = past + ((size_t)(p % window) * (size_t)sets + (size_t)set) * reach;
        const float weight = halve ? ldexpf(1, p - pos) : 1;
        for (size_t t = 0; t < reach; t++) score[t] += weight * row[t];
    }
}

static void window(struct rng *r, int first, int last, int width, int sets, size_t reach, bool all)
{
    const size_t span = reach + 5, size = (size_t)width * (size_t)sets * reach;
    float *past = xcalloc(size, sizeof *past), *got = xmalloc(size * sizeof *got);
    float *want = xmalloc(reach * sizeof *want), *sum = xmalloc((size_t)sets * span * sizeof *sum);
    float *on_device = gpu_zero(size * sizeof *past);
    for (int pos = first; pos <= last; pos++) {
        const int n = all ? pos : smaller(pos + 1, (int)reach);
        float *score = draw_rows(r, HEAVY, sets, span, n);
        const float *from = gpu_put(score, (size_t)sets * span * sizeof *score);
        const int *at = gpu_put(&pos, sizeof pos);
        float *to = gpu_put(NULL, (size_t)sets * span * sizeof *to);
        CHECK(cuda_remember(on_device, from, span, at, all ? -1 : n, width, sets, reach, 0) == 0,
              "%s", last_failure());
        for (int set = 0; set < sets; set++) {
            float *row = past + ((size_t)(pos % width) * (size_t)sets + (size_t)set) * reach;
            for (size_t t = 0; t < reach; t++)
                row[t] = t < (size_t)n ? score[(size_t)set * span + t] : 0;
        }
        gpu_get(got, on_device, size * sizeof *got);
        CHECK(memcmp(got, past, size * sizeof *got) == 0, "window %d, pos %d", width, pos);
        for (int halve = 0; halve < 2; halve++) {
            CHECK(cuda_look_back(to, span, on_device, at, width, sets, reach, halve, 0) == 0, "%s",
                  last_failure());
            gpu_get(sum, to, (size_t)sets * span * sizeof *sum);
            for (int set = 0; set < sets; set++) {
                look_back_defined(want, past, pos, width, sets, set, reach, halve);
                CHECK(memcmp(sum + (size_t)set * span, want, reach * sizeof *want) == 0,
                      "window %d of %d sets, pos %d, halve %d", width, sets, pos, halve);
            }
        }
        free(score);
    }
    free(past);
    free(got);
    free(want);
    free(sum);
    gpu_release();
}

/* ---- rows between host and device */

static void moves(struct rng *r, int G, int D, int sets, int count)
{
    const int tokens = 300, stride = count + 3, room = tokens + 7;
    const size_t row = (size_t)2 * (size_t)(G * D),
                 packed = (size_t)(sets == 1 ? G : sets) * (size_t)stride * (size_t)D;
    uint16_t *host = NULL, *got = xmalloc(packed * sizeof *got);
    int *idx = xmalloc((size_t)(sets * stride) * sizeof *idx);
    CHECK(cudaHostAlloc((void **)&host, (size_t)tokens * row * sizeof *host, cudaHostAllocMapped) ==
              cudaSuccess,
          "pinned memory");
    for (size_t i = 0; i < (size_t)tokens * row; i++) host[i] = (uint16_t)rng_below(r, 60000);
    for (int i = 0; i < sets * stride; i++) idx[i] = (int)rng_below(r, (uint32_t)tokens);
    const int *where = gpu_put(idx, (size_t)(sets * stride) * sizeof *idx);
    const int *how_many = gpu_put(&count, sizeof count);
    for (int parts = PART_K; parts <= PART_BOTH; parts++) {
        void *to[2] = {gpu_put(NULL, 2 * packed), gpu_put(NULL, 2 * packed)};
        CHECK(cuda_gather_rows(to[0], to[1], host, where, how_many, sets, stride, G, D,
                               (enum cuda_parts)parts, 0) == 0,
              "%s", last_failure());
        int wrong = 0;
        for (int part = 0; part < 2; part++) {
            gpu_get(got, to[part], 2 * packed);
            for (size_t i = 0; i < packed; i++) {
                const int g = (int)(i / (size_t)(stride * D)), e = (int)(i / (size_t)D) % stride;
                const int token = idx[(sets == 1 ? 0 : g * stride) + e];
                const size_t from = (size_t)token * row + (size_t)(part * G * D) +
                                    (size_t)(g / (sets == 1 ? 1 : sets / G) * D) + i % (size_t)D;
                const bool moved = e < count && (parts & (part ? PART_V : PART_K));
                wrong += got[i] != (moved ? host[from] : 0xffff);
            }
        }
        CHECK(wrong == 0, "gather: G %d, D %d, sets %d, count %d, parts %d: %d elements", G, D,
              sets, count, parts, wrong);
    }

    float *exact[2];
    const size_t side = (size_t)G * (size_t)room * (size_t)D;
    const void *k = gpu_random(r, side, 2, DTYPE_BF16, &exact[0]);
    const void *v = gpu_random(r, side, 2, DTYPE_BF16, &exact[1]);
    const int n = tokens - 1;
    CHECK(cuda_store_rows(host, k, v, n, room, G, D, 0) == 0, "%s", last_failure());
    CHECK(cudaDeviceSynchronize() == cudaSuccess, "store");
    int wrong = 0;
    for (size_t i = 0; i < (size_t)n * row; i++) {
        const size_t t = i / row, part = i / (size_t)(G * D) % 2, g = i / (size_t)D % (size_t)G;
        const float x = exact[part][(g * (size_t)room + t) * (size_t)D + i % (size_t)D];
        wrong += bf16_to_f32(host[i]) != x;
    }
    CHECK(wrong == 0, "store: G %d, D %d: %d elements", G, D, wrong);
    cudaFreeHost(host);
    free(got);
    free(idx);
    gpu_release();
}

static void fill(size_t n, size_t skip, enum dtype type, uint64_t seed, float limit)
{
    uint16_t *out = gpu_put(NULL, (n + skip + 1) * sizeof *out);
    uint16_t *got = xmalloc((n + skip + 1) * sizeof *got);
    CHECK(cuda_fill_uniform(out + skip, n, type, seed, limit, 0) == 0, "%s", last_failure());
    gpu_get(got, out, (n + skip + 1) * sizeof *got);
    size_t wrong = (got[n + skip] != 0xffff) + (skip && got[skip - 1] != 0xffff);
    for (size_t i = 0; i < n; i++) {
        uint64_t z = seed + (i / 2 + 1) * 0x9e3779b97f4a7c15u; /* splitmix64 */
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        const uint32_t half = (uint32_t)(i % 2 ? z >> 32 : z);
        const float x = ((float)(half >> 8) * 0x1p-23f - 1) * limit;
        wrong += got[i + skip] != (type == DTYPE_BF16 ? f32_to_bf16(x) : f32_to_f16(x));
    }
    CHECK(wrong == 0, "fill: %zu values from %zu: %zu wrong", n, skip, wrong);
    free(got);
    gpu_release();
}

static void refusals(void)
{
    struct cuda_select a = {.n_prefill = 100,
                            .span = 100,
                            .sets = 1,
                            .pooled = 1,
                            .stride = 9,
                            .budget = 10,
                            .refresh = 1,
                            .most = 100,
                            .work = work};
    const bool muted = mute_failures(true);
    CHECK(cuda_select_row(&a, 0) == -1 && strstr(last_failure(), "stride 9"), "%s", last_failure());
    CHECK(cuda_top_k(NULL, NULL, 5, 6, work, 0) == -1, "%s", last_failure());
    CHECK(cuda_pool_weights(NULL, NULL, 8, NULL, -1, 4, 1, NULL, 0) == -1, "%s", last_failure());
    CHECK(cuda_gather_rows(NULL, NULL, NULL, NULL, NULL, 3, 8, 2, 64, PART_K, 0) == -1, "%s",
          last_failure());
    CHECK(cuda_store_rows(NULL, NULL, NULL, 5, 8, 2, 96, 0) == -1, "%s", last_failure());
    CHECK(cuda_fill_uniform(NULL, 5, DTYPE_F32, 1, 1, 0) == -1, "%s", last_failure());
    mute_failures(muted);
}

int main(void)
{
    if (gpu_open("test_cuda_select")) {
        struct rng r;
        rng_seed(&r, 3);
        const size_t bytes = cuda_select_work(MOST_SETS, 1 << 20);
        CHECK(cudaMalloc(&work, bytes) == cudaSuccess && cudaMemset(work, 0, bytes) == cudaSuccess,
              "%zu bytes", bytes);
        refusals();
        kept_tokens(&r);
        steps(&r);
        best_k(&r);
        selections(&r);
        pooling(&r);
        window(&r, 0, 40, 16, 1, 700,
               false); /* all of it a prefill shorter than the window first */
        window(&r, 500, 520, 7, 3, 500, false);
        window(&r, 200, 215, 5, 2, 1001, true);
        window(&r, 3, 170, 160, 1, 64, false); /* weights that vanish */
        moves(&r, 1, 64, 1, 1);
        moves(&r, 8, 128, 1, 100);
        moves(&r, 8, 128, 8, 37);
        moves(&r, 3, 64, 3, 64);
        moves(&r, 5, 128, 1, 299);
        moves(&r, 2, 64, 8, 33);
        moves(&r, 4, 128, 1, 0);
        fill(1, 0, DTYPE_BF16, 1, 1);
        fill(100003, 0, DTYPE_BF16, 7, 0.5f);
        fill(70001, 3, DTYPE_F16, ~UINT64_C(0), 1);
        cudaFree(work);
    }
    return check_report("test_cuda_select");
}
