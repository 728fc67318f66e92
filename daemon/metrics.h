/* The daemon's counters. The accounting equation
 *
 *     received = published + dropped (all reasons) + in flight
 *
 * holds per stream at every scrape, because each step of a frame's life is one change under one
 * lock and a scrape copies all counters under the same lock. Rows of metrics.def name the figures.
 * Thread-safe. */
#ifndef PG_DAEMON_METRICS_H
#define PG_DAEMON_METRICS_H

#include "daemon/text.h"
#include "pipeline/pipeline.h"

/* Labels that are no stream ids: what cannot be attributed, and what found no place. */
#define PG_STREAM_OTHER "_other"

typedef struct pg_metrics pg_metrics;
typedef struct pg_counters pg_counters; /* of one stream */

pg_err pg_metrics_create(pg_metrics **out, pg_diag *diag);
void pg_metrics_destroy(pg_metrics **metrics);

/* Starts counting a stream; NULL: no memory. Once per stream: the caller remembers. */
pg_counters *pg_metrics_open(pg_metrics *metrics, const char *stream);
/* Adds what was counted to PG_STREAM_OTHER, so that no total ever falls, and forgets the stream,
 * of which no frame may be in flight. */
void pg_metrics_close(pg_metrics *metrics, pg_counters **counters);
/* The two that are always there. */
pg_counters *pg_metrics_unknown(pg_metrics *metrics);
pg_counters *pg_metrics_other(pg_metrics *metrics);

/* The steps of a frame's life: first received, then exactly one of the other two. */
void pg_metrics_received(pg_metrics *metrics, pg_counters *counters, int64_t arrival_ns);
void pg_metrics_dropped(pg_metrics *metrics, pg_counters *counters, pg_drop reason);
/* `timing`: [PG_STAGE_COUNT], ns. */
void pg_metrics_published(pg_metrics *metrics, pg_counters *counters, uint64_t age_ns,
                          const uint64_t *timing);
/* Beside it. */
void pg_metrics_gap(pg_metrics *metrics, pg_counters *counters, uint64_t missing);
void pg_metrics_clock_skew(pg_metrics *metrics, pg_counters *counters);

/* One stream's figures at one moment. */
typedef struct pg_counts {
    char stream[PG_STREAM_MAX + 1];
    uint64_t received, published, dropped[PG_DROP_COUNT], gap, clock_skew;
    uint64_t in_flight;
    int64_t last_frame_ns;
} pg_counts;
void pg_metrics_read(pg_metrics *metrics, pg_counters *counters, pg_counts *out);

/* What is true of the daemon as a whole, for /metrics. */
void pg_metrics_set_ready(pg_metrics *metrics, bool ready);
void pg_metrics_set_workers(pg_metrics *metrics, int workers);
/* Strings are copied. */
void pg_metrics_set_model(pg_metrics *metrics, const char *model_sha256, const char *stats_sha256,
                          const char *method);

/* Counts every frame in flight as dropped with `reason`: the last act of a drain whose time is
 * over. Returns how many. */
uint64_t pg_metrics_settle(pg_metrics *metrics, pg_drop reason);

/* Prometheus text format 0.0.4, added to `out`. One caller at a time is enough for its memory to
 * be reused; several are safe. */
void pg_metrics_render(pg_metrics *metrics, pg_text *out);

/* {"final": {"received": {stream: n}, "published": {...}, "dropped": {stream: {reason: n}}}} */
void pg_metrics_render_final(pg_metrics *metrics, pg_text *out);

#endif
