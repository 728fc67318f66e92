/* Import in one pass.
 *
 * Every name of the file is bound to one of: a constant, a value of the graph, or "lost" (what an
 * unsupported node would have made). Batch size is 1 and the image size is fixed, so every shape is
 * known when its node comes by:
 *
 *   Shape, Size                      constant, whatever the input
 *   all inputs constant              folded
 *   Identity, Dropout, casts         the output's name is bound to the input's value: no node
 *   a softmax that ends the network  likewise: the logits are explained, not their softmax
 *   anything else                    an operator
 *
 * Nodes that do not lead to the logits may be anything: what fails there is not reported. They are
 * looked at all the same, because convolutions are numbered over the whole file (method.md 10).
 */
#include "pipeline/onnx_import.h"

#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_conv.h"
#include "pipeline/fold.h"

enum { MAX_SIDE = 16384 }; /* pixels of an input */

typedef enum binding_kind { UNBOUND, CONSTANT, VALUE, LOST } binding_kind;

typedef struct binding {
    binding_kind kind;
    const pg_const *constant;
    int value;
} binding;

typedef struct importer {
    pg_import *job;
    pg_names names;
    pg_onnx_model model;
    pg_onnx_node *nodes; /* [model.n_nodes], in the load pool */
    bool *live;          /* leads to the logits */
    int softmax;         /* the node to leave out, -1: none */
    binding *bindings;   /* [names.count] */
    pg_folder folder;
    int output;          /* name of the chosen output */
    int unsupported, refused;
    char list[PG_DIAG_MAX / 2], reasons[PG_DIAG_MAX / 2];
} importer;

static pg_err out_of_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

static const char *name_of(const importer *im, int id) {
    return pg_names_text(&im->names, id);
}

/* Names that the model keeps after loading. */
static const char *keep_text(importer *im, const char *text) {
    return pg_pool_text(im->job->graph->pool, text, strlen(text));
}

/* Appends to a list in a message; what does not fit ends in an ellipsis. */
static void append(char *list, size_t size, const char *separator, const char *text) {
    size_t used = strlen(list), want = strlen(separator) + strlen(text);
    if (used + want + 8 < size) {
        if (used > 0)
            strcat(list, separator);
        strcat(list, text);
    } else if (used > 3 && strcmp(list + used - 3, "...") != 0) {
        strcat(list, ", ...");
    }
}

/* ---- reading names ---- */

static pg_err read_nodes(importer *im, pg_diag *diag) {
    int count = im->model.n_nodes;
    im->nodes = pg_pool_array(im->job->load, (size_t)count, sizeof *im->nodes);
    im->live = pg_pool_array(im->job->load, (size_t)count, sizeof *im->live);
    if (im->nodes == NULL || im->live == NULL)
        return out_of_memory(diag);
    for (int i = 0; i < count; i++) {
        pg_err err = pg_onnx_read_node(im->model.nodes[i], im->job->load, &im->names,
                                       im->job->external, &im->nodes[i], diag);
        if (err != PG_OK)
            return err;
    }
    return PG_OK;
}

static pg_err read_constants(importer *im, int *ids, const pg_const **values, pg_diag *diag) {
    for (int i = 0; i < im->model.n_tensors; i++) {
        pg_span name = {0};
        pg_const *value = pg_pool_take(im->job->load, sizeof *value);
        if (value == NULL)
            return out_of_memory(diag);
        pg_err err = pg_onnx_read_tensor(im->model.tensors[i], im->job->load, im->job->external,
                                         &name, value, diag);
        if (err != PG_OK)
            return err;
        if (name.size == 0)
            return pg_fail(diag, PG_EMODEL, "an initialiser has no name");
        ids[i] = pg_names_enter(&im->names, (const char *)name.data, name.size);
        if (ids[i] < 0)
            return out_of_memory(diag);
        values[i] = value;
    }
    return PG_OK;
}

static pg_err choose_output(importer *im, pg_diag *diag) {
    const char *wanted = im->job->options->output;
    char list[512] = "";
    bool any = wanted == NULL || wanted[0] == '\0';
    im->output = -1;
    for (int i = 0; i < im->model.n_outputs && im->output < 0; i++) {
        pg_onnx_value value;
        pg_err err = pg_onnx_read_value(im->model.outputs[i], &im->names, &value, diag);
        if (err != PG_OK)
            return err;
        append(list, sizeof list, ", ", name_of(im, value.name));
        if (any || strcmp(wanted, name_of(im, value.name)) == 0)
            im->output = value.name;
    }
    if (im->output >= 0)
        return PG_OK;
    return any ? pg_fail(diag, PG_EMODEL, "the model has no output")
               : pg_fail(diag, PG_ECONFIG, "the model has no output '%s'; it has: %s", wanted,
                         list);
}

/* Everything that has a name is known after this, and what each name is bound to at the start. */
static pg_err read_names(importer *im, pg_diag *diag) {
    int count = im->model.n_tensors;
    int *ids = pg_pool_array(im->job->load, (size_t)count, sizeof *ids);
    const pg_const **values = pg_pool_array(im->job->load, (size_t)count, sizeof *values);
    if (ids == NULL || values == NULL)
        return out_of_memory(diag);
    pg_err err = read_nodes(im, diag);
    if (err == PG_OK)
        err = read_constants(im, ids, values, diag);
    if (err == PG_OK)
        err = choose_output(im, diag);
    for (int i = 0; err == PG_OK && i < im->model.n_inputs; i++) {
        pg_onnx_value value;
        err = pg_onnx_read_value(im->model.inputs[i], &im->names, &value, diag);
    }
    if (err != PG_OK)
        return err;
    im->bindings = pg_pool_array(im->job->load, im->names.count, sizeof *im->bindings);
    if (im->bindings == NULL)
        return out_of_memory(diag);
    for (int i = 0; i < count; i++) {
        if (im->bindings[ids[i]].kind != UNBOUND)
            return pg_fail(diag, PG_EMODEL, "two initialisers are named '%s'",
                           name_of(im, ids[i]));
        im->bindings[ids[i]] = (binding){.kind = CONSTANT, .constant = values[i]};
    }
    return PG_OK;
}

/* ---- the input ---- */

static bool image_like(const pg_onnx_value *v) {
    return v->is_tensor && v->elem_type == 1 && v->rank == 4 &&
           (v->dims[1] == 1 || v->dims[1] == 3);
}

static void describe(const importer *im, const pg_onnx_value *v, char *text, size_t size) {
    char shape[PG_SHAPE_TEXT] = "of unknown shape";
    if (v->is_tensor && v->has_shape && v->rank <= PG_MAX_RANK) {
        pg_shape s = {.rank = v->rank};
        memcpy(s.dims, v->dims, sizeof s.dims);
        pg_shape_text(&s, shape);
    }
    snprintf(text, size, "%.200s %s", name_of(im, v->name), shape);
}

static pg_err side(const char *what, int64_t in_file, int64_t asked, int64_t *out,
                   pg_diag *diag) {
    if (in_file > 0 && asked > 0 && in_file != asked)
        return pg_fail(diag, PG_ECONFIG, "the model fixes its input %s at %lld, not %lld", what,
                       (long long)in_file, (long long)asked);
    *out = in_file > 0 ? in_file : asked;
    if (*out <= 0)
        return pg_fail(diag, PG_ECONFIG,
                       "the model leaves its input %s open: set model.input.size", what);
    if (*out > MAX_SIDE)
        return pg_fail(diag, PG_EMODEL, "an input %s of %lld pixels is too large", what,
                       (long long)*out);
    return PG_OK;
}

static pg_err bind_input(importer *im, const pg_onnx_value *v, pg_diag *diag) {
    const pg_model_options *o = im->job->options;
    pg_shape shape = {.rank = 4, .dims = {1, v->dims[1]}};
    pg_err err = side("height", v->dims[2], o->height, &shape.dims[2], diag);
    if (err == PG_OK)
        err = side("width", v->dims[3], o->width, &shape.dims[3], diag);
    if (err != PG_OK)
        return err;
    pg_graph *g = im->job->graph;
    im->job->input_name = keep_text(im, name_of(im, v->name));
    if (im->job->input_name == NULL)
        return out_of_memory(diag);
    g->input = pg_graph_add_value(g, im->job->input_name, &shape);
    if (g->input < 0)
        return out_of_memory(diag);
    im->bindings[v->name] = (binding){.kind = VALUE, .value = g->input};
    return PG_OK;
}

/* Exactly one graph input that is not an initialiser, and it has to be a picture. */
static pg_err find_input(importer *im, pg_diag *diag) {
    pg_onnx_value value, chosen = {.name = -1};
    char list[1024] = "", text[512];
    int count = 0;
    for (int i = 0; i < im->model.n_inputs; i++) {
        pg_err err = pg_onnx_read_value(im->model.inputs[i], &im->names, &value, diag);
        if (err != PG_OK)
            return err;
        if (im->bindings[value.name].kind == CONSTANT)
            continue;
        describe(im, &value, text, sizeof text);
        append(list, sizeof list, ", ", text);
        count++;
        if (image_like(&value))
            chosen = value;
    }
    if (count == 1 && chosen.name >= 0)
        return bind_input(im, &chosen, diag);
    return pg_fail(diag, PG_EMODEL,
                   "the model needs exactly one input, a float image [1,3,H,W] or [1,1,H,W]; it "
                   "has %s%s",
                   count == 0 ? "none" : "", list);
}

/* ---- what leads to the logits ---- */

static bool is(const pg_onnx_node *node, const char *type) {
    return strcmp(node->type, type) == 0;
}

/* Nodes a softmax may hide behind: they only rename or reshape. */
static bool passes_through(const pg_onnx_node *node) {
    return is(node, "Identity") || is(node, "Flatten") || is(node, "Reshape") ||
           is(node, "Squeeze") || is(node, "Dropout");
}

/* Two sweeps from the end: the softmax that ends the network, then liveness. The file lists nodes
 * before their readers, or it is refused later. */
static void find_live(importer *im, bool *wanted) {
    int tail = im->output;
    im->softmax = -1;
    for (int i = im->model.n_nodes - 1; i >= 0; i--) {
        const pg_onnx_node *node = &im->nodes[i];
        if (node->n_outputs < 1 || node->outputs[0] != tail || node->n_inputs < 1)
            continue;
        if (is(node, "Softmax") || is(node, "LogSoftmax"))
            im->softmax = i;
        if (!passes_through(node))
            break;
        tail = node->inputs[0];
    }
    wanted[im->output] = true;
    for (int i = im->model.n_nodes - 1; i >= 0; i--) {
        const pg_onnx_node *node = &im->nodes[i];
        for (int k = 0; k < node->n_outputs; k++)
            im->live[i] = im->live[i] || (node->outputs[k] >= 0 && wanted[node->outputs[k]]);
        for (int k = 0; im->live[i] && k < node->n_inputs; k++)
            if (node->inputs[k] >= 0)
                wanted[node->inputs[k]] = true;
    }
}

/* ---- nodes ---- */

/* A name is made once: files in which it is not are refused. */
static pg_err bind_output(importer *im, const pg_onnx_node *node, int k, binding to,
                          pg_diag *diag) {
    int id = k < node->n_outputs ? node->outputs[k] : -1;
    if (id < 0)
        return PG_OK;
    if (im->bindings[id].kind != UNBOUND)
        return pg_fail(diag, PG_EMODEL, "node '%s' makes '%s', which exists already", node->name,
                       name_of(im, id));
    im->bindings[id] = to;
    return PG_OK;
}

static pg_err lose_outputs(importer *im, const pg_onnx_node *node, pg_diag *diag) {
    pg_err err = PG_OK;
    for (int k = 0; err == PG_OK && k < node->n_outputs; k++)
        err = bind_output(im, node, k, (binding){.kind = LOST}, diag);
    return err;
}

static bool known(const char *type) {
    return pg_op_known(type) || pg_fold_known(type) || strcmp(type, "Dropout") == 0 ||
           strcmp(type, "LogSoftmax") == 0 || strcmp(type, "Softmax") == 0;
}

static void report_unsupported(importer *im, const pg_onnx_node *node) {
    char text[512];
    im->unsupported++;
    snprintf(text, sizeof text, "%.100s (node '%.300s')", node->type, node->name);
    append(im->list, sizeof im->list, ", ", text);
}

static void report_refused(importer *im, const pg_diag *why) {
    im->refused++;
    append(im->reasons, sizeof im->reasons, "; ", why->text);
}

/* The definition an operator is made from; its arrays live until prepare. */
static pg_err define(importer *im, const pg_onnx_node *node, pg_op_def **out, bool *lost,
                     pg_diag *diag) {
    pg_op_def *def = pg_pool_take(im->job->load, sizeof *def);
    pg_op_input *inputs =
        pg_pool_array(im->job->load, (size_t)node->n_inputs, sizeof *inputs);
    if (def == NULL || inputs == NULL)
        return out_of_memory(diag);
    *def = (pg_op_def){.node = node->name, .type = node->type, .opset = (int)im->model.opset,
                       .attrs = node->attrs, .n_attrs = node->n_attrs, .inputs = inputs,
                       .n_inputs = node->n_inputs, .n_outputs = node->n_outputs};
    while (def->n_inputs > 0 && node->inputs[def->n_inputs - 1] < 0)
        def->n_inputs--; /* absent at the end is the same as not there */
    while (def->n_outputs > 0 && node->outputs[def->n_outputs - 1] < 0)
        def->n_outputs--;
    for (int k = 0; k < def->n_inputs; k++) {
        if (node->inputs[k] < 0)
            continue;
        const binding *b = &im->bindings[node->inputs[k]];
        if (b->kind == UNBOUND)
            return pg_fail(diag, PG_EMODEL,
                           "node '%s' (%s) reads '%s', which nothing before it makes", node->name,
                           node->type, name_of(im, node->inputs[k]));
        *lost = *lost || b->kind == LOST;
        inputs[k].present = true;
        inputs[k].constant = b->constant;
        if (b->kind == CONSTANT)
            inputs[k].shape = b->constant->shape;
        else if (b->kind == VALUE)
            inputs[k].shape = im->job->graph->values[b->value].shape;
    }
    *out = def;
    return PG_OK;
}

static bool all_constant(const pg_op_def *def) {
    for (int k = 0; k < def->n_inputs; k++)
        if (def->inputs[k].present && def->inputs[k].constant == NULL)
            return false;
    return true;
}

/* True if the node's output is its first input: Identity, Dropout outside training, casts among
 * floating-point types (every run-time value is a float here). */
static bool renames(const importer *im, int index, const pg_op_def *def) {
    if (def->n_inputs < 1 || !def->inputs[0].present)
        return false;
    if (index == im->softmax || strcmp(def->type, "Identity") == 0)
        return true;
    if (strcmp(def->type, "Cast") == 0) {
        const pg_attr *to = pg_def_attr(def, "to");
        return to != NULL && to->type == PG_ATTR_INT && to->i == 1;
    }
    if (strcmp(def->type, "Dropout") != 0 || def->n_outputs > 1)
        return false;
    if (def->n_inputs < 3 || !def->inputs[2].present)
        return true;
    const pg_const *training = def->inputs[2].constant;
    return training != NULL && training->dtype == PG_I64 &&
           pg_shape_count(&training->shape) == 1 && training->i[0] == 0;
}

/* A softmax is left out only if it is one over all classes: else it is a node like any other. */
static void check_softmax(importer *im, const pg_op_def *def) {
    const pg_shape *s = &def->inputs[0].shape;
    int64_t axis = im->model.opset < 13 ? 1 : -1, covered = 1;
    const pg_attr *given = pg_def_attr(def, "axis");
    if (given != NULL && given->type == PG_ATTR_INT)
        axis = given->i;
    axis = axis < 0 ? axis + s->rank : axis;
    for (int i = 0; i < s->rank; i++) /* older versions flatten from the axis on */
        if (i == axis || (i > axis && im->model.opset < 13))
            covered *= s->dims[i];
    if (axis < 0 || axis >= s->rank || covered != pg_shape_count(s))
        im->softmax = -1;
}

static pg_err fold_node(importer *im, const pg_onnx_node *node, const pg_op_def *def,
                        pg_diag *diag) {
    pg_const *value = pg_pool_take(im->job->load, sizeof *value);
    if (value == NULL)
        return out_of_memory(diag);
    pg_err err = pg_fold(&im->folder, def, value, diag);
    if (err == PG_EMODEL)
        return pg_fail_in(diag, err, "node '%s' (%s)", node->name, node->type);
    if (err != PG_OK)
        return err;
    im->job->nodes_folded++;
    return bind_output(im, node, 0, (binding){.kind = CONSTANT, .constant = value}, diag);
}

static pg_err check_sizes(const importer *im, const struct pg_op *op, pg_diag *diag) {
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
static pg_err number_conv(importer *im, const pg_onnx_node *node, const pg_op_def *def,
                          const struct pg_op *op, int *number, pg_diag *diag) {
    *number = -1;
    const pg_const *weights = def->n_inputs > 1 ? def->inputs[1].constant : NULL;
    if (!is(node, "Conv") || weights == NULL || weights->shape.rank != 4)
        return PG_OK;
    pg_conv_info *info = pg_graph_add_conv(im->job->graph);
    if (info == NULL)
        return out_of_memory(diag);
    *number = im->job->graph->n_convs - 1;
    int64_t strides[2] = {1, 1};
    info->name = keep_text(im, node->name);
    info->output = keep_text(im, node->n_outputs > 0 && node->outputs[0] >= 0
                                     ? name_of(im, node->outputs[0])
                                     : "");
    if (info->name == NULL || info->output == NULL)
        return out_of_memory(diag);
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

static pg_err bind_node(importer *im, const pg_onnx_node *node, const pg_op_def *def,
                        struct pg_op **op, int conv, pg_diag *diag) {
    pg_graph *g = im->job->graph;
    int n_src = 0, n_dst = (*op)->n_dst;
    int *src = pg_pool_array(im->job->load, (size_t)def->n_inputs, sizeof *src);
    const char **names = pg_pool_array(im->job->load, (size_t)n_dst, sizeof *names);
    if (src == NULL || names == NULL)
        return out_of_memory(diag);
    for (int k = 0; k < def->n_inputs; k++)
        if (def->inputs[k].present && def->inputs[k].constant == NULL)
            src[n_src++] = im->bindings[node->inputs[k]].value;
    pg_assert(n_src == (*op)->n_src);
    for (int k = 0; k < n_dst; k++)
        if (k < node->n_outputs && node->outputs[k] >= 0 &&
            (names[k] = keep_text(im, name_of(im, node->outputs[k]))) == NULL)
            return out_of_memory(diag);
    pg_node *made = pg_graph_add_node(g, op, def, src, names);
    if (made == NULL)
        return out_of_memory(diag);
    made->conv = conv;
    pg_err err = PG_OK;
    for (int k = 0; err == PG_OK && k < n_dst; k++)
        err = bind_output(im, node, k, (binding){.kind = VALUE, .value = made->dst[k]}, diag);
    for (int k = n_dst; err == PG_OK && k < node->n_outputs; k++)
        err = bind_output(im, node, k, (binding){.kind = LOST}, diag);
    return err;
}

/* Makes the operator. What it cannot do is put on the list, and import goes on. */
static pg_err run_time_node(importer *im, int index, const pg_op_def *def, bool lost,
                            pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    struct pg_op *op = NULL;
    pg_diag why = {{0}};
    int conv;
    pg_err err = PG_OK;
    if (!lost && pg_op_known(def->type) && !all_constant(def)) {
        err = pg_op_create(def, &op, &why);
        if (err == PG_OK && (err = check_sizes(im, op, &why)) != PG_OK)
            pg_op_destroy(&op);
        if (err != PG_OK && err != PG_EMODEL)
            return pg_fail(diag, err, "%s", why.text);
        if (err == PG_EMODEL && im->live[index])
            report_refused(im, &why);
    } else if (im->live[index] && (lost ? !known(def->type) : true)) {
        report_unsupported(im, node);
    }
    err = number_conv(im, node, def, op, &conv, diag);
    if (err == PG_OK)
        err = op != NULL ? bind_node(im, node, def, &op, conv, diag)
                         : lose_outputs(im, node, diag);
    pg_op_destroy(&op);
    return err;
}

static pg_err import_node(importer *im, int index, pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    pg_op_def *def = NULL;
    bool lost = false;
    pg_err err = define(im, node, &def, &lost, diag);
    if (err != PG_OK)
        return err;
    if (lost)
        return run_time_node(im, index, def, lost, diag);
    bool constant = all_constant(def);
    if ((constant && pg_fold_known(def->type)) || pg_fold_needs_shape_only(def->type)) {
        pg_diag why = {{0}};
        err = fold_node(im, node, def, &why);
        if (err != PG_EMODEL || im->live[index])
            return err == PG_OK ? err : pg_fail(diag, err, "%s", why.text);
        return lose_outputs(im, node, diag);
    }
    if (index == im->softmax && def->n_inputs == 1 && def->inputs[0].present)
        check_softmax(im, def);
    if (renames(im, index, def)) {
        im->job->softmax_removed = im->job->softmax_removed || index == im->softmax;
        return bind_output(im, node, 0, im->bindings[node->inputs[0]], diag);
    }
    return run_time_node(im, index, def, lost, diag);
}

static pg_err import_nodes(importer *im, pg_diag *diag) {
    bool *wanted = pg_pool_array(im->job->load, im->names.count, sizeof *wanted);
    if (wanted == NULL)
        return out_of_memory(diag);
    find_live(im, wanted);
    im->folder.extra =
        PG_FOLD_PER_BYTE * (int64_t)(im->job->file.size + im->job->external->bytes);
    for (int i = 0; i < im->model.n_nodes; i++) {
        pg_err err = import_node(im, i, diag);
        if (err != PG_OK)
            return err;
    }
    if (im->unsupported == 0 && im->refused == 0)
        return PG_OK;
    int total = im->unsupported + im->refused;
    pg_fail(diag, PG_EMODEL, "%d node%s not supported", total, total == 1 ? " is" : "s are");
    if (im->unsupported > 0)
        pg_diag_append(diag, ": %s", im->list);
    if (im->refused > 0)
        pg_diag_append(diag, "%s%s", im->unsupported > 0 ? "; " : ": ", im->reasons);
    return PG_EMODEL;
}

/* ---- the logits ---- */

static pg_err bind_logits(importer *im, pg_diag *diag) {
    pg_graph *g = im->job->graph;
    const binding *b = &im->bindings[im->output];
    const char *name = name_of(im, im->output);
    char text[PG_SHAPE_TEXT];
    if (b->kind == UNBOUND)
        return pg_fail(diag, PG_EMODEL, "nothing makes the output '%s'", name);
    if (b->kind != VALUE || b->value == g->input)
        return pg_fail(diag, PG_EMODEL, "the output '%s' does not depend on the input", name);
    const pg_shape *s = &g->values[b->value].shape;
    bool ok = s->rank >= 2 && s->dims[0] == 1;
    for (int i = 2; i < s->rank; i++)
        ok = ok && s->dims[i] == 1;
    if (!ok)
        return pg_fail(diag, PG_EMODEL,
                       "the output '%s' has shape %s; a classifier's logits are [1,classes]", name,
                       pg_shape_text(s, text));
    g->logits = b->value;
    return PG_OK;
}

static pg_err run(importer *im, pg_diag *diag) {
    pg_err err = pg_onnx_read_model(im->job->file, im->job->load, &im->model, diag);
    if (err == PG_OK)
        err = read_names(im, diag);
    if (err == PG_OK)
        err = find_input(im, diag);
    if (err == PG_OK)
        err = import_nodes(im, diag);
    if (err == PG_OK)
        err = bind_logits(im, diag);
    if (err != PG_OK)
        return err;
    im->job->ir_version = im->model.ir_version;
    im->job->opset = im->model.opset;
    im->job->nodes_in_file = im->model.n_nodes;
    im->job->producer = keep_text(im, im->model.producer);
    return im->job->producer != NULL ? PG_OK : out_of_memory(diag);
}

pg_err pg_onnx_import(pg_import *import, pg_diag *diag) {
    importer *im = pg_calloc(1, sizeof *im);
    if (im == NULL)
        return out_of_memory(diag);
    im->job = import;
    im->folder.pool = import->load;
    pg_names_init(&im->names, import->load);
    pg_err err = run(im, diag);
    pg_names_clear(&im->names);
    pg_free(im);
    return err;
}
