#include "tests/support/op_check.h"

static void lrn_case(pg_shape shape, int64_t size, float alpha, float beta, float bias) {
    op_check c;
    op_check_init(&c, "LRN", 13);
    op_check_input(&c, shape);
    op_check_attr_int(&c, "size", size);
    op_check_attr_float(&c, "alpha", alpha);
    op_check_attr_float(&c, "beta", beta);
    op_check_attr_float(&c, "bias", bias);
    op_check_open(&c, PG_CHANNELS_LAST);
    double expected[4096];
    const int64_t C = shape.dims[1], count = pg_shape_count(&shape);
    const int64_t n = count / C / shape.dims[0];
    for (int64_t at = 0; at < count; at++) { /* at = (sample * C + k) * n + i */
        const int64_t k = at / n % C;
        double sum = 0;
        for (int64_t j = k - (size - 1) / 2; j <= k + size / 2; j++)
            if (j >= 0 && j < C)
                sum += pow((double)c.x[0][at + (j - k) * n], 2);
        expected[at] = (double)c.x[0][at] /
                       pow((double)bias + (double)alpha / (double)size * sum, beta);
    }
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_gradient(&c, 3e-3);
    op_check_close(&c);
}

Test(lrn, windows) {
    lrn_case(SHAPE(1, 9, 3, 4), 5, 1e-4f, 0.75f, 1);
    lrn_case(SHAPE(1, 9, 3, 4), 5, 2, 0.75f, 2);
    lrn_case(SHAPE(1, 9, 3, 4), 4, 2, 0.5f, 1); /* an even window reaches further up */
    lrn_case(SHAPE(1, 3, 2, 2), 9, 1, 1, 1);
    lrn_case(SHAPE(1, 6, 5), 1, 1, 0.75f, 1);
    lrn_case(SHAPE(2, 6, 3, 2), 3, 2, 0.75f, 1);
}

static void refused(int64_t size, float alpha, float bias, pg_shape shape, const char *part) {
    op_check c;
    op_check_init(&c, "LRN", 13);
    op_check_input(&c, shape);
    op_check_attr_int(&c, "size", size);
    op_check_attr_float(&c, "alpha", alpha);
    op_check_attr_float(&c, "bias", bias);
    op_check_refused(&c, part);
}

Test(lrn, refuses) {
    refused(0, 1, 1, SHAPE(1, 3, 4, 4), "size");
    refused(INT64_MAX, 1, 1, SHAPE(1, 3, 4, 4), "size");
    refused(5, -1, 1, SHAPE(1, 3, 4, 4), "alpha");
    refused(5, NAN, 1, SHAPE(1, 3, 4, 4), "alpha");
    refused(5, 1, 0, SHAPE(1, 3, 4, 4), "bias");
    refused(5, 1, INFINITY, SHAPE(1, 3, 4, 4), "bias");
    refused(5, 1, 1, SHAPE(1, 3), "shape");
    op_check c;
    op_check_init(&c, "LRN", 13);
    op_check_input(&c, SHAPE(1, 3, 4, 4));
    op_check_refused(&c, "size");
}
