/* Reductions over all axes, or those an attribute (older opsets) or a constant input (newer ones)
 * names: one row of `functions` each. With kept dimensions or without, the result's elements are
 * the same, so the walk sees the input's axes with stride 0 in the result where they are reduced.
 *
 * Forward accumulates a term per element in double and makes the result of the sum; backward makes
 * a weight per result of its gradient and hands it out. At kinks as torch: equal extremes share the
 * gradient evenly (amax), the norm of nothing but zeros has gradient 0. */
#include "kernels/reduce_rows.h"

#include <math.h>
#include <string.h>

#include "kernels/op_node.h"

typedef enum result { SAME, AVERAGE, ROOT, LOGARITHM, LOG_SUM_EXP } result;
typedef enum weight { GRADIENT, SHARE, TWICE, OVER_Y, OVER_EXP_Y, OVER_TIES, OF_PRODUCT } weight;

typedef struct reduce_function {
    const char *type;
    pg_reduce_term term;
    result result; /* y from the accumulator */
    weight weight; /* per result, from d_y, y and what it reads of x */
    pg_reduce_slope slope;
} reduce_function;

static const reduce_function functions[] = {
    {"ReduceL1", PG_REDUCE_ABS, SAME, GRADIENT, PG_SLOPE_SIGN},
    {"ReduceL2", PG_REDUCE_SQUARE, ROOT, OVER_Y, PG_SLOPE_TIMES},
    {"ReduceLogSum", PG_REDUCE_SUM, LOGARITHM, OVER_EXP_Y, PG_SLOPE_FLAT},
    {"ReduceLogSumExp", PG_REDUCE_MAX, LOG_SUM_EXP, GRADIENT, PG_SLOPE_EXP},
    {"ReduceMax", PG_REDUCE_MAX, SAME, OVER_TIES, PG_SLOPE_EQUAL},
    {"ReduceMean", PG_REDUCE_SUM, AVERAGE, SHARE, PG_SLOPE_FLAT},
    {"ReduceMin", PG_REDUCE_MIN, SAME, OVER_TIES, PG_SLOPE_EQUAL},
    {"ReduceProd", PG_REDUCE_PRODUCT, SAME, OF_PRODUCT, PG_SLOPE_PRODUCT},
    {"ReduceSum", PG_REDUCE_SUM, SAME, GRADIENT, PG_SLOPE_FLAT},
    {"ReduceSumSquare", PG_REDUCE_SQUARE, SAME, TWICE, PG_SLOPE_TIMES},
};

typedef struct reduce_op {
    pg_op op;
    const reduce_function *function;
    bool reduced[PG_MAX_RANK];
    bool keep;
    int64_t results;
    double each;  /* elements per result */
    bool reads_y; /* backward does: forward saves it in double, for exp(x - y) of large y */
    /* prepare: */
    pg_walk walk;  /* src, dst */
    int64_t parts; /* rows are cut into so many; each has its own results unless `apart` */
    bool apart;    /* no two rows share a result */
} reduce_op;

extern const pg_op_class pg_reduce_class;

static const reduce_function *find_function(const char *type) {
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strcmp(functions[i].type, type) == 0)
            return &functions[i];
    return NULL;
}

/* Which axes to reduce. None named means all, unless noop_with_empty_axes. */
static pg_err read_axes(const pg_op_def *def, reduce_op *op, pg_diag *diag) {
    bool sum = strcmp(def->type, "ReduceSum") == 0;
    const char *attr = def->opset < (sum ? 13 : 18) ? "axes" : NULL;
    int rank = def->inputs[0].shape.rank, count;
    int64_t keep, noop;
    pg_err err = pg_node_axes(def, attr, 1, rank, op->reduced, &count, diag);
    if (!err)
        err = pg_def_int(def, "keepdims", 1, &keep, diag);
    if (!err)
        err = pg_def_int(def, "noop_with_empty_axes", 0, &noop, diag);
    if (err)
        return err;
    op->keep = keep != 0;
    if (count <= 0 && !noop)
        for (int i = 0; i < rank; i++)
            op->reduced[i] = true;
    return PG_OK;
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    reduce_op what = {.function = find_function(def->type)};
    pg_assert(what.function);
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_axes(def, &what, diag);
    if (!err)
        err = pg_op_alloc(&pg_reduce_class, def, sizeof(reduce_op), 1, out, diag);
    if (err)
        return err;
    reduce_op *op = (reduce_op *)*out;
    const pg_shape *in = &def->inputs[0].shape;
    pg_shape *dst = &op->op.dst[0].shape;
    for (int i = 0; i < in->rank; i++)
        if (!what.reduced[i] || what.keep)
            dst->dims[dst->rank++] = what.reduced[i] ? 1 : in->dims[i];
    what.op = op->op;
    *op = what;
    op->results = pg_shape_count(dst);
    op->each = (double)(pg_shape_count(in) / op->results);
    op->op.layouts = PG_LAYOUTS_SAME;
    op->op.keeps_src = op->function->slope != PG_SLOPE_FLAT;
    op->reads_y = op->function->weight == OVER_Y || op->function->weight == OVER_EXP_Y ||
                  op->function->slope == PG_SLOPE_EXP || op->function->slope == PG_SLOPE_EQUAL;
    op->op.flops = (uint64_t)pg_shape_count(in);
    return PG_OK;
}

enum { PART = 1 << 14, MAX_PARTS = 16 }; /* elements */

/* The cut depends on the shape alone, so results do not depend on the team's size. Results of parts
 * have to be joined: not worth it where they are nearly as many as the elements. */
static void choose_parts(reduce_op *op) {
    const pg_walk *w = &op->walk;
    int64_t parts = w->rows * w->dims[w->rank - 1] / PART;
    op->apart = true;
    for (int i = 0; i < w->rank - 1; i++)
        op->apart = op->apart && w->stride[1][i] != 0;
    if (!op->apart && parts > (int64_t)op->each / 4)
        parts = (int64_t)op->each / 4;
    parts = parts > MAX_PARTS ? MAX_PARTS : parts;
    parts = parts > w->rows ? w->rows : parts;
    op->parts = parts < 1 ? 1 : parts;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    reduce_op *op = (reduce_op *)base;
    int64_t src[PG_MAX_RANK], dst[PG_MAX_RANK], wide[PG_MAX_RANK];
    const pg_shape *in = &base->src[0].shape;
    (void)diag;
    pg_desc_strides(&base->src[0], src);
    pg_desc_strides(&base->dst[0], dst);
    for (int i = 0, next = 0; i < in->rank; i++) {
        wide[i] = op->reduced[i] ? 0 : dst[next];
        next += !op->reduced[i] || op->keep;
    }
    pg_walk_init(&op->walk, in->rank, in->dims, 2, (const int64_t *[]){src, wide});
    choose_parts(op);
    /* accumulators of every part, then references, then weights */
    base->saved_bytes = op->reads_y ? (size_t)op->results * sizeof(double) : 0;
    base->scratch_bytes = (size_t)((op->parts + 2) * op->results) * sizeof(double);
    return PG_OK;
}

static double *references(const reduce_op *op, const pg_op_io *io) {
    return (double *)io->scratch + op->parts * op->results;
}

static int64_t first_row(const reduce_op *op, int64_t part) {
    return op->walk.rows * part / op->parts;
}

/* The term over all elements, in the first `results` doubles of scratch. */
static double *accumulate(const reduce_op *op, const pg_op_io *io, pg_reduce_term term) {
    double *acc = io->scratch;
    const double *r = references(op, io);
    int64_t parts = op->apart ? 1 : op->parts;
    for (int64_t i = 0; i < parts * op->results; i++)
        acc[i] = pg_reduce_start(term);
#pragma omp parallel for schedule(static) if (op->parts > 1)
    for (int64_t p = 0; p < op->parts; p++)
        pg_reduce_rows(term, &op->walk, first_row(op, p), first_row(op, p + 1), io->src[0], r,
                       acc + (op->apart ? 0 : p * op->results));
    for (int64_t p = 1; p < parts; p++)
        for (int64_t i = 0; i < op->results; i++)
            acc[i] = pg_reduce_join(term, acc[i], acc[p * op->results + i]);
    return acc;
}

static double result_of(const reduce_op *op, double acc, double r) {
    switch (op->function->result) {
    case AVERAGE:
        return acc / op->each;
    case ROOT:
        return sqrt(acc);
    case LOGARITHM:
        return log(acc);
    case LOG_SUM_EXP:
        return r + log(acc);
    case SAME:
        break;
    }
    return acc;
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const reduce_op *op = (const reduce_op *)base;
    double *acc = accumulate(op, io, op->function->term), *r = references(op, io);
    if (op->function->result == LOG_SUM_EXP) { /* around the largest, so that nothing overflows */
        for (int64_t i = 0; i < op->results; i++)
            r[i] = isinf(acc[i]) ? 0 : acc[i];
        acc = accumulate(op, io, PG_REDUCE_EXP);
    }
    for (int64_t i = 0; i < op->results; i++) {
        double y = result_of(op, acc[i], r[i]);
        io->dst[0][i] = (float)y;
        if (op->reads_y)
            ((double *)io->saved)[i] = y;
    }
    return PG_OK;
}

static double weight_of(const reduce_op *op, double d_y, double y, double acc) {
    switch (op->function->weight) {
    case SHARE:
        return d_y / op->each;
    case TWICE:
        return 2 * d_y;
    case OVER_Y:
        return y > 0 ? d_y / y : 0;
    case OVER_EXP_Y: /* 1 / sum; infinite where the sum is 0, as in torch */
        return d_y / exp(y);
    case OVER_TIES:
        return d_y / acc;
    case OF_PRODUCT:
        return d_y * acc;
    case GRADIENT:
        break;
    }
    return d_y;
}

/* References and weights of all results; sums over x where the weights need them. */
static void weigh(const reduce_op *op, const pg_op_io *io) {
    double *acc = io->scratch, *r = references(op, io), *w = r + op->results;
    weight kind = op->function->weight;
    const double *y = io->saved;
    for (int64_t i = 0; i < op->results; i++)
        r[i] = op->reads_y ? y[i] : 0;
    if (kind == OVER_TIES || kind == OF_PRODUCT)
        accumulate(op, io, kind == OVER_TIES ? PG_REDUCE_EQUAL : PG_REDUCE_NONZERO);
    for (int64_t i = 0; i < op->results; i++)
        w[i] = weight_of(op, (double)io->d_dst[0][i], r[i], acc[i]);
    if (kind == OF_PRODUCT) {
        accumulate(op, io, PG_REDUCE_EQUAL); /* to 0: how many zeros */
        memcpy(r, acc, (size_t)op->results * sizeof *r);
    }
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const reduce_op *op = (const reduce_op *)base;
    if (!io->d_src[0])
        return PG_OK;
    weigh(op, io);
    const double *r = references(op, io);
#pragma omp parallel for schedule(static) if (op->parts > 1)
    for (int64_t p = 0; p < op->parts; p++)
        pg_reduce_slopes(op->function->slope, &op->walk, first_row(op, p), first_row(op, p + 1),
                         io->src[0], r + op->results, r, io->d_src[0]);
    return PG_OK;
}

const pg_op_class pg_reduce_class = {
    .create = create, .prepare = prepare, .forward = forward, .backward = backward};
