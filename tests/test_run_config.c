/* test_run_config.c - the original's configs: what is honoured, what is refused, in which words. */
#include "core/base/base.h"
#include "core/method/run_config.h"
#include "tests/check.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static void example_means_what_the_original_means(void)
{
    struct run_config c;
    CHECK(run_config_load(&c, "configs/example.json") == 0, "%s", last_failure());
    CHECK(c.method == METHOD_OMNIKV, "method %d", c.method);
    CHECK(c.n_layers == 3 && c.layers[0] == 2 && c.layers[1] == 8 && c.layers[2] == 18, "%d layers",
          c.n_layers);
    CHECK(c.wait == 1, "wait %d", c.wait);
    CHECK(c.budget == 0.067, "budget %g", c.budget);
    CHECK(c.selector == SELECT_LAST, "selector %d", c.selector);
    CHECK(c.window_size == 16 && c.threads == 8 && c.max_context == 128500, "%d %d %d",
          c.window_size, c.threads, c.max_context);
    CHECK(!c.chat && !c.real_offload, "flags");
    CHECK(c.model && strcmp(c.model, "../models/Llama-3-8B-Instruct-262k") == 0, "%s", c.model);
    CHECK(c.model_overrides == NULL, "no override expected");
    run_config_free(&c);
    CHECK(c.json == NULL && c.layers == NULL && c.model == NULL, "freed and emptied");
}

static void defaults_are_the_originals(void)
{
    struct run_config c, d;
    CHECK(run_config_parse(&c, "t", "{\"model_cls\": \"raw_llama\"}") == 0, "%s", last_failure());
    CHECK(c.method == METHOD_DENSE && c.max_context == 0 && c.threads == 0 && c.seed == 42,
          "dense");
    CHECK(c.model == NULL && c.rope_factor <= 0 && !c.chat, "nothing named");
    CHECK(run_config_load(&d, NULL) == 0, "%s", last_failure());
    CHECK(strcmp(c.json, d.json) == 0, "no path is dense: %s, %s", c.json, d.json);
    run_config_free(&c);
    run_config_free(&d);

    CHECK(run_config_parse(&c, "t", "{\"model_cls\": \"multi\", \"do_select_layers\": [0, 5]}") ==
              0,
          "%s", last_failure());
    CHECK(c.method == METHOD_OMNIKV && c.wait == 2 && c.budget == 4096, "%d %g", c.wait, c.budget);
    CHECK(c.selector == SELECT_SOFTMAX && c.window_size == 16 && c.real_offload, "selector");
    CHECK(!c.candidates_all && c.refresh == 1 && c.pool == POOL_ALL && !c.sinks && !c.recent,
          "options beyond the original are off");
    CHECK(c.n_layers == 2 && c.layers[0] == 0 && c.layers[1] == 5, "a list is taken too");
    run_config_free(&c);

    CHECK(run_config_parse(&c, "t", "{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true}") ==
              0,
          "%s", last_failure());
    CHECK(c.method == METHOD_WINDOW && c.window_recent == 1024 && c.window_sinks == 128, "%g %g",
          c.window_recent, c.window_sinks);
    run_config_free(&c);
}

/* What is taken, and the field that shows it. */
static void classes_are_dispatched_as_in_the_original(void)
{
    static const struct {
        const char *cls;
        enum method_kind method;
    } cases[] = {
        {"raw_llama", METHOD_DENSE}, {"raw", METHOD_DENSE},       {"llama_262k", METHOD_DENSE},
        {"raw_h2o", METHOD_DENSE}, /* the original tests for raw first */
        {"multi", METHOD_OMNIKV},    {"multi_v2", METHOD_OMNIKV},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run_config c;
        char *text = xprintf("{\"model_cls\": \"%s\", \"do_select_layers\": \"2\"}", cases[i].cls);
        CHECK(run_config_parse(&c, "t", text) == 0, "%s: %s", text, last_failure());
        CHECK(c.method == cases[i].method, "%s: %s", cases[i].cls, method_name(c.method));
        run_config_free(&c);
        free(text);
    }
}

#define MULTI "\"model_cls\": \"multi\", \"do_select_layers\": \"2,8\""
#define RAW "\"model_cls\": \"raw_llama\""

static void what_is_not_built_is_refused_by_name(void)
{
    static const struct {
        const char *text, *says[3];
    } cases[] = {
        {"", {"not valid JSON"}},
        {"[]", {"object", "a list"}},
        {"{}", {"model_cls", "raw_llama", "multi"}},
        {"{\"model_cls\": 3}", {"model_cls", "a string", "a number"}},
        {"{\"model_cls\": \"dense\"}", {"raw_llama", "multi", "dense"}},
        {"{\"model_cls\": \"h2o\"}", {"h2o is not in this version", "use"}},
        {"{\"model_cls\": \"my_h2o\", \"hh_ratio\": 0.1}", {"h2o is not in this version", "use"}},
        {"{\"model_cls\": \"quest\"}", {"quest is not in this version", "use"}},
        {"{\"model_cls\": \"infllm\"}", {"infllm is not in this version", "use"}},
        {"{\"model_cls\": \"token\"}", {"token is not in this version", "use"}},
        {"{\"model_cls\": \"token_once\"}", {"token_once is not in this version", "use"}},
        {"{\"model_cls\": \"once_offload\"}", {"once_offload is not", "use"}},
        {"{" RAW ", \"load_in_8bit\": true}", {"load_in_8bit", "set it to false"}},
        {"{" RAW ", \"load_in_4bit\": true}", {"load_in_4bit", "set it to false"}},
        {"{" RAW ", \"use_gptq\": true}", {"use_gptq", "set it to false"}},
        {"{" RAW ", \"use_multi_gpus\": true}", {"use_multi_gpus", "set it to false"}},
        {"{" RAW ", \"n_gpu\": 2}", {"n_gpu", "from 0 to 1", "2"}},
        {"{" RAW ", \"use_fixed_prompt\": false}", {"use_fixed_prompt", "set it to true"}},
        {"{" RAW ", \"cot\": true}", {"cot", "prompt"}},
        {"{" RAW ", \"rope_factor\": 0.5}", {"rope_factor", "at least 1", "0.5"}},
        {"{" RAW ", \"rope_factor\": 2, \"rope_scaling\": {}}", {"rope_factor", "rope_scaling"}},
        {"{" RAW ", \"seed\": -1}", {"seed", "-1"}},
        {"{" RAW ", \"seed\": 1.5}", {"seed", "whole", "1.5"}},
        {"{" RAW ", \"max_context_len\": 0}", {"max_context_len", "from 1"}},
        {"{" RAW ", \"max_context_len\": 1e18}", {"max_context_len", "1e+18"}},
        {"{" RAW ", \"max_context_len\": \"4K\"}", {"max_context_len", "a string"}},
        {"{" RAW ", \"cpu_num_threads\": 0}", {"cpu_num_threads"}},
        {"{" RAW ", \"model_name\": \"\"}", {"model_name", "directory"}},
        {"{" RAW ", \"rope_theta\": 1e999}", {"rope_theta", "finite"}},
        {"{" RAW ", \"model_cls\": \"multi\"}", {"model_cls", "twice"}},
        {"{" RAW ", \"offload_sid\": -1}", {"offload_sid"}},
        {"{" RAW ", \"decoder_start_layer_idx\": 1}", {"decoder_start_layer_idx", "remove"}},
        {"{" RAW ", \"skip_threshold\": 0.4}", {"skip_threshold", "remove"}},
        {"{" RAW ", \"hh_ratio\": 0.1}", {"hh_ratio", "h2o", "remove"}},
        {"{" RAW ", \"recent_ratio\": 0.1}", {"recent_ratio", "h2o", "remove"}},
        {"{" RAW ", \"seg_size\": \"auto\"}", {"seg_size", "h2o", "remove"}},
        {"{" RAW ", \"infllm_cfg_path\": \"x\"}", {"infllm_cfg_path", "infllm", "remove"}},
        {"{" MULTI ", \"num_of_selected_tokens_3\": 5}", {"token", "num_of_selected_tokens\""}},
        {"{" MULTI ", \"use_sink_cache\": true}", {"use_sink_cache", "raw_llama"}},
        {"{" MULTI ", \"cache_cls\": \"packed\"}", {"cache_cls", "without_pack"}},
        {"{" MULTI ", \"cache_cls\": \"default\"}", {"cache_cls", "multi", "default"}},
        {"{" MULTI ", \"dense_more\": false}", {"dense_more", "set it to true"}},
        {"{" MULTI ", \"num_of_selected_tokens\": 0}", {"num_of_selected_tokens", "above 0"}},
        {"{" MULTI ", \"num_of_selected_tokens\": 1.5}", {"num_of_selected_tokens", "1.5"}},
        {"{" MULTI ", \"num_of_selected_tokens\": -3}", {"num_of_selected_tokens", "-3"}},
        {"{" MULTI ", \"num_of_selected_tokens\": \"all\"}", {"a number", "a string"}},
        {"{" MULTI ", \"selector_cls\": \"max\"}", {"softmax_before_last", "uniform", "max"}},
        {"{" MULTI ", \"window_size\": 0}", {"window_size", "from 1"}},
        {"{" MULTI ", \"num_wait_load_layers\": -1}", {"num_wait_load_layers", "from 0"}},
        {"{" MULTI ", \"candidates\": \"decoded\"}", {"candidates", "prefill, all"}},
        {"{" MULTI ", \"refresh\": 0}", {"refresh", "from 1"}},
        {"{" MULTI ", \"pool\": \"head\"}", {"pool", "all, group, none", "head"}},
        {"{" MULTI ", \"sinks\": -1}", {"sinks", "from 0"}},
        {"{" MULTI ", \"num_of_selected_tokens\": 8, \"sinks\": 4, \"recent\": 5}",
         {"at most num_of_selected_tokens (8)", "4 and 5"}},
        {"{\"model_cls\": \"multi\"}", {"do_select_layers", "missing", "okv search"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": \"\"}", {"at least one", "raw_llama"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": []}", {"at least one"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": 3}", {"do_select_layers", "a number"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": \"2,,8\"}", {"do_select_layers"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": \"2,8,8\"}", {"ascending", "8 after 8"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": [8, 2]}", {"ascending", "2 after 8"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": \"-1,2\"}", {"do_select_layers", "-1"}},
        {"{\"model_cls\": \"multi\", \"do_select_layers\": [1.5]}", {"do_select_layers", "1.5"}},
        {"{" RAW ", \"use_sink_cache\": true, \"sink_window_length\": 1.5}", {"sink_window_len"}},
        {"{" RAW ", \"use_sink_cache\": true, \"sink_window_length\": 0, \"num_sink_tokens\": 0}",
         {"above 0", "both 0"}},
        {"{" RAW ", \"num_wait_load_layer\": 1}", {"unknown", "\"num_wait_load_layers\"?"}},
        {"{" RAW ", \"rope_tetha\": 1}", {"unknown", "\"rope_theta\"?"}},
        {"{" RAW ", \"_comment\": \"x\"}", {"unknown", "_comment"}},
        {"{" RAW ", \"zzzzzzzzzzzzzzzz\": 1}", {"unknown"}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run_config c;
        CHECK(run_config_parse(&c, "t.json", cases[i].text) == -1, "taken: %s", cases[i].text);
        CHECK(strncmp(last_failure(), "t.json:", 7) == 0, "%s", last_failure());
        for (size_t k = 0; k < 3 && cases[i].says[k]; k++)
            CHECK(strstr(last_failure(), cases[i].says[k]), "%s: %s: not in: %s", cases[i].text,
                  cases[i].says[k], last_failure());
        CHECK(c.json == NULL && c.layers == NULL && c.model == NULL, "%s: not empty",
              cases[i].text);
    }
}

static void what_has_no_effect_is_accepted(void)
{
    /* Also: keys of another method, since one edit of model_cls must keep a config valid. */
    static const char *const cases[] = {
        "{" RAW ", \"use_flash_attn\": true, \"load_in_8bit\": false, \"n_gpu\": 1}",
        "{" RAW
        ", \"sparse_in_prefill\": true, \"max_len_can_hold\": 32000, \"attn_seg_sz\": 8000}",
        "{" RAW ", \"do_select_layers\": \"\", \"dense_more\": false, \"cache_cls\": \"default\"}",
        "{" MULTI ", \"sink_window_length\": 0.5, \"use_sink_cache\": false}",
        "{" MULTI ", \"cache_cls\": \"multi\", \"use_fixed_prompt\": true, \"real_offload\": true}",
        "{" RAW ", \"model_name\": null, \"max_context_len\": null, \"seed\": null}",
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run_config c;
        CHECK(run_config_parse(&c, "t", cases[i]) == 0, "%s: %s", cases[i], last_failure());
        run_config_free(&c);
    }
}

static void budgets_are_fractions_below_one(void)
{
    static const struct {
        const char *text;
        int n_prefill, want;
    } cases[] = {
        {"0.067", 1500, 100}, /* trunc(100.5) */
        {"0.5", 1, 0},
        {"1", 1500, 1},
        {"1.0", 1500, 1},
        {"32", 1500, 32},
        {"4096", 1500, 1500},
        {"0.9999999", 5, 4},
        {"2147483647", INT_MAX, INT_MAX},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run_config c;
        char *text = xprintf("{" MULTI ", \"num_of_selected_tokens\": %s}", cases[i].text);
        CHECK(run_config_parse(&c, "t", text) == 0, "%s", last_failure());
        CHECK(budget_tokens(c.budget, cases[i].n_prefill) == cases[i].want, "%s of %d: %d, want %d",
              cases[i].text, cases[i].n_prefill, budget_tokens(c.budget, cases[i].n_prefill),
              cases[i].want);
        run_config_free(&c);
        free(text);
    }
}

static void model_keys_become_overrides(void)
{
    struct run_config c, d;
    CHECK(run_config_parse(&c, "t",
                           "{\"rope_theta\": 283461213, " RAW
                           ", \"rope_scaling\": null, \"eos_token_id\": [1, 4]}") == 0,
          "%s", last_failure());
    const cJSON *theta = cJSON_GetObjectItemCaseSensitive(c.model_overrides, "rope_theta");
    const cJSON *scaling = cJSON_GetObjectItemCaseSensitive(c.model_overrides, "rope_scaling");
    CHECK(theta && theta->valuedouble == 283461213, "rope_theta");
    CHECK(scaling && cJSON_IsNull(scaling), "a null override is kept: it takes a key away");
    CHECK(cJSON_GetArraySize(c.model_overrides) == 3, "%d", cJSON_GetArraySize(c.model_overrides));
    CHECK(run_config_parse(&d, "t", c.json) == 0, "%s", last_failure());
    CHECK(strcmp(c.json, d.json) == 0, "%s, again %s", c.json, d.json);
    CHECK(strstr(c.json, "283461213") && strstr(c.json, "\"rope_scaling\":null"), "%s", c.json);
    run_config_free(&c);
    run_config_free(&d);
}

static void json_is_canonical_and_reads_back(void)
{
    /* The same config in another order and with other spellings of the same values. */
    static const char *const same[] = {
        "{\"model_cls\": \"multi\", \"do_select_layers\": \"2,8\", \"seed\": 9007199254740991,"
        " \"num_of_selected_tokens\": 0.1, \"selector_cls\": \"exp\", \"pool\": \"group\"}",
        "{\"pool\": \"group\", \"selector_cls\": \"exp\", \"num_of_selected_tokens\": 1e-1,"
        " \"seed\": 9.007199254740991e15, \"do_select_layers\": [2, 8], \"model_cls\": \"multi_\","
        " \"cpu_num_threads\": 3, \"use_flash_attn\": true, \"refresh\": 1}",
    };
    struct run_config c, d, e;
    CHECK(run_config_parse(&c, "a", same[0]) == 0, "%s", last_failure());
    CHECK(run_config_parse(&d, "b", same[1]) == 0, "%s", last_failure());
    CHECK(strcmp(c.json, d.json) == 0, "%s, %s", c.json, d.json);
    CHECK(run_config_parse(&e, "c", c.json) == 0, "%s", last_failure());
    CHECK(strcmp(c.json, e.json) == 0, "%s, %s", c.json, e.json);
    CHECK(e.seed == 9007199254740991u && e.budget == 0.1 && e.selector == SELECT_EXP &&
              e.pool == POOL_GROUP && e.n_layers == 2,
          "values survive");
    run_config_free(&d);
    run_config_free(&e);

    c.layers[1] = 11; /* as a search does */
    c.wait = 0;
    run_config_refresh_json(&c);
    CHECK(strstr(c.json, "\"do_select_layers\":\"2,11\"") &&
              strstr(c.json, "\"num_wait_load_layers\":0"),
          "%s", c.json);
    run_config_free(&c);

    CHECK(run_config_parse(&c, "w",
                           "{" RAW ", \"use_sink_cache\": true, \"sink_window_length\": 28,"
                           " \"num_sink_tokens\": 0.25, \"max_context_len\": 4096,"
                           " \"model_name\": \"a\\\"b\", \"rope_factor\": 2.5}") == 0,
          "%s", last_failure());
    CHECK(run_config_parse(&d, "w", c.json) == 0, "%s", last_failure());
    CHECK(strcmp(c.json, d.json) == 0, "%s, %s", c.json, d.json);
    CHECK(d.method == METHOD_WINDOW && d.window_recent == 28 && d.window_sinks == 0.25 &&
              d.max_context == 4096 && d.rope_factor == 2.5 && strcmp(d.model, "a\"b") == 0,
          "values survive");
    run_config_free(&c);
    run_config_free(&d);
}

static void files_are_read_with_their_name(void)
{
    struct run_config c;
    const char *path = check_scratch("zero.json");
    CHECK(run_config_load(&c, "tests/data/none.json") == -1, "taken");
    CHECK(strstr(last_failure(), "tests/data/none.json"), "%s", last_failure());
    FILE *f = fopen(path, "wb");
    if (f) fwrite("{\"model_cls\": \"raw\"}\0x", 1, 22, f);
    if (f) fclose(f);
    CHECK(run_config_load(&c, path) == -1, "taken");
    CHECK(strstr(last_failure(), "zero byte"), "%s", last_failure());
    CHECK(run_config_load(&c, "tests") == -1, "a directory is taken");
}

/* Any text is taken or refused with one line, and what is taken reads back to the same JSON. */
static void fuzzed_configs_are_taken_or_refused(void)
{
    static const char *const seeds[] = {
        "{" MULTI ", \"num_of_selected_tokens\": 0.067, \"selector_cls\": \"last\", \"seed\": 7}",
        "{" RAW ", \"use_sink_cache\": true, \"num_sink_tokens\": 4, \"rope_theta\": 10000.5}",
        "{\"model_cls\": \"multi\", \"do_select_layers\": [2, 8, 18], \"rope_scaling\": "
        "{\"rope_type\": \"yarn\", \"factor\": 4.1}, \"pool\": \"none\"}",
    };
    static const char alphabet[] = "{}[]\",:0123456789.eE-+ truefalsn\\u\x80\xff\x01_";
    struct rng r;
    int taken = 0;
    rng_seed(&r, 1);
    for (int i = 0; i < 20000; i++) {
        char text[512];
        struct run_config c, d;
        size_t n = (size_t)snprintf(text, sizeof text, "%s", seeds[rng_below(&r, 3)]);
        for (uint32_t k = rng_below(&r, 4); k > 0; k--) {
            size_t at = rng_below(&r, (uint32_t)n);
            uint32_t kind = rng_below(&r, 3);
            if (kind == 0) text[at] = alphabet[rng_below(&r, sizeof alphabet - 1)];
            if (kind == 1 && n > 1) memmove(text + at, text + at + 1, n-- - at);
            if (kind == 2 && rng_below(&r, 8) == 0) text[n = at + 1] = 0;
        }
        if (run_config_parse(&c, "fuzz", text)) continue;
        taken++;
        bool again = run_config_parse(&d, "fuzz", c.json) == 0;
        CHECK(again && strcmp(c.json, d.json) == 0, "%s: %s", text, c.json);
        if (again) run_config_free(&d);
        run_config_free(&c);
    }
    CHECK(taken > 1000, "only %d of 20000 taken: the fuzz tests little", taken);
}

int main(void)
{
    mute_failures(true);
    example_means_what_the_original_means();
    defaults_are_the_originals();
    classes_are_dispatched_as_in_the_original();
    what_is_not_built_is_refused_by_name();
    what_has_no_effect_is_accepted();
    budgets_are_fractions_below_one();
    model_keys_become_overrides();
    json_is_canonical_and_reads_back();
    files_are_read_with_their_name();
    fuzzed_configs_are_taken_or_refused();
    return check_report("test_run_config");
}
