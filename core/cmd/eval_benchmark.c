/* eval_benchmark.c - okv eval --benchmark: one generation a sample, one line a generation. */
#include "core/cmd/eval_benchmark.h"
#include "core/base/base.h"
#include "core/base/json.h"
#include "core/cmd/run_record.h"
#include "core/task/benchmark.h"
#include "core/task/prediction_file.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Sessions grow by this many tokens, so that few samples need another one. */
#define ROOM_STEP 1024

/* What a task has cost this process. */
struct cost {
    int samples, truncated;
    long prompt, made; /* tokens fed, tokens generated */
    double seconds;
};

/* What the time left is estimated from. */
struct pace {
    double start, shown; /* clock; 0: never shown */
    double prefill_s, decode_s;
    double decoding;   /* clock at the start of the decoding that goes on; 0: none does */
    long prompt, made; /* tokens of this process so far */
    long room;         /* tokens that MADE could have been */
    off_t bytes;       /* of the data that PROMPT is of, before truncation */
    long whole;        /* tokens of these bytes */
};

struct run {
    struct engine e;
    struct method *method;
    struct benchmark *benchmark;
    const struct benchmark_args *args;
    int shard, shards;
    enum chat_format chat;
    int limit;                     /* tokens of a context; prompts are cut to it */
    size_t frame_head, frame_tail; /* bytes of the chat format around a message */
    struct prediction_file *file;  /* [benchmark->n] */
    struct cost *cost;             /* [benchmark->n] */
    int *earlier;                  /* [benchmark->n] samples that an earlier process did */

    struct session *session;
    int room, steps; /* the session's */
    int *out;        /* [steps] */
    float *nll;
    struct tracer *tracer;
    int traced;

    struct pace pace;
    int task, done; /* where the run is: the set, and its samples done */
};

/* Samples of set T that this shard does. */
static int samples_of(const struct run *r, int t)
{
    const int all = r->benchmark->set[t].n, most = r->args->max_samples;
    const int n = most > 0 && most < all ? most : all;
    return n > r->shard ? (n - r->shard + r->shards - 1) / r->shards : 0;
}

static int sample_index(const struct run *r, int k)
{
    return r->shard + k * r->shards;
}

static bool is_wrapped(const struct run *r, const struct benchmark_set *s)
{
    return r->chat != CHAT_NONE && (r->args->chat_all || !(s->task->traits & TASK_BARE));
}

/* ---- progress */

/* Tokens that the prompts of the samples still to do will have, and tokens they will generate. */
static void work_left(const struct run *r, double *prompt, double *made)
{
    const struct pace *p = &r->pace;
    const double per_byte = p->bytes ? (double)p->whole / (double)p->bytes : 0.3;
    const double used = p->room > p->made ? (double)p->made / (double)p->room : 1;
    *prompt = *made = 0;
    for (int t = r->task; t < r->benchmark->n; t++) {
        const struct benchmark_set *s = &r->benchmark->set[t];
        const int n = samples_of(r, t);
        for (int k = t == r->task ? r->done : r->file[t].lines; k < n; k++) {
            const double tokens = per_byte * (double)benchmark_bytes(s, sample_index(r, k));
            *prompt += tokens < r->limit ? tokens : r->limit;
            *made += used * s->max_new;
        }
    }
}

static void show_progress(struct run *r)
{
    struct pace *p = &r->pace;
    const double now = clock_seconds();
    if (!isatty(2) || now - p->shown < 0.1) return;
    double prompt, made, left = 0;
    work_left(r, &prompt, &made);
    fprintf(stderr, "\r%s %d/%d  %.0f tokens/s", r->benchmark->set[r->task].task->name, r->done + 1,
            samples_of(r, r->task), (double)(p->prompt + p->made) / (now - p->start + 1e-9));
    if (p->prompt && p->made) {
        const double decode_s = p->decode_s + (p->decoding > 0 ? now - p->decoding : 0);
        left = prompt * p->prefill_s / (double)p->prompt + made * decode_s / (double)p->made;
        if (left < 600)
            fprintf(stderr, "  %.0f s left", left);
        else
            fprintf(stderr, "  %.0f min left", left / 60);
    }
    fprintf(stderr, " \033[K");
    p->shown = now;
}

static void end_progress(struct run *r)
{
    if (r->pace.shown > 0) fprintf(stderr, "\r\033[K");
    r->pace.shown = 0;
}

static int emit(void *ctx, int token)
{
    struct run *r = ctx;
    (void)token;
    r->pace.made++;
    show_progress(r);
    return 0;
}

/* ---- prompts */

/* Of IDS [n], the tokens of WRAPPED, how many at either end are the chat format's. */
static int frame_tokens(const struct run *r, const struct text *wrapped, const int *ids, int n,
                        int *head, int *tail)
{
    int *ends = xmalloc((size_t)n * sizeof *ends);
    size_t size, before = 0;
    char *text = tokenizer_decode(r->e.tokenizer, ids, n, false, &size, ends);
    *head = *tail = 0;
    if (text && ids[0] == tokenizer_bos(r->e.tokenizer) &&
        ((size_t)ends[0] > wrapped->n || memcmp(wrapped->s, text, (size_t)ends[0]) != 0))
        before = (size_t)ends[0]; /* BOS that the tokenizer put in front */
    while (text && *head < n && (size_t)ends[*head] <= before + r->frame_head) ++*head;
    while (text && *tail < n - *head - 1 && (size_t)ends[n - *tail - 2] >= size - r->frame_tail)
        ++*tail;
    free(ends);
    free(text);
    return text ? 0 : -1;
}

/* Takes the middle out of a prompt that does not fit: as many ids stay in front of the gap as
 * behind it. Without a reserve the prompt alone is measured, BOS included, as the original does. */
static int truncate_prompt(struct run *r, const struct benchmark_set *s, const struct text *wrapped,
                           int *ids, int *n)
{
    const bool reserve = !r->args->no_reserve;
    const int most = r->limit - (reserve ? s->max_new : 0);
    int head = 0, tail = 0, bos = 0;
    if (*n <= most) return 0;
    if (is_wrapped(r, s)) {
        if (frame_tokens(r, wrapped, ids, *n, &head, &tail)) return -1;
        bos = tokenizer_bos(r->e.tokenizer) >= 0;
    }
    if (reserve) {
        const int half = (most - head - tail) / 2;
        *n = cut_middle(ids, *n, head, tail, half, half);
    } else if (*n - head - tail + bos > most) {
        *n = cut_middle(ids, *n, head, tail, most / 2 - bos, most / 2);
    }
    return 0;
}

/* The ids of sample I, wrapped and cut; *WHOLE is how many there were before the cut. The caller
 * frees *IDS. */
static int sample_ids(struct run *r, struct benchmark_set *s, int i, int **ids, int *n, int *whole)
{
    struct text prompt = {0};
    int rc = -1;

    *ids = NULL;
    if (benchmark_prompt(s, i, &prompt)) goto done;
    if (is_wrapped(r, s)) {
        if (memchr(prompt.s, 0, prompt.n)) {
            fail("%s:%d: a chat message cannot hold NUL characters", s->path, i + 1);
            goto done;
        }
        text_add(&prompt, "", 1);
        char *wrapped = tokenizer_chat_wrap(r->e.tokenizer, r->chat, NULL, prompt.s);
        free(prompt.s);
        prompt = (struct text){.s = wrapped, .n = strlen(wrapped)};
    }
    if (tokenizer_encode(r->e.tokenizer, prompt.s ? prompt.s : "", prompt.n, true, ids, n))
        goto done;
    if (*n == 0) {
        fail("%s:%d: expected a prompt, found nothing to encode", s->path, i + 1);
        goto done;
    }
    *whole = *n;
    rc = truncate_prompt(r, s, &prompt, *ids, n);

done:
    if (rc) {
        free(*ids);
        *ids = NULL;
    }
    free(prompt.s);
    return rc;
}

/* ---- generating */

/* A session with room for N tokens and STEPS more of them decoded. */
static int need_session(struct run *r, int n, int steps)
{
    if (r->session && n + steps <= r->room && steps <= r->steps) return 0;
    const int grown = (n + steps + ROOM_STEP - 1) / ROOM_STEP * ROOM_STEP;
    r->room = grown <= r->limit ? grown : n + steps > r->limit ? n + steps : r->limit;
    if (steps > r->steps) r->steps = steps;
    session_close(r->session);
    free(r->out);
    free(r->nll);
    r->out = xmalloc((size_t)r->steps * sizeof *r->out);
    r->nll = xmalloc((size_t)r->steps * sizeof *r->nll);
    r->session = engine_session(&r->e, r->method, r->room, r->steps);
    return r->session ? 0 : -1;
}

/* What ends a generation: the model's own tokens, those that chat models end a turn with, and for
 * some tasks the newline. STOP has room for MODEL_MAX_EOS + 4. */
static int stop_tokens(const struct run *r, const struct benchmark_set *s, int *stop, int *n)
{
    static const char *const turns[] = {"<|eot_id|>", "<|endoftext|>", "<|im_end|>"};
    const struct model_config *c = &r->e.model.config;
    *n = c->n_eos;
    memcpy(stop, c->eos, (size_t)c->n_eos * sizeof *stop);
    for (size_t i = 0; i < COUNT_OF(turns); i++) {
        const int id = tokenizer_token_id(r->e.tokenizer, turns[i]);
        if (id >= 0) stop[(*n)++] = id;
    }
    if (s->task->traits & TASK_ONE_LINE) {
        int *ids, count;
        if (tokenizer_encode(r->e.tokenizer, "\n", 1, false, &ids, &count)) return -1;
        if (count > 0) stop[(*n)++] = ids[count - 1];
        free(ids);
    }
    return 0;
}

/* How sample I is decoded. Where a task wants one token at least and FIRST [V] is best a stop
 * token, MASKED [V] gets it without the stop tokens, to be drawn from greedily. */
static struct sampling sampling_of(const struct run *r, const struct benchmark_set *s, int i,
                                   const int *stop, int n_stop, const float *first, float *masked)
{
    const int V = r->e.model.config.V;
    if (r->args->sample_sums && (s->task->traits & TASK_SUMMARY)) {
        const uint64_t seed[] = {r->e.config.seed, (uint64_t)i};
        return (struct sampling){.temperature = 0.8,
                                 .top_k = 50,
                                 .top_p = 0.95,
                                 .seed = hash_bytes(HASH_START, seed, sizeof seed)};
    }
    const int best = argmax_of(first, V);
    bool stops = false;
    for (int k = 0; k < n_stop; k++) stops = stops || stop[k] == best;
    if (!stops || !(s->task->traits & TASK_ONE_LINE)) return (struct sampling){.top_p = 1};
    for (int k = 0; k < n_stop; k++)
        if (stop[k] < V) masked[stop[k]] = -INFINITY;
    return (struct sampling){.temperature = 1, .top_k = 1, .top_p = 1};
}

/* Generates for ids [n]: r->out and *COUNT. */
static int generate(struct run *r, const struct benchmark_set *s, int i, const int *ids, int n,
                    int *count)
{
    const int V = r->e.model.config.V;
    const struct hooks *tap = tracer_hooks(r->tracer);
    int stop[MODEL_MAX_EOS + 4], n_stop, rc = -1;
    float *first = xmalloc((size_t)V * sizeof *first);
    struct sampler sampler = {0};
    const float *logits;
    const double start = clock_seconds();

    if (stop_tokens(r, s, stop, &n_stop)) goto done;
    if (method_prefill(r->method, r->session, ids, n, tap, &logits)) goto done;
    memcpy(first, logits, (size_t)V * sizeof *first);
    const double middle = clock_seconds();
    r->pace.prefill_s += middle - start;
    r->pace.prompt += n;
    r->pace.decoding = middle;
    sampler_open(&sampler, sampling_of(r, s, i, stop, n_stop, logits, first), V);
    if (decode_free(r->session, r->method, tap, first, s->max_new, stop, n_stop, &sampler, r->out,
                    r->nll, count, emit, r))
        goto done;
    r->pace.decode_s += clock_seconds() - middle;
    r->pace.decoding = 0;
    r->pace.room += s->max_new;
    rc = 0;

done:
    sampler_close(&sampler);
    free(first);
    return rc;
}

/* Ends the trace of a sample: all its tokens, and its label as JSON. */
static int trace_sample(struct run *r, const int *ids, int n, int count, const char *text,
                        const struct text *tail)
{
    int *all = xmalloc((size_t)(n + count) * sizeof *all);
    char *label = xprintf("{%.*s", (int)tail->n - 3, tail->s + 2); /* ", KEY: ...}\n" */
    memcpy(all, ids, (size_t)n * sizeof *all);
    memcpy(all + n, r->out, (size_t)count * sizeof *all);
    const int rc = tracer_end(r->tracer, &r->e, all, n + count, r->nll, text, label);
    r->traced++;
    free(label);
    free(all);
    return rc;
}

/* Sample I of set T, from its line of data to its line of predictions. */
static int run_sample(struct run *r, int t, int i)
{
    struct benchmark_set *s = &r->benchmark->set[t];
    struct cost *cost = &r->cost[t];
    struct text head = {0}, tail = {0};
    int *ids = NULL, n = 0, whole = 0, count = 0, rc = -1;
    char *text = NULL, *valid = NULL;
    size_t size;
    const double start = clock_seconds();

    if (sample_ids(r, s, i, &ids, &n, &whole)) goto done;
    if (benchmark_label(s, i, &head, &tail)) goto done;
    if (need_session(r, n, s->max_new)) goto done;
    if (r->tracer &&
        tracer_begin(r->tracer, r->traced, s->task->name, ids, n, n + s->max_new, s->max_new) != 0)
        goto done;
    if (generate(r, s, i, ids, n, &count)) goto done;
    if ((text = tokenizer_decode(r->e.tokenizer, r->out, count, true, &size, NULL)) == NULL)
        goto done;
    valid = valid_text(text, &size);
    if (r->tracer && trace_sample(r, ids, n, count, valid, &tail)) goto done;
    if (prediction_file_add(&r->file[t], &head, valid, size, &tail)) goto done;
    cost->samples++;
    cost->truncated += n < whole;
    cost->prompt += n;
    cost->made += count;
    cost->seconds += clock_seconds() - start;
    r->pace.bytes += benchmark_bytes(s, i);
    r->pace.whole += whole;
    rc = 0;

done:
    free(ids);
    free(text);
    free(valid);
    free(head.s);
    free(tail.s);
    return rc;
}

static int run_samples(struct run *r)
{
    int rc = 0;
    r->pace.start = clock_seconds();
    for (r->task = 0; r->task < r->benchmark->n && rc == 0; r->task++) {
        const int n = samples_of(r, r->task);
        for (r->done = r->earlier[r->task]; r->done < n && rc == 0; r->done++) {
            show_progress(r);
            rc = run_sample(r, r->task, sample_index(r, r->done));
        }
    }
    end_progress(r);
    return rc;
}

/* ---- before the first sample */

/* Where the chat format stands around a message, and how many tokens it takes. */
static int measure_frame(struct run *r, int *tokens)
{
    static const char message[] = "\x01"; /* in no chat format, and not trimmed */
    int *ids, rc;
    *tokens = 0;
    if (r->chat == CHAT_NONE) return 0;
    char *wrapped = tokenizer_chat_wrap(r->e.tokenizer, r->chat, NULL, message);
    const char *at = strstr(wrapped, message);
    r->frame_head = (size_t)(at - wrapped);
    r->frame_tail = strlen(at + 1);
    rc = tokenizer_encode(r->e.tokenizer, wrapped, strlen(wrapped), true, &ids, tokens);
    if (rc == 0) free(ids);
    free(wrapped);
    return rc;
}

/* The context that prompts are cut to, and whether each task has room in it. */
static int find_limit(struct run *r)
{
    const int model = model_config_limit(&r->e.model.config), asked = r->e.config.max_context;
    struct session_plan plan = {.room = asked > 0 ? asked : model, .extrapolate = r->e.extrapolate};
    int frame;
    if (r->method->plan) r->method->plan(r->method, &plan); /* some go past any trained length */
    r->limit = plan.room;
    if (r->limit > model && !plan.extrapolate) {
        note("prompts are cut to %d tokens, the model's limit; max_context_len is %d", model,
             asked);
        r->limit = model;
    }
    if (measure_frame(r, &frame)) return -1;
    for (int t = 0; t < r->benchmark->n; t++) {
        const struct benchmark_set *s = &r->benchmark->set[t];
        const int around = s->max_new + (is_wrapped(r, s) ? frame : 0);
        if (!r->args->no_reserve && around > r->limit - 2)
            return fail("%s: the answer (%d tokens) and the chat format leave no room for a prompt "
                        "in a context of %d; --max-new N makes answers shorter",
                        s->task->name, s->max_new, r->limit);
        if (r->args->no_reserve && r->limit + around > model && !plan.extrapolate)
            return fail("%s: --no-reserve needs %d tokens beyond max_context_len (%d), the model's "
                        "limit is %d: lower max_context_len, or add --allow-extrapolation",
                        s->task->name, around, r->limit, model);
    }
    r->e.config.max_context = 0; /* it has been seen to */
    return 0;
}

static int find_chat(struct run *r)
{
    r->chat = CHAT_NONE;
    if (r->args->chat) return chat_format_parse(r->args->chat, &r->chat);
    if (!r->e.config.chat) return 0;
    r->chat = tokenizer_chat_format(r->e.tokenizer);
    if (r->chat != CHAT_UNKNOWN && r->chat != CHAT_NONE) return 0;
    return fail("%s: the chat template is %s; name the format with --chat-format",
                r->e.model.source,
                r->chat == CHAT_NONE ? "absent" : "of a kind this program does not know");
}

/* Adds the hash of the benchmark's file NAME, where it has one. */
static int add_hash(cJSON *record, const struct run *r, const char *name)
{
    size_t size;
    char hex[20], *path, *text;
    if (r->benchmark->kind == TWO_STAGE) return 0;
    path = path_join(r->args->data, name);
    text = file_read(path, &size);
    if (text) {
        snprintf(hex, sizeof hex, "%016llx",
                 (unsigned long long)hash_bytes(HASH_START, text, size));
        cJSON_AddStringToObject(record, name, hex);
    }
    free(text);
    free(path);
    return text ? 0 : -1;
}

/* What decides about the predictions; NULL after fail(). */
static cJSON *make_record(const struct run *r)
{
    const struct benchmark_args *a = r->args;
    cJSON *o = cJSON_CreateObject(),
          *config = json_parse("config", r->e.config.json, strlen(r->e.config.json));
    char *writer = xprintf("%s (%s)", build_version(), build_commit());
    cJSON_AddStringToObject(o, "okv", writer);
    cJSON_AddStringToObject(o, "benchmark", benchmark_kind_name(r->benchmark->kind));
    cJSON_AddStringToObject(o, "model", r->e.model.config.name);
    cJSON_AddStringToObject(o, "fingerprint", r->e.model.weights->fingerprint);
    cJSON_AddStringToObject(o, "backend", r->e.model.ops->name);
    cJSON_DeleteItemFromObjectCaseSensitive(config, "model_name"); /* the fingerprint says it */
    cJSON_AddItemToObject(o, "config", config);
    cJSON_AddNumberToObject(o, "context", r->limit);
    cJSON_AddStringToObject(o, "chat_format", chat_format_name(r->chat));
    cJSON_AddBoolToObject(o, "chat_all", a->chat_all);
    cJSON_AddBoolToObject(o, "reserve", !a->no_reserve);
    cJSON_AddBoolToObject(o, "sample_sums", a->sample_sums);
    cJSON_AddNumberToObject(o, "max_new", a->max_new);
    cJSON_AddNumberToObject(o, "shards", r->shards);
    free(writer);
    if (add_hash(o, r, "dataset2prompt.json") || add_hash(o, r, "dataset2maxlen.json")) {
        cJSON_Delete(o);
        o = NULL;
    }
    return o;
}

struct labels {
    const struct run *r;
    struct benchmark_set *set;
};

static int label_of(void *ctx, int k, struct text *head, struct text *tail)
{
    const struct labels *l = ctx;
    return benchmark_label(l->set, sample_index(l->r, k), head, tail);
}

/* Opens the prediction files and finds out how far an earlier process came. */
static int open_files(struct run *r)
{
    const char *out = r->args->out;
    bool made = false, there = false;
    int rc = -1, held = -1;
    cJSON *record = make_record(r);

    if (record == NULL || (held = run_record_hold(out, &made)) < 0) goto done;
    if (run_record_check(out, record, &there)) goto done;
    for (int t = 0; t < r->benchmark->n; t++) {
        struct benchmark_set *s = &r->benchmark->set[t];
        char *name = benchmark_file(s, r->shard, r->shards), *path = path_join(out, name);
        const int bad = prediction_file_open(&r->file[t], path, samples_of(r, t), label_of,
                                             &(struct labels){r, s});
        free(name);
        free(path);
        if (bad) goto done;
        r->earlier[t] = r->file[t].lines;
        if (r->earlier[t] > 0 && !there) {
            fail("%s: has predictions, but there is no run.json that says what they were made "
                 "with: choose another --out",
                 r->file[t].path);
            goto done;
        }
    }
    if (!there && run_record_write(out, record)) goto done;
    rc = 0;

done:
    if (rc) { /* nothing stays of a run that did not begin */
        for (int t = 0; t < r->benchmark->n; t++) prediction_file_close(&r->file[t], rc);
        if (made) rmdir(out);
    }
    run_record_release(held);
    cJSON_Delete(record);
    return rc;
}

/* ---- the table */

static void print_table(const struct run *r, int argc, char **argv)
{
    const struct model_config *c = &r->e.model.config;
    struct cost all = {0};
    int n = 0, earlier = 0;
    char *notes =
        xprintf("model %s, method %s, %d of %d layers full, %s, context %d\n"
                "samples: in the prediction file; earlier: of them from earlier runs; the rest is "
                "of this run\n"
                "prompt_tokens: fed; truncated: prompts cut in the middle; new_tokens: generated",
                c->name, method_name(r->e.config.method), r->method->full_layers, c->L,
                r->e.model.ops->name, r->limit);
    table_head(stdout, argc, argv, notes);
    free(notes);
    printf("task\tsamples\tearlier\tprompt_tokens\ttruncated\tnew_tokens\tseconds\n");
    for (int t = 0; t < r->benchmark->n; t++) {
        const struct cost *cost = &r->cost[t];
        printf("%s\t%d\t%d\t%ld\t%d\t%ld\t%.2f\n", r->benchmark->set[t].task->name,
               r->file[t].lines, r->earlier[t], cost->prompt, cost->truncated, cost->made,
               cost->seconds);
        n += r->file[t].lines;
        earlier += r->earlier[t];
        all.prompt += cost->prompt;
        all.truncated += cost->truncated;
        all.made += cost->made;
        all.seconds += cost->seconds;
    }
    printf("all\t%d\t%d\t%ld\t%d\t%ld\t%.2f\n", n, earlier, all.prompt, all.truncated, all.made,
           all.seconds);
}

/* ---- the whole run */

static int parse_shard(const char *name, const char *text, int *shard, int *shards)
{
    char rest;
    *shard = 0;
    *shards = 1;
    if (text == NULL) return 0;
    if (sscanf(text, "%d/%d%c", shard, shards, &rest) == 2 && *shard >= 0 && *shard < *shards &&
        *shards <= 100000)
        return 0;
    return usage_error(name, "--shard: expected I/N with I from 0 to N - 1, found \"%s\"", text);
}

static int begin_trace(struct run *r, int argc, char **argv)
{
    int rc, samples = 0, steps = 1;
    for (int t = 0; t < r->benchmark->n; t++) {
        samples += samples_of(r, t) - r->earlier[t];
        if (r->benchmark->set[t].max_new > steps) steps = r->benchmark->set[t].max_new;
    }
    if (samples == 0) return 0;
    r->tracer = tracer_from_environment(&r->e, r->method, argc, argv, &rc);
    if (r->tracer) tracer_announce(r->tracer, r->limit, steps, samples);
    return rc;
}

int eval_benchmark(const char *name, const struct engine_args *args, const struct benchmark_args *b,
                   int argc, char **argv)
{
    struct run r = {.args = b};
    enum benchmark_kind kind;
    int rc, status = 1;

    if (benchmark_kind_parse(b->name, &kind)) return 2;
    if (b->out == NULL || *b->out == 0)
        return usage_error(name, "--out DIR is needed for the predictions");
    if (b->sample_sums && kind != INFINITEBENCH)
        return usage_error(name, "--sample-sums: only infinitebench has such summaries");
    if (b->chat_all && kind != LONGBENCH && kind != LONGBENCH_E)
        return usage_error(name, "--chat-all: %s has no task without a chat format", b->name);
    if ((rc = parse_shard(name, b->shard, &r.shard, &r.shards)) != 0) return rc;
    if (b->chat && chat_format_parse(b->chat, &r.chat)) return 2;
    if ((r.benchmark = benchmark_open(kind, b->data, b->tasks)) == NULL) goto done;
    for (int t = 0; b->max_new > 0 && t < r.benchmark->n; t++)
        r.benchmark->set[t].max_new = b->max_new;
    if ((rc = engine_open(&r.e, name, args)) != 0) {
        status = rc;
        goto done;
    }
    if (engine_tokenizer(&r.e, true)) goto done;
    if ((r.method = method_open(&r.e.config, &r.e.model)) == NULL) goto done;
    r.file = xcalloc((size_t)r.benchmark->n, sizeof *r.file);
    r.cost = xcalloc((size_t)r.benchmark->n, sizeof *r.cost);
    r.earlier = xcalloc((size_t)r.benchmark->n, sizeof *r.earlier);
    if (find_chat(&r) || find_limit(&r) || open_files(&r)) goto done;
    rc = begin_trace(&r, argc, argv);
    if (rc == 0) rc = run_samples(&r);
    if (tracer_close(r.tracer, rc)) goto done;
    print_table(&r, argc, argv);
    if (r.method->report) r.method->report(r.method);
    status = 0;

done:
    for (int t = 0; r.file && t < r.benchmark->n; t++)
        if (prediction_file_close(&r.file[t], 0)) status = 1;
    if (output_close(&(struct output){.f = stdout}, status)) status = 1;
    if (status == 0)
        note("okv-analyze score%s %s scores these predictions%s",
             kind == LONGBENCH_E ? " --longbench-e" : "", b->out,
             r.shards > 1 ? " when the other shards are done" : "");
    session_close(r.session);
    free(r.out);
    free(r.nll);
    free(r.file);
    free(r.cost);
    free(r.earlier);
    method_close(r.method);
    engine_close(&r.e);
    benchmark_close(r.benchmark);
    return status;
}
