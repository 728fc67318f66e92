/* Pooling, channels-last: at each window position the inner loop runs over channels, which are
 * contiguous, so compilers vectorise it and corner cases stay exact and readable.
 *
 * Conventions where frameworks differ: a maximum shared by several positions belongs to the first
 * one (as in torch and oneDNN); an average with count_include_pad divides by the part of the window
 * inside the padded input (as torch does with ceil_mode), without it by the part inside the input.
 *
 * Forward keeps for every maximum the step of the window it was found at, in a byte unless the
 * window is large; backward compares that step with the one that leads to a given input row, so it
 * too is a plain loop over channels. */
#include <math.h>
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/simd.h"

typedef struct window {
    int64_t kernel, stride, dilation, begin, end; /* padding before and after */
    int64_t in, out;
} window;

typedef struct pool_op {
    pg_op op;
    window h, w; /* height is a window of one for rank 3 */
    int64_t channels;
    bool average, include_pad;
    bool wide; /* a step of the window does not fit a byte */
} pool_op;

extern const pg_op_class pg_max_pool_class, pg_average_pool_class, pg_global_average_pool_class,
    pg_global_max_pool_class;

enum { SIDE_LIMIT = 1 << 20 }; /* kernel, stride, dilation, padding: far above any real network */

/* ---- shapes ---- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void same_padding(window *w, bool upper) {
    w->out = ceil_div(w->in, w->stride);
    int64_t need = (w->out - 1) * w->stride + (w->kernel - 1) * w->dilation + 1 - w->in;
    int64_t total = need > 0 ? need : 0;
    w->begin = upper ? total / 2 : total - total / 2;
    w->end = total - w->begin;
}

static bool explicit_padding(window *w, bool ceil_mode) {
    int64_t room = w->in + w->begin + w->end - (w->kernel - 1) * w->dilation - 1;
    if (room < 0)
        return false;
    w->out = (ceil_mode ? ceil_div(room, w->stride) : room / w->stride) + 1;
    /* A last window that starts in the end padding would see nothing. */
    if (ceil_mode && (w->out - 1) * w->stride >= w->in + w->begin)
        w->out--;
    return w->out > 0;
}

static bool side_ok(int64_t v, int64_t least) { return v >= least && v <= SIDE_LIMIT; }

static int64_t extent(const window *w) { return (w->kernel - 1) * w->dilation + 1; }

/* Completes one axis from its attributes; auto_pad is one of the four of the specification. */
static pg_err place_window(const pg_op_def *def, const char *auto_pad, bool ceil_mode, window *w,
                           pg_diag *diag) {
    if (!side_ok(w->kernel, 1) || !side_ok(w->stride, 1) || !side_ok(w->dilation, 1) ||
        !side_ok(w->begin, 0) || !side_ok(w->end, 0) || !side_ok(extent(w), 1))
        return pg_node_refuse(def, diag, "kernel, stride, dilation or padding is out of range");
    if (strncmp(auto_pad, "SAME", 4) == 0) {
        same_padding(w, strcmp(auto_pad, "SAME_UPPER") == 0);
        return PG_OK;
    }
    if (strcmp(auto_pad, "VALID") == 0)
        w->begin = w->end = 0;
    if (w->begin >= extent(w) || w->end >= extent(w))
        return pg_node_refuse(def, diag, "padding is not smaller than the window");
    return explicit_padding(w, ceil_mode)
               ? PG_OK
               : pg_node_refuse(def, diag, "the window is larger than its input");
}

static pg_err read_auto_pad(const pg_op_def *def, const char **out, pg_diag *diag) {
    static const char *const known[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    pg_err err = pg_def_string(def, "auto_pad", "NOTSET", out, diag);
    for (int i = 0; i < 4 && !err; i++)
        if (strcmp(*out, known[i]) == 0)
            return PG_OK;
    return err ? err : pg_node_refuse(def, diag, "auto_pad has an unknown value");
}

static pg_err read_windows(const pg_op_def *def, window *axes, int n, pg_diag *diag) {
    int64_t kernel[2], stride[2], dilation[2], pads[4], ceil_mode;
    const char *auto_pad;
    const pg_attr *shape = pg_def_attr(def, "kernel_shape");
    if (!shape || shape->type != PG_ATTR_INTS || shape->count != (size_t)n)
        return pg_node_refuse(def, diag,
                              "kernel_shape is missing or does not fit the input's rank");
    pg_err err = pg_def_ints(def, "kernel_shape", n, 1, kernel, diag);
    if (!err)
        err = pg_def_ints(def, "strides", n, 1, stride, diag);
    if (!err)
        err = pg_def_ints(def, "dilations", n, 1, dilation, diag);
    if (!err)
        err = pg_def_ints(def, "pads", 2 * n, 0, pads, diag);
    if (!err)
        err = pg_def_int(def, "ceil_mode", 0, &ceil_mode, diag);
    if (!err)
        err = read_auto_pad(def, &auto_pad, diag);
    for (int i = 0; i < n && !err; i++) {
        axes[i].kernel = kernel[i], axes[i].stride = stride[i], axes[i].dilation = dilation[i];
        axes[i].begin = pads[i], axes[i].end = pads[n + i];
        err = place_window(def, auto_pad, ceil_mode != 0, &axes[i], diag);
    }
    return err;
}

static pg_err check_input(const pg_op_def *def, pg_diag *diag) {
    if (def->n_inputs != 1)
        return pg_node_refuse(def, diag, "needs exactly one input");
    pg_err err = pg_node_one_input(def, diag);
    int rank = def->inputs[0].shape.rank;
    if (!err && rank != 3 && rank != 4)
        err = pg_node_refuse(def, diag, "only one or two spatial axes are supported");
    if (!err && def->inputs[0].shape.dims[0] != 1)
        err = pg_node_refuse(def, diag, "the batch size must be 1");
    if (!err && def->n_outputs > 1)
        err = pg_node_refuse(def, diag, "its index output is not supported");
    return err;
}

/* Output shape, and what follows from it. `axes` are the spatial ones. */
static void set_shape(pool_op *pool, const pg_shape *in, const window *axes) {
    const window unit = {.kernel = 1, .stride = 1, .dilation = 1, .in = 1, .out = 1};
    pg_shape *dst = &pool->op.dst[0].shape;
    pool->h = in->rank == 4 ? axes[0] : unit;
    pool->w = axes[in->rank - 3];
    pool->channels = in->dims[1];
    *dst = *in;
    for (int i = 2; i < in->rank; i++)
        dst->dims[i] = axes[i - 2].out;
    int64_t steps = pool->h.kernel * pool->w.kernel, count = pg_shape_count(dst);
    size_t of_maximum = steps > 256 ? sizeof(int32_t) : sizeof(uint8_t);
    pool->wide = steps > 256;
    pool->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    if (count < 0)
        return;
    pool->op.saved_bytes = pool->average ? 0 : (size_t)count * of_maximum;
    pool->op.flops = (uint64_t)count * (uint64_t)steps;
}

static pg_err create_pool(const pg_op_class *cls, const pg_op_def *def, bool average, bool global,
                          pg_op **out, pg_diag *diag) {
    pg_err err = check_input(def, diag);
    if (err)
        return err;
    const pg_shape *in = &def->inputs[0].shape;
    window axes[2];
    int64_t include_pad = 0;
    for (int i = 0; i < in->rank - 2; i++) {
        int64_t n = in->dims[2 + i];
        axes[i] = (window){.kernel = n, .stride = 1, .dilation = 1, .in = n, .out = 1};
    }
    if (!global)
        err = read_windows(def, axes, in->rank - 2, diag);
    if (!err)
        err = pg_def_int(def, "count_include_pad", 0, &include_pad, diag);
    if (!err && axes[0].kernel * (in->rank == 4 ? axes[1].kernel : 1) > INT32_MAX)
        err = pg_node_refuse(def, diag, "the window is too large");
    if (!err)
        err = pg_op_alloc(cls, def, sizeof(pool_op), 1, out, diag);
    if (err)
        return err;
    pool_op *pool = (pool_op *)*out;
    pool->average = average;
    pool->include_pad = include_pad != 0;
    set_shape(pool, in, axes);
    return PG_OK;
}

static pg_err create_max(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    return create_pool(&pg_max_pool_class, def, false, false, out, diag);
}
static pg_err create_average(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    return create_pool(&pg_average_pool_class, def, true, false, out, diag);
}
static pg_err create_global_max(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    return create_pool(&pg_global_max_pool_class, def, false, true, out, diag);
}
static pg_err create_global_average(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    return create_pool(&pg_global_average_pool_class, def, true, true, out, diag);
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

PG_CLONES static void add_row(int64_t channels, const float *restrict x, float *restrict sum) {
    for (int64_t c = 0; c < channels; c++)
        sum[c] += x[c];
}

PG_CLONES static void scale_row(int64_t channels, float scale, float *x) {
    for (int64_t c = 0; c < channels; c++)
        x[c] *= scale;
}

PG_CLONES static void add_scaled_row(int64_t channels, float scale, const float *restrict x,
                                     float *restrict sum) {
    for (int64_t c = 0; c < channels; c++)
        sum[c] += scale * x[c];
}

/* ---- windows ---- */

/* The kernel steps [first, last) of output position `out` that lie inside the input. */
static void inside(const window *w, int64_t out, int64_t *first, int64_t *last) {
    int64_t start = out * w->stride - w->begin;
    int64_t room = w->in - start;
    *first = start < 0 ? ceil_div(-start, w->dilation) : 0;
    *last = room <= 0 ? 0 : ceil_div(room, w->dilation);
    if (*last > w->kernel)
        *last = w->kernel;
    if (*last < *first)
        *last = *first;
}

/* Where kernel step `step` of output position `out` looks. */
static int64_t looks_at(const window *w, int64_t out, int64_t step) {
    return out * w->stride - w->begin + step * w->dilation;
}

/* How many kernel steps lie inside the padded input: what count_include_pad divides by. */
static int64_t inside_padded(const window *w, int64_t out) {
    int64_t steps = ceil_div(w->in + w->end - looks_at(w, out, 0), w->dilation);
    return steps < w->kernel ? steps : w->kernel;
}

static float divisor(const pool_op *p, int64_t oh, int64_t ow) {
    int64_t h0, h1, w0, w1;
    inside(&p->h, oh, &h0, &h1);
    inside(&p->w, ow, &w0, &w1);
    int64_t n = p->include_pad ? inside_padded(&p->h, oh) * inside_padded(&p->w, ow)
                               : (h1 - h0) * (w1 - w0);
    return n > 0 ? 1.0f / (float)n : 0.0f;
}

static void average_position(const pool_op *p, const float *src, int64_t oh, int64_t ow,
                             float *dst) {
    int64_t h0, h1, w0, w1, C = p->channels;
    inside(&p->h, oh, &h0, &h1);
    inside(&p->w, ow, &w0, &w1);
    memset(dst, 0, (size_t)C * sizeof *dst);
    for (int64_t kh = h0; kh < h1; kh++)
        for (int64_t kw = w0; kw < w1; kw++)
            add_row(C, src + (looks_at(&p->h, oh, kh) * p->w.in + looks_at(&p->w, ow, kw)) * C,
                    dst);
    scale_row(C, divisor(p, oh, ow), dst);
}

enum { BLOCK = 512 }; /* channels at a time: their steps fit the stack and the first-level cache */

/* n <= BLOCK channels from `src` on; `at` is where in dst and in the saved steps they go. */
static void maximum_block(const pool_op *p, const float *src, int64_t oh, int64_t ow, int64_t n,
                          const pg_op_io *io, int64_t at) {
    int64_t h0, h1, w0, w1;
    int32_t steps[BLOCK];
    float *best = io->dst[0] + at;
    inside(&p->h, oh, &h0, &h1);
    inside(&p->w, ow, &w0, &w1);
    for (int64_t c = 0; c < n; c++) {
        best[c] = -INFINITY;
        steps[c] = (int32_t)(h0 * p->w.kernel + w0);
    }
    for (int64_t kh = h0; kh < h1; kh++)
        for (int64_t kw = w0; kw < w1; kw++) {
            int64_t from = looks_at(&p->h, oh, kh) * p->w.in + looks_at(&p->w, ow, kw);
            max_row(n, src + from * p->channels, (int32_t)(kh * p->w.kernel + kw), best, steps);
        }
    if (p->wide)
        memcpy((int32_t *)io->saved + at, steps, (size_t)n * sizeof *steps);
    else
        narrow_row(n, steps, (uint8_t *)io->saved + at);
}

static void maximum_position(const pool_op *p, const pg_op_io *io, int64_t oh, int64_t ow,
                             int64_t at) {
    for (int64_t c = 0; c < p->channels; c += BLOCK) {
        int64_t n = p->channels - c < BLOCK ? p->channels - c : BLOCK;
        maximum_block(p, io->src[0] + c, oh, ow, n, io, at + c);
    }
}

enum { PARALLEL_FROM = 1 << 14 }; /* elements */

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const pool_op *p = (const pool_op *)op;
    int64_t C = p->channels, positions = p->h.out * p->w.out;
#pragma omp parallel for schedule(static) if (positions * C > PARALLEL_FROM)
    for (int64_t i = 0; i < positions; i++) {
        int64_t oh = i / p->w.out, ow = i % p->w.out;
        if (p->average)
            average_position(p, io->src[0], oh, ow, io->dst[0] + i * C);
        else
            maximum_position(p, io, oh, ow, i * C);
    }
    return PG_OK;
}

/* What row kh of the windows of output row oh gives to the input row `d_src` they look at. */
static void spread_row(const pool_op *p, const pg_op_io *io, int64_t oh, int64_t kh, float *d_src) {
    int64_t C = p->channels;
    for (int64_t ow = 0; ow < p->w.out; ow++) {
        int64_t w0, w1, at = (oh * p->w.out + ow) * C;
        const float *d_dst = io->d_dst[0] + at;
        float scale = p->average ? divisor(p, oh, ow) : 0.0f;
        inside(&p->w, ow, &w0, &w1);
        for (int64_t kw = w0; kw < w1; kw++) {
            int64_t step = kh * p->w.kernel + kw;
            float *to = d_src + looks_at(&p->w, ow, kw) * C;
            if (p->average)
                add_scaled_row(C, scale, d_dst, to);
            else if (p->wide)
                route_row_wide(C, (const int32_t *)io->saved + at, (int32_t)step, d_dst, to);
            else
                route_row_byte(C, (const uint8_t *)io->saved + at, (uint8_t)step, d_dst, to);
        }
    }
}

/* One thread owns one input row and gathers from the output rows whose windows touch it, so that
 * overlapping windows need no atomics and sums have one order whatever the number of threads. */
static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const pool_op *p = (const pool_op *)op;
    int64_t C = p->channels, row = p->w.in * C;
    if (!io->d_src[0])
        return PG_OK;
#pragma omp parallel for schedule(static) if (p->h.in * row > PARALLEL_FROM)
    for (int64_t ih = 0; ih < p->h.in; ih++) {
        float *d_src = io->d_src[0] + ih * row;
        memset(d_src, 0, (size_t)row * sizeof *d_src);
        int64_t low = ih + p->h.begin - (extent(&p->h) - 1);
        int64_t first = low <= 0 ? 0 : ceil_div(low, p->h.stride);
        int64_t last = (ih + p->h.begin) / p->h.stride;
        for (int64_t oh = first; oh <= last && oh < p->h.out; oh++) {
            int64_t distance = ih - looks_at(&p->h, oh, 0);
            if (distance % p->h.dilation == 0)
                spread_row(p, io, oh, distance / p->h.dilation, d_src);
        }
    }
    return PG_OK;
}

const pg_op_class pg_max_pool_class = {
    .create = create_max, .forward = forward, .backward = backward};
const pg_op_class pg_average_pool_class = {
    .create = create_average, .forward = forward, .backward = backward};
const pg_op_class pg_global_max_pool_class = {
    .create = create_global_max, .forward = forward, .backward = backward};
const pg_op_class pg_global_average_pool_class = {
    .create = create_global_average, .forward = forward, .backward = backward};
