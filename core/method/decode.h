/* decode.h - the two ways to walk through a sequence after its prefill: along known tokens, and
 * along the model's own.
 */
#ifndef CORE_METHOD_DECODE_H
#define CORE_METHOD_DECODE_H

#include "core/base/base.h"
#include "core/method/method.h"

/* Index of the largest of LOGITS [V], ties to the lower. */
int argmax_of(const float *logits, int V);

/* -ln p(token) under the softmax of LOGITS [V], in nats. */
float nll_of(const float *logits, int V, int token);

/* Teacher forcing: feeds ids[from : n), where FROM tokens are in the session and FIRST [V] are the
 * logits after them. For each position p in [from, n): argmax[p] is the argmax of the logits before
 * p, nll[p] = -ln p(ids[p]).
 *
 * As many tokens as memory allows go through a layer together: since they are known, and a layer's
 * row depends on nothing but the rows before it, a block gives what token by token gives, to within
 * float32 rounding, at the speed of a prefill. Under a method whose steps depend on each other, and
 * with a TAP, it is one token at a time; with a TAP the last token is fed too: it is a step like
 * the others. M may be NULL (dense).
 * 0, or -1 after fail(). */
int decode_known(struct session *s, struct method *m, const struct hooks *tap, const int *ids,
                 int from, int n, const float *first, int *argmax, float *nll);

struct sampling {
    double temperature; /* 0: greedy */
    int top_k;          /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
};

/* Draws a token from LOGITS [V]: temperature, then top-k, then top-p, then the draw. */
struct sampler {
    struct sampling how;
    struct rng rng;
    int V;
    int *order; /* [V] */
    float *p;   /* [V] */
};
void sampler_open(struct sampler *s, struct sampling how, int V);
void sampler_close(struct sampler *s);

/* Free decoding: continues a session whose last logits are FIRST [V] for up to MAX_NEW tokens,
 * ending after a token of STOP [n_stop]. OUT [max_new] and NLL [max_new] receive the tokens and
 * their -ln p; *N_OUT how many. EMIT, unless NULL, is called with each token. With a TAP the last
 * token is fed too. 0, or -1 after fail(). */
int decode_free(struct session *s, struct method *m, const struct hooks *tap, const float *first,
                int max_new, const int *stop, int n_stop, struct sampler *sampler, int *out,
                float *nll, int *n_out, int (*emit)(void *ctx, int token), void *emit_ctx);

#endif
