/* h5.h - the HDF5 that writer and reader share: types, attributes, the run's description.
 *
 * HDF5 is not safe for threads: one thread calls these and everything of <hdf5.h>. Handles are
 * below 0 when empty. Functions return 0, or -1 after fail() naming PATH.
 */
#ifndef CORE_DUMP_H5_H
#define CORE_DUMP_H5_H

#include "core/dump/shape.h"

#include <hdf5.h>
#include <stdbool.h>

/* Silences HDF5's own error printing and its cleaning up at exit, which does not end after a file
 * could not be written. Call before anything else of HDF5. */
void h5_start(void);

/* A new type handle for STORE as it stands on disk: little-endian; F16 is IEEE binary16. */
hid_t h5_type(enum dump_store store);

/* The type of values in memory: H5T_NATIVE_FLOAT, _INT or _UCHAR. */
hid_t h5_memory_type(enum dump_store store);

/* Handles for new files and groups: metadata with checksums (the format of HDF5 1.10), attributes
 * in the object's header, no time stamps. */
hid_t h5_create_file(const char *path);
hid_t h5_create_group(hid_t at, const char *name);

/* Opens PATH for reading after checking its signature, and its size against the end of the file
 * that its superblock states: HDF5 itself is not to be trusted with a cut file. */
hid_t h5_open_file(const char *path);

/* Opens NAME in AT, which must be an object of the file itself: a link to another file would read
 * whatever its author names. Empty handle, without fail(), when there is no such object. */
hid_t h5_open_group(hid_t at, const char *name);
hid_t h5_open_set(hid_t at, const char *name);

/* The number in NAME when it is that of a sample's file in a .part folder, six digits and ".h5",
 * followed by SUFFIX; otherwise -1. */
int h5_sample_number(const char *name, const char *suffix);

/* The bytes the chunk at OFFSET takes as it is stored; 0 when it was never written. -1 without
 * fail() when the dataset's index is damaged. */
int h5_chunk_bytes(hid_t set, const hsize_t *offset, hsize_t *bytes);

/* fail(): PATH cannot be written, with the system's reason. */
int h5_write_failed(const char *path);

int h5_put_string(hid_t at, const char *name, const char *value);
int h5_put_int(hid_t at, const char *name, int value);
int h5_put_u64(hid_t at, const char *name, uint64_t value);
int h5_put_ints(hid_t at, const char *name, const int *v, int n);

/* The caller frees *VALUE. */
int h5_get_string(const char *path, hid_t at, const char *name, char **value);
int h5_get_int(const char *path, hid_t at, const char *name, int min, int max, int *value);
int h5_get_u64(const char *path, hid_t at, const char *name, uint64_t *value);
int h5_get_ints(const char *path, hid_t at, const char *name, int n, int min, int max, int *v);

/* The run's description and what it records, as attributes of AT. */
int h5_put_run(hid_t at, const struct dump_run *run, uint32_t fields, bool f32);

/* The same read back. R holds no memory when it fails, otherwise h5_free_run() frees it. */
int h5_get_run(const char *path, hid_t at, struct dump_run *r, uint32_t *fields, bool *f32);
void h5_free_run(struct dump_run *r);

/* The name of the first attribute in which B describes other work than A, or NULL: the command
 * line, and the version of the program, may differ. */
const char *h5_run_difference(const struct dump_run *a, const struct dump_run *b);

#endif
