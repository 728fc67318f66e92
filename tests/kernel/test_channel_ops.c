/* The per-channel loops against double references, for sizes around every vector width and thread
 * cut, and for equal results whatever the team's size. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/mem.h"
#include "kernels/threads.h"

static const int64_t sizes[][2] = {{1, 1},   {1, 512},  {49, 2048}, {3, 17},   {7, 15},
                                   {64, 16}, {100, 33}, {3136, 64}, {12544, 3}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static uint64_t seed = 7;

static float noise(void) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(int64_t)(seed >> 11) / 4503599627370496.0 - 1.0);
}

static float *noises(int64_t n) {
    float *v = pg_malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = noise();
    return v;
}

Test(channel_ops, affine) {
    for (int s = 0; s < SIZES; s++) {
        int64_t p = sizes[s][0], c = sizes[s][1];
        float *x = noises(p * c), *a = noises(c), *b = noises(c), *y = noises(p * c);
        pg_channel_affine(p, c, x, a, b, y);
        for (int64_t i = 0; i < p * c; i++)
            cr_assert_eq(y[i], x[i] * a[i % c] + b[i % c]);
        pg_channel_affine(p, c, x, a, NULL, y);
        pg_channel_affine(p, c, x, a, NULL, x); /* in place */
        cr_assert(memcmp(x, y, (size_t)(p * c) * sizeof *x) == 0);
        pg_free(x), pg_free(a), pg_free(b), pg_free(y);
    }
}

Test(channel_ops, act_backward) {
    float dst[] = {-1, 0, 0.5f, 1, 2, INFINITY, NAN}, d[] = {1, 2, 3, 4, 5, 6, 7}, out[7];
    pg_channel_act_backward(7, 1, d, dst, (pg_act_range){0, 1}, out);
    cr_assert(memcmp(out, (float[]){0, 0, 3, 0, 0, 0, 0}, sizeof out) == 0);
    pg_channel_act_backward(1, 7, d, dst, (pg_act_range){0, INFINITY}, out);
    cr_assert(memcmp(out, (float[]){0, 0, 3, 4, 5, 0, 0}, sizeof out) == 0);
}

Test(channel_ops, group_sums) {
    for (int s = 0; s < SIZES; s++) {
        int64_t p = sizes[s][0], c = sizes[s][1];
        float *g = noises(p * c);
        double *w = pg_malloc((size_t)(2 * c) * sizeof *w);
        double *sums = pg_malloc((size_t)(2 * p) * sizeof *sums);
        for (int64_t i = 0; i < 2 * c; i++)
            w[i] = noise();
        pg_channel_group_sums(p, c, g, w, w + c, sums, sums + p);
        for (int64_t r = 0; r < p; r++) {
            double high = 0, low = 0;
            for (int64_t i = 0; i < c; i++) {
                high += g[r * c + i] * w[i];
                low += g[r * c + i] * w[c + i];
            }
            cr_assert(fabs(sums[r] - high) < 1e-12 * (double)c);
            cr_assert(fabs(sums[p + r] - low) < 1e-12 * (double)c);
        }
        pg_free(g), pg_free(w), pg_free(sums);
    }
}

/* Exactly what the two passes give one after the other, which have references of their own. */
Test(channel_ops, act_group_sums) {
    for (int s = 0; s < SIZES; s++) {
        int64_t p = sizes[s][0], c = sizes[s][1];
        float *d = noises(p * c), *dst = noises(p * c), *out = noises(p * c), *two = noises(p * c);
        double *w = pg_malloc((size_t)(2 * c) * sizeof *w);
        double *sums = pg_malloc((size_t)(4 * p) * sizeof *sums), *twice = sums + 2 * p;
        pg_act_range act = {-0.5f, 0.25f};
        for (int64_t i = 0; i < 2 * c; i++)
            w[i] = noise();
        pg_channel_act_backward(p, c, d, dst, act, two);
        pg_channel_group_sums(p, c, two, w, w + c, twice, twice + p);
        pg_channel_act_group_sums(p, c, d, dst, act, w, w + c, out, sums, sums + p);
        cr_assert(memcmp(out, two, (size_t)(p * c) * sizeof *out) == 0);
        cr_assert(memcmp(sums, twice, (size_t)(2 * p) * sizeof *sums) == 0);
        for (int64_t i = 0; i < p * c; i++)
            cr_assert_eq(out[i], dst[i] > -0.5f && dst[i] < 0.25f ? d[i] : 0);
        pg_channel_act_group_sums(p, c, d, dst, act, w, w + c, d, sums, sums + p); /* in place */
        cr_assert(memcmp(d, two, (size_t)(p * c) * sizeof *d) == 0);
        pg_free(d), pg_free(dst), pg_free(out), pg_free(two), pg_free(w), pg_free(sums);
    }
}

Test(channel_ops, gather) {
    for (int s = 0; s < SIZES; s++)
        for (int every = 1; every < 12; every += 5) { /* keeps all, a sixth, an eleventh */
            int64_t p = sizes[s][0], c = sizes[s][1], kept = (c + every - 1) / every;
            int64_t width = (kept + 15) / 16 * 16;
            float *x = noises(p * c), *out = noises(p * width + 1), behind = out[p * width];
            int32_t *index = pg_malloc((size_t)kept * sizeof *index);
            for (int64_t k = 0; k < kept; k++)
                index[k] = (int32_t)(k * every);
            pg_channel_gather(p, c, x, index, kept, width, 0.3f, out);
            for (int64_t i = 0; i < p * width; i++) {
                int64_t k = i % width;
                cr_assert_eq(out[i], k < kept ? 0.3f * x[i / width * c + k * every] : 0);
            }
            cr_assert_eq(out[p * width], behind);
            pg_free(x), pg_free(out), pg_free(index);
        }
}

Test(channel_ops, moments_are_unbiased) {
    double high[] = {1, 2, 3, 6}, low[] = {2, 0, 4, 2};
    pg_group_moments m;
    pg_channel_moments(4, high, low, &m);
    cr_assert_eq(m.positions, 4);
    cr_assert_float_eq(m.var_high, 14.0 / 3, 1e-12);
    cr_assert_float_eq(m.var_low, 8.0 / 3, 1e-12);
    cr_assert_float_eq(m.cov, 2.0 / 3, 1e-12);
    cr_assert_float_eq(m.mean_square_high, 12.5, 1e-12);
    cr_assert_float_eq(m.mean_square_low, 6, 1e-12);
}

Test(channel_ops, moments_of_one_position_are_squares) {
    double high = -3, low = 2;
    pg_group_moments m;
    pg_channel_moments(1, &high, &low, &m);
    cr_assert_eq(m.var_high, 9);
    cr_assert_eq(m.var_low, 4);
    cr_assert_eq(m.cov, -6);
}

Test(channel_ops, moments_survive_a_large_mean) {
    double high[] = {1e8, 1e8 + 1, 1e8 + 2}, low[] = {-1e8, -1e8, -1e8 + 3};
    pg_group_moments m;
    pg_channel_moments(3, high, low, &m);
    cr_assert_float_eq(m.var_high, 1, 1e-6);
    cr_assert_float_eq(m.var_low, 3, 1e-6);
    cr_assert_float_eq(m.cov, 1.5, 1e-6);
}

Test(channel_ops, gap) {
    for (int s = 0; s < SIZES; s++) {
        int64_t p = sizes[s][0], c = sizes[s][1];
        float *y = noises(p * c), *t = noises(c), *inverse = noises(c);
        float *gap = noises(c), *before = pg_malloc((size_t)(p * c) * sizeof *before);
        void *scratch = pg_malloc(pg_channel_gap_scratch(p, c));
        memcpy(before, y, (size_t)(p * c) * sizeof *y);
        pg_channel_gap(p, c, y, NULL, t, inverse, (pg_act_range){-0.25f, 0.5f}, scratch, gap);
        for (int64_t i = 0; i < c; i++) {
            double sum = 0;
            for (int64_t r = 0; r < p; r++)
                sum += fmax(0, ((double)before[r * c + i] - t[i]) * inverse[i]);
            cr_assert(fabs(gap[i] - sum / (double)p) < 1e-6);
        }
        for (int64_t i = 0; i < p * c; i++)
            cr_assert_eq(y[i], fminf(fmaxf(before[i], -0.25f), 0.5f));
        pg_free(y), pg_free(t), pg_free(inverse), pg_free(gap), pg_free(before), pg_free(scratch);
    }
}

Test(channel_ops, results_do_not_depend_on_the_number_of_threads) {
    enum { P = 3136, C = 24 };
    float *g = noises(P * C), *ones = noises(C), gap[2][C];
    float *y = pg_malloc(P * C * sizeof *y);
    double w[2 * C], *sums[2];
    void *scratch = pg_malloc(pg_channel_gap_scratch(P, C));
    for (int i = 0; i < 2 * C; i++)
        w[i] = noise();
    for (int i = 0; i < 2; i++) {
        pg_threads_set(1 + 3 * i);
        sums[i] = pg_malloc(2 * P * sizeof(double));
        pg_channel_group_sums(P, C, g, w, w + C, sums[i], sums[i] + P);
        memcpy(y, g, P * C * sizeof *y);
        pg_channel_gap(P, C, y, NULL, ones, ones, (pg_act_range){0, 1}, scratch, gap[i]);
    }
    cr_assert(memcmp(sums[0], sums[1], 2 * P * sizeof(double)) == 0);
    cr_assert(memcmp(gap[0], gap[1], sizeof gap[0]) == 0);
    pg_free(g), pg_free(ones), pg_free(y), pg_free(scratch), pg_free(sums[0]), pg_free(sums[1]);
}
