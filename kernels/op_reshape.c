/* Operators that only rename: the elements stay where they are, under another shape. The planner
 * gives input and output one piece of memory; forward and backward exist for callers that do not.
 *
 * A reshape of channels-last bytes would shuffle them, unless it leaves the channels alone and only
 * joins or splits spatial axes. */
#include <inttypes.h>
#include <string.h>

#include "kernels/op_node.h"

extern const pg_op_class pg_reshape_class;

/* Reshape: 0 copies the input's dimension (unless allowzero), -1 takes what is left. */
static pg_err reshape(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag) {
    int64_t dims[PG_NODE_INTS], allow_zero, known = 1, total = pg_shape_count(in);
    int count, open = -1;
    pg_err err = pg_node_ints(def, def->opset < 5 ? "shape" : NULL, 1, dims, &count, diag);
    if (!err)
        err = pg_def_int(def, "allowzero", 0, &allow_zero, diag);
    if (err)
        return err;
    if (count < 0 || count > PG_MAX_RANK)
        return pg_node_refuse(def, diag, "its shape must be a constant of at most %d values",
                              PG_MAX_RANK);
    for (int i = 0; i < count; i++) {
        int64_t d = dims[i] == 0 && !allow_zero && i < in->rank ? in->dims[i] : dims[i];
        if ((d < 1 && d != -1) || (d == -1 && open >= 0) || d > total)
            return pg_node_refuse(def, diag, "shape value %" PRId64 " does not fit", dims[i]);
        out->dims[i] = d;
        if (d == -1)
            open = i;
        else if (known > total / d)
            return pg_node_refuse(def, diag, "its shape has more elements than the input");
        else
            known *= d;
    }
    out->rank = count;
    if (open >= 0)
        out->dims[open] = total / known;
    if (pg_shape_count(out) != total)
        return pg_node_refuse(def, diag, "its shape does not have as many elements as the input");
    return PG_OK;
}

static pg_err flatten(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag) {
    int64_t axis;
    pg_err err = pg_def_int(def, "axis", 1, &axis, diag);
    if (err)
        return err;
    if (axis < -(int64_t)in->rank || axis > in->rank)
        return pg_node_refuse(def, diag, "attribute 'axis' is out of range");
    int at = (int)(axis < 0 ? axis + in->rank : axis);
    *out = (pg_shape){.rank = 2, .dims = {1, 1}};
    for (int i = 0; i < in->rank; i++)
        out->dims[i >= at] *= in->dims[i];
    return PG_OK;
}

static pg_err squeeze(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag) {
    bool drop[PG_MAX_RANK];
    int count;
    pg_err err = pg_node_axes(def, def->opset < 13 ? "axes" : NULL, 1, in->rank, drop, &count, diag);
    if (err)
        return err;
    out->rank = 0;
    for (int i = 0; i < in->rank; i++) {
        if (drop[i] && in->dims[i] != 1)
            return pg_node_refuse(def, diag, "axis %d to remove has %" PRId64 " elements", i,
                                  in->dims[i]);
        if (!(count < 0 ? in->dims[i] == 1 : drop[i]))
            out->dims[out->rank++] = in->dims[i];
    }
    return PG_OK;
}

static pg_err unsqueeze(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag) {
    int64_t axes[PG_NODE_INTS];
    bool fresh[PG_MAX_RANK];
    int count;
    const char *attr = def->opset < 13 ? "axes" : NULL;
    pg_err err = pg_node_ints(def, attr, 1, axes, &count, diag);
    if (err)
        return err;
    if (count < 0 || in->rank + count > PG_MAX_RANK)
        return pg_node_refuse(def, diag, "its axes must be constant and the rank at most %d",
                              PG_MAX_RANK);
    err = pg_node_axes(def, attr, 1, in->rank + count, fresh, &count, diag);
    if (err)
        return err;
    out->rank = in->rank + count;
    for (int i = 0, next = 0; i < out->rank; i++)
        out->dims[i] = fresh[i] ? 1 : in->dims[next++];
    return PG_OK;
}

static pg_err same(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag) {
    (void)def, (void)diag;
    *out = *in;
    return PG_OK;
}

static bool is_zero(const pg_const *c) {
    return c != NULL && pg_shape_count(&c->shape) == 1 &&
           (c->dtype == PG_I64 ? c->i[0] == 0 : c->f[0] == 0);
}

/* In training mode it draws random numbers, and a share of the elements becomes 0: with a ratio of 0, none
 * (torchvision's Swin leaves its attention's dropout in training mode like that). */
static pg_err dropout(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag) {
    const pg_const *ratio = pg_node_constant(def, 1), *training = pg_node_constant(def, 2);
    if (training != NULL && !is_zero(training) && !is_zero(ratio))
        return pg_node_refuse(def, diag, "it is in training mode");
    return same(def, in, out, diag);
}

static const struct {
    const char *type;
    pg_err (*shape)(const pg_op_def *def, const pg_shape *in, pg_shape *out, pg_diag *diag);
} kinds[] = {
    {"Dropout", dropout}, {"Flatten", flatten}, {"Identity", same},
    {"Reshape", reshape}, {"Squeeze", squeeze}, {"Unsqueeze", unsqueeze},
};

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    size_t kind = 0;
    while (strcmp(kinds[kind].type, def->type) != 0)
        kind++;
    const pg_shape *in = &def->inputs[0].shape;
    pg_shape shape = {0};
    err = kinds[kind].shape(def, in, &shape, diag);
    if (!err)
        err = pg_op_alloc(&pg_reshape_class, def, sizeof(pg_op), 1, out, diag);
    if (err)
        return err;
    (*out)->dst[0].shape = shape;
    (*out)->alias = true;
    bool any = kinds[kind].shape == same || kinds[kind].shape == dropout;
    (*out)->layouts = any ? PG_LAYOUTS_SAME : PG_LAYOUTS_PLAIN;
    return PG_OK;
}

static bool same_bytes(const pg_op *op) {
    const pg_desc *src = &op->src[0], *dst = &op->dst[0];
    if (src->layout == PG_PLAIN && dst->layout == PG_PLAIN)
        return true;
    return src->layout == dst->layout && src->shape.dims[0] == dst->shape.dims[0] &&
           src->shape.dims[1] == dst->shape.dims[1];
}

static size_t bytes_of(const pg_op *op) {
    return (size_t)pg_shape_count(&op->src[0].shape) * sizeof(float);
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    memcpy(io->dst[0], io->src[0], bytes_of(op));
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    if (io->d_src[0])
        memcpy(io->d_src[0], io->d_dst[0], bytes_of(op));
    return PG_OK;
}

const pg_op_class pg_reshape_class = {
    .create = create, .same_bytes = same_bytes, .forward = forward, .backward = backward};
