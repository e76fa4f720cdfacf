/* decode.h - the "decoder" of a tokenizer.json: from tokens back to bytes. */
#ifndef CORE_MODEL_DECODE_H
#define CORE_MODEL_DECODE_H

#include "core/model/pattern.h"
#include "core/model/unicode.h"

#include <cjson/cJSON.h>

struct decoder;

/* Reads ITEM of FILE. Without one (NULL) tokens are joined as they are, their bytes spelt out
 * where BYTES says that they are spelt GPT-2's way. NULL after fail(). */
struct decoder *decoder_load(const char *file, const cJSON *item, bool bytes);
void decoder_free(struct decoder *d);

/* Appends the bytes of the token S to OUT; INDEX counts the tokens of this text, and a LITERAL one
 * (an added token) is not spelt. 0, or -1 after fail(). */
int decoder_token(const struct decoder *d, struct matcher *m, const char *s, size_t n, int index,
                  bool literal, struct text *out);

/* How many bytes of the whole text S the decoder takes away at its two ends. */
void decoder_ends(const struct decoder *d, const char *s, size_t n, size_t *start, size_t *stop);

#endif
