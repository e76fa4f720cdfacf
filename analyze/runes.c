/* runes.c - code points with the classes and cases of Python's str. */
#include "analyze/runes.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void runes_add(struct runes *r, uint32_t c)
{
    if (r->n == r->room) {
        r->room = 2 * r->room + 64;
        r->c = xrealloc(r->c, r->room * sizeof *r->c);
    }
    r->c[r->n++] = c;
}

void runes_append(struct runes *r, struct runes s)
{
    if (s.n == 0) return;
    if (r->room - r->n < s.n) {
        r->room = r->n + s.n + r->n / 2 + 64;
        r->c = xrealloc(r->c, r->room * sizeof *r->c);
    }
    memcpy(r->c + r->n, s.c, s.n * sizeof *s.c);
    r->n += s.n;
}

void runes_free(struct runes *r)
{
    free(r->c);
    memset(r, 0, sizeof *r);
}

struct runes runes_slice(struct runes r, size_t from, size_t to)
{
    return from < to ? (struct runes){r.c + from, to - from, 0} : (struct runes){0};
}

uint32_t runes_decode(const char *s, size_t n, size_t *size)
{
    utf8proc_int32_t c;
    const utf8proc_ssize_t got =
        utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)(n < 4 ? n : 4), &c);
    *size = got > 0 ? (size_t)got : 0;
    return got > 0 ? (uint32_t)c : 0;
}

void runes_add_utf8(struct runes *r, const char *s, size_t n)
{
    for (size_t i = 0, size; i < n; i += size) {
        const uint32_t c = runes_decode(s + i, n - i, &size);
        if (size == 0) return;
        runes_add(r, c);
    }
}

char *runes_utf8(struct runes r, size_t *size)
{
    char *s = xmalloc(4 * r.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < r.n; i++) {
        const bool lone = r.c[i] >= 0xd800 && r.c[i] < 0xe000;
        n += (size_t)utf8proc_encode_char((utf8proc_int32_t)(lone ? 0xfffd : r.c[i]),
                                          (utf8proc_uint8_t *)s + n);
    }
    s[n] = 0;
    *size = n;
    return s;
}

bool runes_equal(struct runes a, struct runes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.c, b.c, a.n * sizeof *a.c) == 0);
}

bool runes_start(struct runes r, struct runes head)
{
    return head.n <= r.n && runes_equal(runes_slice(r, 0, head.n), head);
}

static bool stands_at(struct runes r, size_t at, const char *ascii)
{
    for (; *ascii; ascii++, at++)
        if (at >= r.n || r.c[at] != (unsigned char)*ascii) return false;
    return true;
}

bool runes_is(struct runes r, const char *ascii)
{
    return r.n == strlen(ascii) && stands_at(r, 0, ascii);
}

ptrdiff_t runes_find(struct runes r, struct runes word, size_t from)
{
    if (word.n == 0) return from <= r.n ? (ptrdiff_t)from : -1;
    for (size_t i = from; i + word.n <= r.n; i++)
        if (r.c[i] == word.c[0] && memcmp(r.c + i, word.c, word.n * sizeof *r.c) == 0)
            return (ptrdiff_t)i;
    return -1;
}

ptrdiff_t runes_find_ascii(struct runes r, const char *word, size_t from)
{
    for (size_t i = from; i < r.n; i++)
        if (r.c[i] == (unsigned char)*word && stands_at(r, i, word)) return (ptrdiff_t)i;
    return -1;
}

bool rune_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static int category(uint32_t c)
{
    return (int)utf8proc_category((utf8proc_int32_t)c);
}

bool rune_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '_';
    const int k = category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
           (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

/* Decimal digits stand in runs that start with a zero and hold whole tens (UAX 44). */
int rune_digit(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9' ? (int)(c - '0') : -1;
    if (category(c) != UTF8PROC_CATEGORY_ND) return -1;
    int above_start = 0;
    for (uint32_t p = c - 1; category(p) == UTF8PROC_CATEGORY_ND; p--) above_start++;
    return above_start % 10;
}

/* Unicode's Case_Ignorable and Cased, which decide what a final sigma is (section 3.13). */
static bool case_ignorable(uint32_t c)
{
    static const uint32_t middle[] = {'\'',   '.',    ':',    0xb7,   0x387,  0x55f,
                                      0x5f4,  0x2018, 0x2019, 0x2024, 0x2027, 0xfe13,
                                      0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};
    for (size_t i = 0; i < COUNT_OF(middle); i++)
        if (c == middle[i]) return true;
    const int k = category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK;
}

static bool cased(uint32_t c)
{
    const int k = category(c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           c == 0xaa || c == 0xba || (c >= 0x2160 && c <= 0x217f) || (c >= 0x24b6 && c <= 0x24e9) ||
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
}

static bool final_sigma(struct runes r, size_t i)
{
    size_t before = i, after = i + 1;
    while (before > 0 && case_ignorable(r.c[before - 1])) before--;
    if (before == 0 || !cased(r.c[before - 1])) return false;
    while (after < r.n && case_ignorable(r.c[after])) after++;
    return after == r.n || !cased(r.c[after]);
}

void runes_lower(struct runes *out, struct runes r)
{
    for (size_t i = 0; i < r.n; i++) {
        const uint32_t c = r.c[i];
        if (c < 0x80) {
            runes_add(out, c >= 'A' && c <= 'Z' ? c + 32 : c);
        } else if (c == 0x130) { /* capital I with dot above: the only one that grows */
            runes_add(out, 'i');
            runes_add(out, 0x307);
        } else if (c == 0x3a3) {
            runes_add(out, final_sigma(r, i) ? 0x3c2 : 0x3c3);
        } else {
            runes_add(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        }
    }
}

/* SpecialCasing.txt: characters whose capital is more than one, the iota subscripts of U+1F80 to
 * U+1FAF excepted: the character, then its capitals. */
static const uint32_t wide_capitals[][4] = {
    {0xdf, 0x53, 0x53},
    {0x149, 0x2bc, 0x4e},
    {0x1f0, 0x4a, 0x30c},
    {0x390, 0x399, 0x308, 0x301},
    {0x3b0, 0x3a5, 0x308, 0x301},
    {0x587, 0x535, 0x552},
    {0x1e96, 0x48, 0x331},
    {0x1e97, 0x54, 0x308},
    {0x1e98, 0x57, 0x30a},
    {0x1e99, 0x59, 0x30a},
    {0x1e9a, 0x41, 0x2be},
    {0x1f50, 0x3a5, 0x313},
    {0x1f52, 0x3a5, 0x313, 0x300},
    {0x1f54, 0x3a5, 0x313, 0x301},
    {0x1f56, 0x3a5, 0x313, 0x342},
    {0x1fb2, 0x1fba, 0x399},
    {0x1fb3, 0x391, 0x399},
    {0x1fb4, 0x386, 0x399},
    {0x1fb6, 0x391, 0x342},
    {0x1fb7, 0x391, 0x342, 0x399},
    {0x1fbc, 0x391, 0x399},
    {0x1fc2, 0x1fca, 0x399},
    {0x1fc3, 0x397, 0x399},
    {0x1fc4, 0x389, 0x399},
    {0x1fc6, 0x397, 0x342},
    {0x1fc7, 0x397, 0x342, 0x399},
    {0x1fcc, 0x397, 0x399},
    {0x1fd2, 0x399, 0x308, 0x300},
    {0x1fd3, 0x399, 0x308, 0x301},
    {0x1fd6, 0x399, 0x342},
    {0x1fd7, 0x399, 0x308, 0x342},
    {0x1fe2, 0x3a5, 0x308, 0x300},
    {0x1fe3, 0x3a5, 0x308, 0x301},
    {0x1fe4, 0x3a1, 0x313},
    {0x1fe6, 0x3a5, 0x342},
    {0x1fe7, 0x3a5, 0x308, 0x342},
    {0x1ff2, 0x1ffa, 0x399},
    {0x1ff3, 0x3a9, 0x399},
    {0x1ff4, 0x38f, 0x399},
    {0x1ff6, 0x3a9, 0x342},
    {0x1ff7, 0x3a9, 0x342, 0x399},
    {0x1ffc, 0x3a9, 0x399},
    {0xfb00, 0x46, 0x46},
    {0xfb01, 0x46, 0x49},
    {0xfb02, 0x46, 0x4c},
    {0xfb03, 0x46, 0x46, 0x49},
    {0xfb04, 0x46, 0x46, 0x4c},
    {0xfb05, 0x53, 0x54},
    {0xfb06, 0x53, 0x54},
    {0xfb13, 0x544, 0x546},
    {0xfb14, 0x544, 0x535},
    {0xfb15, 0x544, 0x53b},
    {0xfb16, 0x54e, 0x546},
    {0xfb17, 0x544, 0x53d},
};

void runes_upper(struct runes *out, struct runes r)
{
    static const uint32_t iota[] = {0x1f08, 0x1f28, 0x1f68};
    for (size_t i = 0; i < r.n; i++) {
        const uint32_t c = r.c[i];
        if (c < 0x80) {
            runes_add(out, c >= 'a' && c <= 'z' ? c - 32 : c);
            continue;
        }
        if (c >= 0x1f80 && c <= 0x1faf) {
            runes_add(out, iota[(c - 0x1f80) / 16] + c % 8);
            runes_add(out, 0x399);
            continue;
        }
        size_t w = 0;
        while (w < COUNT_OF(wide_capitals) && wide_capitals[w][0] != c) w++;
        if (w == COUNT_OF(wide_capitals)) {
            runes_add(out, (uint32_t)utf8proc_toupper((utf8proc_int32_t)c));
            continue;
        }
        for (int k = 1; k < 4 && wide_capitals[w][k]; k++) runes_add(out, wide_capitals[w][k]);
    }
}

struct runes runes_strip(struct runes r)
{
    size_t from = 0, to = r.n;
    while (from < to && rune_space(r.c[from])) from++;
    while (to > from && rune_space(r.c[to - 1])) to--;
    return runes_slice(r, from, to);
}

struct runes runes_skip_newlines(struct runes r)
{
    size_t from = 0;
    while (from < r.n && r.c[from] == '\n') from++;
    return runes_slice(r, from, r.n);
}

struct runes runes_line(struct runes r, size_t from)
{
    size_t to = from;
    while (to < r.n && r.c[to] != '\n') to++;
    return runes_slice(r, from, to);
}

bool runes_next_word(struct runes r, size_t *at, struct runes *word)
{
    size_t from = *at;
    while (from < r.n && rune_space(r.c[from])) from++;
    size_t to = from;
    while (to < r.n && !rune_space(r.c[to])) to++;
    *word = runes_slice(r, from, to);
    *at = to;
    return to > from;
}

static void word_table_grow(struct word_table *t)
{
    struct word_table wider = {.room = t->room ? 2 * t->room : 256, .n = t->n};
    wider.slot = xmalloc(wider.room * sizeof *wider.slot);
    for (size_t i = 0; i < wider.room; i++) wider.slot[i].id = -1;
    for (size_t i = 0; i < t->room; i++) {
        if (t->slot[i].id < 0) continue;
        size_t at = t->slot[i].hash & (wider.room - 1);
        while (wider.slot[at].id >= 0) at = (at + 1) & (wider.room - 1);
        wider.slot[at] = t->slot[i];
    }
    free(t->slot);
    *t = wider;
}

int word_id(struct word_table *t, struct runes word)
{
    uint32_t hash = 2166136261u; /* FNV-1a over runes, then mixed, for tables of a power of two */
    for (size_t i = 0; i < word.n; i++) hash = (hash ^ word.c[i]) * 16777619u;
    hash ^= hash >> 15;
    if (2 * (size_t)(t->n + 1) > t->room) word_table_grow(t);
    size_t at = hash & (t->room - 1);
    for (; t->slot[at].id >= 0; at = (at + 1) & (t->room - 1))
        if (t->slot[at].hash == hash && runes_equal(t->slot[at].word, word)) return t->slot[at].id;
    t->slot[at] = (struct word_slot){word, hash, t->n};
    return t->n++;
}

void word_table_free(struct word_table *t)
{
    free(t->slot);
    memset(t, 0, sizeof *t);
}

void ids_add(struct ids *l, int id)
{
    if (l->n == l->room) {
        l->room = 2 * l->room + 64;
        l->v = xrealloc(l->v, l->room * sizeof *l->v);
    }
    l->v[l->n++] = id;
}
