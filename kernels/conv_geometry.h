/* What an ONNX Conv or ConvTranspose node says about its operands, checked and in one form. */
#ifndef PG_KERNELS_CONV_GEOMETRY_H
#define PG_KERNELS_CONV_GEOMETRY_H

#include "kernels/conv_path.h"

/* Reads a Conv node: checks that the input (0) is computed and weights (1) and bias (2, optional)
 * are constants that fit it, then group, strides, dilations, pads, auto_pad and kernel_shape.
 * Accepts one and two spatial axes; batch must be 1. PG_EMODEL with a sentence that names the node
 * otherwise. *dst gets the output shape. */
pg_err pg_conv_geometry_read(const pg_op_def *def, pg_conv_geometry *out, pg_shape *dst,
                             pg_diag *diag);

/* The same for a ConvTranspose node, with output_padding and output_shape. *out is the convolution
 * that leads from the node's output back to its input: its in_* are the node's output, its out_*
 * the node's input, and the weights [C_in, C_out / group, kH, kW] are its own as they are. */
pg_err pg_conv_transpose_geometry_read(const pg_op_def *def, pg_conv_geometry *out, pg_shape *dst,
                                       pg_diag *diag);

/* Multiplications and additions of one call, in either direction. */
uint64_t pg_conv_flops(const pg_conv_geometry *geometry);

#endif
