/* html.c - pieces of an HTML page. */
#include "plots/html.h"
#include "core/base/base.h"
#include "plots/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void put(FILE *f, const char *text, size_t n)
{
    for (size_t i = 0; i < n && text[i];) {
        const unsigned char c = (unsigned char)text[i];
        int length = text_utf8((const unsigned char *)text + i);
        if (length == 0) {
            fputs("&#65533;", f);
            i++;
            continue;
        }
        if (c == '&')
            fputs("&amp;", f);
        else if (c == '<')
            fputs("&lt;", f);
        else if (c == '>')
            fputs("&gt;", f);
        else if (c == '"')
            fputs("&quot;", f);
        else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
            fputc(' ', f);
        else
            fwrite(text + i, 1, (size_t)length, f);
        i += (size_t)length;
    }
}

void html_text(FILE *f, const char *text)
{
    put(f, text, strlen(text));
}

void html_base64(FILE *f, const void *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v = (uint32_t)b[i] << 16 | (left > 1 ? (uint32_t)b[i + 1] << 8 : 0) |
                     (left > 2 ? b[i + 2] : 0);
        fputc(digits[v >> 18], f);
        fputc(digits[v >> 12 & 63], f);
        fputc(left > 1 ? digits[v >> 6 & 63] : '=', f);
        fputc(left > 2 ? digits[v & 63] : '=', f);
    }
}

static int put_reference(FILE *f, const char *name, const char *reference, size_t n,
                         html_resolve *resolve, void *context)
{
    char *key = xprintf("%.*s", (int)n, reference);
    char *value = resolve ? resolve(context, key) : NULL;
    int rc = value ? 0 : -1;
    if (resolve == NULL) fail("%s: no {{reference}} can stand here", name);
    if (value) html_text(f, value);
    free(value);
    free(key);
    return rc;
}

/* One paragraph of N bytes: marks are closed within it. */
static int put_paragraph(FILE *f, const char *name, const char *class, const char *text, size_t n,
                         html_resolve *resolve, void *context)
{
    static const struct {
        const char *open, *close, *before, *after;
    } marks[] = {{"{{", "}}", "", ""},
                 {"`", "`", "<code>", "</code>"},
                 {"**", "**", "<strong>", "</strong>"}};
    const char *end = text + n;

    fprintf(f, "<p class=\"%s\">", class);
    while (text < end) {
        size_t m = 0;
        while (m < COUNT_OF(marks) && strncmp(text, marks[m].open, strlen(marks[m].open)) != 0) m++;
        if (m == COUNT_OF(marks)) {
            int length = text_utf8((const unsigned char *)text);
            put(f, text, (size_t)(length ? length : 1));
            text += length ? length : 1;
            continue;
        }
        const char *inside = text + strlen(marks[m].open);
        const char *close =
            memmem(inside, (size_t)(end - inside), marks[m].close, strlen(marks[m].close));
        if (close == NULL)
            return fail("%s: \"%s\" is not closed: %.40s", name, marks[m].open, text);
        fputs(marks[m].before, f);
        for (const char *p = inside; p < close;) { /* references stand in code and bold, too */
            const char *next = memmem(p, (size_t)(close - p), "{{", 2);
            const char *stop = m && next ? memmem(next, (size_t)(close - next), "}}", 2) : NULL;
            if (m == 0) {
                if (put_reference(f, name, p, (size_t)(close - p), resolve, context)) return -1;
                break;
            }
            if (stop == NULL) {
                put(f, p, (size_t)(close - p));
                break;
            }
            put(f, p, (size_t)(next - p));
            if (put_reference(f, name, next + 2, (size_t)(stop - next - 2), resolve, context))
                return -1;
            p = stop + 2;
        }
        fputs(marks[m].after, f);
        text = close + strlen(marks[m].close);
    }
    fputs("</p>\n", f);
    return 0;
}

int html_markup(FILE *f, const char *name, const char *class, const char *text,
                html_resolve *resolve, void *context)
{
    while (*text) {
        text += strspn(text, "\n");
        const char *end = strstr(text, "\n\n");
        size_t n = end ? (size_t)(end - text) : strlen(text);
        if (n && put_paragraph(f, name, class, text, n, resolve, context)) return -1;
        text += n;
    }
    return 0;
}
