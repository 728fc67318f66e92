/* Changes of element type. */
#include "pipeline/fold_impl.h"

bool pg_fold_dtype(int64_t elem, pg_dtype *dtype) {
    bool floating = elem == PG_ELEM_FLOAT || elem == PG_ELEM_FLOAT16 || elem == PG_ELEM_DOUBLE ||
                    elem == PG_ELEM_BFLOAT16;
    *dtype = floating ? PG_F32 : PG_I64;
    return floating || (elem >= PG_ELEM_UINT8 && elem <= PG_ELEM_INT64) || elem == PG_ELEM_BOOL ||
           elem == PG_ELEM_UINT32 || elem == PG_ELEM_UINT64;
}

/* C leaves out-of-range conversions undefined: saturate, and NaN becomes 0. */
static int64_t float_to_int(float x) {
    if (x != x)
        return 0;
    if (x >= 0x1p63f)
        return INT64_MAX;
    return x <= -0x1p63f ? INT64_MIN : (int64_t)x;
}

pg_err pg_fold_convert(pg_folder *folder, const pg_const *in, pg_dtype to, pg_const *out,
                       pg_diag *diag) {
    void *data;
    if (in->dtype == to) {
        *out = *in;
        return PG_OK;
    }
    pg_err err = pg_fold_result(folder, to, &in->shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t count = pg_shape_count(&in->shape);
    for (int64_t i = 0; i < count; i++)
        if (to == PG_F32)
            ((float *)data)[i] = (float)in->i[i];
        else
            ((int64_t *)data)[i] = float_to_int(in->f[i]);
    return PG_OK;
}

static pg_err to_bool(pg_folder *folder, const pg_const *in, pg_const *out, pg_diag *diag) {
    void *data;
    pg_err err = pg_fold_result(folder, PG_I64, &in->shape, out, &data, diag);
    for (int64_t i = 0; err == PG_OK && i < pg_shape_count(&in->shape); i++)
        ((int64_t *)data)[i] = in->dtype == PG_F32 ? in->f[i] != 0 : in->i[i] != 0;
    return err;
}

/* Cast to attribute `to`, or CastLike to the second input's type. Integers keep their value
 * whatever their new width: nothing that leads to a shape overflows it. */
pg_err pg_fold_cast(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0), *like = pg_fold_input(def, 1);
    int64_t to = 0;
    pg_dtype dtype;
    pg_err err = pg_def_int(def, "to", 0, &to, diag);
    if (err != PG_OK)
        return err;
    if (like != NULL)
        to = like->elem != PG_ELEM_UNKNOWN ? (int64_t)like->elem
             : like->dtype == PG_F32       ? PG_ELEM_FLOAT
                                           : PG_ELEM_INT64;
    if (in == NULL || !pg_fold_dtype(to, &dtype))
        return pg_fail(diag, PG_EMODEL, "cast to element type %lld is not supported",
                       (long long)to);
    err = to == PG_ELEM_BOOL ? to_bool(folder, in, out, diag)
                             : pg_fold_convert(folder, in, dtype, out, diag);
    out->elem = (pg_elem_type)to;
    return err;
}
