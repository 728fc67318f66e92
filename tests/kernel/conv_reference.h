/* Convolution in plain double loops: what test_conv.c compares with. */
#ifndef PG_TESTS_KERNEL_CONV_REFERENCE_H
#define PG_TESTS_KERNEL_CONV_REFERENCE_H

#include <stdint.h>
#include <stdlib.h>

/* Batch 1, two axes; dilation as ONNX counts it (1: none). out_h and out_w follow from the rest. */
typedef struct conv_case {
    int64_t in_c, in_h, in_w, out_c, k_h, k_w, groups;
    int64_t stride_h, stride_w, dilation_h, dilation_w;
    int64_t top, left, bottom, right; /* padding */
} conv_case;

static inline int64_t conv_out(int64_t in, int64_t pads, int64_t k, int64_t dilation,
                               int64_t stride) {
    return (in + pads - (k - 1) * dilation - 1) / stride + 1;
}

static inline int64_t conv_out_h(const conv_case *c) {
    return conv_out(c->in_h, c->top + c->bottom, c->k_h, c->dilation_h, c->stride_h);
}

static inline int64_t conv_out_w(const conv_case *c) {
    return conv_out(c->in_w, c->left + c->right, c->k_w, c->dilation_w, c->stride_w);
}

/* Calls the body for every (output element, weight, input element) that meet. */
typedef void conv_visit(void *user, int64_t out, int64_t weight, int64_t in);

static inline void conv_walk(const conv_case *c, conv_visit *visit, void *user) {
    int64_t oh = conv_out_h(c), ow = conv_out_w(c), og = c->out_c / c->groups,
            ig = c->in_c / c->groups;
    for (int64_t o = 0; o < c->out_c; o++)
        for (int64_t y = 0; y < oh; y++)
            for (int64_t x = 0; x < ow; x++)
                for (int64_t i = 0; i < ig; i++)
                    for (int64_t ky = 0; ky < c->k_h; ky++)
                        for (int64_t kx = 0; kx < c->k_w; kx++) {
                            int64_t iy = y * c->stride_h - c->top + ky * c->dilation_h;
                            int64_t ix = x * c->stride_w - c->left + kx * c->dilation_w;
                            if (iy < 0 || iy >= c->in_h || ix < 0 || ix >= c->in_w)
                                continue;
                            visit(user, (o * oh + y) * ow + x,
                                  ((o * ig + i) * c->k_h + ky) * c->k_w + kx,
                                  ((o / og * ig + i) * c->in_h + iy) * c->in_w + ix);
                        }
}

typedef struct conv_arrays {
    const double *x, *w, *g;
    double *out;
} conv_arrays;

static inline void conv_visit_forward(void *user, int64_t out, int64_t weight, int64_t in) {
    conv_arrays *a = user;
    a->out[out] += a->x[in] * a->w[weight];
}

static inline void conv_visit_backward(void *user, int64_t out, int64_t weight, int64_t in) {
    conv_arrays *a = user;
    a->out[in] += a->g[out] * a->w[weight];
}

/* z [out_c,oh,ow] = conv(x, w) + b (NULL: none). */
static inline void conv_forward(const conv_case *c, const double *x, const double *w,
                                const double *b, double *z) {
    int64_t spatial = conv_out_h(c) * conv_out_w(c);
    for (int64_t i = 0; i < c->out_c * spatial; i++)
        z[i] = b ? b[i / spatial] : 0;
    conv_walk(c, conv_visit_forward, &(conv_arrays){.x = x, .w = w, .out = z});
}

/* d_x [in_c,in_h,in_w] from g = dL/dz. */
static inline void conv_backward(const conv_case *c, const double *g, const double *w,
                                 double *d_x) {
    for (int64_t i = 0; i < c->in_c * c->in_h * c->in_w; i++)
        d_x[i] = 0;
    conv_walk(c, conv_visit_backward, &(conv_arrays){.g = g, .w = w, .out = d_x});
}

#endif
