/* Ranges and threads as in channel_ops.c. Rounding in integer arithmetic is a handful of vector
 * instructions and hides behind the memory these loops wait for. */
#include "kernels/channel_bf16.h"

#include "kernels/simd.h"

enum { RANGE_ELEMENTS = 16384, LANES = 16 };

static int64_t rows_per_range(int64_t channels) {
    int64_t rows = RANGE_ELEMENTS / channels;
    return rows > 0 ? rows : 1;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- the gradient ---- */

/* What the activation lets through; without one (dst NULL) everything, infinities included. The
 * compiler makes two loops of it. */
static inline float passed(const float *d_dst, const float *dst, float lo, float hi, int64_t i) {
    return dst == NULL || (dst[i] > lo && dst[i] < hi) ? d_dst[i] : 0.0f;
}

PG_CLONES static void gradient_range(int64_t first, int64_t last, const float *d_dst,
                                     const float *dst, float lo, float hi, pg_bf16 *out) {
    for (int64_t i = first; i < last; i++)
        out[i] = pg_bf16_round(passed(d_dst, dst, lo, hi, i));
}

void pg_channel_gradient_bf16(int64_t positions, int64_t channels, const float *d_dst,
                              const float *dst, pg_act_range act, pg_bf16 *out) {
    int64_t count = positions * channels;
#pragma omp parallel for schedule(static) if (count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < count; i += RANGE_ELEMENTS)
        gradient_range(i, smaller(i + RANGE_ELEMENTS, count), d_dst, dst, act.lo, act.hi, out);
}

/* ---- with group sums ---- */

PG_CLONES static void sums_range(int64_t first, int64_t last, int64_t channels, const float *d_dst,
                                 const float *dst, float lo, float hi, const double *w_high,
                                 const double *w_low, pg_bf16 *out, double *s_high,
                                 double *s_low) {
    for (int64_t p = first; p < last; p++) {
        const float *row = d_dst + p * channels, *y = dst ? dst + p * channels : NULL;
        pg_bf16 *o = out + p * channels;
        double high[LANES] = {0}, low[LANES] = {0};
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            for (int j = 0; j < LANES; j++) {
                float v = passed(row, y, lo, hi, c + j);
                o[c + j] = pg_bf16_round(v);
                high[j] += (double)v * w_high[c + j];
                low[j] += (double)v * w_low[c + j];
            }
        for (; c < channels; c++) {
            float v = passed(row, y, lo, hi, c);
            o[c] = pg_bf16_round(v);
            high[c % LANES] += (double)v * w_high[c];
            low[c % LANES] += (double)v * w_low[c];
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

void pg_channel_gradient_sums_bf16(int64_t positions, int64_t channels, const float *d_dst,
                                   const float *dst, pg_act_range act, const double *w_high,
                                   const double *w_low, pg_bf16 *out, double *s_high,
                                   double *s_low) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step)
        sums_range(p, smaller(p + step, positions), channels, d_dst, dst, act.lo, act.hi, w_high,
                   w_low, out, s_high, s_low);
}

/* ---- groups ---- */

PG_CLONES static void scale_range(int64_t first, int64_t last, int64_t channels,
                                  const float *scale, pg_bf16 *x) {
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

PG_CLONES static void gather_range(int64_t first, int64_t last, int64_t channels, const pg_bf16 *x,
                                   const int32_t *index, int64_t kept, int64_t width, float scale,
                                   pg_bf16 *out) {
    for (int64_t p = first; p < last; p++) {
        const pg_bf16 *row = x + p * channels;
        pg_bf16 *o = out + p * width;
        for (int64_t k = 0; k < kept; k++)
            o[k] = pg_bf16_round(scale * pg_bf16_widen(row[index[k]]));
        for (int64_t k = kept; k < width; k++)
            o[k] = 0;
    }
}

void pg_channel_gather_bf16(int64_t positions, int64_t channels, const pg_bf16 *x,
                            const int32_t *index, int64_t kept, int64_t width, float scale,
                            pg_bf16 *out) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step)
        gather_range(p, smaller(p + step, positions), channels, x, index, kept, width, scale, out);
}
