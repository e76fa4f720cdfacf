/* test_chat.c - chat formats: recognised, and written as the templates' makers do. */
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/model/chat.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

static void official_formats_are_written(void)
{
    static const struct {
        enum chat_format format;
        const char *system, *user, *want;
    } cases[] = {
        {CHAT_LLAMA3, NULL, " hi\n", HEADER("user") "hi<|eot_id|>" HEADER("assistant")},
        {CHAT_LLAMA3, "be brief", "hi",
         HEADER("system") "be brief<|eot_id|>" HEADER("user") "hi<|eot_id|>" HEADER("assistant")},
        {CHAT_CHATML, NULL, " hi\n", "<|im_start|>user\n hi\n<|im_end|>\n<|im_start|>assistant\n"},
        {CHAT_CHATML, "be brief", "hi",
         "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {CHAT_LLAMA2, NULL, " hi\n", "[INST] hi [/INST]"},
        {CHAT_LLAMA2, "be brief", "hi", "[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST]"},
        {CHAT_MISTRAL, NULL, "hi", "[INST] hi [/INST]"},
        {CHAT_MISTRAL, "be brief", "hi", "[INST] be brief\n\nhi [/INST]"},
        {CHAT_NONE, NULL, " hi\n", " hi\n"},
        {CHAT_NONE, "be brief", "hi", "be brief\n\nhi"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *got = chat_wrap(cases[i].format, cases[i].system, cases[i].user);
        CHECK(strcmp(got, cases[i].want) == 0, "%s: \"%s\", want \"%s\"",
              chat_format_name(cases[i].format), got, cases[i].want);
        free(got);
    }
}

/* Shortened templates, each with the marks that its family is known by; what they render to was
 * worked out by hand. */
static void templates_are_recognised(void)
{
    static const struct {
        const char *template;
        enum chat_format format;
        const char *want; /* for the message " hi" */
    } cases[] = {
        {"<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>",
         CHAT_LLAMA3, HEADER("user") " hi<|eot_id|>" HEADER("assistant")},
        {"<|start_header_id|><|end_header_id|>{{ m['content'] | trim }}<|eot_id|>", CHAT_LLAMA3,
         HEADER("user") "hi<|eot_id|>" HEADER("assistant")},
        {"<|start_header_id|><|end_header_id|>Cutting Knowledge Date<|eot_id|>|trim", CHAT_LLAMA3,
         HEADER("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
                          "<|eot_id|>" HEADER("user") "hi<|eot_id|>" HEADER("assistant")},
        {"{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>'}}", CHAT_CHATML,
         "<|im_start|>user\n hi<|im_end|>\n<|im_start|>assistant\n"},
        {"'<|im_start|>system\\n' + m.content + '<|im_end|>' '<|im_start|>system\\nBe "
         "good.<|im_end|>'",
         CHAT_CHATML,
         "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n hi<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {"'<<SYS>>' '[INST] ' + content.strip() + ' [/INST]'", CHAT_LLAMA2, "[INST] hi [/INST]"},
        {"'[INST] ' + m + ' [/INST]'", CHAT_MISTRAL, "[INST]  hi [/INST]"},
        {"\" [INST] \" + m + \" [/INST]\"", CHAT_MISTRAL, " [INST]  hi [/INST]"},
        {"\"[INST] \" + m + \"[/INST]\"", CHAT_MISTRAL, "[INST]  hi[/INST]"},
        {"\"[INST]\" + m + \"[/INST]\"", CHAT_MISTRAL, "[INST] hi[/INST]"},
        {"'<|user|>' + m", CHAT_UNKNOWN, NULL},
        {"'<|im_start|>user<|im_sep|>' + m + '<|im_end|>'", CHAT_UNKNOWN, NULL},
        {"", CHAT_UNKNOWN, NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct chat_style c = chat_recognize(cases[i].template);
        CHECK(c.format == cases[i].format, "%s: %s", cases[i].template, chat_format_name(c.format));
        if (cases[i].want) {
            char *got = chat_render(&c, NULL, " hi");
            CHECK(strcmp(got, cases[i].want) == 0, "%s: \"%s\", want \"%s\"", cases[i].template,
                  got, cases[i].want);
            free(got);
        }
        free(c.system);
    }
}

static void write_file(const char *dir, const char *name, const char *text)
{
    struct output o;
    char *path = path_join(dir, name);
    if (make_parents(path) == 0 && output_open(&o, path) == 0) {
        fputs(text, o.f);
        CHECK(output_close(&o, 0) == 0, "%s", last_failure());
    }
    free(path);
}

static void checkpoints_say_their_format(void)
{
    struct tokenizer *t = tokenizer_load("configs/demo/pocket-llama");
    CHECK(t != NULL, "%s", last_failure());
    if (t) {
        CHECK(tokenizer_chat_format(t) == CHAT_LLAMA3, "the pocket model is Llama 3 style");
        char *got = tokenizer_chat_wrap(t, CHAT_LLAMA3, NULL, "hi\n");
        CHECK(strcmp(got,
                     "<|begin_of_text|>" HEADER("user") "hi\n<|eot_id|>" HEADER("assistant")) == 0,
              "%s", got); /* its template does not trim */
        free(got);
        got = tokenizer_chat_wrap(t, CHAT_MISTRAL, NULL, "hi");
        CHECK(strcmp(got, "[INST] hi [/INST]") == 0, "another format is the official one: %s", got);
        free(got);
    }
    tokenizer_free(t);

    static const char model[] = "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}";
    static const struct {
        const char *config, *jinja;
        enum chat_format format; /* -1: refused */
    } cases[] = {
        {NULL, NULL, CHAT_NONE},
        {"{}", NULL, CHAT_NONE},
        {"{\"chat_template\": \"<|im_start|><|im_end|>\"}", NULL, CHAT_CHATML},
        {"{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": "
         "\"default\", "
         "\"template\": \"<|im_start|><|im_end|>\"}]}",
         NULL, CHAT_CHATML},
        {"{\"chat_template\": \"<|im_start|><|im_end|>\"}", "'[INST] ' '[/INST]'", CHAT_MISTRAL},
        {"{\"chat_template\": \"something else\"}", NULL, CHAT_UNKNOWN},
        {"{\"chat_template\": ", NULL, (enum chat_format) - 1},
        {"[]", NULL, (enum chat_format) - 1},
    };
    mute_failures(true);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char name[16];
        snprintf(name, sizeof name, "chat%zu", i);
        const char *dir = check_scratch(name);
        write_file(dir, "tokenizer.json", model);
        if (cases[i].config) write_file(dir, "tokenizer_config.json", cases[i].config);
        if (cases[i].jinja) write_file(dir, "chat_template.jinja", cases[i].jinja);
        t = tokenizer_load(dir);
        CHECK((t == NULL) == (cases[i].format == (enum chat_format) - 1), "case %zu", i);
        if (t)
            CHECK(tokenizer_chat_format(t) == cases[i].format, "case %zu: %s", i,
                  chat_format_name(tokenizer_chat_format(t)));
        tokenizer_free(t);
    }
    enum chat_format f = CHAT_UNKNOWN;
    for (int i = CHAT_NONE; i <= CHAT_MISTRAL; i++)
        CHECK(chat_format_parse(chat_format_name((enum chat_format)i), &f) == 0 && (int)f == i,
              "format %d", i);
    CHECK(chat_format_parse("unknown", &f) != 0 && chat_format_parse("", &f) != 0, "no format");
    mute_failures(false);
}

int main(void)
{
    set_program_name("test_chat");
    official_formats_are_written();
    templates_are_recognised();
    checkpoints_say_their_format();
    return check_report("test_chat");
}
