/* Softmax and LogSoftmax along one axis. Before opset 13 the axis splits the shape into two and the
 * softmax runs over all of the second half; since then it runs over that axis alone. The final
 * softmax of a classifier is taken off by the optimiser; these are the ones inside (attention). */
#include <math.h>
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/simd.h"
#include "kernels/vmath.h"

typedef struct softmax_op {
    pg_op op;
    int64_t outer, length, inner; /* [outer, length, inner], softmax over length */
    bool logarithm;
} softmax_op;

extern const pg_op_class pg_softmax_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    bool old = def->opset < 13;
    int64_t given;
    int axis;
    err = pg_def_int(def, "axis", old ? 1 : -1, &given, diag);
    if (!err)
        err = pg_node_axis(def, given, src->rank, &axis, diag);
    if (!err)
        err = pg_op_alloc(&pg_softmax_class, def, sizeof(softmax_op), 1, out, diag);
    if (err)
        return err;
    softmax_op *op = (softmax_op *)*out;
    op->outer = op->length = op->inner = 1;
    for (int i = 0; i < src->rank; i++) {
        if (i < axis)
            op->outer *= src->dims[i];
        else if (i == axis || old)
            op->length *= src->dims[i];
        else
            op->inner *= src->dims[i];
    }
    op->logarithm = strcmp(def->type, "LogSoftmax") == 0;
    op->op.dst[0].shape = *src;
    op->op.layouts = PG_LAYOUTS_PLAIN;
    op->op.keeps_dst = true;
    op->op.flops = 5 * (uint64_t)pg_shape_count(src);
    return PG_OK;
}

/* y = exp(x - top) */
PG_CLONES static void exp_row(int64_t n, const float *x, float top, float *restrict y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = pg_expf(x[i] - top);
}

PG_CLONES static void scale_row(int64_t n, float scale, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] *= scale;
}

/* The largest, in lanes that vectorise. */
PG_CLONES static float top_of_row(int64_t n, const float *x) {
    float part[16], top = x[0];
    int64_t i = 0;
    for (int k = 0; k < 16; k++)
        part[k] = x[0];
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            part[k] = x[i + k] > part[k] ? x[i + k] : part[k];
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    for (int k = 0; k < 16; k++)
        top = part[k] > top ? part[k] : top;
    return top;
}

/* Rows of attention scores: contiguous, and there are many. */
static void softmax_row(int64_t n, const float *x, float *y) {
    double sum = 0;
    exp_row(n, x, top_of_row(n, x), y);
    for (int64_t i = 0; i < n; i++)
        sum += (double)y[i];
    scale_row(n, (float)(1 / sum), y);
}

static void softmax_line(const softmax_op *op, const float *x, float *y) {
    int64_t n = op->length, step = op->inner;
    float top = -INFINITY;
    double sum = 0;
    if (step == 1 && !op->logarithm) {
        softmax_row(n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        top = x[i * step] > top ? x[i * step] : top;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)(x[i * step] - top));
    for (int64_t i = 0; i < n; i++) {
        double v = (double)(x[i * step] - top);
        y[i * step] = (float)(op->logarithm ? v - log(sum) : exp(v) / sum);
    }
}

/* softmax: dx_i = y_i (dy_i - sum_j dy_j y_j);  log: dx_i = dy_i - exp(y_i) sum_j dy_j */
static void slope_line(const softmax_op *op, const float *y, const float *d_y, float *d_x) {
    int64_t n = op->length, step = op->inner;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)d_y[i * step] * (op->logarithm ? 1.0 : (double)y[i * step]);
    for (int64_t i = 0; i < n; i++) {
        double p = op->logarithm ? exp((double)y[i * step]) : (double)y[i * step];
        double d = (double)d_y[i * step];
        d_x[i * step] = (float)(op->logarithm ? d - p * sum : p * (d - sum));
    }
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const softmax_op *op = (const softmax_op *)base;
#pragma omp parallel for schedule(static) if (op->outer * op->inner * op->length > 4096)
    for (int64_t line = 0; line < op->outer * op->inner; line++) {
        int64_t at = line / op->inner * op->length * op->inner + line % op->inner;
        softmax_line(op, io->src[0] + at, io->dst[0] + at);
    }
    return PG_OK;
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const softmax_op *op = (const softmax_op *)base;
    if (!io->d_src[0])
        return PG_OK;
    const float *y = ((const float *const *)io->dst)[0];
#pragma omp parallel for schedule(static) if (op->outer * op->inner * op->length > 4096)
    for (int64_t line = 0; line < op->outer * op->inner; line++) {
        int64_t at = line / op->inner * op->length * op->inner + line % op->inner;
        slope_line(op, y + at, io->d_dst[0] + at, io->d_src[0] + at);
    }
    return PG_OK;
}

const pg_op_class pg_softmax_class = {.create = create, .forward = forward, .backward = backward};
