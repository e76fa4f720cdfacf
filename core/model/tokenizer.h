/* tokenizer.h - text to token ids and back, as DIR/tokenizer.json says.
 *
 * BPE with byte level and any Split pattern (PCRE2), and the SentencePiece style (byte fallback,
 * Prepend/Replace normalisers); added and special tokens; NFC where asked; template post-processor.
 * Whatever a tokenizer.json asks for beyond that is refused by name.
 */
#ifndef CORE_MODEL_TOKENIZER_H
#define CORE_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

struct tokenizer;

/* Reads DIR/tokenizer.json (and DIR/tokenizer_config.json, when there, for its bos_token and
 * chat_template, or DIR/chat_template.jinja, which goes before). BOS is what tokenizer.json's
 * post-processor adds: add_bos_token of tokenizer_config.json counts for nothing next to a
 * tokenizer.json, as in transformers 5, nor do padding and truncation. NULL after fail(). */
struct tokenizer *tokenizer_load(const char *dir);
void tokenizer_free(struct tokenizer *t); /* NULL is allowed */

/* Token ids of the SIZE bytes of TEXT. Special-token strings in it are recognised. With SPECIAL,
 * also what the post-processor adds (BOS), unless the text already starts with it: BOS is never
 * doubled. The caller frees *IDS (never NULL on success). TEXT that is not UTF-8 is refused.
 * Characters that a vocabulary without byte fallback and without unk_token lacks are left out, as
 * in Hugging Face's tokenizers. 0, or -1 after fail(). */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t size, bool special,
                     int **ids, int *n);

/* The bytes of N ids, exactly: decode(encode(x)) = x for byte-level tokenizers, up to what their
 * normaliser changed. SentencePiece style tokenizers put a space in front of a text, and the
 * decoder takes one away from the front of the whole result; one put behind a special token within
 * a text stays, as in Hugging Face's decode. Bytes that make no character stand for themselves,
 * where Hugging Face's decode writes U+FFFD. Special tokens appear as their text unless
 * SKIP_SPECIAL. New memory with a NUL after *SIZE bytes (which may hold NULs themselves); the
 * caller frees it. NULL after fail(): an id outside the vocabulary. ENDS, unless NULL, is [n]:
 * where each token ends in the result. */
char *tokenizer_decode(const struct tokenizer *t, const int *ids, int n, bool skip_special,
                       size_t *size, int *ends);

/* Bytes of TEXT[0, n) that end on a whole UTF-8 character: what may be shown while streaming. */
size_t utf8_whole(const char *text, size_t n);

int tokenizer_vocab_size(const struct tokenizer *t);                  /* one past the largest id */
int tokenizer_token_id(const struct tokenizer *t, const char *token); /* -1 when absent */
int tokenizer_bos(const struct tokenizer *t);                         /* -1: adds none */

/* Chat formats. */
enum chat_format { CHAT_UNKNOWN, CHAT_NONE, CHAT_LLAMA3, CHAT_CHATML, CHAT_LLAMA2, CHAT_MISTRAL };

/* What the checkpoint's chat_template is; CHAT_NONE without one, CHAT_UNKNOWN when it is another.
 */
enum chat_format tokenizer_chat_format(const struct tokenizer *t);
int chat_format_parse(const char *name,
                      enum chat_format *f); /* llama3, chatml, llama2, mistral, none */
const char *chat_format_name(enum chat_format f);

/* The same message exactly as the checkpoint's own chat_template renders it, when F is its format:
 * with its default system message when SYSTEM is NULL, its trimming of white space, its dates and,
 * where the template writes it, the text of BOS in front (tokenizer_encode() never doubles it). For
 * another format, chat_wrap(). The caller frees it. */
char *tokenizer_chat_wrap(const struct tokenizer *t, enum chat_format f, const char *system,
                          const char *user);

/* One user message (and a system message, or NULL) wrapped for an assistant's answer, as text whose
 * special-token strings tokenizer_encode() recognises; BOS is not part of it. The caller frees it.
 */
char *chat_wrap(enum chat_format f, const char *system, const char *user);

#endif
