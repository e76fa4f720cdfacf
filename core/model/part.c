/* part.c - reading the parts of a tokenizer.json. */
#include "core/model/part.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/model/unicode.h"

#include <stdlib.h>
#include <string.h>

int part_type(const char *file, const char *part, const cJSON *item, const char *const *names)
{
    struct text list = {0};
    if (!cJSON_IsObject(item))
        return fail("%s: %s: expected an object with a \"type\", found %s", file, part,
                    json_kind(item));
    const cJSON *type = json_member(item, "type");
    if (!cJSON_IsString(type))
        return fail("%s: %s: \"type\": expected a string, found %s", file, part, json_kind(type));
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], type->valuestring) == 0) return i;
    for (int i = 0; names[i]; i++) {
        if (i > 0) text_add(&list, ", ", 2);
        text_add(&list, names[i], strlen(names[i]));
    }
    fail("%s: %s: type \"%.100s\" is not supported; supported are %.*s", file, part,
         type->valuestring, (int)list.n, list.s);
    free(list.s);
    return -1;
}

const cJSON *part_list(const char *file, const char *part, const cJSON *item, const char *key)
{
    const cJSON *list = json_member(item, key);
    if (cJSON_IsArray(list)) return list;
    fail("%s: %s: \"%s\": expected a list, found %s", file, part, key, json_kind(list));
    return NULL;
}

int part_bool(const char *file, const char *part, const cJSON *item, const char *key, bool *value)
{
    const cJSON *member = json_member(item, key);
    if (!cJSON_IsBool(member))
        return fail("%s: %s: \"%s\": expected true or false, found %s", file, part, key,
                    json_kind(member));
    *value = cJSON_IsTrue(member);
    return 0;
}

int part_string(const char *file, const char *part, const cJSON *item, const char *key,
                const char **value)
{
    const cJSON *member = json_member(item, key);
    if (!cJSON_IsString(member))
        return fail("%s: %s: \"%s\": expected a string, found %s", file, part, key,
                    json_kind(member));
    *value = member->valuestring;
    return 0;
}

int part_pattern(const char *file, const char *part, const cJSON *item, struct pattern *p)
{
    const cJSON *pattern = json_member(item, "pattern");
    const cJSON *regex = json_member(pattern, "Regex"), *string = json_member(pattern, "String");
    if (cJSON_IsString(regex)) return pattern_regex(p, file, part, regex->valuestring);
    if (!cJSON_IsString(string))
        return fail(
            "%s: %s: \"pattern\": expected {\"Regex\": TEXT} or {\"String\": TEXT}, found %s", file,
            part, cJSON_IsObject(pattern) ? "neither" : json_kind(pattern));
    pattern_string(p, string->valuestring);
    return 0;
}
