/* bpe.h - the BPE model of a tokenizer.json: vocabulary, merges, and the merging of a word.
 *
 * Merging takes O(n log n) for a word of n characters: a heap of pairs over a linked list.
 */
#ifndef CORE_MODEL_BPE_H
#define CORE_MODEL_BPE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKEN_ID_MAX                                                                               \
    16777215 /* ids past it are taken for damage: the largest vocabularies have 2^18 */

struct bpe;

/* A token's text; text is NULL for an id that no token has. */
struct token {
    const char *text;
    size_t n;
};

/* Reads the object "model" of FILE. NULL after fail(). */
struct bpe *bpe_load(const char *file, const cJSON *model);
void bpe_free(struct bpe *b);

int bpe_size(const struct bpe *b); /* one past the largest id */
struct token bpe_token(const struct bpe *b, int id);
int bpe_find(const struct bpe *b, const char *s, size_t n); /* the id, or -1 */

/* Ids that grow; the owner frees v. */
struct id_list {
    int *v;
    int n, room;
};
void id_list_add(struct id_list *l, int id);

/* What encoding works in, one per thread: buffers and the words seen last. All zero is empty. */
struct bpe_work {
    struct bpe_symbols *symbols;
    struct bpe_cache *cache;
};
void bpe_work_free(struct bpe_work *w);

/* Appends the ids of the word S, not empty. Characters that are not in the vocabulary become bytes
 * (byte_fallback), the unknown token, or nothing, as Hugging Face's tokenizers do. 0, or -1 after
 * fail(): an unknown token is called for that the vocabulary lacks. */
int bpe_encode(const struct bpe *b, struct bpe_work *w, const char *s, size_t n,
               struct id_list *ids);

#endif
