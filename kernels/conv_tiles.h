/* Weights of a dense convolution as our own kernels meet them (conv_group.h): the channels that
 * come out lie in tiles of up to 64, and for each tile the weights in the order in which it needs
 * them,
 *
 *   [tile][tap][channel summed over][channel of the tile]
 *
 * taps first to last, or reversed. Channels that fill the last vector up have weights 0. */
#ifndef PG_KERNELS_CONV_TILES_H
#define PG_KERNELS_CONV_TILES_H

#include "kernels/conv_group.h"
#include "kernels/conv_lines.h"
#include "kernels/conv_path.h"

/* Vectors of a tile differ by one at most. */
typedef struct pg_tiles {
    int64_t channels, vectors, count; /* count: of tiles */
    int64_t taps;
    bool reversed;
} pg_tiles;

/* even: an even number of them, for two threads, if there are vectors enough. */
pg_tiles pg_tiles_of(int64_t channels, bool even, int64_t taps, bool reversed);

static inline int64_t pg_tile_begin(const pg_tiles *t, int64_t tile) { /* its first channel */
    int64_t more = t->vectors % t->count;
    return (tile * (t->vectors / t->count) + (tile < more ? tile : more)) * PG_LANES;
}

static inline int64_t pg_tile_vectors(const pg_tiles *t, int64_t tile) {
    return t->vectors / t->count + (tile < t->vectors % t->count);
}

static inline int64_t pg_tile_width(const pg_tiles *t, int64_t tile) {
    return pg_tile_vectors(t, tile) * PG_LANES;
}

/* Its channels, without those that fill the last vector up. */
static inline int64_t pg_tile_channels(const pg_tiles *t, int64_t tile) {
    int64_t rest = t->channels - pg_tile_begin(t, tile), width = pg_tile_width(t, tile);
    return width < rest ? width : rest;
}

/* Bytes of the weights with `summed` channels summed over. */
size_t pg_tiles_bytes(const pg_tiles *tiles, int64_t summed);

/* From [out_c, in_c, k_h, k_w] of the convolution; backward: it is out_c that is summed over. */
void pg_tiles_pack(const pg_tiles *tiles, const pg_conv_geometry *geometry, bool backward,
                   const float *plain, float *packed);

/* Backward: the weights of `count` of the channels summed over, channel[k], out of those of all
 * `channels`; or out of what another path has packed. */
void pg_tiles_pick(const pg_tiles *tiles, int64_t channels, const float *all,
                   const int32_t *channel, int64_t count, float *packed);
void pg_tiles_pick_lines(const pg_tiles *tiles, const pg_conv_lines *lines, const float *all,
                         const int32_t *channel, int64_t count, float *packed);

#endif
