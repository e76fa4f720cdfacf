/* sets.c - the sets of one step: every layer's top k of a few budgets k, by score. */
#include "analyze/sets.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void sets_start(struct sets *s, int L, const int *k, int nk)
{
    memset(s, 0, sizeof *s);
    s->L = L;
    s->k = k;
    s->nk = nk;
    s->n = xcalloc((size_t)nk * L + 1, sizeof *s->n);
}

void sets_free(struct sets *s)
{
    free(s->idx);
    free(s->n);
    free(s->row);
    topk_scratch_free(&s->scratch);
    memset(s, 0, sizeof *s);
}

int sets_need(const struct sets *s, const struct dumps *d, uint32_t *need)
{
    *need = 0;
    for (int i = 0; i < d->samples; i++) {
        struct dump_sample_info info;
        const struct dump *x = dumps_sample(d, i, 0, &info, NULL);
        if (x == NULL) return -1;
        if (info.fields & FIELD_BIT(DUMP_SCORE)) continue;
        bool fits = info.fields & FIELD_BIT(DUMP_TOPK_IDX);
        for (int a = 0; a < s->nk; a++)
            fits &= s->k[a] <= dump_run(x)->K || dump_run(x)->K >= info.n_prefill;
        if (!fits) *need = FIELD_BIT(DUMP_SCORE);
    }
    return 0;
}

static int ascending(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

static int from_topk(struct sets *s, struct dump *d, int index, int n, int step)
{
    const int K = dump_run(d)->K;
    int *idx = xmalloc(((size_t)s->L * K + 1) * sizeof *idx);
    int rc = dump_ints(d, index, DUMP_TOPK_IDX, step, idx);
    for (int l = 0; rc == 0 && l < s->L; l++) {
        for (int a = 0; rc == 0 && a < s->nk; a++) {
            int *set = s->idx + ((size_t)a * s->L + l) * s->cap, m = 0;
            for (int e = 0; rc == 0 && e < K && e < s->k[a] && e < s->cap; e++) {
                const int t = idx[(size_t)l * K + e];
                if (t < -1 || t >= n)
                    rc = fail("%s: topk_idx[%d, %d, %d] is %d, of %d candidates", dump_path(d),
                              step, l, e, t, n);
                else if (t >= 0)
                    set[m++] = t;
            }
            qsort(set, (size_t)m, sizeof *set, ascending);
            s->n[(size_t)a * s->L + l] = m;
        }
    }
    free(idx);
    return rc;
}

int sets_read(struct sets *s, struct dump *d, int index, const struct dump_sample_info *info,
              int step)
{
    const int n = info->n_prefill;
    int widest = 0;
    for (int a = 0; a < s->nk; a++) widest = s->k[a] > widest ? s->k[a] : widest;
    s->cap = widest < n ? widest : n;
    const size_t room = (size_t)s->nk * s->L * s->cap;
    if (room > s->room) {
        s->idx = xrealloc(s->idx, room * sizeof *s->idx);
        s->room = room;
    }
    if ((info->fields & FIELD_BIT(DUMP_SCORE)) == 0) return from_topk(s, d, index, n, step);

    const size_t row_room = (size_t)s->L * info->T;
    if (row_room > s->row_room) {
        free(s->row);
        s->row_room = 0;
        if ((s->row = dumps_rows((size_t)s->L, info->T)) == NULL) return -1;
        s->row_room = row_room;
    }
    if (dump_rows(d, index, DUMP_SCORE, step, s->row)) return -1;
    for (int l = 0; l < s->L; l++) {
        for (int a = 0; a < s->nk; a++)
            s->n[(size_t)a * s->L + l] =
                measure_topk(s->row + (size_t)l * info->T, n, s->k[a],
                             s->idx + ((size_t)a * s->L + l) * s->cap, &s->scratch);
    }
    return 0;
}

const int *sets_of(const struct sets *s, int ki, int layer, int *n)
{
    const size_t at = (size_t)ki * s->L + layer;
    *n = s->n[at];
    return s->idx + at * s->cap;
}

void sets_swap(struct sets *a, struct sets *b)
{
    struct sets c = *a;
    *a = *b;
    *b = c;
}

void sets_nearest(int *nearest, int L, const int *f, int n, int wait)
{
    for (int j = 0; j < L; j++) {
        int m = -1;
        while (m + 1 < n && f[m + 1] <= j) m++;
        nearest[j] = m < 0 || j - f[m] <= wait ? -1 : f[m];
    }
}

int sets_check_layers(const char *what, const int *f, int n, int L)
{
    for (int i = 0; i < n; i++) {
        if (f[i] < 0 || f[i] >= L)
            return fail("%s: layer %d, but the model has layers 0 to %d", what, f[i], L - 1);
        if (i && f[i] <= f[i - 1])
            return fail("%s: layers must ascend, found %d after %d", what, f[i], f[i - 1]);
    }
    return n > 0 ? 0 : fail("%s: no layer", what);
}
