/* text.c - text of tables and options made fit to be shown. */
#include "plots/text.h"
#include "core/base/base.h"

#include <stdlib.h>
#include <string.h>

int text_utf8(const unsigned char *s)
{
    int n = *s < 0x80 ? 1 : *s >= 0xC2 && *s < 0xE0 ? 2 : (*s & 0xF0) == 0xE0 ? 3 : 4;
    unsigned code = n == 1 ? *s : *s & (0x7Fu >> n);
    if ((*s >= 0x80 && *s < 0xC2) || *s > 0xF4) return 0;
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        code = code << 6 | (s[i] & 0x3F);
    }
    if (n == 3 && (code < 0x800 || (code >= 0xD800 && code < 0xE000) || code >= 0xFFFE)) return 0;
    if (n == 4 && (code < 0x10000 || code > 0x10FFFF)) return 0;
    return n;
}

char *text_clean(const char *text)
{
    char *clean = xmalloc(3 * strlen(text) + 1), *out = clean;
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        int n = text_utf8(s);
        if (n == 0) {
            out = stpcpy(out, "\xEF\xBF\xBD");
            s++;
        } else if (*s < 0x20 || *s == 0x7F) {
            *out++ = ' ';
            s++;
        } else {
            while (n--) *out++ = (char)*s++;
        }
    }
    *out = 0;
    return clean;
}

/* Widths of DejaVu Sans, in hundredths of its size, by kinds of letters. */
static double letter_width(unsigned char c)
{
    if (c >= 0x80) return c >= 0xC0 ? 65 : 0; /* counted at the first byte of a character */
    if (strchr("ijl.,:;'|! ", c)) return 32;
    if (strchr("frtI()[]-/\"", c)) return 40;
    if (strchr("mwMWO@%Q", c)) return 90;
    if (strchr("+=<>~#_&", c)) return 80;
    return c >= 'A' && c <= 'Z' ? 69 : 63;
}

double text_width(const char *text)
{
    double w = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) w += letter_width(*s);
    return w * TEXT_SIZE / 100;
}

char *text_fit(const char *text, double width)
{
    char *fit = text_clean(text);
    size_t n = strlen(fit);
    if (text_width(fit) <= width) return fit;
    do { /* one character less, until the ellipsis fits too */
        while (n > 0 && ((unsigned char)fit[--n] & 0xC0) == 0x80) continue;
        fit[n] = 0;
    } while (n > 0 && text_width(fit) + TEXT_SIZE > width);
    char *cut = xprintf("%s\xE2\x80\xA6", fit);
    free(fit);
    return cut;
}
