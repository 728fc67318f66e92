/* A frame as the pipeline sees it: decoded header, pixels not yet. */
#ifndef PG_PIPELINE_FRAME_H
#define PG_PIPELINE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PG_STREAM_MAX = 128, /* bytes of a stream id, without the NUL */
    PG_BOOT_BYTES = 16,
    PG_TARGET_MAX = 128, /* bytes of a class name */
    PG_METHOD_MAX = 64,  /* bytes of a method's name */
};

typedef enum pg_pixel_format {
    PG_FMT_BGR24,
    PG_FMT_RGB24,
    PG_FMT_GRAY8,
    PG_FMT_JPEG,
    PG_FMT_PNG,
    PG_FMT_F32CHW, /* already what the network takes */
} pg_pixel_format;

typedef struct pg_bytes {
    const uint8_t *data; /* NULL: absent */
    size_t size;
} pg_bytes;

typedef struct pg_frame {
    char stream[PG_STREAM_MAX + 1];
    uint64_t seq;
    uint8_t boot[PG_BOOT_BYTES];
    int64_t ts_ns;      /* capture time, since the epoch */
    int64_t arrival_ns; /* on the daemon's clock, since the epoch */
    pg_pixel_format format;
    int64_t width, height, stride; /* stride in bytes; 0: rows are packed */
    pg_bytes pixels;               /* borrowed from the message */

    /* what to explain; neither: the stream's or the configuration's own target */
    int64_t target_class;                /* -1: not given */
    char target_name[PG_TARGET_MAX + 1]; /* "": not given */

    char method[PG_METHOD_MAX + 1]; /* how to explain; "": the stream's or the configuration's */

    bool has_roi;
    double roi[4];     /* x, y, width, height in frame pixels */
    bool has_decision; /* what the production model said */
    int64_t decision_class;
    double decision_score;
    int64_t label;        /* ground truth, -1: not given */
    pg_bytes meta, trace; /* raw msgpack values, passed through; borrowed */
} pg_frame;

/* Why a frame was dropped (drop.def). PG_DROP_NONE: it was not. */
typedef enum pg_drop {
    PG_DROP_NONE,
#define PG_DROP(symbol, label, prose) PG_DROP_##symbol,
#include "pipeline/drop.def"
#undef PG_DROP
    PG_DROP_COUNT
} pg_drop;

/* The label of drop.def, "none" for PG_DROP_NONE. */
const char *pg_drop_label(pg_drop drop);

#endif
