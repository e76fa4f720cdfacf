/* test_gen.c - synthetic tasks: the shape of a line, and that the context holds each answer. */
#include "core/base/base.h"
#include "core/task/gen.h"
#include "core/task/passage.h"
#include "tests/check.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char pocket[] = "configs/demo/pocket-llama";

/* The text of the tokens [a, b) of L; the caller frees it. */
static char *text_of(const struct tokenizer *t, const struct suite_line *l, int a, int b)
{
    size_t size;
    char *s = tokenizer_decode(t, l->ids + a, b - a, false, &size, NULL);
    CHECK(s, "%s", last_failure());
    return s ? s : xstrdup("");
}

static int occurrences(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)) != NULL; text++) n++;
    return n;
}

/* Whether the answer (its stop token and leading space removed) to the question before it follows
 * from the context: worked out again from the text alone. */
static bool is_answer(enum gen_task task, const char *context, const char *question,
                      const char *answer)
{
    if (task == GEN_PASSKEY) /* the sentence itself, about the town that was asked for */
        return occurrences(context, answer) == 1 &&
               (strstr(question, "pass key?") ||
                (strncmp(answer, "The pass key of ", 16) == 0 && strstr(question, " of ") &&
                 strncmp(strstr(question, " of ") + 4, answer + 16, 3) == 0));
    if (task == GEN_KV) /* the pair, whose key was asked for */
        return occurrences(context, answer) == 1 && strlen(answer) == 18 &&
               strncmp(strrchr(question, ' ') + 1, answer, 8) == 0;
    if (task == GEN_TWOSTAGE) {
        int a, b, sum, again;
        char colour[16], entry[40];
        if (sscanf(answer, "%d + %d = %d. The value of %d is %15[a-z].", &a, &b, &sum, &again,
                   colour) != 5)
            return false;
        char *asked = xprintf("key %d + %d?", a, b);
        bool right = a + b == sum && sum == again && strstr(question, asked);
        free(asked);
        snprintf(entry, sizeof entry, "%d: %s", sum, colour);
        const char *at = strstr(context, entry);
        while (at && at > context && isdigit((unsigned char)at[-1])) at = strstr(at + 1, entry);
        return right && at;
    }
    /* hops: every sentence of the chain stands in the context, and the last names a town */
    char *chain = xstrdup(answer), *rest = chain, *sentence;
    bool right = strstr(answer, " lives in ") != NULL;
    while ((sentence = strsep(&rest, ".")) != NULL) {
        while (*sentence == ' ') sentence++;
        if (*sentence == 0) continue;
        char *whole = xprintf("%s.", sentence);
        if (strstr(context, whole) == NULL) right = false;
        free(whole);
    }
    /* the question names the person that the chain starts with */
    char name[40];
    if (sscanf(answer, "%19s %19s", name, name + 20) == 2) {
        char *person = xprintf("%s %s", name, name + 20);
        if (strstr(question, person) == NULL) right = false;
        free(person);
    }
    free(chain);
    return right;
}

/* The contract of suite.h and gen.h, for any tokenizer. */
static void check_shape(const struct tokenizer *t, const struct suite_line *l,
                        const struct gen_options *o)
{
    const int bos = tokenizer_bos(t);
    CHECK(strcmp(l->task, gen_task_names[o->task]) == 0, "%s", l->task);
    CHECK(l->n_spans == o->questions, "%d spans, %d questions", l->n_spans, o->questions);
    CHECK(bos < 0 || (l->ids[0] == bos && l->ids[1] != bos), "BOS once, first");
    CHECK(l->n_prefill == l->spans[0][0], "the prefill ends where the first answer begins");
    CHECK(l->spans[l->n_spans - 1][1] == l->n, "the last span ends the line");
    for (int i = 0; i < l->n_spans; i++) {
        int before = i ? l->spans[i - 1][1] : 1;
        CHECK(l->spans[i][0] >= before && l->spans[i][1] - l->spans[i][0] >= 2, "[%d, %d)",
              l->spans[i][0], l->spans[i][1]);
    }
}

/* Every answer of L follows from its context; returns whether the line is raw text. */
static bool check_answers(const struct tokenizer *t, const struct suite_line *l,
                          const struct gen_options *o)
{
    char *prompt = text_of(t, l, 0, l->n_prefill);
    size_t n = strlen(prompt);
    bool raw = n > 7 && strcmp(prompt + n - 7, "Answer:") == 0;
    CHECK(raw || (n > 2 && strcmp(prompt + n - 2, "\n\n") == 0), "%s", prompt + n - 40 * (n > 40));
    for (int i = 0; i < l->n_spans; i++) {
        int from = i ? l->spans[i - 1][1] : 0, a = l->spans[i][0], b = l->spans[i][1];
        char *turn = text_of(t, l, from, a), *answer = text_of(t, l, a, b);
        char *last = text_of(t, l, b - 1, b);
        CHECK(raw ? strchr(last, '\n') != NULL : strcmp(last, "<|eot_id|>") == 0,
              "the stop token is %s", last);
        char *question = strstr(turn, i ? "W" : raw ? "Question: W" : "\nW");
        for (char *next; i == 0 && question && (next = strstr(question + 1, "\nW"));)
            question = next;
        char *end = strstr(answer, raw ? "\n" : "<|eot_id|>");
        CHECK(question && end && strncmp(answer, raw ? " " : "", raw) == 0, "%s|%s", turn, answer);
        if (question && end) {
            *end = 0;
            question[strcspn(question, "?") + 1] = 0;
            CHECK(is_answer(o->task, prompt, question, answer + raw), "%s: %s|%s", l->task,
                  question, answer);
        }
        free(turn);
        free(answer);
        free(last);
    }
    free(prompt);
    return raw;
}

static void contexts_hold_the_answers(const struct tokenizer *t)
{
    int raw = 0, lines = 0;
    for (int task = 0; task <= GEN_HOPS; task++)
        for (int i = 0; i < 12; i++) {
            struct gen_options o = {.task = (enum gen_task)task,
                                    .format = GEN_MIXED,
                                    .tokens = 600,
                                    .questions = 3,
                                    .seed = 7};
            struct suite_line l;
            CHECK(gen_tokens(&l, &o, t, i) == 0, "%s", last_failure());
            if (l.ids == NULL) continue;
            check_shape(t, &l, &o);
            /* One unit is at most one sentence, about 20 tokens: half of it is the best there is,
             * and the search may stop one unit short of it. */
            CHECK(abs(l.n - o.tokens) <= 20, "%s: %d tokens for %d", l.task, l.n, o.tokens);
            raw += check_answers(t, &l, &o);
            lines++;
            suite_line_free(&l);
        }
    /* 48 draws at 0.6: 28.8 expected, standard deviation 3.4; four of them either way. */
    CHECK(raw >= 15 && raw <= 43, "%d of %d lines are raw", raw, lines);
}

static void formats_are_as_asked(const struct tokenizer *t)
{
    for (int form = GEN_RAW; form <= GEN_CHAT; form++)
        for (int questions = 1; questions <= GEN_MAX_QUESTIONS; questions += 7)
            for (int task = 0; task <= GEN_HOPS; task++) {
                struct gen_options o = {.task = (enum gen_task)task,
                                        .format = (enum gen_format)form,
                                        .tokens = 900,
                                        .questions = questions,
                                        .seed = 3};
                struct suite_line l;
                CHECK(gen_tokens(&l, &o, t, 0) == 0, "%s", last_failure());
                if (l.ids == NULL) continue;
                check_shape(t, &l, &o);
                CHECK(check_answers(t, &l, &o) == (form == GEN_RAW), "format %d", form);
                suite_line_free(&l);
            }
}

/* No token of the pocket model lies across a cut, so the ids are those of the whole text. */
static void ids_are_those_of_the_whole_text(const struct tokenizer *t)
{
    for (int i = 0; i < 8; i++) {
        struct gen_options o = {.task = (enum gen_task)(i % 4),
                                .format = GEN_MIXED,
                                .tokens = 500,
                                .questions = 2,
                                .seed = 11};
        struct suite_line l;
        int *ids = NULL, n = 0;
        CHECK(gen_tokens(&l, &o, t, i) == 0, "%s", last_failure());
        if (l.ids == NULL) continue;
        char *text = text_of(t, &l, 0, l.n);
        CHECK(tokenizer_encode(t, text, strlen(text), true, &ids, &n) == 0, "%s", last_failure());
        CHECK(n == l.n && memcmp(ids, l.ids, (size_t)n * sizeof *ids) == 0, "line %d", i);
        free(ids);
        free(text);
        suite_line_free(&l);
    }
}

static bool same_line(const struct suite_line *a, const struct suite_line *b)
{
    return a->n == b->n && a->n_prefill == b->n_prefill &&
           memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) == 0 &&
           memcmp(a->spans, b->spans, (size_t)a->n_spans * sizeof *a->spans) == 0;
}

static void the_seed_decides(const struct tokenizer *t)
{
    struct gen_options o = {.task = GEN_HOPS, .tokens = 500, .questions = 3, .seed = 1};
    struct suite_line a, b, other;
    CHECK(gen_tokens(&a, &o, t, 5) == 0 && gen_tokens(&b, &o, t, 5) == 0, "%s", last_failure());
    CHECK(same_line(&a, &b), "the same seed and index give another line");
    CHECK(gen_tokens(&other, &o, t, 6) == 0 && !same_line(&a, &other), "index");
    suite_line_free(&other);
    o.seed = 2;
    CHECK(gen_tokens(&other, &o, t, 5) == 0 && !same_line(&a, &other), "seed");
    suite_line_free(&other);
    suite_line_free(&a);
    suite_line_free(&b);
}

static void too_few_tokens_are_refused(const struct tokenizer *t)
{
    for (int task = 0; task <= GEN_HOPS; task++) {
        struct gen_options o = {.task = (enum gen_task)task, .tokens = 40, .questions = 3};
        struct suite_line l;
        CHECK(gen_check(&o, t, 0) == -1, "taken");
        CHECK(strstr(last_failure(), gen_task_names[task]) &&
                  strstr(last_failure(), "40 tokens are too few"),
              "%s", last_failure());
        CHECK(gen_tokens(&l, &o, t, 0) == -1 && l.ids == NULL, "made");
        const char *needed = strstr(last_failure(), "at least ");
        CHECK(needed && sscanf(needed, "at least %d", &o.tokens) == 1, "%s", last_failure());
        CHECK(gen_check(&o, t, 0) == 0, "what is needed is enough: %s", last_failure());
        CHECK(gen_tokens(&l, &o, t, 0) == 0 && l.n <= o.tokens + 20, "%d of %d", l.n, o.tokens);
        suite_line_free(&l);
    }
}

static void long_twostage_is_filled_with_prose(const struct tokenizer *t)
{
    struct gen_options o = {.task = GEN_TWOSTAGE, .tokens = 6000, .questions = 3, .seed = 4};
    struct suite_line l;
    CHECK(gen_tokens(&l, &o, t, 0) == 0, "%s", last_failure());
    if (l.ids == NULL) return;
    check_shape(t, &l, &o);
    check_answers(t, &l, &o);
    CHECK(abs(l.n - 6000) <= 20, "%d tokens", l.n);
    suite_line_free(&l);
}

static void text_lines_have_prompt_and_word(const struct tokenizer *t)
{
    for (int task = 0; task <= GEN_HOPS; task++)
        for (int form = GEN_RAW; form <= GEN_CHAT; form++) {
            struct gen_options o = {.task = (enum gen_task)task,
                                    .format = (enum gen_format)form,
                                    .tokens = 300,
                                    .questions = 1,
                                    .seed = 5};
            struct suite_line l;
            CHECK(gen_text(&l, &o, t, 2) == 0, "%s", last_failure());
            if (l.prompt == NULL) continue;
            CHECK(l.ids == NULL && l.n_answers == 1, "%d answers", l.n_answers);
            CHECK(strstr(l.prompt, l.answers[0]), "%s", l.answers[0]);
            size_t n = strlen(l.prompt);
            CHECK(strcmp(l.prompt + n - (form ? 1 : 7), form ? "?" : "Answer:") == 0, "%s",
                  l.prompt);
            CHECK(strstr(l.prompt, "<|") == NULL, "no markup: %s", l.prompt);
            suite_line_free(&l);
        }
}

/* A byte-level tokenizer without pre-tokenisation, whose one merge joins ": " into a token: the end
 * of a question and the start of an answer. */
static void write_joining_tokenizer(const char *dir)
{
    struct passage json = {0};
    mkdir(dir, 0777);
    passage_add(&json, "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null, "
                       "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                       "\"trim_offsets\": true, \"use_regex\": false}, \"post_processor\": null, "
                       "\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", "
                       "\"merges\": [\": \\u0120\"], \"vocab\": {");
    for (int byte = 0, moved = 256; byte < 256; byte++) {
        bool shown = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        passage_addf(&json, "\"\\u%04x\": %d, ", shown ? byte : moved, byte);
        moved += !shown;
    }
    passage_add(&json, "\":\\u0120\": 256}}}");
    char *path = xprintf("%s/tokenizer.json", dir);
    FILE *f = fopen(path, "wb");
    if (f) fwrite(json.s, 1, json.n, f);
    if (f) fclose(f);
    free(path);
    passage_free(&json);
}

static void joined_cuts_are_encoded_apart(void)
{
    const char *dir = check_scratch("joining");
    write_joining_tokenizer(dir);
    struct tokenizer *t = tokenizer_load(dir);
    struct gen_options o = {.task = GEN_PASSKEY, .format = GEN_RAW, .tokens = 1500, .questions = 3};
    struct suite_line l;
    CHECK(t, "%s", last_failure());
    if (t == NULL) return;
    CHECK(gen_tokens(&l, &o, t, 0) == 0, "%s", last_failure());
    if (l.ids) {
        check_shape(t, &l, &o);
        CHECK(check_answers(t, &l, &o), "raw");
        /* "Answer:" ends in the token of ":", and " The" starts with that of " ". */
        CHECK(l.ids[l.n_prefill - 1] == ':' && l.ids[l.n_prefill] == ' ', "%d %d",
              l.ids[l.n_prefill - 1], l.ids[l.n_prefill]);
        suite_line_free(&l);
    }
    o.format = GEN_CHAT;
    CHECK(gen_tokens(&l, &o, t, 0) == -1 && strstr(last_failure(), "--format raw"), "%s",
          last_failure());
    o.format = GEN_MIXED; /* without a chat format every line is raw */
    for (int i = 0; i < 5; i++) {
        CHECK(gen_tokens(&l, &o, t, i) == 0, "%s", last_failure());
        if (l.ids) CHECK(check_answers(t, &l, &o), "raw");
        suite_line_free(&l);
    }
    tokenizer_free(t);
}

/* A tokenizer of the SentencePiece style, one token a character, that puts a space before every
 * text, with the chat format of Llama 2. */
static void write_spacing_tokenizer(const char *dir)
{
    struct passage json = {0};
    mkdir(dir, 0777);
    passage_add(&json, "{\"version\": \"1.0\", \"added_tokens\": [");
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    for (int i = 0; i < 3; i++)
        passage_addf(&json,
                     "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": "
                     "false, \"rstrip\": false, \"normalized\": false, \"special\": true}",
                     i ? ", " : "", i, special[i]);
    passage_add(&json, "], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": "
                       "\"Prepend\", \"prepend\": \"\u2581\"}, {\"type\": \"Replace\", "
                       "\"pattern\": {\"String\": \" \"}, \"content\": \"\u2581\"}]}, ");
    passage_add(&json,
                "\"pre_tokenizer\": null, \"post_processor\": {\"type\": "
                "\"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "
                "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
                "\"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [1], "
                "\"tokens\": [\"<s>\"]}}}, ");
    passage_add(&json, "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": "
                       "\"Replace\", \"pattern\": {\"String\": \"\u2581\"}, \"content\": \" \"}, "
                       "{\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": "
                       "\"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}, ");
    passage_add(&json, "\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", "
                       "\"fuse_unk\": true, \"byte_fallback\": true, \"merges\": [], \"vocab\": "
                       "{\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, ");
    for (int byte = 0; byte < 256; byte++)
        passage_addf(&json, "\"<0x%02X>\": %d, ", byte, byte + 3);
    for (int c = 33; c < 127; c++) passage_addf(&json, "\"\\u%04x\": %d, ", c, c + 226);
    passage_add(&json, "\"\u2581\": 353}}}");
    const char *const text[] = {json.s, "{\"bos_token\": \"<s>\", \"chat_template\": "
                                        "\"[INST] <<SYS>> [/INST]\"}"};
    for (int i = 0; i < 2; i++) {
        char *path = xprintf("%s/tokenizer%s.json", dir, i ? "_config" : "");
        FILE *f = fopen(path, "wb");
        if (f) fputs(text[i], f);
        if (f) fclose(f);
        free(path);
    }
    passage_free(&json);
}

/* Encoded piece by piece, every answer would start with one space more than the text has. */
static void sentencepiece_lines_are_encoded_whole(void)
{
    const char *dir = check_scratch("spacing");
    write_spacing_tokenizer(dir);
    struct tokenizer *t = tokenizer_load(dir);
    CHECK(t, "%s", last_failure());
    if (t == NULL) return;
    CHECK(tokenizer_chat_format(t) == CHAT_LLAMA2, "%d", tokenizer_chat_format(t));
    for (int form = GEN_RAW; form <= GEN_CHAT; form++) {
        struct gen_options o = {
            .task = GEN_PASSKEY, .format = (enum gen_format)form, .tokens = 1500, .questions = 3};
        struct suite_line l;
        CHECK(gen_tokens(&l, &o, t, 0) == 0, "%s", last_failure());
        if (l.ids == NULL) continue;
        check_shape(t, &l, &o);
        /* a character a token: half a sentence of at most 110 */
        CHECK(abs(l.n - o.tokens) <= 110, "%d tokens", l.n);
        for (int i = 0; i < l.n_spans; i++) {
            /* the token before it too, since the start of a text loses its space */
            char *answer = text_of(t, &l, l.spans[i][0] - 1, l.spans[i][1]);
            const char *lead = form ? "] The pass" : ": The pass", *stop = form ? ". </s>" : ".\n";
            size_t n = strlen(answer), k = strlen(stop);
            CHECK(strncmp(answer, lead, strlen(lead)) == 0, "%s", answer);
            CHECK(n > k && strcmp(answer + n - k, stop) == 0, "%s", answer);
            free(answer);
        }
        suite_line_free(&l);
    }
    tokenizer_free(t);
}

static void prose_answers_nothing(void)
{
    struct passage t = {0};
    struct rng r;
    rng_seed(&r, 6);
    for (int i = 0; i < 2000; i++) {
        size_t from = t.n;
        passage_add_sentence(&t, &r);
        CHECK(t.n - from > 20 && t.s[t.n - 1] == '.', "%s", t.s + from);
        CHECK(isupper((unsigned char)t.s[from]), "%s", t.s + from);
        for (const char *c = t.s + from + 1; *c; c++)
            CHECK(islower((unsigned char)*c) || strchr(" ,.", *c), "%s", t.s + from);
        passage_add(&t, " ");
    }
    CHECK(occurrences(t.s, " a a") + occurrences(t.s, " a e") + occurrences(t.s, " a o") == 0,
          "an article before a vowel");
    CHECK(occurrences(t.s, "an old ") > 0, "no vowel met");
    passage_free(&t);
}

/* A line of each of the first four tasks is what it was when the demo's figures were made. */
static void lines_stay_the_same(const struct tokenizer *t)
{
    static const struct {
        uint64_t mixed, chat, eight; /* hashes of three lines as suite_line_write() prints them */
    } golden[] = {
        {0x4afdf875a868e50d, 0x77c0f9d84278ce35, 0x8ab8db26fbd508ee},
        {0x1a4337e00edef7c8, 0xa5f16b3e2e4819da, 0xeb4802f4941895ec},
        {0xa724e3743591c052, 0x39f8b8976f7d4692, 0xc3887f2b6c2e6217},
        {0x05ca81adabc77db9, 0x7bd56cac24829fee, 0x290d264aa9149473},
    };
    for (int task = 0; task <= GEN_HOPS; task++)
        for (int kind = 0; kind < 3; kind++) {
            const struct gen_options o = {.task = (enum gen_task)task,
                                          .format = kind == 0   ? GEN_MIXED
                                                    : kind == 1 ? GEN_CHAT
                                                                : GEN_RAW,
                                          .tokens = kind == 2 ? 900 : 400,
                                          .questions = kind == 0   ? 3
                                                       : kind == 1 ? 1
                                                                   : 8,
                                          .seed = kind == 0 ? 7 : 2};
            char *text = NULL;
            size_t size;
            FILE *f = open_memstream(&text, &size);
            for (int i = 0; i < 3; i++) {
                struct suite_line l;
                const int rc = kind == 1 ? gen_text(&l, &o, t, i) : gen_tokens(&l, &o, t, i);
                CHECK(rc == 0, "%s", last_failure());
                if (rc == 0) suite_line_write(f, &l);
                suite_line_free(&l);
            }
            fclose(f);
            const uint64_t want = kind == 0   ? golden[task].mixed
                                  : kind == 1 ? golden[task].chat
                                              : golden[task].eight,
                           found = hash_bytes(HASH_START, text, size);
            CHECK(found == want, "%s, %d: %llx", gen_task_names[task], kind,
                  (unsigned long long)found);
            free(text);
        }
}

/* The length is exact, and so is the depth but for the sentence that the key cannot cut. */
static void needles_stand_where_they_should(const struct tokenizer *t)
{
    static const double depths[] = {0, 0.1, 0.5, 0.9, 1};
    for (int length = 200; length <= 1100; length += 300)
        for (size_t d = 0; d < COUNT_OF(depths); d++) {
            const struct gen_options o = {.task = GEN_NEEDLE,
                                          .format = d % 2 ? GEN_CHAT : GEN_RAW,
                                          .tokens = length,
                                          .questions = 1,
                                          .depth = depths[d],
                                          .seed = 12};
            struct suite_line l;
            char key[6], *name = xprintf("needle/%d/%g", length, depths[d]);
            CHECK(gen_tokens(&l, &o, t, 3) == 0, "%s", last_failure());
            if (l.ids == NULL) continue;
            CHECK(strcmp(l.task, name) == 0 && l.n_spans == 1, "%s, %d spans", l.task, l.n_spans);
            CHECK(l.n == length, "%s: %d tokens", name, l.n);
            char *all = text_of(t, &l, 0, l.n_prefill);
            char *answer = text_of(t, &l, l.spans[0][0], l.spans[0][1]);
            char *needle = strstr(all, "The pass key is "), *text = all;
            CHECK(needle && sscanf(needle, "The pass key is %5[0-9].", key) == 1, "%s", all);
            CHECK(needle && strstr(needle + 1, "The pass key is ") == NULL, "two keys");
            CHECK(strstr(answer, key), "%s is not in %s", key, answer);
            char *mark = strstr(all, "<|end_header_id|>\n\n"),
                 *begin = strstr(all, "<|begin_of_text|>");
            if (begin) text = begin + 17;
            if (mark) text = mark + 19;
            char *after = needle ? strstr(needle, "is the pass key.") : NULL,
                 *end = strstr(all, d % 2 ? "\nWhat is" : "\nQuestion");
            CHECK(after && end && after + 16 <= end, "%s", all);
            if (after && end) {
                const double before = (double)(needle - text), left = (double)(end - after - 16);
                /* a sentence of at most 110 bytes lies on one side or the other; half of it, since
                 * its place is rounded, and as much again since sentences are not equally long */
                CHECK(fabs(before / (before + left) - depths[d]) * (before + left) <= 110,
                      "%s: depth %g", name, before / (before + left));
                if (depths[d] == 0) CHECK(before == 0, "%s: %g bytes before it", name, before);
                if (depths[d] == 1) CHECK(left == 0, "%s: %g bytes after it", name, left);
            }
            free(all);
            free(answer);
            free(name);
            suite_line_free(&l);
        }
}

/* The number that variable NAME has in TEXT, by following the assignments, which *LINKS counts;
 * DEFINED is false when one is missing, or stands after the one that uses it. */
static int value_of(const char *text, const char *name, bool *defined, int *links)
{
    char *first = xprintf("VAR %s = ", name);
    const char *at = strstr(text, first);
    char other[6];
    int value = -1;
    ++*links;
    if (at == NULL || strstr(at + 1, first)) {
        *defined = false;
    } else if (sscanf(at + strlen(first), "VAR %5[A-Z]", other) == 1) {
        char *before = xprintf("%.*s", (int)(at - text), text);
        value = value_of(before, other, defined, links);
        free(before);
    } else if (sscanf(at + strlen(first), "%d", &value) != 1) {
        *defined = false;
    }
    free(first);
    return value;
}

/* Checks the names in ANSWER, N of them, against all variables of CONTEXT that have VALUE. */
static void check_variables(const char *context, int value, const char *answer, int n)
{
    int having = 0, longest = 0;
    for (const char *at = context; (at = strstr(at, "VAR ")) != NULL; at += 4) {
        char name[6];
        bool defined = true;
        int links = 0;
        if (at > context && at[-1] != '\n' && at[-1] != '>')
            continue; /* the right of an equals sign */
        CHECK(sscanf(at, "VAR %5[A-Z] =", name) == 1 && strlen(name) == 5, "%.30s", at);
        if (value_of(context, name, &defined, &links) != value || !defined) {
            CHECK(defined, "%s is not defined before it is used", name);
            CHECK(strstr(answer, name) == NULL, "%s does not have %d", name, value);
            continue;
        }
        CHECK(strstr(answer, name), "%s has %d, but is not in %s", name, value, answer);
        having++;
        if (links > longest) longest = links;
    }
    CHECK(having == n, "%d variables have %d, %d are asked for", having, value, n);
    CHECK(longest == n, "the longest chain has %d links, not %d", longest, n);
}

static void variables_are_tracked(const struct tokenizer *t)
{
    static const int shapes[][3] = {{1, 4, 1}, {3, 2, 3}, {8, 3, 2}, {2, 1, 1}};
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        struct gen_options o = {.task = GEN_VT,
                                .format = GEN_RAW,
                                .tokens = 1200,
                                .chains = shapes[k][0],
                                .hops = shapes[k][1],
                                .questions = shapes[k][2],
                                .seed = k};
        const int n = o.hops + 1;
        struct suite_line l;
        int asked, value;
        CHECK(gen_tokens(&l, &o, t, 1) == 0, "%s", last_failure());
        if (l.ids) {
            check_shape(t, &l, &o);
            CHECK(abs(l.n - 1200) <= 20, "%d tokens", l.n);
            char *context = text_of(t, &l, 0, l.n_prefill),
                 *question = strstr(context, "\nQuestion");
            if (question) *question++ = 0;
            for (int i = 0; i < l.n_spans; i++) {
                char *turn = i ? text_of(t, &l, l.spans[i - 1][1], l.spans[i][0])
                               : xstrdup(question ? question : "");
                char *answer = text_of(t, &l, l.spans[i][0], l.spans[i][1]);
                CHECK(sscanf(turn, "Question: Which %d variables have the value %d", &asked,
                             &value) == 2 &&
                          asked == n,
                      "%s", turn);
                check_variables(context, value, answer, n);
                free(turn);
                free(answer);
            }
            free(context);
            suite_line_free(&l);
        }
        o.questions = 1;
        CHECK(gen_text(&l, &o, t, 1) == 0, "%s", last_failure());
        if (l.prompt == NULL) continue;
        CHECK(l.match == MATCH_EACH && l.n_answers == n, "%d answers", l.n_answers);
        char *question = strstr(l.prompt, "\nQuestion"), *words = xstrdup("");
        CHECK(question && sscanf(question, "\nQuestion: Which %d variables have the value %d",
                                 &asked, &value) == 2,
              "%s", l.prompt);
        for (int i = 0; i < l.n_answers; i++) {
            char *longer = xprintf("%s %s", words, l.answers[i]);
            free(words);
            words = longer;
        }
        if (question) *question = 0;
        check_variables(l.prompt, value, words, n);
        free(words);
        suite_line_free(&l);
    }
}

/* Any options within their ranges are refused with a line, or give a line that keeps the contract.
 */
static void fuzzed_options_keep_the_contract(const struct tokenizer *t)
{
    struct rng r;
    int made = 0;
    rng_seed(&r, 8);
    for (int i = 0; i < 150; i++) {
        struct gen_options o = {.task = (enum gen_task)rng_below(&r, 4),
                                .format = (enum gen_format)rng_below(&r, 3),
                                .tokens = 1 + (int)rng_below(&r, 1500),
                                .questions = 1 + (int)rng_below(&r, GEN_MAX_QUESTIONS),
                                .seed = rng_next(&r)};
        struct suite_line l;
        int index = (int)rng_below(&r, 1000000);
        bool possible = gen_check(&o, t, index) == 0;
        CHECK((gen_tokens(&l, &o, t, index) == 0) == possible, "%s", last_failure());
        if (l.ids == NULL) continue;
        made++;
        check_shape(t, &l, &o);
        check_answers(t, &l, &o);
        CHECK(abs(l.n - o.tokens) <= 20, "%s: %d tokens for %d", l.task, l.n, o.tokens);
        suite_line_free(&l);
    }
    CHECK(made > 75, "only %d of 150 made", made);
}

int main(void)
{
    mute_failures(true);
    struct tokenizer *t = tokenizer_load(pocket);
    CHECK(t, "%s", last_failure());
    prose_answers_nothing();
    if (t) {
        contexts_hold_the_answers(t);
        formats_are_as_asked(t);
        ids_are_those_of_the_whole_text(t);
        the_seed_decides(t);
        too_few_tokens_are_refused(t);
        long_twostage_is_filled_with_prose(t);
        text_lines_have_prompt_and_word(t);
        lines_stay_the_same(t);
        needles_stand_where_they_should(t);
        variables_are_tracked(t);
        fuzzed_options_keep_the_contract(t);
    }
    joined_cuts_are_encoded_apart();
    sentencepiece_lines_are_encoded_whole();
    tokenizer_free(t);
    return check_report("test_gen");
}
