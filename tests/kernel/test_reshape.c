#include "tests/support/op_check.h"

/* The result has the shape, aliases, and passes values and gradients unchanged. */
static void expect(op_check *c, pg_shape shape) {
    op_check_open(c, PG_PLAIN);
    op_check_shape(c, 0, shape);
    cr_assert(c->op->alias);
    op_check_forward(c);
    op_check_backward(c);
    size_t bytes = (size_t)pg_shape_count(&shape) * sizeof(float);
    cr_assert(memcmp(c->y[0], c->x[0], bytes) == 0);
    cr_assert(memcmp(c->d_x[0], c->d_y[0], bytes) == 0);
    op_check_close(c);
}

static void start(op_check *c, const char *type, int opset, pg_shape in, int n,
                  const int64_t *list) {
    op_check_init(c, type, opset);
    op_check_input(c, in);
    if (list)
        op_check_const_i64(c, SHAPE(n), list);
}

Test(reshape, zero_copies_and_minus_one_fills) {
    op_check c;
    start(&c, "Reshape", 13, SHAPE(1, 6, 4, 4), 3, (int64_t[]){0, 3, -1});
    expect(&c, SHAPE(1, 3, 32));
    start(&c, "Reshape", 13, SHAPE(1, 6, 4, 4), 5, (int64_t[]){1, 2, 3, 4, 4});
    expect(&c, SHAPE(1, 2, 3, 4, 4));
}

Test(reshape, refuses_hostile_shapes) {
    const int64_t bad[][3] = {{-1, -1, 2}, {1, 5, 5}, {-2, 3, 2}, {INT64_MAX, INT64_MAX, 4},
                              {INT64_MIN, 1, 1}, {-1, 5, 1}, {7, 7, -1}};
    for (int i = 0; i < 7; i++) {
        op_check c;
        start(&c, "Reshape", 13, SHAPE(1, 3, 4), 3, bad[i]);
        op_check_refused(&c, "shape");
    }
    op_check c;
    start(&c, "Reshape", 13, SHAPE(1, 3, 4), 7, (int64_t[]){1, 1, 1, 1, 1, 1, 12});
    op_check_refused(&c, "at most 6");
    op_check_init(&c, "Reshape", 13);
    op_check_input(&c, SHAPE(1, 3, 4));
    op_check_input(&c, SHAPE(2));
    op_check_refused(&c, "constant");
}

Test(reshape, flatten_squeeze_unsqueeze) {
    op_check c;
    start(&c, "Flatten", 13, SHAPE(1, 6, 2, 2), 0, NULL);
    expect(&c, SHAPE(1, 24));
    start(&c, "Flatten", 13, SHAPE(2, 3, 4), 0, NULL);
    op_check_attr_int(&c, "axis", -1);
    expect(&c, SHAPE(6, 4));
    start(&c, "Squeeze", 13, SHAPE(1, 6, 1, 1), 2, (int64_t[]){2, -1});
    expect(&c, SHAPE(1, 6));
    start(&c, "Squeeze", 11, SHAPE(1, 6, 1, 1), 0, NULL);
    expect(&c, SHAPE(6));
    start(&c, "Unsqueeze", 13, SHAPE(3, 4), 2, (int64_t[]){0, -1});
    expect(&c, SHAPE(1, 3, 4, 1));
    start(&c, "Unsqueeze", 11, SHAPE(3, 4), 0, NULL);
    op_check_attr_ints(&c, "axes", 1, (int64_t[]){1});
    expect(&c, SHAPE(3, 1, 4));
}

Test(reshape, identity_and_dropout_keep_any_layout) {
    const char *const types[] = {"Identity", "Dropout"};
    for (int i = 0; i < 2; i++) {
        op_check c;
        start(&c, types[i], 13, SHAPE(1, 3, 2, 2), 0, NULL);
        expect(&c, SHAPE(1, 3, 2, 2));
        start(&c, types[i], 13, SHAPE(1, 3, 2, 2), 0, NULL);
        op_check_create(&c);
        cr_assert(c.op->layouts == PG_LAYOUTS_SAME);
        op_check_close(&c);
    }
}

Test(reshape, refuses_dropout_in_training) {
    op_check c;
    for (int64_t training = 0; training < 2; training++)
        for (int k = 0; k < 2; k++) {
            float ratio = k ? .5F : 0;
            start(&c, "Dropout", 13, SHAPE(1, 6), 0, NULL);
            op_check_const(&c, SHAPE(1), &ratio);
            op_check_const_i64(&c, SHAPE(1), &training);
            if (training && k)
                op_check_refused(&c, "training");
            else
                expect(&c, SHAPE(1, 6));
        }
}

Test(reshape, refuses_bad_axes) {
    op_check c;
    start(&c, "Squeeze", 13, SHAPE(1, 6), 1, (int64_t[]){1});
    op_check_refused(&c, "has 6 elements");
    start(&c, "Unsqueeze", 13, SHAPE(1, 6), 2, (int64_t[]){0, 0});
    op_check_refused(&c, "twice");
    start(&c, "Unsqueeze", 13, SHAPE(1, 6), 6, (int64_t[]){0, 1, 2, 3, 4, 5});
    op_check_refused(&c, "at most 6");
    start(&c, "Flatten", 13, SHAPE(1, 6), 0, NULL);
    op_check_attr_int(&c, "axis", 3);
    op_check_refused(&c, "axis");
}
