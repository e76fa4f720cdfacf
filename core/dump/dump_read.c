/* dump_read.c - read a dump: open it, describe its samples, hand out steps. */
#include "core/dump/dump_read.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/dump/set_in.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct dump {
    char *path;
    struct dump_run run; /* owned */
    uint32_t fields;     /* that the run records */
    bool f32;
    int n;        /* samples */
    int *numbers; /* [n] of the samples in a .part folder; NULL for one file */
    hid_t file;   /* the dump, or in a folder the open sample's */
    int sample;   /* the open one, -1: none */
    char *name;   /* the open sample's, for messages */
    struct dump_sample_info info;
    struct set_in sets[DUMP_FIELD_COUNT];
    struct set_space space;
};

const char *dump_path(const struct dump *d)
{
    return d->path;
}

const struct dump_run *dump_run(const struct dump *d)
{
    return &d->run;
}

int dump_samples(const struct dump *d)
{
    return d->n;
}

static int ascending(const void *a, const void *b)
{
    const int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}

/* Lists the finished samples of the folder of an unfinished run. */
static int list_folder(struct dump *d)
{
    DIR *dir = opendir(d->path);
    if (dir == NULL) return fail("%s: cannot be opened: %s", d->path, strerror(errno));
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        const int index = h5_sample_number(e->d_name, "");
        if (index < 0) continue;
        d->numbers = xrealloc(d->numbers, (size_t)(d->n + 1) * sizeof *d->numbers);
        d->numbers[d->n++] = index;
    }
    closedir(dir);
    if (d->n == 0) return fail("%s: holds no finished sample", d->path);
    qsort(d->numbers, (size_t)d->n, sizeof *d->numbers, ascending);
    return 0;
}

/* The number in the name of sample I. */
static int number_of(const struct dump *d, int i)
{
    return d->numbers ? d->numbers[i] : i;
}

/* Opens the file that holds sample I of a folder. */
static int open_member(struct dump *d, int i)
{
    char *file = xprintf("%06d.h5", number_of(d, i)), *path = path_join(d->path, file);
    if (d->file >= 0) H5Fclose(d->file);
    d->file = h5_open_file(path);
    free(path);
    free(file);
    return d->file < 0 ? -1 : 0;
}

static int count_samples(struct dump *d)
{
    H5G_info_t info;
    hid_t samples = h5_open_group(d->file, "samples");
    int rc = -1;
    if (samples < 0 || H5Gget_info(samples, &info) < 0 || info.nlinks < 1 || info.nlinks > 1000000)
        fail("%s: is damaged: expected a group \"samples\" with at least one sample", d->path);
    else
        rc = 0;
    if (rc == 0) d->n = (int)info.nlinks;
    if (samples >= 0) H5Gclose(samples);
    return rc;
}

struct dump *dump_open(const char *path)
{
    struct dump *d = xcalloc(1, sizeof *d);
    struct stat st;

    h5_start();
    d->path = xstrdup(path);
    d->file = d->sample = -1;
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) d->sets[f].id = -1;
    if (stat(path, &st) != 0) {
        char *part = xprintf("%s.part", path);
        if (errno == ENOENT && stat(part, &st) == 0 && S_ISDIR(st.st_mode))
            fail("%s: is not finished; %s holds its finished samples", path, part);
        else
            fail("%s: cannot be opened: %s", path, strerror(errno));
        free(part);
        goto failed;
    }
    if (S_ISDIR(st.st_mode)) {
        if (list_folder(d) || open_member(d, 0)) goto failed;
    } else {
        if ((d->file = h5_open_file(path)) < 0) goto failed;
    }
    if (h5_get_run(path, d->file, &d->run, &d->fields, &d->f32)) goto failed;
    if (d->numbers == NULL && count_samples(d)) goto failed;
    return d;

failed:
    dump_close(d);
    return NULL;
}

static void close_sample(struct dump *d)
{
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) set_in_close(&d->sets[f]);
    free((char *)d->info.task);
    free((char *)d->info.output);
    free((char *)d->info.answers);
    free(d->name);
    d->name = NULL;
    d->info = (struct dump_sample_info){0};
    d->sample = -1;
}

void dump_close(struct dump *d)
{
    if (d == NULL) return;
    close_sample(d);
    if (d->file >= 0) H5Fclose(d->file);
    h5_free_run(&d->run);
    set_space_close(&d->space);
    free(d->numbers);
    free(d->path);
    free(d);
}

/* ---- a sample */

static int get_attributes(struct dump *d, hid_t group)
{
    struct dump_sample_info *n = &d->info;
    char *text = NULL, *end;
    int rc = -1;

    if (h5_get_string(d->name, group, "task", &text)) goto done;
    n->task = text;
    if (h5_get_string(d->name, group, "output", &text)) goto done;
    n->output = text;
    if (h5_get_string(d->name, group, "answers", &text)) goto done;
    n->answers = text;
    if (h5_get_string(d->name, group, "prompt_hash", &text)) goto done;
    n->prompt_hash = strtoull(text, &end, 16);
    const bool hexadecimal = end != text && *end == 0;
    if (!hexadecimal)
        fail("%s: prompt_hash: expected hexadecimal digits, found \"%s\"", d->name, text);
    free(text);
    if (!hexadecimal || h5_get_int(d->name, group, "n_prefill", 0, INT_MAX, &n->n_prefill))
        goto done;
    rc = 0;

done:
    return rc;
}

/* Opens the datasets of GROUP and learns from them what the run does not say: T, S, R, k and the
 * bytes of text; then checks each against all. */
static int open_sets(struct dump *d, hid_t group)
{
    struct dump_sample_info *n = &d->info;
    const struct dump_run *r = &d->run;
    int64_t dims[DUMP_FIELD_COUNT][4];

    for (int f = 0; f < DUMP_FIELD_COUNT; f++) {
        if (set_in_open(&d->sets[f], d->name, group, (enum dump_field)f, dims[f])) return -1;
        const bool basic = f == DUMP_TOKENS || f == DUMP_STEP_POS || f == DUMP_STEP_NLL;
        if (d->sets[f].id >= 0)
            n->fields |= 1u << f;
        else if (basic || d->fields >> f & 1)
            return fail("%s: has no %s", d->name, dump_field_info((enum dump_field)f)->name);
    }
    if (!(n->fields >> DUMP_TEXT & 1) != !(n->fields >> DUMP_TEXT_END & 1))
        return fail("%s: has only one of text and text_end", d->name);
    n->T = (int)dims[DUMP_TOKENS][0];
    n->S = (int)dims[DUMP_STEP_POS][0];
    n->k = n->fields >> DUMP_SELECTED_IDX & 1 ? (int)dims[DUMP_SELECTED_IDX][2] : 0;
    n->R = n->fields >> DUMP_ATTN & 1 ? dump_rows_of(r) : 0;
    n->text_bytes = n->fields >> DUMP_TEXT & 1 ? (int)dims[DUMP_TEXT][0] : 0;
    if (n->T < 1 || n->n_prefill > n->T)
        return fail("%s: expected n_prefill <= T, found %d of %d tokens", d->name, n->n_prefill,
                    n->T);
    const struct dump_dims wanted = {r->L, r->G, r->K, r->M, n->T, n->S, n->R, n->k, n->text_bytes};
    for (int f = 0; f < DUMP_FIELD_COUNT; f++)
        if (d->sets[f].id >= 0 && set_in_check(&d->sets[f], d->name, &wanted)) return -1;
    return 0;
}

int dump_sample(struct dump *d, int i, struct dump_sample_info *info)
{
    char *group_name;
    hid_t group = -1, samples = -1;
    int rc = -1;

    if (i < 0 || i >= d->n) return fail("%s: sample %d: expected 0 to %d", d->path, i, d->n - 1);
    if (d->sample == i) {
        if (info) *info = d->info;
        return 0;
    }
    close_sample(d);
    if (d->numbers && open_member(d, i)) return -1;
    d->name = xprintf("%s: sample %d", d->path, number_of(d, i));
    group_name = xprintf("%06d", number_of(d, i));
    samples = h5_open_group(d->file, "samples");
    if (samples >= 0) group = h5_open_group(samples, group_name);
    if (group < 0) {
        fail("%s: is missing: no group samples/%s", d->name, group_name);
        goto done;
    }
    if (get_attributes(d, group) || open_sets(d, group)) goto done;
    d->sample = i;
    if (info) *info = d->info;
    rc = 0;

done:
    if (group >= 0) H5Gclose(group);
    if (samples >= 0) H5Gclose(samples);
    free(group_name);
    if (rc) close_sample(d);
    return rc;
}

/* ---- its values */

static int read_field(struct dump *d, int i, enum dump_field field, int step, void *out,
                      enum dump_store kind)
{
    const char *name = dump_field_info(field)->name;
    if (dump_sample(d, i, NULL)) return -1;
    struct set_in *f = &d->sets[field];
    if (dump_store_of(field, true) != kind)
        return fail("%s: %s is not a field of %s", d->name, name,
                    kind == STORE_F32   ? "floats"
                    : kind == STORE_I32 ? "whole numbers"
                                        : "bytes");
    if (f->id < 0) return fail("%s: %s was not recorded", d->name, name);
    if (f->shape.stepped && (step < 0 || step >= d->info.S))
        return fail("%s: %s: step %d: expected 0 to %d", d->name, name, step, d->info.S - 1);
    return set_in_read(f, d->name, &d->space, step, out);
}

int dump_rows(struct dump *d, int i, enum dump_field field, int step, float *out)
{
    return read_field(d, i, field, step, out, STORE_F32);
}

int dump_ints(struct dump *d, int i, enum dump_field field, int step, int *out)
{
    return read_field(d, i, field, step, out, STORE_I32);
}

int dump_text(struct dump *d, int i, uint8_t *out)
{
    return read_field(d, i, DUMP_TEXT, 0, out, STORE_U8);
}
