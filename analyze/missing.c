/* missing.c - okv-analyze missing: attention that a selection misses, step by step. */
#include "analyze/cmd.h"
#include "analyze/choose.h"
#include "analyze/sets.h"
#include "core/base/command.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze missing DUMP... [--filters F,... [--wait W] [--k K]] [OPTIONS]\n"
    "\n"
    "How much attention falls on prefill tokens that a layer would not see? A mean over\n"
    "steps hides that one step may lose half of it. With --filters, on a dense dump: each\n"
    "sparse layer j takes the top k of the nearest filter layer f below, and misses the\n"
    "weight that its own dense attention puts on all other candidates. Without, on a dump\n"
    "that recorded selected_idx: the same for the sets the run really used, at the layers\n"
    "that saw everything (filter and wait layers), the only ones where what was missed is\n"
    "known.\n"
    "\n"
    "  --filters F,...  filter layers, 0-based, ascending\n"
    "  --wait W         full layers after each filter layer [0]\n"
    "  --k K            tokens in a set [32]\n"
    "  --mean           mean over samples: drops the column sample; a step counts the\n"
    "                   samples that have it\n"
    "  --out FILE       write the table there\n"
    "\n"
    "Columns: sample (0-based), step (0-based), layer, missing (attention weight, mean over\n"
    "heads, of all attention of the step, 0 to 1). Needs the field mass, and score (or\n"
    "topk_idx) or selected_idx.\n";

struct missing {
    int L, wait, M;
    const int *filter; /* [M] */
    bool simulated;
    int *nearest;     /* [L] the filter that serves the layer, -1: none */
    struct sets sets; /* simulated */
    int *selected;    /* [M, k] recorded */
    size_t selected_room, row_room;
    float *row;        /* [L, T] mass */
    double *sum;       /* [steps, L], with --mean */
    int *count, steps; /* [steps] samples that have the step */
};

/* missing[l] for every layer served. 0, or -1 after fail(). */
static int measure_step(struct missing *m, struct dump *d, int index,
                        const struct dump_sample_info *info, int step, double *lost)
{
    const int n = info->n_prefill;
    if (dump_rows(d, index, DUMP_MASS, step, m->row)) return -1;
    if (m->simulated ? sets_read(&m->sets, d, index, info, step)
                     : dump_ints(d, index, DUMP_SELECTED_IDX, step, m->selected))
        return -1;
    for (int l = 0; l < m->L; l++) {
        if (m->nearest[l] < 0) continue;
        const float *A = m->row + (size_t)l * info->T;
        const int *set;
        int size = 0;
        if (m->simulated) {
            set = sets_of(&m->sets, 0, m->nearest[l], &size);
        } else {
            int at = 0;
            while (m->filter[at] != m->nearest[l]) at++;
            set = m->selected + (size_t)at * info->k;
            while (size < info->k && set[size] >= 0) {
                if (set[size] >= info->T)
                    return fail("%s: selected_idx holds %d, of %d tokens", dump_path(d), set[size],
                                info->T);
                size++;
            }
            while (size > 0 && set[size - 1] >= n) size--; /* decoded tokens are always seen */
        }
        lost[l] = fmax(0, measure_sum(A, n) - measure_gather(A, set, size));
    }
    return 0;
}

/* Which layers have a known loss, and by whose set. */
static int choose_layers(struct missing *m, const struct dumps *s, const struct int_list *filters)
{
    const struct dump_run *run = s->run;
    m->L = run->L;
    m->nearest = xmalloc((size_t)m->L * sizeof *m->nearest);
    m->simulated = filters->n > 0;
    if (m->simulated) {
        if (sets_check_layers("--filters", filters->v, filters->n, m->L)) return -1;
        if (run->full_layers < m->L)
            return fail("%s: traced with %d of %d layers full; --filters needs a dense dump",
                        dump_path(s->d[0]), run->full_layers, m->L);
        m->filter = filters->v;
        m->M = filters->n;
        sets_nearest(m->nearest, m->L, m->filter, m->M, m->wait);
        return 0;
    }
    m->filter = run->layers;
    m->M = run->M;
    if (m->M == 0)
        return fail("%s: its method selects nothing; give --filters to simulate a selection",
                    dump_path(s->d[0]));
    if (sets_check_layers(dump_path(s->d[0]), m->filter, m->M, m->L)) return -1;
    for (int i = 1; i < s->n; i++) {
        const struct dump_run *r = dump_run(s->d[i]);
        if (r->M != m->M || memcmp(r->layers, m->filter, (size_t)m->M * sizeof *m->filter) != 0 ||
            r->full_layers != run->full_layers)
            return fail("%s: other filter or wait layers than in %s", dump_path(s->d[i]),
                        dump_path(s->d[0]));
    }
    m->wait = 0; /* the run's, from its number of full layers */
    while (m->wait < m->L && choose_cost(m->filter, m->M, m->wait, m->L) < run->full_layers)
        m->wait++;
    for (int l = 0, f = -1; l < m->L; l++) {
        if (f + 1 < m->M && m->filter[f + 1] == l) f++;
        m->nearest[l] = f >= 0 && l - m->filter[f] <= m->wait ? m->filter[f] : -1;
    }
    return 0;
}

static int fit(struct missing *m, const struct dump_sample_info *info, bool mean)
{
    const size_t room = (size_t)m->L * info->T, selected = (size_t)m->M * info->k;
    if (room > m->row_room) {
        free(m->row);
        m->row_room = 0;
        if ((m->row = dumps_rows((size_t)m->L, info->T)) == NULL) return -1;
        m->row_room = room;
    }
    if (!m->simulated && selected > m->selected_room) {
        m->selected = xrealloc(m->selected, selected * sizeof *m->selected);
        m->selected_room = selected;
    }
    if (mean && info->S > m->steps) {
        m->sum = xrealloc(m->sum, (size_t)info->S * m->L * sizeof *m->sum);
        m->count = xrealloc(m->count, (size_t)info->S * sizeof *m->count);
        memset(m->sum + (size_t)m->steps * m->L, 0,
               (size_t)(info->S - m->steps) * m->L * sizeof *m->sum);
        memset(m->count + m->steps, 0, (size_t)(info->S - m->steps) * sizeof *m->count);
        m->steps = info->S;
    }
    return 0;
}

static int put_all(struct missing *m, const struct dumps *s, FILE *f, bool mean)
{
    uint32_t need = FIELD_BIT(DUMP_SELECTED_IDX);
    if (m->simulated && sets_need(&m->sets, s, &need)) return -1;
    need |= FIELD_BIT(DUMP_MASS);
    double *lost = xcalloc((size_t)m->L, sizeof *lost);
    int rc = -1;
    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        int index;
        struct dump *d = dumps_sample(s, i, need, &info, &index);
        if (d == NULL || fit(m, &info, mean)) goto done;
        for (int step = 0; step < info.S; step++) {
            if (measure_step(m, d, index, &info, step, lost)) goto done;
            if (mean) m->count[step]++;
            for (int l = 0; l < m->L; l++) {
                if (m->nearest[l] < 0) continue;
                if (mean)
                    m->sum[(size_t)step * m->L + l] += lost[l];
                else
                    fprintf(f, "%d\t%d\t%d\t%.9g\n", i, step, l, lost[l]);
            }
        }
    }
    for (int step = 0; step < m->steps; step++) {
        for (int l = 0; l < m->L; l++)
            if (m->nearest[l] >= 0)
                fprintf(f, "%d\t%d\t%.9g\n", step, l,
                        m->sum[(size_t)step * m->L + l] / m->count[step]);
    }
    rc = 0;

done:
    free(lost);
    return rc;
}

int analyze_missing(int argc, char **argv)
{
    struct missing m = {0};
    struct int_list filters = {0};
    int k = 32, first, rc;
    bool mean = false;
    const char *path = NULL;
    const struct option_spec specs[] = {
        {"--filters", OPT_INT_LIST, &filters, 0, INT_MAX},
        {"--wait", OPT_INT, &m.wait, 0, INT_MAX},
        {"--k", OPT_INT, &k, 1, INT_MAX},
        {"--mean", OPT_FLAG, &mean, 0, 0},
        {"--out", OPT_STRING, &path, 0, 0},
        {0},
    };
    struct dumps s = {0};
    struct output out = {0};
    char *notes = NULL;

    if ((rc = options_parse(argc, argv, specs, usage, &first)) >= 0) goto done;
    if (first == argc) {
        rc = usage_error(argv[0], "which dump?");
        goto done;
    }
    rc = 1;
    if (dumps_open(&s, argv + first, argc - first) || choose_layers(&m, &s, &filters)) goto done;
    sets_start(&m.sets, m.L, &k, 1);
    if (output_open(&out, path)) goto done;
    notes = m.simulated
                ? xprintf("%s\nmissing: attention weight, mean over heads, on candidates outside "
                          "the top %d of the nearest filter layer, at the sparse layers; wait %d",
                          s.about, k, m.wait)
                : xprintf("%s\nmissing: attention weight, mean over heads, on prefill tokens "
                          "outside selected_idx, at the layers that saw everything; wait %d",
                          s.about, m.wait);
    table_head(out.f, argc, argv, notes);
    fputs(mean ? "step\tlayer\tmissing\n" : "sample\tstep\tlayer\tmissing\n", out.f);
    if (put_all(&m, &s, out.f, mean)) goto done;
    rc = 0;

done:
    if (output_close(&out, rc)) rc = rc ? rc : 1;
    sets_free(&m.sets);
    dumps_close(&s);
    free(m.nearest);
    free(m.selected);
    free(m.row);
    free(m.sum);
    free(m.count);
    free(notes);
    free(filters.v);
    return rc;
}
