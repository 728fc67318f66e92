#include "tests/kernel/index_reference.h"

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
    {2,
     {1, 0},
     {INT64_MAX, 5},
     {3, 2},
     {2, 3},
     true,
     true,
     {0, 0, 0, 1},
     {4, 5, 2, 3},
     {1, 1, 3, 2}},
    {1, {-1}, {INT64_MIN}, {1}, {-1}, true, true, {0, 4, 0, 0}, {4, 5, 6, 7}, {1, -1, 1, 1}},
    {1, {INT64_MAX}, {INT64_MIN}, {2}, {-2}, true, true, {0, 0, 5, 0}, {4, 5, 3, 7}, {1, 1, -2, 1}},
    {1, {-2}, {-6}, {3}, {-3}, true, true, {0, 0, 0, 5}, {4, 5, 6, 2}, {1, 1, 1, -3}},
    {4,
     {0, 1, 2, 3},
     {2, 3, 4, 5},
     {0},
     {1},
     false,
     false,
     {0, 1, 2, 3},
     {2, 2, 2, 2},
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

Test(slice, attributes_and_inputs_in_both_layouts) {
    for (size_t i = 0; i < 2 * sizeof slice_cases / sizeof slice_cases[0]; i++)
        for (int inputs = 0; inputs < 2; inputs++) {
            const slices *s = &slice_cases[i / 2];
            if (!inputs && s->steps_given)
                continue;
            op_check c;
            op_check_init(&c, "Slice", inputs ? 13 : 9);
            op_check_input(&c, SHAPE(4, 5, 6, 7));
            add_slices(&c, s, inputs != 0);
            op_check_open(&c, i % 2 ? PG_CHANNELS_LAST : PG_PLAIN);
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

/* Large enough for several threads, and for rows that are joined or not. */
Test(slice, large) {
    const slices s = {
        2, {1, 3}, {40, 60}, {2, 3}, {1, 2}, .first = {0, 0, 1, 3}, .step = {1, 1, 1, 2}};
    for (int channels = 1; channels <= 70; channels += 23) {
        op_check c;
        op_check_init(&c, "Slice", 13);
        op_check_input(&c, SHAPE(1, channels, 41, 61));
        op_check_const_i64(&c, SHAPE(2), s.starts);
        op_check_const_i64(&c, SHAPE(2), s.ends);
        op_check_const_i64(&c, SHAPE(2), s.axes);
        op_check_const_i64(&c, SHAPE(2), s.steps);
        op_check_open(&c, channels % 2 ? PG_CHANNELS_LAST : PG_PLAIN);
        compare(&c, sliced_from, &s, 0);
        op_check_close(&c);
    }
}

/* ---- Expand, Tile ---- */

/* Positions along an axis repeat every dims[i]: what Tile does, and Expand of an axis of 1. */
static int64_t repeated_from(const void *what, const pg_shape *src, const int64_t *at) {
    int added = *(const int *)what;
    int64_t strides[PG_MAX_RANK], k = 0;
    plain_strides(src, strides);
    for (int i = 0; i < src->rank; i++)
        k += at[added + i] % src->dims[i] * strides[i];
    return k;
}

static void repeat_case(const char *type, pg_shape in, int n, const int64_t *list, pg_shape out) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        int added = out.rank - in.rank;
        op_check_init(&c, type, 13);
        op_check_input(&c, in);
        op_check_const_i64(&c, SHAPE(n), list);
        op_check_open(&c, (pg_layout)layout);
        op_check_shape(&c, 0, out);
        compare(&c, repeated_from, &added, 0);
        op_check_close(&c);
    }
}

Test(expand, broadcasts) {
    repeat_case("Expand", SHAPE(1, 3, 1, 5), 4, (int64_t[]){1, 3, 4, 5}, SHAPE(1, 3, 4, 5));
    repeat_case("Expand", SHAPE(1, 3, 1, 1), 4, (int64_t[]){1, 1, 4, 5}, SHAPE(1, 3, 4, 5));
    repeat_case("Expand", SHAPE(3, 1), 3, (int64_t[]){2, 1, 6}, SHAPE(2, 3, 6));
    repeat_case("Expand", SHAPE(3, 4), 1, (int64_t[]){1}, SHAPE(3, 4));
    repeat_case("Expand", SHAPE(1, 1, 1, 1), 4, (int64_t[]){2, 70, 3, 5}, SHAPE(2, 70, 3, 5));
    repeat_case("Expand", SHAPE(1, 80, 1, 1), 4, (int64_t[]){1, 1, 30, 30}, SHAPE(1, 80, 30, 30));
}

Test(tile, repeats) {
    repeat_case("Tile", SHAPE(1, 3, 2, 5), 4, (int64_t[]){1, 1, 1, 1}, SHAPE(1, 3, 2, 5));
    repeat_case("Tile", SHAPE(1, 3, 2, 5), 4, (int64_t[]){2, 3, 1, 2}, SHAPE(2, 9, 2, 10));
    repeat_case("Tile", SHAPE(7), 1, (int64_t[]){5}, SHAPE(35));
}

static void repeat_refused(const char *type, int n, const int64_t *list, const char *part) {
    op_check c;
    op_check_init(&c, type, 13);
    op_check_input(&c, SHAPE(3, 4));
    op_check_const_i64(&c, SHAPE(n), list);
    op_check_refused(&c, part);
}

Test(repeat, refuses) {
    repeat_refused("Expand", 2, (int64_t[]){2, 4}, "broadcast");
    repeat_refused("Expand", 2, (int64_t[]){3, -1}, "broadcast");
    repeat_refused("Expand", 3, (int64_t[]){0, 3, 4}, "shape [0,3,4]");
    repeat_refused("Expand", 7, (int64_t[]){1, 1, 1, 1, 1, 3, 4}, "at most 6");
    repeat_refused("Expand", 3, (int64_t[]){INT64_MAX, 3, 4}, "too large");
    repeat_refused("Tile", 1, (int64_t[]){2}, "one for each axis");
    repeat_refused("Tile", 2, (int64_t[]){INT64_MAX, 1}, "out of range");
    repeat_refused("Tile", 2, (int64_t[]){-1, 1}, "out of range");
    repeat_refused("Tile", 2, (int64_t[]){0, 1}, "shape [0,4]");
    repeat_refused("Tile", 2, (int64_t[]){1 << 30, 1 << 30}, "too large");
}

/* ---- Trilu ---- */

typedef struct triangle {
    int64_t upper, k;
} triangle;

static int64_t triangle_from(const void *what, const pg_shape *src, const int64_t *at) {
    const triangle *t = what;
    int64_t strides[PG_MAX_RANK], from = 0, row = at[src->rank - 2], column = at[src->rank - 1];
    plain_strides(src, strides);
    for (int i = 0; i < src->rank; i++)
        from += at[i] * strides[i];
    return (t->upper ? column - row >= t->k : column - row <= t->k) ? from : -1;
}

Test(trilu, diagonals) {
    const int64_t far[] = {INT64_MIN, -3, -1, 0, 2, INT64_MAX};
    for (int i = 0; i < 12; i++) {
        triangle t = {i % 2, far[i / 2]};
        op_check c;
        op_check_init(&c, "Trilu", 14);
        op_check_attr_int(&c, "upper", t.upper);
        op_check_input(&c, SHAPE(2, 3, 4, 5));
        op_check_const_i64(&c, SHAPE0, &t.k);
        op_check_open(&c, PG_PLAIN);
        compare(&c, triangle_from, &t, 0);
        op_check_close(&c);
    }
    op_check c;
    op_check_init(&c, "Trilu", 14);
    op_check_input(&c, SHAPE(3));
    op_check_refused(&c, "matrix");
}

/* ---- DepthToSpace, SpaceToDepth ---- */

typedef struct blocks {
    int64_t b;
    bool crd;
} blocks;

static int64_t depth_from(const void *what, const pg_shape *src, const int64_t *at) {
    const blocks *s = what;
    int64_t b = s->b, c = src->dims[1] / (b * b), y = at[2] % b, x = at[3] % b;
    int64_t channel = s->crd ? (at[1] * b + y) * b + x : (y * b + x) * c + at[1];
    return ((at[0] * src->dims[1] + channel) * src->dims[2] + at[2] / b) * src->dims[3] + at[3] / b;
}

static int64_t space_from(const void *what, const pg_shape *src, const int64_t *at) {
    int64_t b = ((const blocks *)what)->b, c = src->dims[1], block = at[1] / c;
    return ((at[0] * c + at[1] % c) * src->dims[2] + at[2] * b + block / b) * src->dims[3] +
           at[3] * b + block % b;
}

static void depth_case(pg_shape shape, blocks s, bool to_depth, pg_layout layout) {
    op_check c;
    op_check_init(&c, to_depth ? "SpaceToDepth" : "DepthToSpace", 13);
    op_check_attr_int(&c, "blocksize", s.b);
    if (s.crd)
        op_check_attr_string(&c, "mode", "CRD");
    op_check_input(&c, shape);
    op_check_open(&c, layout);
    compare(&c, to_depth ? space_from : depth_from, &s, 0);
    op_check_close(&c);
}

Test(depth, both_ways_in_both_layouts) {
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++)
        for (int64_t b = 1; b <= 3; b++)
            for (int64_t c = 1; c <= 70; c += 23) {
                depth_case(SHAPE(2, c * b * b, 3, 5), (blocks){b, false}, false, (pg_layout)layout);
                depth_case(SHAPE(2, c * b * b, 3, 5), (blocks){b, true}, false, (pg_layout)layout);
                depth_case(SHAPE(2, c, 3 * b, 5 * b), (blocks){b, false}, true, (pg_layout)layout);
            }
}

static void depth_refused(const char *type, int64_t b, pg_shape shape, const char *part) {
    op_check c;
    op_check_init(&c, type, 13);
    op_check_attr_int(&c, "blocksize", b);
    op_check_input(&c, shape);
    op_check_refused(&c, part);
}

Test(depth, refuses) {
    depth_refused("DepthToSpace", 2, SHAPE(1, 6, 3, 3), "divide");
    depth_refused("DepthToSpace", 0, SHAPE(1, 4, 3, 3), "blocksize");
    depth_refused("DepthToSpace", INT64_MAX, SHAPE(1, 4, 3, 3), "blocksize");
    depth_refused("DepthToSpace", 2, SHAPE(4, 3, 3), "[N,C,H,W]");
    depth_refused("SpaceToDepth", 2, SHAPE(1, 4, 3, 4), "divide");
    depth_refused("SpaceToDepth", -1, SHAPE(1, 4, 4, 4), "blocksize");
}
