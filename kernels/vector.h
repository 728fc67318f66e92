/* Vectors of sixteen floats, for convolution kernels that hold their sums in registers by name:
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

#endif
