/* dump_write.h - write a dump: every finished sample is safe on disk, whatever happens next.
 *
 * While a run lasts, each sample is a closed HDF5 file of its own in PATH.part/; dump_finish()
 * joins them into PATH without recompressing and removes the folder. A run that dies leaves the
 * finished samples readable there (dump_open() accepts a .part folder).
 */
#ifndef CORE_DUMP_DUMP_WRITE_H
#define CORE_DUMP_DUMP_WRITE_H

#include "core/dump/dump.h"

struct dump_writer;

struct dump_options {
    uint32_t fields; /* bit 1u << enum dump_field */
    bool f32;        /* store the F16 fields as 4-byte floats */
    bool resume;     /* keep the finished samples of PATH.part/ made by the same run */
};

/* Starts writing PATH. Refuses an existing PATH, and a PATH.part/ unless resume, where its run must
 * describe the same work (model fingerprint, config, fields; not the command line) or it is
 * refused. NULL after fail(). */
struct dump_writer *dump_create(const char *path, const struct dump_run *run,
                                const struct dump_options *options);

/* Whether sample INDEX is already finished (resume); its prompt hash must be HASH, otherwise -1
 * after fail(). 1 finished, 0 to be made. */
int dump_sample_done(struct dump_writer *w, int index, uint64_t hash);

/* Starts sample INDEX, of at most max_T tokens and max_S steps. MAX_SELECTED is the k of
 * selected_idx (0 without). 0, or -1 after fail(). */
int dump_sample_begin(struct dump_writer *w, int index, const struct dump_sample *sample, int max_T,
                      int max_S, int max_selected);

/* Puts one row of a float field: step S (ignored by prefill_score), layer L, row R where the field
 * has one (R of attn, i of reuse_error's [i, :], G of prefill_score), N values; the rest of the row
 * is 0 (NaN for reuse_error). importance and topk_total take N = L values at layer 0 in one call,
 * and a row of reuse_error its N = 2 L values (error, cosine of each j), also at layer 0. ROW is 0
 * where the field has none. Rows may come in any order within a step, each once; steps ascend. Rows
 * are copied, and compressed by all OpenMP threads once 4 MiB are together: call it outside of
 * parallel regions. After a failure the sample is lost. 0, or -1 after fail(). */
int dump_put(struct dump_writer *w, enum dump_field field, int step, int layer, int row,
             const float *values, int n);

/* The same for F16 fields of a run that does not store them in 4 bytes, from halves whose NaN are
 * 0x7e00. */
int dump_put_halves(struct dump_writer *w, enum dump_field field, int step, int layer, int row,
                    const uint16_t *values, int n);

/* The same for int fields (topk_idx, selected_idx; LAYER is the index 0..M-1 there); pads with -1.
 */
int dump_put_int(struct dump_writer *w, enum dump_field field, int step, int layer,
                 const int *values, int n);

/* Called first by a thread that puts rows but is not the one of dump_create(). Calls of all threads
 * must not overlap. */
void dump_thread(void);

/* Ends the sample: writes what END holds, closes its file, makes it durable (fsync) and renames it
 * into place. The datasets end at exactly END's T and S; a row past them is an error. 0, or -1
 * after fail(). */
int dump_sample_finish(struct dump_writer *w, const struct dump_sample_end *end);

/* Joins the samples into PATH (through a temporary name; one alone is moved), removes PATH.part/,
 * frees W. With RC != 0 the run has failed: nothing is joined, finished samples stay in PATH.part/,
 * and a line says how many and how to resume. W may be NULL. Returns RC, or -1 after fail(). */
int dump_finish(struct dump_writer *w, int rc);

/* Bytes the fields of one sample take before compression. */
double dump_sample_bytes(const struct dump_run *run, const struct dump_options *options, int T,
                         int S, int selected);

#endif
