/* pretokenize.c - pre-tokenizers, each resolved into primitive stages: cut, rewrite. */
#include "core/model/pretokenize.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/model/part.h"

#include <stdlib.h>
#include <string.h>

/* What ByteLevel cuts by with use_regex: the pattern of GPT-2's encoder.py. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

enum kind { SPLIT, BYTE_LEVEL, METASPACE, DIGITS, PUNCTUATION, SEQUENCE };
static const char *const names[] = {"Split",       "ByteLevel", "Metaspace", "Digits",
                                    "Punctuation", "Sequence",  NULL};

enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
static const char *const behaviors[] = {"Removed",        "Isolated",   "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous", NULL};

enum scheme { FIRST, ALWAYS, NEVER };
static const char *const schemes[] = {"first", "always", "never", NULL};

enum action {
    CUT,   /* into pieces, by pattern or by class */
    SPACE, /* a space is put first unless one is there */
    MARK,  /* spaces become marks, and one is put first by scheme */
    SPELL, /* bytes become printable characters */
};
struct stage {
    enum action action;
    enum behavior behavior;  /* CUT: what becomes of the matches */
    bool invert;             /* CUT: what does not match is the match */
    struct pattern pattern;  /* CUT, when class is NULL */
    bool (*class)(uint32_t); /* CUT: each such character is a match */
    enum scheme scheme;      /* MARK */
    char *mark;              /* MARK */
};

struct pretokenizer {
    struct stage *stage;
    int n;
};

/* GPT-2's spelling of bytes as printable characters: the 188 bytes that print stand for
 * themselves, the 68 others for U+0100 and up. */
static uint32_t byte_spelling(unsigned char b)
{
    if ((b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae) return b;
    if (b <= ' ') return 0x100u + b;
    if (b <= 0xa0) return 0x121u + (b - 0x7fu);
    return 0x143; /* 0xad, the soft hyphen */
}

int spelt_byte(uint32_t c)
{
    if (c < 0x100) return byte_spelling((unsigned char)c) == c ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

/* ---- loading */

static struct stage *add_stage(struct pretokenizer *p, enum action action)
{
    p->stage = xrealloc(p->stage, (size_t)(p->n + 1) * sizeof *p->stage);
    memset(&p->stage[p->n], 0, sizeof *p->stage);
    p->stage[p->n].action = action;
    return &p->stage[p->n++];
}

/* The index of VALUE among CHOICES, or -1 after fail(). */
static int choose(const char *file, const char *part, const char *key, const char *value,
                  const char *const *choices)
{
    for (int i = 0; choices[i]; i++)
        if (strcmp(choices[i], value) == 0) return i;
    return fail("%s: %s: \"%s\": \"%.100s\" is not known", file, part, key, value);
}

static int load_behavior(const char *file, const char *part, const cJSON *item, struct stage *s)
{
    const char *name = NULL;
    int i;
    if (part_string(file, part, item, "behavior", &name)) return -1;
    if ((i = choose(file, part, "behavior", name, behaviors)) < 0) return -1;
    s->behavior = (enum behavior)i;
    return 0;
}

static int load_byte_level(struct pretokenizer *p, const char *file, const char *part,
                           const cJSON *item)
{
    bool space = false, regex = true;
    if (part_bool(file, part, item, "add_prefix_space", &space)) return -1;
    if (json_member(item, "use_regex") && part_bool(file, part, item, "use_regex", &regex))
        return -1;
    if (space) add_stage(p, SPACE);
    if (regex) {
        struct stage *s = add_stage(p, CUT);
        s->behavior = ISOLATED;
        if (pattern_regex(&s->pattern, file, part, GPT2_PATTERN)) return -1;
    }
    add_stage(p, SPELL);
    return 0;
}

static int load_metaspace(struct pretokenizer *p, const char *file, const char *part,
                          const cJSON *item)
{
    const char *mark = NULL, *scheme = NULL;
    bool split = true, prefix = true;
    uint32_t c;
    int i;

    if (part_string(file, part, item, "replacement", &mark)) return -1;
    if (*mark == 0 || mark[utf8_get(mark, &c)] != 0)
        return fail("%s: %s: \"replacement\": expected one character, found \"%.100s\"", file, part,
                    mark);
    if (json_member(item, "split") && part_bool(file, part, item, "split", &split)) return -1;
    if (json_member(item, "add_prefix_space") &&
        part_bool(file, part, item, "add_prefix_space", &prefix))
        return -1;
    if (json_member(item, "prepend_scheme") &&
        part_string(file, part, item, "prepend_scheme", &scheme))
        return -1;
    if (scheme == NULL) scheme = prefix ? "always" : "never";
    if ((i = choose(file, part, "prepend_scheme", scheme, schemes)) < 0) return -1;
    if (!prefix && i != NEVER)
        return fail("%s: %s: \"prepend_scheme\" is \"%s\", but \"add_prefix_space\" is false", file,
                    part, scheme);
    struct stage *s = add_stage(p, MARK);
    s->scheme = (enum scheme)i;
    s->mark = xstrdup(mark);
    if (split) {
        s = add_stage(p, CUT);
        s->behavior = MERGED_WITH_NEXT;
        pattern_string(&s->pattern, mark);
    }
    return 0;
}

static int load(struct pretokenizer *p, const char *file, const cJSON *item, int depth)
{
    static const char part[] = "pre_tokenizer";
    struct stage *s;
    bool individual = false;

    switch (part_type(file, part, item, names)) {
    case SPLIT:
        s = add_stage(p, CUT);
        return part_pattern(file, part, item, &s->pattern) || load_behavior(file, part, item, s) ||
                       part_bool(file, part, item, "invert", &s->invert)
                   ? -1
                   : 0;
    case BYTE_LEVEL:
        return load_byte_level(p, file, part, item);
    case METASPACE:
        return load_metaspace(p, file, part, item);
    case DIGITS:
        if (part_bool(file, part, item, "individual_digits", &individual)) return -1;
        s = add_stage(p, CUT);
        s->class = is_numeric;
        s->behavior = individual ? ISOLATED : CONTIGUOUS;
        return 0;
    case PUNCTUATION:
        s = add_stage(p, CUT);
        s->class = is_punctuation;
        s->behavior = ISOLATED;
        return json_member(item, "behavior") ? load_behavior(file, part, item, s) : 0;
    case SEQUENCE: {
        const cJSON *list = part_list(file, part, item, "pretokenizers");
        if (list == NULL) return -1;
        if (depth == PART_DEPTH) return fail("%s: %s: nested too deeply", file, part);
        for (const cJSON *c = list->child; c; c = c->next)
            if (load(p, file, c, depth + 1)) return -1;
        return 0;
    }
    default:
        return -1;
    }
}

struct pretokenizer *pretokenizer_load(const char *file, const cJSON *item)
{
    struct pretokenizer *p = xcalloc(1, sizeof *p);
    if (item == NULL || load(p, file, item, 0) == 0) return p;
    pretokenizer_free(p);
    return NULL;
}

void pretokenizer_free(struct pretokenizer *p)
{
    if (p == NULL) return;
    for (int i = 0; i < p->n; i++) {
        pattern_free(&p->stage[i].pattern);
        free(p->stage[i].mark);
    }
    free(p->stage);
    free(p);
}

int pretokenizer_buffers(const struct pretokenizer *p)
{
    return p->n;
}

bool pretokenizer_spells_bytes(const struct pretokenizer *p)
{
    for (int i = 0; i < p->n; i++)
        if (p->stage[i].action == SPELL) return true;
    return false;
}

/* ---- running */

struct run {
    const struct pretokenizer *p;
    struct matcher *m;
    struct text *buffer; /* [n] a stage's rewritten piece */
    struct word_sink sink;
};

static int run_stage(struct run *r, int stage, const char *s, size_t n, bool at_start);

/* The pieces of a text: what matches, and what lies between. */
struct pieces {
    const struct stage *stage;
    struct matches f;
    const char *s;
    size_t n, at;
    size_t a, b; /* the match found, not handed out yet */
    bool found;
};

/* The next piece is [*A, *B), a match when *MATCH; *MORE is false after the last. A match may be
 * empty: it cuts all the same. */
static int next_piece(struct pieces *p, size_t *a, size_t *b, bool *match, bool *more)
{
    uint32_t c;
    *a = p->at;
    *match = false;
    *more = p->at < p->n || p->found;
    if (!*more) return 0;
    if (p->stage->class) {
        p->at += (size_t)utf8_get(p->s + p->at, &c);
        if ((*match = p->stage->class(c)) == false) {
            while (p->at < p->n) {
                int len = utf8_get(p->s + p->at, &c);
                if (p->stage->class(c)) break;
                p->at += (size_t)len;
            }
        }
        *b = p->at;
        return 0;
    }
    if (!p->found) {
        if (matches_next(&p->f, &p->a, &p->b, &p->found)) return -1;
        if (!p->found) p->a = p->n;
    }
    *b = p->a;
    if (p->found && p->a == p->at) {
        *b = p->b;
        *match = true;
        p->found = false;
    }
    p->at = *b;
    return 0;
}

static int hand_on(struct run *r, int stage, const char *s, size_t a, size_t b, bool at_start)
{
    return a < b ? run_stage(r, stage + 1, s + a, b - a, at_start && a == 0) : 0;
}

static int cut(struct run *r, int stage, const char *s, size_t n, bool at_start)
{
    const struct stage *g = &r->p->stage[stage];
    struct pieces p = {.stage = g, .s = s, .n = n};
    size_t a, b, held_a = 0, held_b = 0; /* a piece held back for the next to join */
    bool match, more, held = false, last = false;

    if (g->class == NULL) matches_start(&p.f, &g->pattern, r->m, s, n);
    for (;;) {
        if (next_piece(&p, &a, &b, &match, &more)) return -1;
        if (!more) break;
        match ^= g->invert;
        bool joins = false; /* the piece held and this one are one */
        bool hold = false;  /* this piece may still grow */
        switch (g->behavior) {
        case REMOVED:
            if (match) a = b;
            break;
        case ISOLATED:
            break;
        case MERGED_WITH_PREVIOUS:
            joins = held && match && !last;
            hold = true;
            break;
        case MERGED_WITH_NEXT:
            joins = held && !match;
            hold = match;
            break;
        case CONTIGUOUS:
            joins = held && match == last;
            hold = true;
            break;
        }
        last = match;
        if (joins) {
            a = held_a;
            held = false;
        }
        if (held && hand_on(r, stage, s, held_a, held_b, at_start)) return -1;
        held = hold;
        if (hold) {
            held_a = a;
            held_b = b;
        } else if (hand_on(r, stage, s, a, b, at_start)) {
            return -1;
        }
    }
    return held ? hand_on(r, stage, s, held_a, held_b, at_start) : 0;
}

static void mark_spaces(const struct stage *g, struct text *out, const char *s, size_t n,
                        bool at_start)
{
    const size_t mark_n = strlen(g->mark);
    const bool marked = s[0] == ' ' || (n >= mark_n && memcmp(s, g->mark, mark_n) == 0);
    if (!marked && (g->scheme == ALWAYS || (g->scheme == FIRST && at_start)))
        text_add(out, g->mark, mark_n);
    for (size_t i = 0, end; i < n; i = end + 1) {
        const char *space = memchr(s + i, ' ', n - i);
        end = space ? (size_t)(space - s) : n;
        text_add(out, s + i, end - i);
        if (space) text_add(out, g->mark, mark_n);
    }
}

static int run_stage(struct run *r, int stage, const char *s, size_t n, bool at_start)
{
    if (stage == r->p->n) return r->sink.take(r->sink.to, s, n);
    const struct stage *g = &r->p->stage[stage];
    struct text *out = &r->buffer[stage];
    out->n = 0;
    switch (g->action) {
    case CUT:
        return cut(r, stage, s, n, at_start);
    case SPACE:
        if (s[0] == ' ') return run_stage(r, stage + 1, s, n, at_start);
        text_add(out, " ", 1);
        text_add(out, s, n);
        break;
    case MARK:
        mark_spaces(g, out, s, n, at_start);
        break;
    case SPELL:
        text_room(out, 2 * n);
        for (size_t i = 0; i < n; i++)
            out->n += (size_t)utf8_put(byte_spelling((unsigned char)s[i]), out->s + out->n);
        break;
    }
    return run_stage(r, stage + 1, out->s, out->n, at_start);
}

int pretokenizer_run(const struct pretokenizer *p, struct matcher *m, struct text *buffer,
                     const char *s, size_t n, bool at_start, struct word_sink sink)
{
    struct run r = {.p = p, .m = m, .buffer = buffer, .sink = sink};
    return n > 0 ? run_stage(&r, 0, s, n, at_start) : 0;
}
