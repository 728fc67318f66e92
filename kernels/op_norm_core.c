/* Normalisation over groups, forward and backward, on one view of the memory:
 *
 *     x [outer][rows][groups][run]        group (o, g) is rows * run elements
 *
 * Channels-last, Instance- and GroupNormalization are [N][positions][groups][channels of one];
 * plain, and for LayerNormalization, groups is 1 and a group is one contiguous block of `rows`
 * lines with a scale of their own. So there are two kinds of loops: down columns (groups > 1; a
 * line holds every group, statistics are spread to one per column), and along blocks (groups == 1).
 *
 * Forward keeps mean and rate of every group; with h = scale * d_y and xn = (x - mean) * rate
 *
 *     d_x = rate * (h - mean(h) - xn * mean(h * xn))
 *
 * over the same groups. Sums are double. Where the outer blocks are too few for a team, rows are
 * cut into parts; the cut depends on the shape alone, and parts are added in order, so no result
 * depends on the team's size. */
#include "kernels/op_norm.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/simd.h"

typedef struct norm_op {
    pg_op op;
    pg_norm_spec spec;
    /* the rest: prepare */
    int64_t outer, rows, groups, run;
    int64_t line; /* groups * run, contiguous */
    int64_t cols; /* statistics per outer block: line, or 1 where groups is 1 */
    bool along;   /* scale and bias go along the line; else one value per line */
    int64_t parts, rows_per_part;
} norm_op;

/* The memory-order axes as kept, over, kept, over; sizes 1 belong anywhere. */
static bool make_view(int rank, const int64_t *dims, const bool *over, int64_t view[4]) {
    int slot = 0;
    for (int i = 0; i < 4; i++)
        view[i] = 1;
    for (int i = 0; i < rank; i++) {
        if (dims[i] == 1)
            continue;
        slot += (slot & 1) != (int)over[i];
        if (slot == 4)
            return false;
        view[slot] *= dims[i];
    }
    return true;
}

static void destroy(pg_op *base) {
    norm_op *op = (norm_op *)base;
    pg_free(op->spec.scale);
    pg_free(op->spec.bias);
}

static bool view_in_layout(const norm_op *op, bool channels_last, int64_t view[4]) {
    const pg_norm_spec *s = &op->spec;
    int64_t dims[PG_NORM_RANK];
    bool over[PG_NORM_RANK];
    int n = 0, first = 1, last = s->split ? 2 : 1; /* the channel axes */
    for (int i = 0; i < s->rank; i++)
        if (!channels_last || i < first || i > last)
            dims[n] = s->dims[i], over[n++] = s->over[i];
    for (int i = first; channels_last && i <= last; i++)
        dims[n] = s->dims[i], over[n++] = s->over[i];
    return make_view(n, dims, over, view);
}

enum { PART = 1 << 14, MAX_PARTS = 32, TEAM = 8 };

static void choose_parts(norm_op *op) {
    int64_t parts = op->outer < TEAM ? op->rows * op->line / PART : 1;
    parts = parts > MAX_PARTS ? MAX_PARTS : parts > op->rows ? op->rows : parts;
    op->rows_per_part = parts > 1 ? (op->rows + parts - 1) / parts : op->rows;
    op->parts = (op->rows + op->rows_per_part - 1) / op->rows_per_part;
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    norm_op *op = (norm_op *)base;
    const pg_desc *src = &base->src[0];
    bool last = src->layout == PG_CHANNELS_LAST && !pg_layout_same_bytes(&src->shape);
    int64_t view[4];
    (void)diag;
    bool fits = view_in_layout(op, last, view);
    pg_assert(fits); /* create saw to it */
    op->outer = view[0], op->rows = view[1], op->groups = view[2], op->run = view[3];
    op->along =
        op->spec.affine == PG_NORM_TRAILING || (op->spec.affine == PG_NORM_PER_CHANNEL && last);
    if (op->groups == 1) { /* a block, cut into lines as scale and bias want it */
        int64_t block = op->rows * op->run;
        op->run = op->along ? op->spec.n : block;
        if (op->spec.affine == PG_NORM_PER_CHANNEL && !last) /* all positions of a channel */
            op->run = pg_shape_count(&src->shape) / (src->shape.dims[0] * op->spec.n);
        op->rows = block / op->run;
    }
    op->line = op->groups * op->run;
    op->cols = op->groups == 1 ? 1 : op->line;
    choose_parts(op);
    base->saved_bytes = (size_t)(2 * op->outer * op->cols) * sizeof(double);
    base->scratch_bytes = (size_t)(2 * op->outer * op->parts * op->cols) * sizeof(double);
    return PG_OK;
}

/* ---- loops ---- */

PG_CLONES static void sum_columns(int64_t rows, int64_t cols, const float *x, double *sum) {
    for (int64_t r = 0; r < rows; r++, x += cols)
        for (int64_t c = 0; c < cols; c++)
            sum[c] += (double)x[c];
}

PG_CLONES static void square_columns(int64_t rows, int64_t cols, const float *x, const double *mean,
                                     double *sum) {
    for (int64_t r = 0; r < rows; r++, x += cols)
        for (int64_t c = 0; c < cols; c++) {
            double d = (double)x[c] - mean[c];
            sum[c] += d * d;
        }
}

/* Eight partial sums let a compiler vectorise what it may not reorder. */
enum { LANES = 8 };

static double join(const double part[LANES]) {
    return ((part[0] + part[4]) + (part[1] + part[5])) +
           ((part[2] + part[6]) + (part[3] + part[7]));
}

PG_CLONES static void lane_sums(int64_t n, const float *x, double part[LANES]) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            part[k] += (double)x[i + k];
    for (int k = 0; i < n; i++, k++)
        part[k] += (double)x[i];
}

PG_CLONES static void lane_squares(int64_t n, const float *x, double mean, double part[LANES]) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            double d = (double)x[i + k] - mean;
            part[k] += d * d;
        }
    for (int k = 0; i < n; i++, k++) {
        double d = (double)x[i] - mean;
        part[k] += d * d;
    }
}

/* What a line's elements are worked with: statistics with step 1 (columns) or 0 (block), scale and
 * bias with step 1 or 0. Every pair of steps gets a loop of its own. */
typedef struct line_args {
    const double *mean, *rate, *pull, *lean; /* pull = mean(h), lean = mean(h xn) */
    const float *scale, *bias;
    int stat_step, affine_step;
} line_args;

#define FOR_STEPS(a, body)                                                                         \
    if ((a)->stat_step && (a)->affine_step) {                                                      \
        body(1, 1)                                                                                 \
    } else if ((a)->stat_step) {                                                                   \
        body(1, 0)                                                                                 \
    } else if ((a)->affine_step) {                                                                 \
        body(0, 1)                                                                                 \
    } else {                                                                                       \
        body(0, 0)                                                                                 \
    }

PG_CLONES static void value_line(const line_args *a, int64_t n, const float *x, float *restrict y) {
    const double *mean = a->mean, *rate = a->rate;
    const float *scale = a->scale, *bias = a->bias;
#define BODY(st, sa)                                                                               \
    for (int64_t i = 0; i < n; i++)                                                                \
        y[i] = (float)(((double)x[i] - mean[i * (st)]) * rate[i * (st)]) * scale[i * (sa)] +       \
               bias[i * (sa)];
    FOR_STEPS(a, BODY)
#undef BODY
}

PG_CLONES static void slope_line(const line_args *a, int64_t n, const float *x, const float *d_y,
                                 float *restrict d_x) {
    const double *mean = a->mean, *rate = a->rate, *pull = a->pull, *lean = a->lean;
    const float *scale = a->scale;
#define BODY(st, sa)                                                                               \
    for (int64_t i = 0; i < n; i++) {                                                              \
        double xn = ((double)x[i] - mean[i * (st)]) * rate[i * (st)];                              \
        double h = (double)scale[i * (sa)] * (double)d_y[i];                                       \
        d_x[i] = (float)(rate[i * (st)] * (h - pull[i * (st)] - xn * lean[i * (st)]));             \
    }
    FOR_STEPS(a, BODY)
#undef BODY
}

/* Columns: pull[c] += h, lean[c] += h xn. */
PG_CLONES static void slope_columns(const line_args *a, int64_t n, const float *x, const float *d_y,
                                    double *restrict pull, double *restrict lean) {
    const double *mean = a->mean, *rate = a->rate;
    for (int64_t i = 0; i < n; i++) {
        double h = (double)a->scale[i * a->affine_step] * (double)d_y[i];
        pull[i] += h;
        lean[i] += h * (((double)x[i] - mean[i]) * rate[i]);
    }
}

/* Block: the same, in lanes. */
PG_CLONES static void slope_lanes(const line_args *a, int64_t n, const float *x, const float *d_y,
                                  double pull[LANES], double lean[LANES]) {
    const float *scale = a->scale;
    double mean = a->mean[0], rate = a->rate[0];
    int64_t i = 0, step = a->affine_step;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            double h = (double)scale[(i + k) * step] * (double)d_y[i + k];
            pull[k] += h;
            lean[k] += h * (((double)x[i + k] - mean) * rate);
        }
    for (int k = 0; i < n; i++, k++) {
        double h = (double)scale[i * step] * (double)d_y[i];
        pull[k] += h;
        lean[k] += h * (((double)x[i] - mean) * rate);
    }
}

/* ---- phases: each looks once at a part of an outer block, then its sums are finished ---- */

typedef struct norm_call {
    const norm_op *op;
    const float *x, *d_y;
    float *out;
    double *mean, *rate; /* saved: [outer][cols] each */
    double *sums;        /* scratch: [outer][parts][2][cols]; the totals end up in part 0 */
} norm_call;

typedef struct norm_phase {
    void (*part)(const norm_call *c, int64_t o, int64_t p);
    void (*finish)(const norm_call *c, int64_t o); /* NULL: nothing */
} norm_phase;

/* The rows of part p; `at` is where they start in the tensor. */
static int64_t part_rows(const norm_op *op, int64_t o, int64_t p, int64_t *at) {
    int64_t first = p * op->rows_per_part, left = op->rows - first;
    *at = (o * op->rows + first) * op->line;
    return left < op->rows_per_part ? left : op->rows_per_part;
}

static double *part_sums(const norm_call *c, int64_t o, int64_t p) {
    return c->sums + (o * c->op->parts + p) * 2 * c->op->cols;
}

static double *cleared_sums(const norm_call *c, int64_t o, int64_t p) {
    double *sums = part_sums(c, o, p);
    memset(sums, 0, (size_t)(2 * c->op->cols) * sizeof *sums);
    return sums;
}

/* Adds the parts, then the columns of every group, and spreads their average to all of them. */
static double *averages(const norm_call *c, int64_t o) {
    const norm_op *op = c->op;
    double *total = part_sums(c, o, 0), count = (double)(op->rows * op->run);
    for (int64_t p = 1; p < op->parts; p++) {
        const double *more = part_sums(c, o, p);
        for (int64_t i = 0; i < 2 * op->cols; i++)
            total[i] += more[i];
    }
    int64_t run = op->groups == 1 ? 1 : op->run;
    for (int64_t at = 0; at < 2 * op->cols; at += run) {
        double sum = 0;
        for (int64_t i = 0; i < run; i++)
            sum += total[at + i];
        for (int64_t i = 0; i < run; i++)
            total[at + i] = sum / count;
    }
    return total;
}

static void mean_part(const norm_call *c, int64_t o, int64_t p) {
    const norm_op *op = c->op;
    double *sums = cleared_sums(c, o, p), lanes[LANES] = {0};
    int64_t at, rows = part_rows(op, o, p, &at);
    if (op->groups > 1) {
        sum_columns(rows, op->cols, c->x + at, sums);
    } else {
        lane_sums(rows * op->line, c->x + at, lanes);
        sums[0] = join(lanes);
    }
}

static void mean_finish(const norm_call *c, int64_t o) {
    memcpy(c->mean + o * c->op->cols, averages(c, o), (size_t)c->op->cols * sizeof(double));
}

static void variance_part(const norm_call *c, int64_t o, int64_t p) {
    const norm_op *op = c->op;
    double *sums = cleared_sums(c, o, p), lanes[LANES] = {0};
    const double *mean = c->mean + o * op->cols;
    int64_t at, rows = part_rows(op, o, p, &at);
    if (op->groups > 1) {
        square_columns(rows, op->cols, c->x + at, mean, sums);
    } else {
        lane_squares(rows * op->line, c->x + at, mean[0], lanes);
        sums[0] = join(lanes);
    }
}

static void variance_finish(const norm_call *c, int64_t o) {
    const norm_op *op = c->op;
    const double *variance = averages(c, o);
    double *rate = c->rate + o * op->cols, epsilon = op->spec.epsilon;
    for (int64_t i = 0; i < op->cols; i++)
        rate[i] = op->spec.epsilon_outside ? 1 / (sqrt(variance[i]) + epsilon)
                                           : 1 / sqrt(variance[i] + epsilon);
}

static line_args args_of(const norm_call *c, int64_t o) {
    const norm_op *op = c->op;
    const double *sums = part_sums(c, o, 0);
    return (line_args){.mean = c->mean + o * op->cols,
                       .rate = c->rate + o * op->cols,
                       .pull = sums,
                       .lean = sums + op->cols,
                       .stat_step = op->groups > 1,
                       .affine_step = op->along};
}

/* Points scale and bias at those of the line at `at`. */
static void affine_of_line(const norm_op *op, int64_t at, line_args *a) {
    static const float one = 1, zero = 0;
    bool none = op->spec.affine == PG_NORM_NO_AFFINE;
    int64_t index = op->along || none ? 0 : at / op->line % op->spec.n;
    a->scale = none ? &one : op->spec.scale + index;
    a->bias = none ? &zero : op->spec.bias + index;
}

static void value_part(const norm_call *c, int64_t o, int64_t p) {
    line_args a = args_of(c, o);
    int64_t at, line = c->op->line, rows = part_rows(c->op, o, p, &at);
    for (int64_t r = 0; r < rows; r++, at += line) {
        affine_of_line(c->op, at, &a);
        value_line(&a, line, c->x + at, c->out + at);
    }
}

static void lean_part(const norm_call *c, int64_t o, int64_t p) {
    const norm_op *op = c->op;
    double *sums = cleared_sums(c, o, p), pull[LANES] = {0}, lean[LANES] = {0};
    line_args a = args_of(c, o);
    int64_t at, rows = part_rows(op, o, p, &at);
    for (int64_t r = 0; r < rows; r++, at += op->line) {
        affine_of_line(op, at, &a);
        if (op->groups > 1)
            slope_columns(&a, op->line, c->x + at, c->d_y + at, sums, sums + op->cols);
        else
            slope_lanes(&a, op->line, c->x + at, c->d_y + at, pull, lean);
    }
    if (op->groups == 1)
        sums[0] = join(pull), sums[1] = join(lean);
}

/* With epsilon beside the deviation s, d rate / d x has rate / s where else it has rate^2. */
static void lean_finish(const norm_call *c, int64_t o) {
    const norm_op *op = c->op;
    double *lean = averages(c, o) + op->cols, *rate = c->rate + o * op->cols;
    for (int64_t i = 0; op->spec.epsilon_outside && i < op->cols; i++) {
        double share = 1 - op->spec.epsilon * rate[i]; /* s / (s + epsilon); 0: all are equal */
        lean[i] = share > 0 ? lean[i] / share : 0;
    }
}

static void slope_part(const norm_call *c, int64_t o, int64_t p) {
    line_args a = args_of(c, o);
    int64_t at, line = c->op->line, rows = part_rows(c->op, o, p, &at);
    for (int64_t r = 0; r < rows; r++, at += line) {
        affine_of_line(c->op, at, &a);
        slope_line(&a, line, c->x + at, c->d_y + at, c->out + at);
    }
}

/* One outer block after the other, every phase while it is in the cache; or, where they are few,
 * every phase on all parts of all of them. */
static void run_phases(const norm_call *c, const norm_phase *phases, int n) {
    const norm_op *op = c->op;
    if (op->parts == 1) {
        bool team = op->outer > 1 && op->outer * op->rows * op->line > PART;
#pragma omp parallel for schedule(static) if (team)
        for (int64_t o = 0; o < op->outer; o++)
            for (int k = 0; k < n; k++) {
                phases[k].part(c, o, 0);
                if (phases[k].finish)
                    phases[k].finish(c, o);
            }
        return;
    }
    for (int k = 0; k < n; k++) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < op->outer * op->parts; i++)
            phases[k].part(c, i / op->parts, i % op->parts);
        for (int64_t o = 0; phases[k].finish && o < op->outer; o++)
            phases[k].finish(c, o);
    }
}

static norm_call call_of(const pg_op *base, const pg_op_io *io) {
    const norm_op *op = (const norm_op *)base;
    return (norm_call){.op = op,
                       .x = io->src[0],
                       .sums = io->scratch,
                       .mean = io->saved,
                       .rate = (double *)io->saved + op->outer * op->cols};
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    static const norm_phase phases[] = {
        {mean_part, mean_finish}, {variance_part, variance_finish}, {value_part, NULL}};
    norm_call c = call_of(base, io);
    c.out = io->dst[0];
    run_phases(&c, phases, 3);
    return PG_OK;
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    static const norm_phase phases[] = {{lean_part, lean_finish}, {slope_part, NULL}};
    norm_call c = call_of(base, io);
    c.d_y = io->d_dst[0];
    c.out = io->d_src[0];
    if (c.out)
        run_phases(&c, phases, 2);
    return PG_OK;
}

static const pg_op_class norm_class = {
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};

pg_err pg_norm_create(const pg_op_def *def, pg_norm_spec *take, pg_op **out, pg_diag *diag) {
    pg_err err = pg_op_alloc(&norm_class, def, sizeof(norm_op), 1, out, diag);
    if (err) {
        pg_free(take->scale);
        pg_free(take->bias);
        return err;
    }
    norm_op *op = (norm_op *)*out;
    const pg_shape *shape = &def->inputs[0].shape;
    int64_t view[4];
    op->spec = *take;
    op->op.dst[0].shape = *shape;
    op->op.layouts = take->layouts;
    op->op.keeps_src = true;
    op->op.weight_bytes = (size_t)(2 * take->n) * sizeof(float);
    op->op.flops = 8 * (uint64_t)pg_shape_count(shape);
    if (view_in_layout(op, false, view))
        return PG_OK;
    pg_op_destroy(out);
    return pg_node_refuse(def, diag, "its axes alternate between kept and normalised too often");
}
