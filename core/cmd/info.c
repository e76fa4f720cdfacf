/* info.c - okv info: describe a model and what running it takes. */
#include "core/cmd/cmd.h"
#include "core/cmd/common.h"

#include "core/base/base.h"

#include <stdlib.h>

static const char usage[] =
    "Usage: okv info (--model DIR | --shape NAME) [--context N,N,...] [--json]\n"
    "Describes a checkpoint: family, shape, RoPE, memory of weights and of keys and values; and\n"
    "checks every tensor of it against its config.json.\n"
    "  --model DIR     Hugging Face checkpoint\n"
    "  --shape NAME    llama-3-8b, llama-3-70b, pocket, or a config.json: nothing is loaded\n"
    "  --context N,... contexts, in tokens, to give the memory for [4096,32768,131072]\n"
    "  --json          the same as one JSON object\n";

int cmd_info(int argc, char **argv)
{
    const char *dir = NULL, *shape = NULL;
    struct int_list contexts = {0};
    bool json = false;
    int first, status;
    const struct option_spec options[] = {
        {"--model", OPT_STRING, &dir, 0, 0},
        {"--shape", OPT_STRING, &shape, 0, 0},
        {"--context", OPT_INT_LIST, &contexts, 1, 1 << 30},
        {"--json", OPT_FLAG, &json, 0, 0},
        {0},
    };
    struct model m = {0};
    cJSON *o = cJSON_CreateObject();
    if ((status = options_parse(argc, argv, options, usage, &first)) >= 0) goto done;
    if (!dir == !shape || first < argc) {
        status =
            first < argc
                ? usage_error(argv[0], "unexpected argument \"%s\"", argv[first])
                : usage_error(argv[0], "exactly one of --model DIR and --shape NAME is needed");
        goto done;
    }
    status = 1;
    if (dir ? model_open(&m, dir, NULL, "cpu") : model_config_shape(&m.config, shape)) goto done;

    const struct model_config *c = &m.config;
    const int usual[] = {4096, 32768, 131072};
    const double parameters = model_config_parameters(c);
    cJSON_AddStringToObject(o, "model", c->name);
    cJSON_AddStringToObject(o, "family", model_family_name(c->family));
    cJSON_AddNumberToObject(o, "layers", c->L);
    cJSON_AddNumberToObject(o, "hidden", c->E);
    cJSON_AddNumberToObject(o, "query_heads", c->H);
    cJSON_AddNumberToObject(o, "kv_heads", c->G);
    cJSON_AddNumberToObject(o, "head_dim", c->D);
    cJSON_AddNumberToObject(o, "feed_forward", c->F);
    cJSON_AddNumberToObject(o, "vocabulary", c->V);
    cJSON_AddNumberToObject(o, "parameters", parameters);
    cJSON_AddStringToObject(o, "rope", rope_kind_name(c->rope.kind));
    cJSON_AddNumberToObject(o, "rope_theta", c->rope.theta);
    cJSON_AddNumberToObject(o, "context_limit", model_config_limit(c));
    cJSON_AddItemToObject(o, "stop_tokens", cJSON_CreateIntArray(c->eos, c->n_eos));
    if (m.weights) {
        cJSON_AddStringToObject(o, "dtype", dtype_name(m.weights->dtype));
        cJSON_AddNumberToObject(o, "weight_bytes", m.weights->bytes);
        cJSON_AddStringToObject(o, "fingerprint", m.weights->fingerprint);
    }
    for (int i = 0; i < (contexts.v ? contexts.n : (int)COUNT_OF(usual)); i++) {
        const int n = contexts.v ? contexts.v[i] : usual[i];
        char *key = xprintf("kv_bytes_%d", n);
        const struct session_plan plan = {.room = n};
        double bytes, pinned;
        ops_cpu(NULL)->session_bytes(c, &plan, &bytes, &pinned);
        cJSON_AddNumberToObject(o, key, bytes);
        free(key);
    }
    if (json) {
        char *text = cJSON_PrintUnformatted(o);
        puts(text);
        cJSON_free(text);
    } else {
        table_head(stdout, argc, argv,
                   "bytes as the CPU engine holds them: keys and values in float32");
        printf("what\tvalue\n");
        for (const cJSON *i = o->child; i; i = i->next) {
            char *text = cJSON_IsString(i) ? xstrdup(i->valuestring) : cJSON_PrintUnformatted(i);
            printf("%s\t%s\n", i->string, text);
            free(text);
        }
    }
    status = 0;

done:
    if (output_close(&(struct output){.f = stdout}, status)) status = status ? status : 1;
    cJSON_Delete(o);
    free(contexts.v);
    model_close(&m);
    return status;
}
