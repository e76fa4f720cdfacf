/* cuda_linear.cu - the products of a decode step: 16-bit matrices by one row of float32.
 *
 * All the time goes into reading the matrix once, so one kernel serves every product. A block takes
 * a contiguous share of the output rows, in pairs (the two that an output needs together: gate and
 * up, or the two halves that RoPE mixes), and its matrix rows come in pieces of up to PIECE columns
 * through a ring in shared memory. Each consumer thread holds its columns of x, times the gain of
 * the norm, in registers; a warp adds up its columns of a pair and leaves the sum for the end of
 * the tile, where one thread per pair puts the warps together, applies the scale of the norm and
 * stores. The sum of squares is taken while x is read: there is no pass before the product.
 *
 * The matrix is constant, so the ring fills before pdl_wait(), and some way beyond the ring is
 * fetched into the L2; the next kernel is let in at once, and half of the shared memory is left to
 * it. Where the device has bulk copies, cuda_chain.cu runs the products of a step together and
 * loses less between them; this is for the others, and for families with q/k norms.
 *
 * Two ways to fill the ring: bulk copies by a warp of their own (9.0 on), or copies of 16 bytes,
 * each by the thread that will use them (8.0 on), which need no barriers.
 */
#include "core/ops/cuda_linear.cuh"

#include <math.h>

/* What tuning found best on an H200; the driver of such measurements may set others. */
#ifndef LINEAR_WARPS
#define LINEAR_WARPS 8 /* consumers */
#endif
#ifndef LINEAR_RING
#define LINEAR_RING 96 /* KiB of the ring: what is in flight per block */
#endif
#ifndef LINEAR_AHEAD
#define LINEAR_AHEAD 64 /* KiB that a block fetches into the L2 beyond the ring */
#endif
#ifndef LINEAR_LEFT
#define LINEAR_LEFT (1 << 30) /* pieces still to be asked for when the next one is let in: any */
#endif
#ifndef LINEAR_BULK
#define LINEAR_BULK 1 /* bulk copies where the device has them */
#endif

enum {
    WARPS = LINEAR_WARPS,
    CONSUMERS = 32 * WARPS,
    PIECE = 4096,                   /* columns */
    HELD = PIECE / (8 * CONSUMERS), /* 16-byte chunks of a piece that a thread multiplies */
    TILE = 64,                      /* pairs between two stores */
    MAX_SLOTS = 16,
    ASYNC_SLOTS = 4,
    TILE_SUMS = TILE * 2 * WARPS
};
static_assert(HELD >= 1 && TILE <= CONSUMERS, "a piece has a chunk for every thread");

enum kind { ADD, GATE_UP, STORE, QKV };

struct product {
    const void *w;
    const float *bias, *x, *gain;
    float eps;
    int rows, pairs, cols;
    int segments, width; /* a row is read in that many pieces of WIDTH columns, the last shorter */
    int slots, ahead;    /* pairs of pieces in the ring and fetched beyond it */
    int share, more;     /* pairs of a block; the first MORE blocks take another */
    int shift;           /* kind QKV: D / 2 = 2^shift */
    float *out, *delta, *before;
    struct cuda_qkv qkv; /* kind QKV */
};

/* ---- what differs by kind: the rows of a pair, and what becomes of their sums */

template <int K> static __device__ __forceinline__ int2 rows_of(const struct product &p, int pair)
{
    if (K == GATE_UP) return make_int2(pair, p.pairs + pair);
    if (K == QKV) {
        const int half = 1 << p.shift, a = (pair >> p.shift) * p.qkv.D + (pair & (half - 1));
        return make_int2(a, a + half);
    }
    /* of an odd number of rows, the last one twice */
    return make_int2(2 * pair, min(2 * pair + 1, p.rows - 1));
}

/* What the store of a pair needs besides its sums, read early. */
struct needed {
    float bias_a, bias_b;
    float a, b;   /* x before, or the cosine and the sine */
    int position; /* row of the cache */
};

template <int K>
static __device__ __forceinline__ struct needed need(const struct product &p, int pair)
{
    struct needed n = {};
    const int2 row = rows_of<K>(p, pair);
    if (p.bias) {
        n.bias_a = __ldg(p.bias + row.x);
        n.bias_b = __ldg(p.bias + row.y);
    }
    if (K == ADD) {
        n.a = __ldcg(p.out + row.x);
        n.b = __ldcg(p.out + row.y);
    }
    if (K == QKV) {
        const int half = 1 << p.shift, pos = __ldcg(p.qkv.pos);
        const size_t at = (size_t)pos * half + (pair & (half - 1));
        n.a = __ldg(p.qkv.cosine + at);
        n.b = __ldg(p.qkv.sine + at);
        n.position = pos - p.qkv.base;
    }
    return n;
}

template <class T, int K>
static __device__ __forceinline__ void store(const struct product &p, int pair, struct needed n,
                                             float a, float b)
{
    const int2 row = rows_of<K>(p, pair);
    a += n.bias_a;
    b += n.bias_b;
    if (K == GATE_UP) {
        p.out[pair] = a / (1 + expf(-a)) * b; /* silu(g) = g / (1 + e^-g) */
    } else if (K == QKV) {
        const int half = 1 << p.shift, i = pair >> p.shift;
        const bool turns = i < p.qkv.H + p.qkv.G;
        put_pair<T>(p.qkv, i, pair & (half - 1), half, n.position, turns ? a * n.a - b * n.b : a,
                    turns ? b * n.a + a * n.b : b);
    } else {
        const bool both = row.y != row.x;
        if (K == ADD && p.before) {
            p.before[row.x] = n.a;
            if (both) p.before[row.y] = n.b;
        }
        if (K == ADD && p.delta) {
            p.delta[row.x] = a;
            if (both) p.delta[row.y] = b;
        }
        p.out[row.x] = a + n.a; /* of a plain store the old value is 0 */
        if (both) p.out[row.y] = b + n.b;
    }
}

/* ---- the order of the pieces: tile by tile, in a tile segment by segment, in it pair by pair */

struct walk {
    int tile, segment, pair;
};

static __device__ __forceinline__ void next_piece(struct walk *at, int last, int segments)
{
    if (++at->pair < min(at->tile + TILE, last)) return;
    if (++at->segment == segments) {
        at->segment = 0;
        at->tile += TILE;
    }
    at->pair = at->tile;
}

template <class T, int K>
static __device__ __forceinline__ void piece_at(const struct product &p, const struct walk *at,
                                                const T **a, const T **b, uint32_t *bytes)
{
    const int2 row = rows_of<K>(p, at->pair);
    const int from = at->segment * p.width;
    *a = (const T *)p.w + (size_t)row.x * p.cols + from;
    *b = (const T *)p.w + (size_t)row.y * p.cols + from;
    *bytes = (uint32_t)min(p.width, p.cols - from) * 2;
}

/* ---- the ring filled by bulk copies: FULL[slot] counts their bytes, EMPTY[slot] the warps that
 * are done with the slot */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
struct bulk_ring {
    const uint4 *base;
    uint32_t full, empty;
    int slots, stride; /* chunks of a row in a slot */
    int slot;
    uint32_t parity;

    /* Chunks past CHUNKS hold nothing: a thread without one reads the last, and multiplies by 0. */
    static __device__ int chunk(int mine, int chunks)
    {
        return min(mine, chunks - 1);
    }
    __device__ const uint4 *take()
    {
        barrier_wait(full + 8 * slot, parity);
        return base + (size_t)slot * 2 * stride;
    }
    __device__ void give_back()
    {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * slot);
        if (++slot == slots) {
            slot = 0;
            parity ^= 1;
        }
    }
};

/* One thread asks for the block's pieces, in order, as slots become free. */
template <class T, int K>
static __device__ __forceinline__ void ask(const struct product &p, const struct walk *at,
                                           uint32_t ring, uint32_t full, int slot)
{
    const T *a, *b;
    uint32_t bytes;
    piece_at<T, K>(p, at, &a, &b, &bytes);
    const uint32_t to = ring + (uint32_t)(slot * 4 * p.width), barrier = full + 8 * slot;
    barrier_expect(barrier, 2 * bytes);
    bulk_copy(to, a, bytes, barrier);
    bulk_copy(to + 2 * p.width, b, bytes, barrier);
}
#endif

/* ---- the ring filled by the threads that use it */

static __device__ __forceinline__ void async_copy(uint32_t to, const void *from, uint32_t bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}

template <class T, int K> struct async_ring {
    const struct product *p;
    const uint4 *base;
    struct walk at; /* the next piece to ask for */
    int last, left; /* end of the block's pairs; pieces still to be asked for */
    int slot;
    static constexpr int stride = PIECE / 8;

    static __device__ int chunk(int mine, int)
    {
        return mine; /* past the end it was filled with zeros */
    }
    __device__ void fill()
    {
        if (left > 0) {
            const T *a, *b;
            uint32_t bytes;
            piece_at<T, K>(*p, &at, &a, &b, &bytes);
            for (int j = 0; j < HELD; j++) {
                const uint32_t c = j * CONSUMERS + threadIdx.x;
                const bool in = 16 * c < bytes;
                const uint32_t to = shared_address(base + slot * 2 * stride + c);
                async_copy(to, a + (in ? 8 * c : 0), in ? 16 : 0);
                async_copy(to + 16 * stride, b + (in ? 8 * c : 0), in ? 16 : 0);
            }
            next_piece(&at, last, p->segments);
            if (--left <= LINEAR_LEFT) pdl_trigger();
        }
        asm volatile("cp.async.commit_group;" ::: "memory"); /* empty ones keep the count */
        slot = (slot + 1) % ASYNC_SLOTS;
    }
    __device__ const uint4 *take()
    {
        asm volatile("cp.async.wait_group %0;" ::"n"(ASYNC_SLOTS - 1) : "memory");
        return base + slot * 2 * stride; /* the next to be filled is the oldest */
    }
    __device__ void give_back()
    {
        fill();
    }
};

/* ---- the consumers */

struct slice {
    float x[HELD][8]; /* times the gain */
    int chunk[HELD];
};

/* The thread's columns of SEGMENT; *SQUARES grows by the squares of x. FIRST: x is not there before
 * the wait. */
template <class Ring>
static __device__ __forceinline__ void take_slice(struct slice *s, const struct product &p,
                                                  int segment, bool first, float *squares)
{
    const int from = segment * p.width, chunks = min(p.width, p.cols - from) / 8;
    float gain[HELD][8];

#pragma unroll
    for (int j = 0; j < HELD; j++) {
        const int c = j * CONSUMERS + threadIdx.x;
        s->chunk[j] = Ring::chunk(c, chunks);
#pragma unroll
        for (int i = 0; i < 8; i++) gain[j][i] = c < chunks ? 1.0f : 0.0f;
        if (p.gain && c < chunks) { /* not as constants, whose reads the compiler may put off */
            const float4 *at = (const float4 *)(p.gain + from + 8 * c);
            const float4 u = __ldcg(at), v = __ldcg(at + 1);
            gain[j][0] = u.x, gain[j][1] = u.y, gain[j][2] = u.z, gain[j][3] = u.w;
            gain[j][4] = v.x, gain[j][5] = v.y, gain[j][6] = v.z, gain[j][7] = v.w;
        }
    }
    if (first) pdl_wait();
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        const int c = j * CONSUMERS + threadIdx.x;
        float4 u = make_float4(0, 0, 0, 0), v = u;
        if (c < chunks) { /* past the L1, which may still hold what x was */
            const float4 *at = (const float4 *)(p.x + from + 8 * c);
            u = __ldcg(at);
            v = __ldcg(at + 1);
        }
        const float x[8] = {u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            *squares += x[i] * x[i];
            s->x[j][i] = x[i] * gain[j][i];
        }
    }
}

/* A over the lanes in lane 0, B in lane 16. */
static __device__ __forceinline__ float sum_both(float a, float b)
{
    const bool low = threadIdx.x % 32 < 16;
    float sum = low ? a : b;
    sum += __shfl_xor_sync(0xffffffffu, low ? b : a, 16);
    for (int d = 8; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}

static __device__ __forceinline__ float sum_warps(const float *sums)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += sums[i];
    return sum;
}

/* Pairs [FIRST, LAST). SUMS is [2, TILE, 2, WARPS] and SQUARES [WARPS] in shared memory. */
template <class T, int K, class Ring>
static __device__ __forceinline__ void consume(const struct product &p, int first, int last,
                                               Ring ring, float *sums, float *squares)
{
    const int t = threadIdx.x, warp = t / 32, lane = t % 32;
    struct slice s;
    float square = 0, scale = 1;
    int held = 0;

    take_slice<Ring>(&s, p, 0, true, &square);
    for (int tile = first; tile < last; tile += TILE) {
        const int n = min(TILE, last - tile);
        struct needed needed = {};
        if (t < n) needed = need<K>(p, tile + t);
        for (int segment = 0; segment < p.segments; segment++) {
            if (segment != held) take_slice<Ring>(&s, p, held = segment, false, &square);
            for (int i = 0; i < n; i++) {
                const uint4 *w = ring.take();
                float a = 0, b = 0;
#pragma unroll
                for (int j = 0; j < HELD; j++) {
                    a = dot<T>(w[s.chunk[j]], s.x[j], a);
                    b = dot<T>(w[ring.stride + s.chunk[j]], s.x[j], b);
                }
                ring.give_back();
                const float sum = sum_both(a, b);
                float *at = sums + (2 * i + lane / 16) * WARPS + warp;
                if (lane % 16 == 0) *at = segment > 0 ? *at + sum : sum;
            }
        }
        if (tile == first && p.gain) {
            square = warp_sum(square);
            if (lane == 0) squares[warp] = square;
        }
        /* Of the consumers alone. The sums of the tile before lie in the other half, so that none
         * can be overwritten before all have passed here once more. */
        asm volatile("bar.sync 1, %0;" ::"n"((int)CONSUMERS) : "memory");
        if (tile == first && p.gain) scale = 1 / sqrtf(sum_warps(squares) / (float)p.cols + p.eps);
        if (t < n) {
            const float *at = sums + 2 * t * WARPS;
            store<T, K>(p, tile + t, needed, sum_warps(at) * scale, sum_warps(at + WARPS) * scale);
        }
        sums = sums + ((tile - first) / TILE % 2 ? -TILE_SUMS : TILE_SUMS);
    }
}

/* The first of the pairs that block B takes. */
static __device__ __forceinline__ int first_pair(const struct product &p, int b)
{
    return b * p.share + min(b, p.more);
}

extern __shared__ __align__(128) unsigned char shared[];

/* Shared: sums, squares, barriers, then the ring. */
enum { BARRIERS_AT = (2 * TILE_SUMS + WARPS) * 4, RING_AT = BARRIERS_AT + 2 * MAX_SLOTS * 8 };
static_assert(BARRIERS_AT % 8 == 0 && RING_AT % 16 == 0, "alignment of barriers and copies");

template <class T, int K>
static __global__ void __launch_bounds__(CONSUMERS + 32, 2)
    product_bulk(const __grid_constant__ struct product p)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    const int first = first_pair(p, blockIdx.x);
    const int last = first_pair(p, blockIdx.x + 1);
    const int total = (last - first) * p.segments;
    const uint32_t ring = shared_address(shared + RING_AT);
    const uint32_t full = shared_address(shared + BARRIERS_AT), empty = full + 8 * MAX_SLOTS;
    struct walk at = {first, 0, first};
    int n = 0; /* pieces asked for */

    if (threadIdx.x == CONSUMERS) {
        for (int slot = 0; slot < p.slots; slot++) {
            barrier_init(full + 8 * slot, 1);
            barrier_init(empty + 8 * slot, WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        for (; n < total && n < p.slots; n++) {
            ask<T, K>(p, &at, ring, full, n);
            next_piece(&at, last, p.segments);
        }
    }
    __syncthreads(); /* the barriers are there */

    if (threadIdx.x < CONSUMERS) {
        const struct bulk_ring taken = {
            (const uint4 *)(shared + RING_AT), full, empty, p.slots, p.width / 8, 0, 0};
        float *sums = (float *)shared;
        consume<T, K>(p, first, last, taken, sums, sums + 2 * TILE_SUMS);
        return;
    }
    if (threadIdx.x == CONSUMERS) {
        if (total - n <= LINEAR_LEFT) pdl_trigger();
        struct walk far = at;
        for (int i = n; i < total && i < n + p.ahead; i++) {
            const T *a, *b;
            uint32_t bytes;
            piece_at<T, K>(p, &far, &a, &b, &bytes);
            bulk_fetch(a, bytes);
            bulk_fetch(b, bytes);
            next_piece(&far, last, p.segments);
        }
        uint32_t parity = 0;
        for (int slot = 0; n < total; n++) {
            barrier_wait(empty + 8 * slot, parity);
            ask<T, K>(p, &at, ring, full, slot);
            next_piece(&at, last, p.segments);
            if (total - n - 1 <= LINEAR_LEFT) pdl_trigger();
            if (++slot == p.slots) {
                slot = 0;
                parity ^= 1;
            }
        }
    }
    pdl_wait(); /* nothing of what is waited for is read here, but every thread has to */
#endif
}

template <class T, int K>
static __global__ void __launch_bounds__(CONSUMERS, 2)
    product_async(const __grid_constant__ struct product p)
{
    const int first = first_pair(p, blockIdx.x);
    const int last = first_pair(p, blockIdx.x + 1);
    float *sums = (float *)shared;
    struct async_ring<T, K> ring;

    ring.p = &p;
    ring.base = (const uint4 *)(shared + RING_AT);
    ring.at.tile = ring.at.pair = first;
    ring.at.segment = ring.slot = 0;
    ring.last = last;
    ring.left = (last - first) * p.segments;
    if (ring.left <= LINEAR_LEFT) pdl_trigger();
    for (int i = 0; i < ASYNC_SLOTS; i++) ring.fill();
    consume<T, K>(p, first, last, ring, sums, sums + 2 * TILE_SUMS);
}

/* ---- launchers */

static int check_product(const char *what, const struct product *p, enum dtype type)
{
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("%s: weights are %s, expected bf16 or f16", what, dtype_name(type));
    if (p->rows < 1 || p->cols < 8 || p->cols % 8 != 0 || p->cols > 1 << 20)
        return fail("%s: %d rows of %d inputs; inputs must be a multiple of 8, at most %d", what,
                    p->rows, p->cols, 1 << 20);
    if ((uintptr_t)p->w % 16 || (uintptr_t)p->x % 16 || (uintptr_t)p->gain % 16)
        return fail("%s: weights, input and gain must be aligned to 16 bytes", what);
    return 0;
}

template <class T, int K> static int run_product(struct product *p, cudaStream_t stream)
{
    const struct cuda_device *device = cuda_device();
    const bool bulk = LINEAR_BULK && device->capability >= 90;
    void (*const kernel)(struct product) = bulk ? product_bulk<T, K> : product_async<T, K>;

    p->segments = (p->cols + PIECE - 1) / PIECE;
    p->width = (p->cols / 8 + p->segments - 1) / p->segments * 8;
    const int slot = 4 * p->width; /* bytes */
    p->slots = (LINEAR_RING << 10) / slot;
    if (p->slots > MAX_SLOTS) p->slots = MAX_SLOTS;
    p->ahead = (LINEAR_AHEAD << 10) / slot;
    const int blocks = min(device->sms, p->pairs);
    p->share = p->pairs / blocks;
    p->more = p->pairs % blocks;
    const size_t size =
        RING_AT + (bulk ? (size_t)p->slots * slot : (size_t)ASYNC_SLOTS * 4 * PIECE);
    if (size > device->shared)
        return fail("%s: %zu bytes of shared memory a block, the products of decoding need %zu",
                    device->name, device->shared, size);

    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)size));
    /* Neighbours in a stream share a multiprocessor only when they divide it the same way. */
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    return launch(kernel, dim3((unsigned)blocks), dim3(bulk ? CONSUMERS + 32 : CONSUMERS), size,
                  stream, *p);
}

int cuda_add_row(float *x, float *delta, float *before, const void *w, const float *bias,
                 const float *a, int rows, int cols, enum dtype type, cudaStream_t stream)
{
    struct product p = {};
    p.w = w, p.bias = bias, p.x = a;
    p.rows = rows, p.pairs = (rows + 1) / 2, p.cols = cols;
    p.out = x, p.delta = delta, p.before = before;
    if (check_product("cuda_add_row", &p, type)) return -1;
    WITH_TYPE(type, return run_product<T, ADD>(&p, stream));
}

int cuda_gate_up_row(float *h, const float *x, const float *gain, float eps, const void *w,
                     const float *bias, int E, int F, enum dtype type, cudaStream_t stream)
{
    struct product p = {};
    p.w = w, p.bias = bias, p.x = x, p.gain = gain, p.eps = eps;
    p.rows = 2 * F, p.pairs = F, p.cols = E;
    p.out = h;
    if (check_product("cuda_gate_up_row", &p, type)) return -1;
    WITH_TYPE(type, return run_product<T, GATE_UP>(&p, stream));
}

int cuda_head_row(float *logits, const float *x, const float *gain, float eps, const void *w, int E,
                  int V, enum dtype type, cudaStream_t stream)
{
    struct product p = {};
    p.w = w, p.x = x, p.gain = gain, p.eps = eps;
    p.rows = V, p.pairs = (V + 1) / 2, p.cols = E;
    p.out = logits;
    if (check_product("cuda_head_row", &p, type)) return -1;
    WITH_TYPE(type, return run_product<T, STORE>(&p, stream));
}

/* ---- q/k norm: the heads of RAW are normalised, turned and put away, one warp each */

enum { HEAD_WARPS = 4 };

template <class T, int D> static __global__ void heads_kernel(const struct cuda_qkv q)
{
    constexpr int half = D / 2, N = half / 32; /* pairs of a lane */
    const int head = blockIdx.x * HEAD_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;

    pdl_trigger();
    pdl_wait();
    if (head >= q.H + 2 * q.G) return;
    const bool turns = head < q.H + q.G;
    const float *norm = head < q.H ? q.q_norm : q.k_norm, *raw = q.raw + (size_t)head * D;
    const int pos = __ldcg(q.pos);
    float a[N], b[N], squares = 0;

#pragma unroll
    for (int i = 0; i < N; i++) {
        a[i] = __ldcg(raw + lane + 32 * i);
        b[i] = __ldcg(raw + lane + 32 * i + half);
        squares += a[i] * a[i] + b[i] * b[i];
    }
    const float scale = 1 / sqrtf(warp_sum(squares) / D + q.eps);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int d = lane + 32 * i;
        if (turns) {
            const float c = q.cosine[(size_t)pos * half + d], s = q.sine[(size_t)pos * half + d];
            const float u = a[i] * scale * norm[d], v = b[i] * scale * norm[d + half];
            a[i] = u * c - v * s;
            b[i] = v * c + u * s;
        }
        put_pair<T>(q, head, d, half, pos - q.base, a[i], b[i]);
    }
}

int cuda_qkv_row(const struct cuda_qkv *a, cudaStream_t stream)
{
    const int heads = a->H + 2 * a->G;
    struct product p = {};

    if (a->D != 64 && a->D != 128)
        return fail("cuda_qkv_row: head width %d, expected 64 or 128", a->D);
    if ((a->q_norm == NULL) != (a->k_norm == NULL) || (a->q_norm && a->raw == NULL))
        return fail("cuda_qkv_row: a q norm without a k norm, or without room for the raw rows");
    p.w = a->w, p.bias = a->bias, p.x = a->x, p.gain = a->gain, p.eps = a->eps;
    p.rows = heads * a->D, p.pairs = p.rows / 2, p.cols = a->E;
    p.out = a->raw;
    p.qkv = *a;
    p.shift = a->D == 64 ? 5 : 6;
    if (check_product("cuda_qkv_row", &p, a->type)) return -1;
    if (a->q_norm == NULL) WITH_TYPE(a->type, return run_product<T, QKV>(&p, stream));

    WITH_TYPE(a->type, {
        void (*const kernel)(struct cuda_qkv) =
            a->D == 64 ? heads_kernel<T, 64> : heads_kernel<T, 128>;
        if (run_product<T, STORE>(&p, stream)) return -1;
        CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared));
        return launch(kernel, dim3((unsigned)((heads + HEAD_WARPS - 1) / HEAD_WARPS)),
                      dim3(32 * HEAD_WARPS), 0, stream, *a);
    });
}
