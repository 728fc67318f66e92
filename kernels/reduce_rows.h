/* The inner loops of the reductions: what one element adds to its result, and how its gradient
 * comes out of its result's. A walk runs over the elements (operand 0) and the results (operand 1,
 * stride 0 where many elements share one). */
#ifndef PG_KERNELS_REDUCE_ROWS_H
#define PG_KERNELS_REDUCE_ROWS_H

#include "kernels/walk.h"

/* Terms, from an element x and the reference r of its result. */
typedef enum pg_reduce_term {
    PG_REDUCE_SUM,     /* + x */
    PG_REDUCE_ABS,     /* + |x| */
    PG_REDUCE_SQUARE,  /* + x^2 */
    PG_REDUCE_EXP,     /* + exp(x - r) */
    PG_REDUCE_EQUAL,   /* + 1 where x == r */
    PG_REDUCE_MAX,     /* the largest; NaN if any is */
    PG_REDUCE_MIN,     /* the smallest, likewise */
    PG_REDUCE_PRODUCT, /* times x */
    PG_REDUCE_NONZERO, /* times x unless it is 0 */
} pg_reduce_term;

/* What an accumulator of this term starts with. */
double pg_reduce_start(pg_reduce_term term);

/* Two accumulators of this term, joined. */
double pg_reduce_join(pg_reduce_term term, double a, double b);

/* Takes rows [first, end) of the walk into acc, which holds pg_reduce_start or earlier rows. r and
 * acc have one entry per result; only EXP and EQUAL look at r. */
void pg_reduce_rows(pg_reduce_term term, const pg_walk *walk, int64_t first, int64_t end,
                    const float *x, const double *r, double *acc);

/* Gradients, from an element x, the weight w of its result and its reference r. */
typedef enum pg_reduce_slope {
    PG_SLOPE_FLAT,    /* w */
    PG_SLOPE_SIGN,    /* w sign(x) */
    PG_SLOPE_TIMES,   /* w x */
    PG_SLOPE_EXP,     /* w exp(x - r) */
    PG_SLOPE_EQUAL,   /* w where x == r, else 0 */
    PG_SLOPE_PRODUCT, /* w is the product without zeros, r the number of zeros: w / x where there is
                         none, w at a single one, else 0 */
} pg_reduce_slope;

/* Writes rows [first, end) of d_x. FLAT does not look at x; only EXP, EQUAL, PRODUCT look at r. */
void pg_reduce_slopes(pg_reduce_slope slope, const pg_walk *walk, int64_t first, int64_t end,
                      const float *x, const double *weight, const double *r, float *d_x);

#endif
