/* What an ONNX Conv node says about shapes, checked and in one form. */
#ifndef PG_KERNELS_CONV_GEOMETRY_H
#define PG_KERNELS_CONV_GEOMETRY_H

#include "kernels/conv_path.h"

/* Reads group, strides, dilations, pads, auto_pad, kernel_shape and the shapes of inputs 0 and 1
 * (input, weights), which must be present. Accepts one and two spatial axes; batch must be 1.
 * PG_EMODEL with a sentence that names the node otherwise. *dst gets the output shape. */
pg_err pg_conv_geometry_read(const pg_op_def *def, pg_conv_geometry *out, pg_shape *dst,
                             pg_diag *diag);

#endif
