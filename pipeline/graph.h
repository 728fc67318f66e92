/* The graph between import and plan: values and the nodes that make them, in order of execution.
 * Everything known at load is gone from it; every value here is computed per frame. */
#ifndef PG_PIPELINE_GRAPH_H
#define PG_PIPELINE_GRAPH_H

#include "kernels/op.h"
#include "pipeline/model.h"
#include "pipeline/pool.h"

typedef struct pg_value {
    const char *name;
    pg_shape shape;
} pg_value;

typedef struct pg_node {
    struct pg_op *op;     /* owned; NULL: removed, until the next compaction */
    const pg_op_def *def; /* what the file said; in the load pool, NULL after prepare */
    int *src, *dst;       /* value numbers, as op->src and op->dst; in the graph's pool */
    int conv;             /* number of the convolution (pg_conv_info), -1: none */
    bool has_batch_norm, has_act; /* already absorbed (also: a scale and shift by channel) */
    bool has_add;         /* the same of a residual addition */
    bool on_path;         /* depends on the input (and everything here leads to the logits) */
} pg_node;

typedef struct pg_graph {
    pg_pool *pool; /* borrowed; names and value lists */
    pg_value *values;
    pg_node *nodes;
    pg_conv_info *convs;
    int n_values, n_nodes, n_convs;
    int value_room, node_room, conv_room;
    int input, logits; /* value numbers */
    int watched;       /* value that methods look at in the middle (watch.h), -1: none */
} pg_graph;

void pg_graph_init(pg_graph *graph, pg_pool *pool);
void pg_graph_clear(pg_graph *graph); /* destroys the operators too */

/* Adds a value and returns its number, -1 if memory is out. `name` is borrowed from the pool. */
int pg_graph_add_value(pg_graph *graph, const char *name, const pg_shape *shape);

/* Appends a node and takes the operator. `src` are value numbers [op->n_src]; values are added for
 * op->dst with the given names [op->n_dst] (NULL: unnamed). NULL if memory is out, and then *op is
 * still the caller's. */
pg_node *pg_graph_add_node(pg_graph *graph, struct pg_op **op, const pg_op_def *def, const int *src,
                           const char *const *dst_names);

/* Appends a node as it is; false if memory is out, and then its operator is still the caller's. */
bool pg_graph_append(pg_graph *graph, const pg_node *node);

/* Appends an empty convolution record; NULL if memory is out. */
pg_conv_info *pg_graph_add_conv(pg_graph *graph);

/* Removes nodes whose operator is NULL, keeping the order. */
void pg_graph_compact(pg_graph *graph);

/* For every value how many node inputs read it; the watched one has a reader more, so that no rule
 * makes it disappear. */
void pg_graph_readers(const pg_graph *graph, int *count);

/* For every value the node that makes it, -1: the input. */
void pg_graph_makers(const pg_graph *graph, int *maker);

#endif
