/* trace.c - okv trace: decode and record what every layer attends to. */
#include "core/cmd/cmd.h"
#include "core/cmd/walk.h"

#include "core/base/base.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv trace --model DIR [--config FILE] (--data FILE.jsonl | --prompt-file FILE |\n"
    "                 --ids FILE.json) --out FILE.h5 [OPTIONS]\n"
    "Decodes after a dense prefill and records, at every step, what every layer attends to\n"
    "(docs/dump-format.md). Without --config it decodes densely. Lines of FILE.jsonl with \"ids\" "
    "are\n"
    "fed as they stand: the steps are the tokens from n_prefill on. Prompts are decoded "
    "greedily.\n\n" ENGINE_USAGE
    "  --data FILE     suite of prompts, one JSON object a line (okv eval --help); \"-\" is stdin\n"
    "  --prompt-file FILE  one prompt, as text\n"
    "  --ids FILE      one prompt, as a JSON list of token ids, fed as it stands\n"
    "  --out FILE      the dump; finished samples wait in FILE.part/ until the run is whole\n"
    "  --fields A,B    what to record: mass, score, topk, selected_idx, attn, importance,\n"
    "                  reuse_error, prefill_score [mass,score,topk,importance, and selected_idx "
    "where the\n"
    "                  method selects]\n"
    "  --top N         entries of topk [256]\n"
    "  --reuse-k N     selected tokens of reuse_error [32]\n"
    "  --attn-rows R   attn by head, or summed by kv_head [head]\n"
    "  --f32           4-byte floats for mass, score, topk_mass and attn [2-byte]\n"
    "  --max-new N     tokens decoded for a prompt [32]\n"
    "  --ignore-eos    decode past stop tokens\n"
    "  --chat-format F wrap prompts: llama3, chatml, llama2, mistral, none\n"
    "  --resume        go on after the last whole sample of an interrupted run\n";

/* One prompt as a suite of one line. */
static struct suite *one_line(struct engine *e, const char *prompt_file, const char *ids_file,
                              const char *chat)
{
    int *ids = NULL, n = 0;
    if (ids_file ? engine_ids(e, ids_file, &ids, &n)
                 : engine_prompt(e, NULL, prompt_file, chat, &ids, &n))
        return NULL;
    struct suite *s = xcalloc(1, sizeof *s);
    s->line = xcalloc(1, sizeof *s->line);
    s->task = xcalloc(1, sizeof *s->task);
    s->n = s->n_tasks = 1;
    s->task[0] = xstrdup("prompt");
    s->line[0] = (struct suite_line){.task = xstrdup("prompt"), .ids = ids, .n = n, .n_prefill = n};
    return s;
}

int cmd_trace(int argc, char **argv)
{
    struct engine_args args = {0};
    struct trace_spec spec = {.argc = argc, .argv = argv};
    const char *data = NULL, *prompt = NULL, *ids = NULL, *chat = NULL;
    int max_new = 32, first, rc, status = 1;
    bool ignore_eos = false;
    const struct option_spec options[] = {
        ENGINE_OPTIONS(args),
        {"--data", OPT_STRING, &data, 0, 0},
        {"--prompt-file", OPT_STRING, &prompt, 0, 0},
        {"--ids", OPT_STRING, &ids, 0, 0},
        {"--out", OPT_STRING, &spec.path, 0, 0},
        {"--fields", OPT_STRING, &spec.fields, 0, 0},
        {"--top", OPT_INT, &spec.top, 1, 1 << 20},
        {"--reuse-k", OPT_INT, &spec.reuse_k, 1, 1 << 20},
        {"--attn-rows", OPT_STRING, &spec.attn, 0, 0},
        {"--f32", OPT_FLAG, &spec.f32, 0, 0},
        {"--max-new", OPT_INT, &max_new, 1, 1 << 20},
        {"--ignore-eos", OPT_FLAG, &ignore_eos, 0, 0},
        {"--chat-format", OPT_STRING, &chat, 0, 0},
        {"--resume", OPT_FLAG, &spec.resume, 0, 0},
        {0},
    };
    if ((rc = options_parse(argc, argv, options, usage, &first)) >= 0) return rc;
    if (first < argc) return usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);
    if (!data + !prompt + !ids != 2)
        return usage_error(argv[0], "exactly one of --data, --prompt-file and --ids is needed");
    if (chat && ids)
        return usage_error(argv[0], "--chat-format wraps text; --ids is fed as it stands");
    if (chat && chat_format_parse(chat, &(enum chat_format){CHAT_NONE})) return 2;
    if (spec.path == NULL || *spec.path == 0)
        return usage_error(argv[0], "--out FILE.h5 is needed");

    struct engine e;
    struct method *method = NULL;
    struct tracer *tracer = NULL;
    struct suite *suite = NULL;
    if ((rc = engine_open(&e, argv[0], &args)) != 0) return rc;
    if ((suite = data ? suite_load(data, e.model.config.V) : one_line(&e, prompt, ids, chat)) ==
        NULL)
        goto done;
    if (engine_tokenizer(&e, false)) goto done;
    if ((method = method_open(&e.config, &e.model)) == NULL) goto done;
    if ((tracer = tracer_open(&spec, &e, method)) == NULL) goto done;
    rc = walk_suite(&(struct walk){.engine = &e,
                                   .variant = &(struct variant){.config = &e.config},
                                   .n_variants = 1,
                                   .method = method,
                                   .suite = suite,
                                   .tracer = tracer,
                                   .chat = chat,
                                   .max_new = max_new,
                                   .ignore_eos = ignore_eos,
                                   .decode_ids = data == NULL});
    status = tracer_close(tracer, rc) ? 1 : 0;

done:
    method_close(method);
    suite_free(suite);
    engine_close(&e);
    return status;
}
