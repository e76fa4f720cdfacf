/* run_config_read.h - what the two halves of run_config.c's reader share. */
#ifndef CORE_METHOD_RUN_CONFIG_READ_H
#define CORE_METHOD_RUN_CONFIG_READ_H

#include "core/method/run_config.h"

/* Reads KEY as one of the NULL-terminated NAMES; absent leaves *VALUE as it is. All return 0, or -1
 * after fail(). */
int run_config_read_name(const char *name, const cJSON *root, const char *key,
                         const char *const *names, int *value);
/* Refuses KEY when it is true; INSTEAD completes the sentence. */
int run_config_refuse_true(const char *name, const cJSON *root, const char *key,
                           const char *instead);
/* Adds the shortest decimal that reads back as VALUE. */
void run_config_add_number(cJSON *object, const char *key, double value);

/* Keys of infllm, streaming and infinite-lm: the `model` section of the original's YAML. */
#define FAR_KEYS                                                                                   \
    "type", "path", "tokenizer_path", "block_size", "fattn", "n_init", "n_local", "topk",          \
        "repr_topk", "max_cached_block", "exc_block_size", "base", "distance_scale",               \
        "score_decay", "cache_strategy", "chunk_topk_calc", "async_global_stream", "pin_memory",   \
        "faiss", "perhead"

/* The keys of h2o, quest, tidal, infllm, streaming and infinite-lm; and back. */
int run_config_read_peers(const char *name, const cJSON *root, struct run_config *c);
void run_config_write_peers(cJSON *object, const struct run_config *c);

#endif
