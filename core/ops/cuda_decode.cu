/* cuda_decode.cu - decode attention: few rows over many positions, split over the positions.
 *
 * A warp takes 16 entries at a time. Their keys and values go from global memory straight into the
 * operand layouts of mma.sync.m16n8k16, 16 bytes a load: a sum over the head width may be taken in
 * any order, so a lane's 8 consecutive elements serve as operands of two steps, and likewise the
 * output's dimensions and the 16 entries are dealt to lanes as loads want them. In flight per
 * multiprocessor are up to 16 warps of 8 KB.
 *
 *   S = Q K^T: 8 query heads of a group are the rows 0 .. 7 of A, rounded to 16 bits, and rows 8 ..
 *              15 are what the rounding left over: the sum of both halves is as good as q with
 * twice the mantissa, and costs nothing, since A has 16 rows anyway. O^T = V^T P^T: S lies in the
 * registers as B wants P, no exchange between lanes; P goes in as rounded value and remainder too.
 *
 * Each warp keeps its own running maximum and sum (base 2). Warps of a block meet in shared memory,
 * blocks of a kv head in WORK, where the last to arrive merges: always in the order of the splits,
 * so that results are the same bits every time.
 *
 * Source: Dao 2023 (FlashAttention-2), Dao et al. 2023 (Flash-Decoding).
 */
#include "core/ops/cuda_util.cuh"

#include <math.h>

/* Warps of a block and blocks of a multiprocessor, for head width D and TILES of 8 query heads: as
 * many warps as have registers for a tile of keys and one of values in flight. How many times over
 * the device is filled with blocks where there is enough to do. */
#ifndef DECODE_WARPS
#define DECODE_WARPS 12
#endif
#ifndef DECODE_BLOCKS
#define DECODE_BLOCKS 1
#endif
#ifndef DECODE_WAVES
#define DECODE_WAVES 1
#endif
#ifndef DECODE_LOAD /* no line is read twice; its other half is asked for next */
#define DECODE_LOAD "ld.global.L1::no_allocate.L2::128B.v4.u32"
#endif

static __host__ __device__ constexpr int warps_of(int D, int tiles)
{
    return D == 128 && tiles == 1 ? DECODE_WARPS : D == 64 && tiles == 2 ? 6 : 8;
}
static __host__ __device__ constexpr int blocks_of(int D, int tiles)
{
    return D == 128 ? (tiles == 1 ? DECODE_BLOCKS : 1) : 2;
}

/* As many registers as that leaves a thread, less what the warps of a gather need beside a block
 * that fills the multiprocessor: it runs while layers that wait for nothing attend. */
static constexpr int registers_of(int D, int tiles)
{
    const int threads = 32 * warps_of(D, tiles) * blocks_of(D, tiles);
    const int most = 65536 / threads / 8 * 8;
    return D == 128 && tiles == 1 && most == 168 ? 160 : most > 255 ? 255 : most;
}

enum {
    LARGE_L1 = 25,                                       /* percent of it that is shared memory */
    MOST_BLOCKS = DECODE_BLOCKS > 2 ? DECODE_BLOCKS : 2, /* of a multiprocessor, for any shape */
    WAVES = DECODE_WAVES,
    ENTRIES = 16,     /* of a warp's tile */
    DEEP = 8,         /* tiles per warp below which more waves do not pay */
    MAX_SPLITS = 256, /* of a kv head */
    AHEAD = 17,       /* splits that a thread of the merge loads at once */
};

#define ALL_LANES 0xffffffffu
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

/* Weights are kept as 2^(logit / ln 2 - m) with m up to LOW below a warp's largest, which may come
 * to exceed it by HIGH before everything is scaled anew: 2^15 is within f16, whose small values
 * lose bits below 2^-14. */
#define LOW 7.0f
#define HIGH 15.0f

struct decode {
    float *out;
    const float *q;
    const char *k, *v, *packed_k, *packed_v;
    size_t kv_head, packed_head; /* bytes from one kv head's rows to the next one's */
    const int *pos, *idx, *count, *tail;
    float *logits, *scores, *lse;
    size_t span;
    float *sums;       /* [n, H, splits, D] of the splits, in the order of place() */
    float2 *state;     /* [n, H, splits]: m and the sum of the weights */
    unsigned *arrived; /* [n, units] */
    float scale;
    int H, G, R, sets, stride, base;
    int unit_heads;    /* query heads that share entries: R, or 1 where each has its own list */
    int first_head;    /* of a unit's, the first in this launch, */
    int heads;         /* and how many: up to 16 */
    bool settled;      /* lists were there before the kernel before */
    unsigned carveout; /* percent of the L1 that is shared memory */
    int one_wave;      /* splits of a kv head that run at once */
    bool wide;         /* logits may be stored 16 bytes at a time */
    bool more_heads;   /* scores hold the maximum over heads before first_head */
};

/* ---- the instructions */

static __device__ __forceinline__ uint4 load16(const char *p)
{
    uint4 x;
    asm volatile(DECODE_LOAD " {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p));
    return x;
}

/* Volatile, so that query fragments do not move out of the loop into registers. */
static __device__ __forceinline__ uint4 load_shared16(const uint4 *p)
{
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"((uint32_t)__cvta_generic_to_shared(p)));
    return x;
}

/* c += A B, A [16, 16] and B [16, 8] of 16-bit values. */
template <class T>
static __device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], uint32_t a0, uint32_t a1,
                                                   uint32_t a2, uint32_t a3, uint32_t b0,
                                                   uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<__half>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                            uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 2^(m - top) as a factor; a state that saw nothing has m = -inf and counts nothing. */
static __device__ __forceinline__ float share(float m, float top)
{
    return m == -INFINITY ? 0.0f : exp2_fast(m - top);
}

static __device__ __forceinline__ uint32_t word(const uint4 &x, int i)
{
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/* ---- where an entry's row is */

struct view {
    const char *k, *v, *packed_k, *packed_v; /* of the kv head */
    const int *idx;                          /* of the row and set */
    int count;
    int shift; /* a tail entry minus this many is its row of k and v */
    int last;  /* entry: those past it are read as it */
};

/* The row of entry I; of packed entries, those of the tail are ~row. */
template <int FIRST> static __device__ __forceinline__ int locate(const struct view &w, int i)
{
    i = min(i, w.last);
    if (FIRST == FIRST_LIST && i < w.count) return w.idx[i];
    if (FIRST == FIRST_PACKED && i < w.count) return i;
    return FIRST == FIRST_ALL ? i : FIRST == FIRST_LIST ? i - w.shift : ~(i - w.shift);
}

/* The same for entry I of a tile. With a list, lane I has read it (MINE). */
template <int FIRST>
static __device__ __forceinline__ int row_of(const struct view &w, int tile, int mine, int i)
{
    return FIRST == FIRST_LIST ? __shfl_sync(ALL_LANES, mine, i)
                               : locate<FIRST>(w, ENTRIES * tile + i);
}

/* Entry of a tile that is column N of half HALF of S: a lane then holds, and its values are, those
 * of the 4 entries from 4 * (lane % 4). */
static __device__ __forceinline__ int entry_of(int half, int n)
{
    return 4 * (n / 2) + 2 * half + n % 2;
}

/* A lane's keys of a tile: B of S = Q K^T. Chunk j of row lane / 4 of each half. */
template <int FIRST, int D>
static __device__ __forceinline__ void load_keys(uint4 (&key)[2][D / 32], const struct view &w,
                                                 int tile, int mine, int lane)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row_of<FIRST>(w, tile, mine, entry_of(half, lane / 4));
        const char *from = FIRST == FIRST_PACKED && r >= 0 ? w.packed_k : w.k;
        from += (size_t)(FIRST == FIRST_PACKED && r < 0 ? ~r : r) * (2 * D) + 16 * (lane % 4);
#pragma unroll
        for (int j = 0; j < D / 32; j++) key[half][j] = load16(from + 64 * j);
    }
}

/* A lane's values of a tile: dimensions 64 j + 8 (lane / 4) and the 7 after, of 4 entries. */
template <int FIRST, int D>
static __device__ __forceinline__ void load_values(uint4 (&value)[4][D / 64], const struct view &w,
                                                   int tile, int mine, int lane)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int r = row_of<FIRST>(w, tile, mine, 4 * (lane % 4) + e);
        const char *from = FIRST == FIRST_PACKED && r >= 0 ? w.packed_v : w.v;
        from += (size_t)(FIRST == FIRST_PACKED && r < 0 ? ~r : r) * (2 * D) + 16 * (lane / 4);
#pragma unroll
        for (int j = 0; j < D / 64; j++) value[e][j] = load16(from + 128 * j);
    }
}

/* ---- parts of the kernel */

/* FRAGMENT [tiles of 8 heads, D / 16 steps, lanes]: A of S = Q K^T from the HEADS heads at Q. Rows
 * past the last head repeat it, so that they change no maximum. */
template <class T, int D, int THREADS>
static __device__ __forceinline__ void stage_queries(uint4 *fragment, const float *q, int heads,
                                                     int tiles, float scale)
{
    for (int i = threadIdx.x; i < tiles * 2 * D; i += THREADS) {
        const int lane = i % 32, step = i / 32 % (D / 16), tile = i / (2 * D);
        const int head = min(8 * tile + lane / 4, heads - 1);
        const int d = 32 * (step / 2) + 8 * (lane % 4) + 4 * (step % 2);
        float4 x = *reinterpret_cast<const float4 *>(q + head * D + d);
        x.x *= scale, x.y *= scale, x.z *= scale, x.w *= scale;
        uint4 f;
        f.x = pack<T>(x.x, x.y);
        f.z = pack<T>(x.z, x.w);
        const float2 low = unpack<T>(f.x), high = unpack<T>(f.z);
        f.y = pack<T>(x.x - low.x, x.y - low.y);
        f.w = pack<T>(x.z - high.x, x.w - high.y);
        fragment[i] = f;
    }
}

/* Where dimension D lies in a head's row of sums, and back: lanes then store side by side. */
static __device__ __forceinline__ int dimension(int place)
{
    return (place & ~63) | (place >> 1 & 7) << 3 | (place >> 4 & 3) << 1 | (place & 1);
}

/* Stores the logits of a tile, X[e] of entry FROM + e, of which LEFT are valid. */
static __device__ __forceinline__ void store_logits(float *to, const float (&x)[4], int left,
                                                    bool wide)
{
    if (wide && left >= 4) {
        *reinterpret_cast<float4 *>(to) = make_float4(x[0], x[1], x[2], x[3]);
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (e < left) to[e] = x[e];
    }
}

/* Stores the maximum over the lanes of a column (query heads) for the 16 entries of a tile at TO,
 * LEFT of them valid. Lanes hold X[e] for entry 4 * (lane % 4) + e. */
static __device__ __forceinline__ void store_scores(float *to, const float (&x)[4], int left,
                                                    bool more_heads, int lane)
{
    const bool odd = lane & 4, upper = lane & 8;
    float a = odd ? x[2] : x[0], b = odd ? x[3] : x[1];
    a = fmaxf(a, __shfl_xor_sync(ALL_LANES, odd ? x[0] : x[2], 4));
    b = fmaxf(b, __shfl_xor_sync(ALL_LANES, odd ? x[1] : x[3], 4));
    float best = fmaxf(upper ? b : a, __shfl_xor_sync(ALL_LANES, upper ? a : b, 8));
    best = fmaxf(best, __shfl_xor_sync(ALL_LANES, best, 16));
    const int i = 4 * (lane % 4) + 2 * odd + upper;
    if (lane < 16 && i < left) to[i] = more_heads ? fmaxf(best, to[i]) : best;
}

/* The last block of a unit: merges its ACTIVE splits. SPARE is shared memory, heads * active + 4 *
 * THREADS floats. SUMS and STATE are those of the first of HEADS heads. */
template <int D, int WARPS>
static __device__ void merge_splits(float *out, float *lse, const float *sums, const float2 *state,
                                    int heads, int active, int splits, float *spare)
{
    constexpr int THREADS = 32 * WARPS;
    const int tid = threadIdx.x, lane = tid % 32;
    const int quads = heads * (D / 4);         /* 16-byte pieces of the output */
    const int parts = max(1, THREADS / quads); /* threads that share one, every parts-th split */
    float *weight = spare + 4 * THREADS;       /* [heads, active] */
    float4 *meet = reinterpret_cast<float4 *>(spare);
    float4 x[AHEAD];

    /* The first loads leave before the weights are known. */
#define LOAD_SPLITS(o, from)                                                                       \
    do {                                                                                           \
        const int head_ = (o) % quads / (D / 4), piece_ = (o) % (D / 4);                           \
        const float *row_ = sums + (size_t)head_ * splits * D + 4 * piece_;                        \
        _Pragma("unroll") for (int i = 0; i < AHEAD; i++)                                          \
        {                                                                                          \
            const int s_ = (from) + i * parts;                                                     \
            if (s_ < active)                                                                       \
                x[i] = __ldcg(reinterpret_cast<const float4 *>(row_ + (size_t)s_ * D));            \
        }                                                                                          \
    } while (0)
    if (tid < quads * parts) LOAD_SPLITS(tid, tid / quads);

    for (int head = tid / 32; head < heads; head += WARPS) {
        float2 seen[MAX_SPLITS / 32];
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int i = 0; i < MAX_SPLITS / 32; i++) {
            const int s = lane + 32 * i;
            seen[i] = make_float2(-INFINITY, 0);
            if (s < active) seen[i] = __ldcg(state + (size_t)head * splits + s);
            top = fmaxf(top, seen[i].x);
        }
        top = warp_max(top);
#pragma unroll
        for (int i = 0; i < MAX_SPLITS / 32; i++) {
            seen[i].x = share(seen[i].x, top);
            sum += seen[i].x * seen[i].y;
        }
        sum = warp_sum(sum);
        const float f = 1 / sum;
#pragma unroll
        for (int i = 0; i < MAX_SPLITS / 32; i++)
            if (lane + 32 * i < active) weight[head * active + lane + 32 * i] = seen[i].x * f;
        if (lse && lane == 0) lse[head] = (top + log2f(sum)) * LN_2;
    }
    __syncthreads();

    for (int o = tid; o < quads * parts; o += THREADS) {
        const int quad = o % quads, part = o / quads, head = quad / (D / 4);
        const int d = dimension(4 * (quad % (D / 4)));
        float4 y = make_float4(0, 0, 0, 0);
        for (int from = part; from < active; from += AHEAD * parts) {
            if (o != tid || from != part) LOAD_SPLITS(o, from);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int s = from + i * parts;
                if (s < active) {
                    const float f = weight[head * active + s];
                    y.x += f * x[i].x, y.y += f * x[i].y, y.z += f * x[i].z, y.w += f * x[i].w;
                }
            }
        }
        if (parts > 1) {
            meet[o] = y;
        } else {
            *reinterpret_cast<float2 *>(out + head * D + d) = make_float2(y.x, y.y);
            *reinterpret_cast<float2 *>(out + head * D + d + 8) = make_float2(y.z, y.w);
        }
    }
#undef LOAD_SPLITS
    if (parts == 1) return;
    __syncthreads();
    if (tid < quads) {
        const int head = tid / (D / 4), d = dimension(4 * (tid % (D / 4)));
        float4 y = meet[tid];
        for (int part = 1; part < parts; part++) {
            const float4 z = meet[tid + part * quads];
            y.x += z.x, y.y += z.y, y.z += z.z, y.w += z.w;
        }
        *reinterpret_cast<float2 *>(out + head * D + d) = make_float2(y.x, y.y);
        *reinterpret_cast<float2 *>(out + head * D + d + 8) = make_float2(y.z, y.w);
    }
}

/* Shared memory: query fragments [TILES, D / 16, 32] of 16 bytes, then SPARE: the warps' sums
 * [WARPS, heads, D + 4], or what merge_splits() takes. */
static size_t spare_floats(int warps, int heads, int D, int splits)
{
    const size_t parts = (size_t)warps * heads * (D + 4);
    const size_t merge = (size_t)heads * splits + 4 * 32 * warps;
    return parts > merge ? parts : merge;
}

/* ---- the kernel: grid (splits, units, rows). TILES of 8 query heads. */

template <class T, int D, int TILES, int FIRST>
static __global__ void __maxnreg__(registers_of(D, TILES)) decode_kernel(struct decode a)
{
    constexpr int WARPS = warps_of(D, TILES);
    extern __shared__ uint4 fragment[];
    __shared__ float warp_m[WARPS][8 * TILES], warp_l[WARPS][8 * TILES];
    __shared__ float block_m[8 * TILES], block_l[8 * TILES];
    __shared__ bool is_last;
    float *spare = reinterpret_cast<float *>(fragment + TILES * 2 * D);

    pdl_trigger();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const int splits = gridDim.x, split = blockIdx.x, unit = blockIdx.y, row = blockIdx.z;
    const int first = unit * a.unit_heads + a.first_head,
              kv = a.unit_heads == a.R ? unit : unit / a.R;
    const int heads = a.heads;
    const size_t head0 = (size_t)row * a.H + first; /* of out, lse, logits, sums, state */

    /* The host wrote *pos before any of this; all else may come from the kernel before. */
    const int pos = *a.pos;
    struct view w;
    int entries = pos + 1;
    const bool settled = FIRST == FIRST_ALL || (FIRST == FIRST_LIST && a.settled);
    if (!settled) pdl_wait();
    if (FIRST != FIRST_ALL) {
        const int tail = a.tail[row];
        w.count = a.count[row];
        w.shift = w.count - tail + (FIRST == FIRST_PACKED ? a.base : 0);
        entries = w.count + pos + 1 - tail;
        w.idx = a.idx + ((size_t)row * a.sets + (a.sets == 1 ? 0 : unit)) * a.stride;
        w.packed_k = a.packed_k + kv * a.packed_head;
        w.packed_v = a.packed_v + kv * a.packed_head;
    }
    if (!settled) stage_queries<T, D, 32 * WARPS>(fragment, a.q + head0 * D, heads, TILES, a.scale);
    w.k = a.k + kv * a.kv_head;
    w.v = a.v + kv * a.kv_head;
    w.last = entries - 1;

    /* As many splits as give every warp a tile; beyond one wave of blocks only where each still has
     * much to do. */
    const int tiles = (entries + ENTRIES - 1) / ENTRIES;
    int active = min((tiles + WARPS - 1) / WARPS, a.one_wave);
    active = max(1, min(splits, max(active, tiles / (WARPS * DEEP))));
    if (split >= active) {
        if (settled) pdl_wait();
        return;
    }
    const int each = (int)((unsigned)tiles / (unsigned)active), rest = tiles - each * active;
    const int end = (split + 1) * each + min(split + 1, rest);
    int tile = split * each + min(split, rest) + warp;

    uint4 key[2][D / 32], value[4][D / 64];
    int mine = 0, ahead = 0; /* rows of entry lane % 16 of this tile and of the next */
    const bool some = tile < end;
    if (FIRST == FIRST_LIST && some) {
        mine = locate<FIRST>(w, ENTRIES * tile + lane % ENTRIES);
        if (tile + WARPS < end) ahead = locate<FIRST>(w, ENTRIES * (tile + WARPS) + lane % ENTRIES);
    }
    /* Rows before the one at *pos are from earlier steps (with several rows, from this very call's
     * predecessors): their loads need not wait. */
    const bool early = settled && gridDim.z == 1 && ENTRIES * (tile + 1) <= w.last;
    if (settled && !early) pdl_wait();
    if (some) {
        load_keys<FIRST, D>(key, w, tile, mine, lane);
        load_values<FIRST, D>(value, w, tile, mine, lane);
    }
    if (settled) {
        if (early) pdl_wait();
        stage_queries<T, D, 32 * WARPS>(fragment, a.q + head0 * D, heads, TILES, a.scale);
    }
    __syncthreads();

    float m[TILES], l[TILES], o[TILES][D / 64][4][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        m[t] = -INFINITY, l[t] = 0;
#pragma unroll
        for (int i = 0; i < D / 4; i++) o[t][i / 16][i / 4 % 4][i % 4] = 0;
    }

    for (; tile < end; tile += WARPS) {
        const int left = entries - ENTRIES * tile; /* valid entries from the tile's first on */
        const bool more = tile + WARPS < end;
        float s[TILES][2][4], x[TILES][4]; /* S as the product leaves it; of the lane's 4 entries */
        uint32_t high[TILES][2], low[TILES][2];

        /* S = Q K^T */
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 8; i++) s[t][i / 4][i % 4] = 0;
#pragma unroll
        for (int step = 0; step < D / 16; step++)
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const uint4 f = load_shared16(fragment + (t * (D / 16) + step) * 32 + lane);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const uint4 &b = key[half][step / 2];
                    mma<T>(s[t][half], f.x, f.y, f.z, f.w, word(b, step % 2 * 2),
                           word(b, step % 2 * 2 + 1));
                }
            }
        mine = ahead;
        if (more) {
            load_keys<FIRST, D>(key, w, tile + WARPS, mine, lane);
            if (FIRST == FIRST_LIST && tile + 2 * WARPS < end)
                ahead = locate<FIRST>(w, ENTRIES * (tile + 2 * WARPS) + lane % ENTRIES);
        }

        /* rounded queries + remainders; entries past the last count nothing */
        bool grown = false;
        float top[TILES];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                x[t][e] = s[t][e / 2][e % 2] + s[t][e / 2][e % 2 + 2];
                if (left < ENTRIES && 4 * c + e >= left) x[t][e] = -INFINITY;
            }
            top[t] = fmaxf(fmaxf(x[t][0], x[t][1]), fmaxf(x[t][2], x[t][3]));
            top[t] = fmaxf(top[t], __shfl_xor_sync(ALL_LANES, top[t], 1));
            top[t] = fmaxf(top[t], __shfl_xor_sync(ALL_LANES, top[t], 2)) * LOG2_E;
            grown = grown || top[t] > m[t] + HIGH;
        }
        if (a.logits) {
#pragma unroll
            for (int t = 0; t < TILES; t++)
                if (8 * t + g < heads)
                    store_logits(a.logits + (head0 + 8 * t + g) * a.span + (size_t)ENTRIES * tile +
                                     4 * c,
                                 x[t], left - 4 * c, a.wide);
        }
        if (a.scores) {
            float best[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                best[e] = TILES == 1 ? x[0][e] : fmaxf(x[0][e], x[TILES - 1][e]);
            store_scores(a.scores + ((size_t)row * a.G + kv) * a.span + (size_t)ENTRIES * tile,
                         best, left, a.more_heads, lane);
        }

        /* a maximum that has moved: rare after the first tiles */
        if (__any_sync(ALL_LANES, grown)) {
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const float to = top[t] > m[t] + HIGH ? top[t] - LOW : m[t];
                const float f = share(m[t], to);
                m[t] = to;
                l[t] *= f;
                /* columns of O^T are the heads 2 c and 2 c + 1 */
                const float even = __shfl_sync(ALL_LANES, f, 8 * c);
                const float odd = __shfl_sync(ALL_LANES, f, 8 * c + 4);
#pragma unroll
                for (int i = 0; i < D / 4; i++)
                    o[t][i / 16][i / 4 % 4][i % 4] *= i % 2 ? odd : even;
            }
        }

        /* P, as rounded value and remainder */
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) x[t][e] = exp2_fast(fmaf(x[t][e], LOG2_E, -m[t]));
            l[t] += (x[t][0] + x[t][1]) + (x[t][2] + x[t][3]);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                high[t][i] = pack<T>(x[t][2 * i], x[t][2 * i + 1]);
                const float2 p = unpack<T>(high[t][i]);
                low[t][i] = pack<T>(x[t][2 * i] - p.x, x[t][2 * i + 1] - p.y);
            }
        }

        /* O^T += V^T P^T: rows lane / 4 and lane / 4 + 8 are two neighbouring dimensions */
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t v0 = word(value[0][j], i), v1 = word(value[1][j], i);
                const uint32_t v2 = word(value[2][j], i), v3 = word(value[3][j], i);
                const uint32_t a0 = __byte_perm(v0, v1, 0x5410), a1 = __byte_perm(v0, v1, 0x7632);
                const uint32_t a2 = __byte_perm(v2, v3, 0x5410), a3 = __byte_perm(v2, v3, 0x7632);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    mma<T>(o[t][j][i], a0, a1, a2, a3, high[t][0], high[t][1]);
                    mma<T>(o[t][j][i], a0, a1, a2, a3, low[t][0], low[t][1]);
                }
            }
        if (more) load_values<FIRST, D>(value, w, tile + WARPS, mine, lane);
    }

    /* the block's sums */
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        l[t] += __shfl_xor_sync(ALL_LANES, l[t], 1);
        l[t] += __shfl_xor_sync(ALL_LANES, l[t], 2);
        if (c == 0) warp_m[warp][8 * t + g] = m[t], warp_l[warp][8 * t + g] = l[t];
    }
    __syncthreads();
    if (threadIdx.x < heads) {
        float top = -INFINITY, sum = 0;
        for (int i = 0; i < WARPS; i++) top = fmaxf(top, warp_m[i][threadIdx.x]);
        for (int i = 0; i < WARPS; i++)
            sum += share(warp_m[i][threadIdx.x], top) * warp_l[i][threadIdx.x];
        block_m[threadIdx.x] = top;
        block_l[threadIdx.x] = sum;
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int head = 8 * t + 2 * c + e;
            float top = -INFINITY;
            for (int i = 0; i < WARPS; i++) top = fmaxf(top, warp_m[i][head]);
            const float f = share(warp_m[warp][head], top);
            float2 *to =
                reinterpret_cast<float2 *>(spare + ((size_t)warp * heads + head) * (D + 4));
            if (head < heads)
#pragma unroll
                for (int j = 0; j < D / 64; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        to[32 * j + 8 * i + g] =
                            make_float2(f * o[t][j][i][e], f * o[t][j][i][e + 2]);
        }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * (D / 2); i += 32 * WARPS) {
        const int head = i / (D / 2), place = 2 * (i % (D / 2));
        float2 sum = make_float2(0, 0);
        for (int j = 0; j < WARPS; j++) {
            const float2 part =
                *reinterpret_cast<const float2 *>(spare + (j * heads + head) * (D + 4) + place);
            sum.x += part.x, sum.y += part.y;
        }
        if (active == 1) {
            const float f = block_l[head] == 0 ? 0 : 1 / block_l[head];
            *reinterpret_cast<float2 *>(a.out + (head0 + head) * D + dimension(place)) =
                make_float2(f * sum.x, f * sum.y);
        } else {
            *reinterpret_cast<float2 *>(a.sums + ((head0 + head) * splits + split) * D + place) =
                sum;
        }
    }
    if (threadIdx.x < heads) {
        const float top = block_m[threadIdx.x], sum = block_l[threadIdx.x];
        if (active > 1)
            a.state[(head0 + threadIdx.x) * splits + split] = make_float2(top, sum);
        else if (a.lse)
            a.lse[head0 + threadIdx.x] = (top + log2f(sum)) * LN_2;
    }
    if (active == 1) return;

    /* the last block of the unit merges, and leaves the counter as it found it */
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned *arrived = a.arrived + (size_t)row * gridDim.y + unit, before;
        /* releases what the block wrote, acquires what the others did */
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
                     : "=r"(before)
                     : "l"(arrived)
                     : "memory");
        is_last = before == (unsigned)active - 1;
        if (is_last) *arrived = 0;
    }
    __syncthreads();
    if (is_last)
        merge_splits<D, WARPS>(a.out + head0 * D, a.lse ? a.lse + head0 : NULL,
                               a.sums + head0 * splits * D, a.state + head0 * splits, heads, active,
                               splits, spare);
}

/* ---- launch */

/* Blocks at most where there are several splits, and so the counters of WORK: their number depends
 * on nothing but the device, so that calls of different shapes may share WORK. */
static int most_blocks(void)
{
    return (cuda_device()->sms * MOST_BLOCKS * WAVES + 3) / 4 * 4;
}

size_t cuda_decode_work(int n, int H, int G, int D)
{
    (void)n; /* many rows have fewer splits each */
    const size_t blocks = (size_t)most_blocks();
    return blocks * sizeof(unsigned) + blocks * (size_t)(H / G) * (D + 2) * sizeof(float);
}

template <class T, int D, int TILES, int FIRST>
static int start(const struct decode *a, dim3 grid, cudaStream_t stream)
{
    constexpr int WARPS = warps_of(D, TILES);
    const size_t shared = TILES * 2 * D * sizeof(uint4) +
                          spare_floats(WARPS, a->heads, D, (int)grid.x) * sizeof(float);
    if (shared > 40 * 1024) /* with what is static, past 48 KB */
        CUDA_TRY(cudaFuncSetAttribute(decode_kernel<T, D, TILES, FIRST>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    return launch_split(a->carveout, decode_kernel<T, D, TILES, FIRST>, grid, dim3(32 * WARPS),
                        shared, stream, *a);
}

template <class T, int D, int TILES>
static int start_first(const struct decode *a, enum cuda_first first, dim3 grid,
                       cudaStream_t stream)
{
    return first == FIRST_ALL    ? start<T, D, TILES, FIRST_ALL>(a, grid, stream)
           : first == FIRST_LIST ? start<T, D, TILES, FIRST_LIST>(a, grid, stream)
                                 : start<T, D, TILES, FIRST_PACKED>(a, grid, stream);
}

static bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

static int check_shape(const struct cuda_decode *a)
{
    if (a->D != 64 && a->D != 128)
        return fail("decode attention: head_dim %d: the CUDA kernels take 64 and 128", a->D);
    if (a->type != DTYPE_BF16 && a->type != DTYPE_F16)
        return fail("decode attention: type %s: expected bf16 or f16", dtype_name(a->type));
    if (a->G < 1 || a->H < 1 || a->H % a->G)
        return fail("decode attention: %d query heads on %d kv heads", a->H, a->G);
    if (a->n < 1 || a->n > 65535) return fail("decode attention: %d rows", a->n);
    if (a->most < 1) return fail("decode attention: at most %d entries", a->most);
    if (a->first != FIRST_PACKED && a->base != 0)
        return fail("decode attention: base %d, where rows are not packed", a->base);
    if (a->first != FIRST_ALL && a->sets != 1 && a->sets != a->G && a->sets != a->H)
        return fail("decode attention: %d lists: expected 1, %d or %d", a->sets, a->G, a->H);
    if (a->first == FIRST_PACKED && a->sets != 1 && a->sets != a->G)
        return fail("decode attention: %d sets of packed rows: expected 1 or %d", a->sets, a->G);
    if (a->first == FIRST_LIST && a->sets == a->H && a->H != a->G && a->scores)
        return fail("decode attention: scores of a group whose heads have lists of their own");
    if (!aligned(a->out) || !aligned(a->q) || !aligned(a->k) || !aligned(a->v) ||
        !aligned(a->work) ||
        (a->first == FIRST_PACKED && (!aligned(a->packed_k) || !aligned(a->packed_v))))
        return fail("decode attention: an array is not 16-byte aligned");
    return 0;
}

int cuda_decode_attention(const struct cuda_decode *a, cudaStream_t stream)
{
    if (check_shape(a)) return -1;
    const bool own = a->first == FIRST_LIST && a->sets == a->H; /* lists */
    const int R = a->H / a->G, units = own ? a->H : a->G, unit_heads = own ? 1 : R;
    const size_t row = (size_t)a->D * 2;
    struct decode d = {};
    d.out = a->out;
    d.q = a->q;
    d.k = (const char *)a->k;
    d.v = (const char *)a->v;
    d.kv_head = (size_t)a->room * row;
    d.packed_k = (const char *)a->packed_k;
    d.packed_v = (const char *)a->packed_v;
    d.packed_head = (size_t)a->stride * row;
    d.pos = a->pos;
    d.idx = a->idx;
    d.count = a->count;
    d.tail = a->tail;
    d.logits = a->logits;
    d.scores = a->scores;
    d.lse = a->lse;
    d.span = a->span;
    d.scale = 1 / sqrtf((float)a->D);
    /* Loads in flight wait in the L1: with the least of it long contexts run a fifth slower. But a
     * multiprocessor divides its L1 anew only when it is idle, and the kernels after this one,
     * which want it as shared memory, must not wait for a gather to end. */
    d.carveout = a->beside ? (unsigned)cudaSharedmemCarveoutMaxShared : (unsigned)LARGE_L1;
    d.H = a->H;
    d.G = a->G;
    d.R = R;
    d.sets = a->first == FIRST_ALL ? 1 : a->sets;
    d.stride = a->stride;
    d.base = a->base;
    d.settled = a->settled;
    d.unit_heads = unit_heads;
    d.wide = aligned(a->logits) && a->span % 4 == 0;
    d.arrived = (unsigned *)a->work;
    d.sums = (float *)(d.arrived + most_blocks());

    for (int h = 0; h < unit_heads;
         h += 16) { /* of a group larger than 16, K and V are read anew */
        d.first_head = h;
        d.heads = unit_heads - h < 16 ? unit_heads - h : 16;
        d.more_heads = h > 0;
        const int tiles = d.heads > 8 ? 2 : 1;
        const int whole = (a->most - 1) / (ENTRIES * warps_of(a->D, tiles)) + 1; /* blocks' tiles */
        const size_t blocks = (size_t)cuda_blocks(a->beside) * blocks_of(a->D, tiles);
        const size_t all = (size_t)a->n * units;
        size_t splits = blocks * WAVES / all;
        if (splits > MAX_SPLITS) splits = MAX_SPLITS;
        if (splits > (size_t)whole) splits = (size_t)whole;
        if (splits < 1) splits = 1;
        d.one_wave = blocks / all > 1 ? (int)(blocks / all) : 1;
        /* [n, H, splits] states behind as many sums; with one split there is neither */
        d.state = (float2 *)(d.sums + (splits > 1 ? (size_t)a->n * a->H * splits * a->D : 0));
        const dim3 grid((unsigned)splits, (unsigned)units, (unsigned)a->n);
        const struct decode *p = &d;
        int rc;
        WITH_TYPE(a->type, {
            if (tiles == 2)
                rc = a->D == 64 ? start_first<T, 64, 2>(p, a->first, grid, stream)
                                : start_first<T, 128, 2>(p, a->first, grid, stream);
            else
                rc = a->D == 64 ? start_first<T, 64, 1>(p, a->first, grid, stream)
                                : start_first<T, 128, 1>(p, a->first, grid, stream);
        });
        if (rc) return -1;
    }
    return 0;
}
