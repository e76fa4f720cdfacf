/* join.c - a sample from one file into another. */
#include "core/dump/join.h"
#include "core/base/base.h"
#include "core/dump/h5.h"

#include <errno.h>
#include <stdlib.h>

enum { MOST_TEXT = 64 << 20, MOST_CHUNK = 64 << 20 };

/* Copies all attributes of FROM; none has values outside its own bytes. */
static int copy_attributes(hid_t from, hid_t to)
{
    const int n = H5Aget_num_attrs(from);
    int rc = n >= 0 ? 0 : -1;
    for (int i = 0; rc == 0 && i < n; i++) {
        hid_t a = H5Aopen_by_idx(from, ".", H5_INDEX_NAME, H5_ITER_INC, (hsize_t)i, H5P_DEFAULT,
                                 H5P_DEFAULT);
        hid_t type = H5Aget_type(a), space = H5Aget_space(a), b = -1;
        const hsize_t bytes = H5Aget_storage_size(a);
        char name[64];
        rc = -1;
        if (a >= 0 && H5Aget_name(a, sizeof name, name) > 0 && bytes <= MOST_TEXT &&
            H5Tdetect_class(type, H5T_VLEN) == 0 && H5Tis_variable_str(type) <= 0) {
            char *value = xcalloc((size_t)bytes + 1, 1);
            b = H5Acreate2(to, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
            if (b >= 0 && H5Aread(a, type, value) >= 0 && H5Awrite(b, type, value) >= 0) rc = 0;
            free(value);
        }
        if (b >= 0) H5Aclose(b);
        if (space >= 0) H5Sclose(space);
        if (type >= 0) H5Tclose(type);
        if (a >= 0) H5Aclose(a);
    }
    return rc;
}

/* Copies the chunks of FROM, of RANK dimensions DIMS in chunks CHUNK. */
static int copy_chunks(const char *from_path, hid_t from, const char *to_path, hid_t to, int rank,
                       const hsize_t *dims, const hsize_t *chunk)
{
    hsize_t at[4] = {0}, bytes;
    uint8_t *buffer = NULL;
    size_t room = 0;
    uint32_t skipped;
    int axis = 0, rc = -1;

    for (int i = 0; i < rank; i++)
        if (dims[i] == 0) return 0;
    while (axis >= 0) {
        if (h5_chunk_bytes(from, at, &bytes) || bytes > MOST_CHUNK) {
            fail("%s: is damaged: a chunk cannot be read", from_path);
            goto done;
        }
        if (bytes > room) {
            free(buffer);
            buffer = xmalloc(room = (size_t)bytes);
        }
        if (bytes && H5Dread_chunk(from, H5P_DEFAULT, at, &skipped, buffer) < 0) {
            fail("%s: is damaged: a chunk cannot be read", from_path);
            goto done;
        }
        errno = 0;
        if (bytes && H5Dwrite_chunk(to, H5P_DEFAULT, skipped, at, (size_t)bytes, buffer) < 0) {
            h5_write_failed(to_path);
            goto done;
        }
        for (axis = rank - 1; axis >= 0; axis--) { /* the next chunk, the last axis fastest */
            if ((at[axis] += chunk[axis]) < dims[axis]) break;
            at[axis] = 0;
        }
    }
    rc = 0;

done:
    free(buffer);
    return rc;
}

static int copy_set(const char *from_path, hid_t from, const char *to_path, hid_t to_group,
                    const char *name)
{
    hid_t type = H5Dget_type(from), space = H5Dget_space(from);
    hid_t create = H5Dget_create_plist(from), to = -1;
    hsize_t dims[4], chunk[4];
    const int rank = H5Sget_simple_extent_ndims(space);
    int rc = -1;

    if (type < 0 || rank < 1 || rank > 4 || H5Sget_simple_extent_dims(space, dims, NULL) != rank ||
        H5Pget_layout(create) != H5D_CHUNKED || H5Pget_chunk(create, rank, chunk) != rank) {
        fail("%s: is damaged: %s is not what this program writes", from_path, name);
        goto done;
    }
    errno = 0;
    to = H5Dcreate2(to_group, name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (to < 0 || copy_attributes(from, to)) {
        h5_write_failed(to_path);
        goto done;
    }
    rc = copy_chunks(from_path, from, to_path, to, rank, dims, chunk);

done:
    errno = 0;
    if (to >= 0 && H5Dclose(to) < 0 && rc == 0) rc = h5_write_failed(to_path);
    if (create >= 0) H5Pclose(create);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return rc;
}

int join_sample(const char *from_path, hid_t from, const char *to_path, hid_t to)
{
    errno = 0;
    if (copy_attributes(from, to)) return h5_write_failed(to_path);
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) {
        const char *name = dump_field_info((enum dump_field)f)->name;
        if (H5Lexists(from, name, H5P_DEFAULT) <= 0) continue;
        hid_t set = h5_open_set(from, name);
        if (set < 0) return fail("%s: is damaged: %s cannot be opened", from_path, name);
        const int rc = copy_set(from_path, set, to_path, to, name);
        H5Dclose(set);
        if (rc) return rc;
    }
    return 0;
}
