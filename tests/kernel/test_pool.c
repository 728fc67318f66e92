#include "tests/support/op_check.h"

/* ---- pooling by loops over all positions of the padded input, as torch and ONNX define it ---- */

typedef struct pool_case {
    const char *type;
    int64_t in[2], kernel[2], stride[2], dilation[2], pads[4];
    int ceil_mode, include_pad;
    const char *auto_pad; /* NULL: none */
    int64_t out[2];       /* expected, worked out by hand */
} pool_case;

enum { C = 5, MOST = 4096 };

static double window_value(const pool_case *p, const float *x, int64_t channel, int64_t oh,
                           int64_t ow, int64_t *winner) {
    double best = -INFINITY, sum = 0;
    int64_t inside = 0, padded = 0;
    for (int64_t kh = 0; kh < p->kernel[0]; kh++)
        for (int64_t kw = 0; kw < p->kernel[1]; kw++) {
            int64_t ih = oh * p->stride[0] - p->pads[0] + kh * p->dilation[0];
            int64_t iw = ow * p->stride[1] - p->pads[1] + kw * p->dilation[1];
            padded += ih < p->in[0] + p->pads[2] && iw < p->in[1] + p->pads[3];
            if (ih < 0 || iw < 0 || ih >= p->in[0] || iw >= p->in[1])
                continue;
            int64_t at = (channel * p->in[0] + ih) * p->in[1] + iw;
            inside++;
            sum += (double)x[at];
            if ((double)x[at] > best) {
                best = (double)x[at];
                *winner = at;
            }
        }
    if (p->type[0] == 'M')
        return best;
    return sum / (double)(p->include_pad ? padded : inside);
}

static void describe(op_check *c, const pool_case *p) {
    op_check_init(c, p->type, 17);
    op_check_input(c, SHAPE(1, C, p->in[0], p->in[1]));
    op_check_attr_ints(c, "kernel_shape", 2, p->kernel);
    op_check_attr_ints(c, "strides", 2, p->stride);
    op_check_attr_ints(c, "dilations", 2, p->dilation);
    if (p->auto_pad)
        op_check_attr_string(c, "auto_pad", p->auto_pad);
    else
        op_check_attr_ints(c, "pads", 4, p->pads);
    op_check_attr_int(c, "ceil_mode", p->ceil_mode);
    if (p->type[0] == 'A')
        op_check_attr_int(c, "count_include_pad", p->include_pad);
}

/* `levels`: how many different values the input takes; few make ties, 0 is plain noise. */
static void run(const pool_case *p, int levels) {
    op_check c;
    double expected[MOST], d_x[MOST] = {0};
    int64_t size = p->out[0] * p->out[1], winner = 0;
    describe(&c, p);
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, SHAPE(1, C, p->out[0], p->out[1]));
    for (int64_t i = 0; i < C * p->in[0] * p->in[1] && levels; i++)
        c.x[0][i] = floorf(c.x[0][i] * levels);
    for (int64_t i = 0; i < C * size; i++) {
        expected[i] = window_value(p, c.x[0], i / size, i % size / p->out[1], i % p->out[1],
                                   &winner);
        d_x[winner] += (double)c.d_y[0][i];
    }
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_backward(&c);
    if (p->type[0] == 'M')
        op_check_d_src(&c, 0, d_x, 1e-6);
    else
        op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

static const pool_case cases[] = {
    {"", {8, 10}, {2, 2}, {2, 2}, {1, 1}, {0}, 0, 0, NULL, {4, 5}},
    {"", {9, 11}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, 0, 0, NULL, {5, 6}},
    {"", {9, 11}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, 0, 1, NULL, {5, 6}},
    {"", {7, 6}, {3, 2}, {1, 2}, {1, 1}, {0, 1, 2, 0}, 0, 0, NULL, {7, 3}},
    {"", {7, 6}, {3, 2}, {1, 2}, {1, 1}, {0, 1, 2, 0}, 0, 1, NULL, {7, 3}},
    {"", {8, 7}, {3, 3}, {2, 2}, {1, 1}, {0}, 1, 0, NULL, {4, 3}},
    {"", {8, 7}, {3, 3}, {2, 2}, {1, 1}, {0}, 1, 1, NULL, {4, 3}},
    {"", {6, 5}, {2, 2}, {3, 2}, {1, 1}, {0, 1, 1, 1}, 1, 0, NULL, {2, 3}},
    {"", {6, 6}, {2, 2}, {2, 2}, {1, 1}, {1, 1, 1, 1}, 1, 1, NULL, {4, 4}},
    {"", {5, 5}, {1, 1}, {2, 2}, {1, 1}, {0}, 1, 0, NULL, {3, 3}}, /* ceil adds nothing */
    {"", {4, 4}, {2, 2}, {3, 3}, {1, 1}, {1, 1, 1, 1}, 1, 0, NULL, {2, 2}}, /* one is dropped */
    {"", {9, 9}, {3, 2}, {1, 2}, {2, 3}, {2, 0, 1, 3}, 0, 0, NULL, {8, 5}},
    {"", {9, 9}, {3, 2}, {1, 2}, {2, 3}, {2, 0, 1, 3}, 0, 1, NULL, {8, 5}},
    {"", {7, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 0, 1, 1}, 0, 0, "SAME_UPPER", {4, 4}},
    {"", {7, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 0}, 0, 0, "SAME_LOWER", {4, 4}},
    {"", {7, 8}, {3, 3}, {2, 2}, {1, 1}, {0}, 0, 0, "VALID", {3, 3}},
    {"", {4, 4}, {1, 1}, {1, 1}, {1, 1}, {0}, 0, 0, NULL, {4, 4}},
    {"", {17, 18}, {17, 16}, {1, 1}, {1, 1}, {1, 0, 0, 2}, 0, 0, NULL, {2, 5}}, /* > 256 steps */
};
enum { CASES = sizeof cases / sizeof cases[0] };

Test(pool, maximum) {
    for (int i = 0; i < CASES; i++) {
        pool_case p = cases[i];
        p.type = "MaxPool";
        run(&p, 0);
        run(&p, 2); /* ties go to the first position */
    }
}

Test(pool, average) {
    for (int i = 0; i < CASES; i++) {
        pool_case p = cases[i];
        p.type = "AveragePool";
        run(&p, 0);
    }
}

static void global_case(const char *type, pg_shape shape) {
    op_check c;
    op_check_init(&c, type, 17);
    op_check_input(&c, shape);
    op_check_open(&c, PG_CHANNELS_LAST);
    pg_shape dst = shape;
    int64_t n = 1;
    for (int i = 2; i < shape.rank; i++) {
        n *= shape.dims[i];
        dst.dims[i] = 1;
    }
    op_check_shape(&c, 0, dst);
    double expected[C], d_x[MOST];
    for (int64_t k = 0; k < C; k++) {
        int64_t best = k * n;
        expected[k] = 0;
        for (int64_t i = k * n; i < (k + 1) * n; i++) {
            expected[k] += (double)c.x[0][i] / (double)n;
            best = c.x[0][i] > c.x[0][best] ? i : best;
        }
        bool average = strcmp(type, "GlobalAveragePool") == 0;
        for (int64_t i = k * n; i < (k + 1) * n; i++)
            d_x[i] = average ? (double)c.d_y[0][k] / (double)n : i == best ? c.d_y[0][k] : 0;
        expected[k] = average ? expected[k] : (double)c.x[0][best];
    }
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_backward(&c);
    op_check_d_src(&c, 0, d_x, 1e-6);
    op_check_close(&c);
}

Test(pool, global) {
    const char *const types[] = {"GlobalAveragePool", "GlobalMaxPool"};
    for (int i = 0; i < 2; i++) {
        global_case(types[i], SHAPE(1, C, 7, 6));
        global_case(types[i], SHAPE(1, C, 20, 19)); /* more than 256 steps */
        global_case(types[i], SHAPE(1, C, 1, 1));
        global_case(types[i], SHAPE(1, C, 9));
    }
}

Test(pool, one_spatial_axis) {
    for (int average = 0; average < 2; average++) {
        op_check c;
        op_check_init(&c, average ? "AveragePool" : "MaxPool", 17);
        op_check_input(&c, SHAPE(1, C, 9));
        op_check_attr_ints(&c, "kernel_shape", 1, (int64_t[]){3});
        op_check_attr_ints(&c, "strides", 1, (int64_t[]){2});
        op_check_attr_ints(&c, "pads", 2, (int64_t[]){0, 1});
        op_check_open(&c, PG_CHANNELS_LAST);
        op_check_shape(&c, 0, SHAPE(1, C, 4));
        op_check_forward(&c);
        double expected[C * 4];
        for (int i = 0; i < C * 4; i++) {
            const float *x = c.x[0] + i / 4 * 9 + i % 4 * 2;
            double sum = (double)x[0] + x[1] + x[2];
            expected[i] = average ? sum / 3 : fmax(x[0], fmax(x[1], x[2]));
        }
        op_check_dst(&c, 0, expected, 1e-6);
        c.kink = average ? 0 : 0.01;
        op_check_gradient(&c, 6e-3);
        op_check_close(&c);
    }
}

/* Enough elements for a team of threads, and more channels than are done at a time. */
Test(pool, large) {
    enum { CHANNELS = 549 };
    op_check c;
    op_check_init(&c, "MaxPool", 17);
    op_check_input(&c, SHAPE(1, CHANNELS, 40, 41));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){2, 2});
    op_check_attr_ints(&c, "strides", 2, (int64_t[]){2, 2});
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_forward(&c);
    op_check_backward(&c);
    for (int64_t i = 0; i < CHANNELS * 20 * 20; i++) {
        const int64_t at = i / 400 * 40 * 41 + i % 400 / 20 * 2 * 41 + i % 20 * 2;
        const int64_t near[] = {at, at + 1, at + 41, at + 42};
        int64_t best = at;
        for (int k = 1; k < 4; k++)
            best = c.x[0][near[k]] > c.x[0][best] ? near[k] : best;
        cr_assert(c.y[0][i] == c.x[0][best]);
        for (int k = 0; k < 4; k++)
            cr_assert(c.d_x[0][near[k]] == (near[k] == best ? c.d_y[0][i] : 0));
    }
    op_check_close(&c);
}

/* NaN wins a maximum; a window of -inf has its gradient at its first position inside the input. */
Test(pool, maxima_of_strange_values) {
    const float nan_first[] = {NAN, 2, 1, 1};
    const float infinite[] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    op_check c;
    op_check_init(&c, "MaxPool", 17);
    op_check_input_of(&c, SHAPE(1, 1, 1, 4), nan_first);
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){1, 2});
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_forward(&c);
    cr_assert(isnan(c.y[0][0]) && c.y[0][1] == 2 && c.y[0][2] == 1);
    op_check_close(&c);
    op_check_init(&c, "MaxPool", 17);
    op_check_input_of(&c, SHAPE(1, 1, 2, 2), infinite);
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){3, 3});
    op_check_attr_ints(&c, "pads", 4, (int64_t[]){1, 1, 0, 0});
    op_check_open(&c, PG_CHANNELS_LAST);
    c.d_y[0][0] = 3;
    op_check_forward(&c);
    op_check_backward(&c);
    const double expected[] = {3, 0, 0, 0};
    cr_assert(c.y[0][0] == -INFINITY);
    op_check_d_src(&c, 0, expected, 0);
    op_check_close(&c);
}

static void refused(const char *attr, size_t count, const int64_t *values, const char *part) {
    op_check c;
    op_check_init(&c, "MaxPool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    if (strcmp(attr, "kernel_shape") != 0)
        op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){2, 2});
    op_check_attr_ints(&c, attr, count, values);
    op_check_refused(&c, part);
}

Test(pool, refuses_what_it_cannot_do) {
    refused("kernel_shape", 1, (int64_t[]){2}, "kernel_shape");
    refused("kernel_shape", 0, (int64_t[]){2}, "kernel_shape");
    refused("kernel_shape", 2, (int64_t[]){2, 0}, "out of range");
    refused("kernel_shape", 2, (int64_t[]){2, INT64_MAX}, "out of range");
    refused("kernel_shape", 2, (int64_t[]){7, 2}, "larger than its input");
    refused("kernel_shape", 2, (int64_t[]){1 << 20, 1 << 20}, "larger than its input");
    refused("strides", 2, (int64_t[]){0, 1}, "out of range");
    refused("strides", 2, (int64_t[]){INT64_MIN, 1}, "out of range");
    refused("dilations", 2, (int64_t[]){INT64_MAX, INT64_MAX}, "out of range");
    refused("pads", 4, (int64_t[]){0, 0, -1, 0}, "out of range");
    refused("pads", 4, (int64_t[]){0, 0, 2, 0}, "padding");
    refused("pads", 2, (int64_t[]){0, 0}, "pads");
    op_check c;
    op_check_init(&c, "MaxPool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    op_check_refused(&c, "kernel_shape");
    op_check_init(&c, "AveragePool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){2, 2});
    op_check_attr_string(&c, "auto_pad", "SAME_SIZE");
    op_check_refused(&c, "auto_pad");
    op_check_init(&c, "MaxPool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){2, 2});
    c.n_outputs = 2;
    op_check_refused(&c, "index output");
    op_check_init(&c, "GlobalMaxPool", 17);
    op_check_input(&c, SHAPE(2, 3, 6, 6));
    op_check_refused(&c, "batch");
    op_check_init(&c, "GlobalAveragePool", 17);
    op_check_input(&c, SHAPE(1, 3));
    op_check_refused(&c, "spatial");
    op_check_init(&c, "GlobalAveragePool", 17);
    op_check_refused(&c, "input");
}
