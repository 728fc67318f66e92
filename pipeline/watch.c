#include "pipeline/watch.h"

#include <string.h>

#include "kernels/mem.h"
#include "pipeline/nearest.h"

/* [1, C, H, W] */
static bool is_map(const pg_shape *shape) { return shape->rank == 4 && shape->dims[0] == 1; }

static bool spatial(const pg_shape *shape) {
    return is_map(shape) && shape->dims[2] * shape->dims[3] > 1;
}

/* ---- by name ---- */

static const char *node_name(const pg_graph *g, int i) { return g->nodes[i].op->node; }

static void offer(pg_nearest *nearest, const char *wanted, const char *name) {
    for (int i = 0; i < nearest->count; i++) /* a node and its output often have one name */
        if (strcmp(nearest->items[i], name) == 0)
            return;
    if (name[0] != '\0')
        pg_nearest_offer(nearest, pg_name_distance(wanted, name), name);
}

static pg_err no_such_layer(const pg_graph *g, const char *name, pg_diag *diag) {
    pg_nearest nearest = {.count = 0};
    for (int i = 0; i < g->n_nodes; i++)
        if (spatial(&g->nodes[i].op->dst[0].shape)) {
            offer(&nearest, name, node_name(g, i));
            offer(&nearest, name, g->values[g->nodes[i].dst[0]].name);
        }
    pg_fail(diag, PG_ECONFIG, "cam.layer: the network has no layer '%s'", name);
    for (int i = 0; i < nearest.count; i++)
        pg_diag_append(diag, "%s'%s'", i ? ", " : "; the nearest names are ",
                       (const char *)nearest.items[i]);
    return PG_ECONFIG;
}

pg_err pg_watch_named(pg_graph *g, const char *name, pg_diag *diag) {
    if (name == NULL || name[0] == '\0')
        return PG_OK;
    for (int i = 0; i < g->n_nodes; i++) {
        const pg_node *node = &g->nodes[i];
        for (int k = 0; k < node->op->n_dst; k++)
            if (strcmp(g->values[node->dst[k]].name, name) == 0)
                g->watched = node->dst[k];
        if (g->watched < 0 && strcmp(node_name(g, i), name) == 0)
            g->watched = node->dst[0];
    }
    return g->watched >= 0 ? PG_OK : no_such_layer(g, name, diag);
}

/* ---- by position ---- */

static bool is(const pg_node *node, const char *const *types, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(node->op->type, types[i]) == 0)
            return true;
    return false;
}

/* Attention's weights, and products of two computed values, which is how they are used. */
static bool attends(const pg_node *node) {
    static const char *const softmax[] = {"Softmax"}, *const products[] = {"MatMul", "Einsum"};
    return is(node, softmax, 1) || (node->op->n_src > 1 && is(node, products, 2));
}

static int maker_of(const pg_graph *g, int value) {
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].op->n_dst; k++)
            if (g->nodes[i].dst[k] == value)
                return i;
    return -1;
}

/* What attention makes, and that in another order: [1, heads, tokens, width] looks like a map. */
static bool of_attention(const pg_graph *g, int i) {
    static const char *const moves[] = {"Transpose", "Reshape",  "Squeeze",      "Unsqueeze",
                                        "Flatten",   "Identity", "LayoutConvert"};
    while (i >= 0 && !attends(&g->nodes[i]))
        i = is(&g->nodes[i], moves, sizeof moves / sizeof moves[0])
                ? maker_of(g, g->nodes[i].src[0])
                : -1;
    return i >= 0;
}

void pg_watch_last(pg_graph *g) {
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const pg_node *node = &g->nodes[i];
        if (of_attention(g, i))
            return;
        if (node->on_path && node->dst[0] != g->logits && spatial(&node->op->dst[0].shape)) {
            g->watched = node->dst[0];
            return;
        }
    }
}

/* ---- describing ---- */

/* Types whose output is an affine function of one input: with all others constant, so one source.
 */
static bool affine(const pg_node *node) {
    static const char *const types[] = {"GlobalAveragePool",
                                        "AveragePool",
                                        "ReduceMean",
                                        "ReduceSum",
                                        "Flatten",
                                        "Reshape",
                                        "Squeeze",
                                        "Unsqueeze",
                                        "Transpose",
                                        "Identity",
                                        "Dropout",
                                        "LayoutConvert",
                                        "Gemm",
                                        "Conv",
                                        "Add",
                                        "Sub",
                                        "BatchNormalization"};
    return node->op->n_src == 1 && !node->has_act &&
           is(node, types, sizeof types / sizeof types[0]);
}

static pg_desc desc_of(const pg_graph *g, int maker, int value) {
    const pg_node *node = &g->nodes[maker];
    int k = 0;
    while (node->dst[k] != value)
        k++;
    return node->op->dst[k];
}

static bool leads_to_logits(const pg_graph *g, int maker) {
    return maker >= 0 && g->nodes[maker].on_path && g->watched != g->logits;
}

pg_err pg_watch_describe(const pg_graph *g, pg_model_info *info, pg_diag *diag) {
    info->watched = (pg_desc){0};
    info->watched_name = NULL;
    info->linear_tail = false;
    if (g->watched < 0)
        return PG_OK;
    const char *name = g->values[g->watched].name;
    int maker = maker_of(g, g->watched);
    if (maker >= 0)
        info->watched = desc_of(g, maker, g->watched);
    if (!leads_to_logits(g, maker) || !is_map(&info->watched.shape))
        return pg_fail(
            diag, PG_ECONFIG,
            "cam.layer: '%s' is not a [1,C,H,W] value between the picture and the logits", name);
    info->watched_name = name[0] != '\0' ? name : node_name(g, maker);
    info->linear_tail = true;
    double flops = 0, tail = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        flops += (double)g->nodes[i].op->flops;
        tail += i > maker ? (double)g->nodes[i].op->flops : 0;
        info->linear_tail = info->linear_tail && (i <= maker || affine(&g->nodes[i]));
    }
    info->tail_share = flops > 0 ? tail / flops : 0;
    return PG_OK;
}
