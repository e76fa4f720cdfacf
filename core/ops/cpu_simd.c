/* cpu_simd.c - the inner loops of the CPU backend, compiled once for each instruction set.
 *
 * Written in GCC's vector types, so that one text serves AVX-512, AVX2 and whatever the plain build
 * targets; intrinsics appear only where the vector types have no word for it (max, 16-bit floats).
 */
#include "core/ops/simd.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(SIMD_avx512) || defined(SIMD_avx2)
#include <immintrin.h>
#endif

#if defined(SIMD_avx512)
#define VL 16 /* floats of a vector */
#define NV 4  /* vectors of lanes of an attention tile */
#elif defined(SIMD_avx2)
#define VL 8
#define NV 2
#else
#define VL 4
#define NV 2
#endif
#define LANES (NV * VL)
#define MR 4 /* keys, or value columns, that a tile kernel holds in registers at a time */

/* Functions whose constant arguments must reach the compiler as constants. */
#define SPECIALISED static inline __attribute__((always_inline))

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)

/* The only typedefs of the project: a vector type has no other spelling. */
typedef float vec __attribute__((vector_size(4 * VL)));
typedef int32_t ivec __attribute__((vector_size(4 * VL)));

static inline vec load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

static inline vec all(float f)
{
    return f - (vec){0}; /* f - 0 keeps the sign of a zero, f + 0 would not */
}

static inline vec select_vec(ivec mask, vec yes, vec no)
{
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}

/* A NaN in B survives; one in A does not. */
static inline vec vmax(vec a, vec b)
{
#if defined(SIMD_avx512)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(SIMD_avx2)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return select_vec((ivec)(a > b), a, b);
#endif
}

static inline float hsum(vec v)
{
    float s[VL];
    store(s, v);
    for (int w = VL / 2; w; w /= 2)
        for (int i = 0; i < w; i++) s[i] += s[i + w];
    return s[0];
}

static inline float hmax(vec v)
{
    float s[VL], m;
    store(s, v);
    m = s[0];
    for (int i = 1; i < VL; i++) m = s[i] > m ? s[i] : m;
    return m;
}

/* e^x for x <= 88, within 2 ulp; 0 below -87.3. Cephes' expf polynomial on [-ln 2 / 2, ln 2 / 2].
 */
static inline vec vexp(vec x)
{
    const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec low = all(-87.33654f), y = vmax(low, x);
    vec t = y * 1.44269504088896341f + magic;
    ivec n = (ivec)t - (ivec)magic + 127; /* the exponent of 2^n, biased */
    vec whole = t - magic;
    vec r = y - whole * 0.693359375f - whole * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    p *= (vec)(n << 23); /* a product: NaN stays NaN */
    return select_vec((ivec)(x < low), (vec){0}, p);
}

static inline vec load_bf16(const uint16_t *p)
{
#if defined(SIMD_avx512)
    __m256i h = _mm256_loadu_si256((const void *)p);
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
#elif defined(SIMD_avx2)
    __m128i h = _mm_loadu_si128((const void *)p);
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
#else
    vec v;
    for (int i = 0; i < VL; i++) {
        uint16_t h;
        memcpy(&h, p + i, sizeof h);
        v[i] = bf16_to_f32(h);
    }
    return v;
#endif
}

static inline vec load_f16(const uint16_t *p)
{
#if defined(SIMD_avx512)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
#elif defined(SIMD_avx2)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
#else
    vec v;
    for (int i = 0; i < VL; i++) {
        uint16_t h;
        memcpy(&h, p + i, sizeof h);
        v[i] = f16_to_f32(h);
    }
    return v;
#endif
}

/* One element at index I of W, and VL of them. */
static inline float load_one(const void *w, enum dtype type, size_t i)
{
    uint16_t h;
    float f;
    if (type == DTYPE_F32) {
        memcpy(&f, (const char *)w + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, (const char *)w + 2 * i, sizeof h);
    return type == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

static inline vec load_type(const void *w, enum dtype type, size_t i)
{
    if (type == DTYPE_F32) return load((const float *)w + i);
    if (type == DTYPE_BF16) return load_bf16((const uint16_t *)w + i);
    return load_f16((const uint16_t *)w + i);
}

/* Sums VL vectors across: lane i of the result is the sum of v[i]. Each step halves the number of
 * vectors by adding even and odd lanes of two neighbours. */
static inline vec sum_across(vec *v)
{
    ivec even, odd;
    for (int i = 0; i < VL; i++) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
    for (int n = VL; n > 1; n /= 2)
        for (int i = 0; i < n / 2; i++)
            v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) +
                   __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
    return v[0];
}

/* ---- linear layers of few rows */

#define OUTS 4 /* outputs computed together, so that each load of x serves all */

/* sums[r][at + o] = the lane sums, not yet added up, of OUTS outputs from O0 on. */
SPECIALISED void matvec_block(vec sums[][VL], int at, const void *w, enum dtype type, int cols,
                              const float *x, const int rows, int o0, int last)
{
    vec acc[OUTS][4] = {{{0}}};
    for (int c = 0; c + VL <= cols; c += VL) {
        vec xv[4];
        for (int r = 0; r < rows; r++) xv[r] = load(x + (size_t)r * cols + c);
        for (int o = 0; o < OUTS; o++) { /* past the last output the last is read again */
            const int row = o0 + o < last ? o0 + o : last;
            vec wv = load_type(w, type, (size_t)row * cols + c);
            for (int r = 0; r < rows; r++) acc[o][r] += wv * xv[r];
        }
    }
    for (int o = 0; o < OUTS; o++)
        for (int r = 0; r < rows; r++) sums[r][at + o] = acc[o][r];
}

SPECIALISED void matvec_rows(float *out, size_t out_stride, const void *w, enum dtype type,
                             int outs, int cols, const float *x, const int rows)
{
    const int whole = cols / VL * VL;
    for (int o = 0; o < outs; o += VL) {
        vec sums[4][VL];
        const int m = outs - o < VL ? outs - o : VL;
        for (int i = 0; i < VL; i += OUTS)
            matvec_block(sums, i, w, type, cols, x, rows, o + i, outs - 1);
        for (int r = 0; r < rows; r++) {
            vec v = sum_across(sums[r]);
            for (int i = 0; i < m; i++) {
                float s = v[i];
                for (int c = whole; c < cols; c++)
                    s += load_one(w, type, (size_t)(o + i) * cols + c) * x[(size_t)r * cols + c];
                out[r * out_stride + o + i] = s;
            }
        }
    }
}

SPECIALISED void matvec_type(float *out, size_t out_stride, const void *w, enum dtype type,
                             int outs, int cols, const float *x, int rows)
{
    switch (rows) {
    case 1:
        matvec_rows(out, out_stride, w, type, outs, cols, x, 1);
        break;
    case 2:
        matvec_rows(out, out_stride, w, type, outs, cols, x, 2);
        break;
    case 3:
        matvec_rows(out, out_stride, w, type, outs, cols, x, 3);
        break;
    default:
        matvec_rows(out, out_stride, w, type, outs, cols, x, 4);
        break;
    }
}

static void matvec(float *out, size_t out_stride, const void *w, enum dtype type, int outs,
                   int cols, const float *x, int rows)
{
    switch (type) {
    case DTYPE_F32:
        matvec_type(out, out_stride, w, DTYPE_F32, outs, cols, x, rows);
        break;
    case DTYPE_F16:
        matvec_type(out, out_stride, w, DTYPE_F16, outs, cols, x, rows);
        break;
    case DTYPE_BF16:
        matvec_type(out, out_stride, w, DTYPE_BF16, outs, cols, x, rows);
        break;
    }
}

static void widen(float *out, const void *in, enum dtype type, size_t n)
{
    size_t i = 0;
    switch (type) { /* the type is loop-invariant: one loop each */
    case DTYPE_F32:
        memcpy(out, in, n * sizeof *out);
        return;
    case DTYPE_BF16:
        for (; i + VL <= n; i += VL) store(out + i, load_bf16((const uint16_t *)in + i));
        break;
    case DTYPE_F16:
        for (; i + VL <= n; i += VL) store(out + i, load_f16((const uint16_t *)in + i));
        break;
    }
    for (; i < n; i++) out[i] = load_one(in, type, i);
}

static void rms_norm(float *out, const float *x, const float *w, int n, float eps)
{
    vec acc[4] = {{0}};
    int i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int j = 0; j < 4; j++) {
            vec v = load(x + i + j * VL);
            acc[j] += v * v;
        }
    float sum = hsum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; i < n; i++) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / (float)n + eps);
    for (i = 0; i < n; i++) out[i] = x[i] * scale * w[i];
}

static void silu_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + VL <= n; i += VL) {
        vec g = load(gate + i);
        /* below -87 vexp(-g) leaves its range; silu is 0 there to within float32 */
        vec e = vexp(vmax(all(-87.0f), -vmax(all(-87.0f), g)));
        store(gate + i, g / (1.0f + e) * load(up + i));
    }
    for (; i < n; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* ---- attention of few rows: keys and values are read once for all heads that share them */

SPECIALISED void dots_rows(float *dots, size_t stride, const float *q, const float *k,
                           const int *pos, int count, int P, float scale, const int rows,
                           const int fixed)
{
    const int nv = fixed ? fixed : P / VL; /* vectors of a row */
    vec own[4][8];                         /* the queries, where they fit into registers */
    for (int r = 0; fixed && r < rows; r++)
        for (int d = 0; d < fixed; d++) own[r][d] = load(q + (size_t)r * P + d * VL);
    for (int i = 0; i < count; i += VL) {
        vec s[4][VL];
        const int m = count - i < VL ? count - i : VL;
        for (int j = 0; j < VL; j++) {
            const float *kt = k + (size_t)pos[i + (j < m ? j : 0)] * P;
            vec acc[4] = {{0}};
            for (int d = 0; d < nv; d++) {
                vec kv = load(kt + d * VL);
                for (int r = 0; r < rows; r++)
                    acc[r] += kv * (fixed ? own[r][d] : load(q + (size_t)r * P + d * VL));
            }
            for (int r = 0; r < rows; r++) s[r][j] = acc[r];
        }
        for (int r = 0; r < rows; r++) {
            vec v = sum_across(s[r]) * scale;
            if (m == VL) {
                store(dots + r * stride + i, v);
            } else {
                for (int j = 0; j < m; j++) dots[r * stride + i + j] = v[j];
            }
        }
    }
}

SPECIALISED void dots_width(float *dots, size_t stride, const float *q, const float *k,
                            const int *pos, int count, int P, float scale, const int rows)
{
    if (P == 4 * VL)
        dots_rows(dots, stride, q, k, pos, count, P, scale, rows, 4);
    else if (P == 8 * VL)
        dots_rows(dots, stride, q, k, pos, count, P, scale, rows, 8);
    else
        dots_rows(dots, stride, q, k, pos, count, P, scale, rows, 0);
}

static void dots(float *out, size_t stride, const float *q, int rows, const float *k,
                 const int *pos, int count, int P, float scale)
{
    for (; rows >= 4; rows -= 4, q += (size_t)4 * P, out += 4 * stride)
        dots_width(out, stride, q, k, pos, count, P, scale, 4);
    if (rows == 3) dots_width(out, stride, q, k, pos, count, P, scale, 3);
    if (rows == 2) dots_width(out, stride, q, k, pos, count, P, scale, 2);
    if (rows == 1) dots_width(out, stride, q, k, pos, count, P, scale, 1);
}

SPECIALISED void weigh_block(float *acc, const float *p, size_t ps, const float *v, const int *pos,
                             int count, int P, int d0, const int rows, const int nv)
{
    vec a[4][4] = {{{0}}};
    for (int i = 0; i < count; i++) {
        const float *vt = v + (size_t)pos[i] * P + d0;
        vec x[4];
        for (int d = 0; d < nv; d++) {
            x[d] = load(vt + d * VL);
        }
        for (int r = 0; r < rows; r++) {
            vec w = all(p[r * ps + i]);
            for (int d = 0; d < nv; d++) a[r][d] += w * x[d];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < nv; d++) store(acc + (size_t)r * P + d0 + d * VL, a[r][d]);
}

SPECIALISED void weigh_rows_of(float *acc, const float *p, size_t ps, const float *v,
                               const int *pos, int count, int P, const int rows)
{
    int d = 0;
    for (; d + 4 * VL <= P; d += 4 * VL) weigh_block(acc, p, ps, v, pos, count, P, d, rows, 4);
    for (; d < P; d += VL) weigh_block(acc, p, ps, v, pos, count, P, d, rows, 1);
}

static void weigh(float *acc, float *max, float *sum, const float *logits, size_t stride, int rows,
                  const float *v, const int *pos, int count, int P, float *p)
{
    for (int r = 0; r < rows; r++) {
        const float *l = logits + r * stride;
        float *pr = p + (size_t)r * CHUNK_KEYS, m = -INFINITY, s = 0;
        vec mv = all(-INFINITY), sv = {0};
        int i = 0;
        for (; i + VL <= count; i += VL) mv = vmax(mv, load(l + i));
        m = hmax(mv);
        for (; i < count; i++) m = l[i] > m ? l[i] : m;
        for (i = 0; i + VL <= count; i += VL) {
            vec e = vexp(load(l + i) - m);
            store(pr + i, e);
            sv += e;
        }
        if (i <
            count) { /* the rest goes through a whole vector of which only count - i lanes count */
            float rest[VL];
            for (int j = 0; j < VL; j++) rest[j] = i + j < count ? l[i + j] : -INFINITY;
            vec e = vexp(load(rest) - m);
            for (int j = 0; i + j < count; j++) pr[i + j] = e[j];
            sv += e;
        }
        s = hsum(sv);
        max[r] = m;
        sum[r] = s;
    }
    for (; rows >= 4; rows -= 4, p += 4 * CHUNK_KEYS, acc += (size_t)4 * P)
        weigh_rows_of(acc, p, CHUNK_KEYS, v, pos, count, P, 4);
    if (rows == 3) weigh_rows_of(acc, p, CHUNK_KEYS, v, pos, count, P, 3);
    if (rows == 2) weigh_rows_of(acc, p, CHUNK_KEYS, v, pos, count, P, 2);
    if (rows == 1) weigh_rows_of(acc, p, CHUNK_KEYS, v, pos, count, P, 1);
}

/* ---- attention of many rows: a tile of LANES (row, head) pairs across the vector lanes.
 *
 * Queries lie transposed [P, LANES], so a key is a broadcast scalar times a vector of queries: keys
 * and values are used as they lie in the cache, and the softmax needs no sum across lanes. */

/* s[j, :] = sum over d of k[j, d] * qt[d, :], for MR keys. */
static inline void tile_scores(float *s, const float *qt, const float *k, int P)
{
    vec acc[MR][NV] = {{{0}}};
    for (int d = 0; d < P; d++) {
        vec q[NV];
        for (int n = 0; n < NV; n++) q[n] = load(qt + (size_t)d * LANES + n * VL);
        for (int j = 0; j < MR; j++) {
            vec kv = all(k[(size_t)j * P + d]);
            for (int n = 0; n < NV; n++) acc[j][n] += kv * q[n];
        }
    }
    for (int j = 0; j < MR; j++)
        for (int n = 0; n < NV; n++) store(s + j * LANES + n * VL, acc[j][n]);
}

/* The scores of keys [t0, t0 + count) for all lanes, -inf where a lane must not look: from END on,
 * and below BEGIN unless that is NULL. Whole groups of MR keys are computed: the cache has room up
 * to the next multiple of TILE_KEYS. LEAST is the smallest end. */
static inline void tile_scores_masked(float *s, const float *qt, const float *k, int P, int t0,
                                      int count, const int *begin, const int *end, int least)
{
    for (int j = 0; j < count; j += MR)
        tile_scores(s + (size_t)j * LANES, qt, k + (size_t)(t0 + j) * P, P);
    for (int j = 0; t0 + count > least && j < count; j++)
        for (int i = 0; i < LANES; i++)
            if (t0 + j >= end[i]) s[j * LANES + i] = -INFINITY;
    int latest = 0;
    for (int i = 0; begin && i < LANES; i++) latest = begin[i] > latest ? begin[i] : latest;
    for (int j = 0; t0 < latest && j < count; j++)
        for (int i = 0; i < LANES; i++)
            if (t0 + j < begin[i]) s[j * LANES + i] = -INFINITY;
}

/* out_t[d, :] = out_t[d, :] * fade + sum over j of v[j, d] * p[j, :], for MR columns d. */
static inline void tile_values(float *out_t, const vec *fade, const float *p, const float *v,
                               int count, int P)
{
    vec acc[MR][NV];
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NV; n++) acc[m][n] = load(out_t + m * LANES + n * VL) * fade[n];
    for (int j = 0; j < count; j++) {
        vec w[NV];
        for (int n = 0; n < NV; n++) w[n] = load(p + j * LANES + n * VL);
        for (int m = 0; m < MR; m++) {
            vec x = all(v[(size_t)j * P + m]);
            for (int n = 0; n < NV; n++) acc[m][n] += x * w[n];
        }
    }
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NV; n++) store(out_t + m * LANES + n * VL, acc[m][n]);
}

static void attend_tile(float *out_t, float *lse, const float *qt, const int *begin, const int *end,
                        int least, int most, const float *k, const float *v, int P)
{
    int first = begin ? most : 0; /* the first key of any lane */
    float s[TILE_KEYS * LANES] __attribute__((aligned(64)));
    vec max[NV], sum[NV], fade[NV];
    for (int n = 0; n < NV; n++) {
        max[n] = all(-1e30f); /* finite, so that a tile without a visible key fades to 0, not NaN */
        sum[n] = (vec){0};
    }
    memset(out_t, 0, (size_t)P * LANES * sizeof *out_t);

    for (int i = 0; begin && i < LANES; i++)
        if (end[i] && begin[i] < first) first = begin[i];
    for (int t0 = first / TILE_KEYS * TILE_KEYS; t0 < most; t0 += TILE_KEYS) {
        const int count = most - t0 < TILE_KEYS ? most - t0 : TILE_KEYS;
        tile_scores_masked(s, qt, k, P, t0, count, begin, end, least);
        for (int n = 0; n < NV; n++) {
            vec top = max[n];
            for (int j = 0; j < count; j++) top = vmax(top, load(s + j * LANES + n * VL));
            fade[n] = vexp(max[n] - top);
            max[n] = top;
            sum[n] *= fade[n];
            for (int j = 0; j < count; j++) {
                vec e = vexp(load(s + j * LANES + n * VL) - top);
                store(s + j * LANES + n * VL, e);
                sum[n] += e;
            }
        }
        for (int d = 0; d < P; d += MR)
            tile_values(out_t + (size_t)d * LANES, fade, s, v + (size_t)t0 * P + d, count, P);
    }
    for (int d = 0; d < P; d++)
        for (int n = 0; n < NV; n++) {
            float *o = out_t + (size_t)d * LANES + n * VL;
            store(o, load(o) / sum[n]);
        }
    for (int i = 0; i < LANES; i++) lse[i] = max[i / VL][i % VL] + logf(sum[i / VL][i % VL]);
}

static void tile_columns(float *sums, size_t stride, const float *qt, const float *lse,
                         const int *begin, const int *end, const int *lane_head, const float *k,
                         int t0, int count, int P)
{
    float s[TILE_KEYS * LANES] __attribute__((aligned(64)));
    int least = t0 + count;
    for (int i = 0; i < LANES; i++) least = end[i] < least ? end[i] : least;
    tile_scores_masked(s, qt, k, P, t0, count, begin, end, least);
    for (int j = 0; j < count; j++) {
        vec sum = {0};
        for (int n = 0; n < NV; n++) {
            vec e = vexp(load(s + j * LANES + n * VL) - load(lse + n * VL));
            store(s + j * LANES + n * VL, e);
            sum += e;
        }
        if (lane_head == NULL) {
            sums[j] += hsum(sum);
            continue;
        }
        for (int i = 0; i < LANES; i++)
            if (lane_head[i] >= 0) sums[lane_head[i] * stride + j] += s[j * LANES + i];
    }
}

/* ---- pooling over heads */

static void max_rows(float *best, const float *logits, size_t stride, int rows, int T)
{
    int t = 0;
    for (; t + VL <= T; t += VL) {
        vec m = load(logits + t);
        for (int r = 1; r < rows; r++) m = vmax(m, load(logits + r * stride + t));
        store(best + t, m);
    }
    for (; t < T; t++) {
        float m = logits[t];
        for (int r = 1; r < rows; r++) m = m > logits[r * stride + t] ? m : logits[r * stride + t];
        best[t] = m;
    }
}

static void weigh_rows(float *best, const float *logits, size_t stride, const float *lse, int rows,
                       int T, int mean)
{
    for (int t = 0; t < T; t += VL) {
        const int m = T - t < VL ? T - t : VL;
        vec b = {0};
        for (int r = 0; r < rows; r++) {
            float part[VL];
            const float *l = logits + r * stride + t;
            if (m < VL) { /* never read past the row */
                for (int j = 0; j < VL; j++) part[j] = j < m ? l[j] : -INFINITY;
                l = part;
            }
            vec e = vexp(load(l) - lse[r]);
            b = mean ? b + e : vmax(b, e);
        }
        if (mean) b /= (float)rows;
        if (m == VL)
            store(best + t, b);
        else
            for (int j = 0; j < m; j++) best[t + j] = b[j];
    }
}

static int reach(int *at, const float *score, int T, float least)
{
    int n = 0, t = 0;
#if defined(SIMD_avx512)
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; t + VL <= T; t += VL) {
        const __mmask16 m =
            _mm512_cmp_ps_mask((__m512)load(score + t), _mm512_set1_ps(least), _CMP_GE_OQ);
        /* whole: a store of some lanes takes many times as long, and these T have room */
        _mm512_storeu_si512(
            at + n, _mm512_maskz_compress_epi32(m, _mm512_add_epi32(lane, _mm512_set1_epi32(t))));
        n += __builtin_popcount(m);
    }
#elif defined(SIMD_avx2)
    for (; t + VL <= T; t += VL) {
        const __m256 is = _mm256_cmp_ps((__m256)load(score + t), _mm256_set1_ps(least), _CMP_GE_OQ);
        for (unsigned m = (unsigned)_mm256_movemask_ps(is); m; m &= m - 1)
            at[n++] = t + __builtin_ctz(m);
    }
#endif
    for (; t < T; t++) {
        at[n] = t;
        n += score[t] >= least;
    }
    return n;
}

/* Bit by bit from the top: the largest number that K keys reach. */
static uint32_t kth_largest(const uint32_t *key, int n, int k)
{
    uint32_t kth = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        int reached = 0;
        for (int i = 0; i < n; i++) reached += key[i] >= (kth | bit);
        if (reached >= k) kth |= bit;
    }
    return kth;
}

static float log_sum_exp(const float *x, int n)
{
    vec mv = all(-INFINITY), sv = {0};
    int i = 0;
    for (; i + VL <= n; i += VL) mv = vmax(mv, load(x + i));
    float m = hmax(mv);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    for (i = 0; i + VL <= n; i += VL) sv += vexp(load(x + i) - m);
    float s = hsum(sv);
    for (; i < n; i++) s += expf(x[i] - m);
    return m + logf(s);
}

const struct simd JOIN(simd_, SIMD) = {
#define STRING2(x) #x
#define STRING(x) STRING2(x)
    .name = STRING(SIMD),
    .lanes = LANES,
    .matvec = matvec,
    .widen = widen,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .dots = dots,
    .weigh = weigh,
    .attend_tile = attend_tile,
    .tile_columns = tile_columns,
    .max_rows = max_rows,
    .weigh_rows = weigh_rows,
    .reach = reach,
    .kth_largest = kth_largest,
    .log_sum_exp = log_sum_exp,
};
