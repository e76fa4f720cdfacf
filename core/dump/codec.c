/* codec.c - chunks: shuffle, half floats, and a zlib stream fitted to each byte plane. */
#include "core/dump/codec.h"
#include "core/base/base.h"
#include "core/dump/huffman.h"

#include <libdeflate.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The loops below are plain C; where the compiler can, it makes a second version of each for AVX2
 * and the loader picks one. Both give the same bits. */
#if defined(__x86_64__) && defined(__GNUC__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

static void must(const void *p)
{
    if (p) return;
    fail("out of memory: cannot set up libdeflate");
    exit(1);
}

void codec_fit(struct codec *c, size_t bytes)
{
    if (c->deflate == NULL) must(c->deflate = libdeflate_alloc_compressor(1));
    if (c->inflate == NULL) must(c->inflate = libdeflate_alloc_decompressor());
    if (bytes > c->room) {
        free(c->planes);
        c->planes = xmalloc(bytes);
        c->room = bytes;
    }
}

void codec_close(struct codec *c)
{
    libdeflate_free_compressor(c->deflate);
    libdeflate_free_decompressor(c->inflate);
    free(c->planes);
    memset(c, 0, sizeof *c);
}

size_t codec_bound(size_t bytes)
{
    return huffman_bound(bytes) + 4 * huffman_bound(0) +
           libdeflate_deflate_compress_bound(NULL, bytes) + 16;
}

/* Bits per byte of a plane by the frequencies of at most 4,096 of its bytes, in 16 runs. */
static double entropy(const uint8_t *plane, size_t n)
{
    enum { RUNS = 16, RUN = 256 };
    uint32_t count[256] = {0};
    size_t seen = 0;
    double bits = 0;
    if (n <= RUNS * RUN) {
        for (; seen < n; seen++) count[plane[seen]]++;
    } else {
        for (size_t r = 0; r < RUNS; r++)
            for (size_t i = 0; i < RUN; i++, seen++) count[plane[r * (n - RUN) / (RUNS - 1) + i]]++;
    }
    for (int s = 0; s < 256; s++)
        if (count[s]) bits -= count[s] * log2((double)count[s] / (double)seen);
    return bits / (double)(seen ? seen : 1);
}

size_t codec_pack(struct codec *c, size_t n, size_t size, bool floats, uint8_t *out)
{
    /* Above 7.5 bits a code would save less than 6 %. Below 0.75 bits, which a Huffman code of
     * single bytes cannot reach, the plane has long runs, such as a sparse layer's zeros. */
    const double noise = 7.5, runs = 0.75;
    const size_t few = 1024; /* values whose code would weigh more than it saves */
    const size_t bytes = n * size;
    enum { STORE, CODE, SEARCH } kind[8];
    size_t search = size; /* the planes from here on are searched for matches, as one */
    struct bit_stream o = {.p = out};

    for (size_t p = 0; p < size; p++) {
        const double h = entropy(c->planes + p * n, n);
        kind[p] = h > noise ? STORE : h < runs || !floats || n < few ? SEARCH : CODE;
    }
    while (search > 0 && kind[search - 1] == SEARCH) search--;

    *o.p++ = 0x78; /* zlib header (RFC 1950): deflate with a 32 KiB window, fastest */
    *o.p++ = 0x01;
    for (size_t p = 0; p < search; p++) {
        const uint8_t *plane = c->planes + p * n;
        const bool final = p + 1 == size;
        if (kind[p] == STORE)
            stored_blocks(&o, plane, n, final);
        else
            huffman_block(&o, plane, n, final);
    }
    if (search < size) {
        const uint8_t *rest = c->planes + search * n;
        const size_t left = (size - search) * n;
        if (search > 0 && kind[search - 1] != STORE) stored_blocks(&o, rest, 0, false);
        o.p += libdeflate_deflate_compress(c->deflate, rest, left, o.p,
                                           libdeflate_deflate_compress_bound(NULL, left));
    } else if (o.n) {
        *o.p++ = (uint8_t)o.bits;
    }
    const uint32_t sum = libdeflate_adler32(1, c->planes, bytes);
    for (int shift = 24; shift >= 0; shift -= 8) *o.p++ = (uint8_t)(sum >> shift);
    return (size_t)(o.p - out);
}

int codec_unpack(struct codec *c, const uint8_t *in, size_t in_bytes, size_t bytes)
{
    return libdeflate_zlib_decompress(c->inflate, in, in_bytes, c->planes, bytes, NULL) ==
                   LIBDEFLATE_SUCCESS
               ? 0
               : -1;
}

CLONES static void shuffle2(uint8_t *restrict low, uint8_t *restrict high,
                            const uint8_t *restrict row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        low[i] = row[2 * i];
        high[i] = row[2 * i + 1];
    }
}

CLONES static void shuffle4(uint8_t *restrict planes, size_t stride, const uint8_t *restrict row,
                            size_t n)
{
    for (size_t k = 0; k < 4; k++)
        for (size_t i = 0; i < n; i++) planes[k * stride + i] = row[4 * i + k];
}

CLONES static void unshuffle2(uint8_t *restrict row, const uint8_t *restrict low,
                              const uint8_t *restrict high, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        row[2 * i] = low[i];
        row[2 * i + 1] = high[i];
    }
}

CLONES static void unshuffle4(uint32_t *restrict row, const uint8_t *restrict planes, size_t stride,
                              size_t n)
{
    const uint8_t *b = planes + stride, *c = b + stride, *d = c + stride;
    for (size_t i = 0; i < n; i++)
        row[i] = planes[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 | (uint32_t)d[i] << 24;
}

void codec_shuffle(uint8_t *planes, size_t stride, const uint8_t *row, size_t n, size_t size)
{
    if (size == 1)
        memcpy(planes, row, n);
    else if (size == 2)
        shuffle2(planes, planes + stride, row, n);
    else
        shuffle4(planes, stride, row, n);
}

void codec_unshuffle(uint8_t *row, const uint8_t *planes, size_t stride, size_t n, size_t size)
{
    if (size == 1)
        memcpy(row, planes, n);
    else if (size == 2)
        unshuffle2(row, planes, planes + stride, n);
    else
        unshuffle4((uint32_t *)row, planes, stride, n);
}

static inline float as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t as_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* A where TEST, otherwise B, without a branch: a float operation that only one side needs may trap
 * for all the compiler knows, so it does not vectorise a loop that branches around it. */
static inline uint32_t choose(bool test, uint32_t a, uint32_t b)
{
    const uint32_t mask = 0 - (uint32_t)test;
    return (a & mask) | (b & ~mask);
}

static inline uint16_t half_of(float f)
{
    const uint32_t bits = as_bits(f), a = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    /* Below 2^-14 the half is subnormal: adding 0.5 leaves its 2^-24 steps in the low bits, rounded
     * to even by the addition. */
    const uint32_t tiny = as_bits(as_float(a) + 0.5f) - 0x3f000000;
    /* Otherwise the exponent's bias changes from 127 to 15, and half a step less one, plus the last
     * bit kept, rounds to even; a carry moves into the exponent, up to infinity. */
    const uint32_t normal = (a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13;
    const uint32_t finite = choose(a < 0x38800000, tiny, normal);
    const uint32_t h = choose(a >= 0x47800000, 0x7c00, finite) | sign; /* 65,536 and infinity */
    return (uint16_t)choose(a > 0x7f800000, 0x7e00, h);
}

static inline float float_of(uint32_t h)
{
    const uint32_t a = h & 0x7fff;
    const uint32_t tiny = as_bits((float)(int32_t)a * 0x1p-24f);
    const uint32_t finite = choose(a < 0x400, tiny, (a << 13) + (112u << 23));
    return as_float(choose(a >= 0x7c00, (a << 13) | 0x7f800000, finite) | (h & 0x8000) << 16);
}

CLONES void codec_halves(uint16_t *restrict out, const float *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = half_of(in[i]);
}

CLONES void codec_floats(float *restrict out, const uint16_t *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = float_of(in[i]);
}

CLONES void codec_floats_unshuffle(float *restrict out, const uint8_t *restrict low,
                                   const uint8_t *restrict high, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = float_of(low[i] | (uint32_t)high[i] << 8);
}
