/* passage.c - text that grows, and sentences that mean nothing: the haystack of the tasks. */
#include "core/task/passage.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void passage_add_bytes(struct passage *t, const char *s, size_t n)
{
    if (t->n + n + 1 > t->room) {
        t->room = 2 * (t->n + n) + 64;
        t->s = xrealloc(t->s, t->room);
    }
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = 0;
}

void passage_add(struct passage *t, const char *s)
{
    passage_add_bytes(t, s, strlen(s));
}

void passage_addf(struct passage *t, const char *format, ...)
{
    char line[512]; /* the longest part is a chain of three names */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    passage_add_bytes(t, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

void passage_free(struct passage *t)
{
    free(t->s);
    memset(t, 0, sizeof *t);
}

/* Words by kind; a template names a kind by %LETTER. */
static const char *const adjectives[] = {
    "quiet",   "old",    "narrow",  "heavy",   "gentle", "broken", "patient",  "distant", "hollow",
    "warm",    "bitter", "crooked", "careful", "empty",  "steep",  "dusty",    "ancient", "little",
    "curious", "lonely", "sturdy",  "pale",    "rough",  "humble", "restless", "solemn",  "faded",
    "bright",  "damp",   "weary",   "polite",  "secret", "uneven", "plain",    "tired",   "early",
};
static const char *const things[] = {
    "lantern", "ladder", "kettle", "letter", "wagon",  "mirror", "basket",   "blanket",
    "barrel",  "clock",  "candle", "violin", "anchor", "saddle", "hammer",   "curtain",
    "map",     "coat",   "chair",  "book",   "bell",   "rope",   "bottle",   "umbrella",
    "oar",     "box",    "table",  "plough", "loaf",   "wheel",  "portrait", "shovel",
};
static const char *const places[] = {
    "river",   "house",  "garden", "bridge",  "orchard", "harbour", "mill",    "chapel",
    "meadow",  "tower",  "market", "station", "cottage", "stable",  "library", "valley",
    "kitchen", "quarry", "well",   "forest",  "inn",     "pasture", "cellar",  "lighthouse",
    "road",    "square", "canal",  "field",   "ferry",   "school",  "gate",    "hill",
};
static const char *const persons[] = {
    "miller",  "teacher",   "sailor",  "widow",  "gardener", "doctor", "carpenter", "stranger",
    "soldier", "shepherd",  "painter", "clerk",  "farmer",   "cook",   "servant",   "traveller",
    "captain", "fisherman", "nurse",   "tailor", "child",    "priest", "judge",     "musician",
};
static const char *const animals[] = {
    "horse", "dog", "heron", "cat", "goat", "owl", "donkey", "fox", "swan", "mule", "hare", "crow",
};
static const char *const weathers[] = {
    "rain", "fog", "wind", "snow", "storm", "frost", "thunder", "twilight", "heat", "drizzle",
};
static const char *const times[] = {
    "morning", "evening", "autumn", "winter", "spring", "afternoon", "summer", "dusk", "night",
};
static const char *const betweens[] = {
    "beside", "behind", "near", "above", "below", "opposite", "beyond", "before", "against",
};
static const char *const stands[] = {
    "stood", "rested", "leaned", "waited", "lay", "remained", "trembled", "creaked", "gleamed",
};
static const char *const goes[] = {
    "walked", "wandered", "hurried", "returned", "slept", "whistled", "paused", "listened",
};
static const char *const handles[] = {
    "carried", "mended", "painted", "hid",     "polished", "lifted",
    "sold",    "found",  "dropped", "counted", "borrowed", "measured",
};
static const char *const left[] = {
    "left", "forgotten", "buried", "kept", "placed", "abandoned", "hung", "repaired",
};
static const char *const manners[] = {
    "slowly", "without a word", "once more", "as before", "in silence", "again", "with great care",
};

static const char *const templates[] = {
    "The %j %j %t %s %b the %j %p.",
    "In the %m, the %h %g %b the %p.",
    "A %j %a %g %b the %t while the %w passed over the %p.",
    "Nobody remembered why the %t had been %l %b the %p.",
    "When the %w ended, the %h %d a %j %t to the %p.",
    "It was said that the %p had once been %j, but the %h did not believe it.",
    "Far from the %p, a %j %h %d the %t and %d it %n.",
    "There was always a %t %b the %p, and the %a knew it.",
    "The %h spoke of the %w, and then of the %j %p.",
    "By the end of the %m, the %t was %l %b the %p.",
    "The %a %g %n, for the %w was %j and the %p was far away.",
    "Every %m a %h %g from the %p to the %p and %d the %t.",
    "No %h had ever %d so %j a %t in the %m.",
    "The %w made the %p seem %j, and the %h %g %n.",
};

static const char *pick(char kind, struct rng *r)
{
    static const struct {
        char kind;
        const char *const *words;
        size_t n;
    } kinds[] = {
        {'j', adjectives, COUNT_OF(adjectives)}, {'t', things, COUNT_OF(things)},
        {'p', places, COUNT_OF(places)},         {'h', persons, COUNT_OF(persons)},
        {'a', animals, COUNT_OF(animals)},       {'w', weathers, COUNT_OF(weathers)},
        {'m', times, COUNT_OF(times)},           {'b', betweens, COUNT_OF(betweens)},
        {'s', stands, COUNT_OF(stands)},         {'g', goes, COUNT_OF(goes)},
        {'d', handles, COUNT_OF(handles)},       {'l', left, COUNT_OF(left)},
        {'n', manners, COUNT_OF(manners)},
    };
    size_t i = 0;
    while (kinds[i].kind != kind) i++;
    return kinds[i].words[rng_below(r, (uint32_t)kinds[i].n)];
}

void passage_add_sentence(struct passage *t, struct rng *r)
{
    for (const char *c = templates[rng_below(r, COUNT_OF(templates))]; *c; c++) {
        if (*c != '%') {
            passage_add_bytes(t, c, 1);
            continue;
        }
        const char *word = pick(*++c, r);
        /* "a old" becomes "an old": no template ends a word in a, the article apart */
        bool article = t->n >= 2 && t->s[t->n - 1] == ' ' && strchr("aA", t->s[t->n - 2]);
        if (article && strchr("aeiou", *word)) {
            t->s[t->n - 1] = 'n';
            passage_add_bytes(t, " ", 1);
        }
        passage_add(t, word);
    }
}
