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
