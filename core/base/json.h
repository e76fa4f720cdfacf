/* json.h - JSON with errors that name the file, the key, what was expected and what was found. */
#ifndef CORE_BASE_JSON_H
#define CORE_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Parses all of PATH by the grammar of RFC 8259, refusing what follows the value, nesting past 64
 * levels, duplicate keys of an object and lone surrogates; whether strings are UTF-8 is not looked
 * at, and one that holds \u0000 ends there. The caller frees it with cJSON_Delete(). NULL after
 * fail(). */
cJSON *json_load(const char *path);

/* The same for SIZE bytes of TEXT; NAME stands for the file in messages. */
cJSON *json_parse(const char *name, const char *text, size_t size);

/* Moves *P past the number that starts there and returns NULL; otherwise returns what was expected
 * at *P, "a digit of the exponent" for instance. Source: RFC 8259, section 6. */
const char *json_skip_number(const char **p, const char *end);

/* Typed access to the member KEY of OBJECT. Absent (or null) leaves *VALUE as it is and returns 0;
 * the wrong type or a value out of range is -1 after fail(). */
int json_int(const char *name, const cJSON *object, const char *key, long min, long max,
             int *value);
int json_double(const char *name, const cJSON *object, const char *key, double min, double max,
                double *value);
int json_bool(const char *name, const cJSON *object, const char *key, bool *value);
int json_string(const char *name, const cJSON *object, const char *key, const char **value);

/* A new array of the list of whole numbers at ITEM, each within [MIN, MAX]; the caller frees it.
 * 0, or -1 after fail(); WHAT names the list in messages. An empty list gives *n = 0. */
int json_int_list(const char *name, const cJSON *item, const char *what, long min, long max,
                  int **list, int *n);

/* The member KEY of OBJECT, case-sensitive; NULL when absent or null. */
const cJSON *json_member(const cJSON *object, const char *key);

/* "a string", "a number" ...: what ITEM is, for messages. */
const char *json_kind(const cJSON *item);

/* Checks that each key of OBJECT is in the NULL-terminated list; otherwise -1 after fail() that
 * names the nearest known one. */
int json_known_keys(const char *name, const cJSON *object, const char *const *known);

/* A token id list: [1, 2] or {"ids": [1, 2], ...}. The caller frees *IDS. 0, or -1 after fail(). */
int json_ids(const char *path, int **ids, int *n);

#endif
