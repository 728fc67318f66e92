/* Backward-data of a convolution over some of its output channels alone.
 *
 * With infinite gamma the gradient of the dropped channels is zero, so only the kept columns of the
 * gradient and the kept rows of the weights matter: the convolution shrinks from C to K output
 * channels, and its time to ceil(K/16) / ceil(C/16). A depthwise convolution's result is then zero
 * outside the kept channels, and goes on with those side by side where the next operator can take
 * it (pg_live in op.h). Columns are always float; with bfloat16 the library rounds them.
 *
 * Shared by the sessions: the library's primitive for `capacity` channels, and the weights: those
 * that the convolution over all channels has packed where rows can be taken from there
 * (conv_lines.h), a plain copy otherwise. Per session: packed rows of the masks used last.
 */
#ifndef PG_KERNELS_CONV_KEPT_H
#define PG_KERNELS_CONV_KEPT_H

#include "kernels/conv_lines.h"
#include "kernels/conv_path.h"

/* Zero-initialise. Private but for the four sizes and the path's name. */
typedef struct pg_conv_kept {
    int64_t capacity;     /* channels it has room for, a multiple of 16; 0: there is no short way */
    size_t weight_bytes;  /* shared */
    size_t state_bytes;   /* a session takes */
    size_t scratch_bytes; /* execute needs */
    bool depthwise;
    pg_conv_path path; /* out_c is capacity; without weights */
    int64_t channels, positions,
        row; /* out_c, out_h out_w and in_c/groups k_h k_w of the convolution */
    int64_t in_positions;
    const float *packed;    /* the weights as the full path, or this one's own kernel, has them;
                               NULL: in rows */
    pg_conv_lines from, to; /* of packed, of the masks' rows */
    bool bf16;              /* rows hold pg_bf16, not float */
    void *rows;             /* [channels, row], or what packed is, if it is owned; NULL: neither */
    int entries;            /* masks a session remembers */
    size_t staging, result, scratch; /* where in scratch: [capacity, row] if there are rows,
                                        [in_positions, capacity], the path's own */
} pg_conv_kept;

/* The short way for masks of up to `most` channels of the convolution `full` describes (weights in
 * ONNX order). `path` is what was made of it, and outlives *out: its packed weights are read, if
 * they can be; otherwise, or where it is NULL, the weights are copied. Leaves *out zero where it
 * would not be shorter: `most` in the last block of 16 channels, groups of more than one channel.
 * On failure *out is free. */
pg_err pg_conv_kept_make(const pg_conv_path_spec *full, const pg_conv_path *path, int64_t most,
                         pg_conv_kept *out, pg_diag *diag);
void pg_conv_kept_free(pg_conv_kept *kept); /* and zeroes */

/* Before bind: a session remembers the packed rows of so many masks; one, until this is called. */
void pg_conv_kept_remember(pg_conv_kept *kept, int masks);

/* One session's. */
typedef struct pg_conv_kept_state pg_conv_kept_state;

/* On the pointers execute will work with; `live`: NULL, or how d_src may be stored; scratch as in
 * pg_conv_run_make. NULLs *out on failure. */
pg_err pg_conv_kept_bind(const pg_conv_kept *kept, float *d_src, pg_live *live, void *scratch,
                         pg_conv_kept_state **out, pg_diag *diag);
void pg_conv_kept_unbind(pg_conv_kept_state **state); /* and nulls; accepts NULL */

/* True if execute is the faster way for the channels in keep [channels]: they fit, and their
 * weights are packed, or will be used again (`lasting`), or cost less to pack than they save. */
bool pg_conv_kept_pays(const pg_conv_kept *kept, const pg_conv_kept_state *state,
                       const uint8_t *keep, bool lasting);

/* The channels in keep as columns [capacity]; those after the first `count` fill the last block up,
 * with the first channel again, and their weights are taken as 0. Valid until the next call. */
typedef struct pg_conv_columns {
    int64_t count;
    const int32_t *channel, *from; /* from: the column of a gradient that has the channels in keep
                                      alone */
} pg_conv_columns;
pg_conv_columns pg_conv_kept_choose(const pg_conv_kept *kept, pg_conv_kept_state *state,
                                    const uint8_t *keep);

/* d_src from columns [positions, capacity], those of the last pg_conv_kept_choose(keep). Allocates
 * nothing. */
pg_err pg_conv_kept_execute(const pg_conv_kept *kept, pg_conv_kept_state *state,
                            const float *columns, const uint8_t *keep, bool lasting);

/* If the path sinks: the same, plus skip (NULL: 0), into the sink instead of d_src. */
pg_err pg_conv_kept_feed(const pg_conv_kept *kept, pg_conv_kept_state *state, const float *columns,
                         const uint8_t *keep, bool lasting, const float *skip,
                         const pg_conv_sink *sink);

#endif
