#include "tests/support/op_check.h"

/* Every subset of the axes of a rank-4 tensor, against a plain sum. */
static void reduce_case(const char *type, pg_layout layout, int subset, bool keep) {
    const pg_shape in = SHAPE(1, 5, 3, 4);
    int64_t axes[4];
    pg_shape shape = {0};
    size_t n = 0;
    for (int i = 0; i < 4; i++) {
        bool summed = subset == 0 || (subset >> i & 1); /* none named: all */
        if (subset >> i & 1)
            axes[n++] = i % 2 ? i : i - 4;
        if (!summed || keep)
            shape.dims[shape.rank++] = summed ? 1 : in.dims[i];
    }
    op_check c;
    op_check_init(&c, type, 11);
    if (n > 0)
        op_check_attr_ints(&c, "axes", n, axes);
    op_check_attr_int(&c, "keepdims", keep);
    op_check_input(&c, in);
    op_check_open(&c, layout);
    op_check_shape(&c, 0, shape);
    op_check_forward(&c);
    double expected[60] = {0};
    double scale = strcmp(type, "ReduceMean") == 0 ? (double)pg_shape_count(&shape) / 60 : 1;
    for (int64_t k = 0; k < 60; k++) {
        int64_t index[4] = {0, k / 12, k / 4 % 3, k % 4}, at = 0;
        for (int i = 0; i < 4; i++)
            if (subset != 0 && !(subset >> i & 1))
                at = at * in.dims[i] + index[i];
        expected[at] += scale * (double)c.x[0][k];
    }
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(reduce, every_set_of_axes) {
    for (int subset = 0; subset < 16; subset++)
        for (int form = 0; form < 8; form++)
            reduce_case(form & 1 ? "ReduceMean" : "ReduceSum",
                        form & 2 ? PG_CHANNELS_LAST : PG_PLAIN, subset, form & 4);
}

Test(reduce, axes_as_input) {
    op_check c;
    op_check_init(&c, "ReduceMean", 18);
    op_check_input(&c, SHAPE(1, 3, 2, 2));
    op_check_const_i64(&c, SHAPE(2), (int64_t[]){2, -1});
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, SHAPE(1, 3, 1, 1));
    op_check_forward(&c);
    double expected[3] = {0};
    for (int i = 0; i < 12; i++)
        expected[i / 4] += (double)c.x[0][i] / 4;
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_close(&c);
}

Test(reduce, refuses_bad_axes) {
    const int64_t bad[][2] = {{1, 1}, {0, 4}, {-5, 0}, {INT64_MIN, INT64_MAX}, {1, -3}};
    for (int i = 0; i < 5; i++) {
        op_check c;
        op_check_init(&c, "ReduceSum", 11);
        op_check_attr_ints(&c, "axes", 2, bad[i]);
        op_check_input(&c, SHAPE(1, 3, 2, 2));
        op_check_refused(&c, "axis");
    }
}
