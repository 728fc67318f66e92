/* Other names for the same elements (Identity, Reshape, Squeeze, ...), and Concat. */
#include <string.h>

#include "pipeline/fold_impl.h"

pg_err pg_fold_shape_from(const int64_t *values, int64_t count, pg_shape *out, pg_diag *diag) {
    if (values == NULL || count > PG_MAX_RANK)
        return pg_fail(diag, PG_EMODEL, "a shape of more than %d dimensions", PG_MAX_RANK);
    *out = (pg_shape){.rank = (int)count};
    for (int i = 0; i < out->rank; i++)
        out->dims[i] = values[i];
    return PG_OK;
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

pg_err pg_fold_identity(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    (void)folder;
    if (pg_fold_input(def, 0) == NULL)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
    *out = *pg_fold_input(def, 0);
    return PG_OK;
}

pg_err pg_fold_reshape(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *dims;
    int64_t rank, allow_zero;
    pg_shape shape;
    (void)folder;
    if (in == NULL)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
    pg_err err = pg_def_int(def, "allowzero", 0, &allow_zero, diag);
    if (err == PG_OK)
        err = pg_fold_ints(def, 1, "shape", &dims, &rank, diag);
    if (err == PG_OK)
        err = pg_fold_shape_from(dims, rank, &shape, diag);
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

pg_err pg_fold_squeeze(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *axes;
    int64_t count;
    bool drop[PG_MAX_RANK] = {false};
    (void)folder;
    if (in == NULL)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
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

pg_err pg_fold_unsqueeze(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    const int64_t *axes;
    int64_t count;
    bool added[PG_MAX_RANK] = {false};
    (void)folder;
    if (in == NULL)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
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

pg_err pg_fold_flatten(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in;
    int64_t axis;
    (void)folder;
    pg_err err = pg_fold_inputs(def, 1, &in, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "axis", 1, &axis, diag);
    if (err != PG_OK)
        return err;
    if (axis < -in->shape.rank || axis > in->shape.rank)
        return pg_fail(diag, PG_EMODEL, "attribute 'axis' is out of range");
    axis = axis < 0 ? axis + in->shape.rank : axis;
    pg_shape shape = {.rank = 2, .dims = {1, 1}};
    for (int i = 0; i < in->shape.rank; i++)
        shape.dims[i >= axis] *= in->shape.dims[i];
    return reshaped(in, &shape, out, diag);
}

/* ---- Concat ---- */

static pg_err concat_shape(const pg_op_def *def, int axis, pg_shape *shape, pg_diag *diag) {
    const pg_const *first = pg_fold_input(def, 0);
    *shape = first->shape;
    for (int k = 1; k < def->n_inputs; k++) {
        const pg_const *in = pg_fold_input(def, k);
        if (in == NULL)
            return pg_fail(diag, PG_EMODEL, "an input is missing");
        bool fits = in->dtype == first->dtype && in->shape.rank == shape->rank;
        for (int i = 0; fits && i < shape->rank; i++)
            fits = i == axis || in->shape.dims[i] == shape->dims[i];
        if (!fits)
            return pg_fail(diag, PG_EMODEL, "inputs do not fit together");
        shape->dims[axis] += in->shape.dims[axis];
    }
    return PG_OK;
}

pg_err pg_fold_concat(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int64_t attr_axis, outer = 1;
    int axis = 0;
    pg_shape shape;
    void *data;
    if (pg_fold_input(def, 0) == NULL)
        return pg_fail(diag, PG_EMODEL, "an input is missing");
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
            size_t run =
                (size_t)(pg_shape_count(&in->shape) / outer) * (in->dtype == PG_F32 ? 4 : 8);
            if (run > 0)
                memcpy(to, (const char *)in->data + (size_t)o * run, run);
            to += run;
        }
    return PG_OK;
}
