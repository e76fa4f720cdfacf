/* decode.c - decoders: each token becomes bytes; what is left to do on the whole text is to take
 * away the space that the encoder put first. */
#include "core/model/decode.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/model/part.h"
#include "core/model/pretokenize.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum kind { BYTE_LEVEL, REPLACE, BYTE_FALLBACK, FUSE, STRIP, METASPACE, SEQUENCE };
static const char *const names[] = {"ByteLevel", "Replace",   "ByteFallback", "Fuse",
                                    "Strip",     "Metaspace", "Sequence",     NULL};

struct step {
    enum kind kind;
    struct pattern pattern; /* REPLACE */
    char *content;          /* REPLACE: what takes the place; STRIP, METASPACE: the character */
    int start, stop;        /* STRIP: most characters taken away at each end */
    bool drop_first;        /* METASPACE: marks of the first token are dropped */
    bool whole;             /* STRIP behind FUSE: of the text, not of each token */
};

struct decoder {
    struct step *step;
    int n;
    bool fused;
};

static int one_character(const char *file, const char *part, const char *key, const char *text)
{
    uint32_t c;
    if (*text == 0 || text[utf8_get(text, &c)] != 0)
        return fail("%s: %s: \"%s\": expected one character, found \"%.100s\"", file, part, key,
                    text);
    return 0;
}

static int load_metaspace(struct step *s, const char *file, const char *part, const cJSON *item)
{
    const char *mark = NULL, *scheme = NULL;
    bool prefix = true;
    if (part_string(file, part, item, "replacement", &mark) ||
        one_character(file, part, "replacement", mark) ||
        json_bool(file, item, "add_prefix_space", &prefix) ||
        json_string(file, item, "prepend_scheme", &scheme))
        return -1;
    s->content = xstrdup(mark);
    s->drop_first = scheme ? strcmp(scheme, "never") != 0 : prefix;
    return 0;
}

static int load(struct decoder *d, const char *file, const cJSON *item, int depth)
{
    static const char part[] = "decoder";
    const char *content = NULL;
    const int kind = part_type(file, part, item, names);

    if (kind < 0) return -1;
    if (kind == SEQUENCE) {
        const cJSON *list = part_list(file, part, item, "decoders");
        if (list == NULL) return -1;
        if (depth == PART_DEPTH) return fail("%s: %s: nested too deeply", file, part);
        for (const cJSON *c = list->child; c; c = c->next)
            if (load(d, file, c, depth + 1)) return -1;
        return 0;
    }
    if (d->fused && kind != STRIP && kind != FUSE)
        return fail("%s: %s: %s behind Fuse or ByteLevel is not supported", file, part,
                    names[kind]);
    d->step = xrealloc(d->step, (size_t)(d->n + 1) * sizeof *d->step);
    struct step *s = &d->step[d->n++];
    memset(s, 0, sizeof *s);
    s->kind = (enum kind)kind;
    s->whole = d->fused;
    d->fused = d->fused || kind == FUSE || kind == BYTE_LEVEL;
    if (kind == METASPACE) return load_metaspace(s, file, part, item);
    if (kind == REPLACE && part_pattern(file, part, item, &s->pattern)) return -1;
    if (kind == REPLACE || kind == STRIP) {
        if (part_string(file, part, item, "content", &content)) return -1;
        s->content = xstrdup(content);
    }
    if (kind == STRIP && (one_character(file, part, "content", content) ||
                          json_int(file, item, "start", 0, 1 << 20, &s->start) ||
                          json_int(file, item, "stop", 0, 1 << 20, &s->stop)))
        return -1;
    return 0;
}

struct decoder *decoder_load(const char *file, const cJSON *item, bool bytes)
{
    struct decoder *d = xcalloc(1, sizeof *d);
    if (item == NULL) {
        d->step = xcalloc(1, sizeof *d->step);
        d->step[0].kind = bytes ? BYTE_LEVEL : FUSE;
        d->n = 1;
        return d;
    }
    if (load(d, file, item, 0) == 0) return d;
    decoder_free(d);
    return NULL;
}

void decoder_free(struct decoder *d)
{
    if (d == NULL) return;
    for (int i = 0; i < d->n; i++) {
        pattern_free(&d->step[i].pattern);
        free(d->step[i].content);
    }
    free(d->step);
    free(d);
}

/* The byte that the token "<0xHH>" stands for, or -1. */
static int fallback_byte(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    if (!isxdigit((unsigned char)s[3]) || !isxdigit((unsigned char)s[4])) return -1;
    const char digits[3] = {s[3], s[4], 0};
    return (int)strtol(digits, NULL, 16);
}

static int replace(const struct step *p, struct matcher *m, const char *s, size_t n,
                   struct text *out)
{
    struct matches f;
    size_t a, b, done = 0;
    bool found;
    matches_start(&f, &p->pattern, m, s, n);
    while (n > 0) {
        if (matches_next(&f, &a, &b, &found)) return -1;
        if (!found) break;
        text_add(out, s + done, a - done);
        text_add(out, p->content, strlen(p->content));
        done = b;
    }
    text_add(out, s + done, n - done);
    return 0;
}

/* A token with a character that spells no byte is taken literally, as a whole. */
static void unspell(struct text *out, const char *s, size_t n)
{
    const size_t before = out->n;
    text_room(out, n);
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += (size_t)utf8_get(s + i, &c);
        const int byte = spelt_byte(c);
        if (byte < 0) {
            out->n = before;
            text_add(out, s, n);
            return;
        }
        out->s[out->n++] = (char)byte;
    }
}

static void unmark(const struct step *p, const char *s, size_t n, bool drop, struct text *out)
{
    const size_t mark_n = strlen(p->content);
    for (size_t i = 0; i < n;) {
        if (n - i >= mark_n && memcmp(s + i, p->content, mark_n) == 0) {
            if (!drop) text_add(out, " ", 1);
            i += mark_n;
        } else {
            text_add(out, s + i++, 1);
        }
    }
}

/* How many bytes of P's character stand at the two ends of S, at most P's numbers of them. */
static void strip(const struct step *p, const char *s, size_t n, size_t *start, size_t *stop)
{
    const size_t len = strlen(p->content);
    *start = *stop = 0;
    for (int i = 0; i < p->start && n - *start >= len; i++) {
        if (memcmp(s + *start, p->content, len) != 0) break;
        *start += len;
    }
    for (int i = 0; i < p->stop && n - *start - *stop >= len; i++) {
        if (memcmp(s + n - *stop - len, p->content, len) != 0) break;
        *stop += len;
    }
}

int decoder_token(const struct decoder *d, struct matcher *m, const char *s, size_t n, int index,
                  bool literal, struct text *out)
{
    struct text spare[2] = {0};
    struct text *to = spare; /* the one of the two that s is not in */
    size_t start, stop;
    char byte;
    int rc = 0;

    for (int i = 0; i < d->n && rc == 0; i++) {
        const struct step *p = &d->step[i];
        if (p->kind == BYTE_FALLBACK) {
            const int code = fallback_byte(s, n);
            if (code < 0) continue;
            byte = (char)code;
            s = &byte;
            n = 1;
            if (code >= 0x80) break; /* part of a character: nothing below may look into it */
        } else if (p->kind == STRIP && !p->whole) {
            strip(p, s, n, &start, &stop);
            s += start;
            n -= start + stop;
        } else if (p->kind == REPLACE || p->kind == METASPACE ||
                   (p->kind == BYTE_LEVEL && !literal)) {
            to->n = 0;
            if (p->kind == REPLACE) rc = replace(p, m, s, n, to);
            if (p->kind == METASPACE) unmark(p, s, n, index == 0 && p->drop_first, to);
            if (p->kind == BYTE_LEVEL) unspell(to, s, n);
            s = to->s;
            n = to->n;
            to = to == spare ? spare + 1 : spare;
        }
    }
    if (rc == 0) text_add(out, s, n);
    free(spare[0].s);
    free(spare[1].s);
    return rc;
}

void decoder_ends(const struct decoder *d, const char *s, size_t n, size_t *start, size_t *stop)
{
    *start = *stop = 0;
    for (int i = 0; i < d->n; i++) {
        size_t a, b;
        if (d->step[i].kind != STRIP || !d->step[i].whole) continue;
        strip(&d->step[i], s + *start, n - *start - *stop, &a, &b);
        *start += a;
        *stop += b;
    }
}
