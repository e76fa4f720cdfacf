/* cuda_far_away.cu - blocks of keys and values that live in host memory, and the slots in device
 * memory that hold some of them.
 *
 * A block's keys, and its values, of one kv head are contiguous on both sides, so that whole runs
 * of kilobytes cross the link. As in cuda_gather.cu the kernels read and write host memory in
 * place. Source: Xiao et al. 2024, InfLLM, section 3.3 (the policies LRU and, by score, LRU-S).
 */
#include "core/ops/cuda_util.cuh"
extern "C" {
#include "core/ops/cuda_far.h"
}

enum { THREADS = 1024, LOADS = 4, STORE_BLOCKS = 32, REWARD = 256 };

/* ---- to the host and back: chunks of 16 bytes; of a block [2, G, block * D / 8] */

static __global__ void __launch_bounds__(THREADS)
    store_kernel(uint4 *host, const uint4 *k, const uint4 *v, size_t total, int room, int n_init,
                 int block, int G, int chunks)
{
    const size_t run = (size_t)block * chunks, threads = (size_t)gridDim.x * blockDim.x;
    for (size_t u0 = (size_t)blockIdx.x * blockDim.x + threadIdx.x; u0 < total;
         u0 += LOADS * threads) {
        uint4 x[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            const size_t u = u0 + j * threads;
            if (u >= total) continue;
            const size_t head = u / run, g = head % G, part = head / G % 2, b = head / G / 2;
            x[j] = __ldcg((part ? v : k) + (g * room + n_init + b * block) * chunks + u % run);
        }
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (u0 + j * threads < total) host[u0 + j * threads] = x[j];
    }
}

static int check_blocks(const char *what, int block, int G, int D)
{
    if (block < 1 || G < 1 || (D != 64 && D != 128))
        return fail("%s: blocks of %d tokens, %d kv heads of width %d", what, block, G, D);
    return 0;
}

int cuda_far_store(void *host, const void *k, const void *v, int room, int n_init, int block,
                   int blocks, int G, int D, cudaStream_t stream)
{
    if (check_blocks("store", block, G, D)) return -1;
    if (blocks < 1) return 0;
    const size_t total = (size_t)blocks * 2 * G * block * (D / 8);
    store_kernel<<<STORE_BLOCKS, THREADS, 0, stream>>>(
        (uint4 *)host, (const uint4 *)k, (const uint4 *)v, total, room, n_init, block, G, D / 8);
    CUDA_TRY(cudaGetLastError());
    return 0;
}

struct fetch {
    uint4 *k, *v;
    const uint4 *host;
    const int *list; /* how many; block and slot of each */
    int room, first, block, G, chunks;
};

static __global__ void __launch_bounds__(THREADS) fetch_kernel(struct fetch a)
{
    const unsigned run = (unsigned)(a.block * a.chunks),
                   one = 2 * (unsigned)a.G * run; /* a block's */
    const unsigned total = (unsigned)__ldcg(a.list) * one, threads = gridDim.x * blockDim.x;
    for (unsigned u0 = blockIdx.x * blockDim.x + threadIdx.x; u0 < total; u0 += LOADS * threads) {
        uint4 x[LOADS], *to[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            const unsigned u = u0 + (unsigned)j * threads, i = u / one, at = u - i * one;
            const unsigned head = at / run, part = head / (unsigned)a.G, g = head - part * a.G;
            to[j] = NULL;
            if (u >= total) continue;
            const size_t b = __ldcg(a.list + 1 + 2 * i), slot = __ldcg(a.list + 2 + 2 * i);
            to[j] = (part ? a.v : a.k) +
                    ((size_t)g * a.room + a.first + slot * a.block) * a.chunks + (at - head * run);
            x[j] = __ldcg(a.host + b * one + at);
        }
#pragma unroll
        for (int j = 0; j < LOADS; j++)
            if (to[j]) *to[j] = x[j];
    }
}

int cuda_far_fetch(void *list_k, void *list_v, const void *host, const struct cuda_far_cache *a,
                   int list_room, int first, int block, int G, int D, cudaStream_t stream)
{
    if (check_blocks("fetch", block, G, D)) return -1;
    if ((double)a->topk * 2 * G * block * (D / 8) >= 2147483648.0)
        return fail("fetch: %d blocks of %d tokens, %d kv heads of width %d", a->topk, block, G, D);
    const struct fetch f = {(uint4 *)list_k,
                            (uint4 *)list_v,
                            (const uint4 *)host,
                            a->fetch,
                            list_room,
                            first,
                            block,
                            G,
                            D / 8};
    /* as the products do: kernels share a multiprocessor only when they divide it the same way */
    CUDA_TRY(cudaFuncSetAttribute(fetch_kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    fetch_kernel<<<CUDA_GATHER_BLOCKS, THREADS, 0, stream>>>(f);
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- slots: one block of threads */

static __global__ void __launch_bounds__(THREADS)
    slots_kernel(struct cuda_far_cache a, const int *chosen, const int *n_chosen, bool scored,
                 unsigned long long *missed)
{
    extern __shared__ int victim[]; /* [topk] slots in the order in which they are given away */
    __shared__ int missing;
    pdl_trigger();
    pdl_wait();
    const int n = *n_chosen, used = a.state[0], step = a.state[1] + 1, tid = threadIdx.x;
    if (tid == 0) missing = 0;
    __syncthreads();
    /* what is chosen and there stays: its slot is marked with this step */
    for (int i = tid; i < n; i += THREADS) {
        const int b = chosen[i], slot = b < a.away_blocks ? a.slot[b] : -1;
        if (slot >= 0) a.used_at[slot] = step;
        if (b < a.away_blocks && slot < 0) atomicAdd(&missing, 1);
    }
    __syncthreads();
    const int wanted = missing, taken = max(0, wanted - (a.cached - used)); /* from others */
    for (int s = tid; s < used && taken > 0; s += THREADS) {
        int before = 0;
        if (a.used_at[s] == step) continue;
        for (int k = 0; k < used; k++)
            before += a.used_at[k] != step &&
                      (a.priority[k] < a.priority[s] ||
                       (a.priority[k] == a.priority[s] && a.block[k] < a.block[s]));
        if (before < taken) victim[before] = s;
    }
    __syncthreads();
    /* the i-th of the missing, in ascending order, gets the i-th free slot or the i-th victim's */
    int new_slot[4], new_block[4]; /* the launcher takes up to 4 * THREADS chosen blocks */
    for (int i = tid, j = 0; i < n; i += THREADS, j++) {
        const int b = chosen[i];
        new_block[j] = -1;
        if (b >= a.away_blocks || a.slot[b] >= 0) continue;
        int before = 0;
        for (int k = 0; k < i; k++) before += chosen[k] < a.away_blocks && a.slot[chosen[k]] < 0;
        new_block[j] = b;
        new_slot[j] = used + before < a.cached ? used + before : victim[before - (a.cached - used)];
        a.fetch[1 + 2 * before] = b;
        a.fetch[2 + 2 * before] = new_slot[j];
    }
    __syncthreads(); /* all have read who has which slot */
    for (int i = tid, j = 0; i < n; i += THREADS, j++) {
        if (new_block[j] < 0) continue;
        if (new_slot[j] < used) a.slot[a.block[new_slot[j]]] = -1;
        a.block[new_slot[j]] = new_block[j];
        a.used_at[new_slot[j]] = step;
        a.slot[new_block[j]] = new_slot[j];
    }
    __syncthreads();
    for (int i = tid; i < n; i += THREADS)
        if (chosen[i] < a.away_blocks) a.priority[a.slot[chosen[i]]] = scored ? 0 : step;
    if (tid > 0) return;
    a.fetch[0] = wanted;
    a.state[0] = min(a.cached, used + wanted);
    a.state[1] = step;
    *missed += (unsigned long long)wanted;
}

int cuda_far_slots(const struct cuda_far_cache *a, const int *chosen, const int *n_chosen,
                   bool scored, unsigned long long *missed, cudaStream_t stream)
{
    if (a->topk < 1 || a->topk > 4 * THREADS || a->topk > a->cached)
        return fail("slots of blocks: %d are chosen, %d are cached, expected up to %d", a->topk,
                    a->cached, 4 * THREADS);
    return launch(slots_kernel, dim3(1), dim3(THREADS), (size_t)a->topk * sizeof(int), stream, *a,
                  chosen, n_chosen, scored, missed);
}

/* ---- rewards: block i < topk of threads is the i-th chosen block, the last is all others */

static __global__ void __launch_bounds__(REWARD)
    reward_kernel(struct cuda_far_cache a, const int *chosen, const int *n_chosen,
                  const float *logits, size_t span, const float *lse, int n_init, int block, int H,
                  double decay)
{
    __shared__ float part[REWARD / 32];
    pdl_trigger();
    pdl_wait();
    const int i = blockIdx.x, tid = threadIdx.x;
    if (i == a.topk) {
        for (int s = tid; s < a.state[0]; s += REWARD)
            if (a.used_at[s] != a.state[1]) a.priority[s] *= decay;
        return;
    }
    if (i >= *n_chosen || chosen[i] >= a.away_blocks) return;
    const float *of = logits + n_init + (size_t)i * block;
    float sum = 0;
    for (int e = tid; e < H * block; e += REWARD)
        sum += expf(__ldcg(of + e / block * span + e % block) - lse[e / block]);
    sum = warp_sum(sum);
    if (tid % 32 == 0) part[tid / 32] = sum;
    __syncthreads();
    if (tid > 0) return;
    for (int w = 1; w < REWARD / 32; w++) sum += part[w];
    double *priority = a.priority + a.slot[chosen[i]];
    *priority = *priority * decay + sum;
}

int cuda_far_reward(const struct cuda_far_cache *a, const int *chosen, const int *n_chosen,
                    const float *logits, size_t span, const float *lse, int n_init, int block,
                    int H, double decay, cudaStream_t stream)
{
    return launch(reward_kernel, dim3((unsigned)a->topk + 1), dim3(REWARD), 0, stream, *a, chosen,
                  n_chosen, logits, span, lse, n_init, block, H, decay);
}
