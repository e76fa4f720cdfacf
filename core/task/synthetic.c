/* synthetic.c - the synthetic data sets of the benchmarks, in the form they are published in. */
#include "core/task/synthetic.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/task/draft.h"
#include "core/task/passage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const synthetic_task_names[] = {
    "passkey",   "number_string", "kv_retrieval", "math_find",
    "math_calc", "code_run",      "2stage",       NULL,
};

/* What fills passkey and number_string: 25 tokens, a newline included, for most tokenizers. */
static const char noise[] =
    "The rain has stopped. The road is dry. The mill is quiet. Back we walk. "
    "Nothing here has changed.\n";

/* What a set consists of at SYNTHETIC_TOKENS. */
static const struct {
    int units; /* noise lines, pairs, numbers, terms, functions */
    int least; /* the fewest of them that make sense */
    int lines; /* of the set; 0: by the depths */
} sizes[] = {
    [SYNTHETIC_PASSKEY] = {5220, 1, 0},        [SYNTHETIC_NUMBER_STRING] = {5220, 1, 0},
    [SYNTHETIC_KV_RETRIEVAL] = {2500, 2, 500}, [SYNTHETIC_MATH_FIND] = {60000, 10, 350},
    [SYNTHETIC_MATH_CALC] = {30000, 2, 50},    [SYNTHETIC_CODE_RUN] = {550, 10, 400},
    [SYNTHETIC_2STAGE] = {1, 1, 100},
};

/* Noise lines, and how many of them lie between two depths. */
struct depths {
    int tokens, noise, step;
    int keys; /* lines of passkey at each depth; number_string has 10 */
};

/* The published levels; any other length has about 59 depths, as most of these. */
static struct depths depths_of(const struct synthetic *s)
{
    static const struct depths levels[] = {
        {8192, 326, 6, 5},    {16384, 652, 12, 5},    {32768, 1305, 22, 5},
        {65536, 2610, 45, 5}, {131072, 5220, 90, 10}, {262144, 10440, 180, 5},
    };
    struct depths d = {s->tokens, 0, 1, 5};
    for (size_t i = 0; i < COUNT_OF(levels); i++)
        if (levels[i].tokens == s->tokens) d = levels[i];
    if (d.noise == 0) {
        d.noise = (int)lround(5220.0 * s->tokens / SYNTHETIC_TOKENS);
        if (d.noise >= 58) d.step = d.noise / 58;
    }
    if (s->task == SYNTHETIC_NUMBER_STRING) d.keys = 10;
    return d;
}

static int units_of(const struct synthetic *s)
{
    return (int)lround((double)sizes[s->task].units * s->tokens / SYNTHETIC_TOKENS);
}

int synthetic_lines(const struct synthetic *s)
{
    if (s->task == SYNTHETIC_2STAGE) return sizes[s->task].lines;
    if (units_of(s) < sizes[s->task].least)
        return fail("%s: %d tokens are too few: at least %.0f are needed",
                    synthetic_task_names[s->task], s->tokens,
                    ceil((double)sizes[s->task].least * SYNTHETIC_TOKENS / sizes[s->task].units));
    if (sizes[s->task].lines) return sizes[s->task].lines;
    const struct depths d = depths_of(s);
    return (d.noise / d.step + 1) * d.keys;
}

/* A whole number from LOW to HIGH, both included. */
static int between(struct rng *r, int low, int high)
{
    return low + (int)rng_below(r, (uint32_t)(high - low) + 1);
}

static void add_text(cJSON *line, const char *key, const char *text)
{
    cJSON_AddStringToObject(line, key, text ? text : "");
}

/* ---- a number hidden in noise */

static void write_hidden(cJSON *line, const struct synthetic *s, int index, struct rng *r)
{
    const struct depths d = depths_of(s);
    const bool digits = s->task == SYNTHETIC_NUMBER_STRING;
    const char *what = digits ? "sequence of digits" : "pass key";
    const int before = index / d.keys * d.step;
    struct passage context = {0};
    char key[11] = "", *ask = xprintf("What is the %s?", what);

    for (int i = 0; i < 5; i++) key[i] = (char)('0' + between(r, 0, 9));
    for (int n = 5; digits && n < 10; n++) { /* a digit is doubled where it stands */
        const int at = between(r, 0, n - 1);
        memmove(key + at + 1, key + at, (size_t)(n - at));
    }
    for (int i = 0; i <= d.noise; i++) {
        if (i == before)
            passage_addf(&context, "The %s is %s. Remember it. %s is the %s.\n", what, key, key,
                         what);
        if (i < d.noise) passage_add(&context, noise);
    }
    add_text(line, "context", context.s);
    add_text(line, "input", ask);
    add_text(line, "answer", key);
    cJSON_AddNumberToObject(line, "len", 26 * (d.noise - before));
    passage_free(&context);
    free(ask);
}

/* ---- pairs of UUIDs */

/* A random UUID (RFC 4122, version 4). */
static void write_uuid(char out[37], struct rng *r)
{
    const uint64_t a = rng_next(r), b = rng_next(r);
    snprintf(out, 37, "%08x-%04x-4%03x-%04x-%012llx", (unsigned)(a >> 32),
             (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xfff),
             (unsigned)(0x8000 | (b >> 48 & 0x3fff)), (unsigned long long)(b & 0xffffffffffff));
}

/* The original shuffles 3,000 random pairs and keeps the first 2,500, which are 2,500 random pairs.
 * The pair that is asked for moves through the object from line to line. */
static void write_pairs(cJSON *line, const struct synthetic *s, int index, struct rng *r)
{
    const int n = units_of(s), asked = (int)((int64_t)index * n / sizes[s->task].lines);
    struct passage context = {0};
    char key[37], value[37], *ask = NULL, *answer = NULL;

    passage_add(&context, "JSON data:\n{");
    for (int i = 0; i < n; i++) {
        write_uuid(key, r);
        write_uuid(value, r);
        passage_addf(&context, "%s\"%s\": \"%s\"", i ? ", " : "", key, value);
        if (i != asked) continue;
        ask = xprintf("\nKey: \"%s\"\nThe value that belongs to this key is: ", key);
        answer = xstrdup(value);
    }
    passage_add(&context, "}");
    add_text(line, "context", context.s);
    add_text(line, "input", ask);
    add_text(line, "answer", answer);
    passage_free(&context);
    free(ask);
    free(answer);
}

/* ---- a list of numbers */

/* The k-th largest of the different numbers that were COUNTed, or smallest; -1: they are fewer. */
static int ranked(const int count[100], int k, bool largest)
{
    for (int i = 0; i < 100; i++) {
        const int v = largest ? 99 - i : i;
        if (count[v] && --k == 0) return v;
    }
    return -1;
}

/* The number at place AT of the sorted list. */
static int sorted_at(const int count[100], int at)
{
    int v = 0;
    while (at >= count[v]) at -= count[v++];
    return v;
}

static void write_list(cJSON *line, const struct synthetic *s, int index, struct rng *r)
{
    static const char *const kinds[] = {
        "largest number",  "second largest number",  "third largest number",
        "smallest number", "second smallest number", "third smallest number",
        "median"};
    const int n = units_of(s), kind = index / 50, rank = kind % 3 + 1;
    const bool median = kind == 6;
    const bool top = median ? rng_below(r, 2) == 0 : kind < 3; /* which end of the range moves */
    const int low = top ? 0 : between(r, 0, 19), high = top ? between(r, 79, 99) : 99;
    int *v = xmalloc((size_t)n * sizeof *v), count[100];
    struct passage context = {0};

    do { /* again in the rare case of a short list with fewer than three different numbers */
        memset(count, 0, sizeof count);
        for (int i = 0; i < n; i++) count[v[i] = between(r, low, high)]++;
    } while (ranked(count, 3, true) < 0);
    for (int i = 0; i < n; i++) passage_addf(&context, "%s%d", i ? ", " : "[", v[i]);
    passage_add(&context, "]");

    char *prompt = xprintf("Find the %s of the list below.", kinds[kind]);
    char *ask = xprintf("Give one number and nothing else. The %s of the list is: ", kinds[kind]);
    char *answer =
        !median ? xprintf("%d", ranked(count, rank, top))
        : n % 2 ? xprintf("%d", sorted_at(count, n / 2))
                : xprintf("%.1f", (sorted_at(count, n / 2 - 1) + sorted_at(count, n / 2)) / 2.0);
    add_text(line, "prompt", prompt);
    add_text(line, "context", context.s);
    add_text(line, "input", ask);
    /* 49.0 stays a fraction, as the scorer needs it */
    cJSON_AddRawToObject(line, "answer", answer);
    passage_free(&context);
    free(prompt);
    free(ask);
    free(answer);
    free(v);
}

/* ---- a chain of sums and differences */

static void write_chain(cJSON *line, const struct synthetic *s, struct rng *r)
{
    const int n = units_of(s);
    int *running = xmalloc((size_t)n * sizeof *running), value = between(r, 0, 99);
    struct passage context = {0};

    passage_addf(&context, "%d", value);
    for (int i = 1; i < n; i++) {
        const bool plus = rng_below(r, 2) == 0;
        int term = between(r, 0, 99);
        if (plus && value + term > 99) term = between(r, 0, 99 - value);
        if (!plus && value - term < 0) term = between(r, 0, value);
        value += plus ? term : -term;
        running[i - 1] = value;
        passage_addf(&context, plus ? " + %d" : " - %d", term);
    }
    add_text(line, "context", context.s);
    add_text(line, "input",
             "Work the expression out from left to right and give the value after "
             "each operation.");
    cJSON_AddItemToObject(line, "answer", cJSON_CreateIntArray(running, n - 1));
    passage_free(&context);
    free(running);
}

/* ---- functions that call each other */

/* Function I of all, ordered by group: group 0 calls group 1, and so on; the last adds to x. */
static void add_function(struct passage *t, const int *name, const int *calls, const int *add,
                         int i)
{
    passage_addf(t, "def func_%d(x):\n    return ", name[i]);
    if (calls[i] < 0)
        passage_add(t, "x");
    else
        passage_addf(t, "func_%d(x)", name[calls[i]]);
    if (add[i]) passage_addf(t, add[i] < 0 ? " - %d" : " + %d", abs(add[i]));
    passage_add(t, "\n\n");
}

static void write_code(cJSON *line, const struct synthetic *s, int index, struct rng *r)
{
    const int functions = units_of(s), names = 2 * functions;
    const int groups = 2 * (1 + index / 80), each = functions / groups, n = groups * each;
    int *name = xmalloc((size_t)names * sizeof *name), *of = xmalloc((size_t)names * sizeof *of);
    int *calls = xmalloc((size_t)n * sizeof *calls), *add = xmalloc((size_t)n * sizeof *add);
    struct passage context = {0};

    for (int i = 0; i < names; i++) name[i] = i + 1;
    for (int i = 0; i < n; i++) { /* the first n of a random order */
        const int j = between(r, i, names - 1), swap = name[i];
        name[i] = name[j];
        name[j] = swap;
    }
    for (int i = 0; i < names; i++) of[i] = -1;
    for (int i = 0; i < n; i++) {
        calls[i] = i < n - each ? (i / each + 1) * each + between(r, 0, each - 1) : -1;
        add[i] = between(r, -12, 17);
        of[name[i] - 1] = i;
    }
    const int first = between(r, 0, each - 1), x = between(r, -10, 10);
    int result = x;
    for (int i = first; i >= 0; i = calls[i]) result += add[i];

    passage_add(&context, "Here is the content of functions_module.py:\n\n");
    for (int i = 0; i < names; i++)
        if (of[i] >= 0) add_function(&context, name, calls, add, of[i]);
    char *ask =
        xprintf("Which number does func_%d(%d) return? End with that number.", name[first], x);
    add_text(line, "context", context.s);
    add_text(line, "input", ask);
    cJSON_AddNumberToObject(line, "answer", result);
    passage_free(&context);
    free(ask);
    free(name);
    free(of);
    free(calls);
    free(add);
}

/* ---- two stages */

static void write_2stage(cJSON *line, int index, struct rng *r)
{
    static const int entries[] = {40, 50, 60, 70, 80, 90, 100, 140, 180, 200};
    const int n = entries[index % COUNT_OF(entries)], sum = between(r, 0, n - 1),
              a = between(r, 0, sum);
    struct passage prompt = {0};
    const char *answer = NULL;

    passage_add(&prompt, "The dict is {");
    for (int i = 0; i < n; i++) {
        const char *colour = draft_colours[rng_below(r, DRAFT_COLOURS)];
        passage_addf(&prompt, "%s%d: %s", i ? ", " : "", i, colour);
        if (i == sum) answer = colour;
    }
    passage_addf(&prompt,
                 "}\nFirst write down the sum, then the colour that the dict has for it.\n"
                 "Question: What is the value of key %d + %d?\nAnswer:",
                 a, sum - a);
    add_text(line, "prompt", prompt.s);
    cJSON_AddItemToObject(line, "answers", cJSON_CreateStringArray(&answer, 1));
    passage_free(&prompt);
}

char *synthetic_line(const struct synthetic *s, int index)
{
    const char *name = synthetic_task_names[s->task];
    struct rng r;
    uint64_t seed = hash_bytes(HASH_START, name, strlen(name));
    seed = hash_bytes(seed, &s->seed, sizeof s->seed);
    seed = hash_bytes(seed, &s->tokens, sizeof s->tokens);
    seed = hash_bytes(seed, &index, sizeof index);
    rng_seed(&r, seed);

    cJSON *line = cJSON_CreateObject();
    if (s->task != SYNTHETIC_2STAGE) cJSON_AddNumberToObject(line, "id", index);
    if (s->task <= SYNTHETIC_NUMBER_STRING) write_hidden(line, s, index, &r);
    if (s->task == SYNTHETIC_KV_RETRIEVAL) write_pairs(line, s, index, &r);
    if (s->task == SYNTHETIC_MATH_FIND) write_list(line, s, index, &r);
    if (s->task == SYNTHETIC_MATH_CALC) write_chain(line, s, &r);
    if (s->task == SYNTHETIC_CODE_RUN) write_code(line, s, index, &r);
    if (s->task == SYNTHETIC_2STAGE) write_2stage(line, index, &r);
    char *text = cJSON_PrintUnformatted(line), *own = text ? xstrdup(text) : NULL;
    cJSON_free(text);
    cJSON_Delete(line);
    if (own == NULL) exit(fail("out of memory: cannot write a line of JSON") + 2);
    return own;
}
