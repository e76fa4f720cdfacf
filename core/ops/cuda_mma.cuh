/* cuda_mma.cuh - what kernels that multiply with mma.sync share: sm_80 on.
 *
 * Shared memory: a tile is [D / 64][rows] lines of 64 values, 128 bytes, in chunks of 16 bytes.
 * Chunk c of row r lies at chunk c ^ (r & 7), so that the eight rows of a matrix that ldmatrix
 * reads are in eight different groups of banks.
 */
#ifndef CORE_OPS_CUDA_MMA_CUH
#define CORE_OPS_CUDA_MMA_CUH

#include "core/ops/cuda_util.cuh"

static constexpr float log2_e = 1.4426950408889634f;

/* ---- the instructions */

/* 16 bytes to shared memory in the background; zeros, and nothing read, unless VALID. */
static __device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void copy_async_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* Four 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8, and receives of each
 * matrix elements 2 (i % 4) and the next of row i / 4. */
static __device__ __forceinline__ void load_matrices(uint32_t *r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
/* The same of each matrix transposed. */
static __device__ __forceinline__ void load_transposed(uint32_t *r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* c [16, 8] += a [16, 16] b [16, 8]. With g = lane / 4 and t = lane % 4, a lane holds
 * c: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1);
 * a: pairs (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8); b: pairs (2t, g), (2t+8, g). */
template <class T>
static __device__ __forceinline__ void multiply(float *c, const uint32_t *a, uint32_t b0,
                                                uint32_t b1);
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float *c, const uint32_t *a, uint32_t b0,
                                                        uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<__half>(float *c, const uint32_t *a, uint32_t b0,
                                                 uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ float exp_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- tiles */

static constexpr int line = 128; /* bytes */

/* ROWS rows of D values, STRIDE bytes apart, to shared memory by THREADS threads; zeros from row
 * VALID on, whose memory may hold anything. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void load_rows(uint32_t to, const char *from, size_t stride,
                                                 int valid)
{
    constexpr int chunks = D / 8, step = THREADS / chunks; /* rows of one round */
    static_assert(step % 8 == 0 && ROWS % step == 0, "a thread keeps its place in the swizzle");
    const int chunk = threadIdx.x % chunks, row = threadIdx.x / chunks;
    from += row * stride + chunk * 16;
    to += (chunk / 8 * ROWS + row) * line + ((chunk % 8 ^ (row & 7)) << 4);
#pragma unroll
    for (int i = 0; i < ROWS / step; i++)
        copy_async(to + i * step * line, from + i * step * stride, row + i * step < valid);
}

#endif
