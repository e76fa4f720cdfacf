/* figure.h - what the figures share: options, tables with labels, curves, axes, legend, layout.
 *
 * The C side decides what is drawn and where (in points, 1/72 inch; all text is 9 points high);
 * the gnuplot scripts and style.gpi decide how it looks. A figure's layout depends on its table
 * and options only, never on the format it is written in.
 */
#ifndef PLOTS_FIGURE_H
#define PLOTS_FIGURE_H

#include "core/base/command.h"
#include "plots/tsv.h"

#include <stdio.h>

#define SERIES_MAX 8 /* colours and markers that can be told apart */
#define PANELS_MAX 12

struct figure_table {
    struct tsv tsv;
    char *label; /* LABEL of LABEL=FILE, otherwise the file's name without folder and ending */
};

struct figure {
    const char *name;
    struct figure_table *tables; /* [table_count] */
    int table_count;
    struct int_list marks, ks;        /* --mark, --k */
    struct strings metrics;           /* --metric */
    struct strings tasks;             /* --task */
    const char *title, *label;        /* --title, --label; NULL when not given */
    double width, height;             /* points; 0 until --size or layout_write() sets them */
    double panel_width, panel_height; /* points; set by layout_write() */
    FILE *settings, *data;            /* what gnuplot_draw() takes */
};

/* The subcommands of the figures; argv[0] names the figure. */
int figure_command(int argc, char **argv);

/* Each turns the tables into settings and data. 0, or -1 after fail(). */
int figure_rank(struct figure *f);
int figure_overlap(struct figure *f);
int figure_hits(struct figure *f);
int figure_missing(struct figure *f);
int figure_latency(struct figure *f);
int figure_budget(struct figure *f);
int figure_accuracy(struct figure *f);
int figure_kept(struct figure *f);
int figure_needle(struct figure *f);

/* Whether the option whose values are LIST asks for NAME: it does when it was not given. */
bool chosen(const struct strings *list, const char *name);

/* A growing list of distinct names; names_add() returns the index of NAME. */
struct names {
    char **v;
    int n;
};
int names_add(struct names *list, const char *name);
void names_free(struct names *list);

/* Points of curves: panel and series as indices, x, and up to four values. */
struct point {
    int panel, series, order;
    double x, v[4];
};
struct curves {
    struct point *p; /* [n] */
    int n;
    struct names panels, series;
};
void curves_add(struct curves *c, int panel, int series, double x, const double *v);
void curves_free(struct curves *c);

/* Sorts C by panel, series and x, and merges the points of one place: v[0] becomes their mean, v[1]
 * their smallest and v[2] their largest, NaN left out. Returns how many were merged away. */
int curves_merge(struct curves *c);

/* Checks the counts of panels and series and that a value is finite; for messages, WHAT is a
 * series and HOW what to choose fewer with. 0, or -1 after fail(). */
int curves_check(const struct figure *f, const struct curves *c, const char *what, const char *how);

/* Writes C as blocks of "x v0 v1 v2 v3", block panel * series + series. */
void curves_write(FILE *data, const struct curves *c);

/* A linear axis: a range that holds the values, a round step, and how to print a tick. */
struct axis {
    double lo, hi, step;
    char format[16];
    double tick_width; /* points */
};

/* An axis over [LO, HI] with about TICKS steps, a little wider than the values; an end at 0 stays
 * there, and so does a CEILING (NAN for none) the values reach but do not pass. */
struct axis axis_over(double lo, double hi, int ticks, double ceiling);

/* Writes "NAME_lo", "NAME_hi", "NAME_step" and "NAME_format" as arrays of N panels. */
void axis_write(FILE *settings, const char *name, const struct axis *axes, int n);

/* Ticks of a logarithmic axis at given places, thinned until labels of the ROOM in points fit. */
void ticks_write(FILE *settings, const char *name, const double *at, const char *const *text, int n,
                 double lo, double hi, double room);

/* A number of tokens such as 4K (K is 1,024), in new memory that the caller frees. */
char *tokens_text(double n);

/* The distinct x of C, which are numbers of tokens, as ticks of a logarithmic x axis. */
void token_ticks_write(FILE *settings, const struct curves *c, double lo, double hi, double room);

/* Places N panels of a figure in COLUMNS columns, with a legend of KEYS above, and writes title,
 * legend and panel rectangles. INSET is room left of a panel for tick labels, EXTRA room at the
 * right, PANEL_HEIGHT the height when no --size was given. 0, or -1 after fail(). */
struct layout {
    int panels, columns;
    double inset, extra, panel_width, panel_height;
    bool panel_titles;
    const char *const *keys;
    int key_count;
};
int layout_write(struct figure *f, const struct layout *l);

#endif
