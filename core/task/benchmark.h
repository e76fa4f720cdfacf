/* benchmark.h - LongBench, LongBench-E, InfiniteBench and the two-stage set as they are published:
 * tasks, prompts, and the lines of their prediction files.
 *
 * A directory holds the data (DATASET.jsonl, for LongBench-E DATASET_e.jsonl) and two files of the
 * benchmark's own, dataset2prompt.json (task: template) and dataset2maxlen.json (task: tokens
 * generated at most). No wording of a benchmark is part of this program. docs/benchmarks.md says
 * where all of it comes from.
 */
#ifndef CORE_TASK_BENCHMARK_H
#define CORE_TASK_BENCHMARK_H

#include "core/task/json_span.h"

#include <stdio.h>
#include <sys/types.h>

enum benchmark_kind { LONGBENCH, LONGBENCH_E, INFINITEBENCH, TWO_STAGE, BENCHMARKS };

/* How a task differs from the others of its benchmark. Where nothing else is said an answer is a
 * list of one or more strings; the scorers of okv-analyze ask for the same (analyze/sample.c), so
 * that no run begins whose predictions cannot be scored. */
enum task_trait {
    TASK_BARE = 1,           /* fed without a chat format */
    TASK_ONE_LINE = 2,       /* ends at the first newline, after one token at least */
    TASK_ENGLISH_E = 4,      /* part of LongBench-E */
    TASK_OPTIONS = 8,        /* four options A to D; the label names the text and the letter */
    TASK_CALL = 16,          /* asks for the value of a call, whole: func, func_call */
    TASK_NUMBER = 32,        /* asks for a number of a list: prefix */
    TASK_SUMMARY = 64,       /* sampled by the original */
    TASK_CLASSES = 128,      /* an answer is one of all_classes */
    TASK_TEXT = 256,         /* an answer may be one string alone */
    TASK_SERIES = 512,       /* an answer is a list of whole numbers, or a list with one in it */
    TASK_PARAGRAPH = 1024,   /* an answer is the name of a paragraph, with its number */
    TASK_PARAGRAPH_ZH = 2048 /* the same in Chinese */
};

struct benchmark_task {
    const char *name;
    unsigned traits;
};

/* 0, or -1 after fail() that names the known ones. */
int benchmark_kind_parse(const char *name, enum benchmark_kind *kind);
const char *benchmark_kind_name(enum benchmark_kind kind);

/* The tasks of KIND in the order of its paper's table, ended by an empty row. */
const struct benchmark_task *benchmark_tasks(enum benchmark_kind kind);

/* The samples of one task. */
struct benchmark_set {
    enum benchmark_kind kind;
    const struct benchmark_task *task;
    struct template *template; /* NULL: the line's own "prompt" */
    char *template_name;       /* file and task, for messages */
    int max_new;               /* tokens generated at most */
    char *path;
    FILE *f;
    off_t *start; /* [n + 1] where each line starts; the end */
    int n;
    char *line; /* the one read last */
    size_t room;
};

struct benchmark {
    enum benchmark_kind kind;
    struct benchmark_set *set;
    int n;
};

/* Opens TASKS ("a,b", each once, or NULL: all) of the benchmark in DIR and checks every line of
 * their files, with progress. NULL after fail(): a file that is missing (where it comes from), an
 * unknown task, a template that cannot be filled, and file:line where one is empty, breaks off,
 * lacks a field or has one of another type. */
struct benchmark *benchmark_open(enum benchmark_kind kind, const char *dir, const char *tasks);
void benchmark_close(struct benchmark *b); /* NULL is allowed */

/* Bytes of line I, a measure of the length of its prompt. */
off_t benchmark_bytes(const struct benchmark_set *s, int i);

/* Appends the prompt of sample I. 0, or -1 after fail(). */
int benchmark_prompt(struct benchmark_set *s, int i, struct text *prompt);

/* Appends what stands before and behind the generated text, as a JSON string, in the line that the
 * benchmark's prediction file holds for sample I; the newline is part of TAIL. 0, or -1. */
int benchmark_label(struct benchmark_set *s, int i, struct text *head, struct text *tail);

/* The name of the task's prediction file: all samples, or those of shard SHARD of SHARDS > 1. The
 * caller frees it. */
char *benchmark_file(const struct benchmark_set *s, int shard, int shards);

/* Cuts the middle out of IDS [n]: the HEAD first and TAIL last ids stay (the chat format's); of
 * those in between the FIRST first and the LAST last. Returns how many are left. */
int cut_middle(int *ids, int n, int head, int tail, int first, int last);

#endif
