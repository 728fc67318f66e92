/* Sequences, as PyTorch's newer exporter writes chunk and split: SplitToSequence, and SequenceAt with
 * a constant position. Nothing is made of the first; the second becomes the slice it means. */
#include <stdio.h>
#include <string.h>

#include "pipeline/import_impl.h"

/* One piece of a split axis. */
typedef struct piece {
    int64_t first, end;
    bool single; /* the axis goes away */
} piece;

bool pg_import_is_sequence(const pg_op_def *def) {
    return strcmp(def->type, "SplitToSequence") == 0 || strcmp(def->type, "SequenceAt") == 0;
}

static pg_err refuse(const pg_op_def *def, pg_diag *diag, const char *why) {
    return pg_fail(diag, PG_EMODEL, "node '%s' (%s): %s", def->node, def->type, why);
}

static pg_err read_axis(const pg_op_def *split, int *axis, pg_diag *diag) {
    int64_t given;
    pg_err err = pg_def_int(split, "axis", 0, &given, diag);
    int rank = split->inputs[0].shape.rank;
    if (err == PG_OK && (given < -rank || given >= rank))
        err = refuse(split, diag, "its axis is out of range");
    *axis = (int)(given < 0 ? given + rank : given);
    return err;
}

/* Piece `index` of an axis of length `dim`: by one size for all (the last may be smaller), a list of
 * sizes, or one by one. */
static pg_err find_piece(const pg_op_def *split, int64_t dim, int64_t index, piece *out,
                         pg_diag *diag) {
    const pg_const *sizes = split->n_inputs > 1 ? split->inputs[1].constant : NULL;
    int64_t keep = 1, count = sizes != NULL ? pg_shape_count(&sizes->shape) : 0;
    pg_err err = pg_def_int(split, "keepdims", 1, &keep, diag);
    if (err != PG_OK)
        return err;
    if (split->n_inputs > 1 && split->inputs[1].present && sizes == NULL)
        return refuse(split, diag, "its sizes are computed at run time");
    bool list = sizes != NULL && sizes->shape.rank == 1;
    int64_t size = sizes == NULL ? 1 : list ? 0 : sizes->i[0];
    if (sizes != NULL && (sizes->dtype != PG_I64 || sizes->shape.rank > 1 || (!list && size < 1)))
        return refuse(split, diag, "its sizes have to be positive integers");
    int64_t pieces = list ? count : size >= dim ? 1 : (dim + size - 1) / size;
    if (index < -pieces || index >= pieces)
        return refuse(split, diag, "a piece beyond the last is read");
    index = index < 0 ? index + pieces : index;
    out->first = list ? 0 : index * size;
    for (int64_t i = 0; list && i < index; i++)
        out->first += sizes->i[i] > 0 && sizes->i[i] <= dim ? sizes->i[i] : dim;
    out->end = out->first + (list ? sizes->i[index] : size);
    out->end = !list && out->end > dim ? dim : out->end;
    out->single = sizes == NULL && keep == 0;
    bool ok = out->first >= 0 && out->first < out->end && out->end <= dim;
    return ok ? PG_OK : refuse(split, diag, "its sizes do not fit the axis");
}

static const pg_const *list_of(pg_pool *pool, int rank, int64_t value) {
    pg_const *out = pg_pool_take(pool, sizeof *out);
    int64_t *data = pg_pool_take(pool, sizeof *data);
    if (out == NULL || data == NULL)
        return NULL;
    *data = value;
    *out = (pg_const){.dtype = PG_I64, .shape = {.rank = rank, .dims = {1}}, .i = data};
    return out;
}

/* SequenceAt as Slice, or as Gather where the axis goes away. */
static pg_err become_slice(pg_importer *im, pg_op_def *def, const pg_op_def *split, int axis,
                           const piece *p, pg_diag *diag) {
    pg_pool *load = im->job->load;
    const int64_t values[3] = {p->first, p->end, axis};
    int n = p->single ? 1 : 3;
    pg_op_input *inputs = pg_pool_array(load, 4, sizeof *inputs);
    pg_attr *attr = pg_pool_take(load, sizeof *attr);
    if (inputs == NULL || attr == NULL)
        return pg_import_no_memory(diag);
    inputs[0] = split->inputs[0];
    for (int k = 0; k < n; k++) {
        inputs[1 + k].constant = list_of(load, p->single ? 0 : 1, values[k]);
        if (inputs[1 + k].constant == NULL)
            return pg_import_no_memory(diag);
        inputs[1 + k].present = true;
        inputs[1 + k].shape = inputs[1 + k].constant->shape;
    }
    *attr = (pg_attr){.name = "axis", .type = PG_ATTR_INT, .i = axis};
    def->type = p->single ? "Gather" : "Slice";
    def->opset = 13;
    def->inputs = inputs;
    def->n_inputs = 1 + n;
    def->attrs = attr;
    def->n_attrs = p->single ? 1 : 0;
    return PG_OK;
}

pg_err pg_import_sequence_at(pg_importer *im, const pg_binding *sequence, pg_op_def *def,
                             pg_diag *diag) {
    const pg_op_def *split = sequence->sequence;
    const pg_const *at = def->n_inputs > 1 ? def->inputs[1].constant : NULL;
    piece p = {0};
    int axis = 0;
    if (at == NULL || at->dtype != PG_I64 || pg_shape_count(&at->shape) != 1)
        return refuse(def, diag, "its position has to be one constant integer");
    pg_err err = read_axis(split, &axis, diag);
    if (err == PG_OK)
        err = find_piece(split, split->inputs[0].shape.dims[axis], at->i[0], &p, diag);
    return err == PG_OK ? become_slice(im, def, split, axis, &p, diag) : err;
}
