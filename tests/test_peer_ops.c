/* test_peer_ops.c - the ops of H2O and Quest, and lists that rows share, by hand and against slow
 * definitions. */
#include "core/base/base.h"
#include "core/ops/ops.h"
#include "tests/check.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static float *random_floats(struct rng *r, size_t n)
{
    float *f = xmalloc(n * sizeof *f);
    for (size_t i = 0; i < n; i++) f[i] = (float)(2 * rng_unit(r) - 1);
    return f;
}

/* ---- views that all rows share */

/* One list for all rows gives what a copy of it for each row gives, whatever the counts. */
static void shared_lists_are_like_copies(void)
{
    const struct ops *const backends[] = {ops_cpu(NULL), ops_reference()};
    struct rng r;
    rng_seed(&r, 3);
    for (int i = 0; i < 40; i++) {
        const struct ops *ops = backends[i % 2];
        const int G = 1 + (int)rng_below(&r, 3), R = 1 + (int)rng_below(&r, 4), n = 5, T = 90;
        const struct model_config c = {.H = G * R, .G = G, .D = 20};
        const int P = padded_width(c.D), sets = i % 3 == 0 ? 1 : i % 3 == 1 ? G : G * R;
        const size_t keys = (size_t)G * 128 * (size_t)P, rows = (size_t)n * (size_t)c.H;
        float *k = random_floats(&r, keys), *v = random_floats(&r, keys);
        float *q = random_floats(&r, rows * (size_t)P);
        float *out[2] = {xcalloc(rows * 20, sizeof *q), xcalloc(rows * 20, sizeof *q)};
        const struct kv_layer kv = {.k = k, .v = v, .room = 128};
        int list[12][11], copies[5][12][11], count[5], tail[5];
        struct scratch s = {0};
        for (int set = 0; set < sets; set++)
            for (int t = 0, at = (int)rng_below(&r, 5); t < 11;
                 t++, at += 1 + (int)rng_below(&r, 5))
                list[set][t] = at;
        for (int row = 0; row < n; row++) {
            count[row] = (int)rng_below(&r, 12);
            tail[row] = 70 + (int)rng_below(&r, 5);
            memcpy((int *)copies + (size_t)row * (size_t)sets * 11, list,
                   (size_t)sets * sizeof *list);
        }
        struct attn_view view = {(int *)copies, false, sets, 11, count, tail};
        ops->attend_rows(out[0], q, &kv, n, T - n, 1, view, (struct attn_seen){0}, &c, &s);
        view.idx = (int *)list;
        view.shared = true;
        ops->attend_rows(out[1], q, &kv, n, T - n, 1, view, (struct attn_seen){0}, &c, &s);
        CHECK(memcmp(out[0], out[1], rows * 20 * sizeof **out) == 0, "%s: %d sets of %d heads",
              ops->name, sets, c.H);
        free(k);
        free(v);
        free(q);
        free(out[0]);
        free(out[1]);
        scratch_free(&s);
    }
}

/* ---- H2O's sums and lists */

static struct heavy open_heavy(const struct model_config *c, int budget, int recent, int room,
                               bool steps)
{
    const int all = budget + recent < room ? budget + recent : room;
    struct heavy h = {.kept = {.ops = ops_cpu(NULL),
                               .rule = {.n_prefill = room,
                                        .sets = c->G,
                                        .budget = budget,
                                        .recent = recent,
                                        .room = room,
                                        .stride = all + steps}},
                      .steps = steps};
    CHECK(h.kept.ops->heavy_open(&h, c) == 0, "%s", last_failure());
    return h;
}

/* Weights of one head: 5 1 4 4 0 4 2 3 over eight positions. */
static void heavy_by_hand(void)
{
    static const float sums[] = {5, 1, 4, 4, 0, 4, 2, 3};
    static const struct {
        int budget, recent, n, count, want[8];
    } cases[] = {
        {2, 2, 8, 4, {0, 2, 6, 7}},    /* of three fours the lowest */
        {3, 1, 8, 4, {0, 2, 3, 7}},    /* the next */
        {0, 3, 8, 3, {5, 6, 7}},       /* a window */
        {3, 0, 8, 3, {0, 2, 3}},       /* no window */
        {3, 2, 4, 4, {0, 1, 2, 3}},    /* not more than there is room for */
        {3, 2, 5, 5, {0, 1, 2, 3, 4}}, /* exactly */
        {3, 2, 6, 5, {0, 2, 3, 4, 5}}, /* one more: the 1 goes; 0 is recent */
    };
    const struct model_config c = {.H = 1, .G = 1, .D = 8};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct heavy h = open_heavy(&c, cases[i].budget, cases[i].recent, 8, false);
        memcpy(h.sums, sums, sizeof sums);
        h.kept.ops->heavy_keep(&h, cases[i].n, &c);
        CHECK(h.kept.count[0] == cases[i].count && h.kept.tail[0] == cases[i].n, "case %zu: %d, %d",
              i, h.kept.count[0], h.kept.tail[0]);
        for (int k = 0; k < cases[i].count; k++)
            CHECK(h.kept.idx[k] == cases[i].want[k], "case %zu: [%d] is %d", i, k, h.kept.idx[k]);
        h.kept.ops->heavy_close(&h);
    }
}

/* Steps by hand, each of which gives every token it sees a weight of 1: of equals the higher
 * goes; the same step again, as a bench runs it, adds weights and nothing else. */
static void steps_by_hand(void)
{
    static const float sums[] = {2, 1, 1, 1, 3}, logits[8] = {0};
    static const int want[3][4] = {{0, 1, 4, 5}, {0, 4, 5, 6}, {0, 4, 5, 6}};
    const struct model_config c = {.H = 1, .G = 1, .D = 8};
    const float lse = 0;
    struct heavy h = open_heavy(&c, 2, 2, 8, true);
    memcpy(h.sums, sums, sizeof sums);
    h.kept.ops->heavy_keep(&h, 5, &c); /* 0 1 3 4 */
    for (int step = 0; step < 3; step++) {
        const int pos = step == 0 ? 5 : 6;
        h.kept.ops->heavy_step(&h, logits, &lse, 8, pos, &c);
        CHECK(h.kept.tail[0] <= pos || step == 2, "step %d: the list has changed", step);
        h.kept.ops->heavy_turn(&h, &c);
        bool same = h.kept.count[0] == 4 && h.kept.tail[0] == pos + 1;
        for (int i = 0; same && i < 4; i++) same = h.kept.idx[i] == want[step][i];
        CHECK(same, "step %d: %d of %d %d %d %d", step, h.kept.count[0], h.kept.idx[0],
              h.kept.idx[1], h.kept.idx[2], h.kept.idx[3]);
    }
    CHECK(h.sums[0] == 5 && h.sums[1] == 3 && h.sums[6] == 2 && h.sums[7] == 0, "%g %g %g %g",
          h.sums[0], h.sums[1], h.sums[6], h.sums[7]);
    h.kept.ops->heavy_close(&h);
}

/* What was left out has no more weight than what was kept then, and gains none: so after any number
 * of steps the list is what a choice among all positions so far would be. */
static void steps_keep_what_a_choice_among_all_would(void)
{
    struct rng r;
    rng_seed(&r, 8);
    for (int i = 0; i < 60; i++) {
        const int G = 1 + (int)rng_below(&r, 3), R = 1 + (int)rng_below(&r, 4), n = 40, steps = 30;
        const int budget = (int)rng_below(&r, 30), recent = (int)rng_below(&r, 30) + !budget;
        const struct model_config c = {.H = G * R, .G = G, .D = 8};
        struct heavy h = open_heavy(&c, budget, recent, n + steps, true), all;
        double *sums = xcalloc((size_t)c.H * (size_t)(n + steps), sizeof *sums);
        for (int head = 0; head < c.H; head++)
            for (int t = 0; t < n; t++) /* few values: many ties */
                sums[head * (n + steps) + t] = h.sums[(size_t)head * h.span + (size_t)t] =
                    (float)rng_below(&r, 9) / 4;
        h.kept.ops->heavy_keep(&h, n, &c);
        for (int step = 0; step < steps; step++) {
            const int pos = n + step, length = h.kept.count[0] + 1;
            float logits[12][80], lse[12];
            for (int head = 0; head < c.H; head++) {
                const int *idx = h.kept.idx + head / R * h.kept.rule.stride;
                lse[head] = 2;
                for (int k = 0; k < length; k++) {
                    /* no ties where a float and a double may round apart */
                    logits[head][k] = (float)(2 * rng_unit(&r) - 1);
                    sums[head * (n + steps) + (k + 1 < length ? idx[k] : pos)] +=
                        exp((double)logits[head][k] - 2);
                }
            }
            h.kept.ops->heavy_step(&h, logits[0], lse, 80, pos, &c);
            h.kept.ops->heavy_turn(&h, &c);
            all = open_heavy(&c, budget, recent, n + steps, false);
            for (int head = 0; head < c.H; head++)
                for (int t = 0; t <= pos; t++) {
                    const double want = sums[head * (n + steps) + t];
                    const float got = h.sums[(size_t)head * h.span + (size_t)t];
                    CHECK(fabs(got - want) <= 1e-5 * (1 + want), "sum of %d: %g, want %g", t, got,
                          want);
                    all.sums[(size_t)head * all.span + (size_t)t] = got;
                }
            h.kept.ops->heavy_keep(&all, pos + 1, &c);
            bool same = h.kept.count[0] == all.kept.count[0] && h.kept.tail[0] == pos + 1;
            for (int g = 0; same && g < G; g++)
                same = memcmp(h.kept.idx + g * h.kept.rule.stride,
                              all.kept.idx + g * all.kept.rule.stride,
                              (size_t)h.kept.count[0] * sizeof(int)) == 0;
            CHECK(same, "G %d R %d budget %d recent %d step %d", G, R, budget, recent, step);
            h.kept.ops->heavy_close(&all);
        }
        h.kept.ops->heavy_close(&h);
        free(sums);
    }
}

/* Keys stand at their own positions already, so what the rows of a segment see is a shorter cache:
 * the list, then what follows it, plainly causal. CUDA attends so. */
static void segments_see_a_shorter_cache(void)
{
    const struct ops *const backends[] = {ops_cpu(NULL), ops_reference()}, *plain = backends[1];
    struct rng r;
    rng_seed(&r, 33);
    for (int i = 0; i < 60; i++) {
        const int G = 1 + (int)rng_below(&r, 3), R = 1 + (int)rng_below(&r, 4), D = 16;
        const int n = 30 + (int)rng_below(&r, 60), budget = (int)rng_below(&r, 15);
        const int segment = 1 + (int)rng_below(&r, 40), pass = 1 + (int)rng_below(&r, 50);
        const struct model_config c = {.H = G * R, .G = G, .D = D};
        struct heavy h = open_heavy(&c, budget, (int)rng_below(&r, 15) + !budget, n, false);
        const size_t H = (size_t)c.H, row = H * (size_t)D, head = 128 * (size_t)D;
        float *q = random_floats(&r, (size_t)n * row), *k = random_floats(&r, (size_t)G * head);
        float *v = random_floats(&r, (size_t)G * head);
        const struct kv_layer kv = {.k = k, .v = v, .room = 128};
        const struct kv_layer shorter = {.k = xcalloc((size_t)G * head, sizeof *k),
                                         .v = xcalloc((size_t)G * head, sizeof *v),
                                         .room = 128};
        float *out[2] = {xcalloc((size_t)n * row, sizeof *q), xcalloc((size_t)n * row, sizeof *q)};
        float *lse[2] = {xcalloc((size_t)n * H, sizeof *q), xcalloc((size_t)n * H, sizeof *q)};
        float *columns = xcalloc(H * (size_t)n, sizeof *columns);
        float *want = xcalloc(H * (size_t)n, sizeof *want), *own = xmalloc(H * 128 * sizeof *own);
        struct scratch s = {0}, beside = {0};
        double worst = 0;
        h.kept.ops = backends[i % 2];
        for (int pos = 0, rows; pos < n; pos += rows) {
            const int left[] = {segment - pos % segment, pass - pos % pass, n - pos};
            rows = left[0] < left[1] ? left[0] : left[1];
            rows = rows < left[2] ? rows : left[2];
            if (pos > 0 && pos % segment == 0) h.kept.ops->heavy_keep(&h, pos, &c);
            const int pos0 = pos / pass * pass, count = h.kept.count[0], tail = h.kept.tail[0];
            const size_t of_pass = (size_t)pos0;
            const struct heavy_rows a = {.rows = n - pos0 < pass ? n - pos0 : pass,
                                         .pos0 = pos0,
                                         .from = pos - pos0,
                                         .n = rows,
                                         .q = q + of_pass * row,
                                         .out = out[0] + of_pass * row,
                                         .lse = lse[0] + of_pass * H,
                                         .columns = i % 3 ? columns : NULL,
                                         .columns_span = (size_t)n,
                                         .beside = &beside};
            h.kept.ops->heavy_attend(&h, &a, &kv, &c, &s);

            const int at = count + pos - tail, end = at + rows; /* in the shorter cache */
            for (int j = 0; j < G * end; j++) {
                const int *idx = h.kept.idx + j / end * h.kept.rule.stride;
                const int t = j % end < count ? idx[j % end] : tail + j % end - count;
                const size_t to = (size_t)(j / end) * head + (size_t)(j % end * D);
                memcpy(shorter.k + to, k + (size_t)(j / end) * head + (size_t)(t * D),
                       (size_t)D * sizeof *k);
                memcpy(shorter.v + to, v + (size_t)(j / end) * head + (size_t)(t * D),
                       (size_t)D * sizeof *v);
            }
            memset(own, 0, H * 128 * sizeof *own);
            plain->attend_all(out[1] + (size_t)pos * row, q + (size_t)pos * row, &shorter, rows, at,
                              &c, lse[1] + (size_t)pos * H, &s);
            plain->attn_columns(own, 128, q + (size_t)pos * row, lse[1] + (size_t)pos * H, &shorter,
                                rows, at, &c, &s);
            for (int j = 0; j < c.H * end; j++) {
                const int *idx = h.kept.idx + j / end / R * h.kept.rule.stride;
                want[j / end * n + (j % end < count ? idx[j % end] : tail + j % end - count)] +=
                    own[j / end * 128 + j % end];
            }
        }
        for (size_t j = 0; j < (size_t)n * row; j++)
            worst = fmax(worst, fabs((double)out[0][j] - out[1][j]));
        for (size_t j = 0; j < (size_t)n * H; j++)
            worst = fmax(worst, fabs((double)lse[0][j] - lse[1][j]));
        for (size_t j = 0; j < (size_t)n * H; j++) {
            const float sum = h.sums[j / (size_t)n * h.span + j % (size_t)n];
            worst = fmax(worst, fabs((double)sum - want[j]) / (1 + want[j]));
            if (i % 3) CHECK(columns[j] == sum, "columns[%zu]: %g, %g", j, columns[j], sum);
        }
        CHECK(worst <= 1e-5, "%s G %d R %d n %d segment %d pass %d: off by %.2e", h.kept.ops->name,
              G, R, n, segment, pass, worst);
        h.kept.ops->heavy_close(&h);
        scratch_free(&s);
        scratch_free(&beside);
        free(shorter.k);
        free(shorter.v);
        free(q);
        free(k);
        free(v);
        for (int j = 0; j < 2; j++) {
            free(out[j]);
            free(lse[j]);
        }
        free(columns);
        free(want);
        free(own);
    }
}

/* ---- Quest's bounds */

static void bounds_hold_and_best_pages_are_chosen(void)
{
    struct rng r;
    rng_seed(&r, 21);
    for (int i = 0; i < 60; i++) {
        const int G = 1 + (int)rng_below(&r, 3), R = 1 + (int)rng_below(&r, 8), n = 3;
        const int size = 1 + (int)rng_below(&r, 20), count = 1 + (int)rng_below(&r, 12);
        const int best = 1 + (int)rng_below(&r, (uint32_t)count), T = count * size;
        const struct model_config c = {
            .H = G * R, .G = G, .D = (int[]){2, 12, 16, 40, 64}[rng_below(&r, 5)]};
        const int P = padded_width(c.D), D = c.D;
        float *k = random_floats(&r, (size_t)(G * T * P));
        float *q = random_floats(&r, (size_t)(n * c.H * P));
        for (int j = 0; j < G * T * P; j++) k[j] = j % P < D ? k[j] : 0;
        for (int j = 0; j < n * c.H * P; j++) q[j] = j % P < D ? q[j] : 0;
        const struct kv_layer kv = {.k = k, .room = T};
        struct scratch s = {0};
        struct pages p = {.size = size,
                          .count = count,
                          .best = best,
                          .chosen = {.ops = ops_cpu(NULL),
                                     .rule = {.n_prefill = T,
                                              .sets = G,
                                              .budget = best * size,
                                              .room = T,
                                              .stride = best * size}}};
        CHECK(p.chosen.ops->pages_open(&p, &kv, &c) == 0, "%s", last_failure());
        p.chosen.ops->pages_choose(&p, q, n, T, &c, &s);
        for (int row = 0; row < n; row++)
            for (int g = 0; g < G; g++) {
                double bound[12];
                const int *idx = p.chosen.idx + (row * G + g) * best * size;
                for (int page = 0; page < count; page++) {
                    double most = -INFINITY; /* of any key of the page with any head */
                    bound[page] = -INFINITY;
                    for (int h = g * R; h < (g + 1) * R; h++) {
                        const float *qh = q + (size_t)(row * c.H + h) * (size_t)P;
                        double sum = 0;
                        for (int d = 0; d < D; d++) {
                            float low = INFINITY, high = -INFINITY;
                            for (int t = page * size; t < (page + 1) * size; t++) {
                                low = fminf(low, k[(size_t)(g * T + t) * (size_t)P + (size_t)d]);
                                high = fmaxf(high, k[(size_t)(g * T + t) * (size_t)P + (size_t)d]);
                            }
                            sum += fmax((double)qh[d] * low, (double)qh[d] * high);
                        }
                        bound[page] = fmax(bound[page], sum);
                        for (int t = page * size; t < (page + 1) * size; t++) {
                            double dot = 0;
                            for (int d = 0; d < D; d++)
                                dot +=
                                    (double)qh[d] * k[(size_t)(g * T + t) * (size_t)P + (size_t)d];
                            most = fmax(most, dot);
                        }
                    }
                    CHECK(bound[page] >= most - 1e-12, "page %d: bound %g below %g", page,
                          bound[page], most);
                }
                /* chosen pages are whole, ascending, and none left out has a larger bound */
                bool in[12] = {false}, whole = true;
                double least = INFINITY, left = -INFINITY;
                for (int j = 0; j < best * size; j++) {
                    in[idx[j] / size] = true;
                    whole = whole && (j % size ? idx[j] == idx[j - 1] + 1 : idx[j] % size == 0) &&
                            (j == 0 || idx[j] > idx[j - 1]);
                }
                for (int page = 0; page < count; page++) {
                    if (in[page]) least = fmin(least, bound[page]);
                    if (!in[page]) left = fmax(left, bound[page]);
                }
                CHECK(whole && left <= least + 1e-5, "%d of %d pages of %d: %g left, %g taken",
                      best, count, size, left, least);
                CHECK(p.chosen.count[row] == best * size && p.chosen.tail[row] == T,
                      "row %d: %d %d", row, p.chosen.count[row], p.chosen.tail[row]);
            }
        p.chosen.ops->pages_close(&p);
        scratch_free(&s);
        free(k);
        free(q);
    }
}

int main(void)
{
    set_program_name("test_peer_ops");
    for (int threads = 1; threads <= 2; threads++) {
        omp_set_num_threads(threads);
        shared_lists_are_like_copies();
        heavy_by_hand();
        steps_by_hand();
        steps_keep_what_a_choice_among_all_would();
        segments_see_a_shorter_cache();
        bounds_hold_and_best_pages_are_chosen();
    }
    return check_report("test_peer_ops");
}
