/* Ranges and threads as in channel_ops.c. Rounding in integer arithmetic is a handful of vector
 * instructions and hides behind the memory these loops wait for. */
#include "kernels/channel_bf16.h"

#include <string.h>

#include "kernels/simd.h"

enum { RANGE_ELEMENTS = 16384, LANES = 16 };

static int64_t rows_per_range(int64_t channels) {
    int64_t rows = RANGE_ELEMENTS / channels;
    return rows > 0 ? rows : 1;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- the gradient ---- */

/* Elements [first, last) of out and, if `skip`, of g.skip. act and skip are constants in every
 * call: each is a loop without tests. */
static inline __attribute__((always_inline)) void
gradient_loop(int64_t first, int64_t last, pg_bf16_gradient g, bool act, bool skip) {
    const float *d_dst = g.d_dst, *dst = g.dst;
    float lo = g.act.lo, hi = g.act.hi;
#pragma omp simd /* skip may be d_dst: element by element that is right */
    for (int64_t i = first; i < last; i++) {
        float v = d_dst[i];
        if (act)
            v = dst[i] > lo && dst[i] < hi ? v : 0.0f;
        g.out[i] = pg_bf16_round(v);
        if (skip)
            g.skip[i] = v;
    }
}

PG_CLONES static void gradient_range(int64_t first, int64_t last, const pg_bf16_gradient *g) {
    if (g->dst && g->skip)
        gradient_loop(first, last, *g, true, true);
    else if (g->dst)
        gradient_loop(first, last, *g, true, false);
    else
        gradient_loop(first, last, *g, false, g->skip != NULL);
}

void pg_channel_gradient_bf16(int64_t positions, int64_t channels, const pg_bf16_gradient *g) {
    int64_t count = positions * channels;
#pragma omp parallel for schedule(static) if (count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < count; i += RANGE_ELEMENTS)
        gradient_range(i, smaller(i + RANGE_ELEMENTS, count), g);
}

void pg_bf16_round_all(int64_t count, const float *x, pg_bf16 *out) {
    pg_channel_gradient_bf16(1, count, &(pg_bf16_gradient){.d_dst = x, .out = out});
}

/* ---- with group sums ---- */

enum { BLOCK = 256 };

/* What the activation lets through of elements [at, at + count), the unrounded sources of out. */
static inline void pass_block(const pg_bf16_gradient *g, int64_t at, int64_t count, float *v) {
    const float *d_dst = g->d_dst + at;
    memcpy(v, d_dst, (size_t)count * sizeof *v);
    if (g->dst == NULL)
        return;
    const float *dst = g->dst + at;
    float lo = g->act.lo, hi = g->act.hi;
    for (int64_t i = 0; i < count; i++)
        v[i] = dst[i] > lo && dst[i] < hi ? v[i] : 0.0f;
}

static inline void add_block(int64_t count, const float *v, const double *w_high,
                             const double *w_low, double *high, double *low) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int j = 0; j < LANES; j++) {
            high[j] += (double)v[k + j] * w_high[k + j];
            low[j] += (double)v[k + j] * w_low[k + j];
        }
    for (; k < count; k++) {
        high[k % LANES] += (double)v[k] * w_high[k];
        low[k % LANES] += (double)v[k] * w_low[k];
    }
}

PG_CLONES static void sums_range(int64_t first, int64_t last, int64_t channels,
                                 const pg_bf16_gradient *g, const double *w_high,
                                 const double *w_low, double *s_high, double *s_low) {
    float v[BLOCK];
    for (int64_t p = first; p < last; p++) {
        double high[LANES] = {0}, low[LANES] = {0};
        for (int64_t c = 0; c < channels; c += BLOCK) {
            int64_t count = smaller(BLOCK, channels - c), at = p * channels + c;
            pg_bf16 *out = g->out + at;
            pass_block(g, at, count, v);
            for (int64_t i = 0; i < count; i++)
                out[i] = pg_bf16_round(v[i]);
            add_block(count, v, w_high + c, w_low + c, high, low);
            if (g->skip)
                memcpy(g->skip + at, v, (size_t)count * sizeof *v);
        }
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++) {
                high[j] += high[j + half];
                low[j] += low[j + half];
            }
        s_high[p] = high[0];
        s_low[p] = low[0];
    }
}

void pg_channel_gradient_sums_bf16(int64_t positions, int64_t channels, const pg_bf16_gradient *g,
                                   const double *w_high, const double *w_low, double *s_high,
                                   double *s_low) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step)
        sums_range(p, smaller(p + step, positions), channels, g, w_high, w_low, s_high, s_low);
}

/* ---- groups ---- */

PG_CLONES static void scale_range(int64_t first, int64_t last, int64_t channels, const float *scale,
                                  pg_bf16 *x) {
    for (int64_t p = first; p < last; p++) {
        pg_bf16 *row = x + p * channels;
        for (int64_t c = 0; c < channels; c++)
            row[c] = pg_bf16_round(pg_bf16_widen(row[c]) * scale[c]);
    }
}

void pg_channel_scale_bf16(int64_t positions, int64_t channels, const float *scale, pg_bf16 *x) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step)
        scale_range(p, smaller(p + step, positions), channels, scale, x);
}
