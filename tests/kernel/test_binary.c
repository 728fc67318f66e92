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

/* ---- comparisons and logic ---- */

static double truth(const char *type, double a, double b) {
    return strcmp(type, "Equal") == 0            ? a == b
           : strcmp(type, "Less") == 0           ? a < b
           : strcmp(type, "LessOrEqual") == 0    ? a <= b
           : strcmp(type, "Greater") == 0        ? a > b
           : strcmp(type, "GreaterOrEqual") == 0 ? a >= b
           : strcmp(type, "And") == 0            ? a != 0 && b != 0
           : strcmp(type, "Or") == 0             ? a != 0 || b != 0
                                                 : (a != 0) != (b != 0);
}

/* 0 or 1, and no gradient whatever comes from above. */
static void truth_case(const char *type, pg_shape a, pg_shape b, unsigned constants,
                       pg_layout layout) {
    op_check c;
    operand x[2] = {{.shape = a}, {.shape = b}};
    op_check_init(&c, type, 16);
    for (int i = 0; i < 2; i++) {
        int64_t n = pg_shape_count(&x[i].shape);
        float *value = op_check_array(&c, n);
        for (int64_t k = 0; k < n; k++)
            value[k] = (float)((k * 7 + i * 5) % 3 - 1); /* -1, 0, 1: many equal */
        if (constants >> i & 1)
            op_check_const(&c, x[i].shape, value);
        else
            op_check_input_of(&c, x[i].shape, value);
        x[i].value = value;
    }
    op_check_open(&c, layout);
    c.d_y[0][0] = INFINITY;
    op_check_forward(&c);
    op_check_backward(&c);
    const pg_shape *dst = &c.op->dst[0].shape;
    for (int64_t k = 0; k < pg_shape_count(dst); k++)
        cr_assert((double)c.y[0][k] ==
                  truth(type, value_at(&x[0], dst, k), value_at(&x[1], dst, k)));
    for (int i = 0; i < c.op->n_src; i++)
        for (int64_t k = 0; k < pg_shape_count(&c.op->src[i].shape); k++)
            cr_assert(c.d_x[i][k] == 0);
    op_check_close(&c);
}

Test(binary, comparisons_and_logic) {
    static const char *const types[] = {"And",  "Equal",       "Greater", "GreaterOrEqual",
                                        "Less", "LessOrEqual", "Or",      "Xor"};
    for (int t = 0; t < 8; t++)
        for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
            for (unsigned constants = 0; constants < 3; constants++) {
                truth_case(types[t], SHAPE(1, 5, 3, 4), SHAPE(1, 5, 3, 4), constants,
                           (pg_layout)layout);
                truth_case(types[t], SHAPE(1, 5, 1, 4), SHAPE(3, 1), constants, (pg_layout)layout);
                truth_case(types[t], SHAPE0, SHAPE(1, 37), constants, (pg_layout)layout);
            }
}

Test(binary, comparison_with_nan_is_false) {
    op_check c;
    op_check_init(&c, "LessOrEqual", 16);
    op_check_input_of(&c, SHAPE(2), (float[]){NAN, 1});
    op_check_input_of(&c, SHAPE(2), (float[]){1, NAN});
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    cr_assert(c.y[0][0] == 0 && c.y[0][1] == 0);
    op_check_close(&c);
}

/* ---- Mod, Pow ---- */

Test(binary, mod) {
    const float u[] = {5.5f, -5.5f, 5.5f, -5.5f, 6, -6, 0.25f}, v[] = {2, 2, -2, -2, 3, 3, 8};
    for (int fmod_given = 0; fmod_given < 2; fmod_given++) {
        op_check c;
        double y[7], d_v[7];
        op_check_init(&c, "Mod", 13);
        op_check_attr_int(&c, "fmod", fmod_given);
        op_check_input_of(&c, SHAPE(7), u);
        op_check_input_of(&c, SHAPE(7), v);
        op_check_open(&c, PG_PLAIN);
        op_check_forward(&c);
        op_check_backward(&c);
        for (int i = 0; i < 7; i++) {
            double q = (double)u[i] / (double)v[i], whole = fmod_given ? trunc(q) : floor(q);
            y[i] = (double)u[i] - whole * (double)v[i];
            d_v[i] = -whole * (double)c.d_y[0][i];
            cr_assert(c.d_x[0][i] == c.d_y[0][i]);
        }
        op_check_dst(&c, 0, y, 1e-7);
        op_check_d_src(&c, 1, d_v, 1e-6);
        op_check_close(&c);
    }
}

/* Constant exponents, integer ones of a negative base too, given as either type. */
Test(binary, constant_powers) {
    static const float powers[] = {2, 3, 1, 0, -1, 4, -3, 0.5f, 1.7f};
    for (int i = 0; i < 9; i++)
        for (int whole = 0; whole < 2; whole++) {
            bool fraction = powers[i] != floorf(powers[i]);
            if (fraction && whole)
                continue;
            op_check c;
            double expected[60];
            op_check_init(&c, "Pow", 15);
            op_check_input(&c, SHAPE(1, 4, 3, 5));
            if (whole)
                op_check_const_i64(&c, SHAPE0, (int64_t[]){(int64_t)powers[i]});
            else
                op_check_const(&c, SHAPE(1), &powers[i]);
            op_check_open(&c, PG_CHANNELS_LAST);
            for (int k = 0; k < 60; k++) { /* away from 0, where negative powers end */
                float sign = fraction || k % 3 ? 1.0f : -1.0f;
                c.x[0][k] = sign * (1.25f + 0.5f * c.x[0][k]);
                expected[k] = pow((double)c.x[0][k], (double)powers[i]);
            }
            op_check_forward(&c);
            op_check_dst(&c, 0, expected, 2e-6);
            op_check_gradient(&c, 5e-3);
            op_check_close(&c);
        }
}

/* A scalar that scales a large map: its gradient is a long sum, made in double. */
Test(binary, long_sums_keep_their_digits) {
    enum { N = 1 << 20 };
    op_check c;
    op_check_init(&c, "Add", 14);
    op_check_input(&c, SHAPE(1, N));
    op_check_input(&c, SHAPE(1));
    op_check_open(&c, PG_PLAIN);
    for (int i = 0; i < N; i++)
        c.d_y[0][i] = 0.1f;
    op_check_forward(&c);
    op_check_backward(&c);
    const double expected = N * (double)0.1f;
    op_check_d_src(&c, 1, &expected, 1e-7);
    op_check_close(&c);
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
