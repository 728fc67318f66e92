/* ParchGrad's pass over the gradient at a convolution's output: through the activation, into the
 * sums of the two groups of channels and, where only one group goes on, that group's channels side
 * by side. In one reading of memory, which is what it costs.
 *
 * Arrays are [positions, channels] in channels-last order. The calling thread's OpenMP team is
 * used; no result depends on its size. Products are float, and so are sums of a sixteenth of the
 * channels of a position; what is made of those is double. */
#ifndef PG_KERNELS_CHANNEL_SPLIT_H
#define PG_KERNELS_CHANNEL_SPLIT_H

#include "kernels/channel_ops.h"

/* The gradient to be read. */
typedef struct pg_split_source {
    int64_t positions, channels;
    const float *d_dst;
    const float *dst; /* of the activation whose derivative comes in between; NULL: none */
    pg_act_range act;
} pg_split_source;

/* With v the gradient through the activation: s_high[p] = sum over c of high[c] v[p,c], s_low[p]
 * likewise, and out = v (may be d_dst; NULL: not wanted, without dst). high, low: [channels]. */
void pg_split_all(const pg_split_source *source, const float *high, const float *low, float *out,
                  double *s_high, double *s_low);

/* Columns picked from the gradient: column k of what is made is channel[k]. */
typedef struct pg_split_pick {
    int64_t width;          /* how many */
    const int32_t *channel; /* [width], one may occur several times */
    const int32_t *from;    /* [width] the column of d_dst it is in; for pg_split_live, NULL:
                               the same as here */
    int64_t pitch;          /* columns of d_dst */
    float *high, *low;      /* [width] weights in the sums */
} pg_split_pick;

/* out[p,k] = v[p,channel[k]], s_high[p] = sum over k of high[k] out[p,k], s_low[p] = sum over c of
 * low[c] v[p,c] with low [channels] instead of the pick's. all [positions, channels] = v (may be
 * d_dst; NULL: not wanted, without dst). */
void pg_split_keep(const pg_split_source *source, const float *low, const pg_split_pick *pick,
                   float *all, float *out, double *s_high, double *s_low);

/* The same by the calling thread alone. */
void pg_split_keep_here(const pg_split_source *source, const float *low, const pg_split_pick *pick,
                        float *all, float *out, double *s_high, double *s_low);

/* The same where all channels but the picked ones are zero and d_dst need not hold them: s_low[p] =
 * sum over k of low[k] out[p,k]. */
void pg_split_live(const pg_split_source *source, const pg_split_pick *pick, float *out,
                   double *s_high, double *s_low);

/* Moments of two maps of `positions` values (two passes, so that a large mean costs nothing). */
void pg_split_moments(int64_t positions, const double *s_high, const double *s_low,
                      pg_group_moments *out);

#endif
