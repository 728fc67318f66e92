#include "tests/support/op_check.h"

static const pg_shape SHAPE_IN = {4, {2, 5, 3, 4}};

/* Every pair on the same line along `axis` by definition. */
static void reference(const float *x, int axis, bool exclusive, bool reverse, double *y) {
    int64_t length = SHAPE_IN.dims[axis], inner = 1;
    for (int i = axis + 1; i < 4; i++)
        inner *= SHAPE_IN.dims[i];
    for (int64_t i = 0; i < 120; i++) {
        int64_t at = i / inner % length, start = i - at * inner;
        y[i] = 0;
        for (int64_t k = 0; k < length; k++)
            if ((k == at && !exclusive) || (reverse ? k > at : k < at))
                y[i] += (double)x[start + k * inner];
    }
}

static void cumsum_case(int64_t axis, bool exclusive, bool reverse) {
    op_check c;
    double expected[120];
    op_check_init(&c, "CumSum", 14);
    op_check_attr_int(&c, "exclusive", exclusive);
    op_check_attr_int(&c, "reverse", reverse);
    op_check_input(&c, SHAPE_IN);
    op_check_const_i64(&c, SHAPE0, &axis);
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, SHAPE_IN);
    reference(c.x[0], (int)(axis < 0 ? axis + 4 : axis), exclusive, reverse, expected);
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(cumsum, every_axis_and_direction) {
    for (int64_t axis = -4; axis < 4; axis++)
        for (int form = 0; form < 4; form++)
            cumsum_case(axis, form & 1, form & 2);
}

Test(cumsum, refuses_bad_axes) {
    const int64_t bad[] = {4, -5, INT64_MAX, 0, 1};
    for (int n = 1; n <= 2; n++)
        for (int i = 0; i < 3; i++) {
            op_check c;
            op_check_init(&c, "CumSum", 14);
            op_check_input(&c, SHAPE_IN);
            op_check_const_i64(&c, SHAPE(n), n == 1 ? &bad[i] : &bad[3]);
            op_check_refused(&c, "axis");
        }
}
