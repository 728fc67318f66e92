/* The two ways a matrix product runs, shared by the operators Gemm and MatMul (op_gemm.c decides
 * which): against constant weights (gemm_dense.c), and between values (gemm_product.c). */
#ifndef PG_KERNELS_GEMM_H
#define PG_KERNELS_GEMM_H

#include "kernels/op.h"

struct pg_linear; /* relevance.h */

enum { PG_GEMM_BATCH_RANK = PG_MAX_RANK - 1 };

/* Y = alpha A' B' + beta C, for every index of the batch axes. Shapes have been checked. */
typedef struct pg_gemm_spec {
    int64_t m, n, k;
    bool trans_a, trans_b; /* A is stored [K,M] instead of [M,K]; B [N,K] instead of [K,N] */
    float alpha, beta;
    const pg_const *a, *b, *c; /* NULL: run-time (a, b) or absent (c). Valid until prepare has
                                  returned. c broadcasts to [M,N]. */
    int c_src; /* which run-time input C is, -1: none; [c_rows, c_cols], 1 where it broadcasts */
    int64_t c_rows, c_cols;
    /* Leading axes, product only: their sizes in the output, and how far each operand moves per
     * step (0: broadcast). batch_rank 0: a single product. */
    int batch_rank;
    int64_t batch_dims[PG_GEMM_BATCH_RANK];
    int64_t a_steps[PG_GEMM_BATCH_RANK], b_steps[PG_GEMM_BATCH_RANK];
} pg_gemm_spec;

/* A at run time, B constant and two-dimensional: a fully connected layer. */
pg_err pg_gemm_dense_create(const pg_op_def *def, const pg_gemm_spec *spec, const pg_shape *dst,
                            pg_op **out, pg_diag *diag);

/* True for operators that pg_gemm_dense_create made. */
bool pg_gemm_is_dense(const pg_op *op);

/* Between create and prepare: a fully connected layer as relevance.h takes it, a convolution of 1x1
 * over M places, copied (pg_linear_free). PG_EMODEL where it is none: A transposed, or C with a row
 * for each of Y's or computed. On failure nothing is left behind. */
pg_err pg_gemm_linear(const pg_op *op, struct pg_linear *out, pg_diag *diag);

/* At least one of A and B at run time; gradients for both. */
pg_err pg_gemm_product_create(const pg_op_def *def, const pg_gemm_spec *spec, const pg_shape *dst,
                              pg_op **out, pg_diag *diag);

/* beta * C as an owned array of *rows (1 or M) rows of N values, for adding to Y; NULL when spec->c
 * is NULL (*rows is 0) or when memory is out (*rows is not 0). */
float *pg_gemm_bias(const pg_gemm_spec *spec, int64_t *rows);

/* y[m,n] += bias[m or 0, n]. bias NULL: nothing. */
void pg_gemm_add_bias(int64_t m, int64_t n, const float *bias, int64_t rows, float *y);

/* y[m,n] += beta * C where C is computed at run time; else nothing. */
void pg_gemm_add_c(const pg_gemm_spec *spec, const pg_op_io *io, float *y);

/* The gradient of a run-time C, if anybody wants it: beta * d_y, summed where C broadcasts. */
void pg_gemm_backward_c(const pg_gemm_spec *spec, const pg_op_io *io);

/* dnnl_sgemm on row-major matrices without padding: out[rows,cols] = alpha a' b' + beta out with
 * `inner` the summed axis. */
pg_err pg_sgemm(bool trans_a, bool trans_b, int64_t rows, int64_t cols, int64_t inner, float alpha,
                const float *a, const float *b, float beta, float *out);

#endif
