/* The newest facts of every stream, for the live page: what it shows, how old, how fast, and the
 * newest overlay. Thread-safe. */
#ifndef PG_DAEMON_LIVE_H
#define PG_DAEMON_LIVE_H

#include "daemon/metrics.h"

typedef struct pg_live pg_live;
typedef struct pg_live_entry pg_live_entry; /* of one stream */

/* What the publish thread reports of a result. */
typedef struct pg_facts {
    uint64_t seq;
    int64_t ts_ns;         /* capture time, or arrival where that lay ahead */
    int64_t klass;
    char name[128];        /* "" without labels */
    float probability;
    char method[32];
    uint64_t age_ns, total_ns;
    bool degenerate;
} pg_facts;

pg_err pg_live_create(pg_metrics *metrics, pg_live **out, pg_diag *diag);
void pg_live_destroy(pg_live **live);

/* A stream comes and goes. `counters` is borrowed until close. NULL: no memory. */
pg_live_entry *pg_live_open(pg_live *live, const char *stream, pg_counters *counters);
void pg_live_close(pg_live *live, pg_live_entry **entry);

/* Takes over a result; `overlay` is copied, and may be empty: the older one stays. */
void pg_live_update(pg_live *live, pg_live_entry *entry, const pg_facts *facts, pg_bytes overlay);

/* Somebody looks: overlays are worth making for the next ten seconds. */
void pg_live_viewed(pg_live *live);
bool pg_live_is_viewed(const pg_live *live);

/* The /streams document: {"streams": [{...}, ...]}, sorted by name. */
void pg_live_render(pg_live *live, pg_text *out);

/* Copies the newest overlay of a stream to *jpeg (a block of mem.h that the caller frees). False:
 * no such stream, no overlay yet, or no memory. */
bool pg_live_overlay(pg_live *live, const char *stream, uint8_t **jpeg, size_t *size);

#endif
