/* dumps.c - the dumps of one command line as one run of samples. */
#include "analyze/dumps.h"
#include "core/base/base.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int same_run(const char *path, const struct dump_run *r, const char *first_path,
                    const struct dump_run *first)
{
    if (strcmp(r->fingerprint, first->fingerprint) != 0)
        return fail("%s: traced from another model (%s, %s) than %s (%s, %s); samples of one "
                    "model belong in a table",
                    path, r->model, r->fingerprint, first_path, first->model, first->fingerprint);
    if (r->L != first->L || r->H != first->H || r->G != first->G)
        return fail("%s: %d layers, %d heads, %d kv heads; %s has %d, %d, %d", path, r->L, r->H,
                    r->G, first_path, first->L, first->H, first->G);
    if (strcmp(r->score_kind, first->score_kind) != 0)
        return fail("%s: its scores are of the kind \"%s\", those of %s \"%s\"", path,
                    r->score_kind, first_path, first->score_kind);
    if (strcmp(r->attn_rows, first->attn_rows) != 0)
        return fail("%s: attn by \"%s\", in %s by \"%s\"", path, r->attn_rows, first_path,
                    first->attn_rows);
    return 0;
}

int dumps_open(struct dumps *s, char **paths, int n)
{
    memset(s, 0, sizeof *s);
    s->d = xcalloc((size_t)n + 1, sizeof *s->d);
    s->first = xcalloc((size_t)n + 1, sizeof *s->first);
    for (int i = 0; i < n; i++) {
        if ((s->d[i] = dump_open(paths[i])) == NULL) return -1;
        s->n++;
        const struct dump_run *r = dump_run(s->d[i]);
        if (i == 0) s->run = r;
        if (i > 0 && same_run(paths[i], r, paths[0], s->run)) return -1;
        if (dump_samples(s->d[i]) > INT_MAX - s->samples)
            return fail("%s: more samples than can be counted", paths[i]);
        s->samples += dump_samples(s->d[i]);
        s->first[i + 1] = s->samples;
    }
    if (s->samples == 0) return fail("%s: holds no sample", n ? paths[0] : "no dump");
    const struct dump_run *r = s->run;
    s->about = xprintf("model %s (%s%s), L = %d layers, H = %d heads, G = %d kv heads; traced %s, "
                       "%s, by version %s (%s); %d samples in %d dumps",
                       r->model, r->fingerprint, r->random_weights ? ", random weights" : "", r->L,
                       r->H, r->G, r->method, r->backend, r->version, r->commit, s->samples, n);
    return 0;
}

void dumps_close(struct dumps *s)
{
    for (int i = 0; i < s->n; i++) dump_close(s->d[i]);
    free(s->d);
    free(s->first);
    free(s->about);
    memset(s, 0, sizeof *s);
}

/* The dump and the place in it of sample I. */
static struct dump *dumps_at(const struct dumps *s, int i, int *index)
{
    int f = 0;
    while (f + 1 < s->n && i >= s->first[f + 1]) f++;
    *index = i - s->first[f];
    return s->d[f];
}

struct dump *dumps_sample(const struct dumps *s, int i, uint32_t need,
                          struct dump_sample_info *info, int *index)
{
    int at;
    struct dump *d = dumps_at(s, i, &at);
    if (dump_sample(d, at, info)) return NULL;
    if (info->T < 1 || info->n_prefill < 1 || info->n_prefill > info->T || info->S < 0) {
        fail("%s: sample %d: %d of %d tokens are prefilled, in %d steps", dump_path(d), at,
             info->n_prefill, info->T, info->S);
        return NULL;
    }
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) {
        if ((need & ~info->fields & FIELD_BIT(f)) == 0) continue;
        const char *name = dump_field_info(f)->name;
        fail("%s: sample %d has no \"%s\"; trace it with --fields %s,...", dump_path(d), at, name,
             name);
        return NULL;
    }
    if (index) *index = at;
    return d;
}

float *dumps_rows(size_t rows, int T)
{
    size_t bytes;
    if (T < 1 || __builtin_mul_overflow(rows ? rows : 1, (size_t)T * sizeof(float), &bytes)) {
        fail("%zu rows of %d values: more than memory can hold", rows, T);
        return NULL;
    }
    return big_alloc(bytes, "the rows of one step");
}
