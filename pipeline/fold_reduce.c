/* Sums, products, extrema and means over axes, and running sums. Floats are summed in double. */
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/fold_impl.h"

/* The axes to reduce: all of them when none is named, unless the node says that this means none. */
static pg_err reduced_axes(const pg_op_def *def, int rank, bool reduced[PG_MAX_RANK],
                           pg_diag *diag) {
    const int64_t *axes;
    int64_t count = 0, none;
    pg_err err = pg_def_int(def, "noop_with_empty_axes", 0, &none, diag);
    if (err == PG_OK)
        err = pg_fold_ints(def, 1, "axes", &axes, &count, diag);
    for (int i = 0; i < PG_MAX_RANK; i++)
        reduced[i] = count == 0 && !none;
    for (int64_t i = 0; err == PG_OK && axes != NULL && i < count; i++) {
        int axis = 0;
        err = pg_fold_axis(axes[i], rank, &axis, diag);
        if (err == PG_OK)
            reduced[axis] = true;
    }
    return err;
}

typedef struct reduction {
    const char *type;
    pg_fold_pair_op op;
} reduction;

/* Takes element `at` of the input into place `to`: the first one that comes starts it. */
static pg_err take(const reduction *r, const pg_const *in, int64_t at, int64_t to, bool first,
                   void *data, double *sums, pg_diag *diag) {
    if (in->dtype == PG_I64) {
        int64_t *place = (int64_t *)data + to;
        if (!first)
            return pg_fold_pair(r->op, PG_I64, place, &in->i[at], place, diag);
        *place = in->i[at];
        return PG_OK;
    }
    double x = (double)in->f[at], *sum = sums + to;
    if (first)
        *sum = x;
    else if (r->op == PG_FOLD_ADD)
        *sum += x;
    else if (r->op == PG_FOLD_MUL)
        *sum *= x;
    else if (r->op == PG_FOLD_MIN ? x < *sum : x > *sum)
        *sum = x;
    return PG_OK;
}

static pg_err take_all(const reduction *r, const pg_const *in, const bool reduced[PG_MAX_RANK],
                       void *data, double *sums, pg_diag *diag) {
    int64_t strides[PG_MAX_RANK], index[PG_MAX_RANK] = {0}, count = pg_shape_count(&in->shape);
    pg_shape full = in->shape;
    for (int i = 0; i < full.rank; i++)
        full.dims[i] = reduced[i] ? 1 : full.dims[i];
    pg_err err = PG_OK;
    if (!pg_fold_broadcast_strides(&full, &in->shape, strides))
        return pg_fail(diag, PG_EMODEL, "nothing to reduce");
    for (int64_t at = 0; err == PG_OK && at < count; at++) {
        int64_t to = 0;
        bool first = true;
        for (int i = 0; i < full.rank; i++) {
            to += index[i] * strides[i];
            first = first && (!reduced[i] || index[i] == 0);
        }
        err = take(r, in, at, to, first, data, sums, diag);
        for (int i = full.rank - 1; i >= 0 && ++index[i] == in->shape.dims[i]; i--)
            index[i] = 0;
    }
    return err;
}

pg_err pg_fold_reduce(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    static const reduction KINDS[] = {{"ReduceSum", PG_FOLD_ADD},
                                      {"ReduceMean", PG_FOLD_ADD},
                                      {"ReduceProd", PG_FOLD_MUL},
                                      {"ReduceMin", PG_FOLD_MIN},
                                      {"ReduceMax", PG_FOLD_MAX}};
    const reduction *r = KINDS;
    const pg_const *in;
    bool reduced[PG_MAX_RANK];
    int64_t keep, length = 1;
    void *data;
    while (strcmp(r->type, def->type) != 0)
        r++;
    pg_err err = pg_fold_inputs(def, 1, &in, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "keepdims", 1, &keep, diag);
    if (err == PG_OK)
        err = reduced_axes(def, in->shape.rank, reduced, diag);
    if (err != PG_OK)
        return err;
    pg_shape shape = {.rank = 0};
    for (int i = 0; i < in->shape.rank; i++) {
        length *= reduced[i] ? in->shape.dims[i] : 1;
        if (!reduced[i] || keep)
            shape.dims[shape.rank++] = reduced[i] ? 1 : in->shape.dims[i];
    }
    if (pg_shape_count(&in->shape) == 0)
        return pg_fail(diag, PG_EMODEL, "nothing to reduce");
    err = pg_fold_result(folder, in->dtype, &shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t places = pg_shape_count(&shape);
    double *sums = pg_malloc((size_t)places * sizeof *sums);
    if (sums == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a constant");
    err = take_all(r, in, reduced, data, sums, diag);
    bool mean = strcmp(r->type, "ReduceMean") == 0;
    for (int64_t i = 0; err == PG_OK && i < places; i++)
        if (in->dtype == PG_F32)
            ((float *)data)[i] = (float)(mean ? sums[i] / (double)length : sums[i]);
        else if (mean)
            ((int64_t *)data)[i] /= length;
    pg_free(sums);
    return err;
}

/* ---- CumSum ---- */

/* One line of `n` elements, `step` apart. */
static pg_err run_line(const pg_const *in, void *data, int64_t first, int64_t step, int64_t n,
                       bool exclusive, bool reverse, pg_diag *diag) {
    int64_t whole = 0;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + (reverse ? n - 1 - i : i) * step;
        int64_t before = whole;
        double sum_before = sum;
        if (in->dtype == PG_F32)
            sum += (double)in->f[at];
        else if (__builtin_add_overflow(whole, in->i[at], &whole))
            return pg_fail(diag, PG_EMODEL, "an integer overflows");
        if (in->dtype == PG_F32)
            ((float *)data)[at] = (float)(exclusive ? sum_before : sum);
        else
            ((int64_t *)data)[at] = exclusive ? before : whole;
    }
    return PG_OK;
}

pg_err pg_fold_cumsum(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in[2];
    int64_t exclusive, reverse, strides[PG_MAX_RANK];
    int axis = 0;
    void *data;
    pg_err err = pg_fold_inputs(def, 2, in, diag);
    if (err == PG_OK && (in[1]->dtype != PG_I64 || pg_shape_count(&in[1]->shape) != 1))
        err = pg_fail(diag, PG_EMODEL, "its axis has to be an integer");
    if (err == PG_OK)
        err = pg_fold_axis(in[1]->i[0], in[0]->shape.rank, &axis, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "exclusive", 0, &exclusive, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "reverse", 0, &reverse, diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, in[0]->dtype, &in[0]->shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    pg_desc_strides(&(pg_desc){.shape = in[0]->shape}, strides);
    int64_t n = in[0]->shape.dims[axis], step = strides[axis], count = pg_shape_count(&out->shape);
    for (int64_t line = 0; err == PG_OK && n > 0 && line < count / n; line++)
        err = run_line(in[0], data, line / step * step * n + line % step, step, n, exclusive != 0,
                       reverse != 0, diag);
    return err;
}
