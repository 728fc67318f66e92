/* Functions of one variable, applied to every element: one row of `functions` each, with value and
 * derivative side by side. The layout does not matter to them.
 *
 * Each function reads its two parameters a and b (slope, bounds, ...); the derivative is taken from
 * x, the input, so that no function needs two rules. At kinks the derivative is what torch takes:
 * 0 for ReLU at 0, 0 at both bounds of Clip. Steps (Sign, Round, Not, ...) have derivative 0, and a
 * model that computes with them is explained through what else it computes. Where a derivative is
 * infinite (Sqrt at 0, Asin at 1) it stays so, as in torch: it would poison the map, and a network
 * whose gradient does not exist should not look as if it did. */
#include <math.h>
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/simd.h"
#include "kernels/vmath.h"

typedef struct eltwise_function {
    const char *type;
    const char *attr_a, *attr_b; /* attribute names, NULL: none */
    float a, b;                  /* their defaults */
    void (*value)(int64_t n, const float *x, float a, float b, float *y);
    void (*slope)(int64_t n, const float *x, float a, float b, const float *dy, float *dx);
} eltwise_function;

typedef struct eltwise_op {
    pg_op op;
    const eltwise_function *function;
    float a, b;
} eltwise_op;

extern const pg_op_class pg_eltwise_class;

/* Defines <name>_value: f as an expression of x (v), a and b. */
#define VALUE(name, f)                                                                             \
    PG_CLONES static void name##_value(int64_t n, const float *x, float a, float b, float *y) {    \
        (void)a, (void)b;                                                                          \
        for (int64_t i = 0; i < n; i++) {                                                          \
            float v = x[i];                                                                        \
            y[i] = (f);                                                                            \
        }                                                                                          \
    }

/* Defines <name>_value and <name>_slope: f and f'. */
#define FUNCTION(name, f, df)                                                                      \
    VALUE(name, f)                                                                                 \
    PG_CLONES static void name##_slope(int64_t n, const float *x, float a, float b,                \
                                       const float *dy, float *dx) {                               \
        (void)a, (void)b;                                                                          \
        for (int64_t i = 0; i < n; i++) {                                                          \
            float v = x[i];                                                                        \
            (void)v;                                                                               \
            dx[i] = dy[i] * (df);                                                                  \
        }                                                                                          \
    }

/* The slope of steps: 0, whatever comes from above. */
static void zero_slope(int64_t n, const float *x, float a, float b, const float *dy, float *dx) {
    (void)x, (void)a, (void)b, (void)dy;
    memset(dx, 0, (size_t)n * sizeof *dx);
}

static inline float softplus_of(float v) {
    return (v > 0 ? v : 0) + log1pf(pg_expf(v > 0 ? -v : v));
}
/* tanh(softplus(v)) = m / (m + 2) with w = e^v, m = w^2 + 2 w; 1 from v = 20 on, 0 to -88. */
static inline float mish_of(float v) {
    float w = pg_expf(v), m = w * (w + 2);
    return v > 20 ? v : v < -88 ? 0.0f : v * (m / (m + 2));
}
static inline float mish_slope_of(float v) {
    float w = pg_expf(v), m = w * (w + 2), q = 1 / (m + 2);
    return v > 20 ? 1.0f : v < -88 ? 0.0f : m * q + v * (4 * w * (w + 1) * q * q);
}
static inline float gelu_slope_of(float x) {
    float v = x > 14 ? 14 : x < -14 ? -14 : x; /* beyond, the density is 0 and v may be huge */
    return pg_normal_cdf(v) + v * 0.39894228f * pg_expf(-0.5f * v * v);
}

/* The inner u = sqrt(2/pi) (v + 0.044715 v^3) of the approximation 0.5 v (1 + tanh u). */
static inline float gelu_inner(float v) { return 0.79788456f * (v + 0.044715f * v * v * v); }
static inline float gelu_tanh_slope_of(float x) {
    float v = x > 12 ? 12 : x < -12 ? -12 : x; /* beyond, s (1 - s) is 0 and v^2 may be infinite */
    float s = pg_sigmoidf(2.0f * gelu_inner(v));
    return s + v * 2.0f * s * (1 - s) * 0.79788456f * (1 + 0.134145f * v * v);
}

FUNCTION(relu, v > 0 || v != v ? v : 0, v > 0 ? 1.0f : 0.0f)
FUNCTION(leaky_relu, v > 0 ? v : a * v, v > 0 ? 1.0f : a)
FUNCTION(thresholded_relu, v > a ? v : 0, v > a ? 1.0f : 0.0f)
FUNCTION(clip, (v < a ? a : v) > b ? b : v < a ? a : v, v > a && v < b ? 1.0f : 0.0f)
FUNCTION(sigmoid, pg_sigmoidf(v), pg_sigmoidf(v) * (1.0f - pg_sigmoidf(v)))
FUNCTION(swish, v * pg_sigmoidf(v), pg_sigmoidf(v) * (1.0f + v * (1.0f - pg_sigmoidf(v))))
FUNCTION(hard_sigmoid, a * v + b < 0 ? 0.0f : a * v + b > 1 ? 1.0f : a * v + b,
         a * v + b > 0 && a * v + b < 1 ? a : 0.0f)
FUNCTION(hard_swish, v * (v <= -3 ? 0.0f : v >= 3 ? 1.0f : v / 6 + 0.5f),
         v <= -3 ? 0.0f : v >= 3 ? 1.0f : v / 3 + 0.5f)
FUNCTION(tanh, pg_tanhf(v), 1.0f - pg_tanhf(v) * pg_tanhf(v))
FUNCTION(elu, v > 0 ? v : a * pg_expm1f(v), v > 0 ? 1.0f : a * pg_expf(v))
FUNCTION(celu, v > 0 ? v : a * pg_expm1f(v / a), v > 0 ? 1.0f : pg_expf(v / a))
FUNCTION(selu, b * (v > 0 ? v : a * pg_expm1f(v)), b * (v > 0 ? 1.0f : a * pg_expf(v)))
FUNCTION(softplus, softplus_of(v), pg_sigmoidf(v))
FUNCTION(softsign, v / (1 + fabsf(v)), 1.0f / ((1 + fabsf(v)) * (1 + fabsf(v))))
FUNCTION(mish, mish_of(v), mish_slope_of(v))
FUNCTION(gelu, v * pg_normal_cdf(v), gelu_slope_of(v))
FUNCTION(gelu_tanh, v * pg_sigmoidf(2.0f * gelu_inner(v)), gelu_tanh_slope_of(v))
FUNCTION(erf, pg_erff(v), 1.12837917f * pg_expf(-v * v))
FUNCTION(exp, pg_expf_ieee(v), pg_expf_ieee(v))
FUNCTION(log, logf(v), 1.0f / v)
FUNCTION(sqrt, sqrtf(v), 0.5f / sqrtf(v))
FUNCTION(reciprocal, 1.0f / v, -1.0f / (v * v))
FUNCTION(neg, -v, -1.0f)
FUNCTION(abs, fabsf(v), v > 0 ? 1.0f : v < 0 ? -1.0f : 0.0f)
FUNCTION(shrink, v < -a ? v + b : v > a ? v - b : v == v ? 0.0f : v,
         v < -a || v > a ? 1.0f : 0.0f)
FUNCTION(sin, sinf(v), cosf(v))
FUNCTION(cos, cosf(v), -sinf(v))
FUNCTION(tan, tanf(v), 1.0f + tanf(v) * tanf(v))
FUNCTION(asin, asinf(v), 1.0f / sqrtf((1 - v) * (1 + v)))
FUNCTION(acos, acosf(v), -1.0f / sqrtf((1 - v) * (1 + v)))
FUNCTION(atan, atanf(v), 1.0f / (1 + v * v))
FUNCTION(sinh, sinhf(v), coshf(v))
FUNCTION(cosh, coshf(v), sinhf(v))
FUNCTION(asinh, asinhf(v), 1.0f / hypotf(v, 1.0f))
FUNCTION(acosh, acoshf(v), 1.0f / (sqrtf(v - 1) * sqrtf(v + 1)))
FUNCTION(atanh, atanhf(v), 1.0f / ((1 - v) * (1 + v)))
VALUE(sign, v > 0 ? 1.0f : v < 0 ? -1.0f : v)
VALUE(floor, floorf(v))
VALUE(ceil, ceilf(v))
VALUE(round, rintf(v)) /* half to even, the rounding mode every thread starts with */
VALUE(not, v == 0 ? 1.0f : 0.0f)

#define ROW(type, attr_a, a, attr_b, b, name)                                                      \
    {type, attr_a, attr_b, a, b, name##_value, name##_slope}
#define STEP_ROW(type, name) {type, NULL, NULL, 0, 0, name##_value, zero_slope}
static const eltwise_function functions[] = {
    ROW("Abs", NULL, 0, NULL, 0, abs),
    ROW("Acos", NULL, 0, NULL, 0, acos),
    ROW("Acosh", NULL, 0, NULL, 0, acosh),
    ROW("Asin", NULL, 0, NULL, 0, asin),
    ROW("Asinh", NULL, 0, NULL, 0, asinh),
    ROW("Atan", NULL, 0, NULL, 0, atan),
    ROW("Atanh", NULL, 0, NULL, 0, atanh),
    STEP_ROW("Ceil", ceil),
    ROW("Celu", "alpha", 1, NULL, 0, celu),
    ROW("Clip", "min", -3.402823466e38f, "max", 3.402823466e38f, clip),
    ROW("Cos", NULL, 0, NULL, 0, cos),
    ROW("Cosh", NULL, 0, NULL, 0, cosh),
    ROW("Elu", "alpha", 1, NULL, 0, elu),
    ROW("Erf", NULL, 0, NULL, 0, erf),
    ROW("Exp", NULL, 0, NULL, 0, exp),
    STEP_ROW("Floor", floor),
    ROW("Gelu", NULL, 0, NULL, 0, gelu),
    ROW("HardSigmoid", "alpha", 0.2f, "beta", 0.5f, hard_sigmoid),
    ROW("HardSwish", NULL, 0, NULL, 0, hard_swish),
    ROW("LeakyRelu", "alpha", 0.01f, NULL, 0, leaky_relu),
    ROW("Log", NULL, 0, NULL, 0, log),
    ROW("Mish", NULL, 0, NULL, 0, mish),
    ROW("Neg", NULL, 0, NULL, 0, neg),
    STEP_ROW("Not", not),
    ROW("Reciprocal", NULL, 0, NULL, 0, reciprocal),
    ROW("Relu", NULL, 0, NULL, 0, relu),
    STEP_ROW("Round", round),
    ROW("Selu", "alpha", 1.67326319f, "gamma", 1.05070102f, selu),
    ROW("Shrink", "lambd", 0.5f, "bias", 0, shrink),
    ROW("Sigmoid", NULL, 0, NULL, 0, sigmoid),
    STEP_ROW("Sign", sign),
    ROW("Sin", NULL, 0, NULL, 0, sin),
    ROW("Sinh", NULL, 0, NULL, 0, sinh),
    ROW("Softplus", NULL, 0, NULL, 0, softplus),
    ROW("Softsign", NULL, 0, NULL, 0, softsign),
    ROW("Sqrt", NULL, 0, NULL, 0, sqrt),
    ROW("Swish", NULL, 0, NULL, 0, swish), /* x sigmoid(x): made by the optimiser */
    ROW("Tan", NULL, 0, NULL, 0, tan),
    ROW("Tanh", NULL, 0, NULL, 0, tanh),
    ROW("ThresholdedRelu", "alpha", 1, NULL, 0, thresholded_relu),
};

static const eltwise_function tanh_gelu = ROW("Gelu", NULL, 0, NULL, 0, gelu_tanh);

static const eltwise_function *find_function(const char *type) {
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strcmp(functions[i].type, type) == 0)
            return &functions[i];
    return NULL;
}

/* Clip's bounds are inputs since opset 11. */
static pg_err read_bound(const pg_op_def *def, int index, float *out, pg_diag *diag) {
    if (def->n_inputs <= index || !def->inputs[index].present)
        return PG_OK;
    const pg_const *bound = def->inputs[index].constant;
    if (!bound || pg_shape_count(&bound->shape) != 1)
        return pg_node_refuse(def, diag, "its bounds must be constant scalars");
    *out = bound->dtype == PG_F32 ? bound->f[0] : (float)bound->i[0];
    return PG_OK;
}

static pg_err read_parameters(const pg_op_def *def, eltwise_op *e, pg_diag *diag) {
    const eltwise_function *f = e->function;
    const char *approximate;
    pg_err err = pg_def_string(def, "approximate", "none", &approximate, diag);
    if (!err && strcmp(approximate, "tanh") == 0)
        e->function = &tanh_gelu;
    else if (!err && strcmp(approximate, "none") != 0)
        err = pg_node_refuse(def, diag, "approximate has an unknown value");
    e->a = f->a, e->b = f->b;
    if (!err && f->attr_a)
        err = pg_def_float(def, f->attr_a, f->a, &e->a, diag);
    if (!err && f->attr_b)
        err = pg_def_float(def, f->attr_b, f->b, &e->b, diag);
    bool clip = strcmp(f->type, "Clip") == 0;
    if (!err && clip)
        err = read_bound(def, 1, &e->a, diag);
    if (!err && clip)
        err = read_bound(def, 2, &e->b, diag);
    if (!err && (isnan(e->a) || isnan(e->b)))
        err = pg_node_refuse(def, diag, "a parameter is not a number");
    if (!err && strcmp(f->type, "Celu") == 0 && e->a == 0)
        err = pg_node_refuse(def, diag, "alpha must not be 0");
    return err;
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    const eltwise_function *f = find_function(def->type);
    pg_assert(f);
    eltwise_op parameters = {.function = f};
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_parameters(def, &parameters, diag);
    if (!err)
        err = pg_op_alloc(&pg_eltwise_class, def, sizeof(eltwise_op), 1, out, diag);
    if (err)
        return err;
    eltwise_op *e = (eltwise_op *)*out;
    e->function = parameters.function, e->a = parameters.a, e->b = parameters.b;
    e->op.dst[0].shape = def->inputs[0].shape;
    e->op.layouts = PG_LAYOUTS_SAME;
    e->op.relu =
        strcmp(f->type, "Relu") == 0 || (strcmp(f->type, "Clip") == 0 && parameters.a == 0);
    e->op.keeps_src = e->function->slope != zero_slope;
    e->op.flops = (uint64_t)pg_shape_count(&def->inputs[0].shape);
    return PG_OK;
}

enum { CHUNK = 4096 }; /* elements per task: 16 KB in and out stay in the first-level cache */

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    const eltwise_op *e = (const eltwise_op *)op;
    int64_t count = pg_shape_count(&op->dst[0].shape);
#pragma omp parallel for schedule(static) if (count > 4 * CHUNK)
    for (int64_t at = 0; at < count; at += CHUNK) {
        int64_t n = count - at < CHUNK ? count - at : CHUNK;
        e->function->value(n, io->src[0] + at, e->a, e->b, io->dst[0] + at);
    }
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    const eltwise_op *e = (const eltwise_op *)op;
    int64_t count = pg_shape_count(&op->dst[0].shape);
    if (!io->d_src[0])
        return PG_OK;
#pragma omp parallel for schedule(static) if (count > 4 * CHUNK)
    for (int64_t at = 0; at < count; at += CHUNK) {
        int64_t n = count - at < CHUNK ? count - at : CHUNK;
        e->function->slope(n, io->src[0] + at, e->a, e->b, io->d_dst[0] + at, io->d_src[0] + at);
    }
    return PG_OK;
}

const pg_op_class pg_eltwise_class = {
    .create = create, .forward = forward, .backward = backward};
