/* Batch normalisation against its formula in double, in both layouts. */
#include "tests/support/op_check.h"

enum { C = 5 };

static void bench(op_check *c, pg_shape shape, const float *k[4]) {
    op_check_init(c, "BatchNormalization", 15);
    op_check_attr_float(c, "epsilon", 1e-3f);
    op_check_attr_float(c, "momentum", 0.9f);
    op_check_input(c, shape);
    for (int i = 0; i < 3; i++)
        k[i] = op_check_const(c, SHAPE(shape.dims[1]), NULL);
    float variance[64];
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
