/* The per-channel loops against double references, for sizes around every vector width and thread
 * cut, and for equal results whatever the team's size. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "channel_noise.h"
#include "kernels/channel_ops.h"
#include "kernels/mem.h"
#include "kernels/threads.h"

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

Test(channel_ops, add) {
    for (int s = 0; s < SIZES; s++) {
        int64_t count = sizes[s][0] * sizes[s][1];
        float *x = noises(count), *y = noises(count), *before = noises(count);
        memcpy(before, y, (size_t)count * sizeof *y);
        pg_channel_add(count, x, y);
        for (int64_t i = 0; i < count; i++)
            cr_assert_eq(y[i], before[i] + x[i]);
        pg_free(x), pg_free(y), pg_free(before);
    }
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
        memcpy(y, before, (size_t)(p * c) * sizeof *y);
        pg_channel_gap(p, c, y, NULL, NULL, NULL, (pg_act_range){-INFINITY, INFINITY}, scratch,
                       gap);
        for (int64_t i = 0; i < c; i++) {
            double sum = 0;
            for (int64_t r = 0; r < p; r++)
                sum += fmax(0, (double)before[r * c + i]);
            cr_assert(fabs(gap[i] - sum / (double)p) < 1e-6);
        }
        cr_assert(memcmp(y, before, (size_t)(p * c) * sizeof *y) == 0);
        pg_free(y), pg_free(t), pg_free(inverse), pg_free(gap), pg_free(before), pg_free(scratch);
    }
}

Test(channel_ops, results_do_not_depend_on_the_number_of_threads) {
    enum { P = 3136, C = 24 };
    float *g = noises(P * C), *ones = noises(C), gap[2][C];
    float *y = pg_malloc(P * C * sizeof *y);
    void *scratch = pg_malloc(pg_channel_gap_scratch(P, C));
    for (int i = 0; i < 2; i++) {
        pg_threads_set(1 + 3 * i);
        memcpy(y, g, P * C * sizeof *y);
        pg_channel_gap(P, C, y, NULL, ones, ones, (pg_act_range){0, 1}, scratch, gap[i]);
    }
    cr_assert(memcmp(gap[0], gap[1], sizeof gap[0]) == 0);
    pg_free(g), pg_free(ones), pg_free(y), pg_free(scratch);
}
