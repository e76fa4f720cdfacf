/* cuda_outcome.cu - the two ends of a decode step: the row of the token, what is to be known of the
 * logits. */
#include "core/ops/cuda_util.cuh"

#include <limits.h>
#include <math.h>

/* ---- embedding */

enum { EMBED_BLOCK = 128 };

template <class T>
static __global__ void embed_kernel(float *x, const T *table, const int *token, int E)
{
    const int c = blockIdx.x * EMBED_BLOCK + threadIdx.x;
    pdl_trigger();
    pdl_wait();
    if (8 * c >= E) return;
    const uint4 w = __ldg((const uint4 *)(table + (size_t)__ldcg(token) * E) + c);
    const float2 p = unpack<T>(w.x), q = unpack<T>(w.y), r = unpack<T>(w.z), s = unpack<T>(w.w);
    float4 *to = (float4 *)x + 2 * c;
    to[0] = make_float4(p.x, p.y, q.x, q.y);
    to[1] = make_float4(r.x, r.y, s.x, s.y);
}

int cuda_embed_row(float *x, const void *table, enum dtype type, const int *token, int E,
                   cudaStream_t stream)
{
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("cuda_embed_row: the table is %s, expected bf16 or f16", dtype_name(type));
    if (E < 8 || E % 8 != 0 || (uintptr_t)table % 16 || (uintptr_t)x % 16)
        return fail("cuda_embed_row: width %d must be a multiple of 8 and rows aligned to 16 bytes",
                    E);
    WITH_TYPE(type, {
        CUDA_TRY(cudaFuncSetAttribute(embed_kernel<T>,
                                      cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared));
        return launch(embed_kernel<T>, dim3((unsigned)((E / 8 + EMBED_BLOCK - 1) / EMBED_BLOCK)),
                      dim3(EMBED_BLOCK), 0, stream, x, (const T *)table, token, E);
    });
}

/* ---- outcomes: every block reduces its part of a row, the last of the row puts them together in
 * their order */

enum { OUTCOME_BLOCK = 256, OUTCOME_EACH = 8, OUTCOME_PARTS = 128 };

struct outcome_part {
    float top, sum; /* sum of exp(logit - top) */
    int index;      /* INT_MAX: nothing yet */
};
struct outcome_row {
    unsigned done; /* parts that are written: 0 between launches */
    struct outcome_part part[OUTCOME_PARTS];
};

static __device__ __forceinline__ struct outcome_part join(struct outcome_part a,
                                                           struct outcome_part b)
{
    struct outcome_part c;
    c.top = fmaxf(a.top, b.top);
    /* equal ones first: the difference of infinities is no number */
    c.sum = a.sum * (a.top == c.top ? 1 : expf(a.top - c.top)) +
            b.sum * (b.top == c.top ? 1 : expf(b.top - c.top));
    c.index = a.top != b.top ? (a.top > b.top ? a.index : b.index) : min(a.index, b.index);
    return c;
}

static __device__ __forceinline__ struct outcome_part join_warp(struct outcome_part a)
{
    for (int d = 16; d > 0; d >>= 1) {
        struct outcome_part b;
        b.top = __shfl_xor_sync(0xffffffffu, a.top, d);
        b.sum = __shfl_xor_sync(0xffffffffu, a.sum, d);
        b.index = __shfl_xor_sync(0xffffffffu, a.index, d);
        a = join(a, b);
    }
    return a;
}

static __global__ void __launch_bounds__(OUTCOME_BLOCK)
    outcomes_kernel(struct cuda_outcome *out, const float *logits, int V, int slice,
                    struct outcome_row *rows)
{
    __shared__ struct outcome_part of_warp[OUTCOME_BLOCK / 32];
    const int t = threadIdx.x, parts = gridDim.x;
    const int first = blockIdx.x * slice, last = min(first + slice, V);
    const float *row = logits + (size_t)blockIdx.y * V;
    struct outcome_row *work = rows + blockIdx.y;
    struct outcome_part all = {-INFINITY, 0, INT_MAX};

    pdl_trigger();
    pdl_wait();
    for (int i = first; i < last; i += OUTCOME_BLOCK * OUTCOME_EACH) {
        struct outcome_part some = {-INFINITY, 0, INT_MAX};
        float x[OUTCOME_EACH];
#pragma unroll
        for (int j = 0; j < OUTCOME_EACH; j++) {
            const int at = i + j * OUTCOME_BLOCK + t;
            x[j] = at < last ? __ldcg(row + at) : -INFINITY;
        }
#pragma unroll
        for (int j = 0; j < OUTCOME_EACH; j++) {
            const int at = i + j * OUTCOME_BLOCK + t;
            if (x[j] > some.top || (at < last && some.index == INT_MAX && x[j] == x[j])) {
                some.top = x[j];
                some.index = at;
            }
        }
#pragma unroll
        for (int j = 0; j < OUTCOME_EACH; j++)
            if (i + j * OUTCOME_BLOCK + t < last)
                some.sum += isfinite(x[j]) ? expf(x[j] - some.top) : NAN;
        all = join(all, some);
    }
    all = join_warp(all);
    if (t % 32 == 0) of_warp[t / 32] = all;
    __syncthreads();
    if (t >= 32) return;

    /* one warp is left: the block's part, and whether it was the last of the row */
    const struct outcome_part nothing = {-INFINITY, 0, INT_MAX};
    unsigned before = 0;
    all = join_warp(t < OUTCOME_BLOCK / 32 ? of_warp[t] : nothing);
    if (t == 0) {
        work->part[blockIdx.x] = all;
        __threadfence();
        before = atomicAdd(&work->done, 1u);
        __threadfence();
    }
    if (__shfl_sync(0xffffffffu, before, 0) != (unsigned)parts - 1) return;
    __threadfence();
    all = nothing;
    for (int i = t; i < parts; i += 32) {
        struct outcome_part one;
        one.top = __ldcg(&work->part[i].top);
        one.sum = __ldcg(&work->part[i].sum);
        one.index = __ldcg(&work->part[i].index);
        all = join(all, one);
    }
    all = join_warp(all);
    if (t == 0) {
        struct cuda_outcome *o = out + blockIdx.y;
        o->argmax = all.index == INT_MAX ? 0 : all.index; /* a row of nothing but NaN */
        o->top = all.index == INT_MAX ? NAN : all.top;
        o->lse = o->top + logf(all.sum);
        work->done = 0;
    }
}

size_t cuda_outcome_work(int n)
{
    return (size_t)n * sizeof(struct outcome_row);
}

int cuda_outcomes(struct cuda_outcome *out, const float *logits, int n, int V, void *work,
                  cudaStream_t stream)
{
    if (n < 1 || n > 65535 || V < 1)
        return fail("cuda_outcomes: %d rows of %d logits; 1 to 65535 rows", n, V);
    const int some = OUTCOME_BLOCK * OUTCOME_EACH, wanted = (V - 1) / some + 1;
    const int slice = wanted <= OUTCOME_PARTS ? some : (V - 1) / OUTCOME_PARTS + 1;
    CUDA_TRY(cudaFuncSetAttribute(outcomes_kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    return launch(outcomes_kernel, dim3((unsigned)((V - 1) / slice + 1), (unsigned)n),
                  dim3(OUTCOME_BLOCK), 0, stream, out, logits, V, slice,
                  (struct outcome_row *)work);
}
