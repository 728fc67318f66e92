/* ParchGrad's pass in plain loops, and the threads that share it. The pass is bound by memory: what
 * matters is that the gradient is read once. `omp simd` lets the compiler keep a sum in one vector
 * register; the order of its terms then depends on the instruction set, never on the number of
 * threads.
 *
 * Every function is a serial loop over a range of rows and a wrapper that deals ranges to the
 * threads, as in channel_ops.c. The loops over one row are forced inline, so that they are compiled
 * with the instruction set of the clone they stand in. */
#include "kernels/channel_split_impl.h"

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

/* out: the values; NULL: not wanted. */
ROW double row_sum(const float *g, const float *y, pg_act_range act, const float *weight, int64_t n,
                   float *out) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) {
        float v = y ? through(g[c], y[c], act) : g[c];
        if (out)
            out[c] = v;
        sum += (double)(v * weight[c]);
    }
    return sum;
}

ROW void row_pick(const float *g, const float *y, pg_act_range act, const pg_split_pick *pick,
                  float *restrict out) {
    const int32_t *from = pick->from, *channel = pick->channel;
    for (int64_t k = 0; !from && k < pick->width; k++)
        out[k] = g[k];
    for (int64_t k = 0; from && k < pick->width; k++)
        out[k] = g[from[k]];
    for (int64_t k = 0; y && k < pick->width; k++)
        out[k] = through(out[k], y[channel[k]], act);
}

/* ---- ranges ---- */

PG_CLONES static void all_range(int64_t first, int64_t last, const pg_split_source *s,
                                const float *high, const float *low, float *out, double *s_high,
                                double *s_low) {
    int64_t n = s->channels;
    for (int64_t p = first; p < last; p++) {
        const float *g = s->d_dst + p * n, *y = s->dst ? s->dst + p * n : NULL;
        if (y) { /* and then without */
            s_high[p] = row_sum(g, y, s->act, high, n, out + p * n);
            g = out + p * n;
        } else {
            s_high[p] = row_sum(g, NULL, s->act, high, n, NULL);
        }
        s_low[p] = row_sum(g, NULL, s->act, low, n, NULL);
    }
}

PG_CLONES static void keep_range(int64_t first, int64_t last, const pg_split_source *s,
                                 const float *low, const pg_split_pick *pick, float *all,
                                 float *out, double *s_high, double *s_low) {
    int64_t n = s->channels;
    for (int64_t p = first; p < last; p++) {
        const float *g = s->d_dst + p * n, *y = s->dst ? s->dst + p * n : NULL;
        float *columns = out + p * pick->width;
        if (all)
            s_low[p] = row_sum(g, y, s->act, low, n, all + p * n);
        else if (y)
            s_low[p] = row_sum(g, y, s->act, low, n, NULL);
        else
            s_low[p] = row_sum(g, NULL, s->act, low, n, NULL);
        row_pick(all ? all + p * n : g, all ? NULL : y, s->act, pick, columns);
        s_high[p] = row_sum(columns, NULL, s->act, pick->high, pick->width, NULL);
    }
}

PG_CLONES static void live_range(int64_t first, int64_t last, const pg_split_source *s,
                                 const pg_split_pick *pick, float *out, double *s_high,
                                 double *s_low) {
    for (int64_t p = first; p < last; p++) {
        const float *y = s->dst ? s->dst + p * s->channels : NULL;
        float *columns = out + p * pick->width;
        row_pick(s->d_dst + p * pick->pitch, y, s->act, pick, columns);
        s_high[p] = row_sum(columns, NULL, s->act, pick->high, pick->width, NULL);
        s_low[p] = row_sum(columns, NULL, s->act, pick->low, pick->width, NULL);
    }
}

const pg_split_ranges pg_split_plain = {.all = all_range, .keep = keep_range, .live = live_range};

static const pg_split_ranges *best(void) {
    const pg_split_ranges *wide = pg_split_wide();
    return wide ? wide : &pg_split_plain;
}

/* ---- ranges to threads ---- */

void pg_split_all(const pg_split_source *source, const float *high, const float *low, float *out,
                  double *s_high, double *s_low) {
    int64_t step = rows_per_range(source->channels);
#pragma omp parallel for schedule(static) if (source->positions > step)
    for (int64_t p = 0; p < source->positions; p += step)
        best()->all(p, smaller(p + step, source->positions), source, high, low, out, s_high, s_low);
}

void pg_split_keep(const pg_split_source *source, const float *low, const pg_split_pick *pick,
                   float *all, float *out, double *s_high, double *s_low) {
    int64_t step = rows_per_range(source->channels);
#pragma omp parallel for schedule(static) if (source->positions > step)
    for (int64_t p = 0; p < source->positions; p += step)
        best()->keep(p, smaller(p + step, source->positions), source, low, pick, all, out, s_high,
                     s_low);
}

void pg_split_keep_here(const pg_split_source *source, const float *low, const pg_split_pick *pick,
                        float *all, float *out, double *s_high, double *s_low) {
    best()->keep(0, source->positions, source, low, pick, all, out, s_high, s_low);
}

void pg_split_live(const pg_split_source *source, const pg_split_pick *pick, float *out,
                   double *s_high, double *s_low) {
    int64_t step = rows_per_range(source->dst ? source->channels : pick->width);
#pragma omp parallel for schedule(static) if (source->positions > step)
    for (int64_t p = 0; p < source->positions; p += step)
        best()->live(p, smaller(p + step, source->positions), source, pick, out, s_high, s_low);
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
