/* sparsity.c - okv-analyze sparsity: attention held by each layer's own top k. */
#include "analyze/cmd.h"
#include "analyze/dumps.h"
#include "analyze/measure.h"
#include "core/base/command.h"

#include <limits.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: okv-analyze sparsity DUMP... [OPTIONS]\n"
    "\n"
    "How few tokens hold a layer's attention? The weight on its own top k by recorded mass,\n"
    "for every layer and k: an upper bound for any selection of k tokens (M12).\n"
    "\n"
    "  --k K,...     tokens [1,4,16,32,64,128,256,512,1024]\n"
    "  --by HOW      layer, or head: every row of attn apart [layer]\n"
    "  --out FILE    write the table there\n"
    "\n"
    "Columns: layer, [head,] k, mass (attention weight, of all attention of the step), share\n"
    "(of the weight on all candidates), mean over steps, then samples. Rows of attn that are\n"
    "summed over a kv head's query heads are divided by their number. Needs mass, or attn.\n";

int analyze_sparsity(int argc, char **argv)
{
    static const int default_k[] = {1, 4, 16, 32, 64, 128, 256, 512, 1024};
    struct int_list k = {0};
    const char *path = NULL, *by = "layer";
    const struct option_spec specs[] = {
        {"--k", OPT_INT_LIST, &k, 1, INT_MAX},
        {"--by", OPT_STRING, &by, 0, 0},
        {"--out", OPT_STRING, &path, 0, 0},
        {0},
    };
    struct dumps s = {0};
    struct output out = {0};
    struct topk_scratch *scratch = NULL;
    float *row = NULL;
    double *mass = NULL; /* [2, rows, nk]: weight, share; the sample's, then all */
    char *notes = NULL;
    size_t row_room = 0;
    int first, rc, threads = omp_get_max_threads(), samples = 0;

    if ((rc = options_parse(argc, argv, specs, usage, &first)) >= 0) goto done;
    rc = 2;
    const bool heads = strcmp(by, "head") == 0;
    if (first == argc) {
        usage_error(argv[0], "which dump?");
        goto done;
    }
    if (!heads && strcmp(by, "layer") != 0) {
        usage_error(argv[0], "--by: expected layer or head, found \"%s\"", by);
        goto done;
    }
    rc = 1;
    if (dumps_open(&s, argv + first, argc - first)) goto done;
    const int *ks = k.n ? k.v : default_k, nk = k.n ? k.n : (int)COUNT_OF(default_k);
    const int L = s.run->L, R = heads ? dump_rows_of(s.run) : 1, rows = L * R;
    const bool grouped = heads && strcmp(s.run->attn_rows, "kv_head") == 0;
    const double scale = grouped ? (double)s.run->G / s.run->H : 1;
    const size_t cells = (size_t)rows * nk;
    int widest = 0;
    for (int a = 0; a < nk; a++) widest = ks[a] > widest ? ks[a] : widest;
    mass = xcalloc(4 * cells, sizeof *mass);
    scratch = xcalloc((size_t)threads, sizeof *scratch);

    for (int i = 0; i < s.samples; i++) {
        struct dump_sample_info info;
        int index;
        const enum dump_field field = heads ? DUMP_ATTN : DUMP_MASS;
        struct dump *d = dumps_sample(&s, i, FIELD_BIT(field), &info, &index);
        if (d == NULL) goto done;
        const size_t room = (size_t)rows * info.T;
        if (room > row_room) {
            free(row);
            row_room = 0;
            if ((row = dumps_rows((size_t)rows, info.T)) == NULL) goto done;
            row_room = room;
        }
        for (int step = 0; step < info.S; step++) {
            if (dump_rows(d, index, field, step, row)) goto done;
            const int cap = widest < info.n_prefill ? widest : info.n_prefill;
#pragma omp parallel for schedule(dynamic)
            for (int r = 0; r < rows; r++) {
                const float *A = row + (size_t)r * info.T;
                int *set = xmalloc((size_t)cap * sizeof *set);
                const double total = measure_sum(A, info.n_prefill);
                for (int a = 0; a < nk; a++) {
                    int m =
                        measure_topk(A, info.n_prefill, ks[a], set, &scratch[omp_get_thread_num()]);
                    double held = measure_gather(A, set, m);
                    mass[(size_t)r * nk + a] += held * scale;
                    mass[cells + (size_t)r * nk + a] += total > 0 ? held / total : 1;
                }
                free(set);
            }
        }
        for (size_t p = 0; p < 2 * cells; p++) {
            if (info.S) mass[2 * cells + p] += mass[p] / info.S;
            mass[p] = 0;
        }
        samples += info.S > 0;
    }
    if (samples == 0) {
        fail("%s: no sample has a step", argv[first]);
        goto done;
    }
    if (output_open(&out, path)) goto done;
    notes = xprintf("%s\nmass: attention weight on the own top k candidates by mass%s; share: of "
                    "the weight on all candidates; mean over steps, then samples; k in tokens",
                    s.about, heads ? ", by row of attn" : ", mean over heads");
    table_head(out.f, argc, argv, notes);
    fputs(heads ? "layer\thead\tk\tmass\tshare\n" : "layer\tk\tmass\tshare\n", out.f);
    for (int r = 0; r < rows; r++) {
        for (int a = 0; a < nk; a++) {
            const double *v = mass + 2 * cells + (size_t)r * nk + a;
            fprintf(out.f, "%d\t", r / R);
            if (heads) fprintf(out.f, "%d\t", r % R);
            fprintf(out.f, "%d\t%.9g\t%.9g\n", ks[a], v[0] / samples, v[cells] / samples);
        }
    }
    rc = 0;

done:
    if (output_close(&out, rc)) rc = rc ? rc : 1;
    for (int t = 0; scratch && t < threads; t++) topk_scratch_free(&scratch[t]);
    free(scratch);
    free(row);
    free(mass);
    free(notes);
    dumps_close(&s);
    free(k.v);
    return rc;
}
