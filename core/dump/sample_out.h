/* sample_out.h - one sample on its way to disk: a file of its own, rows gathered into chunks,
 * chunks compressed by all threads.
 */
#ifndef CORE_DUMP_SAMPLE_OUT_H
#define CORE_DUMP_SAMPLE_OUT_H

#include "core/dump/dump_write.h"

struct sample_out;

/* Creates PATH, which holds sample INDEX once sample_out_finish() has returned 0. NAME stands for
 * it in messages. NULL after fail(). The arguments are copied, but RUN must live as long. */
struct sample_out *sample_out_open(const char *path, const char *name, int index,
                                   const struct dump_run *run, const struct dump_options *options,
                                   const struct dump_sample *sample, int max_T, int max_S,
                                   int max_selected);

/* As dump_put(), dump_put_halves() and dump_put_int(). After a failure every call fails. */
int sample_out_put(struct sample_out *o, enum dump_field field, int step, int layer, int row,
                   const float *values, int n);
int sample_out_put_halves(struct sample_out *o, enum dump_field field, int step, int layer, int row,
                          const uint16_t *values, int n);
int sample_out_put_int(struct sample_out *o, enum dump_field field, int step, int layer,
                       const int *values, int n);

/* Writes the rest and closes the file; its bytes are on the disk. Frees O either way; the file is
 * gone when this fails. 0, or -1 after fail(). */
int sample_out_finish(struct sample_out *o, const struct dump_sample_end *end);

/* Gives the sample up: removes its file and frees O, which may be NULL. */
void sample_out_abandon(struct sample_out *o);

/* Makes the file or folder PATH durable. 0, or -1 with errno. */
int sync_path(const char *path);

#endif
