/* What the optimiser may fold into a batch normalisation that stays a node of its own, as between
 * the layers of DenseNet: dst = act(a_c x_c + b_c), with x the concatenation of its inputs. Between
 * create and prepare. */
#ifndef PG_KERNELS_OP_BATCHNORM_H
#define PG_KERNELS_OP_BATCHNORM_H

#include "kernels/op_conv.h"

/* True for BatchNormalization nodes. */
bool pg_op_is_batch_norm(const pg_op *op);

/* dst = act(y), with lo and hi for PG_ACT_CLIP. At most once. */
void pg_batch_norm_absorb_activation(pg_op *op, pg_act act, float lo, float hi);

/* Its input becomes `n` of them, side by side along axis 1 where the one was: `parts` are their
 * shapes. Refuses (returns false, changes nothing) for rank 2 and where memory is out. */
bool pg_batch_norm_absorb_concat(pg_op *op, int n, const pg_desc *parts);

#endif
