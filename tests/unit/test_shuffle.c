#include <criterion/criterion.h>
#include <string.h>

#include "pipeline/shuffle.h"

static const pg_attr perm = {
    .name = "perm", .type = PG_ATTR_INTS, .ints = (const int64_t[]){0, 2, 1, 3, 4}, .count = 5};
static const pg_attr other = {
    .name = "perm", .type = PG_ATTR_INTS, .ints = (const int64_t[]){0, 2, 1, 4, 3}, .count = 5};

/* Appends a node that reads `src`; returns the value it makes. */
static int add(pg_graph *g, const char *type, int src, const pg_attr *attr, int n,
               const int64_t *shape) {
    static pg_op_def defs[16];
    static int next;
    pg_const list = {.dtype = PG_I64, .shape = {.rank = 1, .dims = {n}}, .i = shape};
    pg_op_input inputs[] = {{.present = true, .shape = g->values[src].shape},
                            {.present = true, .constant = &list, .shape = list.shape}};
    pg_op_def *def = &defs[next++ % 16];
    *def = (pg_op_def){.node = "n",
                       .type = type,
                       .opset = 13,
                       .attrs = attr,
                       .n_attrs = attr != NULL,
                       .inputs = inputs,
                       .n_inputs = shape ? 2 : 1,
                       .n_outputs = 1};
    struct pg_op *op = NULL;
    pg_diag diag = {{0}};
    cr_assert_eq(pg_op_create(def, &op, &diag), PG_OK, "%s", diag.text);
    const char *name = NULL;
    pg_node *node = pg_graph_add_node(g, &op, def, &src, &name);
    cr_assert(node != NULL);
    return node->dst[0];
}

/* relu -> reshape -> transpose -> reshape -> relu on [1,6,2,3] with groups [a,b] */
static void build(pg_graph *g, pg_pool *pool, const pg_attr *order, int64_t a, int64_t b,
                  int64_t channels) {
    int64_t h = order == &perm ? 2 : 3, w = 5 - h;
    pg_graph_init(g, pool);
    g->input = pg_graph_add_value(g, "x", &(pg_shape){4, {1, 6, 2, 3}});
    int v = add(g, "Relu", g->input, NULL, 0, NULL);
    v = add(g, "Reshape", v, NULL, 5, (int64_t[]){1, a, b, 2, 3});
    v = add(g, "Transpose", v, order, 0, NULL);
    v = add(g, "Reshape", v, NULL, 4, (int64_t[]){1, channels, 6 / channels * h, w});
    g->logits = add(g, "Relu", v, NULL, 0, NULL);
}

Test(shuffle, three_nodes_become_one_that_computes_the_same) {
    pg_pool pool = {0};
    pg_graph g;
    pg_diag diag = {{0}};
    build(&g, &pool, &perm, 2, 3, 6);
    cr_assert_eq(pg_fuse_shuffles(&g, &diag), PG_OK);
    cr_assert_eq(g.n_nodes, 3);
    struct pg_op *op = g.nodes[1].op;
    cr_assert_str_eq(op->type, "Gather");
    cr_assert(op->layouts == PG_LAYOUTS_SAME && g.nodes[1].src[0] == g.nodes[0].dst[0] &&
              g.nodes[1].dst[0] == g.nodes[2].src[0]);
    cr_assert_eq(op->cls->prepare(op, &diag), PG_OK);
    float x[36], y[36], *dst = y;
    const float *src = x;
    for (int i = 0; i < 36; i++)
        x[i] = (float)i;
    cr_assert_eq(op->cls->forward(op, &(pg_op_io){.src = &src, .dst = &dst}), PG_OK);
    for (int c = 0; c < 6; c++) /* [2,3] transposed: 0 3 1 4 2 5 */
        for (int i = 0; i < 6; i++)
            cr_assert_eq(y[6 * c + i], (float)(6 * (c % 2 * 3 + c / 2) + i));
    pg_graph_clear(&g);
    pg_pool_clear(&pool);
}

Test(shuffle, others_are_left_alone) {
    pg_pool pool = {0};
    pg_graph g;
    pg_diag diag = {{0}};
    build(&g, &pool, &other, 2, 3, 6); /* swaps height and width too */
    cr_assert_eq(pg_fuse_shuffles(&g, &diag), PG_OK);
    cr_assert_eq(g.n_nodes, 5);
    pg_graph_clear(&g);
    build(&g, &pool, &perm, 2, 3, 3); /* other channels come out */
    cr_assert_eq(pg_fuse_shuffles(&g, &diag), PG_OK);
    cr_assert_eq(g.n_nodes, 5);
    pg_graph_clear(&g);
    build(&g, &pool, &perm, 2, 3, 6); /* somebody else reads in between */
    add(&g, "Relu", g.nodes[2].dst[0], NULL, 0, NULL);
    cr_assert_eq(pg_fuse_shuffles(&g, &diag), PG_OK);
    cr_assert_eq(g.n_nodes, 6);
    pg_graph_clear(&g);
    pg_pool_clear(&pool);
}
