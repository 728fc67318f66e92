/* Sizes and numbers for the tests of loops over [positions, channels]. */
#ifndef PG_TESTS_KERNEL_CHANNEL_NOISE_H
#define PG_TESTS_KERNEL_CHANNEL_NOISE_H

#include <stdint.h>

#include "kernels/mem.h"

/* Around every vector width and thread cut. */
static const int64_t sizes[][2] = {{1, 1},   {1, 512},  {49, 2048}, {3, 17},   {7, 15},
                                   {64, 16}, {100, 33}, {3136, 64}, {12544, 3}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static uint64_t seed = 7;

static inline float noise(void) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(int64_t)(seed >> 11) / 4503599627370496.0 - 1.0);
}

static inline float *noises(int64_t n) {
    float *v = pg_malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = noise();
    return v;
}

#endif
