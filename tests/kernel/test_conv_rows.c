/* A gradient handed from one convolution to the one before it in rows (op.h): what the giving
 * kernel hands over are the rows of the array it would have written, each once, whatever the number
 * of threads; and the taking side ends with the very bits it gets from the array, on every way a
 * gradient can be split. */
#include "tests/support/op_check.h"

#include <omp.h>

#include "conv_node.h"
#include "conv_path_case.h"

static bool is_here(void) { return __builtin_cpu_supports("avx512f"); }

/* ---- giving ---- */

/* in_c in_h in_w out_c k_h k_w ...; 1x1: rows of a part of a vector, of whole tiles and of uneven
 * ones; fewer positions than threads, and many chunks of them; inputs up to those of one block of
 * weights. Wider: rows of the map */
static const conv_case givers[] = {
    {24, 20, 20, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {64, 14, 14, 32, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {81, 7, 7, 48, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {144, 9, 31, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {300, 5, 4, 128, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {17, 1, 1, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {7, 1, 2, 5, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {256, 28, 28, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {64, 14, 14, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {81, 9, 31, 16, 3, 3, 1, 1, 1, 1, 1, 0, 2, 1, 0},
    {20, 70, 3, 32, 5, 1, 1, 1, 1, 1, 1, 2, 0, 2, 0},
    {64, 26, 25, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  /* rows of Winograd's tiles, */
    {288, 24, 24, 64, 3, 3, 1, 1, 1, 1, 1, 0, 2, 1, 0}, /* where the team shares the weights */
};
enum { GIVERS = sizeof givers / sizeof givers[0] };

typedef struct basket {
    float *rows;
    int *times; /* [positions] handed over */
    int64_t channels;
} basket;

static void put(void *user, int64_t first, int64_t count, float *rows) {
    basket *b = user;
    size_t bytes = (size_t)(count * b->channels) * sizeof *rows;
    memcpy(b->rows + first * b->channels, rows, bytes);
    memset(rows, 0xff, bytes); /* they may be written over */
    for (int64_t p = first; p < first + count; p++)
        b->times[p]++;
}

static void check_feeding(const conv_case *k, bool with_skip, int threads) {
    static pg_diag diag;
    op_check c; /* for its noise and its memory */
    conv_node(&c, k);
    op_check_create(&c);
    int64_t positions = k->in_h * k->in_w, n = positions * k->in_c;
    int64_t in = conv_out_h(k) * conv_out_w(k) * k->out_c, taps = k->k_h * k->k_w;
    float *w = op_check_array(&c, k->out_c * k->in_c * taps), *d = op_check_array(&c, in);
    float *out = op_check_array(&c, n), *skip = op_check_array(&c, n);
    op_check_fill(&c, w, k->out_c * k->in_c * taps);
    op_check_fill(&c, d, in);
    op_check_fill(&c, skip, n);
    omp_set_num_threads(threads);
    pg_conv_geometry g = conv_path_case(k);
    pg_conv_path path = {0};
    pg_conv_path_spec spec = {.geometry = &g, .backward = true, .weights = w, .kept = k->out_c};
    cr_assert_eq(pg_conv_path_make(&spec, &path, &diag), PG_OK, "%s", diag.text);
    cr_assert(pg_conv_path_sinks(&path), "%s", path.impl);
    void *scratch = op_check_own(&c, pg_calloc(path.scratch_bytes + 1, 1));
    pg_conv_run run = {0};
    cr_assert_eq(pg_conv_run_make(&path, d, out, scratch, &run, &diag), PG_OK);
    cr_assert_eq(pg_conv_run_execute(&path, &run), PG_OK);
    double *expected = op_check_widen(&c, out, n);
    for (int64_t i = 0; i < n && taps == 1; i++) { /* the array itself is right, too; with more
                                                      taps: test_conv_few.c */
        double sum = 0;
        for (int64_t o = 0; o < k->out_c; o++)
            sum += (double)d[i / k->in_c * k->out_c + o] * (double)w[o * k->in_c + i % k->in_c];
        cr_assert(fabs(sum - expected[i]) < 1e-6 * (double)k->out_c);
    }
    basket b = {op_check_array(&c, n), op_check_own(&c, pg_calloc((size_t)positions, sizeof(int))),
                k->in_c};
    memset(out, 0x7f, (size_t)n * sizeof *out);
    float untouched = out[0];
    pg_conv_run_feed(&path, &run, with_skip ? skip : NULL, &(pg_conv_sink){put, &b});
    for (int64_t i = 0; i < n; i++) {
        cr_assert_eq(b.rows[i], (float)expected[i] + (with_skip ? skip[i] : 0));
        cr_assert_eq(b.times[i / k->in_c], 1);
        cr_assert_eq(out[i], untouched);
    }
    pg_conv_run_free(&run);
    pg_conv_path_free(&path);
    op_check_close(&c);
}

Test(conv_rows, are_those_of_the_array) {
    int before = omp_get_max_threads();
    for (int i = 0; is_here() && i < GIVERS; i++)
        for (int threads = 1; threads <= 3; threads++)
            check_feeding(&givers[i], threads % 2, threads);
    omp_set_num_threads(before);
}

/* What the kernels cannot hand over: strides, dilation, padding without a window, more inputs than
 * a block has. */
Test(conv_rows, are_refused_by_other_convolutions) {
    static const conv_case others[] = {{64, 14, 14, 16, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1},
                                       {64, 14, 14, 16, 3, 3, 1, 1, 1, 2, 2, 2, 2, 2, 2},
                                       {64, 14, 14, 16, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},
                                       {64, 5, 5, 16, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                       {64, 14, 14, 144, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
                                       {64, 14, 14, 64, 1, 1, 64, 1, 1, 1, 1, 0, 0, 0, 0}};
    static pg_diag diag;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        pg_conv_geometry g = conv_path_case(&others[i]);
        pg_conv_path path = {0};
        pg_conv_path_spec spec = {.geometry = &g, .backward = true, .kept = 1};
        cr_assert_eq(pg_conv_path_make(&spec, &path, &diag), PG_OK, "%s", diag.text);
        cr_assert(!pg_conv_path_sinks(&path), "%zu: %s", i, path.impl);
        pg_conv_path_free(&path);
    }
}

/* ---- taking ---- */

static const conv_case makers[] = {{8, 9, 9, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                   {64, 6, 6, 64, 3, 3, 64, 1, 1, 1, 1, 1, 1, 1, 1},
                                   {24, 14, 14, 144, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
                                   {5, 8, 7, 51, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1}};
enum { MAKERS = sizeof makers / sizeof makers[0], KEPT = 6 };

typedef struct answer {
    float low;
    bool refuse;
} answer;

static bool weigh(void *user, const pg_group_moments *moments, float *high, float *low) {
    const answer *a = user;
    cr_assert(moments->var_high > 0 && moments->var_low > 0);
    *high = 1.75f;
    *low = a->low;
    return !a->refuse;
}

typedef struct bench {
    op_check c;
    uint8_t keep[256];
    answer answer;
    pg_conv_prune prune;
    pg_rows rows;
    int64_t n, positions, channels, x_n;
} bench;

static void open(bench *b, const conv_case *k, pg_act act, bool skip, answer says) {
    memset(b, 0, sizeof *b);
    op_check *c = &b->c;
    conv_node(c, k);
    op_check_create(c);
    if (skip)
        conv_add_skip(c);
    pg_conv_absorb_activation(c->op, act, 0, 6);
    pg_conv_expect_kept(c->op, KEPT);
    op_check_start(c, PG_CHANNELS_LAST);
    b->answer = says;
    b->prune =
        (pg_conv_prune){.keep = b->keep, .lasting = true, .weigh = weigh, .user = &b->answer};
    c->io.prune = &b->prune;
    b->channels = k->out_c;
    b->positions = conv_out_h(k) * conv_out_w(k);
    b->n = b->positions * b->channels;
    b->x_n = k->in_c * k->in_h * k->in_w;
    for (int i = 0; i < KEPT; i++)
        b->keep[i * k->out_c / KEPT] = 1;
    cr_assert(c->op->rows_bytes > 0);
    b->rows = (pg_rows){
        .maker = c->op, .io = &c->io, .memory = op_check_own(c, pg_calloc(1, c->op->rows_bytes))};
    op_check_forward(c);
}

/* The gradient [positions, channels] in rows, the last first; true: they were taken. */
static bool hand_over(bench *b, const float *gradient) {
    enum { ROWS = 5 };
    const pg_op *op = b->c.op;
    const pg_op_io *io = &b->c.io;
    float rows[ROWS * 256];
    b->c.io.d_dst_rows = &b->rows;
    if (!op->cls->rows_begin(op, io))
        return false;
    for (int64_t end = b->positions; end > 0;) {
        int64_t first = end > ROWS ? end - ROWS : 0;
        memcpy(rows, gradient + first * b->channels,
               (size_t)((end - first) * b->channels) * sizeof *rows);
        op->cls->rows_take(op, io, first, end - first, rows);
        end = first;
    }
    b->rows.taken = op->cls->rows_end(op, io);
    return b->rows.taken;
}

static void check_taking(const conv_case *k, pg_act act, bool skip, answer says) {
    bench b;
    open(&b, k, act, skip, says);
    op_check *c = &b.c;
    size_t bytes = (size_t)b.n * sizeof(float), x_bytes = (size_t)b.x_n * sizeof(float);
    op_check_backward(c);
    float *d_x = op_check_array(c, b.x_n), *d_skip = op_check_array(c, b.n);
    memcpy(d_x, c->d_src[0], x_bytes);
    if (skip)
        memcpy(d_skip, c->d_src[1], bytes);
    float *gradient = op_check_array(c, b.n);
    memcpy(gradient, c->d_dst[0], bytes);
    memset(c->d_src[0], 0xff, x_bytes);
    if (skip)
        memset(c->d_src[1], 0xff, bytes);
    bool dropped = !says.refuse && says.low == 0, taken = hand_over(&b, gradient);
    cr_assert_eq(taken, dropped || skip);
    if (taken)
        memset((float *)c->d_dst[0], 0xff, bytes); /* NaN: nothing is read there */
    memset(c->io.scratch, 0xff, c->op->scratch_bytes);
    cr_assert_eq(c->op->cls->backward(c->op, &c->io), PG_OK);
    cr_assert_eq(memcmp(d_x, c->d_src[0], x_bytes), 0, "%lld channels, act %d, skip %d, %s",
                 (long long)b.channels, act, skip, says.refuse ? "refused" : "weighed");
    cr_assert(!skip || memcmp(d_skip, c->d_src[1], bytes) == 0);
    op_check_close(c);
}

Test(conv_rows, end_as_the_array_does) {
    static const answer answers[] = {{0, false}, {0.5f, false}, {0, true}};
    static const pg_act acts[] = {PG_ACT_NONE, PG_ACT_RELU, PG_ACT_CLIP};
    for (int i = 0; i < MAKERS; i++)
        for (int act = 0; act < 3; act++)
            for (int skip = 0; skip < 2 && (!skip || makers[i].groups == 1); skip++)
                for (int a = 0; a < 3; a++)
                    check_taking(&makers[i], acts[act], skip, answers[a]);
}

/* More channels than expected, no split at all, no gradient wanted: an array is. */
Test(conv_rows, are_not_always_wanted) {
    bench b;
    open(&b, &makers[0], PG_ACT_RELU, false, (answer){0, false});
    b.c.io.d_dst_rows = &b.rows;
    cr_assert(b.c.op->cls->rows_begin(b.c.op, &b.c.io));
    memset(b.keep, 1, 40);
    cr_assert(!b.c.op->cls->rows_begin(b.c.op, &b.c.io));
    memset(b.keep, 0, sizeof b.keep);
    b.keep[3] = 1;
    cr_assert(b.c.op->cls->rows_begin(b.c.op, &b.c.io));
    b.c.io.prune = NULL;
    cr_assert(!b.c.op->cls->rows_begin(b.c.op, &b.c.io));
    op_check_close(&b.c);
}
