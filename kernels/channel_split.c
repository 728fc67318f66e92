/* The pass is bound by memory, not by arithmetic: a gradient that comes from the cache behind the
 * second level arrives at some five bytes a cycle, in which time its sums can be double. What
 * matters is that it is read once. `omp simd` lets the compiler keep a sum in one vector register;
 * the order of its terms then depends on the instruction set, never on the number of threads.
 *
 * Every function is a serial loop over a range of rows and a wrapper that deals ranges to the
 * threads, as in channel_ops.c. The loops over one row are forced inline, so that they are compiled
 * with the instruction set of the clone they stand in. */
#include "kernels/channel_split.h"

#include "kernels/defect.h"
#include "kernels/simd.h"

#define ROW static inline __attribute__((always_inline))

/* Below this many elements a second thread costs more than it brings. */
enum { RANGE_ELEMENTS = 16384 };

static int64_t rows_per_range(int64_t channels) {
    int64_t rows = RANGE_ELEMENTS / channels;
    return rows > 0 ? rows : 1;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- rows ---- */

/* Without a branch, so that loops around it become vectors. */
ROW float through(float g, float y, pg_act_range act) {
    return ((y > act.lo) & (y < act.hi)) ? g : 0.0f;
}

typedef struct two_sums {
    double a, b;
} two_sums;

/* a: weighted by `scale`, b: by `high`. */
ROW two_sums row_through(const float *g, const float *y, pg_act_range act, const float *scale,
                         const float *high, int64_t n, float *out) {
    double a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int64_t c = 0; c < n; c++) {
        float v = through(g[c], y[c], act);
        out[c] = v;
        a += (double)(v * scale[c]);
        b += (double)(v * high[c]);
    }
    return (two_sums){a, b};
}

ROW two_sums row_plain(const float *g, const float *scale, const float *high, int64_t n) {
    double a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int64_t c = 0; c < n; c++) {
        a += (double)(g[c] * scale[c]);
        b += (double)(g[c] * high[c]);
    }
    return (two_sums){a, b};
}

ROW double row_total(const float *g, const float *y, pg_act_range act, const float *scale,
                     int64_t n) {
    double a = 0;
    if (y) {
#pragma omp simd reduction(+ : a)
        for (int64_t c = 0; c < n; c++)
            a += (double)(through(g[c], y[c], act) * scale[c]);
    } else {
#pragma omp simd reduction(+ : a)
        for (int64_t c = 0; c < n; c++)
            a += (double)(g[c] * scale[c]);
    }
    return a;
}

ROW double row_total_through(const float *g, const float *y, pg_act_range act, const float *scale,
                             int64_t n, float *out) {
    double a = 0;
#pragma omp simd reduction(+ : a)
    for (int64_t c = 0; c < n; c++) {
        out[c] = through(g[c], y[c], act);
        a += (double)(out[c] * scale[c]);
    }
    return a;
}

/* a: weighted by `low`, b: by `high`. */
ROW two_sums row_pick(const float *g, const float *y, pg_act_range act, const pg_split_pick *pick,
                      float *restrict out) {
    const int32_t *from = pick->from, *channel = pick->channel;
    const float *low = pick->low, *high = pick->high;
    double a = 0, b = 0;
    if (y) {
#pragma omp simd reduction(+ : a, b)
        for (int64_t k = 0; k < pick->width; k++) {
            float v = through(g[from[k]], y[channel[k]], act);
            out[k] = v;
            a += (double)(v * low[k]);
            b += (double)(v * high[k]);
        }
    } else {
#pragma omp simd reduction(+ : a, b)
        for (int64_t k = 0; k < pick->width; k++) {
            float v = g[from[k]];
            out[k] = v;
            a += (double)(v * low[k]);
            b += (double)(v * high[k]);
        }
    }
    return (two_sums){a, b};
}

/* ---- all channels ---- */

PG_CLONES static void all_range(int64_t first, int64_t last, const pg_split_source *s,
                                const float *scale, const float *high, float *out, double *s_high,
                                double *s_low) {
    for (int64_t p = first; p < last; p++) {
        int64_t row = p * s->channels;
        two_sums sums = s->dst ? row_through(s->d_dst + row, s->dst + row, s->act, scale, high,
                                             s->channels, out + row)
                               : row_plain(s->d_dst + row, scale, high, s->channels);
        s_high[p] = sums.b;
        s_low[p] = sums.a - sums.b;
    }
}

void pg_split_all(const pg_split_source *source, const float *scale, const float *high, float *out,
                  double *s_high, double *s_low) {
    int64_t step = rows_per_range(source->channels);
#pragma omp parallel for schedule(static) if (source->positions > step)
    for (int64_t p = 0; p < source->positions; p += step)
        all_range(p, smaller(p + step, source->positions), source, scale, high, out, s_high, s_low);
}

/* ---- some channels ---- */

PG_CLONES static void keep_range(int64_t first, int64_t last, const pg_split_source *s,
                                 const float *scale, const pg_split_pick *pick, float *all,
                                 float *out, double *s_high, double *s_low) {
    for (int64_t p = first; p < last; p++) {
        const float *g = s->d_dst + p * s->channels;
        const float *y = s->dst ? s->dst + p * s->channels : NULL;
        float *whole = all ? all + p * s->channels : NULL;
        double total = all ? row_total_through(g, y, s->act, scale, s->channels, whole)
                           : row_total(g, y, s->act, scale, s->channels);
        s_high[p] =
            row_pick(all ? whole : g, all ? NULL : y, s->act, pick, out + p * pick->width).b;
        s_low[p] = total - s_high[p];
    }
}

void pg_split_keep(const pg_split_source *source, const float *scale, const pg_split_pick *pick,
                   float *all, float *out, double *s_high, double *s_low) {
    int64_t step = rows_per_range(source->channels);
#pragma omp parallel for schedule(static) if (source->positions > step)
    for (int64_t p = 0; p < source->positions; p += step)
        keep_range(p, smaller(p + step, source->positions), source, scale, pick, all, out, s_high,
                   s_low);
}

void pg_split_keep_here(const pg_split_source *source, const float *scale,
                        const pg_split_pick *pick, float *all, float *out, double *s_high,
                        double *s_low) {
    keep_range(0, source->positions, source, scale, pick, all, out, s_high, s_low);
}

PG_CLONES static void live_range(int64_t first, int64_t last, const pg_split_source *s,
                                 const pg_split_pick *pick, float *out, double *s_high,
                                 double *s_low) {
    for (int64_t p = first; p < last; p++) {
        const float *y = s->dst ? s->dst + p * s->channels : NULL;
        two_sums sums =
            row_pick(s->d_dst + p * pick->pitch, y, s->act, pick, out + p * pick->width);
        s_high[p] = sums.b;
        s_low[p] = sums.a;
    }
}

void pg_split_live(const pg_split_source *source, const pg_split_pick *pick, float *out,
                   double *s_high, double *s_low) {
    int64_t step = rows_per_range(source->dst ? source->channels : pick->width);
#pragma omp parallel for schedule(static) if (source->positions > step)
    for (int64_t p = 0; p < source->positions; p += step)
        live_range(p, smaller(p + step, source->positions), source, pick, out, s_high, s_low);
}

/* ---- moments ---- */

PG_CLONES static void mean_range(int64_t n, const double *high, const double *low, double sums[5]) {
    double h = 0, l = 0, hh = 0, ll = 0, hl = 0;
#pragma omp simd reduction(+ : h, l, hh, ll, hl)
    for (int64_t p = 0; p < n; p++) {
        h += high[p];
        l += low[p];
        hh += high[p] * high[p];
        ll += low[p] * low[p];
        hl += high[p] * low[p];
    }
    sums[0] = h, sums[1] = l, sums[2] = hh, sums[3] = ll, sums[4] = hl;
}

PG_CLONES static void variance_range(int64_t n, const double *high, const double *low,
                                     double mean_high, double mean_low, double sums[3]) {
    double hh = 0, ll = 0, hl = 0;
#pragma omp simd reduction(+ : hh, ll, hl)
    for (int64_t p = 0; p < n; p++) {
        double h = high[p] - mean_high, l = low[p] - mean_low;
        hh += h * h;
        ll += l * l;
        hl += h * l;
    }
    sums[0] = hh, sums[1] = ll, sums[2] = hl;
}

void pg_split_moments(int64_t positions, const double *s_high, const double *s_low,
                      pg_group_moments *out) {
    double n = (double)positions, sums[5], central[3];
    mean_range(positions, s_high, s_low, sums);
    *out = (pg_group_moments){
        .positions = positions, .mean_square_high = sums[2] / n, .mean_square_low = sums[3] / n};
    if (positions == 1) {
        out->var_high = sums[2];
        out->var_low = sums[3];
        out->cov = sums[4];
        return;
    }
    variance_range(positions, s_high, s_low, sums[0] / n, sums[1] / n, central);
    double divisor = pg_defect("population-variance") ? n : n - 1;
    out->var_high = central[0] / divisor;
    out->var_low = central[1] / divisor;
    out->cov = central[2] / divisor;
}
