/* One lock for all of it: a frame passes here four times, each for less than a microsecond, which
 * against the milliseconds of an explanation is nothing; and with one lock order, policy and
 * accounting can be read in one place. Messages are given back to the library outside the lock. */
#include "daemon/queue.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/streams.h"
#include "kernels/mem.h"

enum { SKEW_NS = 1000000000, BLOCK_BEAT_MS = 200 };

struct pg_queue {
    const pg_config *config;
    pg_metrics *metrics;
    pg_live *live;
    pthread_mutex_t lock;
    pthread_cond_t work; /* frames for workers, and free slots */
    pthread_cond_t room; /* places for blocked receivers */
    pthread_cond_t sent; /* results for the publisher */
    pg_streams streams;
    pg_stream *turn_first, *turn_last; /* streams with waiting frames, whose turn it is first */
    pg_message *rpc_first, *rpc_last;
    int n_rpc;
    bool rpc_turn;
    pg_result *slots; /* [workers * PG_SLOTS_PER_WORKER] */
    int n_slots;
    pg_result *out_first, *out_last;     /* for the publisher */
    pg_result *reply_first, *reply_last; /* for the rpc endpoint */
    int reply_fd;
    int in_flight;
    bool closed, abandoned;
};

static void init_cond(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* Waits for the condition; false: the time is over. */
static bool wait_until(pg_queue *q, pthread_cond_t *cond, uint64_t deadline) {
    struct timespec t = {(time_t)(deadline / 1000000000), (long)(deadline % 1000000000)};
    return pthread_cond_timedwait(cond, &q->lock, &t) == 0;
}

static uint64_t in_ms(int ms) { return pg_clock_monotonic() + (uint64_t)ms * 1000000; }

pg_err pg_queue_create(const pg_config *config, pg_metrics *metrics, pg_live *live, int receivers,
                       pg_queue **out, pg_diag *diag) {
    pg_queue *q = *out = pg_calloc(1, sizeof *q);
    if (q == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the queue");
    q->config = config;
    q->metrics = metrics;
    q->live = live;
    pthread_mutex_init(&q->lock, NULL);
    init_cond(&q->work);
    init_cond(&q->room);
    init_cond(&q->sent);
    q->n_slots = config->workers * PG_SLOTS_PER_WORKER;
    q->slots = pg_calloc((size_t)q->n_slots, sizeof *q->slots);
    q->reply_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int depth = config->rpc.bind[0] != '\0' ? config->rpc.depth : 0;
    pg_err err = PG_OK;
    if (q->slots == NULL || q->reply_fd < 0)
        err = pg_fail(diag, PG_ENOMEM, "no memory for the queue");
    else
        err = pg_streams_init(&q->streams, config, metrics, live,
                              receivers + config->workers + depth, diag);
    for (int i = 0; err == PG_OK && i < q->n_slots; i++)
        q->slots[i].worker = i / PG_SLOTS_PER_WORKER;
    if (err != PG_OK)
        pg_queue_destroy(out);
    return err;
}

void pg_queue_destroy(pg_queue **queue) {
    pg_queue *q = *queue;
    if (q == NULL)
        return;
    pg_queue_abandon(q);
    for (pg_message *m; (m = pg_queue_take_request(q)) != NULL;)
        pg_queue_give(q, m);
    pg_metrics_settle(q->metrics, PG_DROP_DRAINING); /* results that nobody sent */
    pg_streams_fini(&q->streams);
    for (int i = 0; q->slots != NULL && i < q->n_slots; i++) {
        pg_wire_buffer_free(&q->slots[i].header);
        pg_wire_buffer_free(&q->slots[i].map);
        pg_wire_buffer_free(&q->slots[i].overlay);
    }
    pg_free(q->slots);
    if (q->reply_fd >= 0)
        close(q->reply_fd);
    pthread_cond_destroy(&q->work);
    pthread_cond_destroy(&q->room);
    pthread_cond_destroy(&q->sent);
    pthread_mutex_destroy(&q->lock);
    pg_free(q);
    *queue = NULL;
}

/* ---- the pool ---- */

pg_message *pg_queue_take(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    pg_message *m = q->streams.pool;
    pg_assert(m != NULL);
    q->streams.pool = m->next;
    pthread_mutex_unlock(&q->lock);
    m->next = NULL;
    m->stream = NULL;
    m->reply.wanted = false;
    return m;
}

void pg_queue_give(pg_queue *q, pg_message *message) {
    pg_parts_release(&message->parts);
    pthread_mutex_lock(&q->lock);
    message->next = q->streams.pool;
    q->streams.pool = message;
    pthread_mutex_unlock(&q->lock);
}

/* ---- waiting frames ---- */

static void enlist(pg_queue *q, pg_stream *s) {
    if (s->listed)
        return;
    s->listed = true;
    s->next_turn = NULL;
    if (q->turn_last != NULL)
        q->turn_last->next_turn = s;
    else
        q->turn_first = s;
    q->turn_last = s;
}

static pg_stream *delist_first(pg_queue *q) {
    pg_stream *s = q->turn_first;
    q->turn_first = s->next_turn;
    if (q->turn_first == NULL)
        q->turn_last = NULL;
    s->listed = false;
    return s;
}

static void ring_add(pg_stream *s, pg_message *m) {
    pg_assert(s->count < s->capacity);
    s->ring[(s->head + s->count++) % s->capacity] = m;
}

static pg_message *ring_oldest(pg_stream *s) {
    pg_message *m = s->ring[s->head];
    s->head = (s->head + 1) % s->capacity;
    s->count--;
    return m;
}

static void leave_flight(pg_queue *q, pg_stream *s) {
    s->in_flight--;
    q->in_flight--;
}

static void drop(pg_queue *q, pg_stream *s, pg_drop reason) {
    pg_metrics_dropped(q->metrics, s->counters, reason);
    leave_flight(q, s);
}

/* ---- push ---- */

static void set_base(pg_queue *q, pg_message *m, pg_stream *s) {
    pg_frame *f = &m->frame;
    m->base_ns = f->ts_ns;
    if (f->ts_ns - f->arrival_ns > SKEW_NS) {
        m->base_ns = f->arrival_ns;
        pg_metrics_clock_skew(q->metrics, s->counters);
    }
}

static pg_drop push_request(pg_queue *q, pg_message *m) {
    if (q->n_rpc >= q->config->rpc.depth)
        return PG_DROP_QUEUE_FULL;
    m->next = NULL;
    if (q->rpc_last != NULL)
        q->rpc_last->next = m;
    else
        q->rpc_first = m;
    q->rpc_last = m;
    q->n_rpc++;
    return PG_DROP_NONE;
}

/* Puts the frame into its stream's ring; *victim: the frame that had to give way. */
static pg_drop push_stream(pg_queue *q, pg_message *m, pg_message **victim, _Atomic uint64_t *beat) {
    pg_stream *s = m->stream;
    pg_policy policy = s->config->policy;
    while (policy == PG_POLICY_BLOCK && s->count == s->capacity && !q->closed) {
        (*beat)++;
        wait_until(q, &q->room, in_ms(BLOCK_BEAT_MS));
    }
    if (q->closed)
        return PG_DROP_DRAINING;
    if (s->count == s->capacity) {
        *victim = ring_oldest(s);
        drop(q, s, policy == PG_POLICY_NEWEST ? PG_DROP_SUPERSEDED : PG_DROP_QUEUE_FULL);
    }
    ring_add(s, m);
    enlist(q, s);
    return PG_DROP_NONE;
}

/* Decides about a frame that decoded as `verdict`. */
static pg_drop admit(pg_queue *q, pg_message *m, pg_drop verdict, bool header_read,
                     pg_message **victim, _Atomic uint64_t *beat) {
    pg_stream *s = m->stream;
    if (header_read && !m->reply.wanted) {
        uint64_t gap;
        pg_seq seq = pg_stream_note_seq(s, &m->frame, &gap);
        if (gap > 0)
            pg_metrics_gap(q->metrics, s->counters, gap);
        if (seq == PG_SEQ_OLD && verdict == PG_DROP_NONE)
            verdict = PG_DROP_OUT_OF_ORDER;
    }
    if (verdict != PG_DROP_NONE)
        return verdict;
    if (q->closed)
        return PG_DROP_DRAINING;
    set_base(q, m, s);
    return m->reply.wanted ? push_request(q, m) : push_stream(q, m, victim, beat);
}

/* Counts what has no stream of its own. */
static pg_drop count_strange(pg_queue *q, pg_message *m, pg_counters *counters, pg_drop reason) {
    pg_metrics_received(q->metrics, counters, m->frame.arrival_ns);
    pg_metrics_dropped(q->metrics, counters, reason);
    return reason;
}

pg_drop pg_queue_push(pg_queue *q, pg_message *m, pg_drop verdict, bool header_read,
                      _Atomic uint64_t *beat) {
    if (strcmp(m->frame.stream, PG_STREAM_UNKNOWN) == 0)
        return count_strange(q, m, pg_metrics_unknown(q->metrics), verdict);
    pg_message *victim = NULL;
    pthread_mutex_lock(&q->lock);
    pg_stream *s = m->stream = pg_streams_get(&q->streams, m->frame.stream, m->frame.arrival_ns);
    if (s == NULL) {
        pthread_mutex_unlock(&q->lock);
        return count_strange(q, m, pg_metrics_other(q->metrics), PG_DROP_TOO_MANY_STREAMS);
    }
    s->last_ns = m->frame.arrival_ns;
    pg_metrics_received(q->metrics, s->counters, m->frame.arrival_ns);
    s->in_flight++;
    q->in_flight++;
    pg_drop reason = admit(q, m, verdict, header_read, &victim, beat);
    if (reason != PG_DROP_NONE)
        drop(q, s, reason);
    else
        pthread_cond_broadcast(&q->work);
    pthread_mutex_unlock(&q->lock);
    if (victim != NULL)
        pg_queue_give(q, victim);
    return reason;
}

/* ---- pop ---- */

/* The one with the smallest buffers, so that all have grown to their size after a worker's first
 * frames, and not whenever two results first happen to be on their way at once. */
static pg_result *free_slot(pg_queue *q, int worker) {
    pg_result *best = NULL;
    for (int i = 0; i < PG_SLOTS_PER_WORKER; i++) {
        pg_result *slot = &q->slots[worker * PG_SLOTS_PER_WORKER + i];
        if (slot->state == PG_SLOT_FREE &&
            (best == NULL || slot->header.capacity < best->header.capacity))
            best = slot;
    }
    return best;
}

static pg_message *take_request(pg_queue *q) {
    pg_message *m = q->rpc_first;
    q->rpc_first = m->next;
    if (q->rpc_first == NULL)
        q->rpc_last = NULL;
    q->n_rpc--;
    return m;
}

static pg_message *take_next(pg_queue *q) {
    bool request = q->rpc_first != NULL && (q->rpc_turn || q->turn_first == NULL);
    q->rpc_turn = !request;
    if (request)
        return take_request(q);
    if (q->turn_first == NULL)
        return NULL;
    pg_stream *s = delist_first(q);
    pg_message *m = ring_oldest(s);
    if (s->count > 0)
        enlist(q, s);
    pthread_cond_broadcast(&q->room);
    return m;
}

static bool is_stale(const pg_message *m) {
    double limit = m->stream->config->max_age;
    return !m->reply.wanted && limit > 0 && (double)(pg_clock_wall() - m->base_ns) * 1e-9 > limit;
}

/* The slot joins its stream's order of acceptance: results leave in this order. Requests do not
 * wait for each other. */
static void begin(pg_result *slot, const pg_message *m) {
    pg_stream *s = m->stream;
    slot->state = PG_SLOT_WORKING;
    slot->drop = PG_DROP_NONE;
    slot->owner = s;
    slot->reply = m->reply;
    slot->base_ns = m->base_ns;
    memcpy(slot->stream, s->id, sizeof slot->stream);
    slot->next = slot->previous = slot->next_out = NULL;
    if (m->reply.wanted)
        return;
    slot->previous = s->last;
    if (s->last != NULL)
        s->last->next = slot;
    else
        s->first = slot;
    s->last = slot;
}

pg_message *pg_queue_pop(pg_queue *q, int worker, int timeout_ms, pg_result **out) {
    uint64_t deadline = in_ms(timeout_ms);
    pg_message *m = NULL;
    bool stale = false;
    pthread_mutex_lock(&q->lock);
    while (true) {
        pg_result *slot = free_slot(q, worker);
        m = slot != NULL ? take_next(q) : NULL;
        if (m != NULL) {
            stale = is_stale(m);
            if (stale)
                drop(q, m->stream, PG_DROP_STALE);
            else
                begin(*out = slot, m);
            break;
        }
        if ((q->closed && slot != NULL) || !wait_until(q, &q->work, deadline))
            break;
    }
    pthread_mutex_unlock(&q->lock);
    if (!stale)
        return m;
    /* back at once: the pool has one message per worker beyond the places in the rings */
    pg_queue_give(q, m);
    return NULL;
}

/* ---- results ---- */

static void append_out(pg_result **first, pg_result **last, pg_result *slot) {
    slot->next_out = NULL;
    if (*last != NULL)
        (*last)->next_out = slot;
    else
        *first = slot;
    *last = slot;
}

static pg_result *take_out(pg_result **first, pg_result **last) {
    pg_result *slot = *first;
    if (slot == NULL)
        return NULL;
    *first = slot->next_out;
    if (*first == NULL)
        *last = NULL;
    return slot;
}

static void unlink_order(pg_result *slot) {
    pg_stream *s = slot->owner;
    if (slot->previous != NULL)
        slot->previous->next = slot->next;
    else
        s->first = slot->next;
    if (slot->next != NULL)
        slot->next->previous = slot->previous;
    else
        s->last = slot->previous;
}

/* Everything ready at the front of the stream may leave. */
static void release_ready(pg_queue *q, pg_stream *s) {
    while (s->first != NULL && s->first->state == PG_SLOT_READY) {
        pg_result *slot = s->first;
        unlink_order(slot);
        append_out(&q->out_first, &q->out_last, slot);
        pthread_cond_signal(&q->sent);
    }
}

static void send_reply(pg_queue *q, pg_result *slot) {
    append_out(&q->reply_first, &q->reply_last, slot);
    uint64_t one = 1;
    ssize_t n = write(q->reply_fd, &one, sizeof one);
    (void)n; /* full: it is readable already */
}

void pg_queue_finish(pg_queue *q, pg_result *slot) {
    pthread_mutex_lock(&q->lock);
    slot->state = PG_SLOT_READY;
    if (slot->reply.wanted)
        send_reply(q, slot);
    else
        release_ready(q, slot->owner);
    pthread_mutex_unlock(&q->lock);
}

void pg_queue_fail(pg_queue *q, pg_result *slot, pg_drop reason) {
    pthread_mutex_lock(&q->lock);
    pg_stream *s = slot->owner;
    slot->drop = reason;
    if (slot->reply.wanted) {
        pg_metrics_dropped(q->metrics, s->counters, reason);
        slot->state = PG_SLOT_READY;
        send_reply(q, slot);
    } else {
        drop(q, s, reason);
        unlink_order(slot);
        slot->state = PG_SLOT_FREE;
        release_ready(q, s);
        pthread_cond_broadcast(&q->work);
    }
    pthread_mutex_unlock(&q->lock);
}

pg_result *pg_queue_next(pg_queue *q, int timeout_ms) {
    uint64_t deadline = in_ms(timeout_ms);
    pthread_mutex_lock(&q->lock);
    while (q->out_first == NULL && wait_until(q, &q->sent, deadline)) {
    }
    pg_result *slot = take_out(&q->out_first, &q->out_last);
    pthread_mutex_unlock(&q->lock);
    return slot;
}

pg_result *pg_queue_next_reply(pg_queue *q) {
    uint64_t count;
    ssize_t n = read(q->reply_fd, &count, sizeof count);
    (void)n; /* nothing there is fine */
    pthread_mutex_lock(&q->lock);
    pg_result *slot = take_out(&q->reply_first, &q->reply_last);
    pthread_mutex_unlock(&q->lock);
    return slot;
}

int pg_queue_reply_fd(const pg_queue *q) { return q->reply_fd; }

void pg_queue_done(pg_queue *q, pg_result *slot, uint64_t age_ns) {
    pg_stream *s = slot->owner;
    if (slot->drop == PG_DROP_NONE) {
        pg_metrics_published(q->metrics, s->counters, age_ns, slot->timing_ns);
        slot->facts.age_ns = age_ns;
        pg_live_update(q->live, s->live, &slot->facts,
                       (pg_bytes){slot->overlay.data, slot->overlay.size});
    }
    pthread_mutex_lock(&q->lock);
    leave_flight(q, s);
    slot->state = PG_SLOT_FREE;
    pthread_cond_broadcast(&q->work);
    pthread_mutex_unlock(&q->lock);
}

/* ---- the end ---- */

void pg_queue_close(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->work);
    pthread_cond_broadcast(&q->room);
    pthread_mutex_unlock(&q->lock);
}

bool pg_queue_is_closed(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool closed = q->closed;
    pthread_mutex_unlock(&q->lock);
    return closed;
}

bool pg_queue_is_empty(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool empty = q->turn_first == NULL && q->rpc_first == NULL;
    pthread_mutex_unlock(&q->lock);
    return empty;
}

bool pg_queue_is_abandoned(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool abandoned = q->abandoned;
    pthread_mutex_unlock(&q->lock);
    return abandoned;
}

void pg_queue_abandon(pg_queue *q) {
    pg_message *victims = NULL;
    pthread_mutex_lock(&q->lock);
    q->abandoned = true;
    while (q->turn_first != NULL) {
        pg_stream *s = delist_first(q);
        while (s->count > 0) {
            pg_message *m = ring_oldest(s);
            drop(q, s, PG_DROP_DRAINING);
            m->next = victims;
            victims = m;
        }
    }
    pthread_cond_broadcast(&q->room);
    pthread_mutex_unlock(&q->lock);
    while (victims != NULL) {
        pg_message *next = victims->next;
        pg_queue_give(q, victims);
        victims = next;
    }
}

pg_message *pg_queue_take_request(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    pg_message *m = q->rpc_first != NULL ? take_request(q) : NULL;
    if (m != NULL)
        drop(q, m->stream, PG_DROP_DRAINING);
    pthread_mutex_unlock(&q->lock);
    return m;
}

bool pg_queue_is_drained(pg_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool drained = q->closed && q->in_flight == 0;
    pthread_mutex_unlock(&q->lock);
    return drained;
}
