/* test_run_config.c - the original's configs: what is honoured, what is refused, in which words. */
#include "core/base/base.h"
#include "core/method/run_config.h"
#include "tests/check.h"

#include <glob.h>
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
        {"raw_llama", METHOD_DENSE},
        {"raw", METHOD_DENSE},
        {"llama_262k", METHOD_DENSE},
        {"raw_h2o", METHOD_DENSE}, /* the original tests for raw first */
        {"multi", METHOD_OMNIKV},
        {"multi_v2", METHOD_OMNIKV},
        {"h2o", METHOD_H2O},
        {"my_h2o", METHOD_H2O},
        {"infllm", METHOD_INFLLM},
        {"quest", METHOD_QUEST},
        {"tidal", METHOD_TIDAL},
        {"streaming", METHOD_STREAMING},
        {"infinite-lm", METHOD_INFINITE_LM},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run_config c;
        char *text = xprintf("{\"model_cls\": \"%s\", \"do_select_layers\": \"2\", \"hh_size\": 8, "
                             "\"correction_layer\": 9}",
                             cases[i].cls);
        CHECK(run_config_parse(&c, "t", text) == 0, "%s: %s", text, last_failure());
        CHECK(c.method == cases[i].method, "%s: %s", cases[i].cls, method_name(c.method));
        run_config_free(&c);
        free(text);
    }
}

#define MULTI "\"model_cls\": \"multi\", \"do_select_layers\": \"2,8\""
#define RAW "\"model_cls\": \"raw_llama\""
#define H2O "\"model_cls\": \"h2o\""
#define QUEST "\"model_cls\": \"quest\""
#define TIDAL "\"model_cls\": \"tidal\""
#define INFLLM "\"model_cls\": \"infllm\""
#define INFLLM_SMALL "{" INFLLM ", \"n_init\": 16, \"block_size\": 64, \"base\": 500000.5}"

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
        {"{" H2O "}", {"hh_ratio", "hh_size"}},
        {"{" H2O ", \"hh_ratio\": 0.1, \"recent_size\": 3}", {"one kind", "found both"}},
        {"{" H2O ", \"hh_ratio\": 1, \"recent_ratio\": 0}", {"hh_ratio", "below 1"}},
        {"{" H2O ", \"hh_ratio\": 1.5}", {"hh_ratio", "1.5"}},
        {"{" H2O ", \"hh_size\": 0.5}", {"hh_size", "0.5"}},
        {"{" H2O ", \"hh_size\": 0, \"recent_size\": 0}", {"above 0", "both 0"}},
        {"{" H2O ", \"hh_size\": 4, \"evict\": \"never\"}", {"evict", "prefill, step", "never"}},
        {"{" H2O ", \"hh_size\": 4, \"seg_size\": 0}", {"seg_size", "from 1"}},
        {"{" H2O ", \"hh_size\": 4, \"seg_size\": \"auto_70B\"}", {"seg_size", "a string"}},
        {"{" H2O ", \"hh_size\": 4, \"first_step_dense\": true}", {"first_step_dense", "step"}},
        {"{" H2O ", \"hh_ratio\": 0.4, \"first_step_dense\": true, \"skip_prefill\": false}",
         {"first_step_dense", "skip_prefill"}},
        {"{" H2O ", \"hh_size\": 4, \"use_sink_cache\": true}", {"use_sink_cache", "raw_llama"}},
        {"{" QUEST ", \"page_size\": 0}", {"page_size", "from 1"}},
        {"{" QUEST ", \"num_of_selected_tokens\": 15}", {"num_of_selected_tokens", "16", "15"}},
        {"{" QUEST ", \"dense_layers\": -1}", {"dense_layers", "from 0"}},
        {"{" TIDAL "}", {"correction_layer", "missing"}},
        {"{" TIDAL ", \"correction_layer\": 2}", {"correction_layer", "after", "2"}},
        {"{" TIDAL ", \"correction_layer\": 5, \"num_of_selected_tokens\": 8, \"recent\": 9}",
         {"at most num_of_selected_tokens (8)"}},
        {"{" INFLLM ", \"n_local\": 0}", {"n_local", "from 1"}},
        {"{" INFLLM ", \"n_local\": 256}", {"exc_block_size", "256", "512"}},
        {"{" INFLLM ", \"topk\": 65}", {"max_cached_block", "65", "64"}},
        {"{" INFLLM ", \"repr_topk\": 129}", {"repr_topk", "128", "129"}},
        {"{" INFLLM ", \"cache_strategy\": \"fifo\"}", {"cache_strategy", "lru, lru-s", "fifo"}},
        {"{" INFLLM ", \"faiss\": true}", {"faiss", "set it to false"}},
        {"{" INFLLM ", \"perhead\": true}", {"perhead", "set it to false"}},
        {"{" INFLLM ", \"chunk_topk_calc\": 4}", {"chunk_topk_calc", "remove"}},
        {"{" INFLLM ", \"type\": \"origin\"}", {"origin", "raw_llama"}},
        {"{" INFLLM ", \"type\": \"faiss\"}", {"type", "inf-llm"}},
        {"{" INFLLM ", \"base\": 10000, \"rope_theta\": 10000}", {"rope_theta", "keep one"}},
        {"{" INFLLM ", \"distance_scale\": 0.25, \"rope_factor\": 2}", {"distance_scale", "keep"}},
        {"{" INFLLM ", \"distance_scale\": 2}", {"distance_scale", "2"}},
        {"{\"model_cls\": \"streaming\", \"type\": \"inf-llm\"}", {"stream-llm", "inf-llm"}},
        {"{\"model_cls\": \"infinite-lm\", \"n_init\": -1}", {"n_init", "from 0"}},
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
        "{" RAW
        ", \"hh_ratio\": 0.1, \"recent_ratio\": 0.1, \"seg_size\": \"auto\", \"page_size\": 8}",
        "{" INFLLM
        ", \"path\": \"x\", \"tokenizer_path\": \"y\", \"fattn\": true, \"pin_memory\": true,"
        " \"async_global_stream\": false, \"faiss\": false, \"perhead\": false}",
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

/* ---- what OmniKV is compared with */

/* What TEXT means has WANT in it, and reads back to itself. */
static void means(const char *text, const char *want)
{
    struct run_config c, d;
    if (run_config_parse(&c, "t", text)) {
        CHECK(false, "%s: %s", text, last_failure());
        return;
    }
    CHECK(strstr(c.json, want), "%s: %s, want %s", text, c.json, want);
    const bool again = run_config_parse(&d, "t", c.json) == 0;
    CHECK(again && strcmp(c.json, d.json) == 0, "%s, again %s", c.json,
          again ? d.json : last_failure());
    if (again) run_config_free(&d);
    run_config_free(&c);
}

static void keys_of_peers_are_honoured(void)
{
    struct run_config c;
    means("{" H2O ", \"hh_size\": 16, \"recent_size\": 12}",
          "\"hh_size\":16,\"recent_size\":12,\"evict\":\"prefill\",\"skip_prefill\":true,"
          "\"first_step_dense\":false}");
    means("{" H2O ", \"hh_ratio\": 0.15, \"recent_ratio\": 0.15, \"seg_size\": \"auto\"}",
          "\"hh_ratio\":0.15,\"recent_ratio\":0.15,\"evict\":\"step\",\"skip_prefill\":true,"
          "\"first_step_dense\":false}");
    means("{" H2O ", \"hh_ratio\": 0.1, \"evict\": \"prefill\", \"skip_prefill\": false,"
          " \"seg_size\": 100}",
          "\"recent_ratio\":0,\"evict\":\"prefill\",\"skip_prefill\":false,\"first_step_dense\":"
          "false,\"seg_size\":100}");
    means("{" H2O ", \"recent_ratio\": 0.1, \"skip_prefill\": false, \"seg_size\": \"auto\"}",
          "\"hh_ratio\":0,\"recent_ratio\":0.1,\"evict\":\"step\",\"skip_prefill\":false,"
          "\"first_step_dense\":false,\"seg_size\":\"auto\"}");
    means("{" H2O ", \"hh_ratio\": 0.25, \"recent_ratio\": 0.25, \"first_step_dense\": true}",
          "\"skip_prefill\":true,\"first_step_dense\":true}");
    means("{" H2O ", \"hh_size\": 1, \"evict\": \"step\", \"skip_prefill\": false}",
          "\"hh_size\":1,\"recent_size\":0,\"evict\":\"step\",\"skip_prefill\":false,"
          "\"first_step_dense\":false,\"seg_size\":500}");
    means("{" QUEST "}", "\"num_of_selected_tokens\":4096,\"dense_layers\":2,\"page_size\":16}");
    means("{" QUEST ", \"num_of_selected_tokens\": 0.1, \"dense_layers\": 0, \"page_size\": 32}",
          "\"num_of_selected_tokens\":0.1,\"dense_layers\":0,\"page_size\":32}");
    means(
        "{" TIDAL ", \"correction_layer\": 13, \"num_of_selected_tokens\": 256}",
        "\"num_of_selected_tokens\":256,\"dense_layers\":2,\"correction_layer\":13,\"candidates\":"
        "\"prefill\",\"pool\":\"group\",\"refresh\":1,\"sinks\":0,\"recent\":0,\"real_offload\":"
        "false}");
    means("{" TIDAL
          ", \"dense_layers\": 1, \"correction_layer\": 2, \"pool\": \"none\", \"sinks\": 4,"
          " \"recent\": 8, \"refresh\": 3, \"candidates\": \"all\", \"real_offload\": true,"
          " \"do_select_layers\": \"7\", \"selector_cls\": \"uniform\"}",
          "\"dense_layers\":1,\"correction_layer\":2,\"candidates\":\"all\",\"pool\":\"none\","
          "\"refresh\":3,\"sinks\":4,\"recent\":8,\"real_offload\":true}");
    means("{" INFLLM "}",
          "\"n_init\":128,\"n_local\":4096,\"block_size\":128,\"topk\":32,\"repr_topk\":4,"
          "\"exc_block_size\":512,\"max_cached_block\":64,\"cache_strategy\":\"lru\",\"real_"
          "offload\":"
          "true}");
    means(
        "{" INFLLM ", \"n_init\": 4, \"n_local\": 64, \"block_size\": 8, \"topk\": 3,"
        " \"repr_topk\": 2, \"exc_block_size\": 16, \"max_cached_block\": 5,"
        " \"cache_strategy\": \"lru-s\", \"score_decay\": 0.25, \"real_offload\": false,"
        " \"base\": 500000, \"distance_scale\": 0.25}",
        "\"n_init\":4,\"n_local\":64,\"block_size\":8,\"topk\":3,\"repr_topk\":2,"
        "\"exc_block_size\":16,\"max_cached_block\":5,\"cache_strategy\":\"lru-s\",\"score_decay\":"
        "0.25,\"real_offload\":false,\"rope_scaling\":{\"rope_type\":"
        "\"linear\",\"factor\":4},\"rope_theta\":500000}");
    means("{" INFLLM ", \"type\": \"stream-llm\", \"n_init\": 4, \"n_local\": 60}",
          "\"model_cls\":\"streaming\"");
    means("{\"model_cls\": \"infinite-lm\", \"type\": \"infinite-lm\", \"n_init\": 4}",
          "\"n_init\":4,\"n_local\":4096}");

    CHECK(run_config_parse(&c, "t", "{" TIDAL ", \"correction_layer\": 13}") == 0, "%s",
          last_failure());
    CHECK(c.n_layers == 2 && c.layers[0] == 2 && c.layers[1] == 13 && c.wait == 0 &&
              c.selector == SELECT_LAST && c.pool == POOL_GROUP && !c.real_offload,
          "OmniKV with layers of its own");
    run_config_free(&c);
    CHECK(run_config_parse(&c, "t", "{\"model_cls\": \"streaming\", \"n_local\": 32}") == 0, "%s",
          last_failure());
    CHECK(c.far.turned && c.far.topk == 0 && c.far.n_local == 32, "streaming");
    run_config_free(&c);
    CHECK(run_config_parse(&c, "t", "{" INFLLM ", \"real_offload\": false}") == 0, "%s",
          last_failure());
    CHECK(!c.far.turned && c.far.topk == 32 && !c.far.away && !c.blocks_away, "infllm");
    run_config_free(&c);
}

/* Every config of the project loads, names no folder of a machine, and reads back. */
static void configs_load(void)
{
    static const char *const patterns[] = {"configs/*.json", "configs/pocket/*.json",
                                           "configs/infllm/*.json"};
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        glob_t found;
        CHECK(glob(patterns[i], 0, NULL, &found) == 0 && found.gl_pathc > 7, "%s", patterns[i]);
        for (size_t k = 0; k < found.gl_pathc; k++) {
            struct run_config c, d;
            const bool ok = run_config_load(&c, found.gl_pathv[k]) == 0;
            CHECK(ok, "%s", last_failure());
            if (!ok) continue;
            CHECK(c.model == NULL || c.model[0] != '/', "%s: %s", found.gl_pathv[k], c.model);
            CHECK(run_config_parse(&d, "again", c.json) == 0 && strcmp(c.json, d.json) == 0, "%s",
                  c.json);
            run_config_free(&d);
            run_config_free(&c);
        }
        globfree(&found);
    }
}

/* infllm_cfg_path: the YAML's structure as JSON, beside the config or where the path says. */
static void infllm_is_read_from_its_own_file(void)
{
    static const struct {
        const char *file, *extra, *says;
    } cases[] = {
        {"{\"model\": {\"type\": \"inf-llm\", \"n_local\": 777, \"path\": \"p\"}, \"max_len\": 9,"
         " \"chunk_size\": 8192, \"conv_type\": \"llama-3-inst\", \"truncation\": \"middle\"}",
         "", NULL},
        {"{\"model\": {\"n_locals\": 777}}", "", "\"n_local\"?"},
        {"{\"n_local\": 777}", "", "n_local"},
        {"{\"max_len\": 7}", "", "\"model\": expected an object"},
        {"{\"model\": 3}", "", "expected an object, found a number"},
        {"[]", "", "expected a JSON object"},
        {"{\"model\": {}}", ", \"n_init\": 4", "beside that"},
    };
    const char *config = check_scratch("infllm.json"), *slash = strrchr(config, '/');
    const char *own = check_scratch("far.json");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        for (int beside = 0; beside < 2; beside++) {
            struct run_config c;
            FILE *f = fopen(config, "w"), *g = fopen(own, "w");
            if (f)
                fprintf(f, "{" INFLLM ", \"infllm_cfg_path\": \"%s\"%s}",
                        beside ? own + (slash - config) + 1 : own, cases[i].extra);
            if (g) fputs(cases[i].file, g);
            CHECK(f && fclose(f) == 0 && g && fclose(g) == 0, "%s", config);
            const int rc = run_config_load(&c, config);
            if (cases[i].says)
                CHECK(rc == -1 && strstr(last_failure(), cases[i].says), "%s: %s", cases[i].file,
                      rc ? last_failure() : "taken");
            else
                CHECK(rc == 0 && c.far.n_local == 777 && c.far.n_init == 128, "%s",
                      rc ? last_failure() : "other values");
            if (rc == 0) run_config_free(&c);
        }
    }
}

static void budgets_are_set_for_every_method(void)
{
    static const struct {
        const char *text;
        int tokens, want; /* as run_config_set_budget() says */
        const char *json; /* or of the failure */
    } cases[] = {
        {"{" RAW "}", 64, 0, NULL},
        {"{\"model_cls\": \"brutal_offload\"}", 64, 0, NULL},
        {"{" MULTI ", \"num_of_selected_tokens\": 0.5}", 64, 1, "\"num_of_selected_tokens\":64,"},
        {"{" MULTI ", \"sinks\": 4, \"recent\": 4}", 8, 1, "\"num_of_selected_tokens\":8,"},
        {"{" MULTI ", \"sinks\": 4, \"recent\": 4}", 7, -1, "7 tokens"},
        {"{" QUEST "}", 64, 1, "\"num_of_selected_tokens\":64,"},
        {"{" QUEST "}", 15, -1, "a page of 16"},
        {"{" TIDAL ", \"correction_layer\": 5}", 64, 1, "\"num_of_selected_tokens\":64,"},
        {"{" TIDAL ", \"correction_layer\": 5, \"recent\": 4}", 3, -1, "3 tokens"},
        {"{" RAW ", \"use_sink_cache\": true, \"num_sink_tokens\": 4}", 32, 1,
         "\"sink_window_length\":28,\"num_sink_tokens\":4}"},
        {"{" RAW ", \"use_sink_cache\": true, \"num_sink_tokens\": 0.1}", 32, 1,
         "\"sink_window_length\":28,\"num_sink_tokens\":4}"},
        {"{" RAW ", \"use_sink_cache\": true, \"num_sink_tokens\": 4}", 4, -1, "4 of its first"},
        {"{" H2O ", \"hh_ratio\": 0.2}", 33, 1,
         "\"hh_size\":16,\"recent_size\":17,\"evict\":\"step\""},
        {"{" H2O ", \"hh_size\": 9}", 2, 1,
         "\"hh_size\":1,\"recent_size\":1,\"evict\":\"prefill\""},
        {"{" H2O ", \"hh_size\": 9}", 1, -1, "2 at least"},
        {"{\"model_cls\": \"streaming\", \"n_init\": 4}", 32, 1, "\"n_init\":4,\"n_local\":28}"},
        {"{\"model_cls\": \"infinite-lm\", \"n_init\": 4}", 4, -1, "4 of its first"},
        {INFLLM_SMALL, 1024, 1,
         "\"n_init\":16,\"n_local\":512,\"block_size\":64,\"topk\":7,\"repr_topk\":4,"
         "\"exc_block_size\":512,\"max_cached_block\":64"},
        {INFLLM_SMALL, 64, 1,
         "\"n_init\":16,\"n_local\":32,\"block_size\":16,\"topk\":1,\"repr_topk\":4,"
         "\"exc_block_size\":32,\"max_cached_block\":64"},
        {INFLLM_SMALL, 33, -1, "budget of 33 tokens: expected its half to be more than the 16"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run_config c, d;
        CHECK(run_config_parse(&c, "t", cases[i].text) == 0, "%s", last_failure());
        /* another budget before it leaves no trace */
        for (int again = 0; again < 2; again++) {
            if (again) (void)run_config_set_budget(&c, 40);
            const int set = run_config_set_budget(&c, cases[i].tokens);
            CHECK(set == cases[i].want, "%s: %d", cases[i].text, set);
            if (set == 0) continue;
            const char *in = set < 0 ? last_failure() : c.json;
            CHECK(strstr(in, cases[i].json), "%s: %s, want %s", cases[i].text, in, cases[i].json);
            if (set < 0) continue;
            CHECK(run_config_parse(&d, "t", c.json) == 0 && strcmp(c.json, d.json) == 0, "%s",
                  last_failure());
            run_config_free(&d);
        }
        run_config_free(&c);
    }
}

/* Any text is taken or refused with one line, and what is taken reads back to the same JSON. */
static void fuzzed_configs_are_taken_or_refused(void)
{
    static const char *const seeds[] = {
        "{" MULTI ", \"num_of_selected_tokens\": 0.067, \"selector_cls\": \"last\", \"seed\": 7}",
        "{" RAW ", \"use_sink_cache\": true, \"num_sink_tokens\": 4, \"rope_theta\": 10000.5}",
        "{\"model_cls\": \"multi\", \"do_select_layers\": [2, 8, 18], \"rope_scaling\": "
        "{\"rope_type\": \"yarn\", \"factor\": 4.1}, \"pool\": \"none\"}",
        "{" H2O ", \"hh_ratio\": 0.2, \"recent_ratio\": 0.1, \"skip_prefill\": false}",
        "{" TIDAL ", \"correction_layer\": 7, \"num_of_selected_tokens\": 64, \"recent\": 3}",
        INFLLM_SMALL,
    };
    static const char alphabet[] = "{}[]\",:0123456789.eE-+ truefalsn\\u\x80\xff\x01_";
    struct rng r;
    int taken = 0;
    rng_seed(&r, 1);
    for (int i = 0; i < 20000; i++) {
        char text[512];
        struct run_config c, d;
        size_t n = (size_t)snprintf(text, sizeof text, "%s", seeds[rng_below(&r, COUNT_OF(seeds))]);
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
    keys_of_peers_are_honoured();
    configs_load();
    infllm_is_read_from_its_own_file();
    budgets_are_set_for_every_method();
    fuzzed_configs_are_taken_or_refused();
    return check_report("test_run_config");
}
