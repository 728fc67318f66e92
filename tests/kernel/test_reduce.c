#include "tests/support/op_check.h"

/* ---- the definitions, over the n elements of one result ---- */

typedef struct reduction {
    const char *type;
    double (*of)(int n, const double *x);
    bool positive; /* wants elements above 0 */
    double kink;   /* for the bench's differences; 0: smooth */
} reduction;

static double reduce_l1(int n, const double *x) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += fabs(x[i]);
    return sum;
}

static double sum_square(int n, const double *x) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

static double sum(int n, const double *x) {
    double total = 0;
    for (int i = 0; i < n; i++)
        total += x[i];
    return total;
}

static double log_sum_exp(int n, const double *x) {
    double total = 0;
    for (int i = 0; i < n; i++)
        total += exp(x[i]);
    return log(total);
}

static double product(int n, const double *x) {
    double all = 1;
    for (int i = 0; i < n; i++)
        all *= x[i];
    return all;
}

static double largest(int n, const double *x) {
    double top = x[0];
    for (int i = 1; i < n; i++)
        top = fmax(top, x[i]);
    return top;
}

static double smallest(int n, const double *x) {
    double low = x[0];
    for (int i = 1; i < n; i++)
        low = fmin(low, x[i]);
    return low;
}

static double reduce_l2(int n, const double *x) { return sqrt(sum_square(n, x)); }
static double mean(int n, const double *x) { return sum(n, x) / n; }
static double log_sum(int n, const double *x) { return log(sum(n, x)); }

static const reduction REDUCTIONS[] = {
    {"ReduceL1", reduce_l1, false, 0.01}, {"ReduceL2", reduce_l2, true, 0},
    {"ReduceLogSum", log_sum, true, 0},   {"ReduceLogSumExp", log_sum_exp, false, 0},
    {"ReduceMax", largest, false, 0.01},  {"ReduceMean", mean, false, 0},
    {"ReduceMin", smallest, false, 0.01}, {"ReduceProd", product, true, 0},
    {"ReduceSum", sum, false, 0},         {"ReduceSumSquare", sum_square, false, 0},
};
enum { N_REDUCTIONS = sizeof REDUCTIONS / sizeof REDUCTIONS[0] };

/* Which result each element of [1,5,3,4] goes to. */
static int result_of(int subset, int k) {
    const pg_shape in = SHAPE(1, 5, 3, 4);
    int64_t index[4] = {0, k / 12, k / 4 % 3, k % 4}, at = 0;
    for (int i = 0; i < 4; i++)
        if (!(subset >> i & 1))
            at = at * in.dims[i] + index[i];
    return (int)at;
}

/* Every function over a subset of the axes of a rank-4 tensor. `as_input`: axes of newer opsets. */
static void reduce_case(const reduction *r, pg_layout layout, int subset, bool keep,
                        bool as_input) {
    const pg_shape in = SHAPE(1, 5, 3, 4);
    int64_t axes[4];
    pg_shape shape = {0};
    size_t n = 0;
    for (int i = 0; i < 4; i++) {
        bool reduced = subset == 0 || (subset >> i & 1); /* none named: all */
        if (subset >> i & 1)
            axes[n++] = i % 2 ? i : i - 4;
        if (!reduced || keep)
            shape.dims[shape.rank++] = reduced ? 1 : in.dims[i];
    }
    op_check c;
    op_check_init(&c, r->type, as_input ? 18 : 11);
    if (n > 0 && !as_input)
        op_check_attr_ints(&c, "axes", n, axes);
    op_check_attr_int(&c, "keepdims", keep);
    op_check_input(&c, in);
    if (n > 0 && as_input)
        op_check_const_i64(&c, SHAPE((int64_t)n), axes);
    op_check_open(&c, layout);
    op_check_shape(&c, 0, shape);
    for (int k = 0; k < 60; k++)
        c.x[0][k] = r->positive ? 1.25f + 0.5f * c.x[0][k] : c.x[0][k];
    op_check_forward(&c);
    double expected[60], group[60];
    for (int at = 0; at < pg_shape_count(&shape); at++) {
        int size = 0;
        for (int k = 0; k < 60; k++)
            if (result_of(subset ? subset : 15, k) == at)
                group[size++] = (double)c.x[0][k];
        expected[at] = r->of(size, group);
    }
    op_check_dst(&c, 0, expected, 1e-6);
    c.kink = r->kink;
    /* products of many are far from linear within the bench's step */
    op_check_gradient(&c, strcmp(r->type, "ReduceProd") == 0 ? 1e-2 : 2e-3);
    op_check_close(&c);
}

Test(reduce, every_function_and_set_of_axes) {
    for (int i = 0; i < N_REDUCTIONS; i++)
        for (int subset = 0; subset < 16; subset++)
            for (int form = 0; form < 8; form++)
                reduce_case(&REDUCTIONS[i], form & 1 ? PG_CHANNELS_LAST : PG_PLAIN, subset,
                            form & 2, form & 4);
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

/* No axes: all of them, or with noop_with_empty_axes none; the function is applied all the same. */
Test(reduce, no_axes) {
    for (int i = 0; i < N_REDUCTIONS; i++)
        for (int noop = 0; noop < 2; noop++)
            for (int empty = 0; empty < 2; empty++) {
                op_check c;
                op_check_init(&c, REDUCTIONS[i].type, 18);
                op_check_attr_int(&c, "noop_with_empty_axes", noop);
                op_check_input_of(&c, SHAPE(2, 2), (float[]){0.5f, 2, 1.5f, 3});
                if (empty)
                    op_check_const_i64(&c, SHAPE(0), (int64_t[]){0});
                op_check_open(&c, PG_PLAIN);
                op_check_shape(&c, 0, noop ? SHAPE(2, 2) : SHAPE(1, 1));
                op_check_forward(&c);
                const double x[] = {0.5, 2, 1.5, 3};
                double expected[4];
                for (int k = 0; k < 4; k++)
                    expected[k] = noop ? REDUCTIONS[i].of(1, x + k) : REDUCTIONS[i].of(4, x);
                op_check_dst(&c, 0, expected, 1e-6);
                op_check_close(&c);
            }
}

/* Cut into parts, and rows of every kind: one result, a result each, tails of lanes. */
Test(reduce, large) {
    const pg_shape in = SHAPE(1, 37, 61, 53);
    static const int64_t axes[][3] = {{2, 3, -1}, {1, -1, -1}, {1, 2, 3}, {3, -1, -1}};
    static const size_t counts[] = {2, 1, 3, 1};
    for (int form = 0; form < 4 * 2 * N_REDUCTIONS; form++) {
        const reduction *r = &REDUCTIONS[form / 8];
        int which = form / 2 % 4;
        if (strcmp(r->type, "ReduceProd") == 0)
            continue; /* out of range */
        op_check c;
        op_check_init(&c, r->type, 13);
        op_check_attr_int(&c, "keepdims", 1);
        if (strcmp(r->type, "ReduceSum") == 0)
            op_check_input(&c, in),
                op_check_const_i64(&c, SHAPE((int64_t)counts[which]), axes[which]);
        else
            op_check_attr_ints(&c, "axes", counts[which], axes[which]), op_check_input(&c, in);
        op_check_open(&c, form % 2 ? PG_CHANNELS_LAST : PG_PLAIN);
        int64_t n = pg_shape_count(&in), results = pg_shape_count(&c.op->dst[0].shape);
        int64_t each = n / results;
        for (int64_t k = 0; r->positive && k < n; k++)
            c.x[0][k] = 1.25f + 0.5f * c.x[0][k];
        op_check_forward(&c);
        double *group = op_check_own(&c, pg_malloc((size_t)n * sizeof *group));
        double *expected = op_check_own(&c, pg_malloc((size_t)results * sizeof *expected));
        int *size = op_check_own(&c, pg_calloc((size_t)results, sizeof *size));
        for (int64_t k = 0; k < n; k++) {
            int64_t at = which == 0   ? k / (61 * 53)
                         : which == 1 ? k % (61 * 53)
                         : which == 2 ? 0
                                      : k / 53;
            group[at * each + size[at]++] = (double)c.x[0][k];
        }
        for (int64_t at = 0; at < results; at++)
            expected[at] = r->of((int)each, group + at * each);
        op_check_dst(&c, 0, expected, 1e-6);
        op_check_backward(&c); /* against differences in double, of some elements */
        double scale = 0;
        for (int64_t k = 0; k < n; k++)
            scale = fmax(scale, fabs((double)c.d_x[0][k]));
        for (int64_t at = 0; at < results; at += 1 + results / 7) {
            double *x = group + at * each, d_y = (double)c.d_y[0][at];
            for (int64_t i = 0; i < each; i += 1 + each / 5) {
                double v = x[i], step = 1e-6;
                x[i] = v + step;
                double up = r->of((int)each, x);
                x[i] = v - step;
                double down = r->of((int)each, x);
                x[i] = v;
                double slope = d_y * (up - down) / (2 * step);
                int64_t k = which == 0   ? at * 61 * 53 + i
                            : which == 1 ? i * 61 * 53 + at
                            : which == 2 ? i
                                         : at * 53 + i;
                cr_assert(fabs((double)c.d_x[0][k] - slope) < 1e-4 * scale + 1e-8,
                          "%s: d_x[%lld] is %g, not %g", r->type, (long long)k, (double)c.d_x[0][k],
                          slope);
            }
        }
        op_check_close(&c);
    }
}

static void slopes(const char *type, int n, const float *x, const double *d_x) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        op_check_init(&c, type, 18);
        op_check_input_of(&c, SHAPE(1, n, 1, 1), x);
        op_check_open(&c, (pg_layout)layout);
        c.d_y[0][0] = 6;
        op_check_forward(&c);
        op_check_backward(&c);
        for (int i = 0; i < n; i++)
            cr_assert(fabs((double)c.d_x[0][i] - d_x[i]) <= 1e-6 * fabs(d_x[i]),
                      "%s: d_x[%d] is %g instead of %g", type, i, (double)c.d_x[0][i], d_x[i]);
        op_check_close(&c);
    }
}

/* Where differences cannot tell: what torch takes. */
Test(reduce, slopes_at_kinks) {
    slopes("ReduceMax", 5, (float[]){1, 3, 3, -1, 3}, (double[]){0, 2, 2, 0, 2});
    slopes("ReduceMin", 5, (float[]){1, 3, 1, 4, 3}, (double[]){3, 0, 3, 0, 0});
    slopes("ReduceL1", 3, (float[]){-2, 0, 5}, (double[]){-6, 0, 6});
    slopes("ReduceL2", 3, (float[]){0, 0, 0}, (double[]){0, 0, 0});
    slopes("ReduceProd", 3, (float[]){2, 0, 5}, (double[]){0, 60, 0});
    slopes("ReduceProd", 3, (float[]){0, 0, 5}, (double[]){0, 0, 0});
    slopes("ReduceLogSumExp", 2, (float[]){1000, 1000}, (double[]){3, 3});
    slopes("ReduceLogSumExp", 2, (float[]){-1000, -1000}, (double[]){3, 3});
}

Test(reduce, extremes_keep_nan) {
    for (int max = 0; max < 2; max++)
        for (int at = 0; at < 20; at += 19) {
            float x[20] = {0};
            x[at] = NAN;
            op_check c;
            op_check_init(&c, max ? "ReduceMax" : "ReduceMin", 13);
            op_check_input_of(&c, SHAPE(20), x);
            op_check_open(&c, PG_PLAIN);
            op_check_forward(&c);
            cr_assert(isnan(c.y[0][0]));
            op_check_close(&c);
        }
}

Test(reduce, refuses_computed_axes) {
    op_check c;
    op_check_init(&c, "ReduceMax", 18);
    op_check_input(&c, SHAPE(1, 3, 2, 2));
    op_check_input(&c, SHAPE(1));
    op_check_refused(&c, "constant");
    op_check_init(&c, "ReduceProd", 18);
    op_check_input(&c, SHAPE(1, 3, 2, 2));
    op_check_const(&c, SHAPE(1), NULL);
    op_check_refused(&c, "integers");
}
