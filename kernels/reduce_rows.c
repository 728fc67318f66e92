/* One macro per direction writes the loops: rows of elements that each have a result of their own,
 * rows that share one (in eight partial results, so that a compiler can vectorise what it may not
 * reorder), and anything else. */
#include "kernels/reduce_rows.h"

#include <math.h>

#include "kernels/simd.h"

enum { LANES = 8 };

static inline double larger(double a, double v) { return v > a || v != v ? v : a; }
static inline double smaller(double a, double v) { return v < a || v != v ? v : a; }

#define LANE(j, at, update)                                                                        \
    {                                                                                              \
        double a = part[j], v = (double)x[at];                                                     \
        part[j] = (update);                                                                        \
    }

#define EACH(a_i, x_i, r_i, update)                                                                \
    for (int64_t i = 0; i < n; i++) {                                                              \
        double a = a_i, v = (double)x_i, k = r_i;                                                  \
        (void)k;                                                                                   \
        a_i = (update);                                                                            \
    }

/* Defines <name>_row: `update` is the new accumulator from the old one (a), the element (v) and its
 * result's reference (k); `join` takes the accumulator v into a. */
#define TERM(name, start, update, join)                                                            \
    PG_CLONES static void name##_row(int64_t n, const float *x, int64_t sx, const double *r,       \
                                     double *restrict acc, int64_t sa) {                           \
        if (sx == 1 && sa == 1) {                                                                  \
            EACH(acc[i], x[i], r[i], update)                                                       \
        } else if (sx == 1 && sa == 0) {                                                           \
            double part[LANES], k = r[0];                                                          \
            int64_t i = 0;                                                                         \
            (void)k;                                                                               \
            for (int j = 0; j < LANES; j++)                                                        \
                part[j] = (start);                                                                 \
            for (; i + LANES <= n; i += LANES)                                                     \
                for (int j = 0; j < LANES; j++)                                                    \
                    LANE(j, i + j, update)                                                         \
            for (int j = 0; i < n; i++, j++)                                                       \
                LANE(j, i, update)                                                                 \
            for (int j = 0; j < LANES; j++) {                                                      \
                double a = acc[0], v = part[j];                                                    \
                acc[0] = (join);                                                                   \
            }                                                                                      \
        } else {                                                                                   \
            EACH(acc[i * sa], x[i * sx], r[i * sa], update)                                        \
        }                                                                                          \
    }

TERM(sum, 0, a + v, a + v)
TERM(abs, 0, a + fabs(v), a + v)
TERM(square, 0, a + v * v, a + v)
TERM(exp, 0, a + exp(v - k), a + v)
TERM(equal, 0, a + (v == k ? 1.0 : 0.0), a + v)
TERM(max, -INFINITY, larger(a, v), larger(a, v))
TERM(min, INFINITY, smaller(a, v), smaller(a, v))
TERM(product, 1, a * v, a * v)
TERM(nonzero, 1, v == 0 ? a : a * v, a * v)

void pg_reduce_rows(pg_reduce_term term, const pg_walk *w, int64_t first, int64_t end,
                    const float *x, const double *r, double *acc) {
    static void (*const rows[])(int64_t, const float *, int64_t, const double *, double *,
                                int64_t) = {
        [PG_REDUCE_SUM] = sum_row,         [PG_REDUCE_ABS] = abs_row,
        [PG_REDUCE_SQUARE] = square_row,   [PG_REDUCE_EXP] = exp_row,
        [PG_REDUCE_EQUAL] = equal_row,     [PG_REDUCE_MAX] = max_row,
        [PG_REDUCE_MIN] = min_row,         [PG_REDUCE_PRODUCT] = product_row,
        [PG_REDUCE_NONZERO] = nonzero_row,
    };
    int last = w->rank - 1;
    int64_t n = w->dims[last], sx = w->stride[0][last], sa = w->stride[1][last];
    for (int64_t row = first; row < end; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        rows[term](n, x + at[0], sx, r + at[1], acc + at[1], sa);
    }
}

double pg_reduce_start(pg_reduce_term term) {
    switch (term) {
    case PG_REDUCE_MAX:
        return -INFINITY;
    case PG_REDUCE_MIN:
        return INFINITY;
    case PG_REDUCE_PRODUCT:
    case PG_REDUCE_NONZERO:
        return 1;
    default:
        return 0;
    }
}

double pg_reduce_join(pg_reduce_term term, double a, double b) {
    switch (term) {
    case PG_REDUCE_MAX:
        return larger(a, b);
    case PG_REDUCE_MIN:
        return smaller(a, b);
    case PG_REDUCE_PRODUCT:
    case PG_REDUCE_NONZERO:
        return a * b;
    default:
        return a + b;
    }
}

/* ---- gradients ---- */

static inline double sign(double v) { return v > 0 ? 1.0 : v < 0 ? -1.0 : 0.0; }

/* Defines <name>_slope: the gradient from the element (v), its result's weight (a) and reference
 * (k). */
#define SLOPE(name, d)                                                                             \
    PG_CLONES static void name##_slope(int64_t n, const float *x, int64_t sx, const double *w,     \
                                       const double *r, int64_t sw, float *restrict d_x) {         \
        if (sx == 1 && sw == 0) {                                                                  \
            double a = w[0], k = r[0];                                                             \
            (void)k;                                                                               \
            for (int64_t i = 0; i < n; i++) {                                                      \
                double v = (double)x[i];                                                           \
                (void)v;                                                                           \
                d_x[i] = (float)(d);                                                               \
            }                                                                                      \
        } else {                                                                                   \
            for (int64_t i = 0; i < n; i++) {                                                      \
                double a = w[i * sw], k = r[i * sw], v = (double)x[i * sx];                        \
                (void)k, (void)v;                                                                  \
                d_x[i * sx] = (float)(d);                                                          \
            }                                                                                      \
        }                                                                                          \
    }

SLOPE(flat, a)
SLOPE(sign, a * sign(v))
SLOPE(times, a * v)
SLOPE(exp, a * exp(v - k))
SLOPE(equal, v == k ? a : 0.0)
SLOPE(product, k == 0 ? a / v : k == 1 && v == 0 ? a : 0.0)

void pg_reduce_slopes(pg_reduce_slope slope, const pg_walk *w, int64_t first, int64_t end,
                      const float *x, const double *weight, const double *r, float *d_x) {
    static void (*const rows[])(int64_t, const float *, int64_t, const double *, const double *,
                                int64_t, float *) = {
        [PG_SLOPE_FLAT] = flat_slope,   [PG_SLOPE_SIGN] = sign_slope,
        [PG_SLOPE_TIMES] = times_slope, [PG_SLOPE_EXP] = exp_slope,
        [PG_SLOPE_EQUAL] = equal_slope, [PG_SLOPE_PRODUCT] = product_slope,
    };
    int last = w->rank - 1;
    int64_t n = w->dims[last], sx = w->stride[0][last], sw = w->stride[1][last];
    for (int64_t row = first; row < end; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        rows[slope](n, x + at[0], sx, weight + at[1], r + at[1], sw, d_x + at[0]);
    }
}
