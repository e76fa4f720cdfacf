/* test_suite.c - suites of prompts: what is read, what is refused, how answers are judged. */
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/task/suite.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A suite of the given text, through a file, since that is the only way in. */
static struct suite *load(const char *text, size_t size, int V)
{
    static const char *path;
    if (path == NULL) path = check_scratch("suite.jsonl");
    FILE *f = fopen(path, "wb");
    if (f == NULL) return NULL;
    fwrite(text, 1, size, f);
    fclose(f);
    return suite_load(path, V);
}

static void golden_suite_is_read_whole(void)
{
    struct suite *s = suite_load("tests/data/golden/suite.jsonl", 2048);
    CHECK(s, "%s", last_failure());
    if (s == NULL) return;
    CHECK(s->n == 32 && s->n_tasks == 4, "%d lines, %d tasks", s->n, s->n_tasks);
    int answers[4] = {0};
    for (int i = 0; i < s->n; i++) answers[suite_task(s, s->line[i].task)] += s->line[i].n_spans;
    /* Totals of tests/data/golden/suite_scores.json. */
    CHECK(answers[0] == 13 && answers[1] == 24 && answers[2] == 24 && answers[3] == 23,
          "%d %d %d %d", answers[0], answers[1], answers[2], answers[3]);
    const struct suite_line *l = &s->line[0];
    CHECK(l->n == 1251 && l->n_prefill == 1241 && l->spans[0][0] == 1241 && l->spans[0][1] == 1251,
          "%d %d", l->n, l->n_prefill);
    CHECK(suite_task(s, "none") == -1, "an unknown task has an index");
    suite_free(s);
    CHECK(suite_load("tests/data/golden/suite.jsonl", 1000) == NULL, "ids beyond V are taken");
    CHECK(strstr(last_failure(), "suite.jsonl:1: ids["), "%s", last_failure());
}

static void lines_are_refused_by_number(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "at least one line"},
        {" \n\t\r\n", "at least one line"},
        {"\n\n{", "jsonl:3: not valid JSON"},
        {"[1]", "jsonl:1: expected a JSON object"},
        {"{}", "neither"},
        {"{\"task\": \"t\"}", "neither"},
        {"{\"task\": \"t\", \"ids\": [1, 2], \"prompt\": \"x\"}", "both"},
        {"{\"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": []}", "\"task\""},
        {"{\"task\": \"\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": []}", "\"task\""},
        {"{\"task\": \"a\\tb\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": []}", "control"},
        {"{\"task\": 5, \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": []}", "a number"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1}", "no \"spans\""},
        {"{\"task\": \"t\", \"n_prefill\": 1, \"spans\": []}", "no \"ids\""},
        {"{\"task\": \"t\", \"ids\": [1], \"spans\": []}", "no \"n_prefill\""},
        {"{\"task\": \"t\", \"ids\": [], \"n_prefill\": 1, \"spans\": []}", "at least one token"},
        {"{\"task\": \"t\", \"ids\": [1, -2], \"n_prefill\": 1, \"spans\": []}", "ids[1]"},
        {"{\"task\": \"t\", \"ids\": [1, 1.5], \"n_prefill\": 1, \"spans\": []}", "ids[1]"},
        {"{\"task\": \"t\", \"ids\": [1, 100], \"n_prefill\": 1, \"spans\": []}", "0 to 99"},
        {"{\"task\": \"t\", \"ids\": [1, \"2\"], \"n_prefill\": 1, \"spans\": []}", "a string"},
        {"{\"task\": \"t\", \"ids\": {}, \"n_prefill\": 1, \"spans\": []}", "an object"},
        {"{\"task\": \"t\", \"ids\": [1, 2], \"n_prefill\": 0, \"spans\": []}", "from 1 to 2"},
        {"{\"task\": \"t\", \"ids\": [1, 2], \"n_prefill\": 3, \"spans\": []}", "from 1 to 2"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": 4}", "list of pairs"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [4]}", "spans[0]"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [[1]]}", "spans[0]"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [[1, 2]]}",
         "two tokens"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [[3, 1]]}",
         "two tokens"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [[0, 2]]}",
         "from 1 to 3"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [[1, 3], [1, 4]]}",
         "spans[1][1]"},
        {"{\"task\": \"t\", \"ids\": [1, 2, 3], \"n_prefill\": 1, \"spans\": [[1, 2, 3]]}",
         "spans[0]"},
        {"{\"task\": \"t\", \"prompt\": \"p\"}", "no \"answers\""},
        {"{\"task\": \"t\", \"answers\": [\"p\"]}", "no \"prompt\""},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": []}", "empty"},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": \"x\"}", "a string"},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"x\", \"\"]}", "answers[1]"},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [3]}", "answers[0]"},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"x\"]} {}", "one JSON value"},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"x\"], \"match\": \"most\"}",
         "found \"most\""},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"x\"], \"match\": 1}", "a number"},
        {"{\"task\": \"t\", \"ids\": [1, 2], \"n_prefill\": 1, \"spans\": [], \"match\": \"all\"}",
         "text level only"},
        {"{\"task\": \"t\", \"prompt\": \"p\\\\\\u0000q\", \"answers\": [\"x\"]}", "found \\u0000"},
        {"{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"x\xe9\"]}",
         "jsonl:1: expected UTF-8, found byte 0xe9 at byte 43"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct suite *s = load(cases[i].text, strlen(cases[i].text), 100);
        CHECK(s == NULL, "taken: %s", cases[i].text);
        CHECK(strstr(last_failure(), cases[i].says), "%s: %s", cases[i].text, last_failure());
        suite_free(s);
    }
    CHECK(suite_load("tests/data/none.jsonl", 0) == NULL, "a missing file is taken");
    struct suite *s = load("{\"task\": \"t\"\0}", 14, 0);
    CHECK(s == NULL, "a zero byte is taken");
    static const char escaped[] =
        "{\"task\": \"t\", \"prompt\": \"\\\\u0000\", \"answers\": [\"\xc3\xa9\"]}";
    s = load(escaped, strlen(escaped), 0);
    CHECK(s && strcmp(s->line[0].prompt, "\\u0000") == 0, "a backslash before u: %s",
          last_failure());
    suite_free(s);

    char *many = xmalloc(60 * 1001); /* one task more than the limit */
    size_t n = 0;
    for (int i = 0; i <= 1000; i++)
        n += (size_t)sprintf(many + n,
                             "{\"task\": \"t%d\", \"prompt\": \"p\", \"answers\": [\"x\"]}\n", i);
    s = load(many, n, 0);
    CHECK(s == NULL && strstr(last_failure(), ":1001: "), "%s", last_failure());
    free(many);
}

static const char two_levels[] =
    "\n{\"task\": \"b\", \"ids\": [9, 9, 1, 2, 3, 9, 4, 5], \"n_prefill\": 2, \"spans\": [[2, 5],"
    " [6, 8]], \"note\": \"other keys are left alone\"}\r\n  \n"
    "{\"task\": \"a\", \"prompt\": \"p\", \"answers\": [\"Oslo\", \"Lima\"]}\n"
    "{\"task\": \"b\", \"ids\": [7], \"n_prefill\": 1, \"spans\": []}";

static void answers_are_judged_without_their_stop_token(void)
{
    struct suite *s = load(two_levels, strlen(two_levels), 0);
    CHECK(s && s->n == 3 && s->n_tasks == 2, "%s", last_failure());
    if (s == NULL) return;
    CHECK(strcmp(s->task[0], "b") == 0 && strcmp(s->task[1], "a") == 0, "order of appearance");
    int n, *pos = suite_judged(&s->line[0], &n);
    CHECK(n == 3 && pos[0] == 2 && pos[1] == 3 && pos[2] == 6, "%d judged", n);
    free(pos);
    pos = suite_judged(&s->line[2], &n);
    CHECK(n == 0, "%d judged", n);
    free(pos);

    struct tally t[2] = {{0}};
    const float nll[8] = {NAN, NAN, 0.25f, 0.5f, NAN, NAN, 1, NAN}; /* only judged are read */
    const int right[8] = {-1, -1, 1, 2, -1, -1, 4, -1}, half[8] = {-1, -1, 1, 7, -1, -1, 4, -1};
    tally_tokens(&t[0], &s->line[0], right, nll);
    CHECK(t[0].correct == 2 && t[0].total == 2 && t[0].tokens == 3, "%d", t[0].correct);
    CHECK(t[0].nll == 1.75, "%g", t[0].nll); /* 0.25 + 0.5 + 1: exact in binary */
    tally_tokens(&t[0], &s->line[0], half, nll);
    tally_tokens(&t[0], &s->line[2], half, nll);
    CHECK(t[0].correct == 3 && t[0].total == 4 && t[0].tokens == 6, "%d", t[0].correct);

    tally_text(&t[1], &s->line[1], "He lives in Lima.");
    tally_text(&t[1], &s->line[1], "He lives in lima.");
    tally_text(&t[1], &s->line[1], "");
    CHECK(t[1].correct == 1 && t[1].total == 3 && t[1].tokens == 0, "%d", t[1].correct);

    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    tally_table(f, s, t);
    fclose(f);
    CHECK(strcmp(text, "task\tcorrect\ttotal\taccuracy\tnll\n"
                       "b\t3\t4\t0.7500\t0.58333\n"
                       "a\t1\t3\t0.3333\t-\n"
                       "all\t4\t7\t0.5714\t0.58333\n") == 0,
          "%s", text);
    free(text);

    f = open_memstream(&text, &size);
    tally_json(f, s, t);
    fclose(f);
    cJSON *o = json_parse("tally", text, size);
    CHECK(o, "%s", last_failure());
    const cJSON *b = json_member(json_member(o, "tasks"), "b");
    double accuracy = 0, mean = 0;
    int correct = 0, total = 0;
    CHECK(json_double("t", b, "accuracy", 0, 1, &accuracy) == 0 && accuracy == 0.75, "%g",
          accuracy);
    CHECK(json_double("t", b, "nll", 0, 9, &mean) == 0 && fabs(mean - 3.5 / 6) < 1e-6, "%g", mean);
    CHECK(json_int("t", b, "correct", 0, 9, &correct) == 0 && correct == 3, "%d", correct);
    CHECK(json_int("t", b, "total", 0, 9, &total) == 0 && total == 4, "%d", total);
    const cJSON *a = json_member(json_member(o, "tasks"), "a");
    CHECK(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(a, "nll")), "no nll is null");
    CHECK(json_member(json_member(o, "all"), "nll"), "the row of all");
    cJSON_Delete(o);
    free(text);
    suite_free(s);
}

static void all_answers_must_occur_where_a_line_says_so(void)
{
    static const char text[] =
        "{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"ab\", \"cd\"], \"match\": \"all\"}\n"
        "{\"task\": \"t\", \"prompt\": \"p\", \"answers\": [\"ab\", \"cd\"], \"match\": \"any\"}\n";
    struct suite *s = load(text, strlen(text), 0);
    CHECK(s && s->n == 2 && s->line[0].match == MATCH_ALL && s->line[1].match == MATCH_ANY, "%s",
          last_failure());
    if (s == NULL) return;
    static const struct {
        const char *said;
        int all, any;
    } cases[] = {{"cd then ab", 1, 1}, {"only ab", 0, 1}, {"", 0, 0}, {"abcd", 1, 1}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tally all = {0}, any = {0};
        tally_text(&all, &s->line[0], cases[i].said);
        tally_text(&any, &s->line[1], cases[i].said);
        CHECK(all.correct == cases[i].all && any.correct == cases[i].any, "%s: %d, %d",
              cases[i].said, all.correct, any.correct);
        CHECK(all.total == 1 && any.total == 1, "a line is one answer");
    }
    char *again = NULL;
    size_t size;
    FILE *f = open_memstream(&again, &size);
    suite_line_write(f, &s->line[0]);
    suite_line_write(f, &s->line[1]);
    fclose(f);
    struct suite *back = load(again, size, 0);
    CHECK(back && back->line[0].match == MATCH_ALL && back->line[1].match == MATCH_ANY, "%s",
          again);
    suite_free(back);
    suite_free(s);
    free(again);
}

/* RULER's string_match_all: 100 times the mean over lines of the share of references that occur,
 * whatever the case; here of lines with three references each. */
static void each_answer_counts_by_itself_where_a_line_says_so(void)
{
    static const char text[] =
        "{\"task\": \"vt\", \"prompt\": \"p\", \"answers\": [\"XAB\", \"QCD\", "
        "\"ZEF\"], \"match\": \"each\"}\n";
    static const struct {
        const char *said;
        int found;
    } cases[] = {
        {"XAB, QCD, ZEF", 3}, {"zef qcd", 2}, {"XAB XAB XAB", 1}, {"XA B QC D", 0}, {"", 0}};
    struct suite *s = load(text, strlen(text), 0);
    CHECK(s && s->line[0].match == MATCH_EACH, "%s", last_failure());
    if (s == NULL) return;
    struct tally t = {0};
    double mean = 0;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const int before = t.correct;
        tally_text(&t, &s->line[0], cases[i].said);
        CHECK(t.correct - before == cases[i].found, "%s: %d", cases[i].said, t.correct - before);
        mean += cases[i].found / 3.0 / COUNT_OF(cases);
    }
    CHECK(t.total == 15 && fabs((double)t.correct / t.total - mean) < 1e-15, "%d of %d", t.correct,
          t.total);
    char *again = NULL;
    size_t size;
    FILE *f = open_memstream(&again, &size);
    suite_line_write(f, &s->line[0]);
    fclose(f);
    CHECK(strcmp(again, text) == 0, "%s", again);
    free(again);
    suite_free(s);
}

/* Wilson's interval of 1 of 4 at 95 %: 0.0456 to 0.6994 (the formula of Wilson 1927 by hand). */
static void a_sweep_has_rows_of_its_own(void)
{
    struct suite *s = load(two_levels, strlen(two_levels), 0);
    CHECK(s, "%s", last_failure());
    if (s == NULL) return;
    const struct tally t[2] = {{1, 4, 6, 4}, {0, 0, 0, 0}};
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    tally_rows(f, s, t, "m", 32);
    tally_rows(f, s, t, "m", 0);
    fclose(f);
    CHECK(strcmp(text, "m\t32\tb\t1\t4\t0.2500\t0.0456\t0.6994\t1.5\n"
                       "m\t32\tall\t1\t4\t0.2500\t0.0456\t0.6994\t1.5\n"
                       "m\t-\tb\t1\t4\t0.2500\t0.0456\t0.6994\t1.5\n"
                       "m\t-\tall\t1\t4\t0.2500\t0.0456\t0.6994\t1.5\n") == 0,
          "%s", text);
    free(text);
    suite_free(s);
}

static void overlapping_spans_count_a_token_once(void)
{
    static const char line[] = "{\"task\": \"t\", \"ids\": [0, 1, 2, 3, 4], \"n_prefill\": 1,"
                               " \"spans\": [[2, 5], [1, 4]]}";
    struct suite *s = load(line, sizeof line - 1, 0);
    CHECK(s, "%s", last_failure());
    if (s == NULL) return;
    int n, *pos = suite_judged(&s->line[0], &n);
    CHECK(n == 3 && pos[0] == 1 && pos[1] == 2 && pos[2] == 3, "%d judged", n);
    free(pos);
    suite_free(s);
}

static void infinite_nll_is_no_json_number(void)
{
    static const char line[] =
        "{\"task\": \"t\\\"q\", \"ids\": [0, 1, 2], \"n_prefill\": 1, \"spans\": [[1, 3]]}";
    struct suite *s = load(line, sizeof line - 1, 0);
    struct tally t = {0};
    const int argmax[3] = {0, 1, 2};
    const float nll[3] = {0, INFINITY, 0};
    char *text = NULL;
    size_t size = 0;
    CHECK(s, "%s", last_failure());
    if (s == NULL) return;
    tally_tokens(&t, &s->line[0], argmax, nll);
    FILE *f = open_memstream(&text, &size);
    tally_json(f, s, &t);
    fclose(f);
    cJSON *o = json_parse("tally", text, size);
    CHECK(o && strstr(text, "\"nll\": null"), "%s", text);
    cJSON_Delete(o);
    free(text);
    suite_free(s);
}

static void written_lines_read_back(void)
{
    struct suite *s = load(two_levels, strlen(two_levels), 0), *again = NULL;
    char *text = NULL, *second = NULL;
    size_t size = 0, n = 0;
    CHECK(s, "%s", last_failure());
    if (s == NULL) return;
    FILE *f = open_memstream(&text, &size);
    for (int i = 0; i < s->n; i++) suite_line_write(f, &s->line[i]);
    fclose(f);
    static const char first[] = "{\"task\": \"b\", \"ids\": [9, 9, 1, 2, 3, 9, 4, 5], "
                                "\"n_prefill\": 2, \"spans\": [[2, 5], [6, 8]]}\n";
    CHECK(strncmp(text, first, strlen(first)) == 0, "%s", text);
    again = load(text, size, 0);
    CHECK(again && again->n == 3, "%s", last_failure());
    f = open_memstream(&second, &n);
    for (int i = 0; again && i < again->n; i++) suite_line_write(f, &again->line[i]);
    fclose(f);
    CHECK(n == size && memcmp(text, second, n) == 0, "%s, %s", text, second);
    free(text);
    free(second);
    suite_free(s);
    suite_free(again);
}

/* Any bytes are taken or refused with one line; what is taken keeps the contract. */
static void fuzzed_suites_are_taken_or_refused(void)
{
    static const char alphabet[] = "{}[]\",:0123456789.-e \n\\\x80\xff\0";
    const size_t whole = strlen(two_levels);
    struct rng r;
    int taken = 0;
    rng_seed(&r, 2);
    for (int i = 0; i < 4000; i++) {
        char text[sizeof two_levels];
        size_t size = rng_below(&r, 8) ? whole : rng_below(&r, (uint32_t)whole + 1);
        memcpy(text, two_levels, whole);
        for (uint32_t k = rng_below(&r, 3); k > 0; k--)
            text[rng_below(&r, (uint32_t)whole)] = alphabet[rng_below(&r, sizeof alphabet)];
        struct suite *s = load(text, size, 10);
        if (s == NULL) continue;
        taken++;
        for (int l = 0; l < s->n; l++) {
            int n, *pos = suite_judged(&s->line[l], &n);
            for (int p = 0; p < n; p++)
                CHECK(pos[p] >= s->line[l].n_prefill && pos[p] < s->line[l].n - 1, "%d", pos[p]);
            free(pos);
        }
        suite_free(s);
    }
    CHECK(taken > 200, "only %d of 4000 taken: the fuzz tests little", taken);
}

int main(void)
{
    mute_failures(true);
    golden_suite_is_read_whole();
    lines_are_refused_by_number();
    answers_are_judged_without_their_stop_token();
    all_answers_must_occur_where_a_line_says_so();
    each_answer_counts_by_itself_where_a_line_says_so();
    a_sweep_has_rows_of_its_own();
    overlapping_spans_count_a_token_once();
    infinite_nll_is_no_json_number();
    written_lines_read_back();
    fuzzed_suites_are_taken_or_refused();
    return check_report("test_suite");
}
