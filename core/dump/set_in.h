/* set_in.h - one dataset of a dump being read: its shape checked, its chunks decompressed by all
 * threads. What other tools have written anew, with another layout, type or filter, is read through
 * HDF5's own conversion.
 */
#ifndef CORE_DUMP_SET_IN_H
#define CORE_DUMP_SET_IN_H

#include "core/dump/codec.h"
#include "core/dump/h5.h"

/* Work space shared by the datasets of a dump. */
struct set_space {
    struct codec *codecs; /* [n_codecs] one for each thread */
    int n_codecs;
    uint8_t *packed; /* compressed chunks in flight */
    size_t packed_bytes;
};
void set_space_close(struct set_space *w);

struct set_in {
    hid_t id; /* below 0: not there */
    enum dump_field field;
    struct dump_shape shape;
    enum dump_store store;   /* of the chunks, when `direct` */
    struct dump_chunk chunk; /* likewise */
    bool direct;             /* laid out as the writer does: chunks are read past HDF5's filters */
    int shuffle, deflate;    /* places in the filter pipeline, -1: not used */
    uint32_t fill;           /* value in memory where no chunk is */
    uint8_t *steps;          /* decoded steps of one chunk, where a chunk holds several */
    int64_t first;           /* the first of them, -1: none yet */
};

/* Opens the dataset of FIELD in group AT and reads its dimensions into DIMS, of RANK; the rank and
 * kind of number are checked against schema.h. F->id stays below 0 when there is none: 0 then too.
 * 0, or -1 after fail(). NAME stands for the sample in messages. */
int set_in_open(struct set_in *f, const char *name, hid_t at, enum dump_field field,
                int64_t dims[4]);

/* Checks the dimensions against DIMS_WANTED, and that what is stored can be that much. */
int set_in_check(struct set_in *f, const char *name, const struct dump_dims *wanted);
void set_in_close(struct set_in *f);

/* Reads one step ([A, B, W] values; all of a field that has no steps) as floats, ints or bytes.
 * 0, or -1 after fail(). */
int set_in_read(struct set_in *f, const char *name, struct set_space *w, int64_t step, void *out);

#endif
