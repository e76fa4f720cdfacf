/* test_cuda_far.c - kernels of attention that keeps its distances (infllm, streaming, infinite-lm)
 * against their plain definitions, on a GPU. With arguments, runs the parts of those names alone.
 *
 * Bounds as in test_cuda_prefill.c and docs/numbers.md.
 */
#include "core/base/base.h"
#include "core/ops/cuda_far.h"
#include "tests/gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24;

/* The largest relative error of rounding to TYPE. */
static double unit_of(enum dtype type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
}

static double value(const uint16_t *x, size_t i, enum dtype type)
{
    return type == DTYPE_BF16 ? bf16_to_f32(x[i]) : f16_to_f32(x[i]);
}

static void *fetch(const void *p, size_t bytes)
{
    void *copy = xmalloc(bytes);
    gpu_get(copy, p, bytes);
    return copy;
}

/* ---- the attention of many rows, and the weights of windows */

struct shape {
    int n, pos0, H, G, D, n_local;
    int listed, gap, list_room; /* list_room 0: the cache's own rows are listed, 0 .. */
};

/* What one row of one head sees: keys and values of LENGTH entries, the first COUNT with Q_FAR. */
struct row {
    const float *q, *q_far, *k, *v, *list_k, *list_v;
    const int *idx;
    int count, length, tail, D;
};

static const float *entry(const struct row *w, int i, const float *window, const float *list)
{
    if (i >= w->count) return window + (size_t)(w->tail + i - w->count) * (size_t)w->D;
    return list + (size_t)(w->idx ? w->idx[i] : i) * (size_t)w->D;
}

/* Its output [D], log-sum-exp and weights [length], and what they may be off by: OFF [D], and as a
 * share of a weight, which is returned. */
static double attend(double *out, double *off, double *lse, double *weight, const struct row *w,
                     enum dtype type)
{
    const int n = w->length, D = w->D;
    double top = -INFINITY, sum = 0, size = 0, loudest = 0;
    for (int i = 0; i < n; i++) {
        const float *q = i < w->count ? w->q_far : w->q, *k = entry(w, i, w->k, w->list_k);
        double dot = 0, absolute = 0;
        for (int d = 0; d < D; d++) {
            dot += (double)q[d] * k[d];
            absolute += fabs((double)q[d] * k[d]);
        }
        weight[i] = dot / sqrt(D);
        top = fmax(top, weight[i]);
        size = fmax(size, absolute / sqrt(D));
    }
    for (int i = 0; i < n; i++) sum += weight[i] = exp(weight[i] - top);
    for (int i = 0; i < n; i++) weight[i] /= sum;
    *lse = top + log(sum);

    /* a logit off by l moves a weight by exp(2 l); tiles may have 16 keys */
    const double l = gpu_gamma(2 * (D + 8)) * size;
    const double share = expm1(2 * l + 176 * u + 4 * u * (4 + n / 16.0)) + gpu_gamma(2 * (n + 8));
    for (int d = 0; d < D; d++) {
        double absolute = 0;
        out[d] = 0;
        for (int i = 0; i < n; i++) {
            const double a = weight[i] * entry(w, i, w->v, w->list_v)[d];
            out[d] += a;
            absolute += fabs(a);
            loudest = fmax(loudest, fabs(a));
        }
        off[d] = 1.01 * (share + unit_of(type)) * absolute + unit_of(type) * fabs(out[d]) +
                 (type == DTYPE_F16 ? 0x1p-25 * (n * loudest + 1) : 1e-37);
    }
    return share + 8 * u * (fabs(*lse) + fabs(top)) + gpu_gamma(n);
}

static void many_rows_are_right(struct rng *r, const struct shape *s, enum dtype type, float loud)
{
    const int T = s->pos0 + s->n, D = s->D, list_room = s->list_room ? s->list_room : T;
    const size_t rows = (size_t)s->n * (size_t)s->H, size = rows * (size_t)D;
    const size_t ring = (size_t)T + 3, H = (size_t)s->H;
    const int n_init = s->n_local / 3;
    float *q, *q_far, *k, *v, *list_k, *list_v, *sums;
    struct cuda_far_attention a = {.n = s->n,
                                   .pos0 = s->pos0,
                                   .room = T,
                                   .list_room = list_room,
                                   .listed = s->listed,
                                   .gap = s->gap,
                                   .n_local = s->n_local,
                                   .H = s->H,
                                   .G = s->G,
                                   .D = D,
                                   .type = type};
    int *idx = NULL;
    a.q = gpu_random(r, size, loud, type, &q);
    a.q_far = gpu_random(r, size, loud, type, &q_far);
    a.k = gpu_random(r, (size_t)s->G * (size_t)T * (size_t)D, 1, type, &k);
    a.v = gpu_random(r, (size_t)s->G * (size_t)T * (size_t)D, 1, type, &v);
    a.list_k = a.k, a.list_v = a.v, list_k = k, list_v = v;
    if (s->list_room) {
        a.list_k = gpu_random(r, (size_t)(s->G * list_room * D), 1, type, &list_k);
        a.list_v = gpu_random(r, (size_t)(s->G * list_room * D), 1, type, &list_v);
        idx = xcalloc((size_t)s->listed + 1, sizeof *idx);
        for (int i = 0; i < s->listed; i++) idx[i] = (int)rng_below(r, (uint32_t)list_room);
        a.idx = gpu_put(idx, ((size_t)s->listed + 1) * sizeof *idx);
    }
    a.out = gpu_put(NULL, 2 * (size + 64));
    a.lse = gpu_put(NULL, 4 * (rows + 2));
    struct cuda_far_columns c = {.sums = gpu_random(r, H * ring, 1, DTYPE_F32, &sums),
                                 .ring = (int)ring,
                                 .q = a.q,
                                 .k = a.k,
                                 .lse = a.lse,
                                 .room = T,
                                 .n = s->n,
                                 .pos0 = s->pos0,
                                 .n_init = n_init,
                                 .n_local = s->n_local,
                                 .H = s->H,
                                 .G = s->G,
                                 .D = D,
                                 .type = type};
    CHECK(cuda_far_attention(&a, NULL) == 0 && cuda_far_columns(&c, NULL) == 0, "%s",
          last_failure());
    uint16_t *got = fetch(a.out, 2 * (size + 64));
    float *got_lse = fetch(a.lse, 4 * (rows + 2)), *got_sums = fetch(c.sums, 4 * H * ring);
    double *want = xcalloc(2 * H * ring, sizeof *want), *allowed = want + H * ring;
    double worst = 0, worst_lse = 0, worst_sum = 0;

#pragma omp parallel for schedule(dynamic) reduction(max : worst, worst_lse, worst_sum)
    for (int h = 0; h < s->H; h++) {
        const size_t head = (size_t)(h / (s->H / s->G)) * (size_t)D;
        double *weight = xcalloc((size_t)(T + s->listed + 2 * D), sizeof *weight);
        double *out = weight + T + s->listed, *off = out + D, lse;
        for (int i = 0; i < s->n; i++) {
            const int pos = s->pos0 + i, edge = pos >= s->n_local ? pos - s->n_local + 1 : 0;
            const size_t at = ((size_t)i * H + (size_t)h) * (size_t)D;
            struct row w = {.q = q + at,
                            .q_far = q_far + at,
                            .k = k + head * (size_t)T,
                            .v = v + head * (size_t)T,
                            .list_k = list_k + head * (size_t)list_room,
                            .list_v = list_v + head * (size_t)list_room,
                            .idx = idx,
                            .tail = edge,
                            .D = D};
            w.count = edge - s->gap < 0 ? 0 : edge - s->gap;
            if (w.count > s->listed) w.count = s->listed;
            w.length = w.count + pos - edge + 1;
            const double share = attend(out, off, &lse, weight, &w, type);
            for (int d = 0; d < D; d++) {
                const double e = fabs(value(got, at + (size_t)d, type) - out[d]) / off[d];
                worst = e <= worst ? worst : isnan(e) ? INFINITY : e;
            }
            const double e = fabs(got_lse[(size_t)i * H + (size_t)h] - lse) / share;
            worst_lse = e <= worst_lse ? worst_lse : isnan(e) ? INFINITY : e;
            for (int t = edge; t <= pos; t++) {
                const double x = weight[w.count + t - edge];
                want[(size_t)h * ring + (size_t)t] += x;
                allowed[(size_t)h * ring + (size_t)t] += (2 * share + gpu_gamma(s->n + 8)) * x;
            }
        }
        free(weight);
        for (int t = 0; t < (int)ring; t++) { /* what is not in a window stays as it was */
            const size_t at = (size_t)h * ring + (size_t)t;
            const int first = s->pos0 - s->n_local + 1;
            const bool kept = t < n_init || t < first || t >= T;
            if (kept || t < s->pos0) want[at] = kept ? sums[at] : want[at] + sums[at];
            const double e = fabs(got_sums[at] - want[at]) /
                             (kept ? 1e-30 : allowed[at] + 4 * u * (fabs(want[at]) + 1) + 1e-37);
            worst_sum = e <= worst_sum ? worst_sum : isnan(e) ? INFINITY : e;
        }
    }
    bool behind = true;
    for (size_t i = size; i < size + 64; i++) behind = behind && got[i] == 0xffff;
    CHECK(
        worst <= 1 && worst_lse <= 1 && worst_sum <= 1 && behind,
        "%s n %d pos0 %d H %d G %d D %d window %d list %d - %d of %d: out %.3g lse %.3g sums %.3g "
        "of what is allowed, behind the last row %d",
        dtype_name(type), s->n, s->pos0, s->H, s->G, D, s->n_local, s->listed, s->gap, s->list_room,
        worst, worst_lse, worst_sum, behind);
    free(got);
    free(got_lse);
    free(got_sums);
    free(want);
    free(idx);
    gpu_release();
}

static void attention(void)
{
    static const struct shape shapes[] = {
        {1, 0, 1, 1, 64, 1, 0, 0, 0},         {5, 0, 2, 1, 64, 100, 0, 0, 0},
        {70, 0, 2, 2, 128, 9, 4, 0, 0},       {130, 33, 4, 2, 64, 17, 6, 0, 0},
        {2, 300, 3, 1, 128, 40, 200, 61, 90}, {129, 400, 2, 1, 64, 64, 300, 165, 50},
        {40, 90, 2, 1, 128, 100, 24, 6, 11},  {150, 60, 8, 1, 64, 200, 10, 0, 10},
        {64, 64, 1, 1, 128, 64, 64, 0, 0},    {200, 7, 2, 1, 64, 1, 206, 0, 0},
    };
    struct rng r;
    rng_seed(&r, 7);
    for (int type = DTYPE_F16; type <= DTYPE_BF16; type++) {
        for (size_t i = 0; i < COUNT_OF(shapes); i++)
            many_rows_are_right(&r, &shapes[i], (enum dtype)type, i % 2 ? 8 : 1);
        for (int i = 0; i < 16; i++) {
            struct shape s = {.G = 1 + (int)rng_below(&r, 2), .D = i % 2 ? 64 : 128};
            s.H = s.G * (1 + (int)rng_below(&r, 8));
            s.n = 2 + (int)rng_below(&r, 160);
            s.pos0 = (int)rng_below(&r, 200);
            s.n_local = 1 + (int)rng_below(&r, 180);
            const int edge = s.pos0 + s.n - s.n_local;
            if (i % 4) s.gap = (int)rng_below(&r, 60);
            s.listed = edge > s.gap ? edge - s.gap : 0;
            if (i % 4 && s.gap) s.list_room = 1 + (int)rng_below(&r, 300);
            if (!s.list_room) s.listed = (int)rng_below(&r, (uint32_t)(s.pos0 + s.n));
            many_rows_are_right(&r, &s, (enum dtype)type, i % 3 ? 3 : 12);
        }
    }
}

/* ---- books: means, representatives, and the end of a step */

static void means_of(struct rng *r, int n, int pos0, int group, int width, enum dtype type)
{
    float *x;
    const void *rows = gpu_random(r, (size_t)n * (size_t)width, 4, type, &x);
    const int groups = (pos0 + n - 1) / group - pos0 / group + 1;
    float *means = gpu_put(NULL, 4 * (size_t)(groups * width + 4));
    int bad = 0;
    CHECK(cuda_far_means(means, rows, n, pos0, group, width, type, NULL) == 0, "%s",
          last_failure());
    float *got = fetch(means, 4 * (size_t)(groups * width + 4));
    for (int d = 0; d < width; d++)
        for (int i = 0, of = 0; i < n; of++) {
            double sum = 0, absolute = 0;
            int rows_of = 0;
            do {
                sum += x[(size_t)i * (size_t)width + (size_t)d];
                absolute += fabs(x[(size_t)i * (size_t)width + (size_t)d]);
                rows_of++;
                i++;
            } while (i < n && (pos0 + i) % group != 0);
            bad += !(fabs(got[of * width + d] - sum / rows_of) <=
                     gpu_gamma(rows_of + 2) * absolute / rows_of);
        }
    CHECK(bad == 0 && isnan(got[groups * width]), "means of %d at %d, groups of %d: %d differ", n,
          pos0, group, bad);
    free(got);
    gpu_release();
}

static void representatives(struct rng *r, int H, int G, int D, int block, int topk,
                            enum dtype type)
{
    enum { BLOCKS = 5, N_INIT = 3 };
    const int room = N_INIT + BLOCKS * block, ring = room + 7, first = 1, offset = 11;
    const size_t rows = (size_t)G * (size_t)room, size = (size_t)BLOCKS * (size_t)(H * D);
    float *keys, *sums = xcalloc((size_t)H * (size_t)ring, sizeof *sums);
    for (int i = 0; i < H * ring; i++) sums[i] = (float)rng_below(r, 40) / 8; /* many are equal */
    struct cuda_far_reps a = {.reps = gpu_put(NULL, 2 * size),
                              .sums = gpu_put(sums, 4 * (size_t)(H * ring)),
                              .ring = ring,
                              .list_k = gpu_random(r, rows * (size_t)D, 2, type, &keys),
                              .list_room = room,
                              .shift = offset,
                              .n_init = N_INIT + offset,
                              .block = block,
                              .repr_topk = topk,
                              .H = H,
                              .G = G,
                              .D = D,
                              .type = type};
    int bad = 0;
    CHECK(cuda_far_reps(&a, first, BLOCKS, NULL) == 0, "%s", last_failure());
    uint16_t *got = fetch(a.reps, 2 * size);
    bool *taken = xcalloc((size_t)block, sizeof *taken);
    for (int b = first; b < BLOCKS; b++)
        for (int h = 0; h < H; h++) {
            double mean[128] = {0}, absolute[128] = {0};
            const int p0 = N_INIT + offset + b * block;
            memset(taken, 0, (size_t)block * sizeof *taken);
            for (int i = 0; i < topk; i++) {
                int best = -1;
                for (int t = 0; t < block; t++)
                    if (!taken[t] && (best < 0 || sums[h * ring + (p0 + t) % ring] >
                                                      sums[h * ring + (p0 + best) % ring]))
                        best = t;
                taken[best] = true;
                for (int d = 0; d < D; d++) {
                    const float k = keys[(h / (H / G) * room + p0 + best - offset) * D + d];
                    mean[d] += k / topk;
                    absolute[d] += fabs(k) / topk;
                }
            }
            for (int d = 0; d < D; d++) {
                const double is = value(got, (size_t)((b * H + h) * D + d), type);
                bad += !(fabs(is - mean[d]) <=
                         unit_of(type) * fabs(mean[d]) + gpu_gamma(topk + 2) * absolute[d] + 1e-7);
            }
        }
    bool before = true;
    for (int i = 0; i < first * H * D; i++) before = before && got[i] == 0xffff;
    CHECK(bad == 0 && before, "%d of %d tokens, H %d G %d D %d: %d values differ", topk, block, H,
          G, D, bad);
    free(got);
    free(taken);
    free(sums);
    gpu_release();
}

/* The step at POS: halves joined, logits behind COUNT others, weights added once, and a block more
 * where one is full. */
static void join_of(struct rng *r, int pos, int n_local, int block)
{
    enum { H = 4, G = 2, D = 64, N_INIT = 5, COUNT = 9, MOST = 20 };
    const int edge = pos >= n_local ? pos - n_local + 1 : 0, length = pos - edge + 1;
    const int ring = n_local + block + 3, room = pos + 1, blocks = pos + 1 - N_INIT - n_local;
    const int now = blocks < block ? 0 : blocks / block;
    const bool cut = blocks >= block && blocks % block == 0;
    const size_t span = 64 + (size_t)n_local, window_span = (size_t)(n_local + 15) / 16 * 16;
    const int counts[3] = {COUNT, edge, pos};
    const int *on_gpu = gpu_put(counts, sizeof counts);
    float *out[2], *lse[2], *window, *sums;
    struct cuda_far_join a = {.out = gpu_put(NULL, 4 * H * D),
                              .lse = gpu_put(NULL, 4 * H),
                              .list_out = gpu_random(r, H * D, 1, DTYPE_F32, &out[0]),
                              .list_lse = gpu_random(r, H, 3, DTYPE_F32, &lse[0]),
                              .window_out = gpu_random(r, H * D, 1, DTYPE_F32, &out[1]),
                              .window_lse = gpu_random(r, H, 3, DTYPE_F32, &lse[1]),
                              .window = gpu_random(r, H * window_span, 3, DTYPE_F32, &window),
                              .window_span = window_span,
                              .count = on_gpu,
                              .tail = on_gpu + 1,
                              .pos = on_gpu + 2,
                              .logits = gpu_put(NULL, 4 * H * span),
                              .span = span,
                              .sums = gpu_random(r, (size_t)(H * ring), 1, DTYPE_F32, &sums),
                              .counted = gpu_zero(4 * H),
                              .ring = ring,
                              .list_k = gpu_zero(2 * (size_t)(G * room * D)),
                              .list_room = room,
                              .reps = gpu_put(NULL, 2 * MOST * H * D),
                              .n_init = N_INIT,
                              .n_local = n_local,
                              .block = block,
                              .repr_topk = 1,
                              .most_blocks = MOST,
                              .H = H,
                              .G = G,
                              .D = D,
                              .type = DTYPE_BF16};
    CHECK(cuda_far_join(&a, NULL) == 0 && cuda_far_join(&a, NULL) == 0, "%s", last_failure());
    float *got = fetch(a.out, 4 * H * D), *got_lse = fetch(a.lse, 4 * H);
    float *logits = fetch(a.logits, 4 * H * span),
          *got_sums = fetch(a.sums, 4 * (size_t)(H * ring));
    uint16_t *reps = fetch(a.reps, 2 * MOST * H * D);
    int bad = 0, bad_sums = 0, bad_logits = 0, bad_reps = 0;
    for (int h = 0; h < H; h++) {
        const double x = exp(lse[0][h]), y = exp(lse[1][h]), all = log(x + y);
        bad += !(fabs(got_lse[h] - all) <= 1e-6 * (1 + fabs(all)));
        for (int d = h * D; d < (h + 1) * D; d++)
            bad += !(fabs(got[d] - (x * out[0][d] + y * out[1][d]) / (x + y)) <= 1e-6);
        for (int i = 0; i < (int)span; i++) {
            const float is = logits[(size_t)h * span + (size_t)i];
            const bool mine = i >= COUNT && i < COUNT + length;
            bad_logits +=
                mine ? is != window[(size_t)h * window_span + (size_t)(i - COUNT)] : !isnan(is);
        }
        for (int p = edge; p <= pos; p++) { /* the second call is the same step again */
            const double w = exp(window[(size_t)h * window_span + (size_t)(p - edge)] - all);
            if (p < N_INIT) continue;
            float *sum = &sums[h * ring + p % ring];
            *sum = (float)((p == pos ? 0 : *sum) + w);
        }
    }
    for (int i = 0; i < H * ring; i++)
        bad_sums += !(fabs(got_sums[i] - sums[i]) <= 1e-6 * (1 + fabs(sums[i])));
    for (int i = 0; i < MOST * H * D; i++) /* its keys are 0 */
        bad_reps += reps[i] != (cut && i / (H * D) == now - 1 ? 0 : 0xffff);
    CHECK(!bad && !bad_sums && !bad_logits && !bad_reps,
          "at %d, window %d, blocks of %d: %d outputs, %d sums, %d logits, %d of representatives "
          "differ",
          pos, n_local, block, bad, bad_sums, bad_logits, bad_reps);
    free(got);
    free(got_lse);
    free(logits);
    free(got_sums);
    free(reps);
    gpu_release();
}

static void books(void)
{
    struct rng r;
    rng_seed(&r, 9);
    means_of(&r, 100, 37, 16, 128, DTYPE_BF16);
    means_of(&r, 5, 0, 64, 264, DTYPE_F16);
    means_of(&r, 40, 3, 1, 1024, DTYPE_BF16);
    representatives(&r, 4, 2, 64, 16, 4, DTYPE_BF16);
    representatives(&r, 3, 1, 128, 300, 7, DTYPE_F16);
    representatives(&r, 2, 2, 128, 1, 1, DTYPE_BF16);
    representatives(&r, 2, 1, 64, 33, 33, DTYPE_F16);
    for (int pos = 0; pos < 70; pos++) join_of(&r, pos, 20, 8);
    join_of(&r, 900, 700, 64);
}

/* ---- slots */

struct simulated {
    int *block, n; /* of a slot, -1 */
    double *priority;
};

static int find(const int *list, int n, int x)
{
    for (int i = 0; i < n; i++)
        if (list[i] == x) return i;
    return -1;
}

/* One block after the other gets a slot: a free one, or that of the least priority not chosen. */
static int use(struct simulated *s, const int *chosen, int n, int cached, int away, double step)
{
    int missed = 0;
    for (int i = 0; i < n && chosen[i] < away; i++) {
        int slot = find(s->block, s->n, chosen[i]);
        if (slot < 0) {
            missed++;
            slot = s->n < cached ? s->n++ : -1;
            for (int k = 0, full = slot < 0; full && k < s->n; k++)
                if (find(chosen, n, s->block[k]) < 0 &&
                    (slot < 0 || s->priority[k] < s->priority[slot] ||
                     (s->priority[k] == s->priority[slot] && s->block[k] < s->block[slot])))
                    slot = k;
            s->block[slot] = chosen[i];
        }
        s->priority[slot] = step;
    }
    return missed;
}

static void slots_of(struct rng *r, int blocks, int away, int cached, int topk, bool scored)
{
    enum { H = 3, BLOCK = 5, N_INIT = 2, STEPS = 60 };
    const size_t span = (size_t)(N_INIT + topk * BLOCK + 1);
    const double decay = 0.5;
    struct simulated s = {.n = 0};
    unsigned long long *missed = gpu_zero(sizeof *missed), found, want = 0;
    struct cuda_far_cache c = {.slot = gpu_put(NULL, 4 * (size_t)blocks),
                               .block = gpu_zero(4 * (size_t)cached),
                               .used_at = gpu_zero(4 * (size_t)cached),
                               .priority = gpu_zero(8 * (size_t)cached),
                               .state = gpu_zero(8),
                               .fetch = gpu_zero(4 * (size_t)(1 + 2 * topk)),
                               .cached = cached,
                               .topk = topk,
                               .away_blocks = away};
    int *chosen = xcalloc((size_t)topk + 1, sizeof *chosen), bad = 0;
    float *logits = xcalloc(H * span, sizeof *logits);
    const float lse[H] = {1, 0.5f, 2};
    const float *on_gpu_lse = gpu_put(lse, sizeof lse);
    s.block = xcalloc((size_t)cached, sizeof *s.block);
    s.priority = xcalloc((size_t)cached, sizeof *s.priority);
    for (int step = 1; step <= STEPS; step++) {
        int n = 0; /* some of those near a place that moves, ascending */
        for (int b = 0; b < blocks && n < topk; b++)
            if (rng_below(r, 5) < (uint32_t)(abs(b - step * blocks / STEPS) < topk ? 3 : 1))
                chosen[n++] = b;
        for (size_t i = 0; i < H * span; i++) logits[i] = -(float)rng_below(r, 64) / 8;
        const int *on_gpu = gpu_put(chosen, 4 * (size_t)topk), *count = gpu_put(&n, sizeof n);
        const float *of = gpu_put(logits, H * span * sizeof *logits);
        CHECK(cuda_far_slots(&c, on_gpu, count, scored, missed, NULL) == 0 &&
                  (!scored || cuda_far_reward(&c, on_gpu, count, of, span, on_gpu_lse, N_INIT,
                                              BLOCK, H, decay, NULL) == 0),
              "%s", last_failure());
        want += (unsigned)use(&s, chosen, n, cached, away, scored ? 0 : step);
        for (int k = 0; k < s.n && scored; k++) s.priority[k] *= decay;
        for (int i = 0; i < n && scored && chosen[i] < away; i++)
            for (int e = 0; e < H * BLOCK; e++)
                s.priority[find(s.block, s.n, chosen[i])] += exp(
                    logits[(size_t)(e / BLOCK) * span + (size_t)(N_INIT + i * BLOCK + e % BLOCK)] -
                    lse[e / BLOCK]);
        int *slot = fetch(c.slot, 4 * (size_t)blocks), *block = fetch(c.block, 4 * (size_t)cached);
        double *priority = fetch(c.priority, 8 * (size_t)cached);
        for (int b = 0; b < blocks; b++) bad += slot[b] != find(s.block, s.n, b);
        for (int k = 0; k < s.n; k++)
            bad += block[k] != s.block[k] ||
                   !(fabs(priority[k] - s.priority[k]) <= 1e-5 * (1 + s.priority[k]));
        free(slot);
        free(block);
        free(priority);
    }
    gpu_get(&found, missed, sizeof found);
    CHECK(bad == 0 && found == want && want > 0,
          "%d of %d blocks away, %d slots, %d chosen, scored %d: %d entries differ, %llu missing, "
          "want %llu",
          away, blocks, cached, topk, scored, bad, found, want);
    free(chosen);
    free(logits);
    free(s.block);
    free(s.priority);
    gpu_release();
}

static void slots(void)
{
    struct rng r;
    rng_seed(&r, 5);
    for (int scored = 0; scored < 2; scored++) {
        slots_of(&r, 40, 40, 8, 5, scored);
        slots_of(&r, 40, 33, 6, 6, scored);
        slots_of(&r, 12, 12, 12, 3, scored);
        slots_of(&r, 1500, 1400, 1100, 1050, scored);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"attention", attention}, {"books", books}, {"slots", slots}};
    set_program_name("test_cuda_far");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (gpu_open("test_cuda_far"))
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            bool wanted = argc == 1;
            for (int k = 1; k < argc; k++) wanted = wanted || strcmp(argv[k], parts[i].name) == 0;
            if (wanted) parts[i].run();
        }
    return check_report("test_cuda_far");
}
