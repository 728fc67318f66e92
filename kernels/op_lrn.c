/* LRN across channels: y_c = x_c / s_c^beta, s_c = bias + alpha / size * sum of x^2 over a window
 * of `size` channels around c. Channels-last, so a window is contiguous; sums are made anew for
 * every channel: sliding them would be faster for wide windows and wrong by what rounding leaves
 * behind.
 *
 * Gradient: dx_c = dy_c / s_c^beta - 2 alpha beta / size * x_c * sum over the windows d that hold c
 * of dy_d x_d / s_d^(beta + 1). */
#include <math.h>

#include "kernels/op_node.h"

typedef struct lrn_op {
    pg_op op;
    int64_t channels, before, after; /* the window: channels on either side */
    float scale, beta, bias;         /* scale = alpha / size */
} lrn_op;

extern const pg_op_class pg_lrn_class;

enum { SIZE_LIMIT = 1 << 10 };

static pg_err read_parameters(const pg_op_def *def, lrn_op *p, pg_diag *diag) {
    int64_t size = 0;
    float alpha = 0;
    pg_err err = pg_def_int(def, "size", 0, &size, diag);
    if (!err)
        err = pg_def_float(def, "alpha", 1e-4f, &alpha, diag);
    if (!err)
        err = pg_def_float(def, "beta", 0.75f, &p->beta, diag);
    if (!err)
        err = pg_def_float(def, "bias", 1.0f, &p->bias, diag);
    if (err)
        return err;
    if (size < 1 || size > SIZE_LIMIT)
        return pg_node_refuse(def, diag, "size is missing or out of range");
    if (!(alpha >= 0) || !(p->bias > 0) || !isfinite(alpha + p->beta + p->bias))
        return pg_node_refuse(def, diag, "alpha, beta or bias is out of range");
    p->before = (size - 1) / 2;
    p->after = size - 1 - p->before;
    p->scale = alpha / (float)size;
    return PG_OK;
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    lrn_op parameters = {.beta = 0};
    pg_err err = pg_node_one_input(def, diag);
    if (!err && def->inputs[0].shape.rank < 3)
        err = pg_node_refuse(def, diag, "needs a shape of [N,C,...]");
    if (!err)
        err = read_parameters(def, &parameters, diag);
    if (!err)
        err = pg_op_alloc(&pg_lrn_class, def, sizeof(lrn_op), 1, out, diag);
    if (err)
        return err;
    lrn_op *p = (lrn_op *)*out;
    parameters.op = p->op;
    *p = parameters;
    p->op.dst[0].shape = def->inputs[0].shape;
    p->channels = def->inputs[0].shape.dims[1];
    p->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    p->op.keeps_src = true;
    int64_t count = pg_shape_count(&p->op.dst[0].shape);
    p->op.flops = 2 * (uint64_t)count * (uint64_t)(p->before + p->after + 1);
    p->op.saved_bytes = (size_t)count * sizeof(float);
    p->op.scratch_bytes = (size_t)count * sizeof(float);
    return PG_OK;
}

/* Sum of v over channels [c - before, c + after], as far as there are any. */
static float window_sum(const float *v, int64_t channels, int64_t c, int64_t before,
                        int64_t after) {
    int64_t from = c < before ? 0 : c - before;
    int64_t to = c + after < channels ? c + after + 1 : channels;
    float sum = 0;
    for (int64_t i = from; i < to; i++)
        sum += v[i];
    return sum;
}

/* s^-beta; almost every network has beta = 3/4, which roots give far faster than powf. */
static inline float damping(float s, float beta) {
    return beta == 0.75f ? 1.0f / (sqrtf(s) * sqrtf(sqrtf(s))) : powf(s, -beta);
}

enum { PARALLEL_FROM = 1 << 12 }; /* elements */

/* saved: s */
static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const lrn_op *p = (const lrn_op *)op;
    int64_t C = p->channels, count = pg_shape_count(&op->dst[0].shape);
#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t at = 0; at < count; at += C) {
        const float *x = io->src[0] + at;
        float *s = (float *)io->saved + at, *squares = (float *)io->scratch + at;
        for (int64_t c = 0; c < C; c++)
            squares[c] = x[c] * x[c];
        for (int64_t c = 0; c < C; c++) {
            s[c] = p->bias + p->scale * window_sum(squares, C, c, p->before, p->after);
            io->dst[0][at + c] = x[c] * damping(s[c], p->beta);
        }
    }
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const lrn_op *p = (const lrn_op *)op;
    int64_t C = p->channels, count = pg_shape_count(&op->dst[0].shape);
    if (!io->d_src[0])
        return PG_OK;
#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t at = 0; at < count; at += C) {
        const float *x = io->src[0] + at, *d_y = io->d_dst[0] + at;
        const float *s = (const float *)io->saved + at;
        float *through_s = (float *)io->scratch + at, *d_x = io->d_src[0] + at;
        for (int64_t c = 0; c < C; c++) {
            d_x[c] = d_y[c] * damping(s[c], p->beta);
            through_s[c] = d_x[c] * x[c] / s[c];
        }
        for (int64_t c = 0; c < C; c++) /* the windows that hold c: the mirrored window */
            d_x[c] -=
                2 * p->scale * p->beta * x[c] * window_sum(through_s, C, c, p->after, p->before);
    }
    return PG_OK;
}

const pg_op_class pg_lrn_class = {.create = create, .forward = forward, .backward = backward};
