/* reference.c - the definition of every op, in the plainest loops that are right.
 *
 * No SIMD, no threads, no tiles. Sums and exponentials are in double, so that what a fast variant
 * differs by is that variant's rounding alone (docs/numbers.md bounds it). A model runs on these
 * ops as on any other, a hundred times slower.
 */
#include "core/ops/ops.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Element I of W, wherever its data lie. */
static double element(const struct matrix *w, size_t i)
{
    const char *at = (const char *)w->data + i * dtype_size(w->type);
    uint16_t half;
    float f;
    if (w->type == DTYPE_F32) {
        memcpy(&f, at, sizeof f);
        return f;
    }
    memcpy(&half, at, sizeof half);
    return w->type == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* out [rows] = W * x + bias; BIAS may be NULL. */
static void linear(float *out, const struct matrix *w, const float *bias, const float *x)
{
    for (int o = 0; o < w->rows; o++) {
        double sum = bias ? bias[o] : 0;
        for (int i = 0; i < w->cols; i++) sum += element(w, (size_t)o * w->cols + i) * x[i];
        out[o] = (float)sum;
    }
}

/* out = x / sqrt(mean of x^2 + eps) * w, [n]; OUT may be X.
 * Source: Zhang and Sennrich 2019 eq. 4. */
static void rms_norm(float *out, const float *x, const float *w, int n, float eps)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    const double scale = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++) out[i] = (float)(x[i] * scale * w[i]);
}

static void embed(float *x, const struct matrix *table, const int *ids, int n)
{
    const size_t E = (size_t)table->cols;
    for (int r = 0; r < n; r++)
        for (size_t e = 0; e < E; e++) x[r * E + e] = (float)element(table, (size_t)ids[r] * E + e);
}

/* One head of q or k, [D] to [P]: its norm where the family has one, then pair (d, d + D/2) turns.
 * Source: Su et al. 2021 eq. 34, in the half-split order of transformers' rotate_half(). */
static void rotate_head(float *out, float *in, int D, const float *norm, float eps,
                        const float *cosine, const float *sine)
{
    const int half = D / 2;
    if (norm) rms_norm(in, in, norm, D, eps);
    for (int d = 0; d < half; d++) {
        const double a = in[d], b = in[d + half];
        out[d] = (float)(a * cosine[d] - b * sine[d]);
        out[d + half] = (float)(b * cosine[d] + a * sine[d]);
    }
    for (int d = D; d < padded_width(D); d++) out[d] = 0;
}

static void attn_in(float *q, struct kv_layer *kv, const float *x, int n, int pos0,
                    const struct layer_weights *w, const struct model_config *c,
                    struct rope_table rope, struct scratch *s)
{
    const int H = c->H, G = c->G, D = c->D, P = padded_width(D);
    (void)s;
    float *norm = xmalloc((size_t)(c->E + (H + 2 * G) * D) * sizeof *norm);
    float *qr = norm + c->E, *kr = qr + H * D, *vr = kr + G * D;

    for (int r = 0; r < n; r++) {
        const int pos = pos0 + r;
        const float *cosine = rope.cos + (size_t)pos * (D / 2);
        const float *sine = rope.sin + (size_t)pos * (D / 2);
        rms_norm(norm, x + (size_t)r * c->E, w->attn_norm, c->E, c->norm_eps);
        linear(qr, &w->q, w->q_bias, norm);
        linear(kr, &w->k, w->k_bias, norm);
        linear(vr, &w->v, w->v_bias, norm);
        for (int h = 0; h < H; h++)
            rotate_head(q + ((size_t)r * H + h) * P, qr + h * D, D, w->q_norm, c->norm_eps, cosine,
                        sine);
        for (int g = 0; g < G; g++) {
            const size_t row = ((size_t)g * kv->room + pos) * P;
            rotate_head(kv->k + row, kr + g * D, D, w->k_norm, c->norm_eps, cosine, sine);
            for (int d = 0; d < P; d++) kv->v[row + d] = d < D ? vr[g * D + d] : 0;
        }
    }
    free(norm);
}

/* The scaled product of one query and the key of kv head G at POSITION. */
static float logit(const float *q, const struct kv_layer *kv, int g, int position, int D)
{
    const float *k = kv->k + ((size_t)g * kv->room + position) * padded_width(D);
    double dot = 0;
    for (int d = 0; d < D; d++) dot += (double)q[d] * k[d];
    return (float)(dot / sqrt(D));
}

static double log_sum_exp(const float *x, int n)
{
    double top = -INFINITY, sum = 0; /* the top is taken out, so that exp cannot overflow */
    for (int i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int i = 0; i < n; i++) sum += exp(x[i] - top);
    return top + log(sum);
}

/* The position that entry I of row R's list and tail stands for, for query head H of HEADS. */
static int position_of(const struct attn_view *v, int r, int h, int heads, int i)
{
    if (v->idx == NULL) return i;
    if (i >= v->count[r]) return v->tail[r] + i - v->count[r];
    const int set = h / (heads / v->sets);
    return v->idx[((size_t)(v->shared ? 0 : r) * v->sets + set) * v->stride + i];
}

static void attend_rows(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                        int pos_step, struct attn_view view, struct attn_seen seen,
                        const struct model_config *c, struct scratch *s)
{
    const int H = c->H, G = c->G, D = c->D, P = padded_width(D);
    (void)s;
    for (int r = 0; r < n; r++) {
        const int length = view_length(&view, r, pos0 + r * pos_step);
        float *l = xmalloc((size_t)length * sizeof *l);
        for (int h = 0; h < H; h++) {
            const int g = h / (H / G); /* the kv head that h reads */
            const size_t row = (size_t)r * H + h;
            for (int i = 0; i < length; i++)
                l[i] = logit(q + row * P, kv, g, position_of(&view, r, h, H, i), D);
            const double lse = log_sum_exp(l, length);
            for (int d = 0; d < D; d++) {
                double sum = 0;
                for (int i = 0; i < length; i++) {
                    const size_t at = (size_t)position_of(&view, r, h, H, i);
                    sum += exp(l[i] - lse) * kv->v[((size_t)g * kv->room + at) * P + d];
                }
                out[row * D + d] = (float)sum;
            }
            if (seen.lse) seen.lse[row] = (float)lse;
            if (seen.logits) memcpy(seen.logits + row * seen.span, l, (size_t)length * sizeof *l);
        }
        free(l);
    }
}

static void attend_all(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                       const struct model_config *c, float *lse, struct scratch *s)
{
    attend_rows(out, q, kv, n, pos0, 1, (struct attn_view){0}, (struct attn_seen){.lse = lse}, c,
                s);
}

static void attn_logits(float *logits, size_t span, const float *q, const struct kv_layer *kv,
                        int n, int pos0, const struct model_config *c)
{
    const int H = c->H, G = c->G, P = padded_width(c->D);
    for (int r = 0; r < n; r++)
        for (int h = 0; h < H; h++)
            for (int t = 0; t <= pos0 + r; t++)
                logits[((size_t)r * H + h) * span + t] =
                    logit(q + ((size_t)r * H + h) * P, kv, h / (H / G), t, c->D);
}

static void attn_columns(float *sums, size_t span, const float *q, const float *lse,
                         const struct kv_layer *kv, int n, int pos0, const struct model_config *c,
                         struct scratch *s)
{
    const int H = c->H, G = c->G, P = padded_width(c->D);
    (void)s;
    for (int h = 0; h < H; h++)
        for (int t = 0; t < pos0 + n; t++) {
            double sum = sums[h * span + t];
            for (int r = t > pos0 ? t - pos0 : 0; r < n; r++) { /* the rows at t and after it */
                const size_t row = (size_t)r * H + h;
                sum += exp((double)logit(q + row * P, kv, h / (H / G), t, c->D) - lse[row]);
            }
            sums[h * span + t] = (float)sum;
        }
}

static void attn_out(float *x, float *delta, float *before, const float *attention, int n,
                     const struct layer_weights *w, const struct model_config *c, struct scratch *s)
{
    (void)s;
    float *added = xmalloc((size_t)c->E * sizeof *added);
    if (before) memcpy(before, x, (size_t)n * (size_t)c->E * sizeof *x);
    for (int r = 0; r < n; r++) {
        linear(added, &w->o, w->o_bias, attention + (size_t)r * c->H * c->D);
        for (int e = 0; e < c->E; e++) x[(size_t)r * c->E + e] += added[e];
        if (delta) memcpy(delta + (size_t)r * c->E, added, (size_t)c->E * sizeof *added);
    }
    free(added);
}

static void mlp(float *x, int n, const struct layer_weights *w, const struct model_config *c,
                struct scratch *s)
{
    const int E = c->E, F = c->F;
    (void)s;
    float *norm = xmalloc((size_t)(2 * E + 2 * F) * sizeof *norm);
    float *added = norm + E, *gate = added + E, *up = gate + F;

    for (int r = 0; r < n; r++) {
        float *row = x + (size_t)r * E;
        rms_norm(norm, row, w->mlp_norm, E, c->norm_eps);
        linear(gate, &w->gate, w->gate_bias, norm);
        linear(up, &w->up, w->up_bias, norm);
        for (int f = 0; f < F; f++) /* silu(g) = g / (1 + e^-g) */
            gate[f] = (float)(gate[f] / (1 + exp(-(double)gate[f])) * up[f]);
        linear(added, &w->down, w->down_bias, gate);
        for (int e = 0; e < E; e++) row[e] += added[e];
    }
    free(norm);
}

static void head(float *logits, const float *x, int n, const struct weights *w,
                 const struct model_config *c, struct scratch *s)
{
    (void)s;
    float *norm = xmalloc((size_t)c->E * sizeof *norm);
    for (int r = 0; r < n; r++) {
        rms_norm(norm, x + (size_t)r * c->E, w->norm, c->E, c->norm_eps);
        linear(logits + (size_t)r * w->head.rows, &w->head, NULL, norm);
    }
    free(norm);
}

static void pool_scores(float *score, const float *logits, size_t span, int T, int H, int sets,
                        enum score_pool pool)
{
    const int R = H / sets; /* heads that share a set */
    for (int set = 0; set < sets; set++) {
        float *best = score + (size_t)set * T;
        for (int h = set * R; h < (set + 1) * R; h++) {
            const float *l = logits + h * span;
            const double lse = pool == SCORE_MAX_WEIGHT ? log_sum_exp(l, T) : 0;
            for (int t = 0; t < T; t++) {
                const float v = pool == SCORE_MAX_WEIGHT ? (float)exp(l[t] - lse) : l[t];
                if (h == set * R || v > best[t]) best[t] = v;
            }
        }
    }
}

static void pool_mass(float *mass, const float *logits, size_t span, const float *lse, int T, int H)
{
    for (int t = 0; t < T; t++) {
        double sum = 0;
        for (int h = 0; h < H; h++) sum += exp((double)logits[h * span + t] - lse[h]);
        mass[t] = (float)(sum / H);
    }
}

/* Whether position A goes before position B: NaN is lowest, ties go to the lower index. */
static int better(const void *a, const void *b, void *scores)
{
    const int i = *(const int *)a, j = *(const int *)b;
    const float x = ((const float *)scores)[i], y = ((const float *)scores)[j];
    if (isnan(x) != isnan(y)) return isnan(x) ? 1 : -1;
    if (x != y && !isnan(x)) return x > y ? -1 : 1;
    return (i > j) - (i < j);
}

static int ascending(const void *a, const void *b)
{
    const int i = *(const int *)a, j = *(const int *)b;
    return (i > j) - (i < j);
}

static void top_k(int *idx, const float *score, int T, int k)
{
    int *order = xmalloc((size_t)T * sizeof *order);
    float *scores = xmalloc((size_t)T * sizeof *scores); /* qsort_r() takes no const */
    for (int t = 0; t < T; t++) {
        order[t] = t;
        scores[t] = score[t];
    }
    qsort_r(order, (size_t)T, sizeof *order, better, scores);
    qsort(order, (size_t)k, sizeof *order, ascending);
    memcpy(idx, order, (size_t)k * sizeof *idx);
    free(scores);
    free(order);
}

static const struct ops reference_ops = {
    .name = "reference",
    HOST_OPS,
    .embed = embed,
    .attn_in = attn_in,
    .attend_all = attend_all,
    .attend_rows = attend_rows,
    .attn_logits = attn_logits,
    .attn_columns = attn_columns,
    .far_attend = far_attend_reference,
    .attn_out = attn_out,
    .mlp = mlp,
    .head = head,
    .pool_scores = pool_scores,
    .pool_mass = pool_mass,
    .top_k = top_k,
};

const struct ops *ops_reference(void)
{
    return &reference_ops;
}
