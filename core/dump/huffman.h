/* huffman.h - deflate without matches: entropy coding alone, several times faster than a search
 * that finds nothing in the exponents of attention weights.
 */
#ifndef CORE_DUMP_HUFFMAN_H
#define CORE_DUMP_HUFFMAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A deflate bit stream under way: bits that have not filled a byte yet wait in `bits`. */
struct bit_stream {
    uint8_t *p; /* next byte to write */
    uint64_t bits;
    unsigned n; /* of `bits`, below 8 between calls */
};

/* The most bytes huffman_block() and stored_blocks() can add for SIZE bytes of input. */
size_t huffman_bound(size_t size);

/* Appends IN as one deflate block of literals, the stream's last when FINAL. SIZE is below 2^31.
 * The caller has room for huffman_bound(SIZE) bytes. */
void huffman_block(struct bit_stream *out, const uint8_t *in, size_t size, bool final);

/* Appends IN as it is, in stored blocks, which end on a byte boundary; SIZE 0 gives one empty block
 * (that is how a stream is brought to a byte boundary). */
void stored_blocks(struct bit_stream *out, const uint8_t *in, size_t size, bool final);

#endif
