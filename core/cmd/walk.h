/* walk.h - goes through a suite line by line, under one method or several: the loop of `okv trace`
 * and `okv eval`.
 */
#ifndef CORE_CMD_WALK_H
#define CORE_CMD_WALK_H

#include "core/cmd/common.h"
#include "core/task/suite.h"

/* How lines are decoded. */
struct variant {
    const struct run_config *config;
    const char *name;    /* put before its errors, or NULL */
    struct tally *tally; /* [suite->n_tasks] that is added to, or NULL */
};

struct walk {
    struct engine *engine;         /* its config says how prompts become tokens */
    const struct variant *variant; /* [n_variants] that go on from one prefill of each line: one, or
                                    * several of which engine_shares_prefill() is true */
    int n_variants;
    struct method *method; /* what the tracer watches, in place of the one variant's own */
    const struct suite *suite;
    struct tracer *tracer; /* or NULL */
    const char *chat;      /* --chat-format for text-level lines, or NULL */
    int max_new;           /* tokens decoded for a text-level line */
    bool ignore_eos;
    bool decode_ids; /* token-level lines are prompts to decode from, not text to follow */
};

/* 0, or -1 after fail(). */
int walk_suite(const struct walk *w);

#endif
