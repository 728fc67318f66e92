/* Pooling over one, two or three axes, channels-last: at each window position the inner loops run
 * over channels, which are contiguous, so compilers vectorise them and corner cases stay exact and
 * readable.
 *
 * Conventions where frameworks and versions differ:
 *   - a maximum shared by several positions belongs to the first one (as in torch and oneDNN);
 *   - an average with count_include_pad divides by the part of the window inside the padded input,
 *     as torch does with ceil_mode and ONNX Runtime from AveragePool-19 on (the evaluator of ONNX
 *     1.16 counts the overhang too); without it, by the part inside the input;
 *   - LpPool is (sum |x|^p)^(1/p) with ONNX's absolute value, which torch's lp_pool leaves out. Its
 *     gradient is 0 in a window of zeros, where torch has NaN.
 *
 * Forward keeps for every maximum the step of the window it was found at, in a byte unless the
 * window is large; backward compares that step with the one that leads to a given input row, so it
 * too is a plain loop over channels. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/mem.h"
#include "kernels/op_node.h"
#include "kernels/simd.h"
#include "kernels/window.h"

enum { D, H, W, AXES = PG_WINDOW_AXES }; /* depth, height, width */

typedef enum pool_kind { MAXIMUM, AVERAGE, NORM } pool_kind;

typedef struct pool_op {
    pg_op op;
    pool_kind kind;
    pg_window axis[AXES]; /* of a lower rank: the last ones, windows of one before them */
    int64_t channels;
    int64_t block;    /* channels that one thread does at a time */
    bool include_pad; /* AVERAGE */
    bool wide;        /* MAXIMUM: a step of the window does not fit a byte */
    double p;         /* NORM */
} pool_op;

enum {
    BLOCK = 512,       /* channels at a time: what is kept of them fits the first-level cache */
    SMALL_BLOCK = 128, /* where there are few positions (global pools), so that threads have work */
    FEW = 64,          /* positions */
    PARALLEL_FROM = 1 << 16, /* operations of a forward call */
};

/* ---- create ---- */

static pg_err check_node(const pg_op_def *def, pg_diag *diag) {
    if (def->n_inputs != 1)
        return pg_node_refuse(def, diag, "needs exactly one input");
    pg_err err = pg_node_one_input(def, diag);
    const pg_shape *in = &def->inputs[0].shape;
    if (!err && (in->rank < 3 || in->rank > 2 + AXES))
        err = pg_node_refuse(def, diag, "only one to three spatial axes are supported");
    if (!err && in->dims[0] != 1)
        err = pg_node_refuse(def, diag, "the batch size must be 1");
    if (!err && def->n_read > 1)
        err = pg_node_refuse(def, diag, "its index output is not supported");
    return err;
}

static pg_err read_windows(const pg_op_def *def, int n, pg_window *axes, pg_diag *diag) {
    pg_auto_pad mode;
    int64_t ceil_mode;
    pg_err err = pg_window_read(def, n, axes, &mode, diag);
    if (!err)
        err = pg_def_int(def, "ceil_mode", 0, &ceil_mode, diag);
    for (int i = 0; !err && i < n; i++) {
        err = pg_window_place(def, mode, ceil_mode != 0, &axes[i], diag);
        if (!err && (axes[i].begin >= pg_window_reach(&axes[i]) ||
                     axes[i].end >= pg_window_reach(&axes[i])))
            err = pg_node_refuse(def, diag, "padding is not smaller than the window");
    }
    return err;
}

/* The windows of all three axes. */
static pg_err read_geometry(const pg_op_def *def, bool global, pg_window axis[AXES],
                            pg_diag *diag) {
    const pg_shape *in = &def->inputs[0].shape;
    int n = in->rank - 2;
    pg_window *axes = axis + AXES - n;
    for (int i = 0; i < AXES; i++)
        axis[i] = (pg_window){.in = 1, .out = 1, .kernel = 1, .stride = 1, .dilation = 1};
    for (int i = 0; i < n; i++) {
        axes[i].in = in->dims[2 + i];
        axes[i].kernel = global ? in->dims[2 + i] : 0;
    }
    pg_err err = global ? PG_OK : read_windows(def, n, axes, diag);
    if (!err && axis[D].kernel * axis[H].kernel * axis[W].kernel > INT32_MAX)
        err = pg_node_refuse(def, diag, "the window is too large");
    return err;
}

/* Output shape, and what follows from it. */
static void set_shape(pool_op *pool, const pg_shape *in) {
    pg_shape *dst = &pool->op.dst[0].shape;
    *dst = *in;
    for (int i = 2; i < in->rank; i++)
        dst->dims[i] = pool->axis[AXES - in->rank + i].out;
    int64_t steps = pool->axis[D].kernel * pool->axis[H].kernel * pool->axis[W].kernel;
    int64_t count = pg_shape_count(dst);
    pool->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    if (count < 0)
        return; /* refused by the caller */
    pool->channels = in->dims[1];
    pool->block = count / pool->channels < FEW ? SMALL_BLOCK : BLOCK;
    pool->wide = steps > 256;
    if (pool->kind == MAXIMUM)
        pool->op.saved_bytes = (size_t)count * (pool->wide ? sizeof(int32_t) : sizeof(uint8_t));
    pool->op.keeps_src = pool->op.keeps_dst = pool->kind == NORM;
    pool->op.flops = (uint64_t)count * (uint64_t)steps;
}

static pg_err create_pool(const pg_op_class *cls, const pg_op_def *def, pool_kind kind, bool global,
                          pg_op **out, pg_diag *diag) {
    pg_window axis[AXES];
    int64_t include_pad = 0, p = 2;
    pg_err err = check_node(def, diag);
    if (!err)
        err = read_geometry(def, global, axis, diag);
    if (!err && kind == AVERAGE && !global)
        err = pg_def_int(def, "count_include_pad", 0, &include_pad, diag);
    if (!err && kind == NORM)
        err = pg_def_int(def, "p", 2, &p, diag);
    if (!err && p < 1)
        err = pg_node_refuse(def, diag, "p is %" PRId64 ", it must be positive", p);
    if (!err)
        err = pg_op_alloc(cls, def, sizeof(pool_op), 1, out, diag);
    if (err)
        return err;
    pool_op *pool = (pool_op *)*out;
    pool->kind = kind;
    memcpy(pool->axis, axis, sizeof axis);
    pool->include_pad = include_pad != 0;
    pool->p = (double)p;
    set_shape(pool, &def->inputs[0].shape);
    return PG_OK;
}

/* ---- prepare ---- */

static int64_t row_length(const pool_op *p) { return p->axis[W].in * p->channels; }

static int64_t padded(int64_t floats) {
    const int64_t line = PG_MEM_ALIGN / sizeof(float);
    return (floats + line - 1) / line * line;
}

static pg_err prepare(pg_op *op, pg_diag *diag) {
    (void)diag;
    op->gives_rows = true;
    op->scratch_bytes =
        (size_t)omp_get_max_threads() * (size_t)padded(row_length((pool_op *)op)) * sizeof(float);
    return PG_OK;
}

/* ---- windows ---- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* How many steps of one axis an average divides by. */
static int64_t counted(const pool_op *p, int axis, int64_t out) {
    const pg_window *w = &p->axis[axis];
    int64_t first, last;
    pg_window_inside(w, out, &first, &last);
    if (!p->include_pad)
        return last - first;
    int64_t steps = ceil_div(w->in + w->end - pg_window_at(w, out, 0), w->dilation);
    return steps < w->kernel ? steps : w->kernel;
}

static double share(int64_t count) { return count > 0 ? 1.0 / (double)count : 0.0; }

/* The output positions [first, last) whose windows reach over input position `in`. */
static void touching(const pg_window *w, int64_t in, int64_t *first, int64_t *last) {
    int64_t low = in + w->begin - (pg_window_reach(w) - 1);
    *first = low <= 0 ? 0 : ceil_div(low, w->stride);
    *last = (in + w->begin) / w->stride + 1;
    if (*last > w->out)
        *last = w->out;
}

/* The kernel step of output `out` that looks at input position `in`, -1: `in` is in a gap. */
static int64_t step_to(const pg_window *w, int64_t out, int64_t in) {
    int64_t distance = in - pg_window_at(w, out, 0);
    return distance % w->dilation == 0 ? distance / w->dilation : -1;
}

/* ---- rows of [C] ---- */

/* Takes in x, seen at step `at`; NaN must not vanish in a maximum. */
PG_CLONES static void max_row(int64_t channels, const float *restrict x, int32_t at,
                              float *restrict best, int32_t *restrict steps) {
    for (int64_t c = 0; c < channels; c++) {
        bool better = x[c] > best[c] || x[c] != x[c];
        best[c] = better ? x[c] : best[c];
        steps[c] = better ? at : steps[c];
    }
}

PG_CLONES static void narrow_row(int64_t channels, const int32_t *restrict steps,
                                 uint8_t *restrict saved) {
    for (int64_t c = 0; c < channels; c++)
        saved[c] = (uint8_t)steps[c];
}

/* Gives d_dst to the channels whose maximum was seen at step `at`. */
#define ROUTE_ROW(name, type)                                                                      \
    PG_CLONES static void name(int64_t channels, const type *restrict saved, type at,              \
                               const float *restrict d_dst, float *restrict d_src) {               \
        for (int64_t c = 0; c < channels; c++)                                                     \
            d_src[c] += saved[c] == at ? d_dst[c] : 0.0f;                                          \
    }
ROUTE_ROW(route_row_byte, uint8_t)
ROUTE_ROW(route_row_wide, int32_t)

PG_CLONES static void add_row(int64_t channels, const float *restrict x, double *restrict sum) {
    for (int64_t c = 0; c < channels; c++)
        sum[c] += (double)x[c];
}

PG_CLONES static void scale_row(int64_t channels, double scale, const double *restrict sum,
                                float *restrict dst) {
    for (int64_t c = 0; c < channels; c++)
        dst[c] = (float)(sum[c] * scale);
}

PG_CLONES static void add_scaled_row(int64_t channels, float scale, const float *restrict d_dst,
                                     float *restrict d_src) {
    for (int64_t c = 0; c < channels; c++)
        d_src[c] += scale * d_dst[c];
}

PG_CLONES static void add_power_row(int64_t channels, double p, const float *restrict x,
                                    double *restrict sum) {
    if (p == 2.0)
        for (int64_t c = 0; c < channels; c++)
            sum[c] += (double)x[c] * (double)x[c];
    else
        for (int64_t c = 0; c < channels; c++)
            sum[c] += p == 1.0 ? fabs((double)x[c]) : pow(fabs((double)x[c]), p);
}

static void root_row(int64_t channels, double p, const double *sum, float *dst) {
    for (int64_t c = 0; c < channels; c++)
        dst[c] = (float)(p == 2.0 ? sqrt(sum[c]) : pow(sum[c], 1.0 / p));
}

/* dy/dx = sign(x) (|x| / y)^(p - 1), 0 where y is 0. */
PG_CLONES static void norm_backward_row(int64_t channels, double p, const float *restrict x,
                                        const float *restrict y, const float *restrict d_dst,
                                        float *restrict d_src) {
    if (p == 2.0) {
        for (int64_t c = 0; c < channels; c++)
            d_src[c] += y[c] == 0.0f ? 0.0f : d_dst[c] * (x[c] / y[c]);
        return;
    }
    for (int64_t c = 0; c < channels; c++) {
        double slope = y[c] == 0.0f ? 0.0 : pow(fabs((double)x[c]) / (double)y[c], p - 1.0);
        slope = x[c] < 0.0f ? -slope : x[c] == 0.0f ? 0.0 : slope;
        d_src[c] += (float)((double)d_dst[c] * slope);
    }
}

/* ---- forward ---- */

/* One window and n <= BLOCK channels from `channel` on. */
typedef struct job {
    int64_t channel, n;
    int64_t position;                           /* of the output, in order */
    int64_t out[AXES], first[AXES], last[AXES]; /* steps inside the input, per axis */
} job;

static void place(const pool_op *p, int axis, int64_t out, job *j) {
    j->out[axis] = out;
    pg_window_inside(&p->axis[axis], out, &j->first[axis], &j->last[axis]);
}

static int64_t flat_step(const pool_op *p, int64_t kd, int64_t kh, int64_t kw) {
    return (kd * p->axis[H].kernel + kh) * p->axis[W].kernel + kw;
}

/* The input row that the window's row (kd, kh) looks along, from the job's first channel on. */
static const float *row_of(const pool_op *p, const job *j, const float *src, int64_t kd,
                           int64_t kh) {
    int64_t d = pg_window_at(&p->axis[D], j->out[D], kd);
    int64_t h = pg_window_at(&p->axis[H], j->out[H], kh);
    return src + (d * p->axis[H].in + h) * p->axis[W].in * p->channels + j->channel;
}

static void maximum(const pool_op *p, const pg_op_io *io, const job *j, float *best) {
    int32_t steps[BLOCK];
    for (int64_t c = 0; c < j->n; c++) {
        best[c] = -INFINITY;
        steps[c] = (int32_t)flat_step(p, j->first[D], j->first[H], j->first[W]);
    }
    for (int64_t kd = j->first[D]; kd < j->last[D]; kd++)
        for (int64_t kh = j->first[H]; kh < j->last[H]; kh++) {
            const float *row = row_of(p, j, io->src[0], kd, kh);
            for (int64_t kw = j->first[W]; kw < j->last[W]; kw++)
                max_row(j->n, row + pg_window_at(&p->axis[W], j->out[W], kw) * p->channels,
                        (int32_t)flat_step(p, kd, kh, kw), best, steps);
        }
    int64_t at = j->position * p->channels + j->channel;
    if (p->wide)
        memcpy((int32_t *)io->saved + at, steps, (size_t)j->n * sizeof *steps);
    else
        narrow_row(j->n, steps, (uint8_t *)io->saved + at);
}

/* Averages and norms. */
static void sum(const pool_op *p, const pg_op_io *io, const job *j, float *dst) {
    double total[BLOCK] = {0};
    for (int64_t kd = j->first[D]; kd < j->last[D]; kd++)
        for (int64_t kh = j->first[H]; kh < j->last[H]; kh++) {
            const float *row = row_of(p, j, io->src[0], kd, kh);
            for (int64_t kw = j->first[W]; kw < j->last[W]; kw++) {
                const float *x = row + pg_window_at(&p->axis[W], j->out[W], kw) * p->channels;
                if (p->kind == AVERAGE)
                    add_row(j->n, x, total);
                else
                    add_power_row(j->n, p->p, x, total);
            }
        }
    if (p->kind == NORM)
        root_row(j->n, p->p, total, dst);
    else
        scale_row(
            j->n,
            share(counted(p, D, j->out[D]) * counted(p, H, j->out[H]) * counted(p, W, j->out[W])),
            total, dst);
}

/* One row of the output, `block` of its channels. */
static void forward_row(const pool_op *p, const pg_op_io *io, int64_t row, int64_t block) {
    int64_t width = p->axis[W].out, left = p->channels - block * p->block;
    job j = {.channel = block * p->block, .n = left < p->block ? left : p->block};
    place(p, D, row / p->axis[H].out, &j);
    place(p, H, row % p->axis[H].out, &j);
    for (int64_t ow = 0; ow < width; ow++) {
        place(p, W, ow, &j);
        j.position = row * width + ow;
        float *dst = io->dst[0] + j.position * p->channels + j.channel;
        if (p->kind == MAXIMUM)
            maximum(p, io, &j, dst);
        else
            sum(p, io, &j, dst);
    }
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const pool_op *p = (const pool_op *)op;
    int64_t rows = p->axis[D].out * p->axis[H].out, blocks = ceil_div(p->channels, p->block);
#pragma omp parallel for schedule(static) if (op->flops > PARALLEL_FROM)
    for (int64_t i = 0; i < rows * blocks; i++)
        forward_row(p, io, i / blocks, i % blocks);
    return PG_OK;
}

/* ---- backward ---- */

/* One row [W,C] of the input. */
typedef struct input_row {
    const float *src;
    float *d_src;
} input_row;

/* What row `first_step` / kernel width of the windows of output row (od, oh) gives to the input row
 * they look at. */
static void spread_row(const pool_op *p, const pg_op_io *io, int64_t od, int64_t oh,
                       int64_t first_step, const input_row *to) {
    const pg_window *w = &p->axis[W];
    int64_t C = p->channels;
    int64_t outer = p->kind == AVERAGE ? counted(p, D, od) * counted(p, H, oh) : 0;
    for (int64_t ow = 0; ow < w->out; ow++) {
        int64_t first, last, at = ((od * p->axis[H].out + oh) * w->out + ow) * C;
        const float *d_dst = io->d_dst[0] + at;
        float scale = p->kind == AVERAGE ? (float)share(outer * counted(p, W, ow)) : 0.0f;
        pg_window_inside(w, ow, &first, &last);
        for (int64_t kw = first; kw < last; kw++) {
            int64_t step = first_step + kw, here = pg_window_at(w, ow, kw) * C;
            if (p->kind == AVERAGE)
                add_scaled_row(C, scale, d_dst, to->d_src + here);
            else if (p->kind == NORM)
                norm_backward_row(C, p->p, to->src + here, io->dst[0] + at, d_dst,
                                  to->d_src + here);
            else if (p->wide)
                route_row_wide(C, (const int32_t *)io->saved + at, (int32_t)step, d_dst,
                               to->d_src + here);
            else
                route_row_byte(C, (const uint8_t *)io->saved + at, (uint8_t)step, d_dst,
                               to->d_src + here);
        }
    }
}

static void gather_row(const pool_op *p, const pg_op_io *io, int64_t id, int64_t ih,
                       const input_row *to) {
    int64_t od, d_last, oh, h_first, h_last;
    touching(&p->axis[H], ih, &h_first, &h_last);
    for (touching(&p->axis[D], id, &od, &d_last); od < d_last; od++) {
        int64_t kd = step_to(&p->axis[D], od, id);
        for (oh = h_first; kd >= 0 && oh < h_last; oh++) {
            int64_t kh = step_to(&p->axis[H], oh, ih);
            if (kh >= 0)
                spread_row(p, io, od, oh, flat_step(p, kd, kh, 0), to);
        }
    }
}

static void gather_into(const pool_op *p, const pg_op_io *io, int64_t row, float *d_src) {
    int64_t length = row_length(p);
    input_row to = {.src = io->src[0] + row * length, .d_src = d_src};
    memset(d_src, 0, (size_t)length * sizeof *d_src);
    gather_row(p, io, row / p->axis[H].in, row % p->axis[H].in, &to);
}

static int64_t input_rows(const pool_op *p) { return p->axis[D].in * p->axis[H].in; }

/* True: the operator before has taken d_src in rows. */
static bool give_rows(const pool_op *p, const pg_op_io *io) {
    pg_rows *to = io->d_src_rows;
    int64_t length = row_length(p);
    if (!to || !to->maker->cls->rows_begin(to->maker, to->io))
        return false;
#pragma omp parallel for schedule(static) if (p->op.flops > PARALLEL_FROM)
    for (int64_t i = 0; i < input_rows(p); i++) {
        float *row = (float *)io->scratch + omp_get_thread_num() * padded(length);
        gather_into(p, io, i, row);
        if (to->others)
            pg_channel_add(length, to->others + i * length, row);
        to->maker->cls->rows_take(to->maker, to->io, i * p->axis[W].in, p->axis[W].in, row);
    }
    return to->taken = to->maker->cls->rows_end(to->maker, to->io);
}

/* One thread owns one input row and gathers from the output rows whose windows touch it, so that
 * overlapping windows need no atomics and sums have one order whatever the number of threads. */
static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const pool_op *p = (const pool_op *)op;
    if (!io->d_src[0] || give_rows(p, io))
        return PG_OK;
#pragma omp parallel for schedule(static) if (op->flops > PARALLEL_FROM)
    for (int64_t i = 0; i < input_rows(p); i++)
        gather_into(p, io, i, io->d_src[0] + i * row_length(p));
    return PG_OK;
}

/* ---- the classes ---- */

#define POOL(cls, kind, global)                                                                    \
    extern const pg_op_class cls;                                                                  \
    static pg_err create_##cls(const pg_op_def *def, pg_op **out, pg_diag *diag) {                 \
        return create_pool(&cls, def, kind, global, out, diag);                                    \
    }                                                                                              \
    const pg_op_class cls = {                                                                      \
        .create = create_##cls, .prepare = prepare, .forward = forward, .backward = backward};

POOL(pg_max_pool_class, MAXIMUM, false)
POOL(pg_average_pool_class, AVERAGE, false)
POOL(pg_lp_pool_class, NORM, false)
POOL(pg_global_max_pool_class, MAXIMUM, true)
POOL(pg_global_average_pool_class, AVERAGE, true)
POOL(pg_global_lp_pool_class, NORM, true)
