/* Layouts, in one pass in order of execution: a value keeps the layout it is made in, and where a
 * reader wants the other one a LayoutConvert node makes a second value, once for all such readers.
 * Where both layouts are the same bytes (one channel, or one position) nothing is converted, and
 * where a Reshape or a Transpose finds its result in place under one of the layouts, nothing runs:
 * the Transpose between [N,C,H,W] channels-last and [N,H,W,C] plain is free in both directions. */
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/plan.h"

typedef struct layouter {
    pg_graph *graph;
    pg_layout *layout; /* per value; room for one conversion of each */
    int *other;        /* per value: the converted one, -1: none yet */
} layouter;

static bool free_choice(const pg_shape *shape) {
    return pg_layout_same_bytes(shape);
}

static int top_rank(const struct pg_op *op) {
    int rank = 0;
    for (int k = 0; k < op->n_src; k++)
        rank = op->src[k].shape.rank > rank ? op->src[k].shape.rank : rank;
    for (int k = 0; k < op->n_dst; k++)
        rank = op->dst[k].shape.rank > rank ? op->dst[k].shape.rank : rank;
    return rank;
}

/* PG_LAYOUTS_SAME: the layout of the inputs that have one; channels-last where they disagree or
 * where it makes no difference. */
static pg_layout common_layout(const layouter *l, const pg_node *node, int rank) {
    bool plain = false;
    for (int k = 0; k < node->op->n_src; k++) {
        const pg_shape *shape = &node->op->src[k].shape;
        if (shape->rank != rank || free_choice(shape))
            continue;
        if (l->layout[node->src[k]] == PG_CHANNELS_LAST)
            return PG_CHANNELS_LAST;
        plain = true;
    }
    return plain || rank < 3 ? PG_PLAIN : PG_CHANNELS_LAST;
}

/* What the node wants of an input that is `made` so, or makes of an output (`made` plain). */
static pg_layout wanted(const pg_node *node, const pg_shape *shape, int rank, pg_layout common,
                        pg_layout made) {
    if (shape->rank < 3)
        return PG_PLAIN;
    switch (node->op->layouts) {
    case PG_LAYOUTS_CHANNELS_LAST:
        return PG_CHANNELS_LAST;
    case PG_LAYOUTS_SAME:
        return shape->rank == rank ? common : PG_PLAIN;
    case PG_LAYOUTS_ANY:
        return made;
    case PG_LAYOUTS_PLAIN:
        break;
    }
    return PG_PLAIN;
}

static pg_err convert(layouter *l, const char *reader, int value, pg_layout to, int *out,
                      pg_diag *diag) {
    pg_graph *g = l->graph;
    *out = l->other[value];
    if (*out >= 0)
        return PG_OK;
    pg_op_input input = {.present = true, .shape = g->values[value].shape};
    pg_op_def def = {.node = reader, .type = "LayoutConvert", .opset = 13, .inputs = &input,
                     .n_inputs = 1, .n_outputs = 1};
    const char *name = g->values[value].name;
    struct pg_op *op = NULL;
    pg_err err = pg_op_create(&def, &op, diag);
    if (err != PG_OK)
        return err;
    op->src[0].layout = l->layout[value];
    op->dst[0].layout = to;
    pg_node *node = pg_graph_add_node(g, &op, NULL, &value, &name);
    if (node == NULL) {
        pg_op_destroy(&op);
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    }
    node->on_path = true; /* every value here is computed from the input */
    *out = node->dst[0];
    l->layout[*out] = to;
    l->other[*out] = value;
    l->other[value] = *out;
    return PG_OK;
}

/* True if the node's result is its input as it lies there, under the layout this gives it. */
static bool finds_in_place(layouter *l, pg_node *node) {
    struct pg_op *op = node->op;
    static const pg_layout layouts[] = {PG_CHANNELS_LAST, PG_PLAIN};
    if (op->cls->same_bytes == NULL)
        return false;
    op->src[0].layout = l->layout[node->src[0]];
    for (int i = 0; i < 2; i++) {
        op->dst[0].layout = layouts[i];
        if ((layouts[i] == PG_PLAIN || op->dst[0].shape.rank >= 3) && op->cls->same_bytes(op)) {
            l->layout[node->dst[0]] = layouts[i];
            op->alias = true;
            return true;
        }
    }
    return false;
}

static pg_err place(layouter *l, pg_node *node, pg_diag *diag) {
    struct pg_op *op = node->op;
    if (finds_in_place(l, node))
        return PG_OK;
    int rank = top_rank(op);
    pg_layout common = common_layout(l, node, rank);
    for (int k = 0; k < op->n_src; k++) {
        op->src[k].layout =
            wanted(node, &op->src[k].shape, rank, common, l->layout[node->src[k]]);
        if (op->src[k].layout == l->layout[node->src[k]] || free_choice(&op->src[k].shape))
            continue;
        pg_err err = convert(l, op->node, node->src[k], op->src[k].layout, &node->src[k], diag);
        if (err != PG_OK)
            return err;
    }
    for (int k = 0; k < op->n_dst; k++) {
        op->dst[k].layout = wanted(node, &op->dst[k].shape, rank, common, PG_PLAIN);
        l->layout[node->dst[k]] = op->dst[k].layout;
    }
    return PG_OK;
}

/* What the input's first reader wants. */
static pg_layout choose_input(const pg_graph *g) {
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].op->n_src; k++)
            if (g->nodes[i].src[k] == g->input)
                return g->nodes[i].op->layouts == PG_LAYOUTS_PLAIN ? PG_PLAIN : PG_CHANNELS_LAST;
    return PG_PLAIN;
}

/* Rebuilds the list of nodes with the conversions in between. What is left in `old` on an error is
 * destroyed here. */
static pg_err rebuild(layouter *l, pg_node *old, int count, pg_diag *diag) {
    pg_err err = PG_OK;
    int i = 0;
    for (; i < count && err == PG_OK; i++) {
        err = place(l, &old[i], diag);
        if (err == PG_OK && !pg_graph_append(l->graph, &old[i]))
            err = pg_fail(diag, PG_ENOMEM, "no memory for the model");
        if (err != PG_OK)
            break;
    }
    for (; i < count; i++)
        pg_op_destroy(&old[i].op);
    pg_free(old);
    return err;
}

pg_err pg_plan_layouts(pg_graph *graph, pg_layout *input_layout, pg_layout *output_layout,
                       pg_diag *diag) {
    size_t room = (size_t)graph->n_values * 2;
    layouter l = {.graph = graph, .layout = pg_calloc(room, sizeof *l.layout),
                  .other = pg_malloc(room * sizeof *l.other)};
    pg_err err = PG_ENOMEM;
    if (l.layout == NULL || l.other == NULL) {
        pg_fail(diag, PG_ENOMEM, "no memory for the model");
    } else {
        for (size_t v = 0; v < room; v++)
            l.other[v] = -1;
        *input_layout = l.layout[graph->input] = choose_input(graph);
        pg_node *old = graph->nodes;
        int count = graph->n_nodes;
        graph->nodes = NULL;
        graph->n_nodes = graph->node_room = 0;
        err = rebuild(&l, old, count, diag);
        *output_layout = l.layout[graph->logits];
    }
    pg_free(l.layout);
    pg_free(l.other);
    return err;
}
