/* dump_read.h - read a dump: the only door from analyze/ to what core/ recorded.
 *
 * Readers never load a whole sample: dump_rows() reads one step of one field at a time,
 * decompressing the chunks on all cores.
 */
#ifndef CORE_DUMP_DUMP_READ_H
#define CORE_DUMP_DUMP_READ_H

#include "core/dump/dump.h"

#include <stdio.h>

struct dump; /* an open dump; opaque, so that <hdf5.h> stays inside core/dump */

/* What a sample holds. Strings are owned by the dump, valid until the next dump_sample() call. */
struct dump_sample_info {
    const char *task, *output, *answers;
    uint64_t prompt_hash;
    int n_prefill, T, S, k; /* k: entries of selected_idx, 0 without */
    int R;                  /* rows of attn per layer, 0 without */
    int text_bytes;         /* of `text`, 0 without */
    uint32_t fields;        /* bit 1u << enum dump_field: what this sample really has */
};

/* Opens PATH (a dump, or the PATH.part/ folder of an unfinished run), checking magic, version and
 * the run's dimensions. NULL after fail(): no such file, not a dump, cut, a later version. */
struct dump *dump_open(const char *path);
void dump_close(struct dump *d); /* NULL is allowed */

const char *dump_path(const struct dump *d);
const struct dump_run *dump_run(const struct dump *d); /* valid until dump_close() */
int dump_samples(const struct dump *d);                /* number of samples */

/* Describes sample I (0-based), after checking each dataset's type and shape against schema.h.
 * 0, or -1 after fail(). */
int dump_sample(struct dump *d, int i, struct dump_sample_info *info);

/* Reads one step of FIELD of sample I as floats: [L, T] for mass and score, [L, K] for topk_mass,
 * [L, R, T] for attn, [L] for importance and topk_total, [L, L, 2] for reuse_error. prefill_score
 * is [L, G, T] and ignores STEP; step_nll is [S] and ignores STEP.
 * 0, or -1 after fail(): not traced, out of range, damaged. */
int dump_rows(struct dump *d, int i, enum dump_field field, int step, float *out);

/* The same for integer fields: [L, K] for topk_idx, [M, k] for selected_idx; STEP is ignored by
 * tokens [T], text_end [T] and step_pos [S]. */
int dump_ints(struct dump *d, int i, enum dump_field field, int step, int *out);

/* The sample's text, [text_bytes]. */
int dump_text(struct dump *d, int i, uint8_t *out);

/* Reads every byte of every sample and reports on REPORT what is not whole, one line each; with a
 * last line that counts. Values are held to what schema.h says of them. 0 when all is whole, -1
 * after fail(); an unfinished run is not whole. */
int dump_check(const char *path, FILE *report);

#endif
