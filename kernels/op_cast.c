/* Cast of a value computed at run time. Values are floats here whatever the file calls them: a cast
 * to a floating-point type changes nothing, one to an integer type drops the fraction, one to bool
 * makes 0 or 1. The last two are constant almost everywhere: their gradient is 0, as torch's is. */
#include <math.h>
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/simd.h"

typedef struct cast_op {
    pg_op op;
    bool to_bool;
} cast_op;

extern const pg_op_class pg_cast_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t to;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_int(def, "to", 0, &to, diag);
    if (err)
        return err;
    bool same = to == PG_ELEM_FLOAT || to == PG_ELEM_FLOAT16 || to == PG_ELEM_DOUBLE ||
                to == PG_ELEM_BFLOAT16;
    bool whole = (to >= PG_ELEM_UINT8 && to <= PG_ELEM_INT64) || to == PG_ELEM_UINT32 ||
                 to == PG_ELEM_UINT64;
    if (!same && !whole && to != PG_ELEM_BOOL)
        return pg_node_refuse(def, diag, "cast to element type %lld is not supported",
                              (long long)to);
    err = pg_op_alloc(&pg_cast_class, def, sizeof(cast_op), 1, out, diag);
    if (err)
        return err;
    ((cast_op *)*out)->to_bool = to == PG_ELEM_BOOL;
    (*out)->dst[0].shape = def->inputs[0].shape;
    (*out)->layouts = PG_LAYOUTS_SAME;
    (*out)->alias = same;
    return PG_OK;
}

PG_CLONES static void truncate_all(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = truncf(x[i]);
}

PG_CLONES static void truth_all(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] != 0 ? 1.0f : 0.0f;
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    int64_t count = pg_shape_count(&op->dst[0].shape);
    if (op->alias)
        memcpy(io->dst[0], io->src[0], (size_t)count * sizeof(float));
    else
        (((const cast_op *)op)->to_bool ? truth_all : truncate_all)(count, io->src[0], io->dst[0]);
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    size_t bytes = (size_t)pg_shape_count(&op->dst[0].shape) * sizeof(float);
    if (io->d_src[0] && op->alias)
        memcpy(io->d_src[0], io->d_dst[0], bytes);
    else if (io->d_src[0])
        memset(io->d_src[0], 0, bytes);
    return PG_OK;
}

const pg_op_class pg_cast_class = {.create = create, .forward = forward, .backward = backward};
