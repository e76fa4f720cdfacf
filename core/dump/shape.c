/* shape.c - the field table and the shapes that follow from it. */
#include "core/dump/shape.h"
#include "core/dump/dump_write.h"

#include <stdio.h>
#include <string.h>

#define X(id, name, type, shape, unit, what) {name, #type, shape, unit, what},
static const struct dump_field_info fields[DUMP_FIELD_COUNT] = {DUMP_BASICS(X) DUMP_FIELDS(X)};
#undef X

const struct dump_field_info *dump_field_info(enum dump_field f)
{
    return &fields[f];
}

int dump_field_find(const char *name)
{
    for (int f = 0; f < DUMP_FIELD_COUNT; f++)
        if (strcmp(fields[f].name, name) == 0) return f;
    return -1;
}

int dump_rows_of(const struct dump_run *run)
{
    return run->attn_rows && strcmp(run->attn_rows, "kv_head") == 0 ? run->G : run->H;
}

void dump_format_table(FILE *f)
{
    fprintf(f, "| dataset | type | shape | unit | what |\n|---|---|---|---|---|\n");
    for (int i = 0; i < DUMP_FIELD_COUNT; i++) {
        const struct dump_field_info *n = &fields[i];
        fprintf(f, "| `%s` | %s | [", n->name, n->type);
        for (const char *c = n->shape; *c; c++) fprintf(f, "%s%c", c == n->shape ? "" : ", ", *c);
        fprintf(f, "] | %s | %s |\n", n->unit, n->what);
    }
}

static int64_t length_of(char letter, const struct dump_dims *d)
{
    switch (letter) {
    case 'L':
        return d->L;
    case 'G':
        return d->G;
    case 'K':
        return d->K;
    case 'M':
        return d->M;
    case 'T':
        return d->T;
    case 'S':
        return d->S;
    case 'R':
        return d->R;
    case 'k':
        return d->k;
    case 'B':
        return d->B;
    default:
        return letter - '0'; /* '2': a pair */
    }
}

struct dump_shape dump_shape_of(enum dump_field f, const struct dump_dims *d)
{
    const char *letters = fields[f].shape, *t = strchr(letters, 'T');
    struct dump_shape s = {.rank = (int)strlen(letters), .S = 1, .A = 1, .B = 1};
    const int64_t *rest = s.dims;
    int n = s.rank;

    for (int i = 0; i < s.rank; i++) s.dims[i] = length_of(letters[i], d);
    s.axis_t = t ? (int)(t - letters) : -1;
    if (letters[0] == 'S' && n > 1) {
        s.stepped = true;
        s.S = *rest++;
        n--;
    }
    if (n == 3 && letters[s.rank - 1] == '2') { /* [i, j, pair]: a row is all of i's pairs */
        s.B = rest[0];
        s.W = rest[1] * rest[2];
    } else {
        if (n == 3) s.B = rest[1];
        if (n > 1) s.A = rest[0];
        s.W = rest[n - 1];
    }
    return s;
}

enum dump_store dump_store_of(enum dump_field f, bool f32)
{
    const char *type = fields[f].type;
    if (strcmp(type, "I32") == 0) return STORE_I32;
    if (strcmp(type, "U8") == 0) return STORE_U8;
    return strcmp(type, "F16") == 0 && !f32 ? STORE_F16 : STORE_F32;
}

size_t dump_store_size(enum dump_store s)
{
    return s == STORE_U8 ? 1 : s == STORE_F16 ? 2 : 4;
}

/* Splits LENGTH evenly into parts of at most MOST; the length of a part. */
static int64_t even(int64_t length, int64_t most)
{
    if (length < 1) return 1;
    if (most < 1) most = 1;
    int64_t parts = (length + most - 1) / most;
    return (length + parts - 1) / parts;
}

struct dump_chunk dump_chunk_of(const struct dump_shape *shape, size_t size)
{
    /* 128 KiB lets the threads share a step and keeps a chunk inside the second-level cache.
     * Rows split at 16,384 values, so that a run that ends long before its largest T stores little
     * of nothing. */
    const int64_t target = (128 << 10) / (int64_t)size;
    struct dump_chunk c = {1, 1, 1, even(shape->W, 16384)};

    /* A pair lies along an axis of its own: such a row is never split. */
    if (shape->rank == 4 && shape->dims[3] == 2 && shape->axis_t < 0) c.w = shape->W;
    c.b = even(shape->B, target / c.w);
    if (c.b == shape->B) c.a = even(shape->A, target / (c.w * c.b));
    if (c.a == shape->A && c.b == shape->B && c.w == shape->W && shape->stepped)
        c.s = even(shape->S, target / (c.w * c.b * c.a));
    return c;
}

/* Puts one value for each of steps, layers, rows and values where it stands on disk; PAIR is what
 * the axis of a pair gets, after the axis that holds the values. */
static void place(const struct dump_shape *shape, const int64_t v[4], int64_t w, int64_t pair,
                  int64_t out[4])
{
    const int at = shape->stepped ? 1 : 0, n = shape->rank - at;
    const bool pairs = n == 3 && shape->axis_t < 0;
    if (shape->stepped) out[0] = v[0];
    if (pairs) {
        out[at] = v[2];
        out[at + 1] = w;
        out[at + 2] = pair;
        return;
    }
    if (n > 1) out[at] = v[1];
    if (n > 2) out[at + 1] = v[2];
    out[at + n - 1] = w;
}

void dump_chunk_dims(const struct dump_shape *shape, const struct dump_chunk *chunk,
                     int64_t dims[4])
{
    const int64_t v[4] = {chunk->s, chunk->a, chunk->b, chunk->w};
    const bool pairs = shape->rank == 4 && shape->axis_t < 0;
    place(shape, v, pairs ? chunk->w / 2 : chunk->w, 2, dims);
}

void dump_chunk_start(const struct dump_shape *shape, int64_t s, int64_t a, int64_t b, int64_t w,
                      int64_t start[4])
{
    const int64_t v[4] = {s, a, b, w};
    place(shape, v, w, 0, start);
}

double dump_sample_bytes(const struct dump_run *run, const struct dump_options *options, int T,
                         int S, int selected)
{
    const struct dump_dims d = {run->L,   run->G, run->K, run->M, T, S, dump_rows_of(run),
                                selected, 0};
    double bytes = 0;
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) {
        if (f > DUMP_STEP_NLL && !(options->fields >> f & 1)) continue;
        const struct dump_shape s = dump_shape_of((enum dump_field)f, &d);
        double n = (double)dump_store_size(dump_store_of((enum dump_field)f, options->f32));
        for (int i = 0; i < s.rank; i++) n *= (double)s.dims[i];
        bytes += n;
    }
    return bytes;
}
