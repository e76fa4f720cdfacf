/* normalize.c - normalizers: normal forms, replacing, prepending, stripping. */
#include "core/model/normalize.h"
#include "core/base/base.h"
#include "core/model/part.h"

#include <stdlib.h>
#include <string.h>

enum kind { NFC, NFD, NFKC, NFKD, LOWERCASE, REPLACE, PREPEND, STRIP, SEQUENCE };
static const char *const names[] = {"NFC",     "NFD",     "NFKC",  "NFKD",     "Lowercase",
                                    "Replace", "Prepend", "Strip", "Sequence", NULL};

struct step {
    enum kind kind;
    struct pattern pattern; /* REPLACE */
    char *content;          /* REPLACE: what takes the matches' place; PREPEND: what is put first */
    bool left, right;       /* STRIP: white space at these ends */
};

struct normalizer {
    struct step *step;
    int n;
};

static int load(struct normalizer *z, const char *file, const cJSON *item, int depth)
{
    static const char part[] = "normalizer";
    const char *content = NULL;
    const int kind = part_type(file, part, item, names);

    if (kind < 0) return -1;
    if (kind == SEQUENCE) {
        const cJSON *list = part_list(file, part, item, "normalizers");
        if (list == NULL) return -1;
        if (depth == PART_DEPTH) return fail("%s: %s: nested too deeply", file, part);
        for (const cJSON *c = list->child; c; c = c->next)
            if (load(z, file, c, depth + 1)) return -1;
        return 0;
    }
    z->step = xrealloc(z->step, (size_t)(z->n + 1) * sizeof *z->step);
    struct step *s = &z->step[z->n++];
    memset(s, 0, sizeof *s);
    s->kind = (enum kind)kind;
    if (kind == REPLACE && part_pattern(file, part, item, &s->pattern)) return -1;
    if (kind == REPLACE && part_string(file, part, item, "content", &content)) return -1;
    if (kind == PREPEND && part_string(file, part, item, "prepend", &content)) return -1;
    if (kind == STRIP && (part_bool(file, part, item, "strip_left", &s->left) ||
                          part_bool(file, part, item, "strip_right", &s->right)))
        return -1;
    if (content) s->content = xstrdup(content);
    return 0;
}

struct normalizer *normalizer_load(const char *file, const cJSON *item)
{
    struct normalizer *z = xcalloc(1, sizeof *z);
    if (item == NULL || load(z, file, item, 0) == 0) return z;
    normalizer_free(z);
    return NULL;
}

void normalizer_free(struct normalizer *z)
{
    if (z == NULL) return;
    for (int i = 0; i < z->n; i++) {
        pattern_free(&z->step[i].pattern);
        free(z->step[i].content);
    }
    free(z->step);
    free(z);
}

bool normalizer_is_empty(const struct normalizer *z)
{
    return z->n == 0;
}

static int replace(const struct step *p, struct matcher *m, const char *s, size_t n,
                   struct text *out)
{
    const size_t content_n = strlen(p->content);
    struct matches f;
    size_t a, b, done = 0;
    bool found = true;

    matches_start(&f, &p->pattern, m, s, n);
    while (n > 0) {
        if (matches_next(&f, &a, &b, &found)) return -1;
        if (!found) break;
        text_add(out, s + done, a - done);
        text_add(out, p->content, content_n);
        done = b;
    }
    text_add(out, s + done, n - done);
    return 0;
}

static void strip(const struct step *p, const char *s, size_t n, struct text *out, bool *cut)
{
    size_t from = 0;
    uint32_t c;
    while (p->left && from < n) {
        int len = utf8_get(s + from, &c);
        if (!is_white_space(c)) break;
        from += (size_t)len;
    }
    while (p->right && n > from) {
        size_t last = utf8_before(s, n);
        utf8_get(s + last, &c);
        if (!is_white_space(c)) break;
        n = last;
    }
    if (from > 0) *cut = true;
    text_add(out, s + from, n - from);
}

static int run_step(const struct step *p, struct matcher *m, const char *s, size_t n,
                    struct text *out, bool *cut)
{
    static const enum normal_form form[] = {
        [NFC] = FORM_NFC, [NFD] = FORM_NFD, [NFKC] = FORM_NFKC, [NFKD] = FORM_NFKD};
    switch (p->kind) {
    case NFC:
    case NFD:
    case NFKC:
    case NFKD:
        normal_form(out, s, n, form[p->kind]);
        return 0;
    case LOWERCASE:
        lower_case(out, s, n);
        return 0;
    case REPLACE:
        return replace(p, m, s, n, out);
    case PREPEND: /* an empty text stays empty */
        if (n > 0) text_add(out, p->content, strlen(p->content));
        text_add(out, s, n);
        return 0;
    case STRIP:
        strip(p, s, n, out, cut);
        return 0;
    case SEQUENCE: /* its members stand in its place */
        return 0;
    }
    return 0;
}

int normalizer_run(const struct normalizer *z, struct matcher *m, const char *s, size_t n,
                   struct text *out, bool *cut)
{
    struct text spare[2] = {0};
    int rc = 0;

    *cut = false;
    if (z->n == 0) text_add(out, s, n);
    for (int i = 0; i < z->n && rc == 0; i++) {
        struct text *to = i == z->n - 1 ? out : &spare[i % 2];
        if (to != out) to->n = 0;
        rc = run_step(&z->step[i], m, s, n, to, cut);
        s = to->s; /* of the last step too, but no step reads it then */
        n = to->n;
    }
    free(spare[0].s);
    free(spare[1].s);
    return rc;
}
