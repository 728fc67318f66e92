#include "tests/kernel/index_reference.h"

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
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        op_check_init(&c, "Gather", 13);
        op_check_attr_int(&c, "axis", g.axis);
        op_check_input(&c, shape);
        op_check_const_i64(&c, g.n ? SHAPE(g.n) : SHAPE0, g.indices);
        op_check_open(&c, (pg_layout)layout);
        cr_assert(c.op->dst[0].shape.rank == shape.rank - (g.n == 0));
        compare(&c, gathered_from, &g, 0);
        op_check_close(&c);
    }
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

/* Indices of two axes: [2,3] on axis 1 of [2,5,4] make [2,2,3,4]. */
static int64_t matrix_from(const void *what, const pg_shape *src, const int64_t *at) {
    const int64_t *indices = what;
    return (at[0] * src->dims[1] + indices[at[1] * 3 + at[2]]) * src->dims[2] + at[3];
}

Test(gather, indices_of_two_axes) {
    const int64_t indices[] = {4, 0, 0, 3, 1, 4};
    op_check c;
    op_check_init(&c, "Gather", 13);
    op_check_attr_int(&c, "axis", 1);
    op_check_input(&c, SHAPE(2, 5, 4));
    op_check_const_i64(&c, SHAPE(2, 3), indices);
    op_check_open(&c, PG_PLAIN);
    op_check_shape(&c, 0, SHAPE(2, 2, 3, 4));
    compare(&c, matrix_from, indices, 0);
    op_check_close(&c);
}

/* The channel shuffle of ShuffleNet in one operator. */
Test(gather, shuffles_channels) {
    enum { C = 116 };
    gather g = {.axis = 1, .n = C};
    int64_t order[C];
    for (int i = 0; i < C; i++)
        order[i] = i % 2 * (C / 2) + i / 2;
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        op_check_init(&c, "Gather", 13);
        op_check_attr_int(&c, "axis", g.axis);
        op_check_input(&c, SHAPE(1, C, 28, 28));
        op_check_const_i64(&c, SHAPE(C), order);
        op_check_open(&c, (pg_layout)layout);
        op_check_forward(&c);
        op_check_backward(&c);
        for (int64_t i = 0; i < C * 28 * 28; i++) {
            int64_t from = order[i / 784] * 784 + i % 784;
            cr_assert(c.y[0][i] == c.x[0][from] && c.d_x[0][from] == c.d_y[0][i]);
        }
        op_check_close(&c);
    }
}

/* ---- GatherElements ---- */

typedef struct elements {
    int axis;
    pg_shape shape;
    int64_t indices[24];
} elements;

static int64_t element_from(const void *what, const pg_shape *src, const int64_t *at) {
    const elements *e = what;
    int64_t strides[PG_MAX_RANK], own[PG_MAX_RANK], k = 0, i = 0;
    plain_strides(src, strides);
    plain_strides(&e->shape, own);
    for (int a = 0; a < src->rank; a++)
        i += at[a] * own[a];
    int64_t index = e->indices[i] < 0 ? e->indices[i] + src->dims[e->axis] : e->indices[i];
    for (int a = 0; a < src->rank; a++)
        k += (a == e->axis ? index : at[a]) * strides[a];
    return k;
}

Test(gather_elements, along_each_axis) {
    elements e = {.shape = SHAPE(2, 3, 4)};
    for (e.axis = 0; e.axis < 3; e.axis++) {
        op_check c;
        for (int i = 0; i < 24; i++)
            e.indices[i] = (i * 7) % 6 - 3;
        op_check_init(&c, "GatherElements", 13);
        op_check_attr_int(&c, "axis", e.axis - 3);
        op_check_input(&c, SHAPE(3, 4, 5));
        op_check_const_i64(&c, e.shape, e.indices);
        op_check_open(&c, PG_PLAIN);
        op_check_shape(&c, 0, e.shape);
        compare(&c, element_from, &e, 0);
        op_check_close(&c);
    }
}

static void elements_refused(pg_shape shape, int64_t index, const char *part) {
    int64_t indices[32] = {0};
    op_check c;
    indices[0] = index;
    op_check_init(&c, "GatherElements", 13);
    op_check_input(&c, SHAPE(3, 4));
    op_check_const_i64(&c, shape, indices);
    op_check_refused(&c, part);
}

Test(gather_elements, refuses) {
    elements_refused(SHAPE(2, 2, 1), 0, "rank");
    elements_refused(SHAPE(2, 5), 0, "longer");
    elements_refused(SHAPE(2, 4), 3, "out of range");
    elements_refused(SHAPE(2, 4), INT64_MIN, "out of range");
    elements_refused(SHAPE(0, 4), 0, "shape [0,4]");
}

/* ---- GatherND ---- */

/* Tuples of two on [3,4,5]: [2,2] indices make [2,5]. */
static int64_t pair_from(const void *what, const pg_shape *src, const int64_t *at) {
    const int64_t *t = (const int64_t *)what + 2 * at[0];
    int64_t a = t[0] < 0 ? t[0] + src->dims[0] : t[0], b = t[1] < 0 ? t[1] + src->dims[1] : t[1];
    return (a * src->dims[1] + b) * src->dims[2] + at[1];
}

/* One batch axis, tuples of one on [2,4,5]: [2,3,1] indices make [2,3,5]. */
static int64_t batch_from(const void *what, const pg_shape *src, const int64_t *at) {
    const int64_t *indices = what;
    return (at[0] * src->dims[1] + indices[at[0] * 3 + at[1]]) * src->dims[2] + at[2];
}

Test(gather_nd, tuples_and_batches) {
    const int64_t pairs[] = {2, -1, 0, 3, 2, 3}, single[] = {3, 0, 1, 2, 2, 0};
    op_check c;
    op_check_init(&c, "GatherND", 13);
    op_check_input(&c, SHAPE(3, 4, 5));
    op_check_const_i64(&c, SHAPE(3, 2), pairs);
    op_check_open(&c, PG_PLAIN);
    op_check_shape(&c, 0, SHAPE(3, 5));
    compare(&c, pair_from, pairs, 0);
    op_check_close(&c);
    op_check_init(&c, "GatherND", 13);
    op_check_attr_int(&c, "batch_dims", 1);
    op_check_input(&c, SHAPE(2, 4, 5));
    op_check_const_i64(&c, SHAPE(2, 3, 1), single);
    op_check_open(&c, PG_PLAIN);
    op_check_shape(&c, 0, SHAPE(2, 3, 5));
    compare(&c, batch_from, single, 0);
    op_check_close(&c);
}

static void nd_refused(pg_shape shape, int64_t batch, int64_t index, const char *part) {
    int64_t indices[32] = {0};
    op_check c;
    indices[0] = index;
    op_check_init(&c, "GatherND", 13);
    op_check_attr_int(&c, "batch_dims", batch);
    op_check_input(&c, SHAPE(3, 4));
    op_check_const_i64(&c, shape, indices);
    op_check_refused(&c, part);
}

Test(gather_nd, refuses) {
    nd_refused(SHAPE(2, 3), 0, 0, "do not fit");
    nd_refused(SHAPE(2, 0), 0, 0, "do not fit");
    nd_refused(SHAPE(2, 2), 2, 0, "do not fit");
    nd_refused(SHAPE(2, 2), INT64_MIN, 0, "do not fit");
    nd_refused(SHAPE(2, 1), 1, 0, "batch axis 0");
    nd_refused(SHAPE(2, 2), 0, 3, "out of range");
}
