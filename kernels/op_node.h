/* What most operators ask of their node beyond single attributes: refusals that name it, axes
 * counted from either end, and lists that older opsets give as an attribute and newer ones as a
 * constant input. */
#ifndef PG_KERNELS_OP_NODE_H
#define PG_KERNELS_OP_NODE_H

#include "kernels/op.h"

/* PG_EMODEL with "node 'n' (Type): " before the sentence. */
pg_err pg_node_refuse(const pg_op_def *def, pg_diag *diag, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Refuses unless input 0 is computed at run time and every other input is constant or absent. */
pg_err pg_node_one_input(const pg_op_def *def, pg_diag *diag);

/* The constant given as input `index`, or NULL when it is absent. */
const pg_const *pg_node_constant(const pg_op_def *def, int index);

/* -rank <= axis < rank -> 0 <= *out < rank; refuses anything else. */
pg_err pg_node_axis(const pg_op_def *def, int64_t axis, int rank, int *out, pg_diag *diag);

enum { PG_NODE_INTS = 2 * PG_MAX_RANK };

/* A short list of integers: the attribute `name` (NULL: there is none), or else the constant input
 * `index`. *count is -1 when neither is there. Refuses lists longer than PG_NODE_INTS. */
pg_err pg_node_ints(const pg_op_def *def, const char *name, int index, int64_t out[PG_NODE_INTS],
                    int *count, pg_diag *diag);

/* The same list read as axes of a tensor of `rank`: mask[i] is true for those named; refuses axes
 * out of range or named twice. */
pg_err pg_node_axes(const pg_op_def *def, const char *name, int index, int rank,
                    bool mask[PG_MAX_RANK], int *count, pg_diag *diag);

/* Slice's rule on an axis of `length`, which is numpy's: negative positions count from the end and
 * everything is clamped. Returns the number of places (0: none) and the first one; place i is
 * *first + i * step. `step` is not 0; any other values will do. */
int64_t pg_slice_range(int64_t length, int64_t start, int64_t end, int64_t step, int64_t *first);

#endif
