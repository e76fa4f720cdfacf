/* test_analyze.c - okv-analyze's subcommands on a dump small enough to work out by hand.
 *
 * Three layers look at six candidates with these weights (of sum 1; the recorded score is their
 * logarithm, the recorded mass 0.8 of them, the rest is on decoded tokens):
 *     layer 0, step 0: .40 .30 .10 .10 .05 .05    top 2: 0 1
 *     layer 0, step 1: .05 .05 .10 .10 .30 .40    top 2: 4 5
 *     layer 1        : .05 .40 .30 .10 .10 .05    top 2: 1 2
 *     layer 2        : .10 .35 .35 .10 .05 .05    top 2: 1 2 by a tie
 * Sample 0 has both steps, sample 1 only the first. Scores are stored as 4-byte floats, so a weight
 * comes back within 2^-22; tables print nine digits: 1e-6 holds them all.
 */
#include "analyze/cmd.h"
#include "analyze/collect.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/dump/dump_write.h"
#include "tests/check.h"

#include <math.h>
#include <omp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { L = 3, N = 6 };

static const float weight[4][N] = {{.40f, .30f, .10f, .10f, .05f, .05f},
                                   {.05f, .05f, .10f, .10f, .30f, .40f},
                                   {.05f, .40f, .30f, .10f, .10f, .05f},
                                   {.10f, .35f, .35f, .10f, .05f, .05f}};

static const float *weights(int layer, int step)
{
    return weight[layer == 0 ? step : layer + 1];
}

/* Writes the dump at PATH; FIELDS are bits of enum dump_field. A sparse one has filter layer 0 and
 * one wait layer, and used the tokens 0 and 1. */
static int write_dump(const char *path, uint32_t fields, bool sparse)
{
    static const int layers[1] = {0};
    const struct dump_run run = {.model = "hand",
                                 .fingerprint = "0123",
                                 .command = "test",
                                 .config = "{}",
                                 .method = sparse ? "omnikv" : "dense",
                                 .dtype = "f32",
                                 .backend = "cpu",
                                 .score_kind = "last",
                                 .attn_rows = "head",
                                 .version = "0",
                                 .commit = "0",
                                 .L = L,
                                 .H = 2,
                                 .G = 2,
                                 .D = 4,
                                 .E = 8,
                                 .V = 16,
                                 .K = 4,
                                 .reuse_k = 2,
                                 .M = sparse ? 1 : 0,
                                 .layers = layers,
                                 .full_layers = sparse ? 2 : L};
    const struct dump_options o = {.fields = fields, .f32 = true};
    struct dump_writer *w = dump_create(path, &run, &o);
    int rc = w ? 0 : -1;
    for (int s = 0; rc == 0 && s < 2; s++) {
        const int S = 2 - s, T = N + S;
        const struct dump_sample about = {.task = "hand", .prompt_hash = 7, .n_prefill = N};
        rc = dump_sample_begin(w, s, &about, T, S, sparse ? 2 : 0);
        for (int step = 0; rc == 0 && step < S; step++) {
            for (int l = 0; l < L; l++) {
                float score[N], mass[N + 2] = {0}, swapped[N + 2] = {0};
                for (int t = 0; t < N; t++) {
                    score[t] = logf(weights(l, step)[t]);
                    mass[t] = 0.8f * weights(l, step)[t];
                    swapped[t] = 0.8f * weights(L - 1 - l, step)[t];
                }
                mass[N] = swapped[N] = 0.2f;
                if (fields >> DUMP_SCORE & 1) rc |= dump_put(w, DUMP_SCORE, step, l, 0, score, N);
                if (fields >> DUMP_MASS & 1) rc |= dump_put(w, DUMP_MASS, step, l, 0, mass, T);
                if (fields >> DUMP_ATTN & 1) { /* head 0 as the layer, head 1 as its mirror */
                    rc |= dump_put(w, DUMP_ATTN, step, l, 0, mass, T);
                    rc |= dump_put(w, DUMP_ATTN, step, l, 1, swapped, T);
                }
                const int best[4][4] = {{0, 1, 2, 3}, {5, 4, 2, 3}, {1, 2, 3, 4}, {1, 2, 0, 3}};
                if (fields >> DUMP_TOPK_IDX & 1)
                    rc |= dump_put_int(w, DUMP_TOPK_IDX, step, l, best[l == 0 ? step : l + 1], 4);
                float cosine[2 * L] = {0, 1, 0, .5f, 0, .25f};
                for (int j = 0; j < 2 * l; j++) cosine[j] = NAN;
                if (fields >> DUMP_REUSE_ERROR & 1)
                    rc |= dump_put(w, DUMP_REUSE_ERROR, step, 0, l, cosine, 2 * L);
            }
            const float importance[L] = {.5f, .25f, .125f};
            if (fields >> DUMP_IMPORTANCE & 1)
                rc |= dump_put(w, DUMP_IMPORTANCE, step, 0, 0, importance, L);
            const int used[2] = {0, 1};
            if (sparse) rc |= dump_put_int(w, DUMP_SELECTED_IDX, step, 0, used, 2);
        }
        /* token 0 and 1 share a character; then HTML's own, a control byte, a byte of no text */
        static const uint8_t text[] = "\xc3\xa9<&\x1b\xff"
                                      "xy";
        const int tokens[N + 2] = {1, 2, 3, 4, 5, 6, 7, 8}, end[N + 2] = {1, 2, 3, 4, 5, 6, 7, 8};
        const int position[2] = {N, N + 1};
        const float nll[2] = {0, 0};
        const struct dump_sample_end done = {.T = T,
                                             .S = S,
                                             .tokens = tokens,
                                             .text = text,
                                             .text_end = end,
                                             .step_pos = position,
                                             .step_nll = nll,
                                             .output = "",
                                             .answers = ""};
        if (rc == 0) rc = dump_sample_finish(w, &done);
    }
    return dump_finish(w, rc);
}

#define BIT(f) (1u << DUMP_##f)
#define EVERY (BIT(MASS) | BIT(SCORE) | BIT(TOPK_IDX) | BIT(IMPORTANCE) | BIT(REUSE_ERROR))

/* Runs one subcommand; stdout goes to the file INTO when given. The list ends with NULL. */
static int run(const char *into, int (*command)(int, char **), ...)
{
    char *argv[24];
    int argc = 0;
    va_list args;
    va_start(args, command);
    while ((argv[argc] = va_arg(args, char *)) != NULL) argc++;
    va_end(args);
    fflush(stdout);
    const int keep = dup(1);
    FILE *f = fopen(into ? into : "/dev/null", "w");
    if (f == NULL || keep < 0 || dup2(fileno(f), 1) < 0) return -1;
    const int rc = command(argc, argv);
    fflush(stdout);
    dup2(keep, 1);
    close(keep);
    fclose(f);
    return rc;
}

static char *text_of(const char *path)
{
    size_t size;
    char *text = file_read(path, &size);
    return text ? text : xstrdup("");
}

/* The number after PREFIX and a tab at the start of a line of the file, NaN without such a line;
 * COLUMN more tabs are passed over. */
static double cell(const char *path, const char *prefix, int column)
{
    char *text = text_of(path), *at = text;
    double v = NAN;
    for (; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        if (strncmp(at, prefix, strlen(prefix)) != 0 || at[strlen(prefix)] != '\t') continue;
        const char *p = at + strlen(prefix) + 1;
        while (column-- > 0) p += strcspn(p, "\t") + 1;
        v = strtod(p, NULL);
        break;
    }
    free(text);
    return v;
}

static bool has(const char *path, const char *what)
{
    char *text = text_of(path);
    const bool found = strstr(text, what) != NULL;
    free(text);
    return found;
}

struct want {
    const char *prefix;
    double value;
};

static void check_cells(const char *path, const char *what, const struct want *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double got = cell(path, want[i].prefix, 0);
        CHECK(fabs(got - want[i].value) < 1e-6, "%s: %s: %.9g, want %.9g", what, want[i].prefix,
              got, want[i].value);
    }
}

static void matrices_by_hand(const char *dump)
{
    const char *out = check_scratch("matrix.tsv");
    CHECK(run(out, analyze_rank, "rank", "--matrix", "--k", "2,9", dump, NULL) == 0, "rank");
    static const struct want want[] = {
        {"m1\t2\t0\t0", .7},
        {"m1\t2\t0\t1", ((.45 + .15) / 2 + .45) / 2},
        {"m1\t2\t0\t2", ((.45 + .10) / 2 + .45) / 2},
        {"m1\t2\t1\t0", ((.4 + .15) / 2 + .4) / 2},
        {"m1\t2\t1\t2", .7},
        {"m1\t9\t0\t1", 1},
        {"m2\t2\t0\t1", ((.45 + .15) / 2 + .45) / 2 / .7},
        {"m2\t2\t2\t1", 1},
        {"m2w\t2\t2\t1", .25},
        {"m2w\t2\t0\t2", ((.45 + .10) / 2 + .45) / 2 / .7 * .125},
        {"m4\t2\t0\t1", .75},
        {"m4\t2\t1\t2", 2},
        {"m4\t9\t0\t1", 6},
        {"m7\t2\t0\t1", .375},
        {"m7\t9\t0\t1", 1},
        {"m8\t2\t0\t2", .25},
        /* of .8 on candidates; .45, .15 and .45 of it are kept */
        {"m11\t2\t0\t1", .2 + .8 * ((.45 + .15) / 2 + .45) / 2},
        {"m11\t2\t2\t2", .2 + .8 * .7},
        {"m11\t9\t2\t0", 1},
        {"m11w\t2\t0\t1", (.2 + .8 * ((.45 + .15) / 2 + .45) / 2) * .25},
        {"m11w\t9\t0\t2", .125},
    };
    check_cells(out, "matrix", want, COUNT_OF(want));
    CHECK(!has(out, "\nm12") && isnan(cell(out, "m8\t2\t2\t0", 0)), "what has no matrix");
    CHECK(has(out, "# m1x left out") && !has(out, "\nm1x"), "36 tokens are left out of 6");
}

static void layers_by_hand(const char *dump)
{
    const char *out = check_scratch("rank.tsv");
    CHECK(run(out, analyze_rank, "rank", "--k", "2", "--segment", "2", dump, NULL) == 0, "rank");
    static const struct want want[] = {
        {"m1\t2\t0", (.7 + .375) / 2},
        {"m1\t2\t1", .7},
        {"m1\t2\t2", .7},
        {"m12\t2\t0", .56},
        {"m15\t2\t0", 0},
        {"m15\t2\t1", 1},
        {"m8\t2\t0", .75},
        {"m8\t2\t2", .25},
        {"m11\t2\t0", (.76 + .5) / 2},
        {"m11w\t2\t0", (.5 * .76 + .25 * .5) / .75},
        {"m11w\t2\t2", .76},
    };
    check_cells(out, "rank", want, COUNT_OF(want));
    /* The samples' own values are .7 + .3 and .7 + .45 over 2; two draws reach both ends. */
    CHECK(fabs(cell(out, "m1\t2\t0", 1) - .5) < 1e-6, "low %g", cell(out, "m1\t2\t0", 1));
    CHECK(fabs(cell(out, "m1\t2\t0", 2) - .575) < 1e-6, "high %g", cell(out, "m1\t2\t0", 2));

    CHECK(run(out, analyze_rank, "rank", "--metric", "m1x", "--sinks", "1", "--recent", "1", "--k",
              "1", "--segment", "2", dump, NULL) == 0,
          "m1x");
    /* Candidates 1 .. 4: T(0) is {1}, then {4}; layer 1 has .4 and .1 of .9 there. */
    CHECK(fabs(cell(out, "m1x\t1\t0", 0) - ((.5 / .9) / 2 + .4 / .9) / 2) < 1e-6, "m1x: %g",
          cell(out, "m1x\t1\t0", 0));
    CHECK(fabs(cell(out, "m1x\t1\t2", 0) - .35 / .85) < 1e-6, "m1x of the last layer: %g",
          cell(out, "m1x\t1\t2", 0));
}

static void heads_are_pooled_after_the_mean(void)
{
    const char *dump = check_scratch("attn.h5"), *out = check_scratch("attn.tsv");
    CHECK(write_dump(dump, BIT(ATTN) | BIT(SCORE), false) == 0, "written");
    CHECK(run(out, analyze_rank, "rank", "--matrix", "--metric", "m2", "--k", "2", dump, NULL) == 0,
          "rank");
    /* Layer 0 as source: head 0 holds as before, head 1 (layer 2's weights) always {1, 2}. For the
     * targets of layer 1 (both heads alike) head 1 is the better one, at 1. For layer 2, head 0
     * wants layer 2's weights: 1 by head 1; head 1 wants layer 0's: 1 by head 0. */
    static const struct want want[] = {{"m2\t2\t0\t1", 1},
                                       {"m2\t2\t0\t2", 1},
                                       {"m2\t2\t1\t0", (((.4 + .15) / 2 + .4) / 2 / .7 + 1) / 2}};
    check_cells(out, "attn", want, COUNT_OF(want));
    CHECK(run(out, analyze_export, "export", "--format", "head_map", "--layers", "0", "--k", "2",
              "--out", out, dump, NULL) == 0,
          "head map");
    size_t size;
    char *npy = file_read(out, &size);
    CHECK(npy && size == 128 + 4 * L * 2 && memcmp(npy, "\x93NUMPY\x01", 7) == 0, "a .npy of %zu",
          size);
    static const unsigned char map[L * 2] = {0, 1, 1, 1, 1, 0};
    for (int i = 0; npy && size == 128 + 4 * L * 2 && i < L * 2; i++)
        CHECK((unsigned char)npy[128 + 4 * i] == map[i], "head_map[%d, %d] = %d, want %d", i / 2,
              i % 2, npy[128 + 4 * i], map[i]);
    free(npy);
    const char *both = check_scratch("both.h5");
    CHECK(write_dump(both, BIT(ATTN) | BIT(SCORE) | BIT(MASS), false) == 0, "written");
    CHECK(run(out, analyze_rank, "rank", "--matrix", "--k", "2", both, NULL) == 0 &&
              fabs(cell(out, "m2\t2\t0\t1", 0) - 1) < 1e-6 &&
              fabs(cell(out, "m11\t2\t0\t1", 0) - .5) < 1e-6 &&
              fabs(cell(out, "m7\t2\t0\t1", 0) - .375) < 1e-6,
          "m2 by attn, m11 by mass");
    CHECK(run(out, analyze_overlap, "overlap", "--by", "head", "--layer", "0", "--k", "2", dump,
              NULL) == 0,
          "overlap");
    CHECK(fabs(cell(out, "0\t1", 0) - ((.5 + 0) / 2 + .5) / 2) < 1e-6, "heads: %g",
          cell(out, "0\t1", 0));
}

static void fields_decide_what_is_served(const char *dump)
{
    const char *compact = check_scratch("compact.h5"), *out = check_scratch("compact.tsv");
    CHECK(write_dump(compact, BIT(TOPK_IDX), false) == 0, "written");
    CHECK(run(out, analyze_rank, "rank", "--matrix", "--k", "2", compact, NULL) == 0, "rank");
    CHECK(fabs(cell(out, "m4\t2\t0\t1", 0) - .75) < 1e-6 && !has(out, "\nm1\t"), "from topk_idx");
    CHECK(has(out, "# m1 left out: needs score"), "the head says what is missing");
    const char *weighed = check_scratch("weighed.h5");
    CHECK(write_dump(weighed, BIT(TOPK_IDX) | BIT(MASS) | BIT(IMPORTANCE), false) == 0, "written");
    CHECK(run(out, analyze_rank, "rank", "--matrix", "--k", "2", weighed, NULL) == 0 &&
              fabs(cell(out, "m11\t2\t0\t1", 0) - .5) < 1e-6,
          "m11 with the sets of topk_idx: %g", cell(out, "m11\t2\t0\t1", 0));
    mute_failures(true);
    CHECK(run(NULL, analyze_rank, "rank", "--k", "5", compact, NULL) == 1, "k above K");
    CHECK(run(NULL, analyze_rank, "rank", "--metric", "m1", compact, NULL) == 1, "m1 by name");
    CHECK(strstr(last_failure(), "score") != NULL, "%s", last_failure());
    CHECK(run(NULL, analyze_rank, "rank", "--metric", "m9", dump, NULL) == 2, "m9");
    CHECK(run(NULL, analyze_rank, "rank", NULL) == 2, "no dump");
    CHECK(run(NULL, analyze_rank, "rank", "--matrix", "--metric", "m12", dump, NULL) == 2, "m12");
    CHECK(run(NULL, analyze_rank, "rank", "nowhere.h5", NULL) == 1, "no such file");
    CHECK(run(NULL, analyze_search, "search", "--filters", "4", dump, NULL) == 1, "4 of 3 layers");
    CHECK(run(NULL, analyze_search, "search", "--filters", "3", "--max-full", "2", dump, NULL) == 1,
          "3 filters in 2 layers");
    CHECK(run(NULL, analyze_search, "search", "--metric", "m12", dump, NULL) == 1, "m12");
    CHECK(run(NULL, analyze_missing, "missing", dump, NULL) == 1, "a dense run selects nothing");
    CHECK(run(NULL, analyze_hits, "hits", "--filters", "2,1", dump, NULL) == 1, "descending");
    CHECK(run(NULL, analyze_export, "export", "--format", "x", dump, NULL) == 2, "format x");
    CHECK(run(NULL, analyze_tokens, "tokens", "--layer", "3", dump, NULL) == 1, "layer 3 of 3");
    mute_failures(false);
}

/* In a process of its own, because the standard output does not recover from it. */
static void a_full_disk_fails_the_run(const char *dump)
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        mute_failures(true);
        omp_set_num_threads(1); /* a forked process has no other threads to use */
        _exit(run("/dev/full", analyze_show, "show", dump, NULL));
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "fork");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %x", (unsigned)status);
}

static void searches_end_with_the_set(const char *dump)
{
    const char *out = check_scratch("search.txt"), *table = check_scratch("search.tsv");
    mute_failures(true); /* the note of what was picked */
    CHECK(run(out, analyze_search, "search", "--k", "2", "--metric", "m1", "--max-full", "2",
              "--out", table, dump, NULL) == 0,
          "search");
    char *text = text_of(out);
    /* 0 alone: 1 + .375 + .3625; {0, 1}: 2 + .7; {1} costs 2 as well and is as good. */
    CHECK(strcmp(text, "do_select_layers: 0,1\nnum_wait_load_layers: 0\n") == 0, "%s", text);
    free(text);
    CHECK(fabs(cell(table, "1", 0) - 1.7375 / 3) < 1e-6, "%g", cell(table, "1", 0));
    CHECK(fabs(cell(table, "2", 0) - 2.7 / 3) < 1e-6, "%g", cell(table, "2", 0));
    for (const char *const *a =
             (const char *const[]){"uniform", "peaks", "greedy", "dp", "exhaustive", "all", NULL};
         *a; a++) {
        CHECK(run(out, analyze_search, "search", "--k", "2", "--filters", "2", "--algorithm", *a,
                  "--wait", "1", dump, NULL) == 0,
              "%s", *a);
        CHECK(has(out, "do_select_layers: ") && has(out, "\nnum_wait_load_layers: 1\n"), "%s", *a);
    }
    /* {0} costs 1: layers 1 and 2 keep .2 + .8 x .375 and .2 + .8 x .3625 of their attention. */
    CHECK(run(out, analyze_search, "search", "--k", "2", dump, NULL) == 0 &&
              has(out, "metric m11w, the default where importance was traced, k = 2") &&
              fabs(cell(out, "1", 0) - (.5 + .25 * .5 + .125 * .49) / .875) < 1e-6,
          "the default is m11w: %g", cell(out, "1", 0));
    CHECK(run(out, analyze_search, "search", "--k", "2", "--metric", "m11", dump, NULL) == 0 &&
              fabs(cell(out, "1", 0) - (1 + .5 + .49) / 3) < 1e-6,
          "m11 counts every layer alike: %g", cell(out, "1", 0));
    /* m8 was traced at k = 2: {0} has cosines 1, .5, .25; at another k m1 takes its place. */
    const char *plain = check_scratch("plain.h5");
    CHECK(write_dump(plain, EVERY & ~BIT(IMPORTANCE), false) == 0, "written");
    CHECK(run(out, analyze_search, "search", "--k", "2", plain, NULL) == 0 &&
              has(out, "metric m8, the default where reuse_error") &&
              fabs(cell(out, "1", 0) - 1.75 / 3) < 1e-6,
          "without importance m8");
    CHECK(run(out, analyze_search, "search", "--k", "3", plain, NULL) == 0 &&
              has(out, "metric m1, the default where neither"),
          "without either m1");
    CHECK(run(out, analyze_search, "search", "--k", "2", "--json", dump, NULL) == 0, "json");
    text = text_of(out);
    CHECK(text[0] == '{' && strstr(text, "\"do_select_layers\":") != NULL, "json: %s", text);
    free(text);
    CHECK(run(out, analyze_export, "export", "--format", "index_topk_pattern", "--layers", "0",
              "--wait", "1", dump, NULL) == 0,
          "pattern");
    text = text_of(out);
    CHECK(strcmp(text, "FFS\n") == 0, "pattern %s", text);
    free(text);
    CHECK(run(out, analyze_export, "export", "--format", "config", "--layers", "0,2", dump, NULL) ==
                  0 &&
              has(out, "\"do_select_layers\":\t\"0,2\""),
          "config");
    mute_failures(false);
}

static void hits_and_losses(const char *dump)
{
    const char *out = check_scratch("hits.tsv");
    CHECK(run(out, analyze_hits, "hits", "--k", "2", "--filters", "0", "--by-layer", dump, NULL) ==
              0,
          "hits");
    static const struct want mass[] = {{"own\t1\t2", .56},
                                       {"reused\t1\t2", .8 * .375},
                                       {"reused\t2\t2", .8 * .3625},
                                       {"lagged\t1\t2", .56}};
    check_cells(out, "mass on the set", mass, COUNT_OF(mass));
    CHECK(fabs(cell(out, "reused\t1\t2", 1) - .375) < 1e-6, "recall");
    CHECK(cell(out, "own\t2\t2", 1) == 1 && isnan(cell(out, "own\t0\t2", 0)), "own sets");
    CHECK(run(out, analyze_hits, "hits", "--k", "2", "--distance", "2", dump, NULL) == 0, "hits");
    CHECK(fabs(cell(out, "reused-2\t2", 0) - .8 * .3625) < 1e-6, "two layers below");
    CHECK(fabs(cell(out, "lagged\t2", 1) - 2. / 3) < 1e-6, "layer 0 keeps nothing of a step: %g",
          cell(out, "lagged\t2", 1));

    CHECK(run(out, analyze_missing, "missing", "--filters", "0", "--k", "2", dump, NULL) == 0,
          "missing");
    static const struct want lost[] = {
        {"0\t0\t1", .8 * .55}, {"0\t1\t1", .8 * .85}, {"1\t0\t2", .8 * .55}};
    check_cells(out, "missing", lost, COUNT_OF(lost));
    CHECK(run(out, analyze_missing, "missing", "--filters", "0", "--k", "2", "--mean", dump,
              NULL) == 0 &&
              fabs(cell(out, "1\t1", 0) - .8 * .85) < 1e-6,
          "the second step has one sample");

    const char *sparse = check_scratch("sparse.h5");
    CHECK(write_dump(sparse, BIT(MASS) | BIT(SELECTED_IDX), true) == 0, "written");
    CHECK(run(out, analyze_missing, "missing", sparse, NULL) == 0, "missing");
    static const struct want used[] = {
        {"0\t0\t0", .8 * .3}, {"0\t1\t0", .8 * .9}, {"1\t0\t1", .8 * .55}};
    check_cells(out, "selected_idx", used, COUNT_OF(used));
    CHECK(isnan(cell(out, "0\t0\t2", 0)), "a sparse layer's loss is unknown");

    CHECK(run(out, analyze_sparsity, "sparsity", "--k", "1,6", dump, NULL) == 0, "sparsity");
    static const struct want held[] = {{"0\t1", .32}, {"2\t1", .28}, {"1\t6", .8}};
    check_cells(out, "sparsity", held, COUNT_OF(held));
    CHECK(fabs(cell(out, "0\t1", 1) - .4) < 1e-6, "share");

    CHECK(run(out, analyze_overlap, "overlap", "--k", "2", "--measure", "jaccard", dump, NULL) == 0,
          "overlap");
    CHECK(fabs(cell(out, "0\t1", 0) - (1. / 6 + 1. / 3) / 2) < 1e-6, "jaccard %g",
          cell(out, "0\t1", 0));
    CHECK(run(out, analyze_overlap, "overlap", "--k", "2", "--by", "step", "--layer", "0",
              "--measure", "mass", dump, NULL) == 0 &&
              fabs(cell(out, "0\t0", 0) - .56) < 1e-6 && isnan(cell(out, "0\t1", 0)),
          "the samples have one step in common");
}

static void text_is_marked(const char *dump)
{
    const char *out = check_scratch("tokens.txt"), *page = check_scratch("tokens.html");
    CHECK(run(out, analyze_tokens, "tokens", "--layer", "0", "--step", "0", "--k", "2", dump,
              NULL) == 0,
          "tokens");
    CHECK(has(out, "\xe2\x9f\xa6\xc3\xa9\xe2\x9f\xa7<&\\x1b\xef\xbf\xbd\n---- decoded ----\nxy\n"),
          "the shared character is marked once");
    CHECK(run(NULL, analyze_tokens, "tokens", "--layer", "0", "--k", "4", "--html", page, dump,
              NULL) == 0,
          "html");
    CHECK(has(page, "&#60;") && has(page, "&#38;") && has(page, "\xc3\xa9</mark>") &&
              !has(page, "\x1b"),
          "HTML is escaped");
    CHECK(has(page, "position 2, id 3: selected 2 of 2 times, attention 0.08"), "tooltip");
    CHECK(run(NULL, analyze_show, "show", "--samples", dump, NULL) == 0, "show");
    CHECK(run(out, analyze_show, "show", "--json", dump, NULL) == 0 &&
              has(out, "\"n_prefill\":\t6"),
          "show as JSON");
    CHECK(run(out, analyze_check, "check", dump, NULL) == 0, "check");
}

static void threads_do_not_matter(const char *dump)
{
    const char *one = check_scratch("one.tsv"), *three = check_scratch("three.tsv");
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    CHECK(run(one, analyze_rank, "rank", "--k", "1,2,3", dump, dump, NULL) == 0, "one thread");
    omp_set_num_threads(3);
    CHECK(run(three, analyze_rank, "rank", "--k", "1,2,3", dump, dump, NULL) == 0, "three");
    omp_set_num_threads(threads);
    char *a = text_of(one), *b = text_of(three);
    CHECK(strcmp(a, b) == 0 && strlen(a) > 1000, "another number of threads, another table");
    free(a);
    free(b);
}

/* A dump cut anywhere is refused in one line: every subcommand that reads rows. */
static void cut_dumps_are_refused(const char *dump)
{
    size_t size;
    char *whole = file_read(dump, &size);
    const char *path = check_scratch("cut.h5");
    mute_failures(true);
    for (int part = 0; whole && part < 16; part++) {
        FILE *f = fopen(path, "wb");
        CHECK(f && fwrite(whole, 1, size * (size_t)part / 16, f) == size * (size_t)part / 16,
              "cut");
        if (f) fclose(f);
        CHECK(run(NULL, analyze_rank, "rank", path, NULL) == 1, "rank of %d/16", part);
        CHECK(run(NULL, analyze_show, "show", path, NULL) == 1, "show of %d/16", part);
        CHECK(run(NULL, analyze_check, "check", path, NULL) == 1, "check of %d/16", part);
    }
    mute_failures(false);
    free(whole);
}

int main(void)
{
    set_program_name("okv-analyze");
    const char *dump = check_scratch("hand.h5");
    CHECK(write_dump(dump, EVERY, false) == 0, "written");
    matrices_by_hand(dump);
    layers_by_hand(dump);
    heads_are_pooled_after_the_mean();
    fields_decide_what_is_served(dump);
    a_full_disk_fails_the_run(dump);
    searches_end_with_the_set(dump);
    hits_and_losses(dump);
    text_is_marked(dump);
    threads_do_not_matter(dump);
    cut_dumps_are_refused(dump);
    return check_report("analyze");
}
