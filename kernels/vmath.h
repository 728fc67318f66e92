/* Elementary functions that compilers can vectorise inside a loop, with the same bits from every
 * compiler and library. */
#ifndef PG_KERNELS_VMATH_H
#define PG_KERNELS_VMATH_H

#include <stdint.h>
#include <string.h>

/* exp(x) with a relative error below 2e-7. Cody-Waite reduction x = n ln2 + r, |r| <= ln2/2, a
 * polynomial of degree 6 in r, and 2^n put into the exponent bits, in two halves so that results
 * overflow to infinity and underflow through denormals to 0 where IEEE says so. NaN stays NaN. */
static inline float pg_expf(float x) {
    const float lo = -105.0f, hi = 89.5f; /* beyond: 0, infinity */
    float y = x < lo ? lo : x;
    y = y > hi ? hi : y;
    float n = y * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    n -= 12582912.0f;
    float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t whole = (int32_t)(y == y ? n : 0.0f), half = whole >> 1;
    int32_t bits[2] = {(half + 127) << 23, (whole - half + 127) << 23};
    float scale[2];
    memcpy(scale, bits, sizeof scale);
    return y == y ? p * scale[0] * scale[1] : x;
}

/* tanh(x), accurate near 0 too: below 0.625 the odd polynomial of Cephes' tanhf (Moshier), beyond
 * by exp. */
static inline float pg_tanhf(float x) {
    float z = x * x, a = x < 0 ? -x : x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float far = 1.0f - 2.0f / (pg_expf(2.0f * a) + 1.0f);
    return a < 0.625f ? x + x * z * p : x < 0 ? -far : x == x ? far : x;
}

/* exp(x) - 1 for x <= 0, from tanh(x/2): accurate near 0. */
static inline float pg_expm1f_below_0(float x) {
    float t = pg_tanhf(0.5f * x);
    return 2.0f * t / (1.0f - t);
}

static inline float pg_sigmoidf(float x) { return 1.0f / (1.0f + pg_expf(-x)); }

#endif
