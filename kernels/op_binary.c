/* Two operands with numpy broadcasting: arithmetic, comparisons and logic. Truth values are 0 and 1
 * like every run-time value here, and nothing flows back through them.
 *
 * One walk over the result serves every layout and every kind of broadcasting. Backward makes a row
 * of d_dst * partial derivative first and collects it second, so that each of the two loops
 * vectorises by itself; an operand that was broadcast collects in double. */
#include <math.h>
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/operands.h"
#include "kernels/simd.h"
#include "kernels/walk.h"

typedef enum kind {
    ADD,
    SUB,
    MUL,
    DIV,
    POW,
    PRELU,
    MOD,
    EQUAL, /* from here to XOR: truth values, no gradient */
    LESS,
    LESS_EQUAL,
    GREATER,
    GREATER_EQUAL,
    AND,
    OR,
    XOR,
    FMOD, /* Mod with fmod=1 */
} kind;
static const char *const kind_names[] = {
    "Add",         "Sub",     "Mul",            "Div", "Pow", "PRelu", "Mod", "Equal", "Less",
    "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or",  "Xor",
};

static bool is_truth(kind k) { return k >= EQUAL && k <= XOR; }

typedef struct binary_op {
    pg_op op;
    kind kind;
    pg_operand x[2];
    pg_walk walk; /* (prepare) dst, x[0], x[1] */
} binary_op;

extern const pg_op_class pg_binary_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t legacy, fmod = 0;
    pg_operand x[2];
    pg_shape dst;
    if (def->n_inputs != 2)
        return pg_node_refuse(def, diag, "needs exactly two inputs");
    pg_err err = pg_def_int(def, "broadcast", 0, &legacy, diag);
    if (!err && legacy)
        err = pg_node_refuse(def, diag, "the broadcast attribute of opset 6 is not supported");
    if (!err && strcmp(def->type, "Mod") == 0)
        err = pg_def_int(def, "fmod", 0, &fmod, diag);
    if (!err)
        err = pg_operands_read(def, x, &dst, diag);
    if (!err)
        err = pg_op_alloc(&pg_binary_class, def, sizeof(binary_op), 1, out, diag);
    if (err)
        return err;
    binary_op *op = (binary_op *)*out;
    while (strcmp(kind_names[op->kind], def->type) != 0)
        op->kind = (kind)((int)op->kind + 1);
    op->kind = fmod ? FMOD : op->kind;
    memcpy(op->x, x, sizeof x);
    op->op.dst[0].shape = dst;
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.keeps_src = op->kind != ADD && op->kind != SUB && !is_truth(op->kind);
    op->op.flops = (uint64_t)(pg_shape_count(&dst) > 0 ? pg_shape_count(&dst) : 0);
    return PG_OK;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    binary_op *op = (binary_op *)base;
    const pg_shape *dst = &base->dst[0].shape;
    int64_t y[PG_MAX_RANK], a[PG_MAX_RANK], b[PG_MAX_RANK];
    pg_err err = pg_operands_pack(base, op->x, 2, diag);
    if (err)
        return err;
    pg_desc_strides(&base->dst[0], y);
    pg_operand_strides(&op->x[0], dst, a);
    pg_operand_strides(&op->x[1], dst, b);
    pg_walk_init(&op->walk, dst->rank, dst->dims, 3, (const int64_t *[]){y, a, b});
    for (int i = 0; i < 2; i++) {
        size_t sums = (size_t)pg_shape_count(&op->x[i].desc.shape) * sizeof(double);
        bool collects = op->x[i].src >= 0 && pg_operand_is_broadcast(&op->x[i], dst);
        if (collects && sums > base->scratch_bytes)
            base->scratch_bytes = sums;
    }
    return PG_OK;
}

static void destroy(pg_op *base) { pg_operands_free(((binary_op *)base)->x, 2); }

/* ---- rows: n elements of the result from u = a[i sa] and v = b[i sb] ---- */

#define LOOP(u_i, v_i, y_i)                                                                        \
    for (int64_t i = 0; i < n; i++) {                                                              \
        float u = (u_i), v = (v_i);                                                                \
        (void)u, (void)v;                                                                          \
        y[i] = (y_i);                                                                              \
    }

/* The strides compilers can vectorise, each with a loop of its own, and the rest. */
#define ROW(y_i)                                                                                   \
    if (sa == 1 && sb == 1) {                                                                      \
        LOOP(a[i], b[i], y_i)                                                                      \
    } else if (sa == 1 && sb == 0) {                                                               \
        const float b0 = b[0];                                                                     \
        LOOP(a[i], b0, y_i)                                                                        \
    } else if (sa == 0 && sb == 1) {                                                               \
        const float a0 = a[0];                                                                     \
        LOOP(a0, b[i], y_i)                                                                        \
    } else {                                                                                       \
        LOOP(a[i * sa], b[i * sb], y_i)                                                            \
    }                                                                                              \
    break

/* The remainder with the sign of the divisor, as Python has it. */
static inline float modulo(float u, float v) {
    float r = fmodf(u, v);
    return r != 0 && (r < 0) != (v < 0) ? r + v : r;
}

PG_CLONES static void value_row(kind k, int64_t n, const float *a, int64_t sa, const float *b,
                                int64_t sb, float *restrict y) {
    if (k == POW && sb == 0 && b[0] == 2.0f) { /* the square inside every LayerNorm */
        k = MUL;
        b = a;
        sb = sa;
    }
    if (k == POW && sb == 0 && b[0] == 3.0f) { /* the cube inside GELU by tanh */
        for (int64_t i = 0; i < n; i++)
            y[i] = a[i * sa] * a[i * sa] * a[i * sa];
        return;
    }
    switch (k) {
    case ADD:
        ROW(u + v);
    case SUB:
        ROW(u - v);
    case MUL:
        ROW(u * v);
    case DIV:
        ROW(u / v);
    case POW:
        ROW(powf(u, v));
    case PRELU:
        ROW(u < 0 ? u * v : u);
    case MOD:
        ROW(modulo(u, v));
    case FMOD:
        ROW(fmodf(u, v));
    case EQUAL:
        ROW(u == v ? 1.0f : 0.0f);
    case LESS:
        ROW(u < v ? 1.0f : 0.0f);
    case LESS_EQUAL:
        ROW(u <= v ? 1.0f : 0.0f);
    case GREATER:
        ROW(u > v ? 1.0f : 0.0f);
    case GREATER_EQUAL:
        ROW(u >= v ? 1.0f : 0.0f);
    case AND:
        ROW(u != 0 && v != 0 ? 1.0f : 0.0f);
    case OR:
        ROW(u != 0 || v != 0 ? 1.0f : 0.0f);
    case XOR:
        ROW((u != 0) != (v != 0) ? 1.0f : 0.0f);
    }
}

/* y = g * d result / d u; v u^(v-1) is 0 for v = 0, whatever u. */
PG_CLONES static void slope_u_row(kind k, int64_t n, const float *a, int64_t sa, const float *b,
                                  int64_t sb, const float *g, float *restrict y) {
    switch (k) {
    case ADD:
    case SUB:
    case MOD: /* u minus whole multiples of v */
    case FMOD:
        memcpy(y, g, (size_t)n * sizeof *y);
        break;
    case MUL:
        ROW(g[i] * v);
    case DIV:
        ROW(g[i] / v);
    case POW:
        if (sb == 0 && b[0] == 2.0f) {
            ROW(g[i] * 2.0f * u);
        }
        if (sb == 0 && b[0] == 3.0f) {
            ROW(g[i] * 3.0f * (u * u));
        }
        ROW(v == 0 ? 0.0f : g[i] * v * powf(u, v - 1));
    case PRELU:
        ROW(u > 0 ? g[i] : g[i] * v);
    default:
        memset(y, 0, (size_t)n * sizeof *y);
        break;
    }
}

/* y = g * d result / d v. At u = 0 a positive power does not depend on the exponent; below 0 its
 * derivative is not a number, as in torch. */
PG_CLONES static void slope_v_row(kind k, int64_t n, const float *a, int64_t sa, const float *b,
                                  int64_t sb, const float *g, float *restrict y) {
    switch (k) {
    case ADD:
        memcpy(y, g, (size_t)n * sizeof *y);
        break;
    case SUB:
        for (int64_t i = 0; i < n; i++)
            y[i] = -g[i];
        break;
    case MUL:
        ROW(g[i] * u);
    case DIV:
        ROW(-g[i] * ((u / v) / v));
    case POW:
        ROW(u == 0 && v >= 0 ? 0.0f : g[i] * powf(u, v) * logf(u));
    case PRELU:
        ROW(u > 0 ? 0.0f : g[i] * u);
    case MOD:
        ROW(-g[i] * floorf(u / v));
    case FMOD:
        ROW(-g[i] * truncf(u / v));
    default:
        memset(y, 0, (size_t)n * sizeof *y);
        break;
    }
}

/* Adds a row to the operand's sums; stride 0 sums it, in parts that vectorise. */
PG_CLONES static void collect_row(int64_t n, const float *g, double *sums, int64_t stride) {
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++)
            sums[i] += (double)g[i];
    } else if (stride == 0) {
        double part[8] = {0}, sum = 0;
        int64_t i = 0;
        for (; i + 8 <= n; i += 8)
            for (int k = 0; k < 8; k++)
                part[k] += (double)g[i + k];
        for (; i < n; i++)
            sum += (double)g[i];
        for (int k = 0; k < 8; k++)
            sum += part[k];
        sums[0] += sum;
    } else {
        for (int64_t i = 0; i < n; i++)
            sums[i * stride] += (double)g[i];
    }
}

/* ---- the walk, cut into tasks of at most CHUNK elements of one row ---- */

enum { CHUNK = 2048 };

typedef struct task {
    int64_t n; /* elements */
    int64_t at[PG_WALK_OPERANDS];
} task;

static int64_t tasks_per_row(const pg_walk *w) {
    return (w->dims[w->rank - 1] + CHUNK - 1) / CHUNK;
}

static task task_at(const pg_walk *w, int64_t index) {
    int64_t per_row = tasks_per_row(w), last = w->rank - 1;
    int64_t row = per_row == 1 ? index : index / per_row, from = (index - row * per_row) * CHUNK;
    task t;
    pg_walk_row(w, row, t.at);
    t.n = w->dims[last] - from < CHUNK ? w->dims[last] - from : CHUNK;
    for (int k = 0; k < w->operands; k++)
        t.at[k] += from * w->stride[k][last];
    return t;
}

static bool worth_a_team(const pg_walk *w) { return w->rows * w->dims[w->rank - 1] > 16 * CHUNK; }

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const binary_op *op = (const binary_op *)base;
    const pg_walk *w = &op->walk;
    const float *a = pg_operand_data(&op->x[0], io), *b = pg_operand_data(&op->x[1], io);
    int64_t sa = w->stride[1][w->rank - 1], sb = w->stride[2][w->rank - 1];
#pragma omp parallel for schedule(static) if (worth_a_team(w))
    for (int64_t i = 0; i < w->rows * tasks_per_row(w); i++) {
        task t = task_at(w, i);
        value_row(op->kind, t.n, a + t.at[1], sa, b + t.at[2], sb, io->dst[0] + t.at[0]);
    }
    return PG_OK;
}

/* A broadcast operand collects from many rows, so its gradient is summed by one thread in one
 * order; these operands are small and the sum is bound by reading d_dst once. */
static void backward_operand(const binary_op *op, const pg_op_io *io, int which, float *d_x) {
    const pg_walk *w = &op->walk;
    const float *a = pg_operand_data(&op->x[0], io), *b = pg_operand_data(&op->x[1], io);
    int64_t sa = w->stride[1][w->rank - 1], sb = w->stride[2][w->rank - 1];
    int64_t sx = which == 0 ? sa : sb;
    bool shared = pg_operand_is_broadcast(&op->x[which], &op->op.dst[0].shape);
    int64_t count = pg_shape_count(&op->x[which].desc.shape);
    double *sums = io->scratch;
    if (shared)
        memset(sums, 0, (size_t)count * sizeof *sums);
#pragma omp parallel for schedule(static) if (!shared && worth_a_team(w))
    for (int64_t i = 0; i < w->rows * tasks_per_row(w); i++) {
        task t = task_at(w, i);
        float products[CHUNK], *to = d_x + t.at[1 + which];
        float *g = !shared && sx == 1 ? to : products;
        (which == 0 ? slope_u_row : slope_v_row)(op->kind, t.n, a + t.at[1], sa, b + t.at[2], sb,
                                                 io->d_dst[0] + t.at[0], g);
        if (shared)
            collect_row(t.n, g, sums + t.at[1 + which], sx);
        else if (sx != 1)
            for (int64_t k = 0; k < t.n; k++)
                to[k * sx] = g[k];
    }
    for (int64_t i = 0; shared && i < count; i++)
        d_x[i] = (float)sums[i];
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const binary_op *op = (const binary_op *)base;
    for (int i = 0; i < 2; i++) {
        float *d_x = op->x[i].src < 0 ? NULL : io->d_src[op->x[i].src];
        if (d_x && is_truth(op->kind))
            memset(d_x, 0, (size_t)pg_shape_count(&op->x[i].desc.shape) * sizeof *d_x);
        else if (d_x)
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
