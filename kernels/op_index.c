/* Operators that only say where each element of the result comes from: Transpose, Slice, Gather
 * with constant indices, and Pad. One table of source offsets per axis of the result (-1: padding)
 * describes them all; forward reads through the tables, backward adds through them. */
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"

typedef struct index_op {
    pg_op op;
    int src_axis[PG_MAX_RANK];  /* which axis of src the result's axis walks */
    int64_t *from[PG_MAX_RANK]; /* [dst.dims[k]] position along that axis, -1: padding */
    float fill;                 /* the padding */
    int dropped_axis;           /* Gather with a scalar index: the axis it takes away, else -1 */
    int64_t dropped_index;
    /* (prepare) the same as element offsets, axes in the order dst lies in memory */
    int64_t *offset[PG_MAX_RANK];
    int64_t dims[PG_MAX_RANK];
    int64_t base; /* what the dropped axis adds to every offset */
} index_op;

extern const pg_op_class pg_transpose_class, pg_slice_class, pg_gather_class, pg_pad_class;

/* Allocates the operator with one table per axis of `dst`, filled by the caller. */
static pg_err alloc(const pg_op_class *cls, const pg_op_def *def, const pg_shape *dst,
                    index_op **op, pg_op **out, pg_diag *diag) {
    if (dst->rank > PG_MAX_RANK || pg_shape_count(dst) <= 0)
        return pg_node_refuse(def, diag, "its result would be empty or too large");
    pg_err err = pg_op_alloc(cls, def, sizeof(index_op), 1, out, diag);
    if (err)
        return err;
    *op = (index_op *)*out;
    (*op)->dropped_axis = -1;
    (*out)->dst[0].shape = *dst;
    (*out)->layouts = PG_LAYOUTS_PLAIN;
    for (int k = 0; k < dst->rank; k++) {
        (*op)->src_axis[k] = k;
        (*op)->from[k] = pg_malloc((size_t)dst->dims[k] * sizeof(int64_t));
        if (!(*op)->from[k]) {
            pg_op_destroy(out);
            return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", def->node);
        }
        for (int64_t i = 0; i < dst->dims[k]; i++)
            (*op)->from[k][i] = i;
    }
    return PG_OK;
}

/* ---- Transpose ---- */

static pg_err create_transpose(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    int64_t perm[PG_MAX_RANK];
    bool seen[PG_MAX_RANK] = {false};
    bool given = pg_def_attr(def, "perm") != NULL;
    err = pg_def_ints(def, "perm", src->rank, 0, perm, diag);
    if (err)
        return err;
    pg_shape dst = {.rank = src->rank};
    for (int i = 0; i < src->rank; i++) {
        if (!given)
            perm[i] = src->rank - 1 - i;
        if (perm[i] < 0 || perm[i] >= src->rank || seen[perm[i]])
            return pg_node_refuse(def, diag, "perm is no permutation");
        seen[perm[i]] = true;
        dst.dims[i] = src->dims[perm[i]];
    }
    index_op *op;
    err = alloc(&pg_transpose_class, def, &dst, &op, out, diag);
    for (int i = 0; i < src->rank && !err; i++)
        op->src_axis[i] = (int)perm[i];
    if (!err)
        (*out)->layouts = PG_LAYOUTS_ANY;
    return err;
}

/* Channels-last bytes of [N,C,H,W] are plain bytes of [N,H,W,C]. */
static bool transpose_same_bytes(const pg_op *base) {
    int64_t src[PG_MAX_RANK], dst[PG_MAX_RANK];
    pg_desc_strides(&base->src[0], src);
    pg_desc_strides(&base->dst[0], dst);
    for (int i = 0; i < base->dst[0].shape.rank; i++)
        if (base->dst[0].shape.dims[i] > 1 && dst[i] != src[((const index_op *)base)->src_axis[i]])
            return false;
    return true;
}

/* ---- Slice ---- */

static int64_t clamp(int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; }

/* numpy's rules: negative positions count from the end, everything is clamped. */
static int64_t slice_axis(int64_t dim, int64_t *start, int64_t end, int64_t step) {
    int64_t s = *start < 0 ? *start + dim : *start, e = end;
    if (e < 0 && e >= -dim)
        e += dim;
    else if (e < 0)
        e = -1;
    if (step > 0) {
        s = clamp(s, 0, dim);
        e = clamp(e, 0, dim);
        *start = s;
        return e > s ? (e - s + step - 1) / step : 0;
    }
    s = clamp(s, -1, dim - 1);
    e = clamp(e, -1, dim - 1);
    *start = s;
    return s > e ? (s - e - step - 1) / -step : 0;
}

enum { STARTS, ENDS, AXES, STEPS, LISTS };

/* Attributes until opset 9, inputs since. Without axes, the first ones are meant. */
static pg_err read_slices(const pg_op_def *def, int64_t lists[LISTS][PG_NODE_INTS], int *n,
                          pg_diag *diag) {
    static const char *const names[] = {"starts", "ends", "axes", "steps"};
    int count[LISTS];
    for (int i = 0; i < LISTS; i++) {
        pg_err err = pg_node_ints(def, names[i], i + 1, lists[i], &count[i], diag);
        if (err)
            return err;
    }
    *n = count[STARTS];
    if (*n < 0 || count[ENDS] != *n || (count[AXES] >= 0 && count[AXES] != *n) ||
        (count[STEPS] >= 0 && count[STEPS] != *n))
        return pg_node_refuse(def, diag, "starts, ends, axes and steps differ in length");
    for (int i = 0; i < *n; i++) {
        lists[AXES][i] = count[AXES] >= 0 ? lists[AXES][i] : i;
        lists[STEPS][i] = count[STEPS] >= 0 ? lists[STEPS][i] : 1;
    }
    return PG_OK;
}

static pg_err create_slice(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const int64_t far = INT32_MAX;
    int64_t lists[LISTS][PG_NODE_INTS], first[PG_MAX_RANK] = {0}, stride[PG_MAX_RANK] = {0};
    int n = 0, axis = 0;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_slices(def, lists, &n, diag);
    if (err)
        return err;
    pg_shape dst = def->inputs[0].shape;
    for (int i = 0; i < n; i++) {
        int64_t step = lists[STEPS][i];
        err = pg_node_axis(def, lists[AXES][i], dst.rank, &axis, diag);
        if (!err && (step == 0 || step > far || step < -far || stride[axis] != 0))
            err = pg_node_refuse(def, diag, "a step is out of range or an axis is named twice");
        if (err)
            return err;
        first[axis] = clamp(lists[STARTS][i], -far, far);
        stride[axis] = step;
        dst.dims[axis] =
            slice_axis(dst.dims[axis], &first[axis], clamp(lists[ENDS][i], -far, far), step);
    }
    index_op *op;
    err = alloc(&pg_slice_class, def, &dst, &op, out, diag);
    for (int k = 0; k < dst.rank && !err; k++)
        for (int64_t i = 0; i < dst.dims[k] && stride[k] != 0; i++)
            op->from[k][i] = first[k] + i * stride[k];
    return err;
}

/* ---- Gather ---- */

/* The constant indices, all of them checked against the axis's length. */
static pg_err read_indices(const pg_op_def *def, int64_t dim, const pg_const **out, pg_diag *diag) {
    const pg_const *indices = pg_node_constant(def, 1);
    if (!indices || indices->dtype != PG_I64)
        return pg_node_refuse(def, diag, "its indices must be constant integers");
    if (indices->shape.rank > 1)
        return pg_node_refuse(def, diag, "indices of more than one axis are not supported");
    for (int64_t i = 0; i < pg_shape_count(&indices->shape); i++)
        if (indices->i[i] < -dim || indices->i[i] >= dim)
            return pg_node_refuse(def, diag, "an index is out of range");
    *out = indices;
    return PG_OK;
}

static pg_err create_gather(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const pg_shape *src = &def->inputs[0].shape;
    const pg_const *indices = NULL;
    int64_t given;
    int axis = 0;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_int(def, "axis", 0, &given, diag);
    if (!err)
        err = pg_node_axis(def, given, src->rank, &axis, diag);
    if (!err)
        err = read_indices(def, src->dims[axis], &indices, diag);
    if (err)
        return err;
    bool drops = indices->shape.rank == 0;
    int64_t n = pg_shape_count(&indices->shape), dim = src->dims[axis];
    pg_shape dst = {.rank = 0};
    for (int i = 0; i < src->rank; i++)
        if (i != axis || !drops)
            dst.dims[dst.rank++] = i == axis ? n : src->dims[i];
    index_op *op;
    err = alloc(&pg_gather_class, def, &dst, &op, out, diag);
    if (err)
        return err;
    for (int k = 0; k < dst.rank; k++)
        op->src_axis[k] = drops && k >= axis ? k + 1 : k;
    for (int64_t i = 0; i < n && !drops; i++)
        op->from[axis][i] = indices->i[i] < 0 ? indices->i[i] + dim : indices->i[i];
    if (drops) {
        op->dropped_axis = axis;
        op->dropped_index = indices->i[0] < 0 ? indices->i[0] + dim : indices->i[0];
    }
    return PG_OK;
}

/* ---- Pad ---- */

enum { PAD_LIMIT = 1 << 20 }; /* per side: far above any real network */

/* Two pads per axis, first all leading ones, and what to pad with: attributes until opset 10,
 * inputs since. */
static pg_err read_pads(const pg_op_def *def, int rank, int64_t pads[PG_NODE_INTS], float *fill,
                        pg_diag *diag) {
    int count;
    const pg_const *value = pg_node_constant(def, 2);
    pg_err err = pg_def_float(def, "value", 0, fill, diag);
    if (!err)
        err = pg_node_ints(def, "pads", 1, pads, &count, diag);
    if (err)
        return err;
    if (count != 2 * rank)
        return pg_node_refuse(def, diag, "pads must be constant, two for each axis");
    for (int i = 0; i < count; i++)
        if (pads[i] > PAD_LIMIT || pads[i] < -PAD_LIMIT)
            return pg_node_refuse(def, diag, "pads are out of range");
    if (pg_node_constant(def, 3))
        return pg_node_refuse(def, diag, "its axes input is not supported");
    if (value && pg_shape_count(&value->shape) != 1)
        return pg_node_refuse(def, diag, "its value must be a constant scalar");
    if (value)
        *fill = value->dtype == PG_F32 ? value->f[0] : (float)value->i[0];
    return PG_OK;
}

/* Where position i of an axis of length n (negative or beyond: padding) takes its value. */
static int64_t pad_source(const char *mode, int64_t i, int64_t n) {
    if (i >= 0 && i < n)
        return i;
    if (strcmp(mode, "constant") == 0)
        return -1;
    if (strcmp(mode, "edge") == 0)
        return i < 0 ? 0 : n - 1;
    int64_t period = 2 * (n - 1);
    int64_t at = period ? ((i % period) + period) % period : 0;
    return at < n ? at : period - at;
}

static pg_err create_pad(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const char *mode;
    float fill = 0;
    int64_t pads[PG_NODE_INTS];
    const pg_shape *src = &def->inputs[0].shape;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_string(def, "mode", "constant", &mode, diag);
    if (!err)
        err = read_pads(def, src->rank, pads, &fill, diag);
    if (err)
        return err;
    if (strcmp(mode, "constant") != 0 && strcmp(mode, "edge") != 0 && strcmp(mode, "reflect") != 0)
        return pg_node_refuse(def, diag, "mode '%s' is not supported", mode);
    pg_shape dst = *src;
    for (int i = 0; i < src->rank; i++) {
        dst.dims[i] += pads[i] + pads[src->rank + i];
        if (dst.dims[i] <= 0)
            return pg_node_refuse(def, diag, "its result would be empty");
    }
    index_op *op;
    err = alloc(&pg_pad_class, def, &dst, &op, out, diag);
    if (err)
        return err;
    op->fill = fill;
    (*out)->layouts = PG_LAYOUTS_SAME;
    for (int k = 0; k < dst.rank; k++)
        for (int64_t i = 0; i < dst.dims[k]; i++)
            op->from[k][i] = pad_source(mode, i - pads[k], src->dims[k]);
    return PG_OK;
}

/* ---- numbers ---- */

static int memory_axis(const pg_desc *desc, int k) {
    if (desc->layout != PG_CHANNELS_LAST || desc->shape.rank < 3 || k == 0)
        return k;
    return k == desc->shape.rank - 1 ? 1 : k + 1;
}

/* Turns positions into element offsets, in the result's memory order. */
static pg_err prepare(pg_op *base, pg_diag *diag) {
    (void)diag;
    index_op *op = (index_op *)base;
    int64_t strides[PG_MAX_RANK];
    pg_desc_strides(&base->src[0], strides);
    op->base = op->dropped_axis < 0 ? 0 : op->dropped_index * strides[op->dropped_axis];
    int rank = base->dst[0].shape.rank;
    for (int k = 0; k < rank; k++) {
        int axis = memory_axis(&base->dst[0], k);
        op->dims[k] = base->dst[0].shape.dims[axis];
        op->offset[k] = op->from[axis];
        for (int64_t i = 0; i < op->dims[k]; i++)
            if (op->offset[k][i] >= 0)
                op->offset[k][i] = op->offset[k][i] * strides[op->src_axis[axis]];
    }
    return PG_OK;
}

/* Offset of a row of the result (all axes but the last), -1: padding. */
static int64_t row_offset(const index_op *op, int rank, int64_t row) {
    int64_t at = op->base;
    for (int k = rank - 2; k >= 0; k--) {
        int64_t step = op->offset[k][row % op->dims[k]];
        row /= op->dims[k];
        if (step < 0)
            return -1;
        at += step;
    }
    return at;
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const index_op *op = (const index_op *)base;
    int rank = base->dst[0].shape.rank;
    int64_t n = rank ? op->dims[rank - 1] : 1, count = pg_shape_count(&base->dst[0].shape);
    const int64_t zero = 0, *last = rank ? op->offset[rank - 1] : &zero;
#pragma omp parallel for schedule(static) if (count > 32768)
    for (int64_t row = 0; row < count / n; row++) {
        int64_t at = row_offset(op, rank, row);
        float *y = io->dst[0] + row * n;
        for (int64_t i = 0; i < n; i++)
            y[i] = at < 0 || last[i] < 0 ? op->fill : io->src[0][at + last[i]];
    }
    return PG_OK;
}

/* One thread: several elements of the result may have come from one of the source. */
static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const index_op *op = (const index_op *)base;
    float *d_x = io->d_src[0];
    if (!d_x)
        return PG_OK;
    int rank = base->dst[0].shape.rank;
    int64_t n = rank ? op->dims[rank - 1] : 1, count = pg_shape_count(&base->dst[0].shape);
    const int64_t zero = 0, *last = rank ? op->offset[rank - 1] : &zero;
    memset(d_x, 0, (size_t)pg_shape_count(&base->src[0].shape) * sizeof(float));
    for (int64_t row = 0; row < count / n; row++) {
        int64_t at = row_offset(op, rank, row);
        if (at < 0)
            continue;
        const float *d_y = io->d_dst[0] + row * n;
        for (int64_t i = 0; i < n; i++)
            if (last[i] >= 0)
                d_x[at + last[i]] += d_y[i];
    }
    return PG_OK;
}

static void destroy(pg_op *base) {
    index_op *op = (index_op *)base;
    for (int k = 0; k < PG_MAX_RANK; k++)
        pg_free(op->from[k]);
}

#define INDEX_CLASS(create_function)                                                               \
    {                                                                                              \
        .create = create_function, .prepare = prepare, .forward = forward, .backward = backward,   \
        .destroy = destroy                                                                         \
    }
const pg_op_class pg_transpose_class = {
    .create = create_transpose,
    .same_bytes = transpose_same_bytes,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
const pg_op_class pg_slice_class = INDEX_CLASS(create_slice);
const pg_op_class pg_gather_class = INDEX_CLASS(create_gather);
const pg_op_class pg_pad_class = INDEX_CLASS(create_pad);
