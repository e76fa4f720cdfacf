/* weights.h - a checkpoint's tensors, memory-mapped from safetensors and checked against its
 * config.
 */
#ifndef CORE_MODEL_WEIGHTS_H
#define CORE_MODEL_WEIGHTS_H

#include "core/base/half.h"
#include "core/model/config.h"

/* A matrix as stored, row-major [rows, cols]; a linear layer is out = in * W^T, rows = outputs.
 * The data need not be aligned to more than its element. */
struct matrix {
    const void *data;
    enum dtype type;
    int rows, cols;
};

struct layer_weights {
    const float *attn_norm, *mlp_norm; /* [E] */
    struct matrix q, k, v, o;          /* [H*D, E], [G*D, E], [G*D, E], [E, H*D] */
    struct matrix gate, up, down;      /* [F, E], [F, E], [E, F] */
    const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias; /* or NULL */
    const float *q_norm, *k_norm; /* [D], or NULL */
};

struct weights {
    struct matrix embed, head;   /* [V, E]; the same data when tied */
    const float *norm;           /* [E] */
    struct layer_weights *layer; /* [L] */
    enum dtype dtype;            /* of the matrices (the first layer's q) */
    double bytes;                /* of all matrices as stored */
    bool random;                 /* made by weights_random() */
    char fingerprint[17]; /* hex: hash of config, tensor table and a sample of every tensor */
    struct weights_owner *owner; /* mappings and converted vectors; private */
};

/* Memory that weights move to, such as a device's: all matrices in its 16-bit type, q, k and v of a
 * layer and its gate and up one after the other, and all vectors. */
struct weights_home {
    void *(*alloc)(size_t bytes, const char *what); /* NULL after fail() */
    void (*release)(void *p);
    void (*put)(void *to, const void *from, size_t bytes);
    /* N bf16 values uniform in [-limit, limit), from SEED and their index */
    void (*fill)(void *to, size_t n, uint64_t seed, float limit);
};

/* Maps DIR's model.safetensors, or the shards of model.safetensors.index.json, and checks every
 * tensor the config calls for: present once, expected shape, F32, F16 or BF16, inside its file, not
 * overlapping another. Vectors (norms, biases) are widened to float32. Tensors the model does not
 * need (rotary inv_freq buffers) are ignored; a tensor of an unknown name is refused, since it
 * would change the arithmetic. With HOME (or NULL) they move there, a tensor at a time, and the
 * files are closed: bf16 and f16 as they are, f32 rounded to bf16, which a line says. NULL after
 * fail(). */
struct weights *weights_load(const char *dir, const struct model_config *c,
                             const struct weights_home *home);

/* Random weights of shape C in bf16, for latency: uniform and seeded, the same for any number of
 * threads, every tensor with memory of its own. The embedding has variance 1 and a linear layer's
 * weights 1/inputs, so that activations stay near 1; norms are 1, biases 0. NULL after fail(): the
 * machine has too little memory, which is checked before anything is written. A HOME makes its own
 * values. */
struct weights *weights_random(const struct model_config *c, uint64_t seed,
                               const struct weights_home *home);

void weights_free(struct weights *w); /* NULL is allowed */

#endif
