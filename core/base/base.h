/* base.h - what every module of the three programs stands on: errors, memory, numbers, clocks.
 *
 * Errors: a function that can fail returns 0 or -1 (or a pointer or NULL), and has called fail()
 * exactly once, where the fault was found. Memory: x...alloc() ends the program with one line
 * when the machine has no more, so callers never test it.
 */
#ifndef CORE_BASE_BASE_H
#define CORE_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Prints "PROGRAM: error: MESSAGE\n" on stderr, control characters of the message made visible so
 * that it stays one line. Always returns -1. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints "PROGRAM: MESSAGE\n" on stderr, one line as well: news for the user that is no error. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The name that fail() and note() print first; P must outlive the program. */
void set_program_name(const char *p);

/* The last message of fail() in this thread, "" before the first: for tests and for summaries. */
const char *last_failure(void);

/* Keeps fail() and note() from printing while ON (tests of failures); last_failure() still works.
 * Returns what was set before. */
bool mute_failures(bool on);

/* Makes WHAT (NULL: nothing) and a colon the start of every message of fail() in this thread; WHAT
 * must outlive that. Returns what was set before. */
const char *name_failures(const char *what);

void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t size); /* zeroed */
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s);
char *xprintf(const char *format, ...) __attribute__((format(printf, 1, 2))); /* caller frees */

/* Bytes of memory this process may still take: what the system calls available, and no more than
 * the limit of its control group. 0 when unknown. */
double memory_available(void);

/* BYTES of memory aligned to 64 bytes, contents undefined, or NULL after fail() when the
 * machine has not as much; WHAT
 * names it in the message. For arrays so large that running out is the user's news, such as a KV
 * cache. free() releases it. */
void *big_alloc(size_t bytes, const char *what);

/* Parses all of TEXT as a number within [MIN, MAX]. 0, or -1 after fail() naming the option WHAT.
 */
int parse_int(const char *what, const char *text, long min, long max, int *value);
int parse_double(const char *what, const char *text, double min, double max, double *value);

/* Parses "2,8,18" into a new array that the caller frees. 0, or -1 after fail(). */
int parse_int_list(const char *what, const char *text, long min, long max, int **list, int *n);

/* Parses a size with an optional suffix K (1,024) or M (1,048,576): "4K", "1M", "1500". */
int parse_size(const char *what, const char *text, long min, long max, int *value);

/* Seconds of a monotonic clock. */
double clock_seconds(void);

/* The commit this program was built from, "unknown" outside a repository; and its version. */
const char *build_commit(void);
const char *build_version(void);

/* xoshiro256** of Blackman and Vigna 2018, seeded through splitmix64: the one random source. */
struct rng {
    uint64_t s[4];
};
void rng_seed(struct rng *r, uint64_t seed);
uint64_t rng_next(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n); /* unbiased, in [0, n); n > 0 */
double rng_unit(struct rng *r);                /* in [0, 1), 53 bits */

/* Wilson's interval at 95 % of the share CORRECT out of TOTAL (> 0), within [0, 1] (Wilson 1927).
 */
void wilson_interval(int correct, int total, double *low, double *high);

/* 64-bit FNV-1a of BYTES, continued from H (start with HASH_START). */
#define HASH_START 0xcbf29ce484222325u
uint64_t hash_bytes(uint64_t h, const void *bytes, size_t n);

/* The name in the NULL-terminated list that is nearest to WORD in edit distance, or NULL when
 * none is close enough to be what was meant. */
const char *nearest_name(const char *word, const char *const *names);

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
