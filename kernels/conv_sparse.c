/* Convolutions, both ways, whose input is 0 in many places at random: what is behind a ReLU, and
 * relevance that comes to one. Half of the multiplications fall away, which the library, whose
 * vectors lie along inputs or that transforms them first, cannot make use of.
 *
 * Here vectors lie along the channels of the output. For a position and a block of input channels
 * a mask says which of these are not 0, and only for them a row of the weights is multiplied:
 *
 *     out[position, 128 channels] += in[position', k] * weights[tap, k, 128 channels]
 *
 * with the sums in registers. A multiplication reads its weights, so these must be near: those of
 * a block, 64 x 128 floats, fill two thirds of a first-level cache and serve all positions of a few
 * lines, while the next block's are fetched. Even so a core reads fewer of them than it could
 * multiply, five of six: positions go in pairs, and what both have is read once.
 *
 * Between blocks the sums wait in an array of the thread's own. In the output itself lines of two
 * threads' panels would take turns, and what a core fetches ahead of one would be the other's: that
 * cost a quarter of the time.
 *
 * On one core of a Xeon of 2023, 256 to 1024 channels at 14x14 take the library 0.58 ms and this
 * 0.64 without any zeros, 0.50 with one quarter of them and 0.40 with one half.
 *
 * The two directions are one loop over pairs of positions that a tap of the kernel connects: p of
 * the convolution's output and p stride + tap dilation - pad of its input. Masks are what AVX-512
 * has and others do not: elsewhere the library does all. */
#include "kernels/conv_kernel.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    LANES = 16,
    DEPTH = 64,  /* input channels of a block: bits of a mask */
    VECTORS = 8, /* of output channels: as many sums as hide the latency of an addition */
    PANEL = VECTORS * LANES,
    CACHE_LINE = 64, /* bytes */
    POSITIONS = 256, /* about so many share a block of weights */
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* What a convolution is in this direction. */
typedef struct side {
    int64_t in_c, out_c, out_h, out_w, in_w;
} side;

static side side_of(const pg_conv_geometry *g, bool backward) {
    side s = {
        .in_c = g->in_c, .out_c = g->out_c, .out_h = g->out_h, .out_w = g->out_w, .in_w = g->in_w};
    if (backward)
        s = (side){.in_c = g->out_c,
                   .out_c = g->in_c,
                   .out_h = g->in_h,
                   .out_w = g->in_w,
                   .in_w = g->out_w};
    return s;
}

/* ---- some positions, one block of input channels ---- */

/* Where a position's input is, from the block's first channel on, its sums, and its output; both
 * of these are the panel's. */
typedef struct place {
    const float *in;
    float *sums, *out;
} place;

/* A tap, seen from the positions that have it: lines of some, equally far from each other. */
typedef struct field {
    place first;
    int64_t lines, count;                 /* of one line */
    int64_t in_step, sums_step, out_step; /* between positions */
    int64_t in_line, sums_line, out_line; /* between lines */
} field;

typedef struct block {
    field at;
    const float *weights; /* [depth, panel] */
    int64_t depth;
    const float *start; /* [panel] where the sums begin here; NULL: they go on */
    bool ends;          /* they are complete and go to the output */
    bool relu;          /* and then are not below 0 */
    const char *next;   /* of the weights: what is read after these, on its way from afar */
    int64_t ahead;      /* bytes of it for each position */
} block;

#if defined(__x86_64__)

#define TARGET __attribute__((target("avx512f,bmi")))
#define INLINE static inline __attribute__((always_inline)) TARGET

/* Where a walk through a field is. */
typedef struct walk {
    place at;
    int64_t line, column;
} walk;

/* From the last position it does not move. */
INLINE void go_on(const field *f, walk *w) {
    if (++w->column < f->count) {
        w->at.in += f->in_step;
        w->at.sums += f->sums_step;
        w->at.out += f->out_step;
    } else if (++w->line < f->lines) {
        w->column = 0;
        w->at.in = f->first.in + w->line * f->in_line;
        w->at.sums = f->first.sums + w->line * f->sums_line;
        w->at.out = f->first.out + w->line * f->out_line;
    }
}

/* Of the inputs those that are not 0. */
typedef struct position {
    place at;
    uint64_t mask;
} position;

INLINE uint64_t not_zero(const float *x, int64_t depth) {
    uint64_t mask = 0;
    for (int64_t i = 0; i < depth; i += LANES)
        mask |=
            (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ)
            << i;
    return mask;
}

INLINE position next_of(const field *f, int64_t depth, walk *w) {
    position p = {w->at, not_zero(w->at.in, depth)};
    go_on(f, w);
    return p;
}

/* On their way from afar: this position's next block, or where it is the first, that of another
 * position; and a part of the weights that come next. */
INLINE void fetch(const block *b, const float *x, const char **weights) {
    const float *soon = b->start ? x + 4 * b->at.in_step : x + DEPTH;
    for (int64_t i = 0; i < DEPTH; i += LANES)
        _mm_prefetch((const char *)(soon + i), _MM_HINT_T1);
    for (int64_t i = 0; i < b->ahead; i += CACHE_LINE)
        _mm_prefetch(*weights + i, _MM_HINT_T1);
    *weights += b->ahead;
}

INLINE void load(const block *b, place at, __m512 sum[VECTORS]) {
    const float *from = b->start ? b->start : at.sums;
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++)
        sum[v] = _mm512_loadu_ps(from + v * LANES);
}

INLINE void store(const block *b, place at, const __m512 sum[VECTORS]) {
    float *to = b->ends ? at.out : at.sums;
    const __m512 least = _mm512_set1_ps(b->ends && b->relu ? 0 : -INFINITY); /* a NaN stays one */
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++)
        _mm512_storeu_ps(to + v * LANES, _mm512_max_ps(least, sum[v]));
}

/* The inputs of one position in `mask`. */
INLINE void add_one(const float *x, uint64_t mask, const float *weights, __m512 sum[VECTORS]) {
    for (; mask != 0; mask &= mask - 1) {
        int64_t k = __builtin_ctzll(mask);
        const float *w = weights + k * PANEL;
        __m512 factor = _mm512_set1_ps(x[k]);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++)
            sum[v] = _mm512_fmadd_ps(factor, _mm512_loadu_ps(w + v * LANES), sum[v]);
    }
}

/* Those of two positions. */
INLINE void add_both(const float *x, const float *y, uint64_t mask, const float *weights,
                     __m512 sum[VECTORS], __m512 other[VECTORS]) {
    for (; mask != 0; mask &= mask - 1) {
        int64_t k = __builtin_ctzll(mask);
        const float *w = weights + k * PANEL;
        __m512 factor = _mm512_set1_ps(x[k]), second = _mm512_set1_ps(y[k]);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            __m512 row = _mm512_loadu_ps(w + v * LANES);
            __asm__("" : "+v"(row)); /* one load: GCC makes two of it */
            sum[v] = _mm512_fmadd_ps(factor, row, sum[v]);
            other[v] = _mm512_fmadd_ps(second, row, other[v]);
        }
    }
}

/* depth is known where this is inlined, but for the last block of an odd number of channels. The
 * next positions' masks are there before the loops over these end, which no processor foresees. */
INLINE void add_positions(const block *b, int64_t depth) {
    const float *weights = b->weights;
    const char *ahead = b->next;
    walk w = {.at = b->at.first};
    position p = next_of(&b->at, depth, &w), q = next_of(&b->at, depth, &w);
    __m512 sum[VECTORS], other[VECTORS];
    int64_t left = b->at.lines * b->at.count;
    for (; left >= 2; left -= 2) {
        const position one = p, two = q;
        p = next_of(&b->at, depth, &w), q = next_of(&b->at, depth, &w);
        fetch(b, one.at.in, &ahead);
        fetch(b, two.at.in, &ahead);
        load(b, one.at, sum);
        load(b, two.at, other);
        add_both(one.at.in, two.at.in, one.mask & two.mask, weights, sum, other);
        add_one(one.at.in, one.mask & ~two.mask, weights, sum);
        add_one(two.at.in, two.mask & ~one.mask, weights, other);
        store(b, one.at, sum);
        store(b, two.at, other);
    }
    if (left == 1) {
        load(b, p.at, sum);
        add_one(p.at.in, p.mask, weights, sum);
        store(b, p.at, sum);
    }
}

TARGET static void add_block(const block *b) {
    if (b->depth == DEPTH)
        add_positions(b, DEPTH);
    else
        add_positions(b, b->depth);
}

static bool has_masks(void) { return __builtin_cpu_supports("avx512f"); }

#else

static void add_block(const block *b) { (void)b; }
static bool has_masks(void) { return false; }

#endif

/* ---- a few lines of the output, one panel of its channels ---- */

typedef struct job {
    const pg_conv_path *path;
    const pg_conv_call *call;
    side side;
    int64_t from, to; /* lines */
    int64_t channel;  /* the panel's first */
    float *sums;      /* [lines, out_w, panel] the thread's */
} job;

static const float zeros[PANEL];

/* What the panel's sums start with. */
static const float *start_of(const job *j) {
    return j->path->bias && !j->path->backward ? j->path->bias + j->channel : zeros;
}

/* Before the taps, where not every position has them. */
static void begin(const job *j) {
    int64_t count = (j->to - j->from) * j->side.out_w * PANEL;
    for (int64_t i = 0; i < count; i += PANEL)
        memcpy(j->sums + i, start_of(j), (size_t)PANEL * sizeof *j->sums);
}

/* And behind them. */
static void end(const job *j) {
    int64_t first = j->from * j->side.out_w, last = j->to * j->side.out_w;
    bool relu = j->path->act == PG_ACT_RELU;
    for (int64_t p = first; p < last; p++) {
        const float *sums = j->sums + (p - first) * PANEL;
        float *out = j->call->out + p * j->side.out_c + j->channel;
        for (int64_t c = 0; c < PANEL; c++)
            out[c] = relu && sums[c] < 0 ? 0 : sums[c];
    }
}

/* Lines r of the convolution's output that a job of the backward direction, whose lines are those
 * of the input, has to do with: r stride + shift is one of them. */
static pg_conv_span reached(const job *j, pg_conv_span y) {
    int64_t stride = j->path->geometry.dnnl.strides[0];
    int64_t first = larger(0, j->from - y.shift + stride - 1) / stride;
    int64_t end = larger(0, j->to - y.shift + stride - 1) / stride;
    return (pg_conv_span){larger(y.from, first), smaller(y.to, end), y.shift};
}

/* Where a tap is added: the positions (y, x) of the convolution's output that have it, as far as
 * the job's lines are concerned. */
static field field_of(const job *j, pg_conv_span y, pg_conv_span x) {
    const side *s = &j->side;
    const int64_t *strides = j->path->geometry.dnnl.strides;
    const bool back = j->path->backward;
    y = back ? reached(j, y)
             : (pg_conv_span){larger(y.from, j->from), smaller(y.to, j->to), y.shift};
    int64_t there_y = y.from * strides[0] + y.shift, there_x = x.from * strides[1] + x.shift;
    int64_t in = back ? y.from * s->in_w + x.from : there_y * s->in_w + there_x;
    int64_t out = back ? there_y * s->out_w + there_x : y.from * s->out_w + x.from;
    int64_t in_step = back ? 1 : strides[1], out_step = back ? strides[1] : 1;
    int64_t in_line = (back ? 1 : strides[0]) * s->in_w;
    int64_t out_line = (back ? strides[0] : 1) * s->out_w;
    return (field){.first = {.in = j->call->in + in * s->in_c,
                             .sums = j->sums + (out - j->from * s->out_w) * PANEL,
                             .out = j->call->out + out * s->out_c + j->channel},
                   .lines = larger(0, y.to - y.from),
                   .count = x.to - x.from,
                   .in_step = in_step * s->in_c,
                   .sums_step = out_step * PANEL,
                   .out_step = out_step * s->out_c,
                   .in_line = in_line * s->in_c,
                   .sums_line = out_line * PANEL,
                   .out_line = out_line * s->out_c};
}

/* One tap, all blocks of input channels; `all`: it is the only one, and every position has it. */
static void add(const job *j, field at, const float *weights, bool all) {
    const int64_t positions = at.lines * at.count;
    for (int64_t k = 0; positions > 0 && k < j->side.in_c; k += DEPTH) {
        const int64_t depth = smaller(DEPTH, j->side.in_c - k);
        const int64_t cache_lines = depth * PANEL * (int64_t)sizeof *weights / CACHE_LINE;
        add_block(&(block){.at = at,
                           .weights = weights + k * PANEL,
                           .depth = depth,
                           .start = all && k == 0 ? start_of(j) : NULL,
                           .ends = all && k + depth == j->side.in_c,
                           .relu = j->path->act == PG_ACT_RELU,
                           .next = (const char *)(weights + (k + depth) * PANEL),
                           .ahead = (cache_lines + positions - 1) / positions * CACHE_LINE});
        at.first.in += DEPTH;
    }
}

/* One tap, which every position of the output has. */
static bool meets_all(const pg_conv_geometry *g) {
    return g->k_h == 1 && g->k_w == 1 && g->in_h == g->out_h && g->in_w == g->out_w &&
           g->dnnl.pad_begin[0] == 0 && g->dnnl.pad_begin[1] == 0;
}

static void do_job(const job *j) {
    const pg_conv_geometry *g = &j->path->geometry;
    const side *s = &j->side;
    const float *weights = j->call->weights + j->channel * g->k_h * g->k_w * s->in_c;
    bool all = meets_all(g);
    if (!all)
        begin(j);
    for (int64_t ky = 0; ky < g->k_h; ky++)
        for (int64_t kx = 0; kx < g->k_w; kx++, weights += s->in_c * PANEL) {
            field at = field_of(j, pg_conv_span_of(g, 0, ky), pg_conv_span_of(g, 1, kx));
            add(j, at, weights, all);
        }
    if (!all)
        end(j);
}

/* Lines of the output that share a block of weights: equally many, where it can be, so that threads
 * have as much. */
static int64_t lines_of(const side *s) {
    int64_t most = smaller(s->out_h, larger(1, POSITIONS / s->out_w)), lines = most;
    while (lines > most / 2 + 1 && s->out_h % lines != 0)
        lines--;
    return s->out_h % lines == 0 ? lines : most;
}

static void run(const pg_conv_path *path, const pg_conv_call *call) {
    side s = side_of(&path->geometry, path->backward);
    int64_t lines = lines_of(&s);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t from = 0; from < s.out_h; from += lines)
        for (int64_t channel = 0; channel < s.out_c; channel += PANEL) {
            float *sums = (float *)call->scratch + omp_get_thread_num() * lines * s.out_w * PANEL;
            do_job(&(job){path, call, s, from, smaller(from + lines, s.out_h), channel, sums});
        }
}

/* ---- the kernel ---- */

static bool takes(const pg_conv_path_spec *spec) {
    const pg_conv_geometry *g = spec->geometry;
    int64_t in_c = spec->backward ? g->out_c : g->in_c, out_c = spec->backward ? g->in_c : g->out_c;
    return spec->sparse && has_masks() && g->groups == 1 && in_c % LANES == 0 &&
           out_c % PANEL == 0 && !spec->add && spec->act != PG_ACT_CLIP;
}

static size_t packed_bytes(const pg_conv_geometry *g, bool backward) {
    (void)backward;
    return (size_t)(g->in_c * g->out_c * g->k_h * g->k_w) * sizeof(float);
}

static size_t scratch_bytes(const pg_conv_geometry *g, bool backward) {
    side s = side_of(g, backward);
    return (size_t)(omp_get_max_threads() * lines_of(&s) * s.out_w * PANEL) * sizeof(float);
}

/* [panel, tap, in, channel of the panel] */
static void pack(const pg_conv_geometry *g, bool backward, const float *plain, float *packed) {
    side s = side_of(g, backward);
    int64_t taps = g->k_h * g->k_w, out_step = backward ? taps : g->in_c * taps;
    int64_t in_step = backward ? g->in_c * taps : taps;
    for (int64_t channel = 0; channel < s.out_c; channel += PANEL)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t k = 0; k < s.in_c; k++)
                for (int64_t c = channel; c < channel + PANEL; c++)
                    *packed++ = plain[c * out_step + k * in_step + t];
}

const pg_conv_kernel pg_conv_sparse = {
    .name = "own:sparse",
    .takes = takes,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .run = run,
};
