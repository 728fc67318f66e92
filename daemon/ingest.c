/* One thread per ingest socket: takes every message the moment it arrives, so that what is too
 * much is replaced and counted in our queue instead of growing old unseen in the library's. */
#include "daemon/clock.h"
#include "daemon/engine.h"
#include "daemon/log.h"

static pg_err open_socket(pg_engine *e, const pg_ingest_config *c, pg_socket **socket,
                          pg_diag *diag) {
    static const pg_socket_kind kinds[] = {[PG_INGEST_SUB] = PG_SOCKET_SUB,
                                           [PG_INGEST_PULL] = PG_SOCKET_PULL,
                                           [PG_INGEST_REP] = PG_SOCKET_REP};
    pg_socket_options options = {.kind = kinds[c->type],
                                 .bind = c->bind,
                                 .endpoint = c->endpoint,
                                 .topics = c->topics,
                                 .hwm = c->hwm,
                                 .max_message = pg_engine_max_message(e->config),
                                 .linger_ms = PG_LINGER_MS};
    pg_err err = pg_socket_open(e->transport, &options, socket, diag);
    if (err == PG_OK)
        pg_log(PG_VERBOSITY_INFO, NULL, "ingest %s %s", c->bind ? "listens on" : "connects to",
               c->bind ? pg_socket_endpoint(*socket) : c->endpoint);
    return err;
}

/* One message: decoded, counted, queued or dropped. */
static void take(pg_thread *thread, pg_message **held) {
    pg_engine *e = thread->context;
    pg_message *m = *held;
    pg_wire_limits limits = {e->config->limits.frame_bytes, e->config->limits.meta_bytes};
    pg_diag *diag = &thread->diag;
    diag->text[0] = '\0';
    bool header_read;
    int parts = m->parts.count;
    pg_drop drop = pg_wire_decode(m->parts.part, parts, &limits, &m->frame, &header_read, diag);
    m->frame.arrival_ns = pg_clock_wall();
    drop = pg_queue_push(e->queue, m, drop, header_read, &thread->beat);
    if (drop == PG_DROP_NONE) {
        *held = pg_queue_take(e->queue);
        return;
    }
    pg_engine_log_drop(m->frame.stream, drop, diag);
    pg_parts_release(&m->parts);
}

pg_err pg_ingest_run(pg_thread *thread) {
    pg_engine *e = thread->context;
    const pg_ingest_config *config = &e->config->ingest[thread->index];
    pg_socket *socket;
    pg_thread_work_in_short_slices();
    pg_err err = open_socket(e, config, &socket, &thread->diag);
    if (err != PG_OK)
        return err;
    pg_message *held = pg_queue_take(e->queue);
    pg_thread_ready(thread);
    while (!pg_queue_is_closed(e->queue)) {
        thread->beat++;
        if (!pg_socket_wait(socket, -1, PG_TURN_MS) || !pg_socket_receive(socket, &held->parts))
            continue;
        take(thread, &held);
        if (config->type == PG_INGEST_REP) /* whatever became of it: a sender without an answer
                                              would wait for ever */
            pg_socket_send(socket, &(pg_bytes){(const uint8_t *)"OK", 2}, 1);
    }
    pg_queue_give(e->queue, held);
    pg_socket_close(&socket);
    return PG_OK;
}
