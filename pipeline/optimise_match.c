/* The matcher and the two ways of changing the graph that all rules use. Readers are counted and
 * kept right throughout: a node whose last reader goes away is destroyed at once, so that a rule
 * never has to name what lies inside its pattern. */
#include <math.h>
#include <string.h>

#include "kernels/op_node.h"
#include "pipeline/optimise_impl.h"

/* ---- the matcher ---- */

bool pg_node_is(const pg_node *node, const char *type) {
    return node != NULL && node->op != NULL && strcmp(node->op->type, type) == 0;
}

pg_node *pg_maker(const pg_rewriter *r, int value) {
    return value < 0 || r->maker[value] < 0 ? NULL : &r->graph->nodes[r->maker[value]];
}

pg_node *pg_maker_for_one(const pg_rewriter *r, int value, const char *type) {
    pg_node *node = pg_maker(r, value);
    bool private = pg_node_is(node, type) && r->readers[value] == 1 && value != r->graph->logits;
    return private ? node : NULL;
}

bool pg_scalar_input(const pg_node *node, int index, double *out) {
    const pg_const *c = pg_node_constant(node->def, index);
    if (c == NULL || pg_shape_count(&c->shape) != 1)
        return false;
    *out = c->dtype == PG_F32 ? (double)c->f[0] : (double)c->i[0];
    return true;
}

bool pg_near(double a, double b) {
    return fabs(a - b) <= 1e-6 * fabs(b);
}

int pg_operand_beside(const pg_node *node, double scalar) {
    double c;
    bool commutes = pg_node_is(node, "Add") || pg_node_is(node, "Mul");
    if (node->op->n_src != 1 || node->def->n_inputs != 2)
        return -1;
    bool found = pg_scalar_input(node, 1, &c) || (commutes && pg_scalar_input(node, 0, &c));
    return found && pg_near(c, scalar) ? node->src[0] : -1;
}

int pg_through(const pg_rewriter *r, int value, const char *type) {
    const pg_node *node = pg_maker_for_one(r, value, type);
    return node != NULL && node->op->n_src == 1 ? node->src[0] : -1;
}

int pg_through_scalar(const pg_rewriter *r, int value, const char *type, double scalar) {
    const pg_node *node = pg_maker_for_one(r, value, type);
    return node != NULL ? pg_operand_beside(node, scalar) : -1;
}

const float *pg_constant_over(const pg_node *node, int index, const pg_shape *shape, int from,
                              int to) {
    const pg_const *c = pg_node_constant(node->def, index);
    if (c == NULL || c->dtype != PG_F32 || c->shape.rank > shape->rank)
        return NULL;
    for (int i = 0; i < shape->rank; i++) { /* aligned at the last axis */
        int k = i - (shape->rank - c->shape.rank);
        int64_t dim = k < 0 ? 1 : c->shape.dims[k];
        if (dim != (i >= from && i < to ? shape->dims[i] : 1))
            return NULL;
    }
    return c->f;
}

static bool clip_bound(const pg_node *node, const char *attr, int input, float *out) {
    double value = 0;
    if (node->def->opset < 11)
        return pg_def_attr(node->def, attr) != NULL &&
               pg_def_float(node->def, attr, 0, out, NULL) == PG_OK;
    bool given = pg_scalar_input(node, input, &value);
    *out = (float)value;
    return given;
}

bool pg_clip_bounds(const pg_node *node, float *lo, float *hi) {
    return clip_bound(node, "min", 1, lo) && clip_bound(node, "max", 2, hi);
}

/* ---- changing the graph ---- */

/* One reader of the value less; without any, its maker goes too, and what only that one read. The
 * depth is that of a pattern. */
static void release(pg_rewriter *r, int value) {
    pg_node *node = pg_maker(r, value);
    r->readers[value]--;
    if (node == NULL || node->op == NULL)
        return;
    for (int k = 0; k < node->op->n_dst; k++)
        if (r->readers[node->dst[k]] > 0 || node->dst[k] == r->graph->logits)
            return;
    int n_src = node->op->n_src;
    pg_op_destroy(&node->op);
    for (int k = 0; k < n_src; k++)
        release(r, node->src[k]);
}

static bool copy_attrs(pg_pool *pool, const pg_replacement *with, pg_attr *out) {
    for (int i = 0; i < with->n_attrs; i++) {
        out[i] = with->attrs[i];
        if (out[i].type != PG_ATTR_INTS)
            continue;
        int64_t *ints = pg_pool_array(pool, out[i].count, sizeof *ints);
        if (ints == NULL)
            return false;
        if (out[i].count > 0)
            memcpy(ints, with->attrs[i].ints, out[i].count * sizeof *ints);
        out[i].ints = ints;
    }
    return true;
}

static pg_op_def *define(pg_rewriter *r, const pg_node *node, const pg_replacement *with) {
    pg_op_def *def = pg_pool_take(r->load, sizeof *def);
    pg_op_input *inputs = pg_pool_array(r->load, 3, sizeof *inputs);
    pg_attr *attrs = pg_pool_array(r->load, (size_t)with->n_attrs, sizeof *attrs);
    if (def == NULL || inputs == NULL || attrs == NULL || !copy_attrs(r->load, with, attrs))
        return NULL;
    *def = (pg_op_def){.node = node->def->node, .type = with->type, .opset = 21, .attrs = attrs,
                       .n_attrs = with->n_attrs, .inputs = inputs, .n_inputs = 1, .n_outputs = 1};
    inputs[0] = (pg_op_input){.present = true, .shape = r->graph->values[with->x].shape};
    for (int k = 0; k < 2; k++) {
        const pg_const *c = with->constants[k];
        if (c == NULL)
            continue;
        inputs[1 + k] = (pg_op_input){.present = true, .constant = c, .shape = c->shape};
        def->n_inputs = 2 + k;
    }
    return def;
}

pg_err pg_replace(pg_rewriter *r, pg_node *node, const pg_replacement *with, pg_diag *diag) {
    struct pg_op *op = NULL;
    pg_diag why;
    pg_assert(node->op->n_dst == 1);
    if (!pg_op_known(with->type))
        return PG_OK;
    pg_op_def *def = define(r, node, with);
    if (def == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    pg_err err = pg_op_create(def, &op, &why);
    if (err != PG_OK)
        return err == PG_EMODEL ? PG_OK : pg_fail(diag, err, "%s", why.text);
    if (op->n_dst != 1 ||
        !pg_shape_equal(&op->dst[0].shape, &r->graph->values[node->dst[0]].shape)) {
        pg_op_destroy(&op);
        return PG_OK;
    }
    int n_src = node->op->n_src;
    r->readers[with->x]++;
    pg_op_destroy(&node->op);
    for (int k = 0; k < n_src; k++)
        release(r, node->src[k]);
    node->op = op;
    node->def = def;
    node->src[0] = with->x;
    return PG_OK;
}

void pg_bypass(pg_rewriter *r, pg_node *node, int value) {
    int out = node->dst[0];
    pg_assert(node->op->n_src == 1 && node->op->n_dst == 1);
    if (out == r->graph->logits)
        return;
    r->stands_for[out] = value;
    r->readers[value] += r->readers[out];
    if (r->graph->watched == out)
        r->graph->watched = value;
    pg_op_destroy(&node->op);
    release(r, node->src[0]);
}

void pg_take_over(pg_rewriter *r, pg_node *into, pg_node *gone) {
    into->dst[0] = gone->dst[0];
    r->maker[into->dst[0]] = (int)(into - r->graph->nodes);
    pg_op_destroy(&gone->op);
}
