/* The passes over a convolution's output gradient (channel_ops.h) where backward multiplies
 * bfloat16: they read the gradient in float and leave it rounded, so that the conversion costs no
 * pass of its own and the convolution reads half as much. Sums are those of the unrounded values.
 */
#ifndef PG_KERNELS_CHANNEL_BF16_H
#define PG_KERNELS_CHANNEL_BF16_H

#include "kernels/bf16.h"
#include "kernels/channel_ops.h"

/* Arrays of a gradient's way through an activation, all [positions, channels]. */
typedef struct pg_bf16_gradient {
    const float *d_dst, *dst; /* dst NULL: no activation */
    pg_act_range act;
    pg_bf16 *out;
    float *skip; /* NULL, or where the unrounded values go; may be d_dst */
} pg_bf16_gradient;

/* out[p,c] = d_dst[p,c] where lo < dst[p,c] < hi, else 0. */
void pg_channel_gradient_bf16(int64_t positions, int64_t channels, const pg_bf16_gradient *g);

/* The same, and its group sums: s_high[p] = sum over c of w_high[c] times the unrounded out[p,c],
 * and the same for s_low. */
void pg_channel_gradient_sums_bf16(int64_t positions, int64_t channels, const pg_bf16_gradient *g,
                                   const double *w_high, const double *w_low, double *s_high,
                                   double *s_low);

/* out[i] = x[i]. */
void pg_bf16_round_all(int64_t count, const float *x, pg_bf16 *out);

/* x[p,c] *= scale[c]. */
void pg_channel_scale_bf16(int64_t positions, int64_t channels, const float *scale, pg_bf16 *x);

#endif
