/* Left to itself, libgomp lets a thread that has come to the end of its share spin for some ten
 * milliseconds before it sleeps. Where other programs use the processors too, the thread it waits
 * for may not be running, and every one of the hundreds of loops in a frame then burns the
 * processor the other one wants. MobileNetV2, two threads, on two cores that 20 processes wanted:
 * 100 ms a frame with 200 spins, 102 with none, 117 with 1000, 164 with 3000; as libgomp has it, no
 * round of it ended within 40 s. ResNet-18 was ready in 0.9 s instead of 2.6.
 *
 * On idle processors a thread that has gone to sleep must be woken again: MobileNetV2's forward pass
 * took 7.8 ms with 200 spins, 4.2 with 2000 or more, ResNet-50's 35.5 and 30.3. So 2000 it is: as fast
 * as can be where nobody else is, half as fast again as the best where twenty others are.
 *
 * In serve, whose other threads wake now and then, teams get out of step: who wakes late makes the
 * next one sleep, and a whole frame may go on like that (forward 4 or 11 ms, half of the frames
 * each; 4 to 5 ms actively). Ten times as many spins cure most of it, but where two other programs
 * are busy a frame then takes 15 or 105 ms.
 *
 * libgomp reads its environment before main, so the only way to tell it is to begin again. */
#include "daemon/team_wait.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/team_pin.h"

void pg_team_wait_set(pg_team_wait wait, char **argv) {
    static const char variable[] = "GOMP_SPINCOUNT", spins[] = "2000"; /* about a tenth of a millisecond */
    if (wait != PG_TEAM_WAIT_BRIEF || getenv("OMP_WAIT_POLICY") || getenv(variable))
        return;
    char path[PATH_MAX]; /* not the link itself: the process would be called "exe" */
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0 || setenv(variable, spins, 1) != 0)
        return;
    path[length] = '\0';
    pg_team_unbind();
    execv(path, argv);
}
