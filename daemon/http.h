/* The HTTP door: GET and HEAD only.
 *
 *   /                       the live page
 *   /streams                newest facts of every stream, JSON
 *   /overlay/<stream>.jpg   newest overlay of a stream
 *   /metrics                Prometheus text format 0.0.4
 *   /healthz                200 while the process lives
 *   /readyz                 200 while a frame would be served, else 503
 */
#ifndef PG_DAEMON_HTTP_H
#define PG_DAEMON_HTTP_H

#include "daemon/config.h"
#include "daemon/live.h"

typedef struct pg_http pg_http;

/* Listens and serves on a thread of its own. `metrics`, `live` are borrowed. PG_ECONFIG: the
 * address cannot be had. Not ready until pg_http_set_ready. */
pg_err pg_http_start(const pg_http_config *config, pg_metrics *metrics, pg_live *live,
                     pg_http **out, pg_diag *diag);
void pg_http_set_ready(pg_http *http, bool ready); /* accepts NULL: no HTTP configured */
void pg_http_stop(pg_http **http);                 /* accepts NULL */

#endif
