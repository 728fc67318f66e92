/* Inside of the convolution operator: what op_conv.c (its life, forward and backward),
 * conv_absorb.c (what it takes over from its neighbours) and conv_split.c (backward with
 * ParchGrad's split) share. */
#ifndef PG_KERNELS_OP_CONV_IMPL_H
#define PG_KERNELS_OP_CONV_IMPL_H

#include <math.h>
#include <string.h>

#include "kernels/channel_bf16.h"
#include "kernels/channel_ops.h"
#include "kernels/channel_split.h"
#include "kernels/conv_kept.h"
#include "kernels/conv_path.h"
#include "kernels/op_conv.h"

/* Where a split works, in bytes from the beginning of a memory of its own. */
typedef struct pg_split_layout {
    size_t low_all;   /* float [out_c]: weights in S_L, of all channels */
    size_t high, low; /* float [out_c]: of picked ones, in both; low: factors too */
    size_t sums;      /* double [2, positions]: S_H, S_L */
    size_t columns;   /* float [positions, kept.capacity] */
    size_t end;
} pg_split_layout;

/* Where in scratch backward keeps what, in bytes. */
typedef struct pg_conv_layout {
    size_t gradient; /* float or pg_bf16 [positions, out_c]: dL/dy */
    size_t split;
    size_t weights; /* double [2, out_c]: both groups' where gradients are rounded to bfloat16 */
    size_t path;    /* that of the way the gradient then takes, all channels or the kept ones */
    size_t end;
} pg_conv_layout;

typedef struct pg_conv_op {
    pg_op op;
    pg_conv_geometry geometry;
    const pg_const *weights, *bias; /* until prepare */
    float *bn_scale, *bn_shift;     /* [out_c] s and t, both NULL: none absorbed */
    pg_act act;
    float lo, hi;
    bool skip; /* src[1] is added before the activation */
    bool want_gap, library_only;
    bool zeros; /* many in the input */
    bool bf16;                      /* backward multiplies bfloat16 */
    struct pg_conv_tuner *tuner;    /* until prepare; NULL: none */
    int64_t most_kept;              /* 0: nothing is dropped */
    float *gap_shift, *gap_inverse; /* [out_c] t and 1/s, if want_gap; NULL: 0, 1 */
    pg_conv_path forward, backward;
    pg_conv_kept kept;
    pg_split_layout split;
    pg_conv_layout scratch;
    char impl[3 * PG_CONV_IMPL_MAX + 64];
} pg_conv_op;

/* A split under way. */
typedef struct pg_conv_split {
    float *low_all, *columns; /* as in pg_split_layout */
    double *s_high, *s_low;   /* [positions] each */
    pg_split_pick pick;
    float high, low; /* what the groups are multiplied by */
    bool weighed;    /* false: they stay as they are */
} pg_conv_split;

typedef struct pg_conv_state {
    pg_conv_run forward;
    pg_conv_run backward;     /* reads d_dst, or where dL/dy was made */
    pg_conv_kept_state *kept; /* NULL: all channels always */
    pg_conv_split in_rows;    /* of a gradient that comes in rows */
    float *gap;               /* [out_c], if wanted */
} pg_conv_state;

static inline int64_t pg_conv_positions(const pg_conv_op *conv) {
    return conv->geometry.out_h * conv->geometry.out_w;
}

static inline pg_act_range pg_conv_range(const pg_conv_op *conv) {
    return pg_act_range_of(conv->act, conv->lo, conv->hi);
}

static inline void *pg_conv_at(const pg_op_io *io, size_t offset) {
    return (char *)io->scratch + offset;
}

/* Where dL/dy is made: for the skip, if that has a gradient, else in scratch. */
static inline float *pg_conv_gradient_place(const pg_conv_op *conv, const pg_op_io *io) {
    return conv->skip && io->d_src[1] ? io->d_src[1] : pg_conv_at(io, conv->scratch.gradient);
}

/* dL/dy without an activation: the output's gradient itself, of which a skip wants a copy. */
static inline const float *pg_conv_pass_on(const pg_conv_op *conv, const pg_op_io *io) {
    size_t bytes = (size_t)(pg_conv_positions(conv) * conv->geometry.out_c) * sizeof(float);
    if (conv->skip && io->d_src[1] && io->d_src[1] != io->d_dst[0])
        memcpy(io->d_src[1], io->d_dst[0], bytes);
    return io->d_dst[0];
}

/* What is multiplied with bfloat16 is rounded in scratch; the skip gets it as it is. */
static inline pg_bf16_gradient pg_conv_rounded(const pg_conv_op *conv, const pg_op_io *io) {
    return (pg_bf16_gradient){.d_dst = io->d_dst[0],
                              .dst = conv->act == PG_ACT_NONE ? NULL : io->dst[0],
                              .act = pg_conv_range(conv),
                              .out = pg_conv_at(io, conv->scratch.gradient),
                              .skip = conv->skip ? io->d_src[1] : NULL};
}

/* conv_absorb.c: weights and bias with the batch normalisation inside, s W and s b + t, in double;
 * allocated. False: no memory, and what was allocated stands in the pointers. */
bool pg_conv_fold(const pg_conv_op *conv, float **weights, float **bias);

/* op_conv.c: dL/dy, the output's gradient or what the activation lets through of it, in float or as
 * the backward path wants it; and d_src from it over all channels. */
const void *pg_conv_gradient(const pg_conv_op *conv, const pg_op_io *io);
pg_err pg_conv_backward_all(const pg_conv_op *conv, const pg_op_io *io, const void *gradient);

/* conv_split.c: d_src from dL/dy split as io->prune says, or from a gradient that comes with its
 * live channels side by side, or that has come in rows; and the three for those (op.h). */
pg_err pg_conv_backward_split(const pg_conv_op *conv, const pg_op_io *io);
bool pg_conv_rows_begin(const pg_op *op, const pg_op_io *io);
void pg_conv_rows_take(const pg_op *op, const pg_op_io *io, int64_t first, int64_t count,
                       float *rows);
bool pg_conv_rows_end(const pg_op *op, const pg_op_io *io);

#endif
