/* Channel shuffles, which a file spells as three nodes. */
#ifndef PG_PIPELINE_SHUFFLE_H
#define PG_PIPELINE_SHUFFLE_H

#include "pipeline/graph.h"

/* Makes one Gather on the channels out of every Reshape, Transpose, Reshape that does no more than
 * reorder them. After pg_optimise: dead nodes would count as readers. */
pg_err pg_fuse_shuffles(pg_graph *graph, pg_diag *diag);

#endif
