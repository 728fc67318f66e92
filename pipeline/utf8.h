/* UTF-8 as RFC 3629 has it: shortest form, no surrogates, up to U+10FFFF. */
#ifndef PG_PIPELINE_UTF8_H
#define PG_PIPELINE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the sequence at text, of which `left` > 0 bytes are there; 0: it is none. *code, if
 * wanted: the character. */
size_t pg_utf8_step(const uint8_t *text, size_t left, uint32_t *code);

bool pg_utf8_ok(const uint8_t *text, size_t size);

/* The same without control characters (U+0000 to U+001F, U+007F to U+009F): what may stand in a name. */
bool pg_utf8_printable(const uint8_t *text, size_t size);

#endif
