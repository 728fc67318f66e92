/* Walking several tensors at once: the one loop nest behind every operator that moves, slices,
 * joins, broadcasts or sums (Concat, Slice, Pad, Transpose, ReduceMean, Sum, ...).
 *
 * A walk runs over the index space of a shape. Each operand has one element stride per axis, 0
 * where it is broadcast, negative where it runs backwards. Axes are sorted so that operand 0 is
 * traversed in memory order, and merged where every operand allows it, so that rows are long and
 * two layouts of one shape need no code of their own.
 */
#ifndef PG_KERNELS_WALK_H
#define PG_KERNELS_WALK_H

#include "kernels/tensor.h"

enum { PG_WALK_OPERANDS = 4 };

typedef struct pg_walk {
    int rank; /* >= 1; the last axis is the row */
    int operands;
    int64_t dims[PG_MAX_RANK];
    int64_t stride[PG_WALK_OPERANDS][PG_MAX_RANK];
    int64_t rows; /* product of all dims but the last */
} pg_walk;

/* `dims` are positive. `strides[i]` are those of operand i in the same axis order. */
void pg_walk_init(pg_walk *walk, int rank, const int64_t *dims, int operands,
                  const int64_t *const *strides);

/* Element offset of each operand at the start of row `row`. */
void pg_walk_row(const pg_walk *walk, int64_t row, int64_t offset[PG_WALK_OPERANDS]);

/* Operand 0 = operand 1; operand 0 must not be broadcast. Runs in parallel when it is large. */
void pg_walk_copy(const pg_walk *walk, float *dst, const float *src);

/* Operand 0 = scale * operand 1, likewise. */
void pg_walk_scale(const pg_walk *walk, float scale, float *dst, const float *src);

/* Operand 1, `sums`, += operand 0: sums over the axes along which operand 1 is broadcast. In double,
 * by one thread in one order, so that the result does not depend on the team's size. */
void pg_walk_sum(const pg_walk *walk, const float *src, double *sums);

#endif
