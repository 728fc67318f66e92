/* What a convolution takes over from the nodes around it between create and prepare, and what may
 * be asked of it besides the operator seam (op_conv.h). */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_conv_impl.h"
#include "kernels/relevance.h"

/* z = (y - t) / s is computed in float from a y rounded to 2^-24 of its size, at worst about
 * |s z| + |t|. Up to |t| = 1000 |s| spread, that rounding is below 1e-4 of z's spread. */
static bool recoverable(float scale, float shift, float spread) {
    double s = fabs((double)scale);
    return isfinite(scale) && isfinite(shift) && isfinite(spread) && spread > 0 && s > 1e-20 &&
           s < 1e20 && fabs((double)shift) <= 1e3 * s * (double)spread;
}

bool pg_conv_absorb_batch_norm(pg_op *op, const float *scale, const float *shift,
                               const float *spread) {
    pg_assert(pg_op_is_conv(op));
    pg_conv_op *conv = (pg_conv_op *)op;
    int64_t channels = conv->geometry.out_c;
    if (conv->bn_scale || conv->act != PG_ACT_NONE)
        return false;
    for (int64_t c = 0; c < channels; c++)
        if (!recoverable(scale[c], shift[c], spread[c]))
            return false;
    size_t bytes = (size_t)channels * sizeof(float);
    float *s = pg_malloc(bytes), *t = pg_malloc(bytes);
    if (!s || !t) {
        pg_free(s);
        pg_free(t);
        return false;
    }
    memcpy(s, scale, bytes);
    memcpy(t, shift, bytes);
    conv->bn_scale = s;
    conv->bn_shift = t;
    return true;
}

void pg_conv_absorb_activation(pg_op *op, pg_act act, float lo, float hi) {
    pg_assert(pg_op_is_conv(op));
    pg_conv_op *conv = (pg_conv_op *)op;
    pg_assert(conv->act == PG_ACT_NONE);
    conv->act = act;
    conv->lo = lo;
    conv->hi = hi;
    op->keeps_dst = act != PG_ACT_NONE;
    op->relu = act == PG_ACT_RELU || (act == PG_ACT_CLIP && lo == 0);
}

bool pg_conv_absorb_add(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    pg_conv_op *conv = (pg_conv_op *)op;
    pg_assert(!conv->skip && conv->act == PG_ACT_NONE && op->n_src == 1);
    pg_desc *src = conv->geometry.groups == 1 ? pg_calloc(2, sizeof *src) : NULL;
    if (src == NULL)
        return false;
    src[0] = op->src[0];
    src[1].shape = op->dst[0].shape;
    pg_free(op->src);
    op->src = src;
    op->n_src = 2;
    op->in_place = 2;
    conv->skip = true;
    return true;
}

void pg_conv_expect_zeros(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    ((pg_conv_op *)op)->zeros = true;
}

void pg_conv_want_gap(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    ((pg_conv_op *)op)->want_gap = true;
}

void pg_conv_expect_kept(pg_op *op, int64_t most) {
    pg_assert(pg_op_is_conv(op));
    ((pg_conv_op *)op)->most_kept = most;
}

void pg_conv_library_only(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    ((pg_conv_op *)op)->library_only = true;
}

void pg_conv_use_tuner(pg_op *op, struct pg_conv_tuner *tuner) {
    pg_assert(pg_op_is_conv(op));
    ((pg_conv_op *)op)->tuner = tuner;
}

const float *pg_conv_gap(const pg_op *op, const pg_op_io *io) {
    const pg_conv_state *state = io->state;
    return pg_op_is_conv(op) && state ? state->gap : NULL;
}

void pg_conv_remember_kept(pg_op *op, int masks) {
    pg_assert(pg_op_is_conv(op));
    pg_conv_op *conv = (pg_conv_op *)op;
    pg_conv_kept_remember(&conv->kept, masks);
    op->state_bytes = conv->kept.state_bytes;
}

/* Weights and bias with the batch normalisation inside: s W and s b + t, in double. */
bool pg_conv_fold(const pg_conv_op *conv, float **weights, float **bias) {
    const pg_conv_geometry *g = &conv->geometry;
    int64_t per_channel = g->in_c / g->groups * g->k_h * g->k_w;
    *weights = pg_malloc((size_t)(g->out_c * per_channel) * sizeof **weights);
    *bias = pg_malloc((size_t)g->out_c * sizeof **bias);
    if (!*weights || !*bias)
        return false;
    for (int64_t c = 0; c < g->out_c; c++) {
        double s = conv->bn_scale ? (double)conv->bn_scale[c] : 1.0;
        double t = conv->bn_shift ? (double)conv->bn_shift[c] : 0.0;
        double b = conv->bias ? (double)conv->bias->f[c] : 0.0;
        (*bias)[c] = (float)(s * b + t);
        for (int64_t i = c * per_channel; i < (c + 1) * per_channel; i++)
            (*weights)[i] = (float)(s * (double)conv->weights->f[i]);
    }
    return true;
}

pg_act pg_conv_act(const pg_op *op, float *lo, float *hi) {
    pg_assert(pg_op_is_conv(op));
    pg_act_range range = pg_conv_range((const pg_conv_op *)op);
    *lo = range.lo;
    *hi = range.hi;
    return ((const pg_conv_op *)op)->act;
}

pg_err pg_conv_linear(const pg_op *op, struct pg_linear *out, pg_diag *diag) {
    pg_assert(pg_op_is_conv(op));
    const pg_conv_op *conv = (const pg_conv_op *)op;
    *out = (pg_linear){.geometry = conv->geometry, .library_only = conv->library_only};
    if (pg_conv_fold(conv, &out->weights, &out->bias))
        return PG_OK;
    pg_linear_free(out);
    return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
}
