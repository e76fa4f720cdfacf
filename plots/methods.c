/* methods.c - the figures that compare methods: latency, budgets and accuracy. */
#include "core/base/base.h"
#include "plots/figure.h"
#include "plots/gnuplot.h"
#include "plots/text.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS_MAX 24 /* tasks of a bar chart */

/* Labels of a logarithmic axis in ms: powers of 10, with 2 and 5 between them when they are few,
 * or equal steps when even these would be fewer than three. */
static void write_time_ticks(FILE *settings, double lo, double hi, double room)
{
    static const double steps[] = {1, 2, 5};
    const bool few = log10(hi / lo) < 3.5;
    struct names text = {0};
    double at[128];
    int n = 0;
    struct axis even = axis_over(lo, hi, 5, NAN);
    for (double v = ceil(lo / even.step) * even.step; hi < 5 * lo && v <= hi && n < 16;
         v += even.step) {
        char *label = xprintf("%g", v);
        if (names_add(&text, label) == n) at[n++] = v;
        free(label);
    }
    for (int power = (int)floor(log10(lo)); power <= (int)ceil(log10(hi)) && hi >= 5 * lo; power++)
        for (int s = 0; s < (few ? 3 : 1) && n < 128; s++) {
            double v = steps[s] * pow(10, power);
            if (v < lo * 0.9999 || v > hi * 1.0001) continue;
            char *label = xprintf("%g", v);
            if (names_add(&text, label) == n) at[n++] = v;
            free(label);
        }
    ticks_write(settings, "y", at, (const char *const *)text.v, n, lo, hi, room);
    names_free(&text);
}

enum { MS, LOW, HIGH, ROOF }; /* a point's values; OUT OF MEMORY is a point of the second panel */
enum { OK, OOM };

/* The larger of the table's times that a step cannot beat: of its memory, and of the link to the
 * host where the table knows one. */
static int read_roofline(const struct tsv *t, int row, int column, double *roofline)
{
    const int link = tsv_column(t, "link_ms");
    double ms = NAN;
    if (tsv_number(t, row, column, roofline)) return -1;
    if (link >= 0 && tsv_number(t, row, link, &ms)) return -1;
    *roofline = fmax(*roofline, ms); /* the other, where one is not known */
    return 0;
}

/* What a curve of times is named: its method, and its context where there are several. */
static int series_of(struct curves *c, const char *method, int context, bool several)
{
    char *tokens = tokens_text(context),
         *name = several ? xprintf("%s, %s", method, tokens) : xstrdup(method);
    const int series = names_add(&c->series, name);
    free(tokens);
    free(name);
    return series;
}

/* Whether the tables have more than one context. */
static int several_contexts(const struct figure *f, bool *several)
{
    int first = 0, context;
    *several = false;
    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        const int column = tsv_need(t, "context");
        if (column < 0) return -1;
        for (int row = 0; row < t->rows; row++) {
            if (tsv_whole(t, row, column, 1, INT_MAX, &context)) return -1;
            if (first == 0) first = context;
            if (context != first) *several = true;
        }
    }
    return 0;
}

/* Reads decode times over contexts or, with BUDGETS, over numbers of selected tokens; a method that
 * selects none is then a point at budget 0. */
static int read_times(const struct figure *f, struct curves *c, bool budgets)
{
    static const char *const wanted[] = {"method",        "context",        "decode_ms",
                                         "decode_ms_low", "decode_ms_high", "roofline_ms",
                                         "status",        "budget"};
    const size_t count = COUNT_OF(wanted) - !budgets;
    bool several = false;
    names_add(&c->panels, "ok");
    names_add(&c->panels, "oom");
    if (budgets && several_contexts(f, &several)) return -1;
    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        int column[COUNT_OF(wanted)];
        for (size_t w = 0; w < count; w++)
            if ((column[w] = tsv_need(t, wanted[w])) < 0) return -1;
        for (int row = 0; row < t->rows; row++) {
            const char *status = tsv_cell(t, row, column[6]);
            double v[4] = {1, 1, 1, NAN};
            int context, x;
            const bool ok = strcmp(status, "ok") == 0;
            if (!ok && strcmp(status, "oom") != 0)
                return fail("%s:%d: column \"status\": expected ok or oom, found \"%.60s\"",
                            t->path, t->lines[row], status);
            if (tsv_whole(t, row, column[1], 1, INT_MAX, &context)) return -1;
            x = context;
            if (budgets && strcmp(tsv_cell(t, row, column[7]), "-") == 0)
                x = 0;
            else if (budgets && tsv_whole(t, row, column[7], 1, INT_MAX, &x))
                return -1;
            for (int k = 0; k < 4 && ok; k++) {
                if (k == ROOF ? read_roofline(t, row, column[2 + k], &v[k])
                              : tsv_number(t, row, column[2 + k], &v[k]))
                    return -1;
                if (v[k] <= 0)
                    return fail("%s:%d: column \"%s\": expected a time above 0 ms, found %s",
                                t->path, t->lines[row], t->names[column[2 + k]],
                                tsv_cell(t, row, column[2 + k]));
            }
            const int series = series_of(c, tsv_cell(t, row, column[0]), context, several);
            curves_add(c, ok ? OK : OOM, series, x, v);
        }
    }
    return 0;
}

/* Turns the points at budget 0 into level curves from the least budget to the largest. 0, or -1
 * after fail(): there is no budget. */
static int spread_level(const struct figure *f, struct curves *c)
{
    double low = INFINITY, high = 0;
    for (int i = 0; i < c->n; i++) {
        if (c->p[i].x == 0) continue;
        low = fmin(low, c->p[i].x);
        high = fmax(high, c->p[i].x);
    }
    if (high == 0)
        return fail("%s: expected a method that selects tokens, found no budget",
                    f->tables[0].tsv.path);
    for (int i = 0, n = c->n; i < n; i++) {
        if (c->p[i].x > 0) continue;
        const struct point p = c->p[i];
        c->p[i].x = low;
        if (high > low) curves_add(c, p.panel, p.series, high, p.v);
    }
    return 0;
}

/* The figure of times, over what read_times() read. */
static int draw_times(struct figure *f, bool budgets)
{
    struct curves c = {0};
    struct names keys = {0};
    double x_lo = INFINITY, x_hi = 0, y_lo = INFINITY, y_hi = 0, row_of[SERIES_MAX] = {0};
    int rc = -1, rows = 0, rooflines = 0;

    if (read_times(f, &c, budgets) || curves_check(f, &c, "methods", "")) goto done;
    if (budgets && spread_level(f, &c)) goto done;
    if (curves_merge(&c)) {
        fail("%s: a method and %s stands twice%s", f->tables[0].tsv.path,
             budgets ? "budget" : "context",
             budgets ? "" : "; several budgets are a figure of okv-plot budget");
        goto done;
    }
    for (int i = 0; i < c.n; i++) {
        const struct point *p = &c.p[i];
        x_lo = fmin(x_lo, p->x);
        x_hi = fmax(x_hi, p->x);
        if (p->panel == OOM) { /* each method that ran out of memory has its own row of marks */
            if (row_of[p->series] == 0) row_of[p->series] = ++rows;
            continue;
        }
        if (!isnan(p->v[ROOF])) rooflines++;
        for (int v = 0; v < 4; v++) {
            y_lo = fmin(y_lo, p->v[v]);
            y_hi = fmax(y_hi, p->v[v]);
        }
    }
    if (y_hi == 0) {
        fail("%s: expected a method that ran, found only status oom", f->tables[0].tsv.path);
        goto done;
    }
    for (int s = 0; s < c.series.n; s++)
        if (row_of[s] > 0) row_of[s] = rows + 1 - row_of[s]; /* the first method on top */
    for (int i = 0; i < c.series.n; i++) names_add(&keys, c.series.v[i]);
    int named = keys.n;
    if (rooflines) names_add(&keys, "roofline (same colour)");
    if (rows) names_add(&keys, "out of memory");

    /* equal room at both ends; the rows of marks share the top of the panel, 10 points each */
    double low = pow(10, log10(y_lo) - 0.06 * fmax(0.3, log10(y_hi / y_lo)));
    double high = pow(10, log10(y_hi) + 0.06 * fmax(0.3, log10(y_hi / y_lo)));
    const struct layout l = {.panels = 1,
                             .columns = 1,
                             .inset = text_width("0") * 4 + 7,
                             .extra = 6,
                             .panel_width = 195,
                             .panel_height =
                                 fmin(240, fmax(150, 80 * log10(high / low))) + 10 * rows,
                             .keys = (const char *const *)keys.v,
                             .key_count = keys.n};
    if (layout_write(f, &l)) goto done;
    double left = x_lo / (x_lo == x_hi ? 2 : pow(x_hi / x_lo, 0.04));
    double right = x_hi * (x_lo == x_hi ? 2 : pow(x_hi / x_lo, 0.04));
    gnuplot_number(f->settings, "named", named);
    gnuplot_number(f->settings, "rooflines", rooflines);
    gnuplot_number(f->settings, "rows", rows);
    gnuplot_numbers(f->settings, "row_of", row_of, c.series.n);
    gnuplot_number(f->settings, "x_lo", left);
    gnuplot_number(f->settings, "x_hi", right);
    gnuplot_number(f->settings, "y_lo", low);
    gnuplot_number(f->settings, "y_hi", high);
    gnuplot_number(f->settings, "series", c.series.n);
    gnuplot_text(f->settings, "x_words",
                 budgets ? "selected tokens (K = 1,024)" : "context (tokens; K = 1,024)");
    token_ticks_write(f->settings, &c, left, right, f->panel_width);
    /* digits on a vertical axis need their height only: the room counts each as a wide label */
    write_time_ticks(f->settings, low, high, f->height * 2);
    curves_write(f->data, &c);
    rc = 0;

done:
    curves_free(&c);
    names_free(&keys);
    return rc;
}

int figure_latency(struct figure *f)
{
    return draw_times(f, false);
}

int figure_budget(struct figure *f)
{
    return draw_times(f, true);
}

struct bar {
    int task, series, correct, total;
    double accuracy; /* as the table says it */
};

static int read_accuracy(const struct figure *f, struct names *tasks, struct names *series,
                         struct bar **bars, int *n)
{
    static const char *const wanted[] = {"task", "correct", "total", "accuracy"};
    for (int i = 0; i < f->table_count; i++) {
        const struct tsv *t = &f->tables[i].tsv;
        int column[COUNT_OF(wanted)], before = series->n;
        for (size_t w = 0; w < COUNT_OF(wanted); w++)
            if ((column[w] = tsv_need(t, wanted[w])) < 0) return -1;
        int s = names_add(series, f->tables[i].label);
        if (s < before)
            return fail("%s: the label \"%s\" stands twice; give LABEL=FILE", t->path,
                        f->tables[i].label);
        if (series->n > SERIES_MAX)
            return fail("accuracy: expected at most %d tables, found %d", SERIES_MAX,
                        f->table_count);
        *bars = xrealloc(*bars, (size_t)(*n + t->rows) * sizeof **bars);
        for (int row = 0; row < t->rows; row++) {
            struct bar b = {.series = s};
            if (tsv_whole(t, row, column[2], 1, INT_MAX, &b.total) ||
                tsv_whole(t, row, column[1], 0, b.total, &b.correct) ||
                tsv_number(t, row, column[3], &b.accuracy))
                return -1;
            if (!(fabs(b.accuracy - (double)b.correct / b.total) < 0.006))
                return fail("%s:%d: accuracy %s is not %d of %d", t->path, t->lines[row],
                            tsv_cell(t, row, column[3]), b.correct, b.total);
            b.task = names_add(tasks, tsv_cell(t, row, column[0]));
            for (int k = 0; k < *n; k++)
                if ((*bars)[k].task == b.task && (*bars)[k].series == s)
                    return fail("%s:%d: task \"%s\" stands twice", t->path, t->lines[row],
                                tsv_cell(t, row, column[0]));
            (*bars)[(*n)++] = b;
            if (tasks->n > GROUPS_MAX)
                return fail("%s: expected at most %d tasks, found more", t->path, GROUPS_MAX);
        }
    }
    return 0;
}

int figure_accuracy(struct figure *f)
{
    struct names tasks = {0}, series = {0};
    struct bar *bars = NULL;
    char *names[GROUPS_MAX] = {0}, *counts[GROUPS_MAX] = {0};
    int rc = -1, n = 0;

    if (read_accuracy(f, &tasks, &series, &bars, &n)) goto done;
    const int slots = tasks.n * (series.n + 1); /* a gap of one bar between groups */
    double longest = 0;
    for (int t = 0; t < tasks.n; t++) longest = fmax(longest, text_width(tasks.v[t]));
    double wide = fmin(470, fmax(200, fmax(slots * 15.0, tasks.n * (longest + 6))));
    const struct layout l = {.panels = 1,
                             .columns = 1,
                             .inset = text_width("100") + 7,
                             .panel_width = wide,
                             .panel_height = 150,
                             .keys = (const char *const *)series.v,
                             .key_count = series.n};
    if (layout_write(f, &l)) goto done;
    double bar = f->panel_width / slots;
    for (int t = 0; t < tasks.n; t++) {
        int least = INT_MAX, most = 0;
        for (int i = 0; i < n; i++) {
            if (bars[i].task != t) continue;
            least = bars[i].total < least ? bars[i].total : least;
            most = bars[i].total > most ? bars[i].total : most;
        }
        names[t] = text_fit(tasks.v[t], bar * (series.n + 1) - 3);
        char *count = least == most ? xprintf("n = %d", most) : xprintf("n = %d-%d", least, most);
        counts[t] = text_fit(count, bar * (series.n + 1) - 3);
        free(count);
    }
    gnuplot_number(f->settings, "series", series.n);
    gnuplot_number(f->settings, "tasks", tasks.n);
    gnuplot_number(f->settings, "upright", bar < text_width("100") + 1);
    gnuplot_texts(f->settings, "task_name", (const char *const *)names, tasks.n);
    gnuplot_texts(f->settings, "task_count", (const char *const *)counts, tasks.n);
    /* blocks by series: place of the bar, per cent, ends of the interval */
    for (int s = 0; s < series.n; s++) {
        int before = 0;
        for (int i = 0; i < n; i++) {
            double low, high;
            if (bars[i].series != s) continue;
            wilson_interval(bars[i].correct, bars[i].total, &low, &high);
            fprintf(f->data, "%d\t%.9g\t%.9g\t%.9g\n", bars[i].task * (series.n + 1) + s,
                    100.0 * bars[i].correct / bars[i].total, 100 * low, 100 * high);
            before++;
        }
        if (before == 0) fputs("9e30\t9e30\t9e30\t9e30\n", f->data);
        fputs("\n\n", f->data);
    }
    rc = 0;

done:
    for (int t = 0; t < GROUPS_MAX; t++) {
        free(names[t]);
        free(counts[t]);
    }
    names_free(&tasks);
    names_free(&series);
    free(bars);
    return rc;
}
