/* generate.c - okv generate: continue a prompt. */
#include "core/cmd/cmd.h"
#include "core/cmd/common.h"

#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv generate --model DIR [--config FILE] (--prompt TEXT | --prompt-file FILE |\n"
    "                    --ids FILE.json) [OPTIONS]\n"
    "Continues a prompt, greedily unless a sampling option is given, and prints the new text as "
    "it\n"
    "comes.\n\n" ENGINE_USAGE "  --prompt TEXT, --prompt-file FILE   the prompt; BOS is added\n"
    "  --ids FILE      the prompt as a JSON list of token ids, fed as it stands\n"
    "  --max-new N     tokens generated at most [128]\n"
    "  --ignore-eos    go on past stop tokens\n"
    "  --chat-format F wrap the prompt as one user message: llama3, chatml, llama2, mistral, none\n"
    "                  [none; the model's own when the config says use_chat_template]\n"
    "  --temperature T, --top-k N, --top-p P, --seed N   sampling; --seed alone samples at T = 1\n"
    "  --json          print one object: ids, text, finish_reason, prompt_tokens, prefill_s,\n"
    "                  decode_s\n";

struct stream {
    const struct tokenizer *t;
    int *ids, n;
    size_t shown;
};

/* Shows what is whole so far: a token may end inside a UTF-8 character. */
static int emit(void *ctx, int token)
{
    struct stream *s = ctx;
    size_t size;
    s->ids[s->n++] = token;
    if (s->t == NULL) {
        printf("%s%d", s->n > 1 ? " " : "", token);
        return fflush(stdout) ? fail("standard output: cannot be written") : 0;
    }
    char *text = tokenizer_decode(s->t, s->ids, s->n, true, &size, NULL);
    if (text == NULL) return -1;
    const size_t whole = utf8_whole(text, size);
    if (whole > s->shown) {
        fwrite(text + s->shown, 1, whole - s->shown, stdout);
        s->shown = whole;
    }
    free(text);
    return fflush(stdout) ? fail("standard output: cannot be written") : 0;
}

/* TEXT [SIZE] as a JSON string, in new memory; cJSON would end it at a NUL byte. */
static char *json_quoted(const char *text, size_t size)
{
    char *valid = valid_text(text, &size), *out = xmalloc(6 * size + 3), *end = out;
    *end++ = '"';
    for (const char *c = valid; c < valid + size; c++) {
        if ((unsigned char)*c < 0x20 || *c == '"' || *c == '\\')
            end += sprintf(end, "\\u%04x", (unsigned char)*c);
        else
            *end++ = *c;
    }
    *end++ = '"';
    *end = 0;
    free(valid);
    return out;
}

static void print_json(const int *ids, int n, const char *text, size_t size, bool stopped,
                       int prompt, double prefill_s, double decode_s)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToObject(o, "ids", cJSON_CreateIntArray(ids, n));
    if (text) {
        char *quoted = json_quoted(text, size);
        cJSON_AddRawToObject(o, "text", quoted);
        free(quoted);
    } else {
        cJSON_AddNullToObject(o, "text");
    }
    cJSON_AddStringToObject(o, "finish_reason", stopped ? "stop" : "length");
    cJSON_AddNumberToObject(o, "prompt_tokens", prompt);
    cJSON_AddNumberToObject(o, "prefill_s", prefill_s);
    cJSON_AddNumberToObject(o, "decode_s", decode_s);
    char *line = cJSON_PrintUnformatted(o);
    puts(line);
    cJSON_free(line);
    cJSON_Delete(o);
}

int cmd_generate(int argc, char **argv)
{
    struct engine_args args = {0};
    const char *prompt = NULL, *file = NULL, *ids_file = NULL, *chat = NULL;
    double temperature = -1, top_p = 1;
    int max_new = 128, top_k = 0, seed = -1, first, rc, status = 1;
    bool ignore_eos = false, json = false;
    const struct option_spec options[] = {
        ENGINE_OPTIONS(args),
        {"--prompt", OPT_STRING, &prompt, 0, 0},
        {"--prompt-file", OPT_STRING, &file, 0, 0},
        {"--ids", OPT_STRING, &ids_file, 0, 0},
        {"--max-new", OPT_INT, &max_new, 1, 1 << 20},
        {"--ignore-eos", OPT_FLAG, &ignore_eos, 0, 0},
        {"--chat-format", OPT_STRING, &chat, 0, 0},
        {"--temperature", OPT_DOUBLE, &temperature, 0, 1000},
        {"--top-k", OPT_INT, &top_k, 1, 1 << 30},
        {"--top-p", OPT_DOUBLE, &top_p, 1e-9, 1},
        {"--seed", OPT_INT, &seed, 0, 2147483647},
        {"--json", OPT_FLAG, &json, 0, 0},
        {0},
    };
    if ((rc = options_parse(argc, argv, options, usage, &first)) >= 0) return rc;
    if (first < argc) return usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);
    if (!prompt + !file + !ids_file != 2)
        return usage_error(argv[0], "exactly one of --prompt, --prompt-file and --ids is needed");
    if (chat && ids_file)
        return usage_error(argv[0], "--chat-format wraps text; --ids is fed as it stands");
    if (chat && chat_format_parse(chat, &(enum chat_format){CHAT_NONE})) return 2;

    struct engine e;
    struct method *method = NULL;
    struct session *session = NULL;
    struct tracer *tracer = NULL;
    struct sampler sampler = {0};
    int *ids = NULL, n = 0, *out = NULL, count = 0;
    float *nll = NULL;
    char *text = NULL;
    size_t size = 0;
    const float *logits;
    if ((rc = engine_open(&e, argv[0], &args)) != 0) return rc;
    const bool samples = temperature > 0 || (temperature < 0 && (top_k || top_p < 1 || seed >= 0));
    sampler_open(&sampler,
                 (struct sampling){.temperature = !samples          ? 0
                                                  : temperature < 0 ? 1
                                                                    : temperature,
                                   .top_k = top_k,
                                   .top_p = top_p,
                                   .seed = seed >= 0 ? (uint64_t)seed : e.config.seed},
                 e.model.config.V);
    if (ids_file ? engine_ids(&e, ids_file, &ids, &n)
                 : engine_prompt(&e, prompt, file, chat, &ids, &n))
        goto done;
    if (ids_file && engine_tokenizer(&e, false)) goto done;
    if ((method = method_open(&e.config, &e.model)) == NULL) goto done;
    if ((session = engine_session_told(&e, &method, 1, n + max_new, max_new)) == NULL) goto done;
    tracer = tracer_from_environment(&e, method, argc, argv, &rc);
    if (rc) goto done;

    out = xmalloc((size_t)(n + max_new) * sizeof *out);
    nll = xmalloc((size_t)max_new * sizeof *nll);
    memcpy(out, ids, (size_t)n * sizeof *out);
    struct stream stream = {e.tokenizer, xmalloc((size_t)max_new * sizeof(int)), 0, 0};
    const double start = clock_seconds();
    double middle = start;
    rc = tracer ? tracer_begin(tracer, 0, "prompt", ids, n, n + max_new, max_new) : 0;
    if (rc == 0) rc = method_prefill(method, session, ids, n, tracer_hooks(tracer), &logits);
    if (rc == 0) {
        middle = clock_seconds();
        rc = decode_free(session, method, tracer_hooks(tracer), logits, max_new, e.model.config.eos,
                         ignore_eos ? 0 : e.model.config.n_eos, &sampler, out + n, nll, &count,
                         json ? NULL : emit, &stream);
    }
    const double end = clock_seconds();
    free(stream.ids);
    if (rc == 0 && e.tokenizer &&
        (text = tokenizer_decode(e.tokenizer, out + n, count, true, &size, NULL)) == NULL)
        rc = -1;
    if (rc == 0 && tracer) rc = tracer_end(tracer, &e, out, n + count, nll, text ? text : "", "");
    if (tracer_close(tracer, rc)) goto done;

    bool stopped = false;
    for (int i = 0; i < e.model.config.n_eos && count; i++)
        stopped = stopped || (!ignore_eos && out[n + count - 1] == e.model.config.eos[i]);
    if (json)
        print_json(out + n, count, text, size, stopped, n, middle - start, end - middle);
    else
        putchar('\n');
    if (method->report) method->report(method);
    status = 0;

done:
    if (output_close(&(struct output){.f = stdout}, status)) status = 1;
    sampler_close(&sampler);
    free(ids);
    free(out);
    free(nll);
    free(text);
    session_close(session);
    method_close(method);
    engine_close(&e);
    return status;
}
