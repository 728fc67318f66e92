/* What channel_split.c (plain loops, and the threads) and channel_split_wide.c (registers of
 * sixteen floats) have in common: serial loops over positions [first, last), arguments as of the
 * functions in channel_split.h. */
#ifndef PG_KERNELS_CHANNEL_SPLIT_IMPL_H
#define PG_KERNELS_CHANNEL_SPLIT_IMPL_H

#include "kernels/channel_split.h"

typedef struct pg_split_ranges {
    void (*all)(int64_t first, int64_t last, const pg_split_source *source, const float *high,
                const float *low, float *out, double *s_high, double *s_low);
    void (*keep)(int64_t first, int64_t last, const pg_split_source *source, const float *low,
                 const pg_split_pick *pick, float *all, float *out, double *s_high, double *s_low);
    void (*live)(int64_t first, int64_t last, const pg_split_source *source,
                 const pg_split_pick *pick, float *out, double *s_high, double *s_low);
} pg_split_ranges;

extern const pg_split_ranges pg_split_plain;

/* NULL where the processor has no such registers. */
const pg_split_ranges *pg_split_wide(void);

#endif
