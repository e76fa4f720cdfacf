/* eval.c - okv eval: how many answers of a suite a method keeps. */
#include "core/cmd/cmd.h"
#include "core/cmd/walk.h"

#include "core/base/base.h"

#include <stdlib.h>

static const char usage[] =
    "Usage: okv eval --model DIR --config FILE --data SUITE.jsonl [--out FILE.json] [OPTIONS]\n"
    "Scores a method on prompts with known answers. A line is one JSON object:\n"
    "  {\"task\", \"ids\", \"n_prefill\", \"spans\": [[a, b], ...]}  token level: ids[0:n_prefill] "
    "is\n"
    "      prefilled, the rest fed as it stands; an answer is exact when each of ids[a:b-1] is "
    "the\n"
    "      argmax before it (the stop token ids[b-1] is not judged)\n"
    "  {\"task\", \"prompt\", \"answers\": [...]}  text level: greedy generation, in which an "
    "answer\n"
    "      must occur\n"
    "Prints per task: correct, total, accuracy, and the mean negative log likelihood (nats) of "
    "the\n"
    "judged tokens.\n\n" ENGINE_USAGE "  --data FILE     the suite; \"-\" is stdin\n"
    "  --out FILE      the same as JSON\n"
    "  --max-new N     tokens generated for a text-level line [64]\n"
    "  --chat-format F wrap text-level prompts: llama3, chatml, llama2, mistral, none\n";

int cmd_eval(int argc, char **argv)
{
    struct engine_args args = {0};
    const char *data = NULL, *out = NULL, *chat = NULL;
    int max_new = 64, first, rc, status = 1;
    const struct option_spec options[] = {
        ENGINE_OPTIONS(args),
        {"--data", OPT_STRING, &data, 0, 0},
        {"--out", OPT_STRING, &out, 0, 0},
        {"--max-new", OPT_INT, &max_new, 1, 1 << 20},
        {"--chat-format", OPT_STRING, &chat, 0, 0},
        {0},
    };
    if ((rc = options_parse(argc, argv, options, usage, &first)) >= 0) return rc;
    if (first < argc) return usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);
    if (data == NULL) return usage_error(argv[0], "--data SUITE.jsonl is needed");
    if (chat && chat_format_parse(chat, &(enum chat_format){CHAT_NONE})) return 2;

    struct engine e;
    struct method *method = NULL;
    struct tracer *tracer = NULL;
    struct suite *suite = NULL;
    struct tally *tally = NULL;
    struct output json = {0};
    if ((rc = engine_open(&e, argv[0], &args)) != 0) return rc;
    if ((suite = suite_load(data, e.model.config.V)) == NULL) goto done;
    if ((method = method_open(&e.config, &e.model)) == NULL) goto done;
    if (out && output_open(&json, out)) goto done;
    tracer = tracer_from_environment(&e, method, argc, argv, &rc);
    if (rc) goto done;
    tally = xcalloc((size_t)suite->n_tasks, sizeof *tally);
    rc = walk_suite(&(struct walk){.engine = &e,
                                   .method = method,
                                   .suite = suite,
                                   .tracer = tracer,
                                   .chat = chat,
                                   .max_new = max_new,
                                   .tally = tally});
    if (tracer_close(tracer, rc)) goto done;

    char *notes = xprintf("model %s, method %s, %d of %d layers full\n"
                          "correct, total: answers; nll: nats per judged token",
                          e.model.config.name, method_name(e.config.method), method->full_layers,
                          e.model.config.L);
    table_head(stdout, argc, argv, notes);
    free(notes);
    tally_table(stdout, suite, tally);
    if (out) tally_json(json.f, suite, tally);
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
