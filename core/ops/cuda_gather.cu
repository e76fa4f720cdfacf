/* cuda_gather.cu - rows of keys and values between pinned host memory and the device.
 *
 * The kernels read and write host memory in place, over the link. What they reach is bytes in
 * flight over the time of a round trip (about 2 microseconds), so that few multiprocessors are
 * enough; the kernels that run beside a gather leave it those (CUDA_GATHER_BLOCKS).
 */
#include "core/ops/cuda_util.cuh"

/* A gather's block takes all registers of a multiprocessor, and so has it for itself. */
enum { GATHER_THREADS = 1024, LOADS = 4, BLOCKS = 32, THREADS = 256 };

/* What is moved, in chunks of 16 bytes: a row of a head has CHUNKS (a power of two). */
struct rows {
    uint4 *k, *v;
    const uint4 *host;
    const int *idx, *count;
    int sets, stride, G, chunks, log_chunks;
    int parts; /* 2: both, from part 0 on; 1: the part FIRST alone */
    int first;
};

static __global__ void __launch_bounds__(GATHER_THREADS) gather_kernel(struct rows a)
{
    const unsigned n = (unsigned)min(__ldcg(a.count), a.stride);
    const unsigned width = (unsigned)(a.sets == 1 ? a.G * a.chunks : a.chunks); /* contiguous */
    const unsigned total = (unsigned)a.sets * n * (unsigned)a.parts * width;
    const unsigned threads = gridDim.x * blockDim.x;
    const int heads = a.sets == 1 ? 1 : a.sets / a.G; /* sets of a kv head */

    for (unsigned u0 = blockIdx.x * blockDim.x + threadIdx.x; u0 < total; u0 += LOADS * threads) {
        const uint4 *from[LOADS];
        uint4 *to[LOADS], x[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            const unsigned u = u0 + (unsigned)j * threads;
            from[j] = NULL;
            if (u >= total) continue;
            const unsigned c = u % width, row = u / width;
            const unsigned part = a.parts == 2 ? row & 1 : (unsigned)a.first;
            const unsigned entry = a.parts == 2 ? row >> 1 : row;
            const unsigned set = a.sets == 1 ? 0 : entry / n, i = a.sets == 1 ? entry : entry % n;
            const size_t token = (size_t)__ldg(&a.idx[(size_t)set * a.stride + i]);
            const unsigned head = set / (unsigned)heads; /* the first that is read */
            const unsigned out = set + (c >> a.log_chunks);
            from[j] = a.host + ((2 * token + part) * a.G + head) * a.chunks + c;
            to[j] = (part ? a.v : a.k) + ((size_t)out * a.stride + i) * a.chunks +
                    (c & (unsigned)(a.chunks - 1));
        }
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (from[j]) x[j] = __ldcg(from[j]);
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (from[j]) *to[j] = x[j];
    }
}

static int run_gather(const struct rows *a, int blocks, int threads, cudaStream_t stream)
{
    /* as the products do: kernels share a multiprocessor only when they divide it the same way */
    CUDA_TRY(cudaFuncSetAttribute(gather_kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    gather_kernel<<<blocks, threads, 0, stream>>>(*a);
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* Whether rows of G heads of width D can be moved, N of them with PARTS parts at once. */
static bool takes(int G, int D, double n, int parts)
{
    return G >= 1 && (D == 64 || D == 128) && n >= 1 && n * parts * G * (D / 8) < 2147483648.0;
}

int cuda_gather_rows(void *packed_k, void *packed_v, const void *host, const int *idx,
                     const int *count, int sets, int stride, int G, int D, enum cuda_parts parts,
                     cudaStream_t stream)
{
    if ((sets != 1 && (G < 1 || sets < 1 || sets % G)) ||
        !takes(sets == 1 ? G : 1, D, (double)sets * stride, 2))
        return fail("gather: %d sets of %d rows, %d kv heads of width %d", sets, stride, G, D);
    struct rows a = {};
    a.k = static_cast<uint4 *>(packed_k);
    a.v = static_cast<uint4 *>(packed_v);
    a.host = static_cast<const uint4 *>(host);
    a.idx = idx;
    a.count = count;
    a.sets = sets;
    a.stride = stride;
    a.G = G;
    a.chunks = D / 8;
    a.log_chunks = D == 64 ? 3 : 4;
    a.parts = parts == PART_BOTH ? 2 : 1;
    a.first = parts == PART_V;
    return run_gather(&a, CUDA_GATHER_BLOCKS, GATHER_THREADS, stream);
}

static __global__ void __launch_bounds__(THREADS)
    store_kernel(uint4 *host, const uint4 *k, const uint4 *v, unsigned total, int room, int width,
                 int log_chunks)
{
    const unsigned threads = gridDim.x * blockDim.x, chunks = 1u << log_chunks;
    for (unsigned u0 = blockIdx.x * blockDim.x + threadIdx.x; u0 < total; u0 += LOADS * threads) {
        uint4 x[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            const unsigned u = u0 + (unsigned)j * threads;
            if (u >= total) continue;
            const unsigned c = u % (unsigned)width, row = u / (unsigned)width;
            x[j] = __ldcg((row & 1 ? v : k) +
                          ((size_t)(c >> log_chunks) * room + (row >> 1)) * chunks +
                          (c & (chunks - 1)));
        }
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (u0 + (unsigned)j * threads < total) host[u0 + (unsigned)j * threads] = x[j];
    }
}

static int run_store(void *host, const void *k, const void *v, int n, int room, int G, int D,
                     int blocks, cudaStream_t stream)
{
    const int width = G * (D / 8);
    store_kernel<<<blocks, THREADS, 0, stream>>>(
        static_cast<uint4 *>(host), static_cast<const uint4 *>(k), static_cast<const uint4 *>(v),
        (unsigned)n * 2u * (unsigned)width, room, width, D == 64 ? 3 : 4);
    CUDA_TRY(cudaGetLastError());
    return 0;
}

int cuda_store_rows(void *host, const void *k, const void *v, int n, int room, int G, int D,
                    cudaStream_t stream)
{
    if (n == 0) return 0;
    if (n < 0 || n > room || !takes(G, D, n, 2))
        return fail("store: %d of %d rows, %d kv heads of width %d", n, room, G, D);
    return run_store(host, k, v, n, room, G, D, BLOCKS, stream);
}

/* The I-th output of splitmix64 (Steele et al. 2014) from SEED. */
static __device__ __forceinline__ uint64_t random_bits(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Values 2 i and 2 i + 1 are the low and the high half of the i-th output, of which the highest 24
 * bits count. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    fill_kernel(T *out, size_t n, uint64_t seed, float limit)
{
    const size_t threads = (size_t)gridDim.x * blockDim.x;
    const bool wide = reinterpret_cast<uintptr_t>(out) % 16 == 0;
    for (size_t i = 8 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x); i < n; i += 8 * threads) {
        T x[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint64_t both = random_bits(seed, (i + j) / 2);
            const uint32_t half = j % 2 ? (uint32_t)(both >> 32) : (uint32_t)both;
            x[j] = from_float<T>(((float)(half >> 8) * 0x1p-23f - 1) * limit);
        }
        if (wide && n - i >= 8) {
            uint4 all;
            memcpy(&all, x, sizeof all);
            *reinterpret_cast<uint4 *>(out + i) = all;
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (i + j < n) out[i + j] = x[j];
        }
    }
}

int cuda_fill_uniform(void *out, size_t n, enum dtype type, uint64_t seed, float limit,
                      cudaStream_t stream)
{
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("random values: type %s is not 16-bit", dtype_name(type));
    const size_t most = (size_t)cuda_device()->sms * 8, wanted = n / (8 * THREADS) + 1;
    const unsigned blocks = (unsigned)(wanted < most ? wanted : most);
    WITH_TYPE(type, fill_kernel<T>
              <<<blocks, THREADS, 0, stream>>>(static_cast<T *>(out), n, seed, limit));
    CUDA_TRY(cudaGetLastError());
    return 0;
}
