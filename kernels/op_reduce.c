/* ReduceMean and ReduceSum: over all axes, or those an attribute (older opsets) or a constant input
 * (newer ones) names. With kept dimensions or without, the result's elements are the same, so the
 * walk sees the input's axes with stride 0 in the result where they are summed. */
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/walk.h"

typedef struct reduce_op {
    pg_op op;
    bool summed[PG_MAX_RANK];
    bool keep;
    float scale; /* of the sum: 1, or 1 / number of elements in it */
} reduce_op;

extern const pg_op_class pg_reduce_class;

/* Which axes to sum. None named means all, unless noop_with_empty_axes. */
static pg_err read_axes(const pg_op_def *def, reduce_op *op, pg_diag *diag) {
    bool sum = strcmp(def->type, "ReduceSum") == 0;
    const char *attr = def->opset < (sum ? 13 : 18) ? "axes" : NULL;
    int rank = def->inputs[0].shape.rank, count;
    int64_t keep, noop;
    pg_err err = pg_node_axes(def, attr, 1, rank, op->summed, &count, diag);
    if (!err)
        err = pg_def_int(def, "keepdims", 1, &keep, diag);
    if (!err)
        err = pg_def_int(def, "noop_with_empty_axes", 0, &noop, diag);
    if (err)
        return err;
    op->keep = keep != 0;
    if (count <= 0 && !noop)
        for (int i = 0; i < rank; i++)
            op->summed[i] = true;
    return PG_OK;
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    reduce_op what = {.scale = 1.0f};
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_axes(def, &what, diag);
    if (!err)
        err = pg_op_alloc(&pg_reduce_class, def, sizeof(reduce_op), 1, out, diag);
    if (err)
        return err;
    reduce_op *op = (reduce_op *)*out;
    const pg_shape *in = &def->inputs[0].shape;
    pg_shape *dst = &op->op.dst[0].shape;
    int64_t summed = 1;
    for (int i = 0; i < in->rank; i++) {
        if (what.summed[i])
            summed *= in->dims[i];
        if (!what.summed[i] || what.keep)
            dst->dims[dst->rank++] = what.summed[i] ? 1 : in->dims[i];
    }
    memcpy(op->summed, what.summed, sizeof op->summed);
    op->keep = what.keep;
    op->scale = strcmp(def->type, "ReduceMean") == 0 ? (float)(1.0 / (double)summed) : 1.0f;
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.flops = (uint64_t)pg_shape_count(in);
    return PG_OK;
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    (void)diag;
    op->scratch_bytes = (size_t)pg_shape_count(&op->dst[0].shape) * sizeof(double);
    return PG_OK;
}

static void make_walk(const reduce_op *op, pg_walk *walk) {
    int64_t src[PG_MAX_RANK], dst[PG_MAX_RANK], wide[PG_MAX_RANK];
    const pg_shape *in = &op->op.src[0].shape;
    pg_desc_strides(&op->op.src[0], src);
    pg_desc_strides(&op->op.dst[0], dst);
    for (int i = 0, next = 0; i < in->rank; i++) {
        wide[i] = op->summed[i] ? 0 : dst[next];
        next += !op->summed[i] || op->keep;
    }
    pg_walk_init(walk, in->rank, in->dims, 2, (const int64_t *[]){src, wide});
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const reduce_op *op = (const reduce_op *)base;
    double *sums = io->scratch;
    int64_t count = pg_shape_count(&base->dst[0].shape);
    memset(sums, 0, (size_t)count * sizeof *sums);
    pg_walk walk;
    make_walk(op, &walk);
    pg_walk_sum(&walk, io->src[0], sums);
    for (int64_t i = 0; i < count; i++)
        io->dst[0][i] = (float)(sums[i] * (double)op->scale);
    return PG_OK;
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const reduce_op *op = (const reduce_op *)base;
    if (!io->d_src[0])
        return PG_OK;
    pg_walk walk;
    make_walk(op, &walk);
    pg_walk_scale(&walk, op->scale, io->d_src[0], io->d_dst[0]);
    return PG_OK;
}

const pg_op_class pg_reduce_class = {
    .create = create, .prepare = prepare, .forward = forward, .backward = backward};
