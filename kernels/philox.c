/* Normal numbers by Box and Muller (Annals of Mathematical Statistics 29, 1958): two uniform words
 * a, b give a radius sqrt(-2 ln u) and an angle, and those two normal numbers.
 *
 * libm's logarithm, sine and cosine differ in the last place between versions and processors, which
 * would show in a float once in some hundred million numbers: in one frame of a hundred. Hence our
 * own, with an error below 1e-13, far less than the rounding to float that follows:
 *   ln u     u = (a + 1) / 2^32, m 2^e with m in [sqrt(1/2), sqrt(2)): 2 artanh((m - 1)/(m + 1)),
 *            its series to the 17th power; the argument is at most 0.172
 *   angle    the two high bits of b choose a quarter turn, the others an angle within pi/4 of its
 *            middle, whose sine and cosine are their Taylor series to the 15th and 16th power */
#include "kernels/philox.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/simd.h"

enum { ROUNDS = 10, BATCH = 64 };

static inline void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int r = 0; r < ROUNDS; r++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

void pg_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    philox(counter, key, out);
}

/* c[0] + c[1] q + ... + c[8] q^8 */
static inline double series(const double c[9], double q) {
    double sum = c[8];
    for (int i = 7; i >= 0; i--)
        sum = sum * q + c[i];
    return sum;
}

/* ln((a + 1) / 2^32), which is 0 or below */
static inline double log_of(uint32_t a) {
    static const double artanh[9] = {1,        1.0 / 3,  1.0 / 5,  1.0 / 7, 1.0 / 9,
                                     1.0 / 11, 1.0 / 13, 1.0 / 15, 1.0 / 17};
    const uint64_t root = UINT64_C(0x3fe6a09e667f3bcd); /* the bits of sqrt(1/2) */
    double n = (double)a + 1, m;
    uint64_t bits;
    memcpy(&bits, &n, sizeof bits);
    uint64_t exponent = (bits - root) >> 52; /* n = m 2^exponent */
    bits -= exponent << 52;
    memcpy(&m, &bits, sizeof m);
    double s = (m - 1) / (m + 1);
    return (double)((int32_t)exponent - 32) * 0.6931471805599453 + 2 * s * series(artanh, s * s);
}

/* A point on the circle: cosine and sine of b / 2^32 of a turn, less an eighth. */
static inline void circle_of(uint32_t b, double *x, double *y) {
    static const double sines[9] = {1,
                                    -1.0 / 6,
                                    1.0 / 120,
                                    -1.0 / 5040,
                                    1.0 / 362880,
                                    -1.0 / 39916800,
                                    1.0 / 6227020800.0,
                                    -1.0 / 1307674368000.0,
                                    0};
    static const double cosines[9] = {1,
                                      -1.0 / 2,
                                      1.0 / 24,
                                      -1.0 / 720,
                                      1.0 / 40320,
                                      -1.0 / 3628800,
                                      1.0 / 479001600,
                                      -1.0 / 87178291200.0,
                                      1.0 / 20922789888000.0};
    double t = ((double)(b & 0x3fffffffu) / 1073741824.0 - 0.5) * 1.5707963267948966;
    double sine = t * series(sines, t * t), cosine = series(cosines, t * t);
    uint32_t quarter = b >> 30;
    double sign_x = 1 - 2 * (double)((quarter + 1) >> 1 & 1),
           sign_y = 1 - 2 * (double)(quarter >> 1);
    *x = sign_x * (quarter & 1 ? sine : cosine);
    *y = sign_y * (quarter & 1 ? cosine : sine);
}

/* Numbers 4 first .. of the sequence, four per block. Step by step over a batch, so that each step
 * is a loop for vectors. */
PG_CLONES static void blocks(const pg_sequence *sequence, uint32_t first, float *out) {
    uint32_t words[4][BATCH];
    float numbers[4][BATCH];
    for (uint32_t i = 0; i < BATCH; i++) {
        const uint32_t *name = sequence->name;
        uint32_t counter[4] = {first + i, name[0], name[1], name[2]}, w[4];
        philox(counter, sequence->key, w);
        for (int k = 0; k < 4; k++)
            words[k][i] = w[k];
    }
    for (int k = 0; k < 4; k += 2)
        for (int i = 0; i < BATCH; i++) {
            double radius = sqrt(-2 * log_of(words[k][i])), x, y;
            circle_of(words[k + 1][i], &x, &y);
            numbers[k][i] = (float)(radius * x);
            numbers[k + 1][i] = (float)(radius * y);
        }
    for (int i = 0; i < 4 * BATCH; i++)
        out[i] = numbers[i & 3][i >> 2];
}

void pg_normal_fill(const pg_sequence *sequence, int64_t count, float *values) {
    int64_t batches = (count + 4 * BATCH - 1) / (4 * BATCH);
#pragma omp parallel for schedule(static) if (batches > 16)
    for (int64_t b = 0; b < batches; b++) {
        int64_t begin = b * 4 * BATCH, left = count - begin;
        if (left >= 4 * BATCH) {
            blocks(sequence, (uint32_t)(begin / 4), values + begin);
            continue;
        }
        float last[4 * BATCH];
        blocks(sequence, (uint32_t)(begin / 4), last);
        memcpy(values + begin, last, (size_t)left * sizeof *values);
    }
}
