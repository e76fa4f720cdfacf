/* set_in.c - chunks from the file to values in memory. */
#include "core/dump/set_in.h"
#include "core/base/base.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_CHUNK = 64 << 20,  /* bytes of a chunk that is decoded here; HDF5 reads larger ones */
    MOST_STEPS = 64 << 20,  /* bytes of decoded steps that are kept */
    IN_FLIGHT = 16 << 20,   /* bytes of compressed chunks, about */
    MOST_FOREIGN = 1 << 28, /* bytes of a chunk that HDF5 reads */
};

void set_space_close(struct set_space *w)
{
    for (int i = 0; i < w->n_codecs; i++) codec_close(&w->codecs[i]);
    free(w->codecs);
    free(w->packed);
    memset(w, 0, sizeof *w);
}

/* Bytes of one value in memory: 4, or 1 for text. */
static size_t set_in_size(const struct set_in *f)
{
    return dump_store_of(f->field, true) == STORE_U8 ? 1 : 4;
}

static size_t chunk_values(const struct set_in *f)
{
    return (size_t)(f->chunk.s * f->chunk.a * f->chunk.b * f->chunk.w);
}

/* ---- opening */

/* Whether type T is exactly one of those the writer uses; *STORE says which. */
static bool known_type(hid_t t, enum dump_store *store)
{
    for (int s = STORE_F16; s <= STORE_U8; s++) {
        hid_t ours = h5_type((enum dump_store)s);
        const bool same = H5Tequal(t, ours) > 0;
        H5Tclose(ours);
        if (same) {
            *store = (enum dump_store)s;
            return true;
        }
    }
    return false;
}

/* Whether the filters are at most one shuffle and then at most one deflate. */
static bool known_filters(hid_t create, struct set_in *f)
{
    const int n = H5Pget_nfilters(create);
    f->shuffle = f->deflate = -1;
    for (int i = 0; i < n; i++) {
        unsigned flags, config;
        size_t parameters = 0;
        H5Z_filter_t z =
            H5Pget_filter2(create, (unsigned)i, &flags, &parameters, NULL, 0, NULL, &config);
        if (z == H5Z_FILTER_SHUFFLE && f->shuffle < 0 && f->deflate < 0)
            f->shuffle = i;
        else if (z == H5Z_FILTER_DEFLATE && f->deflate < 0)
            f->deflate = i;
        else
            return false;
    }
    return n >= 0;
}

/* Takes the chunk dimensions over as [s, a, b, w]; false when they cannot be seen so. */
static bool known_chunk(const hsize_t *d, struct set_in *f)
{
    const struct dump_shape *s = &f->shape;
    const int at = s->stepped ? 1 : 0, n = s->rank - at;
    const bool pairs = n == 3 && s->axis_t < 0;
    struct dump_chunk *c = &f->chunk;

    *c = (struct dump_chunk){1, 1, 1, 1};
    if (s->stepped) c->s = (int64_t)d[0];
    if (pairs) {
        c->b = (int64_t)d[at];
        c->w = (int64_t)(d[at + 1] * d[at + 2]);
        return (int64_t)d[at + 1] == s->dims[at + 1] && (int64_t)d[at + 2] == s->dims[at + 2];
    }
    if (n > 1) c->a = (int64_t)d[at];
    if (n > 2) c->b = (int64_t)d[at + 1];
    c->w = (int64_t)d[at + n - 1];
    return true;
}

/* Decides whether the chunks can be read past HDF5's filters. -1 after fail() for a layout that is
 * refused. */
static int look_at_layout(struct set_in *f, const char *name, hid_t create, hid_t type)
{
    const char *field = dump_field_info(f->field)->name;
    const H5D_layout_t layout = H5Pget_layout(create);
    hsize_t d[4] = {0};
    double bytes = (double)H5Tget_size(type);

    f->direct = false;
    if ((layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT) ||
        H5Pget_external_count(create) != 0)
        return fail("%s: %s: data outside the file is not supported", name, field);
    if (layout != H5D_CHUNKED) return 0;
    if (H5Pget_chunk(create, f->shape.rank, d) != f->shape.rank)
        return fail("%s: %s is damaged: no chunk shape", name, field);
    for (int i = 0; i < f->shape.rank; i++) bytes *= (double)d[i];
    if (bytes < 1 || bytes > MOST_FOREIGN)
        return fail("%s: %s: chunks of %.0f bytes are not supported", name, field, bytes);
    if (bytes > MOST_CHUNK || !known_chunk(d, f) || !known_type(type, &f->store) ||
        !known_filters(create, f))
        return 0;
    if (f->chunk.s > 1 && (double)f->chunk.s * (double)f->shape.A * (double)f->shape.B *
                                  (double)f->shape.W * (double)set_in_size(f) >
                              MOST_STEPS)
        return 0;
    f->direct =
        (f->store == STORE_I32) == (dump_store_of(f->field, true) == STORE_I32) &&
        (f->store == STORE_U8) == (dump_store_of(f->field, true) == STORE_U8) &&
        H5Pget_fill_value(create, h5_memory_type(dump_store_of(f->field, true)), &f->fill) >= 0;
    return 0;
}

int set_in_open(struct set_in *f, const char *name, hid_t at, enum dump_field field,
                int64_t dims[4])
{
    const struct dump_field_info *info = dump_field_info(field);
    const int rank = (int)strlen(info->shape);
    const bool floats = dump_store_of(field, true) == STORE_F32;
    hid_t space = -1, type = -1;
    hsize_t d[4];
    int rc = -1;

    *f = (struct set_in){.id = -1, .field = field, .first = -1};
    if (H5Lexists(at, info->name, H5P_DEFAULT) <= 0) return 0;
    if ((f->id = h5_open_set(at, info->name)) < 0)
        return fail("%s: %s is damaged, or not a dataset of this file", name, info->name);
    space = H5Dget_space(f->id);
    type = H5Dget_type(f->id);
    if (space < 0 || type < 0 || H5Sget_simple_extent_ndims(space) != rank ||
        H5Sget_simple_extent_dims(space, d, NULL) != rank) {
        fail("%s: %s: expected %d dimensions, found something else", name, info->name, rank);
        goto done;
    }
    if (H5Tget_class(type) != (floats ? H5T_FLOAT : H5T_INTEGER) || H5Tget_size(type) > 8) {
        fail("%s: %s: expected %s, found another type", name, info->name,
             floats ? "floats" : "whole numbers");
        goto done;
    }
    for (int i = 0; i < rank; i++) {
        if (d[i] > 1 << 30) {
            fail("%s: %s: a dimension of %llu is not supported", name, info->name,
                 (unsigned long long)d[i]);
            goto done;
        }
        dims[i] = (int64_t)d[i];
    }
    rc = 0;

done:
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (rc) set_in_close(f);
    return rc;
}

int set_in_check(struct set_in *f, const char *name, const struct dump_dims *wanted)
{
    const char *field = dump_field_info(f->field)->name;
    hid_t space = H5Dget_space(f->id), create = H5Dget_create_plist(f->id);
    hid_t type = H5Dget_type(f->id);
    hsize_t d[4] = {0};
    double bytes = type >= 0 ? (double)H5Tget_size(type) : 0;
    const double stored = (double)H5Dget_storage_size(f->id);
    int rc = -1;

    f->shape = dump_shape_of(f->field, wanted);
    if (space < 0 || create < 0 || type < 0 ||
        H5Sget_simple_extent_dims(space, d, NULL) != f->shape.rank) {
        fail("%s: %s is damaged", name, field);
        goto done;
    }
    for (int i = 0; i < f->shape.rank; i++) {
        if ((int64_t)d[i] != f->shape.dims[i]) {
            fail("%s: %s: dimension %d: expected %lld, found %llu", name, field, i,
                 (long long)f->shape.dims[i], (unsigned long long)d[i]);
            goto done;
        }
        bytes *= (double)d[i];
    }
    /* Deflate shrinks at most 1,032 times, and rows end early where the context is short at first.
     * A file that claims more would have its reader allocate what is not there. */
    if (bytes > 4096 * (stored + 65536)) {
        fail("%s: %s: %.0f bytes of values cannot come from the %.0f stored", name, field, bytes,
             stored);
        goto done;
    }
    rc = look_at_layout(f, name, create, type);

done:
    if (space >= 0) H5Sclose(space);
    if (create >= 0) H5Pclose(create);
    if (type >= 0) H5Tclose(type);
    return rc;
}

void set_in_close(struct set_in *f)
{
    if (f->id >= 0) H5Dclose(f->id);
    free(f->steps);
    f->steps = NULL;
    f->id = -1;
}

/* ---- reading */

/* A chunk on its way into memory. */
struct in_chunk {
    const struct set_in *set;
    int64_t s, a, b, w; /* where it starts */
    uint32_t skipped;   /* filters that were not applied to it */
    size_t bytes;       /* 0: there is none, values are the fill */
    const uint8_t *packed;
};

/* N values of the chunk, from value AT on, to OUT. */
static void convert(const struct set_in *f, const uint8_t *bytes, bool shuffled, size_t count,
                    size_t at, size_t n, uint8_t *out)
{
    const size_t size = dump_store_size(f->store);
    if (shuffled && f->store == STORE_F16) {
        codec_floats_unshuffle((float *)(void *)out, bytes + at, bytes + count + at, n);
    } else if (shuffled) {
        codec_unshuffle(out, bytes + at, count, n, size);
    } else if (f->store == STORE_F16) {
        codec_floats((float *)(void *)out, (const uint16_t *)(const void *)(bytes + 2 * at), n);
    } else {
        memcpy(out, bytes + size * at, n * size);
    }
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Decodes K into OUT, which holds [s, A, B, W] from step k->s on. */
static int decode(struct codec *c, const struct in_chunk *k, uint8_t *out)
{
    const struct set_in *f = k->set;
    const struct dump_shape *n = &f->shape;
    const size_t count = chunk_values(f), raw = count * dump_store_size(f->store);
    const size_t size = set_in_size(f);
    const bool shuffled = f->shuffle >= 0 && !(k->skipped >> f->shuffle & 1);
    const uint8_t *bytes = k->packed;

    if (k->bytes && f->deflate >= 0 && !(k->skipped >> f->deflate & 1)) {
        codec_fit(c, raw);
        if (codec_unpack(c, k->packed, k->bytes, raw)) return -1;
        bytes = c->planes;
    } else if (k->bytes && k->bytes != raw) {
        return -1;
    }
    const size_t some = (size_t)least(f->chunk.w, n->W - k->w);
    for (int64_t s = 0; s < f->chunk.s && k->s + s < n->S; s++)
        for (int64_t a = k->a; a < k->a + f->chunk.a && a < n->A; a++)
            for (int64_t b = k->b; b < k->b + f->chunk.b && b < n->B; b++) {
                const size_t row = (size_t)((s * f->chunk.a + a - k->a) * f->chunk.b + b - k->b);
                uint8_t *to =
                    out +
                    ((size_t)((s * n->A + a) * n->B + b) * (size_t)n->W + (size_t)k->w) * size;
                if (k->bytes) {
                    convert(f, bytes, shuffled, count, row * (size_t)f->chunk.w, some, to);
                } else if (size == 1) {
                    memset(to, (int)(f->fill & 0xff), some);
                } else {
                    for (size_t i = 0; i < some; i++) memcpy(to + 4 * i, &f->fill, 4);
                }
            }
    return 0;
}

/* Reads K as it is stored to the end of the chunks in flight. Only HDF5's thread calls this. */
static int fetch(struct in_chunk *k, struct set_space *w, size_t *used)
{
    const size_t raw = chunk_values(k->set) * dump_store_size(k->set->store);
    int64_t start[4];
    hsize_t offset[4], bytes;

    dump_chunk_start(&k->set->shape, k->s, k->a, k->b, k->w, start);
    for (int i = 0; i < k->set->shape.rank; i++) offset[i] = (hsize_t)start[i];
    k->bytes = 0;
    if (h5_chunk_bytes(k->set->id, offset, &bytes)) return -1;
    if (bytes == 0) return 0; /* nothing was put there */
    if (bytes > codec_bound(raw)) return -1;
    k->packed = w->packed + *used;
    if (H5Dread_chunk(k->set->id, H5P_DEFAULT, offset, &k->skipped, w->packed + *used) < 0)
        return -1;
    k->bytes = (size_t)bytes;
    *used += k->bytes;
    return 0;
}

/* Decodes all chunks that start at step FIRST into OUT ([chunk.s, A, B, W]): this thread fetches
 * one after the other, the others decode what is there, and so does this one at the end. */
static int read_direct(struct set_in *f, struct set_space *w, int64_t first, uint8_t *out)
{
    const struct dump_shape *n = &f->shape;
    const struct dump_chunk *c = &f->chunk;
    const size_t bound = codec_bound(chunk_values(f) * dump_store_size(f->store));
    const size_t flight = IN_FLIGHT > bound ? IN_FLIGHT : bound;
    const int64_t na = (n->A + c->a - 1) / c->a, nb = (n->B + c->b - 1) / c->b,
                  nw = (n->W + c->w - 1) / c->w, total = na * nb * nw;
    const int threads = omp_get_max_threads();
    int64_t next = 0;
    bool good = true;

    if (threads > w->n_codecs) {
        w->codecs = xrealloc(w->codecs, (size_t)threads * sizeof *w->codecs);
        memset(w->codecs + w->n_codecs, 0, (size_t)(threads - w->n_codecs) * sizeof *w->codecs);
        w->n_codecs = threads;
    }
    if (w->packed_bytes < flight) {
        free(w->packed);
        w->packed = xmalloc(w->packed_bytes = flight);
    }
    struct codec *codecs = w->codecs;
    while (next < total && good) {
#pragma omp parallel num_threads(threads) if (total > 1)
#pragma omp master
        {
            size_t used = 0;
            bool whole = true;
            for (; next < total && used + bound <= flight && whole; next++) {
                struct in_chunk k = {.set = f,
                                     .s = first,
                                     .a = next / (nb * nw) * c->a,
                                     .b = next / nw % nb * c->b,
                                     .w = next % nw * c->w};
                whole = fetch(&k, w, &used) == 0;
#pragma omp task firstprivate(k) shared(good, codecs, out) if (whole)
                if (!whole || decode(&codecs[omp_get_thread_num()], &k, out)) {
#pragma omp atomic write
                    good = false;
                }
            }
        }
    }
    return good ? 0 : -1;
}

/* Reads step STEP through HDF5's own filters and conversion. */
static int read_foreign(struct set_in *f, int64_t step, void *out)
{
    hid_t disk = H5Dget_space(f->id), memory = -1;
    hsize_t start[4] = {0}, count[4];
    int rc = -1;

    for (int i = 0; i < f->shape.rank; i++) count[i] = (hsize_t)f->shape.dims[i];
    if (f->shape.stepped) {
        start[0] = (hsize_t)step;
        count[0] = 1;
    }
    memory = H5Screate_simple(f->shape.rank, count, NULL);
    if (disk >= 0 && memory >= 0 &&
        H5Sselect_hyperslab(disk, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
        H5Dread(f->id, h5_memory_type(dump_store_of(f->field, true)), memory, disk, H5P_DEFAULT,
                out) >= 0)
        rc = 0;
    if (memory >= 0) H5Sclose(memory);
    if (disk >= 0) H5Sclose(disk);
    return rc;
}

int set_in_read(struct set_in *f, const char *name, struct set_space *w, int64_t step, void *out)
{
    const size_t bytes =
        (size_t)(f->shape.A * f->shape.B * f->shape.W) * set_in_size(f); /* of a step */
    int rc = 0;

    if (bytes == 0) return 0;
    if (!f->shape.stepped) step = 0;
    if (!f->direct) {
        rc = read_foreign(f, step, out);
    } else if (f->chunk.s == 1) {
        rc = read_direct(f, w, step, out);
    } else {
        const int64_t first = step - step % f->chunk.s;
        if (f->steps == NULL) f->steps = xmalloc((size_t)f->chunk.s * bytes);
        if (f->first != first) rc = read_direct(f, w, first, f->steps);
        f->first = rc ? -1 : first;
        if (rc == 0) memcpy(out, f->steps + (size_t)(step - first) * bytes, bytes);
    }
    if (rc)
        fail("%s: %s, step %lld: is damaged", name, dump_field_info(f->field)->name,
             (long long)step);
    return rc;
}
