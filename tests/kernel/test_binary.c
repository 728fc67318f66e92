#include "tests/support/op_check.h"

/* ---- numpy broadcasting by a double loop over the result ---- */

typedef struct operand {
    pg_shape shape;
    bool constant;
    const float *value; /* after open */
} operand;

static double value_at(const operand *x, const pg_shape *dst, int64_t flat) {
    int64_t at = 0, step = 1;
    for (int i = 1; i <= dst->rank; i++) {
        int64_t d = dst->dims[dst->rank - i], index = flat % d;
        flat /= d;
        if (i <= x->shape.rank) {
            int64_t own = x->shape.dims[x->shape.rank - i];
            at += (own == 1 ? 0 : index) * step;
            step *= own;
        }
    }
    return (double)x->value[at];
}

static double apply(const char *type, double a, double b) {
    switch (type[0]) {
    case 'A':
        return a + b;
    case 'S':
        return strcmp(type, "Sum") == 0 ? a + b : a - b;
    case 'D':
        return a / b;
    case 'P':
        return strcmp(type, "PRelu") == 0 ? (a < 0 ? a * b : a) : pow(a, b);
    default:
        break;
    }
    if (strcmp(type, "Mul") == 0)
        return a * b;
    if (strcmp(type, "Mean") == 0)
        return a + b;
    return strcmp(type, "Max") == 0 ? fmax(a, b) : fmin(a, b);
}

/* Noise made fit for differences: away from 0 where the function wants it; else on a grid of
 * eighths that no two operands share, so that no kink (a tie, the sign of PRelu's operand) lies
 * within the bench's step of 1/64. */
static float *noise(op_check *c, const char *type, int index, int64_t n) {
    bool positive = strcmp(type, "Div") == 0 || strcmp(type, "Pow") == 0;
    float *value = op_check_array(c, n);
    op_check_fill(c, value, n);
    for (int64_t k = 0; k < n; k++)
        value[k] = positive ? 1.5f + 0.75f * value[k]
                            : floorf(value[k] * 8) / 8 + (float)(1 + index) / 32;
    return value;
}

/* Runs the operator on n operands of these shapes; constants are those with their bit set. */
static void run(const char *type, int n, const pg_shape *shapes, unsigned constants,
                pg_layout layout) {
    op_check c;
    operand x[4];
    op_check_init(&c, type, 17);
    for (int i = 0; i < n; i++) {
        x[i] = (operand){.shape = shapes[i], .constant = (constants >> i & 1) != 0};
        const float *value = noise(&c, type, i, pg_shape_count(&shapes[i]));
        x[i].value = value;
        if (x[i].constant)
            x[i].value = op_check_const(&c, shapes[i], value);
        else
            op_check_input_of(&c, shapes[i], value);
    }
    op_check_open(&c, layout);
    op_check_forward(&c);
    double expected[4096];
    const pg_shape *dst = &c.op->dst[0].shape;
    for (int64_t k = 0; k < pg_shape_count(dst); k++) {
        expected[k] = value_at(&x[0], dst, k);
        for (int i = 1; i < n; i++)
            expected[k] = apply(type, expected[k], value_at(&x[i], dst, k));
        if (strcmp(type, "Mean") == 0)
            expected[k] /= n;
    }
    op_check_dst(&c, 0, expected, 2e-6);
    op_check_gradient(&c, 4e-3);
    op_check_close(&c);
}

static const char *const BINARY[] = {"Add", "Sub", "Mul", "Div", "Pow", "PRelu"};
static const char *const VARIADIC[] = {"Sum", "Mean", "Max", "Min"};

static void run_all(pg_shape a, pg_shape b, unsigned constants) {
    const pg_shape shapes[] = {a, b};
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        for (int i = 0; i < 6; i++)
            run(BINARY[i], 2, shapes, constants, (pg_layout)layout);
        for (int i = 0; i < 4; i++)
            run(VARIADIC[i], 2, shapes, constants, (pg_layout)layout);
    }
}

Test(binary, same_shape) {
    for (unsigned constants = 0; constants < 3; constants++)
        run_all(SHAPE(1, 5, 3, 4), SHAPE(1, 5, 3, 4), constants);
    run_all(SHAPE(37), SHAPE(37), 0);
    run_all(SHAPE0, SHAPE0, 0);
}

Test(binary, gate_per_channel_on_either_side) {
    for (unsigned constants = 0; constants < 3; constants++) {
        run_all(SHAPE(1, 5, 3, 4), SHAPE(1, 5, 1, 1), constants);
        run_all(SHAPE(1, 5, 1, 1), SHAPE(1, 5, 3, 4), constants);
    }
}

Test(binary, scalars) {
    run_all(SHAPE(1, 4, 3, 5), SHAPE0, 2);
    run_all(SHAPE0, SHAPE(1, 4, 3, 5), 1);
    run_all(SHAPE(1, 4, 3, 5), SHAPE(1), 0);
    run_all(SHAPE(1, 1, 1, 1), SHAPE(1, 4, 3, 5), 0);
}

Test(binary, different_ranks) {
    run_all(SHAPE(1, 5, 3, 4), SHAPE(5, 1, 1), 2);
    run_all(SHAPE(1, 5, 3, 4), SHAPE(5, 1, 1), 0);
    run_all(SHAPE(5, 3, 4), SHAPE(1, 5, 3, 4), 0);
    run_all(SHAPE(4), SHAPE(1, 5, 3, 4), 0);
    run_all(SHAPE(5, 3, 4), SHAPE(1, 5, 3, 4), 1);
}

Test(binary, both_operands_broadcast) {
    run_all(SHAPE(1, 5, 1, 4), SHAPE(1, 1, 3, 1), 0);
    run_all(SHAPE(1, 5, 1, 1), SHAPE(1, 1, 3, 4), 0);
    run_all(SHAPE(2, 1, 3, 1, 2), SHAPE(4, 3, 2, 1), 0);
}

/* Rows longer than one task, so that cutting them is tried too. */
Test(binary, long_rows) {
    for (int gate = 0; gate < 2; gate++) {
        enum { N = 40000 };
        op_check c;
        op_check_init(&c, "Mul", 17);
        op_check_input(&c, SHAPE(1, N));
        op_check_input(&c, gate ? SHAPE(1, 1) : SHAPE(1, N));
        op_check_open(&c, PG_PLAIN);
        op_check_forward(&c);
        op_check_backward(&c);
        double gate_slope = 0;
        for (int i = 0; i < N; i++) {
            float b = c.x[1][gate ? 0 : i];
            cr_assert(c.y[0][i] == c.x[0][i] * b);
            cr_assert(c.d_x[0][i] == c.d_y[0][i] * b);
            gate_slope += (double)c.d_y[0][i] * c.x[0][i];
            cr_assert(gate || c.d_x[1][i] == c.d_y[0][i] * c.x[0][i]);
        }
        if (gate)
            op_check_d_src(&c, 1, &gate_slope, 1e-4);
        op_check_close(&c);
    }
}

Test(binary, the_square) {
    const float two = 2;
    op_check c;
    op_check_init(&c, "Pow", 17);
    op_check_input(&c, SHAPE(1, 4, 3, 5)); /* negative ones too */
    op_check_const(&c, SHAPE0, &two);
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_forward(&c);
    double expected[60];
    for (int i = 0; i < 60; i++)
        expected[i] = (double)c.x[0][i] * c.x[0][i];
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

/* 0^p: slopes that are finite must come out so. */
Test(binary, powers_of_zero) {
    const float u[] = {0, 0, 0}, v[] = {0, 1, 3};
    op_check c;
    op_check_init(&c, "Pow", 17);
    op_check_input_of(&c, SHAPE(3), u);
    op_check_input_of(&c, SHAPE(3), v);
    op_check_open(&c, PG_PLAIN);
    for (int i = 0; i < 3; i++)
        c.d_y[0][i] = 1;
    op_check_forward(&c);
    op_check_backward(&c);
    const double d_u[] = {0, 1, 0}, d_v[] = {0, 0, 0};
    op_check_d_src(&c, 0, d_u, 0);
    op_check_d_src(&c, 1, d_v, 0);
    op_check_close(&c);
}

Test(binary, unwanted_gradients) {
    for (int wanted = 0; wanted < 2; wanted++) {
        op_check c;
        op_check_init(&c, "Mul", 17);
        op_check_input(&c, SHAPE(1, 4, 3, 3));
        op_check_input(&c, SHAPE(1, 4, 1, 1));
        op_check_create(&c);
        c.want[!wanted] = false;
        op_check_start(&c, PG_CHANNELS_LAST);
        op_check_gradient(&c, 3e-3);
        op_check_close(&c);
    }
}

Test(variadic, one_to_four_operands) {
    const pg_shape shapes[] = {SHAPE(5, 1, 1), SHAPE(1, 5, 3, 4), SHAPE(1, 5, 3, 4), SHAPE(4)};
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
        for (int i = 0; i < 4; i++)
            for (int n = 1; n <= 4; n++)
                for (unsigned constants = 0; constants < 1u << n; constants++)
                    if (constants + 1 < 1u << n)
                        run(VARIADIC[i], n, shapes, constants, (pg_layout)layout);
}

/* Operands that share the extreme share the gradient; NaN stays. */
Test(variadic, ties) {
    const float a[] = {1, 2, 3, 1}, b[] = {1, 2, 4, NAN}, d[] = {1, 0, 4, 5};
    for (int max = 0; max < 2; max++) {
        op_check c;
        op_check_init(&c, max ? "Max" : "Min", 13);
        op_check_input_of(&c, SHAPE(4), a);
        op_check_input_of(&c, SHAPE(4), b);
        op_check_input_of(&c, SHAPE(4), d);
        op_check_open(&c, PG_PLAIN);
        for (int i = 0; i < 4; i++)
            c.d_y[0][i] = 6;
        op_check_forward(&c);
        op_check_backward(&c);
        const float expected[2][3][3] = {{{2, 0, 6}, {2, 0, 0}, {2, 6, 0}},
                                         {{2, 3, 0}, {2, 3, 3}, {2, 0, 3}}};
        for (int x = 0; x < 3; x++)
            for (int i = 0; i < 3; i++)
                cr_assert(c.d_x[x][i] == expected[max][x][i], "%s: d_src[%d][%d] is %g",
                          c.op->type, x, i, (double)c.d_x[x][i]);
        cr_assert(isnan(c.y[0][3]));
        op_check_close(&c);
    }
}

static void refused(const char *type, int n, pg_shape a, pg_shape b, unsigned constants,
                    const char *part) {
    op_check c;
    const pg_shape shapes[] = {a, b};
    op_check_init(&c, type, 17);
    for (int i = 0; i < n; i++)
        if (constants >> i & 1)
            op_check_const(&c, shapes[i], NULL);
        else
            op_check_input(&c, shapes[i]);
    op_check_refused(&c, part);
}

Test(binary, refuses_what_does_not_fit) {
    const char *const both[] = {"Mul", "Max"};
    for (int i = 0; i < 2; i++) {
        refused(both[i], 2, SHAPE(1, 5, 3, 4), SHAPE(5), 0, "broadcast");
        refused(both[i], 2, SHAPE(2, 3), SHAPE(3, 3), 2, "broadcast");
        refused(both[i], 2, SHAPE(3), SHAPE(3), 3, "computed");
        refused(both[i], 2, SHAPE(3), SHAPE(0), 2, "empty");
        refused(both[i], 0, SHAPE(3), SHAPE(3), 0, "input");
        refused(both[i], 2, SHAPE(1 << 22, 1), SHAPE(1, 1 << 22), 0, "shape");
    }
    refused("Add", 1, SHAPE(3), SHAPE(3), 0, "two");
    op_check c;
    op_check_init(&c, "Sum", 13);
    op_check_input(&c, SHAPE(3));
    op_check_absent(&c);
    op_check_refused(&c, "missing");
    op_check_init(&c, "Add", 6);
    op_check_input(&c, SHAPE(3));
    op_check_input(&c, SHAPE(3));
    op_check_attr_int(&c, "broadcast", 1);
    op_check_refused(&c, "opset 6");
}
