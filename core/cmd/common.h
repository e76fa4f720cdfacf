/* common.h - what okv's subcommands share: opening a model and a config, prompts, traces.
 */
#ifndef CORE_CMD_COMMON_H
#define CORE_CMD_COMMON_H

#include "core/base/command.h"
#include "core/dump/dump_write.h"
#include "core/method/decode.h"
#include "core/method/run_config.h"
#include "core/model/forward.h"
#include "core/model/tokenizer.h"

/* ---- a model under a config */

struct engine_args {
    const char *model, *shape, *config, *device;
    int threads;
    bool extrapolate;
};

/* Rows of an option table that fill a struct engine_args, and their lines of the usage text. */
#define ENGINE_OPTIONS(a) {"--config", OPT_STRING, &(a).config, 0, 0}, ENGINE_OPTIONS_BUT_CONFIG(a)
#define ENGINE_OPTIONS_BUT_CONFIG(a)                                                               \
    {"--model", OPT_STRING, &(a).model, 0, 0}, {"--device", OPT_STRING, &(a).device, 0, 0},        \
        {"--threads", OPT_INT, &(a).threads, 1, 1024},                                             \
    {                                                                                              \
        "--allow-extrapolation", OPT_FLAG, &(a).extrapolate, 0, 0                                  \
    }
#define ENGINE_USAGE                                                                               \
    "  --config FILE   how to decode: the original's JSON keys (docs/config.md) "                  \
    "[dense]\n" ENGINE_USAGE_BUT_CONFIG
#define ENGINE_USAGE_BUT_CONFIG                                                                    \
    "  --model DIR     Hugging Face checkpoint: config.json, *.safetensors, tokenizer.json\n"      \
    "  --device NAME   cpu, cuda or cuda:N [the first CUDA device where there is one]\n"           \
    "  --threads N     CPU threads; results do not depend on it [all cores]\n"                     \
    "  --allow-extrapolation  go past the length the model was trained for\n"

struct engine {
    struct run_config config;
    struct model model;
    struct tokenizer *tokenizer; /* NULL until engine_tokenizer() */
    bool extrapolate;
};

/* Opens what ARGS names; --model stands in for the config's model_name. Returns 0, 1 after fail(),
 * or 2 on wrong usage of subcommand NAME. engine_close() accepts a zeroed or half-open engine. */
int engine_open(struct engine *e, const char *name, const struct engine_args *args);
void engine_close(struct engine *e);

/* FILE of [LABEL=]FILE, which is split at its first '='; a name that exists as it stands is a file.
 */
const char *config_file(const char *argument);

/* LABEL of it, the config's name in a table, in new memory; NULL where there is none. 0, or -1
 * after fail(): it would break the table. */
int config_label(const char *argument, char **label);

/* Loads the tokenizer if it is not loaded. REQUIRED: its absence is an error; otherwise a directory
 * without tokenizer.json leaves it NULL. 0, or -1 after fail(). */
int engine_tokenizer(struct engine *e, bool required);

/* A session of ROOM tokens, the last STEPS of them decoded (0: any), for the engine's model and
 * method METHOD (NULL: dense); refuses a prompt past the config's max_context_len. NULL after
 * fail(). */
struct session *engine_session(const struct engine *e, struct method *method, int room, int steps);

/* The same, for one of METHODS [n] at a time; where there are several, all are of
 * engine_shares_prefill(). On a device a line says what memory was planned and what is taken. */
struct session *engine_session_told(const struct engine *e, struct method *const *methods, int n,
                                    int room, int steps);

/* Whether other methods of which this is true may go on from one prefill with METHOD: it is dense,
 * and its keys and values are all where the model runs. */
bool engine_shares_prefill(const struct engine *e, struct method *method);

/* Bytes that such a session takes where the engine runs: on the device, and pinned on the host. */
void engine_session_bytes(const struct engine *e, struct method *method, int room, int steps,
                          double *device, double *host);

/* Reads a list of token ids of the engine's vocabulary; the caller frees *IDS. 0, or -1 after
 * fail(). */
int engine_ids(const struct engine *e, const char *path, int **ids, int *n);

/* Reads a prompt file, or takes TEXT, applies the chat format the config or FORMAT asks for (NULL:
 * the config's use_chat_template) and encodes it with BOS. 0, or -1 after fail(). */
int engine_prompt(struct engine *e, const char *text, const char *file, const char *format,
                  int **ids, int *n);

/* TEXT [*SIZE] with U+FFFD for what is not UTF-8 (a token may hold part of a character), as
 * tokenizers decode, in new memory with a NUL after its *SIZE bytes. */
char *valid_text(const char *text, size_t *size);

/* ---- tracing a run into a dump */

struct tracer;

/* What tracer_open() needs to know beyond the engine. */
struct trace_spec {
    const char *path;   /* the dump's */
    const char *fields; /* comma-separated names, or NULL for the default set */
    const char *attn;   /* rows of attn: "head" (NULL) or "kv_head" */
    int top;            /* K of topk_*, 0: 256 */
    int reuse_k;        /* k of reuse_error, 0: 32 */
    bool f32, resume;
    int argc;
    char **argv;
};

/* Starts a trace; prints nothing. NULL after fail(): unknown field, a field the method cannot give.
 */
struct tracer *tracer_open(const struct trace_spec *spec, const struct engine *e,
                           const struct method *m);

/* The trace that SAVE_SELECTED_IDX asks for: NULL with *RC = 0 when the variable is not set. */
struct tracer *tracer_from_environment(const struct engine *e, const struct method *m, int argc,
                                       char **argv, int *rc);

/* For what is not traced: says WHY SAVE_SELECTED_IDX, where it is set, has no effect. */
void tracer_not_here(const char *why);

/* The hooks to hand to forward() as its tap. */
const struct hooks *tracer_hooks(struct tracer *t);

/* Prints "sample of N tokens, S steps: SIZE before compression" once for a run of SAMPLES samples.
 */
void tracer_announce(const struct tracer *t, int T, int S, int samples);

/* Sample INDEX: 1 when a resumed run already has it, 0 when begun, -1 after fail(). MAX_T and MAX_S
 * bound its tokens and steps; ids[0 : n_prefill] is its prompt. */
int tracer_begin(struct tracer *t, int index, const char *task, const int *ids, int n_prefill,
                 int max_T, int max_S);

/* Ends the sample: its tokens [T], the -ln p of each step's token [S], what was generated (or ""),
 * the expected answers as JSON (or ""). */
int tracer_end(struct tracer *t, struct engine *e, const int *tokens, int T, const float *nll,
               const char *output, const char *answers);

/* Joins the dump (RC == 0) or leaves its finished samples for --resume. T may be NULL. Returns RC,
 * or -1 after fail(). */
int tracer_close(struct tracer *t, int rc);

#endif
