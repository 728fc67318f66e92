#include "daemon/live.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/clock.h"
#include "daemon/wire.h"
#include "kernels/mem.h"

enum { RATE_SECONDS = 8, VIEW_SECONDS = 10 };

struct pg_live_entry {
    char stream[PG_STREAM_MAX + 1];
    pg_counters *counters;
    bool any;
    pg_facts facts;
    pg_wire_buffer overlay;
    /* results per second, in a ring by second: the current one is not full yet and not shown */
    uint64_t second[RATE_SECONDS];
    uint32_t results[RATE_SECONDS];
    pg_live_entry *next;
};

struct pg_live {
    pthread_mutex_t lock;
    pg_metrics *metrics;
    pg_live_entry *first; /* sorted by name */
    _Atomic uint64_t viewed_until;
};

pg_err pg_live_create(pg_metrics *metrics, pg_live **out, pg_diag *diag) {
    pg_live *live = *out = pg_calloc(1, sizeof *live);
    if (live == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the live page");
    pthread_mutex_init(&live->lock, NULL);
    live->metrics = metrics;
    return PG_OK;
}

static void free_entry(pg_live_entry *entry) {
    pg_wire_buffer_free(&entry->overlay);
    pg_free(entry);
}

void pg_live_destroy(pg_live **live) {
    if (*live == NULL)
        return;
    while ((*live)->first != NULL) {
        pg_live_entry *next = (*live)->first->next;
        free_entry((*live)->first);
        (*live)->first = next;
    }
    pthread_mutex_destroy(&(*live)->lock);
    pg_free(*live);
    *live = NULL;
}

pg_live_entry *pg_live_open(pg_live *live, const char *stream, pg_counters *counters) {
    pg_live_entry *entry = pg_calloc(1, sizeof *entry);
    if (entry == NULL)
        return NULL;
    memcpy(entry->stream, stream, strlen(stream) + 1);
    entry->counters = counters;
    pthread_mutex_lock(&live->lock);
    pg_live_entry **at = &live->first;
    while (*at != NULL && strcmp((*at)->stream, stream) < 0)
        at = &(*at)->next;
    entry->next = *at;
    *at = entry;
    pthread_mutex_unlock(&live->lock);
    return entry;
}

void pg_live_close(pg_live *live, pg_live_entry **entry) {
    pthread_mutex_lock(&live->lock);
    pg_live_entry **at = &live->first;
    while (*at != *entry)
        at = &(*at)->next;
    *at = (*entry)->next;
    pthread_mutex_unlock(&live->lock);
    free_entry(*entry);
    *entry = NULL;
}

void pg_live_update(pg_live *live, pg_live_entry *entry, const pg_facts *facts, pg_bytes overlay) {
    uint64_t second = pg_clock_monotonic() / UINT64_C(1000000000);
    size_t slot = second % RATE_SECONDS;
    pthread_mutex_lock(&live->lock);
    entry->facts = *facts;
    entry->any = true;
    if (entry->second[slot] != second) {
        entry->second[slot] = second;
        entry->results[slot] = 0;
    }
    entry->results[slot]++;
    if (overlay.size > 0 && pg_wire_buffer_reserve(&entry->overlay, overlay.size)) {
        memcpy(entry->overlay.data, overlay.data, overlay.size);
        entry->overlay.size = overlay.size;
    }
    pthread_mutex_unlock(&live->lock);
}

void pg_live_viewed(pg_live *live) {
    atomic_store(&live->viewed_until,
                 pg_clock_monotonic() + VIEW_SECONDS * UINT64_C(1000000000));
}

bool pg_live_is_viewed(const pg_live *live) {
    return pg_clock_monotonic() < atomic_load(&live->viewed_until);
}

/* Results per second over the last full seconds. */
static double rate_of(const pg_live_entry *entry) {
    uint64_t now = pg_clock_monotonic() / UINT64_C(1000000000), results = 0;
    const int window = RATE_SECONDS - 2;
    for (int i = 0; i < RATE_SECONDS; i++)
        if (entry->second[i] < now && now - entry->second[i] <= (uint64_t)window)
            results += entry->results[i];
    return (double)results / window;
}

static void render_entry(pg_live *live, const pg_live_entry *entry, pg_text *out) {
    pg_counts c;
    pg_metrics_read(live->metrics, entry->counters, &c);
    const pg_facts *f = &entry->facts;
    pg_text_add(out, "{\"stream\": ");
    pg_text_add_json(out, entry->stream);
    pg_text_add(out, ", \"received\": %llu, \"published\": %llu, \"in_flight\": %llu, \"gap\": %llu",
                (unsigned long long)c.received, (unsigned long long)c.published,
                (unsigned long long)c.in_flight, (unsigned long long)c.gap);
    pg_text_add(out, ", \"rate\": %.2f, \"dropped\": {", rate_of(entry));
    const char *comma = "";
    for (int r = PG_DROP_NONE + 1; r < PG_DROP_COUNT; r++) {
        if (c.dropped[r] == 0)
            continue;
        pg_text_add(out, "%s\"%s\": %llu", comma, pg_drop_label((pg_drop)r),
                    (unsigned long long)c.dropped[r]);
        comma = ", ";
    }
    pg_text_add(out, "}");
    if (entry->any) {
        int64_t since = pg_clock_wall() - f->ts_ns;
        pg_text_add(out, ", \"seq\": %llu, \"ts\": %lld, \"class\": %lld, \"name\": ",
                    (unsigned long long)f->seq, (long long)f->ts_ns, (long long)f->klass);
        if (f->name[0] != '\0')
            pg_text_add_json(out, f->name);
        else
            pg_text_add(out, "null");
        pg_text_add(out, ", \"probability\": %.6f, \"age\": %.6f, \"since\": %.3f, ",
                    (double)f->probability, (double)f->age_ns * 1e-9,
                    since > 0 ? (double)since * 1e-9 : 0.0);
        pg_text_add(out, "\"total\": %.6f, \"degenerate\": %s, \"method\": ",
                    (double)f->total_ns * 1e-9, f->degenerate ? "true" : "false");
        pg_text_add_json(out, f->method);
    }
    pg_text_add(out, ", \"overlay\": %s}", entry->overlay.size > 0 ? "true" : "false");
}

void pg_live_render(pg_live *live, pg_text *out) {
    pg_text_add(out, "{\"version\": \"%s\", \"streams\": [", PG_VERSION);
    pthread_mutex_lock(&live->lock);
    for (const pg_live_entry *e = live->first; e != NULL; e = e->next) {
        render_entry(live, e, out);
        pg_text_add(out, "%s", e->next != NULL ? ",\n" : "");
    }
    pthread_mutex_unlock(&live->lock);
    pg_text_add(out, "]}\n");
}

bool pg_live_overlay(pg_live *live, const char *stream, uint8_t **jpeg, size_t *size) {
    *jpeg = NULL;
    pthread_mutex_lock(&live->lock);
    for (const pg_live_entry *e = live->first; e != NULL; e = e->next) {
        if (strcmp(e->stream, stream) != 0 || e->overlay.size == 0)
            continue;
        *jpeg = pg_malloc(e->overlay.size);
        if (*jpeg != NULL)
            memcpy(*jpeg, e->overlay.data, e->overlay.size);
        *size = e->overlay.size;
        break;
    }
    pthread_mutex_unlock(&live->lock);
    return *jpeg != NULL;
}
