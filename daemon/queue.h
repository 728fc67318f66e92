/* Frames between the threads: from the receivers to the workers, and results from the workers to
 * the publisher and the rpc endpoint. The only mutable state the threads share, beside counters.
 *
 * A frame's way: take (an empty message of the pool) -> push (accepted, or dropped with a reason)
 * -> pop by a worker, together with a result slot -> finish or fail -> next by the publisher
 * -> done. Every step is counted in metrics.h.
 *
 * Per stream the policy says what happens when frames come faster than they are explained:
 *   newest  one place; a newer frame replaces the waiting one (superseded)
 *   fifo    `depth` places; the oldest waiting frame gives way (queue_full)
 *   block   `depth` places; the receiver waits for room
 * Streams take turns, one frame each; requests of the rpc endpoint wait in a queue of their own
 * and take every other turn. Results of a stream leave in the order its frames were accepted,
 * whichever worker is done first. Nothing is allocated once all streams are known. */
#ifndef PG_DAEMON_QUEUE_H
#define PG_DAEMON_QUEUE_H

#include "daemon/config.h"
#include "daemon/live.h"
#include "daemon/metrics.h"
#include "daemon/transport.h"
#include "daemon/wire.h"

typedef struct pg_queue pg_queue;
typedef struct pg_stream pg_stream;

enum { PG_SLOTS_PER_WORKER = 2 }; /* one being filled while the other waits its turn to leave */

/* Who asked, where the reply has to go back to one client. */
typedef struct pg_reply {
    bool wanted;
    bool delimiter; /* the client is a REQ socket: an empty part stands behind its identity */
    uint8_t identity[PG_IDENTITY_MAX];
    size_t identity_size;
} pg_reply;

/* A frame and the message its bytes live in. */
typedef struct pg_message {
    pg_parts parts;
    pg_frame frame;
    int64_t base_ns; /* what age is counted from: ts, or arrival where ts lay ahead */
    pg_reply reply;
    pg_stream *stream;
    struct pg_message *next;
} pg_message;

typedef enum pg_slot_state { PG_SLOT_FREE, PG_SLOT_WORKING, PG_SLOT_READY } pg_slot_state;

/* A result, in buffers that are used again and again. Belongs to the worker from pop to finish,
 * then to the thread that sends it until done. */
typedef struct pg_result {
    pg_wire_buffer header, map, overlay;
    pg_wire_patches patches;
    pg_drop drop;          /* rpc: not explained; `header` says why */
    char stream[PG_STREAM_MAX + 1];
    pg_facts facts;
    int64_t base_ns;
    uint64_t timing_ns[PG_STAGE_COUNT], total_ns;
    uint64_t explained_at; /* monotonic: end of the pipeline, where the publish stage begins */
    pg_reply reply;
    /* the queue's own */
    pg_stream *owner;
    pg_slot_state state;
    int worker;
    struct pg_result *next, *previous; /* in the stream's order */
    struct pg_result *next_out;
} pg_result;

/* `receivers`: threads that hold a message of their own. `config`, `metrics`, `live` are borrowed
 * for the queue's life. */
pg_err pg_queue_create(const pg_config *config, pg_metrics *metrics, pg_live *live, int receivers,
                       pg_queue **out, pg_diag *diag);
void pg_queue_destroy(pg_queue **queue);

/* An empty message from the pool. Never fails: each receiver holds at most one. */
pg_message *pg_queue_take(pg_queue *queue);
/* Releases what it holds and puts it back. */
void pg_queue_give(pg_queue *queue, pg_message *message);

/* Counts a received message under its stream and queues it unless `drop` (of decoding), its
 * sequence number, the policy or the limits say otherwise. PG_DROP_NONE: the queue has taken it.
 * Otherwise it was counted as dropped and the caller still owns it. Blocks only with policy
 * block; `beat` then keeps rising. */
pg_drop pg_queue_push(pg_queue *queue, pg_message *message, pg_drop drop, bool header_read,
                      _Atomic uint64_t *beat);

/* For worker number `worker`: waits at most `timeout_ms` for a frame and a free slot. A frame
 * that is too old is dropped instead. NULL: none this time, or closed and empty. */
pg_message *pg_queue_pop(pg_queue *queue, int worker, int timeout_ms, pg_result **slot);
/* The slot's explanation is ready to be sent. */
void pg_queue_finish(pg_queue *queue, pg_result *slot);
/* The frame was not explained: counted as dropped. A request's slot goes to the rpc endpoint. */
void pg_queue_fail(pg_queue *queue, pg_result *slot, pg_drop reason);

/* For the publisher: the next result in order, NULL: nothing within the time. */
pg_result *pg_queue_next(pg_queue *queue, int timeout_ms);
/* For the rpc endpoint: likewise, without waiting; `fd` becomes readable when there is one. */
pg_result *pg_queue_next_reply(pg_queue *queue);
int pg_queue_reply_fd(const pg_queue *queue);
/* Counts the result as published (unless it had been dropped), tells the live page, frees the
 * slot. `age_ns` as it was sent. */
void pg_queue_done(pg_queue *queue, pg_result *slot, uint64_t age_ns);

/* ---- the end ---- */
/* From now on new frames are dropped as draining; what is queued will still be explained. */
void pg_queue_close(pg_queue *queue);
bool pg_queue_is_closed(pg_queue *queue);
/* True while no frame and no request waits for a worker. */
bool pg_queue_is_empty(pg_queue *queue);
/* What is still queued will not: dropped as draining. Requests stay for pg_queue_take_request. */
void pg_queue_abandon(pg_queue *queue);
bool pg_queue_is_abandoned(pg_queue *queue);
/* After abandon: the next request that waits, already counted as draining, to be answered. */
pg_message *pg_queue_take_request(pg_queue *queue);
/* True when it is closed and nothing is queued, computing or waiting to be sent. */
bool pg_queue_is_drained(pg_queue *queue);

#endif
