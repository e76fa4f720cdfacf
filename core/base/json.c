/* json.c - JSON with errors that say what was expected. */
#include "core/base/json.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 64 /* levels: far past any real file, far below what recursion can bear */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Two members of one name make the meaning depend on the reader: refused. */
static int check_keys(const char *name, const cJSON *item, int depth)
{
    int n = 0, rc = 0;
    if (depth > DEEPEST) return fail("%s: JSON nested deeper than %d levels", name, DEEPEST);
    for (const cJSON *c = item->child; c; c = c->next) {
        if (c->child && check_keys(name, c, depth + 1)) return -1;
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

/* cJSON recurses once per level: what is nested too deeply must be refused before it parses. */
static int check_depth(const char *name, const char *text, size_t size)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted && c == '\\')
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (quoted)
            continue;
        else if (c == '[' || c == '{')
            depth++;
        else if (c == ']' || c == '}')
            depth--;
        if (depth > DEEPEST) return fail("%s: JSON nested deeper than %d levels", name, DEEPEST);
    }
    return 0;
}

cJSON *json_parse(const char *name, const char *text, size_t size)
{
    const char *end = NULL;
    if (check_depth(name, text, size)) return NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    if (root == NULL) {
        long line = 1;
        for (const char *p = text; end && p < end; p++) line += *p == '\n';
        fail("%s: not valid JSON at line %ld (byte %ld)", name, line, end ? (long)(end - text) : 0);
        return NULL;
    }
    while (end < text + size && *end && strchr(" \t\r\n", *end)) end++;
    if (end != text + size) {
        fail("%s: expected one JSON value, found more after byte %ld", name, (long)(end - text));
        cJSON_Delete(root);
        return NULL;
    }
    if (check_keys(name, root, 0)) {
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
