/* benchmark_tasks.c - the tasks of the benchmarks, by name. */
#include "core/base/base.h"
#include "core/task/benchmark.h"

#include <string.h>

/* Bai et al. 2024, table 1. What is fed bare and what ends at a newline: pred.py of LongBench. */
static const struct benchmark_task longbench[] = {
    {"narrativeqa", 0},
    {"qasper", TASK_ENGLISH_E},
    {"multifieldqa_en", TASK_ENGLISH_E},
    {"multifieldqa_zh", 0},
    {"hotpotqa", TASK_ENGLISH_E},
    {"2wikimqa", TASK_ENGLISH_E},
    {"musique", 0},
    {"dureader", 0},
    {"gov_report", TASK_ENGLISH_E},
    {"qmsum", 0},
    {"multi_news", TASK_ENGLISH_E},
    {"vcsum", 0},
    {"trec", TASK_ENGLISH_E | TASK_BARE | TASK_CLASSES},
    {"triviaqa", TASK_ENGLISH_E | TASK_BARE},
    {"samsum", TASK_ENGLISH_E | TASK_BARE | TASK_ONE_LINE},
    {"lsht", TASK_BARE | TASK_CLASSES},
    {"passage_count", TASK_ENGLISH_E},
    {"passage_retrieval_en", TASK_ENGLISH_E | TASK_PARAGRAPH},
    {"passage_retrieval_zh", TASK_PARAGRAPH_ZH},
    {"lcc", TASK_ENGLISH_E | TASK_BARE},
    {"repobench-p", TASK_ENGLISH_E | TASK_BARE},
    {0},
};

/* Zhang et al. 2024, table 2. */
static const struct benchmark_task infinitebench[] = {
    {"passkey", TASK_TEXT},
    {"number_string", TASK_TEXT},
    {"kv_retrieval", TASK_TEXT},
    {"longbook_sum_eng", TASK_SUMMARY | TASK_TEXT},
    {"longbook_choice_eng", TASK_OPTIONS},
    {"longbook_qa_eng", 0},
    {"longbook_qa_chn", 0},
    {"longdialogue_qa_eng", TASK_TEXT},
    {"math_find", TASK_NUMBER},
    {"math_calc", TASK_SERIES},
    {"code_run", TASK_CALL},
    {"code_debug", TASK_OPTIONS},
    {0},
};

static const struct benchmark_task two_stage[] = {{"2stage", 0}, {0}};

static const char *const names[] = {
    [LONGBENCH] = "longbench",
    [LONGBENCH_E] = "longbench-e",
    [INFINITEBENCH] = "infinitebench",
    [TWO_STAGE] = "2stage",
};

int benchmark_kind_parse(const char *name, enum benchmark_kind *kind)
{
    for (int i = 0; i < BENCHMARKS; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *kind = (enum benchmark_kind)i;
        return 0;
    }
    return fail("--benchmark: expected longbench, longbench-e, infinitebench or 2stage, found "
                "\"%.100s\"",
                name);
}

const char *benchmark_kind_name(enum benchmark_kind kind)
{
    return names[kind];
}

const struct benchmark_task *benchmark_tasks(enum benchmark_kind kind)
{
    return kind == TWO_STAGE ? two_stage : kind == INFINITEBENCH ? infinitebench : longbench;
}
