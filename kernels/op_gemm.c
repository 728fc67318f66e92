/* Gemm and MatMul: what the nodes say, checked and brought into one form (gemm.h). */
#include "kernels/gemm.h"

#include <dnnl.h>
#include <string.h>

#include "kernels/dnnl_compat.h"
#include "kernels/mem.h"

#define REFUSE(def, diag, format, ...)                                                             \
    pg_fail(diag, PG_EMODEL, "node '%s' (%s): " format, (def)->node, (def)->type, __VA_ARGS__)

/* ---- helpers of both ways ---- */

pg_err pg_sgemm(bool trans_a, bool trans_b, int64_t rows, int64_t cols, int64_t inner, float alpha,
                const float *a, const float *b, float beta, float *out) {
    dnnl_status_t status =
        dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', rows, cols, inner, alpha, a,
                   trans_a ? rows : inner, b, trans_b ? inner : cols, beta, out, cols);
    return pg_dnnl_check(status, "matrix product", NULL);
}

float *pg_gemm_bias(const pg_gemm_spec *spec, int64_t *rows) {
    *rows = 0;
    if (spec->c == NULL)
        return NULL;
    *rows = spec->c_rows;
    float *bias = pg_malloc((size_t)(spec->c_rows * spec->n) * sizeof *bias);
    for (int64_t r = 0; bias && r < spec->c_rows; r++)
        for (int64_t n = 0; n < spec->n; n++) {
            int64_t at = r * spec->c_cols + (spec->c_cols == 1 ? 0 : n);
            bias[r * spec->n + n] = spec->beta * spec->c->f[at];
        }
    return bias;
}

void pg_gemm_add_bias(int64_t m, int64_t n, const float *bias, int64_t rows, float *y) {
    if (bias == NULL)
        return;
    for (int64_t r = 0; r < m; r++) {
        const float *b = bias + (rows == 1 ? 0 : r * n);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] += b[i];
    }
}

void pg_gemm_add_c(const pg_gemm_spec *spec, const pg_op_io *io, float *y) {
    if (spec->c_src < 0)
        return;
    for (int64_t r = 0; r < spec->m; r++) {
        const float *c = io->src[spec->c_src] + (spec->c_rows == 1 ? 0 : r * spec->c_cols);
        for (int64_t i = 0; i < spec->n; i++)
            y[r * spec->n + i] += spec->beta * c[spec->c_cols == 1 ? 0 : i];
    }
}

void pg_gemm_backward_c(const pg_gemm_spec *spec, const pg_op_io *io) {
    float *d_c = spec->c_src < 0 ? NULL : io->d_src[spec->c_src];
    /* Every element of C meets `down` rows and `along` columns of Y. */
    int64_t down = spec->c_rows == 1 ? spec->m : 1, along = spec->c_cols == 1 ? spec->n : 1;
    for (int64_t at = 0; d_c && at < spec->c_rows * spec->c_cols; at++) {
        const float *d_y = io->d_dst[0] + at / spec->c_cols * spec->n + at % spec->c_cols;
        double sum = 0;
        for (int64_t r = 0; r < down; r++)
            for (int64_t i = 0; i < along; i++)
                sum += (double)d_y[r * spec->n + i];
        d_c[at] = (float)((double)spec->beta * sum);
    }
}

static pg_err check_operands(const pg_op_def *def, pg_diag *diag) {
    if (def->n_inputs < 2 || !def->inputs[0].present || !def->inputs[1].present)
        return REFUSE(def, diag, "%s", "needs two inputs");
    for (int i = 0; i < def->n_inputs; i++)
        if (def->inputs[i].constant && def->inputs[i].constant->dtype != PG_F32)
            return REFUSE(def, diag, "input %d is not floating point", i);
    if (def->inputs[0].constant && def->inputs[1].constant)
        return REFUSE(def, diag, "%s", "both inputs are constants");
    return PG_OK;
}

static pg_err mismatch(const pg_op_def *def, pg_diag *diag) {
    char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
    return REFUSE(def, diag, "shapes %s and %s do not make a product",
                  pg_shape_text(&def->inputs[0].shape, a), pg_shape_text(&def->inputs[1].shape, b));
}

/* ---- Gemm ---- */

static pg_err read_c(const pg_op_def *def, pg_gemm_spec *spec, pg_diag *diag) {
    spec->c_src = -1;
    if (def->n_inputs < 3 || !def->inputs[2].present)
        return PG_OK;
    const pg_op_input *c = &def->inputs[2];
    char text[PG_SHAPE_TEXT];
    int rank = c->shape.rank;
    spec->c_cols = rank >= 1 ? c->shape.dims[rank - 1] : 1;
    spec->c_rows = rank == 2 ? c->shape.dims[0] : 1;
    if (rank > 2 || (spec->c_cols != 1 && spec->c_cols != spec->n) ||
        (spec->c_rows != 1 && spec->c_rows != spec->m))
        return REFUSE(def, diag, "its third input (C) of shape %s does not broadcast",
                      pg_shape_text(&c->shape, text));
    spec->c = c->constant;
    if (c->constant == NULL) /* the last of the run-time inputs */
        spec->c_src = (spec->a == NULL) + (spec->b == NULL);
    return PG_OK;
}

static pg_err read_gemm(const pg_op_def *def, pg_gemm_spec *spec, pg_diag *diag) {
    int64_t trans_a = 0, trans_b = 0;
    pg_err err = check_operands(def, diag);
    if (!err)
        err = pg_def_float(def, "alpha", 1, &spec->alpha, diag);
    if (!err)
        err = pg_def_float(def, "beta", 1, &spec->beta, diag);
    if (!err)
        err = pg_def_int(def, "transA", 0, &trans_a, diag);
    if (!err)
        err = pg_def_int(def, "transB", 0, &trans_b, diag);
    if (err)
        return err;
    const pg_shape *a = &def->inputs[0].shape, *b = &def->inputs[1].shape;
    spec->trans_a = trans_a != 0;
    spec->trans_b = trans_b != 0;
    if (a->rank != 2 || b->rank != 2 || pg_shape_count(a) <= 0 || pg_shape_count(b) <= 0)
        return mismatch(def, diag);
    spec->m = a->dims[spec->trans_a];
    spec->k = a->dims[!spec->trans_a];
    spec->n = b->dims[!spec->trans_b];
    if (b->dims[spec->trans_b] != spec->k)
        return mismatch(def, diag);
    spec->a = def->inputs[0].constant;
    spec->b = def->inputs[1].constant;
    return read_c(def, spec, diag);
}

static pg_err create_gemm(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_gemm_spec spec = {0};
    pg_err err = read_gemm(def, &spec, diag);
    if (err)
        return err;
    pg_shape dst = {2, {spec.m, spec.n}};
    if (pg_shape_count(&dst) <= 0)
        return mismatch(def, diag);
    return spec.b ? pg_gemm_dense_create(def, &spec, &dst, out, diag)
                  : pg_gemm_product_create(def, &spec, &dst, out, diag);
}

/* ---- MatMul ---- */

/* Size of batch axis `i` (counted from the first of `rank` axes) of an operand that has `have`
 * batch axes, aligned at the last one. */
static int64_t batch_size(const pg_shape *shape, int have, int rank, int i) {
    int axis = i - (rank - have);
    return axis < 0 ? 1 : shape->dims[axis];
}

/* Batch axes as numpy broadcasts them. */
static bool read_batch(const pg_shape *a, const pg_shape *b, pg_gemm_spec *spec) {
    int a_have = a->rank > 2 ? a->rank - 2 : 0, b_have = b->rank > 2 ? b->rank - 2 : 0;
    int rank = a_have > b_have ? a_have : b_have;
    int64_t a_step = spec->m * spec->k, b_step = spec->k * spec->n;
    spec->batch_rank = rank;
    for (int i = rank - 1; i >= 0; i--) {
        int64_t da = batch_size(a, a_have, rank, i), db = batch_size(b, b_have, rank, i);
        if (da != db && da != 1 && db != 1)
            return false;
        spec->batch_dims[i] = da > db ? da : db;
        spec->a_steps[i] = da == 1 ? 0 : a_step;
        spec->b_steps[i] = db == 1 ? 0 : b_step;
        a_step *= da;
        b_step *= db;
    }
    return true;
}

static pg_err read_matmul(const pg_op_def *def, pg_gemm_spec *spec, pg_shape *dst, pg_diag *diag) {
    pg_err err = check_operands(def, diag);
    if (err)
        return err;
    const pg_shape *a = &def->inputs[0].shape, *b = &def->inputs[1].shape;
    if (a->rank < 1 || b->rank < 1 || pg_shape_count(a) <= 0 || pg_shape_count(b) <= 0)
        return mismatch(def, diag);
    /* A vector is a matrix of one row (left) or one column (right) that the output then lacks. */
    *spec = (pg_gemm_spec){.alpha = 1,
                           .m = a->rank > 1 ? a->dims[a->rank - 2] : 1,
                           .k = a->dims[a->rank - 1],
                           .n = b->rank > 1 ? b->dims[b->rank - 1] : 1,
                           .a = def->inputs[0].constant,
                           .b = def->inputs[1].constant,
                           .c_src = -1};
    if (b->dims[b->rank > 1 ? b->rank - 2 : 0] != spec->k || !read_batch(a, b, spec))
        return mismatch(def, diag);
    *dst = (pg_shape){.rank = spec->batch_rank};
    memcpy(dst->dims, spec->batch_dims, (size_t)spec->batch_rank * sizeof dst->dims[0]);
    if (a->rank > 1)
        dst->dims[dst->rank++] = spec->m;
    if (b->rank > 1)
        dst->dims[dst->rank++] = spec->n;
    return pg_shape_count(dst) > 0 ? PG_OK : mismatch(def, diag);
}

static pg_err create_matmul(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_gemm_spec spec = {0};
    pg_shape dst;
    pg_err err = read_matmul(def, &spec, &dst, diag);
    if (err)
        return err;
    if (spec.b == NULL || spec.b->shape.rank > 2)
        return pg_gemm_product_create(def, &spec, &dst, out, diag);
    /* Against one constant matrix, batch axes are just more rows. */
    for (int i = 0; i < spec.batch_rank; i++)
        spec.m *= spec.batch_dims[i];
    spec.batch_rank = 0;
    return pg_gemm_dense_create(def, &spec, &dst, out, diag);
}

const pg_op_class pg_gemm_class = {.create = create_gemm};
const pg_op_class pg_matmul_class = {.create = create_matmul};
