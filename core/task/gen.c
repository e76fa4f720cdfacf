/* gen.c - synthetic long-context tasks with known answers, for any tokenizer. */
#include "core/task/gen.h"
#include "core/base/base.h"
#include "core/task/passage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NEEDLES 8   /* cities with a key, or chains of acquaintances */
#define MAX_ENTRIES 900 /* of the twostage dict: its keys stay below 999 */
#define MAX_KEY 999
#define MAX_UNITS                                                                                  \
    (1 << 22) /* a tokenizer of very long tokens would ask for more; kv keys run out */

const char *const gen_task_names[] = {"passkey", "kv", "twostage", "hops", NULL};
const char *const gen_format_names[] = {"raw", "chat", "mixed", NULL};

/* The names, towns and colours that configs/demo/pocket-llama/train.py taught. */
static const char *const colours[] = {
    "red",    "green", "blue",  "yellow", "orange",  "purple", "pink",   "brown",
    "black",  "white", "gray",  "cyan",   "magenta", "indigo", "violet", "beige",
    "maroon", "navy",  "olive", "teal",   "lime",    "silver", "gold",
};
static const char *const cities[] = {
    "Oslo",   "Lima",    "Cairo",  "Paris",    "Quito",   "Dakar",  "Tokyo",
    "Delhi",  "Perth",   "Milan",  "Accra",    "Sofia",   "Tunis",  "Kyoto",
    "Dublin", "Havana",  "Lisbon", "Prague",   "Vienna",  "Zurich", "Bogota",
    "Manila", "Nairobi", "Ottawa", "Santiago", "Tallinn", "Warsaw", "Geneva",
};
static const char *const first_names[] = {
    "Anna",  "Boris", "Clara",  "David",  "Elena", "Felix",  "Greta", "Hugo",  "Irene",
    "Jonas", "Karin", "Lukas",  "Maria",  "Nadia", "Oscar",  "Paula", "Quinn", "Rosa",
    "Simon", "Tilda", "Ursula", "Viktor", "Wanda", "Xavier", "Yara",  "Zeno",
};
static const char *const last_names[] = {
    "Abel",   "Brandt", "Castro", "Dunn",   "Ekman", "Frost", "Gomez", "Hale",  "Ivanov",
    "Jensen", "Klein",  "Lund",   "Moreau", "Novak", "Olsen", "Park",  "Quist", "Rossi",
    "Silva",  "Thorn",  "Ueda",   "Vance",  "Weber", "Young", "Zhang",
};

/* What decides a line: the same plan gives the same text. */
struct plan {
    enum gen_task task;
    uint64_t seed;         /* of this line */
    enum chat_format chat; /* CHAT_NONE: raw text */
    int questions;
    int extra; /* needles beyond one a question */
    int units; /* sentences, pairs or dict entries */
};

struct question {
    char *ask, *answer, *value;
};

/* A context and its questions. */
struct draft {
    struct passage context;
    struct question question[GEN_MAX_QUESTIONS];
    int n;
};

/* A whole line after BOS; answer i with its stop token is the bytes [start[i], end[i]). */
struct line {
    struct passage text;
    size_t start[GEN_MAX_QUESTIONS], end[GEN_MAX_QUESTIONS];
    int n;
};

static void shuffle(int *a, int n, struct rng *r)
{
    for (int i = n - 1; i > 0; i--) {
        int j = (int)rng_below(r, (uint32_t)i + 1), swap = a[i];
        a[i] = a[j];
        a[j] = swap;
    }
}

/* A random order of 0 .. N-1; the caller frees it. */
static int *random_order(int n, struct rng *r)
{
    int *order = xmalloc((size_t)n * sizeof *order);
    for (int i = 0; i < n; i++) order[i] = i;
    shuffle(order, n, r);
    return order;
}

/* Takes over the three strings. */
static void add_question(struct draft *d, char *ask, char *answer, char *value)
{
    d->question[d->n++] = (struct question){ask, answer, value};
}

static void draft_free(struct draft *d)
{
    for (int i = 0; i < d->n; i++) {
        free(d->question[i].ask);
        free(d->question[i].answer);
        free(d->question[i].value);
    }
    passage_free(&d->context);
    d->n = 0;
}

/* Adds N sentences, in paragraphs of four to eight; *LEFT counts those until the next paragraph. */
static void add_prose(struct passage *t, int n, int *left, struct rng *prose)
{
    for (int i = 0; i < n; i++) {
        if (t->n) passage_add(t, *left == 0 ? "\n" : " ");
        if (*left == 0) *left = 4 + (int)rng_below(prose, 5);
        passage_add_sentence(t, prose);
        --*left;
    }
}

/* Adds SENTENCES of prose with the N needles between them, in random order and at random places. */
static void bury(struct passage *t, char *const *needle, int n, int sentences, struct rng *r,
                 struct rng *prose)
{
    double depth[3 * MAX_NEEDLES]; /* of each needle, a fraction of the prose; ascending */
    int done = 0, left = 0, *order = random_order(n, r);
    for (int i = 0; i < n; i++) {
        double d = rng_unit(r);
        int at = i;
        for (; at > 0 && depth[at - 1] > d; at--) depth[at] = depth[at - 1];
        depth[at] = d;
    }
    for (int i = 0; i < n; i++) {
        int before = (int)(depth[i] * (sentences + 1));
        add_prose(t, before - done, &left, prose);
        done = before;
        if (t->n) passage_add(t, " ");
        passage_add(t, needle[order[i]]);
    }
    add_prose(t, sentences - done, &left, prose);
    free(order);
}

static void write_passkey(struct draft *d, const struct plan *p, struct rng *r, struct rng *prose)
{
    char *needle[MAX_NEEDLES] = {NULL};
    int n = p->questions + p->extra, *city = random_order(COUNT_OF(cities), r);
    bool single = p->questions == 1 && rng_unit(r) < 0.4; /* a key without a town */

    if (single) n = 1;
    for (int i = 0; i < n; i++) {
        const char *town = cities[city[i]];
        char key[6];
        for (int k = 0; k < 5; k++) key[k] = (char)('0' + rng_below(r, 10));
        key[5] = 0;
        needle[i] = single
                        ? xprintf("The pass key is %s. Remember it. %s is the pass key.", key, key)
                        : xprintf("The pass key of %s is %s.", town, key);
        if (i >= p->questions) continue;
        add_question(d,
                     single ? xstrdup("What is the pass key?")
                            : xprintf("What is the pass key of %s?", town),
                     single ? xprintf("The pass key is %s.", key) : xstrdup(needle[i]),
                     xstrdup(key));
    }
    bury(&d->context, needle, n, p->units, r, prose);
    for (int i = 0; i < n; i++) free(needle[i]);
    free(city);
}

static void write_kv(struct draft *d, const struct plan *p, struct rng *r)
{
    const uint32_t keys = 1u << 24; /* of six hexadecimal digits */
    uint8_t *used = xcalloc(keys / 8, 1);
    int asked[GEN_MAX_QUESTIONS], n = 0;

    while (n < p->questions) { /* which pairs are asked for, all different */
        int i = (int)rng_below(r, (uint32_t)p->units), k = 0;
        while (k < n && asked[k] != i) k++;
        if (k == n) asked[n++] = i;
    }
    d->n = n;
    passage_add(&d->context, "JSON data:\n{");
    for (int i = 0; i < p->units; i++) {
        uint32_t key, value = rng_below(r, keys);
        do key = rng_below(r, keys);
        while (used[key / 8] & 1u << key % 8);
        used[key / 8] |= (uint8_t)(1u << key % 8);
        passage_addf(&d->context, "%s\"%06x\": \"%06x\"", i ? ", " : "", key, value);
        for (int k = 0; k < n; k++)
            if (asked[k] == i)
                d->question[k] = (struct question){
                    xprintf("What is the value of key \"%06x\"?", key),
                    xprintf("\"%06x\": \"%06x\"", key, value), xprintf("%06x", value)};
    }
    passage_add(&d->context, "}");
    free(used);
}

/* Beyond MAX_ENTRIES the dict is full and prose around it makes up the length. */
static void write_twostage(struct draft *d, const struct plan *p, struct rng *r, struct rng *prose)
{
    int n = p->units < MAX_ENTRIES ? p->units : MAX_ENTRIES, sentences = p->units - n, left = 0;
    int before = (int)(rng_unit(r) * (sentences + 1));
    bool shuffled = rng_below(r, 2);
    int first = rng_below(r, 2) ? 0 : (int)rng_below(r, (uint32_t)(MAX_KEY - n));
    int *order = random_order(n, r), *asked = random_order(n, r);
    const char *colour[MAX_ENTRIES];

    for (int i = 0; i < n; i++) colour[i] = colours[rng_below(r, COUNT_OF(colours))];
    add_prose(&d->context, before, &left, prose);
    passage_add(&d->context, before ? " The dict is {" : "The dict is {");
    for (int i = 0; i < n; i++) {
        int k = shuffled ? order[i] : i;
        passage_addf(&d->context, "%s%d: %s", i ? ", " : "", first + k, colour[k]);
    }
    passage_add(&d->context, "}");
    if (sentences > before) passage_add(&d->context, ".");
    add_prose(&d->context, sentences - before, &left, prose);

    for (int i = 0; i < p->questions; i++) {
        int sum = first + asked[i], a = (int)rng_below(r, (uint32_t)sum + 1), b = sum - a;
        add_question(
            d, xprintf("What is the value of key %d + %d?", a, b),
            xprintf("%d + %d = %d. The value of %d is %s.", a, b, sum, sum, colour[asked[i]]),
            xstrdup(colour[asked[i]]));
    }
    free(order);
    free(asked);
}

static void write_hops(struct draft *d, const struct plan *p, struct rng *r, struct rng *prose)
{
    char *needle[3 * MAX_NEEDLES] = {NULL}, *name[3];
    const int n = p->questions + p->extra, surnames = COUNT_OF(last_names);
    int *person = random_order(COUNT_OF(first_names) * surnames, r);

    for (int i = 0; i < n; i++) {
        const char *city = cities[rng_below(r, COUNT_OF(cities))];
        for (int k = 0; k < 3; k++) {
            int who = person[3 * i + k];
            name[k] = xprintf("%s %s", first_names[who / surnames], last_names[who % surnames]);
        }
        char **link = needle + 3 * i; /* colleague, friend, home */
        link[0] = xprintf("%s works with %s.", name[0], name[1]);
        link[1] = xprintf("%s is a friend of %s.", name[1], name[2]);
        link[2] = xprintf("%s lives in %s.", name[2], city);
        if (i < p->questions) {
            int hops = 1 + (int)rng_below(r, 3);
            char *ask = hops == 1   ? xprintf("Where does %s live?", name[2])
                        : hops == 2 ? xprintf("Where does the friend of %s live?", name[1])
                                    : xprintf("Where does the friend of the colleague of %s live?",
                                              name[0]);
            char *answer = hops == 1   ? xstrdup(link[2])
                           : hops == 2 ? xprintf("%s %s", link[1], link[2])
                                       : xprintf("%s %s %s", link[0], link[1], link[2]);
            add_question(d, ask, answer, xstrdup(city));
        }
        for (int k = 0; k < 3; k++) free(name[k]);
    }
    bury(&d->context, needle, 3 * n, p->units, r, prose);
    for (int i = 0; i < 3 * n; i++) free(needle[i]);
    free(person);
}

/* Needles and prose have generators of their own, so that more prose does not change the needles.
 */
static void write_draft(struct draft *d, const struct plan *p)
{
    struct rng r, prose;
    rng_seed(&r, p->seed);
    rng_seed(&prose, ~p->seed);
    memset(d, 0, sizeof *d);
    if (p->task == GEN_PASSKEY) write_passkey(d, p, &r, &prose);
    if (p->task == GEN_KV) write_kv(d, p, &r);
    if (p->task == GEN_TWOSTAGE) write_twostage(d, p, &r, &prose);
    if (p->task == GEN_HOPS) write_hops(d, p, &r, &prose);
}

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
    write_draft(&d, p);
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
    if (p->task == GEN_PASSKEY || p->task == GEN_HOPS) return 1;
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
    return 0;
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
    if (o->task == GEN_PASSKEY || o->task == GEN_HOPS)
        p->extra = (int)rng_below(&r, (uint32_t)(MAX_NEEDLES - o->questions) + 1);
    return 0;
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
    write_draft(&d, &p);
    write_line(&line, &p, &d, t);
    l->task = xstrdup(gen_task_names[o->task]);
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
    write_draft(&d, &p);
    passage_add(&prompt, d.context.s);
    passage_add(&prompt, o->format == GEN_CHAT ? "\n" : "\nQuestion: ");
    passage_add(&prompt, d.question[0].ask);
    if (o->format != GEN_CHAT) passage_add(&prompt, "\nAnswer:");
    l->task = xstrdup(gen_task_names[o->task]);
    l->prompt = xstrdup(prompt.s);
    l->answers = xcalloc(1, sizeof *l->answers);
    l->answers[l->n_answers++] = xstrdup(d.question[0].value);
    rc = 0;

done:
    passage_free(&prompt);
    draft_free(&d);
    return rc;
}
