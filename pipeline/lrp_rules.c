/* Which step relevance takes at every node of a graph: a table by operator type, the composite's
 * rules for convolutions and fully connected layers, and two sweeps for what lrp.h calls positive
 * and vanishing values. */
#include <math.h>
#include <string.h>

#include "kernels/gemm.h"
#include "kernels/mem.h"
#include "kernels/op_conv.h"
#include "kernels/op_node.h"
#include "pipeline/lrp.h"
#include "pipeline/optimise_impl.h"

/* ---- operators ---- */

/* What an operator makes of values that are never below 0, and of those that are 0. */
typedef enum sign { ANY, KEEPS, SUMS, ALWAYS } sign; /* SUMS: keeps, if no operand is constant */

typedef struct type_row {
    const char *type;
    pg_lrp_step step;
    sign positive;
    bool zero; /* 0 for 0 */
} type_row;

static const type_row types[] = {
    {"MaxPool", PG_LRP_ROUTE, KEEPS, true},
    {"GlobalMaxPool", PG_LRP_ROUTE, KEEPS, true},
    {"Concat", PG_LRP_ROUTE, SUMS, true},
    {"Split", PG_LRP_ROUTE, KEEPS, true},
    {"Slice", PG_LRP_ROUTE, KEEPS, true},
    {"Gather", PG_LRP_ROUTE, KEEPS, true},
    {"Pad", PG_LRP_ROUTE, ANY, true}, /* with any number */
    {"Reshape", PG_LRP_ROUTE, KEEPS, true},
    {"Flatten", PG_LRP_ROUTE, KEEPS, true},
    {"Squeeze", PG_LRP_ROUTE, KEEPS, true},
    {"Unsqueeze", PG_LRP_ROUTE, KEEPS, true},
    {"Identity", PG_LRP_ROUTE, KEEPS, true},
    {"Dropout", PG_LRP_ROUTE, KEEPS, true},
    {"Transpose", PG_LRP_ROUTE, KEEPS, true},
    {"LayoutConvert", PG_LRP_ROUTE, KEEPS, true},
    {"DepthToSpace", PG_LRP_ROUTE, KEEPS, true},
    {"SpaceToDepth", PG_LRP_ROUTE, KEEPS, true},
    {"Expand", PG_LRP_ROUTE, KEEPS, true},
    {"Tile", PG_LRP_ROUTE, KEEPS, true},
    {"Resize", PG_LRP_ROUTE, ANY, false}, /* interpolates: 0 takes part in what is not */
    {"Upsample", PG_LRP_ROUTE, KEEPS, false},
    {"Relu", PG_LRP_PASS, ALWAYS, true},
    {"Sigmoid", PG_LRP_PASS, ALWAYS, false},
    {"HardSigmoid", PG_LRP_PASS, ALWAYS, false},
    {"Softplus", PG_LRP_PASS, ALWAYS, false},
    {"Clip", PG_LRP_PASS, ANY, false}, /* by its bounds */
    {"LeakyRelu", PG_LRP_PASS, KEEPS, true},
    {"PRelu", PG_LRP_PASS, KEEPS, true},
    {"Elu", PG_LRP_PASS, KEEPS, true},
    {"Celu", PG_LRP_PASS, KEEPS, true},
    {"Selu", PG_LRP_PASS, KEEPS, true},
    {"Gelu", PG_LRP_PASS, KEEPS, true},
    {"Swish", PG_LRP_PASS, KEEPS, true},
    {"HardSwish", PG_LRP_PASS, KEEPS, true},
    {"Mish", PG_LRP_PASS, KEEPS, true},
    {"Tanh", PG_LRP_PASS, KEEPS, true},
    {"Softsign", PG_LRP_PASS, KEEPS, true},
    {"ThresholdedRelu", PG_LRP_PASS, ANY, true},
    {"Shrink", PG_LRP_PASS, ANY, false},
    {"BatchNormalization", PG_LRP_PASS, ANY, false},
    {"QuantizeLinear", PG_LRP_PASS, ANY, false},
    {"DequantizeLinear", PG_LRP_PASS, ANY, false},
    {"Cast", PG_LRP_PASS, KEEPS, true},
    {"Add", PG_LRP_NORM, SUMS, true},
    {"Sum", PG_LRP_NORM, SUMS, true},
    {"Mean", PG_LRP_NORM, SUMS, true},
    {"AveragePool", PG_LRP_NORM, KEEPS, true},
    {"GlobalAveragePool", PG_LRP_NORM, KEEPS, true},
    {"ReduceMean", PG_LRP_NORM, KEEPS, true},
    {"ReduceSum", PG_LRP_NORM, KEEPS, true},
};

static const type_row *row_of(const char *type) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].type, type) == 0)
            return &types[i];
    return NULL;
}

static bool is(const pg_node *node, const char *type) { return strcmp(node->op->type, type) == 0; }

static bool is_product(const pg_node *node) { return is(node, "Gemm") || is(node, "MatMul"); }

static bool is_dense(const pg_node *node) {
    return is_product(node) && pg_gemm_is_dense(node->op) && node->op->n_src == 1;
}

/* One computed operand, the first, of an operation that is linear in it, and no broadcasting. */
static bool by_constant(const pg_node *node) {
    static const char *const arithmetic[] = {"Add", "Sub", "Mul", "Div"};
    if (node->op->n_src != 1 || !node->def || node->def->n_inputs != 2 ||
        !pg_shape_equal(&node->op->src[0].shape, &node->op->dst[0].shape))
        return false;
    bool first = node->def->inputs[0].constant == NULL;
    for (int i = 0; i < 4; i++)
        if (is(node, arithmetic[i]))
            return first || i == 0 || i == 2;
    return false;
}

static const char *why_not(const pg_node *node) {
    static const char *const norms[] = {"LayerNormalization", "InstanceNormalization",
                                        "GroupNormalization", "LRN",
                                        "LpNormalization",    "MeanVarianceNormalization"};
    if (is(node, "Mul") && node->op->n_src == 2)
        return "it multiplies two computed values (a gate)";
    if (is_product(node))
        return "a matrix product without constant weights (attention)";
    if (is(node, "Softmax"))
        return "a softmax inside the network (attention)";
    if (is(node, "ConvTranspose"))
        return "for transposed convolutions there is lrp.conv: epsilon alone";
    if (is(node, "Conv"))
        return "an addition was folded into it";
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++)
        if (is(node, norms[i]))
            return "it divides by what it computes from its own input";
    return "relevance has no rule for it";
}

/* ---- planning ---- */

typedef struct planner {
    const pg_graph *graph;
    const pg_lrp_options *options;
    pg_lrp *lrp;
    bool *positive, *vanishing;  /* [n_values] */
    int first_conv, first_layer; /* nodes, -1: none */
    int refused;
    pg_diag why;
} planner;

enum { NAMED = 8 }; /* refused nodes in a sentence */

static void refuse(planner *p, const pg_node *node) {
    if (p->refused++ < NAMED)
        pg_diag_append(&p->why, "%s'%.200s' (%s: %s)", p->refused > 1 ? ", " : "", node->op->node,
                       node->op->type, why_not(node));
}

static bool clips_at_zero(const pg_node *node, float *lo) {
    float hi = 0;
    *lo = -INFINITY;
    return node->def && pg_clip_bounds(node, lo, &hi) && *lo <= 0 && hi >= 0;
}

static bool makes_positive(const planner *p, const pg_node *node) {
    if (node->op->relu)
        return true;
    const type_row *row = row_of(node->op->type);
    bool all = row && row->positive != ANY;
    if (all && row->positive == SUMS)
        all = node->def && node->op->n_src == node->def->n_inputs;
    for (int k = 0; k < node->op->n_src; k++)
        all = all && (p->positive[node->src[k]] || row->positive == ALWAYS);
    return all;
}

/* ---- rules of layers ---- */

static pg_lrp_rule chosen(pg_lrp_choice choice, pg_lrp_rule otherwise) {
    return choice == PG_LRP_BY_COMPOSITE ? otherwise : (pg_lrp_rule)((int)choice - 1);
}

/* method.md 7; the first layer is the one that comes first in the file's order. */
static pg_lrp_rule rule_of(const planner *p, int node) {
    const pg_lrp_options *o = p->options;
    static const pg_lrp_rule convs[] = {PG_LRP_ZPLUS, PG_LRP_ZPLUS, PG_LRP_GAMMA,
                                        PG_LRP_ALPHA_BETA};
    static const pg_lrp_choice firsts[] = {PG_LRP_CHOOSE_FLAT, PG_LRP_BY_COMPOSITE,
                                           PG_LRP_CHOOSE_ZBOX, PG_LRP_BY_COMPOSITE};
    pg_lrp_choice first = o->first != PG_LRP_BY_COMPOSITE ? o->first : firsts[(int)o->composite];
    int at = first == PG_LRP_CHOOSE_ZBOX ? p->first_conv : p->first_layer;
    if (node == at && first != PG_LRP_BY_COMPOSITE)
        return chosen(first, PG_LRP_FLAT);
    return is_dense(&p->graph->nodes[node]) ? chosen(o->linear, PG_LRP_EPSILON)
                                            : chosen(o->conv, convs[(int)o->composite]);
}

/* The picture itself, maybe in another order: what ZBox's bounds are those of. */
static bool reads_input(const pg_graph *g, int value) {
    for (int i = g->n_nodes - 1; i >= 0 && value != g->input; i--)
        if (g->nodes[i].dst[0] == value) {
            const pg_node *node = &g->nodes[i];
            if (!is(node, "LayoutConvert") && !is(node, "Transpose") && !is(node, "Identity") &&
                !is(node, "Dropout"))
                return false;
            value = node->src[0];
        }
    return value == g->input;
}

static pg_err check_box(const planner *p, const pg_node *node, pg_diag *diag) {
    const pg_graph *g = p->graph;
    if (is(node, "Conv") && node == &g->nodes[p->first_conv] && reads_input(g, node->src[0]))
        return PG_OK;
    return pg_fail(diag, PG_ECONFIG,
                   "lrp: zbox is a rule for a first convolution that reads the picture, and node "
                   "'%s' does not; choose another for it (lrp.first)",
                   node->op->node);
}

/* The node that adds a constant to what `node` alone makes, as some exporters write the bias of a
 * fully connected layer; else the node itself. */
static int bias_after(const pg_graph *g, int node) {
    int value = g->nodes[node].dst[0], found = node, readers = value == g->logits;
    for (int i = node + 1; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].op->n_src; k++)
            if (g->nodes[i].src[k] == value) {
                readers++;
                found = is(&g->nodes[i], "Add") && by_constant(&g->nodes[i]) ? i : node;
            }
    return readers == 1 ? found : node;
}

/* Whether z can be read off what the operator stores. */
static bool z_is_stored(const planner *p, const pg_node *node) {
    float lo, hi;
    pg_act act = is(node, "Conv") ? pg_conv_act(node->op, &lo, &hi) : PG_ACT_NONE;
    return act == PG_ACT_NONE || (act == PG_ACT_RELU && p->vanishing[node->dst[0]]);
}

/* Whether the sign of z can be read off it: not where a Clip ends on one side of 0. */
static bool shows_sign(const pg_node *node) {
    float lo = 0, hi = 1;
    if (is(node, "Conv"))
        pg_conv_act(node->op, &lo, &hi);
    return lo <= 0 && hi > 0;
}

static pg_err plan_layer(planner *p, int index, pg_diag *diag) {
    const pg_node *node = &p->graph->nodes[index];
    pg_lrp_node *n = &p->lrp->nodes[index];
    n->rule = rule_of(p, index);
    n->epsilon = (float)p->options->epsilon;
    n->z = is(node, "MatMul") ? bias_after(p->graph, index) : index;
    n->step = n->rule == PG_LRP_EPSILON && z_is_stored(p, node) ? PG_LRP_NORM : PG_LRP_LAYER;
    n->signed_input = !p->positive[node->src[0]];
    n->rectified = node->op->relu;
    n->positive_only = n->rectified && p->vanishing[node->dst[0]];
    if (n->rule == PG_LRP_GAMMA && !shows_sign(node))
        return pg_fail(
            diag, PG_ECONFIG,
            "lrp: gamma asks for the sign of what node '%s' makes, and its Clip hides it",
            node->op->node);
    if (n->rule == PG_LRP_ZBOX)
        return check_box(p, node, diag);
    if (n->step == PG_LRP_LAYER && n->z != index)
        return pg_fail(diag, PG_ECONFIG,
                       "lrp.linear: node '%s' has its bias in a node of its own; epsilon alone "
                       "carries relevance there",
                       node->op->node);
    return PG_OK;
}

/* Elements of most of the additions there are. */
static int64_t sum_of_two(const pg_node *node) {
    const pg_op *op = node->op;
    bool alike = is(node, "Add") && op->n_src == 2 &&
                 pg_shape_equal(&op->src[0].shape, &op->dst[0].shape) &&
                 pg_shape_equal(&op->src[1].shape, &op->dst[0].shape);
    return alike ? pg_shape_count(&op->dst[0].shape) : 0;
}

static pg_err plan_node(planner *p, int index, pg_diag *diag) {
    const pg_node *node = &p->graph->nodes[index];
    pg_lrp_node *n = &p->lrp->nodes[index];
    const type_row *row = row_of(node->op->type);
    *n = (pg_lrp_node){.step = PG_LRP_SKIP, .z = index, .epsilon = PG_LRP_STABILISER};
    if (!node->on_path)
        return PG_OK;
    if ((is(node, "Conv") && node->op->n_src == 1) || is_dense(node))
        return plan_layer(p, index, diag);
    if (is(node, "ConvTranspose") && p->options->conv == PG_LRP_CHOOSE_EPSILON) {
        n->step = PG_LRP_NORM;
        n->epsilon = (float)p->options->epsilon;
    } else if (by_constant(node)) {
        n->step = PG_LRP_PASS;
    } else if (row && !(row->step == PG_LRP_PASS && node->op->n_src != 1) &&
               !(is(node, "Add") && node->op->n_src != 2)) {
        n->step = row->step;
        n->sum = sum_of_two(node);
    } else {
        refuse(p, node);
    }
    return PG_OK;
}

/* What `node` hands to its inputs is 0 where they are 0. */
static bool hands_zero_to_zero(const planner *p, int index) {
    const pg_node *node = &p->graph->nodes[index];
    const pg_lrp_node *n = &p->lrp->nodes[index];
    const type_row *row = row_of(node->op->type);
    float lo;
    bool out = true;
    for (int k = 0; k < node->op->n_dst; k++)
        out = out && p->vanishing[node->dst[k]];
    switch (n->step) {
    case PG_LRP_SKIP:
    case PG_LRP_NORM:
        return true;
    case PG_LRP_LAYER:
        return n->rule != PG_LRP_ZBOX && n->rule != PG_LRP_FLAT && n->rule != PG_LRP_WSQUARE;
    case PG_LRP_ROUTE:
    case PG_LRP_PASS:
        break;
    }
    if (by_constant(node))
        return out && (is(node, "Mul") || is(node, "Div"));
    return out && ((row && row->zero) || (is(node, "Clip") && clips_at_zero(node, &lo)));
}

/* In order of execution: the first layers, and which values are positive. */
static void sweep_forward(planner *p) {
    const pg_graph *g = p->graph;
    p->first_conv = p->first_layer = -1;
    for (int i = 0; i < g->n_nodes; i++) {
        const pg_node *node = &g->nodes[i];
        bool conv = node->on_path && is(node, "Conv");
        bool layer = conv || (node->on_path && is_dense(node));
        p->first_conv = conv && p->first_conv < 0 ? i : p->first_conv;
        p->first_layer = layer && p->first_layer < 0 ? i : p->first_layer;
        for (int k = 0; k < node->op->n_dst; k++)
            p->positive[node->dst[k]] = makes_positive(p, node);
    }
}

/* Against it: readers come before makers, so a value's fate is known when its maker's step is
 * chosen. */
static pg_err sweep_backward(planner *p, pg_diag *diag) {
    const pg_graph *g = p->graph;
    for (int v = 0; v < g->n_values; v++)
        p->vanishing[v] = true;
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        pg_err err = plan_node(p, i, diag);
        if (err != PG_OK)
            return err;
        bool vanishing = hands_zero_to_zero(p, i);
        for (int k = 0; k < g->nodes[i].op->n_src; k++)
            p->vanishing[g->nodes[i].src[k]] = p->vanishing[g->nodes[i].src[k]] && vanishing;
    }
    if (p->refused == 0)
        return PG_OK;
    return pg_fail(diag, PG_ECONFIG, "lrp: relevance cannot pass %d node%s: %s%s", p->refused,
                   p->refused == 1 ? "" : "s", p->why.text, p->refused > NAMED ? ", ..." : "");
}

static pg_err plan_all(planner *p, pg_diag *diag) {
    sweep_forward(p);
    return sweep_backward(p, diag);
}

pg_err pg_lrp_plan(const pg_graph *graph, const pg_lrp_options *options, pg_lrp *out,
                   pg_diag *diag) {
    size_t values = (size_t)graph->n_values;
    *out = (pg_lrp){.options = options, .n_nodes = graph->n_nodes};
    out->nodes = pg_calloc((size_t)graph->n_nodes, sizeof *out->nodes);
    planner p = {.graph = graph,
                 .options = options,
                 .lrp = out,
                 .positive = pg_calloc(values, sizeof(bool)),
                 .vanishing = pg_calloc(values, sizeof(bool))};
    pg_err err = out->nodes && p.positive && p.vanishing
                     ? plan_all(&p, diag)
                     : pg_fail(diag, PG_ENOMEM, "no memory for the plan of relevance");
    pg_free(p.positive);
    pg_free(p.vanishing);
    if (err)
        pg_lrp_free(out);
    return err;
}

/* ---- preparing ---- */

/* The box of the picture: what black and white become before the network (method.md 10). */
static pg_err make_layer(const pg_lrp_options *o, const pg_node *node, pg_lrp_node *n,
                         struct pg_conv_tuner *tuner, pg_diag *diag) {
    pg_relevance_spec spec = {.rule = n->rule,
                              .epsilon = n->epsilon,
                              .gamma = (float)o->gamma,
                              .signed_input = n->signed_input,
                              .positive_only = n->positive_only,
                              .rectified = n->rectified,
                              .low = o->low,
                              .high = o->high,
                              .tuner = tuner};
    pg_linear linear = {0};
    pg_err err = is(node, "Conv") ? pg_conv_linear(node->op, &linear, diag)
                                  : pg_gemm_linear(node->op, &linear, diag);
    if (!err && n->rule == PG_LRP_ZBOX && linear.geometry.in_c > 3)
        err = pg_fail(diag, PG_ECONFIG, "lrp: zbox wants a picture of at most 3 channels");
    if (!err)
        err = pg_relevance_make(&linear, &spec, &n->relevance, diag);
    pg_linear_free(&linear);
    return err ? pg_fail_in(diag, err, "node '%s'", node->op->node) : PG_OK;
}

/* Terms of a rule and what they cost more for an input of twice the channels, and NORM's backward.
 */
static void add_cost(pg_lrp *lrp, const pg_lrp_node *n, double flops) {
    const pg_relevance *r = &n->relevance;
    double terms =
        n->step == PG_LRP_LAYER ? (double)r->terms * (double)r->wide / (double)r->geometry.in_c : 0;
    lrp->forwards += terms * flops;
    lrp->backwards += (n->step == PG_LRP_LAYER ? terms : n->step == PG_LRP_SKIP ? 0 : 1) * flops;
}

pg_err pg_lrp_prepare(pg_graph *graph, pg_lrp *lrp, struct pg_conv_tuner *tuner, pg_diag *diag) {
    pg_err err = PG_OK;
    double flops = 0;
    for (int i = 0; err == PG_OK && i < graph->n_nodes; i++) {
        pg_lrp_node *n = &lrp->nodes[i];
        struct pg_op *op = graph->nodes[i].op;
        if (n->step == PG_LRP_NORM) {
            op->keeps_src = true;
            graph->nodes[n->z].op->keeps_dst |= n->sum == 0;
        } else if (n->step == PG_LRP_LAYER) {
            op->keeps_src = op->keeps_dst = true;
            err = make_layer(lrp->options, &graph->nodes[i], n, tuner, diag);
            lrp->weight_bytes += n->relevance.weight_bytes;
        }
        if (err == PG_OK)
            add_cost(lrp, n, (double)op->flops);
        flops += (double)op->flops;
    }
    lrp->forwards /= flops > 0 ? flops : 1;
    lrp->backwards /= flops > 0 ? flops : 1;
    return err;
}

void pg_lrp_take_scratch(const pg_lrp *lrp, pg_graph *graph) {
    for (int i = 0; i < lrp->n_nodes; i++) {
        struct pg_op *op = graph->nodes[i].op;
        size_t wanted = lrp->nodes[i].relevance.scratch_bytes;
        op->scratch_bytes = wanted > op->scratch_bytes ? wanted : op->scratch_bytes;
    }
}

void pg_lrp_free(pg_lrp *lrp) {
    for (int i = 0; lrp->nodes && i < lrp->n_nodes; i++)
        pg_relevance_free(&lrp->nodes[i].relevance);
    pg_free(lrp->nodes);
    *lrp = (pg_lrp){0};
}
