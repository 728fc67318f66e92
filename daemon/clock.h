/* The clocks of the daemon, in nanoseconds. */
#ifndef PG_DAEMON_CLOCK_H
#define PG_DAEMON_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Since the epoch: what frames are stamped with. */
static inline int64_t pg_clock_wall(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Never goes back: what durations are measured with. */
static inline uint64_t pg_clock_monotonic(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* Processor time of this process, all threads: what one thread's work is measured with beside
 * others. */
static inline uint64_t pg_clock_processor(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

#endif
