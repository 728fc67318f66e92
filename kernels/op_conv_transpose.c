/* Transposed convolution, the gradient of a convolution used as a layer (the learned upsampling of
 * U-Net and its kind). conv_geometry.h turns the node into the convolution that leads from its
 * output back to its input; forward is that convolution's backward-data and backward is that
 * convolution, both oneDNN's by way of conv_path.h. The bias is added in a pass of its own:
 * backward-data knows none, and oneDNN 2.6's deconvolution, which does, is slower at it (64 to 32
 * channels, 4x4, stride 2, 112x112 out, one thread: 0.95 ms without a bias, 1.95 ms with it,
 * here 1.0 and 1.05).
 *
 * ParchGrad numbers Conv nodes alone (method.md 10), so this operator only passes the gradient. */
#include <stdio.h>
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/conv_geometry.h"
#include "kernels/conv_path.h"
#include "kernels/mem.h"

typedef struct transpose_op {
    pg_op op;
    pg_conv_geometry geometry;      /* of the convolution: in_* is this node's output */
    const pg_const *weights, *bias; /* until prepare */
    float *shift, *ones;            /* [C_out] the bias and what it is added to; NULL: no bias */
    pg_conv_path forward, backward;
    char impl[2 * PG_CONV_IMPL_MAX + 16];
} transpose_op;

extern const pg_op_class pg_conv_transpose_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_conv_geometry g;
    pg_shape dst;
    pg_err err = pg_conv_transpose_geometry_read(def, &g, &dst, diag);
    if (!err)
        err = pg_op_alloc(&pg_conv_transpose_class, def, sizeof(transpose_op), 1, out, diag);
    if (err)
        return err;
    transpose_op *t = (transpose_op *)*out;
    t->geometry = g;
    t->weights = def->inputs[1].constant;
    t->bias = def->n_inputs == 3 ? def->inputs[2].constant : NULL;
    t->op.dst[0].shape = dst;
    t->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    t->op.flops = pg_conv_flops(&g);
    return PG_OK;
}

static void destroy(pg_op *op) {
    transpose_op *t = (transpose_op *)op;
    pg_conv_path_free(&t->forward);
    pg_conv_path_free(&t->backward);
    pg_free(t->shift);
    pg_free(t->ones);
}

static pg_err keep_bias(transpose_op *t, pg_diag *diag) {
    size_t channels = (size_t)t->geometry.in_c;
    t->shift = pg_malloc(channels * sizeof *t->shift);
    t->ones = pg_malloc(channels * sizeof *t->ones);
    if (!t->shift || !t->ones)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    memcpy(t->shift, t->bias->f, channels * sizeof *t->shift);
    for (size_t c = 0; c < channels; c++)
        t->ones[c] = 1.0f;
    t->op.weight_bytes += 2 * channels * sizeof *t->shift;
    return PG_OK;
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    transpose_op *t = (transpose_op *)op;
    pg_conv_path_spec spec = {
        .geometry = &t->geometry,
        .weights = t->weights->f,
        .act = PG_ACT_NONE,
        .bf16 = op->bf16_backward && pg_conv_pays_bf16(&t->geometry)};
    pg_err err = pg_conv_path_make(&spec, &t->backward, diag);
    spec.backward = true; /* the convolution's, which is this node's forward */
    spec.bf16 = op->bf16_forward && pg_conv_pays_bf16(&t->geometry);
    if (!err)
        err = pg_conv_path_make(&spec, &t->forward, diag);
    if (!err && t->bias)
        err = keep_bias(t, diag);
    t->weights = t->bias = NULL;
    if (err)
        return pg_fail_in(diag, err, "node '%s'", op->node);
    op->weight_bytes += t->forward.weight_bytes + t->backward.weight_bytes;
    size_t forward = t->forward.scratch_bytes, backward = t->backward.scratch_bytes;
    op->scratch_bytes = forward > backward ? forward : backward;
    snprintf(t->impl, sizeof t->impl, "%s, backward %s", t->forward.impl, t->backward.impl);
    op->impl = t->impl;
    return PG_OK;
}

static pg_err bind(const pg_op *op, const pg_op_io *io, void **state, pg_diag *diag) {
    const transpose_op *t = (const transpose_op *)op;
    return pg_conv_pair_bind(op, &t->forward, &t->backward, io, state, diag);
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const transpose_op *t = (const transpose_op *)op;
    const pg_conv_pair *state = io->state;
    const pg_conv_geometry *g = &t->geometry;
    pg_err err = pg_conv_run_execute(&t->forward, &state->forward);
    if (!err && t->shift)
        pg_channel_affine(g->in_h * g->in_w, g->in_c, io->dst[0], t->ones, t->shift, io->dst[0]);
    return err;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const transpose_op *t = (const transpose_op *)op;
    const pg_conv_pair *state = io->state;
    return io->d_src[0] ? pg_conv_run_execute(&t->backward, &state->backward) : PG_OK;
}

const pg_op_class pg_conv_transpose_class = {
    .create = create,
    .prepare = prepare,
    .bind = bind,
    .unbind = pg_conv_pair_unbind,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
