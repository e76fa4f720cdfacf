/* jsonl.c - JSON as Python's json.loads reads it. */
#include "analyze/jsonl.h"
#include "core/base/base.h"
#include "core/base/json.h"

#include <stdlib.h>
#include <string.h>

#define DEEPEST 64 /* levels: far past any real line, far below what recursion can bear */

struct reader {
    const char *where, *start, *p, *end;
};

static int bad(struct reader *r, const char *expected)
{
    const long column = (long)(r->p - r->start) + 1;
    if (r->p == r->end)
        return fail("%s: expected %s, found the end of the line after %ld bytes: is it "
                    "half-written?",
                    r->where, expected, column - 1);
    if (*r->p < 0x20 || *r->p > 0x7e)
        return fail("%s: expected %s, found byte 0x%02x at byte %ld", r->where, expected,
                    (unsigned)(unsigned char)*r->p, column);
    return fail("%s: expected %s, found '%c' at byte %ld", r->where, expected, *r->p, column);
}

static void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\r' || *r->p == '\n'))
        r->p++;
}

static bool take(struct reader *r, const char *word)
{
    const size_t n = strlen(word);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0) return false;
    r->p += n;
    return true;
}

/* The four hexadecimal digits at P, or -1. */
static long hex4(const char *p, const char *end)
{
    long v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char c = p[i];
        const int d = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
        if (d < 0) return -1;
        v = 16 * v + d;
    }
    return v;
}

static int read_escape(struct reader *r, struct runes *text)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at = r->p < r->end && *r->p ? strchr(from, *r->p) : NULL;
    if (at) {
        runes_add(text, (unsigned char)to[at - from]);
        r->p++;
        return 0;
    }
    long c = r->p < r->end && *r->p == 'u' ? hex4(r->p + 1, r->end) : -1;
    if (c < 0) {
        if (r->p < r->end && *r->p == 'u' && r->end - r->p < 5) r->p = r->end;
        return bad(r, "an escape of JSON");
    }
    r->p += 5;
    if (c >= 0xd800 && c < 0xdc00 && r->end - r->p >= 6 && r->p[0] == '\\' && r->p[1] == 'u') {
        const long low = hex4(r->p + 2, r->end);
        if (low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            r->p += 6;
        }
    }
    runes_add(text, (uint32_t)c);
    return 0;
}

static int read_string(struct reader *r, struct runes *text)
{
    for (r->p++;;) { /* past the quote */
        if (r->p == r->end) return bad(r, "the quote that ends a string");
        const unsigned char c = (unsigned char)*r->p;
        if (c == '"') break;
        if (c < 0x20) return bad(r, "control characters in strings to be escaped");
        if (c == '\\') {
            r->p++;
            if (read_escape(r, text)) return -1;
        } else if (c < 0x80) {
            runes_add(text, c);
            r->p++;
        } else {
            size_t size;
            const uint32_t rune = runes_decode(r->p, (size_t)(r->end - r->p), &size);
            if (size == 0) return bad(r, "UTF-8");
            runes_add(text, rune);
            r->p += size;
        }
    }
    r->p++;
    return 0;
}

static int read_number(struct reader *r, struct jsonl *v)
{
    v->kind = JSONL_REAL;
    v->at = r->p;
    if (!take(r, "NaN") && !take(r, "Infinity") && !take(r, "-Infinity")) {
        const char *expected = json_skip_number(&r->p, r->end);
        if (expected) return bad(r, expected);
        v->kind = JSONL_WHOLE;
        for (const char *p = v->at; p < r->p; p++)
            if (*p == '.' || *p == 'e' || *p == 'E') v->kind = JSONL_REAL;
    }
    v->size = (size_t)(r->p - v->at);
    return 0;
}

static int read_value(struct reader *r, struct jsonl *v, int depth);

/* The items of a list or an object, up to the bracket that ENDs it. */
static int read_items(struct reader *r, struct jsonl *v, char end, int depth)
{
    size_t room = 0;
    if (depth == DEEPEST)
        return fail("%s: expected at most %d levels of lists and objects, found more", r->where,
                    DEEPEST);
    r->p++;
    skip_space(r);
    if (r->p < r->end && *r->p == end) {
        r->p++;
        return 0;
    }
    for (;;) {
        if (v->n == room) {
            room = 2 * room + 8;
            v->item = xrealloc(v->item, room * sizeof *v->item);
            if (end == '}') v->key = xrealloc(v->key, room * sizeof *v->key);
        }
        memset(&v->item[v->n], 0, sizeof *v->item);
        if (end == '}') memset(&v->key[v->n], 0, sizeof *v->key);
        v->n++;
        if (end == '}') {
            struct runes *key = &v->key[v->n - 1];
            if (r->p == r->end || *r->p != '"') return bad(r, "a key in quotes");
            if (read_string(r, key)) return -1;
            for (size_t i = 0; depth == 0 && i + 1 < v->n; i++)
                if (runes_equal(v->key[i], *key)) {
                    size_t size;
                    char *name = runes_utf8(*key, &size);
                    fail("%s: key \"%s\" stands twice", r->where, name);
                    free(name);
                    return -1;
                }
            skip_space(r);
            if (!take(r, ":")) return bad(r, "a colon");
            skip_space(r);
        }
        if (read_value(r, &v->item[v->n - 1], depth + 1)) return -1;
        skip_space(r);
        if (r->p < r->end && *r->p == end) break;
        if (!take(r, ",")) return bad(r, end == '}' ? "a comma or }" : "a comma or ]");
        skip_space(r);
    }
    r->p++;
    return 0;
}

static int read_value(struct reader *r, struct jsonl *v, int depth)
{
    const char c = r->p < r->end ? *r->p : 0;
    if (c == '"') {
        v->kind = JSONL_STRING;
        return read_string(r, &v->text);
    }
    if (c == '[' || c == '{') {
        v->kind = c == '[' ? JSONL_LIST : JSONL_OBJECT;
        return read_items(r, v, c == '[' ? ']' : '}', depth);
    }
    if (take(r, "null")) return 0;
    if (take(r, "true") || take(r, "false")) {
        v->kind = JSONL_BOOL;
        return 0;
    }
    return read_number(r, v);
}

int jsonl_parse(const char *where, const char *line, size_t size, struct jsonl *v)
{
    struct reader r = {where, line, line, line + size};
    memset(v, 0, sizeof *v);
    skip_space(&r);
    if (read_value(&r, v, 0)) return -1;
    skip_space(&r);
    return r.p == r.end ? 0 : bad(&r, "the end of the line");
}

void jsonl_free(struct jsonl *v)
{
    for (size_t i = 0; i < v->n; i++) {
        jsonl_free(&v->item[i]);
        if (v->key) runes_free(&v->key[i]);
    }
    free(v->item);
    free(v->key);
    runes_free(&v->text);
    memset(v, 0, sizeof *v);
}

const struct jsonl *jsonl_member(const struct jsonl *object, const char *key)
{
    for (size_t i = 0; i < object->n; i++)
        if (runes_is(object->key[i], key)) return &object->item[i];
    return NULL;
}

const char *jsonl_name(const struct jsonl *v)
{
    if (v == NULL) return "nothing";
    switch (v->kind) {
    case JSONL_NULL:
        return "null";
    case JSONL_BOOL:
        return "a boolean";
    case JSONL_WHOLE:
        return "a whole number";
    case JSONL_REAL:
        return "a number";
    case JSONL_STRING:
        return "a string";
    case JSONL_LIST:
        return v->n ? "a list" : "an empty list";
    default:
        return "an object";
    }
}

double jsonl_number(const struct jsonl *v)
{
    return strtod(v->at, NULL); /* what follows a number in a line never belongs to it */
}
