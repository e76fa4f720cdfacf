/* weights.c - a model's tensors: found in a checkpoint and checked, or made up. */
#include "core/model/weights.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/model/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct weights_owner {
    struct safetensors **shard; /* [n_shards] */
    int n_shards;
    float *vectors;   /* every norm and bias, one after the other */
    uint16_t *random; /* every matrix of a random model */
    void **copy;      /* [n_copies] matrices that lie unaligned in their file */
    int n_copies;
    const struct weights_home *home; /* where everything has moved to, or NULL */
    void *moved;
};

/* One tensor that the model calls for, and where it goes: a matrix, or a vector when M is NULL. */
struct slot {
    char name[64];
    struct matrix *m;
    const float **v;
    int rows, cols;             /* of a vector: its length and 0 */
    const struct safetensor *t; /* where a checkpoint has it */
    const char *path;
};

/* A tensor of the checkpoint under its name. */
struct entry {
    const struct safetensor *t;
    const char *path;
    bool listed; /* by the index */
    bool used;
};

/* ---- what a model calls for */

enum when { ALWAYS, Q_BIAS, K_BIAS, V_BIAS, O_BIAS, MLP_BIAS, QK_NORM };

static bool called_for(const struct model_config *c, enum when when)
{
    switch (when) {
    case ALWAYS:
        return true;
    case Q_BIAS:
    case K_BIAS:
    case V_BIAS:
        return c->qkv_bias[when - Q_BIAS];
    case O_BIAS:
        return c->out_bias;
    case MLP_BIAS:
        return c->mlp_bias;
    case QK_NORM:
        return c->qk_norm;
    }
    return false;
}

/* The tensors of a layer. Sizes in letters: Q = H*D, K = G*D, the others as in config.h. */
#define AT(member) offsetof(struct layer_weights, member)
static const struct {
    const char *name;
    size_t at;
    char rows, cols; /* cols 0: a vector */
    enum when when;
} layer_tensors[] = {
    {"input_layernorm.weight", AT(attn_norm), 'E', 0, ALWAYS},
    {"post_attention_layernorm.weight", AT(mlp_norm), 'E', 0, ALWAYS},
    {"self_attn.q_proj.weight", AT(q), 'Q', 'E', ALWAYS},
    {"self_attn.k_proj.weight", AT(k), 'K', 'E', ALWAYS},
    {"self_attn.v_proj.weight", AT(v), 'K', 'E', ALWAYS},
    {"self_attn.o_proj.weight", AT(o), 'E', 'Q', ALWAYS},
    {"mlp.gate_proj.weight", AT(gate), 'F', 'E', ALWAYS},
    {"mlp.up_proj.weight", AT(up), 'F', 'E', ALWAYS},
    {"mlp.down_proj.weight", AT(down), 'E', 'F', ALWAYS},
    {"self_attn.q_proj.bias", AT(q_bias), 'Q', 0, Q_BIAS},
    {"self_attn.k_proj.bias", AT(k_bias), 'K', 0, K_BIAS},
    {"self_attn.v_proj.bias", AT(v_bias), 'K', 0, V_BIAS},
    {"self_attn.o_proj.bias", AT(o_bias), 'E', 0, O_BIAS},
    {"mlp.gate_proj.bias", AT(gate_bias), 'F', 0, MLP_BIAS},
    {"mlp.up_proj.bias", AT(up_bias), 'F', 0, MLP_BIAS},
    {"mlp.down_proj.bias", AT(down_bias), 'E', 0, MLP_BIAS},
    {"self_attn.q_norm.weight", AT(q_norm), 'D', 0, QK_NORM},
    {"self_attn.k_norm.weight", AT(k_norm), 'D', 0, QK_NORM},
};
#undef AT

static int extent(const struct model_config *c, char letter)
{
    switch (letter) {
    case 'E':
        return c->E;
    case 'F':
        return c->F;
    case 'D':
        return c->D;
    case 'Q':
        return c->H * c->D;
    case 'K':
        return c->G * c->D;
    }
    return 0;
}

/* Every tensor that C calls for, with its place in W, whose layers are allocated. */
static struct slot *list_slots(struct weights *w, const struct model_config *c, int *n)
{
    struct slot *slots = xcalloc(3 + (size_t)c->L * COUNT_OF(layer_tensors), sizeof *slots);
    int count = 0;

    slots[count++] = (struct slot){
        .name = "model.embed_tokens.weight", .m = &w->embed, .rows = c->V, .cols = c->E};
    slots[count++] = (struct slot){.name = "model.norm.weight", .v = &w->norm, .rows = c->E};
    if (!c->tied)
        slots[count++] =
            (struct slot){.name = "lm_head.weight", .m = &w->head, .rows = c->V, .cols = c->E};
    for (int layer = 0; layer < c->L; layer++) {
        for (size_t i = 0; i < COUNT_OF(layer_tensors); i++) {
            if (!called_for(c, layer_tensors[i].when)) continue;
            struct slot *s = &slots[count++];
            void *place = (char *)&w->layer[layer] + layer_tensors[i].at;
            snprintf(s->name, sizeof s->name, "model.layers.%d.%s", layer, layer_tensors[i].name);
            s->rows = extent(c, layer_tensors[i].rows);
            s->cols = extent(c, layer_tensors[i].cols);
            if (s->cols)
                s->m = place;
            else
                s->v = place;
        }
    }
    *n = count;
    return slots;
}

/* ---- the fingerprint */

/* Everything of C that the logits depend on, beyond the tensors themselves. */
static uint64_t hash_config(const struct model_config *c)
{
    const struct rope_config *r = &c->rope;
    char *text = xprintf(
        "%d %d %d %d %d %d %d %d %a %d %d%d%d%d%d%d%d %d %a %a %d %a %a %a %a %a %d",
        (int)c->family, c->L, c->E, c->H, c->G, c->D, c->F, c->V, (double)c->norm_eps,
        c->max_position, c->qkv_bias[0], c->qkv_bias[1], c->qkv_bias[2], c->out_bias, c->mlp_bias,
        c->qk_norm, c->tied, (int)r->kind, r->theta, r->factor, r->original_max_position,
        r->low_freq, r->high_freq, r->beta_fast, r->beta_slow, r->attention_factor, r->truncate);
    uint64_t h = hash_bytes(HASH_START, text, strlen(text));
    free(text);
    return h;
}

/* Name, dtype, shape and 4 windows of 256 bytes, spread evenly: a checkpoint of any size is read
 * in a moment, and training changes every part of a tensor. */
static uint64_t hash_tensor(uint64_t h, const struct safetensor *t)
{
    const size_t bytes = t->end - t->begin, window = bytes < 256 ? bytes : 256;
    h = hash_bytes(h, t->name, strlen(t->name) + 1);
    h = hash_bytes(h, t->dtype, strlen(t->dtype) + 1);
    h = hash_bytes(h, t->shape, (size_t)t->rank * sizeof t->shape[0]);
    for (size_t i = 0; i < 4; i++) h = hash_bytes(h, t->data + (bytes - window) / 3 * i, window);
    return h;
}

static void set_fingerprint(struct weights *w, uint64_t h)
{
    snprintf(w->fingerprint, sizeof w->fingerprint, "%016" PRIx64, h);
}

/* ---- a checkpoint's files */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards that the index MAP names, each once, ascending; NULL after fail(). */
static const char **list_shards(const char *path, const cJSON *map, int *n)
{
    int count = 0, kept = 0;
    for (const cJSON *item = map->child; item; item = item->next) count++;
    const char **files = xmalloc((size_t)(count + 1) * sizeof *files);

    count = 0;
    for (const cJSON *item = map->child; item; item = item->next) {
        const char *file = cJSON_IsString(item) ? item->valuestring : NULL;
        /* The index comes from outside: it may name files beside itself and no others. */
        if (file == NULL || *file == 0 || strchr(file, '/') || strcmp(file, ".") == 0 ||
            strcmp(file, "..") == 0) {
            fail("%s: \"%s\": expected the name of a file in the same directory, found %s", path,
                 item->string, file ? file : json_kind(item));
            free(files);
            return NULL;
        }
        files[count++] = file;
    }
    qsort(files, (size_t)count, sizeof *files, by_text);
    for (int i = 0; i < count; i++)
        if (kept == 0 || strcmp(files[i], files[kept - 1]) != 0) files[kept++] = files[i];
    *n = kept;
    return files;
}

/* Opens the one file, or the shards of the index, whose "weight_map" goes to *MAP. *ROOT, which
 * owns it, is the caller's to delete. */
static int open_files(struct weights_owner *o, const char *dir, const char *single,
                      const char *index, cJSON **root, const cJSON **map)
{
    const char **files = NULL;
    int rc = -1, n = 1;

    if (access(single, F_OK) == 0) {
        o->shard = xcalloc(1, sizeof *o->shard);
        if ((o->shard[0] = safetensors_open(single)) != NULL) rc = 0;
        o->n_shards = 1;
        return rc;
    }
    if (access(index, F_OK) != 0)
        return fail("%s: expected model.safetensors or model.safetensors.index.json, found neither",
                    dir);
    if ((*root = json_load(index)) == NULL) return -1;
    *map = cJSON_IsObject(*root) ? json_member(*root, "weight_map") : NULL;
    if (!cJSON_IsObject(*map) || (*map)->child == NULL)
        return fail("%s: \"weight_map\": expected an object of tensors, found %s", index,
                    cJSON_IsObject(*map) ? "none" : json_kind(*map));
    if ((files = list_shards(index, *map, &n)) == NULL) return -1;
    o->shard = xcalloc((size_t)n, sizeof *o->shard);
    for (; o->n_shards < n; o->n_shards++) {
        char *path = path_join(dir, files[o->n_shards]);
        if (access(path, F_OK) != 0)
            fail("%s: expected the shard %s, found no such file", index, path);
        else
            o->shard[o->n_shards] = safetensors_open(path);
        free(path);
        if (o->shard[o->n_shards] == NULL) goto done;
    }
    rc = 0;

done:
    free(files);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct entry *p = a, *q = b;
    return strcmp(p->t->name, q->t->name);
}

static struct entry *find(struct entry *table, int n, const char *name)
{
    const struct safetensor t = {.name = name};
    const struct entry key = {.t = &t};
    return bsearch(&key, table, (size_t)n, sizeof key, by_name);
}

/* Buffers that older exporters saved and the model computes itself. */
static bool is_buffer(const char *name)
{
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name), m = sizeof suffix - 1;
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* All tensors of all shards, ascending by name, each once and where the index MAP (or NULL) says.
 * NULL after fail(). */
static struct entry *list_entries(const struct weights_owner *o, const char *index,
                                  const cJSON *map, int *count)
{
    int n = 0;
    for (int i = 0; i < o->n_shards; i++) n += o->shard[i]->n;
    struct entry *table = xcalloc((size_t)n + 1, sizeof *table);

    n = 0;
    for (int i = 0; i < o->n_shards; i++)
        for (int k = 0; k < o->shard[i]->n; k++)
            table[n++] = (struct entry){.t = &o->shard[i]->tensor[k], .path = o->shard[i]->path};
    qsort(table, (size_t)n, sizeof *table, by_name);
    for (int i = 1; i < n; i++)
        if (strcmp(table[i].t->name, table[i - 1].t->name) == 0) {
            fail("%s: \"%s\": expected once in the checkpoint, found also in %s", table[i].path,
                 table[i].t->name, table[i - 1].path);
            goto failed;
        }
    if (map) {
        for (const cJSON *item = map->child; item; item = item->next) {
            struct entry *e = find(table, n, item->string);
            const char *slash = e ? strrchr(e->path, '/') : NULL;
            if (e == NULL || strcmp(slash ? slash + 1 : e->path, item->valuestring) != 0) {
                fail("%s: \"%s\": expected in %s, found %s", index, item->string, item->valuestring,
                     e ? e->path : "no such tensor");
                goto failed;
            }
            e->listed = true;
        }
        for (int i = 0; i < n; i++)
            if (!table[i].listed && !is_buffer(table[i].t->name)) {
                fail("%s: \"%s\": expected in the index %s, found only here", table[i].path,
                     table[i].t->name, index);
                goto failed;
            }
    }
    *count = n;
    return table;

failed:
    free(table);
    return NULL;
}

/* ---- loading */

static bool parse_dtype(const char *text, enum dtype *type)
{
    static const struct {
        const char *name;
        enum dtype type;
    } floats[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    for (size_t i = 0; i < COUNT_OF(floats); i++)
        if (strcmp(text, floats[i].name) == 0) {
            *type = floats[i].type;
            return true;
        }
    return false;
}

/* Finds the tensor of slot S and checks its dtype and shape. SOURCE names the checkpoint. */
static int match(struct slot *s, struct entry *table, int n, const char *source)
{
    struct safetensor want = {.rank = s->m ? 2 : 1, .shape = {s->rows, s->cols}};
    char expected[64], found[160];
    enum dtype type;
    struct entry *e = find(table, n, s->name);

    safetensors_shape(&want, expected, sizeof expected);
    if (e == NULL)
        return fail("%s: \"%s\": expected shape %s, found no such tensor", source, s->name,
                    expected);
    if (!parse_dtype(e->t->dtype, &type))
        return fail("%s: \"%s\": expected F32, F16 or BF16, found %s", e->path, s->name,
                    e->t->dtype);
    if (e->t->rank != want.rank ||
        memcmp(e->t->shape, want.shape, (size_t)want.rank * sizeof want.shape[0]) != 0)
        return fail("%s: \"%s\": expected shape %s, found %s", e->path, s->name, expected,
                    safetensors_shape(e->t, found, sizeof found));
    e->used = true;
    s->t = e->t;
    s->path = e->path;
    return 0;
}

/* A tensor that no slot asked for would go unheeded: refused, unless the model does not use it. */
static int check_unused(const struct model_config *c, const struct entry *table, int n)
{
    for (int i = 0; i < n; i++) {
        const char *name = table[i].t->name;
        if (table[i].used || is_buffer(name)) continue;
        if (c->tied && strcmp(name, "lm_head.weight") == 0) continue;
        return fail("%s: \"%s\": expected no such tensor in a %s model of %d layers with this "
                    "config.json",
                    table[i].path, name, model_family_name(c->family), c->L);
    }
    return 0;
}

static void widen(float *out, const struct safetensor *t, enum dtype type, int n)
{
    for (int i = 0; i < n; i++) {
        uint16_t half;
        if (type == DTYPE_F32) {
            memcpy(&out[i], t->data + 4 * (size_t)i, 4);
        } else {
            memcpy(&half, t->data + 2 * (size_t)i, 2);
            out[i] = type == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
    }
}

/* Points the matrix of slot S at its data; data that are not aligned to their element are copied.
 */
static int place_matrix(struct weights_owner *o, const struct slot *s, enum dtype type)
{
    const size_t bytes = s->t->end - s->t->begin;
    const void *data = s->t->data;
    if ((uintptr_t)data % dtype_size(type) != 0) {
        void *copy = big_alloc(bytes, s->name);
        if (copy == NULL) return -1;
        o->copy = xrealloc(o->copy, (size_t)(o->n_copies + 1) * sizeof *o->copy);
        o->copy[o->n_copies++] = copy;
        data = memcpy(copy, data, bytes);
    }
    *s->m = (struct matrix){data, type, s->rows, s->cols};
    return 0;
}

/* Fills W from the matched SLOTS. */
static int place_all(struct weights *w, const struct model_config *c, const struct slot *slots,
                     int n)
{
    size_t floats = 0;
    uint64_t h = hash_config(c);
    float *next;

    for (int i = 0; i < n; i++)
        if (slots[i].v) floats += (size_t)slots[i].rows;
    next = w->owner->vectors = xmalloc(floats * sizeof *next);
    for (int i = 0; i < n; i++) {
        const struct slot *s = &slots[i];
        enum dtype type = DTYPE_F32;
        parse_dtype(s->t->dtype, &type);
        h = hash_tensor(h, s->t);
        if (s->m) {
            if (place_matrix(w->owner, s, type)) return -1;
            w->bytes += (double)(s->t->end - s->t->begin);
        } else {
            widen(next, s->t, type, s->rows);
            *s->v = next;
            next += s->rows;
        }
    }
    set_fingerprint(w, h);
    return 0;
}

/* ---- moving to a home */

/* Puts the matrix of slot S to TO as TYPE, a piece at a time where it has to be rounded. */
static void move_matrix(const struct weights_home *home, void *to, enum dtype type,
                        const struct slot *s)
{
    enum { PIECE = 1 << 20 };
    const struct matrix *m = s->m;
    const size_t n = (size_t)m->rows * (size_t)m->cols;
    if (m->type == type) {
        home->put(to, m->data, 2 * n);
        return;
    }
    uint16_t *piece = xmalloc(PIECE * sizeof *piece);
    for (size_t at = 0; at < n; at += PIECE) {
        const size_t count = n - at < PIECE ? n - at : PIECE;
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < count; i++) {
            const char *from = (const char *)m->data + (at + i) * dtype_size(m->type);
            uint16_t half;
            float f;
            if (m->type == DTYPE_F32) {
                memcpy(&f, from, sizeof f);
            } else {
                memcpy(&half, from, sizeof half);
                f = m->type == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
            }
            piece[i] = type == DTYPE_F16 ? f32_to_f16(f) : f32_to_bf16(f);
        }
        home->put((uint16_t *)to + at, piece, count * sizeof *piece);
    }
    free(piece);
}

/* Where the N slots lie in one block: *BYTES in all, slot I at at[I]. Matrices of 16-bit values
 * follow each other in the order of the table, so that q, k, v and gate, up are whole. */
static size_t *lay_out(const struct slot *slots, int n, size_t *bytes)
{
    size_t *at = xcalloc((size_t)n, sizeof *at);
    *bytes = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n; i++) {
            if ((slots[i].m != NULL) != (pass == 0)) continue;
            at[i] = *bytes;
            *bytes += slots[i].m ? 2 * (size_t)slots[i].rows * (size_t)slots[i].cols
                                 : 4 * (size_t)slots[i].rows;
        }
    return at;
}

/* Moves what the SLOTS of W hold to HOME and closes the files. 0, or -1 after fail(). */
static int move_all(struct weights *w, const struct slot *slots, int n,
                    const struct weights_home *home)
{
    struct weights_owner *o = w->owner;
    const enum dtype type = w->layer[0].q.type == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
    bool rounded = false;
    size_t bytes, *at = lay_out(slots, n, &bytes);

    o->home = home;
    if ((o->moved = home->alloc(bytes, "weights")) == NULL) {
        free(at);
        return -1;
    }
    w->bytes = 0;
    for (int i = 0; i < n; i++) {
        const struct slot *s = &slots[i];
        void *to = (char *)o->moved + at[i];
        if (s->m) {
            rounded = rounded || s->m->type != type;
            move_matrix(home, to, type, s);
            *s->m = (struct matrix){to, type, s->rows, s->cols};
            w->bytes += 2.0 * s->rows * s->cols;
        } else {
            home->put(to, *s->v, 4 * (size_t)s->rows);
            *s->v = to;
        }
    }
    if (rounded) note("weights stored in another type are rounded to %s", dtype_name(type));
    for (int i = 0; i < o->n_shards; i++) safetensors_close(o->shard[i]);
    for (int i = 0; i < o->n_copies; i++) free(o->copy[i]);
    free(o->vectors);
    o->n_shards = o->n_copies = 0;
    o->vectors = NULL;
    free(at);
    return 0;
}

static struct weights *new_weights(const struct model_config *c)
{
    struct weights *w = xcalloc(1, sizeof *w);
    w->layer = xcalloc((size_t)c->L, sizeof *w->layer);
    w->owner = xcalloc(1, sizeof *w->owner);
    return w;
}

struct weights *weights_load(const char *dir, const struct model_config *c,
                             const struct weights_home *home)
{
    struct weights *w = new_weights(c);
    char *single = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    cJSON *root = NULL;
    const cJSON *map = NULL;
    struct entry *table = NULL;
    struct slot *slots = NULL;
    int rc = -1, n_entries = 0, n_slots = 0;

    if (open_files(w->owner, dir, single, index, &root, &map)) goto done;
    if ((table = list_entries(w->owner, index, map, &n_entries)) == NULL) goto done;
    slots = list_slots(w, c, &n_slots);
    for (int i = 0; i < n_slots; i++)
        if (match(&slots[i], table, n_entries, map ? index : single)) goto done;
    if (check_unused(c, table, n_entries)) goto done;
    if (place_all(w, c, slots, n_slots)) goto done;
    if (home && move_all(w, slots, n_slots, home)) goto done;
    if (c->tied) w->head = w->embed;
    w->dtype = w->layer[0].q.type;
    rc = 0;

done:
    free(slots);
    free(table);
    cJSON_Delete(root);
    free(index);
    free(single);
    if (rc) {
        weights_free(w);
        w = NULL;
    }
    return w;
}

/* ---- random weights */

/* Finaliser of splitmix64 (Steele, Lea and Flood 2014): a counter in, 64 random bits out. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* N values in bf16, uniform with mean 0 and variance 1/FAN, from the counters that follow START. */
static void fill_block(uint16_t *out, size_t n, uint64_t start, int fan)
{
    /* a uniform value of [-a, a) has the variance a^2/3 */
    const float scale = sqrtf(3.0f / (float)fan) / 32768;
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = mix(start + (i / 4 + 1) * 0x9e3779b97f4a7c15u);
        for (size_t k = 0; k < 4 && i + k < n; k++) {
            float value = (float)(int16_t)(bits >> (16 * k)) * scale;
            uint32_t pattern;
            memcpy(&pattern, &value, sizeof pattern);
            out[i + k] = (uint16_t)(pattern >> 16);
        }
    }
}

/* Each block has counters of its own, so that the values do not depend on the threads. */
static void fill_matrix(uint16_t *out, size_t n, uint64_t key, int fan)
{
    const size_t block = 1 << 16;
    const long blocks = (long)((n + block - 1) / block);
#pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++) {
        size_t at = (size_t)b * block;
        fill_block(out + at, n - at < block ? n - at : block, mix(key ^ mix((uint64_t)b)), fan);
    }
}

/* Random weights made where they stay. 0, or -1 after fail(). */
static int make_at_home(struct weights *w, const struct slot *slots, int n, uint64_t seed,
                        const struct weights_home *home)
{
    size_t bytes, *at = lay_out(slots, n, &bytes);
    w->owner->home = home;
    if ((w->owner->moved = home->alloc(bytes, "random weights")) == NULL) {
        free(at);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        const struct slot *s = &slots[i];
        void *to = (char *)w->owner->moved + at[i];
        if (s->m) {
            const size_t values = (size_t)s->rows * (size_t)s->cols;
            /* a uniform value of [-a, a) has the variance a^2/3 */
            const int fan = s->m == &w->embed ? 1 : s->cols;
            home->fill(to, values, mix(seed + (uint64_t)i), sqrtf(3.0f / (float)fan));
            *s->m = (struct matrix){to, DTYPE_BF16, s->rows, s->cols};
            w->bytes += 2.0 * (double)values;
        } else {
            const size_t length = strlen(s->name);
            const float value = strcmp(s->name + length - 6, "weight") == 0; /* norms 1, biases 0 */
            float *vector = xmalloc((size_t)s->rows * sizeof *vector);
            for (int k = 0; k < s->rows; k++) vector[k] = value;
            home->put(to, vector, (size_t)s->rows * sizeof *vector);
            *s->v = to;
            free(vector);
        }
    }
    free(at);
    return 0;
}

struct weights *weights_random(const struct model_config *c, uint64_t seed,
                               const struct weights_home *home)
{
    struct weights *w = new_weights(c);
    struct slot *slots;
    size_t floats = 0, halves = 0; /* a matrix begins at a multiple of 64 bytes */
    int rc = -1, n = 0;
    float *next;
    uint16_t *at;

    slots = list_slots(w, c, &n);
    if (home) {
        if (make_at_home(w, slots, n, seed, home)) goto done;
        goto made;
    }
    for (int i = 0; i < n; i++) {
        if (slots[i].v)
            floats += (size_t)slots[i].rows;
        else
            halves += ((size_t)slots[i].rows * (size_t)slots[i].cols + 31) / 32 * 32;
    }
    const double need = 2.0 * (double)halves + 4.0 * (double)floats, have = memory_available();
    if (have > 0 && need > have) {
        fail("random weights of shape %s: expected %.1f GB of memory, found %.1f GB available",
             c->name, need / 1e9, have / 1e9);
        goto done;
    }
    next = w->owner->vectors = xcalloc(floats, sizeof *next);
    at = w->owner->random = big_alloc(halves * sizeof *at, "random weights");
    if (at == NULL) goto done;

    for (int i = 0; i < n; i++) {
        const struct slot *s = &slots[i];
        const size_t length = strlen(s->name);
        if (s->m) {
            const size_t values = (size_t)s->rows * (size_t)s->cols;
            /* Rows of the embedding are the hidden state itself: variance 1. */
            fill_matrix(at, values, mix(seed + (uint64_t)i), s->m == &w->embed ? 1 : s->cols);
            *s->m = (struct matrix){at, DTYPE_BF16, s->rows, s->cols};
            w->bytes += 2.0 * (double)values;
            at += (values + 31) / 32 * 32;
        } else {
            /* Norms are 1; biases stay 0. */
            const bool norm = strcmp(s->name + length - 6, "weight") == 0;
            for (int k = 0; norm && k < s->rows; k++) next[k] = 1;
            *s->v = next;
            next += s->rows;
        }
    }

made:
    if (c->tied) w->head = w->embed;
    w->dtype = DTYPE_BF16;
    w->random = true;
    set_fingerprint(w, hash_bytes(hash_config(c), &seed, sizeof seed));
    rc = 0;

done:
    free(slots);
    if (rc) {
        weights_free(w);
        w = NULL;
    }
    return w;
}

void weights_free(struct weights *w)
{
    if (w == NULL) return;
    struct weights_owner *o = w->owner;
    for (int i = 0; i < o->n_shards; i++) safetensors_close(o->shard[i]);
    for (int i = 0; i < o->n_copies; i++) free(o->copy[i]);
    free(o->shard);
    free(o->copy);
    free(o->vectors);
    free(o->random);
    if (o->home) o->home->release(o->moved);
    free(o);
    free(w->layer);
    free(w);
}
