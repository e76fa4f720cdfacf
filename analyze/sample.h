/* sample.h - one line of a prediction file, and the tasks of the benchmarks: what each expects of
 * a line and how it is scored.
 *
 * A line is an object with the model's text under "prediction" or "pred" and what was asked for
 * under "ground_truth", "label" or "answers". Fields that no scorer reads may hold anything.
 */
#ifndef ANALYZE_SAMPLE_H
#define ANALYZE_SAMPLE_H

#include "analyze/jieba.h"
#include "analyze/jsonl.h"

enum benchmark { LONGBENCH, INFINITEBENCH, TWO_STAGE };

/* What a task's label is. */
enum label_form {
    LABEL_LIST,   /* a list of one or more strings, each of which would do */
    LABEL_TEXT,   /* the same, or one string alone */
    LABEL_PAIR,   /* a list of the answer's text and its letter */
    LABEL_WHOLE,  /* a whole number, or a list that starts with one */
    LABEL_NUMBER, /* a number, or a list that starts with one */
    LABEL_SERIES, /* a list of whole numbers, or a list that starts with such a list */
};

struct sample {
    struct runes prediction;
    struct runes *answer; /* [answers]: the label's strings */
    size_t answers;
    struct runes *choice; /* [choices]: "all_classes" */
    size_t choices;
    const struct jsonl *number; /* LABEL_WHOLE, LABEL_NUMBER */
    const struct jsonl *series; /* LABEL_SERIES: its items */
    double length;              /* words, or Chinese characters, of the context; -1 unknown */
    bool stops_original;        /* set by a scorer: the original's ends with an exception here */
    struct jsonl json;          /* holds all of the above */
};

/* What a run asks of the scorers. */
struct scoring {
    int (*ratio)(struct runes a, struct runes b); /* fuzz_ratio or fuzz_ratio_lev */
    bool omnikv;                                  /* choice rules of OmniKV's copy */
    bool first_number_given; /* math_calc: the prompt has the model repeat the first value */
    const struct jieba *jieba;
};

struct task {
    const char *name, *group, *metric;
    enum benchmark benchmark;
    char language; /* 'e' English, 'c' Chinese, 'p' code, ' ' none */
    enum label_form label;
    bool first_line; /* of the prediction only the first line that is not empty counts */
    bool extra;      /* known, but no part of the benchmark's averages */
    bool in_e;       /* part of LongBench-E */
    double (*score)(struct sample *s, const struct scoring *how); /* in [0, 1] */
};

/* Ended by a row without a name, in the order of the benchmarks' own tables. */
extern const struct task tasks[];
const struct task *task_find(const char *name, size_t n);
bool task_needs_jieba(const struct task *t);

/* Reads LINE as a sample of task T; LENGTH_NEEDED refuses one without "length". The caller
 * releases S with sample_free() whatever the outcome; S points into LINE. 0, or -1 after fail(),
 * whose message starts with WHERE. */
int sample_read(const char *where, const char *line, size_t size, const struct task *t,
                bool length_needed, struct sample *s);
void sample_free(struct sample *s);

/* The scorers, each in [0, 1]; S fits the label form that the table gives them. */
double score_qa_f1(struct sample *s, const struct scoring *how);
double score_qa_f1_zh(struct sample *s, const struct scoring *how);
double score_rouge(struct sample *s, const struct scoring *how);
double score_rouge_zh(struct sample *s, const struct scoring *how);
double score_classification(struct sample *s, const struct scoring *how);
double score_count(struct sample *s, const struct scoring *how);
double score_retrieval(struct sample *s, const struct scoring *how);
double score_retrieval_zh(struct sample *s, const struct scoring *how);
double score_code_sim(struct sample *s, const struct scoring *how);
double score_contains(struct sample *s, const struct scoring *how);

double score_first_integer(struct sample *s, const struct scoring *how);
double score_word(struct sample *s, const struct scoring *how);
double score_last_integer(struct sample *s, const struct scoring *how);
double score_code_debug(struct sample *s, const struct scoring *how);
double score_first_number(struct sample *s, const struct scoring *how);
double score_name(struct sample *s, const struct scoring *how);
double score_choice(struct sample *s, const struct scoring *how);
double score_char_f1(struct sample *s, const struct scoring *how);
double score_rouge_lsum(struct sample *s, const struct scoring *how);
double score_series(struct sample *s, const struct scoring *how);

/* Where the number of "Paragraph 12" starts in an answer, HEAD being "Paragraph "; -1 without. */
ptrdiff_t paragraph_number(struct runes answer, struct runes head);
extern const struct runes paragraph_en, paragraph_zh;

#endif
