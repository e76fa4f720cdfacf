/* dump_check.c - is a dump whole: every byte of every sample read, every value where it can be. */
#include "core/dump/dump_read.h"
#include "core/base/base.h"
#include "core/dump/shape.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>

/* What the checks share. */
struct check {
    struct dump *d;
    const struct dump_run *run;
    struct dump_sample_info n;
    int i;
    FILE *report;
    long problems, samples;
    int *pos;    /* [S] step_pos */
    float *rows; /* one step of a float field */
    int *ints;   /* one step of an integer field */
};

__attribute__((format(printf, 2, 3))) static void problem(struct check *c, const char *format, ...)
{
    va_list args;
    c->problems++;
    fprintf(c->report, "%s: sample %d: ", dump_path(c->d), c->i);
    va_start(args, format);
    vfprintf(c->report, format, args);
    va_end(args);
    fputc('\n', c->report);
}

/* Reports what a reading function has said to fail(). */
static void failed(struct check *c)
{
    c->problems++;
    fprintf(c->report, "%s\n", last_failure());
}

static struct dump_shape shape_of(const struct check *c, enum dump_field f)
{
    const struct dump_run *r = c->run;
    const struct dump_dims d = {r->L,   r->G,   r->K,   r->M,           c->n.T,
                                c->n.S, c->n.R, c->n.k, c->n.text_bytes};
    return dump_shape_of(f, &d);
}

/* ---- floats */

/* Where a float field's values lie. A share of attention rounds up by at most 2^-11 of itself, and
 * sums over rows of a group reach the group's size. */
struct range {
    float low, high;
    bool nan; /* NaN may stand for "not measured" */
    bool sum; /* a row is shares of one: its sum stays below `high` too */
};

static struct range range_of(const struct check *c, enum dump_field f)
{
    const float one = 1 + 0x1p-10f;
    const float group = (float)(c->n.R ? (c->run->H + c->n.R - 1) / c->n.R : 1);
    switch (f) {
    case DUMP_MASS:
        return (struct range){0, one, false, true};
    case DUMP_TOPK_MASS:
        return (struct range){0, one, false, true};
    case DUMP_TOPK_TOTAL:
        return (struct range){0, one, false, false};
    case DUMP_ATTN:
        return (struct range){0, group * one, false, true};
    case DUMP_IMPORTANCE:
        return (struct range){-0x1p-10f, 2 + 0x1p-10f, false, false};
    case DUMP_PREFILL_SCORE:
        return (struct range){0, INFINITY, false, false};
    case DUMP_STEP_NLL:
        return (struct range){-0x1p-10f, INFINITY, true, false};
    default:
        return (struct range){-INFINITY, INFINITY, true, false};
    }
}

/* Checks N values of a row that sees the positions up to LAST (SEEN of them may be other than 0).
 */
static bool row_is_whole(const float *v, int64_t n, int64_t seen, struct range r, const char **what)
{
    double sum = 0;
    bool inside = true, unseen = true;
    for (int64_t t = 0; t < n; t++) {
        const bool nan = isnan(v[t]);
        if (nan ? !r.nan : isinf(v[t]) || v[t] < r.low || v[t] > r.high) inside = false;
        if (t >= seen && v[t] != 0) unseen = false;
        if (!nan) sum += v[t];
    }
    *what = !inside   ? "a value is not finite or out of range"
            : !unseen ? "a value stands past the position of the step"
                      : "the row's sum is above one";
    /* Each share below the smallest normal half is off by up to 2^-25. */
    return inside && unseen && (!r.sum || sum <= r.high + (double)n * 0x1p-25);
}

static void check_floats(struct check *c, enum dump_field f)
{
    const struct dump_shape s = shape_of(c, f);
    const struct range r = range_of(c, f);
    const int64_t rows = s.A * s.B;
    const bool by_position = s.stepped && s.axis_t >= 0;

    c->rows = xrealloc(c->rows, (size_t)(rows * s.W + 1) * sizeof *c->rows);
    for (int64_t step = 0; step < s.S; step++) {
        if (dump_rows(c->d, c->i, f, (int)step, c->rows)) {
            failed(c);
            return;
        }
        const int64_t seen = by_position ? c->pos[step] + 1 : s.W;
        for (int64_t row = 0; row < rows; row++) {
            const char *what;
            if (row_is_whole(c->rows + row * s.W, s.W, seen, r, &what)) continue;
            problem(c, "%s, step %lld, row %lld: %s", dump_field_info(f)->name, (long long)step,
                    (long long)row, what);
            return; /* one line a field */
        }
    }
}

/* [i, j]: error at least 0, cosine within 1, both NaN where j comes before i. */
static void check_reuse(struct check *c)
{
    const int L = c->run->L;
    c->rows = xrealloc(c->rows, (size_t)L * (size_t)L * 2 * sizeof *c->rows);
    for (int step = 0; step < c->n.S; step++) {
        if (dump_rows(c->d, c->i, DUMP_REUSE_ERROR, step, c->rows)) {
            failed(c);
            return;
        }
        for (int i = 0; i < L; i++)
            for (int j = 0; j < L; j++) {
                const float *v = c->rows + 2 * ((size_t)i * (size_t)L + (size_t)j);
                const bool none = isnan(v[0]) && isnan(v[1]);
                const bool good = v[0] >= 0 && isfinite(v[0]) && fabsf(v[1]) <= 1 + 0x1p-10f;
                if (none || (good && j >= i)) continue;
                problem(c, "reuse_error, step %d, [%d, %d]: %g, %g %s", step, i, j, (double)v[0],
                        (double)v[1], j < i ? "instead of NaN" : "is out of range");
                return;
            }
    }
}

/* ---- whole numbers */

/* Each row: values of [low, high), ascending where asked, then nothing but -1 where allowed. */
static void check_rows(struct check *c, enum dump_field f, int64_t low, int64_t high, int rise,
                       bool pads)
{
    const struct dump_shape s = shape_of(c, f);
    c->ints = xrealloc(c->ints, (size_t)(s.A * s.B * s.W + 1) * sizeof *c->ints);
    for (int64_t step = 0; step < s.S; step++) {
        if (dump_ints(c->d, c->i, f, (int)step, c->ints)) {
            failed(c);
            return;
        }
        for (int64_t at = 0; at < s.A * s.B * s.W; at++) {
            const int v = c->ints[at];
            const bool first = at % s.W == 0;
            const int before = first ? 0 : c->ints[at - 1];
            const bool ended = !first && pads && before == -1;
            bool good = v >= low && v < high && !ended;
            if (good && !first && rise >= 0) good = v - (int64_t)before >= rise;
            if (good || (pads && v == -1)) continue;
            problem(c, "%s, step %lld: value %lld is %d; expected %s%lld to %lld%s",
                    dump_field_info(f)->name, (long long)step, (long long)at, v,
                    rise >= 0 ? "ascending " : "", (long long)low, (long long)high - 1,
                    pads ? ", then -1 only" : "");
            return;
        }
    }
}

static void check_text(struct check *c)
{
    uint8_t *text = xmalloc((size_t)c->n.text_bytes + 1);
    int *ends = xmalloc((size_t)c->n.T * sizeof *ends);
    if (dump_text(c->d, c->i, text) || dump_ints(c->d, c->i, DUMP_TEXT_END, 0, ends))
        failed(c);
    else if (ends[c->n.T - 1] != c->n.text_bytes)
        problem(c, "text_end: the last is %d; text has %d bytes", ends[c->n.T - 1],
                c->n.text_bytes);
    else
        check_rows(c, DUMP_TEXT_END, 0, (int64_t)c->n.text_bytes + 1, 0, false);
    free(text);
    free(ends);
}

/* ---- all of it */

static void check_sample(struct check *c)
{
    if (dump_sample(c->d, c->i, &c->n)) {
        failed(c);
        return;
    }
    c->pos = xrealloc(c->pos, (size_t)(c->n.S + 1) * sizeof *c->pos);
    const long before = c->problems;
    check_rows(c, DUMP_TOKENS, 0, c->run->V, -1, false);
    check_rows(c, DUMP_STEP_POS, 0, c->n.T, 1, false);
    if (c->problems > before) return; /* the others are read by them */
    if (dump_ints(c->d, c->i, DUMP_STEP_POS, 0, c->pos)) {
        failed(c);
        return;
    }
    if (c->n.fields >> DUMP_TEXT & 1) check_text(c);
    check_floats(c, DUMP_STEP_NLL);
    for (int f = DUMP_STEP_NLL + 1; f < DUMP_FIELD_COUNT; f++) {
        if (!(c->n.fields >> f & 1)) continue;
        if (f == DUMP_REUSE_ERROR)
            check_reuse(c);
        else if (f == DUMP_TOPK_IDX)
            check_rows(c, DUMP_TOPK_IDX, 0, c->n.T, -1, true);
        else if (f == DUMP_SELECTED_IDX)
            check_rows(c, DUMP_SELECTED_IDX, 0, c->n.T, 1, true);
        else
            check_floats(c, (enum dump_field)f);
    }
    if (c->problems == before) c->samples++;
}

int dump_check(const char *path, FILE *report)
{
    struct check c = {.report = report};
    struct stat st;
    int rc = -1;

    if ((c.d = dump_open(path)) == NULL) {
        fprintf(report, "%s\n", last_failure());
        return -1;
    }
    const bool muted = mute_failures(true); /* what fails is reported, and counted at the end */
    c.run = dump_run(c.d);
    for (c.i = 0; c.i < dump_samples(c.d); c.i++) check_sample(&c);
    mute_failures(muted);

    fprintf(report, "%s: %ld of %d samples whole\n", path, c.samples, dump_samples(c.d));
    if (c.problems)
        fail("%s: is not whole: %ld problem%s in %ld of %d samples", path, c.problems,
             c.problems == 1 ? "" : "s", dump_samples(c.d) - c.samples, dump_samples(c.d));
    else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        fail("%s: is an unfinished run of %d whole samples; go on with --resume", path,
             dump_samples(c.d));
    else
        rc = 0;
    dump_close(c.d);
    free(c.pos);
    free(c.rows);
    free(c.ints);
    return rc;
}
