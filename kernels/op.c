/* The operator seam's common half: the table of types, the base every operator starts from, and the
 * look-up of attributes. Shapes of run-time values are checked here once, before and after an
 * operator's create, so that no operator ever meets or makes an empty or overflowing tensor. */
#include "kernels/op.h"

#include <string.h>

#include "kernels/mem.h"

#define PG_OP(type, class) extern const pg_op_class class;
#include "kernels/op_table.def"
#undef PG_OP

static const struct {
    const char *type;
    const pg_op_class *cls;
} table[] = {
#define PG_OP(type, class) {#type, &class},
#include "kernels/op_table.def"
#undef PG_OP
};

enum { TABLE_ROWS = sizeof table / sizeof table[0] };

/* The table is some fifty rows and is searched once per node at load: no need to be clever. */
static int find_row(const char *type) {
    for (int i = 0; i < TABLE_ROWS; i++)
        if (strcmp(table[i].type, type) == 0)
            return i;
    return -1;
}

bool pg_op_known(const char *type) { return find_row(type) >= 0; }

static bool shape_usable(const pg_shape *shape) {
    return shape->rank >= 0 && shape->rank <= PG_MAX_RANK && pg_shape_count(shape) > 0;
}

static bool is_run_time(const pg_op_input *input) { return input->present && !input->constant; }

pg_err pg_op_alloc(const pg_op_class *cls, const pg_op_def *def, size_t size, int n_dst,
                   pg_op **out, pg_diag *diag) {
    pg_assert(size >= sizeof(pg_op) && n_dst >= 1);
    int row = find_row(def->type), n_src = 0;
    for (int i = 0; i < def->n_inputs; i++)
        n_src += is_run_time(&def->inputs[i]);

    pg_op *op = pg_calloc(1, size);
    if (op == NULL)
        return pg_fail(diag, PG_ENOMEM, "node '%s' (%s): out of memory", def->node, def->type);
    op->cls = cls;
    op->type = row >= 0 ? table[row].type : "";
    op->node = pg_strdup(def->node);
    op->n_src = n_src;
    op->n_dst = n_dst;
    op->src = pg_calloc((size_t)n_src, sizeof *op->src);
    op->dst = pg_calloc((size_t)n_dst, sizeof *op->dst);
    op->impl = "own";
    if (!op->node || !op->src || !op->dst) {
        pg_op_destroy(&op);
        return pg_fail(diag, PG_ENOMEM, "node '%s' (%s): out of memory", def->node, def->type);
    }
    for (int i = 0, k = 0; i < def->n_inputs; i++)
        if (is_run_time(&def->inputs[i]))
            op->src[k++].shape = def->inputs[i].shape;
    *out = op;
    return PG_OK;
}

static pg_err check_inputs(const pg_op_def *def, pg_diag *diag) {
    char text[PG_SHAPE_TEXT];
    for (int i = 0; i < def->n_inputs; i++) {
        const pg_op_input *input = &def->inputs[i];
        if (is_run_time(input) && !shape_usable(&input->shape))
            return pg_fail(diag, PG_EMODEL, "node '%s' (%s): input %d has the unusable shape %s",
                           def->node, def->type, i, pg_shape_text(&input->shape, text));
    }
    return PG_OK;
}

static pg_err check_outputs(const pg_op_def *def, const pg_op *op, pg_diag *diag) {
    char text[PG_SHAPE_TEXT];
    for (int i = 0; i < op->n_dst; i++)
        if (!shape_usable(&op->dst[i].shape))
            return pg_fail(diag, PG_EMODEL, "node '%s' (%s): output %d would have the shape %s",
                           def->node, def->type, i, pg_shape_text(&op->dst[i].shape, text));
    return PG_OK;
}

pg_err pg_op_create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    *out = NULL;
    int row = find_row(def->type);
    if (row < 0)
        return pg_fail(diag, PG_EMODEL, "node '%s': operator %s is not supported", def->node,
                       def->type);
    pg_err err = def->folding ? PG_OK : check_inputs(def, diag);
    if (err)
        return err;
    pg_op *op = NULL;
    err = table[row].cls->create(def, &op, diag);
    if (err)
        return err;
    err = def->folding ? PG_OK : check_outputs(def, op, diag);
    if (err) {
        pg_op_destroy(&op);
        return err;
    }
    *out = op;
    return PG_OK;
}

void pg_op_destroy(pg_op **op) {
    if (op == NULL || *op == NULL)
        return;
    if ((*op)->cls->destroy)
        (*op)->cls->destroy(*op);
    pg_free((*op)->node);
    pg_free((*op)->src);
    pg_free((*op)->dst);
    pg_free(*op);
    *op = NULL;
}

/* ---- attributes ---- */

const pg_attr *pg_def_attr(const pg_op_def *def, const char *name) {
    for (int i = 0; i < def->n_attrs; i++)
        if (strcmp(def->attrs[i].name, name) == 0)
            return &def->attrs[i];
    return NULL;
}

static pg_err wrong_type(const pg_op_def *def, const char *name, const char *expected,
                         pg_diag *diag) {
    return pg_fail(diag, PG_EMODEL, "node '%s' (%s): attribute '%s' is not %s", def->node,
                   def->type, name, expected);
}

pg_err pg_def_int(const pg_op_def *def, const char *name, int64_t fallback, int64_t *out,
                  pg_diag *diag) {
    const pg_attr *attr = pg_def_attr(def, name);
    if (attr && attr->type != PG_ATTR_INT)
        return wrong_type(def, name, "an integer", diag);
    *out = attr ? attr->i : fallback;
    return PG_OK;
}

pg_err pg_def_float(const pg_op_def *def, const char *name, float fallback, float *out,
                    pg_diag *diag) {
    const pg_attr *attr = pg_def_attr(def, name);
    if (attr && attr->type != PG_ATTR_FLOAT)
        return wrong_type(def, name, "a float", diag);
    *out = attr ? attr->f : fallback;
    return PG_OK;
}

pg_err pg_def_string(const pg_op_def *def, const char *name, const char *fallback, const char **out,
                     pg_diag *diag) {
    const pg_attr *attr = pg_def_attr(def, name);
    if (attr && attr->type != PG_ATTR_STRING)
        return wrong_type(def, name, "a string", diag);
    *out = attr ? attr->s : fallback;
    return PG_OK;
}

pg_err pg_def_ints(const pg_op_def *def, const char *name, int count, int64_t fallback,
                   int64_t *out, pg_diag *diag) {
    const pg_attr *attr = pg_def_attr(def, name);
    if (attr && attr->type != PG_ATTR_INTS)
        return wrong_type(def, name, "a list of integers", diag);
    bool given = attr && attr->count > 0;
    if (given && attr->count != (size_t)count)
        return pg_fail(diag, PG_EMODEL,
                       "node '%s' (%s): attribute '%s' has %zu values instead of %d", def->node,
                       def->type, name, attr->count, count);
    for (int i = 0; i < count; i++)
        out[i] = given ? attr->ints[i] : fallback;
    return PG_OK;
}
