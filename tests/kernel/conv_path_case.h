/* A shape of conv_reference.h as conv_path.h takes it. */
#ifndef PG_TESTS_KERNEL_CONV_PATH_CASE_H
#define PG_TESTS_KERNEL_CONV_PATH_CASE_H

#include "conv_reference.h"
#include "kernels/conv_path.h"

static inline pg_conv_geometry conv_path_case(const conv_case *k) {
    int64_t h = conv_out_h(k), w = conv_out_w(k);
    pg_conv_geometry g = {k->groups,
                          k->in_c,
                          k->in_h,
                          k->in_w,
                          k->out_c,
                          h,
                          w,
                          k->k_h,
                          k->k_w,
                          {.strides = {k->stride_h, k->stride_w},
                           .dilates = {k->dilation_h - 1, k->dilation_w - 1},
                           .pad_begin = {k->top, k->left},
                           .pad_end = {k->bottom, k->right}}};
    /* oneDNN wants padding that fits the output exactly; it may be negative */
    g.dnnl.pad_end[0] = (h - 1) * k->stride_h + (k->k_h - 1) * k->dilation_h + 1 - k->in_h - k->top;
    g.dnnl.pad_end[1] =
        (w - 1) * k->stride_w + (k->k_w - 1) * k->dilation_w + 1 - k->in_w - k->left;
    return g;
}

#endif
