#include "tests/support/op_check.h"

typedef struct function_case {
    const char *type;
    const char *name_a, *name_b; /* attributes, NULL: leave the default */
    float a, b;
    double (*reference)(double x, double a, double b);
    double low, high; /* where to try it */
    bool smooth;
} function_case;

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return log1p(exp(x)); }

#define REFERENCE(name, f)                                                                         \
    static double ref_##name(double x, double a, double b) {                                       \
        (void)a, (void)b;                                                                          \
        return (f);                                                                                \
    }
REFERENCE(abs, fabs(x))
REFERENCE(acos, acos(x))
REFERENCE(acosh, acosh(x))
REFERENCE(asin, asin(x))
REFERENCE(asinh, asinh(x))
REFERENCE(atan, atan(x))
REFERENCE(atanh, atanh(x))
REFERENCE(cos, cos(x))
REFERENCE(cosh, cosh(x))
REFERENCE(shrink, x < -a ? x + b : x > a ? x - b : 0)
REFERENCE(sin, sin(x))
REFERENCE(sinh, sinh(x))
REFERENCE(tan, tan(x))
REFERENCE(celu, fmax(0, x) + fmin(0, a * (exp(x / a) - 1)))
REFERENCE(clip, fmin(fmax(x, a), b))
REFERENCE(elu, x < 0 ? a * (exp(x) - 1) : x)
REFERENCE(erf, erf(x))
REFERENCE(exp, exp(x))
REFERENCE(gelu, 0.5 * x * (1 + erf(x / sqrt(2))))
REFERENCE(gelu_tanh, 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))))
REFERENCE(hard_sigmoid, fmax(0, fmin(1, a * x + b)))
REFERENCE(hard_swish, x *fmax(0, fmin(1, x / 6 + 0.5)))
REFERENCE(leaky_relu, x < 0 ? a * x : x)
REFERENCE(log, log(x))
REFERENCE(mish, x *tanh(softplus(x)))
REFERENCE(neg, -x)
REFERENCE(reciprocal, 1 / x)
REFERENCE(relu, fmax(0, x))
REFERENCE(selu, b *(x > 0 ? x : a * (exp(x) - 1)))
REFERENCE(sigmoid, sigmoid(x))
REFERENCE(softplus, softplus(x))
REFERENCE(softsign, x / (1 + fabs(x)))
REFERENCE(sqrt, sqrt(x))
REFERENCE(swish, x *sigmoid(x))
REFERENCE(tanh, tanh(x))
REFERENCE(thresholded_relu, x > a ? x : 0)

static const function_case cases[] = {
    {"Abs", NULL, NULL, 0, 0, ref_abs, -3, 3, false},
    {"Acos", NULL, NULL, 0, 0, ref_acos, -0.7, 0.7, true},
    {"Acosh", NULL, NULL, 0, 0, ref_acosh, 1.3, 4, true},
    {"Asin", NULL, NULL, 0, 0, ref_asin, -0.7, 0.7, true},
    {"Asinh", NULL, NULL, 0, 0, ref_asinh, -4, 4, true},
    {"Atan", NULL, NULL, 0, 0, ref_atan, -4, 4, true},
    {"Atanh", NULL, NULL, 0, 0, ref_atanh, -0.7, 0.7, true},
    {"Cos", NULL, NULL, 0, 0, ref_cos, -9, 9, true},
    {"Cosh", NULL, NULL, 0, 0, ref_cosh, -3, 3, true},
    {"Celu", "alpha", NULL, 0.7f, 0, ref_celu, -3, 3, true},
    {"Clip", "min", "max", -1.5f, 0.5f, ref_clip, -3, 3, false},
    {"Elu", NULL, NULL, 1, 0, ref_elu, -3, 3, true},
    {"Elu", "alpha", NULL, 0.3f, 0, ref_elu, -3, 3, false},
    {"Erf", NULL, NULL, 0, 0, ref_erf, -3, 3, true},
    {"Exp", NULL, NULL, 0, 0, ref_exp, -6, 3, true},
    {"Gelu", NULL, NULL, 0, 0, ref_gelu, -6, 6, true},
    {"HardSigmoid", NULL, NULL, 0.2f, 0.5f, ref_hard_sigmoid, -4, 4, false},
    {"HardSigmoid", "alpha", "beta", 1.0f / 6, 0.25f, ref_hard_sigmoid, -6, 6, false},
    {"HardSwish", NULL, NULL, 0, 0, ref_hard_swish, -5, 5, false},
    {"LeakyRelu", NULL, NULL, 0.01f, 0, ref_leaky_relu, -3, 3, false},
    {"LeakyRelu", "alpha", NULL, 0.2f, 0, ref_leaky_relu, -3, 3, false},
    {"Log", NULL, NULL, 0, 0, ref_log, 0.5, 4, true},
    {"Mish", NULL, NULL, 0, 0, ref_mish, -8, 8, true},
    {"Neg", NULL, NULL, 0, 0, ref_neg, -3, 3, true},
    {"Reciprocal", NULL, NULL, 0, 0, ref_reciprocal, 0.5, 4, true},
    {"Relu", NULL, NULL, 0, 0, ref_relu, -3, 3, false},
    {"Selu", NULL, NULL, 1.67326319f, 1.05070102f, ref_selu, -3, 3, false},
    {"Shrink", NULL, NULL, 0.5f, 0, ref_shrink, -3, 3, false},
    {"Shrink", "lambd", "bias", 1, 0.25f, ref_shrink, -3, 3, false},
    {"Sin", NULL, NULL, 0, 0, ref_sin, -9, 9, true},
    {"Sinh", NULL, NULL, 0, 0, ref_sinh, -3, 3, true},
    {"Sigmoid", NULL, NULL, 0, 0, ref_sigmoid, -20, 20, true},
    {"Softplus", NULL, NULL, 0, 0, ref_softplus, -20, 20, true},
    {"Softsign", NULL, NULL, 0, 0, ref_softsign, 0.1, 3, true}, /* its curvature jumps at 0 */
    {"Softsign", NULL, NULL, 0, 0, ref_softsign, -3, -0.1, true},
    {"Sqrt", NULL, NULL, 0, 0, ref_sqrt, 0.5, 4, true},
    {"Swish", NULL, NULL, 0, 0, ref_swish, -10, 10, true},
    {"Tan", NULL, NULL, 0, 0, ref_tan, -1, 1, true},
    {"Tanh", NULL, NULL, 0, 0, ref_tanh, -6, 6, true},
    {"ThresholdedRelu", NULL, NULL, 1, 0, ref_thresholded_relu, -3, 3, false},
};
enum { CASES = sizeof cases / sizeof cases[0], COUNT = 2 * 3 * 5 * 7 };

/* Spreads the bench's noise over [low, high], runs and compares. */
static void compare(op_check *c, const function_case *f) {
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++) {
        c->x[0][i] = (float)(f->low + (f->high - f->low) * 0.5 * (c->x[0][i] + 1.0));
        expected[i] = f->reference((double)c->x[0][i], (double)f->a, (double)f->b);
    }
    op_check_forward(c);
    op_check_dst(c, 0, expected, 1e-6);
    c->kink = f->smooth ? 0 : 0.006;
    op_check_gradient(c, 4e-3);
}

Test(eltwise, every_function) {
    for (int i = 0; i < CASES; i++)
        for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
            const function_case *f = &cases[i];
            op_check c;
            op_check_init(&c, f->type, f->name_a && strcmp(f->type, "Clip") == 0 ? 6 : 20);
            if (f->name_a)
                op_check_attr_float(&c, f->name_a, f->a);
            if (f->name_b)
                op_check_attr_float(&c, f->name_b, f->b);
            op_check_input(&c, SHAPE(2, 3, 5, 7));
            op_check_open(&c, (pg_layout)layout);
            compare(&c, f);
            op_check_close(&c);
        }
}

Test(eltwise, gelu_by_tanh) {
    const function_case f = {.reference = ref_gelu_tanh, .low = -6, .high = 6, .smooth = true};
    op_check c;
    op_check_init(&c, "Gelu", 20);
    op_check_attr_string(&c, "approximate", "tanh");
    op_check_input(&c, SHAPE(COUNT));
    op_check_open(&c, PG_PLAIN);
    compare(&c, &f);
    op_check_close(&c);
}

Test(eltwise, clip_takes_bounds_from_inputs) {
    for (int which = 0; which < 3; which++) { /* both, only min, only max */
        const float low = -1, high = 0.75f;
        const function_case f = {.reference = ref_clip, .low = -3, .high = 3,
                                 .a = which == 2 ? -INFINITY : low,
                                 .b = which == 1 ? INFINITY : high};
        op_check c;
        op_check_init(&c, "Clip", 13);
        op_check_input(&c, SHAPE(1, COUNT));
        if (which == 2)
            op_check_absent(&c);
        else
            op_check_const(&c, SHAPE0, &low);
        if (which != 1)
            op_check_const(&c, SHAPE(1), &high);
        op_check_open(&c, PG_PLAIN);
        compare(&c, &f);
        op_check_close(&c);
    }
}

/* Derivatives where differences cannot tell: what torch takes. */
/* ONNX: max wins, and nothing passes. */
Test(eltwise, clip_with_bounds_the_wrong_way_round) {
    op_check c;
    op_check_init(&c, "Clip", 13);
    op_check_input(&c, SHAPE(1, 3, 4, 5));
    op_check_const(&c, SHAPE0, &(const float){0.5f});
    op_check_const(&c, SHAPE0, &(const float){-0.25f});
    op_check_open(&c, PG_PLAIN);
    double expected[60], none[60] = {0};
    for (int i = 0; i < 60; i++)
        expected[i] = -0.25;
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 0);
    op_check_backward(&c);
    op_check_d_src(&c, 0, none, 0);
    op_check_close(&c);
}

Test(eltwise, slopes_at_kinks) {
    static const struct {
        const char *type;
        float x, slope;
    } at[] = {{"Relu", 0, 0},       {"LeakyRelu", 0, 0.01f},    {"HardSwish", -3, 0},
              {"HardSwish", 3, 1},  {"Abs", 0, 0},              {"ThresholdedRelu", 1, 0},
              {"Relu", -0.0f, 0},   {"HardSigmoid", -2.5f, 0},  {"HardSigmoid", 2.5f, 0},
              {"Shrink", 0.5f, 0},  {"Shrink", -0.5f, 0},       {"Sqrt", 0, INFINITY},
              {"Asin", 1, INFINITY}, {"Acosh", 1, INFINITY},    {"Log", 0, INFINITY}};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        op_check c;
        op_check_init(&c, at[i].type, 17);
        op_check_input_of(&c, SHAPE(1), &at[i].x);
        op_check_open(&c, PG_PLAIN);
        c.d_y[0][0] = 1;
        op_check_forward(&c);
        op_check_backward(&c);
        cr_assert(c.d_x[0][0] == at[i].slope, "%s'(%g) is %g", at[i].type, (double)at[i].x,
                  (double)c.d_x[0][0]);
        op_check_close(&c);
    }
}

/* Saturating functions must saturate as the mathematics does, without 0 * infinity; NaN must stay
 * NaN. */
Test(eltwise, extreme_inputs) {
    static const char *const types[] = {"Abs",      "Atan", "Asinh",   "Celu",    "Elu",  "Erf",
                                        "Gelu",     "HardSigmoid",     "HardSwish",
                                        "LeakyRelu", "Mish", "Relu",   "Selu",    "Sigmoid",
                                        "Softplus", "Softsign",        "Swish",   "Tanh",
                                        "ThresholdedRelu", "Shrink"};
    const float x[] = {NAN,  1e4f,  -1e4f,   100.0f, -100.0f, 80.0f, -80.0f, 30.0f, -30.0f,
                       1e9f, -1e9f, 1e19f, -1e19f, 3e38f,  -3e38f};
    enum { N = sizeof x / sizeof x[0] };
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        const function_case *f = cases;
        while (strcmp(f->type, types[t]) != 0 || (f->name_a && strcmp(f->type, "Celu") != 0))
            f++;
        op_check c;
        op_check_init(&c, f->type, 20);
        if (f->name_a)
            op_check_attr_float(&c, f->name_a, f->a);
        op_check_input_of(&c, SHAPE(N), x);
        op_check_open(&c, PG_PLAIN);
        for (int k = 0; k < N; k++)
            c.d_y[0][k] = 1;
        op_check_forward(&c);
        op_check_backward(&c);
        cr_assert(strcmp(f->type, "ThresholdedRelu") == 0 || isnan(c.y[0][0]),
                  "%s(NaN) is %g", f->type, (double)c.y[0][0]);
        for (int k = 1; k < N; k++) {
            double v = (double)x[k];
            double expected = strcmp(f->type, "Softplus") == 0 ? fmax(v, 0) + log1p(exp(-fabs(v)))
                              : strcmp(f->type, "Mish") == 0
                                  ? v * tanh(fmax(v, 0) + log1p(exp(-fabs(v))))
                                  : f->reference(v, (double)f->a, (double)f->b);
            if (fabs(expected) > 3.4e38) /* Selu of 3e38 */
                continue;
            cr_assert(fabs((double)c.y[0][k] - expected) <= 1e-6 * fabs(expected) + 1e-37,
                      "%s(%g) is %g instead of %g", f->type, v, (double)c.y[0][k], expected);
            cr_assert(isfinite(c.d_x[0][k]) && fabsf(c.d_x[0][k]) < 1.8f, "%s'(%g) is %g", f->type,
                      v, (double)c.d_x[0][k]);
        }
        op_check_close(&c);
    }
}

/* GELU by tanh, where v^3 and v^2 overflow. */
Test(eltwise, extreme_gelu_by_tanh) {
    const float x[] = {1e4f, -1e4f, 1e13f, -1e13f, 1e20f, -1e20f};
    op_check c;
    op_check_init(&c, "Gelu", 20);
    op_check_attr_string(&c, "approximate", "tanh");
    op_check_input_of(&c, SHAPE(6), x);
    op_check_open(&c, PG_PLAIN);
    for (int k = 0; k < 6; k++)
        c.d_y[0][k] = 1;
    op_check_forward(&c);
    op_check_backward(&c);
    for (int k = 0; k < 6; k++) {
        cr_assert(c.y[0][k] == (k % 2 ? 0 : x[k]));
        cr_assert(c.d_x[0][k] == (k % 2 ? 0 : 1));
    }
    op_check_close(&c);
}

/* exp overflows, and underflows through denormals, where IEEE says so. */
Test(eltwise, range_of_exp) {
    const float x[] = {88.72f, 88.8f, 200, INFINITY, -87.5f, -100, -103.5f, -110, -INFINITY, 0};
    op_check c;
    op_check_init(&c, "Exp", 13);
    op_check_input_of(&c, SHAPE(10), x);
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    for (int k = 0; k < 10; k++) {
        float expected = (float)exp((double)x[k]);
        cr_assert(c.y[0][k] == expected || fabsf(c.y[0][k] - expected) <= 4e-7f * expected + 3e-45f,
                  "exp(%g) is %g instead of %g", (double)x[k], (double)c.y[0][k],
                  (double)expected);
    }
    op_check_close(&c);
}

/* Relative accuracy near 0, where differences of numbers near 1 would lose it. */
Test(eltwise, small_inputs) {
    static const char *const types[] = {"Tanh", "Elu", "Selu", "Mish", "Sinh", "Erf", "Gelu"};
    for (size_t t = 0; t < 7; t++) {
        const function_case *f = cases;
        while (strcmp(f->type, types[t]) != 0)
            f++;
        op_check c;
        op_check_init(&c, f->type, 20);
        op_check_input(&c, SHAPE(400));
        op_check_open(&c, PG_PLAIN);
        for (int k = 0; k < 400; k++)
            c.x[0][k] = (k % 2 ? -1.0f : 1.0f) * powf(10, -9.0f * (float)k / 400) * 0.9f;
        op_check_forward(&c);
        for (int k = 0; k < 400; k++) {
            double expected = f->reference((double)c.x[0][k], (double)f->a, (double)f->b);
            cr_assert(fabs((double)c.y[0][k] - expected) <= 1e-6 * fabs(expected),
                      "%s(%g) is %.9g instead of %.9g", f->type, (double)c.x[0][k],
                      (double)c.y[0][k], expected);
        }
        op_check_close(&c);
    }
}

/* Value as given, gradient 0. */
Test(eltwise, steps) {
    const float x[] = {-2.5f, -1.5f, -0.5f, -0.25f, 0, 0.5f, 1.5f, 2.5f, 3.2f, 1e9f};
    static const struct {
        const char *type;
        float y[10];
    } steps[] = {
        {"Ceil", {-2, -1, 0, 0, 0, 1, 2, 3, 4, 1e9f}},
        {"Floor", {-3, -2, -1, -1, 0, 0, 1, 2, 3, 1e9f}},
        {"Not", {0, 0, 0, 0, 1, 0, 0, 0, 0, 0}},
        {"Round", {-2, -2, 0, 0, 0, 0, 2, 2, 3, 1e9f}},
        {"Sign", {-1, -1, -1, -1, 0, 1, 1, 1, 1, 1}},
    };
    for (int t = 0; t < 5; t++) {
        op_check c;
        op_check_init(&c, steps[t].type, 13);
        op_check_input_of(&c, SHAPE(1, 10), x);
        op_check_open(&c, PG_PLAIN);
        c.d_y[0][3] = INFINITY; /* nothing of what comes from above may pass */
        op_check_forward(&c);
        op_check_backward(&c);
        for (int k = 0; k < 10; k++) {
            cr_assert(c.y[0][k] == steps[t].y[k], "%s(%g) is %g", steps[t].type, (double)x[k],
                      (double)c.y[0][k]);
            cr_assert(c.d_x[0][k] == 0);
        }
        op_check_close(&c);
    }
}

Test(eltwise, refuses_what_it_cannot_do) {
    op_check c;
    const float two[] = {0, 1};
    op_check_init(&c, "Relu", 13);
    op_check_refused(&c, "input");
    op_check_init(&c, "Relu", 13);
    op_check_const(&c, SHAPE(2), two);
    op_check_refused(&c, "input");
    op_check_init(&c, "LeakyRelu", 13);
    op_check_input(&c, SHAPE(4));
    op_check_attr_int(&c, "alpha", 1);
    op_check_refused(&c, "not a float");
    op_check_init(&c, "Elu", 13);
    op_check_input(&c, SHAPE(4));
    op_check_attr_float(&c, "alpha", NAN);
    op_check_refused(&c, "not a number");
    op_check_init(&c, "Celu", 13);
    op_check_input(&c, SHAPE(4));
    op_check_attr_float(&c, "alpha", 0);
    op_check_refused(&c, "alpha");
    op_check_init(&c, "Gelu", 20);
    op_check_input(&c, SHAPE(4));
    op_check_attr_string(&c, "approximate", "maybe");
    op_check_refused(&c, "approximate");
    op_check_init(&c, "Clip", 13);
    op_check_input(&c, SHAPE(4));
    op_check_const(&c, SHAPE(2), two);
    op_check_refused(&c, "scalar");
    op_check_init(&c, "Clip", 13);
    op_check_input(&c, SHAPE(4));
    op_check_input(&c, SHAPE(1));
    op_check_refused(&c, "constant");
}
