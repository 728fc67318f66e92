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

static inline float pg_sigmoidf(float x) { return 1.0f / (1.0f + pg_expf(-x)); }

#endif
