/* json.c - JSON with errors that say what was expected. */
#include "core/base/json.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 64 /* levels: far past any real file, far below what recursion can bear */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Two members of one name make the meaning depend on the reader: refused. */
static int check_keys(const char *name, const cJSON *item)
{
    int n = 0, rc = 0;
    for (const cJSON *c = item->child; c; c = c->next) {
        if (c->child && check_keys(name, c)) return -1;
        n++;
    }
    if (!cJSON_IsObject(item) || n < 2) return 0;
    const char **keys = xmalloc((size_t)n * sizeof *keys);
    n = 0;
    for (const cJSON *c = item->child; c; c = c->next) keys[n++] = c->string;
    qsort(keys, (size_t)n, sizeof *keys, by_name);
    for (int i = 1; i < n && rc == 0; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            rc = fail("%s: key \"%s\" stands twice", name, keys[i]);
    free(keys);
    return rc;
}

/* ---- the grammar of RFC 8259. cJSON takes more: 01, 1., \uZZZZ, control characters anywhere; what
 * it reads so, another program that is given the same file refuses.
 *
 * Each skip_...() moves *P past what stands there and returns NULL, or leaves *P where something
 * else was expected and returns what. */

static void skip_space(const char **p, const char *end)
{
    while (*p < end && (**p == ' ' || **p == '\t' || **p == '\r' || **p == '\n')) ++*p;
}

static bool take(const char **p, const char *end, const char *word)
{
    const size_t n = strlen(word);
    if ((size_t)(end - *p) < n || memcmp(*p, word, n) != 0) return false;
    *p += n;
    return true;
}

static bool skip_digits(const char **p, const char *end)
{
    const char *from = *p;
    while (*p < end && **p >= '0' && **p <= '9') ++*p;
    return *p > from;
}

const char *json_skip_number(const char **p, const char *end)
{
    take(p, end, "-");
    const char *first = *p;
    if (!skip_digits(p, end)) return "a JSON value";
    if (*first == '0' && *p > first + 1) {
        *p = first + 1;
        return "a number without leading zeros";
    }
    if (take(p, end, ".") && !skip_digits(p, end)) return "a digit after the decimal point";
    if (take(p, end, "e") || take(p, end, "E")) {
        if (!take(p, end, "+")) take(p, end, "-");
        if (!skip_digits(p, end)) return "a digit of the exponent";
    }
    return NULL;
}

static bool skip_escape(const char **p, const char *end)
{
    const char *c = *p;
    if (c == end || *c == 0 || !strchr("\"\\/bfnrtu", *c)) return false;
    if (*c == 'u') {
        if (end - c < 5) return false;
        for (int i = 1; i < 5; i++)
            if (!isxdigit((unsigned char)c[i])) return false;
    }
    *p += *c == 'u' ? 5 : 1;
    return true;
}

static const char *skip_string(const char **p, const char *end)
{
    for (++*p; *p < end && **p != '"';) {
        if ((unsigned char)**p < 0x20) return "control characters in strings to be escaped";
        if (*(*p)++ == '\\' && !skip_escape(p, end)) return "an escape of JSON";
    }
    return take(p, end, "\"") ? NULL : "the quote that ends a string";
}

static const char too_deep[] = "fewer levels of lists and objects";

/* DEPTH lists and objects are open around it. */
static const char *skip_value(const char **p, const char *end, int depth)
{
    const char open = *p < end ? **p : 0, *const close = open == '[' ? "]" : "}", *wanted;
    if (open == '"') return skip_string(p, end);
    if (open != '[' && open != '{') {
        if (take(p, end, "null") || take(p, end, "true") || take(p, end, "false")) return NULL;
        return json_skip_number(p, end);
    }
    if (depth == DEEPEST) return too_deep;
    ++*p;
    skip_space(p, end);
    if (take(p, end, close)) return NULL;
    for (;;) {
        if (open == '{') {
            if (*p == end || **p != '"') return "a key in quotes";
            if ((wanted = skip_string(p, end)) != NULL) return wanted;
            skip_space(p, end);
            if (!take(p, end, ":")) return "a colon";
            skip_space(p, end);
        }
        if ((wanted = skip_value(p, end, depth + 1)) != NULL) return wanted;
        skip_space(p, end);
        if (take(p, end, close)) return NULL;
        if (!take(p, end, ",")) return open == '{' ? "a comma or }" : "a comma or ]";
        skip_space(p, end);
    }
}

/* The line of TEXT that P is in, from 1. */
static long line_at(const char *text, const char *p)
{
    long line = 1;
    for (; text < p; text++) line += *text == '\n';
    return line;
}

static int check_syntax(const char *name, const char *text, size_t size)
{
    const char *p = text, *end = text + size, *wanted;
    char found[16] = "the end";
    take(&p, end, "\xef\xbb\xbf"); /* editors write it; readers may ignore it */
    skip_space(&p, end);
    if ((wanted = skip_value(&p, end, 0)) == too_deep)
        return fail("%s: JSON nested deeper than %d levels", name, DEEPEST);
    if (wanted == NULL) skip_space(&p, end);
    if (wanted == NULL && p == end) return 0;
    const long at = (long)(p - text);
    if (wanted == NULL)
        return fail("%s: expected one JSON value, found more after byte %ld", name, at);
    const unsigned char c = p < end ? (unsigned char)*p : 0;
    if (p < end) snprintf(found, sizeof found, c < 0x20 || c > 0x7e ? "byte 0x%02x" : "'%c'", c);
    return fail("%s: not valid JSON at line %ld (byte %ld): expected %s, found %s", name,
                line_at(text, p), at, wanted, found);
}

cJSON *json_parse(const char *name, const char *text, size_t size)
{
    const char *end = NULL;
    if (check_syntax(name, text, size)) return NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    if (root == NULL) {
        fail("%s: JSON that cannot be read at line %ld (byte %ld): expected surrogates in pairs, "
             "and numbers of at most 63 characters",
             name, line_at(text, end), (long)(end - text));
        return NULL;
    }
    if (check_keys(name, root)) {
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

cJSON *json_load(const char *path)
{
    size_t size;
    char *text = file_read(path, &size);
    cJSON *root = text ? json_parse(path, text, size) : NULL;
    free(text);
    return root;
}

const cJSON *json_member(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

const char *json_kind(const cJSON *item)
{
    if (item == NULL) return "nothing";
    if (cJSON_IsString(item)) return "a string";
    if (cJSON_IsNumber(item)) return "a number";
    if (cJSON_IsBool(item)) return "a boolean";
    if (cJSON_IsArray(item)) return "a list";
    if (cJSON_IsObject(item)) return "an object";
    return "null";
}

int json_int(const char *name, const cJSON *object, const char *key, long min, long max, int *value)
{
    const cJSON *item = json_member(object, key);
    if (item == NULL) return 0;
    if (!cJSON_IsNumber(item))
        return fail("%s: \"%s\": expected a whole number, found %s", name, key, json_kind(item));
    double v = item->valuedouble;
    if (!(v >= (double)min && v <= (double)max) || v != floor(v))
        return fail("%s: \"%s\": expected a whole number from %ld to %ld, found %g", name, key, min,
                    max, v);
    *value = (int)v;
    return 0;
}

int json_double(const char *name, const cJSON *object, const char *key, double min, double max,
                double *value)
{
    const cJSON *item = json_member(object, key);
    if (item == NULL) return 0;
    if (!cJSON_IsNumber(item))
        return fail("%s: \"%s\": expected a number, found %s", name, key, json_kind(item));
    double v = item->valuedouble;
    if (!(v >= min && v <= max))
        return fail("%s: \"%s\": expected a number from %g to %g, found %g", name, key, min, max,
                    v);
    *value = v;
    return 0;
}

int json_bool(const char *name, const cJSON *object, const char *key, bool *value)
{
    const cJSON *item = json_member(object, key);
    if (item == NULL) return 0;
    if (!cJSON_IsBool(item))
        return fail("%s: \"%s\": expected true or false, found %s", name, key, json_kind(item));
    *value = cJSON_IsTrue(item);
    return 0;
}

int json_string(const char *name, const cJSON *object, const char *key, const char **value)
{
    const cJSON *item = json_member(object, key);
    if (item == NULL) return 0;
    if (!cJSON_IsString(item))
        return fail("%s: \"%s\": expected a string, found %s", name, key, json_kind(item));
    *value = item->valuestring;
    return 0;
}

int json_int_list(const char *name, const cJSON *item, const char *what, long min, long max,
                  int **list, int *n)
{
    if (!cJSON_IsArray(item))
        return fail("%s: %s: expected a list of whole numbers, found %s", name, what,
                    json_kind(item));
    int count = cJSON_GetArraySize(item), i = 0;
    int *out = xmalloc((size_t)(count ? count : 1) * sizeof *out);
    for (const cJSON *c = item->child; c; c = c->next, i++) {
        double v = cJSON_IsNumber(c) ? c->valuedouble : NAN;
        if (!(v >= (double)min && v <= (double)max) || v != floor(v)) {
            free(out);
            if (!cJSON_IsNumber(c))
                return fail("%s: %s[%d]: expected a whole number, found %s", name, what, i,
                            json_kind(c));
            return fail("%s: %s[%d]: expected a whole number from %ld to %ld, found %g", name, what,
                        i, min, max, v);
        }
        out[i] = (int)v;
    }
    *list = out;
    *n = count;
    return 0;
}

int json_known_keys(const char *name, const cJSON *object, const char *const *known)
{
    for (const cJSON *c = object->child; c; c = c->next) {
        const char *const *k = known;
        while (*k && strcmp(*k, c->string) != 0) k++;
        if (*k) continue;
        const char *near = nearest_name(c->string, known);
        return fail("%s: unknown key \"%s\"%s%s%s", name, c->string,
                    near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return 0;
}

int json_ids(const char *path, int **ids, int *n)
{
    int rc = -1;
    cJSON *root = json_load(path);
    if (root == NULL) return -1;
    const cJSON *list = cJSON_IsObject(root) ? json_member(root, "ids") : root;
    if (list == NULL || !cJSON_IsArray(list)) {
        fail("%s: expected a JSON list of token ids, or an object with a list \"ids\", found %s",
             path, list ? json_kind(list) : "no \"ids\"");
        goto done;
    }
    if (json_int_list(path, list, "ids", 0, INT_MAX, ids, n)) goto done;
    if (*n == 0) {
        fail("%s: ids: expected at least one token id, found an empty list", path);
        free(*ids);
        *ids = NULL;
        goto done;
    }
    rc = 0;

done:
    cJSON_Delete(root);
    return rc;
}
