/* Import in one pass.
 *
 * Every name of the file is bound to one of: a constant, a value of the graph, or "lost" (what an
 * unsupported node would have made). Batch size is 1 and the image size is fixed, so every shape is
 * known when its node comes by:
 *
 *   Shape, Size                      constant, whatever the input
 *   all inputs constant              folded
 *   Identity, Dropout, casts         the output's name is bound to the input's value: no node
 *   a softmax or sigmoid at the end  likewise: the logits are explained (import_output.c)
 *   pieces of a sequence             slices (import_sequence.c)
 *   anything else                    an operator
 *
 * Nodes that do not lead to the output may be anything: what fails there is not reported. They are
 * looked at all the same, because convolutions are numbered over the whole file (method.md 10).
 */
#include "pipeline/onnx_import.h"

#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_conv.h"
#include "pipeline/import_impl.h"

/* ---- reading names ---- */

static pg_err read_nodes(pg_importer *im, pg_diag *diag) {
    int count = im->model.n_nodes;
    im->n_nodes = count;
    im->nodes = pg_pool_array(im->job->load, (size_t)count, sizeof *im->nodes);
    if (im->nodes == NULL)
        return pg_import_no_memory(diag);
    for (int i = 0; i < count; i++) {
        pg_err err = pg_onnx_read_node(im->model.nodes[i], im->job->load, &im->names,
                                       im->job->external, &im->nodes[i], diag);
        if (err != PG_OK)
            return err;
    }
    pg_err err = pg_import_expand(im, diag);
    if (err != PG_OK)
        return err;
    im->live = pg_pool_array(im->job->load, (size_t)im->n_nodes, sizeof *im->live);
    return im->live != NULL ? PG_OK : pg_import_no_memory(diag);
}

static pg_err read_constants(pg_importer *im, int *ids, const pg_const **values, pg_diag *diag) {
    for (int i = 0; i < im->model.n_tensors; i++) {
        pg_span name = {0};
        pg_const *value = pg_pool_take(im->job->load, sizeof *value);
        if (value == NULL)
            return pg_import_no_memory(diag);
        pg_err err = pg_onnx_read_tensor(im->model.tensors[i], im->job->load, im->job->external,
                                         &name, value, diag);
        if (err != PG_OK)
            return err;
        if (name.size == 0)
            return pg_fail(diag, PG_EMODEL, "an initialiser has no name");
        ids[i] = pg_names_enter(&im->names, (const char *)name.data, name.size);
        if (ids[i] < 0)
            return pg_import_no_memory(diag);
        values[i] = value;
    }
    return PG_OK;
}

/* Everything that has a name is known after this, and what each name is bound to at the start. */
static pg_err read_names(pg_importer *im, pg_diag *diag) {
    int count = im->model.n_tensors;
    int *ids = pg_pool_array(im->job->load, (size_t)count, sizeof *ids);
    const pg_const **values = pg_pool_array(im->job->load, (size_t)count, sizeof *values);
    if (ids == NULL || values == NULL)
        return pg_import_no_memory(diag);
    pg_err err = read_nodes(im, diag);
    if (err == PG_OK)
        err = read_constants(im, ids, values, diag);
    if (err == PG_OK)
        err = pg_import_choose_output(im, diag);
    im->input_values = pg_pool_array(im->job->load, (size_t)im->model.n_inputs,
                                     sizeof *im->input_values);
    if (im->input_values == NULL)
        return pg_import_no_memory(diag);
    for (int i = 0; err == PG_OK && i < im->model.n_inputs; i++)
        err = pg_onnx_read_value(im->model.inputs[i], &im->names, &im->input_values[i], diag);
    if (err != PG_OK)
        return err;
    im->bindings = pg_pool_array(im->job->load, im->names.count, sizeof *im->bindings);
    if (im->bindings == NULL)
        return pg_import_no_memory(diag);
    for (int i = 0; i < count; i++) {
        if (im->bindings[ids[i]].kind != PG_UNBOUND)
            return pg_fail(diag, PG_EMODEL, "two initialisers are named '%s'",
                           pg_import_name(im, ids[i]));
        im->bindings[ids[i]] = (pg_binding){.kind = PG_CONSTANT, .constant = values[i]};
    }
    return PG_OK;
}

/* ---- nodes ---- */

/* A name is made once: files in which it is not are refused. */
static pg_err bind_output(pg_importer *im, const pg_onnx_node *node, int k, pg_binding to,
                          pg_diag *diag) {
    int id = k < node->n_outputs ? node->outputs[k] : -1;
    if (id < 0)
        return PG_OK;
    if (im->bindings[id].kind != PG_UNBOUND)
        return pg_fail(diag, PG_EMODEL, "node '%s' makes '%s', which exists already", node->name,
                       pg_import_name(im, id));
    im->bindings[id] = to;
    return PG_OK;
}

static pg_err lose_outputs(pg_importer *im, const pg_onnx_node *node, pg_diag *diag) {
    pg_err err = PG_OK;
    for (int k = 0; err == PG_OK && k < node->n_outputs; k++)
        err = bind_output(im, node, k, (pg_binding){.kind = PG_LOST}, diag);
    return err;
}

static bool all_constant(const pg_op_def *def) {
    for (int k = 0; k < def->n_inputs; k++)
        if (def->inputs[k].present && def->inputs[k].constant == NULL)
            return false;
    return true;
}

/* The definition an operator is made from; its arrays live until prepare. */
static pg_err define(pg_importer *im, const pg_onnx_node *node, pg_op_def **out, bool *lost,
                     pg_diag *diag) {
    pg_op_def *def = pg_pool_take(im->job->load, sizeof *def);
    pg_op_input *inputs =
        pg_pool_array(im->job->load, (size_t)node->n_inputs, sizeof *inputs);
    if (def == NULL || inputs == NULL)
        return pg_import_no_memory(diag);
    int64_t opset = node->opset > 0 ? node->opset : im->model.opset;
    *def = (pg_op_def){.node = node->name, .type = node->type, .opset = (int)opset,
                       .attrs = node->attrs, .n_attrs = node->n_attrs, .inputs = inputs,
                       .n_inputs = node->n_inputs, .n_outputs = node->n_outputs};
    while (def->n_inputs > 0 && node->inputs[def->n_inputs - 1] < 0)
        def->n_inputs--; /* absent at the end is the same as not there */
    while (def->n_outputs > 0 && node->outputs[def->n_outputs - 1] < 0)
        def->n_outputs--;
    for (int k = 0; k < def->n_outputs; k++)
        if (node->outputs[k] >= 0 && im->wanted[node->outputs[k]])
            def->n_read = k + 1;
    for (int k = 0; k < def->n_inputs; k++) {
        if (node->inputs[k] < 0)
            continue;
        const pg_binding *b = &im->bindings[node->inputs[k]];
        if (b->kind == PG_UNBOUND)
            return pg_fail(diag, PG_EMODEL,
                           "node '%s' (%s) reads '%s', which nothing before it makes", node->name,
                           node->type, pg_import_name(im, node->inputs[k]));
        bool astray = b->kind == PG_SEQUENCE && strcmp(node->type, "SequenceAt") != 0;
        *lost = *lost || b->kind == PG_LOST || astray;
        inputs[k].present = true;
        inputs[k].constant = b->constant;
        if (b->kind == PG_CONSTANT)
            inputs[k].shape = b->constant->shape;
        else if (b->kind == PG_VALUE || b->kind == PG_SEQUENCE)
            inputs[k].shape = im->job->graph->values[b->value].shape;
    }
    *out = def;
    return PG_OK;
}

/* Casts among floating-point types change nothing: every run-time value is a float here. */
static bool casts_to_float(const pg_op_def *def) {
    const pg_attr *to = pg_def_attr(def, "to");
    if (strcmp(def->type, "CastLike") == 0)
        return def->n_inputs > 1 && (def->inputs[1].constant == NULL ||
                                     def->inputs[1].constant->dtype == PG_F32);
    return to != NULL && to->type == PG_ATTR_INT &&
           (to->i == 1 || to->i == 10 || to->i == 11 || to->i == 16);
}

/* True if the node's output is its first input: Identity, Dropout outside training, casts among
 * floating-point types. */
static bool renames(const pg_importer *im, int index, const pg_op_def *def) {
    if (def->n_inputs < 1 || !def->inputs[0].present)
        return false;
    if (index == im->squash || strcmp(def->type, "Identity") == 0)
        return true;
    if (strcmp(def->type, "Cast") == 0 || strcmp(def->type, "CastLike") == 0)
        return casts_to_float(def);
    if (strcmp(def->type, "Dropout") != 0 || def->n_outputs > 1)
        return false;
    if (def->n_inputs < 3 || !def->inputs[2].present)
        return true;
    const pg_const *training = def->inputs[2].constant;
    return training != NULL && training->dtype == PG_I64 &&
           pg_shape_count(&training->shape) == 1 && training->i[0] == 0;
}

/* What the operator makes has to be of a bearable size, and all that is read of the node. */
static pg_err check_made(const pg_importer *im, const pg_op_def *def, const struct pg_op *op,
                         pg_diag *diag) {
    if (def->n_read > op->n_dst)
        return pg_fail(diag, PG_EMODEL, "node '%s' (%s): its output %d is read, and not computed",
                       def->node, def->type, def->n_read - 1);
    uint64_t limit = im->job->options->max_value_bytes;
    limit = limit != 0 ? limit : (uint64_t)1 << 30;
    for (int k = 0; k < op->n_dst; k++) {
        int64_t count = pg_shape_count(&op->dst[k].shape);
        char text[PG_SHAPE_TEXT];
        if (count <= 0 || (uint64_t)count > limit / sizeof(float))
            return pg_fail(diag, PG_EMODEL, "node '%s': an output of shape %s is %s", op->node,
                           pg_shape_text(&op->dst[k].shape, text),
                           count <= 0 ? "empty" : "too large");
    }
    return PG_OK;
}

/* What method and `inspect` want to know of a convolution; shapes only where it could be made. */
static pg_err number_conv(pg_importer *im, const pg_onnx_node *node, const pg_op_def *def,
                          const struct pg_op *op, int *number, pg_diag *diag) {
    *number = -1;
    const pg_const *weights = def->n_inputs > 1 ? def->inputs[1].constant : NULL;
    if (strcmp(node->type, "Conv") != 0 || weights == NULL || weights->shape.rank != 4)
        return PG_OK;
    pg_conv_info *info = pg_graph_add_conv(im->job->graph);
    if (info == NULL)
        return pg_import_no_memory(diag);
    *number = im->job->graph->n_convs - 1;
    int64_t strides[2] = {1, 1};
    info->name = pg_import_keep(im, node->name);
    info->output = pg_import_keep(im, node->n_outputs > 0 && node->outputs[0] >= 0
                                     ? pg_import_name(im, node->outputs[0])
                                     : "");
    if (info->name == NULL || info->output == NULL)
        return pg_import_no_memory(diag);
    info->channels = weights->shape.dims[0];
    info->kernel_h = weights->shape.dims[2];
    info->kernel_w = weights->shape.dims[3];
    if (pg_def_int(def, "group", 1, &info->groups, NULL) != PG_OK ||
        pg_def_ints(def, "strides", 2, 1, strides, NULL) != PG_OK)
        return PG_OK; /* a dead one with attributes nobody reads */
    info->stride_h = strides[0];
    info->stride_w = strides[1];
    if (op == NULL)
        return PG_OK;
    info->in_channels = op->src[0].shape.dims[1];
    info->height = op->dst[0].shape.dims[2];
    info->width = op->dst[0].shape.dims[3];
    info->flops = op->flops;
    return PG_OK;
}

static pg_err bind_node(pg_importer *im, const pg_onnx_node *node, const pg_op_def *def,
                        struct pg_op **op, int conv, pg_diag *diag) {
    pg_graph *g = im->job->graph;
    int n_src = 0, n_dst = (*op)->n_dst;
    int *src = pg_pool_array(im->job->load, (size_t)def->n_inputs, sizeof *src);
    const char **names = pg_pool_array(im->job->load, (size_t)n_dst, sizeof *names);
    if (src == NULL || names == NULL)
        return pg_import_no_memory(diag);
    for (int k = 0; k < def->n_inputs; k++)
        if (def->inputs[k].present && def->inputs[k].constant == NULL)
            src[n_src++] = im->bindings[node->inputs[k]].value;
    pg_assert(n_src == (*op)->n_src);
    for (int k = 0; k < n_dst; k++)
        if (k < node->n_outputs && node->outputs[k] >= 0 &&
            (names[k] = pg_import_keep(im, pg_import_name(im, node->outputs[k]))) == NULL)
            return pg_import_no_memory(diag);
    pg_node *made = pg_graph_add_node(g, op, def, src, names);
    if (made == NULL)
        return pg_import_no_memory(diag);
    made->conv = conv;
    pg_err err = PG_OK;
    for (int k = 0; err == PG_OK && k < n_dst; k++)
        err = bind_output(im, node, k, (pg_binding){.kind = PG_VALUE, .value = made->dst[k]}, diag);
    for (int k = n_dst; err == PG_OK && k < node->n_outputs; k++)
        err = bind_output(im, node, k, (pg_binding){.kind = PG_LOST}, diag);
    return err;
}

/* Keeps count for `inspect`; false: out of memory. */
static bool count_folded(pg_importer *im, const char *type) {
    pg_import *job = im->job;
    job->nodes_folded++;
    for (int i = 0; i < job->n_folded; i++)
        if (strcmp(job->folded[i].type, type) == 0) {
            job->folded[i].count++;
            return true;
        }
    if (job->folded == NULL)
        job->folded = pg_pool_array(job->graph->pool, PG_FOLDED_TYPES, sizeof *job->folded);
    if (job->folded == NULL)
        return false;
    if (job->n_folded == PG_FOLDED_TYPES)
        return true;
    const char *kept = pg_import_keep(im, type);
    job->folded[job->n_folded++] = (pg_folded){.type = kept != NULL ? kept : "", .count = 1};
    return kept != NULL;
}

/* A node whose output is known now. What cannot be computed is put on the list, and import goes
 * on. */
static pg_err constant_node(pg_importer *im, int index, const pg_op_def *def, pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    size_t count = def->n_outputs > 1 ? (size_t)def->n_outputs : 1;
    pg_const *values = pg_pool_array(im->job->load, count, sizeof *values);
    pg_diag why = {{0}};
    int conv, made = 0;
    if (values == NULL)
        return pg_import_no_memory(diag);
    pg_err err = pg_fold(&im->folder, def, values, &why);
    while (err == PG_OK && made < (int)count && values[made].data != NULL)
        made++;
    if (err == PG_OK && def->n_read > made)
        err = pg_fail(&why, PG_EMODEL, "its output %d is read, and not computed", def->n_read - 1);
    if (err != PG_OK && err != PG_EMODEL)
        return pg_fail(diag, err, "%s", why.text);
    bool known_now = err == PG_OK;
    err = !known_now && im->live[index] ? pg_import_refuse(im, index, def, why.text, diag) : PG_OK;
    if (err == PG_OK)
        err = number_conv(im, node, def, NULL, &conv, diag);
    if (err != PG_OK || !known_now)
        return err != PG_OK ? err : lose_outputs(im, node, diag);
    if (!count_folded(im, def->type))
        return pg_import_no_memory(diag);
    for (int k = 0; err == PG_OK && k < (int)count; k++)
        err = bind_output(im, node, k,
                          (pg_binding){.kind = k < made ? PG_CONSTANT : PG_LOST,
                                       .constant = k < made ? &values[k] : NULL},
                          diag);
    return err;
}

/* Makes the operator, or puts the node on the list. */
static pg_err run_time_node(pg_importer *im, int index, const pg_op_def *def, bool lost,
                            pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    struct pg_op *op = NULL;
    pg_diag why = {{0}};
    int conv;
    pg_err err = PG_OK;
    if (!lost && pg_op_known(def->type)) {
        err = pg_op_create(def, &op, &why);
        if (err == PG_OK && (err = check_made(im, def, op, &why)) != PG_OK)
            pg_op_destroy(&op);
        if (err != PG_OK && err != PG_EMODEL)
            return pg_fail(diag, err, "%s", why.text);
        err = err == PG_EMODEL && im->live[index] ? pg_import_refuse(im, index, def, why.text, diag) : PG_OK;
    } else if (im->live[index] &&
               (!lost || !pg_import_knows(def->type) || pg_refusals_advice(def->type)[0] != '\0')) {
        /* behind a node that is on the list already, only what could never run is listed too */
        err = pg_import_refuse(im, index, def, NULL, diag);
    }
    if (err == PG_OK)
        err = number_conv(im, node, def, op, &conv, diag);
    if (err == PG_OK)
        err = op != NULL ? bind_node(im, node, def, &op, conv, diag)
                         : lose_outputs(im, node, diag);
    pg_op_destroy(&op);
    return err;
}

/* Leaves the node out: its output is its first input. */
static pg_err rename_node(pg_importer *im, int index, const pg_op_def *def, pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    if (index == im->squash)
        im->job->squash =
            strcmp(def->type, "Sigmoid") == 0 ? PG_SQUASH_SIGMOID : PG_SQUASH_SOFTMAX;
    return bind_output(im, node, 0, im->bindings[node->inputs[0]], diag);
}

/* A sequence is remembered until somebody takes a piece of it; what takes one is a slice. */
static pg_err sequence_node(pg_importer *im, int index, pg_op_def *def, pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    const pg_binding *from = node->n_inputs > 0 && node->inputs[0] >= 0
                                 ? &im->bindings[node->inputs[0]] : NULL;
    pg_diag why = {{0}};
    if (from != NULL && from->kind == PG_VALUE && strcmp(def->type, "SplitToSequence") == 0)
        return bind_output(im, node, 0,
                           (pg_binding){.kind = PG_SEQUENCE, .value = from->value, .sequence = def},
                           diag);
    pg_err err = from != NULL && from->kind == PG_SEQUENCE
                     ? pg_import_sequence_at(im, from, def, &why)
                     : pg_fail(&why, PG_EMODEL, "only pieces of a computed value can be taken");
    if (err == PG_OK)
        return run_time_node(im, index, def, false, diag);
    if (err != PG_EMODEL)
        return pg_fail(diag, err, "%s", why.text);
    err = im->live[index] ? pg_import_refuse(im, index, def, why.text, diag) : PG_OK;
    return err == PG_OK ? lose_outputs(im, node, diag) : err;
}

static pg_err import_node(pg_importer *im, int index, pg_diag *diag) {
    pg_op_def *def = NULL;
    bool lost = false;
    pg_err err = define(im, &im->nodes[index], &def, &lost, diag);
    if (err != PG_OK)
        return err;
    if (lost)
        return run_time_node(im, index, def, lost, diag);
    if (pg_import_is_sequence(def))
        return sequence_node(im, index, def, diag);
    if (pg_fold_needs_shape_only(def->type) ||
        (all_constant(def) && pg_fold_known(def->type)))
        return constant_node(im, index, def, diag);
    if (index == im->squash && def->n_inputs == 1 && def->inputs[0].present)
        pg_import_check_squash(im, def);
    if (renames(im, index, def))
        return rename_node(im, index, def, diag);
    return run_time_node(im, index, def, lost, diag);
}

static pg_err import_nodes(pg_importer *im, pg_diag *diag) {
    im->wanted = pg_pool_array(im->job->load, im->names.count, sizeof *im->wanted);
    if (im->wanted == NULL)
        return pg_import_no_memory(diag);
    pg_import_find_live(im);
    im->folder.extra =
        PG_FOLD_PER_BYTE * (int64_t)(im->job->file.size + im->job->external->bytes);
    for (int i = 0; i < im->n_nodes; i++) {
        pg_err err = import_node(im, i, diag);
        if (err != PG_OK)
            return err;
    }
    return im->refusals->count == 0 ? PG_OK : pg_refusals_fail(im->refusals, diag);
}

static pg_err run(pg_importer *im, pg_diag *diag) {
    pg_err err = pg_onnx_read_model(im->job->file, im->job->load, &im->model, diag);
    if (err == PG_OK)
        err = read_names(im, diag);
    if (err == PG_OK)
        err = pg_import_inputs(im, diag);
    if (err == PG_OK)
        err = import_nodes(im, diag);
    if (err == PG_OK)
        err = pg_import_bind_output(im, diag);
    if (err != PG_OK)
        return err;
    im->job->ir_version = im->model.ir_version;
    im->job->opset = im->model.opset;
    im->job->nodes_in_file = im->model.n_nodes;
    im->job->producer = pg_import_keep(im, im->model.producer);
    return im->job->producer != NULL ? PG_OK : pg_import_no_memory(diag);
}

pg_err pg_onnx_import(pg_import *import, pg_diag *diag) {
    pg_importer *im = pg_calloc(1, sizeof *im);
    if (im == NULL)
        return pg_import_no_memory(diag);
    im->job = import;
    im->folder.pool = import->load;
    pg_refusals own = {.count = 0};
    im->refusals = import->options->refusals != NULL ? import->options->refusals : &own;
    pg_names_init(&im->names, import->load);
    pg_err err = run(im, diag);
    pg_names_clear(&im->names);
    pg_refusals_clear(&own);
    pg_free(im);
    return err;
}
