/* What stands around a batch normalisation that no convolution takes, as in DenseNet: concatenation
 * of channels, BatchNormalization, ReLU or Clip become one operator (op_batchnorm.h). */
#include <math.h>

#include "kernels/op_batchnorm.h"
#include "pipeline/optimise_impl.h"

/* A Concat of computed values along axis 1: each has the rank of the result. */
static bool joins_channels(const pg_node *concat) {
    const struct pg_op *op = concat->op;
    int64_t channels = 0, axis;
    if (pg_def_int(concat->def, "axis", 1, &axis, NULL) != PG_OK ||
        (axis != 1 && axis + op->dst[0].shape.rank != 1))
        return false;
    for (int k = 0; k < op->n_src; k++)
        channels += op->src[k].shape.dims[1];
    return channels == op->dst[0].shape.dims[1]; /* and no part is constant */
}

pg_err pg_rule_norm_concat(pg_rewriter *r, pg_node *norm, pg_diag *diag) {
    (void)diag;
    pg_node *concat = norm->op->n_src == 1 ? pg_maker_for_one(r, norm->src[0], "Concat") : NULL;
    if (!r->fuse_concat || concat == NULL || !pg_op_is_batch_norm(norm->op) || !joins_channels(concat) ||
        !pg_batch_norm_absorb_concat(norm->op, concat->op->n_src, concat->op->src))
        return PG_OK;
    norm->src = concat->src;
    pg_op_destroy(&concat->op);
    return PG_OK;
}

pg_err pg_rule_norm_activation(pg_rewriter *r, pg_node *act, pg_diag *diag) {
    (void)diag;
    pg_node *norm = act->op != NULL && act->op->n_src == 1
                        ? pg_maker_for_one(r, act->src[0], "BatchNormalization")
                        : NULL;
    float lo = 0, hi = 0;
    if (norm == NULL || !pg_op_is_batch_norm(norm->op) || norm->has_act)
        return PG_OK;
    if (pg_node_is(act, "Relu"))
        pg_batch_norm_absorb_activation(norm->op, PG_ACT_RELU, 0, INFINITY);
    else if (pg_clip_bounds(act, &lo, &hi) && isfinite(lo) && isfinite(hi) && lo < hi)
        pg_batch_norm_absorb_activation(norm->op, PG_ACT_CLIP, lo, hi);
    else
        return PG_OK;
    norm->has_act = true;
    pg_take_over(r, norm, act);
    return PG_OK;
}
