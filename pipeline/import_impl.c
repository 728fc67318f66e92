#include "pipeline/import_impl.h"

#include <stdio.h>
#include <string.h>

/* ---- names ---- */

const char *pg_import_keep(pg_importer *im, const char *text) {
    return pg_pool_text(im->job->graph->pool, text, strlen(text));
}

void pg_import_list(char *list, size_t size, const char *text) {
    size_t used = strlen(list), want = strlen(text) + 2;
    if (used + want + 8 < size) {
        if (used > 0)
            strcat(list, ", ");
        strcat(list, text);
    } else if (used > 3 && strcmp(list + used - 3, "...") != 0) {
        strcat(list, ", ...");
    }
}

/* ---- what is not supported ---- */

bool pg_import_knows(const char *type) {
    return pg_fold_known(type) || strcmp(type, "Dropout") == 0 ||
           strcmp(type, "SplitToSequence") == 0 || strcmp(type, "SequenceAt") == 0;
}

/* What can be done about an operator nobody here knows: what unsupported.def says, and the values it
 * would have read, which can often be explained themselves. */
static void advise(const pg_importer *im, const pg_op_def *def, const pg_onnx_node *node,
                   char *text, size_t size) {
    const char *lead = "what it reads can be explained with model.output: ";
    char shape[PG_SHAPE_TEXT];
    snprintf(text, size, "%s", pg_refusals_advice(node->type));
    for (int k = 0; k < def->n_inputs; k++) {
        const pg_op_input *in = &def->inputs[k];
        if (!in->present || in->constant != NULL || in->shape.rank < 2 || in->shape.dims[0] != 1 ||
            im->bindings[node->inputs[k]].value == im->job->graph->input)
            continue;
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%s'%.200s' %s", used > 0 ? "; " : "", lead,
                 pg_import_name(im, node->inputs[k]), pg_shape_text(&in->shape, shape));
        lead = "or ";
    }
}

pg_err pg_import_refuse(pg_importer *im, int index, const pg_op_def *def, const char *why,
                        pg_diag *diag) {
    const pg_onnx_node *node = &im->nodes[index];
    char advice[1024] = "";
    if (why == NULL && !pg_import_knows(node->type))
        advise(im, def, node, advice, sizeof advice);
    const char *reason = why;
    if (why == NULL)
        reason = pg_import_knows(node->type) ? "works on constants only; here it would run on every frame"
                                   : "the operator is not supported";
    bool ok = pg_refusals_add(im->refusals, node->name, node->type, reason,
                              advice[0] != '\0' ? advice : NULL);
    return ok ? PG_OK : pg_import_no_memory(diag);
}
