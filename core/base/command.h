/* command.h - the face that the three programs share: subcommands, options, tables, progress.
 *
 * Exit status everywhere: 0 done, 1 failed (fail() has said why), 2 wrong usage.
 */
#ifndef CORE_BASE_COMMAND_H
#define CORE_BASE_COMMAND_H

#include "core/base/file.h"

#include <stdbool.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name */
    const char *summary;               /* one line of the program's help */
};

/* Dispatches argv[1] over a table that ends with an empty row; prints help for --help and help,
 * the version for --version. Returns the exit status. */
int command_main(const char *program, const char *about, const struct command *table, int argc,
                 char **argv);

/* One option of a subcommand. "--name VALUE" and "--name=VALUE" are both taken; OPT_FLAG has no
 * value; OPT_STRINGS may be repeated and appends to a `struct strings`. */
enum option_kind {
    OPT_FLAG,        /* bool * */
    OPT_INT,         /* int *, within [min, max] */
    OPT_SIZE,        /* int *, "4K" is 4,096, within [min, max] */
    OPT_DOUBLE,      /* double *, within [min, max] */
    OPT_STRING,      /* const char ** */
    OPT_STRINGS,     /* struct strings * */
    OPT_INT_LIST,    /* struct int_list *, each within [min, max] */
    OPT_SIZE_LIST,   /* sizes: "4K,16K", none twice */
    OPT_DOUBLE_LIST, /* struct double_list *, each within [min, max], none twice */
};
struct strings {
    const char **v; /* freed by the caller; the texts belong to argv */
    int n;
};
struct int_list {
    int *v; /* freed by the caller */
    int n;
};
struct double_list {
    double *v; /* freed by the caller */
    int n;
};
struct option_spec {
    const char *name; /* with its dashes: "--model", or "-k" */
    enum option_kind kind;
    void *value;
    double min, max; /* for the number kinds */
};

/* Parses ARGV against SPECS (ended by an empty row); positional arguments move to the end, as
 * getopt does, and *FIRST is the index of the first. Returns -1 to go on, or the exit status to
 * leave with: 0 after printing USAGE on stdout for --help or -h, 2 after fail() on a wrong option.
 */
int options_parse(int argc, char **argv, const struct option_spec *specs, const char *usage,
                  int *first);

/* Wrong usage: fail() with MESSAGE, then "see PROGRAM NAME --help" on stderr. Returns 2. */
int usage_error(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes the provenance lines every table starts with: "# COMMAND LINE", "# okv VERSION (COMMIT)",
 * then one "# NOTE" line for each line of NOTES (units, meanings, what was counted). */
void table_head(FILE *f, int argc, char **argv, const char *notes);

/* The command line as one string a shell would take back; the caller frees it. */
char *command_line(int argc, char **argv);

/* Progress on stderr when it is a terminal: "WHAT 12/40  3.1/s  9 s left", at most 10 times a
 * second; done = total ends the line. Silent otherwise. */
struct progress {
    const char *what;
    long total;
    double start, last;
    bool shown;
};
void progress_start(struct progress *p, const char *what, long total);
void progress_show(struct progress *p, long done);
void progress_end(struct progress *p);

#endif
