/* Batch normalisation at inference: y = a_c x + b_c with a = scale / sqrt(var + eps) and
 * b = bias - a mean, both worked out in double when the model is loaded. Most of these nodes are
 * absorbed by the convolution before them (op_conv.h) and never run; what is left here are those
 * behind a concatenation, as in DenseNet, where every layer reads all features made before it. The
 * time is that of moving them, so concatenation, normalisation and activation are one pass
 * (op_batchnorm.h), and backward adds what it finds to the gradient of each input in place. Where
 * the activation is flat it finds from the inputs again: they are the block's features, once, while
 * outputs would be as many copies of them as there are layers, kept to the end. */
#include "kernels/op_batchnorm.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/simd.h"

typedef struct batch_norm_op {
    pg_op op;
    float *a, *b; /* [C] */
    pg_act act;
    float lo, hi; /* of act; -inf and inf: it has no such bound */
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
        return pg_node_refuse(
            def, diag,
            "it is in training mode: export the network in evaluation mode (model.eval())");
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
    bn->op.adds = true;
    bn->lo = -INFINITY;
    bn->hi = INFINITY;
    bn->op.weight_bytes = 2 * channels * sizeof(float);
    bn->op.flops = 2 * (uint64_t)pg_shape_count(&in[0].shape);
    return PG_OK;
}

static void destroy(pg_op *op) {
    batch_norm_op *bn = (batch_norm_op *)op;
    pg_free(bn->a);
    pg_free(bn->b);
}

/* ---- what the optimiser may ask ---- */

bool pg_op_is_batch_norm(const pg_op *op) { return op->cls == &pg_batch_norm_class; }

void pg_batch_norm_absorb_activation(pg_op *op, pg_act act, float lo, float hi) {
    batch_norm_op *bn = (batch_norm_op *)op;
    pg_assert(pg_op_is_batch_norm(op) && bn->act == PG_ACT_NONE && act != PG_ACT_NONE);
    bn->act = act;
    op->relu = act == PG_ACT_RELU || (act == PG_ACT_CLIP && lo == 0);
    bn->lo = act == PG_ACT_CLIP ? lo : 0.0f;
    bn->hi = act == PG_ACT_CLIP ? hi : INFINITY;
    op->keeps_src = true;
}

bool pg_batch_norm_absorb_concat(pg_op *op, int n, const pg_desc *parts) {
    pg_assert(pg_op_is_batch_norm(op) && op->n_src == 1 && n >= 1);
    pg_desc *src = op->dst[0].shape.rank >= 3 ? pg_calloc((size_t)n, sizeof *src) : NULL;
    if (!src)
        return false;
    memcpy(src, parts, (size_t)n * sizeof *src);
    pg_free(op->src);
    op->src = src;
    op->n_src = n;
    op->layouts = PG_LAYOUTS_CHANNELS_LAST;
    return true;
}

/* ---- forward and backward ---- */

#define INLINE static inline __attribute__((always_inline))

/* Rows of sixteen channels, then the rest: the shortest inputs have 12 to 48, and a loop that finds
 * out how long it is takes longer than that. */
enum { LANES = 16, RANGE_ELEMENTS = 16384 };

/* y = act(a x + b). step 1: a and b have `count` values; 0: one. */
INLINE void normalise(int64_t count, const float *restrict x, const float *restrict a,
                      const float *restrict b, int step, float lo, float hi, float *restrict y) {
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; i++) {
        float v = x[i] * a[i * step] + b[i * step];
        v = v < lo ? lo : v;
        y[i] = v > hi ? hi : v;
    }
}

/* d_x = a d_y where lo < a x + b < hi, or d_x += that; x NULL: everywhere. */
INLINE void slope(int64_t count, const float *restrict d_y, const float *restrict x,
                  const float *restrict a, const float *restrict b, int step, float lo, float hi,
                  bool add, float *restrict d_x) {
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; i++) {
        float d = a[i * step] * d_y[i];
        if (x) {
            float v = x[i] * a[i * step] + b[i * step];
            d = v > lo && v < hi ? d : 0.0f;
        }
        d_x[i] = add ? d_x[i] + d : d;
    }
}

/* Positions [first, last) of channels-last inputs side by side. */
PG_CLONES static void forward_rows(const batch_norm_op *bn, int64_t first, int64_t last,
                                   const float *const *src, float *dst) {
    int64_t channels = bn->op.dst[0].shape.dims[1];
    float lo = bn->lo, hi = bn->hi;
    for (int64_t p = first; p < last; p++)
        for (int64_t k = 0, at = 0; k < bn->op.n_src; k++) {
            int64_t width = bn->op.src[k].shape.dims[1], c = 0;
            const float *x = src[k] + p * width, *a = bn->a + at, *b = bn->b + at;
            float *y = dst + p * channels + at;
            for (; c + LANES <= width; c += LANES)
                normalise(LANES, x + c, a + c, b + c, 1, lo, hi, y + c);
            normalise(width - c, x + c, a + c, b + c, 1, lo, hi, y + c);
            at += width;
        }
}

/* One input's part of one position; whether there is an x, and `add`, are known where this is
 * inlined. */
INLINE void slope_row(int64_t width, const float *d_y, const float *x, const float *a,
                      const float *b, float lo, float hi, bool add, float *d_x) {
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES)
        slope(LANES, d_y + c, x ? x + c : NULL, a + c, b + c, 1, lo, hi, add, d_x + c);
    slope(width - c, d_y + c, x ? x + c : NULL, a + c, b + c, 1, lo, hi, add, d_x + c);
}

PG_CLONES static void backward_rows(const batch_norm_op *bn, int64_t first, int64_t last,
                                    const pg_op_io *io) {
    int64_t channels = bn->op.dst[0].shape.dims[1];
    float lo = bn->lo, hi = bn->hi;
    for (int64_t p = first; p < last; p++)
        for (int64_t k = 0, at = 0; k < bn->op.n_src; k++) {
            int64_t width = bn->op.src[k].shape.dims[1];
            const float *a = bn->a + at, *b = bn->b + at;
            const float *d_y = io->d_dst[0] + p * channels + at;
            float *d_x = io->d_src[k] ? io->d_src[k] + p * width : NULL;
            bool add = io->add && io->add[k];
            at += width;
            if (!d_x)
                continue;
            if (bn->act == PG_ACT_NONE)
                slope_row(width, d_y, NULL, a, b, lo, hi, add, d_x);
            else if (add)
                slope_row(width, d_y, io->src[k] + p * width, a, b, lo, hi, true, d_x);
            else
                slope_row(width, d_y, io->src[k] + p * width, a, b, lo, hi, false, d_x);
        }
}

/* `count` values of channel c. */
PG_CLONES static void forward_plane(const batch_norm_op *bn, int64_t c, int64_t count,
                                    const float *x, float *y) {
    normalise(count, x, bn->a + c, bn->b + c, 0, bn->lo, bn->hi, y);
}

PG_CLONES static void backward_plane(const batch_norm_op *bn, int64_t c, int64_t count,
                                     const float *d_y, const float *x, bool add, float *d_x) {
    if (bn->act == PG_ACT_NONE)
        slope(count, d_y, NULL, bn->a + c, bn->b + c, 0, bn->lo, bn->hi, add, d_x);
    else
        slope(count, d_y, x, bn->a + c, bn->b + c, 0, bn->lo, bn->hi, add, d_x);
}

/* One input's size as [positions, channels], rows of channels; false: its channels are planes. */
static bool in_rows(const pg_op *op, int64_t *positions, int64_t *channels) {
    const pg_shape *shape = &op->dst[0].shape;
    *channels = shape->dims[1];
    *positions = pg_shape_count(shape) / *channels;
    return op->dst[0].layout == PG_CHANNELS_LAST || *positions == shape->dims[0];
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const batch_norm_op *bn = (const batch_norm_op *)op;
    int64_t positions, channels;
    if (in_rows(op, &positions, &channels)) {
        int64_t step = RANGE_ELEMENTS / channels + 1;
#pragma omp parallel for schedule(static) if (positions > step)
        for (int64_t p = 0; p < positions; p += step)
            forward_rows(bn, p, smaller(p + step, positions), io->src, io->dst[0]);
        return PG_OK;
    }
    int64_t planes = op->dst[0].shape.dims[0] * channels, count = positions * channels / planes;
#pragma omp parallel for schedule(static) if (planes * count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < planes; i++)
        forward_plane(bn, i % channels, count, io->src[0] + i * count, io->dst[0] + i * count);
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const batch_norm_op *bn = (const batch_norm_op *)op;
    int64_t positions, channels;
    if (in_rows(op, &positions, &channels)) {
        int64_t step = RANGE_ELEMENTS / channels + 1;
#pragma omp parallel for schedule(static) if (positions > step)
        for (int64_t p = 0; p < positions; p += step)
            backward_rows(bn, p, smaller(p + step, positions), io);
        return PG_OK;
    }
    int64_t planes = op->dst[0].shape.dims[0] * channels, count = positions * channels / planes;
    if (io->d_src[0] == NULL)
        return PG_OK;
#pragma omp parallel for schedule(static) if (planes * count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < planes; i++)
        backward_plane(bn, i % channels, count, io->d_dst[0] + i * count, io->src[0] + i * count,
                       io->add && io->add[0], io->d_src[0] + i * count);
    return PG_OK;
}

const pg_op_class pg_batch_norm_class = {
    .create = create,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
