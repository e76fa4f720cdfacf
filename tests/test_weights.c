/* test_weights.c - checkpoints: what is loaded, widened and refused; random models. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/model/weights.h"
#include "tests/check.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The smallest model that has every part: one layer, two query heads on one KV head. */
static const struct model_config tiny = {.family = FAMILY_LLAMA,
                                         .L = 1,
                                         .E = 4,
                                         .H = 2,
                                         .G = 1,
                                         .D = 2,
                                         .F = 3,
                                         .V = 5,
                                         .norm_eps = 1e-5f,
                                         .max_position = 64,
                                         .name = "tiny"};

static const struct part {
    const char *name;
    int rows, cols; /* cols 0: a vector */
} parts[] = {
    {"model.embed_tokens.weight", 5, 4},
    {"model.layers.0.input_layernorm.weight", 4, 0},
    {"model.layers.0.self_attn.q_proj.weight", 4, 4},
    {"model.layers.0.self_attn.k_proj.weight", 2, 4},
    {"model.layers.0.self_attn.v_proj.weight", 2, 4},
    {"model.layers.0.self_attn.o_proj.weight", 4, 4},
    {"model.layers.0.post_attention_layernorm.weight", 4, 0},
    {"model.layers.0.mlp.gate_proj.weight", 3, 4},
    {"model.layers.0.mlp.up_proj.weight", 3, 4},
    {"model.layers.0.mlp.down_proj.weight", 4, 3},
    {"model.norm.weight", 4, 0},
    {"lm_head.weight", 5, 4},
};
#define PARTS ((int)COUNT_OF(parts))

/* Value I of part K. All of them are whole sixteenths below 16 and exact in every dtype. */
static float value(int k, int i)
{
    return (float)k + (float)i / 16;
}

static const char *folder(void)
{
    static const char *dir;
    if (dir == NULL) {
        dir = check_scratch("weights");
        mkdir(dir, 0777);
    }
    return dir;
}

static void write_bytes(const char *name, const void *bytes, size_t size)
{
    char *path = path_join(folder(), name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0, "%s", path);
    free(path);
}

static void remove_file(const char *name)
{
    char *path = path_join(folder(), name);
    unlink(path);
    free(path);
}

/* A safetensors file in memory: parts [FIRST, LAST) in the given type. */
struct image {
    char *header;         /* freed by write_image() */
    unsigned char *data;  /* the same */
    size_t size;          /* of data */
    long long length_lie; /* added to the header's length as the file states it */
};

static const char *const type_names[] = {"F32", "F16", "BF16"};

static struct image make_image(enum dtype type, int first, int last)
{
    struct image m = {.header = xstrdup("{\"__metadata__\": {\"format\": \"pt\"}"),
                      .data = xcalloc(256, 4)};
    for (int k = first; k < last; k++) {
        const int n = parts[k].rows * (parts[k].cols ? parts[k].cols : 1);
        const size_t begin = m.size;
        for (int i = 0; i < n; i++) {
            float f = value(k, i);
            uint32_t bits;
            uint16_t half = f32_to_f16(f);
            memcpy(&bits, &f, sizeof bits);
            if (type == DTYPE_BF16) half = (uint16_t)(bits >> 16);
            if (type == DTYPE_F32)
                memcpy(m.data + m.size, &f, 4);
            else
                memcpy(m.data + m.size, &half, 2);
            m.size += dtype_size(type);
        }
        char *columns = parts[k].cols ? xprintf(", %d", parts[k].cols) : xstrdup("");
        char *longer = xprintf("%s, \"%s\": {\"dtype\": \"%s\", \"shape\": [%d%s], "
                               "\"data_offsets\": [%zu, %zu]}",
                               m.header, parts[k].name, type_names[type], parts[k].rows, columns,
                               begin, m.size);
        free(columns);
        free(m.header);
        m.header = longer;
    }
    char *closed = xprintf("%s}", m.header);
    free(m.header);
    m.header = closed;
    return m;
}

/* Replaces FROM, which must occur, by TO in the header. */
static void edit(struct image *m, const char *from, const char *to)
{
    char *at = strstr(m->header, from);
    CHECK(at != NULL, "%s", from);
    if (at == NULL) return;
    char *out = xprintf("%.*s%s%s", (int)(at - m->header), m->header, to, at + strlen(from));
    free(m->header);
    m->header = out;
}

static void write_image(const char *name, struct image *m)
{
    const size_t n = strlen(m->header);
    unsigned char *bytes = xmalloc(8 + n + m->size);
    const uint64_t stated = (uint64_t)((long long)n + m->length_lie);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(stated >> (8 * i));
    memcpy(bytes + 8, m->header, n);
    memcpy(bytes + 8 + n, m->data, m->size);
    write_bytes(name, bytes, 8 + n + m->size);
    free(bytes);
    free(m->header);
    free(m->data);
}

static float element(const struct matrix *m, int i)
{
    uint16_t half;
    float f;
    if (m->type == DTYPE_F32) {
        memcpy(&f, (const char *)m->data + 4 * i, 4);
        return f;
    }
    memcpy(&half, (const char *)m->data + 2 * i, 2);
    return m->type == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

static void check_matrix(const struct matrix *m, int k, const char *what)
{
    CHECK(m->rows == parts[k].rows && m->cols == parts[k].cols, "%s: %s: [%d, %d]", what,
          parts[k].name, m->rows, m->cols);
    CHECK((uintptr_t)m->data % dtype_size(m->type) == 0, "%s: %s: unaligned", what, parts[k].name);
    for (int i = 0; i < m->rows * m->cols; i++)
        CHECK(element(m, i) == value(k, i), "%s: %s[%d] = %g", what, parts[k].name, i,
              (double)element(m, i));
}

static void check_vector(const float *v, int k, const char *what)
{
    for (int i = 0; i < parts[k].rows; i++)
        CHECK(v[i] == value(k, i), "%s: %s[%d] = %g", what, parts[k].name, i, (double)v[i]);
}

/* Every value of the tiny model, exactly: widening 16-bit floats loses nothing. */
static void check_tiny(const struct weights *w, const char *what)
{
    const struct layer_weights *l = &w->layer[0];
    const struct matrix *matrices[] = {&w->embed, NULL,     &l->q,  &l->k,    &l->v, &l->o,
                                       NULL,      &l->gate, &l->up, &l->down, NULL,  &w->head};
    const float *vectors[] = {NULL,        l->attn_norm, NULL, NULL, NULL,    NULL,
                              l->mlp_norm, NULL,         NULL, NULL, w->norm, NULL};
    for (int k = 0; k < PARTS; k++) {
        if (matrices[k]) check_matrix(matrices[k], k, what);
        if (vectors[k]) check_vector(vectors[k], k, what);
    }
    CHECK(l->q_bias == NULL && l->down_bias == NULL && l->q_norm == NULL, "%s: no biases", what);
}

static void every_dtype_loads(void)
{
    for (int t = 0; t < 3; t++)
        for (int pad = 0; pad < 4; pad++) { /* the header's length decides the alignment */
            struct image m = make_image((enum dtype)t, 0, PARTS);
            edit(&m, "{", &"   {"[3 - pad]);
            write_image("model.safetensors", &m);
            struct weights *w = weights_load(folder(), &tiny, NULL);
            CHECK(w != NULL, "%s: %s", type_names[t], last_failure());
            if (w == NULL) continue;
            CHECK(w->dtype == (enum dtype)t && !w->random, "%s", type_names[t]);
            /* 124 values in the matrices */
            CHECK(w->bytes == 124.0 * (double)dtype_size(w->dtype), "%g", w->bytes);
            check_tiny(w, type_names[t]);
            weights_free(w);
        }
}

static void shards_load_like_one_file(void)
{
    static const char index[] = "{\"metadata\": {}, \"weight_map\": {%s}}";
    struct image whole = make_image(DTYPE_F16, 0, PARTS);
    char *map = xstrdup("");
    write_image("model.safetensors", &whole);
    struct weights *one = weights_load(folder(), &tiny, NULL);
    remove_file("model.safetensors");

    for (int s = 0; s < 3; s++) {
        char *name = xprintf("part-%d.safetensors", s);
        struct image m = make_image(DTYPE_F16, s * 4, s * 4 + 4);
        write_image(name, &m);
        for (int k = s * 4; k < s * 4 + 4; k++) {
            char *longer = xprintf("%s%s\"%s\": \"%s\"", map, k ? ", " : "", parts[k].name, name);
            free(map);
            map = longer;
        }
        free(name);
    }
    char *text = xprintf(index, map);
    write_bytes("model.safetensors.index.json", text, strlen(text));
    struct weights *w = weights_load(folder(), &tiny, NULL);
    CHECK(one && w, "%s", last_failure());
    if (w && one) {
        check_tiny(w, "shards");
        CHECK(strcmp(w->fingerprint, one->fingerprint) == 0, "%s, %s in one file", w->fingerprint,
              one->fingerprint);
    }
    weights_free(w);
    weights_free(one);

    static const struct {
        const char *from, *to, *said;
    } cases[] = {
        {"part-1.safetensors", "part-9.safetensors", "no such file"},
        {"part-1.safetensors", "../part-1.safetensors", "in the same directory"},
        {"part-1.safetensors", "/etc/passwd", "in the same directory"},
        {"part-1.safetensors", "..", "in the same directory"},
        {"part-1.safetensors", "", "in the same directory"},
        {"\"part-1.safetensors\"", "5", "in the same directory"},
        {"\"part-0.safetensors\"", "\"part-1.safetensors\"", "expected in part-1.safetensors"},
        {"lm_head.weight", "lm_head.weights", "no such tensor"},
        {"\"lm_head.weight\": \"part-2.safetensors\"",
         "\"model.norm.bias\": "
         "\"part-2.safetensors\"",
         "no such tensor"},
        {", \"lm_head.weight\": \"part-2.safetensors\"", "", "expected in the index"},
        {"\"weight_map\": {", "\"weight_map\": {}, \"x\": {", "weight_map"},
        {"\"weight_map\"", "\"weights\"", "weight_map"},
        {"{\"metadata\"", "[\"metadata\"", "JSON"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *at = strstr(text, cases[i].from);
        CHECK(at != NULL, "%s", cases[i].from);
        if (at == NULL) continue;
        char *out =
            xprintf("%.*s%s%s", (int)(at - text), text, cases[i].to, at + strlen(cases[i].from));
        write_bytes("model.safetensors.index.json", out, strlen(out));
        w = weights_load(folder(), &tiny, NULL);
        CHECK(w == NULL, "%s -> %s", cases[i].from, cases[i].to);
        CHECK(strstr(last_failure(), cases[i].said), "%s -> %s: %s", cases[i].from, cases[i].to,
              last_failure());
        weights_free(w);
        free(out);
    }
    /* One tensor in two shards. */
    struct image twice = make_image(DTYPE_F16, 3, 8);
    write_image("part-1.safetensors", &twice);
    write_bytes("model.safetensors.index.json", text, strlen(text));
    CHECK(weights_load(folder(), &tiny, NULL) == NULL && strstr(last_failure(), "expected once"),
          "%s", last_failure());
    for (int s = 0; s < 3; s++) {
        char *name = xprintf("part-%d.safetensors", s);
        remove_file(name);
        free(name);
    }
    remove_file("model.safetensors.index.json");
    CHECK(weights_load(folder(), &tiny, NULL) == NULL && strstr(last_failure(), "found neither"),
          "%s", last_failure());
    free(text);
    free(map);
}

static void hostile_files_are_refused(void)
{
    static const struct {
        const char *from, *to; /* in the header */
        int cut;               /* bytes taken off the end of the data */
        long long lie;         /* in the header's length */
        const char *said;
    } cases[] = {
        {"", "", 0, 1000000, "header: expected a length"},
        {"", "", 0, 1LL << 62, "header: expected a length"},
        {"", "", 0, -2000, "header: expected a length"}, /* about 2^64 */
        {"", "", 0, -1, "JSON"},
        {"", "", 0, 1, "JSON"},
        {"", "", 1, 0, "cut short"},
        {"", "", -4, 0, "bytes of data"},
        {"{\"__meta", "[\"__meta", 0, 0, "JSON"},
        {"\"__metadata__\": {\"format\": \"pt\"}", "\"lm_head.weight\": 1", 0, 0, "stands twice"},
        {"\"F32\"", "\"F31\"", 0, 0, "dtype"},
        {"\"F32\"", "\"I32\"", 0, 0, "expected F32, F16 or BF16, found I32"},
        {"\"F32\"", "\"F16\"", 0, 0, "data_offsets: expected 40 bytes"},
        {"\"F32\"", "32", 0, 0, "\"dtype\": expected a string"},
        {"\"dtype\": \"F32\", ", "", 0, 0, "found no dtype"},
        {"\"F32\"", "\"a name far past any dtype of the format\"", 0, 0, "dtype"},
        {"[5, 4]", "[4, 5]", 0, 0, "expected shape [5, 4], found [4, 5]"},
        {"[5, 4]", "[20]", 0, 0, "expected shape [5, 4], found [20]"},
        {"[5, 4]", "[5, 2, 2]", 0, 0, "expected shape [5, 4], found [5, 2, 2]"},
        {"[5, 4]", "[-5, -4]", 0, 0, "shape: expected a whole number"},
        {"[5, 4]", "[2.5, 8]", 0, 0, "shape: expected a whole number"},
        {"[5, 4]", "[\"5\", 4]", 0, 0, "shape: expected a whole number"},
        {"[5, 4]", "[4294967296, 4294967296]", 0, 0, "overflows"},
        {"[5, 4]", "[9007199254740992, 4]", 0, 0, "data_offsets: expected 144115188075855872"},
        {"[5, 4]", "[1, 1, 1, 1, 1, 1, 1, 5, 4]", 0, 0, "at most 8 dimensions"},
        {"[5, 4]", "{}", 0, 0, "found no list \"shape\""},
        {"[0, 80]", "[80, 0]", 0, 0, "end before the begin"},
        {"[0, 80]", "[0, 80, 96]", 0, 0, "another number of values"},
        {"[0, 80]", "[0, 1e300]", 0, 0, "data_offsets: expected a whole number"},
        {"[0, 80]", "[4, 84]", 0, 0, "expected to begin at 0"},
        {"[80, 96]", "[76, 92]", 0, 0, "overlaps"},
        {"[80, 96]", "[0, 16]", 0, 0, "overlaps"},
        {"[464, 544]", "[464000, 464080]", 0, 0, "expected to end within"},
        {"lm_head.weight", "lm_head.bias", 0, 0,
         "\"lm_head.weight\": expected shape [5, 4], found "
         "no such tensor"},
        {"model.norm.weight", "norm.weight", 0, 0, "\"model.norm.weight\""},
        {"__metadata__\": {\"format\": \"pt\"}",
         "model.layers.0.self_attn.q_proj.bias\": {\"dtype\": \"F32\", \"shape\": [0], "
         "\"data_offsets\": [0, 0]}",
         0, 0, "q_proj.bias\": expected no such tensor in a llama model of 1 layers"},
        {"__metadata__\": {\"format\": \"pt\"}",
         "model.layers.1.input_layernorm.weight\": {\"dtype\": \"F32\", \"shape\": [0], "
         "\"data_offsets\": [0, 0]}",
         0, 0, "expected no such tensor"},
        {"{\"format\": \"pt\"}",
         "{\"format\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
         "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
         0, 0, "nested deeper"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct image m = make_image(DTYPE_F32, 0, PARTS);
        edit(&m, cases[i].from, cases[i].to);
        m.size -= (size_t)cases[i].cut;
        m.length_lie = cases[i].lie;
        write_image("model.safetensors", &m);
        struct weights *w = weights_load(folder(), &tiny, NULL);
        CHECK(w == NULL, "%s -> %s, %d, %lld", cases[i].from, cases[i].to, cases[i].cut,
              cases[i].lie);
        CHECK(strstr(last_failure(), cases[i].said) &&
                  strstr(last_failure(), "/model.safetensors: "),
              "%s -> %s: %s", cases[i].from, cases[i].to, last_failure());
        weights_free(w);
    }
    for (size_t size = 0; size < 9; size += 4) { /* 8 bytes are a header of length 0 */
        write_bytes("model.safetensors", "\0\0\0\0\0\0\0\0", size);
        CHECK(weights_load(folder(), &tiny, NULL) == NULL, "%zu bytes", size);
    }
    remove_file("model.safetensors");
    char *path = path_join(folder(), "model.safetensors");
    mkdir(path, 0777);
    CHECK(weights_load(folder(), &tiny, NULL) == NULL && strstr(last_failure(), "expected a file"),
          "%s", last_failure());
    rmdir(path);
    free(path);
}

static void unneeded_tensors_are_ignored(void)
{
    static const char extra[] = "model.layers.0.self_attn.rotary_emb.inv_freq\": {\"dtype\": "
                                "\"F64\", \"shape\": [0, 7], \"data_offsets\": [0, 0]}";
    struct model_config tied = tiny;
    struct image m = make_image(DTYPE_F32, 0, PARTS);
    tied.tied = true;
    edit(&m, "__metadata__\": {\"format\": \"pt\"}", extra);
    write_image("model.safetensors", &m);
    struct weights *w = weights_load(folder(), &tiny, NULL);
    CHECK(w != NULL, "%s", last_failure());
    weights_free(w);
    w = weights_load(folder(), &tied, NULL);
    CHECK(w != NULL, "%s", last_failure());
    if (w) CHECK(w->head.data == w->embed.data, "a tied model's lm_head is the embedding");
    weights_free(w);

    struct image short_one = make_image(DTYPE_F32, 0, PARTS - 1);
    write_image("model.safetensors", &short_one);
    w = weights_load(folder(), &tied, NULL);
    CHECK(w != NULL, "%s", last_failure());
    weights_free(w);
    CHECK(weights_load(folder(), &tiny, NULL) == NULL && strstr(last_failure(), "lm_head.weight"),
          "%s", last_failure());
}

static void fingerprints_tell_models_apart(void)
{
    char prints[5][17];
    for (int i = 0; i < 5; i++) {
        struct model_config c = tiny;
        struct image m = make_image(i == 1 ? DTYPE_F16 : DTYPE_F32, 0, PARTS);
        if (i == 2) m.data[m.size - 1] ^= 1;
        if (i == 3) c.rope.theta = 5e5;
        write_image("model.safetensors", &m);
        struct weights *w = weights_load(folder(), &c, NULL);
        CHECK(w != NULL, "%s", last_failure());
        memcpy(prints[i], w ? w->fingerprint : "", w ? 17 : 1);
        weights_free(w);
    }
    CHECK(strlen(prints[0]) == 16 && strcmp(prints[0], prints[4]) == 0, "%s", prints[0]);
    for (int i = 1; i < 4; i++) CHECK(strcmp(prints[0], prints[i]) != 0, "case %d", i);
}

static void checkpoints_of_the_repository_load(void)
{
    static const struct {
        const char *dir;
        enum dtype type;
    } cases[] = {
        {"tests/data/golden/models/llama-gqa", DTYPE_F32},
        {"tests/data/golden/models/llama-headdim-bias", DTYPE_F16},
        {"tests/data/golden/models/llama-mha-bf16", DTYPE_BF16},
        {"tests/data/golden/models/llama-rope-llama3", DTYPE_F32},
        {"tests/data/golden/models/qwen2", DTYPE_BF16},
        {"configs/demo/pocket-llama", DTYPE_BF16},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct model_config c;
        CHECK(model_config_load(&c, cases[i].dir, NULL) == 0, "%s", cases[i].dir);
        struct weights *w = weights_load(cases[i].dir, &c, NULL);
        CHECK(w != NULL, "%s", cases[i].dir);
        if (w == NULL) continue;
        const struct layer_weights *l = &w->layer[c.L - 1];
        CHECK(w->dtype == cases[i].type, "%s: %s", cases[i].dir, dtype_name(w->dtype));
        CHECK((l->q_bias != NULL) == c.qkv_bias[0] && (l->o_bias != NULL) == c.out_bias &&
                  (l->up_bias != NULL) == c.mlp_bias && (l->q_norm != NULL) == c.qk_norm,
              "%s: biases", cases[i].dir);
        CHECK((w->head.data == w->embed.data) == c.tied, "%s: tied", cases[i].dir);
        weights_free(w);
    }
}

static void random_models_are_reproducible(void)
{
    struct model_config c = tiny;
    c.E = 64, c.H = 4, c.G = 2, c.D = 16, c.F = 96, c.V = 4096, c.L = 2;
    c.qkv_bias[0] = c.qk_norm = true;
    omp_set_num_threads(1);
    struct weights *a = weights_random(&c, 3, NULL);
    omp_set_num_threads(3);
    struct weights *b = weights_random(&c, 3, NULL), *other = weights_random(&c, 4, NULL);
    CHECK(a && b && other, "%s", last_failure());
    if (a && b && other) {
        const size_t bytes = (size_t)c.V * (size_t)c.E * 2;
        CHECK(memcmp(a->embed.data, b->embed.data, bytes) == 0, "one thread and three");
        CHECK(memcmp(a->embed.data, other->embed.data, bytes) != 0, "another seed");
        CHECK(strcmp(a->fingerprint, b->fingerprint) == 0 &&
                  strcmp(a->fingerprint, other->fingerprint) != 0,
              "%s %s %s", a->fingerprint, b->fingerprint, other->fingerprint);
        CHECK(a->random && a->dtype == DTYPE_BF16 && a->norm[63] == 1 &&
                  a->layer[1].q_norm[15] == 1 && a->layer[1].q_bias[63] == 0 &&
                  a->layer[1].o_bias == NULL,
              "norms are 1, biases 0");
        CHECK(memcmp(a->layer[0].q.data, a->layer[1].q.data, 4096) != 0, "layers differ");
        CHECK(a->bytes ==
                  2 * (2.0 * 4096 * 64 + 2 * (2.0 * 64 * 64 + 2.0 * 32 * 64 + 3.0 * 96 * 64)),
              "%g", a->bytes);
        /* 262,144 uniform values of variance 1: their mean is within 5/512 of 0 and their variance
         * within 5*sqrt(0.8)/512 of 1 (five sigma); rounding towards zero takes up to 1/128 of a
         * value, 1 % of the variance. */
        double sum = 0, squares = 0;
        for (int i = 0; i < c.V * c.E; i++) {
            double x = (double)element(&a->embed, i);
            sum += x;
            squares += x * x;
        }
        const double n = (double)c.V * c.E;
        CHECK(fabs(sum / n) < 0.01 && fabs(squares / n - 1) < 0.02, "mean %g, variance %g", sum / n,
              squares / n);
    }
    weights_free(a);
    weights_free(b);
    weights_free(other);
    c.L = 4096, c.E = c.F = 1 << 24;
    CHECK(weights_random(&c, 1, NULL) == NULL && strstr(last_failure(), "GB of memory"), "%s",
          last_failure());
}

/* Random edits of a header's bytes: the file loads or it fails with a message. */
static void random_edits_do_no_harm(void)
{
    static const char letters[] = "0123456789[]{},:\"-e. BFI\\";
    struct rng r;
    int taken = 0;
    rng_seed(&r, 11);
    for (int i = 0; i < 1200; i++) {
        struct image m = make_image((enum dtype)rng_below(&r, 3), 0, PARTS);
        const uint32_t n = (uint32_t)strlen(m.header);
        for (uint32_t edits = rng_below(&r, 4); edits > 0; edits--)
            m.header[rng_below(&r, n)] = letters[rng_below(&r, sizeof letters - 1)];
        if (rng_below(&r, 8) == 0) m.size -= rng_below(&r, 64);
        if (rng_below(&r, 8) == 0) m.length_lie = (long long)rng_below(&r, 64) - 32;
        write_image("model.safetensors", &m);
        struct weights *w = weights_load(folder(), &tiny, NULL);
        taken += w != NULL;
        CHECK(w || last_failure()[0], "edit %d", i);
        weights_free(w);
    }
    remove_file("model.safetensors");
    CHECK(taken > 100 && taken < 1000, "some edits leave a file that loads: %d", taken);

    static const char index[] = "{\"metadata\": {\"total_size\": 9}, \"weight_map\": {"
                                "\"model.norm.weight\": \"a.safetensors\", \"x\": \"b\"}}";
    for (int i = 0; i < 400; i++) {
        char text[sizeof index];
        memcpy(text, index, sizeof index);
        for (uint32_t edits = 1 + rng_below(&r, 3); edits > 0; edits--)
            text[rng_below(&r, sizeof index - 1)] = letters[rng_below(&r, sizeof letters - 1)];
        write_bytes("model.safetensors.index.json", text, sizeof index - 1);
        CHECK(weights_load(folder(), &tiny, NULL) == NULL, "an index without its files loads");
    }
    remove_file("model.safetensors.index.json");
}

int main(void)
{
    mute_failures(true);
    every_dtype_loads();
    shards_load_like_one_file();
    hostile_files_are_refused();
    unneeded_tensors_are_ignored();
    fingerprints_tell_models_apart();
    checkpoints_of_the_repository_load();
    random_models_are_reproducible();
    random_edits_do_no_harm();
    weights_free(NULL);
    return check_report("weights");
}
