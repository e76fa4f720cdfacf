/* cuda.c - the CUDA backend: the table of ops over the launchers of cuda_kernels.h, passes, graphs.
 *
 * A pass of one row goes through the decode kernels, one of more through cuBLAS and the prefill's.
 * In a pass of many rows q and the attention's output are 16-bit, behind the same pointers.
 */
#include "core/ops/cuda_ceilings.h"
#include "core/ops/cuda_state.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

#define SHORT_ATTENTION ((size_t)32 << 20) /* bytes of keys and values: less than the L2 holds */

struct cuda cuda;

/* ---- faults */

void cuda_did(int rc)
{
    if (rc) cuda.broken = true;
}

void cuda_check(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    if (!cuda.broken) fail("GPU %s: %s: %s", cuda_device()->name, what, cudaGetErrorString(e));
    cuda.broken = true;
}

static void check_blas(cublasStatus_t status)
{
    if (status == CUBLAS_STATUS_SUCCESS) return;
    if (!cuda.broken)
        fail("GPU %s: cuBLAS: %s", cuda_device()->name, cublasGetStatusString(status));
    cuda.broken = true;
}

/* ---- memory */

void *cuda_alloc(size_t bytes, const char *what)
{
    void *p = NULL;
    size_t free_bytes = 0, total = 0;
    const cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaSuccess) return p;
    (void)cudaGetLastError();
    if (e == cudaErrorMemoryAllocation) {
        cudaMemGetInfo(&free_bytes, &total);
        fail("%s: %.2f GB of GPU memory asked for, %.2f of %.2f GB are free", what,
             (double)bytes / 1e9, (double)free_bytes / 1e9, (double)total / 1e9);
    } else {
        fail("GPU %s: %s: %s", cuda_device()->name, what, cudaGetErrorString(e));
    }
    return NULL;
}

void cuda_release(void *p)
{
    if (p) cudaFree(p); /* waits for what uses it */
}

static void put(void *to, const void *from, size_t bytes)
{
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda.stream), "copy");
    cuda_check(cudaStreamSynchronize(cuda.stream), "copy");
}

static void run_chain(size_t next_bytes);

static void get(void *to, const void *from, size_t bytes)
{
    run_chain(0); /* FROM may be what it makes */
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda.stream), "copy");
    cuda_check(cudaStreamSynchronize(cuda.stream), "copy");
}

static void fill(void *to, size_t n, uint64_t seed, float limit)
{
    cuda_did(cuda_fill_uniform(to, n, DTYPE_BF16, seed, limit, cuda.stream));
}

void *cuda_work(enum cuda_work_kind kind, size_t bytes)
{
    struct cuda_work *w = &cuda.work[kind];
    if (bytes > w->bytes) {
        cuda_release(w->p);
        w->bytes = 0;
        cuda.generation++;
        if ((w->p = cuda_alloc(bytes, "working memory")) == NULL) {
            cuda.broken = true;
            return NULL;
        }
        w->bytes = bytes;
        cuda_check(cudaMemsetAsync(w->p, 0, bytes, cuda.stream), "clear");
    }
    return w->p;
}

/* 16-bit scratch after `floats` of float32. */
static void *halves_after(float *scratch, size_t floats)
{
    return scratch + (floats + 3) / 4 * 4;
}

/* ---- products of one row, put off until something reads what they write: one kernel then runs
 * them all, and the weights of each arrive while the one before it ends */

static struct {
    struct cuda_link link[CUDA_CHAIN_LINKS];
    struct cuda_qkv qkv;
    enum dtype type;
    int n;
    const void *next; /* the attention output's weights: what is read after the attention */
    size_t next_bytes;
    bool beside; /* the session gathers */
    bool ran;    /* the last of them as one kernel */
} chain;

static int run_link(const struct cuda_link *l)
{
    switch (l->kind) {
    case LINK_ADD:
        return cuda_add_row(l->out, l->delta, l->before, l->w, l->bias, l->in, l->rows, l->cols,
                            chain.type, cuda.stream);
    case LINK_GATE_UP:
        return cuda_gate_up_row(l->out, l->in, l->gain, l->eps, l->w, l->bias, l->cols, l->rows / 2,
                                chain.type, cuda.stream);
    case LINK_QKV:
        return cuda_qkv_row(l->qkv, cuda.stream);
    case LINK_HEAD:
        return cuda_head_row(l->out, l->in, l->gain, l->eps, l->w, l->cols, l->rows, chain.type,
                             cuda.stream);
    }
    return -1;
}

/* Runs what was put off; NEXT_BYTES of what comes after may be fetched ahead. */
static void run_chain(size_t next_bytes)
{
    void *work = chain.n ? cuda_work(WORK_CHAIN, cuda_chain_work()) : NULL;
    int rc = cuda.broken || work == NULL
                 ? 0
                 : cuda_chain_row(chain.link, chain.n, chain.type, next_bytes ? chain.next : NULL,
                                  next_bytes, chain.beside, work, cuda.stream);
    for (int i = 0; i < chain.n && rc == 1; i++)
        if (run_link(&chain.link[i])) rc = -1;
    chain.ran = rc == 0 && chain.n > 0;
    cuda_did(rc < 0);
    chain.n = 0;
}

void cuda_run_products(size_t read)
{
    run_chain(read < SHORT_ATTENTION ? chain.next_bytes : 0);
}

static void put_off(struct cuda_link link, enum dtype type)
{
    if (chain.n == CUDA_CHAIN_LINKS) run_chain(0);
    chain.type = type;
    chain.link[chain.n++] = link;
}

/* ---- passes */

static void pass_begin(const int *ids, int n, int pos0, bool step)
{
    run_chain(0); /* of the chunk before, at its position */
    cuda_did(cuda_set_step(cuda.pos, cuda.token, pos0, ids ? ids[0] : 0, cuda.stream));
    /* a kernel may read the position before it waits for the one before it; steps see to it */
    if (n == 1 && !step) cuda_check(cudaStreamSynchronize(cuda.stream), "position");
    if (n == 1 || ids == NULL) return;
    if ((size_t)n > cuda.ids_room) {
        cuda_release(cuda.ids);
        cuda.ids_room = (size_t)n;
        cuda.ids = cuda_alloc((size_t)n * sizeof *cuda.ids, "token ids");
        if (cuda.ids == NULL) {
            cuda.ids_room = 0;
            cuda.broken = true;
            return;
        }
    }
    cuda_check(cudaMemcpyAsync(cuda.ids, ids, (size_t)n * sizeof *ids, cudaMemcpyHostToDevice,
                               cuda.stream),
               "token ids");
}

static void graph_free(struct step_graph *g)
{
    if (g->exec) {
        cudaStreamSynchronize(cuda.stream);
        cudaGraphExecDestroy(g->exec);
    }
    *g = (struct step_graph){0};
}

static bool replay(struct step_graph *g)
{
    if (g->exec && g->generation == cuda.generation) {
        cuda_check(cudaGraphLaunch(g->exec, cuda.stream), "step");
        return true;
    }
    if (g->exec) cudaGraphExecDestroy(g->exec);
    g->exec = NULL;
    /* kernels of a step may read the position before they wait for each other */
    cuda_check(cudaStreamSynchronize(cuda.stream), "position");
    if (g->warm && !cuda.broken) {
        cuda_check(cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeThreadLocal), "graph");
        cuda.recording = !cuda.broken;
    }
    return false;
}

static void recorded(struct step_graph *g, bool failed)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    run_chain(0);
    if (!cuda.recording) {
        g->warm = !failed;
        return;
    }
    cuda.recording = false;
    const cudaError_t e = cudaStreamEndCapture(cuda.stream, &graph);
    if (!failed) cuda_check(e, "graph");
    if (!failed && !cuda.broken) {
        cuda_check(cudaGraphInstantiate(&exec, graph, 0), "graph");
        if (!cuda.broken) cuda_check(cudaGraphLaunch(exec, cuda.stream), "step");
        g->exec = exec;
        g->generation = cuda.generation;
    }
    if (graph) cudaGraphDestroy(graph);
    if (failed) (void)cudaGetLastError(); /* of a recording cut short: the hook has said why */
}

static void results(const float *logits, const struct outcome *outcome, int n, int V,
                    const float **out, const struct outcome **seen)
{
    if (cuda.broken) return;
    /* outcomes first: a replayed step leaves its own where the recorded one did */
    const size_t first = ((size_t)n * sizeof *outcome + 63) / 64 * 64;
    const size_t bytes = first + (size_t)n * (size_t)V * sizeof *logits;
    if (bytes > cuda.results_bytes) {
        cudaFreeHost(cuda.results);
        cuda.results = NULL;
        cuda.results_bytes = 0;
        cuda.generation++;
        const cudaError_t e = cudaHostAlloc(&cuda.results, bytes, cudaHostAllocDefault);
        cuda_check(e, "memory for logits");
        if (e != cudaSuccess) return;
        cuda.results_bytes = bytes;
    }
    *out = (const float *)((const char *)cuda.results + first);
    *seen = cuda.results;
    if (logits)
        cuda_check(cudaMemcpyAsync((char *)cuda.results + first, logits, bytes - first,
                                   cudaMemcpyDeviceToHost, cuda.stream),
                   "logits");
    cuda_check(cudaMemcpyAsync(cuda.results, outcome, (size_t)n * sizeof *outcome,
                               cudaMemcpyDeviceToHost, cuda.stream),
               "logits");
}

static int pass_end(void)
{
    run_chain(0);
    cuda_check(cudaStreamSynchronize(cuda.stream), "step");
    cuda_check(cudaGetLastError(), "step");
    const bool broken = cuda.broken;
    cuda.broken = false;
    return broken ? -1 : 0;
}

/* ---- products */

/* out [n, rows] (+)= x [n, cols] W^T; OUT is float32 or the matrix's type. */
static void product(void *out, bool wide, bool add, const void *x, const void *w, enum dtype type,
                    int n, int rows, int cols)
{
    const float one = 1, beta = add ? 1 : 0;
    const cudaDataType_t half = type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
    check_blas(cublasGemmEx(cuda.blas, CUBLAS_OP_T, CUBLAS_OP_N, rows, n, cols, &one, w, half, cols,
                            x, half, cols, &beta, out, wide ? CUDA_R_32F : half, rows,
                            CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

static void embed(float *x, const struct matrix *table, const int *ids, int n)
{
    if (cuda.broken) return;
    (void)ids; /* pass_begin() brought them */
    if (n == 1)
        cuda_did(cuda_embed_row(x, table->data, table->type, cuda.token, table->cols, cuda.stream));
    else
        cuda_did(
            cuda_embed_rows(x, table->data, table->type, cuda.ids, n, table->cols, cuda.stream));
}

static void attn_in(float *q, struct kv_layer *kv, const float *x, int n, int pos0,
                    const struct layer_weights *w, const struct model_config *c,
                    struct rope_table rope, struct scratch *s)
{
    if (cuda.broken) return;
    const struct cuda_kv *d = kv->cuda;
    const size_t N = (size_t)n, all = (size_t)(c->H + 2 * c->G) * (size_t)c->D;
    cuda.type = w->q.type;
    if (n == 1) {
        const struct cuda_qkv a = {.x = x,
                                   .gain = w->attn_norm,
                                   .eps = c->norm_eps,
                                   .w = w->q.data,
                                   .bias = w->q_bias,
                                   .q_norm = w->q_norm,
                                   .k_norm = w->k_norm,
                                   .cosine = rope.cos,
                                   .sine = rope.sin,
                                   .pos = cuda.pos,
                                   .q = q,
                                   .k = d->k,
                                   .v = d->v,
                                   .room = d->room,
                                   .base = d->base,
                                   .E = c->E,
                                   .H = c->H,
                                   .G = c->G,
                                   .D = c->D,
                                   .type = w->q.type,
                                   .raw = scratch_get(s, all)};
        if (chain.n == CUDA_CHAIN_LINKS) run_chain(0);
        chain.qkv = a;
        chain.next = w->o.data;
        chain.beside = d->beside;
        chain.next_bytes = 2 * (size_t)w->o.rows * (size_t)w->o.cols;
        put_off((struct cuda_link){.kind = LINK_QKV, .qkv = &chain.qkv}, w->q.type);
        return;
    }
    run_chain(0);
    uint16_t *norm = (uint16_t *)scratch_get(s, (N * ((size_t)c->E + all) + 16) / 2);
    uint16_t *qkv = norm + N * (size_t)c->E;
    cuda_did(cuda_norm_rows(norm, x, w->attn_norm, c->norm_eps, n, c->E, w->q.type, cuda.stream));
    product(qkv, false, false, norm, w->q.data, w->q.type, n, (int)all, c->E);
    cuda_did(cuda_rotate_rows(q, NULL, d->k, d->v, d->room, qkv, w->q_bias, w->q_norm, w->k_norm,
                              c->norm_eps, rope.cos, rope.sin, n, pos0, c->H, c->G, c->D, w->q.type,
                              cuda.stream));
}

static void attend_all(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                       const struct model_config *c, float *lse, struct scratch *s)
{
    if (cuda.broken) return;
    const struct cuda_kv *d = kv->cuda;
    const struct cuda_prefill a = {.out = out,
                                   .lse = lse,
                                   .q = q,
                                   .k = d->k,
                                   .v = d->v,
                                   .n = n,
                                   .pos0 = pos0,
                                   .room = d->room,
                                   .H = c->H,
                                   .G = c->G,
                                   .D = c->D,
                                   .type = d->type};
    (void)s;
    cuda_did(cuda_prefill_attention(&a, cuda.stream));
}

/* The part of an attention's arguments that the layer decides. */
struct cuda_decode cuda_decode_of(float *out, const float *q, const struct cuda_kv *d, int n,
                                  const struct model_config *c)
{
    return (struct cuda_decode){.out = out,
                                .q = q,
                                .k = d->k,
                                .v = d->v,
                                .room = d->room,
                                .base = d->base,
                                .pos = cuda.pos,
                                .n = n,
                                .H = c->H,
                                .G = c->G,
                                .D = c->D,
                                .type = d->type,
                                .sets = 1,
                                .most = d->room,
                                .beside = d->beside,
                                .work =
                                    cuda_work(WORK_DECODE, cuda_decode_work(n, c->H, c->G, c->D))};
}

static void attend_rows(float *out, const float *q, const struct kv_layer *kv, int n, int pos0,
                        int pos_step, struct attn_view view, struct attn_seen seen,
                        const struct model_config *c, struct scratch *s)
{
    struct cuda_kv *d = kv->cuda;
    struct cuda_decode a = cuda_decode_of(out, q, d, n, c);
    (void)pos0, (void)pos_step, (void)s; /* the position is the backend's */
    a.logits = seen.logits;
    a.scores = seen.scores;
    a.lse = seen.lse;
    a.span = seen.span;
    const bool away = d->place != KV_HERE && d->base > 0; /* not while it is prefilled */
    if (view.idx) {
        a.first = away && d->place == KV_ROWS ? FIRST_PACKED : FIRST_LIST;
        a.idx = view.idx;
        a.sets = view.sets;
        a.stride = view.stride;
        a.count = view.count;
        a.tail = view.tail;
        a.most = view.stride + d->steps;
    }
    if (away && d->place == KV_WHOLE) {
        a.first = FIRST_PACKED;
        a.stride = d->shared->n_prefill;
        a.count = a.tail = d->shared->count;
        a.most = d->shared->n_prefill + d->steps;
    }
    a.packed_k = d->packed_k;
    a.packed_v = d->packed_v;
    /* a short attention leaves the memory idle: time to fetch what comes after it */
    const size_t read = 4 * (size_t)c->G * (size_t)c->D * (size_t)a.most;
    cuda_run_products(read);
    if (cuda.broken || a.work == NULL) return;
    if (away) cuda_kv_await(d, c);
    a.settled = chain.ran; /* a selection is made before the products that go before its use */
    cuda_did(cuda_decode_attention(&a, cuda.stream));
    if (away && d->place == KV_WHOLE) cuda_kv_used(d);
}

static void attn_logits(float *logits, size_t span, const float *q, const struct kv_layer *kv,
                        int n, int pos0, const struct model_config *c)
{
    if (cuda.broken) return;
    for (int r = 0; r < n; r++) {
        const size_t row = (size_t)c->H * (size_t)c->D;
        float *out = cuda_work(WORK_POOL, row * sizeof *out); /* what it attends to is not asked */
        struct cuda_decode a = cuda_decode_of(out, q + (size_t)r * row, kv->cuda, 1, c);
        cuda_did(cuda_set_step(cuda.aux, cuda.aux + 1, pos0 + r, 0, cuda.stream));
        cuda_check(cudaStreamSynchronize(cuda.stream), "position");
        a.pos = cuda.aux;
        a.logits = logits + (size_t)r * (size_t)c->H * span;
        a.span = span;
        if (out && a.work) cuda_did(cuda_decode_attention(&a, cuda.stream));
    }
}

static void attn_out(float *x, float *delta, float *before, const float *attention, int n,
                     const struct layer_weights *w, const struct model_config *c, struct scratch *s)
{
    if (cuda.broken) return;
    (void)s;
    if (n == 1) {
        put_off((struct cuda_link){.kind = LINK_ADD,
                                   .rows = w->o.rows,
                                   .cols = w->o.cols,
                                   .w = w->o.data,
                                   .in = attention,
                                   .bias = w->o_bias,
                                   .out = x,
                                   .delta = delta,
                                   .before = before},
                w->o.type);
        return;
    }
    const size_t bytes = (size_t)n * (size_t)c->E * sizeof *x;
    if (before)
        cuda_check(cudaMemcpyAsync(before, x, bytes, cudaMemcpyDeviceToDevice, cuda.stream),
                   "copy");
    product(x, true, true, attention, w->o.data, w->o.type, n, w->o.rows, w->o.cols);
    if (w->o_bias) cuda_did(cuda_bias_rows(x, w->o_bias, n, c->E, cuda.stream));
}

static void mlp(float *x, int n, const struct layer_weights *w, const struct model_config *c,
                struct scratch *s)
{
    if (cuda.broken) return;
    const size_t N = (size_t)n, E = (size_t)c->E, F = (size_t)c->F;
    const enum dtype type = w->gate.type;
    if (n == 1) {
        float *h = scratch_get(s, F);
        put_off((struct cuda_link){.kind = LINK_GATE_UP,
                                   .rows = 2 * c->F,
                                   .cols = c->E,
                                   .w = w->gate.data,
                                   .in = x,
                                   .gain = w->mlp_norm,
                                   .bias = w->gate_bias,
                                   .eps = c->norm_eps,
                                   .out = h},
                type);
        put_off((struct cuda_link){.kind = LINK_ADD,
                                   .rows = c->E,
                                   .cols = c->F,
                                   .w = w->down.data,
                                   .in = h,
                                   .bias = w->down_bias,
                                   .out = x},
                type);
        return;
    }
    uint16_t *norm = (uint16_t *)scratch_get(s, (N * (E + 3 * F) + 16) / 2);
    uint16_t *gate_up = norm + N * E, *h = gate_up + 2 * N * F;
    cuda_did(cuda_norm_rows(norm, x, w->mlp_norm, c->norm_eps, n, c->E, type, cuda.stream));
    product(gate_up, false, false, norm, w->gate.data, type, n, 2 * c->F, c->E);
    cuda_did(cuda_silu_rows(h, gate_up, w->gate_bias, n, c->F, type, cuda.stream));
    product(x, true, true, h, w->down.data, type, n, c->E, c->F);
    if (w->down_bias) cuda_did(cuda_bias_rows(x, w->down_bias, n, c->E, cuda.stream));
}

static void head(float *logits, const float *x, int n, const struct weights *w,
                 const struct model_config *c, struct scratch *s)
{
    if (cuda.broken) return;
    if (n == 1) {
        put_off((struct cuda_link){.kind = LINK_HEAD,
                                   .rows = c->V,
                                   .cols = c->E,
                                   .w = w->head.data,
                                   .in = x,
                                   .gain = w->norm,
                                   .eps = c->norm_eps,
                                   .out = logits},
                w->head.type);
        run_chain(0);
        return;
    }
    run_chain(0);
    void *norm = scratch_get(s, ((size_t)n * (size_t)c->E + 16) / 2);
    cuda_did(cuda_norm_rows(norm, x, w->norm, c->norm_eps, n, c->E, w->head.type, cuda.stream));
    product(logits, true, false, norm, w->head.data, w->head.type, n, c->V, c->E);
}

static void outcomes(struct outcome *out, const float *logits, int n, int V, struct scratch *s)
{
    if (cuda.broken) return;
    void *work = cuda_work(WORK_OUTCOME, cuda_outcome_work(n));
    (void)s;
    if (work) cuda_did(cuda_outcomes((struct cuda_outcome *)out, logits, n, V, work, cuda.stream));
}

static void copy_queries(float *to, const float *q, int rows, int from, int n,
                         const struct model_config *c)
{
    if (cuda.broken) return;
    const size_t row = (size_t)c->H * (size_t)c->D, count = (size_t)n * row;
    run_chain(0);
    if (rows == 1)
        cuda_check(cudaMemcpyAsync(to, q + (size_t)from * row, count * sizeof *to,
                                   cudaMemcpyDeviceToDevice, cuda.stream),
                   "copy");
    else
        cuda_did(cuda_widen(to, (const uint16_t *)q + (size_t)from * row, count, cuda.type,
                            cuda.stream));
}

/* ---- selection */

static bool windowed(const struct select_rule *r)
{
    return r->selector == SELECT_UNIFORM || r->selector == SELECT_EXP;
}

static size_t span_of(int room)
{
    return ((size_t)room + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}

static int open_selection(struct selection *s, const struct model_config *c)
{
    const struct select_rule *r = &s->rule;
    const size_t entries = (size_t)r->sets * (size_t)r->stride;
    (void)c;
    s->rows = 1;
    if ((s->idx = cuda_alloc(entries * sizeof *s->idx, "selection")) == NULL ||
        (s->count = cuda_alloc(2 * sizeof *s->count, "selection")) == NULL)
        return -1;
    s->tail = s->count + 1;
    cuda_check(cudaMemsetAsync(s->idx, 0, entries * sizeof *s->idx, cuda.stream), "clear");
    cuda_check(cudaMemsetAsync(s->count, 0, 2 * sizeof *s->count, cuda.stream), "clear");
    if (r->selector == SELECT_LAST) return 0;
    s->score = cuda_alloc((size_t)r->sets * span_of(r->room) * sizeof *s->score, "scores");
    if (s->score == NULL) return -1;
    if (!windowed(r)) return 0;
    s->reach = (size_t)(r->candidates_all ? r->room : r->n_prefill);
    const size_t past = (size_t)r->window * (size_t)r->sets * s->reach * sizeof *s->past;
    if ((s->past = cuda_alloc(past, "window of past queries")) == NULL) return -1;
    cuda_check(cudaMemsetAsync(s->past, 0, past, cuda.stream), "clear");
    return 0;
}

static void close_selection(struct selection *s)
{
    cuda_release(s->idx);
    cuda_release(s->count);
    cuda_release(s->score);
    cuda_release(s->past);
    memset(s, 0, sizeof *s);
}

static void remember(struct selection *s, const float *logits, size_t span, int pos, int candidates,
                     const struct model_config *c)
{
    if (cuda.broken) return;
    const struct select_rule *r = &s->rule;
    const int kept = candidates < (int)s->reach ? candidates : (int)s->reach;
    void *work = cuda_work(WORK_POOL, cuda_pool_weights_work(c->H));
    if (work == NULL) return;
    cuda_did(cuda_set_step(cuda.aux, cuda.aux + 1, pos, 0, cuda.stream));
    cuda_check(cudaStreamSynchronize(cuda.stream), "position");
    cuda_did(cuda_pool_weights(s->score, logits, span, NULL, candidates, c->H, r->sets, work,
                               cuda.stream));
    cuda_did(cuda_remember(s->past, s->score, span, cuda.aux, kept, r->window, r->sets, s->reach,
                           cuda.stream));
}

static void select_step(struct selection *s, const float *logits, const float *scores, size_t span,
                        int n, int pos0, const struct model_config *c)
{
    if (cuda.broken) return;
    const struct select_rule *r = &s->rule;
    const int candidates = r->candidates_all ? -1 : r->n_prefill;
    struct cuda_select a = {.idx = s->idx,
                            .count = s->count,
                            .tail = s->tail,
                            .score = s->score,
                            .span = span,
                            .pos = cuda.pos,
                            .n_prefill = r->n_prefill,
                            .sets = r->sets,
                            .pooled = 1,
                            .stride = r->stride,
                            .budget = r->budget,
                            .sinks = r->sinks,
                            .recent = r->recent,
                            .window = windowed(r) ? r->window : 0,
                            .refresh = r->refresh,
                            .candidates_all = r->candidates_all,
                            .most = r->candidates_all ? r->room : r->n_prefill};
    (void)n, (void)pos0;
    if (r->selector == SELECT_LAST) {
        a.score = r->sets == c->H && (r->sets != c->G || scores == NULL) ? logits : scores;
        a.pooled = r->sets == 1 ? c->G : 1;
    } else {
        void *work = cuda_work(WORK_POOL, cuda_pool_weights_work(c->H));
        if (work == NULL) return;
        cuda_did(cuda_pool_weights(s->score, logits, span, cuda.pos, candidates, c->H, r->sets,
                                   work, cuda.stream));
    }
    if (windowed(r)) {
        cuda_did(cuda_remember(s->past, s->score, span, cuda.pos, candidates, r->window, r->sets,
                               s->reach, cuda.stream));
        cuda_did(cuda_look_back(s->score, span, s->past, cuda.pos, r->window, r->sets, s->reach,
                                r->selector == SELECT_EXP, cuda.stream));
    }
    if ((a.work = cuda_work(WORK_SELECT, cuda_select_work(r->sets, a.most))) != NULL)
        cuda_did(cuda_select_row(&a, cuda.stream));
}

/* ---- measurements */

static int ceilings(double rate[CEILINGS])
{
    return cuda_ceilings(rate, cuda.stream);
}

static const char *machine(void)
{
    return cuda_device()->name;
}

static int kernels(const struct model_config *c, const struct weights *w, const int *contexts,
                   int n, int k, struct kernel_time **rows, int *count)
{
    return cuda_kernel_times(c, w, contexts, n, k, rows, count, cuda.stream);
}

/* ---- the backend */

static const struct ops cuda_ops = {
    .name = "cuda",
    .device = true,
    .many_rows = 2,
    .known_rows = 1,
    .prefill_rows = CUDA_PREFILL_ROWS,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .put = put,
    .get = get,
    .session_bytes = cuda_session_bytes,
    .kv_open = cuda_kv_open,
    .kv_close = cuda_kv_close,
    .kv_prefill = cuda_kv_prefill,
    .kv_fill = cuda_kv_fill,
    .pass_begin = pass_begin,
    .replay = replay,
    .recorded = recorded,
    .graph_free = graph_free,
    .results = results,
    .pass_end = pass_end,
    .embed = embed,
    .attn_in = attn_in,
    .attend_all = attend_all,
    .attend_rows = attend_rows,
    .attn_logits = attn_logits,
    .attn_out = attn_out,
    .mlp = mlp,
    .head = head,
    .outcomes = outcomes,
    .copy_queries = copy_queries,
    .select_open = open_selection,
    .select_close = close_selection,
    .select_remember = remember,
    .select = select_step,
    .fetch = cuda_fetch,
    .attn_columns = cuda_attn_columns,
    .heavy_open = cuda_heavy_open,
    .heavy_close = cuda_heavy_close,
    .heavy_keep = cuda_heavy_keep,
    .heavy_step = cuda_heavy_step,
    .heavy_attend = cuda_heavy_attend,
    .heavy_turn = cuda_heavy_turn,
    .pages_open = cuda_pages_open,
    .pages_close = cuda_pages_close,
    .pages_choose = cuda_pages_choose,
    .far_open = cuda_far_open,
    .far_close = cuda_far_close,
    .far_start = cuda_far_start,
    .far_attend = cuda_far_attend,
    .far_stats = cuda_far_stats,
    .far_view = cuda_far_view,
    .trace_begin = cuda_trace_begin,
    .trace_close = cuda_trace_close,
    .trace_keep = cuda_trace_keep,
    .trace_layer = cuda_trace_layer,
    .trace_send = cuda_trace_send,
    .trace_await = cuda_trace_await,
    .ceilings = ceilings,
    .machine = machine,
    .memory = cuda_memory,
    .kernels = kernels,
};

static const struct weights_home home = {cuda_alloc, cuda_release, put, fill};

const struct weights_home *cuda_weights_home(void)
{
    return &home;
}

int cuda_devices(void)
{
    return cuda_device_count();
}

char *cuda_refusal(const struct model_config *c)
{
    const bool some = c->qkv_bias[0] || c->qkv_bias[1] || c->qkv_bias[2];
    const bool all = c->qkv_bias[0] && c->qkv_bias[1] && c->qkv_bias[2];
    if (c->D != 64 && c->D != 128)
        return xprintf("the CUDA kernels take head_dim 64 and 128, %s has %d", c->name, c->D);
    if (c->E > 16384 || c->F > 32768)
        return xprintf("the CUDA kernels take hidden_size up to 16384 and intermediate_size up to "
                       "32768, %s has %d and %d",
                       c->name, c->E, c->F);
    if (c->E % 8 || c->F % 8)
        return xprintf("the CUDA kernels take widths that are multiples of 8, %s has hidden_size "
                       "%d, intermediate_size %d",
                       c->name, c->E, c->F);
    if (some && !all)
        return xprintf("the CUDA kernels take a bias of q, k and v together or none, %s has some",
                       c->name);
    return NULL;
}

const struct ops *ops_cuda(int index)
{
    int least, most;
    if (cuda.open && index == cuda_device()->index) return &cuda_ops;
    if (cuda.open) {
        fail("--device cuda:%d: this run is on cuda:%d already", index, cuda_device()->index);
        return NULL;
    }
    if (cuda_device_open(index)) return NULL;
    cuda.broken = false;
    cuda_check(cudaDeviceGetStreamPriorityRange(&least, &most), "streams");
    cuda_check(cudaStreamCreateWithPriority(&cuda.stream, cudaStreamNonBlocking, least), "streams");
    cuda_check(cudaStreamCreateWithPriority(&cuda.copies, cudaStreamNonBlocking, most), "streams");
    cuda_check(cudaEventCreateWithFlags(&cuda.fork, cudaEventDisableTiming), "events");
    check_blas(cublasCreate(&cuda.blas));
    if (!cuda.broken) check_blas(cublasSetStream(cuda.blas, cuda.stream));
    if (!cuda.broken) /* sums stay float32 to the end */
        check_blas(cublasSetMathMode(cuda.blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    if (cuda.broken || (cuda.pos = cuda_alloc(4 * sizeof(int), "position")) == NULL) return NULL;
    cuda.token = cuda.pos + 1;
    cuda.aux = cuda.pos + 2;
    cuda.open = true;
    return &cuda_ops;
}
