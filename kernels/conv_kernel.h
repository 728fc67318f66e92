/* Convolution kernels of our own, for the shapes where the library's waste time. conv_path.h tries
 * them in order before it asks the library. */
#ifndef PG_KERNELS_CONV_KERNEL_H
#define PG_KERNELS_CONV_KERNEL_H

#include "kernels/conv_lines.h"
#include "kernels/conv_path.h"
#include "kernels/conv_tiles.h"

/* Along an axis the places r of a convolution's output [from, to) at which a tap lies inside its
 * input, at r stride + shift. */
typedef struct pg_conv_span {
    int64_t from, to, shift;
} pg_conv_span;

static inline pg_conv_span pg_conv_span_of(const pg_conv_geometry *g, int axis, int64_t tap) {
    int64_t in = axis ? g->in_w : g->in_h, out = axis ? g->out_w : g->out_h;
    int64_t stride = g->dnnl.strides[axis];
    pg_conv_span s = {.shift = tap * (g->dnnl.dilates[axis] + 1) - g->dnnl.pad_begin[axis]};
    int64_t first = s.shift < 0 ? (-s.shift + stride - 1) / stride : 0;
    int64_t end = in > s.shift ? (in - 1 - s.shift) / stride + 1 : 0;
    s.from = first < out ? first : out;
    s.to = end < out ? end : out;
    if (s.to < s.from)
        s.to = s.from;
    return s;
}

/* What a call computes: the path's direction, between channels-last arrays. */
typedef struct pg_conv_call {
    const float *weights; /* as pack made them */
    const float *in;      /* backward: d_dst */
    int64_t channels;     /* of `in`, from the first, that are summed over */
    float *out;           /* backward: d_src */
    void *scratch;        /* scratch_bytes, aligned to PG_MEM_ALIGN */
    const float *skip;    /* added to what comes out, if path->adds or there is a sink; or NULL */
    const pg_conv_sink *sink; /* gets what comes out, instead of `out`; NULL: none */
} pg_conv_call;

typedef struct pg_conv_kernel {
    const char *name;
    bool adds; /* a skip, before the activation */
    /* Backward: gives what it makes to a sink, if asked. NULL: never. */
    bool (*sinks)(const pg_conv_geometry *geometry);
    /* What it is the first choice for, if conv_path.c lists it for that, and what it is able to do;
     * NULL: nothing but that. */
    bool (*takes)(const pg_conv_path_spec *spec);
    bool (*can)(const pg_conv_path_spec *spec);
    /* Of one direction, for which it took a convolution of this geometry; scratch for the thread
     * count in force; `plain` as in pg_conv_path_spec. */
    size_t (*packed_bytes)(const pg_conv_geometry *geometry, bool backward);
    size_t (*scratch_bytes)(const pg_conv_geometry *geometry, bool backward);
    void (*pack)(const pg_conv_geometry *geometry, bool backward, const float *plain,
                 float *packed);
    /* How it packs, if that is in tiles: then weights of some output channels can be picked out,
     * for calls with as many (pg_conv_call.channels). NULL: some other way. */
    pg_tiles (*tiles)(const pg_conv_geometry *geometry, bool backward);
    /* Where the weights picked out are not yet what run wants: makes that of `count` channels'.
     * NULL: they are. */
    void (*transform)(const pg_tiles *tiles, int64_t count, const float *picked, float *packed);
    /* Backward, NULL: not there. Where the weight from output channel `out` to input channel `in`
     * of this tap lies in what pack made, a sum of one term for each of the three; channels of the
     * input in eights side by side, to the end of the last vector. -1: not with this geometry. */
    int64_t (*place)(const pg_conv_geometry *geometry, int64_t out, int64_t in, int64_t tap);
    /* Every sum is taken in one order, whatever the number of threads. */
    void (*run)(const pg_conv_path *path, const pg_conv_call *call);
} pg_conv_kernel;

/* Gradient of a network's first convolution with respect to the picture. */
extern const pg_conv_kernel pg_conv_first;

/* Depthwise convolutions, 3, 5 or 7 wide; forward with bias and activation. */
extern const pg_conv_kernel pg_conv_depthwise;

/* Dense convolutions on small maps, both ways; forward with bias, addition and activation. */
extern const pg_conv_kernel pg_conv_small;

/* Dense 3x3 convolutions of whole vectors of channels, both ways; forward with bias, addition and
 * activation. Never the first choice: its weights take four times the memory. */
extern const pg_conv_kernel pg_conv_winograd;

/* Gradient of a dense convolution with respect to its input, for few of the output's channels; and
 * for not quite so few of a 3x3 one, by Winograd. */
extern const pg_conv_kernel pg_conv_few, pg_conv_few_winograd;

/* Dense convolutions of inputs that are 0 in many places (the spec says so). */
extern const pg_conv_kernel pg_conv_sparse;

#endif
