#include "tests/support/op_check.h"

/* The reference: one dense matrix [out,in] per axis, made the slow way the specification describes
 * (positions, the nearest elements of an edge-padded axis, filter weights), and applied by summing
 * over all pairs. Values and gradients then need one sum of 1 to 16 terms in float: 1e-5. */
enum { SIDE = 48, MOST = 1 << 14 };

typedef struct resize {
    const char *mode, *way, *nearest, *policy;
    float a;
    bool exclude, antialias;
    int n; /* axes that are listed; all when 0 */
    int64_t axes[4];
    float scales[4]; /* used when by_size is false */
    int64_t sizes[4];
    bool by_size;
    float roi[8], fill;
} resize;

typedef struct matrix {
    int64_t in, out;
    double w[SIDE][SIDE];
    bool outside[SIDE];
} matrix;

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

static double position(const resize *r, int k, const matrix *m, double scale, int64_t x) {
    double in = (double)m->in, out = (double)m->out;
    if (is(r->way, "asymmetric"))
        return (double)x / scale;
    if (is(r->way, "align_corners"))
        return m->out == 1 ? 0 : (double)x * (in - 1) / (out - 1);
    if (is(r->way, "tf_half_pixel_for_nn"))
        return ((double)x + 0.5) / scale;
    if (is(r->way, "pytorch_half_pixel") && m->out == 1)
        return 0;
    if (is(r->way, "tf_crop_and_resize")) {
        double a = (double)r->roi[k], b = (double)r->roi[(r->n ? r->n : 4) + k];
        return m->out == 1 ? (a + b) / 2 * (in - 1)
                           : a * (in - 1) + (double)x * (b - a) * (in - 1) / (out - 1);
    }
    double shift = is(r->way, "half_pixel_symmetric") ? in / 2 * (1 - out / (scale * in)) : 0;
    return shift + ((double)x + 0.5) / scale - 0.5;
}

static double cubic(double a, double x) {
    x = fabs(x);
    return x <= 1  ? (a + 2) * x * x * x - (a + 3) * x * x + 1
           : x < 2 ? a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a
                   : 0;
}

static void nearest_row(const resize *r, double x, matrix *m, int64_t row) {
    double at = is(r->nearest, "floor")               ? floor(x)
                : is(r->nearest, "ceil")              ? ceil(x)
                : is(r->nearest, "round_prefer_ceil") ? floor(x + 0.5)
                                                      : ceil(x - 0.5);
    m->w[row][(int64_t)fmin(fmax(at, 0), (double)m->in - 1)] = 1;
}

static void filter_row(const resize *r, double scale, double x, matrix *m, int64_t row) {
    double squeeze = r->antialias && scale < 1 ? scale : 1, sum = 0;
    for (int64_t i = -200; i < 200; i++) {
        double d = squeeze * ((double)i - x);
        double w = is(r->mode, "cubic") ? cubic((double)r->a, d) : fmax(0, 1 - fabs(d));
        bool out = i < 0 || i >= m->in;
        if (out && r->exclude)
            continue;
        sum += w;
        m->w[row][i < 0 ? 0 : i >= m->in ? m->in - 1 : i] += w;
    }
    for (int64_t i = 0; i < m->in; i++)
        m->w[row][i] /= sum;
}

static void make_matrix(const resize *r, int listed, int64_t in, int64_t out, double scale,
                        matrix *m) {
    memset(m, 0, sizeof *m);
    m->in = in, m->out = out;
    cr_assert(in <= SIDE && out <= SIDE);
    if (scale == 1 && !is(r->way, "tf_crop_and_resize"))
        listed = -1; /* as it is, also where tf_half_pixel_for_nn would shift by a half */
    for (int64_t row = 0; row < out; row++) {
        double x = listed < 0 ? (double)row : position(r, listed, m, scale, row);
        m->outside[row] =
            listed >= 0 && is(r->way, "tf_crop_and_resize") && (x < 0 || x > (double)in - 1);
        if (listed < 0)
            m->w[row][row] = 1;
        else if (!m->outside[row] && is(r->mode, "nearest"))
            nearest_row(r, x, m, row);
        else if (!m->outside[row])
            filter_row(r, scale, x, m, row);
    }
}

/* y and d_x of a 4-D tensor by the four matrices. */
static void reference(const op_check *c, const matrix *m, double fill, double *y, double *d_x) {
    const int64_t *in = c->op->src[0].shape.dims, *out = c->op->dst[0].shape.dims;
    memset(d_x, 0, (size_t)pg_shape_count(&c->op->src[0].shape) * sizeof *d_x);
    for (int64_t o = 0; o < pg_shape_count(&c->op->dst[0].shape); o++) {
        int64_t at[4] = {o / out[3] / out[2] / out[1], o / out[3] / out[2] % out[1],
                         o / out[3] % out[2], o % out[3]};
        bool outside = m[0].outside[at[0]] || m[1].outside[at[1]] || m[2].outside[at[2]] ||
                       m[3].outside[at[3]];
        y[o] = outside ? fill : 0;
        for (int64_t n = 0; n < in[0] && !outside; n++)
            for (int64_t k = 0; k < in[1] && m[0].w[at[0]][n] != 0; k++)
                for (int64_t h = 0; h < in[2] && m[1].w[at[1]][k] != 0; h++)
                    for (int64_t x = 0; x < in[3] && m[2].w[at[2]][h] != 0; x++) {
                        int64_t i = ((n * in[1] + k) * in[2] + h) * in[3] + x;
                        double w = m[0].w[at[0]][n] * m[1].w[at[1]][k] * m[2].w[at[2]][h] *
                                   m[3].w[at[3]][x];
                        y[o] += w * (double)c->x[0][i];
                        d_x[i] += w * (double)c->d_y[0][o];
                    }
    }
}

static void describe(op_check *c, const resize *r, int opset, pg_shape shape) {
    int n = r->n ? r->n : shape.rank;
    op_check_init(c, "Resize", opset);
    op_check_input(c, shape);
    op_check_attr_string(c, "mode", r->mode);
    if (r->way)
        op_check_attr_string(c, "coordinate_transformation_mode", r->way);
    if (r->nearest)
        op_check_attr_string(c, "nearest_mode", r->nearest);
    if (r->policy)
        op_check_attr_string(c, "keep_aspect_ratio_policy", r->policy);
    if (r->a != 0)
        op_check_attr_float(c, "cubic_coeff_a", r->a);
    if (r->exclude)
        op_check_attr_int(c, "exclude_outside", 1);
    if (r->antialias)
        op_check_attr_int(c, "antialias", 1);
    if (r->fill != 0)
        op_check_attr_float(c, "extrapolation_value", r->fill);
    if (r->n)
        op_check_attr_ints(c, "axes", (size_t)n, r->axes);
    if (is(r->way, "tf_crop_and_resize"))
        op_check_const(c, SHAPE(2 * n), r->roi);
    else
        op_check_absent(c);
    if (r->by_size) {
        op_check_const(c, SHAPE(0), NULL); /* the empty list of opset 11 */
        op_check_const_i64(c, SHAPE(n), r->sizes);
    } else {
        op_check_const(c, SHAPE(n), r->scales);
    }
}

static void resize_case(resize r, int opset, pg_shape shape) {
    static matrix m[4];
    static double y[MOST], d_x[MOST];
    if (is(r.mode, "cubic") && r.a == 0)
        r.a = -0.75f;
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        describe(&c, &r, opset, shape);
        op_check_open(&c, (pg_layout)layout);
        const int64_t *out = c.op->dst[0].shape.dims;
        cr_assert(pg_shape_count(&c.op->dst[0].shape) <= MOST);
        for (int k = 0; k < 4; k++) {
            int listed = r.n ? -1 : k;
            for (int i = 0; i < r.n; i++)
                listed = r.axes[i] == k || r.axes[i] + 4 == k ? i : listed;
            double scale = (double)out[k] / (double)shape.dims[k];
            if (listed >= 0 && !r.by_size)
                scale = (double)r.scales[listed];
            make_matrix(&r, listed, shape.dims[k], out[k], scale, &m[k]);
        }
        op_check_forward(&c);
        op_check_backward(&c);
        reference(&c, m, (double)r.fill, y, d_x);
        op_check_dst(&c, 0, y, 1e-5);
        op_check_d_src(&c, 0, d_x, 1e-5);
        op_check_close(&c);
    }
}

/* ---- Resize ---- */

static const char *const ways[] = {"half_pixel",    "half_pixel_symmetric", "pytorch_half_pixel",
                                   "align_corners", "asymmetric",           "tf_half_pixel_for_nn"};

Test(resize, every_way_of_finding_positions) {
    static const float scales[][4] = {
        {1, 1, 2, 2}, {1, 1, 1.5f, 0.6f}, {1, 1, 0.3f, 2.7f}, {1, 1, 3, 1}};
    for (int way = 0; way < 6; way++)
        for (int s = 0; s < 4; s++)
            for (int mode = 0; mode < 3; mode++) {
                resize r = {.mode = (const char *[]){"nearest", "linear", "cubic"}[mode],
                            .way = ways[way]};
                memcpy(r.scales, scales[s], sizeof r.scales);
                resize_case(r, 19, SHAPE(1, 3, 7, 5));
                resize_case(r, 13, SHAPE(2, 19, 4, 6));
            }
}

Test(resize, sizes_of_one_and_large_sizes) {
    for (int way = 0; way < 6; way++)
        for (int mode = 0; mode < 3; mode++) {
            resize r = {.mode = (const char *[]){"nearest", "linear", "cubic"}[mode],
                        .way = ways[way],
                        .by_size = true,
                        .sizes = {1, 3, 1, 29}};
            resize_case(r, 11, SHAPE(1, 3, 7, 5));
            r.sizes[2] = 14, r.sizes[3] = 1;
            resize_case(r, 11, SHAPE(1, 3, 7, 5));
        }
}

Test(resize, every_rounding_of_nearest) {
    static const char *const roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                            "ceil"};
    for (int i = 0; i < 4; i++)
        for (int way = 0; way < 6; way++)
            for (int64_t size = 1; size <= 12; size++) {
                resize r = {.mode = "nearest",
                            .nearest = roundings[i],
                            .way = ways[way],
                            .by_size = true,
                            .sizes = {1, 2, 6, size}};
                resize_case(r, 13, SHAPE(1, 2, 4, 5));
            }
}

/* Batch and channels too: nothing is special about the last two axes. */
Test(resize, any_axis) {
    for (int mode = 0; mode < 3; mode++) {
        resize r = {.mode = (const char *[]){"nearest", "linear", "cubic"}[mode],
                    .scales = {2, 1.5f, 0.5f, 3}};
        resize_case(r, 13, SHAPE(2, 5, 6, 4));
    }
}

Test(resize, named_axes_and_proportions) {
    static const char *const policies[] = {"stretch", "not_larger", "not_smaller"};
    for (int i = 0; i < 3; i++) {
        resize r = {.mode = "linear",
                    .policy = policies[i],
                    .n = 2,
                    .axes = {3, -2},
                    .by_size = true,
                    .sizes = {9, 11}};
        op_check c;
        describe(&c, &r, 18, SHAPE(1, 3, 7, 5));
        op_check_open(&c, PG_PLAIN);
        op_check_shape(&c, 0,
                       i == 0   ? SHAPE(1, 3, 11, 9)
                       : i == 1 ? SHAPE(1, 3, 11, 8)
                                : SHAPE(1, 3, 13, 9));
        op_check_close(&c);
    }
    resize r = {.mode = "cubic", .n = 2, .axes = {-1, 2}, .scales = {2, 0.7f}};
    resize_case(r, 18, SHAPE(1, 3, 7, 5));
}

Test(resize, cubic_parameter_edges_and_antialias) {
    for (int mode = 0; mode < 2; mode++)
        for (int exclude = 0; exclude < 2; exclude++)
            for (int antialias = 0; antialias < 2; antialias++) {
                resize r = {.mode = mode ? "cubic" : "linear",
                            .a = mode ? -0.5f : 0,
                            .exclude = exclude,
                            .antialias = antialias,
                            .scales = {1, 1, 0.31f, 0.45f}};
                resize_case(r, 19, SHAPE(1, 3, 17, 13));
                r.scales[2] = 1.7f;
                resize_case(r, 19, SHAPE(1, 18, 9, 13));
                r.by_size = true;
                memcpy(r.sizes, (int64_t[]){1, 3, 3, 4}, sizeof r.sizes);
                resize_case(r, 19, SHAPE(1, 3, 20, 9));
            }
}

Test(resize, crops_and_extrapolates) {
    for (int mode = 0; mode < 3; mode++) {
        resize r = {.mode = (const char *[]){"nearest", "linear", "cubic"}[mode],
                    .way = "tf_crop_and_resize",
                    .fill = 7.5f,
                    .by_size = true,
                    .sizes = {1, 3, 5, 6},
                    .roi = {0, 0, -0.2f, 0.3f, 1, 1, 0.9f, 1.4f}};
        resize_case(r, 13, SHAPE(1, 3, 7, 5));
        r.fill = 0;
        r.roi[2] = 0.8f, r.roi[6] = 0.1f; /* backwards: flips */
        resize_case(r, 13, SHAPE(1, 3, 7, 5));
        r.n = 2;
        memcpy(r.axes, (int64_t[]){2, 3}, 2 * sizeof(int64_t));
        memcpy(r.roi, (float[]){0.1f, 0.2f, 0.9f, 0.7f}, 4 * sizeof(float));
        memcpy(r.sizes, (int64_t[]){4, 1}, 2 * sizeof(int64_t));
        resize_case(r, 18, SHAPE(1, 3, 7, 5));
    }
}

/* ---- Upsample, and Resize 10: asymmetric, floor ---- */

static void old_case(const char *type, int opset, const char *mode, const float *scales) {
    static matrix m[4];
    static double y[MOST], d_x[MOST];
    const pg_shape shape = SHAPE(1, 3, 5, 4);
    const resize r = {.mode = mode, .way = "asymmetric", .nearest = "floor"};
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        op_check_init(&c, type, opset);
        op_check_input(&c, shape);
        op_check_attr_string(&c, "mode", mode);
        if (opset == 7) {
            pg_attr *attr = op_check_attr(&c, "scales", PG_ATTR_FLOATS);
            attr->floats = scales, attr->count = 4;
        } else {
            op_check_const(&c, SHAPE(4), scales);
        }
        op_check_open(&c, (pg_layout)layout);
        for (int k = 0; k < 4; k++)
            make_matrix(&r, k, shape.dims[k], c.op->dst[0].shape.dims[k], (double)scales[k], &m[k]);
        op_check_forward(&c);
        op_check_backward(&c);
        reference(&c, m, 0, y, d_x);
        op_check_dst(&c, 0, y, 1e-5);
        op_check_d_src(&c, 0, d_x, 1e-5);
        op_check_close(&c);
    }
}

Test(resize, of_old_opsets) {
    const float scales[][4] = {{1, 1, 2, 2}, {1, 1, 1.6f, 2.5f}, {1, 1, 0.5f, 0.75f}};
    for (int i = 0; i < 3; i++)
        for (int mode = 0; mode < 2; mode++) {
            const char *name = mode ? "linear" : "nearest";
            old_case("Upsample", 7, name, scales[i]);
            old_case("Upsample", 9, name, scales[i]);
            old_case("Resize", 10, name, scales[i]);
        }
}

/* A scale that no float holds: 3 / (3/4) misses 4 by rounding, and is meant to be 4. */
Test(resize, scales_are_meant_as_fractions) {
    const float scale = 4.0f / 3;
    op_check c;
    op_check_init(&c, "Resize", 10);
    op_check_input(&c, SHAPE(1, 1, 1, 6));
    op_check_attr_string(&c, "mode", "nearest");
    op_check_const(&c, SHAPE(4), (float[]){1, 1, 1, scale});
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    op_check_shape(&c, 0, SHAPE(1, 1, 1, 8));
    const int from[] = {0, 0, 1, 2, 3, 3, 4, 5};
    for (int i = 0; i < 8; i++)
        cr_assert(c.y[0][i] == c.x[0][from[i]]);
    op_check_close(&c);
}

/* Large enough for several threads. */
Test(resize, nearest_twice_in_both_layouts) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        op_check_init(&c, "Resize", 13);
        op_check_input(&c, SHAPE(1, 67, 20, 20));
        op_check_attr_string(&c, "mode", "nearest");
        op_check_absent(&c);
        op_check_const(&c, SHAPE(4), (float[]){1, 1, 2, 2});
        op_check_open(&c, (pg_layout)layout);
        op_check_forward(&c);
        op_check_backward(&c);
        for (int64_t i = 0; i < 67 * 400; i++) {
            int64_t to = i / 400 * 1600 + i % 400 / 20 * 80 + i % 20 * 2;
            const float *y = c.y[0] + to, *d = c.d_y[0] + to, x = c.x[0][i];
            cr_assert(y[0] == x && y[1] == x && y[40] == x && y[41] == x);
            double sum = (double)d[0] + (double)d[1] + (double)d[40] + (double)d[41];
            cr_assert(fabs((double)c.d_x[0][i] - sum) < 1e-6);
        }
        op_check_close(&c);
    }
}

/* ---- refusals ---- */

static void refused(resize r, const char *part) {
    op_check c;
    describe(&c, &r, 18, SHAPE(1, 3, 7, 5));
    op_check_refused(&c, part);
}

Test(resize, refuses) {
    refused((resize){.mode = "lanczos", .scales = {1, 1, 2, 2}}, "lanczos");
    refused((resize){.mode = "linear", .way = "other", .scales = {1, 1, 2, 2}}, "other");
    refused((resize){.mode = "nearest", .nearest = "down", .scales = {1, 1, 2, 2}}, "down");
    refused((resize){.mode = "linear", .scales = {1, 1, 0, 2}}, "scale");
    refused((resize){.mode = "linear", .scales = {1, 1, -1, 2}}, "scale");
    refused((resize){.mode = "linear", .scales = {1, 1, NAN, 2}}, "scale");
    refused((resize){.mode = "linear", .scales = {1, 1, INFINITY, 2}}, "scale");
    refused((resize){.mode = "linear", .scales = {1, 1, 1e-9f, 2}}, "scale");
    refused((resize){.mode = "linear", .scales = {1, 1, 1e30f, 2}}, "scale");
    refused((resize){.mode = "linear", .scales = {1, 1e5f, 1e5f, 1e5f}}, "too large");
    refused((resize){.mode = "linear", .by_size = true, .sizes = {1, 3, 0, 2}}, "size");
    refused((resize){.mode = "linear", .by_size = true, .sizes = {1, 3, -1, 2}}, "size");
    refused((resize){.mode = "linear", .by_size = true, .sizes = {1, 3, INT64_MAX, 2}}, "size");
    refused((resize){.mode = "linear", .by_size = true, .sizes = {1, 3, 2, 2}, .policy = "best"},
            "best");
    refused((resize){.mode = "cubic", .a = NAN, .scales = {1, 1, 2, 2}}, "cubic_coeff_a");
    refused((resize){.mode = "linear",
                     .way = "tf_crop_and_resize",
                     .scales = {1, 1, 2, 2},
                     .roi = {0, 0, INFINITY}},
            "region");
    refused((resize){.mode = "linear", .n = 2, .axes = {2, 4}, .scales = {2, 2}}, "axis 4");
    refused((resize){.mode = "linear", .n = 2, .axes = {2, -2}, .scales = {2, 2}}, "twice");
    op_check c;
    op_check_init(&c, "Resize", 13);
    op_check_input(&c, SHAPE(1, 3, 7, 5));
    op_check_refused(&c, "scales or sizes");
    op_check_init(&c, "Resize", 13);
    op_check_input(&c, SHAPE(1, 3, 7, 5));
    op_check_absent(&c);
    op_check_const(&c, SHAPE(3), NULL);
    op_check_refused(&c, "scales or sizes");
    op_check_init(&c, "Resize", 13);
    op_check_input(&c, SHAPE(1, 3, 7, 5));
    op_check_absent(&c);
    op_check_input(&c, SHAPE(4));
    op_check_refused(&c, "constant");
    op_check_init(&c, "Upsample", 9);
    op_check_input(&c, SHAPE(1, 3, 7, 5));
    op_check_attr_string(&c, "mode", "cubic");
    op_check_const(&c, SHAPE(4), NULL);
    op_check_refused(&c, "cubic");
}
