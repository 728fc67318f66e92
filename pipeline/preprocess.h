/* Pictures to network inputs, as torchvision does it with PIL pictures: Resize (antialiased
 * bilinear), CenterCrop, ToTensor, Normalize; to the bit up to ToTensor. */
#ifndef PG_PIPELINE_PREPROCESS_H
#define PG_PIPELINE_PREPROCESS_H

#include "kernels/tensor.h"
#include "pipeline/decode.h"
#include "pipeline/options.h"

/* One worker's; buffers grow only when a larger picture than any before arrives. */
typedef struct pg_preprocess pg_preprocess;

/* `input`: [1,C,H,W] with C 3, or 1 (then the picture is turned grey by ITU-R 601 first). Options
 * are copied. mean and std are in the network's channel order. PG_ECONFIG: std or scale is not a
 * positive number, mean not finite. */
pg_err pg_preprocess_create(const pg_input_options *options, const pg_shape *input,
                            pg_preprocess **out, pg_diag *diag);
void pg_preprocess_destroy(pg_preprocess **preprocess); /* accepts NULL */

/* Resizes, crops and normalises into dst, the network's input in `layout`. A picture that already
 * has the network's size is neither resized nor cropped. INFER_ERROR: no memory. */
pg_drop pg_preprocess_picture(pg_preprocess *preprocess, const pg_picture *picture, float *dst,
                              pg_layout layout, pg_diag *diag);

/* A PG_FMT_F32CHW frame: checked and copied. BAD_SHAPE: not the network's size; MALFORMED: NaN or
 * infinity. What dst holds must still be there when pg_preprocess_rgb is called. */
pg_drop pg_preprocess_tensor(pg_preprocess *preprocess, const pg_frame *frame, float *dst,
                             pg_layout layout, pg_diag *diag);

/* The last picture as the network saw it, RGB [H,W,3]; a tensor is brought back from dst by the
 * inverse of the normalisation, when this is first called. Valid until the next call. */
const uint8_t *pg_preprocess_rgb(pg_preprocess *preprocess);

/* How points of the last input go back to the frame: [a b c d e f], x = a X + b Y + c,
 * y = d X + e Y + f. Points, not pixel numbers: pixel 0 reaches from 0 to 1, in both. */
void pg_preprocess_transform(const pg_preprocess *preprocess, double transform[6]);

#endif
