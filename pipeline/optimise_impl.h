/* What the rewriting rules share: a matcher that walks from a node towards its inputs, and the two
 * ways a rule may change the graph. For optimise*.c, and lrp_rules.c, which reads nodes with it.
 *
 * A rule looks at one node, the last of its pattern, when everything before it has been looked at.
 * What lies between the pattern's ends must have no other reader and must not be the model's
 * output: pg_maker_for_one answers only then. When in doubt a rule does nothing. */
#ifndef PG_PIPELINE_OPTIMISE_IMPL_H
#define PG_PIPELINE_OPTIMISE_IMPL_H

#include "pipeline/graph.h"

typedef struct pg_rewriter {
    pg_graph *graph;
    bool fuse_add;    /* residual additions into convolutions */
    bool fuse_concat; /* concatenations into batch normalisations */
    pg_pool *load;   /* definitions and constants of new operators: until prepare */
    int *readers;    /* per value: how many node inputs read it */
    int *maker;      /* per value: the node that makes it, -1: the input */
    int *stands_for; /* per value: what its readers are to read instead; itself if nothing */
} pg_rewriter;

/* Looks at `node`, whose type is the one it is registered for in optimise.c. Fails only when memory
 * is out. */
typedef pg_err pg_rule(pg_rewriter *r, pg_node *node, pg_diag *diag);

/* ---- the matcher ---- */

bool pg_node_is(const pg_node *node, const char *type);

/* The node that makes `value`, or NULL: the value is -1 or the input. */
pg_node *pg_maker(const pg_rewriter *r, int value);

/* The node of this type that makes `value` for a single reader, or NULL. */
pg_node *pg_maker_for_one(const pg_rewriter *r, int value, const char *type);

/* Input `index` of the definition is a constant of one element. */
bool pg_scalar_input(const pg_node *node, int index, double *out);

/* Within 1e-6 of b, relatively: what is left of a constant that went through float32. */
bool pg_near(double a, double b);

/* The other operand, if the node is `value op c` with a scalar c near `scalar`; Add and Mul also
 * the other way round. -1: it is not. */
int pg_operand_beside(const pg_node *node, double scalar);

/* Steps from `value` over a node read only here: the value it reads, or -1. -1 leads to -1. */
int pg_through(const pg_rewriter *r, int value, const char *type);
int pg_through_scalar(const pg_rewriter *r, int value, const char *type, double scalar);

/* Input `index` as a float constant that covers exactly the axes [from, to) of `shape` and is
 * broadcast over the others; NULL if it is anything else. */
const float *pg_constant_over(const pg_node *node, int index, const pg_shape *shape, int from,
                              int to);

/* A bound of Clip: an attribute before opset 11, then an input. False: not given, or not known. */
bool pg_clip_bounds(const pg_node *node, float *lo, float *hi);

/* ---- changing the graph ---- */

/* What a node is to become: an operator that reads one value. */
typedef struct pg_replacement {
    const char *type;
    int x;                        /* the value it reads */
    const pg_const *constants[2]; /* inputs 1 and 2, NULL: absent */
    const pg_attr *attrs;         /* copied, lists of integers too */
    int n_attrs;
} pg_replacement;

/* Makes `node` that operator, as opset 21 defines it; what only the old one read is removed. Where
 * there is no such operator, it refuses, or its output would have another shape, nothing happens
 * (node->def tells: it is a new one afterwards). */
pg_err pg_replace(pg_rewriter *r, pg_node *node, const pg_replacement *with, pg_diag *diag);

/* Removes a node with one input: its readers read `value` instead. Does nothing if the node makes
 * the model's output. */
void pg_bypass(pg_rewriter *r, pg_node *node, int value);

/* Makes `into`, which alone is read by `gone`, produce the output of `gone`. */
void pg_take_over(pg_rewriter *r, pg_node *into, pg_node *gone);

/* ---- the rules, by file ---- */

pg_rule pg_rule_scalar_identity, pg_rule_reduce_mean; /* optimise_trivial.c */
pg_rule pg_rule_product;                              /* optimise_activation.c */
pg_rule pg_rule_layer_norm, pg_rule_group_norm, pg_rule_norm_affine; /* optimise_norm.c */
pg_rule pg_rule_transpose, pg_rule_reshape, pg_rule_shuffle;         /* optimise_layout.c */
pg_rule pg_rule_pad, pg_rule_batch_norm, pg_rule_affine, pg_rule_residual,
    pg_rule_activation; /* optimise_conv.c */
pg_rule pg_rule_norm_concat, pg_rule_norm_activation;                /* optimise_dense.c */

#endif
