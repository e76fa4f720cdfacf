/* far_cpu.c - attention that keeps its distances, fast: keys of the list are turned back as they
 * are gathered, once for all rows and heads that see them, and the kernels of cpu_simd.c walk over
 * them and over the window. Results do not depend on the number of threads, as in cpu.c.
 */
#include "core/base/base.h"
#include "core/ops/far_host.h"
#include "core/ops/simd.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define FEW_ROWS 8 /* below, rows go one by one */

static int window_of(const struct far_group *g, int r)
{
    return g->T + r - g->tail[r] + 1;
}

/* ---- few rows, as in a step: keys and values are read once for all heads that share them */

/* Chunks of the list of row R, and of its window; no chunk holds both. */
static int list_chunks(const struct far_group *g, int r)
{
    return (g->count[r] + CHUNK_KEYS - 1) / CHUNK_KEYS;
}

static int chunks_of(const struct far_group *g, int r)
{
    return list_chunks(g, r) + (window_of(g, r) + CHUNK_KEYS - 1) / CHUNK_KEYS;
}

/* Floats of working memory of attend_chunk(). */
static size_t chunk_work(const struct far *f)
{
    const size_t R = (size_t)(f->H / f->G), P = (size_t)f->P;
    return CHUNK_KEYS * P + R * CHUNK_KEYS + R * P;
}

/* Chunk CH of row R for the query heads of kv head HEAD: the logits [R, span] of the row's entries,
 * and for each head, STEP apart, TO [2 + P] = maximum, sum and weighted values. */
static void attend_chunk(float *to, size_t step, float *logits, size_t span, const struct far *f,
                         const struct far_group *g, int r, int head, int ch, float *work)
{
    const struct simd *simd = simd_in_use();
    const int R = f->H / f->G, count = g->count[r], lists = list_chunks(g, r);
    const bool listed = ch < lists;
    const int first = listed ? ch * CHUNK_KEYS : count + (ch - lists) * CHUNK_KEYS;
    const int rest = (listed ? count : count + window_of(g, r)) - first;
    const int n = rest < CHUNK_KEYS ? rest : CHUNK_KEYS;
    const size_t P = (size_t)f->P, start = (size_t)head * (size_t)g->kv->room * P;
    const size_t row = ((size_t)r * (size_t)f->H + (size_t)(head * R)) * P;
    const float *keys = g->kv->k + start, *values = g->kv->v + start;
    float *turned = work, *weights = turned + CHUNK_KEYS * P;
    float *acc = weights + (size_t)R * CHUNK_KEYS, max[R], sum[R];
    int at[CHUNK_KEYS], own[CHUNK_KEYS]; /* rows of values, and of keys */
    for (int i = 0; i < n; i++) {
        at[i] = listed ? g->list[first + i] : g->tail[r] + first - count + i;
        own[i] = listed ? i : at[i];
        if (listed)
            far_listed_key(turned + (size_t)i * P, keys + (size_t)at[i] * P, at[i], f, g->rope);
    }
    simd->dots(logits + first, span, (listed ? g->turned : g->q) + row, R, listed ? turned : keys,
               own, n, f->P, 1.0f / sqrtf((float)f->D));
    simd->weigh(acc, max, sum, logits + first, span, R, values, at, n, f->P, weights);
    for (int i = 0; i < R; i++, to += step) {
        to[0] = max[i];
        to[1] = sum[i];
        memcpy(to + 2, acc + (size_t)i * P, P * sizeof *to);
    }
}

/* The chunks of a head, PART floats each, meet in order. */
static void join_chunks(float *out, float *lse, const float *from, size_t part, int chunks, int D)
{
    float top = -INFINITY, total = 0;
    for (int ch = 0; ch < chunks; ch++) top = fmaxf(top, from[part * (size_t)ch]);
    memset(out, 0, (size_t)D * sizeof *out);
    for (int ch = 0; ch < chunks; ch++) {
        const float *p = from + part * (size_t)ch, w = expf(p[0] - top);
        total += w * p[1];
        for (int d = 0; d < D; d++) out[d] += w * p[2 + d];
    }
    for (int d = 0; d < D; d++) out[d] /= total;
    *lse = top + logf(total);
}

/* What the LOGITS [H, span] of row R gave each token of its window, and each chosen block. */
static void count_weights(const struct far *f, const struct far_group *g, int r,
                          const float *logits, size_t span)
{
    const int H = f->H, size = f->rule.block_size, window = window_of(g, r);
    const float *lse = g->seen.lse + (size_t)r * (size_t)H;
#pragma omp parallel for schedule(static) if (window * H > 8192)
    for (int h = 0; h < H; h++) {
        const float *l = logits + (size_t)h * span + g->count[r];
        float *mass = g->mass + (size_t)h * f->span + g->tail[r];
        for (int i = 0; g->mass && i < window; i++) mass[i] += expf(l[i] - lse[h]);
    }
    for (int h = 0; g->block_mass && h < H; h++) {
        const float *l = logits + (size_t)h * span + f->rule.n_init;
        for (int i = 0; i < g->chosen * size; i++) g->block_mass[i / size] += expf(l[i] - lse[h]);
    }
}

static void one_row(struct far *f, const struct far_group *g, int r)
{
    const int H = f->H, G = f->G, R = H / G, D = f->D, chunks = chunks_of(g, r);
    const size_t row = (size_t)r * (size_t)H, part = (size_t)f->P + 2, each = chunk_work(f);
    const size_t span = g->seen.logits ? g->seen.span : (size_t)(g->count[r] + window_of(g, r));
    const size_t parts = part * (size_t)H * (size_t)chunks;
    const size_t own = g->seen.logits ? 0 : (size_t)H * span;
    float *work = scratch_get(&f->work, parts + own + each * (size_t)omp_get_max_threads());
    float *logits = g->seen.logits ? g->seen.logits + row * span : work + parts;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (int head = 0; head < G; head++)
            for (int ch = 0; ch < chunks; ch++) {
                const int h = head * R;
                attend_chunk(work + part * (size_t)(h * chunks + ch), part * (size_t)chunks,
                             logits + (size_t)h * span, span, f, g, r, head, ch,
                             work + parts + own + each * (size_t)omp_get_thread_num());
            }
#pragma omp for schedule(static)
        for (int h = 0; h < H; h++)
            join_chunks(g->out + (row + (size_t)h) * (size_t)D, g->seen.lse + row + h,
                        work + part * (size_t)(h * chunks), part, chunks, D);
    }
    if (g->mass || g->block_mass) count_weights(f, g, r, logits, span);
}

/* ---- many rows: tiles of lanes, the rows of one head across */

struct lane_tile {
    int rows;                  /* lanes in use */
    int least, most;           /* extremes of end */
    int listed;                /* largest count */
    int begin[MAX_TILE_LANES]; /* of each lane's window */
    int end[MAX_TILE_LANES];   /* 0: unused */
    int seen[MAX_TILE_LANES];  /* entries of the list it sees */
    int fewest;                /* of them */
};

static void fill_tile(struct lane_tile *t, const struct far_group *g, int tile, int lanes)
{
    const int first = tile * lanes, rest = g->rows - first;
    memset(t, 0, sizeof *t);
    t->rows = rest < lanes ? rest : lanes;
    for (int i = 0; i < t->rows; i++) {
        t->begin[i] = g->tail[first + i];
        t->end[i] = g->T + first + i + 1;
        t->seen[i] = g->count[first + i];
    }
    t->least = t->end[0];
    t->most = t->end[t->rows - 1];
    t->fewest = t->seen[0];
    t->listed = t->seen[t->rows - 1];
}

/* to [P, lanes] = the queries of head H at the tile's rows, scaled and transposed. */
static void transpose(float *to, const float *q, const struct far *f, int h, int tile, int lanes,
                      int rows)
{
    const int P = f->P;
    const float scale = 1.0f / sqrtf((float)f->D);
    for (int i = 0; i < lanes; i++) {
        const float *row =
            q + (((size_t)tile * (size_t)lanes + (size_t)i) * (size_t)f->H + (size_t)h) * (size_t)P;
        for (int d = 0; d < P; d++)
            to[(size_t)d * (size_t)lanes + (size_t)i] = i < rows ? scale * row[d] : 0;
    }
}

/* Joins what the rows of a tile saw of their windows, W, and of their lists, L (-inf: nothing),
 * under one softmax. */
static void join_tile(const struct far *f, const struct far_group *g, int h, int tile, int lanes,
                      int rows, const float *w, const float *w_lse, const float *l,
                      const float *l_lse)
{
    const size_t D = (size_t)f->D;
    for (int i = 0; i < rows; i++) {
        const size_t row = (size_t)(tile * lanes + i) * (size_t)f->H + (size_t)h;
        const bool both = l && !(l_lse[i] == -INFINITY);
        const float top = both && l_lse[i] > w_lse[i] ? l_lse[i] : w_lse[i];
        const float a = expf(w_lse[i] - top), b = both ? expf(l_lse[i] - top) : 0, sum = a + b;
        float *out = g->out + row * D;
        for (size_t d = 0; d < D; d++) {
            const size_t at = d * (size_t)lanes + (size_t)i;
            out[d] = both ? (a * w[at] + b * l[at]) / sum : w[at];
        }
        g->seen.lse[row] = top + logf(sum);
    }
}

/* The tokens of all windows from t0 on, COUNT of them: what they received from the rows. Q are the
 * tiles of head H. */
static void add_columns(struct far *f, const struct far_group *g, int h, int t0, int count,
                        const float *q, const struct lane_tile *tile, int tiles, int lanes)
{
    const struct simd *simd = simd_in_use();
    const int g0 = h / (f->H / f->G);
    const float *k = g->kv->k + (size_t)g0 * (size_t)g->kv->room * (size_t)f->P;
    for (int i = 0; i < tiles; i++) {
        const struct lane_tile *t = &tile[i];
        float lse[MAX_TILE_LANES] = {0};
        if (t->most <= t0 || t->begin[0] >= t0 + count) continue;
        for (int r = 0; r < t->rows; r++)
            lse[r] = g->seen.lse[(size_t)(i * lanes + r) * (size_t)f->H + (size_t)h];
        simd->tile_columns(g->mass + (size_t)h * f->span + t0, 0,
                           q + (size_t)i * (size_t)f->P * (size_t)lanes, lse, t->begin, t->end,
                           NULL, k, t0, count, f->P);
    }
}

static void many_rows(struct far *f, const struct far_group *g)
{
    const struct simd *simd = simd_in_use();
    const int H = f->H, G = f->G, R = H / G, P = f->P, lanes = simd->lanes;
    const int tiles = (g->rows + lanes - 1) / lanes, T0 = g->tail[0] / TILE_KEYS * TILE_KEYS;
    const int blocks = (g->T + g->rows - T0 + TILE_KEYS - 1) / TILE_KEYS;
    const size_t room = ((size_t)g->listed + TILE_KEYS - 1) / TILE_KEYS * TILE_KEYS * (size_t)P;
    const size_t each = (size_t)P * (size_t)lanes, all = each * (size_t)(tiles * H);
    float *keys = scratch_get(&f->work, 2 * room * (size_t)G + 2 * all +
                                            2 * each * (size_t)omp_get_max_threads());
    float *values = keys + room * (size_t)G, *q = values + room * (size_t)G, *turned = q + all;
    float *work = turned + all;
    struct lane_tile *tile = xmalloc((size_t)tiles * sizeof *tile);
    for (int i = 0; i < tiles; i++) fill_tile(&tile[i], g, i, lanes);

#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2)
        for (int head = 0; head < G; head++)
            for (int i = 0; i < g->listed; i++) {
                const size_t to = (size_t)head * room + (size_t)i * (size_t)P;
                const size_t from =
                    ((size_t)head * (size_t)g->kv->room + (size_t)g->list[i]) * (size_t)P;
                far_listed_key(keys + to, g->kv->k + from, g->list[i], f, g->rope);
                memcpy(values + to, g->kv->v + from, (size_t)P * sizeof *values);
            }
#pragma omp for schedule(dynamic) collapse(2)
        for (int h = 0; h < H; h++)
            for (int i = 0; i < tiles; i++) {
                const struct lane_tile *t = &tile[i];
                const size_t at = each * (size_t)(h * tiles + i);
                const size_t head = (size_t)(h / R) * (size_t)g->kv->room * (size_t)P;
                float *w = work + 2 * each * (size_t)omp_get_thread_num(), *l = w + each;
                float w_lse[MAX_TILE_LANES], l_lse[MAX_TILE_LANES];
                transpose(q + at, g->q, f, h, i, lanes, t->rows);
                simd->attend_tile(w, w_lse, q + at, t->begin, t->end, t->least, t->most,
                                  g->kv->k + head, g->kv->v + head, P);
                if (t->listed > 0) {
                    transpose(turned + at, g->turned, f, h, i, lanes, t->rows);
                    simd->attend_tile(l, l_lse, turned + at, NULL, t->seen, t->fewest, t->listed,
                                      keys + (size_t)(h / R) * room,
                                      values + (size_t)(h / R) * room, P);
                }
                join_tile(f, g, h, i, lanes, t->rows, w, w_lse, t->listed > 0 ? l : NULL, l_lse);
            }
            /* A task owns keys of one head and meets the tiles in order. */
#pragma omp for schedule(dynamic) collapse(2)
        for (int h = 0; h < H; h++)
            for (int b = 0; b < blocks; b++) {
                const int t0 = T0 + b * TILE_KEYS, rest = g->T + g->rows - t0;
                if (g->mass)
                    add_columns(f, g, h, t0, rest < TILE_KEYS ? rest : TILE_KEYS,
                                q + each * (size_t)(h * tiles), tile, tiles, lanes);
            }
    }
    free(tile);
}

static void fast_group(struct far *f, const struct far_group *g)
{
    if (g->rows >= FEW_ROWS && g->seen.logits == NULL && g->block_mass == NULL) {
        many_rows(f, g);
        return;
    }
    for (int r = 0; r < g->rows; r++) one_row(f, g, r);
}

void far_attend_cpu(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                    int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                    struct attn_view *view, const struct model_config *c, struct scratch *s)
{
    (void)c, (void)s;
    far_attend_with(f, layer, out, q, kv, n, pos0, prefill, rope, seen, view, fast_group);
}
