/* Instance-, Group-, Layer-, MeanVariance- and LpNormalization against plain double loops: the
 * value by its definition, the gradient by differences of that definition in double (step 1e-5,
 * error about 1e-9), which knows nothing of the formula in the operator. Bounds: 2e-6 of the
 * largest value is some ulps of float output; gradients 1e-5, for a small deviation magnifies input
 * rounding. */
#include "tests/support/op_check.h"

enum { MOST = 2048 };

/* What the definition needs to know of every element. */
typedef struct definition {
    int64_t n;
    int group[MOST];
    double scale[MOST], bias[MOST];
    double epsilon;
    bool outside; /* epsilon beside the deviation */
    int p;        /* LpNormalization: 1 or 2; else 0 */
    double step;  /* of the differences; 0: 1e-5 */
} definition;

static void define(const definition *d, const double *x, double *y) {
    static double sum[MOST], square[MOST], count[MOST];
    memset(sum, 0, sizeof sum);
    memset(square, 0, sizeof square);
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < d->n; i++) {
        sum[d->group[i]] += d->p == 1 ? fabs(x[i]) : d->p == 2 ? x[i] * x[i] : x[i];
        count[d->group[i]]++;
    }
    for (int64_t i = 0; i < d->n; i++)
        square[d->group[i]] += pow(x[i] - sum[d->group[i]] / count[d->group[i]], 2);
    for (int64_t i = 0; i < d->n; i++) {
        int g = d->group[i];
        double variance = square[g] / count[g];
        if (d->p)
            y[i] = x[i] / pow(sum[g], 1.0 / d->p);
        else if (d->outside)
            y[i] = (x[i] - sum[g] / count[g]) / (sqrt(variance) + d->epsilon);
        else
            y[i] =
                (x[i] - sum[g] / count[g]) / sqrt(variance + d->epsilon) * d->scale[i] + d->bias[i];
    }
}

static void compare(op_check *c, const definition *d) {
    static double x[MOST], y[MOST], d_x[MOST];
    const double step = d->step > 0 ? d->step : 1e-5;
    cr_assert(d->n <= MOST);
    for (int64_t i = 0; i < d->n; i++)
        x[i] = (double)c->x[0][i];
    define(d, x, y);
    op_check_forward(c);
    op_check_dst(c, 0, y, 2e-6);
    for (int64_t i = 0; i < d->n; i++) {
        d_x[i] = 0;
        for (int side = -1; side <= 1; side += 2) {
            x[i] = (double)c->x[0][i] + side * step;
            define(d, x, y);
            for (int64_t k = 0; k < d->n; k++)
                d_x[i] += side * (double)c->d_y[0][k] * y[k] / (2 * step);
        }
        x[i] = (double)c->x[0][i];
    }
    op_check_backward(c);
    op_check_d_src(c, 0, d_x, 1e-5);
}

/* The index of flat element k along each axis. */
static void unravel(const pg_shape *shape, int64_t k, int64_t index[PG_MAX_RANK]) {
    for (int i = shape->rank - 1; i >= 0; i--) {
        index[i] = k % shape->dims[i];
        k /= shape->dims[i];
    }
}

/* ---- Instance, Group ---- */

static const pg_shape CHANNEL_SHAPES[] = {
    {4, {1, 6, 5, 7}}, {4, {1, 12, 1, 9}}, {4, {2, 6, 3, 3}},    {3, {1, 6, 17}},
    {3, {3, 6, 2}},    {4, {1, 6, 8, 8}},  {5, {1, 6, 2, 3, 4}}, {4, {1, 36, 3, 3}},
};
enum { N_SHAPES = sizeof CHANNEL_SHAPES / sizeof CHANNEL_SHAPES[0] };

/* groups 0: InstanceNormalization. */
static void channel_case(pg_shape shape, int64_t groups, int opset, pg_layout layout) {
    op_check c;
    static definition d;
    int64_t channels = shape.dims[1], positions = 1;
    int64_t values = groups && opset < 21 ? groups : channels;
    op_check_init(&c, groups ? "GroupNormalization" : "InstanceNormalization", opset);
    if (groups)
        op_check_attr_int(&c, "num_groups", groups);
    op_check_attr_float(&c, "epsilon", 1e-3f);
    op_check_input(&c, shape);
    const float *scale = op_check_const(&c, SHAPE(values), NULL);
    const float *bias = op_check_const(&c, SHAPE(values), NULL);
    op_check_open(&c, layout);
    op_check_shape(&c, 0, shape);
    for (int i = 2; i < shape.rank; i++)
        positions *= shape.dims[i];
    d = (definition){.n = pg_shape_count(&shape), .epsilon = (double)1e-3f};
    for (int64_t k = 0; k < d.n; k++) {
        int64_t batch = k / (channels * positions), channel = k / positions % channels;
        int64_t per_group = groups ? channels / groups : 1;
        d.group[k] = (int)(batch * channels + channel / per_group);
        d.scale[k] = (double)scale[channel / (channels / values)];
        d.bias[k] = (double)bias[channel / (channels / values)];
    }
    compare(&c, &d);
    op_check_close(&c);
}

Test(norm, instance) {
    for (int i = 0; i < N_SHAPES; i++)
        for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
            channel_case(CHANNEL_SHAPES[i], 0, 7 + 2 * i, (pg_layout)layout);
}

Test(norm, group_before_and_since_opset_21) {
    for (int i = 0; i < N_SHAPES; i++)
        for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
            for (int64_t groups = 1; groups <= 6; groups++)
                for (int opset = 18; opset <= 21; opset += 3)
                    if (6 % groups == 0)
                        channel_case(CHANNEL_SHAPES[i], groups, opset, (pg_layout)layout);
}

Test(norm, group_of_two_axes) { channel_case(SHAPE(2, 12), 3, 21, PG_PLAIN); }

/* Large enough to be cut into parts: forward and backward by the formula, in double. */
static void large_case(pg_shape shape, int64_t groups, pg_layout layout) {
    op_check c;
    int64_t n = pg_shape_count(&shape), block = n / groups, positions = n / shape.dims[1];
    op_check_init(&c, "GroupNormalization", 21);
    op_check_attr_int(&c, "num_groups", groups);
    op_check_input(&c, shape);
    const float *scale = op_check_const(&c, SHAPE(shape.dims[1]), NULL);
    const float *bias = op_check_const(&c, SHAPE(shape.dims[1]), NULL);
    op_check_open(&c, layout);
    for (int64_t i = 0; i < n; i++)
        c.x[0][i] = 3 + 0.5f * c.x[0][i];
    op_check_forward(&c);
    op_check_backward(&c);
    double *y = op_check_own(&c, pg_malloc((size_t)n * sizeof *y));
    double *d_x = op_check_own(&c, pg_malloc((size_t)n * sizeof *d_x));
    for (int64_t g = 0; g < groups; g++) {
        double mean = 0, variance = 0, pull = 0, lean = 0;
        for (int64_t i = g * block; i < (g + 1) * block; i++)
            mean += (double)c.x[0][i] / (double)block;
        for (int64_t i = g * block; i < (g + 1) * block; i++)
            variance += pow((double)c.x[0][i] - mean, 2) / (double)block;
        double rate = 1 / sqrt(variance + (double)1e-5f);
        for (int64_t i = g * block; i < (g + 1) * block; i++) {
            double s = (double)scale[i / positions], xn = ((double)c.x[0][i] - mean) * rate;
            y[i] = s * xn + (double)bias[i / positions];
            pull += s * (double)c.d_y[0][i] / (double)block;
            lean += s * (double)c.d_y[0][i] * xn / (double)block;
        }
        for (int64_t i = g * block; i < (g + 1) * block; i++) {
            double s = (double)scale[i / positions], xn = ((double)c.x[0][i] - mean) * rate;
            d_x[i] = rate * (s * (double)c.d_y[0][i] - pull - xn * lean);
        }
    }
    op_check_dst(&c, 0, y, 1e-6);
    op_check_d_src(&c, 0, d_x, 1e-6);
    op_check_close(&c);
}

Test(norm, large) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        large_case(SHAPE(1, 24, 57, 61), 1, (pg_layout)layout);
        large_case(SHAPE(1, 24, 57, 61), 4, (pg_layout)layout);
        large_case(SHAPE(1, 24, 57, 61), 24, (pg_layout)layout);
    }
}

/* Adding a constant to x must change nothing: a mean 1000 times the deviation, statistics exact. */
Test(norm, large_mean) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        float x[2][64], first[64];
        for (int shifted = 0; shifted < 2; shifted++) {
            op_check c;
            op_check_init(&c, "InstanceNormalization", 17);
            op_check_input(&c, SHAPE(1, 4, 4, 4));
            op_check_const(&c, SHAPE(4), (float[]){1, 1, 1, 1});
            op_check_const(&c, SHAPE(4), (float[]){0, 0, 0, 0});
            op_check_open(&c, (pg_layout)layout);
            for (int i = 0; i < 64; i++) /* on a grid that 1024 + x keeps */
                c.x[0][i] = x[shifted][i] = floorf(c.x[0][i] * 256) / 256 + (shifted ? 1024 : 0);
            op_check_forward(&c);
            for (int i = 0; i < 64; i++)
                cr_assert(!shifted || fabsf(c.y[0][i] - first[i]) < 1e-6f);
            memcpy(first, c.y[0], sizeof first);
            op_check_close(&c);
        }
    }
}

/* ---- Layer ---- */

/* scale and bias have the last `given` axes of the normalised ones, the others broadcast. */
static void layer_case(pg_shape shape, int64_t axis, bool with_bias, int given) {
    op_check c;
    static definition d;
    int first = (int)(axis < 0 ? axis + shape.rank : axis);
    pg_shape own = {.rank = given};
    for (int i = 0; i < given; i++)
        own.dims[i] = shape.dims[shape.rank - given + i];
    op_check_init(&c, "LayerNormalization", 17);
    op_check_attr_int(&c, "axis", axis);
    op_check_input(&c, shape);
    const float *scale = op_check_const(&c, own, NULL);
    const float *bias = with_bias ? op_check_const(&c, own, NULL) : NULL;
    c.n_outputs = with_bias ? 1 : 3; /* mean and 1/deviation named, and read by nobody */
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, shape);
    d = (definition){.n = pg_shape_count(&shape), .epsilon = (double)1e-5f};
    for (int64_t k = 0; k < d.n; k++) {
        int64_t index[PG_MAX_RANK], group = 0;
        unravel(&shape, k, index);
        for (int i = 0; i < first; i++)
            group = group * shape.dims[i] + index[i];
        d.group[k] = (int)group;
        d.scale[k] = (double)scale[k % pg_shape_count(&own)];
        d.bias[k] = bias ? (double)bias[k % pg_shape_count(&own)] : 0;
    }
    compare(&c, &d);
    op_check_close(&c);
}

Test(norm, layer) {
    static const pg_shape shapes[] = {
        {2, {5, 33}}, {3, {1, 7, 24}}, {4, {1, 3, 4, 16}}, {4, {1, 8, 3, 5}}, {1, {37}}};
    for (int i = 0; i < 5; i++)
        for (int axis = 0; axis < shapes[i].rank; axis++)
            for (int bias = 0; bias < 2; bias++) {
                int whole = shapes[i].rank - axis;
                layer_case(shapes[i], axis, bias, whole);
                layer_case(shapes[i], axis - shapes[i].rank, bias, whole > 1 ? whole - 1 : whole);
            }
}

/* Scale [C,1,1] over [C,H,W], and a scale with ones in front. */
Test(norm, layer_scale_broadcasts) {
    static const pg_shape scales[] = {{3, {5, 1, 1}}, {4, {1, 5, 1, 1}}, {3, {1, 3, 1}}, {0, {0}}};
    for (int t = 0; t < 4; t++) {
        op_check c;
        static definition d;
        op_check_init(&c, "LayerNormalization", 17);
        op_check_attr_int(&c, "axis", 1);
        op_check_input(&c, SHAPE(1, 5, 3, 4));
        const float *scale = op_check_const(&c, scales[t], NULL);
        op_check_open(&c, PG_PLAIN);
        d = (definition){.n = 60, .epsilon = (double)1e-5f};
        for (int k = 0; k < 60; k++)
            d.scale[k] = (double)scale[t < 2 ? k / 12 : t == 2 ? k / 4 % 3 : 0];
        compare(&c, &d);
        op_check_close(&c);
    }
}

/* ---- MeanVariance ---- */

static void mean_variance_case(pg_shape shape, int subset, bool named, pg_layout layout) {
    op_check c;
    static definition d;
    int64_t axes[PG_MAX_RANK];
    size_t n = 0;
    for (int i = 0; i < shape.rank; i++)
        if (subset >> i & 1)
            axes[n++] = i % 2 ? i : i - shape.rank;
    op_check_init(&c, "MeanVarianceNormalization", 13);
    if (named)
        op_check_attr_ints(&c, "axes", n, axes);
    op_check_input(&c, shape);
    op_check_open(&c, layout);
    d = (definition){.n = pg_shape_count(&shape), .epsilon = 1e-9, .outside = true};
    for (int64_t k = 0; k < d.n; k++) {
        int64_t index[PG_MAX_RANK], group = 0;
        unravel(&shape, k, index);
        for (int i = 0; i < shape.rank; i++)
            group = subset >> i & 1 ? group : group * shape.dims[i] + index[i];
        d.group[k] = (int)group;
    }
    compare(&c, &d);
    op_check_close(&c);
}

Test(norm, mean_variance) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        mean_variance_case(SHAPE(1, 5, 4, 6), 13, false, (pg_layout)layout);
        mean_variance_case(SHAPE(3, 5, 4, 3), 13, false, (pg_layout)layout);
        for (int subset = 1; subset < 16; subset++)
            if (subset == 5) /* over, kept, over, kept: only where the first axis is 1 */
                mean_variance_case(SHAPE(1, 5, 3, 6), subset, true, (pg_layout)layout);
            else if (subset != 1 && subset != 4) /* groups of two: their outputs are but signs */
                mean_variance_case(SHAPE(2, 5, 2, 6), subset, true, (pg_layout)layout);
    }
    mean_variance_case(SHAPE(5, 7), 2, true, PG_PLAIN);
    mean_variance_case(SHAPE(11), 1, true, PG_PLAIN);
}

/* Deviations as small as epsilon, which then has a part in the gradient. */
Test(norm, mean_variance_of_nearly_nothing) {
    op_check c;
    static definition d;
    op_check_init(&c, "MeanVarianceNormalization", 13);
    op_check_input(&c, SHAPE(1, 1, 5, 7));
    op_check_open(&c, PG_PLAIN);
    for (int i = 0; i < 35; i++)
        c.x[0][i] *= 2e-9f;
    d = (definition){.n = 35, .epsilon = 1e-9, .outside = true, .step = 1e-13};
    compare(&c, &d);
    op_check_close(&c);
}

/* ---- Lp ---- */

Test(norm, lp) {
    const pg_shape shape = SHAPE(2, 5, 3, 4);
    for (int form = 0; form < 32; form++) {
        op_check c;
        static definition d;
        int axis = form / 2 % 4, p = 1 + form / 8 % 2;
        op_check_init(&c, "LpNormalization", 1 + form % 22);
        op_check_attr_int(&c, "p", p);
        op_check_attr_int(&c, "axis", form / 16 ? axis - 4 : axis);
        op_check_input(&c, shape);
        op_check_open(&c, form % 2 ? PG_CHANNELS_LAST : PG_PLAIN);
        d = (definition){.n = 120, .p = p};
        for (int64_t k = 0; k < 120; k++) {
            int64_t index[PG_MAX_RANK], group = 0;
            unravel(&shape, k, index);
            for (int i = 0; i < 4; i++)
                group = i == axis ? group : group * shape.dims[i] + index[i];
            d.group[k] = (int)group;
            if (fabsf(c.x[0][k]) < 1e-3f) /* off the kink of |x| */
                c.x[0][k] = 0.25f;
        }
        compare(&c, &d);
        op_check_close(&c);
    }
}

Test(norm, lp_of_zeros_is_zero) {
    for (int p = 1; p <= 2; p++) {
        op_check c;
        const float x[] = {0, 0, 0, 3, 0, 4};
        op_check_init(&c, "LpNormalization", 22);
        op_check_attr_int(&c, "p", p);
        op_check_input_of(&c, SHAPE(2, 3), x);
        op_check_open(&c, PG_PLAIN);
        op_check_forward(&c);
        op_check_backward(&c);
        const double n = p == 1 ? 7 : 5, y[] = {0, 0, 0, 3 / n, 0, 4 / n};
        op_check_dst(&c, 0, y, 1e-7);
        for (int i = 0; i < 3; i++)
            cr_assert(c.d_x[0][i] == 0);
        op_check_close(&c);
    }
}

/* A constant group must not divide by zero: y = bias, no gradient beyond 1 / sqrt(epsilon). */
Test(norm, nothing_but_one_value) {
    op_check c;
    op_check_init(&c, "MeanVarianceNormalization", 13);
    op_check_input_of(&c, SHAPE(1, 1, 2, 2), (float[]){7, 7, 7, 7});
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    op_check_backward(&c);
    for (int i = 0; i < 4; i++)
        cr_assert(c.y[0][i] == 0 && isfinite(c.d_x[0][i]));
    op_check_close(&c);
    op_check_init(&c, "InstanceNormalization", 17);
    op_check_input_of(&c, SHAPE(1, 1, 2, 2), (float[]){7, 7, 7, 7});
    op_check_const(&c, SHAPE(1), (float[]){2});
    op_check_const(&c, SHAPE(1), (float[]){5});
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    op_check_backward(&c);
    for (int i = 0; i < 4; i++)
        cr_assert(c.y[0][i] == 5 && isfinite(c.d_x[0][i]));
    op_check_close(&c);
}

/* ---- refusals ---- */

static void refused(const char *type, pg_shape shape, const pg_shape *scale, bool run_time,
                    const char *attr, int64_t value, const char *part) {
    op_check c;
    op_check_init(&c, type, 21);
    if (attr)
        op_check_attr_int(&c, attr, value);
    op_check_input(&c, shape);
    for (int i = 0; scale && i < 2; i++)
        if (run_time)
            op_check_input(&c, *scale);
        else
            op_check_const(&c, *scale, NULL);
    op_check_refused(&c, part);
}

Test(norm, refusals) {
    const pg_shape image = SHAPE(1, 6, 3, 3), six = SHAPE(6), four = SHAPE(4), three = SHAPE(3);
    const pg_shape matrix = SHAPE(6, 1);
    refused("InstanceNormalization", image, &six, true, NULL, 0, "scale");
    refused("InstanceNormalization", image, &four, false, NULL, 0, "6 values");
    refused("InstanceNormalization", image, &matrix, false, NULL, 0, "6 values");
    refused("InstanceNormalization", image, NULL, false, NULL, 0, "scale is missing");
    refused("InstanceNormalization", SHAPE(1, 6), &six, false, NULL, 0, "axes");
    refused("GroupNormalization", image, &six, false, NULL, 0, "num_groups");
    refused("GroupNormalization", image, &six, false, "num_groups", 4, "num_groups");
    refused("GroupNormalization", image, &six, false, "num_groups", -3, "num_groups");
    refused("GroupNormalization", image, &six, false, "num_groups", INT64_MIN, "num_groups");
    refused("GroupNormalization", image, &three, false, "num_groups", 3, "6 values");
    refused("GroupNormalization", image, &six, true, "num_groups", 3, "run time");
    refused("GroupNormalization", SHAPE(6), &six, false, "num_groups", 3, "axes");
    refused("LayerNormalization", image, &four, false, NULL, 0, "broadcast");
    refused("LayerNormalization", image, &matrix, false, NULL, 0, "broadcast");
    refused("LayerNormalization", image, &three, true, NULL, 0, "run time");
    refused("LayerNormalization", image, &three, false, "axis", 4, "axis");
    refused("LayerNormalization", image, &three, false, "axis", -5, "axis");
    refused("LayerNormalization", SHAPE0, &three, false, NULL, 0, "axes");
    refused("MeanVarianceNormalization", SHAPE(2, 3, 4), NULL, false, NULL, 0, "axes");
    refused("LpNormalization", image, NULL, false, "p", 3, "p must be");
    refused("LpNormalization", image, NULL, false, "axis", 4, "axis");
    op_check c;
    op_check_init(&c, "LayerNormalization", 17);
    op_check_attr_float(&c, "epsilon", -1);
    op_check_input(&c, image);
    op_check_const(&c, three, NULL);
    op_check_refused(&c, "epsilon");
    op_check_init(&c, "LayerNormalization", 17);
    op_check_input(&c, image);
    op_check_const_i64(&c, three, (int64_t[]){1, 1, 1});
    op_check_refused(&c, "floating point");
    op_check_init(&c, "MeanVarianceNormalization", 13);
    op_check_attr_ints(&c, "axes", 2, (int64_t[]){0, 2});
    op_check_input(&c, SHAPE(2, 3, 2, 3));
    op_check_refused(&c, "alternate");
    op_check_init(&c, "MeanVarianceNormalization", 13);
    op_check_attr_ints(&c, "axes", 2, (int64_t[]){1, -3});
    op_check_input(&c, image);
    op_check_refused(&c, "twice");
    op_check_init(&c, "InstanceNormalization", 17);
    op_check_const(&c, image, NULL);
    op_check_refused(&c, "first input");
}
