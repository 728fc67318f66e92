/* The passes over a convolution's output gradient (channel_ops.h) where backward multiplies
 * bfloat16: they read the gradient in float and leave it rounded, so that the conversion costs no
 * pass of its own and the convolution reads half as much. Sums are those of the unrounded values.
 */
#ifndef PG_KERNELS_CHANNEL_BF16_H
#define PG_KERNELS_CHANNEL_BF16_H

#include "kernels/bf16.h"
#include "kernels/channel_ops.h"

/* out[p,c] = d_dst[p,c] where lo < dst[p,c] < hi, else 0; dst NULL: everywhere. */
void pg_channel_gradient_bf16(int64_t positions, int64_t channels, const float *d_dst,
                              const float *dst, pg_act_range act, pg_bf16 *out);

/* The same, and its group sums as pg_channel_group_sums makes them. */
void pg_channel_gradient_sums_bf16(int64_t positions, int64_t channels, const float *d_dst,
                                   const float *dst, pg_act_range act, const double *w_high,
                                   const double *w_low, pg_bf16 *out, double *s_high,
                                   double *s_low);

/* x[p,c] *= scale[c]. */
void pg_channel_scale_bf16(int64_t positions, int64_t channels, const float *scale, pg_bf16 *x);

/* As pg_channel_gather. */
void pg_channel_gather_bf16(int64_t positions, int64_t channels, const pg_bf16 *x,
                            const int32_t *index, int64_t kept, int64_t width, float scale,
                            pg_bf16 *out);

#endif
