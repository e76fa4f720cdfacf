/* cuda_times.cu - how long each kernel of a decode step takes, beside what it must move.
 *
 * A kernel is launched many times from a captured graph, over weights or keys and values that
 * change from launch to launch and are together larger than the caches, so that neither the host
 * nor a cache is in the figure. What is between two kernels of a graph is.
 */
#include "core/ops/cuda_util.cuh"

extern "C" {
#include "core/ops/cuda_ceilings.h"
}

#include <stdlib.h>
#include <string.h>

enum { REPLAYS = 15, MOST_LAUNCHES = 200, HOST_TOKENS = 131072, ROWS_MAX = 256 };

/* What the kernels work on. */
struct stage {
    const struct model_config *c;
    const struct weights *w;
    cudaStream_t stream;
    enum dtype type;
    int k; /* selected */
    int T; /* the context at work */
    int copies;

    char *kv;        /* [copies, 2, G, T, D] */
    size_t kv_bytes; /* there is room for */
    char *host;      /* pinned: [host_tokens, 2, G, D] */
    int host_tokens;
    char *packed;                   /* [2, G, k, D] */
    float *x, *q, *h, *out, *spare; /* inputs; outputs, as wide as any product */
    float *seen, *rotations;        /* [H, span]: logits, scores; [D] of position 0 */
    int *pos, *zero, *count, *tail; /* device: T - 1, 0, k, T */
    int *found;                     /* two more, out */
    int *lists, *idx;               /* [LISTS, k] ascending; [k] out */
    void *decode_work, *select_work;
    size_t span;

    struct kernel_time *rows;
    int n;
};

enum { LISTS = 16 };

typedef int (*launcher)(const struct stage *s, int i); /* the I-th launch */

/* ---- memory, released by close_stage() */

static int get(const struct stage *s, void **p, size_t bytes)
{
    CUDA_TRY(cudaMalloc(p, bytes));
    CUDA_TRY(cudaMemsetAsync(*p, 0, bytes, s->stream));
    return 0;
}
#define GET(s, p, bytes) get(s, (void **)&(p), bytes)

/* N float32 values in [-1, 1), by way of 16-bit ones where keys and values will be. */
static int get_random(const struct stage *s, float **p, size_t n)
{
    if (GET(s, *p, n * sizeof **p) || cuda_fill_uniform(s->kv, n, DTYPE_BF16, n, 1, s->stream))
        return -1;
    return cuda_widen(*p, s->kv, n, DTYPE_BF16, s->stream);
}

static int put(const struct stage *s, int *to, const int *from, size_t n)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyHostToDevice, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return 0;
}

/* LISTS ascending lists of k positions below T, spread evenly with a jitter. */
static int put_lists(const struct stage *s, int T)
{
    const size_t n = (size_t)LISTS * s->k;
    int *lists = (int *)xmalloc(n * sizeof *lists);
    struct rng r;
    rng_seed(&r, 7);
    for (int l = 0; l < LISTS; l++)
        for (int i = 0; i < s->k; i++) {
            const int64_t from = (int64_t)i * T / s->k, to = (int64_t)(i + 1) * T / s->k;
            lists[l * s->k + i] =
                (int)(from + (to > from ? rng_below(&r, (uint32_t)(to - from)) : 0));
        }
    const int rc = put(s, s->lists, lists, n);
    free(lists);
    return rc;
}

static int open_stage(struct stage *s, const int *contexts, int n)
{
    const struct model_config *c = s->c;
    const size_t row = (size_t)c->G * c->D * 2, l2 = cuda_device()->l2; /* K or V of a token */
    size_t wide = (size_t)c->V > 2 * (size_t)c->F ? (size_t)c->V : 2 * (size_t)c->F;
    int longest = 0;
    for (int i = 0; i < n; i++) longest = contexts[i] > longest ? contexts[i] : longest;
    if (wide < (size_t)(c->H + 2 * c->G) * c->D) wide = (size_t)(c->H + 2 * c->G) * c->D;
    if (wide < (size_t)c->E) wide = (size_t)c->E;
    s->span = ((size_t)longest + 3) / 4 * 4;
    s->kv_bytes = 4 * l2 + 4 * row * (size_t)(longest > s->k ? longest : s->k);
    s->host_tokens = longest < HOST_TOKENS ? longest : HOST_TOKENS;
    if (s->host_tokens < s->k) s->host_tokens = s->k;
    s->rows = (struct kernel_time *)xcalloc(ROWS_MAX, sizeof *s->rows);

    if (GET(s, s->kv, s->kv_bytes) || GET(s, s->packed, 2 * row * (size_t)s->k) ||
        get_random(s, &s->x, wide) || get_random(s, &s->h, (size_t)c->F) ||
        get_random(s, &s->q, (size_t)c->H * c->D) || get_random(s, &s->rotations, (size_t)c->D) ||
        GET(s, s->out, wide * 4) || GET(s, s->spare, wide * 4) ||
        GET(s, s->seen, (size_t)c->H * s->span * 4) || GET(s, s->pos, 8 * sizeof(int)) ||
        GET(s, s->lists, (size_t)LISTS * s->k * sizeof(int)) ||
        GET(s, s->idx, (size_t)s->k * sizeof(int)) ||
        GET(s, s->decode_work, cuda_decode_work(1, c->H, c->G, c->D)) ||
        GET(s, s->select_work, cuda_select_work(1, longest)))
        return -1;
    s->zero = s->pos + 1;
    s->count = s->pos + 2;
    s->tail = s->pos + 3;
    s->found = s->pos + 4;
    CUDA_TRY(
        cudaHostAlloc((void **)&s->host, 2 * row * (size_t)s->host_tokens, cudaHostAllocDefault));
    if (cuda_fill_uniform(s->kv, s->kv_bytes / 2, s->type, 1, 1, s->stream) ||
        cuda_fill_uniform(s->host, row * (size_t)s->host_tokens, s->type, 2, 1, s->stream))
        return -1;
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return 0;
}

static void close_stage(struct stage *s)
{
    void *const owned[] = {s->kv,    s->packed, s->x,           s->q,          s->h,
                           s->out,   s->spare,  s->seen,        s->rotations,  s->pos,
                           s->lists, s->idx,    s->decode_work, s->select_work};
    cudaStreamSynchronize(s->stream);
    for (size_t i = 0; i < COUNT_OF(owned); i++) cudaFree(owned[i]);
    cudaFreeHost(s->host);
}

/* Positions are T: what follows is at that context. */
static int set_context(struct stage *s, int T)
{
    const size_t one = 4 * (size_t)s->c->G * s->c->D * (size_t)T; /* bytes of K and V */
    const int values[4] = {T - 1, 0, s->k < T ? s->k : T, T};
    s->T = T;
    s->copies = (int)(s->kv_bytes / one < 64 ? s->kv_bytes / one : 64);
    return put(s, s->pos, values, 4) || put_lists(s, T) ? -1 : 0;
}

/* ---- the kernels */

static const struct layer_weights *layer_of(const struct stage *s, int i)
{
    return &s->w->layer[i % s->c->L];
}

/* The attention of launch I over everything. */
static struct cuda_decode attention(const struct stage *s, int i)
{
    const size_t plane = 2 * (size_t)s->c->G * s->c->D * (size_t)s->T;
    struct cuda_decode a = {};
    a.out = s->out;
    a.q = s->q;
    a.k = s->kv + 2 * plane * (size_t)(i % s->copies);
    a.v = (const char *)a.k + plane;
    a.room = a.most = s->T;
    a.pos = s->pos;
    a.n = 1;
    a.H = s->c->H;
    a.G = s->c->G;
    a.D = s->c->D;
    a.type = s->type;
    a.sets = 1;
    a.span = s->span;
    a.work = s->decode_work;
    return a;
}

static int run_plain(const struct stage *s, int i)
{
    const struct cuda_decode a = attention(s, i);
    return cuda_decode_attention(&a, s->stream);
}

static int run_scores(const struct stage *s, int i)
{
    struct cuda_decode a = attention(s, i);
    a.scores = s->seen;
    return cuda_decode_attention(&a, s->stream);
}

static int run_logits(const struct stage *s, int i)
{
    struct cuda_decode a = attention(s, i);
    a.logits = s->seen;
    return cuda_decode_attention(&a, s->stream);
}

static int run_listed(const struct stage *s, int i)
{
    struct cuda_decode a = attention(s, i);
    a.first = FIRST_LIST;
    a.idx = s->lists + (size_t)(i % LISTS) * s->k;
    a.stride = s->k;
    a.count = s->count;
    a.tail = s->tail;
    a.most = s->k;
    return cuda_decode_attention(&a, s->stream);
}

static int run_packed(const struct stage *s, int i)
{
    struct cuda_decode a = attention(s, i);
    a.first = FIRST_PACKED;
    a.stride = s->k;
    a.count = s->count;
    a.tail = s->tail;
    a.most = s->k;
    /* a part of the keys and values at each launch: rows that a cache holds would be another case
     */
    const size_t plane = 2 * (size_t)s->c->G * s->c->D * (size_t)s->k;
    a.packed_k = s->kv + 2 * plane * ((size_t)i % (s->kv_bytes / (2 * plane)));
    a.packed_v = (const char *)a.packed_k + plane;
    return cuda_decode_attention(&a, s->stream);
}

static int run_select(const struct stage *s, int i)
{
    struct cuda_select a = {};
    (void)i;
    a.idx = s->idx;
    a.count = s->found;
    a.tail = s->found + 1;
    a.score = s->seen;
    a.span = s->span;
    a.pos = s->tail;
    a.n_prefill = a.most = s->T;
    a.sets = a.refresh = 1;
    a.pooled = s->c->G;
    a.stride = a.budget = s->k < s->T ? s->k : s->T;
    a.work = s->select_work;
    return cuda_select_row(&a, s->stream);
}

static int run_top_k(const struct stage *s, int i)
{
    return cuda_top_k(s->idx, s->seen + (size_t)(i % s->c->G) * s->span, s->T,
                      s->k < s->T ? s->k : s->T, s->select_work, s->stream);
}

static int run_gather(const struct stage *s, int i)
{
    return cuda_gather_rows(s->packed, s->packed + 2 * (size_t)s->c->G * s->c->D * (size_t)s->k,
                            s->host, s->lists + (size_t)(i % LISTS) * s->k, s->count, 1, s->k,
                            s->c->G, s->c->D, PART_BOTH, s->stream);
}

static int run_qkv(const struct stage *s, int i)
{
    const struct model_config *c = s->c;
    const struct layer_weights *w = layer_of(s, i);
    const size_t half = (size_t)c->D / 2;
    struct cuda_qkv a = {};
    a.x = s->x;
    a.gain = w->attn_norm;
    a.eps = c->norm_eps;
    a.w = w->q.data;
    a.bias = w->q_bias;
    a.q_norm = w->q_norm;
    a.k_norm = w->k_norm;
    a.cosine = s->rotations;
    a.sine = s->rotations + half;
    a.pos = s->zero;
    a.q = s->out;
    a.k = s->packed;
    a.v = s->packed + 2 * (size_t)c->G * c->D * (size_t)s->k;
    a.room = s->k;
    a.E = c->E;
    a.H = c->H;
    a.G = c->G;
    a.D = c->D;
    a.type = s->type;
    a.raw = s->spare;
    return cuda_qkv_row(&a, s->stream);
}

static int run_o(const struct stage *s, int i)
{
    const struct layer_weights *w = layer_of(s, i);
    return cuda_add_row(s->out, NULL, NULL, w->o.data, w->o_bias, s->x, w->o.rows, w->o.cols,
                        s->type, s->stream);
}

static int run_gate_up(const struct stage *s, int i)
{
    const struct layer_weights *w = layer_of(s, i);
    return cuda_gate_up_row(s->h, s->x, w->mlp_norm, s->c->norm_eps, w->gate.data, w->gate_bias,
                            s->c->E, s->c->F, s->type, s->stream);
}

static int run_down(const struct stage *s, int i)
{
    const struct layer_weights *w = layer_of(s, i);
    return cuda_add_row(s->out, NULL, NULL, w->down.data, w->down_bias, s->h, s->c->E, s->c->F,
                        s->type, s->stream);
}

static int run_head(const struct stage *s, int i)
{
    (void)i;
    return cuda_head_row(s->out, s->x, s->w->norm, s->c->norm_eps, s->w->head.data, s->c->E,
                         s->c->V, s->type, s->stream);
}

/* ---- their times */

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Microseconds of a launch, the median over replays of a graph of LAUNCHES. */
static int time_graph(const struct stage *s, launcher run, int launches, cudaEvent_t begin,
                      cudaEvent_t end, double *us)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    float ms[REPLAYS];
    int rc = -1, bad = 0;

    CUDA_TRY(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches && bad == 0; i++) bad = run(s, i);
    cudaError_t e = cudaStreamEndCapture(s->stream, &graph); /* also where a launch has failed */
    if (bad) goto done;
    if (e == cudaSuccess) e = cudaGraphInstantiate(&exec, graph, 0);
    for (int i = -2; i < REPLAYS && e == cudaSuccess; i++) {
        cudaEventRecord(begin, s->stream);
        e = cudaGraphLaunch(exec, s->stream);
        cudaEventRecord(end, s->stream);
        if (e == cudaSuccess) e = cudaEventSynchronize(end);
        if (e == cudaSuccess && i >= 0) e = cudaEventElapsedTime(&ms[i], begin, end);
    }
    if (e != cudaSuccess) {
        fail("a kernel to be timed: %s", cudaGetErrorString(e));
        goto done;
    }
    qsort(ms, REPLAYS, sizeof *ms, by_value);
    *us = ms[REPLAYS / 2] * 1e3 / launches;
    rc = 0;

done:
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
    return rc;
}

/* Adds the row of RUN: NAME at T positions moves BYTES. As many launches as take two milliseconds.
 */
static int add(struct stage *s, launcher run, const char *name, int T, double bytes, bool link)
{
    cudaEvent_t begin = NULL, end = NULL;
    struct kernel_time *row = &s->rows[s->n];
    double us = 0;
    int rc = -1;

    if (s->n == ROWS_MAX) return fail("more than %d kernels to be timed", ROWS_MAX);
    CUDA_TRY(cudaEventCreate(&begin));
    CUDA_TRY(cudaEventCreate(&end));
    /* once as it is: what a capture does not allow, such as loading code, is then done */
    if (run(s, 0) == 0 && time_graph(s, run, 4, begin, end, &us) == 0) {
        const double wanted = 2000 / (us > 1 ? us : 1);
        const int launches = wanted < 8 ? 8 : wanted < MOST_LAUNCHES ? (int)wanted : MOST_LAUNCHES;
        rc = time_graph(s, run, launches, begin, end, &us);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    if (rc) return -1;
    snprintf(row->name, sizeof row->name, "%s", name);
    row->T = T;
    row->us = us;
    row->bytes = bytes;
    row->link = link;
    s->n++;
    return 0;
}

static double matrix_bytes(const struct matrix *m)
{
    return 2.0 * m->rows * m->cols;
}

static int time_products(struct stage *s)
{
    const struct model_config *c = s->c;
    const struct layer_weights *w = s->w->layer;
    const double qkv = matrix_bytes(&w->q) + matrix_bytes(&w->k) + matrix_bytes(&w->v);
    return add(s, run_qkv, "norm, q, k, v, RoPE", 0, qkv, false) ||
                   add(s, run_o, "attention output", 0, matrix_bytes(&w->o), false) ||
                   add(s, run_gate_up, "norm, gate, up, SiLU", 0,
                       matrix_bytes(&w->gate) + matrix_bytes(&w->up), false) ||
                   add(s, run_down, "down", 0, matrix_bytes(&w->down), false) ||
                   add(s, run_head, "norm, head", 0, 2.0 * c->V * c->E, false)
               ? -1
               : 0;
}

static int time_context(struct stage *s, int T)
{
    const struct model_config *c = s->c;
    const double all = 4.0 * c->G * c->D * T;
    const int k = s->k < T ? s->k : T;
    const double some = 4.0 * c->G * c->D * k;
    char *select = xprintf("top %d of the scores of %d kv heads", k, c->G),
         *top = xprintf("top %d", k), *listed = xprintf("attention of a list of %d", k);
    const int rc = set_context(s, T) || add(s, run_plain, "attention", T, all, false) ||
                   add(s, run_scores, "attention, scores", T, all + 4.0 * c->G * T, false) ||
                   add(s, run_select, select, T, 4.0 * c->G * T, false) ||
                   add(s, run_top_k, top, T, 4.0 * T, false) ||
                   add(s, run_logits, "attention, logits", T, all + 4.0 * c->H * T, false) ||
                   add(s, run_listed, listed, T, some, false);
    free(select);
    free(top);
    free(listed);
    return rc ? -1 : 0;
}

static int time_offload(struct stage *s)
{
    char *gather = xprintf("gather of %d from the host", s->k),
         *packed = xprintf("attention of %d gathered", s->k);
    const double bytes = 4.0 * s->c->G * s->c->D * s->k;
    const int rc = set_context(s, s->host_tokens) ||
                   add(s, run_gather, gather, s->host_tokens, bytes, true) ||
                   add(s, run_packed, packed, 0, bytes, false);
    free(gather);
    free(packed);
    return rc ? -1 : 0;
}

int cuda_kernel_times(const struct model_config *c, const struct weights *w, const int *contexts,
                      int n, int k, struct kernel_time **rows, int *count, cudaStream_t stream)
{
    struct stage s = {};
    s.c = c;
    s.w = w;
    s.stream = stream;
    s.type = w->layer[0].q.type;
    s.k = k;
    int rc = open_stage(&s, contexts, n) || time_products(&s);
    for (int i = 0; i < n && rc == 0; i++) rc = time_context(&s, contexts[i]);
    if (rc == 0) rc = time_offload(&s);
    close_stage(&s);
    *rows = s.rows;
    *count = s.n;
    if (rc == 0) return 0;
    free(s.rows);
    *rows = NULL;
    return -1;
}
