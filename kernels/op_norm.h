/* Normalisation by statistics of the value itself: over groups of elements
 *
 *     y = (x - mean) * rate * scale + bias        rate = 1 / sqrt(variance + epsilon)
 *
 * which is all that InstanceNormalization, GroupNormalization, LayerNormalization and
 * MeanVarianceNormalization do (op_norm.c says which elements form a group for each of them,
 * op_norm_core.c computes). Mean and variance depend on x, and the gradient says so. */
#ifndef PG_KERNELS_OP_NORM_H
#define PG_KERNELS_OP_NORM_H

#include "kernels/op.h"

/* One more axis than a tensor may have: the channels can be split into groups of channels. */
enum { PG_NORM_RANK = PG_MAX_RANK + 1 };

typedef enum pg_norm_affine {
    PG_NORM_NO_AFFINE,
    PG_NORM_PER_CHANNEL, /* axis 1 of the tensor */
    PG_NORM_TRAILING,    /* every element of the last axes, plain layout only */
} pg_norm_affine;

typedef struct pg_norm_spec {
    /* The tensor's axes in ONNX order, and which of them a mean runs over. With `split`, axis 1 is
     * two of them: groups, and channels of a group. */
    int rank;
    bool split;
    int64_t dims[PG_NORM_RANK];
    bool over[PG_NORM_RANK];
    double epsilon;
    bool epsilon_outside; /* rate = 1 / (sqrt(variance) + epsilon) */
    pg_norm_affine affine;
    float *scale, *bias; /* [n], owned by whoever holds the spec */
    int64_t n;
    pg_layout_policy layouts;
} pg_norm_spec;

/* Makes the operator; takes scale and bias, also on failure. Refuses axes in an order that no loop
 * here walks. */
pg_err pg_norm_create(const pg_op_def *def, pg_norm_spec *take, pg_op **out, pg_diag *diag);

#endif
