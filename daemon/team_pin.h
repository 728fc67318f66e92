/* On which processors the threads of a worker run. */
#ifndef PG_DAEMON_TEAM_PIN_H
#define PG_DAEMON_TEAM_PIN_H

#include <stdbool.h>

#include "kernels/err.h"

/* The values of engine.pin, in its order. */
typedef enum pg_team_pin {
    PG_TEAM_PIN_APART,
    PG_TEAM_PIN_OFF,
    PG_TEAM_PIN_CORES,
} pg_team_pin;

/* `apart`: the processors of the process dealt out to the threads of a team of n, for OMP_PLACES,
 * in `out`: "{0,2},{1,3}" for two threads on four. All teams of the process have the same shares.
 * False: a team of one, fewer processors than threads, or the system does not let threads be bound.
 */
enum { PG_TEAM_PLACES_MAX = 8192 };
bool pg_team_places(int n, char out[PG_TEAM_PLACES_MAX]);

/* Binds the calling thread's team (its size is pg_threads_set's) to processors of its own: it is
 * worker `index` of `workers`, each with a team of this size. To be called once by a worker. Only
 * `cores` does anything here. PG_ECONFIG, with a sentence, and nothing is bound: the process may
 * use fewer processors than there are threads, or the system does not let threads be bound. */
pg_err pg_team_pin_set(pg_team_pin pin, int index, int workers, pg_diag *diag);

/* Processors this process may run on, at least 1. */
int pg_team_processors(void);

/* Puts the calling thread back on all of them where OMP_PROC_BIND has bound it to some, as it does
 * with a program's first thread: threads it starts, and a program it becomes (exec), inherit that.
 */
void pg_team_unbind(void);

#endif
