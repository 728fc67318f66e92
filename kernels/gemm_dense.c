/* A fully connected layer: Y[M,N] = A[M,K] W^T + bias, with W kept once, row-major [N,K], whatever
 * way round the file has it. At batch 1 there is one row (M == 1) and the time is that of reading
 * W; with more rows (tokens) it is a proper matrix product.
 *
 * In bfloat16, W for one row is half as long to read, in both directions; with backward alone in
 * bfloat16 it stays float, for the sake of a single copy. More rows are a 1x1 convolution over M
 * positions from K to N channels, and conv_path.h has all that takes. */
#include "kernels/gemm.h"

#include <stdio.h>

#include "kernels/conv_path.h"
#include "kernels/gemv.h"
#include "kernels/mem.h"
#include "kernels/relevance.h"

typedef struct dense_op {
    pg_op op;
    pg_gemm_spec spec; /* its constants: until prepare */
    bool narrow;       /* weights hold pg_bf16 */
    void *weights;     /* [N,K], alpha inside; NULL where both paths have them */
    float *bias;       /* [bias_rows, N], beta inside; NULL: none */
    int64_t bias_rows;
    pg_conv_path forward, backward; /* of several rows in bfloat16, without bias; else unmade */
    char impl[2 * PG_CONV_IMPL_MAX + 32];
} dense_op;

static void destroy(pg_op *op) {
    dense_op *dense = (dense_op *)op;
    pg_conv_path_free(&dense->forward);
    pg_conv_path_free(&dense->backward);
    pg_free(dense->weights);
    pg_free(dense->bias);
}

/* ---- prepare ---- */

static float *copy_weights(const pg_gemm_spec *spec) {
    const float *b = spec->b->f;
    int64_t n_step = spec->trans_b ? spec->k : 1, k_step = spec->trans_b ? 1 : spec->n;
    float *weights = pg_malloc((size_t)(spec->n * spec->k) * sizeof *weights);
    if (weights == NULL)
        return NULL;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < spec->n; n++)
        for (int64_t k = 0; k < spec->k; k++)
            weights[n * spec->k + k] = spec->alpha * b[n * n_step + k * k_step];
    return weights;
}

static pg_bf16 *narrow(int64_t count, const float *wide) {
    pg_bf16 *out = pg_malloc((size_t)count * sizeof *out);
    for (int64_t i = 0; out && i < count; i++)
        out[i] = pg_bf16_round(wide[i]);
    return out;
}

static pg_err make_paths(dense_op *dense, const float *weights, pg_diag *diag) {
    const pg_gemm_spec *s = &dense->spec;
    pg_op *op = &dense->op;
    const pg_conv_geometry g = {.groups = 1,
                                .in_c = s->k,
                                .in_h = 1,
                                .in_w = s->m,
                                .out_c = s->n,
                                .out_h = 1,
                                .out_w = s->m,
                                .k_h = 1,
                                .k_w = 1,
                                .dnnl = {.strides = {1, 1}}};
    pg_conv_path_spec spec = {.geometry = &g, .weights = weights, .bf16 = true};
    pg_err err = op->bf16_forward ? pg_conv_path_make(&spec, &dense->forward, diag) : PG_OK;
    spec.backward = true;
    if (!err && op->bf16_backward)
        err = pg_conv_path_make(&spec, &dense->backward, diag);
    size_t forward = dense->forward.scratch_bytes, backward = dense->backward.scratch_bytes;
    op->scratch_bytes = forward > backward ? forward : backward;
    op->weight_bytes += dense->forward.weight_bytes + dense->backward.weight_bytes;
    snprintf(dense->impl, sizeof dense->impl, "%s, backward %s",
             op->bf16_forward ? dense->forward.impl : "oneDNN sgemm",
             op->bf16_backward ? dense->backward.impl : "oneDNN sgemm");
    return err;
}

/* Gives the weights the form this layer runs with; takes `wide`. */
static pg_err keep_weights(dense_op *dense, float *wide, pg_diag *diag) {
    const pg_gemm_spec *s = &dense->spec;
    pg_op *op = &dense->op;
    bool any = op->bf16_forward || op->bf16_backward;
    pg_err err = PG_OK;
    dense->narrow = s->m == 1 && op->bf16_forward;
    op->impl = s->m == 1 ? "own gemv" : "oneDNN sgemm";
    dense->weights = wide;
    if (dense->narrow) {
        dense->weights = narrow(s->n * s->k, wide);
        op->impl = "own gemv, bfloat16 weights";
        err = dense->weights ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
    } else if (any && s->m > 1 && !s->trans_a) {
        err = make_paths(dense, wide, diag);
        op->impl = dense->impl;
        if (op->bf16_forward && op->bf16_backward)
            dense->weights = NULL;
    }
    if (dense->weights != wide)
        pg_free(wide);
    if (dense->weights)
        op->weight_bytes +=
            (size_t)(s->n * s->k) * (dense->narrow ? sizeof(pg_bf16) : sizeof(float));
    return err;
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    dense_op *dense = (dense_op *)op;
    pg_gemm_spec *spec = &dense->spec;
    float *weights = copy_weights(spec);
    dense->bias = pg_gemm_bias(spec, &dense->bias_rows);
    pg_err err =
        weights ? keep_weights(dense, weights, diag) : pg_fail(diag, PG_ENOMEM, "out of memory");
    if (!err && dense->bias_rows && !dense->bias)
        err = pg_fail(diag, PG_ENOMEM, "out of memory");
    spec->b = spec->c = NULL;
    op->weight_bytes += (size_t)(dense->bias_rows * spec->n) * sizeof(float);
    return err ? pg_fail_in(diag, err, "node '%s'", op->node) : PG_OK;
}

/* ---- bind ---- */

static pg_err bind(const pg_op *op, const pg_op_io *io, void **state, pg_diag *diag) {
    const dense_op *dense = (const dense_op *)op;
    return pg_conv_pair_bind(op, &dense->forward, &dense->backward, io, state, diag);
}

/* ---- forward and backward ---- */

static pg_err multiply(const dense_op *dense, const pg_op_io *io, float *y) {
    const pg_gemm_spec *s = &dense->spec;
    const pg_conv_pair *state = io->state;
    if (dense->forward.primitive)
        return pg_conv_run_execute(&dense->forward, &state->forward);
    return pg_sgemm(s->trans_a, true, s->m, s->n, s->k, 1, io->src[0], dense->weights, 0, y);
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const dense_op *dense = (const dense_op *)op;
    const pg_gemm_spec *s = &dense->spec;
    float *y = io->dst[0];
    if (s->m == 1) {
        pg_gemv(s->n, s->k, dense->weights, dense->narrow, io->src[0], dense->bias, y);
        pg_gemm_add_c(s, io, y);
        return PG_OK;
    }
    pg_err err = multiply(dense, io, y);
    if (err)
        return err;
    pg_gemm_add_bias(s->m, s->n, dense->bias, dense->bias_rows, y);
    pg_gemm_add_c(s, io, y);
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const dense_op *dense = (const dense_op *)op;
    const pg_gemm_spec *s = &dense->spec;
    const pg_conv_pair *state = io->state;
    const float *d_y = io->d_dst[0];
    float *d_a = io->d_src[0];
    pg_gemm_backward_c(s, io);
    if (d_a == NULL)
        return PG_OK;
    if (s->m == 1) {
        pg_gemv_transposed(s->n, s->k, dense->weights, dense->narrow, d_y, d_a);
        return PG_OK;
    }
    if (dense->backward.primitive)
        return pg_conv_run_execute(&dense->backward, &state->backward);
    if (s->trans_a) /* [K,M] = W^T d_Y^T */
        return pg_sgemm(true, true, s->k, s->m, s->n, 1, dense->weights, d_y, 0, d_a);
    return pg_sgemm(false, false, s->m, s->k, s->n, 1, d_y, dense->weights, 0, d_a);
}

static const pg_op_class dense_class = {
    .prepare = prepare,
    .bind = bind,
    .unbind = pg_conv_pair_unbind,
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
    out->weights = copy_weights(s);
    out->bias = pg_gemm_bias(s, &rows);
    if (!out->weights || (rows && !out->bias)) {
        pg_linear_free(out);
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
    }
    return PG_OK;
}
