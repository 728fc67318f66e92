#include "pipeline/plan.h"

#include <stdio.h>
#include <string.h>

#include "kernels/defect.h"
#include "kernels/mem.h"

typedef struct planner {
    pg_graph *graph;
    pg_plan *plan;
    bool backward;
    int end;            /* the step nothing outlives */
    int *root;          /* per value: the one whose memory it shares */
    int *block;         /* per root: its block */
    int *d_block;       /* per root: its gradient's block, -1: none yet */
    int *left;          /* per root: contributions to its gradient still to come */
    int *maker;         /* per value: its node, -1: the input */
    pg_block *blocks;
    int n_blocks, room;
} planner;

/* The plan's offsets hold block numbers until the blocks have been placed. */
static int new_block(planner *p, size_t bytes, int first, int last) {
    pg_assert(p->n_blocks < p->room);
    p->blocks[p->n_blocks] = (pg_block){.bytes = bytes, .first = first, .last = last};
    return p->n_blocks++;
}

static size_t value_bytes(const pg_graph *g, int value) {
    return (size_t)pg_shape_count(&g->values[value].shape) * sizeof(float);
}

static void live_until(pg_block *block, int step) {
    if (block->last < step)
        block->last = step;
}

/* ---- forward ---- */

static void forward_blocks(planner *p) {
    pg_graph *g = p->graph;
    for (int v = 0; v < g->n_values; v++)
        p->root[v] = v, p->block[v] = p->d_block[v] = -1;
    p->block[g->input] = new_block(p, value_bytes(g, g->input), 0, p->end);
    for (int i = 0; i < g->n_nodes; i++) {
        const pg_node *node = &g->nodes[i];
        pg_node_plan *plan = &p->plan->nodes[i];
        for (int k = 0; k < node->op->n_src; k++) {
            int block = p->block[p->root[node->src[k]]];
            live_until(&p->blocks[block], node->op->keeps_src && p->backward ? p->end : i);
            plan->src[k] = (size_t)block;
        }
        for (int k = 0; k < node->op->n_dst; k++) {
            int v = node->dst[k];
            if (node->op->alias)
                p->root[v] = p->root[node->src[0]];
            else
                p->block[v] = new_block(p, value_bytes(g, v), i, i);
            int block = p->block[p->root[v]];
            if (node->op->keeps_dst && p->backward)
                live_until(&p->blocks[block], p->end);
            plan->dst[k] = (size_t)block;
        }
        plan->saved = plan->rows = PG_NOWHERE;
        if (node->op->saved_bytes > 0)
            plan->saved =
                (size_t)new_block(p, node->op->saved_bytes, i, p->backward ? p->end : i);
    }
    live_until(&p->blocks[p->block[p->root[g->logits]]], p->end);
}

/* The watched value and all that the tail reads besides it stay, so that the tail can run again. */
static void keep_for_tail(planner *p) {
    const pg_graph *g = p->graph;
    bool before = true;
    p->plan->watched_node = -1;
    for (int i = 0; i < g->n_nodes && g->watched >= 0; i++) {
        const pg_node *node = &g->nodes[i];
        for (int k = 0; !before && k < node->op->n_src; k++) {
            pg_block *block = &p->blocks[p->block[p->root[node->src[k]]]];
            if (block->first <= p->plan->watched_node)
                live_until(block, p->end);
        }
        for (int k = 0; k < node->op->n_dst; k++)
            if (node->dst[k] == g->watched) {
                live_until(&p->blocks[p->block[p->root[g->watched]]], p->end);
                p->plan->watched_node = i;
                before = false;
            }
    }
}

/* ---- backward ---- */

/* The readers of a value are met last to first: the first one met writes the gradient, the others
 * add to it (`adds`) or write a scrap that is added to it. `over`: the block of a gradient that is
 * read for the last time and may be written over, -1: none. */
static void contribute(planner *p, int value, int step, int over, bool adds,
                       pg_contribution *out) {
    int root = p->root[value];
    size_t bytes = value_bytes(p->graph, root);
    *out = (pg_contribution){.add = PG_NOWHERE, .count = (int64_t)(bytes / sizeof(float))};
    if (p->d_block[root] < 0) {
        bool fits = over >= 0 && p->blocks[over].bytes == bytes;
        p->d_block[root] = fits ? over : new_block(p, bytes, step, step);
        out->to = (size_t)p->d_block[root];
        return;
    }
    live_until(&p->blocks[p->d_block[root]], step);
    if (adds) {
        out->to = (size_t)p->d_block[root];
        out->onto = true;
        return;
    }
    out->to = (size_t)new_block(p, bytes, step, step);
    out->add = (size_t)p->d_block[root];
}

#ifdef PG_PLANT_DEFECTS
/* Planted: both inputs of an addition get one gradient buffer, as they do in torch, so that a
 * convolution that edits its output's gradient in place changes what the other branch receives. */
static void share_gradients(planner *p, const pg_node *node, pg_node_plan *plan) {
    if (strcmp(node->op->type, "Add") != 0 || node->op->n_src != 2 ||
        plan->d_src[0].add != PG_NOWHERE || plan->d_src[1].add != PG_NOWHERE)
        return;
    plan->d_src[1].to = plan->d_src[0].to;
    p->d_block[p->root[node->src[1]]] = p->d_block[p->root[node->src[0]]];
}
#else
#define share_gradients(p, node, plan) ((void)0)
#endif

/* A node whose contribution to the gradient of src[0] is the last may hand it over in rows, to a
 * maker with that very value. */
static void hand_over(planner *p, const pg_node *node, int step, pg_node_plan *plan) {
    const pg_graph *g = p->graph;
    if (!node->op->gives_rows)
        return;
    int value = node->src[0], maker = p->maker[value];
    if (p->left[p->root[value]] > 0 || maker < 0 || g->nodes[maker].op->alias ||
        g->nodes[maker].op->rows_bytes == 0)
        return;
    int block = new_block(p, g->nodes[maker].op->rows_bytes, step, 2 * g->n_nodes - 1 - maker);
    plan->rows = (size_t)block;
}

static void count_contributions(planner *p) {
    const pg_graph *g = p->graph;
    memset(p->left, 0, (size_t)g->n_values * sizeof *p->left);
    pg_graph_makers(g, p->maker);
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; !g->nodes[i].op->alias && k < g->nodes[i].op->n_src; k++)
            p->left[p->root[g->nodes[i].src[k]]]++;
}

static void backward_blocks(planner *p) {
    pg_graph *g = p->graph;
    int n = g->n_nodes;
    count_contributions(p);
    p->d_block[p->root[g->logits]] =
        new_block(p, value_bytes(g, g->logits), n, n); /* the seed */
    for (int i = n - 1; i >= 0; i--) {
        const pg_node *node = &g->nodes[i];
        pg_node_plan *plan = &p->plan->nodes[i];
        int step = 2 * n - 1 - i;
        if (node->op->alias)
            continue;
        for (int k = 0; k < node->op->n_dst; k++) {
            int root = node->dst[k]; /* not an alias: its own root */
            plan->d_dst_zero[k] = p->d_block[root] < 0;
            if (plan->d_dst_zero[k])
                p->d_block[root] = new_block(p, value_bytes(g, root), step, step);
            live_until(&p->blocks[p->d_block[root]], step);
            plan->d_dst[k] = (size_t)p->d_block[root];
        }
        for (int k = 0; k < node->op->n_src; k++) {
            p->left[p->root[node->src[k]]]--;
            contribute(p, node->src[k], step,
                       node->op->in_place == k + 1 ? (int)plan->d_dst[0] : -1, node->op->adds,
                       &plan->d_src[k]);
        }
        hand_over(p, node, step, plan);
        if (pg_defect("leak"))
            share_gradients(p, node, plan);
    }
    live_until(&p->blocks[p->d_block[p->root[g->input]]], p->end);
}

static pg_err check_backward(const pg_graph *g, pg_diag *diag) {
    char list[PG_DIAG_MAX / 2] = "";
    int count = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct pg_op *op = g->nodes[i].op;
        if (op->alias || !g->nodes[i].on_path || op->cls->backward != NULL)
            continue;
        size_t used = strlen(list);
        count++;
        snprintf(list + used, sizeof list - used, "%s%s (node '%.300s')", used > 0 ? ", " : "",
                 op->type, op->node);
    }
    if (count == 0)
        return PG_OK;
    return pg_fail(diag, PG_EMODEL, "the gradient cannot pass %d node%s: %s", count,
                   count == 1 ? "" : "s", list);
}

/* ---- numbers to offsets ---- */

static void resolve(const planner *p, size_t *place) {
    if (*place != PG_NOWHERE)
        *place = p->blocks[*place].offset;
}

static void resolve_all(planner *p) {
    pg_graph *g = p->graph;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct pg_op *op = g->nodes[i].op;
        pg_node_plan *plan = &p->plan->nodes[i];
        bool gradient = p->backward && !op->alias;
        for (int k = 0; k < op->n_src; k++) {
            resolve(p, &plan->src[k]);
            if (gradient) {
                resolve(p, &plan->d_src[k].to);
                resolve(p, &plan->d_src[k].add);
            }
        }
        for (int k = 0; k < op->n_dst; k++) {
            resolve(p, &plan->dst[k]);
            if (gradient)
                resolve(p, &plan->d_dst[k]);
        }
        resolve(p, &plan->rows);
        resolve(p, &plan->saved);
    }
    int logits = p->root[g->logits], input = p->root[g->input];
    p->plan->input = p->blocks[p->block[input]].offset;
    p->plan->logits = p->blocks[p->block[logits]].offset;
    p->plan->d_input = p->backward ? p->blocks[p->d_block[input]].offset : PG_NOWHERE;
    p->plan->d_logits = p->backward ? p->blocks[p->d_block[logits]].offset : PG_NOWHERE;
    p->plan->watched = p->plan->d_watched = PG_NOWHERE;
    if (p->plan->watched_node < 0)
        return;
    int watched = p->root[g->watched];
    p->plan->watched = p->blocks[p->block[watched]].offset;
    if (p->backward && p->d_block[watched] >= 0)
        p->plan->d_watched = p->blocks[p->d_block[watched]].offset;
}

static pg_err take_arrays(planner *p, pg_diag *diag) {
    pg_graph *g = p->graph;
    pg_pool *pool = g->pool;
    size_t room = 3; /* input, seed, scratch; per node: saved, rows, its values and gradients */
    bool ok = true;
    p->plan->nodes = pg_pool_array(pool, (size_t)g->n_nodes, sizeof *p->plan->nodes);
    for (int i = 0; p->plan->nodes != NULL && ok && i < g->n_nodes; i++) {
        pg_node_plan *plan = &p->plan->nodes[i];
        size_t n_src = (size_t)g->nodes[i].op->n_src, n_dst = (size_t)g->nodes[i].op->n_dst;
        plan->src = pg_pool_array(pool, n_src, sizeof *plan->src);
        plan->dst = pg_pool_array(pool, n_dst, sizeof *plan->dst);
        plan->d_dst = pg_pool_array(pool, n_dst, sizeof *plan->d_dst);
        plan->d_dst_zero = pg_pool_array(pool, n_dst, sizeof *plan->d_dst_zero);
        plan->d_src = pg_pool_array(pool, n_src, sizeof *plan->d_src);
        ok = plan->src != NULL && plan->dst != NULL && plan->d_dst != NULL &&
             plan->d_dst_zero != NULL && plan->d_src != NULL;
        room += 2 + n_src + 2 * n_dst;
    }
    size_t n = (size_t)g->n_values;
    p->root = pg_malloc(n * sizeof(int));
    p->block = pg_malloc(n * sizeof(int));
    p->d_block = pg_malloc(n * sizeof(int));
    p->left = pg_malloc(n * sizeof(int));
    p->maker = pg_malloc(n * sizeof(int));
    p->blocks = pg_malloc(room * sizeof *p->blocks);
    p->room = (int)room;
    ok = ok && p->plan->nodes != NULL && p->root != NULL && p->block != NULL &&
         p->d_block != NULL && p->left != NULL && p->maker != NULL && p->blocks != NULL;
    return ok ? PG_OK : pg_fail(diag, PG_ENOMEM, "no memory for the model's memory plan");
}

static pg_err plan_blocks(planner *p, pg_diag *diag) {
    pg_graph *g = p->graph;
    size_t scratch = 0;
    forward_blocks(p);
    keep_for_tail(p);
    if (p->backward)
        backward_blocks(p);
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op->scratch_bytes > scratch)
            scratch = g->nodes[i].op->scratch_bytes;
    int shared = new_block(p, scratch, 0, p->end);
    p->plan->arena_bytes = pg_plan_offsets(p->blocks, p->n_blocks);
    if (p->plan->arena_bytes == SIZE_MAX)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model's memory plan");
    resolve_all(p);
    p->plan->scratch = p->blocks[shared].offset;
    return PG_OK;
}

pg_err pg_plan_memory(pg_graph *graph, bool backward, pg_plan *plan, pg_diag *diag) {
    planner p = {.graph = graph, .plan = plan, .backward = backward,
                 .end = (backward ? 2 : 1) * graph->n_nodes};
    pg_err err = backward ? check_backward(graph, diag) : PG_OK;
    if (err == PG_OK)
        err = take_arrays(&p, diag);
    if (err == PG_OK)
        err = plan_blocks(&p, diag);
    pg_free(p.root);
    pg_free(p.block);
    pg_free(p.d_block);
    pg_free(p.left);
    pg_free(p.maker);
    pg_free(p.blocks);
    return err;
}
