/* walk.c - goes through a suite line by line under a method. */
#include "core/cmd/walk.h"
#include "core/base/base.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define SIDE_BY_SIDE 2e9 /* bytes of caches that may be open at once, one a core */

/* A line, where it is in the run, and what runs it. */
struct line_run {
    const struct walk *w;
    struct session *session;
    struct method *method;
    int index;
    const struct suite_line *line;
    struct tally *tally; /* of this line alone */
};

/* The expected answers, as JSON, for the dump. */
static char *answers_json(const struct suite_line *l)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < l->n_spans; i++)
        cJSON_AddItemToArray(list, cJSON_CreateIntArray(l->spans[i], 2));
    for (int i = 0; i < l->n_answers; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(l->answers[i]));
    char *text = cJSON_PrintUnformatted(list);
    cJSON_Delete(list);
    return text;
}

static int run_tokens(const struct line_run *run)
{
    const struct walk *w = run->w;
    const struct suite_line *l = run->line;
    const struct hooks *tap = tracer_hooks(w->tracer);
    const int V = w->engine->model.config.V;
    int rc = -1, *argmax = xcalloc((size_t)l->n + 1, sizeof *argmax);
    float *nll = xcalloc((size_t)l->n + 1, sizeof *nll),
          *first = xmalloc((size_t)V * sizeof *first);
    char *answers = answers_json(l);
    const float *logits;

    if (w->tracer) {
        const int begun = tracer_begin(w->tracer, run->index, l->task, l->ids, l->n_prefill, l->n,
                                       l->n - l->n_prefill);
        if (begun) {
            rc = begun < 0 ? -1 : 0;
            goto done;
        }
    }
    if (method_prefill(run->method, run->session, l->ids, l->n_prefill, tap, &logits)) goto done;
    memcpy(first, logits, (size_t)V * sizeof *first);
    if (decode_known(run->session, run->method, tap, l->ids, l->n_prefill, l->n, first, argmax,
                     nll))
        goto done;
    if (w->tracer &&
        tracer_end(w->tracer, w->engine, l->ids, l->n, nll + l->n_prefill, "", answers))
        goto done;
    tally_tokens(run->tally, l, argmax, nll);
    rc = 0;

done:
    cJSON_free(answers);
    free(argmax);
    free(nll);
    free(first);
    return rc;
}

static int run_text(const struct line_run *run, const int *ids, int n)
{
    const struct walk *w = run->w;
    const struct suite_line *l = run->line;
    const struct model_config *c = &w->engine->model.config;
    const struct hooks *tap = tracer_hooks(w->tracer);
    int rc = -1, count = 0, *out = xmalloc((size_t)(n + w->max_new) * sizeof *out);
    float *nll = xmalloc((size_t)(w->max_new + 1) * sizeof *nll);
    char *answers = answers_json(l), *text = NULL;
    size_t size;
    const float *logits;
    struct sampler greedy = {0};

    sampler_open(&greedy, (struct sampling){.top_p = 1}, c->V);
    memcpy(out, ids, (size_t)n * sizeof *out);
    if (w->tracer) {
        const int begun =
            tracer_begin(w->tracer, run->index, l->task, ids, n, n + w->max_new, w->max_new);
        if (begun) {
            rc = begun < 0 ? -1 : 0;
            goto done;
        }
    }
    if (method_prefill(run->method, run->session, ids, n, tap, &logits)) goto done;
    if (decode_free(run->session, run->method, tap, logits, w->max_new, c->eos,
                    w->ignore_eos ? 0 : c->n_eos, &greedy, out + n, nll, &count, NULL, NULL))
        goto done;
    if (w->engine->tokenizer &&
        (text = tokenizer_decode(w->engine->tokenizer, out + n, count, true, &size, NULL)) == NULL)
        goto done;
    if (w->tracer &&
        tracer_end(w->tracer, w->engine, out, n + count, nll, text ? text : "", answers))
        goto done;
    tally_text(run->tally, l, text ? text : "");
    rc = 0;

done:
    cJSON_free(answers);
    sampler_close(&greedy);
    free(out);
    free(nll);
    free(text);
    return rc;
}

/* Lines FIRST, FIRST + STRIDE, ... in one session. 0, or -1 after fail(). */
static int run_lines(const struct walk *w, int first, int stride, int room, int steps,
                     int *const *ids, const int *n, struct tally *each, struct progress *progress)
{
    const struct suite *s = w->suite;
    int rc = -1;
    struct method *method = method_open(&w->engine->config, &w->engine->model);
    struct session *session = method ? engine_session_told(w->engine, method, room, steps) : NULL;
    if (session == NULL) goto done;
    for (int i = first; i < s->n; i += stride) {
        struct line_run run = {w, session,     w->tracer ? w->method : method,
                               i, &s->line[i], &each[i]};
        if (first == 0) progress_show(progress, i);
        if (run.line->ids && !w->decode_ids) {
            if (run_tokens(&run)) goto done;
        } else if (run_text(&run, ids[i] ? ids[i] : run.line->ids, ids[i] ? n[i] : run.line->n)) {
            goto done;
        }
    }
    rc = 0;

done:
    session_close(session);
    method_close(method);
    return rc;
}

int walk_suite(const struct walk *w)
{
    const struct suite *s = w->suite;
    int rc = -1, room = 1, steps = 1, workers = omp_get_max_threads();
    int **ids = xcalloc((size_t)s->n, sizeof *ids), *n = xcalloc((size_t)s->n, sizeof *n);
    struct tally *each = xcalloc((size_t)s->n, sizeof *each);
    char *why = NULL;
    struct progress progress = {0};

    for (int i = 0; i < s->n; i++) { /* the longest line decides how much memory is needed */
        const struct suite_line *l = &s->line[i];
        const bool tokens = l->ids && !w->decode_ids;
        int new_tokens = tokens ? l->n - l->n_prefill : w->max_new;
        if (l->ids == NULL && engine_prompt(w->engine, l->prompt, NULL, w->chat, &ids[i], &n[i]))
            goto done;
        if (tokens && w->tracer && new_tokens == 0) {
            fail("sample %d: n_prefill is its whole length: there is no step to trace", i);
            goto done;
        }
        const int length = tokens ? l->n : (l->ids ? l->n : n[i]) + new_tokens;
        if (length > room) room = length;
        if (new_tokens > steps) steps = new_tokens;
    }
    if (w->tracer) tracer_announce(w->tracer, room, steps, s->n);
    progress_start(&progress, w->tracer ? "trace" : "eval", s->n);
    /* Lines side by side, one a core, need no waiting for each other inside a layer. A trace is
     * written in order; long contexts take all cores and one cache; and a device runs one step at
     * a time. */
    double each_session, pinned;
    engine_session_bytes(w->engine, NULL, room, steps, &each_session, &pinned);
    if (w->tracer || w->engine->model.ops->device || each_session * workers > SIDE_BY_SIDE)
        workers = 1;
    if (workers > s->n) workers = s->n;
    if (workers == 1) {
        if (run_lines(w, 0, 1, room, steps, ids, n, each, &progress)) goto done;
    } else {
        const bool muted = mute_failures(true);
#pragma omp parallel for schedule(static, 1) num_threads(workers)
        for (int i = 0; i < workers; i++) {
            if (run_lines(w, i, workers, room, steps, ids, n, each, &progress) == 0) continue;
#pragma omp critical
            if (why == NULL) why = xstrdup(last_failure());
        }
        mute_failures(muted);
        if (why) {
            fail("%s", why);
            goto done;
        }
    }
    for (int i = 0; w->tally && i < s->n;
         i++) { /* in the order of the lines, so that sums repeat */
        struct tally *t = &w->tally[suite_task(s, s->line[i].task)];
        t->correct += each[i].correct;
        t->total += each[i].total;
        t->nll += each[i].nll;
        t->tokens += each[i].tokens;
    }
    rc = 0;

done:
    progress_end(&progress);
    for (int i = 0; i < s->n; i++) free(ids[i]);
    free(ids);
    free(n);
    free(each);
    free(why);
    return rc;
}
