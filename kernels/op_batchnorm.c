/* Batch normalisation at inference: y = a_c x + b_c with a = scale / sqrt(var + eps) and
 * b = bias - a mean, both worked out in double when the model is loaded. Most of these nodes are
 * absorbed by the convolution before them (op_conv.h) and never run; what is left here are those
 * behind a concatenation, as in DenseNet. */
#include "kernels/op.h"

#include <math.h>

#include "kernels/channel_ops.h"
#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/simd.h"

typedef struct batch_norm_op {
    pg_op op;
    float *a, *b; /* [C] */
} batch_norm_op;

enum { SCALE = 1, BIAS, MEAN, VARIANCE, INPUTS };

static pg_err check_inputs(const pg_op_def *def, pg_diag *diag) {
    const pg_op_input *in = def->inputs;
    if (def->n_inputs != INPUTS || !in[0].present || in[0].constant)
        return pg_node_refuse(def, diag, "needs a computed input and four constants");
    if (in[0].shape.rank < 2)
        return pg_node_refuse(def, diag, "its input has no channel axis");
    for (int i = SCALE; i < INPUTS; i++) {
        if (!in[i].present || !in[i].constant || in[i].constant->dtype != PG_F32)
            return pg_node_refuse(def, diag, "scale, bias, mean and variance must be constants");
        if (in[i].constant->shape.rank != 1 || in[i].constant->shape.dims[0] != in[0].shape.dims[1])
            return pg_node_refuse(def, diag,
                                  "scale, bias, mean and variance must have C values each");
    }
    return PG_OK;
}

static pg_err check_attributes(const pg_op_def *def, float *epsilon, pg_diag *diag) {
    int64_t training = 0, spatial = 1;
    pg_err err = pg_def_float(def, "epsilon", 1e-5f, epsilon, diag);
    if (!err)
        err = pg_def_int(def, "training_mode", 0, &training, diag);
    if (!err)
        err = pg_def_int(def, "spatial", 1, &spatial, diag);
    if (err)
        return err;
    if (training || def->n_outputs > 1)
        return pg_node_refuse(def, diag, "it is in training mode: export the network in evaluation mode (model.eval())");
    if (spatial != 1)
        return pg_node_refuse(def, diag, "spatial=0 is not supported");
    return PG_OK;
}

extern const pg_op_class pg_batch_norm_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    float epsilon = 0;
    pg_err err = check_inputs(def, diag);
    if (!err)
        err = check_attributes(def, &epsilon, diag);
    if (!err)
        err = pg_op_alloc(&pg_batch_norm_class, def, sizeof(batch_norm_op), 1, out, diag);
    if (err)
        return err;
    batch_norm_op *bn = (batch_norm_op *)*out;
    const pg_op_input *in = def->inputs;
    size_t channels = (size_t)in[0].shape.dims[1];
    bn->a = pg_malloc(channels * sizeof(float));
    bn->b = pg_malloc(channels * sizeof(float));
    if (!bn->a || !bn->b) {
        pg_op_destroy(out);
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", def->node);
    }
    for (size_t c = 0; c < channels; c++) {
        double variance = (double)in[VARIANCE].constant->f[c] + (double)epsilon;
        double a = (double)in[SCALE].constant->f[c] / sqrt(variance);
        bn->a[c] = (float)a;
        bn->b[c] = (float)((double)in[BIAS].constant->f[c] - a * (double)in[MEAN].constant->f[c]);
        if (!(variance > 0) || !isfinite(bn->a[c]) || !isfinite(bn->b[c])) {
            pg_op_destroy(out);
            return pg_fail(diag, PG_EMODEL, "node '%s' (%s): channel %zu is not finite", def->node,
                           def->type, c);
        }
    }
    bn->op.dst[0].shape = in[0].shape;
    bn->op.layouts = PG_LAYOUTS_SAME;
    bn->op.weight_bytes = 2 * channels * sizeof(float);
    bn->op.flops = 2 * (uint64_t)pg_shape_count(&in[0].shape);
    return PG_OK;
}

static void destroy(pg_op *op) {
    batch_norm_op *bn = (batch_norm_op *)op;
    pg_free(bn->a);
    pg_free(bn->b);
}

PG_CLONES static void affine_row(int64_t count, const float *x, float a, float b, float *y) {
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * a + b;
}

PG_CLONES static void scale_row(int64_t count, const float *x, float a, float *y) {
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * a;
}

/* y = a x + b over any layout; b NULL: none. */
static void apply(const pg_op *op, const float *x, const float *b, float *y) {
    const float *a = ((const batch_norm_op *)op)->a;
    const pg_shape *shape = &op->src[0].shape;
    int64_t batch = shape->dims[0], channels = shape->dims[1];
    int64_t positions = pg_shape_count(shape) / (batch * channels);
    if (op->src[0].layout == PG_CHANNELS_LAST || positions == 1) {
        pg_channel_affine(batch * positions, channels, x, a, b, y);
        return;
    }
#pragma omp parallel for schedule(static) if (batch * channels * positions > 16384)
    for (int64_t row = 0; row < batch * channels; row++) {
        int64_t c = row % channels, at = row * positions;
        if (b)
            affine_row(positions, x + at, a[c], b[c], y + at);
        else
            scale_row(positions, x + at, a[c], y + at);
    }
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    apply(op, io->src[0], ((const batch_norm_op *)op)->b, io->dst[0]);
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    if (io->d_src[0])
        apply(op, io->d_dst[0], NULL, io->d_src[0]);
    return PG_OK;
}

const pg_op_class pg_batch_norm_class = {
    .create = create,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
