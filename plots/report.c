/* report.c - okv-plot report: one self-contained HTML file of figures, tables and text. */
#include "plots/report.h"
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/base/json.h"
#include "plots/html.h"
#include "plots/tsv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-plot report MANIFEST --out FILE.html [--title TEXT] [--dir DIR]\n"
    "Writes one HTML file that needs no other: figures, tables, text, and the commands that made\n"
    "them, taken from the '#' lines of the tables and the descriptions of the SVG files.\n"
    "\n"
    "MANIFEST is JSON: {\"title\": TEXT, \"text\": TEXT, \"items\": [ITEM, ...]}. An item's keys, "
    "all "
    "but\none of them optional:\n"
    "  title    a heading, also listed at the top\n"
    "  finding  the result in a sentence or two, set off from the rest\n"
    "  text     paragraphs, such as how to read the figure\n"
    "  figure   an .svg or .png file; figures: a list of them, side by side\n"
    "  table    a table, or a list of them; below a figure it is folded\n"
    "  columns  the columns of the table to show, in order [all]\n"
    "  limit    rows of a table to show [20]\n"
    "  html     a page to embed, such as that of okv-analyze tokens; its scripts do not run\n"
    "  height   the height of that page in pixels [420]\n"
    "TEXT is a string or a list of paragraphs with `code`, **bold** and references to values:\n"
    "  {{TABLE:COLUMN=VALUE,...:COLUMN}}    the cell of the only row that matches\n"
    "  {{TABLE:COLUMN=VALUE,...:COLUMN:2}}  rounded to 2 decimals; :% and :%1 for per cent\n"
    "  {{TABLE:NAME}}                       the line \"NAME: VALUE\" that ends a search's table\n"
    "  --out FILE    write FILE\n"
    "  --title TEXT  in place of the manifest's title\n"
    "  --dir DIR     files of the manifest are relative to DIR [the manifest's folder]\n";

#define LARGER 1.35 /* figures are drawn for print; on a screen they are this much larger */

struct report {
    const char *name;   /* the manifest's path */
    const char *folder; /* where its files are */
    struct tsv *tables; /* read so far */
    char **paths;       /* their names, as the manifest has them */
    int table_count;
    FILE *f;
};

static char *locate(const struct report *r, const char *path)
{
    return *path == '/' ? xstrdup(path) : path_join(r->folder, path);
}

/* The table at PATH, read once. The index of it in R, or -1 after fail(). */
static int table_at(struct report *r, const char *path)
{
    for (int i = 0; i < r->table_count; i++)
        if (strcmp(r->paths[i], path) == 0) return i;
    size_t n = (size_t)r->table_count + 1;
    r->tables = xrealloc(r->tables, n * sizeof *r->tables);
    r->paths = xrealloc(r->paths, n * sizeof *r->paths);
    char *file = locate(r, path);
    int rc = tsv_read(&r->tables[r->table_count], file);
    free(file);
    if (rc) {
        tsv_free(&r->tables[r->table_count]);
        return -1;
    }
    r->paths[r->table_count] = xstrdup(path);
    r->tables[r->table_count].path = r->paths[r->table_count];
    return r->table_count++;
}

/* True when ROW has every COLUMN=VALUE of CONDITIONS; a comma before text without '=' belongs to
 * the value. -1 after fail() when a column is not there. */
static int row_matches(const struct tsv *t, int row, const char *conditions)
{
    for (const char *p = conditions; *p;) {
        const char *equals = strchr(p, '='), *end = equals;
        if (equals == NULL) return fail("%s: expected COLUMN=VALUE, found \"%s\"", t->path, p);
        for (;;) { /* up to the comma whose successor holds the next '=' before another comma */
            end += strcspn(end, ",");
            if (*end == 0 || end[1 + strcspn(end + 1, ",=")] == '=') break;
            end++;
        }
        char *name = xprintf("%.*s", (int)(equals - p), p);
        int column = tsv_need(t, name);
        free(name);
        if (column < 0) return -1;
        const char *cell = tsv_cell(t, row, column);
        size_t n = (size_t)(end - equals - 1);
        if (strlen(cell) != n || strncmp(cell, equals + 1, n) != 0) return 0;
        p = end + (*end == ',');
    }
    return 1;
}

/* CELL as FORMAT says: "2" is decimals, "%" and "%1" per cent. NULL after fail(). */
static char *format_cell(const struct tsv *t, int row, int column, const char *format)
{
    double v;
    bool percent = *format == '%';
    const char *digits = format + percent;
    if (strlen(digits) > 1 || (*digits && (*digits < '0' || *digits > '9')) ||
        (!percent && *digits == 0)) {
        fail("%s: expected a number of decimals, %% or %%1, found \"%s\"", t->path, format);
        return NULL;
    }
    if (tsv_number(t, row, column, &v)) return NULL;
    int decimals = *digits ? *digits - '0' : 0;
    return percent ? xprintf("%.*f %%", decimals, 100 * v) : xprintf("%.*f", decimals, v);
}

/* TABLE:NAME or TABLE:CONDITIONS:COLUMN[:FORMAT]: an html_resolve. */
static char *resolve(void *context, const char *reference)
{
    struct report *r = context;
    char *copy = xstrdup(reference), *rest = copy, *part[5] = {0}, *value = NULL;
    int parts = 0, at = -1, found = -1;

    while (rest && parts < 5) part[parts++] = strsep(&rest, ":");
    if (parts < 2 || parts > 4) {
        fail("%s: expected {{TABLE:COLUMN=VALUE:COLUMN}} or {{TABLE:NAME}}, found {{%s}}", r->name,
             reference);
        goto done;
    }
    if ((at = table_at(r, part[0])) < 0) goto done;
    const struct tsv *t = &r->tables[at];
    if (parts == 2) {
        const char *answer = tsv_answer(t, part[1]);
        if (answer == NULL)
            fail("%s: {{%s}}: %s has no line \"%s: ...\"", r->name, reference, t->path, part[1]);
        else
            value = xstrdup(answer);
        goto done;
    }
    for (int row = 0; row < t->rows; row++) {
        int match = row_matches(t, row, part[1]);
        if (match < 0) goto done;
        if (match && found >= 0) {
            fail("%s: {{%s}}: expected one row, found lines %d and %d of %s", r->name, reference,
                 t->lines[found], t->lines[row], t->path);
            goto done;
        }
        if (match) found = row;
    }
    if (found < 0) {
        fail("%s: {{%s}}: no row of %s has %s", r->name, reference, t->path, part[1]);
        goto done;
    }
    int column = tsv_need(t, part[2]);
    if (column >= 0)
        value =
            part[3] ? format_cell(t, found, column, part[3]) : xstrdup(tsv_cell(t, found, column));

done:
    free(copy);
    return value;
}

/* The text KEY of OBJECT, a string or a list of paragraphs, as HTML. */
static int put_text(struct report *r, const cJSON *object, const char *key, const char *class)
{
    const cJSON *item = json_member(object, key);
    if (item == NULL) return 0;
    if (cJSON_IsString(item))
        return html_markup(r->f, r->name, class, item->valuestring, resolve, r);
    if (!cJSON_IsArray(item))
        return fail("%s: \"%s\": expected a string or a list of them, found %s", r->name, key,
                    json_kind(item));
    for (const cJSON *c = item->child; c; c = c->next) {
        if (!cJSON_IsString(c))
            return fail("%s: \"%s\": expected a list of strings, found %s in it", r->name, key,
                        json_kind(c));
        if (html_markup(r->f, r->name, class, c->valuestring, resolve, r)) return -1;
    }
    return 0;
}

/* Calls EACH with every string at KEY, which is one or a list. */
static int for_strings(struct report *r, const cJSON *object, const char *key,
                       int (*each)(struct report *, const char *, const cJSON *))
{
    const cJSON *item = json_member(object, key);
    const cJSON *c = cJSON_IsArray(item) ? item->child : item;
    for (; c; c = cJSON_IsArray(item) ? c->next : NULL) {
        if (!cJSON_IsString(c))
            return fail("%s: \"%s\": expected a file name or a list of them, found %s", r->name,
                        key, json_kind(c));
        if (each(r, c->valuestring, object)) return -1;
    }
    return 0;
}

/* The width of the picture in CSS pixels on paper: from an SVG's points or a PNG's header at 300
 * dots per inch; 0 when it does not say. */
static double picture_width(const char *bytes, size_t size, bool svg)
{
    const unsigned char *b = (const unsigned char *)bytes;
    const char *width = svg ? strstr(bytes, " width=\"") : NULL;
    if (width) {
        char *unit;
        double w = strtod(width + 8, &unit);
        return strncmp(unit, "pt\"", 3) == 0 ? w * 96 / 72 : w;
    }
    if (svg || size < 24) return 0;
    return (b[16] * 16777216.0 + b[17] * 65536 + b[18] * 256 + b[19]) * 96 / 300;
}

static int put_figure(struct report *r, const char *path, const cJSON *item)
{
    char *file = locate(r, path), *bytes = NULL;
    const char *title = path, *dot = strrchr(path, '.');
    bool svg = dot && strcmp(dot, ".svg") == 0, png = dot && strcmp(dot, ".png") == 0;
    size_t size = 0;
    int rc = -1;

    if (!svg && !png) {
        fail("%s: expected a figure ending in .svg or .png, found %s", r->name, path);
        goto done;
    }
    if ((bytes = file_read(file, &size)) == NULL || json_string(r->name, item, "title", &title))
        goto done;
    if (svg ? strstr(bytes, "<svg") == NULL : size < 8 || memcmp(bytes, "\x89PNG\r\n\x1a\n", 8)) {
        fail("%s: expected %s, found %zu bytes that are not", file, svg ? "an SVG" : "a PNG", size);
        goto done;
    }
    double width = picture_width(bytes, size, svg);
    /* as an image an SVG runs no script, loads nothing and keeps its ids to itself */
    fputs("<img alt=\"", r->f);
    html_text(r->f, title);
    fprintf(r->f, "\" src=\"data:image/%s;base64,", svg ? "svg+xml" : "png");
    html_base64(r->f, bytes, size);
    if (width >= 1 && width < 1e5) fprintf(r->f, "\" style=\"width:%.0fpx", width * LARGER);
    fputs("\">\n", r->f);
    rc = 0;

done:
    free(file);
    free(bytes);
    return rc;
}

/* The command an SVG of okv-plot carries in its description, escaped as XML already. */
static int put_figure_command(struct report *r, const char *path, const cJSON *item)
{
    (void)item;
    const char *dot = strrchr(path, '.');
    size_t size;
    if (dot == NULL || strcmp(dot, ".svg") != 0) return 0;
    char *file = locate(r, path), *text = file_read(file, &size);
    const char *start = text ? strstr(text, "<desc>okv-plot ") : NULL;
    const char *end = start ? strstr(start, "</desc>") : NULL;
    int rc = text ? 0 : -1;
    if (end && memchr(start + 6, '<', (size_t)(end - start - 6)) == NULL)
        fprintf(r->f, "%.*s\n", (int)(end - start - 6), start + 6);
    free(file);
    free(text);
    return rc;
}

static int put_table_command(struct report *r, const char *path, const cJSON *item)
{
    (void)item;
    int at = table_at(r, path);
    if (at < 0) return -1;
    if (r->tables[at].note_count == 0) return 0;
    html_text(r->f, r->tables[at].notes[0]);
    fputc('\n', r->f);
    return 0;
}

/* The columns to show, as indices; all of them without a list. The caller frees *COLUMNS. */
static int choose_columns(struct report *r, const struct tsv *t, const cJSON *item, int **columns,
                          int *n)
{
    const cJSON *list = json_member(item, "columns");
    if (list && !cJSON_IsArray(list))
        return fail("%s: \"columns\": expected a list of names, found %s", r->name,
                    json_kind(list));
    *n = 0;
    *columns =
        xmalloc((size_t)(list ? cJSON_GetArraySize(list) + 1 : t->columns) * sizeof **columns);
    if (list == NULL)
        for (; *n < t->columns; ++*n) (*columns)[*n] = *n;
    for (const cJSON *c = list ? list->child : NULL; c; c = c->next) {
        if (!cJSON_IsString(c))
            return fail("%s: \"columns\": expected names, found %s", r->name, json_kind(c));
        if (((*columns)[(*n)++] = tsv_need(t, c->valuestring)) < 0) return -1;
    }
    return 0;
}

static int put_table(struct report *r, const char *path, const cJSON *item)
{
    int limit = 20, *columns = NULL, n = 0, rc = -1;
    int at = table_at(r, path);
    bool folded = json_member(item, "figure") || json_member(item, "figures");

    if (at < 0 || json_int(r->name, item, "limit", 0, 100000, &limit)) return -1;
    const struct tsv *t = &r->tables[at];
    if (choose_columns(r, t, item, &columns, &n)) goto done;
    if (folded) {
        fputs("<details><summary>", r->f);
        html_text(r->f, path);
        fputs("</summary>\n", r->f);
    }
    fputs("<div class=\"scroll\"><table>\n<thead><tr>", r->f);
    for (int c = 0; c < n; c++) {
        fputs("<th>", r->f);
        html_text(r->f, t->names[columns[c]]);
        fputs("</th>", r->f);
    }
    fputs("</tr></thead>\n<tbody>\n", r->f);
    for (int row = 0; row < t->rows && row < limit; row++) {
        fputs("<tr>", r->f);
        for (int c = 0; c < n; c++) {
            const char *cell = tsv_cell(t, row, columns[c]);
            fputs(tsv_is_number(cell) ? "<td class=\"n\">" : "<td>", r->f);
            html_text(r->f, cell);
            fputs("</td>", r->f);
        }
        fputs("</tr>\n", r->f);
    }
    fputs("</tbody></table></div>\n", r->f);
    if (t->rows > limit)
        fprintf(r->f, "<p class=\"more\">%d of %d rows shown.</p>\n", limit, t->rows);
    for (int i = 1; i < t->note_count; i++) {
        fputs("<p class=\"more\">", r->f);
        html_text(r->f, t->notes[i]);
        fputs("</p>\n", r->f);
    }
    if (folded) fputs("</details>\n", r->f);
    rc = 0;

done:
    free(columns);
    return rc;
}

/* A page in a frame of its own: without scripts, without a way out. */
static int put_page(struct report *r, const cJSON *item)
{
    const char *path = NULL, *title = NULL;
    int height = 420;
    size_t size;

    if (json_string(r->name, item, "html", &path) || json_string(r->name, item, "title", &title) ||
        json_int(r->name, item, "height", 50, 5000, &height))
        return -1;
    if (path == NULL) return 0;
    char *file = locate(r, path), *text = file_read(file, &size);
    if (text) {
        fprintf(r->f, "<iframe sandbox=\"\" style=\"height:%dpx\" title=\"", height);
        html_text(r->f, title ? title : path);
        fputs("\" srcdoc=\"", r->f);
        html_text(r->f, text);
        fputs("\"></iframe>\n", r->f);
    }
    free(file);
    free(text);
    return text ? 0 : -1;
}

static int put_item(struct report *r, const cJSON *item, int number)
{
    static const char *const known[] = {"title",   "finding", "text", "figure", "figures", "table",
                                        "columns", "limit",   "html", "height", NULL};
    const char *title = NULL;
    bool drawn = json_member(item, "figure") || json_member(item, "figures");

    if (!cJSON_IsObject(item))
        return fail("%s: items[%d]: expected an object, found %s", r->name, number,
                    json_kind(item));
    if (json_known_keys(r->name, item, known) || json_string(r->name, item, "title", &title))
        return -1;
    if (item->child == NULL) return fail("%s: items[%d]: is empty", r->name, number);
    fprintf(r->f, "<section id=\"s%d\"%s>\n", number,
            json_member(item, "finding") ? " class=\"finding\"" : "");
    if (title) {
        fputs("<h2>", r->f);
        html_text(r->f, title);
        fputs("</h2>\n", r->f);
    }
    if (put_text(r, item, "finding", "result")) return -1;
    if (drawn) {
        fputs("<figure>\n", r->f);
        if (for_strings(r, item, "figure", put_figure) ||
            for_strings(r, item, "figures", put_figure))
            return -1;
        fputs("</figure>\n", r->f);
    }
    if (put_text(r, item, "text", "text") || put_page(r, item) ||
        for_strings(r, item, "table", put_table))
        return -1;
    if (drawn || json_member(item, "table")) {
        fputs("<pre class=\"made\" title=\"the commands that made this\">", r->f);
        if (for_strings(r, item, "table", put_table_command) ||
            for_strings(r, item, "figure", put_figure_command) ||
            for_strings(r, item, "figures", put_figure_command))
            return -1;
        fputs("</pre>\n", r->f);
    }
    fputs("</section>\n", r->f);
    return 0;
}

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--page:#fff;--card:#f5f7f9;"
    "--line:#d6dbe1;--mark:#0072b2}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#9aa4ae;--page:#15181c;"
    "--card:#1f2429;--line:#363d45;--mark:#56b4e9}}\n"
    "body{max-width:46rem;margin:2.5rem auto;padding:0 1.25rem;color:var(--ink);"
    "background:var(--page);font:1rem/1.55 system-ui,\"DejaVu Sans\",Verdana,sans-serif}\n"
    "h1{font-size:1.75rem;line-height:1.2;margin:0 0 1rem}\n"
    "h2{font-size:1.2rem;line-height:1.3;margin:2.75rem 0 .6rem}\n"
    "p{margin:.6rem 0}\n"
    "a{color:var(--mark)}\n"
    "nav ol{padding-left:1.3rem;margin:.6rem 0;columns:2;column-gap:2rem;font-size:.92rem}\n"
    ".finding{border-left:.3rem solid var(--mark);background:var(--card);padding:.7rem 1.1rem;"
    "margin:1.2rem 0;border-radius:.2rem}\n"
    ".finding h2{margin:.2rem 0 .4rem}\n"
    ".result{font-size:1.12rem}\n"
    "figure{margin:1rem 0;display:flex;flex-wrap:wrap;gap:.75rem;justify-content:center}\n"
    "img{max-width:100%;height:auto;background:#fff;border-radius:.3rem}\n"
    ".scroll{overflow-x:auto;margin:.8rem 0}\n"
    "table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.2rem .7rem;text-align:left;border-bottom:1px solid var(--line);"
    "white-space:nowrap}\n"
    "td.n{text-align:right}\n"
    "code,pre{font-family:ui-monospace,\"DejaVu Sans Mono\",monospace;font-size:.86em}\n"
    "code{background:var(--card);padding:.05em .3em;border-radius:.2rem}\n"
    "pre.made{background:var(--card);color:var(--soft);padding:.6rem .8rem;border-radius:.3rem;"
    "white-space:pre-wrap;overflow-wrap:anywhere;font-size:.78rem;line-height:1.45}\n"
    "pre.made:empty{display:none}\n"
    "details{margin:.6rem 0}\n"
    "summary{cursor:pointer;color:var(--soft);font-size:.9rem}\n"
    ".more,footer{color:var(--soft);font-size:.82rem}\n"
    "iframe{width:100%;border:1px solid var(--line);border-radius:.3rem;background:#fff}\n"
    "footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.8rem}\n"
    "@media print{body{max-width:none;margin:0}figure,tr{break-inside:avoid}"
    "h2{break-after:avoid}nav{display:none}}\n";

static int put_page_head(struct report *r, const cJSON *root, const char *title)
{
    const cJSON *items = json_member(root, "items");
    int number = 0, titled = 0;
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"script-src 'none'; "
          "object-src 'none'; connect-src 'none'; font-src 'none'; media-src 'none'; "
          "img-src data:; base-uri 'none'; form-action 'none'\">\n<title>",
          r->f);
    html_text(r->f, title);
    fprintf(r->f, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>", style);
    html_text(r->f, title);
    fputs("</h1>\n", r->f);
    /* findings come first, whatever their place: they are what a reader came for */
    for (const cJSON *item = items->child; item; item = item->next, number++)
        if (json_member(item, "finding") && put_item(r, item, number)) return -1;
    if (put_text(r, root, "text", "text")) return -1;
    number = 0;
    for (const cJSON *item = items->child; item; item = item->next, number++) {
        const cJSON *heading = json_member(item, "title");
        if (!cJSON_IsString(heading) || json_member(item, "finding")) continue;
        if (titled++ == 0) fputs("<nav><ol>\n", r->f);
        fprintf(r->f, "<li><a href=\"#s%d\">", number);
        html_text(r->f, heading->valuestring);
        fputs("</a></li>\n", r->f);
    }
    if (titled) fputs("</ol></nav>\n", r->f);
    return 0;
}

static int write_report(struct report *r, const cJSON *root, const char *title, const char *command)
{
    const cJSON *items = json_member(root, "items");
    int number = 0;

    if (put_page_head(r, root, title)) return -1;
    for (const cJSON *item = items->child; item; item = item->next, number++)
        if (json_member(item, "finding") == NULL && put_item(r, item, number)) return -1;
    fprintf(r->f, "<footer><p>okv-plot %s (%s)</p>\n<pre class=\"made\">", build_version(),
            build_commit());
    html_text(r->f, command);
    fputs("\n</pre></footer>\n</body>\n</html>\n", r->f);
    return 0;
}

int report_command(int argc, char **argv)
{
    static const char *const known[] = {"title", "text", "items", NULL};
    const char *out = NULL, *title = NULL, *folder = NULL;
    char *command = command_line(argc, argv), *own = NULL;
    struct report r = {0};
    struct output o = {0};
    cJSON *root = NULL;
    int first, rc = 2, result = -1;
    const struct option_spec specs[] = {{"--out", OPT_STRING, &out, 0, 0},
                                        {"--title", OPT_STRING, &title, 0, 0},
                                        {"--dir", OPT_STRING, &folder, 0, 0},
                                        {0}};

    int stop = options_parse(argc, argv, specs, usage, &first);
    if (stop >= 0) {
        rc = stop;
        goto done;
    }
    if (first + 1 != argc || out == NULL) {
        usage_error(argv[0],
                    first + 1 != argc ? "expected one manifest, found %d"
                                      : "--out FILE.html is needed",
                    argc - first);
        goto done;
    }

    rc = 1;
    r.name = argv[first];
    const char *slash = strrchr(r.name, '/');
    own = slash ? xprintf("%.*s", (int)(slash - r.name + 1), r.name) : xstrdup(".");
    r.folder = folder ? folder : own;
    if ((root = json_load(r.name)) == NULL) goto done;
    if (!cJSON_IsObject(root)) {
        fail("%s: expected an object with \"items\", found %s", r.name, json_kind(root));
        goto done;
    }
    if (json_known_keys(r.name, root, known) ||
        (title == NULL && json_string(r.name, root, "title", &title)))
        goto done;
    if (!cJSON_IsArray(json_member(root, "items"))) {
        fail("%s: \"items\": expected a list, found %s", r.name,
             json_kind(json_member(root, "items")));
        goto done;
    }
    if (make_parents(out) || output_open(&o, out)) goto done;
    r.f = o.f;
    result = write_report(&r, root, title ? title : "OmniKV report", command);
    if (output_close(&o, result) == 0) rc = 0;

done:
    for (int i = 0; i < r.table_count; i++) {
        tsv_free(&r.tables[i]);
        free(r.paths[i]);
    }
    free(r.tables);
    free(r.paths);
    cJSON_Delete(root);
    free(own);
    free(command);
    return rc;
}
