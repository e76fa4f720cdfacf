/* bpe.c - the BPE model: vocabulary and merges in hash tables, words merged through a heap. */
#include "core/model/bpe.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/model/unicode.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NO_RANK UINT32_MAX
#define SPACE_MARK "\xe2\x96\x81" /* U+2581, the space of SentencePiece vocabularies */
#define NEAR 0x800                /* characters of one or two bytes: looked up in a table */

struct merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX in an empty slot */
    uint32_t rank;
    int id;
};

struct bpe {
    char *arena;         /* all tokens' texts */
    struct token *token; /* [size] */
    int size;
    int *slot; /* [slots] ids by hash of their text, -1 empty */
    size_t slots;
    struct merge *merge; /* [merge_slots] */
    size_t merge_slots;
    int near[NEAR]; /* ids of characters below U+0800, -1 none */
    int byte[256];  /* ids of <0x00> .. <0xFF>, -1 none */
    int unknown;    /* -1 none */
    char *missing;  /* an unk_token that the vocabulary lacks */
    bool byte_fallback, fuse_unknown, whole_first;
    bool breaks; /* no merge joins a character to a space mark behind it */
};

/* The symbols of the word being merged, linked from left to right. */
struct symbol {
    int id;         /* -1: merged into its left neighbour */
    int prev, next; /* -1 at the ends */
    uint32_t rank;  /* of the merge with next, NO_RANK when there is none */
};
struct bpe_symbols {
    struct symbol *v;
    uint64_t *heap; /* rank << 32 | position, the smallest first */
    int n, room;
    size_t heap_n, heap_room;
};

/* Words and their ids, direct-mapped: only short ones, which make up nearly all of a text. */
#define CACHE_SLOTS 16384
#define CACHE_BYTES 30
#define CACHE_IDS 8
struct cached {
    uint8_t n, ids_n; /* n = 0: empty */
    char word[CACHE_BYTES];
    int ids[CACHE_IDS];
};
struct bpe_cache {
    struct cached slot[CACHE_SLOTS];
};

void id_list_add(struct id_list *l, int id)
{
    if (l->n == l->room) {
        l->room = l->room < 64 ? 64 : l->room <= INT_MAX / 2 ? 2 * l->room : INT_MAX;
        l->v = xrealloc(l->v, (size_t)l->room * sizeof *l->v);
    }
    l->v[l->n++] = id;
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return h * 0xd6e8feb86659fd93u;
}

static uint64_t text_hash(const char *s, size_t n)
{
    uint64_t h = n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = mix(h ^ w);
    }
    w = 0;
    memcpy(&w, s, n);
    return mix(h ^ w) >> 16;
}

static size_t table_size(size_t entries)
{
    size_t n = 16;
    while (n < 2 * entries) n *= 2;
    return n;
}

int bpe_size(const struct bpe *b)
{
    return b->size;
}

struct token bpe_token(const struct bpe *b, int id)
{
    return id >= 0 && id < b->size ? b->token[id] : (struct token){0};
}

int bpe_find(const struct bpe *b, const char *s, size_t n)
{
    for (size_t i = text_hash(s, n);; i++) {
        int id = b->slot[i & (b->slots - 1)];
        if (id < 0) return -1;
        if (b->token[id].n == n && memcmp(b->token[id].text, s, n) == 0) return id;
    }
}

static struct merge *merge_slot(const struct bpe *b, uint64_t pair)
{
    size_t i = (size_t)(mix(pair) >> 16);
    for (;; i++) {
        struct merge *m = &b->merge[i & (b->merge_slots - 1)];
        if (m->pair == pair || m->pair == UINT64_MAX) return m;
    }
}

static uint64_t pair_of(int left, int right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* ---- loading */

static int load_vocab(struct bpe *b, const char *file, const cJSON *vocab)
{
    size_t bytes = 0, count = 0;
    int last = -1;

    if (!cJSON_IsObject(vocab))
        return fail("%s: model: \"vocab\": expected an object of tokens and ids, found %s", file,
                    json_kind(vocab));
    for (const cJSON *v = vocab->child; v; v = v->next) {
        double id = cJSON_IsNumber(v) ? v->valuedouble : NAN;
        if (!(id >= 0 && id <= TOKEN_ID_MAX) || id != floor(id)) {
            if (!cJSON_IsNumber(v))
                return fail("%s: model: vocab: \"%.100s\": expected an id, found %s", file,
                            v->string, json_kind(v));
            return fail("%s: model: vocab: \"%.100s\": expected an id from 0 to %d, found %g", file,
                        v->string, TOKEN_ID_MAX, id);
        }
        if ((int)id > last) last = (int)id;
        bytes += strlen(v->string);
        count++;
    }
    if (count == 0) return fail("%s: model: \"vocab\": expected tokens, found none", file);

    b->size = last + 1;
    b->arena = xmalloc(bytes + 8);
    b->token = xcalloc((size_t)b->size, sizeof *b->token);
    b->slots = table_size(count);
    b->slot = xmalloc(b->slots * sizeof *b->slot);
    memset(b->slot, 0xff, b->slots * sizeof *b->slot);
    char *at = b->arena;
    for (const cJSON *v = vocab->child; v; v = v->next) {
        const int id = (int)v->valuedouble;
        const size_t n = strlen(v->string);
        if (b->token[id].text)
            return fail("%s: model: vocab: id %d stands twice, for \"%.*s\" and \"%.100s\"", file,
                        id, (int)(b->token[id].n < 100 ? b->token[id].n : 100), b->token[id].text,
                        v->string);
        memcpy(at, v->string, n);
        b->token[id] = (struct token){at, n};
        at += n;
        size_t i = text_hash(v->string, n);
        while (b->slot[i & (b->slots - 1)] >= 0) i++;
        b->slot[i & (b->slots - 1)] = id;
    }
    return 0;
}

/* The two halves of a merge, "a b" or ["a", "b"]. RANK names it in messages. */
static int merge_halves(const char *file, const cJSON *m, int rank, struct token half[2])
{
    if (cJSON_IsString(m)) {
        const char *gap = strchr(m->valuestring, ' ');
        if (gap == NULL || strchr(gap + 1, ' '))
            return fail("%s: model: merges[%d]: expected two tokens and a space between, found "
                        "\"%.100s\"",
                        file, rank, m->valuestring);
        half[0] = (struct token){m->valuestring, (size_t)(gap - m->valuestring)};
        half[1] = (struct token){gap + 1, strlen(gap + 1)};
        return 0;
    }
    if (!cJSON_IsArray(m) || !cJSON_IsString(m->child) || !cJSON_IsString(m->child->next) ||
        m->child->next->next)
        return fail("%s: model: merges[%d]: expected \"a b\" or [\"a\", \"b\"], found %s", file,
                    rank, cJSON_IsArray(m) ? "another list" : json_kind(m));
    half[0] = (struct token){m->child->valuestring, strlen(m->child->valuestring)};
    half[1] = (struct token){m->child->next->valuestring, strlen(m->child->next->valuestring)};
    return 0;
}

static bool starts_with_mark(struct token t)
{
    return t.n >= 3 && memcmp(t.text, SPACE_MARK, 3) == 0;
}

static bool ends_with_mark(struct token t)
{
    return t.n >= 3 && memcmp(t.text + t.n - 3, SPACE_MARK, 3) == 0;
}

static int load_merges(struct bpe *b, const char *file, const cJSON *merges)
{
    struct text joined = {0};
    size_t count = 0;
    uint32_t rank = 0;
    int rc = -1, at = 0;

    if (!cJSON_IsArray(merges))
        return fail("%s: model: \"merges\": expected a list, found %s", file, json_kind(merges));
    for (const cJSON *m = merges->child; m; m = m->next) count++;
    b->merge_slots = table_size(count);
    b->merge = xmalloc(b->merge_slots * sizeof *b->merge);
    memset(b->merge, 0xff, b->merge_slots * sizeof *b->merge);
    b->breaks = bpe_find(b, SPACE_MARK, 3) >= 0 && !b->whole_first;

    for (const cJSON *m = merges->child; m; m = m->next, at++) {
        struct token part[3] = {0}; /* the two halves and the whole */
        int id[3];
        if (cJSON_IsString(m) && strncmp(m->valuestring, "#version", 8) == 0) continue;
        if (merge_halves(file, m, at, part)) goto done;
        joined.n = 0;
        text_add(&joined, part[0].text, part[0].n);
        text_add(&joined, part[1].text, part[1].n);
        part[2] = (struct token){joined.n ? joined.s : "", joined.n};
        for (int i = 0; i < 3; i++) {
            if ((id[i] = bpe_find(b, part[i].text, part[i].n)) >= 0) continue;
            fail("%s: model: merges[%d]: token \"%.*s\" is not in the vocabulary", file, at,
                 (int)(part[i].n < 100 ? part[i].n : 100), part[i].text);
            goto done;
        }
        const uint64_t pair = pair_of(id[0], id[1]);
        *merge_slot(b, pair) = (struct merge){.pair = pair, .rank = rank++, .id = id[2]};
        if (starts_with_mark(part[1]) && !ends_with_mark(part[0])) b->breaks = false;
    }
    rc = 0;

done:
    free(joined.s);
    return rc;
}

/* Characters of one or two bytes, and byte tokens, so that most look-ups need no hash. */
static void fill_tables(struct bpe *b)
{
    char text[8];
    for (uint32_t c = 0; c < NEAR; c++) b->near[c] = bpe_find(b, text, (size_t)utf8_put(c, text));
    for (int i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        b->byte[i] = bpe_find(b, text, 6);
    }
}

static int load_options(struct bpe *b, const char *part, const cJSON *model)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *unknown = NULL;
    double dropout = 0;

    for (size_t i = 0; i < COUNT_OF(affixes); i++) {
        const char *affix = "";
        if (json_string(part, model, affixes[i], &affix)) return -1;
        if (*affix)
            return fail("%s: \"%s\" is not supported; expected null, found \"%.100s\"", part,
                        affixes[i], affix);
    }
    if (json_double(part, model, "dropout", 0, 1, &dropout)) return -1;
    if (dropout != 0) return fail("%s: \"dropout\": expected null, found %g", part, dropout);
    if (json_bool(part, model, "byte_fallback", &b->byte_fallback) ||
        json_bool(part, model, "fuse_unk", &b->fuse_unknown) ||
        json_bool(part, model, "ignore_merges", &b->whole_first) ||
        json_string(part, model, "unk_token", &unknown))
        return -1;
    b->unknown = unknown ? bpe_find(b, unknown, strlen(unknown)) : -1;
    if (unknown && b->unknown < 0) b->missing = xstrdup(unknown);
    return 0;
}

struct bpe *bpe_load(const char *file, const cJSON *model)
{
    const char *type = "BPE";
    char *part = xprintf("%s: model", file);
    struct bpe *b = xcalloc(1, sizeof *b);
    int rc = -1;

    if (!cJSON_IsObject(model)) {
        fail("%s: \"model\": expected an object, found %s", file, json_kind(model));
        goto done;
    }
    if (json_string(part, model, "type", &type)) goto done;
    if (strcmp(type, "BPE") != 0) {
        fail("%s: type \"%.100s\" is not supported; expected \"BPE\"", part, type);
        goto done;
    }
    if (load_vocab(b, file, json_member(model, "vocab")) || load_options(b, part, model) ||
        load_merges(b, file, json_member(model, "merges")))
        goto done;
    fill_tables(b);
    rc = 0;

done:
    free(part);
    if (rc) bpe_free(b);
    return rc ? NULL : b;
}

void bpe_free(struct bpe *b)
{
    if (b == NULL) return;
    free(b->arena);
    free(b->token);
    free(b->slot);
    free(b->merge);
    free(b->missing);
    free(b);
}

/* ---- merging */

void bpe_work_free(struct bpe_work *w)
{
    if (w->symbols) {
        free(w->symbols->v);
        free(w->symbols->heap);
    }
    free(w->symbols);
    free(w->cache);
    memset(w, 0, sizeof *w);
}

static void symbol_add(struct bpe_symbols *y, int id)
{
    if (y->n == y->room) {
        y->room = y->room < 64 ? 64 : y->room <= INT_MAX / 2 ? 2 * y->room : INT_MAX;
        y->v = xrealloc(y->v, (size_t)y->room * sizeof *y->v);
    }
    y->v[y->n] = (struct symbol){.id = id, .prev = y->n - 1, .next = y->n + 1, .rank = NO_RANK};
    y->n++;
}

/* The word's characters as symbols. An unknown token that waits to be fused with the next is put
 * down at the next known character or at the end, so behind bytes in between, as Hugging Face's
 * BPE::merge_word does. */
static int split_characters(const struct bpe *b, struct bpe_symbols *y, const char *s, size_t n)
{
    bool waiting = false; /* an unknown token is still to be put down */
    y->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        const size_t len = (size_t)utf8_get(s + i, &c);
        const char *at = s + i;
        const int id = c < NEAR ? b->near[c] : bpe_find(b, at, len);
        i += len;
        if (id >= 0) {
            if (waiting) symbol_add(y, b->unknown);
            waiting = false;
            symbol_add(y, id);
            continue;
        }
        if (b->byte_fallback) {
            bool all = true;
            for (size_t k = 0; k < len; k++) all = all && b->byte[(unsigned char)at[k]] >= 0;
            for (size_t k = 0; all && k < len; k++) symbol_add(y, b->byte[(unsigned char)at[k]]);
            if (all) continue;
        }
        if (b->missing)
            return fail("the tokenizer's unk_token \"%.100s\" is needed for U+%04X, but is not in "
                        "its vocabulary",
                        b->missing, (unsigned)c);
        if (b->unknown < 0) continue;
        if (waiting && !b->fuse_unknown) symbol_add(y, b->unknown);
        waiting = true;
    }
    if (waiting) symbol_add(y, b->unknown);
    if (y->n > 0) y->v[y->n - 1].next = -1;
    return 0;
}

static void heap_push(struct bpe_symbols *y, uint64_t key)
{
    if (y->heap_n == y->heap_room) {
        y->heap_room = 2 * y->heap_room + 64;
        y->heap = xrealloc(y->heap, y->heap_room * sizeof *y->heap);
    }
    size_t i = y->heap_n++;
    for (; i > 0 && y->heap[(i - 1) / 2] > key; i = (i - 1) / 2) y->heap[i] = y->heap[(i - 1) / 2];
    y->heap[i] = key;
}

static uint64_t heap_pop(struct bpe_symbols *y)
{
    const uint64_t top = y->heap[0], key = y->heap[--y->heap_n];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < y->heap_n; i = k) {
        if (k + 1 < y->heap_n && y->heap[k + 1] < y->heap[k]) k++;
        if (y->heap[k] >= key) break;
        y->heap[i] = y->heap[k];
    }
    y->heap[i] = key;
    return top;
}

static void rank_pair(const struct bpe *b, struct symbol *v, int i)
{
    v[i].rank = NO_RANK;
    if (v[i].next < 0) return;
    const uint64_t pair = pair_of(v[i].id, v[v[i].next].id);
    const struct merge *m = merge_slot(b, pair);
    if (m->pair == pair) v[i].rank = m->rank;
}

/* Merges symbol I with its right neighbour and ranks the two pairs that arise. */
static void merge_at(const struct bpe *b, struct symbol *v, int i)
{
    const int right = v[i].next;
    v[i].id = merge_slot(b, pair_of(v[i].id, v[right].id))->id;
    v[i].next = v[right].next;
    if (v[i].next >= 0) v[v[i].next].prev = i;
    v[right].id = -1;
    v[right].rank = NO_RANK;
    rank_pair(b, v, i);
    if (v[i].prev >= 0) rank_pair(b, v, v[i].prev);
}

#define SCAN 24 /* symbols up to which a scan for the lowest rank beats the heap */

/* Lowest rank first, leftmost first among equals. */
static void merge_all(const struct bpe *b, struct bpe_symbols *y)
{
    struct symbol *v = y->v;
    for (int i = 0; i < y->n; i++) rank_pair(b, v, i);
    while (y->n <= SCAN) {
        int best = 0;
        for (int i = v[0].next; i >= 0; i = v[i].next)
            if (v[i].rank < v[best].rank) best = i;
        if (v[best].rank == NO_RANK) return;
        merge_at(b, v, best);
    }
    y->heap_n = 0;
    for (int i = 0; i < y->n; i++)
        if (v[i].rank != NO_RANK) heap_push(y, (uint64_t)v[i].rank << 32 | (uint32_t)i);
    while (y->heap_n > 0) {
        const uint64_t top = heap_pop(y);
        const int i = (int)(uint32_t)top;
        if (v[i].rank != (uint32_t)(top >> 32)) continue; /* the pair has changed since */
        merge_at(b, v, i);
        const int p = v[i].prev;
        if (v[i].rank != NO_RANK) heap_push(y, (uint64_t)v[i].rank << 32 | (uint32_t)i);
        if (p >= 0 && v[p].rank != NO_RANK) heap_push(y, (uint64_t)v[p].rank << 32 | (uint32_t)p);
    }
}

static int encode_word(const struct bpe *b, struct bpe_work *w, const char *s, size_t n,
                       struct id_list *ids)
{
    struct cached *slot = NULL;
    const int before = ids->n;

    if (n <= CACHE_BYTES) {
        if (w->cache == NULL) w->cache = xcalloc(1, sizeof *w->cache);
        slot = &w->cache->slot[text_hash(s, n) % CACHE_SLOTS];
        if (slot->n == n && memcmp(slot->word, s, n) == 0) {
            for (int i = 0; i < slot->ids_n; i++) id_list_add(ids, slot->ids[i]);
            return 0;
        }
    }
    const int whole = b->whole_first ? bpe_find(b, s, n) : -1;
    if (whole >= 0) {
        id_list_add(ids, whole);
    } else {
        if (w->symbols == NULL) w->symbols = xcalloc(1, sizeof *w->symbols);
        if (split_characters(b, w->symbols, s, n)) return -1;
        if (w->symbols->n > 0) merge_all(b, w->symbols);
        for (int i = 0; i < w->symbols->n; i++)
            if (w->symbols->v[i].id >= 0) id_list_add(ids, w->symbols->v[i].id);
    }
    if (slot && ids->n - before <= CACHE_IDS) {
        slot->n = (uint8_t)n;
        slot->ids_n = (uint8_t)(ids->n - before);
        memcpy(slot->word, s, n);
        for (int i = before; i < ids->n; i++) slot->ids[i - before] = ids->v[i];
    }
    return 0;
}

/* Where no merge joins anything to a space mark behind it, a text may be cut in front of its
 * marks and gives the same ids: merges on the two sides do not meet. SentencePiece vocabularies,
 * whose texts come here as a whole, are made so. */
int bpe_encode(const struct bpe *b, struct bpe_work *w, const char *s, size_t n,
               struct id_list *ids)
{
    if (!b->breaks) return encode_word(b, w, s, n, ids);
    for (size_t start = 0, i; start < n; start = i) {
        for (i = start; i + 3 <= n && memcmp(s + i, SPACE_MARK, 3) == 0;) i += 3;
        const char *mark = i < n ? memmem(s + i, n - i, SPACE_MARK, 3) : NULL;
        i = mark ? (size_t)(mark - s) : n;
        if (encode_word(b, w, s + start, i - start, ids)) return -1;
    }
    return 0;
}
