/* The plain reference of operators that move elements: every element of the result looked up one by
 * one, and its gradient added where it came from. */
#ifndef PG_TESTS_INDEX_REFERENCE_H
#define PG_TESTS_INDEX_REFERENCE_H

#include "tests/support/op_check.h"

enum { MOST = 1 << 18 };

/* Row-major strides of a plain tensor. */
OP_CHECK_API void plain_strides(const pg_shape *shape, int64_t strides[PG_MAX_RANK]) {
    pg_desc desc = {.shape = *shape};
    pg_desc_strides(&desc, strides);
}

OP_CHECK_API void coordinates(const pg_shape *shape, int64_t flat, int64_t at[PG_MAX_RANK]) {
    for (int i = shape->rank - 1; i >= 0; i--) {
        at[i] = flat % shape->dims[i];
        flat /= shape->dims[i];
    }
}

/* Where element `at` of the result comes from: an offset in x, -1 for padding. */
typedef int64_t (*source)(const void *what, const pg_shape *src, const int64_t *at);

OP_CHECK_API void compare(op_check *c, source from, const void *what, double fill) {
    static double expected[MOST], d_x[MOST];
    memset(d_x, 0, sizeof d_x);
    const pg_shape *dst = &c->op->dst[0].shape;
    cr_assert(pg_shape_count(dst) <= MOST && pg_shape_count(&c->op->src[0].shape) <= MOST);
    op_check_forward(c);
    for (int64_t i = 0; i < pg_shape_count(dst); i++) {
        int64_t at[PG_MAX_RANK];
        coordinates(dst, i, at);
        int64_t k = from(what, &c->op->src[0].shape, at);
        expected[i] = k < 0 ? fill : (double)c->x[0][k];
        if (k >= 0)
            d_x[k] += (double)c->d_y[0][i];
    }
    op_check_dst(c, 0, expected, 0);
    op_check_backward(c);
    op_check_d_src(c, 0, d_x, 1e-6);
}

#endif
