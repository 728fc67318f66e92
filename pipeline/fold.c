/* The half of the constant folder that moves elements about; fold_math.c computes with them. */
#include "pipeline/fold.h"

#include <string.h>

#include "pipeline/fold_impl.h"

/* Counts elements read or produced; false when that is more than a file of this size has to do, as
 * one that sums a large constant again and again. */
static bool spend(pg_folder *folder, int64_t count) {
    if (folder->elements > PG_FOLD_MAX_TOTAL + folder->extra - count)
        return false;
    folder->elements += count;
    return true;
}

pg_err pg_fold_result(pg_folder *folder, pg_dtype dtype, const pg_shape *shape, pg_const *out,
                      void **data, pg_diag *diag) {
    int64_t count = pg_shape_count(shape);
    if (count < 0 || count > PG_FOLD_MAX_VALUE || !spend(folder, count)) {
        char text[PG_SHAPE_TEXT];
        return pg_fail(diag, PG_EMODEL, "a constant of shape %s would be too large",
                       pg_shape_text(shape, text));
    }
    *data = pg_pool_array(folder->pool, (size_t)count, dtype == PG_F32 ? 4 : 8);
    if (*data == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a constant");
    *out = (pg_const){.dtype = dtype, .shape = *shape, .data = *data};
    return PG_OK;
}

const pg_const *pg_fold_input(const pg_op_def *def, int index) {
    return index < def->n_inputs && def->inputs[index].present ? def->inputs[index].constant : NULL;
}

pg_err pg_fold_ints(const pg_op_def *def, int index, const char *attr, const int64_t **values,
                    int64_t *count, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, index);
    const pg_attr *a = pg_def_attr(def, attr);
    *values = NULL;
    *count = 0;
    if (in != NULL) {
        if (in->dtype != PG_I64 || in->shape.rank > 1)
            return pg_fail(diag, PG_EMODEL, "input %d has to be a list of integers", index);
        *values = in->i;
        *count = pg_shape_count(&in->shape);
    } else if (a != NULL) {
        if (a->type != PG_ATTR_INTS)
            return pg_fail(diag, PG_EMODEL, "attribute '%s' has to be a list of integers", attr);
        *values = a->ints;
        *count = (int64_t)a->count;
    }
    return PG_OK;
}

pg_err pg_fold_axis(int64_t axis, int rank, int *out, pg_diag *diag) {
    if (axis < -rank || axis >= rank)
        return pg_fail(diag, PG_EMODEL, "axis %lld is outside a tensor of rank %d",
                       (long long)axis, rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return PG_OK;
}

void pg_fold_copy(pg_dtype dtype, const pg_shape *shape, const void *src,
                  const int64_t strides[PG_MAX_RANK], void *dst) {
    int64_t index[PG_MAX_RANK] = {0}, count = pg_shape_count(shape), from = 0;
    for (int64_t at = 0; at < count; at++) {
        if (dtype == PG_F32)
            ((float *)dst)[at] = ((const float *)src)[from];
        else
            ((int64_t *)dst)[at] = ((const int64_t *)src)[from];
        for (int i = shape->rank - 1; i >= 0; i--) {
            from += strides[i];
            if (++index[i] < shape->dims[i])
                break;
            from -= strides[i] * shape->dims[i];
            index[i] = 0;
        }
    }
}

static pg_err missing(pg_diag *diag) {
    return pg_fail(diag, PG_EMODEL, "an input is missing");
}

/* The same elements under another shape: the data is shared. */
static pg_err reshaped(const pg_const *in, const pg_shape *shape, pg_const *out, pg_diag *diag) {
    if (pg_shape_count(shape) != pg_shape_count(&in->shape)) {
        char from[PG_SHAPE_TEXT], to[PG_SHAPE_TEXT];
        return pg_fail(diag, PG_EMODEL, "%s does not reshape to %s",
                       pg_shape_text(&in->shape, from), pg_shape_text(shape, to));
    }
    *out = *in;
    out->shape = *shape;
    return PG_OK;
}

static pg_err list(pg_folder *folder, const int64_t *values, int64_t count, pg_const *out,
                   pg_diag *diag) {
    pg_shape shape = {.rank = 1, .dims = {count}};
    void *data;
    pg_err err = pg_fold_result(folder, PG_I64, &shape, out, &data, diag);
    if (err == PG_OK && count > 0)
        memcpy(data, values, (size_t)count * sizeof *values);
    return err;
}

/* ---- constants ---- */

static pg_err fold_constant(pg_folder *folder, const pg_op_def *def, pg_const *out,
                            pg_diag *diag) {
    const pg_attr *a;
    void *data;
    pg_shape scalar = {.rank = 0};
    if ((a = pg_def_attr(def, "value")) != NULL && a->type == PG_ATTR_TENSOR) {
        *out = *a->tensor;
        return PG_OK;
    }
    if ((a = pg_def_attr(def, "value_ints")) != NULL && a->type == PG_ATTR_INTS)
        return list(folder, a->ints, (int64_t)a->count, out, diag);
    if ((a = pg_def_attr(def, "value_int")) != NULL && a->type == PG_ATTR_INT) {
        pg_err err = pg_fold_result(folder, PG_I64, &scalar, out, &data, diag);
        if (err == PG_OK)
            *(int64_t *)data = a->i;
        return err;
    }
    if ((a = pg_def_attr(def, "value_float")) != NULL && a->type == PG_ATTR_FLOAT) {
        pg_err err = pg_fold_result(folder, PG_F32, &scalar, out, &data, diag);
        if (err == PG_OK)
            *(float *)data = a->f;
        return err;
    }
    if ((a = pg_def_attr(def, "value_floats")) != NULL && a->type == PG_ATTR_FLOATS) {
        pg_shape shape = {.rank = 1, .dims = {(int64_t)a->count}};
        pg_err err = pg_fold_result(folder, PG_F32, &shape, out, &data, diag);
        if (err == PG_OK && a->count > 0)
            memcpy(data, a->floats, a->count * sizeof(float));
        return err;
    }
    return pg_fail(diag, PG_EMODEL, "a constant without a numeric value");
}

/* A shape given as a list of non-negative integers. */
static pg_err shape_from(const int64_t *values, int64_t count, pg_shape *out, pg_diag *diag) {
    if (values == NULL || count > PG_MAX_RANK)
        return pg_fail(diag, PG_EMODEL, "a shape of more than %d dimensions", PG_MAX_RANK);
    *out = (pg_shape){.rank = (int)count};
    for (int i = 0; i < out->rank; i++)
        out->dims[i] = values[i];
    return PG_OK;
}

static pg_err fold_constant_of_shape(pg_folder *folder, const pg_op_def *def, pg_const *out,
                                     pg_diag *diag) {
    const int64_t *dims;
    int64_t rank;
    pg_shape shape;
    pg_const zero = {.dtype = PG_F32, .f = &(const float){0}}, *value = &zero;
    const pg_attr *a = pg_def_attr(def, "value");
    const int64_t strides[PG_MAX_RANK] = {0};
    void *data;
    if (a != NULL && (a->type != PG_ATTR_TENSOR || pg_shape_count(&a->tensor->shape) != 1))
        return pg_fail(diag, PG_EMODEL, "attribute 'value' has to hold one element");
    pg_err err = pg_fold_ints(def, 0, "", &dims, &rank, diag);
    if (err == PG_OK)
        err = shape_from(dims, rank, &shape, diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, a ? a->tensor->dtype : PG_F32, &shape, out, &data, diag);
    if (err == PG_OK)
        pg_fold_copy(out->dtype, &shape, a ? a->tensor->data : value->data, strides, data);
    return err;
}

static pg_err fold_identity(pg_folder *folder, const pg_op_def *def, pg_const *out,
                            pg_diag *diag) {
    (void)folder;
    if (pg_fold_input(def, 0) == NULL)
        return missing(diag);
    *out = *pg_fold_input(def, 0);
    return PG_OK;
}

static pg_err fold_shape(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int64_t start, end;
    if (def->n_inputs < 1 || !def->inputs[0].present)
        return missing(diag);
    const pg_shape *s = &def->inputs[0].shape;
    pg_err err = pg_def_int(def, "start", 0, &start, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "end", s->rank, &end, diag);
    if (err != PG_OK)
        return err;
    start = start < 0 ? start + s->rank : start;
    end = end < 0 ? end + s->rank : end;
    start = start < 0 ? 0 : start > s->rank ? s->rank : start;
    end = end < start ? start : end > s->rank ? s->rank : end;
    return list(folder, s->dims + start, end - start, out, diag);
}

static pg_err fold_size(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    pg_shape scalar = {.rank = 0};
    void *data;
    if (def->n_inputs < 1 || !def->inputs[0].present)
        return missing(diag);
    pg_err err = pg_fold_result(folder, PG_I64, &scalar, out, &data, diag);
    if (err == PG_OK)
        *(int64_t *)data = pg_shape_count(&def->inputs[0].shape);
    return err;
}

/* ---- shapes ---- */

static pg_err fold_reshape(pg_folder *folder, const pg_op_def *def, pg_const *out,
                           pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *dims;
    int64_t rank, allow_zero;
    pg_shape shape;
    (void)folder;
    if (in == NULL)
        return missing(diag);
    pg_err err = pg_def_int(def, "allowzero", 0, &allow_zero, diag);
    if (err == PG_OK)
        err = pg_fold_ints(def, 1, "shape", &dims, &rank, diag);
    if (err == PG_OK)
        err = shape_from(dims, rank, &shape, diag);
    if (err != PG_OK)
        return err;
    int open = -1;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dims[i] == 0 && !allow_zero)
            shape.dims[i] = i < in->shape.rank ? in->shape.dims[i] : 0;
        if (shape.dims[i] == -1 && open < 0)
            shape.dims[open = i] = 1;
    }
    int64_t rest = pg_shape_count(&shape);
    if (open >= 0 && rest > 0)
        shape.dims[open] = pg_shape_count(&in->shape) / rest;
    return reshaped(in, &shape, out, diag);
}

static pg_err fold_squeeze(pg_folder *folder, const pg_op_def *def, pg_const *out,
                           pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *axes;
    int64_t count;
    bool drop[PG_MAX_RANK] = {false};
    (void)folder;
    if (in == NULL)
        return missing(diag);
    pg_err err = pg_fold_ints(def, 1, "axes", &axes, &count, diag);
    for (int64_t i = 0; err == PG_OK && axes != NULL && i < count; i++) {
        int axis = 0;
        err = pg_fold_axis(axes[i], in->shape.rank, &axis, diag);
        if (err == PG_OK)
            drop[axis] = true;
    }
    pg_shape shape = {.rank = 0};
    for (int i = 0; i < in->shape.rank; i++)
        if (axes != NULL ? !drop[i] : in->shape.dims[i] != 1)
            shape.dims[shape.rank++] = in->shape.dims[i];
    return err == PG_OK ? reshaped(in, &shape, out, diag) : err;
}

static pg_err fold_unsqueeze(pg_folder *folder, const pg_op_def *def, pg_const *out,
                             pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *axes;
    int64_t count;
    bool added[PG_MAX_RANK] = {false};
    (void)folder;
    if (in == NULL)
        return missing(diag);
    pg_err err = pg_fold_ints(def, 1, "axes", &axes, &count, diag);
    if (err == PG_OK && (axes == NULL || count + in->shape.rank > PG_MAX_RANK))
        return pg_fail(diag, PG_EMODEL, "more than %d dimensions", PG_MAX_RANK);
    pg_shape shape = {.rank = in->shape.rank + (int)count};
    for (int64_t i = 0; err == PG_OK && i < count; i++) {
        int axis = 0;
        err = pg_fold_axis(axes[i], shape.rank, &axis, diag);
        if (err == PG_OK && added[axis])
            return pg_fail(diag, PG_EMODEL, "an axis is named twice");
        added[axis] = true;
    }
    for (int i = 0, from = 0; err == PG_OK && i < shape.rank; i++)
        shape.dims[i] = added[i] ? 1 : in->shape.dims[from++];
    return err == PG_OK ? reshaped(in, &shape, out, diag) : err;
}

static pg_err fold_expand(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *dims;
    int64_t rank, strides[PG_MAX_RANK];
    pg_shape wanted, shape;
    void *data;
    if (in == NULL)
        return missing(diag);
    pg_err err = pg_fold_ints(def, 1, "", &dims, &rank, diag);
    if (err == PG_OK)
        err = shape_from(dims, rank, &wanted, diag);
    if (err == PG_OK && !pg_fold_broadcast(&in->shape, &wanted, &shape))
        return pg_fail(diag, PG_EMODEL, "shapes do not broadcast");
    if (err == PG_OK)
        err = pg_fold_result(folder, in->dtype, &shape, out, &data, diag);
    if (err == PG_OK && pg_fold_broadcast_strides(&in->shape, &shape, strides))
        pg_fold_copy(in->dtype, &shape, in->data, strides, data);
    return err;
}

static pg_err fold_transpose(pg_folder *folder, const pg_op_def *def, pg_const *out,
                             pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const pg_attr *perm = pg_def_attr(def, "perm");
    int64_t plain[PG_MAX_RANK], strides[PG_MAX_RANK];
    unsigned seen = 0;
    void *data;
    if (in == NULL)
        return missing(diag);
    int rank = in->shape.rank;
    if (perm != NULL && (perm->type != PG_ATTR_INTS || perm->count != (size_t)rank))
        return pg_fail(diag, PG_EMODEL, "attribute 'perm' does not fit a tensor of rank %d", rank);
    pg_desc_strides(&(pg_desc){.shape = in->shape}, plain);
    pg_shape shape = {.rank = rank};
    for (int i = 0; i < rank; i++) {
        int64_t axis = perm != NULL ? perm->ints[i] : rank - 1 - i;
        if (axis < 0 || axis >= rank || (seen >> axis & 1) != 0)
            return pg_fail(diag, PG_EMODEL, "attribute 'perm' is no permutation");
        seen |= 1u << axis;
        shape.dims[i] = in->shape.dims[axis];
        strides[i] = plain[axis];
    }
    pg_err err = pg_fold_result(folder, in->dtype, &shape, out, &data, diag);
    if (err == PG_OK)
        pg_fold_copy(in->dtype, &shape, in->data, strides, data);
    return err;
}

/* ---- selections ---- */

static pg_err fold_gather(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0), *at = pg_fold_input(def, 1);
    int64_t attr_axis, outer = 1, inner = 1;
    int axis = 0;
    void *data;
    if (in == NULL || at == NULL || at->dtype != PG_I64)
        return missing(diag);
    pg_err err = pg_def_int(def, "axis", 0, &attr_axis, diag);
    if (err == PG_OK)
        err = pg_fold_axis(attr_axis, in->shape.rank, &axis, diag);
    if (err != PG_OK)
        return err;
    if (in->shape.rank - 1 + at->shape.rank > PG_MAX_RANK)
        return pg_fail(diag, PG_EMODEL, "more than %d dimensions", PG_MAX_RANK);
    pg_shape shape = {.rank = 0};
    for (int i = 0; i < axis; i++)
        outer *= shape.dims[shape.rank++] = in->shape.dims[i];
    for (int i = 0; i < at->shape.rank; i++)
        shape.dims[shape.rank++] = at->shape.dims[i];
    for (int i = axis + 1; i < in->shape.rank; i++)
        inner *= shape.dims[shape.rank++] = in->shape.dims[i];
    err = pg_fold_result(folder, in->dtype, &shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t length = in->shape.dims[axis], count = pg_shape_count(&at->shape);
    size_t run = (size_t)inner * (in->dtype == PG_F32 ? 4 : 8);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < count; k++) {
            int64_t index = at->i[k] < 0 ? at->i[k] + length : at->i[k];
            if (index < 0 || index >= length)
                return pg_fail(diag, PG_EMODEL, "index %lld is outside an axis of %lld",
                               (long long)at->i[k], (long long)length);
            if (run > 0)
                memcpy((char *)data + (size_t)(o * count + k) * run,
                       (const char *)in->data + (size_t)(o * length + index) * run, run);
        }
    return PG_OK;
}

static pg_err concat_shape(const pg_op_def *def, int axis, pg_shape *shape, pg_diag *diag) {
    const pg_const *first = pg_fold_input(def, 0);
    *shape = first->shape;
    for (int k = 1; k < def->n_inputs; k++) {
        const pg_const *in = pg_fold_input(def, k);
        if (in == NULL)
            return missing(diag);
        bool fits = in->dtype == first->dtype && in->shape.rank == shape->rank;
        for (int i = 0; fits && i < shape->rank; i++)
            fits = i == axis || in->shape.dims[i] == shape->dims[i];
        if (!fits)
            return pg_fail(diag, PG_EMODEL, "inputs do not fit together");
        shape->dims[axis] += in->shape.dims[axis];
    }
    return PG_OK;
}

static pg_err fold_concat(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int64_t attr_axis, outer = 1;
    int axis = 0;
    pg_shape shape;
    void *data;
    if (pg_fold_input(def, 0) == NULL)
        return missing(diag);
    pg_err err = pg_def_int(def, "axis", 0, &attr_axis, diag);
    if (err == PG_OK)
        err = pg_fold_axis(attr_axis, pg_fold_input(def, 0)->shape.rank, &axis, diag);
    if (err == PG_OK)
        err = concat_shape(def, axis, &shape, diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, pg_fold_input(def, 0)->dtype, &shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    for (int i = 0; i < axis; i++)
        outer *= shape.dims[i];
    char *to = data;
    for (int64_t o = 0; o < outer; o++)
        for (int k = 0; k < def->n_inputs; k++) {
            const pg_const *in = pg_fold_input(def, k);
            size_t run = (size_t)(pg_shape_count(&in->shape) / outer) *
                         (in->dtype == PG_F32 ? 4 : 8);
            if (run > 0)
                memcpy(to, (const char *)in->data + (size_t)o * run, run);
            to += run;
        }
    return PG_OK;
}

/* start, end and step of one axis, clamped as ONNX wants -> first index and number of elements */
static bool slice_axis(int64_t length, int64_t start, int64_t end, int64_t step, int64_t *first,
                       int64_t *count) {
    if (step == 0 || step == INT64_MIN)
        return false;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
    start = start < 0 ? start + length : start;
    end = end < 0 ? end + length : end;
    start = start < low ? low : start > high ? high : start;
    end = end < low ? low : end > high ? high : end;
    if (step < 0 && start < 0)
        start = -1;
    *first = start;
    int64_t span = step > 0 ? end - start : start - end, stride = step > 0 ? step : -step;
    *count = span > 0 ? (span - 1) / stride + 1 : 0;
    return true;
}

static pg_err fold_slice(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *starts, *ends, *axes, *steps;
    int64_t n, n_ends, n_axes, n_steps, strides[PG_MAX_RANK], offset = 0;
    void *data;
    if (in == NULL)
        return missing(diag);
    pg_err err = pg_fold_ints(def, 1, "starts", &starts, &n, diag);
    if (err == PG_OK)
        err = pg_fold_ints(def, 2, "ends", &ends, &n_ends, diag);
    if (err == PG_OK)
        err = pg_fold_ints(def, 3, "axes", &axes, &n_axes, diag);
    if (err == PG_OK)
        err = pg_fold_ints(def, 4, "steps", &steps, &n_steps, diag);
    if (err != PG_OK)
        return err;
    if (starts == NULL || n_ends != n || (axes != NULL && n_axes != n) ||
        (steps != NULL && n_steps != n) || n > in->shape.rank)
        return pg_fail(diag, PG_EMODEL, "starts, ends, axes and steps do not fit together");
    pg_shape shape = in->shape;
    pg_desc_strides(&(pg_desc){.shape = in->shape}, strides);
    unsigned seen = 0;
    for (int64_t i = 0; i < n; i++) {
        int axis = 0;
        int64_t first;
        err = pg_fold_axis(axes != NULL ? axes[i] : i, shape.rank, &axis, diag);
        if (err != PG_OK)
            return err;
        int64_t step = steps != NULL ? steps[i] : 1;
        if ((seen >> axis & 1) != 0 ||
            !slice_axis(in->shape.dims[axis], starts[i], ends[i], step, &first, &shape.dims[axis]))
            return pg_fail(diag, PG_EMODEL, "an axis is named twice, or a step is 0");
        seen |= 1u << axis;
        if (shape.dims[axis] > 0)
            offset += first * strides[axis];
        /* a step that is taken once at most may be as long as it likes */
        strides[axis] = shape.dims[axis] > 1 ? strides[axis] * step : 0;
    }
    err = pg_fold_result(folder, in->dtype, &shape, out, &data, diag);
    if (err == PG_OK)
        pg_fold_copy(in->dtype, &shape,
                     (const char *)in->data + offset * (in->dtype == PG_F32 ? 4 : 8), strides,
                     data);
    return err;
}

/* ---- the table ---- */

static const struct row {
    const char *type;
    pg_fold_fn fold;
} TABLE[] = {
    {"Abs", pg_fold_unary},         {"Add", pg_fold_binary},
    {"And", pg_fold_binary},        {"Cast", pg_fold_cast},
    {"Ceil", pg_fold_unary},        {"Concat", fold_concat},
    {"Constant", fold_constant},    {"ConstantOfShape", fold_constant_of_shape},
    {"Div", pg_fold_binary},        {"Equal", pg_fold_binary},
    {"Exp", pg_fold_unary},         {"Expand", fold_expand},
    {"Floor", pg_fold_unary},       {"Gather", fold_gather},
    {"Greater", pg_fold_binary},    {"Identity", fold_identity},
    {"Less", pg_fold_binary},       {"Log", pg_fold_unary},
    {"Max", pg_fold_binary},        {"Min", pg_fold_binary},
    {"Mod", pg_fold_binary},        {"Mul", pg_fold_binary},
    {"Neg", pg_fold_unary},         {"Not", pg_fold_unary},
    {"Or", pg_fold_binary},         {"Pow", pg_fold_binary},
    {"Range", pg_fold_range},       {"Reciprocal", pg_fold_unary},
    {"ReduceMax", pg_fold_reduce},  {"ReduceMin", pg_fold_reduce},
    {"ReduceProd", pg_fold_reduce}, {"ReduceSum", pg_fold_reduce},
    {"Reshape", fold_reshape},      {"Round", pg_fold_unary},
    {"Shape", fold_shape},          {"Size", fold_size},
    {"Slice", fold_slice},          {"Sqrt", pg_fold_unary},
    {"Squeeze", fold_squeeze},      {"Sub", pg_fold_binary},
    {"Transpose", fold_transpose},  {"Unsqueeze", fold_unsqueeze},
    {"Where", pg_fold_where},
};

static const struct row *find(const char *type) {
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
        if (strcmp(TABLE[i].type, type) == 0)
            return &TABLE[i];
    return NULL;
}

bool pg_fold_known(const char *type) {
    return find(type) != NULL;
}

bool pg_fold_needs_shape_only(const char *type) {
    return strcmp(type, "Shape") == 0 || strcmp(type, "Size") == 0;
}

pg_err pg_fold(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const struct row *row = find(def->type);
    if (row == NULL)
        return pg_fail(diag, PG_EMODEL, "%s of constants is not supported", def->type);
    for (int i = 0; i < def->n_inputs; i++)
        if (pg_fold_input(def, i) != NULL && !spend(folder, pg_shape_count(&def->inputs[i].shape)))
            return pg_fail(diag, PG_EMODEL, "too much is computed from constants");
    return row->fold(folder, def, out, diag);
}
