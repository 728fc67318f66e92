#include "daemon/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/err.h"

static void begin(pg_json *json, const char *key) {
    if (json->filled[json->depth])
        pg_text_add(&json->text, ", ");
    json->filled[json->depth] = true;
    if (key == NULL)
        return;
    pg_text_add_json(&json->text, key);
    pg_text_add(&json->text, ": ");
}

void pg_json_open(pg_json *json, const char *key, char bracket) {
    begin(json, key);
    pg_text_add(&json->text, "%c", bracket);
    pg_assert(json->depth + 1 < PG_JSON_DEPTH);
    json->filled[++json->depth] = false;
}

void pg_json_close(pg_json *json, char bracket) {
    pg_assert(json->depth > 0);
    json->depth--;
    pg_text_add(&json->text, "%c", bracket);
}

void pg_json_string(pg_json *json, const char *key, const char *value) {
    begin(json, key);
    if (value == NULL)
        pg_text_add(&json->text, "null");
    else
        pg_text_add_json(&json->text, value);
}

void pg_json_int(pg_json *json, const char *key, int64_t value) {
    begin(json, key);
    pg_text_add(&json->text, "%" PRId64, value);
}

void pg_json_number(pg_json *json, const char *key, double value) {
    begin(json, key);
    if (isfinite(value))
        pg_text_add(&json->text, "%.9g", value);
    else
        pg_text_add(&json->text, "null");
}

void pg_json_bool(pg_json *json, const char *key, bool value) {
    begin(json, key);
    pg_text_add(&json->text, value ? "true" : "false");
}

bool pg_json_print(pg_json *json) {
    pg_assert(json->depth == 0);
    bool ok = !json->text.failed && json->text.data != NULL;
    if (ok)
        puts(json->text.data);
    pg_text_free(&json->text);
    return ok;
}
