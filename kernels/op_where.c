/* Where: y = x where the condition is not 0, else z; all three broadcast, any of them constant. The
 * gradient goes to the branch that was taken; none flows into the condition. */
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/operands.h"
#include "kernels/simd.h"
#include "kernels/walk.h"

enum { CONDITION, TAKEN, OTHER, OPERANDS };

typedef struct where_op {
    pg_op op;
    pg_operand x[OPERANDS];
    pg_walk walk; /* (prepare) dst, then the operands */
} where_op;

extern const pg_op_class pg_where_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_operand x[OPERANDS];
    pg_shape dst;
    if (def->n_inputs != OPERANDS)
        return pg_node_refuse(def, diag, "needs exactly three inputs");
    pg_err err = pg_operands_read(def, x, &dst, diag);
    if (!err)
        err = pg_op_alloc(&pg_where_class, def, sizeof(where_op), 1, out, diag);
    if (err)
        return err;
    where_op *op = (where_op *)*out;
    memcpy(op->x, x, sizeof x);
    op->op.dst[0].shape = dst;
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.keeps_src = x[CONDITION].src >= 0;
    return PG_OK;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    where_op *op = (where_op *)base;
    const pg_shape *dst = &base->dst[0].shape;
    int64_t strides[1 + OPERANDS][PG_MAX_RANK];
    pg_err err = pg_operands_pack(base, op->x, OPERANDS, diag);
    if (err)
        return err;
    pg_desc_strides(&base->dst[0], strides[0]);
    for (int i = 0; i < OPERANDS; i++) {
        size_t sums = (size_t)pg_shape_count(&op->x[i].desc.shape) * sizeof(double);
        bool shared = i != CONDITION && pg_operand_is_broadcast(&op->x[i], dst);
        pg_operand_strides(&op->x[i], dst, strides[1 + i]);
        if (shared && op->x[i].src >= 0 && sums > base->scratch_bytes)
            base->scratch_bytes = sums;
    }
    pg_walk_init(&op->walk, dst->rank, dst->dims, 1 + OPERANDS,
                 (const int64_t *[]){strides[0], strides[1], strides[2], strides[3]});
    return PG_OK;
}

static void destroy(pg_op *base) { pg_operands_free(((where_op *)base)->x, OPERANDS); }

PG_CLONES static void value_row(int64_t n, const float *c, int64_t sc, const float *x, int64_t sx,
                                const float *z, int64_t sz, float *restrict y, int64_t sy) {
    if (sc == 1 && sx == 1 && sz == 1 && sy == 1) {
        for (int64_t i = 0; i < n; i++)
            y[i] = c[i] != 0 ? x[i] : z[i];
    } else {
        for (int64_t i = 0; i < n; i++)
            y[i * sy] = c[i * sc] != 0 ? x[i * sx] : z[i * sz];
    }
}

enum { PARALLEL_FROM = 1 << 15 };

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const where_op *op = (const where_op *)base;
    const pg_walk *w = &op->walk;
    const float *c = pg_operand_data(&op->x[CONDITION], io);
    const float *x = pg_operand_data(&op->x[TAKEN], io), *z = pg_operand_data(&op->x[OTHER], io);
    int64_t n = w->dims[w->rank - 1], step[PG_WALK_OPERANDS];
    for (int k = 0; k < w->operands; k++)
        step[k] = w->stride[k][w->rank - 1];
#pragma omp parallel for schedule(static) if (w->rows * n > PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        value_row(n, c + at[1], step[1], x + at[2], step[2], z + at[3], step[3], io->dst[0] + at[0],
                  step[0]);
    }
    return PG_OK;
}

/* d_x = d_y where the branch was taken; an element that was broadcast sums its uses in double. */
static void backward_branch(const where_op *op, const pg_op_io *io, int branch, float *d_x) {
    const pg_walk *w = &op->walk;
    const float *c = pg_operand_data(&op->x[CONDITION], io), *d_y = io->d_dst[0];
    bool shared = pg_operand_is_broadcast(&op->x[branch], &op->op.dst[0].shape);
    int64_t count = pg_shape_count(&op->x[branch].desc.shape), n = w->dims[w->rank - 1];
    int64_t sy = w->stride[0][w->rank - 1], sc = w->stride[1 + CONDITION][w->rank - 1];
    int64_t sx = w->stride[1 + branch][w->rank - 1];
    double *sums = io->scratch;
    if (shared)
        memset(sums, 0, (size_t)count * sizeof *sums);
#pragma omp parallel for schedule(static) if (!shared && w->rows * n > PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        for (int64_t i = 0; i < n; i++) {
            bool taken = (c[at[1 + CONDITION] + i * sc] != 0) == (branch == TAKEN);
            float g = taken ? d_y[at[0] + i * sy] : 0.0f;
            if (shared)
                sums[at[1 + branch] + i * sx] += (double)g;
            else
                d_x[at[1 + branch] + i * sx] = g;
        }
    }
    for (int64_t i = 0; shared && i < count; i++)
        d_x[i] = (float)sums[i];
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const where_op *op = (const where_op *)base;
    for (int i = 0; i < OPERANDS; i++) {
        float *d_x = op->x[i].src < 0 ? NULL : io->d_src[op->x[i].src];
        if (d_x && i == CONDITION)
            memset(d_x, 0, (size_t)pg_shape_count(&op->x[i].desc.shape) * sizeof *d_x);
        else if (d_x)
            backward_branch(op, io, i, d_x);
    }
    return PG_OK;
}

const pg_op_class pg_where_class = {
    .create = create,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
