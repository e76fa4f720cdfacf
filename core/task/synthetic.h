/* synthetic.h - the synthetic data sets of the benchmarks, in the form they are published in.
 *
 *   passkey, number_string  a line about a number at even depths of one sentence, repeated
 *   kv_retrieval            a JSON object of UUIDs, and a key
 *   math_find               a list of numbers; the largest, the median, ... of them
 *   math_calc               a chain of sums and differences; every running value
 *   code_run                Python functions that call each other; what a call returns
 *   2stage                  two numbers to add, and a dict of colours to look the sum up in
 *
 * The first six are InfiniteBench's (Zhang et al. 2024, section 3; its
 * data/construct_synthetic_dataset.py), the last is OmniKV's (tiny_runs/make_2_stage_questions.py).
 * Sizes, depths, ranges and fields are those of the originals; the sentences are our own, and so is
 * the random source. Text only: no tokenizer is needed.
 */
#ifndef CORE_TASK_SYNTHETIC_H
#define CORE_TASK_SYNTHETIC_H

#include <stdint.h>

enum synthetic_task {
    SYNTHETIC_PASSKEY,
    SYNTHETIC_NUMBER_STRING,
    SYNTHETIC_KV_RETRIEVAL,
    SYNTHETIC_MATH_FIND,
    SYNTHETIC_MATH_CALC,
    SYNTHETIC_CODE_RUN,
    SYNTHETIC_2STAGE
};

/* NULL-terminated names, in the order of the enum. */
extern const char *const synthetic_task_names[];

/* The length of the published files, which --tokens scales. */
#define SYNTHETIC_TOKENS 131072

struct synthetic {
    enum synthetic_task task;
    int tokens; /* nominal: sizes are the published ones times tokens / SYNTHETIC_TOKENS, but
                 * passkey and number_string have published sizes for 8K, 16K, ..., 256K; 2stage has
                 * one */
    uint64_t seed;
};

/* Lines of the whole set: 590, 590, 500, 350, 50, 400 and 100 at SYNTHETIC_TOKENS; passkey and
 * number_string have others at other lengths. -1 after fail(): too few tokens for the task. */
int synthetic_lines(const struct synthetic *s);

/* Line INDEX (0-based) of the whole set as JSON, without a newline; it depends on *S and INDEX
 * only. The caller frees it. */
char *synthetic_line(const struct synthetic *s, int index);

#endif
