/* The gradient with respect to a picture against plain double loops: row lengths around the vectors
 * it is computed in, strides and dilations with columns that no tap meets, and any number of
 * threads with the same bits. test_conv.c has any geometry, and so many that are not for this
 * kernel. */
#include "tests/support/op_check.h"

#include <omp.h>

#include "conv_node.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right */
static const conv_case shapes[] = {
    {3, 20, 224, 16, 7, 7, 1, 2, 2, 1, 1, 3, 3, 3, 3}, /* ResNet's, seven vectors a phase */
    {3, 9, 113, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  /* one column more: eight in two blocks */
    {3, 6, 15, 5, 3, 3, 1, 2, 2, 1, 1, 0, 0, 0, 0},
    {3, 6, 16, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {1, 28, 28, 33, 5, 5, 1, 1, 1, 1, 1, 2, 2, 2, 2},
    {1, 5, 1, 17, 3, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0},
    {3, 32, 37, 48, 4, 4, 1, 4, 4, 1, 1, 0, 0, 0, 0},  /* patches, with a rest unread */
    {3, 23, 40, 8, 11, 11, 1, 4, 4, 1, 1, 2, 2, 2, 2}, /* AlexNet's */
    {3, 15, 50, 16, 3, 3, 1, 2, 3, 4, 5, 4, 5, 3, 6},  /* dilated, asymmetric */
    {1, 11, 19, 16, 2, 2, 1, 3, 5, 1, 1, 0, 0, 0, 0},  /* columns that nothing meets */
    {3, 4, 6, 16, 2, 3, 1, 1, 2, 1, 1, 3, 7, 3, 9},    /* padding beyond the kernel */
    {3, 3, 2, 5, 5, 4, 1, 1, 1, 1, 1, 2, 1, 1, 2},     /* kernel larger than the picture */
    {3, 1, 40, 8, 1, 32, 1, 1, 1, 1, 1, 0, 16, 0, 16}, /* as many taps as it takes */
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void open(op_check *c, const conv_case *k, bool library_only, const float **w) {
    *w = conv_node(c, k);
    op_check_create(c);
    if (library_only)
        pg_conv_library_only(c->op);
    op_check_start(c, PG_CHANNELS_LAST);
    op_check_forward(c);
}

/* Sums of up to some thousand products of float rounding: 2e-6 of the largest, as in test_conv.c.
 */
static void check(const conv_case *k, bool library_only) {
    op_check c;
    const float *w;
    open(&c, k, library_only, &w);
    cr_assert_eq(strstr(c.op->impl, "own:picture") == NULL, library_only, "%s", c.op->impl);
    int64_t places = conv_out_h(k) * conv_out_w(k), taps = k->in_c * k->k_h * k->k_w;
    double *d_x = op_check_widen(&c, NULL, k->in_c * k->in_h * k->in_w);
    op_check_backward(&c);
    conv_backward(k, op_check_widen(&c, c.d_y[0], k->out_c * places), op_check_widen(&c, w, k->out_c * taps), d_x);
    op_check_d_src(&c, 0, d_x, 2e-6);
    op_check_close(&c);
}

Test(conv_first, matches_plain_loops) {
    for (int i = 0; i < SHAPES; i++)
        check(&shapes[i], false);
}

Test(conv_first, leaves_it_to_the_library_where_told) {
    check(&shapes[0], true);
    check(&shapes[4], true);
}

Test(conv_first, threads_do_not_show) {
    int before = omp_get_max_threads();
    for (int i = 0; i < SHAPES; i++) {
        float *first = NULL;
        size_t bytes = (size_t)(shapes[i].in_c * shapes[i].in_h * shapes[i].in_w) * sizeof(float);
        for (int threads = 1; threads <= 5; threads++) {
            op_check c;
            const float *w;
            omp_set_num_threads(threads);
            open(&c, &shapes[i], false, &w);
            op_check_backward(&c);
            if (first)
                cr_assert_eq(memcmp(first, c.d_x[0], bytes), 0, "shape %d, %d threads", i, threads);
            else
                memcpy(first = pg_malloc(bytes), c.d_x[0], bytes);
            op_check_close(&c);
        }
        pg_free(first);
    }
    omp_set_num_threads(before);
}
