/* test_cuda_trace.c - what a trace records on CUDA: each kernel against its definition, then a
 * whole trace against the CPU's.
 *
 * Kernels. Scores are maxima and copies: identical, but for the rounding to f16 (nearest even). A
 * weight exp(l - lse) is rounded in the difference (u |l - lse|, u = 2^-24) and in the exponential
 * (2 ulp: 4 u), and sums of n of them in n places, all positive: within (n + 8 + |l - lse|) u of
 * the result, twice that for a share of a sum; then f16, 2^-11 relative or 2^-25 where that has no
 * normal numbers. importance and the comparison of rows are summed in double: the float they are
 * stored in is what is lost, and 1e-12 of what is subtracted.
 */
#include "core/base/base.h"
#include "tests/gpu.h"
#include "tests/traced.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u = 0x1p-24;

struct shape {
    int H, pos, room;      /* room: positions of a row */
    int sets, count, tail; /* sets 0: everything is seen */
    bool shares;           /* the score is a share of the list */
};

/* One layer of a step in host memory and on the device. */
struct layer {
    struct shape s;
    struct cuda_seen seen;
    float *logits, *lse; /* [H, span], [H] */
    int *idx;            /* [sets, stride] */
    size_t span;
    int stride, entries;
};

static void make_layer(struct layer *l, struct rng *r, const struct shape *s)
{
    const int H = s->H;
    memset(l, 0, sizeof *l);
    l->s = *s;
    l->entries = s->sets ? s->count + s->pos + 1 - s->tail : s->pos + 1;
    l->span = (size_t)(s->pos + 1 + 37) / 16 * 16 + 16;
    l->stride = s->count + 3;
    l->logits = xmalloc((size_t)H * l->span * sizeof(float));
    l->lse = xmalloc((size_t)H * sizeof(float));
    memset(l->logits, 0xff, (size_t)H * l->span * sizeof(float));
    for (int h = 0; h < H; h++) {
        float *x = l->logits + (size_t)h * l->span;
        double sum = 0;
        for (int i = 0; i < l->entries; i++) {
            x[i] = (float)(12 * rng_unit(r) - 6);
            sum += exp(x[i]);
        }
        l->lse[h] = (float)log(sum);
    }
    if (s->sets) {
        l->idx = xmalloc((size_t)s->sets * (size_t)l->stride * sizeof(int));
        memset(l->idx, 0xff, (size_t)s->sets * (size_t)l->stride * sizeof(int));
        for (int set = 0; set < s->sets; set++) { /* COUNT of the TAIL positions before the tail */
            int n = 0;
            for (int p = 0; p < s->tail; p++)
                if ((int)rng_below(r, (uint32_t)(s->tail - p)) < s->count - n)
                    l->idx[(size_t)set * (size_t)l->stride + (size_t)n++] = p;
        }
    }
    l->seen = (struct cuda_seen){
        .logits = gpu_put(l->logits, (size_t)H * l->span * sizeof(float)),
        .lse = gpu_put(l->lse, (size_t)H * sizeof(float)),
        .span = l->span,
        .pos = gpu_put(&s->pos, sizeof(int)),
        .H = H,
        .sets = s->sets,
        .stride = l->stride,
        .count = gpu_put(&s->count, sizeof(int)),
        .tail = gpu_put(&s->tail, sizeof(int)),
    };
    if (s->sets) l->seen.idx = gpu_put(l->idx, (size_t)s->sets * (size_t)l->stride * sizeof(int));
}

static void free_layer(struct layer *l)
{
    free(l->logits);
    free(l->lse);
    free(l->idx);
}

/* The entry of head H that stands for position P, or -1. */
static int entry_of(const struct layer *l, int h, int p)
{
    const struct shape *s = &l->s;
    if (s->sets == 0) return p;
    if (p >= s->tail) return s->count + p - s->tail;
    const int *list = l->idx + (size_t)(h / (s->H / s->sets)) * (size_t)l->stride;
    for (int i = 0; i < s->count; i++)
        if (list[i] == p) return i;
    return -1;
}

/* mass and score of position P, and how far off they may be. */
static void define(const struct layer *l, int p, double *mass, double *score, double off[2])
{
    const int H = l->s.H;
    double longest = 0;
    *mass = 0;
    *score = NAN;
    for (int h = 0; h < H; h++) {
        const int e = entry_of(l, h, p);
        if (e < 0) continue;
        const float *x = l->logits + (size_t)h * l->span;
        const double weight = exp((double)x[e] - l->lse[h]);
        double value = x[e], total = 0;
        longest = fmax(longest, fabs((double)x[e] - l->lse[h]));
        if (l->s.shares) {
            for (int i = 0; i < l->s.count; i++) total += exp((double)x[i] - l->lse[h]);
            value = e < l->s.count ? weight / total : 0;
        }
        *mass += weight / H;
        if (!(*score >= value)) *score = value;
    }
    off[0] = (H + 10 + longest) * u * *mass;
    off[1] = l->s.shares ? (l->s.count + 20 + 2 * longest) * u * *score : 0;
}

static double from_half(uint16_t h)
{
    return f16_to_f32(h);
}

/* How many times the bound GOT is off; a half may be off by its rounding besides. */
static double gap(double got, double want, double off, bool half)
{
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got) ? 0 : INFINITY;
    if (half) off += fmax(0x1p-11 * fabs(want), 0x1p-25);
    return got == want ? 0 : fabs(got - want) / off;
}

static void rows_are_right(struct rng *r, const struct shape *s)
{
    struct layer l;
    make_layer(&l, r, s);
    const size_t room = ((size_t)s->room + 3) / 4 * 4;
    uint16_t *halves = xmalloc(2 * room * 2);
    float *floats = xmalloc(4 * room * 4), *again = xmalloc(4 * room * 4);
    char *wide = gpu_put(NULL, 4 * room * 4);
    double worst = 0;
    int touched = 0;
    struct cuda_trace_rows a = {.seen = l.seen,
                                .room = s->room,
                                .halves = true,
                                .mass = gpu_put(NULL, 2 * room),
                                .score = gpu_put(NULL, 2 * room),
                                .mass32 = (float *)wide + 2 * room,
                                .score32 = (float *)wide + 3 * room,
                                .totals = s->shares ? gpu_put(NULL, (size_t)s->H * 4) : NULL};
    CHECK(cuda_trace_rows(&a, 0) == 0, "%s", last_failure());
    gpu_get(halves, a.mass, 2 * room);
    gpu_get(halves + room, a.score, 2 * room);
    a.halves = false;
    a.mass = wide;
    a.score = (float *)wide + room;
    CHECK(cuda_trace_rows(&a, 0) == 0, "%s", last_failure());
    gpu_get(floats, wide, 4 * room * 4);
    CHECK(cuda_trace_rows(&a, 0) == 0, "%s", last_failure());
    gpu_get(again, wide, 4 * room * 4);

#pragma omp parallel for schedule(dynamic) reduction(max : worst) reduction(+ : touched)
    for (int p = 0; p < s->room; p++) {
        double mass, score, off[2], e;
        if (p > s->pos) {
            touched += halves[p] != 0xffff || halves[room + (size_t)p] != 0xffff;
            for (int i = 0; i < 4; i++) {
                uint32_t bits;
                memcpy(&bits, &floats[(size_t)i * room + (size_t)p], 4);
                touched += bits != 0xffffffff;
            }
            continue;
        }
        define(&l, p, &mass, &score, off);
        e = fmax(gap(from_half(halves[p]), mass, off[0], true),
                 gap(from_half(halves[room + (size_t)p]), score, off[1], true));
        e = fmax(e, fmax(gap(floats[p], mass, off[0], false),
                         gap(floats[room + (size_t)p], score, off[1], false)));
        if (s->sets)
            e = fmax(e, fmax(gap(floats[2 * room + (size_t)p], mass, off[0], false),
                             gap(floats[3 * room + (size_t)p], score, off[1], false)));
        if (isnan(score)) touched += halves[room + (size_t)p] != 0x7e00;
        worst = fmax(worst, e);
    }
    CHECK(worst <= 1, "H %d pos %d sets %d count %d: a row is %g times the bound off", s->H, s->pos,
          s->sets, s->count, worst);
    CHECK(touched == 0, "H %d pos %d sets %d: %d values past the row, or other NaNs", s->H, s->pos,
          s->sets, touched);
    CHECK(memcmp(floats, again, 4 * room * 4) == 0, "H %d pos %d sets %d: other bits again", s->H,
          s->pos, s->sets);
    free(halves);
    free(floats);
    free(again);
    free_layer(&l);
    gpu_release();
}

static double importance_of(const float *x, const float *delta, int E)
{
    double xy = 0, xx = 0, yy = 0;
    for (int e = 0; e < E; e++) {
        const double y = (double)x[e] + delta[e];
        xy += x[e] * y;
        xx += (double)x[e] * x[e];
        yy += y * y;
    }
    return 1 - xy / sqrt(xx * yy);
}

static void compact_is_right(struct rng *r, const struct shape *s, int k, int first, int E)
{
    struct layer l;
    float *x, *delta, *given, *given_mass, importance;
    float *score = xmalloc((size_t)k * 4), *mass = xmalloc((size_t)k * 4), parts[CUDA_TRACE_PARTS];
    int *idx = xmalloc((size_t)k * sizeof *idx), bad = 0;
    double want_mass, want_score, off[2], worst = 0, tail = 0, sum = 0;
    make_layer(&l, r, s);
    for (int i = 0; i < k; i++) idx[i] = (int)rng_below(r, (uint32_t)first);
    const struct cuda_trace_compact a = {
        .seen = l.seen,
        .idx = gpu_put(idx, (size_t)k * sizeof *idx),
        .k = k,
        .score = gpu_put(NULL, (size_t)k * 4),
        .mass = gpu_put(NULL, (size_t)k * 4),
        .given = gpu_random(r, (size_t)s->room, 1, DTYPE_F32, &given),
        .given_mass = gpu_random(r, (size_t)s->room, 1, DTYPE_F32, &given_mass),
        .parts = gpu_put(NULL, sizeof parts),
        .first = first,
        .importance = gpu_put(NULL, sizeof importance),
        .x = gpu_random(r, (size_t)E, 1, DTYPE_F32, &x),
        .delta = gpu_random(r, (size_t)E, 0.25f, DTYPE_F32, &delta),
        .E = E};
    struct cuda_trace_compact own = a;
    CHECK(cuda_trace_compact(&a, 0) == 0, "%s", last_failure());
    gpu_get(score, a.score, (size_t)k * 4);
    gpu_get(mass, a.mass, (size_t)k * 4);
    gpu_get(parts, a.parts, sizeof parts);
    gpu_get(&importance, a.importance, sizeof importance);
    for (int i = 0; i < k; i++) bad += score[i] != given[idx[i]] || mass[i] != given_mass[idx[i]];
    CHECK(bad == 0, "k %d: %d values are not the given ones", k, bad);

    const int from = s->sets ? s->tail : first;
    for (int p = from; p <= s->pos; p++) {
        define(&l, p, &want_mass, &want_score, off);
        tail += want_mass;
    }
    for (int i = 0; i < CUDA_TRACE_PARTS; i++) sum += parts[i];
    const double n = (double)s->H * (s->pos + 1 - from) + 40;
    CHECK(fabs(sum - tail) <= n * u * tail, "H %d pos %d from %d: tail %g, want %g", s->H, s->pos,
          from, sum, tail);
    const double turn = importance_of(x, delta, E);
    CHECK(fabs(importance - turn) <= 2 * u * turn + 1e-12, "E %d: importance %g, want %g", E,
          importance, turn);

    if (s->sets == 0) { /* nothing given, and no layer's number */
        own.given = own.given_mass = NULL;
        own.importance = NULL;
        CHECK(cuda_trace_compact(&own, 0) == 0, "%s", last_failure());
        gpu_get(score, own.score, (size_t)k * 4);
        gpu_get(mass, own.mass, (size_t)k * 4);
        for (int i = 0; i < k; i++) {
            define(&l, idx[i], &want_mass, &want_score, off);
            worst = fmax(worst, gap(mass[i], want_mass, off[0], false));
            bad += score[i] != (float)want_score;
        }
        CHECK(bad == 0 && worst <= 1, "H %d k %d: %d scores differ, mass %g times the bound off",
              s->H, k, bad, worst);
    }
    free(score);
    free(mass);
    free(idx);
    free_layer(&l);
    gpu_release();
}

static void given_scores_are_copied(struct rng *r)
{
    const struct shape s = {.H = 4, .pos = 1002, .room = 1100};
    struct layer l;
    float *given, out[1100];
    int bad = 0;
    make_layer(&l, r, &s);
    const struct cuda_trace_rows a = {.seen = l.seen,
                                      .room = s.room,
                                      .score = gpu_put(NULL, sizeof out),
                                      .given = gpu_random(r, 1100, 1, DTYPE_F32, &given)};
    CHECK(cuda_trace_rows(&a, 0) == 0, "%s", last_failure());
    gpu_get(out, a.score, sizeof out);
    for (int p = 0; p <= s.pos; p++) bad += out[p] != given[p];
    CHECK(bad == 0, "%d of the given scores differ", bad);
    free_layer(&l);
    gpu_release();
}

static void rows_are_compared(struct rng *r, int n, int E)
{
    float *delta, *twice = xmalloc(2 * (size_t)n * (size_t)E * 4);
    const float *on_device = gpu_random(r, (size_t)n * (size_t)E, 1, DTYPE_F32, &delta);
    float *pairs = gpu_put(NULL, (size_t)n * 6 * 4), *got = xmalloc((size_t)n * 6 * 4);
    float *to = gpu_put(NULL, 2 * (size_t)n * (size_t)E * 4);
    const float *own = delta + (size_t)(n - 1) * (size_t)E;
    double worst = 0, size = 0;
    CHECK(cuda_compare_rows(pairs, 6, on_device, n, E, 0) == 0, "%s", last_failure());
    gpu_get(got, pairs, (size_t)n * 6 * 4);
    for (int e = 0; e < E; e++) size += (double)own[e] * own[e];
    for (int i = 0; i < n; i++) {
        double apart = 0, dot = 0, other = 0;
        for (int e = 0; e < E; e++) {
            const double x = delta[(size_t)i * (size_t)E + (size_t)e];
            apart += (x - own[e]) * (x - own[e]);
            dot += x * own[e];
            other += x * x;
        }
        worst = fmax(worst, fabs(got[6 * i] - sqrt(apart / size)));
        worst = fmax(worst, fabs(got[6 * i + 1] - dot / sqrt(size * other)));
    }
    CHECK(worst <= 4 * u, "%d rows of %d: %g off", n, E, worst);
    CHECK(cuda_repeat_row(to, on_device, 2 * n, (size_t)E, 0) == 0, "%s", last_failure());
    gpu_get(twice, to, 2 * (size_t)n * (size_t)E * 4);
    for (int i = 0; i < 2 * n; i++)
        CHECK(memcmp(twice + (size_t)i * (size_t)E, delta, (size_t)E * 4) == 0, "copy %d", i);
    free(twice);
    free(got);
    gpu_release();
}

static void refusals(void)
{
    struct cuda_trace_rows a = {.room = 1, .seen = {.H = 1, .span = 6}};
    const struct cuda_trace_compact none = {0};
    const bool muted = mute_failures(true);
    CHECK(cuda_trace_rows(&a, 0) == -1, "rows that are not aligned");
    a.seen.span = 16;
    a.seen.idx = (const int *)&a;
    a.seen.sets = 2;
    CHECK(cuda_trace_rows(&a, 0) == -1, "two lists for one head");
    CHECK(cuda_trace_compact(&none, 0) == -1, "nothing to do");
    mute_failures(muted);
}

static void kernels(void)
{
    static const struct shape shapes[] = {
        {.H = 1, .pos = 0, .room = 1},
        {.H = 3, .pos = 4, .room = 9},
        {.H = 8, .pos = 511, .room = 512},
        {.H = 32, .pos = 4999, .room = 5003},
        {.H = 33, .pos = 1026, .room = 2000},
        {.H = 1, .pos = 3, .room = 8, .sets = 1, .count = 1, .tail = 2},
        {.H = 8, .pos = 40, .room = 64, .sets = 1, .count = 0, .tail = 33},
        {.H = 8, .pos = 3000, .room = 3001, .sets = 1, .count = 700, .tail = 2990},
        {.H = 8, .pos = 3000, .room = 3500, .sets = 2, .count = 700, .tail = 2990, .shares = true},
        {.H = 12, .pos = 2100, .room = 2101, .sets = 12, .count = 37, .tail = 1000},
        {.H = 32, .pos = 9000, .room = 9100, .sets = 8, .count = 2048, .tail = 8990},
        {.H = 16,
         .pos = 1023,
         .room = 1024,
         .sets = 1,
         .count = 1000,
         .tail = 1000,
         .shares = true},
    };
    struct rng r;
    rng_seed(&r, 31);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *s = &shapes[i];
        const int first = s->sets ? s->tail : s->pos + 1 - s->pos / 3;
        rows_are_right(&r, s);
        compact_is_right(&r, s, 1 + (int)i * 37, first, 8 << i % 10);
    }
    given_scores_are_copied(&r);
    rows_are_compared(&r, 1, 64);
    rows_are_compared(&r, 5, 1000);
    refusals();
}

/* ---- whole traces of the pocket model
 *
 * On CUDA keys, values and queries' sources pass through bf16 in the prefill: each of some 2 L = 24
 * roundings of relative 2^-9 moves a layer's input, at random, so about 5 * 2^-9 = 1 % of it in
 * all; a logit is a sum of such products. Hence scores within 0.02 + 2 % of their size, mean
 * weights within 2 % of a row's largest and so 2e-3 absolute here. The top k are the CPU's but for
 * positions that close to the border: none further, and 95 % in common. */

static void traces_agree(const char *config, const char *fields, bool f32)
{
    const char *cpu = check_scratch("cpu.h5"), *cuda = check_scratch("cuda.h5");
    const char *again = check_scratch("again.h5");
    const struct traced how = {.config = config, .fields = fields, .top = 128, .f32 = f32};
    const bool selects = strstr(config, "multi"); /* near ties of a selection may go either way */
    struct traced_gap gap;
    remove(cpu);
    remove(cuda);
    remove(again);
    CHECK(traced_run(cpu, "cpu", NULL, &how) == 0, "%s: %s", config, last_failure());
    CHECK(traced_run(cuda, "cuda", NULL, &how) == 0, "%s: %s", config, last_failure());
    CHECK(traced_run(again, "cuda", NULL, &how) == 0, "%s: %s", config, last_failure());
    const int rc = traced_compare(cpu, cuda, 0.02, &gap);
    CHECK(rc == 0, "%s: %s", config, last_failure());
    if (rc == 0) {
        printf("%s %s: off by score %.4f, mass %.5f, top mass %.5f, total %.5f, importance %.6f, "
               "reuse %.4f; common %.3f\n",
               config, fields, gap.score, gap.mass, gap.top_mass, gap.total, gap.importance,
               gap.reuse, gap.common);
        CHECK(gap.score <= 0.02, "%s: scores %g off", config, gap.score);
        CHECK(gap.mass <= 4e-3 && gap.top_mass <= 4e-3, "%s: mass %g, of the top %g off", config,
              gap.mass, gap.top_mass);
        CHECK(gap.total <= 2e-2, "%s: totals %g off", config, gap.total);
        CHECK(gap.importance <= 4e-3, "%s: importance %g off", config, gap.importance);
        CHECK(gap.reuse <= 0.1, "%s: reuse errors %g off", config, gap.reuse);
        CHECK(gap.common >= 0.95 && gap.beyond == 0,
              "%s: %g of the top in common, %d off the border", config, gap.common, gap.beyond);
        CHECK(gap.shape <= (selects ? 0.02 : 0), "%s: one looked and the other did not at %g",
              config, gap.shape);
        CHECK(gap.selected >= 0.9, "%s: %g of the selections in common", config, gap.selected);
    }
    CHECK(traced_compare(cuda, again, 0, &gap) == 0 && gap.differ == 0,
          "%s: %d values differ between two runs", config, gap.differ);
}

static void refused(const char *config, const char *fields, const char *why)
{
    const struct traced how = {.config = config, .fields = fields};
    const char *path = check_scratch("refused.h5");
    CHECK(traced_run(path, "cuda", NULL, &how) == -1 && strstr(last_failure(), why),
          "%s: %s: \"%s\"", config, fields, last_failure());
}

#define OMNIKV                                                                                     \
    "\"model_cls\": \"multi\", \"do_select_layers\": \"2,5,8\", \"num_wait_load_layers\": 1, "     \
    "\"num_of_selected_tokens\": 96, \"real_offload\": false, "

static void whole_traces(void)
{
    traces_agree("{\"model_cls\": \"raw_llama\"}", "mass,score,topk,importance", false);
    traces_agree("{\"model_cls\": \"raw_llama\"}", "topk,reuse_error", true);
    traces_agree("{" OMNIKV "\"selector_cls\": \"last\"}",
                 "mass,score,topk,importance,selected_idx,reuse_error", true);
    traces_agree("{" OMNIKV "\"selector_cls\": \"softmax_before_last\", \"pool\": \"group\"}",
                 "mass,score,topk,selected_idx", false);
    traces_agree("{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 4, "
                 "\"sink_window_length\": 60}",
                 "mass,score,topk", true);
    traces_agree("{\"model_cls\": \"multi\", \"do_select_layers\": \"2,5,8\", "
                 "\"num_of_selected_tokens\": 96, \"real_offload\": true}",
                 "score,topk,selected_idx", false);
    refused("{\"model_cls\": \"raw_llama\"}", "mass,attn", "attn is recorded on the CPU only");
    refused("{\"model_cls\": \"raw_llama\"}", "prefill_score", "prefill_score is recorded on the");
    refused("{\"model_cls\": \"brutal_offload\"}", "reuse_error", "reuse_error needs the keys");
}

int main(void)
{
    if (gpu_open("test_cuda_trace")) {
        kernels();
        whole_traces();
    }
    return check_report("test_cuda_trace");
}
