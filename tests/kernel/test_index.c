#include "tests/support/op_check.h"

enum { MOST = 4096 };

/* Row-major strides of a plain tensor. */
static void plain_strides(const pg_shape *shape, int64_t strides[PG_MAX_RANK]) {
    pg_desc desc = {.shape = *shape};
    pg_desc_strides(&desc, strides);
}

static void coordinates(const pg_shape *shape, int64_t flat, int64_t at[PG_MAX_RANK]) {
    for (int i = shape->rank - 1; i >= 0; i--) {
        at[i] = flat % shape->dims[i];
        flat /= shape->dims[i];
    }
}

/* Where element `at` of the result comes from: an offset in x, -1 for padding. */
typedef int64_t (*source)(const void *what, const pg_shape *src, const int64_t *at);

static void compare(op_check *c, source from, const void *what, double fill) {
    double expected[MOST], d_x[MOST] = {0};
    const pg_shape *dst = &c->op->dst[0].shape;
    op_check_forward(c);
    for (int64_t i = 0; i < pg_shape_count(dst); i++) {
        int64_t at[PG_MAX_RANK];
        coordinates(dst, i, at);
        int64_t k = from(what, &c->op->src[0].shape, at);
        expected[i] = k < 0 ? fill : (double)c->x[0][k];
        if (k >= 0)
            d_x[k] += (double)c->d_y[0][i];
    }
    op_check_dst(c, 0, expected, 0);
    op_check_backward(c);
    op_check_d_src(c, 0, d_x, 1e-6);
}

/* ---- Transpose ---- */

static int64_t transposed_from(const void *what, const pg_shape *src, const int64_t *at) {
    const int64_t *perm = what;
    int64_t strides[PG_MAX_RANK], k = 0;
    plain_strides(src, strides);
    for (int i = 0; i < src->rank; i++)
        k += at[i] * strides[perm[i]];
    return k;
}

static void transpose_case(pg_shape shape, const int64_t *perm, bool given) {
    op_check c;
    op_check_init(&c, "Transpose", 13);
    op_check_input(&c, shape);
    if (given)
        op_check_attr_ints(&c, "perm", (size_t)shape.rank, perm);
    op_check_open(&c, PG_PLAIN);
    pg_shape dst = shape;
    for (int i = 0; i < shape.rank; i++)
        dst.dims[i] = shape.dims[perm[i]];
    op_check_shape(&c, 0, dst);
    compare(&c, transposed_from, perm, 0);
    op_check_close(&c);
}

Test(transpose, permutations) {
    transpose_case(SHAPE(3, 5), (int64_t[]){1, 0}, false);
    transpose_case(SHAPE(1, 2, 3, 4), (int64_t[]){3, 2, 1, 0}, false);
    transpose_case(SHAPE(1, 2, 3, 4), (int64_t[]){0, 2, 3, 1}, true);
    transpose_case(SHAPE(1, 2, 3, 4), (int64_t[]){0, 1, 2, 3}, true);
    transpose_case(SHAPE(1, 2, 6, 4, 5), (int64_t[]){0, 2, 1, 3, 4}, true); /* channel shuffle */
    transpose_case(SHAPE(2, 3, 2, 3, 2, 3), (int64_t[]){5, 0, 3, 2, 4, 1}, true);
    transpose_case(SHAPE(7), (int64_t[]){0}, true);
}

static void transpose_refused(size_t n, const int64_t *perm, const char *part) {
    op_check c;
    op_check_init(&c, "Transpose", 13);
    op_check_input(&c, SHAPE(2, 3, 4));
    op_check_attr_ints(&c, "perm", n, perm);
    op_check_refused(&c, part);
}

Test(transpose, refuses) {
    transpose_refused(2, (int64_t[]){0, 1}, "perm");
    transpose_refused(3, (int64_t[]){0, 1, 1}, "permutation");
    transpose_refused(3, (int64_t[]){0, 1, 3}, "permutation");
    transpose_refused(3, (int64_t[]){0, 1, -1}, "permutation");
    transpose_refused(3, (int64_t[]){0, INT64_MAX, INT64_MIN}, "permutation");
    op_check c;
    op_check_init(&c, "Transpose", 13);
    op_check_refused(&c, "input");
}

/* ---- Slice ---- */

typedef struct slices {
    int n;
    int64_t starts[4], ends[4], axes[4], steps[4];
    bool axes_given, steps_given;
    int64_t first[4], count[4]; /* expected, per axis of [4,5,6,7], worked out by hand */
    int64_t step[4];
} slices;

static int64_t sliced_from(const void *what, const pg_shape *src, const int64_t *at) {
    const slices *s = what;
    int64_t strides[PG_MAX_RANK], k = 0;
    plain_strides(src, strides);
    for (int i = 0; i < src->rank; i++)
        k += (s->first[i] + at[i] * s->step[i]) * strides[i];
    return k;
}

static const slices slice_cases[] = {
    {1, {1}, {3}, {0}, {1}, false, false, {1, 0, 0, 0}, {2, 5, 6, 7}, {1, 1, 1, 1}},
    {1, {-3}, {-1}, {-1}, {1}, true, false, {0, 0, 0, 4}, {4, 5, 6, 2}, {1, 1, 1, 1}},
    {2, {1, 0}, {INT64_MAX, 5}, {3, 2}, {2, 3}, true, true, {0, 0, 0, 1}, {4, 5, 2, 3},
     {1, 1, 3, 2}},
    {1, {-1}, {INT64_MIN}, {1}, {-1}, true, true, {0, 4, 0, 0}, {4, 5, 6, 7}, {1, -1, 1, 1}},
    {1, {INT64_MAX}, {INT64_MIN}, {2}, {-2}, true, true, {0, 0, 5, 0}, {4, 5, 3, 7},
     {1, 1, -2, 1}},
    {1, {-2}, {-6}, {3}, {-3}, true, true, {0, 0, 0, 5}, {4, 5, 6, 2}, {1, 1, 1, -3}},
    {4, {0, 1, 2, 3}, {2, 3, 4, 5}, {0}, {1}, false, false, {0, 1, 2, 3}, {2, 2, 2, 2},
     {1, 1, 1, 1}},
    {0, {0}, {0}, {0}, {0}, false, false, {0}, {4, 5, 6, 7}, {1, 1, 1, 1}},
    {1, {INT64_MIN}, {INT64_MAX}, {0}, {INT32_MAX}, true, true, {0}, {1, 5, 6, 7}, {1, 1, 1, 1}},
};

static void add_slices(op_check *c, const slices *s, bool inputs) {
    const pg_shape n = SHAPE(s->n);
    const size_t count = (size_t)s->n;
    if (inputs) {
        op_check_const_i64(c, n, s->starts);
        op_check_const_i64(c, n, s->ends);
        if (s->axes_given)
            op_check_const_i64(c, n, s->axes);
        else
            op_check_absent(c);
        if (s->steps_given)
            op_check_const_i64(c, n, s->steps);
        return;
    }
    op_check_attr_ints(c, "starts", count, s->starts);
    op_check_attr_ints(c, "ends", count, s->ends);
    if (s->axes_given)
        op_check_attr_ints(c, "axes", count, s->axes);
}

Test(slice, attributes_and_inputs) {
    for (size_t i = 0; i < sizeof slice_cases / sizeof slice_cases[0]; i++)
        for (int inputs = 0; inputs < 2; inputs++) {
            const slices *s = &slice_cases[i];
            if (!inputs && s->steps_given)
                continue;
            op_check c;
            op_check_init(&c, "Slice", inputs ? 13 : 9);
            op_check_input(&c, SHAPE(4, 5, 6, 7));
            add_slices(&c, s, inputs != 0);
            op_check_open(&c, PG_PLAIN);
            op_check_shape(&c, 0, SHAPE(s->count[0], s->count[1], s->count[2], s->count[3]));
            compare(&c, sliced_from, s, 0);
            op_check_close(&c);
        }
}

static void slice_refused(slices s, const char *part) {
    op_check c;
    op_check_init(&c, "Slice", 13);
    op_check_input(&c, SHAPE(4, 5, 6, 7));
    add_slices(&c, &s, true);
    op_check_refused(&c, part);
}

Test(slice, refuses) {
    slice_refused((slices){1, {2}, {2}, {0}, {1}, .axes_given = true}, "shape [0,5,6,7]");
    slice_refused((slices){1, {0}, {3}, {0}, {0}, .axes_given = true, .steps_given = true}, "step");
    slice_refused((slices){1, {0}, {3}, {0}, {INT64_MIN}, .axes_given = true, .steps_given = true},
                  "shape [0,5,6,7]");
    slice_refused((slices){1, {0}, {3}, {4}, {1}, .axes_given = true}, "axis");
    slice_refused((slices){1, {0}, {3}, {INT64_MIN}, {1}, .axes_given = true}, "axis");
    slice_refused((slices){2, {0, 0}, {3, 3}, {1, -3}, {1}, .axes_given = true}, "twice");
    op_check c;
    op_check_init(&c, "Slice", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_refused(&c, "differ in length");
    op_check_init(&c, "Slice", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_const_i64(&c, SHAPE(2), (int64_t[]){0, 0});
    op_check_const_i64(&c, SHAPE(1), (int64_t[]){1});
    op_check_refused(&c, "differ in length");
    op_check_init(&c, "Slice", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_const(&c, SHAPE(1), NULL);
    op_check_refused(&c, "integers");
    op_check_init(&c, "Slice", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_input(&c, SHAPE(1));
    op_check_refused(&c, "constant");
    op_check_init(&c, "Slice", 13);
    op_check_refused(&c, "input");
}

/* ---- Gather ---- */

typedef struct gather {
    int64_t axis, n; /* n = 0: a scalar index */
    int64_t indices[5];
} gather;

static int64_t gathered_from(const void *what, const pg_shape *src, const int64_t *at) {
    const gather *g = what;
    int64_t strides[PG_MAX_RANK], k = 0, axis = g->axis < 0 ? g->axis + src->rank : g->axis;
    plain_strides(src, strides);
    for (int i = 0, next = 0; i < src->rank; i++) {
        int64_t position = i == axis && g->n == 0 ? 0 : at[next++];
        if (i == axis) {
            int64_t index = g->indices[position];
            position = index < 0 ? index + src->dims[i] : index;
        }
        k += position * strides[i];
    }
    return k;
}

static void gather_case(pg_shape shape, gather g) {
    op_check c;
    op_check_init(&c, "Gather", 13);
    op_check_attr_int(&c, "axis", g.axis);
    op_check_input(&c, shape);
    op_check_const_i64(&c, g.n ? SHAPE(g.n) : SHAPE0, g.indices);
    op_check_open(&c, PG_PLAIN);
    cr_assert(c.op->dst[0].shape.rank == shape.rank - (g.n == 0));
    compare(&c, gathered_from, &g, 0);
    op_check_close(&c);
}

Test(gather, scalars_and_lists) {
    for (int64_t axis = -4; axis < 4; axis++) {
        gather_case(SHAPE(4, 3, 5, 6), (gather){axis, 0, {2}});
        gather_case(SHAPE(4, 3, 5, 6), (gather){axis, 0, {-1}});
        gather_case(SHAPE(4, 3, 5, 6), (gather){axis, 1, {1}});
        gather_case(SHAPE(4, 3, 5, 6), (gather){axis, 5, {2, 0, -1, 2, -3}});
    }
    gather_case(SHAPE(6), (gather){0, 0, {4}});
    gather_case(SHAPE(6), (gather){0, 3, {4, 4, -6}});
}

static void gather_refused(int64_t axis, int64_t index, const char *part) {
    op_check c;
    op_check_init(&c, "Gather", 13);
    op_check_attr_int(&c, "axis", axis);
    op_check_input(&c, SHAPE(4, 5));
    op_check_const_i64(&c, SHAPE(1), &index);
    op_check_refused(&c, part);
}

Test(gather, refuses) {
    gather_refused(2, 0, "axis");
    gather_refused(INT64_MIN, 0, "axis");
    gather_refused(0, 4, "index");
    gather_refused(0, -5, "index");
    gather_refused(0, INT64_MIN, "index");
    op_check c;
    op_check_init(&c, "Gather", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_refused(&c, "indices");
    op_check_init(&c, "Gather", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_const(&c, SHAPE(1), NULL);
    op_check_refused(&c, "indices");
    op_check_init(&c, "Gather", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_const_i64(&c, SHAPE(0), (int64_t[]){0});
    op_check_refused(&c, "shape [0,5]");
    op_check_init(&c, "Gather", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_const_i64(&c, SHAPE(1, 1, 1, 1, 1, 1), (int64_t[]){0});
    op_check_refused(&c, "more than 6 axes");
    op_check_init(&c, "Gather", 13);
    op_check_refused(&c, "input");
}

/* ---- Pad ---- */

typedef struct padding {
    const char *mode;
    int64_t pads[8];
} padding;

static int64_t padded_from(const void *what, const pg_shape *src, const int64_t *at) {
    const padding *p = what;
    int64_t strides[PG_MAX_RANK], k = 0;
    plain_strides(src, strides);
    for (int i = 0; i < src->rank; i++) {
        int64_t n = src->dims[i], x = at[i] - p->pads[i];
        if ((x < 0 || x >= n) && p->mode[0] == 'c')
            return -1;
        if (p->mode[0] == 'e')
            x = x < 0 ? 0 : x >= n ? n - 1 : x;
        else
            x = x < 0 ? -x : x >= n ? 2 * (n - 1) - x : x;
        k += x * strides[i];
    }
    return k;
}

static void pad_case(padding p, const float *fill, bool inputs, pg_layout layout) {
    op_check c;
    op_check_init(&c, "Pad", inputs ? 13 : 10);
    op_check_input(&c, SHAPE(1, 3, 4, 5));
    op_check_attr_string(&c, "mode", p.mode);
    if (inputs) {
        op_check_const_i64(&c, SHAPE(8), p.pads);
        if (fill)
            op_check_const(&c, SHAPE0, fill);
    } else {
        op_check_attr_ints(&c, "pads", 8, p.pads);
        if (fill)
            op_check_attr_float(&c, "value", *fill);
    }
    op_check_open(&c, layout);
    const int64_t *b = p.pads, *e = p.pads + 4;
    pg_shape dst = SHAPE(1, 3, 4, 5);
    for (int i = 0; i < 4; i++)
        dst.dims[i] += b[i] + e[i];
    op_check_shape(&c, 0, dst);
    compare(&c, padded_from, &p, fill ? (double)*fill : 0);
    op_check_close(&c);
}

Test(pad, modes_in_both_layouts) {
    const float fill = -2.5f;
    const padding cases[] = {
        {"constant", {0, 0, 1, 2, 0, 0, 3, 1}},  {"constant", {1, 2, 0, 0, 0, 1, 0, 0}},
        {"constant", {0, 0, -1, 2, 0, 0, 1, -2}}, {"edge", {0, 1, 5, 2, 0, 0, 3, 9}},
        {"reflect", {0, 0, 3, 4, 0, 0, 3, 1}},   {"reflect", {0, 2, 0, -1, 0, 1, 2, 3}},
    };
    for (int i = 0; i < 6; i++)
        for (int inputs = 0; inputs < 2; inputs++)
            for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
                pad_case(cases[i], NULL, inputs != 0, (pg_layout)layout);
                if (cases[i].mode[0] == 'c')
                    pad_case(cases[i], &fill, inputs != 0, (pg_layout)layout);
            }
}

static void pad_refused(const char *mode, size_t n, const int64_t *pads, const char *part) {
    op_check c;
    op_check_init(&c, "Pad", 10);
    op_check_input(&c, SHAPE(4, 5));
    op_check_attr_string(&c, "mode", mode);
    op_check_attr_ints(&c, "pads", n, pads);
    op_check_refused(&c, part);
}

Test(pad, refuses) {
    pad_refused("mirror", 4, (int64_t[]){1, 1, 1, 1}, "mirror");
    pad_refused("edge", 2, (int64_t[]){1, 1}, "pads");
    pad_refused("edge", 4, (int64_t[]){-2, 0, -2, 0}, "shape [0,5]");
    pad_refused("edge", 4, (int64_t[]){-2, 0, -3, 0}, "crop more");
    pad_refused("edge", 4, (int64_t[]){INT64_MIN, 0, 0, 0}, "out of range");
    pad_refused("edge", 4, (int64_t[]){0, 0, 0, INT64_MAX}, "out of range");
    pad_refused("edge", 4, (int64_t[]){1 << 20, 1 << 20, 1 << 20, 1 << 20}, "too large");
    op_check c;
    op_check_init(&c, "Pad", 13);
    op_check_input(&c, SHAPE(4, 5));
    op_check_refused(&c, "pads");
    op_check_init(&c, "Pad", 13);
    op_check_input(&c, SHAPE(4));
    op_check_const_i64(&c, SHAPE(2), (int64_t[]){1, 1});
    op_check_const(&c, SHAPE(2), NULL);
    op_check_refused(&c, "scalar");
    op_check_init(&c, "Pad", 18);
    op_check_input(&c, SHAPE(4));
    op_check_const_i64(&c, SHAPE(2), (int64_t[]){1, 1});
    op_check_absent(&c);
    op_check_const_i64(&c, SHAPE(1), (int64_t[]){1});
    op_check_refused(&c, "axis 1");
    op_check_init(&c, "Pad", 13);
    op_check_refused(&c, "input");
}
