/* Every way a convolution may take computes the same, whatever the tuner chooses; and the tuner
 * itself: what it knows it takes, what is impossible it does not. */
#include "tests/support/op_check.h"

#include <omp.h>

#include "conv_path_case.h"
#include "kernels/channel_ops.h"
#include "kernels/conv_path.h"
#include "kernels/conv_tune.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right: where Winograd
 * and the flipped way are at home, beside the common grid */
static const conv_case more[] = {
    {64, 28, 28, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {32, 14, 14, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {32, 13, 15, 32, 3, 3, 1, 1, 1, 1, 1, 0, 1, 1, 0},
    {64, 7, 7, 128, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {17, 9, 12, 33, 5, 3, 1, 1, 1, 2, 1, 4, 0, 3, 2},
    {16, 12, 12, 16, 3, 3, 1, 1, 1, 1, 1, 3, 3, 3, 3},
};
enum { MORE = sizeof more / sizeof more[0], CASES = CONV_GRID + MORE };

typedef struct bench {
    conv_case k;
    pg_conv_geometry g;
    int64_t x_n, y_n, w_n;
    float *x, *w, *b, *skip, *y, *d_y, *d_x; /* x, skip, y and gradients channels-last */
    double *z, *xd, *wd, *bd, *gd, *d_xd;
    uint64_t state;
} bench;

static float noise(bench *b) {
    b->state = b->state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(b->state >> 40) / 0x1p23 - 1);
}

static float *floats(bench *b, int64_t n) {
    float *v = pg_malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = noise(b);
    return v;
}

/* Channels-last floats as plain doubles. */
static double *plain(const float *v, int64_t channels, int64_t positions) {
    double *d = pg_malloc((size_t)(channels * positions) * sizeof *d);
    for (int64_t p = 0; p < positions; p++)
        for (int64_t c = 0; c < channels; c++)
            d[c * positions + p] = (double)v[p * channels + c];
    return d;
}

static void open(bench *b, const conv_case *k) {
    *b = (bench){.k = *k, .state = 7};
    int64_t h = conv_out_h(k), w = conv_out_w(k);
    b->g = conv_path_case(k);
    b->x_n = k->in_c * k->in_h * k->in_w;
    b->y_n = k->out_c * h * w;
    b->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    b->x = floats(b, b->x_n), b->w = floats(b, b->w_n), b->b = floats(b, k->out_c);
    b->skip = floats(b, b->y_n), b->y = floats(b, b->y_n), b->d_y = floats(b, b->y_n);
    b->d_x = floats(b, b->x_n);
    b->xd = plain(b->x, k->in_c, k->in_h * k->in_w);
    b->gd = plain(b->d_y, k->out_c, h * w);
    b->wd = pg_malloc((size_t)b->w_n * sizeof(double));
    b->bd = pg_malloc((size_t)k->out_c * sizeof(double));
    b->z = pg_malloc((size_t)b->y_n * sizeof(double));
    b->d_xd = pg_malloc((size_t)b->x_n * sizeof(double));
    for (int64_t i = 0; i < b->w_n; i++)
        b->wd[i] = (double)b->w[i];
    for (int64_t i = 0; i < k->out_c; i++)
        b->bd[i] = (double)b->b[i];
    conv_forward(k, b->xd, b->wd, b->bd, b->z);
    conv_backward(k, b->gd, b->wd, b->d_xd);
}

static void close(bench *b) {
    void *all[] = {b->x, b->w,  b->b,  b->skip, b->y,  b->d_y, b->d_x,
                   b->z, b->xd, b->wd, b->bd,   b->gd, b->d_xd};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pg_free(all[i]);
}

static void near(const float *got, const double *expected, int64_t channels, int64_t positions,
                 double tolerance, const char *impl) {
    double *d = plain(got, channels, positions), largest = 1e-30;
    for (int64_t i = 0; i < channels * positions; i++)
        largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < channels * positions; i++)
        cr_assert(fabs(d[i] - expected[i]) <= tolerance * largest, "%s: %.9g instead of %.9g", impl,
                  d[i], expected[i]);
    pg_free(d);
}

/* Rounding of float sums; Winograd's transforms of 6x6 tiles multiply it by some units. */
static double tolerance_of(const pg_conv_path *path) {
    return strstr(path->impl, "wino") ? 2e-5 : 3e-6;
}

static void run_path(const bench *b, const pg_conv_path *path, const pg_conv_path_spec *spec) {
    pg_conv_run run = {0};
    pg_diag diag;
    void *scratch = pg_malloc(path->scratch_bytes + 1);
    const float *in = spec->backward ? b->d_y : b->x;
    float *out = spec->backward ? b->d_x : b->y;
    cr_assert(pg_conv_run_make(path, in, out, scratch, &run, &diag) == PG_OK, "%s", diag.text);
    if (path->adds)
        cr_assert(pg_conv_run_add(path, &run, b->skip, &diag) == PG_OK);
    cr_assert(pg_conv_run_execute(path, &run) == PG_OK);
    pg_conv_run_free(&run);
    pg_free(scratch);
}

static void check_forward(const bench *b, const pg_conv_path *path, const pg_conv_path_spec *spec,
                          float lo, float hi) {
    int64_t positions = b->g.out_h * b->g.out_w, channels = b->g.out_c;
    run_path(b, path, spec);
    if (!path->whole)
        pg_channel_add_act(positions, channels, b->y, spec->add ? b->skip : NULL,
                           (pg_act_range){lo, hi});
    double *expected = plain(b->skip, channels, positions);
    for (int64_t i = 0; i < b->y_n; i++)
        expected[i] = fmin(fmax(b->z[i] + (spec->add ? expected[i] : 0), lo), hi);
    /* clipping hides how large the sums were */
    near(b->y, expected, channels, positions, 5 * tolerance_of(path), path->impl);
    pg_free(expected);
}

static const struct {
    pg_act act;
    float lo, hi;
} acts[] = {
    {PG_ACT_NONE, -INFINITY, INFINITY}, {PG_ACT_RELU, 0, INFINITY}, {PG_ACT_CLIP, -0.5f, 2}};
enum { VARIANTS = 7, BACKWARD = 6 };

/* False: this way is not possible here. */
static bool check_way(const bench *b, const pg_conv_way *way, int variant) {
    bool backward = variant == BACKWARD;
    int act = backward ? 0 : variant / 2;
    pg_conv_path_spec spec = {.geometry = &b->g,
                              .backward = backward,
                              .weights = b->w,
                              .bias = b->b,
                              .add = variant % 2,
                              .act = acts[act].act,
                              .lo = acts[act].lo,
                              .hi = acts[act].hi,
                              .way = way};
    pg_conv_path path = {0};
    if (pg_conv_path_make(&spec, &path, NULL) != PG_OK)
        return false;
    if (way != pg_conv_ways)
        cr_assert_null(strstr(path.impl, "ref"), "%s", path.impl);
    if (backward) {
        run_path(b, &path, &spec);
        near(b->d_x, b->d_xd, b->k.in_c, b->k.in_h * b->k.in_w, tolerance_of(&path), path.impl);
    } else {
        check_forward(b, &path, &spec, acts[act].lo, acts[act].hi);
    }
    pg_conv_path_free(&path);
    return true;
}

Test(conv_tune, every_way_computes_the_same) {
    int taken[PG_CONV_WAYS] = {0};
    omp_set_num_threads(1);
    for (int i = 0; i < CASES; i++) {
        bench b;
        open(&b, i < CONV_GRID ? &conv_grid[i] : &more[i - CONV_GRID]);
        for (int w = 0; w < PG_CONV_WAYS; w++)
            for (int variant = 0; variant < VARIANTS; variant++)
                taken[w] += check_way(&b, &pg_conv_ways[w], variant);
        close(&b);
    }
    /* oneDNN 3.x has no Winograd, older processors no registers for kernels of our own */
    bool wide = __builtin_cpu_supports("avx512f");
    for (int w = 0; w < PG_CONV_WAYS; w++)
        cr_assert(taken[w] > 0 || pg_conv_ways[w].winograd || (pg_conv_ways[w].own && !wide),
                  "%s is never possible", pg_conv_ways[w].name);
}

/* A choice is kept by name, and made again in another process. */
Test(conv_tune, a_way_is_the_same_whatever_was_made_before) {
    omp_set_num_threads(1);
    for (int i = 0; i < CASES; i++) {
        bench b;
        open(&b, i < CONV_GRID ? &conv_grid[i] : &more[i - CONV_GRID]);
        for (int backward = 0; backward < 2; backward++)
            for (int w = 0; w < PG_CONV_WAYS; w++) {
                pg_conv_path_spec spec = {.geometry = &b.g,
                                          .backward = backward,
                                          .weights = b.w,
                                          .act = PG_ACT_RELU,
                                          .way = &pg_conv_ways[w]};
                pg_conv_path after = {0}, alone = {0};
                pg_err first = pg_conv_path_make(&spec, &after, NULL);
                pg_dnnl_forget();
                cr_assert_eq(pg_conv_path_make(&spec, &alone, NULL), first);
                cr_assert_str_eq(after.impl, alone.impl, "shape %d, %s", i, spec.way->name);
                cr_assert_eq(after.packed_bytes, alone.packed_bytes);
                pg_conv_path_free(&after);
                pg_conv_path_free(&alone);
            }
        close(&b);
    }
}

/* 3x3 at stride 1 of any size and padding. */
Test(conv_tune, winograd_and_flipped_at_any_size) {
    uint64_t state = 3;
    omp_set_num_threads(1);
    for (int i = 0; i < 150; i++) {
        int64_t r[8];
        for (int k = 0; k < 8; k++) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            r[k] = (int64_t)(state >> 33);
        }
        conv_case k = {16 * (1 + r[0] % 3),
                       3 + r[1] % 18,
                       3 + r[2] % 18,
                       16 * (1 + r[3] % 3),
                       3,
                       3,
                       1,
                       1,
                       1,
                       1,
                       1,
                       r[4] % 3,
                       r[5] % 3,
                       r[6] % 3,
                       r[7] % 3};
        bench b;
        open(&b, &k);
        for (int w = 0; w < PG_CONV_WAYS; w++)
            if (pg_conv_ways[w].winograd || pg_conv_ways[w].flipped || pg_conv_ways[w].own)
                for (int variant = i % 3; variant < VARIANTS; variant += 3)
                    check_way(&b, &pg_conv_ways[w], variant);
        close(&b);
    }
}

Test(conv_tune, the_default_stays_without_a_tuner_or_a_budget) {
    bench b;
    open(&b, &more[0]);
    pg_conv_path_spec spec = {.geometry = &b.g, .weights = b.w, .add = true, .act = PG_ACT_RELU};
    pg_conv_tuner off = {0}, broke = {.active = true};
    pg_conv_tuner *tuners[] = {NULL, &off, &broke};
    pg_conv_path plain_path = {0};
    cr_assert(pg_conv_path_make(&spec, &plain_path, NULL) == PG_OK);
    for (int i = 0; i < 3; i++) {
        pg_conv_path path = {0};
        cr_assert(pg_conv_tuner_make(tuners[i], &spec, &path, NULL) == PG_OK);
        cr_assert_str_eq(path.impl, plain_path.impl);
        pg_conv_path_free(&path);
    }
    cr_assert(!broke.changed && broke.count == 0);
    pg_conv_path_free(&plain_path);
    close(&b);
}

/* Measured once, and the same again for an equal one; a way that is known but impossible does not
 * hurt. */
Test(conv_tune, choices_are_kept) {
    bench b;
    open(&b, &more[0]);
    const uint64_t budget = 1000000000;
    pg_conv_tuner tuner = {.active = true, .budget_ns = budget}, told = {.active = true};
    for (int backward = 0; backward < 2; backward++) {
        pg_conv_path_spec spec = {.geometry = &b.g, .weights = b.w, .backward = backward};
        char impl[PG_CONV_IMPL_MAX];
        for (int turn = 0; turn < 2; turn++) {
            pg_conv_path path = {0};
            cr_assert(pg_conv_tuner_make(&tuner, &spec, &path, NULL) == PG_OK);
            if (turn > 0)
                cr_assert_str_eq(path.impl, impl);
            snprintf(impl, sizeof impl, "%s", path.impl);
            pg_conv_path_free(&path);
        }
        const char *key, *way;
        cr_assert(tuner.changed && tuner.count == backward + 1 && tuner.budget_ns < budget);
        pg_conv_tuner_entry(&tuner, backward, &key, &way);
        cr_assert(pg_conv_tuner_know(&told, key, backward ? way : "flip")); /* not for forward */
        pg_conv_path path = {0};
        cr_assert(pg_conv_tuner_make(&told, &spec, &path, NULL) == PG_OK);
        if (backward)
            cr_assert_str_eq(path.impl, impl);
        pg_conv_path_free(&path);
    }
    cr_assert(!told.changed && told.count == 2);
    pg_conv_tuner_free(&tuner);
    pg_conv_tuner_free(&told);
    close(&b);
}

Test(conv_tune, what_is_told_is_checked) {
    pg_conv_tuner tuner = {.active = true};
    char key[PG_CONV_KEY_MAX + 1], text[PG_CONV_KEY_MAX];
    memset(key, 'a', sizeof key);
    key[PG_CONV_KEY_MAX] = '\0';
    cr_assert(!pg_conv_tuner_know(&tuner, key, "default"), "too long");
    cr_assert(!pg_conv_tuner_know(&tuner, "", "default"));
    cr_assert(!pg_conv_tuner_know(&tuner, "forward 1\x80", "default"));
    cr_assert(!pg_conv_tuner_know(&tuner, "forward 1", "Default"));
    cr_assert(pg_conv_tuner_know(&tuner, "forward 1", "default"));
    cr_assert(!pg_conv_tuner_know(&tuner, "forward 1", "default"), "twice");
    int known = 1;
    for (int i = 0; i < 2 * PG_CONV_CHOICES_MAX; i++) {
        snprintf(text, sizeof text, "forward %d 2", i);
        known += pg_conv_tuner_know(&tuner, text, "blocked");
    }
    cr_assert_eq(known, PG_CONV_CHOICES_MAX);
    pg_conv_tuner_library(text);
    cr_assert(strstr(text, "oneDNN") && strstr(text, "threads"));
    pg_conv_tuner_free(&tuner);
    cr_assert_null(tuner.choices);
}

/* Where Winograd is at home, and asked for nothing but speed it may win. */
Test(conv_tune, lean_is_no_larger_than_the_default) {
    static pg_diag diag;
    bench b;
    open(&b, &more[0]);
    for (int backward = 0; backward < 2; backward++) {
        pg_conv_path_spec spec = {
            .geometry = &b.g, .backward = backward, .weights = b.w, .lean = true};
        pg_conv_tuner tuner = {.active = true, .budget_ns = 1000000000};
        pg_conv_path lean = {0}, usual = {0};
        cr_assert_eq(pg_conv_path_make(&spec, &usual, &diag), PG_OK, "%s", diag.text);
        for (int known = 0; known < 2; known++) {
            cr_assert_eq(pg_conv_tuner_make(&tuner, &spec, &lean, &diag), PG_OK, "%s", diag.text);
            cr_assert_leq(lean.packed_bytes, usual.packed_bytes, "%s", lean.impl);
            pg_conv_path_free(&lean);
        }
        spec.lean = false; /* a choice of its own */
        int before = tuner.count;
        cr_assert_eq(pg_conv_tuner_make(&tuner, &spec, &lean, &diag), PG_OK, "%s", diag.text);
        cr_assert_eq(tuner.count, before + 1);
        pg_conv_path_free(&lean);
        pg_conv_path_free(&usual);
        pg_conv_tuner_free(&tuner);
    }
    close(&b);
}
