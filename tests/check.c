/* check.c - the frame of a test program. */
#include "tests/check.h"
#include "core/base/base.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int passed, failed, skipped;
static char folder[] = "/tmp/okv-test-XXXXXX";
static bool have_folder;
static char **scratch; /* the names handed out */
static int n_scratch;

void check_that(bool ok, const char *file, int line, const char *condition, const char *format, ...)
{
    if (ok) {
        passed++;
        return;
    }
    failed++;
    if (failed > 20) return; /* the first ones tell the story */
    va_list args;
    va_start(args, format);
    printf("%s:%d: not true: %s: ", file, line, condition);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

void check_skip(const char *name, const char *reason)
{
    printf("skip %s: %s\n", name, reason);
    skipped++;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

int check_report(const char *name)
{
    if (have_folder) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    while (n_scratch > 0) free(scratch[--n_scratch]);
    free(scratch);
    printf("%s: %d passed, %d failed, %d skipped\n", name, passed, failed, skipped);
    return failed != 0;
}

const char *check_scratch(const char *name)
{
    if (!have_folder && mkdtemp(folder) == NULL) exit(fail("%s: cannot be created", folder) + 2);
    have_folder = true;
    scratch = xrealloc(scratch, (size_t)(n_scratch + 1) * sizeof *scratch);
    scratch[n_scratch] = xprintf("%s/%s", folder, name);
    return scratch[n_scratch++];
}
