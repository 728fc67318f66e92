#include "kernels/gemv.h"

#include <omp.h>
#include <string.h>

#include "kernels/simd.h"

/* LANES running sums hide the latency of an addition (4 cycles, 2 per cycle, 8 floats each). */
enum {
    LANES = 64,
    ROWS = 16,
    TOGETHER = 4,  /* rows of the transposed product: that many streams from memory */
    BLOCK = 16384, /* columns of d_x that stay in a second-level cache while the rows stream by */
    SMALL = 32768
};

/* The loops are written once; TYPED compiles them per type of weights and instruction set. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define TYPED(name, parameters, ...)                                                               \
    PG_CLONES static void name##_f32 parameters { name##_of(false, __VA_ARGS__); }                 \
    PG_CLONES static void name##_bf16 parameters { name##_of(true, __VA_ARGS__); }

ALWAYS_INLINE float weight(bool bf16, const void *w, int64_t i) {
    return bf16 ? pg_bf16_widen(((const pg_bf16 *)w)[i]) : ((const float *)w)[i];
}

ALWAYS_INLINE const void *from(bool bf16, const void *w, int64_t i) {
    return (const char *)w + i * (int64_t)(bf16 ? sizeof(pg_bf16) : sizeof(float));
}

ALWAYS_INLINE void dot_rows_of(bool bf16, int64_t first, int64_t last, int64_t cols, const void *w,
                               const float *x, const float *bias, float *y) {
    for (int64_t n = first; n < last; n++) {
        const void *row = from(bf16, w, n * cols);
        float sum[LANES] = {0};
        int64_t k = 0;
        for (; k + LANES <= cols; k += LANES)
            for (int j = 0; j < LANES; j++)
                sum[j] += weight(bf16, row, k + j) * x[k + j];
        for (; k < cols; k++)
            sum[k % LANES] += weight(bf16, row, k) * x[k];
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++)
                sum[j] += sum[j + half];
        y[n] = sum[0] + (bias ? bias[n] : 0.0f);
    }
}

TYPED(dot_rows,
      (int64_t first, int64_t last, int64_t cols, const void *w, const float *x, const float *bias,
       float *y),
      first, last, cols, w, x, bias, y)

void pg_gemv(int64_t rows, int64_t cols, const void *w, bool bf16, const float *x,
             const float *bias, float *y) {
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t n = 0; n < rows; n += ROWS)
        (bf16 ? dot_rows_bf16 : dot_rows_f32)(n, n + ROWS < rows ? n + ROWS : rows, cols, w, x,
                                              bias, y);
}

/* Rows together halve and halve again the traffic on d_x. */
ALWAYS_INLINE void add_rows_of(bool bf16, int64_t count, const float d[TOGETHER],
                               const void *const w[TOGETHER], float *d_x) {
    const void *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3];
    float d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
    for (int64_t k = 0; k < count; k++)
        d_x[k] += (d0 * weight(bf16, w0, k) + d1 * weight(bf16, w1, k)) +
                  (d2 * weight(bf16, w2, k) + d3 * weight(bf16, w3, k));
}

TYPED(add_rows, (int64_t count, const float *d, const void *const *w, float *d_x), count, d, w, d_x)

/* Rows whose d_y is 0 are not read. */
static void transposed_block(int64_t rows, int64_t cols, int64_t first, int64_t count,
                             const void *w, bool bf16, const float *d_y, float *d_x) {
    memset(d_x + first, 0, (size_t)count * sizeof *d_x);
    for (int64_t n = 0; n < rows;) {
        float d[TOGETHER];
        const void *row[TOGETHER];
        int together = 0;
        for (; n < rows && together < TOGETHER; n++)
            if (d_y[n] != 0.0f) {
                d[together] = d_y[n];
                row[together++] = from(bf16, w, n * cols + first);
            }
        if (together == 0)
            break;
        for (int i = together; i < TOGETHER; i++)
            d[i] = 0, row[i] = row[0];
        (bf16 ? add_rows_bf16 : add_rows_f32)(count, d, row, d_x + first);
    }
}

/* Each thread has some columns: long pieces of each row, which memory gives fastest. */
void pg_gemv_transposed(int64_t rows, int64_t cols, const void *w, bool bf16, const float *d_y,
                        float *d_x) {
    int64_t threads = rows * cols > SMALL ? omp_get_max_threads() : 1;
    int64_t blocks = threads * ((cols + threads * BLOCK - 1) / (threads * BLOCK));
    int64_t block = ((cols + blocks - 1) / blocks + LANES - 1) / LANES * LANES;
#pragma omp parallel for schedule(static) if (threads > 1)
    for (int64_t k = 0; k < cols; k += block)
        transposed_block(rows, cols, k, k + block < cols ? block : cols - k, w, bf16, d_y, d_x);
}
