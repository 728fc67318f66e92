/* PNG to 8-bit RGB, in memory that is allocated once. */
#ifndef PG_PIPELINE_DECODE_PNG_H
#define PG_PIPELINE_DECODE_PNG_H

#include "kernels/err.h"
#include "pipeline/buffer.h"
#include "pipeline/frame.h"

/* Zero-initialise. libpng and zlib take what they need from `arena`, from the start for every
 * picture, so that decoding allocates only when a wider picture than any before arrives. */
typedef struct pg_png_reader {
    pg_buffer arena;
    size_t used, last; /* bytes taken; where the newest block begins */
} pg_png_reader;

void pg_png_reader_free(pg_png_reader *reader);

/* Width and height as the header says; false: not a PNG. */
bool pg_png_size(pg_bytes bytes, uint32_t *width, uint32_t *height);

/* Decodes into rgb [h, w, 3] of the size pg_png_size gave. 16 bits become 8 by dropping the lower
 * byte, grey and palette become RGB, alpha is dropped. PG_EINPUT: broken. PG_ENOMEM. */
pg_err pg_png_read(pg_png_reader *reader, pg_bytes bytes, uint8_t *rgb, pg_diag *diag);

#endif
