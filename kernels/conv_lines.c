/* oneDNN lays weights out in blocks: an index along an axis is written in a mixed base, its lowest
 * digits counting inside the innermost blocks and the rest outer ones, so where a weight lies is a
 * sum of one term for each axis. Flipped paths (conv_path.h) have input and output channels
 * exchanged and the taps in reverse. */
#include "kernels/conv_lines.h"

#include <string.h>

#include "kernels/conv_kernel.h"
#include "kernels/mem.h"

enum {
    LINE_BYTES = PG_CONV_LINE * sizeof(float),
    PARALLEL_LINES = 2048 /* that are copied in the time a second thread takes to start */
};

static int64_t place(const pg_md_blocks *blocks, int axis, int64_t index) {
    int64_t at = 0, step = 1;
    for (int i = blocks->n_inner - 1; i >= 0; i--) {
        if (blocks->axis[i] == axis) {
            at += index % blocks->size[i] * step;
            index /= blocks->size[i];
        }
        step *= blocks->size[i];
    }
    return at + index * blocks->strides[axis];
}

/* The lowest digit is an input channel's, and there are whole lines of them. */
static bool has_lines(const pg_md_blocks *blocks, int in_axis) {
    int last = blocks->n_inner - 1;
    return last >= 0 && blocks->axis[last] == in_axis && blocks->size[last] % PG_CONV_LINE == 0;
}

static bool make_room(int64_t n_out, int64_t n_in, int64_t n_taps, pg_conv_lines *out) {
    *out = (pg_conv_lines){.n_out = n_out, .n_in = n_in, .n_taps = n_taps};
    out->out = pg_malloc((size_t)(n_out + n_in + n_taps) * sizeof *out->out);
    if (!out->out)
        return false;
    out->in = out->out + n_out;
    out->tap = out->in + n_in;
    return true;
}

static bool lines_of_own(const pg_conv_kernel *own, const pg_conv_geometry *g, pg_conv_lines *out) {
    if (!own->place || own->place(g, 0, 0, 0) < 0)
        return false;
    int64_t taps = g->k_h * g->k_w;
    int64_t lines = (int64_t)own->packed_bytes(g, true) / (g->out_c * taps * LINE_BYTES);
    if (!make_room(g->out_c, lines, taps, out))
        return false;
    for (int64_t o = 0; o < g->out_c; o++)
        out->out[o] = own->place(g, o, 0, 0);
    for (int64_t l = 0; l < lines; l++)
        out->in[l] = own->place(g, 0, l * PG_CONV_LINE, 0);
    for (int64_t t = 0; t < taps; t++)
        out->tap[t] = own->place(g, 0, 0, t);
    return true;
}

bool pg_conv_lines_make(const pg_conv_path *path, const pg_conv_geometry *g, pg_conv_lines *out) {
    pg_md_blocks blocks;
    int in_axis = path->flipped ? 0 : 1, out_axis = 1 - in_axis;
    if (path->own)
        return path->backward && lines_of_own(path->own, g, out);
    if (g->groups != 1 || !pg_md_read_blocks(path->weights_md, &blocks) ||
        !has_lines(&blocks, in_axis))
        return false;
    int64_t taps = g->k_h * g->k_w, lines = blocks.padded[in_axis] / PG_CONV_LINE;
    if (!make_room(g->out_c, lines, taps, out))
        return false;
    for (int64_t o = 0; o < g->out_c; o++)
        out->out[o] = place(&blocks, out_axis, o);
    for (int64_t l = 0; l < lines; l++)
        out->in[l] = place(&blocks, in_axis, l * PG_CONV_LINE);
    for (int64_t t = 0; t < taps; t++) {
        int64_t tap = path->flipped ? taps - 1 - t : t;
        out->tap[t] = place(&blocks, 2, tap / g->k_w) + place(&blocks, 3, tap % g->k_w);
    }
    return true;
}

void pg_conv_lines_free(pg_conv_lines *lines) {
    pg_free(lines->out);
    memset(lines, 0, sizeof *lines);
}

void pg_conv_lines_pick(const pg_conv_lines *from_lines, const float *from, const int32_t *channel,
                        int64_t count, const pg_conv_lines *to_lines, float *to) {
    const int64_t n_taps = to_lines->n_taps, n = to_lines->n_in * n_taps;
#pragma omp parallel for schedule(static) if (n * to_lines->n_out > PARALLEL_LINES)
    for (int64_t i = 0; i < n; i++) {
        int64_t l = i / n_taps, t = i % n_taps;
        const float *src = from + from_lines->in[l] + from_lines->tap[t];
        float *dst = to + to_lines->in[l] + to_lines->tap[t];
        for (int64_t k = 0; k < count; k++)
            memcpy(dst + to_lines->out[k], src + from_lines->out[channel[k]], LINE_BYTES);
        for (int64_t k = count; k < to_lines->n_out; k++)
            memset(dst + to_lines->out[k], 0, LINE_BYTES);
    }
}
