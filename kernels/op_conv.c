/* Convolution: dst = act(s z + t [+ skip]), z = conv(x) + b.
 *
 * The multiplications are oneDNN's (conv_path.h). What is done here is what makes ParchGrad cheap:
 * batch normalisation and activation disappear into the convolution, and yet its own output z can
 * still be spoken of, because s and t are kept:
 *
 *   - GAP_c, the mean of ReLU(z_c), is read off y = s z + t as ReLU((y - t) / s), in the one pass
 *     that then adds the skip and applies the activation;
 *   - G_c = dL/dz_c = s_c dL/dy_c, so the two group sums weight dL/dy by s_c. Scaling a group of G
 *     is scaling the same group of dL/dy, and the weights of backward_data already hold s.
 *
 * Backward: dL/dy = d_dst * act'(dst) goes to scratch, ParchGrad's factors are applied to it there
 * (d_dst itself may be read by another consumer and stays as it is), then backward_data. With
 * neither activation nor pruning, backward_data reads d_dst itself. A skip's gradient is that same
 * dL/dy without ParchGrad's factors: it is made where the skip wants it, which the planner lets be
 * d_dst's own place where it can, and backward_data reads it there.
 *
 * Where a group is dropped altogether (scale_low == 0) and the planner has said so beforehand,
 * backward_data runs over the kept channels alone (conv_kept.h). */
#include "kernels/op_conv.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/channel_bf16.h"
#include "kernels/channel_ops.h"
#include "kernels/conv_geometry.h"
#include "kernels/conv_kept.h"
#include "kernels/conv_path.h"
#include "kernels/defect.h"
#include "kernels/mem.h"
#include "kernels/relevance.h"

/* Where in scratch backward keeps what, in bytes. */
typedef struct backward_layout {
    size_t gradient; /* float or pg_bf16 [positions, out_c]: dL/dy */
    size_t weights;  /* double [2, out_c]: what the group sums multiply with */
    size_t sums;     /* double [2, positions]: S_H, S_L */
    size_t factors;  /* float [out_c] */
    size_t path;     /* that of the way the gradient then takes, all channels or the kept ones */
    size_t end;
} backward_layout;

typedef struct conv_op {
    pg_op op;
    pg_conv_geometry geometry;
    const pg_const *weights, *bias; /* until prepare */
    float *bn_scale, *bn_shift;     /* [out_c] s and t, both NULL: none absorbed */
    pg_act act;
    float lo, hi;
    bool skip; /* src[1] is added before the activation */
    bool want_gap, library_only;
    bool bf16; /* backward multiplies bfloat16 */
    int64_t most_kept;              /* 0: nothing is dropped */
    float *gap_shift, *gap_inverse; /* [out_c] t and 1/s, if want_gap */
    pg_conv_path forward, backward;
    pg_conv_kept kept;
    backward_layout scratch;
    char impl[3 * PG_CONV_IMPL_MAX + 64];
} conv_op;

typedef struct conv_state {
    pg_conv_run forward;
    pg_conv_run backward;     /* reads d_dst, or where dL/dy was made */
    pg_conv_kept_state *kept; /* NULL: all channels always */
    float *gap;               /* [out_c], if wanted */
} conv_state;

static int64_t positions_of(const conv_op *conv) {
    return conv->geometry.out_h * conv->geometry.out_w;
}

static pg_act_range act_range(const conv_op *conv) {
    if (conv->act == PG_ACT_CLIP)
        return (pg_act_range){conv->lo, conv->hi};
    return (pg_act_range){conv->act == PG_ACT_RELU ? 0.0f : -INFINITY, INFINITY};
}

/* ---- create ---- */

extern const pg_op_class pg_conv_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_conv_geometry g;
    pg_shape dst;
    pg_err err = pg_conv_geometry_read(def, &g, &dst, diag);
    if (!err)
        err = pg_op_alloc(&pg_conv_class, def, sizeof(conv_op), 1, out, diag);
    if (err)
        return err;
    conv_op *conv = (conv_op *)*out;
    conv->geometry = g;
    conv->weights = def->inputs[1].constant;
    conv->bias = def->n_inputs == 3 ? def->inputs[2].constant : NULL;
    conv->op.dst[0].shape = dst;
    conv->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    conv->op.flops = pg_conv_flops(&g);
    return PG_OK;
}

static void destroy(pg_op *op) {
    conv_op *conv = (conv_op *)op;
    pg_conv_path_free(&conv->forward);
    pg_conv_path_free(&conv->backward);
    pg_conv_kept_free(&conv->kept);
    pg_free(conv->bn_scale);
    pg_free(conv->bn_shift);
    pg_free(conv->gap_shift);
    pg_free(conv->gap_inverse);
}

/* ---- what the planner may ask between create and prepare ---- */

bool pg_op_is_conv(const pg_op *op) { return op->cls == &pg_conv_class; }

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
    conv_op *conv = (conv_op *)op;
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
    conv_op *conv = (conv_op *)op;
    pg_assert(conv->act == PG_ACT_NONE);
    conv->act = act;
    conv->lo = lo;
    conv->hi = hi;
    op->keeps_dst = act != PG_ACT_NONE;
    op->relu = act == PG_ACT_RELU || (act == PG_ACT_CLIP && lo == 0);
}

bool pg_conv_absorb_add(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    conv_op *conv = (conv_op *)op;
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

void pg_conv_want_gap(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    ((conv_op *)op)->want_gap = true;
}

void pg_conv_expect_kept(pg_op *op, int64_t most) {
    pg_assert(pg_op_is_conv(op));
    ((conv_op *)op)->most_kept = most;
}

void pg_conv_library_only(pg_op *op) {
    pg_assert(pg_op_is_conv(op));
    ((conv_op *)op)->library_only = true;
}

const float *pg_conv_gap(const pg_op *op, const pg_op_io *io) {
    const conv_state *state = io->state;
    return pg_op_is_conv(op) && state ? state->gap : NULL;
}

/* ---- prepare ---- */

/* Weights and bias with the batch normalisation inside: s W and s b + t, in double. */
static bool fold(const conv_op *conv, float **weights, float **bias) {
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
    pg_act_range range = act_range((const conv_op *)op);
    *lo = range.lo;
    *hi = range.hi;
    return ((const conv_op *)op)->act;
}

pg_err pg_conv_linear(const pg_op *op, struct pg_linear *out, pg_diag *diag) {
    pg_assert(pg_op_is_conv(op));
    const conv_op *conv = (const conv_op *)op;
    *out = (pg_linear){.geometry = conv->geometry, .library_only = conv->library_only};
    if (fold(conv, &out->weights, &out->bias))
        return PG_OK;
    pg_linear_free(out);
    return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
}

static pg_err make_paths(conv_op *conv, pg_diag *diag) {
    float *weights = NULL, *bias = NULL;
    pg_err err = PG_OK;
    bool pays = pg_conv_pays_bf16(&conv->geometry);
    conv->bf16 = conv->op.bf16_backward && pays;
    if (conv->bn_scale && !fold(conv, &weights, &bias))
        err = pg_fail(diag, PG_ENOMEM, "out of memory");
    pg_conv_path_spec spec = {
        .geometry = &conv->geometry,
        .weights = weights ? weights : conv->weights->f,
        .bias = bias         ? bias
                : conv->bias ? conv->bias->f
                             : NULL,
        .add = conv->skip && !conv->want_gap,
        .act = conv->want_gap ? PG_ACT_NONE : conv->act, /* the gap pass applies it */
        .lo = conv->lo,
        .hi = conv->hi,
        .library_only = conv->library_only,
        .bf16 = conv->op.bf16_forward && pays,
    };
    if (!err)
        err = pg_conv_path_make(&spec, &conv->forward, diag);
    spec.backward = true;
    spec.bf16 = spec.in_bf16 = conv->bf16;
    if (!err)
        err = pg_conv_path_make(&spec, &conv->backward, diag);
    if (!err && conv->most_kept > 0)
        err = pg_conv_kept_make(&spec, conv->most_kept, &conv->kept, diag);
    pg_free(weights);
    pg_free(bias);
    return err;
}

static bool make_gap_constants(conv_op *conv) {
    size_t channels = (size_t)conv->geometry.out_c;
    conv->gap_shift = pg_calloc(channels, sizeof(float));
    conv->gap_inverse = pg_malloc(channels * sizeof(float));
    if (!conv->gap_shift || !conv->gap_inverse)
        return false;
    for (size_t c = 0; c < channels; c++) {
        conv->gap_shift[c] = conv->bn_shift ? conv->bn_shift[c] : 0.0f;
        conv->gap_inverse[c] = conv->bn_scale ? 1.0f / conv->bn_scale[c] : 1.0f;
    }
    return true;
}

static size_t take(size_t *end, size_t bytes) {
    size_t start = *end;
    *end += (bytes + PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
    return start;
}

static void plan_scratch(conv_op *conv) {
    size_t positions = (size_t)positions_of(conv), channels = (size_t)conv->geometry.out_c;
    backward_layout *s = &conv->scratch;
    s->gradient =
        take(&s->end, positions * channels * (conv->bf16 ? sizeof(pg_bf16) : sizeof(float)));
    s->weights = take(&s->end, 2 * channels * sizeof(double));
    s->sums = take(&s->end, 2 * positions * sizeof(double));
    s->factors = take(&s->end, channels * sizeof(float));
    size_t all = conv->backward.scratch_bytes, kept = conv->kept.scratch_bytes;
    s->path = take(&s->end, all > kept ? all : kept);

    size_t forward = conv->forward.scratch_bytes;
    size_t gap = pg_channel_gap_scratch(positions_of(conv), conv->geometry.out_c);
    if (conv->want_gap && gap > forward) /* the library is done when the gap pass runs */
        forward = gap;
    conv->op.scratch_bytes = forward > s->end ? forward : s->end;
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    conv_op *conv = (conv_op *)op;
    pg_err err = make_paths(conv, diag);
    if (!err && conv->want_gap && !make_gap_constants(conv))
        err = pg_fail(diag, PG_ENOMEM, "out of memory");
    conv->weights = conv->bias = NULL;
    if (err)
        return pg_fail_in(diag, err, "node '%s'", op->node);
    plan_scratch(conv);
    op->weight_bytes =
        conv->forward.weight_bytes + conv->backward.weight_bytes + conv->kept.weight_bytes;
    op->state_bytes = conv->kept.state_bytes;
    int n = snprintf(conv->impl, sizeof conv->impl, "%s, backward %s", conv->forward.impl,
                     conv->backward.impl);
    if (conv->kept.capacity)
        snprintf(conv->impl + n, sizeof conv->impl - (size_t)n, ", of %lld channels %s",
                 (long long)conv->kept.capacity, conv->kept.path.impl);
    op->impl = conv->impl;
    return PG_OK;
}

/* ---- bind ---- */

static void unbind(const pg_op *op, void **state) {
    (void)op;
    conv_state *s = *state;
    if (s == NULL)
        return;
    pg_conv_run_free(&s->forward);
    pg_conv_run_free(&s->backward);
    pg_conv_kept_unbind(&s->kept);
    pg_free(s->gap);
    pg_free(s);
    *state = NULL;
}

static pg_err bind(const pg_op *op, const pg_op_io *io, void **state, pg_diag *diag) {
    const conv_op *conv = (const conv_op *)op;
    char *scratch = io->scratch;
    conv_state *s = pg_calloc(1, sizeof *s);
    *state = s;
    if (s == NULL)
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
    pg_err err = PG_OK;
    if (conv->want_gap) {
        s->gap = pg_calloc((size_t)conv->geometry.out_c, sizeof(float));
        if (s->gap == NULL)
            err = pg_fail(diag, PG_ENOMEM, "out of memory");
    }
    if (!err)
        err = pg_conv_run_make(&conv->forward, io->src[0], io->dst[0], scratch, &s->forward, diag);
    if (!err && conv->forward.adds)
        err = pg_conv_run_add(&conv->forward, &s->forward, io->src[1], diag);
    if (!err && io->d_src && io->d_src[0]) {
        char *rest = scratch + conv->scratch.path;
        const void *in = conv->bf16 ? scratch + conv->scratch.gradient : (const void *)io->d_dst[0];
        err = pg_conv_run_make(&conv->backward, in, io->d_src[0], rest, &s->backward, diag);
        if (!err && conv->kept.capacity)
            err = pg_conv_kept_bind(&conv->kept, io->d_src[0], rest, &s->kept, diag);
    }
    if (err) {
        unbind(op, state);
        return pg_fail_in(diag, err, "node '%s'", op->node);
    }
    return PG_OK;
}

/* ---- forward and backward ---- */

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const conv_op *conv = (const conv_op *)op;
    const conv_state *state = io->state;
    const float *skip = conv->skip ? io->src[1] : NULL;
    pg_err err = pg_conv_run_execute(&conv->forward, &state->forward);
    if (!err && conv->want_gap)
        pg_channel_gap(positions_of(conv), conv->geometry.out_c, io->dst[0], skip, conv->gap_shift,
                       conv->gap_inverse, act_range(conv), io->scratch, state->gap);
    else if (!err && skip && !conv->forward.adds)
        pg_channel_add_act(positions_of(conv), conv->geometry.out_c, io->dst[0], skip,
                           act_range(conv));
    return err;
}

static void *at(const pg_op_io *io, size_t offset) { return (char *)io->scratch + offset; }

/* Where dL/dy is made: for the skip, if that has a gradient, else in scratch. */
static float *gradient_place(const conv_op *conv, const pg_op_io *io) {
    return conv->skip && io->d_src[1] ? io->d_src[1] : at(io, conv->scratch.gradient);
}

/* dL/dy without an activation: the output's gradient itself, of which a skip wants a copy. */
static const float *pass_on(const conv_op *conv, const pg_op_io *io) {
    size_t bytes = (size_t)(positions_of(conv) * conv->geometry.out_c) * sizeof(float);
    if (conv->skip && io->d_src[1] && io->d_src[1] != io->d_dst[0])
        memcpy(io->d_src[1], io->d_dst[0], bytes);
    return io->d_dst[0];
}

/* What is multiplied with bfloat16 is rounded in scratch; the skip gets it as it is. */
static pg_bf16_gradient rounded(const conv_op *conv, const pg_op_io *io) {
    return (pg_bf16_gradient){.d_dst = io->d_dst[0],
                              .dst = conv->act == PG_ACT_NONE ? NULL : io->dst[0],
                              .act = act_range(conv),
                              .out = at(io, conv->scratch.gradient),
                              .skip = conv->skip ? io->d_src[1] : NULL};
}

/* dL/dy: the output's gradient, or what the activation lets through of it. */
static const void *through_activation(const conv_op *conv, const pg_op_io *io) {
    if (conv->bf16) {
        pg_bf16_gradient gradient = rounded(conv, io);
        pg_channel_gradient_bf16(positions_of(conv), conv->geometry.out_c, &gradient);
        return gradient.out;
    }
    if (conv->act == PG_ACT_NONE)
        return pass_on(conv, io);
    float *gradient = gradient_place(conv, io);
    pg_channel_act_backward(positions_of(conv), conv->geometry.out_c, io->d_dst[0], io->dst[0],
                            act_range(conv), gradient);
    return gradient;
}

/* The same, and in the same pass S_H, S_L and their moments. */
static const void *measure(const conv_op *conv, const pg_op_io *io, pg_group_moments *moments) {
    int64_t channels = conv->geometry.out_c, positions = positions_of(conv);
    double *high = at(io, conv->scratch.weights), *low = high + channels;
    double *s_high = at(io, conv->scratch.sums), *s_low = s_high + positions;
    const void *gradient = conv->act == PG_ACT_NONE ? io->d_dst[0] : gradient_place(conv, io);
    bool scaled = conv->bn_scale && !pg_defect("no-bn-scale");
    for (int64_t c = 0; c < channels; c++) {
        double s = scaled ? (double)conv->bn_scale[c] : 1.0;
        high[c] = io->prune->keep[c] ? s : 0.0;
        low[c] = io->prune->keep[c] ? 0.0 : s;
    }
    if (conv->bf16) {
        pg_bf16_gradient how = rounded(conv, io);
        pg_channel_gradient_sums_bf16(positions, channels, &how, high, low, s_high, s_low);
        gradient = how.out;
    } else if (conv->act == PG_ACT_NONE) {
        pg_channel_group_sums(positions, channels, gradient, high, low, s_high, s_low);
        pass_on(conv, io);
    } else {
        pg_channel_act_group_sums(positions, channels, io->d_dst[0], io->dst[0], act_range(conv),
                                  high, low, gradient_place(conv, io), s_high, s_low);
    }
    pg_channel_moments(positions, s_high, s_low, moments);
    return gradient;
}

/* d_src from dL/dy over all channels. */
static pg_err run_all(const conv_op *conv, const pg_op_io *io, const void *gradient) {
    conv_state *state = io->state;
    pg_err err = pg_conv_run_read(&state->backward, gradient);
    return err ? err : pg_conv_run_execute(&conv->backward, &state->backward);
}

/* The gradient in scratch, its groups multiplied by high and low. */
static const void *scale_groups(const conv_op *conv, const pg_op_io *io, const void *gradient,
                                float high, float low) {
    int64_t channels = conv->geometry.out_c, positions = positions_of(conv);
    float *factors = at(io, conv->scratch.factors), *out = at(io, conv->scratch.gradient);
    for (int64_t c = 0; c < channels; c++)
        factors[c] = io->prune->keep[c] ? high : low;
    if (conv->bf16) {
        pg_channel_scale_bf16(positions, channels, factors, at(io, conv->scratch.gradient));
        return gradient;
    }
    pg_channel_affine(positions, channels, gradient, factors, NULL, out);
    if (pg_defect("leak"))
        memcpy(conv->skip ? io->d_src[1] : (float *)io->d_dst[0], out,
               (size_t)(positions * channels) * sizeof *out);
    return out;
}

/* d_src from dL/dy split as io->prune says; where nothing is to be split, bit for bit the plain
 * one. */
static pg_err backward_pruned(const conv_op *conv, const pg_op_io *io) {
    const pg_conv_prune *prune = io->prune;
    const conv_state *state = io->state;
    int64_t channels = conv->geometry.out_c, count = 0;
    float high = 1.0f, low = 1.0f;
    pg_group_moments moments;
    for (int64_t c = 0; c < channels; c++)
        count += prune->keep[c] != 0;
    const void *gradient = measure(conv, io, &moments);
    if (!prune->weigh(prune->user, &moments, &high, &low) || count == channels)
        return run_all(conv, io, gradient);
    if (low == 0.0f && state->kept && !pg_defect("leak") &&
        pg_conv_kept_pays(&conv->kept, state->kept, prune->keep, count, prune->lasting))
        return pg_conv_kept_execute(&conv->kept, state->kept, prune->keep, count, prune->lasting,
                                    high, gradient);
    return run_all(conv, io, scale_groups(conv, io, gradient, high, low));
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const conv_op *conv = (const conv_op *)op;
    if (io->d_src[0] == NULL) {
        if (conv->skip && io->d_src[1])
            through_activation(conv, io);
        return PG_OK;
    }
    if (io->prune && io->prune->keep)
        return backward_pruned(conv, io);
    return run_all(conv, io, through_activation(conv, io));
}

const pg_op_class pg_conv_class = {
    .create = create,
    .prepare = prepare,
    .bind = bind,
    .unbind = unbind,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
