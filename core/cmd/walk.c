/* walk.c - goes through a suite line by line under a method. */
#include "core/cmd/walk.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

/* A line's tokens and where it is in the run. */
struct line_run {
    const struct walk *w;
    struct session *session;
    int index;
    const struct suite_line *line;
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
    if (prefill(run->session, l->ids, l->n_prefill, tap, &logits)) goto done;
    memcpy(first, logits, (size_t)V * sizeof *first);
    if (decode_known(run->session, w->method, tap, l->ids, l->n_prefill, l->n, first, argmax, nll))
        goto done;
    if (w->tracer &&
        tracer_end(w->tracer, w->engine, l->ids, l->n, nll + l->n_prefill, "", answers))
        goto done;
    if (w->tally) tally_tokens(&w->tally[suite_task(w->suite, l->task)], l, argmax, nll);
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
    if (prefill(run->session, ids, n, tap, &logits)) goto done;
    if (decode_free(run->session, w->method, tap, logits, w->max_new, c->eos,
                    w->ignore_eos ? 0 : c->n_eos, &greedy, out + n, nll, &count, NULL, NULL))
        goto done;
    if (w->engine->tokenizer &&
        (text = tokenizer_decode(w->engine->tokenizer, out + n, count, true, &size, NULL)) == NULL)
        goto done;
    if (w->tracer &&
        tracer_end(w->tracer, w->engine, out, n + count, nll, text ? text : "", answers))
        goto done;
    if (w->tally) tally_text(&w->tally[suite_task(w->suite, l->task)], l, text ? text : "");
    rc = 0;

done:
    cJSON_free(answers);
    sampler_close(&greedy);
    free(out);
    free(nll);
    free(text);
    return rc;
}

int walk_suite(const struct walk *w)
{
    const struct suite *s = w->suite;
    int rc = -1, room = 1, steps = 1;
    int **ids = xcalloc((size_t)s->n, sizeof *ids), *n = xcalloc((size_t)s->n, sizeof *n);
    struct session *session = NULL;
    struct progress progress;

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
    if ((session = engine_session(w->engine, w->method, room)) == NULL) goto done;
    if (w->tracer) tracer_announce(w->tracer, room, steps, s->n);
    progress_start(&progress, w->tracer ? "trace" : "eval", s->n);
    for (int i = 0; i < s->n; i++) {
        const struct line_run run = {w, session, i, &s->line[i]};
        progress_show(&progress, i);
        if (run.line->ids && !w->decode_ids) {
            if (run_tokens(&run)) goto done;
        } else if (run_text(&run, ids[i] ? ids[i] : run.line->ids, ids[i] ? n[i] : run.line->n)) {
            goto done;
        }
    }
    rc = 0;

done:
    if (session) progress_end(&progress);
    for (int i = 0; i < s->n; i++) free(ids[i]);
    free(ids);
    free(n);
    session_close(session);
    return rc;
}
