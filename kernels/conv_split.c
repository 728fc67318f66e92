/* Backward of a convolution with ParchGrad's split (method.md section 2): the gradient at its
 * output in two groups of channels, measured, multiplied by a factor each, and sent on. Three ways:
 *
 *   over all channels           finite gamma, or no short way
 *   over the kept ones          the others are dropped: conv_kept.h
 *   over the live ones          the gradient came with those that are not zero side by side
 *
 * A skip gets dL/dy whole. Where nothing is to be split after all the result is bit for bit the
 * plain gradient. */
#include "kernels/channel_split.h"
#include "kernels/defect.h"
#include "kernels/op_conv_impl.h"

#include <string.h>

/* The same with the groups of dL/dy multiplied by high and low. */
static pg_err run_scaled(const pg_conv_op *conv, const pg_op_io *io, const void *gradient,
                         float high, float low) {
    int64_t channels = conv->geometry.out_c, positions = pg_conv_positions(conv);
    float *factors = pg_conv_at(io, conv->scratch.low),
          *out = pg_conv_at(io, conv->scratch.gradient);
    for (int64_t c = 0; c < channels; c++)
        factors[c] = io->prune->keep[c] ? high : low;
    if (conv->bf16) {
        pg_channel_scale_bf16(positions, channels, factors, pg_conv_at(io, conv->scratch.gradient));
        return pg_conv_backward_all(conv, io, gradient);
    }
    pg_channel_affine(positions, channels, gradient, factors, NULL, out);
    if (pg_defect("leak"))
        memcpy(conv->skip ? io->d_src[1] : (float *)io->d_dst[0], out,
               (size_t)(positions * channels) * sizeof *out);
    return pg_conv_backward_all(conv, io, out);
}

static pg_split_source split_source(const pg_conv_op *conv, const pg_op_io *io) {
    return (pg_split_source){.positions = pg_conv_positions(conv),
                             .channels = conv->geometry.out_c,
                             .d_dst = io->d_dst[0],
                             .dst = conv->act == PG_ACT_NONE ? NULL : io->dst[0],
                             .act = pg_conv_range(conv)};
}

/* G_c = s dL/dy_c */
static float bn_scale(const pg_conv_op *conv, int64_t channel) {
    return conv->bn_scale && !pg_defect("no-bn-scale") ? conv->bn_scale[channel] : 1.0f;
}

/* [out_c] the channels in H; NULL: no split here. */
static const uint8_t *high_group(const pg_op_io *io) { return io->prune ? io->prune->keep : NULL; }

/* From the sums to what the groups are multiplied by; false: the gradient stays as it is. */
static bool weigh(const pg_conv_op *conv, const pg_op_io *io, float *high, float *low) {
    const double *s_high = pg_conv_at(io, conv->scratch.sums),
                 *s_low = s_high + pg_conv_positions(conv);
    pg_group_moments moments;
    pg_split_moments(pg_conv_positions(conv), s_high, s_low, &moments);
    return io->prune->weigh(io->prune->user, &moments, high, low);
}

/* dL/dy and the sums of its groups, in one pass. */
static const void *split_all(const pg_conv_op *conv, const pg_op_io *io, const float *scale,
                             const float *high) {
    const pg_split_source source = split_source(conv, io);
    float *out = source.dst ? pg_conv_gradient_place(conv, io) : NULL;
    double *s_high = pg_conv_at(io, conv->scratch.sums), *s_low = s_high + source.positions;
    if (conv->bf16) {
        double *by_high = pg_conv_at(io, conv->scratch.weights),
               *by_low = by_high + source.channels;
        pg_bf16_gradient how = pg_conv_rounded(conv, io);
        for (int64_t c = 0; c < source.channels; c++) {
            by_high[c] = (double)high[c];
            by_low[c] = (double)scale[c] - (double)high[c];
        }
        pg_channel_gradient_sums_bf16(source.positions, source.channels, &how, by_high, by_low,
                                      s_high, s_low);
        return how.out;
    }
    pg_split_all(&source, scale, high, out, s_high, s_low);
    return out ? out : pg_conv_pass_on(conv, io);
}

/* Over all channels: where nothing is to be split after all, bit for bit the plain gradient. */
static pg_err backward_all_groups(const pg_conv_op *conv, const pg_op_io *io) {
    float *scale = pg_conv_at(io, conv->scratch.scale), *high = pg_conv_at(io, conv->scratch.high);
    float by_high = 1, by_low = 1;
    bool split = false;
    for (int64_t c = 0; c < conv->geometry.out_c; c++) {
        scale[c] = bn_scale(conv, c);
        high[c] = io->prune->keep[c] ? scale[c] : 0.0f;
        split |= !io->prune->keep[c];
    }
    const void *gradient = split_all(conv, io, scale, high);
    if (!weigh(conv, io, &by_high, &by_low) || !split)
        return pg_conv_backward_all(conv, io, gradient);
    return run_scaled(conv, io, gradient, by_high, by_low);
}

/* The columns of dL/dy for the short way: channels that are live, or kept. Those that only fill the
 * block up have no weight, here and in the convolution. */
static pg_split_pick pick_columns(const pg_conv_op *conv, const pg_op_io *io,
                                  const uint8_t *columns, bool live) {
    const pg_conv_state *state = io->state;
    const uint8_t *keep = high_group(io);
    float *high = pg_conv_at(io, conv->scratch.high), *low = pg_conv_at(io, conv->scratch.low);
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
static pg_err run_columns(const pg_conv_op *conv, const pg_op_io *io, const pg_split_pick *pick,
                          float high, float low, const uint8_t *columns, bool lasting) {
    const pg_conv_state *state = io->state;
    float *factors = pg_conv_at(io, conv->scratch.low),
          *x = pg_conv_kept_gradient(&conv->kept, state->kept);
    for (int64_t k = 0; k < pick->width; k++)
        factors[k] = pick->high[k] != 0.0f ? high : low;
    if (high != 1.0f || low != 1.0f)
        pg_channel_affine(pg_conv_positions(conv), pick->width, x, factors, NULL, x);
    return pg_conv_kept_execute(&conv->kept, state->kept, columns, lasting);
}

/* Over the kept channels alone, if it turns out that the others are dropped. */
static pg_err backward_kept(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_conv_prune *prune = io->prune;
    const pg_conv_state *state = io->state;
    const pg_split_source source = split_source(conv, io);
    float *all = conv->skip ? io->d_src[1] : NULL; /* a skip gets dL/dy whole */
    if (all && !source.dst)
        pg_conv_pass_on(conv, io);
    float *scale = pg_conv_at(io, conv->scratch.scale), high = 1, low = 1;
    double *s_high = pg_conv_at(io, conv->scratch.sums), *s_low = s_high + source.positions;
    const pg_split_pick pick = pick_columns(conv, io, prune->keep, false);
    for (int64_t c = 0; c < source.channels; c++)
        scale[c] = bn_scale(conv, c);
    pg_split_keep(&source, scale, &pick, source.dst ? all : NULL,
                  pg_conv_kept_gradient(&conv->kept, state->kept), s_high, s_low);
    if (!weigh(conv, io, &high, &low))
        return pg_conv_backward_all(conv, io, pg_conv_gradient(conv, io));
    if (low != 0.0f)
        return run_scaled(conv, io, pg_conv_gradient(conv, io), high, low);
    return run_columns(conv, io, &pick, high, low, prune->keep, prune->lasting);
}

/* From a gradient that came with its live channels side by side: those, whatever is kept of them.
 */
static pg_err backward_live(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_live *live = io->d_dst_live;
    const pg_conv_state *state = io->state;
    const pg_split_source source = split_source(conv, io);
    float high = 1, low = 1;
    double *s_high = pg_conv_at(io, conv->scratch.sums), *s_low = s_high + source.positions;
    const pg_split_pick pick = pick_columns(conv, io, live->keep, true);
    pg_split_live(&source, &pick, pg_conv_kept_gradient(&conv->kept, state->kept), s_high, s_low);
    if (high_group(io) && !weigh(conv, io, &high, &low))
        high = low = 1;
    return run_columns(conv, io, &pick, high, low, live->keep, live->lasting);
}

pg_err pg_conv_backward_split(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_conv_state *state = io->state;
    if (io->d_dst_live && io->d_dst_live->keep)
        return backward_live(conv, io);
    if (!high_group(io))
        return pg_conv_backward_all(conv, io, pg_conv_gradient(conv, io));
    if (state->kept && !pg_defect("leak") &&
        pg_conv_kept_pays(&conv->kept, state->kept, io->prune->keep, io->prune->lasting))
        return backward_kept(conv, io);
    return backward_all_groups(conv, io);
}
