/* normalize.h - the "normalizer" of a tokenizer.json: what happens to a text before it is cut. */
#ifndef CORE_MODEL_NORMALIZE_H
#define CORE_MODEL_NORMALIZE_H

#include "core/model/pattern.h"
#include "core/model/unicode.h"

#include <cjson/cJSON.h>

struct normalizer;

/* Reads ITEM of FILE, which may be NULL: no normalizer. NULL after fail(). */
struct normalizer *normalizer_load(const char *file, const cJSON *item);
void normalizer_free(struct normalizer *n);

/* Whether texts stay as they are. */
bool normalizer_is_empty(const struct normalizer *n);

/* Appends the normalised S to OUT; *CUT says whether bytes of its start were stripped off. 0, or -1
 * after fail(). */
int normalizer_run(const struct normalizer *n, struct matcher *m, const char *s, size_t size,
                   struct text *out, bool *cut);

#endif
