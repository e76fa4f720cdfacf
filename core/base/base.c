/* base.c - errors, memory, numbers, clocks, random numbers. */
#include "core/base/base.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef BUILD_COMMIT
#define BUILD_COMMIT "unknown"
#endif

#define HUGE_PAGE ((size_t)2 << 20) /* bytes */

static const char *program = "okv";
static bool muted;
static _Thread_local char failure[1024];
static _Thread_local const char *failing; /* see name_failures() */

void set_program_name(const char *p)
{
    program = p;
}

bool mute_failures(bool on)
{
    const bool before = muted;
    muted = on;
    return before;
}

const char *name_failures(const char *what)
{
    const char *before = failing;
    failing = what;
    return before;
}

const char *last_failure(void)
{
    return failure;
}

/* A file name or key from outside may hold newlines or escape sequences: they become '?'. */
static void one_line(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) *s = '?';
}

int fail(const char *format, ...)
{
    va_list args;
    int n = failing ? snprintf(failure, sizeof failure, "%s: ", failing) : 0;
    if (n > (int)sizeof failure) n = (int)sizeof failure;
    va_start(args, format);
    vsnprintf(failure + n, sizeof failure - (size_t)n, format, args);
    va_end(args);
    one_line(failure);
    if (!muted) fprintf(stderr, "%s: error: %s\n", program, failure);
    return -1;
}

void note(const char *format, ...)
{
    char text[1024];
    va_list args;
    if (muted) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    one_line(text);
    fprintf(stderr, "%s: %s\n", program, text);
}

static void *checked(void *p, size_t bytes)
{
    if (p || !bytes) return p;
    muted = false; /* the program ends here: it must say why */
    fail("out of memory: cannot allocate %zu bytes", bytes);
    exit(1);
}

void *xmalloc(size_t bytes)
{
    return checked(malloc(bytes), bytes);
}

void *xcalloc(size_t count, size_t size)
{
    return checked(calloc(count, size),
                   count && size ? (count > SIZE_MAX / size ? SIZE_MAX : count * size) : 0);
}

void *xrealloc(void *p, size_t bytes)
{
    return checked(realloc(p, bytes), bytes);
}

char *xstrdup(const char *s)
{
    return checked(strdup(s), strlen(s) + 1);
}

char *xprintf(const char *format, ...)
{
    char *s = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&s, format, args) < 0) s = checked(NULL, 1);
    va_end(args);
    return s;
}

double memory_available(void)
{
    double bytes = 0, limit;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lf kB", &bytes) == 1) bytes *= 1024;
    if (f) fclose(f);
    f = fopen("/sys/fs/cgroup/memory.max", "r");
    if (f && fscanf(f, "%lf", &limit) == 1 && limit < bytes) bytes = limit;
    if (f) fclose(f);
    return bytes;
}

void *big_alloc(size_t bytes, const char *what)
{
    /* Large ones start on a huge page: over long caches, page walks cost more than the reading. */
    const size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    const size_t rounded = bytes + align < bytes ? 0 : (bytes + align - 1) / align * align;
    const double available = memory_available();
    if (available > 0 && (double)bytes > available) {
        fail("%s: %.2f GB of memory are needed, %.2f GB are available", what, (double)bytes / 1e9,
             available / 1e9);
        return NULL;
    }
    void *p = rounded ? aligned_alloc(align, rounded) : NULL;
    if (p == NULL) {
        fail("%s: cannot allocate %zu bytes of memory", what, bytes);
        return NULL;
    }
    if (align == HUGE_PAGE) madvise(p, rounded, MADV_HUGEPAGE); /* a refusal costs nothing */
    return p;
}

int parse_int(const char *what, const char *text, long min, long max, int *value)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < min || v > max)
        return fail("%s: expected a whole number from %ld to %ld, found \"%s\"", what, min, max,
                    text);
    *value = (int)v;
    return 0;
}

int parse_size(const char *what, const char *text, long min, long max, int *value)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    long unit = *end == 'K' || *end == 'k' ? 1024 : *end == 'M' || *end == 'm' ? 1 << 20 : 1;
    if (end != text && unit > 1) end++;
    if (end == text || *end || errno || v < 0 || v > max / unit || v * unit < min)
        return fail("%s: expected a size from %ld to %ld, such as 4096 or 4K, found \"%s\"", what,
                    min, max, text);
    *value = (int)(v * unit);
    return 0;
}

int parse_double(const char *what, const char *text, double min, double max, double *value)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < min || v > max)
        return fail("%s: expected a number from %g to %g, found \"%s\"", what, min, max, text);
    *value = v;
    return 0;
}

int parse_int_list(const char *what, const char *text, long min, long max, int **list, int *n)
{
    int rc = -1, *out = NULL, count = 0;
    char *copy = xstrdup(text), *rest = copy;
    for (char *item; (item = strsep(&rest, ",")) != NULL; count++) {
        out = xrealloc(out, (size_t)(count + 1) * sizeof *out);
        while (*item == ' ') item++;
        if (parse_int(what, item, min, max, &out[count])) goto done;
    }
    *list = out;
    *n = count;
    out = NULL;
    rc = 0;

done:
    free(out);
    free(copy);
    return rc;
}

double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *build_commit(void)
{
    return BUILD_COMMIT;
}

const char *build_version(void)
{
    return "0.1";
}

void rng_seed(struct rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        r->s[i] = z ^ (z >> 31);
    }
}

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t rng_next(struct rng *r)
{
    uint64_t *s = r->s, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
    uint64_t x,
        limit = UINT64_MAX - UINT64_MAX % n; /* draws at or past it would favour small values */
    do x = rng_next(r);
    while (x >= limit);
    return (uint32_t)(x % n);
}

double rng_unit(struct rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

void wilson_interval(int correct, int total, double *low, double *high)
{
    const double z = 1.959963984540054, n = total, p = correct / n;
    const double middle = p + z * z / (2 * n),
                 half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    *low = fmax(0, (middle - half) / (1 + z * z / n));
    *high = fmin(1, (middle + half) / (1 + z * z / n));
}

uint64_t hash_bytes(uint64_t h, const void *bytes, size_t n)
{
    for (const unsigned char *p = bytes; n--; p++) h = (h ^ *p) * 0x100000001b3u;
    return h;
}

static int edit_distance(const char *a, const char *b)
{
    int row[64], nb = (int)strlen(b);
    if (nb > 62 || strlen(a) > 62) return 99;
    for (int j = 0; j <= nb; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int up = row[j], best = corner + (a[i - 1] != b[j - 1]);
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            corner = up;
            row[j] = best;
        }
    }
    return row[nb];
}

const char *nearest_name(const char *word, const char *const *names)
{
    const char *best = NULL;
    int least = 99;
    for (; *names; names++) {
        int d = edit_distance(word, *names);
        if (d < least) {
            least = d;
            best = *names;
        }
    }
    return best && least <= 1 + (int)strlen(word) / 2 ? best : NULL;
}
