/* eval.c - okv eval: how many answers of a suite a method keeps. */
#include "core/cmd/cmd.h"
#include "core/cmd/eval_benchmark.h"
#include "core/cmd/eval_sweep.h"
#include "core/cmd/walk.h"

#include "core/base/base.h"

#include <stdlib.h>

static const char usage[] =
    "Usage: okv eval --model DIR --config FILE --data SUITE.jsonl [--out FILE.json] [OPTIONS]\n"
    "       okv eval --model DIR --config [LABEL=]FILE... [--budgets N,...] --data SUITE.jsonl "
    "[OPTIONS]\n"
    "       okv eval --model DIR --config FILE --benchmark NAME --data DIR --out DIR [OPTIONS]\n"
    "Scores a method on prompts with known answers. A line is one JSON object:\n"
    "  {\"task\", \"ids\", \"n_prefill\", \"spans\": [[a, b], ...]}  token level: ids[0:n_prefill] "
    "is\n"
    "      prefilled, the rest fed as it stands; an answer is exact when each of ids[a:b-1] is "
    "the\n"
    "      argmax before it (the stop token ids[b-1] is not judged)\n"
    "  {\"task\", \"prompt\", \"answers\": [...]}  text level: greedy generation, in which an "
    "answer\n"
    "      must occur, or with \"match\": \"all\" every answer; with \"each\" every answer counts\n"
    "      by itself (RULER's score)\n"
    "Prints per task: correct, total, accuracy, and the mean negative log likelihood (nats) of "
    "the\n"
    "judged tokens. Several --config, or --budgets, give one table of all of them: method, "
    "budget,\n"
    "task, correct, total, accuracy, low and high (Wilson's interval at 95 %), "
    "nll.\n\n" ENGINE_USAGE_BUT_CONFIG "  --config [LABEL=]FILE  how to decode: the original's "
    "JSON keys (docs/config.md) [dense]; may be\n"
    "                  repeated, LABEL is its name in the table [its method]\n"
    "  --budgets N,... tokens of the prompt that each method keeps or selects, such as 32,64,1K, "
    "in\n"
    "                  place of the config's own; a method without a budget runs once\n"
    "  --data FILE     the suite; \"-\" is stdin\n"
    "  --out FILE      the same as JSON; of several configs or budgets the table, not on stdout\n"
    "  --max-new N     tokens generated for a text-level line [64]\n"
    "  --chat-format F wrap text-level prompts: llama3, chatml, llama2, mistral, none\n"
    "\n" BENCHMARK_USAGE;

/* The table of one config on stdout, and as JSON in S->out. The exit status. */
static int eval_one(const char *name, const struct engine_args *args, const struct sweep_args *s,
                    int argc, char **argv)
{
    struct engine e;
    struct method *method = NULL;
    struct tracer *tracer = NULL;
    struct suite *suite = NULL;
    struct tally *tally = NULL;
    struct output json = {0};
    int rc, status = 1;
    if ((rc = engine_open(&e, name, args)) != 0) return rc;
    if ((suite = suite_load(s->data, e.model.config.V)) == NULL) goto done;
    if ((method = method_open(&e.config, &e.model)) == NULL) goto done;
    if (s->out && output_open(&json, s->out)) goto done;
    tracer = tracer_from_environment(&e, method, argc, argv, &rc);
    if (rc) goto done;
    tally = xcalloc((size_t)suite->n_tasks, sizeof *tally);
    const struct variant one = {.config = &e.config, .tally = tally};
    rc = walk_suite(&(struct walk){.engine = &e,
                                   .variant = &one,
                                   .n_variants = 1,
                                   .method = method,
                                   .suite = suite,
                                   .tracer = tracer,
                                   .chat = s->chat,
                                   .max_new = s->max_new});
    if (tracer_close(tracer, rc)) goto done;

    char *notes = xprintf("model %s, method %s, %d of %d layers full\n"
                          "correct, total: answers; nll: nats per judged token",
                          e.model.config.name, method_name(e.config.method), method->full_layers,
                          e.model.config.L);
    table_head(stdout, argc, argv, notes);
    free(notes);
    tally_table(stdout, suite, tally);
    if (s->out) tally_json(json.f, suite, tally);
    status = 0;

done:
    if (output_close(&json, status)) status = 1;
    if (output_close(&(struct output){.f = stdout}, status)) status = 1;
    free(tally);
    method_close(method);
    suite_free(suite);
    engine_close(&e);
    return status;
}

int cmd_eval(int argc, char **argv)
{
    struct engine_args args = {0};
    struct benchmark_args b = {0};
    struct sweep_args sweep = {.max_new = 64};
    const char *data = NULL, *out = NULL, *chat = NULL;
    int max_new = 0, first, status;
    const struct option_spec options[] = {
        ENGINE_OPTIONS_BUT_CONFIG(args),
        {"--config", OPT_STRINGS, &sweep.configs, 0, 0},
        {"--budgets", OPT_SIZE_LIST, &sweep.budgets, 1, 1 << 30},
        {"--data", OPT_STRING, &data, 0, 0},
        {"--out", OPT_STRING, &out, 0, 0},
        {"--max-new", OPT_INT, &max_new, 1, 1 << 20},
        {"--chat-format", OPT_STRING, &chat, 0, 0},
        {"--benchmark", OPT_STRING, &b.name, 0, 0},
        {"--task", OPT_STRING, &b.tasks, 0, 0},
        {"--shard", OPT_STRING, &b.shard, 0, 0},
        {"--max-samples", OPT_INT, &b.max_samples, 1, 1 << 30},
        {"--chat-all", OPT_FLAG, &b.chat_all, 0, 0},
        {"--no-reserve", OPT_FLAG, &b.no_reserve, 0, 0},
        {"--sample-sums", OPT_FLAG, &b.sample_sums, 0, 0},
        {0},
    };
    if ((status = options_parse(argc, argv, options, usage, &first)) >= 0) goto done;
    status = 2;
    if (first < argc) {
        usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);
    } else if (data == NULL) {
        usage_error(argv[0], "--data %s is needed", b.name ? "DIR" : "SUITE.jsonl");
    } else if (b.name && (sweep.configs.n > 1 || sweep.budgets.n)) {
        usage_error(argv[0], "--benchmark runs one --config a call, without --budgets");
    } else if (sweep.budgets.n && sweep.configs.n == 0) {
        usage_error(argv[0], "--budgets needs --config: without one decoding is dense");
    } else if (b.name) {
        b.data = data;
        b.out = out;
        b.chat = chat;
        b.max_new = max_new;
        if (sweep.configs.n) args.config = config_file(sweep.configs.v[0]);
        status = eval_benchmark(argv[0], &args, &b, argc, argv);
    } else if (b.tasks || b.shard || b.max_samples || b.chat_all || b.no_reserve || b.sample_sums) {
        usage_error(argv[0], "--task, --shard, --max-samples, --chat-all, --no-reserve and "
                             "--sample-sums need --benchmark");
    } else if (chat == NULL || chat_format_parse(chat, &(enum chat_format){CHAT_NONE}) == 0) {
        sweep.data = data;
        sweep.out = out;
        sweep.chat = chat;
        if (max_new) sweep.max_new = max_new;
        if (sweep.configs.n) args.config = config_file(sweep.configs.v[0]);
        status = (sweep.configs.n > 1 || sweep.budgets.n ? eval_sweep : eval_one)(
            argv[0], &args, &sweep, argc, argv);
    }

done:
    free(sweep.configs.v);
    free(sweep.budgets.v);
    return status;
}
