/* A fully connected layer: Y[M,N] = A[M,K] W^T + bias, with W kept once, row-major [N,K], whatever
 * way round the file has it. At batch 1 there is one row (M == 1) and the time is that of reading
 * W; with more rows (tokens) it is a proper matrix product. */
#include "kernels/gemm.h"

#include "kernels/gemv.h"
#include "kernels/mem.h"
#include "kernels/relevance.h"

typedef struct dense_op {
    pg_op op;
    pg_gemm_spec spec; /* its constants: until prepare */
    float *weights;    /* [N,K], alpha inside */
    float *bias;       /* [bias_rows, N], beta inside; NULL: none */
    int64_t bias_rows;
} dense_op;

static void destroy(pg_op *op) {
    dense_op *dense = (dense_op *)op;
    pg_free(dense->weights);
    pg_free(dense->bias);
}

static void copy_weights(const pg_gemm_spec *spec, float *weights) {
    const float *b = spec->b->f;
    int64_t n_step = spec->trans_b ? spec->k : 1, k_step = spec->trans_b ? 1 : spec->n;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < spec->n; n++)
        for (int64_t k = 0; k < spec->k; k++)
            weights[n * spec->k + k] = spec->alpha * b[n * n_step + k * k_step];
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    dense_op *dense = (dense_op *)op;
    pg_gemm_spec *spec = &dense->spec;
    size_t bytes = (size_t)(spec->n * spec->k) * sizeof(float);
    dense->weights = pg_malloc(bytes);
    dense->bias = pg_gemm_bias(spec, &dense->bias_rows);
    if (!dense->weights || (dense->bias_rows && !dense->bias))
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
    copy_weights(spec, dense->weights);
    spec->b = spec->c = NULL;
    op->weight_bytes = bytes + (size_t)(dense->bias_rows * spec->n) * sizeof(float);
    op->impl = spec->m == 1 ? "own gemv" : "oneDNN sgemm";
    return PG_OK;
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const dense_op *dense = (const dense_op *)op;
    const pg_gemm_spec *s = &dense->spec;
    float *y = io->dst[0];
    if (s->m == 1) {
        pg_gemv(s->n, s->k, dense->weights, io->src[0], dense->bias, y);
        pg_gemm_add_c(s, io, y);
        return PG_OK;
    }
    pg_err err = pg_sgemm(s->trans_a, true, s->m, s->n, s->k, 1, io->src[0], dense->weights, 0, y);
    if (err)
        return err;
    pg_gemm_add_bias(s->m, s->n, dense->bias, dense->bias_rows, y);
    pg_gemm_add_c(s, io, y);
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const dense_op *dense = (const dense_op *)op;
    const pg_gemm_spec *s = &dense->spec;
    const float *d_y = io->d_dst[0];
    float *d_a = io->d_src[0];
    pg_gemm_backward_c(s, io);
    if (d_a == NULL)
        return PG_OK;
    if (s->m == 1) {
        pg_gemv_transposed(s->n, s->k, dense->weights, d_y, d_a);
        return PG_OK;
    }
    if (s->trans_a) /* [K,M] = W^T d_Y^T */
        return pg_sgemm(true, true, s->k, s->m, s->n, 1, dense->weights, d_y, 0, d_a);
    return pg_sgemm(false, false, s->m, s->k, s->n, 1, d_y, dense->weights, 0, d_a);
}

static const pg_op_class dense_class = {
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};

pg_err pg_gemm_dense_create(const pg_op_def *def, const pg_gemm_spec *spec, const pg_shape *dst,
                            pg_op **out, pg_diag *diag) {
    pg_err err = pg_op_alloc(&dense_class, def, sizeof(dense_op), 1, out, diag);
    if (err)
        return err;
    dense_op *dense = (dense_op *)*out;
    dense->spec = *spec;
    dense->op.dst[0].shape = *dst;
    dense->op.layouts = PG_LAYOUTS_PLAIN;
    dense->op.flops = 2 * (uint64_t)spec->m * (uint64_t)spec->n * (uint64_t)spec->k;
    return PG_OK;
}

/* ---- what relevance rules ask ---- */

bool pg_gemm_is_dense(const pg_op *op) { return op->cls == &dense_class; }

pg_err pg_gemm_linear(const pg_op *op, struct pg_linear *out, pg_diag *diag) {
    pg_assert(pg_gemm_is_dense(op));
    const pg_gemm_spec *s = &((const dense_op *)op)->spec;
    int64_t rows = 0;
    if ((s->trans_a && s->m > 1) || s->c_src >= 0 || s->c_rows > 1)
        return pg_fail(diag, PG_EMODEL, "node '%s' (%s): it is no fully connected layer", op->node,
                       op->type);
    *out = (pg_linear){.geometry = {.groups = 1, .in_c = s->k, .out_c = s->n, .k_h = 1, .k_w = 1,
                                    .in_h = 1, .in_w = s->m, .out_h = 1, .out_w = s->m,
                                    .dnnl = {.strides = {1, 1}}}};
    out->weights = pg_malloc((size_t)(s->n * s->k) * sizeof *out->weights);
    out->bias = pg_gemm_bias(s, &rows);
    if (!out->weights || (rows && !out->bias)) {
        pg_linear_free(out);
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
    }
    copy_weights(s, out->weights);
    return PG_OK;
}
