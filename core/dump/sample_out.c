/* sample_out.c - rows into chunks, chunks into the sample's file. */
#include "core/dump/sample_out.h"
#include "core/base/base.h"
#include "core/dump/codec.h"
#include "core/dump/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rows of the layers that share chunks, over the steps that do: [s, a, B, W] of a chunk's s and a,
 * but all rows and values. Values past a row's end are not set. */
struct stage {
    struct stage *next; /* in the list of idle ones */
    struct out_set *set;
    int64_t step, layer; /* the first */
    int64_t last;        /* step put into */
    int64_t left;        /* rows not put yet */
    int64_t widest;      /* values of the longest row */
    int *n;              /* [s * a * B] values of each row; -1: not put */
    uint8_t *data;
};

/* A dataset being written. */
struct out_set {
    enum dump_field field;
    hid_t id; /* below 0: not recorded */
    enum dump_store store;
    size_t size; /* bytes of an element */
    struct dump_shape shape;
    struct dump_chunk chunk;
    uint32_t fill;       /* element where nothing is put, as its bits */
    int groups;          /* of layers: ceil(A / chunk.a) */
    struct stage **open; /* [groups], NULL where nothing is put yet */
    int *widths;         /* [n_widths] chunks written along W, by step group, then layer group */
    int64_t n_widths;
    struct stage *idle; /* for the next groups */
    hsize_t extent[4];  /* now on disk */
};

struct out_chunk {
    const struct stage *stage;
    int64_t row, value; /* the first */
    size_t bytes;       /* compressed */
    uint8_t *out;
};

enum { BATCH = 64 }; /* chunks compressed before any is written */

struct sample_out {
    char *path, *name, *group_name;
    const struct dump_run *run;
    struct dump_options options;
    struct dump_sample sample;
    char *task;
    int max_T, max_S;
    hid_t file, samples, group;
    struct out_set sets[DUMP_FIELD_COUNT];
    int step; /* the one under way */
    bool failed;
    struct stage **ready; /* [n_ready] full, or past: to be written */
    int n_ready, room_ready;
    size_t ready_bytes;
    struct codec *codecs; /* [n_codecs] one for each thread */
    int n_codecs;
    size_t chunk_bytes; /* of the largest chunk */
    uint8_t *packed;    /* [BATCH] of codec_bound(chunk_bytes) */
    size_t packed_bytes;
};

int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
    if (fd < 0) return -1;
    rc = fsync(fd);
    /* A file system that cannot do this for a folder says EINVAL; nothing better is to be had. */
    if (rc != 0 && errno == EINVAL) rc = 0;
    close(fd);
    return rc;
}

static size_t stage_rows(const struct out_set *f)
{
    return (size_t)(f->chunk.s * f->chunk.a * f->shape.B);
}

static size_t row_bytes(const struct out_set *f)
{
    return (size_t)f->shape.W * f->size;
}

static size_t chunk_bytes(const struct out_set *f)
{
    return (size_t)(f->chunk.s * f->chunk.a * f->chunk.b * f->chunk.w) * f->size;
}

/* ---- writing: ready stages to chunks */

/* Shuffles the chunk's values into the codec's planes and compresses them. */
static void pack(struct codec *c, struct out_chunk *k, size_t room)
{
    const struct stage *g = k->stage;
    const struct out_set *f = g->set;
    const size_t count = chunk_bytes(f) / f->size, w = (size_t)f->chunk.w;
    size_t at = 0;

    codec_fit(c, room);
    for (int64_t s = 0; s < f->chunk.s; s++)
        for (int64_t a = 0; a < f->chunk.a; a++)
            for (int64_t b = k->row; b < k->row + f->chunk.b; b++, at += w) {
                const size_t row = (size_t)((s * f->chunk.a + a) * f->shape.B + b);
                const int64_t n = b < f->shape.B ? g->n[row] - k->value : 0;
                const size_t some = n <= 0 ? 0 : n < f->chunk.w ? (size_t)n : w;
                if (some)
                    codec_shuffle(c->planes + at, count,
                                  g->data + row * row_bytes(f) + (size_t)k->value * f->size, some,
                                  f->size);
                for (size_t p = 0; p < f->size; p++)
                    memset(c->planes + p * count + at + some, (int)(f->fill >> (8 * p) & 0xff),
                           w - some);
            }
    k->bytes =
        codec_pack(c, count, f->size, f->store == STORE_F16 || f->store == STORE_F32, k->out);
}

/* Makes work space for THREADS threads. */
static void prepare(struct sample_out *o, int threads)
{
    const size_t bound = codec_bound(o->chunk_bytes);
    if (threads > o->n_codecs) {
        o->codecs = xrealloc(o->codecs, (size_t)threads * sizeof *o->codecs);
        memset(o->codecs + o->n_codecs, 0, (size_t)(threads - o->n_codecs) * sizeof *o->codecs);
        o->n_codecs = threads;
    }
    if (o->packed_bytes < BATCH * bound) {
        free(o->packed);
        o->packed = xmalloc(o->packed_bytes = BATCH * bound);
    }
}

/* Compresses N chunks with all threads, then writes them in order. */
static int write_chunks(struct sample_out *o, struct out_chunk *chunks, int n)
{
    const size_t bound = codec_bound(o->chunk_bytes);
    const int threads = omp_get_max_threads();

    prepare(o, threads);
    for (int i = 0; i < n; i++) chunks[i].out = o->packed + (size_t)i * bound;

#pragma omp parallel for schedule(dynamic) num_threads(threads) if (n > 1)
    for (int i = 0; i < n; i++) pack(&o->codecs[omp_get_thread_num()], &chunks[i], o->chunk_bytes);

    for (int i = 0; i < n; i++) {
        const struct stage *g = chunks[i].stage;
        int64_t start[4];
        hsize_t offset[4];
        dump_chunk_start(&g->set->shape, g->step, g->layer, chunks[i].row, chunks[i].value, start);
        for (int d = 0; d < g->set->shape.rank; d++) offset[d] = (hsize_t)start[d];
        errno = 0;
        if (H5Dwrite_chunk(g->set->id, H5P_DEFAULT, 0, offset, chunks[i].bytes, chunks[i].out) < 0)
            return h5_write_failed(o->name);
    }
    return 0;
}

/* Makes the dataset's S and T large enough for G. They only grow until the sample ends. */
static int grow(struct sample_out *o, const struct stage *g)
{
    struct out_set *f = g->set;
    bool more = false;
    if (f->shape.stepped && f->extent[0] < (hsize_t)g->last + 1) {
        f->extent[0] = (hsize_t)g->last + 1;
        more = true;
    }
    if (f->shape.axis_t >= 0 && f->extent[f->shape.axis_t] < (hsize_t)g->widest) {
        f->extent[f->shape.axis_t] = (hsize_t)g->widest;
        more = true;
    }
    errno = 0;
    return more && H5Dset_extent(f->id, f->extent) < 0 ? h5_write_failed(o->name) : 0;
}

/* Remembers that the chunks of G are written, as far as its longest row goes. */
static void mark(const struct stage *g)
{
    struct out_set *f = g->set;
    const int64_t at = g->step / f->chunk.s * f->groups + g->layer / f->chunk.a;
    if (at >= f->n_widths) {
        const int64_t n = at + 1 + f->n_widths;
        f->widths = xrealloc(f->widths, (size_t)n * sizeof *f->widths);
        memset(f->widths + f->n_widths, 0, (size_t)(n - f->n_widths) * sizeof *f->widths);
        f->n_widths = n;
    }
    f->widths[at] = (int)((g->widest + f->chunk.w - 1) / f->chunk.w);
}

/* Writes the chunks of F that nothing was put into: HDF5 takes long to tell that a chunk is missing
 * from that it is damaged. They are all alike. */
static int write_missing(struct sample_out *o, struct out_set *f)
{
    const int axis = f->shape.axis_t;
    const int64_t steps = f->shape.stepped ? (int64_t)f->extent[0] : 1;
    const int64_t values = axis >= 0 ? (int64_t)f->extent[axis] : f->shape.W;
    const int64_t groups = (steps + f->chunk.s - 1) / f->chunk.s * f->groups;
    const size_t count = chunk_bytes(f) / f->size;
    size_t bytes = 0;

    for (int64_t at = 0; at < groups; at++)
        for (int64_t w = at < f->n_widths ? f->widths[at] * f->chunk.w : 0; w < values;
             w += f->chunk.w)
            for (int64_t b = 0; b < f->shape.B; b += f->chunk.b) {
                int64_t start[4];
                hsize_t offset[4];
                if (bytes == 0) {
                    prepare(o, 1);
                    codec_fit(&o->codecs[0], o->chunk_bytes);
                    for (size_t p = 0; p < f->size; p++)
                        memset(o->codecs[0].planes + p * count, (int)(f->fill >> (8 * p) & 0xff),
                               count);
                    bytes = codec_pack(&o->codecs[0], count, f->size, false, o->packed);
                }
                dump_chunk_start(&f->shape, at / f->groups * f->chunk.s,
                                 at % f->groups * f->chunk.a, b, w, start);
                for (int d = 0; d < f->shape.rank; d++) offset[d] = (hsize_t)start[d];
                errno = 0;
                if (H5Dwrite_chunk(f->id, H5P_DEFAULT, 0, offset, bytes, o->packed) < 0)
                    return h5_write_failed(o->name);
            }
    return 0;
}

/* Writes all that is ready. */
static int drain(struct sample_out *o)
{
    struct out_chunk chunks[BATCH];
    int n = 0, rc = 0;

    for (int i = 0; i < o->n_ready && rc == 0; i++) {
        const struct stage *g = o->ready[i];
        const struct out_set *f = g->set;
        rc = grow(o, g);
        for (int64_t b = 0; b < f->shape.B; b += f->chunk.b)
            for (int64_t w = 0; w < g->widest && rc == 0; w += f->chunk.w) {
                chunks[n++] = (struct out_chunk){.stage = g, .row = b, .value = w};
                if (n < BATCH) continue;
                rc = write_chunks(o, chunks, n);
                n = 0;
            }
    }
    if (rc == 0 && n) rc = write_chunks(o, chunks, n);
    for (int i = 0; i < o->n_ready; i++) {
        struct out_set *f = o->ready[i]->set;
        mark(o->ready[i]);
        o->ready[i]->next = f->idle;
        f->idle = o->ready[i];
    }
    o->n_ready = 0;
    o->ready_bytes = 0;
    return rc;
}

static int retire(struct sample_out *o, struct out_set *f, int group)
{
    struct stage *g = f->open[group];
    f->open[group] = NULL;
    if (o->n_ready == o->room_ready) {
        o->room_ready = 2 * o->room_ready + 16;
        o->ready = xrealloc(o->ready, (size_t)o->room_ready * sizeof *o->ready);
    }
    o->ready[o->n_ready++] = g;
    o->ready_bytes += stage_rows(f) * row_bytes(f);
    /* 4 MiB keep many threads busy and amortise waking them; it is 10 steps of mass and score of 12
     * layers over 8,000 tokens. */
    return o->ready_bytes >= 4 << 20 ? drain(o) : 0;
}

/* Retires what belongs to steps before STEP. */
static int retire_before(struct sample_out *o, int64_t step, bool all)
{
    for (int i = 0; i < DUMP_FIELD_COUNT; i++) {
        struct out_set *f = &o->sets[i];
        for (int g = 0; f->id >= 0 && g < f->groups; g++)
            if (f->open[g] &&
                (all || (f->shape.stepped && f->open[g]->step + f->chunk.s <= step)) &&
                retire(o, f, g))
                return -1;
    }
    return 0;
}

/* ---- taking rows */

static struct stage *stage_at(struct out_set *f, int64_t step, int64_t layer)
{
    const int group = (int)(layer / f->chunk.a);
    const size_t rows = stage_rows(f);
    struct stage *g = f->open[group];
    if (g) return g;
    if ((g = f->idle) != NULL) {
        f->idle = g->next;
    } else {
        g = xcalloc(1, sizeof *g);
        g->n = xmalloc(rows * sizeof *g->n);
        g->data = xmalloc(rows * row_bytes(f));
    }
    g->set = f;
    g->step = step - step % f->chunk.s;
    g->layer = layer - layer % f->chunk.a;
    g->last = 0;
    g->widest = 0;
    const int64_t layers = f->shape.A - g->layer < f->chunk.a ? f->shape.A - g->layer : f->chunk.a;
    const int64_t steps = f->shape.S - g->step < f->chunk.s ? f->shape.S - g->step : f->chunk.s;
    g->left = steps * layers * f->shape.B;
    for (size_t r = 0; r < rows; r++) g->n[r] = -1;
    f->open[group] = g;
    return g;
}

enum kind { FLOATS, HALVES, INTS };

static int put(struct sample_out *o, enum dump_field field, int step, int layer, int row,
               const void *values, int n, enum kind kind)
{
    const char *name = dump_field_info(field)->name;
    struct out_set *f = &o->sets[field];

    if (o->failed) return fail("%s: the sample has failed before", o->name);
    o->failed = true; /* until the row is in */
    if (f->id < 0) return fail("%s: %s is not recorded in this run", o->name, name);
    if (kind == HALVES ? f->store != STORE_F16 : (kind == INTS) != (f->store == STORE_I32))
        return fail("%s: %s is not a field of %s", o->name, name,
                    kind == INTS     ? "whole numbers"
                    : kind == HALVES ? "2-byte floats"
                                     : "floats");
    if (!f->shape.stepped) step = 0;
    if (step < 0 || step >= f->shape.S || layer < 0 || layer >= f->shape.A || row < 0 ||
        row >= f->shape.B || n < 0 || n > f->shape.W)
        return fail("%s: %s: step %d, layer %d, row %d of %d values does not fit %lld steps, %lld "
                    "layers, %lld rows of %lld",
                    o->name, name, step, layer, row, n, (long long)f->shape.S,
                    (long long)f->shape.A, (long long)f->shape.B, (long long)f->shape.W);
    if (f->shape.stepped && step != o->step) {
        if (step < o->step)
            return fail("%s: %s: step %d comes after step %d", o->name, name, step, o->step);
        if (retire_before(o, step, false)) return -1;
        o->step = step;
    }

    struct stage *g = stage_at(f, step, layer);
    const size_t at =
        (size_t)(((step - g->step) * f->chunk.a + layer - g->layer) * f->shape.B + row);
    uint8_t *to = g->data + at * row_bytes(f);
    if (g->n[at] >= 0)
        return fail("%s: %s: step %d, layer %d, row %d is put twice", o->name, name, step, layer,
                    row);
    if (f->store == STORE_F16 && kind == FLOATS)
        codec_halves((uint16_t *)(void *)to, values, (size_t)n);
    else if (n)
        memcpy(to, values, (size_t)n * f->size);
    g->n[at] = n;
    if (n > g->widest) g->widest = n;
    if (step > g->last) g->last = step;
    if (--g->left == 0 && retire(o, f, (int)(layer / f->chunk.a))) return -1;
    o->failed = false;
    return 0;
}

int sample_out_put(struct sample_out *o, enum dump_field field, int step, int layer, int row,
                   const float *values, int n)
{
    return put(o, field, step, layer, row, values, n, FLOATS);
}

int sample_out_put_halves(struct sample_out *o, enum dump_field field, int step, int layer, int row,
                          const uint16_t *values, int n)
{
    return put(o, field, step, layer, row, values, n, HALVES);
}

int sample_out_put_int(struct sample_out *o, enum dump_field field, int step, int layer,
                       const int *values, int n)
{
    return put(o, field, step, layer, 0, values, n, INTS);
}

/* ---- the file */

static uint32_t fill_of(enum dump_field f)
{
    if (f == DUMP_TOPK_IDX || f == DUMP_SELECTED_IDX) return UINT32_MAX; /* -1 */
    return f == DUMP_REUSE_ERROR ? 0x7fc00000 : 0;                       /* NaN */
}

/* Creates the dataset of FIELD. What grows starts at 0 and may grow to its largest. */
static int set_open(struct sample_out *o, enum dump_field field, const struct dump_dims *d)
{
    struct out_set *f = &o->sets[field];
    hid_t create = H5Pcreate(H5P_DATASET_CREATE), space = -1, type = -1;
    const int n = (f->shape = dump_shape_of(field, d)).rank;
    int64_t dims[4];
    hsize_t most[4], chunk[4];

    f->field = field;
    f->store = dump_store_of(field, o->options.f32);
    f->size = dump_store_size(f->store);
    f->chunk = dump_chunk_of(&f->shape, f->size);
    f->fill = fill_of(field);
    f->groups = (int)((f->shape.A + f->chunk.a - 1) / f->chunk.a);
    f->open = xcalloc((size_t)f->groups + 1, sizeof *f->open);
    dump_chunk_dims(&f->shape, &f->chunk, dims);
    for (int i = 0; i < n; i++) {
        chunk[i] = (hsize_t)dims[i];
        f->extent[i] = most[i] = (hsize_t)f->shape.dims[i];
        if ((f->shape.stepped && i == 0) || i == f->shape.axis_t) f->extent[i] = 0;
        if (n == 1) f->extent[i] = most[i];
        if (chunk[i] > most[i] && most[i]) chunk[i] = most[i];
    }
    if (chunk_bytes(f) > o->chunk_bytes) o->chunk_bytes = chunk_bytes(f);

    type = h5_type(f->store);
    space = H5Screate_simple(n, f->extent, most);
    errno = 0;
    if (type >= 0 && space >= 0 && H5Pset_chunk(create, n, chunk) >= 0 &&
        H5Pset_fill_value(create,
                          f->store == STORE_F16 ? H5T_NATIVE_FLOAT : h5_memory_type(f->store),
                          &f->fill) >= 0 &&
        H5Pset_shuffle(create) >= 0 && H5Pset_deflate(create, 1) >= 0 &&
        H5Pset_obj_track_times(create, false) >= 0)
        f->id = H5Dcreate2(o->group, dump_field_info(field)->name, type, space, H5P_DEFAULT, create,
                           H5P_DEFAULT);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    H5Pclose(create);
    return f->id < 0 ? h5_write_failed(o->name) : 0;
}

/* false when HDF5 could not write what it still held. */
static bool set_close(struct out_set *f)
{
    bool whole = true;
    for (int g = 0; f->open && g < f->groups; g++) {
        if (f->open[g] == NULL) continue;
        f->open[g]->next = f->idle;
        f->idle = f->open[g];
    }
    while (f->idle) {
        struct stage *g = f->idle;
        f->idle = g->next;
        free(g->n);
        free(g->data);
        free(g);
    }
    free(f->open);
    free(f->widths);
    f->widths = NULL;
    f->n_widths = 0;
    if (f->id >= 0 && H5Dclose(f->id) < 0) whole = false;
    f->open = NULL;
    f->id = -1;
    return whole;
}

/* Writes one of the basic fields, whose N values are known at the end. */
static int put_basic(struct sample_out *o, enum dump_field field, const struct dump_dims *d,
                     const void *values)
{
    struct out_set *f = &o->sets[field];
    if (set_open(o, field, d)) return -1;
    if (f->shape.W == 0) return 0;
    struct stage *g = stage_at(f, 0, 0);
    memcpy(g->data, values, row_bytes(f));
    g->n[0] = (int)f->shape.W;
    g->widest = f->shape.W;
    return retire(o, f, 0);
}

static int put_attributes(struct sample_out *o, const struct dump_sample_end *end)
{
    const struct dump_run *run = o->run;
    char hash[17];
    int rc = 0;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)o->sample.prompt_hash);
    rc |= h5_put_string(o->group, "task", o->task);
    rc |= h5_put_string(o->group, "prompt_hash", hash);
    rc |= h5_put_int(o->group, "n_prefill", o->sample.n_prefill);
    rc |= h5_put_string(o->group, "output", end->output);
    rc |= h5_put_string(o->group, "answers", end->answers);
    if (o->sets[DUMP_SELECTED_IDX].id >= 0)
        rc |= h5_put_ints(o->sets[DUMP_SELECTED_IDX].id, "layers", run->layers, run->M);
    if (o->sets[DUMP_REUSE_ERROR].id >= 0)
        rc |= h5_put_int(o->sets[DUMP_REUSE_ERROR].id, "k", run->reuse_k);
    if (o->sets[DUMP_ATTN].id >= 0)
        rc |= h5_put_string(o->sets[DUMP_ATTN].id, "pooling", run->attn_rows);
    return rc ? h5_write_failed(o->name) : 0;
}

struct sample_out *sample_out_open(const char *path, const char *name, int index,
                                   const struct dump_run *run, const struct dump_options *options,
                                   const struct dump_sample *sample, int max_T, int max_S,
                                   int max_selected)
{
    const struct dump_dims d = {
        run->L, run->G, run->K, run->M, max_T, max_S, dump_rows_of(run), max_selected, 0};
    struct sample_out *o = xcalloc(1, sizeof *o);

    o->path = xstrdup(path);
    o->name = xstrdup(name);
    o->group_name = xprintf("%06d", index);
    o->task = xstrdup(sample->task ? sample->task : "");
    o->run = run;
    o->options = *options;
    o->sample = *sample;
    o->max_T = max_T;
    o->max_S = max_S;
    o->samples = o->group = -1;
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) o->sets[f].id = -1;
    errno = 0;
    if ((o->file = h5_create_file(path)) < 0 ||
        h5_put_run(o->file, run, options->fields, options->f32) ||
        (o->samples = h5_create_group(o->file, "samples")) < 0 ||
        (o->group = h5_create_group(o->samples, o->group_name)) < 0) {
        h5_write_failed(name);
        goto failed;
    }
    for (int f = DUMP_STEP_NLL + 1; f < DUMP_FIELD_COUNT; f++)
        if (options->fields >> f & 1 && set_open(o, (enum dump_field)f, &d)) goto failed;
    return o;

failed:
    sample_out_abandon(o);
    return NULL;
}

/* Closes everything in the file; false when HDF5 could not write all of it. */
static bool close_file(struct sample_out *o)
{
    bool whole = true;
    for (int f = 0; f < DUMP_FIELD_COUNT; f++)
        if (!set_close(&o->sets[f])) whole = false;
    if (o->group >= 0 && H5Gclose(o->group) < 0) whole = false;
    if (o->samples >= 0 && H5Gclose(o->samples) < 0) whole = false;
    if (o->file >= 0 && H5Fclose(o->file) < 0) whole = false;
    o->group = o->samples = o->file = -1;
    return whole;
}

void sample_out_abandon(struct sample_out *o)
{
    if (o == NULL) return;
    if (o->file >= 0 || o->group >= 0) {
        close_file(o);
        unlink(o->path);
    }
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) set_close(&o->sets[f]);
    for (int i = 0; i < o->n_ready; i++) {
        free(o->ready[i]->n);
        free(o->ready[i]->data);
        free(o->ready[i]);
    }
    for (int i = 0; i < o->n_codecs; i++) codec_close(&o->codecs[i]);
    free(o->codecs);
    free(o->ready);
    free(o->packed);
    free(o->path);
    free(o->name);
    free(o->group_name);
    free(o->task);
    free(o);
}

/* Checks END against what was put, and cuts each dataset to exactly that. */
static int end_fields(struct sample_out *o, const struct dump_sample_end *end)
{
    if (end->T < 1 || end->T > o->max_T || end->S < 0 || end->S > o->max_S)
        return fail("%s: the sample ends with %d tokens and %d steps, expected at most %d and %d",
                    o->name, end->T, end->S, o->max_T, o->max_S);
    for (int i = 0; i < DUMP_FIELD_COUNT; i++) {
        struct out_set *f = &o->sets[i];
        const int t = f->shape.axis_t;
        if (f->id < 0) continue;
        if ((f->shape.stepped && f->extent[0] > (hsize_t)end->S) ||
            (t >= 0 && f->extent[t] > (hsize_t)end->T))
            return fail("%s: %s has rows past the sample's %d steps of %d tokens", o->name,
                        dump_field_info(f->field)->name, end->S, end->T);
        if (f->shape.stepped) f->extent[0] = (hsize_t)end->S;
        if (t >= 0) f->extent[t] = (hsize_t)end->T;
        errno = 0;
        if (H5Dset_extent(f->id, f->extent) < 0) return h5_write_failed(o->name);
        if (write_missing(o, f)) return -1;
    }
    return 0;
}

int sample_out_finish(struct sample_out *o, const struct dump_sample_end *end)
{
    struct dump_dims d = {.T = end->T, .S = end->S};
    int rc = -1;

    if (o->failed) {
        fail("%s: the sample has failed before", o->name);
        goto done;
    }
    if (retire_before(o, 0, true) || drain(o) || end_fields(o, end)) goto done;
    if (put_basic(o, DUMP_TOKENS, &d, end->tokens) ||
        put_basic(o, DUMP_STEP_POS, &d, end->step_pos) ||
        put_basic(o, DUMP_STEP_NLL, &d, end->step_nll))
        goto done;
    if (end->text) {
        d.B = end->text_end[end->T - 1];
        if (put_basic(o, DUMP_TEXT, &d, end->text) ||
            put_basic(o, DUMP_TEXT_END, &d, end->text_end))
            goto done;
    }
    if (drain(o) || put_attributes(o, end)) goto done;
    errno = 0;
    if (!close_file(o) || sync_path(o->path)) {
        h5_write_failed(o->name);
        unlink(o->path);
        goto done;
    }
    rc = 0;

done:
    sample_out_abandon(o);
    return rc;
}
