/* cpu.c - the CPU backend: spreads the kernels of cpu_simd.c and oneDNN's product over the cores.
 *
 * Every parallel loop runs over tiles whose borders depend on the problem alone, and partial
 * results meet in a fixed order: the bits do not depend on the number of threads.
 */
#include "core/ops/ops.h"
#include "core/base/base.h"
#include "core/ops/simd.h"

#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#define FEW_ROWS 4 /* up to here a linear layer streams its weights once, as stored */
#define PRODUCT_ROWS                                                                               \
    128 /* tile of oneDNN's product: at 128 x 256 it reaches the speed of a whole one */
#define PRODUCT_COLS 256
#define MATVEC_OUTS 32 /* outputs of one task of a matrix-vector product */

static const struct simd *cpu; /* the instruction set in use */

/* ---- linear layers */

struct linear {
    const struct matrix *w;
    const float *bias; /* or NULL */
    float *out;        /* [n, w->rows] */
};

/* out = x * W^T + bias for COUNT layers that share the input x [n, cols]; with ADD, out += . WIDE
 * is room for the largest W in float32, used when n > FEW_ROWS. */
static void linears(const struct linear *l, int count, const float *x, int n, bool add, float *wide)
{
    if (n <= FEW_ROWS) {
        int tasks[4] = {0}, total = 0;
        for (int i = 0; i < count; i++)
            total += tasks[i] = (l[i].w->rows + MATVEC_OUTS - 1) / MATVEC_OUTS;
#pragma omp parallel for schedule(static)
        for (int task = 0; task < total; task++) {
            int i = 0, at = task;
            while (at >= tasks[i]) at -= tasks[i++];
            const struct matrix *w = l[i].w;
            const int o0 = at * MATVEC_OUTS, rest = w->rows - o0;
            const int outs = rest < MATVEC_OUTS ? rest : MATVEC_OUTS;
            float part[FEW_ROWS][MATVEC_OUTS];
            const char *rows = (const char *)w->data + (size_t)o0 * w->cols * dtype_size(w->type);
            cpu->matvec(part[0], MATVEC_OUTS, rows, w->type, outs, w->cols, x, n);
            for (int r = 0; r < n; r++) {
                float *out = l[i].out + (size_t)r * w->rows + o0;
                for (int o = 0; o < outs; o++) {
                    float v = part[r][o] + (l[i].bias ? l[i].bias[o0 + o] : 0);
                    out[o] = add ? out[o] + v : v;
                }
            }
        }
        return;
    }
    for (int i = 0; i < count; i++) {
        const struct matrix *w = l[i].w;
        const float *b = w->data;
        const int row_tiles = (n + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
        const int col_tiles = (w->rows + PRODUCT_COLS - 1) / PRODUCT_COLS;
#pragma omp parallel
        {
            if (w->type != DTYPE_F32 || (uintptr_t)w->data % sizeof(float)) {
#pragma omp for schedule(static)
                for (int o = 0; o < w->rows; o++)
                    cpu->widen(wide + (size_t)o * w->cols,
                               (const char *)w->data + (size_t)o * w->cols * dtype_size(w->type),
                               w->type, (size_t)w->cols);
#pragma omp single
                b = wide;
            }
#pragma omp for schedule(dynamic) collapse(2)
            for (int rt = 0; rt < row_tiles; rt++)
                for (int ct = 0; ct < col_tiles; ct++) {
                    const int r0 = rt * PRODUCT_ROWS, c0 = ct * PRODUCT_COLS;
                    const int rows = n - r0 < PRODUCT_ROWS ? n - r0 : PRODUCT_ROWS;
                    const int cols = w->rows - c0 < PRODUCT_COLS ? w->rows - c0 : PRODUCT_COLS;
                    float *out = l[i].out + (size_t)r0 * w->rows + c0;
                    /* inside a parallel region oneDNN runs on this thread alone */
                    dnnl_sgemm('N', 'T', rows, cols, w->cols, 1.0f, x + (size_t)r0 * w->cols,
                               w->cols, b + (size_t)c0 * w->cols, w->cols, add ? 1.0f : 0.0f, out,
                               w->rows);
                    if (l[i].bias == NULL) continue;
                    for (int r = 0; r < rows; r++)
                        for (int c = 0; c < cols; c++)
                            out[(size_t)r * w->rows + c] += l[i].bias[c0 + c];
                }
        }
    }
}

static size_t wide_size(const struct matrix *w, int n)
{
    return n > FEW_ROWS ? (size_t)w->rows * (size_t)w->cols : 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void norm_rows(float *out, const float *x, const float *w, int n, int width, float eps)
{
#pragma omp parallel for schedule(static) if (n > FEW_ROWS)
    for (int r = 0; r < n; r++)
        cpu->rms_norm(out + (size_t)r * width, x + (size_t)r * width, w, width, eps);
}

static void embed(float *x, const struct matrix *table, const int *ids, int n)
{
    const size_t E = (size_t)table->cols;
    for (int r = 0; r < n; r++)
        cpu->widen(x + (size_t)r * E,
                   (const char *)table->data + (size_t)ids[r] * E * dtype_size(table->type),
                   table->type, E);
}

/* One head of q or k: its norm where the family has one, RoPE, zero padding.
 * Source: Su et al. 2021 eq. 34, in the half-split order of transformers' rotate_half(). */
static void rotate_head(float *out, const float *in, int D, const float *norm, float eps,
                        const float *cosine, const float *sine)
{
    const int half = D / 2, P = padded_width(D);
    float scale = 1;
    if (norm) {
        float sum = 0;
        for (int d = 0; d < D; d++) sum += in[d] * in[d];
        scale = 1.0f / sqrtf(sum / (float)D + eps);
    }
    for (int d = 0; d < half; d++) {
        float a = in[d], b = in[d + half];
        if (norm) {
            a *= scale * norm[d];
            b *= scale * norm[d + half];
        }
        out[d] = a * cosine[d] - b * sine[d];
        out[d + half] = b * cosine[d] + a * sine[d];
    }
    for (int d = D; d < P; d++) out[d] = 0;
}

static void attn_in(float *q, struct kv_layer *kv, const float *x, int n, int pos0,
                    const struct layer_weights *w, const struct model_config *c,
                    struct rope_table rope, struct scratch *s)
{
    const int H = c->H, G = c->G, D = c->D, E = c->E, P = padded_width(D);
    const size_t N = (size_t)n, half = (size_t)D / 2;
    size_t wide = larger(wide_size(&w->q, n), larger(wide_size(&w->k, n), wide_size(&w->v, n)));
    float *norm = scratch_get(s, N * (size_t)(E + (H + 2 * G) * D) + wide);
    float *qr = norm + N * (size_t)E, *kr = qr + N * (size_t)(H * D),
          *vr = kr + N * (size_t)(G * D);

    norm_rows(norm, x, w->attn_norm, n, E, c->norm_eps);
    const struct linear qkv[] = {
        {&w->q, w->q_bias, qr}, {&w->k, w->k_bias, kr}, {&w->v, w->v_bias, vr}};
    linears(qkv, 3, norm, n, false, vr + N * (size_t)(G * D));

#pragma omp parallel for schedule(static) if (n > FEW_ROWS)
    for (int r = 0; r < n; r++) {
        const size_t pos = (size_t)(pos0 + r);
        const float *cosine = rope.cos + pos * half, *sine = rope.sin + pos * half;
        for (int h = 0; h < H; h++)
            rotate_head(q + ((size_t)r * H + h) * P, qr + ((size_t)r * H + h) * D, D, w->q_norm,
                        c->norm_eps, cosine, sine);
        for (int g = 0; g < G; g++) {
            const size_t row = ((size_t)g * (size_t)kv->room + pos) * (size_t)P;
            rotate_head(kv->k + row, kr + ((size_t)r * G + g) * D, D, w->k_norm, c->norm_eps,
                        cosine, sine);
            memcpy(kv->v + row, vr + ((size_t)r * G + g) * D, (size_t)D * sizeof(float));
            for (int d = D; d < P; d++) kv->v[row + (size_t)d] = 0;
        }
    }
}

static void attn_out(float *x, float *delta, float *before, const float *attention, int n,
                     const struct layer_weights *w, const struct model_config *c, struct scratch *s)
{
    float *wide = scratch_get(s, wide_size(&w->o, n) + 1);
    if (before) memcpy(before, x, (size_t)n * (size_t)c->E * sizeof *x);
    if (delta == NULL) {
        linears(&(struct linear){&w->o, w->o_bias, x}, 1, attention, n, true, wide);
        return;
    }
    linears(&(struct linear){&w->o, w->o_bias, delta}, 1, attention, n, false, wide);
    for (size_t i = 0; i < (size_t)n * (size_t)c->E; i++) x[i] += delta[i];
}

static void mlp(float *x, int n, const struct layer_weights *w, const struct model_config *c,
                struct scratch *s)
{
    const size_t N = (size_t)n, E = (size_t)c->E, F = (size_t)c->F;
    float *norm =
        scratch_get(s, N * (E + 2 * F) + larger(wide_size(&w->gate, n), wide_size(&w->down, n)));
    float *gate = norm + N * E, *up = gate + N * F, *wide = up + N * F;

    norm_rows(norm, x, w->mlp_norm, n, c->E, c->norm_eps);
    const struct linear both[] = {{&w->gate, w->gate_bias, gate}, {&w->up, w->up_bias, up}};
    linears(both, 2, norm, n, false, wide);
#pragma omp parallel for schedule(static) if (n > FEW_ROWS)
    for (int r = 0; r < n; r++) cpu->silu_mul(gate + (size_t)r * F, up + (size_t)r * F, F);
    linears(&(struct linear){&w->down, w->down_bias, x}, 1, gate, n, true, wide);
}

static void head(float *logits, const float *x, int n, const struct weights *w,
                 const struct model_config *c, struct scratch *s)
{
    const size_t N = (size_t)n, E = (size_t)c->E;
    float *norm = scratch_get(s, N * E + wide_size(&w->head, n));
    norm_rows(norm, x, w->norm, n, c->E, c->norm_eps);
    linears(&(struct linear){&w->head, NULL, logits}, 1, norm, n, false, norm + N * E);
}

/* ---- attention of many rows */

/* The (row, head) pairs of kv head g, row-major, cut into tiles of cpu->lanes. */
struct lane_tile {
    int first;               /* pair of lane 0 */
    int least, most;         /* extremes of end[] */
    int end[MAX_TILE_LANES]; /* one past the last key the lane sees; 0: unused */
};

static void fill_tile(struct lane_tile *t, float *qt, const float *q, int tile, int g, int n,
                      int pos0, const struct model_config *c)
{
    const int R = c->H / c->G, P = padded_width(c->D), lanes = cpu->lanes;
    const float scale = 1.0f / sqrtf((float)c->D);
    t->first = tile * lanes;
    t->least = t->most = 0;
    for (int i = 0; i < lanes; i++) {
        const int pair = t->first + i, r = pair / R;
        const bool used = pair < n * R;
        t->end[i] = used ? pos0 + r + 1 : 0;
        if (used && i == 0) t->least = t->end[i];
        if (used) t->most = t->end[i];
        const float *row = q + ((size_t)r * c->H + (size_t)g * R + pair % R) * P;
        for (int d = 0; d < P; d++) qt[(size_t)d * lanes + i] = used ? scale * row[d] : 0;
    }
}

static void attend_all(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                       const struct model_config *c, float *lse, struct scratch *s)
{
    const int H = c->H, G = c->G, D = c->D, R = H / G, P = padded_width(D), lanes = cpu->lanes;
    const int tiles = (n * R + lanes - 1) / lanes;
    const size_t each = 2 * (size_t)P * (size_t)lanes;
    float *work = scratch_get(s, each * (size_t)omp_get_max_threads());

#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int back = 0; back < tiles; back++) /* the last tiles see most: they go first */
        for (int g = 0; g < G; g++) {
            float *qt = work + each * (size_t)omp_get_thread_num(), *out_t = qt + each / 2;
            float tile_lse[MAX_TILE_LANES];
            struct lane_tile t;
            const size_t rows = (size_t)g * (size_t)kv->room * (size_t)P;
            fill_tile(&t, qt, q, tiles - 1 - back, g, n, pos0, c);
            cpu->attend_tile(out_t, tile_lse, qt, NULL, t.end, t.least, t.most, kv->k + rows,
                             kv->v + rows, P);
            for (int i = 0; i < lanes && t.end[i]; i++) {
                const int r = (t.first + i) / R, h = g * R + (t.first + i) % R;
                float *o = out + ((size_t)r * H + h) * D;
                for (int d = 0; d < D; d++) o[d] = out_t[(size_t)d * lanes + i];
                if (lse) lse[(size_t)r * H + h] = tile_lse[i];
            }
        }
}

static void attn_columns(float *sums, size_t span, const float *q, const float *lse,
                         const struct kv_layer *kv, int n, int pos0, const struct model_config *c,
                         struct scratch *s)
{
    const int H = c->H, G = c->G, R = H / G, P = padded_width(c->D), lanes = cpu->lanes;
    const int tiles = (n * R + lanes - 1) / lanes, blocks = (pos0 + n + TILE_KEYS - 1) / TILE_KEYS;
    const size_t each = (size_t)P * (size_t)lanes;
    float *work = scratch_get(s, each * (size_t)G * (size_t)tiles);

#pragma omp parallel
    {
        struct lane_tile t;
#pragma omp for schedule(static) collapse(2)
        for (int g = 0; g < G; g++)
            for (int tile = 0; tile < tiles; tile++)
                fill_tile(&t, work + each * ((size_t)g * (size_t)tiles + (size_t)tile), q, tile, g,
                          n, pos0, c);
                /* A task owns a block of keys of one kv head and meets the tiles in order. */
#pragma omp for schedule(dynamic) collapse(2)
        for (int g = 0; g < G; g++)
            for (int b = 0; b < blocks; b++) {
                const int t0 = b * TILE_KEYS, rest = pos0 + n - t0;
                const int count = rest < TILE_KEYS ? rest : TILE_KEYS;
                for (int tile = 0; tile < tiles; tile++) {
                    int end[MAX_TILE_LANES], lane_head[MAX_TILE_LANES], most = 0;
                    float tile_lse[MAX_TILE_LANES];
                    for (int i = 0; i < lanes; i++) {
                        const int pair = tile * lanes + i, r = pair / R;
                        const bool used = pair < n * R;
                        end[i] = used ? pos0 + r + 1 : 0;
                        if (used) most = end[i];
                        lane_head[i] = used ? pair % R : -1;
                        tile_lse[i] = used ? lse[(size_t)r * H + (size_t)(g * R + pair % R)] : 0;
                    }
                    if (most <= t0) continue;
                    cpu->tile_columns(sums + (size_t)g * R * span + t0, span,
                                      work + each * ((size_t)g * (size_t)tiles + (size_t)tile),
                                      tile_lse, NULL, end, lane_head,
                                      kv->k + (size_t)g * (size_t)kv->room * (size_t)P, t0, count,
                                      P);
                }
            }
    }
}

/* ---- attention of few rows */

static void attend_rows(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                        int pos_step, struct attn_view view, struct attn_seen seen,
                        const struct model_config *c, struct scratch *s)
{
    const int H = c->H, D = c->D, P = padded_width(D), per_kv = H / c->G;
    /* Heads that read the same positions of the same keys go together. */
    const int lists = view.idx && view.sets > c->G ? view.sets : c->G, R = H / lists;
    int longest = 0;
    for (int r = 0; r < n; r++) {
        const int length = view_length(&view, r, pos0 + r * pos_step);
        longest = length > longest ? length : longest;
    }
    const int chunks = (longest + CHUNK_KEYS - 1) / CHUNK_KEYS;
    const float scale = 1.0f / sqrtf((float)D);
    const size_t part = (size_t)P + 2, each = 2 * (size_t)R * CHUNK_KEYS + (size_t)R * (size_t)P;
    float *work = scratch_get(s, part * (size_t)n * (size_t)H * (size_t)chunks +
                                     each * (size_t)omp_get_max_threads());
    float *mine = work + part * (size_t)n * (size_t)H * (size_t)chunks;

#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(3)
        for (int r = 0; r < n; r++)
            for (int g = 0; g < lists; g++)
                for (int ch = 0; ch < chunks; ch++) {
                    const int pos = pos0 + r * pos_step, c0 = ch * CHUNK_KEYS;
                    const int rest = view_length(&view, r, pos) - c0;
                    if (rest <= 0) continue;
                    const int count = rest < CHUNK_KEYS ? rest : CHUNK_KEYS, h0 = g * R;
                    int at[CHUNK_KEYS];
                    if (view.idx) {
                        const int set = view.sets == 1 ? 0 : h0 / (H / view.sets);
                        const size_t list = view.shared ? 0 : (size_t)r;
                        const int *idx = view.idx + (list * view.sets + set) * view.stride;
                        const int listed = view.count[r], after = view.tail[r] - listed;
                        for (int i = 0; i < count; i++)
                            at[i] = c0 + i < listed ? idx[c0 + i] : after + c0 + i;
                    } else {
                        for (int i = 0; i < count; i++) at[i] = c0 + i;
                    }
                    float *own = mine + each * (size_t)omp_get_thread_num();
                    float *weights = own, *acc = weights + (size_t)R * CHUNK_KEYS;
                    float *logits = acc + (size_t)R * P, max[R], sum[R];
                    size_t stride = CHUNK_KEYS;
                    if (seen.logits) {
                        logits = seen.logits + ((size_t)r * H + h0) * seen.span + c0;
                        stride = seen.span;
                    }
                    const size_t rows = (size_t)(h0 / per_kv) * (size_t)kv->room * (size_t)P;
                    cpu->dots(logits, stride, q + ((size_t)r * H + h0) * P, R, kv->k + rows, at,
                              count, P, scale);
                    cpu->weigh(acc, max, sum, logits, stride, R, kv->v + rows, at, count, P,
                               weights);
                    for (int i = 0; i < R; i++) {
                        float *to = work + part * (((size_t)r * H + h0 + i) * chunks + ch);
                        memcpy(to + 2, acc + (size_t)i * P, (size_t)P * sizeof *to);
                        to[0] = max[i];
                        to[1] = sum[i];
                    }
                }
                /* The chunks of a head meet in order. */
#pragma omp for schedule(static) collapse(2)
        for (int r = 0; r < n; r++)
            for (int h = 0; h < H; h++) {
                const int length = view_length(&view, r, pos0 + r * pos_step);
                const int used = (length + CHUNK_KEYS - 1) / CHUNK_KEYS;
                const float *from = work + part * ((size_t)r * H + h) * chunks;
                float *o = out + ((size_t)r * H + h) * D, top = -INFINITY, total = 0;
                for (int ch = 0; ch < used; ch++) top = fmaxf(top, from[part * ch]);
                memset(o, 0, (size_t)D * sizeof *o);
                for (int ch = 0; ch < used; ch++) {
                    const float *p = from + part * ch, w = expf(p[0] - top);
                    total += w * p[1];
                    for (int d = 0; d < D; d++) o[d] += w * p[2 + d];
                }
                for (int d = 0; d < D; d++) o[d] /= total;
                if (seen.lse) seen.lse[(size_t)r * H + h] = top + logf(total);
            }
    }
}

static void attn_logits(float *logits, size_t span, const float *q, const struct kv_layer *kv,
                        int n, int pos0, const struct model_config *c)
{
    const int H = c->H, G = c->G, R = H / G, P = padded_width(c->D);
    const int chunks = (pos0 + n + CHUNK_KEYS - 1) / CHUNK_KEYS;
    const float scale = 1.0f / sqrtf((float)c->D);
#pragma omp parallel for schedule(dynamic) collapse(3)
    for (int r = 0; r < n; r++)
        for (int g = 0; g < G; g++)
            for (int ch = 0; ch < chunks; ch++) {
                const int c0 = ch * CHUNK_KEYS, rest = pos0 + r + 1 - c0;
                if (rest <= 0) continue;
                int at[CHUNK_KEYS], count = rest < CHUNK_KEYS ? rest : CHUNK_KEYS;
                for (int i = 0; i < count; i++) at[i] = c0 + i;
                cpu->dots(logits + ((size_t)r * H + (size_t)g * R) * span + c0, span,
                          q + ((size_t)r * H + (size_t)g * R) * P, R,
                          kv->k + (size_t)g * (size_t)kv->room * (size_t)P, at, count, P, scale);
            }
}

/* ---- pooling and selection */

#define POOL_BLOCK 2048  /* positions of one task */
#define POOL_ALONE 65536 /* logits up to which one core is done before another wakes up */

static void pool_scores(float *score, const float *logits, size_t span, int T, int H, int sets,
                        enum score_pool pool)
{
    const int R = H / sets, blocks = (T + POOL_BLOCK - 1) / POOL_BLOCK;
    float lse[H];
#pragma omp parallel if ((size_t)T * H > POOL_ALONE)
    {
        if (pool == SCORE_MAX_WEIGHT) {
#pragma omp for schedule(static)
            for (int h = 0; h < H; h++) lse[h] = cpu->log_sum_exp(logits + (size_t)h * span, T);
        }
#pragma omp for schedule(static) collapse(2)
        for (int set = 0; set < sets; set++)
            for (int b = 0; b < blocks; b++) {
                const int t0 = b * POOL_BLOCK, count = T - t0 < POOL_BLOCK ? T - t0 : POOL_BLOCK;
                const float *from = logits + (size_t)set * R * span + t0;
                float *to = score + (size_t)set * (size_t)T + t0;
                if (pool == SCORE_MAX_LOGIT)
                    cpu->max_rows(to, from, span, R, count);
                else
                    cpu->weigh_rows(to, from, span, lse + set * R, R, count, 0);
            }
    }
}

static void pool_mass(float *mass, const float *logits, size_t span, const float *lse, int T, int H)
{
    const int blocks = (T + POOL_BLOCK - 1) / POOL_BLOCK;
#pragma omp parallel for schedule(static) if ((size_t)T * H > POOL_ALONE)
    for (int b = 0; b < blocks; b++) {
        const int t0 = b * POOL_BLOCK, count = T - t0 < POOL_BLOCK ? T - t0 : POOL_BLOCK;
        cpu->weigh_rows(mass + t0, logits + t0, span, lse, H, count, 1);
    }
}

/* The float as an unsigned number of the same order; every NaN is lowest, -0 equals 0. */
static inline uint32_t order_key(float f)
{
    uint32_t u;
    f += 0.0f; /* -0 + 0 is +0 */
    memcpy(&u, &f, sizeof u);
    if (f != f) return 0;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* And back; NaN of the lowest. */
static inline float key_value(uint32_t key)
{
    const uint32_t u = key & 0x80000000u ? key ^ 0x80000000u : ~key;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

#define TOP_GROUP 64 /* scores of a group, at most */

/* Two passes over all scores, both vectorised: the K-th best of the largest of each of 2 K groups
 * or more is reached by K scores at least, and by few others. Only those are looked at one by one.
 */
static void top_k(int *idx, const float *score, int T, int k)
{
    uint32_t *key = xmalloc(2 * (size_t)T * sizeof *key), last = 0;
    int *at = (int *)(key + T), n = T, need = k, found = 0;
    const int wide = k > 0 && T / (2 * k) < TOP_GROUP ? T / (2 * k) : TOP_GROUP;
    float least = NAN;

    if (k > 0 && wide > 1) {
        float *best = (float *)at;
        const int groups = T / wide; /* of scores that many apart; what is left over is in none */
        cpu->max_rows(best, score, (size_t)groups, wide, groups);
        for (int i = 0; i < groups; i++) key[i] = order_key(best[i]);
        least = key_value(cpu->kth_largest(key, groups, k));
    }
    if (least == least)
        n = cpu->reach(at, score, T, least);
    else
        for (int t = 0; t < T; t++) at[t] = t;
    for (int i = 0; i < n; i++) key[i] = order_key(score[at[i]]);
    if (k > 0) last = cpu->kth_largest(key, n, k);
    for (int i = 0; i < n; i++) need -= key[i] > last; /* of those equal to it */
    for (int i = 0; i < n && found < k; i++) {
        const bool equal = key[i] == last;
        idx[found] = at[i];
        found += key[i] > last || (equal && need > 0);
        need -= equal;
    }
    free(key);
}

static const struct ops cpu_ops = {
    .name = "cpu",
    HOST_OPS,
    .embed = embed,
    .attn_in = attn_in,
    .attend_all = attend_all,
    .attend_rows = attend_rows,
    .attn_logits = attn_logits,
    .attn_columns = attn_columns,
    .far_attend = far_attend_cpu,
    .attn_out = attn_out,
    .mlp = mlp,
    .head = head,
    .pool_scores = pool_scores,
    .pool_mass = pool_mass,
    .top_k = top_k,
};

const struct simd *simd_in_use(void)
{
    return cpu;
}

const struct ops *ops_cpu(const char *isa)
{
    static const struct simd *const sets[] = {&simd_avx512, &simd_avx2, &simd_plain};
    for (size_t i = 0; i < COUNT_OF(sets); i++) {
        bool has = sets[i] == &simd_plain;
#if defined(__x86_64__)
        if (sets[i] == &simd_avx512)
            has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        if (sets[i] == &simd_avx2)
            has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
        if (!has || (isa && strcmp(isa, sets[i]->name) != 0)) continue;
        cpu = sets[i];
        return &cpu_ops;
    }
    return NULL;
}
