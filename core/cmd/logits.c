/* logits.c - okv logits: write the logits of a teacher-forced pass. */
#include "core/cmd/cmd.h"
#include "core/cmd/common.h"

#include "core/base/base.h"
#include "core/dump/matrix.h"

#include <limits.h>
#include <stdlib.h>

static const char usage[] =
    "Usage: okv logits --model DIR --ids FILE.json --out FILE.h5 [--rows 0,39,150] [OPTIONS]\n"
    "Writes dataset logits [rows, V], float32, of one pass over the given tokens: row p holds the\n"
    "logits after token p. Dynamic RoPE takes the length of the whole list.\n\n" ENGINE_USAGE
    "  --ids FILE      JSON list of token ids, or an object with a list \"ids\"; \"-\" is stdin\n"
    "  --out FILE      HDF5\n"
    "  --rows A,B,...  only these positions, in this order [all]\n";

#define ROWS_AT_ONCE 128 /* rows of a pass: V logits each wait in memory */

static int write_rows(struct session *s, const int *ids, int n, const struct int_list *rows,
                      struct matrix_writer *out)
{
    const int V = session_model(s)->config.V;
    session_start(s, n);
    for (int i = 0; i < n; i += ROWS_AT_ONCE) {
        const int count = n - i < ROWS_AT_ONCE ? n - i : ROWS_AT_ONCE;
        bool wanted = rows->v == NULL;
        for (int r = 0; r < rows->n; r++)
            wanted = wanted || (rows->v[r] >= i && rows->v[r] < i + count);
        const float *logits;
        if (forward(s, ids + i, count, true, NULL, NULL, wanted ? LOGITS_ALL : LOGITS_NONE,
                    &logits))
            return -1;
        for (int r = 0; wanted && r < (rows->v ? rows->n : count); r++) {
            const int p = rows->v ? rows->v[r] - i : r;
            if (p < 0 || p >= count) continue;
            if (matrix_put(out, rows->v ? r : i + r, logits + (size_t)p * (size_t)V)) return -1;
        }
    }
    return 0;
}

int cmd_logits(int argc, char **argv)
{
    struct engine_args args = {0};
    const char *ids_file = NULL, *path = NULL;
    struct int_list rows = {0};
    int first, rc, status = 1, *ids = NULL, n = 0;
    const struct option_spec options[] = {
        ENGINE_OPTIONS(args),
        {"--ids", OPT_STRING, &ids_file, 0, 0},
        {"--out", OPT_STRING, &path, 0, 0},
        {"--rows", OPT_INT_LIST, &rows, 0, INT_MAX},
        {0},
    };
    struct engine e = {0};
    struct session *s = NULL;
    struct matrix_writer *out = NULL;
    if ((status = options_parse(argc, argv, options, usage, &first)) >= 0) goto done;
    if (first < argc) {
        status = usage_error(argv[0], "unexpected argument \"%s\"", argv[first]);
        goto done;
    }
    if (ids_file == NULL || path == NULL) {
        status = usage_error(argv[0], "--ids FILE.json and --out FILE.h5 are needed");
        goto done;
    }
    tracer_not_here("okv logits decodes no tokens of a text");
    if ((status = engine_open(&e, argv[0], &args)) != 0) goto done;
    status = 1;
    if (e.config.method != METHOD_DENSE) {
        fail("%s: the logits of a teacher-forced pass are dense: leave --config out", args.config);
        goto done;
    }
    if (engine_ids(&e, ids_file, &ids, &n)) goto done;
    for (int i = 0; i < rows.n; i++)
        if (rows.v[i] >= n) {
            fail("--rows: row %d: %s has the positions 0 to %d", rows.v[i], ids_file, n - 1);
            goto done;
        }
    if ((s = engine_session(&e, NULL, n, 0)) == NULL) goto done;
    if ((out = matrix_create(path, "logits", rows.v ? rows.n : n, e.model.config.V)) == NULL)
        goto done;
    rc = write_rows(s, ids, n, &rows, out);
    if (matrix_close(out, rc) == 0) status = 0;

done:
    free(ids);
    free(rows.v);
    session_close(s);
    engine_close(&e);
    return status;
}
