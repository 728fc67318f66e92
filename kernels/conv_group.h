/* The innermost loop of dense convolutions by kernels of our own: some positions meet the weights
 * of some channels, and the sums stay in registers meanwhile. For processors with AVX-512;
 * elsewhere it is not to be called (pg_group_possible). */
#ifndef PG_KERNELS_CONV_GROUP_H
#define PG_KERNELS_CONV_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/vector.h"

/* A group is up to 6 positions of a tile of 4 vectors, or up to 8 of fewer: 24 sums, the weights
 * and an input fit the registers. */
enum { PG_GROUP_VECTORS = 4, PG_GROUP_POSITIONS = 8, PG_TILE_MAX = PG_GROUP_VECTORS * PG_LANES };

/* sums[p] += sum over rows r, k < channels of weights[r][k] in[p][r pitch_in + k], for a tile. */
typedef struct pg_group {
    const float *weights; /* [rows][channels][tile] */
    const float *fetch;   /* [fetch_channels][tile] for later, fetched in between, or NULL */
    int64_t rows, channels, fetch_channels;
    const float *in[PG_GROUP_POSITIONS];
    int64_t pitch_in;
    int64_t position[PG_GROUP_POSITIONS]; /* of the sums */
    float *sums;                          /* [positions][tile] */
    const float *start;                   /* [tile] what sums begin with; NULL: what stands there */
    bool ends;                            /* the results go to out, not to sums */
    float *out;                           /* [positions][pitch] */
    const float *skip;                    /* the same, or NULL: to be added */
    int64_t pitch;
    float lo, hi; /* and what comes out is clamped to */
} pg_group;

bool pg_group_possible(void);

/* Positions of a group at most. */
static inline int64_t pg_group_most(int64_t vectors) {
    return vectors == PG_GROUP_VECTORS ? 6 : PG_GROUP_POSITIONS;
}

/* vectors: of the tile. */
void pg_group_add(const pg_group *group, int64_t positions, int64_t vectors);

/* What `ends` does, for positions first to last of sums, and of a tile the first `count` channels.
 */
void pg_group_end(const pg_group *group, int64_t first, int64_t last, int64_t vectors,
                  int64_t count);

/* Output channels in tiles: vectors of a tile differ by one at most. */
typedef struct pg_tiles {
    int64_t channels, vectors, count;
} pg_tiles;

pg_tiles pg_tiles_of(int64_t channels,
                     bool even); /* even: an even number of them, for two threads */

static inline int64_t pg_tile_begin(const pg_tiles *t, int64_t tile) { /* its first vector */
    int64_t more = t->vectors % t->count;
    return tile * (t->vectors / t->count) + (tile < more ? tile : more);
}

static inline int64_t pg_tile_vectors(const pg_tiles *t, int64_t tile) {
    return t->vectors / t->count + (tile < t->vectors % t->count);
}

/* Its channels, without those that fill the last vector up. */
static inline int64_t pg_tile_channels(const pg_tiles *t, int64_t tile) {
    int64_t first = pg_tile_begin(t, tile) * PG_LANES, width = pg_tile_vectors(t, tile) * PG_LANES;
    return width < t->channels - first ? width : t->channels - first;
}

#endif
