/* The table of streams, and what the queue remembers of each. Internal to the queue: every call
 * and every field is under the queue's lock. */
#ifndef PG_DAEMON_STREAMS_H
#define PG_DAEMON_STREAMS_H

#include "daemon/queue.h"

enum { PG_STREAM_BOOTS = 4 };

struct pg_stream {
    char id[PG_STREAM_MAX + 1];
    const pg_stream_config *config;
    pg_counters *counters;
    pg_live_entry *live;
    bool named;          /* in the configuration: keeps its place */
    int64_t last_ns;     /* arrival of the newest message */

    /* waiting frames, oldest first, in a ring of `capacity` */
    pg_message **ring;
    int capacity, head, count;
    bool listed;         /* in the queue's round of streams with waiting frames */
    pg_stream *next_turn;

    int in_flight;       /* waiting, computing, or waiting to be sent */
    pg_result *first, *last; /* computing or ready, in order of acceptance */

    /* the producers' numbers, the most recent first: two that share a stream id by mistake, or a
     * late frame from before a restart, must not make seq seem to fall */
    struct {
        uint8_t boot[PG_BOOT_BYTES];
        uint64_t highest;
    } producer[PG_STREAM_BOOTS];
    int n_producers;
    pg_stream *next_hash;
};

enum { PG_STREAM_BUCKETS = 1024 };

typedef struct pg_streams {
    const pg_config *config;
    pg_metrics *metrics;
    pg_live *live;
    pg_stream *bucket[PG_STREAM_BUCKETS];
    int count;
    pg_message *pool; /* free messages: enough for every place there is, whoever holds them */
} pg_streams;

/* Opens the streams the configuration names and fills the pool with `messages`. */
pg_err pg_streams_init(pg_streams *streams, const pg_config *config, pg_metrics *metrics,
                       pg_live *live, int messages, pg_diag *diag);
void pg_streams_fini(pg_streams *streams);

/* The stream of a frame, opened if there is a place, which a stream that was idle for
 * limits.stream_idle gives up. NULL: no place, or no memory. */
pg_stream *pg_streams_get(pg_streams *streams, const char *id, int64_t now_ns);

typedef enum pg_seq { PG_SEQ_GOOD, PG_SEQ_OLD } pg_seq;
/* Compares seq with the highest of this boot and remembers it. *gap: how many were never seen. */
pg_seq pg_stream_note_seq(pg_stream *stream, const pg_frame *frame, uint64_t *gap);

#endif
