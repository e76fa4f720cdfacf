/* show.c - okv-analyze show: what a dump holds. */
#include "analyze/cmd.h"
#include "analyze/dumps.h"
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/base/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "Usage: okv-analyze show DUMP... [--samples] [--json]\n"
    "       okv-analyze show --format-table\n"
    "\n"
    "Prints the run that a dump records (model, method, dimensions, command), its fields with\n"
    "shapes and sizes, and its samples.\n"
    "\n"
    "  --samples       also each sample's prompt hash, answers and output\n"
    "  --json          the same as JSON: {dumps: [{path, run, samples: [{..., fields}]}]}\n"
    "  --format-table  the table of all fields of the format, in Markdown\n"
    "\n"
    "Shapes are in the letters S traced steps, L layers, T tokens, R rows of attn (query or kv\n"
    "heads), G kv heads, K entries of the compact form, M filter layers, k selected tokens.\n";

/* The extent of one shape letter. */
static long extent(char letter, const struct dump_run *r, const struct dump_sample_info *i)
{
    switch (letter) {
    case 'S':
        return i->S;
    case 'L':
        return r->L;
    case 'T':
        return i->T;
    case 'H':
        return r->H;
    case 'G':
        return r->G;
    case 'R':
        return i->R;
    case 'K':
        return r->K;
    case 'M':
        return r->M;
    case 'k':
        return i->k;
    case 'B':
        return i->text_bytes;
    default:
        return letter - '0'; /* 2, a pair */
    }
}

/* "[20, 12, 1504]" in new memory, and the number of values. */
static char *shape_text(const char *shape, const struct dump_run *r,
                        const struct dump_sample_info *i, double *values)
{
    char *text = xstrdup("[");
    *values = 1;
    for (const char *c = shape; *c; c++) {
        char *longer = xprintf("%s%s%ld", text, c == shape ? "" : ", ", extent(*c, r, i));
        free(text);
        text = longer;
        *values *= (double)extent(*c, r, i);
    }
    char *closed = xprintf("%s]", text);
    free(text);
    return closed;
}

struct attribute {
    const char *name, *text; /* text NULL: a number */
    double number;
};

/* The run as name and value, in the order they are printed; ends with an empty row. */
static void run_attributes(const struct dump_run *r, struct attribute a[32])
{
    const struct attribute all[] = {
        {"model", r->model, 0},
        {"fingerprint", r->fingerprint, 0},
        {"random_weights", r->random_weights ? "yes" : "no", 0},
        {"dtype", r->dtype, 0},
        {"layers", NULL, r->L},
        {"heads", NULL, r->H},
        {"kv_heads", NULL, r->G},
        {"head_width", NULL, r->D},
        {"hidden_width", NULL, r->E},
        {"vocabulary", NULL, r->V},
        {"method", r->method, 0},
        {"full_layers", NULL, r->full_layers},
        {"backend", r->backend, 0},
        {"score_kind", r->score_kind, 0},
        {"attn_rows", r->attn_rows, 0},
        {"topk_entries", NULL, r->K},
        {"reuse_k", NULL, r->reuse_k},
        {"seed", NULL, (double)r->seed},
        {"version", r->version, 0},
        {"commit", r->commit, 0},
        {"command", r->command, 0},
        {"config", r->config, 0},
        {NULL, NULL, 0},
    };
    memcpy(a, all, sizeof all);
}

/* A text on one line of a table: tabs, line ends and other control bytes become spaces. */
static void put_plain(FILE *f, const char *text)
{
    for (; *text; text++) fputc((unsigned char)*text < 32 || *text == 127 ? ' ' : *text, f);
}

static int show_text(struct dump *d, FILE *f, bool details)
{
    const struct dump_run *r = dump_run(d);
    struct attribute a[32];
    struct stat st;
    const bool sized = stat(dump_path(d), &st) == 0 && S_ISREG(st.st_mode);

    fputs("dump\t", f);
    put_plain(f, dump_path(d));
    if (sized) fprintf(f, " (%.6g MiB)", (double)st.st_size / 1048576);
    fputc('\n', f);
    run_attributes(r, a);
    for (const struct attribute *x = a; x->name; x++) {
        fprintf(f, "%s\t", x->name);
        if (x->text)
            put_plain(f, x->text);
        else
            fprintf(f, "%.0f", x->number);
        fputc('\n', f);
    }
    if (r->M) fputs("filter_layers\t", f);
    for (int m = 0; m < r->M; m++) fprintf(f, "%d%s", r->layers[m], m + 1 < r->M ? "," : "\n");
    fprintf(f, "samples\t%d\n", dump_samples(d));

    fputs("\nsample\ttask\tn_prefill\ttokens\tsteps\tfields\n", f);
    double bytes[DUMP_FIELD_COUNT] = {0};
    char *shape[DUMP_FIELD_COUNT] = {0};
    int rc = -1;
    for (int i = 0; i < dump_samples(d); i++) {
        struct dump_sample_info info;
        if (dump_sample(d, i, &info)) goto done;
        fprintf(f, "%d\t", i);
        put_plain(f, info.task);
        fprintf(f, "\t%d\t%d\t%d\t", info.n_prefill, info.T, info.S);
        bool any = false;
        for (int q = 0; q < DUMP_FIELD_COUNT; q++) {
            if ((info.fields & FIELD_BIT(q)) == 0) continue;
            const struct dump_field_info *field = dump_field_info(q);
            double values;
            char *text = shape_text(field->shape, r, &info, &values);
            const int size = strcmp(field->type, "F16") == 0 ? 2
                             : strcmp(field->type, "U8")     ? 4
                                                             : 1;
            bytes[q] += values * size;
            free(shape[q]);
            shape[q] = text;
            fprintf(f, "%s%s", any ? "," : "", field->name);
            any = true;
        }
        fputc('\n', f);
        if (!details) continue;
        fprintf(f, "\tprompt_hash\t%016llx\n\tanswers\t", (unsigned long long)info.prompt_hash);
        put_plain(f, info.answers);
        fputs("\n\toutput\t", f);
        put_plain(f, info.output);
        fputc('\n', f);
    }
    fputs(
        "\nfield\ttype\tletters\tlast sample\tMiB (all samples, before compression)\tunit\twhat\n",
        f);
    for (int q = 0; q < DUMP_FIELD_COUNT; q++) {
        const struct dump_field_info *field = dump_field_info(q);
        if (shape[q])
            fprintf(f, "%s\t%s\t%s\t%s\t%.6g\t%s\t%s\n", field->name, field->type, field->shape,
                    shape[q], bytes[q] / 1048576, field->unit, field->what);
    }
    rc = 0;

done:
    for (int q = 0; q < DUMP_FIELD_COUNT; q++) free(shape[q]);
    return rc;
}

static int show_json(struct dump *d, cJSON *list)
{
    const struct dump_run *r = dump_run(d);
    struct attribute a[32];
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToArray(list, o);
    cJSON_AddStringToObject(o, "path", dump_path(d));
    cJSON *run = cJSON_AddObjectToObject(o, "run");
    run_attributes(r, a);
    for (const struct attribute *x = a; x->name; x++) {
        if (x->text)
            cJSON_AddStringToObject(run, x->name, x->text);
        else
            cJSON_AddNumberToObject(run, x->name, x->number);
    }
    cJSON_AddItemToObject(run, "filter_layers", cJSON_CreateIntArray(r->layers, r->M));
    cJSON *samples = cJSON_AddArrayToObject(o, "samples");
    for (int i = 0; i < dump_samples(d); i++) {
        struct dump_sample_info info;
        if (dump_sample(d, i, &info)) return -1;
        char hash[20];
        snprintf(hash, sizeof hash, "%016llx", (unsigned long long)info.prompt_hash);
        cJSON *s = cJSON_CreateObject();
        cJSON_AddItemToArray(samples, s);
        cJSON_AddStringToObject(s, "task", info.task);
        cJSON_AddStringToObject(s, "prompt_hash", hash);
        cJSON_AddNumberToObject(s, "n_prefill", info.n_prefill);
        cJSON_AddNumberToObject(s, "tokens", info.T);
        cJSON_AddNumberToObject(s, "steps", info.S);
        cJSON_AddStringToObject(s, "answers", info.answers);
        cJSON_AddStringToObject(s, "output", info.output);
        cJSON *fields = cJSON_AddObjectToObject(s, "fields");
        for (int q = 0; q < DUMP_FIELD_COUNT; q++) {
            if ((info.fields & FIELD_BIT(q)) == 0) continue;
            cJSON *shape = cJSON_AddArrayToObject(fields, dump_field_info(q)->name);
            for (const char *c = dump_field_info(q)->shape; *c; c++)
                cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)extent(*c, r, &info)));
        }
    }
    return 0;
}

int analyze_show(int argc, char **argv)
{
    bool details = false, as_json = false, format = false;
    const struct option_spec specs[] = {
        {"--samples", OPT_FLAG, &details, 0, 0},
        {"--json", OPT_FLAG, &as_json, 0, 0},
        {"--format-table", OPT_FLAG, &format, 0, 0},
        {0},
    };
    struct output out = {0};
    struct dump *d = NULL;
    cJSON *root = NULL, *list = NULL;
    int first, rc = options_parse(argc, argv, specs, usage, &first);

    if (rc >= 0) return rc;
    if (!format && first == argc) return usage_error(argv[0], "which dump?");
    if (format && first < argc) return usage_error(argv[0], "--format-table takes no dump");
    rc = 1;
    if (output_open(&out, NULL)) goto done;
    if (format) dump_format_table(out.f);
    if (as_json) {
        root = cJSON_CreateObject();
        list = cJSON_AddArrayToObject(root, "dumps");
    }
    for (int i = first; i < argc; i++) {
        if ((d = dump_open(argv[i])) == NULL) goto done;
        if (i > first && !as_json) fputc('\n', out.f);
        if (as_json ? show_json(d, list) : show_text(d, out.f, details)) goto done;
        dump_close(d);
        d = NULL;
    }
    if (root) {
        char *text = cJSON_Print(root);
        fprintf(out.f, "%s\n", text);
        cJSON_free(text);
    }
    rc = 0;

done:
    if (output_close(&out, rc)) rc = 1;
    dump_close(d);
    cJSON_Delete(root);
    return rc;
}
