/* Concat and Split: one tensor and its slices along one axis. Each is the other's gradient, so both
 * are the same two moves, gather the slices and scatter them, run in opposite directions. */
#include <inttypes.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/walk.h"

/* A computed slice has src >= 0 (its index); a constant one of Concat has value. */
typedef struct slice {
    pg_shape shape;
    int64_t start;       /* along the axis */
    int index;           /* into src (Concat) or dst (Split), -1: constant */
    const pg_const *raw; /* borrowed until prepare */
    float *value;        /* [shape], in the whole's layout */
} slice;

typedef struct concat_op {
    pg_op op;
    int axis, n;
    slice *slices;
} concat_op;

extern const pg_op_class pg_concat_class, pg_split_class;

static void destroy(pg_op *base) {
    concat_op *op = (concat_op *)base;
    for (int i = 0; op->slices && i < op->n; i++)
        pg_free(op->slices[i].value);
    pg_free(op->slices);
}

static pg_err make_slices(concat_op *op, int n, const pg_op_def *def, pg_diag *diag) {
    op->slices = pg_calloc((size_t)n, sizeof *op->slices);
    op->n = n;
    if (op->slices)
        return PG_OK;
    return pg_fail(diag, PG_ENOMEM, "node '%s' (%s): out of memory", def->node, def->type);
}

/* ---- Concat ---- */

static pg_err add_input(concat_op *op, const pg_op_def *def, int i, pg_diag *diag) {
    const pg_op_input *input = &def->inputs[i];
    pg_shape *whole = &op->op.dst[0].shape;
    slice *part = &op->slices[i];
    if (!input->present || input->shape.rank != whole->rank || pg_shape_count(&input->shape) < 1)
        return pg_node_refuse(def, diag, "input %d is absent, empty or of another rank", i);
    for (int k = 0; k < whole->rank; k++)
        if (k != op->axis && input->shape.dims[k] != whole->dims[k])
            return pg_node_refuse(def, diag, "input %d differs from input 0 on axis %d", i, k);
    part->shape = input->shape;
    part->start = whole->dims[op->axis];
    part->raw = input->constant;
    part->index = -1;
    whole->dims[op->axis] += input->shape.dims[op->axis];
    if (pg_shape_count(whole) < 0)
        return pg_node_refuse(def, diag, "the result is too large");
    return PG_OK;
}

static pg_err fill_concat(concat_op *op, const pg_op_def *def, pg_diag *diag) {
    int64_t axis;
    pg_err err = pg_def_int(def, "axis", def->opset < 4 ? 1 : INT64_MAX, &axis, diag);
    if (!err)
        err = pg_node_axis(def, axis, def->inputs[0].shape.rank, &op->axis, diag);
    if (!err)
        err = make_slices(op, def->n_inputs, def, diag);
    if (err)
        return err;
    op->op.dst[0].shape = def->inputs[0].shape;
    op->op.dst[0].shape.dims[op->axis] = 0;
    int next = 0;
    for (int i = 0; i < def->n_inputs; i++) {
        err = add_input(op, def, i, diag);
        if (err)
            return err;
        if (!def->inputs[i].constant)
            op->slices[i].index = next++;
    }
    op->op.layouts = PG_LAYOUTS_SAME;
    return next > 0 ? PG_OK : pg_node_refuse(def, diag, "every input is constant");
}

static pg_err create_concat(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    if (def->n_inputs < 1)
        return pg_node_refuse(def, diag, "has no input");
    pg_err err = pg_op_alloc(&pg_concat_class, def, sizeof(concat_op), 1, out, diag);
    if (err)
        return err;
    err = fill_concat((concat_op *)*out, def, diag);
    if (err)
        pg_op_destroy(out);
    return err;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    concat_op *op = (concat_op *)base;
    for (int i = 0; i < op->n; i++) {
        slice *part = &op->slices[i];
        if (!part->raw)
            continue;
        int64_t count = pg_shape_count(&part->shape);
        size_t bytes = (size_t)count * sizeof(float);
        float *plain = pg_malloc(bytes);
        part->value = pg_malloc(bytes);
        if (!plain || !part->value) {
            pg_free(plain);
            return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->op.node);
        }
        for (int64_t k = 0; k < count; k++)
            plain[k] = part->raw->dtype == PG_F32 ? part->raw->f[k] : (float)part->raw->i[k];
        pg_layout_convert(&part->shape, PG_PLAIN, plain, op->op.dst[0].layout, part->value);
        pg_free(plain);
        part->raw = NULL;
        op->op.weight_bytes += bytes;
    }
    return PG_OK;
}

/* ---- Split ---- */

/* The lengths of the pieces: given, or as equal as they can be (the last is the shorter one). */
static pg_err split_lengths(const pg_op_def *def, int64_t whole, int64_t *length, pg_diag *diag) {
    const pg_attr *attr = pg_def_attr(def, "split");
    const pg_const *input = pg_node_constant(def, 1);
    int64_t n = def->n_outputs, sum = 0, given = -1;
    const int64_t *values = NULL;
    if (attr && attr->type != PG_ATTR_INTS)
        return pg_node_refuse(def, diag, "attribute 'split' is not a list of integers");
    if (input && (input->dtype != PG_I64 || input->shape.rank != 1))
        return pg_node_refuse(def, diag, "input 1 is not a list of integers");
    if (attr)
        values = attr->ints, given = (int64_t)(attr->count > INT32_MAX ? INT32_MAX : attr->count);
    else if (input)
        values = input->i, given = pg_shape_count(&input->shape);
    if (given >= 0 && given != n)
        return pg_node_refuse(def, diag, "has %" PRId64 " split lengths for %" PRId64 " outputs",
                              given, n);
    if (given < 0 && def->opset < 18 && whole % n != 0)
        return pg_node_refuse(def, diag, "the axis does not split into equal parts");
    for (int64_t i = 0; i < n; i++) {
        int64_t even = (whole + n - 1) / n;
        length[i] = given >= 0 ? values[i] : i < n - 1 ? even : whole - sum;
        if (length[i] < 1 || length[i] > whole - sum)
            return pg_node_refuse(def, diag, "split lengths do not fit the axis");
        sum += length[i];
    }
    return sum == whole ? PG_OK : pg_node_refuse(def, diag, "split lengths do not fit the axis");
}

static pg_err fill_split(concat_op *op, const pg_op_def *def, pg_diag *diag) {
    const pg_shape *in = &def->inputs[0].shape;
    int64_t axis;
    pg_err err = pg_def_int(def, "axis", 0, &axis, diag);
    if (!err)
        err = pg_node_axis(def, axis, in->rank, &op->axis, diag);
    if (!err)
        err = make_slices(op, def->n_outputs, def, diag);
    if (err)
        return err;
    int64_t *length = pg_malloc((size_t)op->n * sizeof *length);
    if (!length)
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", def->node);
    err = split_lengths(def, in->dims[op->axis], length, diag);
    for (int64_t i = 0, start = 0; !err && i < op->n; start += length[i++]) {
        op->slices[i] = (slice){.shape = *in, .start = start, .index = (int)i};
        op->slices[i].shape.dims[op->axis] = length[i];
        op->op.dst[i].shape = op->slices[i].shape;
    }
    pg_free(length);
    op->op.layouts = PG_LAYOUTS_SAME;
    return err;
}

static pg_err create_split(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    int64_t n;
    err = pg_def_int(def, "num_outputs", def->n_outputs, &n, diag);
    if (!err && (n != def->n_outputs || n < 1))
        err = pg_node_refuse(def, diag, "attribute 'num_outputs' is not the number of outputs");
    if (!err)
        err = pg_op_alloc(&pg_split_class, def, sizeof(concat_op), def->n_outputs, out, diag);
    if (err)
        return err;
    err = fill_split((concat_op *)*out, def, diag);
    if (err)
        pg_op_destroy(out);
    return err;
}

/* ---- the two moves ---- */

static int64_t walk_slice(const concat_op *op, const slice *part, pg_layout layout,
                          const pg_desc *whole, bool into_whole, pg_walk *walk) {
    pg_desc desc = {.shape = part->shape, .layout = layout};
    int64_t own[PG_MAX_RANK], all[PG_MAX_RANK];
    pg_desc_strides(&desc, own);
    pg_desc_strides(whole, all);
    pg_walk_init(walk, part->shape.rank, part->shape.dims, 2,
                 into_whole ? (const int64_t *[]){all, own} : (const int64_t *[]){own, all});
    return part->start * all[op->axis];
}

static void gather(const concat_op *op, const pg_desc *parts, const pg_desc *whole,
                   const float *const *src, float *dst) {
    for (int i = 0; i < op->n; i++) {
        const slice *part = &op->slices[i];
        pg_walk walk;
        bool computed = part->index >= 0;
        int64_t at = walk_slice(op, part, computed ? parts[part->index].layout : whole->layout,
                                whole, true, &walk);
        pg_walk_copy(&walk, dst + at, computed ? src[part->index] : part->value);
    }
}

static void scatter(const concat_op *op, const pg_desc *parts, const pg_desc *whole,
                    const float *src, float *const *dst) {
    for (int i = 0; i < op->n; i++) {
        const slice *part = &op->slices[i];
        if (part->index < 0 || !dst[part->index])
            continue;
        pg_walk walk;
        int64_t at = walk_slice(op, part, parts[part->index].layout, whole, false, &walk);
        pg_walk_copy(&walk, dst[part->index], src + at);
    }
}

static pg_err concat_forward(const pg_op *op, const pg_op_io *io) {
    gather((const concat_op *)op, op->src, op->dst, io->src, io->dst[0]);
    return PG_OK;
}

static pg_err concat_backward(const pg_op *op, const pg_op_io *io) {
    scatter((const concat_op *)op, op->src, op->dst, io->d_dst[0], io->d_src);
    return PG_OK;
}

static pg_err split_forward(const pg_op *op, const pg_op_io *io) {
    scatter((const concat_op *)op, op->dst, op->src, io->src[0], io->dst);
    return PG_OK;
}

static pg_err split_backward(const pg_op *op, const pg_op_io *io) {
    if (io->d_src[0])
        gather((const concat_op *)op, op->dst, op->src, io->d_dst, io->d_src[0]);
    return PG_OK;
}

const pg_op_class pg_concat_class = {
    .create = create_concat,
    .prepare = prepare,
    .forward = concat_forward,
    .backward = concat_backward,
    .destroy = destroy,
};

const pg_op_class pg_split_class = {
    .create = create_split,
    .forward = split_forward,
    .backward = split_backward,
    .destroy = destroy,
};
