/* dumps.h - the dumps of one command line as one run of samples, numbered through from 0. */
#ifndef ANALYZE_DUMPS_H
#define ANALYZE_DUMPS_H

#include "core/dump/dump_read.h"

struct dumps {
    struct dump **d; /* [n] */
    int *first;      /* [n + 1]: the number of each dump's first sample */
    int n, samples;
    const struct dump_run *run; /* of the first dump; the dimensions hold for all */
    char *about;                /* "model ..., L layers ...": provenance lines of a table */
};

/* Opens the N dumps at PATHS, which must stem from one model and hold at least one sample. 0, or -1
 * after fail(). dumps_close() frees what it opened in either case. */
int dumps_open(struct dumps *s, char **paths, int n);
void dumps_close(struct dumps *s);

/* Describes sample I; INDEX may be NULL. NULL after fail(), also when its dimensions make no sense
 * or when a field of NEED (bits of enum dump_field) was not traced. */
struct dump *dumps_sample(const struct dumps *s, int i, uint32_t need,
                          struct dump_sample_info *info, int *index);

/* Room for ROWS x T floats, 64-byte aligned; NULL after fail(). free() releases it. */
float *dumps_rows(size_t rows, int T);

#define FIELD_BIT(f) (1u << (f))

#endif
