/* One axis of a resize: which elements of the source, with which weights, make each place of the
 * result. A table of taps is a sparse matrix; the gradient is its transpose. */
#ifndef PG_KERNELS_RESIZE_TAPS_H
#define PG_KERNELS_RESIZE_TAPS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum pg_resize_coordinates {
    PG_RESIZE_HALF_PIXEL,
    PG_RESIZE_HALF_PIXEL_SYMMETRIC,
    PG_RESIZE_PYTORCH_HALF_PIXEL,
    PG_RESIZE_ALIGN_CORNERS,
    PG_RESIZE_ASYMMETRIC,
    PG_RESIZE_TF_HALF_PIXEL_FOR_NN,
    PG_RESIZE_TF_CROP_AND_RESIZE,
} pg_resize_coordinates;

typedef enum pg_resize_rounding {
    PG_RESIZE_ROUND_PREFER_FLOOR,
    PG_RESIZE_ROUND_PREFER_CEIL,
    PG_RESIZE_FLOOR,
    PG_RESIZE_CEIL,
} pg_resize_rounding;

/* How an axis of `in` elements becomes one of `out`, both positive. */
typedef struct pg_resize_axis {
    int64_t in, out;
    double scale; /* as given, or out / in; in * scale may have a fraction that out has not */
    pg_resize_coordinates coordinates;
    double roi_start, roi_end; /* tf_crop_and_resize: shares of the axis */
} pg_resize_axis;

typedef struct pg_resize_filter {
    bool cubic;           /* else linear */
    double cubic_a;       /* the cubic's free parameter: -0.75 or -0.5 */
    bool antialias;       /* wider when the axis shrinks */
    bool exclude_outside; /* instead of repeating the edge */
} pg_resize_filter;

/* Row i holds taps start[i] <= t < start[i + 1]; at most 2^31 of them. A place outside the region
 * of interest has none. */
typedef struct pg_taps {
    int64_t rows, cols;
    int64_t *start; /* [rows + 1] */
    int32_t *index; /* columns, in order */
    float *weight;
} pg_taps;

/* The source position that place x of the result samples; false: outside (tf_crop_and_resize). */
bool pg_resize_position(const pg_resize_axis *axis, int64_t x, double *position);

/* The element nearest to a position, clamped to the axis. */
int64_t pg_resize_nearest(const pg_resize_axis *axis, double position, pg_resize_rounding rounding);

/* Makes [out, in] taps. False: out of memory, and nothing to free. */
bool pg_taps_make(const pg_resize_axis *axis, const pg_resize_filter *filter, pg_taps *taps);
bool pg_taps_transpose(const pg_taps *taps, pg_taps *transposed);
void pg_taps_free(pg_taps *taps);

/* dst[o,i,:] = sum over the taps of row i: weight * src[o,index,:], for src [outer,cols,inner] and
 * dst [outer,rows,inner]. */
void pg_taps_apply(const pg_taps *taps, int64_t outer, int64_t inner, const float *src, float *dst);

#endif
