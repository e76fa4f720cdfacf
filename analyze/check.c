/* check.c - okv-analyze check: read every byte of dumps and say what is not whole. */
#include "analyze/cmd.h"
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/dump/dump_read.h"

static const char usage[] =
    "Usage: okv-analyze check DUMP...\n"
    "\n"
    "Reads every byte of every sample of each dump (or FILE.h5.part folder of an\n"
    "unfinished run): are shapes, ranges and checksums what they should be? One line\n"
    "for each thing that is not whole. Exit status 1 when one is found.\n";

int analyze_check(int argc, char **argv)
{
    const struct option_spec specs[] = {{0}};
    int first, rc = options_parse(argc, argv, specs, usage, &first);
    if (rc >= 0) return rc;
    if (first == argc) return usage_error(argv[0], "which dump?");
    rc = 0;
    for (int i = first; i < argc; i++)
        if (dump_check(argv[i], stdout)) rc = 1;
    if (fflush(stdout) || ferror(stdout)) {
        fail("standard output: cannot be written");
        rc = 1;
    }
    return rc;
}
