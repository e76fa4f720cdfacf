/* chat.h - what a checkpoint's chat_template does with one user message. */
#ifndef CORE_MODEL_CHAT_H
#define CORE_MODEL_CHAT_H

#include "core/model/tokenizer.h"

/* A recognised template and the details in which templates of one format differ. */
struct chat_style {
    enum chat_format format;
    bool trim;                  /* white space around messages is dropped */
    bool bos;                   /* the text starts with the BOS token's */
    bool dates;                 /* Llama 3.1: the system message starts with two dates */
    bool before, inside, after; /* [INST]: a space before it, behind it, before [/INST] */
    char *system;               /* the system message of a chat without one, or NULL; owned */
};

/* What TEMPLATE (Jinja) is: a format's own style, or CHAT_UNKNOWN. The caller frees system. */
struct chat_style chat_recognize(const char *template);

/* The wrapped message; the caller frees it. */
char *chat_render(const struct chat_style *c, const char *system, const char *user);

#endif
