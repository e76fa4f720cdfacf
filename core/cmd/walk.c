/* walk.c - goes through a suite line by line, under one method or several. */
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
    struct method **method; /* [n_variants], NULL: to be opened */
    int index;
    const struct suite_line *line;
    const int *ids; /* [n] the prompt */
    int n;
    struct tally *tally; /* [n_variants] of this line alone */
    struct progress *progress;
};

/* What all lines of a walk need, and what they found. */
struct lines {
    int room, steps, longest; /* tokens and steps of any line; the line that needs the room */
    int **ids, *n;            /* [suite->n] prompts: of text-level lines, NULL of others; length */
    struct tally *each;       /* [suite->n, n_variants] */
    struct progress progress;
};

/* What messages about line L under variant V begin with, or NULL; the caller frees it. */
static char *name_of(const struct variant *v, const struct suite_line *l)
{
    if (v->name && l->where) return xprintf("%s: %s", v->name, l->where);
    return v->name || l->where ? xstrdup(v->name ? v->name : l->where) : NULL;
}

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

/* Follows the text of the line from FIRST [V], the logits after its prefill. */
static int run_tokens(const struct line_run *run, struct method *m, const float *first,
                      struct tally *tally)
{
    const struct walk *w = run->w;
    const struct suite_line *l = run->line;
    int rc = -1, *argmax = xcalloc((size_t)l->n + 1, sizeof *argmax);
    float *nll = xcalloc((size_t)l->n + 1, sizeof *nll);
    char *answers = answers_json(l);

    if (decode_known(run->session, m, tracer_hooks(w->tracer), l->ids, run->n, l->n, first, argmax,
                     nll))
        goto done;
    if (w->tracer && tracer_end(w->tracer, w->engine, l->ids, l->n, nll + run->n, "", answers))
        goto done;
    tally_tokens(tally, l, argmax, nll);
    rc = 0;

done:
    cJSON_free(answers);
    free(argmax);
    free(nll);
    return rc;
}

/* Decodes an answer to the prompt of the line from FIRST [V]. */
static int run_text(const struct line_run *run, struct method *m, const float *first,
                    struct tally *tally)
{
    const struct walk *w = run->w;
    const struct suite_line *l = run->line;
    const struct model_config *c = &w->engine->model.config;
    const int n = run->n;
    int rc = -1, count = 0, *out = xmalloc((size_t)(n + w->max_new) * sizeof *out);
    float *nll = xmalloc((size_t)(w->max_new + 1) * sizeof *nll);
    char *answers = answers_json(l), *text = NULL;
    size_t size;
    struct sampler greedy = {0};

    sampler_open(&greedy, (struct sampling){.top_p = 1}, c->V);
    memcpy(out, run->ids, (size_t)n * sizeof *out);
    if (decode_free(run->session, m, tracer_hooks(w->tracer), first, w->max_new, c->eos,
                    w->ignore_eos ? 0 : c->n_eos, &greedy, out + n, nll, &count, NULL, NULL))
        goto done;
    if (w->engine->tokenizer &&
        (text = tokenizer_decode(w->engine->tokenizer, out + n, count, true, &size, NULL)) == NULL)
        goto done;
    if (w->tracer &&
        tracer_end(w->tracer, w->engine, out, n + count, nll, text ? text : "", answers))
        goto done;
    tally_text(tally, l, text ? text : "");
    rc = 0;

done:
    cJSON_free(answers);
    sampler_close(&greedy);
    free(out);
    free(nll);
    free(text);
    return rc;
}

/* A token-level line whose text is followed. */
static bool follows(const struct walk *w, const struct suite_line *l)
{
    return l->ids && !w->decode_ids;
}

/* The line under variant V; the first of them prefills, and leaves in FIRST [V] what follows. */
static int run_variant(const struct line_run *run, int v, float *first)
{
    const struct walk *w = run->w;
    const struct model *model = &w->engine->model;
    struct method **own = &run->method[v];
    const float *logits;
    if (*own == NULL && (*own = method_open(w->variant[v].config, model)) == NULL) return -1;
    struct method *m = w->tracer ? w->method : *own;
    if (v > 0) {
        session_rewind(run->session, run->n);
    } else {
        if (method_prefill(m, run->session, run->ids, run->n, tracer_hooks(w->tracer), &logits))
            return -1;
        memcpy(first, logits, (size_t)model->config.V * sizeof *first); /* passes overwrite them */
    }
    if ((follows(w, run->line) ? run_tokens : run_text)(run, m, first, &run->tally[v])) return -1;
    if (w->n_variants > 1) { /* one at a time holds memory for a prompt */
        method_close(*own);
        *own = NULL;
    }
    return 0;
}

static int run_line(const struct line_run *run)
{
    const struct walk *w = run->w;
    const struct suite_line *l = run->line;
    const int steps = follows(w, l) ? l->n - l->n_prefill : w->max_new;
    float *first = xmalloc((size_t)w->engine->model.config.V * sizeof *first);
    int rc = 0; /* 1: a resumed trace has it */

    if (w->tracer)
        rc = tracer_begin(w->tracer, run->index, l->task, run->ids, run->n, run->n + steps, steps);
    for (int v = 0; v < w->n_variants && rc == 0; v++) {
        if (run->progress) progress_show(run->progress, (long)run->index * w->n_variants + v);
        char *name = w->tracer ? NULL : name_of(&w->variant[v], l); /* a dump's failures have one */
        const char *named = name_failures(name);
        rc = run_variant(run, v, first);
        name_failures(named);
        free(name);
    }
    free(first);
    return rc < 0 ? -1 : 0;
}

/* Lines FIRST, FIRST + STRIDE, ... in one session. How many lines of the suite are behind it: all,
 * or after fail() those before the one that failed. */
static int run_lines(const struct walk *w, struct lines *a, int first, int stride)
{
    const struct suite *s = w->suite;
    const size_t variants = (size_t)w->n_variants;
    int behind = 0;
    struct method **method = xcalloc(variants, sizeof(struct method *));
    struct session *session = NULL;
    for (size_t v = 0; v < variants; v++)
        if ((method[v] = method_open(w->variant[v].config, &w->engine->model)) == NULL) goto done;
    /* the first variant's length limit is that of all */
    char *name = name_of(&w->variant[0], &s->line[a->longest]);
    const char *named = name_failures(name);
    session = engine_session_told(w->engine, method, w->n_variants, a->room, a->steps);
    name_failures(named);
    free(name);
    if (session == NULL) goto done;
    for (int i = first; i < s->n; i += stride) {
        const struct suite_line *l = &s->line[i];
        const struct line_run run = {.w = w,
                                     .session = session,
                                     .method = method,
                                     .index = i,
                                     .line = l,
                                     .ids = a->ids[i] ? a->ids[i] : l->ids,
                                     .n = a->n[i],
                                     .tally = a->each + (size_t)i * variants,
                                     .progress = first == 0 ? &a->progress : NULL};
        behind = i;
        if (run_line(&run)) goto done;
    }
    behind = s->n;

done:
    session_close(session);
    for (size_t v = 0; v < variants; v++) method_close(method[v]);
    free(method);
    return behind;
}

int walk_suite(const struct walk *w)
{
    const struct suite *s = w->suite;
    int rc = -1, workers = omp_get_max_threads();
    struct lines a = {.room = 1, .steps = 1};
    char *why = NULL;

    a.ids = xcalloc((size_t)s->n, sizeof *a.ids);
    a.n = xcalloc((size_t)s->n, sizeof *a.n);
    a.each = xcalloc((size_t)s->n * (size_t)w->n_variants, sizeof *a.each);
    for (int i = 0; i < s->n; i++) { /* the longest line decides how much memory is needed */
        const struct suite_line *l = &s->line[i];
        const bool tokens = follows(w, l);
        const int new_tokens = tokens ? l->n - l->n_prefill : w->max_new;
        const char *named = name_failures(l->where);
        int bad = l->ids == NULL &&
                  engine_prompt(w->engine, l->prompt, NULL, w->chat, &a.ids[i], &a.n[i]);
        if (l->ids) a.n[i] = tokens ? l->n_prefill : l->n;
        if (tokens && w->tracer && new_tokens == 0)
            bad = fail("n_prefill is its whole length: there is no step to trace");
        name_failures(named);
        if (bad) goto done;
        if (a.n[i] + new_tokens > a.room) {
            a.room = a.n[i] + new_tokens;
            a.longest = i;
        }
        if (new_tokens > a.steps) a.steps = new_tokens;
    }
    if (w->tracer) tracer_announce(w->tracer, a.room, a.steps, s->n);
    progress_start(&a.progress, w->tracer ? "trace" : "eval", (long)s->n * w->n_variants);
    /* Lines side by side, one a core, need no waiting for each other inside a layer. A trace is
     * written in order; long contexts take all cores and one cache; and a device runs one step at
     * a time. */
    double each_session, pinned;
    engine_session_bytes(w->engine, NULL, a.room, a.steps, &each_session, &pinned);
    if (w->tracer || w->engine->model.ops->device || each_session * workers > SIDE_BY_SIDE)
        workers = 1;
    if (workers > s->n) workers = s->n;
    if (workers == 1) {
        if (run_lines(w, &a, 0, 1) < s->n) goto done;
    } else {
        const bool muted = mute_failures(true);
        int least = s->n; /* of several failures the first line's is told */
#pragma omp parallel for schedule(static, 1) num_threads(workers)
        for (int i = 0; i < workers; i++) {
            const int behind = run_lines(w, &a, i, workers);
#pragma omp critical
            if (behind < least) {
                least = behind;
                free(why);
                why = xstrdup(last_failure());
            }
        }
        mute_failures(muted);
        if (why) {
            fail("%s", why);
            goto done;
        }
    }
    for (int i = 0; i < s->n * w->n_variants; i++) { /* by line, so that sums repeat */
        const struct variant *v = &w->variant[i % w->n_variants];
        if (v->tally == NULL) continue;
        struct tally *t = &v->tally[suite_task(s, s->line[i / w->n_variants].task)];
        t->correct += a.each[i].correct;
        t->total += a.each[i].total;
        t->nll += a.each[i].nll;
        t->tokens += a.each[i].tokens;
    }
    rc = 0;

done:
    progress_end(&a.progress);
    for (int i = 0; i < s->n; i++) free(a.ids[i]);
    free(a.ids);
    free(a.n);
    free(a.each);
    free(why);
    return rc;
}
