/* Gradient of a dense convolution with respect to its input where few output channels have one:
 * those that ParchGrad keeps (conv_kept.h). The library works on sixteen channels at a time, and of
 * 64 of which a tenth is kept ten of sixteen would be filling.
 *
 * d_src(y, x) is the sum over taps (a, b) and channels o of
 *
 *   W[o][a][b] d_dst(o, y + top - a, x + left - b)
 *
 * Counted from the last tap on, a row of the kernel meets neighbouring places of a row of d_dst:
 * where the channels lie side by side without gaps that is one run of k_w channels values, against
 * as many rows of weights. So a thread copies some rows of d_dst (a band) without gaps and with
 * zeros around the map, and all taps of a group of positions are one call of the innermost loop
 * (conv_group.h), whose sums never leave the registers.
 *
 * Weights are packed as they are met (conv_tiles.h), taps in reverse. Rows of d_src are complete
 * one after the other, and can be handed over (pg_conv_sink). */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/conv_kernel.h"
#include "kernels/mem.h"

enum {
    BAND_FLOATS = 16384, /* of a second-level cache; the weights want it too */
    LITTLE_MAP = 64      /* up to which weights are most of the work: conv_small.c */
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Names are the convolution's: in is d_src, out is d_dst. */
typedef struct kernel {
    const pg_conv_geometry *g;
    pg_tiles tiles;    /* of the input's channels */
    int64_t channels;  /* of the output's that have a gradient */
    int64_t top, left; /* zeros above and left of d_dst, as the reversed taps see it */
    int64_t row;       /* floats of a band's row */
    const pg_conv_call *call;
} kernel;

static pg_tiles tiles_of(const pg_conv_geometry *g, bool backward) {
    (void)backward;
    return pg_tiles_of(g->in_c, false, g->k_h * g->k_w, true);
}

static kernel describe(const pg_conv_geometry *g, int64_t channels) {
    return (kernel){.g = g,
                    .tiles = tiles_of(g, true),
                    .channels = channels,
                    .top = g->k_h - 1 - g->dnnl.pad_begin[0],
                    .left = g->k_w - 1 - g->dnnl.pad_begin[1],
                    .row = (g->in_w + g->k_w - 1) * channels};
}

/* Rows of d_src that a band is for. */
static int64_t band_rows(const kernel *k) {
    return smaller(larger(BAND_FLOATS / k->row - (k->g->k_h - 1), 1), k->g->in_h);
}

static int64_t round_up(int64_t floats) { return ceil_div(floats, PG_LANES) * PG_LANES; }

/* ---- a thread's memory ---- */

/* For any number of channels, and a vector more than the rows, for copying. */
static int64_t band_floats(const kernel *k) {
    int64_t row = k->row / k->channels * k->g->out_c;
    return round_up(larger(BAND_FLOATS, k->g->k_h * row) + PG_LANES);
}

static int64_t sums_floats(const kernel *k) { return k->g->in_w * PG_GROUP_WIDTH; }
static int64_t out_floats(const kernel *k) { return round_up(k->g->in_w * k->g->in_c); }

static int64_t thread_floats(const kernel *k) {
    return band_floats(k) + sums_floats(k) + out_floats(k);
}

static size_t scratch_bytes(const pg_conv_geometry *g, bool backward) {
    (void)backward;
    const kernel k = describe(g, g->out_c);
    return (size_t)omp_get_max_threads() * (size_t)thread_floats(&k) * sizeof(float);
}

/* ---- a band ---- */

/* Channels of one position without a gap to the next; what is written past them is written over. */
static void copy_place(const kernel *k, const float *from, float *to) {
    if (k->g->out_c % PG_LANES != 0)
        memcpy(to, from, (size_t)k->channels * sizeof *to);
    else
        for (int64_t c = 0; c < k->channels; c += PG_LANES)
            memcpy(to + c, from + c, PG_LANES * sizeof *to);
}

/* Row y of d_dst, which may lie outside. */
static void fill_row(const kernel *k, int64_t y, float *row) {
    const pg_conv_geometry *g = k->g;
    if (y < 0 || y >= g->out_h) {
        memset(row, 0, (size_t)k->row * sizeof *row);
        return;
    }
    int64_t width = k->row / k->channels;
    int64_t begin = larger(0, k->left), end = larger(begin, smaller(width, g->out_w + k->left));
    const float *from = k->call->in + (y * g->out_w - k->left) * g->out_c;
    memset(row, 0, (size_t)(begin * k->channels) * sizeof *row);
    for (int64_t x = begin; x < end; x++)
        copy_place(k, from + x * g->out_c, row + x * k->channels);
    memset(row + end * k->channels, 0, (size_t)((width - end) * k->channels) * sizeof *row);
}

/* ---- a row of d_src ---- */

/* `band`: from the row that the last tap meets on; all of a tile. */
static void run_tile(const kernel *k, int64_t tile, const float *band, const float *skip,
                     float *sums, float *out) {
    static const float zeros[PG_GROUP_WIDTH] __attribute__((aligned(PG_MEM_ALIGN))) = {0};
    const pg_conv_geometry *g = k->g;
    const int64_t vectors = pg_tile_vectors(&k->tiles, tile);
    const int64_t c = pg_tile_begin(&k->tiles, tile);
    const int64_t count = pg_tile_channels(&k->tiles, tile);
    const int64_t groups = ceil_div(g->in_w, pg_group_most(vectors));
    pg_group one = {.weights = k->call->weights + c * g->k_h * g->k_w * k->channels,
                    .rows = g->k_h,
                    .channels = g->k_w * k->channels,
                    .pitch_in = k->row,
                    .sums = sums,
                    .start = zeros,
                    .ends = count == vectors * PG_LANES,
                    .out = out + c,
                    .skip = skip ? skip + c : NULL,
                    .pitch = g->in_c,
                    .lo = -INFINITY,
                    .hi = INFINITY};
    for (int64_t i = 0; i < groups; i++) {
        int64_t first = g->in_w * i / groups, positions = g->in_w * (i + 1) / groups - first;
        for (int64_t p = 0; p < positions; p++) {
            one.in[p] = band + (first + p) * k->channels;
            one.position[p] = first + p;
        }
        pg_group_add(&one, positions, vectors);
    }
    if (!one.ends)
        pg_group_end(&one, 0, g->in_w, vectors, count);
}

static void run_band(const kernel *k, int64_t from, int64_t to, float *memory) {
    const pg_conv_geometry *g = k->g;
    float *sums = memory + band_floats(k), *row = sums + sums_floats(k);
    for (int64_t y = from; y < to + g->k_h - 1; y++)
        fill_row(k, y - k->top, memory + (y - from) * k->row);
    for (int64_t y = from; y < to; y++) {
        const pg_conv_sink *sink = k->call->sink;
        int64_t first = y * g->in_w;
        const float *skip = k->call->skip ? k->call->skip + first * g->in_c : NULL;
        float *out = sink ? row : k->call->out + first * g->in_c;
        for (int64_t tile = 0; tile < k->tiles.count; tile++)
            run_tile(k, tile, memory + (y - from) * k->row, skip, sums, out);
        if (sink)
            sink->take(sink->user, first, g->in_w, out);
    }
}

static void run(const pg_conv_path *path, const pg_conv_call *call) {
    kernel k = describe(&path->geometry, call->channels);
    k.call = call;
#pragma omp parallel
    {
        int64_t threads = omp_get_num_threads(), me = omp_get_thread_num(), h = k.g->in_h;
        int64_t first = h * me / threads, last = h * (me + 1) / threads;
        int64_t bands = ceil_div(last - first, band_rows(&k));
        float *memory = (float *)call->scratch + me * thread_floats(&k);
        for (int64_t i = 0; i < bands; i++)
            run_band(&k, first + (last - first) * i / bands,
                     first + (last - first) * (i + 1) / bands, memory);
    }
}

/* ---- weights ---- */

static size_t packed_bytes(const pg_conv_geometry *g, bool backward) {
    const pg_tiles tiles = tiles_of(g, backward);
    return pg_tiles_bytes(&tiles, g->out_c);
}

static void pack(const pg_conv_geometry *g, bool backward, const float *plain, float *packed) {
    const pg_tiles tiles = tiles_of(g, backward);
    pg_tiles_pack(&tiles, g, backward, plain, packed);
}

/* ---- the path ---- */

static bool can(const pg_conv_geometry *g) {
    const pg_dnnl_conv *d = &g->dnnl;
    return pg_group_possible() && g->groups == 1 && g->k_h * g->k_w > 1 && d->strides[0] == 1 &&
           d->strides[1] == 1 && d->dilates[0] == 0 && d->dilates[1] == 0 &&
           g->in_h * g->in_w > LITTLE_MAP;
}

static bool takes(const pg_conv_path_spec *spec) {
    return spec->kept > 0 && spec->backward && !spec->bf16 && can(spec->geometry);
}

const pg_conv_kernel pg_conv_few = {
    .name = "own:few",
    .sinks = can,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .tiles = tiles_of,
    .run = run,
};
