/* gen.c - synthetic long-context tasks with known answers, for any tokenizer. */
#include "core/task/gen.h"
#include "core/base/base.h"
#include "core/task/draft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_UNITS                                                                                  \
    (1 << 22) /* a tokenizer of very long tokens would ask for more; kv keys run out */

const char *const gen_task_names[] = {"passkey", "kv", "twostage", "hops", "vt", "needle", NULL};
const char *const gen_format_names[] = {"raw", "chat", "mixed", NULL};

/* A whole line after BOS; answer i with its stop token is the bytes [start[i], end[i]). */
struct line {
    struct passage text;
    size_t start[GEN_MAX_QUESTIONS], end[GEN_MAX_QUESTIONS];
    int n;
};

/* What surrounds an answer in a chat format: before it, the end of its turn (its stop token), and
 * what stands before the next user's turn. */
static const char *const *chat_marks(enum chat_format f)
{
    static const char *const llama3[] = {"", "<|eot_id|>", ""};
    static const char *const chatml[] = {"", "<|im_end|>", "\n"};
    static const char *const llama2[] = {" ", " </s>", "<s>"};
    static const char *const mistral[] = {" ", "</s>", ""};
    return f == CHAT_LLAMA3   ? llama3
           : f == CHAT_CHATML ? chatml
           : f == CHAT_LLAMA2 ? llama2
                              : mistral;
}

static void write_line(struct line *l, const struct plan *p, const struct draft *d,
                       const struct tokenizer *tokenizer)
{
    struct passage *t = &l->text;
    const char *const *mark = chat_marks(p->chat);
    memset(l, 0, sizeof *l);
    l->n = d->n;
    for (int i = 0; i < d->n; i++) {
        const struct question *q = &d->question[i];
        struct passage user = {0}; /* the first turn holds the context too */
        if (i == 0) {
            passage_add(&user, d->context.s);
            passage_add(&user, "\n");
        }
        if (p->chat == CHAT_NONE) {
            passage_add(&user, "Question: ");
            passage_add(&user, q->ask);
            passage_add(t, user.s);
            passage_add(t, "\nAnswer:");
        } else {
            passage_add(&user, q->ask);
            /* the model's own template opens the chat, with its system message */
            char *turn = i == 0 ? tokenizer_chat_wrap(tokenizer, p->chat, NULL, user.s)
                                : chat_wrap(p->chat, NULL, user.s);
            if (i) passage_add(t, mark[2]);
            passage_add(t, turn);
            free(turn);
        }
        passage_free(&user);
        l->start[i] = t->n;
        passage_add(t, p->chat == CHAT_NONE ? " " : mark[0]);
        passage_add(t, q->answer);
        passage_add(t, p->chat == CHAT_NONE ? "\n" : mark[1]);
        l->end[i] = t->n;
    }
}

/* Whether BOS must be put in front of IDS; a chat template may have written it. */
static bool lacks_bos(const int *ids, int n, const struct tokenizer *t)
{
    return tokenizer_bos(t) >= 0 && (n == 0 || ids[0] != tokenizer_bos(t));
}

/* Tokens of the line of plan P, BOS included; -1 after fail(). */
static int measure(const struct plan *p, const struct tokenizer *t)
{
    struct draft d;
    struct line l;
    int *ids = NULL, n = -1;
    draft_write(&d, p);
    write_line(&l, p, &d, t);
    if (tokenizer_encode(t, l.text.s, l.text.n, false, &ids, &n)) n = -1;
    if (n >= 0) n += lacks_bos(ids, n, t);
    free(ids);
    passage_free(&l.text);
    draft_free(&d);
    return n;
}

/* The fewest units that leave room for the questions. */
static int least_units(const struct plan *p)
{
    if (p->task == GEN_NEEDLE) return 2; /* those that p->ending chooses */
    if (p->task != GEN_KV && p->task != GEN_TWOSTAGE) return 1;
    return p->questions > 4 ? p->questions : 4;
}

/* 0 when the smallest line of plan P has at most WANT tokens. */
static int check_room(const struct plan *p, int want, const struct tokenizer *t)
{
    struct plan smallest = *p;
    smallest.extra = 0;
    smallest.units = least_units(p);
    int n = measure(&smallest, t);
    if (n < 0) return -1;
    if (n > want)
        return fail("%s: %d tokens are too few for %d question%s: this line needs at least %d",
                    gen_task_names[p->task], want, p->questions, p->questions > 1 ? "s" : "", n);
    return 0;
}

/* Tokens that TEXT adds after a space; -1 after fail(). */
static int tokens_of(const char *text, const struct tokenizer *t)
{
    char *spaced = xprintf(" %s", text);
    int *ids = NULL, n = -1;
    if (tokenizer_encode(t, spaced, strlen(spaced), false, &ids, &n)) n = -1;
    free(ids);
    free(spaced);
    return n;
}

/* Chooses p->ending, the last two sentences, so that the line that fit() made has exactly WANT
 * tokens; where no two sentences do that the line stays as near as it is. */
static int fit_exactly(struct plan *p, int want, const struct tokenizer *t)
{
    const int total = measure(p, t);
    char *sentences = draft_ending(p->ending);
    int needed = tokens_of(sentences, t) + want - total; /* of the two sentences */
    free(sentences);
    if (total < 0) return -1;
    if (total == want) return 0;
    for (int measured = 0; p->ending < 20000 && measured < 8;) {
        sentences = draft_ending(++p->ending);
        const int n = tokens_of(sentences, t);
        free(sentences);
        if (n < 0) return -1;
        if (n != needed) continue;
        const int found = measure(p, t); /* where they stand they may have others: at a newline */
        if (found < 0) return -1;
        if (found == want) return 0;
        needed += want - found;
        measured++;
    }
    p->ending = 1;
    return 0;
}

/* Chooses p->extra and p->units so that the line comes as near to WANT tokens as whole sentences or
 * entries allow: a secant search, since the length is nearly linear in the units. */
static int fit(struct plan *p, int want, const struct tokenizer *t)
{
    const int least = least_units(p);
    int units[2], tokens[2], best = least, gap;
    double slope = 13; /* tokens a unit, for the first guess */

    if (check_room(p, want, t)) return -1;
    p->units = least;
    while ((tokens[0] = measure(p, t)) > want && p->extra > 0) p->extra--;
    if (tokens[0] < 0) return -1;
    units[0] = least;
    gap = want - tokens[0];
    for (int i = 0; i < 12; i++) {
        double step = round((want - tokens[0]) / slope);
        if (step == 0) break;
        units[1] = units[0] + (int)step;
        if (units[1] < least) units[1] = least;
        if (units[1] > MAX_UNITS) units[1] = MAX_UNITS;
        if (units[1] == units[0]) break;
        p->units = units[1];
        if ((tokens[1] = measure(p, t)) < 0) return -1;
        if (abs(want - tokens[1]) < gap) {
            gap = abs(want - tokens[1]);
            best = units[1];
        }
        double rise = (double)(tokens[1] - tokens[0]) / (units[1] - units[0]);
        if (rise > 1) slope = rise;
        units[0] = units[1];
        tokens[0] = tokens[1];
    }
    p->units = best;
    return p->task == GEN_NEEDLE ? fit_exactly(p, want, t) : 0;
}

/* Where the first SIZE bytes of the line end among its IDS [N]: 0 and their number of tokens in
 * *AT; 1 when a token lies across that place. The start of a text may be encoded in a way of its
 * own (a space before it), so the tokens of the beginning are compared, not its bytes. */
static int find_cut(const struct tokenizer *t, const char *text, size_t size, const int *ids, int n,
                    int *at)
{
    int *part = NULL, n_part = 0;
    if (tokenizer_encode(t, text, size, false, &part, &n_part)) return -1;
    bool clean = n_part <= n && memcmp(part, ids, (size_t)n_part * sizeof *ids) == 0;
    free(part);
    *at = n_part;
    return !clean;
}

/* The ids of the whole line, cut where the answers begin and end; 1 when a token lies across a cut.
 */
static int encode_whole(struct suite_line *out, const struct line *l, const struct tokenizer *t)
{
    int rc = -1, *ids = NULL, n = 0;
    if (tokenizer_encode(t, l->text.s, l->text.n, false, &ids, &n)) goto done;
    rc = 0;
    for (int i = 0; i < 2 * l->n && rc == 0; i++)
        rc = find_cut(t, l->text.s, i % 2 ? l->end[i / 2] : l->start[i / 2], ids, n,
                      &out->spans[i / 2][i % 2]);
    if (rc) goto done;
    out->ids = ids;
    out->n = n;
    ids = NULL;

done:
    free(ids);
    return rc;
}

/* Each piece on its own: where a tokenizer joins the end of a question with the start of an
 * answer, the ids are not those of the whole text, but the answer is cut from the question. */
static int encode_pieces(struct suite_line *out, const struct line *l, const struct tokenizer *t)
{
    size_t from = 0;
    out->n = 0;
    for (int i = 0; i < 2 * l->n; i++) {
        size_t to = i % 2 ? l->end[i / 2] : l->start[i / 2];
        int *ids = NULL, n = 0;
        if (tokenizer_encode(t, l->text.s + from, to - from, false, &ids, &n)) return -1;
        if (i % 2) out->spans[i / 2][0] = out->n;
        out->ids = xrealloc(out->ids, ((size_t)out->n + (size_t)n + 1) * sizeof *out->ids);
        memcpy(out->ids + out->n, ids, (size_t)n * sizeof *ids);
        out->n += n;
        if (i % 2) out->spans[i / 2][1] = out->n;
        free(ids);
        from = to;
    }
    return 0;
}

static void add_bos(struct suite_line *out, int bos)
{
    out->ids = xrealloc(out->ids, ((size_t)out->n + 1) * sizeof *out->ids);
    memmove(out->ids + 1, out->ids, (size_t)out->n * sizeof *out->ids);
    out->ids[0] = bos;
    out->n++;
    for (int i = 0; i < out->n_spans; i++) {
        out->spans[i][0]++;
        out->spans[i][1]++;
    }
}

/* The plan of line INDEX, up to its length. */
static int make_plan(struct plan *p, const struct gen_options *o, const struct tokenizer *t,
                     int index)
{
    struct rng r;
    const char *task = gen_task_names[o->task];
    enum chat_format known = tokenizer_chat_format(t);
    uint64_t seed = hash_bytes(HASH_START, task, strlen(task));
    seed = hash_bytes(seed, &o->seed, sizeof o->seed);
    seed = hash_bytes(seed, &index, sizeof index);
    if (o->task == GEN_NEEDLE) { /* every cell of a sweep has needles of its own */
        seed = hash_bytes(seed, &o->tokens, sizeof o->tokens);
        seed = hash_bytes(seed, &o->depth, sizeof o->depth);
    }
    rng_seed(&r, seed);

    if (known == CHAT_UNKNOWN) known = CHAT_NONE;
    if (o->format == GEN_CHAT && known == CHAT_NONE)
        return fail("the model has no chat format that is known; use --format raw");
    bool raw = rng_unit(&r) < 0.6; /* drawn for every format: the rest must not depend on it */
    memset(p, 0, sizeof *p);
    p->task = o->task;
    p->seed = rng_next(&r);
    p->chat = o->format == GEN_RAW || (o->format == GEN_MIXED && raw) ? CHAT_NONE : known;
    p->questions = o->questions;
    p->depth = o->depth;
    p->ending = o->task == GEN_NEEDLE;
    p->chains = o->chains;
    p->hops = o->hops;
    if (o->task == GEN_PASSKEY || o->task == GEN_HOPS)
        p->extra = (int)rng_below(&r, (uint32_t)(DRAFT_MAX_NEEDLES - o->questions) + 1);
    return 0;
}

/* What a line is called in the suite; a new string. */
static char *line_name(const struct gen_options *o)
{
    return o->task == GEN_NEEDLE ? xprintf("needle/%d/%g", o->tokens, o->depth)
                                 : xstrdup(gen_task_names[o->task]);
}

int gen_check(const struct gen_options *o, const struct tokenizer *t, int index)
{
    struct plan p;
    if (make_plan(&p, o, t, index)) return -1;
    return check_room(&p, o->tokens, t);
}

int gen_tokens(struct suite_line *l, const struct gen_options *o, const struct tokenizer *t,
               int index)
{
    struct plan p;
    struct draft d = {0};
    struct line line = {0};
    int rc = -1;

    memset(l, 0, sizeof *l);
    if (make_plan(&p, o, t, index) || fit(&p, o->tokens, t)) goto done;
    draft_write(&d, &p);
    write_line(&line, &p, &d, t);
    l->task = line_name(o);
    l->spans = xcalloc((size_t)line.n, sizeof *l->spans);
    l->n_spans = line.n;
    rc = encode_whole(l, &line, t);
    if (rc == 1) rc = encode_pieces(l, &line, t);
    if (rc) goto done;
    if (lacks_bos(l->ids, l->n, t)) add_bos(l, tokenizer_bos(t));
    l->n_prefill = l->spans[0][0];
    for (int i = 0; i < l->n_spans && rc == 0; i++)
        if (l->n_prefill < 1 || l->spans[i][1] - l->spans[i][0] < 2)
            rc = fail("%s: the tokenizer leaves no room between a question and its answer's end",
                      l->task);

done:
    if (rc) suite_line_free(l);
    passage_free(&line.text);
    draft_free(&d);
    return rc;
}

int gen_text(struct suite_line *l, const struct gen_options *o, const struct tokenizer *t,
             int index)
{
    struct plan p;
    struct draft d = {0};
    struct passage prompt = {0};
    int rc = -1;

    memset(l, 0, sizeof *l);
    if (make_plan(&p, o, t, index) || fit(&p, o->tokens, t)) goto done;
    draft_write(&d, &p);
    passage_add(&prompt, d.context.s);
    passage_add(&prompt, o->format == GEN_CHAT ? "\n" : "\nQuestion: ");
    passage_add(&prompt, d.question[0].ask);
    if (o->format != GEN_CHAT) passage_add(&prompt, "\nAnswer:");
    l->task = line_name(o);
    l->prompt = xstrdup(prompt.s);
    l->answers = xcalloc((size_t)o->hops + 1, sizeof *l->answers);
    for (char *rest = d.question[0].value, *word; (word = strsep(&rest, " ")) != NULL;)
        l->answers[l->n_answers++] = xstrdup(word);
    if (o->task == GEN_VT) l->match = MATCH_EACH;
    rc = 0;

done:
    passage_free(&prompt);
    draft_free(&d);
    return rc;
}
