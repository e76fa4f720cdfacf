/* test_jieba.c - the cut of Chinese text: a small dictionary and model worked out by hand, files
 * that are refused, then what jieba itself makes of some texts. Words are bytes: every comparison
 * is exact. */
#include "analyze/jieba.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN "tests/data/jieba/golden.jsonl"

/* Frequencies add up to 10000. */
static const char dict[] = "a 1100 n\n"
                           "b 1100 n\n"
                           "ab 1 n\n"
                           "cd 50 n\n"
                           "e 20 n\n"
                           "c 20 n\n"
                           "de 50 n\n"
                           "fgh 10 n\n"
                           "fg 2000\r\n"
                           "h 1339 n\n"
                           "abab 1 n\n"
                           "\u4e03\u4e03 0 n\n"
                           "\u4e03\u4e00\u4e03 5 n\n"
                           "i 50 n\n"
                           "ij 2 n\n"
                           "k 100 n\n"
                           "l 150 n\n"
                           "kl 2 n\n"
                           "\xc2\xb7q 4000 n\n";
static const char start[] = "P={'B': -1.0,\n 'E': -3.14e+100,\n 'M': -3.14e+100,\n 'S': -1}\n";
static const char trans[] = "P={'B': {'E': -1, 'M': -1.0},\n 'E': {'B': -1, 'S': -1},\n"
                            " 'M': {'E': -1, 'M': -1},\n 'S': {'B': -1, 'S': -1}}\n";
/* U+4E00 begins words (or stands alone, less likely), 01 ends them, 02 is in the middle, 03 stands
 * alone, 04 is anything, each as likely */
static const char emit[] = "from __future__ import unicode_literals\n\n"
                           "P={'B': {'\\u4e00': -1,\n  '\\u4e04': -1},\n"
                           " 'E': {'\\u4e01': -1, '\\u4dff': -1, '\\u9fd5': -1, '\\u9fd6': -1, "
                           "'\\u4e04': -1},\n 'M': {'\\u4e02': -1, '\\u4e04': -1},\n"
                           " 'S': {'\\u2236': -1, '\\u4e00': -3, '\\u4e03': -1, '\\u4e04': -1}}\n";

static void write_file(const char *dir, const char *name, const char *text)
{
    char *path = path_join(dir, name);
    struct output o = {0};
    int rc = make_parents(path);
    if (rc == 0) rc = output_open(&o, path);
    if (rc == 0) fwrite(text, 1, strlen(text), o.f);
    CHECK(output_close(&o, rc) == 0, "%s", last_failure());
    free(path);
}

/* A folder with the files above; file NAME holds TEXT instead, or is missing where that is NULL. */
static struct jieba *open_small(const char *name, const char *text)
{
    static const struct {
        const char *name, *text;
    } files[] = {{"dict.txt", dict},
                 {"finalseg/prob_start.py", start},
                 {"finalseg/prob_trans.py", trans},
                 {"finalseg/prob_emit.py", emit}};
    const char *dir = check_scratch("jieba");
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        const bool this = name && strcmp(name, files[i].name) == 0;
        char *path = path_join(dir, files[i].name);
        if (this && text == NULL) unlink(path);
        if (!this || text != NULL) write_file(dir, files[i].name, this ? text : files[i].text);
        free(path);
    }
    return jieba_open(dir);
}

/* The words of a cut, each followed by a bar. */
struct words {
    char *s;
    size_t n, count;
    const char *next; /* where the next word must start */
    bool whole;       /* no word was empty, and each started where the one before ended */
};

static void add_word(void *ctx, const char *s, size_t n)
{
    struct words *w = ctx;
    w->whole = w->whole && n > 0 && s == w->next;
    w->next = s + n;
    w->count++;
    w->s = xrealloc(w->s, w->n + n + 2);
    memcpy(w->s + w->n, s, n);
    w->n += n + 1;
    w->s[w->n - 1] = '|';
    w->s[w->n] = 0;
}

static struct words cut(const struct jieba *j, const char *text, size_t n)
{
    struct words w = {.s = xstrdup(""), .next = text, .whole = true};
    jieba_cut(j, text, n, add_word, &w);
    w.whole = w.whole && w.next == text + n;
    return w;
}

/* Text without its bars is cut at the bars. */
static void words_are(const struct jieba *j, const char *what, const char *want)
{
    char *text = xstrdup(want);
    size_t n = 0;
    for (const char *p = want; *p; p++)
        if (*p != '|') text[n++] = *p;
    struct words got = cut(j, text, n);
    CHECK(strcmp(got.s, want) == 0, "%s: \"%s\", want \"%s\"", what, got.s, want);
    CHECK(got.whole, "%s: words do not make the text", what);
    free(got.s);
    free(text);
}

static void cutting_is_right(void)
{
    static const struct {
        const char *what, *want;
    } cases[] = {
        {"nothing", ""},
        {"a word", "cd|"},
        {"the larger product wins", "fg|h|"}, /* 0.2 * 0.1339 > 0.001 */
        {"of equal ones the longer first word", "cd|e|"},
        {"a prefix is no word", "\u4e03|\u4e00|"},
        {"a word of frequency 0 is none", "\u4e03|\u4e03|"},
        {"unknown characters cost", "ij|"},                       /* 0.0002 > 0.005 * 0.0001 */
        {"words that cannot be found count in the total", "kl|"}, /* 0.0002 > 0.01 * 0.015 */
        {"single characters that make a rare word stay single", "a|b|"},
        {"also before a word", "a|b|cd|a|b|a|b|"},
        {"if they make none, letters stay together", "aba|cd|bab|"},
        {"one single character", "cd|p|cd|"},
        {"an unknown number", "pq1.50%|z|"},
        {"a point needs digits behind it", "p|.|q|"},
        {"only one fraction", "1.2|.|3|"},
        {"signs stay together", "p|-_+#&|q%|"},
        {"a percent sign in front", "%|5|"},
        {"two percent signs", "5%|%|"},
        {"the model joins", "\u4e00\u4e01|"},
        {"and lengthens", "\u4e00\u4e02\u4e02\u4e01|"},
        {"and separates", "\u4e03|\u4e00\u4e01|\u4e03|"},
        {"and a word that only begins is none", "\u4e03|\u4e03|\u4e00|"},
        {"letters between", "p|\u4e00\u4e01|q|\u4e03|\u4e03|"},
        {"words between", "\u4e00\u4e01|cd|\u4e00\u4e01|"},
        {"a tie at the end: S before E", "\u4e04|\u4e04|"},
        {"a tie before S: S before E", "\u4e04|\u4e04|\u4e03|"},
        {"a tie before E: M before B", "\u4e04\u4e04\u4e01|"},
        {"a tie before M: M before B", "\u4e04\u4e04\u4e04\u4e01|"},
        {"a tie before B: S before E", "\u4e04|\u4e04|\u4e00\u4e01|"},
        {"what the tables leave out ties too", "\u4e05|\u4e05|\u4e05|"},
        {"line ends", "\r\n|\n|\r|\r\n|"},
        {"white space and signs", " |\t|,|\u3000|\u3002|\u4e00\u4e01|\u2026|\u2026|"},
        {"the last character of the range", "\u4e00\u9fd5|\u4e00|\u9fd6|\u9fd6|"},
        {"and what stands before it", "\u4e00|\u4dff|\u4e00\u4e01|\u3400|"},
        {"beyond 16 bits", "\U0001f600|\U0001f600|\U00020000|cd|"},
        {"words with signs of no run are never found", "\xc2\xb7|q|"},
        {"bytes that are no character", "\xff|\x80|cd|\xfe|"},
        {"a character cut short", "\xe4|\xb8|"},
        {"within a word", "c|\xe4|\xb8|d|"},
        {"overlong forms", "\xc0|\xaf|\xe0|\x80|\xaf|\xf0|\x80|\x80|\xaf|"},
        {"half a pair", "\xed|\xa0|\x80|"},
        {"past the last character", "\xf4|\x90|\x80|\x80|\xf5|\x80|\x80|\x80|"},
    };
    struct jieba *j = open_small(NULL, NULL);
    CHECK(j != NULL, "%s", last_failure());
    for (size_t i = 0; j && i < COUNT_OF(cases); i++) words_are(j, cases[i].what, cases[i].want);
    if (j) {
        struct words w = cut(j, "a\0b", 3);
        CHECK(w.count == 3 && w.whole, "a NUL byte: %zu words, want 3", w.count);
        free(w.s);
    }
    jieba_close(j);

    /* more edges than the size of the file lets expect */
    static const char longest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    char *text = xprintf("%s 5\nzyxwvutsrqponmlkjihgfedcba 5\n", longest);
    j = open_small("dict.txt", text);
    CHECK(j != NULL, "%s", last_failure());
    free(text);
    text = xprintf("%s|zyxwvutsrqponmlkjihgfedcba|%s|", longest, longest);
    if (j) words_are(j, "a table that grows", text);
    free(text);
    jieba_close(j);
}

static void bad_files_are_refused(void)
{
    static const struct {
        const char *file, *text, *want;
    } cases[] = {
        {"dict.txt", NULL, "python3-jieba"},
        {"dict.txt", "", "dict.txt: expected words"},
        {"dict.txt", "a 0 n\n", "found none"},
        {"dict.txt", "a 1 n\nb\n", "dict.txt:2: expected WORD FREQUENCY [TAG], found \"b\""},
        {"dict.txt", "a 1 n\n\nb 1\n", ":2: expected WORD"},
        {"dict.txt", "a 1x n\n", ":1: expected WORD"},
        {"dict.txt", "a -1 n\n", ":1: expected WORD"},
        {"dict.txt", "a  1 n\n", ":1: expected WORD"},
        {"dict.txt", " 1 n\n", ":1: expected WORD"},
        {"dict.txt", "a \n", ":1: expected WORD"},
        {"dict.txt", "a 4294967296 n\n", ":1: expected WORD"},
        {"dict.txt", "\xe4\xb8 1 n\n", ":1: expected WORD"},
        {"dict.txt", "a 1 n\nb 1", ":2: expected a line feed"},
        {"finalseg/prob_start.py", NULL, "prob_start.py: cannot be opened"},
        {"finalseg/prob_start.py", "", "prob_start.py:1: expected a line that starts with P={"},
        {"finalseg/prob_start.py", "Q={}\n", ":2: expected a line that starts with P={"},
        {"finalseg/prob_start.py", "P={'B': -1, 'E': -1, 'M': -1}", "found fewer"},
        {"finalseg/prob_start.py", "P={'B': -1, 'E': -1,\n'S': -1, 'M': -1",
         ":2: expected a comma"},
        {"finalseg/prob_start.py", "P={'B': -1 'E': -1}", ":1: expected a comma"},
        {"finalseg/prob_start.py", "P={'B' -1}", ":1: expected a colon"},
        {"finalseg/prob_start.py", "P={\n\n'X': -1}", ":3: expected one of the keys"},
        {"finalseg/prob_start.py", "P={\"B\": -1}", ":1: expected a key in single quotes"},
        {"finalseg/prob_start.py", "P={'BE': -1}", ":1: expected a key of one character"},
        {"finalseg/prob_start.py", "P={'B': 1}", ":1: expected a log probability, found \"1}\""},
        {"finalseg/prob_start.py", "P={'B': -inf}", ":1: expected a log probability"},
        {"finalseg/prob_start.py", "P={'B': None}", ":1: expected a log probability"},
        {"finalseg/prob_start.py", "P={'B': -1, 'E': -1, 'M': -1, 'S': -1}\nx",
         ":2: expected the end of the file"},
        {"finalseg/prob_trans.py", "P={'B': -1}", ":1: expected a brace"},
        {"finalseg/prob_trans.py", "P={'B': {'x': -1}}", ":1: expected one of the keys"},
        {"finalseg/prob_emit.py", "P={'B': {'\\u4e': -1}}", ":1: expected a letter or \\u"},
        {"finalseg/prob_emit.py", "P={'B': {'\\u4e00': -1,\n", "found the end of the file"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        mute_failures(true);
        struct jieba *j = open_small(cases[i].file, cases[i].text);
        mute_failures(false);
        const char *shown = cases[i].text ? cases[i].text : "missing";
        CHECK(j == NULL, "%s is taken: %s", cases[i].file, shown);
        CHECK(strstr(last_failure(), cases[i].want), "\"%s\", want \"%s\"", last_failure(),
              cases[i].want);
        jieba_close(j);
    }
    mute_failures(true);
    CHECK(jieba_open("/nowhere") == NULL && strstr(last_failure(), "--jieba DIR"), "\"%s\"",
          last_failure());
    mute_failures(false);
}

/* Whatever the bytes, the words are the text, cut. */
static void random_bytes_come_back(const struct jieba *j)
{
    static const char *const parts[] = {"\xe4\xb8", "\u4e00", "\u4e04", "\u4e2d", "ab",   "cd",
                                        "1.5",      "%",      "\r",     "\n",     "\xf0", "\u00e9"};
    char text[300];
    struct rng r;
    rng_seed(&r, 1);
    for (int i = 0; i < 2000; i++) {
        size_t n = 0;
        const size_t size = rng_below(&r, 250);
        while (n < size) {
            const char *part = parts[rng_below(&r, COUNT_OF(parts))];
            const size_t length = strlen(part);
            if (rng_below(&r, 2)) {
                memcpy(text + n, part, length);
                n += length;
            } else {
                text[n++] = (char)rng_below(&r, 256);
            }
        }
        struct words w = cut(j, text, n);
        CHECK(w.whole, "text %d: %zu words do not make its %zu bytes", i, w.count, n);
        free(w.s);
    }
}

/* The lines of GOLDEN: a list of words each, as jieba cuts what they make together. All threads
 * read the same dictionary. */
static void golden_cuts_hold(const struct jieba *j)
{
    size_t size = 0;
    int n = 0, wrong = 0;
    char *text = file_read(GOLDEN, &size), *line = NULL;
    cJSON **lists = NULL;
    CHECK(text != NULL, "%s", last_failure());
    for (char *p = text; p && (line = strsep(&p, "\n")) != NULL;) {
        if (*line == 0) continue;
        lists = xrealloc(lists, (size_t)(n + 1) * sizeof(cJSON *));
        lists[n] = json_parse(GOLDEN, line, strlen(line));
        CHECK(lists[n] != NULL, "line %d: %s", n + 1, last_failure());
        n += lists[n] != NULL;
    }
    CHECK(n >= 400, "%s: %d lines", GOLDEN, n);
#pragma omp parallel for schedule(dynamic) reduction(+ : wrong) num_threads(4)
    for (int i = 0; i < n; i++) {
        struct words want = {.s = xstrdup(""), .whole = true};
        char *whole = xstrdup("");
        for (const cJSON *word = lists[i]->child; word; word = word->next) {
            char *longer = xprintf("%s%s", whole, word->valuestring);
            free(whole);
            whole = longer;
            add_word(&want, word->valuestring, strlen(word->valuestring));
        }
        struct words got = cut(j, whole, strlen(whole));
        const bool same = got.whole && strcmp(got.s, want.s) == 0;
        wrong += !same;
#pragma omp critical
        CHECK(same, "line %d: \"%s\", want \"%s\"", i + 1, got.s, want.s);
        free(got.s);
        free(want.s);
        free(whole);
    }
    for (int i = 0; i < n; i++) cJSON_Delete(lists[i]);
    free(lists);
    free(text);
}

int main(void)
{
    set_program_name("test_jieba");
    cutting_is_right();
    bad_files_are_refused();
    struct jieba *j = open_small(NULL, NULL);
    if (j) random_bytes_come_back(j);
    jieba_close(j);
    jieba_close(NULL);
    if (access(JIEBA_DIR "/dict.txt", R_OK) == 0) {
        j = jieba_open(NULL);
        CHECK(j != NULL, "%s", last_failure());
        if (j) golden_cuts_hold(j);
        if (j) random_bytes_come_back(j);
        jieba_close(j);
    } else {
        check_skip("golden_cuts_hold", "no " JIEBA_DIR "/dict.txt (package python3-jieba)");
    }
    return check_report("test_jieba");
}
