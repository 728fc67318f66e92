/* LpNormalization: every line of elements along one axis, divided by its norm n = (sum |x|^p)^(1/p)
 * with p = 1 or 2.
 *
 *     d_x = (d_y - u * sum d_y y) / n        u = y for p = 2, sign(x) for p = 1
 *
 * A line of zeros stays zero, and so does its gradient: there is no finite answer. */
#include <math.h>

#include "kernels/op_node.h"

typedef struct lp_op {
    pg_op op;
    int axis;
    bool squares;                 /* p = 2 */
    int64_t outer, length, inner; /* (prepare) memory as [outer, length, inner] */
} lp_op;

extern const pg_op_class pg_lp_norm_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t given, p;
    int axis = 0;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_int(def, "axis", -1, &given, diag);
    if (!err)
        err = pg_node_axis(def, given, def->inputs[0].shape.rank, &axis, diag);
    if (!err)
        err = pg_def_int(def, "p", 2, &p, diag);
    if (!err && p != 1 && p != 2)
        err = pg_node_refuse(def, diag, "p must be 1 or 2");
    if (!err)
        err = pg_op_alloc(&pg_lp_norm_class, def, sizeof(lp_op), 1, out, diag);
    if (err)
        return err;
    lp_op *op = (lp_op *)*out;
    op->axis = axis;
    op->squares = p == 2;
    op->op.dst[0].shape = def->inputs[0].shape;
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.keeps_dst = true;
    op->op.flops = 3 * (uint64_t)pg_shape_count(&def->inputs[0].shape);
    return PG_OK;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    lp_op *op = (lp_op *)base;
    int64_t strides[PG_MAX_RANK], count = pg_shape_count(&base->src[0].shape);
    (void)diag;
    pg_desc_strides(&base->src[0], strides);
    op->length = base->src[0].shape.dims[op->axis];
    op->inner = strides[op->axis];
    op->outer = count / (op->length * op->inner);
    base->saved_bytes = (size_t)(op->outer * op->inner) * sizeof(double); /* 1 / n; 0 for n = 0 */
    return PG_OK;
}

static double value_line(const lp_op *op, const float *x, float *y) {
    double sum = 0;
    for (int64_t i = 0; i < op->length; i++) {
        double v = (double)x[i * op->inner];
        sum += op->squares ? v * v : fabs(v);
    }
    double norm = op->squares ? sqrt(sum) : sum, rate = norm == 0 ? 0 : 1 / norm;
    for (int64_t i = 0; i < op->length; i++)
        y[i * op->inner] = (float)((double)x[i * op->inner] * rate);
    return rate;
}

/* y has the sign of x. */
static void slope_line(const lp_op *op, double rate, const float *y, const float *d_y, float *d_x) {
    double sum = 0;
    for (int64_t i = 0; i < op->length; i++)
        sum += (double)d_y[i * op->inner] * (double)y[i * op->inner];
    for (int64_t i = 0; i < op->length; i++) {
        double v = (double)y[i * op->inner];
        double u = op->squares ? v : v > 0 ? 1.0 : v < 0 ? -1.0 : 0.0;
        d_x[i * op->inner] = (float)(rate * ((double)d_y[i * op->inner] - u * sum));
    }
}

static int64_t line_start(const lp_op *op, int64_t line) {
    return line / op->inner * op->length * op->inner + line % op->inner;
}

enum { PARALLEL_FROM = 1 << 14 }; /* elements */

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const lp_op *op = (const lp_op *)base;
    double *rate = io->saved;
    int64_t lines = op->outer * op->inner;
#pragma omp parallel for schedule(static) if (lines * op->length > PARALLEL_FROM)
    for (int64_t i = 0; i < lines; i++) {
        int64_t at = line_start(op, i);
        rate[i] = value_line(op, io->src[0] + at, io->dst[0] + at);
    }
    return PG_OK;
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const lp_op *op = (const lp_op *)base;
    const double *rate = io->saved;
    int64_t lines = op->outer * op->inner;
    if (!io->d_src[0])
        return PG_OK;
#pragma omp parallel for schedule(static) if (lines * op->length > PARALLEL_FROM)
    for (int64_t i = 0; i < lines; i++) {
        int64_t at = line_start(op, i);
        slope_line(op, rate[i], io->dst[0] + at, io->d_dst[0] + at, io->d_src[0] + at);
    }
    return PG_OK;
}

const pg_op_class pg_lp_norm_class = {
    .create = create, .prepare = prepare, .forward = forward, .backward = backward};
