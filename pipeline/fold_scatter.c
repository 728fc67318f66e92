/* Constants whose single elements are found or placed: ScatterND, ScatterElements, NonZero, OneHot.
 */
#include <string.h>

#include "pipeline/fold_impl.h"

static size_t size_of(pg_dtype dtype) { return dtype == PG_F32 ? sizeof(float) : sizeof(int64_t); }

static pg_err index_in(int64_t index, int64_t length, int64_t *out, pg_diag *diag) {
    if (index < -length || index >= length)
        return pg_fail(diag, PG_EMODEL, "index %lld is outside an axis of %lld", (long long)index,
                       (long long)length);
    *out = index < 0 ? index + length : index;
    return PG_OK;
}

/* ---- ScatterND, ScatterElements: data, indices, updates ---- */

typedef struct scatter {
    const pg_const *in[3];
    bool combines;
    pg_fold_pair_op op;
    void *data; /* the result: data, to be overwritten in places */
} scatter;

static pg_err open_scatter(pg_folder *folder, const pg_op_def *def, scatter *s, pg_const *out,
                           pg_diag *diag) {
    static const struct {
        const char *name;
        pg_fold_pair_op op;
    } WAYS[] = {
        {"add", PG_FOLD_ADD}, {"mul", PG_FOLD_MUL}, {"max", PG_FOLD_MAX}, {"min", PG_FOLD_MIN}};
    const char *way;
    pg_err err = pg_fold_inputs(def, 3, s->in, diag);
    if (err == PG_OK)
        err = pg_def_string(def, "reduction", "none", &way, diag);
    if (err != PG_OK)
        return err;
    for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++)
        if (strcmp(WAYS[i].name, way) == 0)
            s->combines = true, s->op = WAYS[i].op;
    if (!s->combines && strcmp(way, "none") != 0)
        return pg_fail(diag, PG_EMODEL, "reduction '%s' is not supported", way);
    if (s->in[1]->dtype != PG_I64 || s->in[2]->dtype != s->in[0]->dtype)
        return pg_fail(diag, PG_EMODEL, "element types differ");
    err = pg_fold_result(folder, s->in[0]->dtype, &s->in[0]->shape, out, &s->data, diag);
    size_t bytes = err == PG_OK ? (size_t)pg_shape_count(&out->shape) * size_of(out->dtype) : 0;
    if (bytes > 0)
        memcpy(s->data, s->in[0]->data, bytes);
    return err;
}

static pg_err put(const scatter *s, int64_t to, int64_t from, pg_diag *diag) {
    size_t size = size_of(s->in[0]->dtype);
    char *place = (char *)s->data + (size_t)to * size;
    const char *update = (const char *)s->in[2]->data + (size_t)from * size;
    if (s->combines)
        return pg_fold_pair(s->op, s->in[0]->dtype, place, update, place, diag);
    memcpy(place, update, size);
    return PG_OK;
}

pg_err pg_fold_scatter_nd(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    scatter s = {0};
    pg_err err = open_scatter(folder, def, &s, out, diag);
    if (err != PG_OK)
        return err;
    const pg_shape *shape = &s.in[0]->shape, *tuples = &s.in[1]->shape;
    int64_t length = tuples->rank > 0 ? tuples->dims[tuples->rank - 1] : 0, inner = 1;
    if (length < 1 || length > shape->rank)
        return pg_fail(diag, PG_EMODEL, "its indices do not fit its data");
    for (int i = (int)length; i < shape->rank; i++)
        inner *= shape->dims[i];
    int64_t count = pg_shape_count(tuples) / length;
    if (pg_shape_count(&s.in[2]->shape) != count * inner)
        return pg_fail(diag, PG_EMODEL, "its updates do not fit its indices");
    for (int64_t t = 0; err == PG_OK && t < count; t++) {
        int64_t to = 0, index = 0;
        for (int64_t i = 0; err == PG_OK && i < length; i++) {
            err = index_in(s.in[1]->i[t * length + i], shape->dims[i], &index, diag);
            to = to * shape->dims[i] + index;
        }
        for (int64_t k = 0; err == PG_OK && k < inner; k++)
            err = put(&s, to * inner + k, t * inner + k, diag);
    }
    return err;
}

pg_err pg_fold_scatter_elements(pg_folder *folder, const pg_op_def *def, pg_const *out,
                                pg_diag *diag) {
    scatter s = {0};
    int64_t given, strides[PG_MAX_RANK], at[PG_MAX_RANK] = {0};
    int axis = 0;
    pg_err err = open_scatter(folder, def, &s, out, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "axis", 0, &given, diag);
    if (err == PG_OK)
        err = pg_fold_axis(given, out->shape.rank, &axis, diag);
    if (err != PG_OK)
        return err;
    const pg_shape *shape = &s.in[0]->shape, *indices = &s.in[1]->shape;
    bool fits = indices->rank == shape->rank && pg_shape_equal(indices, &s.in[2]->shape);
    for (int i = 0; fits && i < shape->rank; i++)
        fits = i == axis || indices->dims[i] <= shape->dims[i];
    if (!fits)
        return pg_fail(diag, PG_EMODEL, "its indices do not fit its data or updates");
    pg_desc_strides(&(pg_desc){.shape = *shape}, strides);
    for (int64_t k = 0; err == PG_OK && k < pg_shape_count(indices); k++) {
        int64_t to = 0, index = 0;
        err = index_in(s.in[1]->i[k], shape->dims[axis], &index, diag);
        for (int i = 0; i < shape->rank; i++)
            to += (i == axis ? index : at[i]) * strides[i];
        if (err == PG_OK)
            err = put(&s, to, k, diag);
        for (int i = shape->rank - 1; i >= 0 && ++at[i] == indices->dims[i]; i--)
            at[i] = 0;
    }
    return err;
}

/* ---- NonZero ---- */

static bool is_zero(const pg_const *in, int64_t i) {
    return in->dtype == PG_F32 ? in->f[i] == 0 : in->i[i] == 0;
}

/* [rank, found]: where the elements are that are not 0. */
pg_err pg_fold_nonzero(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in;
    int64_t found = 0, strides[PG_MAX_RANK];
    void *data;
    pg_err err = pg_fold_inputs(def, 1, &in, diag);
    if (err != PG_OK)
        return err;
    int64_t count = pg_shape_count(&in->shape), next = 0;
    for (int64_t i = 0; i < count; i++)
        found += !is_zero(in, i);
    pg_shape shape = {.rank = 2, .dims = {in->shape.rank, found}};
    err = pg_fold_result(folder, PG_I64, &shape, out, &data, diag);
    pg_desc_strides(&(pg_desc){.shape = in->shape}, strides);
    for (int64_t i = 0; err == PG_OK && i < count; i++) {
        if (is_zero(in, i))
            continue;
        for (int k = 0; k < in->shape.rank; k++)
            ((int64_t *)data)[k * found + next] = i / strides[k] % in->shape.dims[k];
        next++;
    }
    return err;
}

/* ---- OneHot: indices, depth, [off, on] ---- */

pg_err pg_fold_one_hot(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in[3];
    pg_const indices, depth;
    int64_t given, inner = 1;
    int axis = 0;
    void *data;
    pg_err err = pg_fold_inputs(def, 3, in, diag);
    if (err == PG_OK)
        err = pg_fold_convert(folder, in[0], PG_I64, &indices, diag);
    if (err == PG_OK)
        err = pg_fold_convert(folder, in[1], PG_I64, &depth, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "axis", -1, &given, diag);
    if (err == PG_OK)
        err = pg_fold_axis(given, in[0]->shape.rank + 1, &axis, diag);
    if (err != PG_OK)
        return err;
    if (pg_shape_count(&depth.shape) != 1 || depth.i[0] < 1 || pg_shape_count(&in[2]->shape) != 2 ||
        indices.shape.rank == PG_MAX_RANK)
        return pg_fail(diag, PG_EMODEL, "needs a positive depth and two values");
    pg_shape shape = {.rank = indices.shape.rank + 1};
    for (int i = 0, from = 0; i < shape.rank; i++)
        shape.dims[i] = i == axis ? depth.i[0] : indices.shape.dims[from++];
    for (int i = axis + 1; i < shape.rank; i++)
        inner *= shape.dims[i];
    err = pg_fold_result(folder, in[2]->dtype, &shape, out, &data, diag);
    size_t size = size_of(in[2]->dtype);
    for (int64_t k = 0; err == PG_OK && k < pg_shape_count(&shape); k++) {
        int64_t place = k / inner % depth.i[0];
        int64_t index = indices.i[k / inner / depth.i[0] * inner + k % inner];
        bool on = index == place || index == place - depth.i[0]; /* counted from the end */
        memcpy((char *)data + (size_t)k * size, (const char *)in[2]->data + (on ? size : 0), size);
    }
    return err;
}
