#include "pipeline/session.h"

#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/mem.h"
#include "kernels/simd.h"
#include "kernels/threads.h"
#include "pipeline/model_private.h"

/* One operator bound to this session's memory. `io` points at the arrays below it. */
typedef struct runner {
    pg_op_io io;
    const float **src, **d_dst;
    float **dst, **d_src;
    bool *add;
    uint64_t forward_ns, backward_ns;
    bool bound;
} runner;

struct pg_session {
    const pg_model *model;
    pg_pool pool;
    unsigned char *arena;
    runner *runners; /* [n_nodes] */
    float *no_gap;   /* zeros for a convolution that is not run */
    uint64_t (*now_ns)(void);
};

static void *at(const pg_session *s, size_t offset) {
    return offset == PG_NOWHERE ? NULL : s->arena + offset;
}

/* ---- life ---- */

static bool point(pg_session *s, int index) {
    const pg_op *op = s->model->graph.nodes[index].op;
    const pg_node_plan *plan = &s->model->plan.nodes[index];
    runner *r = &s->runners[index];
    size_t n_src = (size_t)op->n_src, n_dst = (size_t)op->n_dst;
    bool gradient = s->model->backward && !op->alias;
    r->src = pg_pool_array(&s->pool, n_src, sizeof *r->src);
    r->d_src = pg_pool_array(&s->pool, n_src, sizeof *r->d_src);
    r->dst = pg_pool_array(&s->pool, n_dst, sizeof *r->dst);
    r->d_dst = pg_pool_array(&s->pool, n_dst, sizeof *r->d_dst);
    r->add = pg_pool_array(&s->pool, n_src, sizeof *r->add);
    if (r->src == NULL || r->d_src == NULL || r->dst == NULL || r->d_dst == NULL ||
        r->add == NULL)
        return false;
    for (size_t k = 0; k < n_src; k++) {
        r->src[k] = at(s, plan->src[k]);
        r->d_src[k] = gradient ? at(s, plan->d_src[k].to) : NULL;
        r->add[k] = gradient && plan->d_src[k].onto;
    }
    for (size_t k = 0; k < n_dst; k++) {
        r->dst[k] = at(s, plan->dst[k]);
        r->d_dst[k] = gradient ? at(s, plan->d_dst[k]) : NULL;
    }
    r->io = (pg_op_io){.src = r->src, .dst = r->dst, .d_dst = r->d_dst, .d_src = r->d_src,
                       .add = r->add, .saved = at(s, plan->saved), .scratch = at(s, s->model->plan.scratch)};
    return true;
}

/* A gradient with a single contribution may be handed on as its live channels alone, if the operator that made
 * the value can take it so. readers, makers: as of pg_graph_readers, pg_graph_makers. */
static bool join(pg_session *s, int index, const int *readers, const int *makers) {
    const pg_graph *g = &s->model->graph;
    const pg_node *node = &g->nodes[index];
    int value = node->op->n_src > 0 ? node->src[0] : -1, maker = value < 0 ? -1 : makers[value];
    if (maker < 0 || readers[value] != 1 || value == g->logits || node->op->alias ||
        g->nodes[maker].op->alias || g->nodes[maker].op->live_most == 0)
        return true;
    pg_live *live = pg_pool_array(&s->pool, 1, sizeof *live);
    if (live == NULL)
        return false;
    live->most = g->nodes[maker].op->live_most;
    s->runners[index].io.d_src_live = live;
    s->runners[maker].io.d_dst_live = live;
    return true;
}

/* The rows a node may hand over, and who takes them. */
static bool join_rows(pg_session *s, int index, const int *makers) {
    const pg_node *node = &s->model->graph.nodes[index];
    const pg_node_plan *plan = &s->model->plan.nodes[index];
    if (plan->rows == PG_NOWHERE)
        return true;
    int maker = makers[node->src[0]];
    pg_rows *rows = pg_pool_array(&s->pool, 1, sizeof *rows);
    if (rows == NULL)
        return false;
    *rows = (pg_rows){.maker = s->model->graph.nodes[maker].op,
                      .io = &s->runners[maker].io,
                      .others = at(s, plan->d_src[0].add),
                      .memory = at(s, plan->rows)};
    s->runners[index].io.d_src_rows = rows;
    s->runners[maker].io.d_dst_rows = rows;
    return true;
}

static bool point_all(pg_session *s) {
    const pg_graph *g = &s->model->graph;
    int *readers = pg_malloc((size_t)g->n_values * sizeof *readers);
    int *makers = pg_malloc((size_t)g->n_values * sizeof *makers);
    bool ok = readers != NULL && makers != NULL;
    if (ok) {
        pg_graph_readers(g, readers);
        pg_graph_makers(g, makers);
    }
    for (int i = 0; ok && i < g->n_nodes; i++)
        ok = point(s, i);
    for (int i = 0; ok && s->model->backward && i < g->n_nodes; i++)
        ok = join(s, i, readers, makers) && join_rows(s, i, makers);
    pg_free(readers);
    pg_free(makers);
    return ok;
}

static pg_err bind(pg_session *s, pg_diag *diag) {
    const pg_graph *g = &s->model->graph;
    if (!point_all(s))
        return pg_fail(diag, PG_ENOMEM, "no memory for a session");
    for (int i = 0; i < g->n_nodes; i++) {
        const pg_op *op = g->nodes[i].op;
        runner *r = &s->runners[i];
        if (op->alias || op->cls->bind == NULL)
            continue;
        pg_err err = op->cls->bind(op, &r->io, &r->io.state, diag);
        if (err != PG_OK)
            return err;
        r->bound = true;
    }
    return PG_OK;
}

static int64_t widest_conv(const pg_graph *g) {
    int64_t widest = 1;
    for (int i = 0; i < g->n_convs; i++)
        widest = g->convs[i].channels > widest ? g->convs[i].channels : widest;
    return widest;
}

pg_err pg_session_create(const pg_model *model, pg_session **out, pg_diag *diag) {
    pg_assert(model->prepared);
    *out = NULL;
    pg_threads_set(model->threads);
    pg_session *s = pg_calloc(1, sizeof *s);
    if (s == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a session");
    s->model = model;
    s->arena = pg_calloc(1, model->plan.arena_bytes);
    s->runners = pg_calloc((size_t)model->graph.n_nodes, sizeof *s->runners);
    s->no_gap = pg_calloc((size_t)widest_conv(&model->graph), sizeof *s->no_gap);
    pg_err err = s->arena == NULL || s->runners == NULL || s->no_gap == NULL
                     ? pg_fail(diag, PG_ENOMEM, "no memory for a session of %zu bytes",
                               model->plan.arena_bytes)
                     : bind(s, diag);
    if (err != PG_OK) {
        pg_session_destroy(&s);
        return err;
    }
    *out = s;
    return PG_OK;
}

void pg_session_destroy(pg_session **session) {
    if (session == NULL || *session == NULL)
        return;
    pg_session *s = *session;
    for (int i = 0; s->runners != NULL && i < s->model->graph.n_nodes; i++) {
        const pg_op *op = s->model->graph.nodes[i].op;
        if (s->runners[i].bound && op->cls->unbind != NULL)
            op->cls->unbind(op, &s->runners[i].io.state);
    }
    pg_free(s->runners);
    pg_free(s->arena);
    pg_free(s->no_gap);
    pg_pool_clear(&s->pool);
    pg_free(s);
    *session = NULL;
}

/* ---- forward ---- */

float *pg_session_input(pg_session *session, pg_layout *layout) {
    if (layout != NULL)
        *layout = session->model->plan.input_layout;
    return at(session, session->model->plan.input);
}

const float *pg_session_output(const pg_session *session) {
    return at(session, session->model->plan.logits);
}

static uint64_t now(const pg_session *s) {
    return s->now_ns != NULL ? s->now_ns() : 0;
}

static pg_err failed(const pg_op *op, pg_err err, const char *what, pg_diag *diag) {
    return pg_fail(diag, err, "node '%s' (%s): %s failed", op->node, op->type, what);
}

/* Nodes from `first` on. */
static pg_err forward_from(pg_session *session, int first, pg_diag *diag) {
    const pg_graph *g = &session->model->graph;
    for (int i = first; i < g->n_nodes; i++) {
        const pg_op *op = g->nodes[i].op;
        runner *r = &session->runners[i];
        if (op->alias)
            continue;
        uint64_t start = now(session);
        pg_err err = op->cls->forward(op, &r->io);
        if (err != PG_OK)
            return failed(op, err, "forward", diag);
        r->forward_ns += now(session) - start;
    }
    return PG_OK;
}

pg_err pg_session_forward(pg_session *session, pg_diag *diag) {
    return forward_from(session, 0, diag);
}

pg_err pg_session_forward_tail(pg_session *session, pg_diag *diag) {
    pg_assert(session->model->graph.watched >= 0);
    return forward_from(session, session->model->plan.watched_node + 1, diag);
}

float *pg_session_watched(pg_session *session) {
    return at(session, session->model->plan.watched);
}

/* ---- backward ---- */

/* A scrap of gradient joins what other readers of the same value have contributed. */
static void accumulate(const pg_session *s, int index) {
    const pg_node_plan *plan = &s->model->plan.nodes[index];
    const pg_rows *rows = s->runners[index].io.d_src_rows;
    for (int k = rows != NULL && rows->taken; k < s->model->graph.nodes[index].op->n_src; k++)
        if (plan->d_src[k].add != PG_NOWHERE)
            pg_channel_add(plan->d_src[k].count, at(s, plan->d_src[k].to), at(s, plan->d_src[k].add));
}

static void clear_unread(const pg_session *s, int index) {
    const pg_op *op = s->model->graph.nodes[index].op;
    const pg_node_plan *plan = &s->model->plan.nodes[index];
    for (int k = 0; k < op->n_dst; k++)
        if (plan->d_dst_zero[k])
            memset(at(s, plan->d_dst[k]), 0,
                   (size_t)pg_shape_count(&op->dst[k].shape) * sizeof(float));
}

static const pg_conv_prune *prune_of(const pg_node *node, const pg_conv_prune *prune) {
    if (prune == NULL || node->conv < 0 || prune[node->conv].keep == NULL)
        return NULL;
    return &prune[node->conv];
}

PG_CLONES static void drop_negative(int64_t count, float *d_dst) {
    for (int64_t i = 0; i < count; i++)
        d_dst[i] = d_dst[i] > 0 ? d_dst[i] : 0;
}

/* Guided backpropagation, in place: all readers of the value have added to its gradient, and nobody
 * but the operator that made it reads it any more. */
static void guide(const pg_session *s, int index) {
    const pg_op *op = s->model->graph.nodes[index].op;
    if (op->relu)
        drop_negative(pg_shape_count(&op->dst[0].shape),
                      at(s, s->model->plan.nodes[index].d_dst[0]));
}

/* What is done at each operator on the way back; none of it: its own backward. */
typedef struct way {
    const pg_conv_prune *prune;
    bool guided;
    pg_session_step *step; /* in its place */
    void *user;
} way;

/* Every node knows how its gradient is to be split before the first one runs: it may be handed over
 * to it by another. */
static void begin_backward(pg_session *s, const pg_conv_prune *prune) {
    for (int i = 0; i < s->model->graph.n_nodes; i++) {
        pg_op_io *io = &s->runners[i].io;
        io->prune = prune_of(&s->model->graph.nodes[i], prune);
        if (io->d_src_live != NULL)
            io->d_src_live->keep = NULL;
        if (io->d_src_rows != NULL)
            io->d_src_rows->taken = false;
    }
}

/* Nodes from the last down to `last`. */
static pg_err backward(pg_session *session, int last, const float *seed, way how, pg_diag *diag) {
    const pg_model *model = session->model;
    pg_assert(model->backward);
    memcpy(at(session, model->plan.d_logits), seed,
           (size_t)pg_shape_count(&model->info.output.shape) * sizeof *seed);
    begin_backward(session, how.prune);
    for (int i = model->graph.n_nodes - 1; i >= last; i--) {
        const pg_node *node = &model->graph.nodes[i];
        runner *r = &session->runners[i];
        if (node->op->alias)
            continue;
        uint64_t start = now(session);
        clear_unread(session, i);
        if (how.guided)
            guide(session, i);
        pg_err err = how.step != NULL ? how.step(how.user, i, node->op, &r->io)
                                      : node->op->cls->backward(node->op, &r->io);
        if (err != PG_OK)
            return failed(node->op, err, "backward", diag);
        accumulate(session, i);
        r->backward_ns += now(session) - start;
    }
    return PG_OK;
}

pg_err pg_session_backward(pg_session *session, const float *seed, const pg_conv_prune *prune,
                           pg_diag *diag) {
    return backward(session, 0, seed, (way){.prune = prune}, diag);
}

pg_err pg_session_backward_guided(pg_session *session, const float *seed, pg_diag *diag) {
    return backward(session, 0, seed, (way){.guided = true}, diag);
}

pg_err pg_session_backward_tail(pg_session *session, const float *seed, pg_diag *diag) {
    pg_assert(session->model->graph.watched >= 0);
    return backward(session, session->model->plan.watched_node + 1, seed, (way){0}, diag);
}

const float *pg_session_d_watched(const pg_session *session) {
    return at(session, session->model->plan.d_watched);
}

pg_err pg_session_walk(pg_session *session, const float *seed, pg_session_step *step, void *user,
                       pg_diag *diag) {
    return backward(session, 0, seed, (way){.step = step, .user = user}, diag);
}

const pg_op_io *pg_session_io(const pg_session *session, int node) {
    pg_assert(node >= 0 && node < session->model->graph.n_nodes);
    return &session->runners[node].io;
}

const float *pg_session_d_input(const pg_session *session) {
    return at(session, session->model->plan.d_input);
}

const float *pg_session_gap(const pg_session *session, int conv) {
    const pg_model *model = session->model;
    pg_assert(conv >= 0 && conv < model->info.n_convs);
    int node = model->conv_node[conv];
    return node < 0 ? session->no_gap
                    : pg_conv_gap(model->graph.nodes[node].op, &session->runners[node].io);
}

/* ---- profile ---- */

void pg_session_profile(pg_session *session, uint64_t (*now_ns)(void)) {
    session->now_ns = now_ns;
    for (int i = 0; i < session->model->graph.n_nodes; i++)
        session->runners[i].forward_ns = session->runners[i].backward_ns = 0;
}

void pg_session_profile_get(const pg_session *session, int op, uint64_t *forward_ns,
                            uint64_t *backward_ns) {
    pg_assert(op >= 0 && op < session->model->graph.n_nodes);
    *forward_ns = session->runners[op].forward_ns;
    *backward_ns = session->runners[op].backward_ns;
}
