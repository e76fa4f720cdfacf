/* jieba.c - Chinese text cut into words as jieba 0.42.1 cuts it.
 *
 * Text falls into runs of Chinese characters, ASCII letters, digits and a few signs; all between is
 * cut character by character. A run is cut into the words of the dictionary whose probabilities
 * have the largest product. Where that leaves single characters in a row, a hidden Markov
 * model decides which of them are words that the dictionary does not know.
 *
 * Sums of logarithms are made in jieba's order, for ties to fall as they do there.
 */
#include "analyze/jieba.h"
#include "analyze/runes.h"
#include "core/base/base.h"
#include "core/base/file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HAN_FIRST 0x4E00 /* the Chinese characters of jieba's patterns; later ones stand alone */
#define HAN_LAST 0x9FD5
#define N_HAN (HAN_LAST - HAN_FIRST + 1)
#define INVALID UINT32_MAX /* stands for a byte that is no part of a character */
/* Log probability of what the tables leave out; absorbs what is added. */
#define NEVER (-3.14e100)

/* Hidden states: a character begins a word, ends it, is in its middle, or is one by itself. In the
 * order of jieba's letters, which decides between equal probabilities. */
enum state { B, E, M, S, N_STATES };
static const char state_letters[] = "BEMS";
static const unsigned char states_before[N_STATES][2] = {{E, S}, {B, M}, {B, M}, {E, S}};

/* One edge of the trie of all words, kept in an open-addressing hash table. Node 0 is the root. */
struct edge {
    uint64_t key;       /* node it leaves << 16 | character (never 0); 0: the place is free */
    uint32_t node;      /* node it leads to */
    uint32_t frequency; /* of the word that ends there, in jieba's corpus; 0: a prefix only */
};

struct jieba {
    struct edge *edges; /* 1 << (64 - shift) places */
    size_t n_edges;     /* of them taken, and so the last node */
    int shift;          /* of the product of key and multiplier, leaves a place */
    double log_total;   /* log of the sum of all frequencies */
    double start[N_STATES], trans[N_STATES][N_STATES], emit[N_STATES][N_HAN]; /* log probability */
};

/* Length of the character at S, which has SIZE > 0 bytes; *CH is its code point. A byte that is no
 * part of one has length 1 and *CH is INVALID. */
static size_t character(const char *s, size_t size, uint32_t *ch)
{
    size_t n = 0;
    *ch = runes_decode(s, size, &n);
    if (n > 0) return n;
    *ch = INVALID;
    return 1;
}

static bool is_han(uint32_t ch)
{
    return ch >= HAN_FIRST && ch <= HAN_LAST;
}

static bool is_digit(uint32_t ch)
{
    return ch >= '0' && ch <= '9';
}

static bool is_alnum(uint32_t ch)
{
    return is_digit(ch) || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z');
}

/* Whether CH belongs into a run: jieba's re_han_default. */
static bool is_run(uint32_t ch)
{
    return is_han(ch) || is_alnum(ch) || (ch > 0 && ch < 0x80 && strchr("+#&._%-", (int)ch));
}

/* ---- the dictionary */

/* The place of KEY: where it is, or the free one where it would go. */
static struct edge *edge_at(const struct jieba *j, uint64_t key)
{
    const size_t mask = ((size_t)1 << (64 - j->shift)) - 1;
    const uint64_t multiplier = 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: Knuth vol. 3, 6.4 */
    size_t i = (key * multiplier) >> j->shift;
    while (j->edges[i].key != 0 && j->edges[i].key != key) i = (i + 1) & mask;
    return &j->edges[i];
}

/* The edge that leaves NODE with CH, added where there is none; valid until the next one is. */
static struct edge *edge_add(struct jieba *j, uint32_t node, uint32_t ch)
{
    const uint64_t key = (uint64_t)node << 16 | ch;
    const size_t places = (size_t)1 << (64 - j->shift);
    struct edge *e = edge_at(j, key);
    if (e->key != 0) return e;
    if (j->n_edges >= places / 2) {
        struct edge *old = j->edges;
        j->shift--;
        j->edges = xcalloc(2 * places, sizeof *j->edges);
        for (size_t i = 0; i < places; i++)
            if (old[i].key != 0) *edge_at(j, old[i].key) = old[i];
        free(old);
        e = edge_at(j, key);
    }
    *e = (struct edge){.key = key, .node = (uint32_t)++j->n_edges};
    return e;
}

/* Takes in one line of the dictionary and adds its frequency to *TOTAL. False when it is none. */
static bool add_word(struct jieba *j, const char *line, size_t size, uint64_t *total)
{
    const char *space = memchr(line, ' ', size), *end = line + size;
    uint64_t frequency = 0;
    uint32_t node = 0, ch = 0;
    struct edge *e = NULL;
    bool reachable = true; /* no run holds a word with another character in it */

    while (end > line && (end[-1] == '\r' || end[-1] == ' ')) end--;
    if (space == NULL || space == line || space + 1 >= end) return false;
    for (const char *p = space + 1; p < end && *p != ' '; p++) {
        if (!is_digit((unsigned char)*p)) return false;
        frequency = 10 * frequency + (uint64_t)(*p - '0');
        if (frequency > UINT32_MAX) return false;
    }
    if (space[1] == ' ') return false;
    for (const char *p = line; p < space;) {
        p += character(p, (size_t)(space - p), &ch);
        if (ch == INVALID) return false;
        reachable = reachable && is_run(ch);
        if (!reachable) continue;
        e = edge_add(j, node, ch);
        node = e->node;
    }
    if (reachable) e->frequency = (uint32_t)frequency;
    *total += frequency;
    return true;
}

static int read_dictionary(struct jieba *j, const char *path)
{
    size_t size = 0;
    uint64_t total = 0;
    long line = 1;
    int rc = -1;
    char *text = file_read(path, &size);
    if (text == NULL) return -1;

    /* jieba's own dictionary has an edge for 10 of its bytes */
    j->shift = 60;
    while (j->shift > 32 && (size_t)1 << (64 - j->shift) < size / 5) j->shift--;
    j->edges = xcalloc((size_t)1 << (64 - j->shift), sizeof *j->edges);
    for (const char *p = text, *end; p < text + size; p = end + 1, line++) {
        end = memchr(p, '\n', (size_t)(text + size - p));
        if (end == NULL) {
            fail("%s:%ld: expected a line feed at the end, found the end of the file", path, line);
            goto done;
        }
        if (!add_word(j, p, (size_t)(end - p), &total)) {
            fail("%s:%ld: expected WORD FREQUENCY [TAG], found \"%.*s\"", path, line,
                 end - p > 80 ? 80 : (int)(end - p), p);
            goto done;
        }
    }
    if (total == 0) {
        fail("%s: expected words with frequencies above 0, found none", path);
        goto done;
    }
    j->log_total = log((double)total);
    rc = 0;

done:
    free(text);
    return rc;
}

/* ---- the tables of the model: a Python dictionary literal of numbers, or of such dictionaries */

struct literal {
    const char *path, *text, *at; /* the file, its bytes, and where reading stands */
};

static int literal_fail(const struct literal *l, const char *expected)
{
    long line = 1;
    int n = 0;
    for (const char *p = l->text; p < l->at; p++) line += *p == '\n';
    while (n < 20 && l->at[n] != 0 && l->at[n] != '\n') n++;
    if (l->at[n] == 0 && n == 0)
        return fail("%s:%ld: expected %s, found the end of the file", l->path, line, expected);
    return fail("%s:%ld: expected %s, found \"%.*s\"", l->path, line, expected, n, l->at);
}

/* Takes the character CH behind white space; false leaves it. */
static bool literal_take(struct literal *l, char ch)
{
    l->at += strspn(l->at, " \t\r\n");
    if (*l->at != ch) return false;
    l->at++;
    return true;
}

/* A key and the colon behind it: 'B', or '\u4e00'. */
static int literal_key(struct literal *l, uint32_t *ch)
{
    char *end;
    if (!literal_take(l, '\'')) return literal_fail(l, "a key in single quotes");
    if (l->at[0] == '\\' && l->at[1] == 'u' && strspn(l->at + 2, "0123456789abcdefABCDEF") >= 4) {
        const char digits[] = {l->at[2], l->at[3], l->at[4], l->at[5], 0};
        *ch = (uint32_t)strtoul(digits, &end, 16);
        l->at += 6;
    } else if (is_alnum((unsigned char)*l->at)) {
        *ch = (unsigned char)*l->at++;
    } else {
        return literal_fail(l, "a letter or \\u and four hexadecimal digits");
    }
    if (*l->at != '\'') return literal_fail(l, "a key of one character");
    l->at++;
    return literal_take(l, ':') ? 0 : literal_fail(l, "a colon");
}

static int literal_state(struct literal *l, int *state)
{
    uint32_t ch;
    l->at += strspn(l->at, " \t\r\n");
    const struct literal before = *l;
    if (literal_key(l, &ch)) return -1;
    const char *letter = ch < 0x80 ? strchr(state_letters, (int)ch) : NULL;
    *state = letter ? (int)(letter - state_letters) : -1;
    return letter ? 0 : literal_fail(&before, "one of the keys 'B', 'E', 'M', 'S'");
}

static int literal_number(struct literal *l, double *value)
{
    char *end;
    l->at += strspn(l->at, " \t\r\n");
    *value = strtod(l->at, &end);
    if (end == l->at || !isfinite(*value) || *value > 0)
        return literal_fail(l, "a log probability");
    l->at = end;
    return 0;
}

/* Behind an entry: a comma where *MORE, or the brace that ends the dictionary. */
static int literal_next(struct literal *l, bool *more)
{
    *more = literal_take(l, ',');
    return *more || literal_take(l, '}') ? 0 : literal_fail(l, "a comma or a closing brace");
}

enum table { START, TRANS, EMIT };

/* Reads the dictionary of one state S in table T. */
static int read_state(struct jieba *j, struct literal *l, enum table t, int s)
{
    int next = 0;
    uint32_t ch = 0;
    double value;
    if (!literal_take(l, '{')) return literal_fail(l, "a brace");
    for (bool more = true; more;) {
        if (t == TRANS ? literal_state(l, &next) : literal_key(l, &ch)) return -1;
        if (literal_number(l, &value)) return -1;
        if (t == TRANS) j->trans[s][next] = value;
        if (t == EMIT && is_han(ch)) j->emit[s][ch - HAN_FIRST] = value;
        if (literal_next(l, &more)) return -1;
    }
    return 0;
}

static int read_table(struct jieba *j, const char *path, enum table t)
{
    size_t size = 0;
    int rc = -1, seen = 0, s = 0;
    char *text = file_read(path, &size);
    struct literal l = {.path = path, .text = text, .at = text};
    if (text == NULL) return -1;

    /* what Python imports stands on lines of its own before the literal */
    while (*l.at != 0 && strncmp(l.at, "P={", 3) != 0) {
        l.at += strcspn(l.at, "\n");
        l.at += *l.at == '\n';
    }
    if (*l.at == 0) {
        literal_fail(&l, "a line that starts with P={");
        goto done;
    }
    l.at += 3;
    for (bool more = true; more; seen |= 1 << s) {
        if (literal_state(&l, &s)) goto done;
        if (t == START ? literal_number(&l, &j->start[s]) : read_state(j, &l, t, s)) goto done;
        if (literal_next(&l, &more)) goto done;
    }
    l.at += strspn(l.at, " \t\r\n");
    if (l.at != text + size) {
        literal_fail(&l, "the end of the file");
        goto done;
    }
    if (seen != (1 << N_STATES) - 1) {
        fail("%s: expected all of the keys 'B', 'E', 'M', 'S', found fewer", path);
        goto done;
    }
    rc = 0;

done:
    free(text);
    return rc;
}

struct jieba *jieba_open(const char *dir)
{
    static const char *const names[] = {"finalseg/prob_start.py", "finalseg/prob_trans.py",
                                        "finalseg/prob_emit.py"};
    struct jieba *j = xcalloc(1, sizeof *j);
    char *path = path_join(dir ? dir : JIEBA_DIR, "dict.txt");
    int rc = 0;

    if (access(path, R_OK) != 0)
        rc = fail("%s: %s: expected jieba's dictionary: install the package python3-jieba, or give "
                  "its folder with --jieba DIR",
                  path, strerror(errno));
    if (rc == 0) rc = read_dictionary(j, path);
    for (int s = 0; s < N_STATES; s++) {
        j->start[s] = NEVER;
        for (int i = 0; i < N_STATES; i++) j->trans[s][i] = NEVER;
        for (int i = 0; i < N_HAN; i++) j->emit[s][i] = NEVER;
    }
    for (enum table t = START; rc == 0 && t <= EMIT; t++) {
        free(path);
        path = path_join(dir ? dir : JIEBA_DIR, names[t]);
        rc = read_table(j, path, t);
    }
    free(path);
    if (rc == 0) return j;
    jieba_close(j);
    return NULL;
}

void jieba_close(struct jieba *j)
{
    if (j == NULL) return;
    free(j->edges);
    free(j);
}

/* ---- the cut */

/* One character of a run. */
struct place {
    size_t at;              /* its first byte in the text */
    size_t end;             /* one past the last character of the best word that starts here */
    double score;           /* log probability of the best cut from here to the end of the run */
    uint16_t ch;            /* code point */
    uint8_t from[N_STATES]; /* best state of the character before, for each state of this one */
};

struct cut {
    const struct jieba *j;
    const char *text;
    void (*word)(void *ctx, const char *s, size_t n);
    void *ctx;
    struct place *run; /* the characters of the run at hand, and its end */
    size_t room;
};

/* Hands out characters [I, END) of the run as one word. */
static void put_word(struct cut *c, size_t i, size_t end)
{
    c->word(c->ctx, c->text + c->run[i].at, c->run[end].at - c->run[i].at);
}

/* Cuts the Chinese characters [I, END) where the likeliest hidden states say (Viterbi). */
static void cut_hidden(struct cut *c, size_t i, size_t end)
{
    const struct jieba *j = c->j;
    double row[2][N_STATES]; /* best log probability of ending in each state, at t - 1 and t */
    int s = 0;

    for (s = 0; s < N_STATES; s++)
        row[i & 1][s] = j->start[s] + j->emit[s][c->run[i].ch - HAN_FIRST];
    for (size_t t = i + 1; t < end; t++) {
        const double *last = row[(t - 1) & 1];
        for (s = 0; s < N_STATES; s++) {
            const double emit = j->emit[s][c->run[t].ch - HAN_FIRST];
            const unsigned char *before = states_before[s];
            const double a = last[before[0]] + j->trans[before[0]][s] + emit;
            const double b = last[before[1]] + j->trans[before[1]][s] + emit;
            c->run[t].from[s] = before[b >= a]; /* the later letter wins a tie */
            row[t & 1][s] = b >= a ? b : a;
        }
    }
    s = row[(end - 1) & 1][S] >= row[(end - 1) & 1][E] ? S : E;

    /* back along the path, leaving in `end` where each word ends */
    for (size_t t = end, stop = end; t-- > i;) {
        if (s == E || s == S) stop = t + 1;
        c->run[t].end = stop;
        if (t > i) s = c->run[t].from[s];
    }
    for (size_t t = i; t < end; t = c->run[t].end) put_word(c, t, c->run[t].end);
}

/* Cuts characters [I, END), none of which is part of a longer word of the dictionary: Chinese ones
 * by the model, of the others [a-zA-Z0-9]+(\.\d+)?%? stay together, and what lies between. */
static void cut_unknown(struct cut *c, size_t i, size_t end)
{
    const struct place *run = c->run;
    for (size_t next = i; i < end; i = next) {
        if (is_han(run[i].ch)) {
            while (next < end && is_han(run[next].ch)) next++;
            cut_hidden(c, i, next);
            continue;
        }
        if (is_alnum(run[i].ch)) {
            while (next < end && is_alnum(run[next].ch)) next++;
            if (next + 1 < end && run[next].ch == '.' && is_digit(run[next + 1].ch))
                for (next++; next < end && is_digit(run[next].ch);) next++;
            if (next < end && run[next].ch == '%') next++;
        } else {
            while (next < end && !is_alnum(run[next].ch) && !is_han(run[next].ch)) next++;
        }
        put_word(c, i, next);
    }
}

/* Frequency of the word of characters [I, END); 0 when there is none. */
static uint32_t word_frequency(const struct cut *c, size_t i, size_t end)
{
    const struct edge *e = NULL;
    for (uint32_t node = 0; i < end; i++, node = e->node) {
        e = edge_at(c->j, (uint64_t)node << 16 | c->run[i].ch);
        if (e->key == 0) return 0;
    }
    return e->frequency;
}

/* Characters [I, END), each a word of its own in the likeliest cut, in a row. */
static void cut_singles(struct cut *c, size_t i, size_t end)
{
    if (end - i > 1 && word_frequency(c, i, end) == 0) {
        cut_unknown(c, i, end);
        return;
    }
    for (; i < end; i++) put_word(c, i, i + 1);
}

/* Cuts the run of N > 0 characters. */
static void cut_run(struct cut *c, size_t n)
{
    struct place *run = c->run;
    size_t singles = 0; /* where the single characters in a row start */

    run[n].score = 0;
    for (size_t i = n; i-- > 0;) {
        uint32_t node = 0;
        run[i].score = -INFINITY;
        for (size_t k = i; k < n; k++) {
            const struct edge *e = edge_at(c->j, (uint64_t)node << 16 | run[k].ch);
            if (e->key == 0) break;
            node = e->node;
            if (e->frequency == 0) continue;
            const double score = log(e->frequency) - c->j->log_total + run[k + 1].score;
            if (score < run[i].score) continue; /* the longer word wins a tie */
            run[i].score = score;
            run[i].end = k + 1;
        }
        if (run[i].score > -INFINITY) continue;
        run[i].score = -c->j->log_total + run[i + 1].score; /* no word: a frequency of 1 */
        run[i].end = i + 1;
    }
    for (size_t i = 0; i < n; i = run[i].end) {
        if (run[i].end == i + 1) continue;
        cut_singles(c, singles, i);
        put_word(c, i, run[i].end);
        singles = run[i].end;
    }
    cut_singles(c, singles, n);
}

void jieba_cut(const struct jieba *j, const char *text, size_t size,
               void (*word)(void *ctx, const char *s, size_t n), void *ctx)
{
    struct cut c = {.j = j, .text = text, .word = word, .ctx = ctx};
    size_t n = 0, length = 0;
    uint32_t ch = 0;

    for (size_t at = 0; at < size; at += length) {
        length = character(text + at, size - at, &ch);
        if (n + 2 > c.room) c.run = xrealloc(c.run, (c.room = 2 * c.room + 256) * sizeof *c.run);
        c.run[n].at = at;
        if (is_run(ch)) {
            c.run[n++].ch = (uint16_t)ch;
            continue;
        }
        if (n > 0) cut_run(&c, n);
        n = 0;
        if (ch == '\r' && at + 1 < size && text[at + 1] == '\n') length = 2;
        word(ctx, text + at, length);
    }
    if (n > 0) {
        c.run[n].at = size;
        cut_run(&c, n);
    }
    free(c.run);
}
