#include "kernels/conv_tiles.h"

#include <string.h>

enum { PARALLEL_WEIGHTS = 16384 /* that are copied in the time a second thread takes to start */ };

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

pg_tiles pg_tiles_of(int64_t channels, bool even, int64_t taps, bool reversed) {
    int64_t vectors = ceil_div(channels, PG_LANES), tiles = ceil_div(vectors, PG_GROUP_VECTORS);
    return (pg_tiles){.channels = channels,
                      .vectors = vectors,
                      .count = even ? smaller(tiles + tiles % 2, vectors) : tiles,
                      .taps = taps,
                      .reversed = reversed};
}

size_t pg_tiles_bytes(const pg_tiles *tiles, int64_t summed) {
    return (size_t)(tiles->vectors * PG_LANES * summed * tiles->taps) * sizeof(float);
}

/* The convolution's tap that comes nth. */
static int64_t tap_of(const pg_tiles *tiles, int64_t nth) {
    return tiles->reversed ? tiles->taps - 1 - nth : nth;
}

void pg_tiles_pack(const pg_tiles *tiles, const pg_conv_geometry *g, bool backward,
                   const float *plain, float *packed) {
    int64_t summed = backward ? g->out_c : g->in_c;
    for (int64_t tile = 0; tile < tiles->count; tile++) {
        int64_t first = pg_tile_begin(tiles, tile), last = first + pg_tile_width(tiles, tile);
        for (int64_t nth = 0; nth < tiles->taps; nth++)
            for (int64_t i = 0; i < summed; i++)
                for (int64_t o = first; o < last; o++) {
                    int64_t row = backward ? i * g->in_c + o : o * g->in_c + i;
                    int64_t at = row * tiles->taps + tap_of(tiles, nth);
                    *packed++ = o < tiles->channels ? plain[at] : 0;
                }
    }
}

/* Where the weights of a tile's nth tap begin, `summed` channels being summed over. */
static int64_t begin_of(const pg_tiles *tiles, int64_t tile, int64_t nth, int64_t summed) {
    return (pg_tile_begin(tiles, tile) * tiles->taps + nth * pg_tile_width(tiles, tile)) * summed;
}

static bool is_much(const pg_tiles *tiles, int64_t count) {
    return count * tiles->channels * tiles->taps > PARALLEL_WEIGHTS;
}

void pg_tiles_pick(const pg_tiles *tiles, int64_t channels, const float *all,
                   const int32_t *channel, int64_t count, float *packed) {
#pragma omp parallel for schedule(static) if (is_much(tiles, count))
    for (int64_t i = 0; i < tiles->count * tiles->taps; i++) {
        int64_t tile = i / tiles->taps, nth = i % tiles->taps, width = pg_tile_width(tiles, tile);
        const float *from = all + begin_of(tiles, tile, nth, channels);
        float *to = packed + begin_of(tiles, tile, nth, count);
        for (int64_t k = 0; k < count; k++)
            memcpy(to + k * width, from + channel[k] * width, (size_t)width * sizeof *to);
    }
}

/* Lines from channel `first` on of one row of weights, zeros past the last. */
static void take_lines(const pg_conv_lines *lines, const float *from, int64_t first, int64_t width,
                       float *to) {
    for (int64_t c = 0; c < width; c += PG_CONV_LINE) {
        int64_t l = (first + c) / PG_CONV_LINE;
        if (l < lines->n_in)
            memcpy(to + c, from + lines->in[l], PG_CONV_LINE * sizeof *to);
        else
            memset(to + c, 0, PG_CONV_LINE * sizeof *to);
    }
}

void pg_tiles_pick_lines(const pg_tiles *tiles, const pg_conv_lines *lines, const float *all,
                         const int32_t *channel, int64_t count, float *packed) {
#pragma omp parallel for schedule(static) if (is_much(tiles, count))
    for (int64_t i = 0; i < tiles->count * tiles->taps; i++) {
        int64_t tile = i / tiles->taps, nth = i % tiles->taps, width = pg_tile_width(tiles, tile);
        const float *tap = all + lines->tap[tap_of(tiles, nth)];
        float *to = packed + begin_of(tiles, tile, nth, count);
        for (int64_t k = 0; k < count; k++)
            take_lines(lines, tap + lines->out[channel[k]], pg_tile_begin(tiles, tile), width,
                       to + k * width);
    }
}
