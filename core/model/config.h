/* config.h - a checkpoint's config.json: shape, family, RoPE; and the named shapes of random
 * models.
 *
 * Everything that changes the arithmetic is either understood or refused by name; nothing is
 * guessed (docs/config.md lists what is read).
 */
#ifndef CORE_MODEL_CONFIG_H
#define CORE_MODEL_CONFIG_H

#include "core/base/half.h"
#include "core/base/json.h"

enum model_family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3 };

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_YARN, ROPE_LLAMA3 };

/* Rotary embedding parameters; what a kind does not use stays at the value given here. */
struct rope_config {
    enum rope_kind kind;
    double theta;                /* base */
    double factor;               /* of all kinds but default; 1 */
    int original_max_position;   /* yarn, llama3: the trained length before scaling */
    double low_freq, high_freq;  /* llama3 */
    double beta_fast, beta_slow; /* yarn: 32, 1 */
    double attention_factor;     /* yarn: multiplies cos and sin; computed when not given */
    bool truncate;               /* yarn: round the correction range outwards; true */
};

#define MODEL_MAX_EOS 16

/* Dimension letters: L layers, E hidden width, H query heads, G kv heads, D head width,
 * F feed-forward width, V vocabulary. */
struct model_config {
    enum model_family family;
    int L, E, H, G, D, F, V;
    float norm_eps;
    int max_position; /* trained length, max_position_embeddings */
    bool qkv_bias[3]; /* q, k, v projections have a bias */
    bool out_bias;    /* the attention output projection has a bias */
    bool mlp_bias;
    bool qk_norm; /* RMS norm of each head's q and k before RoPE (Qwen3) */
    bool tied;    /* lm_head shares the embedding table */
    int window;   /* width of a sliding window in tokens, never below model_config_limit(): it
                   * does not act on runs up to it, and longer ones cannot be honoured; 0: none */
    struct rope_config rope;
    int bos; /* -1: none */
    int eos[MODEL_MAX_EOS],
        n_eos;      /* of generation_config.json where it has them, else config.json */
    char name[128]; /* last component of the directory's real path, or the shape's name */
};

/* Reads DIR/config.json (and DIR/generation_config.json for the stop tokens, when there is one).
 * OVERRIDES, or NULL, is an object of config.json keys that replace the file's (a run config may
 * set any, for instance rope_theta). 0, or -1 after fail(). */
int model_config_load(struct model_config *c, const char *dir, const cJSON *overrides);

/* The shape called NAME: llama-3-8b, llama-3-70b, pocket; or a path to a config.json. */
int model_config_shape(struct model_config *c, const char *name);

/* Longest context the model may be run at without extrapolating: max_position, times the factor
 * for dynamic scaling. */
int model_config_limit(const struct model_config *c);

/* Parameters of the model (embedding and lm_head counted once when tied). */
double model_config_parameters(const struct model_config *c);

/* Rotation frequencies: inv_freq [D/2] in radians per position, as transformers computes them in
 * float32, and the factor that multiplies cos and sin. LENGTH is the length of the whole prompt in
 * tokens: dynamic scaling depends on it, the others ignore it. */
void rope_frequencies(const struct model_config *c, int length, float *inv_freq, float *scale);

const char *model_family_name(enum model_family f);
const char *rope_kind_name(enum rope_kind k);

#endif
