#include "tests/kernel/index_reference.h"

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
        else if (p->mode[0] == 'w')
            x = x < 0 ? x + n : x >= n ? x - n : x;
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
        {"constant", {0, 0, 1, 2, 0, 0, 3, 1}},   {"constant", {1, 2, 0, 0, 0, 1, 0, 0}},
        {"constant", {0, 0, -1, 2, 0, 0, 1, -2}}, {"edge", {0, 1, 5, 2, 0, 0, 3, 9}},
        {"reflect", {0, 0, 3, 4, 0, 0, 3, 1}},    {"reflect", {0, 2, 0, -1, 0, 1, 2, 3}},
        {"wrap", {0, 2, 4, 5, 0, 3, 1, -2}},
    };
    for (int i = 0; i < 7; i++)
        for (int inputs = 0; inputs < 2; inputs++)
            for (int layout = PG_PLAIN; layout <= PG_CHANNELS_LAST; layout++) {
                pad_case(cases[i], NULL, inputs != 0, (pg_layout)layout);
                if (cases[i].mode[0] == 'c')
                    pad_case(cases[i], &fill, inputs != 0, (pg_layout)layout);
            }
}

Test(pad, named_axes) {
    const padding p = {"edge", {0, 0, 2, 1, 0, 0, 4, 3}};
    op_check c;
    op_check_init(&c, "Pad", 18);
    op_check_attr_string(&c, "mode", p.mode);
    op_check_input(&c, SHAPE(1, 3, 4, 5));
    op_check_const_i64(&c, SHAPE(4), (int64_t[]){1, 2, 3, 4});
    op_check_absent(&c);
    op_check_const_i64(&c, SHAPE(2), (int64_t[]){3, -2});
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, SHAPE(1, 3, 10, 9));
    compare(&c, padded_from, &p, 0);
    op_check_close(&c);
}

/* A padded picture and a padded feature map: rows joined, and rows of one pixel. */
Test(pad, large) {
    const padding p = {"constant", {0, 0, 3, 3, 0, 0, 3, 3}};
    for (int channels = 3; channels <= 67; channels += 64) {
        op_check c;
        op_check_init(&c, "Pad", 10);
        op_check_attr_ints(&c, "pads", 8, p.pads);
        op_check_input(&c, SHAPE(1, channels, 33, 35));
        op_check_open(&c, PG_CHANNELS_LAST);
        compare(&c, padded_from, &p, 0);
        op_check_close(&c);
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
