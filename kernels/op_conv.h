/* What the rest of the program may ask of a convolution beyond the operator seam: folding batch
 * normalisation and activation into it, its channel statistic, and ParchGrad's split of the
 * gradient at its output (method.md sections 2, 3, 5).
 *
 * Notation: z = conv(x) + b is the ONNX Conv node's own output, y = s z + t what the folded batch
 * normalisation makes of it (s = 1, t = 0 without), dst = act(y), or act(y + skip) where a residual
 * addition was folded in too. G = dL/dz, so G_c = s_c dL/dy_c.
 */
#ifndef PG_KERNELS_OP_CONV_H
#define PG_KERNELS_OP_CONV_H

#include "kernels/op.h"

struct pg_linear; /* relevance.h */

/* Activations whose derivative can be read off their output. */
typedef enum pg_act { PG_ACT_NONE, PG_ACT_RELU, PG_ACT_CLIP } pg_act;

/* True for Conv nodes (any rank). */
bool pg_op_is_conv(const pg_op *op);

/* Between create and prepare: y = scale[c] z + shift[c], folded into weights and bias in double.
 * Copies both arrays of C_out values. Refuses (returns false, changes nothing) where z could no
 * longer be recovered from y to about 1e-4 of its own spread; the caller then leaves the batch
 * normalisation a node of its own. `spread` [C_out]: the standard deviation of z per channel
 * (sqrt(running variance + eps)). */
bool pg_conv_absorb_batch_norm(pg_op *op, const float *scale, const float *shift,
                               const float *spread);

/* Between create and prepare: dst = act(y), with lo and hi for PG_ACT_CLIP. */
void pg_conv_absorb_activation(pg_op *op, pg_act act, float lo, float hi);

/* Between create and prepare: dst = act(y + skip), skip being a second run-time input, src[1], of
 * the output's shape. backward gives both inputs the gradient behind the activation; pruning works
 * on the convolution's share alone. Refuses (returns false, changes nothing) for grouped
 * convolutions and when memory is out. */
bool pg_conv_absorb_add(pg_op *op);

/* Between create and prepare: many values of the input are 0. Forward may then leave them out
 * (conv_sparse.c). */
void pg_conv_expect_zeros(pg_op *op);

/* Between create and prepare: forward also computes GAP_c = mean over positions of ReLU(z_c). */
void pg_conv_want_gap(pg_op *op);

/* Between create and prepare: `most` channels will usually be kept at most, the others dropped
 * (scale_low 0). Backward then has a shorter way for frames that keep no more (conv_kept.h); others
 * take the long one. Costs packed weights of those kept. Asked several times: the largest holds. */
void pg_conv_expect_kept(pg_op *op, int64_t most);

/* The activation that was absorbed, with the bounds it clamps to: -inf and inf where it has none. */
pg_act pg_conv_act(const pg_op *op, float *lo, float *hi);

/* Between create and prepare: the layer as relevance.h takes it, batch normalisation inside, copied
 * (pg_linear_free). On failure nothing is left behind. */
pg_err pg_conv_linear(const pg_op *op, struct pg_linear *out, pg_diag *diag);

/* Between create and prepare: no kernels of our own (conv_kernel.h). */
void pg_conv_library_only(pg_op *op);

/* Between create and prepare: which implementations to take (conv_tune.h). Borrowed until prepare
 * has returned. */
struct pg_conv_tuner;
void pg_conv_use_tuner(pg_op *op, struct pg_conv_tuner *tuner);
/* Between prepare and bind: each session keeps the packed weights of `masks` sets of kept channels, each of
 * op->state_bytes as prepare left it; 1 without this. */
void pg_conv_remember_kept(pg_op *op, int masks);

/* The statistic of the session's last forward, [C_out]; NULL if it was not asked for. */
const float *pg_conv_gap(const pg_op *op, const pg_op_io *io);

/* Moments of the two partial sums S_H, S_L over the H*W positions, unbiased (divisor HW - 1). With
 * a single position: squares instead (var_high = S_H^2, var_low = S_L^2, cov = S_H S_L). */
typedef struct pg_group_moments {
    int64_t positions;
    double var_high; /* M */
    double var_low;  /* N */
    double cov;      /* of S_H and S_L */
    double mean_square_high, mean_square_low; /* of the maps: what a variance is rounding error of */
} pg_group_moments;

/* How one convolution's output gradient is to be partitioned in one backward pass. Borrowed for the
 * length of the pass. `weigh` decides, from the moments, by what the two groups are multiplied;
 * returning false leaves the gradient as it is. It is called from the session's thread, a second
 * time with the same moments where a gradient in rows has to come again as an array. */
typedef struct pg_conv_prune {
    const uint8_t *keep; /* [C_out], 1: in H; NULL: plain gradient at this convolution */
    bool lasting;        /* the same mask will come again with other frames */
    bool (*weigh)(void *user, const pg_group_moments *moments, float *scale_high,
                  float *scale_low);
    void *user;
} pg_conv_prune;

#endif
