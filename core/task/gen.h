/* gen.h - synthetic long-context tasks with known answers, for any tokenizer.
 *
 *   passkey   "The pass key of Oslo is 48213." buried in prose; "What is the pass key of Oslo?"
 *   kv        a JSON object of hexadecimal pairs; "What is the value of key "3f9c1a"?"
 *   twostage  "The dict is {0: red, 1: blue, ...}"; "What is the value of key 12 + 30?"
 *   hops      chains of acquaintances buried in prose; "Where does the friend of Boris Klein live?"
 *   vt        "VAR QZMUB = 12345", "VAR HTPLA = VAR QZMUB", ... between lines of prose; "Which 5
 *             variables have the value 12345, ...?": variable tracking of RULER (Hsieh et al. 2024)
 *   needle    one pass key at a given depth of the prose. Its line is called needle/TOKENS/DEPTH
 *             and has exactly that many tokens, where last sentences of that length are found
 *
 * Line INDEX depends on the options and the seed only, never on how many lines are made.
 */
#ifndef CORE_TASK_GEN_H
#define CORE_TASK_GEN_H

#include "core/model/tokenizer.h"
#include "core/task/suite.h"

#include <stdint.h>

#define GEN_MAX_QUESTIONS 8

enum gen_task { GEN_PASSKEY, GEN_KV, GEN_TWOSTAGE, GEN_HOPS, GEN_VT, GEN_NEEDLE };

/* Raw text ("Question: ...\nAnswer: ...\n"), the model's chat format, or either at random. */
enum gen_format { GEN_RAW, GEN_CHAT, GEN_MIXED };

struct gen_options {
    enum gen_task task;
    enum gen_format format;
    int tokens;    /* length of a line, questions and answers included */
    int questions; /* per line, 1 .. GEN_MAX_QUESTIONS; 1 of needle, at most CHAINS of vt */
    int chains;    /* vt: of assignments, each with a value of its own */
    int hops;      /* vt: assignments of a chain after its first */
    double depth;  /* needle: the share of the prose that stands before it, 0 to 1 */
    uint64_t seed;
};

/* NULL-terminated names, in the order of the enums. */
extern const char *const gen_task_names[];
extern const char *const gen_format_names[];

/* Whether line INDEX can be made: otherwise -1 after fail(): too few tokens for the questions, no
 * chat format. Cheap beside making it, so that a command can check all lines before the first. */
int gen_check(const struct gen_options *o, const struct tokenizer *t, int index);

/* Makes token-level line INDEX (0-based): BOS where the tokenizer has one, the context, then
 * questions and answers. The prefill ends before the first answer; a span is an answer and its stop
 * token (a newline, or the chat format's end of turn). 0, or -1 after fail(): too few tokens for
 * the task. suite_line_free() releases L. */
int gen_tokens(struct suite_line *l, const struct gen_options *o, const struct tokenizer *t,
               int index);

/* Makes text-level line INDEX, of one question: the prompt up to the answer, and the word that the
 * answer must contain (of vt every one of the words). GEN_RAW ends it with "Answer:"; GEN_CHAT ends
 * it with the question, to be wrapped by a config's use_chat_template (o->tokens counts the
 * wrapping). */
int gen_text(struct suite_line *l, const struct gen_options *o, const struct tokenizer *t,
             int index);

#endif
