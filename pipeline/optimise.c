/* What exporters write in pieces is put together again: rules, each for a pattern that ends in a
 * node of one type, are tried in order of execution in two passes over the graph. The second pass
 * moves what follows a convolution into it, after the first has seen the nodes as they were.
 *
 * No rule changes what is computed, in either direction, nor z, the convolution's own output, which
 * ParchGrad needs (method.md section 10). */
#include "pipeline/optimise.h"

#include <string.h>

#include "kernels/mem.h"
#include "pipeline/optimise_impl.h"

typedef struct rule_row {
    const char *type;
    pg_rule *rule;
} rule_row;

/* Rows are tried from top to bottom: a node that one of them has made another is seen as that by
 * those below. */
static const rule_row recognise[] = {
    {"Add", pg_rule_scalar_identity},
    {"Sub", pg_rule_scalar_identity},
    {"Mul", pg_rule_scalar_identity},
    {"Div", pg_rule_scalar_identity},
    {"Pow", pg_rule_scalar_identity},
    {"ReduceMean", pg_rule_reduce_mean},
    {"Mul", pg_rule_product},
    {"Div", pg_rule_product},
    {"Div", pg_rule_layer_norm},
    {"Reshape", pg_rule_group_norm},
    {"Mul", pg_rule_norm_affine},
    {"Add", pg_rule_norm_affine},
    {"Transpose", pg_rule_transpose},
    {"Reshape", pg_rule_shuffle},
    {"Reshape", pg_rule_reshape},
    {"Flatten", pg_rule_reshape},
    {"Squeeze", pg_rule_reshape},
    {"Unsqueeze", pg_rule_reshape},
};
static const rule_row into_windows[] = {
    {"Conv", pg_rule_pad},
    {"AveragePool", pg_rule_pad},
    {"BatchNormalization", pg_rule_batch_norm},
    {"BatchNormalization", pg_rule_norm_concat},
    {"Add", pg_rule_affine},
    {"Add", pg_rule_residual},
    {"Relu", pg_rule_activation},
    {"Clip", pg_rule_activation},
    {"Relu", pg_rule_norm_activation},
    {"Clip", pg_rule_norm_activation},
};

static pg_err try_rules(pg_rewriter *r, const rule_row *rows, size_t count, pg_node *node,
                        pg_diag *diag) {
    pg_err err = PG_OK;
    for (size_t i = 0; err == PG_OK && node->op != NULL && i < count; i++)
        if (pg_node_is(node, rows[i].type))
            err = rows[i].rule(r, node, diag);
    return err;
}

static pg_err pass(pg_rewriter *r, const rule_row *rows, size_t count, pg_diag *diag) {
    pg_graph *g = r->graph;
    pg_err err = PG_OK;
    pg_graph_readers(g, r->readers);
    pg_graph_makers(g, r->maker);
    for (int v = 0; v < g->n_values; v++)
        r->stands_for[v] = v;
    for (int i = 0; err == PG_OK && i < g->n_nodes; i++) {
        pg_node *node = &g->nodes[i];
        for (int k = 0; node->op != NULL && k < node->op->n_src; k++)
            node->src[k] = r->stands_for[node->src[k]];
        err = try_rules(r, rows, count, node, diag);
    }
    pg_graph_compact(g);
    return err;
}

/* `marks`: scratch, per value. */
static void remove_dead(pg_graph *g, bool *marks) {
    memset(marks, 0, (size_t)g->n_values * sizeof *marks);
    marks[g->logits] = true;
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        pg_node *node = &g->nodes[i];
        bool live = false;
        for (int k = 0; k < node->op->n_dst; k++)
            live = live || marks[node->dst[k]];
        for (int k = 0; live && k < node->op->n_src; k++)
            marks[node->src[k]] = true;
        if (!live)
            pg_op_destroy(&node->op);
    }
    pg_graph_compact(g);
}

static pg_err mark_path(pg_graph *g, bool *marks, pg_diag *diag) {
    memset(marks, 0, (size_t)g->n_values * sizeof *marks);
    marks[g->input] = true;
    for (int i = 0; i < g->n_nodes; i++) {
        pg_node *node = &g->nodes[i];
        for (int k = 0; k < node->op->n_src; k++)
            node->on_path = node->on_path || marks[node->src[k]];
        for (int k = 0; k < node->op->n_dst; k++)
            marks[node->dst[k]] = node->on_path;
        if (node->conv >= 0)
            g->convs[node->conv].on_path = node->on_path;
    }
    return marks[g->logits]
               ? PG_OK
               : pg_fail(diag, PG_EMODEL, "the output '%s' does not depend on the input",
                         g->values[g->logits].name);
}

static pg_err run(pg_rewriter *r, bool *marks, pg_diag *diag) {
    remove_dead(r->graph, marks);
    pg_err err = pass(r, recognise, sizeof recognise / sizeof recognise[0], diag);
    if (err == PG_OK)
        err = pass(r, into_windows, sizeof into_windows / sizeof into_windows[0], diag);
    return err == PG_OK ? mark_path(r->graph, marks, diag) : err;
}

pg_err pg_optimise(pg_graph *graph, pg_pool *load, bool fuse_add, bool fuse_concat,
                   pg_diag *diag) {
    size_t n = (size_t)graph->n_values;
    pg_rewriter r = {.graph = graph,
                     .fuse_add = fuse_add,
                     .fuse_concat = fuse_concat,
                     .load = load,
                     .readers = pg_malloc(n * sizeof(int)),
                     .maker = pg_malloc(n * sizeof(int)),
                     .stands_for = pg_malloc(n * sizeof(int))};
    bool *marks = pg_malloc(n * sizeof(bool));
    pg_err err = r.readers != NULL && r.maker != NULL && r.stands_for != NULL && marks != NULL
                     ? run(&r, marks, diag)
                     : pg_fail(diag, PG_ENOMEM, "no memory for the model");
    pg_free(r.readers);
    pg_free(r.maker);
    pg_free(r.stands_for);
    pg_free(marks);
    return err;
}
