/* cuda_device.cu - the device in use. */
#include "core/ops/cuda_util.cuh"

#include <stdio.h>
#include <string.h>

static struct cuda_device device;

const struct cuda_device *cuda_device(void)
{
    return &device;
}

int cuda_device_count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void)cudaGetLastError(); /* no driver, or none that works: there is no device */
        return 0;
    }
    return n;
}

static __global__ void probe(void)
{
}

int cuda_device_open(int index)
{
    cudaDeviceProp p;
    cudaFuncAttributes code;
    int n = 0, driver = 0, runtime = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);

    cudaDriverGetVersion(&driver);
    if (driver == 0) return fail("--device cuda:%d: there is no NVIDIA driver", index);
    if (e == cudaErrorInsufficientDriver) {
        cudaRuntimeGetVersion(&runtime);
        return fail("--device cuda:%d: the driver serves CUDA %d.%d, this program needs %d.%d: "
                    "update the driver",
                    index, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (e != cudaSuccess || n == 0)
        return fail("--device cuda:%d: no CUDA device: %s", index,
                    e != cudaSuccess ? cudaGetErrorString(e) : "none is visible");
    if (index >= n) return fail("--device cuda:%d: expected cuda:0 to cuda:%d", index, n - 1);
    CUDA_TRY(cudaSetDevice(index));
    CUDA_TRY(cudaGetDeviceProperties(&p, index));
    if (cudaFuncGetAttributes(&code, probe) != cudaSuccess) {
        (void)cudaGetLastError();
        return fail("--device cuda:%d: %s has compute capability %d.%d, for which this build holds "
                    "no code: build with make cuda=all",
                    index, p.name, p.major, p.minor);
    }
    device.index = index;
    device.capability = 10 * p.major + p.minor;
    device.sms = p.multiProcessorCount;
    device.shared = p.sharedMemPerBlockOptin;
    device.l2 = (size_t)p.l2CacheSize;
    snprintf(device.name, sizeof device.name, "%.63s", p.name);
    return 0;
}
