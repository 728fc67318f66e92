/* Dense convolutions on small maps, both ways. A weight there is used only 49 times (7x7) or 196
 * times (14x14), so fetching the weights takes about as long as multiplying by them, and what is to
 * be gained is doing both at once.
 *
 * Seen from a tap (a, b) of the kernel a convolution is a matrix product: output positions whose
 * window has that tap inside the map, times channels. Both directions are the same loop, with the
 * two positions of a pair exchanged: forward, (r, q) of dst sums what is at (r stride - top + a
 * dilation, q stride - left + b dilation) of src; backward the other way round. Taps outside the
 * map are left out, not added as zeros.
 *
 * Weights are packed in the order they are used (conv_tiles.h). Some channels of a tap, as many as
 * fit into the first-level cache, are a block. Positions meet it in groups of up to 6, whose 6 x 64
 * sums stay in registers meanwhile: per channel 4 weights and 6 inputs are loaded for 24
 * multiply-adds. While a block is worked on, the next one is fetched into the second-level cache, a
 * few lines at a time.
 *
 * Each tile belongs to one thread.
 *
 * A 1x1 convolution of few channels on a larger map is the other way round: all weights of a tile
 * are one block, and the map is what does not fit the caches. There a thread takes some positions,
 * all tiles for these, and the next: rows are complete while they are in the cache, and can be
 * handed to whoever wants them (pg_conv_sink).
 *
 * A sum runs over taps and then channels, in order, however it is cut into blocks and groups. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/conv_kernel.h"
#include "kernels/mem.h"

enum {
    BLOCK_FLOATS = 8192, /* most of a first-level cache */
    MAP = 1024,          /* positions, at most */
    LITTLE_MAP = 64,     /* where it is the first choice, */
    LITTLE_DEPTH = 64,   /* from so many channels on */
    CHUNK = 24,          /* positions: whole groups of 6 and 8; of few channels several times */
    CHUNK_FLOATS = 8192, /* as many */
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; } /* a >= 0 */

/* ---- the whole ---- */

/* "in" is what is summed over, "out" what the sums are. */
typedef struct kernel {
    const pg_conv_geometry *g;
    bool backward;
    int64_t in_c, out_c, positions, taps; /* positions of out */
    int64_t summed;                       /* of in_c: the rest is 0 */
    pg_tiles tiles;
    int64_t whole; /* a tap that meets all positions, and comes first; -1: there is none */
    const float *weights, *in, *bias, *skip; /* bias, skip: NULL: none */
    float *out, lo, hi;
} kernel;

static int64_t whole_tap(const kernel *k) {
    for (int64_t t = 0; t < k->taps; t++) {
        pg_conv_span y = pg_conv_span_of(k->g, 0, t / k->g->k_w);
        pg_conv_span x = pg_conv_span_of(k->g, 1, t % k->g->k_w);
        if ((y.to - y.from) * (x.to - x.from) == k->positions)
            return t;
    }
    return -1;
}

static pg_tiles tiles_of(const pg_conv_geometry *g, bool backward) {
    return pg_tiles_of(backward ? g->in_c : g->out_c, true, g->k_h * g->k_w, false);
}

static kernel describe(const pg_conv_geometry *g, bool backward) {
    kernel k = {.g = g, .backward = backward, .taps = g->k_h * g->k_w};
    k.in_c = backward ? g->out_c : g->in_c;
    k.out_c = backward ? g->in_c : g->out_c;
    k.summed = k.in_c;
    k.positions = backward ? g->in_h * g->in_w : g->out_h * g->out_w;
    k.tiles = tiles_of(g, backward);
    k.whole = whole_tap(&k);
    return k;
}

/* The block of weights at `channel` of the nth tap of a tile. */
typedef struct place {
    int64_t tile, nth, channel, channels; /* channels 0: there is none */
} place;

static int64_t tap_of(const kernel *k, const place *at) {
    if (k->whole < 0 || at->nth > k->whole)
        return at->nth;
    return at->nth == 0 ? k->whole : at->nth - 1;
}

static place place_at(const kernel *k, int64_t tile, int64_t nth, int64_t channel) {
    if (tile >= k->tiles.count)
        return (place){.tile = tile};
    int64_t most = BLOCK_FLOATS / pg_tile_width(&k->tiles, tile);
    int64_t even = ceil_div(k->summed, ceil_div(k->summed, most));
    return (place){tile, nth, channel, smaller(even, k->summed - channel)};
}

static place next_of(const kernel *k, const place *at, int64_t threads) {
    if (at->channel + at->channels < k->summed)
        return place_at(k, at->tile, at->nth, at->channel + at->channels);
    if (at->nth + 1 < k->taps)
        return place_at(k, at->tile, at->nth + 1, 0);
    return place_at(k, at->tile + threads, 0, 0);
}

static const float *weights_of(const kernel *k, const place *at) {
    int64_t tile = pg_tile_begin(&k->tiles, at->tile) * k->taps;
    int64_t width = pg_tile_width(&k->tiles, at->tile);
    return k->weights + (tile + tap_of(k, at) * width) * k->summed + at->channel * width;
}

/* One block for all positions it meets; the next one is fetched meanwhile. */
static void add_block(const kernel *k, const place *at, const place *next, pg_group *one) {
    const pg_conv_geometry *g = k->g;
    const int64_t tap = tap_of(k, at), vectors = pg_tile_vectors(&k->tiles, at->tile);
    const pg_conv_span y = pg_conv_span_of(g, 0, tap / g->k_w);
    const pg_conv_span x = pg_conv_span_of(g, 1, tap % g->k_w);
    const int64_t count = (y.to - y.from) * (x.to - x.from);
    const int64_t groups = ceil_div(count, pg_group_most(vectors));
    const int64_t fetch =
        next->channels && pg_tile_vectors(&k->tiles, next->tile) == vectors ? next->channels : 0;
    int64_t r = y.from, q = x.from;
    const float *to_fetch = fetch ? weights_of(k, next) : NULL;
    one->weights = weights_of(k, at);
    one->channels = at->channels;
    for (int64_t i = 0; i < groups; i++) {
        int64_t from = fetch * i / groups, first = count * i / groups;
        int64_t positions = count * (i + 1) / groups - first;
        one->fetch_channels = fetch * (i + 1) / groups - from;
        one->fetch = one->fetch_channels ? to_fetch + from * vectors * PG_LANES : NULL;
        for (int64_t p = 0; p < positions; p++) {
            int64_t src =
                (r * g->dnnl.strides[0] + y.shift) * g->in_w + q * g->dnnl.strides[1] + x.shift;
            int64_t dst = r * g->out_w + q;
            one->in[p] = k->in + (k->backward ? dst : src) * k->in_c + at->channel;
            one->position[p] = k->backward ? src : dst;
            if (++q == x.to)
                q = x.from, r++;
        }
        pg_group_add(one, positions, vectors);
    }
}

static void begin_sums(const kernel *k, int64_t width, const float *start, float *sums) {
    for (int64_t p = 0; p < k->positions; p++)
        memcpy(sums + p * width, start, (size_t)width * sizeof *sums);
}

/* What the sums of a tile begin with, and where they go. */
static pg_group group_of(const kernel *k, int64_t tile, float start[PG_GROUP_WIDTH], float *sums) {
    int64_t c = pg_tile_begin(&k->tiles, tile), width = pg_tile_width(&k->tiles, tile);
    int64_t count = pg_tile_channels(&k->tiles, tile);
    memset(start, 0, (size_t)width * sizeof *start);
    if (k->bias)
        memcpy(start, k->bias + c, (size_t)count * sizeof *start);
    return (pg_group){.rows = 1,
                      .start = start,
                      .sums = sums,
                      .out = k->out + c,
                      .skip = k->skip ? k->skip + c : NULL,
                      .pitch = k->out_c,
                      .lo = k->lo,
                      .hi = k->hi};
}

static void run_tile(const kernel *k, int64_t tile, int64_t threads, float *sums) {
    float start[PG_GROUP_WIDTH] __attribute__((aligned(PG_MEM_ALIGN)));
    pg_group one = group_of(k, tile, start, sums);
    int64_t width = pg_tile_width(&k->tiles, tile), count = pg_tile_channels(&k->tiles, tile);
    bool begins = k->whole >= 0, ends = begins && k->taps == 1 && count == width;
    if (!begins)
        begin_sums(k, width, start, sums);
    for (place at = place_at(k, tile, 0, 0), next; at.tile == tile; at = next) {
        next = next_of(k, &at, threads);
        one.start = begins && at.nth == 0 && at.channel == 0 ? start : NULL;
        one.ends = ends && next.tile != tile;
        add_block(k, &at, &next, &one);
    }
    if (!ends)
        pg_group_end(&one, 0, k->positions, width / PG_LANES, count);
}

/* ---- a few positions after another ---- */

/* 1x1, and a tile's weights are one block. */
static bool is_thin(const kernel *k) {
    const pg_conv_geometry *g = k->g;
    return k->taps == 1 && k->whole == 0 && g->in_h == g->out_h && g->in_w == g->out_w &&
           k->in_c * PG_GROUP_WIDTH <= BLOCK_FLOATS;
}

/* Positions of a chunk, at most. */
static int64_t chunk_of(const kernel *k) {
    int64_t times = CHUNK_FLOATS / (CHUNK * k->out_c);
    return CHUNK * (times > 1 ? times : 1);
}

static int64_t chunks_of(const kernel *k) { /* even: for two threads */
    int64_t chunks = ceil_div(k->positions, chunk_of(k));
    return chunks + chunks % 2;
}

/* Tile by tile, so that all weights come by once, while what is at the positions fits the caches.
 */
static bool in_tiles(const kernel *k) {
    return k->positions * (k->in_c + k->out_c) < k->in_c * k->out_c;
}

/* All positions of *k, which are a chunk. */
static void run_chunk(const kernel *k, float *sums) {
    float start[PG_GROUP_WIDTH] __attribute__((aligned(PG_MEM_ALIGN)));
    for (int64_t tile = 0; tile < k->tiles.count; tile++) {
        pg_group one = group_of(k, tile, start, sums);
        int64_t vectors = pg_tile_vectors(&k->tiles, tile);
        int64_t count = pg_tile_channels(&k->tiles, tile);
        int64_t groups = ceil_div(k->positions, pg_group_most(vectors));
        one.weights = k->weights + pg_tile_begin(&k->tiles, tile) * k->summed;
        one.channels = k->summed;
        one.ends = count == vectors * PG_LANES;
        for (int64_t i = 0; i < groups; i++) {
            int64_t first = k->positions * i / groups;
            int64_t positions = k->positions * (i + 1) / groups - first;
            for (int64_t p = 0; p < positions; p++) {
                one.in[p] = k->in + (first + p) * k->in_c;
                one.position[p] = first + p;
            }
            pg_group_add(&one, positions, vectors);
        }
        if (!one.ends)
            pg_group_end(&one, 0, k->positions, vectors, count);
    }
}

/* Into the sink, or into out. */
static void run_chunks(const kernel *k, const pg_conv_sink *sink, int64_t from, int64_t to,
                       float *sums) {
    float *rows = sums + chunk_of(k) * PG_GROUP_WIDTH;
    for (int64_t i = from; i < to; i++) {
        int64_t first = k->positions * i / chunks_of(k);
        kernel part = *k;
        part.positions = k->positions * (i + 1) / chunks_of(k) - first;
        part.in = k->in + first * k->in_c;
        part.skip = k->skip ? k->skip + first * k->out_c : NULL;
        part.out = sink ? rows : k->out + first * k->out_c;
        run_chunk(&part, sums);
        if (sink)
            sink->take(sink->user, first, part.positions, rows);
    }
}

/* ---- the two directions ---- */

/* A thread's: the sums of a tile; with chunks, one's rows behind them. */
static int64_t scratch_floats(const kernel *k) {
    int64_t tile = PG_GROUP_WIDTH, all = k->positions * tile;
    int64_t chunk = chunk_of(k) * (tile + ceil_div(k->out_c, PG_LANES) * PG_LANES);
    return !is_thin(k) || (in_tiles(k) && all > chunk) ? all : chunk;
}

static size_t scratch_bytes(const pg_conv_geometry *g, bool backward) {
    kernel k = describe(g, backward);
    return (size_t)omp_get_max_threads() * (size_t)scratch_floats(&k) * sizeof(float);
}

static size_t packed_bytes(const pg_conv_geometry *g, bool backward) {
    const pg_tiles tiles = tiles_of(g, backward);
    return pg_tiles_bytes(&tiles, backward ? g->out_c : g->in_c);
}

static void pack(const pg_conv_geometry *g, bool backward, const float *plain, float *packed) {
    const pg_tiles tiles = tiles_of(g, backward);
    pg_tiles_pack(&tiles, g, backward, plain, packed);
}

static int64_t place_of(const pg_conv_geometry *g, int64_t out, int64_t in, int64_t tap) {
    const kernel k = describe(g, true);
    if (k.tiles.vectors % k.tiles.count != 0) /* tiles of two widths: no such sum */
        return -1;
    int64_t vectors = k.tiles.vectors / k.tiles.count, tile = in / PG_LANES / vectors;
    int64_t rows = (tile * k.taps + tap) * k.in_c + out;
    return rows * vectors * PG_LANES + in - tile * vectors * PG_LANES;
}

static void run(const pg_conv_path *path, const pg_conv_call *call) {
    kernel k = describe(&path->geometry, path->backward);
    float *scratch = call->scratch;
    k.weights = call->weights, k.in = call->in, k.out = call->out;
    k.bias = path->backward ? NULL : path->bias, k.skip = call->skip;
    k.summed = call->channels;
    const pg_act_range range = pg_act_range_of(path->act, path->lo, path->hi);
    k.lo = range.lo, k.hi = range.hi;
    pg_assert(!call->sink || is_thin(&k));
    bool tiles = !call->sink && (!is_thin(&k) || in_tiles(&k));
#pragma omp parallel
    {
        int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
        float *mine = scratch + me * scratch_floats(&k);
        for (int64_t tile = me; tiles && tile < k.tiles.count; tile += threads)
            run_tile(&k, tile, threads, mine);
        if (!tiles)
            run_chunks(&k, call->sink, chunks_of(&k) * me / threads,
                       chunks_of(&k) * (me + 1) / threads, mine);
    }
}

static bool can(const pg_conv_path_spec *spec) {
    const pg_conv_geometry *g = spec->geometry;
    const kernel k = describe(g, spec->backward);
    return pg_group_possible() && !spec->bf16 && g->groups == 1 &&
           (is_thin(&k) || (g->in_h * g->in_w <= MAP && g->out_h * g->out_w <= MAP));
}

static bool sinks(const pg_conv_geometry *g) {
    const kernel k = describe(g, true);
    return is_thin(&k);
}

/* Where weights are most of the work, and there is enough of it. */
static bool takes(const pg_conv_path_spec *spec) {
    const pg_conv_geometry *g = spec->geometry;
    if (spec->kept > 0 && spec->backward && can(spec) && sinks(g))
        return true;
    return can(spec) && g->out_h * g->out_w <= LITTLE_MAP && g->in_c >= LITTLE_DEPTH &&
           g->out_c >= LITTLE_DEPTH;
}

const pg_conv_kernel pg_conv_small = {
    .name = "own:small",
    .adds = true,
    .sinks = sinks,
    .takes = takes,
    .can = can,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .tiles = tiles_of,
    .place = place_of,
    .run = run,
};
