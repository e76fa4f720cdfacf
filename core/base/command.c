/* command.c - subcommands, options, tables, progress. */
#include "core/base/command.h"
#include "core/base/base.h"

#include <ctype.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *program_name = "okv";

static void print_help(FILE *f, const char *about, const struct command *table)
{
    fprintf(f, "%s\n\nUsage: %s SUBCOMMAND [OPTIONS]\n\n", about, program_name);
    for (; table->name; table++) fprintf(f, "  %-10s %s\n", table->name, table->summary);
    fprintf(f, "\n%s SUBCOMMAND --help explains each.\n", program_name);
}

/* How long a waiting OpenMP thread spins before it sleeps. The default, some milliseconds, is fatal
 * beside any other busy process: a decode step has dozens of meeting points, and whoever waits
 * there keeps the thread it waits for from its core (docs/performance.md has the measurement). The
 * runtime reads the variable before main(), hence the second start. The user's own setting stands.
 */
static void spin_briefly(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    setenv("GOMP_SPINCOUNT", "4000", 1);
    execv("/proc/self/exe", argv); /* returns only where there is no /proc: then it spins */
}

int command_main(const char *program, const char *about, const struct command *table, int argc,
                 char **argv)
{
    spin_briefly(argv);
    program_name = program;
    set_program_name(program);
    signal(SIGXFSZ, SIG_IGN); /* past a file size limit a write fails as on a full disk */
    if (argc < 2) {
        print_help(stderr, about, table);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout, about, table);
        return fflush(stdout) ? fail("standard output: cannot be written"), 1 : 0;
    }
    if (strcmp(name, "--version") == 0) {
        printf("%s %s (%s)\n", program, build_version(), build_commit());
        return fflush(stdout) ? fail("standard output: cannot be written"), 1 : 0;
    }
    const char *names[64];
    int n = 0;
    for (const struct command *c = table; c->name; c++) {
        if (strcmp(c->name, name) == 0) return c->run(argc - 1, argv + 1);
        if (n < 63) names[n++] = c->name;
    }
    names[n] = NULL;
    const char *near = nearest_name(name, names);
    fail("unknown subcommand \"%s\"%s%s%s; %s --help lists them", name,
         near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "", program);
    return 2;
}

/* A list of sizes or numbers, in place of one given before: what a sweep goes through. A number
 * that stands twice would run, and count, twice. */
static int take_list(const struct option_spec *o, const char *text)
{
    struct int_list *sizes = o->kind == OPT_SIZE_LIST ? o->value : NULL;
    struct double_list *numbers = o->kind == OPT_DOUBLE_LIST ? o->value : NULL;
    char *copy = xstrdup(text), *rest = copy;
    int rc = 0, n = 0;
    for (char *item; rc == 0 && (item = strsep(&rest, ",")) != NULL; n++) {
        if (sizes) {
            sizes->v = xrealloc(sizes->v, (size_t)(n + 1) * sizeof *sizes->v);
            rc = parse_size(o->name, item, (long)o->min, (long)o->max, &sizes->v[n]);
        } else {
            numbers->v = xrealloc(numbers->v, (size_t)(n + 1) * sizeof *numbers->v);
            rc = parse_double(o->name, item, o->min, o->max, &numbers->v[n]);
            if (rc == 0) numbers->v[n] += 0.0; /* -0 is 0 */
        }
        for (int i = 0; rc == 0 && i < n; i++)
            if (sizes ? sizes->v[i] == sizes->v[n] : numbers->v[i] == numbers->v[n])
                rc = fail("%s: \"%s\" stands twice", o->name, item);
    }
    if (sizes) sizes->n = n;
    if (numbers) numbers->n = n;
    free(copy);
    return rc;
}

static int take_value(const struct option_spec *o, const char *text)
{
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)o->value = true;
        return 0;
    case OPT_INT:
        return parse_int(o->name, text, (long)o->min, (long)o->max, o->value);
    case OPT_SIZE:
        return parse_size(o->name, text, (long)o->min, (long)o->max, o->value);
    case OPT_DOUBLE:
        return parse_double(o->name, text, o->min, o->max, o->value);
    case OPT_STRING:
        *(const char **)o->value = text;
        return 0;
    case OPT_STRINGS: {
        struct strings *s = o->value;
        s->v = xrealloc(s->v, (size_t)(s->n + 1) * sizeof *s->v);
        s->v[s->n++] = text;
        return 0;
    }
    case OPT_INT_LIST: {
        struct int_list *l = o->value;
        free(l->v);
        l->v = NULL;
        return parse_int_list(o->name, text, (long)o->min, (long)o->max, &l->v, &l->n);
    }
    case OPT_SIZE_LIST:
    case OPT_DOUBLE_LIST:
        return take_list(o, text);
    }
    return -1;
}

int options_parse(int argc, char **argv, const struct option_spec *specs, const char *usage,
                  int *first)
{
    int kept = 0, options = 1; /* positional arguments met so far; where the next option goes */
    char **positional = xmalloc((size_t)(argc + 1) * sizeof *positional);
    char **order = xmalloc((size_t)(argc + 1) * sizeof *order); /* argv, options first */
    int rc = 2;

    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (strcmp(arg, "--") == 0) {
            order[options++] = arg;
            while (++i < argc) positional[kept++] = argv[i];
            break;
        }
        if (arg[0] != '-' || arg[1] == 0) {
            positional[kept++] = arg;
            continue;
        }
        order[options++] = arg;
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            fputs(usage, stdout);
            rc = fflush(stdout) ? fail("standard output: cannot be written"), 1 : 0;
            goto done;
        }
        size_t n = strcspn(arg, "=");
        const struct option_spec *o = specs;
        while (o->name && (strlen(o->name) != n || strncmp(o->name, arg, n) != 0)) o++;
        if (o->name == NULL) {
            const char *names[64];
            int count = 0;
            for (const struct option_spec *s = specs; s->name && count < 63; s++)
                names[count++] = s->name;
            names[count] = NULL;
            const char *near = nearest_name(arg, names);
            usage_error(argv[0], "unknown option \"%s\"%s%s%s", arg,
                        near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
            goto done;
        }
        const char *value = NULL;
        if (o->kind == OPT_FLAG) {
            if (arg[n]) {
                usage_error(argv[0], "%s takes no value", o->name);
                goto done;
            }
        } else if (arg[n]) {
            value = arg + n + 1;
        } else if (++i < argc) {
            value = order[options++] = argv[i];
        } else {
            usage_error(argv[0], "%s needs a value", o->name);
            goto done;
        }
        if (take_value(o, value)) goto done;
    }
    *first = options;
    for (int i = 1; i < options; i++) argv[i] = order[i];
    for (int i = 0; i < kept; i++) argv[options + i] = positional[i];
    rc = -1;

done:
    free(order);
    free(positional);
    return rc;
}

int usage_error(const char *name, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fail("%s: %s; see %s %s --help", name, message, program_name, name);
    return 2;
}

char *command_line(int argc, char **argv)
{
    char *line = xstrdup(program_name);
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        bool plain = *a != 0;
        for (const char *c = a; *c; c++)
            if (!isalnum((unsigned char)*c) && !strchr("-_./,:=+@%", *c)) plain = false;
        char *word = plain ? xstrdup(a) : NULL;
        if (word == NULL) { /* 'text', and a quote inside it as '\'' */
            size_t n = 0;
            word = xmalloc(4 * strlen(a) + 3);
            word[n++] = '\'';
            for (const char *c = a; *c; c++) {
                if (*c == '\'')
                    n += (size_t)sprintf(word + n, "'\\''");
                else
                    word[n++] = *c == '\n' ? ' ' : *c;
            }
            word[n++] = '\'';
            word[n] = 0;
        }
        char *longer = xprintf("%s %s", line, word);
        free(word);
        free(line);
        line = longer;
    }
    return line;
}

void table_head(FILE *f, int argc, char **argv, const char *notes)
{
    char *line = command_line(argc, argv);
    fprintf(f, "# %s\n# %s %s (%s)\n", line, program_name, build_version(), build_commit());
    for (const char *p = notes; p && *p;) {
        size_t n = strcspn(p, "\n");
        fprintf(f, "# %.*s\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
    free(line);
}

void progress_start(struct progress *p, const char *what, long total)
{
    p->what = what;
    p->total = total;
    p->start = clock_seconds();
    p->last = 0;
    p->shown = false;
}

void progress_show(struct progress *p, long done)
{
    double now = clock_seconds();
    if (!isatty(2) || (now - p->last < 0.1 && done < p->total)) return;
    double rate = (double)done / (now - p->start + 1e-9);
    fprintf(stderr, "\r%s %ld/%ld  %.3g/s  %.0f s left \033[K", p->what, done, p->total, rate,
            rate > 0 ? (double)(p->total - done) / rate : 0.0);
    p->last = now;
    p->shown = true;
}

void progress_end(struct progress *p)
{
    if (p->shown) fprintf(stderr, "\r\033[K");
    p->shown = false;
}
