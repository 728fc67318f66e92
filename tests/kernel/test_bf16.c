/* bfloat16: what is rounded is the inputs of products and nothing else. So the references round
 * their inputs as the kernels do, and the bounds are those of float sums (3e-6 of the largest
 * result), a thousand times below one rounding to bfloat16. */
#include "tests/support/op_check.h"

#include "conv_node.h"
#include "kernels/bf16.h"

static const double SUMS = 3e-6;
static const float BETA = 1.75f; /* times a bfloat16 it is an exact float */

static double rounded(float v) { return (double)pg_bf16_widen(pg_bf16_round(v)); }

Test(bf16, rounding_is_to_nearest_even) {
    for (uint32_t i = 0; i < 65536; i++) {
        float v = pg_bf16_widen((pg_bf16)i);
        if (!isnan(v))
            cr_assert_eq(pg_bf16_round(v), i);
        else
            cr_assert(isnan(pg_bf16_widen(pg_bf16_round(v))));
    }
    static const float cases[][2] = {{1.00390625f, 1},          {1.01171875f, 1.015625f},
                                     {1.00390637f, 1.0078125f}, {-1.00390625f, -1},
                                     {3.4e38f, INFINITY},       {1e-40f, 1e-40f}};
    for (int i = 0; i < 6; i++) {
        float got = pg_bf16_widen(pg_bf16_round(cases[i][0]));
        cr_assert(got == cases[i][1] || fabsf(got - cases[i][1]) < 5e-41f, "%.9g became %.9g",
                  cases[i][0], got);
    }
    uint32_t bits = 0x7f800001u; /* a NaN whose upper half alone would be infinity */
    float nan;
    memcpy(&nan, &bits, sizeof nan);
    cr_assert(isnan(pg_bf16_widen(pg_bf16_round(nan))));
}

/* ---- convolution ---- */

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right */
static const conv_case wide[] = {
    {16, 9, 9, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {64, 7, 7, 64, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {17, 9, 8, 33, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},
    {24, 11, 10, 40, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1},
    {35, 8, 9, 51, 3, 2, 1, 1, 1, 2, 3, 2, 1, 2, 2},
    {32, 1, 1, 64, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {48, 1, 20, 47, 1, 5, 1, 1, 1, 1, 1, 0, 2, 0, 2},
    {16, 12, 12, 100, 5, 5, 1, 1, 1, 1, 1, 2, 2, 2, 2},
    {19, 13, 12, 37, 3, 3, 1, 2, 2, 1, 1, 0, 0, 1, 1},
    {64, 6, 5, 128, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
};
enum { WIDE = sizeof wide / sizeof wide[0] };
/* Too narrow to pay, depthwise, grouped: they stay float. */
static const conv_case narrow[] = {
    {3, 17, 19, 16, 7, 7, 1, 2, 2, 1, 1, 3, 3, 3, 3},
    {32, 10, 10, 32, 3, 3, 32, 1, 1, 1, 1, 1, 1, 1, 1},
    {32, 8, 8, 32, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1},
};

typedef struct bench {
    op_check c;
    conv_case k;
    int64_t x_n, z_n, w_n, spatial;
    const float *w, *b;
    float *s, *t;                    /* batch normalisation; NULL: none */
    bool skip;                       /* a second input is added before the activation */
    double *rx, *rw, *rb, *rg, *out; /* reference: inputs, and results as they come */
    uint8_t keep[128];
    float low;
    pg_conv_prune prune;
    pg_group_moments moments; /* of the last backward */
} bench;

static bool weigh(void *user, const pg_group_moments *moments, float *high, float *low) {
    bench *b = user;
    b->moments = *moments;
    *high = BETA;
    *low = b->low;
    return true;
}

enum { NORM = 1, SKIP = 2 };

static void open(bench *b, const conv_case *k, bool forward, bool backward, pg_act act, int extras,
                 int64_t most) {
    memset(b, 0, sizeof *b);
    b->k = *k;
    b->skip = extras & SKIP;
    b->x_n = k->in_c * k->in_h * k->in_w;
    b->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    b->spatial = conv_out_h(k) * conv_out_w(k);
    b->z_n = k->out_c * b->spatial;
    op_check *c = &b->c;
    b->w = conv_node(c, k);
    b->b = op_check_const(c, SHAPE(k->out_c), NULL);
    op_check_create(c);
    if (extras & NORM)
        conv_normalise(c, k->out_c, &b->s, &b->t);
    if (b->skip)
        conv_add_skip(c);
    pg_conv_absorb_activation(c->op, act, -0.5f, 0.75f);
    if (most > 0)
        pg_conv_expect_kept(c->op, most);
    c->op->bf16_forward = forward;
    c->op->bf16_backward = backward;
    op_check_start(c, PG_CHANNELS_LAST);
    b->rx = op_check_doubles(&b->c, b->x_n);
    b->rw = op_check_doubles(&b->c, b->w_n);
    b->rb = op_check_doubles(&b->c, k->out_c);
    b->rg = op_check_doubles(&b->c, b->z_n);
    b->out = op_check_doubles(&b->c, b->x_n > b->z_n ? b->x_n : b->z_n);
}

/* Weights with the batch normalisation inside, in float, then rounded if `round`. */
static void reference_weights(bench *b, bool round) {
    int64_t per_channel = b->w_n / b->k.out_c;
    for (int64_t i = 0; i < b->w_n; i++) {
        double s = b->s ? (double)b->s[i / per_channel] : 1.0;
        float w = (float)(s * (double)b->w[i]);
        b->rw[i] = round ? rounded(w) : (double)w;
    }
    for (int64_t i = 0; i < b->k.out_c; i++)
        b->rb[i] = b->s ? (double)b->s[i] * b->b[i] + b->t[i] : b->b[i];
}

static void check_forward(bench *b, bool round, double lo, double hi) {
    reference_weights(b, round);
    for (int64_t i = 0; i < b->x_n; i++)
        b->rx[i] = round ? rounded(b->c.x[0][i]) : (double)b->c.x[0][i];
    conv_forward(&b->k, b->rx, b->rw, b->rb, b->out);
    double sum = 0, clipped = 0; /* the largest */
    for (int64_t i = 0; i < b->z_n; i++) {
        sum = fmax(sum, fabs(b->out[i]));
        b->out[i] = fmin(fmax(b->out[i] + (b->skip ? b->c.x[1][i] : 0), lo), hi);
        clipped = fmax(clipped, fabs(b->out[i]));
    }
    op_check_forward(&b->c);
    op_check_dst(&b->c, 0, b->out, SUMS * sum / clipped);
}

/* With a split: what it leaves, over all channels rounded before and after its factor, over the kept
 * ones after it only. */
static void check_backward(bench *b, bool round, float lo, float hi) {
    bool short_way = strstr(b->c.op->impl, ", of ") != NULL;
    reference_weights(b, round);
    for (int64_t i = 0; i < b->z_n; i++) {
        float y = b->c.y[0][i], g = y > lo && y < hi ? b->c.d_y[0][i] : 0.0f;
        b->rg[i] = round && !(b->c.io.prune && short_way) ? rounded(g) : (double)g;
        if (b->c.io.prune) {
            float v = (float)b->rg[i] * (b->keep[i / b->spatial] ? BETA : b->low);
            b->rg[i] = round ? rounded(v) : (double)v;
        }
    }
    conv_backward(&b->k, b->rg, b->rw, b->out);
    op_check_backward(&b->c);
    op_check_d_src(&b->c, 0, b->out, SUMS);
    for (int64_t i = 0; b->skip && i < b->z_n; i++) { /* unrounded and whole */
        float y = b->c.y[0][i], g = y > lo && y < hi ? b->c.d_y[0][i] : 0.0f;
        cr_assert_eq(b->c.d_x[1][i], g);
    }
}

static void keep_some(bench *b, int64_t count) {
    memset(b->keep, 0, sizeof b->keep);
    for (int64_t k = 0; k < count; k++)
        b->keep[k * b->k.out_c / count] = 1;
    b->prune = (pg_conv_prune){.keep = b->keep, .lasting = true, .weigh = weigh, .user = b};
    b->c.io.prune = &b->prune;
}

static const struct {
    pg_act act;
    float lo, hi;
} acts[] = {
    {PG_ACT_NONE, -INFINITY, INFINITY}, {PG_ACT_RELU, 0, INFINITY}, {PG_ACT_CLIP, -0.5f, 0.75f}};

Test(bf16, convolution) {
    if (!pg_bf16_native())
        cr_skip_test("this processor has no bfloat16");
    for (int i = 0; i < WIDE; i++)
        for (int a = 0; a < 3; a++)
            for (int extras = 0; extras < 4; extras++)
                for (int forward = 0; forward < 2; forward++) {
                    bench b;
                    open(&b, &wide[i], forward, true, acts[a].act, extras, 0);
                    int found = 0;
                    for (const char *at = b.c.op->impl; (at = strstr(at, "bf16")) != NULL; at++)
                        found++;
                    cr_assert(found > forward, "row %d runs %s", i, b.c.op->impl);
                    check_forward(&b, forward, acts[a].lo, acts[a].hi);
                    check_backward(&b, true, acts[a].lo, acts[a].hi);
                    op_check_close(&b.c);
                }
}

Test(bf16, small_convolutions_stay_float) {
    for (int i = 0; i < 3; i++) {
        bench b[2];
        for (int on = 0; on < 2; on++) {
            open(&b[on], &narrow[i], on, on, PG_ACT_RELU, NORM, 0);
            op_check_forward(&b[on].c);
            op_check_backward(&b[on].c);
        }
        cr_assert_str_eq(b[0].c.op->impl, b[1].c.op->impl);
        cr_assert_arr_eq(b[0].c.y[0], b[1].c.y[0], (size_t)b[0].z_n * sizeof(float));
        cr_assert_arr_eq(b[0].c.d_x[0], b[1].c.d_x[0], (size_t)b[0].x_n * sizeof(float));
        op_check_close(&b[0].c);
        op_check_close(&b[1].c);
    }
}

/* Dropped channels, over the kept ones alone and over all; and scaled ones. The moments are those
 * of the float gradient: they agree with what the float convolution measures to rounding of sums.
 */
Test(bf16, split_gradient) {
    if (!pg_bf16_native())
        cr_skip_test("this processor has no bfloat16");
    for (int i = 0; i < WIDE; i++)
        for (int a = 0; a < 2; a++)
            for (int way = 0; way < 3; way++) { /* kept alone, all with zeros, all scaled */
                bench b, plain;
                int64_t count = wide[i].out_c / 5 + 1;
                int extras = i % 2 ? NORM | SKIP : NORM;
                open(&b, &wide[i], false, true, acts[a].act, extras, way == 0 ? count : 0);
                open(&plain, &wide[i], false, false, acts[a].act, extras, 0);
                b.low = plain.low = way == 2 ? 0.25f : 0;
                keep_some(&b, count);
                keep_some(&plain, count);
                op_check_forward(&b.c);
                op_check_forward(&plain.c);
                check_backward(&b, true, acts[a].lo, acts[a].hi);
                op_check_backward(&plain.c);
                /* terms of sums are rounded to float in some of the ways */
                cr_assert_float_eq(b.moments.var_high, plain.moments.var_high,
                                   1e-6 * plain.moments.mean_square_high, "row %d", i);
                cr_assert_float_eq(
                    b.moments.cov, plain.moments.cov,
                    1e-6 * (plain.moments.mean_square_high + plain.moments.mean_square_low));
                op_check_close(&b.c);
                op_check_close(&plain.c);
            }
}

/* ---- a fully connected layer ---- */

static void check_dense(int64_t m, int64_t n, int64_t k, bool forward, bool trans_b) {
    op_check c;
    op_check_init(&c, "Gemm", 13);
    op_check_attr_int(&c, "transB", trans_b);
    op_check_attr_float(&c, "alpha", 0.75f);
    op_check_input(&c, SHAPE(m, k));
    const float *w = op_check_const(&c, trans_b ? SHAPE(n, k) : SHAPE(k, n), NULL);
    const float *bias = op_check_const(&c, SHAPE(n), NULL);
    op_check_create(&c);
    c.op->bf16_forward = forward;
    c.op->bf16_backward = true;
    op_check_start(&c, PG_PLAIN);
    double *y = op_check_own(&c, pg_calloc((size_t)(m * n), sizeof *y));
    double *d_x = op_check_own(&c, pg_calloc((size_t)(m * k), sizeof *d_x));
    bool vector = m == 1; /* then weights alone, and in both directions or none */
    for (int64_t r = 0; r < m; r++)
        for (int64_t j = 0; j < n; j++) {
            y[r * n + j] = bias[j];
            for (int64_t i = 0; i < k; i++) {
                float v = 0.75f * (trans_b ? w[j * k + i] : w[i * n + j]);
                float x = c.x[0][r * k + i], g = c.d_y[0][r * n + j];
                y[r * n + j] += (forward ? rounded(v) : (double)v) *
                                (forward && !vector ? rounded(x) : (double)x);
                d_x[r * k + i] += (forward || !vector ? rounded(v) : (double)v) *
                                  (vector ? (double)g : rounded(g));
            }
        }
    op_check_forward(&c);
    op_check_dst(&c, 0, y, SUMS);
    op_check_backward(&c);
    op_check_d_src(&c, 0, d_x, SUMS);
    op_check_close(&c);
}

Test(bf16, dense) {
    if (!pg_bf16_native())
        cr_skip_test("this processor has no bfloat16");
    static const int64_t sizes[][3] = {{1, 10, 33},   {1, 1, 1},    {1, 7, 200},
                                       {3, 5, 4},     {4, 1, 9},    {2, 16, 1},
                                       {1, 70, 3000}, {49, 96, 64}, {197, 33, 17}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int variant = 0; variant < 4; variant++)
            check_dense(sizes[i][0], sizes[i][1], sizes[i][2], variant & 1, variant & 2);
}
