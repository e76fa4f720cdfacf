/* cuda_heavy.cu - H2O's step: each KV head's list loses the position of least accumulated attention
 * and gains the one just decoded; and what a prefill that evicts sees, in one piece.
 *
 * What a step leaves is decided after its attention (cuda_heavy_note) and becomes the list before
 * the next one (cuda_heavy_move): in between the list is still what the step saw. Lists are cut
 * into ranges of RANGE entries, one block each. Moving entries down by one, a block needs the first
 * entry of the next range, which its owner may have overwritten by then: the first kernel puts
 * those aside.
 */
#include "core/ops/cuda_util.cuh"

enum { RANGE = 512 }; /* a thread each */

/* What a step leaves to the move after it: for each KV head and range the least of its candidates,
 * as weight << 32 | ~entry, and its first entry. */
struct next {
    int pos;   /* of the step; NO_STEP: none since the list was made */
    int count; /* of the list the step saw */
    int pad[2];
};
enum { NO_STEP = -2 };

static __host__ __device__ __forceinline__ int ranges_of(int stride)
{
    return (stride - 1) / RANGE + 1;
}
static __device__ __forceinline__ unsigned long long *least_of(struct next *n)
{
    return reinterpret_cast<unsigned long long *>(n + 1);
}
static __device__ __forceinline__ int *edge_of(struct next *n, int G, int ranges)
{
    return reinterpret_cast<int *>(least_of(n) + (size_t)G * ranges);
}

size_t cuda_heavy_next(int G, int stride)
{
    return sizeof(struct next) +
           (size_t)G * ranges_of(stride) * (sizeof(unsigned long long) + sizeof(int));
}

/* The least over the block; thread 0 gets it. */
static __device__ unsigned long long block_min(unsigned long long x)
{
    __shared__ unsigned long long of_warp[RANGE / 32];
    const int lane = threadIdx.x % 32;
    for (int d = 16; d > 0; d >>= 1) {
        const unsigned long long y = __shfl_xor_sync(0xffffffffu, x, d);
        x = y < x ? y : x;
    }
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < RANGE / 32; i++) x = of_warp[i] < x ? of_warp[i] : x;
    return x;
}

/* Grid [ranges, G]: entries 0 .. *count - 1 are the list, entry *count is *pos. */
static __global__ void __launch_bounds__(RANGE)
    note_kernel(struct cuda_heavy a, const float *logits, size_t wide, const float *lse)
{
    enum { HEADS = 4 }; /* all loads of so many before the first use */
    const int g = blockIdx.y, ranges = gridDim.x, R = a.H / a.G;
    struct next *next = static_cast<struct next *>(a.next);

    pdl_trigger();
    pdl_wait();
    const int count = __ldcg(a.count), pos = __ldcg(a.pos), first = (int)blockIdx.x * RANGE;
    if (first > count) return;
    const int i = first + (int)threadIdx.x;
    unsigned long long least = ~0ull;
    if (i <= count) {
        const int t = i < count ? __ldcg(&a.idx[(size_t)g * a.stride + i]) : pos;
        float *sums = a.sums + (size_t)g * R * a.span + t, weight = 0; /* sums are at least 0 */
        logits += (size_t)g * R * wide + i;
        for (int h = 0; h < R; h += HEADS) {
            float now[HEADS], more[HEADS], off[HEADS];
#pragma unroll
            for (int j = 0; j < HEADS; j++)
                if (h + j < R) {
                    now[j] = __ldcg(&sums[(h + j) * a.span]);
                    more[j] = __ldcg(&logits[(h + j) * wide]);
                    off[j] = __ldcg(&lse[g * R + h + j]);
                }
#pragma unroll
            for (int j = 0; j < HEADS; j++)
                if (h + j < R) {
                    now[j] += expf(more[j] - off[j]);
                    sums[(h + j) * a.span] = now[j];
                    weight = fmaxf(weight, now[j]);
                }
        }
        if (i < count + 1 - a.recent)
            least = (unsigned long long)__float_as_uint(weight) << 32 | (unsigned)~i;
        if (i == first) edge_of(next, a.G, ranges)[g * ranges + blockIdx.x] = t;
    }
    least = block_min(least);
    if (threadIdx.x > 0) return;
    least_of(next)[g * ranges + blockIdx.x] = least;
    if (blockIdx.x == 0 && g == 0) {
        next->pos = pos;
        next->count = count;
    }
}

/* Grid [ranges, G]. */
static __global__ void __launch_bounds__(RANGE) move_kernel(struct cuda_heavy a)
{
    __shared__ unsigned least; /* ~ the entry */
    const int g = blockIdx.y, ranges = gridDim.x;
    struct next *next = static_cast<struct next *>(a.next);

    pdl_trigger();
    pdl_wait();
    const int pos = __ldcg(&next->pos), count = __ldcg(&next->count);
    const int first = (int)blockIdx.x * RANGE, i = first + (int)threadIdx.x;
    if (pos != __ldcg(a.pos) - 1 || first > count) return;
    int *idx = a.idx + (size_t)g * a.stride;
    const bool full = count + 1 > a.most;
    int gone = count + 1; /* the entry that goes: none */
    if (full) {
        unsigned long long x = ~0ull;
        for (int b = threadIdx.x; b <= count / RANGE; b += RANGE) {
            const unsigned long long y = __ldcg(&least_of(next)[g * ranges + b]);
            x = y < x ? y : x;
        }
        x = block_min(x);
        if (threadIdx.x == 0) least = (unsigned)x;
        __syncthreads();
        gone = (int)~least;
    }
    const int end = full ? count : count + 1; /* of the list from now on */
    const int from = i < gone ? i : i + 1;
    int t = 0;
    if (i < end)
        t = from == count ? pos
            : from == first + RANGE
                ? __ldcg(&edge_of(next, a.G, ranges)[g * ranges + blockIdx.x + 1])
                : __ldcg(&idx[from]);
    __syncthreads(); /* all is read before any is moved */
    if (i < end) idx[i] = t;
    if (blockIdx.x == 0 && g == 0 && threadIdx.x == 0) { /* nobody reads these here */
        *a.count = end;
        *a.tail = pos + 1;
    }
}

/* Grid [.., G]. */
static __global__ void __launch_bounds__(RANGE)
    fill_kernel(struct cuda_heavy a, int heavy, int recent, int n)
{
    int *idx = a.idx + (size_t)blockIdx.y * a.stride + heavy;
    pdl_trigger();
    pdl_wait();
    for (int i = (int)(blockIdx.x * RANGE + threadIdx.x); i < recent; i += gridDim.x * RANGE)
        idx[i] = n - recent + i;
    if (blockIdx.x > 0 || blockIdx.y > 0 || threadIdx.x > 0) return;
    *a.count = heavy + recent;
    *a.tail = n;
    if (a.next) static_cast<struct next *>(a.next)->pos = NO_STEP;
}

/* ---- a prefill that evicts: N entries, of which the first LISTED are listed and the others follow
 * each other from TAIL on */

struct seen {
    int listed, tail, n;
};

static __device__ __forceinline__ int position(const int *idx, const struct seen &s, int i)
{
    return i < s.listed ? __ldcg(&idx[i]) : s.tail + i - s.listed;
}

/* Grid [.., G]; rows of CHUNKS 16-byte pieces, a thread each. */
static __global__ void __launch_bounds__(RANGE)
    pack_kernel(struct cuda_heavy a, uint4 *to, const uint4 *k, const uint4 *v, int room,
                int chunks, struct seen s)
{
    const size_t g = blockIdx.y, all = (size_t)s.n * chunks;
    pdl_trigger();
    pdl_wait();
    k += g * room * chunks;
    v += g * room * chunks;
    uint4 *to_k = to + g * all, *to_v = to + ((size_t)a.G + g) * all;
    for (size_t i = blockIdx.x * RANGE + threadIdx.x; i < all; i += (size_t)gridDim.x * RANGE) {
        const size_t from =
            (size_t)position(a.idx + g * a.stride, s, (int)(i / chunks)) * chunks + i % chunks;
        to_k[i] = __ldcg(&k[from]);
        to_v[i] = __ldcg(&v[from]);
    }
}

/* Grid [.., H]. A position is one entry of a list only. */
static __global__ void __launch_bounds__(RANGE)
    add_kernel(struct cuda_heavy a, float *more, size_t more_span, const float *weights,
               size_t wide, struct seen s)
{
    const size_t h = blockIdx.y;
    const int *idx = a.idx + h / (a.H / a.G) * a.stride;
    pdl_trigger();
    pdl_wait();
    for (int i = (int)(blockIdx.x * RANGE + threadIdx.x); i < s.n; i += gridDim.x * RANGE) {
        const int t = position(idx, s, i);
        const float w = __ldcg(&weights[h * wide + i]);
        float *const sum = a.sums + h * a.span + t;
        *sum = __ldcg(sum) + w;
        if (more) {
            float *const also = more + h * more_span + t;
            *also = __ldcg(also) + w;
        }
    }
}

static int check(const struct cuda_heavy *a)
{
    if (a->G < 1 || a->G > 65535 || a->H < 1 || a->H % a->G)
        return fail("heavy hitters: %d query heads on %d kv heads", a->H, a->G);
    if (a->most < 1 || a->recent < 0 || a->recent > a->most || a->stride < a->most)
        return fail("heavy hitters: %d positions, the last %d always, stride %d", a->most,
                    a->recent, a->stride);
    return 0;
}

int cuda_heavy_fill(const struct cuda_heavy *a, int heavy, int recent, int n, cudaStream_t stream)
{
    const int blocks = (recent + RANGE - 1) / RANGE;
    if (check(a)) return -1;
    if (heavy < 0 || recent < 0 || heavy + recent > a->most || heavy + recent > n)
        return fail("heavy hitters: %d and %d of %d positions, room for %d", heavy, recent, n,
                    a->most);
    return launch(fill_kernel,
                  dim3((unsigned)(blocks < 1    ? 1
                                  : blocks > 64 ? 64
                                                : blocks),
                       a->G),
                  dim3(RANGE), 0, stream, *a, heavy, recent, n);
}

int cuda_heavy_note(const struct cuda_heavy *a, const float *logits, size_t wide, const float *lse,
                    cudaStream_t stream)
{
    if (check(a)) return -1;
    if (a->stride <= a->most || wide < (size_t)a->most)
        return fail("heavy hitters: %d positions and the step's own: stride %d, %zu logits",
                    a->most, a->stride, wide);
    return launch(note_kernel, dim3((unsigned)ranges_of(a->stride), a->G), dim3(RANGE), 0, stream,
                  *a, logits, wide, lse);
}

int cuda_heavy_move(const struct cuda_heavy *a, cudaStream_t stream)
{
    if (check(a)) return -1;
    return launch(move_kernel, dim3((unsigned)ranges_of(a->stride), a->G), dim3(RANGE), 0, stream,
                  *a);
}

static int check_seen(const struct cuda_heavy *a, int listed, int tail, int n)
{
    if (check(a)) return -1;
    if (listed < 0 || listed > a->most || tail < listed || n <= listed ||
        (size_t)tail + (size_t)(n - listed) > a->span)
        return fail("heavy hitters: %d of the first %d positions and %d more, of %zu", listed, tail,
                    n - listed, a->span);
    return 0;
}

int cuda_heavy_pack(const struct cuda_heavy *a, void *to, const void *k, const void *v, int room,
                    int D, int listed, int tail, int n, cudaStream_t stream)
{
    const struct seen s = {listed, tail, n};
    if (check_seen(a, listed, tail, n)) return -1;
    if (D < 8 || D % 8 || tail + n - listed > room)
        return fail("heavy hitters: head width %d, %d positions of %d", D, tail + n - listed, room);
    const size_t blocks = ((size_t)n * (D / 8) + RANGE - 1) / RANGE;
    return launch(pack_kernel, dim3((unsigned)(blocks < 1024 ? blocks : 1024), a->G), dim3(RANGE),
                  0, stream, *a, (uint4 *)to, (const uint4 *)k, (const uint4 *)v, room, D / 8, s);
}

int cuda_heavy_add(const struct cuda_heavy *a, float *more, size_t more_span, const float *weights,
                   size_t wide, int listed, int tail, int n, cudaStream_t stream)
{
    const struct seen s = {listed, tail, n};
    if (check_seen(a, listed, tail, n)) return -1;
    if (a->H > 65535 || wide < (size_t)n || (more && more_span < (size_t)(tail + n - listed)))
        return fail("heavy hitters: %d entries: weights for %zu, sums for %zu", n, wide, more_span);
    const int blocks = (n - 1) / RANGE + 1;
    return launch(add_kernel, dim3((unsigned)(blocks < 256 ? blocks : 256), a->H), dim3(RANGE), 0,
                  stream, *a, more, more_span, weights, wide, s);
}
