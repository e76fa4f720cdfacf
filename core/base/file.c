/* file.c - whole files in, whole files out. */
#include "core/base/file.h"
#include "core/base/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGEST ((size_t)2 << 30) /* bytes of a text that is read whole */

char *file_read(const char *path, size_t *size)
{
    const bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "rb");
    char *buffer = NULL;
    size_t n = 0, room = 0, got;
    struct stat st;

    if (standard) path = "standard input";
    if (f == NULL) {
        fail("%s: cannot be opened: %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode)) {
        fail("%s: expected a file, found a directory", path);
        goto done;
    }
    do {
        if (n > LARGEST) { /* a device that never ends, for instance */
            fail("%s: expected at most %zu bytes, found more", path, LARGEST);
            free(buffer);
            buffer = NULL;
            goto done;
        }
        if (n + 65536 > room) buffer = xrealloc(buffer, (room = 2 * room + 65536 + 1) + 1);
        got = fread(buffer + n, 1, room - n, f);
        n += got;
    } while (got > 0);
    if (ferror(f)) {
        fail("%s: cannot be read: %s", path, strerror(errno));
        free(buffer);
        buffer = NULL;
        goto done;
    }
    buffer[n] = 0;
    *size = n;

done:
    if (!standard) fclose(f);
    return buffer;
}

int output_open(struct output *o, const char *path)
{
    memset(o, 0, sizeof *o);
    if (path == NULL || strcmp(path, "-") == 0) {
        o->f = stdout;
        return 0;
    }
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* renaming over a device would replace it */
        return fail("%s: expected the name of a file to write, found something else there", path);
    o->path = xstrdup(path);
    o->temporary = xprintf("%s.tmp.%ld", path, (long)getpid());
    if ((o->f = fopen(o->temporary, "wb")) == NULL) {
        fail("%s: cannot be written: %s", path, strerror(errno));
        free(o->path);
        free(o->temporary);
        memset(o, 0, sizeof *o);
        return -1;
    }
    return 0;
}

int output_close(struct output *o, int rc)
{
    const char *name = o->path ? o->path : "standard output";
    if (o->f == NULL) return rc;
    errno = 0; /* a write that failed long ago has left none */
    bool bad = fflush(o->f) != 0 || ferror(o->f);
    if (o->path && fclose(o->f) != 0) bad = true;
    if (bad && rc == 0)
        rc = fail("%s: cannot be written: %s", name, errno ? strerror(errno) : "a write failed");
    if (o->path) {
        if (rc == 0 && rename(o->temporary, o->path) != 0)
            rc = fail("%s: cannot be written: %s", name, strerror(errno));
        if (rc != 0) unlink(o->temporary);
    }
    free(o->path);
    free(o->temporary);
    memset(o, 0, sizeof *o);
    return rc;
}

char *path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return xprintf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

int make_parents(const char *path)
{
    int rc = 0;
    char *p = xstrdup(path);
    for (char *s = p + 1; rc == 0 && *s; s++) {
        if (*s != '/') continue;
        *s = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST)
            rc = fail("%s: cannot be created: %s", p, strerror(errno));
        *s = '/';
    }
    free(p);
    return rc;
}
