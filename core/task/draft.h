/* draft.h - what a synthetic task says, before it becomes a line: a context with needles, and
 * questions with their answers. Text only; core/task/gen.c gives it a chat format and a length.
 */
#ifndef CORE_TASK_DRAFT_H
#define CORE_TASK_DRAFT_H

#include "core/model/chat.h"
#include "core/task/gen.h"
#include "core/task/passage.h"

/* What decides a line: the same plan gives the same text. */
struct plan {
    enum gen_task task;
    uint64_t seed;         /* of this line */
    enum chat_format chat; /* CHAT_NONE: raw text */
    int questions;
    int extra;        /* needles beyond one a question */
    int units;        /* sentences, pairs or dict entries */
    double depth;     /* needle: the share of the prose before it */
    uint64_t ending;  /* needle: seed of the last two sentences */
    int chains, hops; /* vt */
};

struct question {
    char *ask, *answer;
    char *value; /* the words that an answer must contain, a space between them */
};

/* A context and its questions. */
struct draft {
    struct passage context;
    struct question question[GEN_MAX_QUESTIONS];
    int n;
};

/* Most needles of a passkey context, or chains of acquaintances. */
#define DRAFT_MAX_NEEDLES 8

/* The values of the dict of twostage. */
#define DRAFT_COLOURS 23
extern const char *const draft_colours[DRAFT_COLOURS];

/* Writes the draft of plan P; draft_free() releases it. */
void draft_write(struct draft *d, const struct plan *p);
void draft_free(struct draft *d);

/* The two sentences that plan->ending chooses, in new memory that the caller frees. */
char *draft_ending(uint64_t ending);

#endif
