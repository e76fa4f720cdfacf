/* benchmark.c - reading the benchmarks: files, lines, prompts, labels. */
#include "core/task/benchmark.h"
#include "core/base/base.h"
#include "core/base/command.h"
#include "core/base/json.h"
#include "core/task/template.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMPTS "dataset2prompt.json"
#define LENGTHS "dataset2maxlen.json"
#define TWO_STAGE_MAX_NEW 200 /* cot_pred.py of the original, whose set has no file of lengths */

/* Where what is missing comes from. */
static const char *const data_source[] = {
    [LONGBENCH] = "data.zip of https://huggingface.co/datasets/THUDM/LongBench holds it",
    [LONGBENCH_E] = "data.zip of https://huggingface.co/datasets/THUDM/LongBench holds it",
    [INFINITEBENCH] = "https://huggingface.co/datasets/xinrongzhang2022/InfiniteBench holds it",
    [TWO_STAGE] = "okv gen --benchmark 2stage makes it",
};
static const char *const config_source[] = {
    [LONGBENCH] = "LongBench/config of https://github.com/THUDM/LongBench holds it",
    [LONGBENCH_E] = "LongBench/config of https://github.com/THUDM/LongBench holds it",
    [INFINITEBENCH] = "made from src/ of https://github.com/OpenBMB/InfiniteBench by the command "
                      "in docs/benchmarks.md",
};

/* ---- lines */

/* Reads line I into s->line, *N bytes without its newline. 0, or -1 after fail(). */
static int read_line(struct benchmark_set *s, int i, size_t *n)
{
    *n = (size_t)(s->start[i + 1] - s->start[i]);
    if (*n + 1 > s->room) s->line = xrealloc(s->line, (s->room = *n + 1));
    if (fseeko(s->f, s->start[i], SEEK_SET) != 0 || fread(s->line, 1, *n, s->f) != *n)
        return fail("%s:%d: cannot be read: %s", s->path, i + 1,
                    ferror(s->f) ? strerror(errno) : "the file has become shorter");
    if (*n && s->line[*n - 1] == '\n') --*n;
    s->line[*n] = 0;
    return 0;
}

/* Whether the N bytes of s->line are an object of JSON. */
static int check_line(const struct benchmark_set *s, const char *where, size_t n)
{
    size_t bad, end = n;
    if (!utf8_check(s->line, n, &bad))
        return fail("%s: expected UTF-8, found byte 0x%02x at byte %zu", where,
                    (unsigned char)s->line[bad], bad);
    if (n >= 3 && memcmp(s->line, "\xef\xbb\xbf", 3) == 0)
        return fail("%s: expected an object of JSON, found a byte order mark: remove it", where);
    while (end > 0 && strchr(" \t\r", s->line[end - 1])) end--;
    if (end == 0) return fail("%s: expected an object of JSON, found an empty line", where);

    const bool muted = mute_failures(true);
    cJSON *o = json_parse(where, s->line, n);
    mute_failures(muted);
    const bool object = cJSON_IsObject(o);
    const char *kind = json_kind(o);
    cJSON_Delete(o);
    if (object) return 0;
    if (o) return fail("%s: expected an object of JSON, found %s", where, kind);
    if (s->line[end - 1] != '}')
        return fail("%s: expected an object of JSON, found a line that breaks off after %zu bytes",
                    where, n);
    char *why = xstrdup(last_failure());
    fail("%s", why);
    free(why);
    return -1;
}

/* ---- fields and what is derived from them */

/* A line as the callbacks see it. */
struct line {
    const struct benchmark_set *set;
    const char *where;
    size_t n;
};

static struct span member(const struct line *l, const char *key)
{
    return span_member(l->set->line, l->n, key);
}

/* Appends the text of field KEY; the context of early files of InfiniteBench is called content. */
static int add_field(const struct line *l, const char *key, struct text *out)
{
    struct span v = member(l, key);
    if (v.s == NULL && l->set->kind == INFINITEBENCH && strcmp(key, "context") == 0)
        v = member(l, "content");
    if (!span_is(v, '"'))
        return fail("%s: \"%s\": expected a string, found %s", l->where, key, span_kind(v));
    span_text(out, v);
    return 0;
}

/* Option INDEX of the four, from 0. */
static int read_option(const struct line *l, int index, struct text *out)
{
    const struct span list = member(l, "options");
    int n = 0;
    if (!span_is(list, '['))
        return fail("%s: \"options\": expected a list of four strings, found %s", l->where,
                    span_kind(list));
    for (struct span v = span_first(list); v.s; v = span_next(list, v), n++) {
        if (!span_is(v, '"'))
            return fail("%s: options[%d]: expected a string, found %s", l->where, n, span_kind(v));
        if (n == index) span_text(out, v);
    }
    return n == 4 ? 0
                  : fail("%s: \"options\": expected four strings, found %d of them", l->where, n);
}

static const char *digits(const char *p)
{
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

/* The first func_N(M) of the question: *N bytes, *NAME of them before the parenthesis. */
static const char *find_call(const char *text, size_t *name, size_t *n)
{
    for (const char *p = text; (p = strstr(p, "func_")) != NULL; p++) {
        const char *open = digits(p + 5);
        if (open == p + 5 || *open != '(') continue;
        const char *argument = open + 1 + (open[1] == '-'), *close = digits(argument);
        if (close == argument || *close != ')') continue;
        *name = (size_t)(open - p);
        *n = (size_t)(close + 1 - p);
        return p;
    }
    return NULL;
}

/* "the k-th largest number" of a question that starts so: from "The " up to the last " of" of its
 * line. */
static const char *find_number(const char *text, size_t *n)
{
    for (const char *p = text; (p = strstr(p, "The ")) != NULL; p++) {
        const char *last = NULL, *end = p + strcspn(p, "\n");
        for (const char *q = p + 5; q + 3 <= end; q++)
            if (memcmp(q, " of", 3) == 0) last = q;
        if (last == NULL) continue;
        *n = (size_t)(last - p);
        return p;
    }
    return NULL;
}

/* func, func_call and prefix, which the original cuts out of the question. */
static int add_derived(const struct line *l, const char *name, struct text *out)
{
    struct text question = {0};
    size_t call, n = 0;
    int rc = add_field(l, "input", &question);
    text_add(&question, "", 1);
    if (rc) goto done;
    if (strcmp(name, "prefix") == 0) {
        const char *found = find_number(question.s, &n);
        if (found == NULL) {
            rc = fail("%s: \"input\": expected a question like \"The largest number of ...\", "
                      "found none",
                      l->where);
            goto done;
        }
        text_add(out, "What is ", 8);
        lower_case(out, found, n);
        text_add(out, " in the following list?", 23);
    } else {
        const char *found = find_call(question.s, &call, &n);
        if (found == NULL) {
            rc = fail("%s: \"input\": expected a call like func_12(-3), found none", l->where);
            goto done;
        }
        text_add(out, found, strcmp(name, "func") == 0 ? call : n);
    }

done:
    free(question.s);
    return rc;
}

/* The value of a placeholder: derived where the task has it, otherwise a field of the line. */
static int add_value(void *ctx, const char *name, struct text *out)
{
    static const char *const known[] = {"context",  "input",     "question", "prefix",
                                        "func",     "func_call", "OPTION_A", "OPTION_B",
                                        "OPTION_C", "OPTION_D",  NULL};
    const struct line *l = ctx;
    const struct benchmark_set *s = l->set;
    if (s->kind == INFINITEBENCH) {
        const unsigned traits = s->task->traits;
        const bool call = strcmp(name, "func") == 0 || strcmp(name, "func_call") == 0;
        if (strcmp(name, "question") == 0) name = "input";
        if ((traits & TASK_OPTIONS) && strncmp(name, "OPTION_", 7) == 0 && name[7] >= 'A' &&
            name[7] <= 'D' && name[8] == 0)
            return read_option(l, name[7] - 'A', out);
        if (((traits & TASK_CALL) && call) ||
            ((traits & TASK_NUMBER) && strcmp(name, "prefix") == 0))
            return add_derived(l, name, out);
    }
    if (strcmp(name, "context") == 0 || strcmp(name, "input") == 0 || member(l, name).s)
        return add_field(l, name, out);
    const char *near = nearest_name(name, known);
    return fail("%s: {%s}: expected a field of the data, found none of that name in %s%s%s%s",
                s->template_name, name, l->where, near ? "; is it {" : "", near ? near : "",
                near ? "}?" : "");
}

/* ---- labels */

/* LEAST 0 or 1 strings. */
static int check_strings(const struct line *l, const char *key, int least)
{
    const struct span list = member(l, key);
    int n = 0;
    if (!span_is(list, '['))
        return fail("%s: \"%s\": expected a list of strings, found %s", l->where, key,
                    span_kind(list));
    for (struct span v = span_first(list); v.s; v = span_next(list, v), n++)
        if (!span_is(v, '"'))
            return fail("%s: %s[%d]: expected a string, found %s", l->where, key, n, span_kind(v));
    return n >= least ? 0
                      : fail("%s: \"%s\": expected one string at least, found an empty list",
                             l->where, key);
}

/* Whether T names a paragraph: HEAD and a digit behind it, as the scorer looks for it (which takes
 * digits of any script). */
static bool names_paragraph(const struct text *t, const char *head)
{
    const size_t n = strlen(head);
    for (size_t i = 0; i + n < t->n; i++)
        if (memcmp(t->s + i, head, n) == 0 && t->s[i + n] >= '0' && t->s[i + n] <= '9') return true;
    return false;
}

static int check_paragraphs(const struct line *l, const char *head)
{
    const struct span list = member(l, "answers");
    struct text name = {0};
    int rc = 0, n = 0;
    for (struct span v = span_first(list); v.s && rc == 0; v = span_next(list, v), n++) {
        name.n = 0;
        span_text(&name, v);
        if (!names_paragraph(&name, head))
            rc = fail("%s: answers[%d]: expected \"%s\" and a number, found %.*s", l->where, n,
                      head, v.n < 60 ? (int)v.n : 60, v.s);
    }
    free(name.s);
    return rc;
}

static bool fits(unsigned traits, struct span item)
{
    if (traits & TASK_NUMBER) return span_is(item, '0');
    if (traits & (TASK_CALL | TASK_SERIES)) return strcmp(span_kind(item), "a whole number") == 0;
    return span_is(item, '"');
}

/* Whether the "answer" of a line of InfiniteBench is what the task's scorer needs. */
static int check_answer(const struct line *l, struct span answer)
{
    const unsigned traits = l->set->task->traits;
    const bool first_counts = traits & (TASK_CALL | TASK_NUMBER); /* and what follows it does not */
    const bool alone = first_counts || (traits & TASK_TEXT);      /* needs no list */
    const char *item = traits & TASK_NUMBER                 ? "number"
                       : traits & (TASK_CALL | TASK_SERIES) ? "whole number"
                                                            : "string";
    struct span list = answer;
    int n = 0;
    if (alone && fits(traits, answer)) return 0;
    if (span_is(list, '[') && (traits & TASK_SERIES) && span_is(span_first(list), '['))
        list = span_first(list);
    for (struct span v = span_is(list, '[') ? span_first(list) : (struct span){0};
         v.s && !(n && first_counts); v = span_next(list, v), n++)
        if (!fits(traits, v))
            return fail("%s: answer%s[%d]: expected a %s, found %s", l->where,
                        list.s == answer.s ? "" : "[0]", n, item, span_kind(v));
    if (n) return 0;
    return fail("%s: \"answer\": expected %s%s%sa list of one or more %ss, found %s", l->where,
                alone ? "a " : "", alone ? item : "", alone ? ", or " : "", item,
                span_is(list, '[') ? "an empty list" : span_kind(list));
}

static void add_words(struct text *out, const char *words)
{
    text_add(out, words, strlen(words));
}

static int label_longbench(const struct line *l, struct text *head, struct text *tail)
{
    const struct span classes = member(l, "all_classes"), length = member(l, "length");
    if (check_strings(l, "answers", 1)) return -1;
    const unsigned traits = l->set->task->traits;
    const bool classify = traits & TASK_CLASSES;
    if ((traits & TASK_PARAGRAPH) && check_paragraphs(l, "Paragraph ")) return -1;
    if ((traits & TASK_PARAGRAPH_ZH) && check_paragraphs(l, "段落")) return -1;
    if ((classify || !span_is(classes, 'n')) && check_strings(l, "all_classes", classify))
        return -1;
    if (strcmp(span_kind(length), "a whole number") != 0 || *length.s == '-')
        return fail("%s: \"length\": expected a whole number from 0, found %s", l->where,
                    span_is(length, '-') ? "a negative one" : span_kind(length));
    add_words(head, "{\"pred\": ");
    add_words(tail, ", \"answers\": ");
    span_dump(tail, member(l, "answers"));
    add_words(tail, ", \"all_classes\": ");
    span_dump(tail, classes);
    add_words(tail, ", \"length\": ");
    span_dump(tail, length);
    return 0;
}

/* The label of a question with options: [text, letter]; the data hold a text, a list of it, or the
 * whole label. */
static int label_option(const struct line *l, struct span answer, struct text *tail)
{
    struct text text = {0}, option = {0};
    struct span letter = {0};
    int rc = 0, index = -1;

    if (span_is(answer, '[')) {
        const struct span first = span_first(answer);
        letter = first.s ? span_next(answer, first) : first;
        if (letter.s && span_next(answer, letter).s) letter = answer; /* three: no letter */
        answer = first;
    }
    const bool whole = letter.s && letter.n == 3 && *letter.s == '"' && strchr("ABCD", letter.s[1]);
    if (!span_is(answer, '"') || (letter.s && !whole)) {
        rc = fail("%s: \"answer\": expected an option, a list of it, or of it and a letter A to D, "
                  "found another %s",
                  l->where, span_kind(member(l, "answer")) + 2);
        goto done;
    }
    span_text(&text, answer);
    for (int i = 0; rc == 0 && i < 4 && index < 0; i++) {
        option.n = 0;
        rc = read_option(l, i, &option);
        if (option.n == text.n &&
            memcmp(option.s ? option.s : "", text.s ? text.s : "", text.n) == 0)
            index = i;
    }
    if (rc == 0 && index < 0 && !whole)
        rc = fail("%s: \"answer\": expected one of the options, found \"%.*s\"", l->where,
                  text.n < 60 ? (int)text.n : 60, text.s ? text.s : "");
    if (rc) goto done;
    add_words(tail, "[");
    span_dump(tail, answer);
    add_words(tail, ", \"");
    text_add(tail, whole ? letter.s + 1 : &"ABCD"[index], 1);
    add_words(tail, "\"]");

done:
    free(text.s);
    free(option.s);
    return rc;
}

static int label_infinitebench(const struct line *l, int i, struct text *head, struct text *tail)
{
    const struct span answer = member(l, "answer");
    char start[48];
    snprintf(start, sizeof start, "{\"id\": %d, \"prediction\": ", i);
    add_words(head, start);
    add_words(tail, ", \"ground_truth\": ");
    if (l->set->task->traits & TASK_OPTIONS) return label_option(l, answer, tail);
    if (check_answer(l, answer)) return -1;
    span_dump(tail, answer);
    return 0;
}

static int label_two_stage(const struct line *l, struct text *head, struct text *tail)
{
    if (check_strings(l, "answers", 1)) return -1;
    add_words(head, "{\"pred\": ");
    add_words(tail, ", \"answers\": ");
    span_dump(tail, member(l, "answers"));
    return 0;
}

/* ---- samples */

static int fill_prompt(const struct line *l, struct text *prompt)
{
    const struct benchmark_set *s = l->set;
    if (s->template == NULL) return add_field(l, "prompt", prompt);
    return template_fill(prompt, s->template, add_value, (void *)l);
}

static int fill_label(const struct line *l, int i, struct text *head, struct text *tail)
{
    const enum benchmark_kind kind = l->set->kind;
    const int rc = kind == INFINITEBENCH ? label_infinitebench(l, i, head, tail)
                   : kind == TWO_STAGE   ? label_two_stage(l, head, tail)
                                         : label_longbench(l, head, tail);
    if (rc == 0) add_words(tail, "}\n");
    return rc;
}

/* Reads and checks line I; PROMPT, or HEAD and TAIL, may be NULL. */
static int read_sample(struct benchmark_set *s, int i, struct text *prompt, struct text *head,
                       struct text *tail)
{
    char *where = xprintf("%s:%d", s->path, i + 1);
    struct line l = {.set = s, .where = where};
    int rc = read_line(s, i, &l.n);
    if (rc == 0) rc = check_line(s, where, l.n);
    if (rc == 0 && prompt) rc = fill_prompt(&l, prompt);
    if (rc == 0 && head) rc = fill_label(&l, i, head, tail);
    free(where);
    return rc;
}

int benchmark_prompt(struct benchmark_set *s, int i, struct text *prompt)
{
    return read_sample(s, i, prompt, NULL, NULL);
}

int benchmark_label(struct benchmark_set *s, int i, struct text *head, struct text *tail)
{
    return read_sample(s, i, NULL, head, tail);
}

off_t benchmark_bytes(const struct benchmark_set *s, int i)
{
    return s->start[i + 1] - s->start[i];
}

char *benchmark_file(const struct benchmark_set *s, int shard, int shards)
{
    const char *prefix = s->kind == INFINITEBENCH ? "preds_" : "";
    if (shards > 1) return xprintf("%s%s.%d-of-%d.jsonl", prefix, s->task->name, shard, shards);
    return xprintf("%s%s.jsonl", prefix, s->task->name);
}

int cut_middle(int *ids, int n, int head, int tail, int first, int last)
{
    if (head + first + last + tail >= n) return n;
    memmove(ids + head + first, ids + n - tail - last, (size_t)(last + tail) * sizeof *ids);
    return head + first + last + tail;
}

/* ---- opening */

/* Finds where the lines of a set start; the last need not end in a newline. */
static int find_lines(struct benchmark_set *s)
{
    static const size_t chunk = 1 << 20;
    char *buffer = xmalloc(chunk);
    size_t got, room = 0;
    off_t at = 0;
    bool inside = false; /* a line */
    int rc = 0;

    while ((got = fread(buffer, 1, chunk, s->f)) > 0) {
        for (size_t i = 0; i < got;) {
            if (!inside) {
                if ((size_t)s->n + 2 > room)
                    s->start = xrealloc(s->start, (room = 2 * room + 64) * sizeof *s->start);
                s->start[s->n++] = at + (off_t)i;
            }
            const char *newline = memchr(buffer + i, '\n', got - i);
            inside = newline == NULL;
            i = newline ? (size_t)(newline - buffer) + 1 : got;
        }
        at += (off_t)got;
    }
    if (ferror(s->f))
        rc = fail("%s: cannot be read: %s", s->path, strerror(errno));
    else if (s->n == 0)
        rc = fail("%s: expected at least one line, found none", s->path);
    else
        s->start[s->n] = at;
    free(buffer);
    return rc;
}

/* Takes the template and the length of a task out of the two files. */
static int take_config(struct benchmark_set *s, const char *dir, const cJSON *prompts,
                       const cJSON *lengths)
{
    const char *text = NULL, *name = s->task->name;
    size_t bad;
    char *path = path_join(dir, LENGTHS);
    int rc = json_int(path, lengths, name, 1, INT_MAX / 2, &s->max_new);
    if (rc == 0 && s->max_new == 0)
        rc = fail("%s: \"%s\": expected the tokens to generate, found nothing", path, name);
    free(path);
    path = path_join(dir, PROMPTS);
    if (rc == 0) rc = json_string(path, prompts, name, &text);
    if (rc == 0 && text == NULL)
        rc = fail("%s: \"%s\": expected a template, found nothing", path, name);
    if (rc == 0 && !utf8_check(text, strlen(text), &bad))
        rc = fail("%s: \"%s\": expected UTF-8, found byte 0x%02x at byte %zu", path, name,
                  (unsigned char)text[bad], bad);
    s->template_name = xprintf("%s: \"%s\"", path, name);
    if (rc == 0 && (s->template = template_parse(s->template_name, text)) == NULL) rc = -1;
    free(path);
    return rc;
}

static int open_set(struct benchmark_set *s, const char *dir)
{
    char *name = xprintf("%s%s.jsonl", s->task->name, s->kind == LONGBENCH_E ? "_e" : "");
    s->path = path_join(dir, name);
    free(name);
    if ((s->f = fopen(s->path, "rb")) == NULL)
        return errno == ENOENT ? fail("%s: missing; %s", s->path, data_source[s->kind])
                               : fail("%s: cannot be opened: %s", s->path, strerror(errno));
    return find_lines(s);
}

/* One of the benchmark's two files; an object. */
static cJSON *load_config(enum benchmark_kind kind, const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    cJSON *o = NULL;
    if (access(path, F_OK) != 0) {
        fail("%s: missing; %s", path, config_source[kind]);
    } else if ((o = json_load(path)) != NULL && !cJSON_IsObject(o)) {
        fail("%s: expected an object with a member for each task, found %s", path, json_kind(o));
        cJSON_Delete(o);
        o = NULL;
    }
    free(path);
    return o;
}

/* The task of KIND called by the N bytes at NAME; NULL after fail(). */
static const struct benchmark_task *find_task(enum benchmark_kind kind, const char *name, size_t n)
{
    const char *known[32];
    int count = 0;
    for (const struct benchmark_task *t = benchmark_tasks(kind); t->name; t++) {
        if (kind == LONGBENCH_E && !(t->traits & TASK_ENGLISH_E)) continue;
        if (strlen(t->name) == n && memcmp(t->name, name, n) == 0) return t;
        known[count++] = t->name;
    }
    known[count] = NULL;
    char *word = xprintf("%.*s", (int)n, name);
    const char *near = nearest_name(word, known);
    fail("--task: expected a task of %s, found \"%s\"%s%s%s", benchmark_kind_name(kind), word,
         near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    free(word);
    return NULL;
}

static void add_set(struct benchmark *b, const struct benchmark_task *t)
{
    b->set = xrealloc(b->set, (size_t)(b->n + 1) * sizeof *b->set);
    b->set[b->n++] = (struct benchmark_set){
        .kind = b->kind, .task = t, .max_new = b->kind == TWO_STAGE ? TWO_STAGE_MAX_NEW : 0};
}

/* The tasks of "a,b", or all. */
static int take_tasks(struct benchmark *b, const char *tasks)
{
    if (tasks == NULL) {
        for (const struct benchmark_task *t = benchmark_tasks(b->kind); t->name; t++)
            if (b->kind != LONGBENCH_E || (t->traits & TASK_ENGLISH_E)) add_set(b, t);
        return 0;
    }
    for (const char *p = tasks;; p++) {
        const size_t n = strcspn(p, ",");
        const struct benchmark_task *t = find_task(b->kind, p, n);
        if (t == NULL) return -1;
        for (int i = 0; i < b->n; i++)
            if (b->set[i].task == t) return fail("--task: \"%s\" stands twice", t->name);
        add_set(b, t);
        p += n;
        if (*p == 0) return 0;
    }
}

static int check_sets(struct benchmark *b)
{
    struct text prompt = {0}, head = {0}, tail = {0};
    struct progress progress;
    off_t all = 0, done = 0;
    int rc = 0;
    for (int t = 0; t < b->n; t++) all += b->set[t].start[b->set[t].n];
    progress_start(&progress, "check (MB)", (long)(all >> 20));
    for (int t = 0; t < b->n && rc == 0; t++)
        for (int i = 0; i < b->set[t].n && rc == 0; i++) {
            prompt.n = head.n = tail.n = 0;
            rc = read_sample(&b->set[t], i, &prompt, &head, &tail);
            done += benchmark_bytes(&b->set[t], i);
            progress_show(&progress, (long)(done >> 20));
        }
    progress_end(&progress);
    free(prompt.s);
    free(head.s);
    free(tail.s);
    return rc;
}

struct benchmark *benchmark_open(enum benchmark_kind kind, const char *dir, const char *tasks)
{
    struct benchmark *b = xcalloc(1, sizeof *b);
    cJSON *prompts = NULL, *lengths = NULL;
    int rc = -1;

    b->kind = kind;
    if (take_tasks(b, tasks)) goto done;
    for (int i = 0; i < b->n; i++)
        if (open_set(&b->set[i], dir)) goto done;
    if (kind != TWO_STAGE) {
        if ((prompts = load_config(kind, dir, PROMPTS)) == NULL) goto done;
        if ((lengths = load_config(kind, dir, LENGTHS)) == NULL) goto done;
        for (int i = 0; i < b->n; i++)
            if (take_config(&b->set[i], dir, prompts, lengths)) goto done;
    }
    rc = check_sets(b);

done:
    cJSON_Delete(prompts);
    cJSON_Delete(lengths);
    if (rc) {
        benchmark_close(b);
        b = NULL;
    }
    return b;
}

void benchmark_close(struct benchmark *b)
{
    if (b == NULL) return;
    for (int i = 0; i < b->n; i++) {
        struct benchmark_set *s = &b->set[i];
        if (s->f) fclose(s->f);
        template_free(s->template);
        free(s->template_name);
        free(s->path);
        free(s->start);
        free(s->line);
    }
    free(b->set);
    free(b);
}
