/* select.c - what a filter layer selects, in host memory: the definition that docs/methods.md gives
 * in words. The scores come from the backend's pool_scores(), the choice from its top_k(). */
#include "core/base/base.h"
#include "core/ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool windowed(const struct select_rule *r)
{
    return r->selector == SELECT_UNIFORM || r->selector == SELECT_EXP;
}

/* Prefill tokens that are always selected by the row at POS, whose window reaches back to POS -
 * window + 1: *first_recent is where the kept tail of the prefill starts. */
static int always_kept(const struct select_rule *rule, int pos, int *first_recent)
{
    int recent = rule->recent;
    if (windowed(rule)) {
        const int inside = rule->n_prefill - (pos - rule->window + 1);
        if (inside > recent) recent = inside;
    }
    if (recent > rule->n_prefill) recent = rule->n_prefill;
    *first_recent = rule->n_prefill - recent;
    const int sinks = rule->sinks < *first_recent ? rule->sinks : *first_recent;
    return recent + sinks;
}

int select_open(struct selection *s, const struct model_config *c)
{
    const struct select_rule *r = &s->rule;
    const size_t set_room = (size_t)r->sets * (size_t)r->stride;
    (void)c;
    s->rows = 0;
    s->score_room = r->n_prefill + 1024;
    s->score = xmalloc((size_t)r->sets * (size_t)s->score_room * sizeof *s->score);
    s->last = xmalloc(set_room * sizeof *s->last);
    if (!windowed(r)) return 0;
    s->reach = (size_t)(r->candidates_all ? r->room : r->n_prefill);
    const size_t past = (size_t)r->window * (size_t)r->sets * s->reach;
    if ((s->past = big_alloc(past * sizeof(float), "window of past queries")) == NULL) return -1;
    memset(s->past, 0, past * sizeof(float));
    return 0;
}

void select_close(struct selection *s)
{
    free(s->idx);
    free(s->count);
    free(s->tail);
    free(s->last);
    free(s->past);
    free(s->score);
    memset(s, 0, sizeof *s);
}

static void make_room(struct selection *s, int rows)
{
    const size_t set_room = (size_t)s->rule.sets * (size_t)s->rule.stride;
    if (rows <= s->rows) return;
    s->rows = rows;
    s->idx = xrealloc(s->idx, (size_t)rows * set_room * sizeof *s->idx);
    s->count = xrealloc(s->count, (size_t)rows * sizeof *s->count);
    s->tail = xrealloc(s->tail, (size_t)rows * sizeof *s->tail);
}

static void make_score_room(struct selection *s, int candidates)
{
    if (candidates <= s->score_room) return;
    s->score_room = candidates + 1024;
    s->score = xrealloc(s->score, (size_t)s->rule.sets * (size_t)s->score_room * sizeof *s->score);
}

void select_remember(struct selection *s, const float *logits, size_t span, int pos, int candidates,
                     const struct model_config *c)
{
    const struct select_rule *rule = &s->rule;
    float *slot = s->past + (size_t)(pos % rule->window) * (size_t)rule->sets * s->reach;
    make_score_room(s, candidates);
    s->ops->pool_scores(s->score, logits, span, candidates, c->H, rule->sets, SCORE_MAX_WEIGHT);
    for (int set = 0; set < rule->sets; set++) {
        float *row = slot + (size_t)set * s->reach;
        memcpy(row, s->score + (size_t)set * (size_t)candidates, (size_t)candidates * sizeof *row);
        memset(row + candidates, 0, (s->reach - (size_t)candidates) * sizeof *row);
    }
}

/* score [sets, candidates] = sum over the window's queries of their weights, times 2^-age for exp.
 */
static void look_back(struct selection *s, int pos, int candidates)
{
    const struct select_rule *rule = &s->rule;
    const int oldest = pos - rule->window + 1 > 0 ? pos - rule->window + 1 : 0;
    for (int set = 0; set < rule->sets; set++) {
        float *score = s->score + (size_t)set * (size_t)candidates;
        memset(score, 0, (size_t)candidates * sizeof *score);
        for (int p = oldest; p <= pos; p++) { /* oldest first: a fixed order of sums */
            const size_t slot = (size_t)(p % rule->window) * (size_t)rule->sets + (size_t)set;
            const float *row = s->past + slot * s->reach;
            const float weight = rule->selector == SELECT_EXP ? ldexpf(1, p - pos) : 1;
            for (int t = 0; t < candidates; t++) score[t] += weight * row[t];
        }
    }
}

static void select_one(struct selection *s, const float *logits, size_t span, int r, int pos,
                       const struct model_config *c)
{
    const struct select_rule *rule = &s->rule;
    const int candidates = rule->candidates_all ? pos : rule->n_prefill;
    const size_t set_room = (size_t)rule->sets * (size_t)rule->stride;
    int *idx = s->idx + (size_t)r * set_room;

    make_score_room(s, candidates);
    if (windowed(rule)) select_remember(s, logits, span, pos, candidates, c);
    if ((pos - rule->n_prefill) % rule->refresh) { /* between refreshes the row before it stands */
        memcpy(idx, r ? idx - set_room : s->last, set_room * sizeof *idx);
        s->count[r] = r ? s->count[r - 1] : s->last_count;
        s->tail[r] = r ? s->tail[r - 1] : s->last_tail;
        return;
    }

    int first_recent, kept = always_kept(rule, pos, &first_recent);
    int count = rule->budget > kept ? rule->budget : kept + 1; /* one place for the candidates */
    if (count > candidates) count = candidates;
    if (windowed(rule))
        look_back(s, pos, candidates);
    else
        s->ops->pool_scores(s->score, logits, span, candidates, c->H, rule->sets,
                            rule->selector == SELECT_LAST ? SCORE_MAX_LOGIT : SCORE_MAX_WEIGHT);
    for (int set = 0; set < rule->sets; set++) {
        float *score = s->score + (size_t)set * (size_t)candidates;
        for (int t = 0; t < rule->sinks && t < first_recent; t++) score[t] = INFINITY;
        for (int t = first_recent; t < rule->n_prefill; t++) score[t] = INFINITY;
        s->ops->top_k(idx + (size_t)set * (size_t)rule->stride, score, candidates, count);
    }
    s->count[r] = count;
    s->tail[r] = candidates;
}

void select_rows(struct selection *s, const float *logits, const float *scores, size_t span, int n,
                 int pos0, const struct model_config *c)
{
    const size_t set_room = (size_t)s->rule.sets * (size_t)s->rule.stride;
    (void)scores;
    make_room(s, n);
    for (int r = 0; r < n; r++)
        select_one(s, logits + (size_t)r * (size_t)c->H * span, span, r, pos0 + r, c);
    memcpy(s->last, s->idx + (size_t)(n - 1) * set_room, set_room * sizeof *s->last);
    s->last_count = s->count[n - 1];
    s->last_tail = s->tail[n - 1];
}
