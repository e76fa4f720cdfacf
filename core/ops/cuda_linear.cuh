/* cuda_linear.cuh - what the products of a decode step share: the barriers and bulk copies of a
 * ring in shared memory, the sum over 16 bytes of a row, the place of a head's values.
 */
#ifndef CORE_OPS_CUDA_LINEAR_CUH
#define CORE_OPS_CUDA_LINEAR_CUH

#include "core/ops/cuda_util.cuh"

/* Element D and element D + HALF of head I of q, k, v: q is kept as float32, k and v go into the
 * cache. */
template <class T>
static __device__ __forceinline__ void put_pair(const struct cuda_qkv &q, int i, int d, int half,
                                                int position, float a, float b)
{
    if (i < q.H) {
        q.q[(size_t)i * q.D + d] = a;
        q.q[(size_t)i * q.D + d + half] = b;
        return;
    }
    const int g = i - q.H;
    T *cache = (T *)(g < q.G ? q.k : q.v);
    T *at = cache + ((size_t)(g < q.G ? g : g - q.G) * q.room + position) * q.D + d;
    at[0] = from_float<T>(a);
    at[half] = from_float<T>(b);
}

template <class T> static __device__ __forceinline__ float dot(uint4 w, const float *x, float sum)
{
    const uint32_t pairs[4] = {w.x, w.y, w.z, w.w};
    float odd = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 v = unpack<T>(pairs[i]);
        sum = fmaf(v.x, x[2 * i], sum);
        odd = fmaf(v.y, x[2 * i + 1], odd);
    }
    return sum + odd;
}

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers that count arrivals and the bytes of bulk copies: 9.0 on */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
static __device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}

static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Waits until the phase of that PARITY is over. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t over;
    do {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(over)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!over);
}

static __device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t bytes,
                                                 uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
                 : "memory");
}

static __device__ __forceinline__ void bulk_fetch(const void *from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)),
                 "r"(bytes)
                 : "memory");
}
#endif

#endif
