/* bfloat16: the upper half of a float32. Eight bits of mantissa, rounded to nearest even: a value
 * is off by at most 2^-9 of itself. Processors that multiply such pairs add into float32, so it is
 * the inputs of a product that are rounded, never its sum. */
#ifndef PG_KERNELS_BF16_H
#define PG_KERNELS_BF16_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t pg_bf16;

/* True if the processor multiplies bfloat16 itself and oneDNN knows it (dnnl_compat.c). Elsewhere
 * such products take several times as long as those of floats. */
bool pg_bf16_native(void);

static inline pg_bf16 pg_bf16_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40u; /* rounding up could make it infinite */
    return (pg_bf16)((bits & 0x7fffffffu) > 0x7f800000u ? nan : even);
}

static inline float pg_bf16_widen(pg_bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

#endif
