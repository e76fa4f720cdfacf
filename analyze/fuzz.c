/* fuzz.c - fuzzywuzzy's ratio, with and without python-Levenshtein. */
#include "analyze/fuzz.h"
#include "analyze/lcs.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>

/* B's characters by number: their places ascend along next from first. */
struct matcher {
    const int *a, *b;  /* character numbers */
    int *first, *next; /* place of a character in B, the next place of the same; -1 ends */
    int *run, *above;  /* [nb + 1]: length of the match that ends before place j of B */
};

struct block {
    int a, b, n;
};

/* The longest match of a[alo:ahi] and b[blo:bhi]: of several the one that starts first in A, of
 * these the first in B. */
static struct block longest_match(struct matcher *m, int alo, int ahi, int blo, int bhi)
{
    struct block best = {alo, blo, 0};
    for (int i = alo; i < ahi; i++) {
        int *swap = m->above;
        m->above = m->run;
        m->run = swap;
        for (int j = m->first[m->a[i]]; j >= 0 && j < bhi; j = m->next[j]) {
            if (j < blo) continue;
            const int n = m->run[j + 1] = m->above[j] + 1;
            if (n > best.n) best = (struct block){i - n + 1, j - n + 1, n};
        }
        /* the row above is done with: it holds zeros when it becomes the current one */
        if (i > alo)
            for (int j = m->first[m->a[i - 1]]; j >= 0; j = m->next[j]) m->above[j + 1] = 0;
    }
    if (ahi > alo)
        for (int j = m->first[m->a[ahi - 1]]; j >= 0; j = m->next[j]) m->run[j + 1] = 0;
    while (best.a > alo && best.b > blo && m->a[best.a - 1] == m->b[best.b - 1]) {
        best.a--;
        best.b--;
        best.n++;
    }
    while (best.a + best.n < ahi && best.b + best.n < bhi &&
           m->a[best.a + best.n] == m->b[best.b + best.n])
        best.n++;
    return best;
}

/* Characters of both texts as numbers from 0, and how many there are. */
static int number_characters(struct runes a, struct runes b, int *na, int *nb)
{
    struct word_table t = {0};
    for (size_t i = 0; i < a.n; i++) na[i] = word_id(&t, runes_slice(a, i, i + 1));
    for (size_t j = 0; j < b.n; j++) nb[j] = word_id(&t, runes_slice(b, j, j + 1));
    const int n = t.n;
    word_table_free(&t);
    return n;
}

static int percent(size_t matches, size_t length)
{
    return (int)rint(100 * (2.0 * (double)matches / (double)length)); /* rounds half to even */
}

/* What ratio() says without looking inside; -1 when it has to. */
static int outright(struct runes a, struct runes b)
{
    return runes_equal(a, b) ? 100 : a.n == 0 || b.n == 0 ? 0 : -1;
}

int fuzz_ratio(struct runes a, struct runes b)
{
    const int known = outright(a, b);
    if (known >= 0) return known;
    const int na = (int)a.n, nb = (int)b.n;
    int *a_ids = xmalloc(a.n * sizeof *a_ids), *b_ids = xmalloc(b.n * sizeof *b_ids);
    const int distinct = number_characters(a, b, a_ids, b_ids);
    struct matcher m = {.a = a_ids, .b = b_ids};
    int *often = xcalloc((size_t)distinct, sizeof *often);
    struct range {
        int alo, ahi, blo, bhi;
    } *todo = xmalloc((a.n + b.n + 1) * sizeof *todo);
    size_t matches = 0, n = 0;

    m.first = xmalloc((size_t)distinct * sizeof *m.first);
    m.next = xmalloc(b.n * sizeof *m.next);
    m.run = xcalloc(b.n + 1, sizeof *m.run);
    m.above = xcalloc(b.n + 1, sizeof *m.above);
    for (int k = 0; k < distinct; k++) m.first[k] = -1;
    for (int j = nb - 1; j >= 0; j--) {
        m.next[j] = m.first[b_ids[j]];
        m.first[b_ids[j]] = j;
        often[b_ids[j]]++;
    }
    if (nb >= 200)
        for (int k = 0; k < distinct; k++)
            if (often[k] > nb / 100 + 1) m.first[k] = -1;

    todo[n++] = (struct range){0, na, 0, nb};
    while (n > 0) {
        const struct range r = todo[--n];
        const struct block x = longest_match(&m, r.alo, r.ahi, r.blo, r.bhi);
        if (x.n == 0) continue;
        matches += (size_t)x.n;
        if (r.alo < x.a && r.blo < x.b) todo[n++] = (struct range){r.alo, x.a, r.blo, x.b};
        if (x.a + x.n < r.ahi && x.b + x.n < r.bhi)
            todo[n++] = (struct range){x.a + x.n, r.ahi, x.b + x.n, r.bhi};
    }
    free(m.first);
    free(m.next);
    free(m.run);
    free(m.above);
    free(often);
    free(todo);
    free(a_ids);
    free(b_ids);
    return percent(matches, a.n + b.n);
}

int fuzz_ratio_lev(struct runes a, struct runes b)
{
    const int known = outright(a, b);
    if (known >= 0) return known;
    struct lcs l = {0};
    int *a_ids = xmalloc(a.n * sizeof *a_ids), *b_ids = xmalloc(b.n * sizeof *b_ids);
    const int distinct = number_characters(a, b, a_ids, b_ids);
    const size_t length = lcs_table(&l, a_ids, a.n, b_ids, b.n, distinct);
    lcs_free(&l);
    free(a_ids);
    free(b_ids);
    return percent(length, a.n + b.n);
}
