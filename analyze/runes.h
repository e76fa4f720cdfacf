/* runes.h - text as Python's strings hold it: an array of code points, with the classes and cases
 * of Python's str and re, on which the published scorers stand.
 *
 * A rune is any value from 0 to 0x10ffff: NUL and lone surrogates too, which JSON can escape.
 * Classes and cases are utf8proc's Unicode version.
 */
#ifndef ANALYZE_RUNES_H
#define ANALYZE_RUNES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A text: the owner frees c. A slice of another text has room 0 and is never freed. All zero is an
 * empty text. */
struct runes {
    uint32_t *c;
    size_t n, room;
};

void runes_add(struct runes *r, uint32_t c);
void runes_append(struct runes *r, struct runes s);
void runes_free(struct runes *r);

/* Characters [FROM, TO) of R as a slice. */
struct runes runes_slice(struct runes r, size_t from, size_t to);

/* The rune of the UTF-8 character at S, of at most N bytes; *SIZE is its length in bytes, 0 where
 * no valid one starts. */
uint32_t runes_decode(const char *s, size_t n, size_t *size);

/* Appends N bytes of valid UTF-8. */
void runes_add_utf8(struct runes *r, const char *s, size_t n);

/* R as UTF-8, lone surrogates as U+FFFD, with a NUL after its *SIZE bytes; the caller frees it. */
char *runes_utf8(struct runes r, size_t *size);

bool runes_equal(struct runes a, struct runes b);
bool runes_start(struct runes r, struct runes head); /* str.startswith */
bool runes_is(struct runes r, const char *ascii);

/* Where WORD first stands in R at or after FROM; -1 where it does not. An empty one stands
 * anywhere. */
ptrdiff_t runes_find(struct runes r, struct runes word, size_t from);
ptrdiff_t runes_find_ascii(struct runes r, const char *word, size_t from);

bool rune_space(uint32_t c); /* str.isspace, str.split, re's \s */
bool rune_word(uint32_t c);  /* re's \w: letters, numbers and _, no marks */
int rune_digit(uint32_t c);  /* the value of re's \d (category Nd), -1 for others */

/* str.lower and str.upper appended to OUT: full mappings, final sigma included. */
void runes_lower(struct runes *out, struct runes r);
void runes_upper(struct runes *out, struct runes r);

/* str.strip and str.lstrip("\n"), as slices. */
struct runes runes_strip(struct runes r);
struct runes runes_skip_newlines(struct runes r);

/* R up to the first newline at or after FROM, as a slice; without one, to its end. */
struct runes runes_line(struct runes r, size_t from);

/* The next word of str.split() at or after *AT, which moves past it; false at the end. */
bool runes_next_word(struct runes r, size_t *at, struct runes *word);

/* Words as small numbers: equal words get the same one, counted from 0. Keys are slices of texts
 * that outlive the table. */
struct word_table {
    struct word_slot {
        struct runes word;
        uint32_t hash;
        int id; /* -1: empty */
    } * slot;
    size_t room;
    int n; /* distinct words so far */
};
int word_id(struct word_table *t, struct runes word);
void word_table_free(struct word_table *t);

/* Numbers that grow; the owner frees v. */
struct ids {
    int *v;
    size_t n, room;
};
void ids_add(struct ids *l, int id);

#endif
