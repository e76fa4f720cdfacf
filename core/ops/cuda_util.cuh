/* cuda_util.cuh - what every kernel file stands on: error checks, 16-bit types, launches that
 * overlap their predecessor, small reductions.
 *
 * A decode step is a chain of short kernels. On compute capability 9.0 and later each is launched
 * with programmatic stream serialisation: its blocks start while the kernel before it drains, and
 * may read what no kernel writes (weights, rotations) at once; before anything else they call
 * pdl_wait(). Every thread of every block must call it: that is what makes "complete" transitive.
 */
#ifndef CORE_OPS_CUDA_UTIL_CUH
#define CORE_OPS_CUDA_UTIL_CUH

extern "C" {
#include "core/base/base.h"
#include "core/base/half.h"
#include "core/ops/cuda_kernels.h"
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* Evaluates CALL once; on error reports it and returns -1 from the enclosing launcher. */
#define CUDA_TRY(call)                                                                             \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_ != cudaSuccess)                                                                     \
            return fail("%s:%d: %s: %s", __FILE__, __LINE__, #call, cudaGetErrorString(e_));       \
    } while (0)

/* Lets the next kernel of the stream start its blocks; what they read of ours waits all the same.
 */
static __device__ __forceinline__ void pdl_trigger(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Waits until the kernels before this one are complete and their writes visible. */
static __device__ __forceinline__ void pdl_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Launches KERNEL so that it overlaps the kernel before it, where the device can. For kernels that
 * call pdl_wait(). CARVEOUT is the share in percent of a multiprocessor's L1 that is to be shared
 * memory: kernels share a multiprocessor only when they divide it the same way, so all ask for the
 * most, but those that gain more from a large L1. 0, or -1 after fail(). */
template <class... P, class... A>
static int launch_split(unsigned carveout, void (*kernel)(P...), dim3 grid, dim3 block,
                        size_t shared, cudaStream_t stream, A... args)
{
    cudaLaunchAttribute how_else[2] = {};
    how_else[0].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    how_else[0].val.sharedMemCarveout = carveout;
    how_else[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how_else[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = block;
    how.dynamicSmemBytes = shared;
    how.stream = stream;
    how.attrs = how_else;
    how.numAttrs = cuda_device()->capability >= 90 ? 2 : 1;
    const cudaError_t e = cudaLaunchKernelEx(&how, kernel, P(args)...);
    if (e != cudaSuccess)
        return fail("GPU %s: a kernel of %u x %u x %u blocks of %u threads, %zu bytes shared: %s",
                    cuda_device()->name, grid.x, grid.y, grid.z, block.x, shared,
                    cudaGetErrorString(e));
    return 0;
}

template <class... P, class... A>
static int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                  A... args)
{
    return launch_split(cudaSharedmemCarveoutMaxShared, kernel, grid, block, shared, stream,
                        args...);
}

/* ---- 16-bit values of either type */

static __device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
static __device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}
template <class T> static __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
    return __float2half_rn(x);
}

/* The two values of a 32-bit word, the lower address first. */
template <class T> static __device__ __forceinline__ float2 unpack(uint32_t pair);
template <> __device__ __forceinline__ float2 unpack<__nv_bfloat16>(uint32_t pair)
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 unpack<__half>(uint32_t pair)
{
    return __half22float2(*reinterpret_cast<__half2 *>(&pair));
}
template <class T> static __device__ __forceinline__ uint32_t pack(float low, float high);
template <> __device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high)
{
    __nv_bfloat162 p = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&p);
}
template <> __device__ __forceinline__ uint32_t pack<__half>(float low, float high)
{
    __half2 p = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&p);
}

/* Runs BODY with T the 16-bit type of DTYPE. */
#define WITH_TYPE(dtype, ...)                                                                      \
    do {                                                                                           \
        if ((dtype) == DTYPE_BF16) {                                                               \
            typedef __nv_bfloat16 T;                                                               \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            typedef __half T;                                                                      \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* ---- reductions over a warp; all 32 lanes call, all get the result */

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
static __device__ __forceinline__ float warp_max(float x)
{
    for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

#endif
