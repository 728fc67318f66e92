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
#include "kernels/channel_split.h"
#include "kernels/conv_geometry.h"
#include "kernels/conv_kept.h"
#include "kernels/conv_path.h"
#include "kernels/conv_tune.h"
#include "kernels/defect.h"
#include "kernels/mem.h"
#include "kernels/relevance.h"

/* Where in scratch backward keeps what, in bytes. */
typedef struct backward_layout {
    size_t gradient; /* float or pg_bf16 [positions, out_c]: dL/dy */
    size_t scale, high, low; /* float [out_c] each: weights of the group sums; low: factors too */
    size_t weights;  /* double [2, out_c]: the same where gradients are rounded to bfloat16 */
    size_t sums;     /* double [2, positions]: S_H, S_L */
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
    bool bf16;                      /* backward multiplies bfloat16 */
    struct pg_conv_tuner *tuner;    /* until prepare; NULL: none */
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

void pg_conv_use_tuner(pg_op *op, struct pg_conv_tuner *tuner) {
    pg_assert(pg_op_is_conv(op));
    ((conv_op *)op)->tuner = tuner;
}

const float *pg_conv_gap(const pg_op *op, const pg_op_io *io) {
    const conv_state *state = io->state;
    return pg_op_is_conv(op) && state ? state->gap : NULL;
}

void pg_conv_remember_kept(pg_op *op, int masks) {
    pg_assert(pg_op_is_conv(op));
    conv_op *conv = (conv_op *)op;
    pg_conv_kept_remember(&conv->kept, masks);
    op->state_bytes = conv->kept.state_bytes;
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

/* The statistic wants z, which is behind the activation no more, but for ReLU on z itself: ReLU(z) is
 * all that it wants. */
static bool act_in_gap_pass(const conv_op *conv) {
    return conv->want_gap && (conv->skip || conv->act != PG_ACT_RELU || conv->bn_scale);
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
        .act = act_in_gap_pass(conv) ? PG_ACT_NONE : conv->act,
        .lo = conv->lo,
        .hi = conv->hi,
        .library_only = conv->library_only,
        .bf16 = conv->op.bf16_forward && pays,
    };
    if (!err)
        err = pg_conv_tuner_make(conv->tuner, &spec, &conv->forward, diag);
    spec.backward = true;
    spec.bf16 = spec.in_bf16 = conv->bf16;
    if (!err)
        err = pg_conv_tuner_make(conv->tuner, &spec, &conv->backward, diag);
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
    s->scale = take(&s->end, channels * sizeof(float));
    s->high = take(&s->end, channels * sizeof(float));
    s->low = take(&s->end, channels * sizeof(float));
    s->weights = take(&s->end, conv->bf16 ? 2 * channels * sizeof(double) : 0);
    s->sums = take(&s->end, 2 * positions * sizeof(double));
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
    conv->tuner = NULL;
    if (err)
        return pg_fail_in(diag, err, "node '%s'", op->node);
    plan_scratch(conv);
    op->weight_bytes =
        conv->forward.weight_bytes + conv->backward.weight_bytes + conv->kept.weight_bytes;
    op->state_bytes = conv->kept.state_bytes;
    op->live_most = conv->skip ? 0 : conv->kept.capacity;
    int n = snprintf(conv->impl, sizeof conv->impl, "%s, backward %s", conv->forward.impl,
                     conv->backward.impl);
    if (conv->kept.capacity)
        snprintf(conv->impl + n, sizeof conv->impl - (size_t)n, ", of %lld channels %s",
                 (long long)conv->kept.capacity, conv->kept.impl);
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
            err = pg_conv_kept_bind(&conv->kept, io->d_src[0], io->d_src_live, rest, &s->kept,
                                    diag);
    }
    if (err) {
        unbind(op, state);
        return pg_fail_in(diag, err, "node '%s'", op->node);
    }
    return PG_OK;
}

/* ---- forward and backward ---- */

/* What the gap pass clamps to: nothing that the path has clamped already. */
static pg_act_range gap_range(const conv_op *conv) {
    bool clamped = !act_in_gap_pass(conv) && conv->forward.whole;
    return clamped ? (pg_act_range){-INFINITY, INFINITY} : act_range(conv);
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const conv_op *conv = (const conv_op *)op;
    const conv_state *state = io->state;
    const float *skip = conv->skip ? io->src[1] : NULL;
    pg_err err = pg_conv_run_execute(&conv->forward, &state->forward);
    if (!err && conv->want_gap)
        pg_channel_gap(positions_of(conv), conv->geometry.out_c, io->dst[0], skip, conv->gap_shift,
                       conv->gap_inverse, gap_range(conv), io->scratch, state->gap);
    else if (!err && !conv->forward.whole)
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

/* d_src from dL/dy over all channels. */
static pg_err run_all(const conv_op *conv, const pg_op_io *io, const void *gradient) {
    conv_state *state = io->state;
    pg_err err = pg_conv_run_read(&state->backward, gradient);
    return err ? err : pg_conv_run_execute(&conv->backward, &state->backward);
}

/* The same with the groups of dL/dy multiplied by high and low. */
static pg_err run_scaled(const conv_op *conv, const pg_op_io *io, const void *gradient, float high,
                         float low) {
    int64_t channels = conv->geometry.out_c, positions = positions_of(conv);
    float *factors = at(io, conv->scratch.low), *out = at(io, conv->scratch.gradient);
    for (int64_t c = 0; c < channels; c++)
        factors[c] = io->prune->keep[c] ? high : low;
    if (conv->bf16) {
        pg_channel_scale_bf16(positions, channels, factors, at(io, conv->scratch.gradient));
        return run_all(conv, io, gradient);
    }
    pg_channel_affine(positions, channels, gradient, factors, NULL, out);
    if (pg_defect("leak"))
        memcpy(conv->skip ? io->d_src[1] : (float *)io->d_dst[0], out,
               (size_t)(positions * channels) * sizeof *out);
    return run_all(conv, io, out);
}

/* ---- backward, split: see method.md section 2 ---- */

/* dL/dy in float, where the skip's gradient belongs. */
static const float *for_skip(const conv_op *conv, const pg_op_io *io) {
    if (conv->act == PG_ACT_NONE)
        pass_on(conv, io);
    else
        pg_channel_act_backward(positions_of(conv), conv->geometry.out_c, io->d_dst[0], io->dst[0],
                                act_range(conv), io->d_src[1]);
    return io->d_src[1];
}

static pg_split_source split_source(const conv_op *conv, const pg_op_io *io) {
    return (pg_split_source){.positions = positions_of(conv),
                             .channels = conv->geometry.out_c,
                             .d_dst = io->d_dst[0],
                             .dst = conv->act == PG_ACT_NONE ? NULL : io->dst[0],
                             .act = act_range(conv)};
}

/* G_c = s dL/dy_c */
static float bn_scale(const conv_op *conv, int64_t channel) {
    return conv->bn_scale && !pg_defect("no-bn-scale") ? conv->bn_scale[channel] : 1.0f;
}

/* [out_c] the channels in H; NULL: no split here. */
static const uint8_t *high_group(const pg_op_io *io) { return io->prune ? io->prune->keep : NULL; }

/* From the sums to what the groups are multiplied by; false: the gradient stays as it is. */
static bool weigh(const conv_op *conv, const pg_op_io *io, float *high, float *low) {
    const double *s_high = at(io, conv->scratch.sums), *s_low = s_high + positions_of(conv);
    pg_group_moments moments;
    pg_split_moments(positions_of(conv), s_high, s_low, &moments);
    return io->prune->weigh(io->prune->user, &moments, high, low);
}

/* dL/dy and the sums of its groups, in one pass. */
static const void *split_all(const conv_op *conv, const pg_op_io *io, const float *scale,
                             const float *high) {
    const pg_split_source source = split_source(conv, io);
    float *out = source.dst ? gradient_place(conv, io) : NULL;
    double *s_high = at(io, conv->scratch.sums), *s_low = s_high + source.positions;
    if (conv->bf16) {
        double *by_high = at(io, conv->scratch.weights), *by_low = by_high + source.channels;
        pg_bf16_gradient how = rounded(conv, io);
        for (int64_t c = 0; c < source.channels; c++) {
            by_high[c] = (double)high[c];
            by_low[c] = (double)scale[c] - (double)high[c];
        }
        pg_channel_gradient_sums_bf16(source.positions, source.channels, &how, by_high, by_low,
                                      s_high, s_low);
        return how.out;
    }
    pg_split_all(&source, scale, high, out, s_high, s_low);
    return out ? out : pass_on(conv, io);
}

/* Over all channels: where nothing is to be split after all, bit for bit the plain gradient. */
static pg_err backward_split(const conv_op *conv, const pg_op_io *io) {
    float *scale = at(io, conv->scratch.scale), *high = at(io, conv->scratch.high);
    float by_high = 1, by_low = 1;
    bool split = false;
    for (int64_t c = 0; c < conv->geometry.out_c; c++) {
        scale[c] = bn_scale(conv, c);
        high[c] = io->prune->keep[c] ? scale[c] : 0.0f;
        split |= !io->prune->keep[c];
    }
    const void *gradient = split_all(conv, io, scale, high);
    if (!weigh(conv, io, &by_high, &by_low) || !split)
        return run_all(conv, io, gradient);
    return run_scaled(conv, io, gradient, by_high, by_low);
}

/* The columns of dL/dy for the short way: channels that are live, or kept. Those that only fill the
 * block up have no weight, here and in the convolution. */
static pg_split_pick pick_columns(const conv_op *conv, const pg_op_io *io, const uint8_t *columns,
                                  bool live) {
    const conv_state *state = io->state;
    const uint8_t *keep = high_group(io);
    float *high = at(io, conv->scratch.high), *low = at(io, conv->scratch.low);
    pg_conv_columns chosen = pg_conv_kept_choose(&conv->kept, state->kept, columns);
    for (int64_t k = 0; k < conv->kept.capacity; k++) {
        int64_t c = chosen.channel[k];
        float s = k < chosen.count ? bn_scale(conv, c) : 0.0f;
        high[k] = keep && keep[c] ? s : 0.0f;
        low[k] = s - high[k];
    }
    return (pg_split_pick){.width = conv->kept.capacity,
                           .channel = chosen.channel,
                           .from = live ? chosen.from : chosen.channel,
                           .pitch = live ? io->d_dst_live->width : conv->geometry.out_c,
                           .high = high,
                           .low = low};
}

/* Over what stands in the short way's scratch, its columns multiplied by high and low. */
static pg_err run_columns(const conv_op *conv, const pg_op_io *io, const pg_split_pick *pick,
                          float high, float low, const uint8_t *columns, bool lasting) {
    const conv_state *state = io->state;
    float *factors = at(io, conv->scratch.low), *x = pg_conv_kept_gradient(&conv->kept, state->kept);
    for (int64_t k = 0; k < pick->width; k++)
        factors[k] = pick->high[k] != 0.0f ? high : low;
    if (high != 1.0f || low != 1.0f)
        pg_channel_affine(positions_of(conv), pick->width, x, factors, NULL, x);
    return pg_conv_kept_execute(&conv->kept, state->kept, columns, lasting);
}

/* Over the kept channels alone, if it turns out that the others are dropped. */
static pg_err backward_kept(const conv_op *conv, const pg_op_io *io) {
    const pg_conv_prune *prune = io->prune;
    const conv_state *state = io->state;
    pg_split_source source = split_source(conv, io);
    if (conv->skip && io->d_src[1]) { /* who gets all of it, through the activation */
        source.d_dst = for_skip(conv, io);
        source.dst = NULL;
    }
    float *scale = at(io, conv->scratch.scale), high = 1, low = 1;
    double *s_high = at(io, conv->scratch.sums), *s_low = s_high + source.positions;
    const pg_split_pick pick = pick_columns(conv, io, prune->keep, false);
    for (int64_t c = 0; c < source.channels; c++)
        scale[c] = bn_scale(conv, c);
    pg_split_keep(&source, scale, &pick, pg_conv_kept_gradient(&conv->kept, state->kept), s_high,
                  s_low);
    if (!weigh(conv, io, &high, &low))
        return run_all(conv, io, through_activation(conv, io));
    if (low != 0.0f)
        return run_scaled(conv, io, through_activation(conv, io), high, low);
    return run_columns(conv, io, &pick, high, low, prune->keep, prune->lasting);
}

/* From a gradient that came with its live channels side by side: those, whatever is kept of them. */
static pg_err backward_live(const conv_op *conv, const pg_op_io *io) {
    const pg_live *live = io->d_dst_live;
    const conv_state *state = io->state;
    const pg_split_source source = split_source(conv, io);
    float high = 1, low = 1;
    double *s_high = at(io, conv->scratch.sums), *s_low = s_high + source.positions;
    const pg_split_pick pick = pick_columns(conv, io, live->keep, true);
    pg_split_live(&source, &pick, pg_conv_kept_gradient(&conv->kept, state->kept), s_high, s_low);
    if (high_group(io) && !weigh(conv, io, &high, &low))
        high = low = 1;
    return run_columns(conv, io, &pick, high, low, live->keep, live->lasting);
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const conv_op *conv = (const conv_op *)op;
    const conv_state *state = io->state;
    if (io->d_src[0] == NULL) {
        if (conv->skip && io->d_src[1])
            through_activation(conv, io);
        return PG_OK;
    }
    if (io->d_dst_live && io->d_dst_live->keep)
        return backward_live(conv, io);
    if (!high_group(io))
        return run_all(conv, io, through_activation(conv, io));
    if (state->kept && !pg_defect("leak") &&
        pg_conv_kept_pays(&conv->kept, state->kept, io->prune->keep, io->prune->lasting))
        return backward_kept(conv, io);
    return backward_split(conv, io);
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
