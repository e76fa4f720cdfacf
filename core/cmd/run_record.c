/* run_record.c - OUT/run.json: what the predictions of a folder were made with. */
#include "core/cmd/run_record.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/base/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int run_record_hold(const char *out, bool *made)
{
    int fd = -1;
    *made = false;
    if (make_parents(out)) return -1;
    if (mkdir(out, 0777) == 0)
        *made = true;
    else if (errno != EEXIST)
        return fail("%s: cannot be created: %s", out, strerror(errno));
    if ((fd = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return errno == ENOTDIR ? fail("%s: expected a folder, found a file", out)
                                : fail("%s: cannot be opened: %s", out, strerror(errno));
    if (flock(fd, LOCK_EX) != 0) {
        fail("%s: cannot be locked: %s", out, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

void run_record_release(int held)
{
    if (held >= 0) close(held);
}

/* Compares the members of WANT with those of FOUND; IN goes before their names. */
static int compare(const char *path, const char *in, const cJSON *want, const cJSON *found)
{
    for (const cJSON *w = want->child; w; w = w->next) {
        const cJSON *f = cJSON_GetObjectItemCaseSensitive(found, w->string);
        if (strcmp(w->string, "okv") == 0 || cJSON_Compare(w, f, true)) continue;
        if (cJSON_IsObject(w) && cJSON_IsObject(f)) return compare(path, "config ", w, f);
        char *ours = cJSON_PrintUnformatted(w), *theirs = f ? cJSON_PrintUnformatted(f) : NULL;
        fail("%s: %s\"%s\": this run has %.200s, the predictions beside it were made with %.200s: "
             "choose another --out",
             path, in, w->string, ours, theirs ? theirs : "none");
        cJSON_free(ours);
        cJSON_free(theirs);
        return -1;
    }
    for (const cJSON *f = found->child; f; f = f->next)
        if (cJSON_GetObjectItemCaseSensitive(want, f->string) == NULL)
            return fail("%s: %s\"%s\": this run has none, the predictions beside it were made with "
                        "one: choose another --out",
                        path, in, f->string);
    return 0;
}

/* Whether the prediction file PATH holds something, or a process is at work on it. */
static bool is_used(const char *path)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is not waited for */
    const bool used =
        fd >= 0 && ((fstat(fd, &st) == 0 && st.st_size > 0) || flock(fd, LOCK_SH | LOCK_NB) != 0);
    if (fd >= 0) close(fd);
    return used;
}

/* Whether there are predictions in OUT, or will be: a run that was ended before its first sample
 * leaves empty files, and binds nobody. */
static bool has_predictions(const char *out)
{
    DIR *d = opendir(out);
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d)) != NULL;) {
        const size_t n = strlen(e->d_name);
        if (n < 7 || strcmp(e->d_name + n - 6, ".jsonl") != 0) continue;
        char *path = path_join(out, e->d_name);
        found = is_used(path);
        free(path);
    }
    if (d) closedir(d);
    return found;
}

int run_record_check(const char *out, const cJSON *record, bool *there)
{
    char *path = path_join(out, "run.json");
    cJSON *found = NULL;
    int rc = 0;
    *there = access(path, F_OK) == 0 && has_predictions(out);
    if (*there) {
        found = json_load(path);
        rc = found ? compare(path, "", record, found) : -1;
    }
    cJSON_Delete(found);
    free(path);
    return rc;
}

int run_record_write(const char *out, const cJSON *record)
{
    struct output o = {0};
    char *path = path_join(out, "run.json"), *text = cJSON_Print(record);
    int rc = output_open(&o, path);
    if (rc == 0) fprintf(o.f, "%s\n", text);
    rc = output_close(&o, rc);
    cJSON_free(text);
    free(path);
    return rc;
}
