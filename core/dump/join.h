/* join.h - copies a finished sample from its own file into the run's, chunks as they are stored.
 *
 * H5Ocopy() would do the same, but HDF5 1.10 crashes in it when the disk is full.
 */
#ifndef CORE_DUMP_JOIN_H
#define CORE_DUMP_JOIN_H

#include <hdf5.h>

/* Copies sample group FROM into the group TO. FROM_PATH and TO_PATH stand for them in messages.
 * 0, or -1 after fail(). */
int join_sample(const char *from_path, hid_t from, const char *to_path, hid_t to);

#endif
