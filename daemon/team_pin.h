/* On which processors the threads of a worker run. */
#ifndef PG_DAEMON_TEAM_PIN_H
#define PG_DAEMON_TEAM_PIN_H

#include "kernels/err.h"

/* The values of engine.pin, in its order. */
typedef enum pg_team_pin {
    PG_TEAM_PIN_OFF,
    PG_TEAM_PIN_CORES,
} pg_team_pin;

/* Binds the calling thread's team (its size is pg_threads_set's) to processors of its own: it is
 * worker `index` of `workers`, each with a team of this size. To be called once by a worker. With
 * `off` nothing happens. PG_ECONFIG, with a sentence, and nothing is bound: the process may use
 * fewer processors than there are threads, or the system does not let threads be bound. */
pg_err pg_team_pin_set(pg_team_pin pin, int index, int workers, pg_diag *diag);

/* Processors this process may run on, at least 1. */
int pg_team_processors(void);

/* Puts the process back on all of them where OMP_PROC_BIND has bound its first thread to one, so
 * that a program it becomes (exec) finds them. */
void pg_team_unbind(void);

#endif
