/* rouge.h - the two ROUGE-L scores that the benchmarks use; they differ in all but the name. */
#ifndef ANALYZE_ROUGE_H
#define ANALYZE_ROUGE_H

#include "analyze/runes.h"

/* LongBench's: F of the summary-level ROUGE-L over sets of words, in [0, 1]. Sentences end at ".",
 * a piece of white space alone is a sentence of one empty word, case counts. 0 where a text has no
 * sentence. Without the recursion of the original, which scores 0 past about 980 words.
 * Source: rouge 1.0.1 (pltrdy), rouge_l_summary_level(). */
double rouge_l(struct runes prediction, struct runes reference);

/* InfiniteBench's: F of rougeLsum, in [0, 1]. A line is a sentence; words are runs of a-z and 0-9
 * after lower(); a word counts as often as the prediction holds it. No stemming.
 * Source: rouge_score 0.1.2 (google-research), _summary_level_lcs(). */
double rouge_lsum(struct runes prediction, struct runes reference);

#endif
