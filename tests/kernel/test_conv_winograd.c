/* Winograd's convolution of our own against plain double loops: maps that no tile fits, channels
 * around tiles and blocks of weights, chunks of a thread and of the team, any number of threads
 * with the same bits, how large the rounding is, and what it must not be used for. With fused
 * additions and activations, and at sizes and paddings of every kind, test_conv_tune.c has it. */
#include "tests/support/op_check.h"

#include <omp.h>

#include "conv_path_case.h"
#include "kernels/conv_tune.h"

static const pg_conv_way *way(void) {
    for (int i = 0; i < PG_CONV_WAYS; i++)
        if (strcmp(pg_conv_ways[i].name, "own-winograd") == 0)
            return &pg_conv_ways[i];
    cr_assert_fail("there is no such way");
    return NULL;
}

static bool is_here(void) { return __builtin_cpu_supports("avx512f"); }

static float noise(uint64_t *state) {
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(*state >> 40) / 0x1p23 - 1);
}

/* in_c in_h in_w out_c, padding: 3x3 at stride 1 */
static conv_case shape(int64_t in_c, int64_t in_h, int64_t in_w, int64_t out_c, int64_t pad) {
    return (conv_case){in_c, in_h, in_w, out_c, 3, 3, 1, 1, 1, 1, 1, pad, pad, pad, pad};
}

static const int64_t shapes[][5] = {
    {16, 1, 1, 16, 1},    /* one pixel in the middle of a tile */
    {16, 3, 3, 16, 0},    /* one pixel comes out */
    {16, 5, 9, 112, 2},   /* tiles of weights of different width */
    {144, 9, 6, 64, 1},   /* two blocks of weights, which the team shares */
    {272, 6, 7, 80, 1},   /* blocks of uneven depth */
    {32, 45, 41, 32, 1},  /* two chunks for each thread */
    {64, 60, 61, 16, 0},  /* several */
    {16, 130, 6, 160, 1}, /* a narrow map, more channels out than in */
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static int64_t channels_of(const conv_case *k, bool out, int64_t *positions) {
    *positions = out ? conv_out_h(k) * conv_out_w(k) : k->in_h * k->in_w;
    return out ? k->out_c : k->in_c;
}

/* Values in the plain layout as floats, channels last. */
static float *packed(const conv_case *k, bool out, const double *values) {
    int64_t positions, c = channels_of(k, out, &positions);
    float *v = pg_malloc((size_t)(c * positions) * sizeof *v);
    for (int64_t i = 0; i < c * positions; i++)
        v[i % positions * c + i / positions] = (float)values[i];
    return v;
}

static double *doubles(int64_t count, uint64_t *state) {
    double *v = pg_malloc((size_t)count * sizeof *v);
    for (int64_t i = 0; i < count; i++)
        v[i] = state ? (double)noise(state) : 0;
    return v;
}

/* What comes out of this way with so many threads, channels last; allocated. */
static float *run(const conv_case *k, const pg_conv_way *way, bool backward, const float *weights,
                  const float *in, int threads) {
    omp_set_num_threads(threads);
    pg_conv_geometry g = conv_path_case(k);
    pg_conv_path_spec spec = {.geometry = &g, .backward = backward, .weights = weights, .way = way};
    pg_conv_path path = {0};
    pg_conv_run run = {0};
    pg_diag diag;
    int64_t positions, channels = channels_of(k, !backward, &positions);
    float *out = pg_malloc((size_t)(channels * positions) * sizeof *out);
    cr_assert_eq(pg_conv_path_make(&spec, &path, &diag), PG_OK, "%s", diag.text);
    void *scratch = pg_malloc(path.scratch_bytes + 1);
    memset(scratch, 255, path.scratch_bytes); /* NaNs: nothing is read that was not written */
    cr_assert_eq(pg_conv_run_make(&path, in, out, scratch, &run, &diag), PG_OK, "%s", diag.text);
    cr_assert_eq(pg_conv_run_execute(&path, &run), PG_OK);
    pg_conv_run_free(&run);
    pg_conv_path_free(&path);
    pg_free(scratch);
    return out;
}

/* Largest difference from what is expected, in plain layout, and the largest of that. */
static double difference(const conv_case *k, bool out, const float *got, const double *expected,
                         double *largest) {
    int64_t positions, c = channels_of(k, out, &positions);
    double most = 0;
    *largest = 0;
    for (int64_t i = 0; i < c * positions; i++) {
        most = fmax(most, fabs((double)got[i % positions * c + i / positions] - expected[i]));
        *largest = fmax(*largest, fabs(expected[i]));
    }
    return most;
}

typedef struct problem {
    conv_case k;
    float *weights, *in;
    double *expected;
    bool backward;
} problem;

static problem open(conv_case k, bool backward, uint64_t seed) {
    int64_t n_in = k.in_c * k.in_h * k.in_w, n_out = k.out_c * conv_out_h(&k) * conv_out_w(&k);
    int64_t n_w = k.out_c * k.in_c * 9;
    double *w = doubles(n_w, &seed), *in = doubles(backward ? n_out : n_in, &seed);
    problem p = {.k = k, .backward = backward};
    p.weights = pg_malloc((size_t)n_w * sizeof(float));
    for (int64_t i = 0; i < n_w; i++)
        p.weights[i] = (float)w[i];
    p.in = packed(&k, backward, in);
    p.expected = doubles(backward ? n_in : n_out, NULL);
    if (backward)
        conv_backward(&k, in, w, p.expected);
    else
        conv_forward(&k, in, w, NULL, p.expected);
    pg_free(w);
    pg_free(in);
    return p;
}

static void close(problem *p) {
    pg_free(p->weights);
    pg_free(p->in);
    pg_free(p->expected);
}

/* 3e-6 of the largest, as for the other kernels of our own. */
Test(conv_winograd, matches_plain_loops_with_any_number_of_threads) {
    for (int i = 0; is_here() && i < 2 * SHAPES; i++) {
        const int64_t *s = shapes[i / 2];
        problem p = open(shape(s[0], s[1], s[2], s[3], s[4]), i % 2, (uint64_t)i);
        int64_t positions, channels = channels_of(&p.k, !p.backward, &positions);
        float *first = NULL;
        for (int threads = 1; threads <= 4; threads++) {
            float *out = run(&p.k, way(), p.backward, p.weights, p.in, threads);
            double largest, most = difference(&p.k, !p.backward, out, p.expected, &largest);
            cr_assert_leq(most, 3e-6 * largest, "shape %d, %d threads: %.3g of %.3g", i, threads,
                          most, largest);
            if (first)
                cr_assert_arr_eq(out, first, (size_t)(channels * positions) * sizeof *out,
                                 "shape %d: %d threads show", i, threads);
            else
                first = out;
            if (out != first)
                pg_free(out);
        }
        pg_free(first);
        close(&p);
    }
}

/* The points are chosen so that rounding is near that of the plain sum in float, as the default way
 * takes it, and not the many times that Winograd is known for: with 0, +-1, +-2 it is 5 times as
 * large here. */
Test(conv_winograd, rounds_little_more_than_a_plain_sum) {
    double ratio = 0;
    for (int i = 0; is_here() && i < 4; i++) {
        problem p = open(shape(256, 12, 12, 32, 1), false, (uint64_t)i + 100);
        double largest, most[2];
        for (int w = 0; w < 2; w++) {
            float *out = run(&p.k, w ? way() : pg_conv_ways, false, p.weights, p.in, 1);
            most[w] = difference(&p.k, true, out, p.expected, &largest);
            pg_free(out);
        }
        ratio += most[1] / most[0] / 4;
        close(&p);
    }
    cr_assert_leq(ratio, 3);
}

static bool possible(pg_conv_path_spec spec, pg_conv_geometry g) {
    pg_conv_path path = {0};
    spec.geometry = &g;
    spec.way = way();
    bool ok = pg_conv_path_make(&spec, &path, NULL) == PG_OK;
    pg_conv_path_free(&path);
    return ok;
}

Test(conv_winograd, refuses_what_it_is_not_for) {
    static float weights[32 * 32 * 25];
    const conv_case k = shape(32, 8, 8, 32, 1);
    const pg_conv_path_spec spec = {.weights = weights};
    const pg_conv_geometry g = conv_path_case(&k);
    cr_assert_eq(possible(spec, g), is_here());
    conv_case bad[] = {k, k, k, k, k, k, k};
    bad[0].stride_w = 2;
    bad[1].dilation_h = 2;
    bad[2].k_h = 5;
    bad[3].groups = 2;
    bad[4].in_c = 24;
    bad[5].out_c = 20;
    bad[6].top = 3;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert(!possible(spec, conv_path_case(&bad[i])), "%zu", i);
    pg_conv_path_spec other[] = {spec, spec, spec, spec};
    other[0].weights = NULL; /* they come with each run */
    other[1].bf16 = true;
    other[2].library_only = true;
    other[3].exact = true;
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        cr_assert(!possible(other[i], g), "%zu", i);
}

/* Relevance divides by sums that may be 0, and multiplies by inputs that are 0 then: a million
 * beside ones. The tuner, even if it were told, takes no Winograd where that is asked. */
Test(conv_winograd, exact_sums_do_without_it) {
    problem p = open(shape(64, 28, 28, 64, 1), true, 7);
    pg_conv_geometry g = conv_path_case(&p.k);
    omp_set_num_threads(1);
    for (int told = 0; told < 2; told++) {
        pg_conv_tuner tuner = {.active = true, .budget_ns = 1000000000};
        pg_conv_path_spec spec = {
            .geometry = &g, .backward = true, .weights = p.weights, .exact = true};
        if (told)
            cr_assert(pg_conv_tuner_know(
                &tuner, "backward 1 64 28 28 64 28 28 3 3 1 1 0 0 1 1 exact", "own-winograd"));
        pg_conv_path path = {0};
        cr_assert_eq(pg_conv_tuner_make(&tuner, &spec, &path, NULL), PG_OK);
        cr_assert_null(strstr(path.impl, "wino"), "%s", path.impl);
        cr_assert_eq(tuner.count, 1); /* under that very name */
        pg_conv_path_free(&path);
        pg_conv_tuner_free(&tuner);
    }
    close(&p);
}
