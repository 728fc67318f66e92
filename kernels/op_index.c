/* Operators that only say where each element of the result comes from: Transpose, Slice, Gather
 * with constant indices, and Pad. One table of source offsets per axis of the result (-1: padding)
 * describes them all; forward reads through the tables, backward adds through them. */
#include "kernels/op.h"

#include <string.h>

#include "kernels/mem.h"

typedef struct index_op {
    pg_op op;
    int src_axis[PG_MAX_RANK];   /* which axis of src the result's axis walks; -1: none */
    int64_t *from[PG_MAX_RANK];  /* [dst.dims[k]] position along that axis, -1: padding */
    float fill;                  /* the padding */
    int64_t *offset[PG_MAX_RANK]; /* (prepare) the same as element offsets, in memory order of dst */
    int64_t dims[PG_MAX_RANK];    /* (prepare) dst in memory order */
    int dropped_axis;             /* Gather with a scalar index: the axis it takes away, else -1 */
    int64_t dropped_index;
    int64_t base;                 /* (prepare) what the dropped axis adds to every offset */
} index_op;

extern const pg_op_class pg_transpose_class, pg_slice_class, pg_gather_class, pg_pad_class;

static pg_err refuse(const pg_op_def *def, pg_diag *diag, const char *why) {
    return pg_fail(diag, PG_EMODEL, "node '%s' (%s): %s", def->node, def->type, why);
}

static pg_err check_input(const pg_op_def *def, pg_diag *diag) {
    if (def->n_inputs < 1 || !def->inputs[0].present || def->inputs[0].constant)
        return refuse(def, diag, "needs a computed input");
    return PG_OK;
}

/* Allocates the operator with one table per axis of `dst`, filled by the caller. */
static pg_err alloc(const pg_op_class *cls, const pg_op_def *def, const pg_shape *dst,
                    index_op **op, pg_op **out, pg_diag *diag) {
    if (dst->rank > PG_MAX_RANK || pg_shape_count(dst) <= 0)
        return refuse(def, diag, "its result would be empty or too large");
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
    pg_err err = check_input(def, diag);
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
            return refuse(def, diag, "perm is no permutation");
        seen[perm[i]] = true;
        dst.dims[i] = src->dims[perm[i]];
    }
    index_op *op;
    err = alloc(&pg_transpose_class, def, &dst, &op, out, diag);
    for (int i = 0; i < src->rank && !err; i++)
        op->src_axis[i] = (int)perm[i];
    return err;
}

/* ---- Slice ---- */

enum { STARTS, ENDS, AXES, STEPS, LISTS };

static pg_err read_list(const pg_op_def *def, int which, int64_t out[PG_MAX_RANK], int *count,
                        pg_diag *diag) {
    static const char *const names[] = {"starts", "ends", "axes", "steps"};
    const pg_attr *attr = pg_def_attr(def, names[which]);
    const int64_t *values = NULL;
    int64_t n = -1;
    if (attr && attr->type == PG_ATTR_INTS) {
        values = attr->ints;
        n = (int64_t)attr->count;
    } else if (def->n_inputs > which + 1 && def->inputs[which + 1].present) {
        const pg_const *list = def->inputs[which + 1].constant;
        if (!list || list->dtype != PG_I64)
            return pg_fail(diag, PG_EMODEL, "node '%s' (%s): %s must be constant integers",
                           def->node, def->type, names[which]);
        values = list->i;
        n = pg_shape_count(&list->shape);
    }
    if (n > PG_MAX_RANK)
        return refuse(def, diag, "more than six axes are not supported");
    if (n > 0)
        memcpy(out, values, (size_t)n * sizeof *out);
    *count = (int)n;
    return PG_OK;
}

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

static pg_err create_slice(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = check_input(def, diag);
    if (err)
        return err;
    int64_t lists[LISTS][PG_MAX_RANK], first[PG_MAX_RANK] = {0}, stride[PG_MAX_RANK];
    int count[LISTS];
    for (int i = 0; i < LISTS && !err; i++)
        err = read_list(def, i, lists[i], &count[i], diag);
    if (err)
        return err;
    pg_shape dst = def->inputs[0].shape;
    int n = count[STARTS];
    if (n < 0 || count[ENDS] != n || (count[AXES] >= 0 && count[AXES] != n) ||
        (count[STEPS] >= 0 && count[STEPS] != n))
        return refuse(def, diag, "starts, ends, axes and steps differ in length");
    for (int i = 0; i < PG_MAX_RANK; i++)
        stride[i] = 1;
    for (int i = 0; i < n; i++) {
        int64_t axis = count[AXES] >= 0 ? lists[AXES][i] : i;
        axis += axis < 0 ? dst.rank : 0;
        int64_t step = count[STEPS] >= 0 ? lists[STEPS][i] : 1;
        if (axis < 0 || axis >= dst.rank || step == 0 || step > INT32_MAX || step < -INT32_MAX)
            return refuse(def, diag, "axes or steps are out of range");
        const int64_t far = INT32_MAX;
        first[axis] = clamp(lists[STARTS][i], -far, far);
        stride[axis] = step;
        dst.dims[axis] = slice_axis(def->inputs[0].shape.dims[axis], &first[axis],
                                    clamp(lists[ENDS][i], -far, far), step);
    }
    index_op *op;
    err = alloc(&pg_slice_class, def, &dst, &op, out, diag);
    for (int k = 0; k < dst.rank && !err; k++)
        for (int64_t i = 0; i < dst.dims[k]; i++)
            op->from[k][i] = first[k] + i * stride[k];
    return err;
}

/* ---- Gather ---- */

static pg_err create_gather(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = check_input(def, diag);
    int64_t axis;
    if (!err)
        err = pg_def_int(def, "axis", 0, &axis, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    if (def->n_inputs < 2 || !def->inputs[1].constant || def->inputs[1].constant->dtype != PG_I64)
        return refuse(def, diag, "its indices must be constant integers");
    const pg_const *indices = def->inputs[1].constant;
    if (indices->shape.rank > 1)
        return refuse(def, diag, "indices of more than one axis are not supported");
    axis += axis < 0 ? src->rank : 0;
    if (axis < 0 || axis >= src->rank)
        return refuse(def, diag, "axis is out of range");
    bool drops = indices->shape.rank == 0;
    int64_t n = pg_shape_count(&indices->shape), dim = src->dims[axis];
    pg_shape dst = {.rank = 0};
    for (int i = 0; i < src->rank; i++)
        if (i != axis || !drops)
            dst.dims[dst.rank++] = i == axis ? n : src->dims[i];
    for (int64_t i = 0; i < n; i++)
        if (indices->i[i] < -dim || indices->i[i] >= dim)
            return refuse(def, diag, "an index is out of range");
    index_op *op;
    err = alloc(&pg_gather_class, def, &dst, &op, out, diag);
    if (err)
        return err;
    for (int k = 0; k < dst.rank; k++)
        op->src_axis[k] = drops && k >= axis ? k + 1 : k;
    if (!drops) {
        for (int64_t i = 0; i < n; i++)
            op->from[axis][i] = indices->i[i] < 0 ? indices->i[i] + dim : indices->i[i];
        return PG_OK;
    }
    op->dropped_axis = (int)axis;
    op->dropped_index = indices->i[0] < 0 ? indices->i[0] + dim : indices->i[0];
    return PG_OK;
}

/* ---- Pad ---- */

static pg_err read_pads(const pg_op_def *def, int rank, int64_t pads[2 * PG_MAX_RANK],
                        float *fill, pg_diag *diag) {
    pg_err err = pg_def_float(def, "value", 0, fill, diag);
    const pg_attr *attr = pg_def_attr(def, "pads");
    if (err)
        return err;
    if (attr)
        return pg_def_ints(def, "pads", 2 * rank, 0, pads, diag);
    const pg_const *list = def->n_inputs > 1 ? def->inputs[1].constant : NULL;
    if (!list || list->dtype != PG_I64 || pg_shape_count(&list->shape) != 2 * rank)
        return refuse(def, diag, "pads must be constant, two for each axis");
    memcpy(pads, list->i, (size_t)(2 * rank) * sizeof *pads);
    if (def->n_inputs > 3 && def->inputs[3].present)
        return refuse(def, diag, "its axes input is not supported");
    if (def->n_inputs > 2 && def->inputs[2].present) {
        const pg_const *value = def->inputs[2].constant;
        if (!value || pg_shape_count(&value->shape) != 1)
            return refuse(def, diag, "its value must be a constant scalar");
        *fill = value->dtype == PG_F32 ? value->f[0] : (float)value->i[0];
    }
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
    pg_err err = check_input(def, diag);
    if (err)
        return err;
    const char *mode;
    float fill = 0;
    int64_t pads[2 * PG_MAX_RANK];
    const pg_shape *src = &def->inputs[0].shape;
    err = pg_def_string(def, "mode", "constant", &mode, diag);
    if (!err)
        err = read_pads(def, src->rank, pads, &fill, diag);
    if (err)
        return err;
    if (strcmp(mode, "constant") != 0 && strcmp(mode, "edge") != 0 && strcmp(mode, "reflect") != 0)
        return pg_fail(diag, PG_EMODEL, "node '%s' (Pad): mode '%s' is not supported", def->node,
                       mode);
    pg_shape dst = *src;
    for (int i = 0; i < src->rank; i++) {
        if (pads[i] > INT32_MAX || pads[i] < -INT32_MAX || pads[src->rank + i] > INT32_MAX ||
            pads[src->rank + i] < -INT32_MAX)
            return refuse(def, diag, "pads are out of range");
        dst.dims[i] += pads[i] + pads[src->rank + i];
        if (dst.dims[i] <= 0)
            return refuse(def, diag, "its result would be empty");
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
const pg_op_class pg_transpose_class = INDEX_CLASS(create_transpose);
const pg_op_class pg_slice_class = INDEX_CLASS(create_slice);
const pg_op_class pg_gather_class = INDEX_CLASS(create_gather);
const pg_op_class pg_pad_class = INDEX_CLASS(create_pad);
