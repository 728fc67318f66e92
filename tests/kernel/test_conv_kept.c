/* Backward over the kept channels alone, against plain double loops, and which of the two ways a
 * frame takes. That shows in the result: a dropped channel with an infinite gradient leaves no
 * trace on the short way, and NaN (0 * inf) on the long one. */
#include "tests/support/op_check.h"

#include "conv_reference.h"
#include "kernels/conv_kept.h"
#include "kernels/op_conv.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right; out_c is a
 * multiple of 16 or not, and at least two blocks of 16 */
static const conv_case shapes[] = {
    {8, 9, 9, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {16, 7, 7, 40, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {16, 9, 8, 33, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},
    {3, 17, 19, 32, 7, 7, 1, 2, 2, 1, 1, 3, 3, 3, 3},
    {5, 8, 7, 51, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1},
    {24, 14, 14, 48, 3, 3, 1, 1, 1, 2, 2, 2, 2, 2, 2},
    {4, 15, 13, 35, 3, 2, 1, 2, 1, 3, 2, 1, 0, 2, 1},
    {32, 1, 1, 64, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {17, 1, 20, 47, 1, 5, 1, 1, 1, 1, 1, 0, 2, 0, 2},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0], CHANNELS_MAX = 64 };
static const float BETA = 1.75f;

typedef struct bench {
    op_check c;
    conv_case k;
    int64_t x_n, z_n, w_n, spatial;
    double *w, *g, *d_x;
    uint8_t keep[CHANNELS_MAX];
    pg_conv_prune prune;
    float low;
    bool refuse; /* what weigh answers with */
} bench;

static bool weigh(void *user, const pg_group_moments *moments, float *high, float *low) {
    bench *b = user;
    (void)moments;
    *high = BETA;
    *low = b->low;
    return !b->refuse;
}

static double *doubles(bench *b, int64_t n) {
    return op_check_own(&b->c, pg_calloc((size_t)n, sizeof(double)));
}

static void open(bench *b, const conv_case *k, int64_t most, pg_act act) {
    memset(b, 0, sizeof *b);
    b->k = *k;
    b->x_n = k->in_c * k->in_h * k->in_w;
    b->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    b->spatial = conv_out_h(k) * conv_out_w(k);
    b->z_n = k->out_c * b->spatial;
    op_check *c = &b->c;
    op_check_init(c, "Conv", 17);
    op_check_attr_int(c, "group", k->groups);
    op_check_attr_ints(c, "strides", 2, (int64_t[]){k->stride_h, k->stride_w});
    op_check_attr_ints(c, "dilations", 2, (int64_t[]){k->dilation_h, k->dilation_w});
    op_check_attr_ints(c, "pads", 4, (int64_t[]){k->top, k->left, k->bottom, k->right});
    op_check_input(c, SHAPE(1, k->in_c, k->in_h, k->in_w));
    const float *w = op_check_const(c, SHAPE(k->out_c, k->in_c / k->groups, k->k_h, k->k_w), NULL);
    op_check_create(c);
    pg_conv_absorb_activation(c->op, act, 0, 0);
    if (most > 0)
        pg_conv_expect_kept(c->op, most);
    op_check_start(c, PG_CHANNELS_LAST);
    b->w = doubles(b, b->w_n);
    b->g = doubles(b, b->z_n);
    b->d_x = doubles(b, b->x_n);
    for (int64_t i = 0; i < b->w_n; i++)
        b->w[i] = w[i];
    b->prune = (pg_conv_prune){.keep = b->keep, .lasting = true, .weigh = weigh, .user = b};
    c->io.prune = &b->prune;
    op_check_forward(c);
}

/* `count` channels, spread over all of them, another choice for each `turn`. */
static void choose(bench *b, int64_t count, int64_t turn) {
    memset(b->keep, 0, sizeof b->keep);
    for (int64_t k = 0; k < count; k++)
        b->keep[(k * b->k.out_c / count + turn) % b->k.out_c] = 1;
}

/* The gradient the split leaves; backward's result must be its product with the weights. Rounding
 * of float sums of some hundred terms: 3e-6 of the largest, as for the full convolution. */
static void check(bench *b) {
    op_check_backward(&b->c);
    bool relu = b->c.op->keeps_dst;
    for (int64_t i = 0; i < b->z_n; i++) {
        bool passes = b->keep[i / b->spatial] && (!relu || b->c.y[0][i] > 0);
        b->g[i] = passes ? (double)BETA * b->c.d_y[0][i] : 0;
    }
    conv_backward(&b->k, b->g, b->w, b->d_x);
    op_check_d_src(&b->c, 0, b->d_x, 3e-6);
}

/* True if backward took the short way. */
static bool is_short(bench *b) {
    int64_t dropped = 0;
    while (b->keep[dropped])
        dropped++;
    float *at = &b->c.d_y[0][dropped * b->spatial], before = *at;
    *at = INFINITY;
    op_check_backward(&b->c);
    *at = before;
    for (int64_t i = 0; i < b->x_n; i++)
        if (isnan(b->c.d_x[0][i]))
            return false;
    return true;
}

Test(conv_kept, matches_plain_loops) {
    for (int s = 0; s < SHAPES; s++) {
        int64_t channels = shapes[s].out_c, counts[] = {1, 15, 16, 17, channels - 1};
        for (int i = 0; i < 5; i++)
            for (int relu = 0; relu < 2; relu++) {
                bench b;
                open(&b, &shapes[s], counts[i], relu ? PG_ACT_RELU : PG_ACT_NONE);
                choose(&b, counts[i], 0);
                check(&b);
                bool shorter = (counts[i] + 15) / 16 < (channels + 15) / 16;
                if (!relu) /* the infinite gradient must get through */
                    cr_assert_eq(is_short(&b), shorter, "shape %d, %lld kept", s,
                                 (long long)counts[i]);
                cr_assert_null(strstr(b.c.op->impl, "ref"), "%s", b.c.op->impl);
                op_check_close(&b.c);
            }
    }
}

/* Fewer than expected are filled up, more take the long way, and back. */
Test(conv_kept, any_number_of_channels_comes_out_right) {
    static const int64_t counts[] = {20, 5, 33, 32, 63, 1, 17};
    bench b;
    open(&b, &shapes[0], 20, PG_ACT_NONE);
    for (int i = 0; i < 7; i++) {
        choose(&b, counts[i], i);
        check(&b);
        cr_assert_eq(is_short(&b), counts[i] <= 32, "%lld kept", (long long)counts[i]);
    }
    op_check_close(&b.c);
}

Test(conv_kept, masks_take_turns) {
    bench b;
    open(&b, &shapes[0], 8, PG_ACT_RELU);
    for (int turn = 0; turn < 20; turn++) { /* two classes, then more than are remembered */
        choose(&b, 8, turn < 8 ? turn % 2 : turn % 7);
        check(&b);
    }
    op_check_close(&b.c);
}

Test(conv_kept, masks_of_single_frames) {
    bench b;
    open(&b, &shapes[0], 6, PG_ACT_NONE);
    b.prune.lasting = false;
    for (int turn = 0; turn < 8; turn++) {
        choose(&b, 6, turn);
        check(&b);
    }
    op_check_close(&b.c);
}

/* What is not dropped, or not split at all, is as it was: bit for bit. */
Test(conv_kept, changes_nothing_else) {
    static const struct {
        int64_t kept;
        float low;
        bool refuse;
    } rows[] = {{8, 0.5f, false}, {8, 0, true}, {64, 0, false}};
    for (int i = 0; i < 3; i++) {
        bench b[2];
        for (int k = 0; k < 2; k++) {
            open(&b[k], &shapes[0], k ? 8 : 0, PG_ACT_RELU);
            b[k].low = rows[i].low;
            b[k].refuse = rows[i].refuse;
            choose(&b[k], rows[i].kept, 0);
            op_check_backward(&b[k].c);
        }
        cr_assert_eq(memcmp(b[0].c.d_x[0], b[1].c.d_x[0], (size_t)b[0].x_n * sizeof(float)), 0,
                     "row %d", i);
        op_check_close(&b[0].c);
        op_check_close(&b[1].c);
    }
}

Test(conv_kept, grouped_convolutions_go_the_long_way) {
    static const conv_case grouped[] = {{64, 6, 6, 64, 3, 3, 64, 1, 1, 1, 1, 1, 1, 1, 1},
                                        {32, 6, 6, 64, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1}};
    for (int i = 0; i < 2; i++) {
        bench b;
        open(&b, &grouped[i], 8, PG_ACT_NONE);
        choose(&b, 8, 0);
        check(&b);
        cr_assert(!is_short(&b));
        op_check_close(&b.c);
    }
}

Test(conv_kept, nobody_wants_the_gradient) {
    op_check c;
    op_check_init(&c, "Conv", 17);
    op_check_input(&c, SHAPE(1, 4, 5, 5));
    op_check_const(&c, SHAPE(32, 4, 1, 1), NULL);
    op_check_create(&c);
    pg_conv_expect_kept(c.op, 3);
    c.want[0] = false;
    op_check_start(&c, PG_CHANNELS_LAST);
    op_check_forward(&c);
    op_check_backward(&c);
    op_check_close(&c);
}

/* ---- what is remembered ---- */

enum { OUT = 64, IN = 16, TURNS = 6 };

typedef struct memory {
    pg_conv_kept kept;
    pg_conv_kept_state *state;
    float d_x[IN], g[OUT], w[OUT * IN];
    void *scratch;
    uint8_t masks[TURNS][OUT];
} memory;

/* One position: packing never pays for itself, so that pays() of a mask that is not lasting tells
 * whether it is remembered. */
static void open_memory(memory *m) {
    static pg_diag diag;
    pg_conv_geometry g = {.groups = 1,
                          .in_c = IN,
                          .in_h = 1,
                          .in_w = 1,
                          .out_c = OUT,
                          .out_h = 1,
                          .out_w = 1,
                          .k_h = 1,
                          .k_w = 1,
                          .dnnl = {.strides = {1, 1}}};
    for (int i = 0; i < OUT * IN; i++)
        m->w[i] = (float)(i % 23) - 11;
    for (int i = 0; i < OUT; i++)
        m->g[i] = (float)(i % 5) - 2;
    pg_conv_path_spec spec = {.geometry = &g, .weights = m->w};
    cr_assert_eq(pg_conv_kept_make(&spec, 3, &m->kept, &diag), PG_OK, "%s", diag.text);
    cr_assert_eq(m->kept.capacity, 16);
    m->scratch = pg_malloc(m->kept.scratch_bytes);
    cr_assert_eq(pg_conv_kept_bind(&m->kept, m->d_x, m->scratch, &m->state, &diag), PG_OK);
    memset(m->masks, 0, sizeof m->masks);
    for (int t = 0; t < TURNS; t++)
        m->masks[t][t] = m->masks[t][20] = m->masks[t][63 - t] = 1;
}

static void close_memory(memory *m) {
    pg_conv_kept_unbind(&m->state);
    pg_conv_kept_free(&m->kept);
    pg_free(m->scratch);
}

static bool known(const memory *m, int mask) {
    return pg_conv_kept_pays(&m->kept, m->state, m->masks[mask], 3, false);
}

static void run(memory *m, int mask, bool lasting) {
    uint64_t allocations = pg_mem_get_stats().allocations;
    cr_assert_eq(pg_conv_kept_execute(&m->kept, m->state, m->masks[mask], 3, lasting, 2.0f, m->g),
                 PG_OK);
    cr_assert_eq(pg_mem_get_stats().allocations, allocations);
    for (int i = 0; i < IN; i++) {
        float expected = 0; /* small integers: exact */
        for (int c = 0; c < OUT; c++)
            expected += m->masks[mask][c] ? 2 * m->g[c] * m->w[c * IN + i] : 0;
        cr_assert_eq(m->d_x[i], expected, "mask %d, channel %d: %g, not %g", mask, i, m->d_x[i],
                     expected);
    }
}

Test(conv_kept, the_mask_used_longest_ago_gives_way) {
    memory m;
    open_memory(&m);
    cr_assert(!known(&m, 0));
    cr_assert(pg_conv_kept_pays(&m.kept, m.state, m.masks[0], 3, true));
    cr_assert(!pg_conv_kept_pays(&m.kept, m.state, m.masks[0], 17, true), "does not fit");
    for (int t = 0; t < 4; t++)
        run(&m, t, true);
    for (int t = 0; t < 4; t++)
        cr_assert(known(&m, t));
    run(&m, 0, true); /* again: now 1 is the oldest */
    run(&m, 4, true);
    static const bool expected[] = {true, false, true, true, true, false};
    for (int t = 0; t < TURNS; t++)
        cr_assert_eq(known(&m, t), expected[t], "mask %d", t);
    run(&m, 1, true);
    cr_assert(known(&m, 1) && !known(&m, 2));
    close_memory(&m);
}

Test(conv_kept, masks_of_single_frames_give_way_first) {
    memory m;
    open_memory(&m);
    for (int t = 0; t < 3; t++)
        run(&m, t, true);
    for (int t = 3; t < 6; t++)
        run(&m, t, false);
    static const bool expected[] = {true, true, true, false, false, true};
    for (int t = 0; t < TURNS; t++)
        cr_assert_eq(known(&m, t), expected[t], "mask %d", t);
    close_memory(&m);
}

Test(conv_kept, out_of_memory_leaves_nothing_behind) {
    static pg_diag diag;
    memory m;
    open_memory(&m);
    uint64_t live = pg_mem_get_stats().live_blocks;
    for (int after = 0; after < 20; after++) {
        pg_conv_kept_state *state = NULL;
        pg_mem_fail(after, 1);
        pg_err err = pg_conv_kept_bind(&m.kept, m.d_x, m.scratch, &state, &diag);
        pg_mem_fail(0, 0);
        cr_assert_eq(err == PG_OK, state != NULL);
        pg_conv_kept_unbind(&state);
        cr_assert_eq(pg_mem_get_stats().live_blocks, live);
    }
    close_memory(&m);
}
