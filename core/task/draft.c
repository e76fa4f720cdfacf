/* draft.c - what a synthetic task says: contexts with needles, questions and answers. */
#include "core/task/draft.h"
#include "core/base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 900 /* of the twostage dict: its keys stay below 999 */
#define MAX_KEY 999

/* The names, towns and colours that configs/demo/pocket-llama/train.py taught. */
const char *const draft_colours[DRAFT_COLOURS] = {
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

void draft_free(struct draft *d)
{
    for (int i = 0; i < d->n; i++) {
        free(d->question[i].ask);
        free(d->question[i].answer);
        free(d->question[i].value);
    }
    passage_free(&d->context);
    d->n = 0;
}

/* Adds a sentence of WORDS, in paragraphs of four to eight by PROSE; *LEFT counts those until the
 * next paragraph. */
static void add_sentence(struct passage *t, int *left, struct rng *prose, struct rng *words)
{
    if (t->n) passage_add(t, *left == 0 ? "\n" : " ");
    if (*left == 0) *left = 4 + (int)rng_below(prose, 5);
    passage_add_sentence(t, words);
    --*left;
}

static void add_prose(struct passage *t, int n, int *left, struct rng *prose)
{
    for (int i = 0; i < n; i++) add_sentence(t, left, prose, prose);
}

/* Adds SENTENCES of prose with the N needles between them, in random order and at random places. */
static void bury(struct passage *t, char *const *needle, int n, int sentences, struct rng *r,
                 struct rng *prose)
{
    double depth[3 * DRAFT_MAX_NEEDLES]; /* of each needle, a fraction of the prose; ascending */
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
    char *needle[DRAFT_MAX_NEEDLES] = {NULL};
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

    for (int i = 0; i < n; i++) colour[i] = draft_colours[rng_below(r, DRAFT_COLOURS)];
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
    char *needle[3 * DRAFT_MAX_NEEDLES] = {NULL}, *name[3];
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

/* The same needle and prose stand at every depth: P->units sentences, the needle after the share
 * P->depth of them. */
static void write_needle(struct draft *d, const struct plan *p, struct rng *r, struct rng *prose)
{
    const int before = (int)lround(p->depth * p->units);
    struct rng ending;
    int left = 0;
    char key[6];

    rng_seed(&ending, p->ending);

    for (int k = 0; k < 5; k++) key[k] = (char)('0' + rng_below(r, 10));
    key[5] = 0;
    for (int i = 0; i <= p->units; i++) {
        if (i == before) {
            if (d->context.n) passage_add(&d->context, " ");
            passage_addf(&d->context, "The pass key is %s. Remember it. %s is the pass key.", key,
                         key);
        }
        if (i == p->units) break;
        add_sentence(&d->context, &left, prose, i < p->units - 2 ? prose : &ending);
    }
    add_question(d, xstrdup("What is the pass key?"), xprintf("The pass key is %s.", key),
                 xstrdup(key));
}

char *draft_ending(uint64_t ending)
{
    struct passage t = {0};
    struct rng words;
    rng_seed(&words, ending);
    passage_add_sentence(&t, &words);
    passage_add(&t, " ");
    passage_add_sentence(&t, &words);
    return t.s;
}

/* An assignment and how many sentences stand before it. */
struct assignment {
    int before, order;
    char *text;
};

static int by_place(const void *left, const void *right)
{
    const struct assignment *a = left, *b = right;
    if (a->before != b->before) return a->before < b->before ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static int by_number(const void *left, const void *right)
{
    const int a = *(const int *)left, b = *(const int *)right;
    return (a > b) - (a < b);
}

/* N different numbers below LIMIT, in random order; the caller frees them. */
static int *different(int n, int limit, struct rng *r)
{
    int *v = xmalloc((size_t)n * sizeof *v);
    for (int i = 0; i < n;) {
        v[i] = (int)rng_below(r, (uint32_t)limit);
        int k = 0;
        while (v[k] != v[i]) k++;
        i += k == i;
    }
    return v;
}

/* Chains X1 = 12345, X2 = X1, ... whose assignments keep their order among sentences, each on a
 * line of its own; RULER (Hsieh et al. 2024, section 3.2) names variables by five letters too. */
static void write_vt(struct draft *d, const struct plan *p, struct rng *r, struct rng *prose)
{
    const int length = p->hops + 1, n = p->chains * length;
    struct assignment *list = xcalloc((size_t)n, sizeof *list);
    int *code = different(n, 26 * 26 * 26 * 26 * 26, r), *value = different(p->chains, 90000, r);
    int *place = xcalloc((size_t)length, sizeof *place), done = 0, left = 0;
    char(*name)[6] = xcalloc((size_t)n, sizeof *name);

    for (int c = 0; c < p->chains; c++) {
        for (int i = 0; i < length; i++) place[i] = (int)(rng_unit(r) * (p->units + 1));
        qsort(place, (size_t)length, sizeof *place, by_number);
        for (int i = 0; i < length; i++) {
            const int at = c * length + i;
            for (int k = 0, rest = code[at]; k < 5; k++, rest /= 26)
                name[at][k] = (char)('A' + rest % 26);
            list[at] = (struct assignment){place[i], at,
                                           i ? xprintf("VAR %s = VAR %s", name[at], name[at - 1])
                                             : xprintf("VAR %s = %d", name[at], 10000 + value[c])};
        }
    }
    qsort(list, (size_t)n, sizeof *list, by_place);
    for (int i = 0; i < n; i++) {
        add_prose(&d->context, list[i].before - done, &left, prose);
        done = list[i].before;
        passage_addf(&d->context, "%s%s", d->context.n ? "\n" : "", list[i].text);
        left = 0; /* a sentence after it begins a paragraph */
        free(list[i].text);
    }
    add_prose(&d->context, p->units - done, &left, prose);

    for (int c = 0; c < p->questions; c++) {
        struct passage answer = {0}, words = {0};
        for (int i = 0; i < length; i++) {
            passage_addf(&answer, "%s%s", i ? ", " : "", name[c * length + i]);
            passage_addf(&words, "%s%s", i ? " " : "", name[c * length + i]);
        }
        char *ask = xprintf("Which %d variables have the value %d, where \"VAR X = VAR Y\" gives X "
                            "the value of Y?",
                            length, 10000 + value[c]);
        add_question(d, ask, answer.s, words.s);
    }
    free(list);
    free(code);
    free(value);
    free(place);
    free(name);
}

/* Needles and prose have generators of their own, so that more prose does not change the needles.
 */
void draft_write(struct draft *d, const struct plan *p)
{
    struct rng r, prose;
    rng_seed(&r, p->seed);
    rng_seed(&prose, ~p->seed);
    memset(d, 0, sizeof *d);
    if (p->task == GEN_PASSKEY) write_passkey(d, p, &r, &prose);
    if (p->task == GEN_KV) write_kv(d, p, &r);
    if (p->task == GEN_TWOSTAGE) write_twostage(d, p, &r, &prose);
    if (p->task == GEN_HOPS) write_hops(d, p, &r, &prose);
    if (p->task == GEN_VT) write_vt(d, p, &r, &prose);
    if (p->task == GEN_NEEDLE) write_needle(d, p, &r, &prose);
}
