/* answers.c - normalised words and their F1. */
#include "analyze/answers.h"
#include "core/base/base.h"

#include <stdlib.h>

void pieces_end(struct pieces *p)
{
    ids_add(&p->end, (int)p->text.n);
}

void pieces_free(struct pieces *p)
{
    runes_free(&p->text);
    free(p->end.v);
    p->end = (struct ids){0};
}

static bool ascii_punctuation(uint32_t c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

static bool article(struct runes word)
{
    return runes_is(word, "a") || runes_is(word, "an") || runes_is(word, "the");
}

void normal_words(struct pieces *out, struct runes text)
{
    struct runes lower = {0};
    size_t kept = 0, from = out->text.n;

    runes_lower(&lower, text);
    for (size_t i = 0; i < lower.n; i++)
        if (!ascii_punctuation(lower.c[i])) lower.c[kept++] = lower.c[i];
    lower.n = kept;
    /* a run of \w that is an article becomes a space; all other characters stay */
    for (size_t i = 0, to; i <= lower.n; i = to) {
        to = i;
        while (to < lower.n && rune_word(lower.c[to])) to++;
        const struct runes run = runes_slice(lower, i, to);
        const bool space = to == i && (i == lower.n || rune_space(lower.c[i]));
        if (space || article(run)) {
            if (out->text.n > from) pieces_end(out);
            from = out->text.n;
        } else if (to > i) {
            runes_append(&out->text, run);
        } else {
            runes_add(&out->text, lower.c[i]);
        }
        if (to == i) to++;
    }
    runes_free(&lower);
}

static bool chinese_punctuation(uint32_t c)
{
    static const uint32_t range[][2] = {
        {0x2013, 0x2014}, {0x2018, 0x2019}, {0x201b, 0x201f}, {0x2026, 0x2027}, {0x3001, 0x3003},
        {0x300b, 0x3011}, {0x3014, 0x301f}, {0x3030, 0x3030}, {0x303e, 0x303f}, {0xfe4f, 0xfe4f},
        {0xff01, 0xff0d}, {0xff0f, 0xff0f}, {0xff1a, 0xff20}, {0xff3b, 0xff40}, {0xff5b, 0xff64},
    };
    if (c < range[0][0]) return false;
    for (size_t i = 0; i < COUNT_OF(range); i++)
        if (c >= range[i][0] && c <= range[i][1]) return true;
    return false;
}

void normal_zh(struct runes *out, struct runes text)
{
    struct runes lower = {0};
    runes_lower(&lower, text);
    for (size_t i = 0; i < lower.n; i++) {
        const uint32_t c = lower.c[i];
        if (!ascii_punctuation(c) && !chinese_punctuation(c) && !rune_space(c)) runes_add(out, c);
    }
    runes_free(&lower);
}

static void number_pieces(struct word_table *t, struct ids *out, const struct pieces *p)
{
    for (size_t k = 0; k < p->end.n; k++) {
        const size_t from = k ? (size_t)p->end.v[k - 1] : 0;
        ids_add(out, word_id(t, runes_slice(p->text, from, (size_t)p->end.v[k])));
    }
}

double bag_f1(const struct pieces *prediction, const struct pieces *answer)
{
    struct word_table t = {0};
    struct ids p = {0}, a = {0};
    double same = 0, f = 0;

    number_pieces(&t, &p, prediction);
    number_pieces(&t, &a, answer);
    int *left = xcalloc((size_t)t.n + 1, sizeof *left);
    for (size_t i = 0; i < a.n; i++) left[a.v[i]]++;
    for (size_t i = 0; i < p.n; i++)
        if (left[p.v[i]] > 0) {
            left[p.v[i]]--;
            same++;
        }
    if (same > 0) {
        const double precision = same / (double)p.n, recall = same / (double)a.n;
        f = (2 * precision * recall) / (precision + recall);
    }
    free(left);
    free(p.v);
    free(a.v);
    word_table_free(&t);
    return f;
}
