/* part.h - reading the parts of a tokenizer.json: objects told apart by their "type". */
#ifndef CORE_MODEL_PART_H
#define CORE_MODEL_PART_H

#include "core/model/pattern.h"

#include <cjson/cJSON.h>

#define PART_DEPTH 8 /* Sequence in Sequence: more than any real file nests */

/* The index in the NULL-terminated list NAMES of ITEM's type, or -1 after fail(), which lists the
 * names. PART says where ITEM stands: "normalizer". */
int part_type(const char *file, const char *part, const cJSON *item, const char *const *names);

/* The list KEY of a Sequence; NULL after fail(). */
const cJSON *part_list(const char *file, const char *part, const cJSON *item, const char *key);

/* The members of ITEM that must be there. 0, or -1 after fail(). */
int part_bool(const char *file, const char *part, const cJSON *item, const char *key, bool *value);
int part_string(const char *file, const char *part, const cJSON *item, const char *key,
                const char **value);

/* The member "pattern": {"Regex": ...} or {"String": ...}. */
int part_pattern(const char *file, const char *part, const cJSON *item, struct pattern *p);

#endif
