/* Pad: every axis is its source with places before and after it, which are padding (mode constant)
 * or read it again (edge, reflect, wrap). Negative pads crop. */
#include <string.h>

#include "kernels/index_map.h"

extern const pg_op_class pg_pad_class;

enum { PAD_LIMIT = 1 << 20 }; /* per side: far above any real network */

/* The value to pad with: an attribute until opset 10, an input since. */
static pg_err read_fill(const pg_op_def *def, float *fill, pg_diag *diag) {
    const pg_const *value = pg_node_constant(def, 2);
    pg_err err = pg_def_float(def, "value", 0, fill, diag);
    if (err || !value)
        return err;
    if (pg_shape_count(&value->shape) != 1)
        return pg_node_refuse(def, diag, "its value must be a constant scalar");
    *fill = value->dtype == PG_F32 ? value->f[0] : (float)value->i[0];
    return PG_OK;
}

/* Pads before and after each axis: an attribute until opset 10, an input since. With axes (opset
 * 18), only those named have pads, in the order they are named. */
static pg_err read_pads(const pg_op_def *def, int rank, int64_t before[PG_MAX_RANK],
                        int64_t after[PG_MAX_RANK], pg_diag *diag) {
    int64_t pads[PG_NODE_INTS], axes[PG_NODE_INTS];
    bool named[PG_MAX_RANK];
    int count, n;
    pg_err err = pg_node_ints(def, "pads", 1, pads, &count, diag);
    if (!err)
        err = pg_node_ints(def, NULL, 3, axes, &n, diag);
    if (!err)
        err = pg_node_axes(def, NULL, 3, rank, named, &n, diag);
    if (err)
        return err;
    int padded = n < 0 ? rank : n;
    if (count != 2 * padded)
        return pg_node_refuse(def, diag, "pads must be constant, two for each axis");
    memset(before, 0, PG_MAX_RANK * sizeof *before);
    memset(after, 0, PG_MAX_RANK * sizeof *after);
    for (int i = 0; i < padded; i++) {
        int64_t a = pads[i], b = pads[padded + i];
        if (a > PAD_LIMIT || a < -PAD_LIMIT || b > PAD_LIMIT || b < -PAD_LIMIT)
            return pg_node_refuse(def, diag, "pads are out of range");
        int axis = n < 0 ? i : (int)(axes[i] < 0 ? axes[i] + rank : axes[i]);
        before[axis] = a, after[axis] = b;
    }
    return PG_OK;
}

static int64_t modulo(int64_t i, int64_t n) { return (i % n + n) % n; }

/* Where position i of an axis of length n (negative or beyond: padding) takes its value; mode is
 * its first letter. */
static int64_t pad_source(char mode, int64_t i, int64_t n) {
    if (i >= 0 && i < n)
        return i;
    if (mode == 'c' || n == 0)
        return -1;
    if (mode == 'e')
        return i < 0 ? 0 : n - 1;
    if (mode == 'w')
        return modulo(i, n);
    int64_t at = n > 1 ? modulo(i, 2 * (n - 1)) : 0; /* reflect: the edge itself once */
    return at < n ? at : 2 * (n - 1) - at;
}

static pg_err create_pad(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    static const char *const modes[] = {"constant", "edge", "reflect", "wrap"};
    const char *mode;
    float fill = 0;
    int64_t before[PG_MAX_RANK], after[PG_MAX_RANK];
    const pg_shape *src = &def->inputs[0].shape;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_string(def, "mode", "constant", &mode, diag);
    if (!err)
        err = read_fill(def, &fill, diag);
    if (!err)
        err = read_pads(def, src->rank, before, after, diag);
    if (err)
        return err;
    size_t which = 0, n_modes = sizeof modes / sizeof *modes;
    while (which < n_modes && strcmp(modes[which], mode) != 0)
        which++;
    if (which == n_modes)
        return pg_node_refuse(def, diag, "mode '%s' is not supported", mode);
    pg_shape dst = *src;
    for (int i = 0; i < src->rank; i++) {
        dst.dims[i] += before[i] + after[i];
        if (dst.dims[i] < 0)
            return pg_node_refuse(def, diag, "its pads crop more than there is");
    }
    pg_index_op *op;
    err = pg_index_new_same(&pg_pad_class, def, &dst, &op, out, diag);
    if (err)
        return err;
    op->fill = fill;
    for (int k = 0; k < dst.rank; k++)
        for (int64_t i = 0; i < dst.dims[k]; i++)
            op->axes[k].from[i] = pad_source(mode[0], i - before[k], src->dims[k]);
    return PG_OK;
}

const pg_op_class pg_pad_class = PG_INDEX_CLASS(create_pad);
