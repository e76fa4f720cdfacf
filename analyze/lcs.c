/* lcs.c - longest common subsequences, bit-parallel. */
#include "analyze/lcs.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

static void *room_for(void *p, size_t *room, size_t n, size_t size)
{
    if (n <= *room) return p;
    *room = n + n / 2;
    return xrealloc(p, *room * size);
}

void lcs_free(struct lcs *l)
{
    free(l->row);
    free(l->mask);
    free(l->first);
    free(l->next);
    memset(l, 0, sizeof *l);
}

size_t lcs_table(struct lcs *l, const int *a, size_t na, const int *b, size_t nb, int distinct)
{
    const size_t words = (nb + 63) / 64;
    size_t length = 0;
    l->row = room_for(l->row, &l->row_room, (na + 1) * words, sizeof *l->row);
    l->mask = room_for(l->mask, &l->mask_room, words, sizeof *l->mask);
    const size_t known = l->first_room;
    l->first = room_for(l->first, &l->first_room, (size_t)distinct, sizeof *l->first);
    for (size_t k = known; k < l->first_room; k++) l->first[k] = -1;
    l->next = room_for(l->next, &l->next_room, nb, sizeof *l->next);
    if (nb == 0) return 0;
    memset(l->mask, 0, words * sizeof *l->mask);
    memset(l->row, 0, words * sizeof *l->row);
    for (size_t j = 0; j < nb; j++) {
        l->next[j] = l->first[b[j]];
        l->first[b[j]] = (int)j;
    }
    for (size_t i = 1; i <= na; i++) {
        const uint64_t *above = l->row + (i - 1) * words;
        uint64_t *row = l->row + i * words;
        const int last = l->first[a[i - 1]];
        if (last < 0) {
            memcpy(row, above, words * sizeof *row);
            continue;
        }
        for (int j = last; j >= 0; j = l->next[j]) l->mask[j / 64] |= 1ull << j % 64;
        uint64_t carry = 0;
        for (size_t w = 0; w < words; w++) {
            const uint64_t v = ~above[w], u = v & l->mask[w];
            const uint64_t half = v + u, sum = half + carry;
            carry = (half < v) | (sum < half);
            row[w] = ~(sum | (v & ~l->mask[w]));
        }
        for (int j = last; j >= 0; j = l->next[j]) l->mask[j / 64] = 0;
    }
    for (size_t j = 0; j < nb; j++) l->first[b[j]] = -1;
    for (size_t w = 0; w < words; w++) {
        uint64_t bits = l->row[na * words + w];
        if (w == words - 1 && nb % 64) bits &= (1ull << nb % 64) - 1;
        length += (size_t)__builtin_popcountll(bits);
    }
    return length;
}

void lcs_walk(const struct lcs *l, const int *a, size_t na, const int *b, size_t nb,
              void (*pair)(void *ctx, size_t i, size_t j), void *ctx)
{
    const size_t words = (nb + 63) / 64;
    for (size_t i = na, j = nb; i > 0 && j > 0;) {
        if (a[i - 1] == b[j - 1]) {
            pair(ctx, --i, --j);
        } else if (l->row[i * words + (j - 1) / 64] >> (j - 1) % 64 & 1) {
            i--; /* T[i][j] came from above alone */
        } else {
            j--;
        }
    }
}
