/* test_dump_hostile.c - dumps that others have rewritten, twisted, cut or damaged. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/dump/codec.h"
#include "tests/check.h"
#include "tests/made_dump.h"

#include <hdf5.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *nowhere(void)
{
    static FILE *f;
    if (f == NULL) f = fopen("/dev/null", "w");
    return f;
}

/* ---- datasets written by other tools */

/* Replaces sample 0's mass in the small dump at PATH by one of another layout and type. */
static void rewrite_mass(const char *path, hid_t type, hid_t create)
{
    const struct dump_shape n = made_shape(&made_small, DUMP_MASS);
    const hsize_t dims[3] = {(hsize_t)n.S, (hsize_t)n.A, (hsize_t)n.W};
    float *v = xmalloc((size_t)(n.S * n.A * n.W) * sizeof *v);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), space = H5Screate_simple(3, dims, NULL);
    hid_t set = H5Dopen2(file, "samples/000000/mass", H5P_DEFAULT);
    H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v);
    H5Dclose(set);
    H5Ldelete(file, "samples/000000/mass", H5P_DEFAULT);
    set = H5Dcreate2(file, "samples/000000/mass", type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    CHECK(set >= 0 && H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v) >= 0,
          "mass is not rewritten");
    H5Dclose(set);
    H5Sclose(space);
    H5Fclose(file);
    free(v);
}

static void foreign_layouts_are_read(void)
{
    const hsize_t chunk[3] = {3, 2, 32}, whole[3] = {7, 5, 60};
    const char *path = check_scratch("foreign");
    for (int kind = 0; kind < 6; kind++) {
        hid_t create = H5Pcreate(H5P_DATASET_CREATE), type = H5T_IEEE_F32LE;
        unlink(path);
        CHECK(made_write(path, &made_small, 1) == 0, "foreign");
        if (kind == 1) type = H5T_IEEE_F64BE;
        if (kind == 2) H5Pset_layout(create, H5D_COMPACT);
        if (kind >= 3) H5Pset_chunk(create, 3, kind == 5 ? whole : chunk);
        if (kind == 4) H5Pset_deflate(create, 6);
        if (kind == 5) {
            H5Pset_fletcher32(create);
            H5Pset_shuffle(create);
        }
        rewrite_mass(path, type, create);
        made_compare(path, &made_small, 1);
        CHECK(dump_check(path, nowhere()) == 0, "kind %d is not whole", kind);
        H5Pclose(create);
    }
}

/* A chunk that was never written holds the fill value. */
static void missing_chunks_are_fill(void)
{
    const char *path = check_scratch("missing");
    const hsize_t chunk[3] = {1, 3, 32}, first[3] = {2, 0, 0}, count[3] = {1, 5, 60};
    const hsize_t dims[3] = {7, 5, 60};
    const float fill = 0.125f;
    float v[300], back[300];
    for (int i = 0; i < 300; i++) v[i] = (float)i;
    for (int pass = 0; pass < 2; pass++) { /* without any chunk, then with those of one step */
        unlink(path);
        CHECK(made_write(path, &made_small, 1) == 0, "missing");
        hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
        hid_t create = H5Pcreate(H5P_DATASET_CREATE);
        hid_t disk = H5Screate_simple(3, dims, NULL), memory = H5Screate_simple(3, count, NULL);
        H5Pset_chunk(create, 3, chunk);
        H5Pset_deflate(create, 1);
        H5Pset_fill_value(create, H5T_NATIVE_FLOAT, &fill);
        H5Ldelete(file, "samples/000000/mass", H5P_DEFAULT);
        hid_t set = H5Dcreate2(file, "samples/000000/mass", H5T_IEEE_F32LE, disk, H5P_DEFAULT,
                               create, H5P_DEFAULT);
        H5Sselect_hyperslab(disk, H5S_SELECT_SET, first, NULL, count, NULL);
        if (pass) H5Dwrite(set, H5T_NATIVE_FLOAT, memory, disk, H5P_DEFAULT, v);
        H5Dclose(set);
        H5Sclose(disk);
        H5Sclose(memory);
        H5Pclose(create);
        H5Fclose(file);

        struct dump *d = dump_open(path);
        for (int s = 0; s < 7; s++) {
            int wrong = 0;
            CHECK(d && dump_rows(d, 0, DUMP_MASS, s, back) == 0, "step %d", s);
            for (int i = 0; i < 300; i++) wrong += back[i] != (pass && s == 2 ? v[i] : fill);
            CHECK(wrong == 0, "step %d: %d values differ", s, wrong);
        }
        dump_close(d);
    }
}

/* A chunk may skip filters: here deflate (bit 1), and both. */
static void filter_masks_are_honoured(void)
{
    const char *path = check_scratch("masked");
    const struct dump_shape n = made_shape(&made_small, DUMP_MASS);
    const size_t values = (size_t)(n.A * n.W);
    const hsize_t chunk[3] = {1, (hsize_t)n.A, (hsize_t)n.W};
    uint8_t *planes = xmalloc(2 * values);
    uint16_t *halves = xmalloc(2 * values);
    float *v = xmalloc(values * sizeof *v);
    struct dump *d;

    CHECK(made_write(path, &made_small, 1) == 0, "masked");
    hid_t create = H5Pcreate(H5P_DATASET_CREATE), file, set, type;
    H5Pset_chunk(create, 3, chunk);
    H5Pset_shuffle(create);
    H5Pset_deflate(create, 1);
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    set = H5Dopen2(file, "samples/000000/mass", H5P_DEFAULT);
    type = H5Dget_type(set);
    H5Dclose(set);
    H5Fclose(file);
    rewrite_mass(path, type, create);
    CHECK((d = dump_open(path)) != NULL && dump_rows(d, 0, DUMP_MASS, 0, v) == 0, "step 0");
    dump_close(d);
    codec_halves(halves, v, values);
    codec_shuffle(planes, values, (const uint8_t *)halves, values, 2);
    file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    set = H5Dopen2(file, "samples/000000/mass", H5P_DEFAULT);
    const hsize_t first[3] = {0, 0, 0}, second[3] = {1, 0, 0};
    H5Dwrite_chunk(set, H5P_DEFAULT, 2, first, 2 * values, planes);
    codec_halves(halves, v, values);
    H5Dwrite_chunk(set, H5P_DEFAULT, 3, second, 2 * values, halves);
    H5Dclose(set);
    H5Tclose(type);
    H5Pclose(create);
    H5Fclose(file);
    d = dump_open(path);
    for (int s = 0; s < 2; s++) {
        float *w = xmalloc(values * sizeof *w);
        CHECK(d && dump_rows(d, 0, DUMP_MASS, s, w) == 0 && memcmp(v, w, values * sizeof *w) == 0,
              "step %d with a filter mask differs", s);
        free(w);
    }
    dump_close(d);
    free(planes);
    free(halves);
    free(v);
}

/* ---- hostile files */

static void hostile_files_are_refused(void)
{
    static const struct {
        const char *what, *bytes;
        int n;
    } files[] = {{"an empty file", "", 0},
                 {"text", "hello", 5},
                 {"a signature alone", "\211HDF\r\n\032\n", 8}};
    const char *path = check_scratch("hostile");
    mute_failures(true);
    CHECK(dump_open(check_scratch("absent")) == NULL, "no such file");
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        FILE *f = fopen(path, "wb");
        fwrite(files[i].bytes, 1, (size_t)files[i].n, f);
        fclose(f);
        CHECK(dump_open(path) == NULL && strstr(last_failure(), path), "%s: %s", files[i].what,
              last_failure());
        CHECK(dump_check(path, nowhere()) == -1, "%s is whole", files[i].what);
    }
    CHECK(dump_open("tests/data/golden/trace.h5") == NULL && strstr(last_failure(), "format"),
          "another HDF5 file: %s", last_failure());
    mute_failures(false);
}

/* Sets the attribute NAME of OBJECT to the int VALUE. */
static void set_attribute(hid_t file, const char *object, const char *name, int value)
{
    hid_t at = H5Oopen(file, object, H5P_DEFAULT), space = H5Screate(H5S_SCALAR);
    H5Adelete(at, name);
    hid_t a = H5Acreate2(at, name, H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, H5T_NATIVE_INT, &value);
    H5Aclose(a);
    H5Sclose(space);
    H5Oclose(at);
}

/* Replaces dataset NAME of sample 0 by an empty one of another type or shape. */
static void set_shape(hid_t file, const char *name, hid_t type, int rank, hsize_t a, hsize_t b,
                      hsize_t c)
{
    const hsize_t dims[3] = {a, b, c}, chunk[3] = {1, 1, 16};
    char *path = xprintf("samples/000000/%s", name);
    hid_t space = H5Screate_simple(rank, dims, NULL), create = H5Pcreate(H5P_DATASET_CREATE), set;
    H5Pset_chunk(create, rank, rank == 1 ? chunk + 2 : chunk);
    H5Ldelete(file, path, H5P_DEFAULT);
    set = H5Dcreate2(file, path, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    CHECK(set >= 0, "%s", path);
    H5Dclose(set);
    H5Pclose(create);
    H5Sclose(space);
    free(path);
}

static void inconsistent_dumps_are_refused(void)
{
    static const struct {
        const char *what, *said;
    } cases[] = {
        {"a later format", "format version"},
        {"L of 0", "\"L\""},
        {"L of another", "mass"},
        {"a huge L", "\"L\""},
        {"G above H", "G <= H"},
        {"n_prefill past T", "n_prefill"},
        {"mass of another type", "floats"},
        {"mass of another shape", "mass"},
        {"mass of another rank", "dimensions"},
        {"no tokens", "has no tokens"},
        {"2^30 tokens of nothing", "tokens"},
        {"a dimension past 2^30", "not supported"},
        {"a link to another file", "not a dataset of this file"},
        {"data in another file", "outside the file"},
        {"no samples", "samples"},
        {"a field the run does not name", NULL},
    };
    const char *path = check_scratch("twisted"), *other = check_scratch("other");
    CHECK(made_write(other, &made_small, 1) == 0, "other");
    mute_failures(true);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        unlink(path);
        CHECK(made_write(path, &made_small, 1) == 0, "twisted");
        hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), create;
        const hsize_t dims[3] = {7, 5, 60};
        switch (i) {
        case 0:
            set_attribute(file, "/", "format_version", 2);
            break;
        case 1:
            set_attribute(file, "/", "L", 0);
            break;
        case 2:
            set_attribute(file, "/", "L", 6);
            break;
        case 3:
            set_attribute(file, "/", "L", INT32_MAX);
            break;
        case 4:
            set_attribute(file, "/", "G", 5);
            break;
        case 5:
            set_attribute(file, "samples/000000", "n_prefill", 61);
            break;
        case 6:
            set_shape(file, "mass", H5T_STD_I32LE, 3, 7, 5, 60);
            break;
        case 7:
            set_shape(file, "mass", H5T_IEEE_F32LE, 3, 7, 4, 60);
            break;
        case 8:
            set_shape(file, "mass", H5T_IEEE_F32LE, 2, 7, 5, 0);
            break;
        case 9:
            H5Ldelete(file, "samples/000000/tokens", H5P_DEFAULT);
            break;
        case 10:
            set_shape(file, "tokens", H5T_STD_I32LE, 1, 1 << 30, 0, 0);
            break;
        case 11:
            set_shape(file, "tokens", H5T_STD_I32LE, 1, (hsize_t)1 << 40, 0, 0);
            break;
        case 12:
            H5Ldelete(file, "samples/000000/mass", H5P_DEFAULT);
            H5Lcreate_external(other, "samples/000000/mass", file, "samples/000000/mass",
                               H5P_DEFAULT, H5P_DEFAULT);
            break;
        case 13:
            H5Ldelete(file, "samples/000000/mass", H5P_DEFAULT);
            create = H5Pcreate(H5P_DATASET_CREATE);
            H5Pset_external(create, "/etc/passwd", 0, H5F_UNLIMITED);
            hid_t space = H5Screate_simple(3, dims, NULL);
            H5Dclose(H5Dcreate2(file, "samples/000000/mass", H5T_IEEE_F32LE, space, H5P_DEFAULT,
                                create, H5P_DEFAULT));
            H5Sclose(space);
            H5Pclose(create);
            break;
        case 14:
            H5Ldelete(file, "samples/000000", H5P_DEFAULT);
            break;
        default:
            break;
        }
        H5Fclose(file);
        struct dump *d = dump_open(path);
        struct dump_sample_info n;
        const bool good = d && dump_sample(d, 0, &n) == 0;
        dump_close(d);
        CHECK(good == (cases[i].said == NULL), "%s is %s", cases[i].what,
              good ? "taken" : "refused");
        CHECK(good || strstr(last_failure(), cases[i].said), "%s: %s", cases[i].what,
              last_failure());
    }
    mute_failures(false);
}

/* Wrong values that only dump_check() looks at, one in each dump. */
static void wrong_values_are_found(void)
{
    static const struct {
        enum dump_field field;
        double value;
        const char *said;
        hsize_t at; /* along the first axis */
    } cases[] = {
        {DUMP_MASS, 1.5, "out of range", 0},
        {DUMP_MASS, NAN, "not finite", 0},
        {DUMP_MASS, -0.25, "out of range", 0},
        {DUMP_SCORE, INFINITY, "not finite", 0},
        {DUMP_ATTN, 1.25, "out of range", 0},
        {DUMP_TOPK_MASS, NAN, "not finite", 0},
        {DUMP_IMPORTANCE, 3, "out of range", 0},
        {DUMP_PREFILL_SCORE, -1, "out of range", 0},
        {DUMP_REUSE_ERROR, -1, "out of range", 0},
        {DUMP_TOPK_IDX, 60, "topk_idx", 0},
        {DUMP_TOPK_IDX, -2, "topk_idx", 0},
        {DUMP_SELECTED_IDX, 59, "ascending", 0},
        {DUMP_TOKENS, -1, "tokens", 0},
        {DUMP_TOKENS, 1000, "tokens", 0},
        {DUMP_STEP_POS, 60, "step_pos", 0},
        {DUMP_TEXT_END, 119, "text_end", 0},
        {DUMP_TEXT_END, 119, "text has 120", 59},
    };
    const char *path = check_scratch("wrong");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct dump_field_info *info = dump_field_info(cases[i].field);
        char *name = xprintf("samples/000000/%s", info->name), *report = NULL;
        size_t size;
        unlink(path);
        CHECK(made_write(path, &made_small, 1) == 0, "wrong");
        hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
        hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(set);
        hid_t one = H5Screate(H5S_SCALAR);
        const hsize_t at[4] = {cases[i].at}, count[4] = {1, 1, 1, 1};
        H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, count, NULL);
        CHECK(H5Dwrite(set, H5T_NATIVE_DOUBLE, one, space, H5P_DEFAULT, &cases[i].value) >= 0,
              "%s is not changed", info->name);
        H5Sclose(one);
        H5Sclose(space);
        H5Dclose(set);
        H5Fclose(file);
        FILE *f = open_memstream(&report, &size);
        mute_failures(true);
        CHECK(dump_check(path, f) == -1, "%s = %g is called whole", info->name, cases[i].value);
        mute_failures(false);
        fclose(f);
        CHECK(strstr(report, info->name) && strstr(report, cases[i].said), "%s: %s", info->name,
              report);
        free(report);
        free(name);
    }
}

/* Every cut is refused; flipped bits are found or harmless, and nothing crashes or hangs. All bytes
 * but those of texts and unused space are under a checksum, of the metadata or of zlib. */
static void mutations_do_no_harm(void)
{
    const char *path = check_scratch("mutant"), *whole = check_scratch("parent");
    size_t size = 0;
    struct rng r;
    int cut = 0, found = 0;
    enum { CUTS = 60, FLIPS = 400 };

    CHECK(made_write(whole, &made_small, 1) == 0, "parent");
    char *bytes = file_read(whole, &size), *mutant = xmalloc(size);
    rng_seed(&r, 3);
    mute_failures(true);
    for (int i = 0; i < CUTS + FLIPS; i++) {
        size_t n = size;
        memcpy(mutant, bytes, size);
        if (i < CUTS) n = rng_below(&r, (uint32_t)size);
        for (int k = i < CUTS ? 0 : 1 + (int)rng_below(&r, 8); k > 0; k--) {
            /* Half of them hit the first quarter, where most of the metadata is. */
            const uint32_t range = (uint32_t)(rng_below(&r, 2) ? size : size / 4);
            mutant[rng_below(&r, range)] ^= (char)(1 << rng_below(&r, 8));
        }
        FILE *f = fopen(path, "wb");
        fwrite(mutant, 1, n, f);
        fclose(f);
        const int rc = dump_check(path, nowhere());
        CHECK(i >= CUTS || n < 48 || strstr(last_failure(), "is cut"), "cut to %zu: %s", n,
              last_failure());
        if (i < CUTS)
            cut += rc != 0;
        else
            found += rc != 0;
    }
    mute_failures(false);
    CHECK(cut == CUTS, "%d of %d cut files are called whole", CUTS - cut, CUTS);
    CHECK(found > FLIPS / 2, "only %d of %d mutated files are found", found, FLIPS);
    free(bytes);
    free(mutant);
}

int main(void)
{
    foreign_layouts_are_read();
    missing_chunks_are_fill();
    filter_masks_are_honoured();
    hostile_files_are_refused();
    inconsistent_dumps_are_refused();
    wrong_values_are_found();
    mutations_do_no_harm();
    return check_report("dump_hostile");
}
