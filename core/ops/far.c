/* far.c - attention that keeps its distances, in host memory: which blocks a group of queries sees,
 * what stands for a block, which of them device memory would hold; and the definition of the
 * attention itself. Source: Xiao et al. 2024, InfLLM, section 3; docs/methods.md says what differs.
 */
#include "core/base/base.h"
#include "core/ops/far_host.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALONE 65536 /* products up to which one core is done before another wakes up */

/* ---- state */

void far_close(struct far *f)
{
    if (f == NULL) return;
    for (int l = 0; l < f->L; l++) {
        free(f->cache[l].block);
        free(f->cache[l].priority);
    }
    free(f->cache);
    free(f->mass);
    free(f->repr);
    free(f->made);
    free(f->list);
    free(f->chosen);
    free(f->seen);
    free(f->target);
    scratch_free(&f->turned);
    scratch_free(&f->work);
    free(f);
}

/* Entries of a list, at most: between the last block and the window are less than a block when a
 * group begins, and its rows add to that. */
static int longest_list(const struct far_rule *r)
{
    const double all = r->n_init + ((double)r->topk + 1) * r->block_size + r->exc_block_size;
    const double most = r->topk > 0 ? all : r->n_init;
    return most < r->room ? (int)most + 1 : r->room;
}

struct far *far_open(const struct far_rule *rule, const struct model_config *c)
{
    struct far *f = xcalloc(1, sizeof *f);
    const size_t L = (size_t)c->L, H = (size_t)c->H;
    *f = (struct far){.rule = *rule, .L = c->L, .H = c->H, .G = c->G, .D = c->D};
    f->P = padded_width(c->D);
    f->stride = longest_list(rule);
    f->most = far_blocks(rule, rule->room);
    f->cache = xcalloc(L, sizeof *f->cache);
    f->made = xcalloc(2 * L, sizeof *f->made);
    f->counted = f->made + L;
    f->list = xmalloc(L * (size_t)f->stride * sizeof *f->list);
    f->target = xmalloc((size_t)c->D * sizeof *f->target);
    if (rule->topk == 0) return f;
    f->span = ((size_t)rule->room + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    f->chosen = xmalloc((size_t)(f->most + 1) * sizeof *f->chosen);
    for (size_t l = 0; l < L; l++) {
        const size_t held = (size_t)(rule->max_cached < f->most ? rule->max_cached : f->most) + 1;
        f->cache[l].block = xmalloc(held * sizeof *f->cache->block);
        f->cache[l].priority = xmalloc(held * sizeof *f->cache->priority);
    }
    f->mass = big_alloc(L * H * f->span * sizeof(float), "weights of tokens");
    f->repr = big_alloc((L * (size_t)f->most * H * (size_t)f->P + 1) * sizeof(float), "blocks");
    if (f->mass && f->repr) return f;
    far_close(f);
    return NULL;
}

void far_stats(struct far *f, struct far_stats *stats)
{
    *stats = f->stats;
}

/* ---- rotations: every factor that the RoPE kind puts on cos and sin stays on q and k */

/* out = IN with pair d turned by the angle of COSINE[d], SINE[d]. */
static void turn(float *out, const float *in, int D, const float *cosine, const float *sine)
{
    const int half = D / 2;
    for (int d = 0; d < half; d++) {
        const float a = in[d], b = in[d + half];
        out[d] = a * cosine[d] - b * sine[d];
        out[d + half] = b * cosine[d] + a * sine[d];
    }
}

void far_listed_key(float *out, const float *in, int pos, const struct far *f,
                    struct rope_table rope)
{
    const int D = f->D, half = D / 2;
    const float *cosine = rope.cos + (size_t)pos * (size_t)half;
    const float *sine = rope.sin + (size_t)pos * (size_t)half;
    const float over = 1 / rope.cos[0]; /* position 0 is not turned: cos is the factor alone */
    memcpy(out, in, (size_t)f->P * sizeof *out);
    if (f->rule.turned) return;
    for (int d = 0; d < half; d++) {
        const float a = in[d], b = in[d + half];
        out[d] = (a * cosine[d] + b * sine[d]) * over;
        out[d + half] = (b * cosine[d] - a * sine[d]) * over;
    }
}

/* Where queries for the list turn to; it may lie past the end of the table. */
static void aim(struct far *f, struct rope_table rope)
{
    const int half = f->D / 2;
    const double factor = rope.cos[0];
    long left = (long)f->rule.n_local - 1 + (f->rule.turned ? f->rule.n_init : 0);
    if (f->aimed) return;
    for (int d = 0; d < half; d++) f->target[d] = 1, f->target[d + half] = 0;
    while (left > 0) {
        const long by = left < f->rule.room ? left : f->rule.room - 1;
        for (int d = 0; d < half; d++) {
            const double a = f->target[d], b = f->target[d + half];
            const double cosine = rope.cos[by * half + d] / factor;
            const double sine = rope.sin[by * half + d] / factor;
            f->target[d] = a * cosine - b * sine;
            f->target[d + half] = b * cosine + a * sine;
        }
        left -= by;
    }
    f->aimed = true;
}

/* The queries Q [rows, H, P] at T .. turned to the list's distance. */
static const float *turned_queries(struct far *f, const float *q, int rows, int T,
                                   struct rope_table rope)
{
    const int H = f->H, P = f->P, half = f->D / 2;
    float *out = scratch_get(&f->turned, (size_t)rows * (size_t)(H * P));
    aim(f, rope);
#pragma omp parallel for schedule(static) if (rows > 8)
    for (int r = 0; r < rows; r++) {
        float cosine[half + 1], sine[half + 1]; /* of the angle between: target less position */
        for (int d = 0; d < half; d++) {
            const size_t at = (size_t)(T + r) * (size_t)half + (size_t)d;
            const double a = f->target[d] / rope.cos[0], b = f->target[d + half] / rope.cos[0];
            cosine[d] = (float)(a * rope.cos[at] + b * rope.sin[at]);
            sine[d] = (float)(b * rope.cos[at] - a * rope.sin[at]);
        }
        for (int h = 0; h < H; h++) {
            const size_t row = ((size_t)r * (size_t)H + (size_t)h) * (size_t)P;
            memcpy(out + row, q + row, (size_t)P * sizeof *out);
            turn(out + row, q + row, f->D, cosine, sine);
        }
    }
    return out;
}

/* ---- blocks */

/* For each query head the mean of the keys, turned back, of the repr_topk tokens of block B that
 * got most weight while they were in a window; ties to the lower. */
static void represent(struct far *f, int layer, int b, const struct kv_layer *kv,
                      struct rope_table rope)
{
    const struct far_rule *rule = &f->rule;
    const int H = f->H, P = f->P, R = H / f->G, size = rule->block_size;
    const int first = rule->n_init + b * size;
    float *to = f->repr + ((size_t)layer * (size_t)f->most + (size_t)b) * (size_t)(H * P);
    float *key = xmalloc((size_t)P * sizeof *key);
    double *sum = xmalloc((size_t)P * sizeof *sum);
    bool *taken = xmalloc((size_t)size * sizeof *taken);
    for (int h = 0; h < H; h++, to += P) {
        const float *mass = f->mass + ((size_t)layer * (size_t)H + (size_t)h) * f->span + first;
        const float *keys =
            kv->k + ((size_t)(h / R) * (size_t)kv->room + (size_t)first) * (size_t)P;
        memset(taken, 0, (size_t)size * sizeof *taken);
        for (int d = 0; d < P; d++) sum[d] = 0;
        for (int i = 0; i < rule->repr_topk; i++) {
            int best = -1;
            for (int t = 0; t < size; t++)
                if (!taken[t] && (best < 0 || mass[t] > mass[best])) best = t;
            taken[best] = true;
            far_listed_key(key, keys + (size_t)best * (size_t)P, first + best, f, rope);
            for (int d = 0; d < P; d++) sum[d] += key[d];
        }
        for (int d = 0; d < P; d++) to[d] = (float)(sum[d] / rule->repr_topk);
    }
    free(key);
    free(sum);
    free(taken);
}

static void represent_until(struct far *f, int layer, int blocks, const struct kv_layer *kv,
                            struct rope_table rope)
{
    const int from = f->made[layer];
#pragma omp parallel for schedule(static) if (blocks - from > 1)
    for (int b = from; b < blocks; b++) represent(f, layer, b, kv, rope);
    if (blocks > from) f->made[layer] = blocks;
}

static int by_score(const void *a, const void *b, void *scores)
{
    const int i = *(const int *)a, j = *(const int *)b;
    const double x = ((const double *)scores)[i], y = ((const double *)scores)[j];
    if (x != y) return x > y ? -1 : 1;
    return i - j;
}

static int ascending(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Of the first BLOCKS of LAYER the topk that the mean of TURNED [rows, H, P] agrees with most,
 * summed over the heads: f->chosen, ascending. Returns how many. */
static int choose(struct far *f, int layer, int blocks, const float *turned, int rows)
{
    const int topk = f->rule.topk, width = f->H * f->P;
    const float *repr = f->repr + (size_t)layer * (size_t)f->most * (size_t)width;
    for (int b = 0; b < blocks; b++) f->chosen[b] = b;
    if (blocks <= topk) return blocks;
    double *mean = xcalloc((size_t)(width + blocks), sizeof *mean), *score = mean + width;
#pragma omp parallel if ((size_t)width * (size_t)(blocks + rows) > ALONE)
    {
#pragma omp for schedule(static)
        for (int i = 0; i < width; i += ROW_ALIGN)
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < ROW_ALIGN; j++)
                    mean[i + j] +=
                        (double)turned[(size_t)r * (size_t)width + (size_t)(i + j)] / rows;
#pragma omp for schedule(static)
        for (int b = 0; b < blocks; b++) {
            const float *row = repr + (size_t)b * (size_t)width;
            double part[ROW_ALIGN] = {0}; /* sums side by side keep the processor busy */
            for (int i = 0; i < width; i += ROW_ALIGN)
                for (int j = 0; j < ROW_ALIGN; j++) part[j] += mean[i + j] * row[i + j];
            for (int j = 0; j < ROW_ALIGN; j++) score[b] += part[j];
        }
    }
    qsort_r(f->chosen, (size_t)blocks, sizeof *f->chosen, by_score, score);
    qsort(f->chosen, (size_t)topk, sizeof *f->chosen, ascending);
    free(mean);
    return topk;
}

/* ---- the cache of blocks that a device has: it changes no result, and is simulated so that its
 * hit rate can be studied anywhere */

static bool is_chosen(const struct far *f, int chosen, int block)
{
    for (int i = 0; i < chosen; i++)
        if (f->chosen[i] == block) return true;
    return false;
}

static int find_cached(const struct far_cache *c, int block)
{
    for (int i = 0; i < c->n; i++)
        if (c->block[i] == block) return i;
    return -1;
}

/* Before a step: brings in the chosen blocks; for each, the block of least priority that is not
 * chosen goes, ties to the lower. */
static void use_blocks(struct far *f, struct far_cache *c, int chosen)
{
    c->clock++;
    for (int i = 0; i < chosen; i++) {
        int slot = find_cached(c, f->chosen[i]);
        f->stats.chosen++;
        if (slot < 0) {
            f->stats.missed++;
            slot = c->n < f->rule.max_cached ? c->n++ : -1;
            for (int k = 0, full = slot < 0; full && k < c->n; k++) {
                if (is_chosen(f, chosen, c->block[k])) continue;
                if (slot < 0 || c->priority[k] < c->priority[slot] ||
                    (c->priority[k] == c->priority[slot] && c->block[k] < c->block[slot]))
                    slot = k;
            }
            c->block[slot] = f->chosen[i];
        }
        c->priority[slot] = f->rule.policy == BLOCKS_LRU ? c->clock : 0;
    }
}

/* After it, under LRU-S: priorities fade, and what the chosen blocks were given is added. */
static void reward_blocks(struct far *f, struct far_cache *c, int chosen, const float *given)
{
    for (int k = 0; k < c->n; k++) c->priority[k] *= f->rule.decay;
    for (int i = 0; i < chosen; i++) c->priority[find_cached(c, f->chosen[i])] += given[i];
}

/* ---- a pass */

void far_start(struct far *f, int n, struct kv_layer *kv, bool filled, struct rope_table rope,
               const struct model_config *c)
{
    f->prompt = n;
    f->aimed = false;
    f->stats = (struct far_stats){0};
    for (int l = 0; l < c->L; l++) {
        f->made[l] = f->counted[l] = 0;
        f->cache[l].n = 0;
        f->cache[l].clock = 0;
    }
    if (f->mass) memset(f->mass, 0, (size_t)f->L * (size_t)f->H * f->span * sizeof *f->mass);
    for (int l = 0; filled && l < c->L; l++)
        represent_until(f, l, far_blocks(&f->rule, n), &kv[l], rope);
}

/* The list of the row at POS of a group after T tokens with CHOSEN blocks. Returns its length. */
static int make_list(const struct far *f, int *list, int T, int chosen, int pos)
{
    const struct far_rule *rule = &f->rule;
    const int edge = far_edge(rule, pos), size = rule->block_size;
    int n = 0;
    for (int t = 0; t < rule->n_init && t < edge; t++) list[n++] = t;
    if (rule->topk == 0) return n;
    for (int i = 0; i < chosen; i++)
        for (int t = 0; t < size; t++) list[n++] = rule->n_init + f->chosen[i] * size + t;
    for (int t = rule->n_init + far_blocks(rule, T) * size; t < edge; t++) list[n++] = t;
    return n;
}

void far_attend_with(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                     int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                     struct attn_view *view,
                     void (*group)(struct far *f, const struct far_group *g))
{
    const struct far_rule *rule = &f->rule;
    const size_t H = (size_t)f->H, P = (size_t)f->P, L = (size_t)f->L;
    int *list = f->list + (size_t)layer * (size_t)f->stride;
    float *own_lse = seen.lse ? NULL : xmalloc((size_t)n * H * sizeof *own_lse);
    float *given = xcalloc((size_t)f->most + 1, sizeof *given); /* of the chosen blocks */

    if (n > f->rows) {
        f->rows = n;
        f->seen = xrealloc(f->seen, 2 * L * (size_t)n * sizeof *f->seen);
    }
    int *count = f->seen + 2 * (size_t)layer * (size_t)f->rows, *tail = count + f->rows;
    *view = (struct attn_view){0};
    if (seen.lse == NULL) seen.lse = own_lse;
    for (int r = 0, end; r < n; r = end) {
        const int T = pos0 + r, last = far_group_end(rule, f->prompt, T);
        end = last - pos0 < n ? last - pos0 : n;
        const int rows = end - r, blocks = far_blocks(rule, T);
        const size_t at = (size_t)r * H;
        struct far_group g = {.layer = layer,
                              .rows = rows,
                              .T = T,
                              .list = list,
                              .count = count + r,
                              .tail = tail + r,
                              .q = q + at * P,
                              .kv = kv,
                              .rope = rope,
                              .out = out + at * (size_t)f->D,
                              .seen = {.lse = seen.lse + at}};
        if (blocks > f->made[layer]) represent_until(f, layer, blocks, kv, rope);
        if (far_edge(rule, T + rows - 1) > 0) g.turned = turned_queries(f, g.q, rows, T, rope);
        g.chosen = choose(f, layer, blocks, g.turned, rows);
        g.listed = make_list(f, list, T, g.chosen, T + rows - 1);
        for (int i = r; i < end; i++) {
            count[i] = far_count(rule, T, g.chosen, pos0 + i);
            tail[i] = far_edge(rule, pos0 + i);
        }
        if (rule->topk > 0 && T >= f->counted[layer]) {
            g.mass = f->mass + (size_t)layer * H * f->span;
            f->counted[layer] = T + rows;
        }
        if (!prefill && g.chosen > 0) {
            use_blocks(f, &f->cache[layer], g.chosen);
            if (rule->policy == BLOCKS_LRU_S)
                g.block_mass = memset(given, 0, (size_t)g.chosen * sizeof *given);
        }
        if (rows == n) {
            g.seen.logits = seen.logits;
            g.seen.span = seen.span;
            *view = (struct attn_view){.idx = list,
                                       .shared = true,
                                       .sets = 1,
                                       .stride = f->stride,
                                       .count = count,
                                       .tail = tail};
        }
        group(f, &g);
        if (g.block_mass) reward_blocks(f, &f->cache[layer], g.chosen, given);
    }
    free(own_lse);
    free(given);
}

/* ---- the definition of a group's attention */

static double dot_of(const float *a, const float *b, int D)
{
    double sum = 0;
    for (int d = 0; d < D; d++) sum += (double)a[d] * b[d];
    return sum;
}

/* Row R, head H. */
static void one_row(struct far *f, const struct far_group *g, int r, int h)
{
    const int D = f->D, P = f->P, count = g->count[r], tail = g->tail[r];
    const int length = count + g->T + r - tail + 1;
    const size_t row = (size_t)r * (size_t)f->H + (size_t)h;
    const size_t head = (size_t)(h / (f->H / f->G)) * (size_t)g->kv->room;
    float *logit = xmalloc((size_t)(length + P) * sizeof *logit), *key = logit + length;
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < length; i++) {
        const int t = i < count ? g->list[i] : tail + i - count;
        const float *k = g->kv->k + (head + (size_t)t) * (size_t)P;
        if (i < count) far_listed_key(key, k, t, f, g->rope);
        logit[i] = (float)(i < count ? dot_of(g->turned + row * (size_t)P, key, D) / sqrt(D)
                                     : dot_of(g->q + row * (size_t)P, k, D) / sqrt(D));
        top = fmax(top, logit[i]);
    }
    for (int i = 0; i < length; i++) sum += exp(logit[i] - top);
    const double lse = top + log(sum);
    for (int d = 0; d < D; d++) {
        double o = 0;
        for (int i = 0; i < length; i++) {
            const int t = i < count ? g->list[i] : tail + i - count;
            o += exp(logit[i] - lse) * g->kv->v[(head + (size_t)t) * (size_t)P + (size_t)d];
        }
        g->out[row * (size_t)D + (size_t)d] = (float)o;
    }
    g->seen.lse[row] = (float)lse;
    if (g->seen.logits)
        memcpy(g->seen.logits + row * g->seen.span, logit, (size_t)length * sizeof *logit);
    for (int i = count; g->mass && i < length; i++)
        g->mass[(size_t)h * f->span + (size_t)(tail + i - count)] += (float)exp(logit[i] - lse);
    for (int i = 0; g->block_mass && i < g->chosen * f->rule.block_size; i++)
        g->block_mass[i / f->rule.block_size] += (float)exp(logit[f->rule.n_init + i] - lse);
    free(logit);
}

static void plain_group(struct far *f, const struct far_group *g)
{
    for (int r = 0; r < g->rows; r++)
        for (int h = 0; h < f->H; h++) one_row(f, g, r, h);
}

void far_attend_reference(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                          int n, int pos0, bool prefill, struct rope_table rope,
                          struct attn_seen seen, struct attn_view *view,
                          const struct model_config *c, struct scratch *s)
{
    (void)c, (void)s;
    far_attend_with(f, layer, out, q, kv, n, pos0, prefill, rope, seen, view, plain_group);
}
