#include "daemon/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "pipeline/utf8.h"

enum { LINE_MAX_BYTES = 4096, WINDOW_SECONDS = 10, LINES_PER_WINDOW = 5 };

static _Atomic int log_level = PG_VERBOSITY_INFO;
static _Atomic bool log_json;
static _Atomic uint64_t total_suppressed;
static const char *const level_names[] = {"error", "warning", "info", "debug"};

void pg_log_init(pg_verbosity level) {
    atomic_store(&log_level, (int)level);
    atomic_store(&log_json, isatty(STDERR_FILENO) == 0);
}

size_t pg_log_json_escape(const char *text, char *out, size_t capacity) {
    const uint8_t *s = (const uint8_t *)text, *end = s + strlen(text);
    size_t used = 0;
    while (s < end) {
        char piece[8];
        size_t step = pg_utf8_step(s, (size_t)(end - s), NULL), n = 0;
        if (step == 0) {
            step = 1;
            n = (size_t)snprintf(piece, sizeof piece, "\xef\xbf\xbd");
        } else if (*s == '"' || *s == '\\') {
            n = (size_t)snprintf(piece, sizeof piece, "\\%c", *s);
        } else if (*s < 0x20 || *s == 0x7f) {
            n = (size_t)snprintf(piece, sizeof piece, "\\u%04x", *s);
        } else {
            memcpy(piece, s, step);
            n = step;
        }
        if (used + n + 1 > capacity)
            break;
        memcpy(out + used, piece, n);
        used += n;
        s += step;
    }
    if (capacity > 0)
        out[used] = '\0';
    return used;
}

static void stamp(char *out, size_t capacity) {
    int64_t now = pg_clock_wall();
    time_t seconds = (time_t)(now / 1000000000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    size_t n = strftime(out, capacity, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + n, capacity - n, ".%03dZ", (int)(now / 1000000 % 1000));
}

/* One write per line, so that lines of several threads do not mix. */
static void put_line(pg_verbosity level, const char *stream, const char *message) {
    char when[40], line[2 * LINE_MAX_BYTES], text[LINE_MAX_BYTES], name[512];
    stamp(when, sizeof when);
    bool named = stream != NULL && stream[0] != '\0';
    pg_log_json_escape(message, text, sizeof text);
    pg_log_json_escape(named ? stream : "", name, sizeof name);
    int n;
    if (atomic_load(&log_json))
        n = snprintf(line, sizeof line, "{\"ts\": \"%s\", \"level\": \"%s\"%s%s%s, \"message\": \"%s\"}\n",
                     when, level_names[level], named ? ", \"stream\": \"" : "", name,
                     named ? "\"" : "", text);
    else
        n = snprintf(line, sizeof line, "%s %s%s%s: %s\n", when, level_names[level],
                     named ? " stream=" : "", name, message);
    size_t size = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (size > 0)
        line[size - 1] = '\n';
    ssize_t written = write(STDERR_FILENO, line, size);
    (void)written; /* nobody is left to tell */
}

static void put_formatted(pg_verbosity level, const char *stream, const char *format, va_list args) {
    char message[LINE_MAX_BYTES];
    vsnprintf(message, sizeof message, format, args);
    put_line(level, stream, message);
}

void pg_log(pg_verbosity level, const char *stream, const char *format, ...) {
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    va_list args;
    va_start(args, format);
    put_formatted(level, stream, format, args);
    va_end(args);
}

void pg_log_limited(pg_log_limit *limit, pg_verbosity level, const char *stream,
                    const char *format, ...) {
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    int64_t window = 1 + pg_clock_wall() / (INT64_C(1000000000) * WINDOW_SECONDS);
    if (atomic_exchange(&limit->window, window) != window)
        atomic_store(&limit->count, 0);
    if (atomic_fetch_add(&limit->count, 1) >= LINES_PER_WINDOW) {
        atomic_fetch_add(&limit->suppressed, 1);
        atomic_fetch_add(&total_suppressed, 1);
        return;
    }
    uint64_t left_out = atomic_exchange(&limit->suppressed, 0);
    if (left_out > 0)
        pg_log(level, NULL, "%llu more lines like the next one were left out",
               (unsigned long long)left_out);
    va_list args;
    va_start(args, format);
    put_formatted(level, stream, format, args);
    va_end(args);
}

uint64_t pg_log_suppressed(void) { return atomic_load(&total_suppressed); }
