/* Convolution against plain double loops: shapes, activation, folded batch normalisation, the
 * channel statistic, and ParchGrad's partition of the gradient. */
#include "tests/support/op_check.h"

#include "conv_node.h"

/* One convolution on the bench, with the same numbers in double. */
typedef struct fixture {
    op_check c;
    conv_case k;
    int64_t x_n, w_n, z_n, spatial;
    double *x, *w, *b;     /* b NULL: none */
    double *z, *g, *d_x;   /* reference results */
    float *s, *t;          /* batch normalisation, NULL: none */
    bool skip;             /* a second input is added */
} fixture;

/* Created, not started: the test may absorb things first. */
static void begin(fixture *f, const conv_case *k, bool bias) {
    memset(f, 0, sizeof *f);
    f->k = *k;
    f->x_n = k->in_c * k->in_h * k->in_w;
    f->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    f->spatial = conv_out_h(k) * conv_out_w(k);
    f->z_n = k->out_c * f->spatial;
    f->w = op_check_widen(&f->c, conv_node(&f->c, k), f->w_n);
    op_check_attr_ints(&f->c, "kernel_shape", 2, (int64_t[]){k->k_h, k->k_w});
    if (bias)
        f->b = op_check_widen(&f->c, op_check_const(&f->c, SHAPE(k->out_c), NULL), k->out_c);
    op_check_create(&f->c);
}

static void absorb(fixture *f) { conv_normalise(&f->c, f->k.out_c, &f->s, &f->t); }

/* A residual addition: the bench's second input. */
static void absorb_add(fixture *f) {
    conv_add_skip(&f->c);
    f->skip = true;
}

static void start(fixture *f) {
    op_check_start(&f->c, PG_CHANNELS_LAST);
    f->x = op_check_widen(&f->c, f->c.x[0], f->x_n);
    f->z = op_check_doubles(&f->c, f->z_n);
    f->g = op_check_doubles(&f->c, f->z_n);
    f->d_x = op_check_doubles(&f->c, f->x_n);
    conv_forward(&f->k, f->x, f->w, f->b, f->z);
}

static double scale_of(const fixture *f, int64_t i) { return f->s ? f->s[i / f->spatial] : 1.0; }
static double shift_of(const fixture *f, int64_t i) { return f->t ? f->t[i / f->spatial] : 0.0; }

/* s z + t + skip */
static double before_act(const fixture *f, int64_t i) {
    return scale_of(f, i) * f->z[i] + shift_of(f, i) + (f->skip ? f->c.x[1][i] : 0);
}

/* y = act(s z + t + skip) into g as a work array; returns it. */
static const double *expected_dst(fixture *f, double lo, double hi) {
    for (int64_t i = 0; i < f->z_n; i++)
        f->g[i] = fmin(fmax(before_act(f, i), lo), hi);
    return f->g;
}

/* g = dL/dz for the bench's seed through act, and d_x from it. */
static void expected_gradient(fixture *f, double lo, double hi) {
    for (int64_t i = 0; i < f->z_n; i++) {
        double y = before_act(f, i);
        f->g[i] = y > lo && y < hi ? scale_of(f, i) * f->c.d_y[0][i] : 0;
    }
    conv_backward(&f->k, f->g, f->w, f->d_x);
}

/* The skip's gradient is what the activation lets through, to the bit. */
static void check_skip(const fixture *f, double lo, double hi) {
    for (int64_t i = 0; f->skip && i < f->z_n; i++) {
        double y = before_act(f, i);
        cr_assert_eq(f->c.d_x[1][i], y > lo && y < hi ? f->c.d_y[0][i] : 0);
    }
}

static void check_plain(fixture *f, double lo, double hi) {
    op_check_forward(&f->c);
    op_check_dst(&f->c, 0, expected_dst(f, lo, hi), 1e-5); /* clipping hides how large y was */
    op_check_backward(&f->c);
    expected_gradient(f, lo, hi);
    op_check_d_src(&f->c, 0, f->d_x, 2e-6);
    check_skip(f, lo, hi);
}

Test(conv, forward_and_backward_match_plain_loops) {
    for (int i = 0; i < CONV_GRID; i++)
        for (int bias = 0; bias < 2; bias++) {
            fixture f;
            begin(&f, &conv_grid[i], bias);
            start(&f);
            cr_assert(strstr(f.c.op->impl, "ref") == NULL, "grid row %d runs %s", i, f.c.op->impl);
            check_plain(&f, -INFINITY, INFINITY);
            op_check_close(&f.c);
        }
}

Test(conv, any_geometry_matches_plain_loops) {
    uint64_t state = 11;
    for (int i = 0; i < 1000; i++) {
        conv_case k = conv_any(&state);
        fixture f;
        begin(&f, &k, i % 2);
        start(&f);
        cr_assert(strstr(f.c.op->impl, "ref") == NULL, "case %d runs %s", i, f.c.op->impl);
        check_plain(&f, -INFINITY, INFINITY);
        op_check_close(&f.c);
    }
}

Test(conv, activations_are_fused) {
    for (int i = 0; i < CONV_GRID; i++) {
        fixture f;
        begin(&f, &conv_grid[i], true);
        pg_conv_absorb_activation(f.c.op, PG_ACT_RELU, 0, 0);
        start(&f);
        check_plain(&f, 0, INFINITY);
        op_check_close(&f.c);

        begin(&f, &conv_grid[i], true);
        absorb(&f);
        pg_conv_absorb_activation(f.c.op, PG_ACT_CLIP, -0.25f, 0.75f);
        start(&f);
        check_plain(&f, -0.25, 0.75);
        op_check_close(&f.c);
    }
}

Test(conv, backward_agrees_with_finite_differences) {
    for (int i = 0; i < CONV_GRID; i++) {
        fixture f;
        begin(&f, &conv_grid[i], true);
        f.c.kink = 2e-3;
        if (i % 2)
            absorb(&f);
        if (i % 3 == 0)
            pg_conv_absorb_activation(f.c.op, PG_ACT_RELU, 0, 0);
        start(&f);
        if (f.x_n < 1500)
            op_check_gradient(&f.c, 5e-3);
        op_check_close(&f.c);
    }
}

Test(conv, gradient_is_zero_on_the_edges_of_the_activation) {
    conv_case k = {1, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0};
    fixture f;
    op_check_init(&f.c, "Conv", 17);
    op_check_input_of(&f.c, SHAPE(1, 1, 1, k.in_w), (float[]){0, 3, 6});
    op_check_const(&f.c, SHAPE(1, 1, 1, 1), (float[]){1});
    op_check_create(&f.c);
    pg_conv_absorb_activation(f.c.op, PG_ACT_CLIP, 0, 6);
    op_check_start(&f.c, PG_CHANNELS_LAST);
    for (int i = 0; i < 3; i++)
        f.c.d_y[0][i] = 1;
    op_check_forward(&f.c);
    op_check_backward(&f.c);
    op_check_d_src(&f.c, 0, (double[]){0, 1, 0}, 0);
    op_check_close(&f.c);
}

Test(conv, one_dimensional) {
    conv_case k = {6, 1, 21, 9, 1, 5, 3, 1, 2, 1, 2, 0, 3, 0, 1};
    op_check c;
    op_check_init(&c, "Conv", 13);
    op_check_attr_int(&c, "group", k.groups);
    op_check_attr_ints(&c, "strides", 1, &k.stride_w);
    op_check_attr_ints(&c, "dilations", 1, &k.dilation_w);
    op_check_attr_ints(&c, "pads", 2, (int64_t[]){k.left, k.right});
    op_check_input(&c, SHAPE(1, k.in_c, k.in_w));
    const float *w = op_check_const(&c, SHAPE(k.out_c, k.in_c / k.groups, k.k_w), NULL);
    op_check_open(&c, PG_CHANNELS_LAST);
    op_check_shape(&c, 0, SHAPE(1, k.out_c, conv_out_w(&k)));
    cr_assert(pg_op_is_conv(c.op));
    double x[6 * 21], wd[9 * 2 * 5], z[9 * 21];
    for (int i = 0; i < 6 * 21; i++)
        x[i] = c.x[0][i];
    for (int i = 0; i < 9 * 2 * 5; i++)
        wd[i] = w[i];
    conv_forward(&k, x, wd, NULL, z);
    op_check_forward(&c);
    op_check_dst(&c, 0, z, 2e-6);
    op_check_gradient(&c, 5e-3);
    op_check_close(&c);
}

Test(conv, auto_pad) {
    static const struct {
        const char *mode;
        int64_t in, stride, k, dilation, begin, end;
    } rows[] = {
        {"SAME_UPPER", 9, 2, 3, 1, 1, 1}, {"SAME_UPPER", 8, 2, 3, 1, 0, 1},
        {"SAME_LOWER", 8, 2, 3, 1, 1, 0}, {"SAME_UPPER", 8, 3, 1, 1, 0, 0},
        {"VALID", 8, 2, 3, 1, 0, 0},      {"SAME_LOWER", 7, 1, 4, 1, 2, 1},
        {"SAME_UPPER", 7, 1, 4, 1, 1, 2}, {"SAME_UPPER", 8, 1, 2, 3, 1, 2},
        {"SAME_LOWER", 9, 2, 4, 2, 3, 3}, {"NOTSET", 8, 2, 3, 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t n = rows[i].in, s = rows[i].stride, b = rows[i].begin, e = rows[i].end;
        int64_t d = rows[i].dilation;
        conv_case k = {2, n, n, 3, rows[i].k, rows[i].k, 1, s, s, d, d, b, b, e, e};
        op_check c;
        op_check_init(&c, "Conv", 17);
        op_check_attr_string(&c, "auto_pad", rows[i].mode);
        op_check_attr_ints(&c, "strides", 2, (int64_t[]){s, s});
        op_check_attr_ints(&c, "dilations", 2, (int64_t[]){d, d});
        op_check_input(&c, SHAPE(1, 2, n, n));
        const float *w = op_check_const(&c, SHAPE(3, 2, k.k_h, k.k_w), NULL);
        op_check_open(&c, PG_CHANNELS_LAST);
        op_check_shape(&c, 0, SHAPE(1, 3, conv_out_h(&k), conv_out_w(&k)));
        double x[2 * 81], wd[3 * 2 * 16], z[3 * 81];
        for (int64_t j = 0; j < 2 * n * n; j++)
            x[j] = c.x[0][j];
        for (int64_t j = 0; j < 6 * k.k_h * k.k_w; j++)
            wd[j] = w[j];
        conv_forward(&k, x, wd, NULL, z);
        op_check_forward(&c);
        op_check_dst(&c, 0, z, 2e-6);
        op_check_close(&c);
    }
}

/* ---- batch normalisation and the channel statistic ---- */

Test(conv, absorbed_batch_norm_matches_plain_loops) {
    for (int i = 0; i < CONV_GRID; i++)
        for (int bias = 0; bias < 2; bias++) {
            fixture f;
            begin(&f, &conv_grid[i], bias);
            absorb(&f);
            start(&f);
            check_plain(&f, -INFINITY, INFINITY);
            op_check_close(&f.c);
        }
}

Test(conv, batch_norm_that_hides_z_is_not_absorbed) {
    fixture f;
    begin(&f, &conv_grid[5], true);
    float one = 1, zero = 0, tiny = 1e-4f, nan = NAN, far = 1.1e3f, near = 0.9e3f;
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &zero, &one, &one));
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &nan, &one, &one));
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &one, &nan, &one));
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &one, &one, &tiny));
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &one, &far, &one));
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &tiny, &one, &one));
    cr_assert(pg_conv_absorb_batch_norm(f.c.op, &one, &near, &one));
    cr_assert(!pg_conv_absorb_batch_norm(f.c.op, &one, &zero, &one), "absorbed twice");
    op_check_close(&f.c);
}

static void check_gap(fixture *f, double lo, double hi) {
    check_plain(f, lo, hi);
    const float *gap = pg_conv_gap(f->c.op, &f->c.io);
    cr_assert(gap);
    double expected[64];
    for (int64_t c = 0; c < f->k.out_c; c++) {
        expected[c] = 0;
        for (int64_t p = 0; p < f->spatial; p++)
            expected[c] += fmax(f->z[c * f->spatial + p], 0) / (double)f->spatial;
    }
    op_check_near(gap, expected, f->k.out_c, 3e-6, "gap");
}

Test(conv, gap_is_of_z_before_batch_norm_and_activation) {
    for (int i = 0; i < CONV_GRID; i++)
        for (int variant = 0; variant < 4; variant++) {
            fixture f;
            begin(&f, &conv_grid[i], variant != 3);
            if (variant >= 1)
                absorb(&f);
            if (variant == 2)
                pg_conv_absorb_activation(f.c.op, PG_ACT_RELU, 0, 0);
            if (variant == 3)
                pg_conv_absorb_activation(f.c.op, PG_ACT_CLIP, -0.5f, 0.5f);
            pg_conv_want_gap(f.c.op);
            start(&f);
            check_gap(&f,
                      variant == 2   ? 0
                      : variant == 3 ? -0.5
                                     : -INFINITY,
                      variant == 3 ? 0.5 : INFINITY);
            op_check_close(&f.c);
        }
}

Test(conv, gap_only_when_asked_for) {
    fixture f;
    begin(&f, &conv_grid[0], true);
    start(&f);
    op_check_forward(&f.c);
    cr_assert_null(pg_conv_gap(f.c.op, &f.c.io));
    op_check_close(&f.c);
}

/* ---- ParchGrad's partition ---- */

typedef struct weigher {
    pg_group_moments seen;
    int calls;
    bool answer;
    float high, low;
} weigher;

static bool weigh(void *user, const pg_group_moments *moments, float *high, float *low) {
    weigher *w = user;
    w->seen = *moments;
    w->calls++;
    *high = w->high;
    *low = w->low;
    return w->answer;
}

/* Moments of both groups from f->g (dL/dz), the definition of method.md written out. */
static pg_group_moments expected_moments(const fixture *f, const uint8_t *keep) {
    int64_t n = f->spatial;
    double sums[2][400] = {{0}}, mean[2] = {0}, square[2] = {0}, var[2] = {0}, cov = 0;
    for (int64_t i = 0; i < f->z_n; i++)
        sums[!keep[i / n]][i % n] += f->g[i];
    if (n == 1)
        return (pg_group_moments){.positions = 1,
                                  .var_high = sums[0][0] * sums[0][0],
                                  .var_low = sums[1][0] * sums[1][0],
                                  .cov = sums[0][0] * sums[1][0]};
    for (int k = 0; k < 2; k++)
        for (int64_t p = 0; p < n; p++) {
            mean[k] += sums[k][p] / (double)n;
            square[k] += sums[k][p] * sums[k][p] / (double)n;
        }
    for (int64_t p = 0; p < n; p++) {
        for (int k = 0; k < 2; k++)
            var[k] += pow(sums[k][p] - mean[k], 2) / (double)(n - 1);
        cov += (sums[0][p] - mean[0]) * (sums[1][p] - mean[1]) / (double)(n - 1);
    }
    return (pg_group_moments){n, var[0], var[1], cov, square[0], square[1]};
}

static void check_moments(const pg_group_moments *got, const pg_group_moments *expected) {
    const double *g = &got->var_high, *e = &expected->var_high;
    double scale = e[0] + e[1];
    cr_assert_eq(got->positions, expected->positions);
    for (int i = 0; i < (got->positions == 1 ? 3 : 5); i++)
        cr_assert(fabs(g[i] - e[i]) <= 1e-5 * fmax(scale, e[i]), "moment %d: %.9g, expected %.9g",
                  i, g[i], e[i]);
}

static void make_keep(const fixture *f, uint8_t *keep) {
    for (int64_t c = 0; c < f->k.out_c; c++)
        keep[c] = c % 3 == 1 || f->k.out_c == 1;
}

static void check_pruned(fixture *f, double lo, double hi, float high, float low) {
    uint8_t keep[64];
    make_keep(f, keep);
    weigher w = {.answer = true, .high = high, .low = low};
    pg_conv_prune prune = {.keep = keep, .weigh = weigh, .user = &w};
    f->c.io.prune = &prune;
    op_check_forward(&f->c);
    op_check_backward(&f->c);
    expected_gradient(f, lo, hi);
    cr_assert_eq(w.calls, 1);
    pg_group_moments expected = expected_moments(f, keep);
    check_moments(&w.seen, &expected);
    if (f->k.out_c > 1)
        for (int64_t i = 0; i < f->z_n; i++)
            f->g[i] *= keep[i / f->spatial] ? high : low;
    conv_backward(&f->k, f->g, f->w, f->d_x);
    op_check_d_src(&f->c, 0, f->d_x, 3e-6);
    check_skip(f, lo, hi);
}

Test(conv, prune_scales_the_groups_and_reports_their_moments) {
    for (int i = 0; i < CONV_GRID; i++)
        for (int variant = 0; variant < 4; variant++) {
            fixture f;
            begin(&f, &conv_grid[i], true);
            if (variant & 1)
                absorb(&f);
            if (variant & 2)
                pg_conv_absorb_activation(f.c.op, PG_ACT_RELU, 0, 0);
            start(&f);
            double lo = variant & 2 ? 0 : -INFINITY;
            check_pruned(&f, lo, INFINITY, 1.75f, 0);
            check_pruned(&f, lo, INFINITY, 0.5f, 1.25f);
            op_check_close(&f.c);
        }
}

/* Bit for bit the plain gradient: all channels kept, weigh refusing, no keep. */
Test(conv, prune_that_changes_nothing_is_exactly_plain) {
    for (int act = 0; act < 2; act++) {
        fixture f;
        begin(&f, &conv_grid[0], true);
        absorb(&f);
        if (act)
            pg_conv_absorb_activation(f.c.op, PG_ACT_RELU, 0, 0);
        start(&f);
        op_check_forward(&f.c);
        op_check_backward(&f.c);
        size_t bytes = (size_t)f.x_n * sizeof(float);
        float *plain = op_check_own(&f.c, pg_malloc(bytes));
        memcpy(plain, f.c.d_x[0], bytes);

        uint8_t all[64], some[64];
        memset(all, 1, sizeof all);
        make_keep(&f, some);
        weigher yes = {.answer = true, .high = 3, .low = 5}, no = {.high = 3, .low = 5};
        pg_conv_prune prunes[] = {{.keep = all, .weigh = weigh, .user = &yes},
                                  {.keep = some, .weigh = weigh, .user = &no},
                                  {.keep = NULL, .weigh = weigh, .user = &yes}};
        for (int i = 0; i < 3; i++) {
            f.c.io.prune = &prunes[i];
            op_check_forward(&f.c);
            op_check_backward(&f.c);
            cr_assert(memcmp(plain, f.c.d_x[0], bytes) == 0, "variant %d differs", i);
        }
        cr_assert_eq(no.calls, 1);
        cr_assert_eq(yes.calls, 1, "weigh was called without a mask");
        op_check_close(&f.c);
    }
}

Test(conv, nobody_wants_the_gradient) {
    for (int skip = 0; skip < 4; skip++) { /* 1: has one, 2: whose gradient is wanted */
        fixture f;
        begin(&f, &conv_grid[0], true);
        if (skip)
            absorb_add(&f);
        pg_conv_absorb_activation(f.c.op, PG_ACT_RELU, 0, 0);
        f.c.want[0] = false;
        f.c.want[1] = skip & 2;
        start(&f);
        op_check_forward(&f.c);
        op_check_backward(&f.c);
        if (f.c.want[1])
            check_skip(&f, 0, INFINITY);
        op_check_close(&f.c);
    }
}

/* ---- a residual addition ---- */

static const struct {
    pg_act act;
    float lo, hi;
} acts[] = {
    {PG_ACT_NONE, -INFINITY, INFINITY}, {PG_ACT_RELU, 0, INFINITY}, {PG_ACT_CLIP, -0.25f, 0.75f}};

static bool begin_add(fixture *f, int row, int variant) {
    begin(f, &conv_grid[row], true);
    if (f->k.groups > 1) { /* stays a node of its own */
        cr_assert(!pg_conv_absorb_add(f->c.op));
        op_check_close(&f->c);
        return false;
    }
    if (variant & 4)
        absorb(f);
    absorb_add(f);
    if (acts[variant % 4].act != PG_ACT_NONE)
        pg_conv_absorb_activation(f->c.op, acts[variant % 4].act, acts[variant % 4].lo,
                                  acts[variant % 4].hi);
    return true;
}

Test(conv, residual_addition_matches_plain_loops) {
    for (int i = 0; i < CONV_GRID; i++)
        for (int variant = 0; variant < 7; variant += 1 + variant % 4 / 2) {
            double lo = acts[variant % 4].lo, hi = acts[variant % 4].hi;
            fixture f;
            if (!begin_add(&f, i, variant))
                continue;
            start(&f);
            check_plain(&f, lo, hi);
            check_pruned(&f, lo, hi, 1.75f, 0);
            check_pruned(&f, lo, hi, 0.5f, 1.25f);
            op_check_close(&f.c);
            begin_add(&f, i, variant);
            pg_conv_want_gap(f.c.op);
            start(&f);
            check_gap(&f, lo, hi);
            op_check_close(&f.c);
        }
}

/* As the planner may have it: the skip's gradient in the place of d_dst. */
Test(conv, gradient_of_a_skip_in_the_place_of_the_output_s) {
    for (int variant = 0; variant < 7; variant += 1 + variant % 4 / 2) {
        fixture f;
        begin_add(&f, 5, variant);
        cr_assert_eq(f.c.op->in_place, 2);
        start(&f);
        check_plain(&f, acts[variant % 4].lo, acts[variant % 4].hi);
        size_t skip_bytes = (size_t)f.z_n * sizeof(float), x_bytes = (size_t)f.x_n * sizeof(float);
        float *d_skip = op_check_own(&f.c, pg_malloc(skip_bytes));
        float *d_x = op_check_own(&f.c, pg_malloc(x_bytes));
        memcpy(d_skip, f.c.d_src[1], skip_bytes);
        memcpy(d_x, f.c.d_src[0], x_bytes);
        memset(f.c.d_src[0], 0xff, x_bytes);
        f.c.d_src[1] = (float *)f.c.d_dst[0];
        op_check_forward(&f.c);
        cr_assert_eq(f.c.op->cls->backward(f.c.op, &f.c.io), PG_OK);
        cr_assert(memcmp(d_skip, f.c.d_dst[0], skip_bytes) == 0);
        cr_assert(memcmp(d_x, f.c.d_src[0], x_bytes) == 0);
        op_check_close(&f.c);
    }
}

/* ---- refusals ---- */

static void conv_of(op_check *c, pg_shape x, pg_shape w) {
    op_check_init(c, "Conv", 17);
    op_check_input(c, x);
    op_check_const(c, w, NULL);
}

Test(conv, refuses_what_it_cannot_do) {
    op_check c;
    conv_of(&c, SHAPE(1, 2, 4, 4, 4), SHAPE(2, 2, 3, 3, 3));
    op_check_refused(&c, "3-D convolutions are not supported");
    conv_of(&c, SHAPE(2, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_refused(&c, "batch size is 2");
    conv_of(&c, SHAPE(1, 3, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_refused(&c, "do not fit together");
    conv_of(&c, SHAPE(1, 3, 4, 4), SHAPE(2, 3, 3));
    op_check_refused(&c, "do not make a convolution");
    conv_of(&c, SHAPE(1, 3, 2, 2), SHAPE(2, 3, 3, 3));
    op_check_refused(&c, "does not fit");
    conv_of(&c, SHAPE(1, 4, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_int(&c, "group", 0);
    op_check_refused(&c, "group 0");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_ints(&c, "pads", 4, (int64_t[]){-1, 0, 0, 0});
    op_check_refused(&c, "negative padding");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_ints(&c, "pads", 4, (int64_t[]){0, 0, 0, INT64_MAX});
    op_check_refused(&c, "out of range");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_ints(&c, "pads", 2, (int64_t[]){1, 1});
    op_check_refused(&c, "'pads' has 2 values instead of 4");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_ints(&c, "strides", 2, (int64_t[]){0, 1});
    op_check_refused(&c, "stride 0");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_ints(&c, "strides", 2, (int64_t[]){INT64_MAX, 1});
    op_check_refused(&c, "out of range");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_ints(&c, "kernel_shape", 2, (int64_t[]){5, 5});
    op_check_refused(&c, "kernel_shape says 5");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_attr_string(&c, "auto_pad", "SOMEHOW");
    op_check_refused(&c, "SOMEHOW");
    conv_of(&c, SHAPE(1, 2, 4, 4), SHAPE(2, 2, 3, 3));
    op_check_const(&c, SHAPE(3), NULL);
    op_check_refused(&c, "bias has the shape [3]");
    op_check_init(&c, "Conv", 17);
    op_check_input(&c, SHAPE(1, 2, 4, 4));
    op_check_input(&c, SHAPE(2, 2, 3, 3));
    op_check_refused(&c, "weights are computed at run time");
    op_check_init(&c, "NoSuchOperator", 17);
    op_check_input(&c, SHAPE(1, 2, 4, 4));
    op_check_refused(&c, "NoSuchOperator is not supported");
}

/* Every allocation in turn fails: an error each time, no leak, no crash, until it works. */
Test(conv, survives_running_out_of_memory) {
    for (int64_t after = 0;; after++) {
        op_check c;
        conv_of(&c, SHAPE(1, 4, 6, 6), SHAPE(8, 4, 3, 3));
        op_check_const(&c, SHAPE(8), NULL);
        uint64_t live = pg_mem_get_stats().live_blocks;
        pg_mem_fail(after, 1);
        pg_err err = op_check_try_create(&c);
        bool absorbed = false;
        if (!err) {
            float s[8] = {1, 1, 1, 1, 1, 1, 1, 1}, t[8] = {0};
            absorbed = pg_conv_absorb_batch_norm(c.op, s, t, s);
            pg_conv_want_gap(c.op);
            c.op->src[0].layout = c.op->dst[0].layout = PG_CHANNELS_LAST;
            err = c.op->cls->prepare(c.op, &c.diag);
        }
        pg_mem_fail(0, 0);
        pg_op_destroy(&c.op);
        cr_assert(pg_mem_get_stats().live_blocks == live, "leak at allocation %lld",
                  (long long)after);
        op_check_close(&c);
        if (!err && absorbed)
            return;
        cr_assert(after < 200);
        cr_assert(!err || err == PG_ENOMEM, "allocation %lld: error %d", (long long)after, err);
    }
}
