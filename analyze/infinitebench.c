/* infinitebench.c - InfiniteBench's scorers.
 * Source: src/compute_scores.py of InfiniteBench, and OmniKV's copy of it where that differs. */
#include "analyze/answers.h"
#include "analyze/rouge.h"
#include "analyze/sample.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

#define PUNCTUATION "\n:\"'.,?!{}"

static bool is_digit(uint32_t c)
{
    return c >= '0' && c <= '9';
}

/* The next run of 0-9 at or after *AT, which moves past it; false without one. */
static bool next_digits(struct runes text, size_t *at, struct runes *run)
{
    size_t from = *at;
    while (from < text.n && !is_digit(text.c[from])) from++;
    size_t to = from;
    while (to < text.n && is_digit(text.c[to])) to++;
    *run = runes_slice(text, from, to);
    *at = to;
    return to > from;
}

/* Appends TEXT with each character of SET, and each of WORDS (NULL ends), as a space. */
static void blank(struct runes *out, struct runes text, const char *set, const char *const *words)
{
    for (size_t i = 0; i < text.n;) {
        const uint32_t c = text.c[i];
        size_t n = c < 0x80 && c && strchr(set, (int)c) ? 1 : 0;
        for (const char *const *w = words; n == 0 && w && *w; w++)
            if (i + strlen(*w) <= text.n &&
                runes_find_ascii(runes_slice(text, i, i + strlen(*w)), *w, 0) == 0)
                n = strlen(*w);
        runes_add(out, n ? ' ' : c);
        i += n ? n : 1;
    }
}

static void squeeze_spaces(struct runes *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        if (r->c[i] != ' ' || n == 0 || r->c[n - 1] != ' ') r->c[n++] = r->c[i];
    r->n = n;
}

double score_first_integer(struct sample *s, const struct scoring *how)
{
    struct runes run;
    size_t at = 0;
    (void)how;
    next_digits(s->prediction, &at, &run); /* none: an empty run, which an empty label equals */
    return runes_equal(run, s->answer[0]);
}

double score_word(struct sample *s, const struct scoring *how)
{
    struct runes text = {0}, word;
    bool hit = false;
    (void)how;
    blank(&text, s->prediction, PUNCTUATION, NULL);
    for (size_t at = 0; !hit && runes_next_word(text, &at, &word);)
        for (size_t k = 0; k < s->answers; k++) hit |= runes_equal(word, s->answer[k]);
    runes_free(&text);
    return hit;
}

double score_name(struct sample *s, const struct scoring *how)
{
    struct runes text = {0}, word;
    bool hit = false;
    (void)how;
    blank(&text, s->prediction, PUNCTUATION, NULL);
    for (size_t at = 0; !hit && runes_next_word(text, &at, &word);) {
        struct runes upper = {0};
        runes_upper(&upper, word);
        hit = runes_equal(upper, s->answer[0]);
        runes_free(&upper);
    }
    runes_free(&text);
    return hit;
}

/* Digits without leading zeros after a minus, "0" for zero: comparable whatever their size. */
static void plain_integer(struct runes *out, bool minus, struct runes digits)
{
    for (size_t i = 0; i < digits.n; i++) {
        const int d = rune_digit(digits.c[i]);
        if (d < 0 || (d == 0 && out->n == 0)) continue;
        if (out->n == 0 && minus) runes_add(out, '-');
        runes_add(out, (uint32_t)('0' + d));
    }
    if (out->n == 0) runes_add(out, '0');
}

static bool equals_number(struct runes plain, const struct jsonl *number)
{
    struct runes spelt = {0}, wanted = {0};
    runes_add_utf8(&spelt, number->at, number->size);
    plain_integer(&wanted, spelt.c[0] == '-', spelt);
    const bool same = runes_equal(plain, wanted);
    runes_free(&spelt);
    runes_free(&wanted);
    return same;
}

/* Whether Python's int() takes WORD: a sign, digits of any script, single underscores between. */
static bool is_integer(struct runes word)
{
    size_t i = word.n && (word.c[0] == '-' || word.c[0] == '+');
    bool digit_before = false;
    for (; i < word.n; i++) {
        const bool digit = rune_digit(word.c[i]) >= 0;
        if (!digit && !(word.c[i] == '_' && digit_before)) return false;
        digit_before = digit;
    }
    return digit_before;
}

double score_last_integer(struct sample *s, const struct scoring *how)
{
    struct runes text = {0}, word, last = {0}, plain = {0};
    bool hit = false;
    (void)how;
    blank(&text, s->prediction, "\n.`'\":", NULL);
    for (size_t at = 0; runes_next_word(text, &at, &word);) last = word;
    if (is_integer(last)) {
        plain_integer(&plain, last.c[0] == '-', last);
        hit = equals_number(plain, s->number);
    }
    runes_free(&text);
    runes_free(&plain);
    return hit;
}

double score_first_number(struct sample *s, const struct scoring *how)
{
    const struct runes p = s->prediction;
    struct runes plain = {0};
    size_t from = 0;
    bool hit;
    (void)how;
    while (from < p.n && rune_digit(p.c[from]) < 0) from++;
    if (from == p.n) return 0;
    size_t to = from, whole;
    while (to < p.n && rune_digit(p.c[to]) >= 0) to++;
    whole = to;
    if (to + 1 < p.n && p.c[to] == '.' && rune_digit(p.c[to + 1]) >= 0)
        for (to++; to < p.n && rune_digit(p.c[to]) >= 0;) to++;
    if (s->number->kind == JSONL_WHOLE && to == whole) {
        plain_integer(&plain, false, runes_slice(p, from, to));
        hit = equals_number(plain, s->number);
    } else {
        char *spelt = xmalloc(to - from + 1);
        for (size_t i = from; i < to; i++)
            spelt[i - from] = i == whole ? '.' : (char)('0' + rune_digit(p.c[i]));
        spelt[to - from] = 0;
        hit = strtod(spelt, NULL) == jsonl_number(s->number);
        free(spelt);
        s->stops_original = s->number->kind == JSONL_WHOLE;
    }
    runes_free(&plain);
    return hit;
}

/* Where what follows PREFIX and one more character starts in TEXT; -1 without PREFIX, TEXT.n + 1
 * with nothing after it. */
static ptrdiff_t after_prefix(struct runes text, const char *prefix)
{
    const ptrdiff_t at = runes_find_ascii(text, prefix, 0);
    return at < 0 ? -1 : at + (ptrdiff_t)strlen(prefix) + 1;
}

double score_code_debug(struct sample *s, const struct scoring *how)
{
    static const char *const prefixes[] = {"answer is:", "is:", "answer:", "correct option is:"};
    static const char *const words[] = {"Option", "option", NULL};
    const struct runes name = s->answer[0], letter = s->answer[1];
    const struct runes pred = runes_strip(s->prediction);
    struct runes text = {0};
    bool hit = false;
    (void)how;

    if (letter.n == 1 && pred.n >= 2 && pred.c[0] == letter.c[0] &&
        (pred.c[1] == '.' || pred.c[1] == ':'))
        return 1;
    blank(&text, pred, "\n`'\"-*", words);
    squeeze_spaces(&text);
    for (size_t k = 0; k < COUNT_OF(prefixes); k++) {
        const ptrdiff_t at = after_prefix(text, prefixes[k]);
        if (at < 0) continue;
        const struct runes rest = runes_slice(text, (size_t)at, text.n);
        hit = (size_t)at <= text.n && (runes_start(rest, letter) || runes_start(rest, name));
        break;
    }
    runes_free(&text);
    return hit;
}

static bool in_label(const struct sample *s, struct runes word)
{
    bool hit = false;
    for (size_t k = 0; k < s->answers; k++) hit |= runes_equal(s->answer[k], word);
    return hit;
}

/* Whether WORD, not empty, is a piece of "ABCD". */
static bool names_option(struct runes word)
{
    for (size_t i = 0; i < word.n; i++)
        if (word.c[i] < 'A' || word.c[i] > 'D' || (i && word.c[i] != word.c[i - 1] + 1))
            return false;
    return word.n > 0;
}

double score_choice(struct sample *s, const struct scoring *how)
{
    static const char *const prefixes[] = {
        "Answer:", "Option:", "answer is:", "answer:", "answer is", "option is"};
    const struct runes pred = runes_strip(s->prediction);
    struct runes text = {0}, word;
    bool hit = false;

    if (pred.n == 0) return 0;
    if (names_option(runes_slice(pred, 0, 1))) return in_label(s, runes_slice(pred, 0, 1));
    if (in_label(s, pred)) return 1;
    blank(&text, pred, "\n\"'.,?!{}", NULL);
    squeeze_spaces(&text);
    for (size_t k = how->omnikv ? 0 : 2; k < COUNT_OF(prefixes); k++) {
        const ptrdiff_t at = after_prefix(text, prefixes[k]);
        if (at < 0) continue;
        for (size_t a = 0; a < s->answers; a++)
            hit |= (size_t)at <= text.n &&
                   runes_start(runes_slice(text, (size_t)at, text.n), s->answer[a]);
        goto done;
    }
    for (size_t at = 0; runes_next_word(text, &at, &word);)
        if (names_option(word)) {
            hit = in_label(s, word);
            break;
        }

done:
    runes_free(&text);
    return hit;
}

/* Each character of the normalised text is a word. */
static void normal_characters(struct pieces *out, struct runes text)
{
    normal_zh(&out->text, text);
    for (size_t i = 0; i < out->text.n; i++) ids_add(&out->end, (int)i + 1);
}

double score_char_f1(struct sample *s, const struct scoring *how)
{
    struct pieces prediction = {0};
    double best = 0;
    (void)how;
    normal_characters(&prediction, s->prediction);
    for (size_t k = 0; k < s->answers; k++) {
        struct pieces answer = {0};
        normal_characters(&answer, s->answer[k]);
        const double f = bag_f1(&prediction, &answer);
        if (f > best) best = f;
        pieces_free(&answer);
    }
    pieces_free(&prediction);
    return best;
}

double score_rouge_lsum(struct sample *s, const struct scoring *how)
{
    double best = 0;
    (void)how;
    for (size_t k = 0; k < s->answers; k++) {
        const double f = rouge_lsum(s->prediction, s->answer[k]);
        if (f > best) best = f;
    }
    return best;
}

double score_series(struct sample *s, const struct scoring *how)
{
    struct runes run;
    size_t at = 0, right = 0;
    if (how->first_number_given) next_digits(s->prediction, &at, &run);
    while (right < s->series->n && next_digits(s->prediction, &at, &run)) {
        struct runes plain = {0};
        plain_integer(&plain, false, run);
        const bool same = equals_number(plain, &s->series->item[right]);
        runes_free(&plain);
        if (!same) break;
        right++;
    }
    return (double)right / (double)s->series->n;
}
