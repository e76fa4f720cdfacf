/* cuda_topk.cu - the exact choice of the best positions by score, ascending.
 *
 * The choice is a radix selection in one launch. The candidates of a set are cut into contiguous
 * ranges, one block each; all blocks of a launch are resident at once and meet at barriers in WORK:
 *
 *   1. keys: the score as an unsigned number of the same order (NaN 0, kept tokens above all); a
 *      histogram of their highest 12 bits, added up over the blocks, says in which bin the last
 *      selected key lies
 *   2. while that bin holds more keys than a list has room for: the same with the next 10 bits
 *   3. the keys of the bin go to a list, each with its position, so that no two are equal; every
 *      block finds the last selected one of the list for itself. Where more keys than fit are equal
 *      to the last bit, the counts of each block decide instead.
 *   4. every block writes its part of the result; where it starts follows from the counts and the
 *      list
 *
 * Nothing depends on the order in which blocks or threads arrive, but the order of the list, which
 * no result depends on.
 */
#include "core/ops/cuda_util.cuh"

enum {
    HIGH = 12, /* bits of the first digit: 8 bins for every power of two */
    BINS = 1 << HIGH,
    LOW = 10, /* bits of the digits after it; 12 + 10 + 10 = 32 */
    LOW_BINS = 1 << LOW,
    LISTED = 4096, /* keys of one bin that are listed */
    FEW = 128,     /* keys of the list that are ranked by comparing each with each */
    MEETINGS = 4,
    LINE = 32,         /* words between counters that are polled */
    MOST_BLOCKS = 128, /* of one launch; at most one per multiprocessor */
    SMALL = 8192,      /* candidates up to which one block is quicker than many that meet */
    EACH = 2048,       /* candidates of a block otherwise */
    THREADS = 512      /* at most, and a power of two from 256 on */
};

/* What the blocks of a set add up during a launch. There are two, used in turn: a launch zeroes
 * the one that the launch before it used. */
struct turn {
    unsigned arrived[MEETINGS][LINE], listed[LINE];
    unsigned hist[BINS + 2 * LOW_BINS];
};

/* A set's part of WORK. */
struct board {
    unsigned launches, pad[LINE - 1];
    struct turn turn[2];
    int above[MOST_BLOCKS], equal[MOST_BLOCKS];
    unsigned long long list[LISTED];
};

struct __align__(16) shared
{ /* and behind it the keys of the range, where they fit */
    unsigned hist[BINS];
    unsigned long long list[LISTED], few[FEW], border;
    int warp[32], before[32], before_equal[32], over[32], equal_in[32];
    int digit, need, inside;                /* what find() found */
    int above, equal, listed, n_few, start; /* counts of this block; its place in the list */
};

extern __shared__ __align__(16) unsigned char memory[];
static __device__ __forceinline__ struct shared *of_block(void)
{
    return reinterpret_cast<struct shared *>(memory);
}

/* The candidates of a set, [0, n), and the range [start, end) of this block. */
struct range {
    const float *score;
    size_t span;
    int pooled, n, start, end;
    int sinks, recent, recent_end; /* kept: [0, sinks) and [recent, recent_end) */
};

static __device__ __forceinline__ uint32_t order_key(float f)
{
    const uint32_t u = f == 0 ? 0 : __float_as_uint(f); /* -0 equals 0 */
    if (f != f) return 0;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ bool is_kept(const struct range *r, int t)
{
    return t < r->sinks || (t >= r->recent && t < r->recent_end);
}

static __device__ __forceinline__ uint32_t key_of(const struct range *r, int t, float score)
{
    return is_kept(r, t) ? 0xffffffffu : order_key(score);
}

/* Key of the candidate T. As in the plain definition of the maximum, a NaN in the first row stays
 * and one in a later row is passed over. */
static __device__ __forceinline__ uint32_t make_key(const struct range *r, int t)
{
    float best = 0;
    for (int p = 0; p < r->pooled; p += 8) {
        float x[8]; /* all loads before the first use */
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (p + j < r->pooled) x[j] = __ldcg(r->score + (size_t)(p + j) * r->span + t);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (p + j < r->pooled && (p + j == 0 || x[j] > best)) best = x[j];
    }
    return key_of(r, t, best);
}

/* Keys of the candidates T .. T + 3, those from n on without meaning. WIDE: rows are 16-byte
 * aligned. */
template <bool WIDE> static __device__ __forceinline__ uint4 make_keys(const struct range *r, int t)
{
    if (!WIDE || r->n - t < 4) {
        uint4 key = make_uint4(0, 0, 0, 0);
#pragma unroll 1
        for (int i = t; i < r->n && i < t + 4; i++) {
            const uint32_t k = make_key(r, i);
            key = make_uint4(i == t ? k : key.x, i == t + 1 ? k : key.y, i == t + 2 ? k : key.z,
                             i == t + 3 ? k : key.w);
        }
        return key;
    }
    float4 best = make_float4(0, 0, 0, 0);
    for (int p = 0; p < r->pooled; p += 8) {
        float4 x[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (p + j < r->pooled)
                x[j] = __ldcg(
                    reinterpret_cast<const float4 *>(r->score + (size_t)(p + j) * r->span + t));
        if (p == 0) best = x[0];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (p + j < r->pooled) {
                if (x[j].x > best.x) best.x = x[j].x;
                if (x[j].y > best.y) best.y = x[j].y;
                if (x[j].z > best.z) best.z = x[j].z;
                if (x[j].w > best.w) best.w = x[j].w;
            }
    }
    return make_uint4(key_of(r, t, best.x), key_of(r, t + 1, best.y), key_of(r, t + 2, best.z),
                      key_of(r, t + 3, best.w));
}

/* Keys of the vector V of the range: STORED in shared memory, or made anew. */
template <bool WIDE, bool STORED>
static __device__ __forceinline__ uint4 keys_of(const struct shared *s, const struct range *r,
                                                int v)
{
    if (STORED) return reinterpret_cast<const uint4 *>(s + 1)[v];
    return make_keys<WIDE>(r, r->start + 4 * v);
}

static __device__ __forceinline__ uint32_t key_at(const uint4 &x, int j)
{
    return j == 0 ? x.x : j == 1 ? x.y : j == 2 ? x.z : x.w;
}

/* How many of the vector V of the range are candidates of the range. */
static __device__ __forceinline__ int valid_of(const struct range *r, int v)
{
    const int left = r->end - r->start - 4 * v;
    return left < 4 ? left : 4;
}

/* ---- blocks that meet */

/* Waits until all BLOCKS of the set have come here; what they wrote before is then visible. */
static __device__ void meet(unsigned *arrived, unsigned blocks)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned seen;
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
        asm volatile("red.relaxed.gpu.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
        do {
            asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
        } while (seen < blocks);
    }
    __syncthreads();
}

static __device__ void clear(void *p, int bytes)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x)
        static_cast<uint4 *>(p)[i] = make_uint4(0, 0, 0, 0);
}

/* Adds the block's histogram to that of the set, meets the others and fetches the sum. */
static __device__ void add_up(struct shared *s, unsigned *hist, int bins, unsigned *arrived)
{
    if (gridDim.x == 1) return;
#pragma unroll 4
    for (int b = threadIdx.x; b < bins; b += blockDim.x)
        if (s->hist[b]) atomicAdd(&hist[b], s->hist[b]);
    meet(arrived, gridDim.x);
#pragma unroll 2
    for (int i = threadIdx.x; i < bins / 4; i += blockDim.x)
        reinterpret_cast<uint4 *>(s->hist)[i] = __ldcg(reinterpret_cast<const uint4 *>(hist) + i);
    __syncthreads();
}

/* In which bin of the histogram the NEED-th largest lies (s->digit), the how manieth of that bin it
 * is (s->need), and how many the bin holds (s->inside). BINS is a multiple of the threads. */
static __device__ __noinline__ void find(int bins, int need)
{
    struct shared *s = of_block();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, each = bins / (int)blockDim.x;
    const int first = bins - ((int)threadIdx.x + 1) * each; /* thread 0 has the highest bins */
    int sum = 0;
    if (each % 4 == 0)
#pragma unroll 2
        for (int j = 0; j < each; j += 4) {
            const uint4 x = *reinterpret_cast<const uint4 *>(&s->hist[first + j]);
            sum += (int)(x.x + x.y + x.z + x.w);
        }
    else
#pragma unroll 1
        for (int j = 0; j < each; j++) sum += (int)s->hist[first + j];
    int up_to = sum;
    for (int d = 1; d < 32; d <<= 1) {
        const int lower = __shfl_up_sync(0xffffffffu, up_to, d);
        if (lane >= d) up_to += lower;
    }
    if (lane == 31) s->warp[warp] = up_to;
    __syncthreads();
    up_to += __reduce_add_sync(0xffffffffu, lane < warp ? s->warp[lane] : 0);
    if (up_to - sum < need && need <= up_to) { /* one thread */
        int left = need - (up_to - sum), b = first + each - 1;
        while (left > (int)s->hist[b]) left -= (int)s->hist[b--];
        s->digit = b;
        s->need = left;
        s->inside = (int)s->hist[b];
    }
    __syncthreads();
}

/* ---- passes over the keys of a range */

/* Makes the keys and counts them by their highest digit. */
template <bool WIDE, bool STORED>
static __device__ void tally_first(struct shared *s, const struct range *r)
{
#pragma unroll 1
    for (int v = threadIdx.x; 4 * v < r->end - r->start; v += blockDim.x) {
        const uint4 x = make_keys<WIDE>(r, r->start + 4 * v);
        const int valid = valid_of(r, v);
        if (STORED) reinterpret_cast<uint4 *>(s + 1)[v] = x;
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (j < valid) atomicAdd(&s->hist[key_at(x, j) >> (32 - HIGH)], 1u);
    }
    __syncthreads();
}

/* Counts the keys whose bits from SHIFT on are PREFIX by the digit below. */
template <bool WIDE, bool STORED>
static __device__ void tally_next(struct shared *s, const struct range *r, uint32_t prefix,
                                  int shift)
{
    clear(s->hist, LOW_BINS * 4);
    __syncthreads();
#pragma unroll 1
    for (int v = threadIdx.x; 4 * v < r->end - r->start; v += blockDim.x) {
        const uint4 x = keys_of<WIDE, STORED>(s, r, v);
        const int valid = valid_of(r, v);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (j < valid && key_at(x, j) >> shift == prefix)
                atomicAdd(&s->hist[key_at(x, j) >> (shift - LOW) & (LOW_BINS - 1)], 1u);
    }
    __syncthreads();
}

/* The vectors of the range that are this warp's: whole warps walk over them in order. */
struct part {
    int from, to;
};
static __device__ __forceinline__ struct part part_of_warp(const struct range *r)
{
    const int vectors = (r->end - r->start + 3) / 4, warps = blockDim.x / 32;
    const int each = (vectors + warps - 1) / warps, from = (int)(threadIdx.x / 32) * each;
    const int to = from + each < vectors ? from + each : vectors;
    return {from, to};
}

/* Counts the keys above those whose bits from SHIFT on are PREFIX (s->above) and puts these into
 * s->list (LIST) or counts them too (s->equal). A key's entry grows with the key and falls with the
 * position, whose INDEX_BITS bits are the lowest. */
template <bool WIDE, bool STORED>
static __device__ void sort_out(struct shared *s, const struct range *r, uint32_t prefix, int shift,
                                int index_bits, bool list)
{
    const int lane = threadIdx.x & 31;
    const unsigned lower = (1u << lane) - 1, mask = (1u << index_bits) - 1;
    const struct part p = part_of_warp(r);
    int above = 0, equal = 0;
#pragma unroll 1
    for (int v0 = p.from; v0 < p.to; v0 += 32) {
        const int v = v0 + lane, valid = v < p.to ? valid_of(r, v) : 0;
        const uint4 x = v < p.to ? keys_of<WIDE, STORED>(s, r, v) : make_uint4(0, 0, 0, 0);
        unsigned in[4];
        int all = 0, at = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            above += j < valid && key_at(x, j) >> shift > prefix;
            in[j] = __ballot_sync(0xffffffffu, j < valid && key_at(x, j) >> shift == prefix);
            all += __popc(in[j]);
        }
        equal += lane == 0 ? all : 0;
        if (!list || all == 0) continue;
        if (lane == 0) at = atomicAdd(&s->listed, all);
        at = __shfl_sync(0xffffffffu, at, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const unsigned t = (unsigned)(r->start + 4 * v + j);
            if (in[j] >> lane & 1)
                s->list[at + __popc(in[j] & lower)] =
                    (unsigned long long)key_at(x, j) << index_bits | (mask - t);
            at += __popc(in[j]);
        }
    }
    above = __reduce_add_sync(0xffffffffu, above);
    if (lane == 0) {
        atomicAdd(&s->above, above);
        atomicAdd(&s->equal, equal);
    }
    __syncthreads();
}

/* The NEED-th largest of the COUNT entries of s->list, which differ only in their lowest OPEN bits
 * and are all distinct. */
static __device__ unsigned long long nth_listed(struct shared *s, int count, int need, int open)
{
    unsigned long long known = s->list[0] >> open << open; /* the bits from OPEN on */
    int left = count;
    while (left > FEW) {
        const int bits = open < LOW ? open : LOW, shift = open - bits;
        clear(s->hist, LOW_BINS * 4);
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < count; i += blockDim.x)
            if ((s->list[i] ^ known) >> open == 0)
                atomicAdd(&s->hist[s->list[i] >> shift & ((1u << bits) - 1)], 1u);
        __syncthreads();
        find(LOW_BINS, need);
        known |= (unsigned long long)s->digit << shift;
        need = s->need;
        left = s->inside;
        open = shift;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += blockDim.x)
        if ((s->list[i] ^ known) >> open == 0) s->few[atomicAdd(&s->n_few, 1)] = s->list[i];
    __syncthreads();
    if ((int)threadIdx.x < left) {
        const unsigned long long mine = s->few[threadIdx.x];
        int larger = 0;
#pragma unroll 4
        for (int i = 0; i < left; i++) larger += s->few[i] > mine;
        if (larger == need - 1) s->border = mine;
    }
    __syncthreads();
    return s->border;
}

/* Writes the range's part of the selection: entries from BORDER on, and of the keys EQUAL (with
 * TIES) the first NEED of the whole set. BEFORE and BEFORE_EQUAL, added up over the threads, are
 * the numbers of such entries and keys in the ranges before. */
template <bool WIDE, bool STORED>
static __device__ void write_out(struct shared *s, const struct range *r, int *out,
                                 unsigned long long border, int index_bits, bool ties,
                                 uint32_t equal, int need, int before, int before_equal)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x / 32;
    const unsigned mask = (1u << index_bits) - 1;
    const struct part p = part_of_warp(r);
    int over_at = 0, equal_at = 0;

#pragma unroll 1
    for (int step = 0; step < 2; step++) { /* first to count, then to write */
#pragma unroll 1
        for (int v0 = p.from; v0 < p.to; v0 += 32) {
            const int v = v0 + lane, valid = v < p.to ? valid_of(r, v) : 0;
            const uint4 x = v < p.to ? keys_of<WIDE, STORED>(s, r, v) : make_uint4(0, 0, 0, 0);
            unsigned over = 0, even = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const unsigned t = (unsigned)(r->start + 4 * v + j);
                const uint32_t key = key_at(x, j);
                const bool is_over = ((unsigned long long)key << index_bits | (mask - t)) >= border;
                if (j < valid && is_over) over |= 1u << j;
                if (j < valid && ties && !is_over && key == equal) even |= 1u << j;
            }
            if (step == 0) {
                over_at += __popc(over);
                equal_at += __popc(even);
                continue;
            }
            const int mine = __popc(over) | __popc(even) << 16;
            int up_to = mine;
            for (int d = 1; d < 32; d <<= 1) {
                const int y = __shfl_up_sync(0xffffffffu, up_to, d);
                if (lane >= d) up_to += y;
            }
            const int all = __shfl_sync(0xffffffffu, up_to, 31);
            int o = over_at + ((up_to - mine) & 0xffff), e = equal_at + ((up_to - mine) >> 16);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int t = r->start + 4 * v + j;
                if (over >> j & 1) out[o++ + min(e, need)] = t;
                if (even >> j & 1) {
                    if (e < need) out[o + e] = t;
                    e++;
                }
            }
            over_at += all & 0xffff;
            equal_at += all >> 16;
        }
        if (step == 1) return;
        over_at = __reduce_add_sync(0xffffffffu, over_at);
        equal_at = __reduce_add_sync(0xffffffffu, equal_at);
        before = __reduce_add_sync(0xffffffffu, before);
        before_equal = __reduce_add_sync(0xffffffffu, before_equal);
        if (lane == 0) {
            s->over[warp] = over_at;
            s->equal_in[warp] = equal_at;
            s->before[warp] = before;
            s->before_equal[warp] = before_equal;
        }
        __syncthreads();
        over_at = __reduce_add_sync(0xffffffffu, (lane < warps ? s->before[lane] : 0) +
                                                     (lane < warp ? s->over[lane] : 0));
        equal_at = __reduce_add_sync(0xffffffffu, (lane < warps ? s->before_equal[lane] : 0) +
                                                      (lane < warp ? s->equal_in[lane] : 0));
    }
}

/* The candidates of this step and this block's range of them; how many are selected in all. */
static __device__ __forceinline__ struct range range_of(const struct cuda_select *a, int pos,
                                                        int *count)
{
    struct range r = {};
    int recent = a->recent;
    if (a->window > 0) {
        const int inside = a->n_prefill - (pos - a->window + 1);
        if (inside > recent) recent = inside;
    }
    recent = min(recent, a->n_prefill);
    r.recent = a->n_prefill - recent;
    r.recent_end = a->n_prefill;
    r.sinks = min(a->sinks, r.recent);
    r.n = a->candidates_all ? pos : a->n_prefill;
    *count = min(max(a->budget, recent + r.sinks + 1), r.n);

    const int each = ((r.n + (int)gridDim.x - 1) / (int)gridDim.x + 3) & ~3;
    r.start = min((int)blockIdx.x * each, r.n);
    r.end = min(r.start + each, r.n);
    r.score = a->score + (size_t)blockIdx.y * (size_t)a->pooled * a->span;
    r.span = a->span;
    r.pooled = a->pooled;
    return r;
}

/* Grid [blocks, sets]. STORED: shared memory has room for the keys of a range. */
template <bool WIDE, bool STORED>
static __global__ void __launch_bounds__(THREADS, 1) select_kernel(struct cuda_select a)
{
    struct shared *s = of_block();
    struct board *board = static_cast<struct board *>(a.work) + blockIdx.y;
    const bool many = gridDim.x > 1;
    int count;

    pdl_trigger();
    clear(s->hist, sizeof s->hist);
    if (threadIdx.x == 0) s->above = s->equal = s->listed = s->n_few = s->start = 0;
    pdl_wait();
    /* Every thread has read `launches` before its block arrives at the first meeting. */
    const unsigned launches = many ? __ldcg(&board->launches) : 0;
    const bool moves = a.candidates_all || a.window > 0 || a.refresh > 1; /* with the position */
    const int pos = moves && a.pos ? __ldcg(a.pos) : a.n_prefill;
    if ((pos - a.n_prefill) % a.refresh != 0) return;
    const struct range r = range_of(&a, pos, &count);
    int *out = a.idx + (size_t)blockIdx.y * (size_t)a.stride;
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        if (a.count) *a.count = count;
        if (a.tail) *a.tail = r.n;
    }
    if (count == r.n) {
        for (int t = r.start + (int)threadIdx.x; t < r.end; t += blockDim.x) out[t] = t;
        return;
    }

    struct turn *turn = &board->turn[launches & 1], *next = &board->turn[~launches & 1];
    __syncthreads();
    tally_first<WIDE, STORED>(s, &r);
    if (many)
#pragma unroll 1
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < (int)(sizeof *next / 16);
             i += gridDim.x * blockDim.x)
            reinterpret_cast<uint4 *>(next)[i] = make_uint4(0, 0, 0, 0);
    add_up(s, turn->hist, BINS, turn->arrived[0]);
    if (many && blockIdx.x == 0 && threadIdx.x == 0) board->launches = launches + 1;
    find(BINS, count);
    uint32_t prefix = (uint32_t)s->digit; /* of the last selected key, its bits from SHIFT on */
    int shift = 32 - HIGH, need = s->need, inside = s->inside;
    for (int pass = 1; inside > LISTED && shift > 0; pass++) {
        tally_next<WIDE, STORED>(s, &r, prefix, shift);
        add_up(s, turn->hist + BINS + (pass - 1) * LOW_BINS, LOW_BINS, turn->arrived[pass]);
        find(LOW_BINS, need);
        prefix = prefix << LOW | (uint32_t)s->digit;
        shift -= LOW;
        need = s->need;
        inside = s->inside;
    }

    /* Now NEED of the INSIDE keys with that prefix are selected, and all above. */
    const bool ties = inside > LISTED;
    const int index_bits = 32 - __clz(r.n - 1);
    int before = 0, before_equal = 0;
    sort_out<WIDE, STORED>(s, &r, prefix, shift, index_bits, !ties);
    if (many) {
        const int n = s->listed;
        if (threadIdx.x == 0) {
            board->above[blockIdx.x] = s->above;
            board->equal[blockIdx.x] = s->equal;
            if (n > 0) s->start = (int)atomicAdd(&turn->listed[0], (unsigned)n);
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < n; i += blockDim.x) board->list[s->start + i] = s->list[i];
        meet(turn->arrived[MEETINGS - 1], gridDim.x);
        if (threadIdx.x < blockIdx.x) {
            before = __ldcg(&board->above[threadIdx.x]);
            before_equal = ties ? __ldcg(&board->equal[threadIdx.x]) : 0;
        }
        if (!ties)
#pragma unroll 4
            for (int i = threadIdx.x; i < inside; i += blockDim.x)
                s->list[i] = __ldcg(&board->list[i]);
        __syncthreads();
    }

    unsigned long long border = (unsigned long long)prefix + 1 << index_bits;
    if (!ties) {
        const unsigned mask = (1u << index_bits) - 1;
        border = nth_listed(s, inside, need, shift + index_bits);
#pragma unroll 1
        for (int i = threadIdx.x; i < inside; i += blockDim.x)
            before += s->list[i] >= border && (int)(mask - (unsigned)(s->list[i] & mask)) < r.start;
    }
    write_out<WIDE, STORED>(s, &r, out, border, index_bits, ties, prefix, need, before,
                            before_equal);
}

/* Launches the selection with blocks of THREADS threads that have about EACH candidates. */
static int run_select(const struct cuda_select *a, int small, int each, int threads,
                      cudaStream_t stream)
{
    const struct cuda_device *device = cuda_device();
    const int most = a->candidates_all ? a->most : a->n_prefill;
    const int all = device->sms < MOST_BLOCKS ? device->sms : MOST_BLOCKS;
    int blocks = most <= small ? 1 : (most + each - 1) / each;
    if (blocks > all / a->sets) blocks = all / a->sets;
    if (blocks < 1) blocks = 1;
    const size_t keys = (size_t)((most + blocks - 1) / blocks + 3) / 4 * 16;
    const bool stored = sizeof(struct shared) + keys <= device->shared;
    const bool wide = a->span % 4 == 0 && reinterpret_cast<uintptr_t>(a->score) % 16 == 0;
    const size_t bytes = sizeof(struct shared) + (stored ? keys : 0);
    void (*kernel)(struct cuda_select) =
        wide ? (stored ? select_kernel<true, true> : select_kernel<true, false>)
             : (stored ? select_kernel<false, true> : select_kernel<false, false>);

    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return launch(kernel, dim3((unsigned)blocks, (unsigned)a->sets), dim3((unsigned)threads), bytes,
                  stream, *a);
}

size_t cuda_select_work(int sets, int most)
{
    (void)most;
    return (size_t)sets * sizeof(struct board);
}

int cuda_select_row(const struct cuda_select *a, cudaStream_t stream)
{
    const int most = a->candidates_all ? a->most : a->n_prefill;
    if (a->sets < 1 || a->sets > 65535 || a->pooled < 1 || most < 1 || a->span < (size_t)most)
        return fail("selection: %d sets of %d rows of %d candidates, span %zu", a->sets, a->pooled,
                    most, a->span);
    if (a->budget < 1 || a->sinks < 0 || a->recent < 0 || a->window < 0 || a->refresh < 1)
        return fail("selection: budget %d, sinks %d, recent %d, window %d, refresh %d", a->budget,
                    a->sinks, a->recent, a->window, a->refresh);
    /* the step after the prefill keeps the most */
    int recent = a->window - 1 > a->recent ? a->window - 1 : a->recent;
    if (recent > a->n_prefill) recent = a->n_prefill;
    const int sinks = a->sinks < a->n_prefill - recent ? a->sinks : a->n_prefill - recent;
    int largest = a->budget > recent + sinks ? a->budget : recent + sinks + 1;
    if (largest > most) largest = most;
    if (a->stride < largest)
        return fail("selection: up to %d positions, stride %d", largest, a->stride);
    return run_select(a, SMALL, EACH, THREADS, stream);
}

int cuda_top_k(int *idx, const float *score, int T, int k, void *work, cudaStream_t stream)
{
    if (k < 1 || k > T) return fail("top k: %d of %d", k, T);
    struct cuda_select a = {};
    a.idx = idx;
    a.score = score;
    a.span = 4; /* of one row: only says that it may be read 4 at a time */
    a.n_prefill = T;
    a.sets = a.pooled = a.refresh = 1;
    a.stride = a.budget = k;
    a.work = work;
    return run_select(&a, SMALL, EACH, THREADS, stream);
}
