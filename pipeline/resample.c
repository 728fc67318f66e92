/* Weights: a triangle of half-width max(1, in / scaled) around the output pixel's centre, sampled
 * at the input pixels' centres and normalised to 1 in double, then rounded to fixed point. Pixels
 * are sums of weight x value + one half, shifted down: bilinear weights are never negative and sum
 * to 1 within rounding, so only the upper end needs clipping. */
#include "pipeline/resample.h"

#include <math.h>
#include <string.h>

#include "kernels/simd.h"

enum {
    FIXED_BITS = 22,
    HALF = 1 << (FIXED_BITS - 1),
    PARALLEL_FROM = 1 << 14 /* bytes made; below, a team costs more than it saves */
};

void pg_axis_free(pg_axis *axis) {
    pg_buffer_free(&axis->first);
    pg_buffer_free(&axis->count);
    pg_buffer_free(&axis->weights);
    *axis = (pg_axis){.in = 0};
}

static double triangle(double x) { return fabs(x) < 1 ? 1 - fabs(x) : 0; }

static void plan_pixel(pg_axis *axis, int64_t i, double scale, double support) {
    int32_t *first = axis->first.data, *count = axis->count.data;
    int32_t *weights = (int32_t *)axis->weights.data + i * axis->taps;
    int64_t position = i + axis->offset;
    first[i] = count[i] = 0;
    if (position < 0 || position >= axis->scaled)
        return;
    double centre = ((double)position + 0.5) * scale;
    int64_t low = (int64_t)(centre - support + 0.5), high = (int64_t)(centre + support + 0.5);
    low = low < 0 ? 0 : low;
    high = high > axis->in ? axis->in : high;
    double sum = 0, inverse = 1 / support;
    for (int64_t x = low; x < high; x++)
        sum += triangle(((double)x - centre + 0.5) * inverse);
    for (int64_t x = low; x < high; x++) {
        double w = triangle(((double)x - centre + 0.5) * inverse);
        w = sum != 0 ? w / sum : w;
        weights[x - low] = (int32_t)(0.5 + w * (1 << FIXED_BITS));
    }
    first[i] = (int32_t)low;
    count[i] = (int32_t)(high - low);
}

bool pg_axis_plan(pg_axis *axis, int64_t in, int64_t scaled, int64_t offset, int64_t out) {
    if (axis->in == in && axis->scaled == scaled && axis->offset == offset && axis->out == out)
        return true;
    axis->in = 0; /* until the plan is complete */
    double scale = (double)in / (double)scaled, support = scale < 1 ? 1 : scale;
    int taps = (int)ceil(support) * 2 + 1;
    size_t n = (size_t)out;
    if (!pg_buffer_reserve(&axis->first, n * sizeof(int32_t)) ||
        !pg_buffer_reserve(&axis->count, n * sizeof(int32_t)) ||
        !pg_buffer_reserve(&axis->weights, n * (size_t)taps * sizeof(int32_t)))
        return false;
    axis->scaled = scaled;
    axis->offset = offset;
    axis->out = out;
    axis->taps = taps;
    axis->in = in;
    for (int64_t i = 0; i < out; i++) {
        if (in != scaled) {
            plan_pixel(axis, i, scale, support);
            continue;
        }
        int64_t x = i + offset;
        bool inside = x >= 0 && x < in;
        ((int32_t *)axis->first.data)[i] = inside ? (int32_t)x : 0;
        ((int32_t *)axis->count.data)[i] = inside;
        ((int32_t *)axis->weights.data)[i * taps] = 1 << FIXED_BITS;
    }
    return true;
}

void pg_axis_range(const pg_axis *axis, int64_t *begin, int64_t *end) {
    const int32_t *first = axis->first.data, *count = axis->count.data;
    *begin = axis->in;
    *end = 0;
    for (int64_t i = 0; i < axis->out; i++) {
        if (count[i] == 0)
            continue;
        *begin = first[i] < *begin ? first[i] : *begin;
        *end = first[i] + count[i] > *end ? first[i] + count[i] : *end;
    }
    if (*end == 0)
        *begin = 0;
}

static uint8_t clip(int32_t sum) {
    int32_t v = sum >> FIXED_BITS;
    return (uint8_t)(v > 255 ? 255 : v);
}

static void row_of_3(const pg_axis *axis, const uint8_t *src, uint8_t *dst) {
    const int32_t *first = axis->first.data, *count = axis->count.data;
    for (int64_t i = 0; i < axis->out; i++) {
        const int32_t *w = (const int32_t *)axis->weights.data + i * axis->taps;
        const uint8_t *p = src + 3 * (int64_t)first[i];
        int32_t s0 = HALF, s1 = HALF, s2 = HALF;
        for (int32_t k = 0; k < count[i]; k++) {
            s0 += w[k] * p[3 * k];
            s1 += w[k] * p[3 * k + 1];
            s2 += w[k] * p[3 * k + 2];
        }
        dst[3 * i] = clip(s0);
        dst[3 * i + 1] = clip(s1);
        dst[3 * i + 2] = clip(s2);
    }
}

/* An axis that only crops. */
static void copy_row(const pg_axis *axis, const uint8_t *src, uint8_t *dst) {
    int64_t begin = axis->offset < 0 ? -axis->offset : 0, end = axis->in - axis->offset;
    end = end < axis->out ? end : axis->out;
    memset(dst, 0, (size_t)(3 * axis->out)); /* black where there is no picture */
    if (begin < end)
        memcpy(dst + 3 * begin, src + 3 * (begin + axis->offset), (size_t)(3 * (end - begin)));
}

static void row_of_1(const pg_axis *axis, const uint8_t *src, uint8_t *dst) {
    const int32_t *first = axis->first.data, *count = axis->count.data;
    for (int64_t i = 0; i < axis->out; i++) {
        const int32_t *w = (const int32_t *)axis->weights.data + i * axis->taps;
        int32_t s = HALF;
        for (int32_t k = 0; k < count[i]; k++)
            s += w[k] * src[first[i] + k];
        memset(dst + 3 * i, clip(s), 3);
    }
}

void pg_resample_rows(const pg_axis *axis, const uint8_t *src, int64_t stride, int channels,
                      bool reverse, int64_t rows, uint8_t *dst) {
    int64_t row_bytes = 3 * axis->out;
#pragma omp parallel for schedule(static) if (rows * row_bytes > PARALLEL_FROM)
    for (int64_t y = 0; y < rows; y++) {
        const uint8_t *from = src + y * stride;
        uint8_t *to = dst + y * row_bytes;
        if (channels == 1)
            row_of_1(axis, from, to);
        else if (axis->in == axis->scaled)
            copy_row(axis, from, to);
        else
            row_of_3(axis, from, to);
        for (int64_t i = 0; reverse && channels == 3 && i < axis->out; i++) {
            uint8_t swap = to[3 * i];
            to[3 * i] = to[3 * i + 2];
            to[3 * i + 2] = swap;
        }
    }
}

/* dst[x] = sum over k of w[k] * src[k * row_bytes + x] */
PG_CLONES static void column_sums(const int32_t *w, int32_t count, const uint8_t *src,
                                  int64_t row_bytes, uint8_t *dst) {
    enum { BLOCK = 512 };
    int32_t sums[BLOCK];
    for (int64_t x0 = 0; x0 < row_bytes; x0 += BLOCK) {
        int64_t n = row_bytes - x0 < BLOCK ? row_bytes - x0 : BLOCK;
        for (int64_t x = 0; x < n; x++)
            sums[x] = HALF;
        for (int32_t k = 0; k < count; k++)
            for (int64_t x = 0; x < n; x++)
                sums[x] += w[k] * src[k * row_bytes + x0 + x];
        for (int64_t x = 0; x < n; x++)
            dst[x0 + x] = clip(sums[x]);
    }
}

void pg_resample_columns(const pg_axis *axis, const uint8_t *src, int64_t begin, int64_t row_bytes,
                         uint8_t *dst) {
    const int32_t *first = axis->first.data, *count = axis->count.data;
    const int32_t *weights = axis->weights.data;
#pragma omp parallel for schedule(static) if (axis->out * row_bytes > PARALLEL_FROM)
    for (int64_t y = 0; y < axis->out; y++) { /* a black line has no first row */
        const uint8_t *rows = count[y] > 0 ? src + (first[y] - begin) * row_bytes : src;
        column_sums(weights + y * axis->taps, count[y], rows, row_bytes, dst + y * row_bytes);
    }
}
