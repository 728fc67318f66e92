#include "tests/support/op_check.h"

/* The element of an operand that broadcasts to dst's flat element k. */
static int64_t place(const pg_shape *own, const pg_shape *dst, int64_t k) {
    int64_t at = 0, step = 1;
    for (int i = 1; i <= dst->rank; i++) {
        int64_t index = k % dst->dims[dst->rank - i];
        k /= dst->dims[dst->rank - i];
        if (i > own->rank)
            continue;
        int64_t d = own->dims[own->rank - i];
        at += d == 1 ? 0 : index * step;
        step *= d;
    }
    return at;
}

/* Value, and the gradient by definition. Bit i of `constants`: operand i is one. */
static void where_case(const pg_shape shapes[3], unsigned constants, pg_layout layout) {
    op_check c;
    const float *x[3];
    int src[3], next = 0;
    op_check_init(&c, "Where", 16);
    for (int i = 0; i < 3; i++) {
        int64_t n = pg_shape_count(&shapes[i]);
        float *value = op_check_array(&c, n);
        for (int64_t k = 0; k < n; k++)
            value[k] = i == 0 ? (float)(k * 5 % 7 < 4) : op_check_noise(&c);
        src[i] = constants >> i & 1 ? -1 : next++;
        x[i] = value;
        if (src[i] < 0)
            op_check_const(&c, shapes[i], value);
        else
            op_check_input_of(&c, shapes[i], value);
    }
    op_check_open(&c, layout);
    op_check_forward(&c);
    op_check_backward(&c);
    const pg_shape *dst = &c.op->dst[0].shape;
    double d_x[3][512] = {{0}};
    for (int64_t k = 0; k < pg_shape_count(dst); k++) {
        int branch = x[0][place(&shapes[0], dst, k)] != 0 ? 1 : 2;
        int64_t at = place(&shapes[branch], dst, k);
        cr_assert(c.y[0][k] == x[branch][at]);
        d_x[branch][at] += (double)c.d_y[0][k];
    }
    for (int i = 0; i < 3; i++)
        if (src[i] >= 0)
            op_check_d_src(&c, src[i], d_x[i], 1e-6);
    op_check_close(&c);
}

Test(where, broadcasting) {
    static const pg_shape shapes[][3] = {
        {{4, {1, 5, 3, 4}}, {4, {1, 5, 3, 4}}, {4, {1, 5, 3, 4}}},
        {{4, {1, 5, 3, 4}}, {0, {0}}, {4, {1, 5, 1, 1}}},
        {{2, {3, 4}}, {4, {1, 5, 3, 4}}, {1, {1}}},
        {{4, {1, 5, 1, 1}}, {3, {5, 3, 1}}, {1, {4}}},
        {{4, {1, 1, 3, 1}}, {4, {1, 1, 1, 4}}, {4, {1, 5, 1, 1}}},
        {{1, {37}}, {1, {37}}, {1, {1}}},
        {{2, {6, 6}}, {3, {2, 6, 6}}, {0, {0}}}, /* a mask over attention */
    };
    for (int i = 0; i < 7; i++)
        for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
            for (unsigned constants = 0; constants < 7; constants++)
                where_case(shapes[i], constants, (pg_layout)layout);
}

/* The branch not taken must not leak, whatever it holds. */
Test(where, nan_in_the_other_branch) {
    op_check c;
    op_check_init(&c, "Where", 9);
    op_check_input_of(&c, SHAPE(2), (float[]){1, 0});
    op_check_input_of(&c, SHAPE(2), (float[]){3, NAN});
    op_check_const(&c, SHAPE0, (float[]){-INFINITY});
    op_check_open(&c, PG_PLAIN);
    c.d_y[0][1] = INFINITY;
    op_check_forward(&c);
    op_check_backward(&c);
    cr_assert(c.y[0][0] == 3 && c.y[0][1] == -INFINITY);
    cr_assert(c.d_x[1][0] == c.d_y[0][0] && c.d_x[1][1] == 0 && c.d_x[0][0] == 0);
    op_check_close(&c);
}

/* Enough rows for a team. */
Test(where, large) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        enum { N = 16 * 53 * 61 };
        op_check c;
        op_check_init(&c, "Where", 16);
        op_check_input(&c, SHAPE(1, 1, 53, 61));
        op_check_input(&c, SHAPE(1, 16, 53, 61));
        op_check_input(&c, SHAPE(1, 16, 1, 1));
        op_check_open(&c, (pg_layout)layout);
        for (int k = 0; k < 53 * 61; k++)
            c.x[0][k] = c.x[0][k] < 0.2f ? 0.0f : 1.0f;
        op_check_forward(&c);
        op_check_backward(&c);
        double sums[16] = {0};
        for (int k = 0; k < N; k++) {
            bool taken = c.x[0][k % (53 * 61)] != 0;
            cr_assert(c.y[0][k] == (taken ? c.x[1][k] : c.x[2][k / (53 * 61)]));
            cr_assert(c.d_x[1][k] == (taken ? c.d_y[0][k] : 0));
            sums[k / (53 * 61)] += taken ? 0 : (double)c.d_y[0][k];
        }
        op_check_d_src(&c, 2, sums, 1e-6);
        op_check_close(&c);
    }
}

Test(where, refusals) {
    op_check c;
    op_check_init(&c, "Where", 16);
    op_check_input(&c, SHAPE(3));
    op_check_input(&c, SHAPE(3));
    op_check_refused(&c, "three inputs");
    op_check_init(&c, "Where", 16);
    op_check_input(&c, SHAPE(3));
    op_check_input(&c, SHAPE(4));
    op_check_input(&c, SHAPE(3));
    op_check_refused(&c, "broadcast");
    op_check_init(&c, "Where", 16);
    op_check_input(&c, SHAPE(3));
    op_check_absent(&c);
    op_check_input(&c, SHAPE(3));
    op_check_refused(&c, "missing");
    op_check_init(&c, "Where", 16);
    for (int i = 0; i < 3; i++)
        op_check_const(&c, SHAPE(3), NULL);
    op_check_refused(&c, "computed");
}
