/* test_synthetic.c - the benchmarks' synthetic data sets: every answer worked out again from the
 * text, by a parser, a sort or an interpreter that shares nothing with the generator. */
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/task/synthetic.h"
#include "tests/check.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static cJSON *line_of(const struct synthetic *s, int index)
{
    char *text = synthetic_line(s, index);
    CHECK(strchr(text, '\n') == NULL, "a line of its own");
    cJSON *line = json_parse("line", text, strlen(text));
    CHECK(line, "%s", last_failure());
    free(text);
    return line ? line : cJSON_CreateObject();
}

static const char *text_of(const cJSON *line, const char *key)
{
    const cJSON *item = json_member(line, key);
    CHECK(cJSON_IsString(item), "no text \"%s\"", key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static double number_of(const cJSON *line, const char *key)
{
    const cJSON *item = json_member(line, key);
    CHECK(cJSON_IsNumber(item), "no number \"%s\"", key);
    return cJSON_IsNumber(item) ? item->valuedouble : -1e9;
}

static void sets_have_the_published_sizes(void)
{
    static const struct {
        enum synthetic_task task;
        int tokens, lines;
    } sets[] = {
        {SYNTHETIC_PASSKEY, 8192, 275},         {SYNTHETIC_PASSKEY, 16384, 275},
        {SYNTHETIC_PASSKEY, 32768, 300},        {SYNTHETIC_PASSKEY, 65536, 295},
        {SYNTHETIC_PASSKEY, 131072, 590},       {SYNTHETIC_PASSKEY, 262144, 295},
        {SYNTHETIC_NUMBER_STRING, 131072, 590}, {SYNTHETIC_KV_RETRIEVAL, 131072, 500},
        {SYNTHETIC_MATH_FIND, 131072, 350},     {SYNTHETIC_MATH_CALC, 131072, 50},
        {SYNTHETIC_CODE_RUN, 131072, 400},      {SYNTHETIC_2STAGE, 131072, 100},
        {SYNTHETIC_PASSKEY, 1000, 205},         {SYNTHETIC_KV_RETRIEVAL, 1000, 500},
    };
    for (size_t i = 0; i < COUNT_OF(sets); i++) {
        const struct synthetic s = {.task = sets[i].task, .tokens = sets[i].tokens};
        CHECK(synthetic_lines(&s) == sets[i].lines, "%s at %d: %d lines, want %d",
              synthetic_task_names[s.task], s.tokens, synthetic_lines(&s), sets[i].lines);
    }
    for (int task = 0; task < SYNTHETIC_2STAGE; task++) {
        const char *need;
        struct synthetic s = {.task = (enum synthetic_task)task, .tokens = 1};
        CHECK(synthetic_lines(&s) == -1 && (need = strstr(last_failure(), "at least ")) != NULL &&
                  sscanf(need, "at least %d", &s.tokens) == 1,
              "%s", last_failure());
        CHECK(synthetic_lines(&s) > 0, "what is needed is enough: %s", last_failure());
        cJSON_Delete(line_of(&s, synthetic_lines(&s) - 1));
    }
}

/* The number stands twice in one line, after so many lines of noise as the depth says. */
static void check_hidden(const struct synthetic *s, int index, int noise, int step, int keys)
{
    const bool digits = s->task == SYNTHETIC_NUMBER_STRING;
    cJSON *line = line_of(s, index);
    const char *context = text_of(line, "context"), *answer = text_of(line, "answer"),
               *first = NULL;
    size_t length = 0;
    int before = 0, needles = 0, lines = 0;
    for (const char *at = context, *end; *at; at = end + 1, lines++) {
        end = strchr(at, '\n');
        CHECK(end, "the last line has no end");
        if (end == NULL) break;
        char a[12], b[12];
        const char *form = digits
                               ? "The sequence of digits is %11[0-9]. Remember it. %11[0-9] is the "
                                 "sequence of digits."
                               : "The pass key is %11[0-9]. Remember it. %11[0-9] is the pass key.";
        if (sscanf(at, form, a, b) == 2) {
            CHECK(strcmp(a, answer) == 0 && strcmp(b, answer) == 0, "%s, %s, %s", a, b, answer);
            before = lines;
            needles++;
        } else {
            if (first == NULL) {
                first = at;
                length = (size_t)(end - at);
                CHECK(strcspn(at, "0123456789") > length, "a digit in the noise");
            }
            CHECK((size_t)(end - at) == length && strncmp(at, first, length) == 0, "%.*s",
                  (int)(end - at), at);
        }
    }
    CHECK(needles == 1 && lines == noise + 1, "%d needles in %d lines", needles, lines);
    CHECK(before == index / keys * step, "line %d: %d before the needle", index, before);
    CHECK(number_of(line, "len") == 26 * (noise - before), "len");
    CHECK(strlen(answer) == (digits ? 10 : 5), "%s", answer);
    int doubled = 0;
    for (const char *c = answer; *c && c[1]; c++) doubled += *c == c[1];
    CHECK(!digits || doubled >= 5, "%s: five of its digits are copies of a neighbour", answer);
    CHECK(number_of(line, "id") == index, "id");
    text_of(line, "input");
    cJSON_Delete(line);
}

static void numbers_are_hidden_at_even_depths(void)
{
    const struct synthetic a = {.task = SYNTHETIC_PASSKEY, .tokens = 8192, .seed = 1},
                           b = {.task = SYNTHETIC_PASSKEY, .tokens = 131072, .seed = 1},
                           c = {.task = SYNTHETIC_NUMBER_STRING, .tokens = 131072},
                           d = {.task = SYNTHETIC_NUMBER_STRING, .tokens = 4096, .seed = 3};
    for (int i = 0; i < 275; i += 6) check_hidden(&a, i, 326, 6, 5);
    check_hidden(&a, 274, 326, 6, 5);
    for (int i = 9; i < 590; i += 100) check_hidden(&b, i, 5220, 90, 10);
    check_hidden(&c, 589, 5220, 90, 10);
    for (int i = 0; i < 820; i += 17) check_hidden(&d, i, 163, 2, 10);
}

static bool is_uuid(const char *text)
{
    for (int i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-'
                                                    : !isxdigit((unsigned char)text[i]))
            return false;
    return text[36] == 0 && text[14] == '4' && strchr("89ab", text[19]);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void check_pairs(const struct synthetic *s, int index, int pairs)
{
    cJSON *line = line_of(s, index);
    const char *context = text_of(line, "context"), *input = text_of(line, "input");
    const char *answer = text_of(line, "answer");
    char asked[40] = "";
    CHECK(strncmp(context, "JSON data:\n", 11) == 0, "%.40s", context);
    CHECK(sscanf(input, "\nKey: \"%36[0-9a-f-]\"\n", asked) == 1, "%s", input);
    const size_t n = strlen(input);
    CHECK(n > 4 && strcmp(input + n - 4, "is: ") == 0, "%s", input);
    cJSON *object = cJSON_Parse(context + 11);
    CHECK(cJSON_IsObject(object), "the context is no JSON");
    const char **keys = xcalloc((size_t)pairs + 1, sizeof *keys);
    int count = 0, place = -1;
    for (const cJSON *item = object ? object->child : NULL; item; item = item->next) {
        CHECK(is_uuid(item->string) && cJSON_IsString(item) && is_uuid(item->valuestring), "%s",
              item->string);
        if (strcmp(item->string, asked) == 0) {
            CHECK(strcmp(item->valuestring, answer) == 0, "%s, want %s", answer, item->valuestring);
            place = count;
        }
        if (count < pairs) keys[count] = item->string;
        count++;
    }
    CHECK(count == pairs, "%d pairs, want %d", count, pairs);
    CHECK(place == (int)((long)index * pairs / 500), "line %d asks for pair %d", index, place);
    qsort(keys, (size_t)(count < pairs ? count : pairs), sizeof *keys, by_text);
    for (int i = 1; i < count && i < pairs; i++)
        CHECK(strcmp(keys[i - 1], keys[i]), "%s twice", keys[i]);
    free(keys);
    cJSON_Delete(object);
    cJSON_Delete(line);
}

static void pairs_hold_the_value(void)
{
    const struct synthetic whole = {.task = SYNTHETIC_KV_RETRIEVAL, .tokens = SYNTHETIC_TOKENS},
                           small = {.task = SYNTHETIC_KV_RETRIEVAL, .tokens = 2048, .seed = 5};
    check_pairs(&whole, 0, 2500);
    check_pairs(&whole, 499, 2500); /* the 2,495th of them: 5 times the line */
    for (int i = 0; i < 500; i += 7) check_pairs(&small, i, 39);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* The numbers of "[3, 14, ...]"; the caller frees them. */
static int *read_list(const char *text, int *n)
{
    int *v = xmalloc((strlen(text) + 1) * sizeof *v);
    const char *at = text;
    char *end;
    *n = 0;
    for (char before = '['; *at == before; before = ',') {
        v[(*n)++] = (int)strtol(at + 1, &end, 10);
        CHECK(end > at + 1 && (at == text) == (at[1] != ' '), "%.20s", at);
        at = end;
    }
    CHECK(strcmp(at, "]") == 0, "%.20s", at);
    return v;
}

static void check_list(const struct synthetic *s, int index, int numbers)
{
    static const char *const kinds[] = {
        "largest number",  "second largest number",  "third largest number",
        "smallest number", "second smallest number", "third smallest number",
        "median"};
    const int kind = index / 50;
    int n, different = 1;
    char *raw = synthetic_line(s, index), *wanted = NULL;
    cJSON *line = line_of(s, index);
    int *v = read_list(text_of(line, "context"), &n);
    qsort(v, (size_t)n, sizeof *v, by_number);
    CHECK(n == numbers && v[0] >= 0 && v[n - 1] <= 99, "%d numbers, %d to %d", n, v[0], v[n - 1]);
    CHECK(v[0] <= 19 && v[n - 1] >= (numbers > 1000 ? 79 : 60), "%d to %d", v[0], v[n - 1]);

    char *phrase = xprintf("The %s of the list is: ", kinds[kind]),
         *prompt = xprintf("Find the %s of", kinds[kind]);
    const char *input = text_of(line, "input"), *found = strstr(input, phrase);
    CHECK(found && strcmp(found, phrase) == 0, "%s", input);
    CHECK(strstr(text_of(line, "prompt"), prompt), "%s", prompt);
    if (kind == 6) { /* of an even number of them a fraction, written as one */
        wanted = n % 2 ? xprintf("\"answer\":%d}", v[n / 2])
                       : xprintf("\"answer\":%d.%d}", (v[n / 2 - 1] + v[n / 2]) / 2,
                                 (v[n / 2 - 1] + v[n / 2]) % 2 * 5);
    } else {
        const bool top = kind < 3;
        int at = top ? n - 1 : 0;
        for (; different < kind % 3 + 1; different++) {
            const int same = v[at];
            while (v[at] == same) at += top ? -1 : 1;
        }
        wanted = xprintf("\"answer\":%d}", v[at]);
    }
    CHECK(strstr(raw, wanted), "line %d: %s, want %s", index, strstr(raw, "\"answer\""), wanted);
    free(wanted);
    free(phrase);
    free(prompt);
    free(raw);
    free(v);
    cJSON_Delete(line);
}

static void lists_are_sorted_again(void)
{
    const struct synthetic whole = {.task = SYNTHETIC_MATH_FIND, .tokens = SYNTHETIC_TOKENS},
                           small = {.task = SYNTHETIC_MATH_FIND, .tokens = 1024, .seed = 2},
                           odd = {.task = SYNTHETIC_MATH_FIND, .tokens = 1026, .seed = 2};
    check_list(&whole, 49, 60000);
    check_list(&whole, 349, 60000);
    for (int i = 0; i < 350; i++) check_list(&small, i, 469);
    for (int i = 300; i < 350; i++) check_list(&odd, i, 470);
}

static void check_chain(const struct synthetic *s, int index, int terms)
{
    cJSON *line = line_of(s, index);
    const char *context = text_of(line, "context"), *at = context;
    const cJSON *answer = json_member(line, "answer"), *item = answer ? answer->child : NULL;
    char *end, sign;
    long value = strtol(at, &end, 10), count = 1;
    CHECK(end > at && value >= 0 && value <= 99, "%.20s", context);
    for (at = end; sscanf(at, " %c ", &sign) == 1; at = end, count++) {
        CHECK(at[0] == ' ' && (sign == '+' || sign == '-') && at[2] == ' ', "%.10s", at);
        const long term = strtol(at + 3, &end, 10);
        CHECK(end > at + 3 && term >= 0 && term <= 99, "%.10s", at);
        if (end == at + 3) break;
        value += sign == '+' ? term : -term;
        CHECK(value >= 0 && value <= 99, "%ld leaves the range", value);
        CHECK(item && item->valuedouble == (double)value, "value %ld is %ld", count, value);
        item = item ? item->next : NULL;
    }
    CHECK(count == terms && item == NULL, "%ld terms, want %d", count, terms);
    cJSON_Delete(line);
}

static void chains_are_worked_out_again(void)
{
    const struct synthetic whole = {.task = SYNTHETIC_MATH_CALC, .tokens = SYNTHETIC_TOKENS},
                           small = {.task = SYNTHETIC_MATH_CALC, .tokens = 2048, .seed = 9};
    check_chain(&whole, 49, 30000);
    for (int i = 0; i < 50; i++) check_chain(&small, i, 469);
}

/* An interpreter of the Python that code_run is written in: "def NAME(x):\n    return EXPRESSION",
 * where an expression is x or a call, and a constant added or subtracted. DEEP counts the calls. */
static long run_function(const char *code, int number, long x, int *deep)
{
    char *head = xprintf("def func_%d(x):\n    return ", number);
    const char *at = strstr(code, head);
    long result = 0;
    int called, used = 0;
    CHECK(at && strstr(at + 1, head) == NULL && ++*deep <= 10, "func_%d is not defined once",
          number);
    if (at && *deep <= 10) {
        at += strlen(head);
        if (sscanf(at, "func_%d(x)%n", &called, &used) == 1 && used)
            result = run_function(code, called, x, deep);
        else
            result = x, used = 1;
        CHECK(used != 1 || *at == 'x', "%.20s", at);
        at += used;
        if (*at == ' ') {
            const long constant = strtol(at + 3, NULL, 10);
            CHECK((at[1] == '+' || at[1] == '-') && at[2] == ' ' && constant > 0, "%.10s", at);
            CHECK(at[1] == '+' ? constant <= 17 : constant <= 12, "%.10s", at);
            result += at[1] == '+' ? constant : -constant;
            at += 3 + strspn(at + 3, "0123456789");
        }
        CHECK(*at == '\n', "%.20s", at);
    }
    free(head);
    return result;
}

static void check_code(const struct synthetic *s, int index, int functions)
{
    cJSON *line = line_of(s, index);
    const char *code = text_of(line, "context"), *input = text_of(line, "input");
    const int depth = 2 * (1 + index / 80);
    int number, x, deep = 0, count = 0, last = 0;
    const char *call = strstr(input, "func_");
    CHECK(strstr(code, "Here is the content of functions_module.py") == code, "%.40s", code);
    CHECK(call && sscanf(call, "func_%d(%d)", &number, &x) == 2 && x >= -10 && x <= 10, "%s",
          input);
    if (call) {
        const double result = (double)run_function(code, number, x, &deep);
        CHECK(number_of(line, "answer") == result, "line %d: %g, want %g", index,
              number_of(line, "answer"), result);
        CHECK(deep == depth, "line %d: %d calls, want %d", index, deep, depth);
    }
    for (const char *at = code; (at = strstr(at, "def func_")) != NULL; at++, count++) {
        sscanf(at, "def func_%d", &number);
        CHECK(number > last && number <= 2 * functions, "func_%d after func_%d", number, last);
        last = number;
    }
    CHECK(count == functions / depth * depth, "%d functions", count);
    cJSON_Delete(line);
}

static void code_is_run_again(void)
{
    const struct synthetic whole = {.task = SYNTHETIC_CODE_RUN, .tokens = SYNTHETIC_TOKENS},
                           small = {.task = SYNTHETIC_CODE_RUN, .tokens = 4096, .seed = 4};
    for (int i = 0; i < 400; i += 57) check_code(&whole, i, 550);
    for (int i = 0; i < 400; i++) check_code(&small, i, 17);
}

static void sums_are_looked_up(void)
{
    static const int entries[] = {40, 50, 60, 70, 80, 90, 100, 140, 180, 200};
    const struct synthetic s = {.task = SYNTHETIC_2STAGE, .tokens = SYNTHETIC_TOKENS, .seed = 6};
    for (int i = 0; i < 100; i++) {
        cJSON *line = line_of(&s, i);
        const char *prompt = text_of(line, "prompt"), *dict = strchr(prompt, '{'),
                   *ask = strstr(prompt, "key ");
        const cJSON *answers = json_member(line, "answers");
        int a = 0, b = 0, count = 0;
        char colour[16], found[16] = "";
        CHECK(ask && sscanf(ask, "key %d + %d?", &a, &b) == 2 && a >= 0 && b >= 0, "%s", prompt);
        for (const char *at = dict; at && (*at == '{' || *at == ','); count++) {
            int key;
            CHECK(sscanf(at + 1, "%d: %15[a-z]", &key, colour) == 2 && key == count, "%.20s", at);
            if (key == a + b) memcpy(found, colour, sizeof found);
            at += 1 + strcspn(at + 1, ",}");
        }
        CHECK(count == entries[i % 10], "line %d: %d entries", i, count);
        CHECK(a + b < count, "%d + %d", a, b);
        CHECK(cJSON_GetArraySize(answers) == 1 && strcmp(answers->child->valuestring, found) == 0,
              "line %d: want %s", i, found);
        CHECK(json_member(line, "id") == NULL, "the set has prompt and answers alone");
        cJSON_Delete(line);
    }
}

/* The seed decides, and a line does not depend on which others are made. */
static void sets_repeat(void)
{
    for (int task = 0; synthetic_task_names[task]; task++) {
        struct synthetic s = {.task = (enum synthetic_task)task, .tokens = 4096, .seed = 1};
        char *a = synthetic_line(&s, 30), *b = synthetic_line(&s, 30),
             *next = synthetic_line(&s, 31);
        s.seed = 2;
        char *other = synthetic_line(&s, 30);
        CHECK(strcmp(a, b) == 0, "%s: the same seed gives another line",
              synthetic_task_names[task]);
        CHECK(strcmp(a, other) != 0 && strcmp(a, next) != 0, "%s: the same line twice",
              synthetic_task_names[task]);
        free(a);
        free(b);
        free(next);
        free(other);
    }
}

int main(void)
{
    mute_failures(true);
    sets_have_the_published_sizes();
    numbers_are_hidden_at_even_depths();
    pairs_hold_the_value();
    lists_are_sorted_again();
    chains_are_worked_out_again();
    code_is_run_again();
    sums_are_looked_up();
    sets_repeat();
    return check_report("test_synthetic");
}
