/* The generator against its authors' known answers (Random123, kat_vectors), and normal numbers
 * against libm, and against what normal numbers are. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

Test(philox, known_answers) {
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        pg_philox(cases[i].counter, cases[i].key, out);
        for (int k = 0; k < 4; k++)
            cr_expect_eq(out[k], cases[i].out[k], "case %zu word %d: %08x", i, k, out[k]);
    }
}

static const pg_sequence sequence = {{7, 8}, {1, 2, 3}};

/* The header's definition with libm's functions. Both are good to 1e-13, so the floats agree to one
 * rounding. */
Test(philox, normal_numbers_are_box_and_muller) {
    enum { COUNT = 40000 };
    static float values[COUNT];
    pg_normal_fill(&sequence, COUNT, values);
    for (uint32_t i = 0; i < COUNT / 4; i++) {
        uint32_t counter[4] = {i, 1, 2, 3}, w[4];
        pg_philox(counter, sequence.key, w);
        for (int k = 0; k < 4; k += 2) {
            double radius = sqrt(-2 * log(((double)w[k] + 1) / 4294967296.0));
            double angle = 2 * M_PI * ((double)w[k + 1] / 4294967296.0 - 0.125);
            double x = radius * cos(angle), y = radius * sin(angle);
            cr_assert(fabs((double)values[4 * i + (uint32_t)k] - x) <= 6e-8 * fabs(x) + 1e-12);
            cr_assert(fabs((double)values[4 * i + (uint32_t)k + 1] - y) <= 6e-8 * fabs(y) + 1e-12);
        }
    }
}

/* The extremes of a word: the radius ends at 6.66, and at 0. */
Test(philox, moments_and_tails) {
    enum { COUNT = 1 << 20 };
    float *values = malloc(COUNT * sizeof *values);
    pg_normal_fill(&sequence, COUNT, values);
    double m[5] = {0}, largest = 0;
    for (int i = 0; i < COUNT; i++) {
        double v = (double)values[i];
        cr_assert(isfinite(v));
        for (int k = 1; k < 5; k++)
            m[k] += pow(v, k) / COUNT;
        largest = fmax(largest, fabs(v));
    }
    /* five standard errors: sqrt(1, 2, 15, 96) / 1024 */
    cr_expect(fabs(m[1]) < 5.0 / 1024 && fabs(m[2] - 1) < 7.1 / 1024);
    cr_expect(fabs(m[3]) < 19.4 / 1024 && fabs(m[4] - 3) < 49.0 / 1024);
    cr_expect(largest > 4.5 && largest < 6.67, "%g", largest);
    free(values);
}

/* A prefix is a prefix, whatever the length, and sequences are their own. */
Test(philox, numbers_depend_on_their_place_alone) {
    enum { COUNT = 10007 };
    static float all[COUNT], some[COUNT];
    pg_normal_fill(&sequence, COUNT, all);
    static const int counts[] = {0, 1, 2, 3, 4, 5, 255, 256, 257, 4097, COUNT - 1};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        memset(some, 0x7f, sizeof some);
        pg_normal_fill(&sequence, counts[c], some);
        cr_expect(memcmp(some, all, (size_t)counts[c] * sizeof *all) == 0, "%d", counts[c]);
        for (int i = counts[c]; i < COUNT; i++)
            cr_assert_eq(((unsigned char *)&some[i])[0], 0x7f);
    }
    for (int k = 0; k < 5; k++) {
        pg_sequence other = sequence;
        *(k < 2 ? &other.key[k] : &other.name[k - 2]) += 1;
        pg_normal_fill(&other, COUNT, some);
        int same = 0;
        for (int i = 0; i < COUNT; i++)
            same += some[i] == all[i];
        cr_expect(same < 10, "%d", k);
    }
}

/* What SSE2, AVX2 and AVX-512, gcc and clang have all computed: a replay elsewhere must, too. */
Test(philox, the_same_bytes_on_every_machine) {
    enum { COUNT = 3 * 224 * 224 };
    static float values[COUNT];
    pg_normal_fill(&(pg_sequence){{1, 2}, {3, 4, 5}}, COUNT, values);
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    const unsigned char *bytes = (const unsigned char *)values;
    for (size_t i = 0; i < sizeof values; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(1099511628211);
    cr_expect_eq(hash, UINT64_C(0xc4eb05eb99e4583b), "%llx", (unsigned long long)hash);
}
