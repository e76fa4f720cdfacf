/* collect.c - one pass over the dumps: layer by layer matrices of every metric. */
#include "analyze/collect.h"
#include "analyze/measure.h"
#include "core/base/command.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const struct metric_info infos[METRICS] = {
    [M1] = {"m1", true, true, false, M1, "attention of layer j on the top k of layer i (OmniKV)"},
    [M1X] = {"m1x", true, false, false, M1X, "m1 without the self term, sinks and recent tokens"},
    [M2] = {"m2", true, true, false, M2, "m1 by mass, as a share of layer j's own top k (Kascade)"},
    [M2W] = {"m2w", true, true, false, M2, "m2 times the importance of layer j"},
    [M4] = {"m4", true, true, false, M4, "tokens that the top k of layers i and j have in common"},
    [M7] = {"m7", true, true, false, M7, "m4 as a share of the set"},
    [M8] = {"m8", true, true, true, M8, "cosine of layer j's attention output with i's top k"},
    [M11] = {"m11", true, true, false, M11, "1 - the mass of layer j outside the top k of layer i"},
    [M11W] = {"m11w", true, true, false, M11, "m11 times the importance of layer j"},
    [M12] = {"m12", false, true, false, M12, "attention weight held by the layer's own top k"},
    [M15] = {"m15", false, true, false, M15, "share of the top k that is kept at the next step"},
};

const struct metric_info *metric_info(enum metric m)
{
    return &infos[m];
}

int metric_find(const char *name)
{
    const char *names[METRICS + 1] = {0};
    for (int m = 0; m < METRICS; m++) {
        if (strcmp(infos[m].name, name) == 0) return m;
        names[m] = infos[m].name;
    }
    const char *near = nearest_name(name, names);
    return fail("unknown metric \"%s\"%s%s%s; there are m1 m1x m2 m2w m4 m7 m8 m11 m11w m12 "
                "m15",
                name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Which sum each metric needs, and the fields that each sum is made from. */
static uint32_t metric_sums(enum metric m)
{
    static const uint32_t need[METRICS] = {
        [M1] = 1u << SIM,
        [M1X] = 1u << SIMX,
        [M2] = 1u << RATIO,
        [M4] = 1u << COMMON,
        [M7] = 1u << SHARED,
        [M8] = 1u << COSINE,
        [M12] = 1u << COVER,
        [M15] = 1u << LAG,
        [M2W] = 1u << RATIO | 1u << WEIGHT,
        [M11] = 1u << KEPT,
        [M11W] = 1u << KEPT | 1u << WEIGHT,
    };
    return need[m];
}

/* The sums made of the layers' sets alone; those that need them; those made from mass or attn. */
#define OF_SETS (1u << COMMON | 1u << SHARED | 1u << LAG)
#define NEED_SETS (OF_SETS | 1u << KEPT)
#define OF_WEIGHTS (1u << RATIO | 1u << COVER)

/* What one step is measured with: buffers that live as long as the pass. */
struct work {
    uint32_t sums;         /* of the samples read */
    bool by_attn;          /* RATIO and COVER from attn, not mass */
    bool softmax;          /* the recorded score is raw: m1's A is its softmax */
    float *row, *ex;       /* [L, R, T] of a step; [L, n] for m1x */
    size_t row_n, ex_n;    /* floats allocated */
    int *setx, *setx_n;    /* as set, set_n: the sets of m1x */
    int *set, *last, *own; /* [nk][rows][cap]: sets of this step, of the step before, by mass */
    int *set_n, *last_n, *own_n; /* [nk][rows] */
    size_t set_room;
    double *Z, *Zx;               /* [L] sums of the exponentials */
    double *held;                 /* [nk][rows] attention on the own top k */
    uint64_t **bits;              /* [threads] */
    int threads, bits_n;          /* words of each */
    struct topk_scratch *scratch; /* [threads] */
    int rows, cap;                /* rows a set array has; most entries of one */
};

static int *set_at(const struct work *w, int *set, int ki, int row)
{
    return set + ((size_t)ki * w->rows + row) * w->cap;
}

/* The sets of one row x [n] for every k, widest first, so that each smaller one is chosen from the
 * larger: k[] need not be sorted. */
static void row_sets(const struct collect *c, struct work *w, const float *x, int n, int *set,
                     int *set_n, int row)
{
    struct topk_scratch *s = &w->scratch[omp_get_thread_num()];
    int widest = 0;
    for (int a = 1; a < c->nk; a++)
        if (c->k[a] > c->k[widest]) widest = a;
    const int *all = set_at(w, set, widest, row);
    const int m = measure_topk(x, n, c->k[widest], set_at(w, set, widest, row), s);
    for (int a = 0; a < c->nk; a++) {
        set_n[(size_t)a * w->rows + row] =
            a == widest ? m : measure_topk_of(x, all, m, c->k[a], set_at(w, set, a, row), s);
    }
}

/* sum[ki][i, j] += A_j(T_i) / Z for all i; x is row j, SET and SET_N the sets of all layers. */
static void add_pairs(const struct collect *c, const struct work *w, enum sum what, int j,
                      const float *x, double Z, int *set, const int *set_n)
{
    for (int a = 0; a < c->nk; a++) {
        double *S = c->sample + c->at[what] + (size_t)a * c->stride[what];
        for (int i = 0; i < c->L; i++) {
            const double mass =
                measure_gather(x, set_at(w, set, a, i), set_n[(size_t)a * w->rows + i]);
            S[(size_t)i * c->L + j] += Z > 0 ? mass / Z : 0;
        }
    }
}

/* COMMON and SHARED of layer j's set with all others, and LAG against the step before. */
static void add_overlaps(const struct collect *c, const struct work *w, int j, int n, bool lag)
{
    uint64_t *bits = w->bits[omp_get_thread_num()];
    for (int a = 0; a < c->nk; a++) {
        const int size = c->k[a] < n ? c->k[a] : n;
        const size_t rj = (size_t)a * w->rows + j;
        double *common = c->sample + c->at[COMMON] + (size_t)a * c->stride[COMMON];
        double *shared = c->sample + c->at[SHARED] + (size_t)a * c->stride[SHARED];
        measure_mark(bits, n, set_at(w, w->set, a, j), w->set_n[rj]);
        for (int i = 0; i < c->L; i++) {
            const size_t ij = (size_t)i * c->L + j, ri = (size_t)a * w->rows + i;
            const int both = measure_common(bits, set_at(w, w->set, a, i), w->set_n[ri]);
            if (w->sums >> COMMON & 1) common[ij] += both;
            if (w->sums >> SHARED & 1) shared[ij] += (double)both / size;
        }
        if (lag)
            c->sample[c->at[LAG] + (size_t)a * c->stride[LAG] + j] +=
                (double)measure_common(bits, set_at(w, w->last, a, j), w->last_n[rj]) / size;
    }
}

/* A_j before its division by the sum that is returned; out may be x. */
static double weigh(const struct work *w, float *out, const float *x, int n)
{
    if (w->softmax) return measure_exp(out, x, n);
    for (int t = 0; t < n; t++) out[t] = x[t] > 0 ? x[t] : 0;
    return measure_sum(out, n);
}

/* Everything that `score` [L, T] gives. In each row the sets come first, and m1x before the rest,
 * because the weights replace the scores. */
static void measure_score(const struct collect *c, struct work *w,
                          const struct dump_sample_info *info, int step)
{
    const int L = c->L, T = info->T, n = info->n_prefill, nx = n - c->sinks - c->recent;
    const bool simx = w->sums >> SIMX & 1 && nx > 0, sim = w->sums >> SIM & 1;
    const bool lag = w->sums >> LAG & 1 && step > 0;
    const bool overlaps = w->sums & OF_SETS, sets = w->sums & NEED_SETS;

#pragma omp parallel for schedule(dynamic)
    for (int l = 0; l < L; l++) {
        float *x = w->row + (size_t)l * T;
        if (simx) {
            row_sets(c, w, x + c->sinks, nx, w->setx, w->setx_n, l);
            w->Zx[l] = weigh(w, w->ex + (size_t)l * nx, x + c->sinks, nx);
        }
        if (sim || sets) row_sets(c, w, x, n, w->set, w->set_n, l);
        if (sim) w->Z[l] = weigh(w, x, x, n);
    }
#pragma omp parallel for schedule(dynamic)
    for (int j = 0; j < L; j++) {
        if (simx) add_pairs(c, w, SIMX, j, w->ex + (size_t)j * nx, w->Zx[j], w->setx, w->setx_n);
        if (sim) add_pairs(c, w, SIM, j, w->row + (size_t)j * T, w->Z[j], w->set, w->set_n);
        if (overlaps) add_overlaps(c, w, j, n, lag);
    }
}

static int ascending(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

/* The sets from topk_idx [L, K], where no score was traced. -1 after fail() for an index that is
 * no candidate. */
static int measure_topk_idx(const struct collect *c, struct work *w, const char *path,
                            const struct dump_sample_info *info, const int *idx, int K, int step)
{
    const int n = info->n_prefill;
    for (int l = 0; l < c->L; l++) {
        for (int a = 0; a < c->nk; a++) {
            int *set = set_at(w, w->set, a, l), m = 0;
            for (int e = 0; e < K && e < c->k[a] && e < n; e++) {
                const int t = idx[(size_t)l * K + e];
                if (t < -1 || t >= n)
                    return fail("%s: topk_idx[%d, %d, %d] is %d, of %d candidates", path, step, l,
                                e, t, n);
                if (t >= 0) set[m++] = t;
            }
            qsort(set, (size_t)m, sizeof *set, ascending);
            w->set_n[(size_t)a * w->rows + l] = m;
        }
    }
    for (int j = 0; w->sums & OF_SETS && j < c->L; j++)
        add_overlaps(c, w, j, n, step > 0 && w->sums >> LAG & 1);
    return 0;
}

/* RATIO and COVER from the attention weights A of a step: mass [L, T], or attn pooled to
 * [L, R, T]. SCALE turns a sum over a group's query heads into their mean. */
static void measure_mass(const struct collect *c, struct work *w,
                         const struct dump_sample_info *info, double scale)
{
    const int R = c->R, rows = c->L * R, n = info->n_prefill, T = info->T;

#pragma omp parallel for schedule(dynamic)
    for (int r = 0; r < rows; r++) {
        const float *A = w->row + (size_t)r * T;
        row_sets(c, w, A, n, w->own, w->own_n, r);
        for (int a = 0; a < c->nk; a++) {
            const size_t at = (size_t)a * w->rows + r;
            w->held[at] = measure_gather(A, set_at(w, w->own, a, r), w->own_n[at]);
        }
    }
    if (w->sums & 1u << COVER) {
        for (int a = 0; a < c->nk; a++) {
            for (int r = 0; r < rows; r++)
                c->sample[c->at[COVER] + (size_t)a * c->stride[COVER] + r / R] +=
                    w->held[(size_t)a * w->rows + r] * scale / R;
        }
    }
    if ((w->sums & 1u << RATIO) == 0) return;

#pragma omp parallel for schedule(dynamic)
    for (int rj = 0; rj < rows; rj++) {
        const float *A = w->row + (size_t)rj * T;
        const int j = rj / R, h = rj % R;
        for (int a = 0; a < c->nk; a++) {
            double *S = c->sample + c->at[RATIO] + (size_t)a * c->stride[RATIO];
            const double held = w->held[(size_t)a * w->rows + rj];
            for (int ri = 0; ri < rows; ri++) {
                const double mass =
                    measure_gather(A, set_at(w, w->own, a, ri), w->own_n[(size_t)a * w->rows + ri]);
                const size_t pair = (size_t)(ri / R) * c->L + j;
                S[(pair * R + ri % R) * R + h] += held > 0 ? mass / held : 1;
            }
        }
    }
}

/* KEPT from mass [L, T] and the sets of this step: what layer j keeps of its attention when of the
 * candidates it sees T_i only. */
static void measure_kept(const struct collect *c, struct work *w,
                         const struct dump_sample_info *info)
{
#pragma omp parallel for schedule(dynamic)
    for (int j = 0; j < c->L; j++) {
        const float *A = w->row + (size_t)j * info->T;
        const double all = measure_sum(A, info->n_prefill);
        for (int a = 0; a < c->nk; a++) {
            double *S = c->sample + c->at[KEPT] + (size_t)a * c->stride[KEPT];
            for (int i = 0; i < c->L; i++) {
                const double held =
                    measure_gather(A, set_at(w, w->set, a, i), w->set_n[(size_t)a * w->rows + i]);
                S[(size_t)i * c->L + j] += 1 - (all - held);
            }
        }
    }
}

/* Sums the query heads of each kv head in place: [L, H, T] to [L, G, T]. */
static void pool_heads(float *x, int L, int H, int G, int T)
{
    const int per = H / G;
    for (int r = 0; r < L * G; r++) {
        float *to = x + (size_t)r * T;
        for (int h = 0; h < per; h++) {
            const float *from = x + ((size_t)r * per + h) * T;
            for (int t = 0; t < T; t++) to[t] = h ? to[t] + from[t] : from[t];
        }
    }
}

/* ---- the pass */

static void work_free(struct work *w)
{
    free(w->row);
    free(w->ex);
    free(w->setx);
    free(w->setx_n);
    free(w->set);
    free(w->last);
    free(w->own);
    free(w->set_n);
    free(w->last_n);
    free(w->own_n);
    free(w->Z);
    free(w->Zx);
    free(w->held);
    for (int t = 0; t < w->threads; t++) {
        free(w->bits[t]);
        topk_scratch_free(&w->scratch[t]);
    }
    free(w->bits);
    free(w->scratch);
}

/* Makes W fit a sample: buffers grow to the largest sample met. */
static int work_fit(const struct collect *c, struct work *w, const struct dump_sample_info *info)
{
    const bool mass = w->sums & OF_WEIGHTS;
    const int n = info->n_prefill, per = mass && w->by_attn ? info->R : 1;
    int widest = 0;
    for (int a = 0; a < c->nk; a++) widest = c->k[a] > widest ? c->k[a] : widest;
    w->cap = widest < n ? widest : n;

    const size_t row_n = (size_t)c->L * per * info->T, ex_n = (size_t)c->L * n;
    if (row_n > w->row_n) {
        free(w->row);
        w->row_n = 0;
        if ((w->row = dumps_rows((size_t)c->L * per, info->T)) == NULL) return -1;
        w->row_n = row_n;
    }
    if (w->sums >> SIMX & 1 && ex_n > w->ex_n) {
        free(w->ex);
        w->ex_n = 0;
        if ((w->ex = dumps_rows((size_t)c->L, n)) == NULL) return -1;
        w->ex_n = ex_n;
    }
    const size_t room = (size_t)c->nk * w->rows * w->cap;
    if (room > w->set_room) {
        w->set = xrealloc(w->set, room * sizeof *w->set);
        if (w->sums >> SIMX & 1) w->setx = xrealloc(w->setx, room * sizeof *w->setx);
        w->last = xrealloc(w->last, room * sizeof *w->last);
        w->own = xrealloc(w->own, room * sizeof *w->own);
        w->set_room = room;
    }
    const int words = (n + 63) / 64;
    if (words > w->bits_n) {
        for (int t = 0; t < w->threads; t++)
            w->bits[t] = xrealloc(w->bits[t], (size_t)words * sizeof **w->bits);
        w->bits_n = words;
    }
    return 0;
}

static int read_step(const struct collect *c, struct work *w, const struct dumps *s, struct dump *d,
                     int index, const struct dump_sample_info *info, int step)
{
    const uint32_t of_score = 1u << SIM | 1u << SIMX | (c->from_score ? NEED_SETS : 0);
    const struct dump_run *run = s->run;

    if (w->sums & of_score) {
        if (dump_rows(d, index, DUMP_SCORE, step, w->row)) return -1;
        measure_score(c, w, info, step);
    }
    if (w->sums & NEED_SETS && !c->from_score) {
        const int K = dump_run(d)->K;
        int *idx = xmalloc(((size_t)c->L * K + 1) * sizeof *idx);
        int rc = dump_ints(d, index, DUMP_TOPK_IDX, step, idx);
        if (rc == 0) rc = measure_topk_idx(c, w, dump_path(d), info, idx, K, step);
        free(idx);
        if (rc) return -1;
    }
    if (w->sums & OF_WEIGHTS && w->by_attn) {
        if (dump_rows(d, index, DUMP_ATTN, step, w->row)) return -1;
        if (info->R != run->H && info->R != run->G)
            return fail("%s: attn has %d rows a layer, expected %d query or %d kv heads",
                        dump_path(d), info->R, run->H, run->G);
        if (info->R != run->G) pool_heads(w->row, c->L, run->H, run->G, info->T);
        measure_mass(c, w, info, (double)run->G / run->H);
    }
    if (w->sums & 1u << KEPT || (w->sums & OF_WEIGHTS && !w->by_attn)) {
        if (dump_rows(d, index, DUMP_MASS, step, w->row)) return -1;
        if (w->sums & OF_WEIGHTS && !w->by_attn) measure_mass(c, w, info, 1.0);
        if (w->sums & 1u << KEPT) measure_kept(c, w, info);
    }
    if (w->sums & OF_SETS) { /* the next step looks back at these */
        int *p = w->last, *n = w->last_n;
        w->last = w->set;
        w->last_n = w->set_n;
        w->set = p;
        w->set_n = n;
    }
    if (w->sums & 1u << COSINE) {
        const size_t pairs = (size_t)c->L * c->L;
        float *e = xmalloc(2 * pairs * sizeof *e);
        int rc = dump_rows(d, index, DUMP_REUSE_ERROR, step, e);
        for (size_t p = 0; rc == 0 && p < pairs; p++)
            c->sample[c->at[COSINE] + p] += (double)e[2 * p + 1];
        free(e);
        if (rc) return -1;
    }
    if (w->sums & 1u << WEIGHT) {
        float *x = xmalloc((size_t)c->L * sizeof *x);
        int rc = dump_rows(d, index, DUMP_IMPORTANCE, step, x);
        for (int l = 0; rc == 0 && l < c->L; l++) c->sample[c->at[WEIGHT] + l] += (double)x[l];
        free(x);
        if (rc) return -1;
    }
    return 0;
}

/* Turns the current sample's sums over steps into means, and adds them to the total. */
static int end_sample(struct collect *c, const struct work *w, const struct dump_sample_info *info)
{
    for (int q = 0; q < SUMS; q++) {
        const int steps = q == LAG ? info->S - 1 : info->S;
        c->valid[q] = w->sums >> q & 1 && steps > 0;
        if (q == SIMX && info->n_prefill <= c->sinks + c->recent) c->valid[q] = false;
        if (!c->valid[q]) continue;
        const size_t n = q == COSINE || q == WEIGHT ? c->stride[q] : c->stride[q] * c->nk;
        for (size_t p = c->at[q]; p < c->at[q] + n; p++) {
            c->sample[p] /= steps;
            c->total[p] += c->sample[p];
        }
        c->count[q]++;
    }
    if (c->spill && (fwrite(c->valid, sizeof c->valid, 1, c->spill) != 1 ||
                     fwrite(c->sample, sizeof *c->sample, c->size, c->spill) != c->size))
        return fail("temporary file: cannot be written: %s", strerror(errno));
    return 0;
}

/* The lines of a table's head that say what the metrics served were made from. */
static void note_sources(struct collect *c, const struct work *w, const char *left)
{
    const uint32_t of_kept = METRIC_BIT(M11) | METRIC_BIT(M11W);
    const uint32_t of_sets = METRIC_BIT(M1) | METRIC_BIT(M1X) | METRIC_BIT(M4) | METRIC_BIT(M7) |
                             METRIC_BIT(M15) | of_kept;
    const uint32_t of_mass = METRIC_BIT(M2) | METRIC_BIT(M2W) | METRIC_BIT(M12);
    const char *sets = "", *score = "", *mass = "", *kept = "";
    if (c->served & of_sets)
        sets = c->from_score
                   ? "m1, m1x, m4, m7, m11, m11w, m15: sets are the top k by the recorded score\n"
                   : "m4, m7, m11, m11w, m15: sets are the first k of topk_idx\n";
    if (c->served & (METRIC_BIT(M1) | METRIC_BIT(M1X)))
        score = w->softmax
                    ? "m1, m1x: A_j is the softmax of the recorded score over the candidates\n"
                    : "m1, m1x: A_j is the recorded score, of sum 1 over the candidates\n";
    if (c->served & of_mass)
        mass = w->by_attn ? "m2, m2w, m12: A is attn by kv head (the mean of its query heads), "
                            "sets are its own top k; m2 takes the best source head of the means "
                            "over steps and samples, then the mean over target heads\n"
                          : "m2, m2w, m12: A is mass, sets are its own top k\n";
    if (c->served & of_kept) kept = "m11, m11w: A is mass\n";
    c->notes =
        xprintf("%s%s%s%scandidates are t in [0, n_prefill), ties go to the lower t, k above "
                "their number takes them all\nmean over steps, then over samples: %d took "
                "part%s",
                sets, score, mass, kept, c->samples, left);
}

/* Fills c->served and the notes from the fields that every sample with a step has. */
static int choose_served(struct collect *c, const struct dumps *s, const struct collect_options *o,
                         struct work *w)
{
    uint32_t fields = ~0u, miss[METRICS];
    bool short_k = false;
    int most = 0, longest = 0;
    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        struct dump *d = dumps_sample(s, i, 0, &info, NULL);
        if (d == NULL) return -1;
        if (info.S == 0) continue;
        fields &= info.fields;
        most = info.S > most ? info.S : most;
        longest = info.n_prefill > longest ? info.n_prefill : longest;
        c->samples++;
        for (int a = 0; a < c->nk; a++)
            short_k |= c->k[a] > dump_run(d)->K && dump_run(d)->K < info.n_prefill;
        if (dump_run(d)->reuse_k != c->reuse_k && o->metrics & METRIC_BIT(M8))
            return fail("%s: reuse_error at k = %d, the first dump has it at %d", dump_path(d),
                        dump_run(d)->reuse_k, c->reuse_k);
    }
    if (c->samples == 0) return fail("%s: no sample has a step", dump_path(s->d[0]));

    const uint32_t score = FIELD_BIT(DUMP_SCORE), mass = FIELD_BIT(DUMP_MASS);
    c->from_score = fields & score || short_k || (fields & FIELD_BIT(DUMP_TOPK_IDX)) == 0;
    w->by_attn = fields & FIELD_BIT(DUMP_ATTN);
    const uint32_t sets = c->from_score ? score : FIELD_BIT(DUMP_TOPK_IDX);
    const uint32_t weight = w->by_attn ? FIELD_BIT(DUMP_ATTN) : mass;
    const uint32_t need[METRICS] = {
        [M1] = score,
        [M1X] = score,
        [M2] = weight,
        [M2W] = weight | FIELD_BIT(DUMP_IMPORTANCE),
        [M4] = sets,
        [M7] = sets,
        [M12] = weight,
        [M8] = FIELD_BIT(DUMP_REUSE_ERROR),
        [M15] = sets,
        [M11] = sets | mass,
        [M11W] = sets | mass | FIELD_BIT(DUMP_IMPORTANCE),
    };
    c->R = w->by_attn ? s->run->G : 1;
    if (w->by_attn && (s->run->G < 1 || s->run->H % s->run->G != 0))
        return fail("%s: %d query heads are not shared by %d kv heads", dump_path(s->d[0]),
                    s->run->H, s->run->G);

    char *left = xstrdup("");
    for (int m = 0; m < METRICS; m++) {
        if ((o->metrics & METRIC_BIT(m)) == 0) continue;
        miss[m] = need[m] & ~fields;
        const char *why = NULL;
        if (m == M15 && most < 2) why = "two steps to compare";
        if (m == M1X && longest <= c->sinks + c->recent)
            why = "a prompt longer than the tokens left out";
        for (int f = 0; f < DUMP_FIELD_COUNT; f++)
            if (miss[m] & FIELD_BIT(f)) why = dump_field_info(f)->name;
        if (why == NULL) {
            c->served |= METRIC_BIT(m);
            continue;
        }
        if (o->named & METRIC_BIT(m)) {
            free(left);
            return fail("%s: metric %s needs %s, which the samples lack", dump_path(s->d[0]),
                        infos[m].name, why);
        }
        char *more =
            xprintf("%s\n%s left out: needs %s, which the samples lack", left, infos[m].name, why);
        free(left);
        left = more;
    }
    note_sources(c, w, left);
    free(left);
    return c->served ? 0 : fail("%s: no metric can be served by its fields", dump_path(s->d[0]));
}

int collect_run(struct collect *c, const struct dumps *s, const struct collect_options *o)
{
    struct work w = {0};
    struct progress p;
    int rc = -1;

    memset(c, 0, sizeof *c);
    c->L = s->run->L;
    c->nk = o->nk;
    c->k = xmalloc(((size_t)o->nk + 1) * sizeof *c->k);
    memcpy(c->k, o->k, (size_t)o->nk * sizeof *c->k);
    c->reuse_k = s->run->reuse_k;
    c->sinks = o->sinks;
    c->recent = o->recent;
    w.softmax = strcmp(s->run->score_kind, "last") == 0;
    progress_start(&p, "samples", s->samples);
    if (choose_served(c, s, o, &w)) goto done;

    for (int m = 0; m < METRICS; m++)
        if (c->served & METRIC_BIT(m)) w.sums |= metric_sums(m);
    const size_t L = (size_t)c->L;
    for (int q = 0; q < SUMS; q++) {
        c->stride[q] = q == RATIO                              ? L * L * c->R * c->R
                       : q == COVER || q == LAG || q == WEIGHT ? L
                                                               : L * L;
        c->at[q] = c->size;
        if (w.sums >> q & 1)
            c->size += c->stride[q] * (q == COSINE || q == WEIGHT ? 1 : (size_t)c->nk);
    }
    c->sample = xcalloc(c->size, sizeof *c->sample);
    c->total = xcalloc(c->size, sizeof *c->total);
    if (o->values && c->samples > 1 && (c->spill = tmpfile()) == NULL) {
        fail("temporary file: cannot be made: %s", strerror(errno));
        goto done;
    }
    w.rows = c->L * c->R;
    w.threads = omp_get_max_threads();
    w.bits = xcalloc((size_t)w.threads, sizeof *w.bits);
    w.scratch = xcalloc((size_t)w.threads, sizeof *w.scratch);
    w.set_n = xcalloc((size_t)c->nk * w.rows + 1, sizeof *w.set_n);
    w.setx_n = xcalloc((size_t)c->nk * w.rows + 1, sizeof *w.setx_n);
    w.last_n = xcalloc((size_t)c->nk * w.rows + 1, sizeof *w.last_n);
    w.own_n = xcalloc((size_t)c->nk * w.rows + 1, sizeof *w.own_n);
    w.held = xcalloc((size_t)c->nk * w.rows + 1, sizeof *w.held);
    w.Z = xcalloc(L, sizeof *w.Z);
    w.Zx = xcalloc(L, sizeof *w.Zx);

    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        int index;
        struct dump *d = dumps_sample(s, i, 0, &info, &index);
        if (d == NULL) goto done;
        if (info.S == 0) continue;
        if (work_fit(c, &w, &info)) goto done;
        memset(c->sample, 0, c->size * sizeof *c->sample);
        for (int step = 0; step < info.S; step++)
            if (read_step(c, &w, s, d, index, &info, step)) goto done;
        if (end_sample(c, &w, &info)) goto done;
        progress_show(&p, i + 1);
    }
    rc = 0;

done:
    progress_end(&p);
    work_free(&w);
    return rc;
}

void collect_free(struct collect *c)
{
    free(c->k);
    free(c->sample);
    free(c->total);
    free(c->notes);
    if (c->spill) fclose(c->spill);
    memset(c, 0, sizeof *c);
}

/* ---- from sums to metrics */

static enum sum matrix_sum(enum metric m)
{
    static const enum sum from[METRICS] = {
        [M1] = SIM,    [M1X] = SIMX, [M2] = RATIO,  [M2W] = RATIO, [M4] = COMMON, [M7] = SHARED,
        [M8] = COSINE, [M11] = KEPT, [M11W] = KEPT, [M12] = COVER, [M15] = LAG,
    };
    return from[m];
}

static const double *sum_at(const struct collect *c, enum sum q, int ki)
{
    return c->total + c->at[q] + (q == COSINE || q == WEIGHT ? 0 : (size_t)ki * c->stride[q]);
}

int collect_best_head(const double *S, int R, int h)
{
    int best = 0;
    for (int g = 1; g < R; g++)
        if (S[(size_t)g * R + h] > S[(size_t)best * R + h]) best = g;
    return best;
}

/* The matrix of M from X, the sums of one sample or of all, divided by COUNT. Heads are chosen by
 * the sums over all samples. */
static void make_matrix(const struct collect *c, enum metric m, int ki, const double *x,
                        double count, double *S)
{
    const int L = c->L, R = infos[m].of == M2 ? c->R : 1;
    const double *heads = R > 1 ? sum_at(c, RATIO, ki) : NULL;
    const double *weight = infos[m].of != m ? sum_at(c, WEIGHT, 0) : NULL;
    for (int i = 0; i < L; i++) {
        for (int j = 0; j < L; j++) {
            const size_t pair = (size_t)i * L + j, at = pair * R * R;
            double v = 0;
            for (int h = 0; h < R; h++)
                v += x[at + (heads ? (size_t)collect_best_head(heads + at, R, h) * R + h : 0)];
            v /= count * R;
            if (weight) v *= weight[j] / c->count[WEIGHT];
            S[pair] = infos[m].partial && j < i ? (double)NAN : v;
        }
    }
}

void collect_matrix(const struct collect *c, enum metric m, int ki, double *S)
{
    const enum sum q = matrix_sum(m);
    make_matrix(c, m, ki, sum_at(c, q, ki), c->count[q], S);
}

const double *collect_heads(const struct collect *c, int ki)
{
    return sum_at(c, RATIO, ki);
}

bool collect_weights(const struct collect *c, double *w)
{
    if (c->count[WEIGHT] == 0) return false;
    for (int l = 0; l < c->L; l++) w[l] = c->total[c->at[WEIGHT] + l] / c->count[WEIGHT];
    return true;
}

int collect_k(const struct collect *c, enum metric m, int ki)
{
    return m == M8 ? c->reuse_k : c->k[ki];
}

static void layer_values(const struct collect *c, enum metric m, int ki, int segment,
                         const double *x, double count, double *S, double *v)
{
    const double *w = m == M11W ? sum_at(c, WEIGHT, 0) : NULL; /* a weighted mean of m11 */
    if (infos[m].pair) make_matrix(c, m == M11W ? M11 : m, ki, x, count, S);
    for (int l = 0; l < c->L; l++)
        v[l] =
            infos[m].pair ? measure_segment(S, w, c->L, l, segment, infos[m].self) : x[l] / count;
}

int collect_values(const struct collect *c, enum metric m, int ki, int segment, int resamples,
                   uint64_t seed, double *mean, double *low, double *high)
{
    const int L = c->L, N = c->spill ? c->samples : 1;
    const enum sum q = matrix_sum(m);
    const size_t at = (size_t)(sum_at(c, q, ki) - c->total), n = c->stride[q];
    const size_t record = sizeof c->valid + c->size * sizeof *c->sample;
    double *v = xmalloc((size_t)N * L * sizeof *v), *x = xmalloc(n * sizeof *x);
    double *S = xmalloc((size_t)L * L * sizeof *S);
    int rc = -1;

    if (c->spill == NULL) layer_values(c, m, ki, segment, c->total + at, c->count[q], S, v);
    for (int s = 0; c->spill && s < N; s++) {
        bool valid[SUMS];
        const off_t start = (off_t)(record * (size_t)s);
        if (fseeko(c->spill, start, SEEK_SET) || fread(valid, sizeof valid, 1, c->spill) != 1 ||
            fseeko(c->spill, start + (off_t)(sizeof valid + at * sizeof *x), SEEK_SET) ||
            fread(x, sizeof *x, n, c->spill) != n) {
            fail("temporary file: cannot be read: %s", strerror(errno));
            goto done;
        }
        layer_values(c, m, ki, segment, x, 1, S, v + (size_t)s * L);
        for (int l = 0; !valid[q] && l < L; l++) v[(size_t)s * L + l] = (double)NAN;
    }
    measure_bootstrap(v, N, L, resamples, seed, mean, low, high);
    if (c->count[q]) layer_values(c, m, ki, segment, c->total + at, c->count[q], S, mean);
    rc = 0;

done:
    free(S);
    free(x);
    free(v);
    return rc;
}
