/* A configuration file is read by people and machines that must agree on every byte, so what is
 * clever in YAML is refused: anchors, aliases, tags, merge keys, complex keys, more than one
 * document. libyaml 0.2.5 has no depth limit and its cost grows with the square of the depth, so
 * events are taken one by one and parsing stops at the first one too many. */
#include "daemon/config_yaml.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "daemon/config.h"

/* What a parse carries along. */
typedef struct pg_yaml_reader {
    yaml_parser_t parser;
    pg_pool *pool;
    const char *name;
    bool option; /* name is an option: places have no line and column */
    const char *text;
    size_t size;
    int events, depth;
    pg_diag *diag;
} pg_yaml_reader;

const char *pg_yaml_quote(const char *text, char buffer[PG_YAML_QUOTE]) {
    size_t used = 0;
    buffer[used++] = '\'';
    for (; *text != '\0' && used < PG_YAML_QUOTE - 6; text++) {
        unsigned char c = (unsigned char)*text;
        buffer[used++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    if (*text != '\0') {
        /* never cut a UTF-8 sequence in two */
        while (used > 1 && ((unsigned char)buffer[used - 1] & 0xc0) == 0x80)
            used--;
        if (used > 1 && ((unsigned char)buffer[used - 1] & 0xc0) == 0xc0)
            used--;
        memcpy(buffer + used, "...", 3);
        used += 3;
    }
    buffer[used++] = '\'';
    buffer[used] = '\0';
    return buffer;
}

pg_yaml *pg_yaml_new(pg_pool *pool, pg_yaml_kind kind, const char *where) {
    pg_yaml *node = pg_pool_take(pool, sizeof *node);
    if (node == NULL)
        return NULL;
    *node = (pg_yaml){.kind = kind, .text = "", .where = where};
    return node;
}

pg_yaml *pg_yaml_get(const pg_yaml *map, const char *key) {
    for (pg_yaml *entry = map->first; entry != NULL; entry = entry->next) {
        if (entry->key != NULL && strcmp(entry->key, key) == 0)
            return entry;
    }
    return NULL;
}

void pg_yaml_put(pg_yaml *parent, pg_yaml *entry) {
    pg_yaml **link = &parent->first;
    pg_yaml *previous = NULL;
    while (*link != NULL && (entry->key == NULL || strcmp((*link)->key, entry->key) != 0)) {
        previous = *link;
        link = &(*link)->next;
    }
    if (*link == NULL) {
        parent->count++;
        if (previous != NULL)
            previous->next = entry;
        else
            parent->first = entry;
        parent->last = entry;
        entry->next = NULL;
        return;
    }
    entry->next = (*link)->next;
    if (parent->last == *link)
        parent->last = entry;
    *link = entry;
}

/* Appends without looking for a key: the parser has refused duplicates already. */
static void append(pg_yaml *parent, pg_yaml *entry) {
    if (parent->last != NULL)
        parent->last->next = entry;
    else
        parent->first = entry;
    parent->last = entry;
    parent->count++;
}

static const char *place(pg_yaml_reader *reader, yaml_mark_t mark) {
    if (reader->option)
        return reader->name;
    char tail[64];
    int n = snprintf(tail, sizeof tail, ":%zu:%zu", mark.line + 1, mark.column + 1);
    size_t name = strlen(reader->name);
    char *text = pg_pool_take(reader->pool, name + (size_t)n + 1);
    if (text == NULL)
        return NULL;
    memcpy(text, reader->name, name);
    memcpy(text + name, tail, (size_t)n);
    return text;
}

static pg_err refuse(pg_yaml_reader *reader, yaml_mark_t mark, const char *sentence) {
    if (reader->option)
        return pg_fail(reader->diag, PG_ECONFIG, "%s: %s", reader->name, sentence);
    return pg_fail(reader->diag, PG_ECONFIG, "%s:%zu:%zu: %s", reader->name, mark.line + 1,
                   mark.column + 1, sentence);
}

/* libyaml reports bytes it cannot read by offset only. */
static yaml_mark_t mark_of_offset(const pg_yaml_reader *reader, size_t offset) {
    yaml_mark_t mark = {0};
    for (size_t i = 0; i < offset && i < reader->size; i++) {
        unsigned char c = (unsigned char)reader->text[i];
        if (c == '\n') {
            mark.line++;
            mark.column = 0;
        } else if ((c & 0xc0) != 0x80) {
            mark.column++;
        }
    }
    return mark;
}

static pg_err library_error(pg_yaml_reader *reader) {
    const yaml_parser_t *parser = &reader->parser;
    char sentence[256];
    if (parser->error == YAML_MEMORY_ERROR)
        return pg_fail(reader->diag, PG_ENOMEM, "out of memory while reading %s", reader->name);
    const char *problem = parser->problem == NULL ? "not YAML" : parser->problem;
    if (parser->error == YAML_READER_ERROR) {
        snprintf(sentence, sizeof sentence, "not YAML: %s", problem);
        return refuse(reader, mark_of_offset(reader, parser->problem_offset), sentence);
    }
    if (parser->context != NULL)
        snprintf(sentence, sizeof sentence, "not YAML: %s, %s", parser->context, problem);
    else
        snprintf(sentence, sizeof sentence, "not YAML: %s", problem);
    return refuse(reader, parser->problem_mark, sentence);
}

/* The next event, within the limits; anchors, aliases and tags end here. */
static pg_err next_event(pg_yaml_reader *reader, yaml_event_t *event) {
    if (!yaml_parser_parse(&reader->parser, event))
        return library_error(reader);
    yaml_mark_t mark = event->start_mark;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    bool alias = event->type == YAML_ALIAS_EVENT;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    }
    bool directives = event->type == YAML_DOCUMENT_START_EVENT &&
                      event->data.document_start.tag_directives.start !=
                          event->data.document_start.tag_directives.end;
    const char *sentence = alias            ? "aliases are not read here; write the value out"
                           : anchor != NULL ? "anchors are not read here; write the value out"
                           : tag != NULL || directives ? "tags are not read here"
                           : ++reader->events > PG_CONFIG_MAX_EVENTS
                               ? "too many values for a configuration"
                               : NULL;
    if (sentence == NULL)
        return PG_OK;
    yaml_event_delete(event);
    return refuse(reader, mark, sentence);
}

static pg_err no_memory(pg_yaml_reader *reader) {
    return pg_fail(reader->diag, PG_ENOMEM, "out of memory while reading %s", reader->name);
}

/* Copies a scalar's text. */
static pg_err take_text(pg_yaml_reader *reader, const yaml_event_t *event, const char **out) {
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    if (memchr(value, '\0', length) != NULL)
        return refuse(reader, event->start_mark, "a string contains a NUL byte");
    *out = pg_pool_text(reader->pool, value, length);
    return *out == NULL ? no_memory(reader) : PG_OK;
}

static pg_err read_value(pg_yaml_reader *reader, yaml_event_t *event, const char *key,
                         yaml_mark_t key_mark, pg_yaml **out);

static pg_err read_list(pg_yaml_reader *reader, pg_yaml *list) {
    for (;;) {
        yaml_event_t event;
        pg_err err = next_event(reader, &event);
        if (err != PG_OK)
            return err;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return PG_OK;
        }
        pg_yaml *entry = NULL;
        err = read_value(reader, &event, NULL, event.start_mark, &entry);
        if (err != PG_OK)
            return err;
        append(list, entry);
    }
}

/* One key of a map: a scalar, not a duplicate, no merge key. Takes the event. */
static pg_err read_key(pg_yaml_reader *reader, yaml_event_t *event, const pg_yaml *map,
                       const char **out) {
    char quoted[PG_YAML_QUOTE], sentence[PG_YAML_QUOTE + 128];
    pg_err err = PG_OK;
    if (event->type != YAML_SCALAR_EVENT)
        err = refuse(reader, event->start_mark, "a key must be a plain word");
    else
        err = take_text(reader, event, out);
    if (err == PG_OK && strcmp(*out, "<<") == 0)
        err = refuse(reader, event->start_mark, "merge keys are not read here");
    const pg_yaml *twin = err == PG_OK ? pg_yaml_get(map, *out) : NULL;
    if (twin != NULL) {
        snprintf(sentence, sizeof sentence, "duplicate key %s; it is already set at %.120s",
                 pg_yaml_quote(*out, quoted), twin->key_where);
        err = refuse(reader, event->start_mark, sentence);
    }
    yaml_event_delete(event);
    return err;
}

static pg_err read_map(pg_yaml_reader *reader, pg_yaml *map) {
    for (;;) {
        yaml_event_t event;
        pg_err err = next_event(reader, &event);
        if (err != PG_OK)
            return err;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return PG_OK;
        }
        yaml_mark_t mark = event.start_mark;
        const char *key = NULL;
        err = read_key(reader, &event, map, &key);
        if (err == PG_OK)
            err = next_event(reader, &event);
        pg_yaml *entry = NULL;
        if (err == PG_OK)
            err = read_value(reader, &event, key, mark, &entry);
        if (err != PG_OK)
            return err;
        append(map, entry);
    }
}

static pg_err read_scalar(pg_yaml_reader *reader, const yaml_event_t *event, yaml_mark_t key_mark,
                          pg_yaml *node) {
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    pg_err err = take_text(reader, event, &node->text);
    if (err != PG_OK)
        return err;
    static const char *const nothing[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; node->plain && i < sizeof nothing / sizeof nothing[0]; i++) {
        if (strcmp(node->text, nothing[i]) != 0)
            continue;
        if (node->key == NULL)
            return refuse(reader, event->start_mark, "there is no value here");
        char quoted[PG_YAML_QUOTE], sentence[PG_YAML_QUOTE + 64];
        snprintf(sentence, sizeof sentence, "key %s has no value",
                 pg_yaml_quote(node->key, quoted));
        return refuse(reader, key_mark, sentence);
    }
    return PG_OK;
}

/* One value, whatever it is, starting with `event`, which is taken. Recursion ends at
 * PG_CONFIG_MAX_DEPTH. */
static pg_err read_value(pg_yaml_reader *reader, yaml_event_t *event, const char *key,
                         yaml_mark_t key_mark, pg_yaml **out) {
    yaml_event_type_t type = event->type;
    pg_yaml_kind kind = type == YAML_MAPPING_START_EVENT    ? PG_YAML_MAP
                        : type == YAML_SEQUENCE_START_EVENT ? PG_YAML_LIST
                                                            : PG_YAML_SCALAR;
    pg_yaml *node = pg_yaml_new(reader->pool, kind, place(reader, event->start_mark));
    pg_err err = node == NULL || node->where == NULL ? no_memory(reader) : PG_OK;
    if (err == PG_OK && key != NULL) {
        node->key = key;
        node->key_where = place(reader, key_mark);
        err = node->key_where == NULL ? no_memory(reader) : PG_OK;
    }
    if (err == PG_OK && kind == PG_YAML_SCALAR)
        err = read_scalar(reader, event, key_mark, node);
    if (err == PG_OK && kind != PG_YAML_SCALAR && reader->depth == PG_CONFIG_MAX_DEPTH)
        err = refuse(reader, event->start_mark, "nested deeper than 8 levels");
    yaml_event_delete(event);
    if (err == PG_OK && kind != PG_YAML_SCALAR) {
        reader->depth++;
        err = kind == PG_YAML_MAP ? read_map(reader, node) : read_list(reader, node);
        reader->depth--;
    }
    *out = node;
    return err;
}

/* stream start, document start, value, document end, stream end. */
static pg_err read_document(pg_yaml_reader *reader, pg_yaml **out) {
    yaml_event_t event;
    pg_err err = next_event(reader, &event);
    if (err != PG_OK)
        return err;
    yaml_event_delete(&event);
    err = next_event(reader, &event);
    if (err != PG_OK)
        return err;
    bool empty = event.type == YAML_STREAM_END_EVENT;
    yaml_mark_t start = event.start_mark;
    yaml_event_delete(&event);
    if (empty) {
        *out = pg_yaml_new(reader->pool, PG_YAML_MAP, place(reader, start));
        return *out == NULL || (*out)->where == NULL ? no_memory(reader) : PG_OK;
    }
    err = next_event(reader, &event);
    if (err == PG_OK)
        err = read_value(reader, &event, NULL, event.start_mark, out);
    for (int i = 0; i < 2 && err == PG_OK; i++) {
        err = next_event(reader, &event);
        if (err != PG_OK)
            return err;
        if (event.type == YAML_DOCUMENT_START_EVENT)
            err = refuse(reader, event.start_mark, "a second document is not read here");
        yaml_event_delete(&event);
    }
    return err;
}

static pg_err parse(pg_pool *pool, const char *name, bool option, const char *text, size_t size,
                    pg_yaml **out, pg_diag *diag) {
    pg_yaml_reader reader = {
        .pool = pool, .name = name, .option = option, .text = text, .size = size, .diag = diag};
    if (size > PG_CONFIG_MAX_BYTES)
        return pg_fail(diag, PG_ECONFIG, "%s%s: larger than %d KiB", name, option ? "" : ":1:1",
                       PG_CONFIG_MAX_BYTES / 1024);
    if (!yaml_parser_initialize(&reader.parser))
        return no_memory(&reader);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, size);
    pg_err err = read_document(&reader, out);
    yaml_parser_delete(&reader.parser);
    return err;
}

pg_err pg_yaml_parse(pg_pool *pool, const char *name, const char *text, size_t size, pg_yaml **out,
                     pg_diag *diag) {
    return parse(pool, name, false, text, size, out, diag);
}

pg_err pg_yaml_parse_option(pg_pool *pool, const char *option, const char *text, pg_yaml **out,
                            pg_diag *diag) {
    return parse(pool, option, true, text, strlen(text), out, diag);
}
