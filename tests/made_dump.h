/* made_dump.h - dumps of made-up values for the tests: written, and compared value by value.
 */
#ifndef TESTS_MADE_DUMP_H
#define TESTS_MADE_DUMP_H

#include "core/dump/dump_read.h"
#include "core/dump/dump_write.h"
#include "core/dump/shape.h"

struct plan {
    int L, H, G, T, S, K, M, k, max_T, max_S;
    bool kv, f32, backwards; /* attn by kv head; 4-byte floats; rows put in falling order */
};

/* A few KiB; rows of more values than a chunk takes; several chunks of steps, in 4-byte floats. */
extern const struct plan made_small, made_wide, made_long;

struct dump_run made_run(const struct plan *p);
struct dump_shape made_shape(const struct plan *p, enum dump_field f);
uint32_t made_fields(void); /* all */
struct dump_sample made_sample(const struct plan *p, int index);

/* What dump_rows() or dump_ints() must give at [s, a, b, w] of a row of W. */
double made_value(const struct plan *p, enum dump_field f, int64_t s, int64_t a, int64_t b,
                  int64_t w, int64_t W);

/* Whether FOUND is WANT, NaN being equal to NaN. */
bool made_equal(double found, double want);

/* Puts the first STEPS steps of a sample that is begun; ends it; does all of a sample; of a dump.
 */
int made_put_steps(struct dump_writer *w, const struct plan *p, int steps);
int made_end(struct dump_writer *w, const struct plan *p);
int made_put_sample(struct dump_writer *w, const struct plan *p, int index);
int made_write(const char *path, const struct plan *p, int samples);

/* CHECKs that the dump at PATH holds exactly what made_write() put. */
void made_compare(const char *path, const struct plan *p, int samples);

#endif
