/* cuda_step.cu - the small kernels around a step. */
#include "core/ops/cuda_util.cuh"

static __global__ void set_step(int *pos, int *token, int pos_value, int token_value)
{
    *pos = pos_value;
    *token = token_value;
}

int cuda_set_step(int *pos, int *token, int pos_value, int token_value, cudaStream_t stream)
{
    set_step<<<1, 1, 0, stream>>>(pos, token, pos_value, token_value);
    CUDA_TRY(cudaGetLastError());
    return 0;
}

template <class T> static __global__ void widen(float *to, const T *from, size_t n)
{
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        to[i] = to_float(from[i]);
}

int cuda_widen(float *to, const void *from, size_t n, enum dtype type, cudaStream_t stream)
{
    const size_t blocks = (n + 255) / 256;
    WITH_TYPE(type, (widen<T><<<(unsigned)(blocks < 4096 ? blocks : 4096), 256, 0, stream>>>(
                        to, (const T *)from, n)));
    CUDA_TRY(cudaGetLastError());
    return 0;
}
