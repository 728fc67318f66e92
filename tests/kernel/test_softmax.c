#include "tests/support/op_check.h"

/* [outer, length, inner] softmax by definition, in double. */
static void reference(const float *x, int64_t outer, int64_t length, int64_t inner, bool logarithm,
                      double *y) {
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            const int64_t at = o * length * inner + i;
            double sum = 0;
            for (int64_t k = 0; k < length; k++)
                sum += exp((double)x[at + k * inner]);
            for (int64_t k = 0; k < length; k++) {
                double p = exp((double)x[at + k * inner]) / sum;
                y[at + k * inner] = logarithm ? log(p) : p;
            }
        }
}

static void softmax_case(int opset, const int64_t *axis, int meant) {
    const pg_shape shape = SHAPE(2, 5, 3, 4);
    for (int logarithm = 0; logarithm < 2; logarithm++) {
        op_check c;
        int64_t outer = 1, length = 1, inner = 1;
        op_check_init(&c, logarithm ? "LogSoftmax" : "Softmax", opset);
        op_check_input(&c, shape);
        if (axis)
            op_check_attr_int(&c, "axis", *axis);
        op_check_open(&c, PG_CHANNELS_LAST);
        for (int i = 0; i < shape.rank; i++) {
            outer *= i < meant ? shape.dims[i] : 1;
            length *= i == meant || (i > meant && opset < 13) ? shape.dims[i] : 1;
            inner *= i > meant && opset >= 13 ? shape.dims[i] : 1;
        }
        double expected[120];
        for (int i = 0; i < 120; i++)
            c.x[0][i] *= 4;
        reference(c.x[0], outer, length, inner, logarithm != 0, expected);
        op_check_forward(&c);
        op_check_dst(&c, 0, expected, 1e-6);
        op_check_gradient(&c, 2e-3);
        op_check_close(&c);
    }
}

Test(softmax, every_axis_before_and_since_opset_13) {
    for (int64_t axis = -4; axis < 4; axis++)
        for (int opset = 11; opset <= 13; opset += 2)
            softmax_case(opset, &axis, (int)(axis < 0 ? axis + 4 : axis));
    softmax_case(11, NULL, 1);
    softmax_case(13, NULL, 3);
}

Test(softmax, large_logits_do_not_overflow) {
    const float x[] = {1e4f, 1e4f, -1e4f, 9999.0f};
    op_check c;
    op_check_init(&c, "Softmax", 13);
    op_check_input_of(&c, SHAPE(1, 4), x);
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    const double sum = 2 + exp(-1), expected[] = {1 / sum, 1 / sum, 0, exp(-1) / sum};
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_close(&c);
}

/* Long rows, with tails of every vector width; minus infinity is what attention masks with. */
Test(softmax, rows) {
    static const int64_t lengths[] = {1, 7, 16, 31, 197, 1000};
    for (int i = 0; i < 6; i++)
        for (int logarithm = 0; logarithm < 2; logarithm++) {
            op_check c;
            int64_t n = lengths[i];
            op_check_init(&c, logarithm ? "LogSoftmax" : "Softmax", 13);
            op_check_input(&c, SHAPE(1, 3, n));
            op_check_open(&c, PG_PLAIN);
            for (int64_t k = 0; k < 3 * n; k++)
                c.x[0][k] = k % 5 == 3 && !logarithm && n > 1 ? -INFINITY : 8 * c.x[0][k];
            double *expected = op_check_own(&c, pg_malloc((size_t)(3 * n) * sizeof *expected));
            double *d_x = op_check_own(&c, pg_malloc((size_t)(3 * n) * sizeof *d_x));
            reference(c.x[0], 3, n, 1, logarithm != 0, expected);
            for (int64_t at = 0; at < 3 * n; at++) {
                double sum = 0;
                for (int64_t k = at / n * n; k < at / n * n + n; k++)
                    sum += (double)c.d_y[0][k] * (logarithm ? 1 : expected[k]);
                d_x[at] = logarithm ? (double)c.d_y[0][at] - exp(expected[at]) * sum
                                    : expected[at] * ((double)c.d_y[0][at] - sum);
            }
            op_check_forward(&c);
            op_check_dst(&c, 0, expected, 1e-6);
            op_check_backward(&c);
            if (n > 1) /* else all of it is rounding */
                op_check_d_src(&c, 0, d_x, 2e-6);
            op_check_close(&c);
        }
}

Test(softmax, refuses) {
    const int64_t bad[] = {2, -3, INT64_MIN, INT64_MAX};
    op_check c;
    for (int i = 0; i < 4; i++) {
        op_check_init(&c, "Softmax", 13);
        op_check_attr_int(&c, "axis", bad[i]);
        op_check_input(&c, SHAPE(1, 4));
        op_check_refused(&c, "axis");
    }
    op_check_init(&c, "Softmax", 13);
    op_check_input(&c, SHAPE0);
    op_check_refused(&c, "axis");
    op_check_init(&c, "Softmax", 13);
    op_check_refused(&c, "input");
    op_check_init(&c, "LogSoftmax", 13);
    op_check_const(&c, SHAPE(1, 4), NULL);
    op_check_refused(&c, "input");
}
