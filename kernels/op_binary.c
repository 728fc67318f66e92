/* Arithmetic of two operands with numpy broadcasting: Add, Sub, Mul, Div, Pow, Max, Min.
 *
 * Both operands are described by element strides along the axes of the result, in the order the
 * result lies in memory (0 along a broadcast axis), so one walk serves every layout and every kind
 * of broadcasting; a constant operand is repacked once. Axes that can be merged are, so that the
 * walk's inner loop is long: same shapes become a single axis, a per-channel gate two. */
#include "kernels/op.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"

typedef enum kind { ADD, SUB, MUL, DIV, POW, MAX, MIN } kind;
static const char *const kind_names[] = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"};

typedef struct walk {
    int rank;
    int64_t dims[PG_MAX_RANK];
    int64_t a[PG_MAX_RANK], b[PG_MAX_RANK]; /* element strides of the operands */
} walk;

typedef struct binary_op {
    pg_op op;
    kind kind;
    bool constant[2];
    pg_shape shape[2];  /* of the operands, padded with leading 1s to the result's rank */
    float *value[2];    /* constant operands, in the result's layout after prepare */
    const pg_const *raw[2]; /* borrowed until prepare */
    walk walk;
} binary_op;

extern const pg_op_class pg_binary_class;

static pg_err refuse(const pg_op_def *def, pg_diag *diag, const char *why) {
    return pg_fail(diag, PG_EMODEL, "node '%s' (%s): %s", def->node, def->type, why);
}

static void pad_rank(pg_shape *shape, int rank) {
    int shift = rank - shape->rank;
    for (int i = rank - 1; i >= 0; i--)
        shape->dims[i] = i >= shift ? shape->dims[i - shift] : 1;
    shape->rank = rank;
}

static bool broadcast(const pg_shape *a, const pg_shape *b, pg_shape *dst) {
    *dst = *a;
    for (int i = 0; i < a->rank; i++) {
        if (a->dims[i] != b->dims[i] && a->dims[i] != 1 && b->dims[i] != 1)
            return false;
        dst->dims[i] = a->dims[i] == 1 ? b->dims[i] : a->dims[i];
    }
    return true;
}

static pg_err check(const pg_op_def *def, pg_diag *diag) {
    int64_t legacy;
    if (def->n_inputs != 2 || !def->inputs[0].present || !def->inputs[1].present)
        return refuse(def, diag, "needs exactly two inputs");
    if (def->inputs[0].constant && def->inputs[1].constant)
        return refuse(def, diag, "both inputs are constant");
    pg_err err = pg_def_int(def, "broadcast", 0, &legacy, diag);
    if (!err && legacy)
        return refuse(def, diag, "the broadcast attribute of opset 6 is not supported");
    return err;
}

/* Axis k of the result as it lies in memory, as an axis of the ONNX order. */
static int memory_axis(const pg_desc *dst, int k) {
    if (dst->layout != PG_CHANNELS_LAST || dst->shape.rank < 3 || k == 0)
        return k;
    return k == dst->shape.rank - 1 ? 1 : k + 1;
}

static void operand_strides(const binary_op *op, int which, int64_t strides[PG_MAX_RANK]) {
    pg_desc desc = {.shape = op->shape[which], .layout = op->op.dst[0].layout};
    pg_desc_strides(&desc, strides);
    for (int i = 0; i < desc.shape.rank; i++)
        if (desc.shape.dims[i] == 1)
            strides[i] = 0;
}

static void plan_walk(binary_op *op) {
    int64_t sa[PG_MAX_RANK], sb[PG_MAX_RANK];
    const pg_desc *dst = &op->op.dst[0];
    operand_strides(op, 0, sa);
    operand_strides(op, 1, sb);
    walk *w = &op->walk;
    w->rank = 0;
    for (int k = 0; k < dst->shape.rank; k++) {
        int axis = memory_axis(dst, k);
        int64_t d = dst->shape.dims[axis];
        if (d == 1)
            continue;
        int last = w->rank - 1;
        bool merge = last >= 0 && w->a[last] == sa[axis] * d && w->b[last] == sb[axis] * d;
        int at = merge ? last : w->rank++;
        w->dims[at] = merge ? w->dims[at] * d : d;
        w->a[at] = sa[axis];
        w->b[at] = sb[axis];
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->dims[0] = 1;
        w->a[0] = w->b[0] = 0;
    }
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = check(def, diag);
    if (err)
        return err;
    pg_shape shape[2] = {def->inputs[0].shape, def->inputs[1].shape}, dst;
    int rank = shape[0].rank > shape[1].rank ? shape[0].rank : shape[1].rank;
    pad_rank(&shape[0], rank);
    pad_rank(&shape[1], rank);
    if (!broadcast(&shape[0], &shape[1], &dst)) {
        char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
        return pg_fail(diag, PG_EMODEL, "node '%s' (%s): shapes %s and %s do not broadcast",
                       def->node, def->type, pg_shape_text(&def->inputs[0].shape, a),
                       pg_shape_text(&def->inputs[1].shape, b));
    }
    err = pg_op_alloc(&pg_binary_class, def, sizeof(binary_op), 1, out, diag);
    if (err)
        return err;
    binary_op *op = (binary_op *)*out;
    while (strcmp(kind_names[op->kind], def->type) != 0)
        op->kind = (kind)((int)op->kind + 1);
    bool ranks_differ = false;
    for (int i = 0; i < 2; i++) {
        op->shape[i] = shape[i];
        op->raw[i] = def->inputs[i].constant;
        op->constant[i] = op->raw[i] != NULL;
        if (!op->constant[i] && def->inputs[i].shape.rank != rank)
            ranks_differ = true;
    }
    op->op.dst[0].shape = dst;
    op->op.layouts = ranks_differ ? PG_LAYOUTS_PLAIN : PG_LAYOUTS_SAME;
    op->op.keeps_src = op->kind != ADD && op->kind != SUB;
    op->op.flops = (uint64_t)pg_shape_count(&dst);
    return PG_OK;
}

/* Repacks a constant operand into the result's layout, as float. */
static pg_err pack_constant(binary_op *op, int which, pg_diag *diag) {
    const pg_const *raw = op->raw[which];
    int64_t count = pg_shape_count(&raw->shape);
    size_t bytes = (size_t)count * sizeof(float);
    float *plain = pg_malloc(bytes), *packed = pg_malloc(bytes);
    if (!plain || !packed) {
        pg_free(plain);
        pg_free(packed);
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->op.node);
    }
    for (int64_t i = 0; i < count; i++)
        plain[i] = raw->dtype == PG_F32 ? raw->f[i] : (float)raw->i[i];
    pg_layout_convert(&op->shape[which], PG_PLAIN, plain, op->op.dst[0].layout, packed);
    pg_free(plain);
    op->value[which] = packed;
    op->op.weight_bytes += bytes;
    return PG_OK;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    binary_op *op = (binary_op *)base;
    for (int i = 0; i < 2; i++)
        if (op->constant[i]) {
            pg_err err = pack_constant(op, i, diag);
            if (err)
                return err;
        }
    op->raw[0] = op->raw[1] = NULL;
    plan_walk(op);
    return PG_OK;
}

static void destroy(pg_op *base) {
    binary_op *op = (binary_op *)base;
    pg_free(op->value[0]);
    pg_free(op->value[1]);
}

/* ---- inner loops: one row of the walk; sa, sb are 0 or more ---- */

#define ROW_LOOP(f)                                                                                \
    if (sa == 1 && sb == 1)                                                                        \
        for (int64_t i = 0; i < n; i++) {                                                          \
            float u = a[i], v = b[i];                                                              \
            y[i] = (f);                                                                            \
        }                                                                                          \
    else                                                                                           \
        for (int64_t i = 0; i < n; i++) {                                                          \
            float u = a[i * sa], v = b[i * sb];                                                    \
            y[i] = (f);                                                                            \
        }                                                                                          \
    break

PG_CLONES static void value_row(kind k, int64_t n, const float *a, int64_t sa, const float *b,
                                int64_t sb, float *y) {
    switch (k) {
    case ADD:
        ROW_LOOP(u + v);
    case SUB:
        ROW_LOOP(u - v);
    case MUL:
        ROW_LOOP(u * v);
    case DIV:
        ROW_LOOP(u / v);
    case POW:
        ROW_LOOP(powf(u, v));
    case MAX:
        ROW_LOOP(u > v ? u : v);
    case MIN:
        ROW_LOOP(u < v ? u : v);
    }
}

/* d result / d operand; where Max and Min tie, each gets half, as torch does. */
static inline float partial(kind k, int which, float u, float v) {
    float tie = u == v ? 0.5f : 0.0f;
    switch (k) {
    case ADD:
        return 1.0f;
    case SUB:
        return which == 0 ? 1.0f : -1.0f;
    case MUL:
        return which == 0 ? v : u;
    case DIV:
        return which == 0 ? 1.0f / v : -u / (v * v);
    case POW:
        return which == 0 ? (v == 0 ? 0.0f : v * powf(u, v - 1)) : powf(u, v) * logf(u);
    case MAX:
        return (which == 0 ? u > v : v > u) ? 1.0f : tie;
    case MIN:
        return (which == 0 ? u < v : v < u) ? 1.0f : tie;
    }
    return 0.0f;
}

/* Adds d_y * partial to d_x along one row; sx is the stride of the operand in question. */
PG_CLONES static void slope_row(kind k, int which, int64_t n, const float *a, int64_t sa,
                                const float *b, int64_t sb, const float *d_y, float *d_x) {
    int64_t sx = which == 0 ? sa : sb;
    if (k == MUL && sa == 1 && sb == 1) {
        const float *other = which == 0 ? b : a;
        for (int64_t i = 0; i < n; i++)
            d_x[i] += d_y[i] * other[i];
    } else if ((k == ADD || k == SUB) && sx == 1) {
        float sign = partial(k, which, 0, 0);
        for (int64_t i = 0; i < n; i++)
            d_x[i] += d_y[i] * sign;
    } else {
        for (int64_t i = 0; i < n; i++) {
            float u = a ? a[i * sa] : 0, v = b ? b[i * sb] : 0;
            d_x[i * sx] += d_y[i] * partial(k, which, u, v);
        }
    }
}

/* ---- the walk ---- */

typedef struct rows {
    int64_t outer; /* rows in all */
    int64_t length;
} rows;

static rows rows_of(const walk *w) {
    rows r = {.outer = 1, .length = w->dims[w->rank - 1]};
    for (int i = 0; i < w->rank - 1; i++)
        r.outer *= w->dims[i];
    return r;
}

static void row_offsets(const walk *w, int64_t row, int64_t *a, int64_t *b) {
    *a = *b = 0;
    for (int i = w->rank - 2; i >= 0; i--) {
        int64_t k = row % w->dims[i];
        row /= w->dims[i];
        *a += k * w->a[i];
        *b += k * w->b[i];
    }
}

static void operands(const binary_op *op, const pg_op_io *io, const float *x[2]) {
    for (int i = 0, next = 0; i < 2; i++)
        x[i] = op->constant[i] ? op->value[i] : io->src[next++];
}

enum { CHUNK = 8192 };

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const binary_op *op = (const binary_op *)base;
    const walk *w = &op->walk;
    const float *x[2];
    operands(op, io, x);
    rows r = rows_of(w);
    int64_t sa = w->a[w->rank - 1], sb = w->b[w->rank - 1];
    if (r.outer == 1) {
#pragma omp parallel for schedule(static) if (r.length > 4 * CHUNK)
        for (int64_t at = 0; at < r.length; at += CHUNK) {
            int64_t n = r.length - at < CHUNK ? r.length - at : CHUNK;
            value_row(op->kind, n, x[0] + at * sa, sa, x[1] + at * sb, sb, io->dst[0] + at);
        }
        return PG_OK;
    }
#pragma omp parallel for schedule(static) if (r.outer * r.length > 4 * CHUNK)
    for (int64_t row = 0; row < r.outer; row++) {
        int64_t a, b;
        row_offsets(w, row, &a, &b);
        value_row(op->kind, r.length, x[0] + a, sa, x[1] + b, sb, io->dst[0] + row * r.length);
    }
    return PG_OK;
}

/* A broadcast operand collects from many rows, so its gradient is summed by one thread in one
 * order; these operands are small and the sum is bound by reading d_dst once. */
static void backward_operand(const binary_op *op, const pg_op_io *io, int which, float *d_x) {
    const walk *w = &op->walk;
    const float *x[2] = {NULL, NULL};
    if (op->op.keeps_src)
        operands(op, io, x);
    rows r = rows_of(w);
    int64_t sa = w->a[w->rank - 1], sb = w->b[w->rank - 1];
    int64_t count = pg_shape_count(&op->shape[which]);
    memset(d_x, 0, (size_t)count * sizeof(float));
    bool whole = count == pg_shape_count(&op->op.dst[0].shape);
    if (whole && r.outer == 1) {
#pragma omp parallel for schedule(static) if (r.length > 4 * CHUNK)
        for (int64_t at = 0; at < r.length; at += CHUNK) {
            int64_t n = r.length - at < CHUNK ? r.length - at : CHUNK;
            slope_row(op->kind, which, n, x[0] ? x[0] + at * sa : NULL, sa,
                      x[1] ? x[1] + at * sb : NULL, sb, io->d_dst[0] + at, d_x + at);
        }
        return;
    }
#pragma omp parallel for schedule(static) if (whole && r.outer * r.length > 4 * CHUNK)
    for (int64_t row = 0; row < r.outer; row++) {
        int64_t a, b;
        row_offsets(w, row, &a, &b);
        slope_row(op->kind, which, r.length, x[0] ? x[0] + a : NULL, sa, x[1] ? x[1] + b : NULL,
                  sb, io->d_dst[0] + row * r.length, d_x + (which == 0 ? a : b));
    }
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const binary_op *op = (const binary_op *)base;
    for (int i = 0, next = 0; i < 2; i++)
        if (!op->constant[i]) {
            float *d_x = io->d_src[next++];
            if (d_x)
                backward_operand(op, io, i, d_x);
        }
    return PG_OK;
}

const pg_op_class pg_binary_class = {
    .create = create,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};
