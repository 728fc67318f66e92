/* What stands around a convolution and becomes part of it: padding with zeros before it (and before
 * an average pool), and after it batch normalisation, or multiplication and addition by channel,
 * then the addition of a residual branch, then ReLU or Clip.
 *
 * The node keeps its number and its name, and z stays the output of the file's Conv node: see
 * op_conv.h for how. */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_conv.h"
#include "kernels/op_node.h"
#include "pipeline/optimise_impl.h"

static pg_err out_of_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

/* ---- padding ---- */

/* Pads of the spatial axes, [begins, ends], if the node pads those alone, and with zeros. */
static bool read_zero_pads(const pg_node *pad, int64_t spatial[2 * PG_MAX_RANK]) {
    int64_t pads[PG_NODE_INTS];
    const char *mode;
    float fill = 0;
    double value = 0;
    int count, rank = pad->op->src[0].shape.rank;
    if (pg_def_string(pad->def, "mode", "constant", &mode, NULL) != PG_OK ||
        strcmp(mode, "constant") != 0 || pad->op->n_src != 1 ||
        pg_def_float(pad->def, "value", 0, &fill, NULL) != PG_OK || fill != 0 ||
        pg_node_ints(pad->def, "pads", 1, pads, &count, NULL) != PG_OK || count != 2 * rank ||
        (pg_node_constant(pad->def, 2) != NULL && !pg_scalar_input(pad, 2, &value)) ||
        value != 0 || pg_node_constant(pad->def, 3) != NULL)
        return false;
    for (int i = 0; i < count; i++) {
        if (pads[i] < 0 || (i % rank < 2 && pads[i] != 0))
            return false;
        if (i % rank >= 2)
            spatial[i / rank * (rank - 2) + i % rank - 2] = pads[i];
    }
    return true;
}

/* An average pool that counts its padding: with none of its own, all of it is the Pad node's. */
static bool counts_padding(const pg_node *pool, const int64_t *own, int n) {
    int64_t include, ceil_mode;
    bool none = true;
    for (int i = 0; i < n; i++)
        none = none && own[i] == 0;
    return pg_def_int(pool->def, "count_include_pad", 0, &include, NULL) == PG_OK &&
           pg_def_int(pool->def, "ceil_mode", 0, &ceil_mode, NULL) == PG_OK && ceil_mode == 0 &&
           (none || include != 0);
}

enum { MAX_ATTRS = 16 };

/* The node's attributes with other pads; 0: too many. */
static int with_pads(const pg_node *node, const int64_t *pads, size_t count, bool pool,
                     pg_attr out[MAX_ATTRS]) {
    int n = 0;
    for (int i = 0; i < node->def->n_attrs && n < MAX_ATTRS; i++) {
        const char *name = node->def->attrs[i].name;
        if (strcmp(name, "pads") != 0 && strcmp(name, "auto_pad") != 0 &&
            strcmp(name, "count_include_pad") != 0)
            out[n++] = node->def->attrs[i];
    }
    if (n + 2 > MAX_ATTRS)
        return 0;
    out[n++] = (pg_attr){.name = "pads", .type = PG_ATTR_INTS, .ints = pads, .count = count};
    if (pool)
        out[n++] = (pg_attr){.name = "count_include_pad", .type = PG_ATTR_INT, .i = 1};
    return n;
}

pg_err pg_rule_pad(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    const pg_node *pad = pg_maker_for_one(r, node->src[0], "Pad");
    bool pool = pg_node_is(node, "AveragePool");
    int64_t pads[2 * PG_MAX_RANK], own[2 * PG_MAX_RANK];
    const char *auto_pad;
    int n = 2 * (node->op->src[0].shape.rank - 2);
    if (pad == NULL || node->op->n_src != 1 || !read_zero_pads(pad, pads) ||
        pg_def_string(node->def, "auto_pad", "NOTSET", &auto_pad, NULL) != PG_OK ||
        pg_def_ints(node->def, "pads", n, 0, own, NULL) != PG_OK ||
        strncmp(auto_pad, "SAME", 4) == 0)
        return PG_OK;
    if (strcmp(auto_pad, "VALID") == 0)
        memset(own, 0, sizeof own);
    if (pool && !counts_padding(node, own, n))
        return PG_OK;
    for (int i = 0; i < n; i++)
        pads[i] += own[i];
    pg_attr attrs[MAX_ATTRS];
    pg_replacement with = {.type = node->op->type, .x = pad->src[0], .attrs = attrs,
                           .n_attrs = with_pads(node, pads, (size_t)n, pool, attrs),
                           .constants = {pg_node_constant(node->def, 1),
                                         pg_node_constant(node->def, 2)}};
    return with.n_attrs > 0 ? pg_replace(r, node, &with, diag) : PG_OK;
}

/* ---- batch normalisation ---- */

static const float *channel_input(const pg_op_def *def, int index, int64_t channels) {
    const pg_const *c = pg_node_constant(def, index);
    bool fits = c != NULL && c->dtype == PG_F32 && pg_shape_count(&c->shape) == channels;
    return fits ? c->f : NULL;
}

/* Three arrays of one value per channel, as pg_conv_absorb_batch_norm takes them. */
typedef struct affine {
    float *scale, *shift, *spread;
} affine;

static bool take_affine(affine *a, int64_t channels) {
    a->scale = pg_malloc((size_t)channels * 3 * sizeof *a->scale);
    if (a->scale == NULL)
        return false;
    a->shift = a->scale + channels;
    a->spread = a->shift + channels;
    return true;
}

static pg_node *conv_before(const pg_rewriter *r, const pg_node *node) {
    pg_node *conv = node->op->n_src == 1 ? pg_maker_for_one(r, node->src[0], "Conv") : NULL;
    return conv != NULL && pg_op_is_conv(conv->op) && !conv->has_act ? conv : NULL;
}

pg_err pg_rule_batch_norm(pg_rewriter *r, pg_node *bn, pg_diag *diag) {
    pg_node *conv = conv_before(r, bn);
    if (conv == NULL || conv->has_batch_norm || conv->has_add)
        return PG_OK;
    int64_t channels = conv->op->dst[0].shape.dims[1];
    const float *in[4];
    float epsilon;
    affine a;
    for (int k = 0; k < 4; k++)
        if ((in[k] = channel_input(bn->def, k + 1, channels)) == NULL)
            return PG_OK;
    if (pg_def_float(bn->def, "epsilon", 1e-5f, &epsilon, NULL) != PG_OK)
        return PG_OK;
    if (!take_affine(&a, channels))
        return out_of_memory(diag);
    for (int64_t c = 0; c < channels; c++) {
        double deviation = sqrt((double)in[3][c] + (double)epsilon);
        double s = (double)in[0][c] / deviation;
        a.scale[c] = (float)s;
        a.shift[c] = (float)((double)in[1][c] - (double)in[2][c] * s);
        a.spread[c] = (float)deviation;
    }
    if (pg_conv_absorb_batch_norm(conv->op, a.scale, a.shift, a.spread)) {
        conv->has_batch_norm = true;
        if (conv->conv >= 0)
            r->graph->convs[conv->conv].batch_norm = true;
        pg_take_over(r, conv, bn);
    }
    pg_free(a.scale);
    return PG_OK;
}

/* ---- multiplication and addition by channel ---- */

/* Nothing is known of z's spread here. With uncorrelated inputs of variance 1 it is the norm of the
 * channel's weights; a hundredth of that is taken, so that z stays recoverable where inputs are
 * small. */
static void guess_spread(const pg_const *weights, int64_t channels, float *spread) {
    int64_t n = pg_shape_count(&weights->shape) / channels;
    for (int64_t c = 0; c < channels; c++) {
        double squares = 0;
        for (int64_t i = c * n; i < (c + 1) * n; i++)
            squares += (double)weights->f[i] * (double)weights->f[i];
        spread[c] = (float)(0.01 * sqrt(squares));
    }
}

static const float *by_channel(const pg_node *node) {
    const pg_shape *shape = &node->op->src[0].shape;
    const float *c = NULL;
    if (node->op->n_src == 1 && shape->rank >= 3 &&
        pg_shape_equal(shape, &node->op->dst[0].shape) &&
        (c = pg_constant_over(node, 1, shape, 1, 2)) == NULL)
        c = pg_constant_over(node, 0, shape, 1, 2);
    return c;
}

/* Conv, Add or Conv, Mul, Add: frozen batch normalisation, or a bias beside the convolution. */
pg_err pg_rule_affine(pg_rewriter *r, pg_node *add, pg_diag *diag) {
    const float *shift = by_channel(add), *scale = NULL;
    pg_node *mul = shift != NULL ? pg_maker_for_one(r, add->src[0], "Mul") : NULL;
    if (mul != NULL && (scale = by_channel(mul)) == NULL)
        return PG_OK;
    pg_node *conv = shift != NULL ? conv_before(r, mul != NULL ? mul : add) : NULL;
    const pg_const *weights = conv != NULL ? pg_node_constant(conv->def, 1) : NULL;
    if (weights == NULL || conv->has_batch_norm || conv->has_add)
        return PG_OK;
    int64_t channels = conv->op->dst[0].shape.dims[1];
    affine a;
    if (!take_affine(&a, channels))
        return out_of_memory(diag);
    for (int64_t c = 0; c < channels; c++)
        a.scale[c] = scale != NULL ? scale[c] : 1;
    memcpy(a.shift, shift, (size_t)channels * sizeof *shift);
    guess_spread(weights, channels, a.spread);
    if (pg_conv_absorb_batch_norm(conv->op, a.scale, a.shift, a.spread)) {
        conv->has_batch_norm = true;
        if (mul != NULL)
            pg_take_over(r, conv, mul);
        pg_take_over(r, conv, add);
    }
    pg_free(a.scale);
    return PG_OK;
}

/* ---- addition of another value ---- */

/* The convolution that makes operand k alone for this node, and after the other operand is there:
 * then that one can be its second input. */
static pg_node *conv_after_other(const pg_rewriter *r, const pg_node *add, int k) {
    pg_node *conv = pg_maker_for_one(r, add->src[k], "Conv");
    const pg_node *other = pg_maker(r, add->src[1 - k]);
    bool ready = conv != NULL && (other == NULL || other < conv);
    return ready && pg_op_is_conv(conv->op) && !conv->has_act && !conv->has_add ? conv : NULL;
}

pg_err pg_rule_residual(pg_rewriter *r, pg_node *add, pg_diag *diag) {
    if (!r->fuse_add || add->op->n_src != 2 || add->def->n_inputs != 2 ||
        add->op->dst[0].shape.rank < 3 ||
        !pg_shape_equal(&add->op->src[0].shape, &add->op->src[1].shape))
        return PG_OK;
    int k = 0;
    pg_node *conv = conv_after_other(r, add, k);
    if (conv == NULL)
        conv = conv_after_other(r, add, k = 1);
    if (conv == NULL)
        return PG_OK;
    int *src = pg_pool_array(r->graph->pool, 2, sizeof *src);
    if (src == NULL)
        return out_of_memory(diag);
    if (!pg_conv_absorb_add(conv->op))
        return PG_OK;
    src[0] = conv->src[0];
    src[1] = add->src[1 - k];
    conv->src = src;
    conv->has_add = true;
    pg_take_over(r, conv, add);
    return PG_OK;
}

/* ---- activation ---- */

pg_err pg_rule_activation(pg_rewriter *r, pg_node *act, pg_diag *diag) {
    (void)diag;
    pg_node *conv = conv_before(r, act);
    float lo = 0, hi = 0;
    if (conv == NULL)
        return PG_OK;
    if (pg_node_is(act, "Relu"))
        pg_conv_absorb_activation(conv->op, PG_ACT_RELU, 0, INFINITY);
    else if (pg_clip_bounds(act, &lo, &hi) && isfinite(lo) && isfinite(hi) && lo < hi)
        pg_conv_absorb_activation(conv->op, PG_ACT_CLIP, lo, hi);
    else
        return PG_OK;
    conv->has_act = true;
    pg_take_over(r, conv, act);
    return PG_OK;
}
