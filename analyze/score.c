/* score.c - okv-analyze score: what the published scorers of LongBench, InfiniteBench and the
 * two-stage task make of prediction files. */
#include "analyze/cmd.h"
#include "analyze/fuzz.h"
#include "analyze/predictions.h"
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "Usage: okv-analyze score PATH... [OPTIONS]\n"
    "\n"
    "Scores prediction files, or all *.jsonl of a folder, as the benchmarks' own scorers do;\n"
    "docs/benchmarks.md has the metrics. A file's name says its task: DATASET.jsonl and\n"
    "DATASET_e.jsonl (LongBench), preds_TASK.jsonl (InfiniteBench), 2stage.jsonl. Parts of one "
    "run,\n"
    "NAME.I-of-N.jsonl and preds_TASK_FROM-TO.jsonl, count as one file.\n"
    "\n"
    "  --task NAME          all files hold predictions for this task, whatever their names\n"
    "  --longbench-e        group LongBench's files by length, as those named DATASET_e.jsonl are\n"
    "  --fuzz difflib|lev   fuzzywuzzy's ratio without or with python-Levenshtein [difflib]\n"
    "  --scorer NAME        longbook_choice_eng by infinitebench's rules, or by those of omnikv's\n"
    "                       copy [infinitebench]\n"
    "  --model-name NAME    math_calc skips the first number of gpt4 [the folder's name]\n"
    "  --jieba DIR          jieba's dictionary and tables [where its package puts them]\n"
    "  --keep-going         name every line that cannot be scored, and score the rest; status 1\n"
    "  --json               print JSON, not tables\n"
    "  --out FILE.json      write the JSON there too\n"
    "  --samples FILE       write the score of every sample there\n";

struct options {
    const char *task, *fuzz, *scorer, *model, *jieba, *out, *samples;
    bool every_e, keep_going, as_json;
};

static const struct bucket {
    const char *name;
    double low, high; /* words, or Chinese characters, of the context */
} buckets[] = {{"0-4k", -1, 4000}, {"4-8k", 4000, 8000}, {"8k+", 8000, INFINITY}};

/* Percent, as the scorers round: two decimals, half to even of the binary number. NaN of none. */
static double rounded(double percent)
{
    char text[40];
    if (isnan(percent)) return percent;
    snprintf(text, sizeof text, "%.2f", percent);
    return strtod(text, NULL);
}

static double percent_of(const struct prediction_set *s)
{
    size_t n;
    const double sum = predictions_sum(s, 0, 0, &n);
    return n ? 100 * sum / (double)n : NAN;
}

/* LongBench-E takes the mean first, which rounds differently. */
static double bucket_percent(const struct prediction_set *s, const struct bucket *b, size_t *n)
{
    const double sum = predictions_sum(s, b->low, b->high, n);
    return *n ? 100 * (sum / (double)*n) : NAN;
}

/* A mean over tasks: of their unrounded percentages. */
struct average {
    const char *name;
    double percent;
    int found, all; /* tasks in it, tasks of the benchmark that could be */
};
enum { MOST_AVERAGES = 16 };

static bool counts(const struct task *t, const char *group, char language, enum benchmark b)
{
    return t->benchmark == b && !t->extra && (group == NULL || strcmp(t->group, group) == 0) &&
           (language == 0 || t->language == language || t->language == 'p');
}

static struct average average_of(const struct predictions *p, const char *run, bool by_length,
                                 const char *name, const char *group, char language,
                                 enum benchmark b)
{
    struct average a = {.name = name};
    double sum = 0;
    for (int i = 0; i < p->sets; i++) {
        const struct prediction_set *s = &p->set[i];
        if (strcmp(s->run, run) != 0 || s->by_length != by_length || s->samples == 0 ||
            !counts(s->task, group, language, b))
            continue;
        sum += percent_of(s);
        a.found++;
    }
    for (const struct task *t = tasks; t->name; t++)
        a.all += counts(t, group, language, b) && (t->in_e || !by_length);
    a.percent = a.found ? sum / a.found : NAN;
    return a;
}

/* The averages of one run over one benchmark: groups in the table's order, then for LongBench the
 * two languages, each the mean of its groups with code in both, then all tasks. */
static int averages(const struct predictions *p, const char *run, bool by_length, enum benchmark b,
                    struct average *out)
{
    static const struct {
        char letter;
        const char *name;
    } languages[] = {{'e', "English"}, {'c', "Chinese"}};
    const char *group[MOST_AVERAGES];
    int n = 0, groups = 0;

    for (const struct task *t = tasks; t->name; t++)
        if (t->benchmark == b && (groups == 0 || strcmp(group[groups - 1], t->group) != 0))
            group[groups++] = t->group;
    for (int g = 0; g < groups; g++)
        out[n++] = average_of(p, run, by_length, group[g], group[g], 0, b);
    for (size_t l = 0; b == LONGBENCH && l < COUNT_OF(languages); l++) {
        struct average *a = &out[n++];
        double sum = 0;
        int found = 0, own = 0;
        *a = average_of(p, run, by_length, languages[l].name, NULL, languages[l].letter, b);
        for (int g = 0; g < groups; g++) {
            const struct average x =
                average_of(p, run, by_length, group[g], group[g], languages[l].letter, b);
            if (x.found == 0) continue;
            sum += x.percent;
            found++;
            own += strcmp(group[g], "code") != 0;
        }
        a->percent = own ? sum / found : NAN; /* code alone is no language */
        if (own == 0) a->found = 0;
    }
    out[n++] =
        average_of(p, run, by_length, b == LONGBENCH ? "LongBench" : "InfiniteBench", NULL, 0, b);
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (out[i].found) out[kept++] = out[i];
    return kept;
}

/* The sets that start a run's averages: the first of their folder, benchmark and kind. */
static bool starts_averages(const struct predictions *p, int i)
{
    const struct prediction_set *s = &p->set[i];
    for (int k = 0; k < i; k++)
        if (strcmp(p->set[k].run, s->run) == 0 && p->set[k].by_length == s->by_length &&
            p->set[k].task->benchmark == s->task->benchmark)
            return false;
    return s->task->benchmark != TWO_STAGE;
}

static void print_percent(FILE *f, double percent)
{
    if (isnan(percent))
        fputs("\t-", f);
    else
        fprintf(f, "\t%.2f", percent);
}

static void print_tables(FILE *f, int argc, char **argv, const struct predictions *p)
{
    bool lengths = false;
    for (int i = 0; i < p->sets; i++) lengths |= p->set[i].by_length;
    table_head(f, argc, argv,
               "score: percent, rounded as the benchmarks do; mean: of the samples' scores, in "
               "[0, 1]; refused: lines not scored");
    fputs("run\ttask\tgroup\tmetric\tsamples\trefused\tscore\tmean", f);
    for (size_t b = 0; lengths && b < COUNT_OF(buckets); b++) fprintf(f, "\t%s", buckets[b].name);
    fputc('\n', f);
    for (int i = 0; i < p->sets; i++) {
        const struct prediction_set *s = &p->set[i];
        size_t n;
        if (s->left_out) continue;
        fprintf(f, "%s\t%s%s\t%s\t%s\t%zu\t%ld", s->run, s->task->name, s->by_length ? "_e" : "",
                s->task->group, s->task->metric, s->samples, s->refused);
        print_percent(f, percent_of(s));
        const double sum = predictions_sum(s, 0, 0, &n);
        if (n)
            fprintf(f, "\t%.12f", sum / (double)n);
        else
            fputs("\t-", f);
        for (size_t b = 0; lengths && b < COUNT_OF(buckets); b++)
            print_percent(f, s->by_length ? bucket_percent(s, &buckets[b], &n) : NAN);
        fputc('\n', f);
    }
    bool head = false;
    for (int i = 0; i < p->sets; i++) {
        const struct prediction_set *s = &p->set[i];
        struct average a[MOST_AVERAGES];
        if (!starts_averages(p, i)) continue;
        const int n = averages(p, s->run, s->by_length, s->task->benchmark, a);
        if (n > 0 && !head) fputs("\nrun\taverage\ttasks\tof\tscore\n", f);
        head = head || n > 0;
        for (int k = 0; k < n; k++) {
            fprintf(f, "%s\t%s%s\t%d\t%d", s->run, a[k].name, s->by_length ? " (E)" : "",
                    a[k].found, a[k].all);
            print_percent(f, a[k].percent);
            fputc('\n', f);
        }
    }
}

static void add_number(cJSON *o, const char *key, double v)
{
    if (isnan(v))
        cJSON_AddNullToObject(o, key);
    else
        cJSON_AddNumberToObject(o, key, v);
}

static void add_task(cJSON *list, const struct prediction_set *s)
{
    cJSON *o = cJSON_CreateObject();
    size_t n;
    const double sum = predictions_sum(s, 0, 0, &n);
    cJSON_AddItemToArray(list, o);
    char *name = xprintf("%s%s", s->task->name, s->by_length ? "_e" : "");
    cJSON_AddStringToObject(o, "task", name);
    free(name);
    cJSON_AddStringToObject(o, "group", s->task->group);
    cJSON_AddStringToObject(o, "metric", s->task->metric);
    cJSON_AddNumberToObject(o, "samples", (double)n);
    cJSON_AddNumberToObject(o, "refused", (double)s->refused);
    add_number(o, "score", rounded(percent_of(s)));
    add_number(o, "mean", n ? sum / (double)n : NAN);
    if (!s->by_length) return;
    cJSON *lengths = cJSON_AddObjectToObject(o, "lengths");
    for (size_t b = 0; b < COUNT_OF(buckets); b++) {
        cJSON *x = cJSON_AddObjectToObject(lengths, buckets[b].name);
        const double percent = bucket_percent(s, &buckets[b], &n);
        cJSON_AddNumberToObject(x, "samples", (double)n);
        add_number(x, "score", rounded(percent));
    }
}

/* {"runs": [{"run", "tasks": [...], "averages": [...]}]} */
static cJSON *to_json(const struct predictions *p)
{
    cJSON *root = cJSON_CreateObject(), *runs = cJSON_AddArrayToObject(root, "runs");
    for (int i = 0; i < p->sets; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++) seen |= strcmp(p->set[k].run, p->set[i].run) == 0;
        if (seen) continue;
        cJSON *run = cJSON_CreateObject();
        cJSON_AddItemToArray(runs, run);
        cJSON_AddStringToObject(run, "run", p->set[i].run);
        cJSON *list = cJSON_AddArrayToObject(run, "tasks");
        cJSON *means = cJSON_AddArrayToObject(run, "averages");
        for (int k = i; k < p->sets; k++) {
            const struct prediction_set *s = &p->set[k];
            struct average a[MOST_AVERAGES];
            if (strcmp(s->run, p->set[i].run) != 0) continue;
            if (!s->left_out) add_task(list, s);
            const int n = starts_averages(p, k)
                              ? averages(p, s->run, s->by_length, s->task->benchmark, a)
                              : 0;
            for (int m = 0; m < n; m++) {
                cJSON *o = cJSON_CreateObject();
                cJSON_AddItemToArray(means, o);
                cJSON_AddStringToObject(o, "average", a[m].name);
                cJSON_AddBoolToObject(o, "longbench_e", s->by_length);
                cJSON_AddNumberToObject(o, "tasks", a[m].found);
                cJSON_AddNumberToObject(o, "of", a[m].all);
                add_number(o, "score", rounded(a[m].percent));
            }
        }
    }
    return root;
}

static void print_samples(FILE *f, int argc, char **argv, const struct predictions *p)
{
    table_head(f, argc, argv, "line: of the file, from 1; score: in [0, 1]");
    fputs("task\tfile\tline\tscore\n", f);
    for (int i = 0; i < p->sets; i++) {
        const struct prediction_set *s = &p->set[i];
        for (size_t k = 0; k < s->samples; k++)
            fprintf(f, "%s\t%s\t%ld\t%.12f\n", s->task->name, s->part[s->in_part[k]].path,
                    s->line[k], s->score[k]);
    }
}

static int by_run_and_table(const void *a, const void *b)
{
    const struct prediction_set *x = a, *y = b;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    if (x->by_length != y->by_length) return x->by_length ? 1 : -1;
    return (x->task > y->task) - (x->task < y->task);
}

static int score_all(struct predictions *p, const struct options *o, struct scoring *how,
                     struct jieba **jieba)
{
    bool tried = false;
    for (int i = 0; i < p->sets; i++) {
        struct prediction_set *s = &p->set[i];
        if (s->left_out) continue;
        const char *slash = strrchr(s->run, '/'), *model = slash ? slash + 1 : s->run;
        how->first_number_given = strcmp(o->model ? o->model : model, "gpt4") == 0;
        if (task_needs_jieba(s->task) && *jieba == NULL) {
            if (!tried) *jieba = jieba_open(o->jieba);
            tried = true;
            how->jieba = *jieba;
            if (*jieba == NULL) {
                if (!o->keep_going) return -1;
                p->failures++;
                s->left_out = true;
                continue;
            }
        }
        if (predictions_score(p, s, how, o->keep_going) && !o->keep_going) return -1;
        if (s->stops_original)
            note("%s, %s: %ld predictions have a fraction where the label is a whole number, at "
                 "which the original scorer stops; they count as wrong unless equal",
                 s->run, s->task->name, s->stops_original);
    }
    return 0;
}

static int write_text(const char *path, const char *text)
{
    struct output out = {0};
    if (output_open(&out, path)) return -1;
    fprintf(out.f, "%s\n", text);
    return output_close(&out, 0);
}

/* What OPTION writes must not take the place of predictions. */
static int check_output(const char *option, const char *path, const struct predictions *p)
{
    struct stat out, in;
    if (path == NULL || stat(path, &out) != 0) return 0;
    for (int i = 0; i < p->sets; i++)
        for (int k = 0; k < p->set[i].parts; k++)
            if (stat(p->set[i].part[k].path, &in) == 0 && in.st_dev == out.st_dev &&
                in.st_ino == out.st_ino)
                return fail("%s %s: expected another file than the predictions, which it would "
                            "replace",
                            option, path);
    return 0;
}

int analyze_score(int argc, char **argv)
{
    struct options o = {.fuzz = "difflib", .scorer = "infinitebench"};
    const struct option_spec specs[] = {
        {"--task", OPT_STRING, &o.task, 0, 0},
        {"--longbench-e", OPT_FLAG, &o.every_e, 0, 0},
        {"--fuzz", OPT_STRING, &o.fuzz, 0, 0},
        {"--scorer", OPT_STRING, &o.scorer, 0, 0},
        {"--model-name", OPT_STRING, &o.model, 0, 0},
        {"--jieba", OPT_STRING, &o.jieba, 0, 0},
        {"--keep-going", OPT_FLAG, &o.keep_going, 0, 0},
        {"--json", OPT_FLAG, &o.as_json, 0, 0},
        {"--out", OPT_STRING, &o.out, 0, 0},
        {"--samples", OPT_STRING, &o.samples, 0, 0},
        {0},
    };
    struct predictions p = {0};
    struct output table = {0}, samples = {0};
    struct jieba *jieba = NULL;
    cJSON *root = NULL;
    char *text = NULL;
    int first, rc = options_parse(argc, argv, specs, usage, &first);

    if (rc >= 0) return rc;
    if (first == argc) return usage_error(argv[0], "which prediction files?");
    const bool lev = strcmp(o.fuzz, "lev") == 0, omnikv = strcmp(o.scorer, "omnikv") == 0;
    if (!lev && strcmp(o.fuzz, "difflib") != 0)
        return usage_error(argv[0], "--fuzz: expected difflib or lev, found \"%s\"", o.fuzz);
    if (!omnikv && strcmp(o.scorer, "infinitebench") != 0)
        return usage_error(argv[0], "--scorer: expected infinitebench or omnikv, found \"%s\"",
                           o.scorer);
    if (o.out && o.samples && strcmp(o.out, o.samples) == 0)
        return usage_error(argv[0], "--out and --samples: expected two files, found %s twice",
                           o.out);
    struct scoring how = {.ratio = lev ? fuzz_ratio_lev : fuzz_ratio, .omnikv = omnikv};
    rc = 1;
    if (predictions_find((const char *const *)argv + first, argc - first, o.task, o.every_e,
                         o.keep_going, &p))
        goto done;
    if (p.sets == 0) goto done;
    if (check_output("--out", o.out, &p) || check_output("--samples", o.samples, &p)) goto done;
    qsort(p.set, (size_t)p.sets, sizeof *p.set, by_run_and_table);
    if (score_all(&p, &o, &how, &jieba)) goto done;

    root = to_json(&p);
    text = cJSON_Print(root);
    if (o.out && write_text(o.out, text)) goto done;
    if (o.samples) {
        if (output_open(&samples, o.samples)) goto done;
        print_samples(samples.f, argc, argv, &p);
        if (output_close(&samples, 0)) goto done;
    }
    if (output_open(&table, NULL)) goto done;
    if (o.as_json)
        fprintf(table.f, "%s\n", text);
    else
        print_tables(table.f, argc, argv, &p);
    if (output_close(&table, 0)) goto done;
    rc = p.failures ? 1 : 0;

done:
    cJSON_free(text);
    cJSON_Delete(root);
    jieba_close(jieba);
    predictions_free(&p);
    return rc;
}
