/* Any number of operands with numpy broadcasting: Sum, Mean, Max, Min. The result collects one
 * operand after the other; every operand has its own walk over it.
 *
 * Where several operands share the extreme value, each gets an equal share of the gradient (half
 * for two, as torch does), so forward keeps how many they are. */
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/operands.h"
#include "kernels/simd.h"
#include "kernels/walk.h"

typedef enum kind { SUM, MEAN, MAX, MIN } kind;
static const char *const kind_names[] = {"Sum", "Mean", "Max", "Min"};

typedef struct variadic_op {
    pg_op op;
    kind kind;
    int n;
    pg_operand *x; /* [n] */
    pg_walk *walk; /* [n] (prepare) dst, x[i] */
} variadic_op;

extern const pg_op_class pg_variadic_class;

static bool is_extreme(const variadic_op *op) { return op->kind == MAX || op->kind == MIN; }

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    if (def->n_inputs < 1)
        return pg_node_refuse(def, diag, "needs an input");
    pg_err err = pg_op_alloc(&pg_variadic_class, def, sizeof(variadic_op), 1, out, diag);
    if (err)
        return err;
    variadic_op *op = (variadic_op *)*out;
    while (strcmp(kind_names[op->kind], def->type) != 0)
        op->kind = (kind)((int)op->kind + 1);
    op->n = def->n_inputs;
    op->x = pg_calloc((size_t)op->n, sizeof *op->x);
    op->walk = pg_calloc((size_t)op->n, sizeof *op->walk);
    if (!op->x || !op->walk)
        err = pg_fail(diag, PG_ENOMEM, "node '%s' (%s): out of memory", def->node, def->type);
    if (!err)
        err = pg_operands_read(def, op->x, &op->op.dst[0].shape, diag);
    if (err) {
        pg_op_destroy(out);
        return err;
    }
    int64_t count = pg_shape_count(&op->op.dst[0].shape);
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.keeps_src = op->op.keeps_dst = is_extreme(op);
    op->op.flops = count > 0 ? (uint64_t)count * (uint64_t)op->n : 0;
    return PG_OK;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    variadic_op *op = (variadic_op *)base;
    const pg_shape *dst = &base->dst[0].shape;
    int64_t y[PG_MAX_RANK], x[PG_MAX_RANK];
    pg_err err = pg_operands_pack(base, op->x, op->n, diag);
    if (err)
        return err;
    pg_desc_strides(&base->dst[0], y);
    for (int i = 0; i < op->n; i++) {
        pg_operand_strides(&op->x[i], dst, x);
        pg_walk_init(&op->walk[i], dst->rank, dst->dims, 2, (const int64_t *[]){y, x});
        size_t sums = (size_t)pg_shape_count(&op->x[i].desc.shape) * sizeof(double);
        bool shared = pg_operand_is_broadcast(&op->x[i], dst);
        if (shared && op->x[i].src >= 0 && sums > base->scratch_bytes)
            base->scratch_bytes = sums;
    }
    if (is_extreme(op))
        base->saved_bytes = (size_t)pg_shape_count(dst) * sizeof(float);
    return PG_OK;
}

static void destroy(pg_op *base) {
    variadic_op *op = (variadic_op *)base;
    if (op->x)
        pg_operands_free(op->x, op->n);
    pg_free(op->x);
    pg_free(op->walk);
}

/* ---- rows of n elements; x[i sx] belongs to y[i] ---- */

PG_CLONES static void add_row(int64_t n, const float *x, int64_t sx, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i * sx];
}

/* sign 1: maximum, -1: minimum. NaN must not vanish. */
PG_CLONES static void extreme_row(float sign, int64_t n, const float *x, int64_t sx, float *y,
                                  float *holders) {
    for (int64_t i = 0; i < n; i++) {
        float v = x[i * sx];
        bool better = sign * v > sign * y[i] || v != v;
        holders[i] = better ? 1.0f : v == y[i] ? holders[i] + 1.0f : holders[i];
        y[i] = better ? v : y[i];
    }
}

PG_CLONES static void share_row(int64_t n, const float *x, int64_t sx, const float *y,
                                const float *holders, const float *d_y, float *d_x) {
    for (int64_t i = 0; i < n; i++)
        d_x[i * sx] = x[i * sx] == y[i] ? d_y[i] / holders[i] : 0.0f;
}

/* The same for an operand that is broadcast: it sums over its uses. */
PG_CLONES static void share_sum_row(int64_t n, const float *x, int64_t sx, const float *y,
                                    const float *holders, const float *d_y, double *sums) {
    for (int64_t i = 0; i < n; i++)
        sums[i * sx] += x[i * sx] == y[i] ? (double)(d_y[i] / holders[i]) : 0.0;
}

PG_CLONES static void scale_row(float scale, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] *= scale;
}

enum { PARALLEL_FROM = 1 << 15 };

/* The result takes operand i in; the first one is simply copied. */
static void take(const variadic_op *op, const pg_op_io *io, int i) {
    const pg_walk *w = &op->walk[i];
    const float *x = pg_operand_data(&op->x[i], io);
    float *y = io->dst[0], *holders = io->saved;
    if (i == 0) {
        pg_walk_copy(w, y, x);
        return;
    }
    int64_t n = w->dims[w->rank - 1], sx = w->stride[1][w->rank - 1];
#pragma omp parallel for schedule(static) if (w->rows * n > PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        if (is_extreme(op))
            extreme_row(op->kind == MAX ? 1.0f : -1.0f, n, x + at[1], sx, y + at[0],
                        holders + at[0]);
        else
            add_row(n, x + at[1], sx, y + at[0]);
    }
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const variadic_op *op = (const variadic_op *)base;
    int64_t count = pg_shape_count(&base->dst[0].shape);
    float *holders = io->saved;
    if (is_extreme(op))
        for (int64_t i = 0; i < count; i++)
            holders[i] = 1.0f;
    for (int i = 0; i < op->n; i++)
        take(op, io, i);
    if (op->kind == MEAN)
        scale_row(1.0f / (float)op->n, count, io->dst[0]);
    return PG_OK;
}

static void backward_extreme(const variadic_op *op, const pg_op_io *io, int i, float *d_x) {
    const pg_walk *w = &op->walk[i];
    const float *x = pg_operand_data(&op->x[i], io), *holders = io->saved;
    int64_t n = w->dims[w->rank - 1], sx = w->stride[1][w->rank - 1];
    bool shared = pg_operand_is_broadcast(&op->x[i], &op->op.dst[0].shape);
    int64_t count = pg_shape_count(&op->x[i].desc.shape);
    double *sums = io->scratch;
    if (shared)
        memset(sums, 0, (size_t)count * sizeof *sums);
#pragma omp parallel for schedule(static) if (!shared && w->rows * n > PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        if (shared)
            share_sum_row(n, x + at[1], sx, io->dst[0] + at[0], holders + at[0],
                          io->d_dst[0] + at[0], sums + at[1]);
        else
            share_row(n, x + at[1], sx, io->dst[0] + at[0], holders + at[0],
                      io->d_dst[0] + at[0], d_x + at[1]);
    }
    for (int64_t k = 0; shared && k < count; k++)
        d_x[k] = (float)sums[k];
}

static void backward_sum(const variadic_op *op, const pg_op_io *io, int i, float *d_x) {
    const pg_shape *own = &op->x[i].desc.shape, *dst = &op->op.dst[0].shape;
    float scale = op->kind == MEAN ? 1.0f / (float)op->n : 1.0f;
    int64_t count = pg_shape_count(own);
    double *sums = io->scratch;
    if (!pg_operand_is_broadcast(&op->x[i], dst)) {
        const pg_walk *w = &op->walk[i];
        const int64_t *strides[] = {w->stride[1], w->stride[0]};
        pg_walk back;
        pg_walk_init(&back, w->rank, w->dims, 2, strides);
        pg_walk_scale(&back, scale, d_x, io->d_dst[0]);
        return;
    }
    memset(sums, 0, (size_t)count * sizeof *sums);
    pg_walk_sum(&op->walk[i], io->d_dst[0], sums);
    for (int64_t k = 0; k < count; k++)
        d_x[k] = (float)(sums[k] * (double)scale);
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const variadic_op *op = (const variadic_op *)base;
    for (int i = 0; i < op->n; i++) {
        float *d_x = op->x[i].src < 0 ? NULL : io->d_src[op->x[i].src];
        if (d_x && is_extreme(op))
            backward_extreme(op, io, i, d_x);
        else if (d_x)
            backward_sum(op, io, i, d_x);
    }
    return PG_OK;
}

const pg_op_class pg_variadic_class = {
    .create = create,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
