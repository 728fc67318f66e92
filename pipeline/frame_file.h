/* A picture file as a frame. */
#ifndef PG_PIPELINE_FRAME_FILE_H
#define PG_PIPELINE_FRAME_FILE_H

#include "kernels/err.h"
#include "pipeline/frame.h"

/* Fills *frame from the bytes of a JPEG, PNG or .npy file ([3,H,W] or [1,3,H,W] of float32), told
 * apart by their first bytes; pixels are borrowed. PG_EINPUT: none of these. */
pg_err pg_frame_of_file(const uint8_t *data, size_t size, pg_frame *frame, pg_diag *diag);

#endif
