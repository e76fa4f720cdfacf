/* make_long_dump.c - writes a dump of a long context without a model: the case that reading and
 * ranking are measured on. Prints the time spent in the writer.
 */
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/dump/dump_write.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: make_long_dump [OPTION]... OUT.h5\n"
    "Writes a dump with mass, score and topk_* of made-up attention: shares that fall off as a\n"
    "power law does, a sink at token 0, more weight on recent tokens, and layers and steps that\n"
    "resemble their neighbours.\n"
    "  --layers N   layers [32]\n"
    "  --tokens N   tokens of the context, 4K is 4,096 [131072]\n"
    "  --steps N    traced steps [20]\n"
    "  --samples N  samples [1]\n"
    "  --topk N     entries of topk_* [256]\n"
    "  --seed N     of the random numbers [0]\n"
    "  --float32    store 4-byte floats\n";

enum { BLOCK = 4096 }; /* tokens that share a random stream, so that threads do not matter */

struct made {
    int L, T, S, N, K, seed;
    bool f32;
    float *base;  /* [T] what makes a token important at every step */
    float *logit; /* [T] of the layer under way */
    float *mass;  /* [T] */
    int *best;    /* [K] by logit, best first */
    float *best_mass;
    double writing; /* seconds in the writer */
    double bytes;   /* of values handed to it */
};

/* A number of mean 0 and variance 1: the sum of four uniform ones. */
static float bell(struct rng *r)
{
    const uint64_t x = rng_next(r);
    const int sum =
        (int)(x & 0xffff) + (int)(x >> 16 & 0xffff) + (int)(x >> 32 & 0xffff) + (int)(x >> 48);
    return ((float)sum - 131070.0f) / 37837.2f;
}

/* v[t] = keep * from[t] + rest * bell(), a stream of its own for each block of tokens. */
static void mix(const struct made *m, float *v, const float *from, float keep, uint64_t stream)
{
    const float rest = sqrtf(1 - keep * keep);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < m->T; b += BLOCK) {
        struct rng r;
        rng_seed(&r, ((uint64_t)m->seed << 48) ^ (stream << 16) ^ (uint64_t)(b / BLOCK));
        for (int t = b; t < m->T && t < b + BLOCK; t++) v[t] = keep * from[t] + rest * bell(&r);
    }
}

/* The layer's scores and their softmax over the first N tokens. Scores of deviation 2.5 make shares
 * whose largest is some thousand times the median. */
static float attend(struct made *m, const float *state, float *score, int n)
{
    double sum = 0;
    for (int t = 0; t < n; t++)
        score[t] = 2.5f * state[t] + 2 * expf((float)(t - n) / 64) + (t == 0 ? 9.0f : 0);
    for (int t = 0; t < n; t++) sum += m->mass[t] = expf(score[t]);
    for (int t = 0; t < n; t++) m->mass[t] /= (float)sum;
    return (float)(1 / sum);
}

/* The K best by score, best first, ties to the lower index: a heap with the worst on top. */
static void best_of(struct made *m, const float *score, int n)
{
    int *heap = m->best, size = 0;
    for (int t = 0; t < n + m->K; t++) {
        int at, item;
        if (t < n && size < m->K) { /* grows from the bottom */
            for (at = size++; at > 0 && score[heap[(at - 1) / 2]] >= score[t]; at = (at - 1) / 2)
                heap[at] = heap[(at - 1) / 2];
            heap[at] = t;
            continue;
        }
        if (t < n) { /* takes the place of the worst */
            if (score[t] <= score[heap[0]]) continue;
            item = t;
        } else { /* at the end the worst goes behind the others, one after the other */
            if (size == 0) break;
            const int worst = heap[0];
            item = heap[--size];
            heap[size] = worst;
            if (size == 0) break;
        }
        for (at = 0;;) {
            int child = 2 * at + 1;
            if (child >= size) break;
            if (child + 1 < size && score[heap[child + 1]] < score[heap[child]]) child++;
            if (score[heap[child]] >= score[item]) break;
            heap[at] = heap[child];
            at = child;
        }
        heap[at] = item;
    }
    for (int k = 0; k < m->K && k < n; k++) m->best_mass[k] = m->mass[heap[k]];
}

static int put_step(struct made *m, struct dump_writer *w, int sample, int s, int n_prefill)
{
    float *score = xmalloc((size_t)m->T * sizeof *score);
    float *total = xmalloc((size_t)m->L * sizeof *total);
    const int n = n_prefill + s + 1, k = m->K < n ? m->K : n;
    const uint64_t stream = ((uint64_t)sample * (uint64_t)m->S + (uint64_t)s + 1) << 12;
    int rc = -1;

    mix(m, m->logit, m->base, 0.8f, stream);
    for (int layer = 0; layer < m->L; layer++) {
        if (layer) mix(m, m->logit, m->logit, 0.9f, stream + (uint64_t)layer);
        attend(m, m->logit, score, n);
        best_of(m, score, n);
        total[layer] = 0;
        for (int t = 0; t < n_prefill; t++) total[layer] += m->mass[t];

        const double start = clock_seconds();
        if (dump_put(w, DUMP_MASS, s, layer, 0, m->mass, n) ||
            dump_put(w, DUMP_SCORE, s, layer, 0, score, n) ||
            dump_put_int(w, DUMP_TOPK_IDX, s, layer, m->best, k) ||
            dump_put(w, DUMP_TOPK_MASS, s, layer, 0, m->best_mass, k))
            goto done;
        m->writing += clock_seconds() - start;
    }
    if (dump_put(w, DUMP_TOPK_TOTAL, s, 0, 0, total, m->L)) goto done;
    rc = 0;

done:
    free(score);
    free(total);
    return rc;
}

static int put_sample(struct made *m, struct dump_writer *w, int sample)
{
    const int n_prefill = m->T - m->S;
    int *tokens = xmalloc((size_t)m->T * sizeof *tokens);
    int *pos = xmalloc((size_t)m->S * sizeof *pos);
    float *nll = xmalloc((size_t)m->S * sizeof *nll);
    struct rng r;
    int rc = -1;

    rng_seed(&r, (uint64_t)m->seed + (uint64_t)sample);
    for (int t = 0; t < m->T; t++) tokens[t] = (int)rng_below(&r, 32000);
    for (int t = 0; t < m->T; t++) m->base[t] = 0;
    mix(m, m->base, m->base, 0, (uint64_t)sample << 32);
    for (int s = 0; s < m->S; s++) {
        pos[s] = n_prefill + s;
        nll[s] = (float)rng_unit(&r);
    }
    const struct dump_sample begin = {
        .task = "made",
        .prompt_hash = hash_bytes(HASH_START, tokens, (size_t)n_prefill * sizeof *tokens),
        .n_prefill = n_prefill};
    const struct dump_sample_end end = {.T = m->T,
                                        .S = m->S,
                                        .tokens = tokens,
                                        .step_pos = pos,
                                        .step_nll = nll,
                                        .output = "",
                                        .answers = ""};
    if (dump_sample_begin(w, sample, &begin, m->T, m->S, 0)) goto done;
    for (int s = 0; s < m->S; s++)
        if (put_step(m, w, sample, s, n_prefill)) goto done;
    const double start = clock_seconds();
    if (dump_sample_finish(w, &end)) goto done;
    m->writing += clock_seconds() - start;
    rc = 0;

done:
    free(tokens);
    free(pos);
    free(nll);
    return rc;
}

int main(int argc, char **argv)
{
    struct made m = {.L = 32, .T = 131072, .S = 20, .N = 1, .K = 256};
    const struct option_spec specs[] = {
        {"--layers", OPT_INT, &m.L, 1, 1024},   {"--tokens", OPT_SIZE, &m.T, 2, 1 << 24},
        {"--steps", OPT_INT, &m.S, 1, 1 << 20}, {"--samples", OPT_INT, &m.N, 1, 1000},
        {"--topk", OPT_INT, &m.K, 1, 1 << 16},  {"--seed", OPT_INT, &m.seed, 0, 65535},
        {"--float32", OPT_FLAG, &m.f32, 0, 0},  {0}};
    struct dump_writer *w = NULL;
    int first, rc;

    set_program_name("make_long_dump");
    rc = options_parse(argc, argv, specs, usage, &first);
    if (rc >= 0) return rc;
    if (first + 1 != argc || m.S >= m.T) {
        fail("expected one OUT.h5, and fewer steps than tokens");
        return 2;
    }
    char *command = command_line(argc, argv);
    const struct dump_run run = {.model = "made",
                                 .fingerprint = "0",
                                 .command = command,
                                 .config = "{}",
                                 .method = "dense",
                                 .dtype = "f32",
                                 .backend = "cpu",
                                 .score_kind = "last",
                                 .attn_rows = "head",
                                 .version = build_version(),
                                 .commit = build_commit(),
                                 .L = m.L,
                                 .H = 32,
                                 .G = 8,
                                 .D = 128,
                                 .E = 4096,
                                 .V = 32000,
                                 .K = m.K,
                                 .full_layers = m.L,
                                 .random_weights = true,
                                 .seed = (uint64_t)m.seed};
    const struct dump_options options = {.fields = 1u << DUMP_MASS | 1u << DUMP_SCORE |
                                                   1u << DUMP_TOPK_IDX | 1u << DUMP_TOPK_MASS |
                                                   1u << DUMP_TOPK_TOTAL,
                                         .f32 = m.f32};
    m.base = xmalloc((size_t)m.T * sizeof *m.base);
    m.logit = xmalloc((size_t)m.T * sizeof *m.logit);
    m.mass = xmalloc((size_t)m.T * sizeof *m.mass);
    m.best = xmalloc((size_t)m.K * sizeof *m.best);
    m.best_mass = xmalloc((size_t)m.K * sizeof *m.best_mass);

    rc = (w = dump_create(argv[first], &run, &options)) ? 0 : -1;
    for (int i = 0; i < m.N && rc == 0; i++) rc = put_sample(&m, w, i);
    const double start = clock_seconds();
    rc = dump_finish(w, rc);
    m.bytes = (double)m.N * dump_sample_bytes(&run, &options, m.T, m.S, 0);
    if (rc == 0)
        note("%.1f MB of values in %.2f s of the writer (%.0f MB/s; %.3f ms a step), %.2f s of "
             "joining",
             m.bytes / 1e6, m.writing, m.bytes / 1e6 / m.writing, 1e3 * m.writing / (m.S * m.N),
             clock_seconds() - start);
    free(m.base);
    free(m.logit);
    free(m.mass);
    free(m.best);
    free(m.best_mass);
    free(command);
    return rc ? 1 : 0;
}
