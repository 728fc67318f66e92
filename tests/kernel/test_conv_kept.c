/* Backward over the kept channels alone, against plain double loops, and which of the two ways a
 * frame takes. That shows in the result: a dropped channel with an infinite gradient leaves no
 * trace on the short way, and NaN (0 * inf) on the long one. */
#include "tests/support/op_check.h"

#include "conv_node.h"
#include "kernels/conv_kept.h"

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
    {70, 7, 7, 100, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* the kernel for small maps, from 64 on */
    {81, 14, 14, 120, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},
    {70, 14, 10, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* the kernel for few channels */
    {48, 24, 25, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* the same by Winograd */
};
enum { SHAPES = sizeof shapes / sizeof shapes[0], CHANNELS_MAX = 128 };
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
    pg_group_moments seen;
} bench;

static bool weigh(void *user, const pg_group_moments *moments, float *high, float *low) {
    bench *b = user;
    b->seen = *moments;
    *high = BETA;
    *low = b->low;
    return !b->refuse;
}

/* `in`, `out`: how the gradient at the output is stored, and may be at the input; NULL: dense. */
static void open_between(bench *b, const conv_case *k, int64_t most, pg_act act, const pg_live *in,
                         pg_live *out) {
    memset(b, 0, sizeof *b);
    b->k = *k;
    b->x_n = k->in_c * k->in_h * k->in_w;
    b->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    b->spatial = conv_out_h(k) * conv_out_w(k);
    b->z_n = k->out_c * b->spatial;
    op_check *c = &b->c;
    const float *w = conv_node(c, k);
    op_check_create(c);
    pg_conv_absorb_activation(c->op, act, 0, 0);
    if (most > 0)
        pg_conv_expect_kept(c->op, most);
    c->io.d_dst_live = in;
    c->io.d_src_live = out;
    op_check_start(c, PG_CHANNELS_LAST);
    b->w = op_check_widen(c, w, b->w_n);
    b->g = op_check_doubles(&b->c, b->z_n);
    b->d_x = op_check_doubles(&b->c, b->x_n);
    b->prune = (pg_conv_prune){.keep = b->keep, .lasting = true, .weigh = weigh, .user = b};
    c->io.prune = &b->prune;
    op_check_forward(c);
}

static void open(bench *b, const conv_case *k, int64_t most, pg_act act) {
    open_between(b, k, most, act, NULL, NULL);
}

/* `count` channels, spread over all of them, another choice for each `turn`. */
static void choose(bench *b, int64_t count, int64_t turn) {
    memset(b->keep, 0, sizeof b->keep);
    for (int64_t k = 0; k < count; k++)
        b->keep[(k * b->k.out_c / count + turn) % b->k.out_c] = 1;
}

/* The gradient the split leaves; d_src must be its product with the weights, in d_x. Rounding
 * of float sums of some hundred terms: 3e-6 of the largest, as for the full convolution. */
static void expect(bench *b) {
    bool relu = b->c.op->keeps_dst;
    for (int64_t i = 0; i < b->z_n; i++) {
        bool passes = b->keep[i / b->spatial] && (!relu || b->c.y[0][i] > 0);
        b->g[i] = passes ? (double)BETA * b->c.d_y[0][i] : 0;
    }
    conv_backward(&b->k, b->g, b->w, b->d_x);
}

static void check(bench *b) {
    op_check_backward(&b->c);
    expect(b);
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
        int64_t channels = shapes[s].out_c, counts[] = {1, 15, 16, 17, channels - 1, channels - 30};
        for (int i = 0; i < 6; i++)
            for (int relu = 0; relu < 2 && counts[i] > 0; relu++) {
                bench b;
                open(&b, &shapes[s], counts[i], relu ? PG_ACT_RELU : PG_ACT_NONE);
                choose(&b, counts[i], 0);
                check(&b);
                bool shorter = (counts[i] + 15) / 16 < (channels + 15) / 16;
                if (!relu) /* the infinite gradient must get through */
                    cr_assert_eq(is_short(&b), shorter, "shape %d, %lld kept", s,
                                 (long long)counts[i]);
                cr_assert_null(strstr(b.c.op->impl, "ref"), "%s", b.c.op->impl);
                if (counts[i] >= 64 && counts[i] + 30 == channels &&
                    __builtin_cpu_supports("avx512f"))
                    cr_assert(strstr(b.c.op->impl, "channels own:small"), "%s", b.c.op->impl);
                if (s == SHAPES - 1 && shorter && __builtin_cpu_supports("avx512f"))
                    cr_assert(strstr(b.c.op->impl, "channels own:few"), "%s", b.c.op->impl);
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
    for (int own = 0; own < 2; own++) {
        int64_t count = own ? 70 : 8;
        bench b;
        open(&b, &shapes[own ? 9 : 0], count, PG_ACT_RELU);
        for (int turn = 0; turn < 20; turn++) { /* two classes, then more than are remembered */
            choose(&b, count, turn < 8 ? turn % 2 : turn % 7);
            check(&b);
        }
        op_check_close(&b.c);
    }
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

Test(conv_kept, groups_of_several_channels_go_the_long_way) {
    static const conv_case grouped[] = {{32, 6, 6, 64, 3, 3, 32, 1, 1, 1, 1, 1, 1, 1, 1},
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

/* The rows come out of what is packed for all channels, if that is in blocks: not as the library's
 * gemm wants it, nor most kernels of our own, nor the one for small maps in tiles of two widths. */
Test(conv_kept, takes_no_copy_of_the_weights) {
    for (int s = 0; s < SHAPES; s++) {
        bench b[2];
        for (int k = 0; k < 2; k++)
            open(&b[k], &shapes[s], k ? 15 : 0, PG_ACT_NONE);
        const pg_op *all = b[0].c.op, *kept = b[1].c.op;
        cr_assert(kept->state_bytes > 0);
        bool two_widths = s == 9; /* 70 channels: 3 and 2 vectors */
        if (strstr(all->impl, "backward jit") || strstr(all->impl, "backward brg") ||
            (strstr(all->impl, "backward own:small") && !two_widths))
            cr_assert_eq(kept->weight_bytes, all->weight_bytes, "shape %d: %s", s, kept->impl);
        else
            cr_assert_gt(kept->weight_bytes, all->weight_bytes);
        op_check_close(&b[0].c);
        op_check_close(&b[1].c);
    }
}

/* ---- depthwise: the result is zero outside the kept channels, and may stay side by side ---- */

static const conv_case depthwise[] = {{64, 6, 6, 64, 3, 3, 64, 1, 1, 1, 1, 1, 1, 1, 1},
                                      {40, 9, 8, 40, 3, 3, 40, 2, 2, 1, 1, 1, 1, 1, 1},
                                      {33, 14, 5, 33, 5, 5, 33, 1, 1, 1, 1, 2, 2, 2, 2},
                                      {48, 7, 7, 48, 5, 3, 48, 2, 1, 1, 1, 2, 1, 2, 1},
                                      {64, 1, 1, 64, 1, 1, 64, 1, 1, 1, 1, 0, 0, 0, 0},
                                      {51, 12, 12, 51, 3, 3, 51, 1, 1, 2, 2, 2, 2, 2, 2}};
enum { DEPTHWISE = sizeof depthwise / sizeof depthwise[0] };

Test(conv_kept, depthwise_matches_plain_loops) {
    for (int s = 0; s < DEPTHWISE; s++) {
        int64_t channels = depthwise[s].out_c, counts[] = {1, 15, 16, 17, channels - 1};
        for (int i = 0; i < 5; i++)
            for (int relu = 0; relu < 2; relu++) {
                bench b;
                open(&b, &depthwise[s], counts[i], relu ? PG_ACT_RELU : PG_ACT_NONE);
                choose(&b, counts[i], 0);
                check(&b);
                bool shorter = (counts[i] + 15) / 16 < (channels + 15) / 16;
                cr_assert_eq(b.c.op->live_most > 0, shorter, "shape %d, %lld kept", s,
                             (long long)counts[i]);
                op_check_close(&b.c);
            }
    }
}

/* d_src as it lies in memory, [positions, width], against the reference in d_x; what is not live
 * must be zero there. */
static void check_live(const bench *b, const pg_live *live) {
    int64_t area = b->k.in_h * b->k.in_w, k = 0;
    double largest = 0;
    for (int64_t i = 0; i < b->x_n; i++)
        largest = fmax(largest, fabs(b->d_x[i]));
    for (int64_t c = 0; c < b->k.in_c; c++)
        for (int64_t p = 0; p < area; p++) {
            double expected = b->d_x[c * area + p];
            if (live->keep[c])
                cr_assert(fabs(b->c.d_src[0][p * live->width + k] - expected) <= 3e-6 * largest);
            else
                cr_assert_eq(expected, 0);
            k += p + 1 == area && live->keep[c];
        }
    cr_assert(k == live->count && k <= live->width && k <= live->most);
}

Test(conv_kept, depthwise_result_stays_side_by_side) {
    for (int s = 0; s < DEPTHWISE; s++)
        for (int room = 0; room < 2; room++) { /* the reader has room for all, for one block */
            bench b;
            pg_live live = {.most = room ? 16 : 96};
            open_between(&b, &depthwise[s], 20, PG_ACT_RELU, NULL, &live);
            int64_t counts[] = {20, 3, 33, 16};
            for (int i = 0; i < 4; i++) {
                int64_t count = counts[i] < b.k.out_c ? counts[i] : b.k.out_c - 1;
                choose(&b, count, i);
                live.keep = NULL;
                op_check_backward(&b.c);
                expect(&b);
                bool fits = count <= b.c.op->live_most && b.c.op->live_most <= live.most;
                cr_assert_eq(live.keep != NULL, fits, "shape %d, %lld", s, (long long)count);
                if (live.keep)
                    check_live(&b, &live);
                else
                    op_check_d_src(&b.c, 0, b.d_x, 3e-6);
            }
            op_check_close(&b.c);
        }
}

/* Makes the gradient at the output zero outside `mask`, and lays it out as [positions, width] for
 * the operator; the reference's g keeps it dense. */
static void side_by_side(bench *b, const uint8_t *mask, pg_live *live, double *dense) {
    float *bytes = op_check_own(&b->c, pg_calloc((size_t)b->z_n, sizeof(float)));
    int64_t k = 0;
    for (int64_t c = 0; c < b->k.out_c; c++) {
        for (int64_t p = 0; p < b->spatial; p++) {
            float v = mask[c] ? op_check_noise(&b->c) : 0;
            dense[c * b->spatial + p] = v;
            if (mask[c])
                bytes[p * live->width + k] = v;
        }
        k += mask[c];
    }
    pg_layout_convert(&b->c.op->dst[0].shape, PG_CHANNELS_LAST, bytes, PG_PLAIN, b->c.d_y[0]);
    live->keep = mask;
    live->count = k;
}

/* Variances of the two groups' sums of g, the definition written out. */
static void variances(const bench *b, const double *g, double out[2]) {
    double mean[2] = {0}, n = (double)b->spatial;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t p = 0; p < b->spatial; p++) {
            double sums[2] = {0};
            for (int64_t c = 0; c < b->k.out_c; c++)
                sums[!b->keep[c]] += g[c * b->spatial + p];
            for (int i = 0; i < 2; i++)
                if (pass)
                    out[i] += (sums[i] - mean[i]) * (sums[i] - mean[i]) / (n - 1);
                else
                    mean[i] += sums[i] / n;
        }
}

/* Convolutions whose output's gradient comes with its live channels alone: the same as dense,
 * whatever of them is kept here, or none. */
Test(conv_kept, live_channels_give_what_the_dense_gradient_gives) {
    static const conv_case cases[] = {{8, 9, 9, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                      {16, 7, 7, 40, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
                                      {3, 17, 19, 32, 7, 7, 1, 2, 2, 1, 1, 3, 3, 3, 3},
                                      {33, 8, 6, 33, 3, 3, 33, 1, 1, 1, 1, 1, 1, 1, 1}};
    static const struct {
        int64_t kept;
        float low;
        bool refuse, prune;
    } rows[] = {
        {8, 0, false, true}, {8, 0.5f, false, true}, {8, 0, true, true}, {8, 0, false, false}};
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < 4; i++)
            for (int relu = 0; relu < 2; relu++) {
                bench b;
                pg_live in = {.width = 16};
                uint8_t mask[CHANNELS_MAX] = {0};
                open_between(&b, &cases[s], 14, relu ? PG_ACT_RELU : PG_ACT_NONE, &in, NULL);
                double *dense = op_check_doubles(&b.c, b.z_n), var[2] = {0};
                choose(&b, rows[i].kept, 1);
                for (int64_t c = 0; c < 13; c++) /* some of them kept, some not */
                    mask[c * 2] = 1;
                side_by_side(&b, mask, &in, dense);
                b.low = rows[i].low;
                b.refuse = rows[i].refuse;
                b.c.io.prune = rows[i].prune ? &b.prune : NULL;
                op_check_backward(&b.c);
                for (int64_t z = 0; z < b.z_n; z++)
                    dense[z] *= relu && !(b.c.y[0][z] > 0) ? 0 : 1;
                variances(&b, dense, var);
                bool split = rows[i].prune && !rows[i].refuse;
                for (int64_t z = 0; z < b.z_n; z++)
                    b.g[z] = dense[z] * (double)(!split                  ? 1
                                                 : b.keep[z / b.spatial] ? BETA
                                                                         : rows[i].low);
                conv_backward(&b.k, b.g, b.w, b.d_x);
                op_check_d_src(&b.c, 0, b.d_x, 3e-6);
                if (rows[i].prune) {
                    cr_assert(fabs(b.seen.var_high - var[0]) < 1e-6 * (var[0] + var[1]));
                    cr_assert(fabs(b.seen.var_low - var[1]) < 1e-6 * (var[0] + var[1]));
                }
                op_check_close(&b.c);
            }
}

/* None of the live channels kept: S_H is exactly zero, which is what `weigh` refuses. */
Test(conv_kept, live_channels_without_a_kept_one) {
    bench b;
    pg_live in = {.width = 16};
    uint8_t mask[CHANNELS_MAX] = {0};
    open_between(&b, &shapes[0], 8, PG_ACT_RELU, &in, NULL);
    b.keep[0] = b.keep[9] = mask[1] = mask[30] = 1;
    b.refuse = true;
    side_by_side(&b, mask, &in, b.g);
    op_check_backward(&b.c);
    cr_assert(b.seen.var_high == 0 && b.seen.mean_square_high == 0 && b.seen.var_low > 0);
    for (int64_t z = 0; z < b.z_n; z++)
        b.g[z] *= b.c.y[0][z] > 0;
    conv_backward(&b.k, b.g, b.w, b.d_x);
    op_check_d_src(&b.c, 0, b.d_x, 3e-6);
    op_check_close(&b.c);
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
    cr_assert_eq(pg_conv_kept_make(&spec, NULL, 3, &m->kept, &diag), PG_OK, "%s", diag.text);
    cr_assert_eq(m->kept.capacity, 16);
    pg_conv_kept_remember(&m->kept, 4);
    m->scratch = pg_malloc(m->kept.scratch_bytes);
    cr_assert_eq(pg_conv_kept_bind(&m->kept, m->d_x, NULL, m->scratch, &m->state, &diag), PG_OK);
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
    return pg_conv_kept_pays(&m->kept, m->state, m->masks[mask], false);
}

static void run(memory *m, int mask, bool lasting) {
    uint64_t allocations = pg_mem_get_stats().allocations;
    pg_conv_columns columns = pg_conv_kept_choose(&m->kept, m->state, m->masks[mask]);
    float x[16];
    cr_assert_eq(columns.count, 3);
    for (int k = 0; k < 16; k++) {
        cr_assert(m->masks[mask][columns.channel[k]] && columns.from[k] == (k < 3 ? k : 0));
        x[k] = m->g[columns.channel[k]];
    }
    cr_assert_eq(pg_conv_kept_execute(&m->kept, m->state, x, m->masks[mask], lasting), PG_OK);
    cr_assert_eq(pg_mem_get_stats().allocations, allocations);
    for (int i = 0; i < IN; i++) {
        float expected = 0; /* small integers: exact */
        for (int c = 0; c < OUT; c++)
            expected += m->masks[mask][c] ? m->g[c] * m->w[c * IN + i] : 0;
        cr_assert_eq(m->d_x[i], expected, "mask %d, channel %d: %g, not %g", mask, i, m->d_x[i],
                     expected);
    }
}

Test(conv_kept, the_mask_used_longest_ago_gives_way) {
    memory m;
    open_memory(&m);
    cr_assert(!known(&m, 0));
    cr_assert(pg_conv_kept_pays(&m.kept, m.state, m.masks[0], true));
    uint8_t many[OUT] = {0}, none[OUT] = {0};
    memset(many, 1, 17);
    cr_assert(!pg_conv_kept_pays(&m.kept, m.state, many, true), "does not fit");
    cr_assert(!pg_conv_kept_pays(&m.kept, m.state, none, true), "nothing to compute");
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
        pg_err err = pg_conv_kept_bind(&m.kept, m.d_x, NULL, m.scratch, &state, &diag);
        pg_mem_fail(0, 0);
        cr_assert_eq(err == PG_OK, state != NULL);
        pg_conv_kept_unbind(&state);
        cr_assert_eq(pg_mem_get_stats().live_blocks, live);
    }
    close_memory(&m);
}
