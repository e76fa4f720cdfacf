/* predictions.c - finds prediction files, puts parts together, scores their lines. */
#include "analyze/predictions.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SUFFIX ".jsonl"

/* Takes the whole number that ends at *END of S off its end; -1 where there is none. */
static long number_before(const char *s, size_t *end)
{
    size_t from = *end;
    while (from > 0 && s[from - 1] >= '0' && s[from - 1] <= '9') from--;
    if (from == *end || *end - from > 9) return -1;
    *end = from;
    return strtol(s + from, NULL, 10);
}

/* "STEM.I-of-N": takes the shard off the end of the N characters at S. */
static void take_shard(const char *s, size_t *n, struct part *p)
{
    size_t end = *n;
    const long shards = number_before(s, &end);
    if (shards < 1 || end < 4 || memcmp(s + end - 4, "-of-", 4) != 0) return;
    end -= 4;
    const long shard = number_before(s, &end);
    if (shard < 0 || end < 1 || s[end - 1] != '.') return;
    p->shard = (int)shard;
    p->shards = (int)shards;
    *n = end - 1;
}

/* "STEM_FROM-TO": takes the range off. */
static void take_range(const char *s, size_t *n, struct part *p)
{
    size_t end = *n;
    const long to = number_before(s, &end);
    if (to < 0 || end < 1 || s[end - 1] != '-') return;
    end--;
    const long from = number_before(s, &end);
    if (from < 0 || end < 1 || s[end - 1] != '_') return;
    p->from = from;
    p->to = to;
    *n = end - 1;
}

static bool ends_with(const char *s, size_t n, const char *tail)
{
    const size_t m = strlen(tail);
    return n >= m && memcmp(s + n - m, tail, m) == 0;
}

/* The task that a file's name says, *BY_LENGTH where it is LongBench-E's; NULL where none. */
static const struct task *task_of_name(const char *name, struct part *p, bool *by_length)
{
    size_t n = strlen(name);
    const struct task *t;
    if (ends_with(name, n, SUFFIX)) n -= strlen(SUFFIX);
    take_shard(name, &n, p);
    if (n > 6 && memcmp(name, "preds_", 6) == 0) {
        name += 6;
        n -= 6;
        take_range(name, &n, p);
        t = task_find(name, n);
        return t && t->benchmark == INFINITEBENCH ? t : NULL;
    }
    if ((t = task_find(name, n)) != NULL) return t->benchmark == INFINITEBENCH ? NULL : t;
    if (!ends_with(name, n, "_e") || (t = task_find(name, n - 2)) == NULL ||
        t->benchmark != LONGBENCH)
        return NULL;
    *by_length = true;
    return t;
}

static int unknown_task(const char *path)
{
    return fail("%s: unknown task: expected preds_TASK" SUFFIX " of InfiniteBench or DATASET" SUFFIX
                " of LongBench, found \"%s\"; --task names it",
                path, strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
}

/* PATH without its last name; "." for none. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return xstrdup(".");
    if (slash == path) return xstrdup("/");
    return xprintf("%.*s", (int)(slash - path), path);
}

static struct prediction_set *set_of(struct predictions *p, const char *run, const struct task *t,
                                     bool by_length)
{
    for (int i = 0; i < p->sets; i++) {
        struct prediction_set *s = &p->set[i];
        if (strcmp(s->run, run) == 0 && s->task == t && s->by_length == by_length) return s;
    }
    int order = p->sets;
    for (int i = p->sets - 1; i >= 0; i--)
        if (strcmp(p->set[i].run, run) == 0) order = p->set[i].order;
    p->set = xrealloc(p->set, (size_t)(p->sets + 1) * sizeof *p->set);
    struct prediction_set *s = &p->set[p->sets++];
    memset(s, 0, sizeof *s);
    s->order = order;
    s->run = xstrdup(run);
    s->task = t;
    s->by_length = by_length;
    return s;
}

static int add_file(struct predictions *p, const char *path, const struct task *task, bool every_e)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    struct part part = {.to = -1};
    bool by_length = false;
    const struct task *named = task_of_name(name, &part, &by_length), *t = task ? task : named;
    if (t == NULL) return unknown_task(path);
    /* a name that says another task, or none, is a run of its own */
    char *run = task && task != named ? xstrdup(path) : folder_of(path);
    by_length = t->benchmark == LONGBENCH && (by_length || every_e);
    struct prediction_set *s = set_of(p, run, t, by_length);
    part.path = xstrdup(path);
    s->part = xrealloc(s->part, (size_t)(s->parts + 1) * sizeof *s->part);
    s->part[s->parts++] = part;
    free(run);
    return 0;
}

static int prediction_file(const struct dirent *e)
{
    return e->d_name[0] != '.' && ends_with(e->d_name, strlen(e->d_name), SUFFIX);
}

static int add_folder(struct predictions *p, const char *path, const struct task *task,
                      bool every_e, bool keep_going)
{
    struct dirent **entry = NULL;
    const int n = scandir(path, &entry, prediction_file, alphasort);
    int rc = 0;
    if (n < 0) rc = fail("%s: cannot be read: %s", path, strerror(errno));
    if (n == 0) rc = fail("%s: expected prediction files (*" SUFFIX "), found none", path);
    if (n <= 0) p->failures++;
    for (int i = 0; i < n; i++) {
        char *file = path_join(path, entry[i]->d_name);
        if (rc == 0 || keep_going) {
            struct stat st; /* a pipe in a folder would be waited for */
            int bad = stat(file, &st) == 0 && !S_ISREG(st.st_mode);
            if (bad)
                fail("%s: expected a prediction file, found no regular file", file);
            else
                bad = add_file(p, file, task, every_e);
            if (bad) {
                p->failures++;
                rc = -1;
            }
        }
        free(file);
        free(entry[i]);
    }
    free(entry);
    return rc;
}

static int by_place(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    if (x->shards != y->shards) return x->shards < y->shards ? -1 : 1;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

/* The parts of S must be one file, all shards of a number, or ranges that do not overlap: anything
 * else counts samples twice or leaves some out. */
static int check_parts(struct prediction_set *s)
{
    qsort(s->part, (size_t)s->parts, sizeof *s->part, by_place);
    const struct part *first = s->part;
    for (int i = 1; i < s->parts; i++) {
        const struct part *x = &s->part[i - 1], *y = &s->part[i];
        if (x->shards != y->shards || (x->to < 0) != (y->to < 0))
            return fail(
                "%s: expected one file or the parts of one set of samples for a task, found "
                "%s beside it",
                x->path, y->path);
        if ((x->shard == y->shard && x->to < 0) || x->to > y->from)
            return fail("%s: expected samples to stand in one file, found some of them in %s too",
                        x->path, y->path);
    }
    for (int i = 0; first->shards && i < first->shards; i++)
        if (i >= s->parts || s->part[i].shard != i)
            return fail("%s: expected all %d shards beside it, found no shard %d", first->path,
                        first->shards, i);
    return 0;
}

int predictions_find(const char *const *path, int n, const char *task, bool every_e,
                     bool keep_going, struct predictions *p)
{
    const struct task *t = task ? task_find(task, strlen(task)) : NULL;
    memset(p, 0, sizeof *p);
    if (task && t == NULL) {
        const char *names[64];
        int m = 0;
        for (const struct task *k = tasks; k->name && m < 63; k++) names[m++] = k->name;
        names[m] = NULL;
        const char *near = nearest_name(task, names);
        p->failures++;
        return near ? fail("--task: unknown task \"%s\"; did you mean \"%s\"?", task, near)
                    : fail("--task: unknown task \"%s\"", task);
    }
    for (int i = 0; i < n; i++) {
        struct stat st;
        char *plain = xstrdup(path[i]); /* without slashes at its end */
        for (size_t k = strlen(plain); k > 1 && plain[k - 1] == '/'; k--) plain[k - 1] = 0;
        int rc = 0;
        if (stat(plain, &st))
            rc = fail("%s: cannot be opened: %s", plain, strerror(errno));
        else if (!S_ISDIR(st.st_mode))
            rc = add_file(p, plain, t, every_e);
        if (rc) p->failures++;
        if (rc == 0 && S_ISDIR(st.st_mode)) rc = add_folder(p, plain, t, every_e, keep_going);
        free(plain);
        if (rc && !keep_going) return -1;
    }
    for (int i = 0; i < p->sets; i++)
        if (check_parts(&p->set[i])) {
            p->failures++;
            if (!keep_going) return -1;
            p->set[i].left_out = true;
        }
    return 0;
}

static void set_free(struct prediction_set *s)
{
    for (int i = 0; i < s->parts; i++) free(s->part[i].path);
    free(s->run);
    free(s->part);
    free(s->score);
    free(s->length);
    free(s->in_part);
    free(s->line);
}

void predictions_free(struct predictions *p)
{
    for (int i = 0; i < p->sets; i++) set_free(&p->set[i]);
    free(p->set);
    memset(p, 0, sizeof *p);
}

static int score_line(const char *where, const char *line, size_t size, struct prediction_set *s,
                      const struct scoring *how, int part, long number)
{
    struct sample x = {0};
    int rc = -1;
    size_t blank = 0;
    while (blank < size && strchr(" \t\r", line[blank]) && line[blank]) blank++;
    if (blank == size) {
        fail("%s: expected a JSON object, found an empty line", where);
        goto done;
    }
    if (sample_read(where, line, size, s->task, s->by_length, &x)) goto done;
    if (s->samples == s->room) {
        s->room = 2 * s->room + 64;
        s->score = xrealloc(s->score, s->room * sizeof *s->score);
        s->length = xrealloc(s->length, s->room * sizeof *s->length);
        s->in_part = xrealloc(s->in_part, s->room * sizeof *s->in_part);
        s->line = xrealloc(s->line, s->room * sizeof *s->line);
    }
    s->score[s->samples] = s->task->score(&x, how);
    s->length[s->samples] = x.length;
    s->in_part[s->samples] = part;
    s->line[s->samples++] = number;
    s->stops_original += x.stops_original;
    rc = 0;

done:
    sample_free(&x);
    return rc;
}

static int score_part(struct predictions *p, struct prediction_set *s, int part,
                      const struct scoring *how, bool keep_going)
{
    const char *path = s->part[part].path;
    size_t size = 0;
    char *text = file_read(path, &size);
    const char *end = text ? text + size : NULL;
    int rc = text ? 0 : -1;
    long number = 0;

    if (text && size == 0 && s->part[part].shard == 0) /* later shards can be without samples */
        rc = fail("%s: expected a line for each sample, found nothing", path);
    if (rc) p->failures++;
    for (const char *line = text, *next; rc == 0 && line < end; line = next) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *stop = newline ? newline : end;
        next = newline ? newline + 1 : end;
        char *where = xprintf("%s:%ld", path, ++number);
        if (score_line(where, line, (size_t)(stop - line), s, how, part, number)) {
            p->failures++;
            s->refused++;
            if (!keep_going) rc = -1;
        }
        free(where);
    }
    s->part[part].lines = number;
    free(text);
    return rc;
}

/* Shard i of n holds the samples i, i + n, i + 2n, ...: as many lines as the first, or, from some
 * shard on, one less. */
static int check_shards(const struct prediction_set *s)
{
    for (int i = 1; i < s->parts && s->part[0].shards && s->part[0].lines; i++) {
        const struct part *first = &s->part[0], *before = &s->part[i - 1], *x = &s->part[i];
        if (x->lines > before->lines || x->lines < first->lines - 1)
            return fail(
                "%s: expected %ld or %ld lines beside %s, found %ld: have all shards ended?",
                x->path, first->lines - 1, first->lines, first->path, x->lines);
    }
    return 0;
}

int predictions_score(struct predictions *p, struct prediction_set *s, const struct scoring *how,
                      bool keep_going)
{
    int rc = 0;
    for (int i = 0; i < s->parts; i++) {
        if (score_part(p, s, i, how, keep_going)) rc = -1;
        if (rc && !keep_going) return -1;
    }
    if (check_shards(s)) {
        p->failures++;
        rc = -1;
    }
    return rc;
}

double predictions_sum(const struct prediction_set *s, double low, double high, size_t *n)
{
    double sum = 0;
    *n = 0;
    for (size_t i = 0; i < s->samples; i++) {
        if (high > 0 && (s->length[i] < low || s->length[i] >= high)) continue;
        sum += s->score[i];
        ++*n;
    }
    return sum;
}
