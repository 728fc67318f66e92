#include "kernels/operands.h"

#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"

/* Widens *dst, aligned at the last axis, so that `shape` fits into it too. */
static bool broadcast(const pg_shape *shape, pg_shape *dst) {
    pg_shape wide = {.rank = shape->rank > dst->rank ? shape->rank : dst->rank};
    for (int i = 1; i <= wide.rank; i++) {
        int64_t a = i <= dst->rank ? dst->dims[dst->rank - i] : 1;
        int64_t b = i <= shape->rank ? shape->dims[shape->rank - i] : 1;
        if (a != b && a != 1 && b != 1)
            return false;
        wide.dims[wide.rank - i] = a == 1 ? b : a;
    }
    *dst = wide;
    return true;
}

pg_err pg_operands_read(const pg_op_def *def, pg_operand *operands, pg_shape *dst, pg_diag *diag) {
    int computed = 0;
    *dst = (pg_shape){.rank = 0};
    for (int i = 0; i < def->n_inputs; i++) {
        const pg_op_input *input = &def->inputs[i];
        char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
        if (!input->present)
            return pg_node_refuse(def, diag, "input %d is missing", i);
        if (input->constant && pg_shape_count(&input->shape) < 1)
            return pg_node_refuse(def, diag, "input %d is empty", i);
        if (!broadcast(&input->shape, dst))
            return pg_node_refuse(def, diag, "input %d of shape %s does not broadcast to %s", i,
                                  pg_shape_text(&input->shape, a), pg_shape_text(dst, b));
        operands[i] = (pg_operand){.desc = {.shape = input->shape},
                                   .src = input->constant ? -1 : computed++,
                                   .raw = input->constant};
    }
    return computed > 0 ? PG_OK : pg_node_refuse(def, diag, "needs a computed input");
}

/* `raw` as float in the layout of `desc`. */
static float *pack(const pg_const *raw, const pg_desc *desc) {
    int64_t count = pg_shape_count(&raw->shape);
    float *plain = pg_malloc((size_t)count * sizeof(float));
    if (!plain)
        return NULL;
    for (int64_t i = 0; i < count; i++)
        plain[i] = raw->dtype == PG_F32 ? raw->f[i] : (float)raw->i[i];
    if (desc->layout == PG_PLAIN)
        return plain;
    float *packed = pg_malloc((size_t)count * sizeof(float));
    if (packed)
        pg_layout_convert(&desc->shape, PG_PLAIN, plain, desc->layout, packed);
    pg_free(plain);
    return packed;
}

pg_err pg_operands_pack(pg_op *op, pg_operand *operands, int n, pg_diag *diag) {
    for (int i = 0; i < n; i++) {
        pg_operand *x = &operands[i];
        if (x->src >= 0) {
            x->desc.layout = op->src[x->src].layout;
            continue;
        }
        bool full = x->desc.shape.rank == op->dst[0].shape.rank;
        x->desc.layout = full ? op->dst[0].layout : PG_PLAIN;
        x->value = pack(x->raw, &x->desc);
        x->raw = NULL;
        if (!x->value)
            return pg_fail(diag, PG_ENOMEM, "node '%s' (%s): out of memory", op->node, op->type);
        op->weight_bytes += (size_t)pg_shape_count(&x->desc.shape) * sizeof(float);
    }
    return PG_OK;
}

void pg_operands_free(pg_operand *operands, int n) {
    for (int i = 0; i < n; i++)
        pg_free(operands[i].value);
}

void pg_operand_strides(const pg_operand *operand, const pg_shape *dst,
                        int64_t strides[PG_MAX_RANK]) {
    const pg_shape *own = &operand->desc.shape;
    int64_t of_own[PG_MAX_RANK];
    int shift = dst->rank - own->rank;
    pg_desc_strides(&operand->desc, of_own);
    for (int i = 0; i < dst->rank; i++)
        strides[i] = i < shift || own->dims[i - shift] == 1 ? 0 : of_own[i - shift];
}

const float *pg_operand_data(const pg_operand *operand, const pg_op_io *io) {
    return operand->src < 0 ? operand->value : io->src[operand->src];
}

bool pg_operand_is_broadcast(const pg_operand *operand, const pg_shape *dst) {
    return pg_shape_count(&operand->desc.shape) < pg_shape_count(dst);
}
