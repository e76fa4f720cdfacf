/* file.h - whole files in, whole files out: an output appears under its name only when complete. */
#ifndef CORE_BASE_FILE_H
#define CORE_BASE_FILE_H

#include <stdio.h>

/* Reads all of PATH ("-" is stdin) into a new buffer that the caller frees, with a NUL after its
 * *SIZE bytes. NULL after fail(): unreadable, or past 2 GiB. */
char *file_read(const char *path, size_t *size);

/* An output stream: stdout for PATH NULL or "-", otherwise PATH.tmp.PID, renamed to PATH by
 * output_close(). 0, or -1 after fail(): PATH is no regular file, or cannot be written. */
struct output {
    FILE *f;
    char *path, *temporary; /* NULL for stdout */
};
int output_open(struct output *o, const char *path);

/* Closes O, checking every byte; on RC != 0 or a failed write the file is removed. O may be all
 * zero (never opened). Returns RC, or -1 after fail(). */
int output_close(struct output *o, int rc);

/* DIR/NAME in new memory that the caller frees. */
char *path_join(const char *dir, const char *name);

/* Creates PATH's missing parent directories. 0, or -1 after fail(). */
int make_parents(const char *path);

#endif
