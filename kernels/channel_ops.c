/* Every function is a serial loop over a range of rows, compiled once per instruction set
 * (PG_CLONES), and a wrapper that deals ranges to the threads. The cut into ranges depends on the
 * shape alone, and where ranges are summed it is done in their order: the team's size cannot show
 * in a result. */
#include "kernels/channel_ops.h"

#include <string.h>

#include "kernels/simd.h"

/* Below this many elements a second thread costs more than it brings (a barrier is some
 * microseconds, and so is this much work). */
enum { RANGE_ELEMENTS = 16384, GAP_RANGES = 32 };

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

void pg_channel_gap(int64_t positions, int64_t channels, float *y, const float *shift,
                    const float *inverse, pg_act_range act, void *scratch, float *gap) {
    int64_t rows = gap_rows(positions, channels), ranges = gap_ranges(positions, channels);
    double *sums = scratch; /* [ranges, channels] */
    memset(sums, 0, (size_t)(ranges * channels) * sizeof *sums);
#pragma omp parallel for schedule(static) if (ranges > 1)
    for (int64_t r = 0; r < ranges; r++)
        gap_range(r * rows, smaller((r + 1) * rows, positions), channels, y, shift, inverse, act.lo,
                  act.hi, sums + r * channels);
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0;
        for (int64_t r = 0; r < ranges; r++)
            sum += sums[r * channels + c];
        gap[c] = (float)(sum / (double)positions);
    }
}
