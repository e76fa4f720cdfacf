/* rouge.c - ROUGE-L as two libraries compute it. */
#include "analyze/rouge.h"
#include "analyze/lcs.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

/* A text as sentences of word numbers: sentence s is word[start[s]] to word[start[s + 1]]. */
struct sentences {
    struct ids word, start;
};

static void sentences_free(struct sentences *s)
{
    free(s->word.v);
    free(s->start.v);
}

/* start has one entry more than there are sentences, or none at all. */
static size_t count(const struct sentences *s)
{
    return s->start.n ? s->start.n - 1 : 0;
}

static void end_sentence(struct sentences *s)
{
    if (s->start.n == 0) ids_add(&s->start, 0);
    ids_add(&s->start, (int)s->word.n);
}

static size_t distinct(const struct sentences *s, int words)
{
    bool *seen = xcalloc((size_t)words + 1, sizeof *seen);
    size_t n = 0;
    for (size_t i = 0; i < s->word.n; i++) {
        n += !seen[s->word.v[i]];
        seen[s->word.v[i]] = true;
    }
    free(seen);
    return n;
}

static void split_at_dots(struct word_table *t, struct sentences *s, struct runes text)
{
    for (size_t from = 0, to; from <= text.n; from = to + 1) {
        for (to = from; to < text.n && text.c[to] != '.';) to++;
        if (to == from) continue;
        const struct runes piece = runes_slice(text, from, to);
        struct runes word;
        size_t at = 0;
        bool any = false;
        while (runes_next_word(piece, &at, &word)) {
            ids_add(&s->word, word_id(t, word));
            any = true;
        }
        if (!any) ids_add(&s->word, word_id(t, (struct runes){0}));
        end_sentence(s);
    }
}

struct union_set {
    const int *reference; /* the words of the reference's sentence */
    bool *in;             /* [distinct words] */
    size_t n;
};

static void mark_word(void *ctx, size_t i, size_t j)
{
    struct union_set *u = ctx;
    const int id = u->reference[i];
    (void)j;
    u->n += !u->in[id];
    u->in[id] = true;
}

double rouge_l(struct runes prediction, struct runes reference)
{
    struct word_table t = {0};
    struct sentences hyp = {0}, ref = {0};
    struct lcs l = {0};
    struct union_set u = {0};
    double f = 0;

    split_at_dots(&t, &hyp, prediction);
    split_at_dots(&t, &ref, reference);
    if (count(&hyp) == 0 || count(&ref) == 0) goto done;
    u.in = xcalloc((size_t)t.n, sizeof *u.in);
    for (size_t r = 0; r < count(&ref); r++) {
        const int *a = ref.word.v + ref.start.v[r];
        const size_t na = (size_t)(ref.start.v[r + 1] - ref.start.v[r]);
        u.reference = a;
        for (size_t h = 0; h < count(&hyp); h++) {
            const int *b = hyp.word.v + hyp.start.v[h];
            const size_t nb = (size_t)(hyp.start.v[h + 1] - hyp.start.v[h]);
            if (lcs_table(&l, a, na, b, nb, t.n)) lcs_walk(&l, a, na, b, nb, mark_word, &u);
        }
    }
    const double recall = (double)u.n / (double)distinct(&ref, t.n);
    const double precision = (double)u.n / (double)distinct(&hyp, t.n);
    f = 2.0 * ((precision * recall) / (precision + recall + 1e-8));

done:
    free(u.in);
    lcs_free(&l);
    sentences_free(&hyp);
    sentences_free(&ref);
    word_table_free(&t);
    return f;
}

/* TEXT is lower case already; lines without a word stay sentences, which changes nothing. */
static void split_lines(struct word_table *t, struct sentences *s, struct runes text)
{
    for (size_t i = 0; i < text.n; i++) {
        size_t to = i;
        while (to < text.n && ((text.c[to] >= 'a' && text.c[to] <= 'z') ||
                               (text.c[to] >= '0' && text.c[to] <= '9')))
            to++;
        if (to > i) ids_add(&s->word, word_id(t, runes_slice(text, i, to)));
        if (to < text.n && text.c[to] == '\n') end_sentence(s);
        i = to;
    }
    end_sentence(s);
}

static void mark_place(void *ctx, size_t i, size_t j)
{
    bool *in = ctx;
    (void)i;
    in[j] = true;
}

double rouge_lsum(struct runes prediction, struct runes reference)
{
    struct word_table t = {0};
    struct sentences can = {0}, ref = {0};
    struct runes lower_can = {0}, lower_ref = {0};
    struct lcs l = {0};
    int *left = NULL; /* [distinct words]: how often each may still count in the candidate */
    bool *in = NULL;  /* [words of a reference sentence]: in the union */
    double f = 0;
    size_t hits = 0;

    runes_lower(&lower_can, prediction);
    runes_lower(&lower_ref, reference);
    split_lines(&t, &can, lower_can);
    split_lines(&t, &ref, lower_ref);
    if (can.word.n == 0 || ref.word.n == 0) goto done;
    left = xcalloc((size_t)t.n, sizeof *left);
    in = xmalloc(ref.word.n * sizeof *in);
    for (size_t i = 0; i < can.word.n; i++) left[can.word.v[i]]++;
    for (size_t r = 0; r < count(&ref); r++) {
        const int *b = ref.word.v + ref.start.v[r];
        const size_t nb = (size_t)(ref.start.v[r + 1] - ref.start.v[r]);
        memset(in, 0, nb * sizeof *in);
        for (size_t c = 0; c < count(&can); c++) {
            /* the candidate's words are the table's rows: at a tie the library leaves the
             * reference's word first */
            const int *a = can.word.v + can.start.v[c];
            const size_t na = (size_t)(can.start.v[c + 1] - can.start.v[c]);
            if (lcs_table(&l, a, na, b, nb, t.n)) lcs_walk(&l, a, na, b, nb, mark_place, in);
        }
        for (size_t i = 0; i < nb; i++) {
            if (!in[i] || left[b[i]] == 0) continue;
            left[b[i]]--;
            hits++;
        }
    }
    const double recall = (double)hits / (double)ref.word.n;
    const double precision = (double)hits / (double)can.word.n;
    if (precision + recall > 0) f = 2 * precision * recall / (precision + recall);

done:
    free(in);
    free(left);
    lcs_free(&l);
    runes_free(&lower_can);
    runes_free(&lower_ref);
    sentences_free(&can);
    sentences_free(&ref);
    word_table_free(&t);
    return f;
}
