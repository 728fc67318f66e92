/* The memory plan of a session: where every value, gradient and scrap lies in one arena.
 *
 * Time is counted in steps: node i runs forward at step i and backward at step 2n - 1 - i. A buffer
 * lives from its first write to its last read, and two buffers may share bytes if their lives do
 * not meet. What backward reads stays alive to the end, so backward may be repeated.
 *
 * Values joined by alias operators (Reshape and the like) are one buffer with one gradient.
 */
#ifndef PG_PIPELINE_PLAN_H
#define PG_PIPELINE_PLAN_H

#include "pipeline/graph.h"

#define PG_NOWHERE SIZE_MAX

/* What happens to one input's gradient contribution. */
typedef struct pg_contribution {
    size_t to;  /* where backward writes it: the gradient itself, or a scrap; PG_NOWHERE: nobody
                   wants it */
    size_t add; /* the gradient the scrap is then added to; PG_NOWHERE: it was written directly */
    bool onto;  /* the operator itself adds to what is at `to` */
    int64_t count;
} pg_contribution;

typedef struct pg_node_plan {
    size_t *src, *dst, *d_dst;  /* byte offsets, as op->src and op->dst */
    bool *d_dst_zero;           /* nothing flows back here: cleared before each backward */
    pg_contribution *d_src;
    size_t rows; /* where the maker of src[0] takes its gradient in rows (pg_rows); PG_NOWHERE: it
                    does not, from this node */
    size_t saved;
} pg_node_plan;

typedef struct pg_plan {
    pg_node_plan *nodes; /* [graph->n_nodes] */
    size_t input, logits, d_input, d_logits;
    size_t watched, d_watched; /* PG_NOWHERE: no value is watched, or no backward */
    int watched_node;          /* that makes it; the nodes behind it are the tail */
    pg_layout input_layout;
    size_t scratch;      /* one for all */
    size_t arena_bytes;
} pg_plan;

/* Chooses the layout of every value: fills op->src[].layout and op->dst[].layout and inserts
 * LayoutConvert nodes where bytes have to move. Before the operators' prepare. */
pg_err pg_plan_layouts(pg_graph *graph, pg_layout *input_layout, pg_layout *output_layout,
                       pg_diag *diag);

/* Plans the arena. After the operators' prepare. Arrays come from the graph's pool. */
pg_err pg_plan_memory(pg_graph *graph, bool backward, pg_plan *plan, pg_diag *diag);

/* One life of a block: [first, last] in steps. */
typedef struct pg_block {
    size_t bytes;
    int first, last;
    size_t offset; /* result, a multiple of PG_MEM_ALIGN */
} pg_block;

/* Gives every block an offset such that blocks whose lives meet do not overlap; returns the bytes
 * needed, or SIZE_MAX if memory for the working lists is out. Best fit in order of time. */
size_t pg_plan_offsets(pg_block *blocks, int count);

#endif
