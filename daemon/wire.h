/* Wire format 1 (clients/WIRE.md): bytes <-> frame and explanation. The only module that knows
 * msgpack. Everything that comes in is hostile: a header is walked within fixed bounds, without
 * allocating, before a single value of it is used. */
#ifndef PG_DAEMON_WIRE_H
#define PG_DAEMON_WIRE_H

#include "daemon/config.h"
#include "pipeline/frame.h"
#include "pipeline/pipeline.h"

enum {
    PG_WIRE_PARTS = 3,          /* of a frame */
    PG_WIRE_META_DEPTH = 8,     /* containers inside each other in `meta` */
    PG_WIRE_NODES_MAX = 16384,  /* values in one header */
    PG_WIRE_HEADER_BYTES = 65536, /* of one header, beside meta and trace */
};

/* Where messages without a readable stream id are counted. */
#define PG_STREAM_UNKNOWN "_unknown"

typedef struct pg_wire_limits {
    uint64_t frame_bytes, meta_bytes;
} pg_wire_limits;

/* True if the bytes are a stream id as WIRE.md wants it. */
bool pg_wire_stream_id_valid(const uint8_t *text, size_t size);

/* The stream a message counts under: copies its first part, or PG_STREAM_UNKNOWN if there is none
 * or it is no stream id, into `stream`. Returns whether it was readable. */
bool pg_wire_read_stream(const pg_bytes *parts, int n_parts, char stream[PG_STREAM_MAX + 1]);

/* Checks that `bytes` is exactly one well-formed msgpack value, nested at most `max_depth` and of
 * at most PG_WIRE_NODES_MAX values, with every declared length inside it. Allocates nothing. */
bool pg_wire_check(pg_bytes bytes, int max_depth);

/* Decodes the parts of a frame. All of *frame but arrival_ns is written; what it points to is
 * borrowed from the parts. `header_read` tells whether seq and boot can be believed, which they
 * may although the frame is dropped (a wrong size). Returns PG_DROP_NONE or the reason, with the
 * sentence in diag. Allocates nothing. */
pg_drop pg_wire_decode(const pg_bytes *parts, int n_parts, const pg_wire_limits *limits,
                       pg_frame *frame, bool *header_read, pg_diag *diag);

/* A buffer that grows and is used again. Zero-initialise; pg_wire_buffer_free at the end. */
typedef struct pg_wire_buffer {
    uint8_t *data;
    size_t size, capacity;
} pg_wire_buffer;

/* Makes room for `size` bytes in all; false: out of memory, contents unchanged. */
bool pg_wire_buffer_reserve(pg_wire_buffer *buffer, size_t size);
void pg_wire_buffer_free(pg_wire_buffer *buffer);

/* Places of the figures that are known only when the result is sent, in bytes from the start of
 * the header; pg_wire_patch fills them in. */
typedef struct pg_wire_patches {
    size_t age, publish, total;
} pg_wire_patches;

/* What a result says beside the explanation itself. Strings are borrowed. */
typedef struct pg_wire_context {
    const pg_explain_options *options;
    const char *model_sha256, *stats_sha256, *precision;
    const pg_config *config; /* values of the method's own keys; NULL: they are left out */
} pg_wire_context;

/* Key `index` of the configuration that the method reads beside parchgrad.*, into `key`; false
 * beyond the last. */
enum { PG_WIRE_KEY = 64 };
bool pg_wire_param(const char *method, int index, char key[PG_WIRE_KEY]);

/* Writes the saliency header of `frame` into `buffer` (replacing what was there). `scale`, `zero`
 * are those of pg_wire_encode_map. PG_ENOMEM. */
pg_err pg_wire_encode_header(const pg_frame *frame, const pg_explanation *explanation,
                             const pg_wire_context *context, double scale, int zero,
                             pg_wire_buffer *buffer, pg_wire_patches *patches);

/* Writes age, publish time and total (all ns) into a header that pg_wire_encode_header made. */
void pg_wire_patch(pg_wire_buffer *buffer, const pg_wire_patches *patches, uint64_t age,
                   uint64_t publish, uint64_t total);

/* Stores the map as u8 with value = (stored - zero) * scale. Maps without negative values use all
 * 256 steps from 0 to their maximum; others are centred on 128. PG_ENOMEM. */
pg_err pg_wire_encode_map(const pg_explanation *explanation, pg_wire_buffer *buffer, double *scale,
                          int *zero);

/* The header of an rpc reply that says why a request was dropped. PG_ENOMEM. */
pg_err pg_wire_encode_error(pg_drop drop, const char *message, pg_wire_buffer *buffer);

#endif
