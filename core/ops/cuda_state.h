/* cuda_state.h - the CUDA backend's inside: the one device handle, and keys and values. */
#ifndef CORE_OPS_CUDA_STATE_H
#define CORE_OPS_CUDA_STATE_H

#include "core/ops/cuda_kernels.h"
#include "core/ops/ops.h"

#include <cublas_v2.h>

/* Keys and values of one layer. What lives in host memory is here twice over during its prefill
 * only; afterwards k and v hold the decoded tokens. */
struct cuda_kv {
    void *k, *v; /* [G, room, D] 16-bit, row 0 is position BASE */
    int room, base;
    int steps; /* tokens decoded, at most */
    enum kv_place place;
    enum dtype type;
    bool beside; /* some layer of the session gathers rows, which may be while this one attends */

    void *steps_k, *steps_v; /* [G, steps, D]; KV_BLOCKS: of the last n_local too, [G, near, D] */
    int near, n_local;       /* KV_BLOCKS */
    bool made_up;            /* KV_BLOCKS: synthetic */
    void *host;              /* pinned: KV_ROWS [tokens, 2, G, D], KV_WHOLE [2, G, n_prefill, D],
                                KV_BLOCKS [blocks, 2, G, block_size, D] */
    size_t host_bytes;
    void *packed_k,
        *packed_v;          /* KV_ROWS: [sets or G, stride, D], this layer's; KV_WHOLE: K and V of
                               [G, n_prefill, D], a buffer that every other such layer has too */
    struct cuda_kv *next;   /* the next layer of the same place, or NULL */
    struct cuda_kv *before; /* the one before it, or NULL */
    struct cuda_away *shared;
    cudaEvent_t ready; /* packed rows have arrived */
    cudaEvent_t used;  /* and have been read */
    bool fetched;      /* READY is to be waited for */
};

/* What the layers of a session that live in host memory share. */
struct cuda_away {
    void *staging;       /* [2, G, n, D] while such layers are prefilled; KV_BLOCKS: 3 planes */
    void *buffers[2];    /* KV_WHOLE: where whole layers arrive, in turn */
    size_t buffer_bytes; /* of each */
    int *count;          /* device: n_prefill */
    int n_prefill;
};

/* Rows of a pass of a prefill: with 32 heads in blocks of 128 rows, 8 whole waves of 132
 * multiprocessors. */
#define CUDA_PREFILL_ROWS 4224

/* Scratch of kernels: one each, since their counters stay in place. */
enum cuda_work_kind { WORK_DECODE, WORK_SELECT, WORK_POOL, WORK_OUTCOME, WORK_CHAIN, WORK_KINDS };

/* The device in use and what its ops share. */
struct cuda {
    bool open;
    bool broken;                 /* an op of this pass has failed, aloud */
    cudaStream_t stream, copies; /* the compute, and what runs beside it */
    cublasHandle_t blas;
    cudaEvent_t fork;
    int *pos, *token; /* device: of the pass */
    int *aux;         /* device: another position, for attn_logits() */
    int *ids;         /* device: of a pass of many tokens */
    size_t ids_room;
    void *results; /* pinned: logits and outcomes */
    size_t results_bytes;
    struct cuda_work {
        void *p;
        size_t bytes;
    } work[WORK_KINDS];
    unsigned generation; /* grows when work moves: recorded steps hold its address */
    enum dtype type;     /* of the model at work */
    bool recording;
};
extern struct cuda cuda;

/* BYTES of a kernel's scratch, zeroed when they were new; NULL after fail(). */
void *cuda_work(enum cuda_work_kind kind, size_t bytes);

/* Runs the products that are put off: before an op reads q, or what else they make. READ bytes are
 * read before the attention's output product: where they are few, its weights are fetched ahead. */
void cuda_run_products(size_t read);

/* The part of an attention's arguments that the layer decides: n rows at *cuda.pos over all. */
struct cuda_decode cuda_decode_of(float *out, const float *q, const struct cuda_kv *d, int n,
                                  const struct model_config *c);

/* Of an op: what a launcher returned, and what the runtime did. A failure has been said, or is said
 * here, and breaks the pass. */
void cuda_did(int rc);
void cuda_check(cudaError_t e, const char *what);

void *cuda_alloc(size_t bytes, const char *what);
void cuda_release(void *p);
void cuda_session_bytes(const struct model_config *c, const struct session_plan *plan,
                        double *device, double *host);
int cuda_kv_open(struct kv_layer *kv, const struct model_config *c,
                 const struct session_plan *plan);
void cuda_kv_close(struct kv_layer *kv, const struct model_config *c);
void cuda_kv_prefill(struct kv_layer *kv, int n, const struct model_config *c, bool end);
void cuda_kv_fill(struct kv_layer *kv, const struct model_config *c, int n, uint64_t seed);
void cuda_fetch(struct kv_layer *kv, const struct selection *s, const struct model_config *c,
                bool apart);

/* Around the attention of a step over a layer that lives in host memory: its rows are here; and
 * they have been read. */
void cuda_kv_await(struct cuda_kv *c, const struct model_config *config);
void cuda_kv_used(struct cuda_kv *c);

/* H2O and Quest (cuda_peers.c): entries of the table. */
void cuda_attn_columns(float *sums, size_t span, const float *q, const float *lse,
                       const struct kv_layer *kv, int n, int pos0, const struct model_config *c,
                       struct scratch *s);
int cuda_heavy_open(struct heavy *h, const struct model_config *c);
void cuda_heavy_close(struct heavy *h);
void cuda_heavy_keep(struct heavy *h, int n, const struct model_config *c);
void cuda_heavy_step(struct heavy *h, const float *logits, const float *lse, size_t span, int pos,
                     const struct model_config *c);
void cuda_heavy_attend(struct heavy *h, const struct heavy_rows *a, const struct kv_layer *kv,
                       const struct model_config *c, struct scratch *s);
void cuda_heavy_turn(struct heavy *h, const struct model_config *c);
int cuda_pages_open(struct pages *p, const struct kv_layer *kv, const struct model_config *c);
void cuda_pages_close(struct pages *p);
void cuda_pages_choose(struct pages *p, const float *q, int n, int pos0,
                       const struct model_config *c, struct scratch *s);

/* Attention that keeps its distances (cuda_far.c): entries of the table. */
struct far *cuda_far_open(const struct far_rule *rule, const struct model_config *c);
void cuda_far_close(struct far *f);
void cuda_far_start(struct far *f, int n, struct kv_layer *kv, bool filled, struct rope_table rope,
                    const struct model_config *c);
void cuda_far_attend(struct far *f, int layer, float *out, const float *q, struct kv_layer *kv,
                     int n, int pos0, bool prefill, struct rope_table rope, struct attn_seen seen,
                     struct attn_view *view, const struct model_config *c, struct scratch *s);
void cuda_far_stats(struct far *f, struct far_stats *stats);
struct attn_view cuda_far_view(const struct far *f, int layer);
/* Bytes of the device that it takes under PLAN, with blocks on the host or not. */
double cuda_far_bytes(const struct model_config *c, const struct session_plan *plan, bool away,
                      int steps);

/* Traces (cuda_trace.c): entries of the table. */
int cuda_trace_begin(struct step_trace **t, const struct trace_plan *plan,
                     const struct model_config *c);
void cuda_trace_close(struct step_trace *t);
struct trace_keep cuda_trace_keep(struct step_trace *t, int layer, bool listed,
                                  const struct kv_layer *kv, size_t span);
void cuda_trace_layer(struct step_trace *t, const struct trace_layer *a);
void cuda_trace_send(struct step_trace *t, int slot, int pos,
                     const struct selection *const *selected);
const char *cuda_trace_await(struct step_trace *t, int slot, struct trace_step *out);

#endif
