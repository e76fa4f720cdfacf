/* cuda_far.cu - attention that keeps its distances: everything around the attention itself.
 *
 * Keys in the cache stand at their own positions, and are turned back from there in float32 with
 * the rotations that turned them, so that the error of an angle cancels. What a rotation is scaled
 * by (yarn) stays in the key and in the query, as it would at any other position.
 */
#include "core/ops/cuda_util.cuh"
extern "C" {
#include "core/ops/cuda_far.h"
}

#include <math.h>

enum { THREADS = 256, WARPS = THREADS / 32 };

/* ---- rotation */

/* A pair of a head's values, turned from the angle of (c, s) to 0. */
static __device__ __forceinline__ float2 turn_back(float u, float w, float c, float s)
{
    const float unit = 1 / sqrtf(c * c + s * s);
    return make_float2((u * c + w * s) * unit, (w * c - u * s) * unit);
}

/* And on to that of (c, s), which have no factor. */
static __device__ __forceinline__ float2 turn_on(float2 x, float c, float s)
{
    return make_float2(x.x * c - x.y * s, x.y * c + x.x * s);
}

static __global__ void target_kernel(float *target, const float *cosine, const float *sine,
                                     int room, int position, int half)
{
    const int d = threadIdx.x, most = room - 1;
    double c = 1, s = 0;
    while (position > 0) { /* angles add up: past the tables in steps of their last */
        const int step = min(position, most);
        const double a = cosine[(size_t)step * half + d], b = sine[(size_t)step * half + d];
        const double unit = 1 / sqrt(a * a + b * b), x = a * unit, y = b * unit, old = c;
        c = old * x - s * y;
        s = old * y + s * x;
        position -= step;
    }
    target[d] = (float)c;
    target[half + d] = (float)s;
}

int cuda_far_target(float *target, const float *cosine, const float *sine, int room, int position,
                    int D, cudaStream_t stream)
{
    if (room < 2 || position < 0)
        return fail("rotation to position %d: %d positions are known, expected 2 at least",
                    position, room);
    target_kernel<<<1, D / 2, 0, stream>>>(target, cosine, sine, room, position, D / 2);
    CUDA_TRY(cudaGetLastError());
    return 0;
}

template <class T> static __device__ __forceinline__ void unpack_8(float *x, uint4 v)
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 f = unpack<T>(w[i]);
        x[2 * i] = f.x, x[2 * i + 1] = f.y;
    }
}
template <class T> static __device__ __forceinline__ uint4 pack_8(const float *x)
{
    return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]),
                      pack<T>(x[6], x[7]));
}

/* A thread has 8 values of the first half of a head and their partners in the second. */
template <class T>
static __global__ void __launch_bounds__(THREADS) turn_kernel(struct cuda_far_turn a)
{
    const int half = a.D / 2, lanes = a.D / 16;
    const size_t item = (size_t)blockIdx.x * THREADS + threadIdx.x, head = item / lanes;
    const int d = (int)(item % lanes) * 8;
    if (head >= (size_t)a.n * a.heads) return;
    const size_t r = head / a.heads, h = head % a.heads;
    const T *in = (const T *)a.in + r * a.in_row + h * a.in_head + d;
    T *out = (T *)a.out + r * a.out_row + h * a.out_head + d;
    const float *c = a.cosine + (a.pos0 + r) * half + d, *s = a.sine + (a.pos0 + r) * half + d;
    float x[8], y[8];
    unpack_8<T>(x, *(const uint4 *)in);
    unpack_8<T>(y, *(const uint4 *)(in + half));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float2 z = turn_back(x[i], y[i], c[i], s[i]);
        if (a.target) z = turn_on(z, a.target[d + i], a.target[half + d + i]);
        x[i] = z.x, y[i] = z.y;
    }
    *(uint4 *)out = pack_8<T>(x);
    *(uint4 *)(out + half) = pack_8<T>(y);
}

static int check_shape(const char *what, int H, int G, int D, enum dtype type)
{
    if (D != 64 && D != 128)
        return fail("%s: head_dim %d: the CUDA kernels take 64 and 128", what, D);
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("%s: type %s: expected bf16 or f16", what, dtype_name(type));
    if (G < 1 || H < 1 || H % G) return fail("%s: %d query heads on %d kv heads", what, H, G);
    return 0;
}

int cuda_far_turn(const struct cuda_far_turn *a, cudaStream_t stream)
{
    if (check_shape("turning of rows", a->heads, 1, a->D, a->type)) return -1;
    if (a->n < 1) return 0;
    const size_t items = (size_t)a->n * a->heads * (a->D / 16);
    const unsigned blocks = (unsigned)((items + THREADS - 1) / THREADS);
    WITH_TYPE(a->type, turn_kernel<T><<<blocks, THREADS, 0, stream>>>(*a));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- means of groups: block (group, 256 columns), 32 of whose threads are 8 columns each, while
 * the 8 warps share the rows */

template <class T>
static __global__ void __launch_bounds__(THREADS)
    means_kernel(float *means, const T *x, int n, int pos0, int group, int width)
{
    __shared__ float part[WARPS][32 * 8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, col = blockIdx.y * 256 + 8 * lane;
    const int first = max(0, ((int)(pos0 / group) + (int)blockIdx.x) * group - pos0);
    const int end = min(n, (pos0 / group + (int)blockIdx.x + 1) * group - pos0);
    float sum[8] = {};
    if (col < width)
        for (int r = first + warp; r < end; r += WARPS) {
            float v[8];
            unpack_8<T>(v, *(const uint4 *)(x + (size_t)r * width + col));
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    for (int i = 0; i < 8; i++) part[warp][8 * lane + i] = sum[i];
    __syncthreads();
    const int c = blockIdx.y * 256 + threadIdx.x;
    float all = 0;
    for (int i = 0; i < WARPS; i++) all += part[i][threadIdx.x];
    if (c < width) means[(size_t)blockIdx.x * width + c] = all / (float)(end - first);
}

int cuda_far_means(float *means, const void *x, int n, int pos0, int group, int width,
                   enum dtype type, cudaStream_t stream)
{
    if (width % 8 || group < 1 || n < 1)
        return fail("means of groups of %d of %d rows of width %d", group, n, width);
    const dim3 grid((unsigned)((pos0 + n - 1) / group - pos0 / group + 1),
                    (unsigned)((width + 255) / 256));
    WITH_TYPE(type, (means_kernel<T>
                     <<<grid, THREADS, 0, stream>>>(means, (const T *)x, n, pos0, group, width)));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- scores of blocks: a warp for each, the query in shared memory */

template <class T>
static __device__ void score_blocks(float *score, const float *q, const T *reps, int blocks,
                                    int width)
{
    const int lane = threadIdx.x % 32, warps = gridDim.x * WARPS;
    for (int b = blockIdx.x * WARPS + threadIdx.x / 32; b < blocks; b += warps) {
        const T *rep = reps + (size_t)b * width;
        float sum = 0;
#pragma unroll 4
        for (int i = 8 * lane; i < width; i += 256) {
            float r[8];
            unpack_8<T>(r, __ldcg((const uint4 *)(rep + i)));
#pragma unroll
            for (int j = 0; j < 8; j++) sum = fmaf(q[i + j], r[j], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) score[b] = sum;
    }
}

static unsigned grid_of(int blocks)
{
    const int wanted = (blocks + WARPS - 1) / WARPS, most = 2 * cuda_device()->sms;
    return (unsigned)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    scores_kernel(float *score, const float *q, const T *reps, int blocks, int width)
{
    extern __shared__ float query[];
    for (int i = threadIdx.x; i < width; i += THREADS) query[i] = q[i];
    __syncthreads();
    score_blocks<T>(score, query, reps, blocks, width);
}

int cuda_far_scores(float *score, const float *q, const void *reps, int blocks, int H, int D,
                    enum dtype type, cudaStream_t stream)
{
    if (check_shape("scores of blocks", H, 1, D, type)) return -1;
    if (blocks < 1) return 0;
    const size_t shared = (size_t)H * D * sizeof(float);
    WITH_TYPE(type, {
        CUDA_TRY(cudaFuncSetAttribute(scores_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared));
        scores_kernel<T><<<grid_of(blocks), THREADS, shared, stream>>>(score, q, (const T *)reps,
                                                                       blocks, H * D);
    });
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- the first kernel of a step */

static __device__ __forceinline__ int blocks_at(int T, int n_init, int n_local, int block, int most)
{
    const int past = T - n_init - n_local;
    return past < block ? 0 : min(past / block, most);
}

/* The token at P takes its place in the list planes. All threads of one block. */
template <class T> static __device__ void list_token(const struct cuda_far_step &a, int p)
{
    const int half = a.D / 2, row = p < a.n_init ? p : p - a.shift;
    const float *c = a.cosine + (size_t)p * half, *s = a.sine + (size_t)p * half;
    for (int i = threadIdx.x; i < a.G * half; i += THREADS) {
        const int g = i / half, d = i % half;
        const size_t from = ((size_t)g * a.room + (p - a.base)) * a.D + d;
        const size_t to = ((size_t)g * a.list_room + row) * a.D + d;
        const T *k = (const T *)a.k + from, *v = (const T *)a.v + from;
        T *list_k = (T *)a.list_k + to, *list_v = (T *)a.list_v + to;
        const float2 x = turn_back(to_float(k[0]), to_float(k[half]), c[d], s[d]);
        list_k[0] = from_float<T>(x.x);
        list_k[half] = from_float<T>(x.y);
        if (a.list_v) list_v[0] = v[0], list_v[half] = v[half];
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS) step_kernel(struct cuda_far_step a)
{
    extern __shared__ float query[];
    pdl_trigger();
    pdl_wait();
    const int pos = *a.pos, half = a.D / 2, gone = pos - a.n_local;
    for (int i = threadIdx.x; i < a.H * half; i += THREADS) {
        const int at = i / half * a.D + i % half, d = i % half;
        const float c = a.cosine[(size_t)pos * half + d], s = a.sine[(size_t)pos * half + d];
        const float2 x =
            turn_on(turn_back(a.q[at], a.q[at + half], c, s), a.target[d], a.target[half + d]);
        query[at] = x.x;
        query[at + half] = x.y;
        if (blockIdx.x == 0) a.turned[at] = x.x, a.turned[at + half] = x.y;
    }
    if (blockIdx.x == 0 && a.list_k && gone >= 0 && (gone < a.n_init || a.rest))
        list_token<T>(a, gone);
    if (a.score == NULL) return;
    const int blocks = blocks_at(pos, a.n_init, a.n_local, a.block, a.most_blocks);
    if (blockIdx.x == 0 && threadIdx.x == 0) *a.blocks = blocks;
    __syncthreads();
    score_blocks<T>(a.score, query, (const T *)a.reps, blocks, a.H * a.D);
}

int cuda_far_step(const struct cuda_far_step *a, cudaStream_t stream)
{
    if (check_shape("a step of far attention", a->H, a->G, a->D, a->type)) return -1;
    const size_t shared = (size_t)a->H * a->D * sizeof(float);
    const unsigned blocks = a->score ? grid_of(a->most_blocks) : 1;
    WITH_TYPE(a->type, {
        CUDA_TRY(cudaFuncSetAttribute(step_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared));
        return launch(step_kernel<T>, dim3(blocks), dim3(THREADS), shared, stream, *a);
    });
}

/* ---- the list */

static __global__ void __launch_bounds__(THREADS) list_kernel(struct cuda_far_list a)
{
    pdl_trigger();
    pdl_wait();
    const int pos = a.pos ? *a.pos : a.last, outside = max(0, pos - a.n_local + 1);
    const int chosen = !a.chosen ? 0 : a.n_chosen ? *a.n_chosen : a.chosen_now;
    const int blocks = !a.chosen ? 0 : a.blocks ? *a.blocks : a.blocks_now;
    const int gap = (blocks - chosen) * a.block; /* positions before the remainder, unseen */
    const int all = a.chosen ? outside - gap : min(a.n_init, outside), count = min(all, a.most);
    for (int e = blockIdx.x * THREADS + threadIdx.x; e < count; e += gridDim.x * THREADS) {
        const int past = e - a.n_init;
        int p = e, row;
        if (past >= 0) {
            const int i = past / a.block;
            p = i < chosen ? a.n_init + a.chosen[i] * a.block + past % a.block : e + gap;
        }
        a.idx[e] = p;
        if (a.rows == NULL) continue;
        row = p;
        if (p >= a.away) {
            row = p - a.shift;
        } else if (p >= a.n_init) {
            const int b = (p - a.n_init) / a.block;
            row = a.cached + a.slot[b] * a.block + past % a.block;
        }
        a.rows[e] = row;
    }
    if (blockIdx.x > 0 || threadIdx.x > 0) return;
    *a.count = count;
    if (a.list_tail) *a.list_tail = pos + 1;
    if (a.tail) *a.tail = outside;
    if (a.choice) *a.choice += (unsigned long long)chosen;
}

int cuda_far_list(const struct cuda_far_list *a, cudaStream_t stream)
{
    const int wanted = (a->most + 4 * THREADS - 1) / (4 * THREADS);
    const int blocks = wanted < 1 ? 1 : wanted < 32 ? wanted : 32;
    if (a->block < 1) return fail("a list of blocks of %d tokens", a->block);
    return launch(list_kernel, dim3((unsigned)blocks), dim3(THREADS), 0, stream, *a);
}

/* ---- representatives */

/* Bytes of shared memory for a value of each token of a block, and for the whole vectors that the
 * compiler reads ahead of a loop's end. */
static size_t block_bytes(int block)
{
    return ((size_t)block + 8) * sizeof(float);
}

/* Of the block B and the head H, by all threads. MEMORY: block_bytes(). */
template <class T>
static __device__ void represent(const struct cuda_far_reps &a, int b, int h, float *memory)
{
    const int p0 = a.n_init + b * a.block, D = a.D;
    const T *keys = (const T *)a.list_k + ((size_t)(h / (a.H / a.G)) * a.list_room) * D;
    const float *sums = a.sums + (size_t)h * a.ring;
    __shared__ float part[THREADS];

    for (int i = threadIdx.x; i < a.block; i += THREADS)
        memory[i] = __ldcg(sums + (p0 + i) % a.ring);
    __syncthreads();
    /* a token counts when fewer than repr_topk come before it: more weight, or as much and lower */
    uint32_t mine = 0; /* of this thread's tokens, 32 at most */
    for (int j = 0, i = threadIdx.x; i < a.block; j++, i += THREADS) {
        const float x = memory[i];
        int before = 0;
        for (int k = 0; k < a.block; k++) before += memory[k] > x || (memory[k] == x && k < i);
        mine |= (uint32_t)(before < a.repr_topk) << j;
    }
    __syncthreads();
    for (int j = 0, i = threadIdx.x; i < a.block; j++, i += THREADS)
        memory[i] = (float)(mine >> j & 1);
    __syncthreads();
    const int d = threadIdx.x % D, parts = THREADS / D, half = threadIdx.x / D;
    float sum = 0;
    for (int i = half; i < a.block; i += parts)
        if (memory[i] != 0) sum += to_float(keys[(size_t)(p0 + i - a.shift) * D + d]);
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < D) {
        for (int i = 1; i < parts; i++) sum += part[threadIdx.x + i * D];
        ((T *)a.reps)[((size_t)b * a.H + h) * D + d] = from_float<T>(sum / (float)a.repr_topk);
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS) reps_kernel(struct cuda_far_reps a, int first)
{
    extern __shared__ float memory[];
    represent<T>(a, first + (int)blockIdx.y, (int)blockIdx.x, memory);
}

static int check_reps(const struct cuda_far_reps *a)
{
    if (check_shape("representatives of blocks", a->H, a->G, a->D, a->type)) return -1;
    if (a->block < 1 || a->block > 32 * THREADS || a->repr_topk < 1 || a->repr_topk > a->block)
        return fail("representatives of blocks: %d of %d tokens, expected up to %d", a->repr_topk,
                    a->block, 32 * THREADS);
    return 0;
}

int cuda_far_reps(const struct cuda_far_reps *a, int first, int end, cudaStream_t stream)
{
    if (check_reps(a)) return -1;
    const size_t shared = block_bytes(a->block);
    for (; first < end; first += 65535) {
        const int n = end - first < 65535 ? end - first : 65535;
        WITH_TYPE(a->type,
                  (reps_kernel<T>
                   <<<dim3((unsigned)a->H, (unsigned)n), THREADS, shared, stream>>>(*a, first)));
        CUDA_TRY(cudaGetLastError());
    }
    return 0;
}

/* ---- the last kernel of a step: block h < H joins the halves of head h and keeps its books, block
 * H + h makes the head's representative of a block of tokens, where there is one more */

template <class T>
static __global__ void __launch_bounds__(THREADS) join_kernel(struct cuda_far_join a)
{
    extern __shared__ float memory[];
    const int h = (int)blockIdx.x % a.H;
    pdl_trigger();
    pdl_wait();
    const int pos = *a.pos;
    if ((int)blockIdx.x >= a.H) {
        const int now = blocks_at(pos + 1, a.n_init, a.n_local, a.block, a.most_blocks);
        const struct cuda_far_reps r = {a.reps,  a.sums,   a.ring,  a.list_k,    a.list_room,
                                        a.shift, a.n_init, a.block, a.repr_topk, a.H,
                                        a.G,     a.D,      a.type};
        if (now > blocks_at(pos, a.n_init, a.n_local, a.block, a.most_blocks))
            represent<T>(r, now - 1, h, memory);
        return;
    }
    const float x = a.list_lse[h], y = a.window_lse[h], top = fmaxf(x, y);
    const float u = expf(x - top), w = expf(y - top), sum = u + w, lse = top + logf(sum);
    for (int d = threadIdx.x; d < a.D; d += THREADS) {
        const size_t at = (size_t)h * a.D + d;
        a.out[at] = (u * a.list_out[at] + w * a.window_out[at]) / sum;
    }
    if (threadIdx.x == 0 && a.lse) a.lse[h] = lse;
    if (a.window == NULL) return;
    const float *window = a.window + (size_t)h * a.window_span;
    const int tail = *a.tail, count = *a.count;
    const bool adds = a.sums && pos >= a.counted[h];
    for (int i = threadIdx.x; i <= pos - tail; i += THREADS) {
        const float logit = __ldcg(window + i);
        const int p = tail + i;
        if (a.logits) a.logits[(size_t)h * a.span + count + i] = logit;
        if (!adds || p < a.n_init) continue;
        float *to = a.sums + (size_t)h * a.ring + p % a.ring;
        *to = (p == pos ? 0 : *to) + expf(logit - lse);
    }
    __syncthreads(); /* all have read it */
    if (adds && threadIdx.x == 0) a.counted[h] = pos + 1;
}

int cuda_far_join(const struct cuda_far_join *a, cudaStream_t stream)
{
    const bool books = a->sums != NULL;
    const struct cuda_far_reps r = {a->reps,  a->sums,   a->ring,  a->list_k,    a->list_room,
                                    a->shift, a->n_init, a->block, a->repr_topk, a->H,
                                    a->G,     a->D,      a->type};
    if (books ? check_reps(&r) : check_shape("far attention", a->H, a->G, a->D, a->type)) return -1;
    const dim3 grid((unsigned)(books ? 2 * a->H : a->H));
    const size_t shared = books ? block_bytes(a->block) : 0;
    WITH_TYPE(a->type, return launch(join_kernel<T>, grid, dim3(THREADS), shared, stream, *a));
}
