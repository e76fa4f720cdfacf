/* prediction_file.h - a prediction file that grows by one line a sample and survives being killed.
 *
 * A line is whole or not there: what a killed run or a full disk left of one is cut off when the
 * file is opened again, and a line that cannot be written is taken back.
 */
#ifndef CORE_TASK_PREDICTION_FILE_H
#define CORE_TASK_PREDICTION_FILE_H

#include "core/model/unicode.h"

#include <sys/types.h>

struct prediction_file {
    char *path;
    int fd, lines, most;
    off_t end;  /* of the last whole line */
    bool begun; /* by this process */
};

/* Opens PATH to append to, which may be absent, and takes it for this process alone. Its whole
 * lines must be the first of at most MOST samples: LABEL gives the text before and behind the
 * string that line K (from 0) holds, newline included, and fails with -1. p->lines says how many
 * there are. 0, or -1 after fail(): another process writes it, a line is of another run. */
int prediction_file_open(struct prediction_file *p, const char *path, int most,
                         int (*label)(void *ctx, int k, struct text *head, struct text *tail),
                         void *ctx);

/* Appends HEAD, the SIZE bytes of S as a string of JSON, and TAIL, as one line that is with the
 * system on return. 0, or -1 after fail(): the file then ends with the line before. */
int prediction_file_add(struct prediction_file *p, const struct text *head, const char *s,
                        size_t size, const struct text *tail);

/* Closes P, which may be all zero, and removes a file it made that stayed empty, unless a shard
 * without samples ends well. Returns RC, or -1 after fail(). */
int prediction_file_close(struct prediction_file *p, int rc);

#endif
