/* Bytes as text, for pictures inside a page. */
#ifndef PG_DAEMON_BASE64_H
#define PG_DAEMON_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* RFC 4648, padded, NUL-terminated; given back with pg_free. NULL: no memory. */
char *pg_base64(const uint8_t *data, size_t size);

#endif
