/* PG_CLONES in front of a function: compile it once per instruction set and pick at load time. The
 * function must be a plain loop over its arguments (no OpenMP inside: outlined regions would not be
 * cloned). Off under sanitizers, whose run-time is not up when the resolvers run.
 *
 * PG_FMA_CLONES is for kernels that live from multiply-adds; their files are compiled with
 * -ffp-contract=fast (CMakeLists.txt), so that a * b + c is one instruction where there is one. */
#ifndef PG_KERNELS_SIMD_H
#define PG_KERNELS_SIMD_H

#if defined(__x86_64__) && !defined(PG_NO_CLONES)
#define PG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define PG_FMA_CLONES __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define PG_CLONES
#define PG_FMA_CLONES
#endif

#endif
