/* The output that is explained, and what leads to it.
 *
 * A classifier may end in a softmax or a sigmoid. Both squash: where the answer is certain their
 * slope is all but zero, and the gradient with it. The logits before it are what is explained, so
 * the node is left out and the model remembers how scores become probabilities.
 *
 * Not only outputs of the file can be chosen but any value in it: a detector whose post-processing
 * no gradient can pass is explained at what goes into that. */
#include <inttypes.h>
#include <string.h>

#include "pipeline/import_impl.h"

/* ---- which ---- */

static bool is_made(const pg_importer *im, int name) {
    for (int i = 0; i < im->n_nodes; i++)
        for (int k = 0; k < im->nodes[i].n_outputs; k++)
            if (im->nodes[i].outputs[k] == name)
                return true;
    return false;
}

static pg_err keep_outputs(pg_importer *im, pg_diag *diag) {
    int n = im->model.n_outputs;
    const char **names = pg_pool_array(im->job->graph->pool, (size_t)n, sizeof *names);
    if (names == NULL)
        return pg_import_no_memory(diag);
    for (int i = 0; i < n; i++) {
        pg_onnx_value value;
        pg_err err = pg_onnx_read_value(im->model.outputs[i], &im->names, &value, diag);
        if (err != PG_OK)
            return err;
        if (i == 0)
            im->output = value.name;
        names[i] = pg_import_keep(im, pg_import_name(im, value.name));
        if (names[i] == NULL)
            return pg_import_no_memory(diag);
    }
    im->job->outputs = names;
    im->job->n_outputs = n;
    return PG_OK;
}

pg_err pg_import_choose_output(pg_importer *im, pg_diag *diag) {
    const char *wanted = im->job->options->output;
    im->output = -1;
    pg_err err = keep_outputs(im, diag);
    if (err != PG_OK)
        return err;
    if (wanted != NULL && wanted[0] != '\0') {
        int name = pg_names_find(&im->names, wanted, strlen(wanted));
        char list[512] = "";
        for (int i = 0; i < im->job->n_outputs; i++)
            pg_import_list(list, sizeof list, im->job->outputs[i]);
        if (name < 0 || !is_made(im, name))
            return pg_fail(diag, PG_ECONFIG, "the model has no output '%s'; it has: %s", wanted,
                           list);
        im->output = name;
    }
    return im->output >= 0 ? PG_OK : pg_fail(diag, PG_EMODEL, "the model has no output");
}

/* ---- what leads to it ---- */

static bool is(const pg_onnx_node *node, const char *type) {
    return strcmp(node->type, type) == 0;
}

/* Nodes a softmax or sigmoid may hide behind: they only rename or reshape. */
static bool passes_through(const pg_onnx_node *node) {
    return is(node, "Identity") || is(node, "Flatten") || is(node, "Reshape") ||
           is(node, "Squeeze") || is(node, "Dropout") || is(node, "Cast");
}

static bool squashes(const pg_onnx_node *node) {
    return is(node, "Softmax") || is(node, "LogSoftmax") || is(node, "Sigmoid");
}

/* Two sweeps from the end: the squashing node that ends the network, then liveness. The file lists
 * nodes before their readers, or it is refused later. */
void pg_import_find_live(pg_importer *im) {
    bool *wanted = im->wanted;
    int tail = im->output;
    im->squash = -1;
    for (int i = im->n_nodes - 1; i >= 0; i--) {
        const pg_onnx_node *node = &im->nodes[i];
        if (node->n_outputs < 1 || node->outputs[0] != tail || node->n_inputs < 1)
            continue;
        if (squashes(node))
            im->squash = i;
        if (!passes_through(node))
            break;
        tail = node->inputs[0];
    }
    wanted[im->output] = true;
    for (int i = im->n_nodes - 1; i >= 0; i--) {
        const pg_onnx_node *node = &im->nodes[i];
        for (int k = 0; k < node->n_outputs; k++)
            im->live[i] = im->live[i] || (node->outputs[k] >= 0 && wanted[node->outputs[k]]);
        for (int k = 0; im->live[i] && k < node->n_inputs; k++)
            if (node->inputs[k] >= 0)
                wanted[node->inputs[k]] = true;
    }
}

/* The axis of an output that counts classes. Files do not say; detectors list boxes first
 * ([1,boxes,classes]), all else has channels there. */
static int class_axis(const pg_importer *im, int rank) {
    int asked = im->job->options->class_axis;
    return asked >= 0 ? asked : rank == 3 ? 2 : 1;
}

/* A softmax is left out only if it is one over the classes: over all that there is, or along the
 * axis of the classes where nothing reshapes it afterwards. Else it is a node like any other. A
 * sigmoid takes every element for itself. */
void pg_import_check_squash(pg_importer *im, const pg_op_def *def) {
    const pg_onnx_node *node = &im->nodes[im->squash];
    const pg_shape *s = &def->inputs[0].shape;
    int64_t axis = im->model.opset < 13 ? 1 : -1, covered = 1;
    const pg_attr *given = pg_def_attr(def, "axis");
    if (is(node, "Sigmoid"))
        return;
    if (given != NULL && given->type == PG_ATTR_INT)
        axis = given->i;
    axis = axis < 0 ? axis + s->rank : axis;
    for (int i = 0; i < s->rank; i++) /* older versions flatten from the axis on */
        if (i == axis || (i > axis && im->model.opset < 13))
            covered *= s->dims[i];
    bool ends = node->outputs[0] == im->output;
    bool over_classes = axis >= 0 && axis < s->rank &&
                        (covered == pg_shape_count(s) ||
                         (ends && axis == class_axis(im, s->rank) && covered == s->dims[axis]));
    if (!over_classes)
        im->squash = -1;
}

/* ---- the end ---- */

pg_err pg_import_bind_output(pg_importer *im, pg_diag *diag) {
    pg_graph *g = im->job->graph;
    const pg_binding *b = &im->bindings[im->output];
    const char *name = pg_import_name(im, im->output);
    char text[PG_SHAPE_TEXT];
    if (b->kind == PG_UNBOUND)
        return pg_fail(diag, PG_EMODEL, "nothing makes the output '%s'", name);
    if (b->kind != PG_VALUE || b->value == g->input)
        return pg_fail(diag, PG_EMODEL, "the output '%s' does not depend on the input", name);
    const pg_shape *s = &g->values[b->value].shape;
    if (s->rank < 2 || s->dims[0] != 1)
        return pg_fail(diag, PG_EMODEL,
                       "the output '%s' has shape %s; what can be explained is [1,classes], or a "
                       "score per class and cell, [1,classes,H,W] or [1,boxes,classes]",
                       name, pg_shape_text(s, text));
    int axis = class_axis(im, s->rank);
    if (axis < 1 || axis >= s->rank)
        return pg_fail(diag, PG_ECONFIG,
                       "model.class_axis is %d, but the output '%s' has shape %s", axis, name,
                       pg_shape_text(s, text));
    g->logits = b->value;
    im->job->class_axis = axis;
    return PG_OK;
}
