/* huffman.c - deflate blocks of literals (RFC 1951, section 3.2.7) and stored blocks (3.2.4). */
#include "core/dump/huffman.h"

#include <stdlib.h>
#include <string.h>

enum {
    SYMBOLS = 257, /* 256 bytes and the end of the block */
    END = 256,     /* the end of the block */
    LONGEST = 13,  /* four codes and 7 waiting bits fit a 64-bit word */
    STORED_MOST = 65535,
};

size_t huffman_bound(size_t size)
{
    /* A code has at most 13 bits, but a block whose codes average above 8 does not occur: equal
     * frequencies give 8 and 9. The bound counts the worst all the same. */
    return size * LONGEST / 8 + 5 * (size / STORED_MOST + 2) + 256;
}

static void put(struct bit_stream *o, uint64_t value, unsigned n)
{
    o->bits |= value << o->n;
    o->n += n;
    while (o->n >= 8) {
        *o->p++ = (uint8_t)o->bits;
        o->bits >>= 8;
        o->n -= 8;
    }
}

static void align(struct bit_stream *o)
{
    if (o->n) put(o, 0, 8 - o->n);
}

void stored_blocks(struct bit_stream *o, const uint8_t *in, size_t size, bool final)
{
    do {
        const size_t n = size < STORED_MOST ? size : STORED_MOST;
        put(o, final && n == size, 3); /* final bit, then type 00 */
        align(o);
        put(o, n, 16);
        put(o, ~n & 0xffff, 16);
        memcpy(o->p, in, n);
        o->p += n;
        in += n;
        size -= n;
    } while (size);
}

struct leaf {
    uint32_t count;
    int symbol;
};

static int by_count(const void *a, const void *b)
{
    const struct leaf *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? -1 : 1;
    return x->symbol - y->symbol;
}

/* Code lengths of at most LONGEST bits for the N >= 2 leaves, which are sorted, rarest first.
 * Huffman's two queues over one array of nodes; lengths past LONGEST are then cut, and shorter
 * codes lengthened until the code is complete again. */
static void code_lengths(const struct leaf *leaves, int n, uint8_t *length)
{
    uint32_t weight[SYMBOLS];
    int parent[2 * SYMBOLS], depth[2 * SYMBOLS], of_length[LONGEST + 2] = {0};
    int leaf = 0, node = 0, made = 0; /* inner node i is number n + i */

    while (made < n - 1) {
        uint32_t sum = 0;
        for (int child = 0; child < 2; child++) {
            const bool take_leaf = leaf < n && (node == made || leaves[leaf].count <= weight[node]);
            sum += take_leaf ? leaves[leaf].count : weight[node];
            parent[take_leaf ? leaf++ : n + node++] = n + made;
        }
        weight[made++] = sum;
    }
    depth[2 * n - 2] = 0;
    for (int i = 2 * n - 3; i >= 0; i--) {
        depth[i] = depth[parent[i]] + 1;
        if (i < n) of_length[depth[i] < LONGEST ? depth[i] : LONGEST]++;
    }

    int used = 0; /* of the code space, in units of the longest code */
    for (int i = 1; i <= LONGEST; i++) used += of_length[i] << (LONGEST - i);
    for (; used > 1 << LONGEST; used--) { /* one longest code moves beside a shorter one */
        int i = LONGEST - 1;
        while (!of_length[i]) i--;
        of_length[LONGEST]--;
        of_length[i]--;
        of_length[i + 1] += 2;
    }
    for (int i = LONGEST, at = 0; i > 0; i--)
        for (int k = of_length[i]; k > 0; k--) length[leaves[at++].symbol] = (uint8_t)i;
}

/* Canonical codes, their bits reversed as deflate sends them: code | length << 16. */
static void make_codes(const uint8_t *length, uint32_t *code)
{
    int count[LONGEST + 1] = {0}, next[LONGEST + 2] = {0};
    for (int s = 0; s < SYMBOLS; s++) count[length[s]]++;
    count[0] = 0;
    for (int i = 1; i <= LONGEST; i++) next[i + 1] = (next[i] + count[i]) << 1;
    for (int s = 0; s < SYMBOLS; s++) {
        uint32_t reversed = 0;
        const int c = length[s] ? next[length[s]]++ : 0;
        for (int i = 0; i < length[s]; i++)
            reversed |= (uint32_t)(c >> i & 1) << (length[s] - 1 - i);
        code[s] = reversed | (uint32_t)length[s] << 16;
    }
}

static void count_bytes(const uint8_t *in, size_t size, uint32_t count[256])
{
    uint32_t part[4][256] = {{0}}; /* equal neighbours do not wait for each other's sum */
    size_t i = 0;
    for (; i + 4 <= size; i += 4)
        for (int k = 0; k < 4; k++) part[k][in[i + (size_t)k]]++;
    for (; i < size; i++) part[0][in[i]]++;
    for (int s = 0; s < 256; s++) count[s] = part[0][s] + part[1][s] + part[2][s] + part[3][s];
}

/* Appends the codes of IN. Four codes, joined in pairs so that they do not wait for each other,
 * go out with one 8-byte store, of which only the whole bytes count. */
static void put_codes(struct bit_stream *o, const uint8_t *in, size_t size, const uint32_t *code)
{
    uint64_t bits = o->bits;
    unsigned n = o->n;
    uint8_t *p = o->p;
    size_t i = 0;
    for (; i + 4 <= size; i += 4) {
        const uint32_t a = code[in[i]], b = code[in[i + 1]], c = code[in[i + 2]],
                       d = code[in[i + 3]];
        const unsigned ab = (a >> 16) + (b >> 16), cd = (c >> 16) + (d >> 16);
        const uint64_t first = (a & 0xffff) | (uint64_t)(b & 0xffff) << (a >> 16);
        const uint64_t second = (c & 0xffff) | (uint64_t)(d & 0xffff) << (c >> 16);
        bits |= (first | second << ab) << n;
        n += ab + cd;
        for (int k = 0; k < 8; k++) p[k] = (uint8_t)(bits >> (8 * k));
        p += n >> 3;
        bits >>= n & ~7u;
        n &= 7;
    }
    *o = (struct bit_stream){p, bits, n};
    for (; i < size; i++) put(o, code[in[i]] & 0xffff, code[in[i]] >> 16);
}

void huffman_block(struct bit_stream *o, const uint8_t *in, size_t size, bool final)
{
    uint32_t count[SYMBOLS], code[SYMBOLS];
    uint8_t length[SYMBOLS] = {0};
    struct leaf leaves[SYMBOLS];
    int n = 0;

    if (size == 0) {
        stored_blocks(o, in, 0, final);
        return;
    }
    count_bytes(in, size, count);
    count[END] = 1;
    for (int s = 0; s < SYMBOLS; s++)
        if (count[s]) leaves[n++] = (struct leaf){count[s], s};
    qsort(leaves, (size_t)n, sizeof leaves[0], by_count);
    code_lengths(leaves, n, length);
    make_codes(length, code);

    put(o, final, 1);
    put(o, 2, 2); /* a dynamic code */
    put(o, 0, 5); /* 257 literal and length codes */
    put(o, 0, 5); /* 1 distance code, */
    put(o, 15, 4);
    /* The code of the code lengths: 4 bits for each of the lengths 0 to 15, none for the repeats
     * 16, 17 and 18, which come first in its order. */
    for (int i = 0; i < 19; i++) put(o, i < 3 ? 0 : 4, 3);
    for (int s = 0; s <= SYMBOLS; s++) {
        const unsigned v = s < SYMBOLS ? length[s] : 0; /* of no bits: no match occurs */
        put(o, (v & 1) << 3 | (v & 2) << 1 | (v & 4) >> 1 | (v & 8) >> 3, 4);
    }
    put_codes(o, in, size, code);
    put(o, code[END] & 0xffff, code[END] >> 16);
}
