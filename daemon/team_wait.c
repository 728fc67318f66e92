/* Left to itself, libgomp lets a thread that has come to the end of its share spin for some ten
 * milliseconds before it sleeps. On idle processors the others arrive within microseconds, and
 * whether a thread then spins or sleeps makes no difference that we could measure. On processors
 * that others use too, the thread it waits for may not be running, and every one of the hundreds of
 * loops in a frame then burns the processor the other one wants: MobileNetV2 on two cores that 20
 * processes wanted took about a second a frame instead of a tenth of one (100 ms with 200 spins, 117
 * with 1000, 164 with 3000, 102 with none), and loading a model two to three times as long.
 *
 * libgomp reads its environment before main, so the only way to tell it is to begin again. */
#include "daemon/team_wait.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

void pg_team_wait_set(pg_team_wait wait, char **argv) {
    static const char variable[] = "GOMP_SPINCOUNT", spins[] = "200"; /* about ten microseconds */
    if (wait != PG_TEAM_WAIT_BRIEF || getenv("OMP_WAIT_POLICY") || getenv(variable))
        return;
    char path[PATH_MAX]; /* not the link itself: the process would be called "exe" */
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0 || setenv(variable, spins, 1) != 0)
        return;
    path[length] = '\0';
    execv(path, argv);
}
