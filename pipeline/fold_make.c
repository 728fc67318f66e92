/* Constants made from attributes, shapes and scalars. */
#include <math.h>
#include <string.h>

#include "pipeline/fold_impl.h"

static pg_err list(pg_folder *folder, const int64_t *values, int64_t count, pg_const *out,
                   pg_diag *diag) {
    pg_shape shape = {.rank = 1, .dims = {count}};
    void *data;
    pg_err err = pg_fold_result(folder, PG_I64, &shape, out, &data, diag);
    if (err == PG_OK && count > 0)
        memcpy(data, values, (size_t)count * sizeof *values);
    return err;
}

pg_err pg_fold_constant(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
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

pg_err pg_fold_constant_of_shape(pg_folder *folder, const pg_op_def *def, pg_const *out,
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
        err = pg_fold_shape_from(dims, rank, &shape, diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, a ? a->tensor->dtype : PG_F32, &shape, out, &data, diag);
    if (err == PG_OK)
        pg_fold_copy(out->dtype, &shape, a ? a->tensor->data : value->data, strides, data);
    return err;
}

pg_err pg_fold_shape(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int64_t start, end;
    if (def->n_inputs < 1 || !def->inputs[0].present)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
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

pg_err pg_fold_size(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    pg_shape scalar = {.rank = 0};
    void *data;
    if (def->n_inputs < 1 || !def->inputs[0].present)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
    pg_err err = pg_fold_result(folder, PG_I64, &scalar, out, &data, diag);
    if (err == PG_OK)
        *(int64_t *)data = pg_shape_count(&def->inputs[0].shape);
    return err;
}

/* Ones on a diagonal; the input gives the shape, and the type where no attribute does. */
pg_err pg_fold_eye(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int64_t k, type;
    void *data;
    if (def->n_inputs != 1 || !def->inputs[0].present || def->inputs[0].shape.rank != 2)
        return pg_fail(diag, PG_EMODEL, "needs one matrix");
    const pg_const *in = def->inputs[0].constant;
    pg_err err = pg_def_int(def, "k", 0, &k, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "dtype", in && in->dtype == PG_I64 ? PG_ELEM_INT64 : PG_ELEM_FLOAT,
                         &type, diag);
    pg_dtype dtype = PG_F32;
    if (err == PG_OK && !pg_fold_dtype(type, &dtype))
        err = pg_fail(diag, PG_EMODEL, "element type %lld is not supported", (long long)type);
    const pg_shape *shape = &def->inputs[0].shape;
    if (err == PG_OK)
        err = pg_fold_result(folder, dtype, shape, out, &data, diag);
    for (int64_t i = 0; err == PG_OK && i < pg_shape_count(shape); i++) {
        int64_t row = i / shape->dims[1], column = i % shape->dims[1];
        bool one = column - row == k; /* both are below 2^40 */
        if (dtype == PG_F32)
            ((float *)data)[i] = one;
        else
            ((int64_t *)data)[i] = one;
    }
    return err;
}

pg_err pg_fold_range(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in[3];
    void *data;
    for (int i = 0; i < 3; i++) {
        in[i] = pg_fold_input(def, i);
        if (in[i] == NULL || pg_shape_count(&in[i]->shape) != 1 || in[i]->dtype != in[0]->dtype)
            return pg_fail(diag, PG_EMODEL, "needs three scalars of one type");
    }
    bool whole = in[0]->dtype == PG_I64;
    double start = whole ? (double)in[0]->i[0] : in[0]->f[0];
    double limit = whole ? (double)in[1]->i[0] : in[1]->f[0];
    double step = whole ? (double)in[2]->i[0] : in[2]->f[0];
    double count = ceil((limit - start) / step);
    if (!(count <= (double)PG_FOLD_MAX_VALUE))
        return pg_fail(diag, PG_EMODEL, "the range is endless or too long");
    pg_shape shape = {.rank = 1, .dims = {count > 0 ? (int64_t)count : 0}};
    pg_err err = pg_fold_result(folder, in[0]->dtype, &shape, out, &data, diag);
    for (int64_t i = 0; err == PG_OK && i < shape.dims[0]; i++)
        if (whole)
            ((int64_t *)data)[i] =
                (int64_t)((uint64_t)in[0]->i[0] + (uint64_t)i * (uint64_t)in[2]->i[0]);
        else
            ((float *)data)[i] = (float)(start + (double)i * step);
    return err;
}
