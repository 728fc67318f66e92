/* ShuffleNet writes a shuffle of channels as
 *
 *   [N,C,H,W] -> Reshape [N,g,k,H,W] -> Transpose (0,2,1,3,4) -> Reshape [N,C,H,W],   C = g k
 *
 * and reshapes are at home in the plain layout only: left alone, every shuffle would cost two
 * conversions of a channels-last network. One Gather on axis 1 works in either layout. */
#include "pipeline/shuffle.h"

#include <string.h>

#include "kernels/mem.h"

typedef struct shuffle {
    pg_node *split, *swap, *merge; /* the three nodes */
    int64_t g, k;
} shuffle;

static bool is(const pg_node *node, const char *type) {
    return node->op != NULL && strcmp(node->op->type, type) == 0 && node->op->n_src == 1;
}

/* perm is 0, 2, 1 and everything behind in place. */
static bool swaps(const pg_node *node) {
    const pg_attr *perm = node->def != NULL ? pg_def_attr(node->def, "perm") : NULL;
    if (perm == NULL || perm->type != PG_ATTR_INTS || perm->count < 4)
        return false;
    for (size_t i = 0; i < perm->count; i++)
        if (perm->ints[i] != (i == 1 ? 2 : i == 2 ? 1 : (int64_t)i))
            return false;
    return true;
}

/* The three nodes around the transpose, if they are a shuffle and nobody reads between them. */
static bool find(const pg_graph *g, const int *readers, const int *maker, pg_node *swap,
                 shuffle *out) {
    int before = swap->src[0], after = swap->dst[0];
    if (maker[before] < 0 || readers[before] != 1 || readers[after] != 1 || after == g->logits)
        return false;
    *out = (shuffle){.split = &g->nodes[maker[before]], .swap = swap};
    for (int i = 0; i < g->n_nodes && out->merge == NULL; i++)
        if (is(&g->nodes[i], "Reshape") && g->nodes[i].src[0] == after)
            out->merge = &g->nodes[i];
    if (!is(out->split, "Reshape") || out->merge == NULL || before == g->logits)
        return false;
    const pg_shape *whole = &out->split->op->src[0].shape, *parts = &swap->op->src[0].shape;
    out->g = parts->dims[1], out->k = parts->dims[2];
    return whole->rank >= 3 && whole->dims[0] == parts->dims[0] &&
           whole->dims[1] == out->g * out->k &&
           pg_shape_equal(whole, &out->merge->op->dst[0].shape);
}

/* Channel i of the result, which is [k,g], is channel (i % g) * k + i / g of the source, [g,k]. */
static pg_err make_gather(const shuffle *s, struct pg_op **op, pg_diag *diag) {
    int64_t channels = s->g * s->k;
    int64_t *order = pg_malloc((size_t)channels * sizeof *order);
    if (order == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    for (int64_t i = 0; i < channels; i++)
        order[i] = i % s->g * s->k + i / s->g;
    const pg_const indices = {
        .dtype = PG_I64, .shape = {.rank = 1, .dims = {channels}}, .i = order};
    const pg_op_input inputs[] = {{.present = true, .shape = s->split->op->src[0].shape},
                                  {.present = true, .constant = &indices, .shape = indices.shape}};
    const pg_attr axis = {.name = "axis", .type = PG_ATTR_INT, .i = 1};
    const pg_op_def def = {.node = s->swap->op->node,
                           .type = "Gather",
                           .opset = 13,
                           .attrs = &axis,
                           .n_attrs = 1,
                           .inputs = inputs,
                           .n_inputs = 2,
                           .n_outputs = 1};
    pg_err err = pg_op_create(&def, op, diag);
    pg_free(order); /* the operator has made its own table of it */
    return err;
}

static pg_err fuse(pg_graph *g, int *readers, int *maker, pg_diag *diag) {
    pg_graph_readers(g, readers);
    pg_graph_makers(g, maker);
    for (int i = 0; i < g->n_nodes; i++) {
        shuffle s;
        struct pg_op *gather = NULL;
        if (!is(&g->nodes[i], "Transpose") || !swaps(&g->nodes[i]) ||
            !find(g, readers, maker, &g->nodes[i], &s))
            continue;
        pg_err err = make_gather(&s, &gather, diag);
        if (err != PG_OK)
            return err;
        s.merge->src[0] = s.split->src[0];
        pg_op_destroy(&s.split->op);
        pg_op_destroy(&s.swap->op);
        pg_op_destroy(&s.merge->op);
        s.merge->op = gather;
        s.merge->def = NULL;
    }
    pg_graph_compact(g);
    return PG_OK;
}

pg_err pg_fuse_shuffles(pg_graph *graph, pg_diag *diag) {
    int *readers = pg_malloc((size_t)graph->n_values * sizeof *readers);
    int *maker = pg_malloc((size_t)graph->n_values * sizeof *maker);
    pg_err err = readers != NULL && maker != NULL
                     ? fuse(graph, readers, maker, diag)
                     : pg_fail(diag, PG_ENOMEM, "no memory for the model");
    pg_free(readers);
    pg_free(maker);
    return err;
}
