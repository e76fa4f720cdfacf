/* json_span.h - the text of JSON values as it stands in a line.
 *
 * A parsed number no longer tells 49.0 from 49, and a string of C ends at U+0000; scorers look at
 * the first, and data sets hold the second. So what a benchmark repeats of its data, and what goes
 * into a prompt, is taken from the text itself. All functions expect text that json_parse() took.
 */
#ifndef CORE_TASK_JSON_SPAN_H
#define CORE_TASK_JSON_SPAN_H

#include "core/model/unicode.h"

/* The text of one JSON value, owned by whoever owns the line. */
struct span {
    const char *s; /* NULL: there is no such value */
    size_t n;
};

/* The value of member KEY of the object whose text is [S, S + N). */
struct span span_member(const char *s, size_t n, const char *key);

/* The first item of LIST, and the one after ITEM; s is NULL past the last. */
struct span span_first(struct span list);
struct span span_next(struct span list, struct span item);

/* "a string", "a whole number", "a fraction" ...: what V is, for messages; "nothing" for none. */
const char *span_kind(struct span v);
bool span_is(struct span v, char kind); /* by its first character: '"', '[', '{', 'n'; '0' number */

/* Appends the characters of the string V. */
void span_text(struct text *out, struct span v);

/* Appends V, or the SIZE bytes of the string S, as Python's json.dumps(ensure_ascii=False) writes
 * them: ", " and ": " between, no escapes but those JSON asks for. Numbers stay as they stand. */
void span_dump(struct text *out, struct span v);
void text_dump(struct text *out, const char *s, size_t size);

#endif
