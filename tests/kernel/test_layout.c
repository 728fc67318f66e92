#include "tests/support/op_check.h"

/* LayoutConvert is the planner's: it alone has different layouts on its two sides. */
static void convert_case(pg_shape shape, pg_layout from) {
    op_check c;
    const pg_layout to = from == PG_PLAIN ? PG_CHANNELS_LAST : PG_PLAIN;
    op_check_init(&c, "LayoutConvert", 13);
    op_check_input(&c, shape);
    op_check_open(&c, from);
    c.op->dst[0].layout = to;
    op_check_shape(&c, 0, shape);
    double expected[4096];
    const int64_t n = pg_shape_count(&shape);
    for (int64_t i = 0; i < n; i++)
        expected[i] = (double)c.x[0][i];
    op_check_forward(&c);
    op_check_dst(&c, 0, expected, 0);
    int64_t moved = 0;
    for (int64_t i = 0; i < n; i++)
        moved += c.src[0][i] != c.dst[0][i];
    cr_assert((moved > 0) == !pg_layout_same_bytes(&shape));
    op_check_gradient(&c, 1e-3);
    op_check_close(&c);
}

Test(layout, converts_both_ways) {
    for (int from = PG_PLAIN; from <= PG_CHANNELS_LAST; from++) {
        convert_case(SHAPE(1, 3, 4, 5), (pg_layout)from);
        convert_case(SHAPE(1, 34, 5, 7), (pg_layout)from); /* beyond one tile */
        convert_case(SHAPE(2, 3, 4, 5), (pg_layout)from);
        convert_case(SHAPE(1, 6, 9), (pg_layout)from);
        convert_case(SHAPE(1, 4, 2, 3, 5), (pg_layout)from);
        convert_case(SHAPE(1, 8, 1, 1), (pg_layout)from);
        convert_case(SHAPE(1, 1, 4, 6), (pg_layout)from);
    }
}

Test(layout, refuses) {
    op_check c;
    op_check_init(&c, "LayoutConvert", 13);
    op_check_refused(&c, "input");
    op_check_init(&c, "LayoutConvert", 13);
    op_check_const(&c, SHAPE(1, 2, 3, 3), NULL);
    op_check_refused(&c, "input");
}

/* ---- operators that may find their result in place ---- */

static int64_t offset_of(const pg_desc *desc, const int64_t *at) {
    int64_t strides[PG_MAX_RANK], offset = 0;
    pg_desc_strides(desc, strides);
    for (int k = 0; k < desc->shape.rank; k++)
        offset += at[k] * strides[k];
    return offset;
}

static void coordinates(const pg_shape *shape, int64_t index, int64_t at[PG_MAX_RANK]) {
    for (int k = shape->rank - 1; k >= 0; k--) {
        at[k] = index % shape->dims[k];
        index /= shape->dims[k];
    }
}

/* Looks at every element: `perm` NULL for a Reshape, which keeps plain order. */
static bool in_place(const pg_op *op, const int64_t *perm) {
    int64_t to[PG_MAX_RANK], from[PG_MAX_RANK];
    for (int64_t i = 0; i < pg_shape_count(&op->dst[0].shape); i++) {
        coordinates(&op->dst[0].shape, i, to);
        coordinates(&op->src[0].shape, i, from);
        for (int k = 0; perm && k < op->dst[0].shape.rank; k++)
            from[perm[k]] = to[k];
        if (offset_of(&op->src[0], from) != offset_of(&op->dst[0], to))
            return false;
    }
    return true;
}

/* Under all four pairs of layouts; returns the number of those under which nothing has to move. */
static int count_in_place(op_check *c, const int64_t *perm) {
    int found = 0;
    op_check_create(c);
    for (int pair = 0; pair < 4; pair++) {
        pg_desc *src = &c->op->src[0], *dst = &c->op->dst[0];
        src->layout = pair & 1 ? PG_CHANNELS_LAST : PG_PLAIN;
        dst->layout = pair & 2 ? PG_CHANNELS_LAST : PG_PLAIN;
        if ((src->layout && src->shape.rank < 3) || (dst->layout && dst->shape.rank < 3))
            continue;
        bool said = c->op->cls->same_bytes(c->op), is = in_place(c->op, perm);
        cr_assert(is || !said, "pair %d: bytes would have to move", pair);
        cr_assert(said || !is || !perm, "pair %d: nothing has to move", pair);
        found += said;
    }
    op_check_close(c);
    return found;
}

static int transposes_in_place(pg_shape shape, const int64_t *perm) {
    op_check c;
    op_check_init(&c, "Transpose", 13);
    op_check_input(&c, shape);
    op_check_attr_ints(&c, "perm", (size_t)shape.rank, perm);
    return count_in_place(&c, perm);
}

Test(layout, transposes_that_move_nothing) {
    pg_shape image = SHAPE(1, 3, 4, 5);
    cr_assert(transposes_in_place(image, (int64_t[]){0, 2, 3, 1}) == 1); /* last to plain */
    cr_assert(transposes_in_place(image, (int64_t[]){0, 3, 1, 2}) == 1); /* plain to last */
    cr_assert(transposes_in_place(image, (int64_t[]){0, 1, 2, 3}) == 2);
    cr_assert(transposes_in_place(image, (int64_t[]){0, 1, 3, 2}) == 0);
    cr_assert(transposes_in_place(image, (int64_t[]){0, 3, 2, 1}) == 0);
    cr_assert(transposes_in_place(SHAPE(1, 6, 7), (int64_t[]){0, 2, 1}) == 2);
    cr_assert(transposes_in_place(SHAPE(1, 6, 1, 1), (int64_t[]){0, 2, 3, 1}) == 4);
    cr_assert(transposes_in_place(SHAPE(2, 3, 4, 5), (int64_t[]){0, 2, 3, 1}) == 1);
    cr_assert(transposes_in_place(SHAPE(3, 4), (int64_t[]){1, 0}) == 0);
    cr_assert(transposes_in_place(SHAPE(1, 2, 3, 4, 5), (int64_t[]){0, 2, 3, 4, 1}) == 1);
}

static int reshapes_in_place(pg_shape from, pg_shape to) {
    op_check c;
    op_check_init(&c, "Reshape", 13);
    op_check_input(&c, from);
    op_check_const_i64(&c, SHAPE(to.rank), to.dims);
    return count_in_place(&c, NULL);
}

Test(layout, reshapes_that_move_nothing) {
    cr_assert(reshapes_in_place(SHAPE(1, 3, 4, 5), SHAPE(1, 3, 20)) == 2);
    cr_assert(reshapes_in_place(SHAPE(1, 3, 20), SHAPE(1, 3, 4, 5)) == 2);
    cr_assert(reshapes_in_place(SHAPE(1, 3, 4, 5), SHAPE(1, 3, 5, 4)) == 2);
    cr_assert(reshapes_in_place(SHAPE(1, 4, 4, 5), SHAPE(1, 2, 2, 4, 5)) == 1);
    cr_assert(reshapes_in_place(SHAPE(1, 3, 4, 5), SHAPE(1, 12, 5)) == 1);
    cr_assert(reshapes_in_place(SHAPE(2, 3, 4, 5), SHAPE(1, 3, 2, 4, 5)) == 1);
    cr_assert(reshapes_in_place(SHAPE(1, 3, 4, 5), SHAPE(1, 60)) == 1);
}
