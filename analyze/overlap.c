/* overlap.c - okv-analyze overlap: how alike the selections of layers, heads or steps are. */
#include "analyze/cmd.h"
#include "analyze/sets.h"
#include "core/base/command.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze overlap DUMP... [OPTIONS]\n"
    "\n"
    "A square table: how alike are the selections T(i) and T(j)?\n"
    "  --by layer  the layers' top k by score\n"
    "  --by head   the top k of each row of attn, in --layer, or over all layers: the number\n"
    "              of a row is then layer x rows + row\n"
    "  --by step   the top k by score of --layer at steps i and j; samples are cut to the\n"
    "              steps that all have\n"
    "\n"
    "  --measure M   ratio: |T(i) and T(j)| / |T(j)|; jaccard: |and| / |or|; mass: attention\n"
    "                weight of j on T(i), mean over heads [ratio]\n"
    "  --k K         tokens in a set [32]\n"
    "  --layer N     0-based\n"
    "  --out FILE    write the table there\n"
    "\n"
    "Columns: i, j, value, mean over steps (by layer and head), then samples. Needs score (or\n"
    "topk_idx), or attn by head; mass also needs the field mass.\n";

enum measure { RATIO_OF_SET, JACCARD, WEIGHT_ON_SET };
enum axis { BY_LAYER, BY_HEAD, BY_STEP };

/* One square matrix [n, n], and what fills it: sets, and rows A to weigh them by. */
struct square {
    int n, k;
    enum measure measure;
    double *now, *all; /* this sample's sum, and the mean of samples */
    int *set, *size;   /* [n, cap], [n] */
    int cap;
    uint64_t *bits;
};

/* now[i, j] += the measure of the sets i and j; A (for the weight) has row j at j * stride. */
static void add_square(struct square *q, int candidates, const float *A, size_t stride,
                       double scale)
{
    for (int j = 0; j < q->n; j++) {
        const int *own = q->set + (size_t)j * q->cap;
        measure_mark(q->bits, candidates, own, q->size[j]);
        for (int i = 0; i < q->n; i++) {
            const int *set = q->set + (size_t)i * q->cap, m = q->size[i];
            double *v = &q->now[(size_t)i * q->n + j];
            if (q->measure == WEIGHT_ON_SET) {
                *v += scale * measure_gather(A + j * stride, set, m);
                continue;
            }
            const int common = measure_common(q->bits, set, m);
            const int whole = q->measure == JACCARD ? m + q->size[j] - common : q->size[j];
            *v += whole ? (double)common / whole : 1; /* two empty sets are alike */
        }
    }
}

static void fit_square(struct square *q, int candidates)
{
    q->cap = q->k < candidates ? q->k : candidates;
    q->set = xrealloc(q->set, (size_t)q->n * q->cap * sizeof *q->set);
    q->bits = xrealloc(q->bits, ((size_t)candidates / 64 + 1) * sizeof *q->bits);
}

static void take_set(struct square *q, int row, const int *set, int n)
{
    memcpy(q->set + (size_t)row * q->cap, set, (size_t)n * sizeof *set);
    q->size[row] = n;
}

/* One sample by layer or by head: LAYER < 0 is all. */
static int measure_rows(struct square *q, struct dump *d, int index,
                        const struct dump_sample_info *info, struct sets *sets, bool by_head,
                        int layer, double scale)
{
    const int L = dump_run(d)->L, R = by_head ? info->R : 1;
    const bool weigh = q->measure == WEIGHT_ON_SET;
    float *row = dumps_rows((size_t)L * R, info->T);
    int rc = -1;
    if (row == NULL) return -1;
    for (int step = 0; step < info->S; step++) {
        const float *A = row + (size_t)(layer < 0 ? 0 : layer) * R * info->T;
        if (by_head) {
            if (dump_rows(d, index, DUMP_ATTN, step, row)) goto done;
            for (int r = 0; r < q->n; r++)
                q->size[r] = measure_topk(A + (size_t)r * info->T, info->n_prefill, q->k,
                                          q->set + (size_t)r * q->cap, &sets->scratch);
        } else {
            if (sets_read(sets, d, index, info, step)) goto done;
            if (weigh && dump_rows(d, index, DUMP_MASS, step, row)) goto done;
            for (int l = 0; l < L; l++) {
                int n;
                const int *set = sets_of(sets, 0, l, &n);
                take_set(q, l, set, n);
            }
        }
        add_square(q, info->n_prefill, A, (size_t)info->T, scale);
    }
    for (size_t p = 0; p < (size_t)q->n * q->n; p++) q->now[p] /= info->S;
    rc = 0;

done:
    free(row);
    return rc;
}

/* One sample by step: the sets, and for the weight the rows, of one layer at all steps. */
static int measure_steps(struct square *q, struct dump *d, int index,
                         const struct dump_sample_info *info, struct sets *sets, int layer)
{
    const int L = dump_run(d)->L, n = info->n_prefill;
    const bool weigh = q->measure == WEIGHT_ON_SET;
    float *row = weigh ? dumps_rows((size_t)L, info->T) : NULL;
    float *A = weigh ? dumps_rows((size_t)q->n, n) : NULL;
    int rc = -1;
    if (weigh && (row == NULL || A == NULL)) goto done;
    for (int step = 0; step < q->n; step++) {
        int m;
        if (sets_read(sets, d, index, info, step)) goto done;
        const int *set = sets_of(sets, 0, layer, &m);
        take_set(q, step, set, m);
        if (!weigh) continue;
        if (dump_rows(d, index, DUMP_MASS, step, row)) goto done;
        memcpy(A + (size_t)step * n, row + (size_t)layer * info->T, (size_t)n * sizeof *A);
    }
    add_square(q, n, A, (size_t)n, 1);
    rc = 0;

done:
    free(A);
    free(row);
    return rc;
}

static int parse_word(const char *name, const char *option, const char *word,
                      const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0) return i;
    const char *near = nearest_name(word, words);
    usage_error(name, "%s: unknown \"%s\"%s%s%s", option, word, near ? "; did you mean \"" : "",
                near ? near : "", near ? "\"?" : "");
    return -1;
}

/* The matrix's width: layers, rows of attn, or the steps that all samples have. */
static int square_width(const struct dumps *s, enum axis by, int layer)
{
    if (by == BY_LAYER) return s->run->L;
    if (by == BY_HEAD) return dump_rows_of(s->run) * (layer < 0 ? s->run->L : 1);
    int steps = INT_MAX;
    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        if (dumps_sample(s, i, 0, &info, NULL) == NULL) return -1;
        if (info.S > 0 && info.S < steps) steps = info.S;
    }
    return steps == INT_MAX ? fail("%s: no sample has a step", dump_path(s->d[0])) : steps;
}

int analyze_overlap(int argc, char **argv)
{
    static const char *const axes[] = {"layer", "head", "step", NULL};
    static const char *const measures[] = {"ratio", "jaccard", "mass", NULL};
    const char *by_name = "layer", *measure_name = "ratio", *path = NULL;
    int layer = -1, first, rc, by, measure, samples = 0;
    struct square q = {.k = 32};
    const struct option_spec specs[] = {
        {"--by", OPT_STRING, &by_name, 0, 0}, {"--measure", OPT_STRING, &measure_name, 0, 0},
        {"--k", OPT_INT, &q.k, 1, INT_MAX},   {"--layer", OPT_INT, &layer, 0, INT_MAX},
        {"--out", OPT_STRING, &path, 0, 0},   {0},
    };
    struct dumps s = {0};
    struct sets sets = {0};
    struct output out = {0};
    char *notes = NULL, *where = NULL;

    if ((rc = options_parse(argc, argv, specs, usage, &first)) >= 0) return rc;
    if (first == argc) return usage_error(argv[0], "which dump?");
    if ((by = parse_word(argv[0], "--by", by_name, axes)) < 0) return 2;
    if ((measure = parse_word(argv[0], "--measure", measure_name, measures)) < 0) return 2;
    if (by == BY_STEP && layer < 0) return usage_error(argv[0], "--by step needs --layer");
    if (by == BY_LAYER && layer >= 0) return usage_error(argv[0], "--by layer takes no --layer");
    rc = 1;
    q.measure = (enum measure)measure;
    if (dumps_open(&s, argv + first, argc - first)) goto done;
    if (layer >= s.run->L) {
        fail("--layer %d: the model has layers 0 to %d", layer, s.run->L - 1);
        goto done;
    }
    if ((q.n = square_width(&s, (enum axis)by, layer)) < 0) goto done;
    q.now = xcalloc((size_t)q.n * q.n, sizeof *q.now);
    q.all = xcalloc((size_t)q.n * q.n, sizeof *q.all);
    q.size = xcalloc((size_t)q.n, sizeof *q.size);
    sets_start(&sets, s.run->L, &q.k, 1);

    const bool grouped = by == BY_HEAD && strcmp(s.run->attn_rows, "kv_head") == 0;
    const double scale = grouped ? (double)s.run->G / s.run->H : 1;
    uint32_t need = FIELD_BIT(DUMP_ATTN);
    if (by != BY_HEAD && sets_need(&sets, &s, &need)) goto done;
    if (by != BY_HEAD && measure == WEIGHT_ON_SET) need |= FIELD_BIT(DUMP_MASS);
    for (int i = 0; i < s.samples; i++) {
        struct dump_sample_info info;
        int index;
        struct dump *d = dumps_sample(&s, i, need, &info, &index);
        if (d == NULL) goto done;
        if (info.S == 0) continue;
        fit_square(&q, info.n_prefill);
        memset(q.now, 0, (size_t)q.n * q.n * sizeof *q.now);
        if (by == BY_STEP ? measure_steps(&q, d, index, &info, &sets, layer)
                          : measure_rows(&q, d, index, &info, &sets, by == BY_HEAD, layer, scale))
            goto done;
        for (size_t p = 0; p < (size_t)q.n * q.n; p++) q.all[p] += q.now[p];
        samples++;
    }
    if (samples == 0) {
        fail("%s: no sample has a step", argv[first]);
        goto done;
    }
    if (output_open(&out, path)) goto done;
    if (layer >= 0) where = xprintf(" in layer %d", layer);
    notes = xprintf("%s\nvalue: %s of the top %d by %s of %ss i and j (0-based)%s; mean over "
                    "%s%d samples",
                    s.about, measures[measure], q.k, by == BY_HEAD ? "attn" : "score", axes[by],
                    where ? where : "", by == BY_STEP ? "" : "steps, then ", samples);
    table_head(out.f, argc, argv, notes);
    fputs("i\tj\tvalue\n", out.f);
    for (int i = 0; i < q.n; i++)
        for (int j = 0; j < q.n; j++)
            fprintf(out.f, "%d\t%d\t%.9g\n", i, j, q.all[(size_t)i * q.n + j] / samples);
    rc = 0;

done:
    if (output_close(&out, rc)) rc = 1;
    sets_free(&sets);
    dumps_close(&s);
    free(q.now);
    free(q.all);
    free(q.set);
    free(q.size);
    free(q.bits);
    free(where);
    free(notes);
    return rc;
}
