/* Ranks of many numbers. */
#ifndef PG_PIPELINE_RANK_H
#define PG_PIPELINE_RANK_H

#include "kernels/err.h"

#include <stdint.h>

/* One thread's room for `count` values. Zero-initialise. */
typedef struct pg_ranker {
    int64_t count;
    int32_t *order;         /* [count] */
    double *first, *second; /* [count] ranks */
} pg_ranker;

/* PG_ENOMEM, and then nothing is left behind. */
pg_err pg_rank_create(int64_t count, pg_ranker *out, pg_diag *diag);
void pg_rank_destroy(pg_ranker *rank); /* and zeroes */

/* Places of the values from the largest to the smallest, [count]; of equal ones the first comes
 * first. NaN counts as the smallest. Valid until the next call. */
const int32_t *pg_rank_order(pg_ranker *rank, const float *values);

/* Spearman's correlation of two arrays: Pearson's of their ranks, equal values having the mean of
 * theirs. NaN if either is constant. */
double pg_rank_spearman(pg_ranker *rank, const float *a, const float *b);

#endif
