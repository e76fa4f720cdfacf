/* tsv.c - read a table of okv or okv-analyze. */
#include "plots/tsv.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST 1e30 /* beyond this, differences of two values overflow in what draws them */

/* Appends TEXT to a list that doubles in size when it is full. */
static void append(char ***list, int *n, char *text)
{
    if ((*n & (*n - 1)) == 0) *list = xrealloc(*list, (size_t)(*n ? 2 * *n : 1) * sizeof **list);
    (*list)[(*n)++] = text;
}

static int is_answer(const char *line)
{
    size_t n = strspn(line, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return n > 0 && line[n] == ':' && line[n + 1] == ' ' && strchr(line, '\t') == NULL;
}

static int take_header(struct tsv *t, char *line)
{
    for (char *p = line; p;) {
        append(&t->names, &t->columns, strsep(&p, "\t"));
        const char *name = t->names[t->columns - 1];
        if (*name == 0) return fail("%s: column %d of the header has no name", t->path, t->columns);
        if (tsv_column(t, name) != t->columns - 1)
            return fail("%s: column \"%s\" stands twice in the header", t->path, name);
    }
    return 0;
}

static int take_row(struct tsv *t, char *line, int number, int *cell_count)
{
    int before = *cell_count;
    for (char *p = line; p;) append(&t->cells, cell_count, strsep(&p, "\t"));
    int found = *cell_count - before;
    if (found != t->columns)
        return fail("%s:%d: expected %d tab-separated cells as in the header, found %d", t->path,
                    number, t->columns, found);
    if ((t->rows & (t->rows - 1)) == 0)
        t->lines = xrealloc(t->lines, (size_t)(t->rows ? 2 * t->rows : 1) * sizeof *t->lines);
    t->lines[t->rows++] = number;
    return 0;
}

int tsv_read(struct tsv *t, const char *path)
{
    size_t size = 0;
    int number = 0, cell_count = 0;

    memset(t, 0, sizeof *t);
    t->path = strcmp(path, "-") == 0 ? "standard input" : path;
    if ((t->text = file_read(path, &size)) == NULL) return -1;
    if (size >= 1u << 30)
        return fail("%s: expected a table below 1 GiB, found %zu bytes", t->path, size);
    if (strlen(t->text) != size)
        return fail("%s: expected text, found a zero byte at %zu", t->path, strlen(t->text));

    for (char *rest = t->text; rest;) {
        char *line = strsep(&rest, "\n");
        size_t n = strlen(line);
        number++;
        if (n && line[n - 1] == '\r') line[--n] = 0;
        if (n == 0) continue;
        if (*line == '#')
            append(&t->notes, &t->note_count, line + 1 + (line[1] == ' '));
        else if (t->columns == 0) {
            if (take_header(t, line)) return -1;
        } else if (t->columns > 1 && is_answer(line))
            append(&t->answers, &t->answer_count, line);
        else if (t->answer_count)
            return fail("%s:%d: expected no row after \"%s\"", t->path, number, t->answers[0]);
        else if (take_row(t, line, number, &cell_count))
            return -1;
    }
    if (t->columns == 0) return fail("%s: expected a header row, found none", t->path);
    return 0;
}

void tsv_free(struct tsv *t)
{
    free(t->names);
    free(t->cells);
    free(t->lines);
    free(t->notes);
    free(t->answers);
    free(t->text);
    memset(t, 0, sizeof *t);
}

int tsv_column(const struct tsv *t, const char *name)
{
    for (int c = 0; c < t->columns; c++)
        if (strcmp(t->names[c], name) == 0) return c;
    return -1;
}

int tsv_need(const struct tsv *t, const char *name)
{
    int column = tsv_column(t, name);
    char found[256] = "";
    size_t n = 0;
    if (column >= 0) return column;
    for (int c = 0; c < t->columns && n < sizeof found; c++)
        n += (size_t)snprintf(found + n, sizeof found - n, " \"%.40s\"", t->names[c]);
    return fail("%s: expected a column \"%s\", found%s%s", t->path, name, found,
                n >= sizeof found ? "..." : "");
}

const char *tsv_cell(const struct tsv *t, int row, int column)
{
    return t->cells[(size_t)row * (size_t)t->columns + (size_t)column];
}

/* strtod() without what only C programmers write: hexadecimal and leading blanks. */
static bool parse(const char *text, double *value)
{
    char *end;
    if (*text == 0 || isspace((unsigned char)*text) || strpbrk(text, "xX(")) return false;
    *value = strtod(text, &end);
    return *end == 0;
}

bool tsv_is_number(const char *text)
{
    double value;
    return parse(text, &value);
}

int tsv_number(const struct tsv *t, int row, int column, double *value)
{
    const char *text = tsv_cell(t, row, column);
    if (!parse(text, value))
        return fail("%s:%d: column \"%s\": expected a number, found \"%.60s\"", t->path,
                    t->lines[row], t->names[column], text);
    if (!isfinite(*value)) *value = NAN;
    if (fabs(*value) >= LARGEST)
        return fail("%s:%d: column \"%s\": expected a number below %g in size, found %s", t->path,
                    t->lines[row], t->names[column], LARGEST, text);
    return 0;
}

int tsv_whole(const struct tsv *t, int row, int column, long min, long max, int *value)
{
    double v = NAN;
    if (tsv_number(t, row, column, &v)) return -1;
    if (!(v >= (double)min && v <= (double)max) || v != floor(v))
        return fail(
            "%s:%d: column \"%s\": expected a whole number from %ld to %ld, found \"%.60s\"",
            t->path, t->lines[row], t->names[column], min, max, tsv_cell(t, row, column));
    *value = (int)v;
    return 0;
}

const char *tsv_answer(const struct tsv *t, const char *name)
{
    size_t n = strlen(name);
    for (int i = 0; i < t->answer_count; i++)
        if (strncmp(t->answers[i], name, n) == 0 && t->answers[i][n] == ':')
            return t->answers[i] + n + 2;
    return NULL;
}
