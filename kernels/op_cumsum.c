/* CumSum along one axis: y_i is the sum of the x up to i, or from i on (`reverse`), with or without
 * x_i itself (`exclusive`). What x_j gives to every y_i that contains it comes back to it, so the
 * gradient is the same sum run the other way. */
#include "kernels/op_node.h"

typedef struct cumsum_op {
    pg_op op;
    int64_t outer, length, inner; /* [outer, length, inner], sums along length */
    bool exclusive, reverse;
} cumsum_op;

extern const pg_op_class pg_cumsum_class;

/* The axis is the second input, a constant of one integer. */
static pg_err read_axis(const pg_op_def *def, int *axis, pg_diag *diag) {
    int64_t given[PG_NODE_INTS];
    int count;
    pg_err err = pg_node_ints(def, NULL, 1, given, &count, diag);
    if (!err && count != 1)
        err = pg_node_refuse(def, diag, "its axis must be one constant integer");
    return err ? err : pg_node_axis(def, given[0], def->inputs[0].shape.rank, axis, diag);
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t exclusive, reverse;
    int axis;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_axis(def, &axis, diag);
    if (!err)
        err = pg_def_int(def, "exclusive", 0, &exclusive, diag);
    if (!err)
        err = pg_def_int(def, "reverse", 0, &reverse, diag);
    if (!err)
        err = pg_op_alloc(&pg_cumsum_class, def, sizeof(cumsum_op), 1, out, diag);
    if (err)
        return err;
    cumsum_op *op = (cumsum_op *)*out;
    const pg_shape *src = &def->inputs[0].shape;
    op->outer = op->length = op->inner = 1;
    for (int i = 0; i < src->rank; i++)
        *(i < axis ? &op->outer : i == axis ? &op->length : &op->inner) *= src->dims[i];
    op->exclusive = exclusive != 0;
    op->reverse = reverse != 0;
    op->op.dst[0].shape = *src;
    op->op.layouts = PG_LAYOUTS_PLAIN;
    op->op.flops = (uint64_t)pg_shape_count(src);
    return PG_OK;
}

static void sum_lines(const cumsum_op *op, bool reverse, const float *src, float *dst) {
    int64_t lines = op->outer * op->inner;
#pragma omp parallel for schedule(static) if (lines * op->length > 1 << 15)
    for (int64_t line = 0; line < lines; line++) {
        int64_t at = line / op->inner * op->length * op->inner + line % op->inner;
        double sum = 0;
        for (int64_t k = 0; k < op->length; k++) {
            int64_t i = at + (reverse ? op->length - 1 - k : k) * op->inner;
            double v = (double)src[i];
            dst[i] = (float)(op->exclusive ? sum : sum + v);
            sum += v;
        }
    }
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const cumsum_op *op = (const cumsum_op *)base;
    sum_lines(op, op->reverse, io->src[0], io->dst[0]);
    return PG_OK;
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const cumsum_op *op = (const cumsum_op *)base;
    if (io->d_src[0])
        sum_lines(op, !op->reverse, io->d_dst[0], io->d_src[0]);
    return PG_OK;
}

const pg_op_class pg_cumsum_class = {.create = create, .forward = forward, .backward = backward};
