/* test_benchmark.c - the benchmarks: templates, tasks, prompts, labels, prediction files, runs. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/cmd/eval_benchmark.h"
#include "core/dump/dump_read.h"
#include "core/task/benchmark.h"
#include "core/task/prediction_file.h"
#include "core/task/template.h"
#include "tests/check.h"
#include "tests/scored.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#define DATA "tests/data/benchmark/"
#define POCKET "configs/demo/pocket-llama"

static bool is(const struct text *t, const char *want)
{
    return t->n == strlen(want) && (t->n == 0 || memcmp(t->s, want, t->n) == 0);
}

static bool write_file(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    const bool ok = f && fwrite(text, 1, n, f) == n;
    return f && fclose(f) == 0 && ok;
}

static bool holds(const char *path, const char *want)
{
    size_t size;
    char *text = file_read(path, &size);
    const bool same = text && strcmp(text, want) == 0;
    free(text);
    return same;
}

/* ---- templates */

static int shout(void *ctx, const char *name, struct text *out)
{
    (void)ctx;
    if (strcmp(name, "none") == 0) return fail("no such field");
    text_add(out, "<", 1);
    text_add(out, name, strlen(name));
    text_add(out, "{input}>", 8);
    return 0;
}

static void templates_fill_as_str_format_does(void)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"", ""},
        {"plain", "plain"},
        {"{a}", "<a{input}>"},
        {"x{a}{OPTION_B}y ", "x<a{input}><OPTION_B{input}>y "},
        {"{{a}} }}{{", "{a} }{"},
        {"{{{a}}}", "{<a{input}>}"},
        {"{{{{a", "{{a"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text out = {0};
        struct template *t = template_parse("f", cases[i].text);
        CHECK(t && template_fill(&out, t, shout, NULL) == 0 && is(&out, cases[i].want),
              "\"%s\": %.*s", cases[i].text, (int)out.n, out.s ? out.s : "");
        template_free(t);
        free(out.s);
    }
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{", "\"{\" at byte 0"}, {"a}", "found \"}\" alone at byte 1"},
        {"{}", "\"{}\""},         {"{0.x}", "{0.x}"},
        {"{a!r}", "{a!r}"},       {"{a:>3}", "{a:>3}"},
        {"{a[0]}", "{a[0]}"},     {"{file:{context}}", "{file:{context}}"},
        {"{a", "\"{a\""},         {"{a }", "{a }"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct template *t = template_parse("f", bad[i].text);
        CHECK(t == NULL && strstr(last_failure(), bad[i].says), "\"%s\": %s", bad[i].text,
              last_failure());
        template_free(t);
    }
    struct text out = {0};
    struct template *t = template_parse("f", "{a}{none}");
    CHECK(t && template_fill(&out, t, shout, NULL) == -1, "a field that fails is filled");
    template_free(t);
    free(out.s);
}

/* ---- text of JSON */

static void values_are_taken_as_they_stand(void)
{
    static const char line[] =
        " { \"a\" : 49.0, \"b\\u0063\": [1, [\"]\", 2.50], {\"x\": \"}\"}] ,"
        "\"d\":\"\\\"\\u0041\\u0000\\ud83d\\ude00\\n\", \"e\": null, \"f\": true}";
    const size_t n = sizeof line - 1;
    static const struct {
        const char *key, *kind, *dump;
    } cases[] = {
        {"a", "a fraction", "49.0"},
        {"bc", "a list", "[1, [\"]\", 2.50], {\"x\": \"}\"}]"},
        {"d", "a string", "\"\\\"A\\u0000\xf0\x9f\x98\x80\\n\""},
        {"e", "null", "null"},
        {"f", "a boolean", "true"},
        {"x", "nothing", ""},
        {"b", "nothing", ""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text out = {0};
        const struct span v = span_member(line, n, cases[i].key);
        if (v.s) span_dump(&out, v);
        CHECK(strcmp(span_kind(v), cases[i].kind) == 0 && is(&out, cases[i].dump), "%s: %s, %.*s",
              cases[i].key, span_kind(v), (int)out.n, out.s ? out.s : "");
        free(out.s);
    }
    const struct span list = span_member(line, n, "bc"), empty = {"[ ]", 3};
    struct span item = span_first(list);
    CHECK(item.n == 1 && *item.s == '1', "%.*s", (int)item.n, item.s);
    item = span_next(list, item);
    CHECK(item.n == 11, "%.*s", (int)item.n, item.s);
    item = span_next(list, span_next(list, item));
    CHECK(item.s == NULL && span_first(empty).s == NULL, "an item past the last");

    /* What json.dumps(ensure_ascii=False) of Python 3.11 writes for these characters. */
    static const char raw[] = "\0\1\b\t\n\f\r\x1f \"/\\\x7f\xc3\xa9";
    struct text out = {0};
    text_dump(&out, raw, sizeof raw - 1);
    CHECK(is(&out, "\"\\u0000\\u0001\\b\\t\\n\\f\\r\\u001f \\\"/\\\\\x7f\xc3\xa9\""), "%.*s",
          (int)out.n, out.s);
    free(out.s);
}

/* ---- tasks */

static void all_tasks_are_there(void)
{
    int n = 0, e = 0, bare = 0, infinite = 0;
    for (const struct benchmark_task *t = benchmark_tasks(LONGBENCH); t->name; t++) {
        n++;
        e += (t->traits & TASK_ENGLISH_E) != 0;
        bare += (t->traits & TASK_BARE) != 0;
    }
    for (const struct benchmark_task *t = benchmark_tasks(INFINITEBENCH); t->name; t++) infinite++;
    CHECK(n == 21 && e == 13 && bare == 6 && infinite == 12, "%d %d %d %d", n, e, bare, infinite);
}

/* ---- prompts and labels of our data */

static void check_sample(const char *tasks, int i, const char *prompt, const char *line)
{
    struct benchmark *b = benchmark_open(INFINITEBENCH, DATA "infinitebench", tasks);
    struct text text = {0}, head = {0}, tail = {0};
    CHECK(b && b->n == 1, "%s: %s", tasks, last_failure());
    if (b == NULL) return;
    CHECK(benchmark_prompt(&b->set[0], i, &text) == 0 && is(&text, prompt), "%s %d: %.*s", tasks, i,
          (int)text.n, text.s);
    CHECK(benchmark_label(&b->set[0], i, &head, &tail) == 0, "%s", last_failure());
    text_add(&head, "?", 1);
    text_add(&head, tail.s, tail.n);
    CHECK(is(&head, line), "%s %d: %.*s", tasks, i, (int)head.n, head.s);
    free(text.s);
    free(head.s);
    free(tail.s);
    benchmark_close(b);
}

static void prompts_and_labels_are_exact(void)
{
    check_sample(
        "math_find", 0,
        "What is the second largest number of the list in the following list?\n"
        "[4, 17, 99, 3]\nYou should answer with a number. The second largest number of the "
        "list of numbers is:",
        "{\"id\": 0, \"prediction\": ?, \"ground_truth\": 17}\n");
    check_sample("math_find", 1,
                 "What is the median number in the following list?\n[1, 2, 3, 4]\n"
                 "The median number of the list is:",
                 "{\"id\": 1, \"prediction\": ?, \"ground_truth\": 2.0}\n");
    check_sample("code_run", 0,
                 "func_1 is one of these.\ndef func_1(x):\n    return func_12(x) + 3\n\ndef "
                 "func_12(x):\n    return x - 1\n\nfunc_1(-5) is",
                 "{\"id\": 0, \"prediction\": ?, \"ground_truth\": -3}\n");
    check_sample("code_debug", 0,
                 "def add(a, b):\n    return a + c\n\n(A) add\n(B) sub\n(C) mul\n(D) div\nAnswer:",
                 "{\"id\": 0, \"prediction\": ?, \"ground_truth\": [\"add\", \"A\"]}\n");
    check_sample("longbook_qa_chn", 0, "小河在房子旁边。桥在路旁。\nQuestion: 河在哪里？\nAnswer:",
                 "{\"id\": 0, \"prediction\": ?, \"ground_truth\": [\"房子旁边\"]}\n");
    check_sample("math_calc", 0, "1 + 2 - 3\nValues:",
                 "{\"id\": 0, \"prediction\": ?, \"ground_truth\": [1, 3, 0]}\n");
}

/* ---- lines that are refused */

/* Opens TASK of KIND with TEXT as its only data, and our templates. */
static struct benchmark *open_text(enum benchmark_kind kind, const char *task, const char *text,
                                   const char *template)
{
    static const char *dir;
    if (dir == NULL) {
        dir = check_scratch("made");
        mkdir(dir, 0777);
    }
    char *path = xprintf("%s/%s%s.jsonl", dir, task, kind == LONGBENCH_E ? "_e" : "");
    char *prompts = xprintf("{\"%s\": \"%s\"}", task, template);
    char *lengths = xprintf("{\"%s\": 5}", task);
    char *p = xprintf("%s/dataset2prompt.json", dir), *l = xprintf("%s/dataset2maxlen.json", dir);
    struct benchmark *b = NULL;
    if (write_file(path, text, strlen(text)) && write_file(p, prompts, strlen(prompts)) &&
        write_file(l, lengths, strlen(lengths)))
        b = benchmark_open(kind, dir, task);
    unlink(path);
    free(path);
    free(prompts);
    free(lengths);
    free(p);
    free(l);
    return b;
}

#define LB(answers, classes, length)                                                               \
    "{\"context\": \"c\", \"input\": \"i\", \"answers\": " answers ", \"all_classes\": " classes   \
    ", \"length\": " length "}\n"
#define IB(answer, options)                                                                        \
    "{\"context\": \"c\", \"input\": \"i\", \"answer\": " answer ", \"options\": " options "}\n"
#define ABCD "[\"a\", \"b\", \"c\", \"d\"]"

static void lines_are_refused_by_number(void)
{
    static const char good[] = LB("[\"x\"]", "null", "3");
    static const struct {
        enum benchmark_kind kind;
        const char *task, *text, *template, *says;
    } cases[] = {
        {LONGBENCH, "qasper", "", "", "qasper.jsonl: expected at least one line"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "null", "3") "\n" LB("[\"x\"]", "null", "3"), "{input}",
         "qasper.jsonl:2: expected an object of JSON, found an empty line"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "null", "3") "{\"context\": \"c\", \"inp", "{input}",
         "qasper.jsonl:2: expected an object of JSON, found a line that breaks off after 21 bytes"},
        {LONGBENCH, "qasper", "{\"context\": \"c\", }", "{input}",
         "qasper.jsonl:1: not valid JSON"},
        {LONGBENCH, "qasper", "[1]", "{input}", "found a list"},
        {LONGBENCH, "qasper", "{\"context\": \"\xff\"}", "", "expected UTF-8, found byte 0xff"},
        {LONGBENCH, "qasper", "{\"context\": \"c\"}", "{input}",
         "qasper.jsonl:1: \"input\": expected a string, found nothing"},
        {LONGBENCH, "qasper", "{\"context\": 5}", "{context}",
         "qasper.jsonl:1: \"context\": expected a string, found a whole number"},
        {LONGBENCH, "qasper", LB("\"x\"", "null", "3"), "",
         "\"answers\": expected a list of strings"},
        {LONGBENCH, "qasper", LB("[\"x\", 2]", "null", "3"), "", "answers[1]: expected a string"},
        {LONGBENCH, "qasper", LB("[]", "null", "3"), "",
         "\"answers\": expected one string at least, found an empty list"},
        {LONGBENCH, "trec", LB("[\"x\"]", "null", "3"), "",
         "\"all_classes\": expected a list of strings, found null"},
        {LONGBENCH, "trec", LB("[\"x\"]", "[]", "3"), "",
         "\"all_classes\": expected one string at least, found an empty list"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[null]", "3"), "",
         "all_classes[0]: expected a string, found null"},
        {LONGBENCH, "qasper", "{\"answers\": [\"x\"], \"length\": 3}", "",
         "\"all_classes\": expected a list of strings, found nothing"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[]", "3.5"), "",
         "\"length\": expected a whole number from 0, found a fraction"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[]", "-3"), "", "found a negative one"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[]", "01"), "",
         "qasper.jsonl:1: not valid JSON at line 1 (byte 79): expected a number without leading "
         "zeros, found '1'"},
        {LONGBENCH, "qasper", LB("[\"x\ty\"]", "[]", "1"), "",
         "expected control characters in strings to be escaped, found byte 0x09"},
        {LONGBENCH, "passage_retrieval_en", LB("[\"Paragraph 3\", \"Paragraph x\"]", "[]", "1"), "",
         "answers[1]: expected \"Paragraph \" and a number, found \"Paragraph x\""},
        {LONGBENCH, "passage_retrieval_zh", LB("[\"\"]", "[]", "1"), "",
         "answers[0]: expected \"段"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[]", "3"), "{contxt}",
         "dataset2prompt.json: \"qasper\": {contxt}: expected a field of the data, found none of "
         "that name"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[]", "3"), "{question}", "\"qasper\": {question}"},
        {LONGBENCH, "qasper", LB("[\"x\"]", "[]", "3"), "{}",
         "dataset2prompt.json: \"qasper\": expected"},
        {INFINITEBENCH, "passkey", IB("[]", "[]"), "",
         "\"answer\": expected a string, or a list of one or more strings, found an empty list"},
        {INFINITEBENCH, "passkey", IB("null", "[]"), "", "\"answer\": expected a string, or"},
        {INFINITEBENCH, "passkey", IB("[\"1\", null]", "[]"), "",
         "passkey.jsonl:1: answer[1]: expected a string, found null"},
        {INFINITEBENCH, "longbook_qa_eng", IB("\"a\"", "[]"), "",
         "\"answer\": expected a list of one or more strings, found a string"},
        {INFINITEBENCH, "code_run", IB("2.0", "[]"), "",
         "\"answer\": expected a whole number, or a list of one or more whole numbers, found a "
         "fraction"},
        {INFINITEBENCH, "math_calc", IB("[[1, \"2\"]]", "[]"), "",
         "answer[0][1]: expected a whole number, found a string"},
        {INFINITEBENCH, "passkey", IB("\"1\"", "[]"), "{prefix}", "\"passkey\": {prefix}"},
        {INFINITEBENCH, "code_run", IB("1", "[]"), "{func}", "expected a call like func_12(-3)"},
        {INFINITEBENCH, "math_find", IB("1", "[]"), "{prefix}", "expected a question like"},
        {INFINITEBENCH, "code_debug", IB("\"a\"", "[\"a\"]"), "", "expected four strings, found 1"},
        {INFINITEBENCH, "code_debug", IB("\"e\"", ABCD), "",
         "expected one of the options, found \"e\""},
        {INFINITEBENCH, "code_debug", IB("[\"a\", \"E\"]", ABCD), "", "found another list"},
        {INFINITEBENCH, "code_debug", IB("[\"a\", \"A\", \"A\"]", ABCD), "", "found another list"},
        {INFINITEBENCH, "code_debug", IB("1", ABCD), "", "found another whole number"},
        {INFINITEBENCH, "code_debug", IB("[]", ABCD), "", "found another list"},
        {TWO_STAGE, "2stage", "{\"prompt\": \"p\"}", "", "2stage.jsonl:1: \"answers\""},
        {TWO_STAGE, "2stage", "{\"answers\": []}", "", "2stage.jsonl:1: \"prompt\""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct benchmark *b =
            open_text(cases[i].kind, cases[i].task, cases[i].text, cases[i].template);
        CHECK(b == NULL && strstr(last_failure(), cases[i].says), "case %zu: %s", i,
              last_failure());
        benchmark_close(b);
    }
    struct benchmark *b = open_text(LONGBENCH, "qasper", good, "{context}{length}");
    CHECK(b == NULL, "a number goes into a prompt");
    benchmark_close(b);
    b = open_text(LONGBENCH, "qasper",
                  "{\"context\": \"a\\u0000b\", \"answers\": [\"\"], \"all_classes\": "
                  "null, \"length\": 3}",
                  "{context}");
    struct text prompt = {0};
    CHECK(b && benchmark_prompt(&b->set[0], 0, &prompt) == 0 && prompt.n == 3 &&
              memcmp(prompt.s, "a\0b", 3) == 0,
          "a last line without a newline, and a NUL: %s", last_failure());
    free(prompt.s);
    benchmark_close(b);
    CHECK(benchmark_open(LONGBENCH, DATA "longbench", "qaspar") == NULL &&
              strstr(last_failure(), "did you mean \"qasper\""),
          "%s", last_failure());
    CHECK(benchmark_open(LONGBENCH_E, DATA "longbench", "musique") == NULL, "not part of E");
    CHECK(benchmark_open(LONGBENCH, DATA "longbench", "trec,trec") == NULL &&
              strstr(last_failure(), "stands twice"),
          "%s", last_failure());
    CHECK(benchmark_open(LONGBENCH, DATA "longbench", "musique") == NULL &&
              strstr(last_failure(), "musique.jsonl: missing; data.zip of https://"),
          "%s", last_failure());
    CHECK(benchmark_open(LONGBENCH_E, DATA "2stage", "qasper") == NULL &&
              strstr(last_failure(), "qasper_e.jsonl: missing"),
          "%s", last_failure());
}

/* A run must not begin whose predictions its scorer refuses, nor a label that it takes be refused.
 * Each of ANSWERS as each task's label: what is taken is scored, and what is refused is not. */
static void labels_are_what_the_scorers_take(void)
{
    static const char *const answers[] = {
        "\"a\"",
        "\"\"",
        "[\"a\"]",
        "[\"a\", \"b\"]",
        "[\"a\", \"B\"]",
        "[\"a\", \"b\", \"c\"]",
        "[\"Paragraph 12\"]",
        "[\"see Paragraph x, Paragraph 3\"]",
        "[\"Paragraph \"]",
        "[\"段落7\", \"段落\"]",
        "[\"\\u6bb5\\u843d7\"]",
        "5",
        "-5",
        "5.0",
        "1e3",
        "[5]",
        "[5, \"a\"]",
        "[5, 5.5]",
        "[5.5, 5]",
        "[\"a\", 5]",
        "[[1, 2]]",
        "[[1, 2], \"a\"]",
        "[[1, 2.5]]",
        "[[1, \"a\"]]",
        "[[]]",
        "[[\"a\"]]",
        "[1, [2]]",
        "[]",
        "{}",
        "{\"a\": 1}",
        "true",
        "[null]",
        "null",
    };
    static const char *const lengths[] = {"0", "12", "-1", "1.5", "\"1\"", "null"};
    int taken = 0;
    for (int kind = 0; kind < BENCHMARKS; kind++)
        for (const struct benchmark_task *task = benchmark_tasks((enum benchmark_kind)kind);
             task->name; task++)
            for (size_t i = 0; i < COUNT_OF(answers) + COUNT_OF(lengths); i++) {
                const bool e = kind == LONGBENCH_E;
                if (e && !(task->traits & TASK_ENGLISH_E)) continue;
                const char *answer = i < COUNT_OF(answers)           ? answers[i]
                                     : task->traits & TASK_PARAGRAPH ? "[\"Paragraph 1\"]"
                                                                     : "[\"段落1\"]";
                const char *length = i < COUNT_OF(answers) ? "3" : lengths[i - COUNT_OF(answers)];
                char *fields = xprintf("\"answers\": %s, \"answer\": %s, \"length\": %s, "
                                       "\"all_classes\": [\"a\"], \"options\": " ABCD "}\n",
                                       answer, answer, length);
                char *data = xprintf("{\"prompt\": \"p\", %s", fields);
                char *label = xprintf("{\"pred\": \"p\", \"label\": %s, %s", answer, fields);
                struct text head = {0}, tail = {0};
                struct benchmark *b = open_text((enum benchmark_kind)kind, task->name, data, "");
                if (b && benchmark_label(&b->set[0], 0, &head, &tail) == 0) {
                    text_add(&head, "\"p\"", 3);
                    text_add(&head, tail.s, tail.n);
                    CHECK(scorer_takes(task->name, e, head.s, head.n - 1), "%s: %.*s: %s",
                          task->name, (int)head.n, head.s, last_failure());
                    taken++;
                } else if (i < COUNT_OF(answers) && !(task->traits & TASK_OPTIONS)) {
                    CHECK(!scorer_takes(task->name, e, label, strlen(label) - 1),
                          "%s: a label that is scored is refused: %s", task->name, label);
                }
                benchmark_close(b);
                free(head.s);
                free(tail.s);
                free(fields);
                free(data);
                free(label);
            }
    CHECK(taken > 200, "%d taken", taken);
}

static void fuzzed_lines_are_taken_or_refused(void)
{
    static const char *const lines[] = {
        LB("[\"x\", \"\\u00e9\\ud83d\\ude00\"]", "[\"a\"]", "3"),
        IB("[\"a\", \"A\"]", ABCD),
        "{\"context\": \"c\", \"input\": \"The largest number of func_1(-2)\", \"answer\": [1, "
        "2.0]}",
    };
    static const struct {
        enum benchmark_kind kind;
        const char *task, *template;
    } readers[] = {
        {LONGBENCH, "qasper", "{context}{input}"},
        {INFINITEBENCH, "code_debug", "{context}{OPTION_A}{OPTION_D}"},
        {INFINITEBENCH, "math_find", "{prefix}{input}"},
        {INFINITEBENCH, "code_run", "{func}{func_call}"},
    };
    static const char bytes[] = "\"\\{}[],:u0-.eE \n\xff\xc3";
    struct rng rng;
    int taken = 0, refused = 0;
    rng_seed(&rng, 7);
    for (int i = 0; i < 400; i++) {
        char *text = xstrdup(lines[i % 3]);
        for (uint32_t k = rng_below(&rng, 3) + (i > 11); k > 0; k--)
            text[rng_below(&rng, (uint32_t)strlen(text))] =
                bytes[rng_below(&rng, sizeof bytes - 1)];
        const size_t r = rng_below(&rng, COUNT_OF(readers));
        struct benchmark *b =
            open_text(readers[r].kind, readers[r].task, text, readers[r].template);
        b ? taken++ : refused++;
        benchmark_close(b);
        free(text);
    }
    CHECK(taken > 5 && refused > 200, "%d taken, %d refused", taken, refused);
}

/* ---- the middle of a prompt */

static void the_middle_is_cut_out(void)
{
    static const struct {
        int n, head, tail, first, last, left;
        const char *want;
    } cases[] = {
        {10, 0, 0, 3, 3, 6, "012789"},      {10, 2, 1, 1, 2, 6, "012789"},
        {10, 2, 1, 2, 0, 5, "01239"},       {10, 0, 0, 5, 5, 10, "0123456789"},
        {10, 4, 4, 3, 3, 10, "0123456789"}, {10, 1, 0, 0, 4, 5, "06789"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int ids[10];
        char got[11] = "";
        for (int k = 0; k < 10; k++) ids[k] = k;
        const int n = cut_middle(ids, cases[i].n, cases[i].head, cases[i].tail, cases[i].first,
                                 cases[i].last);
        for (int k = 0; k < n && k < 10; k++) got[k] = (char)('0' + ids[k]);
        CHECK(n == cases[i].left && strcmp(got, cases[i].want) == 0, "case %zu: %s", i, got);
    }
}

/* ---- prediction files */

static int numbered(void *ctx, int k, struct text *head, struct text *tail)
{
    char text[32];
    (void)ctx;
    text_add(head, "{\"pred\": ", 9);
    snprintf(text, sizeof text, ", \"length\": %d}\n", k);
    text_add(tail, text, strlen(text));
    return 0;
}

static int add(struct prediction_file *p, const char *text)
{
    struct text head = {0}, tail = {0};
    numbered(NULL, p->lines, &head, &tail);
    const int rc = prediction_file_add(p, &head, text, strlen(text), &tail);
    free(head.s);
    free(tail.s);
    return rc;
}

static void prediction_files_go_on(void)
{
    static const char two[] =
        "{\"pred\": \"a\\n\", \"length\": 0}\n{\"pred\": \"\\\"\", \"length\": 1}\n";
    const char *path = check_scratch("p.jsonl");
    struct prediction_file p, q;

    CHECK(prediction_file_open(&p, path, 5, numbered, NULL) == 0 && p.lines == 0, "%s",
          last_failure());
    CHECK(prediction_file_open(&q, path, 5, numbered, NULL) == -1 &&
              strstr(last_failure(), "another process is writing it"),
          "%s", last_failure());
    CHECK(add(&p, "a\n") == 0 && add(&p, "\"") == 0, "%s", last_failure());
    CHECK(prediction_file_close(&p, 0) == 0, "%s", last_failure());
    CHECK(holds(path, two), "what was added");

    /* Cut anywhere, the file goes on behind its last whole line. */
    const size_t first = strlen("{\"pred\": \"a\\n\", \"length\": 0}\n");
    for (size_t n = 0; n < sizeof two; n++) {
        write_file(path, two, n);
        const int want = n < first ? 0 : n < sizeof two - 1 ? 1 : 2;
        CHECK(prediction_file_open(&p, path, 2, numbered, NULL) == 0 && p.lines == want, "%zu: %d",
              n, p.lines);
        if (want < 1) add(&p, "a\n");
        if (want < 2) add(&p, "\"");
        prediction_file_close(&p, 0);
        CHECK(holds(path, two), "cut after %zu bytes", n);
    }
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"pred\": \"a\", \"length\": 1}\n", "p.jsonl:1: expected a prediction of this sample"},
        {"{\"pred\": \"a\", \"length\": 0}\n\n", "p.jsonl:2: expected a prediction"},
        {"{\"pred\": 5, \"length\": 0}\n", "p.jsonl:1: expected"},
        {"{\"pred\": \"a\", \"length\": 9, \"length\": 0}\n", "p.jsonl:1: expected"},
        {"{\"id\": \"a\", \"length\": 0}\n", "p.jsonl:1: expected"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        write_file(path, bad[i].text, strlen(bad[i].text));
        CHECK(prediction_file_open(&p, path, 2, numbered, NULL) == -1 &&
                  strstr(last_failure(), bad[i].says),
              "case %zu: %s", i, last_failure());
    }
    write_file(path, two, sizeof two - 1);
    CHECK(prediction_file_open(&p, path, 1, numbered, NULL) == -1 &&
              strstr(last_failure(), "p.jsonl:2: expected the end after 1 samples"),
          "%s", last_failure());
    unlink(path);
    CHECK(prediction_file_open(&p, path, 1, numbered, NULL) == 0 &&
              prediction_file_close(&p, 0) == 0 && access(path, F_OK) != 0,
          "an empty file stays");
}

static void a_line_that_does_not_fit_is_taken_back(void)
{
    const char *path = check_scratch("full.jsonl");
    struct rlimit old, small = {40, RLIM_INFINITY};
    struct prediction_file p;
    struct stat st;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    CHECK(prediction_file_open(&p, path, 5, numbered, NULL) == 0, "%s", last_failure());
    CHECK(add(&p, "a") == 0, "%s", last_failure());
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK(add(&p, "b") == -1 && strstr(last_failure(), "cannot be written after line 1"), "%s",
          last_failure());
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(stat(path, &st) == 0 && st.st_size == 27, "%ld bytes", (long)st.st_size);
    CHECK(add(&p, "b") == 0 && p.lines == 2, "%s", last_failure());
    prediction_file_close(&p, 0);
}

/* ---- runs */

/* Runs okv eval --benchmark on the pocket model without its table; the exit status. */
static int run(struct benchmark_args b, const char *config)
{
    char *argv[] = {(char *)"eval", NULL};
    const struct engine_args args = {
        .model = POCKET, .config = config, .device = "cpu", .threads = 1};
    fflush(stdout);
    const int kept = dup(1), null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    const int status = eval_benchmark("eval", &args, &b, 1, argv);
    fflush(stdout);
    dup2(kept, 1);
    close(kept);
    close(null);
    return status;
}

static char *result(const char *dir, const char *name)
{
    size_t size;
    char *path = path_join(dir, name), *text = file_read(path, &size);
    free(path);
    return text ? text : xstrdup("");
}

static const struct benchmark_args qasper = {
    .name = "longbench", .data = DATA "longbench", .tasks = "qasper", .max_new = 3};

static void an_interrupted_run_ends_the_same(void)
{
    struct benchmark_args b = qasper;
    b.out = check_scratch("whole");
    CHECK(run(b, NULL) == 0, "%s", last_failure());
    char *whole = result(b.out, "qasper.jsonl");
    const size_t n = strlen(whole);
    CHECK(n > 400, "%zu bytes", n);

    char *path = path_join(b.out, "qasper.jsonl");
    const size_t cuts[] = {0, 1, n / 2, n - 1, n};
    for (size_t i = 0; i < COUNT_OF(cuts); i++) {
        CHECK(truncate(path, (off_t)cuts[i]) == 0 && run(b, NULL) == 0, "%s", last_failure());
        char *again = result(b.out, "qasper.jsonl");
        CHECK(strcmp(whole, again) == 0, "cut after %zu bytes: %s", cuts[i], again);
        free(again);
    }

    /* Shards hold the same lines, each those of its residue class. */
    b.out = check_scratch("shards");
    b.shard = "1/3";
    CHECK(run(b, NULL) == 0, "%s", last_failure());
    b.shard = "0/3";
    CHECK(run(b, NULL) == 0, "%s", last_failure());
    b.shard = "2/3";
    CHECK(run(b, NULL) == 0, "%s", last_failure());
    char *shard[3], *at[3], *line = whole;
    for (int i = 0; i < 3; i++) {
        char name[40];
        snprintf(name, sizeof name, "qasper.%d-of-3.jsonl", i);
        at[i] = shard[i] = result(b.out, name);
    }
    for (int k = 0; *line; k++) {
        const size_t length = strcspn(line, "\n") + 1;
        CHECK(strncmp(line, at[k % 3], length) == 0, "sample %d: %s", k, at[k % 3]);
        if (strlen(at[k % 3]) >= length) at[k % 3] += length;
        line += length;
    }
    for (int i = 0; i < 3; i++) {
        CHECK(*at[i] == 0, "shard %d holds more", i);
        free(shard[i]);
    }

    /* What does not belong to the run is refused, and stays as it is. */
    static const struct {
        const char *shard, *tasks;
        int max_samples, max_new;
        const char *says;
    } other[] = {
        {NULL, "qasper", 0, 3, "\"shards\": this run has 1"},
        {"0/3", "qasper", 0, 4, "\"max_new\": this run has 4"},
        {"0/3", "qasper", 4, 3, "qasper.0-of-3.jsonl:3: expected the end after 2 samples"},
        {"3/3", "qasper", 0, 3, "--shard: expected I/N"},
        {"0", "qasper", 0, 3, "--shard: expected I/N"},
    };
    for (size_t i = 0; i < COUNT_OF(other); i++) {
        b.shard = other[i].shard;
        b.tasks = other[i].tasks;
        b.max_samples = other[i].max_samples;
        b.max_new = other[i].max_new;
        CHECK(run(b, NULL) != 0 && strstr(last_failure(), other[i].says), "case %zu: %s", i,
              last_failure());
    }

    /* A run that was ended before its first sample binds nobody. */
    b = qasper;
    b.out = check_scratch("begun");
    b.max_samples = 1;
    CHECK(run(b, NULL) == 0, "%s", last_failure());
    free(path);
    path = path_join(b.out, "qasper.jsonl");
    b.max_new = 4;
    CHECK(run(b, NULL) == 1 && strstr(last_failure(), "\"max_new\": this run has 4"), "%s",
          last_failure());
    CHECK(truncate(path, 0) == 0 && run(b, NULL) == 0, "%s", last_failure());
    b.max_new = 3;
    CHECK(run(b, NULL) == 1 && strstr(last_failure(), "were made with 4"), "%s", last_failure());
    free(path);
    free(whole);
}

/* Tokens of traced sample 0 of PATH; the caller frees them. */
static int *traced_tokens(const char *path, int *n_prefill)
{
    struct dump *d = dump_open(path);
    struct dump_sample_info info;
    int *tokens = NULL;
    *n_prefill = 0;
    if (d && dump_sample(d, 0, &info) == 0) {
        tokens = xmalloc((size_t)info.T * sizeof *tokens);
        *n_prefill = dump_ints(d, 0, DUMP_TOKENS, 0, tokens) == 0 ? info.n_prefill : 0;
    }
    dump_close(d);
    return tokens;
}

static void prompts_are_cut_in_the_middle(void)
{
    const char *config = check_scratch("c.json"), *dump = check_scratch("cut.h5");
    static const char raw[] = "{\"model_cls\": \"raw_llama\", \"max_context_len\": 61}";
    static const char chat[] =
        "{\"model_cls\": \"raw_llama\", \"max_context_len\": 61, \"use_chat_template\": true}";
    struct tokenizer *t = tokenizer_load(POCKET);
    struct benchmark *b = benchmark_open(LONGBENCH, DATA "longbench", "qasper");
    struct text prompt = {0};
    int *bare, *wrapped, n_bare, n_wrapped;
    CHECK(t && b && benchmark_prompt(&b->set[0], 0, &prompt) == 0, "%s", last_failure());
    if (t == NULL || b == NULL) return;
    text_add(&prompt, "", 1);
    char *message = tokenizer_chat_wrap(t, CHAT_LLAMA3, NULL, prompt.s);
    tokenizer_encode(t, prompt.s, prompt.n - 1, true, &bare, &n_bare);
    tokenizer_encode(t, message, strlen(message), true, &wrapped, &n_wrapped);
    /* BOS and the header of the user's turn; the end of the turn and the assistant's header. */
    static const char front[] = "<|start_header_id|>user<|end_header_id|>\n\n";
    static const char back[] = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
    int *ids, head, tail;
    tokenizer_encode(t, front, strlen(front), true, &ids, &head);
    free(ids);
    tokenizer_encode(t, back, strlen(back), false, &ids, &tail);
    free(ids);
    CHECK(n_wrapped == n_bare - 1 + head + tail, "%d %d %d %d", n_wrapped, n_bare, head, tail);

    const int room = (61 - 3 - head - tail) / 2;
    const struct {
        const char *config;
        bool no_reserve;
        const int *ids;
        int n, first, last; /* what is left of ids [n] */
    } cases[] = {
        {raw, false, bare, n_bare, 29, 29}, /* (61 - 3) / 2 */
        {raw, true, bare, n_bare, 30, 30},  /* 61 / 2: an odd limit loses one, as in the original */
        {chat, false, wrapped, n_wrapped, head + room, room + tail},
        {chat, true, wrapped, n_wrapped, head + 29, 30 + tail}, /* BOS is one of the 30 in front */
    };
    setenv("SAVE_SELECTED_IDX", dump, 1);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char name[20];
        snprintf(name, sizeof name, "cut%zu", i);
        struct benchmark_args a = qasper;
        a.out = check_scratch(name);
        a.max_samples = 1;
        a.no_reserve = cases[i].no_reserve;
        write_file(config, cases[i].config, strlen(cases[i].config));
        CHECK(run(a, config) == 0, "%s", last_failure());
        int n, *got = traced_tokens(dump, &n);
        const int first = cases[i].first, last = cases[i].last;
        CHECK(n == first + last, "case %zu: %d, expected %d", i, n, first + last);
        if (n == first + last)
            CHECK(memcmp(got, cases[i].ids, (size_t)first * sizeof *got) == 0 &&
                      memcmp(got + first, cases[i].ids + cases[i].n - last,
                             (size_t)last * sizeof *got) == 0,
                  "case %zu: other tokens", i);
        free(got);
        unlink(dump);
    }
    unsetenv("SAVE_SELECTED_IDX");
    free(bare);
    free(wrapped);
    free(message);
    free(prompt.s);
    benchmark_close(b);
    tokenizer_free(t);
}

int main(void)
{
    mute_failures(true);
    templates_fill_as_str_format_does();
    values_are_taken_as_they_stand();
    all_tasks_are_there();
    prompts_and_labels_are_exact();
    lines_are_refused_by_number();
    labels_are_what_the_scorers_take();
    fuzzed_lines_are_taken_or_refused();
    the_middle_is_cut_out();
    prediction_files_go_on();
    a_line_that_does_not_fit_is_taken_back();
    an_interrupted_run_ends_the_same();
    prompts_are_cut_in_the_middle();
    return check_report("test_benchmark");
}
