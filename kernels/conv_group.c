#include "kernels/conv_group.h"

#include <math.h>
#include <string.h>

#include "kernels/simd.h"

enum { FETCH = 16 }; /* channels between two turns of fetching */

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx512f")))
bool pg_group_possible(void) { return __builtin_cpu_supports("avx512f"); }
#else
#define WIDE
bool pg_group_possible(void) { return false; }
#endif
#define INLINE static inline __attribute__((always_inline)) WIDE

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; } /* a >= 0 */

INLINE void end(const pg_group *g, int64_t at, pg_vec *sum, const pg_vec *lo, const pg_vec *hi) {
    if (g->skip)
        *sum += *(const pg_vec_anywhere *)(g->skip + at);
    pg_vec_clamp(sum, lo, hi);
    *(pg_vec_anywhere *)(g->out + at) = *sum;
}

/* Positions and vectors are known where this is inlined. */
INLINE void add_group(const pg_group *g, int positions, int vectors) {
    pg_vec sum[PG_GROUP_POSITIONS][PG_GROUP_VECTORS];
    const pg_vec lo = g->lo - (pg_vec){0}, hi = g->hi - (pg_vec){0};
    const int64_t row = vectors * PG_LANES;
#pragma GCC unroll 8
    for (int p = 0; p < positions; p++) {
        const float *from = g->start ? g->start : g->sums + g->position[p] * row;
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[p][v] = *(const pg_vec *)(from + v * PG_LANES);
    }
    const float *w = g->weights, *fetch = g->fetch, *fetch_end = fetch + g->fetch_channels * row;
    int64_t turns = g->rows * ceil_div(g->channels, FETCH);
    int64_t each = ceil_div(g->fetch_channels, turns) * row;
    for (int64_t r = 0; r < g->rows; r++) {
        const float *in[PG_GROUP_POSITIONS];
#pragma GCC unroll 8
        for (int p = 0; p < positions; p++)
            in[p] = g->in[p] + r * g->pitch_in;
        for (int64_t k = 0; k < g->channels;) {
            for (const float *until = fetch + each; fetch < until && fetch < fetch_end;
                 fetch += PG_LANES)
                __builtin_prefetch(fetch, 0, 2);
            for (int64_t last = smaller(k + FETCH, g->channels); k < last; k++, w += row) {
                pg_vec weight[PG_GROUP_VECTORS];
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++)
                    weight[v] = *(const pg_vec *)(w + v * PG_LANES);
#pragma GCC unroll 8
                for (int p = 0; p < positions; p++) {
                    float x = in[p][k];
#pragma GCC unroll 8
                    for (int v = 0; v < vectors; v++)
                        sum[p][v] += weight[v] * x;
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int p = 0; p < positions; p++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            if (g->ends)
                end(g, g->position[p] * g->pitch + v * PG_LANES, &sum[p][v], &lo, &hi);
            else
                *(pg_vec *)(g->sums + g->position[p] * row + v * PG_LANES) = sum[p][v];
}

/* DO(positions, vectors) for all there are. */
#define SIX(DO, vectors)                                                                           \
    DO(1, vectors) DO(2, vectors) DO(3, vectors) DO(4, vectors) DO(5, vectors) DO(6, vectors)
#define EIGHT(DO, vectors) SIX(DO, vectors) DO(7, vectors) DO(8, vectors)
#define ALL(DO)            EIGHT(DO, 1) EIGHT(DO, 2) EIGHT(DO, 3) SIX(DO, 4)

#define FUNCTION(positions, vectors)                                                               \
    WIDE static void add_##positions##_##vectors(const pg_group *g) {                              \
        add_group(g, positions, vectors);                                                          \
    }
#define ENTRY(positions, vectors) [vectors - 1][positions - 1] = add_##positions##_##vectors,

ALL(FUNCTION)
static void (*const adders[PG_GROUP_VECTORS][PG_GROUP_POSITIONS])(const pg_group *) = {ALL(ENTRY)};

void pg_group_add(const pg_group *group, int64_t positions, int64_t vectors) {
    adders[vectors - 1][positions - 1](group);
}

PG_CLONES static void end_position(const float *sums, const float *skip, int64_t count, float lo,
                                   float hi, float *out) {
    for (int64_t i = 0; i < count; i++) {
        float v = sums[i] + (skip ? skip[i] : 0);
        v = v < lo ? lo : v;
        out[i] = v > hi ? hi : v;
    }
}

void pg_group_end(const pg_group *g, int64_t first, int64_t last, int64_t vectors, int64_t count) {
    for (int64_t p = first; p < last; p++)
        end_position(g->sums + p * vectors * PG_LANES, g->skip ? g->skip + p * g->pitch : NULL,
                     count, g->lo, g->hi, g->out + p * g->pitch);
}
