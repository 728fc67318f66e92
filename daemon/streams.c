#include "daemon/streams.h"

#include <string.h>

#include "kernels/mem.h"

static size_t bucket_of(const char *id) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *id != '\0'; id++)
        hash = (hash ^ (uint8_t)*id) * 16777619u;
    return hash % PG_STREAM_BUCKETS;
}

static bool grow_pool(pg_streams *s, int messages) {
    for (int i = 0; i < messages; i++) {
        pg_message *m = pg_calloc(1, sizeof *m);
        if (m == NULL)
            return false;
        m->next = s->pool;
        s->pool = m;
    }
    return true;
}

static void shrink_pool(pg_streams *s, int messages) {
    while (messages-- > 0 && s->pool != NULL) {
        pg_message *m = s->pool;
        s->pool = m->next;
        pg_free(m);
    }
}

static void free_stream(pg_streams *s, pg_stream *stream) {
    if (stream->live != NULL)
        pg_live_close(s->live, &stream->live);
    if (stream->counters != NULL)
        pg_metrics_close(s->metrics, &stream->counters);
    pg_free(stream->ring);
    pg_free(stream);
}

static pg_stream *open_stream(pg_streams *s, const char *id) {
    pg_stream *stream = pg_calloc(1, sizeof *stream);
    if (stream == NULL)
        return NULL;
    memcpy(stream->id, id, strlen(id) + 1);
    stream->config = pg_config_stream(s->config, id);
    stream->named = stream->config->id != NULL;
    stream->capacity = stream->config->policy == PG_POLICY_NEWEST ? 1 : stream->config->depth;
    stream->ring = pg_calloc((size_t)stream->capacity, sizeof *stream->ring);
    stream->counters = pg_metrics_open(s->metrics, id);
    if (stream->counters != NULL)
        stream->live = pg_live_open(s->live, id, stream->counters);
    if (stream->ring == NULL || stream->live == NULL || !grow_pool(s, stream->capacity)) {
        free_stream(s, stream);
        return NULL;
    }
    size_t at = bucket_of(id);
    stream->next_hash = s->bucket[at];
    s->bucket[at] = stream;
    s->count++;
    return stream;
}

static void close_stream(pg_streams *s, pg_stream *stream) {
    pg_stream **at = &s->bucket[bucket_of(stream->id)];
    while (*at != stream)
        at = &(*at)->next_hash;
    *at = stream->next_hash;
    s->count--;
    shrink_pool(s, stream->capacity);
    free_stream(s, stream);
}

/* Makes the stream that was idle longest give up its place. */
static bool make_room(pg_streams *s, int64_t now_ns) {
    int64_t limit = now_ns - (int64_t)(s->config->limits.stream_idle * 1e9);
    pg_stream *idlest = NULL;
    for (int b = 0; b < PG_STREAM_BUCKETS; b++)
        for (pg_stream *stream = s->bucket[b]; stream != NULL; stream = stream->next_hash)
            if (!stream->named && stream->in_flight == 0 && stream->last_ns < limit &&
                (idlest == NULL || stream->last_ns < idlest->last_ns))
                idlest = stream;
    if (idlest == NULL)
        return false;
    close_stream(s, idlest);
    return true;
}

pg_stream *pg_streams_get(pg_streams *s, const char *id, int64_t now_ns) {
    for (pg_stream *stream = s->bucket[bucket_of(id)]; stream != NULL; stream = stream->next_hash)
        if (strcmp(stream->id, id) == 0)
            return stream;
    if (s->count >= s->config->limits.streams && !make_room(s, now_ns))
        return NULL;
    return open_stream(s, id);
}

pg_err pg_streams_init(pg_streams *s, const pg_config *config, pg_metrics *metrics, pg_live *live,
                       int messages, pg_diag *diag) {
    *s = (pg_streams){.config = config, .metrics = metrics, .live = live};
    bool ok = grow_pool(s, messages);
    for (int i = 0; ok && i < config->n_streams; i++)
        ok = open_stream(s, config->streams[i].id) != NULL;
    return ok ? PG_OK : pg_fail(diag, PG_ENOMEM, "no memory for %d streams", config->n_streams);
}

void pg_streams_fini(pg_streams *s) {
    for (int b = 0; b < PG_STREAM_BUCKETS; b++)
        while (s->bucket[b] != NULL)
            close_stream(s, s->bucket[b]);
    while (s->pool != NULL)
        shrink_pool(s, 1);
}

/* Moves the producer to the front, taking it in if it is new. Returns whether it was known. */
static bool bring_to_front(pg_stream *s, const uint8_t boot[PG_BOOT_BYTES]) {
    int at = 0;
    while (at < s->n_producers && memcmp(s->producer[at].boot, boot, PG_BOOT_BYTES) != 0)
        at++;
    bool known = at < s->n_producers;
    if (!known && s->n_producers < PG_STREAM_BOOTS)
        s->n_producers++;
    if (!known)
        at = s->n_producers - 1;
    uint64_t highest = s->producer[at].highest;
    memmove(&s->producer[1], &s->producer[0], (size_t)at * sizeof s->producer[0]);
    memcpy(s->producer[0].boot, boot, PG_BOOT_BYTES);
    s->producer[0].highest = highest;
    return known;
}

pg_seq pg_stream_note_seq(pg_stream *stream, const pg_frame *frame, uint64_t *gap) {
    *gap = 0;
    bool known = bring_to_front(stream, frame->boot);
    uint64_t *highest = &stream->producer[0].highest;
    if (known && frame->seq <= *highest)
        return PG_SEQ_OLD;
    if (known) {
        /* a jump of 2^32 or more is a counter gone wrong, not so many lost frames */
        uint64_t jump = frame->seq - *highest;
        *gap = jump < UINT64_C(1) << 32 ? jump - 1 : 0;
    }
    *highest = frame->seq;
    return PG_SEQ_GOOD;
}
