/* Transposed convolution against plain double loops. A case is written as the convolution that
 * leads back from the node's output to its input: forward is that one's gradient, backward is
 * itself. */
#include "tests/support/op_check.h"

#include "conv_node.h"

typedef struct fixture {
    op_check c;
    conv_case k; /* in_*: the node's output; conv_out_*: its input */
    int64_t x_n, w_n, y_n, spatial;
    double *x, *w, *b; /* b NULL: none */
    double *d_y, *y, *d_x;
} fixture;

/* What the stride leaves unread on the way back is what output_padding adds. */
static int64_t rest(int64_t in, int64_t pads, int64_t k, int64_t dilation, int64_t stride) {
    return (in + pads - (k - 1) * dilation - 1) % stride;
}

static void set_attributes(op_check *c, const conv_case *k) {
    conv_attributes(c, k);
    op_check_attr_ints(
        c, "output_padding", 2,
        (int64_t[]){rest(k->in_h, k->top + k->bottom, k->k_h, k->dilation_h, k->stride_h),
                    rest(k->in_w, k->left + k->right, k->k_w, k->dilation_w, k->stride_w)});
}

/* Input, weights and bias, once the attributes are set; opens the bench. */
static void begin(fixture *f, bool bias) {
    const conv_case *k = &f->k;
    f->x_n = k->out_c * conv_out_h(k) * conv_out_w(k);
    f->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    f->spatial = k->in_h * k->in_w;
    f->y_n = k->in_c * f->spatial;
    op_check_input(&f->c, SHAPE(1, k->out_c, conv_out_h(k), conv_out_w(k)));
    f->w =
        op_check_widen(&f->c, op_check_const(&f->c, SHAPE(k->out_c, k->in_c / k->groups, k->k_h, k->k_w), NULL),
              f->w_n);
    f->b = bias ? op_check_widen(&f->c, op_check_const(&f->c, SHAPE(k->in_c), NULL), k->in_c) : NULL;
    op_check_open(&f->c, PG_CHANNELS_LAST);
    op_check_shape(&f->c, 0, SHAPE(1, k->in_c, k->in_h, k->in_w));
    f->x = op_check_widen(&f->c, f->c.x[0], f->x_n);
    f->d_y = op_check_widen(&f->c, f->c.d_y[0], f->y_n);
    f->y = op_check_widen(&f->c, NULL, f->y_n);
    f->d_x = op_check_widen(&f->c, NULL, f->x_n);
}

static void open_case(fixture *f, const conv_case *k, bool bias) {
    memset(f, 0, sizeof *f);
    f->k = *k;
    op_check_init(&f->c, "ConvTranspose", 17);
    set_attributes(&f->c, k);
    begin(f, bias);
}

/* The tolerances of test_conv.c: sums of some hundred products in float. */
static void check(fixture *f) {
    conv_backward(&f->k, f->x, f->w, f->y);
    for (int64_t i = 0; f->b && i < f->y_n; i++)
        f->y[i] += f->b[i / f->spatial];
    op_check_forward(&f->c);
    op_check_dst(&f->c, 0, f->y, 2e-6);
    op_check_backward(&f->c);
    conv_forward(&f->k, f->d_y, f->w, NULL, f->d_x);
    op_check_d_src(&f->c, 0, f->d_x, 2e-6);
}

Test(conv_transpose, forward_and_backward_match_plain_loops) {
    for (int i = 0; i < CONV_GRID; i++)
        for (int bias = 0; bias < 2; bias++) {
            fixture f;
            open_case(&f, &conv_grid[i], bias);
            cr_assert(strstr(f.c.op->impl, "ref") == NULL, "grid row %d runs %s", i, f.c.op->impl);
            check(&f);
            op_check_close(&f.c);
        }
}

Test(conv_transpose, any_geometry_matches_plain_loops) {
    uint64_t state = 12;
    for (int i = 0; i < 150; i++) {
        conv_case k = conv_any(&state);
        fixture f;
        open_case(&f, &k, i % 2);
        cr_assert(strstr(f.c.op->impl, "ref") == NULL, "case %d runs %s", i, f.c.op->impl);
        check(&f);
        op_check_close(&f.c);
    }
}

Test(conv_transpose, backward_agrees_with_finite_differences) {
    for (int i = 0; i < CONV_GRID; i++) {
        fixture f;
        open_case(&f, &conv_grid[i], true);
        if (f.x_n < 400)
            op_check_gradient(&f.c, 5e-3);
        op_check_close(&f.c);
    }
}

/* Sizes given by name or number. begin: how much is cropped in front; the rest follows. Worked out
 * by hand from the formulas of ConvTranspose-11. */
Test(conv_transpose, output_shape_and_auto_pad) {
    static const struct {
        const char *mode; /* NULL: no auto_pad */
        int64_t in, stride, k, dilation, extra, asked, out, begin;
    } rows[] = {
        {"SAME_UPPER", 3, 2, 3, 1, 0, 0, 6, 0}, /* 7 reached, one too many */
        {"SAME_LOWER", 3, 2, 3, 1, 0, 0, 6, 1},
        {"SAME_UPPER", 4, 2, 5, 1, 0, 0, 8, 1}, /* 11 reached */
        {"SAME_LOWER", 4, 2, 5, 1, 0, 0, 8, 2},
        {"SAME_UPPER", 5, 1, 2, 3, 0, 0, 5, 1}, /* 8 reached */
        {"SAME_UPPER", 3, 3, 1, 1, 0, 0, 9, 0}, /* 7 reached: two behind have the bias alone */
        {"VALID", 3, 2, 3, 1, 0, 0, 7, 0},
        {"VALID", 3, 2, 3, 1, 1, 0, 8, 0},
        {NULL, 3, 3, 3, 1, 0, 10, 10, 0}, /* 9 reached */
        {NULL, 4, 2, 4, 1, 0, 7, 7, 2},   /* 10 reached, 3 too many, 2 in front */
        {"SAME_UPPER", 4, 2, 4, 1, 0, 7, 7, 1},
        {"SAME_LOWER", 4, 2, 4, 1, 0, 7, 7, 2},
        {NULL, 4, 2, 4, 1, 1, 7, 7, 2},   /* 11 with output_padding, 4 too many */
        {NULL, 4, 2, 4, 1, 1, 10, 10, 1}, /* the one in front is cropped for it */
        {NULL, 2, 3, 2, 1, 0, 1, 1, 2},   /* 5 reached, 1 left */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fixture f = {0};
        int64_t s = rows[i].stride, d = rows[i].dilation, out = rows[i].out, k = rows[i].k;
        int64_t end = (rows[i].in - 1) * s + (k - 1) * d + 1 - rows[i].begin - out;
        end = end > 0 ? end : 0;
        f.k = (conv_case){2, out,           out,           3,   k,  k, 1, s, s, d,
                          d, rows[i].begin, rows[i].begin, end, end};
        cr_assert_eq(conv_out_h(&f.k), rows[i].in, "row %zu contradicts itself", i);
        op_check_init(&f.c, "ConvTranspose", 11);
        op_check_attr_ints(&f.c, "strides", 2, (int64_t[]){s, s});
        op_check_attr_ints(&f.c, "dilations", 2, (int64_t[]){d, d});
        if (rows[i].mode)
            op_check_attr_string(&f.c, "auto_pad", rows[i].mode);
        else
            op_check_attr_ints(&f.c, "pads", 4, (int64_t[]){1, 1, 1, 1}); /* to be ignored */
        if (rows[i].extra)
            op_check_attr_ints(&f.c, "output_padding", 2,
                               (int64_t[]){rows[i].extra, rows[i].extra});
        if (rows[i].asked)
            op_check_attr_ints(&f.c, "output_shape", 2, (int64_t[]){out, out});
        begin(&f, true);
        check(&f);
        op_check_close(&f.c);
    }
}

Test(conv_transpose, one_dimensional) {
    conv_case k = {9, 1, 21, 6, 1, 5, 3, 1, 2, 1, 2, 0, 3, 0, 1};
    enum { X = 6 * 9, Y = 9 * 21, WEIGHTS = 6 * 3 * 5 };
    op_check c;
    op_check_init(&c, "ConvTranspose", 13);
    op_check_attr_int(&c, "group", k.groups);
    op_check_attr_ints(&c, "strides", 1, &k.stride_w);
    op_check_attr_ints(&c, "dilations", 1, &k.dilation_w);
    op_check_attr_ints(&c, "pads", 2, (int64_t[]){k.left, k.right});
    op_check_attr_ints(&c, "kernel_shape", 1, &k.k_w);
    op_check_input(&c, SHAPE(1, k.out_c, 9));
    const float *w = op_check_const(&c, SHAPE(k.out_c, k.in_c / k.groups, k.k_w), NULL);
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, SHAPE(1, k.in_c, k.in_w));
    double x[X], wd[WEIGHTS], y[Y];
    for (int i = 0; i < X; i++)
        x[i] = (double)c.x[0][i];
    for (int i = 0; i < WEIGHTS; i++)
        wd[i] = (double)w[i];
    conv_backward(&k, x, wd, y);
    op_check_forward(&c);
    op_check_dst(&c, 0, y, 2e-6);
    op_check_gradient(&c, 5e-3);
    op_check_close(&c);
}

Test(conv_transpose, nobody_wants_the_gradient) {
    op_check c;
    op_check_init(&c, "ConvTranspose", 17);
    op_check_input(&c, SHAPE(1, 3, 4, 4));
    op_check_const(&c, SHAPE(3, 2, 2, 2), NULL);
    op_check_create(&c);
    c.want[0] = false;
    op_check_start(&c, PG_CHANNELS_LAST);
    op_check_forward(&c);
    op_check_backward(&c);
    op_check_close(&c);
}

static void transpose_of(op_check *c, pg_shape x, pg_shape w) {
    op_check_init(c, "ConvTranspose", 17);
    op_check_input(c, x);
    op_check_const(c, w, NULL);
}

static void refused(const char *attr, size_t count, const int64_t *values, const char *part) {
    op_check c;
    transpose_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 3, 3, 3));
    op_check_attr_ints(&c, attr, count, values);
    op_check_refused(&c, part);
}

Test(conv_transpose, refuses_what_it_cannot_do) {
    refused("pads", 4, (int64_t[]){0, 0, -1, 0}, "negative padding");
    refused("pads", 4, (int64_t[]){3, 0, 3, 0}, "leaves no output");
    refused("pads", 2, (int64_t[]){1, 1}, "'pads' has 2 values instead of 4");
    refused("strides", 2, (int64_t[]){1, 0}, "stride 0");
    refused("kernel_shape", 2, (int64_t[]){3, 2}, "kernel_shape says 2");
    refused("output_padding", 2, (int64_t[]){-1, 0}, "output_padding -1");
    refused("output_padding", 2, (int64_t[]){0, INT64_MAX}, "out of range");
    refused("output_padding", 2, (int64_t[]){0, 1}, "1 positions, a stride or more");
    refused("output_shape", 2, (int64_t[]){6, 0}, "output_shape 0");
    refused("output_shape", 2, (int64_t[]){6, 7}, "1 positions, a stride or more");
    refused("output_shape", 2, (int64_t[]){6, INT64_MAX}, "beyond what the input reaches");
    refused("output_shape", 4, (int64_t[]){1, 3, 6, 6}, "'output_shape' has 4 values");
    op_check c;
    transpose_of(&c, SHAPE(1, 2, 4, 4, 4), SHAPE(2, 2, 3, 3, 3));
    op_check_refused(&c, "3-D convolutions are not supported");
    transpose_of(&c, SHAPE(2, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_refused(&c, "batch size is 2");
    transpose_of(&c, SHAPE(1, 3, 4, 4), SHAPE(2, 3, 3, 3));
    op_check_refused(&c, "do not fit together");
    transpose_of(&c, SHAPE(1, 3, 4, 4), SHAPE(3, 2, 3, 3));
    op_check_attr_int(&c, "group", 2);
    op_check_refused(&c, "do not fit together");
    transpose_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 3, 3, 3));
    op_check_attr_int(&c, "group", INT64_MAX);
    op_check_refused(&c, "group");
    transpose_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 3, 3, 3));
    op_check_const(&c, SHAPE(2), NULL);
    op_check_refused(&c, "bias has the shape [2]");
    op_check_init(&c, "ConvTranspose", 17);
    op_check_input(&c, SHAPE(1, 2, 4, 4));
    op_check_input(&c, SHAPE(2, 2, 3, 3));
    op_check_refused(&c, "weights are computed at run time");
}

/* Every allocation in turn fails: an error each time, no leak, no crash, until it works. */
Test(conv_transpose, survives_running_out_of_memory) {
    for (int64_t after = 0;; after++) {
        op_check c;
        transpose_of(&c, SHAPE(1, 4, 6, 6), SHAPE(4, 8, 3, 3));
        op_check_const(&c, SHAPE(8), NULL);
        uint64_t live = pg_mem_get_stats().live_blocks;
        pg_mem_fail(after, 1);
        pg_err err = op_check_try_create(&c);
        if (!err) {
            c.op->src[0].layout = c.op->dst[0].layout = PG_CHANNELS_LAST;
            err = c.op->cls->prepare(c.op, &c.diag);
        }
        pg_mem_fail(0, 0);
        pg_op_destroy(&c.op);
        cr_assert(pg_mem_get_stats().live_blocks == live, "leak at allocation %lld",
                  (long long)after);
        op_check_close(&c);
        if (!err)
            return;
        cr_assert(after < 200 && err == PG_ENOMEM, "allocation %lld: error %d", (long long)after,
                  err);
    }
}
