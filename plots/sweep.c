/* sweep.c - the figures of sweeps: accuracy over budgets, and over length and depth of a needle. */
#include "core/base/base.h"
#include "plots/figure.h"
#include "plots/gnuplot.h"
#include "plots/text.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CELLS_MAX 64 /* lengths, or depths, of a heat map */

/* ---- accuracy against the tokens kept */

/* Reads v = accuracy, low and high in per cent; a method without a budget is at x = 0. */
static int read_kept(const struct figure *f, struct curves *c)
{
    static const char *const wanted[] = {"method", "budget", "task", "correct",
                                         "total",  "low",    "high"};
    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        int column[COUNT_OF(wanted)];
        for (size_t w = 0; w < COUNT_OF(wanted); w++)
            if ((column[w] = tsv_need(t, wanted[w])) < 0) return -1;
        for (int row = 0; row < t->rows; row++) {
            const char *task = tsv_cell(t, row, column[2]);
            int budget = 0, total, correct;
            double v[4] = {0};
            if (strcmp(tsv_cell(t, row, column[1]), "-") != 0 &&
                tsv_whole(t, row, column[1], 1, INT_MAX, &budget))
                return -1;
            if (tsv_whole(t, row, column[4], 1, INT_MAX, &total) ||
                tsv_whole(t, row, column[3], 0, total, &correct) ||
                tsv_number(t, row, column[5], &v[1]) || tsv_number(t, row, column[6], &v[2]))
                return -1;
            v[0] = (double)correct / total;
            if (!(v[1] <= v[0] + 1e-4 && v[2] >= v[0] - 1e-4 && v[1] >= 0 && v[2] <= 1))
                return fail("%s:%d: %s to %s is no interval around %d of %d", t->path,
                            t->lines[row], tsv_cell(t, row, column[5]), tsv_cell(t, row, column[6]),
                            correct, total);
            for (int k = 0; k < 3; k++) v[k] *= 100;
            if (!chosen(&f->tasks, task)) continue;
            curves_add(c, names_add(&c->panels, task),
                       names_add(&c->series, tsv_cell(t, row, column[0])), budget, v);
        }
    }
    return 0;
}

/* Puts the panel "all" last, or drops it where it says what the only task says. */
static void sum_last(const struct figure *f, struct curves *c)
{
    int all = 0, kept = 0;
    const int last = c->panels.n - 1;
    while (all <= last && strcmp(c->panels.v[all], "all") != 0) all++;
    if (all > last || f->tasks.n) return;
    char *name = c->panels.v[all];
    memmove(c->panels.v + all, c->panels.v + all + 1, (size_t)(last - all) * sizeof *c->panels.v);
    c->panels.v[last] = name;
    for (int i = 0; i < c->n; i++) {
        struct point p = c->p[i];
        p.panel = p.panel == all ? last : p.panel - (p.panel > all);
        if (last != 1 || p.panel != last) c->p[kept++] = p;
    }
    c->n = kept;
    if (last == 1) free(c->panels.v[--c->panels.n]);
}

/* Turns the points at budget 0 into level lines from LOW to HIGH, and says which series are. */
static void spread_levels(struct curves *c, double low, double high, double *level)
{
    for (int i = 0, n = c->n; i < n; i++) {
        if (c->p[i].x > 0) continue;
        const struct point p = c->p[i];
        level[p.series] = 1;
        c->p[i].x = low;
        if (high > low) curves_add(c, p.panel, p.series, high, p.v);
    }
}

int figure_kept(struct figure *f)
{
    struct curves c = {0};
    char *titles[PANELS_MAX] = {0};
    double low = INFINITY, high = 0, level[SERIES_MAX] = {0};
    int rc = -1;

    if (read_kept(f, &c)) goto done;
    sum_last(f, &c);
    if (curves_check(f, &c, "methods", "; choose with --task")) goto done;
    for (int i = 0; i < c.n; i++) {
        if (c.p[i].x == 0) continue;
        low = fmin(low, c.p[i].x);
        high = fmax(high, c.p[i].x);
    }
    if (high == 0) {
        fail("%s: expected a method with a budget, found none; okv eval --budgets sets them",
             f->tables[0].tsv.path);
        goto done;
    }
    spread_levels(&c, low, high, level);
    if (curves_merge(&c)) {
        fail("%s: a method, budget and task stands twice", f->tables[0].tsv.path);
        goto done;
    }
    const int columns = c.panels.n < 3 ? c.panels.n : c.panels.n == 4 ? 2 : 3;
    const double widths[] = {0, 205, 205, 130};
    const struct layout l = {.panels = c.panels.n,
                             .columns = columns,
                             .inset = text_width("100") + 7,
                             .panel_width = widths[columns],
                             .panel_height = columns == 3 ? 100 : 130,
                             .panel_titles = true,
                             .keys = (const char *const *)c.series.v,
                             .key_count = c.series.n};
    if (layout_write(f, &l)) goto done;
    const double wider = low == high ? 2 : pow(high / low, 0.04);
    gnuplot_number(f->settings, "columns", columns);
    gnuplot_number(f->settings, "x_lo", low / wider);
    gnuplot_number(f->settings, "x_hi", high * wider);
    token_ticks_write(f->settings, &c, low / wider, high * wider, f->panel_width);
    gnuplot_number(f->settings, "series", c.series.n);
    gnuplot_numbers(f->settings, "level", level, c.series.n);
    for (int p = 0; p < c.panels.n; p++)
        titles[p] = text_fit(strcmp(c.panels.v[p], "all") ? c.panels.v[p] : "all tasks",
                             f->panel_width + 10);
    gnuplot_texts(f->settings, "panel_name", (const char *const *)titles, c.panels.n);
    curves_write(f->data, &c);
    rc = 0;

done:
    for (int p = 0; p < PANELS_MAX; p++) free(titles[p]);
    curves_free(&c);
    return rc;
}

/* ---- accuracy over length and depth */

struct cell {
    int panel, length;
    double depth, share;
    int line; /* of its table */
};
struct cells {
    struct cell *v;
    int n;
    struct names panels;
};

/* LENGTH and DEPTH of needle/LENGTH/DEPTH. 1 when TASK is another one, -1 when it is not whole. */
static int parse_needle(const char *task, int *length, double *depth)
{
    char *end;
    if (strncmp(task, "needle/", 7) != 0) return 1;
    const long n = strtol(task + 7, &end, 10);
    if (end == task + 7 || *end != '/' || n < 1 || n > INT_MAX) return -1;
    const char *rest = end + 1;
    *length = (int)n;
    *depth = strtod(rest, &end);
    return end == rest || *end || !(*depth >= 0 && *depth <= 1) ? -1 : 0;
}

/* Whether the rows of ROW's method have several budgets, which then belong to a panel's name. */
static bool several_budgets(const struct tsv *t, int row, int method, int budget)
{
    for (int i = 0; i < t->rows; i++)
        if (strcmp(tsv_cell(t, i, method), tsv_cell(t, row, method)) == 0 &&
            strcmp(tsv_cell(t, i, budget), tsv_cell(t, row, budget)) != 0)
            return true;
    return false;
}

static char *panel_of(const struct figure_table *table, int row, int method, int budget)
{
    const struct tsv *t = &table->tsv;
    if (method < 0) return xstrdup(table->label);
    const char *name = tsv_cell(t, row, method);
    return budget >= 0 && several_budgets(t, row, method, budget)
               ? xprintf("%s, %s tokens", name, tsv_cell(t, row, budget))
               : xstrdup(name);
}

static int read_needles(const struct figure *f, struct cells *c)
{
    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        const int task = tsv_need(t, "task"), correct = task < 0 ? -1 : tsv_need(t, "correct"),
                  total = correct < 0 ? -1 : tsv_need(t, "total");
        if (total < 0) return -1;
        c->v = xrealloc(c->v, (size_t)(c->n + t->rows) * sizeof *c->v);
        for (int row = 0; row < t->rows; row++) {
            struct cell cell = {.line = t->lines[row]};
            int right, all;
            const int other = parse_needle(tsv_cell(t, row, task), &cell.length, &cell.depth);
            if (other == 1) continue;
            if (other < 0)
                return fail("%s:%d: column \"task\": expected needle/LENGTH/DEPTH with a depth "
                            "from 0 to 1, found \"%.60s\"",
                            t->path, t->lines[row], tsv_cell(t, row, task));
            if (tsv_whole(t, row, total, 1, INT_MAX, &all) ||
                tsv_whole(t, row, correct, 0, all, &right))
                return -1;
            char *name =
                panel_of(&f->tables[i], row, tsv_column(t, "method"), tsv_column(t, "budget"));
            cell.panel = names_add(&c->panels, name);
            free(name);
            cell.share = (double)right / all;
            for (int k = 0; k < c->n; k++)
                if (c->v[k].panel == cell.panel && c->v[k].length == cell.length &&
                    c->v[k].depth == cell.depth)
                    return fail("%s:%d: \"%s\" of %s stands twice", t->path, t->lines[row],
                                tsv_cell(t, row, task), c->panels.v[cell.panel]);
            c->v[c->n++] = cell;
        }
    }
    if (c->n == 0)
        return fail("%s: expected tasks called needle/LENGTH/DEPTH, found none",
                    f->tables[0].tsv.path);
    if (c->panels.n > PANELS_MAX)
        return fail("%s: expected at most %d methods and budgets, found %d", f->tables[0].tsv.path,
                    PANELS_MAX, c->panels.n);
    return 0;
}

/* Adds VALUE to the ascending list AT of *N different ones. -1 when it is full. */
static int enter(double *at, int *n, double value)
{
    int i = 0;
    while (i < *n && at[i] < value) i++;
    if (i < *n && at[i] == value) return 0;
    if (*n == CELLS_MAX) return -1;
    memmove(at + i + 1, at + i, (size_t)(*n - i) * sizeof *at);
    at[i] = value;
    ++*n;
    return 0;
}

static int place_of(const double *at, double value)
{
    int i = 0;
    while (at[i] != value) i++;
    return i + 1;
}

/* Names of N cells in a row, each STEP points from the next, with those left out that do not fit:
 * every second, third, ... stays. NEED is the room of the widest. */
static void write_names(FILE *settings, const char *name, char *const *text, int n, double need,
                        double step)
{
    const int every = (int)fmax(1, ceil(need / step));
    const char *kept[CELLS_MAX];
    for (int i = 0; i < n; i++) kept[i] = i % every ? "" : text[i];
    gnuplot_texts(settings, name, kept, n);
}

int figure_needle(struct figure *f)
{
    struct cells c = {0};
    char *names[3][CELLS_MAX] = {{0}}; /* of lengths, depths, panels */
    double length[CELLS_MAX], depth[CELLS_MAX], wide = 0, inset = 0;
    int rc = -1, lengths = 0, depths = 0;

    if (read_needles(f, &c)) goto done;
    for (int i = 0; i < c.n; i++)
        if (enter(length, &lengths, c.v[i].length) || enter(depth, &depths, c.v[i].depth)) {
            fail("%s: expected at most %d lengths and depths, found more", f->tables[0].tsv.path,
                 CELLS_MAX);
            goto done;
        }
    for (int i = 0; i < lengths; i++) {
        names[0][i] = tokens_text(length[i]);
        wide = fmax(wide, text_width(names[0][i]));
    }
    for (int i = 0; i < depths; i++) {
        names[1][i] = xprintf("%.3g", 100 * depth[i]);
        inset = fmax(inset, text_width(names[1][i]));
    }
    const int panels = c.panels.n, columns = panels < 4 ? panels : panels == 4 ? 2 : 3;
    const struct layout l = {.panels = panels,
                             .columns = columns,
                             .inset = inset + 7,
                             .extra = 52,
                             .panel_width = fmin(220, fmax(84, 24.0 * lengths)),
                             .panel_height = fmin(180, fmax(66, 16.0 * depths)),
                             .panel_titles = true};
    if (layout_write(f, &l)) goto done;
    double across = f->panel_width / lengths, down = f->panel_height / depths;
    for (int p = 0; p < panels; p++) names[2][p] = text_fit(c.panels.v[p], f->panel_width + 10);
    gnuplot_texts(f->settings, "panel_name", (const char *const *)names[2], panels);
    write_names(f->settings, "length_name", names[0], lengths, wide + 4, across);
    write_names(f->settings, "depth_name", names[1], depths, 11, down);
    gnuplot_number(f->settings, "lengths", lengths);
    gnuplot_number(f->settings, "depths", depths);
    gnuplot_number(f->settings, "columns", columns);
    gnuplot_number(f->settings, "numbered", across > text_width("100") + 4 && down > 11);
    /* blocks by panel: length, depth, per cent */
    for (int p = 0; p < panels; p++) {
        for (int i = 0; i < c.n; i++)
            if (c.v[i].panel == p)
                fprintf(f->data, "%d\t%d\t%.9g\n", place_of(length, c.v[i].length),
                        place_of(depth, c.v[i].depth), 100 * c.v[i].share);
        fputs("\n\n", f->data);
    }
    rc = 0;

done:
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < CELLS_MAX; k++) free(names[i][k]);
    free(c.v);
    names_free(&c.panels);
    return rc;
}
