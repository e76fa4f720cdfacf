/* host.c - what the backends of host memory share: memory, keys and values, outcomes, its speed. */
#include "core/base/base.h"
#include "core/ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void *host_alloc(size_t bytes, const char *what)
{
    return big_alloc(bytes, what);
}

void host_release(void *p)
{
    free(p);
}

void host_copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

float *scratch_get(struct scratch *s, size_t floats)
{
    if (floats > s->size) {
        scratch_free(s);
        /* a device's memory is planned; the host's is not, and growing has its price */
        s->size = s->ops && s->ops->device ? floats : floats + floats / 4;
        s->p = s->ops ? s->ops->alloc(s->size * sizeof *s->p, "working memory")
                      : big_alloc(s->size * sizeof *s->p, "working memory");
        if (s->p == NULL) exit(1); /* as xmalloc(): nothing can go on without it */
    }
    return s->p;
}

void scratch_free(struct scratch *s)
{
    if (s->ops)
        s->ops->release(s->p);
    else
        free(s->p);
    s->p = NULL;
    s->size = 0;
}

/* ---- keys and values */

/* Attention tiles read whole groups of keys. */
static size_t rows_room(int room)
{
    return ((size_t)room + 63) / 64 * 64;
}

void host_bytes(const struct model_config *c, const struct session_plan *plan, double *device,
                double *host)
{
    *device = 2.0 * sizeof(float) * c->L * c->G * padded_width(c->D) * (double)plan->room;
    *host = 0;
}

int host_kv_open(struct kv_layer *kv, const struct model_config *c, const struct session_plan *plan)
{
    const size_t room = rows_room(plan->room);
    const size_t layer = (size_t)c->G * room * (size_t)padded_width(c->D);
    float *all = big_alloc(2 * (size_t)c->L * layer * sizeof *all, "keys and values");
    if (all == NULL) return -1;
    for (int l = 0; l < c->L; l++) {
        float *k = all + 2 * (size_t)l * layer;
        kv[l] = (struct kv_layer){.k = k, .v = k + layer, .room = (int)room};
    }
    return 0;
}

void host_kv_close(struct kv_layer *kv, const struct model_config *c)
{
    (void)c;
    free(kv[0].k); /* the first layer's start that of all */
}

void host_kv_fill(struct kv_layer *kv, const struct model_config *c, int n, uint64_t seed)
{
    const size_t P = (size_t)padded_width(c->D);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < c->L * c->G;
         i++) { /* a random source each: the same for any thread count */
        const size_t start = (size_t)(i % c->G) * (size_t)kv[i / c->G].room * P;
        float *k = kv[i / c->G].k + start, *v = kv[i / c->G].v + start;
        struct rng r;
        rng_seed(&r, seed + (uint64_t)i);
        for (size_t j = 0; j < (size_t)n * P; j++) {
            const uint64_t bits = rng_next(&r);
            const bool padding = j % P >= (size_t)c->D;
            k[j] = padding ? 0 : (float)(int32_t)(bits >> 32) * 0x1p-31f;
            v[j] = padding ? 0 : (float)(int32_t)(uint32_t)bits * 0x1p-31f;
        }
    }
}

void host_copy_queries(float *to, const float *q, int rows, int from, int n,
                       const struct model_config *c)
{
    const size_t row = (size_t)c->H * (size_t)padded_width(c->D);
    (void)rows;
    memcpy(to, q + (size_t)from * row, (size_t)n * row * sizeof *q);
}

/* ---- outcomes */

void host_outcomes(struct outcome *out, const float *logits, int n, int V, struct scratch *s)
{
    (void)s;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int r = 0; r < n; r++) {
        const float *row = logits + (size_t)r * (size_t)V;
        int best = 0;
        float finite = 0; /* 0 * x is NaN for infinities and NaN: one test a row */
        for (int v = 0; v < V; v++) {
            finite += 0.0f * row[v];
            if (row[v] > row[best]) best = v;
        }
        double sum = 0;
        for (int v = 0; v < V; v++) sum += exp((double)row[v] - row[best]);
        out[r] = (struct outcome){
            .argmax = best, .top = row[best], .lse = (float)(log(sum) + row[best]) + finite};
    }
}

/* ---- measurements */

int host_ceilings(double rate[CEILINGS])
{
    const size_t n = (size_t)64 << 20; /* floats: 256 MiB */
    float *a = big_alloc(n * sizeof *a, "bandwidth test");
    for (int i = 0; i < CEILINGS; i++) rate[i] = 0;
    if (a == NULL) return -1;
    memset(a, 1, n * sizeof *a);
    for (int run = 0; run < 6; run++) {
        int64_t sum = 0;
        const double start = clock_seconds();
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (size_t i = 0; i < n; i += 16) { /* one number of each cache line moves all of it */
            int32_t v;
            memcpy(&v, a + i, sizeof v);
            sum += v;
        }
        const double found = (double)(n * sizeof *a) / (clock_seconds() - start);
        /* the sum is never 0: it keeps the loop alive */
        if (sum != 0 && found > rate[CEILING_READ]) rate[CEILING_READ] = found;
    }
    free(a);
    return 0;
}
