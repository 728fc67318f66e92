/* Sliding windows: what a convolution or a pool says about its spatial axes, read and checked in
 * one place (strides, dilations, pads, auto_pad, kernel_shape of ONNX Conv, ConvTranspose, MaxPool,
 * AveragePool and LpPool). */
#ifndef PG_KERNELS_WINDOW_H
#define PG_KERNELS_WINDOW_H

#include "kernels/op.h"

enum {
    PG_WINDOW_AXES = 3,
    PG_WINDOW_LIMIT =
        1 << 20, /* of kernel, stride, dilation and padding: far above any real network,
                    and below it no sum or product of one axis can overflow */
};

/* One axis: output o looks with kernel step k at input o * stride - begin + k * dilation. */
typedef struct pg_window {
    int64_t in, out;
    int64_t kernel, stride, dilation;
    int64_t begin, end; /* padding before and after */
} pg_window;

typedef enum pg_auto_pad {
    PG_PAD_EXPLICIT,
    PG_PAD_VALID,
    PG_PAD_SAME_UPPER,
    PG_PAD_SAME_LOWER,
} pg_auto_pad;

/* How many positions one window reaches over, gaps included. */
static inline int64_t pg_window_reach(const pg_window *w) {
    return (w->kernel - 1) * w->dilation + 1;
}

/* Input position of kernel step `step` of output `out`; may lie in the padding. */
static inline int64_t pg_window_at(const pg_window *w, int64_t out, int64_t step) {
    return out * w->stride - w->begin + step * w->dilation;
}

/* The kernel steps [first, last) of output position `out` that lie inside the input. Most windows
 * lie there wholly and cost no division. */
static inline void pg_window_inside(const pg_window *w, int64_t out, int64_t *first,
                                    int64_t *last) {
    int64_t start = pg_window_at(w, out, 0), room = w->in - start, d = w->dilation;
    *first = start < 0 ? (-start + d - 1) / d : 0;
    *last = room >= pg_window_reach(w) ? w->kernel : room > 0 ? (room + d - 1) / d : 0;
    if (*last < *first)
        *last = *first;
}

/* Reads the node's attributes into axes[0..n), n <= PG_WINDOW_AXES, and the padding mode into
 * *mode. `kernel` of every axis says what the weights say, 0 where only kernel_shape can tell.
 * Refuses what is missing, contradictory, negative or beyond PG_WINDOW_LIMIT. Leaves `in` and `out`
 * alone. */
pg_err pg_window_read(const pg_op_def *def, int n, pg_window *axes, pg_auto_pad *mode,
                      pg_diag *diag);

/* Completes an axis that has been read and whose `in` is known: begin and end by name, and out.
 * ceil_mode as pools have it (for explicit padding; with auto_pad it changes nothing). Refuses a
 * window that does not fit. */
pg_err pg_window_place(const pg_op_def *def, pg_auto_pad mode, bool ceil_mode, pg_window *w,
                       pg_diag *diag);

/* Deals `total` positions of padding to both ends; an odd one goes to the end for
 * PG_PAD_SAME_UPPER, else to the beginning. */
void pg_window_pad(pg_auto_pad mode, int64_t total, pg_window *w);

#endif
