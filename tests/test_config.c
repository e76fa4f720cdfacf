/* test_config.c - config.json: what is read, what is derived, what is refused; RoPE frequencies. */
#include "core/base/base.h"
#include "core/model/config.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A complete llama config; cases change single keys of it. */
static const char base[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64,"
    " \"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"intermediate_size\": 176, \"vocab_size\": 512, \"max_position_embeddings\": 512,"
    " \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\"}";

static const char *folder(void)
{
    static const char *dir;
    if (dir == NULL) {
        dir = check_scratch("config");
        mkdir(dir, 0777);
    }
    return dir;
}

static void write_text(const char *name, const char *text, size_t size)
{
    char *path = xprintf("%s/%s", folder(), name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(text, 1, size, f) == size && fclose(f) == 0, "%s", path);
    free(path);
}

/* Writes BASE with the members of CHANGES (JSON members without braces) in the place of its own;
 * the string "-" removes a key. Then loads it with OVERRIDES (the same way, or NULL). */
static int load(struct model_config *c, const char *changes, const char *overrides)
{
    char *text = xprintf("{%s}", changes), *over = xprintf("{%s}", overrides ? overrides : "");
    cJSON *root = cJSON_Parse(base), *edit = cJSON_Parse(text), *replace = cJSON_Parse(over);
    CHECK(edit && replace, "%s; %s", text, over);
    for (const cJSON *item = edit ? edit->child : NULL; item; item = item->next) {
        cJSON_DeleteItemFromObjectCaseSensitive(root, item->string);
        if (!cJSON_IsString(item) || strcmp(item->valuestring, "-") != 0)
            cJSON_AddItemToObject(root, item->string, cJSON_Duplicate(item, true));
    }
    char *out = cJSON_PrintUnformatted(root);
    write_text("config.json", out, strlen(out));
    int rc = model_config_load(c, folder(), overrides ? replace : NULL);
    cJSON_free(out);
    cJSON_Delete(root);
    cJSON_Delete(edit);
    cJSON_Delete(replace);
    free(text);
    free(over);
    return rc;
}

/* The same for a config that must load. */
static struct model_config loaded(const char *changes, const char *overrides)
{
    struct model_config c;
    memset(&c, 0, sizeof c);
    int rc = load(&c, changes, overrides);
    CHECK(rc == 0, "%s: %s", changes, last_failure());
    return c;
}

static void keys_are_read(void)
{
    struct model_config c;
    c = loaded("", NULL);
    CHECK(c.family == FAMILY_LLAMA && c.L == 3 && c.E == 64 && c.H == 4 && c.G == 2 && c.D == 16 &&
              c.F == 176 && c.V == 512 && c.max_position == 512,
          "%d %d %d %d %d %d %d", c.L, c.E, c.H, c.G, c.D, c.F, c.V);
    CHECK(c.norm_eps == 1e-5f, "%g", (double)c.norm_eps);
    CHECK(!c.tied && !c.qkv_bias[0] && !c.out_bias && !c.mlp_bias && !c.qk_norm && c.window == 0,
          "defaults");
    CHECK(c.rope.kind == ROPE_DEFAULT && c.rope.theta == 10000, "%g", c.rope.theta);
    CHECK(c.bos == -1 && c.n_eos == 0, "%d %d", c.bos, c.n_eos);
    CHECK(strcmp(c.name, "config") == 0, "%s", c.name);

    c = loaded("\"head_dim\": 32, \"tie_word_embeddings\": true, \"attention_bias\": true", NULL);
    CHECK(c.D == 32 && c.tied && c.qkv_bias[2] && c.out_bias && !c.mlp_bias, "options");
    c = loaded("\"head_dim\": null, \"num_key_value_heads\": null, \"unheard_of\": 3", NULL);
    CHECK(c.D == 16 && c.G == 4, "%d %d", c.D, c.G);
    c = loaded("\"num_key_value_heads\": \"-\"", NULL);
    CHECK(c.G == 4, "%d", c.G);
}

static void families_differ(void)
{
    struct model_config c;
    c = loaded("\"model_type\": \"mistral\", \"architectures\": [\"MistralForCausalLM\"],"
               "\"sliding_window\": null",
               NULL);
    CHECK(c.family == FAMILY_MISTRAL && !c.qkv_bias[0], "mistral");
    c = loaded("\"model_type\": \"qwen2\", \"architectures\": [\"Qwen2ForCausalLM\"]", NULL);
    CHECK(c.qkv_bias[0] && c.qkv_bias[1] && c.qkv_bias[2] && !c.out_bias && !c.qk_norm, "qwen2");
    c = loaded("\"model_type\": \"qwen3\", \"architectures\": [\"Qwen3ForCausalLM\"]", NULL);
    CHECK(c.qk_norm && c.D == 128 && !c.qkv_bias[0], "qwen3: head width %d", c.D);
    c = loaded("\"model_type\": \"qwen3\", \"architectures\": null, \"attention_bias\": true",
               NULL);
    CHECK(c.out_bias && c.qkv_bias[1], "qwen3 with bias");
}

/* A window as long as the context changes nothing; a shorter one is in use. */
static void windows_out_of_use_pass(void)
{
    struct model_config c;
    static const char mistral[] = "\"model_type\": \"mistral\", \"architectures\": null";
    static const char qwen[] = "\"model_type\": \"qwen2\", \"architectures\": null";
    static const struct {
        const char *family, *keys;
        int window; /* expected, or -1: refused */
    } cases[] = {
        {mistral, "\"sliding_window\": 512", 512},
        {mistral, "\"sliding_window\": 511", -1},
        {mistral, "\"rms_norm_eps\": 1e-6", 4096}, /* what absent means */
        {mistral, "\"max_position_embeddings\": 8192", -1},
        {qwen, "\"sliding_window\": 64", 0},
        {qwen, "\"sliding_window\": 64, \"use_sliding_window\": true", 0}, /* from layer 28 */
        {qwen, "\"sliding_window\": 64, \"use_sliding_window\": true, \"max_window_layers\": 2",
         -1},
        {qwen, "\"sliding_window\": 600, \"use_sliding_window\": true, \"max_window_layers\": 2",
         600},
        {qwen, "\"sliding_window\": null, \"use_sliding_window\": true, \"max_window_layers\": 0",
         0},
        {qwen, "\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\"]", 0},
        {qwen, "\"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\"]",
         -1},
        {qwen, "\"layer_types\": [\"full_attention\", \"chunked_attention\", \"full_attention\"]",
         -1},
        {qwen, "\"layer_types\": [\"full_attention\"]", -1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *keys = xprintf("%s, %s", cases[i].family, cases[i].keys);
        int rc = load(&c, keys, NULL);
        CHECK(rc == (cases[i].window < 0 ? -1 : 0), "%s: %d", keys, rc);
        if (rc == 0) CHECK(c.window == cases[i].window, "%s: %d", keys, c.window);
        free(keys);
    }
}

/* Everything that would change the arithmetic, or that is no config at all, is refused by name. */
static void wrong_keys_are_refused(void)
{
    static const struct {
        const char *keys, *said; /* SAID is part of the message */
    } cases[] = {
        {"\"model_type\": \"gemma\"", "\"model_type\": expected llama"},
        {"\"model_type\": \"-\"", "\"model_type\""},
        {"\"architectures\": [\"LlamaModel\"]", "expected LlamaForCausalLM"},
        {"\"architectures\": \"LlamaForCausalLM\"", "\"architectures\": expected a list"},
        {"\"hidden_size\": \"-\"", "\"hidden_size\""},
        {"\"hidden_size\": null", "\"hidden_size\""},
        {"\"hidden_size\": \"64\"", "\"hidden_size\""},
        {"\"hidden_size\": 66", "\"hidden_size\": expected a multiple"},
        {"\"hidden_size\": 1e300", "\"hidden_size\""},
        {"\"num_hidden_layers\": \"-\"", "\"num_hidden_layers\""},
        {"\"num_hidden_layers\": 0", "\"num_hidden_layers\""},
        {"\"num_hidden_layers\": 2.5", "\"num_hidden_layers\""},
        {"\"num_hidden_layers\": 2000000000", "\"num_hidden_layers\""},
        {"\"num_attention_heads\": null", "\"num_attention_heads\""},
        {"\"num_attention_heads\": 3", "num_attention_heads"},
        {"\"num_key_value_heads\": 3", "\"num_key_value_heads\": expected a divisor"},
        {"\"num_key_value_heads\": 0", "\"num_key_value_heads\""},
        {"\"intermediate_size\": -1", "\"intermediate_size\""},
        {"\"vocab_size\": \"-\"", "\"vocab_size\""},
        {"\"max_position_embeddings\": \"-\"", "\"max_position_embeddings\""},
        {"\"rms_norm_eps\": \"-\"", "\"rms_norm_eps\""},
        {"\"rms_norm_eps\": null", "\"rms_norm_eps\""},
        {"\"rms_norm_eps\": -1", "\"rms_norm_eps\""},
        {"\"head_dim\": 15", "head width: expected an even number"},
        {"\"head_dim\": 100000", "\"head_dim\""},
        {"\"model_type\": \"qwen2\", \"architectures\": null, \"num_key_value_heads\": \"-\"",
         "\"num_key_value_heads\""},
        {"\"hidden_act\": \"gelu\"", "\"hidden_act\": expected silu, found gelu"},
        {"\"hidden_act\": null", "\"hidden_act\""},
        {"\"attention_bias\": \"no\"", "\"attention_bias\""},
        {"\"quantization_config\": {\"bits\": 4}", "\"quantization_config\""},
        {"\"num_local_experts\": 8", "\"num_local_experts\""},
        {"\"final_logit_softcapping\": 30.0", "\"final_logit_softcapping\""},
        {"\"residual_multiplier\": 0.22", "\"residual_multiplier\""},
        {"\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\""},
        {"\"sliding_window\": 64", "\"sliding_window\""},
        {"\"eos_token_id\": \"</s>\"", "\"eos_token_id\""},
        {"\"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", "\"eos_token_id\""},
        {"\"bos_token_id\": {}", "\"bos_token_id\""},
        {"\"rope_theta\": 0", "\"rope_theta\""},
        {"\"rope_theta\": null", "\"rope_theta\""},
        {"\"rope_theta\": [1]", "\"rope_theta\""},
        {"\"rope_scaling\": \"linear\"", "\"rope_scaling\": expected an object"},
        {"\"rope_scaling\": {\"type\": \"su\", \"factor\": 4}", "found su"},
        {"\"rope_scaling\": {\"rope_type\": \"longrope\"}", "found longrope"},
        {"\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [1, 1]}", "found mrope"},
        {"\"rope_scaling\": {\"type\": \"default\", \"mrope_section\": [1, 1]}", "mrope_section"},
        {"\"rope_scaling\": {\"factor\": 4}", "\"rope_type\""},
        {"\"rope_scaling\": {\"type\": \"linear\"}", "\"factor\""},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": null}", "\"factor\""},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}", "\"factor\""},
        {"\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}, \"head_dim\": 2", "dynamic"},
        {"\"rope_parameters\": {\"partial_rotary_factor\": 0.25}", "partial_rotary_factor"},
        {"\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}",
         "one for each kind of layer"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"attention_factor\": 0}",
         "\"attention_factor\""},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1, \"beta_slow\": "
         "2}",
         "\"beta_fast\""},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1}",
         "\"high_freq_factor\""},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4,"
         " \"high_freq_factor\": 4}",
         "\"high_freq_factor\": expected more"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4},"
         " \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2}",
         "disagree"},
    };
    struct model_config c;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CHECK(load(&c, cases[i].keys, NULL) == -1, "%s", cases[i].keys);
        CHECK(strstr(last_failure(), cases[i].said) && strstr(last_failure(), "/config.json: "),
              "%s: %s", cases[i].keys, last_failure());
    }
    static const char *const texts[] = {"",
                                        "[]",
                                        "3",
                                        "{",
                                        "{\"model_type\": \"llama\"} x",
                                        "{\"model_type\": \"llama\", \"model_type\": \"llama\"}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        write_text("config.json", texts[i], strlen(texts[i]));
        CHECK(model_config_load(&c, folder(), NULL) == -1, "%s", texts[i]);
    }
    CHECK(model_config_load(&c, "/nonexistent", NULL) == -1, "no such directory");
}

static void overrides_replace_keys(void)
{
    struct model_config c;
    static const char modern[] = "\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4,"
                                 "\"rope_theta\": 500000}";
    c = loaded("\"rope_theta\": 5000", "\"rope_theta\": 20000, \"rms_norm_eps\": 1e-6");
    CHECK(c.rope.theta == 20000 && c.norm_eps == 1e-6f, "%g", c.rope.theta);
    c = loaded(modern, "\"rope_theta\": 20000");
    CHECK(c.rope.theta == 20000 && c.rope.kind == ROPE_LINEAR,
          "a new base goes before the one inside the set: %g", c.rope.theta);
    c = loaded(modern, "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}");
    CHECK(c.rope.theta == 500000 && c.rope.kind == ROPE_DYNAMIC, "a new set keeps the base: %g %s",
          c.rope.theta, rope_kind_name(c.rope.kind));
    c = loaded(modern, "\"rope_scaling\": null");
    CHECK(c.rope.theta == 500000 && c.rope.kind == ROPE_DEFAULT, "no scaling any more: %s",
          rope_kind_name(c.rope.kind));
    c = loaded("\"sliding_window\": 64", "\"sliding_window\": null");
    CHECK(load(&c, "", "\"hidden_act\": \"relu\"") == -1 &&
              strstr(last_failure(), "as the run config changes it: \"hidden_act\""),
          "%s", last_failure());
}

static void stop_tokens_are_found(void)
{
    struct model_config c;
    static const char both[] = "{\"eos_token_id\": [7, 9, 600, -1]}", none[] = "{}", bad[] = "{";
    c = loaded("\"eos_token_id\": 5, \"bos_token_id\": 4", NULL);
    CHECK(c.n_eos == 1 && c.eos[0] == 5 && c.bos == 4, "%d", c.n_eos);
    write_text("generation_config.json", both, strlen(both));
    c = loaded("\"eos_token_id\": 5", NULL);
    CHECK(c.n_eos == 2 && c.eos[0] == 7 && c.eos[1] == 9,
          "those of generation_config.json inside the vocabulary: %d", c.n_eos);
    c = loaded("\"eos_token_id\": 5", "\"eos_token_id\": [8]");
    CHECK(c.n_eos == 1 && c.eos[0] == 8, "the run config's go first: %d", c.n_eos);
    write_text("generation_config.json", none, strlen(none));
    c = loaded("\"eos_token_id\": [5, 6]", NULL);
    CHECK(c.n_eos == 2, "%d", c.n_eos);
    write_text("generation_config.json", bad, strlen(bad));
    CHECK(load(&c, "", NULL) == -1, "a broken generation_config.json");
    write_text("generation_config.json", none, strlen(none));
}

static void checkpoints_of_the_repository_load(void)
{
    static const struct {
        const char *dir;
        enum rope_kind kind;
        double parameters; /* what the files hold: bytes of data / bytes of a value */
    } cases[] = {
        {"tests/data/golden/models/llama-gqa", ROPE_DEFAULT, 204224},
        {"tests/data/golden/models/llama-headdim-bias", ROPE_DEFAULT, 243296},
        {"tests/data/golden/models/llama-mha-bf16", ROPE_DEFAULT, 183744},
        {"tests/data/golden/models/llama-rope-llama3", ROPE_LLAMA3, 204224},
        {"tests/data/golden/models/qwen2", ROPE_DEFAULT, 204608},
        {"configs/demo/pocket-llama", ROPE_DEFAULT, 11147520},
    };
    struct model_config c;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CHECK(model_config_load(&c, cases[i].dir, NULL) == 0, "%s", cases[i].dir);
        CHECK(c.rope.kind == cases[i].kind, "%s: %s", cases[i].dir, rope_kind_name(c.rope.kind));
        CHECK(model_config_parameters(&c) == cases[i].parameters, "%s: %.0f", cases[i].dir,
              model_config_parameters(&c));
        CHECK(strcmp(c.name, strrchr(cases[i].dir, '/') + 1) == 0, "%s", c.name);
    }
}

static void shapes_are_as_published(void)
{
    struct model_config c, file;
    /* the counts of the model cards */
    static const struct {
        const char *name;
        double parameters;
    } published[] = {{"llama-3-8b", 8030261248.0}, {"llama-3-70b", 70553706496.0}};
    for (size_t i = 0; i < COUNT_OF(published); i++) {
        CHECK(model_config_shape(&c, published[i].name) == 0, "%s", published[i].name);
        double n = model_config_parameters(&c);
        CHECK(n == published[i].parameters, "%s: %.0f", published[i].name, n);
    }
    CHECK(model_config_shape(&c, "pocket") == 0 &&
              model_config_shape(&file, "configs/demo/pocket-llama/config.json") == 0,
          "pocket");
    CHECK(strcmp(file.name, "pocket-llama") == 0, "%s", file.name);
    CHECK(c.L == file.L && c.E == file.E && c.H == file.H && c.G == file.G && c.D == file.D &&
              c.F == file.F && c.V == file.V && c.norm_eps == file.norm_eps &&
              c.max_position == file.max_position && c.tied == file.tied && c.bos == file.bos &&
              c.n_eos == file.n_eos && c.rope.kind == file.rope.kind &&
              c.rope.theta == file.rope.theta,
          "the shape pocket is the demo's model");
    CHECK(model_config_shape(&c, "llama-3-9b") == -1 && strstr(last_failure(), "llama-3-8b"), "%s",
          last_failure());
}

static void limit_is_the_trained_length(void)
{
    struct model_config c;
    c = loaded("\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}", NULL);
    CHECK(model_config_limit(&c) == 512, "%d", model_config_limit(&c));
    c = loaded("\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.5}", NULL);
    CHECK(model_config_limit(&c) == 1280, "%d", model_config_limit(&c));
    c = loaded("\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 1e15}", NULL);
    CHECK(model_config_limit(&c) == 2147483647, "%d", model_config_limit(&c));
}

/* Closed forms. pow() in float32 is right to 1 unit in the last place (2^-23 relative), and at most
 * four roundings follow it: 1e-6 leaves room for twice that. */
static void frequencies_follow_the_formulas(void)
{
    struct model_config c;
    float plain[8], f[8], scale;
    c = loaded("\"rope_theta\": 500000", NULL);
    rope_frequencies(&c, 100, plain, &scale);
    CHECK(scale == 1 && plain[0] == 1, "pair 0 turns by one radian");
    for (int i = 0; i < 8; i++) {
        double want = pow(500000, -2.0 * i / 16);
        CHECK(fabs(plain[i] / want - 1) < 1e-6, "default: %d: %g, want %g", i, (double)plain[i],
              want);
    }

    c = loaded("\"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 8}",
               NULL);
    rope_frequencies(&c, 100, f, &scale);
    for (int i = 0; i < 8; i++) CHECK(f[i] == plain[i] / 8, "linear: %d: %g", i, (double)f[i]);

    c = loaded("\"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}",
               NULL);
    rope_frequencies(&c, 512, f, &scale);
    CHECK(memcmp(f, plain, sizeof f) == 0, "dynamic up to the trained length is the default");
    rope_frequencies(&c, 1024, f, &scale);
    for (int i = 0; i < 8; i++) {
        double stretched = 500000 * pow(2.0 * 1024 / 512 - 1, 16.0 / 14);
        double want = pow(stretched, -2.0 * i / 16);
        CHECK(fabs(f[i] / want - 1) < 1e-6, "dynamic: %d: %g, want %g", i, (double)f[i], want);
    }

    c = loaded("\"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4,"
               "\"original_max_position_embeddings\": 128}",
               NULL);
    rope_frequencies(&c, 100, f, &scale);
    CHECK(fabs(scale - (0.1 * log(4) + 1)) < 1e-6, "yarn: %g", (double)scale);
    CHECK(f[0] == plain[0], "yarn leaves the fastest pair: %g", (double)f[0]);
    CHECK(fabsf(f[7] * 4 / plain[7] - 1) < 1e-6f, "yarn divides the slowest: %g", (double)f[7]);

    c = loaded("\"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8,"
               "\"low_freq_factor\": 1, \"high_freq_factor\": 4,"
               "\"original_max_position_embeddings\": 128}",
               NULL);
    rope_frequencies(&c, 100, f, &scale);
    for (int i = 0; i < 8; i++) {
        double wave = 2 * acos(-1) / (double)plain[i], smooth = (128 / wave - 1) / 3;
        double part = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        double want = (double)plain[i] * ((1 - part) / 8 + part);
        CHECK(fabs(f[i] / want - 1) < 1e-6, "llama3: %d: %g, want %g", i, (double)f[i], want);
    }
}

/* Values of transformers 5.23 for BASE with the keys given. Its pow() is right to one unit in the
 * last place, which the base of dynamic scaling passes on: 2 units of 2^-23 relative to a power of
 * two, at most 2.4e-7. */
static void frequencies_are_those_of_transformers(void)
{
    static const struct {
        const char *what;
        int length;
        const char *keys;
        float scale, want[8];
    } cases[] = {
        {"old linear",
         300,
         "\"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}",
         1,
         {0.25f, 0.079056941f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f,
          0.000250000012f, 7.90569466e-05f}},
        {"dynamic past the trained length",
         2000,
         "\"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}",
         1,
         {1, 0.240412042f, 0.057797946f, 0.0138953235f, 0.00334060285f, 0.000803121133f,
          0.000193079992f, 4.64187542e-05f}},
        {"yarn",
         300,
         "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
         "\"original_max_position_embeddings\": 128}",
         1.13862944f,
         {1, 0.121201724f, 0.00940150768f, 0.00182316627f, 0.000353553361f, 6.85620471e-05f,
          1.32957393e-05f, 2.57834631e-06f}},
        {"yarn with mscale, not truncated",
         300,
         "\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 10000.0, \"factor\": 8.0, "
         "\"original_max_position_embeddings\": 64, \"mscale\": 1.0, \"mscale_all_dim\": 0.7, "
         "\"truncate\": false, \"beta_fast\": 16, \"beta_slow\": 2}",
         1.05445647f,
         {1, 0.120533988f, 0.0125000002f, 0.00395284733f, 0.00124999997f, 0.000395284733f,
          0.000125000006f, 3.95284733e-05f}},
        {"yarn with attention_factor",
         300,
         "\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 10000.0, \"factor\": 2.5, "
         "\"attention_factor\": 1.3}",
         1.29999995f,
         {1, 0.268793583f, 0.0700000003f, 0.0173925273f, 0.00400000019f, 0.00126491114f,
          0.00039999999f, 0.000126491112f}},
        {"llama3",
         300,
         "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000.0, \"factor\": "
         "8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
         "\"original_max_position_embeddings\": 256}",
         1,
         {1, 0.193922758f, 0.0105382307f, 0.000911583134f, 0.000176776681f, 3.42810235e-05f,
          6.64786967e-06f, 1.28917316e-06f}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct model_config c;
        float f[8], scale;
        c = loaded(cases[i].keys, NULL);
        rope_frequencies(&c, cases[i].length, f, &scale);
        CHECK(scale == cases[i].scale, "%s: scale %.9g, want %.9g", cases[i].what, (double)scale,
              (double)cases[i].scale);
        for (int k = 0; k < 8; k++)
            CHECK(fabsf(f[k] - cases[i].want[k]) <= 2.4e-7f * cases[i].want[k],
                  "%s: %d: %.9g, want %.9g", cases[i].what, k, (double)f[k],
                  (double)cases[i].want[k]);
    }
}

static void spellings_mean_the_same(void)
{
    static const char *const pairs[][2] = {
        {"\"rope_theta\": 5e5", "\"rope_parameters\": {\"rope_theta\": 5e5}"},
        {"\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 3}",
         "\"rope_parameters\": {\"rope_type\": \"dynamic\", \"rope_theta\": 5e5, \"factor\": 3}"},
        {"\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 3},"
         " \"rope_parameters\": {\"rope_type\": \"linear\", \"rope_theta\": 5e5, \"factor\": 3}",
         "\"rope_theta\": 1e4, \"rope_scaling\": {},"
         " \"rope_parameters\": {\"type\": \"linear\", \"rope_theta\": 5e5, \"factor\": 3}"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}",
         "\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"beta_fast\": null,"
         " \"original_max_position_embeddings\": 512, \"mscale\": 0}"},
        {"\"original_max_position_embeddings\": 128, \"rope_scaling\": {\"type\": \"yarn\","
         " \"factor\": 4, \"original_max_position_embeddings\": 256}",
         "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": null,"
         " \"original_max_position_embeddings\": 128}"},
    };
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        struct model_config a, b;
        CHECK(load(&a, pairs[i][0], NULL) == 0 && load(&b, pairs[i][1], NULL) == 0, "pair %zu: %s",
              i, last_failure());
        CHECK(a.rope.kind == b.rope.kind && a.rope.theta == b.rope.theta &&
                  a.rope.factor == b.rope.factor &&
                  a.rope.original_max_position == b.rope.original_max_position &&
                  a.rope.attention_factor == b.rope.attention_factor &&
                  a.rope.beta_fast == b.rope.beta_fast && a.rope.truncate == b.rope.truncate,
              "pair %zu", i);
    }
}

/* What loads must be usable: sizes within their bounds and finite frequencies. */
static void check_usable(const struct model_config *c)
{
    CHECK(c->L > 0 && c->E > 0 && c->G > 0 && c->H % c->G == 0 && c->D > 0 && c->D % 2 == 0 &&
              c->D <= 4096 && c->F > 0 && c->V > 0 && c->max_position > 0 &&
              c->n_eos <= MODEL_MAX_EOS,
          "a config of impossible sizes was taken");
    float *f = xmalloc((size_t)c->D / 2 * sizeof *f), scale;
    rope_frequencies(c, 1000, f, &scale);
    bool finite = isfinite(scale);
    for (int i = 0; i < c->D / 2; i++) finite = finite && isfinite(f[i]);
    CHECK(finite, "a config with a frequency that is not finite was taken");
    free(f);
}

/* Random edits of a config, of its bytes and of its values: it loads or it fails with a message,
 * and nothing else happens. */
static void random_edits_do_no_harm(void)
{
    static const char *const values[] = {
        "null",     "-1",    "0",      "1",          "2",         "3",
        "64",       "1e400", "-1e308", "2147483648", "0.5",       "\"\"",
        "\"yarn\"", "[]",    "{}",     "true",       "[1, null]", "{\"rope_type\": \"yarn\"}",
        "1e15"};
    static const char *const keys[] = {"model_type",
                                       "architectures",
                                       "hidden_size",
                                       "num_hidden_layers",
                                       "num_attention_heads",
                                       "num_key_value_heads",
                                       "head_dim",
                                       "intermediate_size",
                                       "vocab_size",
                                       "rope_theta",
                                       "max_position_embeddings",
                                       "rms_norm_eps",
                                       "hidden_act",
                                       "rope_scaling",
                                       "rope_parameters",
                                       "sliding_window",
                                       "layer_types",
                                       "eos_token_id",
                                       "bos_token_id",
                                       "use_sliding_window",
                                       "tie_word_embeddings",
                                       "quantization_config",
                                       "original_max_position_embeddings"};
    static const char *const inner[] = {"rope_type",
                                        "type",
                                        "factor",
                                        "rope_theta",
                                        "beta_fast",
                                        "beta_slow",
                                        "attention_factor",
                                        "mscale",
                                        "mscale_all_dim",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "truncate",
                                        "original_max_position_embeddings"};
    static const char *const types[] = {"linear", "dynamic", "yarn", "llama3"};
    struct rng r;
    struct model_config c;
    char text[sizeof base];
    int taken = 0;

    rng_seed(&r, 7);
    for (int i = 0; i < 600; i++) {
        memcpy(text, base, sizeof base);
        for (uint32_t edits = 1 + rng_below(&r, 3); edits > 0; edits--)
            text[rng_below(&r, sizeof base - 1)] = (char)rng_below(&r, 256);
        write_text("config.json", text,
                   rng_below(&r, 10) ? sizeof base - 1 : rng_below(&r, sizeof base));
        if (model_config_load(&c, folder(), NULL) == 0) {
            check_usable(&c);
            taken++;
        }
    }
    write_text("config.json", base, sizeof base - 1);
    for (int i = 0; i < 1500; i++) {
        char *edit =
            i % 2 ? xprintf("\"%s\": %s, \"%s\": %s", keys[rng_below(&r, COUNT_OF(keys))],
                            values[rng_below(&r, COUNT_OF(values))], "tie_word_embeddings", "true")
                  : xprintf("\"rope_scaling\": {\"type\": \"%s\", \"factor\": 4, \"%s\": "
                            "%s, \"low_freq_factor\": 1, \"high_freq_factor\": 4}",
                            types[rng_below(&r, COUNT_OF(types))],
                            inner[rng_below(&r, COUNT_OF(inner))],
                            values[rng_below(&r, COUNT_OF(values))]);
        cJSON *over;
        char *whole = xprintf("{%s}", edit);
        if ((over = cJSON_Parse(whole)) != NULL) {
            if (model_config_load(&c, folder(), over) == 0) {
                check_usable(&c);
                taken++;
            } else {
                CHECK(last_failure()[0] != 0, "%s", whole);
            }
        }
        cJSON_Delete(over);
        free(whole);
        free(edit);
    }
    CHECK(taken > 300, "some edits leave a config that loads: %d", taken);
}

int main(void)
{
    mute_failures(true);
    keys_are_read();
    families_differ();
    windows_out_of_use_pass();
    wrong_keys_are_refused();
    overrides_replace_keys();
    stop_tokens_are_found();
    checkpoints_of_the_repository_load();
    shapes_are_as_published();
    limit_is_the_trained_length();
    frequencies_follow_the_formulas();
    frequencies_are_those_of_transformers();
    spellings_mean_the_same();
    random_edits_do_no_harm();
    return check_report("config");
}
