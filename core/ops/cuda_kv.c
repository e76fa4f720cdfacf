/* cuda_kv.c - keys and values on a GPU, and of layers that live in host memory: rows gathered, or
 * whole layers fetched, on a second stream ahead of their use. */
#include "core/base/base.h"
#include "core/ops/cuda_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Bytes of K or V of N tokens of one layer. */
static size_t plane(const struct model_config *c, size_t n)
{
    return n * (size_t)c->G * (size_t)c->D * 2;
}

static int steps_of(const struct session_plan *plan)
{
    return plan->steps > 0 && plan->steps < plan->room ? plan->steps : plan->room;
}

/* Positions that a KV_BLOCKS layer keeps here, at most: a window, and what is decoded. */
static size_t near_of(const struct session_plan *plan)
{
    const int window = plan->far->n_local < plan->room ? plan->far->n_local : plan->room;
    return (size_t)window + (size_t)steps_of(plan);
}

static enum kv_place place_of(const struct session_plan *plan, int layer)
{
    return plan->place ? plan->place[layer] : KV_HERE;
}

/* Heads of a set of packed rows that are stored together. */
static size_t packed_rows(const struct session_plan *plan)
{
    return (size_t)plan->packed * (size_t)(plan->sets > 1 ? plan->sets : 1);
}

void cuda_session_bytes(const struct model_config *c, const struct session_plan *plan,
                        double *device, double *host)
{
    const size_t room = (size_t)plan->room, steps = (size_t)steps_of(plan);
    const size_t rows = room < CUDA_PREFILL_ROWS ? room : CUDA_PREFILL_ROWS;
    size_t here = 0, there = 0, whole = 0, away = 0;
    for (int l = 0; l < c->L; l++) {
        switch (place_of(plan, l)) {
        case KV_HERE:
            here += 2 * plane(c, room);
            break;
        case KV_ROWS:
            here += 2 * plane(c, steps);
            here += plan->sets > 1 ? 2 * packed_rows(plan) * (size_t)c->D * 2
                                   : 2 * plane(c, (size_t)plan->packed);
            there += 2 * plane(c, room);
            away = 2 * plane(c, room);
            break;
        case KV_WHOLE:
            here += 2 * plane(c, steps);
            there += 2 * plane(c, room);
            whole = 4 * plane(c, room);
            away = 2 * plane(c, room);
            break;
        case KV_BLOCKS:
            here += 2 * plane(c, near_of(plan));
            there += 2 * plane(c, room);
            away = 3 * plane(c, room);
            break;
        }
    }
    double far = 0;
    if (plan->far) far = cuda_far_bytes(c, plan, place_of(plan, 0) == KV_BLOCKS, (int)steps);
    /* what a prefill holds besides: the stream of activations, a chunk's, one layer that will live
     * elsewhere; a decode step needs less */
    const size_t stream = room * (size_t)c->E * 4;
    const size_t chunk =
        rows * ((size_t)c->H * (size_t)c->D * 8 + 2 * ((size_t)c->E + 3 * (size_t)c->F) + 64);
    const size_t seen = 4 * (size_t)c->H * room; /* logits of one layer, for traces */
    const size_t rest = ((size_t)256 << 20) + 4 * room * 3 * (size_t)plan->sets + /* selections */
                        room * plan->token_bytes;
    *device = far + (double)(here + whole + away + stream + chunk + seen + rest) +
              (double)room * (double)c->D * 4;
    *host = (double)there;
}

/* The most tokens of a session like PLAN that fit FREE_BYTES of the device and, unless 0, PINNED of
 * the host. */
static int largest_room(const struct model_config *c, const struct session_plan *plan,
                        double free_bytes, double pinned)
{
    int low = 0, high = plan->room;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        struct session_plan try = *plan;
        double device, host;
        try.room = middle;
        cuda_session_bytes(c, &try, &device, &host);
        if (device <= free_bytes && (pinned <= 0 || host <= pinned))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static int refuse_what_does_not_fit(const struct model_config *c, const struct session_plan *plan)
{
    size_t free_bytes = 0, total = 0;
    double device, host;
    cuda_session_bytes(c, plan, &device, &host);
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        return fail("GPU %s: cannot tell its memory: %s", cuda_device()->name,
                    cudaGetErrorString(cudaGetLastError()));
    if (device <= (double)free_bytes) return 0;
    return fail("a context of %d tokens needs %.1f GB of GPU memory, %.1f of %.1f GB are free: the "
                "largest context that fits is %d tokens",
                plan->room, device / 1e9, (double)free_bytes / 1e9, (double)total / 1e9,
                largest_room(c, plan, (double)free_bytes, 0));
}

/* BYTES of pinned host memory that the device can reach, or NULL. Touched by all threads first, in
 * large pages: the driver alone takes several times as long. */
static void *pin(size_t bytes)
{
    const size_t page = (size_t)2 << 20, whole = (bytes + page - 1) / page * page;
    char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, whole, MADV_HUGEPAGE);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < whole; i += page)
        for (size_t j = i; j < i + page; j += 4096) p[j] = 0;
    if (cudaHostRegister(p, whole, cudaHostRegisterPortable | cudaHostRegisterMapped) ==
        cudaSuccess)
        return p;
    (void)cudaGetLastError();
    munmap(p, whole);
    return NULL;
}

static void unpin(void *p, size_t bytes)
{
    const size_t page = (size_t)2 << 20;
    cudaHostUnregister(p);
    munmap(p, (bytes + page - 1) / page * page);
}

static int open_away(struct cuda_kv *d, const struct model_config *c,
                     const struct session_plan *plan, double pinned)
{
    const size_t bytes = 2 * plane(c, (size_t)plan->room);
    const bool blocks = d->place == KV_BLOCKS;
    if (blocks) d->near = (int)near_of(plan), d->n_local = plan->far->n_local;
    const size_t steps = plane(c, (size_t)(blocks ? d->near : d->steps));
    const double available = memory_available();
    d->host_bytes = bytes;
    if (available <= 0 || (double)bytes < 0.95 * available) d->host = pin(bytes);
    if (d->host == NULL)
        return fail(
            "a context of %d tokens: %.1f GB of host memory could be pinned, not %.1f more: "
            "the largest context that fits is about %d tokens",
            plan->room, pinned / 1e9, (double)bytes / 1e9,
            largest_room(c, plan, 1e18, pinned > 0 ? pinned : 1));
    if ((d->steps_k = cuda_alloc(2 * steps, "decoded keys and values")) == NULL) return -1;
    d->steps_v = (char *)d->steps_k + steps;
    if (d->place == KV_ROWS) {
        const size_t packed =
            plan->sets > 1 ? packed_rows(plan) * (size_t)c->D * 2 : plane(c, (size_t)plan->packed);
        if ((d->packed_k = cuda_alloc(2 * packed, "gathered keys and values")) == NULL) return -1;
        d->packed_v = (char *)d->packed_k + packed;
    }
    cuda_check(cudaEventCreateWithFlags(&d->ready, cudaEventDisableTiming), "events");
    cuda_check(cudaEventCreateWithFlags(&d->used, cudaEventDisableTiming), "events");
    return cuda.broken ? -1 : 0;
}

int cuda_kv_open(struct kv_layer *kv, const struct model_config *c, const struct session_plan *plan)
{
    struct cuda_away *shared = NULL;
    struct cuda_kv *last = NULL;
    double pinned = 0;
    if (refuse_what_does_not_fit(c, plan)) return -1;
    for (int l = 0; l < c->L; l++) {
        struct cuda_kv *d = kv[l].cuda = xcalloc(1, sizeof *d);
        kv[l].room = plan->room;
        d->place = place_of(plan, l);
        d->type = plan->type == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
        d->steps = steps_of(plan);
        for (int i = 0; i < c->L; i++) d->beside = d->beside || place_of(plan, i) == KV_ROWS;
        if (d->place == KV_HERE) {
            const size_t bytes = plane(c, (size_t)plan->room);
            d->room = plan->room;
            if ((d->k = cuda_alloc(2 * bytes, "keys and values")) == NULL) goto failed;
            d->v = (char *)d->k + bytes;
            continue;
        }
        if (shared == NULL) {
            shared = xcalloc(1, sizeof *shared);
            d->shared = shared;
            if ((shared->count = cuda_alloc(sizeof *shared->count, "counts")) == NULL) goto failed;
        }
        d->shared = shared;
        d->before = last;
        if (last) last->next = d;
        last = d;
        if (open_away(d, c, plan, pinned)) goto failed;
        pinned += 2.0 * (double)plane(c, (size_t)plan->room);
        for (int i = 0; i < 2 && d->place == KV_WHOLE && shared->buffers[i] == NULL; i++) {
            shared->buffer_bytes = 2 * plane(c, (size_t)plan->room);
            shared->buffers[i] = cuda_alloc(shared->buffer_bytes, "layers on their way");
            if (shared->buffers[i] == NULL) goto failed;
        }
    }
    return 0;

failed:
    cuda_kv_close(kv, c);
    cuda.broken = false;
    return -1;
}

void cuda_kv_close(struct kv_layer *kv, const struct model_config *c)
{
    struct cuda_away *shared = NULL;
    cudaStreamSynchronize(cuda.stream);
    for (int l = 0; l < c->L; l++) {
        struct cuda_kv *d = kv[l].cuda;
        if (d == NULL) continue;
        if (d->place == KV_HERE) cuda_release(d->k);
        if (d->shared) shared = d->shared;
        if (d->host) unpin(d->host, d->host_bytes);
        cuda_release(d->steps_k);
        if (d->place == KV_ROWS) cuda_release(d->packed_k);
        if (d->ready) cudaEventDestroy(d->ready);
        if (d->used) cudaEventDestroy(d->used);
        free(d);
        kv[l].cuda = NULL;
    }
    if (shared) {
        cuda_release(shared->staging);
        cuda_release(shared->buffers[0]);
        cuda_release(shared->buffers[1]);
        cuda_release(shared->count);
        free(shared);
    }
}

/* From here on the layer's prefill of N tokens is in host memory. */
static void settle(struct cuda_kv *d, const struct model_config *c, int n)
{
    struct cuda_away *shared = d->shared;
    d->k = d->steps_k;
    d->v = d->steps_v;
    d->room = d->steps;
    d->base = n;
    if (d->before == NULL) {
        shared->n_prefill = n;
        cuda_did(cuda_set_step(shared->count, cuda.aux, n, 0, cuda.stream));
    }
    if (d->place == KV_BLOCKS) {
        d->room = d->near;
        d->base = n > d->n_local ? n - d->n_local : 0;
    }
    if (d->place == KV_WHOLE) {
        const int turn = d->before && d->before->packed_k == shared->buffers[0];
        d->packed_k = shared->buffers[turn];
        d->packed_v = (char *)d->packed_k + plane(c, (size_t)n);
    }
}

/* The last tokens of the N at work go where the steps expect them. */
static void keep_window(struct cuda_kv *d, const struct model_config *c, int n)
{
    const size_t row = 2 * (size_t)c->D, rows = (size_t)(n < d->n_local ? n : d->n_local);
    const size_t skip = ((size_t)n - rows) * row;
    const char *const from[] = {d->k, d->v};
    void *const to[] = {d->steps_k, d->steps_v};
    for (int i = 0; i < 2; i++)
        cuda_check(cudaMemcpy2DAsync(to[i], (size_t)d->near * row, from[i] + skip,
                                     (size_t)d->room * row, rows * row, (size_t)c->G,
                                     cudaMemcpyDeviceToDevice, cuda.stream),
                   "the last tokens");
}

void cuda_kv_prefill(struct kv_layer *kv, int n, const struct model_config *c, bool end)
{
    struct cuda_kv *d = kv->cuda;
    const size_t bytes = plane(c, (size_t)n);
    if (d->place == KV_HERE) return;
    if (!end) {
        struct cuda_away *shared = d->shared;
        if (d->before == NULL) {
            cuda_release(shared->staging); /* of a prefill that failed */
            const size_t planes = d->place == KV_BLOCKS ? 3 : 2;
            shared->staging = cuda_alloc(planes * bytes, "a layer of the prefill");
            if (shared->staging == NULL) cuda.broken = true;
        }
        d->k = shared->staging;
        d->v = (char *)shared->staging + bytes;
        d->room = n;
        d->base = 0;
        d->made_up = false;
        return;
    }
    if (cuda.broken) return;
    if (d->place == KV_ROWS) {
        cuda_did(cuda_store_rows(d->host, d->k, d->v, n, n, c->G, c->D, cuda.stream));
    } else if (d->place == KV_BLOCKS) {
        keep_window(d, c, n); /* far_attend() has stored the rest */
    } else {
        cuda_check(cudaMemcpyAsync(d->host, d->k, 2 * bytes, cudaMemcpyDeviceToHost, cuda.stream),
                   "a layer to the host");
    }
    settle(d, c, n);
    if (d->next == NULL) {
        cuda_release(d->shared->staging);
        d->shared->staging = NULL;
    }
}

void cuda_kv_fill(struct kv_layer *kv, const struct model_config *c, int n, uint64_t seed)
{
    for (int l = 0; l < c->L; l++) {
        struct cuda_kv *d = kv[l].cuda;
        const size_t values = (size_t)c->G * (size_t)c->D;
        const uint64_t own = seed + 2 * (uint64_t)l;
        if (d->place == KV_HERE) {
            cuda_did(
                cuda_fill_uniform(d->k, (size_t)d->room * values, d->type, own, 1, cuda.stream));
            cuda_did(cuda_fill_uniform(d->v, (size_t)d->room * values, d->type, own + 1, 1,
                                       cuda.stream));
            continue;
        }
        cuda_did(cuda_fill_uniform(d->host, 2 * (size_t)n * values, d->type, own, 1, cuda.stream));
        if (d->place == KV_BLOCKS) { /* its two planes are one piece of memory */
            cuda_did(cuda_fill_uniform(d->steps_k, 2 * (size_t)d->near * values, d->type, own + 1,
                                       1, cuda.stream));
            d->made_up = true;
        }
        settle(d, c, n);
    }
    cuda_check(cudaStreamSynchronize(cuda.stream), "synthetic keys and values");
}

/* What the second stream does next waits for all that the first was given. */
static void fork_copies(void)
{
    cuda_check(cudaEventRecord(cuda.fork, cuda.stream), "fork");
    cuda_check(cudaStreamWaitEvent(cuda.copies, cuda.fork, 0), "fork");
}

void cuda_fetch(struct kv_layer *kv, const struct selection *s, const struct model_config *c,
                bool apart)
{
    struct cuda_kv *d = kv->cuda;
    const struct select_rule *r = &s->rule;
    if (cuda.broken || d->place != KV_ROWS) return; /* a session of another method has it here */
    if (apart) {
        cuda_did(cuda_gather_rows(d->packed_k, d->packed_v, d->host, s->idx, s->count, r->sets,
                                  r->stride, c->G, c->D, PART_K, cuda.stream));
        cuda_did(cuda_gather_rows(d->packed_k, d->packed_v, d->host, s->idx, s->count, r->sets,
                                  r->stride, c->G, c->D, PART_V, cuda.stream));
        return;
    }
    fork_copies();
    cuda_did(cuda_gather_rows(d->packed_k, d->packed_v, d->host, s->idx, s->count, r->sets,
                              r->stride, c->G, c->D, PART_BOTH, cuda.copies));
    cuda_check(cudaEventRecord(d->ready, cuda.copies), "gather");
    d->fetched = true;
}

static void fetch_whole(struct cuda_kv *d, const struct model_config *c)
{
    if (d->before && d->before->before)
        cuda_check(cudaStreamWaitEvent(cuda.copies, d->before->before->used, 0), "fetch");
    else if (d->before == NULL)
        fork_copies();
    cuda_check(cudaMemcpyAsync(d->packed_k, d->host, 2 * plane(c, (size_t)d->shared->n_prefill),
                               cudaMemcpyHostToDevice, cuda.copies),
               "fetch");
    cuda_check(cudaEventRecord(d->ready, cuda.copies), "fetch");
}

void cuda_kv_await(struct cuda_kv *d, const struct model_config *c)
{
    if (d->place == KV_WHOLE) {
        if (d->before == NULL) fetch_whole(d, c);
        if (d->next) fetch_whole(d->next, c);
        d->fetched = true;
    }
    if (d->fetched) cuda_check(cudaStreamWaitEvent(cuda.stream, d->ready, 0), "fetch");
    d->fetched = false;
}

void cuda_kv_used(struct cuda_kv *d)
{
    cuda_check(cudaEventRecord(d->used, cuda.stream), "fetch");
}
