/* decode.c - along known tokens (teacher forcing) and along the model's own (greedy, sampled). */
#include "core/method/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SEEN_BYTES ((size_t)256 << 20) /* bound on the logits of a block of rows */

int argmax_of(const float *logits, int V)
{
    int best = 0;
    for (int v = 1; v < V; v++)
        if (logits[v] > logits[best]) best = v;
    return best;
}

float nll_of(const float *logits, int V, int token)
{
    const float top = logits[argmax_of(logits, V)];
    double sum = 0;
    for (int v = 0; v < V; v++) sum += exp((double)logits[v] - top);
    return (float)(log(sum) + top - logits[token]);
}

/* Rows whose attention logits fit SEEN_BYTES, whatever the layer asks for. */
static int rows_that_fit(const struct model *m, int n)
{
    const struct model_config *c = &m->config;
    const size_t most = (size_t)m->ops->known_rows;
    const size_t each = (size_t)c->H * (size_t)n * sizeof(float);
    const size_t rows = SEEN_BYTES / each;
    return rows < 1 ? 1 : rows < most ? (int)rows : (int)most;
}

int decode_known(struct session *s, struct method *m, const struct hooks *tap, const int *ids,
                 int from, int n, const float *first, int *argmax, float *nll)
{
    const struct model_config *c = &session_model(s)->config;
    const int fed = tap ? n : n - 1; /* the last token's own logits are nobody's prediction */
    const bool single = tap || (m && m->one_by_one);
    const int rows = single ? 1 : rows_that_fit(session_model(s), n);
    if (method_begin(m, s)) return -1;
    if (from < n) {
        argmax[from] = argmax_of(first, c->V);
        nll[from] = nll_of(first, c->V, ids[from]);
    }
    for (int p = from; p < fed; p += rows) {
        const int count = fed - p < rows ? fed - p : rows;
        const float *logits;
        if (forward(s, ids + p, count, false, m ? &m->hooks : NULL, tap, LOGITS_ALL, &logits))
            return -1;
        for (int r = 0; r < count && p + r + 1 < n; r++) {
            const struct outcome *o = session_outcome(s, r);
            argmax[p + r + 1] = o->argmax;
            nll[p + r + 1] = o->lse - logits[(size_t)r * (size_t)c->V + (size_t)ids[p + r + 1]];
        }
    }
    return 0;
}

void sampler_open(struct sampler *s, struct sampling how, int V)
{
    memset(s, 0, sizeof *s);
    s->how = how;
    s->V = V;
    rng_seed(&s->rng, how.seed);
    s->order = xmalloc((size_t)V * sizeof *s->order);
    s->p = xmalloc((size_t)V * sizeof *s->p);
}

void sampler_close(struct sampler *s)
{
    free(s->order);
    free(s->p);
    memset(s, 0, sizeof *s);
}

static int by_probability(const void *a, const void *b, void *p)
{
    const float x = ((const float *)p)[*(const int *)a], y = ((const float *)p)[*(const int *)b];
    if (x != y) return x < y ? 1 : -1;
    return *(const int *)a - *(const int *)b; /* ties to the lower id, so that draws repeat */
}

static int sampler_draw(struct sampler *s, const float *logits)
{
    const int best = argmax_of(logits, s->V);
    if (s->how.temperature <= 0) return best;
    double total = 0;
    for (int v = 0; v < s->V; v++) {
        s->p[v] = (float)exp(((double)logits[v] - logits[best]) / s->how.temperature);
        s->order[v] = v;
    }
    qsort_r(s->order, (size_t)s->V, sizeof *s->order, by_probability, s->p);
    int kept = s->how.top_k > 0 && s->how.top_k < s->V ? s->how.top_k : s->V;
    for (int i = 0; i < kept; i++) total += s->p[s->order[i]];
    if (s->how.top_p < 1) { /* the fewest that hold top_p, one at least */
        double held = 0;
        int i = 0;
        while (i < kept && held < s->how.top_p * total) held += s->p[s->order[i++]];
        kept = i > 0 ? i : 1;
        total = 0;
        for (i = 0; i < kept; i++) total += s->p[s->order[i]];
    }
    double left = rng_unit(&s->rng) * total;
    for (int i = 0; i < kept; i++) {
        left -= s->p[s->order[i]];
        if (left < 0) return s->order[i];
    }
    return s->order[kept - 1];
}

int decode_free(struct session *s, struct method *m, const struct hooks *tap, const float *first,
                int max_new, const int *stop, int n_stop, struct sampler *sampler, int *out,
                float *nll, int *n_out, int (*emit)(void *ctx, int token), void *emit_ctx)
{
    const enum want_logits want =
        sampler->how.temperature > 0 ? LOGITS_LAST : LOGITS_OUTCOME; /* greedy needs no more */
    const float *logits = first;
    bool stopped = false;
    *n_out = 0;
    if (method_begin(m, s)) return -1;
    while (*n_out < max_new && !stopped) {
        const struct outcome *o = session_outcome(s, 0);
        const int token = sampler->how.temperature > 0 ? sampler_draw(sampler, logits) : o->argmax;
        nll[*n_out] = o->lse - (want == LOGITS_OUTCOME ? o->top : logits[token]);
        out[(*n_out)++] = token;
        for (int i = 0; i < n_stop; i++) stopped = stopped || token == stop[i];
        if (emit && emit(emit_ctx, token)) return -1;
        if ((stopped || *n_out == max_new) && tap == NULL) break;
        if (forward(s, &token, 1, false, m ? &m->hooks : NULL, tap, want, &logits)) return -1;
    }
    return 0;
}
