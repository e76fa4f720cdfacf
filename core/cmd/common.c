/* common.c - opening a model under a config, prompts. */
#include "core/cmd/common.h"
#include "core/base/base.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int engine_open(struct engine *e, const char *name, const struct engine_args *args)
{
    memset(e, 0, sizeof *e);
    if (run_config_load(&e->config, args->config)) return 1;
    const char *dir = args->model ? args->model : e->config.model;
    if (dir == NULL && args->shape == NULL) {
        engine_close(e);
        return usage_error(name, "--model DIR is needed (or a config with model_name)");
    }
    const int threads = args->threads ? args->threads : e->config.threads;
    /* more threads than processors only wait for each other */
    if (threads > 0)
        omp_set_num_threads(threads < omp_get_num_procs() ? threads : omp_get_num_procs());
    e->extrapolate = args->extrapolate;
    if (e->config.rope_factor > 0) { /* the original's word for dynamic scaling */
        cJSON *scaling = cJSON_CreateObject();
        cJSON_AddStringToObject(scaling, "rope_type", "dynamic");
        cJSON_AddNumberToObject(scaling, "factor", e->config.rope_factor);
        if (e->config.model_overrides == NULL) e->config.model_overrides = cJSON_CreateObject();
        cJSON_AddItemToObject(e->config.model_overrides, "rope_scaling", scaling);
    }
    if (args->shape ? model_open_shape(&e->model, args->shape, e->config.seed, args->device)
                    : model_open(&e->model, dir, e->config.model_overrides, args->device)) {
        engine_close(e);
        return 1;
    }
    return 0;
}

void engine_close(struct engine *e)
{
    tokenizer_free(e->tokenizer);
    model_close(&e->model);
    run_config_free(&e->config);
    memset(e, 0, sizeof *e);
}

const char *config_file(const char *argument)
{
    const char *equals = access(argument, F_OK) == 0 ? NULL : strchr(argument, '=');
    return equals ? equals + 1 : argument;
}

int config_label(const char *argument, char **label)
{
    const char *file = config_file(argument);
    *label = NULL;
    if (file <= argument + 1) return 0; /* none, or an empty one */
    if (argument[0] == '#')             /* would make its rows comments */
        return fail("--config %s: expected a label that does not begin with #", argument);
    for (const char *s = argument; s < file; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return fail("--config %s: expected a label without control characters", argument);
    *label = xprintf("%.*s", (int)(file - 1 - argument), argument);
    return 0;
}

int engine_tokenizer(struct engine *e, bool required)
{
    if (e->tokenizer) return 0;
    if (!required) {
        char *path = path_join(e->model.source, "tokenizer.json");
        const bool there = access(path, F_OK) == 0;
        free(path);
        if (!there) return 0;
    }
    return (e->tokenizer = tokenizer_load(e->model.source)) ? 0 : -1;
}

/* What METHODS [n] need, one decoding at a time: where keys and values live is of one method, or
 * the same for all. */
static struct session_plan plan_of(const struct engine *e, struct method *const *methods, int n,
                                   int room, int steps)
{
    struct session_plan plan = {.room = room, .steps = steps, .extrapolate = e->extrapolate};
    for (int i = 0; i < n; i++) {
        const struct session_plan before = plan;
        if (methods[i] && methods[i]->plan) methods[i]->plan(methods[i], &plan);
        if (before.keep_queries > plan.keep_queries) plan.keep_queries = before.keep_queries;
        if (before.packed > plan.packed) plan.packed = before.packed;
        if (before.sets > plan.sets) plan.sets = before.sets;
        if (before.token_bytes > plan.token_bytes) plan.token_bytes = before.token_bytes;
    }
    return plan;
}

bool engine_shares_prefill(const struct engine *e, struct method *method)
{
    const struct session_plan plan = plan_of(e, &method, 1, 1, 0);
    bool shares = method->start == NULL && plan.far == NULL;
    for (int l = 0; l < e->model.config.L && plan.place; l++)
        shares = shares && plan.place[l] == KV_HERE;
    return shares;
}

void engine_session_bytes(const struct engine *e, struct method *method, int room, int steps,
                          double *device, double *host)
{
    const struct session_plan plan = plan_of(e, &method, 1, room, steps);
    e->model.ops->session_bytes(&e->model.config, &plan, device, host);
}

static struct session *open_session(const struct engine *e, const struct session_plan *plan)
{
    const int room = plan->room;
    if (e->config.max_context > 0 && room > e->config.max_context) {
        fail("a context of %d tokens: the config's max_context_len is %d", room,
             e->config.max_context);
        return NULL;
    }
    return session_open(&e->model, plan);
}

struct session *engine_session(const struct engine *e, struct method *method, int room, int steps)
{
    const struct session_plan plan = plan_of(e, &method, 1, room, steps);
    return open_session(e, &plan);
}

struct session *engine_session_told(const struct engine *e, struct method *const *methods, int n,
                                    int room, int steps)
{
    const struct session_plan plan = plan_of(e, methods, n, room, steps);
    const struct ops *ops = e->model.ops;
    double before, after, total, device, host;
    if (ops->memory && ops->memory(&before, &total)) return NULL;
    struct session *s = open_session(e, &plan);
    if (s == NULL || ops->memory == NULL || ops->memory(&after, &total)) return s;
    ops->session_bytes(&e->model.config, &plan, &device, &host);
    note("%s: %.2f GB for %d tokens planned, a prefill's working memory included; %.2f GB taken so "
         "far, %.2f GB of host memory pinned",
         ops->machine(), device / 1e9, room, (before - after) / 1e9, host / 1e9);
    return s;
}

int engine_ids(const struct engine *e, const char *path, int **ids, int *n)
{
    const int V = e->model.config.V;
    if (json_ids(path, ids, n)) return -1;
    for (int i = 0; i < *n; i++)
        if ((*ids)[i] >= V) {
            const int found = (*ids)[i];
            free(*ids);
            *ids = NULL;
            return fail("%s: ids[%d]: expected an id below the vocabulary's %d, found %d", path, i,
                        V, found);
        }
    return 0;
}

/* Length of the character at TEXT [SIZE]; where it is not whole UTF-8, *GOOD is false and the
 * length that of what could have begun one (Unicode 15, table 3-7 and section 3.9). */
static size_t character(const char *text, size_t size, bool *good)
{
    const unsigned char *s = (const unsigned char *)text;
    const size_t more = s[0] < 0x80 ? 0 : s[0] < 0xe0 ? 1 : s[0] < 0xf0 ? 2 : 3;
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    size_t n = 1;
    *good = s[0] < 0x80;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 1;
    for (; n <= more && n < size && s[n] >= low && s[n] <= high; n++) low = 0x80, high = 0xbf;
    *good = n == more + 1;
    return n;
}

char *valid_text(const char *text, size_t *size)
{
    char *out = xmalloc(3 * *size + 1);
    size_t n = 0;
    for (size_t i = 0, length; i < *size; i += length) {
        bool good;
        length = character(text + i, *size - i, &good);
        memcpy(out + n, good ? text + i : "\xef\xbf\xbd", good ? length : 3);
        n += good ? length : 3;
    }
    out[n] = 0;
    *size = n;
    return out;
}

int engine_prompt(struct engine *e, const char *text, const char *file, const char *format,
                  int **ids, int *n)
{
    int rc = -1;
    size_t size = text ? strlen(text) : 0;
    char *owned = NULL, *wrapped = NULL;
    enum chat_format chat = CHAT_NONE;

    if (engine_tokenizer(e, true)) return -1;
    if (text == NULL) {
        if ((owned = file_read(file, &size)) == NULL) return -1;
        text = owned;
    }
    if (format) {
        if (chat_format_parse(format, &chat)) goto done;
    } else if (e->config.chat) {
        chat = tokenizer_chat_format(e->tokenizer);
        if (chat == CHAT_UNKNOWN || chat == CHAT_NONE) {
            fail("%s: the chat template is %s; name the format with --chat-format", e->model.source,
                 chat == CHAT_NONE ? "absent" : "of a kind this program does not know");
            goto done;
        }
    }
    if (chat != CHAT_NONE) {
        if (strlen(text) != size) {
            fail("%s: a chat message cannot hold NUL bytes", file ? file : "the prompt");
            goto done;
        }
        wrapped = tokenizer_chat_wrap(e->tokenizer, chat, NULL, text);
        text = wrapped;
        size = strlen(wrapped);
    }
    const bool muted = mute_failures(true); /* the tokenizer does not know where its text is from */
    const int bad = tokenizer_encode(e->tokenizer, text, size, true, ids, n);
    mute_failures(muted);
    if (bad) {
        char *why = xstrdup(last_failure());
        fail("%s: %s", file ? file : "the prompt", why);
        free(why);
        goto done;
    }
    if (*n == 0) {
        fail("%s: expected text, found nothing to encode", file ? file : "the prompt");
        free(*ids);
        *ids = NULL;
        goto done;
    }
    rc = 0;

done:
    free(owned);
    free(wrapped);
    return rc;
}
