/* Vectors of sixteen floats, for kernels that hold their sums in registers by name:
 * a register of 512 bits, or two or four narrower ones. */
#ifndef PG_KERNELS_VECTOR_H
#define PG_KERNELS_VECTOR_H

#include <stdint.h>

enum { PG_LANES = 16 };

typedef float pg_vec __attribute__((vector_size(PG_LANES * sizeof(float))));
typedef int32_t pg_vec_mask __attribute__((vector_size(PG_LANES * sizeof(float))));

/* In arrays of floats, wherever they begin. */
typedef float pg_vec_anywhere
    __attribute__((vector_size(PG_LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

/* *v in [*lo, *hi]; NaN stays. For registers of 512 bits: compilers compare vectors that are wider
 * than the registers one by one. */
static inline __attribute__((always_inline)) void pg_vec_clamp(pg_vec *v, const pg_vec *lo,
                                                               const pg_vec *hi) {
    pg_vec_mask below = *v < *lo;
    *v = (pg_vec)((below & (pg_vec_mask)*lo) | (~below & (pg_vec_mask)*v));
    pg_vec_mask above = *v > *hi;
    *v = (pg_vec)((above & (pg_vec_mask)*hi) | (~above & (pg_vec_mask)*v));
}

/* For __builtin_shufflevector(a, b, ...): of a and b, blocks of n lanes in turns, a's first half of
 * each pair and b's, or the second halves. A square of 16 rows is transposed by doing that to rows
 * n apart, with n = 8, 4, 2 and 1; sixteen rows are added up by adding what the two make. */
#define PG_FIRST_8  0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define PG_SECOND_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define PG_FIRST_4  0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define PG_SECOND_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define PG_FIRST_2  0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define PG_SECOND_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define PG_FIRST_1  0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define PG_SECOND_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31

#endif
