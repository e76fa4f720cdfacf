/* prediction_file.c - a prediction file that grows by one line a sample and survives being killed.
 */
#include "core/task/prediction_file.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/task/json_span.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether LINE [N] is HEAD, a string of JSON, TAIL. */
static bool is_line(const char *line, size_t n, const struct text *head, const struct text *tail)
{
    if (n < head->n + tail->n + 2 || memcmp(line, head->s, head->n) != 0 ||
        memcmp(line + n - tail->n, tail->s, tail->n) != 0)
        return false;
    const bool muted = mute_failures(true);
    cJSON *text = json_parse("", line + head->n, n - head->n - tail->n);
    mute_failures(muted);
    const bool string = cJSON_IsString(text);
    cJSON_Delete(text);
    return string;
}

/* Checks the whole lines from the start of F and leaves where they end in p->end. */
static int check_lines(struct prediction_file *p, FILE *f, int most,
                       int (*label)(void *, int, struct text *, struct text *), void *ctx)
{
    struct text head = {0}, tail = {0};
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int rc = -1;

    while ((n = getline(&line, &room, f)) > 0 && line[n - 1] == '\n') {
        if (p->lines == most) {
            fail("%s:%d: expected the end after %d samples, found another line: choose another "
                 "--out, or remove the file",
                 p->path, most + 1, most);
            goto done;
        }
        head.n = tail.n = 0;
        if (label(ctx, p->lines, &head, &tail)) goto done;
        if (!is_line(line, (size_t)n, &head, &tail)) {
            fail("%s:%d: expected a prediction of this sample, %.*s...%.*s, found %.*s: choose "
                 "another --out, or remove the file",
                 p->path, p->lines + 1, (int)head.n, head.s, tail.n < 60 ? (int)tail.n - 1 : 60,
                 tail.s, n < 60 ? (int)n - 1 : 60, line);
            goto done;
        }
        p->lines++;
        p->end += n;
    }
    if (ferror(f)) {
        fail("%s: cannot be read: %s", p->path, strerror(errno));
        goto done;
    }
    rc = 0;

done:
    free(head.s);
    free(tail.s);
    free(line);
    return rc;
}

int prediction_file_open(struct prediction_file *p, const char *path, int most,
                         int (*label)(void *ctx, int k, struct text *head, struct text *tail),
                         void *ctx)
{
    struct stat st;
    FILE *f = NULL;
    int rc = -1;

    memset(p, 0, sizeof *p);
    p->path = xstrdup(path);
    p->fd = -1;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        fail("%s: expected the name of a file to write, found something else there", path);
        goto done;
    }
    p->begun = access(path, F_OK) != 0;
    p->most = most;
    if ((p->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) < 0) {
        fail("%s: cannot be written: %s", path, strerror(errno));
        p->begun = false;
        goto done;
    }
    if (flock(p->fd, LOCK_EX | LOCK_NB) != 0) {
        p->begun = false;
        if (errno == EWOULDBLOCK)
            fail("%s: another process is writing it", path);
        else
            fail("%s: cannot be locked: %s", path, strerror(errno));
        goto done;
    }
    if ((f = fopen(path, "rb")) == NULL) {
        fail("%s: cannot be opened: %s", path, strerror(errno));
        goto done;
    }
    if (check_lines(p, f, most, label, ctx)) goto done;
    if (ftruncate(p->fd, p->end) != 0) {
        fail("%s: cannot be written: %s", path, strerror(errno));
        goto done;
    }
    rc = 0;

done:
    if (f) fclose(f);
    if (rc) prediction_file_close(p, rc);
    return rc;
}

int prediction_file_add(struct prediction_file *p, const struct text *head, const char *s,
                        size_t size, const struct text *tail)
{
    struct text line = {0};
    int rc = 0;

    text_add(&line, head->s, head->n);
    text_dump(&line, s, size);
    text_add(&line, tail->s, tail->n);
    for (size_t done = 0; done < line.n && rc == 0;) {
        const ssize_t n = write(p->fd, line.s + done, line.n - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno != EINTR) {
            rc = fail("%s: cannot be written after line %d: %s; run the same command again to go "
                      "on from there",
                      p->path, p->lines, strerror(errno));
            if (ftruncate(p->fd, p->end) != 0) /* opening it again cuts the rest of the line */
                rc = -1;
        }
    }
    if (rc == 0) {
        p->lines++;
        p->end += (off_t)line.n;
    }
    free(line.s);
    return rc;
}

int prediction_file_close(struct prediction_file *p, int rc)
{
    if (p->path == NULL) return rc;
    if (p->fd >= 0) {
        if (p->begun && p->end == 0 && (p->most > 0 || rc)) unlink(p->path);
        if (close(p->fd) != 0 && rc == 0)
            rc = fail("%s: cannot be written: %s", p->path, strerror(errno));
    }
    free(p->path);
    memset(p, 0, sizeof *p);
    return rc;
}
