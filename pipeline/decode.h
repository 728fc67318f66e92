/* Frames to pictures: raw pixels are looked at where they are, JPEG and PNG are decoded.
 *
 * Nothing here trusts the sender: sizes are compared with the bytes that came, the pixel count is
 * checked from the picture's header before any memory is asked for, and a picture that decodes only
 * with warnings is refused. */
#ifndef PG_PIPELINE_DECODE_H
#define PG_PIPELINE_DECODE_H

#include "kernels/err.h"
#include "pipeline/frame.h"

enum { PG_SIDE_MAX = 65535 }; /* of any picture, raw ones too */

/* 8-bit pixels in rows; borrowed from the frame or from the decoder. */
typedef struct pg_picture {
    const uint8_t *data;
    int64_t width, height;
    int64_t stride; /* bytes from row to row */
    int channels;   /* 1: grey, 3 */
    bool bgr;       /* order of the three */
} pg_picture;

/* One worker's decoder: library handles and the buffer pictures are decoded into. */
typedef struct pg_decoder pg_decoder;

/* `max_pixels`: width x height of an encoded picture; 0: 64 Mi. */
pg_err pg_decoder_create(uint64_t max_pixels, pg_decoder **out, pg_diag *diag);
void pg_decoder_destroy(pg_decoder **decoder); /* accepts NULL */

/* Any format but PG_FMT_F32CHW. Encoded pictures must have the frame's width and height, unless
 * both are 0 (not known). The picture is valid until the next call and as long as the frame's
 * bytes. Returns PG_DROP_NONE, or MALFORMED, BAD_SHAPE, TOO_LARGE, INFER_ERROR (no memory). */
pg_drop pg_decode(pg_decoder *decoder, const pg_frame *frame, pg_picture *out, pg_diag *diag);

/* True if the bytes begin like a JPEG / a PNG file, for callers that are not told the format. */
bool pg_bytes_are_jpeg(pg_bytes bytes);
bool pg_bytes_are_png(pg_bytes bytes);

#endif
