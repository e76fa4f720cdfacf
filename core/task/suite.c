/* suite.c - SUITE.jsonl: prompts with known answers, and how answers are judged. */
#include "core/task/suite.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/unicode.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tasks are looked up by going through all of them, so their number must stay moderate. */
#define MAX_TASKS 1000

static const char *const matches[] = {
    [MATCH_ANY] = "any", [MATCH_ALL] = "all", [MATCH_EACH] = "each", NULL};

static int read_task(const char *where, const cJSON *object, struct suite_line *l)
{
    const char *task = NULL;
    if (json_string(where, object, "task", &task)) return -1;
    if (task == NULL || *task == 0)
        return fail("%s: \"task\": expected the task's name, found %s", where,
                    task ? "an empty string" : "nothing");
    for (const char *c = task; *c; c++)
        if (iscntrl((unsigned char)*c))
            return fail("%s: \"task\": expected a name of one line without tabs, found a control "
                        "character",
                        where);
    l->task = xstrdup(task);
    return 0;
}

static int read_spans(const char *where, const cJSON *list, struct suite_line *l)
{
    if (!cJSON_IsArray(list))
        return fail("%s: \"spans\": expected a list of pairs, found %s", where, json_kind(list));
    l->spans = xmalloc(((size_t)cJSON_GetArraySize(list) + 1) * sizeof *l->spans);
    for (const cJSON *item = list->child; item; item = item->next) {
        char what[40];
        int *pair = NULL, n = 0;
        snprintf(what, sizeof what, "spans[%d]", l->n_spans);
        if (json_int_list(where, item, what, l->n_prefill, l->n, &pair, &n)) return -1;
        bool good = n == 2 && pair[1] - pair[0] >= 2;
        if (good) memcpy(l->spans[l->n_spans++], pair, 2 * sizeof *pair);
        free(pair);
        if (!good)
            return fail("%s: %s: expected [start, end) of at least two tokens, the last of them "
                        "the stop token",
                        where, what);
    }
    return 0;
}

static int read_tokens(const char *where, const cJSON *object, int V, struct suite_line *l)
{
    const cJSON *ids = json_member(object, "ids"), *spans = json_member(object, "spans");
    if (ids == NULL || spans == NULL || json_member(object, "n_prefill") == NULL)
        return fail("%s: expected \"ids\", \"n_prefill\" and \"spans\" together, found no \"%s\"",
                    where,
                    ids == NULL     ? "ids"
                    : spans == NULL ? "spans"
                                    : "n_prefill");
    if (json_int_list(where, ids, "ids", 0, V > 0 ? V - 1 : INT_MAX, &l->ids, &l->n)) return -1;
    if (l->n == 0) return fail("%s: ids: expected at least one token id, found none", where);
    if (json_int(where, object, "n_prefill", 1, l->n, &l->n_prefill)) return -1;
    if (json_member(object, "match"))
        return fail("%s: \"match\": expected at text level only, beside \"answers\"", where);
    return read_spans(where, spans, l);
}

static int read_text(const char *where, const cJSON *object, struct suite_line *l)
{
    const char *prompt = NULL, *match = NULL;
    const cJSON *answers = json_member(object, "answers");
    if (json_string(where, object, "prompt", &prompt)) return -1;
    if (prompt == NULL || answers == NULL)
        return fail("%s: expected \"prompt\" and \"answers\" together, found no \"%s\"", where,
                    prompt == NULL ? "prompt" : "answers");
    if (!cJSON_IsArray(answers) || answers->child == NULL)
        return fail("%s: \"answers\": expected a list of at least one string, found %s", where,
                    cJSON_IsArray(answers) ? "an empty one" : json_kind(answers));
    if (json_string(where, object, "match", &match)) return -1;
    while (match && strcmp(match, matches[l->match]) != 0)
        if (matches[++l->match] == NULL)
            return fail("%s: \"match\": expected any, all or each, found \"%.60s\"", where, match);
    l->prompt = xstrdup(prompt);
    l->answers = xcalloc((size_t)cJSON_GetArraySize(answers), sizeof *l->answers);
    for (const cJSON *item = answers->child; item; item = item->next) {
        if (!cJSON_IsString(item) || item->valuestring[0] == 0)
            return fail("%s: answers[%d]: expected a string that is not empty, found %s", where,
                        l->n_answers, cJSON_IsString(item) ? "\"\"" : json_kind(item));
        l->answers[l->n_answers++] = xstrdup(item->valuestring);
    }
    return 0;
}

/* JSON's \u0000 would end a string: what follows would neither be fed nor judged. */
static bool holds_nul(const char *text, size_t size)
{
    const char *end = text + size;
    for (const char *p = text; (p = memchr(p, '\\', (size_t)(end - p))) != NULL; p += 2)
        if (end - p >= 6 && memcmp(p + 1, "u0000", 5) == 0) return true;
    return false;
}

static int read_line(const char *where, const char *text, size_t size, int V, struct suite_line *l)
{
    int rc = -1;
    size_t bad;
    cJSON *o = json_parse(where, text, size);
    if (o == NULL) goto done;
    if (!utf8_check(text, size, &bad)) {
        fail("%s: expected UTF-8, found byte 0x%02x at byte %zu", where, (unsigned char)text[bad],
             bad);
        goto done;
    }
    if (holds_nul(text, size)) {
        fail("%s: expected text without the character 0, found \\u0000", where);
        goto done;
    }
    if (!cJSON_IsObject(o)) {
        fail("%s: expected a JSON object, found %s", where, json_kind(o));
        goto done;
    }
    bool tokens = json_member(o, "ids") || json_member(o, "n_prefill") || json_member(o, "spans");
    bool texts = json_member(o, "prompt") || json_member(o, "answers");
    if (tokens == texts) {
        fail("%s: expected either ids, n_prefill and spans, or prompt and answers, found %s", where,
             tokens ? "both" : "neither");
        goto done;
    }
    if (read_task(where, o, l)) goto done;
    rc = tokens ? read_tokens(where, o, V, l) : read_text(where, o, l);

done:
    cJSON_Delete(o);
    return rc;
}

/* Enters the task of the newest line into the list of distinct ones. */
static int enter_task(const char *where, struct suite *s)
{
    const char *task = s->line[s->n - 1].task;
    for (int i = 0; i < s->n_tasks; i++)
        if (strcmp(s->task[i], task) == 0) return 0;
    if (s->n_tasks == MAX_TASKS)
        return fail("%s: expected at most %d different tasks, found more", where, MAX_TASKS);
    s->task = xrealloc(s->task, (size_t)(s->n_tasks + 1) * sizeof *s->task);
    s->task[s->n_tasks++] = xstrdup(task);
    return 0;
}

struct suite *suite_load(const char *path, int V)
{
    size_t size = 0;
    char *buffer = file_read(path, &size);
    struct suite *s = xcalloc(1, sizeof *s);
    int rc = -1, room = 0;
    long number = 0; /* of the line in the file, from 1 */
    const char *end = buffer ? buffer + size : NULL;

    if (buffer == NULL) goto done;
    for (const char *line = buffer, *next; line < end; line = next) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *stop = newline ? newline : end;
        next = newline ? newline + 1 : end;
        number++;
        while (line < stop && strchr(" \t\r", *line) && *line) line++;
        if (line == stop) continue;
        if (s->n == room) {
            if (room > INT_MAX / 2) {
                fail("%s: expected at most %d lines, found more", path, INT_MAX / 2);
                goto done;
            }
            room = 2 * room + 16;
            s->line = xrealloc(s->line, (size_t)room * sizeof *s->line);
        }
        struct suite_line *l = &s->line[s->n++];
        *l = (struct suite_line){.where = xprintf("%s:%ld", path, number)};
        if ((rc = read_line(l->where, line, (size_t)(stop - line), V, l)) != 0 ||
            (rc = enter_task(l->where, s)) != 0)
            goto done;
    }
    rc = s->n ? 0 : fail("%s: expected at least one line, found none", path);

done:
    free(buffer);
    if (rc) {
        suite_free(s);
        s = NULL;
    }
    return s;
}

void suite_line_free(struct suite_line *l)
{
    for (int a = 0; a < l->n_answers; a++) free(l->answers[a]);
    free(l->answers);
    free(l->prompt);
    free(l->spans);
    free(l->ids);
    free(l->task);
    free(l->where);
    memset(l, 0, sizeof *l);
}

void suite_free(struct suite *s)
{
    if (s == NULL) return;
    for (int i = 0; i < s->n; i++) suite_line_free(&s->line[i]);
    for (int i = 0; i < s->n_tasks; i++) free(s->task[i]);
    free(s->task);
    free(s->line);
    free(s);
}

/* Writes TEXT as a JSON string. */
static void json_text(FILE *f, const char *text)
{
    cJSON *item = cJSON_CreateString(text);
    char *quoted = item ? cJSON_PrintUnformatted(item) : NULL;
    if (quoted == NULL) exit(fail("out of memory: cannot write a string of JSON") + 2);
    fputs(quoted, f);
    cJSON_free(quoted);
    cJSON_Delete(item);
}

void suite_line_write(FILE *f, const struct suite_line *l)
{
    fprintf(f, "{\"task\": ");
    json_text(f, l->task);
    if (l->ids) {
        fprintf(f, ", \"ids\": [");
        for (int i = 0; i < l->n; i++) fprintf(f, "%s%d", i ? ", " : "", l->ids[i]);
        fprintf(f, "], \"n_prefill\": %d, \"spans\": [", l->n_prefill);
        for (int i = 0; i < l->n_spans; i++)
            fprintf(f, "%s[%d, %d]", i ? ", " : "", l->spans[i][0], l->spans[i][1]);
    } else {
        fprintf(f, ", \"prompt\": ");
        json_text(f, l->prompt);
        fprintf(f, ", \"answers\": [");
        for (int i = 0; i < l->n_answers; i++) {
            if (i) fprintf(f, ", ");
            json_text(f, l->answers[i]);
        }
    }
    fprintf(f, "]");
    if (l->match != MATCH_ANY) fprintf(f, ", \"match\": \"%s\"", matches[l->match]);
    fprintf(f, "}\n");
}

int *suite_judged(const struct suite_line *l, int *n)
{
    const int length = l->n - l->n_prefill; /* spans may overlap: each position counts once */
    bool *judged = xcalloc((size_t)length + 1, sizeof *judged);
    int *pos = xmalloc(((size_t)length + 1) * sizeof *pos);
    for (int i = 0; i < l->n_spans; i++)
        for (int p = l->spans[i][0]; p < l->spans[i][1] - 1; p++) judged[p - l->n_prefill] = true;
    *n = 0;
    for (int i = 0; i < length; i++)
        if (judged[i]) pos[(*n)++] = l->n_prefill + i;
    free(judged);
    return pos;
}

void tally_tokens(struct tally *t, const struct suite_line *l, const int *argmax, const float *nll)
{
    int n, *pos = suite_judged(l, &n);
    for (int i = 0; i < l->n_spans; i++) {
        bool exact = true;
        for (int p = l->spans[i][0]; p < l->spans[i][1] - 1; p++)
            if (argmax[p] != l->ids[p]) exact = false;
        t->correct += exact;
        t->total++;
    }
    for (int i = 0; i < n; i++) t->nll += nll[pos[i]];
    t->tokens += n;
    free(pos);
}

void tally_text(struct tally *t, const struct suite_line *l, const char *text)
{
    const bool each = l->match == MATCH_EACH;
    int found = 0;
    for (int i = 0; i < l->n_answers; i++)
        if ((each ? strcasestr : strstr)(text, l->answers[i])) found++;
    t->correct += each ? found : l->match == MATCH_ALL ? found == l->n_answers : found > 0;
    t->total += each ? l->n_answers : 1;
}

int suite_task(const struct suite *s, const char *task)
{
    int i = 0;
    while (i < s->n_tasks && strcmp(s->task[i], task) != 0) i++;
    return i < s->n_tasks ? i : -1;
}

static struct tally sum(const struct suite *s, const struct tally *t)
{
    struct tally all = {0};
    for (int i = 0; i < s->n_tasks; i++) {
        all.correct += t[i].correct;
        all.total += t[i].total;
        all.nll += t[i].nll;
        all.tokens += t[i].tokens;
    }
    return all;
}

static void table_row(FILE *f, const char *task, const struct tally *t)
{
    fprintf(f, "%s\t%d\t%d\t", task, t->correct, t->total);
    if (t->total)
        fprintf(f, "%.4f\t", (double)t->correct / t->total);
    else
        fprintf(f, "-\t");
    if (t->tokens)
        fprintf(f, "%.5g\n", t->nll / (double)t->tokens);
    else
        fprintf(f, "-\n");
}

void tally_table(FILE *f, const struct suite *s, const struct tally *t)
{
    struct tally all = sum(s, t);
    fprintf(f, "task\tcorrect\ttotal\taccuracy\tnll\n");
    for (int i = 0; i < s->n_tasks; i++) table_row(f, s->task[i], &t[i]);
    table_row(f, "all", &all);
}

void tally_rows(FILE *f, const struct suite *s, const struct tally *t, const char *method,
                int budget)
{
    const struct tally all = sum(s, t);
    for (int i = 0; i <= s->n_tasks; i++) {
        const struct tally *row = i < s->n_tasks ? &t[i] : &all;
        char tokens[16] = "-", nll[32] = "-";
        double low, high;
        if (row->total == 0) continue;
        if (budget > 0) snprintf(tokens, sizeof tokens, "%d", budget);
        if (row->tokens) snprintf(nll, sizeof nll, "%.5g", row->nll / (double)row->tokens);
        wilson_interval(row->correct, row->total, &low, &high);
        fprintf(f, "%s\t%s\t%s\t%d\t%d\t%.4f\t%.4f\t%.4f\t%s\n", method, tokens,
                i < s->n_tasks ? s->task[i] : "all", row->correct, row->total,
                (double)row->correct / row->total, low, high, nll);
    }
}

/* A number with DIGITS digits, or null where there is none (JSON knows neither NaN nor infinity).
 */
static void json_number(FILE *f, const char *key, bool known, double value, int digits)
{
    if (known && isfinite(value))
        fprintf(f, ", \"%s\": %.*g", key, digits, value);
    else
        fprintf(f, ", \"%s\": null", key);
}

static void json_row(FILE *f, const struct tally *t)
{
    fprintf(f, "{\"correct\": %d, \"total\": %d", t->correct, t->total);
    json_number(f, "accuracy", t->total > 0, t->total ? (double)t->correct / t->total : 0, 9);
    json_number(f, "nll", t->tokens > 0, t->tokens ? t->nll / (double)t->tokens : 0, 6);
    fprintf(f, "}");
}

void tally_json(FILE *f, const struct suite *s, const struct tally *t)
{
    struct tally all = sum(s, t);
    fprintf(f, "{\"tasks\": {");
    for (int i = 0; i < s->n_tasks; i++) {
        if (i) fprintf(f, ", ");
        json_text(f, s->task[i]);
        fprintf(f, ": ");
        json_row(f, &t[i]);
    }
    fprintf(f, "}, \"all\": ");
    json_row(f, &all);
    fprintf(f, "}\n");
}
