/* passage.h - text that grows, and sentences that mean nothing: the haystack of the tasks. */
#ifndef CORE_TASK_PASSAGE_H
#define CORE_TASK_PASSAGE_H

#include "core/base/base.h"

struct passage {
    char *s; /* NUL-terminated; NULL while nothing was added */
    size_t n, room;
};

void passage_add(struct passage *t, const char *s);
void passage_addf(struct passage *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void passage_free(struct passage *t); /* and empties it */

/* Adds one English sentence, about a dozen words, without a digit, a colour, or a name of a person
 * or a town: it never answers a question of a task. */
void passage_add_sentence(struct passage *t, struct rng *r);

#endif
