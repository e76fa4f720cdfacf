/* predictions.h - prediction files: which task each holds, what belongs together, and its scores.
 *
 * The name says the task: preds_TASK.jsonl (InfiniteBench), DATASET.jsonl or DATASET_e.jsonl
 * (LongBench). Of one task, a run may have left parts in the same folder: NAME.I-of-N.jsonl, shards
 * counted from 0, or preds_TASK_FROM-TO.jsonl, samples FROM to TO - 1. A folder is a run.
 */
#ifndef ANALYZE_PREDICTIONS_H
#define ANALYZE_PREDICTIONS_H

#include "analyze/sample.h"

struct part {
    char *path;
    int shard, shards; /* shards 0: no shard */
    long from, to;     /* to -1: no range */
    long lines;
};

/* The predictions of one run for one task. */
struct prediction_set {
    char *run; /* the folder */
    int order; /* of the run among the arguments */
    const struct task *task;
    bool by_length; /* LongBench-E */
    struct part *part;
    int parts;
    bool left_out; /* cannot be scored, as fail() has said */

    double *score, *length; /* [samples] */
    int *in_part;           /* [samples]: which part the sample is from */
    long *line;             /* [samples]: its line there, from 1 */
    size_t samples, room;
    long refused;        /* lines that are no sample of the task */
    long stops_original; /* samples at which the original scorer ends */
};

struct predictions {
    struct prediction_set *set;
    int sets;
    long failures; /* files and lines that fail() has named */
};

/* Groups the files of PATH [N], folders standing for the *.jsonl in them. TASK, where not NULL, is
 * the task of every file, each then a set of its own; EVERY_E makes LongBench's sets by_length.
 * Files that cannot be scored count in failures and are left out; without KEEP_GOING the first
 * ends it. The caller releases P with predictions_free() whatever the outcome. 0, or -1 after
 * fail(). */
int predictions_find(const char *const *path, int n, const char *task, bool every_e,
                     bool keep_going, struct predictions *p);
void predictions_free(struct predictions *p);

/* Scores every line of set S. Lines that are no sample count in S->refused and P->failures;
 * without KEEP_GOING the first ends it. 0, or -1 after fail(). */
int predictions_score(struct predictions *p, struct prediction_set *s, const struct scoring *how,
                      bool keep_going);

/* Sum of the scores of S, each in [0, 1], over the contexts of LOW <= length < HIGH, of all samples
 * where HIGH is 0; their number goes to *N. */
double predictions_sum(const struct prediction_set *s, double low, double high, size_t *n);

#endif
