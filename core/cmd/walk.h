/* walk.h - goes through a suite line by line under a method: the loop of `okv trace` and `okv
 * eval`.
 */
#ifndef CORE_CMD_WALK_H
#define CORE_CMD_WALK_H

#include "core/cmd/common.h"
#include "core/task/suite.h"

struct walk {
    struct engine *engine;
    struct method *method; /* what the tracer watches */
    const struct suite *suite;
    struct tracer *tracer; /* or NULL */
    const char *chat;      /* --chat-format for text-level lines, or NULL */
    int max_new;           /* tokens decoded for a text-level line */
    bool ignore_eos;
    bool decode_ids;     /* token-level lines are prompts to decode from, not text to follow */
    struct tally *tally; /* [suite->n_tasks], or NULL */
};

/* 0, or -1 after fail(). */
int walk_suite(const struct walk *w);

#endif
