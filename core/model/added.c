/* added.c - added tokens: reading them, and finding them in a text. */
#include "core/model/added.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/model/part.h"

#include <stdlib.h>
#include <string.h>

static int load_token(struct added_token *t, const char *file, const cJSON *item,
                      const struct bpe *model)
{
    static const char part[] = "added_tokens";
    const char *text = NULL;
    int id = -1;

    if (!cJSON_IsObject(item))
        return fail("%s: %s: expected objects, found %s", file, part, json_kind(item));
    if (part_string(file, part, item, "content", &text)) return -1;
    if (json_member(item, "id") == NULL)
        return fail("%s: %s: \"%.100s\": expected an \"id\", found none", file, part, text);
    if (json_int(file, item, "id", 0, TOKEN_ID_MAX, &id) ||
        json_bool(file, item, "special", &t->special))
        return -1;
    t->normalized = !t->special;
    if (json_bool(file, item, "normalized", &t->normalized) ||
        json_bool(file, item, "lstrip", &t->lstrip) ||
        json_bool(file, item, "rstrip", &t->rstrip) ||
        json_bool(file, item, "single_word", &t->single_word))
        return -1;
    t->id = id;
    t->n = strlen(text);
    t->text = xstrdup(text);

    const int known = bpe_find(model, text, t->n);
    t->own = known < 0;
    if (known >= 0 && known != id)
        return fail("%s: %s: \"%.100s\" has id %d, but %d in the vocabulary", file, part, text, id,
                    known);
    const struct token taken = bpe_token(model, id);
    if (known < 0 && taken.text)
        return fail("%s: %s: \"%.100s\" has id %d, which is \"%.*s\" in the vocabulary", file, part,
                    text, id, (int)(taken.n < 100 ? taken.n : 100), taken.text);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_match(const void *a, const void *b, void *tokens)
{
    const struct added_token *x = (const struct added_token *)tokens + *(const int *)a;
    const struct added_token *y = (const struct added_token *)tokens + *(const int *)b;
    int order = memcmp(x->match, y->match, x->match_n < y->match_n ? x->match_n : y->match_n);
    if (order == 0) order = x->match_n < y->match_n ? -1 : x->match_n > y->match_n;
    return order ? order : by_id(x, y);
}

static void sort_matches(struct added *a, int k)
{
    int n = 0;
    a->sorted[k] = xmalloc((size_t)(a->n + 1) * sizeof *a->sorted[k]);
    for (int i = 0; i < a->n; i++)
        if (a->token[i].normalized == (k == 1) && a->token[i].match_n > 0) a->sorted[k][n++] = i;
    qsort_r(a->sorted[k], (size_t)n, sizeof *a->sorted[k], by_match, a->token);
    for (int i = 0; i < n; i++)
        a->first[k][(unsigned char)a->token[a->sorted[k][i]].match[0] + 1]++;
    for (int c = 0; c < 256; c++) a->first[k][c + 1] += a->first[k][c];
}

int added_load(struct added *a, const char *file, const cJSON *item, const struct bpe *model,
               const struct normalizer *z, struct matcher *m)
{
    memset(a, 0, sizeof *a);
    if (item && !cJSON_IsArray(item))
        return fail("%s: \"added_tokens\": expected a list, found %s", file, json_kind(item));
    const int count = item ? cJSON_GetArraySize(item) : 0;
    a->token = xcalloc((size_t)count + 1, sizeof *a->token);
    for (const cJSON *c = item ? item->child : NULL; c; c = c->next) {
        struct added_token *t = &a->token[a->n++];
        struct text match = {0};
        bool cut;
        if (load_token(t, file, c, model)) return -1;
        if (t->normalized && normalizer_run(z, m, t->text, t->n, &match, &cut)) {
            free(match.s);
            return -1;
        }
        t->match = t->normalized ? match.s : xstrdup(t->text);
        t->match_n = t->normalized ? match.n : t->n;
        if (t->id >= a->size) a->size = t->id + 1;
    }
    qsort(a->token, (size_t)a->n, sizeof *a->token, by_id);
    for (int i = 1; i < a->n; i++)
        if (a->token[i].id == a->token[i - 1].id)
            return fail("%s: added_tokens: id %d stands twice, for \"%.100s\" and \"%.100s\"", file,
                        a->token[i].id, a->token[i - 1].text, a->token[i].text);
    sort_matches(a, 0);
    sort_matches(a, 1);
    for (int k = 0; k < 2; k++) {
        for (int i = 1; i < a->first[k][256]; i++) {
            const struct added_token *x = &a->token[a->sorted[k][i - 1]],
                                     *y = &a->token[a->sorted[k][i]];
            if (strcmp(x->text, y->text) == 0)
                return fail("%s: added_tokens: \"%.100s\" stands twice, with ids %d and %d", file,
                            x->text, x->id, y->id);
        }
    }
    return 0;
}

void added_free(struct added *a)
{
    for (int i = 0; i < a->n; i++) {
        free(a->token[i].text);
        free(a->token[i].match);
    }
    free(a->token);
    free(a->sorted[0]);
    free(a->sorted[1]);
    memset(a, 0, sizeof *a);
}

const struct added_token *added_token(const struct added *a, int id)
{
    const struct added_token key = {.id = id};
    return a->n ? bsearch(&key, a->token, (size_t)a->n, sizeof *a->token, by_id) : NULL;
}

/* The first of sorted[k][lo, hi), which agree on their first I bytes, whose byte I is at least C;
 * one that ends there counts as less than any byte. */
static int lower_bound(const struct added *a, int k, int lo, int hi, size_t i, int c)
{
    while (lo < hi) {
        const int mid = lo + (hi - lo) / 2;
        const struct added_token *t = &a->token[a->sorted[k][mid]];
        if ((t->match_n > i ? (unsigned char)t->match[i] : -1) < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that S starts with, the one of the lowest id among equals, or NULL. The range
 * of tokens that agree with S narrows byte by byte. */
static const struct added_token *longest(const struct added *a, int k, const char *s, size_t n)
{
    const struct added_token *best = NULL;
    int lo = a->first[k][(unsigned char)s[0]], hi = a->first[k][(unsigned char)s[0] + 1];
    for (size_t i = 1; lo < hi; i++) {
        const struct added_token *t = &a->token[a->sorted[k][lo]];
        if (t->match_n == i) best = t; /* the shortest of the range stands first */
        if (i == n) break;
        const int c = (unsigned char)s[i];
        lo = lower_bound(a, k, lo, hi, i, c);
        hi = lower_bound(a, k, lo, hi, i, c + 1);
    }
    return best;
}

static bool alone(const char *s, size_t n, size_t from, size_t to)
{
    uint32_t c;
    if (from > 0) {
        utf8_get(s + utf8_before(s, from), &c);
        if (is_word(c)) return false;
    }
    if (to < n) {
        utf8_get(s + to, &c);
        if (is_word(c)) return false;
    }
    return true;
}

const struct added_token *added_next(const struct added *a, bool normalized, const char *s,
                                     size_t n, size_t *at, size_t taken, size_t *from, size_t *to)
{
    const int k = normalized, *first = a->first[k];
    uint32_t c;

    for (size_t i = *at; first[256] > 0 && i < n; i++) {
        if (first[(unsigned char)s[i]] == first[(unsigned char)s[i] + 1]) continue;
        const struct added_token *t = longest(a, k, s + i, n - i);
        if (t == NULL) continue;
        *from = i;
        *to = *at = i + t->match_n;
        if (t->single_word && !alone(s, n, *from, *to)) {
            i = *to - 1;
            continue;
        }
        while (t->lstrip && *from > taken) {
            size_t before = utf8_before(s, *from);
            utf8_get(s + before, &c);
            if (!is_white_space(c)) break;
            *from = before;
        }
        while (t->rstrip && *to < n) {
            int len = utf8_get(s + *to, &c);
            if (!is_white_space(c)) break;
            *to += (size_t)len;
        }
        return t;
    }
    *at = n;
    return NULL;
}
