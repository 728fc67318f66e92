/* Sends results: the publisher to whoever subscribed, the rpc endpoint back to who asked. Here the
 * last figures are written into a header, as late as can be. */
#include "daemon/clock.h"
#include "daemon/engine.h"
#include "daemon/log.h"
#include "daemon/publish.h"

#include <string.h>

uint64_t pg_publish_stamp(pg_result *slot) {
    int64_t age = pg_clock_wall() - slot->base_ns;
    uint64_t publish = pg_clock_monotonic() - slot->explained_at;
    slot->timing_ns[PG_STAGE_PUBLISH] = publish;
    slot->total_ns += publish;
    slot->facts.total_ns = slot->total_ns;
    uint64_t shown = age > 0 ? (uint64_t)age : 0;
    pg_wire_patch(&slot->header, &slot->patches, shown, publish, slot->total_ns);
    return shown;
}

int pg_publish_parts(const pg_result *slot, bool overlay, pg_bytes parts[4]) {
    parts[0] = (pg_bytes){(const uint8_t *)slot->stream, strlen(slot->stream)};
    parts[1] = (pg_bytes){slot->header.data, slot->header.size};
    if (slot->drop != PG_DROP_NONE)
        return 2;
    parts[2] = (pg_bytes){slot->map.data, slot->map.size};
    parts[3] = (pg_bytes){slot->overlay.data, slot->overlay.size};
    return overlay && slot->overlay.size > 0 ? 4 : 3;
}

static pg_err open_socket(pg_engine *e, pg_socket **socket, pg_diag *diag) {
    const pg_publish_config *c = &e->config->publish;
    *socket = NULL;
    if (c->bind[0] == '\0')
        return PG_OK;
    pg_socket_options options = {.kind = PG_SOCKET_PUB,
                                 .bind = true,
                                 .endpoint = c->bind,
                                 .hwm = c->hwm,
                                 .send_buffer = c->send_buffer,
                                 .linger_ms = PG_LINGER_MS};
    pg_err err = pg_socket_open(e->transport, &options, socket, diag);
    if (err == PG_OK)
        pg_log(PG_VERBOSITY_INFO, NULL, "publishes on %s", pg_socket_endpoint(*socket));
    return err;
}

pg_err pg_publish_run(pg_thread *thread) {
    pg_engine *e = thread->context;
    pg_socket *socket;
    pg_thread_work_in_short_slices();
    pg_err err = open_socket(e, &socket, &thread->diag);
    if (err != PG_OK)
        return err;
    pg_thread_ready(thread);
    while (!pg_queue_is_drained(e->queue)) {
        thread->beat++;
        pg_result *slot = pg_queue_next(e->queue, PG_TURN_MS);
        if (slot == NULL)
            continue;
        pg_bytes parts[4];
        int n = pg_publish_parts(slot, e->config->publish.overlay, parts);
        uint64_t age = pg_publish_stamp(slot);
        if (socket != NULL)
            pg_socket_send(socket, parts, n); /* a PUB socket never refuses: it loses, per reader */
        pg_queue_done(e->queue, slot, age);
    }
    pg_socket_close(&socket);
    return PG_OK;
}
