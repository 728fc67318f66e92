/* The engine of every operator that only says where each element of its result comes from: Slice,
 * Gather, Pad, Tile, Transpose, DepthToSpace, nearest-neighbour Resize, ...
 *
 * The result is cut into a few axes (of its shape, or parts and products of those), each with one
 * table: the position in the source that every place along it reads, -1 for padding. The source of
 * an element is the sum of what its axes say. Nothing in this depends on where the bytes lie, so
 * both layouts are served by the same tables: prepare turns positions into element offsets, sorts
 * the axes as the result lies in memory and joins what can be joined, so that rows get long.
 *
 * An operator of this kind is only its create function; the rest of its class is PG_INDEX_CLASS. */
#ifndef PG_KERNELS_INDEX_MAP_H
#define PG_KERNELS_INDEX_MAP_H

#include "kernels/op_node.h"

/* In place of an axis: positions are elements of the whole plain tensor. */
enum { PG_INDEX_FLAT = -1 };

typedef struct pg_index_axis {
    int64_t n;
    int src_axis; /* which axis of the source its positions count, or PG_INDEX_FLAT */
    int dst_axis; /* which axis of the result it is a part of, or PG_INDEX_FLAT; any if n is 1 */
    int64_t dst_step; /* positions of dst_axis from one place to the next */
    int64_t *from;    /* [n], -1: padding; made by pg_index_new, filled by the caller; owned.
                         (prepare) element offsets */
    bool run;         /* (prepare) from[i] is from[0] + i */
    unsigned walks;   /* (prepare) a bit for every source axis whose position it decides */
} pg_index_axis;

/* An axis as pg_index_new takes it. */
static inline pg_index_axis pg_index_part(int64_t n, int src_axis, int dst_axis, int64_t dst_step) {
    return (pg_index_axis){
        .n = n, .src_axis = src_axis, .dst_axis = dst_axis, .dst_step = dst_step};
}

typedef struct pg_index_op {
    pg_op op;
    int n_axes;
    pg_index_axis axes[PG_MAX_RANK]; /* (prepare) outermost in memory first; at least one */
    float fill;                      /* the padding */
    bool sums; /* (prepare) backward adds many values to one: in double, in scratch */
    /* (prepare) for backward: the outer axis whose places, sorted by what they read, split the
     * work among threads that never meet, -1: none. order[start[g]..start[g+1]) read alike. */
    int split_axis;
    int64_t *order, *start, n_groups;
} pg_index_op;

/* Makes the operator with a table for each of the `n_axes` axes that count up from 0, and
 * PG_LAYOUTS_PLAIN. Refuses results that are too large; empty ones are left to pg_op_create. */
pg_err pg_index_new(const pg_op_class *cls, const pg_op_def *def, const pg_shape *dst,
                    const pg_index_axis *axes, int n_axes, pg_index_op **op, pg_op **out,
                    pg_diag *diag);

/* The same with one axis for each of dst's, which reads the source's axis of that number; with
 * PG_LAYOUTS_SAME. */
pg_err pg_index_new_same(const pg_op_class *cls, const pg_op_def *def, const pg_shape *dst,
                         pg_index_op **op, pg_op **out, pg_diag *diag);

pg_err pg_index_prepare(pg_op *op, pg_diag *diag);
pg_err pg_index_forward(const pg_op *op, const pg_op_io *io);
pg_err pg_index_backward(const pg_op *op, const pg_op_io *io);
void pg_index_destroy(pg_op *op);

#define PG_INDEX_CLASS(create_function)                                                            \
    {                                                                                              \
        .create = create_function, .prepare = pg_index_prepare, .forward = pg_index_forward,       \
        .backward = pg_index_backward, .destroy = pg_index_destroy                                 \
    }

#endif
