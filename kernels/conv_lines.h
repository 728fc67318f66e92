/* Packed weights of a dense convolution, line by line: in the layouts the library likes for
 * backward, those of neighbouring input channels lie side by side, so that the weights of some
 * output channels can be taken out of one packed array and put into another, without a plain copy
 * of them anywhere.
 */
#ifndef PG_KERNELS_CONV_LINES_H
#define PG_KERNELS_CONV_LINES_H

#include "kernels/conv_path.h"

enum {
    PG_CONV_LINE = 8
}; /* floats: a block of the library's with AVX2, half of one with AVX-512 */

/* Where the lines begin: that of output channel o, input channels 8 l to 8 l + 7 and tap t at
 * out[o] + in[l] + tap[t], in floats. Past the last input channel lines hold zeros.
 * Zero-initialise. */
typedef struct pg_conv_lines {
    int64_t n_out, n_in, n_taps; /* out_c, in_c in whole blocks / 8, k_h k_w */
    int64_t *out, *in, *tap;     /* out: owned, the others behind it */
} pg_conv_lines;

/* The lines of the weights that the path, made for this geometry, packs. False, and nothing to
 * free: they are not laid out like that (Winograd, most kernels of our own, bfloat16, groups), or
 * memory is out. */
bool pg_conv_lines_make(const pg_conv_path *path, const pg_conv_geometry *geometry,
                        pg_conv_lines *out);
void pg_conv_lines_free(pg_conv_lines *lines); /* and zeroes */

/* to[k] = from[channel[k]] for k < count, zeros for the other output channels of `to`. `from` has
 * the lines of `to` along input channels and taps, and may have more of padding. */
void pg_conv_lines_pick(const pg_conv_lines *from_lines, const float *from, const int32_t *channel,
                        int64_t count, const pg_conv_lines *to_lines, float *to);

#endif
