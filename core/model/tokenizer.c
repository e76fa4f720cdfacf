/* tokenizer.c - text to token ids and back: the parts of a tokenizer.json put together. */
#include "core/model/tokenizer.h"
#include "core/base/base.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/added.h"
#include "core/model/bpe.h"
#include "core/model/chat.h"
#include "core/model/decode.h"
#include "core/model/normalize.h"
#include "core/model/part.h"
#include "core/model/pretokenize.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tokenizer {
    struct bpe *model;
    struct added added;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct decoder *decoder;
    struct id_list prefix, suffix; /* what the post-processor adds */
    char *bos;                     /* text of tokenizer_config.json's bos_token, or NULL */
    struct chat_style chat;
};

/* ---- loading */

/* Appends the ids of the special token NAME of a template to IDS. */
static int template_token(struct tokenizer *t, const char *file, const cJSON *tokens,
                          const char *name, struct id_list *ids)
{
    int *list = NULL, n = 0, rc = -1;
    const cJSON *item = json_member(json_member(tokens, name), "ids");
    if (item == NULL)
        return fail(
            "%s: post_processor: special_tokens: expected \"ids\" of \"%.100s\", found none", file,
            name);
    if (json_int_list(file, item, "post_processor: special_tokens: ids", 0, TOKEN_ID_MAX, &list,
                      &n))
        return -1;
    for (int i = 0; i < n; i++) {
        if (bpe_token(t->model, list[i]).text == NULL && added_token(&t->added, list[i]) == NULL) {
            fail("%s: post_processor: \"%.100s\": id %d is no token", file, name, list[i]);
            goto done;
        }
        id_list_add(ids, list[i]);
    }
    rc = 0;

done:
    free(list);
    return rc;
}

/* TemplateProcessing's "single": special tokens around the sequence A. */
static int load_template(struct tokenizer *t, const char *file, const cJSON *item)
{
    static const char part[] = "post_processor";
    struct id_list side[2] = {0}; /* before and behind the sequence */
    int seen = 0, rc = -1;
    const cJSON *list = part_list(file, part, item, "single");

    if (list == NULL) return -1;
    for (const cJSON *c = list->child; c; c = c->next) {
        const cJSON *special = json_member(c, "SpecialToken"), *name = json_member(special, "id");
        const cJSON *sequence = json_member(json_member(c, "Sequence"), "id");
        if (cJSON_IsString(sequence) && strcmp(sequence->valuestring, "A") == 0 && seen == 0) {
            seen = 1;
        } else if (cJSON_IsString(name)) {
            if (template_token(t, file, json_member(item, "special_tokens"), name->valuestring,
                               &side[seen]))
                goto done;
        } else {
            fail("%s: %s: \"single\": expected special tokens and the sequence A once", file, part);
            goto done;
        }
    }
    if (!seen) {
        fail("%s: %s: \"single\": expected the sequence A, found none", file, part);
        goto done;
    }
    /* What an earlier processor added is part of this one's sequence. */
    for (int i = 0; i < t->prefix.n; i++) id_list_add(&side[0], t->prefix.v[i]);
    free(t->prefix.v);
    t->prefix = side[0];
    side[0] = (struct id_list){0};
    for (int i = 0; i < side[1].n; i++) id_list_add(&t->suffix, side[1].v[i]);
    rc = 0;

done:
    free(side[0].v);
    free(side[1].v);
    return rc;
}

static int load_post_processor(struct tokenizer *t, const char *file, const cJSON *item, int depth)
{
    static const char part[] = "post_processor";
    enum { TEMPLATE, BYTE_LEVEL, SEQUENCE };
    static const char *const names[] = {"TemplateProcessing", "ByteLevel", "Sequence", NULL};
    if (item == NULL) return 0;
    switch (part_type(file, part, item, names)) {
    case TEMPLATE:
        return load_template(t, file, item);
    case BYTE_LEVEL: /* moves offsets, leaves ids alone */
        return 0;
    case SEQUENCE: {
        const cJSON *list = part_list(file, part, item, "processors");
        if (list == NULL) return -1;
        if (depth == PART_DEPTH) return fail("%s: %s: nested too deeply", file, part);
        for (const cJSON *c = list->child; c; c = c->next)
            if (load_post_processor(t, file, c, depth + 1)) return -1;
        return 0;
    }
    default:
        return -1;
    }
}

/* Parses FILE, of which every string must be text that C can hold: UTF-8 without U+0000. */
static cJSON *load_text_json(const char *file)
{
    size_t size, bad;
    cJSON *root = NULL;
    char *text = file_read(file, &size);
    if (text == NULL) return NULL;
    if (!utf8_check(text, size, &bad)) {
        fail("%s: expected UTF-8, found byte 0x%02x at offset %zu", file, (unsigned char)text[bad],
             bad);
        goto done;
    }
    for (size_t i = 0; i < size; i++) {
        if (text[i] != '\\') continue;
        if (size - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0) {
            fail("%s: character U+0000 is not supported (offset %zu)", file, i);
            goto done;
        }
        i++; /* the character escaped */
    }
    root = json_parse(file, text, size);
    if (root && !cJSON_IsObject(root)) {
        fail("%s: expected an object, found %s", file, json_kind(root));
        cJSON_Delete(root);
        root = NULL;
    }

done:
    free(text);
    return root;
}

static int load_tokenizer(struct tokenizer *t, const char *file)
{
    const char *version = "1.0";
    struct matcher m;
    int rc = -1;
    cJSON *root = load_text_json(file);

    if (root == NULL) return -1;
    matcher_open(&m);
    if (json_string(file, root, "version", &version)) goto done;
    if (strcmp(version, "1.0") != 0) {
        fail("%s: \"version\": expected \"1.0\", found \"%.100s\"", file, version);
        goto done;
    }
    if (json_member(root, "model") == NULL) {
        fail("%s: expected a \"model\", found none", file);
        goto done;
    }
    if ((t->model = bpe_load(file, json_member(root, "model"))) == NULL ||
        (t->normalizer = normalizer_load(file, json_member(root, "normalizer"))) == NULL ||
        (t->pretokenizer = pretokenizer_load(file, json_member(root, "pre_tokenizer"))) == NULL ||
        (t->decoder = decoder_load(file, json_member(root, "decoder"),
                                   pretokenizer_spells_bytes(t->pretokenizer))) == NULL ||
        added_load(&t->added, file, json_member(root, "added_tokens"), t->model, t->normalizer, &m))
        goto done;
    if (load_post_processor(t, file, json_member(root, "post_processor"), 0)) goto done;
    rc = 0;

done:
    matcher_close(&m);
    cJSON_Delete(root);
    return rc;
}

/* The template of a chat_template member: a string, or a list of named ones of which "default"
 * counts. NULL when there is none. */
static const char *template_text(const cJSON *item)
{
    if (cJSON_IsString(item)) return item->valuestring;
    if (!cJSON_IsArray(item)) return NULL;
    for (const cJSON *c = item->child; c; c = c->next) {
        const cJSON *name = json_member(c, "name"), *text = json_member(c, "template");
        if (cJSON_IsString(name) && strcmp(name->valuestring, "default") == 0 &&
            cJSON_IsString(text))
            return text->valuestring;
    }
    return NULL;
}

static int load_config(struct tokenizer *t, const char *file, const char *jinja)
{
    size_t size;
    char *own = NULL;
    cJSON *root = NULL;
    const char *template = NULL;
    int rc = -1;

    if (access(file, F_OK) == 0) {
        if ((root = load_text_json(file)) == NULL) goto done;
        const cJSON *bos = json_member(root, "bos_token");
        if (cJSON_IsObject(bos)) bos = json_member(bos, "content");
        if (cJSON_IsString(bos)) t->bos = xstrdup(bos->valuestring);
        template = template_text(json_member(root, "chat_template"));
    }
    if (access(jinja, F_OK) == 0) {
        if ((own = file_read(jinja, &size)) == NULL) goto done;
        template = own;
    }
    t->chat = template ? chat_recognize(template) : (struct chat_style){.format = CHAT_NONE};
    rc = 0;

done:
    cJSON_Delete(root);
    free(own);
    return rc;
}

struct tokenizer *tokenizer_load(const char *dir)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    char *file = path_join(dir, "tokenizer.json");
    char *config = path_join(dir, "tokenizer_config.json");
    char *jinja = path_join(dir, "chat_template.jinja");
    if (load_tokenizer(t, file) || load_config(t, config, jinja)) {
        tokenizer_free(t);
        t = NULL;
    }
    free(file);
    free(config);
    free(jinja);
    return t;
}

void tokenizer_free(struct tokenizer *t)
{
    if (t == NULL) return;
    bpe_free(t->model);
    added_free(&t->added);
    normalizer_free(t->normalizer);
    pretokenizer_free(t->pretokenizer);
    decoder_free(t->decoder);
    free(t->prefix.v);
    free(t->suffix.v);
    free(t->bos);
    free(t->chat.system);
    free(t);
}

/* ---- encoding */

struct encoder {
    const struct tokenizer *t;
    struct matcher matcher;
    struct bpe_work work;
    struct text *buffer; /* of the pre-tokenizer */
    struct text normal;  /* the normalised text between two added tokens */
    struct id_list ids;
};

static int take_word(void *to, const char *s, size_t n)
{
    struct encoder *e = to;
    if (e->ids.n > INT_MAX / 2) return fail("the text has more than %d tokens", INT_MAX / 2);
    return bpe_encode(e->t->model, &e->work, s, n, &e->ids);
}

/* A text without added tokens that are matched as they are given: normalised, then searched for
 * those matched in normal form, and what is left is cut into words. AT_START: it starts where the
 * whole text does. */
static int encode_plain(struct encoder *e, const char *s, size_t n, bool at_start)
{
    const struct tokenizer *t = e->t;
    const struct word_sink sink = {take_word, e};
    const struct added_token *found;
    size_t at = 0, from = 0, to = 0, taken = 0;
    bool cut = false;

    if (!normalizer_is_empty(t->normalizer)) {
        e->normal.n = 0;
        if (normalizer_run(t->normalizer, &e->matcher, s, n, &e->normal, &cut)) return -1;
        s = e->normal.s;
        n = e->normal.n;
        at_start = at_start && !cut;
    }
    do {
        found = added_next(&t->added, true, s, n, &at, taken, &from, &to);
        const size_t end = found ? from : n;
        if (taken < end && pretokenizer_run(t->pretokenizer, &e->matcher, e->buffer, s + taken,
                                            end - taken, at_start && taken == 0, sink))
            return -1;
        if (found) id_list_add(&e->ids, found->id);
        taken = to;
    } while (found);
    return 0;
}

static int encode_text(struct encoder *e, const char *s, size_t n)
{
    const struct added_token *found;
    size_t at = 0, from = 0, to = 0, taken = 0;
    do {
        found = added_next(&e->t->added, false, s, n, &at, taken, &from, &to);
        const size_t end = found ? from : n;
        if (taken < end && encode_plain(e, s + taken, end - taken, taken == 0)) return -1;
        if (found) id_list_add(&e->ids, found->id);
        taken = to;
    } while (found);
    return 0;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t size, bool special,
                     int **ids, int *n)
{
    struct encoder e = {.t = t};
    size_t bad;
    int rc = -1, same = 0;

    if (!utf8_check(text, size, &bad))
        return fail("text: expected UTF-8, found byte 0x%02x at offset %zu",
                    (unsigned char)text[bad], bad);
    matcher_open(&e.matcher);
    e.buffer = xcalloc((size_t)pretokenizer_buffers(t->pretokenizer) + 1, sizeof *e.buffer);
    if (encode_text(&e, text, size)) goto done;

    if (special) { /* what the text itself starts with is not put there again */
        struct id_list all = {0};
        while (same < e.ids.n && same < t->prefix.n && e.ids.v[same] == t->prefix.v[same]) same++;
        for (int i = 0; i < t->prefix.n; i++) id_list_add(&all, t->prefix.v[i]);
        for (int i = same; i < e.ids.n; i++) id_list_add(&all, e.ids.v[i]);
        for (int i = 0; i < t->suffix.n; i++) id_list_add(&all, t->suffix.v[i]);
        free(e.ids.v);
        e.ids = all;
    }
    *ids = e.ids.v ? e.ids.v : xmalloc(sizeof **ids);
    *n = e.ids.n;
    e.ids.v = NULL;
    rc = 0;

done:
    for (int i = 0; i < pretokenizer_buffers(t->pretokenizer); i++) free(e.buffer[i].s);
    free(e.buffer);
    free(e.normal.s);
    free(e.ids.v);
    bpe_work_free(&e.work);
    matcher_close(&e.matcher);
    return rc;
}

/* ---- decoding */

char *tokenizer_decode(const struct tokenizer *t, const int *ids, int n, bool skip_special,
                       size_t *size, int *ends)
{
    struct text out = {0};
    struct matcher m;
    size_t start, stop;
    int index = 0;

    matcher_open(&m);
    text_room(&out, 1);
    for (int i = 0; i < n; i++) {
        const struct added_token *added = added_token(&t->added, ids[i]);
        /* One that was found in normalised text is what it looked like there. */
        struct token token = bpe_token(t->model, ids[i]);
        if (added)
            token = added->match_n ? (struct token){added->match, added->match_n}
                                   : (struct token){added->text, added->n};
        if (token.text == NULL) {
            fail("token id %d: expected a token of the vocabulary, which ends at %d", ids[i],
                 tokenizer_vocab_size(t) - 1);
            goto failed;
        }
        if (!(skip_special && added && added->special) &&
            decoder_token(t->decoder, &m, token.text, token.n, index++, added && added->own, &out))
            goto failed;
        if (out.n > INT_MAX) {
            fail("the text of %d tokens has more than %d bytes", n, INT_MAX);
            goto failed;
        }
        if (ends) ends[i] = (int)out.n;
    }
    decoder_ends(t->decoder, out.s, out.n, &start, &stop);
    out.n -= start + stop;
    memmove(out.s, out.s + start, out.n);
    for (int i = 0; ends && i < n; i++) {
        ends[i] = ends[i] > (int)start ? ends[i] - (int)start : 0;
        if (ends[i] > (int)out.n) ends[i] = (int)out.n;
    }
    text_add(&out, "", 1);
    *size = out.n - 1;
    matcher_close(&m);
    return out.s;

failed:
    matcher_close(&m);
    free(out.s);
    return NULL;
}

size_t utf8_whole(const char *text, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char c = (unsigned char)text[n - back];
        if (c < 0x80) return n;
        if (c < 0xc0) continue; /* inside a character: its first byte stands further left */
        const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        return length > back ? n - back : n;
    }
    return n;
}

/* ---- questions */

int tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->added.size > bpe_size(t->model) ? t->added.size : bpe_size(t->model);
}

int tokenizer_token_id(const struct tokenizer *t, const char *token)
{
    for (int i = 0; i < t->added.n; i++)
        if (strcmp(t->added.token[i].text, token) == 0) return t->added.token[i].id;
    return bpe_find(t->model, token, strlen(token));
}

int tokenizer_bos(const struct tokenizer *t)
{
    return t->prefix.n > 0 ? t->prefix.v[0] : -1;
}

enum chat_format tokenizer_chat_format(const struct tokenizer *t)
{
    return t->chat.format;
}

char *tokenizer_chat_wrap(const struct tokenizer *t, enum chat_format f, const char *system,
                          const char *user)
{
    if (f != t->chat.format) return chat_wrap(f, system, user);
    char *text = chat_render(&t->chat, system, user);
    if (!t->chat.bos || t->bos == NULL) return text;
    char *all = xprintf("%s%s", t->bos, text);
    free(text);
    return all;
}
