/* gnuplot.c - run gnuplot as a child process: no shell, a private folder, a whole figure or none.
 */
#include "plots/gnuplot.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "plots/text.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CPU_SECONDS 120 /* a figure takes one or two; beyond this gnuplot is lost in its ticks */

static const char *const format_names[] = {"svg", "png", "pdf"};

int gnuplot_format(const char *path, enum figure_format *format)
{
    const char *dot = strrchr(path, '.');
    for (int i = 0; dot && i < 3; i++)
        if (strcmp(dot + 1, format_names[i]) == 0) {
            *format = (enum figure_format)i;
            return 0;
        }
    return fail("%s: expected a name ending in .svg, .png or .pdf", path);
}

void gnuplot_number(FILE *settings, const char *name, double value)
{
    fprintf(settings, isfinite(value) ? "%s = %.9g\n" : "%s = NaN\n", name, value);
}

/* In a double-quoted string gnuplot reads \ooo as a byte: three digits, or four after a zero. */
static void put_text(FILE *f, const char *value)
{
    char *clean = text_clean(value);
    fputc('"', f);
    for (const unsigned char *s = (const unsigned char *)clean; *s; s++) {
        if (isalnum(*s) || *s == ' ')
            fputc(*s, f);
        else
            fprintf(f, *s < 0100 ? "\\%04o" : "\\%03o", (unsigned)*s);
    }
    fputs("\"\n", f);
    free(clean);
}

void gnuplot_text(FILE *settings, const char *name, const char *value)
{
    fprintf(settings, "%s = ", name);
    put_text(settings, value);
}

void gnuplot_numbers(FILE *settings, const char *name, const double *values, int n)
{
    fprintf(settings, "array %s[%d]\n", name, n > 0 ? n : 1);
    for (int i = 0; i < n; i++)
        fprintf(settings, isfinite(values[i]) ? "%s[%d] = %.9g\n" : "%s[%d] = NaN\n", name, i + 1,
                values[i]);
}

void gnuplot_texts(FILE *settings, const char *name, const char *const *values, int n)
{
    fprintf(settings, "array %s[%d]\n", name, n > 0 ? n : 1);
    for (int i = 0; i < n; i++) {
        fprintf(settings, "%s[%d] = ", name, i + 1);
        put_text(settings, values[i]);
    }
}

char *gnuplot_scripts(void)
{
    char path[PATH_MAX], *slash;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0) {
        fail("/proc/self/exe: cannot be read: %s; give the folder with --scripts", strerror(errno));
        return NULL;
    }
    path[n] = 0;
    while ((slash = strrchr(path, '/')) != NULL) {
        *slash = 0;
        char *folder = xprintf("%s/plots", path), *style = path_join(folder, "style.gpi");
        bool found = access(style, R_OK) == 0;
        free(style);
        if (found) return folder;
        free(folder);
    }
    path[n] = 0;
    fail("no folder plots/ with style.gpi above the program; give it with --scripts");
    return NULL;
}

/* The child: from here on only calls that are safe after fork(). */
static void become_gnuplot(const char *scripts, char *const *argv, int log, int report)
{
    const struct rlimit limit = {CPU_SECONDS, CPU_SECONDS};
    int null = open("/dev/null", O_RDONLY);
    signal(SIGINT, SIG_DFL);
    setrlimit(RLIMIT_CPU, &limit);
    if (null >= 0 && dup2(null, 0) >= 0 && dup2(log, 1) >= 0 && dup2(log, 2) >= 0 &&
        chdir(scripts) == 0)
        execvp(argv[0], argv);
    int error = errno;
    if (write(report, &error, sizeof error) < 0) _exit(126);
    _exit(127);
}

/* The first line gnuplot wrote that says something, without the place in the script before it; a
 * text within LOG. */
static char *first_complaint(char *log)
{
    char *best = log;
    for (char *rest = log; rest;) {
        char *line = strsep(&rest, "\n");
        line += strspn(line, " \t\r^");
        if (*line == 0) continue;
        best = line;
        char *place = strstr(line, "line ");
        if (place && strchr(place, ':')) break; /* "script.gp" line 12: what is wrong */
    }
    return best;
}

/* Runs gnuplot on SETTINGS and SCRIPT, in the folder of scripts, its messages into LOG_PATH. */
static int run(const struct drawing *d, char *settings, char *script, const char *log_path)
{
    char *argv[] = {"gnuplot", "-d", settings, script, NULL};
    int rc = -1, status = 0, error = 0, report[2] = {-1, -1};
    int log = open(log_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    void (*before)(int) = signal(SIGINT, SIG_IGN); /* ^C ends the child, and this cleans up */
    char *text = NULL;
    size_t size;
    pid_t pid;

    if (log < 0 || pipe2(report, O_CLOEXEC) != 0) {
        fail("%s: cannot be written: %s", log_path, strerror(errno));
        goto done;
    }
    fflush(NULL);
    /* gnuplot 6 complains of a locale without UTF-8; decimal commas would change labels */
    setenv("LC_ALL", "C.UTF-8", 1);
    if ((pid = fork()) < 0) {
        fail("gnuplot: cannot be started: %s", strerror(errno));
        goto done;
    }
    if (pid == 0) become_gnuplot(d->scripts, argv, log, report[1]);
    close(report[1]);
    report[1] = -1;
    bool started = read(report[0], &error, sizeof error) <= 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (!started && error == ENOENT) {
        fail("gnuplot: not found; on Debian and Ubuntu: apt-get install gnuplot-nox");
        goto done;
    }
    if (!started) {
        fail("gnuplot: cannot be started in %s: %s", d->scripts, strerror(error));
        goto done;
    }
    if ((text = file_read(log_path, &size)) == NULL) goto done;
    if (WIFSIGNALED(status))
        fail("gnuplot: killed by signal %d (%s) while drawing %s", WTERMSIG(status),
             strsignal(WTERMSIG(status)), d->name);
    else if (WEXITSTATUS(status) != 0)
        fail("gnuplot: failed on %s.gp: %.300s", d->name, first_complaint(text));
    else
        rc = 0;
    if (rc == 0 && text[strspn(text, " \t\r\n")]) note("gnuplot: %.300s", first_complaint(text));

done:
    if (log >= 0) close(log);
    for (int i = 0; i < 2; i++)
        if (report[i] >= 0) close(report[i]);
    signal(SIGINT, before);
    free(text);
    return rc;
}

static int write_text(const char *path, const char *text)
{
    struct output o;
    if (output_open(&o, path)) return -1;
    return output_close(&o, fputs(text, o.f) == EOF ? fail("%s: cannot be written", path) : 0);
}

/* Copies the SVG to F: sizes in points, so that it is printed as large as the PDF; fallbacks of
 * the font, of like widths; the command in place of gnuplot's name. */
static int put_svg(FILE *f, const char *text, const struct drawing *d)
{
    static const char family[] = "font-family=\"DejaVu Sans\"";
    const char *head = strstr(text, " width=\""), *box = strstr(text, " viewBox=");
    const char *title = strstr(text, "<title>"), *end = strstr(text, "</desc>");
    char *command = text_clean(d->command);

    if (head == NULL || box == NULL || title == NULL || end == NULL || head > box || box > title ||
        title > end) {
        free(command);
        return fail("%s: expected an SVG as gnuplot 5.4 writes it", d->name);
    }
    fprintf(f, "%.*s width=\"%gpt\" height=\"%gpt\"\n", (int)(head - text), text, d->width,
            d->height);
    fprintf(f, "%.*s<title>%s</title>\n<desc>", (int)(title - box), box, d->name);
    for (const char *s = command; *s; s++) {
        if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '>')
            fputs("&gt;", f);
        else if (*s == '&')
            fputs("&amp;", f);
        else
            fputc(*s, f);
    }
    for (const char *s = end, *next; s; s = next) {
        next = strstr(s, family);
        if (next == NULL) {
            fputs(s, f);
        } else {
            fprintf(f, "%.*sfont-family=\"DejaVu Sans, Verdana, sans-serif\"", (int)(next - s), s);
            next += sizeof family - 1;
        }
    }
    free(command);
    return 0;
}

/* Sets the digits of the PDF's creation date to the beginning of 1970: the same figure is the
 * same file. From cairo 1.18 on the date is within a compressed stream, and stays. */
static void fix_date(char *pdf, size_t size)
{
    static const char key[] = "/CreationDate (D:", zero[] = "19700101000000";
    char *date = memmem(pdf, size, key, sizeof key - 1);
    if (date == NULL) return;
    date += sizeof key - 1;
    for (size_t i = 0; i < sizeof zero - 1 && date + i < pdf + size && isdigit(date[i]); i++)
        date[i] = zero[i];
}

/* A figure that is whole begins and ends as its format demands. */
static bool is_whole(const char *figure, size_t size, enum figure_format format)
{
    static const struct {
        const char *first, *last;
        size_t last_size, within; /* LAST stands in the last WITHIN bytes */
    } marks[] = {{"<?xml", "</svg>", 6, 16},
                 {"\x89PNG", "IEND\xAE\x42\x60\x82", 8, 8},
                 {"%PDF", "%%EOF", 5, 16}};
    size_t first = strlen(marks[format].first), within = marks[format].within;
    return size > first + within && memcmp(figure, marks[format].first, first) == 0 &&
           memmem(figure + size - within, within, marks[format].last, marks[format].last_size);
}

/* Checks the drawn FILE and gives it its place. */
static int publish(const struct drawing *d, enum figure_format format, const char *file,
                   const char *path)
{
    int rc = 0;
    size_t size = 0;
    struct output o = {0};
    char *figure = NULL;

    if (access(file, F_OK) != 0) return fail("gnuplot: drew nothing for %s", path);
    if ((figure = file_read(file, &size)) == NULL) return -1;
    if (!is_whole(figure, size, format)) {
        rc = fail("gnuplot: expected a whole %s for %s, found %zu bytes that are not",
                  format_names[format], path, size);
        goto done;
    }
    if ((rc = make_parents(path)) != 0 || (rc = output_open(&o, path)) != 0) goto done;
    if (format == FORMAT_PDF) fix_date(figure, size);
    if (format == FORMAT_SVG)
        rc = put_svg(o.f, figure, d);
    else
        fwrite(figure, 1, size, o.f); /* output_close() sees a failure */
    rc = output_close(&o, rc);

done:
    free(figure);
    return rc;
}

int gnuplot_draw(const struct drawing *d, const char *path)
{
    static const char *const names[] = {"settings.gpi", "data.tsv", "log", "figure"};
    enum figure_format format = FORMAT_SVG;
    const char *base = getenv("TMPDIR");
    char *folder = NULL, *files[COUNT_OF(names)] = {0}, *scripts = NULL, *script = NULL;
    char *settings = NULL;
    size_t size;
    FILE *f = NULL;
    int rc = -1;

    if (gnuplot_format(path, &format)) return -1;
    /* gnuplot takes a name that begins with '<' or '|' for a command: only absolute names go in */
    char *root = realpath(base && *base ? base : "/tmp", NULL);
    folder = xprintf("%s/okv-plot-XXXXXX", root ? root : "");
    if (root == NULL || mkdtemp(folder) == NULL) {
        fail("%s: cannot be created: %s", folder, strerror(errno));
        free(folder);
        free(root);
        return -1;
    }
    for (size_t i = 0; i < COUNT_OF(names); i++) files[i] = path_join(folder, names[i]);
    script = xprintf("%s/%s.gp", d->scripts, d->name);
    if ((scripts = realpath(script, NULL)) == NULL) {
        fail("%s: cannot be read: %s", script, strerror(errno));
        goto done;
    }

    if ((f = open_memstream(&settings, &size)) == NULL) goto done;
    gnuplot_text(f, "format", format_names[format]);
    gnuplot_text(f, "figure", files[3]);
    gnuplot_text(f, "data", files[1]);
    gnuplot_number(f, "width", d->width);
    gnuplot_number(f, "height", d->height);
    fputs(d->settings, f);
    fclose(f);
    if (write_text(files[0], settings) || write_text(files[1], d->data) ||
        run(d, files[0], scripts, files[2]))
        goto done;
    rc = publish(d, format, files[3], path);

done:
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        unlink(files[i]);
        free(files[i]);
    }
    rmdir(folder);
    free(folder);
    free(root);
    free(script);
    free(scripts);
    free(settings);
    return rc;
}
