/* Gather, GatherElements and GatherND with constant indices. Gather's indices may have any shape:
 * they are one axis to the table. The other two name single elements (or slices) of the source, so
 * theirs is a table over all of them. */
#include <inttypes.h>

#include "kernels/index_map.h"

extern const pg_op_class pg_gather_class, pg_gather_elements_class, pg_gather_nd_class;

/* The constant indices, or a refusal. */
static pg_err read_indices(const pg_op_def *def, const pg_const **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    *out = pg_node_constant(def, 1);
    if (!*out || (*out)->dtype != PG_I64)
        return pg_node_refuse(def, diag, "its indices must be constant integers");
    return PG_OK;
}

/* The same, and the axis they are for. */
static pg_err read_along(const pg_op_def *def, const pg_const **indices, int *axis,
                         pg_diag *diag) {
    int64_t given;
    pg_err err = read_indices(def, indices, diag);
    if (!err)
        err = pg_def_int(def, "axis", 0, &given, diag);
    return err ? err : pg_node_axis(def, given, def->inputs[0].shape.rank, axis, diag);
}

/* One index on an axis of length `dim`, counted from the end when negative. */
static pg_err read_index(const pg_op_def *def, int64_t index, int64_t dim, int64_t *out,
                         pg_diag *diag) {
    if (index < -dim || index >= dim)
        return pg_node_refuse(
            def, diag, "index %" PRId64 " is out of range for %" PRId64 " elements", index, dim);
    *out = index < 0 ? index + dim : index;
    return PG_OK;
}

/* ---- Gather ---- */

static pg_err create_gather(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const pg_const *indices = NULL;
    int axis = 0;
    pg_err err = read_along(def, &indices, &axis, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    int more = indices->shape.rank - 1; /* axes of the result beyond the source's */
    if (src->rank + more > PG_MAX_RANK)
        return pg_node_refuse(def, diag, "its result has more than %d axes", PG_MAX_RANK);
    pg_shape dst = {.rank = src->rank + more};
    pg_index_axis axes[PG_MAX_RANK];
    for (int k = 0; k < src->rank; k++) {
        int at = k < axis ? k : k + more; /* the last one, where indices have several */
        axes[k] = pg_index_part(src->dims[k], k, at, 1);
        if (k != axis)
            dst.dims[at] = src->dims[k];
    }
    for (int k = 0; k <= more; k++)
        dst.dims[axis + k] = indices->shape.dims[k];
    axes[axis].n = pg_shape_count(&indices->shape);
    pg_index_op *op;
    err = pg_index_new(&pg_gather_class, def, &dst, axes, src->rank, &op, out, diag);
    if (err)
        return err;
    (*out)->layouts = more == 0 ? PG_LAYOUTS_SAME : PG_LAYOUTS_PLAIN;
    for (int64_t i = 0; i < axes[axis].n && !err; i++)
        err = read_index(def, indices->i[i], src->dims[axis], &op->axes[axis].from[i], diag);
    if (err)
        pg_op_destroy(out);
    return err;
}

/* ---- GatherElements ---- */

/* Element [..,i,..] of the result is element [..,indices[..,i,..],..] of the source. */
static pg_err fill_elements(const pg_op_def *def, const pg_const *indices, int axis, int64_t *from,
                            pg_diag *diag) {
    const pg_shape *src = &def->inputs[0].shape, *shape = &indices->shape;
    int64_t strides[PG_MAX_RANK], at[PG_MAX_RANK] = {0}, count = pg_shape_count(shape);
    pg_desc_strides(&(pg_desc){.shape = *src}, strides);
    for (int64_t i = 0; i < count; i++) {
        int64_t index = 0;
        pg_err err = read_index(def, indices->i[i], src->dims[axis], &index, diag);
        if (err)
            return err;
        from[i] = index * strides[axis];
        for (int k = 0; k < shape->rank; k++)
            from[i] += k == axis ? 0 : at[k] * strides[k];
        for (int k = shape->rank - 1; k >= 0 && ++at[k] == shape->dims[k]; k--)
            at[k] = 0;
    }
    return PG_OK;
}

static pg_err create_gather_elements(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const pg_const *indices = NULL;
    int axis = 0;
    pg_err err = read_along(def, &indices, &axis, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape, *dst = &indices->shape;
    if (dst->rank != src->rank)
        return pg_node_refuse(def, diag, "its indices have another rank than its data");
    for (int k = 0; k < dst->rank; k++)
        if (k != axis && dst->dims[k] > src->dims[k])
            return pg_node_refuse(def, diag, "its indices are longer than its data on axis %d", k);
    const pg_index_axis flat = pg_index_part(pg_shape_count(dst), PG_INDEX_FLAT, PG_INDEX_FLAT, 1);
    pg_index_op *op;
    err = pg_index_new(&pg_gather_elements_class, def, dst, &flat, 1, &op, out, diag);
    if (err)
        return err;
    err = fill_elements(def, indices, axis, op->axes[0].from, diag);
    if (err)
        pg_op_destroy(out);
    return err;
}

/* ---- GatherND ---- */

typedef struct tuples {
    int batch;      /* leading axes that source and indices share */
    int length;     /* of a tuple: source axes it decides */
    int64_t count;  /* all tuples */
    int64_t shared; /* tuples of one batch entry */
    int64_t inner;  /* elements each names */
} tuples;

static pg_err read_tuples(const pg_op_def *def, const pg_shape *indices, tuples *t, pg_shape *dst,
                          pg_diag *diag) {
    const pg_shape *src = &def->inputs[0].shape;
    int64_t batch, length = indices->rank > 0 ? indices->dims[indices->rank - 1] : 0;
    pg_err err = pg_def_int(def, "batch_dims", 0, &batch, diag);
    if (err)
        return err;
    if (batch < 0 || batch >= indices->rank || length < 1 || length > src->rank - batch)
        return pg_node_refuse(def, diag, "its indices do not fit its data");
    *t = (tuples){.batch = (int)batch, .length = (int)length, .count = 1, .shared = 1, .inner = 1};
    *dst = (pg_shape){.rank = 0};
    int rest = src->rank - t->batch - t->length;
    if (indices->rank - 1 + rest > PG_MAX_RANK)
        return pg_node_refuse(def, diag, "its result has more than %d axes", PG_MAX_RANK);
    for (int k = 0; k < indices->rank - 1; k++) {
        if (k < t->batch && indices->dims[k] != src->dims[k])
            return pg_node_refuse(def, diag, "batch axis %d of its indices differs", k);
        dst->dims[dst->rank++] = indices->dims[k];
        t->count *= indices->dims[k];
        t->shared *= k < t->batch ? 1 : indices->dims[k];
    }
    for (int k = src->rank - rest; k < src->rank; k++)
        t->inner *= dst->dims[dst->rank++] = src->dims[k];
    return PG_OK;
}

static pg_err create_gather_nd(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const pg_const *indices = NULL;
    tuples t = {0};
    pg_shape dst;
    pg_err err = read_indices(def, &indices, diag);
    if (!err)
        err = read_tuples(def, &indices->shape, &t, &dst, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    const pg_index_axis axes[] = {pg_index_part(t.count, PG_INDEX_FLAT, PG_INDEX_FLAT, t.inner),
                                  pg_index_part(t.inner, PG_INDEX_FLAT, PG_INDEX_FLAT, 1)};
    pg_index_op *op;
    err = pg_index_new(&pg_gather_nd_class, def, &dst, axes, 2, &op, out, diag);
    if (err)
        return err;
    for (int64_t i = 0; i < t.count && !err; i++) {
        int64_t from = i / t.shared, index = 0;
        for (int k = 0; k < t.length && !err; k++) {
            int64_t dim = src->dims[t.batch + k];
            err = read_index(def, indices->i[i * t.length + k], dim, &index, diag);
            from = from * dim + index;
        }
        op->axes[0].from[i] = from * t.inner;
    }
    if (err)
        pg_op_destroy(out);
    return err;
}

const pg_op_class pg_gather_class = PG_INDEX_CLASS(create_gather);
const pg_op_class pg_gather_elements_class = PG_INDEX_CLASS(create_gather_elements);
const pg_op_class pg_gather_nd_class = PG_INDEX_CLASS(create_gather_nd);
