/* html.h - pieces of an HTML page: escaped text, light markup, data URIs. */
#ifndef PLOTS_HTML_H
#define PLOTS_HTML_H

#include <stddef.h>
#include <stdio.h>

/* Writes TEXT escaped for content and for attributes in double quotes; newlines and tabs stay,
 * other control characters become blanks, invalid UTF-8 becomes U+FFFD. */
void html_text(FILE *f, const char *text);

/* Writes BYTES in base 64. */
void html_base64(FILE *f, const void *bytes, size_t n);

/* Turns a reference, the text between {{ and }}, into a new string; NULL after fail(). */
typedef char *html_resolve(void *context, const char *reference);

/* Writes TEXT as paragraphs (a blank line ends one) of class CLASS, with `code`, **bold** and
 * {{references}}; NAME stands for the text in messages. Nothing else in TEXT has a meaning, and a
 * resolved reference has none at all. 0, or -1 after fail(): a mark that is not closed, a reference
 * that does not resolve. */
int html_markup(FILE *f, const char *name, const char *class, const char *text,
                html_resolve *resolve, void *context);

#endif
