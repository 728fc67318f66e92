/* A progress bar with time left, on a terminal, for anything that takes longer than two seconds.
 * Nothing is printed where stderr is no terminal. */
#ifndef PG_DAEMON_PROGRESS_H
#define PG_DAEMON_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct pg_progress {
    const char *what;
    uint64_t started, drawn; /* ns, monotonic; drawn 0: not yet */
    bool terminal;
} pg_progress;

/* `what` ("calibrating") is borrowed. */
void pg_progress_start(pg_progress *progress, const char *what);
void pg_progress_update(pg_progress *progress, uint64_t done, uint64_t total);
/* Wipes the bar away. */
void pg_progress_end(pg_progress *progress);

/* Writes one state of the bar into `line`: "calibrating [####    ]  50 %  12 of 24, 3 s left". */
enum { PG_PROGRESS_LINE = 160 };
void pg_progress_line(const char *what, uint64_t done, uint64_t total, double seconds,
                      char line[PG_PROGRESS_LINE]);

#endif
