#include "tests/support/op_check.h"

typedef struct quantiser {
    const char *type;
    pg_elem_type elem;
    int64_t axis, n; /* n = 0: per tensor */
    float scale[70];
    int64_t zero[70];
    double lo, hi;
} quantiser;

/* n scales around 0.05, some negative zero points where the type has them. */
static quantiser make(const char *type, pg_elem_type elem, double lo, double hi, int64_t axis,
                      int64_t n) {
    quantiser q = {.type = type, .elem = elem, .axis = axis, .n = n, .lo = lo, .hi = hi};
    for (int i = 0; i < 70; i++) {
        q.scale[i] = 0.02f + 0.01f * (float)(i % 7);
        q.zero[i] = (lo < 0 ? -5 : 120) + i % 11;
    }
    return q;
}

static void open_case(op_check *c, const quantiser *q, pg_shape shape, pg_layout layout) {
    op_check_init(c, q->type, 13);
    op_check_attr_int(c, "axis", q->axis);
    op_check_input(c, shape);
    op_check_const(c, q->n ? SHAPE(q->n) : SHAPE0, q->scale);
    if (q->elem != PG_ELEM_UNKNOWN) {
        op_check_const_i64(c, q->n ? SHAPE(q->n) : SHAPE0, q->zero);
        c->consts[2].elem = q->elem;
    }
    op_check_open(c, layout);
}

/* Which scale element i of a plain tensor has. */
static int64_t scale_of(const quantiser *q, const pg_shape *shape, int64_t i) {
    int64_t inner = 1, axis = q->axis < 0 ? q->axis + shape->rank : q->axis;
    for (int k = (int)axis + 1; k < shape->rank; k++)
        inner *= shape->dims[k];
    return q->n ? i / inner % q->n : 0;
}

static void quantise_case(quantiser q, pg_shape shape) {
    static double y[1 << 15], d_x[1 << 15];
    int64_t count = pg_shape_count(&shape);
    cr_assert(count <= 1 << 15);
    for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
        op_check c;
        open_case(&c, &q, shape, (pg_layout)layout);
        bool to = strcmp(q.type, "QuantizeLinear") == 0;
        for (int64_t i = 0; i < count; i++) {
            int64_t at = scale_of(&q, &shape, i);
            double scale = (double)q.scale[at];
            double zero = q.elem == PG_ELEM_UNKNOWN ? 0 : (double)q.zero[at];
            /* whole numbers and halves, in and out of range; in float, as the operator divides */
            c.x[0][i] = to ? (float)(i % 641 - 320) * 0.5f * q.scale[at] : (float)(i % 511 - 255);
            double rounded = (double)rintf(c.x[0][i] / q.scale[at]) + zero;
            bool inside = rounded >= q.lo && rounded <= q.hi;
            y[i] = to ? fmin(fmax(rounded, q.lo), q.hi) : ((double)c.x[0][i] - zero) * scale;
            d_x[i] = (double)c.d_y[0][i] * (to ? (inside ? 1 / scale : 0) : scale);
        }
        op_check_forward(&c);
        op_check_backward(&c);
        op_check_dst(&c, 0, y, to ? 0 : 1e-6);
        op_check_d_src(&c, 0, d_x, 1e-6);
        op_check_close(&c);
    }
}

Test(quantize, types_axes_and_layouts) {
    static const struct {
        pg_elem_type elem;
        double lo, hi;
    } types[] = {{PG_ELEM_UNKNOWN, 0, 255},
                 {PG_ELEM_UINT8, 0, 255},
                 {PG_ELEM_INT8, -128, 127},
                 {PG_ELEM_UINT16, 0, 65535},
                 {PG_ELEM_INT16, -32768, 32767}};
    static const char *const names[] = {"QuantizeLinear", "DequantizeLinear"};
    for (int i = 0; i < 10; i++) {
        pg_elem_type elem = types[i / 2].elem;
        double lo = types[i / 2].lo, hi = types[i / 2].hi;
        quantise_case(make(names[i % 2], elem, lo, hi, 1, 0), SHAPE(1, 3, 7, 5));
        quantise_case(make(names[i % 2], elem, lo, hi, 1, 3), SHAPE(2, 3, 7, 5));
        quantise_case(make(names[i % 2], elem, lo, hi, -3, 67), SHAPE(1, 67, 20, 20));
        quantise_case(make(names[i % 2], elem, lo, hi, -1, 5), SHAPE(1, 3, 7, 5));
        quantise_case(make(names[i % 2], elem, lo, hi, 0, 2), SHAPE(2, 3, 4));
        quantise_case(make(names[i % 2], elem, lo, hi, 1, 1), SHAPE(9, 1));
        quantise_case(make(names[i % 2], elem, lo, hi, 1, 0), SHAPE(31013));
    }
}

/* Halves go to the even neighbour, and what is just inside the range is not saturated. */
Test(quantize, rounds_half_to_even_and_saturates) {
    const float x[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.6f, 127.5f, 130, -128.4f, -129};
    const double y[] = {0, 2, 2, 0, -2, 127, 127, 127, -128, -128};
    const double open[] = {1, 1, 1, 1, 1, 1, 0, 0, 1, 0};
    op_check c;
    op_check_init(&c, "QuantizeLinear", 13);
    op_check_input_of(&c, SHAPE(10), x);
    op_check_const(&c, SHAPE0, (float[]){1});
    op_check_const_i64(&c, SHAPE0, (int64_t[]){0});
    c.consts[2].elem = PG_ELEM_INT8;
    op_check_open(&c, PG_PLAIN);
    op_check_forward(&c);
    op_check_backward(&c);
    op_check_dst(&c, 0, y, 0);
    for (int i = 0; i < 10; i++)
        cr_assert((double)c.d_x[0][i] == open[i] * (double)c.d_y[0][i]);
    op_check_close(&c);
}

static void refused(const char *attr, int64_t value, pg_elem_type elem, int n, float scale,
                    const char *part) {
    op_check c;
    float scales[4] = {scale, scale, scale, scale};
    op_check_init(&c, "QuantizeLinear", 21);
    if (attr)
        op_check_attr_int(&c, attr, value);
    op_check_input(&c, SHAPE(1, 3, 4));
    op_check_const(&c, n ? SHAPE(n) : SHAPE0, scales);
    op_check_const_i64(&c, n ? SHAPE(n) : SHAPE0, (int64_t[4]){0});
    c.consts[2].elem = elem;
    op_check_refused(&c, part);
}

Test(quantize, refuses) {
    refused(NULL, 0, PG_ELEM_INT64, 0, 1, "element type 7");
    refused(NULL, 0, PG_ELEM_UNKNOWN, 0, 1, "element type 0");
    refused("axis", 1, PG_ELEM_INT8, 2, 1, "2 scales for an axis of 3");
    refused("axis", 3, PG_ELEM_INT8, 3, 1, "axis 3");
    refused("axis", INT64_MIN, PG_ELEM_INT8, 3, 1, "axis");
    refused("block_size", 2, PG_ELEM_INT8, 3, 1, "blocks");
    refused(NULL, 0, PG_ELEM_INT8, 3, 0, "scale");
    refused(NULL, 0, PG_ELEM_INT8, 3, NAN, "scale");
    op_check c;
    op_check_init(&c, "DequantizeLinear", 13);
    op_check_input(&c, SHAPE(1, 3, 4));
    op_check_input(&c, SHAPE(1));
    op_check_refused(&c, "constant");
    op_check_init(&c, "DequantizeLinear", 13);
    op_check_input(&c, SHAPE(1, 3, 4));
    op_check_const(&c, SHAPE(3), NULL);
    op_check_const_i64(&c, SHAPE(2), (int64_t[]){0, 0});
    op_check_refused(&c, "zero points");
}

/* ---- Cast ---- */

static void cast_case(int64_t to, bool alias, const double *y) {
    const float x[] = {-2.7f, -1, -0.4f, 0, 0.6f, 1, 300.9f};
    op_check c;
    op_check_init(&c, "Cast", 13);
    op_check_attr_int(&c, "to", to);
    op_check_input_of(&c, SHAPE(7), x);
    op_check_open(&c, PG_PLAIN);
    cr_assert(c.op->alias == alias);
    op_check_forward(&c);
    op_check_backward(&c);
    for (int i = 0; i < 7; i++) {
        cr_assert((double)c.y[0][i] == (y ? y[i] : (double)x[i]));
        cr_assert(c.d_x[0][i] == (alias ? c.d_y[0][i] : 0));
    }
    op_check_close(&c);
}

Test(cast, to_floats_integers_and_bool) {
    const double whole[] = {-2, -1, 0, 0, 0, 1, 300}, truth[] = {1, 1, 1, 0, 1, 1, 1};
    cast_case(PG_ELEM_FLOAT, true, NULL);
    cast_case(PG_ELEM_FLOAT16, true, NULL);
    cast_case(PG_ELEM_DOUBLE, true, NULL);
    cast_case(PG_ELEM_INT64, false, whole);
    cast_case(PG_ELEM_INT32, false, whole);
    cast_case(PG_ELEM_BOOL, false, truth);
    const int64_t bad[] = {0, 8, 14, 15, 17, INT64_MIN, INT64_MAX};
    for (int i = 0; i < 7; i++) {
        op_check c;
        op_check_init(&c, "Cast", 13);
        op_check_attr_int(&c, "to", bad[i]);
        op_check_input(&c, SHAPE(2));
        op_check_refused(&c, "element type");
    }
}
