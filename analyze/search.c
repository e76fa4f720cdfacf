/* search.c - okv-analyze search: choose filter layers, quality against full layers. */
#include "analyze/search.h"
#include "analyze/cmd.h"
#include "core/base/json.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze search DUMP... [OPTIONS]\n"
    "\n"
    "Which few layers must see everything? Every set of filter layers is judged by what it\n"
    "costs, the number of full layers (0 .. first filter, every filter and its wait\n"
    "layers), and by its quality: the mean over layers, weighted by importance for m2w and\n"
    "m11w, of 1 for a full layer and metric(f, j) for a layer j that uses the nearest filter\n"
    "f below (m4 as a share of the set). The table is the front: the best set of each cost that\n"
    "improves on all cheaper ones. From it one is picked: the best within --max-full; with\n"
    "--keep the cheapest of that quality; otherwise the knee, farthest above the line from\n"
    "the cheapest set to a full model. The last two lines are the picked set.\n"
    "\n"
    "  uniform     filters spread evenly from layer 0\n"
    "  peaks       local maxima of the segment score, highest first, after an early one\n"
    "  greedy      one filter after the other, each the best addition\n"
    "  dp          exact, by dynamic programming over (filter, cost)\n"
    "  exhaustive  exact, every set; refuses more than 20 million\n"
    "  all         the fronts of all five; the pick is the best of theirs\n"
    "\n" SEARCH_USAGE
    "  --out FILE        write the table there; the last two lines stay on stdout\n"
    "  --json            one object {about, front, do_select_layers,\n"
    "                    num_wait_load_layers} instead\n"
    "\n"
    "Columns: cost (full layers), quality (0 to 1), filters (0-based layers), wait (layers),\n"
    "algorithm.\n";

char *layer_list(const int *f, int n)
{
    char *list = xstrdup("");
    for (int i = 0; i < n; i++) {
        char *longer = xprintf("%s%s%d", list, i ? "," : "", f[i]);
        free(list);
        list = longer;
    }
    return list;
}

/* The matrix that a search by M is made with: m4 as a share, and importance as weights apart. */
static enum metric judged_by(enum metric m)
{
    return m == M4 ? M7 : metric_info(m)->of;
}

static bool weighted(enum metric m)
{
    return metric_info(m)->of != m;
}

/* Fills S and W of the problem from what was collected. */
static int fill_problem(const struct collect *c, enum metric m, double *S, double *w)
{
    const int L = c->L;
    double sum = 0;
    if (weighted(m))
        collect_weights(c, w);
    else
        for (int l = 0; l < L; l++) w[l] = 1;
    collect_matrix(c, judged_by(m), 0, S);
    for (int l = 0; l < L; l++) {
        if (w[l] < 0) w[l] = 0; /* 1 - cos may round below 0 */
        sum += w[l];
        for (int j = l; j < L; j++)
            if (!isfinite(S[(size_t)l * L + j]))
                return fail("search: %s(%d, %d) is not a finite number in these dumps",
                            metric_info(m)->name, l, j);
    }
    return sum > 0 && isfinite(sum) ? 0 : fail("search: the layers' importance sums to %g", sum);
}

/* The default metric that the dumps serve, and in WHY the reason; -1 after fail(). */
static int default_metric(const struct dumps *s, int k, const char **why)
{
    const uint32_t cheap = FIELD_BIT(DUMP_MASS) | FIELD_BIT(DUMP_IMPORTANCE);
    uint32_t fields = ~0u;
    bool same_k = true, sets = true;
    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        const struct dump *d = dumps_sample(s, i, 0, &info, NULL);
        if (d == NULL) return -1;
        if (info.S == 0) continue;
        fields &= info.fields;
        same_k &= dump_run(d)->reuse_k == k;
        sets &= info.fields & FIELD_BIT(DUMP_SCORE) ||
                (info.fields & FIELD_BIT(DUMP_TOPK_IDX) && dump_run(d)->K >= k);
    }
    if (sets && (fields & cheap) == cheap) {
        *why = ", the default where importance was traced";
        return metric_find(SEARCH_DEFAULT_METRIC);
    }
    if (fields & FIELD_BIT(DUMP_REUSE_ERROR) && same_k) {
        *why = ", the default where reuse_error was traced at this k and importance was not";
        return metric_find(SEARCH_SECOND_METRIC);
    }
    *why = ", the default where neither importance nor reuse_error at this k was traced";
    return metric_find(SEARCH_FALLBACK_METRIC);
}

int search_run(struct search_result *r, const struct dumps *s, const struct search_options *o)
{
    const int L = s->run->L;
    const char *why = "";
    const int m = o->metric ? metric_find(o->metric) : default_metric(s, o->k, &why);
    const bool every = strcmp(o->algorithm, "all") == 0;
    const int algorithm = every ? 0 : algorithm_find(o->algorithm);
    struct collect c = {0};
    double *S = NULL, *w = NULL;
    int rc = -1;

    memset(r, 0, sizeof *r);
    if (m < 0 || algorithm < 0) return -1;
    if (!metric_info(m)->pair)
        return fail("search: %s says nothing about pairs of layers", metric_info(m)->name);
    if (o->filters > L)
        return fail("search: --filters %d, but the model has %d layers", o->filters, L);
    if (o->filters && o->max_full && o->filters > o->max_full)
        return fail("search: %d filter layers are at least %d full layers, --max-full is %d",
                    o->filters, o->filters, o->max_full);

    const uint32_t bits = METRIC_BIT(m) | METRIC_BIT(judged_by(m));
    const struct collect_options co = {.metrics = bits,
                                       .named = bits,
                                       .k = &o->k,
                                       .nk = 1,
                                       .sinks = o->sinks,
                                       .recent = o->recent};
    if (collect_run(&c, s, &co)) goto done;
    if (collect_k(&c, m, 0) != o->k)
        note("%s was traced at k = %d, not %d: the search is by that", metric_info(m)->name,
             collect_k(&c, m, 0), o->k);
    S = xmalloc((size_t)L * L * sizeof *S);
    w = xmalloc((size_t)L * sizeof *w);
    if (fill_problem(&c, m, S, w)) goto done;

    const struct choose_problem p = {.L = L,
                                     .wait = o->wait < L ? o->wait : L,
                                     .S = S,
                                     .w = w,
                                     .filters = o->filters,
                                     .max_full = o->max_full && o->max_full < L ? o->max_full : L,
                                     .segment = o->segment};
    for (int a = 0; a < ALGORITHMS; a++) {
        if (a != algorithm && !every) continue;
        if (every && a == EXHAUSTIVE && choose_sets(&p) > MOST_SETS) continue; /* dp is exact */
        if (choose_front(&p, a, &r->front[a], &r->n[a])) goto done;
        if (r->n[a] == 0) continue;
        const bool best = o->max_full > 0;
        const struct choice *x = &r->front[a][choose_pick(r->front[a], r->n[a], L, o->keep, best)];
        /* among algorithms: the better of equal cost rules, the cheaper of equal quality */
        const struct choice *y = r->pick;
        if (y == NULL || x->quality > y->quality ||
            (!(x->quality < y->quality) && x->cost < y->cost)) {
            r->pick = x;
            r->pick_by = a;
        }
    }
    if (r->pick == NULL && o->filters)
        fail("search: %s finds no set of %d filter layers with wait %d and at most %d full layers, "
             "of %d layers",
             o->algorithm, o->filters, o->wait, p.max_full, L);
    else if (r->pick == NULL)
        fail("search: %s finds no set with wait %d and at most %d full layers, of %d layers",
             o->algorithm, o->wait, p.max_full, L);
    if (r->pick == NULL) goto done;
    r->rule = o->keep > 0       ? xprintf("the cheapest of quality %g or more", o->keep)
              : o->max_full > 0 ? xprintf("the best of at most %d full layers", p.max_full)
                                : xprintf("the knee: farthest above the line to a full model");
    r->notes =
        xprintf("%s\nmetric %s%s, k = %d, wait %d%s; pick: %s\n"
                "quality: mean over layers%s of 1 (full) or %s(f, j)",
                c.notes, metric_info(m)->name, why, collect_k(&c, m, 0), o->wait,
                m == M4 ? " (as a share of the set: m7)" : "", r->rule,
                weighted(m) ? ", weighted by importance," : "", metric_info(judged_by(m))->name);
    rc = 0;

done:
    free(S);
    free(w);
    collect_free(&c);
    return rc;
}

void search_free(struct search_result *r)
{
    for (int a = 0; a < ALGORITHMS; a++) choose_free(r->front[a], r->n[a]);
    free(r->rule);
    free(r->notes);
    memset(r, 0, sizeof *r);
}

static void put_json(const struct search_result *r, FILE *f)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "about", r->notes);
    cJSON *front = cJSON_AddArrayToObject(root, "front");
    for (int a = 0; a < ALGORITHMS; a++) {
        for (int i = 0; i < r->n[a]; i++) {
            const struct choice *x = &r->front[a][i];
            cJSON *row = cJSON_CreateObject();
            cJSON_AddNumberToObject(row, "cost", x->cost);
            cJSON_AddNumberToObject(row, "quality", x->quality);
            cJSON_AddItemToObject(row, "filters", cJSON_CreateIntArray(x->filter, x->n));
            cJSON_AddNumberToObject(row, "wait", x->wait);
            cJSON_AddStringToObject(row, "algorithm", algorithm_name(a));
            cJSON_AddItemToArray(front, row);
        }
    }
    char *list = layer_list(r->pick->filter, r->pick->n);
    cJSON_AddStringToObject(root, "do_select_layers", list);
    cJSON_AddNumberToObject(root, "num_wait_load_layers", r->pick->wait);
    cJSON_AddNumberToObject(root, "cost", r->pick->cost);
    cJSON_AddNumberToObject(root, "quality", r->pick->quality);
    cJSON_AddStringToObject(root, "rule", r->rule);
    char *text = cJSON_Print(root);
    fprintf(f, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(root);
    free(list);
}

int analyze_search(int argc, char **argv)
{
    struct search_options o = SEARCH_DEFAULTS;
    bool as_json = false;
    const char *path = NULL;
    const struct option_spec specs[] = {
        SEARCH_SPECS(o),
        {"--out", OPT_STRING, &path, 0, 0},
        {"--json", OPT_FLAG, &as_json, 0, 0},
        {0},
    };
    struct dumps s = {0};
    struct search_result r = {0};
    struct output out = {0}, last = {0};
    char *notes = NULL, *list = NULL;
    int first, rc = options_parse(argc, argv, specs, usage, &first);

    if (rc >= 0) return rc;
    if (first == argc) return usage_error(argv[0], "which dump?");
    rc = 1;
    if (dumps_open(&s, argv + first, argc - first) || search_run(&r, &s, &o)) goto done;
    if (output_open(&out, path)) goto done;
    if (as_json) {
        put_json(&r, out.f);
        rc = 0;
        goto done;
    }
    notes = xprintf("%s\n%s\ncost: full layers; filters: 0-based; wait: layers", s.about, r.notes);
    table_head(out.f, argc, argv, notes);
    fputs("cost\tquality\tfilters\twait\talgorithm\n", out.f);
    for (int a = 0; a < ALGORITHMS; a++) {
        for (int i = 0; i < r.n[a]; i++) {
            const struct choice *x = &r.front[a][i];
            free(list);
            list = layer_list(x->filter, x->n);
            fprintf(out.f, "%d\t%.9g\t%s\t%d\t%s\n", x->cost, x->quality, list, x->wait,
                    algorithm_name(a));
        }
    }
    if (out.path && output_close(&out, 0)) goto done;
    if (output_open(&last, NULL)) goto done;
    free(list);
    list = layer_list(r.pick->filter, r.pick->n);
    note("picked by %s, %s: cost %d, quality %.4f", algorithm_name(r.pick_by), r.rule, r.pick->cost,
         r.pick->quality);
    fprintf(last.f, "do_select_layers: %s\nnum_wait_load_layers: %d\n", list, r.pick->wait);
    rc = 0;

done:
    if (output_close(&out, rc)) rc = 1;
    if (output_close(&last, rc)) rc = 1;
    free(list);
    free(notes);
    search_free(&r);
    dumps_close(&s);
    return rc;
}
