/* test_score.c - the benchmarks' scorers: published values, closed forms, the originals' scores. */
#include "analyze/fuzz.h"
#include "analyze/lcs.h"
#include "analyze/predictions.h"
#include "analyze/rouge.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Doubles in the originals' order of operations; what is compared was printed with 9 digits or
 * more. */
#define NEAR 1e-9

static struct jieba *jieba; /* NULL where its dictionary is not installed */

static struct scoring plain_scoring(void)
{
    return (struct scoring){.ratio = fuzz_ratio, .jieba = jieba};
}

/* The score of LINE under TASK; -1 where it is refused. */
static double score_of(const char *task, const char *line, const struct scoring *how)
{
    const struct task *t = task_find(task, strlen(task));
    struct sample s = {0};
    double score = -1;
    if (t && sample_read("line", line, strlen(line), t, false, &s) == 0) score = t->score(&s, how);
    sample_free(&s);
    return score;
}

struct vector {
    const char *task, *line;
    double want;
};

static void check_vectors(const struct vector *v, size_t n, const struct scoring *how)
{
    for (size_t i = 0; i < n; i++) {
        const struct task *t = task_find(v[i].task, strlen(v[i].task));
        if (t && task_needs_jieba(t) && jieba == NULL) continue;
        const double got = score_of(v[i].task, v[i].line, how);
        CHECK(fabs(got - v[i].want) < NEAR, "%s %s: %.12g, want %.12g (%s)", v[i].task, v[i].line,
              got, v[i].want, got < 0 ? last_failure() : "");
    }
}

/* Section 8 of the description of the original. */
static void published_vectors_are_met(void)
{
    static const struct vector v[] = {
        {"qasper", "{\"pred\": \"The Cat, sat on a mat.\", \"answers\": [\"cat on mat\"]}",
         6.0 / 7},
        {"qasper", "{\"pred\": \"U.S. president\", \"answers\": [\"us President\"]}", 1},
        {"qasper", "{\"pred\": \"an a the\", \"answers\": [\"the\"]}", 0},
        {"passage_count", "{\"pred\": \"I think 12, maybe 12 or 13\", \"answers\": [\"12\"]}",
         2.0 / 3},
        {"passage_retrieval_en",
         "{\"pred\": \"Paragraph 3 and Paragraph 30\", \"answers\": [\"Paragraph 3\"]}", 0.5},
        {"passage_retrieval_zh", "{\"pred\": \"段落12\", \"answers\": [\"段落12\"]}", 1},
        {"lcc", "{\"pred\": \"\\n# comment\\nreturn x + 1\\nfoo\", \"answers\": [\"return x+1\"]}",
         0.91},
        {"lcc", "{\"pred\": \"```python\\n\", \"answers\": [\"abc\"]}", 0},
        {"lcc", "{\"pred\": \"# a\", \"answers\": [\"\"]}", 1},
        {"lcc",
         "{\"pred\": \"public static void main(String[] args) {\", "
         "\"answers\": [\"private static int main(String args) {\"]}",
         0.79},
        {"lcc", "{\"pred\": \"abcabcabc\", \"answers\": [\"cbacbacba\"]}", 0.44},
        {"trec",
         "{\"pred\": \"It is about Other location\", \"answers\": [\"Other location\"], "
         "\"all_classes\": [\"City\", \"Other location\", \"location\", \"Other\"]}",
         0.5},
        {"trec",
         "{\"pred\": \"a b c d\", \"answers\": [\"a b c d\"], "
         "\"all_classes\": [\"a\", \"b\", \"c\", \"d\", \"a b c d\"]}",
         1.0 / 3},
        {"gov_report",
         "{\"pred\": \"the cat sat on the mat\", \"answers\": [\"the cat lay on the mat\"]}",
         0.799999995},
        {"gov_report", "{\"pred\": \"A b c. D e f. \", \"answers\": [\"D e f. A b c.\"]}",
         0.923076918},
        {"gov_report", "{\"pred\": \"\", \"answers\": [\"x\"]}", 0},
        {"gov_report", "{\"pred\": \"a b a b a b\", \"answers\": [\"a b\"]}", 0.999999995},
        {"gov_report", "{\"pred\": \"x y z . a\", \"answers\": [\"a . z y x\"]}", 0.4999999950},
        {"passkey", "{\"prediction\": \" is 71432. Remember\", \"ground_truth\": \"71432\"}", 1},
        {"passkey", "{\"prediction\": \"7 1432\", \"ground_truth\": \"71432\"}", 0},
        {"kv_retrieval", "{\"prediction\": \"\\\"ab-1\\\", {\", \"ground_truth\": \"ab-1\"}", 1},
        {"code_run", "{\"prediction\": \"is: -5.\", \"ground_truth\": -5}", 1},
        {"code_run", "{\"prediction\": \"12 apples\", \"ground_truth\": 12}", 0},
        {"code_debug", "{\"prediction\": \" B. foo\", \"ground_truth\": [\"foo\", \"B\"]}", 1},
        {"code_debug", "{\"prediction\": \"B\", \"ground_truth\": [\"foo\", \"B\"]}", 0},
        {"code_debug", "{\"prediction\": \"The answer is: B\", \"ground_truth\": [\"foo\", \"B\"]}",
         1},
        {"code_debug",
         "{\"prediction\": \"The correct option is: foo\", \"ground_truth\": [\"foo\", \"B\"]}", 1},
        {"code_debug", "{\"prediction\": \"answer:B\", \"ground_truth\": [\"foo\", \"B\"]}", 0},
        {"math_find", "{\"prediction\": \"is 49.5\", \"ground_truth\": 49.5}", 1},
        {"math_find", "{\"prediction\": \"49\", \"ground_truth\": 49.0}", 1},
        {"math_find", "{\"prediction\": \"-7\", \"ground_truth\": [7]}", 1},
        {"longdialogue_qa_eng", "{\"prediction\": \" Bob.\", \"ground_truth\": [\"BOB\"]}", 1},
        {"longdialogue_qa_eng", "{\"prediction\": \"Mary Ann\", \"ground_truth\": [\"MARY ANN\"]}",
         0},
        {"longbook_choice_eng", "{\"prediction\": \"A cat\", \"ground_truth\": [\"Dog\", \"B\"]}",
         0},
        {"longbook_choice_eng",
         "{\"prediction\": \"the Answer: B\", \"ground_truth\": [\"Dog\", \"B\"]}", 1},
        {"longbook_choice_eng",
         "{\"prediction\": \"I guess AB\", \"ground_truth\": [\"Dog\", \"B\"]}", 0},
        {"longbook_choice_eng", "{\"prediction\": \"Dog\", \"ground_truth\": [\"Dog\", \"B\"]}", 0},
        {"longbook_choice_eng",
         "{\"prediction\": \"it is option C maybe\", \"ground_truth\": [\"Dog\", \"C\"]}", 1},
        {"longbook_qa_eng",
         "{\"prediction\": \"the red house\", \"ground_truth\": [\"red house\", \"blue\"]}", 1},
        {"longbook_qa_chn", "{\"prediction\": \"红色的，房子\", \"ground_truth\": [\"红房子\"]}",
         0.75},
        {"math_calc", "{\"prediction\": \"1, 4 then 9\", \"ground_truth\": [1, 4, 8]}", 2.0 / 3},
    };
    struct scoring how = plain_scoring();
    check_vectors(v, COUNT_OF(v), &how);
    how.omnikv = true; /* the two sets of rules agree on these */
    check_vectors(v, COUNT_OF(v), &how);
}

static void defects_are_not_repeated(void)
{
    static const struct vector v[] = {
        {"kv_retrieval", "{\"prediction\": \"ab-1\", \"ground_truth\": [\"ab-1\"]}", 1},
        {"longdialogue_qa_eng", "{\"prediction\": \"bob\", \"ground_truth\": \"BOB\"}", 1},
        {"longbook_choice_eng", "{\"prediction\": \"B. x\", \"ground_truth\": \"B\"}", 1},
        {"math_find", "{\"prediction\": \"3.5\", \"ground_truth\": 3}", 0},
        {"math_find", "{\"prediction\": \"3.0\", \"ground_truth\": 3}", 1},
        {"math_calc", "{\"prediction\": \"1, 4\", \"ground_truth\": [[1, 4]]}", 1},
        {"math_find",
         "{\"prediction\": \"12345678901234567891\", \"ground_truth\": 12345678901234567890}", 0},
    };
    struct scoring how = plain_scoring();
    check_vectors(v, COUNT_OF(v), &how);

    /* 3,000 equal words: the original's recursion ends at about 980 and scores 0 */
    struct runes words = {0};
    for (int i = 0; i < 3000; i++) runes_add_utf8(&words, "w ", 2);
    CHECK(fabs(rouge_l(words, words) - 1 / (1 + 0.5e-8)) < NEAR, "%.12g", rouge_l(words, words));
    runes_free(&words);
}

/* A published number depends on each of these: OmniKV's own InfiniteBench scores on the first,
 * GPT-4's on the second. */
static void options_bring_back_variants(void)
{
    static const struct vector omnikv[] = {
        {"longbook_choice_eng",
         "{\"prediction\": \"the Answer: Dog\", \"ground_truth\": [\"Dog\", \"B\"]}", 1},
        {"longbook_choice_eng",
         "{\"prediction\": \": A. Option: B\", \"ground_truth\": [\"Dog\", \"B\"]}", 1},
    };
    static const struct vector upstream[] = {
        {"longbook_choice_eng",
         "{\"prediction\": \"the Answer: Dog\", \"ground_truth\": [\"Dog\", \"B\"]}", 0},
        {"longbook_choice_eng",
         "{\"prediction\": \": A. Option: B\", \"ground_truth\": [\"Dog\", \"B\"]}", 0},
    };
    static const struct vector gpt4[] = {
        {"math_calc", "{\"prediction\": \"7 1, 4 then 9\", \"ground_truth\": [1, 4, 8]}", 2.0 / 3},
    };
    static const struct vector lev[] = {
        {"lcc", "{\"pred\": \"abcabcabc\", \"answers\": [\"cbacbacba\"]}", 0.56},
    };
    struct scoring how = plain_scoring();
    check_vectors(upstream, COUNT_OF(upstream), &how);
    how.omnikv = true;
    check_vectors(omnikv, COUNT_OF(omnikv), &how);
    how.first_number_given = true;
    check_vectors(gpt4, COUNT_OF(gpt4), &how);
    how.ratio = fuzz_ratio_lev;
    check_vectors(lev, COUNT_OF(lev), &how);
}

/* Characters, not bytes or C strings, are what the scorers see. */
static void text_is_what_python_has(void)
{
    static const struct vector v[] = {
        {"2stage", "{\"pred\": \"a\\u0000blue\", \"answers\": [\"BLUE\"]}", 1},
        {"2stage", "{\"pred\": \"\\ud800x\", \"answers\": [\"\\ud800X\"]}", 1},
        {"2stage", "{\"pred\": \"\\ud83d\\ude00\", \"answers\": [\"\xf0\x9f\x98\x80\"]}", 1},
        {"2stage", "{\"pred\": \"\\u0130\", \"answers\": [\"i\\u0307\"]}", 1},
        {"2stage", "{\"pred\": \"ὈΔΥΣΣΕΎΣ\", \"answers\": [\"ὀδυσσεύς\"]}", 1},
        {"2stage", "{\"pred\": \"ΣΑΣ.Α\", \"answers\": [\"σασ.α\"]}", 1},
        {"longdialogue_qa_eng", "{\"prediction\": \"Strauß\", \"ground_truth\": [\"STRAUSS\"]}", 1},
        {"passage_count", "{\"pred\": \"٣ 3\", \"answers\": [\"٣\"]}", 0.5},
        {"code_run", "{\"prediction\": \"-٥\", \"ground_truth\": -5}", 1},
        {"qasper", "{\"pred\": \"x\\u001cy\\u0085z\", \"answers\": [\"x y z\"]}", 1},
        {"qasper", "{\"pred\": \"x\\u200by\", \"answers\": [\"x y\"]}", 0}, /* no white space */
    };
    struct scoring how = plain_scoring();
    check_vectors(v, COUNT_OF(v), &how);
}

static void ratio_is(const char *what, struct runes a, struct runes b, int want)
{
    CHECK(fuzz_ratio(a, b) == want, "%s: %d, want %d", what, fuzz_ratio(a, b), want);
}

/* Of 200 characters one that stands 4 times is junk, 3 times not; junk may prolong a match. */
static void difflib_has_its_junk(void)
{
    for (int often = 3; often <= 4; often++) {
        struct runes x = {0}, b = {0};
        runes_add(&x, 'x');
        for (uint32_t i = 0; i < 200; i++)
            runes_add(&b, i > 0 && i <= (uint32_t)often ? 'x' : 0x1000 + i);
        ratio_is("junk", x, b, often == 3 ? 1 : 0); /* 2 / 201 */
        runes_free(&x);
        runes_free(&b);
    }
    struct runes before = {0}, after = {0}, b = {0};
    runes_add_utf8(&before, "xxxQ", 4);
    runes_add_utf8(&after, "Qxxx", 4);
    for (uint32_t i = 0; i < 200; i++)
        runes_add(&b, i == 50 ? 'Q' : i > 0 && i < 100 ? 'x' : 0x1000 + i);
    ratio_is("junk before a match", before, b, 4); /* 8 / 204 */
    ratio_is("junk after a match", after, b, 4);
    runes_free(&before);
    runes_free(&after);
    runes_free(&b);
}

/* One word cannot be matched twice: 1 hit of 2 words and of 4. */
static void words_of_lsum_are_used_up(void)
{
    struct runes can = {0}, ref = {0};
    runes_add_utf8(&can, "a b", 3);
    runes_add_utf8(&ref, "a c\na d", 7);
    CHECK(fabs(rouge_lsum(can, ref) - 1.0 / 3) < NEAR, "%.12g", rouge_lsum(can, ref));
    runes_free(&can);
    runes_free(&ref);
}

static void originals_scores_are_met(void)
{
    const char *path = "tests/data/score/cases.jsonl";
    size_t size = 0;
    char *text = file_read(path, &size);
    struct scoring how = plain_scoring();
    int n = 0, without = 0;

    CHECK(text, "%s", last_failure());
    for (char *line = text, *next; line && *line; line = next) {
        struct jsonl v;
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        if (jsonl_parse(path, line, strlen(line), &v) == 0) {
            size_t bytes;
            char *task = runes_utf8(jsonl_member(&v, "task")->text, &bytes);
            const struct task *t = task_find(task, bytes);
            const double want = jsonl_number(jsonl_member(&v, "want"));
            const bool skip = t && task_needs_jieba(t) && jieba == NULL;
            const double got = skip ? want : score_of(task, line, &how);
            CHECK(fabs(got - want) < NEAR, "%.200s: %.12g", line, got);
            n++;
            without += skip;
            free(task);
        }
        jsonl_free(&v);
    }
    CHECK(n == 3300, "%d cases", n);
    if (without) check_skip("Chinese words", "jieba's dictionary is not installed");
    free(text);
}

/* ---- twins: the bit-parallel table against the plain one */

struct walk {
    int plain[100][2], n, at;
    bool same;
};

static void compare_pair(void *ctx, size_t i, size_t j)
{
    struct walk *w = ctx;
    w->same &= w->at < w->n && w->plain[w->at][0] == (int)i && w->plain[w->at][1] == (int)j;
    w->at++;
}

static void subsequences_are_those_of_the_plain_table(void)
{
    enum { MOST = 100, WIDE = 200 };
    static int T[MOST + 1][WIDE + 1];
    struct lcs l = {0};
    struct rng r;
    rng_seed(&r, 4);
    for (int round = 0; round < 300; round++) {
        int a[MOST], b[WIDE];
        const int na = (int)rng_below(&r, MOST + 1), nb = (int)rng_below(&r, WIDE + 1);
        const int letters = 1 + (int)rng_below(&r, 20);
        for (int i = 0; i < na; i++) a[i] = (int)rng_below(&r, (uint32_t)letters);
        for (int j = 0; j < nb; j++) b[j] = (int)rng_below(&r, (uint32_t)letters);
        for (int i = 0; i <= na; i++)
            for (int j = 0; j <= nb; j++)
                T[i][j] = i == 0 || j == 0            ? 0
                          : a[i - 1] == b[j - 1]      ? T[i - 1][j - 1] + 1
                          : T[i - 1][j] > T[i][j - 1] ? T[i - 1][j]
                                                      : T[i][j - 1];
        struct walk w = {.same = true};
        for (int i = na, j = nb; i > 0 && j > 0;) {
            if (a[i - 1] == b[j - 1]) {
                w.plain[w.n][0] = --i;
                w.plain[w.n++][1] = --j;
            } else if (T[i - 1][j] > T[i][j - 1]) {
                i--;
            } else {
                j--;
            }
        }
        const size_t n = lcs_table(&l, a, (size_t)na, b, (size_t)nb, letters);
        CHECK(n == (size_t)T[na][nb], "%d x %d: %zu, want %d", na, nb, n, T[na][nb]);
        if (n) lcs_walk(&l, a, (size_t)na, b, (size_t)nb, compare_pair, &w);
        CHECK(w.same && w.at == w.n, "%d x %d: another way back", na, nb);
    }
    lcs_free(&l);
}

/* ---- what is refused */

static void what_is_wrong_is_named(void)
{
    static const struct {
        const char *task, *line, *say;
    } cases[] = {
        {"qasper", "{\"pred\": \"x\", \"answers\": [\"y\"", "half-written"},
        {"qasper", "{\"pred\": \"x", "half-written"},
        {"qasper", "{\"pred\": \"x\\u00", "half-written"},
        {"qasper", "[1]", "expected a JSON object, found a list"},
        {"qasper", "{\"answers\": [\"y\"]}", "expected \"prediction\" or \"pred\", found neither"},
        {"qasper", "{\"pred\": null, \"answers\": [\"y\"]}",
         "\"pred\": expected a string, found null"},
        {"qasper", "{\"pred\": \"x\"}", "expected \"answers\", found neither"},
        {"passkey", "{\"pred\": \"x\"}", "expected \"ground_truth\", found neither"},
        {"qasper", "{\"pred\": \"x\", \"answers\": \"y\"}", "\"answers\": expected a list of one"},
        {"qasper", "{\"pred\": \"x\", \"answers\": []}", "found an empty list"},
        {"qasper", "{\"pred\": \"x\", \"answers\": [\"y\", 3]}", "found a whole number in it"},
        {"passkey", "{\"pred\": \"x\", \"label\": 71432}", "\"label\": expected a string"},
        {"kv_retrieval", "{\"pred\": \"x\", \"label\": null}", "found null"},
        {"code_run", "{\"pred\": \"x\", \"label\": 5.5}", "expected a whole number"},
        {"code_run", "{\"pred\": \"x\", \"label\": true}", "found a boolean"},
        {"math_find", "{\"pred\": \"x\", \"label\": \"5\"}", "expected a number"},
        {"math_find", "{\"pred\": \"x\", \"label\": {}}", "found an object"},
        {"math_calc", "{\"pred\": \"x\", \"label\": [1, \"2\"]}", "found a string in it"},
        {"code_debug", "{\"pred\": \"x\", \"label\": [\"foo\"]}", "found a list of 1"},
        {"trec", "{\"pred\": \"x\", \"answers\": [\"y\"], \"all_classes\": null}",
         "\"all_classes\""},
        {"passage_retrieval_en", "{\"pred\": \"x\", \"answers\": [\"y\"]}", "name of a paragraph"},
        {"qasper", "{\"pred\": \"x\", \"pred\": \"z\", \"answers\": [\"y\"]}", "stands twice"},
        {"qasper", "{\"pred\": \"\xff\", \"answers\": [\"y\"]}", "expected UTF-8, found byte 0xff"},
        {"qasper", "{\"pred\": \"x\ty\", \"answers\": [\"y\"]}", "control characters"},
        {"qasper", "{\"pred\": \"x\", \"answers\": [\"y\"]} {}", "expected the end of the line"},
        {"qasper", "{\"pred\": \"x\", \"answers\": [\"y\"], \"length\": 07}", "leading zeros"},
        {"qasper", "{'pred': \"x\"}", "expected a key in quotes"},
    };
    const struct scoring how = plain_scoring();
    mute_failures(true);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CHECK(score_of(cases[i].task, cases[i].line, &how) == -1, "%s is taken", cases[i].line);
        CHECK(strstr(last_failure(), cases[i].say) && strncmp(last_failure(), "line: ", 6) == 0,
              "%s: \"%s\", want \"%s\"", cases[i].line, last_failure(), cases[i].say);
    }
    char deep[400] = "{\"pred\": ";
    for (int i = 0; i < 200; i++) strcat(deep, "[");
    CHECK(score_of("qasper", deep, &how) == -1 && strstr(last_failure(), "64 levels"), "%s",
          last_failure());
    mute_failures(false);
}

/* Whether json_parse(), which reads what is run, and the scorers' reader take TEXT. */
static void readers_take(const char *text, size_t n, bool *json, bool *jsonl)
{
    struct jsonl v;
    cJSON *o = json_parse("text", text, n);
    *json = o != NULL;
    cJSON_Delete(o);
    *jsonl = jsonl_parse("text", text, n, &v) == 0;
    jsonl_free(&v);
}

/* What a run takes must be what its scorer takes; json.loads of Python 3.11 as JSONL. */
static void both_readers_of_json_agree(void)
{
    static const struct {
        const char *text;
        bool json, jsonl;
    } cases[] = {
        {"[0, -0, 10, -1.5, 0.25, 1e5, 1E+05, 2.5e-3]", true, true},
        {" {\"a\" : [ ] , \"b\":{ }, \"c\": [true,false,null]}\r\n", true, true},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"", true, true},
        {"[01]", false, false},
        {"[-01.5]", false, false},
        {"[1.]", false, false},
        {"[.5]", false, false},
        {"[-.5]", false, false},
        {"[+1]", false, false},
        {"[1e]", false, false},
        {"[1.5e+]", false, false},
        {"[-]", false, false},
        {"[0x10]", false, false},
        {"[1,]", false, false},
        {"[,1]", false, false},
        {"[1 2]", false, false},
        {"{\"a\": 1,}", false, false},
        {"{\"a\" 1}", false, false},
        {"{a: 1}", false, false},
        {"{'a': 1}", false, false},
        {"[tru]", false, false},
        {"[1", false, false},
        {"{\"a\": \"b", false, false},
        {"\"\\", false, false},
        {"\"a\tb\"", false, false},
        {"[1,\v2]", false, false},
        {"\"\\x41\"", false, false},
        {"\"\\u12g4\"", false, false},
        {"\"\\u12", false, false},
        {"1 2", false, false},
        {"", false, false},
        {"[NaN, -Infinity]", false, true},
        {"\"\\ud83d\"", false, true},
    };
    const bool muted = mute_failures(true);
    bool json, jsonl;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        readers_take(cases[i].text, strlen(cases[i].text), &json, &jsonl);
        CHECK(json == cases[i].json && jsonl == cases[i].jsonl, "%s: %d, %d", cases[i].text, json,
              jsonl);
    }
    CHECK(json_parse("name", "{\"a\":\n 01}", 11) == NULL &&
              strcmp(last_failure(), "name: not valid JSON at line 2 (byte 8): expected a number "
                                     "without leading zeros, found '1'") == 0,
          "%s", last_failure());

    /* A line with a few bytes replaced: cJSON alone took 01, 1., \\uzzzz and bare control bytes. */
    static const char line[] =
        "{\"a\": [10, -2.5e+03, \"\\u00e9\\n x\"], \"b\": {\"c\": 0}, \"d\": null}";
    static const char bytes[] = "0123456789+-.eE\"\\{}[]:, \t\n\x01unfa";
    struct rng r;
    int taken = 0;
    rng_seed(&r, 11);
    for (int i = 0; i < 20000; i++) {
        char text[sizeof line];
        memcpy(text, line, sizeof line);
        for (uint32_t k = 1 + rng_below(&r, 3); k > 0; k--)
            text[rng_below(&r, sizeof line - 1)] = bytes[rng_below(&r, sizeof bytes - 1)];
        readers_take(text, sizeof line - 1, &json, &jsonl);
        CHECK(!json || jsonl, "%s: %s", text, last_failure());
        taken += json;
    }
    mute_failures(muted);
    CHECK(taken > 1000, "only %d of 20000 taken: the fuzz tests little", taken);
}

int main(void)
{
    set_program_name("test_score");
    mute_failures(true);
    jieba = jieba_open(NULL);
    mute_failures(false);
    published_vectors_are_met();
    defects_are_not_repeated();
    options_bring_back_variants();
    text_is_what_python_has();
    difflib_has_its_junk();
    words_of_lsum_are_used_up();
    originals_scores_are_met();
    subsequences_are_those_of_the_plain_table();
    what_is_wrong_is_named();
    jieba_close(jieba);
    both_readers_of_json_agree();
    return check_report("test_score");
}
