/* scored.h - the scorer's verdict on a line of predictions, for tests of what writes such lines:
 * the two sides name their types alike.
 */
#ifndef TESTS_SCORED_H
#define TESTS_SCORED_H

#include <stdbool.h>
#include <stddef.h>

/* Whether okv-analyze score takes LINE [N] as a sample of TASK; BY_LENGTH: of LongBench-E. */
bool scorer_takes(const char *task, bool by_length, const char *line, size_t n);

#endif
