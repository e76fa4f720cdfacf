/* fuzz.h - how alike two strings are, as fuzzywuzzy's ratio() says. */
#ifndef ANALYZE_FUZZ_H
#define ANALYZE_FUZZ_H

#include "analyze/runes.h"

/* 0 to 100: 100 times the ratio, rounded half to even; 100 for equal strings, 0 where one alone is
 * empty. Lengths are in characters.
 *
 * fuzz_ratio: 2 M / (|a| + |b|), M the characters in the matching blocks of Ratcliff and Obershelp
 * (1988) as Python's difflib finds them, its autojunk included: of a B of 200 characters or more
 * those that make up over 1% of it start no block. This is what fuzzywuzzy 0.18 computes without
 * python-Levenshtein, and what LongBench's published scores were made with.
 * fuzz_ratio_lev: 2 LCS / (|a| + |b|), what it computes with python-Levenshtein installed. */
int fuzz_ratio(struct runes a, struct runes b);
int fuzz_ratio_lev(struct runes a, struct runes b);

#endif
