/* test_tokenizer.c - text to ids and back: small models worked out by hand, then what Hugging
 * Face's library gives, then random texts. Ids are whole numbers: every comparison is exact. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/pattern.h"
#include "core/model/tokenizer.h"
#include "core/model/unicode.h"
#include "tests/check.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POCKET "configs/demo/pocket-llama"

/* Loads a tokenizer.json given as text; it is the only file of its folder. */
static struct tokenizer *load_text(const char *json, size_t n)
{
    const char *dir = check_scratch("tokenizer");
    char *path = path_join(dir, "tokenizer.json");
    struct output o;
    struct tokenizer *t = NULL;
    if (make_parents(path) == 0 && output_open(&o, path) == 0) {
        fwrite(json, 1, n, o.f);
        if (output_close(&o, 0) == 0) t = tokenizer_load(dir);
    }
    free(path);
    return t;
}

/* Checks the ids of TEXT against the comma-separated list WANT. */
static void ids_are(const struct tokenizer *t, const char *text, size_t n, bool special,
                    const char *want)
{
    int *ids = NULL, count = 0;
    struct text got = {0};
    const int rc = tokenizer_encode(t, text, n, special, &ids, &count);
    CHECK(rc == 0, "\"%.60s\": %s", text, last_failure());
    for (int i = 0; rc == 0 && i < count; i++) {
        char one[16];
        snprintf(one, sizeof one, "%s%d", i ? "," : "", ids[i]);
        text_add(&got, one, strlen(one));
    }
    text_add(&got, "", 1);
    CHECK(strcmp(got.s, want) == 0, "\"%.60s\": ids %.300s, want %.300s", text, got.s, want);
    free(got.s);
    free(ids);
}

#define MODEL(unk, options, vocab, merges)                                                         \
    "{\"model\": {\"type\": \"BPE\", \"unk_token\": " unk options ", \"vocab\": {" vocab           \
    "}, \"merges\": [" merges "]}"
#define ABC "\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"bc\": 4, \"aa\": 5, \"abc\": 6"

static void merging_is_right(void)
{
    static const struct {
        const char *what, *json, *text, *want;
    } cases[] = {
        {"no merges: characters", MODEL("null", "", ABC, "") "}", "abc", "0,1,2"},
        {"the lower rank goes first", MODEL("null", "", ABC, "\"b c\", \"a b\"") "}", "abc", "0,4"},
        {"a merge of a merge", MODEL("null", "", ABC, "\"a b\", \"ab c\"") "}", "abcab", "6,3"},
        {"pairs as lists", MODEL("null", "", ABC, "[\"a\", \"b\"], [\"ab\", \"c\"]") "}", "abc",
         "6"},
        {"equal ranks: from the left", MODEL("null", "", ABC, "\"a a\"") "}", "aaaaa", "5,5,0"},
        {"a header line is skipped", MODEL("null", "", ABC, "\"#version: 0.2\", \"a a\"") "}", "aa",
         "5"},
        {"no unknown token: left out", MODEL("null", "", ABC, "\"a b\"") "}", "axb", "3"},
        {"unknown tokens stand alone", MODEL("\"c\"", "", ABC, "") "}", "axyb", "0,2,2,1"},
        {"or are fused", MODEL("\"c\"", ", \"fuse_unk\": true", ABC, "") "}", "axyb", "0,2,1"},
        {"bytes stand in for a character",
         MODEL("\"c\"", ", \"byte_fallback\": true", ABC ", \"<0xC3>\": 7, \"<0xA9>\": 8", "") "}",
         "a\xc3\xa9x", "0,7,8,2"},
        {"a waiting unknown token comes behind the bytes",
         MODEL("\"c\"", ", \"byte_fallback\": true", ABC ", \"<0xC3>\": 7, \"<0xA9>\": 8", "") "}",
         "x\xc3\xa9", "7,8,2"},
        {"a merge may join a space mark to what stands before",
         MODEL("null", "", "\"a\": 0, \"\xe2\x96\x81\": 1, \"a\xe2\x96\x81\": 2",
               "\"a \xe2\x96\x81\"") "}",
         "a\xe2\x96\x81", "2"},
        {"the whole word goes before merges",
         MODEL("null", ", \"ignore_merges\": true", ABC, "\"b c\"") "}", "abc", "6"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tokenizer *t = load_text(cases[i].json, strlen(cases[i].json));
        CHECK(t != NULL, "%s: %s", cases[i].what, last_failure());
        if (t) ids_are(t, cases[i].text, strlen(cases[i].text), false, cases[i].want);
        tokenizer_free(t);
    }
}

#define PIECES                                                                                     \
    "\"a\": 0, \"b\": 1, \"1\": 2, \"2\": 3, \" \": 4, \"a1\": 5, \"1a\": 6, \"12\": 7, \"11\": 8"
#define ALL_MERGES "\"a 1\", \"1 a\", \"1 2\", \"1 1\""
#define SPLIT(pattern, behavior, invert)                                                           \
    MODEL("null", "", PIECES, ALL_MERGES)                                                          \
    ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": " pattern                             \
    ", \"behavior\": \"" behavior "\", \"invert\": " invert "}}"

/* A merge happens within a piece only, so the ids show where the text was cut. */
static void cutting_is_right(void)
{
#define DIGIT "{\"Regex\": \"\\\\d\"}"
    static const struct {
        const char *what, *json, *text, *want;
    } cases[] = {
        {"matches stand alone", SPLIT(DIGIT, "Isolated", "false"), "a12a", "0,2,3,0"},
        {"matches go", SPLIT(DIGIT, "Removed", "false"), "a12a", "0,0"},
        {"a match ends the piece before", SPLIT(DIGIT, "MergedWithPrevious", "false"), "a12a",
         "5,3,0"},
        {"but only one", SPLIT(DIGIT, "MergedWithPrevious", "false"), "b11a", "1,2,2,0"},
        {"a match starts the piece behind", SPLIT(DIGIT, "MergedWithNext", "false"), "a21a",
         "0,3,6"},
        {"matches in a row are one", SPLIT(DIGIT, "Contiguous", "false"), "a12a", "0,7,0"},
        {"inverted: what lies between is the match", SPLIT(DIGIT, "Removed", "true"), "a12a",
         "2,3"},
        {"a plain string", SPLIT("{\"String\": \"1\"}", "Isolated", "false"), "a12", "0,2,3"},
        {"an empty match cuts too", SPLIT("{\"Regex\": \"(?=2)\"}", "Isolated", "false"), "12a1",
         "2,3,5"},
        {"digits one by one",
         MODEL("null", "", PIECES, ALL_MERGES) ", \"pre_tokenizer\": {\"type\": \"Digits\", "
                                               "\"individual_digits\": true}}",
         "a12", "0,2,3"},
        {"digits together",
         MODEL("null", "", PIECES, ALL_MERGES) ", \"pre_tokenizer\": {\"type\": \"Digits\", "
                                               "\"individual_digits\": false}}",
         "a12", "0,7"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tokenizer *t = load_text(cases[i].json, strlen(cases[i].json));
        CHECK(t != NULL, "%s: %s", cases[i].what, last_failure());
        if (t) ids_are(t, cases[i].text, strlen(cases[i].text), false, cases[i].want);
        tokenizer_free(t);
    }
#undef DIGIT
}

#define DECODER(object)                                                                            \
    MODEL("null", "",                                                                              \
          "\"\xe2\x96\x81"                                                                         \
          "a\": 0, \"b\": 1, \"<0xC3>\": 2, \"<0xA9>\": 3",                                        \
          "")                                                                                      \
    ", \"decoder\": " object "}"
#define LLAMA(strip)                                                                               \
    DECODER("{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "        \
            "{\"String\": \"\xe2\x96\x81\"}, \"content\": \" \"}, {\"type\": "                     \
            "\"ByteFallback\"}, " strip "]}")

/* The ids 0, 0, 1, 2, 3: a word, a word, a letter, the two bytes of U+00E9. */
static void decoding_is_right(void)
{
    static const struct {
        const char *what, *json, *want;
    } cases[] = {
        {"without a decoder tokens stand as they are", DECODER("null"),
         "\xe2\x96\x81"
         "a\xe2\x96\x81"
         "ab<0xC3><0xA9>"},
        {"bytes, and one space less at the front",
         LLAMA("{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, "
               "\"stop\": 0}"),
         "a ab\xc3\xa9"},
        {"at the front of each token without Fuse",
         LLAMA("{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"),
         "aab\xc3\xa9"},
        {"characters at the end",
         LLAMA("{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": "
               "\"\xc3\xa9\", \"start\": 0, \"stop\": 2}"),
         " a ab"},
        {"marks, but for the first token's",
         DECODER("{\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\"}"),
         "a ab<0xC3><0xA9>"},
        {"every mark",
         DECODER("{\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", "
                 "\"prepend_scheme\": \"never\"}"),
         " a ab<0xC3><0xA9>"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tokenizer *t = load_text(cases[i].json, strlen(cases[i].json));
        size_t n = 0;
        int ends[5] = {0};
        CHECK(t != NULL, "%s: %s", cases[i].what, last_failure());
        if (t == NULL) continue;
        char *got = tokenizer_decode(t, (int[]){0, 0, 1, 2, 3}, 5, false, &n, ends);
        CHECK(got && strcmp(got, cases[i].want) == 0, "%s: \"%s\", want \"%s\"", cases[i].what,
              got ? got : "", cases[i].want);
        CHECK((size_t)ends[4] == n, "%s: the last token ends at %d of %zu", cases[i].what, ends[4],
              n);
        free(got);
        tokenizer_free(t);
    }
}

/* What Oniguruma and PCRE2 read differently; the reason stands in the translation. */
static void patterns_are_translated(void)
{
    static const struct {
        const char *regex, *text;
        int length; /* of the first match, -1 for none */
    } cases[] = {
        {"a{1,2}+b", "aaaab", 5},          /* repeats the repetition; not possessive */
        {"(?:ab){2}+", "ababab", 4},       /* ... of a group */
        {"x{2}?y", "y", 1},                /* an optional repetition */
        {"a{,2}b", "aab", 3},              /* from 0 */
        {"\\h+", "9fg", 2},                /* hexadecimal digits, not horizontal space */
        {"\\s", "\xe1\xa0\x8e", -1},       /* U+180E is no space */
        {"\\w+", "e\xcc\x81x", 4},         /* a mark belongs to a word */
        {"e\\b", "e\xcc\x81", -1},         /* ... so no boundary before it */
        {"(?m:.)", "\n", 1},               /* m lets the dot match a newline */
        {"(?i:'S)", "'\xc5\xbf", 3},       /* the long s */
        {"\\p{Han}", "\xe3\x80\x82", -1},  /* the script, not its extensions: U+3002 */
        {"\\p{L}", "\xf0\xb1\x8d\x90", 4}, /* U+31350 came with Unicode 15 */
        {"[^\\s\\p{L}]", "\xf0\xb1\x8d\x90", -1},
        {"\\u00e9", "\xc3\xa9", 2},
        {"^b", "a\nb", 1}, /* anchors work on lines */
    };
    struct matcher m;
    matcher_open(&m);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct pattern p = {0};
        struct matches f;
        size_t a = 0, b = 0;
        bool found = false;
        CHECK(pattern_regex(&p, "file", "part", cases[i].regex) == 0, "%s: %s", cases[i].regex,
              last_failure());
        if (p.code == NULL) continue;
        matches_start(&f, &p, &m, cases[i].text, strlen(cases[i].text));
        CHECK(matches_next(&f, &a, &b, &found) == 0, "%s", cases[i].regex);
        CHECK((found ? (int)(b - a) : -1) == cases[i].length, "%s matches %d bytes, want %d",
              cases[i].regex, found ? (int)(b - a) : -1, cases[i].length);
        pattern_free(&p);
    }
    static const char *const refused[] = {"[a&&b]", "[[a]b]", "\\X",  "(?~a)", "a(?i)b",
                                          "[\\W]",  "\\p",    "\\pL", "[a",    "(a"};
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        struct pattern p;
        CHECK(pattern_regex(&p, "file", "part", refused[i]) != 0, "%s is taken", refused[i]);
        CHECK(strncmp(last_failure(), "file: part: ", 12) == 0, "%s", last_failure());
        pattern_free(&p);
    }
    /* Word boundaries grow a hundredfold when translated: 10,000 of them are refused. */
    char many[20001];
    for (int i = 0; i < 20000; i++) many[i] = i % 2 ? 'b' : '\\';
    many[20000] = 0;
    CHECK(pattern_translate("file", "part", many) == NULL, "a huge pattern is taken");
    matcher_close(&m);
}

static void normal_forms_are_right(void)
{
    static const struct {
        enum normal_form form;
        const char *text, *want;
    } cases[] = {
        {FORM_NFC, "cafe\xcc\x81 x", "caf\xc3\xa9 x"},
        {FORM_NFC, "a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81"}, /* the dot below goes first */
        {FORM_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"},
        {FORM_NFC, "\xea\xb0\x80\xe1\x86\xa7", "\xea\xb0\x80\xe1\x86\xa7"}, /* U+11A7 stays */
        {FORM_NFD, "\xc3\xa9", "e\xcc\x81"},
        {FORM_NFKC, "\xef\xac\x81\xe2\x85\xa7", "fiVIII"},
        {FORM_NFKD, "\xc2\xbd",
         "1\xe2\x81\x84"
         "2"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text out = {0};
        normal_form(&out, cases[i].text, strlen(cases[i].text), cases[i].form);
        CHECK(out.n == strlen(cases[i].want) && memcmp(out.s, cases[i].want, out.n) == 0,
              "case %zu: \"%.*s\", want \"%s\"", i, (int)out.n, out.s, cases[i].want);
        free(out.s);
    }
    /* 200,000 marks in falling order: quadratic sorting would take minutes. */
    struct text many = {0}, out = {0};
    text_add(&many, "a", 1);
    for (int i = 0; i < 100000; i++) text_add(&many, "\xcc\x81\xcc\xa3", 4);
    const double start = clock_seconds();
    normal_form(&out, many.s, many.n, FORM_NFC);
    CHECK(clock_seconds() - start < 5, "%.1f s", clock_seconds() - start);
    /* The first of either kind composes with the letter or stays; all of U+0323 go first. */
    CHECK(out.n == 3 + 2 * 199999, "%zu bytes", out.n);
    CHECK(memcmp(out.s, "\xe1\xba\xa1\xcc\xa3", 5) == 0, "the order of marks");
    free(many.s);
    free(out.s);
}

static void utf8_is_checked(void)
{
    static const struct {
        const char *text;
        size_t n, bad; /* bad = n: all good */
    } cases[] = {
        {"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82", 10, 10}, /* 1, 2, 3 and 4 bytes */
        {"\xf4\x8f\xbf\xbf", 4, 4},                        /* U+10FFFF */
        {"a\x80", 2, 1},
        {"\xc0\xaf", 2, 0},         /* overlong */
        {"\xe0\x9f\xbf", 3, 0},     /* overlong */
        {"\xf0\x8f\xbf\xbf", 4, 0}, /* overlong */
        {"\xed\xa0\x80", 3, 0},     /* a surrogate */
        {"\xf4\x90\x80\x80", 4, 0}, /* past U+10FFFF */
        {"ab\xe2\x82", 4, 2},       /* cut off */
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t bad = cases[i].n;
        const bool good = utf8_check(cases[i].text, cases[i].n, &bad);
        CHECK(bad == cases[i].bad && good == (cases[i].bad == cases[i].n), "case %zu: %zu", i, bad);
    }
    CHECK(utf8_whole("ab", 2) == 2, "ASCII is whole");
    CHECK(utf8_whole("a\xe2\x82", 3) == 1, "two of three bytes are held back");
    CHECK(utf8_whole("a\xe2\x82\xac", 4) == 4, "three of three are not");
    CHECK(utf8_whole("\xf0\x9f\x99", 3) == 0, "three of four bytes are held back");
    CHECK(utf8_whole("\x80\x80\x80\x80", 4) == 4, "bytes that start nothing are not held back");
    CHECK(utf8_whole("", 0) == 0, "nothing is whole");
}

/* Text from a JSON file may hold U+0000, which cJSON's strings end at: U+E000 stands for it. */
static char *load_vectors(const char *path, size_t *size)
{
    char *text = file_read(path, size);
    for (char *p = text; p && (p = strstr(p, "\\u0000")) != NULL;) memcpy(p, "\\uE000", 6);
    return text;
}

static size_t restore_nul(char *s)
{
    size_t n = 0;
    for (const char *p = s; *p;) {
        if (memcmp(p, "\xee\x80\x80", strlen(p) < 3 ? strlen(p) : 3) == 0 && strlen(p) >= 3) {
            s[n++] = 0;
            p += 3;
        } else {
            s[n++] = *p++;
        }
    }
    return n;
}

static char *list_text(const cJSON *list)
{
    struct text out = {0};
    for (const cJSON *c = list->child; c; c = c->next) {
        char one[16];
        snprintf(one, sizeof one, "%s%d", c == list->child ? "" : ",", c->valueint);
        text_add(&out, one, strlen(one));
    }
    text_add(&out, "", 1);
    return out.s;
}

/* Every text of PATH has the ids written there, and decodes to what is written there, or to itself
 * when nothing is; EXACT: to itself in any case. */
static void vectors_hold(const char *dir, const char *path, bool exact)
{
    size_t size;
    struct tokenizer *t = tokenizer_load(dir);
    char *json = load_vectors(path, &size);
    cJSON *root = json ? json_parse(path, json, size) : NULL;
    CHECK(t && root, "%s: %s", dir, last_failure());
    for (const cJSON *c = t && root ? root->child : NULL; c; c = c->next) {
        char *text = json_member(c, "text")->valuestring;
        const cJSON *decoded = json_member(c, "decoded"), *special = json_member(c, "special");
        const size_t n = restore_nul(text);
        int *ids = NULL, count = 0;
        size_t back_n = 0;
        char *want = list_text(json_member(c, "ids"));
        ids_are(t, text, n, false, want);
        free(want);
        if (special) {
            want = list_text(special);
            ids_are(t, text, n, true, want);
            free(want);
        }
        if (tokenizer_encode(t, text, n, false, &ids, &count)) continue;
        int *ends = xcalloc((size_t)count + 1, sizeof *ends);
        char *back = tokenizer_decode(t, ids, count, false, &back_n, ends);
        const char *expect = exact || !decoded ? text : decoded->valuestring;
        const size_t expect_n = exact || !decoded ? n : restore_nul(decoded->valuestring);
        if (exact || decoded)
            CHECK(back && back_n == expect_n && memcmp(back, expect, back_n) == 0,
                  "%s: \"%.60s\" decodes to \"%.60s\"", dir, expect, back ? back : "nothing");
        for (int i = 1; i < count; i++)
            CHECK(ends[i] >= ends[i - 1], "ends[%d] = %d after %d", i, ends[i], ends[i - 1]);
        if (count > 0) CHECK((size_t)ends[count - 1] == back_n, "the last end is the text's");
        free(back);
        free(ends);
        free(ids);
    }
    cJSON_Delete(root);
    free(json);
    tokenizer_free(t);
}

static void golden_vectors_hold(void)
{
    vectors_hold(POCKET, "tests/data/golden/tokenizer_vectors.json", true);
    static const char *const names[] = {"qwen2",  "gpt2-prefix",     "added",
                                        "llama2", "metaspace-first", "metaspace-split"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char *dir = xprintf("tests/data/tokenizers/%s", names[i]);
        char *path = path_join(dir, "vectors.json");
        vectors_hold(dir, path, false);
        free(path);
        free(dir);
    }
}

static void special_tokens_are_right(void)
{
    struct tokenizer *t = tokenizer_load(POCKET);
    size_t n;
    int ends[3];
    CHECK(t != NULL, "%s", last_failure());
    if (t == NULL) return;
    CHECK(tokenizer_vocab_size(t) == 2048, "%d", tokenizer_vocab_size(t));
    CHECK(tokenizer_bos(t) == 0, "%d", tokenizer_bos(t));
    CHECK(tokenizer_token_id(t, "<|eot_id|>") == 4, "%d", tokenizer_token_id(t, "<|eot_id|>"));
    CHECK(tokenizer_token_id(t, "no such token") == -1, "an absent token has an id");
    ids_are(t, "", 0, true, "0");
    ids_are(t, "a", 1, true, "0,72");
    ids_are(t, "<|begin_of_text|>a", 18, true, "0,72"); /* not doubled */
    ids_are(t, "<|begin_of_text|>a", 18, false, "0,72");
    char *s = tokenizer_decode(t, (int[]){0, 72, 4}, 3, false, &n, ends);
    CHECK(s && strcmp(s, "<|begin_of_text|>a<|eot_id|>") == 0, "\"%s\"", s ? s : "");
    CHECK(ends[0] == 17 && ends[1] == 18 && ends[2] == 28, "%d %d %d", ends[0], ends[1], ends[2]);
    free(s);
    s = tokenizer_decode(t, (int[]){0, 72, 4}, 3, true, &n, ends);
    CHECK(s && n == 1 && strcmp(s, "a") == 0, "\"%s\"", s ? s : "");
    CHECK(ends[0] == 0 && ends[1] == 1 && ends[2] == 1, "%d %d %d", ends[0], ends[1], ends[2]);
    free(s);
    mute_failures(true);
    CHECK(tokenizer_decode(t, (int[]){2048}, 1, false, &n, NULL) == NULL, "an id past the end");
    CHECK(tokenizer_decode(t, (int[]){-1}, 1, false, &n, NULL) == NULL, "a negative id");
    int *ids, count;
    CHECK(tokenizer_encode(t, "a\xff", 2, false, &ids, &count) != 0, "text that is not UTF-8");
    CHECK(strstr(last_failure(), "offset 1") != NULL, "%s", last_failure());
    mute_failures(false);
    tokenizer_free(t);
}

/* A word of a million characters, and patterns that explode: seconds at most. Merging in quadratic
 * time would take hours, so 10 s leaves room for a slow machine and a sanitizer. */
static void time_is_bounded(void)
{
    static const char *const dirs[] = {POCKET, "tests/data/tokenizers/llama2",
                                       "tests/data/tokenizers/qwen2"};
    static const char *const units[] = {"a", " ", "ab", "\xc3\xa9", "<", "\xe2\x96\x81"};
    for (size_t d = 0; d < COUNT_OF(dirs); d++) {
        struct tokenizer *t = tokenizer_load(dirs[d]);
        for (size_t u = 0; t && u < COUNT_OF(units); u++) {
            struct text word = {0};
            int *ids = NULL, n;
            const double start = clock_seconds();
            while (word.n < 300000) text_add(&word, units[u], strlen(units[u]));
            CHECK(tokenizer_encode(t, word.s, word.n, false, &ids, &n) == 0, "%s", last_failure());
            CHECK(clock_seconds() - start < 10, "%s, \"%s\": %.1f s", dirs[d], units[u],
                  clock_seconds() - start);
            free(ids);
            free(word.s);
        }
        tokenizer_free(t);
    }
    static const char json[] = SPLIT("{\"Regex\": \"(?:a+)+[bc]\"}", "Isolated", "false");
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa d b";
    struct tokenizer *t = load_text(json, sizeof json - 1);
    int *ids, n;
    CHECK(t != NULL, "%s", last_failure());
    mute_failures(true);
    if (t) CHECK(tokenizer_encode(t, text, sizeof text - 1, false, &ids, &n) != 0, "it ends");
    CHECK(strstr(last_failure(), "gives up") != NULL, "%s", last_failure());
    mute_failures(false);
    tokenizer_free(t);
}

static void hostile_files_are_refused(void)
{
#define ADDED(members)                                                                             \
    "{\"model\": {\"vocab\": {" ABC "}, \"merges\": []}, \"added_tokens\": " members "}"
#define PART(key, object)                                                                          \
    "{\"model\": {\"vocab\": {" ABC "}, \"merges\": []}, \"" key "\": " object "}"
    static const struct {
        const char *json, *message; /* a part of the message */
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "expected an object, found a list"},
        {"{}", "expected a \"model\", found none"},
        {"{\"version\": \"2.0\", \"model\": {}}", "\"version\": expected \"1.0\""},
        {"{\"model\": 3}", "\"model\": expected an object, found a number"},
        {"{\"model\": {\"type\": \"Unigram\"}}", "type \"Unigram\" is not supported"},
        {"{\"model\": {\"merges\": []}}", "\"vocab\": expected an object"},
        {"{\"model\": {\"vocab\": [], \"merges\": []}}", "\"vocab\": expected an object"},
        {"{\"model\": {\"vocab\": {}, \"merges\": []}}", "\"vocab\": expected tokens, found none"},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", "expected an id from 0"},
        {"{\"model\": {\"vocab\": {\"a\": 1.5}, \"merges\": []}}", "expected an id from 0"},
        {"{\"model\": {\"vocab\": {\"a\": 4e9}, \"merges\": []}}", "expected an id from 0"},
        {"{\"model\": {\"vocab\": {\"a\": \"b\"}, \"merges\": []}}", "expected an id, found"},
        {"{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}, \"merges\": []}}", "id 1 stands twice"},
        {"{\"model\": {\"vocab\": {\"a\": 1, \"a\": 2}, \"merges\": []}}", "stands twice"},
        {"{\"model\": {\"vocab\": {\"a\": 1}}}", "\"merges\": expected a list, found nothing"},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [\"a b\"]}}", "token \"b\" is not in"},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [\"a a\"]}}", "token \"aa\" is not in"},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [\"a\"]}}", "merges[0]: expected two"},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [[\"a\"]]}}", "merges[0]: expected"},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [7]}}", "merges[0]: expected"},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [], \"dropout\": 0.1}}", "\"dropout\""},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [], \"end_of_word_suffix\": \"x\"}}",
         "\"end_of_word_suffix\" is not supported"},
        {"{\"model\": {\"vocab\": {\"\xff\": 1}, \"merges\": []}}", "expected UTF-8"},
        {"{\"model\": {\"vocab\": {\"\\u0000\": 1}, \"merges\": []}}", "U+0000"},
        {ADDED("{}"), "\"added_tokens\": expected a list"},
        {ADDED("[3]"), "added_tokens: expected objects"},
        {ADDED("[{\"id\": 9}]"), "\"content\": expected a string"},
        {ADDED("[{\"content\": \"x\"}]"), "expected an \"id\""},
        {ADDED("[{\"id\": 1, \"content\": \"a\"}]"), "has id 1, but 0 in the vocabulary"},
        {ADDED("[{\"id\": 1, \"content\": \"x\"}]"), "which is \"b\" in the vocabulary"},
        {ADDED("[{\"id\": 1e12, \"content\": \"x\"}]"), "\"id\": expected a whole number"},
        {ADDED("[{\"id\": 9, \"content\": \"x\"}, {\"id\": 9, \"content\": \"y\"}]"),
         "stands twice"},
        {ADDED("[{\"id\": 9, \"content\": \"x\"}, {\"id\": 8, \"content\": \"x\"}]"),
         "stands twice"},
        {PART("normalizer", "{\"type\": \"Nmt\"}"), "normalizer: type \"Nmt\" is not supported"},
        {PART("normalizer", "{}"), "normalizer: \"type\": expected a string"},
        {PART("normalizer", "{\"type\": \"Replace\", \"content\": \"\"}"), "\"pattern\": expected"},
        {PART("pre_tokenizer",
              "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": "
              "\"Isolated\", \"invert\": false}"),
         "cannot be compiled"},
        {PART("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, "
                               "\"behavior\": \"Up\", \"invert\": false}"),
         "\"Up\" is not known"},
        {PART("pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}"), "is not supported"},
        {PART("pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}"),
         "expected one character"},
        {PART("decoder", "{\"type\": \"WordPiece\"}"), "decoder: type \"WordPiece\""},
        {PART("post_processor", "{\"type\": \"BertProcessing\"}"), "is not supported"},
        {PART("post_processor", "{\"type\": \"TemplateProcessing\", \"single\": []}"),
         "expected the sequence A, found none"},
        {PART("post_processor",
              "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
              "{\"id\": \"x\"}}], \"special_tokens\": {}}"),
         "expected \"ids\" of \"x\""},
        {PART("post_processor", "{\"type\": \"TemplateProcessing\", \"single\": "
                                "[{\"SpecialToken\": {\"id\": \"x\"}}], "
                                "\"special_tokens\": {\"x\": {\"ids\": [99]}}}"),
         "id 99 is no token"},
    };
#undef ADDED
#undef PART
    mute_failures(true);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tokenizer *t = load_text(cases[i].json, strlen(cases[i].json));
        CHECK(t == NULL, "taken: %s", cases[i].json);
        CHECK(strstr(last_failure(), cases[i].message) && strstr(last_failure(), "tokenizer.json"),
              "%s: \"%s\"", cases[i].json, last_failure());
        tokenizer_free(t);
    }
    CHECK(tokenizer_load("/nonexistent") == NULL, "no such folder");
    mute_failures(false);
}

/* Random texts out of pieces that meet in awkward ways. */
static size_t random_text(struct rng *r, char *out)
{
    static const char *const bits[] = {"a",
                                       "e",
                                       " ",
                                       "  ",
                                       "\n",
                                       "\r\n",
                                       "\t",
                                       "1",
                                       "234",
                                       "'s",
                                       "'LL",
                                       "\xc3\xa9",
                                       "e\xcc\x81",
                                       "\xcc\xa3",
                                       "\xea\xb0\x80",
                                       "\xe1\x86\xa8",
                                       "\xf0\x9f\x99\x82",
                                       "\xe2\x80\x8d",
                                       "\xc2\xa0",
                                       "\xe3\x80\x80",
                                       "\xe6\x97\xa5",
                                       "<|endoftext|>",
                                       "<mask>",
                                       "<r>",
                                       "</s>",
                                       "word",
                                       "abc",
                                       "ab",
                                       ".",
                                       "!!",
                                       "\xe2\x96\x81",
                                       "the "};
    size_t n = 0;
    for (uint32_t i = rng_below(r, 40); i > 0; i--) {
        char one[4];
        const char *bit = bits[rng_below(r, COUNT_OF(bits))];
        size_t len = strlen(bit);
        if (rng_below(r, 4) == 0) { /* any character but a surrogate */
            uint32_t c = rng_below(r, 0x110000 - 0x800);
            len = (size_t)utf8_put(c < 0xd800 ? c : c + 0x800, one);
            bit = one;
        }
        memcpy(out + n, bit, len);
        n += len;
    }
    return n;
}

/* Byte-level tokenizers without a normaliser give back any text; every tokenizer gives ids within
 * its vocabulary, the same ones each time. */
static void random_texts_come_back(void)
{
    static const struct {
        const char *dir;
        bool exact;
    } cases[] = {
        {POCKET, true},
        {"tests/data/tokenizers/qwen2", false},
        {"tests/data/tokenizers/added", false},
        {"tests/data/tokenizers/llama2", false},
        {"tests/data/tokenizers/metaspace-split", false},
    };
    char text[40 * 16];
    struct rng r;
    rng_seed(&r, 1);
    for (size_t k = 0; k < COUNT_OF(cases); k++) {
        struct tokenizer *t = tokenizer_load(cases[k].dir);
        CHECK(t != NULL, "%s", last_failure());
        for (int i = 0; t && i < 300; i++) {
            const size_t n = random_text(&r, text);
            int *ids = NULL, *again = NULL, count = 0, same = 0;
            size_t back_n = 0;
            CHECK(tokenizer_encode(t, text, n, false, &ids, &count) == 0 &&
                      tokenizer_encode(t, text, n, false, &again, &same) == 0,
                  "%s", last_failure());
            CHECK(count == same && memcmp(ids, again, (size_t)count * sizeof *ids) == 0,
                  "same ids");
            char *back = tokenizer_decode(t, ids, count, false, &back_n, NULL);
            CHECK(back != NULL, "%s: %s", cases[k].dir, last_failure());
            if (cases[k].exact && back)
                CHECK(back_n == n && memcmp(back, text, n) == 0, "text %d does not come back", i);
            free(back);
            free(ids);
            free(again);
        }
        tokenizer_free(t);
    }
}

/* Files with random damage are refused, or work: no crash either way. */
static void damaged_files_do_no_harm(void)
{
    static const char *const files[] = {"tests/data/tokenizers/added/tokenizer.json",
                                        "tests/data/tokenizers/llama2/tokenizer.json"};
    static const char *const words[] = {"null", "-1",   "1e99", "[]",   "{}",
                                        "\"\"", "true", "[[",   "99999"};
    char text[40 * 16];
    struct rng r;
    int taken = 0, refused = 0;
    rng_seed(&r, 2);
    mute_failures(true);
    for (int i = 0; i < 300; i++) {
        size_t n;
        char *json = file_read(files[i % 2], &n);
        if (json == NULL) break;
        for (uint32_t k = 1 + rng_below(&r, 2); k > 0; k--) {
            /* Half of the damage goes to the parts, which stand in front of the vocabulary. */
            const size_t at = rng_below(&r, n > 3000 && rng_below(&r, 2) ? 3000 : (uint32_t)n);
            const char *word = words[rng_below(&r, COUNT_OF(words))];
            switch (rng_below(&r, 6)) {
            case 0:
                json[at] = (char)rng_below(&r, 256);
                break;
            case 1:
                n = at + 1; /* cut off */
                break;
            default: /* a letter or a digit becomes another one, wherever the next one stands */
                for (size_t j = at; j < n; j++) {
                    if (!isalnum((unsigned char)json[j])) continue;
                    json[j] = isdigit((unsigned char)json[j]) ? (char)('0' + rng_below(&r, 10))
                                                              : (char)('a' + rng_below(&r, 26));
                    break;
                }
                break;
            case 2:
                memcpy(json + at, word, strlen(word) < n - at ? strlen(word) : n - at);
                break;
            }
        }
        struct tokenizer *t = load_text(json, n);
        if (t) {
            const size_t size = random_text(&r, text);
            int *ids = NULL, count = 0;
            if (tokenizer_encode(t, text, size, true, &ids, &count) == 0)
                free(tokenizer_decode(t, ids, count, true, &n, NULL));
            free(ids);
        }
        taken += t != NULL;
        refused += t == NULL;
        tokenizer_free(t);
        free(json);
    }
    mute_failures(false);
    CHECK(taken > 0 && refused > 0, "%d taken, %d refused: both should happen", taken, refused);
}

int main(void)
{
    set_program_name("test_tokenizer");
    merging_is_right();
    cutting_is_right();
    decoding_is_right();
    mute_failures(true);
    patterns_are_translated();
    mute_failures(false);
    normal_forms_are_right();
    utf8_is_checked();
    golden_vectors_hold();
    special_tokens_are_right();
    time_is_bounded();
    hostile_files_are_refused();
    random_texts_come_back();
    damaged_files_do_no_harm();
    return check_report("test_tokenizer");
}
