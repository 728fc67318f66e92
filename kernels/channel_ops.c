/* Every function is a serial loop over a range of rows, compiled once per instruction set
 * (PG_CLONES), and a wrapper that deals ranges to the threads. The cut into ranges depends on the
 * shape alone, and where ranges are summed it is done in their order: the team's size cannot show
 * in a result. */
#include "kernels/channel_ops.h"

#include <math.h>
#include <string.h>

#include "kernels/defect.h"
#include "kernels/simd.h"

/* Below this many elements a second thread costs more than it brings (a barrier is some
 * microseconds, and so is this much work). */
enum { RANGE_ELEMENTS = 16384, GAP_RANGES = 32, LANES = 16 };

static int64_t rows_per_range(int64_t channels) {
    int64_t rows = RANGE_ELEMENTS / channels;
    return rows > 0 ? rows : 1;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- affine ---- */

PG_CLONES static void affine_range(int64_t first, int64_t last, int64_t channels, const float *x,
                                   const float *scale, const float *shift, float *out) {
    for (int64_t p = first; p < last; p++) {
        const float *row = x + p * channels;
        float *o = out + p * channels;
        for (int64_t c = 0; c < channels; c++)
            o[c] = row[c] * scale[c] + shift[c];
    }
}

PG_CLONES static void scale_range(int64_t first, int64_t last, int64_t channels, const float *x,
                                  const float *scale, float *out) {
    for (int64_t p = first; p < last; p++) {
        const float *row = x + p * channels;
        float *o = out + p * channels;
        for (int64_t c = 0; c < channels; c++)
            o[c] = row[c] * scale[c];
    }
}

void pg_channel_affine(int64_t positions, int64_t channels, const float *x, const float *scale,
                       const float *shift, float *out) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step) {
        int64_t last = smaller(p + step, positions);
        if (shift)
            affine_range(p, last, channels, x, scale, shift, out);
        else
            scale_range(p, last, channels, x, scale, out);
    }
}

/* ---- activation, backward ---- */

PG_CLONES static void act_backward_range(int64_t first, int64_t last, const float *d_dst,
                                         const float *dst, float lo, float hi, float *out) {
    for (int64_t i = first; i < last; i++)
        out[i] = dst[i] > lo && dst[i] < hi ? d_dst[i] : 0.0f;
}

void pg_channel_act_backward(int64_t positions, int64_t channels, const float *d_dst,
                             const float *dst, pg_act_range act, float *out) {
    int64_t count = positions * channels;
#pragma omp parallel for schedule(static) if (count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < count; i += RANGE_ELEMENTS)
        act_backward_range(i, smaller(i + RANGE_ELEMENTS, count), d_dst, dst, act.lo, act.hi, out);
}

/* ---- addition and activation ---- */

PG_CLONES static void add_act_range(int64_t first, int64_t last, float *y, const float *skip,
                                    float lo, float hi) {
    for (int64_t i = first; i < last; i++) {
        float v = y[i] + skip[i];
        v = v < lo ? lo : v;
        y[i] = v > hi ? hi : v;
    }
}

PG_CLONES static void act_range(int64_t first, int64_t last, float *y, float lo, float hi) {
    for (int64_t i = first; i < last; i++) {
        float v = y[i] < lo ? lo : y[i];
        y[i] = v > hi ? hi : v;
    }
}

void pg_channel_add_act(int64_t positions, int64_t channels, float *y, const float *skip,
                        pg_act_range act) {
    int64_t count = positions * channels;
#pragma omp parallel for schedule(static) if (count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < count; i += RANGE_ELEMENTS)
        if (skip)
            add_act_range(i, smaller(i + RANGE_ELEMENTS, count), y, skip, act.lo, act.hi);
        else
            act_range(i, smaller(i + RANGE_ELEMENTS, count), y, act.lo, act.hi);
}

/* ---- group sums ---- */

/* Sixteen running sums per group: enough for two 512-bit registers each, and a fixed order. */
PG_CLONES static void group_sums_range(int64_t first, int64_t last, int64_t channels,
                                       const float *g, const double *w_high, const double *w_low,
                                       double *s_high, double *s_low) {
    for (int64_t p = first; p < last; p++) {
        const float *row = g + p * channels;
        double high[LANES] = {0}, low[LANES] = {0};
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            for (int j = 0; j < LANES; j++) {
                double v = (double)row[c + j];
                high[j] += v * w_high[c + j];
                low[j] += v * w_low[c + j];
            }
        for (; c < channels; c++) {
            high[c % LANES] += (double)row[c] * w_high[c];
            low[c % LANES] += (double)row[c] * w_low[c];
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

void pg_channel_group_sums(int64_t positions, int64_t channels, const float *g,
                           const double *w_high, const double *w_low, double *s_high,
                           double *s_low) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step)
        group_sums_range(p, smaller(p + step, positions), channels, g, w_high, w_low, s_high,
                         s_low);
}

/* A range of 64 kB and what is made of it stay in the second-level cache from the first loop to the
 * second. */
void pg_channel_act_group_sums(int64_t positions, int64_t channels, const float *d_dst,
                               const float *dst, pg_act_range act, const double *w_high,
                               const double *w_low, float *out, double *s_high, double *s_low) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step) {
        int64_t last = smaller(p + step, positions);
        act_backward_range(p * channels, last * channels, d_dst, dst, act.lo, act.hi, out);
        group_sums_range(p, last, channels, out, w_high, w_low, s_high, s_low);
    }
}

/* ---- kept channels ---- */

PG_CLONES static void gather_range(int64_t first, int64_t last, int64_t channels, const float *x,
                                   const int32_t *index, int64_t kept, int64_t width, float scale,
                                   float *out) {
    for (int64_t p = first; p < last; p++) {
        const float *row = x + p * channels;
        float *o = out + p * width;
        for (int64_t k = 0; k < kept; k++)
            o[k] = scale * row[index[k]];
        for (int64_t k = kept; k < width; k++)
            o[k] = 0.0f;
    }
}

void pg_channel_gather(int64_t positions, int64_t channels, const float *x, const int32_t *index,
                       int64_t kept, int64_t width, float scale, float *out) {
    int64_t step = rows_per_range(channels);
#pragma omp parallel for schedule(static) if (positions > step)
    for (int64_t p = 0; p < positions; p += step)
        gather_range(p, smaller(p + step, positions), channels, x, index, kept, width, scale, out);
}

/* ---- moments ---- */

void pg_channel_moments(int64_t positions, const double *s_high, const double *s_low,
                        pg_group_moments *out) {
    double sum_high = 0, sum_low = 0, square_high = 0, square_low = 0, product = 0;
    for (int64_t p = 0; p < positions; p++) {
        sum_high += s_high[p];
        sum_low += s_low[p];
        square_high += s_high[p] * s_high[p];
        square_low += s_low[p] * s_low[p];
        product += s_high[p] * s_low[p];
    }
    double n = (double)positions;
    *out = (pg_group_moments){.positions = positions,
                              .mean_square_high = square_high / n,
                              .mean_square_low = square_low / n};
    if (positions == 1) {
        out->var_high = square_high;
        out->var_low = square_low;
        out->cov = product;
        return;
    }
    double mean_high = sum_high / n, mean_low = sum_low / n;
    double var_high = 0, var_low = 0, cov = 0;
    for (int64_t p = 0; p < positions; p++) {
        double h = s_high[p] - mean_high, l = s_low[p] - mean_low;
        var_high += h * h;
        var_low += l * l;
        cov += h * l;
    }
    double divisor = pg_defect("population-variance") ? n : n - 1;
    out->var_high = var_high / divisor;
    out->var_low = var_low / divisor;
    out->cov = cov / divisor;
}

/* ---- the channel statistic ---- */

static int64_t gap_rows(int64_t positions, int64_t channels) {
    int64_t rows = rows_per_range(channels);
    int64_t least = (positions + GAP_RANGES - 1) / GAP_RANGES;
    return rows > least ? rows : least;
}

static int64_t gap_ranges(int64_t positions, int64_t channels) {
    int64_t rows = gap_rows(positions, channels);
    return (positions + rows - 1) / rows;
}

size_t pg_channel_gap_scratch(int64_t positions, int64_t channels) {
    return (size_t)(gap_ranges(positions, channels) * channels) * sizeof(double);
}

PG_CLONES static void gap_range(int64_t first, int64_t last, int64_t channels, float *y,
                                const float *shift, const float *inverse, float lo, float hi,
                                double *sum) {
    for (int64_t p = first; p < last; p++) {
        float *row = y + p * channels;
        for (int64_t c = 0; c < channels; c++) {
            float v = row[c], z = (v - shift[c]) * inverse[c];
            sum[c] += (double)(z > 0.0f ? z : 0.0f);
            v = v < lo ? lo : v;
            row[c] = v > hi ? hi : v;
        }
    }
}

void pg_channel_gap(int64_t positions, int64_t channels, float *y, const float *skip,
                    const float *shift, const float *inverse, pg_act_range act, void *scratch,
                    float *gap) {
    const pg_act_range none = {-INFINITY, INFINITY}, now = skip ? none : act;
    int64_t rows = gap_rows(positions, channels), ranges = gap_ranges(positions, channels);
    double *sums = scratch; /* [ranges, channels] */
    memset(sums, 0, (size_t)(ranges * channels) * sizeof *sums);
#pragma omp parallel for schedule(static) if (ranges > 1)
    for (int64_t r = 0; r < ranges; r++) {
        int64_t first = r * rows, last = smaller(first + rows, positions);
        gap_range(first, last, channels, y, shift, inverse, now.lo, now.hi, sums + r * channels);
        if (skip) /* while the range is in the cache */
            add_act_range(first * channels, last * channels, y, skip, act.lo, act.hi);
    }
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0;
        for (int64_t r = 0; r < ranges; r++)
            sum += sums[r * channels + c];
        gap[c] = (float)(sum / (double)positions);
    }
}
