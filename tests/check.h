/* check.h - the frame of a test program: CHECK() counts, check_report() says and returns the
 * status.
 *
 * A program prints "ok NAME: N checks" or the failures; skip() says why something was not run.
 */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <stdbool.h>

/* Counts a check; on failure prints file, line, the condition and the formatted detail. */
#define CHECK(condition, ...) check_that((condition), __FILE__, __LINE__, #condition, __VA_ARGS__)

void check_that(bool ok, const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Says "skip NAME: REASON" and counts it. */
void check_skip(const char *name, const char *reason);

/* Prints "NAME: N passed, N failed, N skipped"; returns 1 when a check failed, otherwise 0. */
int check_report(const char *name);

/* A path for a scratch file under the system's temporary folder, unique to this process; removed,
 * with all below it, by check_report(). The text lives until then. */
const char *check_scratch(const char *name);

#endif
