/* rank.c - okv-analyze rank: score every layer as a filter layer, by published metrics. */
#include "analyze/cmd.h"
#include "analyze/collect.h"
#include "analyze/measure.h"
#include "core/base/command.h"
#include "core/base/json.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze rank DUMP... [OPTIONS]\n"
    "\n"
    "Which layers find the tokens that the layers after them need? One value per layer\n"
    "and metric; docs/metrics.md has the formulas and sources.\n"
    "  m1   attention of layer j on the top k of layer i (OmniKV's segment score)\n"
    "  m1x  m1 without the self term, the first --sinks and the last --recent tokens\n"
    "  m2   m1 by recorded mass, as a share of what layer j's own top k holds (Kascade)\n"
    "  m2w  m2 times layer j's importance (M3)\n"
    "  m4   tokens in both top k;  m7: as a share of k\n"
    "  m8   cosine of layer j's attention output with layer i's top k, at the traced k\n"
    "  m11  1 - the attention that layer j misses when of the prompt it sees layer i's top k\n"
    "  m11w m11 weighted by layer j's importance\n"
    "  m12  attention weight on the layer's own top k\n"
    "  m15  share of the top k that is kept at the next step\n"
    "The value of layer i of m1 to m11 is the mean of metric(i, j) over the layers j = i ..\n"
    "i + n - 1 that exist, itself included except in m1x (the last layer of m1x has only\n"
    "itself and takes that); of m11w the mean of m11 with weights m3(j), while --matrix\n"
    "prints m11(i, j) m3(j), as for m2w.\n"
    "\n"
    "  --metric NAME,...  which of them [all that the dump can serve]\n"
    "  --k K,...          tokens in a set [32,128]\n"
    "  --segment N        layers j in a mean [8]\n"
    "  --matrix           every pair instead: columns metric k i j value\n"
    "  --sinks N          first prefill tokens m1x leaves out [4]\n"
    "  --recent N         last prefill tokens m1x leaves out [32]\n"
    "  --bootstrap N      resamples of the samples [1000]\n"
    "  --seed N           of the resampling [1]\n"
    "  --out FILE         write the table there\n"
    "  --json             an object {about, rows} instead of a table\n"
    "\n"
    "Columns: metric, k, layer (0-based), value, low, high (95 % percentile bootstrap\n"
    "interval over samples; one sample: low = high = value). m1, m12 are attention weights\n"
    "in [0, 1], m4 tokens, m8 a cosine, the others shares or products of shares.\n";

struct rows { /* where the result goes: a table or JSON */
    FILE *f;
    cJSON *json; /* the array of rows, or NULL */
};

static void put_value(const struct rows *out, const char *metric, int k, int i, int j, double value,
                      const double *band)
{
    if (out->json == NULL) {
        fprintf(out->f, "%s\t%d\t%d", metric, k, i);
        if (j >= 0) fprintf(out->f, "\t%d", j);
        fprintf(out->f, "\t%.9g", value);
        if (band) fprintf(out->f, "\t%.9g\t%.9g", band[0], band[1]);
        fputc('\n', out->f);
        return;
    }
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "metric", metric);
    cJSON_AddNumberToObject(row, "k", k);
    cJSON_AddNumberToObject(row, j < 0 ? "layer" : "i", i);
    if (j >= 0) cJSON_AddNumberToObject(row, "j", j);
    cJSON_AddNumberToObject(row, "value", value); /* cJSON prints NaN as null */
    if (band) cJSON_AddNumberToObject(row, "low", band[0]);
    if (band) cJSON_AddNumberToObject(row, "high", band[1]);
    cJSON_AddItemToArray(out->json, row);
}

/* "m1,m4" as bits. 0, or -1 after fail(). */
static int parse_metrics(const char *list, uint32_t *metrics)
{
    char *copy = xstrdup(list), *rest = copy;
    int m = 0;
    *metrics = 0;
    for (char *word; m >= 0 && (word = strsep(&rest, ",")) != NULL;) {
        if ((m = metric_find(word)) >= 0) *metrics |= METRIC_BIT(m);
    }
    free(copy);
    return m < 0 ? -1 : 0;
}

static void put_matrix(const struct rows *out, const struct collect *c, enum metric m, int ki)
{
    const int L = c->L;
    double *S = xmalloc((size_t)L * L * sizeof *S);
    collect_matrix(c, m, ki, S);
    for (int i = 0; i < L; i++) {
        for (int j = metric_info(m)->partial ? i : 0; j < L; j++)
            put_value(out, metric_info(m)->name, collect_k(c, m, ki), i, j, S[(size_t)i * L + j],
                      NULL);
    }
    free(S);
}

static int put_layers(const struct rows *out, const struct collect *c, enum metric m, int ki,
                      int segment, int resamples, uint64_t seed)
{
    const int L = c->L;
    double *v = xmalloc(3 * (size_t)L * sizeof *v);
    int rc = collect_values(c, m, ki, segment, resamples, seed, v, v + L, v + 2 * L);
    for (int l = 0; rc == 0 && l < L; l++) {
        const double band[2] = {v[L + l], v[2 * L + l]};
        put_value(out, metric_info(m)->name, collect_k(c, m, ki), l, -1, v[l], band);
    }
    free(v);
    return rc;
}

int analyze_rank(int argc, char **argv)
{
    struct collect_options o = {.metrics = ALL_METRICS, .sinks = 4, .recent = 32};
    struct int_list k = {0};
    int segment = 8, resamples = 1000, seed = 1, first, rc;
    bool matrix = false, as_json = false;
    const char *metrics = NULL, *path = NULL;
    const struct option_spec specs[] = {
        {"--metric", OPT_STRING, &metrics, 0, 0},
        {"--k", OPT_INT_LIST, &k, 1, INT_MAX},
        {"--segment", OPT_INT, &segment, 1, INT_MAX},
        {"--matrix", OPT_FLAG, &matrix, 0, 0},
        {"--sinks", OPT_INT, &o.sinks, 0, 1 << 30},
        {"--recent", OPT_INT, &o.recent, 0, 1 << 29},
        {"--bootstrap", OPT_INT, &resamples, 1, 1000000},
        {"--seed", OPT_INT, &seed, 0, INT_MAX},
        {"--out", OPT_STRING, &path, 0, 0},
        {"--json", OPT_FLAG, &as_json, 0, 0},
        {0},
    };
    static const int default_k[] = {32, 128};
    struct dumps s = {0};
    struct collect c = {0};
    struct output out = {0};
    char *notes = NULL;
    cJSON *root = NULL;

    if ((rc = options_parse(argc, argv, specs, usage, &first)) >= 0) goto done;
    rc = 2;
    if (first == argc) {
        usage_error(argv[0], "which dump?");
        goto done;
    }
    if (metrics) {
        if (parse_metrics(metrics, &o.metrics)) goto done;
        o.named = o.metrics;
    }
    rc = 1;
    o.k = k.n ? k.v : default_k;
    o.nk = k.n ? k.n : (int)COUNT_OF(default_k);
    o.values = !matrix;
    if (matrix && metrics == NULL) o.metrics &= ~(METRIC_BIT(M12) | METRIC_BIT(M15));
    for (int m = 0; matrix && m < METRICS; m++) {
        if ((o.metrics & METRIC_BIT(m)) == 0 || metric_info(m)->pair) continue;
        rc = usage_error(argv[0], "%s has one value a layer, not a matrix", metric_info(m)->name);
        goto done;
    }
    if (dumps_open(&s, argv + first, argc - first) || collect_run(&c, &s, &o)) goto done;

    if (output_open(&out, path)) goto done;
    notes = xprintf("%s\n%s\n%s", s.about, c.notes,
                    matrix ? "value: metric(i, j), layers 0-based; m8 only where j >= i"
                           : "value of a layer: see okv-analyze rank --help; low, high: 95 % "
                             "percentile bootstrap over samples");
    struct rows rows = {.f = out.f};
    if (as_json) {
        root = cJSON_CreateObject();
        cJSON_AddStringToObject(root, "about", notes);
        rows.json = cJSON_AddArrayToObject(root, "rows");
    } else {
        table_head(out.f, argc, argv, notes);
        fputs(matrix ? "metric\tk\ti\tj\tvalue\n" : "metric\tk\tlayer\tvalue\tlow\thigh\n", out.f);
    }
    for (int m = 0; m < METRICS; m++) {
        if ((c.served & METRIC_BIT(m)) == 0) continue;
        for (int a = 0; a < (m == M8 ? 1 : c.nk); a++) {
            if (matrix)
                put_matrix(&rows, &c, m, a);
            else if (put_layers(&rows, &c, m, a, segment, resamples, (uint64_t)seed))
                goto done;
        }
    }
    if (root) {
        char *text = cJSON_Print(root);
        fprintf(out.f, "%s\n", text);
        cJSON_free(text);
    }
    rc = 0;

done:
    if (output_close(&out, rc)) rc = rc ? rc : 1;
    cJSON_Delete(root);
    free(notes);
    collect_free(&c);
    dumps_close(&s);
    free(k.v);
    return rc;
}
