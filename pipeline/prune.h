/* ParchGrad's split of the gradient at the pruned convolutions: from a selection to what the
 * convolutions' backward asks for, and from their moments to the factors (method.md 2, 3). */
#ifndef PG_PIPELINE_PRUNE_H
#define PG_PIPELINE_PRUNE_H

#include "kernels/op_conv.h"
#include "pipeline/pipeline.h"
#include "pipeline/select.h"

/* What the two groups are multiplied by. */
typedef struct pg_prune_factors {
    double high, low;
    double beta;     /* method.md section 3; 1 with conservation off */
    double share;    /* M/(M+N), 0 where both are 0 */
    bool degenerate; /* for lack of variance: the gradient stays as it is, high = low = 1 */
} pg_prune_factors;

/* The formulas of method.md sections 3 and 10, nothing else. */
pg_prune_factors pg_prune_weigh(const pg_prune_options *options, const pg_group_moments *moments);

/* One worker's pruning state. */
typedef struct pg_prune pg_prune;

/* All borrowed. PG_ENOMEM. */
pg_err pg_prune_create(const pg_prune_options *options, const pg_conv_info *convs, int n_convs,
                       const pg_layers *layers, pg_prune **out, pg_diag *diag);
void pg_prune_destroy(pg_prune **prune); /* accepts NULL */

/* Prepares one backward pass with these masks. A layer with no or all channels kept is left alone.
 * Returns [n_convs] for pg_session_backward, valid until the next call. */
const pg_conv_prune *pg_prune_begin(pg_prune *prune, const pg_selection *selection);

/* What the last pass did: one entry per pruned convolution, [layers->count]. */
const pg_layer_result *pg_prune_results(const pg_prune *prune);

/* True if some layer of the last pass was left alone because a variance was missing. */
bool pg_prune_degenerate(const pg_prune *prune);

#endif
