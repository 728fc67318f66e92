/* `parchgradd serve`: the daemon, from configuration to the final count. */
#ifndef PG_DAEMON_SERVE_H
#define PG_DAEMON_SERVE_H

#include "daemon/config.h"

/* Loads the model, opens the sockets, serves until SIGTERM or SIGINT, drains (at most 5 seconds)
 * and prints the final count as the last line on stderr. A second signal while draining ends the
 * process at once. Returns PG_OK after an orderly stop, otherwise the reason it could not start,
 * with the sentence in diag. */
pg_err pg_serve(const pg_config *config, pg_diag *diag);

#endif
