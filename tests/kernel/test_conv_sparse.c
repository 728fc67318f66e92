/* Convolutions of inputs with many zeros against plain double loops, both ways: blocks of input
 * channels that are full and that are not, taps beyond the map, strides, dilation, odd numbers of
 * positions, more lines than share a block of weights, inputs without a zero and without anything
 * else, and any number of threads with the same bits. */
#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "conv_path_case.h"
#include "kernels/conv_tune.h"
#include "kernels/mem.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right; channels that it
 * takes, of the first shape forward only */
static const conv_case shapes[] = {
    {144, 6, 5, 128, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* the last block is of 16 channels */
    {128, 7, 7, 128, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {128, 20, 21, 256, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, /* lines in two parts, the second short */
    {384, 5, 6, 640, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {128, 9, 10, 128, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0},  /* a rest unread */
    {128, 4, 300, 128, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, /* a line of more than a share */
    {128, 23, 20, 128, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, /* taps that reach into another share */
    {128, 45, 24, 128, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1}, /* with a stride */
    {128, 40, 13, 128, 5, 1, 1, 3, 1, 2, 1, 4, 0, 4, 0}, /* and lines that no tap reaches */
    {128, 3, 3, 128, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},   /* positions that see nothing */
    {128, 7, 6, 128, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {256, 8, 9, 128, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1},
    {128, 9, 9, 128, 3, 3, 1, 2, 2, 1, 1, 0, 0, 1, 1},
    {128, 8, 8, 128, 3, 2, 1, 1, 2, 2, 3, 2, 0, 1, 3},
    {128, 2, 2, 128, 5, 5, 1, 1, 1, 1, 1, 4, 2, 2, 4}, /* padding beyond the map */
    {128, 1, 1, 128, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, /* a fully connected layer */
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static uint64_t state;

static float noise(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(state >> 40) / 0x1p23 - 1);
}

/* Channels-last, and the same in ONNX order and double; of `zeros` elements in 8 nothing is left.
 */
static float *values(int64_t channels, int64_t positions, int zeros, double **wide) {
    float *v = pg_malloc((size_t)(channels * positions) * sizeof *v);
    *wide = pg_malloc((size_t)(channels * positions) * sizeof **wide);
    for (int64_t p = 0; p < positions; p++)
        for (int64_t c = 0; c < channels; c++) {
            float x = noise();
            x = (int)(state >> 60) / 2 < zeros ? 0 : x;
            v[p * channels + c] = x;
            (*wide)[c * positions + p] = (double)x;
        }
    return v;
}

/* In an array that is not empty before. */
static float *compute(const pg_conv_path_spec *spec, const float *in, int64_t count) {
    pg_conv_path path = {0};
    pg_conv_run run = {0};
    float *out = pg_malloc((size_t)count * sizeof *out);
    memset(out, 0x7f, (size_t)count * sizeof *out);
    cr_assert_eq(pg_conv_path_make(spec, &path, NULL), PG_OK);
    bool own = strcmp(path.impl, "own:sparse") == 0;
    cr_assert_eq(own, pg_conv_path_is_sparse(spec));
    if (!spec->backward || spec->geometry->in_c % 128 == 0)
        cr_assert_eq(own, (bool)__builtin_cpu_supports("avx512f"), "%s", path.impl);
    void *scratch = pg_malloc(path.scratch_bytes + 1);
    cr_assert_eq(pg_conv_run_make(&path, in, out, scratch, &run, NULL), PG_OK);
    cr_assert_eq(pg_conv_run_execute(&path, &run), PG_OK);
    pg_conv_run_free(&run);
    pg_conv_path_free(&path);
    pg_free(scratch);
    return out;
}

/* The order of sums is another than the reference's: rounding of the largest. */
static void near(const float *got, const double *expected, int64_t channels, int64_t positions,
                 bool relu) {
    double largest = 1e-30;
    for (int64_t i = 0; i < channels * positions; i++)
        largest = fmax(largest, fabs(expected[i]));
    for (int64_t p = 0; p < positions; p++)
        for (int64_t c = 0; c < channels; c++) {
            double e = expected[c * positions + p];
            e = relu && e < 0 ? 0 : e;
            cr_assert_float_eq((double)got[p * channels + c], e, 3e-6 * largest);
        }
}

static void check(const conv_case *k, int zeros, bool with_bias, bool relu) {
    pg_conv_geometry g = conv_path_case(k);
    int64_t in = k->in_h * k->in_w, out = g.out_h * g.out_w, taps = k->k_h * k->k_w;
    double *x, *w, *b, *d, *z = pg_malloc((size_t)(k->out_c * out) * sizeof *z);
    double *d_x = pg_malloc((size_t)(k->in_c * in) * sizeof *d_x);
    float *xf = values(k->in_c, in, zeros, &x), *df = values(k->out_c, out, zeros, &d);
    float *wf = values(k->out_c * k->in_c * taps, 1, 0, &w), *bf = values(k->out_c, 1, 0, &b);
    conv_forward(k, x, w, with_bias ? b : NULL, z);
    conv_backward(k, d, w, d_x);
    pg_conv_path_spec spec = {.geometry = &g,
                              .weights = wf,
                              .bias = with_bias ? bf : NULL,
                              .act = relu ? PG_ACT_RELU : PG_ACT_NONE,
                              .hi = INFINITY,
                              .sparse = true};
    float *y = compute(&spec, xf, k->out_c * out);
    near(y, z, k->out_c, out, relu);
    spec.backward = true;
    float *back = compute(&spec, df, k->in_c * in);
    near(back, d_x, k->in_c, in, false);
    void *all[] = {x, w, b, d, z, d_x, xf, df, wf, bf, y, back};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pg_free(all[i]);
}

Test(conv_sparse, matches_plain_loops) {
    omp_set_num_threads(1);
    for (int i = 0; i < SHAPES; i++)
        for (int zeros = 0; zeros <= 8; zeros += 4)
            check(&shapes[i], zeros, i % 2 == zeros / 4 % 2, i % 3 == 0);
}

Test(conv_sparse, a_nan_is_no_zero) {
    pg_conv_geometry g = conv_path_case(&shapes[1]);
    double *x, *w;
    float *xf = values(128, 49, 4, &x), *wf = values(128 * 128, 1, 0, &w);
    xf[10 * 128 + 3] = NAN;
    pg_conv_path_spec spec = {.geometry = &g, .weights = wf, .sparse = true};
    float *y = compute(&spec, xf, 128 * 49);
    for (int64_t i = 0; i < 128 * 49; i++)
        cr_assert_eq(isnan(y[i]) != 0, i / 128 == 10);
    pg_free(x), pg_free(w), pg_free(xf), pg_free(wf), pg_free(y);
}

Test(conv_sparse, threads_do_not_show) {
    for (int i = 0; i < SHAPES; i++) {
        pg_conv_geometry g = conv_path_case(&shapes[i]);
        int64_t count = g.out_c * g.out_h * g.out_w;
        double *x, *w;
        float *xf = values(g.in_c, g.in_h * g.in_w, 4, &x);
        float *wf = values(g.out_c * g.in_c * g.k_h * g.k_w, 1, 0, &w), *y[3];
        pg_conv_path_spec spec = {.geometry = &g, .weights = wf, .sparse = true};
        for (int t = 0; t < 3; t++) {
            omp_set_num_threads(t + 1);
            y[t] = compute(&spec, xf, count);
            cr_assert_eq(memcmp(y[t], y[0], (size_t)count * sizeof(float)), 0);
        }
        pg_free(x), pg_free(w), pg_free(xf), pg_free(wf);
        pg_free(y[0]), pg_free(y[1]), pg_free(y[2]);
    }
}

/* What it does not take goes to the library; and the tuner knows the two apart. */
Test(conv_sparse, takes_what_suits_it) {
    const conv_case *k = &shapes[10];
    pg_conv_geometry g = conv_path_case(k);
    pg_conv_path_spec spec = {.geometry = &g, .sparse = true};
    bool here = __builtin_cpu_supports("avx512f");
    cr_assert_eq(pg_conv_path_is_sparse(&spec), here);
    pg_conv_path_spec other = spec;
    other.sparse = false;
    cr_assert_not(pg_conv_path_is_sparse(&other));
    other = spec, other.add = true;
    cr_assert_not(pg_conv_path_is_sparse(&other));
    other = spec, other.act = PG_ACT_CLIP;
    cr_assert_not(pg_conv_path_is_sparse(&other));
    other = spec, other.library_only = true;
    cr_assert_not(pg_conv_path_is_sparse(&other));
    pg_conv_geometry narrow = g;
    narrow.out_c = 64;
    other = spec, other.geometry = &narrow;
    cr_assert_not(pg_conv_path_is_sparse(&other), "half a panel");
    narrow = g, narrow.in_c = 24;
    cr_assert_not(pg_conv_path_is_sparse(&other), "channels that are no whole vectors");

    pg_conv_tuner tuner = {.active = true, .budget_ns = 1000000000};
    pg_conv_path path = {0};
    double *w;
    float *wf = values(128 * 128 * 9, 1, 0, &w);
    spec.weights = wf;
    cr_assert_eq(pg_conv_tuner_make(&tuner, &spec, &path, NULL), PG_OK);
    pg_conv_path_free(&path);
    spec.sparse = false;
    cr_assert_eq(pg_conv_tuner_make(&tuner, &spec, &path, NULL), PG_OK);
    cr_assert_eq(tuner.count, here ? 2 : 1);
    pg_conv_path_free(&path);
    pg_conv_tuner_free(&tuner);
    pg_free(w), pg_free(wf);
}
