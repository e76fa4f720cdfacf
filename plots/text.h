/* text.h - text of tables and options made fit to be shown. */
#ifndef PLOTS_TEXT_H
#define PLOTS_TEXT_H

#define TEXT_SIZE 9.0 /* points; all text of a figure is DejaVu Sans of this size */

/* The length of the UTF-8 character at S, or 0 when there is none that XML can hold. */
int text_utf8(const unsigned char *s);

/* TEXT with invalid UTF-8 replaced by U+FFFD and control characters by blanks; caller frees. */
char *text_clean(const char *text);

/* The width of TEXT in a figure in points; an estimate by kinds of letters. */
double text_width(const char *text);

/* TEXT shortened with an ellipsis to fit WIDTH points; cleaned; the caller frees it. */
char *text_fit(const char *text, double width);

#endif
