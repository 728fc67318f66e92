/* Matrix times vector for a fully connected layer at batch 1, both ways round on one copy of the
 * weights. Such a layer is bound by reading W from memory: nothing is gained by packing, and oneDNN
 * would want two copies. For the same reason weights may be bfloat16, half the bytes: they are
 * widened on the way, and the arithmetic stays that of floats. Uses the calling thread's OpenMP team; results do not depend on its size.
 */
#ifndef PG_KERNELS_GEMV_H
#define PG_KERNELS_GEMV_H

#include "kernels/bf16.h"

/* y[n] = sum over k of w[n,k] x[k] + bias[n]; bias NULL: none. w is row-major [rows, cols], of
 * pg_bf16 if bf16 says so, else of float. */
void pg_gemv(int64_t rows, int64_t cols, const void *w, bool bf16, const float *x,
             const float *bias, float *y);

/* d_x[k] = sum over n of w[n,k] d_y[n]. Rows with d_y[n] == 0 are not read: behind a ReLU that is
 * half of W, and at the last layer all of it but one row. */
void pg_gemv_transposed(int64_t rows, int64_t cols, const void *w, bool bf16, const float *d_y,
                        float *d_x);

#endif
