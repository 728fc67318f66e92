/* The pass over the gradient against double loops, for sizes around every vector width and thread
 * cut, and for equal results whatever the team's size. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "channel_noise.h"
#include "kernels/channel_split_impl.h"
#include "kernels/mem.h"
#include "kernels/threads.h"

enum { EXTRA = 3 };
static const pg_act_range ACT = {-0.5f, 0.25f};

typedef struct bench {
    pg_split_source source;
    float *d, *y, *scale, *high, *low, *out;
    double *sums, *expected; /* [2, positions] */
    pg_split_pick pick;
    int32_t *channel, *from;
    float *pick_high, *pick_low;
    bool *kept; /* [channels] */
} bench;

/* Every third channel is in H. The pick is every second one, and the first once more EXTRA times
 * without weight, as where a block is filled up. */
static bench open(int64_t p, int64_t c, bool act) {
    bench b = {.d = noises(p * c), .y = noises(p * c), .scale = noises(c), .high = noises(c)};
    b.out = noises(p * (c + EXTRA) + 1);
    b.sums = pg_malloc((size_t)(2 * p) * sizeof(double));
    b.expected = pg_calloc((size_t)(2 * p), sizeof(double));
    b.kept = pg_calloc((size_t)c, sizeof(bool));
    b.source = (pg_split_source){p, c, b.d, act ? b.y : NULL, ACT};
    int64_t half = (c + 1) / 2, width = half + EXTRA;
    b.channel = pg_malloc((size_t)width * sizeof(int32_t));
    b.from = pg_malloc((size_t)width * sizeof(int32_t));
    b.pick_high = pg_calloc((size_t)width, sizeof(float));
    b.pick_low = pg_calloc((size_t)width, sizeof(float));
    b.low = noises(c);
    for (int64_t i = 0; i < c; i++) {
        b.high[i] = i % 3 == 0 ? b.scale[i] : 0;
        b.low[i] = b.scale[i] - b.high[i];
    }
    for (int64_t k = 0; k < width; k++) {
        b.channel[k] = (int32_t)(k < half ? 2 * k : 0);
        b.from[k] = (int32_t)(k < half ? k : 0);
    }
    b.pick = (pg_split_pick){width, b.channel, b.channel, c, b.pick_high, b.pick_low};
    return b;
}

static void close_bench(bench *b) {
    void *blocks[] = {b->d,        b->y,       b->scale, b->high,      b->low,      b->out, b->sums,
                      b->expected, b->channel, b->from,  b->pick_high, b->pick_low, b->kept};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        pg_free(blocks[i]);
}

static float through(const bench *b, int64_t i) {
    return !b->source.dst || (b->y[i] > ACT.lo && b->y[i] < ACT.hi) ? b->d[i] : 0;
}

/* A float product is off by 6e-8 of itself, and the terms here are below 1. */
static void check_sums(const bench *b) {
    for (int64_t r = 0; r < 2 * b->source.positions; r++)
        cr_assert(fabs(b->sums[r] - b->expected[r]) < 6e-8 * (double)b->source.channels,
                  "%lld: %g, not %g", (long long)r, b->sums[r], b->expected[r]);
}

Test(channel_split, all_channels) {
    for (int s = 0; s < 2 * SIZES; s++) {
        int64_t p = sizes[s / 2][0], c = sizes[s / 2][1];
        bench b = open(p, c, s % 2);
        for (int64_t i = 0; i < p * c; i++) {
            double v = (double)through(&b, i);
            b.expected[i / c] += b.high[i % c] * v;
            b.expected[p + i / c] += (b.scale[i % c] - b.high[i % c]) * v;
        }
        pg_split_all(&b.source, b.high, b.low, s % 2 ? b.out : NULL, b.sums, b.sums + p);
        check_sums(&b);
        for (int64_t i = 0; s % 2 && i < p * c; i++)
            cr_assert_eq(b.out[i], through(&b, i));
        close_bench(&b);
    }
}

Test(channel_split, kept_channels_side_by_side) {
    for (int s = 0; s < 2 * SIZES; s++) {
        int64_t p = sizes[s / 2][0], c = sizes[s / 2][1];
        bench b = open(p, c, s % 2);
        int64_t half = (c + 1) / 2, width = half + EXTRA;
        for (int64_t k = 0; k < half; k++) {
            b.pick_high[k] = b.scale[2 * k];
            b.low[2 * k] = 0;
        }
        for (int64_t i = 1; i < c; i += 2)
            b.low[i] = b.scale[i];
        for (int64_t i = 0; i < p * c; i++)
            b.expected[(i % c % 2 ? p : 0) + i / c] += b.scale[i % c] * (double)through(&b, i);
        float behind = b.out[p * width], *all = s % 2 ? noises(p * c) : NULL;
        pg_split_keep(&b.source, b.low, &b.pick, all, b.out, b.sums, b.sums + p);
        check_sums(&b);
        for (int64_t i = 0; all && i < p * c; i++)
            cr_assert_eq(all[i], through(&b, i));
        if (all) { /* in place */
            pg_split_keep(&b.source, b.low, &b.pick, b.d, b.out, b.sums, b.sums + p);
            cr_assert(memcmp(all, b.d, (size_t)(p * c) * sizeof *all) == 0);
        }
        pg_free(all);
        for (int64_t i = 0; i < p * width; i++)
            cr_assert_eq(b.out[i], through(&b, i / width * c + b.channel[i % width]));
        cr_assert_eq(b.out[p * width], behind);
        close_bench(&b);
    }
}

/* d_dst holds the picked channels alone: in wider rows, or as the columns are made. */
Test(channel_split, live_channels) {
    for (int s = 0; s < 4 * SIZES; s++) {
        int64_t p = sizes[s / 4][0], c = sizes[s / 4][1];
        bool same = s / 2 % 2;
        bench b = open(p, c, s % 2);
        int64_t half = (c + 1) / 2, width = half + EXTRA, pitch = same ? width : half + 1;
        float *side_by_side = noises(p * pitch);
        for (int64_t i = 0; i < p * pitch; i++) {
            int64_t k = i % pitch, from = same ? b.from[k] : k;
            if (from < half)
                side_by_side[i] = b.d[i / pitch * c + from * 2];
        }
        for (int64_t k = 0; k < half; k++) {
            b.pick_high[k] = k % 3 ? 0 : b.scale[2 * k];
            b.pick_low[k] = k % 3 ? b.scale[2 * k] : 0;
        }
        for (int64_t i = 0; i < p * c; i++)
            if (i % c % 2 == 0)
                b.expected[(i % c / 2 % 3 ? p : 0) + i / c] +=
                    b.scale[i % c] * (double)through(&b, i);
        b.source.d_dst = side_by_side;
        b.pick.from = same ? NULL : b.from;
        b.pick.pitch = pitch;
        pg_split_live(&b.source, &b.pick, b.out, b.sums, b.sums + p);
        check_sums(&b);
        for (int64_t i = 0; i < p * width; i++)
            cr_assert_eq(b.out[i], through(&b, i / width * c + b.channel[i % width]));
        pg_free(side_by_side);
        close_bench(&b);
    }
}

/* Of a group whose gradient is zero, so that the rule for degenerate layers sees it. */
Test(channel_split, sums_of_zeros_are_zero) {
    bench b = open(49, 96, true);
    for (int64_t i = 0; i < 49 * 96; i++)
        b.d[i] = i % 96 % 3 ? 0 : b.d[i];
    pg_split_all(&b.source, b.high, b.low, b.out, b.sums, b.sums + 49);
    for (int64_t p = 0; p < 49; p++)
        cr_assert(b.sums[p] != 0 && b.sums[49 + p] == 0);
    close_bench(&b);
}

Test(channel_split, results_do_not_depend_on_the_number_of_threads) {
    bench b = open(3136, 24, true);
    double *first = b.expected;
    for (int64_t k = 0; k < b.pick.width; k++)
        b.pick_high[k] = noise();
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < 2; i++) {
            double *sums = i ? b.sums : first;
            pg_threads_set(1 + 3 * i);
            if (way)
                pg_split_keep(&b.source, b.low, &b.pick, NULL, b.out, sums, sums + 3136);
            else
                pg_split_all(&b.source, b.high, b.low, b.out, sums, sums + 3136);
            cr_assert(i == 0 || memcmp(first, sums, 2 * 3136 * sizeof *sums) == 0);
        }
    close_bench(&b);
}

/* The same from plain loops and from wide registers, to rounding: sums of a sixteenth of the
 * channels are float there. What is no sum is the same. */
Test(channel_split, wide_registers_make_no_difference) {
    const pg_split_ranges *wide = pg_split_wide();
    for (int s = 0; wide && s < 2 * SIZES; s++) {
        int64_t p = sizes[s / 2][0], c = sizes[s / 2][1];
        bench b = open(p, c, s % 2);
        size_t bytes = (size_t)(p * (c + EXTRA)) * sizeof(float);
        float *all = noises(p * (c + EXTRA)), *out = noises(p * (c + EXTRA));
        double *sums = b.expected;
        for (int64_t k = 0; k < b.pick.width; k++)
            b.pick_high[k] = noise(), b.pick_low[k] = noise();
        for (int way = 0; way < 3; way++) {
            memset(all, 0, bytes), memset(out, 0, bytes), memset(b.out, 0, bytes);
            float *through_act = s % 2 ? all : NULL;
            for (int i = 0; i < 2; i++) {
                const pg_split_ranges *r = i ? wide : &pg_split_plain;
                double *to = i ? b.sums : sums;
                float *columns = i ? b.out : out;
                if (way == 0)
                    r->all(0, p, &b.source, b.high, b.low, columns, to, to + p);
                else if (way == 1)
                    r->keep(0, p, &b.source, b.low, &b.pick, through_act, columns, to, to + p);
                else
                    r->live(0, p, &b.source, &b.pick, columns, to, to + p);
            }
            check_sums(&b);
            cr_assert_eq(memcmp(out, b.out, bytes), 0, "way %d of %lld x %lld", way, (long long)p,
                         (long long)c);
        }
        pg_free(all), pg_free(out);
        close_bench(&b);
    }
}

Test(channel_split, moments_are_unbiased) {
    double high[] = {1, 2, 3, 6}, low[] = {2, 0, 4, 2};
    pg_group_moments m;
    pg_split_moments(4, high, low, &m);
    cr_assert_eq(m.positions, 4);
    cr_assert_float_eq(m.var_high, 14.0 / 3, 1e-12);
    cr_assert_float_eq(m.var_low, 8.0 / 3, 1e-12);
    cr_assert_float_eq(m.cov, 2.0 / 3, 1e-12);
    cr_assert_float_eq(m.mean_square_high, 12.5, 1e-12);
    cr_assert_float_eq(m.mean_square_low, 6, 1e-12);
}

Test(channel_split, moments_of_one_position_are_squares) {
    double high = -3, low = 2;
    pg_group_moments m;
    pg_split_moments(1, &high, &low, &m);
    cr_assert_eq(m.var_high, 9);
    cr_assert_eq(m.var_low, 4);
    cr_assert_eq(m.cov, -6);
}

Test(channel_split, moments_survive_a_large_mean) {
    double high[] = {1e8, 1e8 + 1, 1e8 + 2}, low[] = {-1e8, -1e8, -1e8 + 3};
    pg_group_moments m;
    pg_split_moments(3, high, low, &m);
    cr_assert_float_eq(m.var_high, 1, 1e-6);
    cr_assert_float_eq(m.var_low, 3, 1e-6);
    cr_assert_float_eq(m.cov, 1.5, 1e-6);
}
