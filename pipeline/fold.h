/* Constant folding: what can be computed when the model is loaded.
 *
 * Exporters write shape arithmetic (Shape, Gather, Concat, Reshape...) and weight plumbing
 * (Identity, Transpose, DequantizeLinear) as nodes. Batch size and image size are fixed here, so
 * every shape is known and all of that collapses to constants. Values are float or int64 (bool
 * counts as int64), and bounded: ConstantOfShape, Expand and Range can ask for any amount of
 * memory.
 */
#ifndef PG_PIPELINE_FOLD_H
#define PG_PIPELINE_FOLD_H

#include "kernels/op.h"
#include "pipeline/pool.h"

typedef struct pg_folder {
    pg_pool *pool;    /* results live here */
    int64_t elements; /* read and produced so far: the work done */
    int64_t extra;    /* how many more than PG_FOLD_MAX_TOTAL that may be: in proportion to the file */
} pg_folder;

#define PG_FOLD_MAX_VALUE ((int64_t)1 << 25)
#define PG_FOLD_MAX_TOTAL ((int64_t)1 << 25)
#define PG_FOLD_PER_BYTE 16 /* 4-bit weights, widened, scaled, and moved about some times */

/* True if a node of this type can be evaluated when all its inputs are constant. */
bool pg_fold_known(const char *type);

/* True if a node of this type is constant whatever its inputs are (Shape, Size): only their shapes
 * count. */
bool pg_fold_needs_shape_only(const char *type);

/* Evaluates the node: out[0..n_outputs), at least one; those its operator does not make keep their
 * NULL data. Every present input must be constant, but
 * for the types above. Results may share an input's data. PG_EMODEL with a sentence that does not
 * name the node: the caller adds it. */
pg_err pg_fold(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);

#endif
