/* cuda_rows.cu - many rows: what stands between the matrix products of a prefill.
 *
 * Each kernel reads its input once and writes its output once, 16 bytes an access, in float32
 * between the two: memory is the limit. A thread owns 8 neighbours, which is what 16 bytes of a
 * 16-bit type hold.
 */
#include "core/ops/cuda_util.cuh"

#define BLOCK 256

/* ---- 8 values at once */

static __device__ __forceinline__ void load_floats(float *x, const float *from)
{
    const float4 a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
static __device__ __forceinline__ void store_floats(float *to, const float *x)
{
    ((float4 *)to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    ((float4 *)to)[1] = make_float4(x[4], x[5], x[6], x[7]);
}
template <class T> static __device__ __forceinline__ void unpack_8(float *x, uint4 from)
{
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack<T>(words[i]);
        x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
}
template <class T> static __device__ __forceinline__ uint4 pack_8(const float *x)
{
    return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]),
                      pack<T>(x[6], x[7]));
}
static __device__ __forceinline__ void add_8(float *x, const float *bias)
{
    float b[8];
    load_floats(b, bias);
    for (int i = 0; i < 8; i++) x[i] += b[i];
}

/* ---- what the launchers share */

static int check(const char *what, enum dtype type, int n, int width)
{
    if (type != DTYPE_BF16 && type != DTYPE_F16)
        return fail("%s: expected bf16 or f16, got %s", what, dtype_name(type));
    if (n < 0) return fail("%s: %d rows", what, n);
    if (width < 8 || width % 8 != 0)
        return fail("%s: expected a width that is a multiple of 8, got %d", what, width);
    return 0;
}

/* N rows of PIECES pieces of BLOCK threads each; the pieces of a row are neighbours. */
static dim3 grid_of(int n, int pieces)
{
    return dim3((unsigned)n * (unsigned)pieces);
}

/* ---- embedding */

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    embed(float *x, const T *table, const int *ids, int E, int pieces)
{
    const size_t row = blockIdx.x / pieces;
    const int e = (blockIdx.x % pieces * BLOCK + threadIdx.x) * 8;
    float v[8];
    if (e >= E) return;
    unpack_8<T>(v, *(const uint4 *)(table + (size_t)ids[row] * E + e));
    store_floats(x + row * E + e, v);
}

int cuda_embed_rows(float *x, const void *table, enum dtype type, const int *ids, int n, int E,
                    cudaStream_t stream)
{
    if (check("embedding of rows", type, n, E)) return -1;
    if (n == 0) return 0;
    const int pieces = (E / 8 + BLOCK - 1) / BLOCK;
    WITH_TYPE(type, (embed<T><<<grid_of(n, pieces), BLOCK, 0, stream>>>(x, (const T *)table, ids, E,
                                                                        pieces)));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- RMS norm: one block per row, which stays in registers between the sum and the product */

template <class T, int PARTS>
static __global__ void __launch_bounds__(BLOCK)
    norm(T *out, const float *x, const float *gain, float eps, int E)
{
    __shared__ float sums[BLOCK / 32];
    const size_t row = blockIdx.x;
    float v[PARTS][8], sum = 0, g[8];
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const int e = (p * BLOCK + threadIdx.x) * 8;
        if (e < E) load_floats(v[p], x + row * E + e);
    }
#pragma unroll
    for (int p = 0; p < PARTS; p++)
        if ((p * BLOCK + threadIdx.x) * 8 < E)
            for (int i = 0; i < 8; i++) sum += v[p][i] * v[p][i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < BLOCK / 32; w++) sum += sums[w];
    const float scale = 1 / sqrtf(sum / E + eps);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const int e = (p * BLOCK + threadIdx.x) * 8;
        if (e >= E) continue;
        load_floats(g, gain + e);
        for (int i = 0; i < 8; i++) v[p][i] = v[p][i] * scale * g[i];
        *(uint4 *)(out + row * E + e) = pack_8<T>(v[p]);
    }
}

int cuda_norm_rows(void *out, const float *x, const float *gain, float eps, int n, int E,
                   enum dtype type, cudaStream_t stream)
{
    if (check("norm of rows", type, n, E)) return -1;
    const int parts = (E / 8 + BLOCK - 1) / BLOCK;
    if (parts > 8) return fail("norm of rows: expected a width up to %d, got %d", 64 * BLOCK, E);
    if (n == 0) return 0;
#define NORM(P) (norm<T, P><<<n, BLOCK, 0, stream>>>((T *)out, x, gain, eps, E))
    if (parts == 1)
        WITH_TYPE(type, NORM(1));
    else if (parts == 2)
        WITH_TYPE(type, NORM(2));
    else if (parts <= 4)
        WITH_TYPE(type, NORM(4));
    else
        WITH_TYPE(type, NORM(8));
#undef NORM
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- bias, norm and rotation of q and k, bias of v */

struct rotation {
    void *q, *k, *v;
    float *q32;
    const void *qkv;
    const float *bias, *q_norm, *k_norm, *cosine, *sine;
    float eps;
    int n, pos0, room, H, G;
};

/* D / 16 threads share a head: each has 8 values of the first half and their partners in the
 * second. Source: Su et al. 2021 eq. 34, in the half-split order of transformers' rotate_half(). */
template <class T, int D>
static __global__ void __launch_bounds__(BLOCK) rotate(const struct rotation a)
{
    constexpr int lanes = D / 16, half = D / 2;
    const int heads = a.H + 2 * a.G, mine = threadIdx.x % lanes * 8;
    unsigned item = blockIdx.x * (BLOCK / lanes) + threadIdx.x / lanes;
    const bool valid = item < (unsigned)a.n * heads;
    if (!valid) item = 0; /* its sums are needed: the whole warp takes part in them */
    const size_t r = item / heads;
    const int h = item % heads, g = h < a.H + a.G ? h - a.H : h - a.H - a.G;
    const float *gain = h < a.H ? a.q_norm : h < a.H + a.G ? a.k_norm : NULL;
    const T *from = (const T *)a.qkv + (size_t)item * D + mine;
    const size_t turn = (a.pos0 + r) * half + mine;
    float x[2][8], c[8], s[8];

    unpack_8<T>(x[0], *(const uint4 *)from);
    unpack_8<T>(x[1], *(const uint4 *)(from + half));
    load_floats(c, a.cosine + turn);
    load_floats(s, a.sine + turn);
    if (a.bias) {
        add_8(x[0], a.bias + h * D + mine);
        add_8(x[1], a.bias + h * D + mine + half);
    }
    if (a.q_norm) {
        float sum = 0, w[8];
        for (int i = 0; i < 8; i++) sum += x[0][i] * x[0][i] + x[1][i] * x[1][i];
        for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        const float scale = 1 / sqrtf(sum / D + a.eps);
        if (gain)
            for (int b = 0; b < 2; b++) {
                load_floats(w, gain + b * half + mine);
                for (int i = 0; i < 8; i++) x[b][i] = x[b][i] * scale * w[i];
            }
    }
    if (h < a.H + a.G)
        for (int i = 0; i < 8; i++) {
            const float u = x[0][i], w = x[1][i];
            x[0][i] = u * c[i] - w * s[i];
            x[1][i] = w * c[i] + u * s[i];
        }
    if (!valid) return;
    T *to;
    if (h < a.H) {
        const size_t at = (r * a.H + h) * D + mine;
        to = (T *)a.q + at;
        if (a.q32) {
            store_floats(a.q32 + at, x[0]);
            store_floats(a.q32 + at + half, x[1]);
        }
    } else {
        to = (T *)(h < a.H + a.G ? a.k : a.v) + ((size_t)g * a.room + a.pos0 + r) * D + mine;
    }
    *(uint4 *)to = pack_8<T>(x[0]);
    *(uint4 *)(to + half) = pack_8<T>(x[1]);
}

int cuda_rotate_rows(void *q, float *q32, void *k, void *v, int room, const void *qkv,
                     const float *bias, const float *q_norm, const float *k_norm, float eps,
                     const float *cosine, const float *sine, int n, int pos0, int H, int G, int D,
                     enum dtype type, cudaStream_t stream)
{
    const struct rotation a = {q,      k,    v,   q32, qkv,  bias, q_norm, k_norm,
                               cosine, sine, eps, n,   pos0, room, H,      G};
    if (check("rotation of rows", type, n, D)) return -1;
    if (D != 64 && D != 128)
        return fail("rotation of rows: expected a head width of 64 or 128, got %d", D);
    if (H < 1 || G < 1) return fail("rotation of rows: %d query heads and %d kv heads", H, G);
    if ((q_norm == NULL) != (k_norm == NULL))
        return fail("rotation of rows: a norm of %s, expected both or none",
                    q_norm ? "q only" : "k only");
    if (pos0 < 0 || n > room - pos0)
        return fail("rotation of rows: rows %d .. %d do not fit into room for %d", pos0,
                    pos0 + n - 1, room);
    if (n == 0) return 0;
    const size_t threads = (size_t)n * (H + 2 * G) * (D / 16);
    const dim3 grid((unsigned)((threads + BLOCK - 1) / BLOCK));
    if (D == 64)
        WITH_TYPE(type, (rotate<T, 64><<<grid, BLOCK, 0, stream>>>(a)));
    else
        WITH_TYPE(type, (rotate<T, 128><<<grid, BLOCK, 0, stream>>>(a)));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- silu(gate) * up */

/* e^-g from the base-2 unit and a division by reciprocal: off by 4e-7 + 6e-8 |g|, relative, which
 * the rounding to 16 bit hides. A gate so low that e^-g overflows gives 0, as it should. */
static __device__ __forceinline__ float silu(float g)
{
    return __fdividef(g, 1 + __expf(-g));
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    silu_up(T *out, const T *gate_up, const float *bias, int F, int pieces)
{
    const size_t row = blockIdx.x / pieces;
    const int f = (blockIdx.x % pieces * BLOCK + threadIdx.x) * 8;
    float gate[8], up[8];
    if (f >= F) return;
    const T *from = gate_up + row * 2 * F + f;
    const uint4 first = *(const uint4 *)from, second = *(const uint4 *)(from + F);
    unpack_8<T>(gate, first);
    unpack_8<T>(up, second);
    if (bias) {
        add_8(gate, bias + f);
        add_8(up, bias + F + f);
    }
    for (int i = 0; i < 8; i++) gate[i] = silu(gate[i]) * up[i];
    *(uint4 *)(out + row * F + f) = pack_8<T>(gate);
}

int cuda_silu_rows(void *out, const void *gate_up, const float *bias, int n, int F, enum dtype type,
                   cudaStream_t stream)
{
    if (check("silu of rows", type, n, F)) return -1;
    if (n == 0) return 0;
    const int pieces = (F / 8 + BLOCK - 1) / BLOCK;
    WITH_TYPE(type, (silu_up<T><<<grid_of(n, pieces), BLOCK, 0, stream>>>(
                        (T *)out, (const T *)gate_up, bias, F, pieces)));
    CUDA_TRY(cudaGetLastError());
    return 0;
}

/* ---- bias of a product that was added to x */

static __global__ void __launch_bounds__(BLOCK)
    add_bias(float *x, const float *bias, int E, int pieces)
{
    const size_t row = blockIdx.x / pieces;
    const int e = (blockIdx.x % pieces * BLOCK + threadIdx.x) * 4;
    if (e >= E) return;
    float4 *at = (float4 *)(x + row * E + e);
    const float4 b = *(const float4 *)(bias + e);
    float4 v = *at;
    v.x += b.x, v.y += b.y, v.z += b.z, v.w += b.w;
    *at = v;
}

int cuda_bias_rows(float *x, const float *bias, int n, int E, cudaStream_t stream)
{
    if (check("bias of rows", DTYPE_BF16, n, E)) return -1;
    if (n == 0) return 0;
    const int pieces = (E / 4 + BLOCK - 1) / BLOCK;
    add_bias<<<grid_of(n, pieces), BLOCK, 0, stream>>>(x, bias, E, pieces);
    CUDA_TRY(cudaGetLastError());
    return 0;
}
