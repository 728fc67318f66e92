/* The model-randomisation check (Adebayo et al. 2018): a network whose last layers have lost what
 * they learned, but not the distribution of their weights. */
#ifndef PG_PIPELINE_SHUFFLE_H
#define PG_PIPELINE_SHUFFLE_H

#include "pipeline/graph.h"

/* Before optimising: shuffles the weights of the last `layers` convolutions and matrix products,
 * the same way each time; copies come from `load`. PG_ENOMEM. */
pg_err pg_shuffle_last(pg_graph *graph, int layers, pg_pool *load, pg_diag *diag);

#endif
