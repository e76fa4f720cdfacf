/* tsv.h - read a table of okv or okv-analyze: '#' lines, one header row, tab-separated rows.
 *
 * Lines may end in CRLF; blank lines are skipped. After the last row a table may carry lines of
 * the form "name: value" without a tab, such as the answer of a search; they are its answers.
 * Cells are text of any kind: whoever prints one cleans it for the format it prints.
 */
#ifndef PLOTS_TSV_H
#define PLOTS_TSV_H

#include <stdbool.h>

struct tsv {
    const char *path; /* as given; belongs to the caller */
    int columns, rows;
    char **names;   /* [columns] */
    char **cells;   /* [rows, columns] */
    int *lines;     /* [rows] the line of the file a row stands on, from 1 */
    char **notes;   /* [note_count] '#' lines without the '#' */
    char **answers; /* [answer_count] "name: value" lines, as they stand */
    int note_count, answer_count;
    char *text; /* what all of the above points into */
};

/* Reads PATH ("-" is standard input). 0, or -1 after fail(): not text, no header, two columns of
 * one name, a row of another length than the header. tsv_free() releases T in either case. */
int tsv_read(struct tsv *t, const char *path);
void tsv_free(struct tsv *t);

/* The index of the column NAME, or -1; tsv_need() also calls fail(), listing what was found. */
int tsv_column(const struct tsv *t, const char *name);
int tsv_need(const struct tsv *t, const char *name);

const char *tsv_cell(const struct tsv *t, int row, int column);

/* The number in a cell: finite and below 1e30 in size, or NaN for "nan" and infinities. 0, or -1
 * after fail() that names the file, the line, the column and what was found. */
int tsv_number(const struct tsv *t, int row, int column, double *value);

/* The same for a whole number within [MIN, MAX]. */
int tsv_whole(const struct tsv *t, int row, int column, long min, long max, int *value);

/* True when TEXT is a number or nan as a whole: what a reader would align to the right. */
bool tsv_is_number(const char *text);

/* The value of the answer NAME ("do_select_layers"), or NULL. */
const char *tsv_answer(const struct tsv *t, const char *name);

#endif
