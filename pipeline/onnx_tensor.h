/* TensorProto -> pg_const. */
#ifndef PG_PIPELINE_ONNX_TENSOR_H
#define PG_PIPELINE_ONNX_TENSOR_H

#include "kernels/op.h"
#include "pipeline/onnx_external.h"
#include "pipeline/onnx_wire.h"
#include "pipeline/pool.h"

/* An initialiser or a tensor attribute: its name and its value, widened to float or int64. The
 * value points into the file where that is possible, else into the pool. A NaN is refused: one
 * would make every logit NaN. Infinity is not: masks and bounds are made of it. */
pg_err pg_onnx_read_tensor(pg_span message, pg_pool *pool, pg_onnx_external *external,
                           pg_span *name, pg_const *out, pg_diag *diag);

#endif
