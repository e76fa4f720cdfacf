/* pretokenize.h - the "pre_tokenizer" of a tokenizer.json: how a text is cut into the words that
 * BPE merges within, and rewritten on the way. */
#ifndef CORE_MODEL_PRETOKENIZE_H
#define CORE_MODEL_PRETOKENIZE_H

#include "core/model/pattern.h"
#include "core/model/unicode.h"

#include <cjson/cJSON.h>

struct pretokenizer;

/* Reads ITEM of FILE, which may be NULL: each text is one word. NULL after fail(). */
struct pretokenizer *pretokenizer_load(const char *file, const cJSON *item);
void pretokenizer_free(struct pretokenizer *p);

/* What the words of a text go to, one after the other. */
struct word_sink {
    int (*take)(void *to, const char *s, size_t n); /* 0, or -1 to stop after fail() */
    void *to;
};

/* Hands the words of S to SINK. AT_START: S starts where the whole text starts, which Metaspace's
 * scheme "first" asks. BUFFER is [pretokenizer_buffers()], kept by the caller between calls. 0, or
 * -1 after fail(). */
int pretokenizer_run(const struct pretokenizer *p, struct matcher *m, struct text *buffer,
                     const char *s, size_t n, bool at_start, struct word_sink sink);
int pretokenizer_buffers(const struct pretokenizer *p);

/* How the words are spelt: which decoder undoes it. */
bool pretokenizer_spells_bytes(const struct pretokenizer *p); /* ByteLevel */

int spelt_byte(uint32_t c); /* -1: C spells none */

#endif
