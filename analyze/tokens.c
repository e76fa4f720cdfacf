/* tokens.c - okv-analyze tokens: the prompt's text with the selected tokens marked. */
#include "analyze/cmd.h"
#include "analyze/sets.h"
#include "core/base/command.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "Usage: okv-analyze tokens DUMP... [OPTIONS]\n"
    "\n"
    "What does a selection look like? The prompt's text with the tokens marked that the top k\n"
    "by score of the chosen layers and steps hold; the more of them hold a token, the\n"
    "stronger its mark. Text decoded after the prompt follows a line of its own. Marks are\n"
    "colours on a terminal and in HTML, brackets otherwise. A character that several tokens\n"
    "share is marked when one of them is.\n"
    "\n"
    "  --sample N     of all dumps given, 0-based [0]\n"
    "  --layer N,...  0-based [all]\n"
    "  --step N,...   0-based [all]\n"
    "  --k K          tokens in a set [32]\n"
    "  --selected     what the run used (selected_idx) instead of the top k by score; --layer\n"
    "                 then picks filter layers\n"
    "  --color        colours although the output is no terminal\n"
    "  --html FILE    a self-contained page instead; a mark's tooltip says position, token\n"
    "                 id, how often it is selected, and its attention weight if traced\n"
    "  --out FILE     write the text there\n"
    "\n"
    "Needs score (or topk_idx), or selected_idx. Without text in the dump, ids are shown.\n";

struct view {
    const struct dump_run *run;
    struct dump_sample_info info;
    int *token, *end; /* [T]; end: where each token ends in text, NULL without text */
    uint8_t *text;    /* [text_bytes] */
    int *count;       /* [T] selections that hold the token */
    double *mass;     /* [T] attention weight, mean over the layers and steps, or NULL */
    int draws;        /* layers x steps looked at */
    int most;         /* the largest count */
};

/* ---- counting */

static bool listed(const struct int_list *l, int x)
{
    for (int i = 0; i < l->n; i++)
        if (l->v[i] == x) return true;
    return l->n == 0;
}

static int count_step(struct view *v, struct dump *d, int index, int step, struct sets *sets,
                      int *selected, float *row, const struct int_list *layers)
{
    const int T = v->info.T, M = v->run->M;
    if (selected ? dump_ints(d, index, DUMP_SELECTED_IDX, step, selected)
                 : sets_read(sets, d, index, &v->info, step))
        return -1;
    if (row && dump_rows(d, index, DUMP_MASS, step, row)) return -1;
    for (int a = 0; a < (selected ? M : v->run->L); a++) {
        const int l = selected ? v->run->layers[a] : a;
        if (!listed(layers, l)) continue;
        int n = v->info.k;
        const int *set = selected ? selected + (size_t)a * n : sets_of(sets, 0, l, &n);
        for (int i = 0; i < n; i++)
            if (set[i] >= 0 && set[i] < T) v->count[set[i]]++;
        for (int t = 0; row && t < T; t++) v->mass[t] += (double)row[(size_t)l * T + t];
        v->draws++;
    }
    return 0;
}

static int check_list(const char *what, const struct int_list *l, int n)
{
    for (int i = 0; i < l->n; i++)
        if (l->v[i] < 0 || l->v[i] >= n)
            return fail("%s %d: the sample has 0 to %d", what, l->v[i], n - 1);
    return 0;
}

static int load(struct view *v, const struct dumps *s, int sample, bool use_selected, int k,
                const struct int_list *layers, const struct int_list *steps)
{
    struct sets sets;
    int index, rc = -1, *selected = NULL;
    float *row = NULL;
    sets_start(&sets, s->run->L, &k, 1);
    uint32_t need = FIELD_BIT(DUMP_SELECTED_IDX);
    struct dump *d = NULL;
    if (!use_selected && sets_need(&sets, s, &need)) goto done;
    d = dumps_sample(s, sample, need, &v->info, &index);
    if (d == NULL) goto done;
    v->run = dump_run(d);
    const int T = v->info.T;
    if (check_list("--step", steps, v->info.S) || check_list("--layer", layers, v->run->L))
        goto done;

    v->token = xmalloc((size_t)T * sizeof *v->token);
    v->count = xcalloc((size_t)T, sizeof *v->count);
    if (dump_ints(d, index, DUMP_TOKENS, 0, v->token)) goto done;
    if (v->info.fields & FIELD_BIT(DUMP_TEXT) && v->info.fields & FIELD_BIT(DUMP_TEXT_END)) {
        v->end = xmalloc((size_t)T * sizeof *v->end);
        v->text = xmalloc((size_t)v->info.text_bytes + 1);
        if (dump_ints(d, index, DUMP_TEXT_END, 0, v->end) || dump_text(d, index, v->text))
            goto done;
        for (int t = 0; t < T; t++) {
            if (v->end[t] >= (t ? v->end[t - 1] : 0) && v->end[t] <= v->info.text_bytes) continue;
            fail("%s: sample %d: text_end[%d] is %d, of %d bytes", dump_path(d), index, t,
                 v->end[t], v->info.text_bytes);
            goto done;
        }
    }
    if (v->info.fields & FIELD_BIT(DUMP_MASS)) {
        if ((row = dumps_rows((size_t)v->run->L, T)) == NULL) goto done;
        v->mass = xcalloc((size_t)T, sizeof *v->mass);
    }
    if (use_selected) selected = xmalloc(((size_t)v->run->M * v->info.k + 1) * sizeof *selected);
    for (int step = 0; step < v->info.S; step++) {
        if (listed(steps, step) && count_step(v, d, index, step, &sets, selected, row, layers))
            goto done;
    }
    if (v->draws == 0) {
        fail("%s: sample %d: no step of these layers was traced", dump_path(d), index);
        goto done;
    }
    for (int t = 0; t < T; t++) {
        if (v->mass) v->mass[t] /= v->draws;
        v->most = v->count[t] > v->most ? v->count[t] : v->most;
    }
    rc = 0;

done:
    sets_free(&sets);
    free(selected);
    free(row);
    return rc;
}

static void view_free(struct view *v)
{
    free(v->token);
    free(v->end);
    free(v->text);
    free(v->count);
    free(v->mass);
}

/* ---- text in pieces of whole characters */

/* Length of the UTF-8 character at P, which has ROOM > 0 bytes; 0 when it is not one. */
static int utf8_length(const uint8_t *p, long room)
{
    const int n = p[0] < 0x80             ? 1
                  : (p[0] & 0xe0) == 0xc0 ? 2
                  : (p[0] & 0xf0) == 0xe0 ? 3
                  : (p[0] & 0xf8) == 0xf0 ? 4
                                          : 0;
    if (n == 0 || n > room) return 0;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7f >> n);
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

/* Tokens [*from, end) that begin and end between characters: a token that ends inside one takes
 * the next along, up to the four that can share a character. Returns end. */
static int piece_end(const struct view *v, int from, int limit)
{
    if (v->end == NULL) return from + 1;
    const int start = from ? v->end[from - 1] : 0;
    for (int to = from + 1; to <= limit; to++) {
        long at = start;
        int broken = 0; /* bytes at the end that begin a character */
        while (at < v->end[to - 1]) {
            const int n = utf8_length(v->text + at, v->info.text_bytes - at);
            if (n && at + n > v->end[to - 1]) broken = 1;
            at += n ? n : 1;
        }
        if (!broken) return to;
    }
    return from + 1;
}

/* One text byte sequence, made harmless: bytes that are no character become U+FFFD, control
 * characters visible; HTML's own characters escaped. */
static void put_text(FILE *f, const uint8_t *p, long n, bool html)
{
    for (long i = 0; i < n;) {
        const int m = utf8_length(p + i, n - i);
        if (m == 0) {
            fputs("\xef\xbf\xbd", f);
            i++;
            continue;
        }
        const uint8_t c = p[i];
        const bool c1 = m == 2 && c == 0xc2 && p[i + 1] < 0xa0; /* 8-bit control characters */
        if (html && (c == '&' || c == '<' || c == '>' || c == '"' || c == '\''))
            fprintf(f, "&#%d;", c);
        else if (m == 1 && (c < 32 || c == 127) && c != '\n' && c != '\t')
            fprintf(f, "\\x%02x", c);
        else if (c1)
            fprintf(f, "\\x%02x", p[i + 1]);
        else
            fwrite(p + i, 1, (size_t)m, f);
        i += m;
    }
}

static void put_piece(FILE *f, const struct view *v, int from, int to, bool html)
{
    if (v->end == NULL) {
        fprintf(f, "%d ", v->token[from]);
        return;
    }
    const int start = from ? v->end[from - 1] : 0;
    put_text(f, v->text + start, v->end[to - 1] - start, html);
}

/* Strength of a mark in 1 .. 5 by the share of selections that hold it, 0 for none. */
static int strength(const struct view *v, int from, int to)
{
    int most = 0;
    for (int t = from; t < to; t++) most = v->count[t] > most ? v->count[t] : most;
    return most == 0 ? 0 : 1 + (int)(4L * (most - 1) / (v->most > 1 ? v->most - 1 : 1));
}

static void put_terminal(FILE *f, const struct view *v, bool color)
{
    /* backgrounds of the 256-colour palette, light yellow to strong orange, under black text */
    static const int shade[] = {0, 230, 229, 222, 215, 208};
    const int T = v->info.T, n = v->info.n_prefill;
    for (int from = 0; from < T;) {
        if (from == n) fputs("\n---- decoded ----\n", f);
        const int to = piece_end(v, from, from < n ? n : T), s = strength(v, from, to);
        if (s) color ? fprintf(f, "\033[30;48;5;%dm", shade[s]) : fputs("\xe2\x9f\xa6", f);
        put_piece(f, v, from, to, false);
        if (s) fputs(color ? "\033[0m" : "\xe2\x9f\xa7", f);
        from = to;
    }
    fputc('\n', f);
}

static void put_html(FILE *f, const struct view *v, const char *what)
{
    static const char style[] =
        "<style>\n"
        ":root{color-scheme:light dark;--bg:#fff;--fg:#222;--dim:#777;--mark:230,120,0}\n"
        "@media(prefers-color-scheme:dark){:root{--bg:#181818;--fg:#ddd;--dim:#888;"
        "--mark:255,150,40}}\n"
        "body{background:var(--bg);color:var(--fg);font:15px/1.6 system-ui,sans-serif;"
        "max-width:60em;margin:2em auto;padding:0 1em}\n"
        "pre{white-space:pre-wrap;overflow-wrap:anywhere;font:14px/1.7 ui-monospace,monospace}\n"
        "mark{color:inherit;border-radius:2px}\n"
        ".s1{background:rgba(var(--mark),.15)}.s2{background:rgba(var(--mark),.3)}\n"
        ".s3{background:rgba(var(--mark),.5)}.s4{background:rgba(var(--mark),.7)}\n"
        ".s5{background:rgba(var(--mark),.95)}\n"
        "p,.decoded{color:var(--dim)}.decoded{border-top:1px solid var(--dim);padding-top:.5em}\n"
        "</style>\n";
    const int T = v->info.T, n = v->info.n_prefill;
    fputs(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Selected tokens</title>\n",
        f);
    fputs(style, f);
    fputs("</head><body>\n<h1>Selected tokens</h1>\n<p>", f);
    put_text(f, (const uint8_t *)what, (long)strlen(what), true);
    fprintf(f, "</p>\n<p>Marks, by how many of the %d selections hold the token:", v->draws);
    for (int s = 1; s <= 5; s++) {
        const int low = 1 + (int)(((long)(s - 1) * (v->most - 1) + 3) / 4);
        if (s == 1 || low <= v->most)
            fprintf(f, " <mark class=\"s%d\">%s%d</mark>", s, s == 5 ? "" : "from ", low);
    }
    fputs("</p>\n<pre>", f);
    for (int from = 0; from < T;) {
        if (from == n) fputs("</pre>\n<pre class=\"decoded\">", f);
        const int to = piece_end(v, from, from < n ? n : T), s = strength(v, from, to);
        if (s) {
            fprintf(f, "<mark class=\"s%d\" title=\"", s);
            for (int t = from; t < to; t++) {
                fprintf(f, "%sposition %d, id %d: selected %d of %d times", t > from ? "; " : "", t,
                        v->token[t], v->count[t], v->draws);
                if (v->mass) fprintf(f, ", attention %.4g", v->mass[t]);
            }
            fputs("\">", f);
        }
        put_piece(f, v, from, to, true);
        if (s) fputs("</mark>", f);
        from = to;
    }
    fputs("</pre>\n</body></html>\n", f);
}

int analyze_tokens(int argc, char **argv)
{
    struct int_list layers = {0}, steps = {0};
    int sample = 0, k = 32, first, rc;
    bool use_selected = false, color = false;
    const char *html = NULL, *path = NULL;
    const struct option_spec specs[] = {
        {"--sample", OPT_INT, &sample, 0, INT_MAX},
        {"--layer", OPT_INT_LIST, &layers, 0, INT_MAX},
        {"--step", OPT_INT_LIST, &steps, 0, INT_MAX},
        {"--k", OPT_INT, &k, 1, INT_MAX},
        {"--selected", OPT_FLAG, &use_selected, 0, 0},
        {"--color", OPT_FLAG, &color, 0, 0},
        {"--html", OPT_STRING, &html, 0, 0},
        {"--out", OPT_STRING, &path, 0, 0},
        {0},
    };
    struct dumps s = {0};
    struct view v = {0};
    struct output out = {0};
    char *what = NULL, *line = NULL;

    if ((rc = options_parse(argc, argv, specs, usage, &first)) >= 0) goto done;
    if (first == argc || (html && path)) {
        rc = usage_error(argv[0], first == argc ? "which dump?" : "--html or --out, not both");
        goto done;
    }
    rc = 1;
    if (dumps_open(&s, argv + first, argc - first)) goto done;
    if (sample >= s.samples) {
        fail("--sample %d: there are samples 0 to %d", sample, s.samples - 1);
        goto done;
    }
    if (load(&v, &s, sample, use_selected, k, &layers, &steps)) goto done;
    if (output_open(&out, html ? html : path)) goto done;
    line = command_line(argc, argv);
    what = xprintf("%s - model %s, sample %d (%s): %d of %d tokens are prefilled; %s, %d "
                   "selections",
                   line, v.run->model, sample, v.info.task, v.info.n_prefill, v.info.T,
                   use_selected ? "selected_idx" : "top k by score", v.draws);
    if (html) {
        put_html(out.f, &v, what);
    } else {
        fputs("# ", out.f);
        put_text(out.f, (const uint8_t *)what, (long)strlen(what), false);
        fputc('\n', out.f);
        put_terminal(out.f, &v, color || (out.path == NULL && isatty(1)));
    }
    rc = 0;

done:
    if (output_close(&out, rc)) rc = rc ? rc : 1;
    view_free(&v);
    dumps_close(&s);
    free(what);
    free(line);
    free(layers.v);
    free(steps.v);
    return rc;
}
