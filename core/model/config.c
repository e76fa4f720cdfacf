/* config.c - reads config.json, and refuses by name what it cannot honour. */
#include "core/model/config.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/model/rope.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bounds of the sizes: at least ten times the largest published model, and such that a matrix's
 * rows and columns fit an int and its bytes a size_t. */
#define MOST_LAYERS 4096
#define MOST_HEADS 4096
#define MOST_HEAD_WIDTH 4096
#define MOST_WIDTH (1 << 24)

static const struct {
    const char *name, *architecture;
} families[] = {
    [FAMILY_LLAMA] = {"llama", "LlamaForCausalLM"},
    [FAMILY_MISTRAL] = {"mistral", "MistralForCausalLM"},
    [FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM"},
    [FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM"},
};

const char *model_family_name(enum model_family f)
{
    return families[f].name;
}

static int read_family(struct model_config *c, const char *name, const cJSON *root)
{
    const char *type = NULL;
    const cJSON *list = json_member(root, "architectures");
    size_t f = 0;

    if (json_string(name, root, "model_type", &type)) return -1;
    while (type && f < COUNT_OF(families) && strcmp(type, families[f].name) != 0) f++;
    if (type == NULL || f == COUNT_OF(families))
        return fail("%s: \"model_type\": expected llama, mistral, qwen2 or qwen3, found %s", name,
                    type ? type : "nothing");
    c->family = (enum model_family)f;

    if (list == NULL) return 0;
    if (!cJSON_IsArray(list))
        return fail("%s: \"architectures\": expected a list, found %s", name, json_kind(list));
    for (const cJSON *item = list->child; item; item = item->next)
        if (!cJSON_IsString(item) || strcmp(item->valuestring, families[f].architecture) != 0)
            return fail("%s: \"architectures\": expected %s for model_type %s, found %s", name,
                        families[f].architecture, type,
                        cJSON_IsString(item) ? item->valuestring : json_kind(item));
    return 0;
}

/* Keys of related architectures that some checkpoints carry under a family read here. Each would
 * change the arithmetic, unless it has the value at which it does nothing: null, false, empty or
 * the number given. */
static int check_foreign(const char *name, const cJSON *root)
{
    static const struct {
        const char *key;
        double neutral;
    } foreign[] = {
        {"quantization_config", NAN},
        {"compression_config", NAN},
        {"num_experts", 0},
        {"num_local_experts", 0},
        {"n_routed_experts", 0},
        {"moe_intermediate_size", 0},
        {"embedding_multiplier", 1},
        {"attention_multiplier", NAN},
        {"residual_multiplier", 1},
        {"logits_scaling", 1},
        {"logit_scale", 1},
        {"attn_logit_softcapping", 0},
        {"final_logit_softcapping", 0},
        {"use_qk_norm", 0},
        {"qk_layernorm", 0},
        {"attention_chunk_size", 0},
        {"no_rope_layers", NAN},
    };
    for (size_t i = 0; i < COUNT_OF(foreign); i++) {
        const cJSON *item = json_member(root, foreign[i].key);
        if (item == NULL || cJSON_IsFalse(item)) continue;
        if (cJSON_IsNumber(item) && item->valuedouble == foreign[i].neutral) continue;
        if ((cJSON_IsArray(item) || cJSON_IsObject(item)) && item->child == NULL) continue;
        return fail("%s: \"%s\": expected no such key, found %s; it would change the arithmetic "
                    "and is not supported",
                    name, foreign[i].key, json_kind(item));
    }
    return 0;
}

static int required_int(const char *name, const cJSON *root, const char *key, long max, int *value)
{
    if (json_member(root, key) == NULL)
        return fail("%s: \"%s\": expected a whole number from 1 to %ld, found %s", name, key, max,
                    json_kind(cJSON_GetObjectItemCaseSensitive(root, key)));
    return json_int(name, root, key, 1, max, value);
}

/* Number of KV heads and head width, the two sizes that may be derived. */
static int read_heads(struct model_config *c, const char *name, const cJSON *root)
{
    /* Absent, the first Llama checkpoints mean one KV head for each query head; so does null. */
    if (c->family == FAMILY_LLAMA ||
        cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(root, "num_key_value_heads")))
        c->G = c->H;
    else if (required_int(name, root, "num_key_value_heads", MOST_HEADS, &c->G))
        return -1;
    if (json_int(name, root, "num_key_value_heads", 1, MOST_HEADS, &c->G)) return -1;
    if (c->H % c->G != 0)
        return fail("%s: \"num_key_value_heads\": expected a divisor of num_attention_heads (%d), "
                    "found %d",
                    name, c->H, c->G);

    if (json_member(root, "head_dim")) {
        if (json_int(name, root, "head_dim", 1, MOST_HEAD_WIDTH, &c->D)) return -1;
    } else if (c->family == FAMILY_QWEN3 &&
               cJSON_GetObjectItemCaseSensitive(root, "head_dim") == NULL) {
        c->D = 128; /* Qwen3's default does not follow from the other sizes */
    } else {
        if (c->E % c->H != 0)
            return fail("%s: \"hidden_size\": expected a multiple of num_attention_heads (%d) "
                        "where head_dim is not given, found %d",
                        name, c->H, c->E);
        c->D = c->E / c->H;
    }
    if (c->D % 2 != 0 || c->D > MOST_HEAD_WIDTH)
        return fail("%s: head width: expected an even number up to %d, found %d", name,
                    MOST_HEAD_WIDTH, c->D);
    return 0;
}

static int read_sizes(struct model_config *c, const char *name, const cJSON *root)
{
    double eps = 0;
    if (required_int(name, root, "num_hidden_layers", MOST_LAYERS, &c->L) ||
        required_int(name, root, "hidden_size", MOST_WIDTH, &c->E) ||
        required_int(name, root, "num_attention_heads", MOST_HEADS, &c->H) ||
        required_int(name, root, "intermediate_size", MOST_WIDTH, &c->F) ||
        required_int(name, root, "vocab_size", MOST_WIDTH, &c->V) ||
        required_int(name, root, "max_position_embeddings", INT_MAX, &c->max_position))
        return -1;
    if (json_member(root, "rms_norm_eps") == NULL)
        return fail("%s: \"rms_norm_eps\": expected a number from 0 to 1, found %s", name,
                    json_kind(cJSON_GetObjectItemCaseSensitive(root, "rms_norm_eps")));
    if (json_double(name, root, "rms_norm_eps", 0, 1, &eps)) return -1;
    c->norm_eps = (float)eps;
    return read_heads(c, name, root);
}

/* Which projections have biases is fixed in some families and a key in others; where it is fixed
 * the key means nothing, as in transformers. */
static int read_arithmetic(struct model_config *c, const char *name, const cJSON *root)
{
    const cJSON *act = cJSON_GetObjectItemCaseSensitive(root, "hidden_act");
    bool attention_bias = false, mlp_bias = false;

    if (act && !(cJSON_IsString(act) &&
                 (strcmp(act->valuestring, "silu") == 0 || strcmp(act->valuestring, "swish") == 0)))
        return fail("%s: \"hidden_act\": expected silu, found %s", name,
                    cJSON_IsString(act) ? act->valuestring : json_kind(act));
    if (json_bool(name, root, "attention_bias", &attention_bias) ||
        json_bool(name, root, "mlp_bias", &mlp_bias) ||
        json_bool(name, root, "tie_word_embeddings", &c->tied))
        return -1;
    bool given = c->family == FAMILY_LLAMA || c->family == FAMILY_QWEN3;
    for (int i = 0; i < 3; i++)
        c->qkv_bias[i] = c->family == FAMILY_QWEN2 || (given && attention_bias);
    c->out_bias = given && attention_bias;
    c->mlp_bias = c->family == FAMILY_LLAMA && mlp_bias;
    c->qk_norm = c->family == FAMILY_QWEN3;
    return 0;
}

/* Sets *SLIDING when a layer type asks for a sliding window; any other kind of layer is refused. */
static int read_layer_types(const struct model_config *c, const char *name, const cJSON *list,
                            bool *sliding)
{
    int layer = 0;
    *sliding = false;
    if (!cJSON_IsArray(list))
        return fail("%s: \"layer_types\": expected a list, found %s", name, json_kind(list));
    for (const cJSON *item = list->child; item; item = item->next, layer++) {
        const char *type = cJSON_IsString(item) ? item->valuestring : json_kind(item);
        if (strcmp(type, "sliding_attention") == 0)
            *sliding = true;
        else if (strcmp(type, "full_attention") != 0)
            return fail("%s: \"layer_types\": expected full_attention, found %s at layer %d", name,
                        type, layer);
    }
    if (layer != c->L)
        return fail("%s: \"layer_types\": expected %d layers, found %d", name, c->L, layer);
    return 0;
}

/* A sliding window is refused where it could act, that is where it is shorter than the longest
 * context of the model. */
static int read_window(struct model_config *c, const char *name, const cJSON *root)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, "sliding_window");
    const cJSON *types = json_member(root, "layer_types");
    const bool qwen = c->family == FAMILY_QWEN2 || c->family == FAMILY_QWEN3;
    bool use = !qwen, sliding = false;
    int window = c->family == FAMILY_LLAMA ? 0 : 4096; /* where the key is absent */
    int first = 28;                                    /* Qwen: layers below it see everything */

    if (item && cJSON_IsNull(item)) window = 0;
    if (json_int(name, root, "sliding_window", 0, INT_MAX, &window)) return -1;
    if (qwen && (json_bool(name, root, "use_sliding_window", &use) ||
                 json_int(name, root, "max_window_layers", 0, INT_MAX, &first)))
        return -1;
    if (types && read_layer_types(c, name, types, &sliding)) return -1;
    if (!use) window = 0;
    if (sliding && window == 0)
        return fail("%s: \"layer_types\": expected full_attention without a sliding window in use, "
                    "found sliding_attention",
                    name);
    if (qwen && types ? !sliding : qwen && first >= c->L) window = 0;
    if (window > 0 && window < model_config_limit(c))
        return fail("%s: \"sliding_window\": expected none (null), found %d%s; a window shorter "
                    "than the context (%d) is not supported",
                    name, window, item ? "" : " (what absent means)", model_config_limit(c));
    c->window = window;
    return 0;
}

/* Appends the stop tokens at eos_token_id, one or a list. Ids the vocabulary lacks can never be
 * produced and are left out. */
static int read_eos(struct model_config *c, const char *name, const cJSON *root)
{
    const cJSON *item = json_member(root, "eos_token_id");
    int rc = 0, *list = NULL, n = 1, one = -1;

    c->n_eos = 0;
    if (item == NULL) return 0;
    if (cJSON_IsArray(item)) {
        if (json_int_list(name, item, "\"eos_token_id\"", -1, INT_MAX, &list, &n)) return -1;
    } else if (json_int(name, root, "eos_token_id", -1, INT_MAX, &one)) {
        return -1;
    }
    for (int i = 0; rc == 0 && i < n; i++) {
        int id = list ? list[i] : one;
        if (id < 0 || id >= c->V) continue;
        if (c->n_eos == MODEL_MAX_EOS)
            rc = fail("%s: \"eos_token_id\": expected at most %d ids, found %d", name,
                      MODEL_MAX_EOS, n);
        else
            c->eos[c->n_eos++] = id;
    }
    free(list);
    return rc;
}

static int read_all(struct model_config *c, const char *name, const cJSON *root)
{
    memset(c, 0, sizeof *c);
    if (!cJSON_IsObject(root))
        return fail("%s: expected an object, found %s", name, json_kind(root));
    if (read_family(c, name, root) || check_foreign(name, root) || read_sizes(c, name, root) ||
        read_arithmetic(c, name, root) ||
        rope_config_read(&c->rope, name, root, c->max_position, c->D) ||
        read_window(c, name, root) || read_eos(c, name, root))
        return -1;
    c->bos = -1;
    if (json_int(name, root, "bos_token_id", -1, INT_MAX, &c->bos)) return -1;
    if (c->bos >= c->V) c->bos = -1; /* shrunken test models keep the id of the full vocabulary */
    return 0;
}

/* Replaces ROOT's keys by those of OVERRIDES. The RoPE keys act together: a new base goes before
 * one written inside a set of parameters, and a new set replaces both spellings but keeps the
 * base, unless it brings its own. */
static void apply_overrides(cJSON *root, const cJSON *overrides)
{
    static const char *const sets[] = {"rope_scaling", "rope_parameters"};
    bool new_base = json_member(overrides, "rope_theta") != NULL;
    bool new_set = cJSON_GetObjectItemCaseSensitive(overrides, sets[0]) != NULL ||
                   cJSON_GetObjectItemCaseSensitive(overrides, sets[1]) != NULL;

    for (int i = 1; i >= 0 && (new_base || new_set); i--) {
        cJSON *set = cJSON_GetObjectItemCaseSensitive(root, sets[i]);
        cJSON *base =
            cJSON_IsObject(set) ? cJSON_DetachItemFromObjectCaseSensitive(set, "rope_theta") : NULL;
        if (base) {
            cJSON_DeleteItemFromObjectCaseSensitive(root, "rope_theta");
            cJSON_AddItemToObject(root, "rope_theta", base);
        }
        if (new_set) cJSON_DeleteItemFromObjectCaseSensitive(root, sets[i]);
    }
    for (const cJSON *item = overrides->child; item; item = item->next) {
        cJSON_DeleteItemFromObjectCaseSensitive(root, item->string);
        cJSON_AddItemToObject(root, item->string, cJSON_Duplicate(item, true));
    }
}

/* The last component of DIR's real path; of its folder's, when DIR is a config.json itself. */
static void set_name(struct model_config *c, const char *dir)
{
    static const char file[] = "/config.json";
    char *path = realpath(dir, NULL);
    if (path == NULL) path = xstrdup(dir);
    size_t n = strlen(path);
    if (n >= sizeof file && strcmp(path + n - (sizeof file - 1), file) == 0)
        path[n - (sizeof file - 1)] = 0;
    const char *slash = strrchr(path, '/'), *last = slash && slash[1] ? slash + 1 : path;
    n = strlen(last) < sizeof c->name ? strlen(last) : sizeof c->name - 1;
    memcpy(c->name, last, n);
    c->name[n] = 0;
    free(path);
}

int model_config_load(struct model_config *c, const char *dir, const cJSON *overrides)
{
    int rc = -1;
    const bool changed = overrides && overrides->child;
    char *path = path_join(dir, "config.json"), *name = NULL;
    char *generation = path_join(dir, "generation_config.json");
    cJSON *root = NULL, *stops = NULL;

    name = changed ? xprintf("%s as the run config changes it", path) : xstrdup(path);
    if ((root = json_load(path)) == NULL) goto done;
    if (changed && cJSON_IsObject(root)) apply_overrides(root, overrides);
    if (read_all(c, name, root)) goto done;

    if (!(changed && json_member(overrides, "eos_token_id")) && access(generation, F_OK) == 0) {
        if ((stops = json_load(generation)) == NULL) goto done;
        if (json_member(stops, "eos_token_id") && read_eos(c, generation, stops)) goto done;
    }
    set_name(c, dir);
    rc = 0;

done:
    cJSON_Delete(root);
    cJSON_Delete(stops);
    free(generation);
    free(name);
    free(path);
    return rc;
}

/* The shapes as their publishers give them; pocket is configs/demo/pocket-llama. */
static const struct model_config shapes[] = {
    {.name = "llama-3-8b",
     .L = 32,
     .E = 4096,
     .H = 32,
     .G = 8,
     .D = 128,
     .F = 14336,
     .V = 128256,
     .norm_eps = 1e-5f,
     .max_position = 8192,
     .rope.theta = 500000,
     .bos = 128000,
     .eos = {128001},
     .n_eos = 1},
    {.name = "llama-3-70b",
     .L = 80,
     .E = 8192,
     .H = 64,
     .G = 8,
     .D = 128,
     .F = 28672,
     .V = 128256,
     .norm_eps = 1e-5f,
     .max_position = 8192,
     .rope.theta = 500000,
     .bos = 128000,
     .eos = {128001},
     .n_eos = 1},
    {.name = "pocket",
     .L = 12,
     .E = 256,
     .H = 8,
     .G = 4,
     .D = 64,
     .F = 640,
     .V = 2048,
     .norm_eps = 1e-5f,
     .max_position = 16384,
     .tied = true,
     .rope.theta = 500000,
     .bos = 0,
     .eos = {1, 4},
     .n_eos = 2},
};

int model_config_shape(struct model_config *c, const char *name)
{
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        if (strcmp(name, shapes[i].name) == 0) {
            *c = shapes[i];
            c->rope.factor = c->rope.low_freq = c->rope.high_freq = 1;
            c->rope.beta_fast = 32;
            c->rope.beta_slow = c->rope.attention_factor = 1;
            c->rope.original_max_position = c->max_position;
            c->rope.truncate = true;
            return 0;
        }

    size_t n = strlen(name);
    if (strchr(name, '/') == NULL && !(n > 5 && strcmp(name + n - 5, ".json") == 0))
        return fail("shape \"%s\": expected llama-3-8b, llama-3-70b, pocket or the path of a "
                    "config.json",
                    name);
    cJSON *root = json_load(name);
    int rc = root ? read_all(c, name, root) : -1;
    cJSON_Delete(root);
    if (rc == 0) set_name(c, name);
    return rc;
}

int model_config_limit(const struct model_config *c)
{
    if (c->rope.kind != ROPE_DYNAMIC) return c->max_position;
    double limit = c->max_position * c->rope.factor;
    return limit < INT_MAX ? (int)limit : INT_MAX;
}

double model_config_parameters(const struct model_config *c)
{
    const double E = c->E, F = c->F, Q = (double)c->H * c->D, K = (double)c->G * c->D;
    double layer = 2 * E + 2 * Q * E + 2 * K * E + 3 * F * E;
    layer += (c->qkv_bias[0] ? Q : 0) + (c->qkv_bias[1] ? K : 0) + (c->qkv_bias[2] ? K : 0);
    layer += (c->out_bias ? E : 0) + (c->mlp_bias ? 2 * F + E : 0) + (c->qk_norm ? 2 * c->D : 0);
    return c->L * layer + (c->tied ? 1 : 2) * (double)c->V * E + E;
}
