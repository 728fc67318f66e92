/* RGB pictures to JPEG and PNG. */
#ifndef PG_PIPELINE_IMAGE_WRITE_H
#define PG_PIPELINE_IMAGE_WRITE_H

#include <stdint.h>

#include "kernels/err.h"
#include "pipeline/frame.h"

/* A JPEG encoder with its output buffer, for pictures of one size. */
typedef struct pg_jpeg_writer pg_jpeg_writer;

pg_err pg_jpeg_writer_create(int64_t width, int64_t height, pg_jpeg_writer **out, pg_diag *diag);
void pg_jpeg_writer_destroy(pg_jpeg_writer **writer); /* accepts NULL */

/* Encodes rgb [height, width, 3]; quality 1 .. 100. Valid until the next call; empty on failure. */
pg_bytes pg_jpeg_write(pg_jpeg_writer *writer, const uint8_t *rgb, int quality);

/* Encodes as PNG; the caller gives *data back with pg_free. PG_EFAIL, PG_ENOMEM. */
pg_err pg_png_write(const uint8_t *rgb, int64_t width, int64_t height, uint8_t **data, size_t *size,
                    pg_diag *diag);

/* Writes a file, PNG or JPEG (quality 92) by the end of its name: .png, .jpg, .jpeg; PG_ECONFIG for
 * any other. */
pg_err pg_image_save(const char *path, const uint8_t *rgb, int64_t width, int64_t height,
                     pg_diag *diag);

#endif
