/* pattern.c - regular expressions: Oniguruma's syntax into PCRE2's, and matching. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/model/pattern.h"
#include "core/base/base.h"
#include "core/model/unicode.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* Members of classes, as PCRE2 writes them inside brackets. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}" /* PCRE2's own \s also holds U+180E */
#define HEX "0-9A-Fa-f"
/* What Oniguruma's \w holds besides letters, marks, numbers of kinds Nd and Nl and connectors:
 * numbers of Latin-1, circled and squared letters. */
#define OTHER_WORDS                                                                                \
    "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{"  \
    "1f169}"                                                                                       \
    "\\x{1f170}-\\x{1f189}"
#define LONGEST                                                                                    \
    (1 << 18)     /* bytes of a translated pattern: PCRE2 compiles nothing that long anyway */
#define GROUPS 64 /* nested groups: far past any real pattern */

/* One pattern on its way through the translation. */
struct translation {
    const char *file, *part, *regex;
    const char *at; /* the next character to read */
    struct text out;
    size_t atom;          /* where the last thing a quantifier may apply to starts in out */
    size_t group[GROUPS]; /* where the open groups start in out */
    int depth;
    bool in_class;
};

static void put(struct translation *t, const char *s)
{
    text_add(&t->out, s, strlen(s));
}

static int refuse(const struct translation *t, const char *what)
{
    return fail("%s: %s: pattern \"%.200s\": %s is not supported (byte %d)", t->file, t->part,
                t->regex, what, (int)(t->at - t->regex));
}

/* The characters of category NAME ("L", "Lu", or "Han" for the script) inside a class, with those
 * that the PCRE2 at hand is too old to know. */
static void put_category(struct translation *t, const char *name)
{
    char version[64] = "", text[48];
    const bool han = strcmp(name, "Han") == 0;
    put(t, "\\p{");
#if PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40
    /* From here on a script's name stands for its extensions unless told otherwise. */
    if (strlen(name) > 2) put(t, "sc:");
#endif
    put(t, name);
    put(t, "}");
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    if (atoi(version) >= 16) return;
    for (size_t i = 0; i < late_ranges_n; i++) {
        const struct late_range *r = &late_ranges[i];
        if (han ? r->first < 0x20000 || r->category[0] != 'L'
                : strncmp(r->category, name, strlen(name)) != 0)
            continue;
        snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", (unsigned)r->first, (unsigned)r->last);
        put(t, text);
    }
}

static void put_words(struct translation *t)
{
    static const char *const categories[] = {"L", "M", "Nd", "Nl", "Pc"};
    for (size_t i = 0; i < COUNT_OF(categories); i++) put_category(t, categories[i]);
    put(t, OTHER_WORDS);
}

/* What stands around the members of a class escape: brackets, unless a class is open already. */
static int open_set(struct translation *t, bool negated)
{
    if (t->in_class && negated) return refuse(t, "a negated class escape inside a class");
    if (!t->in_class) put(t, negated ? "[^" : "[");
    return 0;
}

static void close_set(struct translation *t)
{
    if (!t->in_class) put(t, "]");
}

static int put_set(struct translation *t, const char *members, bool negated)
{
    if (open_set(t, negated)) return -1;
    put(t, members);
    close_set(t);
    return 0;
}

static int put_word(struct translation *t, bool negated)
{
    if (open_set(t, negated)) return -1;
    put_words(t);
    close_set(t);
    return 0;
}

static int put_digit(struct translation *t, bool negated)
{
    if (open_set(t, negated)) return -1;
    put_category(t, "Nd");
    close_set(t);
    return 0;
}

/* \p{Name} and \P{Name}, at t->at: a general category of one or two letters, or a script. */
static int put_property(struct translation *t)
{
    char name[32];
    const char *from = t->at + 3, *end = t->at[2] == '{' ? strchr(from, '}') : NULL;
    bool negated = t->at[1] == 'P';
    if (end && *from == '^') {
        negated = !negated;
        from++;
    }
    if (end == NULL || end == from || (size_t)(end - from) >= sizeof name)
        return refuse(t, "this \\p");
    memcpy(name, from, (size_t)(end - from));
    name[end - from] = 0;
    for (const char *p = name; *p; p++)
        if (!isalpha((unsigned char)*p) && *p != '_') return refuse(t, "this \\p");
    if (t->in_class && negated) {
        put(t, "\\P{");
        put(t, name);
        put(t, "}");
    } else {
        open_set(t, negated);
        put_category(t, name);
        close_set(t);
    }
    t->at = end + 1;
    return 0;
}

/* A word boundary: which characters make words differs between the two, so \b is spelt out. */
static void put_boundary(struct translation *t, bool negated)
{
    static const char *const around[2][4] = {{"(?:(?<=[", "])(?![", "])|(?<![", "])(?=["},
                                             {"(?:(?<=[", "])(?=[", "])|(?<![", "])(?!["}};
    for (int i = 0; i < 4; i++) {
        put(t, around[negated][i]);
        put_words(t);
    }
    put(t, "]))");
}

static int put_escape(struct translation *t)
{
    const char c = t->at[1];
    char text[16];
    int rc = 0;

    if (c == 0) return refuse(t, "a backslash at the end");
    if (c == 'p' || c == 'P') return put_property(t);
    if (c == 's')
        rc = put_set(t, SPACES, false);
    else if (c == 'S' && t->in_class) /* differs from Oniguruma's in U+180E only */
        put(t, "\\S");
    else if (c == 'S')
        rc = put_set(t, SPACES, true);
    else if (c == 'w' || c == 'W')
        rc = put_word(t, c == 'W');
    else if (c == 'd' || c == 'D')
        rc = put_digit(t, c == 'D');
    else if (c == 'h' || c == 'H')
        rc = put_set(t, HEX, c == 'H');
    else if (c == 'v')
        put(t, "\\x{b}");
    else if ((c == 'b' || c == 'B') && !t->in_class)
        put_boundary(t, c == 'B');
    else if (c == 'u') {
        for (int i = 2; i < 6; i++)
            if (!isxdigit((unsigned char)t->at[i])) return refuse(t, "\\u without 4 digits");
        snprintf(text, sizeof text, "\\x{%.4s}", t->at + 2);
        put(t, text);
        t->at += 4;
    } else if (isalnum((unsigned char)c) && !strchr("rntfaexbAzZ0123456789", c)) {
        snprintf(text, sizeof text, "\\%c", c);
        return refuse(t, text);
    } else if (c == 'x' && t->at[2] == '{') {
        const char *end = strchr(t->at, '}');
        if (end == NULL) return refuse(t, "\\x{ without }");
        text_add(&t->out, t->at, (size_t)(end + 1 - t->at));
        t->at = end - 1;
    } else {
        text_add(&t->out, t->at, 2);
    }
    t->at += 2;
    return rc;
}

/* {n,m} at t->at: copies it and what follows. In Ruby's syntax {n,m}+ repeats the repetition and
 * is not possessive, {n}? makes it optional, and {,m} starts at 0. A brace that quantifies nothing
 * is a character. */
static void put_braces(struct translation *t)
{
    const char *p = t->at + 1;
    bool comma = false, digits = false;
    while (isdigit((unsigned char)*p) || (*p == ',' && !comma)) {
        if (*p == ',')
            comma = true;
        else
            digits = true;
        p++;
    }
    if (*p != '}' || !digits) {
        t->atom = t->out.n;
        put(t, "\\{");
        t->at++;
        return;
    }
    const bool again = p[1] == '+' || (p[1] == '?' && !comma);
    if (again) {
        text_room(&t->out, 3);
        memmove(t->out.s + t->atom + 3, t->out.s + t->atom, t->out.n - t->atom);
        memcpy(t->out.s + t->atom, "(?:", 3);
        t->out.n += 3;
    }
    put(t, t->at[1] == ',' ? "{0" : "{");
    text_add(&t->out, t->at + 1, (size_t)(p - t->at));
    t->at = p + 1;
    if (again) put(t, ")");
}

/* "(" and what qualifies it. Ruby's flag m lets a dot match a newline: PCRE2's s. */
static int put_group(struct translation *t)
{
    if (t->depth == GROUPS) return refuse(t, "so deep a nesting");
    t->group[t->depth++] = t->out.n;
    put(t, "(");
    t->at++;
    if (*t->at != '?') return 0;
    put(t, "?");
    t->at++;
    while (*t->at && strchr("imx-", *t->at)) {
        put(t, (char[]){*t->at == 'm' ? 's' : *t->at, 0});
        t->at++;
    }
    if (*t->at == '#') {
        while (*t->at && *t->at != ')') text_add(&t->out, t->at++, 1);
        return 0;
    }
    if (*t->at == '<' || *t->at == '=' || *t->at == '!' || *t->at == '>' || *t->at == ':')
        text_add(&t->out, t->at++, 1);
    else if (*t->at != ')' || t->group[0] != 0 || t->depth != 1)
        return refuse(t, "this kind of group"); /* flags alone are understood at the start */
    return 0;
}

/* One character inside a class. */
static int put_member(struct translation *t)
{
    if (t->at[0] == '[' && t->at[1] != ':') return refuse(t, "a class inside a class");
    if (t->at[0] == '&' && t->at[1] == '&') return refuse(t, "an intersection of classes");
    if (t->at[0] == '[') {
        if (strncmp(t->at, "[:space:]", 9) == 0) {
            put(t, SPACES);
        } else if (strncmp(t->at, "[:punct:]", 9) == 0) { /* symbols are meant too */
            put_category(t, "P");
            put_category(t, "S");
        } else {
            return refuse(t, "this kind of class");
        }
        t->at += 9;
        return 0;
    }
    t->in_class = t->at[0] != ']';
    text_add(&t->out, t->at++, 1);
    return 0;
}

static int translate(struct translation *t)
{
    while (*t->at) {
        if (t->out.n > LONGEST) return refuse(t, "so long a pattern");
        if (!t->in_class && !strchr("*+?{|)", *t->at)) t->atom = t->out.n;
        if (*t->at == '\\') {
            if (put_escape(t)) return -1;
        } else if (t->in_class) {
            if (put_member(t)) return -1;
        } else if (*t->at == '[') {
            t->in_class = true;
            text_add(&t->out, t->at++, 1);
            if (*t->at == '^') text_add(&t->out, t->at++, 1);
            if (*t->at == ']') text_add(&t->out, t->at++, 1);
        } else if (*t->at == '(') {
            if (put_group(t)) return -1;
        } else if (*t->at == ')') {
            if (t->depth > 0) t->atom = t->group[--t->depth];
            text_add(&t->out, t->at++, 1);
        } else if (*t->at == '{') {
            put_braces(t);
        } else {
            text_add(&t->out, t->at++, 1);
        }
    }
    return 0;
}

char *pattern_translate(const char *file, const char *part, const char *regex)
{
    struct translation t = {.file = file, .part = part, .regex = regex, .at = regex};
    if (translate(&t)) {
        free(t.out.s);
        return NULL;
    }
    text_add(&t.out, "", 1);
    return t.out.s;
}

int pattern_regex(struct pattern *p, const char *file, const char *part, const char *regex)
{
    int code = 0;
    size_t at = 0;
    pcre2_compile_context *context = NULL;
    char *translated = pattern_translate(file, part, regex);

    memset(p, 0, sizeof *p);
    if (translated == NULL) return -1;
    if ((context = pcre2_compile_context_create(NULL)) != NULL) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        p->code = pcre2_compile((PCRE2_SPTR)translated, strlen(translated),
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &code, &at, context);
    }
    if (p->code == NULL) {
        char why[128] = "out of memory";
        if (context) pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        fail("%s: %s: pattern \"%.200s\" cannot be compiled: %s", file, part, regex, why);
    } else {
        pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without JIT it is slower, not wrong */
    }
    pcre2_compile_context_free(context);
    free(translated);
    return p->code ? 0 : -1;
}

void pattern_string(struct pattern *p, const char *string)
{
    memset(p, 0, sizeof *p);
    p->literal = xstrdup(string);
    p->literal_n = strlen(string);
}

void pattern_free(struct pattern *p)
{
    pcre2_code_free(p->code);
    free(p->literal);
    memset(p, 0, sizeof *p);
}

/* A pattern in which groups repeat keeps its way back on a stack: from 32 KiB to 64 MiB. */
void matcher_open(struct matcher *m)
{
    m->match = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32 << 10, 64 << 20, NULL);
    if (m->match == NULL || m->context == NULL) {
        fail("out of memory: cannot allocate a regular expression's working space");
        exit(1);
    }
    if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
}

void matcher_close(struct matcher *m)
{
    pcre2_match_data_free(m->match);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    memset(m, 0, sizeof *m);
}

void matches_start(struct matches *f, const struct pattern *p, struct matcher *m, const char *s,
                   size_t n)
{
    *f = (struct matches){.p = p, .m = m, .s = s, .n = n, .last_end = SIZE_MAX};
}

static int search(struct matches *f, size_t *a, size_t *b, bool *found)
{
    *found = false;
    if (f->p->code == NULL) {
        if (f->p->literal_n == 0) { /* an empty string matches between all characters */
            *a = *b = f->next;
            *found = true;
            return 0;
        }
        const char *hit =
            f->next < f->n ? memmem(f->s + f->next, f->n - f->next, f->p->literal, f->p->literal_n)
                           : NULL;
        if (hit == NULL) return 0;
        *a = (size_t)(hit - f->s);
        *b = *a + f->p->literal_n;
        *found = true;
        return 0;
    }
    /* Some steps for each byte are honest work (a run of spaces is walked back once); a pattern
     * that explodes on the text ends here. */
    size_t limit = 10000000 + 32 * f->n;
    pcre2_set_match_limit(f->m->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    int rc = pcre2_match(f->p->code, (PCRE2_SPTR)f->s, f->n, f->next, PCRE2_NO_UTF_CHECK,
                         f->m->match, f->m->context);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) {
        char why[128] = "unknown error";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return fail("the tokenizer's pattern gives up on this text at byte %zu of a piece of %zu "
                    "bytes: %s",
                    f->next, f->n, why);
    }
    const size_t *at = pcre2_get_ovector_pointer(f->m->match);
    *a = at[0];
    *b = at[1];
    *found = true;
    return 0;
}

int matches_next(struct matches *f, size_t *a, size_t *b, bool *found)
{
    *found = false;
    while (f->next <= f->n) {
        if (search(f, a, b, found)) return -1;
        if (!*found) {
            f->next = f->n + 1;
            return 0;
        }
        if (*a != *b || f->last_end != *b) {
            f->next = f->last_end = *b;
            return 0;
        }
        *found = false; /* empty, and right behind the last one: on by a character */
        f->next++;
        while (f->next < f->n && ((unsigned char)f->s[f->next] & 0xc0) == 0x80) f->next++;
    }
    return 0;
}
