/* bench_point.c - okv bench: one method at one context, and single kernels. */
#include "core/cmd/bench.h"
#include "core/base/base.h"
#include "core/ops/far.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* On a device a point ends before its last step when that many seconds are spent and the least
 * number of steps is done. */
#define POINT_SECONDS 5.0
/* On a device, before anything is timed: after a point of tens of gigabytes was closed, steps were
 * seen to take 0.5 ms longer for about a tenth of a second. */
#define WARM_SECONDS 0.25
enum { LEAST_STEPS = 5 };

/* ---- what a step must move */

struct traffic {
    double read;    /* bytes of weights, keys and values in the memory the engine computes on */
    double link;    /* bytes over the link to the host */
    double link_ms; /* at the rate measured for such a transfer; 0 without one */
    int budget;     /* tokens of the context that a sparse layer sees, 0: there is none */
};

/* What a layer that is not full looks at: *SEEN tokens of the context in all, keys and values each,
 * and the bytes of what it chooses by, where that is kept apart from them. Returns how many of the
 * tokens are the budget's. Of what a method adds up or keeps of its own it writes little. */
static int layer_traffic(const struct run_config *c, const struct model *m, int context,
                         double *seen, double *chosen_by)
{
    const struct model_config *s = &m->config;
    const struct far_rule *f = &c->far;
    const int size = m->ops->device ? 2 : (int)sizeof(float);
    const int width = m->ops->device ? s->D : padded_width(s->D);
    double tokens = context, beside = 0; /* a prompt's rest, which is always seen */
    *chosen_by = 0;
    switch (c->method) {
    case METHOD_DENSE:
    case METHOD_BRUTAL_OFFLOAD:
        *seen = context;
        return 0;
    case METHOD_OMNIKV:
    case METHOD_TIDAL:
        tokens = budget_tokens(c->budget, context);
        break;
    case METHOD_WINDOW:
        tokens = (double)budget_tokens(c->window_sinks, context) +
                 budget_tokens(c->window_recent, context);
        break;
    case METHOD_H2O:
        tokens = (double)budget_tokens(c->heavy, context) + budget_tokens(c->heavy_recent, context);
        break;
    case METHOD_QUEST: {
        const int pages = context / c->page_size;
        const int best = budget_tokens(c->budget, context) / c->page_size;
        tokens = (double)(best < pages ? best : pages) * c->page_size;
        beside = context % c->page_size;
        *chosen_by = 2.0 * pages * s->G * width * size; /* least and largest of each channel */
        break;
    }
    case METHOD_INFLLM:
    case METHOD_STREAMING:
    case METHOD_INFINITE_LM: {
        const double past = (double)context - f->n_init - f->n_local;
        const int blocks = far_blocks(f, context), used = blocks < f->topk ? blocks : f->topk;
        tokens = (double)f->n_init + f->n_local + (double)used * f->block_size;
        if (f->topk > 0 && past > 0) /* what is no block yet */
            beside = past - (double)blocks * f->block_size;
        *chosen_by = (double)blocks * s->H * width * size; /* a key of each query head's */
        break;
    }
    }
    *seen = tokens + beside < context ? tokens + beside : context;
    return tokens < context ? (int)tokens : context;
}

/* Every matrix but the embedding table, of which one row, and the keys and values each layer looks
 * at. What comes over the link is read in device memory as well; of InfLLM's blocks only a text
 * decides how many are not in its cache, so none are counted. */
static struct traffic step_traffic(const struct bench *b, const struct method *method, int context)
{
    const struct model *m = &b->engine->model;
    const struct model_config *s = &m->config;
    const struct run_config *c = method->config;
    const bool device = m->ops->device;
    const double row =
        device ? 2.0 * 2 * s->G * s->D : 2.0 * sizeof(float) * s->G * padded_width(s->D);
    const struct matrix *embed = &m->weights->embed;
    const double table =
        s->tied ? 0 : (double)embed->rows * embed->cols * (double)dtype_size(embed->type);
    struct session_plan plan = {.room = context};
    struct traffic t = {0};
    double seen, chosen_by;
    t.budget = layer_traffic(c, m, context, &seen, &chosen_by);
    t.read = m->weights->bytes - table + row * method->full_layers * (double)context +
             (s->L - method->full_layers) * (row * seen + chosen_by);
    if (device && method->plan) method->plan(method, &plan);
    for (int l = 0; plan.place && l < s->L; l++) {
        if (plan.place[l] == KV_HERE || plan.place[l] == KV_BLOCKS) continue;
        const bool rows = plan.place[l] == KV_ROWS;
        const double bytes = row * (rows ? seen : context);
        const double rate = b->rate[!rows      ? CEILING_DOWN
                                    : c->apart ? CEILING_GATHER_2K
                                               : CEILING_GATHER_4K];
        t.link += bytes;
        t.link_ms += bytes / rate * 1e3;
    }
    return t;
}

/* ---- a point */

struct point {
    const char *label;
    int context, room;
    struct method *method;
    struct session *session;
    struct tracer *tracer;
    char *dump; /* its path */
    int *fed;   /* [room] tokens, for the dump */
    struct traffic traffic;
    double kv, device, host; /* bytes: of keys and values; planned, where it runs and pinned */
    double used;             /* device bytes that it did take, NAN where they are not known */
    double prefill_s;        /* NAN when the context is synthetic */
    double *ms, *traced;     /* [steps], N of them measured */
    double plain_sum, traced_sum;
    int n;
};

void bench_columns(FILE *f)
{
    fprintf(f,
            "method\tcontext\tbudget\tfull_layers\tprefill_s\tdecode_ms\tdecode_ms_low\t"
            "decode_ms_high\ttokens_s\tgb_step\troofline_ms\tlink_gb\tlink_ms\tof_roofline\tkv_gb\t"
            "gpu_gb\tgpu_used_gb\thost_gb\ttraced_ms\ttrace_cost\tstatus\n");
}

/* A number, "-" for one that there is not, and a tab. */
static void cell(FILE *f, int decimals, double v)
{
    if (isnan(v))
        fprintf(f, "-\t");
    else
        fprintf(f, "%.*f\t", decimals, v);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_row(const struct bench *b, FILE *f, const struct point *p, const char *status)
{
    const bool device = b->engine->model.ops->device;
    const struct traffic *t = &p->traffic;
    const int n = p->n;
    const double roofline = t->read / b->rate[CEILING_READ] * 1e3, none = NAN;
    const double floor_ms = t->link_ms > roofline ? t->link_ms : roofline;
    qsort(p->ms, (size_t)n, sizeof *p->ms, by_value);
    qsort(p->traced, (size_t)n, sizeof *p->traced, by_value);
    fprintf(f, "%s\t%d\t", p->label, p->context);
    cell(f, 0, t->budget > 0 ? t->budget : none);
    fprintf(f, "%d\t", p->method->full_layers);
    cell(f, 4, p->prefill_s);
    cell(f, 4, n ? p->ms[n / 2] : none);
    cell(f, 4, n ? p->ms[n / 10] : none);
    cell(f, 4, n ? p->ms[n - 1 - n / 10] : none);
    cell(f, 2, n ? 1e3 / p->ms[n / 2] : none);
    cell(f, 4, t->read / 1e9);
    cell(f, 4, roofline);
    cell(f, 4, t->link / 1e9);
    cell(f, 4, t->link_ms);
    cell(f, 3, n ? floor_ms / p->ms[n / 2] : none);
    cell(f, 4, p->kv / 1e9);
    cell(f, 4, device ? p->device / 1e9 : 0);
    cell(f, 4, p->used / 1e9);
    cell(f, 4, (device ? p->host : p->device) / 1e9);
    cell(f, 4, n && p->dump ? p->traced[n / 2] : none);
    cell(f, 4, n && p->dump ? p->traced_sum / p->plain_sum - 1 : none);
    fprintf(f, "%s\n", status);
    fflush(f);
}

/* 0: the session is open; 1: there is no memory for it, and *WHY says so; -1 after fail(). */
static int open_session(const struct bench *b, struct point *p, char **why)
{
    const struct engine *e = b->engine;
    const struct ops *ops = e->model.ops;
    const struct model_config *c = &e->model.config;
    const int steps = b->steps + b->warm;
    const double available = memory_available(), host = ops->device ? p->host : p->device;
    double unused;
    if (available > 0 && host > 0.9 * available) {
        *why = xprintf("%.1f GB of host memory needed, %.1f GB available", host / 1e9,
                       available / 1e9);
        return 1;
    }
    if (!ops->device || (c->window > 0 && p->room > c->window)) /* a refusal is an error */
        return (p->session = engine_session(e, p->method, p->room, steps)) ? 0 : -1;
    const bool muted = mute_failures(true);
    p->session = engine_session(e, p->method, p->room, steps);
    mute_failures(muted);
    if (p->session) return 0;
    *why = xstrdup(last_failure());
    if (ops->memory(&unused, &unused)) return -1; /* the device is gone */
    return 1;
}

/* Fills the session's context, and starts the method on it. */
static int fill_context(struct bench *b, struct point *p)
{
    const struct model *m = &b->engine->model;
    if (!b->prefill) {
        session_fill(p->session, p->context, 1);
        return method_begin(p->method, p->session);
    }
    int *ids = xmalloc((size_t)p->context * sizeof *ids), rc = 0;
    struct rng r;
    const float *logits;
    rng_seed(&r, 1);
    for (int i = 0; i < p->context; i++)
        ids[i] = b->text ? b->text[i % b->n_text] : (int)rng_below(&r, (uint32_t)m->config.V);
    if (m->ops->device && !b->prefilled) { /* code is loaded at its first use */
        const int some = p->context < m->ops->prefill_rows ? p->context : m->ops->prefill_rows;
        rc = method_prefill(p->method, p->session, ids, some, NULL, &logits);
    }
    b->prefilled = true;
    const double start = clock_seconds();
    if (rc == 0) rc = method_prefill(p->method, p->session, ids, p->context, NULL, &logits);
    p->prefill_s = clock_seconds() - start;
    free(ids);
    return rc ? rc : method_begin(p->method, p->session);
}

static int start_trace(struct bench *b, struct point *p)
{
    char *budget = b->budgets ? xprintf("-%d", p->traffic.budget) : xstrdup(""),
         *name = xstrdup(p->label);
    for (char *s = name; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("_-+.,", *s)) *s = '-';
    p->fed = xcalloc((size_t)p->room, sizeof *p->fed);
    p->dump = xprintf("%s.%s%s.%d.h5", b->dumps, name, budget, p->context);
    free(budget);
    free(name);
    b->trace.path = p->dump;
    if ((p->tracer = tracer_open(&b->trace, b->engine, p->method)) == NULL) return -1;
    return tracer_begin(p->tracer, 0, "bench", p->fed, p->context, p->room, b->steps + b->warm) < 0
               ? -1
               : 0;
}

/* What waits to be compressed and written belongs to the cost. */
static int end_trace(struct bench *b, struct point *p)
{
    const double start = clock_seconds();
    const int steps = p->n + b->warm;
    float *nll = xcalloc((size_t)steps, sizeof *nll);
    int rc = tracer_end(p->tracer, b->engine, p->fed, p->context + steps, nll, "", "");
    free(nll);
    rc = tracer_close(p->tracer, rc);
    p->tracer = NULL;
    p->traced_sum += (clock_seconds() - start) * 1e3;
    return rc;
}

static int run_steps(struct bench *b, struct point *p)
{
    const bool device = b->engine->model.ops->device;
    const struct hooks *hooks = &p->method->hooks;
    const int token = 0;
    const float *logits;
    const double warm = clock_seconds() + WARM_SECONDS;
    while (device && clock_seconds() < warm) {
        if (forward(p->session, &token, 1, false, hooks, NULL, LOGITS_OUTCOME, &logits)) return -1;
        session_rewind(p->session, session_length(p->session) - 1);
    }
    for (int i = -b->warm; i < b->steps; i++) {
        if (device && i >= LEAST_STEPS && p->plain_sum + p->traced_sum > POINT_SECONDS * 1e3) break;
        double start = clock_seconds();
        if (forward(p->session, &token, 1, false, hooks, NULL, LOGITS_OUTCOME, &logits)) return -1;
        if (i >= 0) p->plain_sum += p->ms[i] = (clock_seconds() - start) * 1e3;
        if (i >= 0) p->n++;
        if (p->tracer == NULL) continue;
        session_rewind(p->session, session_length(p->session) - 1); /* the same step, traced */
        start = clock_seconds();
        if (forward(p->session, &token, 1, false, hooks, tracer_hooks(p->tracer), LOGITS_OUTCOME,
                    &logits))
            return -1;
        if (i >= 0) p->traced_sum += p->traced[i] = (clock_seconds() - start) * 1e3;
    }
    return 0;
}

int bench_point(struct bench *b, FILE *f, const char *label, const struct run_config *config,
                int context)
{
    const struct model *m = &b->engine->model;
    const struct model_config *s = &m->config;
    struct point p = {.label = label, .context = context, .prefill_s = NAN, .used = NAN};
    double before = 0, after = 0, total;
    char *why = NULL;
    int rc = -1;

    p.room = context + b->steps + b->warm;
    p.ms = xcalloc(2 * (size_t)b->steps, sizeof *p.ms);
    p.traced = p.ms + b->steps;
    if ((p.method = method_open(config, m)) == NULL) goto done;
    p.traffic = step_traffic(b, p.method, context);
    engine_session_bytes(b->engine, p.method, p.room, b->steps + b->warm, &p.device, &p.host);
    p.kv = m->ops->device ? 4.0 * s->L * s->G * s->D * p.room : p.device;
    if (m->ops->memory && m->ops->memory(&before, &total)) goto done;
    const int refused = open_session(b, &p, &why);
    if (refused < 0) goto done;
    if (refused) {
        fprintf(f, "# %s at %d: %s\n", label, context, why);
        print_row(b, f, &p, "oom");
        rc = 0;
        goto done;
    }
    if (fill_context(b, &p) || (b->trace.fields && start_trace(b, &p)) || run_steps(b, &p) ||
        (p.tracer && end_trace(b, &p)))
        goto done;
    if (m->ops->memory) {
        if (m->ops->memory(&after, &total)) goto done;
        p.used = before - after;
    }
    print_row(b, f, &p, "ok");
    rc = 0;

done:
    tracer_close(p.tracer, -1);
    session_close(p.session);
    method_close(p.method);
    free(p.fed);
    free(p.dump);
    free(p.ms);
    free(why);
    return rc;
}

/* ---- single kernels */

int bench_kernels(const struct bench *b, FILE *f, const int *contexts, int n, int k)
{
    const struct model *m = &b->engine->model;
    struct kernel_time *rows = NULL;
    int count = 0;
    if (m->ops->kernels(&m->config, m->weights, contexts, n, k, &rows, &count)) return -1;
    fprintf(f, "kernel\tcontext\tus\tfloor_us\tof_floor\tgb_s\tmb\n");
    for (int i = 0; i < count; i++) {
        const struct kernel_time *r = &rows[i];
        const double floor_us =
            r->bytes / b->rate[r->link ? CEILING_GATHER_4K : CEILING_READ] * 1e6;
        char *context = r->T ? xprintf("%d", r->T) : xstrdup("-");
        fprintf(f, "%s\t%s\t%.2f\t%.2f\t%.3f\t%.1f\t%.3f\n", r->name, context, r->us, floor_us,
                floor_us / r->us, r->bytes / r->us / 1e3, r->bytes / 1e6);
        free(context);
    }
    free(rows);
    return 0;
}
