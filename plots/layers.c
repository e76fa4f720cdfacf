/* layers.c - the figures of what okv-analyze finds: rank, overlap, hits, missing. */
#include "core/base/base.h"
#include "plots/figure.h"
#include "plots/gnuplot.h"
#include "plots/text.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CELLS_MAX 2048 /* rows and columns of a heat map; a page has no more dots to show them */

static bool chosen_k(const struct int_list *list, int k)
{
    for (int i = 0; i < list->n; i++)
        if (list->v[i] == k) return true;
    return list->n == 0;
}

/* The range of x, and of v[FIRST..LAST] in each panel. */
static void ranges(const struct curves *c, int first, int last, double *x_lo, double *x_hi,
                   double *y_lo, double *y_hi)
{
    *x_lo = INFINITY;
    *x_hi = -INFINITY;
    for (int p = 0; p < c->panels.n; p++) {
        y_lo[p] = INFINITY;
        y_hi[p] = -INFINITY;
    }
    for (int i = 0; i < c->n; i++) {
        const struct point *a = &c->p[i];
        *x_lo = fmin(*x_lo, a->x);
        *x_hi = fmax(*x_hi, a->x);
        for (int v = first; v <= last; v++) {
            y_lo[a->panel] = fmin(y_lo[a->panel], a->v[v]); /* fmin() and fmax() pass NaN over */
            y_hi[a->panel] = fmax(y_hi[a->panel], a->v[v]);
        }
    }
    for (int p = 0; p < c->panels.n; p++)
        if (y_lo[p] > y_hi[p]) y_lo[p] = 0, y_hi[p] = 1; /* a panel without a finite value */
}

/* The axes of all panels; returns the widest tick label. */
static double write_axes(FILE *settings, const struct curves *c, const double *lo, const double *hi,
                         double ceiling)
{
    struct axis axes[PANELS_MAX];
    double inset = 0;
    for (int p = 0; p < c->panels.n; p++) {
        axes[p] = axis_over(lo[p], hi[p], 4, ceiling);
        inset = fmax(inset, axes[p].tick_width);
    }
    axis_write(settings, "y", axes, c->panels.n);
    return inset + 7;
}

/* The step of an axis of whole numbers from LO to HI whose labels fit ROOM points. */
static double whole_step(double lo, double hi, double room)
{
    char widest[32];
    double step = 1;
    snprintf(widest, sizeof widest, "%.0f", hi);
    /* up to 16 layers are all named; a long axis needs no label at every place it has room for */
    double gap = hi - lo < 16 ? 3 : 12;
    double ticks = fmax(1, floor(room / (text_width(widest) + gap)));
    for (int i = 0; (hi - lo) / step > ticks; i++)
        step *= i % 3 == 1 ? 2.5 : 2; /* 1 2 5 10 20 ... */
    return step;
}

/* A metric by its name and in a few words; unknown ones by their name. The caller frees it. */
static char *describe(const char *metric)
{
    static const char *const known[][2] = {
        {"m1", "attention mass kept"},     {"m1x", "mass kept, no self"},
        {"m2", "relative mass kept"},      {"m2w", "m2 x importance"},
        {"m4", "tokens in common"},        {"m7", "tokens in common / k"},
        {"m8", "cosine of outputs"},       {"m11", "1 - mass missed"},
        {"m11w", "m11 x importance"},      {"m12", "mass of own top k"},
        {"m15", "kept from step to step"},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (strcmp(metric, known[i][0]) == 0) return xprintf("%s: %s", metric, known[i][1]);
    return xstrdup(metric);
}

int figure_rank(struct figure *f)
{
    struct curves c = {0};
    struct names keys = {0};
    char *titles[PANELS_MAX] = {0};
    int rc = -1, names = 0;
    double x_lo, x_hi, y_lo[PANELS_MAX], y_hi[PANELS_MAX];
    double *marks = xcalloc((size_t)f->marks.n + 1, sizeof *marks);

    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        static const char *const wanted[] = {"metric", "k", "layer", "value", "low", "high"};
        int column[COUNT_OF(wanted)];
        for (size_t w = 0; w < COUNT_OF(wanted); w++)
            if ((column[w] = tsv_need(t, wanted[w])) < 0) goto done;
        for (int row = 0; row < t->rows; row++) {
            const char *metric = tsv_cell(t, row, column[0]);
            int k, layer;
            double v[4] = {0};
            if (tsv_whole(t, row, column[1], 0, INT_MAX, &k) ||
                tsv_whole(t, row, column[2], 0, 100000, &layer) ||
                tsv_number(t, row, column[3], &v[0]) || tsv_number(t, row, column[4], &v[1]) ||
                tsv_number(t, row, column[5], &v[2]))
                goto done;
            if (!chosen(&f->metrics, metric) || !chosen_k(&f->ks, k)) continue;
            char *name = f->table_count > 1 ? xprintf("%s, k = %d", f->tables[i].label, k)
                                            : xprintf("k = %d", k);
            curves_add(&c, names_add(&c.panels, metric), names_add(&c.series, name), layer, v);
            free(name);
        }
    }
    if (curves_check(f, &c, "curves", "; choose with --metric and --k")) goto done;
    if (curves_merge(&c)) {
        fail("%s: a metric, k and layer stands twice", f->tables[0].tsv.path);
        goto done;
    }
    names = c.series.n;
    for (int i = 0; i < names; i++) names_add(&keys, c.series.v[i]);
    if (f->marks.n) names_add(&keys, f->marks.n == 1 ? "marked layer" : "marked layers");

    ranges(&c, 0, 2, &x_lo, &x_hi, y_lo, y_hi);
    for (int i = 0; i < f->marks.n; i++) {
        marks[i] = f->marks.v[i];
        if (marks[i] < x_lo || marks[i] > x_hi) {
            fail("--mark: layer %d is not in the table, which has layers %g to %g", f->marks.v[i],
                 x_lo, x_hi);
            goto done;
        }
    }
    int columns = c.panels.n < 3 ? c.panels.n : c.panels.n == 4 ? 2 : 3;
    const double widths[] = {0, 205, 205, 120};
    double inset = write_axes(f->settings, &c, y_lo, y_hi, NAN);
    const struct layout l = {.panels = c.panels.n,
                             .columns = columns,
                             .inset = inset,
                             .panel_width = widths[columns],
                             .panel_height = columns == 3 ? 90 : 125,
                             .panel_titles = true,
                             .keys = (const char *const *)keys.v,
                             .key_count = keys.n};
    if (layout_write(f, &l)) goto done;
    gnuplot_number(f->settings, "x_lo", x_lo);
    gnuplot_number(f->settings, "x_hi", x_hi);
    gnuplot_number(f->settings, "x_step", whole_step(x_lo, x_hi, f->panel_width));
    gnuplot_number(f->settings, "series", names);
    gnuplot_number(f->settings, "marks", f->marks.n);
    gnuplot_numbers(f->settings, "mark_at", marks, f->marks.n);
    for (int p = 0; p < c.panels.n; p++) {
        char *words = describe(c.panels.v[p]);
        titles[p] = text_fit(words, f->panel_width + 10);
        free(words);
    }
    gnuplot_texts(f->settings, "panel_name", (const char *const *)titles, c.panels.n);
    curves_write(f->data, &c);
    rc = 0;

done:
    for (int p = 0; p < PANELS_MAX; p++) free(titles[p]);
    curves_free(&c);
    names_free(&keys);
    free(marks);
    return rc;
}

/* The word after OPTION in the command line that the table's first '#' line holds, as a new
 * string; NULL when the table does not say. */
static char *option_of(const struct tsv *t, const char *option)
{
    const char *at = t->note_count ? strstr(t->notes[0], option) : NULL;
    if (at == NULL) return NULL;
    at += strlen(option);
    if (*at != ' ' && *at != '=') return NULL;
    return xprintf("%.*s", (int)strcspn(at + 1, " "), at + 1);
}

/* A square map of cells; a cell without a row is NaN. */
struct map {
    char *name; /* metric and k, "" when the table has neither */
    int first, n;
    double *cell; /* [n, n] from index FIRST on */
    double lo, hi;
};

/* Finds the rows to draw, the map they belong to and its size; USED [rows] is set. */
static int map_size(const struct figure *f, struct map *m, bool *used)
{
    const struct tsv *t = &f->tables[0].tsv;
    int ci = tsv_need(t, "i"), cj = ci < 0 ? -1 : tsv_need(t, "j"), last = -1;
    int cm = tsv_column(t, "metric"), ck = tsv_column(t, "k");

    if (ci < 0 || cj < 0) return -1;
    m->first = INT_MAX;
    for (int row = 0; row < t->rows; row++) {
        int i, j, k = 0;
        if (tsv_whole(t, row, ci, 0, 1 << 20, &i) || tsv_whole(t, row, cj, 0, 1 << 20, &j) ||
            (ck >= 0 && tsv_whole(t, row, ck, 0, INT_MAX, &k)))
            return -1;
        if (cm >= 0 && !chosen(&f->metrics, tsv_cell(t, row, cm))) continue;
        if (ck >= 0 && !chosen_k(&f->ks, k)) continue;
        char *name = cm >= 0 && ck >= 0 ? xprintf("%s at k = %d", tsv_cell(t, row, cm), k)
                     : cm >= 0          ? xstrdup(tsv_cell(t, row, cm))
                     : ck >= 0          ? xprintf("k = %d", k)
                                        : xstrdup("");
        bool other = m->name && strcmp(m->name, name) != 0;
        if (other)
            fail("%s: expected one map, found %s and %s; choose with --metric and --k", t->path,
                 m->name, name);
        if (m->name == NULL)
            m->name = name;
        else
            free(name);
        if (other) return -1;
        used[row] = true;
        m->first = i < m->first ? i : m->first;
        m->first = j < m->first ? j : m->first;
        last = i > last ? i : last;
        last = j > last ? j : last;
    }
    if (m->name == NULL) return fail("%s: no row is left to draw", t->path);
    m->n = last - m->first + 1;
    if (m->n > CELLS_MAX)
        return fail("%s: expected at most %d rows and columns of a map, found %d", t->path,
                    CELLS_MAX, m->n);
    return 0;
}

static int map_read(const struct figure *f, struct map *m)
{
    const struct tsv *t = &f->tables[0].tsv;
    bool *used = xcalloc((size_t)t->rows, sizeof *used), *filled = NULL;
    int rc = -1, cv = tsv_need(t, "value");

    if (cv < 0 || map_size(f, m, used)) goto done;
    size_t cells = (size_t)m->n * (size_t)m->n;
    m->cell = xmalloc(cells * sizeof *m->cell);
    filled = xcalloc(cells, sizeof *filled);
    for (size_t i = 0; i < cells; i++) m->cell[i] = NAN;
    m->lo = INFINITY;
    m->hi = -INFINITY;
    for (int row = 0; row < t->rows; row++) {
        int i, j;
        double v;
        if (!used[row]) continue;
        if (tsv_whole(t, row, tsv_column(t, "i"), 0, INT_MAX, &i) ||
            tsv_whole(t, row, tsv_column(t, "j"), 0, INT_MAX, &j) || tsv_number(t, row, cv, &v))
            goto done;
        size_t at = (size_t)(i - m->first) * (size_t)m->n + (size_t)(j - m->first);
        if (filled[at]) {
            fail("%s:%d: the cell i = %d, j = %d stands twice", t->path, t->lines[row], i, j);
            goto done;
        }
        filled[at] = true;
        m->cell[at] = v;
        m->lo = fmin(m->lo, v);
        m->hi = fmax(m->hi, v);
    }
    rc = m->lo > m->hi ? fail("%s: expected a finite value to draw, found none", t->path) : 0;

done:
    free(used);
    free(filled);
    return rc;
}

/* What a value of okv-analyze overlap is, by its command line. The caller frees it. */
static char *measure_of(const struct tsv *t)
{
    static const char *const known[][2] = {
        {"ratio", "ratio: tokens in common / k"},
        {"jaccard", "jaccard: in common / in either"},
        {"mass", "mass: attention of j on i's tokens"},
    };
    char *name = option_of(t, "--measure"), *words = NULL;
    if (name == NULL && t->note_count && strstr(t->notes[0], "okv-analyze overlap"))
        name = xstrdup("ratio"); /* its default */
    for (size_t i = 0; name && i < COUNT_OF(known); i++)
        if (strcmp(name, known[i][0]) == 0) words = xstrdup(known[i][1]);
    if (words == NULL) words = name ? xstrdup(name) : xstrdup("overlap of the selections");
    free(name);
    return words;
}

int figure_overlap(struct figure *f)
{
    struct map m = {0};
    char *by = NULL, *label = NULL, *text = NULL, *fitting = NULL;
    int rc = -1;

    if (f->table_count > 1) {
        fail("overlap: expected one table, found %d", f->table_count);
        goto done;
    }
    if (map_read(f, &m)) goto done;
    by = option_of(&f->tables[0].tsv, "--by");
    label = f->label  ? xstrdup(f->label)
            : *m.name ? xstrdup(m.name)
                      : measure_of(&f->tables[0].tsv);

    /* the colours span the values, or 0 to 1 when shares come near to filling it */
    double low = m.lo, high = m.hi;
    if (low >= 0 && high <= 1 && high - low > 0.5) low = 0, high = 1;
    if (low == high) high = low + (low != 0 ? fabs(low) : 1) * 0.01;
    struct axis box = axis_over(low, high, 5, NAN);
    int last = m.first + m.n - 1;
    const struct layout l = {.panels = 1,
                             .columns = 1,
                             .inset = text_width("0") * (last > 999  ? 4
                                                         : last > 99 ? 3
                                                                     : 2) +
                                      7,
                             .extra = 50 + box.tick_width,
                             .panel_width = 175,
                             .panel_height = 175};
    if (layout_write(f, &l)) goto done;
    text = xprintf("values %.3g to %.3g", m.lo, m.hi);
    fitting = text_fit(label, f->height - 10);
    gnuplot_text(f->settings, "box_label", fitting);
    gnuplot_text(f->settings, "box_range", text);
    gnuplot_number(f->settings, "box_wide", box.tick_width);
    gnuplot_text(f->settings, "index", by ? by : "layer");
    gnuplot_number(f->settings, "box_lo", low);
    gnuplot_number(f->settings, "box_hi", high);
    gnuplot_number(f->settings, "box_step", box.step);
    gnuplot_text(f->settings, "box_format", box.format);
    gnuplot_number(f->settings, "first", m.first);
    gnuplot_number(f->settings, "last", last);
    gnuplot_number(f->settings, "step", whole_step(m.first, last, f->panel_width));
    int side = m.n > 1 ? m.n : 2; /* gnuplot takes no map below 2 x 2; the range cuts it */
    for (int i = 0; i < side; i++, fputc('\n', f->data))
        for (int j = 0; j < side; j++) {
            double v = i >= m.n || j >= m.n ? NAN : m.cell[(size_t)i * (size_t)m.n + (size_t)j];
            fprintf(f->data, isnan(v) ? "%d\t%d\tNaN\n" : "%d\t%d\t%.9g\n", m.first + j,
                    m.first + i, v);
        }
    rc = 0;

done:
    free(m.name);
    free(m.cell);
    free(by);
    free(label);
    free(text);
    free(fitting);
    return rc;
}

int figure_hits(struct figure *f)
{
    static const char *const panel_names[] = {"mass: share of all attention",
                                              "recall: share of the layer's own top k"};
    struct curves c = {0};
    struct names ticks = {0};
    double x_lo, x_hi, y_lo[PANELS_MAX], y_hi[PANELS_MAX], at[64];
    int rc = -1, ticks_n = 0;

    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        int ck = tsv_need(t, "k"), source = tsv_column(t, "source");
        int column[] = {tsv_column(t, "mass"), tsv_column(t, "recall")};
        if (ck < 0) goto done;
        if (column[0] < 0 && column[1] < 0) {
            tsv_need(t, "mass");
            goto done;
        }
        for (int row = 0; row < t->rows; row++) {
            int k;
            if (tsv_whole(t, row, ck, 1, INT_MAX, &k)) goto done;
            const char *cell = source >= 0 ? tsv_cell(t, row, source) : f->tables[i].label;
            char *name = source >= 0 && f->table_count > 1
                             ? xprintf("%s, %s", f->tables[i].label, cell)
                             : xstrdup(cell);
            int series = names_add(&c.series, name);
            free(name);
            for (int m = 0; m < 2; m++) {
                double v[4] = {0};
                if (column[m] < 0) continue;
                if (tsv_number(t, row, column[m], &v[0])) goto done;
                curves_add(&c, names_add(&c.panels, panel_names[m]), series, k, v);
            }
        }
    }
    if (curves_check(f, &c, "sources", "")) goto done;
    curves_merge(&c);
    ranges(&c, 0, 0, &x_lo, &x_hi, y_lo, y_hi);
    double inset = write_axes(f->settings, &c, y_lo, y_hi, 1);
    for (double k = exp2(floor(log2(x_lo))); k <= x_hi * 1.0001 && ticks_n < 64; k *= 2) {
        if (k < x_lo * 0.9999) continue;
        char *text = k < 10000 ? xprintf("%.0f", k) : xprintf("%.0fK", k / 1024);
        if (names_add(&ticks, text) == ticks_n) at[ticks_n++] = k;
        free(text);
    }
    const struct layout l = {.panels = c.panels.n,
                             .columns = 2,
                             .inset = inset,
                             .panel_width = 195,
                             .panel_height = 135,
                             .panel_titles = true,
                             .keys = (const char *const *)c.series.v,
                             .key_count = c.series.n};
    if (layout_write(f, &l)) goto done;
    ticks_write(f->settings, "x", at, (const char *const *)ticks.v, ticks_n, x_lo, x_hi,
                f->panel_width);
    gnuplot_number(f->settings, "x_lo", x_lo == x_hi ? x_lo / 2 : x_lo);
    gnuplot_number(f->settings, "x_hi", x_lo == x_hi ? x_hi * 2 : x_hi);
    gnuplot_number(f->settings, "series", c.series.n);
    gnuplot_texts(f->settings, "panel_name", (const char *const *)c.panels.v, c.panels.n);
    curves_write(f->data, &c);
    rc = 0;

done:
    curves_free(&c);
    names_free(&ticks);
    return rc;
}

int figure_missing(struct figure *f)
{
    struct curves c = {0};
    struct names keys = {0};
    double x_lo, x_hi, y_lo[PANELS_MAX], y_hi[PANELS_MAX];
    int rc = -1, panel = names_add(&c.panels, "missing");

    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        int cs = tsv_need(t, "step"), cm = tsv_need(t, "missing");
        if (cs < 0 || cm < 0) goto done;
        int series = names_add(&c.series, f->tables[i].label);
        for (int row = 0; row < t->rows; row++) {
            int step;
            double v[4] = {0};
            if (tsv_whole(t, row, cs, 0, 100000000, &step) || tsv_number(t, row, cm, &v[0]))
                goto done;
            v[1] = v[2] = v[0];
            curves_add(&c, panel, series, step, v);
        }
    }
    if (curves_check(f, &c, "tables", "")) goto done;
    curves_merge(&c);
    ranges(&c, 0, 2, &x_lo, &x_hi, y_lo, y_hi);
    y_lo[0] = fmin(0, y_lo[0]);
    double inset = write_axes(f->settings, &c, y_lo, y_hi, 1);
    if (c.series.n == 1) {
        names_add(&keys, "mean over layers and samples");
        names_add(&keys, "up to the worst");
    } else {
        for (int i = 0; i < c.series.n; i++) names_add(&keys, c.series.v[i]);
        names_add(&keys, "from the mean to the worst");
    }
    const struct layout l = {.panels = 1,
                             .columns = 1,
                             .inset = inset,
                             .panel_width = 330,
                             .panel_height = 120,
                             .keys = (const char *const *)keys.v,
                             .key_count = keys.n};
    if (layout_write(f, &l)) goto done;
    gnuplot_number(f->settings, "x_lo", x_lo);
    gnuplot_number(f->settings, "x_hi", x_hi);
    gnuplot_number(f->settings, "x_step", whole_step(x_lo, x_hi, f->panel_width));
    gnuplot_number(f->settings, "series", c.series.n);
    curves_write(f->data, &c);
    rc = 0;

done:
    curves_free(&c);
    names_free(&keys);
    return rc;
}
