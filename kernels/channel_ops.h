/* Loops over [positions, channels] arrays in channels-last order: the per-channel and per-position
 * work around a convolution. Rows are contiguous, so every loop streams once through memory.
 *
 * All of them use the calling thread's OpenMP team, and none gives a result that depends on the
 * size of that team. Sums are accumulated in double.
 */
#ifndef PG_KERNELS_CHANNEL_OPS_H
#define PG_KERNELS_CHANNEL_OPS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/op_conv.h"

/* The open interval of outputs where an activation's derivative is 1, which is also what it clamps
 * to: (-inf, inf) for none, (0, inf) for ReLU, (lo, hi) for Clip. */
typedef struct pg_act_range {
    float lo, hi;
} pg_act_range;

/* lo, hi: of a Clip. */
static inline pg_act_range pg_act_range_of(pg_act act, float lo, float hi) {
    if (act == PG_ACT_CLIP)
        return (pg_act_range){lo, hi};
    return (pg_act_range){act == PG_ACT_RELU ? 0.0f : -INFINITY, INFINITY};
}

/* out[p,c] = scale[c] * x[p,c] + shift[c]; shift NULL: none. out may be x. */
void pg_channel_affine(int64_t positions, int64_t channels, const float *x, const float *scale,
                       const float *shift, float *out);

/* out[p,c] = d_dst[p,c] where lo < dst[p,c] < hi, else 0: the gradient through the activation, with
 * derivative 0 on both edges as in torch's relu6. out may be d_dst. */
void pg_channel_act_backward(int64_t positions, int64_t channels, const float *d_dst,
                             const float *dst, pg_act_range act, float *out);

/* y[i] += x[i] for i < count: another reader's contribution to a gradient. */
void pg_channel_add(int64_t count, const float *x, float *y);

/* y[p,c] = y[p,c] + skip[p,c] (NULL: + 0), clamped to `act`. */
void pg_channel_add_act(int64_t positions, int64_t channels, float *y, const float *skip,
                        pg_act_range act);

/* gap[c] = mean over p of ReLU((y[p,c] - shift[c]) * inverse[c]), or of ReLU(y[p,c]) with both NULL.
 * In the same pass skip is added to y (NULL: nothing), and the sum clamped to `act` (without skip
 * and with infinite bounds y is only read). `scratch`: pg_channel_gap_scratch() bytes, aligned for
 * double. */
size_t pg_channel_gap_scratch(int64_t positions, int64_t channels);
void pg_channel_gap(int64_t positions, int64_t channels, float *y, const float *skip,
                    const float *shift, const float *inverse, pg_act_range act, void *scratch,
                    float *gap);

#endif
