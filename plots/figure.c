/* figure.c - the command behind every figure: options, tables, drawing. */
#include "plots/figure.h"
#include "core/base/base.h"
#include "plots/gnuplot.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMON_OPTIONS                                                                             \
    "  --out FILE       write FILE; .svg, .png or .pdf decides the format; may be repeated\n"      \
    "  --title TEXT     a title above the figure [none]\n"                                         \
    "  --size WxH       width and height in inches, e.g. 3.5x2.6 [to fit the table]\n"             \
    "  --scripts DIR    the folder of the gnuplot scripts [plots/ above the program]\n"

static const struct figure_kind {
    const char *name;
    int (*prepare)(struct figure *);
    bool mark, select, label, task; /* takes --mark; --metric and --k; --label; --task */
    const char *usage;
} kinds[] = {
    {"rank", figure_rank, true, true, false, false,
     "Usage: okv-plot rank [LABEL=]TABLE... --out FILE [OPTIONS]\n"
     "Curves over layers with their 95 % bands; one panel per metric, one curve per k and table.\n"
     "Columns: metric k layer value low high (okv-analyze rank).\n"
     "  --mark 2,5,9     mark these layers, such as the filter layers chosen\n"
     "  --metric NAME    draw this metric only; may be repeated [all]\n"
     "  --k 32,128       draw these k only [all]\n" COMMON_OPTIONS},
    {"overlap", figure_overlap, false, true, true, false,
     "Usage: okv-plot overlap TABLE --out FILE [OPTIONS]\n"
     "A heat map of how alike selections are; cells without a value are grey.\n"
     "Columns: i j value (okv-analyze overlap; okv-analyze rank --matrix, which adds metric k).\n"
     "  --label TEXT     what a value is [the table's measure]\n"
     "  --metric NAME    draw this metric of a rank matrix\n"
     "  --k N            draw this k of a rank matrix\n" COMMON_OPTIONS},
    {"hits", figure_hits, false, false, false, false,
     "Usage: okv-plot hits [LABEL=]TABLE... --out FILE [OPTIONS]\n"
     "Attention mass and recall against the budget k, one curve per source and table; rows of one\n"
     "source and k are averaged.\n"
     "Columns: k, mass or recall or both; source names the curve when present "
     "(okv-analyze hits).\n" COMMON_OPTIONS},
    {"missing", figure_missing, false, false, false, false,
     "Usage: okv-plot missing [LABEL=]TABLE... --out FILE [OPTIONS]\n"
     "Attention mass that the selection missed, over decode steps: the mean over layers and\n"
     "samples as a line, the worst of them as a band above it.\n"
     "Columns: step missing (okv-analyze missing adds sample layer).\n" COMMON_OPTIONS},
    {"latency", figure_latency, false, false, false, false,
     "Usage: okv-plot latency TABLE... --out FILE [OPTIONS]\n"
     "Decode time per token against context length, both logarithmic, one curve per method, with\n"
     "its roofline dashed and the contexts that ran out of memory marked above.\n"
     "Columns: method context decode_ms decode_ms_low decode_ms_high roofline_ms status (okv "
     "bench);\n"
     "status is ok or oom. Where the table has link_ms, the roofline is the larger of the "
     "two.\n" COMMON_OPTIONS},
    {"budget", figure_budget, false, false, false, false,
     "Usage: okv-plot budget TABLE... --out FILE [OPTIONS]\n"
     "Decode time per token against the number of selected tokens, as okv-plot latency draws it; "
     "a\n"
     "method that selects none is a level curve. Several contexts are curves of their own.\n"
     "Columns: those of okv-plot latency, and budget (okv bench --budgets).\n" COMMON_OPTIONS},
    {"accuracy", figure_accuracy, false, false, false, false,
     "Usage: okv-plot accuracy LABEL=TABLE... --out FILE [OPTIONS]\n"
     "Bars per task and method with binomial (Wilson) 95 % intervals.\n"
     "Columns: task correct total accuracy (okv eval); one table per method.\n" COMMON_OPTIONS},
    {"kept", figure_kept, false, false, false, true,
     "Usage: okv-plot kept TABLE... --out FILE [OPTIONS]\n"
     "Accuracy against the tokens that a method keeps or selects, with 95 % bands: one "
     "panel per\n"
     "task, one curve per method; a method without a budget is a level line.\n"
     "Columns: method budget task correct total low high (okv eval --budgets).\n"
     "  --task NAME      draw this task only; may be repeated [all, and their "
     "sum]\n" COMMON_OPTIONS},
    {"needle", figure_needle, false, false, false, false,
     "Usage: okv-plot needle [LABEL=]TABLE... --out FILE [OPTIONS]\n"
     "Heat maps of accuracy over length and depth, one panel per method and budget; a "
     "cell without\n"
     "a row is grey.\n"
     "Columns: task correct total, rows whose task is needle/LENGTH/DEPTH (okv gen "
     "needle, okv\n"
     "eval); method and budget name the panel when present, otherwise the table "
     "does.\n" COMMON_OPTIONS},
};

static int parse_size_option(const char *text, double *width, double *height)
{
    char *end;
    double w = strtod(text, &end), h = *end == 'x' ? strtod(end + 1, &end) : 0;
    if (*end || !(w >= 1 && w <= 40 && h >= 1 && h <= 40))
        return fail("--size: expected WxH in inches from 1 to 40, found \"%s\"", text);
    *width = round(72 * w); /* whole points: what the SVG can say */
    *height = round(72 * h);
    return 0;
}

/* Splits LABEL=FILE at its first '='; a name that exists as it stands is a file. */
static int open_table(struct figure_table *t, const char *argument)
{
    const char *equals = strchr(argument, '='), *path = argument;
    if (equals && access(argument, F_OK) != 0) {
        path = equals + 1;
        t->label = xprintf("%.*s", (int)(equals - argument), argument);
    } else {
        const char *slash = strrchr(path, '/'), *stem = slash ? slash + 1 : path;
        const char *dot = strrchr(stem, '.');
        t->label = dot && dot != stem ? xprintf("%.*s", (int)(dot - stem), stem) : xstrdup(stem);
    }
    if (tsv_read(&t->tsv, path)) return -1;
    if (t->tsv.rows == 0) return fail("%s: expected rows below the header, found none", path);
    return 0;
}

static int draw(struct figure *f, const struct figure_kind *kind, const struct strings *outs,
                const char *scripts, const char *command)
{
    char *settings = NULL, *data = NULL, *found = NULL;
    size_t size;
    int rc = -1;

    f->settings = open_memstream(&settings, &size);
    f->data = open_memstream(&data, &size);
    if (f->settings == NULL || f->data == NULL) {
        fail("out of memory");
        goto done;
    }
    gnuplot_text(f->settings, "title_text", f->title ? f->title : "");
    if (kind->prepare(f)) goto done;
    fflush(f->settings);
    fflush(f->data);
    if (scripts == NULL && (scripts = found = gnuplot_scripts()) == NULL) goto done;
    const struct drawing d = {.scripts = scripts,
                              .name = kind->name,
                              .settings = settings,
                              .data = data,
                              .command = command,
                              .width = f->width,
                              .height = f->height};
    rc = 0;
    for (int i = 0; i < outs->n && rc == 0; i++) rc = gnuplot_draw(&d, outs->v[i]);

done:
    if (f->settings) fclose(f->settings);
    if (f->data) fclose(f->data);
    free(settings);
    free(data);
    free(found);
    return rc;
}

int figure_command(int argc, char **argv)
{
    const struct figure_kind *kind = kinds;
    struct figure f = {.name = argv[0]};
    struct strings outs = {0};
    const char *size = NULL, *scripts = NULL;
    char *command = command_line(argc, argv);
    int first, rc = 2;
    enum figure_format format;

    while (strcmp(kind->name, argv[0]) != 0) kind++;
    struct option_spec specs[10] = {
        {"--out", OPT_STRINGS, &outs, 0, 0},
        {"--title", OPT_STRING, &f.title, 0, 0},
        {"--size", OPT_STRING, &size, 0, 0},
        {"--scripts", OPT_STRING, &scripts, 0, 0},
    };
    int n = 4;
    if (kind->mark) specs[n++] = (struct option_spec){"--mark", OPT_INT_LIST, &f.marks, 0, 100000};
    if (kind->select) {
        specs[n++] = (struct option_spec){"--metric", OPT_STRINGS, &f.metrics, 0, 0};
        specs[n++] = (struct option_spec){"--k", OPT_INT_LIST, &f.ks, 0, INT_MAX};
    }
    if (kind->task) specs[n++] = (struct option_spec){"--task", OPT_STRINGS, &f.tasks, 0, 0};
    if (kind->label) specs[n++] = (struct option_spec){"--label", OPT_STRING, &f.label, 0, 0};

    int stop = options_parse(argc, argv, specs, kind->usage, &first);
    if (stop >= 0) {
        rc = stop;
        goto done;
    }
    if (first == argc) {
        usage_error(argv[0], "expected a table");
        goto done;
    }
    if (outs.n == 0) {
        usage_error(argv[0], "--out FILE is needed; .svg, .png or .pdf decides the format");
        goto done;
    }
    if (size && parse_size_option(size, &f.width, &f.height)) goto done;
    for (int i = 0; i < outs.n; i++)
        if (gnuplot_format(outs.v[i], &format)) goto done;

    rc = 1;
    f.tables = xcalloc((size_t)(argc - first), sizeof *f.tables);
    for (; first < argc; first++)
        if (open_table(&f.tables[f.table_count++], argv[first])) goto done;
    if (draw(&f, kind, &outs, scripts, command)) goto done;
    rc = 0;

done:
    for (int i = 0; i < f.table_count; i++) {
        tsv_free(&f.tables[i].tsv);
        free(f.tables[i].label);
    }
    free(f.tables);
    free(f.marks.v);
    free(f.ks.v);
    free(f.metrics.v);
    free(f.tasks.v);
    free(outs.v);
    free(command);
    return rc;
}
