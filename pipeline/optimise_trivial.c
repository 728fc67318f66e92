/* Nodes that change nothing, and special cases of one operator that another does faster. */
#include <string.h>

#include "kernels/op_node.h"
#include "pipeline/optimise_impl.h"

/* x + 0, x - 0, x 1, x / 1, x^1. */
pg_err pg_rule_scalar_identity(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    (void)diag;
    bool sum = pg_node_is(node, "Add") || pg_node_is(node, "Sub");
    int x = pg_operand_beside(node, sum ? 0 : 1);
    double c = 0;
    bool exact = x >= 0 && (pg_scalar_input(node, 1, &c) || pg_scalar_input(node, 0, &c)) &&
                 c == (sum ? 0.0 : 1.0);
    if (exact && pg_shape_equal(&r->graph->values[x].shape, &r->graph->values[node->dst[0]].shape))
        pg_bypass(r, node, x);
    return PG_OK;
}

/* The mean over all positions of a channel, with dimensions kept. */
pg_err pg_rule_reduce_mean(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    const pg_shape *from = &node->op->src[0].shape, *to = &node->op->dst[0].shape;
    bool mask[PG_MAX_RANK];
    int count;
    if (from->rank < 3 || from->rank > 4 || to->rank != from->rank ||
        pg_node_axes(node->def, "axes", 1, from->rank, mask, &count, NULL) != PG_OK ||
        count != from->rank - 2 || mask[0] || mask[1])
        return PG_OK;
    pg_replacement with = {.type = "GlobalAveragePool", .x = node->src[0]};
    return pg_replace(r, node, &with, diag);
}
