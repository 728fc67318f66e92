/* Left to itself, libgomp lets a thread that has come to the end of its share spin for some ten
 * milliseconds before it sleeps. Where other programs use the processors too, the thread it waits
 * for may not be running, and every one of the hundreds of loops in a frame then burns the
 * processor the other one wants. MobileNetV2, two threads, on two cores that 20 processes wanted:
 * 100 ms a frame with 200 spins, 102 with none, 117 with 1000, 164 with 3000; as libgomp has it, no
 * round of it ended within 40 s. ResNet-18 was ready in 0.9 s instead of 2.6.
 *
 * On idle processors a thread that has gone to sleep must be woken again: MobileNetV2's forward
 * pass took 7.8 ms with 200 spins, 4.2 with 2000 or more, ResNet-50's 35.5 and 30.3. So 2000 it is:
 * as fast as can be where nobody else is, half as fast again as the best where twenty others are.
 *
 * Who sleeps is woken by the other thread, and Linux may put it on that one's processor though its
 * own is idle: on two cores it does not look for an idle one once they are busy for more than some
 * 60 %. There the two take turns, and stay: half of MobileNetV2's forward passes in serve took 11
 * ms instead of 4. So each thread has a share of the processors to itself (engine.pin: apart): a
 * frame's computing 20.3 -> 10.6 ms, beside one other busy program 27.9 -> 22.6, beside two 27.7
 * -> 26.4.
 *
 * libgomp reads its environment before main, so the only way to tell it is to begin again. */
#include "daemon/team_start.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

/* Whether the environment has become another. */
static bool put(const char *name, const char *value) {
    return getenv(name) == NULL && setenv(name, value, 1) == 0;
}

static bool put_wait(pg_team_wait wait) {
    return wait == PG_TEAM_WAIT_BRIEF && getenv("OMP_WAIT_POLICY") == NULL &&
           put("GOMP_SPINCOUNT", "2000"); /* 30 to 100 microseconds, by the processor's pause */
}

static bool put_places(pg_team_pin pin, int threads) {
    char places[PG_TEAM_PLACES_MAX];
    return pin == PG_TEAM_PIN_APART && getenv("OMP_PROC_BIND") == NULL &&
           getenv("OMP_PLACES") == NULL && pg_team_places(threads, places) &&
           put("OMP_PLACES", places) && put("OMP_PROC_BIND", "close");
}

void pg_team_start(pg_team_wait wait, pg_team_pin pin, int threads, char **argv) {
    bool waits = put_wait(wait), places = put_places(pin, threads);
    char path[PATH_MAX]; /* not the link itself: the process would be called "exe" */
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (!(waits || places) || length < 0)
        return;
    path[length] = '\0';
    pg_team_unbind();
    execv(path, argv);
}
