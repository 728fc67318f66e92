/* A Conv node on the bench of op_check.h, of a shape of conv_reference.h. */
#ifndef PG_TESTS_KERNEL_CONV_NODE_H
#define PG_TESTS_KERNEL_CONV_NODE_H

#include "tests/support/op_check.h"

#include <omp.h>

#include "conv_reference.h"
#include "kernels/op_conv.h"

static inline void conv_attributes(op_check *c, const conv_case *k) {
    op_check_attr_int(c, "group", k->groups);
    op_check_attr_ints(c, "strides", 2, (int64_t[]){k->stride_h, k->stride_w});
    op_check_attr_ints(c, "dilations", 2, (int64_t[]){k->dilation_h, k->dilation_w});
    op_check_attr_ints(c, "pads", 4, (int64_t[]){k->top, k->left, k->bottom, k->right});
}

/* Up to its weights, which are returned; a bias and op_check_create may follow. */
static inline const float *conv_node(op_check *c, const conv_case *k) {
    op_check_init(c, "Conv", 17);
    conv_attributes(c, k);
    op_check_input(c, SHAPE(1, k->in_c, k->in_h, k->in_w));
    return op_check_const(c, SHAPE(k->out_c, k->in_c / k->groups, k->k_h, k->k_w), NULL);
}

/* Batch normalisation of a created node: s of both signs around 1, and t, both [out_c]. */
static inline void conv_normalise(op_check *c, int64_t out_c, float **s, float **t) {
    *s = op_check_array(c, out_c);
    *t = op_check_array(c, out_c);
    float *spread = op_check_array(c, out_c);
    for (int64_t i = 0; i < out_c; i++) {
        (*s)[i] = (i % 3 ? 1.0f : -1.0f) * (1.0f + 0.7f * op_check_noise(c));
        (*t)[i] = op_check_noise(c);
        spread[i] = 1.0f;
    }
    cr_assert(pg_conv_absorb_batch_norm(c->op, *s, *t, spread));
}

/* The addition of a second input, of which the gradient is wanted too. */
static inline void conv_add_skip(op_check *c) {
    cr_assert(pg_conv_absorb_add(c->op));
    op_check_input(c, c->op->src[1].shape);
    c->want[1] = true;
}

/* With any number of threads up to `most` the bits are the same, both ways. `open` makes a started
 * operator of a shape, and runs it forward. */
static inline void conv_threads_do_not_show(const conv_case *shapes, int count, int most,
                                            void (*open)(op_check *, const conv_case *)) {
    int before = omp_get_max_threads();
    for (int i = 0; i < count; i++) {
        float *d_x = NULL, *y = NULL;
        size_t in = (size_t)(shapes[i].in_c * shapes[i].in_h * shapes[i].in_w) * sizeof(float);
        size_t out = (size_t)(shapes[i].out_c * conv_out_h(&shapes[i]) * conv_out_w(&shapes[i])) *
                     sizeof(float);
        for (int threads = 1; threads <= most; threads++) {
            op_check c;
            omp_set_num_threads(threads);
            open(&c, &shapes[i]);
            op_check_backward(&c);
            if (d_x) {
                cr_assert_eq(memcmp(y, c.y[0], out), 0, "shape %d, %d threads", i, threads);
                cr_assert_eq(memcmp(d_x, c.d_x[0], in), 0, "shape %d, %d threads", i, threads);
            } else {
                memcpy(d_x = pg_malloc(in), c.d_x[0], in);
                memcpy(y = pg_malloc(out), c.y[0], out);
            }
            op_check_close(&c);
        }
        pg_free(d_x);
        pg_free(y);
    }
    omp_set_num_threads(before);
}

#endif
