/* Matrix products between values: attention, or a constant on the left. One sgemm per index of the
 * batch axes. An operand that is broadcast collects the gradients of all its uses. */
#include "kernels/gemm.h"

#include <string.h>

#include "kernels/mem.h"

typedef struct product_op {
    pg_op op;
    pg_gemm_spec spec;   /* its constants: until prepare */
    float *constants[2]; /* owned copies of A, B where they are constant */
    float *bias;
    int64_t bias_rows;
    int64_t batches;
} product_op;

static void destroy(pg_op *op) {
    product_op *product = (product_op *)op;
    pg_free(product->constants[0]);
    pg_free(product->constants[1]);
    pg_free(product->bias);
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    product_op *product = (product_op *)op;
    pg_gemm_spec *spec = &product->spec;
    const pg_const *given[2] = {spec->a, spec->b};
    for (int i = 0; i < 2; i++) {
        if (given[i] == NULL)
            continue;
        size_t bytes = (size_t)pg_shape_count(&given[i]->shape) * sizeof(float);
        product->constants[i] = pg_malloc(bytes);
        if (product->constants[i] == NULL)
            return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
        memcpy(product->constants[i], given[i]->f, bytes);
        op->weight_bytes += bytes;
    }
    product->bias = pg_gemm_bias(spec, &product->bias_rows);
    if (product->bias_rows && !product->bias)
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
    spec->a = spec->b = spec->c = NULL;
    op->impl = "oneDNN sgemm";
    return PG_OK;
}

/* Where batch `index` of an operand starts. */
static int64_t offset(const pg_gemm_spec *spec, const int64_t *steps, int64_t index) {
    int64_t at = 0;
    for (int i = spec->batch_rank - 1; i >= 0; i--) {
        at += index % spec->batch_dims[i] * steps[i];
        index /= spec->batch_dims[i];
    }
    return at;
}

static bool broadcasts(const pg_gemm_spec *spec, const int64_t *steps) {
    for (int i = 0; i < spec->batch_rank; i++)
        if (steps[i] == 0 && spec->batch_dims[i] > 1)
            return true;
    return false;
}

/* The operands of this call: constants, or run-time inputs in ONNX order. */
static void operands(const product_op *product, const pg_op_io *io, const float **a,
                     const float **b) {
    int next = 0;
    *a = product->constants[0] ? product->constants[0] : io->src[next++];
    *b = product->constants[1] ? product->constants[1] : io->src[next];
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const product_op *product = (const product_op *)op;
    const pg_gemm_spec *s = &product->spec;
    const float *a, *b;
    operands(product, io, &a, &b);
    pg_err err = PG_OK;
    for (int64_t i = 0; !err && i < product->batches; i++) {
        float *y = io->dst[0] + i * s->m * s->n;
        err = pg_sgemm(s->trans_a, s->trans_b, s->m, s->n, s->k, s->alpha,
                       a + offset(s, s->a_steps, i), b + offset(s, s->b_steps, i), 0, y);
        if (err)
            break;
        pg_gemm_add_bias(s->m, s->n, product->bias, product->bias_rows, y);
        pg_gemm_add_c(s, io, y); /* Gemm alone has a C, and but one batch */
    }
    return err;
}

/* d_A = alpha d_Y B'^T, transposed if A is stored so. */
static pg_err backward_a(const pg_gemm_spec *s, const float *d_y, const float *b, float beta,
                         float *d_a) {
    if (s->trans_a)
        return pg_sgemm(s->trans_b, true, s->k, s->m, s->n, s->alpha, b, d_y, beta, d_a);
    return pg_sgemm(false, !s->trans_b, s->m, s->k, s->n, s->alpha, d_y, b, beta, d_a);
}

/* d_B = alpha A'^T d_Y, transposed if B is stored so. */
static pg_err backward_b(const pg_gemm_spec *s, const float *d_y, const float *a, float beta,
                         float *d_b) {
    if (s->trans_b)
        return pg_sgemm(true, s->trans_a, s->n, s->k, s->m, s->alpha, d_y, a, beta, d_b);
    return pg_sgemm(!s->trans_a, false, s->k, s->n, s->m, s->alpha, a, d_y, beta, d_b);
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const product_op *product = (const product_op *)op;
    const pg_gemm_spec *s = &product->spec;
    const float *a, *b;
    operands(product, io, &a, &b);
    float *d_a = product->constants[0] ? NULL : io->d_src[0];
    int at_src_b = product->constants[0] ? 0 : 1;
    float *d_b = product->constants[1] ? NULL : io->d_src[at_src_b];
    pg_gemm_backward_c(s, io);
    bool collect_a = broadcasts(s, s->a_steps), collect_b = broadcasts(s, s->b_steps);
    if (d_a && collect_a)
        memset(d_a, 0, (size_t)pg_shape_count(&op->src[0].shape) * sizeof *d_a);
    if (d_b && collect_b)
        memset(d_b, 0, (size_t)pg_shape_count(&op->src[at_src_b].shape) * sizeof *d_b);
    pg_err err = PG_OK;
    for (int64_t i = 0; !err && i < product->batches; i++) {
        const float *d_y = io->d_dst[0] + i * s->m * s->n;
        int64_t at_a = offset(s, s->a_steps, i), at_b = offset(s, s->b_steps, i);
        if (d_a)
            err = backward_a(s, d_y, b + at_b, collect_a ? 1 : 0, d_a + at_a);
        if (!err && d_b)
            err = backward_b(s, d_y, a + at_a, collect_b ? 1 : 0, d_b + at_b);
    }
    return err;
}

static const pg_op_class product_class = {
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};

pg_err pg_gemm_product_create(const pg_op_def *def, const pg_gemm_spec *spec, const pg_shape *dst,
                              pg_op **out, pg_diag *diag) {
    pg_err err = pg_op_alloc(&product_class, def, sizeof(product_op), 1, out, diag);
    if (err)
        return err;
    product_op *product = (product_op *)*out;
    product->spec = *spec;
    product->op.dst[0].shape = *dst;
    product->op.layouts = PG_LAYOUTS_PLAIN;
    product->op.keeps_src = true;
    product->batches = 1;
    for (int i = 0; i < spec->batch_rank; i++)
        product->batches *= spec->batch_dims[i];
    product->op.flops =
        2 * (uint64_t)product->batches * (uint64_t)spec->m * (uint64_t)spec->n * (uint64_t)spec->k;
    return PG_OK;
}
