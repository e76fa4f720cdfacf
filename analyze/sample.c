/* sample.c - the table of tasks; one line of a prediction file. */
#include "analyze/sample.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
#define LB(NAME, GROUP, LANGUAGE, METRIC, LINE) \
    {#NAME, GROUP, #METRIC, LONGBENCH, LANGUAGE, LABEL_LIST, LINE, false, false, score_##METRIC}
#define LE(NAME, GROUP, LANGUAGE, METRIC, LINE) \
    {#NAME, GROUP, #METRIC, LONGBENCH, LANGUAGE, LABEL_LIST, LINE, false, true, score_##METRIC}
#define IB(NAME, GROUP, METRIC, LABEL, EXTRA) \
    {#NAME, GROUP, #METRIC, INFINITEBENCH, ' ', LABEL, false, EXTRA, false, score_##METRIC}
const struct task tasks[] = {
    LB(narrativeqa, "single-doc QA", 'e', qa_f1, false),
    LE(qasper, "single-doc QA", 'e', qa_f1, false),
    LE(multifieldqa_en, "single-doc QA", 'e', qa_f1, false),
    LB(multifieldqa_zh, "single-doc QA", 'c', qa_f1_zh, false),
    LE(hotpotqa, "multi-doc QA", 'e', qa_f1, false),
    LE(2wikimqa, "multi-doc QA", 'e', qa_f1, false),
    LB(musique, "multi-doc QA", 'e', qa_f1, false),
    LB(dureader, "multi-doc QA", 'c', rouge_zh, false),
    LE(gov_report, "summarization", 'e', rouge, false),
    LB(qmsum, "summarization", 'e', rouge, false),
    LE(multi_news, "summarization", 'e', rouge, false),
    LB(vcsum, "summarization", 'c', rouge_zh, false),
    LE(trec, "few-shot", 'e', classification, true),
    LE(triviaqa, "few-shot", 'e', qa_f1, true),
    LE(samsum, "few-shot", 'e', rouge, true),
    LB(lsht, "few-shot", 'c', classification, true),
    LE(passage_count, "synthetic", 'e', count, false),
    LE(passage_retrieval_en, "synthetic", 'e', retrieval, false),
    LB(passage_retrieval_zh, "synthetic", 'c', retrieval_zh, false),
    LE(lcc, "code", 'p', code_sim, false),
    {"repobench-p", "code", "code_sim", LONGBENCH, 'p', LABEL_LIST, false, false, true,
        score_code_sim},

    IB(passkey, "Retrieve", first_integer, LABEL_TEXT, false),
    IB(number_string, "Retrieve", first_integer, LABEL_TEXT, false),
    IB(kv_retrieval, "Retrieve", word, LABEL_TEXT, false),
    IB(kv_retrieval_prefix, "Retrieve", word, LABEL_TEXT, true),
    IB(kv_retrieval_both, "Retrieve", word, LABEL_TEXT, true),
    IB(longbook_sum_eng, "En", rouge_lsum, LABEL_TEXT, false),
    IB(longbook_qa_eng, "En", qa_f1, LABEL_LIST, false),
    IB(longbook_choice_eng, "En", choice, LABEL_TEXT, false),
    IB(longdialogue_qa_eng, "En", name, LABEL_TEXT, false),
    IB(longbook_qa_chn, "Zh", char_f1, LABEL_LIST, false),
    IB(code_debug, "Code", code_debug, LABEL_PAIR, false),
    IB(code_debug_step_by_step, "Code", code_debug, LABEL_PAIR, true),
    IB(code_run, "Code", last_integer, LABEL_WHOLE, false),
    IB(math_calc, "Math", series, LABEL_SERIES, false),
    IB(math_find, "Math", first_number, LABEL_NUMBER, false),

    {"2stage", "reasoning", "contains", TWO_STAGE, 'e', LABEL_LIST, false, false, false,
        score_contains},
    {0},
};
/* clang-format on */

const struct task *task_find(const char *name, size_t n)
{
    for (const struct task *t = tasks; t->name; t++)
        if (strlen(t->name) == n && memcmp(t->name, name, n) == 0) return t;
    return NULL;
}

bool task_needs_jieba(const struct task *t)
{
    return t->score == score_qa_f1_zh || t->score == score_rouge_zh;
}

/* Makes *TEXT the strings of LIST; -1 where an item is none. */
static int take_strings(const struct jsonl *list, struct runes **text, size_t *n)
{
    *text = xmalloc((list->n + 1) * sizeof **text);
    for (size_t i = 0; i < list->n; i++) {
        if (list->item[i].kind != JSONL_STRING) return -1;
        const struct runes t = list->item[i].text;
        (*text)[(*n)++] = (struct runes){t.c, t.n, 0};
    }
    return 0;
}

static bool is_number(const struct jsonl *v)
{
    return v && (v->kind == JSONL_WHOLE || v->kind == JSONL_REAL);
}

static int read_label(const struct jsonl *label, const struct task *t, struct sample *s)
{
    const bool list = label->kind == JSONL_LIST;
    const struct jsonl *first = list && label->n ? label->item : NULL;
    switch (t->label) {
    case LABEL_TEXT:
        if (label->kind == JSONL_STRING) {
            s->answer = xmalloc(sizeof *s->answer);
            s->answer[s->answers++] = (struct runes){label->text.c, label->text.n, 0};
            return 0;
        }
        /* fall through */
    case LABEL_LIST:
    case LABEL_PAIR:
        if (!first || take_strings(label, &s->answer, &s->answers)) return -1;
        return t->label == LABEL_PAIR && s->answers != 2 ? -1 : 0;
    case LABEL_WHOLE:
    case LABEL_NUMBER:
        s->number = list ? first : label;
        return is_number(s->number) && (t->label == LABEL_NUMBER || s->number->kind == JSONL_WHOLE)
                   ? 0
                   : -1;
    case LABEL_SERIES:
        s->series = first && first->kind == JSONL_LIST ? first : label;
        if (!list || s->series->n == 0) return -1;
        for (size_t i = 0; i < s->series->n; i++)
            if (s->series->item[i].kind != JSONL_WHOLE) return -1;
        return 0;
    }
    return -1;
}

static const char *label_text(enum label_form form)
{
    static const char *const text[] = {
        [LABEL_LIST] = "a list of one or more strings",
        [LABEL_TEXT] = "a string, or a list of one or more",
        [LABEL_PAIR] = "a list of two strings, the answer and its letter",
        [LABEL_WHOLE] = "a whole number, or a list that starts with one",
        [LABEL_NUMBER] = "a number, or a list that starts with one",
        [LABEL_SERIES] = "a list of one or more whole numbers",
    };
    return text[form];
}

/* Names the item of a list that does not fit, or how many there are. */
static int wrong_label(const char *where, const char *key, const struct task *t,
                       const struct jsonl *label)
{
    const bool strings = t->label <= LABEL_PAIR;
    const struct jsonl *odd = NULL;
    for (size_t i = 0; label->kind == JSONL_LIST && i < label->n && !odd; i++)
        if (label->item[i].kind != (strings ? JSONL_STRING : JSONL_WHOLE)) odd = &label->item[i];
    if (odd)
        return fail("%s: \"%s\": expected %s, found %s in it", where, key, label_text(t->label),
                    jsonl_name(odd));
    if (label->kind == JSONL_LIST && label->n)
        return fail("%s: \"%s\": expected %s, found a list of %zu", where, key,
                    label_text(t->label), label->n);
    return fail("%s: \"%s\": expected %s, found %s", where, key, label_text(t->label),
                jsonl_name(label));
}

/* The first of KEYS (NULL ends) that OBJECT has, and which. */
static const struct jsonl *member_of(const struct jsonl *object, const char *const *keys,
                                     const char **key)
{
    const struct jsonl *v = NULL;
    for (; *keys && !v; keys++)
        if ((v = jsonl_member(object, *keys)) != NULL) *key = *keys;
    return v;
}

static int read_fields(const char *where, const struct task *t, bool length_needed,
                       struct sample *s)
{
    static const char *const predictions[] = {"prediction", "pred", NULL};
    static const char *const labels[] = {"answers", "ground_truth", "label", NULL};
    const char *key = NULL;
    const struct jsonl *v = member_of(&s->json, predictions, &key);

    if (v == NULL) return fail("%s: expected \"prediction\" or \"pred\", found neither", where);
    if (v->kind != JSONL_STRING)
        return fail("%s: \"%s\": expected a string, found %s", where, key, jsonl_name(v));
    s->prediction = (struct runes){v->text.c, v->text.n, 0};
    if (t->first_line) s->prediction = runes_line(runes_skip_newlines(s->prediction), 0);

    v = member_of(&s->json, t->benchmark == INFINITEBENCH ? labels + 1 : labels, &key);
    if (v == NULL) v = member_of(&s->json, labels, &key);
    if (v == NULL)
        return fail("%s: expected \"%s\", found neither it nor \"%s\" nor \"%s\"", where,
                    t->benchmark == INFINITEBENCH ? labels[1] : labels[0],
                    t->benchmark == INFINITEBENCH ? labels[2] : labels[1],
                    t->benchmark == INFINITEBENCH ? labels[0] : labels[2]);
    if (read_label(v, t, s)) return wrong_label(where, key, t, v);
    for (size_t k = 0; k < s->answers; k++) {
        if ((t->score == score_retrieval && paragraph_number(s->answer[k], paragraph_en) < 0) ||
            (t->score == score_retrieval_zh && paragraph_number(s->answer[k], paragraph_zh) < 0))
            return fail("%s: \"%s\": expected the name of a paragraph with its number, found none",
                        where, key);
    }

    v = jsonl_member(&s->json, "all_classes");
    if (t->score == score_classification &&
        (!v || v->kind != JSONL_LIST || v->n == 0 || take_strings(v, &s->choice, &s->choices)))
        return fail("%s: \"all_classes\": expected a list of one or more strings, found %s", where,
                    v && v->kind == JSONL_LIST && v->n ? "a list with something else in it"
                                                       : jsonl_name(v));

    v = jsonl_member(&s->json, "length");
    s->length = is_number(v) && isfinite(jsonl_number(v)) ? jsonl_number(v) : -1;
    if (length_needed && s->length < 0)
        return fail("%s: \"length\": expected a number of words, by which LongBench-E groups, "
                    "found %s",
                    where, is_number(v) ? "a number below 0 or out of range" : jsonl_name(v));
    return 0;
}

int sample_read(const char *where, const char *line, size_t size, const struct task *t,
                bool length_needed, struct sample *s)
{
    memset(s, 0, sizeof *s);
    if (jsonl_parse(where, line, size, &s->json)) return -1;
    if (s->json.kind != JSONL_OBJECT)
        return fail("%s: expected a JSON object, found %s", where, jsonl_name(&s->json));
    return read_fields(where, t, length_needed, s);
}

void sample_free(struct sample *s)
{
    free(s->answer);
    free(s->choice);
    jsonl_free(&s->json);
    memset(s, 0, sizeof *s);
}
