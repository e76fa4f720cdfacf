/* cuda_chain.cu - several products of a decode step, one after the other, in one kernel.
 *
 * All the time goes into reading the matrices, and memory must not be idle where one product ends
 * and the next begins: there all blocks wait for each other, since every one needs the whole of the
 * next input. So one block per multiprocessor stays for all products, and its matrix rows, of all
 * products in order, go through one ring in shared memory that knows nothing of the boundaries:
 * while blocks meet and read the new input, the ring of the next product fills.
 *
 * Warps of a block: CONSUMERS multiply, each with its columns of the input in registers; they add
 * up over the lanes and leave a sum per row and warp. One producer asks for the pieces of matrix as
 * slots become free, from before the kernels before this one are complete. One storer puts the
 * warps' sums together, adds bias and so on, stores, and meets the other blocks at the end of a
 * product.
 *
 * Blocks meet at a counter per product, in WORK: every block adds 1, the first what turns the
 * highest bit over once all are there, and all wait for that bit to turn. Nothing is ever reset.
 */
#include "core/ops/cuda_linear.cuh"

#include <math.h>

/* What tuning found best on an H200; the driver of such measurements may set others. */
#ifndef CHAIN_WARPS
#define CHAIN_WARPS 16 /* that multiply */
#endif
#ifndef CHAIN_RING
#define CHAIN_RING 192 /* KiB of the ring: what is in flight per block */
#endif
#ifndef CHAIN_NEXT
#define CHAIN_NEXT 192 /* KiB, at most, that a block fetches of what the next kernel reads */
#endif
#ifndef CHAIN_BOUND
#define CHAIN_BOUND 768 /* threads to deal registers for: other kernels want some */
#endif
#ifndef CHAIN_ONCE
#define CHAIN_ONCE 1 /* the L2 is told that no matrix is read again soon */
#endif

enum {
    WARPS = CHAIN_WARPS,
    CONSUMERS = 32 * WARPS,
    PRODUCER = WARPS, /* warp */
    STORER = WARPS + 1,
    THREADS = CONSUMERS + 64,
    PIECE = 4096, /* columns, at most, of the two rows of a slot */
    HELD = (PIECE / 8 + CONSUMERS - 1) / CONSUMERS, /* 16-byte chunks of a row for a thread */
    TILE = 32,                                      /* pairs of rows between two stores */
    MAX_SLOTS = 32,
    FEW = 4, /* pieces of a row, for the kernel with less registers */
    MANY = 8,
    COUNTER_STRIDE = 32 /* words: each counter has its own line of the L2 */
};
static_assert(CHAIN_BOUND >= THREADS && TILE % 2 == 0, "the launch fits its bound, groups a tile");

/* Polls of a counter, half a microsecond each, after which a bug is to end the program. */
#define PATIENCE (1u << 26)

/* One product. A block takes a contiguous share of its UNITS: pairs of rows that an output needs
 * together (gate and up, the two halves that RoPE mixes) or single rows, read in pairs all the
 * same. Which blocks take one more turns on from product to product. */
struct product {
    enum cuda_link_kind kind;
    const void *w;
    const float *bias, *in, *gain;
    float eps;
    int cols;
    int segments, width; /* a row is read in SEGMENTS pieces of WIDTH columns, the last less */
    int units, share, more, turn; /* MORE blocks, from block TURN on, take SHARE + 1 units */
    int shift;                    /* LINK_QKV: D / 2 = 2^shift */
    float *out, *delta, *before;
    struct cuda_qkv qkv;
};

struct chain {
    struct product links[CUDA_CHAIN_LINKS];
    int n;
    int slots, slot_size; /* of the ring; bytes */
    bool once;
    const char *next; /* NEXT_SHARE bytes for each block, NEXT_MOST of them wanted */
    size_t next_share, next_most;
    unsigned *counters;
};

extern __shared__ __align__(128) unsigned char shared[];

/* Shared: sums [2, 2, WARPS, TILE], squares [WARPS], barriers, then the ring. Of the barriers, FULL
 * counts the bytes of a slot and EMPTY the warps done with it, SUMMED the warps that left their
 * sums of a tile and READ says they are read; PASSED says that a product's input is there. */
enum {
    TILE_SUMS = 2 * WARPS * TILE,
    SQUARES_AT = 2 * TILE_SUMS * 4,
    FULL_AT = SQUARES_AT + (WARPS * 4 + 7) / 8 * 8,
    EMPTY_AT = FULL_AT + 8 * MAX_SLOTS,
    SUMMED_AT = EMPTY_AT + 8 * MAX_SLOTS,
    READ_AT = SUMMED_AT + 2 * 8,
    PASSED_AT = READ_AT + 2 * 8,
    RING_AT = (PASSED_AT + 8 * CUDA_CHAIN_LINKS + 127) / 128 * 128
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/* ---- a block's part of a product */

struct part {
    int first, units, pairs;
};

static __device__ __forceinline__ bool is_paired(const struct product &k)
{
    return k.kind == LINK_GATE_UP || k.kind == LINK_QKV;
}

static __device__ __forceinline__ struct part part_of(const struct product &k)
{
    int rank = (int)blockIdx.x - k.turn;
    if (rank < 0) rank += gridDim.x;
    struct part m;
    m.first = rank * k.share + min(rank, k.more);
    m.units = k.share + (rank < k.more ? 1 : 0);
    m.pairs = is_paired(k) ? m.units : (m.units + 1) / 2;
    return m;
}

/* The rows of pair I; the second is -1 where there is none. */
static __device__ __forceinline__ int2 rows_of(const struct product &k, const struct part &m, int i)
{
    if (k.kind == LINK_GATE_UP) return make_int2(m.first + i, k.units + m.first + i);
    if (k.kind == LINK_QKV) {
        const int half = 1 << k.shift, pair = m.first + i;
        const int row = (pair >> k.shift) * 2 * half + (pair & (half - 1));
        return make_int2(row, row + half);
    }
    const int row = m.first + 2 * i;
    return make_int2(row, 2 * i + 1 < m.units ? row + 1 : -1);
}

/* ---- the producer */

static __device__ __forceinline__ void bulk_copy_as(uint32_t to, const void *from, uint32_t bytes,
                                                    uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
}

/* What the storers will need of constant things comes into the L2 while there is time. */
static __device__ __forceinline__ void fetch_constants(const struct chain &p)
{
    for (int l = 0; l < p.n; l++) {
        const struct product &k = p.links[l];
        if ((int)blockIdx.x == l && k.gain) bulk_fetch(k.gain, (uint32_t)k.cols * 4);
    }
}

/* Where the producer is in the ring. */
struct giver {
    uint32_t base; /* of the shared memory */
    int slots, slot_size, slot;
    uint32_t parity;
    uint64_t policy; /* of the L2 */
};

/* Asks for BYTES of each of two rows, the second (unless NULL) WIDTH bytes behind the first. */
static __device__ __forceinline__ void ask(struct giver *g, const char *a, const char *b,
                                           uint32_t bytes, uint32_t width)
{
    const uint32_t to = g->base + RING_AT + (uint32_t)(g->slot * g->slot_size);
    const uint32_t full = g->base + FULL_AT + 8 * g->slot;

    barrier_wait(g->base + EMPTY_AT + 8 * g->slot, g->parity);
    barrier_expect(full, b ? 2 * bytes : bytes);
    if (b == a + width && bytes == width) {
        bulk_copy_as(to, a, 2 * bytes, full, g->policy);
    } else {
        bulk_copy_as(to, a, bytes, full, g->policy);
        if (b) bulk_copy_as(to + width, b, bytes, full, g->policy);
    }
    if (++g->slot == g->slots) {
        g->slot = 0;
        g->parity ^= 1;
    }
}

/* The order of the pieces: two pairs at a time, of these segment by segment, of that pair by pair.
 */
static __device__ __forceinline__ void ask_all(const struct product &k, struct giver *g)
{
    const struct part m = part_of(k);
    const char *w = (const char *)k.w;
    const size_t row = 2 * (size_t)k.cols;
    const int segments = k.segments;
    const uint32_t width = 2 * (uint32_t)k.width;
    const uint32_t last = (uint32_t)row - (uint32_t)(segments - 1) * width;

    for (int i = 0; i < m.pairs; i += 2) {
        const bool other = i + 1 < m.pairs;
        const int2 first = rows_of(k, m, i), second = rows_of(k, m, i + 1);
        const char *a = w + first.x * row, *b = first.y < 0 ? NULL : w + first.y * row;
        const char *c = w + second.x * row, *d = second.y < 0 ? NULL : w + second.y * row;
        for (int s = 0; s < segments; s++) {
            const uint32_t bytes = s + 1 < segments ? width : last;
            ask(g, a, b, bytes, width);
            if (other) ask(g, c, d, bytes, width);
            a += width;
            c += width;
            if (b) b += width;
            if (d) d += width;
        }
    }
}

static __device__ __forceinline__ void produce(const struct chain &p)
{
    struct giver g = {shared_address(shared), p.slots, p.slot_size, 0, 1, 0}; /* slots are free */

    if (p.once)
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(g.policy));
    else
        asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(g.policy));
    fetch_constants(p);
    for (int l = 0; l < p.n; l++) ask_all(p.links[l], &g);
    for (size_t done = 0; done < p.next_most; done += 16384)
        bulk_fetch(p.next + blockIdx.x * p.next_share + done,
                   (uint32_t)min((size_t)16384, p.next_most - done));
}

/* ---- the consumers */

struct taker {
    uint32_t base; /* of the shared memory */
    int slots, slot_size, slot;
    uint32_t parity;
    uint32_t tile; /* counts all tiles of the block */
};

/* Past the L1 would cost twice the bytes, as a lane takes 32 bytes in two loads. The L1 holds
 * nothing old: the storer has read the counter with acquire semantics. Volatile, so that no read is
 * made one of constants or moved before the wait. */
static __device__ __forceinline__ float4 load_input(const float *p)
{
    float4 x;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "l"(__cvta_generic_to_global(p))
                 : "memory");
    return x;
}

/* What of N chunks falls to this thread: chunk J of it, or nothing. */
static __device__ __forceinline__ int chunk_of(int j)
{
    return j * CONSUMERS + (int)threadIdx.x;
}

static __device__ __forceinline__ int chunks_of(const struct product &k, int segment)
{
    return min(k.width, k.cols - segment * k.width) / 8;
}

/* The thread's columns of the input, times the gain; their sum of squares is returned. */
template <int SEGMENTS>
static __device__ __forceinline__ float take_input(float (&x)[SEGMENTS][HELD][8],
                                                   const struct product &k, uint32_t passed)
{
    constexpr bool early = SEGMENTS <= 2; /* there are registers for the gain during the wait */
    float gain[early ? SEGMENTS : 1][HELD][8] = {};
    float squares = 0;

#pragma unroll
    for (int s = 0; early && s < SEGMENTS; s++)
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int c = chunk_of(j);
            float4 u = make_float4(1, 1, 1, 1), v = u;
            if (k.gain && s < k.segments && c < chunks_of(k, s)) {
                const float4 *at = (const float4 *)(k.gain + s * k.width + 8 * c);
                u = __ldcg(at);
                v = __ldcg(at + 1);
            }
            float *g = gain[early ? s : 0][j];
            g[0] = u.x, g[1] = u.y, g[2] = u.z, g[3] = u.w;
            g[4] = v.x, g[5] = v.y, g[6] = v.z, g[7] = v.w;
        }
    barrier_wait(passed, 0);
#pragma unroll
    for (int s = 0; s < SEGMENTS; s++)
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int c = chunk_of(j);
            float4 u = make_float4(0, 0, 0, 0), v = u;
            if (s < k.segments && c < chunks_of(k, s)) {
                const float *at = k.in + s * k.width + 8 * c;
                u = load_input(at);
                v = load_input(at + 4);
            }
            x[s][j][0] = u.x, x[s][j][1] = u.y, x[s][j][2] = u.z, x[s][j][3] = u.w;
            x[s][j][4] = v.x, x[s][j][5] = v.y, x[s][j][6] = v.z, x[s][j][7] = v.w;
        }
    if (k.gain == NULL) return 0;
#pragma unroll
    for (int s = 0; s < SEGMENTS; s++)
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int c = chunk_of(j);
            float g[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                squares += x[s][j][i] * x[s][j][i];
                g[i] = gain[early ? s : 0][j][i];
            }
            if (!early && s < k.segments && c < chunks_of(k, s)) {
                const float4 *at = (const float4 *)(k.gain + s * k.width + 8 * c);
                const float4 u = __ldcg(at), v = __ldcg(at + 1);
                g[0] = u.x, g[1] = u.y, g[2] = u.z, g[3] = u.w;
                g[4] = v.x, g[5] = v.y, g[6] = v.z, g[7] = v.w;
            }
#pragma unroll
            for (int i = 0; i < 8; i++) x[s][j][i] *= early || c < chunks_of(k, s) ? g[i] : 0.0f;
        }
    return squares;
}

/* The next slot of the ring, once it is full; *DONE is where to say that it is read. */
static __device__ __forceinline__ const uint4 *take(struct taker *r, uint32_t *done)
{
    const uint4 *w = (const uint4 *)(shared + RING_AT + r->slot * r->slot_size);
    barrier_wait(r->base + FULL_AT + 8 * r->slot, r->parity);
    *done = r->base + EMPTY_AT + 8 * r->slot;
    if (++r->slot == r->slots) {
        r->slot = 0;
        r->parity ^= 1;
    }
    return w;
}

/* SUM[2 i], SUM[2 i + 1] += the rows of the next slots i = 0 .. K - 1 times X, of a segment of
 * CHUNKS chunks. Without OTHER there is one slot only. */
template <class T, int K>
static __device__ __forceinline__ void multiply(struct taker *r, int width, int chunks, bool other,
                                                const float (&x)[HELD][8], float *sum)
{
    uint4 a[K][HELD], b[K][HELD];
    uint32_t done[K];

#pragma unroll
    for (int i = 0; i < K; i++) {
        const bool have = i == 0 || other;
        const uint4 *w = have ? take(r, &done[i]) : NULL;
#pragma unroll
        for (int j = 0; j < HELD; j++) { /* a thread without a chunk reads the last, times 0 */
            const int c = min(chunk_of(j), chunks - 1);
            a[i][j] = have ? w[c] : make_uint4(0, 0, 0, 0);
            b[i][j] = have ? w[width / 8 + c] : make_uint4(0, 0, 0, 0);
        }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int i = 0; i < K; i++)
            if (i == 0 || other) barrier_arrive(done[i]);
#pragma unroll
    for (int i = 0; i < K; i++)
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            sum[2 * i] = dot<T>(a[i][j], x[j], sum[2 * i]);
            sum[2 * i + 1] = dot<T>(b[i][j], x[j], sum[2 * i + 1]);
        }
}

/* SUM[i] over the lanes, in lanes 8 i .. 8 i + 7. */
static __device__ __forceinline__ float sum_lanes(const float (&sum)[4])
{
    const bool upper = threadIdx.x & 16, odd = threadIdx.x & 8;
    float a = upper ? sum[2] : sum[0], b = upper ? sum[3] : sum[1];
    a += __shfl_xor_sync(0xffffffffu, upper ? sum[0] : sum[2], 16);
    b += __shfl_xor_sync(0xffffffffu, upper ? sum[1] : sum[3], 16);
    float s = odd ? b : a;
    s += __shfl_xor_sync(0xffffffffu, odd ? a : b, 8);
    for (int d = 4; d > 0; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
    return s;
}

template <class T, int SEGMENTS>
static __device__ __forceinline__ void consume(const struct product &k, uint32_t passed,
                                               struct taker *r)
{
    const struct part m = part_of(k);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr bool together = SEGMENTS <= FEW; /* there are registers for two slots */
    float x[SEGMENTS][HELD][8];

    const int segments = k.segments, width = k.width, last = chunks_of(k, segments - 1);

    if (m.pairs == 0) return;
    const float squares = warp_sum(take_input<SEGMENTS>(x, k, passed));
    if (lane == 0) ((float *)(shared + SQUARES_AT))[warp] = squares;
    for (int tile = 0; tile < m.pairs; tile += TILE, r->tile++) {
        const int n = min((int)TILE, m.pairs - tile), buffer = r->tile & 1;
        float *sums = (float *)shared + buffer * TILE_SUMS;

        barrier_wait(r->base + READ_AT + 8 * buffer, (r->tile >> 1 & 1) ^ 1);
        for (int i = 0; i < n; i += 2) {
            float sum[4] = {0, 0, 0, 0};
            const bool other = i + 1 < n;
#pragma unroll
            for (int s = 0; s < SEGMENTS; s++) {
                if (s >= segments) continue;
                const int chunks = s + 1 < segments ? width / 8 : last;
                if (together) {
                    multiply<T, 2>(r, width, chunks, other, x[s], sum);
                    continue;
                }
                float one[2] = {sum[0], sum[1]};
                multiply<T, 1>(r, width, chunks, false, x[s], one);
                sum[0] = one[0], sum[1] = one[1];
                if (!other) continue;
                one[0] = sum[2], one[1] = sum[3];
                multiply<T, 1>(r, width, chunks, false, x[s], one);
                sum[2] = one[0], sum[3] = one[1];
            }
            const float total = sum_lanes(sum);
            const int pair = i + lane / 16, row = lane / 8 % 2;
            if (lane % 8 == 0 && pair < n) sums[(row * WARPS + warp) * TILE + pair] = total;
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(r->base + SUMMED_AT + 8 * buffer);
    }
}

/* ---- the storer */

/* Waits until the storers of all blocks are here: what the blocks wrote before is then visible. */
static __device__ __forceinline__ void meet(unsigned *counter)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        const unsigned mine = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1;
        unsigned was, now, polls = 0;
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
        asm volatile("atom.global.add.relaxed.gpu.u32 %0, [%1], %2;"
                     : "=r"(was)
                     : "l"(__cvta_generic_to_global(counter)), "r"(mine)
                     : "memory");
        do {
            if (++polls == PATIENCE) __trap();
            asm volatile("ld.global.acquire.gpu.u32 %0, [%1];"
                         : "=r"(now)
                         : "l"(__cvta_generic_to_global(counter))
                         : "memory");
        } while (((was ^ now) & 0x80000000u) == 0);
    }
    __syncwarp();
}

/* What the store of a pair needs besides its sums, read early. */
struct needed {
    float bias_a, bias_b;
    float a, b;   /* x before, or the cosine and the sine */
    int position; /* row of the cache */
};

static __device__ __forceinline__ struct needed need(const struct product &k, const struct part &m,
                                                     int i)
{
    struct needed n = {0, 0, 0, 0, 0};
    const int2 row = rows_of(k, m, i);
    if (k.bias) {
        n.bias_a = __ldg(k.bias + row.x);
        if (row.y >= 0) n.bias_b = __ldg(k.bias + row.y);
    }
    if (k.kind == LINK_ADD) {
        n.a = __ldcg(k.out + row.x);
        if (row.y >= 0) n.b = __ldcg(k.out + row.y);
    }
    if (k.kind == LINK_QKV) {
        const int half = 1 << k.shift, pos = __ldcg(k.qkv.pos);
        const size_t at = (size_t)pos * half + ((m.first + i) & (half - 1));
        n.a = __ldg(k.qkv.cosine + at);
        n.b = __ldg(k.qkv.sine + at);
        n.position = pos - k.qkv.base;
    }
    return n;
}

template <class T>
static __device__ __forceinline__ void store(const struct product &k, const struct part &m, int i,
                                             struct needed n, float a, float b)
{
    const int2 row = rows_of(k, m, i);
    a += n.bias_a;
    b += n.bias_b;
    if (k.kind == LINK_GATE_UP) {
        k.out[row.x] = a / (1 + expf(-a)) * b; /* silu(g) = g / (1 + e^-g) */
        return;
    }
    if (k.kind == LINK_QKV) {
        const int half = 1 << k.shift, head = (m.first + i) >> k.shift;
        const bool turns = head < k.qkv.H + k.qkv.G;
        put_pair<T>(k.qkv, head, (m.first + i) & (half - 1), half, n.position,
                    turns ? a * n.a - b * n.b : a, turns ? b * n.a + a * n.b : b);
        return;
    }
    const bool both = row.y >= 0;
    if (k.kind == LINK_ADD && k.before) {
        k.before[row.x] = n.a;
        if (both) k.before[row.y] = n.b;
    }
    if (k.kind == LINK_ADD && k.delta) {
        k.delta[row.x] = a;
        if (both) k.delta[row.y] = b;
    }
    k.out[row.x] = a + n.a; /* of the logits the old value is 0 */
    if (both) k.out[row.y] = b + n.b;
}

static __device__ __forceinline__ float sum_warps(const float *sums, int stride)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += sums[i * stride];
    return sum;
}

template <class T> static __device__ __forceinline__ void store_all(const struct chain &p)
{
    const uint32_t base = shared_address(shared);
    const int lane = threadIdx.x % 32;
    uint32_t tiles = 0;

    pdl_wait();
    asm volatile("fence.acq_rel.gpu;" ::: "memory"); /* what the L1 holds may be from before */
    for (int l = 0; l < p.n; l++) {
        const struct product &k = p.links[l];
        const struct part m = part_of(k);
        float scale = 1;

        if (l > 0) meet(p.counters + (l - 1) * COUNTER_STRIDE);
        /* All that came before this kernel is complete: the next one may count on that at once. */
        if (l == p.n - 1) pdl_trigger();
        __syncwarp();
        if (lane == 0) barrier_arrive(base + PASSED_AT + 8 * l);
        for (int tile = 0; tile < m.pairs; tile += TILE, tiles++) {
            const int buffer = tiles & 1, i = tile + lane;
            const float *sums = (const float *)shared + buffer * TILE_SUMS + lane;
            struct needed needed = {0, 0, 0, 0, 0};

            if (i < m.pairs) needed = need(k, m, i);
            barrier_wait(base + SUMMED_AT + 8 * buffer, tiles >> 1 & 1);
            if (tile == 0 && k.gain)
                scale =
                    1 / sqrtf(sum_warps((const float *)(shared + SQUARES_AT), 1) / (float)k.cols +
                              k.eps);
            const float a = sum_warps(sums, TILE), b = sum_warps(sums + WARPS * TILE, TILE);
            __syncwarp();
            if (lane == 0) barrier_arrive(base + READ_AT + 8 * buffer);
            if (i < m.pairs) store<T>(k, m, i, needed, a * scale, b * scale);
        }
    }
}
#endif

/* MOST: pieces of a row, at most, in any product. */
template <class T, int MOST>
static __global__ void __launch_bounds__(MOST == FEW ? CHAIN_BOUND : THREADS, 1)
    chain_kernel(const __grid_constant__ chain p)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    const uint32_t base = shared_address(shared);
    const int warp = threadIdx.x / 32;

    if (threadIdx.x == 32 * PRODUCER) {
        for (int i = 0; i < p.slots; i++) {
            barrier_init(base + FULL_AT + 8 * i, 1);
            barrier_init(base + EMPTY_AT + 8 * i, WARPS);
        }
        for (int i = 0; i < 2; i++) {
            barrier_init(base + SUMMED_AT + 8 * i, WARPS);
            barrier_init(base + READ_AT + 8 * i, 1);
        }
        for (int i = 0; i < p.n; i++) barrier_init(base + PASSED_AT + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads(); /* the barriers are there */

    if (warp == PRODUCER) {
        if (threadIdx.x == 32 * PRODUCER) produce(p);
    } else if (warp == STORER) {
        store_all<T>(p);
    } else {
        struct taker r = {base, p.slots, p.slot_size, 0, 0, 0};
        for (int l = 0; l < p.n; l++) {
            const struct product &k = p.links[l];
            const uint32_t passed = base + PASSED_AT + 8 * l;
            if (k.segments == 1)
                consume<T, 1>(k, passed, &r);
            else if (k.segments == 2)
                consume<T, 2>(k, passed, &r);
            else
                consume<T, MOST>(k, passed, &r);
        }
    }
    pdl_wait(); /* every thread has to, whatever it read */
#endif
}

/* ---- launcher */

size_t cuda_chain_work(void)
{
    return CUDA_CHAIN_LINKS * COUNTER_STRIDE * sizeof(unsigned);
}

/* 0, 1 for a product that is none of this kernel's, -1 after fail(). */
static int set_link(struct product *k, const struct cuda_link *from, enum dtype type)
{
    const struct cuda_qkv *q = from->kind == LINK_QKV ? from->qkv : NULL;
    int rows = from->rows;

    k->kind = from->kind;
    if (q) {
        if (q->D != 64 && q->D != 128)
            return fail("cuda_chain_row: head width %d, expected 64 or 128", q->D);
        if (q->type != type)
            return fail("cuda_chain_row: q/k/v in %s, the chain in %s", dtype_name(q->type),
                        dtype_name(type));
        if (q->q_norm || q->k_norm) return 1;
        k->qkv = *q;
        k->shift = q->D == 64 ? 5 : 6;
        k->w = q->w, k->bias = q->bias, k->in = q->x, k->gain = q->gain, k->eps = q->eps;
        rows = (q->H + 2 * q->G) * q->D;
        k->cols = q->E;
    } else {
        k->w = from->w, k->bias = from->bias, k->in = from->in;
        k->out = from->out;
        k->cols = from->cols;
        if (k->kind == LINK_ADD) {
            k->delta = from->delta, k->before = from->before;
        } else {
            k->gain = from->gain, k->eps = from->eps;
        }
    }
    if (rows < 1 || k->cols < 8 || k->cols % 8 != 0 || k->cols > 1 << 20)
        return fail("cuda_chain_row: %d rows of %d inputs; inputs must be a multiple of 8, at most "
                    "%d",
                    rows, k->cols, 1 << 20);
    if (k->kind == LINK_GATE_UP && rows % 2)
        return fail("cuda_chain_row: %d rows of gate and up, expected an even number", rows);
    if ((uintptr_t)k->w % 16 || (uintptr_t)k->in % 16 || (uintptr_t)k->gain % 16)
        return fail("cuda_chain_row: weights, input and gain must be aligned to 16 bytes");
    k->units = k->kind == LINK_GATE_UP || k->kind == LINK_QKV ? rows / 2 : rows;
    k->segments = (k->cols + PIECE - 1) / PIECE;
    k->width = (k->cols / 8 + k->segments - 1) / k->segments * 8;
    return k->segments > MANY ? 1 : 0;
}

template <class T>
static int run_chain(struct chain *p, int segments, int blocks, cudaStream_t stream)
{
    const struct cuda_device *device = cuda_device();
    void (*const kernel)(struct chain) =
        segments > FEW ? chain_kernel<T, MANY> : chain_kernel<T, FEW>;
    const size_t most = ((size_t)CHAIN_RING << 10) + RING_AT;
    const size_t room = (most < device->shared ? most : device->shared) - RING_AT;

    p->slots = (int)(room / (size_t)p->slot_size);
    if (p->slots > MAX_SLOTS) p->slots = MAX_SLOTS;
    if (p->slots < 2) return 1;
    p->once = CHAIN_ONCE;
    const size_t size = RING_AT + (size_t)p->slots * p->slot_size;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)size));
    /* Neighbours in a stream share a multiprocessor only when they divide it the same way. */
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    return launch(kernel, dim3((unsigned)blocks), dim3(THREADS), size, stream, *p);
}

int cuda_chain_row(const struct cuda_link *links, int n, enum dtype type, const void *next,
                   size_t next_bytes, bool beside, void *work, cudaStream_t stream)
{
    const struct cuda_device *device = cuda_device();
    const int blocks = cuda_blocks(beside);
    struct chain p = {};
    int turn = 0, segments = 0;

    if (n < 1 || n > CUDA_CHAIN_LINKS)
        return fail("cuda_chain_row: %d products, expected 1 to %d", n, CUDA_CHAIN_LINKS);
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("cuda_chain_row: weights are %s, expected bf16 or f16", dtype_name(type));
    if (device->capability < 90) return 1;
    for (int l = 0; l < n; l++) {
        struct product *k = &p.links[l];
        const int rc = set_link(k, &links[l], type);
        if (rc) return rc;
        k->share = k->units / blocks;
        k->more = k->units % blocks;
        k->turn = turn;
        turn = (turn + k->more) % blocks;
        if (4 * k->width > p.slot_size) p.slot_size = 4 * k->width;
        if (k->segments > segments) segments = k->segments;
    }
    p.n = n;
    p.counters = (unsigned *)work;
    if (next && (uintptr_t)next % 16 == 0) { /* shares of whole 16 bytes, as the fetch wants them */
        const size_t most = (size_t)CHAIN_NEXT << 10;
        p.next = (const char *)next;
        p.next_share = next_bytes / (size_t)blocks / 16 * 16;
        p.next_most = p.next_share < most ? p.next_share : most;
    }
    WITH_TYPE(type, return run_chain<T>(&p, segments, blocks, stream));
}
