#include "daemon/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/clock.h"

static const uint64_t patience_ns = UINT64_C(2000000000), redraw_ns = UINT64_C(100000000);

void pg_progress_start(pg_progress *progress, const char *what) {
    *progress = (pg_progress){
        .what = what, .started = pg_clock_monotonic(), .terminal = isatty(STDERR_FILENO) == 1};
}

/* "42 s", "3 min 05 s", "2 h 10 min" */
static void duration(double seconds, char text[32]) {
    uint64_t s = seconds > 359999 ? 359999 : (uint64_t)(seconds + 0.5);
    if (s < 60)
        snprintf(text, 32, "%" PRIu64 " s", s);
    else if (s < 3600)
        snprintf(text, 32, "%" PRIu64 " min %02" PRIu64 " s", s / 60, s % 60);
    else
        snprintf(text, 32, "%" PRIu64 " h %02" PRIu64 " min", s / 3600, s / 60 % 60);
}

void pg_progress_line(const char *what, uint64_t done, uint64_t total, double seconds,
                      char line[PG_PROGRESS_LINE]) {
    enum { WIDTH = 24 };
    double share = total == 0 ? 0 : (double)done / (double)total;
    share = share > 1 ? 1 : share;
    char bar[WIDTH + 1], left[32] = "";
    memset(bar, ' ', WIDTH);
    memset(bar, '#', (size_t)(share * WIDTH));
    bar[WIDTH] = '\0';
    if (done > 0)
        duration(seconds * (1 - share) / (share > 0 ? share : 1), left);
    snprintf(line, PG_PROGRESS_LINE, "%.40s [%s] %3.0f %%  %" PRIu64 " of %" PRIu64 "%s%s%s", what,
             bar, 100 * share, done, total, done > 0 ? ", " : "", left, done > 0 ? " left" : "");
}

void pg_progress_update(pg_progress *progress, uint64_t done, uint64_t total) {
    uint64_t now = pg_clock_monotonic();
    if (!progress->terminal || now - progress->started < patience_ns ||
        (progress->drawn != 0 && now - progress->drawn < redraw_ns))
        return;
    progress->drawn = now;
    char line[PG_PROGRESS_LINE];
    pg_progress_line(progress->what, done, total, (double)(now - progress->started) * 1e-9, line);
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
}

void pg_progress_end(pg_progress *progress) {
    if (progress->drawn != 0)
        fputs("\r\033[K", stderr);
    progress->drawn = 0;
}
