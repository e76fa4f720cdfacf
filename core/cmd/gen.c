/* gen.c - okv gen: make synthetic long-context tasks, and the benchmarks' synthetic data sets. */
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/cmd/cmd.h"
#include "core/task/gen.h"
#include "core/task/synthetic.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv gen TASK --model DIR [--tokens N] [--count M] [--seed S] [OPTIONS]\n"
    "       okv gen needle --model DIR [--lengths N,...] [--depths D,...] [--count M] [--seed S]\n"
    "       okv gen --benchmark infinitebench TASK [--tokens N] [--count M] [--seed S]\n"
    "       okv gen --benchmark 2stage [--count M] [--seed S]\n"
    "Prints M lines of a suite: prompts of about N tokens with known answers, for okv eval, trace\n"
    "and search. The same options give the same lines, whatever M is.\n"
    "  TASK           passkey   keys of towns buried in prose\n"
    "                 kv        hexadecimal pairs of a JSON object\n"
    "                 twostage  add two numbers, look the sum up in a dict\n"
    "                 hops      chains of acquaintances buried in prose\n"
    "                 vt        variable tracking (RULER): all variables that have a value\n"
    "                 needle    one pass key at each length and depth: tasks needle/LENGTH/DEPTH\n"
    "  --model DIR    the model whose tokenizer and chat format are used\n"
    "  --tokens N     length of a line, questions and answers included [1500]\n"
    "  --count M      lines; of needle, lines of each length and depth [8]\n"
    "  --seed S       [0]\n"
    "  --questions Q  a line, 1 to 8 [3; 1 with --text, and of vt and needle]\n"
    "  --format F     raw, chat or mixed: six in ten raw [mixed; raw with --text]\n"
    "  --text         text-level lines: a prompt and the word its answer must contain; of vt "
    "every\n"
    "                 word (\"match\": \"each\")\n"
    "  --chains C     vt: chains of assignments, 1 to 64 [1]\n"
    "  --hops H       vt: assignments of a chain after its first, 1 to 64 [4]\n"
    "  --lengths N,.. needle: lengths of lines in tokens [1K,2K,4K]\n"
    "  --depths D,... needle: shares of the prose before the key, 0 to 1 [0,0.25,0.5,0.75,1]\n"
    "  --benchmark B  a data set as its benchmark publishes it, for okv eval --benchmark; our own\n"
    "                 noise and wording, the published sizes. infinitebench with TASK one of\n"
    "                 passkey, number_string, kv_retrieval, math_find, math_calc, code_run; "
    "--tokens\n"
    "                 N scales the sizes [128K], passkey and number_string have published ones "
    "for\n"
    "                 8K to 256K. 2stage is OmniKV's and needs no TASK. --count M takes M lines\n"
    "                 spread evenly over the set [all]\n";

/* What is asked for; 0, NULL or an empty list where an option was not given. */
struct request {
    const char *task, *model, *format, *benchmark;
    int tokens, count, seed, questions, chains, hops;
    struct int_list lengths;
    struct double_list depths;
    bool text;
};

/* Index of NAME in the NULL-terminated list, or -1. */
static int find_name(const char *name, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

/* ---- data sets of benchmarks */

static int check_benchmark(const char *name, const struct request *r, struct synthetic *s)
{
    const bool infinite = strcmp(r->benchmark, "infinitebench") == 0;
    const int task = r->task ? find_name(r->task, synthetic_task_names) : SYNTHETIC_2STAGE;
    if (!infinite && strcmp(r->benchmark, "2stage") != 0)
        return usage_error(name, "--benchmark: expected infinitebench or 2stage, found \"%s\"",
                           r->benchmark);
    if (!infinite && r->task)
        return usage_error(name, "--benchmark 2stage has no tasks, found \"%s\"", r->task);
    if (infinite && (task < 0 || task == SYNTHETIC_2STAGE))
        return usage_error(name,
                           "--benchmark infinitebench: expected a task of passkey, number_string, "
                           "kv_retrieval, math_find, math_calc and code_run, found %s%s%s",
                           r->task ? "\"" : "", r->task ? r->task : "none", r->task ? "\"" : "");
    if (r->model || r->format || r->questions || r->text || r->chains || r->hops || r->lengths.n ||
        r->depths.n)
        return usage_error(name, "--benchmark takes --tokens, --count and --seed only: its lines "
                                 "are text of the benchmark's own form");
    if (!infinite && r->tokens)
        return usage_error(name,
                           "--benchmark 2stage has lines of 40 to 200 entries, found "
                           "--tokens %d",
                           r->tokens);
    *s = (struct synthetic){.task = (enum synthetic_task)task,
                            .tokens = r->tokens ? r->tokens : SYNTHETIC_TOKENS,
                            .seed = (uint64_t)r->seed};
    return 0;
}

static int print_benchmark(const struct request *r, const struct synthetic *s)
{
    struct output out = {0};
    struct progress progress;
    const int total = synthetic_lines(s), count = r->count ? r->count : total;
    if (total < 0) return -1;
    if (count > total)
        return fail("--count: %s has %d lines at this length, found %d",
                    synthetic_task_names[s->task], total, count);
    if (output_open(&out, NULL)) return -1;
    progress_start(&progress, "gen", count);
    for (int i = 0; i < count && !ferror(out.f); i++) {
        char *line = synthetic_line(s, (int)((int64_t)i * total / count));
        fprintf(out.f, "%s\n", line);
        free(line);
        progress_show(&progress, i + 1);
    }
    progress_end(&progress);
    return output_close(&out, 0);
}

/* ---- lines of a suite */

static int check_suite(const char *name, struct request *r, struct gen_options *o)
{
    if (r->task == NULL)
        return usage_error(name, "expected one task (passkey, kv, twostage, hops, vt or needle)");
    const int task = find_name(r->task, gen_task_names);
    if (task < 0)
        return usage_error(name,
                           "expected a task of passkey, kv, twostage, hops, vt and needle, found "
                           "\"%s\"",
                           r->task);
    const bool vt = task == GEN_VT, needle = task == GEN_NEEDLE;
    if (!vt && (r->chains || r->hops))
        return usage_error(name, "--chains and --hops are options of vt, found %s", r->task);
    if (!needle && (r->lengths.n || r->depths.n))
        return usage_error(name, "--lengths and --depths are options of needle, found %s", r->task);
    if (needle && (r->tokens || r->questions > 1))
        return usage_error(name, "needle has one question a line and takes --lengths, not %s",
                           r->tokens ? "--tokens" : "--questions");
    if (r->format == NULL) r->format = r->text ? "raw" : "mixed";
    const int form = find_name(r->format, gen_format_names);
    if (form < 0)
        return usage_error(name, "--format: expected raw, chat or mixed, found \"%s\"", r->format);
    if (r->model == NULL) return usage_error(name, "--model is needed: its tokenizer is used");
    if (r->text && form == GEN_MIXED)
        return usage_error(name, "--text makes lines of one format: --format raw or chat");
    if (r->text && r->questions > 1)
        return usage_error(name, "--text asks one question a line, found --questions %d",
                           r->questions);
    *o = (struct gen_options){.task = (enum gen_task)task,
                              .format = (enum gen_format)form,
                              .tokens = r->tokens ? r->tokens : 1500,
                              .questions = r->questions              ? r->questions
                                           : r->text || vt || needle ? 1
                                                                     : 3,
                              .chains = r->chains ? r->chains : 1,
                              .hops = r->hops ? r->hops : 4,
                              .seed = (uint64_t)r->seed};
    if (vt && o->questions > o->chains)
        return usage_error(name,
                           "a question of vt asks for a chain: expected at most %d, found "
                           "--questions %d",
                           o->chains, o->questions);
    return 0;
}

/* The lines of a needle sweep, or of any other task, which is a sweep of one cell. */
static int print_suite(const struct request *r, struct gen_options o)
{
    static const int usual_lengths[] = {1024, 2048, 4096};
    static const double usual_depths[] = {0, 0.25, 0.5, 0.75, 1};
    const bool needle = o.task == GEN_NEEDLE;
    const int *length = !needle ? &o.tokens : r->lengths.n ? r->lengths.v : usual_lengths;
    const double *depth = !needle ? &o.depth : r->depths.n ? r->depths.v : usual_depths;
    const int n_lengths = !needle ? 1 : r->lengths.n ? r->lengths.n : (int)COUNT_OF(usual_lengths);
    const int n_depths = !needle ? 1 : r->depths.n ? r->depths.n : (int)COUNT_OF(usual_depths);
    const int count = r->count ? r->count : 8, total = n_lengths * n_depths * count;
    struct gen_options cell = o;
    struct output out = {0};
    struct progress progress;
    int rc = -1;
    struct tokenizer *t = tokenizer_load(r->model);

    if (t == NULL) goto done;
    for (int i = 0; i < total; i++) { /* before anything is printed */
        cell.tokens = length[i / count / n_depths];
        cell.depth = depth[i / count % n_depths];
        if (gen_check(&cell, t, i % count)) goto done;
    }
    if (output_open(&out, NULL)) goto done;
    progress_start(&progress, "gen", total);
    rc = 0;
    for (int i = 0; i < total && rc == 0; i++) {
        struct suite_line line;
        cell.tokens = length[i / count / n_depths];
        cell.depth = depth[i / count % n_depths];
        rc =
            r->text ? gen_text(&line, &cell, t, i % count) : gen_tokens(&line, &cell, t, i % count);
        if (rc) break;
        suite_line_write(out.f, &line);
        suite_line_free(&line);
        if (ferror(out.f)) break; /* output_close() says why */
        progress_show(&progress, i + 1);
    }
    progress_end(&progress);

done:
    rc = output_close(&out, rc);
    tokenizer_free(t);
    return rc;
}

int cmd_gen(int argc, char **argv)
{
    struct request r = {0};
    struct gen_options suite;
    struct synthetic set;
    int first = 0;
    const struct option_spec specs[] = {
        {"--model", OPT_STRING, &r.model, 0, 0},
        {"--tokens", OPT_SIZE, &r.tokens, 1, 1 << 24},
        {"--count", OPT_INT, &r.count, 1, 1000000},
        {"--seed", OPT_INT, &r.seed, 0, INT_MAX},
        {"--questions", OPT_INT, &r.questions, 1, GEN_MAX_QUESTIONS},
        {"--format", OPT_STRING, &r.format, 0, 0},
        {"--text", OPT_FLAG, &r.text, 0, 0},
        {"--chains", OPT_INT, &r.chains, 1, 64},
        {"--hops", OPT_INT, &r.hops, 1, 64},
        {"--lengths", OPT_SIZE_LIST, &r.lengths, 1, 1 << 24},
        {"--depths", OPT_DOUBLE_LIST, &r.depths, 0, 1},
        {"--benchmark", OPT_STRING, &r.benchmark, 0, 0},
        {0},
    };
    int status = options_parse(argc, argv, specs, usage, &first);
    if (status >= 0) goto done;
    if (argc - first > 1) {
        status = usage_error(argv[0], "expected one task, found %d", argc - first);
        goto done;
    }
    r.task = first < argc ? argv[first] : NULL;
    status = r.benchmark ? check_benchmark(argv[0], &r, &set) : check_suite(argv[0], &r, &suite);
    if (status) goto done;
    status = (r.benchmark ? print_benchmark(&r, &set) : print_suite(&r, suite)) ? 1 : 0;

done:
    free(r.lengths.v);
    free(r.depths.v);
    return status;
}
