/* The machine's peak. Arithmetic: as many independent chains of multiply-adds as registers allow,
 * so that neither memory nor the latency of one chain limits it; what comes out is what the units
 * can issue at the clock they hold under such load. Memory: one sum over more bytes than a core's
 * own caches hold. (A virtual machine may see a last-level cache larger than that; then it is that
 * cache's bandwidth, and the network's weights enjoy the same.)
 *
 * A preempted burst is a slow one, so the best of many short bursts counts. */
#include "kernels/peak.h"

#include <omp.h>
#include <stddef.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BURSTS = 16, READ_BURSTS = 4, ROUNDS = 200000, READ_BYTES = 256 << 20 };

/* One kind of arithmetic: `run` does `rounds` times `flops` operations, and returns something that
 * depends on all of them. */
typedef struct pg_burst {
    double flops;
    float (*run)(int64_t rounds, float start);
} pg_burst;

#if defined(__x86_64__)
/* CHAINS accumulators of LANES values; STEP advances one of them by an operation of OPS flops per
 * lane. The factor is below 1: values stay normal numbers. */
#define UNROLLED _Pragma("GCC unroll 24") /* else the accumulators are an array in memory */
#define BURST(name, isa, vector, lanes, chains, ops, set1, step)                                   \
    enum { name##_flops = (lanes) * (chains) * (ops) };                                            \
    __attribute__((target(isa))) static float name(int64_t rounds, float start) {                  \
        vector a[chains], factor = set1(0.999f), addend = set1(start);                             \
        UNROLLED for (int i = 0; i < (chains); i++) a[i] = set1(start + (float)i);                 \
        for (int64_t r = 0; r < rounds; r++)                                                       \
            UNROLLED for (int i = 0; i < (chains); i++) a[i] = step(a[i], factor, addend);         \
        UNROLLED for (int i = 1; i < (chains); i++) a[0] += a[i];                                  \
        return a[0][0];                                                                            \
    }
#define SSE_STEP(a, factor, addend) _mm_add_ps(_mm_mul_ps(a, factor), addend)
/* Operands are bit patterns here; 0.999f twice is a pair of bfloat16 of about 1 and some rounding.
 */
#define BF16_STEP(a, factor, addend) _mm512_dpbf16_ps(a, (__m512bh)(factor), (__m512bh)(addend))
BURST(sse, "sse2", __m128, 4, 12, 2, _mm_set1_ps, SSE_STEP)
BURST(fma256, "avx2,fma", __m256, 8, 12, 2, _mm256_set1_ps, _mm256_fmadd_ps)
BURST(fma512, "avx512f", __m512, 16, 24, 2, _mm512_set1_ps, _mm512_fmadd_ps)
BURST(dot512, "avx512f,avx512bf16", __m512, 16, 24, 4, _mm512_set1_ps, BF16_STEP)

static pg_burst widest_f32(void) {
    if (__builtin_cpu_supports("avx512f"))
        return (pg_burst){fma512_flops, fma512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (pg_burst){fma256_flops, fma256};
    return (pg_burst){sse_flops, sse};
}

static pg_burst widest_bf16(void) {
    return __builtin_cpu_supports("avx512bf16") ? (pg_burst){dot512_flops, dot512} : (pg_burst){0};
}
#else
static float plain(int64_t rounds, float start) {
    float a[16];
    for (int i = 0; i < 16; i++)
        a[i] = start + (float)i;
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < 16; i++)
            a[i] = a[i] * 0.999f + start;
    for (int i = 1; i < 16; i++)
        a[0] += a[i];
    return a[0];
}

static pg_burst widest_f32(void) { return (pg_burst){32, plain}; }
static pg_burst widest_bf16(void) { return (pg_burst){0}; }
#endif

/* Every thread finds its own best, all at the same time. */
static double gflops(pg_burst burst, uint64_t (*now_ns)(void)) {
    double total = 0, sink = 0;
    if (burst.run == NULL)
        return 0;
#pragma omp parallel reduction(+ : total, sink)
    {
        double best = 0;
        for (int i = 0; i < BURSTS; i++) {
            uint64_t begin = now_ns();
            sink += (double)burst.run(ROUNDS, (float)i * 0.01f);
            double rate = burst.flops * ROUNDS / (double)(now_ns() - begin);
            best = rate > best ? rate : best;
        }
        total += best;
    }
    volatile double used = sink; /* else the compiler may skip the work */
    (void)used;
    return total;
}

PG_CLONES static uint64_t sum(int64_t count, const uint64_t *src) {
    uint64_t total = 0;
    for (int64_t i = 0; i < count; i++)
        total += src[i];
    return total;
}

static double read_gbs(const uint64_t *src, uint64_t (*now_ns)(void)) {
    const int64_t count = READ_BYTES / (int64_t)sizeof *src;
    double total = 0;
    uint64_t sink = 0;
#pragma omp parallel reduction(+ : total, sink)
    {
        int64_t mine = count / omp_get_num_threads();
        const uint64_t *from = src + mine * omp_get_thread_num();
        double best = 0;
        for (int i = 0; i < READ_BURSTS; i++) {
            uint64_t begin = now_ns();
            sink += sum(mine, from);
            double rate = (double)mine * (double)sizeof *src / (double)(now_ns() - begin);
            best = rate > best ? rate : best;
        }
        total += best;
    }
    volatile uint64_t used = sink;
    (void)used;
    return total;
}

pg_err pg_peak_measure(uint64_t (*now_ns)(void), pg_peak *out, pg_diag *diag) {
    uint64_t *memory = pg_malloc(READ_BYTES);
    if (memory == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory to measure its bandwidth");
    memset(memory, 1, READ_BYTES); /* pages exist from now on, each its own */
    *out = (pg_peak){.f32_gflops = gflops(widest_f32(), now_ns),
                     .bf16_gflops = gflops(widest_bf16(), now_ns),
                     .read_gbs = read_gbs(memory, now_ns)};
    pg_free(memory);
    return PG_OK;
}
