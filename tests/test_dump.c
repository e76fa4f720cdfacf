/* test_dump.c - the dump: round trips, other readers, misuse, dying and resuming, full disks. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "tests/check.h"
#include "tests/made_dump.h"

#include <fcntl.h>
#include <hdf5.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool same_bytes(const char *a, const char *b)
{
    size_t na = 0, nb = 0;
    char *x = file_read(a, &na), *y = file_read(b, &nb);
    const bool same = x && y && na == nb && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return same;
}

static FILE *nowhere(void)
{
    static FILE *f;
    if (f == NULL) f = fopen("/dev/null", "w");
    return f;
}

static void dumps_come_back(void)
{
    static const struct {
        const char *name;
        const struct plan *plan;
    } plans[] = {{"small", &made_small}, {"wide", &made_wide}, {"exact", &made_long}};
    for (size_t i = 0; i < COUNT_OF(plans); i++) {
        const char *path = check_scratch(plans[i].name);
        CHECK(made_write(path, plans[i].plan, 2) == 0, "%s is not written", plans[i].name);
        made_compare(path, plans[i].plan, 2);
        CHECK(dump_check(path, nowhere()) == 0, "%s is not whole", plans[i].name);
        char *part = xprintf("%s.part", path);
        CHECK(access(part, F_OK) != 0, "%s stays", part);
        free(part);
    }
}

/* Rows that are not put read as 0, also where a whole chunk is missing. */
static void what_is_not_put_is_fill(void)
{
    const struct dump_run run = made_run(&made_wide);
    const struct dump_options options = {.fields = 1u << DUMP_MASS | 1u << DUMP_TOPK_IDX};
    const struct dump_sample begin = made_sample(&made_wide, 0);
    const char *path = check_scratch("sparse");
    const size_t L = (size_t)run.L, T = (size_t)made_wide.T, K = (size_t)run.K;
    float *v = xmalloc(L * T * sizeof *v), share = 0.25f;
    int *idx = xmalloc(L * K * sizeof *idx), wrong = 0;
    struct dump_writer *w = dump_create(path, &run, &options);
    struct dump *d;
    CHECK(dump_sample_begin(w, 0, &begin, made_wide.max_T, made_wide.max_S, 0) == 0 &&
              dump_put(w, DUMP_MASS, 0, 2, 0, &share, 1) == 0 && made_end(w, &made_wide) == 0 &&
              dump_finish(w, 0) == 0,
          "sparse");
    CHECK((d = dump_open(path)) != NULL, "sparse");
    for (int s = 0; s < made_wide.S; s++) {
        CHECK(dump_rows(d, 0, DUMP_MASS, s, v) == 0 && dump_ints(d, 0, DUMP_TOPK_IDX, s, idx) == 0,
              "step %d", s);
        for (size_t i = 0; i < L * T; i++) wrong += v[i] != (s == 0 && i == 2 * T ? share : 0);
        for (size_t i = 0; i < L * K; i++) wrong += idx[i] != -1;
    }
    CHECK(wrong == 0, "%d values are not the fill", wrong);
    dump_close(d);
    CHECK(dump_check(path, nowhere()) == 0, "not whole");
    free(v);
    free(idx);
}

/* Equal files, not only equal datasets: only the command line may differ, and it is the same here.
 */
static void threads_change_nothing(void)
{
    const int threads = omp_get_max_threads();
    const char *one = check_scratch("one"), *three = check_scratch("three");
    omp_set_num_threads(1);
    CHECK(made_write(one, &made_wide, 1) == 0, "one thread");
    made_compare(one, &made_wide, 1);
    omp_set_num_threads(3);
    CHECK(made_write(three, &made_wide, 1) == 0, "three threads");
    made_compare(three, &made_wide, 1);
    omp_set_num_threads(threads);
    CHECK(same_bytes(one, three), "another number of threads gives another file");
}

/* HDF5's own filters (zlib) must read what the codec wrote. */
static void other_readers_agree(void)
{
    const char *path = check_scratch("wide");
    const struct dump_shape n = made_shape(&made_wide, DUMP_MASS);
    float *v = xmalloc((size_t)(n.S * n.A * n.W) * sizeof *v);
    long wrong = 0;
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, "samples/000001/mass", H5P_DEFAULT);
    CHECK(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v) >= 0, "H5Dread");
    for (int64_t at = 0; at < n.S * n.A * n.W; at++)
        wrong += !made_equal(v[at], made_value(&made_wide, DUMP_MASS, at / n.W / n.A,
                                               at / n.W % n.A, 0, at % n.W, n.W));
    CHECK(wrong == 0, "%ld values differ", wrong);
    H5Dclose(set);
    H5Fclose(file);
    free(v);
}

/* ---- misuse, dying, resuming */

static void misuse_is_refused(void)
{
    const struct dump_run run = made_run(&made_small);
    struct dump_options options = {.fields = 1u << DUMP_MASS | 1u << DUMP_TOPK_IDX};
    const struct dump_sample begin = made_sample(&made_small, 0);
    const char *path = check_scratch("misuse");
    const float row[100] = {0};
    const int ints[100] = {0};
    struct dump_writer *w;

    mute_failures(true);
    static const struct {
        const char *what;
        enum dump_field field;
        int step, layer, row, n, times;
        bool whole;
    } cases[] = {
        {"a field that is not recorded", DUMP_SCORE, 0, 0, 0, 5, 1, false},
        {"whole numbers for floats", DUMP_MASS, 0, 0, 0, 5, 1, true},
        {"a layer too many", DUMP_MASS, 0, 5, 0, 5, 1, false},
        {"a row where there is one", DUMP_MASS, 0, 0, 1, 5, 1, false},
        {"a step too many", DUMP_MASS, 20, 0, 0, 5, 1, false},
        {"a row too long", DUMP_MASS, 0, 0, 0, 71, 1, false},
        {"a row twice", DUMP_MASS, 0, 0, 0, 5, 2, false},
        {"more than K", DUMP_TOPK_IDX, 0, 0, 0, 7, 1, true},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int rc = 0;
        w = dump_create(path, &run, &options);
        CHECK(w && dump_sample_begin(w, 0, &begin, 70, 20, 0) == 0, "%s", last_failure());
        for (int k = 0; k < cases[i].times; k++)
            rc = cases[i].whole ? dump_put_int(w, cases[i].field, cases[i].step, cases[i].layer,
                                               ints, cases[i].n)
                                : dump_put(w, cases[i].field, cases[i].step, cases[i].layer,
                                           cases[i].row, row, cases[i].n);
        CHECK(rc == -1, "%s is taken", cases[i].what);
        CHECK(made_end(w, &made_small) == -1, "%s: the sample goes on", cases[i].what);
        CHECK(dump_finish(w, -1) == -1, "%s", cases[i].what);
    }
    w = dump_create(path, &run, &options);
    CHECK(dump_sample_begin(w, 0, &begin, 70, 20, 0) == 0 &&
              dump_put(w, DUMP_MASS, 3, 0, 0, row, 5) == 0 &&
              dump_put(w, DUMP_MASS, 2, 0, 0, row, 5) == -1,
          "a step backwards is taken");
    dump_finish(w, -1);
    w = dump_create(path, &run, &options);
    CHECK(dump_sample_begin(w, 0, &begin, 70, 20, 0) == 0 &&
              dump_put(w, DUMP_MASS, 0, 0, 0, row, 61) == 0 && made_end(w, &made_small) == -1,
          "a row past the sample's end is taken");
    dump_finish(w, -1);
    CHECK(access(path, F_OK) != 0, "%s exists", path);
    CHECK((w = dump_create(path, &run, &options)) != NULL && dump_finish(w, 0) == -1,
          "a run without a sample is taken");
    CHECK(made_write(path, &made_small, 1) == 0 && dump_create(path, &run, &options) == NULL,
          "an existing file is overwritten");
    options.fields = 1u << DUMP_SELECTED_IDX;
    struct dump_run dense = run;
    dense.M = 0;
    CHECK(dump_create(check_scratch("dense"), &dense, &options) == NULL,
          "selected_idx without filter layers is taken");
    mute_failures(false);
}

/* A child finishes sample 0, is halfway through sample 1 and dies. */
static void die_halfway(const char *path)
{
    fflush(stdout); /* or the child would print it too */
    pid_t child = fork();
    int status = 0;
    if (child == 0) {
        omp_set_num_threads(1); /* a forked child has no worker threads */
        const struct dump_run run = made_run(&made_small);
        const struct dump_options options = {.fields = made_fields()};
        const struct dump_sample second = made_sample(&made_small, 1);
        struct dump_writer *w = dump_create(path, &run, &options);
        if (w == NULL || made_put_sample(w, &made_small, 0) ||
            dump_sample_begin(w, 1, &second, made_small.max_T, made_small.max_S, made_small.k) ||
            made_put_steps(w, &made_small, 4))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status),
          "the child did not die as told");
}

static struct dump_writer *resume(const char *path, const struct dump_run *run, uint32_t fields,
                                  bool f32)
{
    const struct dump_options options = {.fields = fields, .resume = true, .f32 = f32};
    return dump_create(path, run, &options);
}

static void a_dead_run_is_resumed(void)
{
    const char *path = check_scratch("dead"), *whole = check_scratch("alive");
    char *part = xprintf("%s.part", path);
    struct dump_run run = made_run(&made_small), other = run;
    struct dump_options fresh = {.fields = made_fields()};
    struct dump *d;
    struct dump_writer *w;

    die_halfway(path);
    CHECK(access(path, F_OK) != 0, "a dead run leaves %s", path);
    made_compare(part, &made_small, 1);

    mute_failures(true);
    CHECK(dump_open(path) == NULL && strstr(last_failure(), ".part"), "%s", last_failure());
    CHECK(dump_check(part, nowhere()) == -1, "an unfinished run is called whole");
    CHECK(dump_create(path, &run, &fresh) == NULL && strstr(last_failure(), "--resume"), "%s",
          last_failure());
    static const struct {
        const char *what;
        int change;
    } changes[] = {{"fingerprint", 0}, {"config", 1}, {"seed", 2}, {"L", 3},
                   {"layers", 4},      {"fields", 5}, {"float", 6}};
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        const int swapped[] = {1, 3}, c = changes[i].change;
        char *named = xprintf("\"%s\"", changes[i].what);
        other = run;
        if (c == 0) other.fingerprint = "abd";
        if (c == 1) other.config = "{}";
        if (c == 2) other.seed++;
        if (c == 3) other.L++;
        if (c == 4) other.layers = swapped;
        CHECK(resume(path, &other, c == 5 ? 1u << DUMP_MASS : made_fields(), c == 6) == NULL &&
                  strstr(last_failure(), named),
              "another %s: %s", changes[i].what, last_failure());
        free(named);
    }
    /* What another crash has left half-written goes away. */
    char *stray = xprintf("%s/000009.h5.tmp", part);
    close(open(stray, O_CREAT | O_WRONLY, 0666));
    /* The command line may differ, but for the comparison of whole files it does not. */
    w = resume(path, &run, made_fields(), false);
    CHECK(w != NULL, "%s", last_failure());
    CHECK(resume(path, &run, made_fields(), false) == NULL, "two programs write one run");
    CHECK(dump_sample_done(w, 0, 1) == -1, "another prompt is taken for the finished one");
    CHECK(dump_sample_done(w, 0, made_sample(&made_small, 0).prompt_hash) == 1,
          "sample 0 is not there");
    CHECK(dump_sample_done(w, 1, made_sample(&made_small, 1).prompt_hash) == 0,
          "sample 1 is there");
    CHECK(made_put_sample(w, &made_small, 1) == 0 && dump_finish(w, 0) == 0, "%s", last_failure());
    made_compare(path, &made_small, 2);
    CHECK(access(part, F_OK) != 0, "%s stays", part);
    CHECK(made_write(whole, &made_small, 2) == 0 && same_bytes(path, whole),
          "a resumed run gives another file");

    /* A finished sample this run does not have must not slip in. */
    CHECK(unlink(path) == 0, "%s", path);
    die_halfway(path);
    w = resume(path, &run, made_fields(), false);
    CHECK(w && dump_finish(w, 0) == -1 && access(path, F_OK) != 0, "a foreign sample slips in");

    /* A finished sample that is damaged is named. */
    char *sample = xprintf("%s/000000.h5", part);
    CHECK(truncate(sample, 3000) == 0, "%s", sample);
    CHECK(resume(path, &run, made_fields(), false) == NULL && strstr(last_failure(), "000000.h5"),
          "%s", last_failure());
    CHECK((d = dump_open(part)) == NULL, "a cut sample is opened");
    dump_close(d);
    mute_failures(false);
    free(stray);
    free(sample);
    free(part);
}

/* A file that may not grow past LIMIT bytes is to a program what a full disk is. In a child, since
 * the limit stays. Exits 0 when the dump was written, 1 when it failed with one line. */
static int write_with_limit(const char *path, long limit)
{
    fflush(stdout); /* or the child would print it too */
    pid_t child = fork();
    int status = 0;
    if (child == 0) {
        const struct rlimit most = {(rlim_t)limit, (rlim_t)limit};
        char *said = xprintf("%s.said", path), *temporary = xprintf("%s.tmp", path);
        const int out = open(said, O_RDWR | O_CREAT | O_TRUNC, 0666);
        char text[4096];
        int lines = 0;
        omp_set_num_threads(1);
        signal(SIGXFSZ, SIG_IGN);
        if (out < 0 || dup2(out, STDERR_FILENO) < 0 || setrlimit(RLIMIT_FSIZE, &most) != 0)
            _exit(9);
        const int rc = made_write(path, &made_small, 2);
        const ssize_t n = pread(out, text, sizeof text, 0);
        for (ssize_t i = 0; i < n; i++)
            lines += text[i] == '\n' && memmem(text, (size_t)i, "error:", 6);
        if (rc == 0) _exit(n == 0 && access(path, F_OK) == 0 ? 0 : 8);
        const bool gone = access(path, F_OK) != 0 && access(temporary, F_OK) != 0;
        _exit(lines >= 1 && lines <= 2 && gone ? 1 : 7);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static void a_full_disk_fails_the_run(void)
{
    const char *whole = check_scratch("full");
    char *sample = xprintf("%s/000000.h5", check_scratch("halfway.part"));
    struct stat st, first;
    bool failed_once = false, done_once = false;
    CHECK(made_write(whole, &made_small, 2) == 0 && stat(whole, &st) == 0, "full");
    for (long k = 0; k <= 24; k++) {
        char *name = xprintf("full%ld", k);
        const int rc = write_with_limit(check_scratch(name), 1000 + st.st_size * k / 22);
        CHECK(rc == 0 || rc == 1, "at %ld of 22 parts: status %d", k, rc);
        failed_once |= rc == 1;
        done_once |= rc == 0;
        free(name);
    }
    CHECK(failed_once && done_once, "the limits do not straddle the dump's size");

    /* The last bytes are written when HDF5 closes the file. */
    die_halfway(check_scratch("halfway"));
    CHECK(stat(sample, &first) == 0, "%s", sample);
    for (int less = 1; less < 4000; less *= 3) {
        CHECK(write_with_limit(check_scratch("short"), first.st_size - less) == 1,
              "a sample without its last %d bytes", less);
        CHECK(access(check_scratch("short.part"), F_OK) != 0, "a cut sample is kept");
        CHECK(write_with_limit(check_scratch("short"), st.st_size - less) == 1,
              "a dump without its last %d bytes", less);
        const char *part = check_scratch("short.part");
        char *again = xprintf("%s/000000.h5", part);
        CHECK(unlink(again) == 0, "%s", again);
        again[strlen(again) - 4] = '1';
        CHECK(unlink(again) == 0 && rmdir(part) == 0, "%s", again);
        free(again);
    }
    free(sample);
}

/* ---- the format's document */

static void the_document_has_the_table(void)
{
    char *table = NULL, *doc;
    size_t size = 0, n = 0;
    FILE *f = open_memstream(&table, &size);
    dump_format_table(f);
    fclose(f);
    doc = file_read("docs/dump-format.md", &n);
    CHECK(doc && strstr(doc, table), "docs/dump-format.md does not hold the table of schema.h; "
                                     "okv-analyze show --format-table prints it");
    free(doc);
    free(table);
}

static void chunks_have_their_size(void)
{
    /* 128 KiB of 2-byte values: 4 rows of 16,384, or all 6 rows of half of 12 layers of 8,000; a
     * small field takes several steps. */
    static const struct {
        enum dump_field field;
        struct dump_dims d;
        struct dump_chunk want;
    } cases[] = {
        {DUMP_MASS, {.L = 32, .T = 131072, .S = 20}, {1, 4, 1, 16384}},
        {DUMP_MASS, {.L = 12, .T = 8000, .S = 20}, {1, 6, 1, 8000}},
        {DUMP_MASS, {.L = 12, .T = 1500, .S = 20}, {3, 12, 1, 1500}},
        {DUMP_ATTN, {.L = 12, .R = 8, .T = 1500, .S = 20}, {1, 4, 8, 1500}},
        {DUMP_ATTN, {.L = 12, .R = 8, .T = 20000, .S = 20}, {1, 1, 4, 10000}},
        {DUMP_TOPK_TOTAL, {.L = 12, .S = 20}, {20, 1, 1, 12}},
        {DUMP_REUSE_ERROR, {.L = 12, .S = 20}, {20, 1, 12, 24}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct dump_shape s = dump_shape_of(cases[i].field, &cases[i].d);
        const size_t size = dump_store_size(dump_store_of(cases[i].field, false));
        const struct dump_chunk c = dump_chunk_of(&s, size), w = cases[i].want;
        CHECK(c.s == w.s && c.a == w.a && c.b == w.b && c.w == w.w, "case %zu: %d %d %d %d", i,
              (int)c.s, (int)c.a, (int)c.b, (int)c.w);
    }
}

static void sizes_are_known_beforehand(void)
{
    /* Closed form for mass, score in 2 bytes: 2 * S L T values; tokens, text_end T and step_pos,
     * step_nll S values of 4 bytes. */
    const struct plan p = {.L = 12, .H = 8, .G = 4};
    const struct dump_run run = made_run(&p);
    const struct dump_options o = {.fields = 1u << DUMP_MASS | 1u << DUMP_SCORE};
    const double want = 2.0 * 2 * 5 * 12 * 1000 + 4.0 * (2 * 1000 + 2 * 5);
    CHECK(dump_sample_bytes(&run, &o, 1000, 5, 0) == want, "%g, want %g",
          dump_sample_bytes(&run, &o, 1000, 5, 0), want);
}

int main(void)
{
    sizes_are_known_beforehand();
    chunks_have_their_size();
    the_document_has_the_table();
    dumps_come_back();
    what_is_not_put_is_fill();
    threads_change_nothing();
    other_readers_agree();
    misuse_is_refused();
    a_dead_run_is_resumed();
    a_full_disk_fails_the_run();
    return check_report("dump");
}
