/* pattern.h - the regular expressions and strings a tokenizer.json splits and replaces by.
 *
 * Such files are written for Oniguruma with Ruby's syntax. A pattern is translated to PCRE2 where
 * the two read the same text differently, and refused where no translation is known.
 */
#ifndef CORE_MODEL_PATTERN_H
#define CORE_MODEL_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

struct pattern {
    void *code;    /* compiled, or NULL for a plain string */
    char *literal; /* [literal_n] the plain string */
    size_t literal_n;
};

/* Compiles REGEX; FILE and PART ("pre_tokenizer") name it in messages. 0, or -1 after fail(). */
int pattern_regex(struct pattern *p, const char *file, const char *part, const char *regex);
void pattern_string(struct pattern *p, const char *string);
void pattern_free(struct pattern *p); /* all zero is allowed */

/* REGEX in PCRE2's syntax; the caller frees it. NULL after fail(). */
char *pattern_translate(const char *file, const char *part, const char *regex);

/* What matching works in, one per thread: opened by matcher_open(), freed by matcher_close(). */
struct matcher {
    void *match, *context, *stack;
};
void matcher_open(struct matcher *m);
void matcher_close(struct matcher *m);

/* The matches of a pattern in a text, from left to right, not overlapping; an empty match right
 * behind another is none. */
struct matches {
    const struct pattern *p;
    struct matcher *m;
    const char *s;
    size_t n;
    size_t next;     /* where the search goes on */
    size_t last_end; /* end of the last match, SIZE_MAX before the first */
};
void matches_start(struct matches *f, const struct pattern *p, struct matcher *m, const char *s,
                   size_t n);

/* The next match is [*A, *B); *FOUND is false after the last. 0, or -1 after fail(): the pattern
 * needs more steps on this text than are allowed. */
int matches_next(struct matches *f, size_t *a, size_t *b, bool *found);

#endif
