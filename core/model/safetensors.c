/* safetensors.c - one mapped safetensors file. */
#include "core/model/safetensors.h"
#include "core/base/base.h"
#include "core/base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONGEST_HEADER 100000000u /* bytes, the limit of the reference implementation */
#define EXACT 0x1p53              /* JSON numbers are doubles: whole numbers up to here are exact */

static const struct {
    const char *name;
    unsigned bits;
} dtypes[] = {
    {"BOOL", 8},    {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F4", 4},   {"U16", 16}, {"I16", 16},    {"F16", 16},
    {"BF16", 16},   {"U32", 32}, {"I32", 32}, {"F32", 32},    {"U64", 64},
    {"I64", 64},    {"F64", 64}, {"C64", 64}, {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

const char *safetensors_shape(const struct safetensor *t, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)t->shape[i]);
    if (used < size) snprintf(text + used, size - used, "]");
    return text;
}

/* A whole number of [0, 2^53]. */
static int read_size(const char *where, const char *what, const cJSON *item, size_t *value)
{
    if (!cJSON_IsNumber(item))
        return fail("%s: %s: expected a whole number, found %s", where, what, json_kind(item));
    double v = item->valuedouble;
    if (!(v >= 0 && v <= EXACT) || v != (double)(size_t)v)
        return fail("%s: %s: expected a whole number of at least 0, found %g", where, what, v);
    *value = (size_t)v;
    return 0;
}

/* Bytes that the shape and dtype of T call for; WHERE names the tensor. */
static int shape_bytes(const char *where, const struct safetensor *t, size_t *bytes)
{
    size_t bits = 0;
    for (size_t i = 0; i < COUNT_OF(dtypes); i++)
        if (strcmp(t->dtype, dtypes[i].name) == 0) bits = dtypes[i].bits;
    if (bits == 0)
        return fail("%s: dtype: expected a dtype of safetensors, found %s", where, t->dtype);
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(bits, (size_t)t->shape[i], &bits)) {
            char text[160];
            return fail("%s: shape %s: its size overflows", where,
                        safetensors_shape(t, text, sizeof text));
        }
    if (bits % 8 != 0) return fail("%s: shape: expected a whole number of bytes", where);
    *bytes = bits / 8;
    return 0;
}

static int read_tensor(struct safetensor *t, const char *where, const cJSON *item)
{
    const cJSON *shape = json_member(item, "shape"), *range = json_member(item, "data_offsets");
    const char *dtype = NULL;
    size_t bytes = 0, extent = 0;
    int i = 0;

    if (!cJSON_IsObject(item))
        return fail("%s: expected an object, found %s", where, json_kind(item));
    if (json_string(where, item, "dtype", &dtype)) return -1;
    if (dtype == NULL || !cJSON_IsArray(shape) || !cJSON_IsArray(range))
        return fail("%s: expected dtype, shape and data_offsets, found no %s", where,
                    dtype == NULL           ? "dtype"
                    : !cJSON_IsArray(shape) ? "list \"shape\""
                                            : "list \"data_offsets\"");
    if (strlen(dtype) >= sizeof t->dtype)
        return fail("%s: dtype: expected a dtype of safetensors, found %s", where, dtype);
    strcpy(t->dtype, dtype);
    for (const cJSON *s = shape->child; s; s = s->next) {
        if (t->rank == SAFETENSORS_MAX_RANK)
            return fail("%s: shape: expected at most %d dimensions, found more", where,
                        SAFETENSORS_MAX_RANK);
        if (read_size(where, "shape", s, &extent)) return -1;
        t->shape[t->rank++] = (int64_t)extent;
    }
    for (const cJSON *r = range->child; r; r = r->next, i++)
        if (i < 2 && read_size(where, "data_offsets", r, i ? &t->end : &t->begin)) return -1;
    if (i != 2 || t->end < t->begin)
        return fail("%s: data_offsets: expected [begin, end], found %s", where,
                    i != 2 ? "another number of values" : "an end before the begin");
    if (shape_bytes(where, t, &bytes)) return -1;
    if (t->end - t->begin != bytes)
        return fail("%s: data_offsets: expected %zu bytes for its shape and dtype, found %zu",
                    where, bytes, t->end - t->begin);
    return 0;
}

static int by_position(const void *a, const void *b)
{
    const struct safetensor *p = a, *q = b;
    if (p->begin != q->begin) return p->begin < q->begin ? -1 : 1;
    if (p->end != q->end) return p->end < q->end ? -1 : 1; /* empty tensors first */
    return strcmp(p->name, q->name);
}

/* The ranges must cover the SIZE bytes of data exactly, one after the other. */
static int check_ranges(const struct safetensors *s, size_t size)
{
    size_t reached = 0;
    for (int i = 0; i < s->n; i++) {
        const struct safetensor *t = &s->tensor[i];
        if (t->end > size)
            return fail("%s: \"%s\": expected to end within the %zu bytes of data, found an end "
                        "at %zu; is the file cut short?",
                        s->path, t->name, size, t->end);
        if (t->begin < reached)
            return fail("%s: \"%s\": overlaps \"%s\": expected to begin at %zu, found %zu", s->path,
                        t->name, s->tensor[i - 1].name, reached, t->begin);
        if (t->begin > reached)
            return fail("%s: \"%s\": expected to begin at %zu where the data before it end, found "
                        "%zu",
                        s->path, t->name, reached, t->begin);
        reached = t->end;
    }
    if (reached != size)
        return fail("%s: expected %zu bytes of data for its tensors, found %zu", s->path, reached,
                    size);
    return 0;
}

static int read_header(struct safetensors *s, const char *text, size_t length)
{
    int rc = -1, count = 0;
    size_t room = 0;
    char *name = xprintf("%s: header", s->path), *at;
    cJSON *root = json_parse(name, text, length);

    if (root == NULL) goto done;
    if (!cJSON_IsObject(root)) {
        fail("%s: expected an object, found %s", name, json_kind(root));
        goto done;
    }
    for (const cJSON *item = root->child; item; item = item->next, count++)
        room += strlen(item->string) + 1;
    s->tensor = xcalloc((size_t)count + 1, sizeof *s->tensor);
    at = s->names = xmalloc(room + 1);
    for (const cJSON *item = root->child; item; item = item->next) {
        if (strcmp(item->string, "__metadata__") == 0) continue;
        struct safetensor *t = &s->tensor[s->n++];
        t->name = strcpy(at, item->string);
        at += strlen(at) + 1;
        char *where = xprintf("%s: \"%s\"", s->path, t->name);
        int bad = read_tensor(t, where, item);
        free(where);
        if (bad) goto done;
    }
    qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, by_position);
    rc = check_ranges(s, s->size - 8 - length);
    for (int i = 0; i < s->n; i++)
        s->tensor[i].data = (const unsigned char *)s->map + 8 + length + s->tensor[i].begin;

done:
    cJSON_Delete(root);
    free(name);
    return rc;
}

struct safetensors *safetensors_open(const char *path)
{
    struct safetensors *s = xcalloc(1, sizeof *s);
    struct stat st;
    uint64_t length = 0;
    int rc = -1, fd;

    s->path = xstrdup(path);
    s->map = MAP_FAILED;
    /* A pipe in the place of the file must not block the program: O_NONBLOCK. */
    if ((fd = open(path, O_RDONLY | O_NONBLOCK)) < 0 || fstat(fd, &st) != 0) {
        fail("%s: cannot be opened: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        fail("%s: expected a file, found something else", path);
        goto done;
    }
    if (st.st_size < 8) {
        fail("%s: expected a safetensors file of at least 8 bytes, found %lld", path,
             (long long)st.st_size);
        goto done;
    }
    s->size = (size_t)st.st_size;
    s->map = mmap(NULL, s->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (s->map == MAP_FAILED) {
        fail("%s: cannot be mapped: %s", path, strerror(errno));
        goto done;
    }
    for (int i = 0; i < 8; i++) length |= (uint64_t)((unsigned char *)s->map)[i] << (8 * i);
    if (length > LONGEST_HEADER || length > s->size - 8) {
        fail("%s: header: expected a length of at most %zu bytes, found %llu", path,
             s->size - 8 < LONGEST_HEADER ? s->size - 8 : LONGEST_HEADER,
             (unsigned long long)length);
        goto done;
    }
    rc = read_header(s, (const char *)s->map + 8, (size_t)length);

done:
    if (fd >= 0) close(fd);
    if (rc) {
        safetensors_close(s);
        s = NULL;
    }
    return s;
}

void safetensors_close(struct safetensors *s)
{
    if (s == NULL) return;
    if (s->map != MAP_FAILED) munmap(s->map, s->size);
    free(s->tensor);
    free(s->names);
    free(s->path);
    free(s);
}
