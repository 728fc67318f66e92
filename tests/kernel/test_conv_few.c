/* The gradient over few output channels (conv_few.c, and on larger maps conv_winograd.c) against
 * plain loops in double: channels around vectors and tiles, rows around groups, every padding that
 * leaves taps outside the map; any number of the channels, with weights picked out of all of them;
 * the same bits for any number of threads and for a gradient handed over in rows. */
#include "tests/support/op_check.h"

#include <omp.h>

#include "conv_node.h"
#include "conv_path_case.h"
#include "kernels/conv_kernel.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right */
static const conv_case shapes[] = {
    {64, 9, 9, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {5, 11, 7, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {70, 9, 8, 33, 3, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0},    /* one vector for 6 channels */
    {200, 14, 14, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* tiles of different width */
    {32, 1, 70, 16, 1, 5, 1, 1, 1, 1, 1, 0, 2, 0, 2},
    {17, 67, 1, 16, 5, 1, 1, 1, 1, 1, 1, 2, 0, 2, 0},
    {24, 9, 10, 7, 2, 4, 1, 1, 1, 1, 1, 1, 0, 0, 3},   /* uneven padding */
    {16, 9, 9, 16, 3, 3, 1, 1, 1, 1, 1, 4, 3, 2, 5},   /* padding beyond the kernel */
    {16, 9, 9, 16, 9, 9, 1, 1, 1, 1, 1, 0, 0, 0, 0},   /* one place in the output */
    {64, 40, 56, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* several bands */
    {8, 12, 12, 64, 7, 7, 1, 1, 1, 1, 1, 3, 3, 3, 3},
    {64, 28, 28, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  /* from here on Winograd's tiles */
    {16, 25, 31, 48, 3, 3, 1, 1, 1, 1, 1, 0, 2, 1, 0},  /* uneven padding, rows of tiles cut */
    {208, 24, 24, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* weights in tiles of different width */
    {64, 9, 64, 64, 3, 3, 1, 1, 1, 1, 1, 2, 2, 2, 2},
    {288, 24, 24, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* the team shares the weights */
};
enum { WINOGRAD = 11 };
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

typedef struct bench {
    op_check c; /* for its noise and its memory */
    conv_case k;
    pg_conv_geometry g;
    int64_t positions, n, in; /* of d_src, its values, those of d_dst */
    float *w, *d, *out;
    pg_conv_path path;
    pg_conv_run run;
} bench;

static float *noise(bench *b, int64_t count) {
    float *values = op_check_array(&b->c, count);
    op_check_fill(&b->c, values, count);
    return values;
}

static void open(bench *b, const conv_case *k) {
    static pg_diag diag;
    const bool tiled = k >= shapes + WINOGRAD && k < shapes + SHAPES;
    memset(b, 0, sizeof *b);
    conv_node(&b->c, k);
    op_check_create(&b->c);
    b->k = *k;
    b->g = conv_path_case(k);
    b->positions = k->in_h * k->in_w;
    b->n = b->positions * k->in_c;
    b->in = conv_out_h(k) * conv_out_w(k) * k->out_c;
    b->w = noise(b, k->out_c * k->in_c * k->k_h * k->k_w);
    b->d = noise(b, b->in);
    b->out = op_check_array(&b->c, b->n);
    pg_conv_path_spec spec = {
        .geometry = &b->g, .backward = true, .weights = b->w, .kept = tiled ? k->out_c : 1};
    cr_assert_eq(pg_conv_path_make(&spec, &b->path, &diag), PG_OK, "%s", diag.text);
    cr_assert_str_eq(b->path.impl, tiled ? "own:few-winograd" : "own:few");
    void *scratch = op_check_own(&b->c, pg_calloc(b->path.scratch_bytes + 1, 1));
    cr_assert_eq(pg_conv_run_make(&b->path, b->d, b->out, scratch, &b->run, &diag), PG_OK);
}

static void close(bench *b) {
    pg_conv_run_free(&b->run);
    pg_conv_path_free(&b->path);
    op_check_close(&b->c);
}

/* d_src at row y, column x, channel i, channel j of d_dst having the weights of channel[j]. */
static double plain(const bench *b, const int32_t *channel, int64_t count, int64_t y, int64_t x,
                    int64_t i) {
    const conv_case *k = &b->k;
    double sum = 0;
    for (int64_t r = 0; r < k->k_h; r++)
        for (int64_t q = 0; q < k->k_w; q++) {
            int64_t oy = y + b->g.dnnl.pad_begin[0] - r, ox = x + b->g.dnnl.pad_begin[1] - q;
            if (oy < 0 || oy >= conv_out_h(k) || ox < 0 || ox >= conv_out_w(k))
                continue;
            const float *d = b->d + (oy * conv_out_w(k) + ox) * k->out_c;
            for (int64_t j = 0; j < count; j++) {
                int64_t o = channel ? channel[j] : j;
                int64_t at = ((o * k->in_c + i) * k->k_h + r) * k->k_w + q;
                sum += (double)d[j] * (double)b->w[at];
            }
        }
    return sum;
}

/* Float sums of up to some thousand products: 3e-6 of the largest. */
static void compare(const bench *b, const int32_t *channel, int64_t count) {
    double largest = 1e-30, worst = 0;
    for (int64_t p = 0; p < b->positions; p++)
        for (int64_t i = 0; i < b->k.in_c; i++) {
            double expected = plain(b, channel, count, p / b->k.in_w, p % b->k.in_w, i);
            largest = fmax(largest, fabs(expected));
            worst = fmax(worst, fabs(expected - (double)b->out[p * b->k.in_c + i]));
        }
    cr_assert(worst < 3e-6 * largest, "%g of %g", worst, largest);
}

static bool is_here(void) { return __builtin_cpu_supports("avx512f"); }

Test(conv_few, matches_plain_loops) {
    for (int s = 0; s < SHAPES && is_here(); s++) {
        bench b;
        open(&b, &shapes[s]);
        cr_assert_eq(pg_conv_run_execute(&b.path, &b.run), PG_OK);
        compare(&b, NULL, b.k.out_c);
        close(&b);
    }
}

/* Channels past those that matter hold what may be there: anything. */
Test(conv_few, some_channels) {
    for (int s = 0; s < SHAPES && is_here(); s++) {
        bench b;
        open(&b, &shapes[s]);
        float *packed = op_check_own(&b.c, pg_calloc(b.path.packed_bytes, 1));
        const pg_tiles tiles = b.path.own->tiles(&b.g, true);
        size_t bytes = pg_tiles_bytes(&tiles, b.k.out_c);
        float *all = op_check_own(&b.c, pg_calloc(bytes, 1));
        float *picked = op_check_own(&b.c, pg_calloc(bytes, 1));
        pg_tiles_pack(&tiles, &b.g, true, b.w, all);
        int64_t counts[] = {1, b.k.out_c / 3, b.k.out_c - 1};
        for (int i = 0; i < 3; i++) {
            int32_t channel[64];
            for (int64_t j = 0; j < counts[i]; j++)
                channel[j] = (int32_t)(j * b.k.out_c / counts[i]);
            for (int64_t p = 0; p < b.in; p++)
                if (p % b.k.out_c >= counts[i])
                    b.d[p] = NAN;
            pg_tiles_pick(&tiles, b.k.out_c, all, channel, counts[i], picked);
            if (b.path.own->transform)
                b.path.own->transform(&tiles, counts[i], picked, packed);
            cr_assert_eq(pg_conv_run_use(&b.run, b.path.own->transform ? packed : picked), PG_OK);
            cr_assert_eq(pg_conv_run_read(&b.run, b.d, counts[i]), PG_OK);
            cr_assert_eq(pg_conv_run_execute(&b.path, &b.run), PG_OK);
            compare(&b, channel, counts[i]);
            for (int64_t p = 0; p < b.in; p++)
                if (isnan(b.d[p]))
                    b.d[p] = (float)p / (float)b.in;
        }
        close(&b);
    }
}

static float *result_of(bench *b, int threads) {
    omp_set_num_threads(threads);
    cr_assert_eq(pg_conv_run_execute(&b->path, &b->run), PG_OK);
    float *copy = op_check_array(&b->c, b->n);
    memcpy(copy, b->out, (size_t)b->n * sizeof *copy);
    return copy;
}

/* The path was made for the most of them. */
Test(conv_few, threads_do_not_show) {
    int before = omp_get_max_threads();
    for (int s = 0; s < SHAPES && is_here(); s++) {
        bench b;
        omp_set_num_threads(3);
        open(&b, &shapes[s]);
        const float *three = result_of(&b, 3), *one = result_of(&b, 1);
        cr_assert_eq(memcmp(one, three, (size_t)b.n * sizeof *one), 0);
        close(&b);
    }
    omp_set_num_threads(before);
}
