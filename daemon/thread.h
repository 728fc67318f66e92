/* A thread that says when it is ready: start returns only after its body has opened what it needs,
 * or failed to, so that neither start nor stop is a race. */
#ifndef PG_DAEMON_THREAD_H
#define PG_DAEMON_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/err.h"

typedef struct pg_thread pg_thread;

/* Runs on the new thread: calls pg_thread_ready once set up, works until told to stop, returns.
 * An error returned before that, with its sentence in thread->diag, is what start returns. */
typedef pg_err (*pg_thread_body)(pg_thread *thread);

typedef enum pg_thread_state {
    PG_THREAD_STARTING,
    PG_THREAD_READY,
    PG_THREAD_OVER,
} pg_thread_state;

struct pg_thread {
    char name[16];         /* as ps shows it */
    int index;             /* among its kind */
    void *context;         /* what the body works on */
    _Atomic uint64_t beat; /* rises with every turn of the body's loop: proof of life */
    pg_diag diag;
    /* the module's own */
    pg_thread_body body;
    pthread_t id;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pg_thread_state state;
    pg_err err;
    bool joinable;
    /* the watchdog's notes */
    uint64_t seen_beat, seen_at;
};

/* Starts a thread; `thread` stays where it is until joined. Signals are blocked in it. */
pg_err pg_thread_start(pg_thread *thread, const char *name, int index, pg_thread_body body,
                       void *context, pg_diag *diag);
void pg_thread_ready(pg_thread *thread);

/* For a calling thread that moves messages: it and the threads it starts get the processor in short
 * slices, and therefore soon after they are woken, though others (our own workers) compute without
 * end: on busy processors a frame spent 1.5 to 2.5 ms between threads instead of 2.9 to 5.6.
 * Linux 6.12; before that nothing changes. */
void pg_thread_work_in_short_slices(void);

/* Waits for the end of the thread, at most until `deadline` (pg_clock_wall). True: it is over (or
 * was never started). */
bool pg_thread_join(pg_thread *thread, int64_t deadline);

/* True if the beat has not risen for `limit_ns`. To be called at least once a second. */
bool pg_thread_is_stuck(pg_thread *thread, uint64_t now_monotonic, uint64_t limit_ns);

#endif
