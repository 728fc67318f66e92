/* Dense 3x3 convolutions with stride 1, both ways, by Winograd's minimal filtering F(4x4, 3x3)
 * (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): a tile of 4x4
 * outputs takes 36 multiplications for each pair of channels instead of 144.
 *
 * Along one axis six inputs d and three weights g are polynomials; their product's coefficients, of
 * which four are the outputs, follow from its values at six points, where it is the product of the
 * values: y = A' [(G g) * (B' d)]. The points here are 0, +-3/4, +-3/2 and infinity. With the usual
 * 0, +-1, +-2 the rounding error is two to three and a half times as large; with these it is about
 * that of the plain sum (tests/kernel/test_conv_winograd.c states it). What it does not keep is
 * that equal windows give equal results to the last bit.
 *
 * Three steps: B' d B of all tiles, for each of the 36 points a matrix product tiles x channels,
 * and A' m A. Where the map is large, each thread does all three for a few tiles, which stay in its
 * caches. Where the weights are what is large, the threads share each step, so that weights come by
 * once.
 *
 * Backward is the same with the weights turned by half a turn, and padding from the other side. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/conv_kernel.h"
#include "kernels/mem.h"
#include "kernels/simd.h"

enum {
    OUT = 4, /* outputs of a tile along an axis */
    IN = 6,  /* inputs, and points */
    POINTS = IN * IN,
    TAPS = 3,
    GROUP = 6,               /* tiles that meet weights at once, if those are 64 wide */
    BLOCK_FLOATS = 8192,     /* of weights: most of a first-level cache */
    CHUNK_BYTES = 1 << 20,   /* of a thread's tiles: half of a second-level cache */
    TOGETHER_BYTES = 1 << 23 /* of the team's, where they share them */
};

/* a and b of the points 0, +-a, +-b. */
static const float A1 = 0.75F, B1 = 1.5F, A2 = 0.5625F, B2 = 2.25F, A3 = 0.421875F, B3 = 3.375F;
static const float SUM2 = 2.8125F, PRODUCT2 = 1.265625F; /* a^2 + b^2, a^2 b^2 */

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx512f")))
#else
#define WIDE
#endif
#define INLINE static inline __attribute__((always_inline)) WIDE

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* "in" is what is summed over, "out" what the sums are: backward, d_dst and d_src. */
typedef struct kernel {
    int64_t in_c, in_h, in_w, out_c, out_h, out_w, top, left;
    int64_t across, count; /* tiles in a row, in all */
    int64_t summed;        /* of in_c: those that count */
    int64_t unit;          /* tiles that stay together */
    bool together;         /* the team shares a chunk; otherwise each thread has one of its own */
    int64_t chunks, chunk; /* how many; tiles of one at most */
    pg_tiles tiles;        /* of the weights, with points for taps */
    const float *weights, *in, *bias, *skip; /* bias, skip: NULL: none */
    float *out, lo, hi;
    const pg_conv_sink *sink; /* gets rows instead of out; NULL: none */
} kernel;

static pg_tiles tiles_of(const pg_conv_geometry *g, bool backward) {
    return pg_tiles_of(backward ? g->in_c : g->out_c, false, POINTS, false);
}

/* From what one point has of a chunk's inputs to what the next has: a line more, or all of a tile's
 * points would meet in the same few places of a cache. */
static int64_t pitch_of(const kernel *k) { return k->chunk * k->in_c + PG_LANES; }

/* Likewise, where a point's products begin: [chunk, width] of a tile of weights. */
static int64_t products_at(const kernel *k, int64_t tile, int64_t point) {
    int64_t before = pg_tile_begin(&k->tiles, tile) * POINTS;
    return (before + point * pg_tile_width(&k->tiles, tile)) * k->chunk +
           (tile * POINTS + point) * PG_LANES;
}

/* Floats of a chunk's transformed inputs, and of its products behind them. */
static int64_t inputs_of(const kernel *k) { return POINTS * pitch_of(k); }
static int64_t products_of(const kernel *k) {
    return POINTS * (k->out_c * k->chunk + k->tiles.count * PG_LANES);
}

/* The first tile of the nth of so many parts: whole units lie before it. */
static int64_t first_of(const kernel *k, int64_t nth, int64_t parts) {
    int64_t units = ceil_div(k->count, k->unit);
    return smaller(units * nth / parts * k->unit, k->count);
}

/* `rows`: parts of the map are whole rows of tiles; otherwise, whole groups of the innermost loop.
 */
static kernel describe(const pg_conv_geometry *g, bool backward, bool rows) {
    kernel k = {.in_c = g->in_c, .in_h = g->in_h, .in_w = g->in_w};
    k.out_c = g->out_c, k.out_h = g->out_h, k.out_w = g->out_w;
    k.top = g->dnnl.pad_begin[0], k.left = g->dnnl.pad_begin[1];
    if (backward) {
        k.in_c = g->out_c, k.in_h = g->out_h, k.in_w = g->out_w;
        k.out_c = g->in_c, k.out_h = g->in_h, k.out_w = g->in_w;
        k.top = TAPS - 1 - k.top, k.left = TAPS - 1 - k.left;
    }
    k.summed = k.in_c;
    k.across = ceil_div(k.out_w, OUT);
    k.unit = rows ? k.across : GROUP;
    k.count = k.across * ceil_div(k.out_h, OUT);
    k.tiles = tiles_of(g, backward);
    int64_t tile = POINTS * (k.in_c + k.out_c) * (int64_t)sizeof(float);
    int64_t weights = (int64_t)pg_tiles_bytes(&k.tiles, k.in_c);
    int64_t threads = omp_get_max_threads();
    k.together = weights > k.count * tile;
    int64_t bytes = k.together ? TOGETHER_BYTES : larger(CHUNK_BYTES, weights / 2);
    int64_t most = larger(bytes / tile / k.unit, 1), units = ceil_div(k.count, k.unit);
    int64_t turns = k.together ? 1 : smaller(threads, units);
    k.chunks = turns * ceil_div(units, turns * most);
    k.chunk = smaller(ceil_div(units, k.chunks) * k.unit, k.count);
    return k;
}

/* ---- weights ---- */

/* G g along one axis, with the divisors of the points 0, +-a, +-b inside: what B' has too much. */
INLINE void weights_of(const pg_vec g[TAPS], pg_vec out[IN]) {
    static const float D0 = 0.790123457F, DA = -0.526748971F, DB = 0.131687243F;
    pg_vec even_a = DA * g[0] + (DA * A2) * g[2], odd_a = (DA * A1) * g[1];
    pg_vec even_b = DB * g[0] + (DB * B2) * g[2], odd_b = (DB * B1) * g[1];
    out[0] = D0 * g[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = g[2];
}

/* G g G' of a vector of pairs of channels: taps are `step` apart, points `out_step`. */
INLINE void transform_vector(const float *taps, int64_t step, float *out, int64_t out_step) {
    pg_vec half[IN][TAPS], line[IN];
    for (int q = 0; q < TAPS; q++) {
        pg_vec column[TAPS];
#pragma GCC unroll 3
        for (int r = 0; r < TAPS; r++)
            column[r] = *(const pg_vec *)(taps + (r * TAPS + q) * step);
        weights_of(column, line);
#pragma GCC unroll 6
        for (int r = 0; r < IN; r++)
            half[r][q] = line[r];
    }
    for (int r = 0; r < IN; r++) {
        weights_of(half[r], line);
#pragma GCC unroll 6
        for (int q = 0; q < IN; q++)
            *(pg_vec *)(out + (r * IN + q) * out_step) = line[q];
    }
}

/* One of `summed` rows of a tile: [TAPS * TAPS, width], taps `step` apart. */
WIDE static void transform_row(const pg_tiles *tiles, int64_t tile, int64_t row, int64_t summed,
                               const float *taps, int64_t step, float *packed) {
    int64_t width = pg_tile_width(tiles, tile);
    packed += pg_tile_begin(tiles, tile) * POINTS * summed + row * width;
    for (int64_t c = 0; c < width; c += PG_LANES)
        transform_vector(taps + c, step, packed + c, summed * width);
}

static size_t packed_bytes(const pg_conv_geometry *g, bool backward) {
    const pg_tiles tiles = tiles_of(g, backward);
    return pg_tiles_bytes(&tiles, backward ? g->out_c : g->in_c);
}

static void pack(const pg_conv_geometry *g, bool backward, const float *plain, float *packed) {
    enum { ALL = TAPS * TAPS };
    const pg_tiles tiles = tiles_of(g, backward);
    int64_t summed = backward ? g->out_c : g->in_c;
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t tile = 0; tile < tiles.count; tile++)
        for (int64_t i = 0; i < summed; i++) {
            float taps[ALL][PG_GROUP_WIDTH] __attribute__((aligned(PG_MEM_ALIGN)));
            for (int64_t c = 0; c < pg_tile_width(&tiles, tile); c++) {
                int64_t o = pg_tile_begin(&tiles, tile) + c;
                const float *from = plain + (backward ? i * g->in_c + o : o * g->in_c + i) * ALL;
                for (int t = 0; t < ALL; t++)
                    taps[t][c] = from[backward ? ALL - 1 - t : t];
            }
            transform_row(&tiles, tile, i, summed, taps[0], PG_GROUP_WIDTH, packed);
        }
}

/* ---- inputs ---- */

/* B' d along one axis, in place. */
INLINE void values_of(pg_vec d[IN]) {
    pg_vec even_a = d[4] - B2 * d[2], odd_a = A1 * (d[3] - B2 * d[1]);
    pg_vec even_b = d[4] - A2 * d[2], odd_b = B1 * (d[3] - A2 * d[1]);
    d[0] = d[4] - SUM2 * d[2] + PRODUCT2 * d[0];
    d[5] = d[5] - SUM2 * d[3] + PRODUCT2 * d[1];
    d[1] = even_a + odd_a;
    d[2] = even_a - odd_a;
    d[3] = even_b + odd_b;
    d[4] = even_b - odd_b;
}

/* One tile, as the `place`th of the chunk whose transformed inputs begin at `to`. `zeros`, [in_c],
 * stands for what lies outside. */
WIDE static void transform_inputs(const kernel *k, int64_t tile, int64_t place, const float *zeros,
                                  float *to) {
    const float *at[IN][IN];
    int64_t y = tile / k->across * OUT - k->top, x = tile % k->across * OUT - k->left;
    int64_t pitch = pitch_of(k);
    for (int64_t r = 0; r < IN; r++)
        for (int64_t q = 0; q < IN; q++) {
            bool inside = y + r >= 0 && y + r < k->in_h && x + q >= 0 && x + q < k->in_w;
            at[r][q] = inside ? k->in + ((y + r) * k->in_w + x + q) * k->in_c : zeros;
        }
    to += place * k->in_c;
    for (int64_t c = 0; c < k->in_c; c += PG_LANES) {
        pg_vec half[IN][IN], line[IN];
        for (int q = 0; q < IN; q++) {
#pragma GCC unroll 6
            for (int r = 0; r < IN; r++)
                line[r] = *(const pg_vec_anywhere *)(at[r][q] + c);
            values_of(line);
#pragma GCC unroll 6
            for (int r = 0; r < IN; r++)
                half[r][q] = line[r];
        }
        for (int r = 0; r < IN; r++) {
#pragma GCC unroll 6
            for (int q = 0; q < IN; q++)
                line[q] = half[r][q];
            values_of(line);
#pragma GCC unroll 6
            for (int q = 0; q < IN; q++)
                *(pg_vec_anywhere *)(to + (r * IN + q) * pitch + c) = line[q];
        }
    }
}

/* ---- products ---- */

/* A block of weights, and the one behind it is fetched meanwhile, if there is one. */
static void add_block(const kernel *k, pg_group *one, int64_t vectors, int64_t count, bool fetches,
                      const float *inputs) {
    const int64_t width = vectors * PG_LANES, groups = ceil_div(count, pg_group_most(vectors));
    for (int64_t i = 0; i < groups; i++) {
        int64_t first = count * i / groups, positions = count * (i + 1) / groups - first;
        int64_t from = one->channels * i / groups;
        one->fetch = one->weights + (one->channels + from) * width;
        one->fetch_channels = fetches ? one->channels * (i + 1) / groups - from : 0;
        for (int64_t p = 0; p < positions; p++) {
            one->in[p] = inputs + (first + p) * k->in_c;
            one->position[p] = first + p;
        }
        pg_group_add(one, positions, vectors);
    }
}

/* Items [from, to) of all (tile of weights, point), for a chunk of `count` places: products become
 * weights times inputs. */
static void multiply(const kernel *k, int64_t from, int64_t to, int64_t count, const float *inputs,
                     float *products) {
    static const float start[PG_GROUP_WIDTH] __attribute__((aligned(PG_MEM_ALIGN)));
    for (int64_t item = from; item < to; item++) {
        int64_t tile = item / POINTS, point = item % POINTS;
        int64_t width = pg_tile_width(&k->tiles, tile);
        int64_t blocks = ceil_div(k->summed * width, BLOCK_FLOATS);
        const float *in = inputs + point * pitch_of(k);
        const float *weights =
            k->weights + (pg_tile_begin(&k->tiles, tile) * POINTS + point * width) * k->summed;
        pg_group one = {.rows = 1, .sums = products + products_at(k, tile, point)};
        for (int64_t b = 0; b < blocks; b++) {
            int64_t channel = k->summed * b / blocks;
            one.weights = weights + channel * width;
            one.channels = k->summed * (b + 1) / blocks - channel;
            one.start = b == 0 ? start : NULL;
            add_block(k, &one, width / PG_LANES, count, b + 1 < blocks || item + 1 < to,
                      in + channel);
        }
    }
}

/* ---- outputs ---- */

/* A' m along one axis: the first four. */
INLINE void outputs_of(pg_vec m[IN]) {
    pg_vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    pg_vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    m[0] = m[0] + sum_a + sum_b;
    m[1] = A1 * difference_a + B1 * difference_b;
    m[2] = A2 * sum_a + B2 * sum_b;
    m[3] = A3 * difference_a + B3 * difference_b + m[5];
}

/* Channels from c on, which are a vector of a tile of weights: `from` is where its products begin,
 * `pitch` apart for the points; `out` is the map from row `above` on. */
INLINE void transform_outputs_at(const kernel *k, int64_t y, int64_t x, int64_t c,
                                 const float *from, int64_t pitch, float *out, int64_t above) {
    int64_t rows = smaller(OUT, k->out_h - y), columns = smaller(OUT, k->out_w - x);
    const pg_vec lo = k->lo - (pg_vec){0}, hi = k->hi - (pg_vec){0};
    pg_vec half[OUT][IN], line[IN], start = {0};
    if (k->bias)
        start = *(const pg_vec_anywhere *)(k->bias + c);
    for (int q = 0; q < IN; q++) {
#pragma GCC unroll 6
        for (int r = 0; r < IN; r++)
            line[r] = *(const pg_vec *)(from + (r * IN + q) * pitch);
        outputs_of(line);
#pragma GCC unroll 4
        for (int r = 0; r < OUT; r++)
            half[r][q] = line[r];
    }
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 6
        for (int q = 0; q < IN; q++)
            line[q] = half[r][q];
        outputs_of(line);
        for (int q = 0; q < columns; q++) {
            int64_t at = ((y + r) * k->out_w + x + q) * k->out_c + c;
            pg_vec v = line[q] + start;
            if (k->skip)
                v += *(const pg_vec_anywhere *)(k->skip + at);
            pg_vec_clamp(&v, &lo, &hi);
            *(pg_vec_anywhere *)(out + at - above * k->out_w * k->out_c) = v;
        }
    }
}

WIDE static void transform_outputs(const kernel *k, int64_t tile, int64_t place,
                                   const float *products, float *out, int64_t above) {
    int64_t y = tile / k->across * OUT, x = tile % k->across * OUT;
    for (int64_t t = 0; t < k->tiles.count; t++) {
        int64_t first = pg_tile_begin(&k->tiles, t), width = pg_tile_width(&k->tiles, t);
        const float *from = products + products_at(k, t, 0) + place * width;
        for (int64_t c = 0; c < width; c += PG_LANES)
            transform_outputs_at(k, y, x, first + c, from + c, k->chunk * width + PG_LANES, out,
                                 above);
    }
}

/* Tiles [from, to), of a chunk that begins with tile `first`; with a sink they are whole rows of
 * tiles, and `rows` has room for one: [OUT, out_w, out_c]. */
static void give_outputs(const kernel *k, int64_t from, int64_t to, int64_t first,
                         const float *products, float *rows) {
    for (int64_t tile = from; tile < to; tile++) {
        int64_t y = tile / k->across * OUT;
        transform_outputs(k, tile, tile - first, products, k->sink ? rows : k->out,
                          k->sink ? y : 0);
        for (int64_t r = 0; k->sink && (tile + 1) % k->across == 0 && r < OUT && y + r < k->out_h;
             r++)
            k->sink->take(k->sink->user, (y + r) * k->out_w, k->out_w,
                          rows + r * k->out_w * k->out_c);
    }
}

/* ---- the whole ---- */

static int64_t rows_of(const kernel *k) { return OUT * k->out_w * k->out_c; }

/* Zeros for all; then, of each thread or of the team, inputs and products; rows of each thread, if
 * there may be a sink. */
static size_t scratch_of(const kernel *k, bool sinks) {
    int64_t threads = omp_get_max_threads(), owners = k->together ? 1 : threads;
    return (size_t)(k->in_c + owners * (inputs_of(k) + products_of(k)) +
                    (sinks ? threads * rows_of(k) : 0)) *
           sizeof(float);
}

static void run_apart(const kernel *k, int64_t me, int64_t threads, const float *zeros,
                      float *inputs, float *rows) {
    float *products = inputs + inputs_of(k);
    for (int64_t i = k->chunks * me / threads; i < k->chunks * (me + 1) / threads; i++) {
        int64_t first = first_of(k, i, k->chunks), last = first_of(k, i + 1, k->chunks);
        for (int64_t t = first; t < last; t++)
            transform_inputs(k, t, t - first, zeros, inputs);
        multiply(k, 0, k->tiles.count * POINTS, last - first, inputs, products);
        give_outputs(k, first, last, first, products, rows);
    }
}

/* What a thread transforms of a chunk begins and ends as chunks do. */
static int64_t share_of(const kernel *k, int64_t first, int64_t last, int64_t nth,
                        int64_t threads) {
    int64_t units = ceil_div(last - first, k->unit);
    return smaller(first + units * nth / threads * k->unit, last);
}

static void run_together(const kernel *k, int64_t me, int64_t threads, const float *zeros,
                         float *inputs, float *rows) {
    float *products = inputs + inputs_of(k);
    int64_t items = k->tiles.count * POINTS;
    for (int64_t i = 0; i < k->chunks; i++) {
        int64_t first = first_of(k, i, k->chunks), last = first_of(k, i + 1, k->chunks);
        int64_t from = share_of(k, first, last, me, threads);
        int64_t to = share_of(k, first, last, me + 1, threads);
        for (int64_t t = from; t < to; t++)
            transform_inputs(k, t, t - first, zeros, inputs);
#pragma omp barrier
        multiply(k, items * me / threads, items * (me + 1) / threads, last - first, inputs,
                 products);
#pragma omp barrier
        give_outputs(k, from, to, first, products, rows);
    }
}

static void run_kernel(kernel k, const pg_conv_path *path, const pg_conv_call *call) {
    float *zeros = call->scratch, *chunks = zeros + k.in_c;
    int64_t chunk = inputs_of(&k) + products_of(&k);
    k.weights = call->weights, k.in = call->in, k.out = call->out;
    k.bias = path->backward ? NULL : path->bias, k.skip = call->skip, k.sink = call->sink;
    const pg_act_range range = pg_act_range_of(path->act, path->lo, path->hi);
    k.lo = range.lo, k.hi = range.hi;
    memset(zeros, 0, (size_t)k.in_c * sizeof *zeros);
#pragma omp parallel
    {
        int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
        float *rows = chunks + (k.together ? 1 : omp_get_max_threads()) * chunk + me * rows_of(&k);
        if (k.together)
            run_together(&k, me, threads, zeros, chunks, rows);
        else
            run_apart(&k, me, threads, zeros, chunks + me * chunk, rows);
    }
}

/* ---- all channels ---- */

static size_t scratch_bytes(const pg_conv_geometry *g, bool backward) {
    const kernel k = describe(g, backward, false);
    return scratch_of(&k, false);
}

static void run(const pg_conv_path *path, const pg_conv_call *call) {
    run_kernel(describe(&path->geometry, path->backward, false), path, call);
}

/* Whole vectors of channels on either side. */
static bool fits(const pg_conv_geometry *g) {
    bool ok = pg_group_possible() && g->groups == 1 && g->in_c % PG_LANES == 0 &&
              g->out_c % PG_LANES == 0 && g->k_h == TAPS && g->k_w == TAPS;
    for (int i = 0; ok && i < 2; i++)
        ok = g->dnnl.strides[i] == 1 && g->dnnl.dilates[i] == 0 && g->dnnl.pad_begin[i] < TAPS;
    return ok;
}

/* Weights that are known beforehand: to transform all of them takes longer than to use them. */
static bool can(const pg_conv_path_spec *spec) {
    return fits(spec->geometry) && !spec->bf16 && spec->weights && spec->kept == 0;
}

const pg_conv_kernel pg_conv_winograd = {
    .name = "own:winograd",
    .adds = true,
    .can = can,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .run = run,
};

/* ---- few of the output's channels, backward ---- */

/* As pack makes them, of channels that are picked out of tiles of 3x3 weights, taps in reverse. */
static void transform(const pg_tiles *tiles, int64_t count, const float *picked, float *packed) {
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t tile = 0; tile < tiles->count; tile++)
        for (int64_t row = 0; row < count; row++) {
            int64_t width = pg_tile_width(tiles, tile);
            const float *taps = picked + pg_tile_begin(tiles, tile) * TAPS * TAPS * count;
            transform_row(tiles, tile, row, count, taps + row * width, count * width, packed);
        }
}

static pg_tiles picked_tiles(const pg_conv_geometry *g, bool backward) {
    (void)backward;
    return pg_tiles_of(g->in_c, false, TAPS * TAPS, true);
}

static size_t few_scratch_bytes(const pg_conv_geometry *g, bool backward) {
    const kernel k = describe(g, backward, true);
    return scratch_of(&k, true);
}

static void run_few(const pg_conv_path *path, const pg_conv_call *call) {
    kernel k = describe(&path->geometry, true, true);
    k.summed = call->channels;
    run_kernel(k, path, call);
}

/* The map is large enough for the weights, four times as many, not to be most of the work; and in
 * multiply-adds per vector of a tile it is worth it: transforming takes as long as some 300, and
 * the innermost loop is not as full. */
static bool takes_few(const pg_conv_path_spec *spec) {
    enum { MAP = 24 * 24, TRANSFORMS = 300 };
    const pg_conv_geometry *g = spec->geometry;
    double plain = (double)(OUT * OUT * TAPS * TAPS * spec->kept);
    double ours =
        (double)(POINTS * spec->kept) + TRANSFORMS * (1 + (double)g->out_c / (double)g->in_c);
    return spec->kept > 0 && spec->backward && !spec->bf16 && fits(g) && g->in_h * g->in_w >= MAP &&
           plain > 1.5 * ours;
}

const pg_conv_kernel pg_conv_few_winograd = {
    .name = "own:few-winograd",
    .sinks = fits,
    .takes = takes_few,
    .packed_bytes = packed_bytes,
    .scratch_bytes = few_scratch_bytes,
    .pack = pack,
    .tiles = picked_tiles,
    .transform = transform,
    .run = run_few,
};
