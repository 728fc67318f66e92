/* Every function is a serial loop over a range of rows, compiled once per instruction set
 * (PG_CLONES), and a wrapper that deals ranges to the threads. The cut into ranges depends on the
 * shape alone, and where ranges are summed it is done in their order: the team's size cannot show
 * in a result. */
#include "kernels/channel_ops.h"

#include <math.h>
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

/* ---- addition and activation ---- */

PG_CLONES static void add_range(int64_t first, int64_t last, const float *x, float *y) {
    for (int64_t i = first; i < last; i++)
        y[i] += x[i];
}

void pg_channel_add(int64_t count, const float *x, float *y) {
#pragma omp parallel for schedule(static) if (count > RANGE_ELEMENTS)
    for (int64_t i = 0; i < count; i += RANGE_ELEMENTS)
        add_range(i, smaller(i + RANGE_ELEMENTS, count), x, y);
}

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

#define INLINE static inline __attribute__((always_inline))

typedef struct gap_job {
    int64_t channels;
    float *y;
    const float *shift, *inverse;
    pg_act_range act;
} gap_job;

/* What is done to the values besides: constants of the loops. */
typedef struct gap_kind {
    bool shifted, clamp;
} gap_kind;

INLINE float gap_one(gap_job job, float *at, int64_t channel, gap_kind kind) {
    float v = *at, z = kind.shifted ? (v - job.shift[channel]) * job.inverse[channel] : v;
    if (kind.clamp) {
        v = v < job.act.lo ? job.act.lo : v;
        *at = v > job.act.hi ? job.act.hi : v;
    }
    return z > 0.0f ? z : 0.0f;
}

/* (`job` by value: stores to y cannot change it.) Four rows at a time: their float sum is rounded
 * three times, and the double one is read and written once. */
INLINE void add_gaps(int64_t first, int64_t last, gap_job job, gap_kind kind, double *sum) {
    int64_t channels = job.channels, p = first;
    for (; p + 4 <= last; p += 4) {
        float *restrict a = job.y + p * channels, *restrict b = a + channels;
        float *restrict c = b + channels, *restrict d = c + channels;
#pragma omp simd
        for (int64_t i = 0; i < channels; i++) {
            float ab = gap_one(job, a + i, i, kind) + gap_one(job, b + i, i, kind);
            float cd = gap_one(job, c + i, i, kind) + gap_one(job, d + i, i, kind);
            sum[i] += (double)(ab + cd);
        }
    }
    for (; p < last; p++) {
        float *row = job.y + p * channels;
#pragma omp simd
        for (int64_t i = 0; i < channels; i++)
            sum[i] += (double)gap_one(job, row + i, i, kind);
    }
}

/* Writing costs as much as reading: only where there is something to clamp. */
PG_CLONES static void gap_range(int64_t first, int64_t last, const gap_job *job, double *sum) {
    bool clamp = !(isinf(job->act.lo) && isinf(job->act.hi));
    if (job->shift && clamp)
        add_gaps(first, last, *job, (gap_kind){true, true}, sum);
    else if (job->shift)
        add_gaps(first, last, *job, (gap_kind){true, false}, sum);
    else if (clamp)
        add_gaps(first, last, *job, (gap_kind){false, true}, sum);
    else
        add_gaps(first, last, *job, (gap_kind){false, false}, sum);
}

/* The ranges' sums, in their order, in the first one's place. */
PG_CLONES static void add_ranges(int64_t ranges, int64_t channels, double *restrict sums) {
    for (int64_t r = 1; r < ranges; r++) {
        const double *range = sums + r * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; c++)
            sums[c] += range[c];
    }
}

void pg_channel_gap(int64_t positions, int64_t channels, float *y, const float *skip,
                    const float *shift, const float *inverse, pg_act_range act, void *scratch,
                    float *gap) {
    const pg_act_range none = {-INFINITY, INFINITY}, now = skip ? none : act;
    int64_t rows = gap_rows(positions, channels), ranges = gap_ranges(positions, channels);
    double *sums = scratch; /* [ranges, channels] */
    const gap_job job = {channels, y, shift, inverse, now};
    memset(sums, 0, (size_t)(ranges * channels) * sizeof *sums);
#pragma omp parallel for schedule(static) if (ranges > 1)
    for (int64_t r = 0; r < ranges; r++) {
        int64_t first = r * rows, last = smaller(first + rows, positions);
        gap_range(first, last, &job, sums + r * channels);
        if (skip) /* while the range is in the cache */
            add_act_range(first * channels, last * channels, y, skip, act.lo, act.hi);
    }
    add_ranges(ranges, channels, sums);
    for (int64_t c = 0; c < channels; c++)
        gap[c] = (float)(sums[c] / (double)positions);
}
