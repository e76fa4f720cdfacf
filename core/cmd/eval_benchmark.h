/* eval_benchmark.h - okv eval --benchmark: a model's predictions for a published benchmark.
 */
#ifndef CORE_CMD_EVAL_BENCHMARK_H
#define CORE_CMD_EVAL_BENCHMARK_H

#include "core/cmd/common.h"

struct benchmark_args {
    const char *name, *data, *out;
    const char *tasks, *shard, *chat; /* or NULL */
    int max_samples, max_new;         /* 0: all; as the benchmark says */
    bool chat_all, no_reserve, sample_sums;
};

/* Lines of the usage text of okv eval. */
#define BENCHMARK_USAGE                                                                            \
    "With --benchmark NAME (longbench, longbench-e, infinitebench, 2stage) --data is the folder\n" \
    "of the published data, dataset2prompt.json and dataset2maxlen.json (docs/benchmarks.md),\n"   \
    "and --out the folder of the benchmark's prediction files: one line a sample, to be scored\n"  \
    "by okv-analyze score. The same command again goes on where one ended.\n"                      \
    "  --task A,B      only these tasks [all]\n"                                                   \
    "  --shard I/N     only samples I, I + N, I + 2N ... of each task (I from 0)\n"                \
    "  --max-samples N only the first N samples of each task [all]\n"                              \
    "  --max-new N     tokens generated at most [as the benchmark says; 2stage: 200]\n"            \
    "  --chat-all      wrap all tasks; LongBench feeds six of them without a chat format\n"        \
    "  --no-reserve    cut prompts to max_context_len without room for chat format and answer,\n"  \
    "                  as the original does\n"                                                     \
    "  --sample-sums   sample InfiniteBench's summaries, as the original does: temperature 0.8,\n" \
    "                  top-k 50, top-p 0.95 [greedy]\n"

/* Runs the benchmark for subcommand NAME. The exit status. */
int eval_benchmark(const char *name, const struct engine_args *args, const struct benchmark_args *b,
                   int argc, char **argv);

#endif
