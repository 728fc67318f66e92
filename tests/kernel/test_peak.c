/* The measured peak is an upper bound of what plain C reaches, and gives its memory back. */
#include <criterion/criterion.h>
#include <time.h>

#include "kernels/mem.h"
#include "kernels/peak.h"
#include "kernels/threads.h"

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* other programs do not count */
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* GFLOP/s of one chain of multiply-adds: each waits for the one before. */
static double chain(void) {
    const int count = 20000000;
    volatile float start = 1;
    float value = start;
    uint64_t begin = now();
    for (int i = 0; i < count; i++)
        value = value * 0.999f + 0.5f;
    start = value;
    return 2.0 * count / (double)(now() - begin);
}

Test(peak, is_above_one_chain) {
    pg_peak peak;
    pg_diag diag;
    pg_threads_set(1);
    uint64_t live = pg_mem_get_stats().live_blocks;
    cr_assert_eq(pg_peak_measure(now, &peak, &diag), PG_OK);
    cr_assert_eq(pg_mem_get_stats().live_blocks, live);
    /* vectors of four and several chains at least: 1.5 leaves room for a noisy machine and
     * sanitizers */
    cr_assert_gt(peak.f32_gflops, 1.5 * chain());
    cr_assert_lt(peak.f32_gflops,
                 1000); /* 2 units x 16 lanes x 2 at 15 GHz: a wrong count of operations */
    cr_assert_gt(peak.read_gbs, 0.1);
    cr_assert_lt(peak.read_gbs, 1000);
#if defined(__x86_64__)
    cr_assert_eq(peak.bf16_gflops > 0, __builtin_cpu_supports("avx512bf16") != 0);
#else
    cr_assert_eq(peak.bf16_gflops, 0);
#endif
}

Test(peak, says_when_memory_runs_out) {
    pg_peak peak;
    pg_diag diag;
    pg_mem_fail(0, -1);
    cr_assert_eq(pg_peak_measure(now, &peak, &diag), PG_ENOMEM);
    pg_mem_fail(0, 0);
}
