/* Writes JSON: puts the commas, escapes strings, and turns numbers JSON has no word for into null.
 */
#ifndef PG_DAEMON_JSON_H
#define PG_DAEMON_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/text.h"

enum { PG_JSON_DEPTH = 16 };

/* Zero-initialise; text is given back with pg_text_free, or by pg_json_print. */
typedef struct pg_json {
    pg_text text;
    int depth;
    bool filled[PG_JSON_DEPTH]; /* something stands on this level already */
} pg_json;

/* In all of these `key` is NULL inside a list. */
void pg_json_open(pg_json *json, const char *key, char bracket);        /* '{' or '[' */
void pg_json_close(pg_json *json, char bracket);                        /* '}' or ']' */
void pg_json_string(pg_json *json, const char *key, const char *value); /* NULL: null */
void pg_json_int(pg_json *json, const char *key, int64_t value);
void pg_json_number(pg_json *json, const char *key, double value);
void pg_json_bool(pg_json *json, const char *key, bool value);

/* Prints the object on stdout with a newline and frees the text; false: memory ran out. */
bool pg_json_print(pg_json *json);

#endif
