/* test_plot.c - okv-plot: tables, figures drawn by gnuplot, the report, and what they refuse. */
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/base/file.h"
#include "plots/figure.h"
#include "plots/gnuplot.h"
#include "plots/html.h"
#include "plots/report.h"
#include "plots/text.h"
#include "plots/tsv.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RANK "metric\tk\tlayer\tvalue\tlow\thigh\n"
#define LATENCY                                                                                    \
    "method\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\tstatus\tbudget\n"

static const char *put_file(const char *name, const char *text)
{
    const char *path = check_scratch(name);
    struct output o;
    if (output_open(&o, path) == 0) {
        fputs(text, o.f);
        output_close(&o, 0);
    }
    return path;
}

/* Runs a subcommand on words; the list ends with NULL. */
static int plot(const char *const *words)
{
    char *argv[24];
    int argc = 0;
    while (words[argc]) {
        argv[argc] = (char *)words[argc];
        argc++;
    }
    argv[argc] = NULL;
    return strcmp(argv[0], "report") == 0 ? report_command(argc, argv) : figure_command(argc, argv);
}
#define PLOT(...) plot((const char *const[]){__VA_ARGS__, NULL})
#define SCRIPTS "--scripts", "plots"

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static bool holds(const char *path, const char *text)
{
    size_t size;
    char *all = file_read(path, &size);
    bool found = all && memmem(all, size, text, strlen(text)) != NULL;
    free(all);
    return found;
}

static bool have_gnuplot(void)
{
    char *path = xstrdup(getenv("PATH") ? getenv("PATH") : "");
    bool found = false;
    for (char *rest = path, *folder; (folder = strsep(&rest, ":")) != NULL && !found;) {
        char *file = path_join(folder, "gnuplot");
        found = access(file, X_OK) == 0;
        free(file);
    }
    free(path);
    return found;
}

static void tables_are_read(void)
{
    struct tsv t;
    double v;
    const char *path =
        put_file("t.tsv", "# made by x\r\na\tb\r\n1\tnan\r\n\r\n-2.5\tx\r\nbest_set: 0,4\r\n");
    CHECK(tsv_read(&t, path) == 0, "%s", last_failure());
    CHECK(t.columns == 2 && t.rows == 2 && t.note_count == 1, "%d x %d", t.columns, t.rows);
    CHECK(strcmp(t.notes[0], "made by x") == 0, "%s", t.notes[0]);
    CHECK(tsv_number(&t, 1, 0, &v) == 0 && v == -2.5, "%g", v);
    CHECK(tsv_number(&t, 0, 1, &v) == 0 && isnan(v), "%g", v);
    CHECK(tsv_number(&t, 1, 1, &v) != 0 && strstr(last_failure(), "t.tsv:5"), "%s", last_failure());
    CHECK(tsv_answer(&t, "best_set") && strcmp(tsv_answer(&t, "best_set"), "0,4") == 0, "answer");
    CHECK(tsv_answer(&t, "best") == NULL, "a prefix is not the name");
    CHECK(tsv_need(&t, "c") < 0 && strstr(last_failure(), "\"a\" \"b\""), "%s", last_failure());
    tsv_free(&t);

    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "header"},
        {"a\ta\n1\t2\n", "twice"},
        {"a\tb\n1\n", "expected 2 tab-separated cells"},
        {"a\tb\n1\t2\t3\n", "found 3"},
        {"a\tb\n1\t2\nx: 1\n3\t4\n", "no row after"},
        {"a\t\n", "no name"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        CHECK(tsv_read(&t, put_file("bad.tsv", bad[i].text)) != 0, "%s", bad[i].text);
        CHECK(strstr(last_failure(), bad[i].message), "%s: %s", bad[i].message, last_failure());
        tsv_free(&t);
    }
}

static void text_is_made_harmless(void)
{
    char *text = text_clean("a\n\x1b\xff\xc3\xa9\xed\xa0\x80");
    CHECK(strcmp(text, "a  \xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD") == 0, "%s",
          text);
    free(text);
    text = text_fit("a name that does not fit", 60);
    CHECK(text_width(text) <= 60 && strstr(text, "\xE2\x80\xA6"), "%s", text);
    free(text);

    /* what gnuplot reads holds letters, digits, blanks and octal escapes only */
    char *settings = NULL;
    size_t size;
    FILE *f = open_memstream(&settings, &size);
    gnuplot_text(f, "x", "`a` 'b' \"c\" @d $e 1\\n\n;");
    fclose(f);
    CHECK(strncmp(settings, "x = \"", 5) == 0 &&
              strspn(settings + 5, "abcden 0123456789\\") == size - 7,
          "%s", settings);
    CHECK(strstr(settings, "\\140a\\140") && strstr(settings, "\\0047b"), "%s", settings);
    free(settings);
}

static void axes_hold_their_values(void)
{
    static const double ranges[][2] = {{0.8, 0.95},   {0, 1},          {-3, 4},
                                       {5, 5},        {0, 0},          {1e-20, 3e-20},
                                       {-1e29, 1e29}, {99999, 100001}, {0.02, 10}};
    for (size_t i = 0; i < COUNT_OF(ranges); i++) {
        double lo = ranges[i][0], hi = ranges[i][1];
        struct axis a = axis_over(lo, hi, 4, NAN);
        CHECK(a.lo <= lo && a.hi >= hi && a.lo < a.hi, "%g..%g: %g..%g", lo, hi, a.lo, a.hi);
        double ticks = (a.hi - a.lo) / a.step;
        CHECK(ticks >= 1.9 && ticks <= 11, "%g..%g: %g ticks", lo, hi, ticks);
    }
    struct axis share = axis_over(0.3, 1, 4, 1);
    CHECK(share.hi < 1.05, "a share's axis does not go to 1.05: %g", share.hi);
}

static void curves_merge_by_place(void)
{
    struct curves c = {0};
    curves_add(&c, 0, 0, 2, (double[4]){3});
    curves_add(&c, 0, 0, 1, (double[4]){7, 6, 8});
    curves_add(&c, 0, 0, 2, (double[4]){NAN});
    curves_add(&c, 0, 0, 2, (double[4]){5});
    CHECK(curves_merge(&c) == 2 && c.n == 2, "%d points", c.n);
    CHECK(c.p[0].x == 1 && c.p[0].v[1] == 6 && c.p[0].v[2] == 8, "a lone point keeps its band");
    CHECK(c.p[1].v[0] == 4 && c.p[1].v[1] == 3 && c.p[1].v[2] == 5, "mean, least, most: %g %g %g",
          c.p[1].v[0], c.p[1].v[1], c.p[1].v[2]);
    curves_free(&c);
}

static const char rank_table[] =
    "# okv-analyze rank dump.h5\n" RANK "m1\t32\t0\t0.8\t0.7\t0.9\nm1\t32\t1\t0.9\t0.8\t1.0\n"
    "m4\t32\t0\tnan\tnan\tnan\nm4\t32\t1\t12\t11\t13\n";
static const char latency_table[] =
    "status\tmethod\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\n"
    "ok\tfull\t4096\t20\t19\t21\t12\nok\tfull\t16384\t80\t79\t81\t50\noom\tfull\t65536\t-\t-\t-\t-"
    "\n"
    "ok\tomni_kv\t4096\t20\t19\t22\tnan\noom\th2o\t4096\t\t\t\t\n";
static const char budget_table[] =
    "method\tcontext\tbudget\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\tlink_ms\t"
    "status\n"
    "full\t4096\t-\t20\t19\t21\t12\t0\tok\nomnikv\t4096\t128\t9\t8\t10\t5\t7\tok\n"
    "omnikv\t4096\t2048\t12\t11\t13\t6\t2\tok\nomnikv\t8192\t128\t-\t-\t-\t-\t-\toom\n";
static const char eval_table[] = "task\tcorrect\ttotal\taccuracy\tnll\n"
                                 "passkey\t39\t40\t0.975\t0.01\nall\t39\t40\t0.975\t0.01\n";
static const char missing_table[] =
    "sample\tstep\tlayer\tmissing\n0\t0\t3\t0.1\n0\t1\t3\t0.5\n0\t0\t4\t0.2\n";
static const char hits_table[] =
    "source\tk\tmass\trecall\nown\t8\t0.5\t1\nown\t16\t0.7\t1\nlagged\t8\t0.3\t0.4\n";

/* A method without a budget is level from the least to the largest, and a roofline is the larger of
 * what the memory and the link to the host allow. */
static void budgets_make_curves(void)
{
    struct figure_table table = {.label = NULL};
    struct figure f = {.name = "budget", .tables = &table, .table_count = 1};
    char *settings = NULL, *data = NULL;
    size_t size;
    CHECK(tsv_read(&table.tsv, put_file("budget.tsv", budget_table)) == 0, "%s", last_failure());
    f.settings = open_memstream(&settings, &size);
    f.data = open_memstream(&data, &size);
    CHECK(figure_budget(&f) == 0, "%s", last_failure());
    fclose(f.settings);
    fclose(f.data);
    CHECK(strstr(data, "128\t20\t19\t21\t12\n2048\t20\t19\t21\t12\n"), "full: %s", data);
    CHECK(strstr(data, "128\t9\t8\t10\t7\n2048\t12\t11\t13\t6\n"), "omnikv: %s", data);
    CHECK(strstr(settings, "rows = 1\n"), "out of memory: %s", settings);
    free(settings);
    free(data);
    tsv_free(&table.tsv);
}

#define KEPT "method\tbudget\ttask\tcorrect\ttotal\taccuracy\tlow\thigh\tnll\n"
static const char kept_table[] =
    "# okv eval --budgets 16,64\n" KEPT "full\t-\tkv\t4\t4\t1\t0.5\t1\t-\n"
    "full\t-\tall\t8\t8\t1\t0.7\t1\t-\n"
    "full\t-\thops\t4\t4\t1\t0.5\t1\t-\n"
    "a\t64\tkv\t1\t4\t0.25\t0.05\t0.7\t-\n"
    "a\t16\tkv\t0\t4\t0\t0\t0.5\t-\n"
    "a\t16\thops\t2\t4\t0.5\t0.15\t0.85\t-\n"
    "a\t16\tall\t2\t8\t0.25\t0.07\t0.6\t-\n";
static const char needle_table[] = KEPT "a\t16\tneedle/1024/0.5\t1\t4\t0.25\t0\t1\t-\n"
                                        "a\t16\tneedle/2048/0\t4\t4\t1\t0\t1\t-\n"
                                        "a\t16\tall\t5\t8\t0.625\t0\t1\t-\n"
                                        "a\t64\tneedle/1024/0\t2\t4\t0.5\t0\t1\t-\n"
                                        "full\t-\tneedle/1024/0.5\t4\t4\t1\t0\t1\t-\n";

/* What a figure makes of a table, as settings and data that the caller frees. */
static void prepare(int (*figure)(struct figure *), const char *text, const char *const *tasks,
                    int n_tasks, char **settings, char **data)
{
    struct figure_table table = {.label = "file"};
    struct figure f = {.name = "sweep",
                       .tables = &table,
                       .table_count = 1,
                       .tasks = {(const char **)tasks, n_tasks}};
    size_t size;
    *settings = *data = NULL;
    CHECK(tsv_read(&table.tsv, put_file("sweep.tsv", text)) == 0, "%s", last_failure());
    f.settings = open_memstream(settings, &size);
    f.data = open_memstream(data, &size);
    CHECK(figure(&f) == 0, "%s", last_failure());
    fclose(f.settings);
    fclose(f.data);
    tsv_free(&table.tsv);
}

/* The sum of the tasks is the last panel, and left out beside one task; a method without a budget
 * is level from the least to the largest. */
static void sweeps_make_panels(void)
{
    char *settings, *data;
    prepare(figure_kept, kept_table, NULL, 0, &settings, &data);
    CHECK(strcmp(data, "16\t100\t50\t100\t0\n64\t100\t50\t100\t0\n\n\n"
                       "16\t0\t0\t50\t0\n64\t25\t5\t70\t0\n\n\n"
                       "16\t100\t50\t100\t0\n64\t100\t50\t100\t0\n\n\n"
                       "16\t50\t15\t85\t0\n\n\n"
                       "16\t100\t70\t100\t0\n64\t100\t70\t100\t0\n\n\n"
                       "16\t25\t7\t60\t0\n\n\n") == 0,
          "kv, hops, all; full and a of each: %s", data);
    CHECK(strstr(settings, "level[1] = 1\nlevel[2] = 0\n"), "%s", settings);
    CHECK(strstr(settings, "panel_name[3] = \"all tasks\"\n"), "%s", settings);
    free(settings);
    free(data);
    prepare(figure_kept, kept_table, (const char *const[]){"kv"}, 1, &settings, &data);
    CHECK(strstr(settings, "panels = 1\n") && strstr(settings, "\"kv\""), "%s", settings);
    free(settings);
    free(data);
    prepare(figure_kept,
            KEPT "a\t8\tkv\t1\t4\t0.25\t0.05\t0.7\t-\na\t8\tall\t1\t4\t0.25\t0.05\t0.7\t-\n", NULL,
            0, &settings, &data);
    CHECK(strstr(settings, "panels = 1\n"), "one task and its sum: %s", settings);
    free(settings);
    free(data);
    prepare(figure_needle, needle_table, NULL, 0, &settings, &data);
    CHECK(strcmp(data, "1\t2\t25\n2\t1\t100\n\n\n1\t1\t50\n\n\n1\t2\t100\n\n\n") == 0,
          "length, depth, share: %s", data);
    CHECK(strstr(settings, "panels = 3\n") && strstr(settings, "a\\0054 16 tokens") &&
              strstr(settings, "\"full\"") && strstr(settings, "depth_name[2] = \"50\""),
          "%s", settings);
    free(settings);
    free(data);
    prepare(figure_needle, "task\tcorrect\ttotal\nneedle/64/1\t1\t1\nall\t1\t1\n", NULL, 0,
            &settings, &data);
    CHECK(strstr(settings, "panel_name[1] = \"file\""), "the table names it: %s", settings);
    free(settings);
    free(data);
}

static void figures_are_drawn_the_same_twice(void)
{
    const char *overlap = put_file("o.tsv", "# okv-analyze overlap x.h5 --measure jaccard\n"
                                            "i\tj\tvalue\n0\t0\t1\n0\t1\t0.4\n1\t1\tnan\n");
    const struct {
        const char *name, *table;
        const char *shown; /* a text that must stand in the SVG */
    } figures[] = {
        {"rank", put_file("rank.tsv", rank_table), "k = 32"},
        {"overlap", overlap, "jaccard: in common / in either"},
        {"hits", put_file("hits.tsv", hits_table), "lagged"},
        {"missing", put_file("missing.tsv", missing_table), "decode step"},
        {"latency", put_file("latency.tsv", latency_table), "out of memory"},
        {"budget", put_file("budget.tsv", budget_table), "omnikv, 8K"},
        {"accuracy", put_file("a_b.tsv", eval_table), "a_b"},
        {"kept", put_file("kept.tsv", kept_table), "tokens kept"},
        {"needle", put_file("needle.tsv", needle_table), "a, 64 tokens"},
    };
    static const char *const formats[] = {"svg", "png", "pdf"};
    for (size_t i = 0; i < COUNT_OF(figures); i++)
        for (size_t k = 0; k < COUNT_OF(formats); k++) {
            char *name = xprintf("%s.%s", figures[i].name, formats[k]);
            const char *path = check_scratch(name);
            size_t size[2] = {0};
            char *bytes[2] = {0};
            for (int again = 0; again < 2; again++) {
                int rc = PLOT(figures[i].name, figures[i].table, "--out", path, SCRIPTS);
                CHECK(rc == 0, "%s: %d: %s", name, rc, last_failure());
                if (rc == 0) bytes[again] = file_read(path, &size[again]);
                unlink(path);
            }
            const bool dated =
                k == 2 && bytes[0] && !memmem(bytes[0], size[0], "/CreationDate", 13);
            CHECK(dated || (bytes[0] && bytes[1] && size[0] == size[1] &&
                            memcmp(bytes[0], bytes[1], size[0]) == 0),
                  "%s: two runs differ", name);
            CHECK(k < 2 || dated || (bytes[0] && memmem(bytes[0], size[0], "D:19700101000000", 16)),
                  "%s: dated", name);
            CHECK(k > 0 || (bytes[0] && strstr(bytes[0], figures[i].shown)), "%s: no \"%s\"", name,
                  figures[i].shown);
            free(bytes[0]);
            free(bytes[1]);
            free(name);
        }
}

/* Names that would be commands or markup for gnuplot, HTML or a shell come out as they went in. */
static void hostile_names_are_shown(void)
{
    const char *marker = check_scratch("pwned");
    char *name = xprintf("`touch %s`$(touch %s)'\"\\{/Symbol a}_x^2 @q <b>", marker, marker);
    char *table = xprintf("method\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\t"
                          "status\n%s\t4096\t20\t19\t21\tnan\tok\n%s\t8192\t20\t19\t21\tnan\tok\n",
                          "-`a'\"\\{/Symbol b}_x^2@q<b>", "system('touch x')");
    const char *path = put_file("-dash.tsv", table), *out = check_scratch("hostile.svg");
    CHECK(PLOT("latency", path, "--title", name, "--out", out, SCRIPTS) == 0, "%s", last_failure());
    CHECK(!is_there(marker), "a title was run as a command");
    CHECK(holds(out, "{/Symbol b}_x^2@q&lt;b></text>"), "the method is not shown as it stands");
    CHECK(holds(out, "'\"\\{/Symbol a}_x^2 @q &lt;b></text>"),
          "the title is not shown as it stands");
    free(name);
    free(table);
}

static void bad_tables_are_one_line(void)
{
    static const struct {
        const char *figure, *text, *message;
    } bad[] = {
        {"rank", RANK, "found none"},
        {"rank", RANK "m1\t32\t0\tnan\tnan\tnan\n", "finite"},
        {"rank", RANK "m1\t32\t0\tx\t1\t1\n", "expected a number"},
        {"rank", RANK "m1\t32\t0.5\t1\t1\t1\n", "whole number"},
        {"rank", RANK "m1\t32\t0\t1e300\t1\t1\n", "below"},
        {"rank", RANK "m1\t32\t0\t1\t1\t1\nm1\t32\t0\t1\t1\t1\n", "twice"},
        {"rank", "metric\tk\tlayer\tvalue\tlow\nm1\t1\t1\t1\t1\n", "\"high\""},
        {"overlap", "i\tj\tvalue\n0\t9999\t1\n", "at most"},
        {"overlap", "i\tj\tvalue\n0\t1\t1\n0\t1\t1\n", "twice"},
        {"overlap", "metric\tk\ti\tj\tvalue\nm1\t1\t0\t1\t1\nm2\t1\t0\t1\t1\n", "--metric"},
        {"hits", "source\tk\nown\t1\n", "\"mass\""},
        {"hits", "source\tk\tmass\nown\t0\t1\n", "from 1"},
        {"latency",
         "method\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\tstatus\n"
         "a\t1\t1\t1\t1\t1\tfine\n",
         "ok or oom"},
        {"latency",
         "method\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\tstatus\n"
         "a\t1\t-1\t1\t1\t1\tok\n",
         "above 0"},
        {"latency",
         "method\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\tstatus\n"
         "a\t1\t1\t1\t1\t1\toom\n",
         "only status oom"},
        {"latency", LATENCY "a\t1\t1\t1\t1\t1\tok\t8\na\t1\t1\t1\t1\t1\tok\t16\n",
         "figure of okv-plot budget"},
        {"budget", LATENCY "a\t1\t1\t1\t1\t1\tok\t-\n", "found no budget"},
        {"budget", LATENCY "a\t1\t1\t1\t1\t1\tok\t0\n", "\"budget\": expected a whole number"},
        {"budget", LATENCY "a\t1\t1\t1\t1\t1\tok\t8\na\t1\t1\t1\t1\t1\tok\t8\n", "twice"},
        {"budget",
         "method\tcontext\tdecode_ms\tdecode_ms_low\tdecode_ms_high\troofline_ms\tstatus\n"
         "a\t1\t1\t1\t1\t1\tok\n",
         "expected a column \"budget\""},
        {"accuracy", "task\tcorrect\ttotal\taccuracy\na\t5\t4\t1\n", "from 0 to 4"},
        {"accuracy", "task\tcorrect\ttotal\taccuracy\na\t2\t4\t0.9\n", "is not 2 of 4"},
        {"kept", KEPT "a\t-\tkv\t1\t4\t0.25\t0.05\t0.7\t-\n", "found none; okv eval --budgets"},
        {"kept", KEPT "a\t8\tkv\t1\t4\t0.25\t0.3\t0.7\t-\n", "no interval around 1 of 4"},
        {"kept", KEPT "a\t8\tkv\t5\t4\t1\t0\t1\t-\n", "from 0 to 4"},
        {"kept", KEPT "a\t8\tkv\t1\t4\t1\t0\t1\t-\na\t8\tkv\t1\t4\t1\t0\t1\t-\n", "twice"},
        {"kept", "method\tbudget\ttask\tcorrect\ttotal\nm\t8\tkv\t1\t4\n", "\"low\""},
        {"needle", KEPT "a\t8\tkv\t1\t4\t1\t0\t1\t-\n", "expected tasks called needle/"},
        {"needle", KEPT "a\t8\tneedle/1K/0\t1\t4\t1\t0\t1\t-\n", "found \"needle/1K/0\""},
        {"needle", KEPT "a\t8\tneedle/9/1.5\t1\t4\t1\t0\t1\t-\n", "found \"needle/9/1.5\""},
        {"needle", "task\tcorrect\ttotal\nneedle/9/1\t1\t1\nneedle/9/1.0\t1\t1\n", "twice"},
    };
    const char *out = check_scratch("never.svg");
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const char *path = put_file("bad.tsv", bad[i].text);
        int rc = PLOT(bad[i].figure, path, "--out", out, SCRIPTS);
        CHECK(rc == 1 && strstr(last_failure(), bad[i].message), "%s: want %s: %d: %s",
              bad[i].figure, bad[i].message, rc, last_failure());
        CHECK(!is_there(out), "%s: a figure was left behind", bad[i].message);
    }
    const char *good = put_file("good.tsv", rank_table);
    CHECK(PLOT("rank", good, "--out", "x.gif", SCRIPTS) == 2, "%s", last_failure());
    CHECK(PLOT("rank", good) == 2, "%s", last_failure());
    CHECK(PLOT("rank", good, "--size", "1x", "--out", out, SCRIPTS) == 2, "%s", last_failure());
    CHECK(PLOT("rank", good, "--size", "1x1", "--out", out, SCRIPTS) == 1, "%s", last_failure());
    CHECK(PLOT("rank", good, "--mark", "7", "--out", out, SCRIPTS) == 1, "%s", last_failure());
    CHECK(PLOT("rank", good, "--out", "/proc/none/x.svg", SCRIPTS) == 1, "%s", last_failure());
    CHECK(PLOT("rank", good, "--out", out, "--scripts", "/") == 1, "%s", last_failure());
}

/* A gnuplot that is missing, fails, dies or draws nothing: one line, and the old figure stays. */
static void a_failing_gnuplot_leaves_no_figure(void)
{
    static const struct {
        const char *script, *message;
    } fakes[] = {
        {NULL, "not found"},
        {"#!/bin/sh\necho '\"x.gp\" line 3: undefined variable: y' >&2\nexit 1\n",
         "undefined variable"},
        {"#!/bin/sh\nkill -9 $$\n", "killed by signal 9"},
        {"#!/bin/sh\nexit 0\n", "drew nothing"},
        {"#!/bin/sh\nd=$(dirname \"$2\")\necho '<?xml half' > \"$d/figure\"\n", "whole svg"},
    };
    char *path = xstrdup(getenv("PATH") ? getenv("PATH") : "");
    const char *table = put_file("rank.tsv", rank_table), *out = put_file("kept.svg", "before");
    for (size_t i = 0; i < COUNT_OF(fakes); i++) {
        char *name = xprintf("fake%zu", i);
        const char *folder = check_scratch(name);
        char *program = path_join(folder, "gnuplot"), *list = xprintf("%s:/bin:/usr/sbin", folder);
        free(name);
        mkdir(folder, 0700);
        if (fakes[i].script) {
            FILE *f = fopen(program, "w");
            if (f) fputs(fakes[i].script, f);
            if (f) fclose(f);
            chmod(program, 0700);
        }
        setenv("PATH", fakes[i].script ? list : folder, 1);
        int rc = PLOT("rank", table, "--out", out, SCRIPTS);
        setenv("PATH", path, 1);
        CHECK(rc == 1 && strstr(last_failure(), fakes[i].message), "want %s: %d: %s",
              fakes[i].message, rc, last_failure());
        CHECK(holds(out, "before"), "%s: the old figure is gone", fakes[i].message);
        free(program);
        free(list);
    }
    free(path);
}

static void base64_is_right(void)
{
    static const char *const cases[][2] = {
        {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"\xff\xfe\xfd\xfc", "//79/A=="}};
    for (size_t i = 0; i < COUNT_OF(cases);
         i++) { /* the cases of RFC 4648, and one of high bytes */
        char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);
        html_base64(f, cases[i][0], strlen(cases[i][0]));
        fclose(f);
        CHECK(strcmp(text, cases[i][1]) == 0, "%s: %s", cases[i][1], text);
        free(text);
    }
}

static void the_report_is_whole(void)
{
    put_file("eval.tsv", "# okv eval --config 'a&b.json'\ntask\taccuracy\tset\n"
                         "a\t0.5\t2,5\nall\t0.97531\t2,9\n<x>\t1\t**b**\nbest: 2,9\n");
    put_file("page.html", "<p title=\"q\">a & b</p>");
    put_file("fig.svg", "<?xml?><svg width=\"100pt\"><desc>okv-plot rank x.tsv</desc></svg>");
    const char *out = check_scratch("report.html");
    const char *manifest = put_file(
        "report.json",
        "{\"title\": \"T <1>\", \"items\": ["
        "{\"title\": \"Fig\", \"figure\": \"fig.svg\", \"table\": \"eval.tsv\", \"limit\": 2, "
        "\"text\": [\"How `to` <read>\\n\\nit\", \"\"]},"
        "{\"finding\": \"**{{eval.tsv:task=all:accuracy:%1}}**, "
        "{{eval.tsv:set=2,9,task=all:accuracy:2}}, "
        "{{eval.tsv:best}} {{eval.tsv:task=<x>:set}}\"},"
        "{\"html\": \"page.html\", \"title\": \"Tokens\"}]}");
    CHECK(PLOT("report", manifest, "--out", out) == 0, "%s", last_failure());
    static const char *const parts[] = {
        "<h1>T &lt;1&gt;</h1>",
        "<strong>97.5 %</strong>, 0.98, 2,9 **b**", /* a value is text, never markup */
        "<p class=\"text\">How <code>to</code> &lt;read&gt;</p>",
        "2 of 3 rows shown",
        "okv eval --config 'a&amp;b.json'\nokv-plot rank x.tsv\n",
        "width:180px", /* 100 points are 133.3 pixels, shown 1.35 times as large */
        "srcdoc=\"&lt;p title=&quot;q&quot;&gt;a &amp; b&lt;/p&gt;\"",
        "<a href=\"#s0\">Fig</a>",
    };
    for (size_t i = 0; i < COUNT_OF(parts); i++) CHECK(holds(out, parts[i]), "no %s", parts[i]);
    CHECK(!holds(out, "<script") && !holds(out, "http:") && !holds(out, "https:"),
          "a link or script");
    unlink(out);

    static const struct {
        const char *items, *message;
    } bad[] = {
        {"{\"text\": \"{{eval.tsv:task=none:accuracy}}\"}", "no row"},
        {"{\"text\": \"{{eval.tsv:task=all:acuracy}}\"}", "expected a column"},
        {"{\"text\": \"{{eval.tsv:tusk=all:accuracy}}\"}", "expected a column \"tusk\""},
        {"{\"text\": \"{{eval.tsv:worst}}\"}", "has no line"},
        {"{\"text\": \"{{eval.tsv::accuracy}}\"}", "expected one row"},
        {"{\"text\": \"{{none.tsv:worst}}\"}", "cannot be opened"},
        {"{\"text\": \"{{eval.tsv:task=a:set:2}}\"}", "expected a number"},
        {"{\"text\": \"{{eval.tsv:task=a:accuracy:x}}\"}", "decimals"},
        {"{\"text\": \"{{eval.tsv}}\"}", "expected {{"},
        {"{\"text\": \"an `open code\"}", "not closed"},
        {"{\"text\": 5}", "expected a string"},
        {"{\"figure\": \"none.svg\"}", "cannot be opened"},
        {"{\"figure\": \"eval.tsv\"}", ".svg or .png"},
        {"{\"figur\": \"fig.svg\"}", "did you mean \"figure\""},
        {"{\"table\": \"eval.tsv\", \"columns\": [\"x\"]}", "expected a column"},
        {"{}", "empty"},
        {"7", "expected an object"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char *text = xprintf("{\"items\": [%s]}", bad[i].items);
        manifest = put_file("bad.json", text);
        int rc = PLOT("report", manifest, "--out", out);
        CHECK(rc == 1 && strstr(last_failure(), bad[i].message), "%s: want %s: %d: %s",
              bad[i].items, bad[i].message, rc, last_failure());
        CHECK(!is_there(out), "%s: a report was left behind", bad[i].items);
        free(text);
    }
}

int main(void)
{
    set_program_name("okv-plot");
    mute_failures(true);
    tables_are_read();
    text_is_made_harmless();
    axes_hold_their_values();
    curves_merge_by_place();
    budgets_make_curves();
    sweeps_make_panels();
    base64_is_right();
    the_report_is_whole();
    if (have_gnuplot()) {
        figures_are_drawn_the_same_twice();
        hostile_names_are_shown();
        bad_tables_are_one_line();
    } else {
        check_skip("figures", "gnuplot is not installed");
    }
    a_failing_gnuplot_leaves_no_figure();
    return check_report("test_plot");
}
