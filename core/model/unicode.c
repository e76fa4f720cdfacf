/* unicode.c - UTF-8, character classes, normal forms. */
#include "core/model/unicode.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

const struct late_range late_ranges[] = {
    {0x897, 0x897, "Mn"},     {0xcf3, 0xcf3, "Mc"},     {0xece, 0xece, "Mn"},
    {0x1b4e, 0x1b4f, "Po"},   {0x1b7f, 0x1b7f, "Po"},   {0x1c89, 0x1c89, "Lu"},
    {0x1c8a, 0x1c8a, "Ll"},   {0x2427, 0x2429, "So"},   {0x2ffc, 0x2fff, "So"},
    {0x31e4, 0x31e5, "So"},   {0x31ef, 0x31ef, "So"},   {0xa7cb, 0xa7cc, "Lu"},
    {0xa7cd, 0xa7cd, "Ll"},   {0xa7da, 0xa7da, "Lu"},   {0xa7db, 0xa7db, "Ll"},
    {0xa7dc, 0xa7dc, "Lu"},   {0x105c0, 0x105f3, "Lo"}, {0x10d40, 0x10d49, "Nd"},
    {0x10d4a, 0x10d4d, "Lo"}, {0x10d4e, 0x10d4e, "Lm"}, {0x10d4f, 0x10d4f, "Lo"},
    {0x10d50, 0x10d65, "Lu"}, {0x10d69, 0x10d6d, "Mn"}, {0x10d6e, 0x10d6e, "Pd"},
    {0x10d6f, 0x10d6f, "Lm"}, {0x10d70, 0x10d85, "Ll"}, {0x10d8e, 0x10d8f, "Sm"},
    {0x10ec2, 0x10ec4, "Lo"}, {0x10efc, 0x10eff, "Mn"}, {0x1123f, 0x11240, "Lo"},
    {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"}, {0x1138b, 0x1138b, "Lo"},
    {0x1138e, 0x1138e, "Lo"}, {0x11390, 0x113b5, "Lo"}, {0x113b7, 0x113b7, "Lo"},
    {0x113b8, 0x113ba, "Mc"}, {0x113bb, 0x113c0, "Mn"}, {0x113c2, 0x113c2, "Mc"},
    {0x113c5, 0x113c5, "Mc"}, {0x113c7, 0x113ca, "Mc"}, {0x113cc, 0x113cd, "Mc"},
    {0x113ce, 0x113ce, "Mn"}, {0x113cf, 0x113cf, "Mc"}, {0x113d0, 0x113d0, "Mn"},
    {0x113d1, 0x113d1, "Lo"}, {0x113d2, 0x113d2, "Mn"}, {0x113d3, 0x113d3, "Lo"},
    {0x113d4, 0x113d5, "Po"}, {0x113d7, 0x113d8, "Po"}, {0x113e1, 0x113e2, "Mn"},
    {0x116d0, 0x116e3, "Nd"}, {0x11b00, 0x11b09, "Po"}, {0x11bc0, 0x11be0, "Lo"},
    {0x11be1, 0x11be1, "Po"}, {0x11bf0, 0x11bf9, "Nd"}, {0x11f00, 0x11f01, "Mn"},
    {0x11f02, 0x11f02, "Lo"}, {0x11f03, 0x11f03, "Mc"}, {0x11f04, 0x11f10, "Lo"},
    {0x11f12, 0x11f33, "Lo"}, {0x11f34, 0x11f35, "Mc"}, {0x11f36, 0x11f3a, "Mn"},
    {0x11f3e, 0x11f3f, "Mc"}, {0x11f40, 0x11f40, "Mn"}, {0x11f41, 0x11f41, "Mc"},
    {0x11f42, 0x11f42, "Mn"}, {0x11f43, 0x11f4f, "Po"}, {0x11f50, 0x11f59, "Nd"},
    {0x11f5a, 0x11f5a, "Mn"}, {0x1342f, 0x1342f, "Lo"}, {0x13439, 0x1343f, "Cf"},
    {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"}, {0x13447, 0x13455, "Mn"},
    {0x13460, 0x143fa, "Lo"}, {0x16100, 0x1611d, "Lo"}, {0x1611e, 0x16129, "Mn"},
    {0x1612a, 0x1612c, "Mc"}, {0x1612d, 0x1612f, "Mn"}, {0x16130, 0x16139, "Nd"},
    {0x16d40, 0x16d42, "Lm"}, {0x16d43, 0x16d6a, "Lo"}, {0x16d6b, 0x16d6c, "Lm"},
    {0x16d6d, 0x16d6f, "Po"}, {0x16d70, 0x16d79, "Nd"}, {0x18cff, 0x18cff, "Lo"},
    {0x1b132, 0x1b132, "Lo"}, {0x1b155, 0x1b155, "Lo"}, {0x1cc00, 0x1ccef, "So"},
    {0x1ccf0, 0x1ccf9, "Nd"}, {0x1cd00, 0x1ceb3, "So"}, {0x1d2c0, 0x1d2d3, "No"},
    {0x1df25, 0x1df2a, "Ll"}, {0x1e030, 0x1e06d, "Lm"}, {0x1e08f, 0x1e08f, "Mn"},
    {0x1e4d0, 0x1e4ea, "Lo"}, {0x1e4eb, 0x1e4eb, "Lm"}, {0x1e4ec, 0x1e4ef, "Mn"},
    {0x1e4f0, 0x1e4f9, "Nd"}, {0x1e5d0, 0x1e5ed, "Lo"}, {0x1e5ee, 0x1e5ef, "Mn"},
    {0x1e5f0, 0x1e5f0, "Lo"}, {0x1e5f1, 0x1e5fa, "Nd"}, {0x1e5ff, 0x1e5ff, "Po"},
    {0x1f6dc, 0x1f6dc, "So"}, {0x1f774, 0x1f776, "So"}, {0x1f77b, 0x1f77f, "So"},
    {0x1f7d9, 0x1f7d9, "So"}, {0x1f8b2, 0x1f8bb, "So"}, {0x1f8c0, 0x1f8c1, "So"},
    {0x1fa75, 0x1fa77, "So"}, {0x1fa87, 0x1fa89, "So"}, {0x1fa8f, 0x1fa8f, "So"},
    {0x1faad, 0x1faaf, "So"}, {0x1fabb, 0x1fabf, "So"}, {0x1fac6, 0x1fac6, "So"},
    {0x1face, 0x1facf, "So"}, {0x1fada, 0x1fadc, "So"}, {0x1fadf, 0x1fadf, "So"},
    {0x1fae8, 0x1fae9, "So"}, {0x1faf7, 0x1faf8, "So"}, {0x1fbcb, 0x1fbef, "So"},
    {0x2b739, 0x2b739, "Lo"}, {0x2ebf0, 0x2ee5d, "Lo"}, {0x31350, 0x323af, "Lo"},
};
const size_t late_ranges_n = COUNT_OF(late_ranges);

void text_room(struct text *t, size_t more)
{
    if (t->room - t->n >= more) return;
    t->room = t->n + more + t->n / 2 + 64;
    t->s = xrealloc(t->s, t->room);
}

void text_add(struct text *t, const char *s, size_t n)
{
    if (n == 0) return;
    text_room(t, n);
    memcpy(t->s + t->n, s, n);
    t->n += n;
}

/* Bytes of the character that starts with byte C; 0 when none does. */
static int lead_length(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
}

bool utf8_check(const char *s, size_t n, size_t *bad)
{
    const unsigned char *p = (const unsigned char *)s;
    for (size_t i = 0; i < n;) {
        int len = lead_length(p[i]);
        bool good = len > 0 && n - i >= (size_t)len;
        for (int k = 1; good && k < len; k++) good = (p[i + (size_t)k] & 0xc0) == 0x80;
        if (good && len == 3)
            good = !(p[i] == 0xe0 && p[i + 1] < 0xa0) && !(p[i] == 0xed && p[i + 1] >= 0xa0);
        if (good && len == 4)
            good = !(p[i] == 0xf0 && p[i + 1] < 0x90) && !(p[i] == 0xf4 && p[i + 1] >= 0x90);
        if (!good) {
            *bad = i;
            return false;
        }
        i += (size_t)len;
    }
    return true;
}

int utf8_get(const char *s, uint32_t *c)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *c = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *c = (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
        return 2;
    }
    if (p[0] < 0xf0) {
        *c = (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        return 3;
    }
    *c = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
         (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
    return 4;
}

int utf8_put(uint32_t c, char *s)
{
    return (int)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)s);
}

size_t utf8_before(const char *s, size_t end)
{
    do end--;
    while (end > 0 && ((unsigned char)s[end] & 0xc0) == 0x80);
    return end;
}

bool is_white_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* The two letters of C's general category. */
static const char *category(uint32_t c)
{
    size_t lo = 0, hi = late_ranges_n;
    const utf8proc_category_t known = utf8proc_category((utf8proc_int32_t)c);
    if (known != UTF8PROC_CATEGORY_CN) return utf8proc_category_string((utf8proc_int32_t)c);
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (late_ranges[mid].last < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < late_ranges_n && late_ranges[lo].first <= c ? late_ranges[lo].category : "Cn";
}

bool is_word(uint32_t c)
{
    const char *k = category(c);
    if (k[0] == 'L' || k[0] == 'M' || strcmp(k, "Nd") == 0 || strcmp(k, "Nl") == 0 ||
        strcmp(k, "Pc") == 0)
        return true;
    /* Join controls, and the circled and squared letters (Other_Alphabetic). */
    return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
}

bool is_numeric(uint32_t c)
{
    return category(c)[0] == 'N';
}

bool is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
               (c >= '{' && c <= '~');
    return category(c)[0] == 'P';
}

static int combining_class(int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

/* Sorts marks stably by combining class. Counting, since hostile text may hold millions in a row;
 * the few of ordinary text are inserted. SPARE is room for N. */
static void sort_marks(int32_t *c, int32_t *spare, size_t n)
{
    size_t start[257] = {0};
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            const int32_t mark = c[i];
            size_t j = i;
            for (; j > 0 && combining_class(c[j - 1]) > combining_class(mark); j--) c[j] = c[j - 1];
            c[j] = mark;
        }
        return;
    }
    for (size_t i = 0; i < n; i++) start[combining_class(c[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) spare[start[combining_class(c[i])]++] = c[i];
    memcpy(c, spare, n * sizeof *c);
}

/* Composes C in place and returns its new length. U+11A7 composes with nothing, but utf8proc takes
 * it for a trailing consonant and drops it: each starts a part of its own. */
static size_t compose_all(int32_t *c, size_t n)
{
    size_t kept = 0;
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && c[to] != 0x11a7;) to++;
        const size_t left = (size_t)utf8proc_normalize_utf32(
            c + from, (utf8proc_ssize_t)(to - from), UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        memmove(c + kept, c + from, left * sizeof *c);
        kept += left;
    }
    return kept;
}

/* The normal form of one run of text; both of its ends are boundaries that nothing composes
 * across. The longest compatibility decomposition, of U+FDFA, has 18 characters. */
static void normal_run(struct text *out, const char *s, size_t n, enum normal_form form)
{
    const bool compatible = form == FORM_NFKC || form == FORM_NFKD;
    const bool compose = form == FORM_NFC || form == FORM_NFKC;
    const utf8proc_option_t how = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    size_t count = 0, room = n + 64;
    int32_t *c = xmalloc(room * sizeof *c), *spare = NULL;

    for (size_t i = 0; i < n;) {
        uint32_t from;
        int boundary = UTF8PROC_BOUNDCLASS_START;
        i += (size_t)utf8_get(s + i, &from);
        if (room - count < 32) c = xrealloc(c, (room = 2 * room) * sizeof *c);
        count += (size_t)utf8proc_decompose_char((int32_t)from, c + count, 32, how, &boundary);
    }
    for (size_t i = 0; i < count;) {
        size_t first = i;
        if (combining_class(c[i]) == 0) {
            i++;
            continue;
        }
        while (i < count && combining_class(c[i]) != 0) i++;
        if (i - first > 32 && spare == NULL) spare = xmalloc(count * sizeof *spare);
        sort_marks(c + first, spare, i - first);
    }
    if (compose) count = compose_all(c, count);
    text_room(out, 4 * count);
    for (size_t i = 0; i < count; i++) out->n += (size_t)utf8_put((uint32_t)c[i], out->s + out->n);
    free(spare);
    free(c);
}

/* An ASCII character is its own normal form and composes with nothing before it, so the text is
 * cut into plain runs and runs that start one ASCII character ahead of the first other one. */
void normal_form(struct text *out, const char *s, size_t n, enum normal_form form)
{
    for (size_t i = 0; i < n;) {
        size_t j = i, end;
        while (j < n && (unsigned char)s[j] < 0x80) j++;
        if (j < n && j > i) j--;
        text_add(out, s + i, j - i);
        if (j == n) break;
        end = j + 1;
        while (end < n && (unsigned char)s[end] >= 0x80) end++;
        normal_run(out, s + j, end - j, form);
        i = end;
    }
}

void lower_case(struct text *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += (size_t)utf8_get(s + i, &c);
        text_room(out, 8);
        if (c == 0x130) { /* the one capital whose lower case is two characters: i, dot above */
            text_add(out, "i\xcc\x87", 3);
            continue;
        }
        out->n += (size_t)utf8_put((uint32_t)utf8proc_tolower((int32_t)c), out->s + out->n);
    }
}
