#include "pipeline/optimise.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_conv.h"

typedef struct optimiser {
    pg_graph *graph;
    int *readers, *maker; /* per value; kept right while rewriting */
    bool *marks;                   /* per value */
} optimiser;

static pg_err out_of_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

static bool is(const pg_node *node, const char *type) {
    return node->op != NULL && node->def != NULL && strcmp(node->def->type, type) == 0;
}

/* ---- dead nodes, path ---- */

static void remove_dead(optimiser *o) {
    pg_graph *g = o->graph;
    memset(o->marks, 0, (size_t)g->n_values * sizeof *o->marks);
    o->marks[g->logits] = true;
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        pg_node *node = &g->nodes[i];
        bool live = false;
        for (int k = 0; k < node->op->n_dst; k++)
            live = live || o->marks[node->dst[k]];
        for (int k = 0; live && k < node->op->n_src; k++)
            o->marks[node->src[k]] = true;
        if (!live)
            pg_op_destroy(&node->op);
    }
    pg_graph_compact(g);
}

static pg_err mark_path(optimiser *o, pg_diag *diag) {
    pg_graph *g = o->graph;
    memset(o->marks, 0, (size_t)g->n_values * sizeof *o->marks);
    o->marks[g->input] = true;
    for (int i = 0; i < g->n_nodes; i++) {
        pg_node *node = &g->nodes[i];
        for (int k = 0; k < node->op->n_src; k++)
            node->on_path = node->on_path || o->marks[node->src[k]];
        for (int k = 0; k < node->op->n_dst; k++)
            o->marks[node->dst[k]] = node->on_path;
        if (node->conv >= 0)
            g->convs[node->conv].on_path = node->on_path;
    }
    return o->marks[g->logits]
               ? PG_OK
               : pg_fail(diag, PG_EMODEL, "the output '%s' does not depend on the input",
                         g->values[g->logits].name);
}

/* ---- into the convolution ---- */

/* The convolution that makes this value for this reader alone, or NULL. */
static pg_node *sole_conv(const optimiser *o, int value) {
    int maker = o->maker[value];
    if (maker < 0 || o->readers[value] != 1 || value == o->graph->logits)
        return NULL;
    pg_node *node = &o->graph->nodes[maker];
    return node->op != NULL && pg_op_is_conv(node->op) ? node : NULL;
}

/* `gone` was the only reader of what `node` makes: node makes its output now. */
static void take_over(optimiser *o, pg_node *node, pg_node *gone) {
    node->dst[0] = gone->dst[0];
    o->maker[node->dst[0]] = (int)(node - o->graph->nodes);
    pg_op_destroy(&gone->op);
}

static const float *channel_input(const pg_op_def *def, int index, int64_t channels) {
    if (index >= def->n_inputs || def->inputs[index].constant == NULL)
        return NULL;
    const pg_const *c = def->inputs[index].constant;
    return c->dtype == PG_F32 && pg_shape_count(&c->shape) == channels ? c->f : NULL;
}

static pg_err absorb_batch_norm(optimiser *o, pg_node *bn, pg_diag *diag) {
    pg_node *conv = sole_conv(o, bn->src[0]);
    if (conv == NULL || conv->has_batch_norm || conv->has_act || bn->op->n_src != 1)
        return PG_OK;
    int64_t channels = conv->op->dst[0].shape.dims[1];
    const float *in[4];
    float epsilon;
    for (int k = 0; k < 4; k++)
        if ((in[k] = channel_input(bn->def, k + 1, channels)) == NULL)
            return PG_OK;
    if (pg_def_float(bn->def, "epsilon", 1e-5f, &epsilon, NULL) != PG_OK)
        return PG_OK;
    float *scale = pg_malloc((size_t)channels * 3 * sizeof *scale);
    if (scale == NULL)
        return out_of_memory(diag);
    float *shift = scale + channels, *spread = shift + channels;
    bool finite = true;
    for (int64_t c = 0; c < channels; c++) {
        double deviation = sqrt((double)in[3][c] + (double)epsilon);
        double s = (double)in[0][c] / deviation;
        scale[c] = (float)s;
        shift[c] = (float)((double)in[1][c] - (double)in[2][c] * s);
        spread[c] = (float)deviation;
        finite = finite && isfinite(scale[c]) && isfinite(shift[c]) && isfinite(spread[c]);
    }
    if (finite && pg_conv_absorb_batch_norm(conv->op, scale, shift, spread)) {
        conv->has_batch_norm = true;
        if (conv->conv >= 0)
            o->graph->convs[conv->conv].batch_norm = true;
        take_over(o, conv, bn);
    }
    pg_free(scale);
    return PG_OK;
}

/* A bound of Clip: an attribute before opset 11, then an input. False: not given, or not known. */
static bool clip_bound(const pg_op_def *def, const char *attr, int input, float *out) {
    if (def->opset < 11)
        return pg_def_attr(def, attr) != NULL && pg_def_float(def, attr, 0, out, NULL) == PG_OK;
    const float *value = channel_input(def, input, 1);
    if (value != NULL)
        *out = *value;
    return value != NULL;
}

static void absorb_activation(optimiser *o, pg_node *act) {
    pg_node *conv = act->op->n_src == 1 ? sole_conv(o, act->src[0]) : NULL;
    float lo = 0, hi = 0;
    if (conv == NULL || conv->has_act)
        return;
    if (is(act, "Relu"))
        pg_conv_absorb_activation(conv->op, PG_ACT_RELU, 0, INFINITY);
    else if (clip_bound(act->def, "min", 1, &lo) && clip_bound(act->def, "max", 2, &hi) &&
             isfinite(lo) && isfinite(hi) && lo < hi)
        pg_conv_absorb_activation(conv->op, PG_ACT_CLIP, lo, hi);
    else
        return;
    conv->has_act = true;
    take_over(o, conv, act);
}

/* ---- x * gate(x) ---- */

/* The fused type if the value is Sigmoid(of) or the HardSigmoid of HardSwish, read only here. */
static const char *gate_of(const optimiser *o, int value, int of) {
    int maker = o->maker[value];
    if (maker < 0 || o->readers[value] != 1 || value == o->graph->logits)
        return NULL;
    const pg_node *node = &o->graph->nodes[maker];
    if (node->op == NULL || node->op->n_src != 1 || node->src[0] != of)
        return NULL;
    if (is(node, "Sigmoid"))
        return "Swish";
    float alpha, beta;
    if (is(node, "HardSigmoid") &&
        pg_def_float(node->def, "alpha", 0.2f, &alpha, NULL) == PG_OK &&
        pg_def_float(node->def, "beta", 0.5f, &beta, NULL) == PG_OK &&
        fabsf(alpha - 1.0f / 6) < 1e-6f && beta == 0.5f)
        return "HardSwish";
    return NULL;
}

static pg_err fuse_gate(optimiser *o, pg_node *mul, pg_diag *diag) {
    if (mul->op->n_src != 2 || mul->src[0] == mul->src[1])
        return PG_OK;
    int gate = 1;
    const char *type = gate_of(o, mul->src[1], mul->src[0]);
    if (type == NULL)
        type = gate_of(o, mul->src[gate = 0], mul->src[1]);
    if (type == NULL || !pg_op_known(type))
        return PG_OK;
    int x = mul->src[1 - gate];
    pg_op_input input = {.present = true, .shape = o->graph->values[x].shape};
    pg_op_def def = {.node = mul->op->node, .type = type, .opset = mul->def->opset,
                     .inputs = &input, .n_inputs = 1, .n_outputs = 1};
    struct pg_op *fused = NULL;
    pg_err err = pg_op_create(&def, &fused, diag);
    if (err != PG_OK)
        return err;
    pg_op_destroy(&o->graph->nodes[o->maker[mul->src[gate]]].op);
    pg_op_destroy(&mul->op);
    mul->op = fused;
    mul->def = NULL;
    mul->src[0] = x;
    o->readers[x]--;
    return PG_OK;
}

static pg_err rewrite(optimiser *o, pg_diag *diag) {
    pg_graph *g = o->graph;
    pg_graph_readers(g, o->readers);
    pg_graph_makers(g, o->maker);
    for (int i = 0; i < g->n_nodes; i++) { /* in order: batch norm before activation */
        pg_node *node = &g->nodes[i];
        pg_err err = PG_OK;
        if (is(node, "BatchNormalization"))
            err = absorb_batch_norm(o, node, diag);
        else if (is(node, "Relu") || is(node, "Clip"))
            absorb_activation(o, node);
        else if (is(node, "Mul"))
            err = fuse_gate(o, node, diag);
        if (err != PG_OK)
            return err;
    }
    pg_graph_compact(g);
    return PG_OK;
}

pg_err pg_optimise(pg_graph *graph, pg_diag *diag) {
    size_t n = (size_t)graph->n_values;
    optimiser o = {.graph = graph,
                   .readers = pg_malloc(n * sizeof(int)),
                   .maker = pg_malloc(n * sizeof(int)),
                   .marks = pg_malloc(n * sizeof(bool))};
    pg_err err = out_of_memory(diag);
    if (o.readers != NULL && o.maker != NULL && o.marks != NULL) {
        remove_dead(&o);
        err = rewrite(&o, diag);
        if (err == PG_OK)
            err = mark_path(&o, diag);
    }
    pg_free(o.readers);
    pg_free(o.maker);
    pg_free(o.marks);
    if (err == PG_OK && diag != NULL)
        diag->text[0] = '\0';
    return err;
}
