/* Folding by running the operator: a node of constants is made executable as if its first input
 * were computed at run time, run once, and forgotten.
 *
 * Operators work on floats. Where one only moves elements (Slice, Gather, Pad, ...), integers are
 * moved too: it is run over the *positions* of the elements instead, as bit patterns that a float
 * kernel copies as they are, and the integers are read at the positions that come out. Position 0
 * stands for padding, so element i travels as i + 1. */
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/fold_impl.h"

enum { MAX_INPUTS = 64 };
static const uint64_t MAX_FLOPS = (uint64_t)1 << 33; /* some seconds: no exporter leaves as much */

static bool moves(const char *type) {
    static const char *const TYPES[] = {"DepthToSpace", "Expand", "Gather",    "GatherElements",
                                        "GatherND",     "Pad",    "Slice",     "SpaceToDepth",
                                        "Split",        "Tile",   "Transpose", "Trilu"};
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (strcmp(TYPES[i], type) == 0)
            return true;
    return false;
}

/* ---- one run ---- */

typedef struct run {
    struct pg_op *op;
    float *x;                      /* input 0 in the operator's layout; owned */
    float **y;                     /* [n_dst] results in its layout; owned */
    void *saved, *scratch, *state; /* as in pg_op_io */
} run;

static void close_run(run *r) {
    if (r->op != NULL && r->op->cls->unbind != NULL && r->state != NULL)
        r->op->cls->unbind(r->op, &r->state);
    for (int k = 0; r->y != NULL && k < r->op->n_dst; k++)
        pg_free(r->y[k]);
    pg_free(r->y);
    pg_free(r->x);
    pg_free(r->saved);
    pg_free(r->scratch);
    pg_op_destroy(&r->op);
}

/* The caller names the node; so do operators. */
static pg_err without_node(const pg_op_def *def, pg_err err, pg_diag *diag) {
    char prefix[PG_DIAG_MAX];
    if (diag == NULL)
        return err;
    int n = snprintf(prefix, sizeof prefix, "node '%s' (%s): ", def->node, def->type);
    if (n > 0 && n < PG_DIAG_MAX && strncmp(diag->text, prefix, (size_t)n) == 0)
        memmove(diag->text, diag->text + n, strlen(diag->text) + 1 - (size_t)n);
    return err;
}

static pg_err make_operator(const pg_op_def *def, run *r, pg_diag *diag) {
    pg_op_input inputs[MAX_INPUTS];
    if (def->n_inputs > MAX_INPUTS)
        return pg_fail(diag, PG_EMODEL, "has more than %d inputs", MAX_INPUTS);
    memcpy(inputs, def->inputs, (size_t)def->n_inputs * sizeof *inputs);
    inputs[0].constant = NULL;
    pg_op_def as_run = *def;
    as_run.inputs = inputs;
    as_run.folding = moves(def->type); /* the others never met an empty tensor */
    pg_err err = pg_op_create(&as_run, &r->op, diag);
    if (err != PG_OK)
        return without_node(def, err, diag);
    if (r->op->flops > MAX_FLOPS)
        return pg_fail(diag, PG_EMODEL, "takes too long to compute at load");
    int64_t total = 0;
    for (int k = 0; k < r->op->n_dst; k++) {
        int64_t count = pg_shape_count(&r->op->dst[k].shape);
        if (count < 0 || count > PG_FOLD_MAX_VALUE - total)
            return pg_fail(diag, PG_EMODEL, "a constant would be too large");
        total += count;
    }
    pg_layout layout = r->op->layouts == PG_LAYOUTS_CHANNELS_LAST ? PG_CHANNELS_LAST : PG_PLAIN;
    r->op->src[0].layout = r->op->src[0].shape.rank < 3 ? PG_PLAIN : layout;
    for (int k = 0; k < r->op->n_dst; k++)
        r->op->dst[k].layout = r->op->dst[k].shape.rank < 3 ? PG_PLAIN : layout;
    if (r->op->cls->prepare != NULL)
        err = r->op->cls->prepare(r->op, diag);
    return err == PG_OK ? PG_OK : without_node(def, err, diag);
}

static float *array(const pg_shape *shape) {
    return pg_malloc((size_t)pg_shape_count(shape) * sizeof(float));
}

/* `x` is plain; the results are left in r->y. */
static pg_err run_operator(run *r, const float *x, pg_diag *diag) {
    struct pg_op *op = r->op;
    r->x = array(&op->src[0].shape);
    r->y = pg_calloc((size_t)op->n_dst, sizeof *r->y);
    r->saved = pg_malloc(op->saved_bytes);
    r->scratch = pg_malloc(op->scratch_bytes);
    bool ok = r->x != NULL && r->y != NULL && r->saved != NULL && r->scratch != NULL;
    for (int k = 0; ok && k < op->n_dst; k++)
        ok = (r->y[k] = array(&op->dst[k].shape)) != NULL;
    if (!ok)
        return pg_fail(diag, PG_ENOMEM, "no memory for a constant");
    pg_layout_convert(&op->src[0].shape, PG_PLAIN, x, op->src[0].layout, r->x);
    pg_op_io io = {
        .src = (const float *const[]){r->x}, .dst = r->y, .saved = r->saved, .scratch = r->scratch};
    pg_err err = PG_OK;
    if (op->cls->bind != NULL)
        err = op->cls->bind(op, &io, &r->state, diag);
    io.state = r->state;
    return err == PG_OK ? op->cls->forward(op, &io) : err;
}

/* ---- in and out ---- */

static pg_err run_floats(pg_folder *folder, const pg_op_def *def, const pg_const *in, pg_const *out,
                         pg_diag *diag) {
    run r = {0};
    void *data;
    pg_err err = make_operator(def, &r, diag);
    if (err == PG_OK)
        err = run_operator(&r, in->f, diag);
    for (int k = 0; err == PG_OK && k < r.op->n_dst && k < def->n_outputs; k++) {
        const pg_desc *desc = &r.op->dst[k];
        err = pg_fold_result(folder, PG_F32, &desc->shape, &out[k], &data, diag);
        if (err == PG_OK)
            pg_layout_convert(&desc->shape, desc->layout, r.y[k], PG_PLAIN, data);
    }
    close_run(&r);
    return err;
}

static pg_err pick(pg_folder *folder, const pg_const *in, int64_t fill, const pg_shape *shape,
                   const float *positions, pg_const *out, pg_diag *diag) {
    void *data;
    pg_err err = pg_fold_result(folder, PG_I64, shape, out, &data, diag);
    for (int64_t i = 0; err == PG_OK && i < pg_shape_count(shape); i++) {
        uint32_t position;
        memcpy(&position, &positions[i], sizeof position);
        ((int64_t *)data)[i] = position == 0 ? fill : in->i[position - 1];
    }
    if (err == PG_OK)
        out->elem = in->elem;
    return err;
}

static pg_err run_positions(pg_folder *folder, const pg_op_def *def, const pg_const *in,
                            pg_const *out, pg_diag *diag) {
    run r = {0};
    int64_t count = pg_shape_count(&in->shape), fill = 0;
    pg_op_input inputs[MAX_INPUTS];
    pg_op_def plain = *def;
    const pg_const *value = strcmp(def->type, "Pad") == 0 ? pg_fold_input(def, 2) : NULL;
    if (count > PG_FOLD_MAX_VALUE || def->n_inputs > MAX_INPUTS)
        return pg_fail(diag, PG_EMODEL, "has too many elements or inputs");
    if (value != NULL) { /* its own padding is a float, which would be taken for a position */
        if (value->dtype != PG_I64 || pg_shape_count(&value->shape) != 1)
            return pg_fail(diag, PG_EMODEL, "its value has to be one integer");
        fill = value->i[0];
        memcpy(inputs, def->inputs, (size_t)def->n_inputs * sizeof *inputs);
        inputs[2].present = false;
        inputs[2].constant = NULL;
        plain.inputs = inputs;
    }
    float *positions = pg_malloc((size_t)count * sizeof *positions);
    if (positions == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a constant");
    for (int64_t i = 0; i < count; i++) {
        uint32_t position = (uint32_t)i + 1;
        memcpy(&positions[i], &position, sizeof position);
    }
    pg_err err = make_operator(&plain, &r, diag);
    if (err == PG_OK)
        err = run_operator(&r, positions, diag);
    for (int k = 0; err == PG_OK && k < r.op->n_dst && k < def->n_outputs; k++)
        err = pick(folder, in, fill, &r.op->dst[k].shape, r.y[k], &out[k], diag);
    close_run(&r);
    pg_free(positions);
    return err;
}

pg_err pg_fold_run(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in;
    pg_const floats;
    pg_err err = pg_fold_inputs(def, 1, &in, diag);
    if (err != PG_OK)
        return err;
    if (in->dtype == PG_I64 && moves(def->type))
        return run_positions(folder, def, in, out, diag);
    if (in->dtype == PG_I64 && strcmp(def->type, "DequantizeLinear") != 0)
        return pg_fail(diag, PG_EMODEL, "not defined on integers");
    err = pg_fold_convert(folder, in, PG_F32, &floats, diag);
    return err == PG_OK ? run_floats(folder, def, &floats, out, diag) : err;
}

/* Weight standardisation is written as the batch normalisation of weights in training mode, by their
 * own statistics; of one sample that is its instance normalisation. */
pg_err pg_fold_batch_norm(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int64_t training;
    pg_op_def own = *def;
    const pg_const *in = pg_fold_input(def, 0);
    pg_err err = pg_def_int(def, "training_mode", 0, &training, diag);
    training = training || (def->opset < 14 && def->n_outputs > 1); /* once, the outputs told */
    if (err == PG_OK && training && in != NULL && in->shape.rank > 2 && in->shape.dims[0] == 1) {
        own.type = "InstanceNormalization";
        own.n_inputs = def->n_inputs < 3 ? def->n_inputs : 3;
        own.n_outputs = 1;
    }
    return err == PG_OK ? pg_fold_run(folder, &own, out, diag) : err;
}
