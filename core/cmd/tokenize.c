/* tokenize.c - okv tokenize: text on stdin, token ids on stdout. */
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/base/file.h"
#include "core/cmd/cmd.h"
#include "core/model/tokenizer.h"

#include <stdlib.h>

static const char usage[] =
    "Usage: okv tokenize --model DIR [--special] < TEXT\n"
    "Prints the token ids of the text on stdin as one JSON list. Special tokens\n"
    "written out in the text are recognised.\n"
    "  --model DIR  a Hugging Face checkpoint; only its tokenizer files are read\n"
    "  --special    also add what the tokenizer's post-processor adds, such as BOS\n";

int cmd_tokenize(int argc, char **argv)
{
    const char *model = NULL;
    bool special = false;
    struct tokenizer *t = NULL;
    struct output out = {0};
    char *text = NULL;
    int *ids = NULL, n = 0, first, rc = -1;
    size_t size;

    const struct option_spec options[] = {
        {"--model", OPT_STRING, &model, 0, 0}, {"--special", OPT_FLAG, &special, 0, 0}, {0}};
    const int left = options_parse(argc, argv, options, usage, &first);
    if (left >= 0) return left;
    if (model == NULL) return usage_error(argv[0], "--model DIR is needed");
    if (first < argc) return usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);

    if ((t = tokenizer_load(model)) == NULL) goto done;
    if ((text = file_read("-", &size)) == NULL) goto done;
    if (tokenizer_encode(t, text, size, special, &ids, &n)) goto done;
    if (output_open(&out, NULL)) goto done;
    fputc('[', out.f);
    for (int i = 0; i < n; i++) fprintf(out.f, "%s%d", i ? ", " : "", ids[i]);
    fputs("]\n", out.f);
    rc = 0;

done:
    rc = output_close(&out, rc);
    free(ids);
    free(text);
    tokenizer_free(t);
    return rc ? 1 : 0;
}
