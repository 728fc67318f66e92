/* Nodes that only move elements or rename axes.
 *
 *   Transpose of a Transpose    one of them, or none
 *   Transpose of axes of size 1 a Reshape: no copy
 *   Reshape of a Reshape        one of them (Flatten, Squeeze and Unsqueeze count as Reshape)
 *   no change at all            nothing
 *   Reshape, Transpose, Reshape as pixel shuffles and channel shuffles are written:
 *                               DepthToSpace, SpaceToDepth, or Gather over the channels, none of
 *                               which leaves the channels-last layout
 *
 * Whether a Transpose that is left moves any bytes is for the planner to see (plan_layout.c). */
#include <string.h>

#include "kernels/op_node.h"
#include "pipeline/optimise_impl.h"

static bool read_perm(const pg_node *node, int64_t perm[PG_MAX_RANK]) {
    int rank = node->op->src[0].shape.rank;
    bool given = pg_def_attr(node->def, "perm") != NULL;
    for (int i = 0; i < rank; i++)
        perm[i] = rank - 1 - i;
    return !given || pg_def_ints(node->def, "perm", rank, 0, perm, NULL) == PG_OK;
}

/* True if the axes that are longer than 1 keep their order. */
static bool moves_nothing(const int64_t *perm, const pg_shape *src) {
    int64_t last = -1;
    for (int i = 0; i < src->rank; i++) {
        if (src->dims[perm[i]] == 1)
            continue;
        if (perm[i] < last)
            return false;
        last = perm[i];
    }
    return true;
}

/* A constant list of integers for a definition. */
static pg_const *list(pg_pool *pool, const int64_t *values, int64_t count) {
    pg_const *c = pg_pool_take(pool, sizeof *c);
    int64_t *copy = pg_pool_array(pool, (size_t)count, sizeof *copy);
    if (c == NULL || copy == NULL)
        return NULL;
    if (count > 0)
        memcpy(copy, values, (size_t)count * sizeof *copy);
    *c = (pg_const){.dtype = PG_I64, .shape = {.rank = 1, .dims = {count}}, .i = copy};
    return c;
}

/* `node` only renames what `x` holds. */
static pg_err rename_only(pg_rewriter *r, pg_node *node, int x, pg_diag *diag) {
    const pg_shape *to = &r->graph->values[node->dst[0]].shape;
    if (pg_shape_equal(&r->graph->values[x].shape, to) && node->dst[0] != r->graph->logits) {
        pg_bypass(r, node, x);
        return PG_OK;
    }
    if (node->src[0] == x && node->op->alias)
        return PG_OK;
    pg_replacement with = {.type = "Reshape", .x = x,
                           .constants = {list(r->load, to->dims, to->rank)}};
    return with.constants[0] != NULL ? pg_replace(r, node, &with, diag)
                                     : pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

/* ---- transpose ---- */

pg_err pg_rule_transpose(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    int64_t perm[PG_MAX_RANK], first[PG_MAX_RANK];
    const pg_node *before = pg_maker(r, node->src[0]);
    int x = node->src[0], rank = node->op->src[0].shape.rank;
    if (!read_perm(node, perm))
        return PG_OK;
    if (pg_node_is(before, "Transpose") && read_perm(before, first)) {
        x = before->src[0];
        for (int i = 0; i < rank; i++)
            perm[i] = first[perm[i]];
    }
    const pg_shape *from = &r->graph->values[x].shape;
    if (moves_nothing(perm, from))
        return rename_only(r, node, x, diag);
    if (x == node->src[0] || pg_maker_for_one(r, node->src[0], "Transpose") == NULL)
        return PG_OK;
    const pg_attr attrs[] = {
        {.name = "perm", .type = PG_ATTR_INTS, .ints = perm, .count = (size_t)rank}};
    pg_replacement with = {.type = "Transpose", .x = x, .attrs = attrs, .n_attrs = 1};
    return pg_replace(r, node, &with, diag);
}

/* ---- reshape ---- */

static bool is_reshape(const pg_node *node) {
    return pg_node_is(node, "Reshape") || pg_node_is(node, "Flatten") ||
           pg_node_is(node, "Squeeze") || pg_node_is(node, "Unsqueeze");
}

pg_err pg_rule_reshape(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    const pg_node *before = pg_maker(r, node->src[0]);
    return rename_only(r, node, is_reshape(before) ? before->src[0] : node->src[0], diag);
}

/* ---- shuffles: Reshape, Transpose, Reshape ---- */

typedef struct shuffle {
    int x;
    const pg_shape *from, *middle, *to; /* of x, before the transpose, of the result */
    int64_t perm[PG_MAX_RANK];
} shuffle;

static bool match_shuffle(const pg_rewriter *r, const pg_node *node, shuffle *s) {
    const pg_node *transpose = pg_maker_for_one(r, node->src[0], "Transpose");
    if (transpose == NULL || !read_perm(transpose, s->perm))
        return false;
    s->x = pg_through(r, transpose->src[0], "Reshape");
    if (s->x < 0)
        return false;
    s->from = &r->graph->values[s->x].shape;
    s->middle = &transpose->op->src[0].shape;
    s->to = &r->graph->values[node->dst[0]].shape;
    return s->from->rank >= 3 && s->from->dims[0] == 1 && s->middle->dims[0] == 1;
}

static bool perm_is(const shuffle *s, int rank, const int64_t *perm) {
    return s->middle->rank == rank &&
           memcmp(s->perm, perm, (size_t)rank * sizeof *perm) == 0;
}

/* [1,C,...] -> [1,g,C/g,...] -> [1,C/g,g,...] -> [1,C,...] */
static bool is_channel_shuffle(const shuffle *s) {
    const pg_shape *from = s->from, *middle = s->middle;
    bool fits = middle->rank == from->rank + 1 && pg_shape_equal(from, s->to) &&
                middle->dims[1] * middle->dims[2] == from->dims[1] && s->perm[1] == 2 &&
                s->perm[2] == 1;
    for (int i = 2; fits && i < from->rank; i++)
        fits = middle->dims[i + 1] == from->dims[i] && s->perm[i + 1] == i + 1;
    return fits && s->perm[0] == 0;
}

static pg_err make_channel_shuffle(pg_rewriter *r, pg_node *node, const shuffle *s,
                                   pg_diag *diag) {
    int64_t groups = s->middle->dims[1], size = s->middle->dims[2];
    pg_const *source = list(r->load, NULL, 0);
    int64_t *index = pg_pool_array(r->load, (size_t)(groups * size), sizeof *index);
    if (source == NULL || index == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    for (int64_t k = 0; k < groups * size; k++) /* result channel k: member k / g of group k % g */
        index[k] = k % groups * size + k / groups;
    source->shape.dims[0] = groups * size;
    source->i = index;
    const pg_attr attrs[] = {{.name = "axis", .type = PG_ATTR_INT, .i = 1}};
    pg_replacement with = {.type = "Gather", .x = s->x, .constants = {source}, .attrs = attrs,
                           .n_attrs = 1};
    return pg_replace(r, node, &with, diag);
}

static pg_err make_block_op(pg_rewriter *r, pg_node *node, const shuffle *s, const char *type,
                            const char *mode, int64_t block, pg_diag *diag) {
    const pg_attr attrs[] = {
        {.name = "blocksize", .type = PG_ATTR_INT, .i = block},
        {.name = "mode", .type = PG_ATTR_STRING, .s = mode},
    };
    pg_replacement with = {.type = type, .x = s->x, .attrs = attrs,
                           .n_attrs = mode != NULL ? 2 : 1};
    return pg_replace(r, node, &with, diag);
}

static bool shape_is(const pg_shape *shape, const int64_t *dims) {
    return memcmp(shape->dims, dims, (size_t)shape->rank * sizeof *dims) == 0;
}

/* The three ways of the ONNX specification, with block b and s->from [1,C,H,W]. */
static pg_err try_block_ops(pg_rewriter *r, pg_node *node, const shuffle *s, pg_diag *diag) {
    const int64_t *m = s->middle->dims, c = s->from->dims[1], h = s->from->dims[2],
                  w = s->from->dims[3];
    int64_t b = perm_is(s, 6, (int64_t[]){0, 3, 4, 1, 5, 2}) ? m[1]
                : perm_is(s, 6, (int64_t[]){0, 1, 4, 2, 5, 3}) ? m[2]
                : perm_is(s, 6, (int64_t[]){0, 3, 5, 1, 2, 4}) ? m[3]
                                                               : 0;
    if (b < 2 || s->to->rank != 4)
        return PG_OK;
    if (s->perm[1] == 3 && s->perm[2] == 4) {
        if (shape_is(s->middle, (int64_t[]){1, b, b, c / (b * b), h, w}) &&
            shape_is(s->to, (int64_t[]){1, c / (b * b), h * b, w * b}))
            return make_block_op(r, node, s, "DepthToSpace", "DCR", b, diag);
    } else if (s->perm[1] == 1) {
        if (shape_is(s->middle, (int64_t[]){1, c / (b * b), b, b, h, w}) &&
            shape_is(s->to, (int64_t[]){1, c / (b * b), h * b, w * b}))
            return make_block_op(r, node, s, "DepthToSpace", "CRD", b, diag);
    } else if (shape_is(s->middle, (int64_t[]){1, c, h / b, b, w / b, b}) &&
               shape_is(s->to, (int64_t[]){1, c * b * b, h / b, w / b})) {
        return make_block_op(r, node, s, "SpaceToDepth", NULL, b, diag);
    }
    return PG_OK;
}

pg_err pg_rule_shuffle(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    shuffle s;
    if (!match_shuffle(r, node, &s))
        return PG_OK;
    if (is_channel_shuffle(&s))
        return make_channel_shuffle(r, node, &s, diag);
    return s.from->rank == 4 && s.middle->rank == 6 ? try_block_ops(r, node, &s, diag) : PG_OK;
}
