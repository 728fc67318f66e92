/* Elementary functions that compilers can vectorise inside a loop, with the same bits from every
 * compiler and library. */
#ifndef PG_KERNELS_VMATH_H
#define PG_KERNELS_VMATH_H

#include <stdint.h>
#include <string.h>

/* exp(x) with a relative error below 2e-7. Cody-Waite reduction x = n ln2 + r, |r| <= ln2/2, a
 * polynomial of degree 6 in r, and 2^n put into the exponent bits. Saturates outside +-87.3; NaN
 * stays NaN. */
static inline float pg_expf(float x) {
    const float lo = -87.3f, hi = 88.3f;
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
    int32_t bits = ((int32_t)(y == y ? n : 0.0f) + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return y == y ? p * scale : x;
}

/* exp(x) over its whole range: to infinity above 88.7, through denormals to 0 below -87.3. */
static inline float pg_expf_ieee(float x) {
    float half = pg_expf(0.5f * x);
    return x > -87.0f && x < 88.0f ? pg_expf(x) : half * half;
}

/* exp(x) - 1: its series near 0, where the difference would lose digits. */
static inline float pg_expm1f(float x) {
    float p = 1.0f + x * (1.0f / 7.0f);
    p = 1.0f + x * (1.0f / 6.0f) * p;
    p = 1.0f + x * (1.0f / 5.0f) * p;
    p = 1.0f + x * (1.0f / 4.0f) * p;
    p = 1.0f + x * (1.0f / 3.0f) * p;
    p = 1.0f + x * 0.5f * p;
    return x > -0.5f && x < 0.5f ? x * p : pg_expf(x) - 1.0f;
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

/* erfc(t) exp(t^2) for t >= 0, relative error 1e-7: (1 + 2 t) times it is smooth in q = (t - 2) /
 * (t + 2) (the form is Shepherd and Laframboise's, Math. Comp. 36, 1981; Chebyshev fit on
 * [0, 10.5], beyond which exp(-t^2) is 0). */
static inline float pg_erfcxf(float t) {
    t = t > 10.5f ? 10.5f : t;
    float both = 1.0f / ((t + 2.0f) * (1.0f + 2.0f * t));
    float q = (t - 2.0f) * (1.0f + 2.0f * t) * both;
    float p = -0.000405625761f;
    p = p * q - 0.00123407828f;
    p = p * q + 0.00132106876f;
    p = p * q + 0.00863731173f;
    p = p * q - 0.00806345409f;
    p = p * q - 0.0542064866f;
    p = p * q + 0.164055992f;
    p = p * q - 0.16603117f;
    p = p * q - 0.0927640147f;
    p = p * q + 1.27697839f;
    return p * (t + 2.0f) * both;
}

/* erf(x), relative error below 5e-7: a fit in x^2 near 0, by erfc beyond. */
static inline float pg_erff(float x) {
    float a = x < 0 ? -x : x, z = x * x;
    float p = 0.00471927509f;
    p = p * z - 0.0267561725f;
    p = p * z + 0.112827707f;
    p = p * z - 0.376126027f;
    p = p * z + 1.12837916f;
    float far = 1.0f - pg_expf(-z) * pg_erfcxf(a);
    return a < 0.5f ? x * p : x < 0 ? -far : far;
}

/* The normal distribution's P(X <= x), absolute error below 2e-7. */
static inline float pg_normal_cdf(float x) {
    float a = x < 0 ? -x : x;
    float tail = a > 14.0f ? 0.0f : 0.5f * pg_expf(-0.5f * x * x) * pg_erfcxf(0.70710678f * a);
    return x < 0 ? tail : 1.0f - tail;
}

/* 0 where pg_expf saturates: x * sigmoid(x) must vanish for the largest x, too. */
static inline float pg_sigmoidf(float x) {
    float s = 1.0f / (1.0f + pg_expf(-x));
    return x < -88.0f ? 0.0f : s;
}

/* ln(x) for positive normal x, with an error below 1e-7 of max(1, |ln x|): x = 2^n m with m in
 * [sqrt(1/2), sqrt(2)), and ln m = 2 artanh(s) for s = (m - 1) / (m + 1). */
static inline float pg_logf(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t n = (bits - 0x3f3504f3) >> 23; /* 0x3f3504f3: sqrt(1/2) */
    bits -= n * (1 << 23);
    float m;
    memcpy(&m, &bits, sizeof m);
    float s = (m - 1.0f) / (m + 1.0f), z = s * s;
    float p = 1.0f / 9.0f;
    p = p * z + 1.0f / 7.0f;
    p = p * z + 1.0f / 5.0f;
    p = p * z + 1.0f / 3.0f;
    return (float)n * 0.693147182f + 2.0f * (s + s * z * p);
}

#endif
