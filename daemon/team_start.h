/* How the threads of a parallel loop wait for each other, and where libgomp puts them: it reads
 * both from its environment before main. */
#ifndef PG_DAEMON_TEAM_START_H
#define PG_DAEMON_TEAM_START_H

#include "daemon/team_pin.h"

/* The values of engine.wait, in its order. */
typedef enum pg_team_wait {
    PG_TEAM_WAIT_BRIEF,
    PG_TEAM_WAIT_ACTIVE,
} pg_team_wait;

/* Puts `wait` and the pin PG_TEAM_PIN_APART in force for teams of `threads`, which begins the
 * program again with the same `argv`, once. Returns when they are in force, when the environment
 * has its own word on them (OMP_WAIT_POLICY or GOMP_SPINCOUNT; OMP_PROC_BIND or OMP_PLACES), or
 * when the system does not let the program begin again. To be called before there are threads. */
void pg_team_start(pg_team_wait wait, pg_team_pin pin, int threads, char **argv);

#endif
