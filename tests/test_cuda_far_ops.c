/* test_cuda_far_ops.c - infllm, streaming and infinite-lm on a GPU: the ops against the host's
 * definition, whole models against the CPU, and what must not change a bit. With arguments, runs
 * the parts of those names alone.
 */
#include "core/base/base.h"
#include "core/method/decode.h"
#include "core/ops/cuda_state.h"
#include "core/ops/far.h"
#include "tests/gpu.h"
#include "tests/runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The largest relative error of rounding to TYPE. */
static double unit_of(enum dtype type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
}

static double value(const uint16_t *x, size_t i, enum dtype type)
{
    return type == DTYPE_BF16 ? bf16_to_f32(x[i]) : f16_to_f32(x[i]);
}

static uint16_t rounded(float x, enum dtype type)
{
    uint32_t bits;
    if (type == DTYPE_F16) return f32_to_f16(x);
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float uniform(struct rng *r, float limit)
{
    return (float)(2 * rng_unit(r) - 1) * limit;
}

/* ---- the ops against the host's definition */

/* Rotations with a factor, as yarn has. */
static float *rotations(int room, int D, float factor)
{
    const int half = D / 2;
    float *table = xmalloc((size_t)room * (size_t)D * sizeof *table);
    for (int p = 0; p < room; p++)
        for (int d = 0; d < half; d++) {
            const float angle = (float)p * (float)pow(10000, -2.0 * d / D);
            table[(size_t)p * (size_t)half + (size_t)d] = cosf(angle) * factor;
            table[(size_t)(room + p) * (size_t)half + (size_t)d] = sinf(angle) * factor;
        }
    return table;
}

static void turn(float *x, int D, double angle_of)
{
    for (int d = 0; d < D / 2; d++) {
        const double a = x[d], b = x[d + D / 2], t = angle_of * pow(10000, -2.0 * d / D);
        x[d] = (float)(a * cos(t) - b * sin(t));
        x[d + D / 2] = (float)(b * cos(t) + a * sin(t));
    }
}

/* A sequence on both sides. Blocks are told apart by how much of one direction is in their keys, so
 * that rounding does not change which are chosen. */
struct both {
    const struct ops *gpu, *cpu;
    struct model_config c;
    struct far_rule rule;
    enum dtype type;
    struct kv_layer kv[2][2]; /* GPU, CPU; layers */
    struct far *far[2];
    struct rope_table rope[2];
    float *table, *on_gpu, *q, *out, *gpu_q, *gpu_out, *gpu_lse, *lse;
    struct scratch scratch[2];
    double worst;
    uint64_t bits; /* hash of all that the GPU put out */
};

enum { DIRECTION = 3 }; /* tenths */

static bool both_open(struct both *b, const struct far_rule *rule, enum dtype type, int H, int G,
                      int D, int steps)
{
    const size_t rows = (size_t)rule->room, row = (size_t)H * (size_t)D;
    const enum kv_place where = rule->away ? KV_BLOCKS : KV_HERE, place[] = {where, where};
    const struct session_plan plan = {
        .room = rule->room, .steps = steps, .type = type, .place = place, .far = rule};
    memset(b, 0, sizeof *b);
    b->gpu = ops_cuda(0);
    b->cpu = ops_reference();
    b->c = (struct model_config){.L = 2, .H = H, .G = G, .D = D, .E = 64, .F = 64, .V = 8};
    b->rule = *rule;
    b->type = type;
    b->scratch[0].ops = b->gpu;
    b->scratch[1].ops = b->cpu;
    if (b->gpu == NULL || b->gpu->kv_open(b->kv[0], &b->c, &plan) ||
        b->cpu->kv_open(b->kv[1], &b->c, &plan))
        return false;
    b->far[0] = b->gpu->far_open(rule, &b->c);
    b->far[1] = b->cpu->far_open(rule, &b->c);
    b->table = rotations(rule->room, D, 1.25f);
    b->on_gpu = b->gpu->alloc(rows * (size_t)D * sizeof(float), "table");
    b->gpu_q = b->gpu->alloc(rows * row * sizeof(float), "queries");
    b->gpu_out = b->gpu->alloc(rows * row * sizeof(float), "outputs");
    b->gpu_lse = b->gpu->alloc(rows * (size_t)H * sizeof(float), "lse");
    b->q = xcalloc(rows * row, sizeof *b->q);
    b->out = xcalloc(rows * row, sizeof *b->out);
    b->lse = xcalloc(rows * (size_t)H, sizeof *b->lse);
    b->gpu->put(b->on_gpu, b->table, rows * (size_t)D * sizeof(float));
    const size_t half = rows * (size_t)D / 2;
    b->rope[0] = (struct rope_table){b->on_gpu, b->on_gpu + half};
    b->rope[1] = (struct rope_table){b->table, b->table + half};
    return b->far[0] && b->far[1];
}

static void both_close(struct both *b)
{
    b->gpu->far_close(b->far[0]);
    b->cpu->far_close(b->far[1]);
    b->gpu->kv_close(b->kv[0], &b->c);
    b->cpu->kv_close(b->kv[1], &b->c);
    b->gpu->release(b->on_gpu);
    b->gpu->release(b->gpu_q);
    b->gpu->release(b->gpu_out);
    b->gpu->release(b->gpu_lse);
    scratch_free(&b->scratch[0]);
    scratch_free(&b->scratch[1]);
    free(b->table);
    free(b->q);
    free(b->out);
    free(b->lse);
}

static float sign_of(int d)
{
    return d * 7 % 5 < 2 ? 1 : -1;
}

/* Keys and values of positions [from, from + n) of LAYER; whatever a kernel would write. */
static void append(struct both *b, struct rng *r, int layer, int from, int n)
{
    const int D = b->c.D;
    const int block = b->rule.topk > 0 ? b->rule.block_size : 1 << 30;
    const struct cuda_kv *d = b->kv[0][layer].cuda;
    struct kv_layer *host = &b->kv[1][layer];
    uint16_t *rows = xmalloc(2 * (size_t)n * (size_t)D * sizeof *rows), *v = rows + n * D;
    float *key = xmalloc((size_t)D * sizeof *key);
    for (int head = 0; head < b->c.G; head++) {
        for (int i = 0; i < n; i++) {
            const int p = from + i, of = p < b->rule.n_init ? 0 : (p - b->rule.n_init) / block + 1;
            const float much = (float)(of * 13 % 31) / 16 * DIRECTION / 10;
            const size_t at = ((size_t)head * (size_t)host->room + (size_t)p) * (size_t)D;
            for (int k = 0; k < D; k++) key[k] = much * sign_of(k) + uniform(r, 0.3f);
            turn(key, D, p);
            for (int k = 0; k < D; k++) {
                rows[i * D + k] = rounded(key[k] * 1.25f, b->type);
                v[i * D + k] = rounded(uniform(r, 1), b->type);
                host->k[at + (size_t)k] = (float)value(rows, (size_t)(i * D + k), b->type);
                host->v[at + (size_t)k] = (float)value(v, (size_t)(i * D + k), b->type);
            }
        }
        const size_t to =
            2 * ((size_t)head * (size_t)d->room + (size_t)(from - d->base)) * (size_t)D;
        b->gpu->put((char *)d->k + to, rows, 2 * (size_t)n * (size_t)D);
        b->gpu->put((char *)d->v + to, v, 2 * (size_t)n * (size_t)D);
    }
    free(rows);
    free(key);
}

/* Queries of the rows, of which every other group looks away from the direction. */
static void ask(struct both *b, struct rng *r, int from, int n)
{
    const int D = b->c.D, H = b->c.H, target = b->rule.n_local - 1;
    const size_t row = (size_t)H * (size_t)D;
    uint16_t *halves = xmalloc((size_t)n * row * sizeof *halves);
    for (int i = 0; i < n; i++)
        for (int h = 0; h < H; h++) {
            float *q = b->q + (size_t)i * row + (size_t)(h * D);
            const float sign = (from + i) / (b->rule.exc_block_size + 1) % 2 ? -1 : 1;
            for (int d = 0; d < D; d++) q[d] = sign * sign_of(d) + uniform(r, 1);
            turn(q, D, (double)(from + i) - target);
            for (int d = 0; d < D && n > 1; d++) {
                halves[(size_t)i * row + (size_t)(h * D + d)] = rounded(q[d], b->type);
                q[d] = (float)value(halves, (size_t)i * row + (size_t)(h * D + d), b->type);
            }
        }
    if (n > 1)
        b->gpu->put(b->gpu_q, halves, (size_t)n * row * sizeof *halves);
    else
        b->gpu->put(b->gpu_q, b->q, row * sizeof *b->q);
    free(halves);
}

static int *view_of(const struct ops *ops, const struct attn_view *v, int *count, int *tail)
{
    int *idx = xcalloc((size_t)v->stride, sizeof *idx);
    ops->get(count, v->count, sizeof *count);
    ops->get(tail, v->tail, sizeof *tail);
    ops->get(idx, v->idx, (size_t)*count * sizeof *idx);
    return idx;
}

/* One pass of N rows through LAYER on both sides. */
static void pass(struct both *b, struct rng *r, int layer, int from, int n, bool prefill)
{
    const size_t row = (size_t)b->c.H * (size_t)b->c.D, size = (size_t)n * row;
    const size_t H = (size_t)b->c.H;
    struct attn_view view[2];
    append(b, r, layer, from, n);
    ask(b, r, from, n);
    if (b->gpu->pass_begin) b->gpu->pass_begin(NULL, n, from, n == 1);
    b->gpu->far_attend(b->far[0], layer, b->gpu_out, b->gpu_q, &b->kv[0][layer], n, from, prefill,
                       b->rope[0], (struct attn_seen){.lse = b->gpu_lse}, &view[0], &b->c,
                       &b->scratch[0]);
    CHECK(b->gpu->pass_end == NULL || b->gpu->pass_end() == 0, "%s", last_failure());
    b->cpu->far_attend(b->far[1], layer, b->out, b->q, &b->kv[1][layer], n, from, prefill,
                       b->rope[1], (struct attn_seen){.lse = b->lse}, &view[1], &b->c,
                       &b->scratch[1]);
    float *got = xcalloc(size, sizeof *got), *lse = xmalloc((size_t)n * H * sizeof *lse);
    uint16_t *halves = xcalloc(size, sizeof *halves);
    double off = 0, all = 0, apart = 0;
    b->gpu->get(lse, b->gpu_lse, (size_t)n * H * sizeof *lse);
    if (n == 1)
        b->gpu->get(got, b->gpu_out, size * sizeof *got);
    else
        b->gpu->get(halves, b->gpu_out, size * sizeof *halves);
    b->bits = hash_bytes(b->bits, got, size * sizeof *got);
    b->bits = hash_bytes(b->bits, halves, size * sizeof *halves);
    for (size_t i = 0; i < size; i++) {
        const double is = n == 1 ? got[i] : value(halves, i, b->type);
        off += (is - b->out[i]) * (is - b->out[i]);
        all += (double)b->out[i] * b->out[i];
    }
    for (size_t i = 0; i < (size_t)n * H; i++) apart = fmax(apart, fabs(lse[i] - b->lse[i]));
    const double share = sqrt(off / all);
    if (!(share <= b->worst)) b->worst = isnan(share) ? INFINITY : share;
    /* listed keys, turned queries and weights are rounded once, the result once more; a logit here
     * is at most some 10, off by its own size times a rounding */
    CHECK(share <= 4 * unit_of(b->type) && apart <= 16 * unit_of(b->type),
          "%s n_init %d window %d topk %d block %d: %d rows at %d, layer %d: off by %.2e, lse %.2e",
          dtype_name(b->type), b->rule.n_init, b->rule.n_local, b->rule.topk, b->rule.block_size, n,
          from, layer, share, apart);
    if (n == 1) {
        int count[2], tail[2];
        int *a = view_of(b->gpu, &view[0], &count[0], &tail[0]);
        int *w = view_of(b->cpu, &view[1], &count[1], &tail[1]);
        CHECK(count[0] == count[1] && tail[0] == tail[1] &&
                  memcmp(a, w, (size_t)count[0] * sizeof *a) == 0,
              "topk %d at %d, layer %d: %d listed, window from %d; want %d, %d", b->rule.topk, from,
              layer, count[0], tail[0], count[1], tail[1]);
        free(a);
        free(w);
    }
    free(got);
    free(lse);
    free(halves);
}

/* The prompt goes through the ops, or (FILLED) its keys are just there. Returns a hash of what came
 * out. */
static uint64_t one_rule(uint64_t seed, struct far_rule rule, enum dtype type, int H, int G, int D,
                         int n, int chunk, int steps, bool filled)
{
    struct both b;
    struct rng r;
    rng_seed(&r, seed);
    rule.room = n + steps;
    const bool ok = both_open(&b, &rule, type, H, G, D, steps);
    CHECK(ok, "%s", last_failure());
    if (!ok) return 0;
    b.bits = HASH_START;
    for (int again = 0; again < 2; again++) { /* nothing is left of a sequence before */
        for (int layer = 0; filled && layer < 2; layer++) append(&b, &r, layer, 0, n);
        b.gpu->far_start(b.far[0], n, b.kv[0], filled, b.rope[0], &b.c);
        b.cpu->far_start(b.far[1], n, b.kv[1], filled, b.rope[1], &b.c);
        for (int layer = 0; !filled && layer < 2; layer++) {
            b.gpu->kv_prefill(&b.kv[0][layer], n, &b.c, false);
            for (int at = 0; at < n; at += chunk)
                pass(&b, &r, layer, at, n - at < chunk ? n - at : chunk, true);
            b.gpu->kv_prefill(&b.kv[0][layer], n, &b.c, true);
        }
        for (int pos = n; pos < n + steps; pos++)
            for (int layer = 0; layer < 2; layer++) pass(&b, &r, layer, pos, 1, false);
        struct far_stats is, want;
        b.gpu->far_stats(b.far[0], &is);
        b.cpu->far_stats(b.far[1], &want);
        /* the host counts blocks that are cut while decoding, too */
        CHECK(is.chosen == want.chosen && (!rule.away || is.missed <= want.missed) &&
                  (!rule.away || far_blocks(&rule, n) <= rule.topk || is.missed > 0),
              "blocks used: %g, want %g; missing: %g, at most %g", is.chosen, want.chosen,
              is.missed, want.missed);
    }
    printf("far %s H %d G %d D %d n_init %d window %d topk %d of %d%s: off by %.2e\n",
           dtype_name(type), H, G, D, rule.n_init, rule.n_local, rule.topk, rule.block_size,
           rule.away ? ", away" : "", b.worst);
    both_close(&b);
    return b.bits;
}

static void ops(void)
{
    static const struct {
        int n_init, n_local, topk, block, repr, exc; /* topk 0: infinite-lm, -1: streaming */
        int H, G, D, n, chunk, steps;
    } runs[] = {
        {3, 20, 2, 8, 2, 16, 4, 2, 64, 150, 64, 40},
        {0, 16, 3, 4, 4, 5, 2, 2, 128, 97, 40, 25},
        {5, 33, 1, 16, 3, 33, 8, 1, 64, 130, 132, 40},
        {4, 40, 50, 8, 2, 32, 3, 1, 128, 120, 120, 20},
        {7, 300, 2, 8, 2, 32, 2, 1, 64, 40, 32, 20},
        {2, 12, 2, 3, 1, 1, 2, 1, 64, 40, 8, 30},
        {40, 24, 2, 8, 2, 24, 2, 1, 64, 50, 24, 60},
        {4, 24, 2, 8, 2, 24, 2, 1, 64, 1, 24, 60},
        {3, 20, 2, 8, 2, 16, 2, 1, 64, 15, 16, 14},
        {4, 24, -1, 1, 1, 1, 4, 2, 64, 130, 50, 20},
        {64, 24, -1, 1, 1, 1, 2, 1, 128, 60, 60, 30},
        {4, 24, 0, 1, 1, 1, 4, 2, 128, 130, 43, 20},
        {30, 24, 0, 1, 1, 1, 2, 1, 64, 10, 10, 60},
    };
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        const enum dtype type = i % 3 == 2 ? DTYPE_F16 : DTYPE_BF16;
        struct far_rule rule = {.n_init = runs[i].n_init,
                                .n_local = runs[i].n_local,
                                .turned = runs[i].topk < 0,
                                .topk = runs[i].topk < 0 ? 0 : runs[i].topk,
                                .block_size = runs[i].block,
                                .repr_topk = runs[i].repr,
                                .exc_block_size = runs[i].exc,
                                .max_cached = runs[i].topk + 2};
        const uint64_t here = one_rule(i, rule, type, runs[i].H, runs[i].G, runs[i].D, runs[i].n,
                                       runs[i].chunk, runs[i].steps, false);
        one_rule(i, rule, type, runs[i].H, runs[i].G, runs[i].D, runs[i].n, 1, runs[i].steps, true);
        if (runs[i].topk < 1) continue;
        rule.away = true;
        rule.policy = i % 2 ? BLOCKS_LRU_S : BLOCKS_LRU;
        rule.decay = 0.5;
        const uint64_t away = one_rule(i, rule, type, runs[i].H, runs[i].G, runs[i].D, runs[i].n,
                                       runs[i].chunk, runs[i].steps, false);
        CHECK(here == away, "topk %d of %d: other bits with blocks in host memory", rule.topk,
              rule.block_size);
    }
}

/* ---- whole models */

#define POCKET "configs/demo/pocket-llama"
#define BLOCKS                                                                                     \
    "\"n_init\": 16, \"n_local\": 256, \"topk\": 4, \"block_size\": 32, \"repr_topk\": 4,"         \
    " \"exc_block_size\": 128, \"max_cached_block\": 6"
#define HERE ", \"real_offload\": false}"

static const struct {
    const char *text, *twin; /* TWIN: another way to the same bits */
} configs[] = {
    {"{\"model_cls\": \"infllm\", " BLOCKS HERE, NULL},
    {"{\"model_cls\": \"streaming\", \"n_init\": 16, \"n_local\": 300}", NULL},
    {"{\"model_cls\": \"infinite-lm\", \"n_init\": 16, \"n_local\": 300}", NULL},
    {"{\"model_cls\": \"infllm\", " BLOCKS ", \"real_offload\": true}",
     "{\"model_cls\": \"infllm\", " BLOCKS HERE},
    {"{\"model_cls\": \"infllm\", " BLOCKS
     ", \"cache_strategy\": \"lru-s\", \"score_decay\": 0.5, \"real_offload\": true}",
     "{\"model_cls\": \"infllm\", " BLOCKS HERE},
};

/* All tokens of IDS [n] under TEXT, the first FROM as the prompt; with FORGET no step is a replay.
 */
static bool run_model(struct run *w, const struct model *m, const char *text, const int *ids,
                      int from, int n, bool forget)
{
    const size_t V = (size_t)m->config.V;
    const float *logits;
    bool ok = run_open(w, m, text, from, n);
    struct session *s = ok ? session_for(w, m, false) : NULL;
    ok = s && method_prefill(w->method, s, ids, from, NULL, &logits) == 0;
    if (ok) memcpy(w->logits, logits, V * sizeof *logits);
    ok = ok && method_begin(w->method, s) == 0;
    for (int i = from; ok && i < n - 1; i++) {
        if (forget) session_forget_steps(s);
        ok = forward(s, ids + i, 1, false, &w->method->hooks, NULL, LOGITS_LAST, &logits) == 0;
        if (ok) memcpy(w->logits + (size_t)(i + 1 - from) * V, logits, V * sizeof *logits);
    }
    CHECK(ok, "%s: %s", text, last_failure());
    session_close(s);
    return ok;
}

#define ROW_OFF 0.12 /* of the deviation, a row's root mean square: docs/numbers.md */

static void models(void)
{
    enum { FROM = 1500, N = FROM + 120 };
    struct model cpu = {0}, gpu = {0};
    int *ids = text_ids(N);
    const bool ok =
        model_open(&cpu, POCKET, NULL, "cpu") == 0 && model_open(&gpu, POCKET, NULL, "cuda") == 0;
    CHECK(ok, "%s", last_failure());
    for (size_t i = 0; ok && i < COUNT_OF(configs); i++) {
        struct run want = {0}, got = {0}, eager = {0};
        if (run_model(&got, &gpu, configs[i].text, ids, FROM, N, false) &&
            run_model(&eager, &gpu, configs[i].twin ? configs[i].twin : configs[i].text, ids, FROM,
                      N, true)) {
            CHECK(same_bits(&got, &eager), "%s: not the bits of %s", configs[i].text,
                  configs[i].twin ? configs[i].twin : "steps that are not replayed");
            if (run_model(&want, &cpu, configs[i].text, ids, FROM, N, false)) {
                struct found f = {0};
                const size_t V = (size_t)cpu.config.V;
                const double deviation = deviation_of(want.logits, (N - FROM) * V);
                compare_rows(&f, got.logits, want.logits, N - FROM, (int)V);
                printf("model: rows %.2e, worst row %.2e of the deviation, greedy %ld of %ld: %s\n",
                       sqrt(f.squares / (double)f.rows) / deviation, f.row / deviation, f.same,
                       f.rows, configs[i].text);
                CHECK(sqrt(f.squares / (double)f.rows) <= ROW_OFF * deviation, "%s: %.2e",
                      configs[i].text, sqrt(f.squares / (double)f.rows) / deviation);
                CHECK((double)f.same >= 0.95 * (double)f.rows, "%s: %ld", configs[i].text, f.same);
            }
        }
        run_close(&want);
        run_close(&got);
        run_close(&eager);
    }
    model_close(&cpu);
    model_close(&gpu);
    free(ids);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"ops", ops}, {"models", models}};
    set_program_name("test_cuda_far_ops");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (gpu_open("test_cuda_far_ops"))
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            bool wanted = argc == 1;
            for (int k = 1; k < argc; k++) wanted = wanted || strcmp(argv[k], parts[i].name) == 0;
            if (wanted) parts[i].run();
        }
    return check_report("test_cuda_far_ops");
}
