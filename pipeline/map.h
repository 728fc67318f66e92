/* From a signed attribution to a map that can be looked at, and numbers about it. */
#ifndef PG_PIPELINE_MAP_H
#define PG_PIPELINE_MAP_H

#include "kernels/err.h"
#include "kernels/tensor.h"
#include "pipeline/options.h"

/* What of a map is heat where it is drawn over the picture; the map itself stays as it is. */
typedef enum pg_show {
    PG_SHOW_MAGNITUDE, /* values of either sign: a gradient's says only which way the score goes */
    PG_SHOW_POSITIVE,  /* what is above 0: below lies what speaks against the class */
    PG_SHOW_RANGE      /* what is above the map's minimum: the values have no zero of their own */
} pg_show;

/* One worker's scratch for maps of one size. */
typedef struct pg_map_scratch {
    int64_t height, width;
    int radius;    /* of the smoothing kernel, 0: none */
    float *kernel; /* [radius + 1], from the middle outwards */
    float *values; /* [2, H W]: sorted magnitudes, and room for sorting and smoothing */
} pg_map_scratch;

/* `sigma`: of the Gaussian in pixels, 0: no smoothing. PG_ENOMEM; PG_ECONFIG: sigma above 100. */
pg_err pg_map_scratch_create(int64_t height, int64_t width, double sigma, pg_map_scratch *out,
                             pg_diag *diag);
void pg_map_scratch_destroy(pg_map_scratch *scratch);

/* attribution [1,C,H,W] in `layout` -> map [H,W]. */
void pg_map_reduce(pg_reduce reduce, const float *attribution, pg_layout layout, int64_t channels,
                   int64_t area, float *map);

/* src [h,w] -> map [H,W], bilinear: with the corner pixels' centres on each other (`corners`, torch's
 * align_corners), or pixels' centres at half coordinates and the edge repeated. */
void pg_map_enlarge(const float *src, int64_t h, int64_t w, bool corners, float *map,
                    int64_t height, int64_t width);

/* Gaussian blur in place, truncated at 4 sigma, mirrored at the borders (edge pixel repeated). */
void pg_map_smooth(const pg_map_scratch *scratch, float *map);

/* False if any value is NaN or infinite. */
bool pg_map_finite(const float *map, int64_t count);

/* |map| in ascending order, [H W] in the scratch, by the calling thread's team: what the two below read. */
const float *pg_map_sort(pg_map_scratch *scratch, const float *map);

/* The p-th percentile (0 .. 100) of ascending values, interpolated linearly. */
double pg_map_percentile(const float *sorted, int64_t count, double p);

/* How |map| is spread over its pixels. Both are 0 for zeros. */
typedef struct pg_map_spread {
    double entropy; /* Shannon's, of |map| as a distribution, divided by ln(count): 0 one pixel .. 1 uniform */
    double gini;    /* Gini's coefficient: 0 uniform .. 1 - 1/count all in one */
} pg_map_spread;

/* Of ascending values that are not negative. */
pg_map_spread pg_map_measure(const float *sorted, int64_t count);

/* Share of |map| inside roi (x, y, width, height in frame coordinates), pixels on the border by the
 * part of their area inside. 0 for a map of zeros. */
double pg_map_mass_in(const float *map, int64_t height, int64_t width, const double transform[6],
                      const double roi[4]);

/* The map's heat in place, >= 0: magnitudes, the positive part, or what is above the minimum. */
void pg_map_heat(pg_show show, int64_t count, float *map);

/* The picture rgb [count,3] with the heat over it in colour: 0 shows the picture, `full` and above
 * the hottest colour. */
void pg_map_overlay(const float *heat, double full, const uint8_t *rgb, int64_t count,
                    uint8_t *out);

#endif
