/* tracer_host.c - a trace on a CPU: what each layer saw is read in the hooks and put into the dump.
 */
#include "core/cmd/tracer.h"

#include "core/base/base.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one step of one layer: a pass of a traced decode is one row */

/* The position that entry I of a head's logits stands for. */
static int entry_position(const struct layer_pass *p, int set, int i)
{
    if (p->view.idx == NULL) return i;
    const int count = p->view.count[0];
    if (i >= count) return p->view.tail[0] + i - count;
    return p->view.idx[(size_t)set * (size_t)p->view.stride + (size_t)i];
}

/* score and mass of a row, over all positions up to POS: NaN and 0 where a sparse layer did not
 * look. */
static void spread_row(struct tracer *t, const struct layer_pass *p)
{
    const struct ops *ops = t->e->model.ops;
    const int H = t->c->H, pos = p->pos0, T = pos + 1;
    const int length = view_length(&p->view, 0, pos);
    const float *logits = p->logits, *lse = p->lse;
    const bool listed = p->view.idx != NULL;
    const bool want_mass = t->options.fields & BIT(MASS);
    /* a softmax over the candidates says nothing of the tokens after them */
    const int scored = t->pool == SCORE_MAX_WEIGHT && !listed ? t->n_prefill : length;

    if (!listed) {
        ops->pool_scores(t->score, logits, p->span, scored, H, 1, t->pool);
        for (int i = scored; i < T; i++) t->score[i] = 0;
        if (want_mass) ops->pool_mass(t->mass, logits, p->span, lse, T, H);
        return;
    }
    for (int i = 0; i < T; i++) {
        t->score[i] = NAN;
        t->mass[i] = 0;
    }
    for (int h = 0; h < H; h++) {
        const int set = p->view.sets == 1 ? 0 : h / (H / p->view.sets);
        const float *l = logits + (size_t)h * p->span;
        float total = 0;
        if (t->pool == SCORE_MAX_WEIGHT)
            for (int i = 0; i < p->view.count[0]; i++) total += expf(l[i] - lse[h]);
        for (int i = 0; i < length; i++) {
            const int at = entry_position(p, set, i);
            const float weight = expf(l[i] - lse[h]);
            float s = l[i];
            if (t->pool == SCORE_MAX_WEIGHT) s = i < p->view.count[0] ? weight / total : 0;
            t->mass[at] += weight / (float)H;
            if (!(t->score[at] >= s)) t->score[at] = s;
        }
    }
}

/* Stable. Radix by bytes: K is a few hundred and this runs for every layer of every step. */
void tracer_best_first(int *idx, const float *score, int k, uint32_t *work)
{
    uint32_t *key = work, *key2 = work + k;
    int *idx2 = (int *)(work + 2 * k), *from = idx, *to = idx2;
    for (int i = 0; i < k; i++) {
        const float f = score[idx[i]] + 0.0f; /* -0 becomes 0 */
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        key[i] = u & 0x80000000u ? u : ~u & 0x7fffffffu; /* ascending keys: descending scores */
    }
    for (int shift = 0; shift < 32; shift += 8) {
        int start[257] = {0};
        for (int i = 0; i < k; i++) start[((key[i] >> shift) & 255) + 1]++;
        for (int b = 0; b < 256; b++) start[b + 1] += start[b];
        for (int i = 0; i < k; i++) {
            const int at = start[(key[i] >> shift) & 255]++;
            key2[at] = key[i];
            to[at] = from[i];
        }
        uint32_t *swap_key = key;
        int *swap = from;
        key = key2;
        key2 = swap_key;
        from = to;
        to = swap;
    }
}

/* The K best candidates the layer looked at, in IDX, best first. Returns how many there are. */
static int top_candidates(struct tracer *t, const struct layer_pass *p, int K, int *idx)
{
    int seen = t->n_prefill;
    if (p->view.idx) {
        seen = 0;
        for (int i = 0; i < t->n_prefill; i++) seen += !isnan(t->score[i]);
    }
    const int k = K < seen ? K : seen;
    t->e->model.ops->top_k(idx, t->score, t->n_prefill, k);
    tracer_best_first(idx, t->score, k, (uint32_t *)t->picked);
    return k;
}

static int put_top(struct tracer *t, const struct layer_pass *p, int step)
{
    const struct ops *ops = t->e->model.ops;
    const int H = t->c->H, K = t->run.K, pos = p->pos0;
    const float *logits = p->logits, *lse = p->lse;
    const int k = top_candidates(t, p, K, t->best);
    float *mass = t->top_mass, after = 0;

    if (p->view.idx || (t->options.fields & BIT(MASS))) {
        for (int i = 0; i < k; i++) mass[i] = t->mass[t->best[i]];
    } else { /* the weights of the K alone */
        for (int h = 0; h < H; h++)
            for (int i = 0; i < k; i++)
                t->picked[(size_t)h * K + i] = logits[(size_t)h * p->span + t->best[i]];
        ops->pool_mass(mass, t->picked, (size_t)K, lse, k, H);
    }
    /* the candidates hold what the decoded tokens leave; of these a list may hold some, and its
     * tail some of the prompt's */
    const int first = t->n_prefill, decoded = pos + 1 - first;
    if (p->view.idx == NULL) ops->pool_mass(t->picked, logits + first, p->span, lse, decoded, H);
    for (int i = 0; i < decoded; i++) after += p->view.idx ? t->mass[first + i] : t->picked[i];
    /* where decoded tokens hold everything, rounding must not make it negative */
    t->totals[p->layer] = after > 1 ? 0 : 1 - after;

    if (dump_put_int(t->writer, DUMP_TOPK_IDX, step, p->layer, t->best, k)) return -1;
    return dump_put(t->writer, DUMP_TOPK_MASS, step, p->layer, 0, mass, k);
}

static int put_attn(struct tracer *t, const struct layer_pass *p, int step)
{
    const int H = t->c->H, T = p->pos0 + 1, rows = t->per_kv_head ? t->c->G : H, R = H / rows;
    const int length = view_length(&p->view, 0, T - 1);
    for (int row = 0; row < rows; row++) {
        memset(t->picked, 0, (size_t)T * sizeof *t->picked);
        for (int h = row * R; h < (row + 1) * R; h++) {
            const int set = p->view.sets <= 1 ? 0 : h / (H / p->view.sets);
            const float *l = p->logits + (size_t)h * p->span, lse = p->lse[h];
            for (int i = 0; i < length; i++)
                t->picked[entry_position(p, set, i)] += expf(l[i] - lse);
        }
        if (dump_put(t->writer, DUMP_ATTN, step, p->layer, row, t->picked, T)) return -1;
    }
    return 0;
}

static double dot(const float *a, const float *b, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)a[i] * b[i];
    return s;
}

/* Layer p->layer's attention output with each earlier layer's top k, against its own top k; decoded
 * tokens are seen in both, as a sparse layer would see them. */
static void measure_reuse(struct tracer *t, const struct layer_pass *p)
{
    const struct ops *ops = t->e->model.ops;
    const int H = t->c->H, E = t->c->E, L = t->c->L, j = p->layer, n = j + 1;
    const size_t row = (size_t)H * (size_t)padded_width(t->c->D);
    const struct layer_weights *w = &t->e->model.weights->layer[j];
    struct scratch *s = session_scratch(p->session);
    const int k = t->run.reuse_k < t->n_prefill ? t->run.reuse_k : t->n_prefill;
    int count[n], tail[n];

    ops->top_k(t->top + (size_t)j * k, t->score, t->n_prefill, k);
    for (int i = 0; i < n; i++) {
        memcpy(t->reuse_q + (size_t)i * row, p->q, row * sizeof(float));
        count[i] = k;
        tail[i] = t->n_prefill;
    }
    const struct attn_view view = {
        .idx = t->top, .sets = 1, .stride = k, .count = count, .tail = tail};
    ops->attend_rows(t->reuse_out, t->reuse_q, session_kv(p->session, j), n, p->pos0, 0, view,
                     (struct attn_seen){0}, t->c, s);
    /* attn_out adds to its first argument, which nobody reads here */
    ops->attn_out(t->reuse_delta, t->reuse_delta + (size_t)L * E, NULL, t->reuse_out, n, w, t->c,
                  s);
    const float *delta = t->reuse_delta + (size_t)L * E, *own = delta + (size_t)j * E;
    const double size = sqrt(dot(own, own, E));
    for (int i = 0; i < n; i++) {
        const float *other = delta + (size_t)i * E;
        double gap = 0;
        for (int d = 0; d < E; d++)
            gap += ((double)other[d] - own[d]) * ((double)other[d] - own[d]);
        float *pair = t->reuse + 2 * ((size_t)i * L + (size_t)j);
        pair[0] = i == j ? 0 : (float)(sqrt(gap) / size);
        pair[1] = i == j ? 1 : (float)(dot(other, own, E) / (size * sqrt(dot(other, other, E))));
    }
    for (int i = j + 1; i < L; i++) /* a later layer's top k comes too late */
        t->reuse[2 * ((size_t)i * L + (size_t)j)] = t->reuse[2 * ((size_t)i * L + (size_t)j) + 1] =
            NAN;
}

/* ---- hooks */

static void before(void *ctx, struct layer_pass *p)
{
    struct tracer *t = ctx;
    const uint32_t f = t->options.fields;
    if (p->prefill) {
        if (f & BIT(PREFILL_SCORE)) {
            const size_t layer = (size_t)t->c->H * (size_t)t->max_T;
            p->columns = t->columns + (size_t)p->layer * layer;
            p->columns_span = (size_t)t->max_T;
        }
        return;
    }
    if (f & (BIT(MASS) | BIT(SCORE) | BIT(TOPK_IDX) | BIT(ATTN) | BIT(REUSE_ERROR)))
        p->want_logits = true;
    if (f & BIT(IMPORTANCE)) p->want_delta = true;
}

static int after(void *ctx, const struct layer_pass *p)
{
    struct tracer *t = ctx;
    const uint32_t f = t->options.fields;
    const int T = p->pos0 + 1, step = p->pos0 - t->n_prefill, L = t->c->L;

    if (p->prefill) return 0;
    assert(p->n == 1);

    if (p->want_logits) {
        if (f & (BIT(MASS) | BIT(SCORE) | BIT(TOPK_IDX) | BIT(REUSE_ERROR))) spread_row(t, p);
        if ((f & BIT(MASS)) && dump_put(t->writer, DUMP_MASS, step, p->layer, 0, t->mass, T))
            return -1;
        if ((f & BIT(SCORE)) && dump_put(t->writer, DUMP_SCORE, step, p->layer, 0, t->score, T))
            return -1;
        if ((f & BIT(TOPK_IDX)) && put_top(t, p, step)) return -1;
        if ((f & BIT(ATTN)) && put_attn(t, p, step)) return -1;
        if (f & BIT(REUSE_ERROR)) measure_reuse(t, p);
    }
    if (f & BIT(IMPORTANCE)) {
        const int E = t->c->E;
        const float *x = p->x, *d = p->delta;
        double xy = 0, xx = 0, yy = 0;
        for (int i = 0; i < E; i++) {
            const double y = (double)x[i] + d[i];
            xy += x[i] * y;
            xx += (double)x[i] * x[i];
            yy += y * y;
        }
        t->importance[p->layer] = (float)(1 - xy / sqrt(xx * yy));
    }
    if (p->layer < L - 1) return 0;
    if ((f & BIT(IMPORTANCE)) && dump_put(t->writer, DUMP_IMPORTANCE, step, 0, 0, t->importance, L))
        return -1;
    if ((f & BIT(TOPK_IDX)) && dump_put(t->writer, DUMP_TOPK_TOTAL, step, 0, 0, t->totals, L))
        return -1;
    for (int i = 0; (f & BIT(REUSE_ERROR)) && i < L; i++)
        if (dump_put(t->writer, DUMP_REUSE_ERROR, step, 0, i, t->reuse + 2 * (size_t)i * L, 2 * L))
            return -1;
    for (int i = 0; (f & BIT(SELECTED_IDX)) && i < t->method->M; i++) {
        int count;
        const int *idx = t->method->selection(t->method, i, 0, &count);
        idx = tracer_unite(t, idx, t->method->sets, (size_t)t->method->stride, &count);
        if (dump_put_int(t->writer, DUMP_SELECTED_IDX, step, i, idx, count)) return -1;
    }
    return 0;
}

/* ---- a sample */

void tracer_host_open(struct tracer *t)
{
    t->hooks = (struct hooks){.ctx = t, .before = before, .after = after};
}

int tracer_host_begin(struct tracer *t)
{
    const struct model_config *c = t->c;
    const size_t T = (size_t)t->max_T, L = (size_t)c->L,
                 row = (size_t)c->H * (size_t)padded_width(c->D);
    const size_t K = (size_t)t->run.K, k = (size_t)t->run.reuse_k;
    t->importance = xrealloc(t->importance, L * sizeof(float));
    t->totals = xrealloc(t->totals, L * sizeof(float));
    t->score = xrealloc(t->score, T * sizeof(float));
    t->mass = xrealloc(t->mass, T * sizeof(float));
    t->top_mass = xrealloc(t->top_mass, K * sizeof(float));
    t->best = xrealloc(t->best, (K < T ? T : K) * sizeof(int));
    /* picked holds a row of positions, the K best of every head, or what best_first() sorts in */
    const size_t picked = T > (size_t)c->H * K ? T : (size_t)c->H * K;
    t->picked = xrealloc(t->picked, (picked > 3 * K ? picked : 3 * K) * sizeof(float));
    if (t->options.fields & BIT(REUSE_ERROR)) {
        t->top = xrealloc(t->top, L * k * sizeof(int));
        t->reuse_q = xrealloc(t->reuse_q, L * row * sizeof(float));
        t->reuse_out = xrealloc(t->reuse_out, L * (size_t)(c->H * c->D) * sizeof(float));
        t->reuse = xrealloc(t->reuse, 2 * L * L * sizeof(float));
        t->reuse_delta = xrealloc(t->reuse_delta, 2 * L * (size_t)c->E * sizeof(float));
        memset(t->reuse_delta, 0, 2 * L * (size_t)c->E * sizeof(float));
    }
    if (t->options.fields & BIT(PREFILL_SCORE)) {
        free(t->columns);
        const size_t n = L * (size_t)c->H * T;
        if ((t->columns = big_alloc(n * sizeof(float), "prefill_score")) == NULL) return -1;
        memset(t->columns, 0, n * sizeof(float));
    }
    return 0;
}

int tracer_put_columns(struct tracer *t, int layer, const float *sums)
{
    const int G = t->c->G, R = t->c->H / G, n = t->n_prefill;
    float *pooled = xmalloc((size_t)n * sizeof *pooled);
    int rc = 0;
    for (int g = 0; g < G && rc == 0; g++) {
        const float *of = sums + (size_t)g * (size_t)R * (size_t)t->max_T;
        for (int i = 0; i < n; i++) {
            pooled[i] = of[i];
            for (int r = 1; r < R; r++)
                pooled[i] = fmaxf(pooled[i], of[(size_t)r * (size_t)t->max_T + (size_t)i]);
        }
        rc = dump_put(t->writer, DUMP_PREFILL_SCORE, 0, layer, g, pooled, n);
    }
    free(pooled);
    return rc;
}

int tracer_host_end(struct tracer *t)
{
    if (!(t->options.fields & BIT(PREFILL_SCORE))) return 0;
    for (int l = 0; l < t->c->L; l++)
        if (tracer_put_columns(t, l, t->columns + (size_t)l * (size_t)t->c->H * (size_t)t->max_T))
            return -1;
    return 0;
}
