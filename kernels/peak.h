/* What this machine can do at most, measured: the bounds that `bench` compares layers with. */
#ifndef PG_KERNELS_PEAK_H
#define PG_KERNELS_PEAK_H

#include <stdint.h>

#include "kernels/err.h"

typedef struct pg_peak {
    double f32_gflops;  /* multiply-add in float32, operands in registers */
    double bf16_gflops; /* dot products of bfloat16 into float32; 0: the processor has none */
    double read_gbs;    /* 1e9 bytes per second read from memory */
} pg_peak;

/* Measures with the calling thread's team (pg_threads_set), the best of several bursts: about a
 * quarter of a second. `now_ns` is a monotonic clock. PG_ENOMEM. */
pg_err pg_peak_measure(uint64_t (*now_ns)(void), pg_peak *out, pg_diag *diag);

#endif
