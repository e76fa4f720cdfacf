/* export.c - okv-analyze export: a choice of layers in the form other programs read. */
#include "analyze/cmd.h"
#include "analyze/search.h"
#include "analyze/sets.h"
#include "core/base/json.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze export DUMP... --format FORMAT [OPTIONS]\n"
    "\n"
    "Writes a choice of filter layers in the form another program reads. The choice is that\n"
    "of okv-analyze search with the same options, or --layers and --wait by hand.\n"
    "  config              JSON for okv --config: OmniKV with do_select_layers,\n"
    "                      num_wait_load_layers and num_of_selected_tokens = --k\n"
    "  index_topk_pattern  one line of L letters for sparse-attention engines: F where a layer\n"
    "                      is full and selects, S where it shares the last F's selection\n"
    "  head_map            .npy file, int32 [L, G] (Kascade): the kv head of the nearest\n"
    "                      filter layer whose top k serves kv head g best by M2; its own\n"
    "                      number where the layer is full. Needs the field attn\n"
    "\n"
    "  --layers F,...    filter layers, 0-based, ascending; no search\n" SEARCH_USAGE
    "  --out FILE        write it there\n";

static int put_config(FILE *f, const struct choice *x, const struct dump_run *run, int k)
{
    cJSON *o = cJSON_CreateObject();
    char *list = layer_list(x->filter, x->n);
    if (run->model[0]) cJSON_AddStringToObject(o, "model_name", run->model);
    cJSON_AddStringToObject(o, "model_cls", "multi");
    cJSON_AddStringToObject(o, "cache_cls", "multi");
    cJSON_AddStringToObject(o, "do_select_layers", list);
    cJSON_AddNumberToObject(o, "num_wait_load_layers", x->wait);
    cJSON_AddNumberToObject(o, "num_of_selected_tokens", k);
    cJSON_AddStringToObject(o, "selector_cls", "last");
    cJSON_AddBoolToObject(o, "real_offload", false);
    cJSON_AddBoolToObject(o, "dense_more", true);
    char *text = cJSON_Print(o);
    fprintf(f, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(o);
    free(list);
    return 0;
}

/* anchor[l]: the filter layer that serves layer l, -1 where it is full. */
static int put_pattern(FILE *f, const int *anchor, int L)
{
    for (int l = 0; l < L; l++) fputc(anchor[l] < 0 ? 'F' : 'S', f);
    fputc('\n', f);
    return 0;
}

/* Source: Kascade's head map: argmax over h' of S(anchor(l), l)[h', h], lowest on ties. */
static int put_head_map(FILE *f, const struct dumps *s, const int *anchor, int k)
{
    const int L = s->run->L, G = s->run->G;
    const struct collect_options o = {
        .metrics = METRIC_BIT(M2), .named = METRIC_BIT(M2), .k = &k, .nk = 1};
    struct collect c = {0};
    int rc = -1;
    for (int i = 0; i < s->samples; i++) {
        struct dump_sample_info info;
        if (dumps_sample(s, i, FIELD_BIT(DUMP_ATTN), &info, NULL) == NULL) return -1;
    }
    if (collect_run(&c, s, &o)) goto done;
    char head[256];
    int n = snprintf(head, sizeof head,
                     "{'descr': '<i4', 'fortran_order': False, 'shape': (%d, %d), }", L, G);
    while ((10 + n + 1) % 64) head[n++] = ' '; /* the format aligns the data to 64 bytes */
    head[n++] = '\n';
    fwrite("\x93NUMPY\x01\x00", 1, 8, f);
    fputc(n & 255, f);
    fputc(n >> 8, f);
    fwrite(head, 1, (size_t)n, f);
    for (int l = 0; l < L; l++) {
        for (int g = 0; g < G; g++) {
            int best = g;
            if (anchor[l] >= 0) {
                const size_t pair = (size_t)anchor[l] * L + l;
                best = collect_best_head(collect_heads(&c, 0) + pair * G * G, G, g);
            }
            for (int b = 0; b < 4; b++) fputc(best >> 8 * b & 255, f); /* little-endian */
        }
    }
    rc = 0;

done:
    collect_free(&c);
    return rc;
}

int analyze_export(int argc, char **argv)
{
    static const char *const formats[] = {"config", "index_topk_pattern", "head_map", NULL};
    struct search_options o = SEARCH_DEFAULTS;
    struct int_list layers = {0};
    const char *path = NULL, *format = NULL;
    const struct option_spec specs[] = {
        SEARCH_SPECS(o),
        {"--layers", OPT_INT_LIST, &layers, 0, INT_MAX},
        {"--format", OPT_STRING, &format, 0, 0},
        {"--out", OPT_STRING, &path, 0, 0},
        {0},
    };
    struct dumps s = {0};
    struct search_result r = {0};
    struct output out = {0};
    struct choice choice = {0};
    int *anchor = NULL;
    int first, rc = options_parse(argc, argv, specs, usage, &first), which = 0;

    if (rc >= 0) goto done;
    rc = 2;
    while (format && formats[which] && strcmp(formats[which], format) != 0) which++;
    if (first == argc || format == NULL || formats[which] == NULL) {
        usage_error(argv[0], first == argc ? "which dump?"
                                           : "--format is one of config, index_topk_pattern, "
                                             "head_map");
        goto done;
    }
    rc = 1;
    if (dumps_open(&s, argv + first, argc - first)) goto done;
    const int L = s.run->L;
    if (layers.n) {
        if (sets_check_layers("--layers", layers.v, layers.n, L)) goto done;
        choice = (struct choice){.filter = layers.v, .n = layers.n, .wait = o.wait};
    } else {
        if (search_run(&r, &s, &o)) goto done;
        choice = *r.pick;
        char *list = layer_list(choice.filter, choice.n);
        note("layers %s, wait %d: %s", list, choice.wait, r.rule);
        free(list);
    }
    anchor = xmalloc((size_t)L * sizeof *anchor);
    sets_nearest(anchor, L, choice.filter, choice.n, choice.wait);
    if (output_open(&out, path)) goto done;
    rc = which == 0   ? put_config(out.f, &choice, s.run, o.k)
         : which == 1 ? put_pattern(out.f, anchor, L)
                      : put_head_map(out.f, &s, anchor, o.k);
    if (rc) rc = 1;

done:
    if (output_close(&out, rc)) rc = rc ? rc : 1;
    free(anchor);
    search_free(&r);
    dumps_close(&s);
    free(layers.v);
    return rc;
}
