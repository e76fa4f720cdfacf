/* safetensors.h - one mapped safetensors file: its tensor table, checked against the file's size.
 *
 * The format: 8 bytes, little endian, the header's length; the header, a JSON object that gives
 * each tensor's dtype, shape and byte range; then the data, which the ranges cover without holes
 * or overlaps. Source: the format description of github.com/huggingface/safetensors.
 */
#ifndef CORE_MODEL_SAFETENSORS_H
#define CORE_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_MAX_RANK 8

struct safetensor {
    const char *name;
    char dtype[12]; /* as the file spells it: "F32", "BF16", "I64" ... */
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    const unsigned char *data; /* aligned to nothing but a byte */
    size_t begin, end;         /* byte range, from the start of the data */
};

struct safetensors {
    char *path;
    struct safetensor *tensor; /* [n], ascending by position in the file */
    int n;
    void *map; /* the whole file, read-only */
    size_t size;
    char *names; /* the text of all names */
};

/* Maps PATH and checks its header. NULL after fail(): not a safetensors file, a length past the
 * file's end, a range that does not fit the shape or the file, overlaps or holes. */
struct safetensors *safetensors_open(const char *path);
void safetensors_close(struct safetensors *s); /* NULL is allowed */

/* "[2, 3]" in TEXT of SIZE bytes, cut where it does not fit. Returns TEXT. */
const char *safetensors_shape(const struct safetensor *t, char *text, size_t size);

#endif
