/* gpu.c - device memory for the tests of kernels. */
#include "tests/gpu.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

static void **device_blocks, **host_blocks;
static size_t n_device, n_host;

bool gpu_open(const char *name)
{
    if (cuda_device_count() == 0) {
        check_skip(name, "no CUDA device");
        return false;
    }
    const int rc = cuda_device_open(0);
    CHECK(rc == 0, "%s", last_failure());
    return rc == 0;
}

static void must(cudaError_t e, const char *what)
{
    CHECK(e == cudaSuccess, "%s: %s", what, cudaGetErrorString(e));
    if (e != cudaSuccess) exit(check_report("gpu"));
}

void *gpu_put(const void *from, size_t bytes)
{
    void *p = NULL;
    must(cudaMalloc(&p, bytes + 16), "cudaMalloc");
    must(cudaMemset(p, 0xff, bytes + 16), "cudaMemset");
    if (from) must(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), "copy to the device");
    device_blocks = xrealloc(device_blocks, (n_device + 1) * sizeof *device_blocks);
    return device_blocks[n_device++] = p;
}

void *gpu_zero(size_t bytes)
{
    void *p = gpu_put(NULL, bytes);
    must(cudaMemset(p, 0, bytes + 16), "cudaMemset");
    return p;
}

void gpu_get(void *to, const void *from, size_t bytes)
{
    must(cudaDeviceSynchronize(), "kernels");
    must(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}

void gpu_release(void)
{
    while (n_device > 0) cudaFree(device_blocks[--n_device]);
    while (n_host > 0) free(host_blocks[--n_host]);
    free(device_blocks);
    free(host_blocks);
    device_blocks = host_blocks = NULL;
}

void *gpu_random(struct rng *r, size_t n, float limit, enum dtype type, float **exact)
{
    float *values = xmalloc((n + 1) * sizeof *values);
    uint16_t *halves = xmalloc((n + 1) * sizeof *halves);
    for (size_t i = 0; i < n; i++) {
        values[i] = (float)(2 * rng_unit(r) - 1) * limit;
        if (type == DTYPE_F16) {
            halves[i] = f32_to_f16(values[i]);
            values[i] = f16_to_f32(halves[i]);
        } else if (type == DTYPE_BF16) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            halves[i] = (uint16_t)(bits >> 16);
            values[i] = bf16_to_f32(halves[i]);
        }
    }
    void *p = type == DTYPE_F32 ? gpu_put(values, 4 * n) : gpu_put(halves, 2 * n);
    free(halves);
    if (exact) {
        host_blocks = xrealloc(host_blocks, (n_host + 1) * sizeof *host_blocks);
        host_blocks[n_host++] = *exact = values;
    } else {
        free(values);
    }
    return p;
}

double gpu_value(const void *x, size_t i, enum dtype type)
{
    const uint16_t bits = ((const uint16_t *)x)[i];
    return type == DTYPE_BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

double gpu_gamma(double n)
{
    const double u = 0x1p-24;
    return n * u / (1 - n * u);
}
