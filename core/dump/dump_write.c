/* dump_write.c - a run on its way to disk: the folder of finished samples, resuming, joining. */
#include "core/dump/dump_write.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/dump/h5.h"
#include "core/dump/join.h"
#include "core/dump/sample_out.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_SAMPLES = 1000000 }; /* names have six digits */

struct finished {
    bool is;
    bool wanted; /* by this run: asked about or made */
    uint64_t hash;
};

struct dump_writer {
    char *path, *folder;
    struct dump_run run; /* strings and layers are copies */
    struct dump_options options;
    struct finished *samples; /* [n] */
    int n;
    int lock; /* descriptor of the folder, held under flock() */
    struct sample_out *out;
    int index; /* of the sample under way */
    uint64_t hash;
};

static char *sample_path(const struct dump_writer *w, int index, const char *suffix)
{
    return xprintf("%s/%06d.h5%s", w->folder, index, suffix);
}

static struct finished *sample_at(struct dump_writer *w, int index)
{
    if (index >= w->n) {
        w->samples = xrealloc(w->samples, (size_t)(index + 1) * sizeof *w->samples);
        memset(w->samples + w->n, 0, (size_t)(index + 1 - w->n) * sizeof *w->samples);
        w->n = index + 1;
    }
    return &w->samples[index];
}

/* A copy of RUN that lives as long as the writer; h5_free_run() frees it. */
static void copy_run(struct dump_run *to, const struct dump_run *from)
{
    const char **texts[] = {&to->model,     &to->fingerprint, &to->command, &to->config,
                            &to->method,    &to->dtype,       &to->backend, &to->score_kind,
                            &to->attn_rows, &to->version,     &to->commit};
    *to = *from;
    for (size_t i = 0; i < COUNT_OF(texts); i++) *texts[i] = xstrdup(*texts[i] ? *texts[i] : "");
    int *layers = xcalloc((size_t)from->M + 1, sizeof *layers);
    for (int m = 0; m < from->M; m++) layers[m] = from->layers[m];
    to->layers = layers;
}

static void writer_free(struct dump_writer *w)
{
    if (w->lock >= 0) close(w->lock);
    h5_free_run(&w->run);
    free(w->samples);
    free(w->path);
    free(w->folder);
    free(w);
}

/* ---- resuming */

/* Checks that finished sample INDEX was made by the same work, and takes its prompt hash. */
static int adopt(struct dump_writer *w, int index)
{
    char *path = sample_path(w, index, ""), *name = xprintf("%06d", index);
    char *hash = NULL, *end;
    hid_t file = -1, samples = -1, group = -1;
    struct dump_run run = {0};
    uint32_t fields;
    bool f32;
    const char *what;
    int rc = -1;

    if ((file = h5_open_file(path)) < 0 || h5_get_run(path, file, &run, &fields, &f32)) goto done;
    what = h5_run_difference(&run, &w->run);
    if (what == NULL && fields != w->options.fields) what = "fields";
    if (what == NULL && f32 != w->options.f32) what = "float";
    if (what) {
        fail("%s: was made by another run: its \"%s\" differs; trace to another file, or remove %s",
             path, what, w->folder);
        goto done;
    }
    if (strcmp(run.commit, w->run.commit) != 0)
        note("%s: goes on with samples made by commit %s", w->folder, run.commit);
    if ((samples = h5_open_group(file, "samples")) < 0 ||
        (group = h5_open_group(samples, name)) < 0) {
        fail("%s: has no group samples/%s", path, name);
        goto done;
    }
    if (h5_get_string(path, group, "prompt_hash", &hash)) goto done;
    struct finished *s = sample_at(w, index);
    s->hash = strtoull(hash, &end, 16);
    s->is = true;
    if (end == hash || *end) {
        fail("%s: prompt_hash: expected hexadecimal digits, found \"%s\"", path, hash);
        goto done;
    }
    rc = 0;

done:
    free(hash);
    h5_free_run(&run);
    if (group >= 0) H5Gclose(group);
    if (samples >= 0) H5Gclose(samples);
    if (file >= 0) H5Fclose(file);
    free(path);
    free(name);
    return rc;
}

/* Takes over the finished samples of the folder and removes half-written ones. */
static int scan(struct dump_writer *w)
{
    DIR *d = opendir(w->folder);
    int rc = 0;
    if (d == NULL) return fail("%s: cannot be opened: %s", w->folder, strerror(errno));
    for (struct dirent *e; rc == 0 && (e = readdir(d)) != NULL;) {
        const int index = h5_sample_number(e->d_name, "");
        if (index >= 0)
            rc = adopt(w, index);
        else if (h5_sample_number(e->d_name, ".tmp") >= 0)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
    return rc;
}

/* ---- a run's life */

static int check_run(const char *path, const struct dump_run *r, const struct dump_options *o)
{
    const uint32_t topk = 1u << DUMP_TOPK_IDX | 1u << DUMP_TOPK_MASS;
    if (o->fields & topk && r->K < 1) return fail("%s: topk_* needs a K of at least 1", path);
    if (o->fields >> DUMP_SELECTED_IDX & 1 && r->M < 1)
        return fail("%s: selected_idx needs a method with filter layers", path);
    if (r->L < 1 || r->H < 1 || r->G < 1 || r->D < 1 || r->E < 1 || r->V < 1 || r->G > r->H)
        return fail("%s: the run's dimensions are incomplete", path);
    return 0;
}

struct dump_writer *dump_create(const char *path, const struct dump_run *run,
                                const struct dump_options *options)
{
    struct dump_writer *w = xcalloc(1, sizeof *w);
    struct stat st;

    h5_start();
    w->lock = -1;
    w->index = -1;
    w->path = xstrdup(path);
    w->folder = xprintf("%s.part", path);
    w->options = *options;
    w->options.fields &= ~((1u << (DUMP_STEP_NLL + 1)) - 1); /* every sample has the basic ones */
    copy_run(&w->run, run);

    if (check_run(path, run, options)) goto failed;
    if (lstat(path, &st) == 0) {
        fail("%s: exists already; remove it or name another file", path);
        goto failed;
    }
    if (make_parents(path)) goto failed;
    if (mkdir(w->folder, 0777) != 0) {
        if (errno != EEXIST) {
            fail("%s: cannot be created: %s", w->folder, strerror(errno));
            goto failed;
        }
        if (!options->resume) {
            fail("%s: an unfinished run is there; go on with --resume, or remove it", w->folder);
            goto failed;
        }
    }
    w->lock = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->lock < 0) {
        fail("%s: cannot be opened: %s", w->folder, strerror(errno));
        goto failed;
    }
    if (flock(w->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        fail("%s: another program is writing there", w->folder);
        goto failed;
    }
    if (scan(w)) goto failed;
    return w;

failed:
    writer_free(w);
    return NULL;
}

int dump_sample_done(struct dump_writer *w, int index, uint64_t hash)
{
    if (index < 0 || index >= MOST_SAMPLES)
        return fail("%s: sample %d: expected 0 to %d", w->path, index, MOST_SAMPLES - 1);
    struct finished *s = sample_at(w, index);
    if (!s->is) return 0;
    if (s->hash != hash)
        return fail("%s: finished sample %d has another prompt than this run's", w->folder, index);
    s->wanted = true;
    return 1;
}

int dump_sample_begin(struct dump_writer *w, int index, const struct dump_sample *sample, int max_T,
                      int max_S, int max_selected)
{
    char *path, *name;
    if (w->out) return fail("%s: sample %d is not finished", w->path, w->index);
    if (index < 0 || index >= MOST_SAMPLES)
        return fail("%s: sample %d: expected 0 to %d", w->path, index, MOST_SAMPLES - 1);
    if (max_T < 1 || max_S < 0 || max_selected < 0 ||
        (w->options.fields >> DUMP_SELECTED_IDX & 1 && max_selected < 1))
        return fail("%s: sample %d: %d tokens, %d steps, %d selected cannot be recorded", w->path,
                    index, max_T, max_S, max_selected);
    path = sample_path(w, index, ".tmp");
    name = xprintf("%s: sample %d", w->path, index);
    w->out = sample_out_open(path, name, index, &w->run, &w->options, sample, max_T, max_S,
                             max_selected);
    w->index = index;
    w->hash = sample->prompt_hash;
    free(path);
    free(name);
    return w->out ? 0 : -1;
}

int dump_put(struct dump_writer *w, enum dump_field field, int step, int layer, int row,
             const float *values, int n)
{
    if (w->out == NULL) return fail("%s: no sample is begun", w->path);
    return sample_out_put(w->out, field, step, layer, row, values, n);
}

int dump_put_halves(struct dump_writer *w, enum dump_field field, int step, int layer, int row,
                    const uint16_t *values, int n)
{
    if (w->out == NULL) return fail("%s: no sample is begun", w->path);
    return sample_out_put_halves(w->out, field, step, layer, row, values, n);
}

int dump_put_int(struct dump_writer *w, enum dump_field field, int step, int layer,
                 const int *values, int n)
{
    if (w->out == NULL) return fail("%s: no sample is begun", w->path);
    return sample_out_put_int(w->out, field, step, layer, values, n);
}

void dump_thread(void)
{
    h5_start(); /* a thread-safe HDF5 keeps what to print of errors for each thread */
}

int dump_sample_finish(struct dump_writer *w, const struct dump_sample_end *end)
{
    char *part = sample_path(w, w->index, ".tmp"), *whole = sample_path(w, w->index, "");
    struct sample_out *out = w->out;
    int rc = -1;

    w->out = NULL;
    if (out == NULL) {
        fail("%s: no sample is begun", w->path);
    } else if (sample_out_finish(out, end) == 0) {
        if (rename(part, whole) != 0 || sync_path(w->folder) != 0)
            fail("%s: cannot be written: %s", whole, strerror(errno));
        else
            rc = 0;
    }
    if (rc == 0) {
        struct finished *s = sample_at(w, w->index);
        *s = (struct finished){.is = true, .wanted = true, .hash = w->hash};
    }
    free(part);
    free(whole);
    return rc;
}

/* ---- joining */

/* Copies finished sample I into the group SAMPLES of the new file. */
static int join_one(struct dump_writer *w, hid_t samples, int i)
{
    char *path = sample_path(w, i, ""), *name = xprintf("%06d", i);
    hid_t file = h5_open_file(path), from_samples = -1, from = -1, to = -1;
    int rc = -1;

    if (file < 0) goto done;
    from_samples = h5_open_group(file, "samples");
    if (from_samples < 0 || (from = h5_open_group(from_samples, name)) < 0) {
        fail("%s: has no group samples/%s", path, name);
        goto done;
    }
    errno = 0;
    if ((to = h5_create_group(samples, name)) < 0) {
        h5_write_failed(w->path);
        goto done;
    }
    rc = join_sample(path, from, w->path, to);

done:
    errno = 0;
    if (to >= 0 && H5Gclose(to) < 0 && rc == 0) rc = h5_write_failed(w->path);
    if (from >= 0) H5Gclose(from);
    if (from_samples >= 0) H5Gclose(from_samples);
    if (file >= 0) H5Fclose(file);
    free(path);
    free(name);
    return rc;
}

/* Copies all finished samples into the new file TEMPORARY. */
static int join_into(struct dump_writer *w, const char *temporary)
{
    int rc = -1;
    hid_t file = -1, samples = -1;

    errno = 0;
    if ((file = h5_create_file(temporary)) < 0 ||
        h5_put_run(file, &w->run, w->options.fields, w->options.f32) ||
        (samples = h5_create_group(file, "samples")) < 0) {
        h5_write_failed(w->path);
        goto done;
    }
    for (int i = 0; i < w->n; i++)
        if (join_one(w, samples, i)) goto done;
    rc = 0;

done:
    errno = 0;
    if (samples >= 0 && H5Gclose(samples) < 0 && rc == 0) rc = h5_write_failed(w->path);
    if (file >= 0 && H5Fclose(file) < 0 && rc == 0) rc = h5_write_failed(w->path);
    if (rc == 0 && sync_path(temporary) != 0) rc = h5_write_failed(w->path);
    return rc;
}

static int join(struct dump_writer *w)
{
    char *temporary = xprintf("%s.tmp", w->path), *parent = xstrdup(w->path), *slash;
    char *whole = NULL;
    int rc = -1;

    if (w->n == 0) {
        fail("%s: no sample was traced", w->path);
        goto done;
    }
    for (int i = 0; i < w->n; i++)
        if (!w->samples[i].is || !w->samples[i].wanted) {
            fail("%s: sample %d %s", w->samples[i].is ? w->folder : w->path, i,
                 w->samples[i].is ? "is finished there, but not part of this run"
                                  : "was not traced");
            goto done;
        }
    /* the file of a single sample is what the joined one would hold: it need not be written twice
     */
    whole = w->n == 1 ? sample_path(w, 0, "") : xstrdup(temporary);
    if (w->n > 1 && join_into(w, temporary)) goto done;
    errno = 0;
    if (rename(whole, w->path) != 0) {
        h5_write_failed(w->path);
        goto done;
    }
    slash = strrchr(parent, '/');
    if (slash) slash[slash == parent] = 0;
    if (sync_path(slash ? parent : ".") != 0) {
        h5_write_failed(w->path);
        goto done;
    }
    for (int i = 0; i < w->n; i++) {
        char *path = sample_path(w, i, "");
        unlink(path);
        free(path);
    }
    if (rmdir(w->folder) != 0 && errno != ENOENT)
        note("%s: the dump is whole, but this folder stays: %s", w->folder, strerror(errno));
    rc = 0;

done:
    if (rc) unlink(temporary);
    free(temporary);
    free(whole);
    free(parent);
    return rc;
}

int dump_finish(struct dump_writer *w, int rc)
{
    int whole = 0;
    if (w == NULL) return rc;
    if (w->out && rc == 0) rc = fail("%s: sample %d is not finished", w->path, w->index);
    sample_out_abandon(w->out);
    for (int i = 0; i < w->n; i++) whole += w->samples[i].is;
    if (rc == 0) rc = join(w);
    if (rc && whole)
        note("%s: %d finished sample%s kept; go on with --resume", w->folder, whole,
             whole == 1 ? "" : "s");
    else if (rc)
        rmdir(w->folder);
    writer_free(w);
    return rc;
}
