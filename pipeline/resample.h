/* One axis of PIL's antialiased bilinear resize, to the bit: 8-bit pixels, weights in fixed point
 * with 22 fractional bits, rounded to 8 bits after each axis. The calling thread's team shares the
 * rows. */
#ifndef PG_PIPELINE_RESAMPLE_H
#define PG_PIPELINE_RESAMPLE_H

#include "pipeline/buffer.h"

#include <stdint.h>

/* Output pixel i is pixel i + offset of a line of `in` pixels resized to `scaled` ones; outside
 * of that line it is black. */
typedef struct pg_axis {
    int64_t in, scaled, offset, out;
    int taps;          /* weights reserved per output pixel */
    pg_buffer first;   /* int32 [out]: first input pixel */
    pg_buffer count;   /* int32 [out]: how many; 0: black */
    pg_buffer weights; /* int32 [out, taps] */
} pg_axis;

/* Computes the weights, unless the axis already has exactly these. False: no memory. */
bool pg_axis_plan(pg_axis *axis, int64_t in, int64_t scaled, int64_t offset, int64_t out);
void pg_axis_free(pg_axis *axis);

/* First input pixel any output needs, and one past the last. */
void pg_axis_range(const pg_axis *axis, int64_t *begin, int64_t *end);

/* src: `rows` lines of axis->in pixels with 1 or 3 channels; dst [rows, out, 3]; with `reverse` the
 * three channels change order. */
void pg_resample_rows(const pg_axis *axis, const uint8_t *src, int64_t stride, int channels,
                      bool reverse, int64_t rows, uint8_t *dst);

/* src: [in - begin, row_bytes], its first row being row `begin` of the axis; dst [out, row_bytes].
 */
void pg_resample_columns(const pg_axis *axis, const uint8_t *src, int64_t begin, int64_t row_bytes,
                         uint8_t *dst);

#endif
