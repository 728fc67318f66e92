#include "tests/support/op_check.h"

/* ---- pooling by loops over all positions of the padded input, as torch and ONNX define it ---- */

typedef struct pool_case {
    const char *type;                                 /* with p, filled in by the test */
    int64_t p;                                        /* LpPool */
    int64_t in[3], kernel[3], stride[3], dilation[3]; /* one to three axes; the rest is 0 */
    int64_t pads[6];                                  /* ONNX order: all begins, all ends */
    int ceil_mode, include_pad;
    const char *auto_pad; /* NULL: none */
    int64_t out[3];       /* expected, worked out by hand */
} pool_case;

enum { C = 5, MOST = 4096, TAPS = 512 };

static int axes_of(const pool_case *p) { return p->in[1] == 0 ? 1 : p->in[2] == 0 ? 2 : 3; }

static int64_t product(int n, const int64_t *v) {
    int64_t all = 1;
    for (int i = 0; i < n; i++)
        all *= v[i];
    return all;
}

/* The input positions of one channel that window `out` looks at, in order; *padded: how many of its
 * steps are inside the padded input. */
static int64_t window_taps(const pool_case *p, int64_t out, int64_t taps[TAPS], int64_t *padded) {
    int n = axes_of(p);
    int64_t count = 0;
    *padded = 0;
    for (int64_t step = 0; step < product(n, p->kernel); step++) {
        int64_t at = 0, scale = 1, rest_out = out, rest_step = step;
        bool inside = true, in_padded = true;
        for (int i = n - 1; i >= 0; i--) {
            int64_t x = rest_out % p->out[i] * p->stride[i] - p->pads[i] +
                        rest_step % p->kernel[i] * p->dilation[i];
            rest_out /= p->out[i];
            rest_step /= p->kernel[i];
            inside = inside && x >= 0 && x < p->in[i];
            in_padded = in_padded && x < p->in[i] + p->pads[n + i];
            at += x * scale;
            scale *= p->in[i];
        }
        *padded += in_padded;
        if (inside)
            taps[count++] = at;
    }
    return count;
}

/* One window's value from one channel x, and what it gives to d_x for d_y. */
static double window_value(const pool_case *p, const float *x, int64_t out, double d_y,
                           double *d_x) {
    int64_t taps[TAPS], padded, n = window_taps(p, out, taps, &padded);
    double best = -INFINITY, sum = 0, power = 0;
    int64_t winner = -1, divisor = p->include_pad ? padded : n;
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[taps[i]];
        sum += v;
        power += pow(fabs(v), (double)p->p);
        winner = v > best ? taps[i] : winner;
        best = v > best ? v : best;
    }
    double norm = pow(power, 1.0 / (double)p->p);
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[taps[i]];
        if (p->type[0] == 'A')
            d_x[taps[i]] += d_y / (double)divisor;
        else if (p->type[0] == 'L' && v != 0)
            d_x[taps[i]] += d_y * (v > 0 ? 1 : -1) * pow(fabs(v) / norm, (double)p->p - 1);
        else if (p->type[0] == 'M' && taps[i] == winner)
            d_x[taps[i]] += d_y;
    }
    return p->type[0] == 'M' ? best : p->type[0] == 'A' ? sum / (double)divisor : norm;
}

static pg_shape shape_of(const pool_case *p, const int64_t *sizes) {
    pg_shape shape = {.rank = 2 + axes_of(p), .dims = {1, C}};
    memcpy(shape.dims + 2, sizes, (size_t)axes_of(p) * sizeof *sizes);
    return shape;
}

static void describe(op_check *c, const pool_case *p) {
    size_t n = (size_t)axes_of(p);
    op_check_init(c, p->type, 19);
    op_check_input(c, shape_of(p, p->in));
    op_check_attr_ints(c, "kernel_shape", n, p->kernel);
    op_check_attr_ints(c, "strides", n, p->stride);
    op_check_attr_ints(c, "dilations", n, p->dilation);
    if (p->auto_pad)
        op_check_attr_string(c, "auto_pad", p->auto_pad);
    else
        op_check_attr_ints(c, "pads", 2 * n, p->pads);
    op_check_attr_int(c, "ceil_mode", p->ceil_mode);
    if (p->type[0] == 'A')
        op_check_attr_int(c, "count_include_pad", p->include_pad);
    if (p->type[0] == 'L')
        op_check_attr_int(c, "p", p->p);
}

/* `levels`: how many different values the input takes; few make ties and zeros, 0 is plain noise.
 * Sums are made in double and rounded once, gradients are sums in float of a window's size. */
static void run(const pool_case *p, int levels) {
    op_check c;
    double expected[MOST], d_x[MOST] = {0};
    int64_t in = product(axes_of(p), p->in), out = product(axes_of(p), p->out);
    cr_assert(C * in <= MOST && C * out <= MOST);
    describe(&c, p);
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, shape_of(p, p->out));
    for (int64_t i = 0; i < C * in && levels; i++)
        c.x[0][i] = floorf(c.x[0][i] * levels);
    for (int64_t i = 0; i < C * out; i++)
        expected[i] = window_value(p, c.x[0] + i / out * in, i % out, (double)c.d_y[0][i],
                                   d_x + i / out * in);
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_backward(&c);
    op_check_d_src(&c, 0, d_x, 1e-6);
    for (int64_t i = 0; i < C * in; i++) /* away from 0, where a norm bends more than a step */
        c.x[0][i] += p->type[0] == 'L' ? copysignf(0.5f, c.x[0][i]) : 0.0f;
    if (p->type[0] != 'M')
        op_check_gradient(&c, 3e-3);
    op_check_close(&c);
}

static const pool_case cases[] = {
    {"", 0, {8, 10}, {2, 2}, {2, 2}, {1, 1}, {0}, 0, 0, NULL, {4, 5}},
    {"", 0, {9, 11}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, 0, 0, NULL, {5, 6}},
    {"", 0, {9, 11}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, 0, 1, NULL, {5, 6}},
    {"", 0, {7, 6}, {3, 2}, {1, 2}, {1, 1}, {0, 1, 2, 0}, 0, 0, NULL, {7, 3}},
    {"", 0, {7, 6}, {3, 2}, {1, 2}, {1, 1}, {0, 1, 2, 0}, 0, 1, NULL, {7, 3}},
    {"", 0, {8, 7}, {3, 3}, {2, 2}, {1, 1}, {0}, 1, 0, NULL, {4, 3}},
    {"", 0, {8, 7}, {3, 3}, {2, 2}, {1, 1}, {0}, 1, 1, NULL, {4, 3}},
    {"", 0, {6, 5}, {2, 2}, {3, 2}, {1, 1}, {0, 1, 1, 1}, 1, 0, NULL, {2, 3}},
    {"", 0, {6, 6}, {2, 2}, {2, 2}, {1, 1}, {1, 1, 1, 1}, 1, 1, NULL, {4, 4}},
    {"", 0, {5, 5}, {1, 1}, {2, 2}, {1, 1}, {0}, 1, 0, NULL, {3, 3}}, /* ceil adds nothing */
    {"", 0, {4, 4}, {2, 2}, {3, 3}, {1, 1}, {1, 1, 1, 1}, 1, 0, NULL, {2, 2}}, /* one is dropped */
    {"", 0, {9, 9}, {3, 2}, {1, 2}, {2, 3}, {2, 0, 1, 3}, 0, 0, NULL, {8, 5}},
    {"", 0, {9, 9}, {3, 2}, {1, 2}, {2, 3}, {2, 0, 1, 3}, 0, 1, NULL, {8, 5}},
    {"", 0, {7, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 0, 1, 1}, 0, 0, "SAME_UPPER", {4, 4}},
    {"", 0, {7, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 0}, 0, 0, "SAME_LOWER", {4, 4}},
    {"", 0, {7, 8}, {3, 3}, {2, 2}, {1, 1}, {0}, 0, 0, "VALID", {3, 3}},
    {"", 0, {4, 4}, {1, 1}, {1, 1}, {1, 1}, {0}, 0, 0, NULL, {4, 4}},
    {"", 0, {17, 18}, {17, 16}, {1, 1}, {1, 1}, {1, 0, 0, 2}, 0, 0, NULL, {2, 5}}, /* > 256 steps */
    {"", 0, {7, 8}, {3, 3}, {2, 2}, {1, 1}, {0}, 1, 0, "VALID", {3, 3}}, /* ceil changes nothing */
    {"", 0, {7, 7}, {2, 2}, {1, 2}, {3, 2}, {1, 1, 2, 1}, 0, 0, "SAME_UPPER", {7, 4}},
    {"", 0, {3, 9}, {2, 2}, {3, 4}, {1, 1}, {0}, 0, 0, NULL, {1, 2}}, /* stride over the kernel */
    {"", 0, {9}, {3}, {2}, {1}, {0, 1}, 0, 0, NULL, {4}},
    {"", 0, {10}, {2}, {3}, {2}, {1, 0}, 1, 1, NULL, {4}},
    {"", 0, {5, 4, 6}, {2, 3, 2}, {2, 1, 2}, {1, 1, 1}, {0, 1, 0, 1, 0, 0}, 0, 0, NULL, {3, 3, 3}},
    {"", 0, {5, 4, 6}, {2, 3, 2}, {2, 1, 2}, {1, 1, 1}, {0, 1, 0, 1, 0, 0}, 0, 1, NULL, {3, 3, 3}},
    {"", 0, {7, 5, 4}, {2, 2, 2}, {2, 1, 1}, {2, 1, 3}, {1, 0, 0, 0, 0, 1}, 1, 1, NULL, {4, 4, 2}},
    {"", 0, {1, 7, 7}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1, 0, 1, 1}, 0, 0, NULL, {1, 4, 4}},
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

Test(pool, norm) {
    for (int i = 0; i < CASES; i++)
        for (int64_t power = 1; power <= 3; power++) {
            pool_case p = cases[i];
            p.type = "LpPool";
            p.p = power;
            run(&p, 0);
            run(&p, 1); /* -1 and 0: whole windows of zeros */
        }
}

/* A global pool is one window as large as the input. */
static void global_case(const char *type, pg_shape shape) {
    op_check c;
    op_check_init(&c, type, 17);
    op_check_input(&c, shape);
    op_check_open(&c, PG_CHANNELS_LAST);
    pool_case p = {.type = type + strlen("Global"), .p = 2};
    pg_shape dst = shape;
    for (int i = 0; i < shape.rank - 2; i++) {
        p.in[i] = p.kernel[i] = shape.dims[2 + i];
        p.stride[i] = p.dilation[i] = p.out[i] = dst.dims[2 + i] = 1;
    }
    op_check_shape(&c, 0, dst);
    double expected[C], d_x[MOST] = {0};
    int64_t n = product(shape.rank - 2, p.in);
    for (int64_t k = 0; k < C; k++)
        expected[k] = window_value(&p, c.x[0] + k * n, 0, (double)c.d_y[0][k], d_x + k * n);
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-6);
    op_check_backward(&c);
    op_check_d_src(&c, 0, d_x, 1e-6);
    op_check_close(&c);
}

Test(pool, global) {
    const char *const types[] = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"};
    for (int i = 0; i < 3; i++) {
        global_case(types[i], SHAPE(1, C, 7, 6));
        global_case(types[i], SHAPE(1, C, 20, 19)); /* more than 256 steps */
        global_case(types[i], SHAPE(1, C, 1, 1));
        global_case(types[i], SHAPE(1, C, 9));
        global_case(types[i], SHAPE(1, C, 3, 4, 5));
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

/* A window of zeros has no direction: 0, where (|x| / y)^(p - 1) would be NaN. */
Test(pool, norm_of_zeros_has_gradient_zero) {
    for (int64_t p = 1; p <= 3; p++) {
        const float x[] = {0, 0, 0, -2};
        op_check c;
        op_check_init(&c, "LpPool", 18);
        op_check_input_of(&c, SHAPE(1, 1, 1, 4), x);
        op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){1, 2});
        op_check_attr_ints(&c, "strides", 2, (int64_t[]){1, 2});
        op_check_attr_int(&c, "p", p);
        op_check_open(&c, PG_CHANNELS_LAST);
        c.d_y[0][0] = c.d_y[0][1] = 1;
        op_check_forward(&c);
        op_check_dst(&c, 0, (double[]){0, 2}, 1e-6);
        op_check_backward(&c);
        op_check_d_src(&c, 0, (double[]){0, 0, 0, -1}, 0);
        op_check_close(&c);
    }
}

/* The mean of many values near 1000: a float sum of 40,000 of them is off by some 1e-4. */
Test(pool, averages_are_summed_in_double) {
    op_check c;
    op_check_init(&c, "GlobalAveragePool", 17);
    op_check_input(&c, SHAPE(1, 3, 200, 200));
    op_check_open(&c, PG_CHANNELS_LAST);
    double expected[3] = {0};
    for (int64_t i = 0; i < 3 * 40000; i++) {
        c.x[0][i] += 1000.0f;
        expected[i / 40000] += (double)c.x[0][i] / 40000;
    }
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 1e-7);
    op_check_close(&c);
}

Test(pool, index_output_that_nothing_reads) {
    op_check c;
    op_check_init(&c, "MaxPool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){2, 2});
    op_check_attr_int(&c, "storage_order", 1); /* of the indices */
    c.n_outputs = 2;
    c.dead_outputs = 1;
    op_check_open(&c, PG_CHANNELS_LAST);
    cr_assert_eq(c.op->n_dst, 1);
    op_check_forward(&c);
    op_check_backward(&c);
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

/* ---- the gradient handed over in rows (pg_rows) ---- */

/* Takes rows as an operator before the pool would. */
typedef struct basket {
    pg_op op;
    float *rows;
    int *times; /* [rows of the map] */
    int64_t channels, width;
    bool wanted, content; /* what begin and end answer with */
} basket;

static bool begin(const pg_op *op, const pg_op_io *io) {
    (void)io;
    return ((const basket *)op)->wanted;
}

static void put(const pg_op *op, const pg_op_io *io, int64_t first, int64_t count, float *rows) {
    const basket *b = (const basket *)op;
    (void)io;
    size_t bytes = (size_t)(count * b->channels) * sizeof *rows;
    memcpy(b->rows + first * b->channels, rows, bytes);
    memset(rows, 0xff, bytes); /* they may be written over */
    b->times[first / b->width]++;
}

static bool finish(const pg_op *op, const pg_op_io *io) {
    (void)io;
    return ((const basket *)op)->content;
}

static const pg_op_class taker = {.rows_begin = begin, .rows_take = put, .rows_end = finish};

static void check_rows(const char *type, bool wanted, bool content, bool with_others) {
    enum { H = 37, W = 29, CHANNELS = 48, N = H * W * CHANNELS };
    op_check c;
    op_check_init(&c, type, 17);
    op_check_input(&c, SHAPE(1, CHANNELS, H, W));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){3, 3});
    op_check_attr_ints(&c, "strides", 2, (int64_t[]){2, 2});
    op_check_attr_ints(&c, "pads", 4, (int64_t[]){1, 1, 1, 1});
    op_check_create(&c);
    op_check_start(&c, PG_CHANNELS_LAST);
    cr_assert(c.op->gives_rows);
    op_check_forward(&c);
    op_check_backward(&c);
    float *array = op_check_array(&c, N), *others = op_check_array(&c, N), *d_src = c.d_src[0];
    memcpy(array, d_src, N * sizeof *array);
    op_check_fill(&c, others, N);
    memset(d_src, 0, N * sizeof *d_src);
    basket b = {.op = {.cls = &taker},
                .rows = op_check_array(&c, N),
                .times = op_check_own(&c, pg_calloc(H, sizeof(int))),
                .channels = CHANNELS,
                .width = W,
                .wanted = wanted,
                .content = content};
    pg_rows rows = {.maker = &b.op, .others = with_others ? others : NULL};
    c.io.d_src_rows = &rows;
    cr_assert_eq(c.op->cls->backward(c.op, &c.io), PG_OK);
    c.io.d_src_rows = NULL;
    cr_assert_eq(rows.taken, wanted && content);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(b.times[i / (W * CHANNELS)], wanted);
        if (wanted)
            cr_assert_eq(b.rows[i], array[i] + (with_others ? others[i] : 0));
        cr_assert_eq(d_src[i], rows.taken ? 0 : array[i]);
    }
    op_check_close(&c);
}

Test(pool, gives_rows_where_they_are_wanted) {
    for (int how = 0; how < 8; how++) {
        check_rows("MaxPool", how & 1, how & 2, how & 4);
        check_rows("AveragePool", how & 1, how & 2, how & 4);
    }
}

Test(pool, refuses_what_it_cannot_do) {
    refused("kernel_shape", 1, (int64_t[]){2}, "kernel_shape");
    refused("kernel_shape", 0, (int64_t[]){2}, "kernel_shape");
    refused("kernel_shape", 2, (int64_t[]){2, 0}, "out of range");
    refused("kernel_shape", 2, (int64_t[]){2, INT64_MAX}, "out of range");
    refused("kernel_shape", 2, (int64_t[]){7, 2}, "does not fit");
    refused("kernel_shape", 2, (int64_t[]){1 << 20, 1 << 20}, "does not fit");
    refused("strides", 2, (int64_t[]){0, 1}, "out of range");
    refused("strides", 2, (int64_t[]){INT64_MIN, 1}, "out of range");
    refused("dilations", 2, (int64_t[]){INT64_MAX, INT64_MAX}, "out of range");
    refused("pads", 4, (int64_t[]){0, 0, -1, 0}, "negative padding");
    refused("pads", 4, (int64_t[]){0, INT64_MAX, 0, 0}, "out of range");
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
    op_check_init(&c, "LpPool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){2, 2});
    op_check_attr_int(&c, "p", 0);
    op_check_refused(&c, "p is 0");
    op_check_init(&c, "GlobalLpPool", 17);
    op_check_input(&c, SHAPE(1, 3, 6, 6));
    op_check_attr_float(&c, "p", 2);
    op_check_refused(&c, "'p' is not an integer");
    op_check_init(&c, "GlobalMaxPool", 17);
    op_check_input(&c, SHAPE(1, 1 << 4, 1 << 12, 1 << 20));
    op_check_refused(&c, "window is too large");
    op_check_init(&c, "MaxPool", 17);
    op_check_input(&c, SHAPE(1, 3, 2, 2, 2, 2));
    op_check_attr_ints(&c, "kernel_shape", 4, (int64_t[]){2, 2, 2, 2});
    op_check_refused(&c, "spatial");
    op_check_init(&c, "GlobalMaxPool", 17);
    op_check_input(&c, SHAPE(2, 3, 6, 6));
    op_check_refused(&c, "batch");
    op_check_init(&c, "GlobalAveragePool", 17);
    op_check_input(&c, SHAPE(1, 3));
    op_check_refused(&c, "spatial");
    op_check_init(&c, "GlobalAveragePool", 17);
    op_check_refused(&c, "input");
}
