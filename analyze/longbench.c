/* longbench.c - LongBench's metrics, and the judgement of two-stage answers.
 * Source: benchmark/long_bench/metrics.py and cot_pred.py of OmniKV, the former LongBench's own. */
#include "analyze/answers.h"
#include "analyze/rouge.h"
#include "analyze/sample.h"
#include "core/base/base.h"

#include <stdlib.h>

static uint32_t english[] = {'P', 'a', 'r', 'a', 'g', 'r', 'a', 'p', 'h', ' '};
static uint32_t chinese[] = {0x6bb5, 0x843d};
const struct runes paragraph_en = {english, COUNT_OF(english), 0};
const struct runes paragraph_zh = {chinese, COUNT_OF(chinese), 0};

double score_qa_f1(struct sample *s, const struct scoring *how)
{
    struct pieces prediction = {0};
    double best = 0;
    (void)how;
    normal_words(&prediction, s->prediction);
    for (size_t k = 0; k < s->answers; k++) {
        struct pieces answer = {0};
        normal_words(&answer, s->answer[k]);
        const double f = bag_f1(&prediction, &answer);
        if (f > best) best = f;
        pieces_free(&answer);
    }
    pieces_free(&prediction);
    return best;
}

/* The words of TEXT as jieba cuts it, through WORD. */
static void cut(const struct scoring *how, struct runes text,
                void (*word)(void *ctx, const char *s, size_t n), void *ctx)
{
    size_t size;
    char *utf8 = runes_utf8(text, &size);
    jieba_cut(how->jieba, utf8, size, word, ctx);
    free(utf8);
}

static void add_normal_zh(void *ctx, const char *s, size_t n)
{
    struct pieces *out = ctx;
    struct runes word = {0};
    const size_t from = out->text.n;
    runes_add_utf8(&word, s, n);
    normal_zh(&out->text, word);
    if (out->text.n > from) pieces_end(out);
    runes_free(&word);
}

double score_qa_f1_zh(struct sample *s, const struct scoring *how)
{
    struct pieces prediction = {0};
    double best = 0;
    cut(how, s->prediction, add_normal_zh, &prediction);
    for (size_t k = 0; k < s->answers; k++) {
        struct pieces answer = {0};
        cut(how, s->answer[k], add_normal_zh, &answer);
        const double f = bag_f1(&prediction, &answer);
        if (f > best) best = f;
        pieces_free(&answer);
    }
    pieces_free(&prediction);
    return best;
}

double score_rouge(struct sample *s, const struct scoring *how)
{
    double best = 0;
    (void)how;
    for (size_t k = 0; k < s->answers; k++) {
        const double f = rouge_l(s->prediction, s->answer[k]);
        if (f > best) best = f;
    }
    return best;
}

static void add_spaced(void *ctx, const char *s, size_t n)
{
    struct runes *out = ctx;
    if (out->n) runes_add(out, ' ');
    runes_add_utf8(out, s, n);
}

double score_rouge_zh(struct sample *s, const struct scoring *how)
{
    struct runes prediction = {0};
    double best = 0;
    cut(how, s->prediction, add_spaced, &prediction);
    for (size_t k = 0; k < s->answers; k++) {
        struct runes answer = {0};
        cut(how, s->answer[k], add_spaced, &answer);
        const double f = rouge_l(prediction, answer);
        if (f > best) best = f;
        runes_free(&answer);
    }
    runes_free(&prediction);
    return best;
}

/* The original removes from the list of named classes while it goes through it, so the class after
 * a removed one is not looked at: published scores have that in them. */
static double classification(struct sample *s, struct runes answer)
{
    struct runes *named = xmalloc((s->choices + 1) * sizeof *named);
    size_t n = 0;
    bool hit = false;
    for (size_t k = 0; k < s->choices; k++)
        if (runes_find(s->prediction, s->choice[k], 0) >= 0) named[n++] = s->choice[k];
    for (size_t i = 0; i < n; i++) {
        if (runes_find(answer, named[i], 0) < 0 || runes_equal(named[i], answer)) continue;
        n--;
        for (size_t k = i; k < n; k++) named[k] = named[k + 1];
    }
    for (size_t i = 0; i < n; i++) hit |= runes_equal(named[i], answer);
    free(named);
    return hit ? 1.0 / (double)n : 0;
}

double score_classification(struct sample *s, const struct scoring *how)
{
    double best = 0;
    (void)how;
    for (size_t k = 0; k < s->answers; k++) {
        const double f = classification(s, s->answer[k]);
        if (f > best) best = f;
    }
    return best;
}

/* The run of digits at or after *AT, which moves past it; false without one. */
static bool next_number(struct runes text, size_t *at, struct runes *number)
{
    size_t from = *at;
    while (from < text.n && rune_digit(text.c[from]) < 0) from++;
    size_t to = from;
    while (to < text.n && rune_digit(text.c[to]) >= 0) to++;
    *number = runes_slice(text, from, to);
    *at = to;
    return to > from;
}

/* Of the numbers in the prediction, the share spelt like WANTED. */
static double share_of_numbers(struct runes prediction, struct runes wanted)
{
    struct runes number;
    double right = 0, all = 0;
    for (size_t at = 0; next_number(prediction, &at, &number); all++)
        right += runes_equal(number, wanted);
    return all > 0 ? right / all : 0;
}

double score_count(struct sample *s, const struct scoring *how)
{
    double best = 0;
    (void)how;
    for (size_t k = 0; k < s->answers; k++) {
        const double f = share_of_numbers(s->prediction, s->answer[k]);
        if (f > best) best = f;
    }
    return best;
}

ptrdiff_t paragraph_number(struct runes answer, struct runes head)
{
    for (ptrdiff_t at = 0; (at = runes_find(answer, head, (size_t)at)) >= 0; at++) {
        const size_t digit = (size_t)at + head.n;
        if (digit < answer.n && rune_digit(answer.c[digit]) >= 0) return (ptrdiff_t)digit;
    }
    return -1;
}

static double retrieval(struct sample *s, struct runes head)
{
    double best = 0;
    for (size_t k = 0; k < s->answers; k++) {
        struct runes wanted = {0};
        size_t at = (size_t)paragraph_number(s->answer[k], head);
        next_number(s->answer[k], &at, &wanted);
        const double f = share_of_numbers(s->prediction, wanted);
        if (f > best) best = f;
    }
    return best;
}

double score_retrieval(struct sample *s, const struct scoring *how)
{
    (void)how;
    return retrieval(s, paragraph_en);
}

double score_retrieval_zh(struct sample *s, const struct scoring *how)
{
    (void)how;
    return retrieval(s, paragraph_zh);
}

double score_code_sim(struct sample *s, const struct scoring *how)
{
    const struct runes text = runes_skip_newlines(s->prediction);
    struct runes code = {0};
    double best = 0;
    for (size_t from = 0; from <= text.n;) {
        const struct runes line = runes_line(text, from);
        if (runes_find_ascii(line, "`", 0) < 0 && runes_find_ascii(line, "#", 0) < 0 &&
            runes_find_ascii(line, "//", 0) < 0) {
            code = line;
            break;
        }
        from += line.n + 1;
    }
    for (size_t k = 0; k < s->answers; k++) {
        const double f = how->ratio(code, s->answer[k]) / 100.0;
        if (f > best) best = f;
    }
    return best;
}

double score_contains(struct sample *s, const struct scoring *how)
{
    struct runes prediction = {0};
    bool hit = false;
    (void)how;
    runes_lower(&prediction, s->prediction);
    for (size_t k = 0; k < s->answers && !hit; k++) {
        struct runes answer = {0};
        runes_lower(&answer, s->answer[k]);
        hit = runes_find(prediction, answer, 0) >= 0;
        runes_free(&answer);
    }
    runes_free(&prediction);
    return hit;
}
