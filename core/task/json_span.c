/* json_span.c - the text of JSON values as it stands in a line. */
#include "core/task/json_span.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')) p++;
    return p;
}

/* Past the string that starts at P. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++) p += *p == '\\';
    return p < end ? p + 1 : end;
}

/* Past the value that starts at P: brackets are counted, strings jumped over. */
static const char *skip_value(const char *p, const char *end)
{
    if (p < end && *p == '"') return skip_string(p, end);
    if (p < end && (*p == '[' || *p == '{')) {
        int depth = 0;
        while (p < end) {
            if (*p == '"') {
                p = skip_string(p, end);
                continue;
            }
            depth += (*p == '[' || *p == '{') - (*p == ']' || *p == '}');
            p++;
            if (depth == 0) break;
        }
        return p;
    }
    while (p < end && !strchr(",]} \t\r\n", *p)) p++;
    return p;
}

static struct span value_at(const char *p, const char *end)
{
    p = skip_space(p, end);
    return (struct span){p, (size_t)(skip_value(p, end) - p)};
}

struct span span_member(const char *s, size_t n, const char *key)
{
    const char *end = s + n, *p = skip_space(s, end);
    struct span found = {0};
    struct text name = {0};

    p += p < end; /* the brace */
    while (found.s == NULL && (p = skip_space(p, end)) < end && *p == '"') {
        const struct span quoted = value_at(p, end);
        name.n = 0;
        span_text(&name, quoted);
        p = skip_space(quoted.s + quoted.n, end);
        p += p < end; /* the colon */
        const struct span value = value_at(p, end);
        if (name.n == strlen(key) && memcmp(name.s, key, name.n) == 0) found = value;
        p = skip_space(value.s + value.n, end);
        p += p < end && *p == ',';
    }
    free(name.s);
    return found;
}

/* The item that starts at P, unless the list ends there. */
static struct span item_at(struct span list, const char *p)
{
    const char *end = list.s + list.n;
    p = skip_space(p, end);
    if (p >= end || *p == ']') return (struct span){0};
    return value_at(p, end);
}

struct span span_first(struct span list)
{
    return item_at(list, list.s + 1);
}

struct span span_next(struct span list, struct span item)
{
    const char *end = list.s + list.n, *p = skip_space(item.s + item.n, end);
    return p < end && *p == ',' ? item_at(list, p + 1) : (struct span){0};
}

bool span_is(struct span v, char kind)
{
    if (v.s == NULL) return false;
    if (kind == '0') return *v.s == '-' || (*v.s >= '0' && *v.s <= '9');
    return *v.s == kind;
}

const char *span_kind(struct span v)
{
    if (v.s == NULL) return "nothing";
    if (span_is(v, '"')) return "a string";
    if (span_is(v, '[')) return "a list";
    if (span_is(v, '{')) return "an object";
    if (span_is(v, 'n')) return "null";
    if (!span_is(v, '0')) return "a boolean";
    for (size_t i = 0; i < v.n; i++)
        if (strchr(".eE", v.s[i])) return "a fraction";
    return "a whole number";
}

static uint32_t hex4(const char *s)
{
    uint32_t c = 0;
    for (int i = 0; i < 4; i++)
        c = 16 * c + (uint32_t)(s[i] <= '9' ? s[i] - '0' : (s[i] | 32) - 'a' + 10);
    return c;
}

void span_text(struct text *out, struct span v)
{
    const char *p = v.s + 1, *end = v.s + v.n - 1; /* between the quotes */
    while (p < end) {
        const char *plain = p;
        while (p < end && *p != '\\') p++;
        text_add(out, plain, (size_t)(p - plain));
        if (end - p < 2) break;
        static const char marks[] = "bfnrt", means[] = "\b\f\n\r\t";
        const char *mark = strchr(marks, p[1]);
        char utf8[4];
        if (p[1] != 'u') {
            text_add(out, mark ? &means[mark - marks] : p + 1, 1);
            p += 2;
            continue;
        }
        if (end - p < 6) break;
        uint32_t c = hex4(p + 2);
        p += 6;
        if (c >= 0xd800 && c < 0xdc00 && end - p >= 6) { /* the first of a surrogate pair */
            c = 0x10000 + ((c - 0xd800) << 10) + (hex4(p + 2) - 0xdc00);
            p += 6;
        }
        text_add(out, utf8, (size_t)utf8_put(c, utf8));
    }
}

void text_dump(struct text *out, const char *s, size_t size)
{
    static const char marks[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    text_add(out, "\"", 1);
    for (size_t i = 0; i < size;) {
        const size_t plain = i;
        while (i < size && (unsigned char)s[i] >= 0x20 && s[i] != '"' && s[i] != '\\') i++;
        text_add(out, s + plain, i - plain);
        if (i == size) break;
        const char *mark = memchr(marks, s[i], sizeof marks - 1);
        char escape[8] = {'\\', mark ? names[mark - marks] : 'u'};
        if (mark == NULL) snprintf(escape + 2, sizeof escape - 2, "%04x", (unsigned)s[i]);
        text_add(out, escape, strlen(escape));
        i++;
    }
    text_add(out, "\"", 1);
}

void span_dump(struct text *out, struct span v)
{
    struct text plain = {0};
    const char *end = v.s + v.n;
    for (const char *p = v.s; p < end;) {
        if (*p == '"') {
            const struct span word = {p, (size_t)(skip_string(p, end) - p)};
            plain.n = 0;
            span_text(&plain, word);
            text_dump(out, plain.s ? plain.s : "", plain.n);
            p += word.n;
        } else {
            if (skip_space(p, p + 1) == p) text_add(out, p, 1);
            if (*p == ',' || *p == ':') text_add(out, " ", 1);
            p++;
        }
    }
    free(plain.s);
}
