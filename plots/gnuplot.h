/* gnuplot.h - run gnuplot as a child process: no shell, a private folder, a whole figure or none.
 *
 * A figure is a script of plots/ and two texts made here: settings (variables the script reads)
 * and data (numbers only). No text of a table or of an option reaches gnuplot other than through
 * gnuplot_text(), which leaves nothing gnuplot could take for a command.
 */
#ifndef PLOTS_GNUPLOT_H
#define PLOTS_GNUPLOT_H

#include <stdio.h>

/* The formats of a figure, by the ending of its name. */
enum figure_format { FORMAT_SVG, FORMAT_PNG, FORMAT_PDF };

/* 0, or -1 after fail() when PATH ends in none of .svg .png .pdf. */
int gnuplot_format(const char *path, enum figure_format *format);

/* Write "NAME = VALUE" settings. A text is cleaned to UTF-8 without control characters, and all
 * but letters, digits and blanks is written as octal escapes. */
void gnuplot_number(FILE *settings, const char *name, double value);
void gnuplot_text(FILE *settings, const char *name, const char *value);
void gnuplot_numbers(FILE *settings, const char *name, const double *values, int n);
void gnuplot_texts(FILE *settings, const char *name, const char *const *values, int n);

struct drawing {
    const char *scripts; /* folder of the scripts */
    const char *name;    /* NAME.gp draws it */
    const char *settings, *data;
    const char *command;  /* what made it: kept in the SVG's description */
    double width, height; /* in points */
};

/* Draws D into PATH, which appears when it is whole. The bytes depend on D and on gnuplot's
 * version only. 0, or -1 after fail(): no gnuplot, a failed or killed one, an empty figure. */
int gnuplot_draw(const struct drawing *d, const char *path);

/* The folder of the scripts: plots/ beside the program's folder or above it. The caller frees it.
 * NULL after fail(). */
char *gnuplot_scripts(void);

#endif
