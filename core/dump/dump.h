/* dump.h - what the writer and the reader of a dump share: the run's description.
 *
 * A dump is one HDF5 file holding one traced run over one or more samples; docs/dump-format.md
 * specifies it and schema.h lists its fields. Any HDF5 reader opens it (shuffle + deflate only).
 */
#ifndef CORE_DUMP_DUMP_H
#define CORE_DUMP_DUMP_H

#include "core/dump/schema.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define DUMP_VERSION 1 /* of the format: readers refuse later ones */

/* The run's description: the file's attributes. Strings are the owner's (the caller of
 * dump_create(), or the reader until dump_close()). */
struct dump_run {
    const char *model;       /* checkpoint name, e.g. "llama-3.1-8b" */
    const char *fingerprint; /* hex hash of the config and of the weights' headers and samples */
    const char *command;     /* command line */
    const char *config;      /* the run's configuration, JSON */
    const char *method;      /* dense, omnikv, window */
    const char *dtype;       /* of the weights: f32, f16, bf16 */
    const char *backend;     /* cpu, cuda */
    const char *score_kind;  /* what `score` holds: last, softmax_before_last */
    const char *attn_rows;   /* what R is: head, kv_head */
    const char *version, *commit; /* of the program that wrote it */
    int L, H, G, D, E, V; /* layers, query heads, kv heads, head width, hidden width, vocabulary */
    int K;                /* entries of topk_* */
    int reuse_k;          /* k of reuse_error */
    int M;                /* filter layers of the method, 0 for none */
    const int *layers;    /* [M] the filter layers */
    int full_layers;      /* layers that attend to everything at a step; L when dense */
    bool random_weights;  /* weights are random: latency only */
    uint64_t seed;
};

/* A sample's description, known before its first step. */
struct dump_sample {
    const char *task;
    uint64_t prompt_hash; /* hash_bytes() of the prompt's token ids as int32 */
    int n_prefill;        /* tokens of the prefill: the candidates of a selection */
};

/* What is known after its last step. */
struct dump_sample_end {
    int T, S;            /* tokens, steps */
    const int *tokens;   /* [T] */
    const uint8_t *text; /* [text_end[T - 1]], or NULL without a tokenizer: no text, no text_end */
    const int *text_end; /* [T] */
    const int *step_pos; /* [S] */
    const float *step_nll; /* [S] */
    const char *output;    /* decoded text, "" when unknown */
    const char *answers;   /* JSON list: the expected answers, or the answer spans; "" when none */
};

/* Name, shape letters, unit and meaning of a field. */
struct dump_field_info {
    const char *name, *type, *shape, *unit, *what;
};
const struct dump_field_info *dump_field_info(enum dump_field f);

/* The field called NAME, or -1 (no fail()). */
int dump_field_find(const char *name);

/* The table of all fields in Markdown, as docs/dump-format.md holds it. */
void dump_format_table(FILE *f);

/* R, the rows of attn per layer: G where run->attn_rows is "kv_head", otherwise H. */
int dump_rows_of(const struct dump_run *run);

#endif
