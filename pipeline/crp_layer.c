/* Which layer a condition is laid on: found by name, and refused where relevance could pass it by.
 */
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/layers.h"
#include "pipeline/lrp.h"

static bool named(const pg_graph *g, const pg_node *node, const char *name) {
    if (strcmp(node->op->type, "LayoutConvert") == 0) /* ours, under the names of others */
        return false;
    const pg_conv_info *conv = node->conv >= 0 ? &g->convs[node->conv] : NULL;
    const char *names[] = {node->op->node, g->values[node->dst[0]].name, conv ? conv->name : NULL,
                           conv ? conv->output : NULL};
    for (int i = 0; i < 4; i++)
        if (names[i] && strcmp(names[i], name) == 0)
            return true;
    return false;
}

/* A node behind `at` reads a value, made at or before it, that is not its output: relevance that
 * comes by there never sees this layer. */
static const pg_node *path_past(const pg_graph *g, int at, const int *makers) {
    for (int i = at + 1; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].op->n_src; k++) {
            int value = g->nodes[i].src[k], maker = makers[value];
            bool from_input = maker < 0 || g->nodes[maker].on_path;
            if (maker <= at && from_input && value != g->nodes[at].dst[0])
                return &g->nodes[i];
        }
    return NULL;
}

pg_err pg_crp_find(const pg_graph *g, const char *name, pg_crp_layer *out, pg_diag *diag) {
    int at = -1;
    for (int i = 0; at < 0 && i < g->n_nodes; i++)
        if (named(g, &g->nodes[i], name))
            at = i;
    if (at < 0)
        return pg_layers_no_match("crp.layer", name, g->convs, g->n_convs, NULL, diag);
    const pg_node *node = &g->nodes[at];
    const pg_desc *desc = &node->op->dst[0];
    if (node->op->alias || desc->shape.rank < 2 || desc->shape.dims[0] != 1 || !node->on_path)
        return pg_fail(diag, PG_ECONFIG, "crp.layer: '%s' has no channels of its own", name);
    int *makers = pg_malloc((size_t)g->n_values * sizeof *makers);
    if (makers == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory to look at layers");
    pg_graph_makers(g, makers);
    const pg_node *past = path_past(g, at, makers);
    pg_free(makers);
    if (past)
        return pg_fail(diag, PG_ECONFIG,
                       "crp.layer: another path leads past '%s' (to node '%s'); conditions want a "
                       "layer that all relevance passes",
                       name, past->op->node);
    *out = (pg_crp_layer){.node = at,
                          .name = g->values[node->dst[0]].name,
                          .channels = desc->shape.dims[1],
                          .channels_last = desc->layout == PG_CHANNELS_LAST};
    out->positions = pg_shape_count(&desc->shape) / out->channels;
    return PG_OK;
}
