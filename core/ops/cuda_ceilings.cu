/* cuda_ceilings.cu - how fast the device reads and copies its memory and reaches the host's. */
#include "core/ops/cuda_util.cuh"

extern "C" {
#include "core/ops/cuda_ceilings.h"
}

enum { READ_THREADS = 512, READ_BLOCKS = 16, LOADS = 4, GATHER_BLOCKS = 8 }; /* blocks an SM */

/* Reads all of P [n]; SEEN keeps the loads alive. */
static __global__ void __launch_bounds__(READ_THREADS)
    read_kernel(uint4 *seen, const uint4 *p, size_t n)
{
    const size_t threads = (size_t)gridDim.x * blockDim.x;
    uint4 all = make_uint4(0, 0, 0, 0);
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += LOADS * threads) {
        uint4 x[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            x[j] = i + j * threads < n ? __ldcs(p + i + j * threads) : all;
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            all.x ^= x[j].x;
            all.y ^= x[j].y;
            all.z ^= x[j].z;
            all.w ^= x[j].w;
        }
    }
    /* no 128 random bits do that */
    if ((all.x & all.y & all.z & all.w) == 0xffffffffu) *seen = all;
}

/* TO [rows, width] = ROWS rows of HOST [total, width], WIDTH threads a row. */
static __global__ void gather_kernel(uint4 *to, const uint4 *host, unsigned rows, unsigned total,
                                     unsigned width, unsigned seed)
{
    for (unsigned r = blockIdx.x; r < rows; r += gridDim.x) {
        uint64_t z = ((uint64_t)seed << 32 | r) * 0x9e3779b97f4a7c15u; /* splitmix64's mixing */
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        const size_t from = (size_t)((z >> 32) % total);
        to[(size_t)r * width + threadIdx.x] = host[from * width + threadIdx.x];
    }
}

/* What is measured on: two arrays of the device and one of the host, BYTES each. */
struct bench {
    char *a, *b, *host;
    size_t bytes, host_bytes;
    cudaStream_t stream;
};

enum { GATHERED = 64 << 20 }; /* bytes of one run */

/* Starts run RUN of WHAT; returns what it moves. */
static double start(const struct bench *s, enum ceiling what, int run)
{
    const unsigned sms = (unsigned)cuda_device()->sms;
    switch (what) {
    case CEILING_READ: /* in turn, so that little of a run's bytes are cached */
        read_kernel<<<sms * READ_BLOCKS, READ_THREADS, 0, s->stream>>>(
            (uint4 *)(run % 2 ? s->b : s->a), (const uint4 *)(run % 2 ? s->a : s->b),
            s->bytes / sizeof(uint4));
        return (double)s->bytes;
    case CEILING_COPY:
        cudaMemcpyAsync(run % 2 ? s->a : s->b, run % 2 ? s->b : s->a, s->bytes,
                        cudaMemcpyDeviceToDevice, s->stream);
        return 2.0 * (double)s->bytes;
    case CEILING_DOWN:
        cudaMemcpyAsync(s->a, s->host, s->host_bytes, cudaMemcpyHostToDevice, s->stream);
        return (double)s->host_bytes;
    case CEILING_UP:
        cudaMemcpyAsync(s->host, s->a, s->host_bytes, cudaMemcpyDeviceToHost, s->stream);
        return (double)s->host_bytes;
    case CEILING_GATHER_2K:
    case CEILING_GATHER_4K: {
        const unsigned row = what == CEILING_GATHER_2K ? 2048 : 4096, width = row / sizeof(uint4);
        gather_kernel<<<sms * GATHER_BLOCKS, width, 0, s->stream>>>(
            (uint4 *)s->a, (const uint4 *)s->host, GATHERED / row, (unsigned)(s->host_bytes / row),
            width, (unsigned)run);
        return GATHERED;
    }
    default:
        return 0;
    }
}

static int measure(const struct bench *s, enum ceiling what, cudaEvent_t begin, cudaEvent_t end,
                   double *rate)
{
    const int each = what == CEILING_READ || what == CEILING_COPY ? 4 : 1; /* short ones together */
    *rate = 0;
    for (int run = 0; run < 5; run++) {
        double moved = 0;
        float ms;
        CUDA_TRY(cudaEventRecord(begin, s->stream));
        for (int i = 0; i < each; i++) moved += start(s, what, run * each + i);
        CUDA_TRY(cudaGetLastError());
        CUDA_TRY(cudaEventRecord(end, s->stream));
        CUDA_TRY(cudaEventSynchronize(end));
        CUDA_TRY(cudaEventElapsedTime(&ms, begin, end));
        if (moved / ms * 1e3 > *rate) *rate = moved / ms * 1e3;
    }
    return 0;
}

static int prepare(struct bench *s, cudaEvent_t *begin, cudaEvent_t *end)
{
    size_t free_bytes, total;
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &total));
    s->bytes = free_bytes / 4 < (size_t)2 << 30 ? free_bytes / 4 : (size_t)2 << 30;
    s->bytes -= s->bytes % (GATHERED);
    if (s->bytes == 0)
        return fail("bandwidth test: %.2f of %.2f GB of GPU memory are free",
                    (double)free_bytes / 1e9, (double)total / 1e9);
    s->host_bytes = s->bytes < (size_t)1 << 30 ? s->bytes : (size_t)1 << 30;
    CUDA_TRY(cudaEventCreate(begin));
    CUDA_TRY(cudaEventCreate(end));
    CUDA_TRY(cudaMalloc((void **)&s->a, s->bytes));
    CUDA_TRY(cudaMalloc((void **)&s->b, s->bytes));
    CUDA_TRY(cudaHostAlloc((void **)&s->host, s->host_bytes, cudaHostAllocDefault));
    if (cuda_fill_uniform(s->a, s->bytes / 2, DTYPE_BF16, 1, 1, s->stream) ||
        cuda_fill_uniform(s->b, s->bytes / 2, DTYPE_BF16, 2, 1, s->stream) ||
        cuda_fill_uniform(s->host, s->host_bytes / 2, DTYPE_BF16, 3, 1, s->stream))
        return -1;
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return 0;
}

int cuda_ceilings(double rate[CEILINGS], cudaStream_t stream)
{
    struct bench s = {};
    cudaEvent_t begin = NULL, end = NULL;
    s.stream = stream;
    int rc = prepare(&s, &begin, &end);
    for (int i = 0; i < CEILINGS && rc == 0; i++)
        rc = measure(&s, (enum ceiling)i, begin, end, &rate[i]);
    cudaFree(s.a);
    cudaFree(s.b);
    cudaFreeHost(s.host);
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    return rc;
}

int cuda_memory(double *free_bytes, double *total)
{
    size_t have, all;
    CUDA_TRY(cudaMemGetInfo(&have, &all));
    *free_bytes = (double)have;
    *total = (double)all;
    return 0;
}
