/* unicode.h - UTF-8, the character classes tokenizers ask for, and normal forms.
 *
 * Classes and normal forms are utf8proc's Unicode version; text handed to any function but
 * utf8_check() is valid UTF-8.
 */
#ifndef CORE_MODEL_UNICODE_H
#define CORE_MODEL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that grow; the owner frees s. All zero is an empty text. */
struct text {
    char *s;
    size_t n, room;
};
void text_add(struct text *t, const char *s, size_t n);
void text_room(struct text *t, size_t more); /* makes room for MORE bytes after the n in use */

/* Whether S is UTF-8 of Unicode scalar values; otherwise *BAD is the offset of the first byte
 * that cannot be. */
bool utf8_check(const char *s, size_t n, size_t *bad);

/* The character at S and its length in bytes, 1 to 4. */
int utf8_get(const char *s, uint32_t *c);

/* Writes C as 1 to 4 bytes and returns their number. */
int utf8_put(uint32_t c, char *s);

/* Where the character that ends at byte END (> 0) of S starts. */
size_t utf8_before(const char *s, size_t end);

bool is_white_space(uint32_t c); /* Unicode property White_Space */
bool is_word(uint32_t c);        /* \w of Unicode TS 18: letters, marks, digits, connectors */
bool is_numeric(uint32_t c);     /* categories Nd, Nl, No */
bool is_punctuation(uint32_t c); /* categories P*, and ASCII symbols */

/* Characters that came with Unicode 15 to 16, which the libraries of a stable system may not know
 * yet, while Oniguruma, which tokenizers are made with, does. Sorted. */
struct late_range {
    uint32_t first, last;
    char category[3]; /* "Lo" */
};
extern const struct late_range late_ranges[];
extern const size_t late_ranges_n;

enum normal_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD };

/* Appends the normal form of S to OUT. Time is linear in N, whatever the marks. */
void normal_form(struct text *out, const char *s, size_t n, enum normal_form form);

/* Appends S in lower case, character by character. */
void lower_case(struct text *out, const char *s, size_t n);

#endif
