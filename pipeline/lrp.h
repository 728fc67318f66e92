/* Layer-wise relevance propagation (method.md 7): a second way backward through the graph, which
 * carries relevance instead of gradients. It runs in the memory the gradient has, node by node from
 * the logits to the input; what happens at a node is its step.
 *
 *   skip    the node does not depend on the picture
 *   route   relevance goes where the gradient goes: max pooling (winner takes all), everything that
 *           only moves values, and interpolation
 *   pass    relevance goes through as it is: activations, batch normalisation that is a node of its
 *           own (one before a convolution was folded into it), addition of and multiplication by
 *           constants
 *   norm    R_in = x * backward(R / stab(z)), for a linear operator z = A x + b: addition, average
 *           pooling (zennit's Norm), and fully connected layers and convolutions under Epsilon
 *   layer   a rule that changes weights: kernels/relevance.h
 *
 * Two facts about values save most of the work and are found when the model is prepared:
 *
 *   positive   never below 0: then rules need no second half for negative inputs
 *   vanishing  its relevance is 0 wherever it is 0, because all that read it hand out x times
 *              something. A convolution with a ReLU inside stores y = ReLU(z). Where y > 0, y is z;
 *              where y = 0, z is not known, but if y is vanishing nothing needs it: R / stab(y) is
 *              0 like R / stab(z). So Epsilon takes the stored y for z, and Gamma needs no term for
 *              z < 0. Otherwise, and behind a Clip (where y = hi hides a larger z), z is computed
 *              again. */
#ifndef PG_PIPELINE_LRP_H
#define PG_PIPELINE_LRP_H

#include "kernels/relevance.h"
#include "pipeline/graph.h"
#include "pipeline/options.h"
#include "pipeline/session.h"

typedef enum pg_lrp_step {
    PG_LRP_SKIP,
    PG_LRP_ROUTE,
    PG_LRP_PASS,
    PG_LRP_NORM,
    PG_LRP_LAYER,
} pg_lrp_step;

typedef struct pg_lrp_node {
    pg_lrp_step step;
    int z;         /* norm: the node whose output is z: itself, or the addition of its bias */
    int64_t sum;   /* norm: elements, where z is the sum of two operands like it, which needs no
                      memory; otherwise 0 */
    float epsilon; /* norm */
    pg_lrp_rule rule;
    bool signed_input, positive_only, rectified; /* layer: pg_relevance_spec */
    pg_relevance relevance;                      /* layer; (prepare) */
} pg_lrp_node;

/* What a model shares between its sessions. Constant after prepare. */
typedef struct pg_lrp {
    const pg_lrp_options *options; /* borrowed */
    pg_lrp_node *nodes;            /* [n_nodes] of the graph */
    int n_nodes;
    uint64_t weight_bytes;
    double forwards, backwards; /* what a walk costs, in the work of one forward */
} pg_lrp;

/* Finds every node's step. PG_ECONFIG with all nodes that no rule is known for, each with its
 * reason; or for a rule that does not suit the layer it was chosen for. The nodes' definitions must
 * be there (before prepare). On failure *out is free. */
pg_err pg_lrp_plan(const pg_graph *graph, const pg_lrp_options *options, pg_lrp *out,
                   pg_diag *diag);

struct pg_conv_tuner; /* kernels/conv_tune.h */

/* Before the operators' prepare: packs modified weights, and makes operators keep the values that
 * the walk reads (for the memory plan). The thread count in force becomes part of it. */
pg_err pg_lrp_prepare(pg_graph *graph, pg_lrp *lrp, struct pg_conv_tuner *tuner, pg_diag *diag);
/* After the operators' prepare: the rules work in the scratch of their operators. */
void pg_lrp_take_scratch(const pg_lrp *lrp, pg_graph *graph);
void pg_lrp_free(pg_lrp *lrp); /* and zeroes */

/* ---- CRP: the relevance of single channels of a layer ---- */

/* A layer that conditions can be laid on (method.md 10). */
typedef struct pg_crp_layer {
    int node;         /* that makes it; -1: none */
    const char *name; /* of its output; borrowed from the graph */
    int64_t channels, positions;
    bool channels_last; /* how it lies */
} pg_crp_layer;

/* The layer of that name: a node's, or its output's, as the file has them, also those of a
 * convolution into which what follows was folded. PG_ECONFIG: there is none, it has no channels, or
 * another path leads past it; the sentence names `crp.layer`. */
pg_err pg_crp_find(const pg_graph *graph, const char *name, pg_crp_layer *out, pg_diag *diag);

/* ---- the walk ---- */

/* One worker's. */
typedef struct pg_lrp_walk pg_lrp_walk;

/* On a session of a model that was prepared for it. */
pg_err pg_lrp_walk_create(const pg_lrp *lrp, pg_session *session, pg_lrp_walk **out, pg_diag *diag);
void pg_lrp_walk_destroy(pg_lrp_walk **walk); /* accepts NULL */

/* Conditions of one walk; NULL: none. */
typedef struct pg_crp_condition {
    const pg_crp_layer *layer;
    const uint8_t *keep; /* [channels]; NULL: all */
    double *relevance;   /* [channels], filled: each channel's relevance before the condition */
} pg_crp_condition;

/* From `relevance` of the output (laid out as the output) to the input: read it with
 * pg_session_d_input. Forward has run. */
pg_err pg_lrp_walk_run(pg_lrp_walk *walk, const float *relevance, const pg_crp_condition *condition,
                       pg_diag *diag);

#endif
