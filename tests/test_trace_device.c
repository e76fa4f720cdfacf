/* test_trace_device.c - the writer thread of a trace on a device, and what it makes of a step, with
 * the CPU's ops in the place of a device: the dump must be what the CPU's own tracer writes.
 *
 * Both compute in float32 from the same logits, here in double: weights agree within 1e-5 of
 * theirs.
 */
#include "core/base/base.h"
#include "tests/check.h"
#include "tests/traced.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The steps of a "device": one being made, and the slots, in plain memory. */
struct values {
    int T;
    float *mass, *score; /* [L, room] */
    int *top;
    float *top_score, *top_mass, *after, *importance;
    int *selected;
    void *rows; /* as sent: mass, score */
};

struct step_trace {
    struct trace_plan plan;
    const struct model_config *c;
    struct values now, slot[TRACE_SLOTS];
    int begun, awaited;
};

static int fail_at; /* the await that goes wrong, 0: none */
static int busiest, on_the_way;

static void make_values(struct values *v, const struct trace_plan *p, int L)
{
    const size_t l = (size_t)L, room = (size_t)p->room, top = (size_t)p->top;
    v->mass = xmalloc(l * room * sizeof(float));
    v->score = xmalloc(l * room * sizeof(float));
    v->top = xmalloc((l * top + 1) * sizeof(int));
    v->top_score = xmalloc((l * top + 1) * sizeof(float));
    v->top_mass = xmalloc((l * top + 1) * sizeof(float));
    v->after = xcalloc(l * TRACE_PARTS, sizeof(float));
    v->importance = xmalloc(l * sizeof(float));
    v->selected = xcalloc((size_t)p->selections * (1 + (size_t)p->sets * (size_t)p->selected) + 1,
                          sizeof(int));
    v->rows = xmalloc(2 * l * room * sizeof(float));
}

static void free_values(struct values *v)
{
    void *all[] = {v->mass,  v->score,      v->top,      v->top_score, v->top_mass,
                   v->after, v->importance, v->selected, v->rows};
    for (size_t i = 0; i < COUNT_OF(all); i++) free(all[i]);
    memset(v, 0, sizeof *v);
}

static void trace_close(struct step_trace *t)
{
    if (t == NULL) return;
    free_values(&t->now);
    for (int i = 0; i < TRACE_SLOTS; i++) free_values(&t->slot[i]);
    free(t);
}

static int trace_begin(struct step_trace **trace, const struct trace_plan *plan,
                       const struct model_config *c)
{
    struct step_trace *t = *trace ? *trace : xcalloc(1, sizeof *t);
    *trace = t;
    CHECK(on_the_way == 0, "%d steps of the sample before", on_the_way);
    t->plan = *plan;
    t->c = c;
    free_values(&t->now);
    make_values(&t->now, plan, c->L);
    for (int i = 0; i < TRACE_SLOTS; i++) {
        free_values(&t->slot[i]);
        make_values(&t->slot[i], plan, c->L);
    }
    return 0;
}

/* The entry of head H that stands for position P, or -1. */
static int entry_of(const struct attn_view *v, int H, int h, int p)
{
    if (v->idx == NULL) return p;
    if (p >= v->tail[0]) return v->count[0] + p - v->tail[0];
    const int *list = v->idx + (size_t)(h / (H / v->sets)) * (size_t)v->stride;
    for (int i = 0; i < v->count[0]; i++)
        if (list[i] == p) return i;
    return -1;
}

static struct trace_keep trace_keep(struct step_trace *t, int layer, bool listed,
                                    const struct kv_layer *kv, size_t span)
{
    (void)t, (void)layer, (void)listed, (void)kv, (void)span;
    return (struct trace_keep){0};
}

static int last_pos; /* of the pass, which a device keeps itself */

static void trace_layer(struct step_trace *t, const struct trace_layer *a)
{
    const struct attn_view *v = &a->view;
    const int H = t->c->H, n = t->plan.n_prefill, T = a->layer == 0 ? ++last_pos : last_pos;
    float *mass = t->now.mass + (size_t)a->layer * (size_t)t->plan.room;
    float *score = t->now.score + (size_t)a->layer * (size_t)t->plan.room;
    float *after = t->now.after + (size_t)a->layer * TRACE_PARTS;
    double *total = xcalloc((size_t)H, sizeof *total), behind = 0;
    const int candidates = v->idx ? v->count[0] : n;
    for (int h = 0; h < H; h++)
        for (int i = 0; i < candidates; i++)
            total[h] +=
                exp((double)a->seen.logits[(size_t)h * a->seen.span + (size_t)i] - a->seen.lse[h]);
    for (int p = 0; p < T; p++) {
        double sum = 0, best = NAN;
        for (int h = 0; h < H; h++) {
            const int e = entry_of(v, H, h, p);
            if (e < 0) continue;
            const double l = a->seen.logits[(size_t)h * a->seen.span + (size_t)e];
            const double weight = exp(l - a->seen.lse[h]);
            const double share = e < candidates ? weight / total[h] : 0;
            const double value = t->plan.pool == SCORE_MAX_LOGIT ? l : share;
            sum += weight / H;
            if (!(best >= value)) best = value;
            if (p >= n) behind += weight / H;
        }
        mass[p] = (float)sum;
        score[p] = (float)best;
    }
    for (int i = 0; i < TRACE_PARTS; i++) after[i] = (float)(behind / TRACE_PARTS);
    if (t->plan.top) {
        const size_t at = (size_t)a->layer * (size_t)t->plan.top;
        ops_cpu(NULL)->top_k(t->now.top + at, score, n, t->plan.top);
        for (size_t i = at; i < at + (size_t)t->plan.top; i++) {
            t->now.top_score[i] = score[t->now.top[i]];
            t->now.top_mass[i] = mass[t->now.top[i]];
        }
    }
    if (t->plan.importance) {
        double xy = 0, xx = 0, yy = 0;
        for (int e = 0; e < t->c->E; e++) {
            const double y = (double)a->x[e] + a->delta[e];
            xy += a->x[e] * y;
            xx += (double)a->x[e] * a->x[e];
            yy += y * y;
        }
        t->now.importance[a->layer] = (float)(1 - xy / sqrt(xx * yy));
    }
    free(total);
}

static void copy_rows(struct step_trace *t, struct values *to, const float *from, bool asked,
                      int *rows)
{
    for (int l = 0; asked && l < t->c->L; l++, (*rows)++)
        for (int i = 0; i < to->T; i++) {
            const size_t at = (size_t)*rows * (size_t)to->T + (size_t)i;
            const float x = from[(size_t)l * (size_t)t->plan.room + (size_t)i];
            if (t->plan.halves)
                ((uint16_t *)to->rows)[at] = isnan(x) ? 0x7e00 : f32_to_f16(x);
            else
                ((float *)to->rows)[at] = x;
        }
}

static void copy_selection(const struct trace_plan *p, int *to, const struct selection *s)
{
    *to++ = s->count[0];
    for (int set = 0; set < p->sets; set++)
        memcpy(to + (size_t)set * (size_t)p->selected,
               s->idx + (size_t)set * (size_t)s->rule.stride, (size_t)s->count[0] * sizeof *to);
}

static void trace_send(struct step_trace *t, int slot, int pos,
                       const struct selection *const *selected)
{
    struct values *to = &t->slot[slot];
    const size_t each = 1 + (size_t)t->plan.sets * (size_t)t->plan.selected;
    const size_t L = (size_t)t->c->L, top = L * (size_t)t->plan.top;
    int rows = 0;
    to->T = pos + 1;
    copy_rows(t, to, t->now.mass, t->plan.mass, &rows);
    copy_rows(t, to, t->now.score, t->plan.score, &rows);
    memcpy(to->top, t->now.top, top * sizeof(int));
    memcpy(to->top_score, t->now.top_score, top * sizeof(float));
    memcpy(to->top_mass, t->now.top_mass, top * sizeof(float));
    memcpy(to->after, t->now.after, L * TRACE_PARTS * sizeof(float));
    memcpy(to->importance, t->now.importance, L * sizeof(float));
    for (int i = 0; i < t->plan.selections; i++)
        copy_selection(&t->plan, to->selected + (size_t)i * each, selected[i]);
    const int now = __atomic_add_fetch(&on_the_way, 1, __ATOMIC_SEQ_CST);
    if (now > busiest) busiest = now;
}

static const char *trace_await(struct step_trace *t, int slot, struct trace_step *out)
{
    const struct values *v = &t->slot[slot];
    const size_t size = t->plan.halves ? 2 : 4, plane = (size_t)t->c->L * (size_t)v->T * size;
    /* the ring fills at first, and empties later */
    for (int i = 0; i < 500 && t->awaited < 3; i++) {
        if (__atomic_load_n(&on_the_way, __ATOMIC_SEQ_CST) > 1) break;
        usleep(10000);
    }
    __atomic_sub_fetch(&on_the_way, 1, __ATOMIC_SEQ_CST);
    if (++t->awaited == fail_at) return "the device is gone";
    *out = (struct trace_step){.T = v->T,
                               .mass = v->rows,
                               .score = (const char *)v->rows + (t->plan.mass ? plane : 0),
                               .pitch = (size_t)v->T * size,
                               .top = v->top,
                               .top_score = v->top_score,
                               .top_mass = v->top_mass,
                               .after = v->after,
                               .importance = v->importance,
                               .selected = v->selected};
    return NULL;
}

static void pass_begin(const int *ids, int n, int pos0, bool step)
{
    (void)ids, (void)n, (void)step;
    last_pos = pos0;
}

static int pass_end(void)
{
    return 0;
}

static struct ops device_of_cpu(void)
{
    struct ops ops = *ops_cpu(NULL);
    ops.device = true;
    ops.known_rows = 1;
    ops.pass_begin = pass_begin;
    ops.pass_end = pass_end;
    ops.trace_begin = trace_begin;
    ops.trace_close = trace_close;
    ops.trace_keep = trace_keep;
    ops.trace_layer = trace_layer;
    ops.trace_send = trace_send;
    ops.trace_await = trace_await;
    return ops;
}

static void traces_agree(const char *config, const char *fields, bool f32, int top)
{
    const char *one = check_scratch("one.h5"), *other = check_scratch("other.h5");
    const struct traced how = {.config = config, .fields = fields, .top = top, .f32 = f32};
    const struct ops ops = device_of_cpu();
    struct traced_gap gap;
    const double half = f32 ? 0 : 0x1p-11; /* a tie of rounding may go the other way */
    remove(one);
    remove(other);
    on_the_way = 0;
    CHECK(traced_run(one, "cpu", NULL, &how) == 0, "%s: %s", config, last_failure());
    CHECK(traced_run(other, "cpu", &ops, &how) == 0, "%s: %s", config, last_failure());
    if (traced_compare(one, other, 1e-5, &gap)) {
        CHECK(false, "%s: %s", config, last_failure());
        return;
    }
    const struct traced_off *o = gap.off;
    CHECK(gap.shape == 0 && o[GAP_SCORE].worst <= 1e-5 + half, "%s: scores %g off, %g lonely",
          config, o[GAP_SCORE].worst, gap.shape);
    CHECK(o[GAP_MASS].worst <= 1e-5 + half && o[GAP_TOP_MASS].worst <= 1e-5 + half,
          "%s: mass %g, of the top %g off", config, o[GAP_MASS].worst, o[GAP_TOP_MASS].worst);
    CHECK(o[GAP_TOTAL].worst <= 1e-4, "%s: totals %g off", config, o[GAP_TOTAL].worst);
    CHECK(o[GAP_IMPORTANCE].worst <= 1e-6, "%s: importance %g off", config,
          o[GAP_IMPORTANCE].worst);
    CHECK((o[GAP_PREFILL].n > 0) == (strstr(fields, "prefill_score") != NULL) &&
              o[GAP_PREFILL].worst == 0,
          "%s: sums of the prefill %g off", config, o[GAP_PREFILL].worst);
    CHECK(gap.common >= 0.98 && gap.beyond == 0 && gap.selected == 1,
          "%s: %g of the top, %g of the selections in common, %d off the border", config,
          gap.common, gap.selected, gap.beyond);
}

static void failures_are_told(void)
{
    const struct traced how = {.config = "{\"model_cls\": \"raw_llama\"}", .fields = "topk"};
    const char *path = check_scratch("failed.h5");
    const struct ops ops = device_of_cpu();
    fail_at = 3;
    on_the_way = 0;
    CHECK(traced_run(path, "cpu", &ops, &how) == -1 &&
              strstr(last_failure(), "the device is gone") != NULL,
          "\"%s\"", last_failure());
    CHECK(access(path, F_OK) != 0, "a dump of a failed run");
    fail_at = 0;
}

static void refused(const char *fields)
{
    const struct traced how = {.config = "{\"model_cls\": \"raw_llama\"}", .fields = fields};
    const struct ops ops = device_of_cpu();
    CHECK(traced_run(check_scratch("refused.h5"), "cpu", &ops, &how) == -1 &&
              strstr(last_failure(), "is recorded on the CPU only (--device cpu)") != NULL,
          "%s: \"%s\"", fields, last_failure());
}

int main(void)
{
    traces_agree("{\"model_cls\": \"raw_llama\"}", "mass,score,topk,importance", true, 0);
    traces_agree("{\"model_cls\": \"raw_llama\"}", "topk,importance", false, 5000);
    traces_agree("{\"model_cls\": \"raw_llama\"}", "topk,prefill_score", false, 0);
    traces_agree("{\"model_cls\": \"raw_llama\", \"use_sink_cache\": true, \"num_sink_tokens\": 4, "
                 "\"sink_window_length\": 60}",
                 "mass,score,topk", false, 100);
    traces_agree("{\"model_cls\": \"multi\", \"do_select_layers\": \"2,5,8\", "
                 "\"num_wait_load_layers\": 1, \"num_of_selected_tokens\": 96, \"real_offload\": "
                 "false, \"selector_cls\": \"softmax_before_last\", \"pool\": \"group\"}",
                 "mass,score,topk,selected_idx", true, 0);
    /* tokens of the prompt that are in no whole page are seen beside the list, and a list of H2O's
     * holds decoded ones: topk_total is of the prompt's, wherever they stand */
    traces_agree("{\"model_cls\": \"quest\", \"num_of_selected_tokens\": 48}",
                 "mass,score,topk,selected_idx", true, 0);
    traces_agree("{\"model_cls\": \"h2o\", \"hh_ratio\": 0.1, \"recent_ratio\": 0.1}",
                 "mass,score,topk,selected_idx", true, 0);
    traces_agree("{\"model_cls\": \"h2o\", \"hh_ratio\": 0.1, \"recent_ratio\": 0.1, "
                 "\"first_step_dense\": true}",
                 "mass,score,topk,selected_idx", true, 0);
    traces_agree("{\"model_cls\": \"h2o\", \"hh_size\": 30, \"recent_size\": 30, "
                 "\"skip_prefill\": false, \"seg_size\": 100}",
                 "topk,selected_idx,prefill_score", true, 0);
    CHECK(busiest > 1 && busiest <= TRACE_SLOTS, "%d steps on their way at once", busiest);
    failures_are_told();
    refused("mass,attn");
    return check_report("test_trace_device");
}
