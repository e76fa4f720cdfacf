/* test_dump_codec.c - half floats, Huffman blocks and chunks come back as they were. */
#include "core/base/base.h"
#include "core/base/half.h"
#include "core/dump/codec.h"
#include "core/dump/huffman.h"
#include "tests/check.h"

#include <libdeflate.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- half floats */

static bool same_half(float f)
{
    uint16_t h;
    codec_halves(&h, &f, 1);
    return h == (isnan(f) ? 0x7e00 : f32_to_f16(f));
}

/* No tolerance: the definition is the compiler's own conversion in half.h. */
static void halves_are_exact(void)
{
    static float wide[65536], shuffled[65536];
    static uint16_t all[65536], back[65536];
    static uint8_t planes[2 * 65536];
    int wrong = 0, wrong_planes = 0, wrong_back = 0, wrong_random = 0;
    struct rng r;

    for (int h = 0; h < 65536; h++) all[h] = (uint16_t)h;
    codec_floats(wide, all, 65536);
    codec_shuffle(planes, 65536, (const uint8_t *)all, 65536, 2);
    codec_floats_unshuffle(shuffled, planes, planes + 65536, 65536);
    codec_halves(back, wide, 65536);
    for (int h = 0; h < 65536; h++) {
        const float want = f16_to_f32((uint16_t)h);
        const bool nan = isnan(want);
        wrong += nan ? !isnan(wide[h]) : memcmp(&wide[h], &want, 4) != 0;
        wrong_planes += memcmp(&wide[h], &shuffled[h], 4) != 0;
        wrong_back += back[h] != (nan ? 0x7e00 : h);
    }
    CHECK(wrong == 0, "%d of 65,536 halves widen to another float", wrong);
    CHECK(wrong_planes == 0, "%d of 65,536 halves differ when read from planes", wrong_planes);
    CHECK(wrong_back == 0, "%d of 65,536 halves do not come back", wrong_back);

    /* Halves around the subnormal and the largest ones, every seventh between: the next float below
     * and above it, and the midpoint to the next half. */
    for (int h = 0; h < 0x7c00; h += h < 0x800 || h > 0x7b00 ? 1 : 7) {
        const float a = f16_to_f32((uint16_t)h), b = f16_to_f32((uint16_t)(h + 1)),
                    m = a + (b - a) / 2;
        const float near[] = {nextafterf(a, -1), nextafterf(a, INFINITY), m, nextafterf(m, 0),
                              nextafterf(m, INFINITY)};
        for (size_t i = 0; i < COUNT_OF(near); i++)
            wrong_random += !same_half(near[i]) + !same_half(-near[i]);
    }
    rng_seed(&r, 1);
    for (int i = 0; i < 50000; i++) {
        const uint32_t bits = (uint32_t)rng_next(&r);
        float f;
        memcpy(&f, &bits, 4);
        wrong_random += !same_half(f);
    }
    CHECK(wrong_random == 0, "%d floats round to another half", wrong_random);
}

/* ---- chunks */

static void round_trip(const char *what, const uint8_t *planes, size_t n, size_t size, bool floats)
{
    const size_t bytes = n * size;
    struct codec c = {0}, back = {0};
    codec_fit(&c, bytes);
    codec_fit(&back, bytes);
    uint8_t *out = xmalloc(codec_bound(bytes));
    memcpy(c.planes, planes, bytes);
    const size_t packed = codec_pack(&c, n, size, floats, out);
    CHECK(packed <= codec_bound(bytes), "%s, %zu: %zu bytes", what, n, packed);
    CHECK(codec_unpack(&back, out, packed, bytes) == 0 && memcmp(back.planes, planes, bytes) == 0,
          "%s, %zu values of %zu bytes do not come back", what, n, size);
    if (packed > 8) {
        out[packed / 2] ^= 0x10;
        CHECK(codec_unpack(&back, out, packed, bytes) != 0 ||
                  memcmp(back.planes, planes, bytes) == 0,
              "%s, %zu: a flipped bit is taken for data", what, n);
    }
    codec_close(&c);
    codec_close(&back);
    free(out);
}

static void chunks_come_back(void)
{
    enum { N = 40000 };
    static uint8_t kinds[6][4 * N];
    static const char *const names[] = {"zeros",        "noise",     "skewed",
                                        "mostly zeros", "one value", "doubling"};
    static const size_t lengths[] = {1, 2, 3, 255, 1023, 1024, 4096, 4097, 32768, N};
    struct rng r;
    size_t at = 0;

    rng_seed(&r, 2);
    for (size_t i = 0; i < 4 * N; i++) {
        kinds[1][i] = (uint8_t)rng_next(&r);
        kinds[2][i] = (uint8_t)(8 * (rng_unit(&r) + rng_unit(&r) + rng_unit(&r)));
        kinds[3][i] = rng_below(&r, 50) ? 0 : (uint8_t)rng_next(&r);
        kinds[4][i] = 77;
    }
    /* Frequencies 1, 2, 4, 8 ... and the end of the block's 1 give the deepest Huffman code: 16
     * bits here, past the limit of 13. */
    for (int symbol = 0; at < N; symbol++)
        for (int k = 0; k < 1 << symbol && at < N; k++) kinds[5][at++] = (uint8_t)symbol;
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        for (size_t l = 0; l < COUNT_OF(lengths); l++)
            for (size_t size = 1; size <= 4; size *= 2)
                for (int floats = 0; floats < 2; floats++)
                    round_trip(names[k], kinds[k], lengths[l], size, floats);

    /* Different planes in one chunk: stored, then coded, then searched. */
    memcpy(kinds[0], kinds[1], N);
    memcpy(kinds[0] + N, kinds[2], N);
    memcpy(kinds[0] + 2 * N, kinds[5], N);
    memcpy(kinds[0] + 3 * N, kinds[3], N);
    round_trip("mixed", kinds[0], N, 4, true);
}

static void codes_are_short(void)
{
    /* Two equally frequent bytes and a rare end: 1 bit or 2 for each value, so 1.5 bits on average
     * and at most 2; the header takes 17 + 57 + 258 * 4 bits. */
    enum { N = 10000 };
    static uint8_t in[N], back[N];
    uint8_t *out = xmalloc(huffman_bound(N));
    struct bit_stream o = {.p = out};
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    for (int i = 0; i < N; i++) in[i] = i % 2 ? 200 : 3;
    huffman_block(&o, in, N, true);
    const size_t bytes = (size_t)(o.p - out) + 1;
    if (o.n) *o.p = (uint8_t)o.bits;
    CHECK(bytes <= (N * 3 / 2 + 1106) / 8 + 2, "%zu bytes", bytes);
    CHECK(libdeflate_deflate_decompress(d, out, bytes, back, N, NULL) == LIBDEFLATE_SUCCESS &&
              memcmp(in, back, N) == 0,
          "the block does not come back");
    libdeflate_free_decompressor(d);
    free(out);
}

int main(void)
{
    halves_are_exact();
    chunks_come_back();
    codes_are_short();
    return check_report("dump_codec");
}
