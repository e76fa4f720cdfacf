/* run_config.c - the original's JSON configs: every key honoured, or refused by name. */
#include "core/method/run_config.h"
#include "core/method/run_config_read.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LAYER 9999      /* past any model; method_open() checks against the real one */
#define EXACT_DOUBLE 0x1p53 /* JSON numbers are doubles: whole numbers are exact up to here */
#define BUDGETS                                                                                    \
    "num_of_selected_tokens_" /* the original's budgets of single layers, by their index */

/* Keys of the run itself. */
static const char *const run_keys[] = {
    "model_name",
    "model_cls",
    "max_context_len",
    "cpu_num_threads",
    "use_flash_attn",
    "load_in_8bit",
    "load_in_4bit",
    "use_gptq",
    "use_multi_gpus",
    "n_gpu",
    "use_chat_template",
    "cot",
    "use_fixed_prompt",
    "rope_factor",
    "seed",
    "cache_cls",
    "do_select_layers",
    "num_wait_load_layers",
    "real_offload",
    "dense_more",
    "num_of_selected_tokens",
    "selector_cls",
    "window_size",
    "candidates",
    "refresh",
    "pool",
    "sinks",
    "recent",
    "use_sink_cache",
    "sink_window_length",
    "num_sink_tokens",
    "offload_sid",
    "hh_ratio",
    "recent_ratio",
    "hh_size",
    "recent_size",
    "seg_size",
    "skip_prefill",
    "evict",
    "first_step_dense",
    "page_size",
    "dense_layers",
    "correction_layer",
    "infllm_cfg_path",
    FAR_KEYS,
    "sparse_in_prefill",
    "max_len_can_hold",
    "attn_seg_sz",
    NULL,
};

/* Keys of config.json that the model loader reads: a run config may set any of them, as the
 * original copies every key onto the model's config. */
static const char *const model_keys[] = {
    "architectures",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
    NULL,
};

/* Keys of the original that mean something only to methods that are not built. */
static const struct {
    const char *key, *method;
} foreign[] = {
    {"decoder_start_layer_idx", "token"},
    {"ensure_head_tail_len", "token"},
    {"ntk_factor", "token"},
    {"skip_threshold", "once_offload"},
};

static const char *const method_names[] = {"dense",     "omnikv",     "window", "brutal_offload",
                                           "h2o",       "quest",      "tidal",  "infllm",
                                           "streaming", "infinite_lm"};
/* model_cls of the canonical form */
static const char *const class_names[] = {"raw_llama", "multi",      "raw_llama", "brutal_offload",
                                          "h2o",       "quest",      "tidal",     "infllm",
                                          "streaming", "infinite-lm"};
static const char *const selector_names[] = {"last", "softmax_before_last", "uniform", "exp", NULL};
static const char *const pool_names[] = {"all", "group", "none", NULL};
static const char *const candidate_names[] = {"prefill", "all", NULL};

static int check_keys(const char *name, const cJSON *root)
{
    const char *all[COUNT_OF(run_keys) + COUNT_OF(model_keys)];
    size_t n = 0;
    for (size_t i = 0; run_keys[i]; i++) all[n++] = run_keys[i];
    for (size_t i = 0; model_keys[i]; i++) all[n++] = model_keys[i];
    all[n] = NULL;

    for (const cJSON *c = root->child; c; c = c->next) {
        for (size_t i = 0; i < COUNT_OF(foreign); i++)
            if (strcmp(c->string, foreign[i].key) == 0)
                return fail("%s: \"%s\" belongs to model_cls %s, which is not in this version; "
                            "remove it",
                            name, c->string, foreign[i].method);
        if (strncmp(c->string, BUDGETS, strlen(BUDGETS)) == 0)
            return fail("%s: \"%s\": budgets of single layers belong to model_cls token, which is "
                        "not in this version; use \"num_of_selected_tokens\" for all",
                        name, c->string);
    }
    return json_known_keys(name, root, all);
}

int run_config_read_name(const char *name, const cJSON *root, const char *key,
                         const char *const *names, int *value)
{
    const char *text = NULL;
    char list[256] = "";
    if (json_string(name, root, key, &text)) return -1;
    if (text == NULL) return 0;
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            *value = i;
            return 0;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    }
    return fail("%s: \"%s\": expected one of %s, found \"%s\"", name, key, list, text);
}

/* Reads KEY as a number of tokens: below 1 a fraction of the prompt, from 1 a whole number. */
static int read_tokens(const char *name, const cJSON *root, const char *key, double *value)
{
    if (json_double(name, root, key, 0, INT_MAX, value)) return -1;
    if (*value >= 1 && *value != floor(*value))
        return fail("%s: \"%s\": expected a fraction below 1 or a whole number of tokens, found %g",
                    name, key, *value);
    return 0;
}

int run_config_refuse_true(const char *name, const cJSON *root, const char *key,
                           const char *instead)
{
    bool on = false;
    if (json_bool(name, root, key, &on)) return -1;
    return on ? fail("%s: \"%s\": true is not supported: %s", name, key, instead) : 0;
}

/* The order of the tests is the original's (infer.py, get_any_chat_api). */
static int read_method(const char *name, const cJSON *root, struct run_config *c)
{
    static const struct {
        const char *word;
        bool whole; /* must be all of model_cls, not only occur in it */
    } others[] = {{"token", true}, {"token_once", true}, {"once_offload", true}};
    static const struct {
        const char *word;
        enum method_kind method;
    } peers[] = {
        {"h2o", METHOD_H2O},
        {"quest", METHOD_QUEST},
        {"infllm", METHOD_INFLLM},
        {"tidal", METHOD_TIDAL},
        {"streaming", METHOD_STREAMING},
        {"infinite-lm", METHOD_INFINITE_LM},
    };
    const char *cls = NULL;
    bool sink_cache = false;
    if (json_string(name, root, "model_cls", &cls)) return -1;
    if (json_bool(name, root, "use_sink_cache", &sink_cache)) return -1;
    if (cls == NULL)
        return fail("%s: \"model_cls\" is missing: \"raw_llama\" decodes densely, \"multi\" is "
                    "OmniKV",
                    name);

    if (strcmp(cls, "brutal_offload") == 0) {
        c->method = METHOD_BRUTAL_OFFLOAD;
        return 0;
    }
    if (strstr(cls, "raw") || strstr(cls, "262")) {
        c->method = sink_cache ? METHOD_WINDOW : METHOD_DENSE;
        return 0;
    }
    for (size_t i = 0; i < COUNT_OF(peers); i++)
        if (strstr(cls, peers[i].word)) {
            c->method = peers[i].method;
            return run_config_refuse_true(
                name, root, "use_sink_cache",
                "it is a method of its own, with model_cls \"raw_llama\"");
        }
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (others[i].whole ? strcmp(cls, others[i].word) == 0
                            : strstr(cls, others[i].word) != NULL)
            return fail("%s: \"model_cls\": %s is not in this version; use \"multi\" (OmniKV), "
                        "\"raw_llama\" (dense), or \"raw_llama\" with \"use_sink_cache\": true",
                        name, others[i].word);
    if (strstr(cls, "multi") == NULL)
        return fail("%s: \"model_cls\": expected \"raw_llama\" (dense), \"multi\" (OmniKV), "
                    "\"brutal_offload\", \"h2o\", \"infllm\", \"streaming\", \"infinite-lm\", "
                    "\"quest\" or \"tidal\", found \"%s\"",
                    name, cls);
    if (sink_cache)
        return fail("%s: \"use_sink_cache\": true is a method of its own; use it with model_cls "
                    "\"raw_llama\", or set it to false",
                    name);
    c->method = METHOD_OMNIKV;
    return 0;
}

/* What every method reads, and the switches of the original that are not built. */
static int read_common(const char *name, const cJSON *root, struct run_config *c)
{
    static const char quantised[] = "weights run as the checkpoint stores them; set it to false";
    const char *model = NULL;
    bool fixed_prompt = true, ignored = false;
    double seed = (double)c->seed, unread = 0;
    int devices = 1;

    if (json_string(name, root, "model_name", &model) ||
        json_int(name, root, "max_context_len", 1, INT_MAX, &c->max_context) ||
        json_int(name, root, "cpu_num_threads", 1, 4096, &c->threads) ||
        json_bool(name, root, "use_flash_attn", &ignored) ||
        run_config_refuse_true(name, root, "load_in_8bit", quantised) ||
        run_config_refuse_true(name, root, "load_in_4bit", quantised) ||
        run_config_refuse_true(name, root, "use_gptq", quantised) ||
        run_config_refuse_true(name, root, "use_multi_gpus",
                               "a run uses one device; set it to false") ||
        json_int(name, root, "n_gpu", 0, 1, &devices) ||
        json_bool(name, root, "use_chat_template", &c->chat) ||
        run_config_refuse_true(
            name, root, "cot",
            "the original's wording is not part of this program: write the request for "
            "step-by-step reasoning into the prompt") ||
        json_bool(name, root, "use_fixed_prompt", &fixed_prompt) ||
        json_double(name, root, "rope_factor", -DBL_MAX, DBL_MAX, &c->rope_factor) ||
        json_double(name, root, "seed", 0, EXACT_DOUBLE, &seed) ||
        json_bool(name, root, "sparse_in_prefill", &ignored) ||
        json_double(name, root, "max_len_can_hold", -DBL_MAX, DBL_MAX, &unread) ||
        json_double(name, root, "attn_seg_sz", -DBL_MAX, DBL_MAX, &unread))
        return -1;
    if (model && *model == 0)
        return fail("%s: \"model_name\": expected a directory, found an empty string", name);
    if (!fixed_prompt)
        return fail("%s: \"use_fixed_prompt\": false is not supported: prompts are always used as "
                    "they stand; set it to true",
                    name);
    if (c->rope_factor > 0 && c->rope_factor < 1)
        return fail("%s: \"rope_factor\": expected at least 1, or -1 for none, found %g", name,
                    c->rope_factor);
    if (c->rope_factor <= 0) c->rope_factor = -1;
    if (seed != floor(seed))
        return fail("%s: \"seed\": expected a whole number, found %g", name, seed);
    c->seed = (uint64_t)seed;
    c->model = model ? xstrdup(model) : NULL;
    return 0;
}

/* "2,8,18", or the list [2, 8, 18]. */
static int read_layers(const char *name, const cJSON *root, struct run_config *c)
{
    static const char key[] = "do_select_layers";
    const cJSON *item = json_member(root, key);
    bool empty = false;
    if (item == NULL)
        return fail("%s: \"%s\" is missing: OmniKV needs its filter layers, such as \"2,8,18\"; "
                    "okv search finds them",
                    name, key);
    if (cJSON_IsString(item)) {
        empty = item->valuestring[strspn(item->valuestring, " ")] == 0;
        char *what = xprintf("%s: \"%s\"", name, key);
        int rc =
            empty ? 0
                  : parse_int_list(what, item->valuestring, 0, MAX_LAYER, &c->layers, &c->n_layers);
        free(what);
        if (rc) return -1;
    } else if (cJSON_IsArray(item)) {
        if (json_int_list(name, item, "\"do_select_layers\"", 0, MAX_LAYER, &c->layers,
                          &c->n_layers))
            return -1;
        empty = c->n_layers == 0;
    } else {
        return fail("%s: \"%s\": expected a string such as \"2,8,18\", found %s", name, key,
                    json_kind(item));
    }
    if (empty)
        return fail("%s: \"%s\": expected at least one filter layer, such as \"2,8,18\", found "
                    "none; model_cls \"raw_llama\" decodes densely",
                    name, key);
    for (int i = 1; i < c->n_layers; i++)
        if (c->layers[i] <= c->layers[i - 1])
            return fail("%s: \"%s\": expected layers in ascending order, found %d after %d", name,
                        key, c->layers[i], c->layers[i - 1]);
    return 0;
}

/* Types and ranges are checked for every method, so that a config stays valid when only its
 * model_cls changes; what only OmniKV asks for is asked only of OmniKV. */
static int read_omnikv(const char *name, const cJSON *root, struct run_config *c)
{
    const char *cache = "multi";
    bool dense_more = true;
    int selector = (int)c->selector, pool = (int)c->pool, candidates = c->candidates_all;

    if (json_string(name, root, "cache_cls", &cache) ||
        json_int(name, root, "num_wait_load_layers", 0, MAX_LAYER, &c->wait) ||
        json_bool(name, root, "real_offload", &c->real_offload) ||
        json_bool(name, root, "dense_more", &dense_more) ||
        read_tokens(name, root, "num_of_selected_tokens", &c->budget) ||
        run_config_read_name(name, root, "selector_cls", selector_names, &selector) ||
        json_int(name, root, "window_size", 1, INT_MAX, &c->window_size) ||
        run_config_read_name(name, root, "candidates", candidate_names, &candidates) ||
        json_int(name, root, "refresh", 1, INT_MAX, &c->refresh) ||
        run_config_read_name(name, root, "pool", pool_names, &pool) ||
        json_int(name, root, "sinks", 0, INT_MAX, &c->sinks) ||
        json_int(name, root, "recent", 0, INT_MAX, &c->recent) ||
        json_int(name, root, "offload_sid", 0, MAX_LAYER, &c->first_away))
        return -1;
    c->selector = (enum selector)selector;
    c->pool = (enum pool)pool;
    c->candidates_all = candidates == 1;
    if (c->budget <= 0)
        return fail("%s: \"num_of_selected_tokens\": expected a fraction above 0 or a whole number "
                    "from 1, found 0",
                    name);
    if (c->method != METHOD_OMNIKV && c->method != METHOD_TIDAL) return 0;
    if (c->budget >= 1 && (double)c->sinks + c->recent > c->budget)
        return fail("%s: \"sinks\" and \"recent\": expected at most num_of_selected_tokens (%.0f) "
                    "together, found %d and %d",
                    name, c->budget, c->sinks, c->recent);
    if (c->method == METHOD_TIDAL) return 0;

    c->apart = strcmp(cache, "without_pack") == 0;
    if (!c->apart && strcmp(cache, "multi") != 0)
        return fail("%s: \"cache_cls\": expected \"multi\" or \"without_pack\", found \"%s\"", name,
                    cache);
    if (!dense_more)
        return fail("%s: \"dense_more\": false is not supported (the original fails at its first "
                    "decode step); set it to true",
                    name);
    return read_layers(name, root, c);
}

static int read_window(const char *name, const cJSON *root, struct run_config *c)
{
    if (read_tokens(name, root, "sink_window_length", &c->window_recent) ||
        read_tokens(name, root, "num_sink_tokens", &c->window_sinks))
        return -1;
    if (c->method == METHOD_WINDOW && c->window_recent <= 0 && c->window_sinks <= 0)
        return fail("%s: \"sink_window_length\" and \"num_sink_tokens\": expected one of them "
                    "above 0, found both 0",
                    name);
    return 0;
}

static bool all_finite(const cJSON *item)
{
    bool ok = !cJSON_IsNumber(item) || isfinite(item->valuedouble);
    for (const cJSON *child = item->child; ok && child; child = child->next) ok = all_finite(child);
    return ok;
}

/* Copies the keys of config.json, null ones included: null is how a config takes rope_scaling
 * away. */
static int take_overrides(const char *name, const cJSON *root, struct run_config *c)
{
    for (size_t i = 0; model_keys[i]; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, model_keys[i]);
        if (item == NULL) continue;
        if (!all_finite(item))
            return fail("%s: \"%s\": expected finite numbers, found one out of range", name,
                        model_keys[i]);
        if (c->rope_factor > 0 && !cJSON_IsNull(item) &&
            (strcmp(model_keys[i], "rope_scaling") == 0 ||
             strcmp(model_keys[i], "rope_parameters") == 0))
            return fail("%s: \"rope_factor\" and \"%s\" both set the position scaling; keep one",
                        name, model_keys[i]);
        if (json_member(c->model_overrides, model_keys[i]))
            return fail("%s: \"%s\" and \"%s\" both set the rotation; keep one", name,
                        strcmp(model_keys[i], "rope_theta") == 0 ? "base" : "distance_scale",
                        model_keys[i]);
        if (c->model_overrides == NULL) c->model_overrides = cJSON_CreateObject();
        cJSON_AddItemToObject(c->model_overrides, model_keys[i], cJSON_Duplicate(item, true));
    }
    return 0;
}

static void set_defaults(struct run_config *c)
{
    *c = (struct run_config){
        .method = METHOD_DENSE,
        .rope_factor = -1,
        .seed = 42,
        .wait = 2,
        .budget = 4096,
        .selector = SELECT_SOFTMAX,
        .window_size = 16,
        .refresh = 1,
        .pool = POOL_ALL,
        .real_offload = true,
        .first_away = 12,
        .window_sinks = 128,
        .window_recent = 1024,
        .skip_prefill = true,
        .segment = 500,
        .page_size = 16,
        .dense_layers = 2,
        .correction_layer = -1,
    };
}

int run_config_parse(struct run_config *c, const char *name, const char *text)
{
    int rc = -1;
    cJSON *root = json_parse(name, text, strlen(text));

    set_defaults(c);
    if (root == NULL) goto done;
    if (!cJSON_IsObject(root)) {
        fail("%s: expected a JSON object, found %s", name, json_kind(root));
        goto done;
    }
    /* The class first: a config of another method is told so, not that its keys are foreign. */
    if (read_method(name, root, c) || check_keys(name, root) || read_common(name, root, c) ||
        read_omnikv(name, root, c) || read_window(name, root, c) ||
        run_config_read_peers(name, root, c) || take_overrides(name, root, c))
        goto done;
    run_config_refresh_json(c);
    rc = 0;

done:
    if (rc) run_config_free(c);
    cJSON_Delete(root);
    return rc;
}

int run_config_load(struct run_config *c, const char *path)
{
    size_t size;
    int rc = -1;
    if (path == NULL) return run_config_parse(c, "dense", "{\"model_cls\": \"raw_llama\"}");
    char *text = file_read(path, &size);
    memset(c, 0, sizeof *c);
    if (text && strlen(text) != size)
        fail("%s: expected JSON text, found a zero byte at %zu", path, strlen(text));
    else if (text)
        rc = run_config_parse(c, path, text);
    free(text);
    return rc;
}

void run_config_free(struct run_config *c)
{
    free(c->model);
    free(c->layers);
    free(c->json);
    cJSON_Delete(c->model_overrides);
    memset(c, 0, sizeof *c);
}

/* cJSON's own printing may lose the last digit. */
void run_config_add_number(cJSON *object, const char *key, double value)
{
    char text[40];
    int digits = 15;
    do snprintf(text, sizeof text, "%.*g", digits, value);
    while (strtod(text, NULL) != value && ++digits <= 17);
    cJSON_AddRawToObject(object, key, text);
}

static void add_layers(cJSON *object, const struct run_config *c)
{
    char *text = xmalloc((size_t)c->n_layers * 12 + 1), *end = text;
    *text = 0;
    for (int i = 0; i < c->n_layers; i++) end += sprintf(end, "%s%d", i ? "," : "", c->layers[i]);
    cJSON_AddStringToObject(object, "do_select_layers", text);
    free(text);
}

/* Left out: keys without effect on a result (cpu_num_threads, use_flash_attn ...), keys of other
 * methods, and model_name and max_context_len where the config leaves them open. */
void run_config_refresh_json(struct run_config *c)
{
    cJSON *o = cJSON_CreateObject();
    if (c->model) cJSON_AddStringToObject(o, "model_name", c->model);
    cJSON_AddStringToObject(o, "model_cls", class_names[c->method]);
    if (c->max_context) run_config_add_number(o, "max_context_len", c->max_context);
    cJSON_AddBoolToObject(o, "use_chat_template", c->chat);
    run_config_add_number(o, "rope_factor", c->rope_factor);
    run_config_add_number(o, "seed", (double)c->seed);
    if (c->method == METHOD_OMNIKV) {
        /* the original asks for these two */
        cJSON_AddStringToObject(o, "cache_cls", c->apart ? "without_pack" : "multi");
        cJSON_AddBoolToObject(o, "dense_more", true);
        add_layers(o, c);
        run_config_add_number(o, "num_wait_load_layers", c->wait);
        run_config_add_number(o, "num_of_selected_tokens", c->budget);
        cJSON_AddStringToObject(o, "selector_cls", selector_names[c->selector]);
        run_config_add_number(o, "window_size", c->window_size);
        cJSON_AddBoolToObject(o, "real_offload", c->real_offload);
        cJSON_AddStringToObject(o, "candidates", candidate_names[c->candidates_all]);
        run_config_add_number(o, "refresh", c->refresh);
        cJSON_AddStringToObject(o, "pool", pool_names[c->pool]);
        run_config_add_number(o, "sinks", c->sinks);
        run_config_add_number(o, "recent", c->recent);
    }
    if (c->method == METHOD_BRUTAL_OFFLOAD) run_config_add_number(o, "offload_sid", c->first_away);
    if (c->method == METHOD_WINDOW) {
        cJSON_AddBoolToObject(o, "use_sink_cache", true);
        run_config_add_number(o, "sink_window_length", c->window_recent);
        run_config_add_number(o, "num_sink_tokens", c->window_sinks);
    }
    run_config_write_peers(o, c);
    for (size_t i = 0; model_keys[i]; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(c->model_overrides, model_keys[i]);
        if (item) cJSON_AddItemToObject(o, item->string, cJSON_Duplicate(item, true));
    }
    char *text = cJSON_PrintUnformatted(o);
    free(c->json);
    c->json = xstrdup(text ? text : "");
    cJSON_free(text);
    cJSON_Delete(o);
}

int budget_tokens(double budget, int n_prefill)
{
    double tokens = budget < 1 ? trunc(budget * n_prefill) : budget;
    return tokens < n_prefill ? (int)tokens : n_prefill;
}

const char *method_name(enum method_kind m)
{
    return method_names[m];
}
