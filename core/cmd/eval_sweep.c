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

/* Opens what entry E is at BUDGET (0: its own) as *C. 1 when the method has that budget, 0 when it
 * has none, -1 after fail(). */
static int config_at(const struct entry *e, int budget, struct run_config *c)
{
    int rc = 0;
    if (run_config_load(c, e->path)) return -1;
    const bool muted = mute_failures(true);
    if (budget && (rc = run_config_set_budget(c, budget)) < 0) {
        char *why = xstrdup(last_failure());
        mute_failures(muted);
        fail("%s: %s", e->label, why);
        free(why);
        run_config_free(c);
    }
    mute_failures(muted);
    return rc;
}

/* What a method refuses, before anything is run. */
static int try_runs(const struct entry *list, const struct sweep_args *s, const struct model *m)
{
    for (int i = 0; i < s->configs.n; i++)
        for (int k = 0; k < (s->budgets.n ? s->budgets.n : 1); k++) {
            struct run_config c;
            if (config_at(&list[i], s->budgets.n ? s->budgets.v[k] : 0, &c) < 0) return -1;
            const bool muted = mute_failures(true);
            struct method *method = method_open(&c, m);
            mute_failures(muted);
            const bool refused = method == NULL;
            method_close(method);
            run_config_free(&c);
            if (refused) {
                char *why = xstrdup(last_failure());
                fail("%s: %s", list[i].label, why);
                free(why);
                return -1;
            }
        }
    return 0;
}

static int run_entry(struct engine *e, FILE *f, const struct entry *entry,
                     const struct sweep_args *s, const struct suite *suite)
{
    const struct run_config opened = e->config;
    struct tally *tally = xcalloc((size_t)suite->n_tasks, sizeof *tally);
    int rc = 0, has = 1;

    for (int k = 0; rc == 0 && has == 1 && k < (s->budgets.n ? s->budgets.n : 1); k++) {
        const int tokens = s->budgets.n ? s->budgets.v[k] : 0;
        if ((has = config_at(entry, tokens, &e->config)) < 0) {
            rc = -1;
            break;
        }
        if (isatty(2)) /* beside the progress of its lines */
            note(has ? "%s at %d tokens" : "%s", entry->label, tokens);
        memset(tally, 0, (size_t)suite->n_tasks * sizeof *tally);
        rc = walk_suite(&(struct walk){
            .engine = e, .suite = suite, .chat = s->chat, .max_new = s->max_new, .tally = tally});
        if (rc == 0) tally_rows(f, suite, tally, entry->label, has ? tokens : 0);
        fflush(f);
        run_config_free(&e->config);
    }
    e->config = opened;
    free(tally);
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
    struct entry *list = NULL;
    struct suite *suite = NULL;
    struct output out = {0};
    int status = 1, rc = -1;

    list = xcalloc((size_t)s->configs.n, sizeof *list);
    if (load_entries(list, s, args->model != NULL)) goto done;
    first.config = list[0].path;
    tracer_not_here(name);
    if ((status = engine_open(&e, name, &first)) != 0) goto done;
    status = 1;
    if ((suite = suite_load(s->data, e.model.config.V)) == NULL) goto done;
    if (try_runs(list, s, &e.model) || output_open(&out, s->out)) goto done;
    print_head(out.f, &e, list, s, argc, argv);
    for (int i = 0; i < s->configs.n; i++)
        if (run_entry(&e, out.f, &list[i], s, suite)) goto done;
    rc = 0;

done:
    if (output_close(&out, rc) == 0) status = 0;
    for (int i = 0; i < s->configs.n; i++) {
        run_config_free(&list[i].config);
        free(list[i].label);
    }
    free(list);
    suite_free(suite);
    engine_close(&e);
    return status;
}
