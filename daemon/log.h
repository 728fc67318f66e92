/* Logging to stderr: one line per event, JSON or text, with a limit per place that repeats itself.
 * Thread-safe. Only the daemon logs; lower layers return sentences. */
#ifndef PG_DAEMON_LOG_H
#define PG_DAEMON_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/config.h"

/* Text where stderr is a terminal, JSON lines elsewhere. Before the first call: text, level info. */
void pg_log_init(pg_verbosity level);

/* One line: "2026-01-01T00:00:00.000Z info stream=cam0: sentence" or
 * {"ts": ..., "level": ..., "stream": ..., "message": ...}. `stream` NULL or "": none. */
void pg_log(pg_verbosity level, const char *stream, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A bucket of a few lines per ten seconds, one per kind of event that a peer can cause at will. */
typedef struct pg_log_limit {
    _Atomic int64_t window;      /* ten-second window the count belongs to */
    _Atomic uint32_t count;
    _Atomic uint64_t suppressed; /* not yet told */
} pg_log_limit;

/* The same through `limit`: at most five lines in ten seconds, and the first line after that tells
 * how many were left out. */
void pg_log_limited(pg_log_limit *limit, pg_verbosity level, const char *stream,
                    const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Lines left out since the start, all limits together (parchgradd_log_suppressed_total). */
uint64_t pg_log_suppressed(void);

/* Writes `text` as the inside of a JSON string into `out`, cut to fit and always terminated;
 * returns its length. Bytes that are no UTF-8 become U+FFFD. */
size_t pg_log_json_escape(const char *text, char *out, size_t capacity);

#endif
