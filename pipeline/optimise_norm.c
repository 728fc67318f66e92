/* Normalisations in pieces.
 *
 *   LayerNormalization, as torch writes it below opset 17, over trailing axes:
 *       d = x - mean(x);  d / sqrt(mean(d^2) + eps)
 *   GroupNormalization, as torch writes it at any opset:
 *       [1,C,...] -> [1,G,-1] -> InstanceNormalization with scale 1 and bias 0 -> [1,C,...]
 *
 * Both are first made with scale 1 and bias 0; a multiplication by and an addition of constants of
 * the right shape, the learned affine part, then join them one by one. */
#include <string.h>

#include "kernels/op_node.h"
#include "pipeline/optimise_impl.h"

enum { MAX_ELEMENTS = 1 << 20 }; /* of scale and bias: a file must not make us fill memory */

static int64_t extent(const pg_shape *shape, int from, int to) {
    int64_t count = 1;
    for (int i = from; i < to; i++)
        count *= shape->dims[i];
    return count;
}

/* A constant of equal values, shaped as the axes [from, to) of `shape`; NULL: no memory. */
static const pg_const *filled(pg_pool *pool, const pg_shape *shape, int from, int to, float value) {
    pg_const *c = pg_pool_take(pool, sizeof *c);
    if (c == NULL)
        return NULL;
    c->dtype = PG_F32;
    for (int i = from; i < to; i++)
        c->shape.dims[c->shape.rank++] = shape->dims[i];
    int64_t count = pg_shape_count(&c->shape);
    float *values = pg_pool_array(pool, (size_t)count, sizeof *values);
    for (int64_t i = 0; values != NULL && i < count; i++)
        values[i] = value;
    c->f = values;
    return values != NULL ? c : NULL;
}

static pg_err out_of_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

/* ---- layer normalisation ---- */

/* The first of the trailing axes that the node is a mean over, dimensions kept; -1: it is none. */
static int mean_from(const pg_node *node) {
    bool mask[PG_MAX_RANK];
    int64_t keep;
    int count, rank = node->op->src[0].shape.rank, from = rank;
    if (pg_node_axes(node->def, "axes", 1, rank, mask, &count, NULL) != PG_OK || count < 1 ||
        pg_def_int(node->def, "keepdims", 1, &keep, NULL) != PG_OK || keep == 0)
        return -1;
    while (from > 0 && mask[from - 1])
        from--;
    return rank - from == count ? from : -1;
}

/* `value` is x - mean(x), read `readers` times: x and the mean's node. */
static int through_centred(const pg_rewriter *r, int value, int readers, pg_node **mean) {
    const pg_node *sub = pg_maker(r, value);
    if (!pg_node_is(sub, "Sub") || sub->op->n_src != 2 || value == r->graph->logits ||
        r->readers[value] != readers)
        return -1;
    *mean = pg_maker(r, sub->src[1]);
    bool fits = pg_node_is(*mean, "ReduceMean") && (*mean)->src[0] == sub->src[0] &&
                sub->src[1] != r->graph->logits;
    return fits ? sub->src[0] : -1;
}

/* The d of d^2, a power or a product with itself, read only here; `reads`: how often it is read by
 * that. */
static int through_square(const pg_rewriter *r, int value, int *reads) {
    const pg_node *product = pg_maker_for_one(r, value, "Mul");
    *reads = 2;
    if (product != NULL && product->op->n_src == 2 && product->src[0] == product->src[1])
        return product->src[0];
    *reads = 1;
    return pg_through_scalar(r, value, "Pow", 2);
}

typedef struct layer_norm {
    int x, from; /* value; first normalised axis */
    double epsilon;
} layer_norm;

/* sqrt(mean(d^2) + eps) with the d above the fraction bar, or one computed once more. */
static bool match_layer_norm(const pg_rewriter *r, const pg_node *div, layer_norm *out) {
    int reads = 0;
    if (div->op->n_src != 2)
        return false;
    const pg_node *sum = pg_maker_for_one(r, pg_through(r, div->src[1], "Sqrt"), "Add");
    if (sum == NULL || sum->op->n_src != 1 ||
        !(pg_scalar_input(sum, 1, &out->epsilon) || pg_scalar_input(sum, 0, &out->epsilon)))
        return false;
    pg_node *variance = pg_maker_for_one(r, sum->src[0], "ReduceMean"), *mean, *mean_again;
    int above = div->src[0];
    int below = variance != NULL ? through_square(r, variance->src[0], &reads) : -1;
    if (below < 0)
        return false;
    bool once = above == below;
    out->x = through_centred(r, above, once ? 1 + reads : 1, &mean);
    if (out->x < 0 ||
        out->x != through_centred(r, below, once ? 1 + reads : reads, &mean_again))
        return false;
    int subtractions = mean == mean_again && !once ? 2 : 1;
    out->from = mean_from(variance);
    return r->readers[mean->dst[0]] == subtractions &&
           r->readers[mean_again->dst[0]] == subtractions && out->from >= 0 &&
           mean_from(mean) == out->from && mean_from(mean_again) == out->from;
}

pg_err pg_rule_layer_norm(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    layer_norm it;
    if (!match_layer_norm(r, node, &it) || !(it.epsilon > 0) || it.epsilon > 1)
        return PG_OK;
    const pg_shape *shape = &r->graph->values[it.x].shape;
    if (extent(shape, it.from, shape->rank) > MAX_ELEMENTS)
        return PG_OK;
    const pg_attr attrs[] = {
        {.name = "axis", .type = PG_ATTR_INT, .i = it.from},
        {.name = "epsilon", .type = PG_ATTR_FLOAT, .f = (float)it.epsilon},
    };
    pg_replacement with = {.type = "LayerNormalization", .x = it.x, .attrs = attrs, .n_attrs = 2,
                           .constants = {filled(r->load, shape, it.from, shape->rank, 1)}};
    return with.constants[0] != NULL ? pg_replace(r, node, &with, diag) : out_of_memory(diag);
}

/* ---- group normalisation ---- */

static bool all_are(const pg_const *c, float value) {
    bool same = c != NULL && c->dtype == PG_F32;
    for (int64_t i = 0; same && i < pg_shape_count(&c->shape); i++)
        same = c->f[i] == value;
    return same;
}

pg_err pg_rule_group_norm(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    const pg_node *norm = pg_maker_for_one(r, node->src[0], "InstanceNormalization");
    if (norm == NULL || norm->op->n_src != 1 || !all_are(pg_node_constant(norm->def, 1), 1) ||
        !all_are(pg_node_constant(norm->def, 2), 0))
        return PG_OK;
    const pg_shape *grouped = &norm->op->src[0].shape;
    int x = pg_through(r, norm->src[0], "Reshape");
    if (x < 0 || grouped->dims[0] != 1)
        return PG_OK;
    const pg_shape *shape = &r->graph->values[x].shape;
    float epsilon;
    if (shape->rank < 3 || shape->dims[0] != 1 || shape->dims[1] % grouped->dims[1] != 0 ||
        shape->dims[1] > MAX_ELEMENTS ||
        pg_def_float(norm->def, "epsilon", 1e-5f, &epsilon, NULL) != PG_OK)
        return PG_OK;
    const pg_attr attrs[] = {
        {.name = "num_groups", .type = PG_ATTR_INT, .i = grouped->dims[1]},
        {.name = "epsilon", .type = PG_ATTR_FLOAT, .f = epsilon},
    };
    pg_replacement with = {
        .type = "GroupNormalization", .x = x, .attrs = attrs, .n_attrs = 2,
        .constants = {filled(r->load, shape, 1, 2, 1), filled(r->load, shape, 1, 2, 0)}};
    if (with.constants[0] == NULL || with.constants[1] == NULL)
        return out_of_memory(diag);
    return pg_replace(r, node, &with, diag);
}

/* ---- what follows a normalisation ---- */

typedef struct span {
    const pg_node *norm;
    int from, to; /* the axes its scale and bias run over */
} span;

static bool find_norm(const pg_rewriter *r, int value, span *out) {
    int64_t axis;
    const pg_shape *shape = &r->graph->values[value].shape;
    if ((out->norm = pg_maker_for_one(r, value, "LayerNormalization")) != NULL) {
        if (pg_def_int(out->norm->def, "axis", -1, &axis, NULL) != PG_OK)
            return false;
        out->from = (int)(axis < 0 ? axis + shape->rank : axis);
        out->to = shape->rank;
    } else {
        out->norm = pg_maker_for_one(r, value, "GroupNormalization");
        if (out->norm == NULL)
            out->norm = pg_maker_for_one(r, value, "InstanceNormalization");
        out->from = 1;
        out->to = 2;
    }
    return out->norm != NULL && out->norm->op->n_src == 1 && out->norm->op->n_dst == 1;
}

/* scale = scale c (`multiply`) and likewise bias, or bias = bias + c. */
static const pg_const *combine(pg_pool *pool, const pg_const *old, bool multiply, const float *c) {
    pg_const *out = pg_pool_take(pool, sizeof *out);
    int64_t count = pg_shape_count(&old->shape);
    float *values = pg_pool_array(pool, (size_t)count, sizeof *values);
    if (out == NULL || values == NULL)
        return NULL;
    for (int64_t i = 0; i < count; i++)
        values[i] = multiply ? old->f[i] * c[i] : old->f[i] + c[i];
    *out = (pg_const){.dtype = PG_F32, .shape = old->shape, .f = values};
    return out;
}

pg_err pg_rule_norm_affine(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    span s;
    bool multiply = pg_node_is(node, "Mul");
    if (node->op->n_src != 1 || !find_norm(r, node->src[0], &s))
        return PG_OK;
    const pg_shape *shape = &r->graph->values[node->src[0]].shape;
    const float *c = pg_constant_over(node, 1, shape, s.from, s.to);
    if (c == NULL)
        c = pg_constant_over(node, 0, shape, s.from, s.to);
    const pg_const *scale = pg_node_constant(s.norm->def, 1);
    const pg_const *bias = pg_node_constant(s.norm->def, 2);
    int64_t count = extent(shape, s.from, s.to);
    if (c == NULL || count > MAX_ELEMENTS)
        return PG_OK;
    if (bias == NULL && (bias = filled(r->load, shape, s.from, s.to, 0)) == NULL)
        return out_of_memory(diag);
    if (scale == NULL || scale->dtype != PG_F32 || bias->dtype != PG_F32 ||
        pg_shape_count(&scale->shape) != count || pg_shape_count(&bias->shape) != count)
        return PG_OK;
    pg_replacement with = {.type = s.norm->op->type, .x = s.norm->src[0],
                           .attrs = s.norm->def->attrs, .n_attrs = s.norm->def->n_attrs,
                           .constants = {scale, combine(r->load, bias, multiply, c)}};
    if (multiply)
        with.constants[0] = combine(r->load, scale, true, c);
    if (with.constants[0] == NULL || with.constants[1] == NULL)
        return out_of_memory(diag);
    return pg_replace(r, node, &with, diag);
}
