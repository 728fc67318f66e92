/* The watched value: an activation in the middle of the network that methods look at (CAMs). Its
 * bytes, and those the nodes behind it (the tail) read, outlive forward, so that the tail can run
 * again on a changed activation, and backward can stop at it. */
#ifndef PG_PIPELINE_WATCH_H
#define PG_PIPELINE_WATCH_H

#include "pipeline/graph.h"

/* Before optimising: watches the value of this name, or the first output of the node of this name,
 * so that no rule melts it into another. NULL or "": none. PG_ECONFIG with the nearest names. */
pg_err pg_watch_named(pg_graph *graph, const char *name, pg_diag *diag);

/* After optimising, where no name was given: the last value with four axes and an extent on the way
 * to the logits, unless attention (a Softmax) or a recurrence lies behind it. May find none. */
void pg_watch_last(pg_graph *graph);

/* Fills info->watched, watched_name, linear_tail and tail_share. PG_ECONFIG: a named value that
 * cannot be watched (no [1,C,H,W], or not between input and logits). */
pg_err pg_watch_describe(const pg_graph *graph, pg_model_info *info, pg_diag *diag);

#endif
