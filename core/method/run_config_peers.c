/* run_config_peers.c - the keys of the methods that OmniKV is compared with. */
#include "core/method/run_config_read.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <float.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_LAYER 9999

/* ---- h2o */

/* The sizes are those of a prompt's tokens, as every other budget here is, and what is decoded is
 * kept; the original's ratios stand for its algorithm, in which each step evicts. */
static int read_h2o(const char *name, const cJSON *root, struct run_config *c)
{
    static const char *const when[] = {"prefill", "step", NULL};
    const bool ratios = json_member(root, "hh_ratio") || json_member(root, "recent_ratio");
    const bool sizes = json_member(root, "hh_size") || json_member(root, "recent_size");
    const cJSON *segment = json_member(root, "seg_size");
    int evict = ratios, heavy = 0, recent = 0;

    if (ratios && sizes)
        return fail("%s: \"hh_ratio\" and \"recent_ratio\", or \"hh_size\" and \"recent_size\": "
                    "expected one kind, found both",
                    name);
    if (json_double(name, root, "hh_ratio", 0, 1, &c->heavy) ||
        json_double(name, root, "recent_ratio", 0, 1, &c->heavy_recent) ||
        json_int(name, root, "hh_size", 0, INT_MAX, &heavy) ||
        json_int(name, root, "recent_size", 0, INT_MAX, &recent) ||
        run_config_read_name(name, root, "evict", when, &evict) ||
        json_bool(name, root, "skip_prefill", &c->skip_prefill) ||
        json_bool(name, root, "first_step_dense", &c->first_step_dense))
        return -1;
    if (segment && cJSON_IsString(segment) && strcmp(segment->valuestring, "auto") == 0)
        c->segment = 0;
    else if (json_int(name, root, "seg_size", 1, INT_MAX, &c->segment))
        return -1;
    c->evict_steps = evict == 1;
    if (sizes) c->heavy = heavy, c->heavy_recent = recent;
    if (c->method != METHOD_H2O) return 0;
    if (!ratios && !sizes)
        return fail("%s: model_cls h2o needs \"hh_ratio\" and \"recent_ratio\" (shares of the "
                    "prompt), or \"hh_size\" and \"recent_size\" (tokens)",
                    name);
    if (ratios && (c->heavy >= 1 || c->heavy_recent >= 1)) /* 1 and more are sizes from here on */
        return fail(
            "%s: \"hh_ratio\" and \"recent_ratio\": expected shares below 1, found %g and %g", name,
            c->heavy, c->heavy_recent);
    if (c->heavy + c->heavy_recent <= 0)
        return fail("%s: model_cls h2o: expected heavy or recent tokens above 0, found both 0",
                    name);
    if (c->first_step_dense && (!c->evict_steps || !c->skip_prefill))
        return fail("%s: \"first_step_dense\": true goes with \"evict\": \"step\" and "
                    "\"skip_prefill\": true",
                    name);
    return 0;
}

/* ---- infllm, streaming, infinite-lm */

static const char *const far_keys[] = {FAR_KEYS, NULL};
static const char *const far_types[] = {"inf-llm", "stream-llm", "infinite-lm", "origin", NULL};
static const char *const far_policies[] = {"lru", "lru-s", NULL};

/* The `model` section of the original's YAML. */
static int read_far(const char *name, const cJSON *o, struct run_config *c)
{
    struct far_rule *f = &c->far;
    const char *path = NULL;
    bool ignored = false;
    int type = c->method == METHOD_STREAMING ? 1 : c->method == METHOD_INFINITE_LM ? 2 : 0;
    int policy = f->policy, first = type;
    double base = 0, scale = 1;

    if (run_config_read_name(name, o, "type", far_types, &type) ||
        json_string(name, o, "path", &path) || json_string(name, o, "tokenizer_path", &path) ||
        json_int(name, o, "n_init", 0, INT_MAX, &f->n_init) ||
        json_int(name, o, "n_local", 1, INT_MAX, &f->n_local) ||
        json_int(name, o, "topk", 1, INT_MAX, &f->topk) ||
        json_int(name, o, "block_size", 1, INT_MAX, &f->block_size) ||
        json_int(name, o, "repr_topk", 1, INT_MAX, &f->repr_topk) ||
        json_int(name, o, "exc_block_size", 1, INT_MAX, &f->exc_block_size) ||
        json_int(name, o, "max_cached_block", 1, INT_MAX, &f->max_cached) ||
        run_config_read_name(name, o, "cache_strategy", far_policies, &policy) ||
        json_double(name, o, "score_decay", 0, 1, &f->decay) ||
        json_double(name, o, "base", 1, DBL_MAX, &base) ||
        json_double(name, o, "distance_scale", DBL_MIN, 1, &scale) ||
        json_bool(name, o, "fattn", &ignored) || json_bool(name, o, "pin_memory", &ignored) ||
        json_bool(name, o, "async_global_stream", &ignored) ||
        run_config_refuse_true(name, o, "faiss",
                               "the search for blocks is exact; set it to false") ||
        run_config_refuse_true(name, o, "perhead",
                               "blocks are chosen for all heads; set it to false"))
        return -1;
    if (json_member(o, "chunk_topk_calc"))
        return fail("%s: \"chunk_topk_calc\" is not supported: blocks are chosen for each "
                    "exc_block_size queries; remove it",
                    name);
    if (c->method != METHOD_INFLLM && type != first)
        return fail("%s: \"type\": expected \"%s\" under this model_cls, found \"%s\"", name,
                    far_types[first], far_types[type]);
    if (type == 3)
        return fail("%s: \"type\" \"origin\" is dense decoding: use model_cls \"raw_llama\"", name);
    c->method = type == 1 ? METHOD_STREAMING : type == 2 ? METHOD_INFINITE_LM : METHOD_INFLLM;
    f->policy = (enum block_policy)policy;
    f->turned = c->method == METHOD_STREAMING;
    f->away = c->blocks_away;
    if (c->method != METHOD_INFLLM) f->topk = 0;
    if (c->method == METHOD_INFLLM && f->exc_block_size > f->n_local)
        return fail("%s: \"exc_block_size\": expected at most n_local (%d), found %d", name,
                    f->n_local, f->exc_block_size);
    if (c->method == METHOD_INFLLM && f->topk > f->max_cached)
        return fail("%s: \"max_cached_block\": expected at least topk (%d), found %d", name,
                    f->topk, f->max_cached);
    if (c->method == METHOD_INFLLM && f->repr_topk > f->block_size)
        return fail("%s: \"repr_topk\": expected at most block_size (%d), found %d", name,
                    f->block_size, f->repr_topk);
    /* the original sets these on the model */
    if (scale != 1 && c->rope_factor > 0)
        return fail(
            "%s: \"rope_factor\" and \"distance_scale\" both set the position scaling; keep "
            "one",
            name);
    if (c->model_overrides == NULL) c->model_overrides = cJSON_CreateObject();
    if (base > 0) cJSON_AddNumberToObject(c->model_overrides, "rope_theta", base);
    if (scale != 1) {
        cJSON *scaling = cJSON_AddObjectToObject(c->model_overrides, "rope_scaling");
        cJSON_AddStringToObject(scaling, "rope_type", "linear");
        cJSON_AddNumberToObject(scaling, "factor", 1 / scale); /* read as a number, not as text */
    }
    if (c->model_overrides->child == NULL) {
        cJSON_Delete(c->model_overrides);
        c->model_overrides = NULL;
    }
    return 0;
}

/* infllm_cfg_path: a JSON file of the YAML's structure, found from the working directory or beside
 * the config NAME. */
static int read_far_file(const char *name, const char *path, struct run_config *c)
{
    static const char *const keys[] = {"model",     "max_len",    "chunk_size",
                                       "conv_type", "truncation", NULL};
    const char *slash = strrchr(name, '/');
    char *beside = xprintf("%.*s%s", slash ? (int)(slash + 1 - name) : 0, name, path);
    const char *from = access(path, F_OK) == 0 ? path : beside;
    size_t size = 0;
    cJSON *root = NULL;
    int rc = -1;
    char *text = file_read(from, &size);
    if (text == NULL || (root = json_parse(from, text, size)) == NULL) goto done;
    if (!cJSON_IsObject(root)) {
        fail("%s: expected a JSON object, found %s", from, json_kind(root));
        goto done;
    }
    if (json_known_keys(from, root, keys)) goto done;
    const cJSON *model = json_member(root, "model");
    if (model == NULL || !cJSON_IsObject(model)) {
        fail("%s: \"model\": expected an object, found %s", from,
             model ? json_kind(model) : "nothing");
        goto done;
    }
    rc = json_known_keys(from, model, far_keys) || read_far(from, model, c) ? -1 : 0;

done:
    cJSON_Delete(root);
    free(text);
    free(beside);
    return rc;
}

static bool is_far(const struct run_config *c)
{
    return c->method == METHOD_INFLLM || c->method == METHOD_STREAMING ||
           c->method == METHOD_INFINITE_LM;
}

int run_config_read_peers(const char *name, const cJSON *root, struct run_config *c)
{
    const char *path = NULL;
    const enum method_kind method = c->method;

    c->far = (struct far_rule){.n_init = 128,
                               .n_local = 4096,
                               .topk = 32,
                               .block_size = 128,
                               .repr_topk = 4,
                               .exc_block_size = 512,
                               .max_cached = 64,
                               .decay = 0.1};
    c->blocks_away = true;
    if (read_h2o(name, root, c) || json_int(name, root, "page_size", 1, 4096, &c->page_size) ||
        json_int(name, root, "dense_layers", 0, MAX_LAYER, &c->dense_layers) ||
        json_int(name, root, "correction_layer", 0, MAX_LAYER, &c->correction_layer) ||
        json_string(name, root, "infllm_cfg_path", &path) ||
        json_bool(name, root, "real_offload", &c->blocks_away))
        return -1;
    if (method == METHOD_TIDAL && c->correction_layer < 0)
        return fail("%s: \"correction_layer\" is missing: tidal needs the layer that selects again",
                    name);
    if (method == METHOD_TIDAL && c->correction_layer <= c->dense_layers)
        return fail("%s: \"correction_layer\": expected a layer after the selecting one, %d "
                    "(\"dense_layers\"), found %d",
                    name, c->dense_layers, c->correction_layer);
    if (method == METHOD_QUEST && c->budget >= 1 && c->budget < c->page_size)
        return fail("%s: \"num_of_selected_tokens\": expected at least a page, %d (\"page_size\"), "
                    "found %g",
                    name, c->page_size, c->budget);
    if (method == METHOD_TIDAL) { /* OmniKV's machinery with its own layers, sets and scores */
        const int layers[] = {c->dense_layers, c->correction_layer};
        c->layers = xmalloc(sizeof layers);
        memcpy(c->layers, layers, sizeof layers);
        c->n_layers = 2;
        c->wait = 0;
        c->selector = SELECT_LAST;
        if (json_member(root, "real_offload") == NULL) c->real_offload = false;
        if (json_member(root, "pool") == NULL) c->pool = POOL_GROUP;
    }
    if (!is_far(c)) return 0;
    if (path == NULL) {
        if (read_far(name, root, c)) return -1;
        c->far_given = c->far;
        return 0;
    }
    for (int i = 0; far_keys[i]; i++)
        if (json_member(root, far_keys[i]))
            return fail("%s: \"%s\": expected it in the file of \"infllm_cfg_path\", found it "
                        "beside that",
                        name, far_keys[i]);
    if (read_far_file(name, path, c)) return -1;
    c->far_given = c->far;
    return 0;
}

void run_config_write_peers(cJSON *o, const struct run_config *c)
{
    const struct far_rule *f = &c->far;
    if (c->method == METHOD_H2O) {
        const bool sizes = c->heavy >= 1 || c->heavy_recent >= 1;
        run_config_add_number(o, sizes ? "hh_size" : "hh_ratio", c->heavy);
        run_config_add_number(o, sizes ? "recent_size" : "recent_ratio", c->heavy_recent);
        cJSON_AddStringToObject(o, "evict", c->evict_steps ? "step" : "prefill");
        cJSON_AddBoolToObject(o, "skip_prefill", c->skip_prefill);
        cJSON_AddBoolToObject(o, "first_step_dense", c->first_step_dense);
        if (!c->skip_prefill && c->segment == 0) cJSON_AddStringToObject(o, "seg_size", "auto");
        if (!c->skip_prefill && c->segment) run_config_add_number(o, "seg_size", c->segment);
    }
    if (c->method == METHOD_QUEST || c->method == METHOD_TIDAL) {
        run_config_add_number(o, "num_of_selected_tokens", c->budget);
        run_config_add_number(o, "dense_layers", c->dense_layers);
    }
    if (c->method == METHOD_QUEST) run_config_add_number(o, "page_size", c->page_size);
    if (c->method == METHOD_TIDAL) {
        run_config_add_number(o, "correction_layer", c->correction_layer);
        cJSON_AddStringToObject(o, "candidates", c->candidates_all ? "all" : "prefill");
        cJSON_AddStringToObject(o, "pool",
                                c->pool == POOL_ALL     ? "all"
                                : c->pool == POOL_GROUP ? "group"
                                                        : "none");
        run_config_add_number(o, "refresh", c->refresh);
        run_config_add_number(o, "sinks", c->sinks);
        run_config_add_number(o, "recent", c->recent);
        cJSON_AddBoolToObject(o, "real_offload", c->real_offload);
    }
    if (!is_far(c)) return;
    run_config_add_number(o, "n_init", f->n_init);
    run_config_add_number(o, "n_local", f->n_local);
    if (c->method != METHOD_INFLLM) return;
    run_config_add_number(o, "block_size", f->block_size);
    run_config_add_number(o, "topk", f->topk);
    run_config_add_number(o, "repr_topk", f->repr_topk);
    run_config_add_number(o, "exc_block_size", f->exc_block_size);
    run_config_add_number(o, "max_cached_block", f->max_cached);
    cJSON_AddStringToObject(o, "cache_strategy", far_policies[f->policy]);
    if (f->policy == BLOCKS_LRU_S) run_config_add_number(o, "score_decay", f->decay);
    cJSON_AddBoolToObject(o, "real_offload", c->blocks_away);
}

int run_config_set_budget(struct run_config *c, int tokens)
{
    struct far_rule *f = &c->far;
    static const char few[] =
        "a budget of %d tokens: expected more than the %d of its first tokens";
    *f = c->far_given;
    switch (c->method) {
    case METHOD_DENSE:
    case METHOD_BRUTAL_OFFLOAD:
        return 0;
    case METHOD_OMNIKV:
    case METHOD_TIDAL:
        if ((double)c->sinks + c->recent > tokens)
            return fail("a budget of %d tokens: fewer than the config's sinks and recent ones, %d",
                        tokens, c->sinks + c->recent);
        c->budget = tokens;
        break;
    case METHOD_QUEST:
        if (tokens < c->page_size)
            return fail("a budget of %d tokens: less than a page of %d", tokens, c->page_size);
        c->budget = tokens;
        break;
    case METHOD_WINDOW:
        if (c->window_sinks < 1 && c->window_sinks > 0) c->window_sinks = 4;
        if (tokens <= c->window_sinks) return fail(few, tokens, (int)c->window_sinks);
        c->window_recent = tokens - c->window_sinks;
        break;
    case METHOD_H2O:
        if (tokens < 2) return fail("a budget of %d tokens: expected 2 at least", tokens);
        c->heavy = tokens / 2;
        c->heavy_recent = tokens - tokens / 2;
        break;
    case METHOD_STREAMING:
    case METHOD_INFINITE_LM:
        if (tokens <= f->n_init) return fail(few, tokens, f->n_init);
        f->n_local = tokens - f->n_init;
        break;
    case METHOD_INFLLM:
        if (tokens / 2 <= f->n_init)
            return fail("a budget of %d tokens: expected its half to be more than the %d first "
                        "tokens, to leave room for blocks",
                        tokens, f->n_init);
        f->n_local = tokens / 2;
        if (f->block_size > tokens - f->n_local - f->n_init)
            f->block_size = tokens - f->n_local - f->n_init;
        f->topk = (tokens - f->n_local - f->n_init) / f->block_size;
        if (f->repr_topk > f->block_size) f->repr_topk = f->block_size;
        if (f->exc_block_size > f->n_local) f->exc_block_size = f->n_local;
        if (f->max_cached < 2 * f->topk) f->max_cached = 2 * f->topk;
        break;
    }
    run_config_refresh_json(c);
    return 1;
}
