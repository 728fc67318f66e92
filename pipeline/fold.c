/* The table of what can be folded, and what all of it shares. fold_make.c makes constants from
 * attributes and shapes, fold_shape.c renames and joins them, fold_scatter.c picks and places
 * single elements, fold_math.c, fold_reduce.c and fold_cast.c compute. What has an operator and no
 * row here is folded by running that operator once: fold_run.c. */
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
        return pg_fail(diag, PG_EMODEL, "axis %lld is outside a tensor of rank %d", (long long)axis,
                       rank);
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

pg_err pg_fold_inputs(const pg_op_def *def, int count, const pg_const **in, pg_diag *diag) {
    for (int i = 0; i < count; i++)
        if ((in[i] = pg_fold_input(def, i)) == NULL)
            return pg_fail(diag, PG_EMODEL, "an input is missing");
    return PG_OK;
}

/* ---- the table ---- */

static const struct row {
    const char *type;
    pg_fold_fn fold;
} TABLE[] = {
    {"Abs", pg_fold_unary},
    {"Add", pg_fold_binary},
    {"And", pg_fold_binary},
    {"BatchNormalization", pg_fold_batch_norm},
    {"Cast", pg_fold_cast},
    {"CastLike", pg_fold_cast},
    {"Ceil", pg_fold_unary},
    {"Clip", pg_fold_clip},
    {"Concat", pg_fold_concat},
    {"Constant", pg_fold_constant},
    {"ConstantOfShape", pg_fold_constant_of_shape},
    {"Cos", pg_fold_unary},
    {"CumSum", pg_fold_cumsum},
    {"Div", pg_fold_binary},
    {"Equal", pg_fold_binary},
    {"Erf", pg_fold_unary},
    {"Exp", pg_fold_unary},
    {"EyeLike", pg_fold_eye},
    {"Flatten", pg_fold_flatten},
    {"Floor", pg_fold_unary},
    {"Greater", pg_fold_binary},
    {"GreaterOrEqual", pg_fold_binary},
    {"Identity", pg_fold_identity},
    {"Less", pg_fold_binary},
    {"LessOrEqual", pg_fold_binary},
    {"Log", pg_fold_unary},
    {"Max", pg_fold_binary},
    {"Min", pg_fold_binary},
    {"Mod", pg_fold_binary},
    {"Mul", pg_fold_binary},
    {"Neg", pg_fold_unary},
    {"NonZero", pg_fold_nonzero},
    {"Not", pg_fold_unary},
    {"OneHot", pg_fold_one_hot},
    {"Or", pg_fold_binary},
    {"Pow", pg_fold_binary},
    {"Range", pg_fold_range},
    {"Reciprocal", pg_fold_unary},
    {"ReduceMax", pg_fold_reduce},
    {"ReduceMean", pg_fold_reduce},
    {"ReduceMin", pg_fold_reduce},
    {"ReduceProd", pg_fold_reduce},
    {"ReduceSum", pg_fold_reduce},
    {"Reshape", pg_fold_reshape},
    {"Round", pg_fold_unary},
    {"Scatter", pg_fold_scatter_elements},
    {"ScatterElements", pg_fold_scatter_elements},
    {"ScatterND", pg_fold_scatter_nd},
    {"Shape", pg_fold_shape},
    {"Sigmoid", pg_fold_unary},
    {"Sign", pg_fold_unary},
    {"Sin", pg_fold_unary},
    {"Size", pg_fold_size},
    {"Sqrt", pg_fold_unary},
    {"Squeeze", pg_fold_squeeze},
    {"Sub", pg_fold_binary},
    {"Sum", pg_fold_binary},
    {"Tanh", pg_fold_unary},
    {"Unsqueeze", pg_fold_unsqueeze},
    {"Where", pg_fold_where},
    {"Xor", pg_fold_binary},
};

static const struct row *find(const char *type) {
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
        if (strcmp(TABLE[i].type, type) == 0)
            return &TABLE[i];
    return NULL;
}

bool pg_fold_known(const char *type) { return find(type) != NULL || pg_op_known(type); }

bool pg_fold_needs_shape_only(const char *type) {
    return strcmp(type, "Shape") == 0 || strcmp(type, "Size") == 0 || strcmp(type, "EyeLike") == 0;
}

pg_err pg_fold(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const struct row *row = find(def->type);
    if (row == NULL && !pg_op_known(def->type))
        return pg_fail(diag, PG_EMODEL, "%s of constants is not supported", def->type);
    for (int i = 0; i < def->n_inputs; i++)
        if (pg_fold_input(def, i) != NULL && !spend(folder, pg_shape_count(&def->inputs[i].shape)))
            return pg_fail(diag, PG_EMODEL, "too much is computed from constants");
    if (row == NULL)
        return pg_fold_run(folder, def, out, diag);
    return row->fold(folder, def, out, diag);
}
