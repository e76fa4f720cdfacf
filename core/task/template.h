/* template.h - prompt templates with {name} fields, filled as Python's str.format() fills them.
 */
#ifndef CORE_TASK_TEMPLATE_H
#define CORE_TASK_TEMPLATE_H

#include "core/model/unicode.h"

struct template;

/* Takes TEXT apart: {name} is a field, "{{" and "}}" are single braces. WHERE names the file and
 * the task in messages. NULL after fail(): a brace that stands alone, a field without a name, and
 * what str.format() knows beyond names (conversions, format specifications, attributes, indices).
 */
struct template *template_parse(const char *where, const char *text);
void template_free(struct template *t); /* NULL is allowed */

/* Appends the filled template to OUT. VALUE appends the value of a field, and fails with -1; what
 * it appends is not looked at again. 0, or -1 after fail(). */
int template_fill(struct text *out, const struct template *t,
                  int (*value)(void *ctx, const char *name, struct text *out), void *ctx);

#endif
