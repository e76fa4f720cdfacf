/* answers.h - answers as the scorers compare them: normalised words, and their F1. */
#ifndef ANALYZE_ANSWERS_H
#define ANALYZE_ANSWERS_H

#include "analyze/runes.h"

/* Texts one after the other: text k is text[end[k - 1]] to text[end[k]]. The owner frees both. */
struct pieces {
    struct runes text;
    struct ids end;
};
void pieces_end(struct pieces *p); /* ends the text that was being appended */
void pieces_free(struct pieces *p);

/* The words of SQuAD's normalisation: lower case, ASCII punctuation deleted, the words "a",
 * "an" and "the" blanked, split at white space.
 * Source: Rajpurkar et al. 2016, evaluation script; normalize_answer() of LongBench. */
void normal_words(struct pieces *out, struct runes text);

/* Appends TEXT in lower case without ASCII and Chinese punctuation and white space; of Chinese
 * quotation marks U+300A stays. Source: normalize_zh_answer() of LongBench. */
void normal_zh(struct runes *out, struct runes text);

/* F1 of two bags of pieces, in [0, 1]: 2pr / (p + r), p and r the share of each that the other
 * holds too, with repetitions; 0 where they share nothing. */
double bag_f1(const struct pieces *prediction, const struct pieces *answer);

#endif
