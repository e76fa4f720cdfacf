/* run_config.h - how to decode: the original's JSON configs, every key honoured or refused by name.
 *
 * docs/config.md lists the keys. {"model_cls": "raw_llama"} is a whole config; a NULL path is the
 * same. Layer lists are checked against a model by method_open().
 */
#ifndef CORE_METHOD_RUN_CONFIG_H
#define CORE_METHOD_RUN_CONFIG_H

#include "core/base/json.h"
#include "core/ops/ops.h"

#include <stdint.h>

enum method_kind {
    METHOD_DENSE,
    METHOD_OMNIKV,
    METHOD_WINDOW,
    METHOD_BRUTAL_OFFLOAD,
    METHOD_H2O,
    METHOD_QUEST,
    METHOD_TIDAL,
    METHOD_INFLLM,
    METHOD_STREAMING,
    METHOD_INFINITE_LM,
};

/* Whether selections are shared by all heads, made per kv head, or per query head. Named by what is
 * pooled: all heads, each kv head's group, none. */
enum pool { POOL_ALL, POOL_GROUP, POOL_NONE };

struct run_config {
    enum method_kind method;
    char *model;        /* model_name; NULL when the config names none */
    int max_context;    /* max_context_len in tokens; 0: the model's limit */
    int threads;        /* cpu_num_threads; 0: all cores */
    bool chat;          /* use_chat_template */
    double rope_factor; /* > 0: dynamic NTK scaling by that factor */
    uint64_t seed;

    /* omnikv */
    int *layers, n_layers; /* do_select_layers, ascending */
    int wait;              /* num_wait_load_layers */
    double budget;         /* num_of_selected_tokens: below 1 a fraction of n_prefill */
    enum selector selector;
    int window_size;     /* queries that uniform and exp look at */
    bool candidates_all; /* decoded tokens compete too */
    int refresh;         /* select at every N-th step; 1 */
    enum pool pool;
    int sinks, recent; /* first and last prefill tokens always kept, taken off the budget */
    bool real_offload; /* sparse layers live in host memory; without effect on a CPU */
    bool apart;     /* cache_cls without_pack: a layer's K and V are fetched when it needs them */
    int first_away; /* brutal_offload: the layers from here on live in host memory */

    /* window: the first num_sink_tokens and the last sink_window_length prefill tokens; below 1 a
     * fraction of n_prefill */
    double window_sinks, window_recent;

    /* h2o: tokens of a kv head kept, below 1 fractions of the prefill */
    double heavy, heavy_recent; /* hh_ratio or hh_size, recent_ratio or recent_size */
    bool evict_steps;           /* each step evicts one; otherwise decoded tokens are kept */
    bool skip_prefill;          /* nothing is evicted before the prefill's end */
    bool first_step_dense;      /* the first step still sees the whole prompt, as the original's */
    int segment;                /* seg_size: tokens after which a prefill evicts */

    /* quest, with budget */
    int page_size;
    int dense_layers; /* the first layers that see everything; of tidal too: the next selects */

    /* tidal, with budget, candidates_all and pool */
    int correction_layer; /* selects again */

    /* infllm, streaming, infinite_lm */
    struct far_rule far, far_given; /* the latter as read: a budget starts from it */
    bool blocks_away; /* infllm: blocks live in host memory; without effect on a CPU */

    cJSON *model_overrides; /* config.json keys found in the run config, NULL when none */
    char *json;             /* the whole config, canonical, for the dump */
};

/* Reads PATH, or stands for dense decoding when PATH is NULL. 0, or -1 after fail(): C is then
 * empty. run_config_free() releases what C owns. */
int run_config_load(struct run_config *c, const char *path);

/* The same from JSON text; NAME stands for the file in messages. */
int run_config_parse(struct run_config *c, const char *name, const char *text);

void run_config_free(struct run_config *c);

/* Rebuilds c->json after fields were set by hand (a search sets layers and wait). */
void run_config_refresh_json(struct run_config *c);

/* Makes C keep or select TOKENS of the prompt: omnikv, quest and tidal select so many; h2o keeps
 * half as heavy hitters, half as the last; window, streaming and infinite_lm keep their sinks and a
 * window for the rest; infllm half as its window, the rest less the sinks as blocks. 1, or 0 for a
 * method without a budget, or -1 after fail(): too few. */
int run_config_set_budget(struct run_config *c, int tokens);

/* Whole tokens of BUDGET over N_PREFILL: a fraction below 1 truncates, from 1 it is a whole number;
 * never more than N_PREFILL. */
int budget_tokens(double budget, int n_prefill);

const char *method_name(enum method_kind m); /* dense, omnikv, ...: the enum in lower case */

#endif
