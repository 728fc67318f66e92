/* Relevance through a session, node by node. */
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/mem.h"
#include "pipeline/lrp.h"

struct pg_lrp_walk {
    const pg_lrp *lrp;
    pg_session *session;
    pg_relevance_io *io;               /* [n_nodes] of layers */
    pg_relevance_run *run;             /* [n_nodes] */
    float **r;                         /* [n_nodes] relevance of the first output */
    const pg_crp_condition *condition; /* of the running walk */
};

/* ---- life ---- */

static bool apart(const float *a, const float *b, int64_t count) {
    return a == NULL || b == NULL || a == b || a + count <= b || b + count <= a;
}

/* An addition right before a node that would hand it relevance as it is takes it from there, which
 * saves a copy, unless what it makes of it would overwrite what it has not read. */
static void join(pg_lrp_walk *w, int node) {
    const pg_op_io *add = pg_session_io(w->session, node - 1),
                   *io = pg_session_io(w->session, node);
    int64_t count = w->lrp->nodes[node - 1].sum;
    if (w->lrp->nodes[node].step == PG_LRP_PASS && count > 0 && io->d_src[0] == add->d_dst[0] &&
        !io->add[0] && apart(io->d_dst[0], add->d_src[0], count) &&
        apart(io->d_dst[0], add->d_src[1], count))
        w->r[node - 1] = w->r[node];
}

static pg_err bind(pg_lrp_walk *w, pg_diag *diag) {
    pg_err err = PG_OK;
    for (int i = 0; err == PG_OK && i < w->lrp->n_nodes; i++) {
        const pg_lrp_node *n = &w->lrp->nodes[i];
        const pg_op_io *io = pg_session_io(w->session, i);
        w->r[i] = (float *)io->d_dst[0]; /* ours, see pg_session_walk */
        if (i > 0)
            join(w, i);
        if (n->step != PG_LRP_LAYER || io->d_src[0] == NULL)
            continue;
        w->io[i] = (pg_relevance_io){.x = io->src[0],
                                     .y = io->dst[0],
                                     .r = io->d_dst[0],
                                     .r_in = io->d_src[0],
                                     .scratch = io->scratch};
        err = pg_relevance_bind(&n->relevance, &w->io[i], &w->run[i], diag);
    }
    return err;
}

pg_err pg_lrp_walk_create(const pg_lrp *lrp, pg_session *session, pg_lrp_walk **out,
                          pg_diag *diag) {
    size_t n = (size_t)lrp->n_nodes;
    pg_lrp_walk *w = *out = pg_calloc(1, sizeof *w);
    if (w == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for relevance");
    w->lrp = lrp;
    w->session = session;
    w->io = pg_calloc(n, sizeof *w->io);
    w->run = pg_calloc(n, sizeof *w->run);
    w->r = pg_calloc(n, sizeof *w->r);
    pg_err err = w->io && w->run && w->r ? bind(w, diag)
                                         : pg_fail(diag, PG_ENOMEM, "no memory for relevance");
    if (err != PG_OK)
        pg_lrp_walk_destroy(out);
    return err;
}

void pg_lrp_walk_destroy(pg_lrp_walk **walk) {
    pg_lrp_walk *w = walk ? *walk : NULL;
    if (w == NULL)
        return;
    for (int i = 0; w->run && i < w->lrp->n_nodes; i++)
        pg_relevance_unbind(&w->run[i]);
    pg_free(w->io);
    pg_free(w->run);
    pg_free(w->r);
    pg_free(w);
    *walk = NULL;
}

/* ---- the condition ---- */

/* Counts what each channel has and takes it from those that are not kept. */
static void lay(const pg_crp_condition *condition, float *r) {
    const pg_crp_layer *l = condition->layer;
    int64_t step = l->channels_last ? l->channels : 1;
    for (int64_t c = 0; c < l->channels; c++) {
        float *first = r + (l->channels_last ? c : c * l->positions);
        double sum = 0;
        for (int64_t p = 0; p < l->positions; p++)
            sum += (double)first[p * step];
        condition->relevance[c] = sum;
        for (int64_t p = 0; condition->keep && !condition->keep[c] && p < l->positions; p++)
            first[p * step] = 0;
    }
}

/* ---- the steps ---- */

static int64_t count_of(const pg_desc *desc) { return pg_shape_count(&desc->shape); }

static pg_err norm(const pg_lrp_walk *w, int node, const pg_op *op, const pg_op_io *io) {
    const pg_lrp_node *n = &w->lrp->nodes[node];
    float *r = w->r[node];
    pg_assert(!op->adds);
    if (n->sum > 0) {
        pg_relevance_divide(n->sum, n->epsilon, r, (const float *const[]){io->src[0], io->src[1]},
                            (float *const[]){io->d_src[0], io->d_src[1]});
        return PG_OK;
    }
    const float *z = pg_session_io(w->session, n->z)->dst[0];
    pg_relevance_share(count_of(&op->dst[0]), 1, n->epsilon, r, z, r);
    pg_err err = op->cls->backward(op, io);
    for (int k = 0; err == PG_OK && k < op->n_src; k++)
        if (io->d_src[k] != NULL)
            pg_relevance_weigh(count_of(&op->src[k]), io->src[k], io->d_src[k]);
    return err;
}

static void pass(const pg_lrp_walk *w, int node, const pg_op *op, const pg_op_io *io) {
    int64_t count = count_of(&op->dst[0]);
    bool joined = node > 0 && w->r[node - 1] == w->r[node];
    if (io->d_src[0] == NULL || io->d_src[0] == io->d_dst[0] || joined)
        return;
    if (io->add != NULL && io->add[0])
        pg_channel_add(count, io->d_dst[0], io->d_src[0]);
    else
        memcpy(io->d_src[0], io->d_dst[0], (size_t)count * sizeof(float));
}

static pg_err step(void *user, int node, const pg_op *op, const pg_op_io *io) {
    pg_lrp_walk *w = user;
    const pg_lrp_node *n = &w->lrp->nodes[node];
    if (w->condition && w->condition->layer->node == node)
        lay(w->condition, w->r[node]);
    switch (n->step) {
    case PG_LRP_SKIP:
        return PG_OK;
    case PG_LRP_ROUTE:
        return op->cls->backward(op, io);
    case PG_LRP_PASS:
        pass(w, node, op, io);
        return PG_OK;
    case PG_LRP_NORM:
        return norm(w, node, op, io);
    case PG_LRP_LAYER:
        return w->io[node].r_in ? pg_relevance_execute(&n->relevance, &w->run[node], &w->io[node])
                                : PG_OK;
    }
    return PG_OK;
}

pg_err pg_lrp_walk_run(pg_lrp_walk *walk, const float *relevance, const pg_crp_condition *condition,
                       pg_diag *diag) {
    walk->condition = condition;
    pg_err err = pg_session_walk(walk->session, relevance, step, walk, diag);
    walk->condition = NULL;
    return err;
}
