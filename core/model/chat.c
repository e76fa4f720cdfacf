/* chat.c - chat formats: recognised from a template's text, and written out for one message. */
#include "core/model/chat.h"
#include "core/base/base.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [CHAT_UNKNOWN] = "unknown", [CHAT_NONE] = "none",     [CHAT_LLAMA3] = "llama3",
    [CHAT_CHATML] = "chatml",   [CHAT_LLAMA2] = "llama2", [CHAT_MISTRAL] = "mistral",
};

const char *chat_format_name(enum chat_format f)
{
    return names[f];
}

int chat_format_parse(const char *name, enum chat_format *f)
{
    for (int i = CHAT_NONE; i <= CHAT_MISTRAL; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *f = (enum chat_format)i;
        return 0;
    }
    return fail("chat format: expected llama3, chatml, llama2, mistral or none, found \"%.100s\"",
                name);
}

/* How the model's makers wrap a message in format F. */
static struct chat_style chat_official(enum chat_format f)
{
    return (struct chat_style){
        .format = f,
        .trim = f == CHAT_LLAMA3 || f == CHAT_LLAMA2,
        .inside = true,
        .after = true,
    };
}

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* Whether PART stands in the template as the start of a string literal. */
static bool has_literal(const char *text, const char *part)
{
    const size_t n = strlen(part);
    for (const char *p = text; (p = strstr(p, part)) != NULL; p += n)
        if (p > text && (p[-1] == '\'' || p[-1] == '"')) return true;
    return false;
}

/* The system message that a ChatML template writes out itself: literal text between the two
 * tokens. The newline behind the role is a real one or Jinja's two characters. */
static char *default_system(const char *template)
{
    static const char head[] = "<|im_start|>system", tail[] = "<|im_end|>";
    for (const char *p = template; (p = strstr(p, head)) != NULL;) {
        p += sizeof head - 1;
        const char *from = *p == '\n' ? p + 1 : p[0] == '\\' && p[1] == 'n' ? p + 2 : NULL;
        const char *to = from ? strstr(from, tail) : NULL;
        if (to == NULL || to == from) continue;
        const size_t n = (size_t)(to - from);
        if (strcspn(from, "'\"{}\\") < n) continue; /* pieced together: not a fixed text */
        return xprintf("%.*s", (int)n, from);
    }
    return NULL;
}

struct chat_style chat_recognize(const char *t)
{
    struct chat_style c = {.format = CHAT_UNKNOWN};
    if (has(t, "<|start_header_id|>") && has(t, "<|end_header_id|>") && has(t, "<|eot_id|>"))
        c.format = CHAT_LLAMA3;
    else if (has(t, "<|im_start|>") && has(t, "<|im_end|>") && !has(t, "<|im_sep|>"))
        c.format = CHAT_CHATML;
    else if (has(t, "[INST]") && has(t, "[/INST]") && !has(t, "[SYSTEM_PROMPT]"))
        c.format = has(t, "<<SYS>>") ? CHAT_LLAMA2 : CHAT_MISTRAL;
    if (c.format == CHAT_UNKNOWN) return c;

    c.bos = has(t, "bos_token");
    c.trim = has(t, "| trim") || has(t, "|trim");
    if (c.format == CHAT_LLAMA3) c.dates = has(t, "Cutting Knowledge Date");
    if (c.format == CHAT_CHATML) c.system = default_system(t);
    if (c.format == CHAT_LLAMA2) c.trim = c.trim || has(t, ".strip()");
    if (c.format == CHAT_LLAMA2 || c.format == CHAT_MISTRAL) {
        c.before = has_literal(t, " [INST]");
        c.inside = has(t, "[INST] ");
        c.after = has_literal(t, " [/INST]");
    }
    return c;
}

/* S with white space dropped at its ends when TRIM; the caller frees it. */
static char *trimmed(const char *s, bool trim)
{
    size_t n = strlen(s);
    while (trim && n > 0 && isspace((unsigned char)*s)) s++, n--;
    while (trim && n > 0 && isspace((unsigned char)s[n - 1])) n--;
    char *copy = xmalloc(n + 1);
    memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

/* Llama 3: headers around roles. Llama 3.1's template dates every chat; where no clock is given to
 * it, today is the day of its release. */
static char *render_llama3(const struct chat_style *c, const char *system, const char *user)
{
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
    char *head = c->dates ? xprintf(HEADER("system") "Cutting Knowledge Date: December 2023\n"
                                                     "Today Date: 26 Jul 2024\n\n%s<|eot_id|>",
                                    system ? system : "")
                 : system ? xprintf(HEADER("system") "%s<|eot_id|>", system)
                          : xstrdup("");
    char *all = xprintf("%s" HEADER("user") "%s<|eot_id|>" HEADER("assistant"), head, user);
#undef HEADER
    free(head);
    return all;
}

static char *render_chatml(const char *system, const char *user)
{
    return xprintf("%s%s%s<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
                   system ? "<|im_start|>system\n" : "", system ? system : "",
                   system ? "<|im_end|>\n" : "", user);
}

/* Llama 2 puts a marked system message into the first turn and strips the whole turn; Mistral puts
 * it in front of the user's words. */
static char *render_inst(const struct chat_style *c, const char *system, const char *user)
{
    const bool marked = c->format == CHAT_LLAMA2;
    char *turn = system ? xprintf(marked ? "<<SYS>>\n%s\n<</SYS>>\n\n%s" : "%s\n\n%s", system, user)
                        : xstrdup(user);
    char *content = trimmed(turn, c->trim);
    char *all = xprintf("%s[INST]%s%s%s[/INST]", c->before ? " " : "", c->inside ? " " : "",
                        content, c->after ? " " : "");
    free(content);
    free(turn);
    return all;
}

char *chat_render(const struct chat_style *c, const char *system, const char *user)
{
    const bool inst = c->format == CHAT_LLAMA2 || c->format == CHAT_MISTRAL;
    if (system == NULL) system = c->system;
    if (inst) return render_inst(c, system, user);

    char *s = system ? trimmed(system, c->trim) : NULL, *u = trimmed(user, c->trim), *all;
    if (c->format == CHAT_LLAMA3)
        all = render_llama3(c, s, u);
    else if (c->format == CHAT_CHATML)
        all = render_chatml(s, u);
    else /* no format: the words alone */
        all = xprintf("%s%s%s", s ? s : "", s ? "\n\n" : "", u);
    free(s);
    free(u);
    return all;
}

char *chat_wrap(enum chat_format f, const char *system, const char *user)
{
    const struct chat_style c = chat_official(f);
    return chat_render(&c, system, user);
}
