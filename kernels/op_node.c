#include "kernels/op_node.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

pg_err pg_node_refuse(const pg_op_def *def, pg_diag *diag, const char *format, ...) {
    char why[512];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return pg_fail(diag, PG_EMODEL, "node '%s' (%s): %s", def->node, def->type, why);
}

pg_err pg_node_one_input(const pg_op_def *def, pg_diag *diag) {
    if (def->n_inputs < 1 || !def->inputs[0].present || def->inputs[0].constant)
        return pg_node_refuse(def, diag, "needs a computed first input");
    for (int i = 1; i < def->n_inputs; i++)
        if (def->inputs[i].present && !def->inputs[i].constant)
            return pg_node_refuse(def, diag, "input %d must be constant", i);
    return PG_OK;
}

const pg_const *pg_node_constant(const pg_op_def *def, int index) {
    return index >= 0 && index < def->n_inputs && def->inputs[index].present
               ? def->inputs[index].constant
               : NULL;
}

pg_err pg_node_axis(const pg_op_def *def, int64_t axis, int rank, int *out, pg_diag *diag) {
    if (axis < -(int64_t)rank || axis >= rank)
        return pg_node_refuse(def, diag, "axis %" PRId64 " is out of range for rank %d", axis, rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return PG_OK;
}

pg_err pg_node_ints(const pg_op_def *def, const char *name, int index, int64_t out[PG_NODE_INTS],
                    int *count, pg_diag *diag) {
    const pg_attr *attr = name ? pg_def_attr(def, name) : NULL;
    const pg_const *input = pg_node_constant(def, index);
    const int64_t *values = NULL;
    int64_t n = -1;
    if (attr) {
        if (attr->type != PG_ATTR_INTS)
            return pg_node_refuse(def, diag, "attribute '%s' is not a list of integers", name);
        values = attr->ints;
        n = attr->count > PG_NODE_INTS ? PG_NODE_INTS + 1 : (int64_t)attr->count;
    } else if (input) {
        n = pg_shape_count(&input->shape);
        if (input->dtype != PG_I64 || input->shape.rank > 1 || n < 0)
            return pg_node_refuse(def, diag, "input %d is not a list of integers", index);
        values = input->i;
    }
    if (n > PG_NODE_INTS)
        return pg_node_refuse(def, diag, "%s%s has too many values",
                              attr ? "attribute " : "a constant input", attr ? name : "");
    for (int64_t i = 0; i < n; i++)
        out[i] = values[i];
    *count = (int)n;
    return PG_OK;
}

pg_err pg_node_axes(const pg_op_def *def, const char *name, int index, int rank,
                    bool mask[PG_MAX_RANK], int *count, pg_diag *diag) {
    int64_t axes[PG_NODE_INTS];
    memset(mask, 0, PG_MAX_RANK * sizeof *mask);
    pg_err err = pg_node_ints(def, name, index, axes, count, diag);
    for (int i = 0; !err && i < *count; i++) {
        int axis = 0;
        err = pg_node_axis(def, axes[i], rank, &axis, diag);
        if (!err && mask[axis])
            err = pg_node_refuse(def, diag, "axis %d is named twice", axis);
        if (!err)
            mask[axis] = true;
    }
    return err;
}

int64_t pg_slice_range(int64_t length, int64_t start, int64_t end, int64_t step, int64_t *first) {
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
    start = start < 0 ? start + length : start;
    end = end < 0 ? end + length : end;
    start = start < low ? low : start > high ? high : start;
    end = end < low ? low : end > high ? high : end;
    *first = start;
    int64_t span = step > 0 ? end - start : start - end;
    if (span <= 0)
        return 0;
    if (step <= -length || step >= length) /* also keeps -step from overflowing */
        return 1;
    return (span - 1) / (step > 0 ? step : -step) + 1;
}
