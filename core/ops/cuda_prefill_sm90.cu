/* cuda_prefill_sm90.cu - attention of a chunk of a prefill on compute capability 9.0, with its
 * warpgroup products and its bulk tensor copy.
 *
 * A block owns 64 rows of one query head for each of its GROUPS consumer warpgroups. Two threads of
 * one more warpgroup copy: one Q and then the tiles of K, one those of V, through rings of STAGES
 * tiles in shared memory. The tiles are taken from the last one a row of the block sees down to the
 * first, so that only the first few meet the diagonal. A consumer holds scores, weights and result
 * in registers. While the tensor cores add the values of one tile into the result it already has
 * the scores of the next and takes their exponentials; and the warpgroups take turns at issuing
 * products, so that one computes exponentials while another multiplies.
 *
 * Source: Dao 2023 (FlashAttention-2), Shah et al. 2024 (FlashAttention-3).
 *
 * How the operands lie in shared memory. The copy writes boxes of 64 columns, 128 bytes a row, with
 * the 128-byte swizzle: 16-byte piece c of row r comes to r * 128 + (c ^ r % 8) * 16, a pattern
 * that repeats every 8 rows, 1,024 bytes, to which every box is aligned. A head of 128 is two
 * boxes. A product names an operand by a descriptor: start address, two strides and the swizzle,
 * which acts on the address that start and strides give (bits 4-6 ^= bits 7-9), so that a start
 * further along the first row of a pattern is sound.
 *
 * Q and K lie along the inner dimension of their product ("K-major"): the stride leads from 8 rows
 * to the next 8, 1,024 bytes; the leading one is unused. 16 columns further is 32 bytes further,
 * the second 64 columns are one box further.
 *
 * V has the inner dimension of its product, the keys, across ("MN-major"): the leading stride leads
 * from 64 columns to the next 64, one box; the other from 8 keys to the next 8, 1,024 bytes. 16
 * keys further is 2,048 bytes further.
 *
 * A sum leaves thread 4 i + c of warp w with columns 8 j + 2 c and the next, of row 16 w + i in
 * elements 4 j and 4 j + 1, of row 16 w + i + 8 in the two after. In pairs this is the order in
 * which a product takes a left operand from registers, which the weights therefore never leave.
 */
#include "core/ops/cuda_util.cuh"

#include <cuda.h> /* the types of tensor maps only: their maker is asked of the runtime */
#include <math.h>
#include <type_traits>

/* The instructions are in code for 9.0a only. In other code the kernel is empty, which the launcher
 * sees by its static shared memory. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#else
#define HAVE_WGMMA 0
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER(n) /* the compiler refuses the word */
#else
#define CLUSTER(n) __cluster_dims__(n, 1, 1)
#endif

enum { BOX = 64, BOX_ROW = 128, PATTERN = 1024 }; /* columns; bytes; bytes */

/* How the work of a warpgroup overlaps. */
enum {
    OVERLAP = 1, /* the exponentials of a tile with the product of the tile before */
    TURNS = 2,   /* the exponentials of a warpgroup with the products of another */
    LAZY = 4,    /* the result is not rescaled where no row of a warp has a larger maximum */
    PAIR = 8     /* the blocks of two heads of a group copy half of each tile for both */
};

struct prefill_maps {
    CUtensorMap q, k, v;
};

#if HAVE_WGMMA
/* ---- barriers in shared memory, copies, turns */

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void barrier_init(uint32_t bar, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

/* Arrives, and makes the phase wait for BYTES more of copies. */
static __device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Waits until the phase of PARITY is over; the one before the first counts as over, parity 1. */
static __device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity)
{
    uint32_t over;
    do {
        asm volatile("{ .reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(over)
                     : "r"(bar), "r"(parity)
                     : "memory");
    } while (!over);
}

/* Copies the box at (column, y, z) to shared memory TO; its bytes count at BAR. */
static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int column,
                                                int y, int z, uint32_t bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(map), "r"(column), "r"(y), "r"(z), "r"(bar)
                 : "memory");
}

/* The same into both blocks of a pair; the bytes count at the barrier of each. */
static __device__ __forceinline__ void copy_box_to_both(uint32_t to, const CUtensorMap *map,
                                                        int column, int y, int z, uint32_t bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
                 "l"(map), "r"(column), "r"(y), "r"(z), "r"(bar), "h"((uint16_t)3)
                 : "memory");
}

/* Arrives at the barrier that stands at BAR in block RANK of the pair. */
static __device__ __forceinline__ void barrier_arrive_at(uint32_t bar, int rank)
{
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there]; }" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}

/* A warp is through with a slot of a ring. */
template <int FLAGS> static __device__ __forceinline__ void free_slot(uint32_t bar)
{
    const int lane = threadIdx.x % 32;
    if (FLAGS & PAIR) {
        if (lane < 2) barrier_arrive_at(bar, lane);
    } else if (lane == 0) {
        barrier_arrive(bar);
    }
}

/* All threads of the block, or of both blocks of a pair. */
template <int FLAGS> static __device__ __forceinline__ void sync_blocks(void)
{
    if (FLAGS & PAIR) {
        asm volatile("barrier.cluster.arrive.release;\n"
                     "barrier.cluster.wait.acquire;" ::
                         : "memory");
    } else {
        __syncthreads();
    }
}

/* Waits until the 128 threads of another warpgroup have passed the turn on. */
static __device__ __forceinline__ void turn_wait(int group)
{
    asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
}

static __device__ __forceinline__ void turn_pass(int group)
{
    asm volatile("bar.arrive %0, 256;" ::"r"(1 + group) : "memory");
}

/* ---- products of a warpgroup */

/* The tensor cores use registers behind the compiler's back. This keeps what is computed of X
 * before on this side, and what is computed of it after on the other. */
template <int N> static __device__ __forceinline__ void pin(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> static __device__ __forceinline__ void pin(uint32_t (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(x[i])::"memory");
}

static __device__ __forceinline__ void mma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void mma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most LEFT of the groups committed are under way. */
template <int LEFT> static __device__ __forceinline__ void mma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

static __device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t leading,
                                                      uint32_t stride)
{
    return (uint64_t)(address >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | 1ull << 62; /* 1: the 128-byte swizzle */
}

#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
#define F32(i) F16(i), F16(i + 16)
#define R32                                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
    "%25,%26,%27,%28,%29,%30,%31"
#define R64                                                                                        \
    R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,"    \
        "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define R88                                                                                        \
    R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,"    \
        "%85,%86,%87"

#define MMA_SHARED(TYPE, N, REGS, A, B, ADD, ...)                                                  \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " ADD ", 0;\n"                                    \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" REGS "}, " A  \
                 ", " B ", p, 1, 1, 0, 0; }"                                                       \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b), "r"(add))
#define MMA_SHARED_OF(TYPE)                                                                        \
    do {                                                                                           \
        if constexpr (N == 128)                                                                    \
            MMA_SHARED(TYPE, "128", R64, "%64", "%65", "%66", F32(0), F32(32));                    \
        else                                                                                       \
            MMA_SHARED(TYPE, "176", R88, "%88", "%89", "%90", F32(0), F32(32), F16(64), F4(80),    \
                       F4(84));                                                                    \
    } while (0)

/* d [64, N] = a [64, 16] b [N, 16]^T, plus d with ADD; a and b in shared memory, K-major. */
template <class T, int N>
static __device__ __forceinline__ void mma_shared(float (&d)[N / 2], uint64_t a, uint64_t b,
                                                  int add)
{
    static_assert(N == 128 || N == 176, "the widths spelled out above");
    if constexpr (std::is_same<T, __half>::value)
        MMA_SHARED_OF("f16");
    else
        MMA_SHARED_OF("bf16");
}

#define MMA_REGS(TYPE, N, REGS, A, B, ...)                                                         \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" REGS "}, {" A \
                 "}, " B ", 1, 1, 1, 1;"                                                           \
                 : __VA_ARGS__                                                                     \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b))
#define MMA_REGS_OF(TYPE)                                                                          \
    do {                                                                                           \
        if constexpr (N == 128)                                                                    \
            MMA_REGS(TYPE, "128", R64, "%64,%65,%66,%67", "%68", F32(0), F32(32));                 \
        else                                                                                       \
            MMA_REGS(TYPE, "64", R32, "%32,%33,%34,%35", "%36", F32(0));                           \
    } while (0)

/* d [64, N] += a [64, 16] b [16, N]; a in registers, b in shared memory, MN-major. */
template <class T, int N>
static __device__ __forceinline__ void mma_registers(float (&d)[N / 2], uint32_t a0, uint32_t a1,
                                                     uint32_t a2, uint32_t a3, uint64_t b)
{
    static_assert(N == 128 || N == 64, "the widths spelled out above");
    if constexpr (std::is_same<T, __half>::value)
        MMA_REGS_OF("f16");
    else
        MMA_REGS_OF("bf16");
}

/* ---- what a thread of a consumer holds of its two rows, quad lane / 4 and 8 further */

template <int D, int KEYS> struct holding {
    float s[KEYS / 2];    /* scores, then weights, of one tile */
    uint32_t p[KEYS / 4]; /* weights of the tile whose values are being added */
    float o[D / 2];       /* sum of weights times values */
    float top[2];         /* largest score so far of each row */
    float sum[2];         /* sum of the weights seen by this thread */
    float fade[2];        /* what older weights are to be multiplied by */
};

/* Starts s = Q K^T. */
template <class T, int D, int KEYS, int ROWS>
static __device__ __forceinline__ void start_scores(struct holding<D, KEYS> &x, uint64_t q,
                                                    uint64_t k)
{
    pin(x.s);
    mma_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        const int box = i / (BOX / 16), within = i % (BOX / 16) * 32;
        mma_shared<T, KEYS>(x.s, q + (box * ROWS * BOX_ROW + within) / 16,
                            k + (box * KEYS * BOX_ROW + within) / 16, i > 0);
    }
    mma_commit();
}

/* Starts o += P V. */
template <class T, int D, int KEYS>
static __device__ __forceinline__ void start_values(struct holding<D, KEYS> &x, uint64_t v)
{
    pin(x.o);
    pin(x.p);
    mma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        mma_registers<T, D>(x.o, x.p[4 * i], x.p[4 * i + 1], x.p[4 * i + 2], x.p[4 * i + 3],
                            v + i * 16 * BOX_ROW / 16);
    mma_commit();
}

/* Scores of keys that a row does not see become -inf. SEEN: last key, counted from this thread's
 * first, that its first row sees; the second row sees 8 more. */
template <int D, int KEYS>
static __device__ __forceinline__ void mask(struct holding<D, KEYS> &x, int seen)
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const int key = 8 * (i / 4) + i % 2;
        if (key > (i % 4 < 2 ? seen : seen + 8)) x.s[i] = -INFINITY;
    }
}

static __device__ __forceinline__ float exp2_fast(float x)
{
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

/* Scores to weights relative to the largest so far; SCALE takes a score to a power of two. */
template <int D, int KEYS>
static __device__ __forceinline__ void weigh(struct holding<D, KEYS> &x, float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float even = x.s[2 * r], odd = x.s[2 * r + 1];
#pragma unroll
        for (int i = 4 + 2 * r; i < KEYS / 2; i += 4) {
            even = fmaxf(even, x.s[i]);
            odd = fmaxf(odd, x.s[i + 1]);
        }
        float top = fmaxf(even, odd);
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(top, x.top[r]);
        const float from = top == -INFINITY ? 0 : top; /* nothing seen yet: all weights are 0 */
        x.fade[r] = exp2_fast((x.top[r] - from) * scale);
        x.top[r] = top;

        const float shift = from * scale;
        even = odd = 0;
#pragma unroll
        for (int i = 2 * r; i < KEYS / 2; i += 4) {
            x.s[i] = exp2_fast(fmaf(x.s[i], scale, -shift));
            x.s[i + 1] = exp2_fast(fmaf(x.s[i + 1], scale, -shift));
            even += x.s[i];
            odd += x.s[i + 1];
        }
        x.sum[r] = x.sum[r] * x.fade[r] + (even + odd);
    }
}

/* Keeps the exponentials ahead of the wait that follows. The assembler takes a wait to be free of
 * registers and moves it up past arithmetic, but not past a store, and this one, which is never
 * carried out as no sum is negative, needs all of them. */
template <int D, int KEYS>
static __device__ __forceinline__ void finish_weights(struct holding<D, KEYS> &x, uint32_t at)
{
    asm volatile(
        "{ .reg .pred p; setp.lt.f32 p, %0, 0f00000000; @p st.shared.f32 [%1], %0; }" ::"f"(
            x.sum[0] + x.sum[1]),
        "r"(at)
        : "memory");
}

template <class T, int D, int KEYS>
static __device__ __forceinline__ void pack_weights(struct holding<D, KEYS> &x)
{
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) x.p[i] = pack<T>(x.s[2 * i], x.s[2 * i + 1]);
}

template <int D, int KEYS>
static __device__ __forceinline__ void fade_result(struct holding<D, KEYS> &x, bool lazy)
{
    if (lazy && !__any_sync(0xffffffffu, x.fade[0] != 1 || x.fade[1] != 1)) return;
#pragma unroll
    for (int i = 0; i < D / 2; i++) x.o[i] *= x.fade[i / 2 % 2];
}

/* Thread c of a quad gives word j to thread j and gets that one's word c. */
static __device__ __forceinline__ uint4 turn_quad(uint32_t w0, uint32_t w1, uint32_t w2,
                                                  uint32_t w3)
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    const uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? w0 : w1, 1);
    const uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? w2 : w3, 1);
    (odd ? w0 : w1) = a;
    (odd ? w2 : w3) = b;
    const uint32_t c = __shfl_xor_sync(0xffffffffu, high ? w0 : w2, 2);
    const uint32_t d = __shfl_xor_sync(0xffffffffu, high ? w1 : w3, 2);
    (high ? w0 : w2) = c;
    (high ? w1 : w3) = d;
    return make_uint4(w0, w1, w2, w3);
}

/* Writes the rows from ROW on (this thread's: row and row + 8), those below n. */
template <class T, int D, int KEYS>
static __device__ __forceinline__ void
write_rows(struct holding<D, KEYS> &x, const struct cuda_prefill &a, int row, int h, float scale)
{
    const int c = threadIdx.x % 4;

#pragma unroll
    for (int r = 0; r < 2; r++, row += 8) {
        float sum = x.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float part = 1 / sum;
        T *out = (T *)a.out + ((size_t)row * a.H + h) * D + 8 * c;
        if (a.lse && c == 0 && row < a.n)
            a.lse[(size_t)row * a.H + h] = x.top[r] * scale * 0.69314718f + logf(sum);
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const float *o = x.o + 16 * i + 2 * r;
            const uint4 w =
                turn_quad(pack<T>(o[0] * part, o[1] * part), pack<T>(o[4] * part, o[5] * part),
                          pack<T>(o[8] * part, o[9] * part), pack<T>(o[12] * part, o[13] * part));
            if (row < a.n) *(uint4 *)(out + 32 * i) = w;
        }
    }
}
#endif

/* ---- the kernel: block (g, tile of rows, head of the group), heads of a group side by side and
 * late rows first, so that blocks that run together read the same keys and the last to start are
 * short */

template <class T, int D, int GROUPS, int KEYS, int STAGES, int FLAGS>
static __global__ void __launch_bounds__(128 * (GROUPS + 1), 1) CLUSTER((FLAGS & PAIR) ? 2 : 1)
    prefill(const __grid_constant__ struct prefill_maps maps, const struct cuda_prefill a,
            float scale)
{
#if HAVE_WGMMA
    constexpr int ROWS = 64 * GROUPS, BOXES = D / BOX;
    constexpr int Q_BYTES = ROWS * D * 2, TILE = KEYS * D * 2; /* bytes; of a tile of K or V */
    /* registers of a copying thread and of a consumer: 64 Ki in all */
    constexpr int FEW = GROUPS == 2 ? 24 : 32, MANY = GROUPS == 2 ? 240 : 160;

    static_assert(!(FLAGS & PAIR) || BOXES == 2, "each block of a pair copies one box");
    extern __shared__ unsigned char dynamic[];
    __shared__ uint64_t bars[1 + 4 * STAGES];
    const uint32_t q_at = (shared_address(dynamic) + PATTERN - 1) & ~(uint32_t)(PATTERN - 1);
    const uint32_t k_at = q_at + Q_BYTES, v_at = k_at + STAGES * TILE;
    const uint32_t q_full = shared_address(bars), k_full = q_full + 8, v_full = k_full + 8 * STAGES;
    const uint32_t k_free = v_full + 8 * STAGES, v_free = k_free + 8 * STAGES;

    const int R = a.H / a.G, tiles = (a.n + ROWS - 1) / ROWS, block = (int)blockIdx.x;
    const int g = block / (R * tiles), h = g * R + block % R;
    const int row = (tiles - 1 - block / R % tiles) * ROWS; /* the block's first */
    const int steps = (a.pos0 + min(row + ROWS, a.n) - 1) / KEYS + 1;
    const int role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0); /* the same in a warp */

    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(k_full + 8 * i, 1);
            barrier_init(v_full + 8 * i, 1);
            barrier_init(k_free + 8 * i, FLAGS & PAIR ? 8 * GROUPS : 4 * GROUPS); /* one a warp */
            barrier_init(v_free + 8 * i, FLAGS & PAIR ? 8 * GROUPS : 4 * GROUPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    sync_blocks<FLAGS>();
    pdl_wait();

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FEW));
        const int warp = threadIdx.x / 32;

        if (threadIdx.x == 0) {
            barrier_expect(q_full, Q_BYTES);
            for (int b = 0; b < BOXES; b++)
                copy_box(q_at + b * ROWS * BOX_ROW, &maps.q, b * BOX, h, row, q_full);
        }
        if (warp < 2 && threadIdx.x % 32 == 0) {
            const CUtensorMap *map = warp == 0 ? &maps.k : &maps.v;
            const uint32_t at = warp == 0 ? k_at : v_at;
            const uint32_t full = warp == 0 ? k_full : v_full, free = warp == 0 ? k_free : v_free;
            uint32_t slot = 0, parity = 0;
            for (int tile = steps - 1; tile >= 0; tile--) {
                barrier_wait(free + 8 * slot, parity ^ 1);
                barrier_expect(full + 8 * slot, TILE);
                if (FLAGS & PAIR) {
                    copy_box_to_both(at + slot * TILE + block % 2 * KEYS * BOX_ROW, map,
                                     block % 2 * BOX, tile * KEYS, g, full + 8 * slot);
                } else {
                    for (int b = 0; b < BOXES; b++)
                        copy_box(at + slot * TILE + b * KEYS * BOX_ROW, map, b * BOX, tile * KEYS,
                                 g, full + 8 * slot);
                }
                if (++slot == STAGES) {
                    slot = 0;
                    parity ^= 1;
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MANY));
        const int group = role - 1, next = group == GROUPS - 1 ? 0 : group + 1;
        const int lane = threadIdx.x % 32;
        const int first = row + 64 * group; /* the warpgroup's first row, this thread's: */
        const int mine = first + threadIdx.x % 128 / 32 * 16 + lane / 4;
        const int plain = (a.pos0 + first + 1) / KEYS; /* tiles all of whose keys all rows see */
        const uint64_t q = descriptor(q_at + group * 64 * BOX_ROW, 16, PATTERN);
        const uint64_t k = descriptor(k_at, 16, PATTERN);
        const uint64_t v = descriptor(v_at, KEYS * BOX_ROW, PATTERN);
        uint32_t slot = 0, parity = 0; /* of the tile whose scores are next */
        int tile = steps - 1;
        struct holding<D, KEYS> x;

        /* The last key that this thread's first row sees, from its own first key of the tile on. */
        const int seen = a.pos0 + mine - lane % 4 * 2;

#pragma unroll
        for (int i = 0; i < D / 2; i++) x.o[i] = 0;
        for (int r = 0; r < 2; r++) {
            x.top[r] = -INFINITY;
            x.sum[r] = 0;
        }
        if ((FLAGS & TURNS) && group == GROUPS - 1) turn_pass(0);

        barrier_wait(q_full, 0);
        barrier_wait(k_full, 0);
        start_scores<T, D, KEYS, ROWS>(x, q, k);
        mma_wait<0>();
        pin(x.s);
        free_slot<FLAGS>(k_free);
        mask(x, seen - tile * KEYS);
        weigh(x, scale);
        pack_weights<T>(x);
        tile--;

        /* The scores of TILE, and the values of the tile before it. */
        const auto step = [&](bool masked) {
            const uint32_t old = slot, old_parity = parity;
            if (++slot == STAGES) {
                slot = 0;
                parity ^= 1;
            }
            barrier_wait(k_full + 8 * slot, parity);
            if (FLAGS & TURNS) turn_wait(group);
            start_scores<T, D, KEYS, ROWS>(x, q, k + slot * (TILE / 16));
            barrier_wait(v_full + 8 * old, old_parity);
            start_values<T>(x, v + old * (TILE / 16));
            if (FLAGS & TURNS) turn_pass(next);
            mma_wait<(FLAGS & OVERLAP) ? 1 : 0>();
            pin(x.s);
            free_slot<FLAGS>(k_free + 8 * slot);
            if (masked) mask(x, seen - tile * KEYS);
            weigh(x, scale);
            pin(x.s);
            finish_weights(x, q_full);
            mma_wait<0>();
            pin(x.o);
            pin(x.p);
            free_slot<FLAGS>(v_free + 8 * old);
            fade_result(x, FLAGS & LAZY);
            pack_weights<T>(x);
        };
        for (; tile >= plain; tile--) step(true);
        for (; tile >= 0; tile--) step(false);

        barrier_wait(v_full + 8 * slot, parity);
        start_values<T>(x, v + slot * (TILE / 16));
        if ((FLAGS & TURNS) && group == 0) turn_wait(0); /* the turn that nobody took */
        mma_wait<0>();
        pin(x.o);
        pin(x.p);
        write_rows<T>(x, a, mine, h, scale);
    }
    if (FLAGS & PAIR) sync_blocks<FLAGS>(); /* the other one may still arrive at our barriers */
#endif
}

/* ---- launching */

typedef CUresult (*map_maker)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                              const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* A map of X [outer, middle, D] with those strides in elements, in boxes of 64 columns, HIGH middle
 * and DEEP outer rows. What is outside reads as zeros. */
static int make_map(map_maker make, CUtensorMap *map, const void *x, enum dtype type, int D,
                    int middle, size_t middle_stride, int outer, size_t outer_stride, int high,
                    int deep)
{
    const cuuint64_t size[] = {(cuuint64_t)D, (cuuint64_t)middle, (cuuint64_t)outer};
    const cuuint64_t stride[] = {2 * middle_stride, 2 * outer_stride};
    const cuuint32_t box[] = {BOX, (cuuint32_t)high, (cuuint32_t)deep}, each[] = {1, 1, 1};
    const CUresult e = make(map,
                            type == DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                            3, (void *)x, size, stride, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
                            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (e != CUDA_SUCCESS)
        return fail("prefill attention: no tensor map of [%d, %d, %d] at %p: driver error %d",
                    outer, middle, D, x, (int)e);
    return 0;
}

template <class T, int D, int GROUPS, int KEYS, int STAGES, int FLAGS>
static int prefill_as(const struct cuda_prefill *a, cudaStream_t stream)
{
    const int ROWS = 64 * GROUPS, shared = PATTERN + (ROWS + 2 * STAGES * KEYS) * D * 2;
    const auto kernel = prefill<T, D, GROUPS, KEYS, STAGES, FLAGS>;
    const size_t head = D, row = (size_t)a->H * D, all = (size_t)a->room * D;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaFuncAttributes code;
    struct prefill_maps maps;
    void *make = NULL;

    if (cudaFuncGetAttributes(&code, kernel) != cudaSuccess) {
        (void)cudaGetLastError();
        return 1;
    }
    if (code.sharedSizeBytes == 0) return 1;
    CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &make, 12000,
                                              cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) return 1;
    if (make_map((map_maker)make, &maps.q, a->q, a->type, D, a->H, head, a->n, row, 1, ROWS) ||
        make_map((map_maker)make, &maps.k, a->k, a->type, D, a->pos0 + a->n, head, a->G, all, KEYS,
                 1) ||
        make_map((map_maker)make, &maps.v, a->v, a->type, D, a->pos0 + a->n, head, a->G, all, KEYS,
                 1))
        return -1;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    return launch(kernel, dim3((unsigned)((a->n + ROWS - 1) / ROWS * a->H)),
                  dim3(128 * (GROUPS + 1)), (size_t)shared, stream, maps, *a,
                  (float)(1.4426950408889634 / sqrt((double)D)));
}

int cuda_prefill_wgmma(const struct cuda_prefill *a, cudaStream_t stream)
{
    if (cuda_device()->capability != 90) return 1;
    if (a->D != 64 && a->D != 128)
        return fail("prefill attention: head width %d: expected 64 or 128", a->D);
    if (a->type != DTYPE_BF16 && a->type != DTYPE_F16)
        return fail("prefill attention: %s: expected bf16 or f16", dtype_name(a->type));
    if (a->G < 1 || a->H < 1 || a->H % a->G != 0)
        return fail("prefill attention: %d query heads over %d kv heads", a->H, a->G);
    if (a->n < 1 || a->pos0 < 0 || a->n > a->room - a->pos0)
        return fail("prefill attention: rows %d .. %d + %d of %d", a->pos0, a->pos0, a->n, a->room);
    WITH_TYPE(a->type, {
        if (a->D == 128) return prefill_as<T, 128, 2, 128, 2, OVERLAP | TURNS | LAZY>(a, stream);
        return prefill_as<T, 64, 3, 128, 2, OVERLAP | TURNS | LAZY>(a, stream);
    });
}
