/* jsonl.h - one JSON value of one line of a prediction file, as Python's json.loads reads it.
 *
 * The scorers tell 5 from 5.0 and count characters, so numbers keep their spelling and strings are
 * code points, NUL and lone surrogates among them; cJSON keeps neither.
 */
#ifndef ANALYZE_JSONL_H
#define ANALYZE_JSONL_H

#include "analyze/runes.h"

enum jsonl_kind {
    JSONL_NULL,
    JSONL_BOOL,
    JSONL_WHOLE, /* -?digits */
    JSONL_REAL,  /* with a fraction or an exponent; NaN, Infinity, -Infinity */
    JSONL_STRING,
    JSONL_LIST,
    JSONL_OBJECT,
};

struct jsonl {
    enum jsonl_kind kind;
    struct runes text;  /* JSONL_STRING */
    const char *at;     /* a number's first byte, in the line */
    size_t size;        /* its length in bytes */
    struct jsonl *item; /* [n]: a list's items, an object's values */
    struct runes *key;  /* [n]: an object's keys */
    size_t n;
};

/* Parses all SIZE bytes of LINE into V, which the caller releases with jsonl_free() whatever the
 * outcome; V points into LINE. 0, or -1 after fail(): "WHERE: expected ..., found ...". */
int jsonl_parse(const char *where, const char *line, size_t size, struct jsonl *v);
void jsonl_free(struct jsonl *v);

/* The member KEY of OBJECT; NULL where there is none. */
const struct jsonl *jsonl_member(const struct jsonl *object, const char *key);

/* "a string", "an empty list" ...: what V is, for messages; "nothing" for NULL. */
const char *jsonl_name(const struct jsonl *v);

/* The value of a number. */
double jsonl_number(const struct jsonl *v);

#endif
