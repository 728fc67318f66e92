#include "tests/support/op_check.h"

static void concat_case(pg_layout layout, int axis) {
    op_check c;
    pg_shape shape[3];
    op_check_init(&c, "Concat", 13);
    op_check_attr_int(&c, "axis", axis - 4); /* negative axes count from the end */
    for (int i = 0; i < 3; i++) {
        shape[i] = SHAPE(1, 5, 3, 2);
        shape[i].dims[axis] += i;
    }
    op_check_input(&c, shape[0]);
    const float *constant = op_check_const(&c, shape[1], NULL);
    op_check_input(&c, shape[2]);
    op_check_open(&c, layout);
    op_check_forward(&c);
    const float *part[3] = {c.x[0], constant, c.x[1]};
    int64_t inner = 1, outer = 1, at = 0;
    for (int i = 0; i < 4; i++) {
        outer *= i < axis ? shape[0].dims[i] : 1;
        inner *= i > axis ? shape[0].dims[i] : 1;
    }
    double expected[512];
    for (int64_t o = 0; o < outer; o++)
        for (int i = 0; i < 3; i++)
            for (int64_t k = 0, n = shape[i].dims[axis] * inner; k < n; k++)
                expected[at++] = (double)part[i][o * n + k];
    cr_assert(at == pg_shape_count(&c.op->dst[0].shape));
    op_check_dst(&c, 0, expected, 0);
    op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(concat, every_axis_in_both_layouts) {
    for (int axis = 0; axis < 4; axis++) {
        concat_case(PG_PLAIN, axis);
        concat_case(PG_CHANNELS_LAST, axis);
    }
}

Test(concat, refuses_what_does_not_fit) {
    op_check c;
    op_check_init(&c, "Concat", 13);
    op_check_attr_int(&c, "axis", 1);
    op_check_input(&c, SHAPE(1, 2, 3, 3));
    op_check_input(&c, SHAPE(1, 2, 3, 4));
    op_check_refused(&c, "differs from input 0 on axis 3");
    op_check_init(&c, "Concat", 13);
    op_check_input(&c, SHAPE(1, 2));
    op_check_refused(&c, "axis");
    op_check_init(&c, "Concat", 13);
    op_check_attr_int(&c, "axis", INT64_MIN);
    op_check_input(&c, SHAPE(1, 2));
    op_check_refused(&c, "out of range");
}

Test(split, by_lengths_and_evenly) {
    const int64_t lengths[] = {3, 1, 3};
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
        for (int given = 0; given < 2; given++) {
            op_check c;
            op_check_init(&c, "Split", given ? 13 : 18); /* 18 lets the last piece be shorter */
            op_check_attr_int(&c, "axis", 1);
            op_check_input(&c, SHAPE(1, 7, 2, 3));
            if (given)
                op_check_const_i64(&c, SHAPE(3), lengths);
            c.n_outputs = 3;
            op_check_open(&c, (pg_layout)layout);
            op_check_forward(&c);
            int64_t at = 0;
            for (int i = 0; i < 3; i++) {
                int64_t channels = given ? lengths[i] : i < 2 ? 3 : 1;
                double expected[64];
                op_check_shape(&c, i, SHAPE(1, channels, 2, 3));
                for (int64_t k = 0; k < channels * 6; k++)
                    expected[k] = (double)c.x[0][at++];
                op_check_dst(&c, i, expected, 0);
            }
            op_check_gradient(&c, 2e-3);
            op_check_close(&c);
        }
}

Test(split, refuses_what_does_not_fit) {
    const int64_t bad[][2] = {{3, 3}, {0, 7}, {-1, 8}, {INT64_MAX, 1}};
    for (int i = 0; i < 4; i++) {
        op_check c;
        op_check_init(&c, "Split", 13);
        op_check_attr_int(&c, "axis", 1);
        op_check_input(&c, SHAPE(1, 7));
        op_check_const_i64(&c, SHAPE(2), bad[i]);
        c.n_outputs = 2;
        op_check_refused(&c, "split lengths");
    }
    op_check c;
    op_check_init(&c, "Split", 13);
    op_check_attr_int(&c, "axis", 1);
    op_check_input(&c, SHAPE(1, 7));
    c.n_outputs = 2;
    op_check_refused(&c, "equal parts");
}
