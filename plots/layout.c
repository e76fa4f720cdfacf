/* layout.c - what the figures share: curves, axes, legend, panels. All lengths in points. */
#include "core/base/base.h"
#include "plots/figure.h"
#include "plots/gnuplot.h"
#include "plots/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LINE 12.0       /* from one line of text to the next */
#define MARGIN 5.0      /* free around the figure */
#define TICKS_BELOW 14. /* tick labels under a panel */
#define AXIS_LABEL 14.0 /* an axis title, beside a panel or under it */
#define KEY_SAMPLE 22.0 /* line and marker before the text of a legend entry */
#define KEY_GAP 12.0

bool chosen(const struct strings *list, const char *name)
{
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->v[i], name) == 0) return true;
    return list->n == 0;
}

int names_add(struct names *list, const char *name)
{
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->v[i], name) == 0) return i;
    list->v = xrealloc(list->v, (size_t)(list->n + 1) * sizeof *list->v);
    list->v[list->n] = xstrdup(name);
    return list->n++;
}

void names_free(struct names *list)
{
    for (int i = 0; i < list->n; i++) free(list->v[i]);
    free(list->v);
}

void curves_add(struct curves *c, int panel, int series, double x, const double *v)
{
    if ((c->n & (c->n - 1)) == 0)
        c->p = xrealloc(c->p, (size_t)(c->n ? 2 * c->n : 1) * sizeof *c->p);
    c->p[c->n] = (struct point){panel, series, c->n, x, {v[0], v[1], v[2], v[3]}};
    c->n++;
}

void curves_free(struct curves *c)
{
    free(c->p);
    names_free(&c->panels);
    names_free(&c->series);
}

static int by_place(const void *left, const void *right)
{
    const struct point *a = left, *b = right;
    if (a->panel != b->panel) return a->panel < b->panel ? -1 : 1;
    if (a->series != b->series) return a->series < b->series ? -1 : 1;
    if (a->x != b->x) return a->x < b->x ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

int curves_merge(struct curves *c)
{
    int kept = 0;
    if (c->n == 0) return 0;
    qsort(c->p, (size_t)c->n, sizeof *c->p, by_place);
    for (int i = 0; i < c->n;) {
        struct point first = c->p[i];
        double sum = 0, least = INFINITY, most = -INFINITY;
        int count = 0, j = i;
        for (; j < c->n && c->p[j].panel == first.panel && c->p[j].series == first.series &&
               c->p[j].x == first.x;
             j++) {
            double v = c->p[j].v[0];
            if (isnan(v)) continue;
            sum += v;
            least = fmin(least, v);
            most = fmax(most, v);
            count++;
        }
        if (j > i + 1) { /* a point alone keeps the values it came with */
            first.v[0] = count ? sum / count : NAN;
            first.v[1] = count ? least : NAN;
            first.v[2] = count ? most : NAN;
        }
        c->p[kept++] = first;
        i = j;
    }
    int merged = c->n - kept;
    c->n = kept;
    return merged;
}

int curves_check(const struct figure *f, const struct curves *c, const char *what, const char *how)
{
    bool finite = false;
    const char *path = f->tables[0].tsv.path;
    if (c->n == 0) return fail("%s: no row is left to draw", path);
    for (int i = 0; i < c->n && !finite; i++) finite = !isnan(c->p[i].v[0]);
    if (!finite) return fail("%s: expected a finite value to draw, found none", path);
    if (c->series.n > SERIES_MAX)
        return fail("%s: expected at most %d %s, found %d%s", path, SERIES_MAX, what, c->series.n,
                    how);
    if (c->panels.n > PANELS_MAX)
        return fail("%s: expected at most %d panels, found %d%s", path, PANELS_MAX, c->panels.n,
                    how);
    return 0;
}

void curves_write(FILE *data, const struct curves *c)
{
    int i = 0;
    for (int panel = 0; panel < c->panels.n; panel++) {
        for (int series = 0; series < c->series.n; series++) {
            int before = i;
            for (; i < c->n && c->p[i].panel == panel && c->p[i].series == series; i++) {
                fprintf(data, "%.9g", c->p[i].x);
                for (int v = 0; v < 4; v++)
                    fprintf(data, isnan(c->p[i].v[v]) ? "\tNaN" : "\t%.9g", c->p[i].v[v]);
                fputc('\n', data);
            }
            /* a block must not be empty: a point outside every range stands for no point */
            if (i == before) fputs("9e30\t9e30\t9e30\t9e30\t9e30\n", data);
            fputs("\n\n", data);
        }
    }
}

struct axis axis_over(double lo, double hi, int ticks, double ceiling)
{
    struct axis a = {.lo = lo, .hi = hi};
    double span = hi - lo, room = 0.06;
    if (!(span > 1e-9 * fmax(fabs(lo), fabs(hi)))) { /* one value: a range around it */
        double around = lo == 0 ? 1 : 0.1 * fabs(lo);
        a.lo = lo == 0 ? 0 : lo - around;
        a.hi = hi + around;
        room = 0;
        span = a.hi - a.lo;
    }
    double raw = span / ticks, power = pow(10, floor(log10(raw))), mantissa = raw / power;
    a.step = power * (mantissa < 1.5 ? 1 : mantissa < 3.5 ? 2 : mantissa < 7.5 ? 5 : 10);
    if (lo >= 0 && a.lo - room * span < 0.15 * span)
        a.lo = 0; /* a range that begins near 0 shows it */
    else
        a.lo -= room * span;
    a.hi += room * span;
    if (hi <= ceiling && a.hi > ceiling) a.hi = ceiling + 0.02 * span; /* room for the line */
    int decimals = (int)fmax(0, ceil(-log10(a.step) - 1e-9));
    double largest = fmax(fabs(a.lo), fabs(a.hi));
    int digits = (int)fmax(1, floor(log10(largest)) + 1);
    if (decimals > 4 || digits > 5) {
        int more = (int)fmin(8, fmax(0, floor(log10(largest)) - floor(log10(a.step) + 1e-9)));
        snprintf(a.format, sizeof a.format, "%%.%de", more);
        a.tick_width = text_width("0") * (more + 6);
    } else {
        snprintf(a.format, sizeof a.format, "%%.%df", decimals);
        a.tick_width = text_width("0") * digits + (decimals ? text_width(".") : 0) +
                       text_width("0") * decimals + (a.lo < 0 ? text_width("-") : 0);
    }
    return a;
}

void axis_write(FILE *settings, const char *name, const struct axis *axes, int n)
{
    char array[64];
    double v[PANELS_MAX];
    const char *formats[PANELS_MAX];
    for (int part = 0; part < 3; part++) {
        static const char *const parts[] = {"lo", "hi", "step"};
        for (int i = 0; i < n; i++)
            v[i] = part == 0 ? axes[i].lo : part == 1 ? axes[i].hi : axes[i].step;
        snprintf(array, sizeof array, "%s_%s", name, parts[part]);
        gnuplot_numbers(settings, array, v, n);
    }
    for (int i = 0; i < n; i++) formats[i] = axes[i].format;
    snprintf(array, sizeof array, "%s_format", name);
    gnuplot_texts(settings, array, formats, n);
}

void ticks_write(FILE *settings, const char *name, const double *at, const char *const *text, int n,
                 double lo, double hi, double room)
{
    char array[64];
    double *kept_at = xcalloc((size_t)n + 1, sizeof *kept_at), end = -INFINITY;
    const char **kept = xcalloc((size_t)n + 1, sizeof *kept);
    int count = 0;
    double last = (hi > lo && n ? log(at[n - 1] / lo) / log(hi / lo) * room : room) -
                  (n ? text_width(text[n - 1]) / 2 : 0); /* the last label stays */
    for (int i = 0; i < n; i++) {
        double place = hi > lo ? log(at[i] / lo) / log(hi / lo) * room : room / 2;
        double half = text_width(text[i]) / 2;
        if (place - half < end + 2 || (i < n - 1 && place + half > last - 2)) continue;
        end = place + half;
        kept_at[count] = at[i];
        kept[count++] = text[i];
    }
    snprintf(array, sizeof array, "%s_at", name);
    gnuplot_numbers(settings, array, kept_at, count);
    snprintf(array, sizeof array, "%s_text", name);
    gnuplot_texts(settings, array, kept, count);
    snprintf(array, sizeof array, "%s_count", name);
    gnuplot_number(settings, array, count);
    free(kept_at);
    free(kept);
}

char *tokens_text(double n)
{
    const double k = n / 1024;
    return n >= 1 << 20 && fmod(k, 1024) == 0 ? xprintf("%.0fM", k / 1024)
           : k >= 1                           ? xprintf("%.3gK", k)
                                              : xprintf("%.0f", n);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

void token_ticks_write(FILE *settings, const struct curves *c, double lo, double hi, double room)
{
    double *at = xcalloc((size_t)c->n, sizeof *at);
    struct names text = {0};
    int n = 0;
    for (int i = 0; i < c->n; i++) at[i] = c->p[i].x;
    qsort(at, (size_t)c->n, sizeof *at, by_value);
    for (int i = 0; i < c->n; i++) {
        char *label = tokens_text(at[i]);
        double value = at[i];
        if (names_add(&text, label) == n) at[n++] = value;
        free(label);
    }
    ticks_write(settings, "x", at, (const char *const *)text.v, n, lo, hi, room);
    names_free(&text);
    free(at);
}

/* Breaks the legend into centred lines; writes key_x, key_y (the middle of an entry's left end, as
 * fractions of the figure), key_text, key_count. Returns the number of lines. */
static int write_key(const struct figure *f, const struct layout *l, double top)
{
    double room = f->width - 2 * MARGIN, *x = NULL, *y = NULL;
    char **text = xcalloc((size_t)l->key_count + 1, sizeof *text);
    int lines = 0;

    x = xcalloc((size_t)l->key_count + 1, sizeof *x);
    y = xcalloc((size_t)l->key_count + 1, sizeof *y);
    for (int i = 0; i < l->key_count;) {
        double used = 0;
        int j = i;
        for (; j < l->key_count; j++) {
            text[j] = text_fit(l->keys[j], room - KEY_SAMPLE - KEY_GAP);
            double entry = KEY_SAMPLE + text_width(text[j]) + (j > i ? KEY_GAP : 0);
            if (j > i && used + entry > room) {
                free(text[j]);
                break;
            }
            x[j] = used + (j > i ? KEY_GAP : 0);
            y[j] = 1 - (top + (lines + 0.5) * LINE) / f->height;
            used += entry;
        }
        for (; i < j; i++) x[i] = (x[i] + (f->width - used) / 2) / f->width;
        lines++;
    }
    gnuplot_numbers(f->settings, "key_x", x, l->key_count);
    gnuplot_numbers(f->settings, "key_y", y, l->key_count);
    gnuplot_texts(f->settings, "key_text", (const char *const *)text, l->key_count);
    gnuplot_number(f->settings, "key_count", l->key_count);
    for (int i = 0; i < l->key_count; i++) free(text[i]);
    free(text);
    free(x);
    free(y);
    return lines;
}

/* How many lines write_key() will need, which decides the height before anything is placed. */
static int count_key_lines(const struct figure *f, const struct layout *l)
{
    double room = f->width - 2 * MARGIN, used = 0;
    int lines = l->key_count > 0;
    for (int i = 0; i < l->key_count; i++) {
        char *text = text_fit(l->keys[i], room - KEY_SAMPLE - KEY_GAP);
        double entry = KEY_SAMPLE + text_width(text);
        free(text);
        if (used > 0 && used + KEY_GAP + entry > room) {
            lines++;
            used = 0;
        }
        used += entry + (used > 0 ? KEY_GAP : 0);
    }
    return lines;
}

int layout_write(struct figure *f, const struct layout *l)
{
    const int columns = l->columns < l->panels ? l->columns : l->panels;
    const int rows = (l->panels + columns - 1) / columns;
    const double left = l->inset + AXIS_LABEL + MARGIN, name = l->panel_titles ? LINE + 3 : 0;
    const double below = TICKS_BELOW + AXIS_LABEL;
    double rect[4][PANELS_MAX]; /* left, right, bottom, top of each panel */
    bool given = f->width > 0;

    if (!given)
        f->width = ceil(MARGIN + columns * (left - MARGIN + l->panel_width) +
                        (columns - 1) * 2 * MARGIN + l->extra + MARGIN);
    double title = f->title && *f->title ? LINE + 4 : 0;
    int lines = count_key_lines(f, l);
    double top = MARGIN + title + lines * LINE + (lines ? 4 : 0);
    double fixed = top + rows * (name + below) + (rows - 1) * MARGIN + MARGIN;
    if (!given) f->height = ceil(fixed + rows * l->panel_height);

    double wide =
        (f->width - 2 * MARGIN - l->extra - (columns - 1) * 2 * MARGIN) / columns - (left - MARGIN);
    double high = (f->height - fixed) / rows;
    if (wide < 40 || high < 40)
        return fail("--size: expected room for %d panel(s) of at least 40 points and a legend of "
                    "%d line(s), found panels of %.0f by %.0f points in %gx%g inches",
                    l->panels, lines, wide, high, f->width / 72, f->height / 72);
    for (int p = 0; p < l->panels; p++) {
        int row = p / columns, column = p % columns;
        double x = MARGIN + column * (left - MARGIN + wide + 2 * MARGIN) + left - MARGIN;
        double y = top + row * (name + high + below + MARGIN) + name;
        rect[0][p] = x / f->width;
        rect[1][p] = (x + wide) / f->width;
        rect[2][p] = 1 - (y + high) / f->height;
        rect[3][p] = 1 - y / f->height;
    }
    write_key(f, l, MARGIN + title);
    gnuplot_number(f->settings, "panels", l->panels);
    f->panel_width = wide;
    f->panel_height = high;
    gnuplot_number(f->settings, "panel_wide", wide);
    gnuplot_number(f->settings, "panel_high", high);
    gnuplot_numbers(f->settings, "panel_left", rect[0], l->panels);
    gnuplot_numbers(f->settings, "panel_right", rect[1], l->panels);
    gnuplot_numbers(f->settings, "panel_bottom", rect[2], l->panels);
    gnuplot_numbers(f->settings, "panel_top", rect[3], l->panels);
    return 0;
}
