/* A growing text, for what is printed into memory (metrics, JSON). Used again and again, it stops
 * allocating. */
#ifndef PG_DAEMON_TEXT_H
#define PG_DAEMON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Zero-initialise. `failed` sticks after memory ran out: check it once, at the end. */
typedef struct pg_text {
    char *data; /* NUL-terminated once something was added */
    size_t size, capacity;
    bool failed;
} pg_text;

void pg_text_clear(pg_text *text); /* keeps the memory */
void pg_text_free(pg_text *text);
void pg_text_add(pg_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds "..." with JSON's escapes. */
void pg_text_add_json(pg_text *text, const char *string);

#endif
