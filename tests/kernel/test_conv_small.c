/* Dense convolutions on small maps against plain double loops, both ways: channels around vectors,
 * tiles and blocks, positions around groups, every stride and padding that leaves taps outside the
 * map, what is fused in, and any number of threads with the same bits. test_conv_tune.c has shapes
 * where this is not the first choice. */
#include "tests/support/op_check.h"

#include "conv_node.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right */
static const conv_case shapes[] = {
    {64, 7, 7, 64, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {130, 7, 7, 96, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* two blocks of channels, tiles of three */
    {67, 7, 7, 81, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},  /* one channel over, in tiles of two */
    {300, 5, 4, 79, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, /* tiles of different width */
    {160, 7, 7, 160, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {64, 14, 14, 80, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1},
    {80, 14, 14, 64, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0}, /* backward: positions that nothing meets */
    {64, 13, 1, 64, 3, 1, 1, 2, 1, 1, 1, 1, 0, 0, 0},
    {64, 1, 1, 72, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, /* one position */
    {64, 2, 2, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* no window inside */
    {65, 6, 5, 64, 2, 3, 1, 1, 2, 1, 1, 4, 0, 3, 5}, /* padding beyond the kernel */
    {64, 9, 8, 64, 3, 3, 1, 1, 1, 2, 2, 2, 2, 1, 2}, /* dilated */
    {70, 8, 8, 64, 3, 2, 1, 3, 1, 1, 1, 0, 1, 2, 0}, /* no tap meets all positions */
    {64, 7, 7, 64, 7, 7, 1, 1, 1, 1, 1, 0, 0, 0, 0}, /* kernel as large as the map */
    {1040, 3, 3, 64, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

typedef enum fused { PLAIN, RELU, CLIP, FUSED } fused;
static const float LO[FUSED] = {-INFINITY, 0, -0.5f}, HI[FUSED] = {INFINITY, INFINITY, 2};

static const float *open(op_check *c, const conv_case *k, fused act, bool skip, bool bias,
                         bool library_only, const float **b) {
    static const pg_act acts[FUSED] = {PG_ACT_NONE, PG_ACT_RELU, PG_ACT_CLIP};
    const float *w = conv_node(c, k);
    *b = bias ? op_check_const(c, SHAPE(k->out_c), NULL) : NULL;
    op_check_create(c);
    if (skip)
        conv_add_skip(c);
    pg_conv_absorb_activation(c->op, acts[act], LO[act], HI[act]);
    if (library_only)
        pg_conv_library_only(c->op);
    op_check_start(c, PG_CHANNELS_LAST);
    op_check_forward(c);
    return w;
}

/* Sums of up to some thousand products of float rounding: 3e-6 of the largest before it is clipped.
 */
static void check(const conv_case *k, fused act, bool skip, bool bias, bool library_only) {
    op_check c;
    const float *b, *w = open(&c, k, act, skip, bias, library_only, &b);
    cr_assert_eq(strncmp(c.op->impl, "own:small", 9) != 0, library_only, "%s", c.op->impl);
    cr_assert_eq(strstr(c.op->impl, "backward own:small") == NULL, library_only);
    int64_t places = conv_out_h(k) * conv_out_w(k), n = k->out_c * places;
    int64_t in = k->in_c * k->in_h * k->in_w;
    const double *x = op_check_widen(&c, c.x[0], in),
                 *s = skip ? op_check_widen(&c, c.x[1], n) : NULL;
    const double *wide = op_check_widen(&c, w, k->out_c * k->in_c * k->k_h * k->k_w);
    double *z = op_check_widen(&c, NULL, n), *g = op_check_widen(&c, c.d_y[0], n);
    double *d_x = op_check_widen(&c, NULL, in);
    op_check_backward(&c);
    conv_forward(k, x, wide, b ? op_check_widen(&c, b, k->out_c) : NULL, z);
    double largest = 0, clipped = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        z[i] += s ? s[i] : 0;
        largest = fmax(largest, fabs(z[i]));
        g[i] = z[i] > (double)LO[act] && z[i] < (double)HI[act] ? g[i] : 0;
        z[i] = fmin(fmax(z[i], (double)LO[act]), (double)HI[act]);
        clipped = fmax(clipped, fabs(z[i]));
    }
    op_check_dst(&c, 0, z, 3e-6 * largest / clipped);
    conv_backward(k, g, wide, d_x);
    op_check_d_src(&c, 0, d_x, 3e-6);
    op_check_close(&c);
}

static bool is_here(void) { return __builtin_cpu_supports("avx512f"); }

Test(conv_small, matches_plain_loops) {
    for (int i = 0; is_here() && i < SHAPES; i++)
        check(&shapes[i], PLAIN, false, i % 2, false);
}

Test(conv_small, with_what_is_fused_in) {
    for (int i = 0; is_here() && i < SHAPES; i++)
        for (int form = 1; form < 6; form++)
            check(&shapes[i], (fused)(form / 2), form % 2, (form + i) % 3, false);
}

Test(conv_small, leaves_it_to_the_library_where_told) {
    check(&shapes[0], RELU, true, true, true);
    check(&shapes[5], PLAIN, false, false, true);
}

static void open_all(op_check *c, const conv_case *k) {
    const float *b;
    open(c, k, RELU, true, true, false, &b);
}

Test(conv_small, threads_do_not_show) {
    if (is_here())
        conv_threads_do_not_show(shapes, SHAPES, 4, open_all);
}
