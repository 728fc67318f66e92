/* Batch normalisation against its formula in double, in both layouts, and with what is folded into
 * it: the concatenation before, the activation behind. */
#include "tests/support/op_check.h"

#include "kernels/op_batchnorm.h"

enum { C = 5 };

static void bench(op_check *c, pg_shape shape, const float *k[4]) {
    op_check_init(c, "BatchNormalization", 15);
    op_check_attr_float(c, "epsilon", 1e-3f);
    op_check_attr_float(c, "momentum", 0.9f);
    op_check_input(c, shape);
    for (int i = 0; i < 3; i++)
        k[i] = op_check_const(c, SHAPE(shape.dims[1]), NULL);
    float variance[256];
    for (int64_t i = 0; i < shape.dims[1]; i++)
        variance[i] = 0.01f + 0.3f * (float)i;
    k[3] = op_check_const(c, SHAPE(shape.dims[1]), variance);
}

static void check(pg_shape shape, pg_layout layout) {
    op_check c;
    const float *k[4];
    bench(&c, shape, k);
    op_check_open(&c, layout);
    op_check_shape(&c, 0, shape);
    int64_t n = pg_shape_count(&shape), channels = shape.dims[1];
    int64_t positions = n / shape.dims[0] / channels;
    double *y = op_check_own(&c, pg_malloc((size_t)n * sizeof *y));
    double *d_x = op_check_own(&c, pg_malloc((size_t)n * sizeof *d_x));
    for (int64_t i = 0; i < n; i++) {
        int64_t ch = i / positions % channels;
        double a = k[0][ch] / sqrt((double)k[3][ch] + 1e-3f);
        y[i] = a * ((double)c.x[0][i] - k[2][ch]) + k[1][ch];
        d_x[i] = a * c.d_y[0][i];
    }
    op_check_forward(&c);
    op_check_dst(&c, 0, y, 1e-6);
    op_check_backward(&c);
    op_check_d_src(&c, 0, d_x, 1e-6);
    if (n < 1000)
        op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(batchnorm, grid) {
    for (int layout = 0; layout < 2; layout++) {
        check(SHAPE(1, C, 4, 3), (pg_layout)layout);
        check(SHAPE(1, 33, 3, 2), (pg_layout)layout);
        check(SHAPE(1, C, 1, 1), (pg_layout)layout);
        check(SHAPE(1, 48, 60, 50), (pg_layout)layout); /* several threads */
        check(SHAPE(1, C, 9), (pg_layout)layout);
        check(SHAPE(2, C, 3, 3), (pg_layout)layout);
        check(SHAPE(1, C), PG_PLAIN);
    }
}

/* ---- folded ---- */

enum { PARTS = 5 };
static const int64_t widths[][PARTS] = {{64, 32, 32, 32, 32}, {16},     {5, 3}, {17, 1, 15, 33},
                                        {48, 12, 12, 12, 12}, {1, 1, 1}};
static const struct {
    pg_act act;
    double lo, hi;
} acts[] = {
    {PG_ACT_NONE, -INFINITY, INFINITY}, {PG_ACT_RELU, 0, INFINITY}, {PG_ACT_CLIP, -0.5, 0.75}};

/* Inputs of `width` channels side by side; the bench then has them all as run-time inputs. */
static int take_parts(op_check *c, const int64_t *width, int64_t h, int64_t w) {
    pg_desc parts[PARTS];
    int n = 0;
    for (; n < PARTS && width[n] > 0; n++) {
        parts[n] = (pg_desc){.shape = SHAPE(1, width[n], h, w)};
        c->want[n] = true;
        if (n > 0)
            op_check_input(c, parts[n].shape);
    }
    cr_assert(pg_batch_norm_absorb_concat(c->op, n, parts));
    return n;
}

/* Backward once more onto what is there: twice as much, to the bit. */
static void check_adds(op_check *c, int n) {
    bool add[PARTS] = {true, true, true, true, true};
    add[n / 2] = false; /* one is overwritten */
    c->io.add = add;
    cr_assert(c->op->adds && c->op->cls->backward(c->op, &c->io) == PG_OK);
    for (int k = 0; k < n; k++) {
        int64_t count = pg_shape_count(&c->op->src[k].shape);
        float *now = op_check_array(c, count);
        pg_layout_convert(&c->op->src[k].shape, c->op->src[k].layout, c->d_src[k], PG_PLAIN, now);
        for (int64_t i = 0; i < count; i++)
            cr_assert_eq(now[i], (add[k] ? 2 : 1) * c->d_x[k][i]);
    }
    c->io.add = NULL;
}

static void check_folded(const int64_t *width, int act, int64_t h, int64_t w, pg_layout layout) {
    op_check c;
    const float *k[4];
    int64_t channels = 0, spatial = h * w;
    int n = 1;
    for (int i = 0; i < PARTS; i++)
        channels += width[i];
    bench(&c, SHAPE(1, channels, h, w), k);
    op_check_create(&c);
    if (acts[act].act != PG_ACT_NONE)
        pg_batch_norm_absorb_activation(c.op, acts[act].act, (float)acts[act].lo,
                                        (float)acts[act].hi);
    if (layout == PG_CHANNELS_LAST)
        n = take_parts(&c, width, h, w);
    op_check_start(&c, layout);
    op_check_forward(&c);
    op_check_backward(&c);
    double *y = op_check_own(&c, pg_malloc((size_t)(channels * spatial) * sizeof *y));
    double *d_x = op_check_own(&c, pg_malloc((size_t)(channels * spatial) * sizeof *d_x));
    int64_t at = 0;
    for (int p = 0; p < n; p++) {
        int64_t own = n > 1 ? width[p] : channels;
        for (int64_t i = 0; i < own * spatial; i++) {
            int64_t ch = at + i / spatial, j = at * spatial + i;
            double a = k[0][ch] / sqrt((double)k[3][ch] + 1e-3f);
            double v = a * ((double)c.x[p][i] - k[2][ch]) + k[1][ch];
            y[j] = fmin(fmax(v, acts[act].lo), acts[act].hi);
            d_x[i] = v > acts[act].lo && v < acts[act].hi ? a * c.d_y[0][j] : 0;
        }
        op_check_d_src(&c, p, d_x, 1e-6);
        at += own;
    }
    op_check_dst(&c, 0, y, 2e-6); /* of the largest, which clipping may make smaller */
    check_adds(&c, n);
    op_check_close(&c);
}

Test(batchnorm, concatenation_and_activation_are_folded) {
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        for (int act = 0; act < 3; act++)
            for (int layout = 0; layout < 2; layout++) {
                check_folded(widths[i], act, 3, 5, (pg_layout)layout);
                check_folded(widths[i], act, 1, 1, (pg_layout)layout);
                check_folded(widths[i], act, 30, 41, (pg_layout)layout);
            }
}

Test(batchnorm, gradient_is_zero_on_the_edges_of_the_activation) {
    op_check c;
    op_check_init(&c, "BatchNormalization", 15);
    op_check_attr_float(&c, "epsilon", 0);
    op_check_input_of(&c, SHAPE(1, 1, 1, 3), (float[]){0, 3, 6});
    for (int i = 0; i < 4; i++)
        op_check_const(&c, SHAPE(1), (float[]){i == 0 || i == 3 ? 1.0f : 0.0f});
    op_check_create(&c);
    pg_batch_norm_absorb_activation(c.op, PG_ACT_CLIP, 0, 6);
    op_check_start(&c, PG_PLAIN);
    for (int i = 0; i < 3; i++)
        c.d_y[0][i] = 1;
    op_check_forward(&c);
    op_check_backward(&c);
    op_check_d_src(&c, 0, (double[]){0, 1, 0}, 0);
    op_check_close(&c);
}

Test(batchnorm, refusals) {
    op_check c;
    const float *k[4];
    bench(&c, SHAPE(1, C, 4, 4), k);
    op_check_attr_int(&c, "training_mode", 1);
    op_check_refused(&c, "training");
    bench(&c, SHAPE(1, C, 4, 4), k);
    c.n_outputs = 3;
    op_check_refused(&c, "training");
    bench(&c, SHAPE(1, C, 4, 4), k);
    op_check_attr_int(&c, "spatial", 0);
    op_check_refused(&c, "spatial");
    bench(&c, SHAPE(1, C, 4, 4), k);
    c.inputs[0].shape = SHAPE(1, C + 1, 4, 4);
    op_check_refused(&c, "C values");
    bench(&c, SHAPE(1, C, 4, 4), k);
    c.inputs[2].constant = NULL;
    op_check_refused(&c, "must be constants");
    bench(&c, SHAPE(1, C, 4, 4), k);
    ((float *)k[3])[2] = -1;
    op_check_refused(&c, "channel 2 is not finite");
    bench(&c, SHAPE(1, C, 4, 4), k);
    c.attrs[0].type = PG_ATTR_INT;
    op_check_refused(&c, "'epsilon' is not a float");
}
