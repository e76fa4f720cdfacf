/* jieba.h - Chinese text cut into words as jieba 0.42.1 cuts it: precise mode (cut_all=False) with
 * the hidden Markov model, no user dictionary, no forced splits. Word for word the same, since
 * published scores of Chinese tasks count these words.
 *
 * Dictionary and model tables are jieba's own files, read at run time:
 *
 *   DIR/dict.txt                        a line a word: WORD FREQUENCY [TAG]
 *   DIR/finalseg/prob_{start,trans,emit}.py   the log probabilities of the model, one literal each
 *
 * Source: jieba 0.42.1, Tokenizer.cut in __init__.py, and finalseg/__init__.py.
 */
#ifndef ANALYZE_JIEBA_H
#define ANALYZE_JIEBA_H

#include <stddef.h>

/* Where Debian's and Ubuntu's package python3-jieba puts them. */
#define JIEBA_DIR "/usr/lib/python3/dist-packages/jieba"

struct jieba; /* the dictionary and the tables of the model */

/* Reads the files of DIR, of JIEBA_DIR for NULL. The caller closes the result, which nothing
 * changes afterwards: any number of threads may use it. NULL after fail(): a file that is missing
 * or not what it should be, with its line. */
struct jieba *jieba_open(const char *dir);

/* Frees J. NULL is allowed. */
void jieba_close(struct jieba *j);

/* Cuts TEXT, SIZE bytes of UTF-8, and calls WORD with CTX for each word in order: N > 0 bytes at S,
 * which lies in TEXT, so that the words put end to end are TEXT. White space and punctuation are
 * words too, a character each, but "\r\n" together. A byte that is no part of a UTF-8 character
 * (RFC 3629) is a word of its own; jieba has no such case, Python's strings hold characters.
 * Takes memory for the longest run of Chinese characters, letters and digits: up to 64 bytes for
 * each of them. */
void jieba_cut(const struct jieba *j, const char *text, size_t size,
               void (*word)(void *ctx, const char *s, size_t n), void *ctx);

#endif
