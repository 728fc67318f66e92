/* Backward-data of a convolution over its kept channels alone.
 *
 * With infinite gamma the gradient of the dropped channels is zero, so only the kept columns of the
 * gradient and the kept rows of the weights matter: the convolution shrinks from C to K output
 * channels, and its time to ceil(K/16) / ceil(C/16).
 *
 * Shared by the sessions: the library's primitive for `capacity` channels and the weights by rows.
 * Per session: packed rows of the masks used last.
 */
#ifndef PG_KERNELS_CONV_KEPT_H
#define PG_KERNELS_CONV_KEPT_H

#include "kernels/conv_path.h"

/* Zero-initialise. Private but for the four sizes. */
typedef struct pg_conv_kept {
    int64_t capacity;     /* channels it has room for, a multiple of 16; 0: there is no short way */
    size_t weight_bytes;  /* shared */
    size_t state_bytes;   /* a session takes */
    size_t scratch_bytes; /* execute needs */
    pg_conv_path path;    /* out_c is capacity; without weights */
    int64_t channels, positions, row;  /* out_c, out_h out_w and in_c k_h k_w of the convolution */
    bool bf16;                         /* rows and gradients hold pg_bf16, not float */
    void *rows;                        /* [channels, row] */
    int entries;                       /* masks a session remembers */
    size_t gradient, staging, scratch; /* where in scratch: [positions, capacity], [capacity, row],
                                          the library's */
} pg_conv_kept;

/* The short way for masks of up to `most` channels of the convolution `full` describes (weights in
 * ONNX order, copied). Leaves *out zero where it would not be shorter: grouped convolutions, `most`
 * in the last block of 16 channels. On failure *out is free. */
pg_err pg_conv_kept_make(const pg_conv_path_spec *full, int64_t most, pg_conv_kept *out,
                         pg_diag *diag);
void pg_conv_kept_free(pg_conv_kept *kept); /* and zeroes */

/* One session's. */
typedef struct pg_conv_kept_state pg_conv_kept_state;

/* On the pointers execute will work with; scratch as in pg_conv_run_make. NULLs *out on failure. */
pg_err pg_conv_kept_bind(const pg_conv_kept *kept, float *d_src, void *scratch,
                         pg_conv_kept_state **out, pg_diag *diag);
void pg_conv_kept_unbind(pg_conv_kept_state **state); /* and nulls; accepts NULL */

/* True if execute is the faster way for keep [channels], which keeps `count`: they fit, and their
 * weights are packed, or will be used again (`lasting`), or cost less to pack than they save. */
bool pg_conv_kept_pays(const pg_conv_kept *kept, const pg_conv_kept_state *state,
                       const uint8_t *keep, int64_t count, bool lasting);

/* d_src from scale * gradient [positions, channels] (of pg_bf16 if `full` said bf16) with the channels not in keep taken as 0. count
 * <= capacity; gradient is not in the scratch given to bind. Allocates nothing. */
pg_err pg_conv_kept_execute(const pg_conv_kept *kept, pg_conv_kept_state *state,
                            const uint8_t *keep, int64_t count, bool lasting, float scale,
                            const void *gradient);

#endif
