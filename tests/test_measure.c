/* test_measure.c - the numbers of okv-analyze: selection, softmax, overlap, bootstrap, search. */
#include "analyze/choose.h"
#include "analyze/measure.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void ties_go_to_the_lower_index(void)
{
    const float none = -INFINITY, nan_ = NAN;
    const struct {
        const char *what;
        float x[6];
        int k, want[6], n;
    } cases[] = {
        {"distinct values", {1, 5, 3, 4, 2, 0}, 3, {1, 2, 3}, 3},
        {"ties at the bar", {2, 1, 2, 1, 1, 2}, 4, {0, 1, 2, 5}, 4},
        {"all equal", {7, 7, 7, 7, 7, 7}, 2, {0, 1}, 2},
        {"minus zero is zero", {-0.0f, 0, -0.0f, -1, 0, -1}, 3, {0, 1, 2}, 3},
        {"NaN is -infinity", {nan_, none, 1, nan_, -1e30f, none}, 3, {0, 2, 4}, 3},
        {"NaN ties with -infinity", {nan_, none, nan_, none, nan_, none}, 3, {0, 1, 2}, 3},
        {"infinity wins", {1, INFINITY, 1e38f, INFINITY, 2, 3}, 2, {1, 3}, 2},
        {"negative values", {-3, -1, -2, -5, -4, -6}, 2, {1, 2}, 2},
        {"k beyond n takes all", {3, 1, 2, 0, 5, 4}, 9, {0, 1, 2, 3, 4, 5}, 6},
        {"k = 0 takes none", {3, 1, 2, 0, 5, 4}, 0, {0}, 0},
    };
    struct topk_scratch s = {0};
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        int got[6] = {0};
        const int n = measure_topk(cases[c].x, 6, cases[c].k, got, &s);
        CHECK(n == cases[c].n, "%s: %d, want %d", cases[c].what, n, cases[c].n);
        for (int i = 0; i < n && i < cases[c].n; i++)
            CHECK(got[i] == cases[c].want[i], "%s: [%d] = %d, want %d", cases[c].what, i, got[i],
                  cases[c].want[i]);
    }
    topk_scratch_free(&s);
}

struct entry {
    float x;
    int t;
};

static int better_first(const void *a, const void *b)
{
    const struct entry *p = a, *q = b;
    return p->x > q->x ? -1 : p->x < q->x ? 1 : p->t - q->t;
}

/* Against a sort, over sizes around the tile of 256 and values from all distinct to nearly all
 * equal. Exact: a selection has no rounding. */
static void topk_is_what_a_sort_gives(void)
{
    enum { MOST = 3000 };
    static const int sizes[] = {1, 2, 15, 16, 17, 255, 256, 257, 511, 512, 1500, MOST};
    struct topk_scratch s = {0};
    struct rng r;
    static struct entry e[MOST];
    static float x[MOST];
    static int got[MOST], wide[MOST], narrow[MOST];
    static char in[MOST];

    rng_seed(&r, 7);
    for (size_t z = 0; z < COUNT_OF(sizes); z++) {
        for (int grain = 0; grain < 4; grain++) {
            const int n = sizes[z];
            for (int t = 0; t < n; t++) {
                const double u = rng_unit(&r) - 0.5;
                x[t] = (float)(grain == 0   ? u * 1e-30
                               : grain == 1 ? floor(u * 40)
                               : grain == 2 ? floor(u * 3)
                                            : ldexp(u, (int)rng_below(&r, 200) - 100));
                e[t] = (struct entry){x[t], t};
            }
            qsort(e, (size_t)n, sizeof *e, better_first);
            const int m = measure_topk(x, n, 1 + n / 2, wide, &s);
            for (int k = 1; k <= n; k = k < 4 ? k + 1 : k * 2) {
                memset(in, 0, (size_t)n);
                for (int i = 0; i < k; i++) in[e[i].t] = 1;
                int count = measure_topk(x, n, k, got, &s), right = 0, rising = 1;
                for (int i = 0; i < count; i++) {
                    right += in[got[i]];
                    rising += i && got[i] > got[i - 1];
                }
                CHECK(count == k && right == k && rising == k,
                      "n %d, k %d, grain %d: %d entries, %d right, %d rising", n, k, grain, count,
                      right, rising);
                if (k > m) continue;
                count = measure_topk_of(x, wide, m, k, narrow, &s);
                CHECK(count == k && memcmp(got, narrow, (size_t)k * sizeof *got) == 0,
                      "n %d, k %d, grain %d: chosen from a larger set it differs", n, k, grain);
            }
        }
    }
    topk_scratch_free(&s);
}

/* The polynomial's error is below one unit in the last place, 2^-23; top - x adds half of one of a
 * number up to 87, 2^-18 / 2 relative in the exponent: 4e-6 only where exp is 1e-38, and 2e-7 for
 * exponents above -2. The bound follows that: 1.2e-7 + |d| 6e-8. */
static void exp_is_near_exp(void)
{
    enum { N = 1003 };
    static float x[N], y[N];
    struct rng r;
    double worst = 0, sum = 0;
    rng_seed(&r, 3);
    for (int t = 0; t < N; t++)
        x[t] = (float)(t % 2 ? rng_unit(&r) * 100 - 60 : 38.5 + rng_unit(&r) * 2);
    x[500] = 40.5f;
    const double Z = measure_exp(y, x, N);
    for (int t = 0; t < N; t++) {
        const double d = (double)x[t] - 40.5, want = d > -87 ? exp(d) : 0;
        if (want > 0) worst = fmax(worst, fabs((double)y[t] / want - 1) / (1.2e-7 - d * 6e-8));
        if (d < -87.01) CHECK(y[t] == 0, "exp(%g) = %g, want 0", d, (double)y[t]);
        sum += (double)y[t];
    }
    CHECK(worst < 1, "error %g of the bound", worst);
    CHECK(fabs(Z / sum - 1) < 1e-12, "sum %.17g, want %.17g", Z, sum);
    measure_exp(x, x, N);
    CHECK(memcmp(x, y, sizeof x) == 0, "in place it differs");

    float odds[2] = {1.09861229f, 0};
    const double z = measure_exp(odds, odds, 2);
    CHECK(fabs((double)odds[0] / z - 0.75) < 1e-6, "a gap of ln 3 is odds of 3 to 1: %g",
          (double)odds[0] / z);

    float none[40], half[40];
    for (int t = 0; t < 40; t++) none[t] = t % 2 ? -INFINITY : NAN;
    CHECK(measure_exp(none, none, 40) == 0 && none[0] == 0 && none[39] == 0,
          "a row of -infinity has no softmax");
    for (int t = 0; t < 40; t++) half[t] = t == 3 || t == 30 ? INFINITY : 1e30f;
    CHECK(measure_exp(half, half, 40) == 2 && half[3] == 1 && half[30] == 1 && half[4] == 0,
          "infinities share");
}

static void sums_and_sets(void)
{
    float x[100];
    int idx[7] = {0, 1, 5, 63, 64, 65, 99};
    for (int t = 0; t < 100; t++) x[t] = (float)t;
    CHECK(measure_sum(x, 100) == 4950, "sum %g", measure_sum(x, 100));
    CHECK(measure_sum(x, 7) == 21, "sum %g", measure_sum(x, 7));
    CHECK(measure_gather(x, idx, 7) == 297, "gather %g", measure_gather(x, idx, 7));
    CHECK(measure_gather(x, idx, 0) == 0, "gather of nothing");
    uint64_t bits[2] = {~0ull, ~0ull};
    const int other[4] = {1, 2, 64, 98};
    measure_mark(bits, 100, idx, 7);
    CHECK(measure_common(bits, other, 4) == 2, "common %d", measure_common(bits, other, 4));
    CHECK(measure_common(bits, idx, 7) == 7, "a set has itself in common");
}

static void segments_stop_at_the_last_layer(void)
{
    const double S[9] = {1, 2, 3, 9, 4, 5, 9, 9, 6};
    const struct {
        int i, n;
        bool self;
        double want;
    } cases[] = {{0, 3, true, 2},    {0, 2, true, 1.5},  {1, 8, true, 4.5}, {2, 8, true, 6},
                 {0, 3, false, 2.5}, {1, 8, false, 5},   {2, 8, false, 6},  {0, 1, true, 1},
                 {0, 1, false, 1},   {0, 8, false, 2.5}, {1, 2, false, 5}};
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        const double got = measure_segment(S, NULL, 3, cases[c].i, cases[c].n, cases[c].self);
        CHECK(got == cases[c].want, "layer %d of %d%s: %g, want %g", cases[c].i, cases[c].n,
              cases[c].self ? "" : " without self", got, cases[c].want);
    }
}

static void segments_may_be_weighted(void)
{
    const double S[9] = {1, 2, 3, 9, 4, 5, 9, 9, 6}, w[3] = {4, 3, 1}, none[3] = {0, 0, 0};
    CHECK(measure_segment(S, w, 3, 0, 8, true) == (4 + 6 + 3) / 8.0, "layer 0");
    CHECK(measure_segment(S, w, 3, 0, 8, false) == (6 + 3) / 4.0, "layer 0 without self");
    CHECK(measure_segment(S, w, 3, 2, 8, true) == 6, "the last layer has only itself");
    CHECK(measure_segment(S, none, 3, 0, 8, true) == 2, "without weight all count alike");
}

static void bootstrap_intervals(void)
{
    double mean[2], low[2], high[2], m2[2], l2[2], h2[2];
    const double one[2] = {3, 4}, same[6] = {1, 2, 1, 2, 1, 2};
    measure_bootstrap(one, 1, 2, 1000, 1, mean, low, high);
    CHECK(mean[1] == 4 && low[1] == 4 && high[1] == 4, "one sample: %g %g %g", mean[1], low[1],
          high[1]);
    measure_bootstrap(same, 3, 2, 1000, 1, mean, low, high);
    CHECK(mean[0] == 1 && low[0] == 1 && high[0] == 1, "no spread: %g %g", low[0], high[0]);

    /* Means of two draws from {0, 1} are 0, 1/2, 1 with odds 1:2:1, so the outer 2.5 % are 0, 1. */
    const double two[3] = {0, NAN, 1};
    measure_bootstrap(two, 3, 1, 1000, 1, mean, low, high);
    CHECK(mean[0] == 0.5 && low[0] == 0 && high[0] == 1, "0 and 1: %g %g %g", mean[0], low[0],
          high[0]);

    /* 400 draws of 0 or 1: the mean's standard error is 0.025, so 95 % lie within 0.5 +- 0.049; the
     * means come in steps of 0.0025, and 20,000 resamples know the points to about one. */
    double coin[400];
    for (int s = 0; s < 400; s++) coin[s] = s % 2;
    measure_bootstrap(coin, 400, 1, 20000, 5, mean, low, high);
    CHECK(fabs(low[0] - 0.451) < 0.004 && fabs(high[0] - 0.549) < 0.004, "coin: %g %g", low[0],
          high[0]);
    measure_bootstrap(coin, 400, 1, 20000, 5, m2, l2, h2);
    CHECK(low[0] == l2[0] && high[0] == h2[0], "the same seed gives the same interval");
    const double nothing[2] = {NAN, NAN};
    measure_bootstrap(nothing, 2, 1, 1000, 5, mean, low, high);
    CHECK(isnan(mean[0]) && isnan(low[0]), "no sample: %g", mean[0]);
}

static void costs_are_counted(void)
{
    const struct {
        int f[3], n, wait, L, want;
    } cases[] = {
        {{3, 6, 9}, 3, 1, 12, 9}, /* 0..3, 4; 6, 7; 9, 10 */
        {{2, 5, 8}, 3, 1, 12, 8},  {{0}, 1, 0, 12, 1},
        {{11}, 1, 5, 12, 12},      {{2, 3}, 2, 4, 12, 8}, /* 0..2; 3, 4..7 */
        {{2, 8, 18}, 3, 1, 32, 8}, {{0, 1, 2}, 3, 0, 32, 3},
    };
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        const int got = choose_cost(cases[c].f, cases[c].n, cases[c].wait, cases[c].L);
        CHECK(got == cases[c].want, "case %zu: %d, want %d", c, got, cases[c].want);
    }
    /* S[f][j] = 0.5 everywhere: quality is (cost + (L - cost) / 2) / L. */
    double S[144], w[12];
    for (int i = 0; i < 144; i++) S[i] = 0.5;
    for (int i = 0; i < 12; i++) w[i] = 2;
    const struct choose_problem p = {.L = 12, .wait = 1, .S = S, .w = w, .max_full = 12};
    const double q = choose_quality(&p, (const int[]){3, 6, 9}, 3);
    CHECK(fabs(q - 10.5 / 12) < 1e-12, "quality %g", q);
    w[5] = 26; /* weights: layer 5 is served */
    CHECK(fabs(choose_quality(&p, (const int[]){3, 6, 9}, 3) - (18 + 4 * 0.5 + 13) / 48) < 1e-12,
          "weighted quality");
}

/* Random matrices: dp finds exactly what trying every set finds, at each cost, and nobody beats it.
 * 1e-12: the two add the same numbers in another order. */
static void dp_is_exact(void)
{
    struct rng r;
    rng_seed(&r, 11);
    for (int trial = 0; trial < 60; trial++) {
        const int L = 1 + (int)rng_below(&r, 9);
        double S[81], w[9];
        for (int i = 0; i < L * L; i++) S[i] = rng_unit(&r);
        for (int i = 0; i < L; i++) w[i] = trial % 2 ? 1 : 0.01 + rng_unit(&r);
        struct choose_problem p = {.L = L, .S = S, .w = w, .segment = 4};
        p.wait = (int)rng_below(&r, 3);
        p.filters = trial % 3 ? 0 : 1 + (int)rng_below(&r, (uint32_t)L);
        p.max_full = 1 + (int)rng_below(&r, (uint32_t)L);
        struct choice *front[ALGORITHMS];
        int n[ALGORITHMS];
        for (int a = 0; a < ALGORITHMS; a++)
            CHECK(choose_front(&p, a, &front[a], &n[a]) == 0, "%s", algorithm_name(a));
        CHECK(n[DP] == n[EXHAUSTIVE], "trial %d: fronts of %d and %d", trial, n[DP], n[EXHAUSTIVE]);
        for (int i = 0; i < n[DP] && i < n[EXHAUSTIVE]; i++) {
            const struct choice *x = &front[DP][i], *y = &front[EXHAUSTIVE][i];
            CHECK(x->cost == y->cost && fabs(x->quality - y->quality) < 1e-12,
                  "trial %d: cost %d quality %.15g, want %d, %.15g", trial, x->cost, x->quality,
                  y->cost, y->quality);
            CHECK(x->cost <= p.max_full && (p.filters == 0 || x->n == p.filters),
                  "trial %d: constraints", trial);
            CHECK(x->cost == choose_cost(x->filter, x->n, p.wait, L) &&
                      x->quality == choose_quality(&p, x->filter, x->n),
                  "trial %d: what a choice says of itself", trial);
            CHECK(i == 0 || (x->cost > x[-1].cost && x->quality > x[-1].quality),
                  "trial %d: the front rises", trial);
        }
        for (int a = 0; a < ALGORITHMS; a++) {
            for (int i = 0; i < n[a]; i++) {
                double best = -1;
                for (int e = 0; e < n[DP]; e++)
                    if (front[DP][e].cost <= front[a][i].cost) best = front[DP][e].quality;
                CHECK(front[a][i].quality <= best + 1e-12, "trial %d: %s beats dp", trial,
                      algorithm_name(a));
            }
        }
        for (int a = 0; a < ALGORITHMS; a++) choose_free(front[a], n[a]);
    }
}

static void algorithms_do_what_they_say(void)
{
    /* One layer that finds everything for all above it, the others nothing: every algorithm that
     * looks takes it, and the front says what it costs. */
    enum { L = 12 };
    double S[L * L] = {0}, w[L];
    for (int j = 0; j < L; j++) {
        w[j] = 1;
        S[j * L + j] = 1;
        S[2 * L + j] = 1;
    }
    const struct choose_problem p = {.L = L, .S = S, .w = w, .max_full = L, .segment = 8};
    static const enum algorithm look[] = {PEAKS, GREEDY, DP, EXHAUSTIVE};
    for (size_t a = 0; a < COUNT_OF(look); a++) {
        struct choice *front;
        int n;
        if (choose_front(&p, look[a], &front, &n)) continue;
        const struct choice *pick = &front[choose_pick(front, n, L, 1 - 1e-12, false)];
        CHECK(pick->cost == 3 && pick->n <= 3 && pick->filter[pick->n - 1] == 2 &&
                  fabs(pick->quality - 1) < 1e-12,
              "%s: cost %d, %d filters, quality %g", algorithm_name(look[a]), pick->cost, pick->n,
              pick->quality);
        choose_free(front, n);
    }

    const struct choose_problem three = {.L = L, .S = S, .w = w, .max_full = L, .filters = 3};
    struct choice *front;
    int n;
    choose_front(&three, UNIFORM, &front, &n);
    CHECK(n == 1 && front[0].filter[0] == 0 && front[0].filter[1] == 4 && front[0].filter[2] == 8,
          "uniform");
    choose_free(front, n);

    const struct choose_problem none = {.L = L, .S = S, .w = w, .max_full = 2, .filters = 3};
    for (int a = 0; a < ALGORITHMS; a++) {
        CHECK(choose_front(&none, a, &front, &n) == 0 && n == 0, "%s: three filters in two layers",
              algorithm_name(a));
        choose_free(front, n);
    }

    const struct choice line[] = {{.cost = 1, .quality = 0.2},
                                  {.cost = 3, .quality = 0.9},
                                  {.cost = 6, .quality = 0.95},
                                  {.cost = 12, .quality = 1}};
    CHECK(choose_pick(line, 4, 12, 0, false) == 1, "the knee");
    CHECK(choose_pick(line, 4, 12, 0.95, true) == 2, "the cheapest of 0.95");
    CHECK(choose_pick(line, 3, 12, 0.99, false) == 2, "none reaches 0.99");
    CHECK(choose_pick(line, 4, 12, 0, true) == 3, "the best");
}

static void exhaustive_refuses_too_much(void)
{
    enum { L = 40 };
    static double S[L * L], w[L];
    for (int j = 0; j < L; j++) w[j] = 1;
    const struct choose_problem p = {.L = L, .S = S, .w = w, .max_full = L};
    struct choice *front = NULL;
    int n;
    CHECK(choose_sets(&p) == 1099511627775.0, "2^40 - 1 sets, found %.17g", choose_sets(&p));
    mute_failures(true);
    CHECK(choose_front(&p, EXHAUSTIVE, &front, &n) == -1 && front == NULL, "2^40 sets");
    mute_failures(false);
    const struct choose_problem few = {.L = 12, .S = S, .w = w, .max_full = 4, .wait = 1};
    double count = 0; /* by hand: subsets of 12 layers */
    for (int set = 1; set < 1 << 12; set++) {
        int f[12], m = 0;
        for (int l = 0; l < 12; l++)
            if (set >> l & 1) f[m++] = l;
        count += choose_cost(f, m, 1, 12) <= 4;
    }
    CHECK(choose_sets(&few) == count, "%g sets, want %g", choose_sets(&few), count);
}

int main(void)
{
    ties_go_to_the_lower_index();
    topk_is_what_a_sort_gives();
    exp_is_near_exp();
    sums_and_sets();
    segments_stop_at_the_last_layer();
    segments_may_be_weighted();
    bootstrap_intervals();
    costs_are_counted();
    dp_is_exact();
    algorithms_do_what_they_say();
    exhaustive_refuses_too_much();
    return check_report("measure");
}
