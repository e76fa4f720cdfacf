/* measure.c - the numbers behind every table: pure functions of arrays. */
#include "analyze/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One source, the widest vectors this machine has: the loops below are elementwise and contraction
 * is off, so that every instruction set gives the same bits. Sanitizers do not get along with the
 * dispatch, which runs before they are ready. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                             \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

enum { LANES = 16, TILE = 256, BINS = 2048 };

/* ---- selection: floats become integers of the same order, then two thresholds do the rest */

/* The keys of x, and for each full tile of 256 the maximum over its 16 rows of each of 16 lanes:
 * any 16 of the maxima stem from 16 different entries. */
WIDE static void order_keys(int32_t *restrict key, int32_t *restrict head, const float *restrict x,
                            int n)
{
    const int32_t lowest = (int32_t)0x807fffff; /* the key of -infinity */
    int t = 0;
    for (; t + TILE <= n; t += TILE) {
        int32_t *h = head + t / LANES;
        for (int b = 0; b < LANES; b++) h[b] = INT32_MIN;
        for (int r = 0; r < TILE; r += LANES) {
            for (int b = 0; b < LANES; b++) {
                float f = x[t + r + b] + 0.0f; /* -0 becomes +0 */
                int32_t bits;
                memcpy(&bits, &f, sizeof bits);
                int32_t k = bits ^ ((bits >> 31) & 0x7fffffff);
                k = (bits & 0x7fffffff) > 0x7f800000 ? lowest : k; /* NaN */
                key[t + r + b] = k;
                h[b] = k > h[b] ? k : h[b];
            }
        }
    }
    for (; t < n; t++) {
        float f = x[t] + 0.0f;
        int32_t bits;
        memcpy(&bits, &f, sizeof bits);
        key[t] = (bits & 0x7fffffff) > 0x7f800000 ? lowest : bits ^ ((bits >> 31) & 0x7fffffff);
    }
}

/* The k-th largest of key [n], 1 <= k <= n: from the top 11 bits down, each round keeps the keys of
 * the bin that holds it. WORK [n] may be key itself, which is then lost. */
static int32_t kth_largest(const int32_t *key, int n, int k, int32_t *work)
{
    int count[BINS];
    for (int shift = 21; n > 1; shift = shift > 11 ? shift - 11 : 0) {
        memset(count, 0, sizeof count);
        for (int i = 0; i < n; i++)
            count[(((uint32_t)key[i] ^ 0x80000000u) >> shift) & (BINS - 1)]++;
        uint32_t bin = BINS - 1;
        while (count[bin] < k) k -= count[bin--];
        int kept = 0;
        for (int i = 0; i < n; i++) {
            int32_t v = key[i];
            work[kept] = v;
            kept += ((((uint32_t)v ^ 0x80000000u) >> shift) & (BINS - 1)) == bin;
        }
        key = work;
        n = kept;
        if (shift == 0) break; /* all that are left are equal */
    }
    return key[0];
}

static void scratch_room(struct topk_scratch *s, int n)
{
    if (n <= s->room) return;
    topk_scratch_free(s);
    s->room = n;
    s->key = xmalloc((size_t)n * sizeof *s->key);
    s->head = xmalloc(((size_t)n / LANES + 1) * sizeof *s->head);
    s->pool = xmalloc(((size_t)n + 1) * sizeof *s->pool);
    s->work = xmalloc(((size_t)n + 1) * sizeof *s->work);
    s->where = xmalloc(((size_t)n + 1) * sizeof *s->where);
    s->value = xmalloc(((size_t)n + 1) * sizeof *s->value);
}

void topk_scratch_free(struct topk_scratch *s)
{
    free(s->key);
    free(s->head);
    free(s->pool);
    free(s->work);
    free(s->where);
    free(s->value);
    memset(s, 0, sizeof *s);
}

/* The k best of the m entries (key, where): those above the k-th key, and the first of those equal
 * to it. where is ascending, and so is out. */
static int take_best(const int32_t *key, const int *where, int m, int k, int *out, int32_t *work)
{
    const int32_t bar = kth_largest(key, m, k, work);
    int equal = k, n = 0;
    for (int i = 0; i < m; i++) equal -= key[i] > bar;
    for (int i = 0; i < m; i++) {
        if (key[i] > bar || (key[i] == bar && equal-- > 0)) out[n++] = where[i];
    }
    return n;
}

int measure_topk(const float *x, int n, int k, int *out, struct topk_scratch *s)
{
    if (k >= n) {
        for (int t = 0; t < n; t++) out[t] = t;
        return n;
    }
    if (k <= 0) return 0;
    scratch_room(s, n);
    order_keys(s->key, s->head, x, n);

    /* k different entries reach the k-th largest of the lane maxima, so the answer lies among the
     * entries that do; tiles without one are passed over. */
    const int tiles = n / TILE, lanes = tiles * LANES;
    const int32_t floor = k <= lanes ? kth_largest(s->head, lanes, k, s->work) : INT32_MIN;
    int m = 0;
    for (int a = 0; a < tiles; a++) {
        int32_t top = INT32_MIN;
        for (int b = 0; b < LANES; b++) {
            int32_t h = s->head[a * LANES + b];
            top = h > top ? h : top;
        }
        if (top < floor) continue;
        for (int t = a * TILE; t < (a + 1) * TILE; t++) {
            s->pool[m] = s->key[t];
            s->where[m] = t;
            m += s->key[t] >= floor;
        }
    }
    for (int t = tiles * TILE; t < n; t++) {
        s->pool[m] = s->key[t];
        s->where[m] = t;
        m += s->key[t] >= floor;
    }
    return take_best(s->pool, s->where, m, k, out, s->work);
}

int measure_topk_of(const float *x, const int *set, int m, int k, int *out, struct topk_scratch *s)
{
    if (k >= m) {
        memmove(out, set, (size_t)m * sizeof *out);
        return m;
    }
    if (k <= 0) return 0;
    scratch_room(s, m);
    for (int i = 0; i < m; i++) s->value[i] = x[set[i]];
    order_keys(s->pool, s->head, s->value, m);
    memcpy(s->where, set, (size_t)m * sizeof *set);
    return take_best(s->pool, s->where, m, k, out, s->work);
}

/* ---- softmax */

/* exp(-d) for d = top - x in [0, 87): -d = a ln 2 + r, |r| <= ln 2 / 2, and a polynomial of degree
 * 6 whose error there is below one unit of the last place (Cephes' expf coefficients). Choices are
 * made on integers: a choice between floats would keep the loop from being vectorised. */
WIDE static double exp_row(float *out, const float *x, int n, float top)
{
    const uint32_t limit = 0x42ae0000; /* the bits of 87.0f; those of infinity and NaN are above */
    double lane[LANES] = {0}, tail = 0;
    int t = 0;
    for (; t + LANES <= n; t += LANES) {
        float e[LANES];
#pragma omp simd
        for (int b = 0; b < LANES; b++) {
            float d = top - x[t + b];
            uint32_t u;
            memcpy(&u, &d, sizeof u);
            const bool near = u < limit;
            u = near ? u : limit;
            memcpy(&d, &u, sizeof d);
            float a = (d * -1.44269504f + 12582912.0f) - 12582912.0f; /* to the nearest integer */
            float r = a * 2.12194440e-4f - (a * 0.693359375f + d);
            float p = 1.9875691500e-4f;
            p = p * r + 1.3981999507e-3f;
            p = p * r + 8.3334519073e-3f;
            p = p * r + 4.1665795894e-2f;
            p = p * r + 1.6666665459e-1f;
            p = p * r + 5.0000001201e-1f;
            p = (p * r * r + r) + 1.0f;
            u = (uint32_t)((int32_t)a + 127) << 23;
            u = near ? u : 0;
            float scale; /* 2^a, or 0 */
            memcpy(&scale, &u, sizeof scale);
            e[b] = p * scale;
        }
#pragma omp simd
        for (int b = 0; b < LANES; b++) {
            out[t + b] = e[b];
            lane[b] += (double)e[b];
        }
    }
    for (; t < n; t++) {
        float d = top - x[t];
        out[t] = d < 87.0f ? expf(-d) : 0.0f;
        tail += (double)out[t];
    }
    for (int b = 0; b < LANES; b++) tail += lane[b];
    return tail;
}

WIDE static float row_max(const float *x, int n)
{
    int32_t top = (int32_t)0x807fffff; /* keys as in order_keys() */
#pragma omp simd reduction(max : top)
    for (int t = 0; t < n; t++) {
        int32_t bits;
        memcpy(&bits, x + t, sizeof bits);
        int32_t k = bits ^ ((bits >> 31) & 0x7fffffff);
        k = (bits & 0x7fffffff) > 0x7f800000 ? INT32_MIN : k;
        top = k > top ? k : top;
    }
    top ^= (top >> 31) & 0x7fffffff;
    float f;
    memcpy(&f, &top, sizeof f);
    return f;
}

double measure_exp(float *out, const float *x, int n)
{
    const float top = row_max(x, n);
    if (isfinite(top)) return exp_row(out, x, n, top);
    double sum = 0;
    for (int t = 0; t < n; t++) {
        out[t] = top > 0 && x[t] == top ? 1.0f : 0.0f;
        sum += (double)out[t];
    }
    return sum;
}

/* ---- sums and sets */

double measure_gather(const float *x, const int *idx, int k)
{
    double a[4] = {0}; /* four sums hide the latency of the addition */
    int i = 0;
    for (; i + 4 <= k; i += 4)
        for (int b = 0; b < 4; b++) a[b] += (double)x[idx[i + b]];
    for (; i < k; i++) a[0] += (double)x[idx[i]];
    return (a[0] + a[1]) + (a[2] + a[3]);
}

WIDE double measure_sum(const float *x, int n)
{
    double lane[LANES] = {0}, sum = 0;
    int t = 0;
    for (; t + LANES <= n; t += LANES)
        for (int b = 0; b < LANES; b++) lane[b] += (double)x[t + b];
    for (; t < n; t++) sum += (double)x[t];
    for (int b = 0; b < LANES; b++) sum += lane[b];
    return sum;
}

void measure_mark(uint64_t *words, int n, const int *idx, int k)
{
    memset(words, 0, ((size_t)n + 63) / 64 * sizeof *words);
    for (int i = 0; i < k; i++) words[idx[i] >> 6] |= 1ull << (idx[i] & 63);
}

int measure_common(const uint64_t *words, const int *idx, int k)
{
    int n = 0;
    for (int i = 0; i < k; i++) n += words[idx[i] >> 6] >> (idx[i] & 63) & 1;
    return n;
}

/* ---- layers and samples */

double measure_segment(const double *S, const double *w, int L, int i, int n, bool self)
{
    const int end = n < L - i ? i + n : L;
    const int first = !self && i + 1 < end ? i + 1 : i; /* alone, a layer has only itself */
    double sum = 0, weighted = 0, weights = 0;
    for (int j = first; j < end; j++) {
        sum += S[(size_t)i * L + j];
        weighted += w ? w[j] * S[(size_t)i * L + j] : 0;
        weights += w ? w[j] : 0;
    }
    return weights > 0 ? weighted / weights : sum / (end - first);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* numpy.percentile(v, 100 q), linear, of the sorted v [n]. */
static double percentile(const double *v, int n, double q)
{
    const double at = q * (n - 1);
    const int i = (int)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[n - 1];
}

void measure_bootstrap(const double *v, int N, int L, int resamples, uint64_t seed, double *mean,
                       double *low, double *high)
{
    int *rows = xmalloc(((size_t)N + 1) * sizeof *rows), n = 0;
    for (int s = 0; s < N; s++)
        if (!isnan(v[(size_t)s * L])) rows[n++] = s;

    for (int l = 0; l < L; l++) {
        double sum = 0;
        for (int s = 0; s < n; s++) sum += v[(size_t)rows[s] * L + l];
        mean[l] = low[l] = high[l] = n ? sum / n : NAN;
    }
    if (n > 1 && resamples > 0) {
        double *means = xcalloc((size_t)resamples * L, sizeof *means); /* [L, resamples] */
        struct rng r;
        rng_seed(&r, seed);
        for (int b = 0; b < resamples; b++) {
            for (int s = 0; s < n; s++) {
                const double *row = v + (size_t)rows[rng_below(&r, (uint32_t)n)] * L;
                for (int l = 0; l < L; l++) means[(size_t)l * resamples + b] += row[l];
            }
        }
        for (int l = 0; l < L; l++) {
            double *m = means + (size_t)l * resamples;
            qsort(m, (size_t)resamples, sizeof *m, ascending);
            low[l] = percentile(m, resamples, 0.025) / n;
            high[l] = percentile(m, resamples, 0.975) / n;
        }
        free(means);
    }
    free(rows);
}
