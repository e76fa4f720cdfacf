/* h5.c - types, files, attributes and the run's description in HDF5. */
#include "core/dump/h5.h"
#include "core/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT "okv-dump"

enum { MOST_TEXT = 64 << 20 }; /* bytes of an attribute */

#ifdef __SANITIZE_ADDRESS__
/* HDF5 1.10 loses the object header it was decoding when that turns out to be damaged. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}
#endif

void h5_start(void)
{
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

hid_t h5_type(enum dump_store store)
{
    hid_t t = H5Tcopy(store == STORE_I32  ? H5T_STD_I32LE
                      : store == STORE_U8 ? H5T_STD_U8LE
                                          : H5T_IEEE_F32LE);
    if (store == STORE_F16) { /* sign at bit 15, exponent of 5 bits at 10, 10 bits of mantissa */
        H5Tset_fields(t, 15, 10, 5, 0, 10);
        H5Tset_size(t, 2);
        H5Tset_ebias(t, 15);
    }
    return t;
}

hid_t h5_memory_type(enum dump_store store)
{
    return store == STORE_I32  ? H5T_NATIVE_INT
           : store == STORE_U8 ? H5T_NATIVE_UCHAR
                               : H5T_NATIVE_FLOAT;
}

hid_t h5_create_file(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE), file = -1;
    if (H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
        H5Pset_obj_track_times(create, false) >= 0 &&
        H5Pset_attr_phase_change(create, 100, 90) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    H5Pclose(access);
    H5Pclose(create);
    return file;
}

hid_t h5_create_group(hid_t at, const char *name)
{
    hid_t create = H5Pcreate(H5P_GROUP_CREATE), group = -1;
    if (H5Pset_obj_track_times(create, false) >= 0 &&
        H5Pset_attr_phase_change(create, 100, 90) >= 0)
        group = H5Gcreate2(at, name, H5P_DEFAULT, create, H5P_DEFAULT);
    H5Pclose(create);
    return group;
}

/* Reads an address of SIZE bytes, least significant first. */
static uint64_t address(const uint8_t *p, int size)
{
    uint64_t v = 0;
    for (int i = 0; i < size && i < 8; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* Checks the superblock (HDF5 File Format Specification, section II.A): its signature, and that the
 * file is at least as long as it says. */
static int superblock_check(const char *path)
{
    static const uint8_t signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    uint8_t b[96] = {0};
    struct stat st;
    int rc = -1, fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t end;

    if (fd < 0) return fail("%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        fail("%s: expected a dump, found something that is not a file", path);
        goto done;
    }
    const ssize_t got = pread(fd, b, sizeof b, 0);
    if (got < 48 || memcmp(b, signature, 8) != 0) {
        fail("%s: expected a dump (an HDF5 file), found %s", path,
             got <= 0 ? "an empty file" : "something else");
        goto done;
    }
    /* Versions 0 and 1 state the sizes of addresses at byte 13, 2 and 3 at byte 9. Before the end
     * address stand the base and one more. */
    const int version = b[8], size = version < 2 ? b[13] : b[9];
    const int first = version == 0 ? 24 : version == 1 ? 28 : 12;
    if (version > 3 || size != 8) {
        fail("%s: HDF5 superblock version %d with addresses of %d bytes is not supported", path,
             version, size);
        goto done;
    }
    end = address(b + first + 2 * size, size);
    if (address(b + first, size) != 0) {
        fail("%s: HDF5 data that starts after a user block is not supported", path);
        goto done;
    }
    if (end > (uint64_t)st.st_size) {
        fail("%s: is cut: expected %llu bytes, found %lld", path, (unsigned long long)end,
             (long long)st.st_size);
        goto done;
    }
    rc = 0;

done:
    close(fd);
    return rc;
}

hid_t h5_open_file(const char *path)
{
    hid_t access, file;
    if (superblock_check(path)) return -1;
    access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (file < 0) fail("%s: is damaged: HDF5 cannot open it", path);
    return file;
}

static bool own_link(hid_t at, const char *name)
{
    H5L_info_t link;
    return H5Lexists(at, name, H5P_DEFAULT) > 0 && H5Lget_info(at, name, &link, H5P_DEFAULT) >= 0 &&
           link.type == H5L_TYPE_HARD;
}

hid_t h5_open_group(hid_t at, const char *name)
{
    return own_link(at, name) ? H5Gopen2(at, name, H5P_DEFAULT) : -1;
}

hid_t h5_open_set(hid_t at, const char *name)
{
    return own_link(at, name) ? H5Dopen2(at, name, H5P_DEFAULT) : -1;
}

int h5_chunk_bytes(hid_t set, const hsize_t *offset, hsize_t *bytes)
{
    unsigned skipped;
    haddr_t address_of_chunk;

    *bytes = 0;
    if (H5Dget_chunk_storage_size(set, offset, bytes) >= 0) return 0;
    /* That is also how HDF5 answers for a chunk that does not exist. This call knows the
     * difference, but walks through all chunks. */
    if (H5Dget_chunk_info_by_coord(set, offset, &skipped, &address_of_chunk, bytes) < 0) return -1;
    return address_of_chunk == HADDR_UNDEF && *bytes == 0 ? 0 : -1;
}

int h5_write_failed(const char *path)
{
    return fail("%s: cannot be written: %s", path, errno ? strerror(errno) : "HDF5 refuses");
}

int h5_sample_number(const char *name, const char *suffix)
{
    int index = 0;
    for (int i = 0; i < 6; i++) {
        if (name[i] < '0' || name[i] > '9') return -1;
        index = 10 * index + name[i] - '0';
    }
    return strncmp(name + 6, ".h5", 3) == 0 && strcmp(name + 9, suffix) == 0 ? index : -1;
}

/* ---- attributes */

static int put_attribute(hid_t at, const char *name, hid_t disk, hid_t memory, hid_t space,
                         const void *value)
{
    hid_t a = H5Acreate2(at, name, disk, space, H5P_DEFAULT, H5P_DEFAULT);
    int rc = a >= 0 && H5Awrite(a, memory, value) >= 0 ? 0 : -1;
    if (a >= 0) H5Aclose(a);
    H5Sclose(space);
    return rc;
}

/* Text of fixed length lies in the object's header, under its checksum. Text of variable length
 * would lie in a heap without one, and a damaged heap makes HDF5 1.10 read past its end. */
int h5_put_string(hid_t at, const char *name, const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    const char *text = value ? value : "";
    const size_t length = strlen(text);
    H5Tset_size(type, length ? length : 1); /* a length of 0 is not allowed: "" is one NUL */
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    int rc = put_attribute(at, name, type, type, H5Screate(H5S_SCALAR), text);
    H5Tclose(type);
    return rc;
}

int h5_put_int(hid_t at, const char *name, int value)
{
    return put_attribute(at, name, H5T_STD_I32LE, H5T_NATIVE_INT, H5Screate(H5S_SCALAR), &value);
}

int h5_put_u64(hid_t at, const char *name, uint64_t value)
{
    return put_attribute(at, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, H5Screate(H5S_SCALAR), &value);
}

int h5_put_ints(hid_t at, const char *name, const int *v, int n)
{
    const hsize_t length = (hsize_t)n;
    const int none = 0; /* stands for the values of an empty array */
    return put_attribute(at, name, H5T_STD_I32LE, H5T_NATIVE_INT,
                         H5Screate_simple(1, &length, NULL), n ? v : &none);
}

/* Opens attribute NAME, which must have CLASS and hold COUNT values (1: a scalar will do). */
static hid_t open_attribute(const char *path, hid_t at, const char *name, H5T_class_t class,
                            int count, hid_t *type)
{
    hid_t a = -1, space = -1;
    bool ok = false;
    *type = -1;
    if (H5Aexists(at, name) > 0) a = H5Aopen(at, name, H5P_DEFAULT);
    if (a < 0) {
        fail("%s: has no attribute \"%s\"", path, name);
        return -1;
    }
    *type = H5Aget_type(a);
    space = H5Aget_space(a);
    if (*type >= 0 && space >= 0 && H5Tget_class(*type) == class)
        ok = H5Sget_simple_extent_npoints(space) == count;
    if (!ok)
        fail("%s: attribute \"%s\": expected %d %s, found something else", path, name, count,
             class == H5T_STRING ? "text" : "whole number(s)");
    if (space >= 0) H5Sclose(space);
    if (!ok) {
        if (*type >= 0) H5Tclose(*type);
        H5Aclose(a);
        a = *type = -1;
    }
    return a;
}

int h5_get_string(const char *path, hid_t at, const char *name, char **value)
{
    hid_t type, a = open_attribute(path, at, name, H5T_STRING, 1, &type), memory = -1;
    int rc = -1;

    *value = NULL;
    if (a < 0) return -1;
    const size_t size = H5Tget_size(type);
    if (H5Tis_variable_str(type) != 0 || size > MOST_TEXT) {
        fail("%s: attribute \"%s\": expected text of fixed length, found another kind", path, name);
        goto done;
    }
    memory = H5Tcopy(H5T_C_S1);
    H5Tset_size(memory, size + 1); /* one more for the NUL */
    H5Tset_cset(memory, H5Tget_cset(type));
    *value = xcalloc(size + 1, 1);
    if (H5Aread(a, memory, *value) < 0) {
        fail("%s: attribute \"%s\" is damaged", path, name);
        goto done;
    }
    rc = 0;

done:
    if (rc) {
        free(*value);
        *value = NULL;
    }
    if (memory >= 0) H5Tclose(memory);
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

int h5_get_ints(const char *path, hid_t at, const char *name, int n, int min, int max, int *v)
{
    hid_t type, a = open_attribute(path, at, name, H5T_INTEGER, n, &type);
    int rc = -1;
    if (a < 0) return -1;
    if (n && H5Aread(a, H5T_NATIVE_INT, v) < 0) {
        fail("%s: attribute \"%s\" is damaged", path, name);
        goto done;
    }
    for (int i = 0; i < n; i++)
        if (v[i] < min || v[i] > max) {
            fail("%s: attribute \"%s\": expected %d to %d, found %d", path, name, min, max, v[i]);
            goto done;
        }
    rc = 0;

done:
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

int h5_get_int(const char *path, hid_t at, const char *name, int min, int max, int *value)
{
    return h5_get_ints(path, at, name, 1, min, max, value);
}

int h5_get_u64(const char *path, hid_t at, const char *name, uint64_t *value)
{
    hid_t type, a = open_attribute(path, at, name, H5T_INTEGER, 1, &type);
    if (a < 0) return -1;
    int rc = H5Aread(a, H5T_NATIVE_UINT64, value) >= 0 ? 0 : -1;
    if (rc) fail("%s: attribute \"%s\" is damaged", path, name);
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

/* ---- the run */

static const struct {
    const char *name;
    size_t at;
    bool work; /* two runs of the same work agree in it */
} texts[] = {
    {"model", offsetof(struct dump_run, model), true},
    {"fingerprint", offsetof(struct dump_run, fingerprint), true},
    {"command", offsetof(struct dump_run, command), false},
    {"config", offsetof(struct dump_run, config), true},
    {"method", offsetof(struct dump_run, method), true},
    {"dtype", offsetof(struct dump_run, dtype), true},
    {"backend", offsetof(struct dump_run, backend), true},
    {"score_kind", offsetof(struct dump_run, score_kind), true},
    {"attn_rows", offsetof(struct dump_run, attn_rows), true},
    {"program_version", offsetof(struct dump_run, version), false},
    {"commit", offsetof(struct dump_run, commit), false},
};

/* Limits that no model nears, so that products of them fit 64 bits. */
static const struct {
    const char *name;
    size_t at;
    int min, max;
} numbers[] = {
    {"L", offsetof(struct dump_run, L), 1, 1024},
    {"H", offsetof(struct dump_run, H), 1, 1024},
    {"G", offsetof(struct dump_run, G), 1, 1024},
    {"D", offsetof(struct dump_run, D), 1, 65536},
    {"E", offsetof(struct dump_run, E), 1, 1 << 24},
    {"V", offsetof(struct dump_run, V), 1, 1 << 27},
    {"K", offsetof(struct dump_run, K), 0, 1 << 20},
    {"reuse_k", offsetof(struct dump_run, reuse_k), 0, 1 << 27},
    {"M", offsetof(struct dump_run, M), 0, 1024},
    {"full_layers", offsetof(struct dump_run, full_layers), 0, 1024},
};

static const char *text_of(const struct dump_run *r, size_t at)
{
    const char *v;
    memcpy(&v, (const char *)r + at, sizeof v);
    return v ? v : "";
}

static int number_of(const struct dump_run *r, size_t at)
{
    int v;
    memcpy(&v, (const char *)r + at, sizeof v);
    return v;
}

/* "mass,score": the caller frees it. */
static char *field_names(uint32_t fields)
{
    char *list = xstrdup("");
    for (int f = 0; f < DUMP_FIELD_COUNT; f++) {
        if (!(fields >> f & 1)) continue;
        char *longer =
            xprintf("%s%s%s", list, *list ? "," : "", dump_field_info((enum dump_field)f)->name);
        free(list);
        list = longer;
    }
    return list;
}

int h5_put_run(hid_t at, const struct dump_run *run, uint32_t fields, bool f32)
{
    char *names = field_names(fields);
    int rc = 0;
    rc |= h5_put_string(at, "format", FORMAT);
    rc |= h5_put_int(at, "format_version", DUMP_VERSION);
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        rc |= h5_put_string(at, texts[i].name, text_of(run, texts[i].at));
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        rc |= h5_put_int(at, numbers[i].name, number_of(run, numbers[i].at));
    rc |= h5_put_ints(at, "layers", run->layers, run->M);
    rc |= h5_put_int(at, "random_weights", run->random_weights);
    rc |= h5_put_u64(at, "seed", run->seed);
    rc |= h5_put_string(at, "fields", names);
    rc |= h5_put_string(at, "float", f32 ? "f32" : "f16");
    free(names);
    return rc;
}

static int get_fields(const char *path, hid_t at, uint32_t *fields)
{
    char *list = NULL, *rest, *name;
    int rc = h5_get_string(path, at, "fields", &list);
    *fields = 0;
    for (rest = list; rc == 0 && rest && *rest && (name = strsep(&rest, ",")) != NULL;) {
        const int f = dump_field_find(name);
        if (f < 0)
            rc = fail("%s: attribute \"fields\": \"%s\" is not a known field", path, name);
        else
            *fields |= 1u << f;
    }
    free(list);
    return rc;
}

int h5_get_run(const char *path, hid_t at, struct dump_run *r, uint32_t *fields, bool *f32)
{
    int rc = -1, version, flag = 0, *layers = NULL;
    char *text = NULL;

    memset(r, 0, sizeof *r);
    if (h5_get_string(path, at, "format", &text)) goto done;
    if (strcmp(text, FORMAT) != 0) {
        fail("%s: attribute \"format\": expected \"%s\", found \"%s\"", path, FORMAT, text);
        goto done;
    }
    if (h5_get_int(path, at, "format_version", 1, INT_MAX, &version)) goto done;
    if (version > DUMP_VERSION) {
        fail("%s: has format version %d; this program reads up to %d", path, version, DUMP_VERSION);
        goto done;
    }
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        char *value;
        if (h5_get_string(path, at, texts[i].name, &value)) goto done;
        memcpy((char *)r + texts[i].at, &value, sizeof value);
    }
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (h5_get_int(path, at, numbers[i].name, numbers[i].min, numbers[i].max,
                       (int *)(void *)((char *)r + numbers[i].at)))
            goto done;
    if (r->G > r->H || r->M > r->L || r->full_layers > r->L) {
        fail("%s: expected G <= H, M <= L and full_layers <= L, found G %d, H %d, M %d, "
             "full_layers %d, L %d",
             path, r->G, r->H, r->M, r->full_layers, r->L);
        goto done;
    }
    r->layers = layers = xcalloc((size_t)r->M + 1, sizeof *layers);
    if (h5_get_ints(path, at, "layers", r->M, 0, r->L - 1, layers)) goto done;
    if (h5_get_int(path, at, "random_weights", 0, 1, &flag)) goto done;
    if (h5_get_u64(path, at, "seed", &r->seed)) goto done;
    if (get_fields(path, at, fields)) goto done;
    r->random_weights = flag;
    free(text);
    if (h5_get_string(path, at, "float", &text)) goto done;
    *f32 = strcmp(text, "f32") == 0;
    rc = 0;

done:
    free(text);
    if (rc) h5_free_run(r);
    return rc;
}

void h5_free_run(struct dump_run *r)
{
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        char *value;
        memcpy(&value, (char *)r + texts[i].at, sizeof value);
        free(value);
    }
    free((int *)r->layers);
    memset(r, 0, sizeof *r);
}

const char *h5_run_difference(const struct dump_run *a, const struct dump_run *b)
{
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        if (texts[i].work && strcmp(text_of(a, texts[i].at), text_of(b, texts[i].at)) != 0)
            return texts[i].name;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (number_of(a, numbers[i].at) != number_of(b, numbers[i].at)) return numbers[i].name;
    for (int m = 0; m < a->M; m++)
        if (a->layers[m] != b->layers[m]) return "layers";
    if (a->seed != b->seed) return "seed";
    return a->random_weights != b->random_weights ? "random_weights" : NULL;
}
