/* added.h - the "added_tokens" of a tokenizer.json: strings found in a text ahead of the model. */
#ifndef CORE_MODEL_ADDED_H
#define CORE_MODEL_ADDED_H

#include "core/model/bpe.h"
#include "core/model/normalize.h"

struct added_token {
    char *text; /* as it stands in the file, and as it is decoded */
    size_t n;
    char *match; /* as it is looked for: the text, or its normal form when normalized */
    size_t match_n;
    int id;
    bool special, lstrip, rstrip, single_word, normalized;
    bool own; /* the model's vocabulary lacks it: its text is spelt as it is, not by bytes */
};

struct added {
    struct added_token *token;
    int n;
    int size; /* one past the largest id */
    /* Indices into token, sorted by match: [0] those found in the text as it is given, [1] those
     * found in its normal form; first[k][c] .. first[k][c + 1] start with byte c. */
    int *sorted[2];
    int first[2][257];
};

/* Reads the list ITEM of FILE, which may be NULL: none. A token's id must be the model's where the
 * model has it too. 0, or -1 after fail(). */
int added_load(struct added *a, const char *file, const cJSON *item, const struct bpe *model,
               const struct normalizer *z, struct matcher *m);
void added_free(struct added *a);

/* The token with this id, or NULL. */
const struct added_token *added_token(const struct added *a, int id);

/* The next token in S from byte *AT on: the leftmost, and the longest of those that start there.
 * Sets [*FROM, *TO) to what it takes, stripped white space included, and *AT to where to go on.
 * TAKEN is the end of what the last one took. NULL when there is none. */
const struct added_token *added_next(const struct added *a, bool normalized, const char *s,
                                     size_t n, size_t *at, size_t taken, size_t *from, size_t *to);

#endif
