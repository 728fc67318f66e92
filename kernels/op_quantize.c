/* QuantizeLinear and DequantizeLinear on float values: a quantised model is explained in floats
 * that hold its integers. With one scale and zero point for the tensor, or one for each place along
 * an axis,
 *
 *   QuantizeLinear     dst = saturate(round(x / scale) + zero), half to even
 *   DequantizeLinear   dst = (x - zero) * scale
 *
 * Rounding has no useful derivative: the gradient goes straight through it, and stops where the
 * value saturates (torch's fake_quantize does the same). */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/simd.h"

typedef struct quantize_op {
    pg_op op;
    int axis;            /* of the scales; 0 and length 1: per tensor */
    int64_t n;           /* scales */
    float *scale, *zero; /* [n] */
    float lo, hi;        /* where QuantizeLinear saturates */
} quantize_op;

extern const pg_op_class pg_quantize_class, pg_dequantize_class;

static bool quantizes(const pg_op_def *def) { return strcmp(def->type, "QuantizeLinear") == 0; }

/* The range of the zero point's type, which is the result's; without one it is output_dtype (opset
 * 21) or uint8. */
static pg_err read_range(const pg_op_def *def, quantize_op *op, pg_diag *diag) {
    static const struct {
        pg_elem_type type;
        float lo, hi;
    } ranges[] = {{PG_ELEM_UINT8, 0, 255},
                  {PG_ELEM_INT8, -128, 127},
                  {PG_ELEM_UINT16, 0, 65535},
                  {PG_ELEM_INT16, -32768, 32767},
                  {PG_ELEM_INT32, -2147483648.0f, 2147483520.0f}}; /* the largest float below */
    const pg_const *zero = pg_node_constant(def, 2);
    int64_t type;
    pg_err err = pg_def_int(def, "output_dtype", 0, &type, diag);
    if (err)
        return err;
    if (zero)
        type = zero->elem;
    else if (type == 0)
        type = PG_ELEM_UINT8;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (type == (int64_t)ranges[i].type) {
            op->lo = ranges[i].lo, op->hi = ranges[i].hi;
            return PG_OK;
        }
    return pg_node_refuse(def, diag, "quantising to element type %lld is not supported",
                          (long long)type);
}

/* Per tensor where there is one scale, else along `axis`. */
static pg_err read_axis(const pg_op_def *def, int64_t n, int *axis, pg_diag *diag) {
    const pg_shape *x = &def->inputs[0].shape;
    int64_t given, block;
    pg_err err = pg_def_int(def, "axis", 1, &given, diag);
    if (!err)
        err = pg_def_int(def, "block_size", 0, &block, diag);
    if (!err && block != 0)
        err = pg_node_refuse(def, diag, "quantisation in blocks is not supported");
    *axis = 0;
    if (err || n == 1)
        return err;
    err = pg_node_axis(def, given, x->rank, axis, diag);
    if (!err && x->dims[*axis] != n)
        err = pg_node_refuse(def, diag, "has %lld scales for an axis of %lld", (long long)n,
                             (long long)x->dims[*axis]);
    return err;
}

static pg_err read_scales(const pg_op_def *def, quantize_op *op, pg_diag *diag) {
    const pg_const *scale = pg_node_constant(def, 1), *zero = pg_node_constant(def, 2);
    op->scale = pg_malloc((size_t)op->n * sizeof *op->scale);
    op->zero = pg_calloc((size_t)op->n, sizeof *op->zero);
    if (!op->scale || !op->zero)
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", def->node);
    for (int64_t i = 0; i < op->n; i++) {
        op->scale[i] = scale->f[i];
        if (zero)
            op->zero[i] = zero->dtype == PG_F32 ? zero->f[i] : (float)zero->i[i];
        if (!isfinite(op->scale[i]) || op->scale[i] == 0 || !isfinite(op->zero[i]))
            return pg_node_refuse(def, diag, "a scale is 0 or not finite");
    }
    return PG_OK;
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const pg_const *scale = pg_node_constant(def, 1), *zero = pg_node_constant(def, 2);
    quantize_op read = {.n = 1};
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    if (!scale || scale->dtype != PG_F32 || scale->shape.rank > 1)
        return pg_node_refuse(def, diag, "its scale must be a constant number or list");
    read.n = pg_shape_count(&scale->shape);
    if (read.n < 1 || (zero && pg_shape_count(&zero->shape) != read.n))
        return pg_node_refuse(def, diag, "needs as many zero points as scales");
    err = read_axis(def, read.n, &read.axis, diag);
    if (!err && quantizes(def))
        err = read_range(def, &read, diag);
    if (!err)
        err = pg_op_alloc(quantizes(def) ? &pg_quantize_class : &pg_dequantize_class, def,
                          sizeof read, 1, out, diag);
    if (err)
        return err;
    quantize_op *op = (quantize_op *)*out;
    op->axis = read.axis, op->n = read.n, op->lo = read.lo, op->hi = read.hi;
    op->op.dst[0].shape = def->inputs[0].shape;
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.keeps_src = quantizes(def);
    err = read_scales(def, op, diag);
    if (err)
        pg_op_destroy(out);
    return err;
}

static void destroy(pg_op *base) {
    quantize_op *op = (quantize_op *)base;
    pg_free(op->scale);
    pg_free(op->zero);
}

/* ---- rows: `step` is 1 where each element has its own scale, 0 where all have one ---- */

typedef struct row {
    int64_t n, step;
    const float *scale, *zero;
    float lo, hi;
} row;

PG_CLONES static void quantize_row(row r, const float *x, float *y) {
    for (int64_t i = 0; i < r.n; i++) {
        float q = rintf(x[i] / r.scale[i * r.step]) + r.zero[i * r.step];
        y[i] = q < r.lo ? r.lo : q > r.hi ? r.hi : q;
    }
}

PG_CLONES static void quantize_back_row(row r, const float *x, const float *d_y, float *d_x) {
    for (int64_t i = 0; i < r.n; i++) {
        float q = rintf(x[i] / r.scale[i * r.step]) + r.zero[i * r.step];
        d_x[i] = q >= r.lo && q <= r.hi ? d_y[i] / r.scale[i * r.step] : 0;
    }
}

PG_CLONES static void dequantize_row(row r, const float *x, float *y) {
    for (int64_t i = 0; i < r.n; i++)
        y[i] = (x[i] - r.zero[i * r.step]) * r.scale[i * r.step];
}

PG_CLONES static void dequantize_back_row(row r, const float *x, const float *d_y, float *d_x) {
    (void)x;
    for (int64_t i = 0; i < r.n; i++)
        d_x[i] = d_y[i] * r.scale[i * r.step];
}

/* Row `at` and its length: along the scales where they are innermost in memory, else within one of
 * them. Per tensor, rows are pieces of any length. */
static row row_at(const quantize_op *op, int64_t at, int64_t *first) {
    const pg_desc *desc = &op->op.dst[0];
    int64_t strides[PG_MAX_RANK] = {1}, count = pg_shape_count(&desc->shape);
    row r = {
        .n = op->n, .step = 1, .scale = op->scale, .zero = op->zero, .lo = op->lo, .hi = op->hi};
    pg_desc_strides(desc, strides);
    if (op->n == 1) {
        r.n = 4096, r.step = 0;
    } else if (strides[op->axis] > 1) {
        r.n = strides[op->axis], r.step = 0;
        r.scale += at % op->n, r.zero += at % op->n;
    }
    *first = at * r.n;
    r.n = r.n < count - *first ? r.n : count - *first;
    return r;
}

static int64_t row_count(const quantize_op *op) {
    int64_t first;
    row r = row_at(op, 0, &first);
    return r.n > 0 ? (pg_shape_count(&op->op.dst[0].shape) + r.n - 1) / r.n : 0;
}

static pg_err run(const quantize_op *op, const pg_op_io *io,
                  void (*one)(row r, const float *x, float *y)) {
    int64_t rows = row_count(op), count = pg_shape_count(&op->op.dst[0].shape);
#pragma omp parallel for schedule(static) if (count > 1 << 14)
    for (int64_t at = 0; at < rows; at++) {
        int64_t first;
        row r = row_at(op, at, &first);
        one(r, io->src[0] + first, io->dst[0] + first);
    }
    return PG_OK;
}

static pg_err run_back(const quantize_op *op, const pg_op_io *io,
                       void (*one)(row r, const float *x, const float *d_y, float *d_x)) {
    int64_t rows = row_count(op), count = pg_shape_count(&op->op.dst[0].shape);
    if (!io->d_src[0])
        return PG_OK;
#pragma omp parallel for schedule(static) if (count > 1 << 14)
    for (int64_t at = 0; at < rows; at++) {
        int64_t first;
        row r = row_at(op, at, &first);
        one(r, io->src[0] + first, io->d_dst[0] + first, io->d_src[0] + first);
    }
    return PG_OK;
}

static pg_err quantize_forward(const pg_op *op, const pg_op_io *io) {
    return run((const quantize_op *)op, io, quantize_row);
}

static pg_err quantize_backward(const pg_op *op, const pg_op_io *io) {
    return run_back((const quantize_op *)op, io, quantize_back_row);
}

static pg_err dequantize_forward(const pg_op *op, const pg_op_io *io) {
    return run((const quantize_op *)op, io, dequantize_row);
}

static pg_err dequantize_backward(const pg_op *op, const pg_op_io *io) {
    return run_back((const quantize_op *)op, io, dequantize_back_row);
}

const pg_op_class pg_quantize_class = {.create = create,
                                       .forward = quantize_forward,
                                       .backward = quantize_backward,
                                       .destroy = destroy};
const pg_op_class pg_dequantize_class = {.create = create,
                                         .forward = dequantize_forward,
                                         .backward = dequantize_backward,
                                         .destroy = destroy};
