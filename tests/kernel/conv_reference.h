/* Convolution in plain double loops: what test_conv.c and test_conv_transpose.c compare
 * with, and the shapes they do it on. */
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

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right */
static const conv_case conv_grid[] = {
    {3, 12, 12, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    /* the ordinary one */
    {3, 17, 19, 16, 7, 7, 1, 2, 2, 1, 1, 3, 3, 3, 3},   /* ResNet's first */
    {16, 9, 9, 32, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},    /* pointwise */
    {16, 9, 9, 24, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},    /* pointwise, strided: a rest unread */
    {5, 7, 8, 11, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},     /* odd channels */
    {1, 6, 6, 1, 3, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0},      /* one channel, no padding */
    {32, 10, 10, 32, 3, 3, 32, 1, 1, 1, 1, 1, 1, 1, 1}, /* depthwise */
    {24, 11, 11, 24, 5, 5, 24, 2, 2, 1, 1, 2, 2, 2, 2}, /* depthwise, strided */
    {13, 8, 8, 13, 3, 3, 13, 1, 1, 1, 1, 1, 1, 1, 1},   /* depthwise, odd */
    {6, 8, 8, 12, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1},     /* depthwise with multiplier */
    {16, 8, 8, 32, 3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1},    /* groups */
    {9, 8, 8, 15, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},     /* odd groups, strided */
    {8, 14, 14, 8, 3, 3, 1, 1, 1, 2, 2, 2, 2, 2, 2},    /* dilated */
    {4, 15, 13, 6, 3, 2, 1, 2, 1, 3, 2, 1, 0, 2, 1},    /* everything different */
    {8, 9, 9, 8, 3, 3, 1, 2, 2, 1, 1, 0, 0, 1, 1},      /* TensorFlow's SAME at stride 2 */
    {8, 9, 9, 8, 3, 3, 8, 2, 2, 1, 1, 0, 0, 1, 1},      /* the same, depthwise */
    {16, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},     /* squeeze-excite */
    {4, 6, 6, 8, 6, 6, 1, 1, 1, 1, 1, 0, 0, 0, 0},      /* kernel as large as the input */
    {4, 1, 20, 8, 1, 5, 1, 1, 1, 1, 1, 0, 2, 0, 2},     /* one row */
    {12, 8, 8, 8, 1, 7, 1, 1, 1, 1, 1, 0, 3, 0, 3},     /* Inception's 1x7 */
    {3, 3, 2, 5, 5, 4, 1, 1, 1, 1, 1, 2, 1, 1, 2},      /* kernel larger than the input */
    {7, 11, 10, 9, 2, 1, 1, 3, 2, 1, 1, 0, 0, 0, 0},    /* stride larger than the kernel */
    {4, 5, 6, 6, 2, 3, 1, 1, 2, 1, 1, 4, 0, 3, 5},      /* padding beyond the kernel */
    {5, 9, 8, 15, 3, 2, 5, 2, 1, 1, 2, 1, 0, 0, 1},     /* depthwise, multiplier 3, asymmetric */
    {6, 10, 9, 4, 3, 3, 2, 1, 2, 2, 3, 2, 1, 0, 4},     /* groups, dilated, asymmetric */
    {8, 12, 12, 6, 2, 2, 1, 2, 2, 1, 1, 0, 0, 0, 0},    /* U-Net's step up, the other way */
};
enum { CONV_GRID = sizeof conv_grid / sizeof conv_grid[0] };

/* Any small convolution, the next of a fixed sequence. */
static inline conv_case conv_any(uint64_t *state) {
    static const int64_t channels[] = {1, 2, 3, 5, 8, 13, 16, 24, 33};
    int64_t r[14];
    conv_case c;
    do {
        for (int i = 0; i < 14; i++) {
            *state = *state * 6364136223846793005ull + 1442695040888963407ull;
            r[i] = (int64_t)(*state >> 33);
        }
        int64_t kind = r[0] % 4, a = channels[r[1] % 9], b = channels[r[2] % 9];
        c = (conv_case){.groups = kind == 0   ? a
                                  : kind == 1 ? 2
                                              : 1,
                        .in_h = 1 + r[3] % 12,
                        .in_w = 1 + r[4] % 12,
                        .k_h = 1 + r[5] % 4,
                        .k_w = 1 + r[6] % 4,
                        .stride_h = 1 + r[7] % 3,
                        .stride_w = 1 + r[8] % 3,
                        .dilation_h = r[9] % 3 ? 1 : 2,
                        .dilation_w = r[9] % 5 ? 1 : 3,
                        .top = r[10] % 3,
                        .left = r[11] % 3,
                        .bottom = r[12] % 3,
                        .right = r[13] % 3};
        c.in_c = kind == 1 ? 2 * a : a;
        c.out_c = kind == 0 ? a * (1 + r[2] % 2) : kind == 1 ? 2 * b : b;
    } while (c.in_h + c.top + c.bottom < (c.k_h - 1) * c.dilation_h + 1 ||
             c.in_w + c.left + c.right < (c.k_w - 1) * c.dilation_w + 1);
    return c;
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
