/* Rewrites of the imported graph that change what runs but not what is computed. */
#ifndef PG_PIPELINE_OPTIMISE_H
#define PG_PIPELINE_OPTIMISE_H

#include "pipeline/graph.h"

/* Removes nodes that do not lead to the logits, turns what exporters write in pieces into single
 * operators, folds batch normalisation and activation into the convolution before them (only where
 * the convolution has no other reader: its own output is then nowhere needed as a value), with
 * `fuse_add` also the addition of a residual branch, with `fuse_concat` concatenations into the batch
 * normalisation behind them, and marks
 * which nodes and convolutions lie between input and logits. `load` holds the definitions and
 * constants of new operators and must live until prepare. PG_EMODEL: the logits do not depend on
 * the input. */
pg_err pg_optimise(pg_graph *graph, pg_pool *load, bool fuse_add, bool fuse_concat,
                   pg_diag *diag);

#endif
