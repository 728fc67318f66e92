/* The request endpoint. A ROUTER socket puts the client's identity in front of what it sent; the
 * reply has to begin with the same, and with the empty part that REQ sockets insert. */
#include <string.h>

#include "daemon/clock.h"
#include "daemon/engine.h"
#include "daemon/log.h"
#include "daemon/publish.h"

static pg_err open_socket(pg_engine *e, pg_socket **socket, pg_diag *diag) {
    pg_socket_options options = {.kind = PG_SOCKET_ROUTER,
                                 .bind = true,
                                 .endpoint = e->config->rpc.bind,
                                 .hwm = e->config->rpc.depth,
                                 .max_message = pg_engine_max_message(e->config),
                                 .linger_ms = PG_LINGER_MS};
    pg_err err = pg_socket_open(e->transport, &options, socket, diag);
    if (err == PG_OK)
        pg_log(PG_VERBOSITY_INFO, NULL, "answers requests on %s", pg_socket_endpoint(*socket));
    return err;
}

/* Notes who asked; returns how many parts the envelope takes. */
static int read_envelope(pg_message *m) {
    const pg_parts *parts = &m->parts;
    pg_bytes identity = parts->part[0];
    m->reply.wanted = true;
    m->reply.identity_size = identity.size < PG_IDENTITY_MAX ? identity.size : PG_IDENTITY_MAX;
    memcpy(m->reply.identity, identity.data, m->reply.identity_size);
    m->reply.delimiter = parts->kept > 1 && parts->part[1].size == 0;
    return m->reply.delimiter ? 2 : 1;
}

static void reply(pg_socket *socket, const pg_reply *to, const pg_bytes *parts, int n) {
    pg_bytes all[6];
    int at = 0;
    all[at++] = (pg_bytes){to->identity, to->identity_size};
    if (to->delimiter)
        all[at++] = (pg_bytes){(const uint8_t *)"", 0};
    memcpy(all + at, parts, (size_t)n * sizeof *parts);
    pg_socket_send(socket, all, at + n); /* a client that is gone is no concern of ours */
}

static void reply_error(pg_socket *socket, const pg_message *m, pg_drop drop, const char *message,
                        pg_wire_buffer *buffer) {
    bool known = strcmp(m->frame.stream, PG_STREAM_UNKNOWN) != 0;
    const char *stream = known ? m->frame.stream : "";
    if (pg_wire_encode_error(drop, message, buffer) != PG_OK)
        buffer->size = 0;
    pg_bytes parts[2] = {{(const uint8_t *)stream, strlen(stream)}, {buffer->data, buffer->size}};
    reply(socket, &m->reply, parts, 2);
}

static void take(pg_thread *thread, pg_socket *socket, pg_message **held, pg_wire_buffer *buffer) {
    pg_engine *e = thread->context;
    pg_message *m = *held;
    pg_wire_limits limits = {e->config->limits.frame_bytes, e->config->limits.meta_bytes};
    pg_diag *diag = &thread->diag;
    diag->text[0] = '\0';
    int envelope = read_envelope(m);
    bool header_read;
    pg_drop drop = pg_wire_decode(m->parts.part + envelope, m->parts.count - envelope, &limits,
                                  &m->frame, &header_read, diag);
    m->frame.arrival_ns = pg_clock_wall();
    drop = pg_queue_push(e->queue, m, drop, header_read, &thread->beat);
    if (drop == PG_DROP_NONE) {
        *held = pg_queue_take(e->queue);
        return;
    }
    if (drop == PG_DROP_QUEUE_FULL)
        pg_fail(diag, PG_EFAIL, "%d requests wait already", e->config->rpc.depth);
    pg_engine_log_drop(m->frame.stream, drop, diag);
    reply_error(socket, m, drop, diag->text, buffer);
    pg_parts_release(&m->parts);
}

static void send_results(pg_engine *e, pg_socket *socket) {
    for (pg_result *slot; (slot = pg_queue_next_reply(e->queue)) != NULL;) {
        pg_bytes parts[4];
        int n = pg_publish_parts(slot, e->config->publish.overlay, parts);
        uint64_t age = slot->drop == PG_DROP_NONE ? pg_publish_stamp(slot) : 0;
        reply(socket, &slot->reply, parts, n);
        pg_queue_done(e->queue, slot, age);
    }
}

/* While draining: whoever still waits when the time for queued frames is over hears so. */
static void send_refusals(pg_engine *e, pg_socket *socket, pg_wire_buffer *buffer) {
    for (pg_message *m; (m = pg_queue_take_request(e->queue)) != NULL;) {
        reply_error(socket, m, PG_DROP_DRAINING, "the daemon is stopping", buffer);
        pg_queue_give(e->queue, m);
    }
}

pg_err pg_rpc_run(pg_thread *thread) {
    pg_engine *e = thread->context;
    pg_socket *socket;
    pg_thread_work_in_short_slices();
    pg_err err = open_socket(e, &socket, &thread->diag);
    if (err != PG_OK)
        return err;
    pg_wire_buffer buffer = {0};
    pg_message *held = pg_queue_take(e->queue);
    pg_thread_ready(thread);
    while (!pg_queue_is_drained(e->queue)) {
        thread->beat++;
        if (pg_socket_wait(socket, pg_queue_reply_fd(e->queue), PG_TURN_MS) &&
            pg_socket_receive(socket, &held->parts))
            take(thread, socket, &held, &buffer);
        send_results(e, socket);
        if (pg_queue_is_abandoned(e->queue))
            send_refusals(e, socket, &buffer);
    }
    pg_queue_give(e->queue, held);
    pg_wire_buffer_free(&buffer);
    pg_socket_close(&socket);
    return PG_OK;
}
