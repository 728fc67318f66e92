/* Depthwise convolutions, both ways: every channel has its own kernel, so vectors lie along the
 * channels, which are neighbours in memory, and all there is to gain is that nothing is loaded
 * twice.
 *
 * Both directions are the same loop. Forward, output (r, q) sums taps (a, b) over input (r stride -
 * top + a, q stride - left + b). Backward, row y of d_src is met by the a with (y + top - a) a
 * multiple of the stride, at row (y + top - a) / stride of d_dst; among columns x = n stride +
 * phase of one phase the taps b = last, last - stride, ... are met at columns first + n, first + n
 * + 1, ... So a line of outputs, `step` apart, is a list of input rows with their weights, and
 * along them a few taps at neighbouring columns. Rows and columns outside the map are left out, not
 * added as zeros.
 *
 * Several outputs of a line are computed at a time: their windows overlap, and each weight is
 * loaded once for all. Where the number of channels is not a multiple of the vector, the last
 * vector goes over some channels again. */
#include "kernels/conv_kernel.h"

#include "kernels/channel_ops.h"
#include "kernels/simd.h"
#include "kernels/vector.h"

enum {
    TAPS = 7,
    OUTPUTS = 4,
    CACHE_FLOATS = 6144,      /* half of a first-level cache */
    SMALL_FLOATS = 256 * 1024 /* half of a second-level cache, or less */
};

#define INLINE static inline __attribute__((always_inline))

/* Channels [from, to), at least PG_LANES, of outputs n < count at out + n step: taps at columns
 * first + n stride + b, b < taps, of the rows. */
typedef struct line {
    int64_t channels, from, to, width, count, first, step;
    int64_t weight_step; /* between the weights of neighbouring columns */
    const float *rows[TAPS], *weights[TAPS];
    int n_rows, taps, stride;
    const float *bias; /* [channels] or NULL */
    bool clamps, wide; /* to [lo, hi]; with a register of 512 bits */
    float lo, hi;
    float *out;
} line;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- a line ---- */

/* Where a vector is wider than the registers: loops are what compilers cut up. */
INLINE void clamp_loop(int64_t count, float lo, float hi, float *out) {
    for (int64_t i = 0; i < count; i++) {
        float v = out[i] < lo ? lo : out[i];
        out[i] = v > hi ? hi : v;
    }
}

/* Outputs n .. n + outputs, whose windows begin at `column` and lie inside, without the first
 * `skip` taps; taps, stride and outputs are known where this is inlined. */
INLINE void fill(const line *l, int64_t n, int64_t column, int64_t skip, int taps, int stride,
                 int outputs) {
    const int64_t channels = l->channels, step = l->step, weight_step = l->weight_step;
    const bool in_registers = l->clamps && l->wide;
    pg_vec lo = l->lo - (pg_vec){0}, hi = l->hi - (pg_vec){0};
    const float *bias = l->bias;
    float *out = l->out + n * step;
    for (int64_t i = l->from; i < l->to; i += PG_LANES) {
        int64_t c = smaller(i, l->to - PG_LANES);
        pg_vec sum[OUTPUTS], start = {0};
        if (bias)
            start = *(const pg_vec_anywhere *)(bias + c);
#pragma GCC unroll 8
        for (int q = 0; q < outputs; q++)
            sum[q] = start;
        for (int a = 0; a < l->n_rows; a++) {
            const float *row = l->rows[a] + column * channels + c;
            const float *w = l->weights[a] + skip * weight_step + c;
#pragma GCC unroll 8
            for (int b = 0; b < taps; b++) {
                pg_vec weight = *(const pg_vec_anywhere *)(w + b * weight_step);
#pragma GCC unroll 8
                for (int q = 0; q < outputs; q++)
                    sum[q] +=
                        *(const pg_vec_anywhere *)(row + (q * stride + b) * channels) * weight;
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < outputs; q++) {
            if (in_registers)
                pg_vec_clamp(&sum[q], &lo, &hi);
            *(pg_vec_anywhere *)(out + q * step + c) = sum[q];
        }
    }
    for (int q = 0; l->clamps && !l->wide && q < outputs; q++)
        clamp_loop(l->to - l->from, l->lo, l->hi, out + q * step + l->from);
}

#define EDGE(taps)                                                                                 \
    case taps:                                                                                     \
        fill(l, n, column + from, from, taps, 1, 1);                                               \
        break;

/* Output n, part of whose window may lie outside. */
INLINE void edge(const line *l, int64_t n) {
    int64_t column = l->first + n * l->stride;
    int64_t from = larger(0, -column), to = smaller(l->taps, l->width - column);
    switch (larger(to - from, 0)) {
        EDGE(0)
        EDGE(1)
        EDGE(2)
        EDGE(3)
        EDGE(4)
        EDGE(5)
        EDGE(6)
        EDGE(7)
    }
}

#define INNER(taps, stride)                                                                        \
    case taps * 4 + stride:                                                                        \
        for (; n + OUTPUTS <= to; n += OUTPUTS)                                                    \
            fill(l, n, l->first + n * stride, 0, taps, stride, OUTPUTS);                           \
        for (; n < to; n++)                                                                        \
            fill(l, n, l->first + n * stride, 0, taps, stride, 1);                                 \
        break;

PG_FMA_CLONES static void fill_line(const line *l) {
    /* First output with no column before the map, first with one behind it. */
    int64_t before = larger(0, -l->first), room = l->width - l->taps - l->first;
    int64_t from = smaller((before + l->stride - 1) / l->stride, l->count);
    int64_t to = room < 0 ? from : larger(from, smaller(room / l->stride + 1, l->count)), n = 0;
    for (; n < from; n++)
        edge(l, n);
    switch (l->taps * 4 + l->stride) {
        INNER(1, 1)
        INNER(2, 1)
        INNER(3, 1)
        INNER(5, 1)
        INNER(7, 1)
        INNER(3, 2)
        INNER(5, 2)
    }
    for (; n < l->count; n++)
        edge(l, n);
}

/* How many channels to take at a time: on small maps, which are in the second-level cache, so few
 * that the rows of a window stay in the first; on large ones all, because they have to be fetched
 * and are fetched in order. */
static int64_t tile_of(const pg_conv_geometry *g) {
    int64_t window = g->k_h * g->in_w, channels = g->in_c;
    if (window * channels <= CACHE_FLOATS || g->in_h * g->in_w * channels > SMALL_FLOATS)
        return channels;
    return larger(CACHE_FLOATS / window / PG_LANES * PG_LANES, 2 * PG_LANES);
}

/* Channels [c, ...) of a tile; one that would be narrower than a vector begins earlier. */
static void take_tile(line *l, int64_t c, int64_t tile) {
    l->to = smaller(c + tile, l->channels);
    l->from = smaller(c, l->to - PG_LANES);
}

/* ---- the two directions ---- */

static bool fits(const pg_conv_geometry *g) {
    const pg_dnnl_conv *c = &g->dnnl;
    bool three_or_five = g->k_w == 3 || g->k_w == 5;
    return g->groups == g->in_c && g->out_c == g->in_c && g->in_c >= PG_LANES && g->k_h <= TAPS &&
           (three_or_five || g->k_w == 7) && c->dilates[0] == 0 && c->dilates[1] == 0 &&
           (c->strides[1] == 1 || (c->strides[1] == 2 && three_or_five));
}

/* Backward with a stride the library is as fast or faster: writing every other column of d_src
 * twice costs what is gained. */
static bool takes(const pg_conv_path_spec *spec) {
    const int64_t *strides = spec->geometry->dnnl.strides;
    return fits(spec->geometry) && (!spec->backward || (strides[0] == 1 && strides[1] == 1));
}

static size_t packed_bytes(const pg_conv_geometry *g, bool backward) {
    (void)backward; /* the same order serves both */
    return (size_t)(g->out_c * g->k_h * g->k_w) * sizeof(float);
}

static size_t scratch_bytes(const pg_conv_geometry *g, bool backward) {
    (void)g, (void)backward;
    return 0;
}

/* [k_h, k_w, channels] from [channels, k_h, k_w]. */
static void pack(const pg_conv_geometry *g, bool backward, const float *plain, float *packed) {
    (void)backward;
    int64_t taps = g->k_h * g->k_w;
    for (int64_t c = 0; c < g->out_c; c++)
        for (int64_t t = 0; t < taps; t++)
            packed[t * g->out_c + c] = plain[c * taps + t];
}

static bool is_wide(void) {
#if defined(__x86_64__) && !defined(PG_NO_CLONES)
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

static void add_row(line *l, const float *row, const float *weights) {
    l->rows[l->n_rows] = row;
    l->weights[l->n_rows++] = weights;
}

static void forward_row(const pg_conv_path *path, const pg_conv_call *call, int64_t r, int64_t c,
                        int64_t tile) {
    const pg_conv_geometry *g = &path->geometry;
    const pg_act_range range = pg_act_range_of(path->act, path->lo, path->hi);
    int64_t channels = g->in_c, top = r * g->dnnl.strides[0] - g->dnnl.pad_begin[0];
    line l = {.channels = channels,
              .width = g->in_w,
              .count = g->out_w,
              .first = -g->dnnl.pad_begin[1],
              .step = channels,
              .weight_step = channels,
              .taps = (int)g->k_w,
              .stride = (int)g->dnnl.strides[1],
              .bias = path->bias,
              .clamps = path->act != PG_ACT_NONE,
              .wide = is_wide(),
              .lo = range.lo,
              .hi = range.hi,
              .out = call->out + r * g->out_w * channels};
    for (int64_t a = larger(0, -top); a < smaller(g->k_h, g->in_h - top); a++)
        add_row(&l, call->in + (top + a) * g->in_w * channels,
                call->weights + a * g->k_w * channels);
    take_tile(&l, c, tile);
    fill_line(&l);
}

static void backward_row(const pg_conv_path *path, const pg_conv_call *call, int64_t y, int64_t c,
                         int64_t tile) {
    const pg_conv_geometry *g = &path->geometry;
    int64_t channels = g->in_c, stride_h = g->dnnl.strides[0], stride = g->dnnl.strides[1];
    line l = {.channels = channels,
              .width = g->out_w,
              .step = stride * channels,
              .weight_step = -stride * channels,
              .stride = 1};
    for (int64_t a = 0; a < g->k_h; a++) {
        int64_t distance = y + g->dnnl.pad_begin[0] - a, r = distance / stride_h;
        if (distance >= 0 && distance % stride_h == 0 && r < g->out_h)
            add_row(&l, call->in + r * g->out_w * channels, call->weights + a * g->k_w * channels);
    }
    take_tile(&l, c, tile);
    for (int64_t phase = 0; phase < smaller(stride, g->in_w); phase++) {
        int64_t shifted = phase + g->dnnl.pad_begin[1];
        int64_t last = g->k_w - 1 - (g->k_w - 1 - shifted % stride + stride) % stride;
        line of_phase = l;
        of_phase.taps = (int)(last / stride + 1);
        of_phase.first = (shifted - last) / stride; /* exact, may be negative */
        of_phase.count = (g->in_w - phase + stride - 1) / stride;
        of_phase.out = call->out + (y * g->in_w + phase) * channels;
        for (int a = 0; a < l.n_rows; a++)
            of_phase.weights[a] += last * channels;
        fill_line(&of_phase);
    }
}

static void forward(const pg_conv_path *path, const pg_conv_call *call) {
    int64_t tile = tile_of(&path->geometry);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t c = 0; c < path->geometry.in_c; c += tile)
        for (int64_t r = 0; r < path->geometry.out_h; r++)
            forward_row(path, call, r, c, tile);
}

static void backward(const pg_conv_path *path, const pg_conv_call *call) {
    int64_t tile = tile_of(&path->geometry);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t c = 0; c < path->geometry.in_c; c += tile)
        for (int64_t y = 0; y < path->geometry.in_h; y++)
            backward_row(path, call, y, c, tile);
}

static void run(const pg_conv_path *path, const pg_conv_call *call) {
    (path->backward ? backward : forward)(path, call);
}

const pg_conv_kernel pg_conv_depthwise = {
    .name = "own:depthwise",
    .takes = takes,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .run = run,
};
