/* choose.c - choosing the filter layers from a matrix: quality, cost, and the algorithms. */
#include "analyze/choose.h"
#include "analyze/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"uniform", "peaks", "greedy", "dp", "exhaustive", NULL};

const char *algorithm_name(enum algorithm a)
{
    return names[a];
}

int algorithm_find(const char *name)
{
    for (int a = 0; a < ALGORITHMS; a++)
        if (strcmp(names[a], name) == 0) return a;
    const char *near = nearest_name(name, names);
    return fail("unknown algorithm \"%s\"%s%s%s; there are uniform peaks greedy dp exhaustive",
                name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Full layers among (f, e), where f is a filter and e the next one or L. */
static int waiting(int f, int e, int wait)
{
    return wait < e - f - 1 ? wait : e - f - 1;
}

int choose_cost(const int *f, int n, int wait, int L)
{
    int cost = f[0];
    for (int m = 0; m < n; m++) cost += 1 + waiting(f[m], m + 1 < n ? f[m + 1] : L, wait);
    return cost;
}

/* Weighted quality of the layers in (f, e), not divided. */
static double span(const struct choose_problem *p, int f, int e)
{
    const int full = f + 1 + waiting(f, e, p->wait);
    double sum = 0;
    for (int j = f + 1; j < e; j++) sum += p->w[j] * (j < full ? 1 : p->S[(size_t)f * p->L + j]);
    return sum;
}

static double weight_sum(const struct choose_problem *p, int end)
{
    double sum = 0;
    for (int j = 0; j < end; j++) sum += p->w[j];
    return sum;
}

double choose_quality(const struct choose_problem *p, const int *f, int n)
{
    double sum = weight_sum(p, f[0]);
    for (int m = 0; m < n; m++) sum += p->w[f[m]] + span(p, f[m], m + 1 < n ? f[m + 1] : p->L);
    return sum / weight_sum(p, p->L);
}

/* ---- the best set of each cost */

struct bests {
    const struct choose_problem *p;
    struct choice *of; /* [L + 1]: the best choice that costs exactly so much; n = 0 for none */
};

/* Enters the set when it satisfies the constraints and beats what is there. */
static void offer(struct bests *b, const int *f, int n)
{
    const struct choose_problem *p = b->p;
    const int cost = choose_cost(f, n, p->wait, p->L);
    if (cost > p->max_full || (p->filters && n != p->filters)) return;
    struct choice *c = &b->of[cost];
    const double q = choose_quality(p, f, n);
    if (c->n && q <= c->quality) return;
    if (c->filter == NULL) c->filter = xmalloc((size_t)p->L * sizeof *c->filter);
    memcpy(c->filter, f, (size_t)n * sizeof *f);
    c->n = n;
    c->wait = p->wait;
    c->cost = cost;
    c->quality = q;
}

/* G0: F filters at layers floor(i L / F); for F that divides L, every (L / F)-th layer from 0. */
static void uniform(struct bests *b)
{
    const int L = b->p->L;
    int *f = xmalloc((size_t)L * sizeof *f);
    for (int n = 1; n <= L; n++) {
        for (int i = 0; i < n; i++) f[i] = (int)((long)i * L / n);
        offer(b, f, n);
    }
    free(f);
}

static void insert_sorted(int *f, int n, int layer)
{
    int i = n;
    for (; i > 0 && f[i - 1] > layer; i--) f[i] = f[i - 1];
    f[i] = layer;
}

/* G1, made an algorithm: the curve is the segment score with self term. The first filter is the
 * highest of the first eighth of the layers (at least three), because all below it are full; then
 * come the local maxima above it, highest first, then the other layers above it, highest first. */
static void peaks(struct bests *b)
{
    const struct choose_problem *p = b->p;
    const int L = p->L, early = L / 8 > 3 ? L / 8 : L < 3 ? L : 3;
    double *v = xmalloc((size_t)L * sizeof *v);
    int *f = xmalloc((size_t)L * sizeof *f), n = 1, first = 0;
    bool *taken = xcalloc((size_t)L, sizeof *taken);
    for (int l = 0; l < L; l++) v[l] = measure_segment(p->S, NULL, L, l, p->segment, true);
    for (int l = 1; l < early; l++)
        if (v[l] > v[first]) first = l;
    f[0] = first;
    offer(b, f, n);
    for (int round = 0; round < 2; round++) {
        for (;;) {
            int best = -1;
            for (int l = first + 1; l < L; l++) {
                const bool peak = v[l] > v[l - 1] && (l + 1 == L || v[l] >= v[l + 1]);
                if (taken[l] || (round == 0 && !peak)) continue;
                if (best < 0 || v[l] > v[best]) best = l;
            }
            if (best < 0) break;
            taken[best] = true;
            insert_sorted(f, n++, best);
            offer(b, f, n);
        }
    }
    free(taken);
    free(f);
    free(v);
}

/* For each cost bound: the best single filter, then whichever layer raises the quality most, while
 * one does within the bound. A layer below the first filter may be added too: it lowers the cost.
 */
static void greedy(struct bests *b)
{
    const struct choose_problem *p = b->p;
    const int L = p->L;
    int *f = xmalloc(((size_t)L + 1) * sizeof *f), *g = xmalloc(((size_t)L + 1) * sizeof *g);
    for (int bound = 1; bound <= p->max_full; bound++) {
        int n = 0;
        double now = -INFINITY;
        while (n < (p->filters ? p->filters : L)) {
            int best = -1;
            double quality = p->filters ? -INFINITY : now;
            for (int l = 0; l < L; l++) {
                bool in = false;
                for (int i = 0; i < n; i++) in |= f[i] == l;
                if (in) continue;
                memcpy(g, f, (size_t)n * sizeof *f);
                insert_sorted(g, n, l);
                if (choose_cost(g, n + 1, p->wait, L) > bound) continue;
                const double q = choose_quality(p, g, n + 1);
                if (q > quality) {
                    quality = q;
                    best = l;
                }
            }
            if (best < 0) break;
            insert_sorted(f, n++, best);
            now = quality;
        }
        if (n) offer(b, f, n);
    }
    free(g);
    free(f);
}

/* G2 with the cost as a second state: best[m][f][c] is the highest weighted quality of the layers
 * above the filter f with at most c further full layers and m further filters (any number when the
 * count is free: m is then always 0). Exact for the quality above; O(L^3) per count of filters. */
static void segment_dp(struct bests *b)
{
    const struct choose_problem *p = b->p;
    const int L = p->L, counted = p->filters > 0, M = counted ? p->filters : 1;
    const size_t plane = (size_t)L * (L + 1);
    double *best = xmalloc((size_t)M * plane * sizeof *best);
    int *next = xmalloc((size_t)M * plane * sizeof *next); /* the next filter; L: none; -1: never */
    double *gain = xmalloc((size_t)L * (L + 1) * sizeof *gain); /* span(f, e) */
    int *f = xmalloc((size_t)L * sizeof *f);

    for (int i = 0; i < L; i++)
        for (int e = i + 1; e <= L; e++) gain[(size_t)i * (L + 1) + e] = span(p, i, e);
    for (int m = 0; m < M; m++) {
        for (int i = L - 1; i >= 0; i--) {
            for (int c = 0; c <= L; c++) {
                const size_t at = m * plane + (size_t)i * (L + 1) + c;
                best[at] = -INFINITY;
                next[at] = -1;
                for (int e = i + 1; e <= L; e++) {
                    const int left = c - waiting(i, e, p->wait) - (e < L);
                    if (left < 0) continue;
                    double v = gain[(size_t)i * (L + 1) + e];
                    if (e < L) {
                        if (counted && m == 0) continue;
                        v += p->w[e] +
                             best[(counted ? m - 1 : 0) * plane + (size_t)e * (L + 1) + left];
                    } else if (counted && m > 0) {
                        continue;
                    }
                    if (v > best[at]) {
                        best[at] = v;
                        next[at] = e;
                    }
                }
            }
        }
    }
    for (int bound = 1; bound <= p->max_full; bound++) {
        int start = -1;
        double top = -INFINITY;
        for (int i = 0; i < L && i + 1 <= bound; i++) {
            double v =
                weight_sum(p, i + 1) + best[(M - 1) * plane + (size_t)i * (L + 1) + bound - i - 1];
            if (v > top) {
                top = v;
                start = i;
            }
        }
        if (start < 0) continue;
        int n = 0, m = M - 1, c = bound - start - 1;
        for (int i = start; i < L;) {
            f[n++] = i;
            const int e = next[m * plane + (size_t)i * (L + 1) + c];
            c -= waiting(i, e, p->wait) + (e < L);
            if (counted) m--;
            i = e;
        }
        offer(b, f, n);
    }
    free(f);
    free(gain);
    free(next);
    free(best);
}

double choose_sets(const struct choose_problem *p)
{
    if (p->L > 128) return INFINITY; /* the table below would be large, and so is the answer */
    const int L = p->L, M = p->filters ? p->filters : L;
    /* [last filter][full layers so far][filters so far] */
    double *ways = xcalloc((size_t)L * (L + 1) * (M + 1), sizeof *ways), total = 0;
    for (int i = 0; i < L; i++) {
        double *at = ways + (size_t)i * (L + 1) * (M + 1);
        at[(size_t)(i + 1) * (M + 1) + 1] += 1;
        for (int c = 1; c <= p->max_full; c++) {
            for (int m = 1; m <= M; m++) {
                const double n = at[(size_t)c * (M + 1) + m];
                if (n == 0) continue;
                for (int e = i + 1; e < L && m < M; e++) {
                    const int d = c + waiting(i, e, p->wait) + 1;
                    if (d <= p->max_full) ways[((size_t)e * (L + 1) + d) * (M + 1) + m + 1] += n;
                }
                if (c + waiting(i, L, p->wait) <= p->max_full && (!p->filters || m == M))
                    total += n;
            }
        }
    }
    free(ways);
    return total;
}

/* Offers every set that begins with the N filters F, of COST full layers up to the last one. */
static void enumerate(struct bests *b, int *f, int n, int cost)
{
    const struct choose_problem *p = b->p;
    const int last = f[n - 1];
    if (p->filters == 0 || n == p->filters) offer(b, f, n);
    if (n == p->filters) return;
    for (int e = last + 1; e < p->L; e++) {
        const int c = cost + waiting(last, e, p->wait) + 1;
        if (c > p->max_full) continue;
        f[n] = e;
        enumerate(b, f, n + 1, c);
    }
}

static int exhaustive(struct bests *b)
{
    const struct choose_problem *p = b->p;
    const double sets = choose_sets(p);
    if (sets > MOST_SETS)
        return fail("exhaustive: %.3g sets of filter layers to try, at most %.3g are tried; lower "
                    "--max-full or --filters, or take the algorithm dp, which is exact too",
                    sets, MOST_SETS);
    int *f = xmalloc((size_t)p->L * sizeof *f);
    for (int i = 0; i < p->L && i + 1 <= p->max_full; i++) {
        f[0] = i;
        enumerate(b, f, 1, i + 1);
    }
    free(f);
    return 0;
}

int choose_front(const struct choose_problem *p, enum algorithm a, struct choice **front, int *n)
{
    struct bests b = {.p = p, .of = xcalloc((size_t)p->L + 1, sizeof *b.of)};
    double top = -INFINITY;
    int rc = 0;

    *n = 0;
    switch (a) {
    case UNIFORM:
        uniform(&b);
        break;
    case PEAKS:
        peaks(&b);
        break;
    case GREEDY:
        greedy(&b);
        break;
    case DP:
        segment_dp(&b);
        break;
    default:
        rc = exhaustive(&b);
    }
    for (int c = 1; c <= p->L; c++) { /* what is cheaper and as good pushes out the rest */
        if (rc == 0 && b.of[c].n && b.of[c].quality > top) {
            top = b.of[c].quality;
            b.of[(*n)++] = b.of[c];
            memset(&b.of[c], 0, sizeof b.of[c]); /* moved: *n - 1 < c */
        } else {
            free(b.of[c].filter);
            memset(&b.of[c], 0, sizeof b.of[c]);
        }
    }
    *front = b.of;
    if (rc) {
        choose_free(*front, *n);
        *front = NULL;
        *n = 0;
    }
    return rc;
}

void choose_free(struct choice *front, int n)
{
    for (int i = 0; i < n; i++) free(front[i].filter);
    free(front);
}

int choose_pick(const struct choice *front, int n, int L, double keep, bool best)
{
    if (keep > 0) {
        int i = 0;
        while (i + 1 < n && front[i].quality < keep) i++;
        return i;
    }
    int at = 0;
    double height = -INFINITY;
    for (int i = 0; i < n; i++) {
        const double run = L - front[0].cost;
        const double line =
            front[0].quality +
            (run > 0 ? (1 - front[0].quality) * (front[i].cost - front[0].cost) / run : 0);
        const double h = best ? front[i].quality : front[i].quality - line;
        if (h > height) {
            height = h;
            at = i;
        }
    }
    return at;
}
