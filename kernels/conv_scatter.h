/* Backward-data of a convolution from a handful of output channels to an input of very few: the
 * first layer's, whose three input channels leave a library's vectors and blocks nearly empty.
 *
 * Every output position adds, for each row of the kernel, one stretch of k_w in_c neighbouring
 * values to the input's gradient: the product of its K gradients with the weights [K, k_w in_c]. */
#ifndef PG_KERNELS_CONV_SCATTER_H
#define PG_KERNELS_CONV_SCATTER_H

#include "kernels/conv_path.h"

/* Private but for the sizes. */
typedef struct pg_conv_scatter {
    int64_t capacity; /* columns of the gradient; 0: not to be used */
    size_t packed_bytes, scratch_bytes;
    pg_conv_geometry geometry;
} pg_conv_scatter;

/* Fills *out, or leaves capacity 0 where the convolution does not lend itself to it (grouped,
 * dilated along rows, stretches beyond 32 values). The thread count in force becomes part of it. */
void pg_conv_scatter_make(const pg_conv_geometry *geometry, int64_t capacity, pg_conv_scatter *out);

/* rows [capacity, in_c, k_h, k_w] -> packed. */
void pg_conv_scatter_pack(const pg_conv_scatter *scatter, const float *rows, float *packed);

/* gradient [positions, capacity], of which the first `count` columns count -> d_src, channels last.
 */
void pg_conv_scatter_run(const pg_conv_scatter *scatter, const float *packed, int64_t count,
                         const float *gradient, void *scratch, float *d_src);

#endif
