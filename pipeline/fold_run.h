/* The last resort of constant folding: what the folder's own rules do not know (a convolution of a
 * constant picture, say) is computed by the operator itself, once, when the model is loaded. */
#ifndef PG_PIPELINE_FOLD_RUN_H
#define PG_PIPELINE_FOLD_RUN_H

#include "pipeline/fold.h"

/* Evaluates a node whose inputs are all constant and whose first one is floating point: its first
 * output. The type must be in op_table.def. PG_EMODEL: the operator refuses, or it would take more
 * than a second's work. The sentence names the node. */
pg_err pg_fold_run(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);

#endif
