/* Pooling, channels-last: at each window position the inner loop runs over channels, which are
 * contiguous, so compilers vectorise it and corner cases stay exact and readable.
 *
 * Conventions where frameworks differ: a maximum shared by several positions belongs to the first
 * one (as in torch and oneDNN); an average with count_include_pad divides by the part of the window
 * inside the padded input (as torch does with ceil_mode), without it by the part inside the input. */
#include "kernels/op.h"

#include <math.h>
#include <string.h>

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
} pool_op;

extern const pg_op_class pg_max_pool_class, pg_average_pool_class, pg_global_average_pool_class,
    pg_global_max_pool_class;

static pg_err refuse(const pg_op_def *def, pg_diag *diag, const char *why) {
    return pg_fail(diag, PG_EMODEL, "node '%s' (%s): %s", def->node, def->type, why);
}

enum { SIDE_LIMIT = 1 << 20 }; /* kernel, stride, dilation, padding: far above any real network */

/* ---- shapes ---- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static bool same_padding(window *w, bool upper) {
    w->out = ceil_div(w->in, w->stride);
    int64_t need = (w->out - 1) * w->stride + (w->kernel - 1) * w->dilation + 1 - w->in;
    int64_t total = need > 0 ? need : 0;
    w->begin = upper ? total / 2 : total - total / 2;
    w->end = total - w->begin;
    return true;
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

static pg_err read_windows(const pg_op_def *def, window *axes, int n, pg_diag *diag) {
    int64_t kernel[2], stride[2], dilation[2], pads[4], ceil_mode;
    const char *auto_pad;
    const pg_attr *shape = pg_def_attr(def, "kernel_shape");
    if (!shape || shape->type != PG_ATTR_INTS || shape->count != (size_t)n)
        return refuse(def, diag, "kernel_shape is missing or does not fit the input's rank");
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
        err = pg_def_string(def, "auto_pad", "NOTSET", &auto_pad, diag);
    if (err)
        return err;
    bool same = strncmp(auto_pad, "SAME_", 5) == 0, valid = strcmp(auto_pad, "VALID") == 0;
    if (!same && !valid && strcmp(auto_pad, "NOTSET") != 0 && auto_pad[0] != '\0')
        return refuse(def, diag, "auto_pad has an unknown value");
    for (int i = 0; i < n; i++) {
        window *w = &axes[i];
        *w = (window){.kernel = kernel[i], .stride = stride[i], .dilation = dilation[i],
                      .begin = valid ? 0 : pads[i], .end = valid ? 0 : pads[n + i], .in = w->in};
        if (!side_ok(w->kernel, 1) || !side_ok(w->stride, 1) || !side_ok(w->dilation, 1) ||
            !side_ok(w->begin, 0) || !side_ok(w->end, 0) ||
            !side_ok((w->kernel - 1) * w->dilation + 1, 1))
            return refuse(def, diag, "kernel, stride, dilation or padding is out of range");
        if (!same && (w->begin >= (w->kernel - 1) * w->dilation + 1 ||
                      w->end >= (w->kernel - 1) * w->dilation + 1))
            return refuse(def, diag, "padding is not smaller than the window");
        bool fits = same ? same_padding(w, strcmp(auto_pad, "SAME_LOWER") != 0)
                         : explicit_padding(w, ceil_mode != 0);
        if (!fits)
            return refuse(def, diag, "the window is larger than its input");
    }
    return PG_OK;
}

static pg_err create_pool(const pg_op_class *cls, const pg_op_def *def, bool average, bool global,
                          pg_op **out, pg_diag *diag) {
    if (def->n_inputs != 1 || !def->inputs[0].present || def->inputs[0].constant)
        return refuse(def, diag, "needs one computed input");
    const pg_shape *in = &def->inputs[0].shape;
    if (in->rank != 3 && in->rank != 4)
        return refuse(def, diag, "only one or two spatial axes are supported");
    if (in->dims[0] != 1)
        return refuse(def, diag, "the batch size must be 1");
    if (def->n_outputs > 1)
        return refuse(def, diag, "its index output is not supported");
    window axes[2] = {{.in = in->dims[2]}, {.in = in->dims[in->rank - 1]}};
    int64_t include_pad = 0;
    pg_err err = PG_OK;
    if (global)
        for (int i = 0; i < 2; i++)
            axes[i] = (window){.kernel = axes[i].in, .stride = 1, .dilation = 1, .in = axes[i].in,
                               .out = 1};
    else
        err = read_windows(def, axes, in->rank - 2, diag);
    if (!err)
        err = pg_def_int(def, "count_include_pad", 0, &include_pad, diag);
    if (!err)
        err = pg_op_alloc(cls, def, sizeof(pool_op), 1, out, diag);
    if (err)
        return err;
    pool_op *pool = (pool_op *)*out;
    const window unit = {.kernel = 1, .stride = 1, .dilation = 1, .in = 1, .out = 1};
    pool->h = in->rank == 4 ? axes[0] : unit;
    pool->w = in->rank == 4 ? axes[1] : axes[0];
    pool->channels = in->dims[1];
    pool->average = average;
    pool->include_pad = include_pad != 0;
    pg_shape *dst = &pool->op.dst[0].shape;
    *dst = *in;
    if (in->rank == 4)
        dst->dims[2] = pool->h.out;
    dst->dims[in->rank - 1] = pool->w.out;
    int64_t count = pg_shape_count(dst);
    if (!average && pool->h.kernel * pool->w.kernel > INT32_MAX) {
        pg_op_destroy(out);
        return refuse(def, diag, "the window is too large");
    }
    pool->op.layouts = PG_LAYOUTS_CHANNELS_LAST;
    pool->op.saved_bytes = average || count < 0 ? 0 : (size_t)count * sizeof(int32_t);
    pool->op.flops = (uint64_t)(count < 0 ? 0 : count) * (uint64_t)(pool->h.kernel * pool->w.kernel);
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

/* ---- numbers; `at` is a row of [C] ---- */

PG_CLONES static void max_row(int64_t channels, const float *x, int32_t at, float *best,
                              int32_t *index) {
    for (int64_t c = 0; c < channels; c++) {
        bool better = x[c] > best[c] || x[c] != x[c]; /* NaN must not vanish in a maximum */
        best[c] = better ? x[c] : best[c];
        index[c] = better ? at : index[c];
    }
}

PG_CLONES static void add_row(int64_t channels, const float *x, float *sum) {
    for (int64_t c = 0; c < channels; c++)
        sum[c] += x[c];
}

PG_CLONES static void scale_row(int64_t channels, float scale, float *x) {
    for (int64_t c = 0; c < channels; c++)
        x[c] *= scale;
}

PG_CLONES static void add_scaled_row(int64_t channels, float scale, const float *x, float *sum) {
    for (int64_t c = 0; c < channels; c++)
        sum[c] += scale * x[c];
}

/* The kernel steps [first, last) of output position `out` that lie inside the input. */
static void inside(const window *w, int64_t out, int64_t *first, int64_t *last) {
    int64_t start = out * w->stride - w->begin;
    *first = start < 0 ? (-start + w->dilation - 1) / w->dilation : 0;
    int64_t room = w->in - start;
    *last = room <= 0 ? 0 : ceil_div(room, w->dilation);
    if (*last > w->kernel)
        *last = w->kernel;
    if (*last < *first)
        *last = *first;
}

/* How many kernel steps lie inside the padded input: what count_include_pad divides by. */
static int64_t inside_padded(const window *w, int64_t out) {
    int64_t room = w->in + w->end - (out * w->stride - w->begin);
    int64_t steps = ceil_div(room, w->dilation);
    return steps < w->kernel ? steps : w->kernel;
}

static float divisor(const pool_op *p, int64_t oh, int64_t ow, int64_t inside_count) {
    int64_t n = p->include_pad ? inside_padded(&p->h, oh) * inside_padded(&p->w, ow) : inside_count;
    return n > 0 ? 1.0f / (float)n : 0.0f;
}

static void pool_position(const pool_op *p, const float *src, int64_t oh, int64_t ow, float *dst,
                          int32_t *index) {
    int64_t h0, h1, w0, w1, C = p->channels;
    inside(&p->h, oh, &h0, &h1);
    inside(&p->w, ow, &w0, &w1);
    for (int64_t c = 0; c < C; c++)
        dst[c] = p->average ? 0.0f : -INFINITY;
    if (!p->average)
        memset(index, 0, (size_t)C * sizeof *index);
    for (int64_t kh = h0; kh < h1; kh++)
        for (int64_t kw = w0; kw < w1; kw++) {
            int64_t ih = oh * p->h.stride - p->h.begin + kh * p->h.dilation;
            int64_t iw = ow * p->w.stride - p->w.begin + kw * p->w.dilation;
            const float *x = src + (ih * p->w.in + iw) * C;
            if (p->average)
                add_row(C, x, dst);
            else
                max_row(C, x, (int32_t)(kh * p->w.kernel + kw), dst, index);
        }
    if (p->average)
        scale_row(C, divisor(p, oh, ow, (h1 - h0) * (w1 - w0)), dst);
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const pool_op *p = (const pool_op *)op;
    int64_t C = p->channels, positions = p->h.out * p->w.out;
#pragma omp parallel for schedule(static) if (positions * C > 16384)
    for (int64_t at = 0; at < positions; at++)
        pool_position(p, io->src[0], at / p->w.out, at % p->w.out, io->dst[0] + at * C,
                      p->average ? NULL : (int32_t *)io->saved + at * C);
    return PG_OK;
}

static void spread_average(const pool_op *p, const float *d_dst, int64_t oh, int64_t ow,
                           float *d_src, int64_t only_row) {
    int64_t h0, h1, w0, w1, C = p->channels;
    inside(&p->h, oh, &h0, &h1);
    inside(&p->w, ow, &w0, &w1);
    float scale = divisor(p, oh, ow, (h1 - h0) * (w1 - w0));
    for (int64_t kh = h0; kh < h1; kh++) {
        int64_t ih = oh * p->h.stride - p->h.begin + kh * p->h.dilation;
        if (ih != only_row)
            continue;
        for (int64_t kw = w0; kw < w1; kw++) {
            int64_t iw = ow * p->w.stride - p->w.begin + kw * p->w.dilation;
            add_scaled_row(C, scale, d_dst, d_src + (ih * p->w.in + iw) * C);
        }
    }
}

static void route_maximum(const pool_op *p, const float *d_dst, const int32_t *index, int64_t oh,
                          int64_t ow, float *d_src, int64_t only_row) {
    int64_t C = p->channels;
    for (int64_t c = 0; c < C; c++) {
        int64_t kh = index[c] / p->w.kernel, kw = index[c] % p->w.kernel;
        int64_t ih = oh * p->h.stride - p->h.begin + kh * p->h.dilation;
        int64_t iw = ow * p->w.stride - p->w.begin + kw * p->w.dilation;
        if (ih == only_row && iw >= 0 && iw < p->w.in)
            d_src[(ih * p->w.in + iw) * C + c] += d_dst[c];
    }
}

/* One thread owns one input row and gathers from the output rows whose windows touch it, so that
 * overlapping windows need no atomics and sums have one order whatever the number of threads. */
static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const pool_op *p = (const pool_op *)op;
    if (!io->d_src[0])
        return PG_OK;
    int64_t C = p->channels, reach = (p->h.kernel - 1) * p->h.dilation;
#pragma omp parallel for schedule(static) if (p->h.in * p->w.in * C > 16384)
    for (int64_t ih = 0; ih < p->h.in; ih++) {
        memset(io->d_src[0] + ih * p->w.in * C, 0, (size_t)(p->w.in * C) * sizeof(float));
        int64_t low = ih + p->h.begin - reach;
        int64_t first = low <= 0 ? 0 : ceil_div(low, p->h.stride);
        int64_t last = (ih + p->h.begin) / p->h.stride;
        for (int64_t oh = first; oh <= last && oh < p->h.out; oh++)
            for (int64_t ow = 0; ow < p->w.out; ow++) {
                int64_t at = (oh * p->w.out + ow) * C;
                if (p->average)
                    spread_average(p, io->d_dst[0] + at, oh, ow, io->d_src[0], ih);
                else
                    route_maximum(p, io->d_dst[0] + at, (const int32_t *)io->saved + at, oh, ow,
                                  io->d_src[0], ih);
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
