/* The machinery of `serve`: everything between the configuration and the threads, built in one
 * order and taken down in the other.
 *
 *   ingest (one per socket) -> queue -> workers -> queue -> publish (one), rpc (one, if bound)
 */
#ifndef PG_DAEMON_ENGINE_H
#define PG_DAEMON_ENGINE_H

#include "daemon/queue.h"
#include "daemon/thread.h"

typedef struct pg_engine {
    const pg_config *config;
    pg_explainer *explainer;
    pg_metrics *metrics;
    pg_live *live;
    pg_queue *queue;
    pg_transport *transport;
    pg_thread *threads; /* in order of start: publish, rpc, workers, ingest */
    int n_threads, max_threads;
} pg_engine;

/* Loads the model and prepares everything that needs no thread. PG_ECONFIG, PG_EMODEL. */
pg_err pg_engine_create(const pg_config *config, pg_engine **out, pg_diag *diag);

/* Starts the threads; when it returns PG_OK every socket is bound and a frame would be served. */
pg_err pg_engine_start(pg_engine *engine, pg_diag *diag);

/* Begins the end: no frame is accepted any more. */
void pg_engine_close(pg_engine *engine);

/* After close: waits until `deadline` (pg_clock_wall) for all threads. True: all are over. */
bool pg_engine_join(pg_engine *engine, int64_t deadline);

/* Names a thread that made no progress for `limit_ns`, NULL: all are well. Call it at least once
 * a second. */
const char *pg_engine_stuck(pg_engine *engine, uint64_t limit_ns);

/* Destroys and nulls; accepts NULL and half-built. Threads must be over. */
void pg_engine_destroy(pg_engine **engine);

/* ---- thread bodies: context is the engine ---- */
pg_err pg_ingest_run(pg_thread *thread);  /* ingest.c; index: entry of config->ingest */
pg_err pg_worker_run(pg_thread *thread);  /* worker.c; index: number of the worker */
pg_err pg_publish_run(pg_thread *thread); /* publish.c */
pg_err pg_rpc_run(pg_thread *thread);     /* rpc.c */

/* ---- shared by the bodies that receive ---- */
/* Upper bound for one part on the wire: above it the peer is cut off. */
int64_t pg_engine_max_message(const pg_config *config);
/* Logs a frame that was refused on arrival, a few lines per reason and ten seconds. */
void pg_engine_log_drop(const char *stream, pg_drop reason, const pg_diag *diag);

enum { PG_TURN_MS = 200, PG_LINGER_MS = 500 };

#endif
