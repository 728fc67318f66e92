/* Depthwise convolutions against plain double loops, both ways: channels around the vectors,
 * columns around the blocks of outputs, maps that are taken in tiles of channels and maps that are
 * not, windows that reach beyond the map on either side, and any number of threads with the same
 * bits. */
#include "tests/support/op_check.h"

#include "conv_node.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right */
static const conv_case shapes[] = {
    {32, 9, 14, 32, 3, 3, 32, 1, 1, 1, 1, 1, 1, 1, 1},
    {33, 7, 7, 33, 3, 3, 33, 1, 1, 1, 1, 1, 1, 1, 1}, /* the last vector overlaps */
    {16, 5, 4, 16, 3, 3, 16, 1, 1, 1, 1, 0, 0, 0, 0}, /* two columns inside */
    {47, 6, 9, 47, 5, 5, 47, 1, 1, 1, 1, 2, 2, 2, 2},
    {200, 14, 15, 200, 3, 3, 200, 1, 1, 1, 1, 1, 1, 1, 1},    /* tiles, the last one narrow */
    {1009, 12, 12, 1009, 3, 3, 1009, 1, 1, 1, 1, 1, 1, 1, 1}, /* one channel over */
    {480, 25, 25, 480, 5, 5, 480, 1, 1, 1, 1, 2, 2, 2, 2},    /* too large for tiles */
    {24, 11, 13, 24, 3, 3, 24, 2, 2, 1, 1, 1, 1, 1, 1},
    {24, 12, 10, 24, 5, 5, 24, 2, 2, 1, 1, 1, 2, 2, 1},
    {96, 10, 11, 96, 7, 7, 96, 1, 1, 1, 1, 3, 3, 3, 3}, /* ConvNeXt */
    {16, 2, 2, 16, 7, 7, 16, 1, 1, 1, 1, 4, 3, 3, 4},   /* no window inside */
    {17, 6, 8, 17, 3, 3, 17, 1, 1, 1, 1, 3, 5, 4, 6},   /* padding beyond the kernel */
    {20, 1, 30, 20, 1, 5, 20, 1, 1, 1, 1, 0, 2, 0, 2},
    {20, 9, 9, 20, 3, 3, 20, 2, 1, 1, 1, 1, 1, 1, 1},
    {20, 9, 9, 20, 5, 3, 20, 1, 2, 1, 1, 0, 0, 4, 1},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static const float LO = -0.5f, HI = 0.75f;

static void open(op_check *c, const conv_case *k, bool library_only, const float **w) {
    *w = conv_node(c, k);
    op_check_create(c);
    pg_conv_absorb_activation(c->op, PG_ACT_CLIP, LO, HI);
    if (library_only)
        pg_conv_library_only(c->op);
    op_check_start(c, PG_CHANNELS_LAST);
    op_check_forward(c);
}

/* Sums of up to 49 products of float rounding, of the largest; clipping hides how large y was. */
static void check(const conv_case *k, bool library_only) {
    op_check c;
    const float *w;
    open(&c, k, library_only, &w);
    bool strided = k->stride_h > 1 || k->stride_w > 1; /* backward is then the library's */
    cr_assert_eq(strncmp(c.op->impl, "own:depthwise", 13) != 0, library_only, "%s", c.op->impl);
    cr_assert_eq(strstr(c.op->impl, "backward own:depthwise") == NULL, library_only || strided);
    int64_t places = conv_out_h(k) * conv_out_w(k), n = k->out_c * places;
    const double *x = op_check_widen(&c, c.x[0], k->in_c * k->in_h * k->in_w);
    const double *wide = op_check_widen(&c, w, k->out_c * k->k_h * k->k_w);
    double *z = op_check_widen(&c, NULL, n), *g = op_check_widen(&c, c.d_y[0], n);
    double *d_x = op_check_widen(&c, NULL, k->in_c * k->in_h * k->in_w);
    op_check_backward(&c);
    conv_forward(k, x, wide, NULL, z);
    for (int64_t i = 0; i < n; i++) {
        g[i] = z[i] > (double)LO && z[i] < (double)HI ? g[i] : 0;
        z[i] = fmin(fmax(z[i], (double)LO), (double)HI);
    }
    op_check_dst(&c, 0, z, 1e-5);
    conv_backward(k, g, wide, d_x);
    op_check_d_src(&c, 0, d_x, 2e-6);
    op_check_close(&c);
}

Test(conv_depthwise, matches_plain_loops) {
    for (int i = 0; i < SHAPES; i++)
        check(&shapes[i], false);
}

Test(conv_depthwise, leaves_it_to_the_library_where_told) {
    check(&shapes[0], true);
    check(&shapes[8], true);
}

static void open_own(op_check *c, const conv_case *k) {
    const float *w;
    open(c, k, false, &w);
}

Test(conv_depthwise, threads_do_not_show) { conv_threads_do_not_show(shapes, SHAPES, 3, open_own); }
