/* Expected values of the 5 x 4 map a[i] = ((7 i i + 3 i) mod 23) / 4 - 2: numpy and scipy 1.13.1,
 * gaussian_filter(a, 1.5, mode='reflect', truncate=4), percentile(|a|, q), the definitions of
 * entropy and of Gini's coefficient as mean absolute difference. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/threads.h"
#include "pipeline/map.h"

enum { H = 5, W = 4, N = H * W };
static float a[N];
static pg_map_scratch scratch;

static void set_up(void) {
    for (int i = 0; i < N; i++)
        a[i] = (float)((7 * i * i + 3 * i) % 23) / 4 - 2;
    cr_assert_eq(pg_map_scratch_create(H, W, 1.5, &scratch, NULL), PG_OK);
}
static void tear_down(void) { pg_map_scratch_destroy(&scratch); }
TestSuite(map, .init = set_up, .fini = tear_down);

Test(map, smooths_like_scipy) {
    static const float want[N] = {0.0075632f, 0.2585580f,  0.5101816f, 0.6119371f, 0.2062477f,
                                  0.4319746f, 0.6606482f,  0.7541033f, 0.2891721f, 0.5072101f,
                                  0.7336099f, 0.8293889f,  0.0915782f, 0.3598602f, 0.6522849f,
                                  0.7882950f, -0.1610628f, 0.1751173f, 0.5531958f, 0.7401367f};
    pg_map_smooth(&scratch, a);
    for (int i = 0; i < N; i++)
        cr_assert(fabsf(a[i] - want[i]) < 1e-6f, "%d: %g, not %g", i, a[i], want[i]);
}

Test(map, numbers) {
    const float *sorted = pg_map_sort(&scratch, a);
    for (int i = 1; i < N; i++)
        cr_assert(sorted[i] >= sorted[i - 1]);
    cr_assert(fabs(pg_map_percentile(sorted, N, 99.5) - 3.42875) < 1e-6);
    cr_assert(fabs(pg_map_percentile(sorted, N, 30) - 0.5) < 1e-6);
    pg_map_spread spread = pg_map_measure(sorted, N);
    cr_assert(fabs(spread.gini - 0.416346153846154) < 1e-6);
    cr_assert(fabs(spread.entropy - 0.902480842779555) < 1e-6);
}

Test(map, ends_of_the_scales) {
    float same[N], one[N] = {0}, none[N] = {0};
    for (int i = 0; i < N; i++)
        same[i] = 1e-30f;
    one[7] = -3e30f;
    pg_map_spread spread = pg_map_measure(pg_map_sort(&scratch, same), N);
    cr_assert(fabs(spread.entropy - 1) < 1e-12 && fabs(spread.gini) < 1e-12);
    spread = pg_map_measure(pg_map_sort(&scratch, one), N);
    cr_assert(spread.entropy == 0 && fabs(spread.gini - (1 - 1.0 / N)) < 1e-12);
    spread = pg_map_measure(pg_map_sort(&scratch, none), N);
    cr_assert(spread.entropy == 0 && spread.gini == 0);
    spread = pg_map_measure(&same[0], 1);
    cr_assert(spread.entropy == 0 && spread.gini == 0);
    one[3] = NAN;
    cr_assert(pg_map_finite(none, N) && !pg_map_finite(one, N));
}

/* ---- large maps, which a team shares ---- */

enum { LARGE_H = 151, LARGE_W = 211, LARGE = LARGE_H * LARGE_W };

static float large[LARGE], ordered[LARGE];

/* What maps may look like: no two pixels alike over many octaves, all within a few units in the
 * last place, three levels, mostly zeros of both signs, denormals beside the largest numbers,
 * two buckets that meet where the parts of two threads do, all alike. */
static float sample(int kind, int i) {
    uint32_t random = (uint32_t)i * 2654435761u;
    random ^= random >> 15;
    float unit = (float)(random >> 8) / 16777216.0f, sign = random & 1 ? 1 : -1;
    switch (kind) {
    case 0:
        return sign * expf(30 * unit - 20);
    case 1:
        return sign * (1 + (float)(random % 97) * 0x1p-23f);
    case 2:
        return sign * (float)(random % 3);
    case 3:
        return random % 10 ? 0 * sign : sign * unit;
    case 4:
        return random & 2 ? sign * unit * 1e-39f : sign * (3e38f + unit * 1e37f);
    case 5:
        return sign * ((i < LARGE / 2 ? 1 : 2) + unit / 16);
    default:
        return sign * 0.25f;
    }
}

static int ascending(const void *x, const void *y) {
    float u = *(const float *)x, v = *(const float *)y;
    return (u > v) - (u < v);
}

/* Long double sums over the values as they are defined. */
static pg_map_spread spread_of(const float *values, int count) {
    long double sum = 0, ranked = 0, share = 0, logged = 0;
    for (int i = 0; i < count; i++) {
        long double x = values[i], v = x / values[count - 1];
        sum += x;
        ranked += (i + 1) * x;
        share += v;
        logged += v > 0 ? v * logl(v) : 0;
    }
    return (pg_map_spread){.entropy = (double)((logl(share) - logged / share) / logl(count)),
                           .gini = (double)(2 * ranked / (count * sum) - (count + 1.0L) / count)};
}

/* Whatever the number of threads: the order of qsort, and the same figures to the bit. The
 * entropy's logarithms are pg_logf's, whose error is below 1e-7 of max(1, |ln x|), and |ln x| is
 * below 200 where x still counts. */
Test(map, sorts_and_measures_with_any_team) {
    pg_map_scratch s;
    cr_assert_eq(pg_map_scratch_create(LARGE_H, LARGE_W, 0, &s, NULL), PG_OK);
    for (int kind = 0; kind < 7; kind++) {
        for (int i = 0; i < LARGE; i++) {
            large[i] = sample(kind, i);
            ordered[i] = fabsf(large[i]);
        }
        qsort(ordered, LARGE, sizeof ordered[0], ascending);
        pg_map_spread want = spread_of(ordered, LARGE), first = want;
        for (int threads = 1; threads <= 6; threads++) {
            pg_threads_set(threads);
            const float *sorted = pg_map_sort(&s, large);
            cr_assert_eq(memcmp(sorted, ordered, sizeof ordered), 0, "kind %d, %d threads", kind,
                         threads);
            pg_map_spread spread = pg_map_measure(sorted, LARGE);
            cr_assert(fabs(spread.entropy - want.entropy) < 1e-6, "kind %d: %.9g, not %.9g", kind,
                      spread.entropy, want.entropy);
            cr_assert(fabs(spread.gini - want.gini) < 1e-12, "kind %d: %.15g, not %.15g", kind,
                      spread.gini, want.gini);
            first = threads == 1 ? spread : first;
            cr_assert(spread.entropy == first.entropy && spread.gini == first.gini);
        }
    }
    pg_map_scratch_destroy(&s);
}

/* Maps from one pixel on, through every way a bucket is sorted. */
Test(map, sorts_small_maps) {
    for (int kind = 0; kind < 7; kind++)
        for (int count = 1; count < 200; count++) {
            pg_map_scratch s;
            cr_assert_eq(pg_map_scratch_create(1, count, 0, &s, NULL), PG_OK);
            for (int i = 0; i < count; i++) {
                large[i] = sample(kind, i);
                ordered[i] = fabsf(large[i]);
            }
            qsort(ordered, (size_t)count, sizeof ordered[0], ascending);
            const float *sorted = pg_map_sort(&s, large);
            cr_assert_eq(memcmp(sorted, ordered, (size_t)count * sizeof ordered[0]), 0);
            pg_map_scratch_destroy(&s);
        }
}

Test(map, smooths_alike_with_any_team) {
    pg_map_scratch s;
    cr_assert_eq(pg_map_scratch_create(LARGE_H, LARGE_W, 2.5, &s, NULL), PG_OK);
    for (int threads = 1; threads <= 3; threads++) {
        pg_threads_set(threads);
        for (int i = 0; i < LARGE; i++)
            large[i] = sample(0, i);
        pg_map_smooth(&s, large);
        if (threads == 1)
            memcpy(ordered, large, sizeof large);
        cr_assert_eq(memcmp(large, ordered, sizeof large), 0);
    }
    pg_map_scratch_destroy(&s);
}

Test(map, sorts_what_is_not_finite) { /* an overlay's sum of large attributions may not be */
    const float odd[4] = {INFINITY, -1, -INFINITY, 0};
    pg_map_scratch s;
    cr_assert_eq(pg_map_scratch_create(2, 2, 0, &s, NULL), PG_OK);
    const float *sorted = pg_map_sort(&s, odd);
    cr_assert(sorted[0] == 0 && sorted[1] == 1 && isinf(sorted[2]) && isinf(sorted[3]));
    pg_map_scratch_destroy(&s);
}

Test(map, reduces_in_both_layouts) {
    const float plain[6] = {1, -2, 3, 4, -5, -6}, last[6] = {1, 3, -5, -2, 4, -6};
    static const struct {
        pg_reduce reduce;
        float want[2];
    } cases[] = {{PG_REDUCE_MEAN_ABS, {3, 4}},
                 {PG_REDUCE_MAX_ABS, {5, 6}},
                 {PG_REDUCE_SUM_ABS, {9, 12}},
                 {PG_REDUCE_SUM, {-1, -4}}};
    for (size_t i = 0; i < 4; i++) {
        float p[2], l[2];
        pg_map_reduce(cases[i].reduce, plain, PG_PLAIN, 3, 2, p);
        pg_map_reduce(cases[i].reduce, last, PG_CHANNELS_LAST, 3, 2, l);
        cr_assert_eq(memcmp(p, cases[i].want, sizeof p), 0);
        cr_assert_eq(memcmp(l, cases[i].want, sizeof l), 0);
    }
}

/* Large enough for a team, and no multiple of anything. */
Test(map, reduces_large_maps) {
    enum { AREA = 5 * 2048 + 13 };
    static float plain[3 * AREA], last[3 * AREA], from_plain[AREA], from_last[AREA];
    for (int i = 0; i < AREA; i++)
        for (int c = 0; c < 3; c++)
            plain[c * AREA + i] = last[3 * i + c] = sample(0, 3 * i + c);
    static const pg_reduce ways[] = {PG_REDUCE_MEAN_ABS, PG_REDUCE_MAX_ABS, PG_REDUCE_SUM_ABS,
                                     PG_REDUCE_SUM};
    for (size_t w = 0; w < 4; w++)
        for (int threads = 1; threads <= 3; threads++) {
            pg_threads_set(threads);
            pg_map_reduce(ways[w], plain, PG_PLAIN, 3, AREA, from_plain);
            pg_map_reduce(ways[w], last, PG_CHANNELS_LAST, 3, AREA, from_last);
            cr_assert_eq(memcmp(from_plain, from_last, sizeof from_last), 0);
            for (int i = 0; i < AREA; i++) {
                double x = last[3 * i], y = last[3 * i + 1], z = last[3 * i + 2];
                double want = ways[w] == PG_REDUCE_SUM       ? x + y + z
                              : ways[w] == PG_REDUCE_MAX_ABS ? fmax(fabs(x), fmax(fabs(y), fabs(z)))
                                                             : fabs(x) + fabs(y) + fabs(z);
                want /= ways[w] == PG_REDUCE_MEAN_ABS ? 3 : 1;
                double bound = 4e-7 * (fabs(x) + fabs(y) + fabs(z)); /* of sums in float */
                cr_assert(fabs((double)from_last[i] - want) <= bound);
            }
        }
}

/* Frame 10 x 14, map 4 x 5 at twice the size, moved by (1, 2). */
Test(map, mass_in_a_region) {
    const double transform[6] = {2, 0, 1, 0, 2, 2};
    float ones[N];
    for (int i = 0; i < N; i++)
        ones[i] = i % 2 ? 1 : -1;
    const double all[4] = {0, 0, 100, 100}, none[4] = {9, 0, 5, 14}, half[4] = {1, 2, 4, 10},
                 part[4] = {2, 3, 2, 2};
    cr_assert(fabs(pg_map_mass_in(ones, H, W, transform, all) - 1) < 1e-12);
    cr_assert_eq(pg_map_mass_in(ones, H, W, transform, none), 0);
    cr_assert(fabs(pg_map_mass_in(ones, H, W, transform, half) - 0.5) < 1e-12);
    cr_assert(fabs(pg_map_mass_in(ones, H, W, transform, part) - 1.0 / N) < 1e-12);
    memset(ones, 0, sizeof ones);
    cr_assert_eq(pg_map_mass_in(ones, H, W, transform, all), 0);
}

Test(map, heat) {
    static const struct {
        pg_show show;
        float map[4], want[4];
    } cases[] = {{PG_SHOW_MAGNITUDE, {-3, 0, 2, -0.5f}, {3, 0, 2, 0.5f}},
                 {PG_SHOW_POSITIVE, {-3, 0, 2, -0.5f}, {0, 0, 2, 0}},
                 {PG_SHOW_RANGE, {-3, 0, 2, -0.5f}, {0, 3, 5, 2.5f}},
                 {PG_SHOW_RANGE, {0.75f, 0.5f, 1, 0.5f}, {0.25f, 0, 0.5f, 0}},
                 {PG_SHOW_RANGE, {7, 7, 7, 7}, {0, 0, 0, 0}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float heat[4];
        memcpy(heat, cases[i].map, sizeof heat);
        pg_map_heat(cases[i].show, 4, heat);
        for (int k = 0; k < 4; k++)
            cr_assert_eq(heat[k], cases[i].want[k], "%zu: %g", i, (double)heat[k]);
    }
}

Test(map, overlay) {
    const float map[3] = {0, 2, 9};
    uint8_t rgb[9], out[9];
    memset(rgb, 100, sizeof rgb);
    pg_map_overlay(map, 2, rgb, 3, out);
    cr_assert_eq(memcmp(out, rgb, 3), 0, "no heat: the picture itself");
    cr_assert(out[3] > out[4] && out[3] > out[5], "full heat is red");
    cr_assert_eq(memcmp(out + 3, out + 6, 3), 0, "nothing is hotter than full");
    pg_map_overlay(map, 0, rgb, 3, out);
    cr_assert_eq(memcmp(out, rgb, 9), 0, "a map of zeros hides nothing");
}

/* Where place i of `out` lies on a line of `in`, as torch's interpolate(mode="bilinear") has it. */
static double position(bool corners, int64_t i, int64_t in, int64_t out) {
    double at = corners ? out > 1 ? (double)i * (double)(in - 1) / (double)(out - 1) : 0
                        : ((double)i + 0.5) * (double)in / (double)out - 0.5;
    return fmin(fmax(at, 0), (double)(in - 1));
}

static float src[64], map[224 * 200];

/* A tent over each pixel. */
static void expect_enlarged(bool corners, int64_t h, int64_t w, int64_t height, int64_t width) {
    pg_map_enlarge(src, h, w, corners, map, height, width);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            double v = position(corners, y, h, height), u = position(corners, x, w, width), sum = 0;
            for (int64_t i = 0; i < h; i++)
                for (int64_t j = 0; j < w; j++)
                    sum += fmax(0, 1 - fabs(v - (double)i)) * fmax(0, 1 - fabs(u - (double)j)) *
                           (double)src[i * w + j];
            cr_assert(fabs((double)map[y * width + x] - sum) < 1e-5, "[%ld,%ld] at %ld %ld",
                      (long)h, (long)w, (long)y, (long)x);
        }
}

Test(map, enlarges_like_torch) {
    static const int64_t sizes[][4] = {{1, 1, 3, 4}, {2, 2, 4, 4}, {3, 5, 7, 11}, {7, 7, 224, 200},
                                       {5, 4, 5, 4}, {9, 6, 4, 3}, {2, 3, 1, 1}};
    for (int i = 0; i < 64; i++)
        src[i] = (float)((13 * i + 5) % 17) - 8;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int corners = 0; corners < 2; corners++)
            expect_enlarged(corners, sizes[s][0], sizes[s][1], sizes[s][2], sizes[s][3]);
}
