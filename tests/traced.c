/* traced.c - whole traces of the pocket model for tests, and how far two of them are apart. */
#include "tests/traced.h"
#include "core/base/base.h"
#include "core/cmd/walk.h"
#include "core/dump/dump_read.h"
#include "core/task/gen.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POCKET "configs/demo/pocket-llama"

static struct suite *two_texts(const struct tokenizer *t)
{
    const struct gen_options how[] = {
        {.task = GEN_PASSKEY, .format = GEN_RAW, .tokens = 600, .questions = 1, .seed = 3},
        {.task = GEN_TWOSTAGE, .format = GEN_RAW, .tokens = 250, .questions = 1, .seed = 4}};
    struct suite *s = xcalloc(1, sizeof *s);
    s->line = xcalloc(COUNT_OF(how), sizeof *s->line);
    s->task = xcalloc(1, sizeof *s->task);
    s->task[0] = xstrdup("text");
    s->n_tasks = 1;
    for (size_t i = 0; i < COUNT_OF(how); i++) {
        struct suite_line *l = &s->line[s->n];
        if (gen_tokens(l, &how[i], t, 0)) break;
        s->n++;
    }
    return s;
}

static int run(const char *path, const char *device, const struct ops *ops,
               const struct traced *how)
{
    const char *config = check_scratch("config.json");
    char *command[] = {"trace", NULL};
    FILE *f = fopen(config, "w");
    struct engine e;
    struct method *method = NULL;
    struct suite *suite = NULL;
    struct tracer *tracer = NULL;
    int rc = -1;
    if (f == NULL || fputs(how->config, f) < 0 || fclose(f) != 0)
        return fail("%s: cannot be written", config);
    const struct engine_args args = {.model = POCKET, .config = config, .device = device};
    const struct trace_spec spec = {.path = path,
                                    .fields = how->fields,
                                    .top = how->top,
                                    .f32 = how->f32,
                                    .argc = 1,
                                    .argv = command};
    if (engine_open(&e, "trace", &args)) return -1;
    if (ops) e.model.ops = ops;
    if (engine_tokenizer(&e, true)) goto done;
    suite = two_texts(e.tokenizer);
    if ((method = method_open(&e.config, &e.model)) == NULL) goto done;
    if ((tracer = tracer_open(&spec, &e, method)) == NULL) goto done;
    rc = walk_suite(&(struct walk){.engine = &e,
                                   .variant = &(struct variant){.config = &e.config},
                                   .n_variants = 1,
                                   .method = method,
                                   .suite = suite,
                                   .tracer = tracer});
    rc = tracer_close(tracer, rc);

done:
    method_close(method);
    suite_free(suite);
    engine_close(&e);
    return rc;
}

int traced_run(const char *path, const char *device, const struct ops *ops,
               const struct traced *how)
{
    const bool muted = mute_failures(true);
    const int rc = run(path, device, ops, how);
    mute_failures(muted);
    return rc;
}

/* ---- comparing */

/* The two dumps' values of a field at a step. */
struct pair {
    struct dump *one, *other;
    const struct dump_run *run;
    struct dump_sample_info info;
    int sample, step;
};

static float *floats(struct dump *d, const struct pair *p, enum dump_field field, size_t n)
{
    float *x = xmalloc((n + 1) * sizeof *x);
    if (dump_rows(d, p->sample, field, p->step, x) == 0) return x;
    free(x);
    return NULL;
}

static int *ints(struct dump *d, const struct pair *p, enum dump_field field, size_t n)
{
    int *x = xmalloc((n + 1) * sizeof *x);
    if (dump_ints(d, p->sample, field, p->step, x) == 0) return x;
    free(x);
    return NULL;
}

static bool has(const struct pair *p, enum dump_field field)
{
    return p->info.fields >> field & 1;
}

static int differing(const void *a, const void *b, size_t n)
{
    int count = 0;
    for (size_t i = 0; i < n; i++)
        count += memcmp((const char *)a + 4 * i, (const char *)b + 4 * i, 4) != 0;
    return count;
}

/* Adds a difference; in MEAN is the sum of squares until compare() is done. */
static void add(struct traced_off *off, double apart)
{
    off->worst = fmax(off->worst, fabs(apart));
    off->mean += apart * apart;
    off->n++;
}

static int plain_field(const struct pair *p, enum dump_field field, size_t n,
                       struct traced_off *off, struct traced_gap *gap)
{
    if (!has(p, field)) return 0;
    float *a = floats(p->one, p, field, n), *b = floats(p->other, p, field, n);
    for (size_t i = 0; a && b && i < n; i++)
        if (isnan(a[i]) != isnan(b[i]))
            add(off, INFINITY);
        else if (!isnan(a[i]))
            add(off, (double)a[i] - b[i]);
    if (a && b) gap->differ += differing(a, b, n);
    const int rc = a && b ? 0 : -1;
    free(a);
    free(b);
    return rc;
}

static int prefill_scores(const struct pair *p, struct traced_gap *gap)
{
    const size_t n = (size_t)p->run->L * (size_t)p->run->G * (size_t)p->info.T;
    if (!has(p, DUMP_PREFILL_SCORE)) return 0;
    float *a = floats(p->one, p, DUMP_PREFILL_SCORE, n);
    float *b = floats(p->other, p, DUMP_PREFILL_SCORE, n);
    for (size_t i = 0; a && b && i < n; i++)
        add(&gap->off[GAP_PREFILL], ((double)a[i] - b[i]) / (1 + fabs(a[i])));
    if (a && b) gap->differ += differing(a, b, n);
    const int rc = a && b ? 0 : -1;
    free(a);
    free(b);
    return rc;
}

static int scores(const struct pair *p, struct traced_gap *gap)
{
    const size_t L = (size_t)p->run->L, T = (size_t)p->info.T;
    if (!has(p, DUMP_SCORE)) return 0;
    float *a = floats(p->one, p, DUMP_SCORE, L * T), *b = floats(p->other, p, DUMP_SCORE, L * T);
    for (size_t l = 0; a && b && l < L; l++) {
        int lonely = 0;
        for (size_t t = l * T; t < (l + 1) * T; t++) {
            lonely += isnan(a[t]) != isnan(b[t]);
            if (!isnan(a[t]) && !isnan(b[t]))
                add(&gap->off[GAP_SCORE], ((double)a[t] - b[t]) / (1 + fabs(a[t])));
        }
        gap->shape = fmax(gap->shape, (double)lonely / (double)T);
    }
    if (a && b) gap->differ += differing(a, b, L * T);
    const int rc = a && b ? 0 : -1;
    free(a);
    free(b);
    return rc;
}

/* Index of VALUE in LIST [n], or -1. */
static int find(const int *list, int n, int value)
{
    for (int i = 0; i < n; i++)
        if (list[i] == value) return i;
    return -1;
}

static int tops(const struct pair *p, double close, struct traced_gap *gap)
{
    const int K = p->run->K;
    const size_t L = (size_t)p->run->L, n = L * (size_t)K, T = (size_t)p->info.T;
    if (!has(p, DUMP_TOPK_IDX)) return 0;
    int *a = ints(p->one, p, DUMP_TOPK_IDX, n), *b = ints(p->other, p, DUMP_TOPK_IDX, n);
    float *ma = floats(p->one, p, DUMP_TOPK_MASS, n), *mb = floats(p->other, p, DUMP_TOPK_MASS, n);
    float *score = has(p, DUMP_SCORE) ? floats(p->one, p, DUMP_SCORE, L * T) : NULL;
    const bool read = a && b && ma && mb;
    for (size_t l = 0; read && l < L; l++) {
        const int *mine = a + l * (size_t)K, *yours = b + l * (size_t)K;
        int size = 0, common = 0;
        while (size < K && mine[size] >= 0) size++;
        for (int i = 0; i < K && yours[i] >= 0; i++) {
            const int at = find(mine, size, yours[i]);
            common += at >= 0;
            if (at >= 0)
                add(&gap->off[GAP_TOP_MASS],
                    (double)ma[l * (size_t)K + (size_t)at] - mb[l * (size_t)K + (size_t)i]);
            if (at >= 0 || score == NULL || size == 0) continue;
            const double border = score[l * T + (size_t)mine[size - 1]];
            const double found = score[l * T + (size_t)yours[i]];
            gap->beyond += found < border - 2 * close * (1 + fabs(border));
        }
        if (size == 0) continue;
        gap->common = fmin(gap->common, (double)common / size);
        gap->mean_common += (double)common / size;
        gap->tops++;
    }
    if (read) gap->differ += differing(a, b, n) + differing(ma, mb, n);
    free(a);
    free(b);
    free(ma);
    free(mb);
    free(score);
    return read ? 0 : -1;
}

static int selections(const struct pair *p, struct traced_gap *gap)
{
    const int k = p->info.k;
    const size_t M = (size_t)p->run->M, n = M * (size_t)k;
    if (!has(p, DUMP_SELECTED_IDX)) return 0;
    int *a = ints(p->one, p, DUMP_SELECTED_IDX, n), *b = ints(p->other, p, DUMP_SELECTED_IDX, n);
    for (size_t m = 0; a && b && m < M; m++) {
        const int *mine = a + m * (size_t)k, *yours = b + m * (size_t)k;
        int size = 0, common = 0;
        for (; size < k && mine[size] >= 0; size++) common += find(yours, k, mine[size]) >= 0;
        if (size == 0) continue;
        gap->selected = fmin(gap->selected, (double)common / size);
        gap->mean_selected += (double)common / size;
        gap->selections++;
    }
    if (a && b) gap->differ += differing(a, b, n);
    const int rc = a && b ? 0 : -1;
    free(a);
    free(b);
    return rc;
}

static int compare(struct pair *p, double close, struct traced_gap *gap)
{
    struct dump_sample_info theirs;
    if (dump_sample(p->one, p->sample, &p->info) || dump_sample(p->other, p->sample, &theirs))
        return -1;
    if (p->info.S != theirs.S || p->info.T != theirs.T || p->info.fields != theirs.fields)
        return fail("sample %d: %d steps of %d tokens, fields %x; the other %d of %d, %x",
                    p->sample, p->info.S, p->info.T, p->info.fields, theirs.S, theirs.T,
                    theirs.fields);
    const size_t L = (size_t)p->run->L, T = (size_t)p->info.T;
    for (p->step = 0; p->step < p->info.S; p->step++)
        if (scores(p, gap) || tops(p, close, gap) || selections(p, gap) ||
            plain_field(p, DUMP_MASS, L * T, &gap->off[GAP_MASS], gap) ||
            plain_field(p, DUMP_TOPK_TOTAL, L, &gap->off[GAP_TOTAL], gap) ||
            plain_field(p, DUMP_IMPORTANCE, L, &gap->off[GAP_IMPORTANCE], gap) ||
            plain_field(p, DUMP_REUSE_ERROR, 2 * L * L, &gap->off[GAP_REUSE], gap))
            return -1;
    p->step = 0;
    return prefill_scores(p, gap);
}

int traced_compare(const char *one, const char *other, double close, struct traced_gap *gap)
{
    const bool muted = mute_failures(true);
    struct pair p = {.one = dump_open(one)};
    int rc = -1;
    *gap = (struct traced_gap){.common = 1, .selected = 1};
    if (p.one && (p.other = dump_open(other)) != NULL) {
        p.run = dump_run(p.one);
        rc = dump_samples(p.one) == dump_samples(p.other) ? 0 : fail("other samples");
        for (; rc == 0 && p.sample < dump_samples(p.one); p.sample++) rc = compare(&p, close, gap);
    }
    for (int i = 0; i < GAP_FIELDS; i++)
        if (gap->off[i].n) gap->off[i].mean = sqrt(gap->off[i].mean / (double)gap->off[i].n);
    gap->mean_common = gap->tops ? gap->mean_common / (double)gap->tops : 1;
    gap->mean_selected = gap->selections ? gap->mean_selected / (double)gap->selections : 1;
    dump_close(p.one);
    dump_close(p.other);
    mute_failures(muted);
    return rc;
}
