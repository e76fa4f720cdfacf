/* template.c - prompt templates with {name} fields. */
#include "core/task/template.h"
#include "core/base/base.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Literal text up to a field, NULL behind the last one. */
struct piece {
    char *literal, *field;
};

struct template
{
    struct piece *piece;
    int n;
};

static void add_piece(struct template *t, struct text *literal, char *field)
{
    text_add(literal, "", 1);
    t->piece = xrealloc(t->piece, (size_t)(t->n + 1) * sizeof *t->piece);
    t->piece[t->n++] = (struct piece){xstrdup(literal->s), field};
    literal->n = 0;
}

struct template *template_parse(const char *where, const char *text)
{
    struct template *t = xcalloc(1, sizeof *t);
    struct text literal = {0};
    int rc = -1;

    for (const char *p = text; *p; p++) {
        if (*p != '{' && *p != '}') {
            text_add(&literal, p, 1);
            continue;
        }
        if (p[1] == *p) {
            text_add(&literal, p++, 1);
            continue;
        }
        if (*p == '}') {
            fail("%s: expected {name} or a doubled brace, found \"}\" alone at byte %zu", where,
                 (size_t)(p - text));
            goto done;
        }
        const char *name = p + 1;
        size_t n = 0;
        while (isalnum((unsigned char)name[n]) || name[n] == '_') n++;
        if (n == 0 || name[n] != '}') {
            fail("%s: expected {name} or a doubled brace, found \"%.20s\" at byte %zu", where, p,
                 (size_t)(p - text));
            goto done;
        }
        add_piece(t, &literal, xprintf("%.*s", (int)n, name));
        p = name + n;
    }
    add_piece(t, &literal, NULL);
    rc = 0;

done:
    free(literal.s);
    if (rc) {
        template_free(t);
        t = NULL;
    }
    return t;
}

void template_free(struct template *t)
{
    if (t == NULL) return;
    for (int i = 0; i < t->n; i++) {
        free(t->piece[i].literal);
        free(t->piece[i].field);
    }
    free(t->piece);
    free(t);
}

int template_fill(struct text *out, const struct template *t,
                  int (*value)(void *ctx, const char *name, struct text *out), void *ctx)
{
    for (int i = 0; i < t->n; i++) {
        text_add(out, t->piece[i].literal, strlen(t->piece[i].literal));
        if (t->piece[i].field && value(ctx, t->piece[i].field, out)) return -1;
    }
    return 0;
}
