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

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/conv_geometry.h"
#include "kernels/conv_tune.h"
#include "kernels/mem.h"
#include "kernels/op_conv_impl.h"

/* ---- create ---- */

extern const pg_op_class pg_conv_class;

bool pg_op_is_conv(const pg_op *op) { return op->cls == &pg_conv_class; }

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_conv_geometry g;
    pg_shape dst;
    pg_err err = pg_conv_geometry_read(def, &g, &dst, diag);
    if (!err)
        err = pg_op_alloc(&pg_conv_class, def, sizeof(pg_conv_op), 1, out, diag);
    if (err)
        return err;
    pg_conv_op *conv = (pg_conv_op *)*out;
    conv->geometry = g;
    conv->weights = def->inputs[1].constant;
    conv->bias = def->n_inputs == 3 ? def->inputs[2].constant : NULL;
    conv->op.dst[0].shape = dst;
    conv->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    conv->op.flops = pg_conv_flops(&g);
    return PG_OK;
}

static void destroy(pg_op *op) {
    pg_conv_op *conv = (pg_conv_op *)op;
    pg_conv_path_free(&conv->forward);
    pg_conv_path_free(&conv->backward);
    pg_conv_kept_free(&conv->kept);
    pg_free(conv->bn_scale);
    pg_free(conv->bn_shift);
    pg_free(conv->gap_shift);
    pg_free(conv->gap_inverse);
}

/* ---- prepare ---- */

/* The statistic wants z, which is behind the activation no more, but for ReLU on z itself: ReLU(z)
 * is all that it wants. */
static bool act_in_gap_pass(const pg_conv_op *conv) {
    return conv->want_gap && (conv->skip || conv->act != PG_ACT_RELU || conv->bn_scale);
}

static pg_err make_paths(pg_conv_op *conv, pg_diag *diag) {
    float *weights = NULL, *bias = NULL;
    pg_err err = PG_OK;
    bool pays = pg_conv_pays_bf16(&conv->geometry);
    conv->bf16 = conv->op.bf16_backward && pays;
    if (conv->bn_scale && !pg_conv_fold(conv, &weights, &bias))
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
        .sparse = conv->zeros,
        .bf16 = conv->op.bf16_forward && pays,
    };
    if (!err)
        err = pg_conv_tuner_make(conv->tuner, &spec, &conv->forward, diag);
    spec.backward = true;
    spec.sparse = false;
    spec.bf16 = spec.in_bf16 = conv->bf16;
    spec.lean = conv->most_kept > 0;
    if (!err)
        err = pg_conv_tuner_make(conv->tuner, &spec, &conv->backward, diag);
    if (!err && conv->most_kept > 0)
        err = pg_conv_kept_make(&spec, &conv->backward, conv->most_kept, &conv->kept, diag);
    pg_free(weights);
    pg_free(bias);
    return err;
}

/* Without a BatchNorm of its own the output is what the statistic is of. */
static bool make_gap_constants(pg_conv_op *conv) {
    size_t channels = (size_t)conv->geometry.out_c;
    if (!conv->bn_scale)
        return true;
    conv->gap_shift = pg_malloc(channels * sizeof(float));
    conv->gap_inverse = pg_malloc(channels * sizeof(float));
    if (!conv->gap_shift || !conv->gap_inverse)
        return false;
    for (size_t c = 0; c < channels; c++) {
        conv->gap_shift[c] = conv->bn_shift[c];
        conv->gap_inverse[c] = 1.0f / conv->bn_scale[c];
    }
    return true;
}

static size_t take(size_t *end, size_t bytes) {
    size_t start = *end;
    *end += (bytes + PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
    return start;
}

static void plan_scratch(pg_conv_op *conv) {
    size_t positions = (size_t)pg_conv_positions(conv), channels = (size_t)conv->geometry.out_c;
    pg_split_layout *split = &conv->split;
    split->low_all = take(&split->end, channels * sizeof(float));
    split->high = take(&split->end, channels * sizeof(float));
    split->low = take(&split->end, channels * sizeof(float));
    split->sums = take(&split->end, 2 * positions * sizeof(double));
    split->columns = take(&split->end, positions * (size_t)conv->kept.capacity * sizeof(float));
    pg_conv_layout *s = &conv->scratch;
    s->gradient =
        take(&s->end, positions * channels * (conv->bf16 ? sizeof(pg_bf16) : sizeof(float)));
    s->split = take(&s->end, split->end);
    s->weights = take(&s->end, conv->bf16 ? 2 * channels * sizeof(double) : 0);
    size_t all = conv->backward.scratch_bytes, kept = conv->kept.scratch_bytes;
    s->path = take(&s->end, all > kept ? all : kept);

    size_t forward = conv->forward.scratch_bytes;
    size_t gap = pg_channel_gap_scratch(pg_conv_positions(conv), conv->geometry.out_c);
    if (conv->want_gap && gap > forward) /* the library is done when the gap pass runs */
        forward = gap;
    conv->op.scratch_bytes = forward > s->end ? forward : s->end;
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    pg_conv_op *conv = (pg_conv_op *)op;
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
    op->rows_bytes = conv->kept.capacity && !conv->bf16 ? conv->split.end : 0;
    op->gives_rows = pg_conv_path_sinks(&conv->kept.path);
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
    pg_conv_state *s = *state;
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
    const pg_conv_op *conv = (const pg_conv_op *)op;
    char *scratch = io->scratch;
    pg_conv_state *s = pg_calloc(1, sizeof *s);
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
            err =
                pg_conv_kept_bind(&conv->kept, io->d_src[0], io->d_src_live, rest, &s->kept, diag);
    }
    if (err) {
        unbind(op, state);
        return pg_fail_in(diag, err, "node '%s'", op->node);
    }
    return PG_OK;
}

/* ---- forward and backward ---- */

/* What the gap pass clamps to: nothing that the path has clamped already. */
static pg_act_range gap_range(const pg_conv_op *conv) {
    bool clamped = !act_in_gap_pass(conv) && conv->forward.whole;
    return clamped ? (pg_act_range){-INFINITY, INFINITY} : pg_conv_range(conv);
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const pg_conv_op *conv = (const pg_conv_op *)op;
    const pg_conv_state *state = io->state;
    const float *skip = conv->skip ? io->src[1] : NULL;
    pg_err err = pg_conv_run_execute(&conv->forward, &state->forward);
    if (!err && conv->want_gap)
        pg_channel_gap(pg_conv_positions(conv), conv->geometry.out_c, io->dst[0], skip,
                       conv->gap_shift, conv->gap_inverse, gap_range(conv), io->scratch,
                       state->gap);
    else if (!err && !conv->forward.whole)
        pg_channel_add_act(pg_conv_positions(conv), conv->geometry.out_c, io->dst[0], skip,
                           pg_conv_range(conv));
    return err;
}

/* dL/dy: the output's gradient, or what the activation lets through of it. */
const void *pg_conv_gradient(const pg_conv_op *conv, const pg_op_io *io) {
    if (conv->bf16) {
        pg_bf16_gradient gradient = pg_conv_rounded(conv, io);
        pg_channel_gradient_bf16(pg_conv_positions(conv), conv->geometry.out_c, &gradient);
        return gradient.out;
    }
    if (conv->act == PG_ACT_NONE)
        return pg_conv_pass_on(conv, io);
    float *gradient = pg_conv_gradient_place(conv, io);
    pg_channel_act_backward(pg_conv_positions(conv), conv->geometry.out_c, io->d_dst[0], io->dst[0],
                            pg_conv_range(conv), gradient);
    return gradient;
}

/* d_src from dL/dy over all channels. */
pg_err pg_conv_backward_all(const pg_conv_op *conv, const pg_op_io *io, const void *gradient) {
    pg_conv_state *state = io->state;
    pg_err err = pg_conv_run_read(&state->backward, gradient, conv->geometry.out_c);
    return err ? err : pg_conv_run_execute(&conv->backward, &state->backward);
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const pg_conv_op *conv = (const pg_conv_op *)op;
    if (io->d_src[0] == NULL) {
        if (conv->skip && io->d_src[1])
            pg_conv_gradient(conv, io);
        return PG_OK;
    }
    if (io->prune || io->d_dst_live)
        return pg_conv_backward_split(conv, io);
    return pg_conv_backward_all(conv, io, pg_conv_gradient(conv, io));
}

const pg_op_class pg_conv_class = {
    .create = create,
    .prepare = prepare,
    .bind = bind,
    .unbind = unbind,
    .forward = forward,
    .backward = backward,
    .rows_begin = pg_conv_rows_begin,
    .rows_take = pg_conv_rows_take,
    .rows_end = pg_conv_rows_end,
    .destroy = destroy,
};
