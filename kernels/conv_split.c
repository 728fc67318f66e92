/* Backward of a convolution with ParchGrad's split (method.md section 2): the gradient at its
 * output in two groups of channels, measured, multiplied by a factor each, and sent on. The ways:
 *
 *   over all channels           finite gamma, or no short way
 *   over the kept ones          the others are dropped: conv_kept.h
 *                               the gradient as an array, or in rows (pg_rows in op.h)
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
    float *factors = pg_conv_at(io, conv->scratch.split + conv->split.low),
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

/* Where the split works: in its part of scratch, or where a gradient in rows is taken. */
static pg_conv_split split_in(const pg_conv_op *conv, char *memory) {
    const pg_split_layout *at = &conv->split;
    double *sums = (double *)(void *)(memory + at->sums);
    return (pg_conv_split){.low_all = (float *)(void *)(memory + at->low_all),
                           .columns = (float *)(void *)(memory + at->columns),
                           .s_high = sums,
                           .s_low = sums + pg_conv_positions(conv),
                           .pick.high = (float *)(void *)(memory + at->high),
                           .pick.low = (float *)(void *)(memory + at->low),
                           .high = 1,
                           .low = 1};
}

static pg_conv_split split_in_scratch(const pg_conv_op *conv, const pg_op_io *io) {
    return split_in(conv, pg_conv_at(io, conv->scratch.split));
}

/* From the sums to what the groups are multiplied by; false: the gradient stays as it is. */
static bool weigh(const pg_conv_op *conv, const pg_op_io *io, pg_conv_split *s) {
    pg_group_moments moments;
    pg_split_moments(pg_conv_positions(conv), s->s_high, s->s_low, &moments);
    s->weighed = io->prune->weigh(io->prune->user, &moments, &s->high, &s->low);
    return s->weighed;
}

/* dL/dy and the sums of its groups, in one pass. */
static const void *split_all(const pg_conv_op *conv, const pg_op_io *io, const pg_conv_split *s) {
    const pg_split_source source = split_source(conv, io);
    float *out = source.dst ? pg_conv_gradient_place(conv, io) : NULL;
    if (conv->bf16) {
        double *by_high = pg_conv_at(io, conv->scratch.weights),
               *by_low = by_high + source.channels;
        pg_bf16_gradient how = pg_conv_rounded(conv, io);
        for (int64_t c = 0; c < source.channels; c++) {
            by_high[c] = (double)s->pick.high[c];
            by_low[c] = (double)s->low_all[c];
        }
        pg_channel_gradient_sums_bf16(source.positions, source.channels, &how, by_high, by_low,
                                      s->s_high, s->s_low);
        return how.out;
    }
    pg_split_all(&source, s->pick.high, s->low_all, out, s->s_high, s->s_low);
    return out ? out : pg_conv_pass_on(conv, io);
}

/* Over all channels: where nothing is to be split after all, bit for bit the plain gradient. */
static pg_err backward_all_groups(const pg_conv_op *conv, const pg_op_io *io) {
    pg_conv_split s = split_in_scratch(conv, io);
    bool split = false;
    for (int64_t c = 0; c < conv->geometry.out_c; c++) {
        bool kept = io->prune->keep[c];
        s.pick.high[c] = kept ? bn_scale(conv, c) : 0.0f;
        s.low_all[c] = kept ? 0.0f : bn_scale(conv, c);
        split |= !kept;
    }
    const void *gradient = split_all(conv, io, &s);
    if (!weigh(conv, io, &s) || !split)
        return pg_conv_backward_all(conv, io, gradient);
    return run_scaled(conv, io, gradient, s.high, s.low);
}

/* ---- some channels ---- */

/* The columns of dL/dy for the short way: channels that are live, or kept. Those that only fill the
 * block up have no weight, here and in the convolution. */
static void pick_columns(const pg_conv_op *conv, const pg_op_io *io, const uint8_t *columns,
                         bool live, pg_split_pick *pick) {
    const pg_conv_state *state = io->state;
    const uint8_t *keep = high_group(io);
    pg_conv_columns chosen = pg_conv_kept_choose(&conv->kept, state->kept, columns);
    pick->width = conv->kept.capacity;
    pick->channel = chosen.channel;
    pick->pitch = live ? io->d_dst_live->width : conv->geometry.out_c;
    bool same = live && pick->width <= pick->pitch; /* what fills up comes from what filled up */
    pick->from = same ? NULL : live ? chosen.from : chosen.channel;
    for (int64_t k = 0; k < pick->width; k++) {
        int64_t c = chosen.channel[k];
        float s = k < chosen.count ? bn_scale(conv, c) : 0.0f;
        pick->high[k] = keep && keep[c] ? s : 0.0f;
        pick->low[k] = s - pick->high[k];
    }
}

static void scale_columns(const pg_conv_op *conv, const pg_conv_split *s) {
    float *factors = s->pick.low; /* not needed any more */
    for (int64_t k = 0; k < s->pick.width; k++)
        factors[k] = s->pick.high[k] != 0.0f ? s->high : s->low;
    if (s->high != 1.0f || s->low != 1.0f)
        pg_channel_affine(pg_conv_positions(conv), s->pick.width, s->columns, factors, NULL,
                          s->columns);
}

static void hand_over(void *user, int64_t first, int64_t count, float *rows) {
    const pg_rows *to = user;
    to->maker->cls->rows_take(to->maker, to->io, first, count, rows);
}

/* d_src from the columns, multiplied by their factors: in rows, if the operator before wants them
 * so, or as an array. */
static pg_err run_columns(const pg_conv_op *conv, const pg_op_io *io, const pg_conv_split *s,
                          const uint8_t *columns, bool lasting) {
    const pg_conv_state *state = io->state;
    pg_rows *to = io->d_src_rows;
    scale_columns(conv, s);
    if (to && to->maker->cls->rows_begin(to->maker, to->io)) {
        pg_err err = pg_conv_kept_feed(&conv->kept, state->kept, s->columns, columns, lasting,
                                       to->others, &(pg_conv_sink){hand_over, to});
        to->taken = !err && to->maker->cls->rows_end(to->maker, to->io);
        if (err || to->taken)
            return err;
    }
    return pg_conv_kept_execute(&conv->kept, state->kept, s->columns, columns, lasting);
}

/* The kept channels as columns, and the weights of the others. */
static pg_conv_split split_kept(const pg_conv_op *conv, const pg_op_io *io, char *memory) {
    pg_conv_split s = split_in(conv, memory);
    pick_columns(conv, io, io->prune->keep, false, &s.pick);
    for (int64_t c = 0; c < conv->geometry.out_c; c++)
        s.low_all[c] = io->prune->keep[c] ? 0.0f : bn_scale(conv, c);
    return s;
}

/* Once the groups are weighed: over the kept channels alone, if it has turned out that the others
 * are dropped. */
static pg_err finish_kept(const pg_conv_op *conv, const pg_op_io *io, const pg_conv_split *s) {
    if (s->weighed && s->low == 0.0f)
        return run_columns(conv, io, s, io->prune->keep, io->prune->lasting);
    bool in_rows = io->d_dst_rows && io->d_dst_rows->taken; /* then a skip has it */
    const void *gradient = in_rows ? io->d_src[1] : pg_conv_gradient(conv, io);
    return s->weighed ? run_scaled(conv, io, gradient, s->high, s->low)
                      : pg_conv_backward_all(conv, io, gradient);
}

/* Who gets dL/dy whole; NULL: nobody. */
static float *skip_of(const pg_conv_op *conv, const pg_op_io *io) {
    return conv->skip ? io->d_src[1] : NULL;
}

static pg_err backward_kept(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_split_source source = split_source(conv, io);
    pg_conv_split s = split_kept(conv, io, pg_conv_at(io, conv->scratch.split));
    if (!source.dst)
        pg_conv_pass_on(conv, io);
    pg_split_keep(&source, s.low_all, &s.pick, source.dst ? skip_of(conv, io) : NULL, s.columns,
                  s.s_high, s.s_low);
    weigh(conv, io, &s);
    return finish_kept(conv, io, &s);
}

/* From a gradient that came with its live channels side by side: those, whatever is kept of them.
 */
static pg_err backward_live(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_live *live = io->d_dst_live;
    const pg_split_source source = split_source(conv, io);
    pg_conv_split s = split_in_scratch(conv, io);
    pick_columns(conv, io, live->keep, true, &s.pick);
    pg_split_live(&source, &s.pick, s.columns, s.s_high, s.s_low);
    if (high_group(io) && !weigh(conv, io, &s))
        s.high = s.low = 1;
    return run_columns(conv, io, &s, live->keep, live->lasting);
}

/* ---- a gradient in rows ---- */

static bool goes_short(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_conv_state *state = io->state;
    return high_group(io) && state->kept && !pg_defect("leak") &&
           pg_conv_kept_pays(&conv->kept, state->kept, io->prune->keep, io->prune->lasting);
}

bool pg_conv_rows_begin(const pg_op *op, const pg_op_io *io) {
    const pg_conv_op *conv = (const pg_conv_op *)op;
    pg_conv_state *state = io->state;
    if (!io->d_src[0] || !goes_short(conv, io))
        return false;
    state->in_rows = split_kept(conv, io, io->d_dst_rows->memory);
    return true;
}

void pg_conv_rows_take(const pg_op *op, const pg_op_io *io, int64_t first, int64_t count,
                       float *rows) {
    const pg_conv_op *conv = (const pg_conv_op *)op;
    const pg_conv_state *state = io->state;
    const pg_conv_split *s = &state->in_rows;
    int64_t at = first * conv->geometry.out_c;
    pg_split_source source = split_source(conv, io);
    float *all = skip_of(conv, io) ? skip_of(conv, io) + at : NULL;
    if (pg_defect("lost-rows") && first == 0)
        memset(rows, 0, (size_t)(count * source.channels) * sizeof *rows);
    source.positions = count;
    source.d_dst = rows;
    if (source.dst)
        source.dst += at;
    else if (all)
        memcpy(all, rows, (size_t)(count * source.channels) * sizeof *rows);
    float *through = all ? all : rows; /* the activation */
    pg_split_keep_here(&source, s->low_all, &s->pick, source.dst ? through : NULL,
                       s->columns + first * s->pick.width, s->s_high + first, s->s_low + first);
}

/* Whoever gives a skip dL/dy has it as an array. */
bool pg_conv_rows_end(const pg_op *op, const pg_op_io *io) {
    const pg_conv_op *conv = (const pg_conv_op *)op;
    pg_conv_state *state = io->state;
    bool dropped = weigh(conv, io, &state->in_rows) && state->in_rows.low == 0.0f;
    return dropped || skip_of(conv, io);
}

pg_err pg_conv_backward_split(const pg_conv_op *conv, const pg_op_io *io) {
    const pg_conv_state *state = io->state;
    if (io->d_dst_rows && io->d_dst_rows->taken)
        return finish_kept(conv, io, &state->in_rows);
    if (io->d_dst_live && io->d_dst_live->keep)
        return backward_live(conv, io);
    if (!high_group(io))
        return pg_conv_backward_all(conv, io, pg_conv_gradient(conv, io));
    return goes_short(conv, io) ? backward_kept(conv, io) : backward_all_groups(conv, io);
}
