/* How the threads of a parallel loop wait for each other. */
#ifndef PG_DAEMON_TEAM_WAIT_H
#define PG_DAEMON_TEAM_WAIT_H

/* The values of engine.wait, in its order. */
typedef enum pg_team_wait {
    PG_TEAM_WAIT_BRIEF,
    PG_TEAM_WAIT_ACTIVE,
} pg_team_wait;

/* Puts `wait` in force, which begins the program again with the same `argv`, once. Returns when it
 * is in force, when the environment has its own word on it (OMP_WAIT_POLICY, GOMP_SPINCOUNT), or
 * when the system does not let the program begin again. To be called before there are threads. */
void pg_team_wait_set(pg_team_wait wait, char **argv);

#endif
