#include "pipeline/map.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"

pg_err pg_map_scratch_create(int64_t height, int64_t width, double sigma, pg_map_scratch *out,
                             pg_diag *diag) {
    *out = (pg_map_scratch){.height = height, .width = width};
    if (!(sigma >= 0 && sigma <= 100))
        return pg_fail(diag, PG_ECONFIG, "explain.smooth must be 0 to 100 pixels");
    out->radius = sigma > 0 ? (int)(4 * sigma + 0.5) : 0;
    out->kernel = pg_calloc((size_t)out->radius + 1, sizeof *out->kernel);
    out->values = pg_calloc((size_t)(height * width) * 2, sizeof *out->values);
    if (!out->kernel || !out->values) {
        pg_map_scratch_destroy(out);
        return pg_fail(diag, PG_ENOMEM, "no memory for a map");
    }
    double sum = 0;
    for (int i = -out->radius; i <= out->radius; i++)
        sum += sigma > 0 ? exp(-0.5 * i * i / (sigma * sigma)) : 1;
    for (int i = 0; i <= out->radius; i++)
        out->kernel[i] = (float)((sigma > 0 ? exp(-0.5 * i * i / (sigma * sigma)) : 1) / sum);
    return PG_OK;
}

void pg_map_scratch_destroy(pg_map_scratch *scratch) {
    pg_free(scratch->kernel);
    pg_free(scratch->values);
    *scratch = (pg_map_scratch){.height = 0};
}

enum { RANGE = 1 << 11 }; /* pixels a thread takes at a time; more than that are for a team */

/* One loop per way of reducing, so that each becomes vectors; what the input has, three channels or
 * one. */
static inline void reduce_three(pg_reduce reduce, const float *a, int64_t pixel, int64_t plane,
                                int64_t area, float *map) {
    const float *b = a + plane, *c = b + plane;
    if (reduce == PG_REDUCE_SUM)
        for (int64_t i = 0; i < area; i++)
            map[i] = a[i * pixel] + b[i * pixel] + c[i * pixel];
    else if (reduce == PG_REDUCE_MAX_ABS)
        for (int64_t i = 0; i < area; i++) {
            float x = fabsf(a[i * pixel]), y = fabsf(b[i * pixel]), z = fabsf(c[i * pixel]);
            x = y > x ? y : x;
            map[i] = z > x ? z : x;
        }
    else
        for (int64_t i = 0; i < area; i++)
            map[i] = fabsf(a[i * pixel]) + fabsf(b[i * pixel]) + fabsf(c[i * pixel]);
    if (reduce == PG_REDUCE_MEAN_ABS)
        for (int64_t i = 0; i < area; i++)
            map[i] /= 3;
}

PG_CLONES static void reduce_plain(pg_reduce reduce, const float *from, int64_t plane, int64_t area,
                                   float *map) {
    reduce_three(reduce, from, 1, plane, area, map);
}

PG_CLONES static void reduce_last(pg_reduce reduce, const float *from, int64_t area, float *map) {
    reduce_three(reduce, from, 3, 1, area, map);
}

void pg_map_reduce(pg_reduce reduce, const float *attribution, pg_layout layout, int64_t channels,
                   int64_t area, float *map) {
    pg_assert(channels == 3 || channels == 1);
#pragma omp parallel for schedule(static) if (area > RANGE)
    for (int64_t begin = 0; begin < area; begin += RANGE) {
        int64_t count = area - begin < RANGE ? area - begin : RANGE;
        const float *plain = attribution + begin;
        if (channels == 1)
            for (int64_t i = 0; i < count; i++)
                map[begin + i] = reduce == PG_REDUCE_SUM ? plain[i] : fabsf(plain[i]);
        else if (layout == PG_PLAIN)
            reduce_plain(reduce, plain, area, count, map + begin);
        else
            reduce_last(reduce, attribution + 3 * begin, count, map + begin);
    }
}

/* Place i of `out` on a line of `in`: between *low and *low + *step, *share of the way. */
static void place(int64_t i, int64_t in, int64_t out, bool corners, int64_t *low, int64_t *step,
                  float *share) {
    double at = corners ? out > 1 ? (double)(i * (in - 1)) / (double)(out - 1) : 0
                        : ((double)i + 0.5) * (double)in / (double)out - 0.5;
    at = at < 0 ? 0 : at;
    *low = (int64_t)at < in - 1 ? (int64_t)at : in - 1;
    *step = *low + 1 < in ? 1 : 0;
    *share = (float)(at - (double)*low);
}

void pg_map_enlarge(const float *src, int64_t h, int64_t w, bool corners, float *map,
                    int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; y++) {
        int64_t top, down;
        float fy;
        place(y, h, height, corners, &top, &down, &fy);
        const float *upper = src + top * w, *lower = upper + down * w;
        for (int64_t x = 0; x < width; x++) {
            int64_t left, right;
            float fx;
            place(x, w, width, corners, &left, &right, &fx);
            float a = upper[left] + fx * (upper[left + right] - upper[left]);
            float b = lower[left] + fx * (lower[left + right] - lower[left]);
            map[y * width + x] = a + fy * (b - a);
        }
    }
}

/* ... c b a | a b c d | d c b ... for any distance from the line */
static int64_t mirror(int64_t i, int64_t n) {
    int64_t period = 2 * n;
    i = (i % period + period) % period;
    return i < n ? i : period - 1 - i;
}

/* One line of n values, `step` apart, from src to dst. */
static void smooth_line(const pg_map_scratch *s, const float *src, float *dst, int64_t n,
                        int64_t step) {
    for (int64_t i = 0; i < n; i++) {
        float sum = s->kernel[0] * src[i * step];
        bool inside = i >= s->radius && i + s->radius < n;
        for (int64_t k = 1; k <= s->radius; k++) {
            int64_t a = inside ? i - k : mirror(i - k, n), b = inside ? i + k : mirror(i + k, n);
            sum += s->kernel[k] * (src[a * step] + src[b * step]);
        }
        dst[i * step] = sum;
    }
}

void pg_map_smooth(const pg_map_scratch *s, float *map) {
    if (s->radius == 0)
        return;
#pragma omp parallel for schedule(static) if (s->height * s->width > RANGE)
    for (int64_t x = 0; x < s->width; x++)
        smooth_line(s, map + x, s->values + x, s->height, s->width);
#pragma omp parallel for schedule(static) if (s->height * s->width > RANGE)
    for (int64_t y = 0; y < s->height; y++)
        smooth_line(s, s->values + y * s->width, map + y * s->width, s->width, 1);
}

/* x - x is 0, or NaN. */
PG_CLONES bool pg_map_finite(const float *map, int64_t count) {
    int bad = 0;
    for (int64_t i = 0; i < count; i++)
        bad |= map[i] - map[i] != 0;
    return !bad;
}

/* How much of pixel i (from i to i + 1) lies between begin and end. */
static double covered(int64_t i, double begin, double end) {
    double low = fmax((double)i, begin), high = fmin((double)i + 1, end);
    return high > low ? high - low : 0;
}

double pg_map_mass_in(const float *map, int64_t height, int64_t width, const double transform[6],
                      const double roi[4]) {
    double x0 = (roi[0] - transform[2]) / transform[0];
    double x1 = (roi[0] + roi[2] - transform[2]) / transform[0];
    double y0 = (roi[1] - transform[5]) / transform[4];
    double y1 = (roi[1] + roi[3] - transform[5]) / transform[4];
    double total = 0, inside = 0;
    for (int64_t y = 0; y < height; y++) {
        double rows = covered(y, y0, y1);
        for (int64_t x = 0; x < width; x++) {
            double v = fabs((double)map[y * width + x]);
            total += v;
            if (rows > 0)
                inside += v * rows * covered(x, x0, x1);
        }
    }
    return total > 0 ? inside / total : 0;
}

void pg_map_heat(pg_show show, int64_t count, float *map) {
    float low = show == PG_SHOW_RANGE && count > 0 ? map[0] : 0;
    for (int64_t i = 0; show == PG_SHOW_RANGE && i < count; i++)
        low = map[i] < low ? map[i] : low;
    for (int64_t i = 0; i < count; i++) {
        float v = show == PG_SHOW_MAGNITUDE ? fabsf(map[i]) : map[i] - low;
        map[i] = v > 0 ? v : 0;
    }
}

/* Blue, cyan, yellow, red: three ramps, each a quarter apart from the next. */
static float ramp(float v, float centre) {
    float r = 1.5f - fabsf(4 * v - centre);
    return r < 0 ? 0 : r > 1 ? 1 : r;
}

void pg_map_overlay(const float *heat, double full, const uint8_t *rgb, int64_t count,
                    uint8_t *out) {
    const float most = 0.7f; /* how much of the picture the hottest spot may hide */
    float scale = full > 0 ? (float)(1 / full) : 0;
    scale = isfinite(scale) ? scale : 0;
    for (int64_t i = 0; i < count; i++) {
        float v = heat[i] * scale;
        v = v > 1 ? 1 : v;
        float cover = most * (v < 0.5f ? 2 * v * (1.5f - v) : 1); /* weak heat hides little */
        const float colour[3] = {ramp(v, 3), ramp(v, 2), ramp(v, 1)};
        for (int c = 0; c < 3; c++) {
            float p = (1 - cover) * (float)rgb[3 * i + c] + cover * 255 * colour[c];
            out[3 * i + c] = (uint8_t)(p + 0.5f);
        }
    }
}
