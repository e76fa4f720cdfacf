/* lcs.h - longest common subsequences of word numbers, 64 cells of the table at a time.
 *
 * T[i][j] is the length of the longest common subsequence of the first i words of A and the first
 * j of B. Row i is kept as the bits T[i][j] > T[i][j-1], which a sum with carry computes
 * (Hyyro 2004, "Bit-parallel LCS-length computation revisited"), and which decide the way back.
 */
#ifndef ANALYZE_LCS_H
#define ANALYZE_LCS_H

#include <stddef.h>
#include <stdint.h>

/* Working memory, reused from call to call; all zero at first. */
struct lcs {
    uint64_t *row;  /* [na + 1, words] */
    uint64_t *mask; /* [words]: where the word of a row stands in B */
    int *first;     /* [distinct words]: its last place in B; -1 outside, and between calls */
    int *next;      /* [nb]: the place of the same word before this one */
    size_t row_room, mask_room, first_room, next_room;
};
void lcs_free(struct lcs *l);

/* Fills the table of A [NA] and B [NB], numbers below DISTINCT, and returns the length. */
size_t lcs_table(struct lcs *l, const int *a, size_t na, const int *b, size_t nb, int distinct);

/* Walks back through the table from its end: an equal pair is taken, otherwise the walk leaves the
 * word of A where T[i-1][j] > T[i][j-1], that of B where not. PAIR is called with the places of
 * each pair, from last to first. */
void lcs_walk(const struct lcs *l, const int *a, size_t na, const int *b, size_t nb,
              void (*pair)(void *ctx, size_t i, size_t j), void *ctx);

#endif
