/* gen.c - okv gen: make synthetic long-context tasks. */
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/cmd/cmd.h"
#include "core/task/gen.h"

#include <limits.h>
#include <string.h>

static const char usage[] =
    "Usage: okv gen TASK --model DIR [--tokens N] [--count M] [--seed S] [OPTIONS]\n"
    "Prints M lines of a suite: prompts of about N tokens with known answers, for okv eval, trace\n"
    "and search. The same options give the same lines, whatever M is.\n"
    "  TASK           passkey   keys of towns buried in prose\n"
    "                 kv        hexadecimal pairs of a JSON object\n"
    "                 twostage  add two numbers, look the sum up in a dict\n"
    "                 hops      chains of acquaintances buried in prose\n"
    "  --model DIR    the model whose tokenizer and chat format are used\n"
    "  --tokens N     length of a line, questions and answers included [1500]\n"
    "  --count M      lines [8]\n"
    "  --seed S       [0]\n"
    "  --questions Q  a line, 1 to 8 [3; 1 with --text]\n"
    "  --format F     raw, chat or mixed: six in ten raw [mixed; raw with --text]\n"
    "  --text         text-level lines: a prompt and the word its answer must contain\n";

/* Index of NAME in the NULL-terminated list, or -1. */
static int find_name(const char *name, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

int cmd_gen(int argc, char **argv)
{
    const char *model = NULL, *format = NULL;
    int tokens = 1500, count = 8, seed = 0, questions = 0, first = 0;
    bool text = false;
    const struct option_spec specs[] = {
        {"--model", OPT_STRING, &model, 0, 0},
        {"--tokens", OPT_SIZE, &tokens, 1, 1 << 24},
        {"--count", OPT_INT, &count, 1, 1000000},
        {"--seed", OPT_INT, &seed, 0, INT_MAX},
        {"--questions", OPT_INT, &questions, 1, GEN_MAX_QUESTIONS},
        {"--format", OPT_STRING, &format, 0, 0},
        {"--text", OPT_FLAG, &text, 0, 0},
        {0},
    };
    int status = options_parse(argc, argv, specs, usage, &first);
    if (status >= 0) return status;
    if (argc - first != 1)
        return usage_error(argv[0], "expected one task (passkey, kv, twostage or hops), found %d",
                           argc - first);
    int task = find_name(argv[first], gen_task_names);
    if (task < 0)
        return usage_error(argv[0],
                           "expected a task of passkey, kv, twostage and hops, found \"%s\"",
                           argv[first]);
    if (format == NULL) format = text ? "raw" : "mixed";
    int form = find_name(format, gen_format_names);
    if (form < 0)
        return usage_error(argv[0], "--format: expected raw, chat or mixed, found \"%s\"", format);
    if (model == NULL) return usage_error(argv[0], "--model is needed: its tokenizer is used");
    if (text && form == GEN_MIXED)
        return usage_error(argv[0], "--text makes lines of one format: --format raw or chat");
    if (text && questions > 1)
        return usage_error(argv[0], "--text asks one question a line, found --questions %d",
                           questions);
    if (questions == 0) questions = text ? 1 : 3;

    const struct gen_options o = {.task = (enum gen_task)task,
                                  .format = (enum gen_format)form,
                                  .tokens = tokens,
                                  .questions = questions,
                                  .seed = (uint64_t)seed};
    struct output out = {0};
    struct progress progress;
    int rc = -1;
    struct tokenizer *t = tokenizer_load(model);
    if (t == NULL) goto done;
    for (int i = 0; i < count; i++)
        if (gen_check(&o, t, i)) goto done; /* before anything is printed */
    if (output_open(&out, NULL)) goto done;
    progress_start(&progress, "gen", count);
    rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        struct suite_line line;
        if ((rc = text ? gen_text(&line, &o, t, i) : gen_tokens(&line, &o, t, i)) != 0) break;
        suite_line_write(out.f, &line);
        suite_line_free(&line);
        if (ferror(out.f)) break; /* output_close() says why */
        progress_show(&progress, i + 1);
    }
    progress_end(&progress);

done:
    rc = output_close(&out, rc);
    tokenizer_free(t);
    return rc ? 1 : 0;
}
