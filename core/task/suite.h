/* suite.h - SUITE.jsonl: prompts with known answers, and how answers are judged.
 *
 * Token level: {"task", "ids", "n_prefill", "spans": [[a, b], ...]}; the answer [a, b) is exact
 * when each of ids[a : b-1] is the argmax of the logits before it (the last token of a span is the
 * stop token and is not judged). Text level: {"task", "prompt", "answers": [...]}; greedy
 * generation must contain one of the answers, or as "match" says.
 */
#ifndef CORE_TASK_SUITE_H
#define CORE_TASK_SUITE_H

#include <stdbool.h>
#include <stdio.h>

/* "match" of a text-level line. */
enum suite_match {
    MATCH_ANY,  /* one of the answers must occur; the default */
    MATCH_ALL,  /* all must */
    MATCH_EACH, /* each is an answer that counts by itself, whatever the case of A to Z: RULER's
                   string_match_all (Hsieh et al. 2024) */
};

struct suite_line {
    char *where; /* FILE:LINE, for messages; NULL: of no file */
    char *task;
    int *ids, n, n_prefill; /* token level; ids is NULL on a text-level line */
    int (*spans)[2], n_spans;
    char *prompt, **answers; /* text level */
    int n_answers;
    enum suite_match match;
};

struct suite {
    struct suite_line *line;
    int n;
    char **task; /* the distinct tasks, in order of appearance */
    int n_tasks;
};

/* Reads PATH ("-" is stdin). V bounds the ids (0: unchecked). NULL after fail() naming file and
 * line: not JSON, not UTF-8, text with \u0000, both or neither level, ids out of range, n_prefill
 * outside [1, n], spans outside [n_prefill, n] or shorter than 2. Blank lines are skipped; a file
 * without lines is refused. */
struct suite *suite_load(const char *path, int V);
void suite_free(struct suite *s);

/* Writes L as one line of a suite. */
void suite_line_write(FILE *f, const struct suite_line *l);

/* Releases what L owns and empties it. */
void suite_line_free(struct suite_line *l);

/* Judged positions of a token-level line: pos[i] in [n_prefill, n) whose token is judged,
 * ascending, with *n of them; caller frees. */
int *suite_judged(const struct suite_line *l, int *n);

/* Tallies: one row a task. */
struct tally {
    int correct, total; /* answers */
    double nll;         /* summed over judged tokens */
    long tokens;        /* judged tokens */
};

/* Adds a token-level line to T. ARGMAX and NLL are [n]: at position p, the argmax of the logits
 * before p and -ln p(ids[p]); only judged positions are read. */
void tally_tokens(struct tally *t, const struct suite_line *l, const int *argmax, const float *nll);

/* Adds a text-level line: TEXT is what was generated. One answer, or with MATCH_EACH n_answers. */
void tally_text(struct tally *t, const struct suite_line *l, const char *text);

/* Index of TASK in s->task. */
int suite_task(const struct suite *s, const char *task);

/* The table "task correct total accuracy nll" of `okv eval`, with a row "all" last (nll "-" where
 * nothing was judged by token), and the same as JSON: {"tasks": {TASK: {...}}, "all": {...}}. */
void tally_table(FILE *f, const struct suite *s, const struct tally *t);
void tally_json(FILE *f, const struct suite *s, const struct tally *t);

/* The rows of one run of a sweep, whose header is
 * "method budget task correct total accuracy low high nll": METHOD at BUDGET tokens (0: "-"), with
 * the ends of Wilson's interval of the accuracy at 95 %. */
void tally_rows(FILE *f, const struct suite *s, const struct tally *t, const char *method,
                int budget);

#endif
