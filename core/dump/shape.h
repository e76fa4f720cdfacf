/* shape.h - where a field's values lie: its dimensions on disk, and the same as steps, layers, rows
 * and values, which is how writer and reader walk it.
 */
#ifndef CORE_DUMP_SHAPE_H
#define CORE_DUMP_SHAPE_H

#include "core/dump/dump.h"

#include <stddef.h>
#include <stdint.h>

/* What a field is stored as. */
enum dump_store { STORE_F16, STORE_F32, STORE_I32, STORE_U8 };

/* The lengths behind the letters of schema.h. */
struct dump_dims {
    int64_t L, G, K, M, T, S, R, k, B;
};

/* A field as [S, A, B, W]: S steps (1 when the field has no step axis) of A layers of B rows of W
 * values. A row is what dump_put() takes. */
struct dump_shape {
    int rank;
    int64_t dims[4]; /* on disk, slowest first */
    bool stepped;    /* dims[0] is S */
    int axis_t;      /* which of dims is T, -1 for none */
    int64_t S, A, B, W;
};

/* Part of a field that is compressed as one: S, A, B, W of it, at least 1 each. */
struct dump_chunk {
    int64_t s, a, b, w;
};

struct dump_shape dump_shape_of(enum dump_field f, const struct dump_dims *d);

/* The type FIELD is stored in; F32 is the option to store the 2-byte floats in 4. */
enum dump_store dump_store_of(enum dump_field f, bool f32);
size_t dump_store_size(enum dump_store s);

/* The chunk the writer uses for elements of SIZE bytes: whole rows of whole layer groups where they
 * fit, several steps where one is small. */
struct dump_chunk dump_chunk_of(const struct dump_shape *shape, size_t size);

/* Chunk dimensions as they stand on disk. */
void dump_chunk_dims(const struct dump_shape *shape, const struct dump_chunk *chunk,
                     int64_t dims[4]);

/* Where the chunk that starts at step S, layer A, row B, value W lies on disk. */
void dump_chunk_start(const struct dump_shape *shape, int64_t s, int64_t a, int64_t b, int64_t w,
                      int64_t start[4]);

#endif
