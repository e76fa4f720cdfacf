/* eval_sweep.h - okv eval with several configs or budgets: one table of all of them.
 */
#ifndef CORE_CMD_EVAL_SWEEP_H
#define CORE_CMD_EVAL_SWEEP_H

#include "core/cmd/common.h"

struct sweep_args {
    struct strings configs;  /* [LABEL=]FILE */
    struct int_list budgets; /* tokens; empty: each config's own */
    const char *data, *out;
    const char *chat; /* --chat-format, or NULL */
    int max_new;      /* tokens generated for a text-level line */
};

/* Runs every config at every budget, a method without one once, for subcommand NAME; the model is
 * opened once. The exit status. */
int eval_sweep(const char *name, const struct engine_args *args, const struct sweep_args *s,
               int argc, char **argv);

#endif
