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
enum { PG_GROUP_VECTORS = 4, PG_GROUP_POSITIONS = 8, PG_GROUP_WIDTH = PG_GROUP_VECTORS * PG_LANES };

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

#endif
