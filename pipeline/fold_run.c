#include "pipeline/fold_run.h"

#include <string.h>

#include "kernels/mem.h"
#include "pipeline/fold_impl.h"

/* Bounds what a small file can make the loader compute. */
#define FLOPS_MAX ((uint64_t)1 << 34)

/* One operator, its buffers, and its one run-time input: the first. */
typedef struct run {
    struct pg_op *op;
    float *src;
    float **dst;
    void *saved, *scratch;
    pg_op_io io;
    bool bound;
} run;

static pg_layout layout_for(const struct pg_op *op, const pg_shape *shape) {
    return op->layouts == PG_LAYOUTS_CHANNELS_LAST && shape->rank >= 3 ? PG_CHANNELS_LAST
                                                                       : PG_PLAIN;
}

static float *take_floats(const pg_shape *shape) {
    return pg_malloc((size_t)pg_shape_count(shape) * sizeof(float));
}

static pg_err prepare(run *r, const pg_const *in, pg_diag *diag) {
    struct pg_op *op = r->op;
    pg_assert(op->n_src == 1);
    op->src[0].layout = layout_for(op, &op->src[0].shape);
    for (int k = 0; k < op->n_dst; k++)
        op->dst[k].layout = layout_for(op, &op->dst[k].shape);
    pg_err err = op->cls->prepare != NULL ? op->cls->prepare(op, diag) : PG_OK;
    if (err != PG_OK)
        return err;
    r->src = take_floats(&op->src[0].shape);
    r->dst = pg_calloc((size_t)op->n_dst, sizeof *r->dst);
    r->saved = pg_malloc(op->saved_bytes);
    r->scratch = pg_malloc(op->scratch_bytes);
    bool ok = r->src != NULL && r->dst != NULL &&
              (r->saved != NULL || op->saved_bytes == 0) &&
              (r->scratch != NULL || op->scratch_bytes == 0);
    for (int k = 0; ok && k < op->n_dst; k++)
        ok = (r->dst[k] = take_floats(&op->dst[k].shape)) != NULL;
    if (!ok)
        return pg_fail(diag, PG_ENOMEM, "node '%s': no memory to compute it", op->node);
    pg_layout_convert(&op->src[0].shape, PG_PLAIN, in->f, op->src[0].layout, r->src);
    return PG_OK;
}

static pg_err execute(run *r, pg_diag *diag) {
    struct pg_op *op = r->op;
    const float *src[1] = {r->src};
    r->io = (pg_op_io){.src = src, .dst = r->dst, .saved = r->saved, .scratch = r->scratch};
    pg_err err = PG_OK;
    if (op->cls->bind != NULL) {
        err = op->cls->bind(op, &r->io, &r->io.state, diag);
        r->bound = err == PG_OK;
    }
    if (err == PG_OK && op->cls->forward(op, &r->io) != PG_OK)
        err = pg_fail(diag, PG_EFAIL, "node '%s' (%s): could not be computed", op->node, op->type);
    if (r->bound && op->cls->unbind != NULL)
        op->cls->unbind(op, &r->io.state);
    return err;
}

static void clear(run *r) {
    for (int k = 0; r->dst != NULL && k < r->op->n_dst; k++)
        pg_free(r->dst[k]);
    pg_free(r->dst);
    pg_free(r->src);
    pg_free(r->saved);
    pg_free(r->scratch);
    pg_op_destroy(&r->op);
}

static pg_err keep(pg_folder *folder, run *r, pg_const *out, pg_diag *diag) {
    const pg_desc *dst = &r->op->dst[0];
    void *data;
    pg_err err = pg_fold_result(folder, PG_F32, &dst->shape, out, &data, diag);
    if (err == PG_OK)
        pg_layout_convert(&dst->shape, dst->layout, r->dst[0], PG_PLAIN, data);
    return err;
}

pg_err pg_fold_run(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    if (in == NULL || in->dtype != PG_F32)
        return pg_fail(diag, PG_EMODEL,
                       "node '%s' (%s): cannot be computed from constants when the model is loaded",
                       def->node, def->type);
    pg_op_input *inputs = pg_pool_array(folder->pool, (size_t)def->n_inputs, sizeof *inputs);
    if (inputs == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    memcpy(inputs, def->inputs, (size_t)def->n_inputs * sizeof *inputs);
    inputs[0].constant = NULL;
    pg_op_def live = *def;
    live.inputs = inputs;
    run r = {.op = NULL};
    pg_err err = pg_op_create(&live, &r.op, diag);
    if (err != PG_OK)
        return err;
    if (r.op->flops > FLOPS_MAX)
        err = pg_fail(diag, PG_EMODEL, "node '%s' (%s): too much to compute from constants",
                      def->node, def->type);
    if (err == PG_OK)
        err = prepare(&r, in, diag);
    if (err == PG_OK)
        err = execute(&r, diag);
    if (err == PG_OK)
        err = keep(folder, &r, out, diag);
    clear(&r);
    return err;
}
