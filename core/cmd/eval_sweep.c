/* eval_sweep.c - okv eval with several configs or budgets: one table of all of them. */
#include "core/cmd/eval_sweep.h"
#include "core/base/base.h"
#include "core/cmd/walk.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A config, and its name in the table. */
struct entry {
    const char *path;
    char *label;
    struct run_config config; /* as the file says it */
};

/* One of the table's methods at one of its budgets. */
struct run {
    const struct entry *entry;
    int budget;  /* 0: its own */
    char *named; /* in messages */
    struct run_config config;
    bool shares;         /* engine_shares_prefill() */
    struct tally *tally; /* NULL before it has run */
};

static int load_entry(struct entry *e, const char *argument)
{
    e->path = config_file(argument);
    if (run_config_load(&e->config, e->path) || config_label(argument, &e->label)) return -1;
    if (e->label == NULL) e->label = xstrdup(method_name(e->config.method));
    return 0;
}

/* What one model cannot be at once: other weights, or another rotation. */
static int check_same_model(const struct entry *a, const struct entry *b, bool named)
{
    const cJSON *x = a->config.model_overrides, *y = b->config.model_overrides;
    const char *one = a->config.model, *other = b->config.model;
    if (!named && one && other && strcmp(one, other) != 0)
        return fail("%s: expected the model_name of %s, since a model is opened once; --model DIR "
                    "stands in for both",
                    b->path, a->path);
    if ((x || y) && !(x && y && cJSON_Compare(x, y, true)))
        return fail("%s: expected the model's keys of %s, since a model is opened once", b->path,
                    a->path);
    if (a->config.rope_factor != b->config.rope_factor)
        return fail("%s: expected the scaling of the rotation of %s, %g, found %g", b->path,
                    a->path, a->config.rope_factor, b->config.rope_factor);
    return 0;
}

static int load_entries(struct entry *list, const struct sweep_args *s, bool named)
{
    for (int i = 0; i < s->configs.n; i++) {
        if (load_entry(&list[i], s->configs.v[i])) return -1;
        for (int k = 0; k < i; k++)
            if (strcmp(list[k].label, list[i].label) == 0)
                return fail("--config %s: the label \"%s\" stands twice; give LABEL=FILE",
                            s->configs.v[i], list[i].label);
        if (i && check_same_model(&list[0], &list[i], named)) return -1;
    }
    return 0;
}

/* Makes R what entry E is at BUDGET (0: its own); a method may refuse that, before anything is run.
 * 1 when the method has that budget, 0 when it has none, -1 after fail(). */
static int open_run(struct run *r, const struct entry *e, int budget, const struct engine *engine)
{
    struct method *method = NULL;
    int has = 0;
    r->entry = e;
    if (run_config_load(&r->config, e->path)) return -1;
    const char *named = name_failures(e->label);
    if (budget) has = run_config_set_budget(&r->config, budget);
    if (has >= 0 && (method = method_open(&r->config, &engine->model)) == NULL) has = -1;
    if (method) r->shares = engine_shares_prefill(engine, method);
    method_close(method);
    name_failures(named);
    if (has > 0) r->budget = budget;
    r->named = has > 0 ? xprintf("%s at %d tokens", e->label, budget) : xstrdup(e->label);
    return has;
}

/* Whether B can go on from A's prefill. */
static bool shared(const struct run *a, const struct run *b)
{
    return a->shares && b->shares && a->config.chat == b->config.chat &&
           a->config.max_context == b->config.max_context;
}

/* Runs the first of RUNS [n], and with it those after it that share its prefill. */
static int run_first(struct engine *e, struct run *runs, int n, const struct sweep_args *s,
                     const struct suite *suite)
{
    const struct run_config opened = e->config;
    struct variant *variant = xcalloc((size_t)n, sizeof *variant);
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && !shared(&runs[0], &runs[i])) continue;
        runs[i].tally = xcalloc((size_t)suite->n_tasks, sizeof *runs[i].tally);
        variant[count++] = (struct variant){&runs[i].config, runs[i].named, runs[i].tally};
    }
    if (isatty(2)) /* beside the progress of its lines */
        note(count > 1 ? "%s and, from the same prefill, %d more" : "%s", runs[0].named, count - 1);
    e->config = runs[0].config;
    const int rc = walk_suite(&(struct walk){.engine = e,
                                             .variant = variant,
                                             .n_variants = count,
                                             .suite = suite,
                                             .chat = s->chat,
                                             .max_new = s->max_new});
    e->config = opened;
    free(variant);
    return rc;
}

static void print_head(FILE *f, const struct engine *e, const struct entry *list,
                       const struct sweep_args *s, int argc, char **argv)
{
    char *notes = xprintf("model %s\n"
                          "budget: tokens of the prompt kept or selected, - where none was set; "
                          "correct, total: answers\n"
                          "low, high: Wilson's interval at 95 %%; nll: nats per judged token",
                          e->model.config.name);
    table_head(f, argc, argv, notes);
    for (int i = 0; i < s->configs.n; i++)
        fprintf(f, "# method %s: %s\n", list[i].label, list[i].config.json);
    free(notes);
    fprintf(f, "method\tbudget\ttask\tcorrect\ttotal\taccuracy\tlow\thigh\tnll\n");
}

int eval_sweep(const char *name, const struct engine_args *args, const struct sweep_args *s,
               int argc, char **argv)
{
    struct engine_args first = *args;
    struct engine e = {0};
    const int budgets = s->budgets.n ? s->budgets.n : 1;
    struct entry *list = xcalloc((size_t)s->configs.n, sizeof *list);
    struct run *runs = xcalloc((size_t)s->configs.n * (size_t)budgets, sizeof *runs);
    struct suite *suite = NULL;
    struct output out = {0};
    int status = 1, rc = -1, n = 0;

    if (load_entries(list, s, args->model != NULL)) goto done;
    first.config = list[0].path;
    tracer_not_here("several configs or budgets in one run are not traced");
    if ((status = engine_open(&e, name, &first)) != 0) goto done;
    status = 1;
    if ((suite = suite_load(s->data, e.model.config.V)) == NULL) goto done;
    for (int i = 0; i < s->configs.n; i++)
        for (int k = 0, has = 1; k < budgets && has; k++)
            if ((has = open_run(&runs[n++], &list[i], s->budgets.n ? s->budgets.v[k] : 0, &e)) < 0)
                goto done;
    if (output_open(&out, s->out)) goto done;
    print_head(out.f, &e, list, s, argc, argv);
    for (int i = 0; i < n; i++) {
        if (runs[i].tally == NULL && run_first(&e, runs + i, n - i, s, suite)) goto done;
        tally_rows(out.f, suite, runs[i].tally, runs[i].entry->label, runs[i].budget);
        fflush(out.f);
    }
    rc = 0;

done:
    if (output_close(&out, rc) == 0) status = 0;
    for (int i = 0; i < s->configs.n; i++) {
        run_config_free(&list[i].config);
        free(list[i].label);
    }
    for (int i = 0; i < n; i++) {
        run_config_free(&runs[i].config);
        free(runs[i].named);
        free(runs[i].tally);
    }
    free(runs);
    free(list);
    suite_free(suite);
    engine_close(&e);
    return status;
}
