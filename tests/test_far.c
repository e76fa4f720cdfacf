/* test_far.c - the op behind infllm, streaming and infinite-lm: closed forms on every instruction
 * set, the fast form against the definition, the cache of blocks against lists.
 */
#include "core/base/base.h"
#include "core/ops/far_host.h"
#include "tests/check.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24 /* unit roundoff of float32 */

/* ---- one layer: keys, values and queries by hand */

struct backend {
    const struct ops *ops;
    const char *isa;
};

/* One layer of a text, and what came out of a run over it. */
struct scene {
    struct model_config c;
    struct far_rule rule;
    int T; /* tokens */
    struct kv_layer kv;
    float *q;             /* [T, H, P] */
    float *cosine, *sine; /* [T, D / 2] */
    float factor;         /* of the RoPE kind */
    float *out, *lse;     /* [T, H, D], [T, H] */
    float *logits;        /* [H, span] of the last row that went alone */
    size_t span;
    struct attn_view view;
    struct far *far;
};

static void scene_open(struct scene *s, int H, int G, int D, int T, struct far_rule rule,
                       float factor)
{
    const size_t P = (size_t)padded_width(D), half = (size_t)D / 2, n = (size_t)T;
    const int room = (T + 63) / 64 * 64;
    *s = (struct scene){.c = {.L = 1, .H = H, .G = G, .D = D}, .rule = rule, .T = T};
    s->rule.room = T;
    s->factor = factor;
    s->kv = (struct kv_layer){xcalloc((size_t)(G * room) * P, sizeof(float)),
                              xcalloc((size_t)(G * room) * P, sizeof(float)), room, NULL};
    s->q = xcalloc(n * (size_t)H * P, sizeof *s->q);
    s->cosine = xcalloc(n * half, sizeof *s->cosine);
    s->sine = xcalloc(n * half, sizeof *s->sine);
    s->out = xcalloc(n * (size_t)(H * D), sizeof *s->out);
    s->lse = xcalloc(n * (size_t)H, sizeof *s->lse);
    s->span = n + 16;
    s->logits = xcalloc((size_t)H * s->span, sizeof *s->logits);
    for (size_t i = 0; i < n * half; i++) {
        const double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        s->cosine[i] = factor * (float)cos(angle);
        s->sine[i] = factor * (float)sin(angle);
    }
}

static void scene_close(struct scene *s)
{
    far_close(s->far);
    free(s->kv.k);
    free(s->kv.v);
    free(s->q);
    free(s->cosine);
    free(s->sine);
    free(s->out);
    free(s->lse);
    free(s->logits);
}

/* to [D] = X, turned for position POS as attn_in() does. */
static void turn_to(const struct scene *s, float *to, const float *x, int pos)
{
    const int half = s->c.D / 2;
    for (int d = 0; d < half; d++) {
        const double a = x[d], b = x[d + half];
        const double cosine = s->cosine[pos * half + d], sine = s->sine[pos * half + d];
        to[d] = (float)(a * cosine - b * sine);
        to[d + half] = (float)(b * cosine + a * sine);
    }
}

static float *key_of(const struct scene *s, int g, int t)
{
    return s->kv.k + ((size_t)g * (size_t)s->kv.room + (size_t)t) * (size_t)padded_width(s->c.D);
}

static float *value_of(const struct scene *s, int g, int t)
{
    return s->kv.v + (key_of(s, g, t) - s->kv.k);
}

static float *query_of(const struct scene *s, int h, int t)
{
    return s->q + ((size_t)t * (size_t)s->c.H + (size_t)h) * (size_t)padded_width(s->c.D);
}

static void fill_random(struct scene *s, uint64_t seed)
{
    struct rng r;
    rng_seed(&r, seed);
    for (int t = 0; t < s->T; t++) {
        for (int g = 0; g < s->c.G; g++)
            for (int d = 0; d < s->c.D; d++) {
                key_of(s, g, t)[d] = (float)(rng_unit(&r) * 2 - 1);
                value_of(s, g, t)[d] = (float)(rng_unit(&r) * 2 - 1);
            }
        for (int h = 0; h < s->c.H; h++)
            for (int d = 0; d < s->c.D; d++) query_of(s, h, t)[d] = (float)(rng_unit(&r) * 4 - 2);
    }
}

/* Begins a text with a prompt of PROMPT tokens. */
static void begin(struct scene *s, const struct backend *b, int prompt)
{
    if (s->far == NULL) s->far = b->ops->far_open(&s->rule, &s->c);
    b->ops->far_start(s->far, prompt, &s->kv, false, (struct rope_table){0}, &s->c);
}

/* The rows [from, to) in one pass; logits are asked for when LOGITS. */
static void pass(struct scene *s, const struct backend *b, int from, int to, bool prefill,
                 bool logits)
{
    const size_t H = (size_t)s->c.H, at = (size_t)from * H;
    struct scratch own = {0};
    b->ops->far_attend(s->far, 0, s->out + at * (size_t)s->c.D, query_of(s, 0, from), &s->kv,
                       to - from, from, prefill, (struct rope_table){s->cosine, s->sine},
                       (struct attn_seen){.lse = s->lse + at,
                                          .logits = logits ? s->logits : NULL,
                                          .span = s->span},
                       &s->view, &s->c, &own);
    scratch_free(&own);
}

/* A prompt of PROMPT tokens in passes of PASS rows, and a step for each token after it. */
static void whole(struct scene *s, const struct backend *b, int prompt, int rows)
{
    begin(s, b, prompt);
    for (int t = 0; t < prompt; t += rows)
        pass(s, b, t, t + rows < prompt ? t + rows : prompt, true, false);
    for (int t = prompt; t < s->T; t++) pass(s, b, t, t + 1, false, true);
}

/* ---- closed forms */

/* With all keys 0 every weight is one over what a row sees, and the value of token t is the unit
 * vector t: the output says who is seen. */
static void everybody_is_seen_once(const struct backend *b)
{
    static const struct {
        int n_init, n_local, topk, size, exc;
        bool turned;
    } cases[] = {
        {4, 8, 12, 4, 4, false},    {0, 8, 26, 2, 8, false},  {3, 16, 8, 6, 16, false},
        {60, 2, 1, 1, 1, false},    {4, 100, 1, 4, 4, false}, {0, 1, 60, 1, 1, false},
        {56, 4, 0, 4, 1, false},    {56, 4, 0, 4, 1, true},   {0, 60, 0, 1, 1, true},
        {100, 100, 3, 4, 8, false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct scene s;
        scene_open(&s, 2, 1, 60, 60,
                   (struct far_rule){.n_init = cases[i].n_init,
                                     .n_local = cases[i].n_local,
                                     .topk = cases[i].topk,
                                     .block_size = cases[i].size,
                                     .repr_topk = 1,
                                     .exc_block_size = cases[i].exc,
                                     .max_cached = 64,
                                     .turned = cases[i].turned},
                   1);
        for (int t = 0; t < 60; t++) value_of(&s, 0, t)[t] = 1;
        whole(&s, b, 40, 40);
        double worst = 0;
        for (int t = 0; t < 60; t++)
            for (int d = 0; d < 120; d++) {
                const double want = d % 60 <= t ? 1.0 / (t + 1) : 0;
                worst = fmax(worst, fabs(s.out[t * 120 + d] - want));
            }
        CHECK(worst < 1e-6, "%s: case %zu: a token is not seen once: %g", b->isa, i, worst);
        scene_close(&s);
    }
}

/* The same with less to see: only sinks and a window, and a choice among equal blocks. */
static void who_is_seen(const struct backend *b)
{
    static const struct {
        int topk;
        const char *seen; /* by the token at 39 */
    } cases[] = {
        {0, "xxx.............................xxxxxxxx"},
        /* (39 - 3 - 8) / 5 = 5 blocks from 3 on; equal ones: the first; the remainder from 28 */
        {1, "xxxxxxxx....................xxxxxxxxxxxx"},
        {2, "xxxxxxxxxxxxx...............xxxxxxxxxxxx"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct scene s;
        scene_open(&s, 1, 1, 40, 40,
                   (struct far_rule){.n_init = 3,
                                     .n_local = 8,
                                     .topk = cases[i].topk,
                                     .block_size = 5,
                                     .repr_topk = 2,
                                     .exc_block_size = 4,
                                     .max_cached = 8},
                   1);
        for (int t = 0; t < 40; t++) value_of(&s, 0, t)[t] = 1;
        whole(&s, b, 30, 30);
        char seen[41] = "";
        for (int t = 0; t < 40; t++) seen[t] = s.out[39 * 40 + t] > 0 ? 'x' : '.';
        CHECK(strcmp(seen, cases[i].seen) == 0, "%s: topk %d: %s, want %s", b->isa, cases[i].topk,
              seen, cases[i].seen);
        scene_close(&s);
    }
}

/* One key and one query, at every position: a logit then depends on the distance alone. Those of
 * the list must equal that of the window's first token, the largest distance there; under streaming
 * they go on from n_local as positions of the first tokens do. */
static void distances_are_kept(const struct backend *b)
{
    enum { T = 70, D = 12, INIT = 5, LOCAL = 9 };
    for (int streaming = 0; streaming < 2; streaming++)
        for (int factor = 0; factor < 2; factor++) {
            struct scene s;
            float one[D], other[D];
            scene_open(&s, 2, 1, D, T,
                       (struct far_rule){.n_init = INIT,
                                         .n_local = LOCAL,
                                         .topk = streaming ? 0 : 3,
                                         .block_size = 7,
                                         .repr_topk = 3,
                                         .exc_block_size = 4,
                                         .max_cached = 8,
                                         .turned = streaming},
                       factor ? 1.37f : 1);
            for (int d = 0; d < D; d++) {
                one[d] = (float)cos(1 + 3 * d);
                other[d] = (float)sin(2 + 5 * d);
            }
            for (int t = 0; t < T; t++) {
                turn_to(&s, key_of(&s, 0, t), one, t);
                turn_to(&s, query_of(&s, 0, t), other, t);
                turn_to(&s, query_of(&s, 1, t), one, t);
            }
            begin(&s, b, 40);
            pass(&s, b, 0, 40, true, false);
            for (int t = 40; t < T; t++) {
                pass(&s, b, t, t + 1, false, true);
                const int listed = s.view.count[0];
                CHECK(listed >= INIT && s.view.tail[0] == t - LOCAL + 1, "%s: %d listed", b->isa,
                      listed);
                for (int h = 0; h < 2; h++)
                    for (int i = 0; i < listed + LOCAL; i++) {
                        const int distance = i >= listed ? LOCAL - 1 - (i - listed)
                                             : streaming ? LOCAL + INIT - 1 - i
                                                         : LOCAL - 1;
                        float at[D];
                        double want = 0;
                        turn_to(&s, at, h ? one : other, distance);
                        for (int d = 0; d < D; d++) want += at[d] * s.factor * one[d];
                        want /= sqrt(D);
                        const double got = s.logits[(size_t)h * s.span + (size_t)i];
                        CHECK(fabs(got - want) < 1e-5,
                              "%s: streaming %d factor %g: token %d entry %d: %g, want %g", b->isa,
                              streaming, s.factor, t, i, got, want);
                    }
            }
            scene_close(&s);
        }
}

/* The window never closes: plain causal attention. */
static void a_window_for_everything_is_dense(const struct backend *b)
{
    struct scene s;
    scene_open(&s, 6, 3, 20, 150,
               (struct far_rule){.n_init = 4,
                                 .n_local = 150,
                                 .topk = 2,
                                 .block_size = 8,
                                 .repr_topk = 2,
                                 .exc_block_size = 32,
                                 .max_cached = 8},
               1);
    fill_random(&s, 3);
    whole(&s, b, 140, 140);
    float *dense = xcalloc(150 * 6 * 20, sizeof *dense), *lse = xcalloc(150 * 6, sizeof *lse);
    struct scratch own = {0};
    double worst = 0;
    ops_reference()->attend_all(dense, s.q, &s.kv, 150, 0, &s.c, lse, &own);
    for (int i = 0; i < 150 * 6 * 20; i++) worst = fmax(worst, fabs((double)dense[i] - s.out[i]));
    for (int i = 0; i < 150 * 6; i++) worst = fmax(worst, fabs((double)lse[i] - s.lse[i]));
    CHECK(worst < 1e-5, "%s: off by %g", b->isa, worst);
    scratch_free(&own);
    free(dense);
    free(lse);
    scene_close(&s);
}

/* ---- the fast form against the definition */

static double chain(double n)
{
    return n * U / (1 - n * U);
}

/* Worst relative errors of docs/numbers.md: queries and keys are the same bits in both, at most
 * sqrt(8) and sqrt(2) a pair after turning, so that the products of a logit add up to at most
 * 2 sqrt(D). A merge of the two parts costs a weight two more exponentials. */
static double weight_bound(const struct scene *s)
{
    const double l = chain(padded_width(s->c.D) + 4) * 2 * sqrt(s->c.D);
    return expm1(2 * l + 4 * 88 * U + 4 * U * (4 + s->T / 64.0)) + chain(s->T + 8);
}

static void twins_agree(const struct backend *b)
{
    const struct backend plain = {ops_reference(), "reference"};
    struct rng r;
    rng_seed(&r, 17);
    for (int i = 0; i < 28; i++) {
        const int G = 1 + (int)rng_below(&r, 3), R = 1 + (int)rng_below(&r, 8);
        const int D = 2 * (1 + (int)rng_below(&r, 34)),
                  T = (i < 2 ? 200 : 2) + (int)rng_below(&r, 220);
        const int local = 1 + (int)rng_below(&r, i % 4 ? 60 : 200);
        const int size = 1 + (int)rng_below(&r, 17),
                  prompt = i < 2 ? T - 3 : 1 + (int)rng_below(&r, (uint32_t)T);
        struct far_rule rule = {
            .n_init = i % 3 ? (int)rng_below(&r, 20) : 0,
            .n_local = local,
            .topk = i % 5 ? 1 + (int)rng_below(&r, 9) : 0,
            .block_size = size,
            .repr_topk = 1 + (int)rng_below(&r, (uint32_t)size),
            .exc_block_size = i % 7 ? 1 + (int)rng_below(&r, (uint32_t)local) : 1,
            .max_cached = 9,
            .policy = i % 2 ? BLOCKS_LRU : BLOCKS_LRU_S,
            .decay = 0.5,
            .turned = i % 10 == 0,
        };
        if (i < 2) { /* windows that begin, and tiles that end, one key from where a block does */
            rule.n_local = i ? 70 : 66;
            rule.exc_block_size = i ? 65 : 64;
            rule.topk = 2;
        }
        struct scene s, p;
        scene_open(&s, R * G, G, D, T, rule, 1);
        scene_open(&p, R * G, G, D, T, rule, 1);
        fill_random(&s, (uint64_t)i);
        fill_random(&p, (uint64_t)i);
        whole(&s, b, prompt, prompt);
        whole(&p, &plain, prompt, prompt);
        const double bound = weight_bound(&s);
        double out = 0, lse = 0, mass = 0;
        const size_t rows = (size_t)(T * R * G);
        for (size_t k = 0; k < rows * (size_t)D; k++)
            out = fmax(out, fabs((double)s.out[k] - p.out[k]));
        for (size_t k = 0; k < rows; k++)
            lse = fmax(lse, fabs((double)s.lse[k] - p.lse[k]) / (1 + fabs(p.lse[k])));
        for (size_t k = 0; s.far->mass && k < (size_t)(R * G) * s.far->span; k++)
            mass = fmax(mass,
                        fabs((double)s.far->mass[k] - p.far->mass[k]) / (p.far->mass[k] + 1e-30));
        struct far_stats a, c;
        far_stats(s.far, &a);
        far_stats(p.far, &c);
        CHECK(out <= bound && lse <= bound + 8 * U && mass <= bound + chain(2 * T),
              "%s: shape %d (H %d G %d D %d T %d prompt %d): %g %g %g, bound %g", b->isa, i, R * G,
              G, D, T, prompt, out, lse, mass, bound);
        CHECK(a.chosen == c.chosen && a.missed == c.missed && a.missed <= a.chosen,
              "%s: shape %d: %g of %g blocks missed, %g of %g", b->isa, i, a.missed, a.chosen,
              c.missed, c.chosen);
        CHECK(s.view.count == NULL || p.view.count == NULL ||
                  (s.view.count[0] == p.view.count[0] &&
                   memcmp(s.view.idx, p.view.idx, (size_t)s.view.count[0] * sizeof(int)) == 0),
              "%s: shape %d: another list", b->isa, i);
        scene_close(&s);
        scene_close(&p);
    }
}

/* The same bits for any number of threads, for passes that end where groups do, and for a step that
 * is rewound and run again. */
static void bits_repeat(const struct backend *b)
{
    const struct far_rule rule = {.n_init = 4,
                                  .n_local = 70,
                                  .topk = 3,
                                  .block_size = 16,
                                  .repr_topk = 4,
                                  .exc_block_size = 48,
                                  .max_cached = 9};
    struct scene s[4];
    const int threads[] = {1, 3, 2, 2}, rows[] = {400, 400, 96, 400}, most = omp_get_max_threads();
    for (int i = 0; i < 4; i++) {
        scene_open(&s[i], 4, 2, 16, 430, rule, 1);
        fill_random(&s[i], 5);
        omp_set_num_threads(threads[i]);
        if (i == 3) {
            begin(&s[i], b, 400);
            pass(&s[i], b, 0, 400, true, false);
            for (int t = 400; t < 860; t++) /* every step twice */
                pass(&s[i], b, 400 + (t - 400) / 2 % 30, 401 + (t - 400) / 2 % 30, false, true);
        } else {
            whole(&s[i], b, 400, rows[i]);
        }
        CHECK(i == 0 ||
                  (memcmp(s[i].out, s[0].out, 430 * 64 * sizeof(float)) == 0 &&
                   memcmp(s[i].far->mass, s[0].far->mass, 4 * s[0].far->span * sizeof(float)) == 0),
              "%s: run %d has other bits", b->isa, i);
    }
    omp_set_num_threads(most);
    for (int i = 0; i < 4; i++) scene_close(&s[i]);
}

/* ---- the cache of blocks, against lists */

static void cache_is_as_defined(const struct backend *b)
{
    for (int policy = 0; policy < 2; policy++) {
        enum { T = 400, PROMPT = 200, SIZE = 8, TOPK = 3, HELD = 5, INIT = 2, H = 2 };
        struct scene s;
        scene_open(&s, H, 1, 8, T,
                   (struct far_rule){.n_init = INIT,
                                     .n_local = 20,
                                     .topk = TOPK,
                                     .block_size = SIZE,
                                     .repr_topk = 2,
                                     .exc_block_size = 16,
                                     .max_cached = HELD,
                                     .policy = policy ? BLOCKS_LRU_S : BLOCKS_LRU,
                                     .decay = 0.7},
                   1);
        fill_random(&s, 9);
        begin(&s, b, PROMPT);
        pass(&s, b, 0, PROMPT, true, false);
        double priority[T / SIZE];
        int held = 0, missed = 0, used = 0;
        for (int i = 0; i < T / SIZE; i++) priority[i] = -1; /* not held */
        for (int t = PROMPT; t < T; t++) {
            bool now[T / SIZE] = {false};
            pass(&s, b, t, t + 1, false, true);
            for (int i = 0; i < TOPK; i++) now[(s.view.idx[INIT + i * SIZE] - INIT) / SIZE] = true;
            for (int k = 0; k < T / SIZE; k++) {
                used += now[k];
                if (!now[k] || priority[k] >= 0) continue;
                missed++;
                if (held++ < HELD) continue;
                int out = -1;
                for (int e = 0; e < T / SIZE; e++)
                    if (priority[e] >= 0 && !now[e] && (out < 0 || priority[e] < priority[out]))
                        out = e;
                priority[out] = -1;
                priority[k] = 0; /* held from here on */
            }
            for (int k = 0, n = 0; k < T / SIZE; k++) {
                if (now[k]) priority[k] = policy ? 0 : t;
                if (policy && priority[k] >= 0) priority[k] *= 0.7;
                for (int i = 0; policy && now[k] && i < SIZE * H; i++)
                    priority[k] += exp(
                        (double)
                            s.logits[(size_t)(i % H) * s.span + (size_t)(INIT + n * SIZE + i / H)] -
                        s.lse[(size_t)t * H + (size_t)(i % H)]);
                n += now[k];
            }
        }
        struct far_stats stats;
        far_stats(s.far, &stats);
        CHECK(stats.chosen == used && stats.missed == missed && missed > 20 && missed < used,
              "%s: policy %d: %g of %g missed, want %d of %d", b->isa, policy, stats.missed,
              stats.chosen, missed, used);
        scene_close(&s);
    }
}

int main(void)
{
    static const char *const sets[] = {"reference", "plain", "avx2", "avx512"};
    omp_set_num_threads(1); /* the shapes are small */
    set_program_name("test_far");
    for (size_t i = 0; i < COUNT_OF(sets); i++) {
        const struct backend b = {i == 0 ? ops_reference() : ops_cpu(sets[i]), sets[i]};
        if (b.ops == NULL) {
            check_skip(sets[i], "this processor lacks it");
            continue;
        }
        everybody_is_seen_once(&b);
        who_is_seen(&b);
        distances_are_kept(&b);
        a_window_for_everything_is_dense(&b);
        cache_is_as_defined(&b);
        if (i == 0) continue;
        bits_repeat(&b);
        twins_agree(&b);
    }
    return check_report("test_far");
}
