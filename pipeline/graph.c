#include "pipeline/graph.h"

#include <limits.h>
#include <string.h>

#include "kernels/mem.h"

void pg_graph_init(pg_graph *graph, pg_pool *pool) {
    *graph = (pg_graph){.pool = pool, .input = -1, .logits = -1, .watched = -1};
}

void pg_graph_clear(pg_graph *graph) {
    for (int i = 0; i < graph->n_nodes; i++)
        pg_op_destroy(&graph->nodes[i].op);
    pg_free(graph->nodes);
    pg_free(graph->values);
    pg_free(graph->convs);
    pg_graph_init(graph, graph->pool);
}

/* Room for one more in an array that doubles. */
static void *make_room(void *array, int count, int *room, size_t size) {
    if (count < *room)
        return array;
    int wanted = *room == 0 ? 64 : *room * 2;
    if (*room > INT_MAX / 4)
        return NULL;
    void *grown = pg_realloc(array, (size_t)wanted * size);
    if (grown != NULL)
        *room = wanted;
    return grown;
}

int pg_graph_add_value(pg_graph *graph, const char *name, const pg_shape *shape) {
    pg_value *values =
        make_room(graph->values, graph->n_values, &graph->value_room, sizeof *values);
    if (values == NULL)
        return -1;
    graph->values = values;
    values[graph->n_values] = (pg_value){.name = name != NULL ? name : "", .shape = *shape};
    return graph->n_values++;
}

pg_conv_info *pg_graph_add_conv(pg_graph *graph) {
    pg_conv_info *convs = make_room(graph->convs, graph->n_convs, &graph->conv_room, sizeof *convs);
    if (convs == NULL)
        return NULL;
    graph->convs = convs;
    convs[graph->n_convs] = (pg_conv_info){0};
    return &convs[graph->n_convs++];
}

bool pg_graph_append(pg_graph *graph, const pg_node *node) {
    pg_node *nodes = make_room(graph->nodes, graph->n_nodes, &graph->node_room, sizeof *nodes);
    if (nodes == NULL)
        return false;
    graph->nodes = nodes;
    nodes[graph->n_nodes++] = *node;
    return true;
}

pg_node *pg_graph_add_node(pg_graph *graph, struct pg_op **op, const pg_op_def *def, const int *src,
                           const char *const *dst_names) {
    int n_src = (*op)->n_src, n_dst = (*op)->n_dst;
    pg_node node = {.def = def, .conv = -1};
    node.src = pg_pool_array(graph->pool, (size_t)n_src, sizeof *node.src);
    node.dst = pg_pool_array(graph->pool, (size_t)n_dst, sizeof *node.dst);
    if (node.src == NULL || node.dst == NULL)
        return NULL;
    if (n_src > 0)
        memcpy(node.src, src, (size_t)n_src * sizeof *src);
    for (int i = 0; i < n_dst; i++) {
        node.dst[i] = pg_graph_add_value(graph, dst_names[i], &(*op)->dst[i].shape);
        if (node.dst[i] < 0)
            return NULL;
    }
    node.op = *op;
    if (!pg_graph_append(graph, &node))
        return NULL;
    *op = NULL;
    return &graph->nodes[graph->n_nodes - 1];
}

void pg_graph_compact(pg_graph *graph) {
    int kept = 0;
    for (int i = 0; i < graph->n_nodes; i++)
        if (graph->nodes[i].op != NULL)
            graph->nodes[kept++] = graph->nodes[i];
    graph->n_nodes = kept;
}

void pg_graph_readers(const pg_graph *graph, int *count) {
    memset(count, 0, (size_t)graph->n_values * sizeof *count);
    for (int i = 0; i < graph->n_nodes; i++) {
        const pg_node *node = &graph->nodes[i];
        for (int k = 0; node->op != NULL && k < node->op->n_src; k++)
            count[node->src[k]]++;
    }
    if (graph->watched >= 0)
        count[graph->watched]++;
}

void pg_graph_makers(const pg_graph *graph, int *maker) {
    for (int v = 0; v < graph->n_values; v++)
        maker[v] = -1;
    for (int i = 0; i < graph->n_nodes; i++) {
        const pg_node *node = &graph->nodes[i];
        for (int k = 0; node->op != NULL && k < node->op->n_dst; k++)
            maker[node->dst[k]] = i;
    }
}
