/* codec.h - one chunk of a dataset: values to shuffled, deflated bytes, and back.
 *
 * The bytes are what HDF5's own filters make of them: "shuffle" puts the first bytes of all
 * elements first, then the second bytes (the planes); "deflate" is one zlib stream. Inside that
 * stream each plane is coded for what it holds: noise (low mantissa bits) is stored, skewed bytes
 * (exponents) get a Huffman code, and only planes with runs are searched for matches. Stored bytes
 * too are under the stream's checksum, so that a flipped bit of the dump is found.
 */
#ifndef CORE_DUMP_CODEC_H
#define CORE_DUMP_CODEC_H

#include "core/dump/shape.h"

/* Work space of one thread. */
struct codec {
    struct libdeflate_compressor *deflate;
    struct libdeflate_decompressor *inflate;
    uint8_t *planes; /* [room] */
    size_t room;
};

/* Makes C fit for chunks of BYTES; C is all zero at first. codec_close() frees what it owns. */
void codec_fit(struct codec *c, size_t bytes);
void codec_close(struct codec *c);

/* The most bytes codec_pack() writes for a chunk of BYTES. */
size_t codec_bound(size_t bytes);

/* Compresses c->planes, of N elements of SIZE bytes, into OUT. FLOATS tells numbers with noise in
 * their low bits from indices and text. Returns the bytes written; the same input gives the same
 * bytes. */
size_t codec_pack(struct codec *c, size_t n, size_t size, bool floats, uint8_t *out);

/* Decompresses IN to c->planes, of exactly BYTES. 0, or -1 (no fail()). */
int codec_unpack(struct codec *c, const uint8_t *in, size_t in_bytes, size_t bytes);

/* Moves N elements of SIZE bytes between rows and planes; the planes of this row start at PLANES,
 * STRIDE bytes apart. */
void codec_shuffle(uint8_t *planes, size_t stride, const uint8_t *row, size_t n, size_t size);
void codec_unshuffle(uint8_t *row, const uint8_t *planes, size_t stride, size_t n, size_t size);

/* Rows of half floats. Rounding is to nearest even, every NaN becomes 0x7e00; otherwise the same
 * bits as f32_to_f16() and f16_to_f32(). */
void codec_halves(uint16_t *out, const float *in, size_t n);
void codec_floats(float *out, const uint16_t *in, size_t n);

/* codec_unshuffle() and codec_floats() in one pass. */
void codec_floats_unshuffle(float *out, const uint8_t *low, const uint8_t *high, size_t n);

#endif
