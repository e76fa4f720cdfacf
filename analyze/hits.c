/* hits.c - okv-analyze hits: mass and recall against budget, for own, reused and lagged sets. */
#include "analyze/cmd.h"
#include "analyze/sets.h"
#include "core/base/command.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze hits DUMP... [OPTIONS]\n"
    "\n"
    "How much of its attention, and how many of its own best tokens, does a layer find when\n"
    "it takes k tokens from elsewhere? Sources of the set:\n"
    "  own      the layer's own top k by score at this step (recall 1 by definition)\n"
    "  reused   the set of the nearest filter layer below, for the layers that --filters and\n"
    "           --wait make sparse; without --filters reused-D: the set of layer j - D\n"
    "  lagged   the layer's own set of --lag steps before\n"
    "With --filters every source is counted on the sparse layers only.\n"
    "\n"
    "  --k K,...        budgets in tokens [8,16,32,64,128,256,512]\n"
    "  --filters F,...  filter layers, 0-based, ascending\n"
    "  --wait W         full layers after each filter layer [0]\n"
    "  --distance D,... distances in layers, without --filters [1,2,4,8]\n"
    "  --lag N          steps [1]\n"
    "  --by-layer       one row per layer instead of their mean: adds the column layer\n"
    "  --out FILE       write the table there\n"
    "\n"
    "Columns: source, [layer,] k (tokens), mass (attention weight on the set, mean over\n"
    "heads, of all attention of the step), recall (share of the layer's own top k in the\n"
    "set), mean over steps, then samples, then layers. Needs the fields mass and score (or\n"
    "topk_idx).\n";

/* Sums for one source: [nk, L]; the mean of a sample is added when it ends. */
struct source {
    char *name;
    int distance;          /* of reused-D; 0 otherwise */
    double *mass, *recall; /* this sample's */
    double *all_mass, *all_recall;
    int *steps, *samples; /* [L] counted */
};

struct hits {
    struct source *source; /* own, reused..., lagged */
    int sources, L, nk;
    const int *k;
    const int *nearest; /* [L], or NULL without --filters */
    int lag;
    float *row; /* [L, T] mass */
    size_t row_room;
    uint64_t *bits;
    struct sets *ring; /* [lag + 1] the sets of this step and of those before */
};

static void add_hit(struct hits *h, struct source *q, int j, int a, const float *A, const int *set,
                    int m, int own)
{
    const size_t at = (size_t)a * h->L + j;
    q->mass[at] += measure_gather(A, set, m);
    q->recall[at] += own ? (double)measure_common(h->bits, set, m) / own : 1;
}

static void add_step(struct hits *h, const struct dump_sample_info *info, int step)
{
    const struct sets *now = &h->ring[0];
    for (int j = 0; j < h->L; j++) {
        if (h->nearest && h->nearest[j] < 0) continue;
        const float *A = h->row + (size_t)j * info->T;
        for (int s = 0; s < h->sources; s++) {
            const bool lagged = s == h->sources - 1;
            const int from = h->nearest && s == 1 ? h->nearest[j] : j - h->source[s].distance;
            if (from < 0 || (lagged && step < h->lag)) continue;
            h->source[s].steps[j]++;
            for (int a = 0; a < h->nk; a++) {
                int own, m;
                const int *mine = sets_of(now, a, j, &own);
                const int *set = sets_of(lagged ? &h->ring[h->lag] : now, a, from, &m);
                measure_mark(h->bits, info->n_prefill, mine, own);
                add_hit(h, &h->source[s], j, a, A, set, m, own);
            }
        }
    }
}

static void end_sample(struct hits *h)
{
    for (int s = 0; s < h->sources; s++) {
        struct source *q = &h->source[s];
        for (int j = 0; j < h->L; j++) {
            for (int a = 0; q->steps[j] && a < h->nk; a++) {
                const size_t at = (size_t)a * h->L + j;
                q->all_mass[at] += q->mass[at] / q->steps[j];
                q->all_recall[at] += q->recall[at] / q->steps[j];
                q->mass[at] = q->recall[at] = 0;
            }
            q->samples[j] += q->steps[j] > 0;
            q->steps[j] = 0;
        }
    }
}

static int read_all(struct hits *h, const struct dumps *s)
{
    uint32_t need;
    struct progress p;
    int rc = -1, words = 0;
    if (sets_need(&h->ring[0], s, &need)) return -1;
    need |= FIELD_BIT(DUMP_MASS);
    progress_start(&p, "samples", s->samples);
    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        int index;
        struct dump *d = dumps_sample(s, i, need, &info, &index);
        if (d == NULL) goto done;
        const size_t room = (size_t)h->L * info.T;
        if (room > h->row_room) {
            free(h->row);
            h->row_room = 0;
            if ((h->row = dumps_rows((size_t)h->L, info.T)) == NULL) goto done;
            h->row_room = room;
        }
        if (info.n_prefill / 64 + 1 > words) {
            words = info.n_prefill / 64 + 1;
            h->bits = xrealloc(h->bits, (size_t)words * sizeof *h->bits);
        }
        for (int step = 0; step < info.S; step++) {
            for (int r = h->lag; r > 0; r--) sets_swap(&h->ring[r], &h->ring[r - 1]);
            if (sets_read(&h->ring[0], d, index, &info, step) ||
                dump_rows(d, index, DUMP_MASS, step, h->row))
                goto done;
            add_step(h, &info, step);
        }
        end_sample(h);
        progress_show(&p, i + 1);
    }
    rc = 0;

done:
    progress_end(&p);
    return rc;
}

static void put_rows(const struct hits *h, FILE *f, bool by_layer)
{
    for (int s = 0; s < h->sources; s++) {
        const struct source *q = &h->source[s];
        for (int a = 0; a < h->nk; a++) {
            double mass = 0, recall = 0;
            int layers = 0;
            for (int j = 0; j < h->L; j++) {
                if (q->samples[j] == 0) continue;
                const size_t at = (size_t)a * h->L + j;
                const double x = q->all_mass[at] / q->samples[j];
                const double y = q->all_recall[at] / q->samples[j];
                if (by_layer) fprintf(f, "%s\t%d\t%d\t%.9g\t%.9g\n", q->name, j, h->k[a], x, y);
                mass += x;
                recall += y;
                layers++;
            }
            if (!by_layer && layers)
                fprintf(f, "%s\t%d\t%.9g\t%.9g\n", q->name, h->k[a], mass / layers,
                        recall / layers);
        }
    }
}

static void start_sources(struct hits *h, const int *distance, int n)
{
    const size_t cells = (size_t)h->nk * h->L;
    h->sources = (h->nearest ? 1 : n) + 2;
    h->source = xcalloc((size_t)h->sources, sizeof *h->source);
    for (int s = 0; s < h->sources; s++) {
        struct source *q = &h->source[s];
        const bool reused = s > 0 && s < h->sources - 1;
        q->distance = reused && !h->nearest ? distance[s - 1] : 0;
        q->name = s == 0                  ? xstrdup("own")
                  : reused && q->distance ? xprintf("reused-%d", q->distance)
                  : reused                ? xstrdup("reused")
                                          : xstrdup("lagged");
        q->mass = xcalloc(4 * cells, sizeof *q->mass);
        q->recall = q->mass + cells;
        q->all_mass = q->recall + cells;
        q->all_recall = q->all_mass + cells;
        q->steps = xcalloc(2 * (size_t)h->L, sizeof *q->steps);
        q->samples = q->steps + h->L;
    }
}

static void hits_free(struct hits *h)
{
    for (int s = 0; s < h->sources; s++) {
        free(h->source[s].name);
        free(h->source[s].mass);
        free(h->source[s].steps);
    }
    for (int r = 0; h->ring && r <= h->lag; r++) sets_free(&h->ring[r]);
    free(h->source);
    free(h->ring);
    free(h->row);
    free(h->bits);
}

int analyze_hits(int argc, char **argv)
{
    static const int default_k[] = {8, 16, 32, 64, 128, 256, 512}, default_d[] = {1, 2, 4, 8};
    struct int_list k = {0}, filters = {0}, distance = {0};
    int wait = 0, first, rc;
    bool by_layer = false;
    const char *path = NULL;
    struct hits h = {.lag = 1};
    const struct option_spec specs[] = {
        {"--k", OPT_INT_LIST, &k, 1, INT_MAX},  {"--filters", OPT_INT_LIST, &filters, 0, INT_MAX},
        {"--wait", OPT_INT, &wait, 0, INT_MAX}, {"--distance", OPT_INT_LIST, &distance, 1, INT_MAX},
        {"--lag", OPT_INT, &h.lag, 1, 1000},    {"--by-layer", OPT_FLAG, &by_layer, 0, 0},
        {"--out", OPT_STRING, &path, 0, 0},     {0},
    };
    struct dumps s = {0};
    struct output out = {0};
    int *nearest = NULL;
    char *notes = NULL;

    if ((rc = options_parse(argc, argv, specs, usage, &first)) >= 0) goto done;
    if (first == argc) {
        rc = usage_error(argv[0], "which dump?");
        goto done;
    }
    rc = 1;
    if (dumps_open(&s, argv + first, argc - first)) goto done;
    h.L = s.run->L;
    h.k = k.n ? k.v : default_k;
    h.nk = k.n ? k.n : (int)COUNT_OF(default_k);
    if (filters.n) {
        if (sets_check_layers("--filters", filters.v, filters.n, h.L)) goto done;
        nearest = xmalloc((size_t)h.L * sizeof *nearest);
        sets_nearest(nearest, h.L, filters.v, filters.n, wait);
        h.nearest = nearest;
    }
    start_sources(&h, distance.n ? distance.v : default_d,
                  distance.n ? distance.n : (int)COUNT_OF(default_d));
    h.ring = xcalloc((size_t)h.lag + 1, sizeof *h.ring);
    for (int r = 0; r <= h.lag; r++) sets_start(&h.ring[r], h.L, h.k, h.nk);
    if (read_all(&h, &s) || output_open(&out, path)) goto done;

    notes = xprintf("%s\nmass: attention weight on the set, mean over heads; recall: share of the "
                    "layer's own top k by score; mean over steps, samples, then layers%s\n"
                    "lagged: %d steps before; k in tokens, of the candidates [0, n_prefill)",
                    s.about, nearest ? " (the sparse ones)" : "", h.lag);
    table_head(out.f, argc, argv, notes);
    fputs(by_layer ? "source\tlayer\tk\tmass\trecall\n" : "source\tk\tmass\trecall\n", out.f);
    put_rows(&h, out.f, by_layer);
    rc = 0;

done:
    if (output_close(&out, rc)) rc = rc ? rc : 1;
    hits_free(&h);
    dumps_close(&s);
    free(notes);
    free(nearest);
    free(k.v);
    free(filters.v);
    free(distance.v);
    return rc;
}
